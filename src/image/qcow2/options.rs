//! What a new image is to be, spelled as `qemu-img create -f qcow2 -o help` has it.

use super::{flaw::Flaw, header::Compression};
use crate::{
    disk::Result,
    image::{
        self, Format,
        create::{bytes, switch, value},
    },
};

/// The shape of a new image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// 2 or 3. Version 2 ("compat=0.10") is for hosts from before 2013; much of what follows needs version 3.
    pub version: u32,
    /// 9 to 21: the cluster size is two to the power of this. qemu's own default is 16.
    pub cluster_bits: u32,
    /// 0 to 6: reference counts have two to the power of this bits.
    pub refcount_order: u32,
    /// Who writes to it later may leave reference counts behind until it is closed.
    pub lazy_refcounts: bool,
    /// Entries of 16 bytes, which map the 32 parts of a cluster one by one: for large clusters over a backing file.
    pub extended_l2: bool,
    /// What is taken for zeros.
    pub preallocation: Preallocation,
    /// How clusters are compressed, now or later.
    pub compression: Compression,
    /// Compressed now.
    pub compress: bool,
    /// The name of a file beside the image that is to hold the data.
    pub data_file: Option<String>,
    /// That file must be a raw image of its own, whoever writes to it.
    pub data_file_raw: bool,
    /// The name of the file that the image stands on: what is left out shows what that has.
    pub backing_file: Option<String>,
    /// Its format, which has to be said: a guest could have written any magic into it.
    pub backing_format: Option<Format>,
}

/// What is taken in advance for clusters that hold zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// A place in the file, which stays a hole.
    Metadata,
    /// Space in the file, which the filesystem keeps for them.
    Falloc,
    /// Zeros are written.
    Full,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: 3,
            cluster_bits: 16,
            refcount_order: 4,
            lazy_refcounts: false,
            extended_l2: false,
            preallocation: Preallocation::Off,
            compression: Compression::Deflate,
            compress: false,
            data_file: None,
            data_file_raw: false,
            backing_file: None,
            backing_format: None,
        }
    }
}

const NAMES: [&str; 11] = [
    "compat",
    "cluster_size",
    "refcount_bits",
    "lazy_refcounts",
    "extended_l2",
    "preallocation",
    "compression_type",
    "data_file",
    "data_file_raw",
    "backing_file",
    "backing_fmt",
];

/// Sizes of clusters, and with extended entries.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const FEWEST_EXTENDED: u32 = 14;

impl Options {
    /// Reads `-o` and `-c`.
    ///
    /// # Errors
    /// Words that are not known, and those that do not go together.
    pub fn from_words(words: &image::Options) -> Result<Self> {
        let mut options = Self {
            compress: words.compress,
            ..Self::default()
        };
        words.each(Format::Qcow2, &NAMES, |name, text| options.take(name, text))?;
        options.check().map_err(|flaw| flaw.of(Format::Qcow2.name()))?;
        Ok(options)
    }

