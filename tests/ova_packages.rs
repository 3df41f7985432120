//! OVA archives and OVF folders as sources, packed by tar, gzip, split and sha*sum.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod small_guest;

use rehome::{
    disk::{Disk, FileDisk, Kind, Result},
    image::{self, Beside, Format, ova::Package},
    locator::{Locator, OpenSource, Reading, open_one, open_source},
    watch::Unwatched,
};
use small_guest::{disk, rehome_ends, run};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};
use tempfile::TempDir;

const SIZE: usize = 3 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder in which a package is put together.
struct Maker {
    folder: TempDir,
    references: String,
    disks: String,
    items: String,
    /// Names of the files, in the order of the references.
    files: Vec<String>,
}

impl Maker {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            references: String::new(),
            disks: String::new(),
            items: String::new(),
            files: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a disk: files of these names, `href` as the descriptor calls them.
    fn disk(&mut self, href: &str, files: &[String], attributes: &str, format: &str) {
        let number = self.disks.lines().count();
        self.files.extend(files.iter().cloned());
        self.references += &format!("<File ovf:id='f{number}' ovf:href='{href}' {attributes}/>\n");
        self.disks += &format!(
            "<Disk ovf:diskId='d{number}' ovf:fileRef='f{number}' ovf:capacity='{SIZE}' ovf:format='{format}'/>\n"
        );
        self.items += &format!(
            "<Item><rasd:InstanceID>{}</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType>\
             <rasd:HostResource>ovf:/disk/d{number}</rasd:HostResource></Item>\n",
            number + 10
        );
    }

    fn descriptor(&self) {
        let text = format!(
            "<?xml version='1.0'?>\n<Envelope xmlns='http://schemas.dmtf.org/ovf/envelope/1' \
             xmlns:ovf='http://schemas.dmtf.org/ovf/envelope/1' xmlns:vmw='http://www.vmware.com/schema/ovf' \
             xmlns:rasd='http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData'>\n\
             <References>{}</References><DiskSection><Info/>{}</DiskSection><VirtualSystem ovf:id='server'><Info/>\
             <VirtualHardwareSection><Info/><Item><rasd:ResourceType>3</rasd:ResourceType>\
             <rasd:VirtualQuantity>3</rasd:VirtualQuantity></Item><Item><rasd:ResourceType>4</rasd:ResourceType>\
             <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:VirtualQuantity>768</rasd:VirtualQuantity></Item>\
             {}<vmw:Config vmw:key='firmware' vmw:value='efi'/></VirtualHardwareSection></VirtualSystem></Envelope>\n",
            self.references, self.disks, self.items
        );
        fs::write(self.path("server.ovf"), text).unwrap();
    }

    /// A manifest by `program` ("sha256sum"), in the form of VMware or of VirtualBox.
    fn manifest(&self, program: &str) {
        let mut manifest = String::new();
        for name in std::iter::once("server.ovf").chain(self.files.iter().map(String::as_str)) {
            let output = run(Command::new(program).arg(name).current_dir(self.folder.path()));
            let digest = output.split_ascii_whitespace().next().unwrap();
            let algorithm = program.trim_end_matches("sum").to_uppercase();
            let space = if self.files.len().is_multiple_of(2) {
                " "
            } else {
                ""
            };
            manifest += &format!("{algorithm}{space}({name})= {digest}\n");
        }
        fs::write(self.path("server.mf"), manifest).unwrap();
    }

    /// Packs the descriptor, the manifest if there is one, and the disks.
    fn pack(&self, options: &[&str]) -> PathBuf {
        let archive = self.path("server.ova");
        let mut command = Command::new("tar");
        command.args(options).arg("-cf").arg(&archive).arg("server.ovf");
        command.args(&self.files);
        if self.path("server.mf").exists() {
            command.arg("server.mf");
        }
        run(command.current_dir(self.folder.path()));
        archive
    }
}

fn pattern(seed: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SIZE).map(|at| (at / 97 % 200) as u8 ^ seed).collect();
    bytes[1 << 20..2 << 20].fill(0);
    bytes
}

const VMDK: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";
const QCOW2: &str = "http://www.gnome.org/~markmc/qcow-image-format.html";

