#![no_main]
//! Whole images, compressed ones too: whatever can be read can be added to, and the result can be read again.

use libfuzzer_sys::fuzz_target;
use rehome::driver::{
    initramfs::{self, AddedFile, AddedModule, Addition, Image},
    module_index::{IndexFiles, ModuleIndex},
};

fuzz_target!(|data: &[u8]| {
    let Ok(image) = Image::read(data, &|_| false) else {
        return;
    };
    let mut files = IndexFiles::default();
    files.insert("modules.dep", b"kernel/a.ko: kernel/b.ko.xz\nkernel/b.ko.xz:\n".to_vec());
    files.insert("modules.alias", b"alias pci:v* a\n".to_vec());
    let Ok(guest) = ModuleIndex::new(files) else {
        panic!("an index that is right was refused");
    };
    let addition = Addition {
        release: "6.1".to_owned(),
        modules: vec![AddedModule {
            path: "kernel/a.ko".to_owned(),
            contents: b"module".to_vec(),
        }],
        files: vec![AddedFile {
            path: "etc/systemd/network/a.link".to_owned(),
            permissions: 0o644,
            contents: b"text".to_vec(),
        }],
        load: vec!["a".to_owned()],
    };
    let Ok(segment) = initramfs::segment(&image, &guest, &addition, 0) else {
        return;
    };
    let appendix = initramfs::append(&image, &segment.cpio);
    let keep = usize::try_from(appendix.keep).unwrap_or(usize::MAX);
    let mut new = data.get(..keep).unwrap_or_default().to_vec();
    new.extend_from_slice(&appendix.bytes);
    match Image::read(&new[..], &|_| false) {
        Ok(again) => {
            assert!(again.modules("6.1").iter().any(|module| module.name == "a"));
            assert!(again.get("etc/systemd/network/a.link").is_some());
        }
        Err(error) => panic!("{error}"),
    }
});
