//! Images and tables made to do harm: refused or read around, quickly, in little memory, and never with a panic.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::{
    disk::{Disk, Error, FileDisk, Kind, MemoryDisk},
    image::{self, Beside, Check, Format, Image, NoNeighbours, qcow2::Qcow2},
    volume::scan,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[track_caller]
fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img")
        .args(arguments)
        .output()
        .expect("qemu-img must be installed");
    assert!(output.status.success(), "qemu-img {arguments:?}: {output:?}");
}

#[track_caller]
fn qemu_io(command: &str, image: &Path) {
    let output = Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", command, text(image)])
        .output();
    assert!(output.expect("qemu-io must be installed").status.success());
}

/// The bytes of a small image with some data, made by qemu-img.
fn small_image(options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    qemu_img(&["create", "-f", "qcow2", "-o", options, text(&path), "3M"]);
    qemu_io("write -P 5 100k 300k", &path);
    qemu_io("write -z 1M 64k", &path);
    std::fs::read(&path).unwrap()
}

fn open(bytes: Vec<u8>) -> Result<Qcow2, Error> {
    Qcow2::open(Arc::new(MemoryDisk::new("image", bytes)), &NoNeighbours)
}

fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// Peak memory of this process so far, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn lying_headers_are_refused_and_say_why() {
    let sound = small_image("compat=1.1");
    open(sound.clone()).unwrap();
    let lies: &[(usize, &[u8], Kind, &str)] = &[
        (0, b"QFI\xfa", Kind::Corrupt, "is no qcow2 image"),
        (4, &[0, 0, 0, 4], Kind::Unsupported, "qcow version 4"),
        (20, &[0, 0, 0, 8], Kind::Corrupt, "clusters of 2^8"),
        (20, &[0, 0, 0, 22], Kind::Corrupt, "clusters of 2^22"),
        (20, &[0xff; 4], Kind::Corrupt, "clusters of 2^4294967295"),
        (32, &[0, 0, 0, 1], Kind::Unsupported, "encrypted with AES"),
        (32, &[0, 0, 0, 2], Kind::Unsupported, "encrypted with LUKS"),
        (
            36,
            &[0x7f, 0xff, 0xff, 0xff],
            Kind::Corrupt,
            "first-level table of 2147483647 entries",
        ),
        (
            36,
            &[0; 4],
            Kind::Corrupt,
            "has a first-level table of 0 entries where the disk needs 1",
        ),
        (24, &[0x7f; 8], Kind::Corrupt, "where the disk needs"),
        (
            40,
            &[0, 0, 0, 0, 0, 1, 0, 1],
            Kind::Corrupt,
            "not the beginning of a cluster",
        ),
        (
            40,
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
            Kind::Corrupt,
            "past the end of the file",
        ),
        (
            56,
            &[0xff; 4],
            Kind::Corrupt,
            "refcount table of 4294967295 clusters",
        ),
        (
            72,
            &[0, 0, 0, 0, 0, 0, 0, 4],
            Kind::Unsupported,
            "in another file, whose name",
        ),
        (72, &[0x80, 0, 0, 0, 0, 0, 0, 0], Kind::Unsupported, "bit 63"),
        (96, &[0, 0, 0, 7], Kind::Corrupt, "refcounts of 2^7 bits"),
        (100, &[0, 0, 0, 72], Kind::Corrupt, "header of 72 bytes"),
        (100, &[0xff; 4], Kind::Corrupt, "header of 4294967295 bytes"),
        (104, &[1], Kind::Corrupt, "compression type 1"),
        (104, &[9], Kind::Corrupt, "compression type 9"),
    ];
    for (at, bytes, kind, expected) in lies {
        let error = open(with(&sound, *at, bytes)).unwrap_err();
        assert_eq!(error.kind, *kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    // A name of the backing file that is longer than its cluster, and an extension that is longer than the header.
    let name = with(&with(&sound, 8, &200_u64.to_be_bytes()), 16, &[0xff; 4]);
    assert!(open(name).unwrap_err().to_string().contains("backing file"));
    let extension = with(&sound, 112, &[0x11, 0x22, 0x33, 0x44, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(open(extension).unwrap_err().kind, Kind::Corrupt);
    for length in [0, 3, 20, 71, 103, 111] {
        assert_eq!(open(sound[..length].to_vec()).unwrap_err().kind, Kind::Corrupt);
    }
}

#[test]
fn a_giant_first_level_table_is_refused_at_once() {
    let before = peak_memory();
    let start = Instant::now();
    let sound = small_image("compat=1.1");
    let made = start.elapsed();
    let start = Instant::now();
    // As many entries as the format's limit has, in a file that is far too small for them; and far more.
    for entries in [4 << 20, (4 << 20) + 1, u32::MAX] {
        let lie = with(&sound, 36, &entries.to_be_bytes());
        let lie = with(&lie, 24, &(u64::from(entries) << 29).to_be_bytes());
        assert_eq!(open(lie).unwrap_err().kind, Kind::Corrupt);
    }
    assert!(
        start.elapsed() < made.max(Duration::from_millis(100)),
        "{:?}",
        start.elapsed()
    );
    assert!(peak_memory() < before + 32 * 1024);
}

#[test]
fn tables_that_lead_astray_are_errors_where_they_are_met() {
    let sound = small_image("compat=1.1");
    let word = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap());
    let l1 = word(40) as usize;
    let l2 = (word(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    let past = 0x8000_0100_0000_0000_u64.to_be_bytes();
    let odd = 0x8000_0000_0001_0200_u64.to_be_bytes();
    let both = 0x4000_0000_0000_0001_u64.to_be_bytes();
    let lies = [
        (l1, past, "second-level table at byte 1099511627776, past the end"),
        (
            l1,
            odd,
            "second-level table at byte 66048, which is not the beginning",
        ),
        (l2 + 8, past, "data cluster at byte 1099511627776, past the end"),
        (
            l2 + 8,
            odd,
            "data cluster at byte 66048, which is not the beginning",
        ),
        (l2 + 8, both, "compressed cluster that does not unpack"),
        (
            l2 + 8,
            0x7fff_ffff_ffff_ffff_u64.to_be_bytes(),
            "compressed cluster at byte",
        ),
    ];
    for (at, bytes, expected) in lies {
        let disk = open(with(&sound, at, &bytes)).unwrap();
        let error = disk.read_at(65536, &mut [0; 65536]).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!disk.check().unwrap().is_sound());
        assert!(disk.read_at(3 * MIB - 10, &mut [0; 11]).is_err());
    }
    // Cut short: what is gone is an error, never zeros.
    let disk = open(sound[..l2 + 65536 + 10].to_vec()).unwrap();
    let error = disk.read_at(100 << 10, &mut [0; 300 << 10]).unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[test]
fn version_2_knows_no_zero_clusters() {
    let sound = small_image("compat=0.10");
    let word = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap());
    let l2 = (word(word(40) as usize) & 0x00ff_ffff_ffff_fe00) as usize;
    let disk = open(with(&sound, l2 + 15, &[1])).unwrap();
    assert!(
        disk.read_at(65536, &mut [0; 10])
            .unwrap_err()
            .to_string()
            .contains("means nothing")
    );
}

#[test]
fn backing_files_are_opened_only_beside_the_image_and_never_guessed() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, vec![b's'; 65536]).unwrap();
    std::os::unix::fs::symlink(&secret, inner.join("link")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(inner.join("pipe"))
            .status()
            .unwrap()
            .success()
    );
    std::fs::write(inner.join("base"), vec![b'b'; 65536]).unwrap();
    let image = inner.join("image");
    let open = |name: &str, format: Option<&str>| {
        qemu_img(&["create", "-q", "-f", "qcow2", text(&image), "64k"]);
        let mut arguments = vec!["rebase", "-q", "-u", "-f", "qcow2", "-b", name];
        arguments.extend(format.map(|format| ["-F", format]).into_iter().flatten());
        arguments.push(text(&image));
        // Without a format qemu-img of today refuses: then the name is written by hand.
        if format.is_some() {
            qemu_img(&arguments);
        } else {
            let mut bytes = std::fs::read(&image).unwrap();
            bytes[8..16].copy_from_slice(&1024_u64.to_be_bytes());
            bytes[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            bytes[1024..1024 + name.len()].copy_from_slice(name.as_bytes());
            std::fs::write(&image, bytes).unwrap();
        }
        let container = Arc::new(FileDisk::open(&image).unwrap());
        image::open(container, Some(Format::Qcow2), &Beside::new(&image))
    };
    let mut byte = [0];
    open("base", Some("raw")).unwrap().read_at(0, &mut byte).unwrap();
    assert_eq!(&byte, b"b");
    open(text(&inner.join("base")), Some("raw")).unwrap();
    for name in ["../secret", "link", text(&secret), "/etc/passwd", "/dev/zero"] {
        let error = open(name, Some("raw")).unwrap_err();
        assert!(error.to_string().contains("outside"), "{error}");
    }
    assert!(
        open("pipe", Some("raw"))
            .unwrap_err()
            .to_string()
            .contains("no regular file")
    );
    assert_eq!(open("absent", Some("raw")).unwrap_err().kind, Kind::NotFound);
    assert!(
        open("base", None)
            .unwrap_err()
            .to_string()
            .contains("without its format")
    );
    assert!(
        open("base", Some("cloop"))
            .unwrap_err()
            .to_string()
            .contains("\"cloop\" is not known")
    );
    let error = open("image", Some("qcow2")).unwrap_err();
    assert!(error.to_string().contains("circle"), "{error}");
    let container = Arc::new(FileDisk::open(&image).unwrap());
    assert!(
        image::open(container, None, &NoNeighbours)
            .unwrap_err()
            .to_string()
            .contains("no other file")
    );
}

/// A generator of numbers without order, the same in every run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// Changes some bytes, most of them where tables are.
fn damage(bytes: &mut [u8], dice: &mut Dice, places: &[u64]) {
    for _ in 0..=dice.throw(6) {
        let place = places[dice.throw(places.len() as u64) as usize] + dice.throw(64);
        let value = [0, 1, 0x7f, 0x80, 0xff, dice.throw(256) as u8][dice.throw(6) as usize];
        if let Some(byte) = bytes.get_mut(place as usize) {
            *byte = value;
        }
    }
}

/// Whatever `disk` has become, an edit ends, well or with an error.
fn edit(disk: Result<Arc<dyn Image>, Error>, end: u64) {
    let Ok(disk) = disk else {
        return;
    };
    for at in (0..end.min(2 * MIB)).step_by(500_000) {
        let _ = disk.write_at(at, &[1; 512]);
        let _ = disk.write_zeros(at + 1000..(at + 70_000).min(end));
        let _ = disk.discard(at + 100_000..(at + 300_000).min(end));
    }
    let _ = disk.repair_leaks();
    let _ = disk.check();
}

#[test]
fn damaged_images_of_every_format_never_panic_and_never_take_long() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, path) = (folder.path().join("raw"), folder.path().join("image"));
    let mut bytes = vec![0; 3 << 20];
    for at in [0, 700_000, 1_500_000, 3 << 20] {
        bytes[at.min((3 << 20) - 70_000)..][..70_000].fill(7);
    }
    std::fs::write(&raw, bytes).unwrap();
    for (format, options) in [
        (
            "qcow2",
            &["-c", "-o", "cluster_size=4k,compression_type=zstd"][..],
        ),
        ("qcow2", &["-c", "-o", "extended_l2=on"]),
        ("qcow", &[]),
        ("parallels", &["-o", "cluster_size=64k"]),
        ("vdi", &[]),
        ("vdi", &["-o", "static=on"]),
    ] {
        let arguments = [
            &["convert", "-O", format][..],
            options,
            &[text(&raw), text(&path)],
        ];
        qemu_img(&arguments.concat());
        if format == "qcow2" {
            qemu_img(&["snapshot", "-c", "one", text(&path)]);
            qemu_img(&["bitmap", "--add", text(&path), "bitmap"]);
        }
        let format: Format = format.parse().unwrap();
        let sound = std::fs::read(&path).unwrap();
        // What is neither zeros nor the data of the disk.
        let is_structure = |line: &[u8]| line.iter().any(|byte| !matches!(byte, 0 | 7));
        let lines = sound.chunks(64).zip((0..).step_by(64));
        let places: Vec<u64> = lines
            .filter(|(line, _)| is_structure(line))
            .map(|(_, at)| at)
            .collect();
        let mut dice = Dice(0x2545_f491_4f6c_dd1d);
        let start = Instant::now();
        for _ in 0..200 {
            let mut bytes = sound.clone();
            damage(&mut bytes, &mut dice, &places);
            let container: Arc<dyn Disk> = Arc::new(MemoryDisk::new("image", bytes));
            let Ok(disk) = image::open(container.clone(), Some(format), &NoNeighbours) else {
                continue;
            };
            let end = disk.size().min(8 * MIB);
            for at in (0..end).step_by(300_000) {
                let mut buffer = vec![0; 4096.min(disk.size() - at) as usize];
                let _ = disk.read_at(at, &mut buffer);
                let _ = disk.extents(at..disk.size());
                let _ = disk.map(at..disk.size());
            }
            let _ = disk.check();
            let _ = disk.info();
            edit(image::open_writable(container, format, &NoNeighbours), end);
            let small = MemoryDisk::new("image", sound[..dice.throw(sound.len() as u64) as usize].to_vec());
            let _ = image::open(Arc::new(small), None, &NoNeighbours).map(|disk| disk.check());
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{format}: {:?}",
            start.elapsed()
        );
    }
}

