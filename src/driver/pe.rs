//! Executable files of Windows: what a driver is built for, what it needs of the kernel, how it is signed (Microsoft, "PE
//! Format"). Headers are read by `goblin`, tables of imports here, so that every loop has its limit.

use super::{
    signed_data::{self, DigestAlgorithm},
    windows_version::Architecture,
};
use crate::disk::field::{bytes_at, u16_le, u32_le, u64_le};
use goblin::pe::{
    header::{
        COFF_MACHINE_ARM64, COFF_MACHINE_ARMNT, COFF_MACHINE_IA64, COFF_MACHINE_X86, COFF_MACHINE_X86_64,
        Header,
    },
    section_table::SectionTable,
};
use serde::Serialize;
use std::collections::BTreeMap;
use thiserror::Error;

/// `IMAGE_SUBSYSTEM_NATIVE`: drivers.
const NATIVE: u16 = 1;
/// Modules that one file imports from; the Windows kernel itself has under 20.
const MOST_MODULES: usize = 1000;
/// Functions of all modules; the largest drivers have some thousand.
const MOST_FUNCTIONS: usize = 50_000;
/// Characters of a name.
const LONGEST_NAME: usize = 4096;
/// `IMAGE_DIRECTORY_ENTRY_SECURITY`: PKCS #7.
const PKCS_SIGNED_DATA: u16 = 2;

/// Why a file is no driver that could be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PeError {
    /// No PE file.
    #[error("is no executable of Windows: {0}")]
    Header(String),
    /// Damaged inside.
    #[error("is a damaged executable: {0}")]
    Damaged(&'static str),
}

/// What is known of an executable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pe {
    /// `None`: a processor that Windows does not run on any more.
    pub architecture: Option<Architecture>,
    /// It runs in the kernel, or before any subsystem.
    pub native: bool,
    /// The oldest Windows that it says it is for.
    pub least_windows: (u16, u16),
    /// Functions by module, both as they are spelled there; functions without a name are "#ordinal".
    pub imports: BTreeMap<String, Vec<String>>,
    /// The checksum that it has, and the one that it should have. The boot loader refuses drivers where they differ.
    pub checksum: (u32, u32),
    /// The embedded signature; `None`: none.
    pub signature: Option<EmbeddedSignature>,
}

/// A signature inside an executable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EmbeddedSignature {
    /// Digests of each certificate table entry, the strongest last; empty: not readable.
    pub digests: Vec<DigestAlgorithm>,
}

impl Pe {
    /// Reads a whole file.
    ///
    /// # Errors
    /// [`PeError`]: no executable, or one whose headers, sections or imports lead out of it.
    pub fn parse(bytes: &[u8]) -> Result<Self, PeError> {
        let header = Header::parse(bytes).map_err(|error| PeError::Header(error.to_string()))?;
        let optional = header
            .optional_header
            .ok_or(PeError::Damaged("it has no optional header"))?;
        let coff = header.coff_header;
        let start = usize::try_from(header.dos_header.pe_pointer).unwrap_or(usize::MAX);
        let optional_start = start.saturating_add(4 + 20);
        let mut sections_start = optional_start.saturating_add(usize::from(coff.size_of_optional_header));
        let sections = coff
            .sections(bytes, &mut sections_start)
            .map_err(|_| PeError::Damaged("its table of sections lies outside of it"))?;
        let windows = optional.windows_fields;
        check_sections(
            &sections,
            bytes.len(),
            windows.section_alignment,
            windows.file_alignment,
        )?;
        let wide = match optional.standard_fields.magic {
            0x10b => false,
            0x20b => true,
            _ => {
                return Err(PeError::Damaged(
                    "its optional header is of no kind that there is",
                ));
            }
        };
        let image = Image {
            bytes,
            sections: &sections,
            headers: windows.size_of_headers,
            wide,
        };
        let imports = match optional.data_directories.get_import_table() {
            Some(table) if table.virtual_address != 0 => image.imports(table.virtual_address)?,
            _ => BTreeMap::new(),
        };
        let signature = optional
            .data_directories
            .get_certificate_table()
            .filter(|table| table.size != 0)
            .map(|table| signature(bytes, table.virtual_address, table.size))
            .transpose()?;
        let checksum_at = optional_start.saturating_add(64);
        Ok(Self {
            architecture: architecture(coff.machine),
            native: windows.subsystem == NATIVE,
            least_windows: (windows.major_subsystem_version, windows.minor_subsystem_version),
            imports,
            checksum: (windows.check_sum, checksum(bytes, checksum_at)),
            signature,
        })
    }

