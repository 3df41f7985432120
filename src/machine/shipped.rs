//! The machine descriptions that are compiled in.

/// Name and text of each, in the order in which they are listed.
pub(super) const SHIPPED: &[(&str, &str)] = &[
    ("kvm", include_str!("../../driver-db/machines/kvm.toml")),
    ("kvm-scsi", include_str!("../../driver-db/machines/kvm-scsi.toml")),
    ("kvm-sata", include_str!("../../driver-db/machines/kvm-sata.toml")),
    ("vmware", include_str!("../../driver-db/machines/vmware.toml")),
    (
        "vmware-lsi",
        include_str!("../../driver-db/machines/vmware-lsi.toml"),
    ),
    (
        "hyperv-gen1",
        include_str!("../../driver-db/machines/hyperv-gen1.toml"),
    ),
    (
        "hyperv-gen2",
        include_str!("../../driver-db/machines/hyperv-gen2.toml"),
    ),
    (
        "generic-ahci",
        include_str!("../../driver-db/machines/generic-ahci.toml"),
    ),
    (
        "generic-nvme",
        include_str!("../../driver-db/machines/generic-nvme.toml"),
    ),
];
