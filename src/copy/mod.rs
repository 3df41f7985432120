//! Moves a disk to a sink: one pass, one ledger.
//!
//! [`copy`] reads each chunk once, leaves out zeros, hashes and puts the rest. The [`Ledger`] beside the target says
//! what is durably there: a resumed copy trusts it, [`verify`] reads the target against it.

mod engine;
mod hash;
mod ledger;
mod schedule;
mod survey;
mod verify;
mod zero;

pub use engine::{Copied, Pace, copy};
pub use hash::{CHUNK, ChunkHash, Run};
pub use ledger::{Entry, FileLedger, Identity, Ledger, NoLedger};
pub use survey::{Survey, source_identity, survey};
pub use verify::{Difference, Verified, digest, verify};
pub use zero::is_zero;
