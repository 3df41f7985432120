//! The descriptor: VDF 5.0, "The Descriptor File". Text, with names in whatever encoding it says.

use super::flaw::Flaw;

/// How a descriptor begins. Early versions of VMware wrote "Descriptor File" in two words.
pub(super) const MAGIC: &[u8] = b"# Disk Descriptor";

/// qemu reads no more of one. VMware keeps 20 sectors for it.
pub(super) const LARGEST: u64 = 1 << 20;

/// A disk of 8 TiB, VMware's largest one in pieces, has 4100 pieces.
pub(super) const MOST_EXTENTS: usize = 8192;

/// `parentCID` of a disk that has no parent.
pub(super) const NO_PARENT: u32 = u32::MAX;

/// What a descriptor says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Changes with the contents. A child knows its parent by it.
    pub(super) cid: Option<u32>,
    pub(super) parent_cid: u32,
    /// Where the parent was when the child was made.
    pub(super) parent_hint: Option<Vec<u8>>,
    /// "monolithicSparse" and so on.
    pub(super) create_type: String,
    /// Of the names in it; absent: UTF-8 or the system's.
    pub(super) encoding: Option<String>,
    /// A file that notes which sectors change: whoever writes without it spoils the next backup.
    pub(super) change_tracking: Option<String>,
    pub(super) encrypted: bool,
    pub(super) extents: Vec<ExtentLine>,
    /// The disk database: "adapterType" without its "ddb.", and so on, in their order.
    pub(super) database: Vec<(String, String)>,
}

impl Descriptor {
    /// It says nothing: qemu keeps room for a descriptor in extents that have none.
    pub(super) fn is_empty(&self) -> bool {
        self.cid.is_none() && self.create_type.is_empty() && self.extents.is_empty() && !self.encrypted
    }
}

/// One run of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExtentLine {
    pub(super) access: Access,
    pub(super) sectors: u64,
    pub(super) kind: ExtentKind,
    /// Empty for zeros.
    pub(super) file: Vec<u8>,
    /// Of a flat extent: where in the file it begins, in sectors.
    pub(super) offset: u64,
}

/// What may be done with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    ReadWrite,
    ReadOnly,
    None,
}

/// How an extent is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExtentKind {
    Flat,
    Sparse,
    Zero,
    /// As flat, on VMFS.
    Vmfs,
    /// COWD.
    VmfsSparse,
    SeSparse,
    /// A physical device, or something that is not known.
    Other(String),
}

impl ExtentKind {
    fn of(word: &str) -> Self {
        match word {
            "FLAT" => Self::Flat,
            "SPARSE" => Self::Sparse,
            "ZERO" => Self::Zero,
            "VMFS" => Self::Vmfs,
            "VMFSSPARSE" => Self::VmfsSparse,
            "SESPARSE" => Self::SeSparse,
            _ => Self::Other(word.to_owned()),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Flat => "FLAT",
            Self::Sparse => "SPARSE",
            Self::Zero => "ZERO",
            Self::Vmfs => "VMFS",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::SeSparse => "SESPARSE",
            Self::Other(name) => name,
        }
    }
}

/// Reads one line into a descriptor.
type Take = fn(&mut Descriptor, &[u8]) -> Result<(), &'static str>;

/// The keys that mean something here, in lower case.
const KEYS: [(&str, Take); 9] = [
    ("version", |_, value| match number(value) {
        Some(1..=3) => Ok(()),
        _ => Err("a version of 1 to 3 is expected"),
    }),
    ("cid", |descriptor, value| {
        descriptor.cid = Some(hexadecimal(value)?);
        Ok(())
    }),
    ("parentcid", |descriptor, value| {
        descriptor.parent_cid = hexadecimal(value)?;
        Ok(())
    }),
    ("createtype", |descriptor, value| {
        descriptor.create_type = text(value);
        Ok(())
    }),
    ("parentfilenamehint", |descriptor, value| {
        descriptor.parent_hint = Some(value.to_vec()).filter(|name| !name.is_empty());
        Ok(())
    }),
    ("encoding", |descriptor, value| {
        descriptor.encoding = Some(text(value));
        Ok(())
    }),
    ("changetrackpath", |descriptor, value| {
        descriptor.change_tracking = Some(text(value)).filter(|name| !name.is_empty());
        Ok(())
    }),
    ("encryptionkeys", |descriptor, _| {
        descriptor.encrypted = true;
        Ok(())
    }),
    ("encryption.keysafe", |descriptor, _| {
        descriptor.encrypted = true;
        Ok(())
    }),
];

