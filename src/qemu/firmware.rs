//! Finds UEFI images for QEMU.

use super::QemuError;
use std::path::{Path, PathBuf};

/// Code and variables as distributions install them; without Secure Boot, since the guest's loader may be unsigned.
const IMAGES: [(&str, &str, &str); 8] = [
    // Debian and Ubuntu.
    ("/usr/share/OVMF", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF", "OVMF_CODE.fd", "OVMF_VARS.fd"),
    // Fedora and its family.
    ("/usr/share/edk2/ovmf", "OVMF_CODE.fd", "OVMF_VARS.fd"),
    // Arch.
    ("/usr/share/edk2/x64", "OVMF_CODE.4m.fd", "OVMF_VARS.4m.fd"),
    // openSUSE.
    ("/usr/share/qemu", "ovmf-x86_64-code.bin", "ovmf-x86_64-vars.bin"),
    // QEMU's own.
    ("/usr/share/qemu", "edk2-x86_64-code.fd", "edk2-i386-vars.fd"),
    (
        "/usr/local/share/qemu",
        "edk2-x86_64-code.fd",
        "edk2-i386-vars.fd",
    ),
    // Gentoo.
    ("/usr/share/edk2-ovmf", "OVMF_CODE.fd", "OVMF_VARS.fd"),
];

/// Firmware code, and the variables of a machine that was never switched on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UefiImage {
    pub(super) code: PathBuf,
    pub(super) variables: PathBuf,
}

/// The first pair that is there.
pub(super) fn find() -> Result<UefiImage, QemuError> {
    IMAGES
        .iter()
        .map(|(folder, code, variables)| UefiImage {
            code: Path::new(folder).join(code),
            variables: Path::new(folder).join(variables),
        })
        .find(|image| image.code.is_file() && image.variables.is_file())
        .ok_or_else(|| {
            let mut searched: Vec<String> = IMAGES.iter().map(|(folder, ..)| (*folder).into()).collect();
            searched.dedup();
            QemuError::NoUefiImage { searched }
        })
}
