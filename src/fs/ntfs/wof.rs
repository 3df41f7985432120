//! Files that the Windows Overlay Filter has compressed ("CompactOS"): the unnamed data is a hole, and the stream
//! `WofCompressedData` has the contents in chunks, after a table of where each but the first begins.

use super::{
    Ntfs,
    error::{NtfsError, Parsed},
    lzx,
    stream::Stream,
    xpress,
};
use crate::{
    disk::field::{u32_le, u64_le},
    fs::Result,
};

/// The name of the stream.
pub(super) const STREAM: &str = "WofCompressedData";

/// A compressed file.
#[derive(Debug)]
pub(super) struct WofFile {
    stream: Stream,
    algorithm: Algorithm,
    /// Bytes of the contents.
    size: u64,
    /// The chunk that was used last.
    last: Option<(u64, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    /// With chunks of so many bytes.
    Xpress(u64),
    Lzx,
}

impl Algorithm {
    /// `FILE_PROVIDER_COMPRESSION_*`.
    fn parse(raw: u32) -> Parsed<Self> {
        match raw {
            0 => Ok(Self::Xpress(4096)),
            1 => Ok(Self::Lzx),
            2 => Ok(Self::Xpress(8192)),
            3 => Ok(Self::Xpress(16384)),
            other => Err(NtfsError::Unsupported(format!(
                "is compressed by algorithm {other} of the Windows Overlay Filter, which is not known; `compact /u \
                 /exe` on it in Windows writes it as a plain file"
            ))),
        }
    }

    const fn chunk(self) -> u64 {
        match self {
            Self::Xpress(chunk) => chunk,
            Self::Lzx => lzx::CHUNK as u64,
        }
    }

    fn expand(self, packed: &[u8], length: usize) -> Parsed<Vec<u8>> {
        if packed.len() == length {
            return Ok(packed.to_vec());
        }
        match self {
            Self::Xpress(_) => xpress::expand(packed, length),
            Self::Lzx => lzx::expand(packed, length),
        }
    }
}

impl WofFile {
    pub(super) fn new(stream: Stream, algorithm: u32, size: u64) -> Parsed<Self> {
        Ok(Self {
            stream,
            algorithm: Algorithm::parse(algorithm)?,
            size,
            last: None,
        })
    }
}

impl Ntfs {
    /// Reads of the contents; gives how many bytes, 0 at the end.
    pub(super) fn read_wof(&self, file: &mut WofFile, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let chunk_size = file.algorithm.chunk();
        let left = file.size.saturating_sub(offset);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let mut done = 0;
        while done < count {
            let at = offset.saturating_add(done as u64);
            let number = at / chunk_size;
            if file.last.as_ref().is_none_or(|(last, _)| *last != number) {
                let chunk = self.read_chunk(file, number)?;
                file.last = Some((number, chunk));
            }
            let chunk = file.last.as_ref().map_or(&[][..], |(_, chunk)| chunk);
            let from = usize::try_from(at % chunk_size).unwrap_or(usize::MAX);
            let from = chunk.get(from..).unwrap_or_default();
            let to = buffer.get_mut(done..count).unwrap_or_default();
            let length = from.len().min(to.len());
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
            if length == 0 {
                break;
            }
            done += length;
        }
        Ok(done)
    }

    fn read_chunk(&self, file: &mut WofFile, number: u64) -> Result<Vec<u8>> {
        let owner = file.stream.owner;
        let chunk_size = file.algorithm.chunk();
        let chunks = file.size.div_ceil(chunk_size);
        // Offsets have eight bytes where four do not suffice for the contents.
        let width: u64 = if file.size > u64::from(u32::MAX) { 8 } else { 4 };
        let table = chunks.saturating_sub(1).saturating_mul(width);
        let end_of_all = file.stream.sizes.size.saturating_sub(table);
        let mut entry = |index: u64| -> Result<u64> {
            let mut raw = [0; 8];
            let field = raw
                .get_mut(..usize::try_from(width).unwrap_or(0))
                .unwrap_or_default();
            self.read_plain(&mut file.stream, index.saturating_mul(width), field)?;
            let offset = if width == 8 {
                u64_le(&raw, 0)
            } else {
                u32_le(&raw, 0).map(u64::from)
            };
            offset.map_err(|e| self.in_record(owner, e.into()))
        };
        let start = match number {
            0 => 0,
            number => entry(number - 1)?,
        };
        let end = if number + 1 < chunks {
            entry(number)?
        } else {
            end_of_all
        };
        let length = chunk_size.min(file.size.saturating_sub(number.saturating_mul(chunk_size)));
        let packed_length = end
            .checked_sub(start)
            .filter(|packed| *packed <= length && end <= end_of_all);
        let Some(packed_length) = packed_length else {
            return Err(self.damaged(
                owner,
                format!(
                    "chunk {number} of {STREAM} has bytes {start} to {end}, for {length} bytes of contents"
                ),
            ));
        };
        let mut packed = vec![0; usize::try_from(packed_length).unwrap_or(0)];
        self.read_plain(&mut file.stream, table.saturating_add(start), &mut packed)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        file.algorithm
            .expand(&packed, length)
            .map_err(|e| self.in_record(owner, e.within(format!("chunk {number} of {STREAM}"))))
    }
}
