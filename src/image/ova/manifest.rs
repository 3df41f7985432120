//! The digests of a package's files: DSP0243, section 5.1, "OVF package structure". A line for each file:
//! `SHA256(NAME)= HEX`, with spaces here and there as their makers like them.

use super::flaw::Flaw;
use crate::{
    disk::{Disk, Error, Kind, Result},
    watch::Watch,
};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) algorithm: Algorithm,
    /// In hexadecimal, lower case.
    pub(super) digest: String,
}

/// How a file was digested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// In hexadecimal digits.
    fn length(self) -> usize {
        match self {
            Self::Sha1 => 40,
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

/// A manifest has a line for each file.
pub(super) const LARGEST: u64 = 4 << 20;

/// Reads all lines.
pub(super) fn parse(text: &str) -> std::result::Result<Vec<Entry>, Flaw> {
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(number, line)| entry(line, number)).collect()
}

fn entry(line: &str, number: usize) -> std::result::Result<Entry, Flaw> {
    let flaw = || Flaw::Manifest(number);
    let (algorithm, rest) = line.split_once('(').ok_or_else(flaw)?;
    // The name may have brackets of its own.
    let (name, digest) = rest.rsplit_once('=').ok_or_else(flaw)?;
    let name = name.trim_end().strip_suffix(')').ok_or_else(flaw)?;
    let algorithm = match algorithm.trim().to_ascii_uppercase().replace('-', "").as_str() {
        "SHA1" => Algorithm::Sha1,
        "SHA256" => Algorithm::Sha256,
        "SHA384" => Algorithm::Sha384,
        "SHA512" => Algorithm::Sha512,
        other => return Err(Flaw::Algorithm(other.chars().take(40).collect())),
    };
    let digest = digest.trim().to_ascii_lowercase();
    if digest.len() != algorithm.length() || !digest.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(flaw());
    }
    Ok(Entry {
        name: name.to_owned(),
        algorithm,
        digest,
    })
}

/// A line of ours.
pub(super) fn line(name: &str, digest: &str) -> String {
    format!("SHA256({name})= {digest}\n")
}

/// The digest of all of `file`, in hexadecimal.
pub(super) fn digest(file: &dyn Disk, algorithm: Algorithm, watch: &dyn Watch) -> Result<String> {
    match algorithm {
        Algorithm::Sha1 => of::<Sha1>(file, watch),
        Algorithm::Sha256 => of::<Sha256>(file, watch),
        Algorithm::Sha384 => of::<Sha384>(file, watch),
        Algorithm::Sha512 => of::<Sha512>(file, watch),
    }
}

/// The digest of `bytes` as [`line`] takes it.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// As manifests write it.
pub(super) fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Read at once.
const BUFFER: usize = 1 << 20;

fn of<D: sha2::Digest>(file: &dyn Disk, watch: &dyn Watch) -> Result<String> {
    let mut hasher = D::new();
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < file.size() {
        if watch.cancelled() {
            return Err(Error::new(Kind::Cancelled, file.label(), "cancelled"));
        }
        let count = usize::try_from(file.size() - at)
            .unwrap_or(usize::MAX)
            .min(BUFFER);
        let piece = buffer.get_mut(..count).unwrap_or_default();
        file.read_at(at, piece)?;
        hasher.update(piece);
        watch.advance(count as u64);
        at += count as u64;
    }
    Ok(hexadecimal(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{disk::MemoryDisk, watch::Unwatched};

    #[test]
    fn lines_are_read_as_their_makers_write_them() {
        let one = "a9993e364706816aba3e25717850c26c9cd0d89d";
        let text = format!(
            "SHA1 (a.ovf) = {one}\r\nSHA1(disk (1).vmdk)= {}\n\nsha-256(b)={}\n",
            one.to_uppercase(),
            "0f".repeat(32)
        );
        let entries = parse(&text).unwrap();
        let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["a.ovf", "disk (1).vmdk", "b"]);
        assert_eq!(entries[1].digest, one);
        assert_eq!(entries[2].algorithm, Algorithm::Sha256);
        for (text, flaw) in [
            ("SHA1(a)= 12\n", Flaw::Manifest(1)),
            ("\nSHA1 a = 12\n", Flaw::Manifest(2)),
            ("SHA1(a= 12\n", Flaw::Manifest(1)),
            ("MD5(a)= 12\n", Flaw::Algorithm("MD5".into())),
        ] {
            assert_eq!(parse(text), Err(flaw), "{text:?}");
        }
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        // FIPS 180's own examples for "abc".
        let abc = MemoryDisk::new("abc", b"abc".to_vec());
        for (algorithm, start) in [
            (Algorithm::Sha1, "a9993e364706816a"),
            (Algorithm::Sha256, "ba7816bf8f01cfea"),
            (Algorithm::Sha384, "cb00753f45a35e8b"),
            (Algorithm::Sha512, "ddaf35a193617aba"),
        ] {
            let digest = digest(&abc, algorithm, &Unwatched).unwrap();
            assert!(digest.starts_with(start), "{digest}");
            assert_eq!(digest.len(), algorithm.length());
        }
    }
}
