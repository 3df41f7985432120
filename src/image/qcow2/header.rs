//! The qcow2 header: "Header" and "Header extensions" of qemu's `docs/interop/qcow2.txt`.

use super::{bitmap, flaw::Flaw, header_extension as extension};
use crate::disk::field::{bytes_at, put_u8, put_u32_be, put_u64_be, u8_at, u32_be, u64_be};

pub(super) const MAGIC: u32 = 0x5146_49fb; // "QFI\xfb"

/// Bytes of the header of version 2; of version 3 without and with the compression type.
const LENGTH_2: u32 = 72;
const LENGTH_3: u32 = 104;
const LENGTH_3_COMPRESSION: u32 = 112;

/// The header, its extensions and the backing file name lie in the first cluster, which is 2 MiB at most; nothing
/// that qemu writes there needs more than this.
pub(super) const LARGEST_HEADER: u64 = 64 << 10;

/// The specification allows 9 and more; qemu makes and reads 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// qemu reads no larger first-level table (`QCOW_MAX_L1_SIZE`), and it is held in memory. In bytes.
pub(super) const LARGEST_L1: u64 = 32 << 20;

/// qemu reads no larger refcount table (`QCOW_MAX_REFTABLE_SIZE`). In bytes.
pub(super) const LARGEST_REFCOUNT_TABLE: u64 = 8 << 20;

/// The specification's limit for the name of the backing file.
const LONGEST_BACKING_NAME: u32 = 1023;

/// Incompatible features: who does not know one must not open the image.
pub(super) mod incompatible {
    pub(in super::super) const DIRTY: u64 = 1;
    pub(in super::super) const CORRUPT: u64 = 1 << 1;
    pub(in super::super) const EXTERNAL_DATA: u64 = 1 << 2;
    pub(in super::super) const COMPRESSION_TYPE: u64 = 1 << 3;
    pub(in super::super) const EXTENDED_L2: u64 = 1 << 4;
}

/// Compatible features: who does not know one may go on. This one: reference counts may be kept up lazily.
pub(super) const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1;

/// Autoclear features: who does not keep one up must clear its bit before writing.
pub(super) mod autoclear {
    /// The bitmaps are true.
    pub(in super::super) const BITMAPS: u64 = 1;
    /// The external data file is a raw image of its own.
    pub(in super::super) const RAW_DATA: u64 = 1 << 1;
}

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Deflate without an envelope: what qemu calls zlib.
    Deflate,
    /// Zstandard: needs qemu 5.1.
    Zstd,
}

/// How the data is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    Aes,
    Luks,
    Unknown(u32),
}

impl Encryption {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Aes => "AES",
            Self::Luks => "LUKS",
            Self::Unknown(_) => "an unknown method",
        }
    }
}

/// Where the directory of dirty bitmaps is. In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BitmapDirectory {
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// What the header says; sizes and places checked against the format's limits, not against the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Of the guest's disk, in bytes.
    pub(super) size: u64,
    /// Entries.
    pub(super) l1_size: u32,
    pub(super) l1_offset: u64,
    pub(super) refcount_table_offset: u64,
    pub(super) refcount_table_clusters: u32,
    /// Width of a reference count is 2 to the power of this, in bits.
    pub(super) refcount_order: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_offset: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) compression: Compression,
    pub(super) encryption: Option<Encryption>,
    pub(super) backing_name: Option<Vec<u8>>,
    pub(super) backing_format: Option<String>,
    /// Of the external data file.
    pub(super) data_name: Option<Vec<u8>>,
    pub(super) bitmaps: Option<BitmapDirectory>,
}

impl Header {
    pub(super) fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub(super) fn has_extended_l2(&self) -> bool {
        self.incompatible & incompatible::EXTENDED_L2 != 0
    }

    /// Data clusters lie in another file.
    pub(super) fn has_external_data(&self) -> bool {
        self.incompatible & incompatible::EXTERNAL_DATA != 0
    }

    /// Bytes of one entry of a second-level table.
    pub(super) fn l2_entry_size(&self) -> u64 {
        if self.has_extended_l2() { 16 } else { 8 }
    }

