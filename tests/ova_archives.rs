//! OVA archives that are written, judged by tar, sha256sum, xmllint with the schema of DMTF, and qemu-img.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod small_guest;

use rehome::{
    copy::{Identity, NoLedger, Pace, copy},
    destination::{ArchiveDestination, Destination},
    disk::{Digest, Disk, FileDisk, Kind, MemoryDisk, Sink},
    image::{
        self, Files, Format, Image, NoNeighbours, Options, Shape,
        ova::{NewAdapter, NewArchive, NewController, NewDisk, NewMachine, disk_options},
        vmdk::StreamOptimized,
    },
    watch::{Unwatched, Watch},
};
use small_guest::{rehome_ends, run};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The schema that the descriptors of version 1 are in, as an XML catalogue of five files makes it whole. `None`, and a
/// message, where it is absent.
fn schema(folder: &Path) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples");
    let samples = std::env::var_os("REHOME_SAMPLES").map_or(beside, PathBuf::from);
    let place = std::env::var_os("REHOME_OVF_SCHEMA").map_or(samples.join("ovf-schema"), PathBuf::from);
    if !place.join("DSP8023.xsd").exists() {
        eprintln!(
            "not judged by a schema: there is no DSP8023.xsd in {}",
            place.display()
        );
        return None;
    }
    // The parts do not say where the others are.
    let parts = [
        ("http://www.w3.org/XML/1998/namespace", "xml"),
        ("http://schemas.dmtf.org/wbem/wscim/1/common", "common"),
        (
            "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData",
            "CIM_VirtualSystemSettingData",
        ),
        (
            "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData",
            "CIM_ResourceAllocationSettingData",
        ),
        ("http://schemas.dmtf.org/ovf/envelope/1", "DSP8023"),
    ];
    let imports = parts.map(|(namespace, file)| {
        format!(
            "<xs:import namespace='{namespace}' schemaLocation='{}/{file}.xsd'/>",
            place.display()
        )
    });
    let whole = folder.join("whole.xsd");
    let text = format!(
        "<xs:schema xmlns:xs='http://www.w3.org/2001/XMLSchema' targetNamespace='urn:whole'>{}</xs:schema>",
        imports.concat()
    );
    fs::write(&whole, text).unwrap();
    Some(whole)
}

/// Unpacks `archive` with tar into a new folder beside it and looks at everything: order, digests, schema. Gives the folder.
fn unpacked(archive: &Path) -> PathBuf {
    let folder = archive.with_extension("unpacked");
    fs::create_dir(&folder).unwrap();
    let output = Command::new("tar")
        .args(["-xvf"])
        .arg(archive)
        .arg("-C")
        .arg(&folder)
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = names.lines().collect();
    let descriptor = folder.join(names[0]);
    assert!(
        names[0].ends_with(".ovf"),
        "the descriptor is the first: {names:?}"
    );
    assert!(names.last().unwrap().ends_with(".mf"), "{names:?}");
    // "SHA256(NAME)= HEX" is a form of sha256sum's own.
    let manifest = fs::read_to_string(folder.join(names.last().unwrap())).unwrap();
    let tagged = manifest.replace("SHA256(", "SHA256 (").replace(")= ", ") = ");
    assert_eq!(tagged.lines().count(), names.len() - 1);
    fs::write(folder.join("tagged"), tagged).unwrap();
    run(Command::new("sha256sum")
        .args(["--check", "--strict", "tagged"])
        .current_dir(&folder));
    run(Command::new("xmllint")
        .args(["--noout", "--nonet"])
        .arg(&descriptor));
    if let Some(schema) = schema(&folder) {
        run(Command::new("xmllint")
            .args(["--noout", "--nonet", "--schema"])
            .args([&schema, &descriptor]));
    }
    // As the references have them, with their sizes.
    let xml = fs::read_to_string(&descriptor).unwrap();
    let mut after = xml.as_str();
    for name in &names[1..names.len() - 1] {
        let size = fs::metadata(folder.join(name)).unwrap().len();
        let place = after.find(&format!("ovf:href=\"{name}\"")).expect(name);
        after = &after[place..];
        assert!(after.contains(&format!("ovf:size=\"{size}\"")), "{name}: {xml}");
    }
    folder
}

