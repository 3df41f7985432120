//! INF files: every section, line and field; models and installations for several Windows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::driver::{
    hardware_id::DeviceIds,
    inf::Inf,
    inf_rank::IdMatch,
    windows_version::{Architecture, Target, WindowsVersion},
};

fuzz_target!(|data: &[u8]| {
    let Ok(inf) = Inf::parse(data) else {
        return;
    };
    for section in inf.sections() {
        for line in section.lines() {
            let texts: Vec<_> = line.texts().collect();
            assert_eq!(texts.len(), line.count());
            assert!(texts.iter().all(|text| text.chars().count() <= 4096));
            let _ = (line.key(), line.integer(1));
        }
    }
    let _ = (inf.version(), inf.decorations());
    let device = DeviceIds::of_modalias("pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00");
    for (windows, architecture) in [("xp", Architecture::X86), ("7", Architecture::Amd64), ("11", Architecture::Amd64)] {
        let target = Target {
            windows: WindowsVersion::from_name(windows).expect("a known name"),
            architecture,
        };
        for model in inf.models(&target).unwrap_or_default().iter().take(20) {
            let _ = inf.installation(&model.install_section, &target);
            let _ = device.as_ref().and_then(|device| IdMatch::best(device, &model.ids));
        }
    }
    let _ = inf.all_models();
    let _ = inf.clone().in_language(0x407);
});
