//! `$FILE_NAME`: a name of a file, in its record and as the key of the directory's index (Linux-NTFS documentation,
//! "$FILE_NAME").

use super::{error::Parsed, file_record::Reference, name};
use crate::disk::field::{bytes_at, put_u8, put_u32_le, put_u64_le, u8_at, u32_le, u64_le};

/// What a name may hold.
pub(super) mod namespace {
    /// Every unit but the slash, upper and lower case differ. Windows gives it to further hard links.
    pub(crate) const POSIX: u8 = 0;
    /// A name for Windows that has a name for DOS beside it.
    pub(crate) const WINDOWS: u8 = 1;
    /// The name for DOS beside it.
    pub(crate) const DOS: u8 = 2;
    /// One that is fit for both.
    pub(crate) const BOTH: u8 = 3;
}

/// A name, with what the directory keeps of the file so that it can be listed without its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileName {
    /// The directory that it is in.
    pub(super) parent: Reference,
    pub(super) facts: Facts,
    pub(super) namespace: u8,
    pub(super) name: Vec<u16>,
}

/// The copy of what the file's record says, as of the last time that somebody wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Creation, contents, record, reading: in 100 ns since 1601.
    pub(super) times: [u64; 4],
    pub(super) allocated: u64,
    pub(super) size: u64,
    pub(super) attributes: u32,
    /// The reparse tag, or else the length of the extended attributes.
    pub(super) tag: u32,
}

/// Bytes before the name.
pub(super) const HEADER: usize = 0x42;

impl FileName {
    pub(super) fn parse(raw: &[u8]) -> Parsed<Self> {
        Ok(Self {
            parent: Reference::parse(u64_le(raw, 0)?),
            facts: Facts {
                times: [
                    u64_le(raw, 8)?,
                    u64_le(raw, 16)?,
                    u64_le(raw, 24)?,
                    u64_le(raw, 32)?,
                ],
                allocated: u64_le(raw, 40)?,
                size: u64_le(raw, 48)?,
                attributes: u32_le(raw, 56)?,
                tag: u32_le(raw, 60)?,
            },
            namespace: u8_at(raw, 65)?,
            name: name::units(units(raw)?).collect(),
        })
    }

    pub(super) fn encode(&self) -> Parsed<Vec<u8>> {
        let mut raw = vec![0; HEADER];
        put_u64_le(&mut raw, 0, self.parent.encode())?;
        self.facts.put(&mut raw)?;
        // Names have at most 255 units.
        put_u8(&mut raw, 64, u8::try_from(self.name.len()).unwrap_or(u8::MAX))?;
        put_u8(&mut raw, 65, self.namespace)?;
        raw.extend_from_slice(&name::to_disk(&self.name));
        Ok(raw)
    }
}

impl Facts {
    /// Writes them to a name.
    pub(super) fn put(&self, raw: &mut [u8]) -> Parsed<()> {
        for (index, time) in self.times.iter().enumerate() {
            put_u64_le(raw, 8 + index * 8, *time)?;
        }
        put_u64_le(raw, 40, self.allocated)?;
        put_u64_le(raw, 48, self.size)?;
        put_u32_le(raw, 56, self.attributes)?;
        Ok(put_u32_le(raw, 60, self.tag)?)
    }
}

/// The name itself, as on disk.
pub(super) fn units(raw: &[u8]) -> Parsed<&[u8]> {
    Ok(bytes_at(raw, HEADER, usize::from(u8_at(raw, 64)?) * 2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back() {
        let name = FileName {
            parent: Reference {
                number: 5,
                sequence: 5,
            },
            facts: Facts {
                times: [1, 2, 3, 4],
                allocated: 4096,
                size: 7,
                attributes: 0x20,
                tag: 9,
            },
            namespace: namespace::BOTH,
            name: "a.txt".encode_utf16().collect(),
        };
        let raw = name.encode().unwrap();
        assert_eq!(raw.len(), HEADER + 10);
        assert_eq!(FileName::parse(&raw).unwrap(), name);
        assert!(FileName::parse(&raw[..raw.len() - 1]).is_err());
    }
}
