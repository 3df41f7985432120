//! Files whose contents no Windows needs after it was shut down: memory that was paged out, and the image of a hibernation
//! that has ended.

use super::{Ntfs, file_record::number};
use crate::fs::Result;
use std::ops::Range;

/// In the root of a volume. Windows makes them anew, or goes on with the room that they have, whatever is in it.
const PAGE_FILES: [&str; 3] = ["pagefile.sys", "hiberfil.sys", "swapfile.sys"];

impl Ntfs {
    /// Calls `each` with the name and the runs, in bytes, of each such file; with none where a Windows that is hibernated, or
    /// was not shut down, needs them. A crash dump that Windows has not saved yet is in pagefile.sys too.
    pub(super) fn each_page_file_run(
        &self,
        each: &mut dyn FnMut(&str, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        if self.check_settled().is_err() {
            return Ok(());
        }
        let root = self.file(number::ROOT)?;
        for name in PAGE_FILES {
            let units: Vec<u16> = name.encode_utf16().collect();
            let Some(found) = self.find_name(&root, &units)? else {
                continue;
            };
            let file = self.file(found.number)?;
            // One with a second name, or behind a filter, is not what Windows makes.
            if self.links(&file)? == 1 && self.reparse_point(&file)?.is_none() {
                self.each_run_of(&file, &mut |_, run| each(name, run))?;
            }
        }
        Ok(())
    }
}
