//! VHDX: the structures that a file begins with, from the input, in a file of 4 MiB; opened, mapped, read, checked and
//! written. Input: pieces of up to 64 KiB at 0, 64 KiB, 128 KiB, 192 KiB, 256 KiB, 1 MiB, 3 MiB, 3 MiB and 64 KiB,
//! 2 MiB; before each is its length in two bytes.
#![no_main]

#[path = "../sealed_vhdx.rs"]
mod sealed_vhdx;
#[path = "../writable_image.rs"]
mod writable_image;

use libfuzzer_sys::fuzz_target;
use rehome::image::Format;

fuzz_target!(|data: &[u8]| {
    let mut image = vec![0; 4 << 20];
    let table = 3 << 20;
    let places = [
        0,
        64 << 10,
        128 << 10,
        192 << 10,
        256 << 10,
        1 << 20,
        table,
        table + (64 << 10),
        2 << 20,
    ];
    let mut rest = data;
    for place in places {
        let [low, high, after @ ..] = rest else {
            break;
        };
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        image[place..place + length].copy_from_slice(&after[..length]);
        rest = &after[length..];
    }
    sealed_vhdx::seal(&mut image);
    writable_image::exercise(Format::Vhdx, image);
});
