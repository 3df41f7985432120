//! Guests that were installed on other hardware boot after `rehome convert`, and did not before.
//!
//! The guests are built from Debian packages by `fixtures/build.sh` and kept outside the repository. Each prints a line
//! when it has come up: which units failed, which addresses its interfaces have, whether the gateway answers there.

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Condvar, Mutex},
};

/// What an unconverted guest does on the new machine.
enum Before {
    /// It does not come up; how far it gets, as `rehome boot` calls it.
    Stops(&'static str),
    /// It comes up, with no address on any interface.
    HasNoNetwork,
}

/// A guest, where it moves, and what is expected of it.
struct Move {
    fixture: &'static str,
    to: &'static str,
    before: Before,
    /// `name=address` of every interface that must be up.
    networks: &'static [&'static str],
    /// More arguments of `convert`.
    arguments: &'static [&'static str],
}

const DHCP: &[&str] = &["enp0s2=10.0.2.15/24"];

#[test]
fn bios_mbr_with_sd_names_moves_to_virtio_blk() {
    moves(&Move {
        fixture: "bios-mbr",
        to: "kvm",
        before: Before::Stops("Initramfs"),
        networks: DHCP,
        arguments: &[],
    });
}

#[test]
fn uefi_gpt_without_fallback_loader_moves_to_virtio_scsi() {
    moves(&Move {
        fixture: "uefi-gpt",
        to: "kvm-scsi",
        before: Before::Stops("NoBootLoader"),
        networks: DHCP,
        arguments: &[],
    });
}

#[test]
fn a_dirty_journal_is_replayed_before_it_is_edited() {
    moves(&Move {
        fixture: "dirty-journal",
        to: "kvm",
        before: Before::Stops("Initramfs"),
        networks: DHCP,
        arguments: &[],
    });
}

#[test]
fn ahci_to_ahci_still_loses_its_network_names_unless_converted() {
    moves(&Move {
        fixture: "bios-mbr",
        to: "kvm-sata",
        before: Before::HasNoNetwork,
        networks: DHCP,
        arguments: &[],
    });
}

#[test]
#[ignore = "long: make test-all"]
fn two_adapters_keep_their_names() {
    moves(&Move {
        fixture: "two-adapters",
        to: "kvm",
        before: Before::Stops("Initramfs"),
        networks: &["enp0s2=10.0.2.15/24", "storage=10.0.3.15/24"],
        arguments: &[],
    });
}

#[test]
#[ignore = "long: make test-all"]
fn a_separate_boot_partition_and_a_resume_device() {
    moves(&Move {
        fixture: "separate-boot",
        to: "kvm",
        before: Before::Stops("Initramfs"),
        networks: DHCP,
        arguments: &[],
    });
}

#[test]
#[ignore = "long: make test-all"]
fn netplan() {
    moves(&Move {
        fixture: "netplan",
        to: "kvm",
        before: Before::Stops("NoBootLoader"),
        networks: DHCP,
        arguments: &[],
    });
}

/// From virtual to physical, as it were: from virtio to AHCI and e1000e.
#[test]
#[ignore = "long: make test-all"]
fn ubuntu_of_a_cloud_to_ahci() {
    moves(&Move {
        fixture: "ubuntu",
        to: "kvm-sata",
        before: Before::Stops("NoBootLoader"),
        networks: &["eth0=10.0.2.15/24"],
        arguments: &[],
    });
}

#[test]
#[ignore = "long: make test-all"]
fn uefi_to_ahci() {
    moves(&Move {
        fixture: "uefi-gpt",
        to: "kvm-sata",
        before: Before::Stops("NoBootLoader"),
        networks: DHCP,
        arguments: &["-O", "raw"],
    });
}

#[test]
#[ignore = "long: make test-all"]
fn initramfs_by_gzip() {
    moves_compressed("bios-mbr-gzip");
}

#[test]
#[ignore = "long: make test-all"]
fn initramfs_by_xz() {
    moves_compressed("bios-mbr-xz");
}

#[test]
#[ignore = "long: make test-all"]
fn initramfs_by_lz4() {
    moves_compressed("bios-mbr-lz4");
}

#[test]
#[ignore = "long: make test-all"]
fn initramfs_by_bzip2() {
    moves_compressed("bios-mbr-bzip2");
}

#[test]
#[ignore = "long: make test-all"]
fn initramfs_by_nothing() {
    moves_compressed("bios-mbr-none");
}

