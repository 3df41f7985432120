//! What the target durably holds: the hash of every chunk, in an append-only file beside the target.
//! `docs/ledger.md` has the format byte by byte.

use super::hash::{CHUNK, ChunkHash, Run};
use crate::disk::{Digest, Error, Kind, Result, field};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};
use thiserror::Error as ThisError;

/// What is known of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `None`: not known to be there.
    pub hash: Option<ChunkHash>,
    /// The answer is the same for so many chunks from the one that was asked for; at least 1.
    pub count: u64,
}

/// Kept by the side that has the target.
pub trait Ledger: Debug + Send + Sync {
    /// What is known of chunk `index` and those behind it.
    fn at(&self, index: u64) -> Result<Entry>;
    /// Notes chunks that a checkpoint of the sink has made durable.
    fn record(&self, runs: &[Run]) -> Result<()>;
    /// Notes the hash of the whole disk, when all of it is there.
    fn complete(&self, digest: Digest) -> Result<()>;
}

/// For copies that are not to be resumed: nothing is known, nothing noted.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLedger;

impl Ledger for NoLedger {
    fn at(&self, _index: u64) -> Result<Entry> {
        Ok(UNKNOWN)
    }
    fn record(&self, _runs: &[Run]) -> Result<()> {
        Ok(())
    }
    fn complete(&self, _digest: Digest) -> Result<()> {
        Ok(())
    }
}

const UNKNOWN: Entry = Entry {
    hash: None,
    count: u64::MAX,
};

/// What a ledger belongs to: with another plan or another source it is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the plan that is carried out.
    pub plan: Digest,
    /// Of the source: see [`super::source_identity`].
    pub source: Digest,
    /// Size of the disk that is copied, in bytes.
    pub size: u64,
}

/// Why a ledger cannot be used.
#[derive(Debug, ThisError)]
enum Refusal {
    #[error("is not a ledger: its first bytes are {0:02x?}; remove the work folder and start again")]
    Magic([u8; 8]),
    #[error(
        "is a ledger of version {0}, this program knows version {VERSION}; finish with the program that began, or start again"
    )]
    Version(u32),
    #[error(
        "has a damaged header (checksum {found:08x}, expected {expected:08x}); remove the work folder and start again"
    )]
    Header { found: u32, expected: u32 },
    #[error(
        "belongs to a copy made by another plan ({found}, this one is {expected}); resume with the plan and options of the first run, or start again"
    )]
    Plan { found: Digest, expected: Digest },
    #[error("belongs to another source, or the source has changed since; start again")]
    Source,
    #[error("belongs to a disk of {found} bytes, this one has {expected}; start again")]
    Size { found: u64, expected: u64 },
    #[error(transparent)]
    Truncated(#[from] field::Truncated),
    #[error("counts in chunks of {0} bytes, this program in {CHUNK}; start again")]
    Chunk(u64),
}

/// A ledger in a file.
#[derive(Debug)]
pub struct FileLedger {
    label: String,
    file: File,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where the next record goes: everything before is valid.
    end: u64,
    /// First index → run; disjoint.
    runs: BTreeMap<u64, Kept>,
    complete: Option<Digest>,
}

/// A run and where its hashes are.
#[derive(Clone, Copy, Debug)]
struct Kept {
    count: u64,
    /// Offset in the file of the first hash; `None`: zeros.
    hashes: Option<u64>,
}

const MAGIC: [u8; 8] = *b"RHMLEDGR";
const VERSION: u32 = 1;
const HEADER: usize = 100;
const RECORD_HEAD: usize = 24;
const HASH: usize = 32;
const CHECKSUM: usize = 4;

const ZEROS: u32 = 1;
const DATA: u32 = 2;
const COMPLETE: u32 = 3;

/// A record has no more hashes than this: 2 MiB, what a reader must hold at once.
const MOST_HASHES: u64 = 1 << 16;

impl FileLedger {
    /// A new ledger at `path`; fails if there is a file of that name.
    pub fn create(path: &Path, identity: &Identity) -> Result<Self> {
        let label = path.display().to_string();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = options.open(path).map_err(|error| Error::io(&label, error))?;
        let ledger = Self {
            label,
            file,
            state: Mutex::default(),
        };
        ledger.begin(identity)?;
        Ok(ledger)
    }

