//! qcow (version 1): opened, mapped, read, checked and edited.
#![no_main]

#[path = "../block_image.rs"]
mod block_image;

use libfuzzer_sys::fuzz_target;
use rehome::image::Format;

fuzz_target!(|data: &[u8]| {
    block_image::exercise(Format::Qcow, data.to_vec());
});
