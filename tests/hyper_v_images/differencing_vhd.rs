//! Differencing VHDs, made by hand: no program that is at hand makes one.

use crate::{
    judge::*,
    vhd::{seal, seal_structure},
};
use rehome::{
    disk::{FileDisk, Kind, MemoryDisk},
    image::{self, Beside, Check, Format, NoNeighbours, vhd::Vhd},
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

const BLOCK: usize = 2 << 20;

/// Seconds from 1970 to 2000.
const EPOCH: u64 = 946_684_800;

/// A name that the disk has for its parent: platform and bytes.
type Locator<'a> = (&'a [u8; 4], Vec<u8>);

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// What a differencing disk is made of.
struct Child<'a> {
    size: usize,
    parent_id: [u8; 16],
    parent_timestamp: u32,
    parent_name: &'a str,
    locators: Vec<Locator<'a>>,
    /// By number.
    sectors: BTreeMap<usize, u8>,
}

/// The footer of the VHD at `path`.
fn footer(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    bytes[bytes.len() - 512..].to_vec()
}

fn id(path: &Path) -> [u8; 16] {
    footer(path)[68..84].try_into().unwrap()
}

impl Child<'_> {
    fn of(parent: &Path, size: usize) -> Self {
        Self {
            size,
            parent_id: id(parent),
            parent_timestamp: 0,
            parent_name: "",
            locators: vec![(b"W2ru", utf16(r".\parent.vhd"))],
            sectors: BTreeMap::new(),
        }
    }

    fn write(&self, path: &Path) {
        let entries = self.size.div_ceil(BLOCK);
        let mut bytes = vec![0; 16 << 10];
        bytes[512..520].copy_from_slice(b"cxsparse");
        bytes[520..528].fill(0xff);
        bytes[528..536].copy_from_slice(&1536_u64.to_be_bytes());
        bytes[536..540].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
        bytes[540..544].copy_from_slice(&(entries as u32).to_be_bytes());
        bytes[544..548].copy_from_slice(&(BLOCK as u32).to_be_bytes());
        bytes[552..568].copy_from_slice(&self.parent_id);
        bytes[568..572].copy_from_slice(&self.parent_timestamp.to_be_bytes());
        for (at, unit) in self.parent_name.encode_utf16().enumerate() {
            bytes[576 + at * 2..578 + at * 2].copy_from_slice(&unit.to_be_bytes());
        }
        for (index, (platform, data)) in self.locators.iter().enumerate() {
            let at = 512 + 576 + index * 24;
            let place = 4096 + index * 1024;
            bytes[at..at + 4].copy_from_slice(*platform);
            bytes[at + 4..at + 8].copy_from_slice(&1024_u32.to_be_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&(data.len() as u32).to_be_bytes());
            bytes[at + 16..at + 24].copy_from_slice(&(place as u64).to_be_bytes());
            bytes[place..place + data.len()].copy_from_slice(data);
        }
        seal_structure(&mut bytes, 512, 1024, 36);
        for index in 0..entries {
            let block = self.sectors.range(index * 4096..(index + 1) * 4096);
            let mut entry = u32::MAX;
            let mut place = bytes.len();
            for (sector, byte) in block {
                if entry == u32::MAX {
                    place = bytes.len();
                    entry = (place / 512) as u32;
                    bytes.resize(place + 512 + BLOCK, 0);
                }
                let within = sector % 4096;
                bytes[place + within / 8] |= 0x80 >> (within % 8);
                let data = place + 512 + within * 512;
                bytes[data..data + 512].fill(*byte);
            }
            bytes[1536 + index * 4..1540 + index * 4].copy_from_slice(&entry.to_be_bytes());
        }
        let mut footer = vec![0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[8..12].copy_from_slice(&2_u32.to_be_bytes());
        footer[12..16].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
        footer[16..24].copy_from_slice(&512_u64.to_be_bytes());
        footer[28..32].copy_from_slice(b"win ");
        footer[48..56].copy_from_slice(&(self.size as u64).to_be_bytes());
        footer[60..64].copy_from_slice(&4_u32.to_be_bytes());
        // Its own id: anything that depends on what it is.
        footer[68..84].copy_from_slice(&pattern(self.sectors.len() as u64, 16));
        seal(&mut footer, 0);
        bytes[..512].copy_from_slice(&footer);
        bytes.extend(footer);
        std::fs::write(path, bytes).unwrap();
    }

    fn apply(&self, model: &mut Vec<u8>) {
        model.resize(self.size, 0);
        for (sector, byte) in &self.sectors {
            let at = sector * 512;
            let end = (at + 512).min(model.len());
            model[at..end].fill(*byte);
        }
    }
}

