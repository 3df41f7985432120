//! What a server of network block devices sends, whatever it is asked: a negotiation, then answers to a read, a question
//! for the map, a write, zeros, a discard and a flush.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::{
    disk::Disk,
    nbd::{Access, Halves, NbdDisk, Patience, Stream},
    watch::Unwatched,
};
use std::{
    io::{self, Cursor},
    sync::Mutex,
    time::Duration,
};

/// Says what it was given and listens to nothing.
#[derive(Debug)]
struct Monologue(Vec<u8>);

impl Stream for Monologue {
    fn halves(self: Box<Self>) -> io::Result<Halves> {
        Ok(Halves {
            incoming: Box::new(Cursor::new(self.0)),
            outgoing: Box::new(io::sink()),
        })
    }
}

fuzz_target!(|data: &[u8]| {
    let patience = Patience {
        connect: Duration::from_secs(1),
        handshake: Duration::from_secs(1),
        answer: Duration::from_secs(1),
    };
    // One connection: who asks for a second finds nobody.
    let server = Mutex::new(Some(data.to_vec()));
    let connect = move || {
        let bytes = server.lock().expect("one thread").take().unwrap_or_default();
        let stream: Box<dyn Stream> = Box::new(Monologue(bytes));
        Ok(stream)
    };
    let Ok(disk) = NbdDisk::over("server", "disk", Access::Write, patience, connect) else {
        return;
    };
    let size = disk.size();
    let mut buffer = vec![0; 70_000.min(usize::try_from(size).unwrap_or(usize::MAX))];
    for _ in 0..4 {
        let _ = disk.read_at(0, &mut buffer);
        if let Ok(map) = disk.extents(0..size) {
            assert!(map.is_empty() == (size == 0));
            let mut at = 0;
            for extent in map {
                assert!(extent.range.start == at && extent.range.end > at && extent.range.end <= size);
                at = extent.range.end;
            }
        }
        let _ = disk.write_at(size / 3, &buffer[..buffer.len() / 3]);
        let _ = disk.write_zeros(size / 2..size / 2 + 100.min(size - size / 2));
        let _ = disk.discard(0..size.min(1 << 30));
        let _ = disk.flush();
        let _ = disk.zero_at_once(&Unwatched);
    }
});
