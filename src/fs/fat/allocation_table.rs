//! The file allocation table (specification, "FAT Data Structure"): which cluster follows which. Pages of it are
//! kept in memory; what was changed goes to every copy of the table.

use super::boot_sector::{BootSector, Width};
use crate::disk::{Disk, Error, Kind, Result};
use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

/// What the table says about one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Free,
    Next(u32),
    End,
    Bad,
    /// A value that the specification gives no meaning, or a cluster that does not exist.
    Invalid(u32),
}

/// A multiple of 3 (so that no 12-bit pair is split), of every sector size, and small beside any table.
const PAGE: u64 = 3 * 16384;
/// At most this many pages stay in memory: 12 MiB, where a table of FAT32 may have 1 GiB.
const MOST_PAGES: usize = 256;

#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    changed: bool,
}

#[derive(Debug)]
pub(super) struct AllocationTable {
    disk: Arc<dyn Disk>,
    boot: BootSector,
    pages: RefCell<BTreeMap<u64, Page>>,
}

impl AllocationTable {
    pub(super) fn new(disk: Arc<dyn Disk>, boot: BootSector) -> Self {
        Self {
            disk,
            boot,
            pages: RefCell::new(BTreeMap::new()),
        }
    }

    /// Offsets of the tables that are kept in step; the first is the one that is read.
    fn copies(&self) -> impl Iterator<Item = u64> + use<> {
        let boot = &self.boot;
        let (start, length) = (boot.table_start, boot.table_length);
        let range = match boot.only_table {
            Some(only) => only..only + 1,
            None => 0..boot.table_count,
        };
        range.map(move |copy| start + copy * length)
    }

    /// What stands at `cluster`: entries 0 and 1 hold flags, all others links.
    pub(super) fn raw(&self, cluster: u32) -> Result<u32> {
        let cluster64 = u64::from(cluster);
        match self.boot.width {
            Width::Fat12 => {
                let pair = self.field(cluster64 * 3 / 2)?;
                Ok(u32::from(if cluster & 1 == 0 {
                    pair & 0x0fff
                } else {
                    pair >> 4
                }))
            }
            Width::Fat16 => Ok(u32::from(self.field(cluster64 * 2)?)),
            Width::Fat32 => {
                let low = u32::from(self.field(cluster64 * 4)?);
                let high = u32::from(self.field(cluster64 * 4 + 2)?);
                Ok((high << 16 | low) & 0x0fff_ffff)
            }
        }
    }

    /// The link of `cluster`, which must be one of the volume's.
    pub(super) fn link(&self, cluster: u32) -> Result<Link> {
        self.check(cluster)?;
        let raw = self.raw(cluster)?;
        let (bad, end) = match self.boot.width {
            Width::Fat12 => (0xff7, 0xff8),
            Width::Fat16 => (0xfff7, 0xfff8),
            Width::Fat32 => (0x0fff_fff7, 0x0fff_fff8),
        };
        Ok(match raw {
            0 => Link::Free,
            _ if raw >= end => Link::End,
            _ if raw == bad => Link::Bad,
            _ if (2..self.boot.clusters + 2).contains(&raw) => Link::Next(raw),
            _ => Link::Invalid(raw),
        })
    }

    /// Changes the link of `cluster`.
    pub(super) fn set(&self, cluster: u32, link: Link) -> Result<()> {
        self.check(cluster)?;
        let raw = match link {
            Link::Free => 0,
            Link::Next(next) | Link::Invalid(next) => next,
            Link::End => 0x0fff_ffff,
            Link::Bad => 0x0fff_fff7,
        };
        self.set_raw(cluster, raw)
    }

    /// Changes the entry of `cluster`; the upper bits that FAT32 reserves stay as they are.
    pub(super) fn set_raw(&self, cluster: u32, raw: u32) -> Result<()> {
        let cluster64 = u64::from(cluster);
        let low = (raw & 0xffff) as u16;
        match self.boot.width {
            Width::Fat12 => {
                let at = cluster64 * 3 / 2;
                let old = self.field(at)?;
                let new = if cluster & 1 == 0 {
                    old & 0xf000 | low & 0x0fff
                } else {
                    old & 0x000f | low << 4
                };
                self.set_field(at, new)
            }
            Width::Fat16 => self.set_field(cluster64 * 2, low),
            Width::Fat32 => {
                let at = cluster64 * 4;
                let reserved = self.field(at + 2)? & 0xf000;
                let high = (raw >> 16 & 0x0fff) as u16;
                self.set_field(at, low)?;
                self.set_field(at + 2, high | reserved)
            }
        }
    }

