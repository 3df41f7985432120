//! Partition tables as fdisk and sgdisk make them: we must see what they see.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use rehome::{
    disk::{Disk, FileDisk},
    volume::{Partition, Scan, TableKind, scan},
};
use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};
use tempfile::TempDir;

struct Image {
    folder: TempDir,
    path: PathBuf,
    sector_size: u32,
}

const MIB: u64 = 1 << 20;

impl Image {
    fn new(size: u64, sector_size: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        FileDisk::create(&path, size).unwrap();
        Self {
            folder,
            path,
            sector_size,
        }
    }

    /// A table made from an sfdisk `script`. By fdisk, which unlike sfdisk can be told the sector size.
    fn partitioned(size: u64, sector_size: u32, script: &str) -> Self {
        let image = Self::new(size, sector_size);
        let file = image.folder.path().join("script");
        std::fs::write(&file, script).unwrap();
        fdisk(&image.path, sector_size, &format!("I\n{}\nw\n", file.display()));
        image
    }

    fn poke(&self, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    fn size(&self) -> u64 {
        self.path.metadata().unwrap().len()
    }

    fn scan(&self) -> Scan {
        let disk = FileDisk::open(&self.path)
            .unwrap()
            .with_sector_size(self.sector_size);
        scan(&[Arc::new(disk) as Arc<dyn Disk>]).unwrap()
    }

    /// What fdisk sees, in our words; extended containers left out.
    fn seen_by_fdisk(&self) -> Vec<Partition> {
        seen_by_fdisk(&self.path, self.sector_size)
    }
}

fn fdisk(path: &Path, sector_size: u32, commands: &str) {
    let mut child = Command::new("fdisk")
        .args([
            "--sector-size",
            &sector_size.to_string(),
            "--noauto-pt",
            "--wipe",
            "never",
        ])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("fdisk must be installed");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(commands.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
}

/// Has fdisk write the table as an sfdisk script, and reads that.
fn seen_by_fdisk(path: &Path, sector_size: u32) -> Vec<Partition> {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump");
    fdisk(path, sector_size, &format!("O\n{}\nq\n", dump.display()));
    let dump = std::fs::read_to_string(dump).unwrap();
    let header = |name: &str| {
        dump.lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")))
    };
    let gpt = header("label") == Some("gpt");
    let mut all = Vec::new();
    for line in dump.lines() {
        let Some((number, facts)) = line
            .strip_prefix(path.to_str().unwrap())
            .and_then(|line| line.split_once(" : "))
        else {
            continue;
        };
        let number: u32 = number.trim_start_matches('p').parse().unwrap();
        let fact = |name: &str| {
            let mut facts = facts.split(", ");
            facts.find_map(|fact| Some(fact.strip_prefix(name)?.trim().trim_matches('"').to_owned()))
        };
        let sectors = |name: &str| fact(name).unwrap().parse::<u64>().unwrap() * u64::from(sector_size);
        let kind = format!("{:0>2}", fact("type=").unwrap());
        if !gpt && ["05", "0f", "85"].contains(&kind.as_str()) {
            continue;
        }
        let id = header("label-id").unwrap().trim_start_matches("0x");
        all.push(Partition {
            disk: 0,
            number,
            offset: sectors("start="),
            length: sectors("size="),
            kind,
            partuuid: Some(fact("uuid=").map_or(format!("{id}-{number:02x}"), |uuid| uuid.to_lowercase())),
            name: fact("name="),
            bootable: facts.ends_with("bootable") || facts.contains("LegacyBIOSBootable"),
        });
    }
    assert!(!all.is_empty(), "{dump}");
    all
}

fn partitions(scan: &Scan) -> Vec<Partition> {
    scan.volumes
        .iter()
        .filter_map(|volume| volume.partition.clone())
        .collect()
}

#[track_caller]
fn assert_warns(scan: &Scan, text: &str) {
    assert!(
        scan.warnings.iter().any(|warning| warning.contains(text)),
        "{:?}",
        scan.warnings
    );
}

const DOS: &str = "label: dos\nlabel-id: 0x1234abcd\n\
    size=10MiB, type=83, bootable\nsize=20MiB, type=5\nsize=5MiB, type=82\n\
    size=2MiB, type=7\nsize=4MiB, type=83\nsize=5MiB, type=8e\nsize=3MiB, type=ef\n";

const GPT: &str = "label: gpt\n\
    size=8MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=\"EFI system\"\n\
    start=40MiB, size=8MiB, type=L, attrs=LegacyBIOSBootable\n\
    start=20MiB, size=8MiB, type=S\n";

#[test]
fn primary_and_logical_partitions_are_numbered_as_linux_does() {
    for sector_size in [512, 4096] {
        let image = Image::partitioned(64 * MIB, sector_size, DOS);
        let scan = image.scan();
        assert_eq!(partitions(&scan), image.seen_by_fdisk());
        assert_eq!(scan.tables, [Some(TableKind::Mbr)]);
        assert!(scan.warnings.is_empty(), "{:?}", scan.warnings);
        let ids: Vec<&str> = scan.volumes.iter().map(|volume| volume.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "disk0/p1", "disk0/p3", "disk0/p4", "disk0/p5", "disk0/p6", "disk0/p7"
            ]
        );
        assert_eq!(
            scan.volumes[3].partition.as_ref().unwrap().partuuid.as_deref(),
            Some("1234abcd-05")
        );
        assert_eq!(scan.volumes[3].disk.size(), 4 * MIB);
        assert_eq!(scan.volumes[3].disk.sector_size(), sector_size);
        assert!(scan.volumes[3].disk.label().ends_with("disk.img partition 5"));
    }
}

#[test]
fn a_volume_holds_the_bytes_of_its_partition() {
    let image = Image::partitioned(64 * MIB, 512, DOS);
    let start = partitions(&image.scan())[4].offset;
    image.poke(start + 5, b"here");
    let mut bytes = [0; 4];
    image.scan().volumes[4].disk.read_at(5, &mut bytes).unwrap();
    assert_eq!(&bytes, b"here");
}

#[test]
fn gpt_partitions_agree_with_fdisk() {
    for sector_size in [512, 4096] {
        let image = Image::partitioned(64 * MIB, sector_size, GPT);
        let scan = image.scan();
        assert_eq!(partitions(&scan), image.seen_by_fdisk());
        assert_eq!(scan.tables, [Some(TableKind::Gpt)]);
        assert!(scan.warnings.is_empty(), "{:?}", scan.warnings);
        assert_eq!(partitions(&scan)[0].name.as_deref(), Some("EFI system"));
        assert!(partitions(&scan)[1].bootable);
    }
}

#[test]
fn the_backup_gpt_is_used_when_the_primary_is_damaged() {
    for sector_size in [512, 4096] {
        let ss = u64::from(sector_size);
        // The signature, the header's checksum, its entry array.
        for at in [ss, ss + 60, 2 * ss + 3] {
            let image = Image::partitioned(64 * MIB, sector_size, GPT);
            let sound = partitions(&image.scan());
            image.poke(at, b"?");
            let scan = image.scan();
            assert_eq!(partitions(&scan), sound);
            assert_warns(&scan, "the backup in sector");
        }
        let image = Image::partitioned(64 * MIB, sector_size, GPT);
        let sound = partitions(&image.scan());
        image.poke(image.size() - ss + 20, b"?");
        let scan = image.scan();
        assert_eq!(partitions(&scan), sound);
        assert_warns(&scan, "the backup GPT header");
    }
}

#[test]
fn the_backup_is_found_where_the_disk_ended_before_it_grew() {
    let image = Image::partitioned(64 * MIB, 512, GPT);
    let sound = partitions(&image.scan());
    OpenOptions::new()
        .write(true)
        .open(&image.path)
        .unwrap()
        .set_len(100 * MIB)
        .unwrap();
    assert_eq!(partitions(&image.scan()), sound);
    image.poke(1024, b"?");
    let scan = image.scan();
    assert_eq!(partitions(&scan), sound);
    assert_warns(&scan, "the backup in sector 131071 is used");
}

#[test]
fn a_gpt_without_a_sound_copy_divides_into_nothing_and_says_so() {
    let image = Image::partitioned(64 * MIB, 512, GPT);
    image.poke(600, b"?");
    image.poke(image.size() - 512, b"?");
    let scan = image.scan();
    assert_eq!((scan.volumes.len(), scan.tables), (0, vec![Some(TableKind::Gpt)]));
    assert!(
        scan.warnings[0].contains("no partition is known"),
        "{:?}",
        scan.warnings
    );
}

#[test]
fn an_image_of_a_disk_with_4096_byte_sectors_is_recognised() {
    let image = Image::partitioned(64 * MIB, 4096, GPT);
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(&image.path).unwrap());
    assert_eq!(disk.sector_size(), 512);
    let scan = scan(&[disk]).unwrap();
    assert_eq!(partitions(&scan), image.seen_by_fdisk());
    assert_eq!(scan.volumes[0].disk.sector_size(), 4096);
    assert_warns(&scan, "sectors of 4096 bytes");
}