#[test]
fn damaged_images_never_panic_and_never_take_long() {
    let rounds = 400;
    for options in [
        "compat=1.1",
        "compat=0.10",
        "cluster_size=512",
        "extended_l2=on,cluster_size=16k",
    ] {
        let sound = small_image(options);
        let word = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().unwrap());
        let l1 = word(40);
        let l2 = word(l1 as usize) & 0x00ff_ffff_ffff_fe00;
        let places = [
            0,
            24,
            32,
            64,
            96,
            104,
            l1,
            l2,
            l2 + 8,
            l2 + 64,
            word(48),
            word(word(48) as usize),
        ];
        let mut dice = Dice(0x1234_5678_9abc_def1);
        let start = Instant::now();
        for _ in 0..rounds {
            let mut bytes = sound.clone();
            damage(&mut bytes, &mut dice, &places);
            let container = Arc::new(MemoryDisk::new("image", bytes));
            let Ok(disk) = Qcow2::open(container.clone(), &NoNeighbours) else {
                continue;
            };
            let end = disk.size().min(8 * MIB);
            for at in (0..end).step_by(300_000) {
                let mut buffer = vec![0; 4096.min(disk.size() - at) as usize];
                let _ = disk.read_at(at, &mut buffer);
                let _ = disk.extents(at..disk.size());
            }
            let _ = disk.check();
            let _ = disk.info();
            edit(image::open_writable(container, Format::Qcow2, &NoNeighbours), end);
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    }
}

