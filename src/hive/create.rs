//! A new hive: a root key and nothing else.

use super::{
    FileTime, Hive, Name, Result,
    base_block::{self, BASE_BLOCK_SIZE},
    cell::{CellOffset, Cells, Extent, PAGE, cell_size},
    error::{HiveError, Parsed},
    key::{NewKey, flag},
    log::Recovery,
    security,
};
use crate::disk::field::put_bytes;

/// Versions of the format that hives are made in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 1.3: boot stores, users' hives of old Windows, hives saved in the standard format.
    Standard,
    /// 1.5: SYSTEM, SOFTWARE and the others of Windows XP and later; large values.
    Latest,
}

impl Hive {
    /// An empty hive, written at `clock`, in seconds since 1970. SYSTEM and the administrators have full access to it.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn create(label: impl Into<String>, version: Version, clock: u64) -> Result<Self> {
        let label = label.into();
        let minor = match version {
            Version::Standard => 3,
            Version::Latest => 5,
        };
        let built = build(minor, FileTime::from_seconds(clock)).map_err(|error| error.on(&label))?;
        Ok(Self {
            label,
            cells: built.0,
            minor,
            root: built.1,
            recovery: Recovery::Clean,
            latest_logged: 0,
        })
    }
}

fn build(minor: u32, clock: FileTime) -> Parsed<(Cells, CellOffset)> {
    let root = CellOffset(32);
    let bins_size = u32::try_from(PAGE).unwrap_or(0);
    let mut file = base_block::build(minor, clock, root.0, bins_size)?;
    file.resize(BASE_BLOCK_SIZE.saturating_add(PAGE), 0);
    let bin = file.get_mut(BASE_BLOCK_SIZE..).unwrap_or_default();
    put_bytes(bin, 0, b"hbin")?;
    put_bytes(bin, 8, &bins_size.to_le_bytes())?;
    put_bytes(bin, 20, &clock.0.to_le_bytes())?;
    let mut cells = Cells::new(file, bins_size)?;

    let mut key = NewKey {
        name: &Name::from("ROOT"),
        parent: CellOffset::NONE,
        security: root,
        written: clock,
        flags: flag::ROOT | flag::NO_DELETE,
        virtualization: 0,
    };
    let size = cell_size(key.build()?.len());
    let item_at = after(root, size)?;
    key.security = item_at;
    put(&mut cells, root, &key.build()?)?;
    let item = security::build(item_at, item_at, 1, security::default_descriptor())?;
    put(&mut cells, item_at, &item)?;
    let free_at = after(item_at, cell_size(item.len()))?;
    let free = Extent {
        at: free_at,
        size: PAGE.saturating_sub(usize::try_from(free_at.0).unwrap_or(PAGE)),
        allocated: false,
    };
    cells.put_extent(free)?;
    Ok((cells, root))
}

fn after(at: CellOffset, size: usize) -> Parsed<CellOffset> {
    let size = u32::try_from(size).ok().and_then(|size| at.0.checked_add(size));
    size.map(CellOffset)
        .ok_or_else(|| HiveError::Full("a hive of more than 4 GiB".into()))
}

fn put(cells: &mut Cells, at: CellOffset, contents: &[u8]) -> Parsed<()> {
    let extent = Extent {
        at,
        size: cell_size(contents.len()),
        allocated: true,
    };
    cells.put_extent(extent)?;
    Ok(put_bytes(cells.contents_mut(at)?, 0, contents)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_hive_is_consistent_and_is_read_back() {
        for version in [Version::Standard, Version::Latest] {
            let hive = Hive::create("new", version, 1_700_000_000).unwrap();
            hive.check().unwrap();
            let hive = Hive::open("new", hive.into_file(), &[]).unwrap();
            assert_eq!((hive.recovered(), hive.stale()), (None, None));
            let root = hive.root().unwrap();
            assert_eq!(root.written(), FileTime::from_seconds(1_700_000_000));
            assert!(root.subkeys().unwrap().is_empty() && root.values().unwrap().is_empty());
            assert_eq!(root.security().unwrap(), security::default_descriptor());
        }
    }
}
