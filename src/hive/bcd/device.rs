//! What device elements hold. Microsoft has not published it; this is what the stores of Windows Vista to 11 show, and what
//! the open boot libraries (`BL_DEVICE_DESCRIPTOR` in ReactOS and others) agree on. All numbers are little-endian.
//!
//! | offset | bytes | of an element |
//! |---|---|---|
//! | 0 | 16 | object with more options, or zeros |
//! | 16 | | a descriptor |
//!
//! | offset | bytes | of a descriptor |
//! |---|---|---|
//! | 0 | 4 | type: 0 local, 5 where the boot manager came from, 6 partition, 8 to be located |
//! | 4 | 4 | flags |
//! | 8 | 4 | bytes of the descriptor |
//! | 12 | 4 | zeros |
//! | 16 | | by type |
//!
//! Of a **partition**: 16 bytes partition (GPT: its GUID; MBR: its offset on the disk in bytes, 8 bytes), 4 bytes type of the disk, 4 bytes kind of
//! the table (0 GPT, 1 MBR), 16 bytes disk (GPT: its GUID; MBR: its signature, 4 bytes), 16 bytes zeros.
//!
//! Of a **local** device: 4 bytes which. A RAM disk (3) has 20 bytes base, size and offset, and a file; a file (5) has a file; a virtual
//! disk (6) has 20 bytes zeros and a descriptor. A **file** is: 4 bytes version 1, 4 bytes length of all of it, 4 bytes type 5, a descriptor, and
//! the path in UTF-16LE to its zero.
//!
//! Of a device **to be located**: 4 bytes how (0 by an element, 1 by a path), 4 bytes element, 4 bytes offset in the descriptor of another
//! descriptor or zero, and the path in UTF-16LE.

use crate::{
    disk::field::{Truncated, array_at, bytes_at, put_bytes, put_u32_le, put_u64_le, u32_le, u64_le},
    hive::decode_text,
};
use std::fmt;
use thiserror::Error;
use uuid::Uuid;

const OPTIONS: usize = 16;
const HEADER: usize = 16;
const FILE_HEADER: usize = 12;
/// Of RAM disks and virtual disks, between their kind and what follows.
const LOCAL_FIELDS: usize = 20;
/// Bytes of a descriptor of a partition.
const PARTITION: usize = 72;
/// Windows nests a partition in a file in a virtual disk in a location: deeper is damage.
const MOST_NESTED: usize = 8;

const LOCAL: u32 = 0;
const BOOT: u32 = 5;
const ON_PARTITION: u32 = 6;
const TO_BE_LOCATED: u32 = 8;
const RAM_DISK: u32 = 3;
const FILE: u32 = 5;
const VIRTUAL_DISK: u32 = 6;
const GPT: u32 = 0;
const MBR: u32 = 1;

/// A device element. What is not understood in it stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    bytes: Vec<u8>,
    options: Option<Uuid>,
    place: DevicePlace,
    /// Where the descriptors of partitions begin in the bytes.
    partitions: Vec<usize>,
}

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DevicePlace {
    /// Where the boot manager itself came from.
    Boot,
    /// A partition.
    Partition(Partition),
    /// A RAM disk, made from a file.
    RamDisk(Box<DevicePlace>, String),
    /// A file that is a disk.
    File(Box<DevicePlace>, String),
    /// A virtual disk, which is in something else.
    VirtualDisk(Box<DevicePlace>),
    /// Looked for: the device that has what an element (its number) or a path names; within another one, if there is one.
    Located {
        /// The element.
        element: u32,
        /// The path.
        path: String,
        /// The other one.
        within: Option<Box<DevicePlace>>,
    },
    /// Something else, by its type: left alone.
    Other(u32),
}

/// How a partition is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// By GUIDs.
    Gpt {
        /// Of the disk.
        disk: Uuid,
        /// Of the partition.
        partition: Uuid,
    },
    /// By a number in the master boot record, and where it begins.
    Mbr {
        /// The disk's signature.
        signature: u32,
        /// In bytes.
        offset: u64,
    },
}

/// As a report names it.
impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpt { disk, partition } => write!(f, "partition {partition} of GPT disk {disk}"),
            Self::Mbr { signature, offset } => {
                write!(f, "partition at byte {offset} of MBR disk {signature:08x}")
            }
        }
    }
}