#[test]
fn damaged_partition_tables_never_panic_and_volumes_stay_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    for table in [
        "label: gpt\nsize=1MiB\nsize=1MiB\n",
        "label: dos\nsize=1MiB\nsize=5MiB,type=5\nsize=1MiB\nsize=1MiB\n",
    ] {
        let path = folder.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(8 * MIB).unwrap();
        std::fs::write(&script, table).unwrap();
        let done = Command::new("sfdisk")
            .args(["-q", text(&path)])
            .stdin(std::fs::File::open(&script).unwrap())
            .status();
        assert!(done.expect("sfdisk must be installed").success());
        let sound = std::fs::read(&path).unwrap();
        let end = 8 * MIB - 512;
        let places = [
            440,
            446,
            462,
            510 - 63,
            512,
            512 + 40,
            512 + 72,
            1024,
            1152,
            end,
            end + 64,
            2 * MIB + 446,
        ];
        let mut dice = Dice(0x0fed_cba9_8765_4321);
        for round in 0..600 {
            let mut bytes = sound.clone();
            damage(&mut bytes, &mut dice, &places);
            // Checksums that are right, so that the fields behind them are met too.
            if round % 2 == 0 && bytes[512..520] == *b"EFI PART" {
                let array = crc32fast::hash(&bytes[1024..1024 + 16384]);
                bytes[512 + 88..512 + 92].copy_from_slice(&array.to_le_bytes());
                bytes[512 + 16..512 + 20].fill(0);
                let size = u32::from_le_bytes(bytes[524..528].try_into().unwrap()).min(512) as usize;
                let header = crc32fast::hash(&bytes[512..512 + size]);
                bytes[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
            }
            let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new("disk", bytes));
            let found = scan(std::slice::from_ref(&disk)).unwrap();
            for volume in found.volumes {
                if let Some(partition) = volume.partition {
                    assert!(partition.length > 0);
                    assert!(partition.offset + partition.length <= disk.size());
                }
            }
            assert!(found.warnings.len() < 100);
        }
    }
}