#[test]
fn a_hybrid_mbr_yields_the_gpt() {
    let image = Image::partitioned(64 * MIB, 512, GPT);
    let done = Command::new("sgdisk")
        .args(["--hybrid", "1:2"])
        .arg(&image.path)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let scan = image.scan();
    assert_eq!(scan.tables, [Some(TableKind::Gpt)]);
    assert_eq!(scan.volumes.len(), 3);
    assert_warns(&scan, "hybrid MBR");
}

#[test]
fn a_gpt_left_behind_by_a_new_mbr_is_not_used() {
    let image = Image::partitioned(64 * MIB, 512, GPT);
    let other = Image::partitioned(64 * MIB, 512, "label: dos\nsize=30MiB\n");
    image.poke(0, &std::fs::read(&other.path).unwrap()[..512]);
    let scan = image.scan();
    assert_eq!(scan.tables, [Some(TableKind::Mbr)]);
    assert_warns(&scan, "remainder");
    // And one whose protective MBR was wiped is.
    image.poke(0, &[0; 512]);
    let scan = image.scan();
    assert_eq!(
        (scan.tables.clone(), scan.volumes.len()),
        (vec![Some(TableKind::Gpt)], 3)
    );
    assert_warns(&scan, "without the protective MBR");
}

#[test]
fn sgdisk_tables_with_more_entries_are_read() {
    let image = Image::new(64 * MIB, 512);
    let done = Command::new("sgdisk")
        .args([
            "--resize-table=256",
            "--new=200:2048:+1M",
            "--new=3:8192:+4M",
            "--attributes=3:set:2",
        ])
        .arg(&image.path)
        .output()
        .unwrap();
    assert!(done.status.success(), "{done:?}");
    let scan = image.scan();
    assert_eq!(
        partitions(&scan).iter().map(|p| p.number).collect::<Vec<_>>(),
        [3, 200]
    );
    assert_eq!(partitions(&scan), image.seen_by_fdisk());
    assert!(scan.warnings.is_empty(), "{:?}", scan.warnings);
}