/// "parent.vhd" of 5 MiB in a folder, and what it holds.
fn parent(options: &str) -> (tempfile::TempDir, Vec<u8>) {
    let (folder, raw) = raw_source(5 * MIB);
    let image = folder.path().join("parent.vhd");
    let options = format!("force_size=on,{options}");
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        &options,
        text(&raw),
        text(&image),
    ]);
    (folder, std::fs::read(raw).unwrap())
}

/// Sectors here and there, at the ends of blocks and of the disk among them.
fn some_sectors(size: usize) -> BTreeMap<usize, u8> {
    let last = size / 512 - 1;
    let mut sectors: BTreeMap<usize, u8> = (0..40).map(|at| (at * at * 5 % last, at as u8 + 1)).collect();
    sectors.extend((100..300).map(|at| (at, 0)));
    sectors.extend([(0, 1), (4095, 2), (4096, 3), (last, 4)]);
    // Nothing of the second block but its beginning and its end.
    sectors.retain(|at, _| !(4100..8190).contains(at));
    sectors
}

#[test]
fn sectors_come_from_the_disk_or_from_its_parent() {
    for options in ["subformat=dynamic", "subformat=fixed"] {
        let (folder, mut model) = parent(options);
        let parent = folder.path().join("parent.vhd");
        // As large as its parent, and larger.
        for size in [5 << 20, 9 << 20] {
            let mut child = Child::of(&parent, size);
            child.sectors = some_sectors(size);
            let path = folder.path().join("child.vhd");
            child.write(&path);
            let mut model = model.clone();
            child.apply(&mut model);
            let disk = open(&path);
            assert!(read_all(disk.as_ref()) == model, "{options}, {size}");
            extents(disk.as_ref());
            assert_eq!(disk.check().unwrap(), Check::default());
            let info = disk.info().unwrap();
            assert_eq!(info.subformat.as_deref(), Some("differencing"));
            assert_eq!(info.unit, Some(BLOCK as u64));
            let backing = info.backing.unwrap();
            assert_eq!(
                (backing.name.as_str(), backing.format.as_deref()),
                ("parent.vhd", Some("vpc"))
            );
            // Any offset and length.
            for at in (0..size - 9000).step_by(77_777) {
                let mut bytes = vec![0; 8777];
                disk.read_at(at as u64, &mut bytes).unwrap();
                assert!(bytes == model[at..at + 8777]);
            }
        }
        // A chain of three.
        let path = folder.path().join("child.vhd");
        let mut child = Child::of(&parent, 5 << 20);
        child.sectors = some_sectors(5 << 20);
        child.write(&path);
        let mut grandchild = Child::of(&path, 5 << 20);
        grandchild.locators = vec![(b"W2ku", utf16(r"C:\vm\child.vhd"))];
        grandchild.sectors = (5000..5010).map(|at| (at, 0x77)).collect();
        let last = folder.path().join("grandchild.vhd");
        grandchild.write(&last);
        child.apply(&mut model);
        grandchild.apply(&mut model);
        assert!(read_all(open(&last).as_ref()) == model);
        let error = Vhd::open_writable(
            Arc::new(FileDisk::open_writable(&last).unwrap()),
            &Beside::new(&last),
        )
        .unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        assert!(error.to_string().contains("differencing"), "{error}");
    }
}