/// A package with disks in every wrapping: raw, qcow2 under its own and another's name, gzip, chunks, both,
/// and other formats.
fn of_all_kinds() -> (Maker, Vec<Vec<u8>>) {
    let mut maker = Maker::new();
    let contents: Vec<Vec<u8>> = (1..=10).map(pattern).collect();
    let name = |number: usize, suffix: &str| format!("server-disk{number}{suffix}");
    for (number, bytes) in contents.iter().enumerate() {
        fs::write(maker.path(&name(number, ".raw")), bytes).unwrap();
    }
    let size = |maker: &Maker, name: &str| {
        let size = fs::metadata(maker.path(name)).unwrap().len();
        format!("ovf:size='{size}'")
    };
    let attributes = size(&maker, &name(0, ".raw"));
    maker.disk(&name(0, ".raw"), &[name(0, ".raw")], &attributes, "");
    for (number, format) in [(1, QCOW2), (2, VMDK)] {
        let image = name(number, " %.qcow2");
        run(Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "qcow2"])
            .arg(maker.path(&name(number, ".raw")))
            .arg(maker.path(&image)));
        // A reference is a URI, and some makers know that.
        let href = if number == 1 {
            image.replace(' ', "%20")
        } else {
            image.clone()
        };
        maker.disk(&href, &[image], "", format);
    }
    for number in [3, 5] {
        run(Command::new("gzip")
            .arg("-k")
            .arg(maker.path(&name(number, ".raw"))));
    }
    let packed = name(3, ".raw.gz");
    let attributes = format!("{} ovf:compression='gzip'", size(&maker, &packed));
    maker.disk(&packed, std::slice::from_ref(&packed), &attributes, "");
    for (number, href, chunk) in [(4, name(4, ".raw"), 1_000_000), (5, name(5, ".raw.gz"), 3000)] {
        let whole = fs::read(maker.path(&href)).unwrap();
        let chunks: Vec<String> = whole
            .chunks(chunk)
            .enumerate()
            .map(|(index, bytes)| {
                let chunk = format!("{href}.{index:09}");
                fs::write(maker.path(&chunk), bytes).unwrap();
                chunk
            })
            .collect();
        assert!(chunks.len() > 2);
        let compression = if number == 5 { "ovf:compression='gzip'" } else { "" };
        let attributes = format!("{} ovf:chunkSize='{chunk}' {compression}", size(&maker, &href));
        maker.disk(&href, &chunks, &attributes, "");
        fs::remove_file(maker.path(&href)).unwrap();
    }
    for (number, format, options, uri) in [
        (6, "vmdk", "subformat=streamOptimized", VMDK),
        (
            7,
            "vpc",
            "force_size=on",
            "http://go.microsoft.com/fwlink/?LinkId=137171",
        ),
        (8, "vhdx", "subformat=dynamic", ""),
        (9, "vdi", "static=off", "http://example.com/vdi"),
    ] {
        let image = name(number, &format!(".{format}"));
        run(Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", format, "-o", options])
            .arg(maker.path(&name(number, ".raw")))
            .arg(maker.path(&image)));
        maker.disk(&image, std::slice::from_ref(&image), "", uri);
    }
    maker.descriptor();
    (maker, contents)
}

fn reading(folder: &Path) -> Reading {
    Reading {
        temporary_folder: folder.to_owned(),
        ..Reading::default()
    }
}

fn open(path: &Path) -> Result<OpenSource> {
    open_source(
        &Locator::Path(path.to_owned()),
        &reading(&std::env::temp_dir()),
        &Unwatched,
    )
}

fn read_all(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(disk.size()).unwrap()];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

fn holds(source: &OpenSource, contents: &[Vec<u8>]) {
    assert_eq!(source.disks.len(), contents.len());
    for (disk, expected) in source.disks.iter().zip(contents) {
        assert!(read_all(&**disk) == *expected, "{}", disk.label());
    }
}

