//! Volume descriptors and directory records of ISO 9660 (ECMA-119, sections 8 and 9), with the names of Joliet (Microsoft's
//! "Joliet Specification") and Rock Ridge (IEEE P1282, SUSP P1281).

use crate::disk::field::{Truncated, bytes_at, u8_at, u16_le, u32_le};
use encoding_rs::UTF_16BE;

/// Bytes of a sector of a disc, which directory records do not cross.
pub(super) const SECTOR: u64 = 2048;

/// What a volume descriptor is ("8.1.1").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Descriptor {
    /// Type 1.
    Primary(Volume),
    /// Type 2 with an escape sequence of Joliet.
    Joliet(Volume),
    /// Type 255.
    Terminator,
    /// Any other.
    Other,
}

/// A tree of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) label: String,
    /// Bytes of a logical block, which addresses count.
    pub(super) block_size: u32,
    /// Where the record of the root is in the descriptor.
    pub(super) root: usize,
}

/// The sector at `bytes` as a descriptor; `None`: none.
pub(super) fn descriptor(bytes: &[u8]) -> Result<Option<Descriptor>, Truncated> {
    if bytes_at(bytes, 1, 6)? != b"CD001\x01" && bytes_at(bytes, 1, 6)? != b"CD001\x02" {
        return Ok(None);
    }
    let kind = u8_at(bytes, 0)?;
    let escape = bytes_at(bytes, 88, 3)?;
    let joliet = kind == 2 && (escape == b"%/@" || escape == b"%/C" || escape == b"%/E");
    let label = bytes_at(bytes, 40, 32)?;
    let label = if joliet {
        UTF_16BE.decode_without_bom_handling(label).0.into_owned()
    } else {
        String::from_utf8_lossy(label).into_owned()
    };
    let volume = Volume {
        label: label.trim_end_matches(['\0', ' ']).to_owned(),
        block_size: u32::from(u16_le(bytes, 128)?),
        root: 156,
    };
    Ok(Some(match kind {
        1 => Descriptor::Primary(volume),
        2 if joliet => Descriptor::Joliet(volume),
        255 => Descriptor::Terminator,
        _ => Descriptor::Other,
    }))
}

/// How names are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Of ECMA-119: "README.TXT;1".
    Plain,
    /// UTF-16.
    Joliet,
    /// In the system use area, which begins so many bytes later than it could.
    RockRidge(u8),
}

/// A directory record ("9.1").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Bytes of the record.
    pub(super) length: usize,
    /// First block of the contents, behind the extended attribute record.
    pub(super) block: u32,
    /// Bytes of the contents.
    pub(super) size: u32,
    pub(super) directory: bool,
    /// The contents go on with the next record.
    pub(super) more: bool,
    pub(super) interleaved: bool,
    /// As it stands there; one byte of 0 or 1 is the directory itself or the one above.
    pub(super) identifier: Vec<u8>,
    pub(super) system_use: Vec<u8>,
    /// Nanoseconds since 1970.
    pub(super) recorded: Option<i128>,
}

const DIRECTORY: u8 = 0x02;
const MORE: u8 = 0x80;

/// The record at the beginning of `bytes`; `None` where only padding follows in this sector.
pub(super) fn record(bytes: &[u8]) -> Result<Option<Record>, Truncated> {
    let length = usize::from(u8_at(bytes, 0)?);
    if length == 0 {
        return Ok(None);
    }
    let bytes = bytes_at(bytes, 0, length)?;
    let identifier = bytes_at(bytes, 33, usize::from(u8_at(bytes, 32)?))?;
    // A byte of padding where the length of the identifier is even.
    let used = 33 + identifier.len() + usize::from(identifier.len() % 2 == 0);
    let flags = u8_at(bytes, 25)?;
    Ok(Some(Record {
        length,
        block: u32_le(bytes, 2)?.saturating_add(u32::from(u8_at(bytes, 1)?)),
        size: u32_le(bytes, 10)?,
        directory: flags & DIRECTORY != 0,
        more: flags & MORE != 0,
        interleaved: u8_at(bytes, 26)? != 0 || u8_at(bytes, 27)? != 0,
        identifier: identifier.to_vec(),
        system_use: bytes.get(used..).unwrap_or_default().to_vec(),
        recorded: time(bytes_at(bytes, 18, 7)?),
    }))
}

