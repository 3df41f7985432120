//! The parent of a differencing disk. The disk knows it by its UUID and has no name for it: VirtualBox keeps the names in
//! its registry, which lies elsewhere. What it has to go by is that VirtualBox calls the file of a snapshot `{UUID}.vdi`,
//! and that every VDI tells its UUID.

use super::header::{Header, LENGTH};
use crate::{
    disk::{Disk, Error, Kind, Result},
    image::{Format, Neighbours},
};
use std::sync::Arc;
use uuid::Uuid;

/// Opens the parent of the disk called `label`, and gives what it is called.
pub(super) fn open(
    label: &str,
    header: &Header,
    neighbours: &dyn Neighbours,
) -> Result<(String, Arc<dyn Disk>)> {
    let wanted = header.parent_id;
    let usual = format!("{{{wanted}}}.vdi").into_bytes();
    let mut seen = 0_usize;
    for name in std::iter::once(usual).chain(neighbours.names()?) {
        let container = match neighbours.open(&name, Some(Format::Raw.name())) {
            Ok(container) => container,
            // Too long a chain.
            Err(error) if error.kind == Kind::Corrupt => return Err(error),
            // What is no regular file, or cannot be read, is not the parent.
            Err(_) => continue,
        };
        seen += 1;
        let text = String::from_utf8_lossy(&name).into_owned();
        let found = match read_header(container.as_ref()) {
            Ok(Some(found)) if found.id == wanted => found,
            // Whoever gives a file without its bytes only wants to know what is said of it.
            Err(error) if error.kind == Kind::NotFound => return Ok((text, container)),
            _ => continue,
        };
        must_be_unchanged(label, header, &text, found.modification)?;
        return Ok((text, neighbours.open(&name, Some(Format::Vdi.name()))?));
    }
    let text = format!(
        "is a differencing disk over the disk {wanted}, and none of the {seen} files that may be looked at here is that: \
         put it beside this one (`VBoxManage showmediuminfo {wanted}` tells where it is), or `VBoxManage clonemedium` \
         makes one disk of both"
    );
    Err(Error::new(Kind::NotFound, label, text))
}

/// `None`: no VDI, or none that is read.
fn read_header(container: &dyn Disk) -> Result<Option<Header>> {
    let length = container.size().min(LENGTH as u64);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    container.read_at(0, &mut bytes)?;
    Ok(Header::parse(&bytes).ok())
}

fn must_be_unchanged(label: &str, header: &Header, name: &str, modification: Uuid) -> Result<()> {
    let wanted = header.parent_modification;
    if wanted.is_nil() || modification.is_nil() || wanted == modification {
        return Ok(());
    }
    let text = format!(
        "is the parent of {label}, but was written to since (its modification is {modification}, and {label} stands on \
         {wanted}): the two do not belong together any more. `VBoxManage clonemedium` makes one disk of what \
         VirtualBox takes for them"
    );
    Err(Error::new(Kind::Unsafe, name, text))
}