#[test]
fn every_disk_of_a_package_is_read_and_its_manifest_compared() {
    let (maker, contents) = of_all_kinds();
    for (program, format) in [
        ("sha1sum", "gnu"),
        ("sha256sum", "ustar"),
        ("sha384sum", "oldgnu"),
        ("sha512sum", "pax"),
    ] {
        maker.manifest(program);
        let archive = maker.pack(&["--format", format]);
        assert_eq!(
            image::detect(&FileDisk::open(&archive).unwrap()).unwrap(),
            Format::Ova
        );
        let source = open(&archive).unwrap();
        holds(&source, &contents);
        let package = source.package.unwrap();
        assert!(package.verify(&Unwatched).unwrap());
        assert!(package.bytes_to_verify() > 2 * SIZE as u64);
    }
    let descriptor = maker.path("server.ovf");
    assert_eq!(
        image::detect(&FileDisk::open(&descriptor).unwrap()).unwrap(),
        Format::Ovf
    );
    let source = open(&descriptor).unwrap();
    holds(&source, &contents);
    assert!(source.package.unwrap().verify(&Unwatched).unwrap());
    fs::remove_file(maker.path("server.mf")).unwrap();
    let source = open(&maker.pack(&[])).unwrap();
    assert!(!source.package.unwrap().verify(&Unwatched).unwrap());
    // Nothing is left where disks were unpacked.
    let folder = tempfile::tempdir().unwrap();
    let locator = Locator::Path(maker.path("server.ova"));
    drop(open_source(&locator, &reading(folder.path()), &Unwatched).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let error = open_one(&locator, &reading(folder.path()), &Unwatched).unwrap_err();
    assert!(
        error.to_string().contains("holds 10 disks (server-disk0.raw, "),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_as_the_manifest_says_is_named() {
    let (maker, _) = of_all_kinds();
    maker.manifest("sha256sum");
    let victim = "server-disk4.raw.000000001";
    let path = maker.path(victim);
    let mut bytes = fs::read(&path).unwrap();
    bytes[77] ^= 1;
    fs::write(&path, bytes).unwrap();
    for source in [open(&maker.pack(&[])), open(&maker.path("server.ovf"))] {
        let package = source.unwrap().package.unwrap();
        let error = package.verify(&Unwatched).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(
            error
                .to_string()
                .contains(&format!("the SHA256 digest of \"{victim}\" is")),
            "{error}"
        );
    }
    fs::remove_file(path).unwrap();
    let error = open(&maker.path("server.ovf")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("is incomplete: \"{victim}\"")),
        "{error}"
    );
    fs::write(maker.path("server.mf"), "what is this\n").unwrap();
    let error = open(&maker.path("server.ovf")).unwrap_err();
    assert!(error.to_string().contains("manifest whose line 1"), "{error}");
}

#[test]
fn an_archive_that_is_cut_says_what_is_missing() {
    let (maker, contents) = of_all_kinds();
    maker.manifest("sha256sum");
    let archive = maker.pack(&[]);
    let whole = fs::read(&archive).unwrap();
    let cut = maker.path("cut.ova");
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for length in (0..whole.len()).step_by(whole.len() / 150) {
        fs::write(&cut, &whole[..length]).unwrap();
        let container = Arc::new(FileDisk::open(&cut).unwrap());
        let Err(error) = Package::of_archive(container).and_then(|package| {
            let unpack = image::ova::Spool {
                folder: maker.folder.path(),
                watch: &Unwatched,
            };
            package.disks(&Beside::new(&cut), &unpack)?;
            package.verify(&Unwatched)
        }) else {
            assert!(length > end - 512, "{length} of {} bytes are enough", whole.len());
            continue;
        };
        let said = error.to_string();
        assert!(
            said.contains("is cut short")
                || said.contains("is incomplete")
                || said.contains("holds no descriptor"),
            "{length}: {said}"
        );
    }
    // Without the blocks of zeros at its end it is whole.
    fs::write(&cut, &whole[..(end + 1).next_multiple_of(512)]).unwrap();
    holds(&open(&cut).unwrap(), &contents);
}

#[test]
fn only_files_of_the_package_are_opened() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret.raw");
    fs::write(&secret, pattern(9)).unwrap();
    for href in [
        text(&secret).to_owned(),
        format!("file://{}", secret.display()),
        "http://example.com/disk.vmdk".to_owned(),
        format!(
            "../{}/secret.raw",
            outside.path().file_name().unwrap().to_str().unwrap()
        ),
        "..".to_owned(),
        "link.raw".to_owned(),
        "pipe.raw".to_owned(),
        String::new(),
    ] {
        let mut maker = Maker::new();
        maker.disk(&href, &[], "", "");
        maker.descriptor();
        std::os::unix::fs::symlink(&secret, maker.path("link.raw")).unwrap();
        run(Command::new("mkfifo").arg(maker.path("pipe.raw")));
        let error = open(&maker.path("server.ovf")).unwrap_err();
        assert!(
            matches!(error.kind, Kind::Unsupported | Kind::NotFound),
            "{href}: {error}"
        );
        let error = open(&maker.pack(&[])).unwrap_err();
        assert!(
            matches!(error.kind, Kind::Unsupported | Kind::NotFound),
            "{href}: {error}"
        );
    }

    // What an image in the archive names is looked for there, not on the host.
    let mut maker = Maker::new();
    let image = maker.path("disk.qcow2");
    run(Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .arg(&secret)
        .arg(&image));
    maker.disk("disk.qcow2", &["disk.qcow2".to_owned()], "", "");
    maker.descriptor();
    let error = open(&maker.pack(&[])).unwrap_err();
    assert!(error.to_string().contains("is incomplete"), "{error}");
}

#[test]
fn what_unpacks_to_more_than_its_disk_is_cut_off() {
    let mut maker = Maker::new();
    let bomb = maker.path("disk.raw.gz");
    let packed = run(Command::new("sh")
        .arg("-c")
        .arg(format!("head -c 200M /dev/zero | gzip -1 > '{}'", bomb.display())));
    assert_eq!(packed, "");
    maker.disk(
        "disk.raw.gz",
        &["disk.raw.gz".to_owned()],
        "ovf:compression='gzip'",
        "",
    );
    maker.descriptor();
    let error = open(&maker.pack(&[])).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.to_string().contains("more than the"), "{error}");
    fs::write(&bomb, [&[0x1f, 0x8b][..], &[7; 1000]].concat()).unwrap();
    let error = open(&maker.pack(&[])).unwrap_err();
    assert!(error.to_string().contains("disk.raw.gz"), "{error}");
}

