//! Checking: every cluster is counted as often as something refers to it, as `qemu-img check` does.

use super::{
    bitmap,
    disk::Qcow2,
    header::Header,
    l2_table::{self, COPIED, OFFSET},
    refcount::{count_at, read_table},
    snapshot,
};
use crate::{
    disk::{Disk, Error, Kind, Result},
    image::{Check, pages::Pages},
};

/// One count of two bytes each is held in memory: 64 MiB, for files of 2 TiB at the usual cluster size.
const MOST_CLUSTERS: u64 = 32 << 20;

/// A file made to take for ever has more tables than this, or more entries in them, each of which is looked at; a disk of 64
/// TiB has not, and neither has one of 1 TiB with 60 snapshots, at the usual cluster size.
const MOST_TABLES: u64 = 1 << 20;
const MOST_ENTRIES: u64 = 1 << 30;

/// Entries of the first-level tables of all snapshots together: 1 GiB is read.
const MOST_SNAPSHOT_ENTRIES: u64 = 1 << 27;

/// More findings of an image tell nobody anything.
const MOST_FINDINGS: usize = 100;

/// Structure errors and leaks of `image`.
pub(super) fn check(image: &Qcow2) -> Result<Check> {
    let (mut checker, refcount_table) = count(image)?;
    let counts = Counts::new(image, &refcount_table);
    checker.check_copied_flags(&counts, |_, _| Ok(()))?;
    checker.compare(&counts, |_, _| Ok(()))?;
    Ok(checker.into_found())
}

/// Corrects counts that are too high, and the flags that depend on them. Gives how many bytes that was.
pub(super) fn repair_leaks(image: &Qcow2) -> Result<u64> {
    let writer = image.writer()?;
    let (mut checker, refcount_table) = count(image)?;
    let counts = Counts::new(image, &refcount_table);
    checker.compare(&counts, |_, _| Ok(()))?;
    if let Some(error) = checker.found.errors.first() {
        let text = format!(
            "has errors, and its leaks are left as they are: {error}; `qemu-img check -r all` on a copy mends what it can"
        );
        return Err(Error::new(Kind::Unsafe, image.label(), text));
    }
    let cluster = image.header.cluster_size();
    let leaked = checker.found.leaked;
    checker.found = Check::default();
    checker.compare(&counts, |index, used| {
        writer.refcounts.set(index, used)?;
        if used == 0 {
            image.discard_host(index * cluster..(index + 1) * cluster)?;
        }
        Ok(())
    })?;
    // As they are now.
    let counts = Counts::new(image, &refcount_table);
    checker.check_copied_flags(&counts, |place, word| image.set_word(place, word))?;
    Ok(leaked)
}

/// Counts what the image refers to. Gives the places of its refcount blocks too.
fn count(image: &Qcow2) -> Result<(Checker<'_>, Vec<u64>)> {
    let cluster = image.header.cluster_size();
    let clusters = image.container.size().div_ceil(cluster);
    if clusters > MOST_CLUSTERS {
        return Err(too_large(image, "has too many clusters"));
    }
    let mut checker = Checker {
        image,
        used: vec![0; usize::try_from(clusters).unwrap_or(0)],
        active: Vec::new(),
        found: Check::default(),
        more_errors: 0,
        more_leaks: 0,
        tables: 0,
        entries: 0,
        most_tables: clusters,
    };
    let refcount_table = read_table(image.container.as_ref(), &image.header)?;
    let (snapshots, snapshot_bytes) = snapshot::read(image.container.as_ref(), &image.header)?;
    checker.most_tables = clusters.saturating_mul(snapshots.len() as u64 + 1);
    let snapshot_entries = snapshots.iter().map(|snapshot| u64::from(snapshot.l1_size));
    if snapshot_entries.sum::<u64>() > MOST_SNAPSHOT_ENTRIES {
        return Err(too_large(image, "has too many snapshots of too large a disk"));
    }
    checker.count_fixed_tables(&refcount_table, snapshot_bytes);
    bitmap::each_range(
        image.container.as_ref(),
        &image.header,
        &mut |offset, length, what| {
            checker.count_range(offset, length, what);
        },
    )?;
    let (offset, entries) = (image.header.l1_offset, image.header.l1_size);
    let active = checker.read_l1("first-level table", offset, entries)?;
    for entry in &active {
        checker.count_table(*entry)?;
    }
    for snapshot in &snapshots {
        let (offset, entries) = (snapshot.l1_offset, snapshot.l1_size);
        let l1 = checker.read_l1("first-level table of a snapshot", offset, entries)?;
        checker.count_range(
            snapshot.l1_offset,
            u64::from(snapshot.l1_size) * 8,
            "a snapshot's table",
        );
        for entry in l1 {
            checker.count_table(entry)?;
        }
    }
    checker.active = active;
    Ok((checker, refcount_table))
}

