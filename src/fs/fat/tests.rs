//! Judged by fsck.fat and mtools.

use super::{allocation_table::Link, *};
use crate::disk::FileDisk;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .env("MTOOLS_SKIP_CHECK", "1")
        .output();
    output.unwrap_or_else(|error| panic!("{program} must be installed: {error}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn must(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        text(&output)
    );
    text(&output)
}

/// An empty volume of `kib` KiB by mkfs.fat.
fn make(folder: &Path, name: &str, kib: u32, options: &[&str]) -> PathBuf {
    let path = folder.join(name);
    let size = kib.to_string();
    let mut arguments = vec!["--invariant", "-i", "abcd1234", "-n", "BOOT", "-C"];
    arguments.extend(options);
    let shown = path.to_str().unwrap().to_owned();
    arguments.extend([shown.as_str(), size.as_str()]);
    must("mkfs.fat", &arguments);
    path
}

fn open(path: &Path) -> FatFileSystem {
    let disk = FileDisk::open_writable(path).unwrap();
    FatFileSystem::open(Arc::new(disk)).unwrap().expect("FAT")
}

fn fsck(path: &Path) {
    let output = run("fsck.fat", &["-n", "-v", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
}

fn find(fat: &FatFileSystem, path: &str) -> Option<Node> {
    let mut node = fat.root();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        node = fat.lookup(node, name.as_bytes()).unwrap()?;
    }
    Some(node)
}

fn read(fat: &FatFileSystem, node: Node) -> Vec<u8> {
    let mut contents = Vec::new();
    let mut buffer = [0; 700];
    loop {
        let count = fat.read_at(node, contents.len() as u64, &mut buffer).unwrap();
        if count == 0 {
            return contents;
        }
        contents.extend_from_slice(&buffer[..count]);
    }
}

fn names(fat: &FatFileSystem, node: Node) -> Vec<String> {
    let mut names = Vec::new();
    fat.list(node, &mut |name, _| {
        names.push(String::from_utf8(name.to_vec()).unwrap());
        true
    })
    .unwrap();
    names
}

fn bytes(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|i| ((i * 7 + i / 251 + seed * 13) % 256) as u8)
        .collect()
}

const SHAPES: [(&str, u32, &[&str]); 7] = [
    ("fat12", 1440, &["-F", "12"]),
    ("fat12-pairs", 4000, &["-F", "12", "-s", "4"]),
    ("fat16", 16384, &["-F", "16"]),
    ("fat16-2048", 65536, &["-F", "16", "-S", "2048"]),
    ("fat32-small", 40960, &["-F", "32", "-s", "1"]),
    ("fat32-4096", 300_000, &["-F", "32", "-S", "4096"]),
    ("fat32-one-table", 70_000, &["-F", "32", "-f", "1"]),
];

#[test]
fn files_that_mtools_wrote_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::write(&source, bytes(100_000, 1)).unwrap();
    for (name, kib, options) in SHAPES {
        let path = make(folder.path(), name, kib, options);
        let image = path.to_str().unwrap();
        must(
            "mmd",
            &[
                "-i",
                image,
                "::/EFI",
                "::/EFI/debian",
                "::/EFI/Größe mit Leerzeichen",
            ],
        );
        for target in [
            "::/EFI/debian/shimx64.efi",
            "::/EFI/GRUB.EFI",
            "::/EFI/Größe mit Leerzeichen/Ein ganz langer Name.txt",
        ] {
            must("mcopy", &["-i", image, source.to_str().unwrap(), target]);
        }
        let fat = open(&path);
        let identity = fat.identity();
        assert_eq!(
            (
                &*identity.kind,
                identity.uuid.as_deref(),
                identity.label.as_deref()
            ),
            ("vfat", Some("ABCD-1234"), Some("BOOT")),
            "{name}"
        );
        let efi = find(&fat, "efi").unwrap();
        assert_eq!(
            names(&fat, efi),
            ["debian", "Größe mit Leerzeichen", "GRUB.EFI"],
            "{name}"
        );
        for file in [
            "EFI/Debian/SHIMX64.efi",
            "efi/grub.efi",
            "EFI/größe MIT leerzeichen/ein GANZ langer name.TXT",
        ] {
            let node = find(&fat, file).unwrap_or_else(|| panic!("{name}: {file}"));
            assert!(read(&fat, node) == bytes(100_000, 1), "{name}: {file}");
            assert_eq!(fat.attributes(node).unwrap().size, 100_000);
        }
        // Free space and data as mtools counts them.
        let free = must("mdir", &["-i", image, "::"]);
        let free: String = free
            .lines()
            .rev()
            .find(|l| l.contains("bytes free"))
            .unwrap()
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        assert_eq!(fat.free_bytes().unwrap().to_string(), free, "{name}");
        let mut runs = 0;
        fat.free(&mut |range| {
            runs += range.end - range.start;
            Ok(())
        })
        .unwrap();
        assert_eq!(runs, fat.free_bytes().unwrap());
    }
}