    /// The ledger at `path`, which must be of `identity`. A record cut short at its end (a kill, a power cut) is
    /// dropped with what follows it; if not even the header was written, nothing is known.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self> {
        let label = path.display().to_string();
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = options.open(path).map_err(|error| Error::io(&label, error))?;
        let length = file.metadata().map_err(|error| Error::io(&label, error))?.len();
        let ledger = Self {
            label,
            file,
            state: Mutex::default(),
        };
        let mut header = [0; HEADER];
        if length >= HEADER as u64 {
            ledger.read(0, &mut header)?;
        }
        // The header is written in one go before any record: zeros there mean that it never reached the disk.
        if header == [0; HEADER] {
            ledger.begin(identity)?;
            return Ok(ledger);
        }
        if let Err(refusal) = check_header(&header, identity) {
            let kind = match refusal {
                Refusal::Magic(_) | Refusal::Header { .. } | Refusal::Truncated(_) => Kind::Corrupt,
                Refusal::Version(_) | Refusal::Chunk(_) => Kind::Unsupported,
                Refusal::Plan { .. } | Refusal::Source | Refusal::Size { .. } => Kind::Unsafe,
            };
            return Err(Error::new(kind, ledger.label, refusal));
        }
        let state = ledger.replay(length, identity.size.div_ceil(CHUNK))?;
        ledger.file.set_len(state.end).map_err(|error| ledger.io(error))?;
        *ledger.state() = state;
        Ok(ledger)
    }

    /// The hash of the disk, if the copy went to its end.
    pub fn digest(&self) -> Option<Digest> {
        self.state().complete
    }

    /// Is anything known to be there?
    pub fn is_empty(&self) -> bool {
        self.state().runs.is_empty()
    }

    /// Does a ledger file of `length` bytes hold more than its header?
    pub(crate) fn has_records(length: u64) -> bool {
        length > HEADER as u64
    }

    fn begin(&self, identity: &Identity) -> Result<()> {
        let header = header(identity).map_err(|error| self.corrupt(error))?;
        self.file.set_len(0).map_err(|error| self.io(error))?;
        self.file
            .write_all_at(&header, 0)
            .map_err(|error| self.io(error))?;
        self.state().end = HEADER as u64;
        Ok(())
    }

    /// Reads every record up to the first that is not whole.
    fn replay(&self, length: u64, chunks: u64) -> Result<State> {
        let mut state = State {
            end: HEADER as u64,
            ..State::default()
        };
        let mut record = Vec::new();
        while let Some(head) = self.record_head(state.end, length, chunks, &mut record)? {
            let hashes = state.end + RECORD_HEAD as u64;
            match head.kind {
                ZEROS => state.keep(
                    head.first,
                    Kept {
                        count: head.count,
                        hashes: None,
                    },
                ),
                DATA => state.keep(
                    head.first,
                    Kept {
                        count: head.count,
                        hashes: Some(hashes),
                    },
                ),
                _ => state.complete = field::array_at(&record, RECORD_HEAD).ok().map(Digest),
            }
            state.end += record.len() as u64;
        }
        Ok(state)
    }

    /// The record at `offset` in `record`; `None` if none is whole there.
    fn record_head(
        &self,
        offset: u64,
        length: u64,
        chunks: u64,
        record: &mut Vec<u8>,
    ) -> Result<Option<RecordHead>> {
        let available = length.saturating_sub(offset);
        if available < (RECORD_HEAD + CHECKSUM) as u64 {
            return Ok(None);
        }
        record.resize(RECORD_HEAD, 0);
        self.read(offset, record)?;
        let Some(head) = RecordHead::parse(record, chunks) else {
            return Ok(None);
        };
        let whole = head.length();
        let Some(size) = usize::try_from(whole).ok().filter(|_| whole <= available) else {
            return Ok(None);
        };
        record.resize(size, 0);
        self.read(offset, record)?;
        let body = size - CHECKSUM;
        let sum = crc32c::crc32c(record.get(..body).unwrap_or_default());
        Ok((field::u32_le(record, body) == Ok(sum)).then_some(head))
    }

    fn append(&self, state: &mut State, kind: u32, first: u64, count: u64, hashes: &[Digest]) -> Result<()> {
        let mut record = Vec::with_capacity(RECORD_HEAD + hashes.len() * HASH + CHECKSUM);
        record.extend(kind.to_le_bytes());
        record.extend(0_u32.to_le_bytes());
        record.extend(first.to_le_bytes());
        record.extend(count.to_le_bytes());
        for hash in hashes {
            record.extend(hash.0);
        }
        record.extend(crc32c::crc32c(&record).to_le_bytes());
        // Never the file's own end: what a failed write left there is overwritten by the next.
        self.file
            .write_all_at(&record, state.end)
            .map_err(|error| self.io(error))?;
        let place = state.end + RECORD_HEAD as u64;
        state.end += record.len() as u64;
        match kind {
            ZEROS => state.keep(first, Kept { count, hashes: None }),
            DATA => state.keep(
                first,
                Kept {
                    count,
                    hashes: Some(place),
                },
            ),
            _ => state.complete = hashes.first().copied(),
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| self.io(error).at(offset))
    }

    fn io(&self, error: io::Error) -> Error {
        Error::io(&*self.label, error)
    }

    fn corrupt(&self, error: field::Truncated) -> Error {
        Error::new(Kind::Corrupt, &*self.label, error)
    }
}

