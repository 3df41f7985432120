//! [MS-VHDX] 2.2.1 "File Type Identifier" and 2.2.2 "Headers".

use super::{MIB, checksum, flaw::Flaw};
use crate::disk::{
    Disk, Result,
    field::{
        Truncated, array_at, bytes_at, put_bytes, put_u16_le, put_u32_le, put_u64_le, u16_le, u32_le, u64_le,
    },
};
use uuid::Uuid;

/// What every file begins with.
pub(super) const SIGNATURE: &[u8; 8] = b"vhdxfile";

/// Bytes of a header, and where the two are.
pub(super) const LENGTH: usize = 4096;
pub(super) const PLACES: [u64; 2] = [64 << 10, 128 << 10];

/// All that has a fixed place lies before this.
pub(super) const SECTION: u64 = MIB;

const CHECKSUM: usize = 4;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence: u64,
    /// Changes with the file, and with what the disk shows.
    pub(super) file_write: Uuid,
    pub(super) data_write: Uuid,
    /// Nil: the log is empty.
    pub(super) log: Uuid,
    pub(super) log_version: u16,
    /// In bytes, and the next.
    pub(super) log_length: u32,
    pub(super) log_offset: u64,
}

/// The identifier of 16 bytes at `at`.
pub(super) fn id_at(bytes: &[u8], at: usize) -> std::result::Result<Uuid, Truncated> {
    Ok(Uuid::from_bytes_le(array_at(bytes, at)?))
}

impl Header {
    /// Parses a header of [`LENGTH`] bytes.
    pub(super) fn parse(bytes: &[u8]) -> std::result::Result<Self, Flaw> {
        let bytes = bytes_at(bytes, 0, LENGTH)?;
        if !bytes.starts_with(b"head") {
            return Err(Flaw::StructureSignature("head"));
        }
        let found = u32_le(bytes, CHECKSUM)?;
        let computed = checksum(bytes, CHECKSUM);
        if found != computed {
            return Err(Flaw::Checksum { found, computed });
        }
        let version = u16_le(bytes, 66)?;
        if version != 1 {
            return Err(Flaw::Version(version));
        }
        Ok(Self {
            sequence: u64_le(bytes, 8)?,
            file_write: id_at(bytes, 16)?,
            data_write: id_at(bytes, 32)?,
            log: id_at(bytes, 48)?,
            log_version: u16_le(bytes, 64)?,
            log_length: u32_le(bytes, 68)?,
            log_offset: u64_le(bytes, 72)?,
        })
    }

    /// The header in [`LENGTH`] bytes.
    pub(super) fn encode(&self) -> std::result::Result<Vec<u8>, Truncated> {
        let mut bytes = vec![0; LENGTH];
        let b = bytes.as_mut_slice();
        put_bytes(b, 0, b"head")?;
        put_u64_le(b, 8, self.sequence)?;
        put_bytes(b, 16, &self.file_write.to_bytes_le())?;
        put_bytes(b, 32, &self.data_write.to_bytes_le())?;
        put_bytes(b, 48, &self.log.to_bytes_le())?;
        put_u16_le(b, 64, self.log_version)?;
        put_u16_le(b, 66, 1)?;
        put_u32_le(b, 68, self.log_length)?;
        put_u64_le(b, 72, self.log_offset)?;
        let sum = checksum(b, CHECKSUM);
        put_u32_le(b, CHECKSUM, sum)?;
        Ok(bytes)
    }
}

/// The two headers.
#[derive(Clone, Debug)]
pub(super) struct Headers {
    /// The one that counts, and which of the two it is.
    pub(super) current: Header,
    pub(super) index: usize,
    /// What is wrong with the other, one sentence each.
    pub(super) flaws: Vec<String>,
}

