//! Would writing to one place change what is read from another? What the kernel tells of files, disks, partitions, loop
//! devices and mapped devices.

use super::in_use::{Number, device_number, parse_number};
use std::{
    ffi::OsString,
    fs,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

/// A regular file or a block device, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Device(Number),
    File { filesystem: u64, inode: u64 },
}

/// May the files or block devices at `one` and `other` share bytes: the same by whatever names, one that the other lies on
/// (as a partition, a loop device, a part of a mapped device or array), or two partitions of one disk or file? What is
/// neither a file nor a block device shares nothing.
pub fn overlap(one: &Path, other: &Path) -> bool {
    match (place_of(one), place_of(other)) {
        (Some(one), Some(other)) => Tree(Path::new("/sys/dev/block")).overlap(one, other),
        _ => false,
    }
}

fn place_of(path: &Path) -> Option<Place> {
    if let Some(number) = device_number(path) {
        return Some(Place::Device(number));
    }
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some(Place::File {
        filesystem: metadata.dev(),
        inode: metadata.ino(),
    })
}

/// A folder with one for each block device, called by its number: /sys/dev/block of the kernel
/// (Documentation/ABI/testing/sysfs-dev and sysfs-block).
#[derive(Clone, Copy)]
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    fn overlap(self, one: Place, other: Place) -> bool {
        self.from(one).contains(&other)
            || self.from(other).contains(&one)
            || self.whole(one) == self.whole(other)
    }

    fn folder(self, place: Place) -> Option<PathBuf> {
        match place {
            Place::Device((major, minor)) => Some(self.0.join(format!("{major}:{minor}"))),
            Place::File { .. } => None,
        }
    }

    /// The disk of a partition, or the file or device behind a loop device.
    fn behind(self, place: Place) -> Option<Place> {
        let folder = self.folder(place)?;
        if folder.join("partition").exists() {
            return device(&folder.join("../dev"));
        }
        let mut name = fs::read(folder.join("loop/backing_file")).ok()?;
        // The line end that the kernel adds.
        name.pop_if(|last| *last == b'\n');
        place_of(Path::new(&OsString::from_vec(name)))
    }

    /// What `place` lies on in the end, if nothing but partitions and loop devices is between.
    fn whole(self, mut place: Place) -> Place {
        while let Some(behind) = self.behind(place) {
            place = behind;
        }
        place
    }

    /// `place`, and all that it lies on.
    fn from(self, place: Place) -> Vec<Place> {
        let mut places = vec![place];
        let mut at = 0;
        while let Some(place) = places.get(at).copied() {
            let slaves = self.folder(place).map(|folder| folder.join("slaves"));
            let slaves = slaves.and_then(|folder| fs::read_dir(folder).ok());
            let slaves = slaves.into_iter().flatten();
            let slaves = slaves.filter_map(|entry| device(&entry.ok()?.path().join("dev")));
            for below in self.behind(place).into_iter().chain(slaves) {
                if !places.contains(&below) {
                    places.push(below);
                }
            }
            at += 1;
        }
        places
    }
}

/// The device whose number is in the file `path` of that tree.
fn device(path: &Path) -> Option<Place> {
    let text = fs::read_to_string(path).ok()?;
    Some(Place::Device(parse_number(text.trim())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_itself_by_every_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("one"), b"1").unwrap();
        fs::write(path("two"), b"1").unwrap();
        fs::hard_link(path("one"), path("hard")).unwrap();
        std::os::unix::fs::symlink("one", path("soft")).unwrap();
        for name in ["one", "hard", "soft"] {
            assert!(overlap(&path("one"), &path(name)), "{name}");
            assert!(!overlap(&path("two"), &path(name)), "{name}");
        }
        assert!(!overlap(&path("one"), &path("absent")));
        assert!(!overlap(folder.path(), folder.path()));
    }

    #[test]
    fn a_device_is_on_all_that_it_is_made_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        };
        let partition = |disk: &str, name: &str, number: &str| {
            write(&format!("{disk}/{name}/partition"), "1\n");
            write(&format!("{disk}/{name}/dev"), &format!("{number}\n"));
            std::os::unix::fs::symlink(path(disk).join(name), path(number)).unwrap();
        };
        let image = path("image");
        fs::write(&image, b"").unwrap();
        write("8:0/dev", "8:0\n");
        partition("8:0", "sda1", "8:1");
        partition("8:0", "sda2", "8:2");
        write("8:16/dev", "8:16\n");
        // A mapped device over a partition, and one over that; loop devices over one file, one of them with a partition.
        write("253:0/slaves/sda2/dev", "8:2\n");
        write("253:1/slaves/dm-0/dev", "253:0\n");
        for number in ["7:0", "7:1"] {
            write(&format!("{number}/dev"), &format!("{number}\n"));
            write(
                &format!("{number}/loop/backing_file"),
                &format!("{}\n", image.display()),
            );
        }
        partition("7:0", "loop0p1", "259:0");

        let tree = Tree(folder.path());
        let device = |major, minor| Place::Device((major, minor));
        let file = place_of(&image).unwrap();
        let sharing = [
            (device(8, 0), device(8, 0)),
            (device(8, 0), device(8, 1)),
            (device(8, 2), device(8, 1)),
            (device(8, 0), device(253, 1)),
            (device(8, 2), device(253, 1)),
            (file, device(7, 0)),
            (file, device(259, 0)),
            (device(7, 1), device(259, 0)),
        ];
        for (one, other) in sharing {
            assert!(tree.overlap(one, other), "{one:?} {other:?}");
            assert!(tree.overlap(other, one), "{other:?} {one:?}");
        }
        let apart = [
            (device(8, 0), device(8, 16)),
            (device(8, 1), device(253, 0)),
            (device(8, 16), device(253, 1)),
            (file, device(8, 0)),
            (device(7, 0), device(8, 1)),
        ];
        for (one, other) in apart {
            assert!(!tree.overlap(one, other), "{one:?} {other:?}");
            assert!(!tree.overlap(other, one), "{other:?} {one:?}");
        }
    }
}
