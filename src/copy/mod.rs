//! Moves a disk to a sink: one pass, one ledger.
//!
//! [`copy`] reads each chunk once, leaves out zeros, hashes and puts the rest. The [`Ledger`] beside the target says
//! what is durably there: a resumed copy trusts it, [`verify`] reads the target against it.

mod brake;
mod braked;
mod compare;
mod engine;
mod hash;
mod ledger;
mod offload;
mod schedule;
mod survey;
mod throttle;
mod verify;
mod window;
mod workers;
mod write_zeros;
mod zero;

pub use brake::{Brake, Clock, SystemClock};
pub use braked::Braked;
pub use compare::{Compared, compare, compare_maps};
pub use engine::{Copied, Pace, copy, copy_unhashed};
pub use hash::{CHUNK, ChunkHash, Run};
pub use ledger::{Entry, FileLedger, Identity, Ledger, NoLedger};
pub use offload::Offload;
pub use survey::{Survey, source_identity, survey};
pub use throttle::Throttle;
pub use verify::{Difference, Verified, digest, verify, verify_at};
pub use window::{TimeOfDay, Window, Windows};
pub use write_zeros::write_zeros;
pub use zero::is_zero;