impl Headers {
    /// Reads them.
    pub(super) fn find(container: &dyn Disk) -> Result<Self> {
        let label = container.label();
        let mut start = [0; SIGNATURE.len()];
        if container.size() >= SIGNATURE.len() as u64 {
            container.read_at(0, &mut start)?;
        }
        if start != *SIGNATURE {
            return Err(Flaw::Signature.of(label).at(0));
        }
        if container.size() < SECTION {
            let flaw = Flaw::PastTheEnd {
                what: "header section",
                offset: 0,
                size: container.size(),
            };
            return Err(flaw.of(label).at(0));
        }
        let read = |at: u64| -> Result<std::result::Result<Header, Flaw>> {
            let mut bytes = vec![0; LENGTH];
            container.read_at(at, &mut bytes)?;
            Ok(Header::parse(&bytes))
        };
        let [at_first, at_second] = PLACES;
        let (current, index, flaws) = match (read(at_first)?, read(at_second)?) {
            (Ok(first), Ok(second)) if first.sequence == second.sequence => {
                // Disk2vhd writes the same header twice.
                if first != second {
                    return Err(Flaw::SameSequence(first.sequence).of(label).at(at_first));
                }
                (first, 0, Vec::new())
            }
            (Ok(first), Ok(second)) if first.sequence > second.sequence => (first, 0, Vec::new()),
            (Ok(_), Ok(second)) => (second, 1, Vec::new()),
            (Ok(first), Err(flaw)) => (first, 0, vec![format!("the second header {flaw}")]),
            (Err(flaw), Ok(second)) => (second, 1, vec![format!("the first header {flaw}")]),
            // A version that is not known is not damage.
            (Err(flaw @ Flaw::Version(_)), Err(_)) | (Err(_), Err(flaw @ Flaw::Version(_))) => {
                return Err(flaw.of(label).at(at_first));
            }
            (Err(_), Err(_)) => return Err(Flaw::NeitherWhole("header").of(label).at(at_first)),
        };
        Ok(Self {
            current,
            index,
            flaws,
        })
    }

    /// Writes `header`, with the next sequence numbers, in the place of the other and then of the current one: at
    /// every moment there is a whole one (2.2.2.1 "Updating the Headers").
    pub(super) fn update(&mut self, container: &dyn Disk, header: Header) -> Result<()> {
        for _ in 0..2 {
            let header = Header {
                sequence: self.current.sequence.wrapping_add(1),
                ..header.clone()
            };
            let index = 1 - self.index.min(1);
            let at = PLACES.get(index).copied().unwrap_or_default();
            let bytes = header
                .encode()
                .map_err(|error| Flaw::from(error).of(container.label()).at(at))?;
            container.write_at(at, &bytes)?;
            container.flush()?;
            self.current = header;
            self.index = index;
        }
        self.flaws.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn header(sequence: u64) -> Header {
        Header {
            sequence,
            file_write: Uuid::from_u128(1),
            data_write: Uuid::from_u128(2),
            log: Uuid::nil(),
            log_version: 0,
            log_length: 1 << 20,
            log_offset: 1 << 20,
        }
    }

    fn file(first: &Header, second: &Header) -> MemoryDisk {
        let mut bytes = vec![0; 1 << 20];
        bytes[..8].copy_from_slice(SIGNATURE);
        for (at, header) in PLACES.into_iter().zip([first, second]) {
            bytes[at as usize..at as usize + LENGTH].copy_from_slice(&header.encode().unwrap());
        }
        MemoryDisk::new("d", bytes)
    }

    #[test]
    fn the_header_with_the_greater_number_counts() {
        let found = |first, second| Headers::find(&file(&header(first), &header(second))).unwrap();
        assert_eq!((found(3, 4).index, found(3, 4).current.sequence), (1, 4));
        assert_eq!((found(5, 4).index, found(5, 4).current.sequence), (0, 5));
        assert_eq!(found(4, 4).index, 0);
        let other = Header {
            log: Uuid::from_u128(9),
            ..header(4)
        };
        let error = Headers::find(&file(&header(4), &other)).unwrap_err();
        assert!(error.to_string().contains("nobody can tell"), "{error}");
    }

    #[test]
    fn one_damaged_header_is_said_and_two_are_refused() {
        let disk = file(&header(7), &header(8));
        disk.write_at(PLACES[1] + 1000, &[1]).unwrap();
        let found = Headers::find(&disk).unwrap();
        assert_eq!(
            (found.index, found.current.sequence, found.flaws.len()),
            (0, 7, 1)
        );
        disk.write_at(PLACES[0], b"H").unwrap();
        let error = Headers::find(&disk).unwrap_err();
        assert!(error.to_string().contains("no header that is whole"), "{error}");
    }

    #[test]
    fn an_update_leaves_both_up_to_date() {
        let disk = file(&header(7), &header(8));
        let mut headers = Headers::find(&disk).unwrap();
        let new = Header {
            data_write: Uuid::from_u128(5),
            ..headers.current.clone()
        };
        headers.update(&disk, new).unwrap();
        let found = Headers::find(&disk).unwrap();
        assert_eq!((found.current.sequence, found.index), (10, 1));
        assert_eq!(found.current.data_write, Uuid::from_u128(5));
        disk.write_at(PLACES[1], b"H").unwrap();
        let found = Headers::find(&disk).unwrap();
        assert_eq!(
            (found.current.sequence, found.current.data_write),
            (9, Uuid::from_u128(5))
        );
    }
}