#[test]
fn a_filesystem_on_the_whole_disk_is_one_volume() {
    let commands: [&[&str]; 6] = [
        &["mkfs.fat", "-F", "12", "-s", "128"],
        &["mkfs.fat", "-F", "16"],
        &["mkfs.fat", "-F", "32"],
        &["mkfs.fat", "-F", "32", "-s", "1"],
        &["mkfs.ntfs", "-F", "-Q", "-q"],
        &["mkfs.ext4", "-q"],
    ];
    for command in commands {
        let image = Image::new(64 * MIB, 512);
        let (program, arguments) = command.split_first().unwrap();
        let done = Command::new(program)
            .args(arguments)
            .arg(&image.path)
            .output()
            .unwrap();
        assert!(done.status.success(), "{done:?}");
        let scan = image.scan();
        assert_eq!(scan.tables, [None], "{command:?}");
        assert_eq!(scan.volumes.len(), 1);
        assert_eq!(
            (scan.volumes[0].id.as_str(), scan.volumes[0].disk.size()),
            ("disk0", 64 * MIB)
        );
        assert!(scan.warnings.is_empty(), "{:?}", scan.warnings);
    }
}

#[test]
fn fat_boot_code_in_the_place_of_entries_is_not_a_table() {
    let image = Image::new(64 * MIB, 512);
    let done = Command::new("mkfs.fat").arg(&image.path).output().unwrap();
    assert!(done.status.success());
    // Flags that happen to be right, and text where addresses would be.
    for entry in 0..4 {
        image.poke(446 + 16 * entry, b"\0emove disks. Pr");
    }
    assert_eq!(image.scan().tables, [None]);
}

