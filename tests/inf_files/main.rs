//! INF files of other people: all are read, those that are no whole INF file are refused with the reason; and Wine's
//! SetupAPI sees the same sections, lines and fields.

// Clippy's exemption for tests does not reach the functions that they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use rehome::driver::{
    inf::{Folders, Inf, InfError, Line},
    windows_version::{Architecture, Target, WindowsVersion},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn samples() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples");
    let folder = std::env::var_os("REHOME_SAMPLES")
        .map(PathBuf::from)
        .unwrap_or(beside)
        .join("drivers");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: REHOME_SAMPLES is not set, and there is no ../shared/samples");
    None
}

/// Every INF and INX file, in order.
fn inf_files(folder: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .map(Result::unwrap);
    let wanted = |path: &PathBuf| {
        let extension = path
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        extension == "inf" || extension == "inx"
    };
    entries.map(walkdir::DirEntry::into_path).filter(wanted).collect()
}

#[test]
fn every_sample_is_read_or_refused_for_a_reason() {
    let Some(samples) = samples() else { return };
    let files = inf_files(&samples);
    assert!(files.len() >= 300, "{}", files.len());
    let mut refused = Vec::new();
    let (mut models, mut problems) = (0, 0);
    for path in &files {
        let name = path.strip_prefix(&samples).unwrap().display().to_string();
        let inf = match Inf::parse(&fs::read(path).unwrap()) {
            Ok(inf) => inf,
            Err(error) => {
                refused.push((name, error));
                continue;
            }
        };
        inf.version();
        for (windows, architecture) in [
            ("xp", "x86"),
            ("7", "amd64"),
            ("10", "x86"),
            ("2025", "amd64"),
            ("11", "arm64"),
        ] {
            let target = Target {
                windows: WindowsVersion::from_name(windows).unwrap(),
                architecture: Architecture::from_name(architecture).unwrap(),
            };
            for model in inf.models(&target).unwrap() {
                models += 1;
                let installation = inf.installation(&model.install_section, &target).unwrap();
                problems += installation.map_or(0, |installation| installation.problems.len());
            }
        }
    }
    for (name, error) in &refused {
        eprintln!("refused: {name}: {error}");
    }
    eprintln!(
        "{} files, {} refused, {models} models, {problems} problems in their installations",
        files.len(),
        refused.len()
    );
    // Parts of files that a build puts together, and what an installation disc starts by itself.
    assert!(
        refused.iter().all(|(_, error)| *error == InfError::NoSignature),
        "{refused:?}"
    );
    assert_eq!(refused.len(), 24, "{refused:?}");
    assert!(models > 350, "{models}");
}

/// What one file has, a line of text for each section and line.
fn ours(path: &Path) -> Result<Vec<String>, InfError> {
    let folders = Folders {
        windows: "C:\\windows".into(),
        drive: "C:".into(),
        package: None,
        source: format!("Z:{}\\", path.parent().unwrap().display()).replace('/', "\\"),
    };
    let inf = Inf::parse(&fs::read(path).unwrap())?.with_folders(folders);
    let mut seen = Vec::new();
    for section in inf.sections() {
        seen.push(format!("S\t{}", section.name()));
        for line in section.lines() {
            seen.push(shown(&line));
        }
    }
    Ok(seen)
}

fn shown(line: &Line<'_>) -> String {
    let mut shown = format!("L\t{}", line.key().map_or("-".into(), |key| key.into_owned()));
    for text in line.texts() {
        shown.push('\t');
        shown.push_str(&text);
    }
    shown
}

fn of_hexadecimal(text: &str) -> String {
    if text == "-" {
        return text.to_owned();
    }
    let units: Vec<u16> = (0..text.len())
        .step_by(4)
        .map(|at| u16::from_str_radix(&text[at..at + 4], 16).unwrap())
        .collect();
    String::from_utf16_lossy(&units)
}

#[test]
#[ignore = "long: make test-all"]
fn wine_sees_the_same() {
    let Some(samples) = samples() else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("dump.exe");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inf_files/dump.c");
    let compiler = Command::new("x86_64-w64-mingw32-gcc")
        .arg("-o")
        .args([&program, &source])
        .arg("-lsetupapi")
        .status();
    let found = Command::new("wine").arg("--version").output();
    if compiler.is_err() || found.is_err() {
        eprintln!("skipped: wine and gcc-mingw-w64-x86-64-win32 are not both installed");
        return;
    }
    assert!(compiler.unwrap().success());
    let files = inf_files(&samples);
    let list: String = files
        .iter()
        .map(|path| format!("Z:{}\n", path.canonicalize().unwrap().display()))
        .collect();
    fs::write(folder.path().join("list"), list).unwrap();
    let status = Command::new("wine")
        .arg(&program)
        .args(["list", "out"].map(|name| format!("Z:{}", folder.path().join(name).display())))
        .env("WINEPREFIX", folder.path().join("prefix"))
        .env("WINEDEBUG", "-all")
        .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
        .env("LC_ALL", "en_US.UTF-8")
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    let out = fs::read_to_string(folder.path().join("out")).unwrap();
    let mut theirs = out.split("F\tZ:").skip(1);
    let (mut lines, mut refused) = (0, 0);
    for path in &files {
        let (name, seen) = theirs
            .next()
            .expect("Wine stopped early")
            .split_once('\n')
            .unwrap();
        assert_eq!(Path::new(name), path.canonicalize().unwrap());
        if seen.starts_with('E') {
            assert!(ours(path).is_err(), "{name}: Wine refuses it: {seen}");
            refused += 1;
            continue;
        }
        let ours = ours(path).unwrap_or_else(|error| panic!("{name}: Wine reads it; {error}"));
        for (number, line) in seen.lines().enumerate() {
            let mut fields = line.split('\t');
            let kind = fields.next().unwrap();
            let texts: Vec<String> = fields.map(of_hexadecimal).collect();
            let their = format!("{kind}\t{}", texts.join("\t"));
            // What Wine says of the driver store, which it has not.
            let their = their
                .to_lowercase()
                .replace("c:\\windows\\system32\\unknown", "%13%");
            let our = ours.get(number).map_or("", String::as_str);
            assert_eq!(our.to_lowercase(), their.to_lowercase(), "{name}, entry {number}");
            lines += 1;
        }
        assert_eq!(ours.len(), seen.lines().count(), "{name}");
    }
    eprintln!(
        "{} files, of which both refuse {refused}; {lines} sections and lines alike",
        files.len()
    );
    assert!(lines > 15_000, "{lines}");
}
