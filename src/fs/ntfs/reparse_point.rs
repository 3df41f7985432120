//! Reparse points: links, and files whose contents a filter of Windows makes ([MS-FSCC] 2.1.2).

use super::{
    error::{NtfsError, Parsed},
    name,
};
use crate::disk::field::{bytes_at, put_u16_le, put_u32_le, u16_le, u32_le};

/// As much as Windows takes (`MAXIMUM_REPARSE_DATA_BUFFER_SIZE`).
pub(super) const MOST_BYTES: u64 = 16384;

/// Tags ([MS-FSCC] 2.1.2.1).
pub(super) mod tag {
    pub(crate) const MOUNT_POINT: u32 = 0xa000_0003;
    pub(crate) const SYMLINK: u32 = 0xa000_000c;
    /// A link of the Windows Subsystem for Linux.
    pub(crate) const LX_SYMLINK: u32 = 0xa000_001d;
    /// Compressed by the Windows Overlay Filter.
    pub(crate) const WOF: u32 = 0x8000_0017;
    pub(crate) const SINGLE_INSTANCE: u32 = 0x8000_0007;
    pub(crate) const WIM: u32 = 0x8000_0008;
    pub(crate) const DEDUPLICATED: u32 = 0x8000_0013;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReparsePoint {
    pub(super) tag: u32,
    pub(super) data: Vec<u8>,
}

impl ReparsePoint {
    pub(super) fn parse(raw: &[u8]) -> Parsed<Self> {
        let tag = u32_le(raw, 0)?;
        let length = usize::from(u16_le(raw, 4)?);
        // Tags that are not Microsoft's have a GUID before their data.
        let at = if tag & 0x8000_0000 == 0 { 24 } else { 8 };
        Ok(Self {
            tag,
            data: bytes_at(raw, at, length)?.to_vec(),
        })
    }

    pub(super) fn encode(&self) -> Parsed<Vec<u8>> {
        let mut raw = vec![0; 8];
        put_u32_le(&mut raw, 0, self.tag)?;
        put_u16_le(&mut raw, 4, u16::try_from(self.data.len()).unwrap_or(u16::MAX))?;
        raw.extend_from_slice(&self.data);
        Ok(raw)
    }

    /// Where a link points, with slashes, and without what marks a path of the kernel: "C:/Users", "../a",
    /// "Volume{…}/". `None` if it is no link.
    pub(super) fn target(&self) -> Parsed<Option<Vec<u8>>> {
        let names = match self.tag {
            tag::MOUNT_POINT => 8,
            tag::SYMLINK => 12,
            tag::LX_SYMLINK => return Ok(Some(self.data.get(4..).unwrap_or_default().to_vec())),
            _ => return Ok(None),
        };
        let text = |at: usize| -> Parsed<Vec<u8>> {
            let start = usize::from(u16_le(&self.data, at)?);
            let length = usize::from(u16_le(&self.data, at + 2)?);
            let raw = bytes_at(&self.data, names + start, length)?;
            Ok(name::to_bytes(name::units(raw).take_while(|unit| *unit != 0)))
        };
        let substitute = text(0)?;
        let target = if substitute.is_empty() {
            text(4)?
        } else {
            substitute
        };
        let target = target.strip_prefix(KERNEL).unwrap_or(&target);
        let slash = |byte: &u8| if *byte == b'\\' { b'/' } else { *byte };
        Ok(Some(target.iter().map(slash).collect()))
    }

    /// A symbolic link, or a mount point with a new target, which must be absolute. Text with a drive ("C:/…") or of a
    /// volume ("Volume{…}/…") is absolute.
    pub(super) fn link(tag: u32, target: &[u8]) -> Parsed<Self> {
        let refuse = |why: &str| {
            NtfsError::Unsupported(format!(
                "\"{}\" is no target for a link of Windows: {why}",
                target.escape_ascii()
            ))
        };
        if target.is_empty() || target.contains(&0) {
            return Err(refuse("it is empty or has zero bytes"));
        }
        let text: Vec<u8> = target
            .iter()
            .map(|byte| if *byte == b'/' { b'\\' } else { *byte })
            .collect();
        let drive = matches!(text.as_slice(), [letter, b':', ..] if letter.is_ascii_alphabetic());
        let absolute = drive || text.starts_with(b"Volume{") || text.starts_with(b"UNC\\");
        let shown = name::from_bytes(&text).ok_or_else(|| refuse("it is not UTF-8"))?;
        let mut substitute = Vec::new();
        if absolute {
            substitute.extend(KERNEL.iter().map(|byte| u16::from(*byte)));
        }
        substitute.extend_from_slice(&shown);
        let (substitute, shown) = (name::to_disk(&substitute), name::to_disk(&shown));
        let mut data = match tag {
            tag::MOUNT_POINT if absolute => vec![0; 8],
            tag::MOUNT_POINT => return Err(refuse("a mount point needs a drive or a volume")),
            _ => vec![0; 12],
        };
        // Windows ends both with a zero in mount points only.
        let end = if tag == tag::MOUNT_POINT { 2 } else { 0 };
        let short = |value: usize| u16::try_from(value).map_err(|_| refuse("it is too long"));
        put_u16_le(&mut data, 2, short(substitute.len())?)?;
        put_u16_le(&mut data, 4, short(substitute.len() + end)?)?;
        put_u16_le(&mut data, 6, short(shown.len())?)?;
        if tag == tag::SYMLINK {
            put_u32_le(&mut data, 8, u32::from(!absolute))?;
        }
        for name in [substitute, shown] {
            data.extend_from_slice(&name);
            data.extend(std::iter::repeat_n(0, end));
        }
        if data.len() as u64 + 8 > MOST_BYTES {
            return Err(refuse("it is too long"));
        }
        Ok(Self { tag, data })
    }

