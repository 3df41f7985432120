//! Making a new image: what every format is told, and what it may ask for.

use super::{Format, ova, qcow2, raw, vdi, vhd, vhdx, vmdk};
use crate::disk::{Disk, Error, Kind, Result, Sink};
use std::{str::FromStr, sync::Arc};

/// What a new image is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its format.
    pub format: Format,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Logical sector of the disk in bytes, for formats that keep it.
    pub sector_size: u32,
    /// The format's own options.
    pub options: Options,
}

/// `-o` and `-c`: words that each format reads for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-c`: compressed.
    pub compress: bool,
    /// `-o NAME=VALUE,...`, in order; a later word wins.
    pub words: Vec<(String, String)>,
}

impl Options {
    /// Adds the words of one `-o`. Two commas stand for one in a value, as for qemu-img.
    ///
    /// # Errors
    /// A word that is not `NAME=VALUE`.
    pub fn add(&mut self, text: &str) -> std::result::Result<(), String> {
        let mut words = vec![String::new()];
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter == ',' && letters.next_if_eq(&',').is_none() {
                words.push(String::new());
            } else if let Some(word) = words.last_mut() {
                word.push(letter);
            }
        }
        for word in words.iter().filter(|word| !word.is_empty()) {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("\"{word}\" is not NAME=VALUE"))?;
            self.words.push((name.to_owned(), value.to_owned()));
        }
        Ok(())
    }

    /// Calls `take` with every word; what it does not know (`Ok(false)`) is refused with the names of `known`.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] with the sentence of what is wrong.
    pub fn each(
        &self,
        format: Format,
        known: &[&str],
        mut take: impl FnMut(&str, &str) -> std::result::Result<bool, String>,
    ) -> Result<()> {
        let refuse = |text: String| Err(Error::new(Kind::Unsupported, format.name(), text));
        for (name, value) in &self.words {
            match take(name, value) {
                Ok(true) => {}
                Ok(false) if known.is_empty() => {
                    return refuse(format!("there is no option \"{name}\": this format has none"));
                }
                Ok(false) => {
                    return refuse(format!(
                        "there is no option \"{name}\"; there are: {}",
                        known.join(", ")
                    ));
                }
                Err(text) => return refuse(format!("option {name}={value}: {text}")),
            }
        }
        Ok(())
    }
}

/// Reads a number, a name of a kind and the like as the value of an option.
///
/// # Errors
/// The sentence of what is wrong.
pub(super) fn value<T: FromStr>(value: &str, expected: &str) -> std::result::Result<T, String> {
    value.parse().map_err(|_| format!("{expected} is expected"))
}

/// A size in bytes: a number, or one with k, M, G, T, P or E behind it for powers of 1024, as qemu-img takes them; small or
/// large, and a B may follow.
///
/// # Errors
/// The sentence of what is wrong.
pub fn bytes(text: &str) -> std::result::Result<u64, String> {
    let wrong =
        || format!("\"{text}\" is no size: a number of bytes is expected, with k, M, G, T, P or E behind it");
    let split = text.find(|letter: char| !letter.is_ascii_digit());
    let (digits, unit) = text.split_at(split.unwrap_or(text.len()));
    let unit = unit.to_ascii_lowercase();
    let shift = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return Err(wrong()),
    };
    if digits.is_empty() {
        return Err(wrong());
    }
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("\"{text}\" is more than 2^64 bytes"))
}

/// `on` or `off`, as qemu-img has it.
///
/// # Errors
/// The sentence of what is wrong.
pub(super) fn switch(value: &str) -> std::result::Result<bool, String> {
    match value {
        "on" | "yes" | "true" => Ok(true),
        "off" | "no" | "false" => Ok(false),
        _ => Err("on or off is expected".to_owned()),
    }
}

/// The files of an image that is made, or gone on with after a kill.
pub trait Files {
    /// The file that is named by the user: writable, and it can grow unless it is a block device.
    fn main(&self) -> Arc<dyn Disk>;
    /// What that file is called (no folder), for formats that write it down or derive names from it.
    fn name(&self) -> &str;
    /// Just made: nothing of an earlier run is in it. Otherwise the format goes on with what it finds.
    fn fresh(&self) -> bool;
    /// Reads zeros wherever nothing was written: zeros need not be written.
    fn blank(&self) -> bool;
    /// A further file beside the first, with `size` bytes to begin with (all hole); when resuming, as it was left.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] where there can be only one file.
    fn beside(&mut self, name: &str, size: u64) -> Result<Arc<dyn Disk>>;
}

/// Bytes that the first file has to have from the start: all of a raw disk, none of a format that grows.
pub fn initial_size(shape: &Shape) -> u64 {
    match shape.format {
        Format::Raw => raw::initial_size(shape),
        Format::Vhd => vhd::initial_size(shape),
        Format::Vhdx => vhdx::initial_size(shape),
        Format::Qcow2 | Format::Vmdk | Format::Ova | Format::Ovf => 0,
        Format::Vdi => vdi::initial_size(shape),
        Format::Qcow | Format::Parallels => 0,
    }
}

/// Begins a new image, or goes on with one.
///
/// # Errors
/// Those of the files; [`Kind::Unsupported`] for what the format cannot be.
pub fn create(shape: &Shape, files: &mut dyn Files) -> Result<Box<dyn Sink>> {
    match shape.format {
        Format::Raw => raw::create(shape, files),
        Format::Qcow2 => qcow2::sink(shape, files),
        Format::Vhd => vhd::sink(shape, files),
        Format::Vhdx => vhdx::sink(shape, files),
        Format::Vdi => vdi::sink(shape, files),
        Format::Vmdk => vmdk::create(shape.size, vmdk::Options::from_words(&shape.options)?, files),
        Format::Ova => {
            let options = ova::Options::from_words(&shape.options)?;
            Ok(Box::new(ova::create(shape.size, &options, files)?))
        }
        Format::Ovf => {
            let text = "a package is written as one archive: -O ova";
            Err(Error::new(Kind::Unsupported, shape.format.name(), text))
        }
        Format::Qcow | Format::Parallels => {
            let text = "is a format that is read, and not made: choose qcow2";
            Err(Error::new(Kind::Unsupported, shape.format.name(), text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_suffixes_of_qemu_img() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4096),
            ("512b", 512),
            ("64k", 65536),
            ("64K", 65536),
            ("1MB", 1 << 20),
            ("32M", 32 << 20),
            ("2GB", 2 << 30),
            ("3t", 3 << 40),
            ("1P", 1 << 50),
            ("15E", 15 << 60),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for wrong in [
            "", "M", "B", "4X", "-1", "+1", "1.5G", "1BB", "1kk", "1 k", "k1", "ä", "1ä",
        ] {
            assert!(bytes(wrong).unwrap_err().contains("is no size"), "{wrong}");
        }
        for large in ["16E", "99999999T", "18446744073709551616"] {
            assert!(bytes(large).unwrap_err().contains("2^64"), "{large}");
        }
    }

    #[test]
    fn two_commas_are_one_in_a_value() {
        let mut options = Options::default();
        options.add("a=1,,2,b=,,,,,c=3,").unwrap();
        let words: Vec<(&str, &str)> = options
            .words
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(words, [("a", "1,2"), ("b", ",,"), ("c", "3")]);
        assert!(options.add("a=1,b").is_err());
    }
}
