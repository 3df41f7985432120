//! `rehome hive`, as a user would drive it: on files of the host, and on a hive in a guest.

use crate::{
    raw::Raw,
    samples::sample,
    seen::{hivexsh, judges_agree},
    small_guest::{disk_of, file_in, hash, is_clean, rehome, rehome_ends},
};
use rehome::hive::{Hive, ValueKind, Version, encode_text};
use std::{fs, path::Path};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A SYSTEM of a few keys.
fn system() -> Vec<u8> {
    let mut hive = Hive::create("SYSTEM", Version::Latest, 0).unwrap();
    let mut editor = hive.edit(0).unwrap();
    let select = editor.make_path("Select").unwrap();
    editor
        .set_value(select, "Current", ValueKind::DWORD, &[1, 0, 0, 0])
        .unwrap();
    let disk = editor.make_path("ControlSet001\\Services\\disk").unwrap();
    editor
        .set_value(disk, "Start", ValueKind::DWORD, &[0; 4])
        .unwrap();
    editor
        .set_value(
            disk,
            "ImagePath",
            ValueKind::EXPAND_SZ,
            &encode_text("system32\\disk.sys"),
        )
        .unwrap();
    editor.commit().unwrap();
    hive.into_file()
}

#[test]
fn a_hive_is_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("SYSTEM");
    fs::write(&file, system()).unwrap();
    let file = text(&file);
    assert_eq!(
        rehome_ends(0, &["hive", "ls", file]),
        "ControlSet001\\\nSelect\\\n"
    );
    let said = rehome_ends(0, &["hive", "ls", file, "currentcontrolset\\services\\disk"]);
    assert_eq!(
        said,
        "Start  REG_DWORD  0x0\nImagePath  REG_EXPAND_SZ  system32\\disk.sys\n"
    );
    let get = |arguments: &[&str]| {
        rehome_ends(
            0,
            &[&["hive", "get", file, "ControlSet001\\Services\\disk"], arguments].concat(),
        )
    };
    assert_eq!(get(&["imagepath"]), "system32\\disk.sys\n");
    assert_eq!(get(&["Start"]), "0\n");
    assert!(get(&["Start", "--json"]).contains("\"type\": \"REG_DWORD\""));
    let raw = rehome(&["hive", "get", "--raw", file, "Select", "Current"]);
    assert_eq!(raw.stdout, [1, 0, 0, 0]);
    let facts: serde_json::Value =
        serde_json::from_str(&rehome_ends(0, &["hive", "ls", "--json", file, "Select"])).unwrap();
    assert_eq!(facts["values"][0]["data"], 1);
    for wrong in [
        &["hive", "ls", file, "Absent"][..],
        &["hive", "get", file, "Select", "Absent"],
        &["hive", "ls", "/nowhere/SYSTEM"],
        &["hive", "ls", "/bin/sh"],
    ] {
        let said = rehome_ends(1, wrong);
        assert!(said.starts_with("rehome: "), "{said}");
    }
}

#[test]
fn a_hive_is_edited_where_it_lies_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("SYSTEM");
    let undo = folder.path().join("undo");
    fs::write(&file, system()).unwrap();
    let before = hash(&file);
    let key = "CurrentControlSet\\Services\\viostor";
    // What fits one file fits no other: where it goes must be said.
    rehome_ends(2, &["hive", "set", text(&file), key]);
    rehome_ends(2, &["hive", "set", text(&file), key, "--undo", "a", "-o", "b"]);
    let set = |arguments: &[&str]| {
        rehome_ends(
            0,
            &[
                &["hive", "set", text(&file), key],
                arguments,
                &["--undo", text(&undo)],
            ]
            .concat(),
        )
    };
    let said = set(&["Start", "0", "--type", "REG_DWORD"]);
    assert!(
        said.contains("ControlSet001\\Services\\viostor: Start made, REG_DWORD"),
        "{said}"
    );
    assert!(said.contains("to take it back"), "{said}");
    judges_agree(&file, false, "set");
    Raw::new(&fs::read(&file).unwrap()).must_be_sound("set");
    let seen = hivexsh(&file, "cd \\ControlSet001\\Services\\viostor\nlsval Start\n");
    assert_eq!(seen.trim(), "0");
    // An undo file is never overwritten.
    rehome_ends(
        1,
        &[
            "hive",
            "set",
            text(&file),
            key,
            "Start",
            "1",
            "--undo",
            text(&undo),
        ],
    );
    rehome_ends(0, &["undo", text(&undo)]);
    assert_eq!(hash(&file), before);
    fs::remove_file(&undo).unwrap();

    let said = rehome_ends(
        0,
        &[
            "hive",
            "set",
            text(&file),
            "Select",
            "Current",
            "1",
            "--undo",
            text(&undo),
        ],
    );
    assert!(said.contains("nothing to change"), "{said}");
    assert!(hash(&file) == before && !undo.exists());

    let said = rehome_ends(
        0,
        &[
            "hive",
            "rm",
            text(&file),
            "ControlSet001\\Services",
            "--undo",
            text(&undo),
        ],
    );
    assert!(said.contains("removed"), "{said}");
    assert_eq!(rehome_ends(0, &["hive", "ls", text(&file), "ControlSet001"]), "");
    for wrong in [
        &["hive", "rm", text(&file), "", "-o", "x"][..],
        &["hive", "rm", text(&file), "Select", "a", "-o", "x"],
    ] {
        rehome_ends(1, wrong);
    }
}

