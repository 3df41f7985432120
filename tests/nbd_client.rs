//! The client of network block devices, with `qemu-nbd` and `nbdkit` as servers. Tests that need nbdkit say so and pass
//! where it is not installed.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use proptest::prelude::*;
use rehome::{
    copy::{self, NoLedger, Pace},
    disk::{Content, Disk, DiskSink, FileDisk, Kind, MemoryDisk},
    nbd::{Access, Address, NbdDisk, Transport},
    watch::Unwatched,
};
use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A server on a socket of its own; ended with its value.
struct Server {
    child: Child,
    folder: TempDir,
}

impl Server {
    /// Starts `program`, whose argument "SOCKET" becomes the path of its socket and "FOLDER/" its folder.
    fn start(program: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let here = format!("{}/", folder.path().display());
        let child = Command::new(program)
            .args(arguments.iter().map(|argument| {
                argument
                    .replace("SOCKET", socket.to_str().unwrap())
                    .replace("FOLDER/", &here)
            }))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} must be installed: {error}"));
        let mut server = Self { child, folder };
        let began = Instant::now();
        // It is there before anybody listens.
        while UnixStream::connect(&socket).is_err() {
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{program} makes no socket"
            );
            assert!(server.child.try_wait().unwrap().is_none(), "{program} has ended");
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// `qemu-nbd` with the image at `path` as the export "disk", for `clients` connections at a time.
    fn qemu(path: &Path, format: &str, clients: u32) -> Self {
        let clients = clients.to_string();
        let path = path.to_str().unwrap();
        Self::start(
            "qemu-nbd",
            &[
                "--persistent",
                "--shared",
                &clients,
                "--export-name",
                "disk",
                "--format",
                format,
                "--discard",
                "unmap",
                "--socket",
                "SOCKET",
                path,
            ],
        )
    }

    /// `nbdkit` in the foreground; `None`, and a message, where it is not installed.
    fn nbdkit(arguments: &[&str]) -> Option<Self> {
        if Command::new("nbdkit").arg("--version").output().is_err() {
            eprintln!("skipped: nbdkit is not installed");
            return None;
        }
        let mut all = vec!["--foreground", "--unix", "SOCKET"];
        all.extend(arguments);
        Some(Self::start("nbdkit", &all))
    }

    fn address(&self, export: &str) -> Address {
        Address {
            transport: Transport::Unix {
                socket: self.folder.path().join("socket"),
            },
            export: export.to_owned(),
        }
    }

    fn open(&self, export: &str, access: Access) -> NbdDisk {
        NbdDisk::open(&self.address(export), access).unwrap()
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// A raw file with data, holes and zeros, and its contents.
fn raw(folder: &Path, size: u64) -> (PathBuf, Vec<u8>) {
    let path = folder.join("disk.raw");
    let disk = FileDisk::create(&path, size).unwrap();
    for (index, start) in (0..size).step_by(900_000).enumerate() {
        let length = (3 << (index % 18)).min(size - start);
        let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + start / 1000) as u8 | 1).collect();
        disk.write_at(start, &bytes).unwrap();
    }
    disk.flush().unwrap();
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

fn read_all(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(disk.size()).unwrap()];
    disk.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Walks the map; what is not data must be zeros in `bytes`. Gives how much of it is data.
fn data(disk: &dyn Disk, bytes: &[u8]) -> u64 {
    let (mut at, mut data) = (0, 0);
    while at < disk.size() {
        let map = disk.extents(at..disk.size()).unwrap();
        assert!(!map.is_empty());
        for extent in map {
            assert_eq!(extent.range.start, at);
            at = extent.range.end;
            let range = extent.range.start as usize..extent.range.end as usize;
            if extent.content == Content::Data {
                data += range.len() as u64;
            } else {
                assert!(bytes[range].iter().all(|byte| *byte == 0));
            }
        }
    }
    assert_eq!(at, disk.size());
    data
}

#[test]
fn an_image_behind_qemu_nbd_is_read_with_its_map() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = raw(folder.path(), 20 * MIB);
    let image = folder.path().join("disk.qcow2");
    let (from, to) = (path.to_str().unwrap(), image.to_str().unwrap());
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", from, to]);
    for clients in [1, 4] {
        let server = Server::qemu(&image, "qcow2", clients);
        let disk = server.open("disk", Access::Read);
        assert_eq!(disk.size(), 20 * MIB);
        assert!(read_all(&disk) == bytes);
        let data = data(&disk, &bytes);
        assert!(data < 10 * MIB, "{data} bytes of data are more than there are");
        let mut odd = [0; 777];
        disk.read_at(900_001, &mut odd).unwrap();
        assert!(odd[..] == bytes[900_001..900_778]);
        assert_eq!(disk.write_at(0, &[1; 512]).unwrap_err().kind, Kind::ReadOnly);
        assert_eq!(
            disk.read_at(20 * MIB, &mut odd).unwrap_err().kind,
            Kind::OutOfRange
        );
    }
}

