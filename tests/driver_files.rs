//! Driver files as compilers and signing tools make them, and catalogs of real packages.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::driver::{
    catalog::Catalog,
    pe::{Pe, PeError},
    signed_data::DigestAlgorithm,
    windows_version::Architecture,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Runs a tool; `None`, with a message, where it is not installed.
fn tool(folder: &Path, program: &str, arguments: &[&str]) -> Option<()> {
    match Command::new(program).args(arguments).current_dir(folder).output() {
        Ok(output) => {
            assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
            Some(())
        }
        Err(_) => {
            eprintln!("skipped: {program} is not installed");
            None
        }
    }
}

const SOURCE: &str = "
__declspec(dllimport) void DbgPrint(const char *, ...);
__declspec(dllimport) void KeStallExecutionProcessor(unsigned);
int DriverEntry(void *driver, void *path) { DbgPrint(\"hello\"); KeStallExecutionProcessor(5); return 0; }
";
const EXPORTS: &str = "LIBRARY ntoskrnl.exe\nEXPORTS\nDbgPrint\nKeStallExecutionProcessor\n";

/// A driver that imports two functions of the kernel.
fn driver(folder: &Path) -> Option<PathBuf> {
    fs::write(folder.join("d.c"), SOURCE).unwrap();
    fs::write(folder.join("k.def"), EXPORTS).unwrap();
    tool(
        folder,
        "x86_64-w64-mingw32-dlltool",
        &["-d", "k.def", "-l", "libk.a"],
    )?;
    let options = "-nostdlib -shared -Wl,--subsystem,native:6.1 -Wl,--entry,DriverEntry -o d.sys d.c -L. -lk";
    tool(
        folder,
        "x86_64-w64-mingw32-gcc",
        &options.split(' ').collect::<Vec<_>>(),
    )?;
    Some(folder.join("d.sys"))
}

/// The same with a signature by that digest.
fn sign(folder: &Path, digest: &str, more: &[&str], from: &str, to: &str) -> Option<Vec<u8>> {
    if !folder.join("key.pem").exists() {
        let request =
            "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 10 -subj /CN=test";
        tool(folder, "openssl", &request.split(' ').collect::<Vec<_>>())?;
    }
    let mut arguments = vec![
        "sign", "-certs", "cert.pem", "-key", "key.pem", "-h", digest, "-in", from, "-out", to,
    ];
    arguments.extend(more);
    tool(folder, "osslsigncode", &arguments)?;
    Some(fs::read(folder.join(to)).unwrap())
}

#[test]
fn a_driver_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = driver(folder.path()) else { return };
    let plain = fs::read(&path).unwrap();
    let pe = Pe::parse(&plain).unwrap();
    assert_eq!(pe.architecture, Some(Architecture::Amd64));
    assert!(pe.native);
    assert_eq!(pe.least_windows, (6, 1));
    assert_eq!(pe.signature, None);
    // The linker computes a checksum of its own.
    assert_eq!(pe.checksum.0, pe.checksum.1);
    assert_eq!(pe.imports.len(), 1);
    assert_eq!(
        pe.imports["ntoskrnl.exe"],
        ["DbgPrint", "KeStallExecutionProcessor"]
    );
    let old_kernel = |function: &str| function != "KeStallExecutionProcessor";
    assert_eq!(
        pe.missing_imports("NTOSKRNL.EXE", old_kernel),
        ["KeStallExecutionProcessor"]
    );
    let mut damaged = plain;
    let last = damaged.len() - 1;
    damaged[last] ^= 0x55;
    let pe = Pe::parse(&damaged).unwrap();
    assert_ne!(pe.checksum.0, pe.checksum.1);
}

#[test]
fn signatures_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    if driver(folder).is_none() {
        return;
    }
    let Some(old) = sign(folder, "sha1", &[], "d.sys", "old.sys") else {
        return;
    };
    let digests = |bytes: &[u8]| {
        let pe = Pe::parse(bytes).unwrap();
        assert_eq!(pe.checksum.0, pe.checksum.1);
        pe.signature.unwrap().digests
    };
    assert_eq!(digests(&old), [DigestAlgorithm::Sha1]);
    let new = sign(folder, "sha256", &[], "d.sys", "new.sys").unwrap();
    assert_eq!(digests(&new), [DigestAlgorithm::Sha256]);
    // A signature that was cut off.
    let cut = Pe::parse(&new[..new.len() - 100]).unwrap_err();
    assert!(cut.to_string().contains("cut off"), "{cut}");
}

#[test]
fn damaged_drivers_are_errors_and_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let Some(path) = driver(folder.path()) else { return };
    let plain = fs::read(&path).unwrap();
    assert!(matches!(Pe::parse(b""), Err(PeError::Header(_))));
    assert!(matches!(Pe::parse(b"MZ"), Err(PeError::Header(_))));
    for cut in (0..plain.len()).step_by(13) {
        let _ = Pe::parse(&plain[..cut]);
    }
    for at in 0..plain.len().min(0x400) {
        for value in [0, 0x7f, 0xff] {
            let mut damaged = plain.clone();
            damaged[at] = value;
            let _ = Pe::parse(&damaged);
        }
        // Whole fields of the largest value: sizes and addresses that wrap.
        let mut damaged = plain.clone();
        damaged[at..at + 4].fill(0xff);
        let _ = Pe::parse(&damaged);
    }
}

#[test]
fn catalogs_of_real_packages_are_read() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples");
    let samples = std::env::var_os("REHOME_SAMPLES")
        .map_or(beside, PathBuf::from)
        .join("drivers");
    if !samples.is_dir() {
        eprintln!("skipped: REHOME_SAMPLES is not set, and there is no ../shared/samples");
        return;
    }
    let (mut read, mut sha2, mut with_system) = (0, 0, 0);
    for entry in walkdir::WalkDir::new(&samples).into_iter().map(Result::unwrap) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "cat") {
            continue;
        }
        let bytes = fs::read(path).unwrap();
        let catalog = Catalog::parse(&bytes).unwrap_or_else(|| panic!("{}", path.display()));
        assert!(
            !catalog.digests.is_empty() && catalog.members > 0,
            "{}",
            path.display()
        );
        read += 1;
        sha2 += usize::from(catalog.digests.contains(&DigestAlgorithm::Sha256));
        with_system += usize::from(catalog.attribute("os").is_some());
        for cut in (0..bytes.len()).step_by(211) {
            let _ = Catalog::parse(&bytes[..cut]);
        }
    }
    eprintln!("{read} catalogs, {sha2} by SHA-256, {with_system} with systems");
    assert!(read > 100 && sha2 > 10 && sha2 < read && with_system > 50);
    let known = fs::read(samples.join("virtio-win-old/Win8/amd64/vioscsi.cat")).unwrap();
    let catalog = Catalog::parse(&known).unwrap();
    assert!(catalog.attribute("OS").unwrap().contains("X64"), "{catalog:?}");
    assert!(
        catalog
            .files
            .iter()
            .any(|file| file.eq_ignore_ascii_case("vioscsi.sys")),
        "{catalog:?}"
    );
}