    /// Functions that it imports from `module` and that `has` does not know.
    pub fn missing_imports<'a>(&'a self, module: &str, has: impl Fn(&str) -> bool) -> Vec<&'a str> {
        let tables = self
            .imports
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(module));
        let functions = tables.flat_map(|(_, functions)| functions);
        functions
            .map(String::as_str)
            .filter(|function| !has(function))
            .collect()
    }
}

fn architecture(machine: u16) -> Option<Architecture> {
    match machine {
        COFF_MACHINE_X86 => Some(Architecture::X86),
        COFF_MACHINE_X86_64 => Some(Architecture::Amd64),
        COFF_MACHINE_IA64 => Some(Architecture::Ia64),
        COFF_MACHINE_ARMNT => Some(Architecture::Arm),
        COFF_MACHINE_ARM64 => Some(Architecture::Arm64),
        _ => None,
    }
}

/// Every section lies in the file, and where the alignments say ("Optional Header Windows-Specific Fields").
fn check_sections(sections: &[SectionTable], size: usize, section: u32, file: u32) -> Result<(), PeError> {
    if !section.is_power_of_two() || !file.is_power_of_two() || section < file || file > 0x1_0000 {
        return Err(PeError::Damaged("its alignments are none that Windows loads"));
    }
    for table in sections {
        let end = u64::from(table.pointer_to_raw_data).saturating_add(u64::from(table.size_of_raw_data));
        if table.size_of_raw_data != 0 && end > size as u64 {
            return Err(PeError::Damaged(
                "a section reaches past its end: the file was cut off",
            ));
        }
        if table.virtual_address % section != 0 {
            return Err(PeError::Damaged(
                "a section does not lie where its alignment says",
            ));
        }
    }
    Ok(())
}

struct Image<'a> {
    bytes: &'a [u8],
    sections: &'a [SectionTable],
    headers: u32,
    wide: bool,
}

const OUTSIDE: PeError = PeError::Damaged("its imports lead out of it");