#[test]
fn samples_of_other_makers_are_understood() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples");
    let samples = std::env::var_os("REHOME_SAMPLES").map_or(beside, PathBuf::from);
    let ova = samples.join("disk/govmomi/ttylinux-pc_i486-16.1.ova");
    if !ova.exists() {
        eprintln!("skipped: no samples in {}", samples.display());
        return;
    }
    let error = open(&ova).unwrap_err();
    assert!(
        error.to_string().contains(
            "is incomplete: \"ttylinux-pc_i486-16.1-disk1.vmdk\" has 1048576 bytes, and the descriptor says 10595840: \
             9547264 bytes are missing"
        ),
        "{error}"
    );
    let package = Package::of_archive(Arc::new(FileDisk::open(&ova).unwrap())).unwrap();
    assert_eq!(
        package.hardware().to_string(),
        "\"ttylinux-pc_i486-16.1\", vmx-09, otherLinuxGuest, efi, processors: 1, memory: 32 MiB, ide, adapter E1000"
    );
    for template in fs::read_dir(samples.join("guests/open-vmdk")).unwrap() {
        let path = template.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let filled = [
            ("@@VMDK_FILE_SIZE@@", "512"),
            ("@@VMDK_CAPACITY@@", "512"),
            ("@@NUM_CPUS@@", "2"),
            ("@@MEM_SIZE@@", "1024"),
            ("@@FIRMWARE@@", "efi"),
            ("@@NAME@@", "vm"),
        ];
        let text = filled
            .iter()
            .fold(text, |text, (from, to)| text.replace(from, to));
        let folder = tempfile::tempdir().unwrap();
        let descriptor = folder.path().join("vm.ovf");
        fs::write(&descriptor, text).unwrap();
        fs::write(folder.path().join("vm-disk1.vmdk"), [0; 512]).unwrap();
        let container = Arc::new(FileDisk::open(&descriptor).unwrap());
        let package = Package::of_descriptor(container, &Beside::new(&descriptor)).unwrap();
        let hardware = package.hardware();
        assert_eq!(package.disk_names(), ["vm-disk1.vmdk"]);
        assert_eq!((hardware.processors, hardware.memory), (Some(2), Some(1 << 30)));
        assert!(
            hardware
                .controllers
                .iter()
                .any(|controller| controller.bus == "scsi")
        );
        assert_eq!(hardware.adapters.len(), 1, "{}", path.display());
    }
}

