//! How what is written reaches the storage, in the words of `qemu-img -t`.

use std::str::FromStr;

/// What is done with the host's cache, and when the destination is safe from a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Large pieces go past the host's cache where that is possible; all is flushed at every checkpoint and at the end. What
    /// is written is durable sooner than through the cache: see `docs/performance.md`.
    #[default]
    None,
    /// Everything goes through the host's cache and is flushed at every checkpoint and at the end.
    Writeback,
    /// Everything goes through the host's cache and is never flushed: the result is there when the host gets round to it. For
    /// what can be made again.
    Unsafe,
}

impl Cache {
    /// Those that there are.
    pub const NAMES: &[&str] = &["none", "writeback", "unsafe"];
}

impl FromStr for Cache {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "none" => Ok(Self::None),
            "writeback" => Ok(Self::Writeback),
            "unsafe" => Ok(Self::Unsafe),
            "writethrough" | "directsync" => Err(format!(
                "\"{name}\" would flush after every write, for nothing: with \"none\" or \"writeback\" the result is durable when \
                 the copy ends"
            )),
            _ => Err(format!(
                "\"{name}\" is no cache mode; there are: {}",
                Self::NAMES.join(", ")
            )),
        }
    }
}
