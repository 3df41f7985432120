//! Adding drivers to initramfs images: judged by depmod, modprobe and cpio.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use rehome::driver::{
    compression::Compression,
    initramfs::{self, AddedFile, AddedModule, Addition, Generator, Image, Node},
    modprobe::ModprobeConfig,
    module_index::{INDEX_FILES, IndexFiles, ModuleIndex},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const RELEASE: &str = "6.1.0-0-test";

/// Runs a shell script in `folder`; its output. Fails if it fails.
fn run(folder: &Path, script: &str) -> String {
    let output = Command::new("sh")
        .args(["-euc", script])
        .current_dir(folder)
        .env("LC_ALL", "C")
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A module as the C compiler makes it: (path without ".ko", lines of .modinfo, symbols given, symbols used).
type Source = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

const MODULES: &[Source] = &[
    (
        "kernel/drivers/virtio/virtio",
        &[],
        &["register_virtio_driver", "virtio_check"],
        &[],
    ),
    (
        "kernel/drivers/virtio/virtio_ring",
        &[],
        &["vring_new"],
        &["virtio_check"],
    ),
    (
        "kernel/drivers/virtio/virtio_pci",
        &["alias=pci:v00001AF4d*sv*sd*bc*sc*i*"],
        &[],
        &["register_virtio_driver", "vring_new"],
    ),
    (
        "kernel/drivers/block/virtio_blk",
        &["alias=virtio:d00000002v*", "firmware=blk.fw"],
        &[],
        &["register_virtio_driver", "vring_new"],
    ),
    (
        "kernel/drivers/net/net-failover",
        &[],
        &["net_failover_create"],
        &[],
    ),
    (
        "kernel/drivers/net/virtio_net",
        &[
            "alias=virtio:d00000001v*",
            "softdep=pre: crypto-test post: snd-late",
        ],
        &[],
        &["register_virtio_driver", "net_failover_create"],
    ),
    (
        "kernel/drivers/scsi/sd_mod",
        &["alias=scsi:t-0x00*", "alias=block-major-8-*"],
        &[],
        &[],
    ),
    (
        "kernel/crypto/test_one",
        &["alias=crypto-test", "alias=crypto-test"],
        &[],
        &[],
    ),
    (
        "kernel/crypto/test_two",
        &["alias=crypto-test", "alias=usb:v[0-9a-f]*-x"],
        &[],
        &[],
    ),
    (
        "kernel/sound/snd-late",
        &["alias=devname:snd/late", "alias=char-major-116-7"],
        &[],
        &[],
    ),
    (
        "kernel/fs/fuse",
        &["alias=devname:fuse", "alias=char-major-10-229"],
        &["zzz", "a_symbol"],
        &[],
    ),
];

/// `/lib/modules/RELEASE` of a guest, with indexes by depmod. `packing` is applied to every module ("xz").
fn guest(folder: &Path, packing: Option<(&str, &str)>) -> PathBuf {
    let tree = folder.join("lib/modules").join(RELEASE);
    for (path, info, given, used) in MODULES {
        let mut source = String::new();
        for (number, line) in info.iter().enumerate() {
            source += &format!(
                "static const char i{number}[] __attribute__((section(\".modinfo\"), used)) = \"{line}\";\n"
            );
        }
        let name = path.rsplit('/').next().unwrap().replace('-', "_");
        source += &format!(
            "static const char n[] __attribute__((section(\".modinfo\"), used)) = \"name={name}\";\n"
        );
        for symbol in *given {
            source += &format!("void {symbol}(void) {{}}\n");
            source += &format!(
                "const char __kstrtab_{symbol}[] __attribute__((section(\"__ksymtab_strings\"), used)) = \"{symbol}\";\n"
            );
            source += &format!(
                "const long __ksymtab_{symbol} __attribute__((section(\"__ksymtab\"), used)) = 1;\n"
            );
        }
        for symbol in *used {
            source += &format!("void {symbol}(void);\nvoid use_{symbol}(void) {{ {symbol}(); }}\n");
        }
        let file = tree.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(folder.join("m.c"), source).unwrap();
        run(
            folder,
            &format!("cc -c -O1 -fno-pic -o {}.ko m.c", file.display()),
        );
    }
    // An order that is not that of the alphabet.
    let order: String = MODULES
        .iter()
        .rev()
        .map(|(path, ..)| format!("{path}.ko\n"))
        .collect();
    fs::write(tree.join("modules.order"), order).unwrap();
    fs::write(
        tree.join("modules.builtin"),
        "kernel/drivers/ata/ahci-plain.ko\nkernel/lib/crc32.ko\nkernel/drivers/ata/libata.ko\n",
    )
    .unwrap();
    fs::write(
        tree.join("modules.builtin.modinfo"),
        b"libata.license=GPL\0libata.file=drivers/ata/libata\0ahci_plain.alias=pci:v*d*sv*sd*bc01sc06i01*\0\
          crc32.alias=crypto-crc32\0libata.alias=crypto-crc32\0",
    )
    .unwrap();
    run(folder, &format!("depmod -b {} {RELEASE}", folder.display()));
    if let Some((command, ending)) = packing {
        // Not every depmod can read every compression; the paths are all that differs.
        let pack =
            format!("find . -name '*.ko' | while read f; do {command} -q < $f > $f.{ending}; rm $f; done");
        run(
            &tree,
            &format!("{pack}; sed -i 's/[.]ko/.ko.{ending}/g' modules.dep"),
        );
    }
    tree
}

fn index(tree: &Path) -> ModuleIndex {
    let mut files = IndexFiles::default();
    for name in INDEX_FILES {
        if let Ok(contents) = fs::read(tree.join(name)) {
            files.insert(name, contents);
        }
    }
    ModuleIndex::new(files).unwrap()
}

fn read(image: &[u8]) -> Image {
    Image::read(image, &|_| false).unwrap()
}

/// The modules `names` with all they need, as files of the guest.
fn addition(tree: &Path, names: &[&str]) -> Addition {
    let index = index(tree);
    let closure = index.dependencies(names.iter().copied(), &ModprobeConfig::default());
    let modules = closure.load.iter().map(|name| {
        let path = index.module(name).unwrap().path.clone();
        let contents = fs::read(tree.join(&path)).unwrap();
        AddedModule { path, contents }
    });
    Addition {
        release: RELEASE.to_owned(),
        modules: modules.collect(),
        ..Addition::default()
    }
}

/// An initramfs as initramfs-tools lays it out, with some modules of the guest; the cpio archive.
fn archive(folder: &Path, tree: &Path, modules: &[&str]) -> Vec<u8> {
    let root = folder.join("root");
    let inside = root.join("usr/lib/modules").join(RELEASE);
    let modules: String = modules.iter().map(|name| format!("{name}.ko* ")).collect();
    run(
        folder,
        &format!(
            "umask 022; mkdir -p {inside} root/conf root/scripts/init-premount root/etc/modprobe.d; chmod 755 root; \
             chmod 750 root/etc; ln -s usr/lib root/lib; echo MODULES=list > root/conf/initramfs.conf; \
             printf 'first' > root/conf/modules; echo 'blacklist floppy' > root/etc/modprobe.d/a.conf; \
             cd {tree}; cp modules.order modules.builtin modules.builtin.modinfo {inside}; \
             for f in {modules}; do mkdir -p {inside}/$(dirname $f); cp $f {inside}/$f; done; \
             depmod -b {root} {RELEASE}",
            inside = inside.display(),
            tree = tree.display(),
            root = root.display(),
        ),
    );
    let cpio = run_bytes(&root, "find . | sort | cpio --quiet -R 0:0 -o -H newc");
    fs::remove_dir_all(&root).unwrap();
    cpio
}

fn run_bytes(folder: &Path, script: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    run(folder, &format!("{{ {script}; }} > {}", file.path().display()));
    fs::read(file.path()).unwrap()
}

/// Unpacks archives one over the other, as the kernel would with an image that is one after the other.
fn unpacked(folder: &Path, archives: &[&[u8]]) -> PathBuf {
    let root = folder.join("unpacked");
    fs::create_dir_all(&root).unwrap();
    for archive in archives {
        fs::write(folder.join("archive"), archive).unwrap();
        run(&root, "cpio --quiet -idmu --no-preserve-owner < ../archive");
    }
    root
}

#[test]
fn indexes_are_those_of_depmod() {
    for packing in [
        None,
        Some(("xz --check=crc32", "xz")),
        Some(("zstd", "zst")),
        Some(("gzip", "gz")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let tree = guest(folder.path(), packing);
        let mut held = vec![
            "kernel/drivers/scsi/sd_mod",
            "kernel/fs/fuse",
            "kernel/crypto/test_two",
        ];
        if packing.is_some_and(|(_, ending)| ending == "gz") {
            // Debian's kmod reads no gzip.
            held.clear();
        }
        let old = archive(folder.path(), &tree, &held);
        let image = read(&old);
        assert_eq!(image.generator(), Generator::InitramfsTools);
        assert_eq!(image.releases(), [RELEASE]);
        let addition = addition(&tree, &["virtio_pci", "virtio-blk", "virtio_net"]);
        let segment = initramfs::segment(&image, &index(&tree), &addition, 1_700_000_000).unwrap();
        assert_eq!(segment.remarks, Vec::<String>::new());
        let mut sorted = vec![
            "virtio",
            "virtio_ring",
            "virtio_pci",
            "virtio_blk",
            "test_one",
            "net_failover",
            "virtio_net",
            "snd_late",
        ];
        if held.is_empty() {
            sorted.push("test_two");
        }
        sorted.sort_unstable();
        let mut names = segment.modules.clone();
        names.sort();
        assert_eq!(names, sorted);

        let root = unpacked(folder.path(), &[&old, &segment.cpio]);
        let inside = root.join("lib/modules").join(RELEASE);
        let ours = folder.path().join("ours");
        run(
            folder.path(),
            &format!("mkdir ours; cp {}/modules.* ours", inside.display()),
        );
        // modprobe follows them, from the indexes alone.
        let modprobe = format!("modprobe -d {} -S {RELEASE} -C /dev/null", root.display());
        let shown = run(
            &root,
            &format!("{modprobe} --show-depends -a virtio_blk virtio-net"),
        );
        let shown: Vec<_> = shown
            .lines()
            .map(|line| line.rsplit('/').next().unwrap().trim())
            .collect();
        assert!(
            shown.contains(&"virtio_blk.ko") && shown.contains(&"net-failover.ko"),
            "{shown:?}"
        );
        assert_eq!(
            run(&root, &format!("{modprobe} -R virtio:d00000002v00001AF4")),
            "virtio_blk\n"
        );
        if !held.is_empty() {
            assert_eq!(run(&root, &format!("{modprobe} -R scsi:t-0x00")), "sd_mod\n");
        }
        // And depmod makes the same of what is there now.
        run(&root, &format!("depmod -b {} {RELEASE}", root.display()));
        for entry in fs::read_dir(&inside).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.starts_with("modules.") {
                continue;
            }
            let theirs = fs::read(inside.join(&name)).unwrap();
            let ours = fs::read(ours.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            if name == "modules.symbols" {
                // depmod writes them in the order of a hash table.
                let sorted = |bytes: &[u8]| {
                    let mut lines: Vec<_> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
                    lines.sort();
                    lines
                };
                assert_eq!(sorted(&ours), sorted(&theirs), "{name}");
            } else {
                assert!(
                    ours == theirs,
                    "{name} {packing:?}\n{}\n{}",
                    String::from_utf8_lossy(&ours),
                    String::from_utf8_lossy(&theirs)
                );
            }
        }
    }
}

/// The image after a segment was appended.
fn appended(old: &[u8], cpio: &[u8]) -> Vec<u8> {
    let appendix = initramfs::append(&read(old), cpio);
    let mut new = old[..appendix.keep as usize].to_vec();
    new.extend_from_slice(&appendix.bytes);
    new
}

const PACKERS: [(&str, Compression); 8] = [
    ("cat", Compression::None),
    ("gzip -n", Compression::Gzip),
    ("bzip2", Compression::Bzip2),
    ("xz --format=lzma", Compression::Lzma),
    ("xz --check=crc32", Compression::Xz),
    ("lzop", Compression::Lzo),
    ("lz4 -l", Compression::Lz4Legacy),
    ("zstd", Compression::Zstd),
];

#[test]
fn a_segment_follows_every_compression_and_early_segments_stay_first() {
    let folder = tempfile::tempdir().unwrap();
    let tree = guest(folder.path(), None);
    let main = archive(folder.path(), &tree, &["kernel/fs/fuse"]);
    fs::write(folder.path().join("main"), &main).unwrap();
    let early = run_bytes(
        folder.path(),
        "mkdir -p early/kernel/x86/microcode; cd early; printf abc > kernel/x86/microcode/GenuineIntel.bin; \
         find . | sort | cpio --quiet -o -H newc",
    );
    let guest_index = index(&tree);
    let addition = addition(&tree, &["virtio_blk"]);
    for (packer, compression) in PACKERS {
        let packed = run_bytes(folder.path(), &format!("{packer} < main"));
        let old = [&early[..], &packed].concat();
        let image = read(&old);
        assert_eq!(image.remarks, Vec::<String>::new());
        let kinds: Vec<_> = image.segments.iter().map(|segment| segment.compression).collect();
        assert_eq!(kinds, [Compression::None, compression]);
        assert_eq!(image.segments[1].offset, early.len() as u64);
        assert!(matches!(
            image.get("kernel/x86/microcode/GenuineIntel.bin"),
            Some(Node::File { size: 3, .. })
        ));

        let segment = initramfs::segment(&image, &guest_index, &addition, 5).unwrap();
        let new = appended(&old, &segment.cpio);
        assert!(new.starts_with(&early));
        let again = read(&new);
        assert_eq!(again.remarks, Vec::<String>::new(), "{packer}");
        let names: Vec<_> = again
            .modules(RELEASE)
            .into_iter()
            .map(|module| module.name)
            .collect();
        assert_eq!(names, ["fuse", "virtio", "virtio_blk", "virtio_ring"], "{packer}");
        let last = again.segments.last().unwrap();
        if compression == Compression::Lz4Legacy {
            // One stream for the kernel; for the tool too.
            assert_eq!(again.segments.len(), 2);
            fs::write(folder.path().join("lz4"), &new[early.len()..]).unwrap();
            let unpacked = run_bytes(folder.path(), "lz4 -dc < lz4");
            assert!(unpacked.starts_with(&main) && unpacked.ends_with(&segment.cpio));
            assert_eq!((unpacked.len() - segment.cpio.len()) % 4, 0);
        } else {
            assert_eq!(
                (last.offset % 4, last.compression),
                (0, Compression::None),
                "{packer}"
            );
            assert!(new[last.offset as usize..] == segment.cpio);
        }
        // What is there is not added again.
        let nothing = initramfs::segment(&again, &guest_index, &addition, 5).unwrap();
        assert!(nothing.is_empty());
    }
}

#[test]
fn folders_links_and_modes_of_the_image_stay() {
    let folder = tempfile::tempdir().unwrap();
    let tree = guest(folder.path(), None);
    let old = archive(folder.path(), &tree, &["kernel/fs/fuse"]);
    let mut addition = addition(&tree, &["virtio_blk"]);
    let file = |path: &str, contents: &str| AddedFile {
        path: path.to_owned(),
        permissions: 0o644,
        contents: contents.into(),
    };
    addition.files = vec![
        file("etc/systemd/network/10-lan.link", "[Match]\n"),
        file("/conf/initramfs.conf", "MODULES=dep\n"),
        file("lib/udev/rules.d/1.rules", ""),
    ];
    addition.load = vec!["virtio_blk".to_owned(), "first".to_owned()];
    let image = read(&old);
    let segment = initramfs::segment(&image, &index(&tree), &addition, 1_700_000_000).unwrap();
    assert_eq!(
        segment,
        initramfs::segment(&image, &index(&tree), &addition, 1_700_000_000).unwrap()
    );
    let root = unpacked(folder.path(), &[&old, &segment.cpio]);
    let script = "stat -c '%n %A %h %Y' lib etc etc/systemd etc/systemd/network/10-lan.link usr/lib/udev; \
                  cat conf/modules conf/initramfs.conf";
    let seen = run(&root, script);
    let lines: Vec<_> = seen.lines().collect();
    assert!(lines[0].starts_with("lib lrwxrwxrwx"), "{seen}");
    assert!(lines[1].starts_with("etc drwxr-x---"), "{seen}");
    assert!(lines[2].starts_with("etc/systemd drwxr-xr-x"), "{seen}");
    assert_eq!(
        lines[3],
        "etc/systemd/network/10-lan.link -rw-r--r-- 1 1700000000"
    );
    assert!(lines[4].starts_with("usr/lib/udev drwxr-xr-x"), "{seen}");
    assert_eq!(lines[5..], ["first", "virtio_blk", "MODULES=dep"]);
    // Exactly the folders that were missing have entries, each before what is in it, and numbers of their own.
    fs::write(folder.path().join("segment"), &segment.cpio).unwrap();
    let listed = run(folder.path(), "cpio -t --quiet < segment");
    let folders: Vec<_> = listed
        .lines()
        .filter(|name| !segment.paths.iter().any(|path| path == name.as_bytes()))
        .collect();
    let inside = format!("usr/lib/modules/{RELEASE}/kernel/drivers");
    let expected = [
        "etc/systemd".to_owned(),
        "etc/systemd/network".to_owned(),
        inside.clone(),
        format!("{inside}/block"),
        format!("{inside}/virtio"),
        "usr/lib/udev".to_owned(),
        "usr/lib/udev/rules.d".to_owned(),
    ];
    assert_eq!(folders, expected);

    addition.files = vec![file("etc/modprobe.d/a.conf/b", "")];
    let error = initramfs::segment(&image, &index(&tree), &addition, 0)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("etc/modprobe.d/a.conf is there and is no directory"),
        "{error}"
    );
    addition.files = vec![file("../etc/passwd", "")];
    let error = initramfs::segment(&image, &index(&tree), &addition, 0)
        .unwrap_err()
        .to_string();
    assert!(error.contains("../etc/passwd is no path"), "{error}");
}

/// A boot configuration as tools/bootconfig of Linux appends it.
fn bootconfig(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let (size, sum) = (
        bytes.len() as u32,
        bytes.iter().map(|b| u32::from(*b)).sum::<u32>(),
    );
    bytes.extend_from_slice(&size.to_le_bytes());
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(b"#BOOTCONFIG\n");
    bytes
}

#[test]
fn a_boot_configuration_stays_last() {
    let folder = tempfile::tempdir().unwrap();
    let tree = guest(folder.path(), None);
    let main = archive(folder.path(), &tree, &["kernel/fs/fuse"]);
    fs::write(folder.path().join("main"), &main).unwrap();
    let addition = addition(&tree, &["virtio_blk"]);
    let config = bootconfig("kernel.root = /dev/sda1\n");
    for packer in ["cat", "gzip -n", "lz4 -l", "zstd"] {
        let packed = run_bytes(folder.path(), &format!("{packer} < main"));
        for padding in [0, 2] {
            let old = [&packed[..], &config, &[0; 3][..padding]].concat();
            let segment = initramfs::segment(&read(&old), &index(&tree), &addition, 5).unwrap();
            let new = appended(&old, &segment.cpio);
            assert!(new.ends_with(&config), "{packer}");
            assert!(new.len() >= packed.len() + config.len() + 400);
            let again = read(&new);
            assert_eq!(again.modules(RELEASE).len(), 4, "{packer}");
            assert_eq!(again.remarks, Vec::<String>::new());
            assert!(initramfs::append(&again, b"").bytes.ends_with(&config));
        }
    }
    let mut damaged = [main, config].concat();
    let at = damaged.len() - 30;
    damaged[at] ^= 1;
    assert!(Image::read(&damaged[..], &|_| false).is_err());
}

#[test]
fn one_file_of_several_names_has_its_contents_under_each() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        "mkdir -p conf; echo text > conf/a; ln conf/a conf/b; ln conf/a c; find . | cpio --quiet -o -H newc";
    let archive = run_bytes(folder.path(), script);
    let image = read(&archive);
    assert_eq!(
        (image.contents("conf/a"), image.contents("conf/b")),
        (Some(&b"text\n"[..]), Some(&b"text\n"[..]))
    );
    for name in ["conf/a", "conf/b", "c"] {
        assert!(
            matches!(image.get(name), Some(Node::File { size: 5, .. })),
            "{name}"
        );
    }
}