#[test]
fn the_parent_is_found_by_every_kind_of_name() {
    let (folder, model) = parent("subformat=dynamic");
    let parent = folder.path().join("parent.vhd");
    let path = folder.path().join("child.vhd");
    let all: [Locator<'_>; 6] = [
        (b"W2ru", utf16(r".\parent.vhd")),
        (b"W2ru", utf16(r"..\elsewhere\parent.vhd")),
        (b"W2ku", utf16(r"D:\Virtual Machines\parent.vhd")),
        (b"MacX", b"file://localhost/Users/me/parent%2Evhd".to_vec()),
        (b"Wi2r", b"parent.vhd\0".to_vec()),
        (b"Wi2k", br"C:\parent.vhd".to_vec()),
    ];
    for locator in all {
        let mut child = Child::of(&parent, 5 << 20);
        child.locators = vec![(b"Mac ", vec![1, 2, 3]), locator];
        child.write(&path);
        let disk = open(&path);
        assert!(read_all(disk.as_ref()) == model);
        assert_eq!(disk.info().unwrap().backing.unwrap().name, "parent.vhd");
        assert_eq!(image::chain(&path, None).unwrap().len(), 2);
    }
    let mut child = Child::of(&parent, 5 << 20);
    child.locators.clear();
    child.parent_name = "parent.vhd";
    child.write(&path);
    assert!(read_all(open(&path).as_ref()) == model);
    // In another folder only if the user allows that folder.
    let there = folder.path().join("there");
    std::fs::create_dir(&there).unwrap();
    std::fs::rename(&parent, there.join("parent.vhd")).unwrap();
    let mut child = Child::of(&there.join("parent.vhd"), 5 << 20);
    child.locators = vec![(b"W2ru", utf16(r".\there\parent.vhd"))];
    child.write(&path);
    let error = try_open(&path).unwrap_err();
    assert!(error.to_string().contains("outside"), "{error}");
    let container = Arc::new(FileDisk::open(&path).unwrap());
    let neighbours = Beside::new(&path).allowing(&there);
    assert!(
        read_all(
            image::open(container.clone(), None, &neighbours)
                .unwrap()
                .as_ref()
        ) == model
    );
    assert!(image::open(container, None, &NoNeighbours).is_err());
}

#[test]
fn a_disk_tells_of_itself_without_its_parent_and_maps_itself_over_it() {
    let (folder, _) = parent("subformat=dynamic");
    let parent = folder.path().join("parent.vhd");
    let path = folder.path().join("child.vhd");
    let mut child = Child::of(&parent, 6 << 20);
    child.sectors = (8..16).chain(4096..4100).map(|sector| (sector, 9)).collect();
    child.write(&path);
    let mut own = Vec::new();
    let mut below = 0;
    let chain = image::chain(&path, None).unwrap();
    assert_eq!(chain.len(), 2);
    image::map_chain(&chain, &mut |mapped| {
        let range = mapped.mapping.start..mapped.mapping.start + mapped.mapping.length;
        match (mapped.depth, mapped.mapping.present) {
            (0, true) => own.push((range, mapped.mapping.offset.unwrap())),
            (1, true) => below += mapped.mapping.length,
            // Behind the end of the parent.
            (0, false) => assert_eq!(range.end, 6 << 20),
            _ => {}
        }
        Ok(())
    })
    .unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let ranges: Vec<_> = own.iter().map(|(range, _)| range.clone()).collect();
    assert_eq!(ranges, [8 * 512..16 * 512, 4096 * 512..4100 * 512]);
    for (range, offset) in own {
        assert!(
            bytes[offset as usize..][..(range.end - range.start) as usize]
                .iter()
                .all(|byte| *byte == 9)
        );
    }
    assert!(below > 0);
    std::fs::remove_file(&parent).unwrap();
    assert_eq!(try_open(&path).unwrap_err().kind, Kind::NotFound);
    let said = image::Described::alone(&path, None).unwrap();
    assert_eq!((said.format, said.size), (Format::Vhd, 6 << 20));
    assert_eq!(said.info.backing.unwrap().name, "parent.vhd");
}

#[test]
fn another_disk_under_the_parents_name_is_refused() {
    let (folder, _) = parent("subformat=dynamic");
    let parent = folder.path().join("parent.vhd");
    let path = folder.path().join("child.vhd");
    let mut child = Child::of(&parent, 5 << 20);
    child.parent_id[3] ^= 1;
    child.write(&path);
    let error = try_open(&path).unwrap_err();
    assert_eq!((error.kind, error.disk.as_str()), (Kind::Unsafe, "parent.vhd"));
    assert!(
        error.to_string().contains("another disk under the parent's name"),
        "{error}"
    );

    // Its own parent: no circle that does not end, even with an id that is right.
    let mut child = Child::of(&parent, 5 << 20);
    child.locators = vec![(b"W2ru", utf16("child.vhd"))];
    child.parent_id = pattern(0, 16).try_into().unwrap();
    child.write(&path);
    let error = try_open(&path).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");

    // Not there: the error has its name.
    let mut child = Child::of(&parent, 5 << 20);
    child.locators = vec![(b"W2ru", utf16(r".\grand parent.vhd"))];
    child.write(&path);
    let error = try_open(&path).unwrap_err();
    assert_eq!(
        (error.kind, error.disk.as_str()),
        (Kind::NotFound, "grand parent.vhd")
    );
    child.locators = vec![(b"Mac ", vec![7; 20])];
    child.write(&path);
    assert!(
        try_open(&path)
            .unwrap_err()
            .to_string()
            .contains("does not name its parent")
    );
    // A parent that is none.
    std::fs::write(folder.path().join("grand parent.vhd"), vec![7; 4096]).unwrap();
    child.locators = vec![(b"W2ru", utf16(r".\grand parent.vhd"))];
    child.write(&path);
    assert!(try_open(&path).unwrap_err().to_string().contains("is no VHD"));
}