#[test]
fn what_is_written_is_clean_for_fsck_and_right_for_mtools() {
    let folder = tempfile::tempdir().unwrap();
    for (name, kib, options) in SHAPES {
        let path = make(folder.path(), name, kib, options);
        let image = path.to_str().unwrap();
        let mut fat = open(&path);
        let edit = fat.edit().unwrap();
        edit.set_clock(1_709_210_097);
        let efi = edit.create(edit.root(), b"EFI", mode::DIRECTORY | 0o755).unwrap();
        let boot = edit.create(efi, b"BOOT", mode::DIRECTORY | 0o755).unwrap();
        let deep = edit
            .create(boot, "Ein Ordner mit ß und 𝒰nicode".as_bytes(), mode::DIRECTORY)
            .unwrap();
        for (index, file) in [
            "BOOTX64.EFI",
            "grubx64.efi",
            "A rather long file name indeed.configuration",
        ]
        .iter()
        .enumerate()
        {
            let node = edit.create(boot, file.as_bytes(), mode::FILE | 0o644).unwrap();
            edit.replace(node, &mut &bytes(50_000 + index, index)[..])
                .unwrap();
            edit.append(node, &mut &bytes(3000, 9)[..]).unwrap();
        }
        for index in 0..60 {
            let node = edit
                .create(deep, format!("file number {index}").as_bytes(), mode::FILE)
                .unwrap();
            edit.replace(node, &mut &bytes(index * 10, index)[..]).unwrap();
        }
        for index in (0..60).step_by(3) {
            edit.remove(deep, format!("FILE number {index}").as_bytes())
                .unwrap();
        }
        let kept = edit.lookup(deep, b"file number 1").unwrap().unwrap();
        edit.rename((deep, b"file number 1"), (efi, b"moved away with a new name"))
            .unwrap();
        assert_eq!(
            edit.lookup(efi, b"Moved away with a new name").unwrap(),
            Some(kept)
        );
        edit.rename((deep, b"file number 2"), (deep, b"FILE Number 2"))
            .unwrap();
        edit.rename((boot, b"grubx64.efi"), (boot, b"BOOTX64.EFI"))
            .unwrap();
        edit.rename(
            (boot, "Ein Ordner mit ß und 𝒰nicode".as_bytes()),
            (edit.root(), b"up"),
        )
        .unwrap();
        edit.commit().unwrap();
        fsck(&path);
        must(
            "mcopy",
            &[
                "-i",
                image,
                "-n",
                "::/EFI/BOOT/BOOTX64.EFI",
                folder.path().join("out").to_str().unwrap(),
            ],
        );
        let mut expected = bytes(50_001, 1);
        expected.extend(bytes(3000, 9));
        assert!(
            std::fs::read(folder.path().join("out")).unwrap() == expected,
            "{name}"
        );
        std::fs::remove_file(folder.path().join("out")).unwrap();
        let listed = must("mdir", &["-i", image, "::/up"]);
        assert!(
            listed.contains("FILE Number 2") && listed.contains("41 files"),
            "{name}: {listed}"
        );
        assert!(listed.contains("2024-02-29  12:34"), "{listed}");
        let listed = must("mdir", &["-i", image, "::/EFI"]);
        assert!(
            listed.contains("MOVEDA~1") && listed.contains("moved away with a new name"),
            "{listed}"
        );
        // A fresh look sees the same.
        let fat = open(&path);
        let node = find(&fat, "EFI/moved away with a new name").unwrap();
        assert_eq!(read(&fat, node), bytes(10, 1));
        assert_eq!(
            fat.attributes(node).unwrap().modified,
            Some(1_709_210_096_000_000_000)
        );
    }
}

