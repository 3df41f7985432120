//! Saved plans: read, printed, and written again as they were.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::plan::Plan;

fuzz_target!(|data: &[u8]| {
    let Ok(plan) = serde_json::from_slice::<Plan>(data) else {
        return;
    };
    let _ = plan.to_string();
    let json = serde_json::to_vec(&plan).expect("a plan is JSON");
    assert_eq!(serde_json::from_slice::<Plan>(&json).expect("our own plan"), plan);
});
