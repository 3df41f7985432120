//! Which program made an image: it decides where settings have to stand to have an effect.

use super::Image;

/// Programs that make initramfs images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Generator {
    /// Debian's initramfs-tools: loads modules by udev, and those that `conf/modules` lists.
    InitramfsTools,
    /// dracut: loads modules by udev, and with systemd those of `etc/modules-load.d`.
    Dracut,
    /// Arch Linux's mkinitcpio.
    Mkinitcpio,
    /// booster, which has a loader of its own that knows no module but those it was built with.
    Booster,
    /// None that we know.
    Unknown,
}

/// Files that only one of them puts into its images.
const SIGNS: [(&str, Generator); 8] = [
    ("conf/initramfs.conf", Generator::InitramfsTools),
    ("scripts/init-premount", Generator::InitramfsTools),
    ("lib/dracut", Generator::Dracut),
    ("var/lib/dracut", Generator::Dracut),
    ("init_functions", Generator::Mkinitcpio),
    ("etc/booster.init.yaml", Generator::Booster),
    ("usr/lib/initrd-release", Generator::Dracut),
    ("etc/initrd-release", Generator::Dracut),
];

pub(super) fn of(image: &Image) -> Generator {
    SIGNS
        .iter()
        .find(|(path, _)| image.get(path).is_some())
        .map_or(Generator::Unknown, |(_, generator)| *generator)
}
