//! Messages as bytes: what is sent is encoded here, what arrives is parsed here, and nothing is read or written. Section
//! names are those of `doc/proto.md`.

use crate::disk::field::{self, Truncated};
use thiserror::Error;

/// What a server must not send; the connection is of no more use.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Violation {
    #[error("it does not speak NBD: it begins with {0:02x?}")]
    Greeting([u8; 8]),
    #[error("its second magic number is {0:#018x}")]
    SecondMagic(u64),
    #[error("an answer begins with {0:#010x}, which no message does")]
    Magic(u32),
    #[error("an answer to an option begins with {0:#018x}")]
    OptionMagic(u64),
    #[error("it answers to option {found} when asked for option {asked}")]
    OptionNumber { found: u32, asked: u32 },
    #[error("its answer of type {kind} to option {option} has {length} bytes, which is too many")]
    OptionLength { option: u32, kind: u32, length: u32 },
    #[error("it never ends its answers to option {0}")]
    OptionReplies(u32),
    #[error("it answers with type {kind} to option {option}")]
    OptionReply { option: u32, kind: u32 },
    #[error("it accepts the export and does not say how large it is")]
    NoExport,
    #[error(
        "its block sizes contradict each other: at least {minimum}, preferred {preferred}, at most {maximum}"
    )]
    BlockSizes {
        minimum: u32,
        preferred: u32,
        maximum: u32,
    },
    #[error("the export's size, {size}, is no multiple of the smallest block that it lets read, {minimum}")]
    Size { size: u64, minimum: u32 },
    #[error("it answers to request {0:#x}, which nobody has made or which is answered already")]
    Cookie(u64),
    #[error("it sends a chunk of type {kind} with {length} bytes, which does not belong here")]
    Chunk { kind: u16, length: u32 },
    #[error(
        "it answers {0}, which it must not after agreeing to structured replies, or without having agreed"
    )]
    Structure(&'static str),
    #[error("it sends {length} bytes at offset {offset}, which were not asked for or came before")]
    Outside { offset: u64, length: u64 },
    #[error("it sends an answer in more than {0} pieces without order")]
    Pieces(usize),
    #[error("it says that all is well, but {missing} of {length} bytes have not come")]
    Missing { missing: u64, length: u64 },
    #[error("it reports an error without a number")]
    NoError,
    #[error("its map of the export has a run of no length, or none at all")]
    EmptyRun,
    #[error("its map is that of context {0}, which was not asked for")]
    Context(u32),
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

type Result<T> = std::result::Result<T, Violation>;

/// "Newstyle negotiation": `NBDMAGIC` and `IHAVEOPT`; "Oldstyle negotiation" has another second number.
const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const CLISERV_MAGIC: u64 = 0x0000_4202_8186_1253;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// How the server wants to negotiate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    New,
    /// Before 3.10 of the reference implementation: it tells size and flags at once.
    Old,
}

/// The first 16 bytes of a server.
pub(super) fn greeting(bytes: &[u8; 16]) -> Result<Style> {
    if field::u64_be(bytes, 0)? != NBDMAGIC {
        return Err(Violation::Greeting(field::array_at(bytes, 0)?));
    }
    match field::u64_be(bytes, 8)? {
        IHAVEOPT => Ok(Style::New),
        CLISERV_MAGIC => Ok(Style::Old),
        other => Err(Violation::SecondMagic(other)),
    }
}

/// "Handshake flags" and "Client flags": the bits are the same in both.
pub(super) mod handshake_flag {
    pub(in crate::nbd) const FIXED_NEWSTYLE: u16 = 1 << 0;
    pub(in crate::nbd) const NO_ZEROES: u16 = 1 << 1;
}

/// "Transmission flags".
pub(super) mod transmission_flag {
    pub(in crate::nbd) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::nbd) const SEND_FLUSH: u16 = 1 << 2;
    pub(in crate::nbd) const SEND_FUA: u16 = 1 << 3;
    pub(in crate::nbd) const SEND_TRIM: u16 = 1 << 5;
    pub(in crate::nbd) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(in crate::nbd) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(in crate::nbd) const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// "Option types".