/// Parses a descriptor, up to the first zero byte.
pub(super) fn parse(bytes: &[u8]) -> Result<Descriptor, Flaw> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut descriptor = Descriptor {
        cid: None,
        parent_cid: NO_PARENT,
        parent_hint: None,
        create_type: String::new(),
        encoding: None,
        change_tracking: None,
        encrypted: false,
        extents: Vec::new(),
        database: Vec::new(),
    };
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        let wrong = |why| Flaw::Descriptor {
            line: index + 1,
            text: text(line.get(..line.len().min(200)).unwrap_or_default()),
            why,
        };
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        if let Some(extent) = parse_extent(line).map_err(wrong)? {
            if descriptor.extents.len() >= MOST_EXTENTS {
                return Err(Flaw::TooManyExtents(MOST_EXTENTS));
            }
            if extent.sectors > 0 {
                descriptor.extents.push(extent);
            }
            continue;
        }
        let Some(at) = line.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (key, value) = line.split_at(at);
        let key = text(key.trim_ascii());
        let value = unquoted(value.get(1..).unwrap_or_default());
        let lower = key.to_ascii_lowercase();
        if let Some(name) = lower.strip_prefix("ddb.") {
            let name = key.get(key.len() - name.len()..).unwrap_or_default();
            descriptor.database.push((name.to_owned(), text(value)));
        } else if let Some((_, take)) = KEYS.iter().find(|(known, _)| *known == lower) {
            take(&mut descriptor, value).map_err(wrong)?;
        }
    }
    Ok(descriptor)
}

/// `ACCESS SECTORS TYPE "FILE" OFFSET`, the last two where the type has them; `None` for another line.
fn parse_extent(line: &[u8]) -> Result<Option<ExtentLine>, &'static str> {
    let (access, rest) = word(line);
    let access = match access {
        b"RW" => Access::ReadWrite,
        b"RDONLY" => Access::ReadOnly,
        b"NOACCESS" => Access::None,
        _ => return Ok(None),
    };
    let (sectors, rest) = word(rest);
    let sectors = number(sectors).ok_or("a number of sectors is expected behind the access")?;
    let (kind, rest) = word(rest);
    if kind.is_empty() {
        return Err("a type of extent is expected behind the number of sectors");
    }
    let kind = ExtentKind::of(&text(kind));
    let rest = rest.trim_ascii();
    let (file, rest) = match rest.strip_prefix(b"\"") {
        Some(quoted) => {
            let end = quoted.iter().position(|byte| *byte == b'"');
            let end = end.ok_or("the quotation mark behind the file name is missing")?;
            let (file, rest) = quoted.split_at(end);
            (file, rest.get(1..).unwrap_or_default())
        }
        None => (&[][..], rest),
    };
    if file.is_empty() && kind != ExtentKind::Zero {
        return Err("a file name in quotation marks is expected behind the type");
    }
    let (offset, _) = word(rest);
    let offset = if offset.is_empty() {
        0
    } else {
        number(offset).ok_or("a number of sectors is expected behind the file name")?
    };
    Ok(Some(ExtentLine {
        access,
        sectors,
        kind,
        file: file.to_vec(),
        offset,
    }))
}

fn word(line: &[u8]) -> (&[u8], &[u8]) {
    let line = line.trim_ascii_start();
    let end = line
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(line.len());
    line.split_at(end)
}