/// The bytes are no device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// Something is cut short.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// Descriptors in descriptors without an end.
    #[error("more than {MOST_NESTED} devices within each other")]
    Nested,
}

impl Device {
    /// From the bytes of an element.
    ///
    /// # Errors
    /// If they end too early.
    pub fn parse(bytes: &[u8]) -> Result<Self, DeviceError> {
        let options = Uuid::from_bytes_le(array_at(bytes, 0)?);
        let mut partitions = Vec::new();
        let place = descriptor(bytes, OPTIONS, 0, &mut partitions)?;
        Ok(Self {
            bytes: bytes.to_vec(),
            options: (!options.is_nil()).then_some(options),
            place,
            partitions,
        })
    }

    /// A partition, plainly.
    pub fn on(partition: Partition) -> Self {
        let mut bytes = vec![0; OPTIONS + PARTITION];
        let size = u32::try_from(PARTITION).unwrap_or(0);
        // The bytes are as many as the fields need.
        let _ = put_u32_le(&mut bytes, OPTIONS, ON_PARTITION);
        let _ = put_u32_le(&mut bytes, OPTIONS + 8, size);
        let _ = put_partition(&mut bytes, OPTIONS, partition);
        Self {
            bytes,
            options: None,
            place: DevicePlace::Partition(partition),
            partitions: vec![OPTIONS],
        }
    }

    /// As stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The object with more options.
    pub fn options(&self) -> Option<Uuid> {
        self.options
    }

    /// Where it is.
    pub fn place(&self) -> &DevicePlace {
        &self.place
    }

    /// The partition that it is on, however deep within files and virtual disks; the first if there are several.
    pub fn partition(&self) -> Option<Partition> {
        self.partitions
            .iter()
            .find_map(|at| partition(&self.bytes, *at).ok().flatten())
    }

    /// The same device with its partitions named otherwise: `new` gives the new name, or `None` for what stays. `None` if
    /// all stays.
    ///
    /// # Errors
    /// None for a device that was parsed.
    pub fn moved(&self, new: &dyn Fn(Partition) -> Option<Partition>) -> Result<Option<Self>, DeviceError> {
        let mut bytes = self.bytes.clone();
        for at in &self.partitions {
            if let Some(old) = partition(&bytes, *at)?
                && let Some(new) = new(old)
            {
                put_partition(&mut bytes, *at, new)?;
            }
        }
        if bytes == self.bytes {
            return Ok(None);
        }
        Self::parse(&bytes).map(Some)
    }
}

/// The descriptor at `at`.
fn descriptor(
    bytes: &[u8],
    at: usize,
    depth: usize,
    partitions: &mut Vec<usize>,
) -> Result<DevicePlace, DeviceError> {
    if depth >= MOST_NESTED {
        return Err(DeviceError::Nested);
    }
    let deeper = depth.saturating_add(1);
    let kind = u32_le(bytes, at)?;
    // All that belongs to it.
    let length = usize::try_from(u32_le(bytes, at.saturating_add(8))?).unwrap_or(usize::MAX);
    let end = at.saturating_add(bytes_at(bytes, at, length)?.len());
    let bytes = bytes_at(bytes, 0, end)?;
    let body = at.saturating_add(HEADER);
    Ok(match kind {
        BOOT => DevicePlace::Boot,
        ON_PARTITION => match partition(bytes, at)? {
            Some(partition) => {
                partitions.push(at);
                DevicePlace::Partition(partition)
            }
            None => DevicePlace::Other(kind),
        },
        LOCAL => {
            let fields = body.saturating_add(4);
            match u32_le(bytes, body)? {
                RAM_DISK => {
                    let (on, path) = file(bytes, fields.saturating_add(LOCAL_FIELDS), deeper, partitions)?;
                    DevicePlace::RamDisk(Box::new(on), path)
                }
                FILE => {
                    let (on, path) = file(bytes, fields, deeper, partitions)?;
                    DevicePlace::File(Box::new(on), path)
                }
                VIRTUAL_DISK => {
                    let within = descriptor(bytes, fields.saturating_add(LOCAL_FIELDS), deeper, partitions)?;
                    DevicePlace::VirtualDisk(Box::new(within))
                }
                _ => DevicePlace::Other(kind),
            }
        }
        TO_BE_LOCATED => {
            let other = usize::try_from(u32_le(bytes, body.saturating_add(8))?).unwrap_or(usize::MAX);
            let within = match other {
                0 => None,
                other => Some(Box::new(descriptor(
                    bytes,
                    at.saturating_add(other),
                    deeper,
                    partitions,
                )?)),
            };
            DevicePlace::Located {
                element: u32_le(bytes, body.saturating_add(4))?,
                path: decode_text(bytes.get(body.saturating_add(12)..).unwrap_or_default()),
                within,
            }
        }
        _ => DevicePlace::Other(kind),
    })
}

