//! Which format a file has: by its magic, never by its name.

use super::{
    Format, Image, Neighbours, Raw,
    ova::{self, Ova},
    parallels::Parallels,
    qcow::Qcow,
    qcow2::Qcow2,
    vdi::Vdi,
    vhd::{self, Vhd},
    vhdx::Vhdx,
    vmdk::Vmdk,
};
use crate::disk::{Disk, Error, Kind, Result};
use std::sync::Arc;

/// Magics of formats that are not read: taking such a file for a raw disk would copy its container. With the place
/// of the magic, and what makes another image of them.
const OTHERS: [(u64, &[u8], &str, &str); 3] = [
    (0, b"QED\0", "QED", "`qemu-img convert -O qcow2`"),
    (
        0,
        b"EVF\x09\x0d\x0a\xff\x00",
        "EnCase",
        "`ewfexport -f raw` (of ewf-tools)",
    ),
    (
        0,
        b"EVF2\x0d\x0a\x81\x00",
        "EnCase (Ex01)",
        "`ewfexport -f raw` (of ewf-tools)",
    ),
];

/// Bytes by which every kind of VMDK is recognised.
const VMDK_MAGIC: u64 = 32;

/// The format of the file in `container`; raw if no magic is known. A format that is known but not read is an error
/// of kind `Unsupported`.
///
/// A fixed VHD has no magic but in its footer, its last 512 bytes. It is believed only if its checksum and its size are
/// right: then a raw disk whose guest wrote such a footer loses that one sector, and nothing else comes of it. (qemu
/// looks at the first sector alone, and takes every fixed VHD for a raw disk.)
///
/// Only for files: a guest can write any magic into the first sector of a block device or network disk.
pub fn detect(container: &dyn Disk) -> Result<Format> {
    let starts = |at: u64, magic: &[u8]| -> Result<bool> {
        let mut bytes = vec![0; magic.len()];
        if at.saturating_add(magic.len() as u64) > container.size() {
            return Ok(false);
        }
        container.read_at(at, &mut bytes)?;
        Ok(bytes == magic)
    };
    if starts(0, b"QFI\xfb\0\0\0\x01")? {
        return Ok(Format::Qcow);
    }
    if starts(0, b"QFI\xfb")? {
        return Ok(Format::Qcow2);
    }
    if starts(0, b"WithoutFreeSpace")? || starts(0, b"WithouFreSpacExt")? {
        return Ok(Format::Parallels);
    }
    if starts(0, b"conectix")? {
        return Ok(Format::Vhd);
    }
    if starts(64, &[0x7f, 0x10, 0xda, 0xbe])? {
        return Ok(Format::Vdi);
    }
    if starts(0, b"vhdxfile")? {
        return Ok(Format::Vhdx);
    }
    let mut first = vec![0; usize::try_from(container.size().min(VMDK_MAGIC)).unwrap_or(0)];
    container.read_at(0, &mut first)?;
    if Vmdk::recognises(&first) {
        return Ok(Format::Vmdk);
    }
    match ova::look(container) {
        ova::Look::There => return Ok(Format::Ova),
        ova::Look::Lacking => {
            let text = "is a tar archive, and no package: no file in it that can be found ends with .ovf. Unpack it \
                        (`tar xf`) and name the disk in it. If it is a raw disk in spite of that, name the format: raw";
            return Err(Error::new(Kind::Unsupported, container.label(), text));
        }
        ova::Look::Other => {}
    }
    if ova::is_descriptor(container) {
        return Ok(Format::Ovf);
    }
    let unread = |name: &str, cure: &str| {
        let text = format!(
            "is a {name} image, a format that is not read here: {cure} makes one that is. If it is a raw disk in spite of \
             that, name the format: raw"
        );
        Err(Error::new(Kind::Unsupported, container.label(), text))
    };
    for (at, magic, name, cure) in OTHERS {
        if starts(at, magic)? {
            return unread(name, cure);
        }
    }
    // A disk image of macOS has its magic at its end, with version and size of that trailer.
    let trailer = container.size().checked_sub(512);
    if let Some(trailer) = trailer
        && starts(trailer, b"koly\0\0\0\x04\0\0\x02\0")?
    {
        return unread(
            "DMG",
            "`hdiutil convert -format UDTO`, or `qemu-img convert -O raw`,",
        );
    }
    match vhd::ending(container)? {
        vhd::Ending::Nothing => Ok(Format::Raw),
        vhd::Ending::Fixed => Ok(Format::Vhd),
        vhd::Ending::Unfitting => Err(Error::new(
            Kind::Unsupported,
            container.label(),
            "ends like a VHD, but is no whole one: it lacks its beginning, or has another size than it says. Name the \
             format: vpc, or raw for a raw disk whose guest wrote that",
        )),
    }
}

