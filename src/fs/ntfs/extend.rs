//! Files of `$Extend` that know of other files: `$ObjId` by their identifiers, `$Reparse` those with reparse points,
//! `$Quota` what each user has, `$UsnJrnl` what changed (Linux-NTFS documentation, "$Extend").

use super::{
    Ntfs,
    attribute::kind,
    edited_file::EditedFile,
    error::NtfsError,
    file_record::{Reference, number},
    index_node::OwnedEntry,
    standard_information::file_time,
};
use crate::{
    disk::field::{put_u64_le, u16_le, u32_le},
    fs::Result,
};

const OBJECT_IDS: [u16; 2] = [0x24, 0x4f];
const REPARSE_POINTS: [u16; 2] = [0x24, 0x52];
const QUOTAS: [u16; 2] = [0x24, 0x51];
const USN_MAXIMUM: [u16; 4] = [0x24, 0x4d, 0x61, 0x78];
const USN_JOURNAL: [u16; 2] = [0x24, 0x4a];

/// The entry of `$Quota` with what holds for all users.
const QUOTA_DEFAULTS: u32 = 1;
/// Quotas are counted or kept, or somebody has asked for it.
const QUOTA_USED: u32 = 0x0070;
/// Windows is to count anew.
const QUOTA_OUT_OF_DATE: u32 = 0x0200;

/// Bytes of an object identifier.
const OBJECT_ID: usize = 16;

