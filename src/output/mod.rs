//! What the new home wants beside disks: the libvirt domain; the report.

pub mod libvirt;
pub(crate) mod pci_topology;
mod report;
pub mod virtual_machine;

pub use report::{
    Bytes, DiskWritten, Judgement, ManifestState, PackageFacts, REPORT_SCHEMA, Report, SourceFacts,
    StageTime, VolumeFacts,
};
