//! UDF: reading all there is. Checksums are mended, so that mutations get behind them.
#![no_main]

#[path = "../file_system.rs"]
mod file_system;

use libfuzzer_sys::fuzz_target;
use rehome::{disk::MemoryDisk, fs::udf::Udf};
use std::sync::Arc;

/// Of the blocks of small volumes, which inputs have.
const BLOCK: usize = 512;

fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| crc << 1 ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 })
    })
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    bytes.truncate(bytes.len() / BLOCK * BLOCK);
    for block in bytes.chunks_mut(BLOCK) {
        let kind = u16::from_le_bytes([block[0], block[1]]);
        if !matches!(kind, 1..=9 | 256..=266) {
            continue;
        }
        let length = usize::from(u16::from_le_bytes([block[10], block[11]])).min(BLOCK - 16);
        block[10..12].copy_from_slice(&(length as u16).to_le_bytes());
        let sum = crc(&block[16..16 + length]);
        block[8..10].copy_from_slice(&sum.to_le_bytes());
        let others = block[..16].iter().enumerate().filter(|(at, _)| *at != 4);
        block[4] = others.fold(0_u8, |sum, (_, byte)| sum.wrapping_add(*byte));
    }
    let size = bytes.len() as u64;
    if let Ok(Some(mut disc)) = Udf::open(Arc::new(MemoryDisk::new("disc", bytes))) {
        file_system::walk(&disc, size);
        file_system::edit(&mut disc);
    }
});
