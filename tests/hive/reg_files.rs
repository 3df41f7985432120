//! Registration files: what we write hivexregedit reads, what it writes we read, and nothing is lost on the way.

use crate::{
    samples::sample,
    seen::{by_reg_file, by_us, must_be_alike},
};
use proptest::prelude::*;
use rehome::hive::{
    Hive, Version,
    reg_file::{CodePage, Exported, Style, export, import, parse},
};
use std::{fs, process::Command};

const PREFIX: &str = "HKEY_LOCAL_MACHINE\\SYSTEM";

fn exported(hive: &Hive, style: Style, prefix: &str) -> (Vec<u8>, Exported) {
    let mut out = Vec::new();
    let done = export(hive, &hive.root().unwrap(), prefix, style, &mut out).unwrap();
    (out, done)
}

fn imported(text: &[u8], version: Version, prefix: &str) -> Hive {
    let file = parse(text, CodePage::default()).unwrap();
    let mut hive = Hive::create("imported", version, 0).unwrap();
    let mut editor = hive.edit(0).unwrap();
    import(&file, prefix, &mut editor).unwrap();
    editor.commit().unwrap();
    hive
}

#[test]
fn a_hive_of_windows_goes_out_and_comes_back() {
    for name in [
        "regipy/BCD",
        "ez/BCD",
        "yarp/hives_for_tests/BigDataHive",
        "yarp/hives_for_tests/UnicodeHive",
    ] {
        let Some(bytes) = sample(name) else { return };
        let hive = Hive::open(name, bytes, &[]).unwrap();
        for style in [Style::Version5, Style::Version5Utf8] {
            let (text, done) = exported(&hive, style, PREFIX);
            assert!(done.left_out.is_empty());
            let back = imported(&text, Version::Latest, PREFIX);
            must_be_alike(&by_us(&hive), &by_us(&back), name);
        }
    }
}

#[test]
fn a_regedit4_holds_what_its_code_page_has() {
    let Some(bytes) = sample("regipy/BCD") else { return };
    let hive = Hive::open("BCD", bytes, &[]).unwrap();
    let (text, done) = exported(
        &hive,
        Style::Regedit4(CodePage::default()),
        "HKEY_LOCAL_MACHINE\\BCD00000000",
    );
    assert!(done.left_out.is_empty(), "{:?}", done.left_out);
    assert!(text.starts_with(b"REGEDIT4\r\n\r\n[HKEY_LOCAL_MACHINE\\BCD00000000]\r\n"));
    let back = imported(&text, Version::Standard, "HKEY_LOCAL_MACHINE\\bcd00000000");
    must_be_alike(&by_us(&hive), &by_us(&back), "REGEDIT4");
}

