//! A file while it is changed: all of its attributes at once, wherever they stood. How they are shared out to records is
//! decided anew each time that it is written ([`super::layout`]).

use super::{
    Ntfs,
    attribute::{COMPRESSED_HEADER, Form, NON_RESIDENT_HEADER, RESIDENT_HEADER, flag, kind},
    data_runs::{self, Run},
    error::{NtfsError, Parsed},
    file_record::{Header, Reference},
    name,
    standard_information::StandardInformation,
};
use crate::{
    disk::field::{put_bytes, put_u8, put_u16_le, put_u32_le, put_u64_le},
    fs::Result,
};

/// Files in more pieces are read, but not edited: all runs are held at once, 32 bytes each.
const MOST_RUNS: usize = 1 << 19;
/// Bytes of values in records: those of a file with a thousand names and as many streams have less.
const MOST_RESIDENT: usize = 16 << 20;

#[derive(Clone, Debug)]
pub(super) struct EditedFile {
    pub(super) number: u64,
    /// Of its first record.
    pub(super) header: Header,
    /// Without the attribute list.
    pub(super) attributes: Vec<OwnedAttribute>,
    /// The further records that it has now.
    pub(super) more: Vec<Reference>,
    /// The clusters of its attribute list.
    pub(super) list: Vec<Run>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnedAttribute {
    pub(super) kind: u32,
    pub(super) name: Vec<u16>,
    pub(super) flags: u16,
    /// The records that it stands in, and its numbers there: it keeps them where it stays.
    pub(super) homes: Vec<(u64, u16)>,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Resident { bytes: Vec<u8>, indexed: u8 },
    Clusters(Clusters),
}

/// Contents in clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Clusters {
    pub(super) runs: Vec<Run>,
    /// In bytes.
    pub(super) size: u64,
    /// What lies behind reads as zeros.
    pub(super) initialized: u64,
    /// 2^n clusters are compressed together.
    pub(super) compression_unit: u8,
}

impl Clusters {
    /// One past the last cluster, holes included.
    pub(super) fn end(&self) -> u64 {
        self.runs.last().map_or(0, Run::end)
    }

    /// Clusters that are there.
    pub(super) fn present(&self) -> u64 {
        let present = self.runs.iter().filter(|run| run.lcn.is_some());
        present.map(|run| run.clusters).fold(0, u64::saturating_add)
    }
}

impl OwnedAttribute {
    pub(super) fn resident(kind: u32, name: &[u16], bytes: Vec<u8>) -> Self {
        Self {
            kind,
            name: name.to_vec(),
            flags: 0,
            homes: Vec::new(),
            value: Value::Resident {
                bytes,
                indexed: u8::from(kind == kind::FILE_NAME),
            },
        }
    }

    /// In bytes.
    pub(super) fn size(&self) -> u64 {
        match &self.value {
            Value::Resident { bytes, .. } => bytes.len() as u64,
            Value::Clusters(clusters) => clusters.size,
        }
    }

    /// Do its data runs have holes that save clusters?
    pub(super) fn has_long_header(&self) -> bool {
        self.flags & (flag::COMPRESSION | flag::SPARSE) != 0
    }

    /// Bytes before its value or data runs.
    pub(super) fn header_length(&self) -> usize {
        let header = match &self.value {
            Value::Resident { .. } => RESIDENT_HEADER,
            Value::Clusters(_) if self.has_long_header() => COMPRESSED_HEADER,
            Value::Clusters(_) => NON_RESIDENT_HEADER,
        };
        (header + self.name.len() * 2).next_multiple_of(8)
    }

    /// Writes it, or of one in clusters the part with those of its runs that begin at `first` and fit in `room` bytes.
    /// Gives the index of the first run that is left, 0 with none.
    pub(super) fn encode(
        &self,
        first: usize,
        room: usize,
        cluster_size: u64,
    ) -> Parsed<Option<(Vec<u8>, usize)>> {
        let start = self.header_length();
        let mut raw = vec![0; start];
        let mut next = 0;
        match &self.value {
            Value::Resident { bytes, .. } => raw.extend_from_slice(bytes),
            Value::Clusters(clusters) => {
                let rest = clusters.runs.get(first..).unwrap_or_default();
                // The attribute is filled up to 8 bytes.
                let room = (room / 8 * 8).saturating_sub(start);
                let (runs, count) = data_runs::encode(rest, room);
                if runs.len() > room || count == 0 && !rest.is_empty() {
                    return Ok(None);
                }
                raw.extend_from_slice(&runs);
                if count < rest.len() {
                    next = first + count;
                }
            }
        }
        let used = raw.len();
        raw.resize(used.next_multiple_of(8), 0);
        if raw.len() > room {
            return Ok(None);
        }
        let length = raw.len();
        put_u32_le(&mut raw, 0, self.kind)?;
        put_u32_le(&mut raw, 4, long(length))?;
        // Names have at most 255 units.
        put_u8(&mut raw, 9, u8::try_from(self.name.len()).unwrap_or(u8::MAX))?;
        put_u16_le(&mut raw, 12, self.flags)?;
        let name_at = match &self.value {
            Value::Resident { bytes, indexed } => {
                put_u32_le(&mut raw, 16, long(bytes.len()))?;
                put_u16_le(&mut raw, 20, short(start))?;
                put_u8(&mut raw, 22, *indexed)?;
                RESIDENT_HEADER
            }
            Value::Clusters(clusters) => {
                put_u8(&mut raw, 8, 1)?;
                self.put_clusters(&mut raw, clusters, first, next, cluster_size)?;
                put_u16_le(&mut raw, 32, short(start))?;
                if self.has_long_header() {
                    COMPRESSED_HEADER
                } else {
                    NON_RESIDENT_HEADER
                }
            }
        };
        put_u16_le(&mut raw, 10, short(name_at))?;
        put_bytes(&mut raw, name_at, &name::to_disk(&self.name))?;
        Ok(Some((raw, next)))
    }