fn raw(path: &Path, size: u64) {
    let disk = FileDisk::create(path, size).unwrap();
    for (index, start) in (0..size).step_by(700_000).enumerate() {
        let length = (1 << (index % 19)).min(size - start);
        let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + start / 777) as u8 | 1).collect();
        disk.write_at(start, &bytes).unwrap();
    }
    disk.flush().unwrap();
}

#[test]
fn an_image_is_converted_to_a_package_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("web 1.raw");
    raw(&source, (20 << 20) + 512);
    for (index, options) in [
        "",
        "adapter_type=nvme,firmware=efi,memory=4096,processors=8,network=VmxNet3,name=db",
        "adapter_type=ide,hwversion=7,network=none",
        "adapter_type=pvscsi",
        "adapter_type=lsisas",
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(format!("web {index}.ova"));
        let convert = [
            "image",
            "convert",
            "-O",
            "ova",
            "-o",
            options,
            "--verify",
            text(&source),
            text(&out),
        ];
        rehome_ends(0, &convert);
        let unpacked = unpacked(&out);
        let name = if index == 1 {
            "db".to_owned()
        } else {
            format!("web {index}")
        };
        let disk = unpacked.join(format!("{name}-disk1.vmdk"));
        run(Command::new("qemu-img")
            .args(["compare", "-f", "vmdk", "-F", "raw"])
            .args([&disk, &source]));
        let info = run(Command::new("qemu-img").arg("info").arg(&disk));
        assert!(info.contains("streamOptimized"), "{info}");
        let back = folder.path().join(format!("back {index}.raw"));
        rehome_ends(0, &["image", "convert", text(&out), text(&back)]);
        assert!(fs::read(&back).unwrap() == fs::read(&source).unwrap());
        let said = rehome_ends(0, &["image", "check", text(&out)]);
        assert!(!said.contains("error"), "{said}");
        let xml = fs::read_to_string(unpacked.join(format!("{name}.ovf"))).unwrap();
        if index == 1 {
            for expected in [
                "vmware.nvme.controller",
                "vmw:value=\"efi\"",
                "vmx-13",
                "4096MB of memory",
                "8 virtual CPU(s)",
                "VmxNet3",
            ] {
                assert!(xml.contains(expected), "{expected}: {xml}");
            }
        }
    }
    let said = rehome_ends(0, &["image", "info", text(&folder.path().join("web 1.ova"))]);
    assert!(said.contains("format: ova") && said.contains("nvme"), "{said}");
    for (options, expected) in [
        ("adapter_type=floppy", "one of ide, sata"),
        ("colour=red", "there is no option \"colour\""),
        ("adapter_type=sata,hwversion=7", "needs hardware version 10"),
    ] {
        let out = folder.path().join("no.ova");
        let said = rehome_ends(
            1,
            &[
                "image",
                "convert",
                "-O",
                "ova",
                "-o",
                options,
                text(&source),
                text(&out),
            ],
        );
        assert!(said.contains(expected), "{said}");
        assert!(!out.exists());
    }
}

#[test]
fn the_same_source_gives_the_same_package() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source.raw");
    raw(&source, 30 << 20);
    let mut packages = Vec::new();
    for threads in ["1", "7"] {
        let place = folder.path().join(threads);
        fs::create_dir(&place).unwrap();
        let out = place.join("same.ova");
        rehome_ends(
            0,
            &[
                "image",
                "convert",
                "-m",
                threads,
                "-O",
                "ova",
                text(&source),
                text(&out),
            ],
        );
        packages.push(fs::read(out).unwrap());
    }
    assert!(packages[0] == packages[1]);
}

fn machine(disks: usize) -> (NewMachine, Vec<NewDisk>) {
    let machine = NewMachine {
        name: "three".to_owned(),
        hardware_version: 10,
        efi: false,
        system: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
        memory_mib: 1024,
        processors: 1,
        controller: NewController::LsiLogic,
        adapters: vec![NewAdapter {
            model: "E1000".to_owned(),
            mac: None,
        }],
    };
    let disk = |index| image::ova::new_disk("three", index, (index as u64 + 1) << 20);
    (machine, (0..disks).map(disk).collect())
}

