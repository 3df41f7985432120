//! From the first byte of a connection to the first request: "Handshake" in `doc/proto.md`. Newstyle, fixed or not, and
//! oldstyle servers.

use super::{
    protocol::{
        ALLOCATION, BlockSizes, Information, OptionReply, Size, Style, Violation, go_data, greeting,
        handshake_flag, information, meta_context, meta_context_data, oldstyle_size_and_flags, option,
        option_reply, option_request, printable, server_name, size_and_flags,
    },
    stream::{Halves, discard, fill, send},
};
use std::{
    io::{self, Write},
    time::Instant,
};
use thiserror::Error;

/// An export, and what was agreed about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Size in bytes and transmission flags.
    pub(super) size: Size,
    /// What requests must fit, where the server says it.
    pub(super) blocks: Option<BlockSizes>,
    /// Reads are answered in chunks.
    pub(super) structured: bool,
    /// Number of the context `base:allocation`, where the server has it.
    pub(super) allocation: Option<u32>,
}

/// Why no export was agreed on.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the server breaks the protocol: {0}")]
    Violation(#[from] Violation),
    #[error(
        "the server wants TLS, which is not spoken here: carry the connection through ssh, or let it serve this export \
         without TLS on a socket of its host"
    )]
    Tls,
    #[error("the server has no export \"{name}\"{}", has(.others))]
    Unknown { name: String, others: Vec<String> },
    #[error(
        "the server has closed the connection when it was asked for the export \"{0}\": probably it has none of that name"
    )]
    Closed(String),
    #[error("the server refuses the export \"{name}\" (answer {answer}){}{message}", if .message.is_empty() { "" } else { ": " })]
    Refused {
        name: String,
        answer: u32,
        message: String,
    },
    #[error("an oldstyle server has one export without a name, not \"{0}\"")]
    Oldstyle(String),
}

fn has(others: &[String]) -> String {
    if others.is_empty() {
        return String::new();
    }
    let names: Vec<String> = others.iter().map(|name| format!("\"{name}\"")).collect();
    format!("; it has: {}", names.join(", "))
}

type Result<T> = std::result::Result<T, Refusal>;

/// More answers to one option than any server needs; one with more exports still has the one that is wanted.
const MOST_REPLIES: u32 = 1000;

/// Exports that an error names.
const MOST_NAMES: usize = 16;

/// Zeros after the answer to `NBD_OPT_EXPORT_NAME` and in an oldstyle greeting.
const PADDING: u64 = 124;

/// Agrees with the server on the export called `name`.
pub(super) fn handshake(halves: &mut Halves, name: &str, deadline: Instant) -> Result<Export> {
    let mut talk = Talk { halves, deadline };
    let style = greeting(&talk.receive()?)?;
    if style == Style::Old {
        let size = oldstyle_size_and_flags(&talk.receive::<12>()?)?;
        talk.discard(PADDING)?;
        if !name.is_empty() {
            return Err(Refusal::Oldstyle(name.to_owned()));
        }
        return Ok(plain_export(size));
    }
    let offered = u16::from_be_bytes(talk.receive()?);
    let agreed = offered & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
    talk.send(&u32::from(agreed).to_be_bytes())?;
    if agreed & handshake_flag::FIXED_NEWSTYLE == 0 {
        return talk.export_name(name, agreed);
    }
    let structured = talk.structured_replies()?;
    let allocation = if structured { talk.allocation(name)? } else { None };
    match talk.go(name) {
        Ok(Some((size, blocks))) => Ok(Export {
            size,
            blocks,
            structured,
            allocation,
        }),
        Ok(None) => Ok(Export {
            structured,
            allocation,
            ..talk.export_name(name, agreed)?
        }),
        Err(error) => {
            // "Termination of the session during option haggling". Whether it arrives makes no difference.
            let _ = talk.send(&option_request(option::ABORT, &[]));
            Err(error)
        }
    }
}

fn plain_export(size: Size) -> Export {
    Export {
        size,
        blocks: None,
        structured: false,
        allocation: None,
    }
}

struct Talk<'a> {
    halves: &'a mut Halves,
    deadline: Instant,
}