#[test]
#[ignore = "long: make test-all"]
fn modules_by_xz() {
    moves_compressed("modules-xz");
}

#[test]
#[ignore = "long: make test-all"]
fn modules_by_zstd() {
    moves_compressed("modules-zst");
}

/// bios-mbr with other compression: what is different is seen after the conversion alone.
fn moves_compressed(fixture: &'static str) {
    moves(&Move {
        fixture,
        to: "kvm-scsi",
        before: Before::Stops("Initramfs"),
        networks: DHCP,
        arguments: &[],
    });
}

fn moves(expected: &Move) {
    let _turn = Turn::wait();
    let source = fixture(expected.fixture);
    let written = fs::metadata(&source).unwrap().modified().unwrap();

    let before = boot(&source, expected.to);
    match expected.before {
        Before::Stops(verdict) => assert_eq!(before["verdict"], verdict, "before the conversion: {before:#}"),
        Before::HasNoNetwork => {
            assert_eq!(before["verdict"], "Booted", "before the conversion: {before:#}");
            let networks = field(&report_line(&before), "networks");
            assert_eq!(networks, "", "it has a network before the conversion: {before:#}");
        }
    }

    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let converted = folder.path().join("guest.qcow2");
    let output = rehome()
        .arg("convert")
        .arg(&source)
        .args(["--to", expected.to, "-o"])
        .arg(&converted)
        .args(expected.arguments)
        .output()
        .unwrap();
    succeeded("convert", &output);

    let after = boot(&converted, expected.to);
    assert_eq!(after["verdict"], "Booted", "after the conversion: {after:#}");
    let line = report_line(&after);
    assert_eq!(field(&line, "failed"), "", "units failed: {line}");
    let networks = field(&line, "networks");
    let found: Vec<&str> = networks.split_whitespace().collect();
    let wanted: Vec<String> = expected
        .networks
        .iter()
        .map(|network| format!("{network},gateway=yes"))
        .collect();
    assert_eq!(found, wanted, "{line}");
    assert_ne!(field(&line, "swap"), "", "the swap area is not in use: {line}");

    assert_eq!(
        fs::metadata(&source).unwrap().modified().unwrap(),
        written,
        "the source was written"
    );
}

/// Builds the guest, or finds it in the cache.
fn fixture(name: &str) -> PathBuf {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/build.sh"))
        .arg(name)
        .output()
        .unwrap();
    succeeded("fixtures/build.sh", &output);
    let text = String::from_utf8(output.stdout).unwrap();
    PathBuf::from(text.lines().last().expect("the path of the image"))
}

/// Starts a snapshot and waits for the guest's own report.
fn boot(disk: &Path, machine: &str) -> Value {
    // There are machines where KVM starts a guest and then hangs, sometimes late: a test needs what runs everywhere.
    let accelerator = std::env::var("REHOME_TEST_ACCELERATOR").unwrap_or_else(|_| "tcg".to_owned());
    // Three guests at once on two processors that others use, too, have taken four minutes.
    let output = rehome()
        .arg("boot")
        .arg(disk)
        .args(["--accelerator", &accelerator])
        .args(["--on", machine, "--wait-for", "REHOME-BOOTED"])
        .args(["--timeout", "900", "--memory", "512", "--quiet", "--json"])
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!(
            "rehome boot {}: {error}\n{}",
            disk.display(),
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

/// The line that the guest's report-boot.service printed.
fn report_line(booted: &Value) -> String {
    let lines = booted["last_lines"].as_array().unwrap();
    let line = lines
        .iter()
        .filter_map(Value::as_str)
        .find(|line| line.contains("REHOME-BOOTED"));
    line.unwrap_or_else(|| panic!("no report: {booted:#}")).to_owned()
}

/// What stands between the brackets of `name=[…]`.
fn field(line: &str, name: &str) -> String {
    let (_, rest) = line.split_once(&format!(" {name}=[")).expect(name);
    let (value, _) = rest.split_once(']').expect("a closing bracket");
    value.to_owned()
}

fn rehome() -> Command {
    Command::new(env!("CARGO_BIN_EXE_rehome"))
}

fn succeeded(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// At most two guests at a time: the test machines have two processors.
struct Turn;

static RUNNING: Mutex<u8> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

impl Turn {
    fn wait() -> Self {
        // A test that failed poisons nothing here: the count is right whatever happened.
        let running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut running = ENDED
            .wait_while(running, |running| *running >= 2)
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}
