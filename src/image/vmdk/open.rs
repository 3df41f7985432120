//! Opening: from the file that was named to all that the disk is made of.

use super::{
    Vmdk, bytes_of, cow,
    descriptor::{self, Access, Descriptor, ExtentKind, ExtentLine, NO_PARENT},
    disk::Parts,
    extent::{Extent, Opener},
    flaw::Flaw,
    header::{self, Header},
    name::{Name, cannot_open},
    se_sparse,
    sparse_extent::first_bytes,
    table_cache::TableCache,
};
use crate::{
    disk::{Disk, Error, Kind, Result},
    image::Neighbours,
};
use std::{ops::Range, sync::Arc};

/// What a file begins with.
enum Beginning {
    /// An extent with a header, and mostly with the descriptor of the disk inside.
    Hosted(Header),
    /// The descriptor.
    Text,
    /// An extent without a descriptor, of so many sectors, of the type that a descriptor would give it.
    Bare { sectors: u64, kind: ExtentKind },
}

/// Does a file that begins with `bytes` look like a VMDK?
pub(super) fn recognises(bytes: &[u8]) -> bool {
    bytes.starts_with(&header::MAGIC)
        || bytes.starts_with(&cow::MAGIC)
        || bytes.starts_with(&se_sparse::MAGIC)
        || bytes.starts_with(descriptor::MAGIC)
}

fn beginning(container: &dyn Disk) -> Result<Beginning> {
    let bytes = first_bytes(container, cow::LENGTH)?;
    let parsed = if bytes.starts_with(&header::MAGIC) {
        Header::parse(&bytes).map(Beginning::Hosted)
    } else if bytes.starts_with(&cow::MAGIC) {
        cow::Header::parse(&bytes).map(|header| Beginning::Bare {
            sectors: header.capacity,
            kind: ExtentKind::VmfsSparse,
        })
    } else if bytes.starts_with(&se_sparse::MAGIC) {
        se_sparse::Header::parse(&bytes).map(|header| Beginning::Bare {
            sectors: header.capacity,
            kind: ExtentKind::SeSparse,
        })
    } else if bytes.starts_with(descriptor::MAGIC) {
        Ok(Beginning::Text)
    } else {
        Err(Flaw::Magic)
    };
    parsed.map_err(|flaw| flaw.of(container.label()).at(0))
}

/// Where the descriptor is in the file; `None` if there is none.
fn descriptor_place(container: &dyn Disk, beginning: &Beginning) -> Result<Option<Range<u64>>> {
    let size = container.size();
    match beginning {
        Beginning::Text if size > descriptor::LARGEST => {
            Err(Flaw::DescriptorTooLarge(descriptor::LARGEST).of(container.label()))
        }
        Beginning::Text => Ok(Some(0..size)),
        Beginning::Bare { .. } => Ok(None),
        Beginning::Hosted(header) if header.descriptor_offset == 0 || header.descriptor_size == 0 => Ok(None),
        Beginning::Hosted(header) => {
            let offset = bytes_of(header.descriptor_offset);
            let length = bytes_of(header.descriptor_size);
            if length > descriptor::LARGEST {
                return Err(Flaw::DescriptorTooLarge(descriptor::LARGEST)
                    .of(container.label())
                    .at(36));
            }
            let what = "descriptor";
            match offset.checked_add(length) {
                Some(end) if end <= size => Ok(Some(offset..end)),
                _ => Err(Flaw::PastTheEnd { what, offset, size }
                    .of(container.label())
                    .at(28)),
            }
        }
    }
}

fn read_descriptor(container: &dyn Disk, place: &Range<u64>) -> Result<Descriptor> {
    // Within LARGEST.
    let mut bytes = vec![0; usize::try_from(place.end - place.start).unwrap_or(0)];
    container.read_at(place.start, &mut bytes)?;
    descriptor::parse(&bytes).map_err(|flaw| flaw.of(container.label()).at(place.start))
}

/// Opens the image in `container` and all files that it is made of; those for writing too if it is `writable`.
pub(super) fn open(container: Arc<dyn Disk>, neighbours: &dyn Neighbours, writable: bool) -> Result<Parts> {
    let label = container.label().to_owned();
    let beginning = beginning(container.as_ref())?;
    let Some(place) = descriptor_place(container.as_ref(), &beginning)? else {
        return Err(without_descriptor(&beginning, &label));
    };
    let descriptor = read_descriptor(container.as_ref(), &place)?;
    if descriptor.is_empty() {
        return Err(without_descriptor(&beginning, &label));
    }
    if descriptor.encrypted {
        return Err(Flaw::Encrypted.of(&label));
    }
    let mut opener = Opener {
        label: &label,
        descriptor: &descriptor,
        neighbours,
        writable,
        tables: Arc::new(TableCache::default()),
        extents: Vec::new(),
    };
    match &beginning {
        Beginning::Hosted(header) if header.capacity > 0 => {
            push_own_and_others(&mut opener, &container, header)?;
        }
        _ => {
            for line in &descriptor.extents {
                opener.push_file(line)?;
            }
        }
    }
    let extents = opener.extents;
    let size = extents.last().map_or(0, Extent::end);
    if extents.is_empty() {
        return Err(Flaw::NoExtents.of(&label));
    }
    let (parent, parent_name) = match open_parent(&label, &descriptor, neighbours)? {
        Some((parent, name)) => (Some(parent), Some(name)),
        None => (None, None),
    };
    Ok(Parts {
        container,
        descriptor_place: place,
        descriptor,
        extents,
        size,
        parent,
        parent_name,
    })
}