impl Ntfs {
    /// A file of `$Extend`, for changing; `None` where the volume has none.
    fn load_extension(&mut self, name: &str) -> Result<Option<EditedFile>> {
        let extend = match self.file(number::EXTEND) {
            Ok(extend) if extend.record.is_directory() => extend,
            Ok(_) => return Ok(None),
            Err(error) if error.kind == crate::disk::Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let name: Vec<u16> = name.encode_utf16().collect();
        match self.find_name(&extend, &name)? {
            Some(found) => self.load(found.number).map(Some),
            None => Ok(None),
        }
    }

    /// A file with an object identifier goes.
    pub(super) fn forget_object_id(&mut self, id: &[u8]) -> Result<()> {
        let Some(key) = id.get(..OBJECT_ID) else {
            return Ok(());
        };
        if let Some(mut file) = self.load_extension("$ObjId")? {
            self.remove_entry(&mut file, &OBJECT_IDS, key)?;
            self.store(file)?;
        }
        Ok(())
    }

    /// A file gets a reparse point.
    pub(super) fn note_reparse_point(&mut self, file: Reference, tag: u32) -> Result<()> {
        if let Some(mut index) = self.load_extension("$Reparse")? {
            let key = reparse_key(file, tag);
            if self.find_entry(&index, &REPARSE_POINTS, &key)?.is_none() {
                let entry = OwnedEntry::of_data(&key, &[], &[]);
                let entry = entry.map_err(|e| self.in_record(index.number, e))?;
                self.insert_entry(&mut index, &REPARSE_POINTS, entry)?;
            }
            self.store(index)?;
        }
        Ok(())
    }

    /// A reparse point goes.
    pub(super) fn forget_reparse_point(&mut self, file: Reference, raw: &[u8]) -> Result<()> {
        let tag = u32_le(raw, 0).map_err(|e| self.in_record(file.number, e.into()))?;
        if let Some(mut index) = self.load_extension("$Reparse")? {
            self.remove_entry(&mut index, &REPARSE_POINTS, &reparse_key(file, tag))?;
            self.store(index)?;
        }
        Ok(())
    }

    /// What users have is not counted here: where Windows counts it, it is told to count anew.
    pub(super) fn make_quotas_out_of_date(&mut self) -> Result<()> {
        let Some(mut file) = self.load_extension("$Quota")? else {
            return Ok(());
        };
        self.update_entry(&mut file, &QUOTAS, &QUOTA_DEFAULTS.to_le_bytes(), &mut |raw| {
            let at = usize::from(u16_le(raw, 0)?) + 4;
            let flags = u32_le(raw, at)?;
            if flags & QUOTA_USED != 0 {
                crate::disk::field::put_u32_le(raw, at, flags | QUOTA_OUT_OF_DATE)?;
            }
            Ok(())
        })?;
        self.store(file)
    }

    /// The journal of changes has no record of ours. It gets a new identity, and begins where it ends now, which tells who
    /// reads it (search, replication, backup, virus scanners) to look at all files anew.
    pub(super) fn stamp_usn_journal(&mut self) -> Result<()> {
        let Some(mut file) = self.load_extension("$UsnJrnl")? else {
            return Ok(());
        };
        let end = file
            .attribute(kind::DATA, &USN_JOURNAL)
            .map(super::edited_file::OwnedAttribute::size);
        let size = file
            .attribute(kind::DATA, &USN_MAXIMUM)
            .map(super::edited_file::OwnedAttribute::size);
        if let (Some(end), Some(MAXIMUM..)) = (end, size) {
            let mut identity = [0; 16];
            let now = file_time(i128::from(self.clock) * 1_000_000_000);
            let put = put_u64_le(&mut identity, 0, now).and_then(|()| put_u64_le(&mut identity, 8, end));
            put.map_err(|e| self.fault(NtfsError::from(e)))?;
            self.write_value(&mut file, (kind::DATA, &USN_MAXIMUM), 16, &identity)?;
        }
        self.store(file)
    }
}

/// Bytes of `$Max`.
const MAXIMUM: u64 = 32;

fn reparse_key(file: Reference, tag: u32) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &file.encode().to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::FileDisk,
        fs::{Edit as _, FileSystem as _, Node, mode},
    };
    use std::{process::Command, sync::Arc};

    /// A journal as Windows makes it: who follows it is told to look at everything anew.
    #[test]
    fn the_journal_of_changes_gets_a_new_identity() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volume");
        FileDisk::create(&path, 24 << 20).unwrap();
        let mut mkntfs = Command::new("mkntfs");
        let made = mkntfs
            .args(["-q", "-Q", "-F"])
            .arg(&path)
            .output()
            .expect("mkntfs is needed by this test");
        assert!(made.status.success(), "{made:?}");
        let open = || Ntfs::open(Arc::new(FileDisk::open_writable(&path).unwrap())).unwrap();
        // Greatest size, growth, identity, where it begins.
        let before: Vec<u8> = [1 << 25, 1 << 22, 7, 0]
            .into_iter()
            .flat_map(u64::to_le_bytes)
            .collect();
        let mut ntfs = open();
        ntfs.edit().unwrap();
        let root = ntfs.root();
        let journal = ntfs.create(root, b"journal", mode::FILE | 0o644).unwrap();
        ntfs.set_extended(journal, b"user.$J", Some(&[0; 100])).unwrap();
        ntfs.set_extended(journal, b"user.$Max", Some(&before)).unwrap();
        // The rooms above may not put anything into `$Extend`.
        let mut directory = ntfs.load(number::ROOT).unwrap();
        let mut file = ntfs.load(journal.0).unwrap();
        let named = ntfs
            .find_edited(&directory, &"journal".encode_utf16().collect::<Vec<_>>())
            .unwrap()
            .unwrap();
        ntfs.take_name(&mut directory, &mut file, &named.name).unwrap();
        ntfs.store(directory).unwrap();
        let mut extend = ntfs.load(number::EXTEND).unwrap();
        let name: Vec<u16> = "$UsnJrnl".encode_utf16().collect();
        ntfs.add_name(&mut extend, &mut file, &name, true).unwrap();
        ntfs.store(extend).unwrap();
        ntfs.store(file).unwrap();
        drop(ntfs);
        let maximum = || open().extended(journal, b"user.$Max").unwrap().unwrap();
        assert_eq!(maximum(), before);
        // Looking does not touch it.
        let mut ntfs = open();
        ntfs.edit().unwrap().commit().unwrap();
        assert_eq!(maximum(), before);
        let edit = ntfs.edit().unwrap();
        edit.set_clock(1_700_000_000);
        edit.create(Node(number::ROOT), b"new", mode::FILE | 0o644)
            .unwrap();
        edit.commit().unwrap();
        let after = maximum();
        assert_eq!(after[..16], before[..16]);
        assert_eq!(after[16..24], 133_444_736_000_000_000_u64.to_le_bytes());
        assert_eq!(after[24..], 100_u64.to_le_bytes());
    }
}