/// Writes the disk `index` into `archive`: its number everywhere.
fn write(archive: &NewArchive, index: usize, disk: &NewDisk, fresh: bool) {
    let options = disk_options(NewController::LsiLogic);
    let file = archive.next_disk(fresh).unwrap();
    let sink = if fresh {
        StreamOptimized::create(file.clone(), &disk.file, disk.capacity, &options).unwrap()
    } else {
        StreamOptimized::resume(file.clone(), true, &disk.file, disk.capacity, &options).unwrap()
    };
    let bytes = vec![index as u8 + 1; disk.capacity as usize];
    for (at, piece) in bytes.chunks(1 << 20).enumerate() {
        if fresh {
            sink.put((at as u64) << 20, piece).unwrap();
        } else {
            let start = (at as u64) << 20;
            sink.keep(start..start + piece.len() as u64).unwrap();
        }
    }
    sink.finish().unwrap();
    archive.complete_disk(&*file).unwrap();
}

/// Cancels when the stage of that name begins.
struct UpTo {
    stage: &'static str,
    reached: AtomicBool,
}

impl Watch for UpTo {
    fn stage(&self, name: &str, _bytes: u64) {
        if name == self.stage {
            self.reached.store(true, Ordering::SeqCst);
        }
    }
    fn advance(&self, _bytes: u64) {}
    fn cancelled(&self) -> bool {
        self.reached.load(Ordering::SeqCst)
    }
}

#[test]
fn the_reading_for_a_manifest_can_be_stopped_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = UpTo {
        stage: "manifest",
        reached: AtomicBool::new(false),
    };
    let never = UpTo {
        stage: "never",
        reached: AtomicBool::new(false),
    };
    // By the destination of a machine.
    let (machine, disks) = machine(1);
    let source = MemoryDisk::new("source", vec![5; 1 << 20]);
    let identity = Identity {
        plan: Digest::of(b"plan"),
        source: Digest::of(b"source"),
        size: 1 << 20,
    };
    let out = folder.path().join("three.ova");
    for (again, watch) in [(false, &manifest), (true, &never)] {
        let destination = if again {
            ArchiveDestination::resume(&out)
        } else {
            ArchiveDestination::create(&out)
        };
        let mut destination = Box::new(destination.unwrap());
        destination.describe(&machine, &disks).unwrap();
        let (container, ledger) = destination.disk(&disks[0].file, 0, &identity, watch).unwrap();
        assert_eq!(container.fresh, !again);
        let options = disk_options(NewController::LsiLogic);
        let (name, size) = (&disks[0].file, disks[0].capacity);
        let sink = if again {
            StreamOptimized::resume(container.disk, true, name, size, &options).unwrap()
        } else {
            StreamOptimized::create(container.disk, name, size, &options).unwrap()
        };
        copy(&source, &sink, &ledger, Pace::default(), watch).unwrap();
        let published = destination.publish(watch);
        assert_eq!(
            published.is_err_and(|error| error.kind == Kind::Cancelled),
            !again
        );
        assert_eq!(out.exists(), again);
    }
    unpacked(&out);

    // And by an image's own writer.
    let container: Arc<dyn Disk> = Arc::new(FileDisk::create(&folder.path().join("image.ova"), 0).unwrap());
    let shape = Shape {
        format: Format::Ova,
        size: 1 << 20,
        sector_size: 512,
        options: Options::default(),
    };
    let sink = image::create(&shape, &mut One(container, true)).unwrap();
    manifest.reached.store(false, Ordering::SeqCst);
    let error = copy(&source, &*sink, &NoLedger, Pace::default(), &manifest).unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled);
}

