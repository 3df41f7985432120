//! NTFS 3.0 and 3.1 (Windows 2000 to 11), reading and writing; 1.2 is read. There is no specification by its makers: the
//! modules cite the documentation of the Linux-NTFS project, and Microsoft's open specifications for what crosses the
//! network too ([MS-FSCC], [MS-DTYP], [MS-XCA]).
//!
//! Everything is a file, the filesystem's own tables too, and every file is a record of attributes in `$MFT`. A [`super::Node`] is
//! the number of the record. Records are parsed when they are asked for: opening reads a handful of them, and nothing grows
//! with the size of the volume.

mod allocate_cluster;
mod allocate_record;
mod attribute;
mod attribute_list;
mod bit_reader;
mod boot_sector;
mod commit;
mod contents;
mod data_runs;
mod directory_edit;
mod ea;
mod edit;
mod edited_file;
mod error;
mod extend;
mod extended;
mod file;
mod file_edit;
mod file_name;
mod file_record;
mod file_system;
mod free;
mod huffman;
mod index;
mod index_edit;
mod index_node;
mod layout;
mod log_file;
mod lznt1;
mod lzx;
mod name;
mod names;
mod page_files;
mod reparse_point;
mod secure;
mod secure_edit;
mod security_descriptor;
mod short_name;
mod standard_information;
mod state;
mod store;
mod stream;
mod upcase;
mod update_sequence;
mod value_edit;
mod volume_information;
mod witness;
mod wof;
mod xpress;

use super::{Result, block_cache::BlockCache};
use crate::disk::{self, Disk};
pub use witness::NtfsCrate;

use allocate_cluster::Allocator;
use attribute::kind;
use boot_sector::BootSector;
use data_runs::Run;
use directory_edit::Named;
use edited_file::EditedFile;
use error::{NtfsError, Parsed};
use file_name::FileName;
use file_record::{FileRecord, flag, number};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use upcase::UpcaseTable;
use volume_information::VolumeInformation;

/// An NTFS filesystem on a volume.
#[derive(Debug)]
pub struct Ntfs {
    disk: Arc<dyn Disk>,
    boot: BootSector,
    /// Where the file records are.
    mft: Vec<Run>,
    /// Records that are formatted.
    records: u64,
    upcase: UpcaseTable,
    volume: VolumeInformation,
    label: Option<String>,
    /// File records by number, their protected bytes put back.
    record_cache: RefCell<BlockCache>,
    /// Index blocks likewise, by their place on the volume.
    block_cache: RefCell<BlockCache>,
    /// The file that was read last.
    open: RefCell<Option<contents::Open>>,
    /// Free clusters, once they were counted.
    free_count: Cell<Option<u64>>,
    /// Edits are wanted although Windows has marked the volume as dirty.
    dirty_is_allowed: bool,
    /// Ready to be edited.
    allocator: Option<Allocator>,
    /// Records at the start of `$MFT` that the mirror has too.
    mirrored: u64,
    /// The lowest record that may be free.
    record_hint: u64,
    /// Files that were changed last, written already, so that the next change need not put them together again.
    edited: BTreeMap<u64, EditedFile>,
    /// Files whose directories are to be told of a change.
    touched: BTreeSet<u64>,
    /// What files and directories (true) inherit, by the descriptor of their directory.
    inherited: BTreeMap<(u32, bool), u32>,
    /// Something was written since the last commit.
    changed: bool,
    log_is_reset: bool,
    /// Seconds since 1970 for new timestamps.
    clock: u64,
}

/// `$MFT` may be in no more pieces: 24 bytes each are kept of it.
const MOST_MFT_RUNS: usize = 1 << 20;

impl Ntfs {
    /// Does a volume begin like NTFS?
    pub fn detect(start: &[u8]) -> bool {
        disk::field::bytes_at(start, 3, 8).is_ok_and(|name| name == b"NTFS    ")
    }

