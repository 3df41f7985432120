//! Machine descriptions: what is accepted can be written and read again, and planned for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::{
    machine,
    plan::{self, Options},
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(machine) = machine::parse("machine", text) else {
        return;
    };
    for firmware in [machine::Firmware::Bios, machine::Firmware::Uefi] {
        let plan = plan::make_raw(firmware, &machine, &Options::default());
        let json = serde_json::to_vec(&plan).expect("a plan is JSON");
        let again: plan::Plan = serde_json::from_slice(&json).expect("our own plan");
        assert_eq!(again, plan);
        let _ = plan.to_string();
    }
});
