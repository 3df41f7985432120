//! qcow2 images that qemu-img made, with a few bytes changed.
#![no_main]

#[path = "../patched.rs"]
mod patched;
#[path = "../qcow2_image.rs"]
mod qcow2_image;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(image) = patched::image(patched::bases("qcow2"), data) {
        qcow2_image::exercise(image);
    }
});