    fn take(&mut self, name: &str, text: &str) -> std::result::Result<bool, String> {
        match name {
            "compat" => {
                self.version = match text {
                    "0.10" | "v2" => 2,
                    "1.1" | "v3" => 3,
                    _ => return Err("0.10 (or v2) or 1.1 (or v3) is expected".to_owned()),
                }
            }
            "cluster_size" => self.cluster_bits = power_of_two(bytes(text)?, 9..=21, "512 to 2M")?,
            "refcount_bits" => {
                self.refcount_order = power_of_two(value(text, "a number of bits")?, 0..=6, "1 to 64")?;
            }
            "lazy_refcounts" => self.lazy_refcounts = switch(text)?,
            "extended_l2" => self.extended_l2 = switch(text)?,
            "preallocation" => {
                self.preallocation = match text {
                    "off" => Preallocation::Off,
                    "metadata" => Preallocation::Metadata,
                    "falloc" => Preallocation::Falloc,
                    "full" => Preallocation::Full,
                    _ => return Err("off, metadata, falloc or full is expected".to_owned()),
                }
            }
            "compression_type" => {
                self.compression = match text {
                    "zlib" => Compression::Deflate,
                    "zstd" => Compression::Zstd,
                    _ => return Err("zlib or zstd is expected".to_owned()),
                }
            }
            "data_file" => {
                if text.is_empty() || text.contains('/') || text.len() > 1023 {
                    return Err("the name of a file that is made beside the image is expected".to_owned());
                }
                self.data_file = Some(text.to_owned());
            }
            "data_file_raw" => self.data_file_raw = switch(text)?,
            "backing_file" => {
                if text.is_empty() || text.len() > 1023 {
                    return Err("the name of a file is expected".to_owned());
                }
                self.backing_file = Some(text.to_owned());
            }
            "backing_fmt" => self.backing_format = Some(text.parse()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Does every cluster get a place, also one of zeros?
    pub(super) fn maps_all(&self) -> bool {
        self.preallocation != Preallocation::Off || self.data_file_raw
    }

    /// Refuses what the format cannot be.
    pub(super) fn check(&self) -> std::result::Result<(), Flaw> {
        if !CLUSTER_BITS.contains(&self.cluster_bits)
            || self.extended_l2 && self.cluster_bits < FEWEST_EXTENDED
        {
            return Err(Flaw::ClusterBits(self.cluster_bits));
        }
        if self.refcount_order > 6 {
            return Err(Flaw::RefcountOrder(self.refcount_order));
        }
        let refuse = |text: &'static str| Err(Flaw::Options(text));
        let version_3 = [
            (self.refcount_order != 4, "refcount_bits other than 16"),
            (self.lazy_refcounts, "lazy_refcounts=on"),
            (self.extended_l2, "extended_l2=on"),
            (
                self.compression != Compression::Deflate,
                "compression_type other than zlib",
            ),
            (self.data_file.is_some(), "data_file"),
        ];
        if self.version < 3
            && let Some((_, name)) = version_3.iter().find(|(wanted, _)| *wanted)
        {
            return Err(Flaw::NeedsVersion3(name));
        }
        if self.compress && self.preallocation != Preallocation::Off {
            return refuse("cannot be compressed and preallocated at once");
        }
        if self.data_file_raw && self.data_file.is_none() {
            return refuse("data_file_raw=on needs data_file=NAME");
        }
        if self.backing_file.is_some() != self.backing_format.is_some() {
            return refuse("backing_file and backing_fmt go together");
        }
        if self.backing_file.is_some() && self.maps_all() {
            return refuse("stands on another image and cannot be preallocated: that would hide it");
        }
        if self.data_file.is_some() && self.compress {
            return refuse("cannot be compressed into an external data file");
        }
        Ok(())
    }
}

/// The exponent of `number`, if that is a power of two and in `range`, which is `named`.
fn power_of_two(
    number: u64,
    range: std::ops::RangeInclusive<u32>,
    named: &str,
) -> std::result::Result<u32, String> {
    let bits = number.trailing_zeros();
    if number.is_power_of_two() && range.contains(&bits) {
        return Ok(bits);
    }
    Err(format!("a power of two from {named} is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> std::result::Result<Options, String> {
        let mut words = image::Options::default();
        words.add(text)?;
        Options::from_words(&words).map_err(|error| error.to_string())
    }

    #[test]
    fn words_are_read_as_qemu_img_reads_them() {
        let options = parse("compat=v3,cluster_size=2M,refcount_bits=1,extended_l2=on,compression_type=zstd");
        let expected = Options {
            cluster_bits: 21,
            refcount_order: 0,
            extended_l2: true,
            compression: Compression::Zstd,
            ..Options::default()
        };
        assert_eq!(options, Ok(expected));
        assert_eq!(
            parse("cluster_size=512").map(|options| options.cluster_bits),
            Ok(9)
        );
        assert_eq!(parse("cluster_size=64k"), Ok(Options::default()));
    }

    #[test]
    fn what_does_not_go_together_is_refused_and_says_why() {
        for (words, expected) in [
            ("cluster_size=3000", "a power of two from 512 to 2M"),
            ("cluster_size=4M", "a power of two from 512 to 2M"),
            ("refcount_bits=128", "a power of two from 1 to 64"),
            ("compat=0.10,refcount_bits=8", "needs compat=1.1"),
            ("compat=v2,compression_type=zstd", "needs compat=1.1"),
            ("extended_l2=on,cluster_size=4k", "2^14 and more"),
            ("data_file_raw=on", "needs data_file"),
            ("data_file=../there", "made beside the image"),
            ("preallocation=some", "off, metadata, falloc or full"),
            ("encryption=on", "there is no option"),
        ] {
            let error = parse(words).unwrap_err();
            assert!(error.contains(expected), "{words}: {error}");
        }
    }
}
