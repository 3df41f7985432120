//! The contents of files: plain, compressed in either way, or the target of a link.

use super::{
    Ntfs,
    attribute::kind,
    error::NtfsError,
    file::File,
    lznt1,
    reparse_point::{self, Overlay, ReparsePoint, tag},
    standard_information::attribute,
    stream::Stream,
    wof::{self, WofFile},
};
use crate::fs::Result;

/// A unit of compressed clusters that is larger than this is none that Windows makes (64 KiB).
const MOST_UNIT: u64 = 1 << 20;

/// A file whose contents are read. One is kept from one read to the next.
#[derive(Debug)]
pub(super) struct Open {
    number: u64,
    contents: Contents,
}

#[derive(Debug)]
pub(super) enum Contents {
    /// The file has no unnamed data.
    Nothing,
    Plain(Stream),
    Compressed {
        stream: Stream,
        /// The unit that was used last.
        last: Option<(u64, Vec<u8>)>,
    },
    Wof(WofFile),
    Link(Vec<u8>),
}

impl Ntfs {
    pub(super) fn reparse_point(&self, file: &File) -> Result<Option<ReparsePoint>> {
        let value = self.value(file, kind::REPARSE_POINT, &[], reparse_point::MOST_BYTES + 24)?;
        value
            .map(|raw| ReparsePoint::parse(&raw).map_err(|e| self.in_record(file.number(), e)))
            .transpose()
    }

    /// The target of a link; `None` if it is none.
    pub(super) fn link_target(&self, file: &File) -> Result<Option<Vec<u8>>> {
        match self.reparse_point(file)? {
            Some(point) => point.target().map_err(|e| self.in_record(file.number(), e)),
            None => Ok(None),
        }
    }

    /// Bytes of the contents, also of those that can't be read.
    pub(super) fn contents_size(&self, file: &File) -> Result<u64> {
        let stream = self.stream(file, kind::DATA, &[])?;
        Ok(stream.map_or(0, |stream| stream.sizes.size))
    }

    /// What reading the file gives, or why it can't be read.
    pub(super) fn contents(&self, file: &File) -> Result<Contents> {
        let fail = |e: NtfsError| self.in_record(file.number(), e);
        let refuse = |why: String| {
            self.fault(NtfsError::Unsupported(format!(
                "file record {}: {why}",
                file.number()
            )))
        };
        let mut overlay = None;
        if let Some(point) = self.reparse_point(file)? {
            if let Some(target) = point.target().map_err(fail)? {
                return Ok(Contents::Link(target));
            }
            if point.tag == tag::WOF {
                match point.overlay().map_err(fail)? {
                    Overlay::File(algorithm) => overlay = Some(algorithm),
                    Overlay::Image => {
                        return Err(refuse(
                            "its contents are in a Windows image on another volume (WIMBoot); `compact /u /exe` on it \
                             in Windows writes it as a plain file"
                                .to_owned(),
                        ));
                    }
                }
            } else {
                let attributes = self.standard_information(file)?.attributes;
                let offline = attributes
                    & (attribute::OFFLINE | attribute::RECALL_ON_OPEN | attribute::RECALL_ON_DATA_ACCESS)
                    != 0;
                if let Some(why) = point.contents_elsewhere(offline) {
                    return Err(refuse(why));
                }
            }
        }
        if file.record.is_directory() {
            return Err(refuse("a directory has no contents to read".to_owned()));
        }
        let Some(stream) = self.stream(file, kind::DATA, &[])? else {
            return Ok(Contents::Nothing);
        };
        if let Some(algorithm) = overlay {
            let name: Vec<u16> = wof::STREAM.encode_utf16().collect();
            let packed = self
                .stream(file, kind::DATA, &name)?
                .ok_or_else(|| self.damaged(file.number(), format!("has no stream {}", wof::STREAM)))?;
            let size = stream.sizes.size;
            return WofFile::new(packed, algorithm, size)
                .map(Contents::Wof)
                .map_err(fail);
        }
        if stream.is_encrypted() {
            return Err(refuse(
                "is encrypted (EFS), and its key is not on the disk; `cipher /d` by its owner in Windows decrypts it"
                    .to_owned(),
            ));
        }
        if stream.is_compressed() {
            let unit = self.unit(&stream);
            if stream.compression_unit == 0 || unit > MOST_UNIT || stream.flags & 0xff != 1 {
                return Err(self.damaged(
                    file.number(),
                    format!(
                        "is compressed in units of {unit} bytes, by method {}",
                        stream.flags & 0xff
                    ),
                ));
            }
            return Ok(Contents::Compressed { stream, last: None });
        }
        Ok(Contents::Plain(stream))
    }

