//! `rehome drivers`: packages in folders, on discs and in RPM packages, found and matched as Windows would take them.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn rehome(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(arguments)
        .output()
        .unwrap()
}

fn json(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = rehome(arguments);
    let value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"));
    (value, output.status.code())
}

/// The smallest driver: headers with the right checksum, no sections. 0x8664 is x64, 0x14c x86.
fn driver(machine: u16) -> Vec<u8> {
    let wide = machine != 0x14c;
    let mut file = vec![0_u8; 0x200];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x80;
    file[0x80..0x84].copy_from_slice(b"PE\0\0");
    file[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
    let size: u16 = if wide { 240 } else { 224 };
    file[0x94..0x96].copy_from_slice(&size.to_le_bytes());
    let optional = 0x98;
    file[optional..optional + 2].copy_from_slice(&if wide { [0x0b, 2] } else { [0x0b, 1] });
    let mut put =
        |at: usize, value: u32| file[optional + at..optional + at + 4].copy_from_slice(&value.to_le_bytes());
    put(32, 0x1000);
    put(36, 0x200);
    put(60, 0x200);
    put(68, 1);
    put(if wide { 108 } else { 92 }, 16);
    let words = file
        .chunks(2)
        .map(|word| u32::from(u16::from_le_bytes([word[0], word[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = sum + file.len() as u32;
    file[optional + 64..optional + 68].copy_from_slice(&sum.to_le_bytes());
    file
}

/// A package for virtio-blk in the way of virtio-win.
fn inf(decoration: &str, version: &str) -> String {
    format!(
        "[Version]\r\nSignature=\"$Windows NT$\"\r\nClass=SCSIAdapter\r\nClassGuid={{4D36E97B-E325-11CE-BFC1-08002BE10318}}\r\n\
         Provider=%V%\r\nDriverVer={version}\r\nCatalogFile=viostor.cat\r\n\
         [SourceDisksNames]\r\n1=%V%\r\n[SourceDisksFiles]\r\nviostor.sys=1\r\n[DestinationDirs]\r\nDefaultDestDir=12\r\n\
         [Manufacturer]\r\n%V%=M,{decoration}\r\n[M.{decoration}]\r\n%D%=inst,PCI\\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00\r\n\
         %D%=inst,PCI\\VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01\r\n\
         [inst]\r\nCopyFiles=@viostor.sys\r\n[inst.Services]\r\nAddService=viostor,2,svc\r\n\
         [svc]\r\nServiceType=1\r\nStartType=0\r\nErrorControl=1\r\nServiceBinary=%12%\\viostor.sys\r\n\
         [Strings]\r\nV=\"Test, Inc.\"\r\nD=\"VirtIO disk\"\r\n"
    )
}

/// In names that say nothing: only the contents count.
fn packages(folder: &Path) {
    let package = |name: &str, decoration: &str, version: &str, machine: Option<u16>| {
        let folder = folder.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("VIOSTOR.INF"), inf(decoration, version)).unwrap();
        if let Some(machine) = machine {
            fs::write(folder.join("viostor.sys"), driver(machine)).unwrap();
        }
    };
    package("a", "NTamd64.6.1", "07/25/2018,60.76.104.15800", Some(0x8664));
    package("b", "NTamd64.10.0", "01/02/2024,100.94.104.24000", Some(0x8664));
    package("c", "NTx86.6.1", "01/02/2024,100.94.104.24000", Some(0x14c));
    package("d", "NTamd64.6.0", "01/02/2025,101.0.0.0", Some(0x14c));
    package("e", "NTamd64.6.0", "01/02/2025,101.0.0.0", None);
    fs::write(folder.join("broken.inf"), "[Version]\r\nSignature=none\r\n").unwrap();
}

#[test]
fn the_best_package_is_taken_and_the_others_say_why_not() {
    let folder = tempfile::tempdir().unwrap();
    packages(folder.path());
    let path = folder.path().to_str().unwrap();
    for (windows, arch, expected) in [
        ("10", "amd64", Some("b/VIOSTOR.INF")),
        ("7", "amd64", Some("a/VIOSTOR.INF")),
        ("7", "x86", Some("c/VIOSTOR.INF")),
        ("xp", "x86", None),
    ] {
        let arguments = [
            "drivers",
            "match",
            "--machine",
            "kvm",
            "--windows",
            windows,
            "--arch",
            arch,
            path,
            "--json",
        ];
        let (answer, code) = json(&arguments);
        assert_eq!(answer["schema"], 1);
        let disk = &answer["bindings"][0];
        assert_eq!(disk["device"], "virtio-blk");
        assert_eq!(
            disk["driver"]["inf"].as_str(),
            expected,
            "{windows} {arch}: {disk:#}"
        );
        // AHCI of the same machine comes with Windows from Vista on.
        assert_eq!(code, Some(if windows == "xp" { 3 } else { 0 }), "{windows}");
        let reason = |driver: &str| {
            let list = disk["considered"].as_array().unwrap();
            let found = list.iter().find(|considered| considered["driver"] == driver);
            found.map_or_else(String::new, |considered| {
                considered["reason"].as_str().unwrap().to_owned()
            })
        };
        if arch == "amd64" {
            assert!(
                reason("d/VIOSTOR.INF").contains("built for x86, not for amd64"),
                "{disk:#}"
            );
            assert!(
                reason("e/VIOSTOR.INF").contains("lacks files that its INF file names: viostor.sys"),
                "{disk:#}"
            );
            assert!(reason("c/VIOSTOR.INF").contains("is for NTx86.6.1"), "{disk:#}");
            let driver = &disk["driver"];
            assert_eq!(driver["service"], "viostor");
            assert_eq!(driver["ranking"]["rank"], "0xc0ff0000");
            assert!(
                driver["warnings"][0]
                    .as_str()
                    .unwrap()
                    .contains("no signature of its own"),
                "{driver:#}"
            );
        }
        if windows == "10" {
            assert!(
                reason("a/VIOSTOR.INF").contains("older: 60.76.104.15800 of 2018-07-25"),
                "{disk:#}"
            );
        }
    }
    let words = rehome(&["drivers", "match", "--machine", "kvm", "--windows", "10", path]);
    let text = String::from_utf8(words.stdout).unwrap();
    assert!(text.contains("viostor: b/VIOSTOR.INF"), "{text}");
    assert!(
        text.contains("ahci               storahci: mshdc.inf (comes with Windows)"),
        "{text}"
    );
}

#[test]
fn every_shipped_machine_starts_a_windows_that_has_its_driver() {
    for (machine, windows, expected) in [
        ("vmware-lsi", "7", "LSI_SAS"),
        ("vmware", "2022", "LSI_SAS"),
        ("hyperv-gen1", "xp", "intelide"),
        ("hyperv-gen2", "2012", "storvsc"),
        ("generic-ahci", "vista", "msahci"),
        ("generic-ahci", "11", "storahci"),
        ("generic-nvme", "8.1", "stornvme"),
    ] {
        let (answer, code) = json(&[
            "drivers",
            "match",
            "--machine",
            machine,
            "--windows",
            windows,
            "--json",
        ]);
        assert_eq!(code, Some(0), "{machine} {windows}");
        let bindings = answer["bindings"].as_array().unwrap();
        let storage = bindings
            .iter()
            .find(|binding| binding["role"] == "storage" && !binding["driver"].is_null());
        let driver = &storage.unwrap()["driver"];
        assert_eq!(driver["service"], expected, "{machine} {windows}");
        assert!(driver["source"].is_null() && !driver["chain"].as_array().unwrap().is_empty());
    }
    for (machine, windows) in [
        ("generic-nvme", "7"),
        ("hyperv-gen2", "2008"),
        ("vmware-lsi", "2003"),
    ] {
        let output = rehome(&["drivers", "match", "--machine", machine, "--windows", windows]);
        assert_eq!(output.status.code(), Some(3), "{machine} {windows}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("no driver"));
    }
}

#[test]
fn discs_and_rpm_packages_are_like_folders() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree/usr/share/virtio-win");
    packages(&tree);
    let (mut of_folder, _) = json(&[
        "drivers",
        "scan",
        folder.path().join("tree").to_str().unwrap(),
        "--json",
    ]);
    of_folder["source"] = Value::Null;
    assert_eq!(of_folder["packages"].as_array().unwrap().len(), 6);
    let made = |program: &str, arguments: &[&str], result: &str| match Command::new(program)
        .args(arguments)
        .current_dir(&folder)
        .output()
    {
        Ok(output) => {
            assert!(output.status.success(), "{program}: {output:?}");
            let (mut answer, _) = json(&[
                "drivers",
                "scan",
                folder.path().join(result).to_str().unwrap(),
                "--json",
            ]);
            answer["source"] = Value::Null;
            assert_eq!(answer, of_folder, "{program} {arguments:?}");
            let found = rehome(&[
                "drivers",
                "match",
                "--machine",
                "kvm",
                "--windows",
                "10",
                folder.path().join(result).to_str().unwrap(),
            ]);
            assert!(
                String::from_utf8_lossy(&found.stdout)
                    .contains("viostor: usr/share/virtio-win/b/VIOSTOR.INF"),
                "{found:?}"
            );
        }
        Err(_) => eprintln!("skipped: {program} is not installed"),
    };
    made(
        "genisoimage",
        &["-quiet", "-J", "-r", "-o", "joliet.iso", "tree"],
        "joliet.iso",
    );
    made(
        "genisoimage",
        &["-quiet", "-r", "-o", "rock-ridge.iso", "tree"],
        "rock-ridge.iso",
    );
    let spec = "Name: drivers\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n%description\nx\n%install\n\
                mkdir -p %{buildroot}\ncp -r %{_tree}/* %{buildroot}/\n%files\n/usr/share/virtio-win\n";
    fs::write(folder.path().join("d.spec"), spec).unwrap();
    for compression in ["w9.gzdio", "w6.xzdio", "w3.zstdio"] {
        let define = |name: &str, value: &str| format!("{name} {value}");
        let top = define("_topdir", folder.path().join("rpm").to_str().unwrap());
        let from = define("_tree", folder.path().join("tree").to_str().unwrap());
        let payload = define("_binary_payload", compression);
        let _ = fs::remove_dir_all(folder.path().join("rpm"));
        made(
            "rpmbuild",
            &[
                "-bb", "--quiet", "-D", &top, "-D", &from, "-D", &payload, "d.spec",
            ],
            "rpm/RPMS/noarch/drivers-1-1.noarch.rpm",
        );
    }
}

#[test]
fn what_is_no_place_of_packages_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, vec![0; 100_000]).unwrap();
    let output = rehome(&["drivers", "scan", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("neither a folder nor a disc image"), "{text}");
    fs::write(&file, [&[0xed, 0xab, 0xee, 0xdb][..], &[7; 1000]].concat()).unwrap();
    let output = rehome(&["drivers", "scan", file.to_str().unwrap()]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("no header of an RPM package"),
        "{output:?}"
    );
    assert_eq!(
        rehome(&["drivers", "scan", "/nowhere/at/all"]).status.code(),
        Some(1)
    );
    for (flag, value) in [("--windows", "95"), ("--arch", "mips")] {
        let mut arguments = vec!["drivers", "match", "--machine", "kvm", flag, value];
        if flag == "--arch" {
            arguments.extend(["--windows", "10"]);
        }
        let output = rehome(&arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(value),
            "{output:?}"
        );
    }
}

#[test]
fn the_inbox_table_is_listed() {
    let (all, _) = json(&["drivers", "list", "--json"]);
    let (seven, _) = json(&["drivers", "list", "--windows", "7", "--json"]);
    let names = |answer: &Value| -> Vec<String> {
        answer["inbox"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["service"].as_str().unwrap().to_owned())
            .collect()
    };
    assert!(names(&all).contains(&"storahci".to_owned()) && names(&all).contains(&"msahci".to_owned()));
    assert!(!names(&seven).contains(&"storahci".to_owned()) && names(&seven).contains(&"msahci".to_owned()));
    let text = String::from_utf8(rehome(&["drivers", "list"]).stdout).unwrap();
    assert!(
        text.contains("PCI\\CC_010802") && text.contains("prl_strg"),
        "{text}"
    );
}

/// Real packages of virtio-win without their `.sys` files.
#[test]
fn packages_of_virtio_win_are_found_by_what_they_hold() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples");
    let samples = std::env::var_os("REHOME_SAMPLES")
        .map_or(beside, PathBuf::from)
        .join("drivers/virtio-win-old");
    if !samples.is_dir() {
        eprintln!("skipped: REHOME_SAMPLES is not set, and there is no ../shared/samples");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let copied = folder.path().join("x");
    let status = Command::new("cp")
        .arg("-r")
        .args([&samples, &copied])
        .status()
        .unwrap();
    assert!(status.success());
    for (windows, arch, machine, expected) in [
        ("xp", "x86", 0x14c, "xp-viostor/Wxp/x86/viostor.inf"),
        ("7", "amd64", 0x8664, "Win7/amd64/viostor.inf"),
        ("8.1", "x86", 0x14c, "Win8.1/x86/viostor.inf"),
    ] {
        let path = copied.to_str().unwrap();
        let arguments = [
            "drivers",
            "match",
            "--machine",
            "kvm",
            "--windows",
            windows,
            "--arch",
            arch,
            path,
            "--json",
        ];
        let (answer, _) = json(&arguments);
        assert!(
            answer["bindings"][0]["driver"].is_null(),
            "{windows}: {:#}",
            answer["bindings"][0]
        );
        // With every driver that its INF files name beside them.
        for entry in walkdir::WalkDir::new(&copied).into_iter().map(Result::unwrap) {
            let built = if entry.path().display().to_string().contains("86") {
                0x14c
            } else {
                0x8664
            };
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "inf")
            {
                fs::write(entry.path().with_extension("sys"), driver(built)).unwrap();
            }
        }
        let (answer, _) = json(&arguments);
        let driver = &answer["bindings"][0]["driver"];
        eprintln!("{windows} {arch} {machine:x}: {}", driver["inf"]);
        let found = driver["inf"]
            .as_str()
            .unwrap_or_else(|| panic!("{windows}: {:#}", answer["bindings"][0]));
        assert_eq!(found, expected, "{windows}: {:#}", answer["bindings"][0]);
        assert_eq!(driver["signature"], "signed");
        for entry in walkdir::WalkDir::new(&copied).into_iter().map(Result::unwrap) {
            if entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "sys")
            {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}
