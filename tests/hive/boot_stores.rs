//! Boot configuration stores of real Windows.

use crate::{
    samples::sample,
    seen::{by_us, judges_agree},
};
use rehome::hive::{
    Change, Hive,
    bcd::{
        BOOT_MANAGER, DevicePlace, ElementId, ElementValue, ObjectKind, Partition, Store, enable_graphics,
        rewrite_partitions, set_element,
    },
    difference,
};
use std::fs;
use uuid::{Uuid, uuid};

const DISK: Uuid = uuid!("0b2394a9-095e-487d-8d48-719ecd4d78ca");
const WINDOWS: Uuid = uuid!("8e0f2c38-e4ea-47ba-b7fc-9d8c74dccf0b");
const LOADER: Uuid = uuid!("733b62e5-f608-11eb-825c-c112f60133ab");
const RECOVERY: Uuid = uuid!("733b62e6-f608-11eb-825c-c112f60133ab");

fn gpt(disk: Uuid, partition: Uuid) -> Partition {
    Partition::Gpt { disk, partition }
}

#[test]
fn the_store_of_a_windows_10_is_read() {
    let Some(bytes) = sample("regipy/BCD") else { return };
    let hive = Hive::open("BCD", bytes, &[]).unwrap();
    let store = Store::read(&hive).unwrap();
    assert_eq!(store.objects.len(), 17);
    let manager = store.object(BOOT_MANAGER).unwrap();
    assert_eq!(manager.kind, ObjectKind::BOOT_MANAGER);
    assert_eq!(
        manager.text(ElementId::APPLICATION_PATH),
        Some("\\EFI\\Microsoft\\Boot\\bootmgfw.efi")
    );
    assert_eq!(
        manager.element(ElementId::TIMEOUT),
        Some(&ElementValue::Integer(30))
    );
    let entry = store.default_entry().unwrap();
    assert_eq!((entry.id, entry.kind), (LOADER, ObjectKind::OS_LOADER));
    assert_eq!(entry.text(ElementId::DESCRIPTION), Some("Windows 10"));
    assert_eq!(entry.text(ElementId::SYSTEM_ROOT), Some("\\Windows"));
    for element in [ElementId::OS_DEVICE, ElementId::APPLICATION_DEVICE] {
        let device = entry.device(element).unwrap();
        assert_eq!(device.place(), &DevicePlace::Partition(gpt(DISK, WINDOWS)));
    }
    let order: Vec<Uuid> = store.display_order().iter().map(|object| object.id).collect();
    assert_eq!(order, [LOADER]);
    assert_eq!(
        entry.element(ElementId::RECOVERY_SEQUENCE),
        Some(&ElementValue::Objects(vec![RECOVERY]))
    );
    let recovery = store
        .object(RECOVERY)
        .unwrap()
        .device(ElementId::OS_DEVICE)
        .unwrap();
    let DevicePlace::RamDisk(on, path) = recovery.place() else {
        panic!("{recovery:?}");
    };
    assert_eq!(path, "\\Recovery\\WindowsRE\\Winre.wim");
    assert!(matches!(
        **on,
        DevicePlace::Partition(Partition::Gpt { disk: DISK, .. })
    ));
    let options = store.object(recovery.options().unwrap()).unwrap();
    assert_eq!(options.kind, ObjectKind::DEVICE);
    assert!(options.device(ElementId::SDI_DEVICE).is_some());
    // Everything in it was understood.
    for object in &store.objects {
        for element in &object.elements {
            assert!(!matches!(element.value, ElementValue::Other(..)), "{object:?}");
        }
    }
}

#[test]
fn the_store_of_an_installation_medium_is_read() {
    let Some(bytes) = sample("ez/BCD") else { return };
    let hive = Hive::open("BCD", bytes, &[]).unwrap();
    let store = Store::read(&hive).unwrap();
    let entry = store.default_entry().unwrap();
    let DevicePlace::RamDisk(on, path) = entry.device(ElementId::OS_DEVICE).unwrap().place() else {
        panic!("{entry:?}");
    };
    assert_eq!((&**on, &**path), (&DevicePlace::Boot, "\\sources\\boot.wim"));
    assert_eq!(entry.device(ElementId::OS_DEVICE).unwrap().partition(), None);
    assert_eq!(
        store.object(BOOT_MANAGER).unwrap().element(ElementId::TIMEOUT),
        Some(&ElementValue::Integer(30))
    );
}

