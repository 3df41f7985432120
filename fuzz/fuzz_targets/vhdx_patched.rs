//! VHDXs that qemu-img made, with a few bytes changed.
#![no_main]

#[path = "../patched.rs"]
mod patched;
#[path = "../sealed_vhdx.rs"]
mod sealed_vhdx;
#[path = "../writable_image.rs"]
mod writable_image;

use libfuzzer_sys::fuzz_target;
use rehome::image::Format;

fuzz_target!(|data: &[u8]| {
    if let Some(mut image) = patched::image(patched::bases("vhdx"), data) {
        sealed_vhdx::seal(&mut image);
        writable_image::exercise(Format::Vhdx, image);
    }
});
