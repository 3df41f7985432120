//! The archive of a package: ustar with the extensions of pax and GNU for long names and large sizes (POSIX.1-2017, pax,
//! "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format").

use super::{flaw::Flaw, plain};
use crate::disk::{self, Disk, field};

/// Headers and contents begin on a multiple of this.
pub(super) const BLOCK: u64 = 512;

/// Bytes of a header: one block.
pub(super) const HEADER: usize = 512;

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    /// Where its contents begin.
    pub(super) start: u64,
    pub(super) size: u64,
}

/// A package has a handful; the specification sets no limit.
const MOST_MEMBERS: usize = 10_000;

/// Extended headers and names in a member of their own.
const LONGEST_NAMES: u64 = 64 << 10;

/// Reads all headers of `archive`.
///
/// # Errors
/// Those of reading; [`disk::Kind::Corrupt`] for an archive that is damaged or cut short.
pub(super) fn members(archive: &dyn Disk) -> disk::Result<Vec<Member>> {
    let label = archive.label();
    let flawed = |flaw: Flaw| flaw.of(label);
    let end = archive.size();
    let mut members = Vec::new();
    let mut walk = Walk::default();
    while walk.at < end {
        let at = walk.at;
        if end - at < BLOCK {
            return Err(flawed(Flaw::TarCutHeader { at, end }));
        }
        let mut block = [0; HEADER];
        archive.read_at(at, &mut block)?;
        let start = at + BLOCK;
        match walk.step(&block).map_err(flawed)? {
            Step::End => break,
            Step::Nothing { .. } => {}
            Step::Names { size, long_name } => {
                must_be_there("(names)", start, size, end).map_err(flawed)?;
                let mut contents = vec![0; usize::try_from(size).unwrap_or(0)];
                archive.read_at(start, &mut contents)?;
                walk.names(&contents, long_name).map_err(flawed)?;
            }
            Step::File { name, size } => {
                must_be_there(&name, start, size, end).map_err(flawed)?;
                members.push(Member { name, start, size });
                if members.len() >= MOST_MEMBERS {
                    return Err(flawed(Flaw::TarMembers(MOST_MEMBERS)));
                }
            }
        }
    }
    Ok(members)
}

/// What a first look at a file finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::image) enum Look {
    /// No archive: it does not begin with a whole header.
    Other,
    /// An archive with the file that was looked for; or one that ends before its end mark, which may have it there.
    There,
    /// An archive without it.
    Lacking,
}

/// Is `container` an archive, and is there a file in it whose name is `wanted`?
pub(super) fn look(container: &dyn Disk, wanted: impl Fn(&str) -> bool) -> Look {
    let mut walk = Walk::default();
    let mut block = [0; HEADER];
    if container.read_at(0, &mut block).is_err() || !matches!(header(&block, 0), Ok(Some(_))) {
        return Look::Other;
    }
    // Folders count too: whoever makes an archive of nothing else must not be followed for ever.
    for _ in 0..MOST_MEMBERS {
        let start = walk.at.saturating_add(BLOCK);
        if start > container.size() {
            return Look::There;
        }
        if container.read_at(walk.at, &mut block).is_err() {
            return Look::Lacking;
        }
        match walk.step(&block) {
            Ok(Step::Nothing { .. }) => {}
            Ok(Step::Names { size, long_name }) => {
                if start.saturating_add(size) > container.size() {
                    return Look::There;
                }
                let mut contents = vec![0; usize::try_from(size).unwrap_or(0)];
                let read = container.read_at(start, &mut contents).is_ok();
                if !read || walk.names(&contents, long_name).is_err() {
                    return Look::Lacking;
                }
            }
            Ok(Step::File { name, .. }) if wanted(&name) => return Look::There,
            Ok(Step::File { .. }) => {}
            Ok(Step::End) | Err(_) => return Look::Lacking,
        }
    }
    Look::Lacking
}

fn must_be_there(name: &str, start: u64, size: u64, end: u64) -> Result<(), Flaw> {
    match start.checked_add(size) {
        Some(past) if past <= end => Ok(()),
        _ => Err(Flaw::TarCut {
            name: name.to_owned(),
            size,
            start,
            end,
        }),
    }
}

/// A walk from header to header, whether the archive is a file or a stream.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Where the next header is.
    pub(super) at: u64,
    /// What extended headers say of the next file.
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

