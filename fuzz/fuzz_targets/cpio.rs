#![no_main]
//! Plain cpio archives, with the contents of every file kept.

use libfuzzer_sys::fuzz_target;
use rehome::driver::initramfs::Image;

fuzz_target!(|data: &[u8]| {
    let Ok(image) = Image::read(data, &|_| true) else {
        return;
    };
    for (path, _) in image.iter() {
        if let Ok(path) = std::str::from_utf8(path) {
            let _ = image.get(path);
        }
    }
    for release in image.releases() {
        let _ = image.modules(&release);
        let _ = image.index(&release);
    }
});