impl Ledger for FileLedger {
    fn at(&self, index: u64) -> Result<Entry> {
        let state = self.state();
        if let Some((first, kept)) = state.runs.range(..=index).next_back()
            && index - first < kept.count
        {
            let Some(hashes) = kept.hashes else {
                return Ok(Entry {
                    hash: Some(None),
                    count: kept.count - (index - first),
                });
            };
            let mut hash = [0; HASH];
            self.read(hashes + (index - first) * HASH as u64, &mut hash)?;
            return Ok(Entry {
                hash: Some(Some(Digest(hash))),
                count: 1,
            });
        }
        let next = state.runs.range(index..).next();
        Ok(Entry {
            hash: None,
            count: next.map_or(u64::MAX, |(first, _)| first - index),
        })
    }

    fn record(&self, runs: &[Run]) -> Result<()> {
        let mut state = self.state();
        let mut hashes: Vec<Digest> = Vec::new();
        let mut first = 0;
        for run in runs {
            let follows = run.first == first + hashes.len() as u64 && (hashes.len() as u64) < MOST_HASHES;
            if !hashes.is_empty() && (run.hash.is_none() || !follows) {
                self.append(&mut state, DATA, first, hashes.len() as u64, &hashes)?;
                hashes.clear();
            }
            match run.hash {
                None => self.append(&mut state, ZEROS, run.first, run.count, &[])?,
                Some(hash) => {
                    if hashes.is_empty() {
                        first = run.first;
                    }
                    hashes.push(hash);
                }
            }
        }
        if !hashes.is_empty() {
            self.append(&mut state, DATA, first, hashes.len() as u64, &hashes)?;
        }
        Ok(())
    }

    fn complete(&self, digest: Digest) -> Result<()> {
        let mut state = self.state();
        self.append(&mut state, COMPLETE, 0, 1, &[digest])
    }
}

impl State {
    /// The newest record of a chunk is the one that counts.
    fn keep(&mut self, first: u64, kept: Kept) {
        let end = first.saturating_add(kept.count);
        while let Some((&start, &old)) = self.runs.range(..end).next_back() {
            let old_end = start.saturating_add(old.count);
            if old_end <= first {
                break;
            }
            self.runs.remove(&start);
            if old_end > end {
                let rest = Kept {
                    count: old_end - end,
                    hashes: old
                        .hashes
                        .map(|at| at.saturating_add((end - start) * HASH as u64)),
                };
                self.runs.insert(end, rest);
            }
            if start < first {
                let count = first - start;
                self.runs.insert(start, Kept { count, ..old });
            }
        }
        // Long stretches of zeros come in many records and stay one run here.
        if kept.hashes.is_none()
            && let Some((&start, before)) = self.runs.range_mut(..first).next_back()
            && before.hashes.is_none()
            && start.saturating_add(before.count) == first
        {
            before.count = before.count.saturating_add(kept.count);
            return;
        }
        self.runs.insert(first, kept);
    }
}

