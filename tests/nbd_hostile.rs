//! Servers of network block devices that do not keep to the protocol: an error, never a panic, a hang or a heap of memory.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::{
    disk::{Content, Disk, Extent, Kind, Result},
    nbd::{Access, NbdDisk, Patience, Stream},
    watch::Unwatched,
};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

const SIZE: u64 = 1 << 20;
const HAS_FLAGS: u16 = 1;
const WRITABLE: u16 = HAS_FLAGS | 1 << 2 | 1 << 5 | 1 << 6;

/// Short, so that the tests are.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(1),
    handshake: Duration::from_millis(700),
    answer: Duration::from_millis(700),
};

/// Opens what `server` says; it runs in a thread of its own and the stream closes with it.
fn open(server: impl FnOnce(&mut UnixStream) + Send + 'static) -> Result<NbdDisk> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || server(&mut theirs));
    let ours = Mutex::new(Some(ours));
    NbdDisk::over("server", "disk", Access::Write, PATIENCE, move || {
        let stream: Box<dyn Stream> = Box::new(ours.lock().unwrap().take().expect("one connection"));
        Ok(stream)
    })
}

fn send(server: &mut UnixStream, parts: &[&[u8]]) {
    // Whoever was refused has hung up.
    let _ = server.write_all(&parts.concat());
}

fn greet(server: &mut UnixStream) {
    send(server, &[b"NBDMAGICIHAVEOPT", &3_u16.to_be_bytes()]);
    server.read_exact(&mut [0; 4]).unwrap();
}

/// Reads an option; gives its number.
fn option(server: &mut UnixStream) -> u32 {
    let mut header = [0; 16];
    if server.read_exact(&mut header).is_err() {
        return 0;
    }
    let mut data = vec![0; u32::from_be_bytes(header[12..].try_into().unwrap()) as usize];
    server.read_exact(&mut data).unwrap();
    u32::from_be_bytes(header[8..12].try_into().unwrap())
}

const ACK: u32 = 1;
const INFO: u32 = 3;
const CONTEXT: u32 = 4;
const UNSUPPORTED: u32 = 1 << 31 | 1;

fn reply(server: &mut UnixStream, option: u32, kind: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap();
    send(
        server,
        &[
            &0x0003_e889_0455_65a9_u64.to_be_bytes(),
            &option.to_be_bytes(),
            &kind.to_be_bytes(),
            &length.to_be_bytes(),
            payload,
        ],
    );
}