    /// How a file of the Windows Overlay Filter is compressed.
    pub(super) fn overlay(&self) -> Parsed<Overlay> {
        let version = u32_le(&self.data, 0)?;
        let provider = u32_le(&self.data, 4)?;
        match (version, provider) {
            (1, 1) => Ok(Overlay::Image),
            (1, 2) => Ok(Overlay::File(u32_le(&self.data, 12)?)),
            _ => Err(NtfsError::Unsupported(format!(
                "is compressed by version {version}, provider {provider} of the Windows Overlay Filter, which is not \
                 known; `compact /u /exe` on it in Windows writes it as a plain file"
            ))),
        }
    }

    /// Why the contents of a file with this are not on the volume, and the cure. `offline`: its attributes say that they
    /// have to be fetched.
    pub(super) fn contents_elsewhere(&self, offline: bool) -> Option<String> {
        Some(match self.tag {
            tag::DEDUPLICATED => {
                "its contents are in the store of Data Deduplication; `Start-DedupJob -Type \
                                  Unoptimization` in Windows writes them back"
                    .to_owned()
            }
            tag::SINGLE_INSTANCE => {
                "its contents are in the store of Single Instance Storage; copy it aside in \
                                     Windows and move the copy back"
                    .to_owned()
            }
            tag::WIM => "its contents are in a mounted Windows image".to_owned(),
            // OneDrive, Azure File Sync, projected files, containers, tapes.
            other if offline => format!(
                "its contents are not on this disk (reparse tag {other:#010x}); have them fetched in Windows (for \
                 OneDrive: \"Always keep on this device\")"
            ),
            _ => return None,
        })
    }
}

/// What the object manager's paths begin with.
const KERNEL: &[u8] = b"\\??\\";

/// Where the contents of a file of the Windows Overlay Filter are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlay {
    /// In a Windows image elsewhere (WIMBoot).
    Image,
    /// In a stream of the file, with the algorithm of that number.
    File(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(point: &ReparsePoint) -> String {
        String::from_utf8(point.target().unwrap().unwrap()).unwrap()
    }

    #[test]
    fn links_point_where_they_were_made_to() {
        for (tag, text) in [
            (tag::SYMLINK, "../a/b c"),
            (tag::SYMLINK, "C:/Windows"),
            (tag::SYMLINK, "/rooted"),
            (tag::MOUNT_POINT, "C:/Users"),
            (tag::MOUNT_POINT, "Volume{0d2f6c0b-6c5e-4a57-9f0f-7d1f3a8e21b1}/"),
        ] {
            let point = ReparsePoint::link(tag, text.as_bytes()).unwrap();
            let read = ReparsePoint::parse(&point.encode().unwrap()).unwrap();
            assert_eq!(target(&read), text);
        }
        assert!(ReparsePoint::link(tag::MOUNT_POINT, b"relative").is_err());
        assert!(ReparsePoint::link(tag::SYMLINK, b"").is_err());
        assert!(ReparsePoint::link(tag::SYMLINK, &[b'a'; 9000]).is_err());
    }

    #[test]
    fn a_link_of_the_subsystem_for_linux_is_bytes() {
        let point = ReparsePoint {
            tag: tag::LX_SYMLINK,
            data: b"\x02\0\0\0/etc/a\\b".to_vec(),
        };
        assert_eq!(target(&point), "/etc/a\\b");
    }

    #[test]
    fn names_outside_of_the_data_are_refused() {
        let mut point = ReparsePoint::link(tag::SYMLINK, b"abc").unwrap();
        put_u16_le(&mut point.data, 2, 500).unwrap();
        assert!(point.target().is_err());
        assert!(ReparsePoint::parse(&[3, 0, 0, 0xa0, 9, 0, 0, 0, 1]).is_err());
    }
}
