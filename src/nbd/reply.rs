//! What a server answers to one request, put together from its messages: "Simple reply message" and "Structured reply
//! types" in `doc/proto.md`.

use super::{
    protocol::{ReplyKind, Run, ServerError, Violation, chunk, error_chunk, run},
    stream::{discard, fill},
};
use crate::disk::field;
use std::{
    io::{self, Read},
    ops::Range,
    time::Instant,
};
use thiserror::Error;

/// Why nothing that comes after this can be understood.
#[derive(Debug, Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server breaks the protocol: {0}")]
    Violation(#[from] Violation),
}

/// Where an answer goes.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    /// Done or not is all there is to say.
    Nothing,
    /// The bytes of the export from `offset` on.
    Data { offset: u64, buffer: &'a mut [u8] },
    /// The first `most` runs of metadata context `context`.
    Map {
        context: u32,
        runs: &'a mut Vec<Run>,
        most: usize,
    },
}

/// One answer while it comes.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    answer: Answer<'a>,
    /// Chunks were agreed on.
    structured: bool,
    coverage: Coverage,
    mapped: bool,
    errors: usize,
    error: Option<ServerError>,
}

/// An error at every page of the largest request would be more, but nobody reads them.
const MOST_ERRORS: usize = 64;

/// "`NBD_REPLY_TYPE_ERROR`": a message of 4096 bytes and some numbers, and room for what may be added to the protocol.
const LONGEST_ERROR: u32 = 8192;

/// "`NBD_REPLY_TYPE_BLOCK_STATUS`": no more than 2²⁰ descriptors of 8 bytes after the number of the context.
const LONGEST_MAP: u32 = 4 + (8 << 20);

impl<'a> Reply<'a> {
    pub(super) fn new(answer: Answer<'a>, structured: bool) -> Self {
        let range = match &answer {
            Answer::Data { offset, buffer } => *offset..offset.saturating_add(buffer.len() as u64),
            Answer::Nothing | Answer::Map { .. } => 0..0,
        };
        Self {
            answer,
            structured,
            coverage: Coverage {
                range,
                pieces: Vec::new(),
            },
            mapped: false,
            errors: 0,
            error: None,
        }
    }

    /// Reads what follows a header of this answer. `true`: the answer is complete.
    pub(super) fn take(
        &mut self,
        kind: ReplyKind,
        incoming: &mut dyn Read,
        deadline: Instant,
    ) -> Result<bool, Broken> {
        match kind {
            ReplyKind::Simple { error } => self.simple(error, incoming, deadline).map(|()| true),
            ReplyKind::Chunk { .. } if !self.structured => Err(Violation::Structure("in chunks").into()),
            ReplyKind::Chunk { done, kind, length } => {
                self.chunk(done, kind, length, incoming, deadline)?;
                if done {
                    self.must_be_complete()?;
                }
                Ok(done)
            }
        }
    }

    /// What the server said of a complete answer.
    pub(super) fn outcome(self) -> Result<(), ServerError> {
        self.error.map_or(Ok(()), Err)
    }

    fn simple(&mut self, error: u32, incoming: &mut dyn Read, deadline: Instant) -> Result<(), Broken> {
        let has_payload = !matches!(self.answer, Answer::Nothing);
        if has_payload && self.structured {
            return Err(Violation::Structure("without chunks").into());
        }
        if error != 0 {
            self.error = Some(ServerError {
                number: error,
                message: None,
            });
        } else if let Answer::Data { buffer, .. } = &mut self.answer {
            fill(incoming, buffer, deadline)?;
        }
        Ok(())
    }

    fn chunk(
        &mut self,
        done: bool,
        kind: u16,
        length: u32,
        incoming: &mut dyn Read,
        deadline: Instant,
    ) -> Result<(), Broken> {
        let misplaced = Violation::Chunk { kind, length };
        match (kind, &mut self.answer) {
            (chunk::NONE, _) if length == 0 && done => {}
            (chunk::OFFSET_DATA, Answer::Data { offset, buffer }) if length > 8 => {
                let at = number(incoming, deadline)?;
                let range = self.coverage.add(at, u64::from(length - 8))?;
                fill(incoming, part(buffer, *offset, &range), deadline)?;
            }
            (chunk::OFFSET_HOLE, Answer::Data { offset, buffer }) if length == 12 => {
                let at = number(incoming, deadline)?;
                let mut size = [0; 4];
                fill(incoming, &mut size, deadline)?;
                let range = self.coverage.add(at, u64::from(u32::from_be_bytes(size)))?;
                part(buffer, *offset, &range).fill(0);
            }
            (chunk::BLOCK_STATUS, Answer::Map { context, runs, most })
                if length > 4 && length % 8 == 4 && length <= LONGEST_MAP && !self.mapped =>
            {
                self.mapped = true;
                let mut found = [0; 4];
                fill(incoming, &mut found, deadline)?;
                let found = u32::from_be_bytes(found);
                if found != *context {
                    return Err(Violation::Context(found).into());
                }
                let count = usize::try_from(length / 8).unwrap_or(usize::MAX).min(*most);
                for _ in 0..count {
                    let mut descriptor = [0; 8];
                    fill(incoming, &mut descriptor, deadline)?;
                    runs.push(run(&descriptor)?);
                }
                let rest = u64::from(length - 4).saturating_sub(count as u64 * 8);
                discard(incoming, rest, deadline)?;
            }
            _ if kind & chunk::ERROR != 0 && length <= LONGEST_ERROR && self.errors < MOST_ERRORS => {
                self.errors += 1;
                let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
                fill(incoming, &mut payload, deadline)?;
                self.error = Some(error_chunk(&payload)?);
            }
            _ => return Err(misplaced.into()),
        }
        Ok(())
    }