#[test]
fn several_disks_are_written_one_behind_the_other_and_kept_by_a_resumed_run() {
    let folder = tempfile::tempdir().unwrap();
    let (machine, disks) = machine(3);
    let make = |path: &Path, broken: bool| {
        let container = Arc::new(FileDisk::create(path, 0).unwrap());
        let archive = NewArchive::new(container, machine.clone(), disks.clone()).unwrap();
        write(&archive, 0, &disks[0], true);
        write(&archive, 1, &disks[1], true);
        assert!(archive.finish(&Unwatched).is_err(), "a disk is missing");
        if !broken {
            write(&archive, 2, &disks[2], true);
            archive.finish(&Unwatched).unwrap();
            return;
        }
        // Half of the third, and then nothing.
        let file = archive.next_disk(true).unwrap();
        let options = disk_options(NewController::LsiLogic);
        let sink = StreamOptimized::create(file, &disks[2].file, disks[2].capacity, &options).unwrap();
        sink.put(0, &[9; 1 << 20]).unwrap();
        drop(sink);
        drop(archive);
        let bytes = fs::read(path).unwrap();
        assert!(bytes[..512].iter().all(|byte| *byte == 0), "no archive yet");
        let container = Arc::new(FileDisk::open_writable(path).unwrap());
        let archive = NewArchive::new(container, machine.clone(), disks.clone()).unwrap();
        write(&archive, 0, &disks[0], false);
        write(&archive, 1, &disks[1], false);
        write(&archive, 2, &disks[2], true);
        archive.finish(&Unwatched).unwrap();
    };
    let calm = folder.path().join("calm.ova");
    let rough = folder.path().join("rough.ova");
    make(&calm, false);
    make(&rough, true);
    assert!(fs::read(&calm).unwrap() == fs::read(&rough).unwrap());
    let unpacked = unpacked(&calm);
    for (index, disk) in disks.iter().enumerate() {
        let raw = folder.path().join(format!("disk{index}.raw"));
        run(Command::new("qemu-img")
            .args(["convert", "-f", "vmdk", "-O", "raw"])
            .args([&unpacked.join(&disk.file), &raw]));
        let bytes = fs::read(&raw).unwrap();
        assert_eq!(bytes.len() as u64, disk.capacity);
        assert!(bytes.iter().all(|byte| usize::from(*byte) == index + 1));
    }
    let error = image::open(Arc::new(FileDisk::open(&calm).unwrap()), None, &NoNeighbours).unwrap_err();
    assert!(
        error.to_string().contains("holds 3 disks (three-disk1.vmdk, "),
        "{error}"
    );
}

/// One file.
struct One(Arc<dyn Disk>, bool);

impl Files for One {
    fn main(&self) -> Arc<dyn Disk> {
        self.0.clone()
    }
    fn name(&self) -> &str {
        "big.ova"
    }
    fn fresh(&self) -> bool {
        true
    }
    fn blank(&self) -> bool {
        self.1
    }
    fn beside(&mut self, _name: &str, _size: u64) -> rehome::disk::Result<Arc<dyn Disk>> {
        panic!("a package is one file")
    }
}

#[test]
fn a_large_disk_without_data_makes_a_small_package_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.ova");
    let shape = Shape {
        format: Format::Ova,
        size: 8 << 40,
        sector_size: 512,
        options: Options::default(),
    };
    let file: Arc<dyn Disk> = Arc::new(FileDisk::create(&path, 0).unwrap());
    assert!(
        image::create(&shape, &mut One(file.clone(), false)).is_err(),
        "nothing to write over"
    );
    let sink = image::create(&shape, &mut One(file, true)).unwrap();
    sink.skip(0..shape.size).unwrap();
    sink.finish().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 20 << 20);
    let image: Arc<dyn Image> =
        image::open(Arc::new(FileDisk::open(&path).unwrap()), None, &NoNeighbours).unwrap();
    assert_eq!((image.format(), image.size()), (Format::Ova, 8 << 40));
    unpacked(&path);
}

/// A disk of a small system, and a second one with something on it.
fn two_disks(folder: &Path) -> [PathBuf; 2] {
    let system = small_guest::disk(folder);
    let data = folder.join("data.img");
    raw(&data, 24 << 20);
    [system, data]
}

/// The disks that the same conversion makes as raw files.
fn expected(folder: &Path, sources: &[PathBuf; 2]) -> [PathBuf; 2] {
    let out = folder.join("plain/");
    let arguments = [
        "convert",
        text(&sources[0]),
        text(&sources[1]),
        "--to",
        "kvm-sata",
        "-O",
        "raw",
        "-o",
    ];
    rehome_ends(0, &[&arguments[..], &[text(&out)]].concat());
    [0, 1].map(|index| out.join(format!("plain-disk{index}.raw")))
}

