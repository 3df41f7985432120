//! Registration files: the text that `regedit` and `hivexregedit` write and read, as "Windows Registry Editor Version 5.00"
//! (in UTF-16LE, or in UTF-8 as hivexregedit has it) and as "REGEDIT4" (in a code page).
//!
//! Exporting loses nothing: text that the format cannot hold as it is stands as its bytes. What it cannot hold at all (a key
//! whose name has a line feed) is left out and named.

mod export;
mod import;
mod parse;
mod text;

pub use export::{Exported, export};
pub use import::{Imported, import};
pub use parse::{RegFile, RegFileError, Section, ValueChange, parse};
pub use text::{CodePage, Style};
