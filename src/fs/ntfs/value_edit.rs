//! Changing what an attribute holds: in the record, or in clusters.

use super::{
    Ntfs,
    attribute::flag,
    data_runs::{self, Run},
    edited_file::{Clusters, EditedFile, OwnedAttribute, Value},
    error::NtfsError,
};
use crate::fs::Result;

/// Type and name of an attribute.
pub(super) type Key<'a> = (u32, &'a [u16]);

impl Ntfs {
    /// Writes to what `runs` map, from byte `offset` on.
    pub(super) fn write_runs(&self, runs: &[Run], offset: u64, bytes: &[u8]) -> Result<()> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let vcn = at / self.boot.cluster_size;
            let run = data_runs::find(runs, vcn).and_then(|run| Some((run.lcn?, run.clusters)));
            let (lcn, clusters) = run.ok_or_else(|| {
                self.fault(NtfsError::damaged(format!("cluster {vcn} of a table is nowhere")))
            })?;
            let within = at % self.boot.cluster_size;
            let available = self.byte(clusters).saturating_sub(within);
            let count = usize::try_from(available).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(count);
            self.disk.write_at(self.byte(lcn).saturating_add(within), now)?;
            at = at.saturating_add(count as u64);
            rest = later;
        }
        Ok(())
    }

    fn missing(&self, file: &EditedFile, (kind, name): Key<'_>) -> crate::disk::Error {
        let name = super::name::shown(name);
        self.damaged(file.number, format!("has no attribute {kind:#x} \"{name}\""))
    }

    /// Fills `buffer` from byte `offset` of a value; what is not initialized, and what lies behind the end, is zeros.
    pub(super) fn read_value(
        &self,
        file: &EditedFile,
        key: Key<'_>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        let attribute = file
            .attribute(key.0, key.1)
            .ok_or_else(|| self.missing(file, key))?;
        buffer.fill(0);
        match &attribute.value {
            Value::Resident { bytes, .. } => {
                let from = usize::try_from(offset)
                    .ok()
                    .and_then(|at| bytes.get(at..))
                    .unwrap_or_default();
                for (to, from) in buffer.iter_mut().zip(from) {
                    *to = *from;
                }
                Ok(())
            }
            Value::Clusters(clusters) => {
                let valid = clusters.initialized.min(clusters.size).saturating_sub(offset);
                let valid = usize::try_from(valid).unwrap_or(usize::MAX).min(buffer.len());
                self.read_runs(
                    &clusters.runs,
                    offset,
                    buffer.get_mut(..valid).unwrap_or_default(),
                )
            }
        }
    }

    /// Writes to a value, whose size stays. What is in the record is written with it.
    pub(super) fn write_value(
        &mut self,
        file: &mut EditedFile,
        key: Key<'_>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<()> {
        let position = file
            .position(key.0, key.1)
            .ok_or_else(|| self.missing(file, key))?;
        let end = offset.saturating_add(bytes.len() as u64);
        let number = file.number;
        let outside = |size: u64| format!("has an attribute of {size} bytes, where {end} are to be written");
        let Some(attribute) = file.attributes.get_mut(position) else {
            return Ok(());
        };
        match &mut attribute.value {
            Value::Resident { bytes: value, .. } => {
                let size = value.len() as u64;
                let at = usize::try_from(offset).unwrap_or(usize::MAX);
                crate::disk::field::put_bytes(value, at, bytes)
                    .map_err(|_| self.damaged(number, outside(size)))
            }
            Value::Clusters(clusters) => {
                if end > clusters.initialized {
                    return Err(self.damaged(number, outside(clusters.initialized)));
                }
                self.changed = true;
                self.write_runs(&clusters.runs, offset, bytes)
            }
        }
    }

    /// Makes a value longer or shorter; what is new is zeros. One that becomes too long for the record goes to clusters when
    /// the file is written.
    pub(super) fn resize_value(&mut self, file: &mut EditedFile, key: Key<'_>, size: u64) -> Result<()> {
        let position = file
            .position(key.0, key.1)
            .ok_or_else(|| self.missing(file, key))?;
        let needed = size.div_ceil(self.boot.cluster_size);
        let attribute = file.attributes.get(position);
        if let Some(Value::Resident { .. }) = attribute.map(|attribute| &attribute.value) {
            if size > self.boot.record_size as u64 {
                self.move_to_clusters(file, position)?;
            } else {
                let length = usize::try_from(size).unwrap_or(0);
                if let Some(Value::Resident { bytes, .. }) = file
                    .attributes
                    .get_mut(position)
                    .map(|attribute| &mut attribute.value)
                {
                    bytes.resize(length, 0);
                }
                return Ok(());
            }
        }
        let Some(Value::Clusters(clusters)) = file.attributes.get_mut(position).map(|a| &mut a.value) else {
            return Ok(());
        };
        let old_end = clusters.end();
        if needed > old_end {
            self.extend(clusters, needed - old_end, 0)?;
        } else {
            self.truncate(clusters, needed)?;
        }
        if size > clusters.initialized {
            self.zero(clusters, clusters.initialized, size)?;
        }
        clusters.size = size;
        clusters.initialized = size;
        Ok(())
    }

    /// Writes zeros to bytes `from` to `to` of what lies in clusters; holes stay.
    pub(super) fn zero(&mut self, clusters: &Clusters, from: u64, to: u64) -> Result<()> {
        self.changed = true;
        let mut at = from;
        while at < to {
            let vcn = at / self.boot.cluster_size;
            let Some(run) = data_runs::find(&clusters.runs, vcn) else {
                return Err(self.fault(NtfsError::damaged(format!("cluster {vcn} of a file is nowhere"))));
            };
            let within = at % self.boot.cluster_size;
            let count = self.byte(run.clusters).saturating_sub(within).min(to - at);
            if let Some(lcn) = run.lcn {
                let start = self.byte(lcn).saturating_add(within);
                self.disk.write_zeros(start..start.saturating_add(count))?;
            }
            at = at.saturating_add(count);
        }
        Ok(())
    }

    /// Adds clusters at the end. `more` are expected to follow soon: they should have room behind.
    pub(super) fn extend(&mut self, clusters: &mut Clusters, count: u64, more: u64) -> Result<()> {
        let goal = clusters.runs.last().and_then(Run::place).map(|place| place.end);
        for place in self.allocate_with_room(count, goal, more)? {
            let run = Run {
                vcn: clusters.end(),
                lcn: Some(place.start),
                clusters: place.end - place.start,
            };
            data_runs::push(&mut clusters.runs, run);
        }
        Ok(())
    }

    /// Gives back the clusters from `end` on.
    pub(super) fn truncate(&mut self, clusters: &mut Clusters, end: u64) -> Result<()> {
        while let Some(last) = clusters.runs.last().copied() {
            if last.end() <= end {
                break;
            }
            if let Some(place) = last.from(end).place() {
                self.free_clusters_of(place)?;
            }
            clusters.runs.pop();
            data_runs::push(&mut clusters.runs, last.until(end));
        }
        let bytes = self.byte(end);
        clusters.size = clusters.size.min(bytes);
        clusters.initialized = clusters.initialized.min(bytes);
        Ok(())
    }

    /// Writes bytes to clusters that are taken for them.
    pub(super) fn write_to_new_clusters(&mut self, bytes: &[u8]) -> Result<Clusters> {
        let size = bytes.len() as u64;
        let mut clusters = Clusters::default();
        self.extend(&mut clusters, size.div_ceil(self.boot.cluster_size), 0)?;
        clusters.size = size;
        clusters.initialized = size;
        let mut padded = bytes.to_vec();
        padded.resize(
            usize::try_from(self.byte(clusters.end())).unwrap_or(padded.len()),
            0,
        );
        self.changed = true;
        self.write_runs(&clusters.runs, 0, &padded)?;
        Ok(clusters)
    }

    /// Moves a value out of the record.
    pub(super) fn move_to_clusters(&mut self, file: &mut EditedFile, position: usize) -> Result<()> {
        let Some(OwnedAttribute {
            value: Value::Resident { bytes, .. },
            ..
        }) = file.attributes.get(position)
        else {
            return Ok(());
        };
        let bytes = bytes.clone();
        let clusters = self.write_to_new_clusters(&bytes)?;
        if let Some(attribute) = file.attributes.get_mut(position) {
            // A value in the record may wear the flag of a directory whose files are compressed.
            attribute.flags &= !(flag::COMPRESSION | flag::SPARSE);
            attribute.value = Value::Clusters(clusters);
        }
        Ok(())
    }

    /// Takes an attribute away, and gives its clusters back.
    pub(super) fn remove_attribute(&mut self, file: &mut EditedFile, key: Key<'_>) -> Result<()> {
        let Some(position) = file.position(key.0, key.1) else {
            return Ok(());
        };
        let attribute = file.attributes.remove(position);
        self.free_value(&attribute.value)
    }

    /// Gives back the clusters of a value.
    pub(super) fn free_value(&mut self, value: &Value) -> Result<()> {
        if let Value::Clusters(clusters) = value {
            for place in clusters.runs.iter().filter_map(Run::place) {
                self.free_clusters_of(place)?;
            }
        }
        Ok(())
    }

    /// Sets a value that may be long; it goes to clusters if the record has no room for it.
    pub(super) fn replace_value(
        &mut self,
        file: &mut EditedFile,
        key: Key<'_>,
        bytes: Vec<u8>,
    ) -> Result<()> {
        let mut attribute = OwnedAttribute::resident(key.0, key.1, Vec::new());
        if bytes.len() > self.boot.record_size {
            self.must_have_room((bytes.len() as u64).div_ceil(self.boot.cluster_size))?;
            attribute.value = Value::Clusters(self.write_to_new_clusters(&bytes)?);
        } else {
            attribute.value = Value::Resident { bytes, indexed: 0 };
        }
        self.remove_attribute(file, key)?;
        file.attributes.push(attribute);
        Ok(())
    }
}
