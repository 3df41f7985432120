//! Network block devices: the protocol of the NBD project's `doc/proto.md`, and a client that is a
//! [`Disk`](crate::disk::Disk).

mod address;
mod client;
mod connection;
mod handshake;
mod protocol;
mod reply;
mod stream;

pub use address::{Address, AddressError, DEFAULT_PORT, Transport};
pub use client::{Access, NbdDisk};
pub use stream::{Halves, Patience, Stream};
