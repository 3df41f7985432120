//! The digest of what a plan was made from: a plan that was saved and is applied to other facts is stale.

use crate::{disk::Digest, guest::Guest, machine::Machine, matching::Binding};

/// BLAKE3 of the facts as JSON. `None` stands for an unknown system.
pub fn facts_digest(guest: Option<&Guest>, machine: &Machine, bindings: &[Binding]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    // Neither half can fail: the types have no keys but strings, and the hasher takes every byte.
    if let Err(error) = serde_json::to_writer(&mut hasher, &(guest, machine, bindings)) {
        hasher.update(error.to_string().as_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}
