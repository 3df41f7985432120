//! qcow2: opened, mapped, read and checked.
#![no_main]

#[path = "../qcow2_image.rs"]
mod qcow2_image;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    qcow2_image::exercise(data.to_vec());
});