    /// Clusters that one second-level table maps.
    pub(super) fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.l2_entry_size()
    }

    /// Bytes of the guest's disk that one second-level table maps: 2^39 at most.
    pub(super) fn l2_coverage(&self) -> u64 {
        self.cluster_size() * self.l2_entries()
    }

    /// Entries of the first-level table that the guest's disk needs.
    pub(super) fn l1_needed(&self) -> u64 {
        self.size.div_ceil(self.l2_coverage())
    }

    /// Parses the first bytes of a file: the first cluster, or [`LARGEST_HEADER`] bytes of it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        if u32_be(bytes, 0)? != MAGIC {
            return Err(Flaw::Magic);
        }
        let version = u32_be(bytes, 4)?;
        if !matches!(version, 2 | 3) {
            return Err(Flaw::Version(version));
        }
        let cluster_bits = u32_be(bytes, 20)?;
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Flaw::ClusterBits(cluster_bits));
        }
        let encryption = match u32_be(bytes, 32)? {
            0 => None,
            1 => Some(Encryption::Aes),
            2 => Some(Encryption::Luks),
            other => Some(Encryption::Unknown(other)),
        };
        let (incompatible, compatible, autoclear, refcount_order, length) = if version == 2 {
            (0, 0, 0, 4, LENGTH_2)
        } else {
            (
                u64_be(bytes, 72)?,
                u64_be(bytes, 80)?,
                u64_be(bytes, 88)?,
                u32_be(bytes, 96)?,
                u32_be(bytes, 100)?,
            )
        };
        if version == 3 && (length < LENGTH_3 || u64::from(length) > LARGEST_HEADER || length % 8 != 0) {
            return Err(Flaw::HeaderLength(length));
        }
        bytes_at(bytes, 0, length as usize)?;
        if refcount_order > 6 {
            return Err(Flaw::RefcountOrder(refcount_order));
        }
        let extensions = extensions(bytes, cluster_bits)?;
        check_features(extensions, length, incompatible)?;
        let compression = if length >= LENGTH_3_COMPRESSION {
            u8_at(bytes, 104)?
        } else {
            0
        };
        let compression = match (compression, incompatible & incompatible::COMPRESSION_TYPE != 0) {
            (0, false) => Compression::Deflate,
            (1, true) => Compression::Zstd,
            (kind, _) => return Err(Flaw::CompressionType(kind)),
        };
        let backing_name = parse_backing_name(bytes, cluster_bits)?;
        let header = Self {
            version,
            cluster_bits,
            size: u64_be(bytes, 24)?,
            l1_size: u32_be(bytes, 36)?,
            l1_offset: u64_be(bytes, 40)?,
            refcount_table_offset: u64_be(bytes, 48)?,
            refcount_table_clusters: u32_be(bytes, 56)?,
            refcount_order,
            snapshots: u32_be(bytes, 60)?,
            snapshots_offset: u64_be(bytes, 64)?,
            incompatible,
            compatible,
            autoclear,
            compression,
            encryption,
            backing_name,
            backing_format: extension::text(extensions, length, extension::BACKING_FORMAT)?
                .map(|name| String::from_utf8_lossy(name).into_owned()),
            data_name: extension::text(extensions, length, extension::DATA_FILE_NAME)?.map(<[u8]>::to_vec),
            bitmaps: parse_bitmaps(extensions, length, autoclear)?,
        };
        header.check_tables()?;
        Ok(header)
    }

    fn check_tables(&self) -> Result<(), Flaw> {
        let aligned = |offset: u64| offset.is_multiple_of(self.cluster_size());
        if self.has_extended_l2() && self.cluster_bits < 14 {
            return Err(Flaw::ClusterBits(self.cluster_bits));
        }
        if u64::from(self.l1_size) * 8 > LARGEST_L1 {
            return Err(Flaw::L1TooLarge(self.l1_size));
        }
        if u64::from(self.l1_size) < self.l1_needed() {
            return Err(Flaw::L1TooSmall {
                entries: self.l1_size,
                needed: self.l1_needed(),
            });
        }
        if !aligned(self.l1_offset) {
            return Err(Flaw::Unaligned("first-level table", self.l1_offset));
        }
        if !aligned(self.refcount_table_offset) {
            return Err(Flaw::Unaligned("refcount table", self.refcount_table_offset));
        }
        if u64::from(self.refcount_table_clusters) * self.cluster_size() > LARGEST_REFCOUNT_TABLE {
            return Err(Flaw::RefcountTableTooLarge(self.refcount_table_clusters));
        }
        Ok(())
    }

    /// The first bytes of a new image: header and extensions.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Flaw> {
        let length = if self.version == 2 {
            LENGTH_2
        } else {
            LENGTH_3_COMPRESSION
        };
        let mut bytes = vec![0; length as usize];
        put_u32_be(&mut bytes, 0, MAGIC)?;
        put_u32_be(&mut bytes, 4, self.version)?;
        put_u32_be(&mut bytes, 20, self.cluster_bits)?;
        put_u64_be(&mut bytes, 24, self.size)?;
        put_u32_be(&mut bytes, 36, self.l1_size)?;
        put_u64_be(&mut bytes, 40, self.l1_offset)?;
        put_u64_be(&mut bytes, 48, self.refcount_table_offset)?;
        put_u32_be(&mut bytes, 56, self.refcount_table_clusters)?;
        if self.version > 2 {
            put_u64_be(&mut bytes, 72, self.incompatible)?;
            put_u64_be(&mut bytes, 80, self.compatible)?;
            put_u64_be(&mut bytes, 88, self.autoclear)?;
            put_u32_be(&mut bytes, 96, self.refcount_order)?;
            put_u32_be(&mut bytes, 100, LENGTH_3_COMPRESSION)?;
            put_u8(&mut bytes, 104, u8::from(self.compression == Compression::Zstd))?;
        }
        if let Some(format) = &self.backing_format {
            extension::push(&mut bytes, extension::BACKING_FORMAT, format.as_bytes());
        }
        if let Some(name) = &self.data_name {
            extension::push(&mut bytes, extension::DATA_FILE_NAME, name);
        }
        if self.version > 2 {
            let names = extension::feature_names();
            // Clusters of 512 bytes have no room for them beside a long name; they only serve messages.
            let backing = self.backing_name.as_ref().map_or(0, Vec::len);
            if bytes.len() + names.len() + backing + 16 <= 1 << self.cluster_bits {
                extension::push(&mut bytes, extension::FEATURE_NAMES, &names);
            }
        }
        bytes.extend_from_slice(&[0; 8]);
        if let Some(name) = &self.backing_name {
            let offset = bytes.len() as u64;
            put_u64_be(&mut bytes, 8, offset)?;
            put_u32_be(&mut bytes, 16, u32::try_from(name.len()).unwrap_or(u32::MAX))?;
            bytes.extend_from_slice(name);
        }
        if bytes.len() > 1 << self.cluster_bits {
            return Err(Flaw::CannotGrow(
                "has no room for the names of other files in its first cluster: choose shorter names or larger clusters",
            ));
        }
        Ok(bytes)
    }
}

