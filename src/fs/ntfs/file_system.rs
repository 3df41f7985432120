//! [`FileSystem`] over [`Ntfs`].

use super::{
    Ntfs, extended,
    file_record::number,
    name,
    standard_information::{Stamp, nanoseconds},
};
use crate::fs::{Attributes, Edit, FileSystem, Identity, Node, Result, mode};
use std::ops::Range;

impl FileSystem for Ntfs {
    fn identity(&self) -> Identity {
        let serial = self.boot.serial;
        Identity {
            kind: "ntfs".to_owned(),
            uuid: (serial != 0).then(|| format!("{serial:016X}")),
            label: self.label.clone(),
        }
    }

    fn root(&self) -> Node {
        Node(number::ROOT)
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let directory = self.file(directory.0)?;
        let Some(wanted) = name::from_bytes(name).filter(|units| units.len() <= name::MOST_UNITS) else {
            return Ok(None);
        };
        let found = self.find_name(&directory, &wanted)?;
        Ok(found.map(|found| Node(found.number)))
    }

    fn list(&self, directory: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Result<()> {
        let file = self.file(directory.0)?;
        self.each_name(&file, &mut |found| {
            // The filesystem's own files are shown by nobody, and the root is in itself.
            let own = directory.0 == number::ROOT && found.number < number::FIRST_USER;
            own || each(&name::to_bytes(found.name.into_iter()), Node(found.number))
        })
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        let file = self.file(node.0)?;
        let information = self.standard_information(&file)?;
        let link = self.link_target(&file)?;
        let (size, mode) = match link {
            Some(target) => (target.len() as u64, mode::LINK | 0o777),
            None if file.record.is_directory() => (0, mode::DIRECTORY | 0o755),
            None => (self.contents_size(&file)?, mode::FILE | 0o644),
        };
        let time = |stamp: Stamp| information.times.get(stamp as usize).copied().map(nanoseconds);
        Ok(Attributes {
            size,
            mode: Some(mode),
            owner: None,
            links: Some(self.links(&file)?),
            accessed: time(Stamp::Accessed),
            modified: time(Stamp::Modified),
            changed: time(Stamp::Changed),
            created: time(Stamp::Created),
        })
    }

    fn read_at(&self, node: Node, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.read_contents(node.0, offset, buffer)
    }

    fn extended(&self, node: Node, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let file = self.file(node.0)?;
        match extended::Name::parse(name) {
            Some(name) => self.extended_value(&file, &name),
            None => Ok(None),
        }
    }

    fn extended_names(&self, node: Node) -> Result<Vec<Vec<u8>>> {
        self.extended_names_of(&self.file(node.0)?)
    }

    fn free(&self, each: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        self.each_free_run(each)
    }

    fn data_runs(&self, each: &mut dyn FnMut(Node, Range<u64>) -> Result<()>) -> Result<()> {
        self.each_data_run(each)
    }

    fn file_runs(&self, node: Node, each: &mut dyn FnMut(u64, Range<u64>) -> Result<()>) -> Result<()> {
        self.each_run_of(&self.file(node.0)?, each)
    }

    fn page_file_runs(&self, each: &mut dyn FnMut(&str, Range<u64>) -> Result<()>) -> Result<()> {
        self.each_page_file_run(each)
    }

    fn free_bytes(&self) -> Result<u64> {
        let free = self.free_clusters()?.saturating_sub(self.reserve());
        Ok(self.byte(free))
    }

    fn allow_dirty(&mut self) {
        self.dirty_is_allowed = true;
    }

    fn edit(&mut self) -> Result<&mut dyn Edit> {
        self.check_editable()?;
        self.prepare_edit()?;
        Ok(self)
    }
}
