//! What the new home wants beside disks: the libvirt domain; the report.
