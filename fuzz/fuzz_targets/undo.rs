//! Undo files: the input is one whose checksums are mended, so that what stands behind them is reached.
//!
//! Input: the header's two sizes and path length (a byte each), the container's size (a byte), then records of four
//! bytes: kind, offset, count (both in 256 bytes) and a filler; bit 7 of the kind leaves the checksum as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::{undo, watch::Unwatched};
use std::path::PathBuf;

fuzz_target!(|data: &[u8]| {
    let [before, after, path, size, records @ ..] = data else {
        return;
    };
    let folder = PathBuf::from("/dev/shm");
    let file = folder.join(format!("rehome-fuzz-undo-{}", std::process::id()));
    let container = folder.join(format!("rehome-fuzz-container-{}", std::process::id()));
    let mut bytes = b"RHMUNDO\0".to_vec();
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(u32::from(*path).to_le_bytes());
    bytes.extend((u64::from(*before) * 256).to_le_bytes());
    bytes.extend((u64::from(*after) * 256).to_le_bytes());
    bytes.extend(vec![b'/'; usize::from(*path)]);
    bytes.extend(crc32c(&bytes).to_le_bytes());
    for record in records.chunks_exact(4) {
        let [kind, offset, count, filler] = [record[0], record[1], record[2], record[3]];
        let whole = bytes.len();
        // A few numbers at the edge of what a field takes.
        let wide = |number: u8, filler: u8| match filler {
            250 => u64::MAX - u64::from(number),
            251 => (1 << 63) + u64::from(number),
            _ => u64::from(number) * 256,
        };
        bytes.extend(u32::from(kind & 7).to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(if kind & 7 == 3 { u64::from(offset) } else { wide(offset, filler) }.to_le_bytes());
        let count = if kind & 7 == 4 { 32 } else { wide(count, filler) };
        bytes.extend(count.to_le_bytes());
        if matches!(kind & 7, 1 | 4) && count < 1 << 16 {
            bytes.extend(vec![filler; usize::try_from(count).expect("it is small")]);
        }
        let checksum = crc32c(&bytes[whole..]) ^ u32::from(kind >> 7);
        bytes.extend(checksum.to_le_bytes());
    }
    std::fs::write(&file, &bytes).expect("memory");
    std::fs::write(&container, vec![5; usize::from(*size) * 256]).expect("memory");
    if undo::undo(&file, Some(&container), &Unwatched).is_ok() {
        // What was taken back can be taken back again.
        assert!(undo::undo(&file, Some(&container), &Unwatched).is_ok());
    }
    // As it comes: nothing mended.
    std::fs::write(&file, data).expect("memory");
    let _ = undo::undo(&file, Some(&container), &Unwatched);
    let _ = std::fs::remove_file(&file);
    let _ = std::fs::remove_file(&container);
});

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |mut sum, byte| {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(sum & 1));
        }
        sum
    })
}
