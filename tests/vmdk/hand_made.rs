//! What qemu-img does not make: COWD, seSparse, damaged directories, old layouts. Made here byte by byte from the
//! descriptions of the formats; where qemu-img reads them it judges them.

use crate::image::{
    MIB, extents, must_be_sound_and_equal, open, pattern, qemu_img, raw_source, read_all, read_in_pieces,
    text,
};
use rehome::{disk::Content, image::Check};
use std::{collections::BTreeMap, path::Path};

const SECTOR: usize = 512;

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Grains by their number.
type Grains = BTreeMap<u64, Vec<u8>>;

/// A COWD extent of `sectors`, with grains of `grain` sectors.
fn cowd(sectors: u64, grain: u64, grains: &Grains) -> Vec<u8> {
    let tables = sectors.div_ceil(grain * 4096);
    let directory = (tables * 4).next_multiple_of(512) as usize;
    let mut bytes = vec![0; 2048 + directory];
    bytes[..4].copy_from_slice(b"COWD");
    for (at, value) in [
        (4, 1),
        (8, 3),
        (12, sectors as u32),
        (16, grain as u32),
        (20, 4),
        (24, tables as u32),
    ] {
        put32(&mut bytes, at, value);
    }
    let mut places = BTreeMap::new();
    for (number, content) in grains {
        assert_eq!(content.len(), grain as usize * SECTOR);
        let table = number / 4096;
        let place = *places.entry(table).or_insert_with(|| {
            let place = bytes.len();
            bytes.resize(place + 4096 * 4, 0);
            put32(&mut bytes, 2048 + table as usize * 4, (place / SECTOR) as u32);
            place
        });
        let sector = (bytes.len() / SECTOR) as u32;
        put32(&mut bytes, place + (number % 4096) as usize * 4, sector);
        bytes.extend(content);
    }
    let free = (bytes.len() / SECTOR) as u32;
    put32(&mut bytes, 28, free);
    bytes
}

/// A seSparse extent of `sectors`. Grains without contents are `zeros`.
pub(crate) fn se_sparse(sectors: u64, grains: &Grains, zeros: &[(u64, u64)]) -> Vec<u8> {
    let tables = sectors.div_ceil(8 * 4096);
    let directory_sectors = (tables * 8).div_ceil(512);
    let (directory, first_table) = (8, 8 + directory_sectors);
    let first_grain = (first_table + tables * 64).next_multiple_of(8);
    let mut bytes = vec![0; (first_grain as usize + 8 * grains.len()) * SECTOR];
    let fields = [
        0xcafe_babe,
        0x2_0000_0001,
        sectors,
        8,
        64,
        0,
        0,
        0,
        0,
        0,
        1,
        1,
        2,
        2,
        4,
        1,
        directory,
        directory_sectors,
        first_table,
        tables * 64,
        0,
        0,
        0,
        0,
        first_grain,
        8 * grains.len() as u64,
    ];
    for (index, value) in fields.into_iter().enumerate() {
        put64(&mut bytes, index * 8, value);
    }
    put64(&mut bytes, SECTOR, 0xcafe_cafe);
    // Tables and grains in no order of the disk: the last ones first.
    let place_of = |table: u64| tables - 1 - table;
    let mut entry = |number: u64, value: u64| {
        let table = number / 4096;
        let at = directory as usize * SECTOR + table as usize * 8;
        put64(&mut bytes, at, 0x1000_0000_0000_0000 | place_of(table));
        let at = (first_table + place_of(table) * 64) as usize * SECTOR + (number % 4096) as usize * 8;
        put64(&mut bytes, at, value);
    };
    for (index, number) in grains.keys().rev().enumerate() {
        let index = index as u64;
        entry(*number, 3 << 60 | (index & 0xfff) << 48 | index >> 12);
    }
    for (number, kind) in zeros {
        entry(*number, kind << 60);
    }
    for (index, content) in grains.values().rev().enumerate() {
        let at = (first_grain as usize + 8 * index) * SECTOR;
        bytes[at..at + 4096].copy_from_slice(content);
    }
    bytes
}

/// A descriptor with these lines in place of extents and the like.
fn descriptor(path: &Path, create_type: &str, lines: &str) {
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=0a0b0c0d\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n{lines}\n\
         ddb.adapterType = \"lsilogic\"\n"
    );
    std::fs::write(path, text).unwrap();
}

