//! What a move changes in a boot store.

use super::{ElementId, ElementValue, Partition, Store};
use crate::{
    disk::{Error, Kind},
    hive::{Editor, KeyId, Result},
};
use uuid::Uuid;

/// An element whose device has other partitions now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The object.
    pub object: Uuid,
    /// The element.
    pub element: ElementId,
    /// The partition as it was named, the first if there are several.
    pub before: Option<Partition>,
    /// As it is named now.
    pub after: Option<Partition>,
}

/// Gives partitions other names, wherever devices have them: `new` gives the new name, or `None` for what stays. What was changed.
///
/// # Errors
/// Those of reading and editing.
pub fn rewrite_partitions(
    editor: &mut Editor<'_>,
    new: &dyn Fn(Partition) -> Option<Partition>,
) -> Result<Vec<Rewritten>> {
    let store = Store::read(editor.hive())?;
    let mut done = Vec::new();
    for object in &store.objects {
        for element in &object.elements {
            let ElementValue::Device(device) = &element.value else {
                continue;
            };
            // What was parsed can be parsed again.
            if let Ok(Some(moved)) = device.moved(new) {
                done.push(Rewritten {
                    object: object.id,
                    element: element.id,
                    before: device.partition(),
                    after: moved.partition(),
                });
                set_element(editor, object.id, element.id, &ElementValue::Device(moved))?;
            }
        }
    }
    Ok(done)
}

/// Lets the default entry use graphics, which a machine without a VGA needs: `GraphicsModeDisabled` is removed. False if it
/// was not there.
///
/// # Errors
/// Those of reading and editing.
pub fn enable_graphics(editor: &mut Editor<'_>) -> Result<bool> {
    let store = Store::read(editor.hive())?;
    match store.default_entry() {
        Some(entry) => remove_element(editor, entry.id, ElementId::GRAPHICS_MODE_DISABLED),
        None => Ok(false),
    }
}

/// Gives an object an element; it is made if it is not there. False if it was just so before.
///
/// # Errors
/// [`Kind::NotFound`] if there is no such object; those of editing.
pub fn set_element(
    editor: &mut Editor<'_>,
    object: Uuid,
    id: ElementId,
    value: &ElementValue,
) -> Result<bool> {
    let elements = elements(editor, object)?.ok_or_else(|| {
        let text = format!("has no object {} with elements", object.braced());
        Error::new(Kind::NotFound, editor.hive().label(), text)
    })?;
    let name = id.name();
    let there = editor.hive().key(elements)?.subkey(&name)?.map(|key| key.id());
    let key = match there {
        Some(key) => key,
        None => editor.create_key(elements, &name)?,
    };
    let (kind, data) = value.encode();
    editor.set_value(key, "Element", kind, &data)
}

/// Removes an element; false if it was not there.
///
/// # Errors
/// Those of editing.
pub fn remove_element(editor: &mut Editor<'_>, object: Uuid, id: ElementId) -> Result<bool> {
    match elements(editor, object)? {
        Some(elements) => editor.remove_key(elements, id.name()),
        None => Ok(false),
    }
}

fn elements(editor: &Editor<'_>, object: Uuid) -> Result<Option<KeyId>> {
    editor.find(&format!("Objects\\{}\\Elements", object.braced()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hive::{
        Hive, ValueKind, Version,
        bcd::{BOOT_MANAGER, Device, ObjectKind},
    };

    const LOADER: Uuid = Uuid::from_u128(0x733b_62e5_f608_11eb_825c_c112_f601_33ab);

    fn partition(offset: u64) -> Partition {
        Partition::Mbr { signature: 7, offset }
    }

    fn store() -> Hive {
        let mut hive = Hive::create("BCD", Version::Standard, 0).unwrap();
        let mut editor = hive.edit(0).unwrap();
        for (object, kind) in [
            (BOOT_MANAGER, ObjectKind::BOOT_MANAGER),
            (LOADER, ObjectKind::OS_LOADER),
        ] {
            let path = format!("Objects\\{}", object.braced());
            let key = editor.make_path(&format!("{path}\\Description")).unwrap();
            editor
                .set_value(key, "Type", ValueKind::DWORD, &kind.0.to_le_bytes())
                .unwrap();
            editor.make_path(&format!("{path}\\Elements")).unwrap();
        }
        let device = |offset| ElementValue::Device(Device::on(partition(offset)));
        set_element(
            &mut editor,
            BOOT_MANAGER,
            ElementId::APPLICATION_DEVICE,
            &device(1),
        )
        .unwrap();
        set_element(
            &mut editor,
            BOOT_MANAGER,
            ElementId::DEFAULT_ENTRY,
            &ElementValue::Object(LOADER),
        )
        .unwrap();
        set_element(
            &mut editor,
            BOOT_MANAGER,
            ElementId::DISPLAY_ORDER,
            &ElementValue::Objects(vec![LOADER]),
        )
        .unwrap();
        set_element(&mut editor, LOADER, ElementId::OS_DEVICE, &device(2)).unwrap();
        set_element(
            &mut editor,
            LOADER,
            ElementId::GRAPHICS_MODE_DISABLED,
            &ElementValue::Boolean(true),
        )
        .unwrap();
        editor.commit().unwrap();
        hive
    }

    #[test]
    fn a_store_is_read_and_rewritten_once() {
        let mut hive = store();
        let read = Store::read(&hive).unwrap();
        let entry = read.default_entry().unwrap();
        assert_eq!((entry.id, entry.kind), (LOADER, ObjectKind::OS_LOADER));
        assert!(entry.kind.is_application());
        assert_eq!(read.display_order().len(), 1);
        assert_eq!(entry.boolean(ElementId::GRAPHICS_MODE_DISABLED), Some(true));
        let new = |old| (old == partition(2)).then_some(partition(3));
        let mut editor = hive.edit(0).unwrap();
        let done = rewrite_partitions(&mut editor, &new).unwrap();
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].object, done[0].element), (LOADER, ElementId::OS_DEVICE));
        assert!(enable_graphics(&mut editor).unwrap());
        assert!(editor.commit().unwrap());
        let read = Store::read(&hive).unwrap();
        let entry = read.default_entry().unwrap();
        assert_eq!(
            entry.device(ElementId::OS_DEVICE).unwrap().partition(),
            Some(partition(3))
        );
        assert_eq!(entry.element(ElementId::GRAPHICS_MODE_DISABLED), None);
        let mut editor = hive.edit(0).unwrap();
        assert!(rewrite_partitions(&mut editor, &new).unwrap().is_empty());
        assert!(!enable_graphics(&mut editor).unwrap());
        assert!(!editor.commit().unwrap(), "a second time changes nothing");
    }

    #[test]
    fn another_hive_is_no_store() {
        let mut hive = Hive::create("SYSTEM", Version::Latest, 0).unwrap();
        assert!(Store::read(&hive).is_err());
        let mut editor = hive.edit(0).unwrap();
        let yes = ElementValue::Boolean(true);
        assert!(set_element(&mut editor, LOADER, ElementId::GRAPHICS_MODE_DISABLED, &yes).is_err());
        assert!(!remove_element(&mut editor, LOADER, ElementId::GRAPHICS_MODE_DISABLED).unwrap());
    }
}