#[test]
fn a_copy_is_edited_and_the_hive_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("SYSTEM"), folder.path().join("OUT"));
    fs::write(&file, system()).unwrap();
    let before = hash(&file);
    let words = ["a", "b c", "\u{e4}"];
    let arguments = ["hive", "set", text(&file), "New\\Key", "List"];
    let rest = ["--type", "REG_MULTI_SZ", "-o", text(&out)];
    rehome_ends(0, &[&arguments[..], &words, &rest].concat());
    assert_eq!(hash(&file), before);
    assert_eq!(
        rehome_ends(0, &["hive", "get", text(&out), "New\\Key", "List"]),
        "a\nb c\n\u{e4}\n"
    );
    judges_agree(&out, false, "copy");
    let said = rehome_ends(1, &[&arguments[..], &words, &rest].concat());
    assert!(said.contains("OUT"), "{said}");
}

#[test]
fn a_hive_goes_out_as_text_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let (file, reg, out) = (
        folder.path().join("SYSTEM"),
        folder.path().join("a.reg"),
        folder.path().join("OUT"),
    );
    fs::write(&file, system()).unwrap();
    let prefix = "HKEY_LOCAL_MACHINE\\SYSTEM";
    let said = rehome_ends(
        0,
        &[
            "hive",
            "export",
            text(&file),
            "--prefix",
            prefix,
            "--style",
            "utf16",
            "-o",
            text(&reg),
        ],
    );
    assert_eq!(said, "5 keys, 3 values\n");
    assert!(fs::read(&reg).unwrap().starts_with(&[0xff, 0xfe, b'W', 0]));
    let part = rehome_ends(0, &["hive", "export", text(&file), "Select", "--prefix", prefix]);
    assert_eq!(
        part,
        "Windows Registry Editor Version 5.00\n\n[HKEY_LOCAL_MACHINE\\SYSTEM\\Select]\n\"Current\"=dword:00000001\n\n"
    );
    let said = rehome_ends(
        0,
        &[
            "hive",
            "import",
            text(&file),
            text(&reg),
            "--prefix",
            prefix,
            "-o",
            text(&out),
        ],
    );
    assert!(
        said.starts_with("0 keys made, 0 removed; 0 values set, 0 removed"),
        "{said}"
    );
    assert!(
        fs::read(&out).unwrap() == fs::read(&file).unwrap(),
        "nothing was changed"
    );
    fs::write(
        &reg,
        "REGEDIT4\n\n[HKEY_LOCAL_MACHINE\\SYSTEM\\New]\n@=\"x\"\n[-HKEY_LOCAL_MACHINE\\SYSTEM\\Select]\n",
    )
    .unwrap();
    fs::remove_file(&out).unwrap();
    let said = rehome_ends(
        0,
        &[
            "hive",
            "import",
            text(&file),
            text(&reg),
            "--prefix",
            prefix,
            "-o",
            text(&out),
        ],
    );
    assert!(
        said.starts_with("1 keys made, 1 removed; 1 values set, 0 removed"),
        "{said}"
    );
    assert_eq!(
        rehome_ends(0, &["hive", "ls", text(&out)]),
        "ControlSet001\\\nNew\\\n"
    );
    let said = rehome_ends(
        1,
        &[
            "hive",
            "import",
            text(&file),
            text(&reg),
            "-o",
            text(&folder.path().join("x")),
        ],
    );
    assert!(said.contains("give the prefix"), "{said}");
    fs::write(&reg, "[a]\nnonsense\n").unwrap();
    let said = rehome_ends(1, &["hive", "import", text(&file), text(&reg), "-o", text(&out)]);
    assert!(said.contains("a.reg: line 2"), "{said}");
}