fn some_grains(size: usize, numbers: &[u64]) -> Grains {
    numbers
        .iter()
        .map(|number| (*number, pattern(*number, size)))
        .collect()
}

fn expected(sectors: u64, grain: usize, grains: &Grains) -> Vec<u8> {
    let mut bytes = vec![0; sectors as usize * SECTOR];
    for (number, content) in grains {
        let start = *number as usize * grain;
        let end = (start + grain).min(bytes.len());
        bytes[start..end].copy_from_slice(&content[..end - start]);
    }
    bytes
}

#[test]
fn cowd_is_read_as_qemu_img_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = (folder.path().join("disk.vmdk"), folder.path().join("raw"));
    for (grain, sectors, numbers) in [
        (1, 20_000, vec![0, 1, 2, 77, 4095, 4096, 12_000, 12_001, 19_999]),
        (128, 20_480, vec![0, 3, 4, 159]),
        (16, 100_003, vec![0, 4096, 6250]),
    ] {
        let grains = some_grains(grain * SECTOR, &numbers);
        std::fs::write(
            folder.path().join("disk-delta.vmdk"),
            cowd(sectors, grain as u64, &grains),
        )
        .unwrap();
        descriptor(
            &image,
            "vmfsSparse",
            &format!("RW {sectors} VMFSSPARSE \"disk-delta.vmdk\""),
        );
        let content = expected(sectors, grain * SECTOR, &grains);
        std::fs::write(&raw, &content).unwrap();
        must_be_sound_and_equal(&image, &raw);
        let disk = open(&image);
        assert!(read_in_pieces(disk.as_ref(), 777) == content);
        let data: u64 = extents(disk.as_ref())
            .iter()
            .filter(|(_, content)| *content == Content::Data)
            .map(|(range, _)| range.end - range.start)
            .sum();
        assert!(data >= (numbers.len() as u64 - 1) * grain as u64 * 512 && data < sectors * 512);
        let info = disk.info().unwrap();
        assert_eq!(
            (info.subformat.as_deref(), info.unit),
            (Some("vmfsSparse"), Some(grain as u64 * 512))
        );
        assert!(!info.dirty);
    }
    let delta = folder.path().join("disk-delta.vmdk");
    let mut dirty = std::fs::read(&delta).unwrap();
    put32(&mut dirty, 1648, 1);
    std::fs::write(&delta, dirty).unwrap();
    assert!(open(&image).info().unwrap().dirty);
}

#[test]
fn se_sparse_is_read_as_qemu_img_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let (image, raw) = (folder.path().join("disk.vmdk"), folder.path().join("raw"));
    // More grains than the low twelve bits of an entry can number.
    let many: Vec<u64> = (0..5000).map(|number| number * 2).collect();
    for (sectors, numbers) in [(100_000, vec![0, 1, 5, 4095, 4096, 12_499]), (98_304, many)] {
        let grains = some_grains(4096, &numbers);
        let zeros = [(3, 1), (12_001, 2)];
        std::fs::write(
            folder.path().join("disk-sesparse.vmdk"),
            se_sparse(sectors, &grains, &zeros),
        )
        .unwrap();
        descriptor(
            &image,
            "seSparse",
            &format!("RW {sectors} SESPARSE \"disk-sesparse.vmdk\""),
        );
        let content = expected(sectors, 4096, &grains);
        std::fs::write(&raw, &content).unwrap();
        qemu_img(&["compare", "-f", "raw", "-F", "vmdk", text(&raw), text(&image)]);
        let disk = open(&image);
        assert!(read_all(disk.as_ref()) == content);
        assert!(read_in_pieces(disk.as_ref(), 5001) == content);
        extents(disk.as_ref());
        assert_eq!(disk.check().unwrap(), Check::default());
    }
}