    fn must_be_complete(&self) -> Result<(), Violation> {
        if self.error.is_some() {
            return Ok(());
        }
        match &self.answer {
            Answer::Nothing => Ok(()),
            Answer::Data { .. } => self.coverage.must_be_complete(),
            Answer::Map { runs, .. } if runs.is_empty() => Err(Violation::EmptyRun),
            Answer::Map { .. } => Ok(()),
        }
    }
}

fn number(incoming: &mut dyn Read, deadline: Instant) -> Result<u64, Broken> {
    let mut bytes = [0; 8];
    fill(incoming, &mut bytes, deadline)?;
    Ok(field::u64_be(&bytes, 0).map_err(Violation::from)?)
}

/// The bytes of `range` in a buffer that begins at `offset` of the export.
fn part<'a>(buffer: &'a mut [u8], offset: u64, range: &Range<u64>) -> &'a mut [u8] {
    let index = |at: u64| usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
    buffer
        .get_mut(index(range.start)..index(range.end))
        .unwrap_or_default()
}

/// Which bytes of a read have come.
#[derive(Debug)]
struct Coverage {
    range: Range<u64>,
    /// Ascending, with gaps between them.
    pieces: Vec<Range<u64>>,
}

/// Gaps in what has come so far. Servers send their chunks nearly in order.
const MOST_PIECES: usize = 1024;

impl Coverage {
    /// Notes a chunk, which must lie within what was asked for and touch no other.
    fn add(&mut self, offset: u64, length: u64) -> Result<Range<u64>, Violation> {
        let outside = Violation::Outside { offset, length };
        let end = match offset.checked_add(length) {
            Some(end) if length > 0 && offset >= self.range.start && end <= self.range.end => end,
            _ => return Err(outside),
        };
        let place = self.pieces.partition_point(|piece| piece.end <= offset);
        if self.pieces.get(place).is_some_and(|next| next.start < end) {
            return Err(outside);
        }
        let joins_next = self.pieces.get(place).is_some_and(|next| next.start == end);
        let before = place.checked_sub(1).and_then(|place| self.pieces.get_mut(place));
        match before.filter(|before| before.end == offset) {
            Some(before) if !joins_next => before.end = end,
            Some(before) => {
                let start = before.start;
                if let Some(next) = self.pieces.get_mut(place) {
                    next.start = start;
                }
                self.pieces.remove(place - 1);
            }
            None if joins_next => {
                if let Some(next) = self.pieces.get_mut(place) {
                    next.start = offset;
                }
            }
            None => {
                if self.pieces.len() >= MOST_PIECES {
                    return Err(Violation::Pieces(MOST_PIECES));
                }
                self.pieces.insert(place, offset..end);
            }
        }
        Ok(offset..end)
    }

