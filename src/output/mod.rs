//! What the new home wants beside disks: the libvirt domain; the report.

pub mod libvirt;
pub(crate) mod pci_topology;
pub mod virtual_machine;
