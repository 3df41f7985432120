//! What is refused, and what the error says to do.

use crate::{
    hand_made::se_sparse,
    image::{MIB, convert, noise, open, qemu_img, raw_source, read_all, text, try_open},
};
use rehome::{
    disk::{Error, FileDisk, Kind, MemoryDisk},
    image::{self, Beside, NoNeighbours},
};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Instant};

fn descriptor(folder: &Path, lines: &str) -> Error {
    let image = folder.join("disk.vmdk");
    let text = format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{lines}\n");
    std::fs::write(&image, text).unwrap();
    try_open(&image).expect_err(lines)
}

#[test]
fn the_error_names_what_is_missing_or_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("short.bin"), vec![1; 5000]).unwrap();
    std::fs::create_dir(at("sub")).unwrap();
    std::fs::write(at("sub/inside.bin"), vec![1; 5120]).unwrap();
    qemu_img(&["create", "-f", "vmdk", text(&at("small.vmdk")), "1M"]);
    let cases: &[(&str, Kind, &[&str])] = &[
        (
            "RW 8 FLAT \"absent-flat.vmdk\" 0",
            Kind::NotFound,
            &["\"absent-flat.vmdk\" as its extent", "put it beside"],
        ),
        (
            "RW 8 SPARSE \"absent-s001.vmdk\"",
            Kind::NotFound,
            &["absent-s001.vmdk"],
        ),
        (
            "RW 10 FLAT \"short.bin\" 0",
            Kind::Corrupt,
            &["\"short.bin\" of 5000 bytes", "5120", "cut short"],
        ),
        ("RW 8 FLAT \"short.bin\" 2", Kind::Corrupt, &["5120"]),
        (
            "RW 8 SPARSE \"short.bin\"",
            Kind::Corrupt,
            &["\"short.bin\", which is said to be sparse, KDMV"],
        ),
        ("RW 8 VMFSSPARSE \"short.bin\"", Kind::Corrupt, &["COWD"]),
        ("RW 8 SESPARSE \"short.bin\"", Kind::Corrupt, &["seSparse"]),
        (
            "RW 4096 SPARSE \"small.vmdk\"",
            Kind::Corrupt,
            &["for 2048 sectors", "4096"],
        ),
        (
            "RW 8 FLAT \"sub/inside.bin\" 0",
            Kind::Unsupported,
            &["lies outside"],
        ),
        (
            "RW 8 FLAT \"/etc/passwd\" 0",
            Kind::Unsupported,
            &["lies outside"],
        ),
        (
            "RW 8 FLAT \"../no-such-file-of-rehome\" 0",
            Kind::NotFound,
            &["../no-such-file-of-rehome"],
        ),
        (
            "RW 8 FLAT \"/dev/sda\" 0",
            Kind::Unsupported,
            &["\"/dev/sda\", type FLAT", "name that device itself"],
        ),
        (
            "RW 8 FLAT \"\\\\.\\PhysicalDrive0\" 0",
            Kind::Unsupported,
            &["PhysicalDrive0"],
        ),
        (
            "createType=\"fullDevice\"\nRW 8 FLAT \"short.bin\" 0",
            Kind::Unsupported,
            &["physical device"],
        ),
        (
            "createType=\"vmfsRDM\"\nRW 8 VMFSRDM \"lun-rdm.vmdk\"",
            Kind::Unsupported,
            &["type VMFSRDM"],
        ),
        (
            "createType=\"partitionedDevice\"\nRW 8 FLAT \"short.bin\" 0\nRW 9 FLAT \"/dev/sdb\" 63",
            Kind::Unsupported,
            &["\"/dev/sdb\""],
        ),
        ("RW 8 VMFSRAW \"lun\"", Kind::Unsupported, &["VMFSRAW"]),
        ("RW 8 QUANTUM \"x\"", Kind::Unsupported, &["type QUANTUM"]),
        (
            "NOACCESS 8 FLAT \"short.bin\" 0",
            Kind::Unsupported,
            &["NOACCESS"],
        ),
        (
            "encryptionKeys=\"vmware:key/list\"\nRW 8 ZERO",
            Kind::Unsupported,
            &["encrypted by VMware"],
        ),
        ("", Kind::Corrupt, &["without any extent"]),
        ("RW x FLAT \"y\" 0", Kind::Corrupt, &["line 5", "RW x FLAT"]),
        (
            "RW 9223372036854775807 ZERO\nRW 9223372036854775807 ZERO",
            Kind::Corrupt,
            &["more than any disk"],
        ),
    ];
    for (lines, kind, said) in cases {
        let error = descriptor(folder.path(), lines);
        assert_eq!(error.kind, *kind, "{error}");
        let text = error.to_string();
        assert!(text.contains("disk.vmdk"), "{text}");
        for part in *said {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    let large = format!("# Disk DescriptorFile\n{}", "#\n".repeat(1 << 20));
    std::fs::write(at("disk.vmdk"), large).unwrap();
    assert!(
        try_open(&at("disk.vmdk"))
            .unwrap_err()
            .to_string()
            .contains("more than 1048576 bytes")
    );
    std::fs::write(at("pipe.vmdk"), "# Disk DescriptorFile\nRW 8 FLAT \"fifo\" 0\n").unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(at("fifo"))
            .status()
            .unwrap()
            .success()
    );
    assert!(
        try_open(&at("pipe.vmdk"))
            .unwrap_err()
            .to_string()
            .contains("no regular file")
    );
}