#[test]
fn what_fat_cannot_do_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path(), "f", 1440, &[]);
    let mut fat = open(&path);
    let edit = fat.edit().unwrap();
    let root = edit.root();
    let file = edit.create(root, b"file", mode::FILE).unwrap();
    let folder = edit.create(root, b"folder", mode::DIRECTORY).unwrap();
    let inner = edit.create(folder, b"inner", mode::DIRECTORY).unwrap();
    let said = |result: Result<()>| result.unwrap_err().to_string();
    assert!(said(edit.link(file, root, b"x")).contains("hard links"));
    assert!(said(edit.create(root, b"x", mode::LINK).map(drop)).contains("symbolic links"));
    assert!(said(edit.set_extended(file, b"user.a", Some(b"b"))).contains("extended attributes"));
    let mode = Attributes {
        mode: Some(0o600),
        ..Attributes::default()
    };
    assert!(said(edit.set_attributes(file, &mode)).contains("modes"));
    let owner = Attributes {
        owner: Some((0, 0)),
        mode: Some(0o644),
        ..Attributes::default()
    };
    edit.set_attributes(file, &owner).unwrap();
    assert_eq!(
        edit.create(root, b"FILE", mode::FILE).unwrap_err().kind,
        Kind::Exists
    );
    assert_eq!(edit.remove(root, b"folder").unwrap_err().kind, Kind::Exists);
    assert!(said(edit.rename((root, b"folder"), (inner, b"x"))).contains("into itself"));
    assert!(edit.rename((root, b"folder"), (root, b"file")).is_err());
    assert!(edit.rename((root, b"file"), (root, b"folder")).is_err());
    assert!(edit.create(root, b"a:b", mode::FILE).is_err());
    let full = edit.replace(file, &mut std::io::repeat(7)).unwrap_err();
    assert_eq!(full.kind, Kind::Full);
    edit.remove(root, b"file").unwrap();
    assert_eq!(
        edit.replace(file, &mut &b"x"[..]).unwrap_err().kind,
        Kind::NotFound
    );
    edit.commit().unwrap();
    fsck(&path);
}

#[test]
fn a_volume_that_was_left_mounted_is_checked_and_then_clean() {
    let folder = tempfile::tempdir().unwrap();
    for (name, kib, options) in [SHAPES[2], SHAPES[4]] {
        let path = make(folder.path(), name, kib, options);
        let disk = FileDisk::open_writable(&path).unwrap();
        let fat = open(&path);
        disk.write_at(fat.boot.state, &[1]).unwrap();
        // A lost chain of two clusters, as a crash leaves it.
        fat.table.set(100, Link::Next(101)).unwrap();
        fat.table.set(101, Link::End).unwrap();
        fat.table
            .set_raw(1, fat.table.raw(1).unwrap() & 0x07ff_7fff)
            .unwrap();
        fat.table.flush().unwrap();
        assert!(!run("fsck.fat", &["-n", path.to_str().unwrap()]).status.success());
        let mut fat = open(&path);
        fat.edit().unwrap().commit().unwrap();
        assert_eq!(fat.recovered().len(), 2, "{:?}", fat.recovered());
        fsck(&path);
    }
}

#[test]
fn damage_is_never_edited() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::write(&source, bytes(5000, 1)).unwrap();
    type Harm = fn(&FatFileSystem, u32, u32);
    let damage: [(&str, Harm); 6] = [
        ("loop", |fat, a, _| {
            let second = fat.next(a).unwrap().unwrap();
            fat.table.set(second, Link::Next(a)).unwrap();
        }),
        ("cross-link", |fat, a, b| fat.table.set(a, Link::Next(b)).unwrap()),
        ("into nowhere", |fat, a, _| {
            fat.table.set(a, Link::Next(0x0fff_0000)).unwrap();
        }),
        ("into free space", |fat, a, _| {
            fat.table.set(a, Link::Free).unwrap()
        }),
        ("too short", |fat, a, _| fat.table.set(a, Link::End).unwrap()),
        ("tables differ", |fat, _, _| {
            let second = fat.boot.table_start + fat.boot.table_length;
            fat.disk.write_at(second + 40, &[9, 9]).unwrap();
        }),
    ];
    for (name, harm) in damage {
        let path = make(folder.path(), name, 70_000, &["-F", "32"]);
        let image = path.to_str().unwrap();
        for target in ["::/a", "::/b"] {
            must("mcopy", &["-i", image, source.to_str().unwrap(), target]);
        }
        let fat = open(&path);
        let cluster = |file| fat.entry(find(&fat, file).unwrap()).unwrap().cluster;
        harm(&fat, cluster("a"), cluster("b"));
        fat.table.flush().unwrap();
        let before = std::fs::read(&path).unwrap();
        let mut fat = open(&path);
        let error = fat.edit().map(drop).unwrap_err();
        assert_eq!(error.kind, Kind::Unsafe, "{name}: {error}");
        assert!(error.to_string().contains("fsck.fat"), "{error}");
        if name != "tables differ" {
            fat.free(&mut |range| panic!("{name}: {range:?} is not known to be free"))
                .unwrap();
        }
        let mut buffer = vec![0; 6000];
        let node = find(&fat, "a").unwrap();
        let _ = fat.read_at(node, 0, &mut buffer);
        assert!(std::fs::read(&path).unwrap() == before, "{name}");
    }
}

