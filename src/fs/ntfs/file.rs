//! A file: its record, and the further ones that its attribute list names.

use super::{
    Ntfs,
    attribute::{Attribute, Form, kind},
    attribute_list::{self, Entry},
    data_runs,
    error::NtfsError,
    file_record::FileRecord,
    standard_information::StandardInformation,
    stream::Stream,
};
use crate::fs::Result;
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) record: FileRecord,
    /// Where its attributes are, if it has more than one record.
    pub(super) list: Option<Vec<Entry>>,
}

impl File {
    pub(super) fn number(&self) -> u64 {
        self.record.number
    }

    /// The further records.
    pub(super) fn more_records(&self) -> BTreeSet<u64> {
        let entries = self.list.iter().flatten();
        entries
            .map(|entry| entry.record.number)
            .filter(|number| *number != self.record.number)
            .collect()
    }
}

impl Ntfs {
    /// The file with record `number`, which must be in use.
    pub(super) fn file(&self, number: u64) -> Result<File> {
        let record = self.base_record(number)?;
        let list = self.attribute_list(&record)?;
        Ok(File { record, list })
    }

    /// Where the attributes of the file with this record are; `None` if they are all there.
    pub(super) fn attribute_list(&self, record: &FileRecord) -> Result<Option<Vec<Entry>>> {
        let fail = |e: NtfsError| self.in_record(record.number, e);
        let Some(list) = record.find(kind::ATTRIBUTE_LIST, &[]).map_err(fail)? else {
            return Ok(None);
        };
        let entries = match &list.form {
            Form::Resident { value, .. } => attribute_list::parse(value),
            Form::NonResident(part) => {
                let size = part.sizes.size;
                if size > attribute_list::MOST_BYTES {
                    return Err(fail(NtfsError::damaged(format!(
                        "an attribute list of {size} bytes"
                    ))));
                }
                let runs =
                    data_runs::parse(part.runs, part.vcns.clone(), self.boot.clusters).map_err(fail)?;
                let mut raw = vec![0; usize::try_from(size).unwrap_or(0)];
                self.read_runs(&runs, 0, &mut raw)?;
                attribute_list::parse(&raw)
            }
        };
        entries.map(Some).map_err(fail)
    }

    /// A further record of a file.
    pub(super) fn further_record(&self, file: &File, number: u64) -> Result<FileRecord> {
        if number == file.number() {
            return Ok(file.record.clone());
        }
        let record = self.record(number)?;
        if record.owner() != file.number() || !record.header.has(super::flag::IN_USE) {
            return Err(self.damaged(
                file.number(),
                format!("its attribute list names file record {number}, which belongs to another"),
            ));
        }
        Ok(record)
    }

    /// Calls `each` with every attribute, or part of one, and its record, until it says false.
    pub(super) fn each_attribute(
        &self,
        file: &File,
        each: &mut dyn FnMut(&FileRecord, &Attribute<'_>) -> Result<bool>,
    ) -> Result<()> {
        let mut in_record = |record: &FileRecord| -> Result<bool> {
            for attribute in record.attributes() {
                let attribute = attribute.map_err(|e| self.in_record(record.number, e))?;
                if !each(record, &attribute)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if !in_record(&file.record)? {
            return Ok(());
        }
        for number in file.more_records() {
            if !in_record(&self.further_record(file, number)?)? {
                break;
            }
        }
        Ok(())
    }

    /// An attribute by type and name, upper and lower case being the same.
    pub(super) fn stream(&self, file: &File, kind: u32, name: &[u16]) -> Result<Option<Stream>> {
        let same =
            |other: &[u16]| name == other || self.upcase.same(name.iter().copied(), other.iter().copied());
        let Some(list) = &file.list else {
            for attribute in file.record.attributes() {
                let attribute = attribute.map_err(|e| self.in_record(file.number(), e))?;
                let units: Vec<u16> = super::name::units(attribute.name).collect();
                if attribute.kind == kind && same(&units) {
                    let stream = Stream::new(&file.record, &attribute, units);
                    return stream.map(Some).map_err(|e| self.in_record(file.number(), e));
                }
            }
            return Ok(None);
        };
        let mut parts: Vec<&Entry> = list
            .iter()
            .filter(|entry| entry.kind == kind && same(&entry.name))
            .collect();
        parts.sort_by_key(|entry| entry.vcn);
        let Some(first) = parts.first() else {
            return Ok(None);
        };
        let record = self.further_record(file, first.record.number)?;
        for attribute in record.attributes() {
            let attribute = attribute.map_err(|e| self.in_record(record.number, e))?;
            if attribute.is(kind, &first.name) && attribute.instance == first.instance {
                let stream = Stream::new(&record, &attribute, first.name.clone())
                    .map(|stream| stream.in_parts(&parts));
                return stream.map(Some).map_err(|e| self.in_record(record.number, e));
            }
        }
        Err(self.damaged(
            file.number(),
            format!(
                "its attribute list has an attribute {kind:#x} that is not in file record {}",
                record.number
            ),
        ))
    }

    /// All of a small attribute; `None` if it has none. Fails where it has more than `limit` bytes.
    pub(super) fn value(&self, file: &File, kind: u32, name: &[u16], limit: u64) -> Result<Option<Vec<u8>>> {
        match self.stream(file, kind, name)? {
            Some(mut stream) => self.whole(&mut stream, limit).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn standard_information(&self, file: &File) -> Result<StandardInformation> {
        let value = self
            .value(file, kind::STANDARD_INFORMATION, &[], 4096)?
            .ok_or_else(|| self.damaged(file.number(), "has no standard information"))?;
        StandardInformation::parse(&value).map_err(|e| self.in_record(file.number(), e))
    }
}
