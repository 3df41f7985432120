//! Differencing VHDXs, made by hand: no program that is at hand makes one.

use crate::{judge::*, making::*};
use rehome::{
    disk::{Content, Disk, FileDisk, Kind},
    image::{self, Beside, Check, Format, NoNeighbours, vhdx::Vhdx},
};
use std::{collections::BTreeMap, path::Path, sync::Arc};

const BLOCK: usize = 1 << 20;

/// Where things are in an image of this program with a log of 1 MiB.
const METADATA: usize = 2 << 20;
const BAT: usize = 3 << 20;

const PARENT_LOCATOR: [u8; 16] = [
    0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c,
];
const VHDX_LOCATOR: [u8; 16] = [
    0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13,
];

/// The data identifier of the VHDX at `path`, as a locator has it.
fn linkage(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let at = 0x20000 + 32;
    let little: Vec<u8> = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]
        .map(|index| bytes[at + index])
        .to_vec();
    let hex: String = little.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{{{}-{}-{}-{}-{}}}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn locator(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = VHDX_LOCATOR.to_vec();
    bytes.extend([0, 0]);
    bytes.extend((pairs.len() as u16).to_le_bytes());
    let mut texts = Vec::new();
    for (key, value) in pairs {
        let [key, value] = [key, value].map(|text| {
            text.encode_utf16()
                .flat_map(u16::to_le_bytes)
                .collect::<Vec<u8>>()
        });
        let at = (20 + pairs.len() * 12 + texts.len()) as u32;
        bytes.extend(at.to_le_bytes());
        bytes.extend((at + key.len() as u32).to_le_bytes());
        bytes.extend((key.len() as u16).to_le_bytes());
        bytes.extend((value.len() as u16).to_le_bytes());
        texts.extend([key, value].concat());
    }
    bytes.extend(texts);
    bytes
}

/// What a block of a child is.
#[derive(Clone)]
enum Block {
    /// All of it is here, with this byte.
    Full(u8),
    /// These sectors are here, by number in the block.
    Partial(BTreeMap<usize, u8>),
    Zero,
    Unmapped,
}

/// Makes a child of `size` bytes at `path` whose parent has the data identifier `linkage` and these paths.
fn write_child(path: &Path, size: u64, sector: u32, locator: &[u8], blocks: &BTreeMap<usize, Block>) {
    let _ = std::fs::remove_file(path);
    let mut shape = shape(Format::Vhdx, size, "block_size=1M,block_state_zero=off");
    shape.sector_size = sector;
    let sink = create(path, &shape);
    sink.skip(0..size).unwrap();
    sink.finish().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    // The flag HasParent, and a sixth item.
    bytes[METADATA + 65536 + 4] |= 2;
    bytes[METADATA + 10] = 6;
    let entry = METADATA + 32 + 5 * 32;
    let place = 65536 + 8192;
    bytes[entry..entry + 16].copy_from_slice(&PARENT_LOCATOR);
    bytes[entry + 16..entry + 20].copy_from_slice(&(place as u32).to_le_bytes());
    bytes[entry + 20..entry + 24].copy_from_slice(&(locator.len() as u32).to_le_bytes());
    bytes[entry + 24] = 4;
    bytes[METADATA + place..METADATA + place + locator.len()].copy_from_slice(locator);

    let sector = sector as usize;
    let ratio = (sector << 23) / BLOCK;
    // The bitmap of the first chunk, which is all that these disks have.
    let mut bitmap = vec![0; BLOCK];
    let mut partial = false;
    for (index, block) in blocks {
        let place = bytes.len();
        let state = match block {
            Block::Full(byte) => {
                bytes.resize(place + BLOCK, *byte);
                place as u64 | 6
            }
            Block::Partial(sectors) => {
                partial = true;
                bytes.resize(place + BLOCK, 0xdd);
                for (number, byte) in sectors {
                    let bit = index * (BLOCK / sector) + number;
                    bitmap[bit / 8] |= 1 << (bit % 8);
                    bytes[place + number * sector..place + (number + 1) * sector].fill(*byte);
                }
                place as u64 | 7
            }
            Block::Zero => 2,
            Block::Unmapped => 3,
        };
        bytes[BAT + index * 8..BAT + index * 8 + 8].copy_from_slice(&state.to_le_bytes());
    }
    if partial {
        let entry = (bytes.len() as u64 | 6).to_le_bytes();
        bytes[BAT + ratio * 8..BAT + ratio * 8 + 8].copy_from_slice(&entry);
        bytes.extend(bitmap);
    }
    std::fs::write(path, bytes).unwrap();
}