#[test]
fn other_things_are_not_taken_for_fat() {
    let none = |bytes: Vec<u8>| {
        let disk = crate::disk::MemoryDisk::new("m", bytes);
        FatFileSystem::open(Arc::new(disk)).unwrap().is_none()
    };
    let mut ntfs = vec![0; 8192];
    ntfs[..11].copy_from_slice(b"\xeb\x52\x90NTFS    ");
    ntfs[11..14].copy_from_slice(&[0, 2, 8]);
    ntfs[21] = 0xf8;
    ntfs[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert!(none(ntfs.clone()));
    ntfs[3..11].copy_from_slice(b"EXFAT   ");
    assert!(none(ntfs));
    let mut mbr = vec![0x90; 8192];
    mbr[0] = 0xeb;
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert!(none(mbr));
    assert!(none(vec![0; 100]) && none(vec![0; 8192]));
}

#[test]
fn a_truncated_image_and_lying_boot_sectors_are_errors_not_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = make(folder.path(), "f", 1200, &["-F", "32", "-s", "1"]);
    let whole = std::fs::read(&path).unwrap();
    let try_open = |bytes: Vec<u8>| {
        let disk: Arc<dyn Disk> = Arc::new(crate::disk::MemoryDisk::new("m", bytes));
        if let Ok(Some(mut fat)) = FatFileSystem::open(disk) {
            let _ = fat.free(&mut |_| Ok(()));
            let _ = fat.data_runs(&mut |_, _| Ok(()));
            let _ = fat.edit().map(drop);
        }
    };
    let mut half = whole.clone();
    half.truncate(whole.len() / 2);
    let disk = crate::disk::MemoryDisk::new("half.img", half);
    let error = FatFileSystem::open(Arc::new(disk)).unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
    for at in 11..90 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            try_open(bytes);
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Create(u8),
    Directory(u8),
    Replace(u8, u16),
    Append(u8, u16),
    Remove(u8),
    Rename(u8, u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => any::<u8>().prop_map(Action::Create),
        1 => any::<u8>().prop_map(Action::Directory),
        4 => (any::<u8>(), 0..20_000_u16).prop_map(|(a, n)| Action::Replace(a, n)),
        3 => (any::<u8>(), 0..9_000_u16).prop_map(|(a, n)| Action::Append(a, n)),
        2 => any::<u8>().prop_map(Action::Remove),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(a, b)| Action::Rename(a, b)),
    ]
}

/// One of 24 names in one of 3 directories.
fn place(number: u8) -> (usize, String) {
    let directory = usize::from(number % 3);
    let index = number / 3 % 24;
    let name = match index % 4 {
        0 => format!("FILE{index}.TXT"),
        1 => format!("file{index}.txt"),
        2 => format!("A long name that needs slots {index}"),
        _ => format!("Ünïcode {index}.configuration"),
    };
    (directory, name)
}

