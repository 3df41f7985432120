//! Extents of a disk, opened.

use super::{
    bytes_of, cow,
    descriptor::{Access, Descriptor, ExtentKind, ExtentLine},
    flaw::Flaw,
    header::{self, Header},
    name::{Name, cannot_open},
    se_sparse,
    sparse_extent::{SparseExtent, first_bytes},
    table_cache::TableCache,
};
use crate::{
    disk::{Disk, Kind, Result},
    image::Neighbours,
};
use std::sync::Arc;

/// A run of the disk and what holds it.
#[derive(Debug)]
pub(super) struct Extent {
    /// Where it begins in the disk, and its length, in bytes.
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) access: Access,
    /// The file, for people; empty for zeros and for the image itself.
    pub(super) name: String,
    pub(super) kind: ExtentKind,
    pub(super) body: Body,
}

/// What holds an extent.
#[derive(Debug)]
pub(super) enum Body {
    /// The bytes of a file from `offset` on.
    Flat {
        disk: Arc<dyn Disk>,
        offset: u64,
    },
    Sparse(Box<SparseExtent>),
    Zero,
}

impl Extent {
    /// Where it ends in the disk.
    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }

    /// The file that it lies in.
    pub(super) fn container(&self) -> Option<&Arc<dyn Disk>> {
        match &self.body {
            Body::Flat { disk, .. } => Some(disk),
            Body::Sparse(sparse) => Some(&sparse.container),
            Body::Zero => None,
        }
    }

    pub(super) fn sparse(&self) -> Option<&SparseExtent> {
        match &self.body {
            Body::Sparse(sparse) => Some(sparse),
            _ => None,
        }
    }
}

/// Opens extents, one after the other.
pub(super) struct Opener<'a> {
    /// Of the image.
    pub(super) label: &'a str,
    pub(super) descriptor: &'a Descriptor,
    pub(super) neighbours: &'a dyn Neighbours,
    pub(super) writable: bool,
    pub(super) tables: Arc<TableCache>,
    pub(super) extents: Vec<Extent>,
}