/// What a header tells. Its contents follow it, padded to whole blocks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The end mark.
    End,
    /// `size` bytes that nobody needs: of a folder, of a link.
    Nothing { size: u64 },
    /// `size` bytes that [`Walk::names`] wants.
    Names { size: u64, long_name: bool },
    /// A file of `size` bytes.
    File { name: String, size: u64 },
}

impl Walk {
    /// Takes the header at [`Walk::at`], and goes on to the next.
    pub(super) fn step(&mut self, block: &[u8; HEADER]) -> Result<Step, Flaw> {
        let at = self.at;
        // Two blocks of zeros end an archive; one is enough for it to be one.
        let Some(header) = header(block, at)? else {
            return Ok(Step::End);
        };
        let step = match header.kind {
            Kind::File => {
                let name = text(&self.name.take().unwrap_or(header.name));
                if std::mem::take(&mut self.sparse) {
                    return Err(Flaw::TarSparse(name));
                }
                let size = self.size.take().unwrap_or(header.size);
                Step::File { name, size }
            }
            Kind::Sparse => return Err(Flaw::TarSparse(text(&header.name))),
            Kind::LongName | Kind::Extended if header.size > LONGEST_NAMES => {
                return Err(Flaw::TarNames {
                    at,
                    length: header.size,
                });
            }
            Kind::LongName | Kind::Extended => Step::Names {
                size: header.size,
                long_name: header.kind == Kind::LongName,
            },
            Kind::Other => {
                // It was this member that those spoke of.
                (self.name, self.size, self.sparse) = (None, None, false);
                Step::Nothing { size: header.size }
            }
            Kind::Global => Step::Nothing { size: header.size },
        };
        let size = match &step {
            Step::End => 0,
            Step::Nothing { size } | Step::Names { size, .. } | Step::File { size, .. } => *size,
        };
        let next = size
            .checked_next_multiple_of(BLOCK)
            .and_then(|padded| at.checked_add(BLOCK)?.checked_add(padded));
        self.at = next.ok_or(Flaw::TarNumber(at))?;
        Ok(step)
    }

    /// Takes the contents of a member that only says something of the next: a name of GNU's, or records of pax.
    pub(super) fn names(&mut self, contents: &[u8], long_name: bool) -> Result<(), Flaw> {
        if long_name {
            self.name = Some(until_nul(contents).to_vec());
            return Ok(());
        }
        self.records(contents)
    }

    /// "pax Extended Header File Format": records of "LENGTH KEYWORD=VALUE\n".
    fn records(&mut self, records: &[u8]) -> Result<(), Flaw> {
        let at = self.at;
        let broken = || Flaw::TarNumber(at);
        let mut rest = records;
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(broken)?;
            let length = rest.get(..space).and_then(decimal).ok_or_else(broken)?;
            let length = usize::try_from(length).map_err(|_| broken())?;
            let record = rest.get(space + 1..length).ok_or_else(broken)?;
            let record = record.strip_suffix(b"\n").ok_or_else(broken)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
            let (keyword, value) = record.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            match keyword {
                b"path" => self.name = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).ok_or_else(broken)?),
                _ if keyword.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(())
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    // `parse` would take a sign.
    text.bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    /// GNU's: it holds the name of the next.
    LongName,
    /// pax's, of the next file.
    Extended,
    /// GNU's own.
    Sparse,
    /// pax's, of all files; GNU's, which holds where the next one leads as a link. Neither is what a name before it is of.
    Global,
    /// A folder, a link, a device.
    Other,
}

#[derive(Debug, PartialEq, Eq)]
struct Header {
    name: Vec<u8>,
    size: u64,
    kind: Kind,
}