/// The logs beside a hive are found, in whatever case their names are.
#[test]
fn a_hive_that_was_not_closed_is_recovered_and_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hive");
    for (from, to) in [("", ""), (".LOG1", ".log1"), (".LOG2", ".LOG2")] {
        let Some(bytes) = sample(&format!("yarp/NewDirtyHive2/NewDirtyHive{from}")) else {
            return;
        };
        fs::write(folder.path().join(format!("hive{to}")), bytes).unwrap();
    }
    let said = rehome_ends(0, &["hive", "ls", text(&file)]);
    assert!(
        said.contains("Key3\\") && said.contains("were replayed"),
        "{said}"
    );
    let (undo, out) = (folder.path().join("undo"), folder.path().join("out"));
    rehome_ends(
        0,
        &["hive", "set", text(&file), "Key3\\New", "--undo", text(&undo)],
    );
    Raw::new(&fs::read(&file).unwrap()).must_be_sound("recovered");
    let said = rehome_ends(0, &["hive", "ls", text(&file), "Key3"]);
    assert!(said.contains("New\\") && !said.contains("replayed"), "{said}");
    rehome_ends(0, &["undo", text(&undo)]);
    for log in ["hive.log1", "hive.LOG2"] {
        fs::remove_file(folder.path().join(log)).unwrap();
    }
    let arguments = ["hive", "set", text(&file), "New", "-o", text(&out)];
    let said = rehome_ends(1, &arguments);
    assert!(said.contains("--force-dirty"), "{said}");
    let said = rehome_ends(0, &[&arguments[..], &["--force-dirty"]].concat());
    assert!(said.contains("may be out of date"), "{said}");
}

#[test]
fn a_hive_in_a_guest_is_edited_where_it_lies_and_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let config = root.join("Windows/System32/config");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("SYSTEM"), system()).unwrap();
    fs::write(config.join("SYSTEM.LOG1"), []).unwrap();
    let disk = disk_of(folder.path(), &root, "guest.img", crate::small_guest::UUID);
    let before = hash(&disk);
    let path = "/Windows/System32/config/SYSTEM";
    let guest = format!("{}@p1", text(&disk));
    let said = rehome_ends(0, &["hive", "ls", path, "--in", &guest]);
    assert_eq!(said, "ControlSet001\\\nSelect\\\n");
    assert_eq!(
        rehome_ends(
            0,
            &["hive", "--in", text(&disk), "get", path, "Select", "Current"]
        ),
        "1\n"
    );
    let undo = folder.path().join("undo");
    let big = "ab".repeat(30_000);
    let arguments = [
        "hive",
        "--in",
        &guest,
        "set",
        path,
        "Big",
        "Data",
        &big,
        "--type",
        "REG_BINARY",
    ];
    let said = rehome_ends(0, &[&arguments[..], &["--undo", text(&undo)]].concat());
    assert!(said.contains("to take it back"), "{said}");
    is_clean(&disk);
    let inside = file_in(&disk, path);
    Raw::new(&inside).must_be_sound("in a guest");
    let file = folder.path().join("SYSTEM");
    fs::write(&file, inside).unwrap();
    judges_agree(&file, false, "in a guest");
    let hive = Hive::open("SYSTEM", fs::read(&file).unwrap(), &[]).unwrap();
    let value = hive.find("Big").unwrap().unwrap().value("Data").unwrap().unwrap();
    assert_eq!(value.data().unwrap().len(), 30_000);
    rehome_ends(0, &["undo", text(&undo)]);
    assert_eq!(hash(&disk), before);
    let out = folder.path().join("OUT");
    rehome_ends(
        0,
        &["hive", "--in", &guest, "rm", path, "Select", "-o", text(&out)],
    );
    assert_eq!(hash(&disk), before);
    assert_eq!(rehome_ends(0, &["hive", "ls", text(&out)]), "ControlSet001\\\n");
    let said = rehome_ends(1, &["hive", "--in", &guest, "ls", "/Windows/absent"]);
    assert!(said.contains("/Windows/absent"), "{said}");
}
