//! Elements: their numbers, and what is stored for each format ("BcdElementType").

use super::Device;
use crate::hive::{Name, ValueKind, decode_strings, decode_text, encode_strings, encode_text};
use std::fmt;
use uuid::Uuid;

/// The number of an element: class in the highest 4 bits, format in the next 4, and which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElementId(
    /// As in the name of its key.
    pub u32,
);

impl ElementId {
    /// `BcdLibraryDevice_ApplicationDevice`: where an application is.
    pub const APPLICATION_DEVICE: Self = Self(0x1100_0001);
    /// `BcdLibraryString_ApplicationPath`: its path there.
    pub const APPLICATION_PATH: Self = Self(0x1200_0002);
    /// `BcdLibraryString_Description`: what the menu calls it.
    pub const DESCRIPTION: Self = Self(0x1200_0004);
    /// `BcdLibraryObjectList_RecoverySequence`: what is started when it fails.
    pub const RECOVERY_SEQUENCE: Self = Self(0x1400_0008);
    /// `BcdLibraryBoolean_GraphicsModeDisabled`: text only, which a machine without a VGA cannot show.
    pub const GRAPHICS_MODE_DISABLED: Self = Self(0x1600_0046);
    /// `BcdOSLoaderDevice_OSDevice`: where a Windows is.
    pub const OS_DEVICE: Self = Self(0x2100_0001);
    /// `BcdOSLoaderString_SystemRoot`: its folder there.
    pub const SYSTEM_ROOT: Self = Self(0x2200_0002);
    /// `BcdBootMgrObject_DefaultObject`, of the boot manager.
    pub const DEFAULT_ENTRY: Self = Self(0x2300_0003);
    /// `BcdOSLoaderObject_AssociatedResumeObject`, of a loader: the same number.
    pub const RESUME_OBJECT: Self = Self(0x2300_0003);
    /// `BcdBootMgrObjectList_DisplayOrder`.
    pub const DISPLAY_ORDER: Self = Self(0x2400_0001);
    /// `BcdBootMgrInteger_Timeout`: seconds.
    pub const TIMEOUT: Self = Self(0x2500_0004);
    /// `BcdDeviceDevice_SdiDevice`: where the boot.sdi of a RAM disk is.
    pub const SDI_DEVICE: Self = Self(0x3100_0003);

    /// By the name of its key: eight hexadecimal digits.
    pub(super) fn from_name(name: &Name) -> Option<Self> {
        let text = name.to_string();
        let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits {
            u32::from_str_radix(&text, 16).ok().map(Self)
        } else {
            None
        }
    }

    /// The name of its key.
    pub(super) fn name(self) -> Name {
        Name::from(self.to_string().as_str())
    }

    const fn format(self) -> u32 {
        self.0 >> 24 & 0xf
    }
}

impl fmt::Display for ElementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// What an element says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementValue {
    /// A device.
    Device(Device),
    /// Text.
    Text(String),
    /// An object.
    Object(Uuid),
    /// Objects, in order.
    Objects(Vec<Uuid>),
    /// A number.
    Integer(u64),
    /// Yes or no.
    Boolean(bool),
    /// Numbers.
    Integers(Vec<u64>),
    /// Something else, or not as its number says.
    Other(ValueKind, Vec<u8>),
}

impl ElementValue {
    /// What is stored for `id`.
    pub(super) fn decode(id: ElementId, kind: ValueKind, data: &[u8]) -> Self {
        Self::known(id, kind, data).unwrap_or_else(|| Self::Other(kind, data.to_vec()))
    }

    fn known(id: ElementId, kind: ValueKind, data: &[u8]) -> Option<Self> {
        Some(match (id.format(), kind) {
            (1, ValueKind::BINARY) => Self::Device(Device::parse(data).ok()?),
            (2, ValueKind::SZ) => Self::Text(decode_text(data)),
            (3, ValueKind::SZ) => Self::Object(Uuid::try_parse(&decode_text(data)).ok()?),
            (4, ValueKind::MULTI_SZ) => {
                let ids = decode_strings(data).into_iter().map(|id| Uuid::try_parse(&id));
                Self::Objects(ids.collect::<Result<_, _>>().ok()?)
            }
            (5, ValueKind::BINARY) => Self::Integer(integer(data)?),
            (6, ValueKind::BINARY) => Self::Boolean(*data.first()? != 0),
            (7, ValueKind::BINARY) if data.len().is_multiple_of(8) => {
                Self::Integers(data.chunks(8).map(integer).collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }

    /// As it is stored.
    pub(super) fn encode(&self) -> (ValueKind, Vec<u8>) {
        let braced = |id: &Uuid| id.braced().to_string();
        match self {
            Self::Device(device) => (ValueKind::BINARY, device.bytes().to_vec()),
            Self::Text(text) => (ValueKind::SZ, encode_text(text)),
            Self::Object(id) => (ValueKind::SZ, encode_text(&braced(id))),
            Self::Objects(ids) => {
                let ids: Vec<String> = ids.iter().map(braced).collect();
                (ValueKind::MULTI_SZ, encode_strings(&ids))
            }
            Self::Integer(number) => (ValueKind::BINARY, number.to_le_bytes().to_vec()),
            Self::Boolean(yes) => (ValueKind::BINARY, vec![u8::from(*yes)]),
            Self::Integers(numbers) => {
                let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
                (ValueKind::BINARY, bytes.collect())
            }
            Self::Other(kind, data) => (*kind, data.clone()),
        }
    }
}

/// Installation media have numbers of fewer than eight bytes.
fn integer(data: &[u8]) -> Option<u64> {
    let mut bytes = [0; 8];
    if data.is_empty() || data.len() > bytes.len() {
        return None;
    }
    for (to, from) in bytes.iter_mut().zip(data) {
        *to = *from;
    }
    Some(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_stored_as_their_numbers_say() {
        let id = Uuid::from_u128(7);
        for (element, value) in [
            (0x1200_0004, ElementValue::Text("Windows 10".into())),
            (0x2300_0003, ElementValue::Object(id)),
            (0x2400_0001, ElementValue::Objects(vec![id, Uuid::from_u128(8)])),
            (0x2400_0001, ElementValue::Objects(vec![])),
            (0x2500_0004, ElementValue::Integer(30)),
            (0x1600_0046, ElementValue::Boolean(true)),
            (0x1700_0077, ElementValue::Integers(vec![1, u64::MAX])),
            (0x1200_0004, ElementValue::Other(ValueKind::BINARY, vec![1])),
            (
                0x2300_0003,
                ElementValue::Other(ValueKind::SZ, encode_text("{no}")),
            ),
        ] {
            let (kind, data) = value.encode();
            assert_eq!(ElementValue::decode(ElementId(element), kind, &data), value);
        }
        let short = ElementValue::decode(ElementId::TIMEOUT, ValueKind::BINARY, &[0xc2, 1, 0]);
        assert_eq!(short, ElementValue::Integer(450));
        let none = ElementValue::decode(ElementId::TIMEOUT, ValueKind::BINARY, &[]);
        assert!(matches!(none, ElementValue::Other(..)));
    }

    #[test]
    fn names_have_eight_digits() {
        assert_eq!(
            ElementId::from_name(&"16000046".into()),
            Some(ElementId::GRAPHICS_MODE_DISABLED)
        );
        assert_eq!(ElementId::GRAPHICS_MODE_DISABLED.name(), "16000046".into());
        for wrong in ["1600046", "160000460", "+6000046", "1600004g", ""] {
            assert_eq!(ElementId::from_name(&wrong.into()), None);
        }
    }
}
