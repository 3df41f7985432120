//! What readers see of a hive, in one form: keys by path, their values by name.

use rehome::hive::{Hive, Name, decode_text, encode_text, reg_file};
use std::{collections::BTreeMap, path::Path, process::Command};

/// UTF-16 units of a path, each name behind a backslash; the root is empty.
pub(crate) type KeyPath = Vec<u16>;
/// Type and data by name.
pub(crate) type Values = BTreeMap<Vec<u16>, (u32, Vec<u8>)>;
/// A second key of the same path has a number sign behind it, and so on.
pub(crate) type Seen = BTreeMap<KeyPath, Values>;

pub(crate) fn join(path: &[u16], name: &[u16]) -> KeyPath {
    [path, &[u16::from(b'\\')], name].concat()
}

pub(crate) fn text(units: &[u16]) -> String {
    String::from_utf16_lossy(units)
}

fn insert(seen: &mut Seen, mut path: KeyPath) -> &mut Values {
    while seen.contains_key(&path) {
        path.push(u16::from(b'#'));
    }
    seen.entry(path).or_default()
}

/// What our reader sees.
pub(crate) fn by_us(hive: &Hive) -> Seen {
    let mut seen = Seen::new();
    hive.walk(&hive.root().unwrap(), &mut |path, key| {
        let path = path
            .iter()
            .fold(KeyPath::new(), |path, name| join(&path, name.units()));
        let values = insert(&mut seen, path);
        for value in key.values()? {
            let data = (value.kind().0, value.data()?.into_owned());
            values.entry(value.name().units().to_vec()).or_insert(data);
        }
        Ok(())
    })
    .unwrap();
    seen
}

/// What hivex sees, or why it does not.
pub(crate) fn by_hivex(file: &Path) -> Result<Seen, String> {
    let output = Command::new("hivexregedit")
        .arg("--export")
        .arg(file)
        .arg("\\")
        .output()
        .expect("hivexregedit must be installed (libwin-hivex-perl)");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // Perl prints a string as Latin-1 unless something in it needs more: line by line it is one or the other.
    let mut lines = String::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        match str::from_utf8(line) {
            Ok(line) => lines.push_str(line),
            Err(_) => lines.extend(line.iter().map(|byte| char::from(*byte))),
        }
        lines.push('\n');
    }
    Ok(by_reg_file(lines.as_bytes()))
}

/// What a registration file says.
pub(crate) fn by_reg_file(bytes: &[u8]) -> Seen {
    let file = reg_file::parse(bytes, reg_file::CodePage::default()).unwrap();
    let mut seen = Seen::new();
    for section in file.sections {
        let reg_file::Section::Key { path, values: all } = section else {
            panic!("nothing is removed here");
        };
        let path = path
            .iter()
            .fold(KeyPath::new(), |path, name| join(&path, name.units()));
        let values = insert(&mut seen, path);
        for value in all {
            let (kind, data) = value.data.unwrap();
            values
                .entry(value.name.units().to_vec())
                .or_insert((kind.0, data));
        }
    }
    seen
}

/// Prints what a reader of the Python world sees: all text as hexadecimal UTF-16.
const PYTHON: &str = r#"
import sys
def text(s): return s.encode('utf-16-le', 'surrogatepass').hex()
def key(path): print('K', text(path), sep='\t')
def value(path, name, kind, data): print('V', text(name), kind, data.hex(), sep='\t')
reader, path = sys.argv[1:]
if reader == 'libregf':
    import pyregf
    hive = pyregf.file()
    hive.open(path)
    def walk(k, path):
        key(path)
        for index in range(k.number_of_values):
            v = k.get_value(index)
            value(path, v.name or '', v.type, v.data or b'')
        for index in range(k.number_of_sub_keys):
            sub = k.get_sub_key(index)
            walk(sub, path + '\\' + sub.name)
    walk(hive.get_root_key(), '')
else:
    from dissect.regf import regf
    hive = regf.RegistryHive(open(path, 'rb'))
    def walk(k, path):
        key(path)
        for v in k.values():
            value(path, '' if v.cell.NameLength == 0 else v.name, v.type, v.data)
        for sub in k.subkeys():
            walk(sub, path + '\\' + sub.name)
    walk(hive.root(), '')
"#;

/// The readers of the Python world, by the module that each needs.
pub(crate) const PYTHON_READERS: [(&str, &str); 2] = [("libregf", "pyregf"), ("dissect", "dissect.regf")];

/// A Python with that module: the first on the path, or that of the system, which has Debian's packages.
fn python_with(module: &str) -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let there = Command::new(python)
            .args(["-c", &format!("import {module}")])
            .output();
        there.is_ok_and(|there| there.status.success())
    })
}