#[test]
fn an_extent_without_its_descriptor_is_refused_with_one_that_would_do() {
    let (folder, raw) = raw_source(2 * MIB);
    let at = |name: &str| folder.path().join(name);
    let option = "subformat=twoGbMaxExtentSparse";
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        option,
        text(&raw),
        text(&at("disk.vmdk")),
    ]);
    let grains = BTreeMap::from([(1, noise(1, 4096))]);
    std::fs::write(at("disk-sesparse.vmdk"), se_sparse(800, &grains, &[])).unwrap();
    for name in ["disk-s001.vmdk", "disk-sesparse.vmdk"] {
        let error = try_open(&at(name)).unwrap_err();
        assert_eq!(error.kind, Kind::Unsupported);
        let said = error.to_string();
        let (_, command) = said.split_once("this file alone: ").unwrap();
        let shell = std::process::Command::new("sh")
            .args(["-c", &command.replace("disk.vmdk", "new.vmdk")])
            .current_dir(folder.path())
            .status();
        assert!(shell.unwrap().success());
        let disk = open(&at("new.vmdk"));
        if name == "disk-s001.vmdk" {
            assert!(read_all(disk.as_ref()) == std::fs::read(&raw).unwrap());
        } else {
            assert_eq!(disk.size(), 800 * 512);
        }
    }
}

#[test]
fn a_file_that_was_cut_or_sent_as_text_says_so() {
    let (folder, raw) = raw_source(3 * MIB);
    let source = FileDisk::open(&raw).unwrap();
    let image = folder.path().join("disk.vmdk");
    convert(&source, &image, "subformat=streamOptimized", 1);
    let stream = std::fs::read(&image).unwrap();
    for length in [stream.len() - 512 * 3, stream.len() / 2, 70_000, 11_264] {
        std::fs::write(&image, &stream[..length]).unwrap();
        let error = try_open(&image).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.to_string().contains("footer"), "{length}: {error}");
    }
    for length in [3, 4, 79, 511, 512, 600] {
        std::fs::write(&image, &stream[..length]).unwrap();
        let opened = try_open(&image);
        assert!(opened.is_err() || length == 3, "{length}");
    }
    std::fs::remove_file(&image).unwrap();
    convert(&source, &image, "", 1);
    let sparse = std::fs::read(&image).unwrap();
    std::fs::write(&image, &sparse[..sparse.len() - 65536]).unwrap();
    let disk = open(&image);
    let error = disk.read_at(0, &mut vec![0; 3 << 20]).unwrap_err();
    assert!(error.to_string().contains("cut short or damaged"), "{error}");
    assert!(!disk.check().unwrap().is_sound());
    let mut as_text = sparse;
    as_text[75] = b'\n';
    std::fs::write(&image, as_text).unwrap();
    let error = try_open(&image).unwrap_err();
    assert!(error.to_string().contains("binary mode"), "{error}");
}

#[test]
fn a_damaged_grain_is_an_error_where_it_is_met_and_only_there() {
    let (folder, raw) = raw_source(3 * MIB);
    let source = FileDisk::open(&raw).unwrap();
    let image = folder.path().join("disk.vmdk");
    convert(&source, &image, "subformat=streamOptimized", 1);
    let mut bytes = std::fs::read(&image).unwrap();
    // The first grain begins at sector 128.
    let first = 128 * 512;
    assert_eq!(bytes[first..first + 8], [0; 8]);
    bytes[first + 20] ^= 0x55;
    std::fs::write(&image, &bytes).unwrap();
    let disk = open(&image);
    for length in [65536, 100] {
        let error = disk.read_at(0, &mut vec![0; length]).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.to_string().contains("does not unpack"), "{error}");
    }
    let mut rest = vec![0; 65536];
    disk.read_at(655_360, &mut rest).unwrap();
    assert!(rest == std::fs::read(&raw).unwrap()[655_360..720_896]);
    // A length that leads out of the file.
    bytes[first + 8..first + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    std::fs::write(&image, &bytes).unwrap();
    let error = open(&image).read_at(0, &mut [0; 100]).unwrap_err();
    assert!(
        error.to_string().contains("its marker claims 4294967295 bytes"),
        "{error}"
    );
}