/// The header in `block`, which lies at byte `at`; `None`: zeros.
fn header(block: &[u8; HEADER], at: u64) -> Result<Option<Header>, Flaw> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    // "ustar", whatever follows: POSIX has a zero and "00" there, GNU two spaces and a zero.
    if field::bytes_at(block, 257, 5)? != b"ustar" {
        return Err(if at == 0 { Flaw::NoTar } else { Flaw::TarHeader(at) });
    }
    let said = number(field::bytes_at(block, 148, 8)?).ok_or(Flaw::TarNumber(at))?;
    // Summed with its own field taken for spaces; old writers took the bytes for signed.
    let bytes = || {
        let place = 148..156;
        (0..)
            .zip(block)
            .map(move |(index, byte)| if place.contains(&index) { b' ' } else { *byte })
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    if ![unsigned, signed].contains(&i64::try_from(said).unwrap_or(-1)) {
        return Err(Flaw::TarChecksum(at));
    }
    let size = number(field::bytes_at(block, 124, 12)?).ok_or(Flaw::TarNumber(at))?;
    let mut name = until_nul(field::bytes_at(block, 0, 100)?).to_vec();
    let is_posix = field::bytes_at(block, 257, 6)? == b"ustar\0";
    let prefix = until_nul(field::bytes_at(block, 345, 155)?);
    if is_posix && !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    let kind = match field::u8_at(block, 156)? {
        b'0' | 0 | b'7' => Kind::File,
        b'L' => Kind::LongName,
        b'x' => Kind::Extended,
        b'S' => Kind::Sparse,
        b'g' | b'K' => Kind::Global,
        _ => Kind::Other,
    };
    // Links may name the size of what they lead to; it does not follow them.
    let has_contents = !matches!(field::u8_at(block, 156)?, b'1'..=b'6');
    Ok(Some(Header {
        name,
        size: if has_contents { size } else { 0 },
        kind,
    }))
}

/// Octal digits between spaces and zeros, or a binary number behind a set bit (GNU's "base-256").
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // Bit 6 is the sign.
        let high = u64::from(first & 0x7f);
        return rest
            .iter()
            .try_fold(high, |value, byte| {
                Some(value.checked_mul(256)? | u64::from(*byte))
            })
            .filter(|_| first & 0x40 == 0);
    }
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_matches([' ', '\0']);
    if digits.is_empty() {
        return Some(0);
    }
    let octal = digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    octal.then(|| u64::from_str_radix(digits, 8).ok())?
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A name as the descriptor has it.
fn text(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    plain(name.strip_prefix("./").unwrap_or(&name))
}

/// The size that a whole header of the file `name` gives it; `None` for anything else.
pub(super) fn size_of(block: &[u8; HEADER], name: &str) -> Option<u64> {
    let header = header(block, 0).ok()??;
    (header.kind == Kind::File && header.name == name.as_bytes()).then_some(header.size)
}

/// The header of a file of ours. Time, owner and mode are the same for all: the same package is the same bytes.
pub(super) fn file_header(name: &str, size: u64) -> [u8; HEADER] {
    let mut block = [0; HEADER];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = block.get_mut(at..at.saturating_add(bytes.len())) {
            place.copy_from_slice(bytes);
        }
    };
    put(0, name.as_bytes().get(..name.len().min(100)).unwrap_or_default());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // Eleven octal digits hold no more than 8 GiB.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(place) = block.get_mut(148..156) {
        place.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    block
}