/// What `reader` of [`PYTHON_READERS`] sees; `None` if it is not installed, which is said.
fn by_python(reader: (&str, &str), file: &Path) -> Option<Seen> {
    let (name, module) = reader;
    let Some(python) = python_with(module) else {
        eprintln!(
            "skipped: no python3 has {module} (Debian: python3-libregf; PyPI: libregf-python, dissect.regf)"
        );
        return None;
    };
    let output = Command::new(python)
        .args(["-c", PYTHON, name])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{name} cannot read {}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let mut seen = Seen::new();
    let mut path = KeyPath::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            ["K", key] => {
                path = units(key);
                while seen.contains_key(&path) {
                    path.push(u16::from(b'#'));
                }
                seen.insert(path.clone(), Values::new());
            }
            ["V", name, kind, data] => {
                let data = (kind.parse().unwrap(), bytes(data));
                seen.get_mut(&path).unwrap().entry(units(name)).or_insert(data);
            }
            _ => panic!("{line}"),
        }
    }
    Some(seen)
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn units(digits: &str) -> Vec<u16> {
    bytes(digits)
        .chunks(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect()
}

#[track_caller]
pub(crate) fn must_be_alike(ours: &Seen, theirs: &Seen, what: &str) {
    if ours == theirs {
        return;
    }
    let mut said = String::new();
    for path in ours
        .keys()
        .chain(theirs.keys().filter(|path| !ours.contains_key(*path)))
    {
        let none = Values::new();
        match (ours.get(path), theirs.get(path)) {
            (Some(_), None) => said += &format!("{}: only we see it\n", text(path)),
            (None, Some(_)) => said += &format!("{}: only it sees it\n", text(path)),
            (ours, theirs) => {
                let (ours, theirs) = (ours.unwrap_or(&none), theirs.unwrap_or(&none));
                for name in ours
                    .keys()
                    .chain(theirs.keys().filter(|name| !ours.contains_key(*name)))
                {
                    if ours.get(name) != theirs.get(name) {
                        let data = [ours.get(name), theirs.get(name)].map(shown);
                        said += &format!("{}: {}: {}, {}\n", text(path), text(name), data[0], data[1]);
                    }
                }
            }
        }
        if said.len() > 2000 {
            break;
        }
    }
    panic!("{what}: we see, and it sees:\n{said}");
}

fn shown(data: Option<&(u32, Vec<u8>)>) -> String {
    match data {
        None => "nothing".into(),
        Some((kind, data)) => format!(
            "{kind} {} bytes {:02x?}",
            data.len(),
            data.get(..20).unwrap_or(data)
        ),
    }
}

/// `reader` of [`PYTHON_READERS`] sees what we see, if it is installed.
#[track_caller]
pub(crate) fn python_agrees(reader: (&str, &str), ours: &Seen, file: &Path, when: &str) {
    let control = |unit: &u16| (0x80..0xa0).contains(unit);
    if reader.0 == "libregf" && ours.keys().any(|path| path.iter().any(control)) {
        eprintln!("{when}: libregf is not asked: it takes names in Latin-1 for Windows-1252");
        return;
    }
    let Some(mut theirs) = by_python(reader, file) else {
        return;
    };
    let mut ours = ours.clone();
    if reader.0 == "libregf" {
        // It reads values of less than four bytes from the wrong end of their field, and text up to its first zero (20260526).
        for (path, values) in &mut ours {
            let Some(theirs) = theirs.get_mut(path) else {
                continue;
            };
            for (name, (kind, data)) in values {
                let text = matches!(kind, 1 | 2 | 6) && encode_text(&decode_text(data)) != *data;
                if text || matches!(data.len(), 1..=3) {
                    data.clear();
                    theirs.entry(name.clone()).and_modify(|(_, data)| data.clear());
                }
            }
        }
    }
    must_be_alike(&ours, &theirs, &format!("{when}: {}", reader.0));
}

/// hivexregedit, hivexsh and the readers of the Python world see what we see in the hive that lies at `file`.
#[track_caller]
pub(crate) fn judges_agree(file: &Path, python: bool, when: &str) {
    let hive = Hive::open(when, std::fs::read(file).unwrap(), &[]).unwrap();
    let ours = by_us(&hive);
    must_be_alike(&ours, &by_hivex(file).unwrap(), &format!("{when}: hivexregedit"));
    if python {
        for reader in PYTHON_READERS {
            python_agrees(reader, &ours, file, when);
        }
    }
}

/// What `hivexsh` prints for these commands.
pub(crate) fn hivexsh(file: &Path, commands: &str) -> String {
    use std::io::Write;
    let mut child = Command::new("hivexsh")
        .arg(file)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("hivexsh must be installed (libhivex-bin)");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(commands.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{commands}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn name(units: &[u16]) -> Name {
    Name::from_units(units.to_vec())
}