fn unquoted(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    let Some(inner) = value.strip_prefix(b"\"") else {
        return value;
    };
    inner.split(|byte| *byte == b'"').next().unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.trim_ascii()).into_owned()
}

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn hexadecimal(bytes: &[u8]) -> Result<u32, &'static str> {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    u32::from_str_radix(text, 16).map_err(|_| "a number of up to eight hexadecimal digits is expected")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_descriptor_of_vmware_is_read() {
        let descriptor = parse(
            b"# Disk DescriptorFile\r\nversion=1 \r\nencoding=\"windows-1252\"\nCID=a77f8ab1 \nparentCID = 8f67ca74\n\
              isNativeSnapshot=\"no\"\ncreateType=\"twoGbMaxExtentSparse\" \nparentFileNameHint=\"C:\\VMs\\a b.vmdk\"\n\n\
              # Extent description\nRW 4192256 SPARSE \"Test disk-s001.vmdk\"\n  RDONLY 63 FLAT \"t-pt.vmdk\" 17\n\
              NOACCESS 100 ZERO\nRW 0 ZERO\nRW 7 VMFS \"v-flat.vmdk\"\nRW 4 SESPARSE \"s.vmdk\"\n\n\
              # The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\nDDB.Geometry.heads = \"255\"\n\0RW 1 ZERO\n",
        )
        .unwrap();
        assert_eq!(descriptor.cid, Some(0xa77f_8ab1));
        assert_eq!(descriptor.parent_cid, 0x8f67_ca74);
        assert_eq!(descriptor.create_type, "twoGbMaxExtentSparse");
        assert_eq!(descriptor.encoding.as_deref(), Some("windows-1252"));
        assert_eq!(descriptor.parent_hint.as_deref(), Some(&b"C:\\VMs\\a b.vmdk"[..]));
        let line = |access, sectors, kind, file: &[u8], offset| ExtentLine {
            access,
            sectors,
            kind,
            file: file.to_vec(),
            offset,
        };
        assert_eq!(
            descriptor.extents,
            [
                line(
                    Access::ReadWrite,
                    4_192_256,
                    ExtentKind::Sparse,
                    b"Test disk-s001.vmdk",
                    0
                ),
                line(Access::ReadOnly, 63, ExtentKind::Flat, b"t-pt.vmdk", 17),
                line(Access::None, 100, ExtentKind::Zero, b"", 0),
                line(Access::ReadWrite, 7, ExtentKind::Vmfs, b"v-flat.vmdk", 0),
                line(Access::ReadWrite, 4, ExtentKind::SeSparse, b"s.vmdk", 0),
            ]
        );
        let database = [("adapterType", "lsilogic"), ("Geometry.heads", "255")];
        assert_eq!(
            descriptor.database,
            database.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn what_cannot_be_is_an_error_that_names_the_line() {
        for (text, why) in [
            ("version=9", "1 to 3"),
            ("CID=xyz", "hexadecimal"),
            ("CID=123456789", "hexadecimal"),
            ("RW many FLAT \"a\"", "number of sectors"),
            ("RW -1 FLAT \"a\"", "number of sectors"),
            ("RW 100", "a type of extent"),
            ("RW 100 FLAT a", "a file name in quotation marks"),
            ("RW 100 FLAT \"a", "is missing"),
            ("RW 100 FLAT \"a\" b", "behind the file name"),
        ] {
            let error = parse(format!("# Disk DescriptorFile\n{text}\n").as_bytes()).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("line 2") && error.contains(why), "{error}");
        }
        let many = "RW 1 ZERO\n".repeat(MOST_EXTENTS + 1);
        assert_eq!(parse(many.as_bytes()), Err(Flaw::TooManyExtents(MOST_EXTENTS)));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(RW|RDONLY|CID|=|\"| |\n|ddb.|FLAT|[0-9a-f]{1,9}|\\PC){0,60}") {
            let _ = parse(text.as_bytes());
        }
    }
}