    /// Opens the filesystem on `disk`, whose label stands in errors. Nothing is written.
    ///
    /// # Errors
    /// [`disk::Kind::Corrupt`] where boot sector, `$MFT`, `$Volume` or `$UpCase` can't be; [`disk::Kind::Unsupported`] for
    /// BitLocker.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let boot = read_boot_sector(&*disk)?;
        let mut ntfs = Self {
            disk,
            mft: Vec::new(),
            records: 0,
            upcase: UpcaseTable::parse(&[]),
            volume: VolumeInformation::default(),
            label: None,
            record_cache: RefCell::default(),
            block_cache: RefCell::default(),
            open: RefCell::default(),
            free_count: Cell::default(),
            dirty_is_allowed: false,
            allocator: None,
            mirrored: 0,
            record_hint: 0,
            edited: BTreeMap::new(),
            touched: BTreeSet::new(),
            inherited: BTreeMap::new(),
            changed: false,
            log_is_reset: false,
            clock: 0,
            boot,
        };
        ntfs.find_records()?;
        ntfs.read_volume()?;
        let upcase = ntfs.file(number::UPCASE)?;
        let table = ntfs.value(&upcase, kind::DATA, &[], upcase::LENGTH)?;
        ntfs.upcase = UpcaseTable::parse(&table.unwrap_or_default());
        Ok(ntfs)
    }

    /// Reads where `$MFT` is, from its own first record on. Each further part of the map lies in records that the parts
    /// before it map.
    fn find_records(&mut self) -> Result<()> {
        let mut raw = vec![0; self.boot.record_size];
        let place = self.byte(self.boot.mft);
        self.disk.read_at(place, &mut raw)?;
        let first = FileRecord::from_disk(number::MFT, raw).map_err(|e| self.in_record(0, e).at(place))?;
        let (runs, sizes) = self.data_part(&first, 0)?;
        if runs.is_empty() || sizes.size == 0 {
            return Err(self.in_record(0, NtfsError::damaged("$MFT has no contents")));
        }
        self.mft = runs;
        self.records = sizes.initialized.min(sizes.size) / self.boot.record_size as u64;
        let mut parts: Vec<_> = self
            .attribute_list(&first)?
            .unwrap_or_default()
            .into_iter()
            .filter(|entry| entry.kind == kind::DATA && entry.name.is_empty() && entry.vcn > 0)
            .collect();
        parts.sort_by_key(|part| part.vcn);
        for part in parts {
            let record = self.record(part.record.number)?;
            let (runs, _) = self.data_part(&record, part.vcn)?;
            if self.mft.last().map(Run::end) != Some(part.vcn) {
                return Err(self.in_record(0, NtfsError::damaged("the map of $MFT has gaps")));
            }
            runs.into_iter()
                .for_each(|run| data_runs::push(&mut self.mft, run));
            if self.mft.len() > MOST_MFT_RUNS {
                return Err(self.in_record(
                    0,
                    NtfsError::Unsupported(format!(
                        "$MFT is in more than {MOST_MFT_RUNS} pieces; defragment it first (`contig $Mft`)"
                    )),
                ));
            }
        }
        self.check_map()
    }

    /// All of `$MFT` is somewhere, and no more of it than the volume has: a hole or a run that comes again and again would
    /// make it endless.
    fn check_map(&self) -> Result<()> {
        if self.mft.iter().any(|run| run.lcn.is_none()) {
            return Err(self.in_record(0, NtfsError::damaged("the map of $MFT has a hole")));
        }
        let end = self.mft.last().map_or(0, Run::end);
        let needed = self.records.saturating_mul(self.boot.record_size as u64);
        if end > self.boot.clusters || needed > self.byte(end) {
            return Err(self.in_record(
                0,
                NtfsError::damaged(format!(
                    "$MFT has {} records in {end} clusters, on a volume of {}",
                    self.records, self.boot.clusters
                )),
            ));
        }
        Ok(())
    }

    /// The runs and sizes of the part of the unnamed data of `$MFT` that begins at `vcn`.
    fn data_part(&self, record: &FileRecord, vcn: u64) -> Result<(Vec<Run>, attribute::Sizes)> {
        let parse = || -> Parsed<_> {
            for attribute in record.attributes() {
                let attribute = attribute?;
                if let attribute::Form::NonResident(part) = &attribute.form
                    && attribute.is(kind::DATA, &[])
                    && part.vcns.start == vcn
                {
                    let runs = data_runs::parse(part.runs, part.vcns.clone(), self.boot.clusters)?;
                    return Ok((runs, part.sizes));
                }
            }
            Err(NtfsError::damaged(format!(
                "the map of $MFT from cluster {vcn} is missing"
            )))
        };
        parse().map_err(|e| self.in_record(record.number, e))
    }

    fn read_volume(&mut self) -> Result<()> {
        let file = self.file(number::VOLUME)?;
        let information = self
            .value(&file, kind::VOLUME_INFORMATION, &[], 64)?
            .ok_or_else(|| self.in_record(number::VOLUME, NtfsError::damaged("has no version")))?;
        self.volume =
            VolumeInformation::parse(&information).map_err(|e| self.in_record(number::VOLUME, e))?;
        let name = self.value(&file, kind::VOLUME_NAME, &[], 1024)?;
        self.label = name.as_deref().and_then(volume_information::label);
        Ok(())
    }

    // Errors: every one says of which volume, and where it can, of which record and byte.

    /// `error`, found on this volume.
    fn fault(&self, error: NtfsError) -> disk::Error {
        error.on(self.disk.label())
    }

    /// `error`, found in what belongs to file record `number`.
    fn in_record(&self, number: u64, error: NtfsError) -> disk::Error {
        self.fault(error.within(format!("file record {number}")))
    }

    /// File record `number` is damaged: `what`.
    fn damaged(&self, number: u64, what: impl Into<String>) -> disk::Error {
        self.in_record(number, NtfsError::damaged(what))
    }

    // Places.

    /// Byte offset of a cluster on the volume. Clusters are below 2^32, their sizes up to 2^21.
    fn byte(&self, cluster: u64) -> u64 {
        cluster.saturating_mul(self.boot.cluster_size)
    }

    /// Fills `buffer` from byte `offset` of what `runs` map; holes are zeros.
    fn read_runs(&self, runs: &[Run], offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_by_runs(offset, buffer, |vcn| {
            data_runs::find(runs, vcn)
                .ok_or_else(|| self.fault(NtfsError::damaged(format!("cluster {vcn} of a table is nowhere"))))
        })
    }

    /// Fills `buffer` from byte `offset` of what lies in runs; `run_at` gives the rest of the run that holds a cluster.
    fn read_by_runs(
        &self,
        offset: u64,
        buffer: &mut [u8],
        mut run_at: impl FnMut(u64) -> Result<Run>,
    ) -> Result<()> {
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let run = run_at(at / self.boot.cluster_size)?;
            let within = at % self.boot.cluster_size;
            let available = self.byte(run.clusters).saturating_sub(within);
            let count = usize::try_from(available).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            match run.lcn {
                Some(lcn) => self.disk.read_at(self.byte(lcn).saturating_add(within), now)?,
                None => now.fill(0),
            }
            at = at.saturating_add(count as u64);
            rest = later;
        }
        Ok(())
    }

    // Records.

    /// Byte offset of a record in `$MFT`.
    fn record_place(&self, number: u64) -> Result<u64> {
        if number >= self.records {
            return Err(self.fault(NtfsError::damaged(format!(
                "file record {number} is asked for, where there are {}",
                self.records
            ))));
        }
        Ok(number.saturating_mul(self.boot.record_size as u64))
    }

    /// A file record, in use or not.
    fn record(&self, number: u64) -> Result<FileRecord> {
        let place = self.record_place(number)?;
        let cached = self.record_cache.borrow_mut().get(number);
        if let Some(bytes) = cached {
            return FileRecord::parse(number, bytes).map_err(|e| self.in_record(number, e));
        }
        let mut raw = vec![0; self.boot.record_size];
        self.read_runs(&self.mft, place, &mut raw)?;
        let record = FileRecord::from_disk(number, raw).map_err(|e| self.in_record(number, e))?;
        self.record_cache
            .borrow_mut()
            .put(number, Arc::clone(&record.bytes));
        Ok(record)
    }

    /// The record of a file that is in use, not one that holds more attributes of another.
    fn base_record(&self, number: u64) -> Result<FileRecord> {
        let record = self.record(number)?;
        if !record.header.has(flag::IN_USE) || record.owner() != number {
            return Err(self.fault(NtfsError::NotFound(format!("file record {number} is no file"))));
        }
        Ok(record)
    }
}

/// Reads and parses the boot sector of `disk`.
fn read_boot_sector(disk: &dyn Disk) -> Result<BootSector> {
    let mut bytes = [0; boot_sector::LENGTH];
    if disk.size() < bytes.len() as u64 {
        return Err(NtfsError::NotNtfs("it is smaller than a boot sector").on(disk.label()));
    }
    disk.read_at(0, &mut bytes)?;
    let boot = BootSector::parse(&bytes).map_err(|e| e.on(disk.label()).at(0))?;
    if boot.length > disk.size() {
        return Err(NtfsError::damaged(format!(
            "the boot sector says {} bytes, the volume has {}: it is cut short, or one part of several (a spanned or \
             striped dynamic volume)",
            boot.length,
            disk.size()
        ))
        .on(disk.label()));
    }
    Ok(boot)
}
