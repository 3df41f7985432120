//! What a qcow2 image says of itself: what `qemu-img info` says.

use super::{
    bitmap,
    header::{COMPATIBLE_LAZY_REFCOUNTS, Compression, Header, autoclear, incompatible},
    snapshot,
};
use crate::{
    disk::{Disk, Result},
    image::{Format, Info, Named},
};

/// Names as qemu-img's JSON has them in `format-specific`.
pub(super) fn info(container: &dyn Disk, header: &Header) -> Result<Info> {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let (snapshots, _) = snapshot::read(container, header)?;
    let is = |word: u64, bit: u64| (word & bit != 0).to_string();
    let mut details = vec![(
        "compat".to_owned(),
        if header.version == 2 { "0.10" } else { "1.1" }.to_owned(),
    )];
    let mut add = |name: &str, value: String| details.push((name.to_owned(), value));
    add("refcount-bits", (1_u64 << header.refcount_order).to_string());
    if header.version > 2 {
        add("lazy-refcounts", is(header.compatible, COMPATIBLE_LAZY_REFCOUNTS));
        add("extended-l2", header.has_extended_l2().to_string());
    }
    if header.has_external_data() {
        add("data-file-raw", is(header.autoclear, autoclear::RAW_DATA));
    }
    for bitmap in bitmap::read(container, header)? {
        let (name, text) = bitmap.describe();
        add(&format!("bitmap {name}"), text);
    }
    Ok(Info {
        unit: Some(header.cluster_size()),
        backing: header.backing_name.as_ref().map(|name| Named {
            name: text(name),
            format: header.backing_format.clone(),
        }),
        files: header
            .data_name
            .iter()
            .filter(|_| header.has_external_data())
            .map(|name| Named {
                name: text(name),
                format: Some(Format::Raw.to_string()),
            })
            .collect(),
        snapshots: snapshots
            .iter()
            .map(|snapshot| snapshot.describe(header))
            .collect(),
        encrypted: header.encryption.map(|encryption| encryption.name().to_owned()),
        compression: Some(
            match header.compression {
                Compression::Deflate => "zlib",
                Compression::Zstd => "zstd",
            }
            .to_owned(),
        ),
        dirty: header.incompatible & incompatible::DIRTY != 0,
        corrupt: header.incompatible & incompatible::CORRUPT != 0,
        details,
        ..Info::default()
    })
}
