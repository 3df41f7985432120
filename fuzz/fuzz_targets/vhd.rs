//! VHD: opened, mapped, read, checked and written.
#![no_main]

#[path = "../writable_image.rs"]
mod writable_image;

use libfuzzer_sys::fuzz_target;
use rehome::image::Format;

fuzz_target!(|data: &[u8]| {
    writable_image::exercise(Format::Vhd, data.to_vec());
});
