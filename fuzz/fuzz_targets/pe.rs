//! Executables, and the signatures and catalogs that are of the same DER.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::driver::{catalog::Catalog, pe::Pe};

fuzz_target!(|data: &[u8]| {
    if let Ok(pe) = Pe::parse(data) {
        let _ = pe.missing_imports("ntoskrnl.exe", |_| false);
    }
    if let Some(catalog) = Catalog::parse(data) {
        let _ = catalog.attribute("OS");
    }
});