fn apply(model: &mut Vec<u8>, size: usize, sector: usize, blocks: &BTreeMap<usize, Block>) {
    model.resize(size, 0);
    for (index, block) in blocks {
        let start = index * BLOCK;
        let end = (start + BLOCK).min(size);
        match block {
            Block::Full(byte) => model[start..end].fill(*byte),
            Block::Zero | Block::Unmapped => model[start..end].fill(0),
            Block::Partial(sectors) => {
                for (number, byte) in sectors {
                    let at = start + number * sector;
                    if at < size {
                        model[at..(at + sector).min(size)].fill(*byte);
                    }
                }
            }
        }
    }
}

/// "parent.vhdx" in a folder, and what it holds.
fn parent(size: u64, sector: u32) -> (tempfile::TempDir, Vec<u8>) {
    let (folder, raw) = raw_source(size);
    let mut shape = shape(Format::Vhdx, size, "block_size=1M");
    shape.sector_size = sector;
    let sink = create(&folder.path().join("parent.vhdx"), &shape);
    pour(&FileDisk::open(&raw).unwrap(), &*sink, 2, 0, u64::MAX);
    sink.finish().unwrap();
    (folder, std::fs::read(raw).unwrap())
}

fn some_blocks(sectors: usize) -> BTreeMap<usize, Block> {
    let some: BTreeMap<usize, u8> = (0..60).map(|at| (at * at * 7 % sectors, at as u8 + 1)).collect();
    let mut run: BTreeMap<usize, u8> = (11..sectors / 2).map(|at| (at, 0x5a)).collect();
    run.extend([(0, 1), (sectors - 1, 2)]);
    BTreeMap::from([
        (0, Block::Partial(some)),
        (1, Block::Full(9)),
        (3, Block::Partial(run.clone())),
        (4, Block::Partial(run)),
        (5, Block::Zero),
        (6, Block::Unmapped),
    ])
}

#[test]
fn sectors_come_from_the_disk_or_from_its_parent() {
    for sector in [512, 4096] {
        let (folder, model) = parent(8 * MIB + 4096, sector);
        let parent = folder.path().join("parent.vhdx");
        let locator = locator(&[
            ("relative_path", r".\parent.vhdx"),
            ("parent_linkage", &linkage(&parent)),
            ("absolute_win32_path", r"\\?\C:\vm\parent.vhdx"),
        ]);
        let blocks = some_blocks(BLOCK / sector as usize);
        // As large as its parent, and larger.
        for size in [8 * MIB + 4096, 12 * MIB] {
            let path = folder.path().join("child.vhdx");
            write_child(&path, size, sector, &locator, &blocks);
            let mut model = model.clone();
            apply(&mut model, size as usize, sector as usize, &blocks);
            let disk = open(&path);
            assert_eq!(disk.sector_size(), sector);
            assert!(read_all(disk.as_ref()) == model, "{sector}, {size}");
            extents(disk.as_ref());
            assert_eq!(disk.check().unwrap(), Check::default());
            let info = disk.info().unwrap();
            assert_eq!(info.subformat.as_deref(), Some("differencing"));
            let backing = info.backing.unwrap();
            assert_eq!(
                (backing.name.as_str(), backing.format.as_deref()),
                ("parent.vhdx", Some("vhdx"))
            );
            // What it has of its own: data, and zeros that hide the parent's.
            let mut own = 0;
            let mut at = 0;
            while at < size {
                for mapping in disk.map(at..size).unwrap() {
                    assert_eq!(mapping.start, at);
                    at += mapping.length;
                    own += if mapping.present { mapping.length } else { 0 };
                    assert_eq!(mapping.offset.is_some(), mapping.content == Content::Data);
                }
            }
            let count: usize = blocks
                .values()
                .map(|block| match block {
                    Block::Partial(sectors) => sectors.len() * sector as usize,
                    _ => BLOCK,
                })
                .sum();
            assert_eq!(own, count as u64);
            let said = image::Described::alone(&path, None).unwrap();
            assert_eq!((said.size, said.sector_size), (size, sector));
            assert_eq!(said.info.backing.unwrap().name, "parent.vhdx");
            for at in (0..size as usize - 9000).step_by(77_777) {
                let mut bytes = vec![0; 8777];
                disk.read_at(at as u64, &mut bytes).unwrap();
                assert!(bytes == model[at..at + 8777]);
            }
            let error = Vhdx::open_writable(
                Arc::new(FileDisk::open_writable(&path).unwrap()),
                &Beside::new(&path),
            )
            .unwrap_err();
            assert_eq!(error.kind, Kind::Unsupported);
        }
        // A chain of three.
        let path = folder.path().join("child.vhdx");
        let mut model = model;
        write_child(&path, 8 * MIB, sector, &locator, &blocks);
        apply(&mut model, 8 << 20, sector as usize, &blocks);
        let last = folder.path().join("grandchild.vhdx");
        let more = BTreeMap::from([
            (1, Block::Partial(BTreeMap::from([(3, 0x77)]))),
            (7, Block::Full(1)),
        ]);
        let locator = self::locator(&[
            ("parent_linkage", "{00000000-0000-0000-0000-000000000001}"),
            ("parent_linkage2", &linkage(&path)),
            ("absolute_win32_path", r"\\?\C:\vm\child.vhdx"),
        ]);
        write_child(&last, 8 * MIB, sector, &locator, &more);
        apply(&mut model, 8 << 20, sector as usize, &more);
        assert!(read_all(open(&last).as_ref()) == model);
    }
}