#[test]
fn a_parent_that_was_changed_since_is_refused_with_the_cure() {
    let (folder, model) = parent("subformat=dynamic");
    let parent = folder.path().join("parent.vhd");
    let path = folder.path().join("child.vhd");
    let file = std::fs::File::options().write(true).open(&parent).unwrap();
    let changed = |seconds: u64| {
        file.set_modified(UNIX_EPOCH + Duration::from_secs(EPOCH + seconds))
            .unwrap()
    };
    let mut child = Child::of(&parent, 5 << 20);
    child.parent_timestamp = 600_000_000;
    child.write(&path);
    changed(600_000_001);
    assert!(read_all(open(&path).as_ref()) == model);
    for other in [600_000_100, 500_000_000] {
        changed(other);
        let error = try_open(&path).unwrap_err();
        assert_eq!(error.kind, Kind::Unsafe);
        let cure = format!("touch -d @{}", EPOCH + 600_000_000);
        assert!(error.to_string().contains(&cure), "{error}");
    }
    // What it says is the cure.
    let done = run(
        "touch",
        &["-d", &format!("@{}", EPOCH + 600_000_000), text(&parent)],
    );
    assert!(done.status.success());
    assert!(read_all(open(&path).as_ref()) == model);
    // The time of the parent's footer does as well, whatever happened to the file.
    child.parent_timestamp = u32::from_be_bytes(footer(&parent)[24..28].try_into().unwrap());
    child.write(&path);
    changed(1);
    assert!(read_all(open(&path).as_ref()) == model);
}

#[test]
fn a_differencing_disk_of_windows_names_its_parent() {
    let Some(samples) = samples() else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = unpack(&samples, "dfvfs/fat-differential.vhd", folder.path());
    let error = try_open(&image).unwrap_err();
    assert_eq!(
        (error.kind, error.disk.as_str()),
        (Kind::NotFound, "fat-parent.vhd")
    );
    assert!(error.to_string().contains("put it beside"), "{error}");
    // With a parent of that id, all zeros: what is left is what the disk itself holds.
    let parent = folder.path().join("fat-parent.vhd");
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "vpc",
        "-o",
        "force_size=on",
        text(&parent),
        "4M",
    ]);
    let child = std::fs::read(&image).unwrap();
    let mut bytes = std::fs::read(&parent).unwrap();
    let end = bytes.len() - 512;
    for at in [0, end] {
        bytes[at + 68..at + 84].copy_from_slice(&child[512 + 40..512 + 56]);
        seal(&mut bytes, at);
    }
    std::fs::write(&parent, bytes).unwrap();
    let disk = open(&image);
    assert_eq!((disk.size(), disk.format()), (4 * MIB, Format::Vhd));
    assert_eq!(disk.check().unwrap(), Check::default());
    let place = u32::from_be_bytes(child[0x2000..0x2004].try_into().unwrap()) as usize * 512;
    let mut model = vec![0; 4 << 20];
    for sector in 0..4096 {
        if child[place + sector / 8] & 0x80 >> (sector % 8) != 0 {
            let data = place + 512 + sector * 512;
            model[sector * 512..][..512].copy_from_slice(&child[data..data + 512]);
        }
    }
    assert!(read_all(disk.as_ref()) == model);
    assert!(model.iter().any(|byte| *byte != 0));

    // A pair with damaged checksums, mended: the two belong together.
    for name in ["dfvfs/image.vhd", "dfvfs/image-differential.vhd"] {
        let path = unpack(&samples, name, folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        let end = bytes.len() - 512;
        seal(&mut bytes, 0);
        seal(&mut bytes, end);
        seal_structure(&mut bytes, 512, 1024, 36);
        std::fs::write(&path, bytes).unwrap();
    }
    let child = open(&folder.path().join("image-differential.vhd"));
    assert_eq!(child.info().unwrap().backing.unwrap().name, "image.vhd");
    read_all(child.as_ref());
    // Without its parent a disk is not opened as if it were whole.
    let container = Arc::new(MemoryDisk::new("child", std::fs::read(&image).unwrap()));
    assert!(Vhd::open(container, &NoNeighbours).is_err());
}
