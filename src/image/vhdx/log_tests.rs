//! Logs made by hand.

use super::*;
use crate::disk::MemoryDisk;
use proptest::prelude::*;

const LOG: u64 = MIB;
const LENGTH: u64 = MIB;

fn id() -> Uuid {
    Uuid::from_u128(0x1234)
}

fn header() -> Header {
    Header {
        sequence: 1,
        file_write: Uuid::nil(),
        data_write: Uuid::nil(),
        log: id(),
        log_version: 0,
        log_length: LENGTH as u32,
        log_offset: LOG,
    }
}

/// What an entry does to the file: a sector of one byte's value, or so many sectors of zeros.
#[derive(Clone, Copy)]
enum Change {
    Fill(u64, u8),
    Zeros(u64, u64),
}

/// An entry as it stands in a log.
fn entry(sequence: u64, tail: u64, changes: &[Change]) -> Vec<u8> {
    entry_with(id(), sequence, tail, changes, 4 * MIB, 4 * MIB)
}

fn entry_with(log: Uuid, sequence: u64, tail: u64, changes: &[Change], flushed: u64, last: u64) -> Vec<u8> {
    let mut bytes = vec![0; (64 + changes.len() * 32).next_multiple_of(4096)];
    bytes[..4].copy_from_slice(b"loge");
    bytes[12..16].copy_from_slice(&(tail as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    bytes[24..28].copy_from_slice(&(changes.len() as u32).to_le_bytes());
    bytes[32..48].copy_from_slice(&log.to_bytes_le());
    bytes[48..56].copy_from_slice(&flushed.to_le_bytes());
    bytes[56..64].copy_from_slice(&last.to_le_bytes());
    for (index, change) in changes.iter().enumerate() {
        let at = 64 + index * 32;
        let offset = match *change {
            Change::Fill(offset, byte) => {
                bytes[at..at + 4].copy_from_slice(b"desc");
                bytes[at + 4..at + 16].fill(byte);
                let mut sector = vec![byte; 4096];
                sector[..4].copy_from_slice(b"data");
                sector[4..8].copy_from_slice(&((sequence >> 32) as u32).to_le_bytes());
                sector[4092..].copy_from_slice(&(sequence as u32).to_le_bytes());
                bytes.extend(sector);
                offset
            }
            Change::Zeros(offset, sectors) => {
                bytes[at..at + 4].copy_from_slice(b"zero");
                bytes[at + 8..at + 16].copy_from_slice(&(sectors * 4096).to_le_bytes());
                offset
            }
        };
        bytes[at + 16..at + 24].copy_from_slice(&offset.to_le_bytes());
        bytes[at + 24..at + 32].copy_from_slice(&sequence.to_le_bytes());
    }
    let length = bytes.len() as u32;
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    let sum = super::super::checksum(&bytes, 4);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A file of 4 MiB full of sevens, with these entries at these places of its log.
fn file(entries: &[(u64, Vec<u8>)]) -> Arc<MemoryDisk> {
    let mut bytes = vec![7; 4 << 20];
    bytes[LOG as usize..(LOG + LENGTH) as usize].fill(0);
    for (at, entry) in entries {
        for (index, byte) in entry.iter().enumerate() {
            bytes[(LOG + (at + index as u64) % LENGTH) as usize] = *byte;
        }
    }
    Arc::new(MemoryDisk::new("image", bytes))
}

/// The byte at each of `places` after the log was replayed, which must not change the file itself.
fn bytes_at_places(file: &Arc<MemoryDisk>, places: &[u64]) -> Result<Vec<u8>> {
    let before = file.contents();
    let container: Arc<dyn Disk> = file.clone();
    let disk = replayed(&container, &header())?;
    assert!(file.contents() == before);
    // The file itself ends alike when it is opened for writing.
    let copy = MemoryDisk::new("copy", before);
    replay(&copy, &header())?;
    let mut all = vec![0; disk.size() as usize];
    disk.read_at(0, &mut all)?;
    assert!(copy.contents() == all);
    Ok(places.iter().map(|at| all[*at as usize]).collect())
}

use Change::{Fill, Zeros};

#[test]
fn whole_sectors_are_put_together_again() {
    let changes = [Fill(3 * MIB, 1), Zeros(2 * MIB, 2), Fill(3 * MIB + 8192, 2)];
    let file = file(&[(0, entry(1, 0, &changes))]);
    let places = [
        3 * MIB,
        3 * MIB + 7,
        3 * MIB + 4095,
        3 * MIB + 4096,
        3 * MIB + 8192,
        2 * MIB,
        2 * MIB + 8191,
    ];
    assert_eq!(bytes_at_places(&file, &places).unwrap(), [1, 1, 1, 7, 2, 0, 0]);
}

#[test]
fn many_descriptors_take_more_than_one_sector() {
    let changes: Vec<Change> = (0..200)
        .map(|number| match number % 3 {
            0 => Zeros(3 * MIB + number * 4096, 1),
            _ => Fill(3 * MIB + number * 4096, number as u8),
        })
        .collect();
    let file = file(&[(4096, entry(1 << 40, 4096, &changes))]);
    let places: Vec<u64> = (0..201).map(|number| 3 * MIB + number * 4096).collect();
    let expected: Vec<u8> = (0..200)
        .map(|number| if number % 3 == 0 { 0 } else { number as u8 })
        .chain([7])
        .collect();
    assert_eq!(bytes_at_places(&file, &places).unwrap(), expected);
}

#[test]
fn only_the_newest_sequence_is_replayed_from_its_tail_on() {
    // One that is older, and of the newer one an entry before the tail.
    let file = file(&[
        (0, entry(3, 0, &[Fill(3 * MIB, 1)])),
        (
            100 * 4096,
            entry(7, 100 * 4096, &[Fill(3 * MIB, 2), Fill(3 * MIB + 4096, 2)]),
        ),
        (103 * 4096, entry(8, 100 * 4096, &[Fill(3 * MIB + 4096, 3)])),
        (105 * 4096, entry(9, 103 * 4096, &[Fill(3 * MIB + 8192, 4)])),
    ]);
    let places = [3 * MIB, 3 * MIB + 4096, 3 * MIB + 8192];
    assert_eq!(bytes_at_places(&file, &places).unwrap(), [7, 3, 4]);
}

#[test]
fn a_sequence_may_go_round_the_end_of_the_log() {
    let at = LENGTH - 3 * 4096;
    let file = file(&[
        (at, entry(5, at, &[Fill(3 * MIB, 1)])),
        (
            at + 2 * 4096,
            entry(6, at, &[Fill(3 * MIB + 4096, 2), Fill(3 * MIB + 8192, 3)]),
        ),
    ]);
    let places = [3 * MIB, 3 * MIB + 4096, 3 * MIB + 8192];
    assert_eq!(bytes_at_places(&file, &places).unwrap(), [1, 2, 3]);
}

#[test]
fn what_was_torn_by_the_power_cut_is_left_out() {
    let mut torn = entry(2, 0, &[Fill(3 * MIB, 9)]);
    torn[5000] ^= 1;
    let disk = file(&[(0, entry(1, 0, &[Fill(3 * MIB, 1)])), (8192, torn.clone())]);
    assert_eq!(bytes_at_places(&disk, &[3 * MIB]).unwrap(), [1]);
    // An entry of another log, and one whose tail is not there.
    let other = entry_with(Uuid::from_u128(9), 2, 0, &[Fill(3 * MIB, 9)], 0, 0);
    let lost = entry(9, 40 * 4096, &[Fill(3 * MIB, 9)]);
    let disk = file(&[
        (0, entry(1, 0, &[Fill(3 * MIB, 1)])),
        (8192, other.clone()),
        (80 * 4096, lost.clone()),
    ]);
    assert_eq!(bytes_at_places(&disk, &[3 * MIB]).unwrap(), [1]);
    // Nothing of this log at all: nothing was changed. Something, but nothing whole: nobody knows.
    assert_eq!(bytes_at_places(&file(&[(0, other)]), &[3 * MIB]).unwrap(), [7]);
    for entries in [vec![(8192, torn)], vec![(0, lost)]] {
        let error = bytes_at_places(&file(&entries), &[]).unwrap_err();
        assert!(
            error.to_string().contains("no sequence of entries that is whole"),
            "{error}"
        );
    }
}

#[test]
fn the_file_grows_to_what_the_log_needs_and_is_refused_if_it_was_cut() {
    let grown = entry_with(id(), 1, 0, &[Fill(6 * MIB, 5)], 4 * MIB, 8 * MIB);
    let disk = file(&[(0, grown)]);
    assert_eq!(
        bytes_at_places(&disk, &[6 * MIB, 5 * MIB, 8 * MIB - 1]).unwrap(),
        [5, 0, 0]
    );
    let cut = entry_with(id(), 1, 0, &[], 5 * MIB, 0);
    let error = bytes_at_places(&file(&[(0, cut)]), &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("had 5242880 bytes where 4194304 are left"),
        "{error}"
    );
    for change in [Fill(1 << 50, 1), Zeros(1 << 60, 1), Zeros(u64::MAX - 4095, 1)] {
        let error = bytes_at_places(&file(&[(0, entry(1, 0, &[change]))]), &[]).unwrap_err();
        assert!(error.to_string().contains("where no file reaches"), "{error}");
    }
}

#[test]
fn logs_that_cannot_be_are_refused() {
    let container: Arc<dyn Disk> = file(&[]);
    let refused = |change: fn(&mut Header)| {
        let mut header = header();
        change(&mut header);
        replayed(&container, &header).unwrap_err().to_string()
    };
    assert!(refused(|header| header.log_version = 1).contains("log of version 1"));
    assert!(refused(|header| header.log_offset = 0).contains("no place"));
    assert!(refused(|header| header.log_offset = MIB + 1).contains("no place"));
    assert!(refused(|header| header.log_offset = u64::MAX - 1).contains("no place"));
    assert!(refused(|header| header.log_length = 8 << 20).contains("no place"));
    assert!(refused(|header| header.log_length = 0).contains("no place"));
    let large: Arc<dyn Disk> = Arc::new(MemoryDisk::new("large", vec![0; 20 << 20]));
    let mut wide = header();
    wide.log_length = 17 << 20;
    let error = replayed(&large, &wide).unwrap_err();
    assert!(error.to_string().contains("larger than is replayed"), "{error}");
    let mut closed = header();
    closed.log = Uuid::nil();
    closed.log_version = 9;
    assert!(replayed(&container, &closed).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_log_is_replayed_or_refused(
        at in 0..5 * 4096_usize,
        byte in any::<u8>(),
        more in proptest::collection::vec((0..600_u64, 0..20_u64, 0..9_u64), 0..20),
    ) {
        let mut entries = vec![
            (0, entry(1, 0, &[Fill(3 * MIB, 1)])),
            (8192, entry(2, 0, &[Zeros(2 * MIB, 1), Fill(3 * MIB, 2)])),
        ];
        for (place, sequence, tail) in more {
            entries.push((place % 256 * 4096, entry(sequence, tail * 4096, &[Fill(3 * MIB, 3)])));
        }
        let disk = file(&entries);
        disk.write_at(LOG + at as u64, &[byte]).unwrap();
        let _ = bytes_at_places(&disk, &[]);
    }
}
