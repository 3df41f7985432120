//! What the new home wants beside disks: the libvirt domain, the description in an OVA; the report; what is said of images.

mod image;
pub mod libvirt;
pub mod ovf;
pub(crate) mod pci_topology;
mod report;
pub mod virtual_machine;

pub use image::{
    Allocation, CHECK_SCHEMA, COMPARE_SCHEMA, Checked, Compared, INFO_SCHEMA, ImageFacts, ImageInfo,
    MapStyle, image_info, print_map, remote_image_info,
};
pub use report::{
    Bytes, DiskWritten, Judgement, ManifestState, PackageFacts, REPORT_SCHEMA, Report, SourceFacts,
    StageTime, VolumeFacts,
};