    /// The first free cluster at or after `hint`, going round once; `None` if there is none.
    pub(super) fn find_free(&self, hint: u32) -> Result<Option<u32>> {
        let end = self.boot.clusters + 2;
        let hint = if (2..end).contains(&hint) { hint } else { 2 };
        for cluster in (hint..end).chain(2..hint) {
            if self.raw(cluster)? == 0 {
                return Ok(Some(cluster));
            }
        }
        Ok(None)
    }

    /// Calls `each` with every run of free clusters, as first cluster and count.
    pub(super) fn free_runs(&self, each: &mut dyn FnMut(u32, u32) -> Result<()>) -> Result<()> {
        let end = self.boot.clusters + 2;
        let mut start = None;
        for cluster in 2..end {
            match (self.raw(cluster)? == 0, start) {
                (true, None) => start = Some(cluster),
                (false, Some(first)) => {
                    each(first, cluster - first)?;
                    start = None;
                }
                _ => {}
            }
        }
        match start {
            Some(first) => each(first, end - first),
            None => Ok(()),
        }
    }

    /// Do all copies of the table hold the same links?
    pub(super) fn copies_agree(&self) -> Result<bool> {
        let used = match self.boot.width {
            Width::Fat12 => (u64::from(self.boot.clusters) + 2) * 3 / 2,
            Width::Fat16 => (u64::from(self.boot.clusters) + 2) * 2,
            Width::Fat32 => (u64::from(self.boot.clusters) + 2) * 4,
        }
        .min(self.boot.table_length);
        let mut copies = self.copies();
        let Some(first) = copies.next() else {
            return Ok(true);
        };
        let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        for copy in copies {
            let mut at = 0;
            while at < used {
                let count = usize::try_from((used - at).min(1 << 16)).unwrap_or(0);
                let (left, right) = (
                    left.get_mut(..count).unwrap_or_default(),
                    right.get_mut(..count).unwrap_or_default(),
                );
                self.disk.read_at(first + at, left)?;
                self.disk.read_at(copy + at, right)?;
                if left != right {
                    return Ok(false);
                }
                at += count as u64;
            }
        }
        Ok(true)
    }

    /// Writes what was changed to every copy of the table.
    pub(super) fn flush(&self) -> Result<()> {
        for (index, page) in self.pages.borrow_mut().iter_mut() {
            self.write(*index, page)?;
        }
        Ok(())
    }

    fn check(&self, cluster: u32) -> Result<()> {
        if self.boot.cluster(cluster).is_some() {
            return Ok(());
        }
        Err(Error::new(
            Kind::Corrupt,
            self.disk.label(),
            format!(
                "cluster {cluster} is named, but the volume has clusters 2 to {}; repair it with `fsck.fat -a`",
                self.boot.clusters.saturating_add(1)
            ),
        ))
    }

    fn field(&self, at: u64) -> Result<u16> {
        Ok(u16::from_le_bytes([self.byte(at)?, self.byte(at + 1)?]))
    }

    fn set_field(&self, at: u64, value: u16) -> Result<()> {
        for (at, byte) in (at..).zip(value.to_le_bytes()) {
            self.with_page(at / PAGE, |page| {
                if let Some(place) = page
                    .bytes
                    .get_mut(usize::try_from(at % PAGE).unwrap_or(usize::MAX))
                {
                    *place = byte;
                    page.changed = true;
                }
            })?;
        }
        Ok(())
    }

    fn byte(&self, at: u64) -> Result<u8> {
        self.with_page(at / PAGE, |page| {
            let index = usize::try_from(at % PAGE).unwrap_or(usize::MAX);
            // Only the last 12-bit entry of a table of odd length reaches past its end; its other half is unused.
            page.bytes.get(index).copied().unwrap_or(0)
        })
    }

    fn with_page<T>(&self, index: u64, work: impl FnOnce(&mut Page) -> T) -> Result<T> {
        let mut pages = self.pages.borrow_mut();
        if let Some(page) = pages.get_mut(&index) {
            return Ok(work(page));
        }
        if pages.len() >= MOST_PAGES {
            for (index, page) in pages.iter_mut() {
                self.write(*index, page)?;
            }
            pages.clear();
        }
        let offset = index * PAGE;
        let length = self.boot.table_length.saturating_sub(offset).min(PAGE);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        if let Some(first) = self.copies().next() {
            self.disk.read_at(first + offset, &mut bytes)?;
        }
        let page = pages.entry(index).or_insert(Page {
            bytes,
            changed: false,
        });
        Ok(work(page))
    }

    fn write(&self, index: u64, page: &mut Page) -> Result<()> {
        if page.changed {
            for copy in self.copies() {
                self.disk.write_at(copy + index * PAGE, &page.bytes)?;
            }
            page.changed = false;
        }
        Ok(())
    }
}