impl Opener<'_> {
    fn name<'a>(&'a self, line: &'a ExtentLine) -> Name<'a> {
        Name {
            bytes: &line.file,
            encoding: self.descriptor.encoding.as_deref(),
        }
    }

    fn push(&mut self, line: &ExtentLine, name: String, body: Body) -> Result<()> {
        let start = self.extents.last().map_or(0, Extent::end);
        let length = bytes_of(line.sectors);
        if start.saturating_add(length) > bytes_of(header::LARGEST_CAPACITY) {
            return Err(Flaw::Capacity(line.sectors).of(self.label));
        }
        self.extents.push(Extent {
            start,
            length,
            access: line.access,
            name,
            kind: line.kind.clone(),
            body,
        });
        Ok(())
    }

    /// The extent of `line` is the image file itself, with `header`.
    pub(super) fn push_own(
        &mut self,
        line: &ExtentLine,
        container: Arc<dyn Disk>,
        header: &Header,
    ) -> Result<()> {
        let number = self.extents.len();
        let mut sparse = SparseExtent::hosted(container, header, number, self.tables.clone())?;
        self.fit(line, &mut sparse)?;
        self.push(line, String::new(), Body::Sparse(Box::new(sparse)))
    }

    /// Opens the file that `line` names.
    pub(super) fn push_file(&mut self, line: &ExtentLine) -> Result<()> {
        let name = self.name(line).text();
        if line.access == Access::None && line.kind != ExtentKind::Zero {
            return Err(Flaw::NoAccess(name).of(self.label));
        }
        if is_device(self.descriptor, line) {
            return Err(Flaw::Device(name, line.kind.name().to_owned()).of(self.label));
        }
        let body = match &line.kind {
            ExtentKind::Zero => Body::Zero,
            ExtentKind::Flat | ExtentKind::Vmfs => self.open_flat(line)?,
            ExtentKind::Sparse | ExtentKind::VmfsSparse | ExtentKind::SeSparse => self.open_sparse(line)?,
            ExtentKind::Other(kind) => return Err(Flaw::ExtentType(kind.clone()).of(self.label)),
        };
        self.push(line, name, body)
    }

    fn open_bytes(&self, line: &ExtentLine) -> Result<Arc<dyn Disk>> {
        let writable = self.writable && line.access == Access::ReadWrite;
        self.name(line)
            .open_bytes(self.neighbours, writable)
            .map_err(|error| cannot_open(self.label, "extent", self.name(line), error))
    }

    fn open_flat(&self, line: &ExtentLine) -> Result<Body> {
        let disk = self.open_bytes(line)?;
        let offset = bytes_of(line.offset);
        let expected = offset.saturating_add(bytes_of(line.sectors));
        if disk.size() < expected {
            let name = self.name(line).text();
            let found = disk.size();
            return Err(Flaw::ExtentTooShort {
                name,
                found,
                expected,
            }
            .of(self.label));
        }
        Ok(Body::Flat { disk, offset })
    }

    fn open_sparse(&self, line: &ExtentLine) -> Result<Body> {
        let container = self.open_bytes(line)?;
        let (number, tables) = (self.extents.len(), self.tables.clone());
        let bytes = match first_bytes(container.as_ref(), header::LENGTH) {
            // What has no bytes stands for an extent that is not looked at: the image tells of itself alone.
            Err(error) if error.kind == Kind::NotFound => {
                return Ok(Body::Flat {
                    disk: container,
                    offset: 0,
                });
            }
            bytes => bytes?,
        };
        let mut sparse = if bytes.starts_with(&se_sparse::MAGIC) {
            SparseExtent::se_sparse(container, number, tables)?
        } else if bytes.starts_with(&cow::MAGIC) {
            SparseExtent::cow(container, number, tables)?
        } else if bytes.starts_with(&header::MAGIC) {
            let header = Header::parse(&bytes).map_err(|flaw| flaw.of(container.label()).at(0))?;
            SparseExtent::hosted(container, &header, number, tables)?
        } else {
            let name = self.name(line).text();
            let expected = match line.kind {
                ExtentKind::SeSparse => "seSparse",
                ExtentKind::VmfsSparse => "sparse, COWD",
                _ => "sparse, KDMV",
            };
            return Err(Flaw::ExtentKind { name, expected }.of(self.label));
        };
        self.fit(line, &mut sparse)?;
        Ok(Body::Sparse(Box::new(sparse)))
    }

    /// Of an extent the disk has what its line says; its header may round that up to grains.
    fn fit(&self, line: &ExtentLine, sparse: &mut SparseExtent) -> Result<()> {
        let expected = bytes_of(line.sectors);
        if sparse.size < expected {
            return Err(Flaw::ExtentSectors {
                name: self.name(line).text(),
                found: sparse.size / super::SECTOR,
                expected: line.sectors,
            }
            .of(self.label));
        }
        sparse.size = expected;
        Ok(())
    }
}

/// Kinds of disks that are physical devices as a whole.
const DEVICES: [&str; 7] = [
    "fullDevice",
    "vmfsRaw",
    "vmfsRDM",
    "vmfsRDMP",
    "vmfsRawDeviceMap",
    "vmfsPassthroughRawDeviceMap",
    "partitionedDevice",
];

fn is_device(descriptor: &Descriptor, line: &ExtentLine) -> bool {
    let of_device = DEVICES.contains(&descriptor.create_type.as_str());
    let names_device = line.file.starts_with(b"/dev/") || line.file.starts_with(br"\\.\");
    match &line.kind {
        ExtentKind::Zero => false,
        // VMFSRDM, VMFSRAW.
        ExtentKind::Other(kind) => kind.starts_with("VMFSR") || of_device,
        ExtentKind::Flat if descriptor.create_type == "partitionedDevice" => names_device,
        _ => of_device || names_device,
    }
}
