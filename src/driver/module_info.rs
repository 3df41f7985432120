//! What a module says of itself: the section `.modinfo` of its ELF file, "key=value" with a zero behind each (Linux,
//! include/linux/moduleparam.h and module.h).

use super::compression::decompress;
use goblin::{
    container::Ctx,
    elf::{Elf, SectionHeader},
};
use std::collections::BTreeMap;
use thiserror::Error;

/// The largest module that is read, unpacked.
const MAX_MODULE: usize = 128 << 20;
/// The section of the largest known module has 200 KiB.
const MAX_SECTION: usize = 8 << 20;

/// Why a module cannot be read.
#[derive(Debug, Error)]
pub enum ModuleInfoError {
    /// It cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] std::io::Error),
    /// It is no ELF file, or a damaged one.
    #[error("{module}: {text}; the guest's package of this kernel must be installed again")]
    Elf {
        /// The module, as the caller named it.
        module: String,
        /// What is wrong.
        text: String,
    },
}

/// The fields of `.modinfo`, each with its values in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleInfo {
    fields: BTreeMap<String, Vec<String>>,
}

impl ModuleInfo {
    /// Reads a module file, compressed or not; `module` names it in errors.
    pub fn parse(module: &str, file: &[u8]) -> Result<Self, ModuleInfoError> {
        let plain = decompress(module, file, MAX_MODULE)?;
        let failed = |text: String| ModuleInfoError::Elf {
            module: module.to_owned(),
            text,
        };
        let section = section(&plain).map_err(failed)?;
        Ok(Self::from_section(section))
    }

    fn from_section(section: &[u8]) -> Self {
        let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for field in section.split(|b| *b == 0) {
            let field = String::from_utf8_lossy(field);
            if let Some((key, value)) = field.split_once('=') {
                fields.entry(key.to_owned()).or_default().push(value.to_owned());
            }
        }
        Self { fields }
    }

    /// All values of a field, in order.
    pub fn all(&self, key: &str) -> &[String] {
        self.fields.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    fn first(&self, key: &str) -> Option<&str> {
        self.all(key).first().map(String::as_str)
    }

    /// "virtio_blk"; kernels before 4.13 do not say.
    pub fn name(&self) -> Option<&str> {
        self.first("name")
    }

    /// "6.1.0-28-amd64 SMP preempt mod_unload modversions": the kernel loads it only if this is its own.
    pub fn vermagic(&self) -> Option<&str> {
        self.first("vermagic")
    }

    /// The release of the kernel that it was built for.
    pub fn release(&self) -> Option<&str> {
        self.vermagic()?.split(' ').next()
    }

    /// "GPL".
    pub fn license(&self) -> Option<&str> {
        self.first("license")
    }

    /// Patterns of modaliases that it answers to.
    pub fn aliases(&self) -> &[String] {
        self.all("alias")
    }

    /// Names of the modules whose symbols it uses.
    pub fn depends(&self) -> Vec<&str> {
        let lists = self.all("depends").iter();
        lists
            .flat_map(|list| list.split(','))
            .filter(|name| !name.is_empty())
            .collect()
    }

    /// "pre: a post: b".
    pub fn soft_dependencies(&self) -> &[String] {
        self.all("softdep")
    }

    /// Files below `/lib/firmware` that it may ask for ("bnx2x/bnx2x-e2-7.13.21.0.fw"). Most drivers need only one
    /// of those that they name.
    pub fn firmware(&self) -> &[String] {
        self.all("firmware")
    }
}

/// The contents of `.modinfo`. Only the section headers are parsed, so hostile symbols and notes cost nothing.
fn section(file: &[u8]) -> Result<&[u8], String> {
    let header = Elf::parse_header(file).map_err(|error| format!("no ELF file: {error}"))?;
    let (Ok(container), Ok(endianness)) = (header.container(), header.endianness()) else {
        return Err("its ELF header is damaged".to_owned());
    };
    let offset =
        usize::try_from(header.e_shoff).map_err(|_| "its section headers lie too far out".to_owned())?;
    // Zero would make the parser believe a count that stands elsewhere.
    let count = usize::from(header.e_shnum).max(1);
    let headers = SectionHeader::parse(file, offset, count, Ctx::new(container, endianness))
        .map_err(|error| format!("its section headers are damaged: {error}"))?;
    let names = headers
        .get(usize::from(header.e_shstrndx))
        .and_then(|names| contents(file, names))
        .ok_or("its section names are damaged")?;
    let found = headers
        .iter()
        .find(|section| {
            names
                .get(section.sh_name..)
                .is_some_and(|name| name.starts_with(b".modinfo\0"))
        })
        .ok_or("it has no section .modinfo, so it is no kernel module")?;
    contents(file, found)
        .filter(|section| section.len() <= MAX_SECTION)
        .ok_or_else(|| "its section .modinfo is damaged".to_owned())
}

fn contents<'a>(file: &'a [u8], section: &SectionHeader) -> Option<&'a [u8]> {
    let start = usize::try_from(section.sh_offset).ok()?;
    let length = usize::try_from(section.sh_size).ok()?;
    file.get(start..start.checked_add(length)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A module as the C compiler makes it.
    fn module(fields: &[&str]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let mut source = String::new();
        for (number, field) in fields.iter().enumerate() {
            source += &format!(
                "static const char i{number}[] __attribute__((section(\".modinfo\"), used)) = \"{field}\";\n"
            );
        }
        std::fs::write(folder.path().join("m.c"), source).unwrap();
        let status = Command::new("cc")
            .args(["-c", "m.c"])
            .current_dir(&folder)
            .status()
            .unwrap();
        assert!(status.success());
        std::fs::read(folder.path().join("m.o")).unwrap()
    }

    const FIELDS: [&str; 9] = [
        "license=GPL v2",
        "alias=pci:v00001AF4d*",
        "alias=virtio:d00000002v*",
        "depends=virtio,virtio_ring",
        "softdep=pre: a post: b",
        "firmware=bnx2x/e2-7.13.fw",
        "firmware=bnx2x/e1.fw",
        "name=virtio_blk",
        "vermagic=6.1.0-28-amd64 SMP preempt mod_unload modversions ",
    ];

    #[test]
    fn every_field_of_a_module() {
        let info = ModuleInfo::parse("a.ko", &module(&FIELDS)).unwrap();
        assert_eq!(
            (info.name(), info.license()),
            (Some("virtio_blk"), Some("GPL v2"))
        );
        assert_eq!(info.release(), Some("6.1.0-28-amd64"));
        assert_eq!(info.aliases(), ["pci:v00001AF4d*", "virtio:d00000002v*"]);
        assert_eq!(info.depends(), ["virtio", "virtio_ring"]);
        assert_eq!(info.firmware(), ["bnx2x/e2-7.13.fw", "bnx2x/e1.fw"]);
        assert_eq!(info.soft_dependencies(), ["pre: a post: b"]);
    }

    #[test]
    fn what_is_no_module_is_an_error() {
        for file in [&b""[..], b"\x7fELF", b"#!/bin/sh\n", &module(&[])] {
            let error = ModuleInfo::parse("a.ko", file).unwrap_err().to_string();
            assert!(error.starts_with("a.ko: "), "{error}");
        }
    }

    #[test]
    fn damage_never_panics() {
        let file = module(&FIELDS);
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = file.clone();
                damaged[at] = value;
                let _ = ModuleInfo::parse("a.ko", &damaged);
            }
            let _ = ModuleInfo::parse("a.ko", &file[..at]);
        }
    }
}
