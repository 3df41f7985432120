//! What is done with every hive that a target opens.

use rehome::hive::{
    Hive, bcd, control_set,
    reg_file::{CodePage, Style, export},
};
use std::io;

/// Reads all that can be read. A hive that is called sound is read to its end without an error.
pub fn read(hive: &Hive) {
    let sound = hive.check().is_ok();
    let mut keys = 0_usize;
    let mut each = |_: &[rehome::hive::Name], key: &rehome::hive::Key<'_>| {
        keys += 1;
        let name = key.name();
        let class = key.class();
        let values = key.values();
        assert!(!sound || (name.is_ok() && class.is_ok() && values.is_ok()));
        let _ = key.security();
        for value in values.unwrap_or_default() {
            let data = value.data();
            assert!(!sound || data.is_ok());
        }
        Ok(())
    };
    if let Ok(root) = hive.root() {
        let walked = hive.walk(&root, &mut each);
        // A sound hive can still be deeper than Windows allows.
        assert!(!sound || walked.is_ok() || keys > 500);
        for style in [Style::Version5, Style::Version5Utf8, Style::Regedit4(CodePage::default())] {
            let _ = export(hive, &root, "HKEY_LOCAL_MACHINE\\X", style, &mut io::sink());
        }
    }
    assert!(keys <= hive.file().len() / 24 + 1);
    let _ = control_set::bootable(hive);
    let _ = bcd::Store::read(hive);
}
