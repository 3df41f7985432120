//! The words by which `convert` and `image convert` say how disks are copied; those of qemu-img where it has them.

use super::source_arguments::size;
use crate::{
    copy::{Offload, Window, Windows},
    destination::Cache,
    job::Copying,
};

/// How disks are copied.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CopyingArguments {
    /// Threads that read, compress and write, 1 to 32 [default: four for each processor]
    #[arg(short = 'm', long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    threads: Option<u8>,

    /// Move no more than so many bytes in a second: read, or written where zeros have to be
    #[arg(short = 'r', long, value_name = "SIZE", value_parser = rate)]
    rate_limit: Option<u64>,

    /// Copy only between these hours of the clock on the wall, like 22:00-05:00; outside them the copy pauses. Can be given
    /// several times
    #[arg(long, value_name = "FROM-TO", value_delimiter = ',')]
    window: Vec<Window>,

    /// Leave out zeros where so many of them follow each other; 0: write them all
    #[arg(short = 'S', long, value_name = "SIZE", value_parser = sparse)]
    sparse: Option<u64>,

    /// How what is written reaches the storage: none (past the host's cache, flushed), writeback (through it, flushed) or
    /// unsafe (through it and never flushed: for what can be made again)
    #[arg(short = 't', long, value_name = "CACHE", default_value = "none")]
    target_cache: Cache,

    /// After so many bytes written make all of it durable: what a break costs at most
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    checkpoint: u64,
}

impl CopyingArguments {
    /// For the job.
    pub(crate) fn copying(&self) -> Copying {
        Copying {
            threads: self.threads.map_or(0, usize::from),
            checkpoint: self.checkpoint,
            sparse: self.sparse,
            offload: Offload::default(),
            cache: self.target_cache,
            hashing: true,
            rate: self.rate_limit,
            windows: Windows::new(self.window.clone()),
        }
    }
}

fn rate(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("0 would never end".to_owned()),
        rate => Ok(rate),
    }
}

/// Zeros longer than a chunk are left out in any case.
fn sparse(text: &str) -> Result<u64, String> {
    const MOST: u64 = 1 << 20;
    match size(text)? {
        bytes if bytes > MOST => Err(format!("at most {MOST}")),
        bytes => Ok(bytes),
    }
}
