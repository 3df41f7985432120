//! The parent of a differencing disk: "Implementing a Differencing Hard Disk" of the specification.

use super::{dynamic_header::DynamicHeader, footers::Footers};
use crate::{
    disk::{Disk, Error, Kind, Result},
    image::{
        Format, Neighbours,
        windows_parent::{self, Parent, utf16},
    },
};
use std::time::SystemTime;

/// No path is longer; a locator that claims more is not read.
const LONGEST_LOCATOR: u32 = 64 << 10;

/// Seconds from 1970 to 2000, where this format's time begins.
pub(super) const EPOCH: u64 = 946_684_800;

/// FAT keeps the time of a change in steps of two seconds.
const SAME_TIME: u64 = 2;

/// The names that the disk has for its parent, best first: relative, absolute, and the bare one of the header.
fn paths(container: &dyn Disk, header: &DynamicHeader) -> Result<Vec<String>> {
    let mut relative = Vec::new();
    let mut absolute = Vec::new();
    for locator in &header.locators {
        let end = locator.offset.saturating_add(locator.length.into());
        let known = matches!(&locator.platform, b"W2ru" | b"W2ku" | b"MacX" | b"Wi2r" | b"Wi2k");
        // An alias of a Macintosh ("Mac ") is a blob that only it can follow.
        if !known || locator.length > LONGEST_LOCATOR || end > container.size() {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(locator.length).unwrap_or(0)];
        container.read_at(locator.offset, &mut bytes)?;
        let single_bytes = || {
            String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
        };
        match &locator.platform {
            b"W2ru" => relative.push(utf16(&bytes, u16::from_le_bytes)),
            b"W2ku" => absolute.push(utf16(&bytes, u16::from_le_bytes)),
            b"Wi2r" => relative.push(single_bytes()),
            b"Wi2k" => absolute.push(single_bytes()),
            _ => absolute.push(from_url(&single_bytes())),
        }
    }
    relative.append(&mut absolute);
    relative.push(header.parent_name.clone());
    Ok(relative)
}

/// The path in a file URL of RFC 2396.
fn from_url(url: &str) -> String {
    let path = url.strip_prefix("file://").unwrap_or(url);
    // What stands before the path is a host: this one.
    let path = path.find('/').and_then(|slash| path.get(slash..)).unwrap_or(path);
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Opens the parent of the disk in `container`.
pub(super) fn open(
    container: &dyn Disk,
    header: &DynamicHeader,
    neighbours: &dyn Neighbours,
) -> Result<Parent> {
    let label = container.label();
    let names = windows_parent::names(&paths(container, header)?);
    windows_parent::open(label, &names, Format::Vhd.name(), neighbours, |name, parent| {
        must_be_the_parent(label, header, name, parent)
    })
}

fn must_be_the_parent(label: &str, header: &DynamicHeader, name: &str, parent: &dyn Disk) -> Result<()> {
    let footer = Footers::find(parent)?.footer;
    if footer.unique_id != header.parent_id {
        let uuid = |id: [u8; 16]| uuid::Uuid::from_bytes(id);
        let text = format!(
            "has the unique id {}, but the parent of {label} has {}: it is another disk under the parent's name. Put \
             the right one beside {label}",
            uuid(footer.unique_id),
            uuid(header.parent_id)
        );
        return Err(Error::new(Kind::Unsafe, name, text));
    }
    // The id stays when a disk is written to, so that this time alone tells that it was. It is that of the file's last
    // change; some programs take the footer's, and Windows of today writes none.
    let wanted = u64::from(header.parent_timestamp);
    let changed = changed(parent);
    let same = |time: u64| time.abs_diff(wanted) <= SAME_TIME;
    if wanted == 0 || wanted == u64::from(footer.timestamp) || changed.is_none_or(same) {
        return Ok(());
    }
    let wanted = wanted + EPOCH;
    let text = format!(
        "is the parent of {label}, but its last change is not the one that {label} knows (second {wanted} since 1970): \
         it was written to since, and then the two do not belong together any more, or it was copied without its \
         time. If you are sure of that, `touch -d @{wanted} {name}` gives the time back"
    );
    Err(Error::new(Kind::Unsafe, name, text))
}

/// When the file was changed, in this format's time; `None` for what is no file.
fn changed(parent: &dyn Disk) -> Option<u64> {
    let (file, ..) = parent.plain(0)?;
    let modified = file.metadata().ok()?.modified().ok()?;
    let since_1970 = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(since_1970.saturating_sub(EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_urls_are_paths() {
        assert_eq!(from_url("file://localhost/vm/a%20b.vhd"), "/vm/a b.vhd");
        assert_eq!(from_url("file:///vm/%C3%A4%zz.vhd"), "/vm/ä%zz.vhd");
        assert_eq!(from_url("a.vhd"), "a.vhd");
        assert_eq!(from_url("%"), "%");
    }
}
