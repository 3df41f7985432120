//! Registry hives: the regf format of Windows 2000 to 11, versions 1.3 to 1.6, read and edited in place; and the stores that
//! are kept in it.
//!
//! A hive is a tree of keys; a key has values, each with a name, a type and bytes. [`Hive::open`] takes the bytes of the
//! file and of its transaction logs; nothing here reads or writes files. [`Hive::root`] and [`Hive::find`] give [`Key`]s to
//! read from, [`Hive::edit`] gives an [`Editor`]; after [`Editor::commit`] [`Hive::file`] is a hive that was closed
//! properly. Cells that no edit concerns stay where they are, byte for byte.
//!
//! Offsets and structures follow Maxim Suhanov's "Windows registry file format specification".

mod allocate;
mod base_block;
pub mod bcd;
mod big_data;
mod cell;
mod check;
pub mod control_set;
mod create;
mod data;
mod difference;
mod edit;
mod error;
mod file_time;
mod key;
mod log;
mod name;
pub mod reg_file;
mod security;
mod security_edit;
mod subkey_edit;
mod subkey_list;
mod tree;
mod upcase;
mod value;
mod value_edit;

pub use create::Version;
pub use data::{
    DataError, Shown, decode_strings, decode_text, encode_strings, encode_text, from_words, show,
};
pub use difference::{Change, Difference, difference};
pub use edit::Editor;
pub use file_time::FileTime;
pub use log::seal_log_entry;
pub use name::Name;
pub use tree::{Key, KeyId, Value};
pub use value::ValueKind;

use crate::disk::{Error, Kind};
use base_block::BaseBlock;
use cell::{CellOffset, Cells};
use error::{HiveError, Parsed};
use log::Recovery;

/// This room's result; the error is the disk room's: its label names the hive.
pub type Result<T> = std::result::Result<T, Error>;

/// The largest hive that is handled, in bytes. A hive is held in memory whole, apart from the limit for all else; this keeps a
/// guest from taking all memory. A SOFTWARE hive has 50 to 200 MiB, bloated ones twice that; Windows itself allows 2 GiB.
pub const LARGEST_HIVE: u64 = 512 << 20;

/// A hive, in memory.
#[derive(Debug)]
pub struct Hive {
    label: String,
    cells: Cells,
    minor: u32,
    root: CellOffset,
    recovery: Recovery,
    /// The highest sequence number in the logs beside it.
    latest_logged: u32,
}

/// Names of the transaction logs that can stand beside a hive called `name`, in the order in which [`Hive::open`] wants them.
pub fn log_names(name: &str) -> [String; 3] {
    ["LOG", "LOG1", "LOG2"].map(|extension| format!("{name}.{extension}"))
}

impl Hive {
    /// From the bytes of a file and of the transaction logs beside it, those that there are. A hive that was not closed properly
    /// is brought to what the logs say; where they do not help, it can still be read.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] if it is no hive or a damaged one, [`Kind::Unsupported`] for other versions, for logs and for more
    /// than [`LARGEST_HIVE`] bytes.
    pub fn open(label: impl Into<String>, file: Vec<u8>, logs: &[Vec<u8>]) -> Result<Self> {
        let label = label.into();
        let latest_logged = log::latest_sequence(logs);
        Self::parse(file, logs)
            .map(|(cells, base, recovery)| Self {
                label: label.clone(),
                cells,
                minor: base.minor,
                root: CellOffset(base.root),
                recovery,
                latest_logged,
            })
            .map_err(|error| error.on(&label))
    }

    fn parse(mut file: Vec<u8>, logs: &[Vec<u8>]) -> Parsed<(Cells, BaseBlock, Recovery)> {
        if file.len() as u64 > LARGEST_HIVE {
            return Err(HiveError::Unsupported(format!(
                "{} bytes; hives of up to {LARGEST_HIVE} are handled",
                file.len()
            )));
        }
        let recovery = log::recover(&mut file, logs)?;
        let base = BaseBlock::parse(&file)?;
        base.must_be_known()?;
        let cells = if base.checksum_fits {
            Cells::new(file, base.bins_size)?
        } else {
            Cells::as_far_as_they_go(file)?
        };
        key::KeyNode::parse(cells.contents(CellOffset(base.root))?)
            .map_err(|e| e.in_cell(CellOffset(base.root)))?;
        Ok((cells, base, recovery))
    }

    /// The name that errors call it by.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Major and minor version of the format.
    pub fn version(&self) -> (u32, u32) {
        (1, self.minor)
    }

    /// What was done on opening, for the report; `None` if the hive had been closed properly.
    pub fn recovered(&self) -> Option<&str> {
        match &self.recovery {
            Recovery::Recovered(text) => Some(text),
            Recovery::Clean | Recovery::Stale(_) => None,
        }
    }

    /// Why what is read may not be what Windows would see, and [`Hive::edit`] refuses: the hive was not closed properly, and its
    /// logs do not help. `None` if all is well.
    pub fn stale(&self) -> Option<&str> {
        match &self.recovery {
            Recovery::Stale(text) => Some(text),
            Recovery::Clean | Recovery::Recovered(_) => None,
        }
    }

    /// Takes a stale hive as it is, so that it can be edited: `--force-dirty`.
    pub fn force_dirty(&mut self) {
        if let Recovery::Stale(text) = &self.recovery {
            self.recovery = Recovery::Recovered(format!("{text}; it was taken as it is"));
        }
    }

    /// The whole file as it is now. While an [`Editor`] is at work, or after one that did not commit, it is marked as not closed
    /// properly.
    pub fn file(&self) -> &[u8] {
        self.cells.file()
    }

    /// The whole file, as [`Hive::file`].
    pub fn into_file(self) -> Vec<u8> {
        self.cells.into_file()
    }

    /// Looks at every cell and every key.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] with the first contradiction: cells that do not fill their bin, that are used twice or are free, keys
    /// that lead back to themselves. Such a hive can be read in part and is not edited.
    pub fn check(&self) -> Result<()> {
        match check::survey(&self.cells, self.root, self.minor) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.fault(error)),
        }
    }

    /// Writing. The hive is checked first, as by [`Hive::check`]. Times are `clock`, in seconds since 1970: the same edits give
    /// the same bytes.
    ///
    /// # Errors
    /// Those of [`Hive::check`]; [`Kind::Unsafe`] if it is [`Hive::stale`].
    pub fn edit(&mut self, clock: u64) -> Result<Editor<'_>> {
        if let Some(why) = self.stale() {
            let text = format!(
                "{why}. Put its .LOG1 and .LOG2 beside it, or start that Windows once and shut it down; or take it as it is with \
                 --force-dirty: what Windows had not written yet is lost then"
            );
            return Err(Error::new(Kind::Unsafe, &*self.label, text));
        }
        Editor::start(self, FileTime::from_seconds(clock))
    }

    fn fault(&self, error: HiveError) -> Error {
        error.on(&self.label)
    }
}