impl Talk<'_> {
    fn receive<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        fill(&mut *self.halves.incoming, &mut bytes, self.deadline)?;
        Ok(bytes)
    }

    fn discard(&mut self, length: u64) -> Result<()> {
        Ok(discard(&mut *self.halves.incoming, length, self.deadline)?)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let outgoing: &mut dyn Write = &mut *self.halves.outgoing;
        Ok(send(outgoing, bytes, &[], self.deadline)?)
    }

    /// Sends an option and calls `each` with every reply until it says that this was the last.
    fn ask(
        &mut self,
        number: u32,
        data: &[u8],
        mut each: impl FnMut(OptionReply, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        self.send(&option_request(number, data))?;
        for _ in 0..MOST_REPLIES {
            let (reply, length) = option_reply(&self.receive()?, number)?;
            let mut payload = vec![0; length];
            fill(&mut *self.halves.incoming, &mut payload, self.deadline)?;
            if reply == OptionReply::TlsRequired {
                return Err(Refusal::Tls);
            }
            if each(reply, &payload)? {
                return Ok(());
            }
        }
        Err(Violation::OptionReplies(number).into())
    }

    /// `NBD_OPT_STRUCTURED_REPLY`: whoever does not know it, or does not want it, has simple replies.
    fn structured_replies(&mut self) -> Result<bool> {
        let mut agreed = false;
        self.ask(option::STRUCTURED_REPLY, &[], |reply, _| {
            agreed = reply == OptionReply::Ack;
            Ok(true)
        })?;
        Ok(agreed)
    }

    /// `NBD_OPT_SET_META_CONTEXT` for the map of the export. An error is no reason not to read it: the map is then
    /// all data.
    fn allocation(&mut self, name: &str) -> Result<Option<u32>> {
        let mut context = None;
        self.ask(
            option::SET_META_CONTEXT,
            &meta_context_data(name),
            |reply, payload| match reply {
                OptionReply::MetaContext => {
                    let (number, name) = meta_context(payload)?;
                    if name == ALLOCATION.as_bytes() {
                        context = Some(number);
                    }
                    Ok(false)
                }
                OptionReply::Ack => Ok(true),
                _ => {
                    context = None;
                    Ok(true)
                }
            },
        )?;
        Ok(context)
    }

    /// `NBD_OPT_GO`. `None`: the server does not know it.
    fn go(&mut self, name: &str) -> Result<Option<(Size, Option<BlockSizes>)>> {
        let mut export = None;
        let mut blocks = None;
        let mut known = true;
        let mut unknown = false;
        self.ask(option::GO, &go_data(name), |reply, payload| match reply {
            OptionReply::Info => {
                match information(payload)? {
                    Information::Export(size) => export = Some(size),
                    Information::BlockSizes(sizes) => blocks = Some(sizes),
                    Information::Other => {}
                }
                Ok(false)
            }
            OptionReply::Ack => Ok(true),
            OptionReply::Unsupported => {
                known = false;
                Ok(true)
            }
            OptionReply::Unknown => {
                unknown = true;
                Ok(true)
            }
            OptionReply::Error(answer) => Err(Refusal::Refused {
                name: name.to_owned(),
                answer,
                message: printable(payload),
            }),
            OptionReply::Server | OptionReply::MetaContext | OptionReply::TlsRequired => {
                Err(Violation::OptionReplies(option::GO).into())
            }
        })?;
        if unknown {
            return Err(Refusal::Unknown {
                name: name.to_owned(),
                others: self.exports(),
            });
        }
        if !known {
            return Ok(None);
        }
        let size = export.ok_or(Violation::NoExport)?;
        Ok(Some((size, blocks)))
    }

    /// `NBD_OPT_LIST`, for an error to name. A server may keep its exports to itself.
    fn exports(&mut self) -> Vec<String> {
        let mut names = Vec::new();
        // What came before a list broke off is worth naming.
        let _ = self.ask(option::LIST, &[], |reply, payload| {
            if reply != OptionReply::Server {
                return Ok(true);
            }
            let name = printable(server_name(payload)?);
            if names.len() < MOST_NAMES {
                names.push(name);
            }
            Ok(false)
        });
        names
    }

    /// `NBD_OPT_EXPORT_NAME`, to which a server that does not have it answers by closing the connection.
    fn export_name(&mut self, name: &str, agreed: u16) -> Result<Export> {
        self.send(&option_request(option::EXPORT_NAME, name.as_bytes()))?;
        let size = match self.receive::<10>() {
            Err(Refusal::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(Refusal::Closed(name.to_owned()));
            }
            received => size_and_flags(&received?)?,
        };
        if agreed & handshake_flag::NO_ZEROES == 0 {
            self.discard(PADDING)?;
        }
        Ok(plain_export(size))
    }
}