/// The file at `at`: what it is on, and its path.
fn file(
    bytes: &[u8],
    at: usize,
    depth: usize,
    partitions: &mut Vec<usize>,
) -> Result<(DevicePlace, String), DeviceError> {
    let on_at = at.saturating_add(FILE_HEADER);
    let on = descriptor(bytes, on_at, depth, partitions)?;
    let length = usize::try_from(u32_le(bytes, on_at.saturating_add(8))?).unwrap_or(usize::MAX);
    let path = bytes.get(on_at.saturating_add(length)..).unwrap_or_default();
    Ok((on, decode_text(path)))
}

/// The partition in the descriptor at `at`; `None` for a table that is neither GPT nor MBR.
fn partition(bytes: &[u8], at: usize) -> Result<Option<Partition>, Truncated> {
    let bytes = bytes_at(bytes, at, PARTITION)?;
    Ok(match u32_le(bytes, 36)? {
        GPT => Some(Partition::Gpt {
            disk: Uuid::from_bytes_le(array_at(bytes, 40)?),
            partition: Uuid::from_bytes_le(array_at(bytes, 16)?),
        }),
        MBR => Some(Partition::Mbr {
            signature: u32_le(bytes, 40)?,
            offset: u64_le(bytes, 16)?,
        }),
        _ => None,
    })
}

