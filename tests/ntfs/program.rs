//! NTFS through the program: `rehome fs` and `rehome convert`, as an administrator uses them.

use crate::{
    image::{Image, run},
    model::{Model, Random},
};
use rehome::fs::FileSystem;
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the volume begins on its disk.
const START: u64 = 1 << 20;

/// Runs the program, which must end with `code`; gives what it says.
fn rehome(code: i32, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_rehome"))
        .args(words)
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    said
}

/// A disk with the volume as its only partition.
struct Machine {
    folder: tempfile::TempDir,
    disk: PathBuf,
    at: String,
}

impl Machine {
    fn new(volume: &Image, kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.img");
        let bytes = fs::read(&volume.path).unwrap();
        let file = fs::File::create(&disk).unwrap();
        file.set_len(bytes.len() as u64 + 2 * START).unwrap();
        drop(file);
        let table = format!(
            "label: dos\nstart={}, size={}, type={kind}\n",
            START / 512,
            bytes.len() / 512
        );
        let script = folder.path().join("table");
        fs::write(&script, table).unwrap();
        let mut sfdisk = Command::new("sfdisk");
        sfdisk.args(["-q", "--no-reread", "--no-tell-kernel"]).arg(&disk);
        run(sfdisk.stdin(fs::File::open(&script).unwrap()));
        let file = fs::File::options().write(true).open(&disk).unwrap();
        file.write_all_at(&bytes, START).unwrap();
        let at = format!("{}@p1", disk.display());
        Self { folder, disk, at }
    }