#[test]
fn a_parent_that_was_changed_or_is_another_is_refused() {
    let (folder, _) = parent(4 * MIB, 512);
    let parent = folder.path().join("parent.vhdx");
    let path = folder.path().join("child.vhdx");
    let make = |name: &str| {
        let locator = locator(&[("parent_linkage", &linkage(&parent)), ("relative_path", name)]);
        write_child(&path, 4 * MIB, 512, &locator, &BTreeMap::new());
    };
    make("parent.vhdx");
    open(&path);
    assert!(Vhdx::open(Arc::new(FileDisk::open(&path).unwrap()), &NoNeighbours).is_err());
    // A change in place gives the parent a new identifier.
    let container = Arc::new(FileDisk::open_writable(&parent).unwrap());
    let writable = Vhdx::open_writable(container, &NoNeighbours).unwrap();
    writable.write_at(0, &[1]).unwrap();
    drop(writable);
    let error = try_open(&path).unwrap_err();
    assert_eq!((error.kind, error.disk.as_str()), (Kind::Unsafe, "parent.vhdx"));
    assert!(error.to_string().contains("was written to since"), "{error}");
    // Not there, and itself.
    make(r"..\grand\parent of all.vhdx");
    let error = try_open(&path).unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(error.to_string().contains("parent of all.vhdx"), "{error}");
    make("child.vhdx");
    let own = locator(&[
        ("parent_linkage", &linkage(&path)),
        ("relative_path", "child.vhdx"),
    ]);
    write_child(&path, 4 * MIB, 512, &own, &BTreeMap::new());
    let error = try_open(&path).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
    // Of other sectors.
    make("parent.vhdx");
    let locator = locator(&[
        ("parent_linkage", &linkage(&parent)),
        ("relative_path", "parent.vhdx"),
    ]);
    write_child(&path, 4 * MIB, 4096, &locator, &BTreeMap::new());
    let error = try_open(&path).unwrap_err();
    assert!(error.to_string().contains("sectors of 512 bytes"), "{error}");
}

#[test]
fn a_partial_block_needs_its_bitmap() {
    let (folder, _) = parent(4 * MIB, 512);
    let parent = folder.path().join("parent.vhdx");
    let path = folder.path().join("child.vhdx");
    let locator = locator(&[
        ("parent_linkage", &linkage(&parent)),
        ("relative_path", "parent.vhdx"),
    ]);
    let blocks = BTreeMap::from([(1, Block::Partial(BTreeMap::from([(3, 0x77)])))]);
    write_child(&path, 4 * MIB, 512, &locator, &blocks);
    assert_eq!(open(&path).check().unwrap(), Check::default());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[BAT + 4096 * 8..BAT + 4096 * 8 + 8].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let disk = open(&path);
    let error = disk.read_at(MIB, &mut [0; 512]).unwrap_err();
    assert!(error.to_string().contains("no bitmap"), "{error}");
    let found = disk.check().unwrap();
    assert!(
        found.errors.iter().any(|error| error.contains("no bitmap")),
        "{found:?}"
    );
    assert_eq!(found.leaked, MIB);
}
