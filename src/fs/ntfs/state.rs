//! In which state Windows left the volume: what makes its tables worth trusting, and what makes an edit harmful.

use super::{
    Ntfs,
    attribute::kind,
    error::NtfsError,
    file_record::{FileRecord, number},
    log_file::{self, State},
    volume_information::flag,
};
use crate::fs::Result;

/// Versions that are edited: those of Windows 2000, and of Windows XP and later.
const EDITED: [(u8, u8); 2] = [(3, 0), (3, 1)];
/// Bytes of hiberfil.sys that say what it holds.
const HIBERNATION_HEADER: usize = 4096;
/// A session is there to be resumed, or was being resumed when something went wrong.
const HIBERNATED: [&[u8]; 4] = [b"hibr", b"HIBR", b"rstr", b"RSTR"];

const SHUT_DOWN: &str =
    "start it, turn Fast Startup off (`powercfg /h off`) and shut it down (`shutdown /s /t 0`)";

impl Ntfs {
    /// Why an edit would do harm, and the cure.
    pub(super) fn check_editable(&self) -> Result<()> {
        let (major, minor) = self.volume.version;
        if major < 3 {
            return Err(self.fault(NtfsError::Unsupported(format!(
                "is NTFS {major}.{minor} of Windows NT 4, which rehome reads but does not edit; Windows 2000 and later \
                 make it 3.0 or 3.1 when they mount it"
            ))));
        }
        if !EDITED.contains(&self.volume.version) {
            return Err(self.fault(NtfsError::Unsupported(format!(
                "is NTFS {major}.{minor}, which is not known; 3.0 and 3.1 are edited"
            ))));
        }
        self.check_released()?;
        if self.volume.has(flag::DIRTY) && !self.dirty_is_allowed {
            return Err(self.fault(NtfsError::Unsafe(
                "Windows has marked it as dirty: it was not unmounted, or something in it is wrong; run `chkdsk /f` on \
                 it in Windows and shut down (or edit it all the same with --force-dirty: Windows will check it when it \
                 starts)"
                    .to_owned(),
            )));
        }
        if self.volume.has(flag::CHECK_UNDERWAY) {
            return Err(self.fault(NtfsError::Unsafe(
                "`chkdsk` was at work on it and did not end; let it finish in Windows, and shut down"
                    .to_owned(),
            )));
        }
        self.check_mirror()
    }

    /// Why what the tables on the disk say may not be all that Windows knows, and the cure.
    pub(super) fn check_settled(&self) -> Result<()> {
        self.check_released()?;
        if self.volume.has(flag::DIRTY | flag::CHECK_UNDERWAY) {
            return Err(self.fault(NtfsError::Unsafe("is marked as dirty".to_owned())));
        }
        Ok(())
    }

    /// Does a Windows that was not shut down still hold something of the volume?
    fn check_released(&self) -> Result<()> {
        if self.is_hibernated()? {
            return Err(self.fault(NtfsError::Unsafe(format!(
                "Windows is hibernated, or was shut down with Fast Startup (hiberfil.sys): {SHUT_DOWN}"
            ))));
        }
        let what = match self.log_state()? {
            State::Empty | State::Clean => return Ok(()),
            State::InUse => {
                "a hibernated Windows or one with Fast Startup holds changes of it, or the power failed"
            }
            State::NeedsReplay => "its journal ($LogFile) has changes that are not in the tables yet",
            State::Unknown => "its journal ($LogFile) cannot be read",
        };
        Err(self.fault(NtfsError::Unsafe(format!(
            "{what}: let the Windows that uses it finish: {SHUT_DOWN}"
        ))))
    }

    fn is_hibernated(&self) -> Result<bool> {
        let root = self.file(number::ROOT)?;
        let name: Vec<u16> = "hiberfil.sys".encode_utf16().collect();
        let Some(found) = self.find_name(&root, &name)? else {
            return Ok(false);
        };
        let file = self.file(found.number)?;
        let Some(mut stream) = self.stream(&file, kind::DATA, &[])? else {
            return Ok(false);
        };
        let mut header = [0; HIBERNATION_HEADER];
        let count = self.read_plain(&mut stream, 0, &mut header)?;
        // A short one marks a volume of a hibernated Windows that is elsewhere.
        Ok(count < HIBERNATION_HEADER || HIBERNATED.iter().any(|magic| header.starts_with(magic)))
    }

    fn log_state(&self) -> Result<State> {
        let log = self.file(number::LOG_FILE)?;
        let Some(mut stream) = self.stream(&log, kind::DATA, &[])? else {
            return Ok(State::Unknown);
        };
        let mut start = vec![0; log_file::LOOKED_AT];
        let count = self.read_plain(&mut stream, 0, &mut start)?;
        Ok(log_file::state(start.get(..count).unwrap_or_default()))
    }

    /// `$MFTMirr` has the first records once more.
    fn check_mirror(&self) -> Result<()> {
        /// More are there where a cluster has room for them, but need not be kept.
        const MIRRORED: u64 = 4;
        for number in 0..MIRRORED {
            let record = self.record(number)?;
            let mut raw = vec![0; self.boot.record_size];
            let place = self
                .byte(self.boot.mirror)
                .saturating_add(number.saturating_mul(self.boot.record_size as u64));
            self.disk.read_at(place, &mut raw)?;
            let mirrored = FileRecord::from_disk(number, raw);
            let same = mirrored.is_ok_and(|mirrored| {
                let attributes = |record: &FileRecord| {
                    let used = usize::try_from(record.header.bytes_in_use).unwrap_or(0);
                    record
                        .bytes
                        .get(usize::from(record.header.first)..used)
                        .map(<[u8]>::to_vec)
                };
                mirrored.header == record.header && attributes(&mirrored) == attributes(&record)
            });
            if !same {
                return Err(self
                    .in_record(number, NtfsError::damaged("$MFTMirr has something else"))
                    .at(place));
            }
        }
        Ok(())
    }
}