    /// The fields of what lies in clusters.
    fn put_clusters(
        &self,
        raw: &mut [u8],
        clusters: &Clusters,
        first: usize,
        next: usize,
        cluster_size: u64,
    ) -> Parsed<()> {
        let vcn = clusters.runs.get(first).map_or(0, |run| run.vcn);
        let end = match next {
            0 => clusters.end(),
            next => clusters.runs.get(next).map_or(0, |run| run.vcn),
        };
        put_u64_le(raw, 0x10, vcn)?;
        put_u64_le(raw, 0x18, end.wrapping_sub(1))?;
        put_u8(raw, 0x22, clusters.compression_unit)?;
        if first == 0 {
            put_u64_le(raw, 0x28, clusters.end().saturating_mul(cluster_size))?;
            put_u64_le(raw, 0x30, clusters.size)?;
            put_u64_le(raw, 0x38, clusters.initialized)?;
            if self.has_long_header() {
                put_u64_le(raw, 0x40, clusters.present().saturating_mul(cluster_size))?;
            }
        }
        Ok(())
    }
}

fn short(value: usize) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

fn long(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl EditedFile {
    pub(super) fn reference(&self) -> Reference {
        Reference {
            number: self.number,
            sequence: self.header.sequence,
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.header.has(super::flag::DIRECTORY)
    }

    /// In how many pieces all that it has is.
    pub(super) fn runs(&self) -> usize {
        let clusters = self.attributes.iter().map(|attribute| match &attribute.value {
            Value::Clusters(clusters) => clusters.runs.len(),
            Value::Resident { .. } => 0,
        });
        clusters.sum()
    }

    /// The place of an attribute in the list.
    pub(super) fn position(&self, kind: u32, name: &[u16]) -> Option<usize> {
        self.attributes
            .iter()
            .position(|attribute| attribute.kind == kind && attribute.name == name)
    }

    pub(super) fn attribute(&self, kind: u32, name: &[u16]) -> Option<&OwnedAttribute> {
        self.attributes.get(self.position(kind, name)?)
    }

    /// The value of one that is in the record.
    pub(super) fn value(&self, kind: u32, name: &[u16]) -> Option<&[u8]> {
        match &self.attribute(kind, name)?.value {
            Value::Resident { bytes, .. } => Some(bytes),
            Value::Clusters(_) => None,
        }
    }

    pub(super) fn value_mut(&mut self, kind: u32, name: &[u16]) -> Option<&mut Vec<u8>> {
        let position = self.position(kind, name)?;
        match &mut self.attributes.get_mut(position)?.value {
            Value::Resident { bytes, .. } => Some(bytes),
            Value::Clusters(_) => None,
        }
    }

    pub(super) fn clusters(&self, kind: u32, name: &[u16]) -> Option<&Clusters> {
        match &self.attribute(kind, name)?.value {
            Value::Clusters(clusters) => Some(clusters),
            Value::Resident { .. } => None,
        }
    }

    pub(super) fn clusters_mut(&mut self, kind: u32, name: &[u16]) -> Option<&mut Clusters> {
        let position = self.position(kind, name)?;
        match &mut self.attributes.get_mut(position)?.value {
            Value::Clusters(clusters) => Some(clusters),
            Value::Resident { .. } => None,
        }
    }

    /// Sets a value that stays in the record; one that is not there yet is added.
    pub(super) fn set_value(&mut self, kind: u32, name: &[u16], bytes: Vec<u8>) {
        match self.value_mut(kind, name) {
            Some(value) => *value = bytes,
            None => self.attributes.push(OwnedAttribute::resident(kind, name, bytes)),
        }
    }

    pub(super) fn standard_information(&self) -> Parsed<StandardInformation> {
        let value = self
            .value(kind::STANDARD_INFORMATION, &[])
            .ok_or_else(|| NtfsError::damaged("has no standard information"))?;
        StandardInformation::parse(value)
    }

    pub(super) fn set_standard_information(&mut self, information: &StandardInformation) -> Parsed<()> {
        match self.value_mut(kind::STANDARD_INFORMATION, &[]) {
            Some(value) => information.put(value),
            None => {
                let mut value = Vec::new();
                information.put(&mut value)?;
                self.set_value(kind::STANDARD_INFORMATION, &[], value);
                Ok(())
            }
        }
    }
}

impl Ntfs {
    /// Loads a file for changing: from where the last change left it, or from its records.
    pub(super) fn load(&mut self, number: u64) -> Result<EditedFile> {
        if let Some(file) = self.edited.remove(&number) {
            return Ok(file);
        }
        let file = self.file(number)?;
        let mut attributes: Vec<OwnedAttribute> = Vec::new();
        // Where the parts of what lies in clusters begin, to put them in order.
        let mut parts: Vec<(usize, u64, Vec<Run>)> = Vec::new();
        let mut list = Vec::new();
        let mut count = 0;
        let mut resident = 0;
        self.each_attribute(&file, &mut |record, attribute| {
            let fail = |e: NtfsError| self.in_record(record.number, e);
            let units: Vec<u16> = name::units(attribute.name).collect();
            let home = (record.number, attribute.instance);
            let part = match &attribute.form {
                Form::Resident { .. } if attribute.kind == kind::ATTRIBUTE_LIST => return Ok(true),
                Form::Resident { value, indexed } => {
                    resident += value.len();
                    if resident > MOST_RESIDENT {
                        return Err(fail(NtfsError::damaged(format!(
                            "file record {number} has more than {MOST_RESIDENT} bytes of attributes"
                        ))));
                    }
                    attributes.push(OwnedAttribute {
                        kind: attribute.kind,
                        name: units,
                        flags: attribute.flags,
                        homes: vec![home],
                        value: Value::Resident {
                            bytes: value.to_vec(),
                            indexed: *indexed,
                        },
                    });
                    return Ok(true);
                }
                Form::NonResident(part) => part,
            };
            let runs = data_runs::parse(part.runs, part.vcns.clone(), self.boot.clusters).map_err(fail)?;
            count += runs.len();
            if count > MOST_RUNS {
                return Err(self.fault(NtfsError::Unsupported(format!(
                    "file record {number} is in more than {MOST_RUNS} pieces, which rehome reads but does not edit; \
                     defragment it first (`contig` of Sysinternals)"
                ))));
            }
            if attribute.kind == kind::ATTRIBUTE_LIST {
                list = runs;
                return Ok(true);
            }
            let same = |other: &OwnedAttribute| {
                other.kind == attribute.kind && other.name == units && matches!(other.value, Value::Clusters(_))
            };
            let position = match attributes.iter().position(same) {
                Some(position) => position,
                None => {
                    attributes.push(OwnedAttribute {
                        kind: attribute.kind,
                        name: units,
                        flags: attribute.flags,
                        homes: Vec::new(),
                        value: Value::Clusters(Clusters::default()),
                    });
                    attributes.len() - 1
                }
            };
            let Some(known) = attributes.get_mut(position) else {
                return Ok(true);
            };
            known.homes.push(home);
            if part.vcns.start == 0 {
                known.flags = attribute.flags;
                known.value = Value::Clusters(Clusters {
                    runs: Vec::new(),
                    size: part.sizes.size,
                    initialized: part.sizes.initialized,
                    compression_unit: part.compression_unit,
                });
            }
            parts.push((position, part.vcns.start, runs));
            Ok(true)
        })?;
        parts.sort_by_key(|(position, vcn, _)| (*position, *vcn));
        for (position, vcn, runs) in parts {
            let clusters = match attributes.get_mut(position).map(|attribute| &mut attribute.value) {
                Some(Value::Clusters(clusters)) if clusters.end() == vcn => clusters,
                _ => {
                    return Err(self.damaged(
                        number,
                        format!("has no clusters before cluster {vcn} of an attribute"),
                    ));
                }
            };
            runs.into_iter()
                .for_each(|run| data_runs::push(&mut clusters.runs, run));
        }
        let mut more = Vec::new();
        for further in file.more_records() {
            more.push(self.further_record(&file, further)?.reference());
        }
        self.sort_attributes(&mut attributes);
        Ok(EditedFile {
            number,
            header: file.record.header,
            attributes,
            more,
            list,
        })
    }

    /// By type, then by name, as they have to stand in a record.
    pub(super) fn sort_attributes(&self, attributes: &mut [OwnedAttribute]) {
        attributes.sort_by(|a, b| {
            let names = || {
                self.upcase
                    .compare(a.name.iter().copied(), b.name.iter().copied())
            };
            a.kind.cmp(&b.kind).then_with(names)
        });
    }
}