fn put_partition(bytes: &mut [u8], at: usize, partition: Partition) -> Result<(), Truncated> {
    let mut name = [0; 16];
    let mut disk = [0; 16];
    let table = match partition {
        Partition::Gpt {
            disk: guid,
            partition,
        } => {
            name = partition.to_bytes_le();
            disk = guid.to_bytes_le();
            GPT
        }
        Partition::Mbr { signature, offset } => {
            put_u64_le(&mut name, 0, offset)?;
            put_u32_le(&mut disk, 0, signature)?;
            MBR
        }
    };
    put_bytes(bytes, at.saturating_add(16), &name)?;
    put_u32_le(bytes, at.saturating_add(36), table)?;
    put_bytes(bytes, at.saturating_add(40), &disk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hive::encode_text;

    const ON_GPT: Partition = Partition::Gpt {
        disk: Uuid::from_u128(0x0b23_94a9_095e_7d08),
        partition: Uuid::from_u128(0x8e0f_2c38_e4ea),
    };
    const ON_MBR: Partition = Partition::Mbr {
        signature: 0x3623_4da4,
        offset: 1 << 20,
    };

    fn header(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [kind, 0, (16 + body.len()) as u32, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(body);
        bytes
    }

    fn file(on: &[u8], path: &str) -> Vec<u8> {
        let path = encode_text(path);
        let mut bytes = Vec::new();
        for field in [1, (12 + on.len() + path.len()) as u32, 5] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(on);
        bytes.extend(path);
        bytes
    }

    fn local(kind: u32, fields: usize, rest: &[u8]) -> Vec<u8> {
        let mut body = kind.to_le_bytes().to_vec();
        body.resize(4 + fields, 0);
        body.extend(rest);
        header(LOCAL, &body)
    }

    fn element(descriptor: &[u8]) -> Vec<u8> {
        [&[0; 16][..], descriptor].concat()
    }

    fn on(partition: Partition) -> Vec<u8> {
        Device::on(partition).bytes()[16..].to_vec()
    }

    /// As bcdedit writes `partition=C:` on an MBR disk.
    #[test]
    fn a_partition_of_windows_is_understood() {
        let mut bytes = vec![0; 88];
        bytes[16] = 6;
        bytes[24] = 0x48;
        bytes[34] = 0x10;
        bytes[52] = 1;
        bytes[56..60].copy_from_slice(&[0xa4, 0x4d, 0x23, 0x36]);
        let device = Device::parse(&bytes).unwrap();
        assert_eq!(device.place(), &DevicePlace::Partition(ON_MBR));
        assert_eq!(Device::on(ON_MBR), device);
        assert_eq!(
            ON_MBR.to_string(),
            "partition at byte 1048576 of MBR disk 36234da4"
        );
        assert_eq!(device.options(), None);
    }

    #[test]
    fn partitions_are_found_in_whatever_they_are_in() {
        let boot = header(BOOT, &[0; 56]);
        let ram_disk = local(RAM_DISK, 20, &file(&on(ON_GPT), "\\boot.wim"));
        let vhd = local(VIRTUAL_DISK, 20, &local(FILE, 0, &file(&on(ON_MBR), "\\a.vhd")));
        let mut body = [0; 14];
        body[4..8].copy_from_slice(&0x1200_0002_u32.to_le_bytes());
        body[8] = 30;
        let located = header(TO_BE_LOCATED, &[&body[..], &vhd].concat());
        let by_path = header(
            TO_BE_LOCATED,
            &[&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &encode_text("\\x")[..]].concat(),
        );
        for (descriptor, expected) in [
            (&boot, None),
            (&ram_disk, Some(ON_GPT)),
            (&vhd, Some(ON_MBR)),
            (&located, Some(ON_MBR)),
            (&by_path, None),
        ] {
            let device = Device::parse(&element(descriptor)).unwrap();
            assert_eq!(device.partition(), expected);
            assert_eq!(device.bytes(), element(descriptor));
        }
        let device = Device::parse(&element(&located)).unwrap();
        let DevicePlace::Located {
            element: 0x1200_0002,
            path,
            within: Some(within),
        } = device.place()
        else {
            panic!("{device:?}");
        };
        assert_eq!(path, "");
        let DevicePlace::VirtualDisk(within) = &**within else {
            panic!("{within:?}")
        };
        let DevicePlace::File(on, path) = &**within else {
            panic!("{within:?}")
        };
        assert_eq!((&**on, &**path), (&DevicePlace::Partition(ON_MBR), "\\a.vhd"));
        let device = Device::parse(&element(&by_path)).unwrap();
        assert!(matches!(device.place(), DevicePlace::Located { path, .. } if path == "\\x"));
    }

    #[test]
    fn a_move_changes_the_names_and_nothing_else() {
        let bytes = element(&local(RAM_DISK, 20, &file(&on(ON_GPT), "\\boot.wim")));
        let device = Device::parse(&bytes).unwrap();
        assert_eq!(device.moved(&|_| None).unwrap(), None);
        assert_eq!(device.moved(&Some).unwrap(), None);
        let moved = device
            .moved(&|old| (old == ON_GPT).then_some(ON_MBR))
            .unwrap()
            .unwrap();
        assert_eq!(moved.partition(), Some(ON_MBR));
        let back = moved.moved(&|_| Some(ON_GPT)).unwrap().unwrap();
        assert_eq!(back.bytes(), bytes);
    }

    #[test]
    fn hostile_bytes_are_refused() {
        let good = element(&local(RAM_DISK, 20, &file(&on(ON_GPT), "\\boot.wim")));
        for length in 0..good.len() {
            // Cut within the path it is still a device, but its size says that it was longer.
            assert!(Device::parse(&good[..length]).is_err(), "{length}");
        }
        // A location that is within itself.
        let mut ring = element(&header(TO_BE_LOCATED, &[0; 16]));
        ring[16 + 16 + 8] = 0;
        assert!(Device::parse(&ring).is_ok());
        let mut deep = on(ON_GPT);
        for _ in 0..MOST_NESTED {
            deep = local(VIRTUAL_DISK, 20, &deep);
        }
        assert_eq!(Device::parse(&element(&deep)), Err(DeviceError::Nested));
        let mut unknown = element(&on(ON_GPT));
        unknown[16 + 36] = 2;
        assert_eq!(Device::parse(&unknown).unwrap().place(), &DevicePlace::Other(6));
        assert_eq!(
            Device::parse(&unknown).unwrap().moved(&|_| Some(ON_MBR)).unwrap(),
            None
        );
    }
}
