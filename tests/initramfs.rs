//! Adding drivers to initramfs images: judged by depmod and modprobe, by cpio and by the tools of initramfs-tools.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use rehome::driver::{
    initramfs::{self, AddedModule, Addition, Generator, Image},
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
