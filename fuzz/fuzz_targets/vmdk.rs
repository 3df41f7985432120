//! VMDK: opened, mapped, read, checked and edited.
#![no_main]

#[path = "../vmdk_image.rs"]
mod vmdk_image;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    vmdk_image::exercise(data.to_vec());
});
