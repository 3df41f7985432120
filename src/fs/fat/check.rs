//! Looks at every chain of the volume: before the first edit, and to name what is free and what is data. Two files
//! in one cluster, a loop or a chain of the wrong length would turn an edit into damage.

use super::{
    FatFileSystem, ROOT,
    allocation_table::Link,
    boot_sector::{Width, info},
    directory::Directory,
};
use crate::{
    disk::{Error, Kind, Result},
    fs::Node,
};

/// One bit for every cluster: 32 MiB for the largest volume that there can be, some KiB for a usual one.
#[derive(Debug)]
pub(super) struct Used(Vec<u64>);

impl Used {
    fn contains(&self, cluster: u32) -> bool {
        let word = self.0.get(cluster as usize / 64).copied().unwrap_or(0);
        word >> (cluster % 64) & 1 != 0
    }

    /// Was it new?
    fn insert(&mut self, cluster: u32) -> bool {
        let new = !self.contains(cluster);
        if let Some(word) = self.0.get_mut(cluster as usize / 64) {
            *word |= 1 << (cluster % 64);
        }
        new
    }
}

/// Bits of entry 1 of the allocation table: "was unmounted" and "no read or write error was met".
fn flags(width: Width) -> Option<(u32, u32)> {
    match width {
        Width::Fat12 => None,
        Width::Fat16 => Some((0x8000, 0x4000)),
        Width::Fat32 => Some((0x0800_0000, 0x0400_0000)),
    }
}
/// Bits of the state byte of the boot sector.
const NOT_UNMOUNTED: u8 = 0x01;
const ERRORS_MET: u8 = 0x02;

impl FatFileSystem {
    /// Walks all directories, calls `each` with the clusters of every file, and gives the clusters in use. Fails on
    /// anything that `fsck.fat` would have to decide about.
    pub(super) fn survey(&self, each: &mut dyn FnMut(Node, &[u32]) -> Result<()>) -> Result<Used> {
        let mut used = Used(vec![
            0;
            (self.boot.clusters as usize).saturating_add(2).div_ceil(64)
        ]);
        // Every directory but the fixed root takes a cluster that nobody had: the walk ends.
        let mut waiting = vec![(self.boot.root_cluster, None)];
        while let Some((cluster, parent)) = waiting.pop() {
            let directory = self.directory_at(cluster)?;
            self.take(&mut used, &directory.chain)?;
            if let Some(parent) = parent {
                self.check_dots(&directory, parent)?;
            }
            for named in directory.entries(self.large()) {
                let entry = &named.entry;
                if entry.is_directory() {
                    // 0 would be the root again.
                    self.cluster_range(entry.cluster)?;
                    waiting.push((entry.cluster, Some(cluster)));
                    continue;
                }
                let chain = self.chain(entry.cluster)?;
                let expected = u64::from(entry.size).div_ceil(self.boot.cluster_size);
                if chain.len() as u64 != expected {
                    let name = String::from_utf8_lossy(&named.name).into_owned();
                    return Err(self.damaged(
                        Some(named.location),
                        format!(
                            "the file \"{name}\" of {} bytes has {} clusters, not {expected}",
                            entry.size,
                            chain.len()
                        ),
                    ));
                }
                self.take(&mut used, &chain)?;
                each(self.nodes.node(named.location), &chain)?;
            }
        }
        Ok(used)
    }

    fn take(&self, used: &mut Used, chain: &[u32]) -> Result<()> {
        match chain.iter().find(|cluster| !used.insert(**cluster)) {
            None => Ok(()),
            Some(twice) => {
                let offset = self.boot.cluster(*twice).map(|range| range.start);
                Err(self.damaged(offset, format!("cluster {twice} belongs to two files")))
            }
        }
    }

    fn check_dots(&self, directory: &Directory, parent: u32) -> Result<()> {
        // The root is called 0 there, also on FAT32.
        let expected = if parent == self.boot.root_cluster {
            0
        } else {
            parent
        };
        match directory.parent(self.large()) {
            Some((_, cluster)) if cluster == expected => Ok(()),
            Some((at, cluster)) => Err(self.damaged(
                Some(at),
                format!("`..` leads to cluster {cluster}, its directory is at {expected}"),
            )),
            None => {
                let at = directory.location(0);
                Err(self.damaged(
                    at,
                    format!("the directory at cluster {} has no `..`", directory.cluster),
                ))
            }
        }
    }