impl Image<'_> {
    /// Where in the file an address of the loaded image is.
    fn offset(&self, address: u32) -> Option<usize> {
        if address < self.headers {
            return usize::try_from(address).ok();
        }
        let section = self.sections.iter().find(|section| {
            // Loaded in pages; a hostile size reaches past the last one.
            let loaded = section
                .virtual_size
                .max(1)
                .checked_next_multiple_of(0x1000)
                .unwrap_or(u32::MAX);
            let length = section.size_of_raw_data.min(loaded);
            address
                .checked_sub(section.virtual_address)
                .is_some_and(|within| within < length)
        })?;
        let within = address.checked_sub(section.virtual_address)?;
        usize::try_from(section.pointer_to_raw_data.checked_add(within)?).ok()
    }

    fn name(&self, address: u32) -> Result<String, PeError> {
        let rest = self
            .offset(address)
            .and_then(|at| self.bytes.get(at..))
            .ok_or(OUTSIDE)?;
        let end = rest
            .iter()
            .take(LONGEST_NAME)
            .position(|byte| *byte == 0)
            .ok_or(OUTSIDE)?;
        Ok(String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned())
    }

    /// "The .idata Section": a directory of modules, each with a table of names or ordinals.
    fn imports(&self, directory: u32) -> Result<BTreeMap<String, Vec<String>>, PeError> {
        const ENTRY: usize = 20;
        let mut imports: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut functions = 0_usize;
        let start = self.offset(directory).ok_or(OUTSIDE)?;
        for number in 0..MOST_MODULES {
            let entry = bytes_at(
                self.bytes,
                start.saturating_add(number.saturating_mul(ENTRY)),
                ENTRY,
            );
            let entry = entry.map_err(|_| OUTSIDE)?;
            let field = |at| u32_le(entry, at).unwrap_or(0);
            let (names, module, addresses) = (field(0), field(12), field(16));
            if module == 0 && addresses == 0 {
                return Ok(imports);
            }
            let list = imports.entry(self.name(module)?).or_default();
            let table = if names == 0 { addresses } else { names };
            let table = self.offset(table).ok_or(OUTSIDE)?;
            for place in 0.. {
                let Some(function) = self.function(table, place)? else {
                    break;
                };
                functions = functions.saturating_add(1);
                if functions > MOST_FUNCTIONS {
                    return Err(PeError::Damaged("it imports more functions than any driver does"));
                }
                list.push(function);
            }
        }
        Err(PeError::Damaged(
            "it imports from more modules than any driver does",
        ))
    }

    /// "Import Lookup Table": an ordinal where the highest bit is set, else the address of a hint and a name.
    fn function(&self, table: usize, place: usize) -> Result<Option<String>, PeError> {
        let size = if self.wide { 8 } else { 4 };
        let at = table.saturating_add(place.saturating_mul(size));
        let (value, ordinal) = if self.wide {
            let value = u64_le(self.bytes, at).map_err(|_| OUTSIDE)?;
            (value, value >> 63 != 0)
        } else {
            let value = u32_le(self.bytes, at).map_err(|_| OUTSIDE)?;
            (u64::from(value), value >> 31 != 0)
        };
        if value == 0 {
            return Ok(None);
        }
        if ordinal {
            return Ok(Some(format!("#{}", value & 0xffff)));
        }
        let address = u32::try_from(value)
            .ok()
            .and_then(|address| address.checked_add(2))
            .ok_or(OUTSIDE)?;
        self.name(address).map(Some)
    }
}

/// "The Attribute Certificate Table": entries of a length, a revision, a kind and a signature, each on eight bytes.
fn signature(bytes: &[u8], at: u32, size: u32) -> Result<EmbeddedSignature, PeError> {
    const HEADER: usize = 8;
    const OUTSIDE: PeError = PeError::Damaged("its signature lies outside of it: the file was cut off");
    let (at, size) = (
        usize::try_from(at).map_err(|_| OUTSIDE)?,
        usize::try_from(size).map_err(|_| OUTSIDE)?,
    );
    let mut table = bytes_at(bytes, at, size).map_err(|_| OUTSIDE)?;
    let mut digests = Vec::new();
    while let (Ok(length), Ok(kind)) = (u32_le(table, 0), u16_le(table, 6)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(entry) = table.get(HEADER..length) else {
            break;
        };
        if kind == PKCS_SIGNED_DATA {
            digests.extend(
                signed_data::parse(entry)
                    .into_iter()
                    .flat_map(|signed| signed.digests),
            );
        }
        table = length
            .checked_next_multiple_of(8)
            .and_then(|next| table.get(next..))
            .unwrap_or_default();
    }
    digests.sort();
    digests.dedup();
    Ok(EmbeddedSignature { digests })
}

/// What `CheckSumMappedFile` computes: a folded sum of 16-bit words without the field itself, and the length.
fn checksum(bytes: &[u8], field: usize) -> u32 {
    let mut sum = 0_u32;
    for (number, word) in bytes.chunks(2).enumerate() {
        let at = number.saturating_mul(2);
        if at == field || at == field.saturating_add(2) {
            continue;
        }
        let low = word.first().copied().unwrap_or(0);
        let high = word.get(1).copied().unwrap_or(0);
        sum = sum.saturating_add(u32::from(u16::from_le_bytes([low, high])));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    sum.saturating_add(length)
}
