//! Installed kernels: images and initramfs images in /boot, trees of modules in /lib/modules.

use super::{boot_loader::BootEntry, files::Files, text::lossy};
use crate::fs::GuestPath;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Kernels that are listed. Some systems never remove old ones.
const MAX_KERNELS: usize = 256;

/// An installed kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// "6.1.0-28-amd64".
    pub release: String,
    /// "/boot/vmlinuz-6.1.0-28-amd64".
    pub image: GuestPath,
    /// "/boot/initrd.img-6.1.0-28-amd64".
    pub initramfs: Option<GuestPath>,
    /// "/lib/modules/6.1.0-28-amd64", as it can be opened (links resolved); `None`: no tree of modules.
    pub modules: Option<GuestPath>,
    /// Starts when nobody chooses.
    pub default: bool,
}

/// All kernels of /boot and of the boot loader's entries: the one that starts by default first, then the newest first.
pub(crate) fn inspect(files: &Files, entries: &[BootEntry]) -> Vec<Kernel> {
    let boot = GuestPath::from("/boot");
    let names = files.names(&boot);
    let mut images: Vec<(String, GuestPath)> = names
        .iter()
        .filter_map(|name| Some((release_of(name)?, boot.join(name))))
        .collect();
    // The real names behind the entries' kernels: Debian keeps /vmlinuz as a link.
    let started: Vec<(GuestPath, &BootEntry)> = entries
        .iter()
        .filter_map(|entry| Some((files.find(&entry.kernel)?.path, entry)))
        .collect();
    for (path, _) in &started {
        images.extend(release_of(path.name()).map(|release| (release, path.clone())));
    }
    images.sort();
    images.dedup();
    let default = started.iter().find(|(_, entry)| entry.default);
    let mut kernels: Vec<Kernel> = images
        .into_iter()
        .take(MAX_KERNELS)
        .filter_map(|(release, image)| {
            let real = files.find(&image)?.path;
            let entry = started
                .iter()
                .find(|(path, _)| *path == real)
                .map(|(_, entry)| *entry);
            Some(Kernel {
                default: default.is_some_and(|(path, _)| *path == real),
                initramfs: initramfs_of(files, &image, &release, entry),
                modules: modules_of(files, &release),
                release,
                image,
            })
        })
        .collect();
    kernels.sort_by(|a, b| {
        b.default
            .cmp(&a.default)
            .then_with(|| compare_releases(&b.release, &a.release))
            .then_with(|| a.image.cmp(&b.image))
    });
    // Two names of one image would get its initramfs extended twice.
    let mut seen = Vec::new();
    kernels.retain(|kernel| {
        let new = !seen.contains(&kernel.release);
        seen.push(kernel.release.clone());
        new
    });
    // Without a boot loader that we can read the newest is the best guess, and it is not called a default.
    kernels
}

/// "6.1.0-28-amd64" of "vmlinuz-6.1.0-28-amd64"; what a package manager or a person put aside is none.
fn release_of(name: &[u8]) -> Option<String> {
    let release = ["vmlinuz-", "vmlinux-", "kernel-"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix.as_bytes()))?;
    let aside = [
        ".old", ".bak", ".orig", ".save", ".new", ".tmp", "~", ".hmac", ".gz", ".efi", ".signed",
    ];
    let aside = aside.iter().any(|suffix| release.ends_with(suffix.as_bytes()));
    let dpkg = release.windows(6).any(|part| part == b".dpkg-");
    (!release.is_empty() && !aside && !dpkg).then(|| lossy(release))
}

/// Beside the image by its name, or what the boot loader gives last: early ones hold microcode only.
fn initramfs_of(
    files: &Files,
    image: &GuestPath,
    release: &str,
    entry: Option<&BootEntry>,
) -> Option<GuestPath> {
    let last = entry.and_then(|entry| entry.initramfs.last());
    if let Some(last) = last.filter(|path| files.find(path).is_some()) {
        return Some(last.clone());
    }
    [
        format!("initrd.img-{release}"),
        format!("initramfs-{release}.img"),
        format!("initrd-{release}"),
    ]
    .iter()
    .map(|name| image.parent().join(name))
    .find(|path| files.find(path).is_some())
}