#[test]
fn a_snapshot_of_esxi_is_read_through_to_the_disk_below() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let sectors = 8192;
    let base = pattern(5, sectors * SECTOR);
    std::fs::write(at("web-flat.vmdk"), &base).unwrap();
    descriptor(
        &at("web.vmdk"),
        "vmfs",
        &format!("RW {sectors} VMFS \"web-flat.vmdk\""),
    );
    let over = |name: &str, parent: &str, cid: &str, parent_cid: &str, line: &str| {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID={cid}\nparentCID={parent_cid}\ncreateType=\"vmfsSparse\"\n\
             parentFileNameHint=\"{parent}\"\n{line}\n"
        );
        std::fs::write(at(name), text).unwrap();
    };
    let first = some_grains(SECTOR, &[0, 9, 4097]);
    std::fs::write(at("web-000001-delta.vmdk"), cowd(sectors as u64, 1, &first)).unwrap();
    let line = format!("RW {sectors} VMFSSPARSE \"web-000001-delta.vmdk\"");
    over("web-000001.vmdk", "web.vmdk", "11111111", "0a0b0c0d", &line);
    let second = some_grains(4096, &[1, 600]);
    std::fs::write(
        at("web-000002-sesparse.vmdk"),
        se_sparse(sectors as u64, &second, &[(0, 2), (2, 1)]),
    )
    .unwrap();
    let line = format!("RW {sectors} SESPARSE \"web-000002-sesparse.vmdk\"");
    over(
        "web-000002.vmdk",
        "web-000001.vmdk",
        "22222222",
        "11111111",
        &line,
    );
    let mut model = base.clone();
    for (number, content) in &first {
        model[*number as usize * SECTOR..][..SECTOR].copy_from_slice(content);
    }
    assert!(read_all(open(&at("web-000001.vmdk")).as_ref()) == model);
    for (number, content) in &second {
        model[*number as usize * 4096..][..4096].copy_from_slice(content);
    }
    model[..4096].fill(0);
    model[8192..12_288].fill(0);
    let disk = open(&at("web-000002.vmdk"));
    assert!(read_all(disk.as_ref()) == model);
    assert!(read_in_pieces(disk.as_ref(), 1234) == model);
    extents(disk.as_ref());
    std::fs::write(at("raw"), &model).unwrap();
    for image in ["web-000001.vmdk", "web-000002.vmdk"] {
        let flat = at("back");
        qemu_img(&[
            "convert",
            "-f",
            "vmdk",
            "-O",
            "raw",
            text(&at(image)),
            text(&flat),
        ]);
        assert!(read_all(open(&at(image)).as_ref()) == std::fs::read(flat).unwrap());
    }
    // The delta alone may have a parent or not: nobody can tell.
    let error = crate::image::try_open(&at("web-000001-delta.vmdk")).unwrap_err();
    assert!(error.to_string().contains("name the descriptor"), "{error}");
}

#[test]
fn extents_of_every_kind_make_one_disk() {
    let (folder, raw) = raw_source(2 * MIB);
    let at = |name: &str| folder.path().join(name);
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        text(&raw),
        text(&at("sparse.vmdk")),
    ]);
    let boot = pattern(1, 20 * SECTOR);
    std::fs::write(at("boot.bin"), &boot).unwrap();
    std::fs::write(at("delta.bin"), cowd(64, 1, &some_grains(SECTOR, &[5]))).unwrap();
    descriptor(
        &at("disk.vmdk"),
        "custom",
        "RDONLY 16 FLAT \"boot.bin\" 4\nRW 4096 SPARSE \"sparse.vmdk\"\nNOACCESS 100 ZERO\nRW 0 ZERO\n\
         RW 64 VMFSSPARSE \"delta.bin\"\nRW 1 VMFS \"boot.bin\"\nRW 3 ZERO",
    );
    let mut model = boot[4 * SECTOR..].to_vec();
    model.extend(std::fs::read(&raw).unwrap());
    model.resize(model.len() + 105 * SECTOR, 0);
    model.extend(pattern(5, SECTOR));
    model.resize(model.len() + 58 * SECTOR, 0);
    model.extend(&boot[..SECTOR]);
    model.resize(model.len() + 3 * SECTOR, 0);
    let disk = open(&at("disk.vmdk"));
    assert_eq!(disk.size(), model.len() as u64);
    assert!(read_all(disk.as_ref()) == model);
    assert!(read_in_pieces(disk.as_ref(), 333) == model);
    extents(disk.as_ref());
    let info = disk.info().unwrap();
    let named: Vec<_> = info
        .files
        .iter()
        .map(|file| (file.name.as_str(), file.format.as_deref().unwrap()))
        .collect();
    assert_eq!(
        named,
        [
            ("boot.bin", "FLAT"),
            ("sparse.vmdk", "SPARSE"),
            ("delta.bin", "VMFSSPARSE"),
            ("boot.bin", "VMFS")
        ]
    );
}

