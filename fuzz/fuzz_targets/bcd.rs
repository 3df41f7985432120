//! Boot configuration stores: elements with any bytes, and devices moved to other partitions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::hive::{
    Hive, ValueKind, Version,
    bcd::{BOOT_MANAGER, Device, Partition, Store, enable_graphics, rewrite_partitions},
};

fn renamed(old: Partition) -> Option<Partition> {
    match old {
        Partition::Gpt { .. } => Some(Partition::Mbr { signature: 7, offset: 1 << 20 }),
        Partition::Mbr { .. } => None,
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(device) = Device::parse(data) {
        assert_eq!(device.bytes(), data);
        let _ = (device.place(), device.options(), device.partition());
        if let Some(moved) = device.moved(&renamed).expect("what was parsed") {
            assert_eq!(moved.bytes().len(), data.len());
            assert_eq!(moved.moved(&renamed).expect("what was parsed"), None);
        }
    }
    let mut hive = Hive::create("BCD", Version::Standard, 0).expect("a hive");
    let mut editor = hive.edit(0).expect("a sound hive");
    for (format, kind) in [(1, 3), (2, 1), (3, 1), (4, 7), (5, 3), (6, 3), (7, 3)] {
        let path = format!("Objects\\{}\\Elements\\2{format}000003", BOOT_MANAGER.braced());
        let key = editor.make_path(&path).expect("a key");
        editor.set_value(key, "Element", ValueKind(kind), data).expect("a value");
    }
    let _ = Store::read(editor.hive()).expect("a store").default_entry();
    rewrite_partitions(&mut editor, &renamed).expect("a store");
    assert_eq!(rewrite_partitions(&mut editor, &renamed).expect("a store"), []);
    let _ = enable_graphics(&mut editor);
    editor.commit().expect("a sound hive");
    hive.check().expect("a sound hive");
});
