//! The names of a file, as its record has them.

use super::{
    Ntfs,
    attribute::kind,
    error::NtfsError,
    file::File,
    file_name::{FileName, namespace},
};
use crate::fs::Result;
use std::collections::BTreeSet;

/// Windows allows 1024 hard links, with a name for DOS beside one of them.
const MOST_NAMES: usize = 4096;

impl Ntfs {
    /// All names of a file, those for DOS too.
    pub(super) fn names(&self, file: &File) -> Result<Vec<FileName>> {
        let mut names = Vec::new();
        let mut records: BTreeSet<u64> = BTreeSet::from([file.number()]);
        if let Some(list) = &file.list {
            let entries = list.iter().filter(|entry| entry.kind == kind::FILE_NAME);
            records = entries.map(|entry| entry.record.number).collect();
        }
        for number in records {
            let record = self.further_record(file, number)?;
            for attribute in record.attributes() {
                let fail = |e: NtfsError| self.in_record(number, e);
                let attribute = attribute.map_err(fail)?;
                if attribute.kind == kind::FILE_NAME {
                    let name = attribute.value().and_then(FileName::parse);
                    names.push(name.map_err(fail)?);
                }
                if names.len() > MOST_NAMES {
                    return Err(self.damaged(file.number(), "has too many names"));
                }
            }
        }
        Ok(names)
    }

    /// How many names it has, not counting those for DOS.
    pub(super) fn links(&self, file: &File) -> Result<u32> {
        let names = self.names(file)?;
        let count = names
            .iter()
            .filter(|name| name.namespace != namespace::DOS)
            .count();
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }
}
