//! Names of files in a descriptor, and how they may be spelled on this host.

use crate::{
    disk::{Disk, Error, Kind, Result},
    image::Neighbours,
};
use std::{io, sync::Arc};

/// A file of a disk as its descriptor names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    pub(super) bytes: &'a [u8],
    /// Of the descriptor.
    pub(super) encoding: Option<&'a str>,
}

impl<'a> Name<'a> {
    /// For people.
    pub(super) fn text(self) -> String {
        let spellings = self.spellings();
        String::from_utf8_lossy(spellings.last().map_or(self.bytes, Vec::as_slice)).into_owned()
    }

    /// Without the folders before it, of whatever system they are.
    pub(super) fn last_part(self) -> Name<'a> {
        let parts = self.bytes.rsplit(|byte| matches!(byte, b'/' | b'\\'));
        Name {
            bytes: parts.into_iter().next().unwrap_or(self.bytes),
            ..self
        }
    }

    /// Byte for byte as it stands there, and in UTF-8.
    fn spellings(self) -> Vec<Vec<u8>> {
        let mut spellings = vec![self.bytes.to_vec()];
        let encoding = self
            .encoding
            .and_then(|label| encoding_rs::Encoding::for_label(label.as_bytes()));
        if let Some(encoding) = encoding
            && let Some(text) = encoding.decode_without_bom_handling_and_without_replacement(self.bytes)
            && text.as_bytes() != self.bytes
        {
            spellings.push(text.into_owned().into_bytes());
        }
        spellings
    }

    /// Opens the file by the first spelling that there is.
    fn open_by(self, open: impl Fn(&[u8]) -> Result<Arc<dyn Disk>>) -> Result<Arc<dyn Disk>> {
        let mut first = None;
        for spelling in self.spellings() {
            match open(&spelling) {
                Err(error) if error.kind == Kind::NotFound => {
                    first.get_or_insert(error);
                }
                result => return result,
            }
        }
        Err(first.unwrap_or_else(|| Error::new(Kind::NotFound, self.text(), "is no name of a file")))
    }

    /// Its bytes, whatever they are; for writing too if it is `writable`.
    pub(super) fn open_bytes(self, neighbours: &dyn Neighbours, writable: bool) -> Result<Arc<dyn Disk>> {
        self.open_by(|name| {
            if writable {
                neighbours.open_writable(name)
            } else {
                neighbours.open(name, Some("raw"))
            }
        })
    }

    /// The disk that it is as a VMDK.
    pub(super) fn open_image(self, neighbours: &dyn Neighbours) -> Result<Arc<dyn Disk>> {
        self.open_by(|name| neighbours.open(name, Some("vmdk")))
    }
}

/// An error of opening a file that the image `label` names as `role`, with what to do about it.
pub(super) fn cannot_open(label: &str, role: &str, name: Name<'_>, error: Error) -> Error {
    let full = |error: &io::Error| error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error());
    let cure = if error.source.downcast_ref::<io::Error>().is_some_and(full) {
        "; allow this program more open files with `ulimit -n`"
    } else if error.kind == Kind::NotFound {
        "; put it beside the file that names it"
    } else {
        ""
    };
    let text = format!(
        "names \"{}\" as its {role}, which cannot be opened: {error}{cure}",
        name.text()
    );
    Error::new(error.kind, label, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_as_they_stand_and_in_utf8() {
        let name = |bytes, encoding| Name { bytes, encoding };
        let tried = |name: Name<'_>| name.spellings();
        assert_eq!(tried(name(b"a.vmdk", Some("windows-1252"))), [b"a.vmdk"]);
        let umlaut = name(b"\xfcber.vmdk", Some("windows-1252"));
        assert_eq!(
            tried(umlaut),
            [b"\xfcber.vmdk".to_vec(), "über.vmdk".as_bytes().to_vec()]
        );
        assert_eq!(umlaut.text(), "über.vmdk");
        assert_eq!(tried(name(b"\xd0\xc2.vmdk", Some("GBK"))).len(), 2);
        assert_eq!(tried(name(b"\xff", Some("UTF-8"))), [b"\xff"]);
        assert_eq!(tried(name(b"\xff", Some("no such"))), [b"\xff"]);
        assert_eq!(
            name(b"C:\\VMs\\b.vmdk", None).last_part().bytes,
            b"b.vmdk".as_slice()
        );
        assert_eq!(
            name(b"/vmfs/x/b.vmdk", None).last_part().bytes,
            b"b.vmdk".as_slice()
        );
        assert_eq!(name(b"b.vmdk", None).last_part().bytes, b"b.vmdk".as_slice());
    }
}
