//! Reading and writing past the host's cache (`O_DIRECT`), where that is possible and worth it.

use super::aligned::is_aligned;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// Smaller pieces go through the cache, which joins them; a device takes its time for each. In bytes.
const SMALLEST: usize = 64 << 10;

/// A file that is open a second time, past the host's cache. Both ways may be used at once: the kernel keeps them in step.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// Cleared when the filesystem refuses after all.
    works: AtomicBool,
}

impl Direct {
    /// Opens `path`, which must be what `file` is; `None` where there is no such way.
    pub(super) fn open(path: &Path, file: &File, writable: bool) -> Option<Self> {
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let direct = open(path, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let direct = File::from(direct);
        let identity = |file: &File| file.metadata().map(|m| (m.dev(), m.ino(), m.rdev())).ok();
        if identity(file)? != identity(&direct)? {
            return None;
        }
        Some(Self {
            file: direct,
            works: AtomicBool::new(true),
        })
    }

    fn takes(&self, bytes: &[u8], offset: u64) -> bool {
        bytes.len() >= SMALLEST && is_aligned(bytes, offset) && self.works.load(Ordering::Relaxed)
    }

    /// `false`: not done, and to be done through the cache; an error shows itself there.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.takes(buffer, offset) && self.done(self.file.read_exact_at(buffer, offset))
    }

    /// The same for writing.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        self.takes(bytes, offset) && self.done(self.file.write_all_at(bytes, offset))
    }

    fn done(&self, outcome: io::Result<()>) -> bool {
        match outcome {
            Ok(()) => true,
            Err(error) => {
                // This filesystem, or the device below it, has other wishes.
                if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) {
                    self.works.store(false, Ordering::Relaxed);
                }
                false
            }
        }
    }
}
