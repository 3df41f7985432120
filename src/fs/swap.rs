//! Swap areas (`mkswap(8)`; the header is `union swap_header` of the kernel's `include/linux/swap.h`): who they are,
//! whether a hibernated system sleeps in them, and that nothing else in them is worth copying.

use super::{Identity, Result};
use crate::disk::{
    self, Disk,
    field::{Truncated, array_at, bytes_at, u32_be, u32_le},
};
use std::{ops::Range, sync::Arc};

/// A swap area.
#[derive(Clone, Debug)]
pub struct Swap {
    identity: Identity,
    hibernated: Option<&'static str>,
    free: Range<u64>,
}

/// Page sizes that Linux has had, in bytes; the signature is in the last ten bytes of the first page.
const PAGE_SIZES: [usize; 5] = [4096, 8192, 16384, 32768, LARGEST_START];
/// What [`Swap::parse`] wants to see: the largest page, in bytes.
pub const LARGEST_START: usize = 65536;
/// Bytes from the signature to the end of the page.
const SIGNATURE: usize = 10;
const VERSION_1: &[u8] = b"SWAPSPACE2";
const VERSION_0: &[u8] = b"SWAP-SPACE";
/// What a sleeping system leaves in the place of the signature, and who does.
const HIBERNATED: [(&[u8], &str); 5] = [
    (b"S1SUSPEND\0", "the kernel's hibernation (S1SUSPEND)"),
    (b"S2SUSPEND\0", "the kernel's hibernation (S2SUSPEND)"),
    (b"ULSUSPEND\0", "uswsusp (ULSUSPEND)"),
    (b"LINHIB0001", "hibernation (LINHIB0001)"),
    (b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c", "TuxOnIce"),
];
/// Offset of the fields of version 1 in the page.
const FIELDS: usize = 1024;

impl Swap {
    /// Looks for a swap area on `disk`; `None` if there is none. Reads only.
    ///
    /// # Errors
    /// Those of reading.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Option<Self>> {
        let length = disk.size().min(LARGEST_START as u64);
        let mut start = vec![0; usize::try_from(length).unwrap_or(0)];
        disk.read_at(0, &mut start)?;
        Self::parse(&start, disk.size())
            .map_err(|error| disk::Error::new(disk::Kind::Corrupt, disk.label(), error).at(0))
    }

    /// Looks for a swap area of `size` bytes that begins with `start`, which is [`LARGEST_START`] bytes long, or all of it.
    ///
    /// # Errors
    /// A header that is cut short.
    pub fn parse(start: &[u8], size: u64) -> std::result::Result<Option<Self>, Truncated> {
        for page_size in PAGE_SIZES {
            let Some(page) = start.get(..page_size) else {
                break;
            };
            let signature = bytes_at(page, page_size.saturating_sub(SIGNATURE), SIGNATURE)?;
            let hibernated = HIBERNATED.iter().find(|(magic, _)| signature.starts_with(magic));
            let version_1 = signature == VERSION_1 || hibernated.is_some();
            if !version_1 && signature != VERSION_0 {
                continue;
            }
            let fields = if version_1 { Fields::parse(page)? } else { None };
            let fields = fields.unwrap_or_default();
            let page_size = page_size as u64;
            let end = fields.pages.saturating_mul(page_size).min(size);
            let free = if hibernated.is_some() {
                0..0
            } else {
                page_size..end.max(page_size)
            };
            return Ok(Some(Self {
                identity: Identity {
                    kind: "swap".into(),
                    uuid: fields.uuid,
                    label: fields.label,
                },
                hibernated: hibernated.map(|(_, who)| *who),
                free,
            }));
        }
        Ok(None)
    }

    /// How it is named from outside; kind "swap".
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// A system sleeps here, put to sleep by the one that is named: it must be woken and shut down before it is
    /// moved, or its filesystems, which it believes to know, are lost.
    pub fn hibernated(&self) -> Option<&'static str> {
        self.hibernated
    }

    /// Bytes of the volume that need not be copied: all but the header, and nothing if a system sleeps here.
    pub fn free(&self) -> Option<Range<u64>> {
        Some(self.free.clone()).filter(|free| !free.is_empty())
    }
}

/// What the header of version 1 says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Fields {
    /// The header's among them.
    pages: u64,
    uuid: Option<String>,
    label: Option<String>,
}

impl Fields {
    /// `None`: no version that is known.
    fn parse(page: &[u8]) -> std::result::Result<Option<Self>, Truncated> {
        // Written in the byte order of the machine that made it.
        let last_page = match (u32_le(page, FIELDS)?, u32_be(page, FIELDS)?) {
            (1, _) => u32_le(page, FIELDS + 4)?,
            (_, 1) => u32_be(page, FIELDS + 4)?,
            _ => return Ok(None),
        };
        let uuid: [u8; 16] = array_at(page, FIELDS + 12)?;
        let label = bytes_at(page, FIELDS + 28, 16)?;
        let label: Vec<u8> = label.iter().copied().take_while(|byte| *byte != 0).collect();
        Ok(Some(Self {
            pages: u64::from(last_page) + 1,
            uuid: (uuid != [0; 16]).then(|| uuid::Uuid::from_bytes(uuid).to_string()),
            label: (!label.is_empty()).then(|| String::from_utf8_lossy(&label).into_owned()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{FileDisk, MemoryDisk};
    use std::process::Command;

    const UUID: &str = "8ff8e77f-8553-485e-8656-58be67a81666";

    fn make(page_size: usize, mebibytes: u64) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swap");
        FileDisk::create(&path, mebibytes << 20).unwrap();
        let page_size = page_size.to_string();
        let output = Command::new("mkswap")
            .args(["-U", UUID, "-L", "a label", "-p", &page_size])
            .arg(&path)
            .output()
            .expect("mkswap must be installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        std::fs::read(path).unwrap()
    }

    fn open(bytes: Vec<u8>) -> Option<Swap> {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new("swap", bytes));
        Swap::open(&disk).unwrap()
    }

    #[test]
    fn what_mkswap_makes_is_known_and_its_pages_are_free() {
        for page_size in PAGE_SIZES {
            let swap = open(make(page_size, 2)).unwrap();
            let expected = Identity {
                kind: "swap".into(),
                uuid: Some(UUID.into()),
                label: Some("a label".into()),
            };
            assert_eq!(swap.identity(), expected);
            assert_eq!(swap.free(), Some(page_size as u64..2 << 20));
            assert_eq!(swap.hibernated(), None);
        }
    }

    #[test]
    fn a_sleeping_system_is_seen_and_nothing_is_free() {
        for (magic, _) in HIBERNATED {
            let mut bytes = make(4096, 1);
            bytes[4086..4086 + magic.len()].copy_from_slice(magic);
            let swap = open(bytes).unwrap();
            assert!(swap.hibernated().is_some());
            assert_eq!(swap.free(), None);
            assert_eq!(swap.identity().uuid.as_deref(), Some(UUID));
        }
    }

    #[test]
    fn a_header_that_lies_about_its_size_frees_nothing_beyond_the_disk() {
        let mut bytes = make(4096, 1);
        bytes[1028..1032].fill(0xff);
        assert_eq!(open(bytes.clone()).unwrap().free(), Some(4096..1 << 20));
        bytes[1028..1032].fill(0);
        assert_eq!(open(bytes.clone()).unwrap().free(), None);
        bytes[4086] = 0;
        assert!(open(bytes).is_none() && open(vec![0; 100]).is_none());
    }
}
