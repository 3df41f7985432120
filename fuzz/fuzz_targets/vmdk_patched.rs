//! VMDK images that qemu-img made, and extents of ESXi, with a few bytes changed.
#![no_main]

#[path = "../patched.rs"]
mod patched;
#[path = "../vmdk_image.rs"]
mod vmdk_image;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(image) = patched::image(patched::bases("vmdk"), data) {
        vmdk_image::exercise(image);
    }
});
