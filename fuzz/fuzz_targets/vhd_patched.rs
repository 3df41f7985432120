//! VHDs that qemu-img made, with a few bytes changed and checksums that are right: the fields behind them are met.
#![no_main]

#[path = "../patched.rs"]
mod patched;
#[path = "../writable_image.rs"]
mod writable_image;

use libfuzzer_sys::fuzz_target;
use rehome::image::Format;

/// Recomputes the checksum at `place` of the structure of `length` bytes at `at`.
fn seal(image: &mut [u8], at: usize, length: usize, place: usize) {
    if let Some(structure) = image.get_mut(at..at + length) {
        structure[place..place + 4].fill(0);
        let sum = !structure.iter().fold(0_u32, |sum, byte| sum + u32::from(*byte));
        structure[place..place + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

fuzz_target!(|data: &[u8]| {
    if let Some(mut image) = patched::image(patched::bases("vhd"), data) {
        let end = image.len().saturating_sub(512);
        seal(&mut image, end, 512, 64);
        if image.starts_with(b"conectix") {
            seal(&mut image, 0, 512, 64);
            seal(&mut image, 512, 1024, 36);
        }
        writable_image::exercise(Format::Vhd, image);
    }
});