#[test]
fn a_table_behind_an_old_parameter_block_is_a_table() {
    let image = Image::new(64 * MIB, 512);
    assert!(
        Command::new("mkfs.fat")
            .arg(&image.path)
            .output()
            .unwrap()
            .status
            .success()
    );
    let boot_code = std::fs::read(&image.path).unwrap()[..440].to_vec();
    let image = Image::partitioned(64 * MIB, 512, DOS);
    image.poke(0, &boot_code);
    assert_eq!(partitions(&image.scan()), image.seen_by_fdisk());
}

fn entry(kind: u8, start: u32, sectors: u32) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..].copy_from_slice(&sectors.to_le_bytes());
    entry
}

/// A record with `entries` at `sector`.
fn record(image: &Image, sector: u64, entries: &[[u8; 16]]) {
    let mut bytes = [0; 512];
    for (slot, entry) in entries.iter().enumerate() {
        bytes[446 + 16 * slot..462 + 16 * slot].copy_from_slice(entry);
    }
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    image.poke(sector * 512, &bytes);
}

#[test]
fn a_chain_that_runs_in_a_circle_ends() {
    let image = Image::new(64 * MIB, 512);
    record(&image, 0, &[entry(5, 100, 100_000)]);
    record(&image, 100, &[entry(0x83, 10, 100), entry(5, 500, 1000)]);
    record(&image, 600, &[entry(0x83, 10, 100), entry(5, 0, 1000)]);
    let scan = image.scan();
    assert_eq!(
        partitions(&scan).iter().map(|p| p.number).collect::<Vec<_>>(),
        [5, 6]
    );
    assert_warns(&scan, "runs in a circle at sector 100");
    // Onto itself, with no partition at all.
    record(&image, 100, &[entry(5, 0, 1000)]);
    assert_warns(&image.scan(), "runs in a circle");
}

#[test]
fn an_endless_chain_of_empty_records_ends() {
    let image = Image::new(64 * MIB, 512);
    record(&image, 0, &[entry(5, 1, 100_000)]);
    for sector in 0..300_u32 {
        record(&image, u64::from(sector) + 1, &[entry(5, sector + 1, 1000)]);
    }
    assert_warns(&image.scan(), "has only empty records");
    for sector in 0..300_u32 {
        record(
            &image,
            u64::from(sector) + 1,
            &[entry(0x83, 1, 1), entry(5, sector + 1, 1000)],
        );
    }
    let scan = image.scan();
    assert_eq!(scan.volumes.len(), 252);
    assert_warns(&scan, "more partitions than Linux counts");
}

#[test]
fn partitions_past_the_end_are_cut_or_left_out_and_overlaps_are_said() {
    let image = Image::new(64 * MIB, 512);
    record(
        &image,
        0,
        &[
            entry(0x83, 2048, 40_960),
            entry(0x83, 100_000, u32::MAX),
            entry(0x83, u32::MAX, u32::MAX),
            entry(0x83, 4096, 8),
        ],
    );
    let scan = image.scan();
    let found: Vec<(u32, u64)> = partitions(&scan).iter().map(|p| (p.number, p.length)).collect();
    assert_eq!(found, [(1, 20 * MIB), (2, 64 * MIB - 51_200_000), (4, 4096)]);
    assert_warns(&scan, "partition 2 ends");
    assert_warns(&scan, "partition 3 begins at byte");
    assert_warns(&scan, "partitions 1 and 4 share");
}

#[test]
fn a_chain_that_leaves_the_disk_or_meets_rubbish_is_said() {
    let image = Image::new(64 * MIB, 512);
    record(&image, 0, &[entry(5, 100, 1000)]);
    record(&image, 100, &[entry(0x83, 10, 100), entry(5, u32::MAX, 1000)]);
    let scan = image.scan();
    assert_eq!(scan.volumes.len(), 1);
    assert_warns(&scan, "leaves the disk");
    record(&image, 100, &[entry(0x83, 10, 100), entry(5, 50, 1000)]);
    assert_warns(&image.scan(), "meets no extended boot record at sector 150");
    // An extended partition in which nothing was made yet.
    record(&image, 0, &[entry(0x0f, 200, 1000)]);
    let scan = image.scan();
    assert_eq!((scan.volumes.len(), scan.warnings.len()), (0, 0));
}