/// The longest name that [`file_header`] can hold.
pub(super) const LONGEST_NAME: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use std::{
        path::Path,
        process::{Command, Stdio},
    };

    fn archive(bytes: Vec<u8>) -> disk::Result<Vec<Member>> {
        members(&MemoryDisk::new("a.tar", bytes))
    }

    /// What GNU tar makes of the files of `folder`.
    fn tar(folder: &Path, options: &[&str]) -> Vec<u8> {
        let output = Command::new("tar")
            .args(options)
            .args(["-cf", "-", "."])
            .current_dir(folder)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn what_gnu_tar_packs_is_found_in_every_format() {
        let folder = tempfile::tempdir().unwrap();
        let long = format!("{}/{}", "d".repeat(90), "n".repeat(120));
        std::fs::create_dir(folder.path().join("d".repeat(90))).unwrap();
        for name in ["one", &long] {
            std::fs::write(folder.path().join(name), name.repeat(9)).unwrap();
        }
        std::os::unix::fs::symlink("one", folder.path().join("link")).unwrap();
        for format in ["gnu", "oldgnu", "pax", "ustar"] {
            let options = ["--sort=name", "--format", format];
            if format == "ustar" {
                std::fs::remove_file(folder.path().join(&long)).unwrap();
            }
            let bytes = tar(folder.path(), &options);
            let members = archive(bytes.clone()).unwrap();
            let mut names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            names.sort_unstable();
            let expected: &[&str] = if format == "ustar" {
                &["one"]
            } else {
                &[&long, "one"]
            };
            assert_eq!(names, expected, "{format}");
            for member in &members {
                let start = member.start as usize;
                let contents = &bytes[start..start + member.size as usize];
                assert_eq!(contents, member.name.repeat(9).as_bytes());
            }
        }
    }

    #[test]
    fn what_is_said_of_a_folder_is_not_of_the_next_file() {
        let folder = tempfile::tempdir().unwrap();
        let long = "d".repeat(200);
        std::fs::create_dir(folder.path().join(&long)).unwrap();
        std::fs::write(folder.path().join("one"), "1").unwrap();
        // The link comes before the file, and leads to a name that is too long for a header.
        std::os::unix::fs::symlink(&long, folder.path().join("link")).unwrap();
        for format in ["gnu", "oldgnu", "pax"] {
            let members = archive(tar(folder.path(), &["--sort=name", "--format", format])).unwrap();
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            assert_eq!(names, ["one"], "{format}");
        }
    }

    #[test]
    fn sizes_past_8_gib_are_read_in_both_spellings() {
        let size = 9_000_000_001_u64;
        let mut block = file_header("big", size);
        assert_eq!(header(&block, 0).unwrap().unwrap().size, size);
        block = file_header("small", 0o1234);
        assert_eq!(header(&block, 0).unwrap().unwrap().size, 0o1234);
        let error = archive([&file_header("big", size)[..], &[0; 512]].concat()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("\"big\" has 9000000001 bytes from byte 512 on, but the archive ends at 1024: 8999999489 bytes"),
            "{error}"
        );
        // pax has the size in decimal, and zeros or something else in the header.
        let record = format!("19 size={size}\n");
        assert_eq!(record.len(), 19);
        let mut pax = file_header("pax", 19);
        pax[156] = b'x';
        let sum: u32 = pax[..148]
            .iter()
            .chain(&pax[156..])
            .map(|byte| u32::from(*byte))
            .sum::<u32>()
            + 8 * 32;
        pax[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut contents = record.into_bytes();
        contents.resize(512, 0);
        // The padding is no record.
        let bytes = [&pax[..], &contents, &file_header("big", 0)].concat();
        let error = archive(bytes).unwrap_err();
        assert!(
            error.to_string().contains("\"big\" has 9000000001 bytes"),
            "{error}"
        );
    }

    #[test]
    fn our_headers_are_those_that_tar_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar");
        let mut bytes = file_header("disk 1.vmdk", 700).to_vec();
        bytes.extend([7; 700]);
        bytes.resize(512 + 1024 + 1024, 0);
        std::fs::write(&path, &bytes).unwrap();
        let output = Command::new("tar").arg("tvf").arg(&path).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}",
            output = output.stderr
        );
        assert!(
            text.starts_with("-rw-r--r-- 0/0") && text.contains(" 700 ") && text.ends_with("disk 1.vmdk\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let good = file_header("one", 5).to_vec();
        let sum = |mut block: Vec<u8>| {
            let sum: u32 = block[..148]
                .iter()
                .chain(&block[156..])
                .map(|byte| u32::from(*byte))
                .sum::<u32>()
                + 8 * 32;
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            block
        };
        let changed = |at: usize, bytes: &[u8]| {
            let mut block = good.clone();
            block[at..at + bytes.len()].copy_from_slice(bytes);
            block
        };
        for (bytes, expected) in [
            (changed(0, b"x"), "checksum is wrong"),
            (sum(changed(124, b"0000000009\0\0")), "a number that is none"),
            (
                sum(changed(124, b"-1\0\0\0\0\0\0\0\0\0\0")),
                "a number that is none",
            ),
            (sum(changed(124, &[0xff; 12])), "a number that is none"),
            (sum(changed(124, b"77777777777\0")), "is cut short"),
            (sum(changed(156, b"S")), "sparse"),
            (good[..300].to_vec(), "in the middle of the header"),
            (vec![7; 2000], "is no tar archive"),
            (
                [&good[..], &[0; 512], &[7; 512]].concat(),
                "no header of a file at byte 1024",
            ),
        ] {
            let error = archive(bytes).unwrap_err();
            assert!(error.to_string().contains(expected), "{expected}: {error}");
        }
        assert_eq!(archive(vec![0; 1024]).unwrap(), []);
    }
}
