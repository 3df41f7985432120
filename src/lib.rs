//! `rehome` moves an installed operating system to other hardware, physical or virtual, in either direction.
//!
//! The rooms, lowest first; a room uses only rooms that stand above it in this list. `docs/architecture.md` is the
//! map with the contracts.
//!
//! | room | what it knows |
//! |---|---|
//! | [`watch`] | watching and cancelling a long job |
//! | [`disk`] | bytes at offsets, and what is made of them |
//! | [`image`] | image formats: raw, qcow2 |
//! | [`nbd`] | network block devices: the protocol, and a client that is a disk |
//! | [`locator`] | from words to disks: a path, a device, an export, an archive |
//! | [`volume`] | partition tables |
//! | [`fs`] | filesystems, reading and writing |
//! | [`hive`] | registry hives, and what is kept in them |
//! | [`driver`] | kernel module indexes, initramfs images; driver packages of Windows |
//! | [`machine`] | machine descriptions |
//! | [`guest`] | what is installed and how it boots |
//! | [`matching`] | which driver of the guest answers to which device of the target |
//! | [`plan`] | decisions |
//! | [`rewrite`] | carrying them out, and judging every edit |
//! | [`copy`] | moving a disk to a sink |
//! | [`destination`] | where the result goes, whole or not at all |
//! | [`undo`] | edits in place, and taking them back |
//! | [`job`] | what a user can say |
//! | [`output`] | what the new home wants beside disks; the report |
//! | [`qemu`] | starting a throw-away snapshot |
//! | [`source`] | the disks of a job, opened |
//! | `transfer` | one disk into an image at a destination, and read back |
//! | [`convert`] | a job from end to end |
//! | [`cli`] | the command line |

pub mod cli;
pub mod convert;
pub mod copy;
pub mod destination;
pub mod disk;
pub mod driver;
pub mod fs;
pub mod guest;
pub mod hive;
pub mod image;
pub mod job;
pub mod locator;
pub mod machine;
pub mod matching;
pub mod nbd;
pub mod output;
pub mod plan;
pub mod qemu;
pub mod rewrite;
pub mod source;
mod transfer;
pub mod undo;
pub mod volume;
pub mod watch;