pub(super) mod option {
    pub(in crate::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const LIST: u32 = 3;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
}

/// An option: `number` with `data`.
pub(super) fn option_request(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = IHAVEOPT.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(length_of(data));
    bytes.extend(data);
    bytes
}

/// The length field before a string; names are short.
fn length_of(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// `NBD_INFO_BLOCK_SIZE`.
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;

/// Data of `NBD_OPT_GO` for the export `name`, asking for its block sizes.
pub(super) fn go_data(name: &str) -> Vec<u8> {
    let mut data = length_of(name.as_bytes()).to_vec();
    data.extend(name.as_bytes());
    data.extend(1_u16.to_be_bytes());
    data.extend(INFO_BLOCK_SIZE.to_be_bytes());
    data
}

/// The only metadata context that is asked for.
pub(super) const ALLOCATION: &str = "base:allocation";

/// Data of `NBD_OPT_SET_META_CONTEXT` for the export `name`.
pub(super) fn meta_context_data(name: &str) -> Vec<u8> {
    let mut data = length_of(name.as_bytes()).to_vec();
    data.extend(name.as_bytes());
    data.extend(1_u32.to_be_bytes());
    data.extend(length_of(ALLOCATION.as_bytes()));
    data.extend(ALLOCATION.as_bytes());
    data
}

/// "Option reply types".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OptionReply {
    Ack,
    Server,
    Info,
    MetaContext,
    /// An error that has no meaning of its own here.
    Error(u32),
    Unsupported,
    TlsRequired,
    Unknown,
}

/// The header of a reply to option `asked`: its type and how many bytes follow.
pub(super) fn option_reply(bytes: &[u8; 20], asked: u32) -> Result<(OptionReply, usize)> {
    let magic = field::u64_be(bytes, 0)?;
    if magic != OPTION_REPLY_MAGIC {
        return Err(Violation::OptionMagic(magic));
    }
    let found = field::u32_be(bytes, 8)?;
    if found != asked {
        return Err(Violation::OptionNumber { found, asked });
    }
    let kind = field::u32_be(bytes, 12)?;
    let length = field::u32_be(bytes, 16)?;
    const FAILED: u32 = 1 << 31;
    let reply = match kind {
        1 => OptionReply::Ack,
        2 => OptionReply::Server,
        3 => OptionReply::Info,
        4 => OptionReply::MetaContext,
        0x8000_0001 => OptionReply::Unsupported,
        0x8000_0005 => OptionReply::TlsRequired,
        0x8000_0006 => OptionReply::Unknown,
        _ if kind & FAILED != 0 => OptionReply::Error(kind & !FAILED),
        _ => return Err(Violation::OptionReply { option: asked, kind }),
    };
    match usize::try_from(length) {
        Ok(size) if size <= LONGEST_OPTION_REPLY => Ok((reply, size)),
        _ => Err(Violation::OptionLength {
            option: asked,
            kind,
            length,
        }),
    }
}

/// Two strings of 4096 bytes ("Protocol strings") and some numbers are the longest of all replies.
const LONGEST_OPTION_REPLY: usize = 16384;

/// What `NBD_REP_INFO` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Information {
    Export(Size),
    BlockSizes(BlockSizes),
    /// A name, a description: not needed.
    Other,
}

/// Size and transmission flags of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) bytes: u64,
    pub(super) flags: u16,
}

/// "Size constraints".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockSizes {
    /// Offsets and lengths are multiples of this.
    pub(super) minimum: u32,
    /// The longest payload.
    pub(super) maximum: u32,
}

impl BlockSizes {
    /// What a client does that was told nothing about an export of `size` bytes, for most servers to understand it.
    pub(super) fn untold(size: u64) -> Self {
        Self {
            // Only single bytes reach the end of such an export.
            minimum: if size.is_multiple_of(512) { 512 } else { 1 },
            maximum: 32 << 20,
        }
    }
}