#[test]
fn many_threads_copy_through_several_connections() {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = raw(folder.path(), 64 * MIB);
    let Some(server) = Server::nbdkit(&[
        "--filter=log",
        "--filter=delay",
        "file",
        path.to_str().unwrap(),
        "rdelay=20ms",
        "logfile=FOLDER/log",
    ]) else {
        return;
    };
    let disk = server.open("", Access::Read);
    let copied = MemoryDisk::new("copy", vec![0; bytes.len()]);
    let copied = Arc::new(copied);
    let pace = Pace {
        threads: 8,
        ..Pace::default()
    };
    let sink = DiskSink::new(copied.clone(), true);
    copy::copy(&disk, &sink, &NoLedger, pace, &Unwatched).unwrap();
    assert!(copied.contents() == bytes);
    drop(disk);
    let connections = server.file("log").matches(" Connect ").count();
    assert_eq!(connections, 4, "{}", server.file("log"));
}

#[test]
fn servers_of_every_age_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    // No multiple of a sector: only single bytes reach its end.
    let (path, bytes) = raw(folder.path(), 3 * MIB + 77);
    let path = path.to_str().unwrap();
    for arguments in [
        &["--oldstyle"][..],
        &["--mask-handshake=0"],
        &["--mask-handshake=1"],
        &["--mask-handshake=2"],
        &["--no-sr"],
        &["--filter=noextents"],
        &["--filter=multi-conn", "multi-conn-mode=disable"],
        &[],
    ] {
        let (filters, rest): (Vec<&str>, Vec<&str>) =
            arguments.iter().partition(|word| word.starts_with('-'));
        let mut all = filters;
        all.extend(["--readonly", "file", path]);
        all.extend(rest);
        let Some(server) = Server::nbdkit(&all) else {
            return;
        };
        let disk = server.open("", Access::Read);
        assert!(read_all(&disk) == bytes, "{arguments:?}");
        data(&disk, &bytes);
        let error = NbdDisk::open(&server.address(""), Access::Write).unwrap_err();
        assert_eq!(error.kind, Kind::ReadOnly, "{error}");
    }
}

#[test]
fn what_the_server_refuses_is_said_with_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = raw(folder.path(), MIB);
    let server = Server::qemu(&path, "raw", 1);
    let error = NbdDisk::open(&server.address("other"), Access::Read).unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
    assert!(
        error
            .to_string()
            .contains("no export \"other\"; it has: \"disk\""),
        "{error}"
    );
    drop(server);

    let nowhere = folder.path().join("nowhere");
    let address = format!("nbd+unix:///?socket={}", nowhere.display());
    let error = NbdDisk::open(&address.parse().unwrap(), Access::Read).unwrap_err();
    assert!(error.to_string().contains("does it run"), "{error}");

    let refusing = [
        "--filter=error",
        "memory",
        "1M",
        "error-pread=EIO",
        "error-pread-rate=100%",
        "error-pwrite-rate=100%",
        "error-pwrite=ENOSPC",
    ];
    let Some(server) = Server::nbdkit(&refusing) else {
        return;
    };
    let disk = server.open("", Access::Write);
    let error = disk.read_at(4096, &mut [0; 512]).unwrap_err();
    assert_eq!((error.kind, error.offset), (Kind::Io, Some(4096)));
    assert!(
        error
            .to_string()
            .contains("the server says of reading 512 bytes: input/output error"),
        "{error}"
    );
    assert_eq!(disk.write_at(0, &[1; 512]).unwrap_err().kind, Kind::Full);
    // The connection is none the worse.
    disk.write_zeros(0..512).unwrap();
    drop(disk);

    let keys = folder.path().join("keys");
    fs::write(&keys, "alice:0123456789abcdef0123456789abcdef\n").unwrap();
    let psk = format!("--tls-psk={}", keys.display());
    let Some(server) = Server::nbdkit(&["--tls=require", &psk, "memory", "1M"]) else {
        return;
    };
    let error = NbdDisk::open(&server.address(""), Access::Read).unwrap_err();
    assert_eq!(error.kind, Kind::Unsupported);
    assert!(error.to_string().contains("wants TLS"), "{error}");
}

#[test]
fn a_server_that_dies_breaks_the_read_and_says_where() {
    let Some(mut server) = Server::nbdkit(&["--filter=delay", "memory", "16M", "rdelay=10"]) else {
        return;
    };
    let disk = server.open("", Access::Read);
    let began = Instant::now();
    let error = thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|index| {
                let disk = &disk;
                scope.spawn(move || disk.read_at(index * MIB, &mut vec![0; 4096]).unwrap_err())
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        server.child.kill().unwrap();
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .last()
            .unwrap()
    });
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!((error.kind, error.offset), (Kind::Io, Some(3 * MIB)));
    assert!(
        error
            .to_string()
            .contains("the connection broke while reading 4096 bytes"),
        "{error}"
    );
    // It stays broken; nobody waits for it.
    assert!(disk.read_at(0, &mut [0; 512]).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, usize, u8),
    Zeros(u64, u64),
    Discard(u64, u64),
    Flush,
    Read(u64, usize),
}