/// Years since 1900, month, day, hour, minute, second, offset from Greenwich in quarters of an hour ("9.1.5").
fn time(bytes: &[u8]) -> Option<i128> {
    let [year, month, day, hour, minute, second, offset] = *bytes else {
        return None;
    };
    let small = |byte: u8| i8::try_from(byte).ok();
    let date = jiff::civil::DateTime::new(
        1900 + i16::from(year),
        small(month)?,
        small(day)?,
        small(hour)?,
        small(minute)?,
        small(second)?,
        0,
    );
    let offset = i32::from(i8::from_le_bytes([offset])) * 15 * 60;
    let zone = jiff::tz::Offset::from_seconds(offset).ok()?;
    Some(zone.to_timestamp(date.ok()?).ok()?.as_nanosecond())
}

impl Record {
    /// The record of the directory itself or of the one above.
    pub(super) fn is_dots(&self) -> bool {
        matches!(self.identifier.as_slice(), [0 | 1])
    }

    /// The name without Rock Ridge.
    pub(super) fn name(&self, names: Names) -> Vec<u8> {
        if names == Names::Joliet {
            let name = UTF_16BE.decode_without_bom_handling(&self.identifier).0;
            return without_version(name.as_bytes()).to_vec();
        }
        let name = without_version(&self.identifier);
        name.strip_suffix(b".")
            .filter(|name| !name.is_empty())
            .unwrap_or(name)
            .to_vec()
    }
}

/// "README.TXT;1" is the first version of README.TXT.
fn without_version(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|byte| *byte == b';');
    let version = |at: usize| {
        name.get(at + 1..)
            .is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
    };
    match end {
        Some(at) if version(at) => name.get(..at).unwrap_or_default(),
        _ => name,
    }
}

/// What the system use area of a record says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RockRidge {
    /// `NM`.
    pub(super) name: Option<Vec<u8>>,
    /// `PX`.
    pub(super) mode: Option<u32>,
    pub(super) owner: Option<(u32, u32)>,
    /// `SL`: the target of a symbolic link.
    pub(super) link: Option<Vec<u8>>,
    /// `CL`: the block of a directory that was moved up.
    pub(super) moved_to: Option<u32>,
    /// `RE`: the place that such directories were moved to.
    pub(super) is_moved: bool,
    /// `ZF`: packed by mkzftree.
    pub(super) is_packed: bool,
    /// `CE`: block, offset and length of more.
    pub(super) continues: Option<(u32, u32, u32)>,
    /// `SP`: bytes to leave out.
    pub(super) skip: Option<u8>,
    /// The last part of a name or link goes on.
    link_goes_on: bool,
}

impl RockRidge {
    /// Adds the entries of one area.
    pub(super) fn add(&mut self, mut area: &[u8]) {
        self.continues = None;
        while let [one, two, length, _version, ..] = *area {
            let Some(data) = area.get(4..usize::from(length)) else {
                return;
            };
            area = area.get(usize::from(length)..).unwrap_or_default();
            match &[one, two] {
                b"SP" if data.starts_with(&[0xbe, 0xef]) => self.skip = data.get(2).copied(),
                b"ST" => return,
                b"CE" => {
                    if let (Ok(block), Ok(offset), Ok(size)) =
                        (u32_le(data, 0), u32_le(data, 8), u32_le(data, 16))
                    {
                        self.continues = Some((block, offset, size));
                    }
                }
                b"NM" => self
                    .name
                    .get_or_insert_default()
                    .extend(data.get(1..).unwrap_or_default()),
                b"PX" => {
                    self.mode = u32_le(data, 0).ok();
                    self.owner = u32_le(data, 16).ok().zip(u32_le(data, 24).ok());
                }
                b"SL" => self.add_link(data),
                b"CL" => self.moved_to = u32_le(data, 0).ok(),
                b"RE" => self.is_moved = true,
                b"ZF" => self.is_packed = true,
                _ => {}
            }
        }
    }

    /// Components, each with flags (1 goes on, 2 `.`, 4 `..`, 8 `/`) and a length ("4.1.3.1").
    fn add_link(&mut self, data: &[u8]) {
        let link = self.link.get_or_insert_default();
        let mut rest = data.get(1..).unwrap_or_default();
        while let [flags, length, ..] = *rest {
            let Some(name) = rest.get(2..2 + usize::from(length)) else {
                return;
            };
            rest = rest.get(2 + usize::from(length)..).unwrap_or_default();
            if !self.link_goes_on && !link.is_empty() && !link.ends_with(b"/") {
                link.push(b'/');
            }
            self.link_goes_on = flags & 1 != 0;
            match flags & 0x0e {
                2 => link.push(b'.'),
                4 => link.extend(b".."),
                8 => link.push(b'/'),
                _ => link.extend(name),
            }
        }
    }
}
