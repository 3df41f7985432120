#![no_main]
//! The configuration of modprobe, in files and on the kernel command line.

use libfuzzer_sys::fuzz_target;
use rehome::driver::modprobe::ModprobeConfig;

fuzz_target!(|data: &[u8]| {
    let mut config = ModprobeConfig::from_folders([("/etc/modprobe.d/a.conf", data)]);
    config.add_kernel_command_line(&String::from_utf8_lossy(data));
    let _ = config.blacklisted("floppy");
    let _ = config.alias("pci:v00001AF4d00001042");
});