fn step(size: u64) -> impl Strategy<Value = Step> {
    let place = 0..size;
    let length = prop_oneof![1_u64..1000, 1_u64..300_000];
    (0..9_u8, place, length, any::<u8>()).prop_map(move |(kind, at, length, byte)| {
        let length = length.min(size - at);
        match kind {
            0..=2 => Step::Write(at, length as usize, byte | 1),
            3..=4 => Step::Zeros(at, at + length),
            5 => Step::Discard(at, at + length),
            6 => Step::Flush,
            _ => Step::Read(at, length as usize),
        }
    })
}

const SIZE: u64 = 2 * MIB;

/// Carries out `steps` on the disk and on bytes that are no disk; in the end both are the same.
fn agree(disk: &NbdDisk, steps: &[Step]) {
    let mut bytes = vec![0; SIZE as usize];
    disk.write_zeros(0..SIZE).unwrap();
    for step in steps {
        match step {
            Step::Write(at, length, byte) => {
                let data = vec![*byte; *length];
                disk.write_at(*at, &data).unwrap();
                bytes[*at as usize..][..*length].copy_from_slice(&data);
            }
            Step::Zeros(start, end) => {
                disk.write_zeros(*start..*end).unwrap();
                bytes[*start as usize..*end as usize].fill(0);
            }
            Step::Discard(start, end) => {
                disk.discard(*start..*end).unwrap();
                // What was discarded may read as anything; what lies beside it may not.
                let range = *start as usize..*end as usize;
                disk.read_at(*start, &mut bytes[range]).unwrap();
            }
            Step::Flush => disk.flush().unwrap(),
            Step::Read(at, length) => {
                let mut data = vec![0xee; *length];
                disk.read_at(*at, &mut data).unwrap();
                assert!(data[..] == bytes[*at as usize..][..*length]);
            }
        }
    }
    assert!(read_all(disk) == bytes);
    data(disk, &bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn random_writes_agree_with_plain_bytes(steps in proptest::collection::vec(step(SIZE), 1..80)) {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("disk.qcow2");
        run("qemu-img", &["create", "-q", "-f", "qcow2", image.to_str().unwrap(), "2M"]);
        let server = Server::qemu(&image, "qcow2", 1);
        agree(&server.open("disk", Access::Write), &steps);
        drop(server);
        // The strictest blocks that the protocol knows, and a server that fails every request that does not keep to them.
        for policy in [
            &["--filter=blocksize-policy", "memory", "2M", "blocksize-minimum=64K", "blocksize-preferred=64K",
                "blocksize-maximum=64K", "blocksize-error-policy=error"][..],
            &["--filter=blocksize-policy", "memory", "2M", "blocksize-minimum=4096", "blocksize-preferred=4096",
                "blocksize-maximum=10000", "blocksize-error-policy=error"],
            &["--filter=nozero", "--filter=fua", "memory", "2M", "fuamode=force"],
            &["--no-sr", "memory", "2M"],
        ] {
            if let Some(server) = Server::nbdkit(policy) {
                agree(&server.open("", Access::Write), &steps);
            }
        }
    }
}

#[test]
fn a_part_of_a_block_is_written_by_one_thread_at_a_time() {
    let Some(server) = Server::nbdkit(&[
        "--filter=blocksize-policy",
        "memory",
        "64K",
        "blocksize-minimum=64K",
        "blocksize-preferred=64K",
        "blocksize-error-policy=error",
    ]) else {
        return;
    };
    let disk = server.open("", Access::Write);
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            let disk = &disk;
            scope.spawn(move || {
                for piece in 0..32 {
                    disk.write_at((piece * 8 + thread) * 100, &[thread as u8 + 1; 100])
                        .unwrap();
                }
            });
        }
    });
    let bytes = read_all(&disk);
    for (index, piece) in bytes[..25_600].chunks(100).enumerate() {
        assert!(
            piece.iter().all(|byte| usize::from(*byte) == index % 8 + 1),
            "{index}"
        );
    }
}

#[test]
fn a_server_that_zeros_fast_is_asked_for_all_at_once() {
    for (filters, fast) in [(&[][..], true), (&["--filter=nozero"], false)] {
        let mut arguments: Vec<&str> = filters.to_vec();
        arguments.extend(["memory", "1G"]);
        let Some(server) = Server::nbdkit(&arguments) else {
            return;
        };
        let disk = server.open("", Access::Write);
        disk.write_at(MIB, &[7; 4096]).unwrap();
        assert!(disk.can_flush());
        assert_eq!(disk.zero_at_once(&Unwatched).unwrap(), fast);
        let mut bytes = [1; 4096];
        disk.read_at(MIB, &mut bytes).unwrap();
        assert_eq!(bytes == [0; 4096], fast);
        // A gigabyte of zeros by request, or by writing them.
        disk.write_zeros(0..1 << 30).unwrap();
        disk.read_at(MIB, &mut bytes).unwrap();
        assert!(bytes == [0; 4096]);
    }
}
