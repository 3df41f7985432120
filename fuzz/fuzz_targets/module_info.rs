#![no_main]
//! Module files, plain and compressed.

use libfuzzer_sys::fuzz_target;
use rehome::driver::module_info::ModuleInfo;

fuzz_target!(|data: &[u8]| {
    if let Ok(info) = ModuleInfo::parse("a.ko", data) {
        let _ = (info.name(), info.release(), info.depends());
    }
});
