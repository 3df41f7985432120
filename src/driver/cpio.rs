//! The cpio archives of initramfs images: "newc" (070701) and its sibling with checksums (070702), as the kernel
//! reads them (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). Numbers are eight hexadecimal
//! digits; names and contents begin on multiples of four bytes.

use super::read_ahead::ReadAhead;
use crate::fs::mode;
use std::io::{self, ErrorKind, Read};

/// Bytes of a header, without the name.
const HEADER: usize = 110;
/// The kernel drops longer names (`PATH_MAX`).
const MAX_NAME: usize = 4096;
/// The name of the entry that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";

/// The header of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// As in the archive, without the terminating zero.
    pub(crate) name: Vec<u8>,
    /// Names with the same inode and device are one file.
    pub(crate) inode: u32,
    /// Type and mode, as in `stat(2)`.
    pub(crate) mode: u32,
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Names of this file in the archive.
    pub(crate) links: u32,
    /// Seconds since 1970.
    pub(crate) modified: u32,
    /// Bytes of contents here. Of a file with several names only the last has contents.
    pub(crate) size: u32,
    /// Major and minor number of the device that the file came from.
    pub(crate) device: (u32, u32),
    /// Major and minor number of a device node.
    pub(crate) special: (u32, u32),
}

/// Reads one archive from the position of `source`, which is left right behind its trailer.
pub(crate) struct Reader<'a, R> {
    source: &'a mut ReadAhead<R>,
    start: u64,
    /// Contents of the entry that were not taken yet.
    left: u64,
}

fn invalid(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

impl<'a, R: Read> Reader<'a, R> {
    pub(crate) fn new(source: &'a mut ReadAhead<R>) -> Self {
        let start = source.position();
        Self {
            source,
            start,
            left: 0,
        }
    }

    /// The next entry; `None` at the trailer. What is left of the contents of the last one is skipped.
    pub(crate) fn next_entry(&mut self) -> io::Result<Option<Header>> {
        self.source.skip(self.left)?;
        self.left = 0;
        self.skip_padding()?;
        let at = self.source.position();
        let (mut header, name_length) = parse_header(self.source.peek(HEADER)?, at)?;
        self.source.skip(HEADER as u64)?;
        header.name = vec![0; name_length];
        self.source.read_exact(&mut header.name)?;
        // What follows a zero in the name is not part of it.
        if let Some(zero) = header.name.iter().position(|b| *b == 0) {
            header.name.truncate(zero);
        }
        self.skip_padding()?;
        self.left = u64::from(header.size);
        if header.name == TRAILER {
            self.source.skip(self.left)?;
            return Ok(None);
        }
        Ok(Some(header))
    }

    /// The contents of the entry that was read last, which the caller has found to be small enough.
    pub(crate) fn contents(&mut self) -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        let read = self.source.by_ref().take(self.left).read_to_end(&mut contents)?;
        if read as u64 != self.left {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left = 0;
        Ok(contents)
    }

    fn skip_padding(&mut self) -> io::Result<()> {
        let past = self.source.position().saturating_sub(self.start);
        self.source.skip(padding(past))
    }
}

/// Bytes from `length` to the next multiple of four.
pub(crate) fn padding(length: u64) -> u64 {
    length.wrapping_neg() & 3
}

/// The header in `bytes`, found at `at`, and the length of the name that follows, with its terminating zero.
fn parse_header(bytes: &[u8], at: u64) -> io::Result<(Header, usize)> {
    if bytes.len() < HEADER {
        return Err(io::Error::new(
            ErrorKind::UnexpectedEof,
            format!("the archive ends within a header at byte {at}, before its trailer"),
        ));
    }
    if !(bytes.starts_with(b"070701") || bytes.starts_with(b"070702")) {
        return Err(invalid(format!("no cpio header (070701 or 070702) at byte {at}")));
    }
    let mut numbers = [0_u32; 13];
    let digits = bytes.get(6..HEADER).unwrap_or_default();
    for (number, digits) in numbers.iter_mut().zip(digits.chunks(8)) {
        *number = std::str::from_utf8(digits)
            .ok()
            .filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|text| u32::from_str_radix(text, 16).ok())
            .ok_or_else(|| {
                invalid(format!(
                    "a cpio header at byte {at} has a field that is no number"
                ))
            })?;
    }
    let [
        inode,
        mode,
        uid,
        gid,
        links,
        modified,
        size,
        major,
        minor,
        special_major,
        special_minor,
        name,
        _,
    ] = numbers;
    let name = usize::try_from(name).unwrap_or(usize::MAX);
    if name == 0 || name > MAX_NAME {
        return Err(invalid(format!(
            "a cpio header at byte {at} has a name of {name} bytes; 1 to {MAX_NAME} are possible"
        )));
    }
    let header = Header {
        name: Vec::new(),
        inode,
        mode,
        uid,
        gid,
        links,
        modified,
        size,
        device: (major, minor),
        special: (special_major, special_minor),
    };
    Ok((header, name))
}

/// Writes one archive.
pub(crate) struct Writer {
    bytes: Vec<u8>,
    inode: u32,
    modified: u32,
}

impl Writer {
    /// Every entry gets the time `modified`, in seconds since 1970, and belongs to root.
    pub(crate) fn new(modified: u32) -> Self {
        Self {
            bytes: Vec::new(),
            inode: 0,
            modified,
        }
    }