#[test]
fn the_second_grain_directory_is_used_where_the_first_is_bad_and_the_check_says_so() {
    let (folder, raw) = raw_source(40 * MIB);
    let expected = std::fs::read(&raw).unwrap();
    let image = folder.path().join("disk.vmdk");
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", text(&raw), text(&image)]);
    let sound = std::fs::read(&image).unwrap();
    let first = u64::from_le_bytes(sound[56..64].try_into().unwrap()) as usize * SECTOR;
    let table = u32::from_le_bytes(sound[first..first + 4].try_into().unwrap()) as usize * SECTOR;
    let used: Vec<usize> = (0..512)
        .filter(|i| sound[table + i * 4..table + i * 4 + 4] != [0; 4])
        .collect();
    type Damage<'a> = Box<dyn Fn(&mut [u8]) + 'a>;
    let damages: [(Damage, &str); 6] = [
        (
            Box::new(|bytes| put64(bytes, 56, 1 << 40)),
            "lies past the end: the second one is used",
        ),
        (
            Box::new(|bytes| put64(bytes, 56, 0)),
            "lies past the end: the second one is used",
        ),
        (
            Box::new(|bytes| bytes[first..first + 8].fill(0)),
            "has no table for byte 0 of the disk: the second one is used",
        ),
        (
            Box::new(|bytes| bytes[first..first + 4].fill(0xff)),
            "of the first grain directory leads to byte",
        ),
        (
            Box::new(|bytes| put32(bytes, table + used[3] * 4, 0xffff_fff0)),
            "differ in 1 entries: the first one is used",
        ),
        (
            Box::new(|bytes| bytes[table..table + 2048].fill(0xee)),
            "differ in 512 entries",
        ),
    ];
    for (damage, finding) in damages {
        let mut bytes = sound.clone();
        damage(&mut bytes);
        std::fs::write(&image, &bytes).unwrap();
        let disk = open(&image);
        // A table that says that there is nothing is believed where the first one does.
        if !finding.contains("512") {
            assert!(read_all(disk.as_ref()) == expected, "{finding}");
        }
        let check = disk.check().unwrap();
        assert!(
            check.errors.iter().any(|error| error.contains(finding)),
            "{finding}: {check:?}"
        );
    }
    // Without the flag there is no second one.
    let mut bytes = sound.clone();
    put64(&mut bytes, 56, 1 << 40);
    bytes[8] &= !2;
    std::fs::write(&image, &bytes).unwrap();
    let error = crate::image::try_open(&image).unwrap_err();
    assert!(error.to_string().contains("grain directory at byte"), "{error}");
}

#[test]
fn a_stream_without_markers_and_one_with_padding_behind_it_are_read() {
    let (folder, raw) = raw_source(3 * MIB);
    let expected = std::fs::read(&raw).unwrap();
    let image = folder.path().join("disk.vmdk");
    let option = "subformat=streamOptimized";
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        option,
        text(&raw),
        text(&image),
    ]);
    let with = std::fs::read(&image).unwrap();
    let first = u64::from_le_bytes(with[56..64].try_into().unwrap()) as usize * SECTOR;
    let table = u32::from_le_bytes(with[first..first + 4].try_into().unwrap()) as usize * SECTOR;
    for skip in [0, 4] {
        // The compressed data moves to the front of its sectors; VMware leaves its length there, qemu nothing.
        let mut without = with.clone();
        without[10] &= !2;
        for index in 0..48 {
            let at = table + index * 4;
            let host = u32::from_le_bytes(with[at..at + 4].try_into().unwrap()) as usize * SECTOR;
            if host == 0 {
                continue;
            }
            let length = u32::from_le_bytes(with[host + 8..host + 12].try_into().unwrap()) as usize;
            without[host..host + 12 + length].fill(0);
            put32(&mut without, host, length as u32);
            without[host + skip..host + skip + length].copy_from_slice(&with[host + 12..host + 12 + length]);
        }
        std::fs::write(&image, &without).unwrap();
        let disk = open(&image);
        assert!(read_all(disk.as_ref()) == expected, "{skip}");
        assert!(read_in_pieces(disk.as_ref(), 4444) == expected, "{skip}");
        assert!(disk.check().unwrap().is_sound());
    }
    let source = rehome::disk::FileDisk::open(&raw).unwrap();
    let ours = folder.path().join("ours.vmdk");
    crate::image::convert(&source, &ours, option, 1);
    let mut padded = std::fs::read(&ours).unwrap();
    padded.resize(padded.len().next_multiple_of(10_240) + 300, 0);
    std::fs::write(&ours, padded).unwrap();
    assert!(read_all(open(&ours).as_ref()) == expected);
}