/// Header fields with the checksum mended, so that only the field itself can be to blame.
fn lie_in_the_header(image: &Image, at: usize, bytes: &[u8]) {
    let mut header = std::fs::read(&image.path).unwrap()[512..1024].to_vec();
    header[at..at + bytes.len()].copy_from_slice(bytes);
    header[16..20].fill(0);
    let size = u32::from_le_bytes(header[12..16].try_into().unwrap()) as usize;
    let checksum = crc32fast::hash(&header[..size.clamp(92, 512)]);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    image.poke(512, &header);
}

#[test]
fn a_lying_gpt_header_with_a_right_checksum_is_refused() {
    let lies: [(usize, &[u8], &str); 7] = [
        (12, &[91, 0, 0, 0], "claims 91 bytes"),
        (12, &[1, 2, 0, 0], "claims 513 bytes"),
        (24, &[2], "says that it lies in sector 2"),
        (80, &[0xff; 4], "claims an array of 4294967295 entries"),
        (84, &[0xff, 0, 0, 0], "entries of 255 bytes"),
        (84, &[0, 0, 0, 0x80], "entries of 2147483648 bytes"),
        (72, &[0xff; 8], "past the end"),
    ];
    for (at, bytes, text) in lies {
        let image = Image::partitioned(64 * MIB, 512, GPT);
        let sound = partitions(&image.scan());
        lie_in_the_header(&image, at, bytes);
        let scan = image.scan();
        assert_eq!(partitions(&scan), sound);
        assert_warns(&scan, text);
    }
}

#[test]
fn gpt_entries_that_make_no_sense_are_left_out_by_name() {
    let image = Image::partitioned(64 * MIB, 512, GPT);
    let mut array = std::fs::read(&image.path).unwrap()[1024..1024 + 16384].to_vec();
    array[32..48].copy_from_slice(&[0xff; 16]);
    array[128 + 40..128 + 48].copy_from_slice(&1_u64.to_le_bytes());
    array[256 + 40..256 + 48].copy_from_slice(&u64::MAX.to_le_bytes());
    image.poke(1024, &array);
    lie_in_the_header(&image, 88, &crc32fast::hash(&array).to_le_bytes());
    let scan = image.scan();
    assert_eq!(partitions(&scan).len(), 0);
    for number in 1..=3 {
        assert_warns(&scan, &format!("partition {number} claims the sectors"));
    }
}

#[test]
fn several_disks_keep_their_order_and_empty_ones_are_volumes() {
    let dos = Image::partitioned(64 * MIB, 512, DOS);
    let blank = Image::new(MIB, 512);
    let tiny = Image::new(100, 512);
    let open = |image: &Image| Arc::new(FileDisk::open(&image.path).unwrap()) as Arc<dyn Disk>;
    let scan = scan(&[open(&blank), open(&dos), open(&tiny)]).unwrap();
    assert_eq!(scan.tables, [None, Some(TableKind::Mbr), None]);
    let ids: Vec<&str> = scan.volumes.iter().map(|volume| volume.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "disk0", "disk1/p1", "disk1/p3", "disk1/p4", "disk1/p5", "disk1/p6", "disk1/p7", "disk2"
        ]
    );
    assert!(partitions(&scan).iter().all(|partition| partition.disk == 1));
    assert_eq!(scan.volumes[1].parents, ["disk1"]);
}

#[test]
fn tables_made_by_others_agree_with_fdisk() {
    let Some(samples) = std::env::var_os("REHOME_SAMPLES") else {
        eprintln!("skipped: REHOME_SAMPLES is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut judged = 0;
    for sample in Path::new(&samples).join("disk/util-linux-pt").read_dir().unwrap() {
        let sample = sample.unwrap().path();
        let path = folder.path().join(sample.file_stem().unwrap());
        let out = std::fs::File::create(&path).unwrap();
        let done = Command::new("xz")
            .arg("-dc")
            .arg(&sample)
            .stdout(out)
            .status()
            .unwrap();
        assert!(done.success());
        let scan = scan(&[Arc::new(FileDisk::open(&path).unwrap()) as Arc<dyn Disk>]).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        if ["dos+bsd.img", "gpt.img"].contains(&name) {
            assert_eq!(partitions(&scan), seen_by_fdisk(&path, 512), "{name}");
            judged += 1;
        } else {
            // Sun, SGI, Atari, BSD, DASD: tables that no guest of ours has; moved as they are.
            assert_eq!(scan.tables, [None], "{name}");
        }
    }
    assert_eq!(judged, 2);
}
