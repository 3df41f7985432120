//! The disks of a job, opened: overlays over them, volumes on them, filesystems in those. Everything that looks
//! into a system begins here.

use crate::{
    copy, destination,
    disk::{self, Digest, Disk, Error, Kind, Overlay, Recorder},
    fs::{
        FileSystem, Identity, Mounts,
        detect::{self, Detected},
        swap::Swap,
    },
    guest::{self, Guest, Inspection, OtherVolume},
    image::{Format, ova::Package},
    job::Source,
    locator::{self, Locator, Passing, Reading},
    machine::Firmware,
    output::{ManifestState, PackageFacts, Report, SourceFacts, VolumeFacts},
    volume::{Scan, Volume, scan},
    watch::Watch,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The disks of a source, opened for reading only.
#[derive(Debug)]
pub struct Opened {
    source: Source,
    disks: Vec<Arc<dyn Disk>>,
    formats: Vec<Format>,
    /// Every file and device that they are read from, once.
    paths: Vec<PathBuf>,
    /// Names of those that have no path.
    others: Vec<String>,
    lasts: bool,
    packages: Vec<(String, Package)>,
    passing: Vec<(String, Passing)>,
    remarks: Vec<String>,
}

/// Disks that may be written (overlays, or images that are edited in place), and all that is on them.
pub struct Layer {
    /// In order of the sources.
    pub disks: Vec<Arc<dyn Disk>>,
    /// Tables and volumes.
    pub scan: Scan,
    /// Every filesystem that could be opened, in order of the scan.
    pub mounts: Mounts,
    /// What each volume holds, in the order of [`Scan::volumes`].
    pub contents: Vec<Contents>,
}

/// What a volume holds.
pub struct Contents {
    /// Notes what is written through the filesystem.
    pub recorder: Arc<Recorder>,
    /// What was found there.
    pub found: Found,
}

/// What was found on a volume.
#[derive(Debug)]
pub enum Found {
    /// A filesystem: its index in [`Layer::mounts`].
    FileSystem(usize),
    /// A swap area.
    Swap(Swap),
    /// Recognised, but not looked into.
    Known(Identity),
    /// Nothing that we know.
    Unknown,
    /// Recognised, and could not be opened.
    Failed(Error),
}

/// A layer, and the systems that are installed on it.
pub struct Examined {
    /// Over the sources, journals replayed.
    pub layer: Layer,
    /// The systems, in order of their root volumes, and which of them starts when nobody chooses.
    pub inspection: Inspection,
    /// What somebody should look at.
    pub warnings: Vec<String>,
    sources: Vec<SourceFacts>,
    packages: Vec<PackageFacts>,
    volumes: Vec<VolumeFacts>,
}

impl Opened {
    /// Opens the disks of `source`. A file's format is what its first bytes say unless the user names it; a block device
    /// or an export is raw unless the user names it.
    ///
    /// # Errors
    /// Those of the disks; `Unsupported` for a format that is not known.
    pub fn open(source: &Source, watch: &dyn Watch) -> disk::Result<Self> {
        let reading = Reading {
            format: source.format,
            sector_size: source.sector_size,
            snapshot: source.snapshot.clone(),
            directly: source.directly,
            forward: source.forward,
            size: source.size,
            temporary_folder: source.temporary_folder.clone(),
        };
        let mut opened = Self {
            source: source.clone(),
            disks: Vec::new(),
            formats: Vec::new(),
            paths: Vec::new(),
            others: Vec::new(),
            lasts: true,
            packages: Vec::new(),
            passing: Vec::new(),
            remarks: Vec::new(),
        };
        for locator in &source.disks {
            let one = locator::open_source(locator, &reading, watch)?;
            for image in one.disks {
                opened.formats.push(image.format());
                opened.disks.push(image);
            }
            match one.path {
                Some(path) => {
                    let beside = one.package.iter().flat_map(Package::files_beside);
                    let files: Vec<PathBuf> = beside.map(|name| path.with_file_name(name)).collect();
                    opened.paths.push(path);
                    opened.paths.extend(files);
                    opened.paths.extend(one.files);
                }
                None => opened.others.push(locator.to_string()),
            }
            opened.lasts &= one.lasts;
            opened
                .packages
                .extend(one.package.map(|package| (locator.to_string(), package)));
            opened
                .passing
                .extend(one.passing.map(|passing| (locator.to_string(), passing)));
            opened.remarks.extend(one.remarks);
        }
        let mut seen = BTreeSet::new();
        opened
            .paths
            .retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
        Ok(opened)
    }

    /// Every file and device that they are read from.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Refuses `out` if what is written there would be written into the source.
    ///
    /// # Errors
    /// [`Kind::Unsafe`] with the place of the source that is meant.
    pub fn must_not_be_at(&self, out: &Locator) -> disk::Result<()> {
        let label = out.to_string();
        let shared = match out.path() {
            Some(out) => {
                let shared = self.paths.iter().find(|path| destination::overlap(path, out));
                shared.map(|path| path.display().to_string())
            }
            None => self.others.contains(&label).then(|| label.clone()),
        };
        let Some(shared) = shared else {
            return Ok(());
        };
        let is_named = self.source.disks.iter().any(|disk| disk.to_string() == shared);
        let what = match is_named {
            true => format!("is the source, or on the same disk as the source {shared}"),
            false => format!("is, or shares its bytes with, {shared}, which belongs to the source"),
        };
        let text = format!("{what}; that is never written: name another destination");
        Err(Error::new(Kind::Unsafe, label, text))
    }

    /// They can be opened again, and are the same then: a run that breaks can be resumed.
    pub fn lasts(&self) -> bool {
        self.lasts
    }

    /// The only disk, and its format.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] if there are several.
    pub fn the_disk(&self) -> disk::Result<(&Arc<dyn Disk>, Format)> {
        match (self.disks.as_slice(), self.formats.as_slice()) {
            ([disk], [format]) => Ok((disk, *format)),
            (disks, _) => {
                let labels: Vec<&str> = disks.iter().map(|disk| disk.label()).collect();
                let text = format!(
                    "is {} disks ({}), and one is wanted here: unpack the package with tar and name the disk",
                    disks.len(),
                    labels.join(", ")
                );
                Err(Error::new(Kind::Unsupported, "the source", text))
            }
        }
    }

    /// What somebody should know of how they are read.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Can they be edited where they lie?
    ///
    /// # Errors
    /// [`Kind::Unsupported`] for disks that lie within a package.
    pub fn must_be_editable(&self) -> disk::Result<()> {
        match self.packages.first() {
            None => Ok(()),
            Some((name, _)) => {
                let text =
                    "is a package, whose manifest an edit would break: convert its disks to files first";
                Err(Error::new(Kind::Unsupported, &**name, text))
            }
        }
    }

    /// What the packages among them say of themselves.
    pub fn packages(&self) -> Vec<PackageFacts> {
        let facts = |(name, package): &(String, Package)| PackageFacts {
            package: name.clone(),
            hardware: package.hardware().clone(),
            manifest: if package.has_manifest() {
                ManifestState::NotRead
            } else {
                ManifestState::Absent
            },
        };
        let passing = self.passing.iter().filter_map(|(name, passing)| {
            let hardware = passing.hardware()?.clone();
            let (package, manifest) = (name.clone(), ManifestState::NotRead);
            Some(PackageFacts {
                package,
                hardware,
                manifest,
            })
        });
        self.packages.iter().map(facts).chain(passing).collect()
    }

    /// Those that are read as they pass end where they should; `false`: one of them is a package without a manifest.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] for what is cut short, goes on, or has another digest than its manifest says.
    pub fn must_be_at_end(&self) -> disk::Result<bool> {
        let mut compared = true;
        for (_, passing) in &self.passing {
            compared &= passing.must_be_at_end()? || passing.hardware().is_none();
        }
        Ok(compared)
    }

    /// Compares every file of the packages among them with its digest in the manifest.
    ///
    /// # Errors
    /// [`Kind::Corrupt`] with the name of the file that is another; those of reading.
    pub fn verify_manifests(&self, watch: &dyn Watch) -> disk::Result<()> {
        for (_, package) in &self.packages {
            package.verify(watch)?;
        }
        Ok(())
    }

    /// What tells these disks from others, and from themselves after a change; see [`copy::source_identity`]. An export
    /// is known by its address and size.
    ///
    /// # Errors
    /// Those of looking at the files.
    pub fn identity(&self) -> disk::Result<Digest> {
        let paths: Vec<&Path> = self.paths.iter().map(PathBuf::as_path).collect();
        let files = copy::source_identity(&paths)?;
        if self.others.is_empty() {
            return Ok(files);
        }
        let sizes: Vec<u64> = self.disks.iter().map(|disk| disk.size()).collect();
        let facts = (files, &self.others, sizes);
        let json = serde_json::to_vec(&facts).map_err(|error| Error::io("facts", error.into()))?;
        Ok(Digest::of(&json))
    }

    /// Their formats, in order.
    pub fn formats(&self) -> &[Format] {
        &self.formats
    }

    /// Copy-on-write over `disks`: what is written stays in memory, and past the limit in a temporary file.
    pub fn overlays(&self, disks: &[Arc<dyn Disk>]) -> Vec<Arc<dyn Disk>> {
        let Source {
            overlay_memory,
            temporary_folder,
            ..
        } = &self.source;
        let mut first: Option<Arc<Overlay>> = None;
        let mut overlays: Vec<Arc<dyn Disk>> = Vec::new();
        for disk in disks {
            // All of them share one limit.
            let overlay = Arc::new(match &first {
                None => Overlay::new(disk.clone(), *overlay_memory, temporary_folder),
                Some(first) => first.beside(disk.clone()),
            });
            first.get_or_insert_with(|| overlay.clone());
            overlays.push(overlay);
        }
        overlays
    }

    /// What is on the disks. The disks themselves stay as they are: journals are replayed into overlays.
    ///
    /// # Errors
    /// Those of reading the disks. A filesystem that cannot be opened is a warning.
    pub fn examine(&self) -> disk::Result<Examined> {
        let mut layer = Layer::on(self.overlays(&self.disks), &self.source)?;
        let sources = self.disks.iter().zip(&self.formats).zip(&layer.scan.tables);
        let sources = sources.map(|((disk, format), table)| SourceFacts {
            disk: disk.label().to_owned(),
            format: format.to_string(),
            size: disk.size(),
            sector_size: disk.sector_size(),
            table: *table,
        });
        let sources = sources.collect();
        let volumes: Vec<VolumeFacts> = layer
            .volumes()
            .map(|(volume, contents)| layer.facts(volume, contents))
            .collect();
        let mut warnings = self.remarks.clone();
        warnings.extend(layer.scan.warnings.iter().cloned());
        warnings.extend(twins(&volumes));
        for path in &self.paths {
            if let Some(use_of_it) = destination::in_use(path) {
                let place = path.display();
                warnings.push(format!(
                    "{place} {use_of_it}: a system that runs changes while it is read, and the copy may be a mixture"
                ));
            }
        }
        let others = layer.others();
        let inspection = guest::inspect(&layer.disks, &layer.scan, &mut layer.mounts, &others)?;
        warnings.extend(inspection.remarks.iter().cloned());
        Ok(Examined {
            layer,
            inspection,
            warnings,
            sources,
            packages: self.packages(),
            volumes,
        })
    }
}

/// Filesystems that cannot be told apart by their UUIDs: what the new machine mounts is then chance.
fn twins(volumes: &[VolumeFacts]) -> Vec<String> {
    let mut by_uuid: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for volume in volumes {
        if let Some(uuid) = &volume.uuid {
            by_uuid.entry(uuid).or_default().push(&volume.id);
        }
    }
    let several = by_uuid.into_iter().filter(|(_, ids)| ids.len() > 1);
    let sentence = |(uuid, ids): (&str, Vec<&str>)| {
        format!(
            "{} have the same UUID {uuid}: which of them is mounted by it is chance; leave one out, or give it another \
             (tune2fs -U random, on a copy)",
            ids.join(" and ")
        )
    };
    several.map(sentence).collect()
}

/// A filesystem that begins in a partition of a dynamic disk may go on elsewhere, and share the partition with others.
fn not_dynamic(volume: &Volume, detected: Detected) -> disk::Result<Detected> {
    let dynamic = volume
        .partition
        .as_ref()
        .is_some_and(|partition| partition.is_dynamic());
    match &detected {
        Detected::FileSystem(filesystem) if dynamic => {
            let text = format!(
                "is {} on a dynamic disk of Windows (Logical Disk Manager), whose volumes are not put together here: make it \
                 a basic disk first (back up, `convert basic` in `diskpart`, restore); else it is moved as it is",
                filesystem.identity().kind
            );
            Err(Error::new(Kind::Unsafe, &*volume.id, text))
        }
        _ => Ok(detected),
    }
}

impl Layer {
    /// Reads the tables of `disks` and opens every filesystem on them; journals are replayed into `disks`.
    ///
    /// # Errors
    /// Those of reading the tables.
    pub fn on(disks: Vec<Arc<dyn Disk>>, source: &Source) -> disk::Result<Self> {
        Self::of(disks, source, &|_| true)
    }

    /// The same, opening only the volumes whose id is `wanted`: the others are not touched.
    ///
    /// # Errors
    /// Those of reading the tables.
    pub fn of(
        disks: Vec<Arc<dyn Disk>>,
        source: &Source,
        wanted: &dyn Fn(&str) -> bool,
    ) -> disk::Result<Self> {
        let scan = scan(&disks)?;
        let mut filesystems = Vec::new();
        let mut contents = Vec::new();
        for volume in &scan.volumes {
            let recorder = Arc::new(Recorder::new(volume.disk.clone()));
            if !wanted(&volume.id) {
                contents.push(Contents {
                    recorder,
                    found: Found::Unknown,
                });
                continue;
            }
            // A recovery that fails half-way must leave nothing behind, so it is tried on the side first.
            let aside = Overlay::new(
                volume.disk.clone(),
                source.overlay_memory,
                &source.temporary_folder,
            );
            let opened = detect::open(Arc::new(aside))
                .and_then(|detected| not_dynamic(volume, detected))
                .and_then(|_| detect::open(recorder.clone()));
            let found = match opened {
                Ok(Detected::FileSystem(mut filesystem)) => {
                    if source.force_dirty {
                        filesystem.allow_dirty();
                    }
                    filesystems.push((volume.id.clone(), filesystem));
                    Found::FileSystem(filesystems.len() - 1)
                }
                Ok(Detected::Swap(swap)) => Found::Swap(swap),
                Ok(Detected::Known(identity)) => Found::Known(identity),
                Ok(Detected::Unknown) => Found::Unknown,
                Err(error) if matches!(error.kind, Kind::Io | Kind::Cancelled) => return Err(error),
                Err(error) => Found::Failed(error),
            };
            // What a replay wrote is not part of any edit.
            recorder.forget();
            contents.push(Contents { recorder, found });
        }
        Ok(Self {
            disks,
            scan,
            mounts: Mounts::new(filesystems),
            contents,
        })
    }

    /// Volumes with what they hold.
    pub fn volumes(&self) -> impl Iterator<Item = (&Volume, &Contents)> {
        self.scan.volumes.iter().zip(&self.contents)
    }

    /// The volume of this id.
    pub fn volume(&self, id: &str) -> Option<(&Volume, &Contents)> {
        self.volumes().find(|(volume, _)| volume.id == id)
    }

    /// Index of the disk that `volume` lies on.
    pub fn disk_of(&self, volume: &Volume) -> usize {
        let digits = volume.id.trim_start_matches("disk");
        let digits = digits.split('/').next().unwrap_or_default();
        volume
            .partition
            .as_ref()
            .map_or_else(|| digits.parse().unwrap_or_default(), |p| p.disk)
    }

    /// How a volume's filesystem is named from outside.
    fn identity(&self, contents: &Contents) -> Option<Identity> {
        match &contents.found {
            Found::FileSystem(index) => self.mounts.filesystem(*index).ok().map(FileSystem::identity),
            Found::Swap(swap) => Some(swap.identity()),
            Found::Known(identity) => Some(identity.clone()),
            Found::Unknown | Found::Failed(_) => None,
        }
    }

    fn facts(&self, volume: &Volume, contents: &Contents) -> VolumeFacts {
        let identity = self.identity(contents).unwrap_or_default();
        let recovered = match &contents.found {
            Found::FileSystem(index) => self.mounts.filesystem(*index).map(FileSystem::recovered),
            _ => Ok(Vec::new()),
        };
        VolumeFacts {
            id: volume.id.clone(),
            size: volume.disk.size(),
            partition: volume.partition.clone(),
            kind: Some(identity.kind).filter(|kind| !kind.is_empty()),
            uuid: identity.uuid,
            label: identity.label,
            recovered: recovered.unwrap_or_default(),
        }
    }

    /// The volumes that hold no filesystem that can be read here, but something that a guest may name.
    fn others(&self) -> Vec<OtherVolume> {
        let mut others = Vec::new();
        for (volume, contents) in self.volumes() {
            let mut other = OtherVolume {
                volume: volume.id.clone(),
                identity: self.identity(contents).unwrap_or_default(),
                ..OtherVolume::default()
            };
            match &contents.found {
                Found::FileSystem(_) => continue,
                Found::Swap(swap) => other.hibernated = swap.hibernated().map(str::to_owned),
                Found::Failed(error) => {
                    other.identity = detect::identify(&volume.disk).ok().flatten().unwrap_or_default();
                    other.problem = Some(error.to_string());
                }
                Found::Known(_) | Found::Unknown => {}
            }
            others.push(other);
        }
        others
    }

    /// What lies on disk `index` between its partitions and behind the last of them. Not in it: what is before the first
    /// (a boot loader may live there) and the last MiB (the backup table, and the labels of disk arrays). None on a disk
    /// whose table may name more than was found: with an extended partition, whose table is a chain of sectors between
    /// the logical ones, with a hybrid MBR, or where the scan had something to warn of.
    pub fn gaps(&self, index: usize) -> Vec<Range<u64>> {
        const TAIL: u64 = 1 << 20;
        let Some(disk) = self.disks.get(index) else {
            return Vec::new();
        };
        if !matches!(self.scan.tables.get(index), Some(Some(_))) {
            return Vec::new();
        }
        let mut partitions: Vec<Range<u64>> = self
            .scan
            .volumes
            .iter()
            .filter_map(|volume| volume.partition.as_ref())
            .filter(|partition| partition.disk == index)
            .map(|partition| partition.offset..partition.offset.saturating_add(partition.length))
            .collect();
        if !self.scan.warnings.is_empty() || !self.table_is_plain(disk) {
            return Vec::new();
        }
        partitions.sort_by_key(|range| range.start);
        let mut gaps = Vec::new();
        let mut at = partitions.first().map_or(disk.size(), |first| first.end);
        for partition in partitions.iter().skip(1) {
            gaps.push(at..partition.start);
            at = at.max(partition.end);
        }
        gaps.push(at..disk.size().saturating_sub(TAIL));
        gaps.retain(|gap| gap.start < gap.end);
        gaps
    }
}

impl Layer {
    /// The first sector names nothing but primary partitions, or nothing but a GPT (partition types of the MBR: 05, 0F and
    /// 85 are extended partitions, EE protects a GPT).
    fn table_is_plain(&self, disk: &Arc<dyn Disk>) -> bool {
        let mut record = [0; 512];
        if disk.read_at(0, &mut record).is_err() {
            return false;
        }
        let types: Vec<u8> = record
            .get(446..510)
            .unwrap_or_default()
            .chunks(16)
            .filter_map(|entry| entry.get(4).copied())
            .collect();
        let protective = types.contains(&0xee);
        types.iter().all(|kind| match kind {
            0 | 0xee => true,
            0x05 | 0x0f | 0x85 => false,
            _ => !protective,
        })
    }

    /// Does `volume` share bytes with another? Then what one calls free may be the other's data.
    pub fn overlaps(&self, volume: &Volume) -> bool {
        let range = |volume: &Volume| {
            volume
                .partition
                .as_ref()
                .map(|p| (p.disk, p.offset, p.offset.saturating_add(p.length)))
        };
        let Some((disk, start, end)) = range(volume) else {
            return false;
        };
        self.scan
            .volumes
            .iter()
            .filter(|other| other.id != volume.id)
            .filter_map(range)
            .any(|(other_disk, other_start, other_end)| {
                other_disk == disk && other_start < end && start < other_end
            })
    }
}

impl Examined {
    /// Digest of what a plan rests on beside the guest: sizes, tables, volumes; and of which program made it.
    ///
    /// # Errors
    /// None in practice: the facts can be written as JSON.
    pub fn digest(&self) -> disk::Result<Digest> {
        let disks: Vec<_> = self
            .sources
            .iter()
            .map(|source| (source.size, source.sector_size, source.table))
            .collect();
        let facts = (
            env!("CARGO_PKG_VERSION"),
            disks,
            &self.volumes,
            &self.inspection.blockers,
        );
        let json = serde_json::to_vec(&facts).map_err(|error| Error::io("facts", error.into()))?;
        Ok(Digest::of(&json))
    }

    /// Puts what was found into `report`.
    pub fn describe(&self, report: &mut Report) {
        report.sources.clone_from(&self.sources);
        report.packages.clone_from(&self.packages);
        report.volumes.clone_from(&self.volumes);
        report.guests.clone_from(&self.inspection.guests);
        report.warnings.clone_from(&self.warnings);
    }

    /// The system that is meant: that with its root on the volume `root`, else the one that starts when nobody
    /// chooses. `None`: none was found.
    ///
    /// # Errors
    /// `NotFound` if `root` is not the root of a system, with those that are.
    pub fn choose(&self, root: Option<&str>) -> disk::Result<Option<Guest>> {
        let guests = &self.inspection.guests;
        let Some(root) = root else {
            return Ok(self
                .inspection
                .default
                .and_then(|index| guests.get(index))
                .cloned());
        };
        if let Some(guest) = guests.iter().find(|guest| guest.root == root) {
            return Ok(Some(guest.clone()));
        }
        let there: Vec<&str> = guests.iter().map(|guest| guest.root.as_str()).collect();
        let text = match there.as_slice() {
            [] => "holds no installed system, and neither does another volume".to_owned(),
            there => format!("holds no installed system; those that do: {}", there.join(", ")),
        };
        Err(Error::new(Kind::NotFound, root, text))
    }

    /// What probably starts a system that is not understood: what a package says of its machine, else an EFI system
    /// partition is there, or not.
    pub fn likely_firmware(&self) -> Firmware {
        let packages = self.packages.iter();
        let mut said = packages.filter_map(|package| package.hardware.firmware.as_deref());
        match said.next() {
            Some("efi") => return Firmware::Uefi,
            Some("bios") => return Firmware::Bios,
            _ => {}
        }
        let is_esp = |volume: &Volume| {
            let kind = volume.partition.as_ref().map(|partition| partition.kind.as_str());
            matches!(kind, Some("ef" | "EF")) || kind == Some(EFI_SYSTEM_PARTITION)
        };
        if self.layer.scan.volumes.iter().any(is_esp) {
            Firmware::Uefi
        } else {
            Firmware::Bios
        }
    }

    /// Memory in MiB and processors of the machine that a package describes.
    pub fn described_size(&self) -> (Option<u64>, Option<u32>) {
        let memory = self.packages.iter().filter_map(|package| package.hardware.memory);
        let processors = self
            .packages
            .iter()
            .filter_map(|package| package.hardware.processors);
        (
            memory.map(|bytes| bytes >> 20).find(|mib| *mib > 0),
            processors.into_iter().find(|count| *count > 0),
        )
    }

    /// A seed that follows from the facts of the disks: the same system gives the same addresses.
    ///
    /// # Errors
    /// None in practice: the facts can be written as JSON.
    pub fn seed(&self) -> disk::Result<[u8; 16]> {
        let json = serde_json::to_vec(&self.volumes).map_err(|error| Error::io("facts", error.into()))?;
        let mut seed = [0; 16];
        seed.copy_from_slice(Digest::of(&json).0.first_chunk::<16>().unwrap_or(&[0; 16]));
        Ok(seed)
    }
}

/// Partition type of the UEFI specification, section 5.3.3.
const EFI_SYSTEM_PARTITION: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
