//! Looking something up in an index, and walking through all of it: directories, and the filesystem's own tables.

use super::{
    Ntfs,
    attribute::kind,
    error::NtfsError,
    file::File,
    file_name,
    index_node::{self, BLOCK_NODE, Entry, ROOT_NODE, RootHeader},
    name,
    stream::Stream,
};
use crate::fs::Result;
use std::{cmp::Ordering, collections::HashSet, sync::Arc};

/// The name of a directory's index.
pub(super) const DIRECTORY: [u16; 4] = [0x24, 0x49, 0x33, 0x30];
/// Names in a directory make four levels at most; a loop makes more.
const MOST_LEVELS: usize = 32;
/// A root stands in one record.
const MOST_ROOT: u64 = 65536;

/// An index of a file.
#[derive(Debug)]
pub(super) struct Index {
    owner: u64,
    pub(super) header: RootHeader,
    root: Arc<[u8]>,
    /// None in a small one.
    blocks: Option<Stream>,
}

/// A name of a directory's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The record of the file.
    pub(super) number: u64,
    /// As it is spelled there.
    pub(super) name: Vec<u16>,
    pub(super) namespace: u8,
}

impl Ntfs {
    pub(super) fn index(&self, file: &File, name: &[u16]) -> Result<Option<Index>> {
        let Some(root) = self.value(file, kind::INDEX_ROOT, name, MOST_ROOT)? else {
            return Ok(None);
        };
        let header = RootHeader::parse(&root).map_err(|e| self.in_record(file.number(), e))?;
        let blocks = self.stream(file, kind::INDEX_ALLOCATION, name)?;
        Ok(Some(Index {
            owner: file.number(),
            header,
            root: root.into(),
            blocks,
        }))
    }

    /// The index of a directory.
    pub(super) fn directory_index(&self, file: &File) -> Result<Index> {
        if !file.record.is_directory() {
            return Err(self.fault(NtfsError::NotFound(format!(
                "file record {} is no directory",
                file.number()
            ))));
        }
        self.index(file, &DIRECTORY)?
            .ok_or_else(|| self.damaged(file.number(), "is a directory without an index"))
    }

    /// Bytes that a block's number counts: clusters, or 512 where a cluster is larger than a block.
    pub(super) fn block_unit(&self, block_size: u32) -> u64 {
        if self.boot.cluster_size > u64::from(block_size) {
            512
        } else {
            self.boot.cluster_size
        }
    }

    /// Reads block `vcn` of an index, through the cache.
    fn index_block(&self, index: &mut Index, vcn: u64) -> Result<Arc<[u8]>> {
        let owner = index.owner;
        let missing = |what: &str| self.damaged(owner, format!("block {vcn} of its index {what}"));
        let block_size = u64::from(index.header.block_size);
        let stream = index.blocks.as_mut().ok_or_else(|| missing("is nowhere"))?;
        let offset = vcn.saturating_mul(self.block_unit(index.header.block_size));
        let end = offset.saturating_add(block_size);
        if stream.resident().is_some() || !offset.is_multiple_of(block_size) || end > stream.sizes.initialized
        {
            return Err(missing("lies outside of it"));
        }
        let run = self.run_at(stream, offset / self.boot.cluster_size)?;
        let place = run.lcn.ok_or_else(|| missing("is a hole"))?;
        let place = self.byte(place).saturating_add(offset % self.boot.cluster_size);
        let cached = self.block_cache.borrow_mut().get(place);
        if let Some(bytes) =
            cached.filter(|bytes| bytes.len() as u64 == block_size && index_node::is_block(bytes, vcn))
        {
            return Ok(bytes);
        }
        let mut raw = vec![0; usize::try_from(block_size).unwrap_or(0)];
        self.read_clusters(stream, offset, &mut raw)?;
        index_node::restore_block(&mut raw, vcn).map_err(|e| self.in_record(owner, e).at(place))?;
        let bytes: Arc<[u8]> = raw.into();
        self.block_cache.borrow_mut().put(place, Arc::clone(&bytes));
        Ok(bytes)
    }

