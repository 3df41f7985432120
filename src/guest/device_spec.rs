//! The names that a system gives to its block devices: tags (`UUID=`), links under /dev/disk, and kernel names.

use super::text::lossy;

/// What a name says about the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceSpec {
    /// `UUID=`, /dev/disk/by-uuid/.
    Uuid(String),
    /// `LABEL=`, /dev/disk/by-label/.
    Label(String),
    /// `PARTUUID=`, /dev/disk/by-partuuid/.
    PartUuid(String),
    /// `PARTLABEL=`, /dev/disk/by-partlabel/.
    PartLabel(String),
    /// /dev/sda1 and its like: a place in the order in which the kernel found the disks.
    Kernel(KernelName),
    /// /dev/disk/by-path/…, /dev/disk/by-id/…: where the disk hangs, which model it is. The partition if it names one.
    Hardware { partition: Option<u32> },
    /// /dev/mapper/…, /dev/vg/lv, /dev/md0: put together by software, from what is on the disks.
    Assembled,
    /// Not a device of ours: `proc`, /dev/sr0, a server.
    Other,
}

/// /dev/sda1, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelName {
    /// "sd", "nvme".
    pub(crate) family: &'static str,
    /// 0 for sda, vda, nvme0n1.
    pub(crate) ordinal: u32,
    /// `None` for the whole disk.
    pub(crate) partition: Option<u32>,
}

impl DeviceSpec {
    /// Reads a name. Escapes of fstab are to be gone already; quotes around a tag's value may be there.
    pub(crate) fn parse(name: &[u8]) -> Self {
        let name = match name.strip_prefix(b"\"").and_then(|n| n.strip_suffix(b"\"")) {
            Some(inside) => inside,
            None => name,
        };
        if let Some(equals) = name.iter().position(|byte| *byte == b'=') {
            let (tag, value) = name.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            let value = lossy(value.trim_ascii()).trim_matches(['"', '\'']).to_owned();
            return match tag {
                b"UUID" => Self::Uuid(value),
                b"LABEL" => Self::Label(value),
                b"PARTUUID" => Self::PartUuid(value),
                b"PARTLABEL" => Self::PartLabel(value),
                _ => Self::Other,
            };
        }
        let Some(device) = name.strip_prefix(b"/dev/") else {
            return Self::Other;
        };
        if let Some(link) = device.strip_prefix(b"disk/by-") {
            return Self::parse_link(link);
        }
        match std::str::from_utf8(device) {
            Ok(device) => Self::parse_kernel(device),
            Err(_) => Self::Other,
        }
    }

    /// Does the device get the same name on other hardware?
    pub(crate) fn survives(&self) -> bool {
        !matches!(self, Self::Kernel(_) | Self::Hardware { .. })
    }

    fn parse_link(link: &[u8]) -> Self {
        let Some(slash) = link.iter().position(|byte| *byte == b'/') else {
            return Self::Other;
        };
        let (kind, name) = link.split_at(slash);
        let name = name.get(1..).unwrap_or_default();
        match kind {
            b"uuid" => Self::Uuid(lossy(name)),
            b"label" => Self::Label(lossy(&without_udev_escapes(name))),
            b"partuuid" => Self::PartUuid(lossy(name)),
            b"partlabel" => Self::PartLabel(lossy(&without_udev_escapes(name))),
            // Ids of what software puts together are kept on the disks.
            b"id"
                if [&b"dm-"[..], b"md-", b"lvm-"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix)) =>
            {
                Self::Assembled
            }
            b"id" | b"path" | b"diskseq" => Self::Hardware {
                partition: part_suffix(name),
            },
            _ => Self::Other,
        }
    }

    fn parse_kernel(device: &str) -> Self {
        if let Some(name) = KernelName::parse(device) {
            return Self::Kernel(name);
        }
        let not_storage = ["sr", "fd", "cd", "dvd", "loop", "ram", "tty", "st"];
        let assembled = device.starts_with("mapper/")
            || device.starts_with("md")
            || device.starts_with("dm-")
            // /dev/VOLUME-GROUP/LOGICAL-VOLUME.
            || (device.contains('/') && !device.starts_with("disk/"));
        if !assembled || not_storage.iter().any(|prefix| device.starts_with(prefix)) {
            Self::Other
        } else {
            Self::Assembled
        }
    }
}

impl KernelName {
    /// Reads what stands after "/dev/".
    pub(crate) fn parse(device: &str) -> Option<Self> {
        for family in ["sd", "vd", "xvd", "hd"] {
            if let Some(rest) = device.strip_prefix(family) {
                return Self::lettered(family, rest);
            }
        }
        for family in ["nvme", "mmcblk", "cciss/c"] {
            if let Some(rest) = device.strip_prefix(family) {
                return Self::numbered(family, rest);
            }
        }
        None
    }