/// A package with the disk of a small system.
fn of_a_system() -> Maker {
    let mut maker = Maker::new();
    let source = disk(maker.folder.path());
    let image = maker.path("server-disk1.qcow2");
    run(Command::new("qemu-img")
        .args(["convert", "-O", "qcow2"])
        .args([&source, &image]));
    maker.disk(
        "server-disk1.qcow2",
        &["server-disk1.qcow2".to_owned()],
        "",
        QCOW2,
    );
    maker.descriptor();
    maker
}

#[test]
fn a_system_in_a_package_is_converted_like_its_disk() {
    let maker = of_a_system();
    maker.manifest("sha1sum");
    let archive = maker.pack(&[]);
    let said = rehome_ends(0, &["inspect", text(&archive)]);
    assert!(
        said.contains(
            "its manifest was not compared; describes \"server\", efi, processors: 3, memory: 768 MiB"
        ) && said.contains("Debian"),
        "{said}"
    );
    let out = maker.path("from-ova.raw");
    let said = rehome_ends(
        0,
        &[
            "convert",
            text(&archive),
            "--to",
            "kvm",
            "-o",
            text(&out),
            "-O",
            "raw",
        ],
    );
    assert!(said.contains("every file is as its manifest says"), "{said}");
    let plain = maker.path("from-raw.raw");
    let source = maker.path("physical.img");
    rehome_ends(
        0,
        &[
            "convert",
            text(&source),
            "--to",
            "kvm",
            "-o",
            text(&plain),
            "-O",
            "raw",
        ],
    );
    assert!(fs::read(&out).unwrap() == fs::read(&plain).unwrap());
    let xml = fs::read_to_string(maker.path("from-ova.xml")).unwrap();
    assert!(
        xml.contains("<memory unit='MiB'>768</memory>") && xml.contains("<vcpu>3</vcpu>"),
        "{xml}"
    );
    let said = rehome_ends(
        1,
        &[
            "in-place",
            text(&archive),
            "--to",
            "kvm",
            "--undo",
            text(&maker.path("undo")),
        ],
    );
    assert!(
        said.contains("is a package, whose manifest an edit would break"),
        "{said}"
    );
}

#[test]
fn nothing_is_published_of_a_package_that_is_damaged() {
    let maker = of_a_system();
    maker.manifest("sha512sum");
    // A byte of padding at the end of the image: nobody reads it, and the digest is another.
    let image = maker.path("server-disk1.qcow2");
    let mut bytes = fs::read(&image).unwrap();
    bytes.push(0);
    fs::write(&image, bytes).unwrap();
    let out = maker.path("out.raw");
    let descriptor = maker.path("server.ovf");
    let convert = [
        "convert",
        text(&descriptor),
        "--to",
        "kvm",
        "-o",
        text(&out),
        "-O",
        "raw",
    ];
    let said = rehome_ends(1, &convert);
    assert!(
        said.contains("the SHA512 digest of \"server-disk1.qcow2\" is") && said.contains("Copy it again"),
        "{said}"
    );
    assert!(!out.exists());
}

#[test]
fn a_pipe_is_kept_in_a_temporary_file_and_a_redirected_file_is_not() {
    let maker = of_a_system();
    let archive = maker.pack(&[]);
    let spool = tempfile::tempdir().unwrap();
    let inspect = |stdin: Stdio| {
        let output = Command::new(env!("CARGO_BIN_EXE_rehome"))
            .args(["inspect", "-", "--temporary-folder"])
            .arg(spool.path())
            .stdin(stdin)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let redirected = inspect(fs::File::open(&archive).unwrap().into());
    assert!(
        redirected.contains("Debian") && !redirected.contains("temporary file"),
        "{redirected}"
    );
    let mut cat = Command::new("cat")
        .arg(&archive)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let piped = inspect(cat.stdout.take().unwrap().into());
    cat.wait().unwrap();
    assert!(
        piped.contains("Debian") && piped.contains("standard input is a pipe"),
        "{piped}"
    );
    assert_eq!(fs::read_dir(spool.path()).unwrap().count(), 0);
}
