//! Moves a disk to a sink: one pass, one ledger.