    fn must_be_complete(&self) -> Result<(), Violation> {
        let length = self.range.end.saturating_sub(self.range.start);
        let there: u64 = self.pieces.iter().map(|piece| piece.end - piece.start).sum();
        match length.saturating_sub(there) {
            0 => Ok(()),
            missing => Err(Violation::Missing { missing, length }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    proptest! {
        #[test]
        fn chunks_in_any_order_cover_what_was_asked_and_nothing_twice(
            cuts in proptest::collection::btree_set(1_u64..200, 0..20),
            order in any::<u64>(),
        ) {
            let mut bounds: Vec<u64> = std::iter::once(0).chain(cuts).chain([200]).collect();
            bounds.dedup();
            let mut pieces: Vec<Range<u64>> =
                bounds.windows(2).map(|pair| 1000 + pair[0]..1000 + pair[1]).collect();
            let mut state = order | 1;
            for index in (1..pieces.len()).rev() {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                pieces.swap(index, (state >> 33) as usize % (index + 1));
            }
            let mut coverage = Coverage { range: 1000..1200, pieces: Vec::new() };
            for piece in &pieces {
                prop_assert!(coverage.must_be_complete().is_err());
                prop_assert_eq!(coverage.add(piece.start, piece.end - piece.start), Ok(piece.clone()));
                prop_assert!(coverage.add(piece.start, 1).is_err());
                prop_assert!(coverage.add(piece.end - 1, 1).is_err());
            }
            prop_assert_eq!(coverage.must_be_complete(), Ok(()));
            prop_assert_eq!(coverage.pieces.len(), 1);
        }
    }

    #[test]
    fn chunks_outside_of_the_request_are_refused() {
        for (offset, length) in [(999, 2), (1199, 2), (1100, 0), (u64::MAX, 2), (0, u64::MAX)] {
            let mut coverage = Coverage {
                range: 1000..1200,
                pieces: Vec::new(),
            };
            assert_eq!(
                coverage.add(offset, length),
                Err(Violation::Outside { offset, length })
            );
        }
    }

    #[test]
    fn chunks_without_order_are_limited_in_number() {
        let mut coverage = Coverage {
            range: 0..1 << 20,
            pieces: Vec::new(),
        };
        let pieces = MOST_PIECES as u64;
        for piece in 0..pieces {
            coverage.add(piece * 2, 1).unwrap();
        }
        assert_eq!(coverage.add(pieces * 2, 1), Err(Violation::Pieces(MOST_PIECES)));
    }

    fn chunk_of(kind: u16, done: bool, payload: &[u8]) -> (ReplyKind, Vec<u8>) {
        let length = payload.len() as u32;
        (ReplyKind::Chunk { done, kind, length }, payload.to_vec())
    }

    #[test]
    fn data_and_holes_are_put_together() {
        let mut buffer = [7; 10];
        let mut reply = Reply::new(
            Answer::Data {
                offset: 100,
                buffer: &mut buffer,
            },
            true,
        );
        let hole = chunk_of(chunk::OFFSET_HOLE, false, &[0, 0, 0, 0, 0, 0, 0, 104, 0, 0, 0, 6]);
        let data = chunk_of(chunk::OFFSET_DATA, true, &[0, 0, 0, 0, 0, 0, 0, 100, 1, 2, 3, 4]);
        for (index, (kind, payload)) in [hole, data].into_iter().enumerate() {
            assert_eq!(reply.take(kind, &mut &payload[..], later()).unwrap(), index == 1);
        }
        reply.outcome().unwrap();
        assert_eq!(buffer, [1, 2, 3, 4, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_map_is_cut_where_memory_ends() {
        let mut runs = Vec::new();
        let mut reply = Reply::new(
            Answer::Map {
                context: 5,
                runs: &mut runs,
                most: 2,
            },
            true,
        );
        let mut payload = vec![0, 0, 0, 5];
        for (length, flags) in [(4096_u32, 3_u32), (8192, 0), (512, 2)] {
            payload.extend(length.to_be_bytes());
            payload.extend(flags.to_be_bytes());
        }
        let (kind, payload) = chunk_of(chunk::BLOCK_STATUS, true, &payload);
        let mut incoming = &payload[..];
        assert!(reply.take(kind, &mut incoming, later()).unwrap());
        assert!(incoming.is_empty());
        reply.outcome().unwrap();
        let run = |length, zero, hole| Run { length, zero, hole };
        assert_eq!(runs, [run(4096, true, true), run(8192, false, false)]);
    }

    #[test]
    fn what_does_not_belong_to_an_answer_breaks_it() {
        let violations: [(bool, (ReplyKind, Vec<u8>)); 7] = [
            (true, (ReplyKind::Simple { error: 0 }, vec![0; 10])),
            (false, chunk_of(chunk::NONE, true, &[])),
            (true, chunk_of(chunk::NONE, false, &[])),
            (true, chunk_of(chunk::NONE, true, &[])),
            (true, chunk_of(chunk::BLOCK_STATUS, true, &[0; 12])),
            (true, chunk_of(3, true, &[])),
            (true, chunk_of(chunk::OFFSET_HOLE, true, &[0; 12])),
        ];
        for (structured, (kind, payload)) in violations {
            let mut buffer = [0; 10];
            let answer = Answer::Data {
                offset: 0,
                buffer: &mut buffer,
            };
            let taken = Reply::new(answer, structured).take(kind, &mut &payload[..], later());
            assert!(matches!(taken, Err(Broken::Violation(_))), "{kind:?}: {taken:?}");
        }
    }

    #[test]
    fn an_error_chunk_fails_the_request_and_not_the_connection() {
        let mut buffer = [0; 4];
        let mut reply = Reply::new(
            Answer::Data {
                offset: 0,
                buffer: &mut buffer,
            },
            true,
        );
        let (kind, payload) = chunk_of(chunk::ERROR | 2, true, b"\0\0\0\x05\0\x04gone\0\0\0\0\0\0\0\x02");
        assert!(reply.take(kind, &mut &payload[..], later()).unwrap());
        let error = reply.outcome().unwrap_err();
        assert_eq!((error.number, error.message.as_deref()), (5, Some("gone")));
    }
}
