//! Parallels images that qemu-img made, with a few bytes changed.
#![no_main]

#[path = "../block_image.rs"]
mod block_image;
#[path = "../patched.rs"]
mod patched;

use libfuzzer_sys::fuzz_target;
use rehome::image::Format;

fuzz_target!(|data: &[u8]| {
    if let Some(image) = patched::image(patched::bases("parallels"), data) {
        block_image::exercise(Format::Parallels, image);
    }
});
