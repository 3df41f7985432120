//! The byte stream under the protocol: a socket, or whatever else has two directions.

use super::address::{Address, Transport};
use crate::disk::{Error, Kind, Result};
use std::{
    fmt::Debug,
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// A byte stream to a server.
pub trait Stream: Debug + Send {
    /// The two directions, which two threads may use at once. A read or write that cannot go on for a while may end
    /// with `WouldBlock` or `TimedOut`: it is tried again until patience ends. One that can block for ever makes the
    /// client block for ever.
    fn halves(self: Box<Self>) -> io::Result<Halves>;
}

/// The directions of a [`Stream`].
pub struct Halves {
    /// From the server.
    pub incoming: Box<dyn Read + Send>,
    /// To the server.
    pub outgoing: Box<dyn Write + Send>,
}

impl Stream for TcpStream {
    fn halves(self: Box<Self>) -> io::Result<Halves> {
        // Requests are small and somebody waits for each.
        self.set_nodelay(true)?;
        self.set_read_timeout(Some(TICK))?;
        self.set_write_timeout(Some(TICK))?;
        Ok(Halves {
            incoming: Box::new(self.try_clone()?),
            outgoing: self,
        })
    }
}

impl Stream for UnixStream {
    fn halves(self: Box<Self>) -> io::Result<Halves> {
        self.set_read_timeout(Some(TICK))?;
        self.set_write_timeout(Some(TICK))?;
        Ok(Halves {
            incoming: Box::new(self.try_clone()?),
            outgoing: self,
        })
    }
}

/// How often a socket that is waited for is looked at again.
const TICK: Duration = Duration::from_millis(250);

/// How long a server is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a connection to come about, at each of a server's addresses.
    pub connect: Duration,
    /// For the whole negotiation.
    pub handshake: Duration,
    /// For the next message while something is asked, and for a message that has begun to be complete. Long, since a
    /// server may have gigabytes to bring to a slow disk before it answers to a flush.
    pub answer: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            handshake: Duration::from_secs(30),
            answer: Duration::from_secs(300),
        }
    }
}

/// Connects to the server of `address`.
pub(super) fn connect(address: &Address, patience: Patience) -> Result<Box<dyn Stream>> {
    let failed = |error: io::Error| {
        let kind = match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Kind::NotFound,
            _ => Kind::Io,
        };
        let text = format!("no connection to the server: {error}; does it run, and does it listen there?");
        Error::new(kind, address.to_string(), text)
    };
    match &address.transport {
        Transport::Unix { socket } => Ok(Box::new(UnixStream::connect(socket).map_err(failed)?)),
        Transport::Tcp { host, port } => {
            let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
            for place in (host.as_str(), *port).to_socket_addrs().map_err(failed)? {
                match TcpStream::connect_timeout(&place, patience.connect) {
                    Ok(stream) => return Ok(Box::new(stream)),
                    Err(error) => last = error,
                }
            }
            Err(failed(last))
        }
    }
}

/// Is it only that nothing has come, or gone, yet?
fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn late(deadline: Instant, what: &str) -> io::Result<()> {
    if Instant::now() < deadline {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::TimedOut, what))
}

/// Fills `buffer` before `deadline`.
pub(super) fn fill(incoming: &mut dyn Read, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    let mut rest = buffer;
    while !rest.is_empty() {
        match incoming.read(rest) {
            Ok(0) => {
                return Err(io::Error::new(
                    ErrorKind::UnexpectedEof,
                    "the server has closed the connection",
                ));
            }
            Ok(count) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
        if !rest.is_empty() {
            late(deadline, "the server does not answer")?;
        }
    }
    Ok(())
}

/// Reads `length` bytes and drops them.
pub(super) fn discard(incoming: &mut dyn Read, length: u64, deadline: Instant) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut left = length;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        fill(incoming, buffer.get_mut(..count).unwrap_or_default(), deadline)?;
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

/// Writes all of `head`, then all of `body`, before `deadline`.
pub(super) fn send(outgoing: &mut dyn Write, head: &[u8], body: &[u8], deadline: Instant) -> io::Result<()> {
    let (mut head, mut body) = (head, body);
    while !head.is_empty() || !body.is_empty() {
        match outgoing.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
            Ok(0) => {
                return Err(io::Error::new(
                    ErrorKind::WriteZero,
                    "the server takes nothing any more",
                ));
            }
            Ok(count) => {
                let of_head = count.min(head.len());
                head = head.get(of_head..).unwrap_or_default();
                body = body.get(count.saturating_sub(of_head)..).unwrap_or_default();
            }
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
        if !head.is_empty() || !body.is_empty() {
            late(deadline, "the server does not take what is sent to it")?;
        }
    }
    outgoing.flush()
}
