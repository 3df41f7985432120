//! Reading an attribute wherever it lies: in a record, in clusters, mapped in one record or in thousands.

use super::{
    Ntfs,
    attribute::{Attribute, Form, Sizes, flag},
    attribute_list::Entry,
    data_runs::{self, Run},
    error::{NtfsError, Parsed},
    file_record::FileRecord,
};
use crate::fs::Result;
use std::ops::Range;

/// An attribute of a file.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// The file's record.
    pub(super) owner: u64,
    pub(super) kind: u32,
    pub(super) name: Vec<u16>,
    pub(super) flags: u16,
    /// 2^n clusters are compressed together.
    pub(super) compression_unit: u8,
    pub(super) sizes: Sizes,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Resident(Vec<u8>),
    Clusters {
        /// Where the parts of its map are, in order.
        parts: Vec<Part>,
        /// The part that was used last.
        last: Option<(usize, Vec<Run>)>,
    },
}

/// A part of the map of clusters.
#[derive(Clone, Copy, Debug)]
struct Part {
    vcn: u64,
    record: u64,
    instance: u16,
}

impl Stream {
    /// From its first, or only, part.
    pub(super) fn new(record: &FileRecord, attribute: &Attribute<'_>, name: Vec<u16>) -> Parsed<Self> {
        let (place, sizes, compression_unit) = match &attribute.form {
            Form::Resident { value, .. } => {
                let size = value.len() as u64;
                let sizes = Sizes {
                    allocated: size.next_multiple_of(8),
                    size,
                    initialized: size,
                };
                (Place::Resident(value.to_vec()), sizes, 0)
            }
            Form::NonResident(part) => {
                if part.vcns.start != 0 {
                    return Err(NtfsError::damaged(format!(
                        "attribute {:#x} begins at cluster {}",
                        attribute.kind, part.vcns.start
                    )));
                }
                let parts = vec![Part {
                    vcn: 0,
                    record: record.number,
                    instance: attribute.instance,
                }];
                let place = Place::Clusters { parts, last: None };
                (place, part.sizes, part.compression_unit)
            }
        };
        Ok(Self {
            owner: record.owner(),
            kind: attribute.kind,
            name,
            flags: attribute.flags,
            compression_unit,
            sizes,
            place,
        })
    }

    /// With all the parts that the attribute list has.
    pub(super) fn in_parts(mut self, entries: &[&Entry]) -> Self {
        if let Place::Clusters { parts, .. } = &mut self.place {
            *parts = entries
                .iter()
                .map(|entry| Part {
                    vcn: entry.vcn,
                    record: entry.record.number,
                    instance: entry.instance,
                })
                .collect();
        }
        self
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.flags & flag::COMPRESSION != 0 && matches!(self.place, Place::Clusters { .. })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.flags & flag::ENCRYPTED != 0
    }

    /// The contents, if they are in the record.
    pub(super) fn resident(&self) -> Option<&[u8]> {
        match &self.place {
            Place::Resident(value) => Some(value),
            Place::Clusters { .. } => None,
        }
    }
}

impl Ntfs {
    /// The run from cluster `vcn` of an attribute on.
    pub(super) fn run_at(&self, stream: &mut Stream, vcn: u64) -> Result<Run> {
        let Stream {
            owner,
            kind,
            name,
            place,
            ..
        } = stream;
        let nowhere = || {
            let what = format!("cluster {vcn} of its attribute {kind:#x} is mapped nowhere");
            self.damaged(*owner, what)
        };
        let Place::Clusters { parts, last } = place else {
            return Err(nowhere());
        };
        let index = parts
            .partition_point(|part| part.vcn <= vcn)
            .checked_sub(1)
            .ok_or_else(nowhere)?;
        let part = *parts.get(index).ok_or_else(nowhere)?;
        if let Some((known, runs)) = last
            && *known == index
        {
            return data_runs::find(runs, vcn).ok_or_else(nowhere);
        }
        let record = self.record(part.record)?;
        if record.owner() != *owner {
            return Err(nowhere());
        }
        let parse = || -> Parsed<Option<Vec<Run>>> {
            for attribute in record.attributes() {
                let attribute = attribute?;
                if let Form::NonResident(found) = &attribute.form
                    && attribute.is(*kind, name)
                    && found.vcns.start == part.vcn
                    && attribute.instance == part.instance
                {
                    return data_runs::parse(found.runs, found.vcns.clone(), self.boot.clusters).map(Some);
                }
            }
            Ok(None)
        };
        let runs = parse()
            .map_err(|e| self.in_record(part.record, e))?
            .ok_or_else(nowhere)?;
        let (_, runs) = last.insert((index, runs));
        data_runs::find(runs, vcn).ok_or_else(nowhere)
    }

    /// Fills `buffer` from byte `offset` of what is in clusters, as it stands there, whatever the sizes say.
    pub(super) fn read_clusters(&self, stream: &mut Stream, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_by_runs(offset, buffer, |vcn| self.run_at(stream, vcn))
    }

    /// Reads of an attribute that is not compressed; gives how many bytes, 0 at the end.
    pub(super) fn read_plain(&self, stream: &mut Stream, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let left = stream.sizes.size.saturating_sub(offset);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        if let Some(value) = stream.resident() {
            // Less than the size of a record.
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let from = value.get(at..).unwrap_or_default();
            buffer.copy_from_slice(from.get(..count).unwrap_or_default());
            return Ok(count);
        }
        let written = stream.sizes.initialized.saturating_sub(offset);
        let written = usize::try_from(written).unwrap_or(usize::MAX).min(count);
        let (here, zeros) = buffer.split_at_mut(written);
        self.read_clusters(stream, offset, here)?;
        zeros.fill(0);
        Ok(count)
    }

    /// All of an attribute that has no more than `limit` bytes and is not compressed.
    pub(super) fn whole(&self, stream: &mut Stream, limit: u64) -> Result<Vec<u8>> {
        let size = stream.sizes.size;
        if size > limit {
            return Err(self.in_record(
                stream.owner,
                NtfsError::Unsupported(format!(
                    "file record {}: attribute {:#x} \"{}\" has {size} bytes, more than the {limit} that it is read \
                     up to",
                    stream.owner,
                    stream.kind,
                    super::name::shown(&stream.name)
                )),
            ));
        }
        let mut value = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_plain(stream, 0, &mut value)?;
        Ok(value)
    }

    /// Calls `each` with the runs that have the clusters `vcns`, holes too.
    pub(super) fn each_run(
        &self,
        stream: &mut Stream,
        vcns: Range<u64>,
        each: &mut dyn FnMut(Run) -> Result<()>,
    ) -> Result<()> {
        let mut vcn = vcns.start;
        while vcn < vcns.end {
            let run = self.run_at(stream, vcn)?.until(vcns.end);
            vcn = run.end();
            each(run)?;
        }
        Ok(())
    }
}
