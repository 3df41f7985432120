//! The container as it was, seen while it is being overwritten: old bytes come from the undo file.

use super::file::UndoFile;
use crate::disk::{Content, Disk, Extent, Result, check_range};
use std::{ops::Range, sync::Arc};

/// Reads what the container held before the commit.
#[derive(Debug)]
pub(super) struct Before {
    container: Arc<dyn Disk>,
    undo: Arc<UndoFile>,
}

impl Before {
    pub(super) fn new(container: Arc<dyn Disk>, undo: Arc<UndoFile>) -> Self {
        Self { container, undo }
    }
}

impl Disk for Before {
    fn label(&self) -> &str {
        self.container.label()
    }

    fn size(&self) -> u64 {
        self.undo.sizes.0
    }

    fn sector_size(&self) -> u32 {
        self.container.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = check_range(self.label(), self.size(), offset, buffer.len() as u64)?;
        let records = &self.undo.records;
        let mut next = records.partition_point(|record| record.range.end <= offset);
        let (mut at, mut rest) = (offset, buffer);
        while at < end {
            let record = records.get(next).filter(|record| record.range.start < end);
            let saved = record.is_some_and(|record| record.range.start <= at);
            let piece_end = match record {
                Some(record) if saved => record.range.end.min(end),
                Some(record) => record.range.start,
                None => end,
            };
            let length = usize::try_from(piece_end - at).unwrap_or(usize::MAX);
            let Some((piece, after)) = rest.split_at_mut_checked(length) else {
                break;
            };
            match record {
                Some(record) if saved => {
                    self.undo.old(record, at, piece)?;
                    next += 1;
                }
                _ => self.container.read_at(at, piece)?,
            }
            rest = after;
            at = piece_end;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>> {
        Ok(if range.is_empty() {
            Vec::new()
        } else {
            vec![Extent::new(range, Content::Data)]
        })
    }
}
