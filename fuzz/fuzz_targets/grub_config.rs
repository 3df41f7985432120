//! grub.cfg: parsed and followed without a panic, in bounded time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::guest::{grub_config, grub_environment};

fuzz_target!(|contents: &[u8]| {
    // What stands before the first zero byte is the environment block.
    let (block, script) = match contents.iter().position(|byte| *byte == 0) {
        Some(zero) => (&contents[..zero], &contents[zero + 1..]),
        None => (&b""[..], contents),
    };
    let environment = grub_config::GrubEnvironment {
        platform: "pc".into(),
        prefix: "/boot/grub".into(),
        saved: grub_environment::parse(block),
    };
    let config = grub_config::parse(script, &environment);
    assert!(config.default.is_none_or(|default| default < config.entries.len()));
});
