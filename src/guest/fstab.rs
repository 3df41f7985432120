//! fstab(5): what is mounted where.

use super::text::{lines, lossy, words};
use serde::{Deserialize, Serialize};

/// Lines that are read. People have some dozens.
const MAX_ENTRIES: usize = 4096;

/// A line of /etc/fstab.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FstabEntry {
    /// Counted from 1.
    pub line: u32,
    /// "UUID=…", "/dev/sda1", with its escapes as in the file.
    pub spec: String,
    /// "/home", "none".
    pub mount_point: String,
    /// "ext4".
    pub kind: String,
    /// "defaults,noatime".
    pub options: String,
    /// The volume that it names, where one of the given disks has it.
    pub volume: Option<String>,
}

impl FstabEntry {
    /// Is it swap space, which has no mount point?
    pub fn is_swap(&self) -> bool {
        self.kind == "swap"
    }

    /// Does the system start without it?
    pub fn may_be_absent(&self) -> bool {
        self.options
            .split(',')
            .any(|option| matches!(option, "nofail" | "noauto"))
    }

    /// Is its first field a device, and not the name of something that the kernel makes (`proc`, `tmpfs`), a folder
    /// that is bound elsewhere, or another machine?
    pub fn names_a_device(&self) -> bool {
        let device = self.spec.starts_with("/dev/")
            || ["UUID", "LABEL", "PARTUUID", "PARTLABEL", "ID"]
                .iter()
                .any(|tag| {
                    self.spec
                        .strip_prefix(tag)
                        .is_some_and(|rest| rest.starts_with('='))
                });
        let bound = self
            .options
            .split(',')
            .any(|option| matches!(option, "bind" | "rbind"));
        device && !bound
    }
}

/// Reads fstab(5). Lines without a mount point are passed over, a missing kind is "auto". What comes after 4096 entries
/// is left out.
pub fn parse(contents: &[u8]) -> Vec<FstabEntry> {
    lines(contents)
        .filter_map(|(line, text)| entry(line, text))
        .take(MAX_ENTRIES)
        .collect()
}

fn entry(line: u32, text: &[u8]) -> Option<FstabEntry> {
    let mut fields = words(text).map(|(_, word)| word);
    let spec = fields.next().filter(|spec| !spec.starts_with(b"#"))?;
    let mount_point = fields.next()?;
    Some(FstabEntry {
        line,
        spec: lossy(spec),
        mount_point: lossy(mount_point),
        kind: fields.next().map_or_else(|| "auto".into(), lossy),
        options: fields.next().map_or_else(|| "defaults".into(), lossy),
        volume: None,
    })
}

/// A field without its escapes: `\040` is a blank, and so on in octal (getmntent(3)).
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(escaped) => {
                plain.push(escaped);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(*byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_escapes_and_comments() {
        let entries = parse(
            b"# /etc/fstab\nUUID=ab / ext4 errors=remount-ro 0 1\n\t#x y\n\n/dev/sda5\tnone\tswap\tsw\t0\t0\r\n\
              /dev/sdb1 /srv/my\\040data xfs\nbroken\ntmpfs /tmp tmpfs size=1g\n/home /srv/home none bind 0 0",
        );
        let lines: Vec<_> = entries.iter().map(|e| e.line).collect();
        assert_eq!(lines, [2, 5, 6, 8, 9]);
        assert!(entries[1].is_swap() && entries[1].names_a_device());
        assert_eq!(entries[2].options, "defaults");
        assert_eq!(unescape(entries[2].mount_point.as_bytes()), b"/srv/my data");
        assert!(!entries[3].names_a_device() && !entries[4].names_a_device());
        assert_eq!(unescape(b"\\134\\04x\\"), b"\\\\04x\\");
        assert_eq!(unescape(b"\\777"), b"\\777");
    }
}
