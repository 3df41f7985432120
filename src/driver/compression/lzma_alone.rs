//! The format of the `lzma` tool (LZMA specification, ".lzma file format"), read without taking a byte too much.

use crate::driver::read_ahead::ReadAhead;
use lzma_rust2::{Action, LzmaStream, Status};
use std::io::{self, BufRead, ErrorKind, Read};

/// One stream.
pub(crate) struct LzmaAlone<'a, R> {
    source: &'a mut ReadAhead<R>,
    stream: LzmaStream,
    finished: bool,
}

impl<'a, R: Read> LzmaAlone<'a, R> {
    /// `memory` in KiB.
    pub(crate) fn new(source: &'a mut ReadAhead<R>, memory: u32) -> Self {
        Self {
            source,
            stream: LzmaStream::new_mem_limit(memory, None),
            finished: false,
        }
    }
}

impl<R: Read> Read for LzmaAlone<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.finished && !buffer.is_empty() {
            let input = self.source.fill_buf()?;
            let action = if input.is_empty() {
                Action::Finish
            } else {
                Action::Run
            };
            let ended = input.is_empty();
            let result = self.stream.process(input, buffer, action)?;
            self.source.consume(result.bytes_consumed);
            if result.status == Status::StreamEnd {
                self.finished = true;
                self.source.unread(self.stream.unused_input().len());
            }
            if result.bytes_produced > 0 {
                return Ok(result.bytes_produced);
            }
            if !self.finished && (ended || result.bytes_consumed == 0) {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}
