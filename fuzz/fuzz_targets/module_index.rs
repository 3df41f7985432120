#![no_main]
//! Module indexes, text and binary: the input is files, each after a byte that says which.

use libfuzzer_sys::fuzz_target;
use rehome::driver::{
    modalias,
    modprobe::ModprobeConfig,
    module_index::{BINARY_INDEX_FILES, INDEX_FILES, IndexFiles, IndexedModule, ModuleIndex, merge},
};

fuzz_target!(|data: &[u8]| {
    let mut files = IndexFiles::default();
    for part in data.split(|byte| *byte == 0xfe) {
        let Some((which, contents)) = part.split_first() else {
            continue;
        };
        let names: Vec<&str> = INDEX_FILES.iter().chain(&BINARY_INDEX_FILES).copied().collect();
        if let Some(name) = names.get(usize::from(*which) % names.len()) {
            files.insert(name, contents.to_vec());
        }
    }
    let _ = modalias::matches(data, b"pci:v00001AF4d00001042");
    let Ok(index) = ModuleIndex::new(files) else {
        return;
    };
    let config = ModprobeConfig::default();
    let names: Vec<String> = index.modules().iter().map(|module| module.name.clone()).collect();
    let closure = index.dependencies(names.iter().map(String::as_str), &config);
    assert!(closure.load.len() <= names.len());
    let _ = index.lookup("pci:v00001AF4d00001042");
    let modules: Vec<IndexedModule> = index
        .modules()
        .iter()
        .map(|module| IndexedModule {
            name: module.name.clone(),
            path: module.path.clone(),
        })
        .collect();
    let merged = merge(Some(&index), &index, &modules);
    // What is written is read again, and says the same.
    let mut text = IndexFiles::default();
    let mut binary = IndexFiles::default();
    for (name, contents) in merged.files {
        text.insert(name, contents.clone());
        if name.ends_with(".bin") {
            binary.insert(name, contents);
        }
    }
    let (Ok(text), Ok(_)) = (ModuleIndex::new(text), ModuleIndex::new(binary)) else {
        panic!("our own index cannot be read");
    };
    assert!(text.modules().len() <= index.modules().len());
});
