//! Logs of a VHDX that was not closed, over one that qemu-img made. Input: entries, each of them its place in the log
//! (one byte, in sectors), its sequence number, its tail (one byte, in sectors), how many descriptors it has, and for
//! each of those its kind, the place in the file (two bytes, in sectors) and the byte that it fills its sector with.
#![no_main]

#[path = "../patched.rs"]
mod patched;
#[path = "../sealed_vhdx.rs"]
mod sealed_vhdx;
#[path = "../writable_image.rs"]
mod writable_image;

use libfuzzer_sys::fuzz_target;
use rehome::image::Format;

const SECTOR: usize = 4096;
const LOG: usize = 1 << 20;
const LOG_ID: [u8; 16] = [7; 16];

/// An entry, and what of the input is left.
fn entry(data: &[u8]) -> Option<(usize, Vec<u8>, &[u8])> {
    let [place, sequence, tail, count, rest @ ..] = data else {
        return None;
    };
    let mut rest = rest;
    let count = usize::from(*count % 8);
    let sequence = u64::from(*sequence % 16);
    let mut bytes = vec![0; SECTOR];
    bytes[..4].copy_from_slice(b"loge");
    bytes[12..16].copy_from_slice(&(u32::from(*tail) << 12).to_le_bytes());
    bytes[16..24].copy_from_slice(&sequence.to_le_bytes());
    bytes[24..28].copy_from_slice(&(count as u32).to_le_bytes());
    bytes[32..48].copy_from_slice(&LOG_ID);
    bytes[48..56].copy_from_slice(&(4_u64 << 20).to_le_bytes());
    bytes[56..64].copy_from_slice(&(4_u64 << 20).to_le_bytes());
    for index in 0..count {
        let [kind, low, high, fill, after @ ..] = rest else {
            break;
        };
        rest = after;
        let at = 64 + index * 32;
        let offset = u64::from(u16::from_le_bytes([*low, *high]) & 0x0fff) << 12;
        bytes[at + 16..at + 24].copy_from_slice(&offset.to_le_bytes());
        bytes[at + 24..at + 32].copy_from_slice(&sequence.to_le_bytes());
        if kind % 4 == 0 {
            bytes[at..at + 4].copy_from_slice(b"zero");
            bytes[at + 8..at + 16].copy_from_slice(&(u64::from(*fill) << 12).to_le_bytes());
        } else {
            bytes[at..at + 4].copy_from_slice(b"desc");
            bytes[at + 4..at + 16].fill(*fill);
            let mut sector = vec![*fill; SECTOR];
            sector[..8].copy_from_slice(b"data\0\0\0\0");
            sector[4092..].copy_from_slice(&(sequence as u32).to_le_bytes());
            bytes.extend(sector);
        }
    }
    let length = bytes.len();
    bytes[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    sealed_vhdx::seal_structure(&mut bytes, 0, length);
    Some((usize::from(*place) * SECTOR, bytes, rest))
}

fuzz_target!(|data: &[u8]| {
    let Some(mut image) = patched::image(patched::bases("vhdx"), &data[..data.len().min(1)]) else {
        return;
    };
    for header in [64 << 10, 128 << 10] {
        image[header + 48..header + 64].copy_from_slice(&LOG_ID);
    }
    sealed_vhdx::seal(&mut image);
    let mut rest = data.get(1..).unwrap_or_default();
    while let Some((place, bytes, after)) = entry(rest) {
        for (index, byte) in bytes.into_iter().enumerate() {
            image[LOG + (place + index) % LOG] = byte;
        }
        rest = after;
    }
    writable_image::exercise(Format::Vhdx, image);
});
