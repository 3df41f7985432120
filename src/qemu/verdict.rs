//! What the lines on a console say about a start.

use std::fmt;

/// How far a guest came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// To its login prompt or multi-user target; or the line that was waited for.
    Booted,
    /// systemd's emergency or rescue shell: the root is there, something else is not.
    Emergency,
    /// The kernel gave up.
    Panic,
    /// The initramfs found no root and offers a shell.
    Initramfs,
    /// The boot loader runs and does not find its files or the kernel.
    BootLoaderStopped,
    /// The firmware found nothing to start.
    NoBootLoader,
    /// Time was up; something was on the console, but nothing that decides.
    TimedOut,
    /// Time was up, and after the firmware and the boot loader nothing was on the console.
    Silent,
    /// The machine was switched off before anything decided.
    Stopped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Booted => "booted",
            Self::Emergency => "stopped in emergency mode",
            Self::Panic => "kernel panic",
            Self::Initramfs => "dropped to the initramfs shell",
            Self::BootLoaderStopped => "the boot loader stopped",
            Self::NoBootLoader => "no boot loader",
            Self::TimedOut => "not done in time",
            Self::Silent => {
                "silent (a guest whose kernel has no console=ttyS0 says nothing on its serial line)"
            }
            Self::Stopped => "switched off",
        })
    }
}

/// The texts that decide, wherever they stand in a line. The first that fits counts.
const DECIDING: &[(&str, Verdict)] = &[
    // Linux, kernel/panic.c.
    ("Kernel panic - not syncing", Verdict::Panic),
    // initramfs-tools, scripts/local and scripts/functions.
    ("Gave up waiting for root", Verdict::Initramfs),
    ("Dropping to a shell!", Verdict::Initramfs),
    ("(initramfs)", Verdict::Initramfs),
    // dracut.
    ("Starting Dracut Emergency Shell", Verdict::Initramfs),
    ("dracut:/#", Verdict::Initramfs),
    // systemd.
    ("You are in emergency mode", Verdict::Emergency),
    ("You are in rescue mode", Verdict::Emergency),
    ("Give root password for maintenance", Verdict::Emergency),
    (
        "Cannot open access to console, the root account is locked",
        Verdict::Emergency,
    ),
    ("Freezing execution", Verdict::Panic),
    // GRUB.
    ("grub rescue>", Verdict::BootLoaderStopped),
    ("grub>", Verdict::BootLoaderStopped),
    ("you need to load the kernel first", Verdict::BootLoaderStopped),
    // SeaBIOS, and boot sectors of DOS's descent.
    ("No bootable device", Verdict::NoBootLoader),
    ("Missing operating system", Verdict::NoBootLoader),
    ("Operating system not found", Verdict::NoBootLoader),
    // OVMF.
    ("BdsDxe: No bootable option", Verdict::NoBootLoader),
    ("UEFI Interactive Shell", Verdict::NoBootLoader),
    (
        "Press any key to enter the Boot Manager Menu",
        Verdict::NoBootLoader,
    ),
];

/// What systemd calls the targets that end a start.
const LAST_TARGETS: [&str; 4] = [
    "multi-user.target",
    "Multi-User System",
    "graphical.target",
    "Graphical Interface",
];

/// What one line decides. `marker`: a text that alone counts as booted; without it a login prompt or systemd's last
/// targets do.
pub(super) fn of_line(line: &str, marker: Option<&str>) -> Option<Verdict> {
    match marker {
        Some(marker) if line.contains(marker) => return Some(Verdict::Booted),
        Some(_) => {}
        None => {
            let reached =
                line.contains("Reached target") && LAST_TARGETS.iter().any(|name| line.contains(name));
            // "physical login:", by agetty's default issue; never "Last login: …".
            let prompt = line
                .trim_end()
                .strip_suffix("login:")
                .is_some_and(|host| host.ends_with(' ') && host.split_whitespace().count() == 1);
            if reached || prompt {
                return Some(Verdict::Booted);
            }
        }
    }
    DECIDING
        .iter()
        .find(|(text, _)| line.contains(text))
        .map(|(_, verdict)| *verdict)
}