struct RecordHead {
    kind: u32,
    first: u64,
    count: u64,
}

impl RecordHead {
    /// `None` for what no writer of this version makes for a disk of `chunks` chunks.
    fn parse(record: &[u8], chunks: u64) -> Option<Self> {
        let kind = field::u32_le(record, 0).ok()?;
        let reserved = field::u32_le(record, 4).ok()?;
        let first = field::u64_le(record, 8).ok()?;
        let count = field::u64_le(record, 16).ok()?;
        let fits = first.checked_add(count)? <= chunks;
        let known = match kind {
            ZEROS => fits,
            DATA => fits && count <= MOST_HASHES,
            COMPLETE => first == 0 && count == 1,
            _ => false,
        };
        (known && reserved == 0 && count > 0).then_some(Self { kind, first, count })
    }

    /// Of the whole record, in bytes.
    fn length(&self) -> u64 {
        let hashes = if self.kind == ZEROS { 0 } else { self.count };
        hashes
            .saturating_mul(HASH as u64)
            .saturating_add((RECORD_HEAD + CHECKSUM) as u64)
    }
}

fn header(identity: &Identity) -> std::result::Result<[u8; HEADER], field::Truncated> {
    let mut header = [0; HEADER];
    field::put_bytes(&mut header, 0, &MAGIC)?;
    field::put_u32_le(&mut header, 8, VERSION)?;
    field::put_u64_le(&mut header, 16, identity.size)?;
    field::put_u64_le(&mut header, 24, CHUNK)?;
    field::put_bytes(&mut header, 32, &identity.plan.0)?;
    field::put_bytes(&mut header, 64, &identity.source.0)?;
    let sum = crc32c::crc32c(field::bytes_at(&header, 0, HEADER - CHECKSUM)?);
    field::put_u32_le(&mut header, HEADER - CHECKSUM, sum)?;
    Ok(header)
}