#[test]
fn hostile_images_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let error = |script: &str| {
        let image = run_bytes(folder.path(), script);
        let error = Image::read(&image[..], &|_| false).err();
        error.map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(error("head -c 100000 /dev/zero").contains("no cpio archive"));
    assert!(error("echo this is no image").contains("neither a cpio archive"));
    run(folder.path(), "head -c 67108864 /dev/zero | zstd -q > zeros.zst");
    assert!(error("for i in $(seq 65); do cat zeros.zst; done").contains("which no initramfs has"));
    assert!(error("printf 0707010000").contains("ends within a header"));
    run(
        folder.path(),
        "mkdir -p d conf; echo > d/f; head -c 50000000 /dev/zero > conf/big",
    );
    assert!(
        error("find d | cpio --quiet -o -H newc | head -c 300").contains("byte 0 of the initramfs image")
    );
    assert!(error("find d | cpio --quiet -o -H newc | gzip | head -c 80").contains("its gzip segment"));
    assert!(
        error("{ echo conf; echo conf/big; } | cpio --quiet -o -H newc").contains("indexes and settings")
    );
    assert!(
        error("{ echo d | cpio --quiet -o -H newc; echo junk; } | xz")
            .contains("neither an archive nor zeros")
    );
}

#[test]
fn modules_are_loaded_in_the_order_of_modprobe() {
    let folder = tempfile::tempdir().unwrap();
    let tree = guest(folder.path(), None);
    let index = index(&tree);
    for module in index.modules() {
        let script = format!(
            "modprobe -d {} -S {RELEASE} -C /dev/null --show-depends {}",
            folder.path().display(),
            module.name
        );
        let mut theirs: Vec<String> = Vec::new();
        for line in run(folder.path(), &script).lines() {
            let file = line.trim().rsplit('/').next().unwrap();
            let name = file.split('.').next().unwrap().replace('-', "_");
            if !theirs.contains(&name) {
                theirs.push(name);
            }
        }
        let ours = index.dependencies([&*module.name], &ModprobeConfig::default());
        assert_eq!(ours.load, theirs, "{}", module.name);
    }
}