/// Lines that come from firmware and boot loader: with nothing else on the console the guest itself was silent.
pub(super) fn is_before_the_kernel(line: &str) -> bool {
    const EARLY: [&str; 14] = [
        "SeaBIOS",
        "iPXE",
        "Press Ctrl-B",
        "Booting from",
        "Booting `",
        "GRUB",
        "BdsDxe",
        "Loading Linux",
        "Loading initial ramdisk",
        "no suitable video mode",
        "Booting in blind mode",
        "Start PXE",
        "EFI stub",
        "UEFI",
    ];
    EARLY.iter().any(|text| line.contains(text))
}

/// Lines that no firmware or boot loader prints: a kernel runs, or what it has started.
pub(super) fn is_of_a_kernel(line: &str) -> bool {
    const OF_A_SYSTEM: [&str; 8] = [
        "Linux version",
        "Decompressing Linux",
        "Loading, please wait",
        "Begin: ",
        "systemd",
        "dracut",
        "[  OK  ]",
        "Starting version",
    ];
    // "[    0.000000] ", by the kernel's printk.time.
    let stamped = line.trim_start().strip_prefix('[').is_some_and(|rest| {
        rest.split_once(']').is_some_and(|(time, _)| {
            let time = time.trim_start();
            time.contains('.') && time.chars().all(|c| c.is_ascii_digit() || c == '.')
        })
    });
    stamped || OF_A_SYSTEM.iter().any(|text| line.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_lines_decide() {
        for (line, verdict) in [
            ("physical login: ", Some(Verdict::Booted)),
            ("Last login: Mon Nov 23 on ttyS0", None),
            ("Failed to start login:", None),
            (
                "[  OK  ] Reached target multi-user.target - Multi-User System.",
                Some(Verdict::Booted),
            ),
            ("[  OK  ] Reached target network.target - Network.", None),
            (
                "[    3.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
                Some(Verdict::Panic),
            ),
            (
                "ALERT!  /dev/sda1 does not exist.  Dropping to a shell!",
                Some(Verdict::Initramfs),
            ),
            ("(initramfs) ", Some(Verdict::Initramfs)),
            ("grub rescue> ", Some(Verdict::BootLoaderStopped)),
            (
                "No bootable device.  Retrying in 1 seconds.",
                Some(Verdict::NoBootLoader),
            ),
            (
                "BdsDxe: No bootable option or device was found.",
                Some(Verdict::NoBootLoader),
            ),
            (
                "BdsDxe: failed to load Boot0001 \"UEFI QEMU HARDDISK\": Not Found",
                None,
            ),
        ] {
            assert_eq!(of_line(line, None), verdict, "{line}");
        }
    }

    #[test]
    fn a_kernel_is_told_from_a_boot_loader_whose_lines_are_cut() {
        for line in [
            "L",
            "oading Linux 6.1.0-50-amd64 ...",
            "Welcome to GR",
            "UB!",
            "[grub]",
            "[1.2",
        ] {
            assert!(!is_of_a_kernel(line), "{line}");
        }
        for line in [
            "[    0.000000] Linux version 6.1.0",
            "[   12.345678] x",
            "Loading, please wait...",
            "[  OK  ] Reached target",
        ] {
            assert!(is_of_a_kernel(line), "{line}");
        }
    }

    #[test]
    fn with_a_marker_nothing_else_counts_as_booted() {
        assert_eq!(of_line("physical login: ", Some("DONE")), None);
        assert_eq!(of_line("all DONE here", Some("DONE")), Some(Verdict::Booted));
        assert_eq!(of_line("(initramfs) ", Some("DONE")), Some(Verdict::Initramfs));
    }
}
