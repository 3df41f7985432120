//! [MS-VHDX] 2.6.2.6 "Parent Locator".

use super::{
    flaw::Flaw,
    header::{Headers, id_at},
};
use crate::{
    disk::{
        Error, Kind, Result,
        field::{bytes_at, u16_le, u32_le},
    },
    image::{
        Format, Neighbours,
        windows_parent::{self, Parent, utf16},
    },
};
use uuid::{Uuid, uuid};

/// The kind of locator that names another VHDX.
const VHDX: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");

/// Five keys are known.
const MOST_ENTRIES: u16 = 64;

/// Who the parent is and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Locator {
    /// What the parent's data was: one of these.
    pub(super) linkage: Vec<Uuid>,
    /// Best first.
    pub(super) paths: Vec<String>,
}

impl Locator {
    /// Parses the metadata item.
    pub(super) fn parse(bytes: &[u8]) -> std::result::Result<Self, Flaw> {
        let kind = id_at(bytes, 0)?;
        if kind != VHDX {
            return Err(Flaw::LocatorType(kind));
        }
        let count = u16_le(bytes, 18)?;
        if count > MOST_ENTRIES {
            return Err(Flaw::Locator("it has too many entries"));
        }
        let mut pairs = Vec::new();
        for at in (20..).step_by(12).take(count.into()) {
            let text = |offset: u32, length: u16| {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                let bytes = bytes_at(bytes, offset, length.into());
                bytes
                    .map(|bytes| utf16(bytes, u16::from_le_bytes))
                    .map_err(|_| Flaw::Locator("an entry lies outside of it"))
            };
            let key = text(u32_le(bytes, at)?, u16_le(bytes, at + 8)?)?;
            let value = text(u32_le(bytes, at + 4)?, u16_le(bytes, at + 10)?)?;
            pairs.push((key, value));
        }
        let find = |wanted: &str| {
            let found = pairs.iter().find(|(key, _)| key == wanted);
            found.map(|(_, value)| value.clone())
        };
        let id = |value: String| {
            let value = Uuid::parse_str(value.trim());
            value.map_err(|_| Flaw::Locator("its parent_linkage is no GUID"))
        };
        let mut linkage = vec![id(
            find("parent_linkage").ok_or(Flaw::Locator("it has no parent_linkage"))?
        )?];
        if let Some(second) = find("parent_linkage2") {
            linkage.push(id(second)?);
        }
        // "Implementations evaluate the paths in a specific order": this one.
        let paths = ["relative_path", "volume_path", "absolute_win32_path"];
        Ok(Self {
            linkage,
            paths: paths.into_iter().filter_map(find).collect(),
        })
    }

    /// The names to try beside the disk.
    fn names(&self) -> Vec<String> {
        windows_parent::names(&self.paths)
    }

    /// Opens the parent of the disk called `label`, which has sectors of `sector_size` bytes.
    pub(super) fn open(&self, label: &str, sector_size: u32, neighbours: &dyn Neighbours) -> Result<Parent> {
        let format = Format::Vhdx.name();
        let parent = windows_parent::open(label, &self.names(), format, neighbours, |name, parent| {
            let found = Headers::find(parent)?.current.data_write;
            if self.linkage.contains(&found) {
                return Ok(());
            }
            let wanted: Vec<String> = self.linkage.iter().map(Uuid::to_string).collect();
            let text = format!(
                "has the data identifier {found}, but {label} was made when its parent had {}: the parent was written \
                 to since, or is another disk under its name. Put the right one beside {label}; if you are sure that \
                 this is it, `Set-VHD -ParentPath ... -IgnoreIdMismatch` in Windows joins them again",
                wanted.join(" or ")
            );
            Err(Error::new(Kind::Unsafe, name, text))
        })?;
        let found = parent.disk.sector_size();
        if found != sector_size && !parent.absent {
            let text = format!(
                "has sectors of {found} bytes, but {label}, whose parent it is, has sectors of {sector_size}"
            );
            return Err(Error::new(Kind::Corrupt, parent.disk.label(), text));
        }
        Ok(parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locator(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = VHDX.to_bytes_le().to_vec();
        bytes.extend([0, 0]);
        bytes.extend((pairs.len() as u16).to_le_bytes());
        let mut texts = Vec::new();
        let start = 20 + pairs.len() * 12;
        for (key, value) in pairs {
            let unit = |text: &str| {
                text.encode_utf16()
                    .flat_map(u16::to_le_bytes)
                    .collect::<Vec<u8>>()
            };
            let (key, value) = (unit(key), unit(value));
            let at = (start + texts.len()) as u32;
            bytes.extend(at.to_le_bytes());
            bytes.extend((at + key.len() as u32).to_le_bytes());
            bytes.extend((key.len() as u16).to_le_bytes());
            bytes.extend((value.len() as u16).to_le_bytes());
            texts.extend([key, value].concat());
        }
        bytes.extend(texts);
        bytes
    }

    const LINKAGE: &str = "{83ed0ec3-24c8-49a6-a959-5e4bf1288bfb}";

    #[test]
    fn the_locator_of_the_specification_is_read() {
        let bytes = locator(&[
            ("absolute_win32_path", r"\\?\d:\path2\sub3\parent.vhdx"),
            ("parent_linkage", LINKAGE),
            ("relative_path", r"..\..\path2\sub3\parent.vhdx"),
        ]);
        let parsed = Locator::parse(&bytes).unwrap();
        assert_eq!(parsed.linkage, [uuid!("83ed0ec3-24c8-49a6-a959-5e4bf1288bfb")]);
        assert_eq!(parsed.names(), ["../../path2/sub3/parent.vhdx", "parent.vhdx"]);
    }

    #[test]
    fn what_is_wrong_with_a_locator_is_said() {
        let text = |bytes: &[u8]| Locator::parse(bytes).unwrap_err().to_string();
        assert!(text(&locator(&[("relative_path", "a")])).contains("no parent_linkage"));
        assert!(text(&locator(&[("parent_linkage", "83ed")])).contains("no GUID"));
        let sound = locator(&[("parent_linkage", LINKAGE)]);
        assert!(text(&sound[..sound.len() - 1]).contains("outside"));
        assert!(text(&sound[..25]).contains("truncated"));
        let mut other = sound.clone();
        other[0] ^= 1;
        assert!(text(&other).contains("of the kind b04aefb6-"));
        let mut many = sound;
        many[18] = 65;
        assert!(text(&many).contains("too many"));
    }
}