/// The disk has another GUID, and what was a GPT partition is one of an MBR disk: wherever it is named, and nowhere else.
#[test]
fn a_move_renames_partitions_everywhere_and_nothing_else() {
    let Some(bytes) = sample("regipy/BCD") else { return };
    let before = Hive::open("before", bytes.clone(), &[]).unwrap();
    let mut hive = Hive::open("BCD", bytes, &[]).unwrap();
    let new_disk = Uuid::from_u128(0x77);
    let rename = |old: Partition| match old {
        Partition::Gpt {
            disk: DISK,
            partition: WINDOWS,
        } => Some(Partition::Mbr {
            signature: 0x1234_5678,
            offset: 1 << 20,
        }),
        Partition::Gpt {
            disk: DISK,
            partition,
        } => Some(gpt(new_disk, partition)),
        _ => None,
    };
    let mut editor = hive.edit(0).unwrap();
    let done = rewrite_partitions(&mut editor, &rename).unwrap();
    editor.commit().unwrap();
    assert_eq!(done.len(), 9, "{done:#?}");
    let differences = difference(&before, &hive).unwrap();
    assert_eq!(differences.len(), done.len());
    for difference in &differences {
        let Change::Value {
            before: Some((_, before)),
            after: Some((_, after)),
            ..
        } = &difference.change
        else {
            panic!("{difference:?}");
        };
        assert_eq!(before.len(), after.len());
        assert!(
            before[..32] == after[..32] || before.len() > 88,
            "the header stays"
        );
    }
    let store = Store::read(&hive).unwrap();
    let entry = store.default_entry().unwrap();
    let moved = Partition::Mbr {
        signature: 0x1234_5678,
        offset: 1 << 20,
    };
    assert_eq!(
        entry.device(ElementId::OS_DEVICE).unwrap().partition(),
        Some(moved)
    );
    let named = |partition: Partition| matches!(partition, Partition::Gpt { disk: DISK, .. });
    for object in &store.objects {
        for element in &object.elements {
            if let ElementValue::Device(device) = &element.value {
                assert!(!device.partition().is_some_and(named), "{object:?}");
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("BCD");
    fs::write(&file, hive.file()).unwrap();
    judges_agree(&file, true, "BCD");
    let mut editor = hive.edit(0).unwrap();
    assert!(rewrite_partitions(&mut editor, &rename).unwrap().is_empty());
}

#[test]
fn graphics_are_switched_on_for_the_default_entry() {
    let Some(bytes) = sample("regipy/BCD") else { return };
    let mut hive = Hive::open("BCD", bytes.clone(), &[]).unwrap();
    let original = by_us(&hive);
    let mut editor = hive.edit(0).unwrap();
    assert!(!enable_graphics(&mut editor).unwrap(), "it is not switched off");
    assert!(!editor.commit().unwrap());
    let mut editor = hive.edit(0).unwrap();
    let off = ElementValue::Boolean(true);
    assert!(set_element(&mut editor, LOADER, ElementId::GRAPHICS_MODE_DISABLED, &off).unwrap());
    assert!(!set_element(&mut editor, LOADER, ElementId::GRAPHICS_MODE_DISABLED, &off).unwrap());
    editor.commit().unwrap();
    let entry = |hive: &Hive| {
        Store::read(hive)
            .unwrap()
            .object(LOADER)
            .unwrap()
            .boolean(ElementId::GRAPHICS_MODE_DISABLED)
    };
    assert_eq!(entry(&hive), Some(true));
    let mut editor = hive.edit(0).unwrap();
    assert!(enable_graphics(&mut editor).unwrap());
    editor.commit().unwrap();
    assert_eq!(entry(&hive), None);
    assert_eq!(by_us(&hive), original);
}