/// Size and flags as they stand in `NBD_INFO_EXPORT` and after `NBD_OPT_EXPORT_NAME`.
pub(super) fn size_and_flags(bytes: &[u8]) -> Result<Size> {
    Ok(Size {
        bytes: field::u64_be(bytes, 0)?,
        flags: field::u16_be(bytes, 8)?,
    })
}

/// Size and flags of an oldstyle server: 64 bits, then 32 of which the lower half are the transmission flags.
pub(super) fn oldstyle_size_and_flags(bytes: &[u8]) -> Result<Size> {
    Ok(Size {
        bytes: field::u64_be(bytes, 0)?,
        flags: field::u16_be(bytes, 10)?,
    })
}

/// The payload of `NBD_REP_INFO`.
pub(super) fn information(payload: &[u8]) -> Result<Information> {
    match field::u16_be(payload, 0)? {
        INFO_EXPORT => Ok(Information::Export(size_and_flags(
            payload.get(2..).unwrap_or_default(),
        )?)),
        INFO_BLOCK_SIZE => {
            let minimum = field::u32_be(payload, 2)?;
            let preferred = field::u32_be(payload, 6)?;
            let maximum = field::u32_be(payload, 10)?;
            const LARGEST_MINIMUM: u32 = 1 << 16;
            const LEAST_PREFERRED: u32 = 512;
            let sound = minimum.is_power_of_two()
                && minimum <= LARGEST_MINIMUM
                && preferred.is_power_of_two()
                && preferred >= minimum.max(LEAST_PREFERRED)
                && maximum >= preferred;
            if sound {
                Ok(Information::BlockSizes(BlockSizes { minimum, maximum }))
            } else {
                Err(Violation::BlockSizes {
                    minimum,
                    preferred,
                    maximum,
                })
            }
        }
        _ => Ok(Information::Other),
    }
}

/// The payload of `NBD_REP_META_CONTEXT`: number and name.
pub(super) fn meta_context(payload: &[u8]) -> Result<(u32, &[u8])> {
    Ok((field::u32_be(payload, 0)?, payload.get(4..).unwrap_or_default()))
}

/// The payload of `NBD_REP_SERVER`: the name of an export.
pub(super) fn server_name(payload: &[u8]) -> Result<&[u8]> {
    let length = usize::try_from(field::u32_be(payload, 0)?).unwrap_or(usize::MAX);
    Ok(field::bytes_at(payload, 4, length)?)
}

/// "Request types".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    WriteZeroes,
    BlockStatus,
}

impl Command {
    fn number(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
        }
    }

    /// As a sentence about its failure needs it.
    pub(super) fn doing(self) -> &'static str {
        match self {
            Self::Read => "reading",
            Self::Write => "writing",
            Self::Disconnect => "disconnecting",
            Self::Flush => "flushing",
            Self::Trim => "discarding",
            Self::WriteZeroes => "writing zeros",
            Self::BlockStatus => "asking for the map",
        }
    }
}

/// "Command flags".
pub(super) mod command_flag {
    pub(in crate::nbd) const FUA: u16 = 1 << 0;
    pub(in crate::nbd) const FAST_ZERO: u16 = 1 << 4;
}

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) length: u32,
}

impl Request {
    /// "Request message", without the payload of a write.
    pub(super) fn encode(&self, cookie: u64) -> [u8; 28] {
        let mut bytes = [0; 28];
        let fields: [&[u8]; 6] = [
            &REQUEST_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.command.number().to_be_bytes(),
            &cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.length.to_be_bytes(),
        ];
        for (place, byte) in bytes.iter_mut().zip(fields.concat()) {
            *place = byte;
        }
        bytes
    }
}

/// The header of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyHeader {
    pub(super) cookie: u64,
    pub(super) kind: ReplyKind,
}

/// "Simple reply message", "Structured reply chunk message".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyKind {
    /// 0: all is well.
    Simple {
        error: u32,
    },
    Chunk {
        done: bool,
        kind: u16,
        length: u32,
    },
}