    fn text(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn host_file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.text(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// The volume on a raw disk, as an image that the judges take.
fn volume_on(disk: &Path, length: u64) -> Image {
    let image = Image::empty();
    let mut bytes = vec![0; length as usize];
    fs::File::open(disk)
        .unwrap()
        .read_exact_at(&mut bytes, START)
        .unwrap();
    fs::write(&image.path, bytes).unwrap();
    image
}

fn populated(edits: u32) -> (Image, Model) {
    let image = Image::make(48 << 20, &["-L", "System"]);
    let mut fs = image.open();
    let mut model = Model::read(&fs);
    let root = fs.root().0;
    let mut random = Random::new(77);
    let edit = fs.edit().unwrap();
    let folder = model.create(edit, root, b"Windows", rehome::fs::mode::DIRECTORY | 0o755);
    let file = model.create(edit, folder, b"win.ini", rehome::fs::mode::FILE | 0o644);
    model.replace(edit, file, b"[fonts]\r\n".to_vec());
    for _ in 0..edits {
        model.step(edit, &mut random, 200_000);
    }
    edit.commit().unwrap();
    (image, model)
}

#[test]
fn files_are_looked_at_put_and_removed() {
    let (image, _) = populated(0);
    let length = fs::metadata(&image.path).unwrap().len();
    let machine = Machine::new(&image, "7");
    let before = fs::read(&machine.disk).unwrap();
    let at = &*machine.at;
    assert!(
        rehome(0, &["fs", "ls", at, "/"])
            .lines()
            .any(|name| name == "Windows")
    );
    // In any case, as Windows finds it.
    let long = rehome(0, &["fs", "ls", "-l", at, "/WINDOWS"]);
    assert!(
        long.lines()
            .any(|line| line.starts_with("-rw") && line.ends_with("9 win.ini")),
        "{long}"
    );
    assert_eq!(rehome(0, &["fs", "cat", at, "/windows/WIN.INI"]), "[fonts]\r\n");
    let stat = rehome(0, &["fs", "--json", "stat", at, "/Windows/win.ini"]);
    assert!(
        stat.contains("system.ntfs_acl") && stat.contains("\"size\":9") || stat.contains("\"size\": 9"),
        "{stat}"
    );
    let got = machine.text("got");
    rehome(0, &["fs", "get", at, "/Windows/win.ini", &got]);
    assert_eq!(fs::read(&got).unwrap(), b"[fonts]\r\n");
    let free = rehome(0, &["fs", "free", at, "--json"]);
    let free: serde_json::Value = serde_json::from_str(&free).unwrap();
    let row = &free[0];
    assert_eq!(row["kind"], "ntfs");
    assert!(row["not_copied"].as_u64().unwrap() > 30 << 20, "{row}");
    assert!(
        fs::read(&machine.disk).unwrap() == before,
        "looking changes nothing"
    );

    let (first, second) = (machine.text("first.undo"), machine.text("second.undo"));
    let bytes = Random::new(1).bytes(3_000_000);
    let driver = machine.host_file("driver", &bytes);
    rehome(
        0,
        &[
            "fs",
            "put",
            at,
            "/Windows/a new driver.sys",
            "--from",
            &driver,
            "--undo",
            &first,
        ],
    );
    let other = machine.host_file("ini", b"[other]\r\n");
    rehome(
        0,
        &[
            "fs",
            "put",
            at,
            "/windows/win.ini",
            "--from",
            &other,
            "--undo",
            &second,
        ],
    );
    let edited = volume_on(&machine.disk, length);
    edited.must_be_clean("with files put into it");
    edited.mounted("ro", |point| {
        assert!(fs::read(point.join("Windows/a new driver.sys")).unwrap() == bytes);
        assert_eq!(fs::read(point.join("Windows/win.ini")).unwrap(), b"[other]\r\n");
    });
    let third = machine.text("third.undo");
    rehome(
        0,
        &["fs", "rm", at, "/Windows/A NEW DRIVER.SYS", "--undo", &third],
    );
    let said = rehome(
        1,
        &["fs", "rm", at, "/Windows", "--undo", &machine.text("fourth.undo")],
    );
    assert!(said.contains("not empty") || said.contains("folder"), "{said}");
    let edited = volume_on(&machine.disk, length);
    edited.must_be_clean("with a file removed");
    edited.mounted("ro", |point| {
        assert_eq!(fs::read_dir(point.join("Windows")).unwrap().count(), 1);
    });
    for undo in [third, second, first] {
        rehome(0, &["undo", &undo]);
    }
    assert!(
        fs::read(&machine.disk).unwrap() == before,
        "taken back bit for bit"
    );
}

#[test]
fn unsafe_volumes_are_refused_with_the_cure() {
    let (image, _) = populated(0);
    let at = image.attribute(3, 0x70) + 0x18 + 8;
    image.write(at, &[3, 1, 1, 0]);
    image.mirror_again();
    let machine = Machine::new(&image, "7");
    let before = fs::read(&machine.disk).unwrap();
    let file = machine.host_file("file", b"new");
    let put = |options: &[&str], name: &str| -> Vec<String> {
        let undo = machine.text(name);
        let words = ["put", &machine.at, "/new", "--from", &file, "--undo", &undo];
        let all = ["fs"].iter().chain(options).chain(&words);
        all.map(|word| (*word).to_owned()).collect()
    };
    let words = put(&[], "refused");
    let said = rehome(1, &words.iter().map(|word| &**word).collect::<Vec<_>>());
    assert!(
        said.contains("dirty") && said.contains("--force-dirty") && said.contains("chkdsk"),
        "{said}"
    );
    assert!(
        fs::read(&machine.disk).unwrap() == before,
        "refused and yet changed"
    );
    let words = put(&["--force-dirty"], "forced");
    rehome(0, &words.iter().map(|word| &**word).collect::<Vec<_>>());
    assert_eq!(rehome(0, &["fs", "cat", &machine.at, "/NEW"]), "new");

    let (image, _) = populated(0);
    let mut fs = image.open();
    let root = fs.root();
    let edit = fs.edit().unwrap();
    let hiberfil = edit
        .create(root, b"hiberfil.sys", rehome::fs::mode::FILE | 0o644)
        .unwrap();
    edit.replace(hiberfil, &mut &[&b"HIBR"[..], &[1; 9000]].concat()[..])
        .unwrap();
    edit.commit().unwrap();
    let machine = Machine::new(&image, "7");
    let undo = machine.text("undo");
    let file = machine.host_file("file", b"new");
    let words = [
        "fs",
        "--force-dirty",
        "put",
        &machine.at,
        "/new",
        "--from",
        &file,
        "--undo",
        &undo,
    ];
    let said = rehome(1, &words);
    assert!(
        said.contains("Fast Startup") && said.contains("powercfg /h off"),
        "{said}"
    );

    // A dynamic disk: where its volumes are is not known here.
    let machine = Machine::new(&populated(0).0, "42");
    let said = rehome(1, &["fs", "ls", &machine.at, "/"]);
    assert!(
        said.contains("Logical Disk Manager") && said.contains("diskpart"),
        "{said}"
    );

    let locked = Image::empty();
    let mut boot = vec![0; 4 << 20];
    boot[..11].copy_from_slice(b"\xeb\x58\x90-FVE-FS-");
    fs::write(&locked.path, boot).unwrap();
    let machine = Machine::new(&locked, "7");
    let said = rehome(1, &["fs", "ls", &machine.at, "/"]);
    assert!(
        said.contains("BitLocker") && said.contains("manage-bde -off"),
        "{said}"
    );
}

/// Free space is not copied: what was deleted long ago does not reach the new machine.
#[test]
fn used_clusters_drive_the_copy() {
    let (image, model) = populated(80);
    let length = fs::metadata(&image.path).unwrap().len();
    let secret = b"deleted long ago, and nobody's business";
    let mut free = 0;
    image
        .open()
        .free(&mut |run| {
            free += run.end - run.start;
            image.write(run.start, secret);
            Ok(())
        })
        .unwrap();
    let machine = Machine::new(&image, "7");
    let out = machine.text("out.img");
    let disk = machine.disk.to_str().unwrap();
    rehome(
        0,
        &[
            "convert", disk, "--to", "kvm", "--as-is", "--format", "raw", "-o", &out,
        ],
    );
    let copied = fs::read(&out).unwrap();
    assert!(!copied.windows(secret.len()).any(|window| window == secret));
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&out).unwrap()) * 512;
    assert!(
        blocks + free / 2 < length,
        "{blocks} bytes, {free} were free of {length}"
    );
    let moved = volume_on(Path::new(&out), length);
    moved.must_be_clean("moved");
    model.must_be_in(&moved.open(), "moved");
    moved.mounted("ro", |point| model.must_be_at(point));
}
