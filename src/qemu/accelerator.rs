//! KVM where it works, else QEMU's own translator.

use super::boot::Running;
use std::{
    fs::File,
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM if a machine that is started for trial shows a sign of life, else the translator.
    #[default]
    Detect,
    /// The kernel's.
    Kvm,
    /// QEMU's translator: everywhere, and about ten times slower.
    Tcg,
}

/// SeaBIOS greets in a tenth of a second where KVM works. There are machines where it opens and then hangs.
const TRIAL: Duration = Duration::from_secs(3);

impl Accelerator {
    /// Decides; a trial is made at most once in the life of the program.
    pub(super) fn settled(self) -> Self {
        static KVM_WORKS: OnceLock<bool> = OnceLock::new();
        match self {
            Self::Detect if *KVM_WORKS.get_or_init(kvm_works) => Self::Kvm,
            Self::Detect => Self::Tcg,
            Self::Kvm | Self::Tcg => self,
        }
    }

    /// QEMU's arguments.
    pub(super) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // "max": systems of today refuse the 2003 processor that is the default.
            Self::Detect | Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// Does a machine without disks greet under KVM?
fn kvm_works() -> bool {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return false;
    }
    let mut command = Command::new(super::command::PROGRAM);
    command.args(Accelerator::Kvm.arguments()).args([
        "-machine",
        "q35,graphics=off",
        "-m",
        "64",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
    ]);
    let Ok(running) = Running::start(command) else {
        return false;
    };
    let deadline = Instant::now() + TRIAL;
    let mut seen = Vec::new();
    while let Some(bytes) = running.read_until(deadline) {
        seen.extend_from_slice(&bytes);
        if seen.windows(7).any(|window| window == b"SeaBIOS") {
            return true;
        }
        if bytes.is_empty() || seen.len() > 1 << 16 {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kvm_that_hangs_costs_seconds_and_no_more() {
        let begin = Instant::now();
        assert_ne!(Accelerator::Detect.settled(), Accelerator::Detect);
        assert!(begin.elapsed() < TRIAL * 3);
        assert_eq!(Accelerator::Tcg.settled(), Accelerator::Tcg);
    }
}
