//! Is a block device in use? The kernel's answer is an exclusive open; this finds the words for it, and what that does not
//! tell (mounts of a partition in another namespace are still the kernel's to refuse).

use crate::disk::{Error, Kind, Result};
use std::{fs, io, path::Path};

/// Major and minor number.
pub(super) type Number = (u32, u32);

/// Fails with [`Kind::Unsafe`] if the device `number`, called `path`, or a partition of it is mounted, swapped to or part
/// of another device.
pub(super) fn must_be_idle(path: &Path, number: Number) -> Result<()> {
    let mut family = vec![number];
    let folder = format!("/sys/dev/block/{}:{}", number.0, number.1);
    let mut holders = list(&format!("{folder}/holders"))?;
    for entry in list(&folder)? {
        if let Ok(text) = fs::read_to_string(format!("{folder}/{entry}/dev"))
            && let Some(partition) = parse_number(text.trim())
        {
            family.push(partition);
            holders.extend(list(&format!("{folder}/{entry}/holders"))?);
        }
    }
    let mounts = read("/proc/self/mountinfo")?;
    let mounted = mounts_of(&mounts, &family).map(|point| format!("mounted at {point}; unmount it"));
    let swaps = read("/proc/swaps")?;
    let swapped = swaps
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next())
        .filter(|name| device_number(Path::new(name)).is_some_and(|number| family.contains(&number)))
        .map(|name| format!("{name} is swapped to; swapoff it"));
    let held = holders
        .iter()
        .map(|holder| format!("part of {holder}; deactivate that"));
    match mounted.chain(swapped).chain(held).next() {
        None => Ok(()),
        Some(reason) => {
            let text = format!("is in use and is left as it is: {reason} first");
            Err(Error::new(Kind::Unsafe, path.display().to_string(), text))
        }
    }
}

/// Is the block device at `path` mounted, swapped to, or part of another device? The sentence says where. `None` also
/// for what is no block device.
pub fn in_use(path: &Path) -> Option<String> {
    let number = device_number(path)?;
    must_be_idle(path, number)
        .err()
        .map(|error| error.source.to_string())
}

/// The mount points of `devices` in a mountinfo table (proc_pid_mountinfo(5)).
fn mounts_of<'a>(table: &'a str, devices: &'a [Number]) -> impl Iterator<Item = &'a str> {
    table.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let number = parse_number(fields.nth(2)?)?;
        let point = fields.nth(1)?;
        devices.contains(&number).then_some(point)
    })
}

pub(super) fn parse_number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Of a block device; `None` for anything else.
pub(super) fn device_number(path: &Path) -> Option<Number> {
    let stat = rustix::fs::stat(path).ok()?;
    let block = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::BlockDevice;
    block.then(|| (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)))
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::io(path, error))
}

/// Names in a folder of /sys; none where it is absent.
fn list(path: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(path, error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number() {
        let table = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                     30 22 0:5 / /dev rw - devtmpfs udev rw\n\
                     41 22 8:2 /sub /home\\040old rw - ext4 /dev/sda2 rw\n\
                     short line\n";
        let found: Vec<_> = mounts_of(table, &[(8, 2), (8, 3)]).collect();
        assert_eq!(found, ["/home\\040old"]);
        assert_eq!(mounts_of(table, &[(8, 16)]).count(), 0);
    }
}
