//! KVM where it works, else QEMU's own translator.

use super::boot::Running;
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    fs::File,
    io::Write as _,
    os::fd::AsRawFd as _,
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

/// Where KVM works the trial takes half a second, on a machine that is itself a good virtual one two. There are machines
/// where it opens, lets SeaBIOS greet, and takes a quarter of a millisecond for every exit: a boot loader then needs
/// minutes, and the trial 16 seconds.
const TRIAL: Duration = Duration::from_secs(4);

/// A boot sector that does what boot loaders do, 2000 times: into protected mode, back, and ask the BIOS for the time.
/// Then it prints "switched". It is loaded at 7c00.
const TRIAL_SECTOR: &[u8] = &[
    0xea, 0x05, 0x7c, 0x00, 0x00, // 7c00: ljmp 0:7c05
    0xfa, 0x31, 0xc0, // 7c05: cli; xor ax, ax
    0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // ds = es = ss = 0
    0xbc, 0x00, 0x7c, // sp = 7c00
    0xbd, 0xd0, 0x07, // bp = 2000
    0xfa, 0x0f, 0x01, 0x16, 0xa5, 0x7c, // 7c14: cli; lgdt [7ca5]
    0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, // cr0 |= 1
    0xea, 0x27, 0x7c, 0x08, 0x00, // ljmp 8:7c27, 32 bits wide
    0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // 7c27: ds = es = ss = 16
    0xea, 0x38, 0x7c, 0x00, 0x00, 0x18, 0x00, // ljmp 24:7c38, 16 bits wide
    0xb8, 0x20, 0x00, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // 7c38: ds = es = ss = 32
    0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0, // cr0 &= ~1
    0xea, 0x4e, 0x7c, 0x00, 0x00, // ljmp 0:7c4e
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // 7c4e: ds = es = ss = 0
    0xfb, 0xb4, 0x02, 0xcd, 0x1a, // sti; int 1a, function 2
    0x4d, 0x75, 0xb6, // dec bp; jnz 7c14
    0xbe, 0x72, 0x7c, // si = 7c72
    0xac, 0x84, 0xc0, 0x74, 0x09, // 7c61: next byte; none: 7c6f
    0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10, // int 10, function 0e
    0xeb, 0xf2, // jmp 7c61
    0xf4, 0xeb, 0xfd, // 7c6f: hlt, again
    b's', b'w', b'i', b't', b'c', b'h', b'e', b'd', b'\r', b'\n', 0, // 7c72
    0, 0, 0, 0, 0, 0, 0, 0, // 7c7d: descriptor table
    0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0, // code, 32 bits
    0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0, // data, 32 bits
    0xff, 0xff, 0, 0, 0, 0x9a, 0, 0, // code, 16 bits
    0xff, 0xff, 0, 0, 0, 0x92, 0, 0, // data, 16 bits
    0x27, 0x00, 0x7d, 0x7c, 0x00, 0x00, // 7ca5: its size and place
];

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

/// Does a machine do under KVM in a short time what every boot loader does?
fn kvm_works() -> bool {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok_and(|_| trial(Accelerator::Kvm))
}

/// Is the boot sector at its end in time?
fn trial(accelerator: Accelerator) -> bool {
    let mut sector = TRIAL_SECTOR.to_vec();
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    sector.resize(1 << 20, 0);
    let Ok(disk) = memfd_create("boot sector", MemfdFlags::CLOEXEC) else {
        return false;
    };
    let mut disk = File::from(disk);
    if disk.write_all(&sector).is_err() {
        return false;
    }
    let mut command = Command::new(super::command::PROGRAM);
    command
        .args(accelerator.arguments())
        .args(["-machine", "q35,graphics=off", "-m", "64", "-nodefaults"])
        .args([
            "-no-user-config",
            "-display",
            "none",
            "-vga",
            "none",
            "-serial",
            "stdio",
        ])
        .arg("-drive")
        .arg(format!(
            "id=disk,if=none,format=raw,snapshot=on,file=/proc/{}/fd/{}",
            std::process::id(),
            disk.as_raw_fd()
        ))
        .args(["-device", "ide-hd,drive=disk,bus=ide.0"]);
    let Ok(running) = Running::start(command) else {
        return false;
    };
    let deadline = Instant::now() + TRIAL;
    let mut seen = Vec::new();
    while let Some(bytes) = running.read_until(deadline) {
        seen.extend_from_slice(&bytes);
        if seen.windows(8).any(|window| window == b"switched") {
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
        assert!(begin.elapsed() < TRIAL * 5);
        assert_eq!(Accelerator::Tcg.settled(), Accelerator::Tcg);
    }

    #[test]
    fn the_trial_ends_well_where_the_accelerator_works() {
        // The translator works everywhere; a test machine that is busy may need more than one chance.
        assert!((0..5).any(|_| trial(Accelerator::Tcg)));
    }
}
