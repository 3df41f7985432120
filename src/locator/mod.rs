//! From words to disks: the only place that knows all that a disk can be in. A path of a file or a block device, an
//! export of a network block device server, or standard input.
//!
//! Probing is not trust: a file has the format that its first bytes show, but what lies on a block device or behind a
//! network is raw unless the user names a format, since a guest can write any magic into its first sector.

mod open;
mod standard_input;
mod words;

pub use open::{OpenSource, Reading, is_block_device, open_one, open_source};
pub use standard_input::Passing;
pub use words::{Locator, LocatorError};
