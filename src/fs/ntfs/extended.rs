//! What NTFS keeps of a file beside its contents, as extended attributes with the names that `ntfs-3g` gives them:
//! alternate streams are `user.NAME`, what the format itself knows is `system.ntfs_*`.

use super::{
    Ntfs,
    attribute::{Form, flag, kind},
    error::NtfsError,
    file::File,
    file_name::namespace,
    name,
    stream::Stream,
    wof,
};
use crate::fs::Result;
use std::collections::BTreeSet;

/// Streams up to here are named by [`crate::fs::FileSystem::extended_names`], as much as Linux allows for the value of an
/// extended attribute.
const MOST_NAMED: u64 = 65536;
/// Streams up to here are read when they are asked for by name.
const MOST_READ: u64 = 16 << 20;

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// An alternate stream.
    Stream(Vec<u16>),
    /// The security descriptor, self-relative ([MS-DTYP] 2.4.6).
    SecurityDescriptor,
    /// The attributes ([MS-FSCC] 2.6), 32 bits, little-endian.
    Attributes,
    /// The reparse point with its tag ([MS-FSCC] 2.1.2.2).
    ReparsePoint,
    /// The object identifier, with those of its birth.
    ObjectId,
    /// The name for DOS.
    Dos,
    /// The extended attributes of OS/2 and of the Windows Subsystem for Linux, all of them.
    Ea,
}

const STREAM: &[u8] = b"user.";
const SYSTEM: [(&[u8], Name); 6] = [
    (b"system.ntfs_acl", Name::SecurityDescriptor),
    (b"system.ntfs_attrib", Name::Attributes),
    (b"system.ntfs_reparse_data", Name::ReparsePoint),
    (b"system.ntfs_object_id", Name::ObjectId),
    (b"system.ntfs_dos_name", Name::Dos),
    (b"system.ntfs_ea", Name::Ea),
];

impl Name {
    pub(super) fn parse(full: &[u8]) -> Option<Self> {
        if let Some(stream) = full.strip_prefix(STREAM) {
            let units = name::from_bytes(stream)?;
            return (!units.is_empty() && units.len() <= name::MOST_UNITS).then_some(Self::Stream(units));
        }
        let known = SYSTEM.into_iter().find(|(name, _)| *name == full);
        known.map(|(_, name)| name)
    }
}

impl Ntfs {
    pub(super) fn extended_value(&self, file: &File, name: &Name) -> Result<Option<Vec<u8>>> {
        match name {
            Name::Stream(units) => {
                let Some(mut stream) = self.stream(file, kind::DATA, units)? else {
                    return Ok(None);
                };
                self.must_be_plain(&stream)?;
                self.whole(&mut stream, MOST_READ).map(Some)
            }
            Name::SecurityDescriptor => self.security_descriptor(file),
            Name::Attributes => {
                let information = self.standard_information(file)?;
                Ok(Some(information.attributes.to_le_bytes().to_vec()))
            }
            Name::ReparsePoint => self.value(file, kind::REPARSE_POINT, &[], MOST_NAMED),
            Name::ObjectId => self.value(file, kind::OBJECT_ID, &[], MOST_NAMED),
            Name::Dos => {
                let names = self.names(file)?;
                let dos = names.into_iter().find(|name| name.namespace == namespace::DOS);
                Ok(dos.map(|name| name::to_bytes(name.name.into_iter())))
            }
            Name::Ea => self.value(file, kind::EA, &[], MOST_NAMED),
        }
    }

    fn must_be_plain(&self, stream: &Stream) -> Result<()> {
        if stream.is_compressed() || stream.is_encrypted() {
            return Err(self.fault(NtfsError::Unsupported(format!(
                "file record {}: its stream \"{}\" is compressed or encrypted; `compact /u` and `cipher /d` in Windows \
                 make it plain",
                stream.owner,
                name::shown(&stream.name)
            ))));
        }
        Ok(())
    }

    /// Those that the file has. Streams that are too long to be values are left out, and so is what a compressed file is made
    /// of.
    pub(super) fn extended_names_of(&self, file: &File) -> Result<Vec<Vec<u8>>> {
        let mut streams: BTreeSet<Vec<u8>> = BTreeSet::new();
        let mut system = BTreeSet::from([kind::STANDARD_INFORMATION]);
        self.each_attribute(file, &mut |_, attribute| {
            system.insert(attribute.kind);
            let (size, first) = match &attribute.form {
                Form::Resident { value, .. } => (value.len() as u64, true),
                Form::NonResident(part) => (part.sizes.size, part.vcns.start == 0),
            };
            let plain =
                attribute.is_resident() || attribute.flags & (flag::COMPRESSION | flag::ENCRYPTED) == 0;
            if attribute.kind == kind::DATA
                && !attribute.name.is_empty()
                && first
                && plain
                && size <= MOST_NAMED
            {
                let name = name::to_bytes(name::units(attribute.name));
                if name != wof::STREAM.as_bytes() {
                    streams.insert([STREAM, &name].concat());
                }
            }
            Ok(streams.len() < MOST_STREAMS)
        })?;
        let has = |name: &Name| {
            Ok(match name {
                Name::Stream(_) => false,
                Name::SecurityDescriptor => self.security_descriptor(file)?.is_some(),
                Name::Attributes => true,
                Name::ReparsePoint => system.contains(&kind::REPARSE_POINT),
                Name::ObjectId => system.contains(&kind::OBJECT_ID),
                Name::Dos => self.extended_value(file, name)?.is_some(),
                Name::Ea => system.contains(&kind::EA),
            })
        };
        let mut names: Vec<Vec<u8>> = streams.into_iter().collect();
        for (full, name) in SYSTEM {
            if has(&name)? {
                names.push(full.to_vec());
            }
        }
        Ok(names)
    }
}

/// No file has so many; a hostile one may.
const MOST_STREAMS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_ntfs_3g() {
        assert_eq!(Name::parse(b"user.a"), Some(Name::Stream(vec![0x61])));
        assert_eq!(Name::parse(b"system.ntfs_acl"), Some(Name::SecurityDescriptor));
        for none in [&b"user."[..], b"security.selinux", b"system.ntfs", b"user.\xff"] {
            assert_eq!(Name::parse(none), None);
        }
    }
}