fn play(path: &Path, actions: &[Action]) {
    let mut fat = open(path);
    let edit = fat.edit().unwrap();
    edit.set_clock(1_700_000_000);
    let root = edit.root();
    let second = edit.create(root, b"sub", mode::DIRECTORY).unwrap();
    let third = edit
        .create(second, b"another directory", mode::DIRECTORY)
        .unwrap();
    let directories = [root, second, third];
    // None: a directory.
    let mut model: BTreeMap<(usize, String), Option<Vec<u8>>> = BTreeMap::new();
    for (seed, action) in actions.iter().enumerate() {
        match action {
            Action::Create(a) | Action::Directory(a) => {
                let (place, name) = (place(*a), place(*a).1);
                let file = matches!(action, Action::Create(_));
                let kind = if file { mode::FILE } else { mode::DIRECTORY };
                let made = edit.create(directories[place.0], name.as_bytes(), kind);
                assert_eq!(made.is_ok(), !model.contains_key(&place), "{action:?}");
                model.entry(place).or_insert(file.then(Vec::new));
            }
            Action::Replace(a, length) | Action::Append(a, length) => {
                let place = place(*a);
                let node = edit.lookup(directories[place.0], place.1.as_bytes()).unwrap();
                if let (Some(node), Some(Some(contents))) = (node, model.get_mut(&place)) {
                    let new = bytes(usize::from(*length), seed);
                    if matches!(action, Action::Replace(..)) {
                        edit.replace(node, &mut &new[..]).unwrap();
                        contents.clear();
                    } else {
                        edit.append(node, &mut &new[..]).unwrap();
                    }
                    contents.extend(new);
                }
            }
            Action::Remove(a) => {
                let place = place(*a);
                let done = edit.remove(directories[place.0], place.1.as_bytes());
                assert_eq!(done.is_ok(), model.remove(&place).is_some());
            }
            Action::Rename(a, b) => {
                let (from, to) = (place(*a), place(*b));
                let done = edit.rename(
                    (directories[from.0], from.1.as_bytes()),
                    (directories[to.0], to.1.as_bytes()),
                );
                let fits = match (model.get(&from), model.get(&to)) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some(a), Some(b)) => a.is_some() == b.is_some(),
                };
                assert_eq!(done.is_ok(), fits, "{from:?} {to:?} {done:?}");
                if fits {
                    let moved = model.remove(&from).unwrap();
                    model.insert(to, moved);
                }
            }
        }
    }
    edit.commit().unwrap();
    fsck(path);
    let fat = open(path);
    let mut seen = 0;
    for (index, directory) in ["", "sub", "sub/another directory"].iter().enumerate() {
        let node = find(&fat, directory).unwrap();
        for name in names(&fat, node) {
            if name == "sub" || name == "another directory" {
                continue;
            }
            let expected = &model[&(index, name.clone())];
            let node = fat.lookup(node, name.as_bytes()).unwrap().unwrap();
            if let Some(expected) = expected {
                assert!(&read(&fat, node) == expected, "{name}");
            } else {
                assert!(fat.attributes(node).unwrap().is_directory());
            }
            seen += 1;
        }
    }
    assert_eq!(seen, model.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_edits_leave_a_clean_volume(shape in 0..SHAPES.len(), actions in prop::collection::vec(action(), 1..150)) {
        let folder = tempfile::tempdir().unwrap();
        let (name, kib, options) = SHAPES[shape];
        play(&make(folder.path(), name, kib.max(4000), options), &actions);
    }
}

/// Writes what `xxd` showed of an image to `path`.
fn from_xxd(listing: &str, path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    for line in listing.lines() {
        // A star stands for more zeros.
        let Some((offset, rest)) = line.split_once(": ") else {
            continue;
        };
        let offset = u64::from_str_radix(offset, 16).unwrap();
        let digits: Vec<u8> = rest
            .split("  ")
            .next()
            .unwrap()
            .bytes()
            .filter(u8::is_ascii_hexdigit)
            .collect();
        let bytes: Vec<u8> = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        file.write_all_at(&bytes, offset).unwrap();
    }
}