fn too_large(image: &Qcow2, what: &str) -> Error {
    let text = format!("{what} to be checked here: `qemu-img check` does it");
    Error::new(Kind::Unsupported, image.label(), text)
}

struct Checker<'a> {
    image: &'a Qcow2,
    /// How often each cluster is referred to; stays at the greatest value.
    used: Vec<u16>,
    /// The first-level table of the active disk.
    active: Vec<u64>,
    found: Check,
    more_errors: usize,
    more_leaks: usize,
    /// Second-level tables that were counted, and entries in them.
    tables: u64,
    entries: u64,
    /// More would mean that one disk uses a table twice.
    most_tables: u64,
}

impl Checker<'_> {
    fn header(&self) -> &Header {
        &self.image.header
    }

    fn find(&mut self, text: impl FnOnce() -> String) {
        if self.found.errors.len() < MOST_FINDINGS {
            self.found.errors.push(text());
        } else {
            self.more_errors = self.more_errors.saturating_add(1);
        }
    }

    fn find_leak(&mut self, bytes: u64, text: impl FnOnce() -> String) {
        self.found.leaked = self.found.leaked.saturating_add(bytes);
        if self.found.leaks.len() < MOST_FINDINGS {
            self.found.leaks.push(text());
        } else {
            self.more_leaks = self.more_leaks.saturating_add(1);
        }
    }

    fn into_found(mut self) -> Check {
        if self.more_errors > 0 {
            self.found
                .errors
                .push(format!("{} more errors", self.more_errors));
        }
        if self.more_leaks > 0 {
            self.found.leaks.push(format!("{} more leaks", self.more_leaks));
        }
        self.found
    }

    /// `length` bytes at `offset` are `what`.
    fn count_range(&mut self, offset: u64, length: u64, what: &str) {
        if length == 0 {
            return;
        }
        let cluster = self.header().cluster_size();
        let first = usize::try_from(offset / cluster).unwrap_or(usize::MAX);
        let end = usize::try_from(offset.saturating_add(length).div_ceil(cluster)).unwrap_or(usize::MAX);
        match self.used.get_mut(first..end) {
            Some(used) => used.iter_mut().for_each(|count| *count = count.saturating_add(1)),
            None => self.find(|| format!("{what} at byte {offset} lies past the end of the file")),
        }
    }

    fn count_fixed_tables(&mut self, refcount_table: &[u64], snapshot_bytes: u64) {
        let header = self.header().clone();
        let cluster = header.cluster_size();
        self.count_range(0, cluster, "the header");
        let table_bytes = u64::from(header.refcount_table_clusters) * cluster;
        self.count_range(header.refcount_table_offset, table_bytes, "the refcount table");
        self.count_range(
            header.l1_offset,
            u64::from(header.l1_size) * 8,
            "the first-level table",
        );
        self.count_range(header.snapshots_offset, snapshot_bytes, "the snapshot table");
        for entry in refcount_table.iter().filter(|entry| **entry != 0) {
            self.count_range(*entry & !511, cluster, "a refcount block");
        }
    }

    fn read_l1(&self, what: &'static str, offset: u64, entries: u32) -> Result<Vec<u64>> {
        let length = u64::from(entries) * 8;
        self.image.must_exist(what, offset, length)?;
        // Within LARGEST_L1, and the file has as many bytes.
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.image.container.read_at(offset, &mut bytes)?;
        Ok(l2_table::words(&bytes))
    }

    /// Counts the second-level table that `entry` of a first-level table names, and all that it refers to.
    fn count_table(&mut self, entry: u64) -> Result<()> {
        let host = entry & OFFSET;
        let cluster = self.header().cluster_size();
        if host == 0 {
            return Ok(());
        }
        self.count_entries(host)?;
        if !host.is_multiple_of(cluster) {
            self.find(|| format!("a second-level table at byte {host} does not begin a cluster"));
            return Ok(());
        }
        if host.saturating_add(cluster) > self.image.container.size() {
            self.find(|| format!("a second-level table at byte {host} lies past the end of the file"));
            return Ok(());
        }
        self.count_range(host, cluster, "a second-level table");
        if self.header().has_external_data() {
            // What the entries name is in the other file, which has no counts.
            return Ok(());
        }
        let table = self.image.table(host)?;
        for entry in self.entries(&table) {
            if l2_table::is_compressed(entry) {
                let (start, length) = l2_table::compressed(entry, self.header().cluster_bits);
                // The last sector need not be there wholly.
                let there = self.image.container.size().saturating_sub(start).min(length);
                self.count_range(start, there.max(1), "a compressed cluster");
            } else if let Some(data) = l2_table::standard_host(entry) {
                if data.is_multiple_of(cluster) {
                    self.count_range(data, 1, "a data cluster");
                } else {
                    self.find(|| format!("a data cluster at byte {data} does not begin a cluster"));
                }
            }
        }
        Ok(())
    }

    /// One table more, at byte `host`.
    fn count_entries(&mut self, host: u64) -> Result<()> {
        self.tables += 1;
        self.entries = self.entries.saturating_add(self.header().l2_entries());
        if self.tables > self.most_tables {
            let text = "names more second-level tables than the file has clusters, so some are used twice: it is damaged";
            return Err(Error::new(Kind::Corrupt, self.image.label(), text).at(host));
        }
        if self.tables > MOST_TABLES || self.entries > MOST_ENTRIES {
            return Err(too_large(self.image, "has too many tables"));
        }
        Ok(())
    }

    /// The entries of `table`, without the bitmaps of extended ones.
    fn entries(&self, table: &[u64]) -> Vec<u64> {
        let step = if self.header().has_extended_l2() { 2 } else { 1 };
        table.iter().copied().step_by(step).collect()
    }

    /// In tables of the active disk the flag says whether the count is exactly one. Calls `mend` with the place of an
    /// entry whose flag is wrong, and what it ought to be.
    fn check_copied_flags(
        &mut self,
        counts: &Counts<'_>,
        mut mend: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let cluster = self.header().cluster_size();
        let entry_size = self.header().l2_entry_size();
        let l1_offset = self.header().l1_offset;
        for (index, l1_entry) in (0_u64..).zip(self.active.clone()) {
            let host = l1_entry & OFFSET;
            let there = host.saturating_add(cluster) <= self.image.container.size();
            if host == 0 || !host.is_multiple_of(cluster) || !there {
                continue;
            }
            if let Some(word) = self.check_copied_flag(l1_entry, host, counts)? {
                mend(l1_offset + index * 8, word)?;
            }
            if self.header().has_external_data() {
                continue;
            }
            let table = self.image.table(host)?;
            for (index, entry) in (0_u64..).zip(self.entries(&table)) {
                let mended = if let Some(data) = l2_table::standard_host(entry) {
                    self.check_copied_flag(entry, data, counts)?
                } else if l2_table::is_compressed(entry) && entry & COPIED != 0 {
                    self.find(|| {
                        format!("an entry {entry:#018x} for a compressed cluster has the COPIED flag")
                    });
                    Some(entry & !COPIED)
                } else {
                    None
                };
                if let Some(word) = mended {
                    mend(host + index * entry_size, word)?;
                }
            }
        }
        Ok(())
    }

    /// Gives what `entry` ought to be if its flag is wrong.
    fn check_copied_flag(&mut self, entry: u64, host: u64, counts: &Counts<'_>) -> Result<Option<u64>> {
        let count = counts.of(host / self.header().cluster_size())?;
        if (count == 1) == (entry & COPIED != 0) {
            return Ok(None);
        }
        self.find(|| {
            format!("an entry {entry:#018x} names a cluster that is counted {count} times: its COPIED flag is wrong")
        });
        Ok(Some(entry ^ COPIED))
    }

    /// Calls `mend` with the number of a cluster that is counted too often, and how often it ought to be.
    fn compare(&mut self, counts: &Counts<'_>, mut mend: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let cluster = self.header().cluster_size();
        for index in 0..self.used.len() {
            let used = self.used.get(index).copied().unwrap_or(0);
            let count = counts.of(index as u64)?;
            let at = index as u64 * cluster;
            if count < u64::from(used) {
                self.find(|| {
                    format!("the cluster at byte {at} is used {used} times but counted {count} times")
                });
            } else if count > u64::from(used) && used < u16::MAX {
                self.find_leak(cluster, || {
                    format!("the cluster at byte {at} is used {used} times but counted {count} times")
                });
                mend(index as u64, u64::from(used))?;
            }
        }
        Ok(())
    }
}

/// The counts as the image has them.
struct Counts<'a> {
    image: &'a Qcow2,
    table: &'a [u64],
    /// Of the refcount blocks: neighbouring entries may be counted in different ones.
    pages: Pages,
}

impl<'a> Counts<'a> {
    fn new(image: &'a Qcow2, table: &'a [u64]) -> Self {
        Self {
            image,
            table,
            pages: Pages::default(),
        }
    }

    fn of(&self, cluster: u64) -> Result<u64> {
        let order = self.image.header.refcount_order;
        let size = self.image.header.cluster_size();
        let per_block = (size * 8) >> order;
        let entry = usize::try_from(cluster / per_block)
            .ok()
            .and_then(|index| self.table.get(index));
        let host = entry.copied().unwrap_or(0) & !511;
        if host == 0 {
            return Ok(0);
        }
        // The eight bytes that hold it: a divisor of the block, whatever the width.
        let per_word = 64 >> order;
        let index = cluster % per_block;
        let at = host.saturating_add(index / per_word * 8);
        let word: [u8; 8] = self.pages.array(self.image.container.as_ref(), at)?;
        Ok(count_at(
            &word,
            usize::try_from(index % per_word).unwrap_or(usize::MAX),
            order,
        ))
    }
}
