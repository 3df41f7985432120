//! What the system's own programs tell: architecture, version of systemd.

use super::{files::Files, text::lossy};
use crate::{
    disk::field,
    fs::{GuestPath, mounts::Found},
};
use std::io::{BufRead, BufReader, Read};

/// Programs that start a system, best first.
const INITS: [&str; 6] = [
    "/sbin/init",
    "/usr/sbin/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/bin/init",
    "/init",
];
/// The package database of a large installation has some ten MiB.
const MAX_STATUS: u64 = 64 << 20;
/// Bytes of its lines that are looked at.
const MAX_LINE: u64 = 4096;

/// The program that starts the system.
pub(crate) fn init(files: &Files) -> Option<Found> {
    let found = INITS.iter().filter_map(|path| files.find(&(*path).into()));
    found.into_iter().find(|found| found.attributes.is_file())
}

/// From the ELF header of the init or a shell, as `uname -m` says it.
pub(crate) fn architecture(files: &Files) -> Option<String> {
    let shells = ["/bin/sh", "/bin/dash", "/usr/bin/bash", "/bin/busybox"];
    let shells = shells.iter().filter_map(|path| files.find(&(*path).into()));
    init(files)
        .into_iter()
        .chain(shells)
        .find_map(|program| elf_machine(&head(files, &program)?))
        .map(str::to_owned)
}

fn head(files: &Files, program: &Found) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let reader = files.mounts.open_found(program).ok()?;
    reader.take(64).read_to_end(&mut head).ok()?;
    Some(head)
}

/// System V ABI, "ELF Header": `e_ident` with class at 4 and byte order at 5, `e_machine` at 18.
fn elf_machine(header: &[u8]) -> Option<&'static str> {
    if !header.starts_with(b"\x7fELF") {
        return None;
    }
    let wide = field::u8_at(header, 4).ok()? == 2;
    let little = field::u8_at(header, 5).ok()? == 1;
    let machine = if little {
        field::u16_le(header, 18)
    } else {
        field::u16_be(header, 18)
    };
    Some(match (machine.ok()?, wide, little) {
        (62, true, _) => "x86_64",
        (62, false, _) => "x32",
        (3, ..) => "i686",
        (183, ..) => "aarch64",
        (40, ..) => "arm",
        (243, true, _) => "riscv64",
        (243, false, _) => "riscv32",
        (21, _, true) => "ppc64le",
        (21, _, false) => "ppc64",
        (22, true, _) => "s390x",
        (258, true, _) => "loongarch64",
        (8, ..) => "mips",
        _ => return None,
    })
}

/// systemd's major version: from the name of its private library, or else from the package database.
pub(crate) fn systemd_version(files: &Files) -> Option<u32> {
    let mut folders: Vec<GuestPath> = vec!["/usr/lib/systemd".into(), "/lib/systemd".into()];
    if !folders.iter().any(|folder| files.find(folder).is_some()) {
        return None;
    }
    let libraries = GuestPath::from("/usr/lib");
    let multiarch = files.names(&libraries).into_iter();
    let multiarch = multiarch.filter(|name| lossy(name).contains("-linux-gnu"));
    folders.extend(multiarch.map(|name| libraries.join(name).join("systemd")));
    folders
        .iter()
        .flat_map(|folder| files.names(folder))
        .find_map(|name| library_version(&lossy(&name)))
        .or_else(|| package_version(files))
}

/// "libsystemd-shared-252.so", "libsystemd-shared-252-13.el9.so".
fn library_version(name: &str) -> Option<u32> {
    let version = name.strip_prefix("libsystemd-shared-")?.strip_suffix(".so")?;
    leading_number(version)
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

/// `Version:` in the paragraph of the package in dpkg's database (deb-control(5)).
fn package_version(files: &Files) -> Option<u32> {
    let status = files.mounts.open(&"/var/lib/dpkg/status".into()).ok()??;
    let mut reader = BufReader::new(status.take(MAX_STATUS));
    let mut line = Vec::new();
    let mut is_systemd = false;
    loop {
        line.clear();
        // A longer line is read in pieces, of which none is what is looked for.
        let piece = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        if piece.ok()? == 0 {
            return None;
        }
        if let Some(package) = line.strip_prefix(b"Package: ") {
            is_systemd = package.trim_ascii() == b"systemd";
        } else if let (true, Some(version)) = (is_systemd, line.strip_prefix(b"Version: ")) {
            // An epoch stands before a colon.
            let version = lossy(version.trim_ascii());
            let version = version.split_once(':').map_or(&*version, |(_, rest)| rest);
            return leading_number(version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Mounts, memory_tree::MemoryTree};

    fn on<T>(tree: MemoryTree, look: impl Fn(&Files) -> T) -> T {
        let mut mounts = Mounts::new(vec![("v".into(), Box::new(tree))]);
        mounts.mount(&"/".into(), 0).unwrap();
        look(&Files::new(&mounts))
    }

    #[test]
    fn architecture_of_this_machine() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let tree = MemoryTree::new("ext4", "u")
            .link("/sbin", "usr/sbin")
            .link("/usr/sbin/init", "../lib/systemd/systemd")
            .file("/usr/lib/systemd/systemd", &own[..64]);
        assert_eq!(on(tree, architecture).as_deref(), Some(std::env::consts::ARCH));
        let script = MemoryTree::new("ext4", "u").file("/sbin/init", "#!/bin/sh");
        assert_eq!(on(script, architecture), None);
    }

    #[test]
    fn version_of_systemd() {
        let library = MemoryTree::new("ext4", "u")
            .directory("/usr/lib/systemd")
            .file("/usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-257.so", "");
        assert_eq!(on(library, systemd_version), Some(257));
        let package = MemoryTree::new("ext4", "u").directory("/lib/systemd").file(
            "/var/lib/dpkg/status",
            "Package: libsystemd0\nVersion: 1\n\nPackage: systemd\nStatus: x\nVersion: 2:232-25+deb9u12\n",
        );
        assert_eq!(on(package, systemd_version), Some(232));
        let none = MemoryTree::new("ext4", "u").directory("/lib");
        assert_eq!(on(none, systemd_version), None);
    }
}