/// The file is itself an extent: mostly the only one, whatever its name was when it was made. Early versions put the
/// descriptor of a disk in pieces into the first piece.
fn push_own_and_others(opener: &mut Opener<'_>, container: &Arc<dyn Disk>, header: &Header) -> Result<()> {
    let lines = &opener.descriptor.extents;
    if let [] | [_] = lines.as_slice() {
        // The header rounds the size up to grains at most; as qemu does, it is believed otherwise.
        let said = lines.first().map(|line| line.sectors);
        let rounded = |said: &u64| *said <= header.capacity && header.capacity - said < header.grain;
        let line = ExtentLine {
            access: lines.first().map_or(Access::ReadWrite, |line| line.access),
            sectors: said.filter(rounded).unwrap_or(header.capacity),
            kind: ExtentKind::Sparse,
            file: Vec::new(),
            offset: 0,
        };
        return opener.push_own(&line, container.clone(), header);
    }
    let own_name = container.label().rsplit('/').next().unwrap_or_default();
    let is_sparse = |line: &&ExtentLine| line.kind == ExtentKind::Sparse;
    let own = lines
        .iter()
        .filter(is_sparse)
        .find(|line| line.file == own_name.as_bytes())
        .or_else(|| lines.iter().find(is_sparse))
        .cloned();
    let lines = lines.clone();
    let mut pending = own.as_ref();
    for line in &lines {
        if pending == Some(line) {
            pending = None;
            opener.push_own(line, container.clone(), header)?;
        } else {
            opener.push_file(line)?;
        }
    }
    Ok(())
}

fn without_descriptor(beginning: &Beginning, label: &str) -> Error {
    let (sectors, kind) = match beginning {
        Beginning::Hosted(header) => (header.capacity, &ExtentKind::Sparse),
        Beginning::Bare { sectors, kind } => (*sectors, kind),
        Beginning::Text => (0, &ExtentKind::Zero),
    };
    let create_type = match kind {
        ExtentKind::SeSparse => "seSparse",
        ExtentKind::VmfsSparse => "vmfsSparse",
        _ => "twoGbMaxExtentSparse",
    };
    let name = label.rsplit('/').next().unwrap_or_default();
    let text = format!(
        "# Disk DescriptorFile\\nversion=1\\nCID=00000001\\nparentCID=ffffffff\\ncreateType=\"{create_type}\"\\n\
         RW {sectors} {} \"{name}\"\\n",
        kind.name()
    );
    Flaw::NoDescriptor { sectors, text }.of(label)
}

/// The CID of the image in `container`.
fn cid_of(container: &dyn Disk) -> Result<Option<u32>> {
    let beginning = beginning(container)?;
    match descriptor_place(container, &beginning)? {
        Some(place) => Ok(read_descriptor(container, &place)?.cid),
        None => Ok(None),
    }
}

/// The parent by the name that the descriptor has for it, or beside the image if it was somewhere else then: it is
/// known by its CID. With the name that it was found by.
fn open_parent(
    label: &str,
    descriptor: &Descriptor,
    neighbours: &dyn Neighbours,
) -> Result<Option<(Arc<dyn Disk>, String)>> {
    let expected = descriptor.parent_cid;
    let hint = descriptor.parent_hint.as_deref().map(|bytes| Name {
        bytes,
        encoding: descriptor.encoding.as_deref(),
    });
    let hint = match (hint, expected) {
        (None, NO_PARENT) => return Ok(None),
        (None, _) => return Err(Flaw::ParentNotNamed(expected).of(label)),
        (Some(name), NO_PARENT) => return Err(Flaw::ParentDenied(name.text()).of(label)),
        (Some(name), _) => name,
    };
    let mut names = vec![hint];
    if hint.last_part().bytes != hint.bytes {
        names.push(hint.last_part());
    }
    let mut failure: Option<Error> = None;
    for name in names {
        let found = name
            .open_bytes(neighbours, false)
            .and_then(|container| cid_of(container.as_ref()));
        let error = match found {
            // What has no bytes stands for a parent that is not looked at: the image tells of itself alone.
            Err(error) if error.kind == Kind::NotFound && name.open_bytes(neighbours, false).is_ok() => {
                return name
                    .open_image(neighbours)
                    .map(|parent| Some((parent, name.text())));
            }
            Ok(Some(cid)) if cid == expected => {
                return name
                    .open_image(neighbours)
                    .map(|parent| Some((parent, name.text())))
                    .map_err(|error| cannot_open(label, "parent", name, error));
            }
            Ok(found) => Flaw::ParentChanged {
                parent: name.text(),
                expected,
                found: found.map_or("none".to_owned(), |cid| format!("{cid:08x}")),
            }
            .of(label),
            Err(error) => cannot_open(label, "parent", name, error),
        };
        // One that has another CID says more than one that is not there.
        if failure.as_ref().is_none_or(|first| first.kind != Kind::Unsafe) {
            failure = Some(error);
        }
    }
    Err(failure.unwrap_or_else(|| Flaw::ParentNotNamed(expected).of(label)))
}

impl Vmdk {
    /// Opens the image in `container` for reading; the other files that it is made of are opened by `neighbours`.
    ///
    /// # Errors
    /// Those of the files; what is wrong with their structure, and what to do about it.
    pub fn open(container: Arc<dyn Disk>, neighbours: &dyn Neighbours) -> Result<Self> {
        open(container, neighbours, false).map(Self::new)
    }

    /// Does a file that begins with these bytes look like a VMDK? 20 of them are enough.
    pub fn recognises(bytes: &[u8]) -> bool {
        recognises(bytes)
    }
}
