//! What answers to the devices of machines when it is built into a kernel that does not say: before Linux 5.2 there is
//! no `modules.builtin.modinfo`, only the names in `modules.builtin`.

use crate::driver::modalias::matches;

/// Pattern as in the module's own table of ids, and the name.
const NAMES: [(&str, &str); 14] = [
    ("pci:v00001AF4d*sv*sd*bc*sc*i*", "virtio_pci"),
    ("virtio:d00000001v*", "virtio_net"),
    ("virtio:d00000002v*", "virtio_blk"),
    ("virtio:d00000003v*", "virtio_console"),
    ("virtio:d00000004v*", "virtio_rng"),
    ("virtio:d00000005v*", "virtio_balloon"),
    ("virtio:d00000008v*", "virtio_scsi"),
    ("pci:v*d*sv*sd*bc01sc06i01*", "ahci"),
    ("pci:v*d*sv*sd*bc01sc08i02*", "nvme"),
    ("pci:v*d*sv*sd*bc0Csc03i30*", "xhci_pci"),
    ("pci:v00008086d000010D3sv*sd*bc*sc*i*", "e1000e"),
    ("pci:v00008086d0000100Esv*sd*bc*sc*i*", "e1000"),
    ("pci:v000015ADd000007C0sv*sd*bc*sc*i*", "vmw_pvscsi"),
    ("scsi:t-0x00*", "sd_mod"),
];

/// The names to look for in `modules.builtin`.
pub(super) fn for_modalias(modalias: &str) -> impl Iterator<Item = &'static str> {
    NAMES
        .iter()
        .filter(move |(pattern, _)| matches(pattern.as_bytes(), modalias.as_bytes()))
        .map(|(_, name)| *name)
}