    /// "a1", "aa".
    fn lettered(family: &'static str, rest: &str) -> Option<Self> {
        let end = rest
            .find(|letter: char| !letter.is_ascii_lowercase())
            .unwrap_or(rest.len());
        let (letters, digits) = rest.split_at_checked(end)?;
        // sda … sdz, sdaa …: 26 letters as digits without a zero. Linux stops far before four letters.
        if letters.is_empty() || letters.len() > 3 {
            return None;
        }
        let count = letters
            .bytes()
            .fold(0_u32, |count, letter| count * 26 + u32::from(letter - b'a') + 1);
        Some(Self {
            family,
            ordinal: count - 1,
            partition: partition(digits)?,
        })
    }

    /// "0n1p2", "0p1", "0d0p1".
    fn numbered(family: &'static str, rest: &str) -> Option<Self> {
        let (controller, rest) = number(rest)?;
        let (ordinal, rest) = match rest.strip_prefix(['n', 'd']) {
            Some(rest) => {
                let (unit, rest) = number(rest)?;
                // Namespaces count from 1, units of one controller from 0; a second one has no place in our order.
                match (family, unit) {
                    ("nvme", 1) => (controller, rest),
                    ("cciss/c", unit) if controller == 0 => (unit, rest),
                    _ => return None,
                }
            }
            None if family == "mmcblk" => (controller, rest),
            None => return None,
        };
        let partition = match rest.strip_prefix('p') {
            Some(digits) => Some(partition(digits)??),
            None if rest.is_empty() => None,
            None => return None,
        };
        Some(Self {
            family,
            ordinal,
            partition,
        })
    }
}

/// `Some(None)` for no digits, `None` for what is no number.
#[allow(clippy::option_option)] // Two questions, two answers: is it well formed, and is there a partition.
fn partition(digits: &str) -> Option<Option<u32>> {
    if digits.is_empty() {
        return Some(None);
    }
    let (number, rest) = number(digits)?;
    (rest.is_empty() && number > 0).then_some(Some(number))
}

/// The number that `text` begins with, and what follows.
fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

/// The number after the last "-part".
fn part_suffix(name: &[u8]) -> Option<u32> {
    let name = std::str::from_utf8(name).ok()?;
    name.rsplit_once("-part")?.1.parse().ok()
}

/// udev writes what it finds dangerous in a name as `\x20`.
fn without_udev_escapes(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((byte, after)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(b"\\x")
            .and_then(|hex| std::str::from_utf8(hex.get(..2)?).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.push(escaped.unwrap_or(*byte));
        rest = match escaped {
            Some(_) => rest.get(4..).unwrap_or_default(),
            None => after,
        };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        let kernel = |family, ordinal, partition| {
            DeviceSpec::Kernel(KernelName {
                family,
                ordinal,
                partition,
            })
        };
        for (name, expected) in [
            ("UUID=\"ab\"", DeviceSpec::Uuid("ab".into())),
            ("LABEL=my root", DeviceSpec::Label("my root".into())),
            (
                "/dev/disk/by-label/my\\x20root",
                DeviceSpec::Label("my root".into()),
            ),
            ("PARTUUID=1234abcd-01", DeviceSpec::PartUuid("1234abcd-01".into())),
            ("/dev/disk/by-partlabel/x", DeviceSpec::PartLabel("x".into())),
            ("/dev/sda1", kernel("sd", 0, Some(1))),
            ("/dev/sdab", kernel("sd", 27, None)),
            ("/dev/hdc12", kernel("hd", 2, Some(12))),
            ("/dev/xvda2", kernel("xvd", 0, Some(2))),
            ("/dev/nvme1n1p3", kernel("nvme", 1, Some(3))),
            ("/dev/nvme0n1", kernel("nvme", 0, None)),
            ("/dev/mmcblk0p1", kernel("mmcblk", 0, Some(1))),
            ("/dev/cciss/c0d1p2", kernel("cciss/c", 1, Some(2))),
            (
                "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1",
                DeviceSpec::Hardware { partition: Some(1) },
            ),
            (
                "/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001",
                DeviceSpec::Hardware { partition: None },
            ),
            ("/dev/disk/by-id/dm-name-vg-root", DeviceSpec::Assembled),
            ("/dev/mapper/vg-root", DeviceSpec::Assembled),
            ("/dev/vg0/root", DeviceSpec::Assembled),
            ("/dev/md0", DeviceSpec::Assembled),
            ("/dev/sr0", DeviceSpec::Other),
            ("/dev/fd0", DeviceSpec::Other),
            ("proc", DeviceSpec::Other),
            ("server:/export", DeviceSpec::Other),
        ] {
            assert_eq!(DeviceSpec::parse(name.as_bytes()), expected, "{name}");
        }
        for odd in [
            "/dev/sd",
            "/dev/sd1",
            "/dev/sda0",
            "/dev/sda1x",
            "/dev/sdzzzzzzzz",
            "/dev/nvme0",
            "/dev/sda99999999999",
        ] {
            let spec = DeviceSpec::parse(odd.as_bytes());
            assert!(spec.survives(), "{odd}: {spec:?}");
        }
    }
}