    /// Reads of the contents of file `number`; gives how many bytes, 0 at the end.
    pub(super) fn read_contents(&self, number: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut open = self.open.borrow_mut();
        let open = match &mut *open {
            Some(open) if open.number == number => open,
            slot => {
                let contents = self.contents(&self.file(number)?)?;
                slot.insert(Open { number, contents })
            }
        };
        match &mut open.contents {
            Contents::Nothing => Ok(0),
            Contents::Plain(stream) => self.read_plain(stream, offset, buffer),
            Contents::Compressed { stream, last } => self.read_compressed(stream, last, offset, buffer),
            Contents::Wof(file) => self.read_wof(file, offset, buffer),
            Contents::Link(target) => {
                let from = usize::try_from(offset).ok().and_then(|at| target.get(at..));
                let from = from.unwrap_or_default();
                for (to, from) in buffer.iter_mut().zip(from) {
                    *to = *from;
                }
                Ok(from.len().min(buffer.len()))
            }
        }
    }

    /// Bytes of clusters that are compressed together.
    fn unit(&self, stream: &Stream) -> u64 {
        self.boot.cluster_size << stream.compression_unit
    }

    fn read_compressed(
        &self,
        stream: &mut Stream,
        last: &mut Option<(u64, Vec<u8>)>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let left = stream.sizes.size.saturating_sub(offset);
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let unit = self.unit(stream);
        let mut done = 0;
        while done < count {
            let at = offset.saturating_add(done as u64);
            let to = buffer.get_mut(done..count).unwrap_or_default();
            if at >= stream.sizes.initialized {
                to.fill(0);
                break;
            }
            let number = at / unit;
            if last.as_ref().is_none_or(|(known, _)| *known != number) {
                *last = Some((number, self.read_unit(stream, number)?));
            }
            let bytes = last.as_ref().map_or(&[][..], |(_, bytes)| bytes);
            // What is not initialized is zeros, whatever the unit has there.
            let valid = usize::try_from(stream.sizes.initialized - number * unit).unwrap_or(usize::MAX);
            let from = usize::try_from(at % unit).unwrap_or(usize::MAX);
            let from = bytes.get(from..valid.min(bytes.len())).unwrap_or_default();
            if from.is_empty() {
                return Err(self.damaged(stream.owner, format!("unit {number} of its contents is empty")));
            }
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
            done += from.len().min(to.len());
        }
        Ok(count)
    }

    /// A unit of compressed clusters, expanded: all of its clusters are there and hold it as it is, or none and it is zeros,
    /// or the first ones hold it compressed.
    fn read_unit(&self, stream: &mut Stream, number: u64) -> Result<Vec<u8>> {
        let clusters = 1_u64 << stream.compression_unit;
        let first = number * clusters;
        let length = usize::try_from(self.unit(stream)).unwrap_or(0);
        let mut present = 0;
        let mut hole = false;
        let mut split = false;
        // The last unit may end with the last run.
        let end = stream
            .sizes
            .allocated
            .div_ceil(self.boot.cluster_size)
            .min(first + clusters);
        self.each_run(stream, first..end, &mut |run| {
            match run.lcn {
                Some(_) if hole => split = true,
                Some(_) => present += run.clusters,
                None => hole = true,
            }
            Ok(())
        })?;
        if split {
            return Err(self.damaged(
                stream.owner,
                format!("unit {number} of its contents has clusters after a hole"),
            ));
        }
        if present == 0 {
            return Ok(vec![0; length]);
        }
        let packed_length = usize::try_from(self.byte(present)).unwrap_or(0).min(length);
        let mut packed = vec![0; packed_length];
        self.read_clusters(stream, self.byte(first), &mut packed)?;
        if present >= clusters {
            return Ok(packed);
        }
        lznt1::expand(&packed, length)
            .map_err(|e| self.in_record(stream.owner, e.within(format!("unit {number} of its contents"))))
    }
}