/// Bytes of a simple reply, which is the shorter.
pub(super) const SHORT_HEADER: usize = 16;

/// Bytes of the header of a structured reply.
pub(super) const LONG_HEADER: usize = 20;

/// Does the answer that begins with `bytes` have a header of [`LONG_HEADER`] bytes?
pub(super) fn is_long(bytes: &[u8; SHORT_HEADER]) -> Result<bool> {
    match field::u32_be(bytes, 0)? {
        SIMPLE_REPLY_MAGIC => Ok(false),
        STRUCTURED_REPLY_MAGIC => Ok(true),
        other => Err(Violation::Magic(other)),
    }
}

/// The header of an answer, of [`SHORT_HEADER`] or [`LONG_HEADER`] bytes.
pub(super) fn reply_header(bytes: &[u8]) -> Result<ReplyHeader> {
    match field::u32_be(bytes, 0)? {
        SIMPLE_REPLY_MAGIC => Ok(ReplyHeader {
            cookie: field::u64_be(bytes, 8)?,
            kind: ReplyKind::Simple {
                error: field::u32_be(bytes, 4)?,
            },
        }),
        STRUCTURED_REPLY_MAGIC => Ok(ReplyHeader {
            cookie: field::u64_be(bytes, 8)?,
            kind: ReplyKind::Chunk {
                done: field::u16_be(bytes, 4)? & 1 != 0,
                kind: field::u16_be(bytes, 6)?,
                length: field::u32_be(bytes, 16)?,
            },
        }),
        other => Err(Violation::Magic(other)),
    }
}

/// "Structured reply types".
pub(super) mod chunk {
    pub(in crate::nbd) const NONE: u16 = 0;
    pub(in crate::nbd) const OFFSET_DATA: u16 = 1;
    pub(in crate::nbd) const OFFSET_HOLE: u16 = 2;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 5;
    /// Set in every chunk that tells of an error.
    pub(in crate::nbd) const ERROR: u16 = 1 << 15;
}

/// What the server says of a request that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerError {
    /// "Error values".
    pub(super) number: u32,
    /// Its own words, fit for a terminal.
    pub(super) message: Option<String>,
}

/// "Error values".
pub(super) mod error_value {
    pub(in crate::nbd) const EPERM: u32 = 1;
    pub(in crate::nbd) const EINVAL: u32 = 22;
    pub(in crate::nbd) const ENOSPC: u32 = 28;
    pub(in crate::nbd) const EOVERFLOW: u32 = 75;
    pub(in crate::nbd) const ENOTSUP: u32 = 95;
    pub(in crate::nbd) const ESHUTDOWN: u32 = 108;
}

/// The payload of an error chunk.
pub(super) fn error_chunk(payload: &[u8]) -> Result<ServerError> {
    let number = field::u32_be(payload, 0)?;
    if number == 0 {
        return Err(Violation::NoError);
    }
    let length = usize::from(field::u16_be(payload, 4)?);
    let message = printable(field::bytes_at(payload, 6, length)?);
    Ok(ServerError {
        number,
        message: Some(message).filter(|message| !message.is_empty()),
    })
}

/// A server's text for a terminal: what could move its cursor is replaced, and long ones are cut.
pub(super) fn printable(text: &[u8]) -> String {
    const MOST: usize = 400;
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end_matches(['\0', '\n', '\r']);
    let plain = |character: char| {
        if character.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            character
        }
    };
    text.chars().take(MOST).map(plain).collect()
}

/// A run of the export in `base:allocation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) length: u32,
    /// `NBD_STATE_ZERO` reads as zeros, `NBD_STATE_HOLE` takes no space.
    pub(super) zero: bool,
    pub(super) hole: bool,
}

