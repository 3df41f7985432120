//! The definition that lies beside a converted system: libvirt takes it, or there is none and the report says why.

mod small_guest;

use small_guest::{disk, run};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn convert(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .current_dir(folder)
        .args(["convert", "source.img", "--to", "kvm"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn source(folder: &Path) -> u64 {
    let source = folder.join("source.img");
    fs::rename(disk(folder), &source).unwrap();
    source.metadata().unwrap().len()
}

fn validate(definition: &Path) {
    run(Command::new("virt-xml-validate").arg(definition).arg("domain"));
}

#[test]
fn a_block_device_is_one_in_the_definition_too() {
    let folder = tempfile::tempdir().unwrap();
    let size = source(folder.path());
    let target = folder.path().join("target");
    fs::File::create(&target).unwrap().set_len(size).unwrap();
    // Loop devices want root, which the test machines are.
    let device = run(Command::new("losetup").args(["--find", "--show"]).arg(&target));
    let device = device.trim();
    // By another name than libvirt wants.
    let up = folder.path().components().skip(1).map(|_| "..");
    let named = format!("{}{device}", up.collect::<Vec<_>>().join("/"));
    let converted = std::panic::catch_unwind(|| {
        convert(folder.path(), &["-o", &named, "--yes-erase", &named]);
    });
    run(Command::new("losetup").args(["-d", device]));
    converted.unwrap();
    let name = device.trim_start_matches("/dev/");
    let definition = folder.path().join(format!("{name}.xml"));
    let xml = fs::read_to_string(&definition).unwrap();
    assert!(xml.contains("<disk type='block' device='disk'>"), "{xml}");
    let path = xml
        .split("<source dev='")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let path = Path::new(path.unwrap());
    assert!(path.is_absolute());
    assert_eq!(path.canonicalize().unwrap(), Path::new(device));
    validate(&definition);
}

#[test]
fn a_format_that_libvirt_does_not_know_gets_no_definition_and_the_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    source(folder.path());
    for format in ["raw", "qcow2", "vmdk", "vpc", "vdi", "vhdx"] {
        let out = format!("{format}.disk");
        let output = convert(folder.path(), &["-O", format, "-o", &out]);
        let definition = folder.path().join(format!("{format}.xml"));
        let report = fs::read(folder.path().join(format!("{format}.report.json"))).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
        let warnings = report["warnings"].to_string();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if format == "vhdx" {
            assert!(!definition.exists());
            for text in [warnings, said] {
                assert!(
                    text.contains(
                        "no definition for libvirt was made: libvirt knows no disks in the format vhdx"
                    ),
                    "{text}"
                );
            }
        } else {
            validate(&definition);
            assert!(!warnings.contains("libvirt"), "{warnings}");
        }
    }
}
