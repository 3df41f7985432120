//! Reading a guest's configuration: what cannot be read becomes a remark, never an end of the inspection.

use crate::fs::{GuestPath, Mounts, Result, mounts::Found};
use std::cell::RefCell;

/// Bytes of a configuration file. The largest that are written (grub.cfg with many kernels) have some hundred KiB.
pub(crate) const MAX_CONFIG: u64 = 2 << 20;
/// Remarks that are kept: a hostile guest could earn one with every file.
const MAX_REMARKS: usize = 200;
/// Files that a folder or a pattern with wildcards may give.
const MAX_MATCHES: usize = 1024;
/// Names that a pattern with wildcards is held against.
const MAX_LOOKS: usize = 200_000;

/// A guest's files, and what there was to say about them.
pub(crate) struct Files<'a> {
    pub(crate) mounts: &'a Mounts,
    remarks: RefCell<Vec<String>>,
}

impl<'a> Files<'a> {
    pub(crate) fn new(mounts: &'a Mounts) -> Self {
        Self {
            mounts,
            remarks: RefCell::default(),
        }
    }

    /// Once is enough for the same remark.
    pub(crate) fn remark(&self, text: impl Into<String>) {
        let (mut remarks, text) = (self.remarks.borrow_mut(), text.into());
        if remarks.len() < MAX_REMARKS && !remarks.contains(&text) {
            remarks.push(text);
        }
    }

    pub(crate) fn into_remarks(self) -> Vec<String> {
        self.remarks.into_inner()
    }

    /// A configuration file; `None` if it is not there or cannot be read.
    pub(crate) fn config(&self, path: &GuestPath) -> Option<Vec<u8>> {
        self.kept(path, self.mounts.read(path, MAX_CONFIG))
    }

    pub(crate) fn find(&self, path: &GuestPath) -> Option<Found> {
        self.kept(path, self.mounts.find(path))
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.find(&path.into()).is_some()
    }

    /// The names in a folder, sorted; none if there is no folder.
    pub(crate) fn names(&self, path: &GuestPath) -> Vec<Vec<u8>> {
        self.kept(path, self.mounts.list(path)).unwrap_or_default()
    }

    /// The paths in a folder whose names end so, sorted.
    pub(crate) fn with_suffix(&self, directory: &str, suffix: &[u8]) -> Vec<GuestPath> {
        let directory = GuestPath::from(directory);
        let names = self.names(&directory);
        let matching = names
            .iter()
            .filter(|name| name.ends_with(suffix) && !name.starts_with(b"."));
        matching
            .take(MAX_MATCHES)
            .map(|name| directory.join(name))
            .collect()
    }

    /// The paths that a pattern with `*`, `?` and `[…]` names, sorted; wildcards do not match a leading dot.
    pub(crate) fn matching(&self, pattern: &GuestPath) -> Vec<GuestPath> {
        let mut paths = vec![GuestPath::from("/")];
        let mut looks = 0_usize;
        for component in pattern.components() {
            if !has_wildcards(component) {
                paths = paths.iter().map(|path| path.join(component)).collect();
                continue;
            }
            let mut next = Vec::new();
            for path in &paths {
                if looks > MAX_LOOKS {
                    break;
                }
                let names = self.names(path);
                looks = looks.saturating_add(names.len()).saturating_add(1);
                for name in names {
                    if !name.starts_with(b".") && matches(component, &name) && next.len() < MAX_MATCHES {
                        next.push(path.join(&name));
                    }
                }
            }
            paths = next;
        }
        paths.retain(|path| self.find(path).is_some());
        paths
    }

    fn kept<T>(&self, path: &GuestPath, result: Result<Option<T>>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.remark(format!("{path} could not be read: {error}"));
            None
        })
    }
}

pub(crate) fn has_wildcards(pattern: &[u8]) -> bool {
    pattern.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// glob(7) for one component. Goes back to the last star only, so it takes at most `pattern × name` steps.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0_usize, 0_usize);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let rest = pattern.get(p..).unwrap_or_default();
        let byte = name.get(n).copied();
        match (rest.first(), byte) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                star = Some((p, n));
                p = p.saturating_add(1);
                continue;
            }
            (Some(first), Some(byte)) => {
                let (length, fits) = match (first, class(rest)) {
                    (b'[', Some((length, set, negated))) => (length, in_set(set, byte) != negated),
                    (b'?', _) => (1, true),
                    (first, _) => (1, *first == byte),
                };
                if fits {
                    p = p.saturating_add(length);
                    n = n.saturating_add(1);
                    continue;
                }
            }
            _ => {}
        }
        match star {
            // Let the star take one byte more.
            Some((at, taken)) if taken < name.len() => {
                star = Some((at, taken.saturating_add(1)));
                p = at.saturating_add(1);
                n = taken.saturating_add(1);
            }
            _ => return false,
        }
    }
}

/// The length of the class that `pattern` begins with, what is in it, and whether it is negated.
fn class(pattern: &[u8]) -> Option<(usize, &[u8], bool)> {
    let inside = pattern.strip_prefix(b"[")?;
    let negated = matches!(inside.first(), Some(b'!' | b'^'));
    let skip = usize::from(negated);
    // A bracket right at the start is a member.
    let end = inside
        .iter()
        .enumerate()
        .skip(skip.saturating_add(1))
        .find(|(_, byte)| **byte == b']')?
        .0;
    Some((end.checked_add(2)?, inside.get(skip..end)?, negated))
}

fn in_set(set: &[u8], byte: u8) -> bool {
    let ranges = set
        .windows(3)
        .any(|range| matches!(range, [low, b'-', high] if *low <= byte && byte <= *high));
    ranges || set.contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::memory_tree::MemoryTree;

    #[test]
    fn wildcards() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("en*", "enp2s0", true),
            ("e*s?", "enp2s0", true),
            ("e*s?", "enp2s10", false),
            ("eth[0-2]", "eth1", true),
            ("eth[!0-2]", "eth1", false),
            ("[]x]", "]", true),
            ("a[", "a[", true),
            ("**a*b", "xxaxxbxb", true),
            ("", "a", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
        let (pattern, name) = ("*a".repeat(2000), "a".repeat(1900));
        assert!(!matches(pattern.as_bytes(), name.as_bytes()));
    }

    #[test]
    fn paths_that_match() {
        let tree = MemoryTree::new("ext4", "u")
            .file("/etc/a.d/1.conf", "")
            .file("/etc/a.d/.hidden.conf", "")
            .file("/etc/b.d/2.conf", "")
            .directory_loop("/etc/c.d");
        let mut mounts = Mounts::new(vec![("v".into(), Box::new(tree))]);
        mounts.mount(&"/".into(), 0).unwrap();
        let files = Files::new(&mounts);
        assert_eq!(
            files.matching(&"/etc/*.d/*.conf".into()),
            ["/etc/a.d/1.conf".into(), "/etc/b.d/2.conf".into()]
        );
        assert_eq!(files.matching(&"/etc/a.d/1.conf".into()).len(), 1);
        let deep = format!("/etc/c.d{}", "/*".repeat(500));
        assert_eq!(files.matching(&deep.as_str().into()).len(), 1);
        assert_eq!(files.config(&"/etc".into()), None);
        assert!(files.into_remarks()[0].contains("/etc"));
    }
}
