//! One disk into an image at a destination: made, copied, read back. What `convert` and `image convert` share.

mod files;
mod leftover;
mod room;
mod stages;
mod write_disk;

pub(crate) use files::ProductFiles;
use leftover::without_flushes;
pub(crate) use leftover::{mark_as_worthless, must_be_worth_resuming, resumable};
pub(crate) use room::look_for_room;
pub(crate) use stages::Stages;
pub(crate) use write_disk::{Product, write_disk};