    /// Adds a directory with these mode bits.
    pub(crate) fn directory(&mut self, name: &[u8], permissions: u32) -> io::Result<()> {
        self.entry(name, mode::DIRECTORY | permissions, 2, &[])
    }

    /// Adds a regular file with these mode bits.
    pub(crate) fn file(&mut self, name: &[u8], permissions: u32, contents: &[u8]) -> io::Result<()> {
        self.entry(name, mode::FILE | permissions, 1, contents)
    }

    /// The archive with its trailer: a multiple of four bytes.
    pub(crate) fn finish(mut self) -> io::Result<Vec<u8>> {
        self.inode = 0;
        self.modified = 0;
        self.header(TRAILER, 0, 0, 1, 0)?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &[u8], mode: u32, links: u32, contents: &[u8]) -> io::Result<()> {
        self.inode = self.inode.saturating_add(1);
        let size = u32::try_from(contents.len())
            .map_err(|_| invalid("a file of 4 GiB does not fit into a cpio archive".to_owned()))?;
        self.header(name, self.inode, mode, links, size)?;
        self.bytes.extend_from_slice(contents);
        self.pad();
        Ok(())
    }

    fn header(&mut self, name: &[u8], inode: u32, mode: u32, links: u32, size: u32) -> io::Result<()> {
        if name.is_empty() || name.len() >= MAX_NAME || name.contains(&0) {
            return Err(invalid(format!(
                "{} cannot be a name in a cpio archive",
                String::from_utf8_lossy(name)
            )));
        }
        let name_length = u32::try_from(name.len().saturating_add(1)).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(b"070701");
        for number in [
            inode,
            mode,
            0,
            0,
            links,
            self.modified,
            size,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ] {
            self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn names(archive: &[u8]) -> io::Result<Vec<Header>> {
        let mut source = ReadAhead::new(archive);
        let mut reader = Reader::new(&mut source);
        let mut headers = Vec::new();
        while let Some(header) = reader.next_entry()? {
            headers.push(header);
        }
        Ok(headers)
    }

    /// What cpio makes of a folder with a file of two names, a link and odd lengths.
    fn made_by_cpio(format: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            "umask 022 && chmod 700 . && mkdir -p a/b && printf hello > a/b/f1 && ln a/b/f1 a/b/second && ln -s b/f1 a/link && : > empty && \
             chmod 4751 empty && find . | sort | cpio -o -H {format} --quiet"
        );
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(&folder)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success());
        output.stdout
    }

    #[test]
    fn archives_of_cpio_are_read() {
        for format in ["newc", "crc"] {
            let archive = made_by_cpio(format);
            let headers = names(&archive).unwrap();
            let seen: Vec<_> = headers
                .iter()
                .map(|h| {
                    (
                        String::from_utf8_lossy(&h.name).into_owned(),
                        h.mode,
                        h.links,
                        h.size,
                    )
                })
                .collect();
            let file = mode::FILE | 0o644;
            let expected = [
                (".", mode::DIRECTORY | 0o700, 3, 0),
                ("a", mode::DIRECTORY | 0o755, 3, 0),
                ("a/b", mode::DIRECTORY | 0o755, 2, 0),
                ("a/link", mode::LINK | 0o777, 1, 4),
                ("empty", mode::FILE | 0o4751, 1, 0),
                ("a/b/f1", file, 2, 0),
                ("a/b/second", file, 2, 5),
            ];
            let mut seen_names: Vec<_> = seen.iter().map(|s| (s.0.as_str(), s.1, s.2, s.3)).collect();
            let mut expected = expected.to_vec();
            seen_names.sort_unstable();
            expected.sort_unstable();
            assert_eq!(seen_names, expected, "{format}");
        }
    }

    #[test]
    fn our_archive_is_read_by_cpio() {
        let mut writer = Writer::new(1_700_000_000);
        writer.directory(b"lib", 0o755).unwrap();
        writer.file(b"lib/a", 0o640, b"four").unwrap();
        writer.file(b"lib/bc", 0o644, b"sixsix").unwrap();
        let archive = writer.finish().unwrap();
        assert_eq!(archive.len() % 4, 0);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.cpio"), &archive).unwrap();
        let output = Command::new("sh")
            .args([
                "-c",
                "TZ=UTC cpio -tv --quiet < x.cpio; cpio -i --quiet < x.cpio; cat lib/a lib/bc",
            ])
            .current_dir(&folder)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.stderr, b"");
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("drwxr-xr-x") && lines[0].contains("Nov 14  2023 lib"),
            "{text}"
        );
        assert!(
            lines[1].starts_with("-rw-r-----   1 root     root            4"),
            "{text}"
        );
        assert_eq!(lines[3], "foursixsix");
    }

    #[test]
    fn damaged_archives_are_errors() {
        let archive = made_by_cpio("newc");
        for cut in (0..archive.len() - 600).step_by(7) {
            assert!(names(&archive[..cut]).is_err(), "{cut}");
        }
        for at in 0..archive.len() {
            let mut damaged = archive.clone();
            damaged[at] = b'f';
            let _ = names(&damaged);
        }
        let mut damaged = archive;
        damaged[94..102].copy_from_slice(b"FFFFFFFF");
        assert!(
            names(&damaged)
                .unwrap_err()
                .to_string()
                .contains("name of 4294967295 bytes")
        );
    }
}