fn modules_of(files: &Files, release: &str) -> Option<GuestPath> {
    ["/lib/modules", "/usr/lib/modules"].iter().find_map(|folder| {
        let found = files.find(&GuestPath::from(*folder).join(release))?;
        found.attributes.is_directory().then_some(found.path)
    })
}

/// Digits as numbers, the rest as text, so that 6.10 is after 6.9.
fn compare_releases(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let is_number = |text: &[u8]| text.first().is_some_and(u8::is_ascii_digit);
        if is_number(a) && is_number(b) {
            let (x, rest_of_a) = digits(a);
            let (y, rest_of_b) = digits(b);
            // Without leading zeros the longer number is the larger.
            match x.len().cmp(&y.len()).then_with(|| x.cmp(y)) {
                Ordering::Equal => (a, b) = (rest_of_a, rest_of_b),
                different => return different,
            }
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, rest_of_a)), Some((y, rest_of_b))) if x == y => (a, b) = (rest_of_a, rest_of_b),
            (x, y) => return x.map(|x| x.0).cmp(&y.map(|y| y.0)),
        }
    }
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let zeros = number.iter().take_while(|digit| **digit == b'0').count();
    (number.get(zeros..).unwrap_or_default(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Mounts, memory_tree::MemoryTree};

    #[test]
    fn the_default_first_then_the_newest() {
        let tree = MemoryTree::new("ext4", "u")
            .file("/boot/vmlinuz-6.1.0-9-amd64", "")
            .file("/boot/vmlinuz-6.1.0-28-amd64", "")
            .file("/boot/vmlinuz-6.1.0-28-amd64.dpkg-bak", "")
            .file("/boot/vmlinuz-6.10.1-rc1", "")
            .file("/boot/initrd.img-6.1.0-28-amd64", "")
            .file("/boot/initrd.img-6.1.0-9-amd64", "")
            .file("/boot/ucode.img", "")
            .file("/boot/custom.img", "")
            .link("/vmlinuz", "boot/vmlinuz-6.1.0-9-amd64")
            .link("/lib", "usr/lib")
            .directory("/usr/lib/modules/6.1.0-28-amd64")
            .file("/boot/config-6.1.0-28-amd64", "");
        let mut mounts = Mounts::new(vec![("v".into(), Box::new(tree))]);
        mounts.mount(&"/".into(), 0).unwrap();
        let entry = BootEntry {
            title: "x".into(),
            id: None,
            kernel: "/vmlinuz".into(),
            initramfs: vec!["/boot/ucode.img".into(), "/boot/custom.img".into()],
            options: String::new(),
            line: 1,
            default: true,
        };
        let kernels = inspect(&Files::new(&mounts), &[entry]);
        let releases: Vec<_> = kernels.iter().map(|k| (&*k.release, k.default)).collect();
        assert_eq!(
            releases,
            [
                ("6.1.0-9-amd64", true),
                ("6.10.1-rc1", false),
                ("6.1.0-28-amd64", false)
            ]
        );
        assert_eq!(kernels[0].initramfs, Some("/boot/custom.img".into()));
        assert_eq!(kernels[1].initramfs, None);
        assert_eq!(kernels[2].modules, Some("/usr/lib/modules/6.1.0-28-amd64".into()));
        assert_eq!(
            kernels[2].initramfs,
            Some("/boot/initrd.img-6.1.0-28-amd64".into())
        );
    }

    #[test]
    fn releases_in_order() {
        for (older, newer) in [
            ("6.9", "6.10"),
            ("6.1.0-9", "6.1.0-10"),
            ("6.1", "6.1.0"),
            ("6.01", "6.2"),
        ] {
            assert_eq!(compare_releases(older, newer), Ordering::Less, "{older} {newer}");
        }
        assert_eq!(compare_releases("6.01", "6.1"), Ordering::Equal);
    }
}