#[test]
fn tables_of_zeros_and_a_size_that_the_header_rounds_up_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.vmdk");
    qemu_img(&[
        "create",
        "-f",
        "vmdk",
        "-o",
        "zeroed_grain=on",
        text(&image),
        "40M",
    ]);
    let mut bytes = std::fs::read(&image).unwrap();
    let number = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    for directory in [48, 56] {
        let at = number(&bytes, directory) as usize * SECTOR;
        put32(&mut bytes, at, 1);
    }
    // 40 MiB less 100 sectors, which is no whole number of grains.
    let text = String::from_utf8_lossy(&bytes[512..512 * 21]).replace("RW 81920", "RW 81820");
    bytes[512..512 * 21].copy_from_slice(text.as_bytes());
    std::fs::write(&image, &bytes).unwrap();
    let disk = open(&image);
    assert_eq!(disk.size(), 81_820 * 512);
    assert_eq!(extents(disk.as_ref()), [(0..81_820 * 512, Content::Hole)]);
    assert_eq!(disk.check().unwrap(), Check::default());
    // More than rounding: qemu believes the header, and so do we, but it is said.
    let text = String::from_utf8_lossy(&bytes[512..512 * 21]).replace("RW 81820", "RW 41820");
    bytes[512..512 * 21].copy_from_slice(text.as_bytes());
    std::fs::write(&image, &bytes).unwrap();
    let disk = open(&image);
    assert_eq!(disk.size(), 81_920 * 512);
    let check = disk.check().unwrap();
    assert!(
        check.errors[0].contains("41820 sectors, the header 81920"),
        "{check:?}"
    );
}

#[test]
fn a_descriptor_inside_the_first_of_several_pieces_is_understood() {
    let (folder, raw) = raw_source(4 * MIB);
    let expected = std::fs::read(&raw).unwrap();
    let at = |name: &str| folder.path().join(name);
    let half = at("half");
    for (index, name) in ["disk.vmdk", "disk-02.vmdk"].iter().enumerate() {
        std::fs::write(&half, &expected[index << 21..(index + 1) << 21]).unwrap();
        qemu_img(&["convert", "-f", "raw", "-O", "vmdk", text(&half), text(&at(name))]);
    }
    let mut bytes = std::fs::read(at("disk.vmdk")).unwrap();
    let text = String::from_utf8_lossy(&bytes[512..512 * 21]).into_owned();
    let text = text.replace(
        "RW 4096 SPARSE \"disk.vmdk\"\n",
        "RW 4096 SPARSE \"disk.vmdk\"\nRW 4096 SPARSE \"disk-02.vmdk\"\n",
    );
    bytes[512..512 * 21].copy_from_slice(&text.as_bytes()[..512 * 20]);
    std::fs::write(at("disk.vmdk"), &bytes).unwrap();
    assert!(read_all(open(&at("disk.vmdk")).as_ref()) == expected);
}

#[test]
fn a_name_in_the_encoding_of_the_descriptor_is_found_in_that_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Büro-flat.vmdk"), pattern(3, 4096)).unwrap();
    let image = folder.path().join("disk.vmdk");
    let mut text =
        b"# Disk DescriptorFile\nversion=1\nencoding=\"windows-1252\"\nCID=1\nparentCID=ffffffff\n\
                     createType=\"monolithicFlat\"\nRW 8 FLAT \"B"
            .to_vec();
    text.push(0xfc);
    text.extend(b"ro-flat.vmdk\" 0\n");
    std::fs::write(&image, text).unwrap();
    let disk = open(&image);
    assert!(read_all(disk.as_ref()) == pattern(3, 4096));
    assert_eq!(disk.info().unwrap().files[0].name, "Büro-flat.vmdk");
}