#[test]
fn images_made_by_others_are_read_as_qemu_img_reads_them() {
    let Some(samples) = std::env::var_os("REHOME_SAMPLES") else {
        eprintln!("skipped: REHOME_SAMPLES is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let samples = PathBuf::from(samples).join("disk");
    let mut read = 0;
    for sample in [
        "cdi/fs-overhead.qcow2",
        "dfvfs/ext2.qcow2",
        "dfvfs/windows_volume.qcow2",
        "plaso/image.qcow2",
        "plaso/vsstest.qcow2",
        "qemu/bios-tables-test.aarch64.iso.qcow2",
        "qemu/bios-tables-test.x86_64.iso.qcow2",
    ] {
        let path = samples.join(sample);
        if !path.exists() {
            continue;
        }
        let disk = image::open(
            Arc::new(FileDisk::open(&path).unwrap()),
            None,
            &Beside::new(&path),
        )
        .unwrap();
        let raw = folder.path().join("raw");
        qemu_img(&["convert", "-O", "raw", text(&path), text(&raw)]);
        let raw = FileDisk::open(&raw).unwrap();
        assert_eq!(disk.size(), raw.size());
        let (mut ours, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        for at in (0..disk.size()).step_by(1 << 20) {
            let length = (disk.size() - at).min(1 << 20) as usize;
            disk.read_at(at, &mut ours[..length]).unwrap();
            raw.read_at(at, &mut theirs[..length]).unwrap();
            assert!(ours[..length] == theirs[..length], "{sample} at {at}");
        }
        assert_eq!(disk.check().unwrap(), Check::default(), "{sample}");
        read += 1;
    }
    assert_eq!(read, 7);
    // Its backing file is not there: the error names it.
    let chain = samples.join("cdi/cirros-snapshot2.qcow2");
    let error = image::open(
        Arc::new(FileDisk::open(&chain).unwrap()),
        None,
        &Beside::new(&chain),
    )
    .unwrap_err();
    assert_eq!((error.kind, error.disk.as_str()), (Kind::NotFound, "cirros.raw"));
    let giant = samples.join("cdi/invalid-qcow-large-memory.img");
    let start = Instant::now();
    let error = image::open(Arc::new(FileDisk::open(&giant).unwrap()), None, &NoNeighbours).unwrap_err();
    // It is a VMDK, whatever it is called.
    assert!(
        error.to_string().contains("has grains of 3456 sectors"),
        "{error}"
    );
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
}
