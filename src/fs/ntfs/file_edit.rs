//! Changing the contents of files and links. What was compressed becomes plain.

use super::{
    Ntfs,
    attribute::{flag, kind},
    contents::Contents,
    data_runs,
    edited_file::{Clusters, EditedFile, OwnedAttribute, Value},
    error::NtfsError,
    reparse_point::{self, ReparsePoint, tag},
    standard_information::attribute,
    wof,
};
use crate::{disk::Error, fs::Result};
use std::io::{self, Read};

/// Contents are written in pieces of so many bytes, or of a cluster, if that is more.
const PIECE: usize = 1 << 20;
/// Where more than a piece is written, room for so much is looked for.
const ROOM: u64 = 32 << 20;

/// Extended attributes with this prefix are gone once the contents change: Windows keeps there what it has checked of them
/// ("Kernel Extended Attributes").
const PURGED: &[u8] = b"$KERNEL.PURGE.";

/// Fills `buffer` unless the contents end before; gives how many bytes.
fn fill(contents: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match contents.read(rest) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl Ntfs {
    fn piece(&self) -> usize {
        usize::try_from(self.boot.cluster_size)
            .unwrap_or(PIECE)
            .max(PIECE)
    }

    /// Contents that can't be changed from outside.
    fn must_be_changeable(&self, file: &EditedFile) -> Result<()> {
        let refuse = |why: &str| {
            Err(self.fault(NtfsError::Unsupported(format!(
                "file record {} {why}",
                file.number
            ))))
        };
        if file.is_directory() {
            return refuse("is a directory, which has no contents to write");
        }
        let data = file.attribute(kind::DATA, &[]);
        if data.is_some_and(|data| data.flags & flag::ENCRYPTED != 0) {
            return refuse("is encrypted (EFS); `cipher /d` by its owner in Windows decrypts it");
        }
        Ok(())
    }

    /// A reparse point of a file whose contents change: what a filter of Windows would show instead of them goes, or is an
    /// error.
    fn drop_filter(&mut self, file: &mut EditedFile) -> Result<()> {
        let Some(raw) = self.edited_reparse_point(file)? else {
            return Ok(());
        };
        let point = ReparsePoint::parse(&raw).map_err(|e| self.in_record(file.number, e))?;
        match point.tag {
            tag::WOF => {
                let name: Vec<u16> = wof::STREAM.encode_utf16().collect();
                self.remove_attribute(file, (kind::DATA, &name))?;
                self.set_reparse_point(file, None)
            }
            other => Err(self.fault(NtfsError::Unsupported(format!(
                "file record {} is managed by a filter of Windows (reparse tag {other:#010x}), which would not know of \
                 new contents",
                file.number
            )))),
        }
    }

    /// The reparse point of a file, as it stands there.
    pub(super) fn edited_reparse_point(&self, file: &EditedFile) -> Result<Option<Vec<u8>>> {
        let Some(value) = file.attribute(kind::REPARSE_POINT, &[]) else {
            return Ok(None);
        };
        let length = value.size().min(reparse_point::MOST_BYTES + 24);
        let mut raw = vec![0; usize::try_from(length).unwrap_or(0)];
        self.read_value(file, (kind::REPARSE_POINT, &[]), 0, &mut raw)?;
        Ok(Some(raw))
    }

    /// Gives a file a reparse point, or takes it away.
    pub(super) fn set_reparse_point(&mut self, file: &mut EditedFile, raw: Option<Vec<u8>>) -> Result<()> {
        if let Some(old) = self.edited_reparse_point(file)? {
            self.forget_reparse_point(file.reference(), &old)?;
            self.remove_attribute(file, (kind::REPARSE_POINT, &[]))?;
        }
        let present = raw.is_some();
        if let Some(raw) = raw {
            let point = ReparsePoint::parse(&raw).map_err(|e| self.in_record(file.number, e))?;
            self.replace_value(file, (kind::REPARSE_POINT, &[]), raw)?;
            self.note_reparse_point(file.reference(), point.tag)?;
        }
        self.set_attribute_bit(file, attribute::REPARSE_POINT, present)
    }

    /// Sets or clears a bit of the attributes that says what a file has.
    pub(super) fn set_attribute_bit(&self, file: &mut EditedFile, bit: u32, on: bool) -> Result<()> {
        let fail = |e: NtfsError| self.in_record(file.number, e);
        let mut information = file.standard_information().map_err(fail)?;
        information.attributes = if on {
            information.attributes | bit
        } else {
            information.attributes & !bit
        };
        let number = file.number;
        file.set_standard_information(&information)
            .map_err(|e| self.in_record(number, e))
    }

    /// New contents for a file; its clusters are given back first.
    pub(super) fn replace_contents(&mut self, file: &mut EditedFile, contents: &mut dyn Read) -> Result<()> {
        self.must_be_changeable(file)?;
        self.drop_filter(file)?;
        self.forget_what_was_checked(file)?;
        self.remove_attribute(file, (kind::DATA, &[]))?;
        self.set_attribute_bit(file, attribute::COMPRESSED | attribute::SPARSE, false)?;
        self.write_contents(file, Vec::new(), contents)
    }

    /// Adds to the end of a file.
    pub(super) fn append_contents(&mut self, file: &mut EditedFile, contents: &mut dyn Read) -> Result<()> {
        self.must_be_changeable(file)?;
        self.forget_what_was_checked(file)?;
        let compressed = file.attribute(kind::DATA, &[]).is_some_and(|data| {
            data.flags & flag::COMPRESSION != 0 && matches!(data.value, Value::Clusters(_))
        });
        if compressed || file.attribute(kind::REPARSE_POINT, &[]).is_some() {
            self.make_plain(file)?;
        }
        let position = file.position(kind::DATA, &[]);
        match position
            .and_then(|position| file.attributes.get(position))
            .map(|data| &data.value)
        {
            Some(Value::Clusters(_)) => self.append_to_clusters(file, contents),
            Some(Value::Resident { bytes, .. }) => {
                let start = bytes.clone();
                self.remove_attribute(file, (kind::DATA, &[]))?;
                self.write_contents(file, start, contents)
            }
            None => self.write_contents(file, Vec::new(), contents),
        }
    }

    /// Writes what was compressed as it is.
    fn make_plain(&mut self, file: &mut EditedFile) -> Result<()> {
        let number = file.number;
        let opened = self.file(number)?;
        let contents = self.contents(&opened)?;
        if !matches!(contents, Contents::Compressed { .. } | Contents::Wof(_)) {
            // Another filter's file, which is refused, or a plain one.
            return self.drop_filter(file);
        }
        let data = file.attribute(kind::DATA, &[]);
        let size = data.map_or(0, OwnedAttribute::size);
        let mut clusters = Clusters::default();
        if let Err(error) = self.copy_contents(number, size, &mut clusters) {
            self.free_value(&Value::Clusters(clusters))?;
            return Err(error);
        }
        self.drop_filter(file)?;
        self.remove_attribute(file, (kind::DATA, &[]))?;
        let mut data = OwnedAttribute::resident(kind::DATA, &[], Vec::new());
        data.value = Value::Clusters(clusters);
        file.attributes.push(data);
        self.open.replace(None);
        self.set_attribute_bit(file, attribute::COMPRESSED | attribute::SPARSE, false)
    }

    /// Writes all that can be read of a file to new clusters.
    fn copy_contents(&mut self, number: u64, size: u64, clusters: &mut Clusters) -> Result<()> {
        let mut buffer = vec![0; self.piece()];
        let mut offset = 0;
        while offset < size {
            let count = self.read_contents(number, offset, &mut buffer)?;
            if count == 0 {
                return Err(self.damaged(number, format!("ends at byte {offset} of {size}")));
            }
            self.add_piece(clusters, &mut buffer, count, size - offset > count as u64)?;
            offset += count as u64;
        }
        Ok(())
    }

    /// Adds the first `count` bytes of `buffer`, which has room for whole clusters, to contents that end with a whole
    /// cluster.
    fn add_piece(
        &mut self,
        clusters: &mut Clusters,
        buffer: &mut [u8],
        count: usize,
        more: bool,
    ) -> Result<()> {
        let cluster_size = usize::try_from(self.boot.cluster_size).unwrap_or(usize::MAX);
        let padded = count.next_multiple_of(cluster_size).min(buffer.len());
        buffer.get_mut(count..padded).unwrap_or_default().fill(0);
        let needed = (count as u64).div_ceil(self.boot.cluster_size);
        let room = if more { ROOM / self.boot.cluster_size } else { 0 };
        let start = self.byte(clusters.end());
        self.must_have_room(needed)?;
        self.extend(clusters, needed, room)?;
        clusters.size = start + count as u64;
        clusters.initialized = clusters.size;
        self.changed = true;
        self.write_runs(&clusters.runs, start, buffer.get(..padded).unwrap_or_default())
    }

    /// The contents of a file without any: `start`, and then what comes. They stay in the record if there is room.
    fn write_contents(
        &mut self,
        file: &mut EditedFile,
        start: Vec<u8>,
        contents: &mut dyn Read,
    ) -> Result<()> {
        let mut buffer = start;
        let mut used = buffer.len();
        buffer.resize(self.piece().max(used), 0);
        used += fill(contents, buffer.get_mut(used..).unwrap_or_default())
            .map_err(|e| Error::io(self.disk.label(), e))?;
        if used <= self.boot.record_size {
            let value = buffer.get(..used).unwrap_or_default().to_vec();
            file.attributes
                .push(OwnedAttribute::resident(kind::DATA, &[], value));
            if self.fits_in_one(file)? {
                return Ok(());
            }
            self.remove_attribute(file, (kind::DATA, &[]))?;
        }
        let mut clusters = Clusters::default();
        if let Err(error) = self.write_pieces(&mut clusters, &mut buffer, used, contents) {
            // A full filesystem is no damaged one: what was taken is given back, and the file is empty.
            self.free_value(&Value::Clusters(clusters))?;
            file.set_value(kind::DATA, &[], Vec::new());
            return Err(error);
        }
        let mut data = OwnedAttribute::resident(kind::DATA, &[], Vec::new());
        data.value = Value::Clusters(clusters);
        file.attributes.push(data);
        Ok(())
    }

    /// Adds the first `used` bytes of `buffer`, and then what comes, to contents that end with a whole cluster.
    fn write_pieces(
        &mut self,
        clusters: &mut Clusters,
        buffer: &mut [u8],
        mut used: usize,
        contents: &mut dyn Read,
    ) -> Result<()> {
        let length = buffer.len();
        while used > 0 {
            self.add_piece(clusters, buffer, used, used == length)?;
            if used < length {
                break;
            }
            used = fill(contents, buffer).map_err(|e| Error::io(self.disk.label(), e))?;
        }
        Ok(())
    }

    /// Adds to contents in clusters. Holes stay.
    fn append_to_clusters(&mut self, file: &mut EditedFile, contents: &mut dyn Read) -> Result<()> {
        let Some(position) = file.position(kind::DATA, &[]) else {
            return Ok(());
        };
        let mut data = file.attributes.remove(position);
        let mut done = Ok(());
        if let Value::Clusters(clusters) = &mut data.value {
            // What was there is there still if there was no room for more.
            let size = clusters.size;
            done = self.extend_contents(clusters, contents);
            if done.is_err() {
                self.truncate(clusters, size.div_ceil(self.boot.cluster_size))?;
                clusters.size = clusters.size.min(size);
                clusters.initialized = clusters.initialized.min(size);
            }
        }
        file.attributes.push(data);
        done
    }

    fn extend_contents(&mut self, clusters: &mut Clusters, contents: &mut dyn Read) -> Result<()> {
        let cluster_size = self.boot.cluster_size;
        let size = clusters.size;
        let initialized = clusters.initialized;
        // Clusters kept behind the end go: what comes is written to new ones, right behind if they are free.
        let whole = size.div_ceil(cluster_size);
        self.truncate(clusters, whole)?;
        clusters.size = size;
        clusters.initialized = initialized;
        if initialized < size {
            self.zero(clusters, initialized, size)?;
        }
        let into = usize::try_from(size % cluster_size).unwrap_or(0);
        let mut buffer = vec![0; self.piece()];
        let mut used = 0;
        if into > 0 {
            // The last cluster is written anew, with what was in it.
            let last = size / cluster_size;
            let run = data_runs::find(&clusters.runs, last);
            if run.is_some_and(|run| run.lcn.is_some()) {
                let start = buffer.get_mut(..into).unwrap_or_default();
                self.read_runs(&clusters.runs, self.byte(last), start)?;
                let room = usize::try_from(cluster_size).unwrap_or(usize::MAX);
                let rest = buffer.get_mut(into..room).unwrap_or_default();
                let count = fill(contents, rest).map_err(|e| Error::io(self.disk.label(), e))?;
                buffer.get_mut(into + count..room).unwrap_or_default().fill(0);
                self.changed = true;
                self.write_runs(
                    &clusters.runs,
                    self.byte(last),
                    buffer.get(..room).unwrap_or_default(),
                )?;
                clusters.size = size + count as u64;
                clusters.initialized = clusters.size;
                if into + count < room {
                    return Ok(());
                }
            } else {
                // The last cluster is a hole: it is made.
                self.truncate(clusters, last)?;
                buffer.fill(0);
                used = into;
            }
        }
        let rest = buffer.get_mut(used..).unwrap_or_default();
        used += fill(contents, rest).map_err(|e| Error::io(self.disk.label(), e))?;
        self.write_pieces(clusters, &mut buffer, used, contents)
    }

    /// Windows keeps in extended attributes what it has checked of a file's contents.
    fn forget_what_was_checked(&mut self, file: &mut EditedFile) -> Result<()> {
        let Some(size) = file.attribute(kind::EA, &[]).map(OwnedAttribute::size) else {
            return Ok(());
        };
        let mut raw = vec![0; usize::try_from(size.min(1 << 16)).unwrap_or(0)];
        self.read_value(file, (kind::EA, &[]), 0, &mut raw)?;
        let kept = super::ea::without(&raw, PURGED).map_err(|e| self.in_record(file.number, e))?;
        let Some(kept) = kept else {
            return Ok(());
        };
        self.remove_attribute(file, (kind::EA, &[]))?;
        if kept.raw.is_empty() {
            return self.remove_attribute(file, (kind::EA_INFORMATION, &[]));
        }
        file.set_value(kind::EA_INFORMATION, &[], kept.information.to_vec());
        self.replace_value(file, (kind::EA, &[]), kept.raw)
    }

    /// The target of a link. Windows tells links to directories from links to files by what the link itself is.
    pub(super) fn replace_target(&mut self, file: &mut EditedFile, contents: &mut dyn Read) -> Result<()> {
        let most = usize::try_from(reparse_point::MOST_BYTES).unwrap_or(0);
        let mut target = vec![0; most];
        let count = fill(contents, &mut target).map_err(|e| Error::io(self.disk.label(), e))?;
        target.truncate(count);
        let old = match self.edited_reparse_point(file)? {
            Some(raw) => {
                ReparsePoint::parse(&raw)
                    .map_err(|e| self.in_record(file.number, e))?
                    .tag
            }
            None => tag::SYMLINK,
        };
        let kept = if old == tag::MOUNT_POINT {
            tag::MOUNT_POINT
        } else {
            tag::SYMLINK
        };
        let point = ReparsePoint::link(kept, &target).and_then(|point| point.encode());
        let raw = point.map_err(|e| self.in_record(file.number, e))?;
        self.set_reparse_point(file, Some(raw))
    }
}
