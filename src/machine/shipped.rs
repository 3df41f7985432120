//! The machine descriptions that are compiled in.

/// Name and text of each, in the order in which they are listed.
pub(super) const SHIPPED: &[(&str, &str)] = &[
    ("kvm", include_str!("../../driver-db/machines/kvm.toml")),
    ("kvm-scsi", include_str!("../../driver-db/machines/kvm-scsi.toml")),
    ("kvm-sata", include_str!("../../driver-db/machines/kvm-sata.toml")),
];