#[test]
fn a_journal_that_is_not_replayed_is_refused_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = se_sparse(800, &BTreeMap::new(), &[]);
    bytes[512 + 24] = 1;
    std::fs::write(folder.path().join("s.vmdk"), &bytes).unwrap();
    let error = descriptor(folder.path(), "RW 800 SESPARSE \"s.vmdk\"");
    assert_eq!(error.kind, Kind::Unsafe);
    assert!(error.to_string().contains("only ESXi can"), "{error}");
    for (at, value, said) in [
        (8, 7_u64, "version 0x7"),
        (24, 16, "a grain size of 16"),
        (136, 0, "grain directory of 0"),
    ] {
        let mut lie = se_sparse(800, &BTreeMap::new(), &[]);
        lie[at..at + 8].copy_from_slice(&value.to_le_bytes());
        std::fs::write(folder.path().join("s.vmdk"), &lie).unwrap();
        let error = descriptor(folder.path(), "RW 800 SESPARSE \"s.vmdk\"");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn giant_claims_cost_neither_time_nor_memory() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.vmdk");
    qemu_img(&["create", "-f", "vmdk", text(&image), "1M"]);
    let sound = std::fs::read(&image).unwrap();
    let start = Instant::now();
    let claims: [(usize, &[u8]); 5] = [
        (12, &u64::MAX.to_le_bytes()),
        (12, &(1_u64 << 52).to_le_bytes()),
        (36, &u64::MAX.to_le_bytes()),
        (28, &u64::MAX.to_le_bytes()),
        (44, &u32::MAX.to_le_bytes()),
    ];
    for (at, claim) in claims {
        let mut lie = sound.clone();
        lie[at..at + claim.len()].copy_from_slice(claim);
        let container = Arc::new(MemoryDisk::new("lie", lie));
        let error = image::open(container, None, &NoNeighbours).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt, "{error}");
    }
    // Every table of a large directory is the same one, and every grain of it.
    let mut lie = sound.clone();
    lie[12..20].copy_from_slice(&(65536_u64 * 50_000).to_le_bytes());
    lie[8] &= !2;
    let directory = lie.len();
    lie[56..64].copy_from_slice(&(directory as u64 / 512).to_le_bytes());
    let table = (directory as u32 + 200_192) / 512;
    lie.resize(table as usize * 512, 0);
    for entry in lie[directory..directory + 200_000].as_chunks_mut::<4>().0 {
        *entry = table.to_le_bytes();
    }
    lie.extend((table + 4).to_le_bytes().repeat(512));
    lie.resize(lie.len() + 65536, 7);
    let disk = image::open(Arc::new(MemoryDisk::new("lie", lie)), None, &NoNeighbours).unwrap();
    assert!(!disk.check().unwrap().is_sound());
    let map = disk.extents(0..disk.size()).unwrap();
    assert!(map.len() <= 1025);
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
}

#[test]
fn kinds_that_cannot_be_edited_say_what_to_do() {
    let (folder, raw) = raw_source(MIB);
    let image = folder.path().join("disk.vmdk");
    let refused = |said: &str| {
        let container = Arc::new(FileDisk::open_writable(&image).unwrap());
        let error = image::open_writable(container, image::Format::Vmdk, &Beside::new(&image).writing());
        let error = error.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        std::fs::remove_file(&image).unwrap();
    };
    let source = FileDisk::open(&raw).unwrap();
    convert(&source, &image, "subformat=streamOptimized", 1);
    refused("qemu-img convert -O vmdk -o subformat=monolithicSparse");
    let grains = BTreeMap::from([(1, noise(1, 4096))]);
    std::fs::write(folder.path().join("s.vmdk"), se_sparse(800, &grains, &[])).unwrap();
    std::fs::write(
        &image,
        "# Disk DescriptorFile\nCID=1\nRW 800 SESPARSE \"s.vmdk\"\n",
    )
    .unwrap();
    refused("only read here");
    std::fs::write(folder.path().join("f"), vec![0; 4096]).unwrap();
    let tracked = "# Disk DescriptorFile\nCID=1\nRW 8 FLAT \"f\" 0\nchangeTrackPath=\"disk-ctk.vmdk\"\n";
    std::fs::write(&image, tracked).unwrap();
    refused("changeTrackPath");
    convert(&source, &image, "", 1);
    let mut dirty = std::fs::read(&image).unwrap();
    dirty[72] = 1;
    std::fs::write(&image, &dirty).unwrap();
    refused("was not closed properly");
    dirty[72] = 0;
    dirty[4] = 3;
    std::fs::write(&image, &dirty).unwrap();
    refused("version 3");
    // A second file is written only if the caller says so.
    std::fs::write(&image, "# Disk DescriptorFile\nCID=1\nRW 8 FLAT \"f\" 0\n").unwrap();
    let container = Arc::new(FileDisk::open_writable(&image).unwrap());
    let error = image::open_writable(container, image::Format::Vmdk, &Beside::new(&image)).unwrap_err();
    assert!(error.to_string().contains("only one file"), "{error}");
}