fn check_header(header: &[u8], identity: &Identity) -> std::result::Result<(), Refusal> {
    let magic: [u8; 8] = field::array_at(header, 0)?;
    let version = field::u32_le(header, 8)?;
    let size = field::u64_le(header, 16)?;
    let chunk = field::u64_le(header, 24)?;
    let plan = Digest(field::array_at(header, 32)?);
    let source = Digest(field::array_at(header, 64)?);
    let found = field::u32_le(header, HEADER - CHECKSUM)?;
    let expected = crc32c::crc32c(field::bytes_at(header, 0, HEADER - CHECKSUM)?);
    if magic != MAGIC {
        Err(Refusal::Magic(magic))
    } else if version != VERSION {
        Err(Refusal::Version(version))
    } else if found != expected {
        Err(Refusal::Header { found, expected })
    } else if chunk != CHUNK {
        Err(Refusal::Chunk(chunk))
    } else if source != identity.source {
        Err(Refusal::Source)
    } else if plan != identity.plan {
        Err(Refusal::Plan {
            found: plan,
            expected: identity.plan,
        })
    } else if size != identity.size {
        Err(Refusal::Size {
            found: size,
            expected: identity.size,
        })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    fn identity() -> Identity {
        Identity {
            plan: Digest::of(b"plan"),
            source: Digest::of(b"source"),
            size: 1000 * CHUNK,
        }
    }

    fn run(first: u64, count: u64, hash: Option<u8>) -> Run {
        Run {
            first,
            count,
            hash: hash.map(|byte| Digest([byte; 32])),
        }
    }

    #[test]
    fn another_plan_source_or_size_is_refused_and_each_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        drop(FileLedger::create(&path, &identity()).unwrap());
        let other = Digest::of(b"other");
        let cases = [
            (
                Identity {
                    plan: other,
                    ..identity()
                },
                "another plan",
            ),
            (
                Identity {
                    source: other,
                    ..identity()
                },
                "another source",
            ),
            (
                Identity {
                    size: 5,
                    ..identity()
                },
                "disk of 1048576000 bytes",
            ),
        ];
        for (identity, text) in cases {
            let error = FileLedger::open(&path, &identity).unwrap_err();
            assert_eq!(error.kind, Kind::Unsafe);
            assert!(error.to_string().contains(text), "{error}");
        }
        assert_eq!(
            FileLedger::create(&path, &identity()).unwrap_err().kind,
            Kind::Exists
        );
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let ledger = FileLedger::create(&path, &identity()).unwrap();
        ledger
            .record(&[run(0, 1, Some(7)), run(1, 1, Some(8)), run(2, 900, None)])
            .unwrap();
        ledger.complete(Digest([9; 32])).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 100 + (28 + 64) + 28 + (28 + 32));
        assert_eq!(&bytes[..8], b"RHMLEDGR");
        assert_eq!(
            &bytes[100..124],
            &[
                2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0
            ]
        );
        assert_eq!(&bytes[124..188], [[7; 32], [8; 32]].concat());
        assert_eq!(bytes[188..192], crc32c::crc32c(&bytes[100..188]).to_le_bytes());
        assert_eq!((bytes[192], bytes[220]), (1, 3));
    }

    #[test]
    fn a_file_that_never_got_its_header_knows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        for length in [0, 50, 100, 5000] {
            fs::write(&path, vec![0; length]).unwrap();
            let ledger = FileLedger::open(&path, &identity()).unwrap();
            assert!(ledger.is_empty());
            ledger.record(&[run(3, 1, Some(1))]).unwrap();
            drop(ledger);
            assert!(!FileLedger::open(&path, &identity()).unwrap().is_empty());
        }
        fs::write(&path, vec![b'x'; 200]).unwrap();
        assert_eq!(
            FileLedger::open(&path, &identity()).unwrap_err().kind,
            Kind::Corrupt
        );
        assert_eq!(
            fs::read(&path).unwrap(),
            vec![b'x'; 200],
            "what is not ours stays"
        );
    }

    proptest! {
        #[test]
        fn any_cut_leaves_a_prefix_and_any_later_record_counts(
            runs in prop::collection::vec((0..999_u64, 1..200_u64, prop::option::of(1..250_u8)), 1..40),
            cut in 0..3000_usize, flip in prop::option::of(100..3000_usize),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("ledger");
            let ledger = FileLedger::create(&path, &identity()).unwrap();
            let mut model = vec![None; 1000];
            // The model and the file's length after each record.
            let mut history = vec![(HEADER, model.clone())];
            for (first, count, hash) in runs {
                let count = if hash.is_some() { 1 } else { count.min(1000 - first) };
                ledger.record(&[run(first, count, hash)]).unwrap();
                model[first as usize..(first + count) as usize].fill(Some(hash));
                history.push((fs::metadata(&path).unwrap().len() as usize, model.clone()));
            }
            let check = |ledger: &FileLedger, model: &[Option<Option<u8>>]| {
                for (index, expected) in model.iter().enumerate() {
                    let entry = ledger.at(index as u64).unwrap();
                    assert_eq!(entry.hash, expected.map(|hash| hash.map(|byte| Digest([byte; 32]))));
                    let same = model[index..].iter().take(entry.count.min(1000) as usize);
                    assert!(entry.count > 0 && same.clone().all(|other| other == expected));
                }
            };
            check(&ledger, &model);
            drop(ledger);
            let mut bytes = fs::read(&path).unwrap();
            bytes.truncate(HEADER.max(bytes.len().saturating_sub(cut)));
            let mut valid = bytes.len();
            if let Some(flip) = flip.filter(|flip| *flip < bytes.len()) {
                bytes[flip] ^= 0x41;
                valid = flip;
            }
            fs::write(&path, &bytes).unwrap();
            let (end, model) = history.iter().rev().find(|(end, _)| *end <= valid).unwrap();
            let ledger = FileLedger::open(&path, &identity()).unwrap();
            check(&ledger, model);
            prop_assert_eq!(fs::metadata(&path).unwrap().len() as usize, *end);
            ledger.record(&[run(17, 3, None)]).unwrap();
            drop(ledger);
            let mut model = model.clone();
            model[17..20].fill(Some(None));
            check(&FileLedger::open(&path, &identity()).unwrap(), &model);
        }
    }
}