/// The first of `bytes`, up to where extensions end at the latest: at the name of the backing file, or with the cluster.
/// Old images have no end mark.
fn extensions(bytes: &[u8], cluster_bits: u32) -> Result<&[u8], Flaw> {
    let cluster = 1 << cluster_bits;
    let end = match u64_be(bytes, 8)? {
        0 => cluster,
        name => cluster.min(name),
    };
    let end = usize::try_from(end).unwrap_or(usize::MAX);
    Ok(bytes.get(..end).unwrap_or(bytes))
}

fn check_features(bytes: &[u8], length: u32, incompatible: u64) -> Result<(), Flaw> {
    use incompatible::{COMPRESSION_TYPE, CORRUPT, DIRTY, EXTENDED_L2, EXTERNAL_DATA};
    let unknown = incompatible & !(DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2);
    if unknown != 0 {
        let bit = unknown.trailing_zeros();
        return Err(Flaw::UnknownFeature {
            bit,
            name: extension::feature_name(bytes, length, bit).unwrap_or_default(),
        });
    }
    Ok(())
}

/// Bitmaps that are out of date are as good as absent.
fn parse_bitmaps(bytes: &[u8], length: u32, autoclear_bits: u64) -> Result<Option<BitmapDirectory>, Flaw> {
    extension::find(bytes, length, |kind, data| {
        (kind == extension::BITMAPS && autoclear_bits & autoclear::BITMAPS != 0)
            .then(|| bitmap::parse_extension(data))
    })?
    .transpose()
}

fn parse_backing_name(bytes: &[u8], cluster_bits: u32) -> Result<Option<Vec<u8>>, Flaw> {
    let offset = u64_be(bytes, 8)?;
    let size = u32_be(bytes, 16)?;
    if offset == 0 {
        return Ok(None);
    }
    if size > LONGEST_BACKING_NAME || offset.saturating_add(u64::from(size)) > 1 << cluster_bits {
        return Err(Flaw::BackingName { offset, size });
    }
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    Ok(Some(bytes_at(bytes, offset, size as usize)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::qcow2::{layout::Layout, options::Options};

    fn sample() -> Vec<u8> {
        Layout::new(10 << 30, Options::default())
            .unwrap()
            .header
            .encode()
            .unwrap()
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        let shape = |cluster_bits| Options {
            cluster_bits,
            ..Options::default()
        };
        let shapes = [
            (0, shape(16)),
            (1, shape(9)),
            (10 << 30, shape(16)),
            (8 << 40, shape(16)),
            (1 << 50, shape(21)),
            (
                1 << 30,
                Options {
                    version: 2,
                    ..shape(16)
                },
            ),
            (
                1 << 30,
                Options {
                    extended_l2: true,
                    lazy_refcounts: true,
                    refcount_order: 6,
                    compression: Compression::Zstd,
                    data_file: Some("data".to_owned()),
                    data_file_raw: true,
                    ..shape(14)
                },
            ),
        ];
        for (size, options) in shapes {
            let header = Layout::new(size, options).unwrap().header;
            assert_eq!(Header::parse(&header.encode().unwrap()), Ok(header));
        }
        assert!(Layout::new(1 << 60, shape(12)).is_err());
        assert!(Layout::new(u64::MAX, Options::default()).is_err());
    }

    #[test]
    fn an_unknown_feature_is_named_if_the_image_names_it() {
        let mut bytes = sample();
        bytes[72 + 7] = 0b0100_0000;
        // The first of the names: "dirty bit" becomes the name of bit 6.
        bytes[112 + 8 + 1] = 6;
        let flaw = Header::parse(&bytes).unwrap_err();
        assert_eq!(
            flaw,
            Flaw::UnknownFeature {
                bit: 6,
                name: "dirty bit".to_owned()
            }
        );
    }

    #[test]
    fn every_prefix_of_a_header_is_refused_or_parsed() {
        let bytes = sample();
        for length in 0..bytes.len() {
            let parsed = Header::parse(&bytes[..length]);
            assert!(length >= 112 || parsed.is_err(), "{length}");
        }
    }
}