fn export(size: u64, flags: u16) -> Vec<u8> {
    [&[0, 0][..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// Negotiates like an honest server: structured replies, `base:allocation` as context 7, an export of [`SIZE`].
fn negotiate(server: &mut UnixStream, structured: bool) {
    negotiate_export(server, structured, &export(SIZE, WRITABLE));
}

fn negotiate_export(server: &mut UnixStream, structured: bool, export: &[u8]) {
    greet(server);
    loop {
        match option(server) {
            8 if structured => reply(server, 8, ACK, &[]),
            10 if structured => {
                reply(server, 10, CONTEXT, b"\0\0\0\x07base:allocation");
                reply(server, 10, ACK, &[]);
            }
            7 => {
                reply(server, 7, INFO, export);
                reply(server, 7, ACK, &[]);
                return;
            }
            0 => return,
            other => reply(server, other, UNSUPPORTED, &[]),
        }
    }
}

/// Reads a request without its payload; gives its cookie.
fn request(server: &mut UnixStream) -> [u8; 8] {
    request_at(server).0
}

/// The same, and the offset that it names, as on the wire.
fn request_at(server: &mut UnixStream) -> ([u8; 8], [u8; 8]) {
    let mut request = [0; 28];
    server.read_exact(&mut request).unwrap();
    (
        request[8..16].try_into().unwrap(),
        request[16..24].try_into().unwrap(),
    )
}

fn simple(cookie: [u8; 8], error: u32) -> Vec<u8> {
    [&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &cookie].concat()
}

fn chunk(cookie: [u8; 8], flags: u16, kind: u16, length: u32, payload: &[u8]) -> Vec<u8> {
    [
        &0x668e_33ef_u32.to_be_bytes()[..],
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie,
        &length.to_be_bytes(),
        payload,
    ]
    .concat()
}

/// The whole of a payload.
fn whole(cookie: [u8; 8], flags: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    chunk(
        cookie,
        flags,
        kind,
        u32::try_from(payload.len()).unwrap(),
        payload,
    )
}

/// Waits for the client to go away.
fn hold(server: &mut UnixStream) {
    let _ = server.set_read_timeout(Some(Duration::from_secs(10)));
    while server.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}

#[test]
fn negotiations_that_go_wrong_are_refused_with_the_reason() {
    type Server = Box<dyn FnOnce(&mut UnixStream) + Send>;
    let at_go = |answer: Box<dyn Fn(&mut UnixStream) + Send>| -> Server {
        Box::new(move |server| {
            greet(server);
            loop {
                match option(server) {
                    7 => {
                        answer(server);
                        break;
                    }
                    0 => return,
                    other => reply(server, other, UNSUPPORTED, &[]),
                }
            }
            hold(server);
        })
    };
    let servers: Vec<(&str, Server)> = vec![
        ("closed the connection", Box::new(|_| {})),
        ("does not answer", Box::new(hold)),
        (
            "does not speak NBD",
            Box::new(|server| send(server, &[b"HTTP/1.1 400 Bad Request\r\n"])),
        ),
        (
            "second magic number",
            Box::new(|server| send(server, &[b"NBDMAGICIHAVEOPX"])),
        ),
        (
            "does not answer",
            Box::new(|server| {
                // A byte now and then is no conversation.
                for byte in b"NBDMAGICIHAVEOPT" {
                    send(server, &[&[*byte]]);
                    thread::sleep(Duration::from_millis(200));
                }
            }),
        ),
        (
            "asked for option 8",
            Box::new(|server| {
                greet(server);
                option(server);
                reply(server, 3, ACK, &[]);
                hold(server);
            }),
        ),
        (
            "bytes, which is too many",
            Box::new(|server| {
                greet(server);
                option(server);
                let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
                send(
                    server,
                    &[&magic, &[0, 0, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]],
                );
                hold(server);
            }),
        ),
        (
            "never ends its answers",
            at_go(Box::new(|server| {
                for _ in 0..2000 {
                    reply(server, 7, INFO, &export(SIZE, HAS_FLAGS));
                }
            })),
        ),
        (
            "does not say how large it is",
            at_go(Box::new(|server| reply(server, 7, ACK, &[]))),
        ),
        (
            "which no disk has",
            at_go(Box::new(|server| {
                reply(server, 7, INFO, &export(1 << 63, WRITABLE));
                reply(server, 7, ACK, &[]);
            })),
        ),
        (
            "block sizes contradict",
            at_go(Box::new(|server| {
                reply(server, 7, INFO, &[0, 3, 0, 0, 0, 3, 0, 0, 2, 0, 0, 0, 4, 0]);
            })),
        ),
        (
            "no multiple of the smallest block",
            at_go(Box::new(|server| {
                reply(server, 7, INFO, &export(SIZE + 512, WRITABLE));
                reply(server, 7, INFO, &[0, 3, 0, 0, 0x10, 0, 0, 0, 0x10, 0, 0, 1, 0, 0]);
                reply(server, 7, ACK, &[]);
            })),
        ),
        (
            "truncated",
            at_go(Box::new(|server| reply(server, 7, INFO, &[0, 0, 1]))),
        ),
        (
            "for reading only",
            at_go(Box::new(|server| {
                reply(server, 7, INFO, &export(SIZE, HAS_FLAGS | 2));
                reply(server, 7, ACK, &[]);
            })),
        ),
        (
            "refuses the export \"disk\" (answer 7): go \u{fffd}[2J away",
            at_go(Box::new(|server| {
                reply(server, 7, 1 << 31 | 7, b"go \x1b[2J away")
            })),
        ),
    ];
    for (expected, server) in servers {
        let began = Instant::now();
        let error = open(server).expect_err(expected);
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert!(began.elapsed() < Duration::from_secs(2), "{expected}");
    }
}

/// What an answer to a read of 4096 bytes may not be, and what is said of it.
type Answer = fn([u8; 8]) -> Vec<u8>;

#[test]
fn answers_that_are_none_break_the_connection() {
    let answers: [(&str, bool, Answer); 14] = [
        ("begins with 0xdeadbeef", true, |_| {
            [0xdeu8, 0xad, 0xbe, 0xef].repeat(5)
        }),
        ("answers to request 0x", true, |_| whole([9; 8], 1, 0, &[])),
        ("without having agreed", false, |cookie| whole(cookie, 1, 0, &[])),
        ("after agreeing", true, |cookie| {
            [simple(cookie, 0), vec![0; 4096]].concat()
        }),
        ("4096 of 4096 bytes have not come", true, |cookie| {
            whole(cookie, 1, 0, &[])
        }),
        ("chunk of type 0 with 0 bytes", true, |cookie| {
            whole(cookie, 0, 0, &[])
        }),
        ("chunk of type 9", true, |cookie| whole(cookie, 1, 9, &[0; 20])),
        ("chunk of type 1 with 8 bytes", true, |cookie| {
            whole(cookie, 1, 1, &[0; 8])
        }),
        ("1 bytes at offset 4096", true, |cookie| {
            whole(cookie, 1, 1, &[0, 0, 0, 0, 0, 0, 0x10, 0, 7])
        }),
        ("4294967287 bytes at offset 0", true, |cookie| {
            chunk(cookie, 1, 1, u32::MAX, &[0; 8])
        }),
        ("4096 bytes at offset 0, which were not", true, |cookie| {
            let hole = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0];
            [whole(cookie, 0, 2, &hole), whole(cookie, 0, 2, &hole)].concat()
        }),
        ("chunk of type 32769 with 4294967295 bytes", true, |cookie| {
            chunk(cookie, 1, 0x8001, u32::MAX, &[])
        }),
        ("chunk of type 32769", true, |cookie| {
            // Errors without end.
            whole(cookie, 0, 0x8001, &[0, 0, 0, 5, 0, 0]).repeat(1000)
        }),
        ("has closed the connection", true, |cookie| {
            chunk(cookie, 1, 1, 4096 + 8, &[0; 100])
        }),
    ];
    for (expected, structured, answer) in answers {
        let disk = open(move |server| {
            negotiate(server, structured);
            let cookie = request(server);
            send(server, &[&answer(cookie)]);
        })
        .unwrap();
        let began = Instant::now();
        let error = disk.read_at(0, &mut [0; 4096]).expect_err(expected);
        assert!(error.to_string().contains(expected), "{expected}: {error}");
        assert_eq!((error.kind, error.offset), (Kind::Io, Some(0)));
        assert!(began.elapsed() < Duration::from_secs(2), "{expected}");
        let again = disk.read_at(512, &mut [0; 512]).unwrap_err();
        assert!(again.to_string().contains(expected), "{expected}: {again}");
    }
}

#[test]
fn a_server_that_falls_silent_is_not_waited_for_for_ever() {
    for drip in [false, true] {
        let disk = open(move |server| {
            negotiate(server, true);
            // Whichever of the readers came first.
            let (cookie, offset) = request_at(server);
            if drip {
                send(server, &[&chunk(cookie, 1, 1, 4096 + 8, &offset)]);
                for _ in 0..20 {
                    thread::sleep(Duration::from_millis(100));
                    send(server, &[&[7]]);
                }
            }
            hold(server);
        })
        .unwrap();
        let began = Instant::now();
        let error = thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|at| {
                    scope.spawn({
                        let disk = &disk;
                        move || disk.read_at(at * 4096, &mut [0; 4096])
                    })
                })
                .collect();
            let mut errors = readers
                .into_iter()
                .map(|reader| reader.join().unwrap().unwrap_err());
            errors.next().unwrap()
        });
        assert!(error.to_string().contains("does not answer"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_server_that_takes_nothing_is_not_waited_for_for_ever() {
    let disk = open(|server| {
        negotiate(server, true);
        thread::sleep(Duration::from_secs(2));
    })
    .unwrap();
    let began = Instant::now();
    let error = disk.write_at(0, &vec![1; SIZE as usize]).unwrap_err();
    assert!(
        error.to_string().contains("does not take what is sent"),
        "{error}"
    );
    assert!(began.elapsed() < Duration::from_millis(1800));
}

#[test]
fn maps_are_believed_only_as_far_as_they_go() {
    let maps: [(&[u8], std::result::Result<Extent, &str>); 8] = [
        // Longer than was asked for, and longer than the export.
        (
            &[0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3],
            Ok(Extent::new(0..SIZE, Content::Hole)),
        ),
        (
            &[0, 0, 0, 7, 0, 0, 0x10, 0, 0, 0, 0, 2],
            Ok(Extent::new(0..4096, Content::Zero)),
        ),
        // A hole that may read as anything; flags that are not known.
        (
            &[0, 0, 0, 7, 0, 0, 0x10, 0, 0xff, 0, 0, 1],
            Ok(Extent::new(0..4096, Content::Data)),
        ),
        (&[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 3], Err("a run of no length")),
        (
            &[0, 0, 0, 8, 0, 0, 0x10, 0, 0, 0, 0, 0],
            Err("context 8, which was not asked for"),
        ),
        (&[0, 0, 0, 7], Err("chunk of type 5 with 4 bytes")),
        (
            &[0, 0, 0, 7, 0, 0, 0x10, 0, 0],
            Err("chunk of type 5 with 9 bytes"),
        ),
        (&[], Err("chunk of type 5 with 0 bytes")),
    ];
    for (payload, expected) in maps {
        let disk = open(move |server| {
            negotiate(server, true);
            let cookie = request(server);
            send(server, &[&whole(cookie, 1, 5, payload)]);
            hold(server);
        })
        .unwrap();
        let map = disk.extents(0..SIZE);
        match (map, expected) {
            (Ok(map), Ok(expected)) => assert_eq!(map, [expected]),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (map, expected) => panic!("{payload:?}: {map:?}, not {expected:?}"),
        }
    }

    // More runs than anybody needs: cut, and read to their end.
    let disk = open(|server| {
        negotiate(server, true);
        let cookie = request(server);
        let runs = [[0, 0, 2, 0, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0, 0, 3]]
            .concat()
            .repeat(1 << 19);
        let payload = [&[0, 0, 0, 7][..], &runs].concat();
        send(server, &[&whole(cookie, 1, 5, &payload)]);
        let cookie = request(server);
        send(server, &[&whole(cookie, 1, 0x8001, &[0, 0, 0, 22, 0, 0])]);
        hold(server);
    })
    .unwrap();
    let map = disk.extents(0..SIZE).unwrap();
    assert_eq!(map.len(), 1024);
    // Who cannot tell has data.
    let rest = disk.extents(4096..SIZE).unwrap();
    assert_eq!(rest, [Extent::new(4096..SIZE, Content::Data)]);

    // A server that repeats itself.
    let disk = open(|server| {
        negotiate(server, true);
        let cookie = request(server);
        let map = whole(cookie, 0, 5, &[0, 0, 0, 7, 0, 0, 0x10, 0, 0, 0, 0, 0]);
        send(server, &[&map, &map]);
        hold(server);
    })
    .unwrap();
    let error = disk.extents(0..SIZE).unwrap_err();
    assert!(error.to_string().contains("chunk of type 5"), "{error}");
}

#[test]
fn a_zero_that_is_too_long_for_the_server_is_cut() {
    let disk = open(|server| {
        negotiate(server, false);
        let mut sizes = Vec::new();
        loop {
            let mut bytes = [0; 28];
            if server.read_exact(&mut bytes).is_err() || bytes[7] == 2 {
                break;
            }
            let length = u32::from_be_bytes(bytes[24..].try_into().unwrap());
            sizes.push(length);
            let error = if length > 512 << 10 { 75 } else { 0 };
            send(server, &[&simple(bytes[8..16].try_into().unwrap(), error)]);
        }
    })
    .unwrap();
    // Its payloads may be as long as the export: there is nothing shorter to ask for.
    let error = disk.write_zeros(0..SIZE).unwrap_err();
    assert!(error.to_string().contains("value too large"), "{error}");
    disk.write_zeros(0..4096).unwrap();
}

#[test]
fn a_fast_zero_may_be_refused_at_any_place_and_is_then_written() {
    const STEP: u64 = 256 << 20;
    const FAST: u16 = 1 << 11;
    let disk = open(|server| {
        negotiate_export(server, false, &export(3 * STEP, WRITABLE | FAST));
        loop {
            let mut request = [0; 28];
            if server.read_exact(&mut request).is_err() || request[7] == 2 {
                break;
            }
            let fast = request[5] & 1 << 4 != 0;
            let offset = u64::from_be_bytes(request[16..24].try_into().unwrap());
            // "NBD_ENOTSUP" where it would be slow.
            let error = if fast && offset >= STEP { 95 } else { 0 };
            send(server, &[&simple(request[8..16].try_into().unwrap(), error)]);
        }
    })
    .unwrap();
    assert!(!disk.zero_at_once(&Unwatched).unwrap());
    disk.write_zeros(0..3 * STEP).unwrap();
}

#[test]
fn after_a_flush_that_the_server_failed_no_other_succeeds() {
    let disk = open(|server| {
        negotiate(server, false);
        // "NBD_EIO", and from then on all is well.
        for error in [5, 0, 0] {
            let mut header = [0; 28];
            if server.read_exact(&mut header).is_err() || header[7] == 2 {
                return;
            }
            send(server, &[&simple(header[8..16].try_into().unwrap(), error)]);
        }
    })
    .unwrap();
    let error = disk.flush().unwrap_err();
    assert!(error.to_string().contains("input/output error"), "{error}");
    let error = disk.flush().unwrap_err();
    assert_eq!(error.kind, Kind::Io);
    assert!(
        error.to_string().contains("an earlier flush has failed"),
        "{error}"
    );
}