/// Our text, merged by hivexregedit into an empty hive.
#[test]
fn hivexregedit_reads_what_we_write() {
    let Some(bytes) = sample("regipy/BCD") else { return };
    let hive = Hive::open("BCD", bytes, &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (text, file) = (folder.path().join("text.reg"), folder.path().join("hive"));
    // It makes no key whose parent is not there, and has no text for the root.
    fs::write(&text, exported(&hive, Style::Version5Utf8, PREFIX).0).unwrap();
    fs::write(&file, Hive::create("new", Version::Standard, 0).unwrap().file()).unwrap();
    let output = Command::new("hivexregedit")
        .args(["--merge", "--prefix", PREFIX, "--encoding", "UTF-16LE"])
        .args([&file, &text])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let merged = Hive::open("merged", fs::read(&file).unwrap(), &[]).unwrap();
    must_be_alike(&by_us(&hive), &by_us(&merged), "merged by hivexregedit");
}

/// As administrators write them.
#[test]
fn what_a_file_says_is_done() {
    let text = "Windows Registry Editor Version 5.00\r\n\r\n\
        [HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\viostor]\r\n\
        \"Start\"=dword:00000000\r\n\
        \"Gone\"=-\r\n\
        @=\"text\"\r\n\r\n\
        [-HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\old]\r\n\
        [-HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\absent]\r\n";
    let mut hive = imported(
        b"[\\Select]\n\"Current\"=dword:2\n\"Default\"=dword:2\n\
          [\\ControlSet002\\Services\\viostor]\n\"Start\"=dword:3\n\"gone\"=\"x\"\n[\\ControlSet002\\Services\\old\\a\\b]\n",
        Version::Latest,
        "",
    );
    let file = parse(text.as_bytes(), CodePage::default()).unwrap();
    let mut editor = hive.edit(0).unwrap();
    let done = import(&file, PREFIX, &mut editor).unwrap();
    editor.commit().unwrap();
    assert_eq!(
        (
            done.keys_made,
            done.keys_removed,
            done.values_set,
            done.values_removed
        ),
        (0, 1, 2, 1)
    );
    let key = hive.find("ControlSet002\\Services\\viostor").unwrap().unwrap();
    assert_eq!(
        (key.dword("Start").unwrap(), key.text("").unwrap().as_deref()),
        (Some(0), Some("text"))
    );
    assert!(hive.find("ControlSet002\\Services\\old").unwrap().is_none());
    assert!(
        hive.find("CurrentControlSet").unwrap().is_none(),
        "no real key of that name"
    );
    // A second time nothing is left to do.
    let before = hive.file().to_vec();
    let mut editor = hive.edit(9).unwrap();
    let done = import(&file, PREFIX, &mut editor).unwrap();
    assert_eq!(done, rehome::hive::reg_file::Imported::default());
    assert!(!editor.commit().unwrap());
    assert!(hive.file() == before);
}

#[test]
fn keys_of_other_hives_and_the_root_are_refused() {
    let mut hive = Hive::create("SYSTEM", Version::Latest, 0).unwrap();
    for (text, said) in [
        (
            "[HKEY_LOCAL_MACHINE\\SOFTWARE\\x]\n",
            "HKEY_LOCAL_MACHINE\\SOFTWARE\\x",
        ),
        ("[HKEY_LOCAL_MACHINE]\n", "not below"),
        ("[-HKEY_LOCAL_MACHINE\\SYSTEM]\n", "removes the root"),
        ("[HKEY_LOCAL_MACHINE\\SYSTEMX\\x]\n", "not below"),
    ] {
        let file = parse(text.as_bytes(), CodePage::default()).unwrap();
        let mut editor = hive.edit(0).unwrap();
        let error = import(&file, PREFIX, &mut editor).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any name and any text, any bytes of any type.
    #[test]
    fn anything_goes_out_and_comes_back(
        values in prop::collection::vec((".{0,12}", any::<u32>().prop_map(|k| k % 14), prop::collection::vec(any::<u8>(), 0..60), ".{0,20}"), 0..8),
        key in "[^\\\\\0\n\r]{1,20}",
    ) {
        let mut hive = Hive::create("new", Version::Latest, 0).unwrap();
        let mut editor = hive.edit(0).unwrap();
        let id = editor.make_path(&key).unwrap();
        for (name, kind, bytes, text) in &values {
            let name = name.replace(['\0', '\n', '\r'], "_");
            let data = if *kind % 2 == 0 { bytes.clone() } else { rehome::hive::encode_text(text) };
            editor.set_value(id, name.as_str(), rehome::hive::ValueKind(*kind), &data).unwrap();
        }
        editor.commit().unwrap();
        for style in [Style::Version5, Style::Version5Utf8] {
            let (text, done) = exported(&hive, style, PREFIX);
            prop_assert!(done.left_out.is_empty(), "{:?}", done);
            let back = imported(&text, Version::Latest, PREFIX);
            must_be_alike(&by_us(&hive), &by_us(&back), "proptest");
        }
        let (text, done) = exported(&hive, Style::Regedit4(CodePage::default()), "");
        if done.left_out.is_empty() {
            let seen = by_reg_file(&text);
            prop_assert_eq!(seen, by_us(&hive));
        }
    }

    /// No text makes the parser panic or hang.
    #[test]
    fn any_text_is_read_or_refused(text in "(\\[|\\]|\"|\\\\|=|hex|\\(|\\)|:|,|dword|-|@|;|\n|[a-f0-9]| ){0,80}") {
        let _ = parse(text.as_bytes(), CodePage::default());
    }
}