/// Opens the image in `container` for reading. `format` is what the user has named; without it the magic decides.
/// For a block device or a network disk pass raw where the user has named nothing.
pub fn open(
    container: Arc<dyn Disk>,
    format: Option<Format>,
    neighbours: &dyn Neighbours,
) -> Result<Arc<dyn Image>> {
    let format = match format {
        Some(format) => format,
        None => detect(container.as_ref())?,
    };
    Ok(match format {
        Format::Raw => Arc::new(Raw::new(container)),
        Format::Qcow2 => Arc::new(Qcow2::open(container, neighbours)?),
        Format::Vhd => Arc::new(Vhd::open(container, neighbours)?),
        Format::Vdi => Arc::new(Vdi::open(container, neighbours)?),
        Format::Vhdx => Arc::new(Vhdx::open(container, neighbours)?),
        Format::Vmdk => Arc::new(Vmdk::open(container, neighbours)?),
        Format::Ova | Format::Ovf => Arc::new(Ova::open(container, format, neighbours)?),
        Format::Qcow => Arc::new(Qcow::open(container, neighbours)?),
        Format::Parallels => Arc::new(Parallels::open(container, neighbours)?),
    })
}

/// Opens the disk in `container` as it was at the time of the internal snapshot with this identifier or name, for reading.
///
/// # Errors
/// [`Kind::NotFound`] with the snapshots that there are; [`Kind::Unsupported`] for a format that keeps none inside.
pub fn open_snapshot(
    container: Arc<dyn Disk>,
    format: Format,
    snapshot: &str,
    neighbours: &dyn Neighbours,
) -> Result<Arc<dyn Image>> {
    match format {
        Format::Qcow2 => Ok(Arc::new(Qcow2::open_snapshot(container, snapshot, neighbours)?)),
        _ => {
            let text = format!("is a {format} image, which keeps no snapshots inside: leave -l out");
            Err(Error::new(Kind::Unsupported, container.label(), text))
        }
    }
}

/// Opens the image in `container` for editing where it lies: `container` is writable, or an overlay over what is not.
///
/// # Errors
/// [`Kind::Unsafe`] for a state in which an edit would do harm, [`Kind::Unsupported`] for a kind that cannot be edited.
pub fn open_writable(
    container: Arc<dyn Disk>,
    format: Format,
    neighbours: &dyn Neighbours,
) -> Result<Arc<dyn Image>> {
    Ok(match format {
        Format::Raw => Arc::new(Raw::new(container)),
        Format::Qcow2 => Arc::new(Qcow2::open_writable(container, neighbours)?),
        Format::Vhd => Arc::new(Vhd::open_writable(container, neighbours)?),
        Format::Vdi => Arc::new(Vdi::open_writable(container, neighbours)?),
        Format::Vhdx => Arc::new(Vhdx::open_writable(container, neighbours)?),
        Format::Vmdk => Arc::new(Vmdk::open_writable(container, neighbours)?),
        Format::Ova | Format::Ovf => {
            let text =
                "is a package with a manifest, which an edit would break: convert it to another format";
            return Err(Error::new(Kind::Unsupported, container.label(), text));
        }
        Format::Qcow | Format::Parallels => {
            let text = format!(
                "is a {format} image, a format that is only read: `rehome image convert -O qcow2` makes one that can be edited"
            );
            return Err(Error::new(Kind::Unsupported, container.label(), text));
        }
    })
}
