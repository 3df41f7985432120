//! Where the footers of a file are, and which of them counts.

use super::{
    flaw::Flaw,
    footer::{COOKIE, DiskType, Footer, LENGTH, OLD_LENGTH},
};
use crate::disk::{Disk, Result};

/// The footers of a VHD. The last one is the one that counts; the first is its copy, and stands in where the last is
/// gone or damaged. (qemu looks at the copy alone; but what a guest's disk begins with may look like a copy, and only
/// the program that made the file could write its end.)
#[derive(Clone, Debug)]
pub(super) struct Footers {
    /// The one that counts.
    pub(super) footer: Footer,
    /// Where the last one begins, if it is whole.
    pub(super) last: Option<u64>,
    /// What is wrong with them, one sentence each.
    pub(super) flaws: Vec<String>,
}

impl Footers {
    /// Finds them.
    pub(super) fn find(container: &dyn Disk) -> Result<Self> {
        let size = container.size();
        let first = read(container, 0, LENGTH)?.map(|bytes| Footer::parse(&bytes));
        let mut last = None;
        for length in [LENGTH, OLD_LENGTH] {
            let Some(at) = size.checked_sub(length as u64) else {
                continue;
            };
            if let Some(bytes) = read(container, at, length)? {
                last = Some((at, Footer::parse(&bytes)));
                break;
            }
        }
        let of = |flaw: Flaw, at: u64| Err(flaw.of(container.label()).at(at));
        let (footer, last, flaws) = match (first, last) {
            (first, Some((at, Ok(footer)))) => {
                let flaws = disagreement(first, &footer).into_iter().collect();
                (footer, Some(at), flaws)
            }
            (Some(Ok(footer)), _) if footer.disk_type == DiskType::Fixed => {
                return of(Flaw::FixedAtStart, 0);
            }
            (Some(Ok(footer)), last) => {
                let state = if last.is_some() { "damaged" } else { "gone" };
                let text = format!(
                    "the footer at the end is {state}; its copy at the beginning is used. `qemu-img convert -f vpc` \
                     makes a whole image"
                );
                (footer, None, vec![text])
            }
            (_, Some((at, Err(flaw)))) => return of(flaw, at),
            (Some(Err(flaw)), None) => return of(flaw, 0),
            (None, None) => return of(Flaw::NoFooter, 0),
        };
        Ok(Self { footer, last, flaws })
    }
}

/// The bytes of a footer, if there begins one.
fn read(container: &dyn Disk, at: u64, length: usize) -> Result<Option<Vec<u8>>> {
    if at.saturating_add(length as u64) > container.size() {
        return Ok(None);
    }
    let mut bytes = vec![0; length];
    container.read_at(at, &mut bytes)?;
    Ok(bytes.starts_with(COOKIE).then_some(bytes))
}

/// What is wrong with the copy, if there should be one.
fn disagreement(copy: Option<std::result::Result<Footer, Flaw>>, footer: &Footer) -> Option<String> {
    if footer.disk_type == DiskType::Fixed {
        return None;
    }
    let what = match copy {
        None => "gone",
        Some(Err(_)) => "damaged",
        Some(Ok(copy)) if copy == *footer => return None,
        Some(Ok(_)) => "another footer",
    };
    Some(format!("the copy of the footer at the beginning is {what}"))
}

/// What the last sector says a file is. A raw disk may end like a VHD by its guest's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Ending {
    /// No footer, or none that is whole.
    Nothing,
    /// The footer of a fixed disk of just the size that lies before it. Believing it costs a lying guest its own last
    /// sector, and opens no other file.
    Fixed,
    /// A footer that does not fit the file: that of a dynamic disk without its beginning, or of another size.
    Unfitting,
}

/// Looks at the end of `container`.
pub(in super::super) fn ending(container: &dyn Disk) -> Result<Ending> {
    for length in [LENGTH, OLD_LENGTH] {
        let Some(at) = container.size().checked_sub(length as u64) else {
            continue;
        };
        let Some(bytes) = read(container, at, length)? else {
            continue;
        };
        return Ok(match Footer::parse(&bytes) {
            Err(_) => Ending::Nothing,
            Ok(footer) if footer.disk_type == DiskType::Fixed && footer.current_size == at => Ending::Fixed,
            Ok(_) => Ending::Unfitting,
        });
    }
    Ok(Ending::Nothing)
}
