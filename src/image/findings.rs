//! What a check finds, as it is gathered: lists that end.

use super::Check;

/// More findings of an image tell nobody anything.
const MOST_FINDINGS: usize = 100;

/// Gathers a [`Check`].
#[derive(Debug, Default)]
pub(super) struct Findings {
    check: Check,
    more_errors: usize,
    more_leaks: usize,
}

impl Findings {
    /// Something contradicts the format or loses data.
    pub(super) fn error(&mut self, text: impl FnOnce() -> String) {
        if self.check.errors.len() < MOST_FINDINGS {
            self.check.errors.push(text());
        } else {
            self.more_errors = self.more_errors.saturating_add(1);
        }
    }

    /// Nothing refers to `bytes` bytes.
    pub(super) fn leak(&mut self, bytes: u64, text: impl FnOnce() -> String) {
        self.check.leaked = self.check.leaked.saturating_add(bytes);
        if self.check.leaks.len() < MOST_FINDINGS {
            self.check.leaks.push(text());
        } else {
            self.more_leaks = self.more_leaks.saturating_add(1);
        }
    }

    /// All that was found; a list that was too long ends with a count.
    pub(super) fn into_check(mut self) -> Check {
        if self.more_errors > 0 {
            self.check
                .errors
                .push(format!("{} more errors", self.more_errors));
        }
        if self.more_leaks > 0 {
            self.check.leaks.push(format!("{} more leaks", self.more_leaks));
        }
        self.check
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_end_with_a_count() {
        let mut findings = Findings::default();
        for number in 0..105 {
            findings.error(|| format!("error {number}"));
            findings.leak(2, || format!("leak {number}"));
        }
        let check = findings.into_check();
        assert_eq!(
            (check.errors.len(), check.leaks.len(), check.leaked),
            (101, 101, 210)
        );
        assert_eq!(check.errors.last().unwrap(), "5 more errors");
        assert_eq!(check.leaks.last().unwrap(), "5 more leaks");
    }
}