/// One block descriptor of 8 bytes.
pub(super) fn run(bytes: &[u8]) -> Result<Run> {
    let length = field::u32_be(bytes, 0)?;
    let flags = field::u32_be(bytes, 4)?;
    if length == 0 {
        return Err(Violation::EmptyRun);
    }
    Ok(Run {
        length,
        zero: flags & 2 != 0,
        hole: flags & 1 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_tells_the_style() {
        let mut bytes = *b"NBDMAGICIHAVEOPT";
        assert_eq!(greeting(&bytes), Ok(Style::New));
        bytes[8..].copy_from_slice(&[0, 0, 0x42, 2, 0x81, 0x86, 0x12, 0x53]);
        assert_eq!(greeting(&bytes), Ok(Style::Old));
        bytes[15] = 0;
        assert_eq!(greeting(&bytes), Err(Violation::SecondMagic(0x4202_8186_1200)));
        assert!(matches!(
            greeting(b"SSH-2.0-OpenSSH_"),
            Err(Violation::Greeting(_))
        ));
    }

    #[test]
    fn a_request_is_28_bytes_in_network_order() {
        let request = Request {
            command: Command::WriteZeroes,
            flags: command_flag::FAST_ZERO,
            offset: 0x0102_0304_0506_0708,
            length: 0x0a0b_0c0d,
        };
        let bytes = request.encode(9);
        assert_eq!(bytes[..8], [0x25, 0x60, 0x95, 0x13, 0, 16, 0, 6]);
        assert_eq!(bytes[8..16], [0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(bytes[16..], [1, 2, 3, 4, 5, 6, 7, 8, 0x0a, 0x0b, 0x0c, 0x0d]);
    }

    #[test]
    fn an_option_reply_must_answer_and_be_short() {
        let reply = |option: u32, kind: u32, length: u32| {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
            bytes[8..12].copy_from_slice(&option.to_be_bytes());
            bytes[12..16].copy_from_slice(&kind.to_be_bytes());
            bytes[16..].copy_from_slice(&length.to_be_bytes());
            option_reply(&bytes, 7)
        };
        assert_eq!(reply(7, 3, 12), Ok((OptionReply::Info, 12)));
        assert_eq!(reply(7, 0x8000_0001, 0), Ok((OptionReply::Unsupported, 0)));
        assert_eq!(reply(7, 0x8000_0007, 3), Ok((OptionReply::Error(7), 3)));
        assert!(reply(8, 3, 12).is_err());
        assert!(reply(7, 5, 12).is_err());
        assert!(reply(7, 3, 16385).is_err());
    }

    #[test]
    fn block_sizes_must_make_sense() {
        let info = |minimum: u32, preferred: u32, maximum: u32| {
            let mut bytes = vec![0, 3];
            for size in [minimum, preferred, maximum] {
                bytes.extend(size.to_be_bytes());
            }
            information(&bytes)
        };
        let sizes = BlockSizes {
            minimum: 1,
            maximum: u32::MAX,
        };
        assert_eq!(info(1, 4096, u32::MAX), Ok(Information::BlockSizes(sizes)));
        for (minimum, preferred, maximum) in [
            (0, 4096, 1 << 20),
            (3, 4096, 1 << 20),
            (1 << 17, 1 << 17, 1 << 20),
            (4096, 512, 1 << 20),
            (1, 4096, 512),
            (1, 256, 1 << 20),
        ] {
            assert!(
                info(minimum, preferred, maximum).is_err(),
                "{minimum} {preferred} {maximum}"
            );
        }
        assert!(information(&[0, 3, 0, 0]).is_err());
        assert_eq!(information(&[0, 9]), Ok(Information::Other));
    }

    #[test]
    fn an_error_chunk_has_a_number_and_words_for_a_terminal() {
        let error = error_chunk(b"\0\0\0\x05\0\x09bad\x1b[2Jx\0rest").unwrap();
        assert_eq!(error.number, 5);
        assert_eq!(error.message.as_deref(), Some("bad\u{fffd}[2Jx"));
        assert_eq!(error_chunk(&[0, 0, 0, 5, 0, 0]).unwrap().message, None);
        assert!(error_chunk(&[0, 0, 0, 0, 0, 0]).is_err());
        assert!(error_chunk(&[0, 0, 0, 5, 0, 1]).is_err());
    }
}