#[test]
fn a_system_is_converted_to_a_package_with_its_definition() {
    let folder = tempfile::tempdir().unwrap();
    let sources = two_disks(folder.path());
    let plain = expected(folder.path(), &sources);
    let out = folder.path().join("server.ova");
    let convert = [
        "convert",
        text(&sources[0]),
        text(&sources[1]),
        "--to",
        "kvm-sata",
        "-O",
        "ova",
        "-o",
        text(&out),
    ];
    let said = rehome_ends(0, &[&convert[..], &["--verify"]].concat());
    assert!(
        said.contains("wrote server-disk1.vmdk (vmdk") && said.contains("verified"),
        "{said}"
    );
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("server") || name.starts_with('.'))
        .collect();
    names.sort();
    assert_eq!(names, ["server.ova", "server.report.json"]);
    let unpacked = unpacked(&out);
    for (index, plain) in plain.iter().enumerate() {
        let disk = unpacked.join(format!("server-disk{}.vmdk", index + 1));
        run(Command::new("qemu-img")
            .args(["compare", "-f", "vmdk", "-F", "raw"])
            .args([&disk, plain]));
    }
    let xml = fs::read_to_string(unpacked.join("server.ovf")).unwrap();
    for expected in [
        "<Name>server</Name>",
        "vmware.sata.ahci",
        "E1000e",
        "ovf:id=\"96\"",
        "<Description>Debian GNU/Linux 12 (bookworm)</Description>",
        "vmw:value=\"bios\"",
    ] {
        assert!(xml.contains(expected), "{expected}: {xml}");
    }
    // And from there to somewhere else.
    let back = folder.path().join("back/");
    rehome_ends(
        0,
        &[
            "convert",
            text(&out),
            "--to",
            "kvm-sata",
            "--as-is",
            "-O",
            "raw",
            "-o",
            text(&back),
        ],
    );
    for (index, plain) in plain.iter().enumerate() {
        let disk = back.join(format!("back-disk{index}.raw"));
        run(Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "raw"])
            .args([&disk, plain]));
    }

    let no = folder.path().join("no.ova");
    let said = rehome_ends(
        1,
        &[
            "convert",
            text(&sources[0]),
            "--to",
            "kvm",
            "-O",
            "ova",
            "-o",
            text(&no),
        ],
    );
    assert!(said.contains("have no disk controller \"virtio-blk\""), "{said}");
    assert!(!no.exists() && !folder.path().join(".no.ova.rehome-work").exists());
}

#[test]
fn a_package_that_was_killed_again_and_again_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let sources = two_disks(folder.path());
    let convert = |out: &Path, more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_rehome"))
            .args([
                "convert",
                text(&sources[0]),
                text(&sources[1]),
                "--to",
                "kvm-sata",
                "-O",
                "ova",
                "-o",
                text(out),
            ])
            .args(more)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    // The same name, since the definition has it.
    let [calm, rough] = ["calm", "rough"].map(|name| folder.path().join(name));
    fs::create_dir(&calm).unwrap();
    fs::create_dir(&rough).unwrap();
    assert!(convert(&calm.join("s.ova"), &[]).wait().unwrap().success());
    let out = rough.join("s.ova");
    let slow = ["--rate-limit", "2M", "--checkpoint", "256K", "-m", "2"];
    let ledgers = rough.join(".s.ova.rehome-work/ledgers");
    let size = |name: &str| fs::metadata(ledgers.join(name)).map_or(0, |metadata| metadata.len());
    // Killed in the first disk, and twice in the second.
    for (index, (name, records)) in [
        ("s-disk1.vmdk", 200),
        ("s-disk2.vmdk", 200),
        ("s-disk2.vmdk", 500),
    ]
    .into_iter()
    .enumerate()
    {
        let resume = if index == 0 { &[][..] } else { &["--resume"] };
        let mut child = convert(&out, &[&slow[..], resume].concat());
        let began = Instant::now();
        while size(name) < records {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended before it was killed"
            );
            assert!(began.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!out.exists());
    }
    let output = convert(&out, &["--resume", "--verify"])
        .wait_with_output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(fs::read(calm.join("s.ova")).unwrap() == fs::read(&out).unwrap());
    unpacked(&out);
}
