//! The text of a new descriptor: what ESXi and Workstation accept, and qemu-img.

use super::{
    SECTOR,
    create::{Adapter, Options, Subformat},
    flaw::Flaw,
};

/// Cylinders of 63 sectors and 16 heads that an IDE disk can name; VMware gives larger disks this many.
const MOST_IDE_CYLINDERS: u64 = 16383;

/// What VMware's own tools write at most.
const MOST_CYLINDERS: u64 = 65535;

const SECTORS_PER_TRACK: u64 = 63;

/// One extent of a new disk.
#[derive(Debug)]
pub(super) struct NewExtent {
    /// In bytes.
    pub(super) size: u64,
    pub(super) file: String,
}

/// The descriptor of a disk called `name`.
///
/// The content ids follow from the disk's name, size and options, since the same conversion must give the same bytes;
/// `ddb.uuid`, by which guests may know a disk, is absent unless it is given: VMware makes one then, and two machines
/// with disks of one name get no twins.
pub(super) fn text(name: &str, options: &Options, extents: &[NewExtent]) -> Result<String, Flaw> {
    let size: u64 = extents.iter().map(|extent| extent.size).sum();
    let kind = match options.subformat {
        Subformat::MonolithicFlat | Subformat::TwoGbMaxExtentFlat => ("FLAT", " 0"),
        Subformat::Vmfs => ("VMFS", ""),
        Subformat::MonolithicSparse | Subformat::TwoGbMaxExtentSparse | Subformat::StreamOptimized => {
            ("SPARSE", "")
        }
    };
    let mut lines = String::new();
    for extent in extents {
        if extent.file.contains(['"', '\n', '\r', '\0']) {
            let text = format!(
                "a VMDK cannot name the file {:?}: choose another name",
                extent.file
            );
            return Err(Flaw::CannotCreate(text));
        }
        let sectors = extent.size.div_ceil(SECTOR);
        lines.push_str(&format!(
            "RW {sectors} {} \"{}\"{}\n",
            kind.0, extent.file, kind.1
        ));
    }
    let (cylinders, heads) = geometry(size, options.adapter);
    let content = content_id(name, size, options);
    let cid = &content.get(24..).unwrap_or_default();
    let uuid = options.uuid.map_or(String::new(), |uuid| {
        format!("ddb.uuid = \"{}\"\n", spaced(&uuid))
    });
    Ok(format!(
        "# Disk DescriptorFile\n\
         version=1\n\
         encoding=\"UTF-8\"\n\
         CID={cid}\n\
         parentCID=ffffffff\n\
         createType=\"{}\"\n\
         \n\
         # Extent description\n\
         {lines}\
         \n\
         # The Disk Data Base\n\
         #DDB\n\
         \n\
         ddb.longContentID = \"{content}\"\n\
         {uuid}\
         ddb.virtualHWVersion = \"{}\"\n\
         ddb.geometry.cylinders = \"{cylinders}\"\n\
         ddb.geometry.heads = \"{heads}\"\n\
         ddb.geometry.sectors = \"{SECTORS_PER_TRACK}\"\n\
         ddb.adapterType = \"{}\"\n\
         ddb.toolsVersion = \"{}\"\n",
        options.subformat.name(),
        options.hardware_version,
        options.adapter.database_name(),
        options.tools_version,
    ))
}

/// Cylinders and heads: 16 heads for IDE, 255 for the others.
fn geometry(size: u64, adapter: Adapter) -> (u64, u64) {
    let (heads, most) = match adapter {
        Adapter::Ide => (16, MOST_IDE_CYLINDERS),
        _ => (255, MOST_CYLINDERS),
    };
    let cylinders = size / (SECTOR * SECTORS_PER_TRACK * heads);
    (cylinders.clamp(1, most), heads)
}

/// 32 hexadecimal digits, whose last eight are the CID: not one of those that mean something else.
fn content_id(name: &str, size: u64, options: &Options) -> String {
    let facts = format!(
        "rehome VMDK\n{name}\n{size}\n{}\n{}\n{}\n{}\n{}\n{}\n",
        options.subformat.name(),
        options.adapter.database_name(),
        options.hardware_version,
        options.tools_version,
        options.zeroed_grain,
        options.uuid.map_or(String::new(), |uuid| uuid.to_string()),
    );
    let mut hash = blake3::hash(facts.as_bytes());
    loop {
        let digits = hash.to_hex();
        let id = digits.get(..32).unwrap_or_default().to_owned();
        if !id.ends_with("ffffffff") && !id.ends_with("fffffffe") && !id.ends_with("00000000") {
            return id;
        }
        hash = blake3::hash(hash.as_bytes());
    }
}

/// As VMware writes a UUID: `60 00 c2 9a f2 6c 48 d6-13 0c dc a5 d2 bc d9 18`.
fn spaced(uuid: &uuid::Uuid) -> String {
    let pairs: Vec<String> = uuid.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let (front, back) = pairs.split_at(8);
    format!("{}-{}", front.join(" "), back.join(" "))
}

#[cfg(test)]
mod tests {
    use super::{super::descriptor, *};

    #[test]
    fn what_is_written_is_read() {
        let mut options = Options {
            uuid: Some("6000c29a-f26c-48d6-130c-dca5d2bcd918".parse().unwrap()),
            ..Options::default()
        };
        let extents = [NewExtent {
            size: 10 << 30,
            file: "a b.vmdk".to_owned(),
        }];
        let of = |options: &Options| text("a b.vmdk", options, &extents).unwrap();
        let first = of(&options);
        let parsed = descriptor::parse(first.as_bytes()).unwrap();
        assert_eq!(parsed.extents.len(), 1);
        assert_eq!(parsed.extents[0].sectors, 20_971_520);
        assert_eq!(parsed.extents[0].file, b"a b.vmdk");
        let of_key = |key: &str| {
            let mut all = parsed.database.iter();
            all.find(|(name, _)| name == key).unwrap().1.clone()
        };
        assert_eq!(of_key("uuid"), "60 00 c2 9a f2 6c 48 d6-13 0c dc a5 d2 bc d9 18");
        assert_eq!(of_key("geometry.cylinders"), "16383");
        assert_eq!(
            of_key("longContentID")[24..],
            format!("{:08x}", parsed.cid.unwrap())
        );
        assert_eq!(first, of(&options), "the same facts, the same bytes");
        options.adapter = Adapter::Pvscsi;
        let second = of(&options);
        assert!(second.contains("ddb.adapterType = \"lsilogic\""));
        assert!(second.contains("ddb.geometry.heads = \"255\"") && second.contains("cylinders = \"1305\""));
        assert_ne!(descriptor::parse(second.as_bytes()).unwrap().cid, parsed.cid);
        let bad = [NewExtent {
            size: 512,
            file: "a\"b".to_owned(),
        }];
        assert!(text("a", &options, &bad).is_err());
    }
}