    /// Goes down to where a key is or would be. `compare` says how the wanted key stands to another; it sees the keys on both
    /// sides of the place. Gives the entry whose key is equal.
    pub(super) fn index_find(
        &self,
        index: &mut Index,
        compare: &mut dyn FnMut(&Entry<'_>) -> Result<Ordering>,
    ) -> Result<Option<Vec<u8>>> {
        let mut node = Arc::clone(&index.root);
        let mut start = ROOT_NODE;
        for _ in 0..MOST_LEVELS {
            let (entries, last) = index_node::entries(node.get(start..).unwrap_or_default())
                .map_err(|e| self.in_record(index.owner, e))?;
            let mut child = last;
            for entry in &entries {
                match compare(entry)? {
                    Ordering::Equal => return Ok(Some(entry.raw.to_vec())),
                    Ordering::Greater => {}
                    Ordering::Less => {
                        child = entry.child;
                        break;
                    }
                }
            }
            let Some(child) = child else {
                return Ok(None);
            };
            node = self.index_block(index, child)?;
            start = BLOCK_NODE;
        }
        Err(self.damaged(index.owner, "its index has no end"))
    }

    /// Calls `each` with every entry in order, until it says false.
    pub(super) fn index_each(
        &self,
        index: &mut Index,
        each: &mut dyn FnMut(&Entry<'_>) -> Result<bool>,
    ) -> Result<()> {
        let root = Arc::clone(&index.root);
        let mut seen = HashSet::new();
        self.walk(index, (&root, ROOT_NODE), 0, &mut seen, each)?;
        Ok(())
    }

    fn walk(
        &self,
        index: &mut Index,
        (node, start): (&[u8], usize),
        level: usize,
        seen: &mut HashSet<u64>,
        each: &mut dyn FnMut(&Entry<'_>) -> Result<bool>,
    ) -> Result<bool> {
        let (entries, last) = index_node::entries(node.get(start..).unwrap_or_default())
            .map_err(|e| self.in_record(index.owner, e))?;
        let ends = [None];
        let all = entries.iter().map(|entry| (entry.child, Some(entry)));
        for (child, entry) in all.chain(ends.into_iter().map(|end| (last, end))) {
            if let Some(vcn) = child {
                if level >= MOST_LEVELS || !seen.insert(vcn) {
                    return Err(
                        self.damaged(index.owner, format!("its index goes in circles at block {vcn}"))
                    );
                }
                let block = self.index_block(index, vcn)?;
                if !self.walk(index, (&block, BLOCK_NODE), level + 1, seen, each)? {
                    return Ok(false);
                }
            }
            if let Some(entry) = entry
                && !each(entry)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A name in a directory: the one that is spelled so, else one that differs in upper and lower case only, unless these
    /// are not the same there.
    pub(super) fn find_name(&self, directory: &File, wanted: &[u16]) -> Result<Option<Found>> {
        let mut index = self.directory_index(directory)?;
        let mut similar = None;
        let exact = self.index_find(&mut index, &mut |entry| {
            let key = entry.key().and_then(file_name::units);
            let key = key.map_err(|e| self.in_record(directory.number(), e))?;
            let order = self.upcase.compare(wanted.iter().copied(), name::units(key));
            if order != Ordering::Equal && self.upcase.same(wanted.iter().copied(), name::units(key)) {
                similar = Some(entry.raw.to_vec());
            }
            Ok(order)
        })?;
        if exact.is_none() && similar.is_some() && self.standard_information(directory)?.is_case_sensitive() {
            return Ok(None);
        }
        exact
            .or(similar)
            .map(|raw| found(&raw).map_err(|e| self.in_record(directory.number(), e)))
            .transpose()
    }

    /// Calls `each` with every name of a directory but those for DOS beside others.
    pub(super) fn each_name(&self, directory: &File, each: &mut dyn FnMut(Found) -> bool) -> Result<()> {
        let mut index = self.directory_index(directory)?;
        self.index_each(&mut index, &mut |entry| {
            let found = found(entry.raw).map_err(|e| self.in_record(directory.number(), e))?;
            Ok(found.namespace == file_name::namespace::DOS || each(found))
        })
    }
}

fn found(raw: &[u8]) -> super::Parsed<Found> {
    let entry = Entry { raw, child: None };
    let name = file_name::FileName::parse(entry.key()?)?;
    Ok(Found {
        number: entry.reference()?.number,
        name: name.name,
        namespace: name.namespace,
    })
}