#[test]
fn the_reference_images_of_dosfstools_can_be_edited() {
    let Some(samples) = std::env::var_os("REHOME_SAMPLES").map(PathBuf::from) else {
        eprintln!("skipped: REHOME_SAMPLES is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let mut seen = 0;
    for entry in samples.join("fs/dosfstools").read_dir().unwrap() {
        let sample = entry.unwrap().path();
        from_xxd(&std::fs::read_to_string(&sample).unwrap(), &path);
        let clean = run("fsck.fat", &["-n", path.to_str().unwrap()]).status.success();
        let before = std::fs::metadata(&path).unwrap().len();
        let disk = FileDisk::open_writable(&path).unwrap();
        let mut fat = FatFileSystem::open(Arc::new(disk))
            .unwrap_or_else(|e| panic!("{sample:?}: {e}"))
            .unwrap();
        let free = fat.free_bytes().unwrap();
        match fat.edit() {
            Ok(edit) => {
                let node = edit
                    .create(edit.root(), b"a new file of ours.txt", mode::FILE)
                    .unwrap();
                edit.replace(node, &mut &bytes(10_000.min(free as usize), 1)[..])
                    .unwrap();
                edit.commit().unwrap();
                if clean {
                    fsck(&path);
                }
                seen += 1;
            }
            Err(error) => assert!(
                !clean && error.to_string().contains("fsck.fat"),
                "{sample:?}: {error}"
            ),
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), before);
    }
    assert!(seen > 30, "{seen}");
}

/// A small volume with some files, in memory.
fn small_image(folder: &Path, options: &[&str], kib: u32) -> Vec<u8> {
    let path = make(folder, &format!("small-{}", options[1]), kib, options);
    let mut fat = open(&path);
    let edit = fat.edit().unwrap();
    let sub = edit
        .create(edit.root(), b"a directory with a long name", mode::DIRECTORY)
        .unwrap();
    for index in 0..6 {
        let node = edit
            .create(sub, format!("some file {index}").as_bytes(), mode::FILE)
            .unwrap();
        edit.replace(node, &mut &bytes(index * 900, index)[..]).unwrap();
    }
    edit.commit().unwrap();
    std::fs::read(path).unwrap()
}

/// Everything that can be done to a volume, whatever it says.
fn exercise(bytes: Vec<u8>) -> bool {
    let disk: Arc<dyn Disk> = Arc::new(crate::disk::MemoryDisk::new("noise", bytes));
    let Ok(Some(mut fat)) = FatFileSystem::open(disk) else {
        return false;
    };
    let mut waiting = vec![fat.root()];
    let mut buffer = [0; 3000];
    for _ in 0..40 {
        let Some(node) = waiting.pop() else { break };
        let _ = fat.list(node, &mut |_, node| {
            waiting.push(node);
            true
        });
        let _ = fat.attributes(node);
        let _ = fat.read_at(node, 100, &mut buffer);
    }
    let _ = fat.free(&mut |_| Ok(()));
    let _ = fat.data_runs(&mut |_, _| Ok(()));
    let Ok(edit) = fat.edit() else { return false };
    let root = edit.root();
    let made = edit.create(root, b"Another long name", mode::FILE);
    let _ = made.and_then(|node| edit.replace(node, &mut &[7; 5000][..]));
    if let Ok(Some(sub)) = edit.lookup(root, b"a directory with a long name") {
        let _ = edit.rename((sub, b"some file 3"), (root, b"moved"));
        let _ = edit.remove(sub, b"some file 4");
        let made = edit.create(sub, b"deeper", mode::DIRECTORY);
        let _ = made.and_then(|node| edit.create(node, b"x", mode::FILE));
        let _ = edit.rename((root, b"a directory with a long name"), (root, b"b"));
    }
    edit.commit().is_ok()
}

#[test]
fn noise_ends_in_an_error_or_in_an_edit_and_never_in_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut seed = 1_u32;
    let mut next = || {
        // Marsaglia's xorshift.
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed as usize
    };
    for (options, kib) in [
        (&["-F", "12"][..], 320),
        (&["-F", "16", "-s", "1"][..], 4400),
        (&["-F", "32", "-s", "1"][..], 320),
    ] {
        let whole = small_image(folder.path(), options, kib);
        let disk: Arc<dyn Disk> = Arc::new(crate::disk::MemoryDisk::new("m", whole.clone()));
        let boot = FatFileSystem::open(disk).unwrap().unwrap().boot;
        // The boot sector, the table, the directories.
        let places = [
            (0, 90),
            (boot.table_start, 80),
            (boot.table_start + boot.table_length, 80),
            (boot.fixed_root.start.max(512), 200),
            (boot.data_start, 2000),
        ];
        let (mut good, mut bad) = (0, 0);
        for _ in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..=next() % 2 {
                let (start, length) = places[next() % places.len()];
                let at = start as usize + next() % length;
                bytes[at] = [0, 1, 5, 0xe5, 0x7f, 0x80, 0xff, next() as u8][next() % 8];
            }
            if exercise(bytes) { good += 1 } else { bad += 1 }
        }
        assert!(good > 20 && bad > 20, "{good} {bad}");
    }
}
