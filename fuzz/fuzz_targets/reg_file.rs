//! Registration files: read, carried out, written again, read again: the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rehome::hive::{
    Hive, Version, difference,
    reg_file::{CodePage, Style, export, import, parse},
};

fn carried_out(text: &[u8]) -> Option<Hive> {
    let file = parse(text, CodePage::default()).ok()?;
    let mut hive = Hive::create("hive", Version::Latest, 0).ok()?;
    let mut editor = hive.edit(0).ok()?;
    import(&file, "", &mut editor).ok()?;
    editor.commit().ok()?;
    Some(hive)
}

fuzz_target!(|data: &[u8]| {
    let Some(hive) = carried_out(data) else {
        return;
    };
    let root = hive.root().expect("a root");
    for style in [Style::Version5, Style::Version5Utf8] {
        let mut text = Vec::new();
        let done = export(&hive, &root, "", style, &mut text).expect("a sound hive");
        let again = carried_out(&text).expect("what we write we read");
        if done.left_out.is_empty() {
            assert_eq!(difference(&hive, &again).expect("sound hives"), []);
        }
    }
});
