//! The boot configuration store, `BCD`: a hive whose keys are objects (the boot manager, loaders, options of devices) and
//! whose values are their elements.
//!
//! Structure and numbers are those of Microsoft's "Boot Configuration Data in Windows Vista" and of its WMI provider's
//! reference ("BcdObject", "BcdElement" and the enumerations beside them). What device elements hold is not published: see
//! [`Device`].

mod device;
mod edit;
mod element;

pub use device::{Device, DevicePlace, Partition};
pub use edit::{Rewritten, enable_graphics, remove_element, rewrite_partitions, set_element};
pub use element::{ElementId, ElementValue};

use super::{Hive, Key, Result};
use crate::disk::{Error, Kind};
use uuid::{Uuid, uuid};

/// The object of the boot manager, the same in every store.
pub const BOOT_MANAGER: Uuid = uuid!("9dea862c-5cdd-4e70-acc1-f32b344d4795");

/// A store, read.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// In the order of the hive: by identifier.
    pub objects: Vec<Object>,
}

/// An object of a store.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its identifier.
    pub id: Uuid,
    /// What it is.
    pub kind: ObjectKind,
    /// In the order of the hive: by number.
    pub elements: Vec<Element>,
}

/// An element of an object.
#[derive(Clone, Debug)]
pub struct Element {
    /// Which.
    pub id: ElementId,
    /// What it says.
    pub value: ElementValue,
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectKind(
    /// As stored: kind in the highest 4 bits, and what that needs.
    pub u32,
);

impl ObjectKind {
    /// The firmware's own boot manager, mirrored.
    pub const FIRMWARE_BOOT_MANAGER: Self = Self(0x1010_0001);
    /// The Windows boot manager.
    pub const BOOT_MANAGER: Self = Self(0x1010_0002);
    /// A Windows, or a recovery environment.
    pub const OS_LOADER: Self = Self(0x1020_0003);
    /// A Windows that wakes from hibernation.
    pub const RESUME: Self = Self(0x1020_0004);
    /// The memory test.
    pub const MEMORY_TEST: Self = Self(0x1020_0005);
    /// Options of a device: of a RAM disk.
    pub const DEVICE: Self = Self(0x3000_0000);

    /// Is it an application that can be started, and not a set of settings or the options of a device?
    pub const fn is_application(self) -> bool {
        self.0 >> 28 == 1
    }
}

impl Store {
    /// Reads a store. Objects and elements whose names are none are left out.
    ///
    /// # Errors
    /// [`Kind::NotFound`] if the hive is no boot store; those of reading.
    pub fn read(hive: &Hive) -> Result<Self> {
        // A damaged hive could say the same bytes again and again.
        hive.check()?;
        let objects = hive.find("Objects")?.ok_or_else(|| not_a_store(hive))?;
        let mut store = Self::default();
        for key in objects.subkeys()? {
            if let Ok(id) = Uuid::try_parse(&key.name()?.to_string()) {
                store.objects.push(Object::read(id, &key)?);
            }
        }
        Ok(store)
    }

    /// The object of that identifier.
    pub fn object(&self, id: Uuid) -> Option<&Object> {
        self.objects.iter().find(|object| object.id == id)
    }

    /// The entry that is started when nobody chooses: the boot manager's default, or else the first that it shows.
    pub fn default_entry(&self) -> Option<&Object> {
        let manager = self.object(BOOT_MANAGER)?;
        let default = match manager.element(ElementId::DEFAULT_ENTRY) {
            Some(ElementValue::Object(id)) => self.object(*id),
            _ => None,
        };
        default.or_else(|| self.display_order().into_iter().next())
    }

    /// The entries that the boot manager shows, in its order; those that are not there are left out.
    pub fn display_order(&self) -> Vec<&Object> {
        let manager = self.object(BOOT_MANAGER);
        match manager.and_then(|manager| manager.element(ElementId::DISPLAY_ORDER)) {
            Some(ElementValue::Objects(ids)) => ids.iter().filter_map(|id| self.object(*id)).collect(),
            _ => Vec::new(),
        }
    }
}

impl Object {
    fn read(id: Uuid, key: &Key<'_>) -> Result<Self> {
        let kind = match key.subkey(&"Description".into())? {
            Some(description) => description.dword("Type")?.unwrap_or(0),
            None => 0,
        };
        let mut elements = Vec::new();
        if let Some(all) = key.subkey(&"Elements".into())? {
            for key in all.subkeys()? {
                let Some(id) = ElementId::from_name(&key.name()?) else {
                    continue;
                };
                if let Some(value) = key.value("Element")? {
                    let value = ElementValue::decode(id, value.kind(), &value.data()?);
                    elements.push(Element { id, value });
                }
            }
        }
        Ok(Self {
            id,
            kind: ObjectKind(kind),
            elements,
        })
    }

    /// The element of that number.
    pub fn element(&self, id: ElementId) -> Option<&ElementValue> {
        self.elements
            .iter()
            .find(|element| element.id == id)
            .map(|element| &element.value)
    }

    /// The text of an element that is text.
    pub fn text(&self, id: ElementId) -> Option<&str> {
        match self.element(id)? {
            ElementValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The device of an element that is one.
    pub fn device(&self, id: ElementId) -> Option<&Device> {
        match self.element(id)? {
            ElementValue::Device(device) => Some(device),
            _ => None,
        }
    }

    /// The answer of an element that is yes or no.
    pub fn boolean(&self, id: ElementId) -> Option<bool> {
        match self.element(id)? {
            ElementValue::Boolean(yes) => Some(*yes),
            _ => None,
        }
    }
}

fn not_a_store(hive: &Hive) -> Error {
    Error::new(
        Kind::NotFound,
        hive.label(),
        "there is no key Objects: it is no boot configuration store",
    )
}