    /// Makes ready for the first edit: refuses what is damaged, releases clusters that belong to nothing.
    pub(super) fn prepare(&mut self) -> Result<()> {
        if self.prepared {
            return Ok(());
        }
        let unsafe_now = |error: Error| match error.kind {
            Kind::Corrupt => Error {
                kind: Kind::Unsafe,
                ..error
            },
            _ => error,
        };
        if !self.table.copies_agree()? {
            return Err(unsafe_now(self.damaged(
                Some(self.boot.table_start),
                "the copies of the allocation table differ",
            )));
        }
        let (not_unmounted, errors_met) = self.state()?;
        if errors_met {
            return Err(self.error(
                Kind::Unsafe,
                Some(self.boot.state),
                "the volume is flagged as having met read or write errors; check it with `fsck.fat -a -t`",
            ));
        }
        let used = self.survey(&mut |_, _| Ok(())).map_err(unsafe_now)?;
        let (mut free, mut lost) = (0_u32, 0_u32);
        for cluster in 2..self.boot.clusters.saturating_add(2) {
            match self.table.link(cluster)? {
                Link::Free => free += 1,
                Link::Bad => {}
                _ if used.contains(cluster) => {}
                _ => {
                    self.table.set(cluster, Link::Free)?;
                    lost += 1;
                    free += 1;
                }
            }
        }
        if not_unmounted {
            self.remarks
                .push("was not unmounted: checked whole and found consistent".into());
        }
        if lost > 0 {
            self.remarks
                .push(format!("{lost} clusters that belonged to no file released"));
        }
        self.free_clusters = free;
        self.prepared = true;
        Ok(())
    }

    /// Was it left mounted, and did it meet errors?
    fn state(&self) -> Result<(bool, bool)> {
        let mut state = [0];
        self.disk.read_at(self.boot.state, &mut state)?;
        let [state] = state;
        let (mut not_unmounted, mut errors_met) = (state & NOT_UNMOUNTED != 0, state & ERRORS_MET != 0);
        if let Some((clean, sound)) = flags(self.boot.width) {
            let raw = self.table.raw(1)?;
            not_unmounted |= raw & clean == 0;
            errors_met |= raw & sound == 0;
        }
        Ok((not_unmounted, errors_met))
    }

    /// Says "clean", and how much is free.
    pub(super) fn put_state(&mut self) -> Result<()> {
        let mut state = [0];
        self.disk.read_at(self.boot.state, &mut state)?;
        let [old] = state;
        if old & NOT_UNMOUNTED != 0 {
            self.disk.write_at(self.boot.state, &[old & !NOT_UNMOUNTED])?;
        }
        if let Some((clean, _)) = flags(self.boot.width) {
            let raw = self.table.raw(1)?;
            if raw & clean == 0 {
                self.table.set_raw(1, raw | clean)?;
            }
        }
        let Some(offset) = self.boot.info else {
            return Ok(());
        };
        let mut sector = [0; super::BOOT_SECTOR];
        self.disk.read_at(offset, &mut sector)?;
        if info::is_valid(&sector) {
            let next = if self.boot.cluster(self.hint).is_some() {
                self.hint
            } else {
                2
            };
            for (at, value) in [(info::FREE_COUNT, self.free_clusters), (info::NEXT_FREE, next)] {
                self.disk.write_at(offset + at as u64, &value.to_le_bytes())?;
            }
        }
        Ok(())
    }

    /// Does `directory` lie in the directory that begins at `cluster`, or is it that one?
    pub(super) fn lies_within(&self, directory: Node, cluster: u32) -> Result<bool> {
        let mut here = if directory == ROOT {
            0
        } else {
            self.entry(directory)?.cluster
        };
        for _ in 0..=self.boot.clusters {
            if here == cluster {
                return Ok(true);
            }
            if here == 0 || here == self.boot.root_cluster {
                return Ok(false);
            }
            here = self
                .directory_at(here)?
                .parent(self.large())
                .map_or(0, |(_, parent)| parent);
        }
        Err(self.damaged(None, "the directories form a loop"))
    }
}
