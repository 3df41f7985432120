//! One connection, shared by many threads: each has a request under way, and answers come in any order.
//!
//! There is no thread that only listens. One of those that wait reads the next header, and hands the stream to the one
//! whose answer it is, which reads its own bytes straight into its own buffer.

use super::{
    handshake::{Export, Refusal, handshake},
    protocol::{
        Command, LONG_HEADER, ReplyHeader, Request, SHORT_HEADER, ServerError, Violation, is_long,
        reply_header,
    },
    reply::{Answer, Broken, Reply},
    stream::{Patience, Stream, fill, send},
};
use std::{
    collections::BTreeMap,
    fmt,
    io::{BufReader, Read, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// Why a request was not carried out.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The server says so; others may go well.
    Server(ServerError),
    /// The connection is of no more use.
    Broken(String),
}

/// A connection whose negotiation is over.
pub(super) struct Connection {
    patience: Patience,
    structured: bool,
    outgoing: Mutex<Box<dyn Write + Send>>,
    incoming: Mutex<Incoming>,
    under_way: AtomicUsize,
}

struct Incoming {
    /// `None`: somebody reads.
    stream: Option<Source>,
    /// A header that was read and waits for the thread whose answer it begins.
    header: Option<ReplyHeader>,
    /// By cookie: who has something to come.
    waiting: BTreeMap<u64, Waiter>,
    next_cookie: u64,
    broken: Option<String>,
}

#[derive(Default)]
struct Waiter {
    wake: Arc<Condvar>,
    /// It sleeps; if not, it still sends, or is about to look by itself.
    asleep: bool,
}

type Source = BufReader<Box<dyn Read + Send>>;

/// Headers are read together with what follows them; long payloads pass by this buffer.
const BUFFER: usize = 16384;

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("under_way", &self.under_way)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Negotiates on `stream` for the export called `name`.
    pub(super) fn open(
        stream: Box<dyn Stream>,
        name: &str,
        patience: Patience,
    ) -> Result<(Self, Export), Refusal> {
        let mut halves = stream.halves()?;
        let export = handshake(&mut halves, name, Instant::now() + patience.handshake)?;
        let incoming = Incoming {
            stream: Some(BufReader::with_capacity(BUFFER, halves.incoming)),
            header: None,
            waiting: BTreeMap::new(),
            next_cookie: 1,
            broken: None,
        };
        let connection = Self {
            patience,
            structured: export.structured,
            outgoing: Mutex::new(halves.outgoing),
            incoming: Mutex::new(incoming),
            under_way: AtomicUsize::new(0),
        };
        Ok((connection, export))
    }

    /// How many requests are waited for.
    pub(super) fn load(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Carries out one request: sends it, with `payload` if it writes, and waits for its answer.
    pub(super) fn carry_out(
        &self,
        request: Request,
        payload: &[u8],
        answer: Answer<'_>,
    ) -> Result<(), Failure> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let outcome = self.send_and_wait(request, payload, answer);
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        outcome
    }

    fn send_and_wait(&self, request: Request, payload: &[u8], answer: Answer<'_>) -> Result<(), Failure> {
        let waiter = Waiter::default();
        let wake = waiter.wake.clone();
        let cookie = {
            let mut incoming = self.lock();
            if let Some(broken) = &incoming.broken {
                return Err(Failure::Broken(broken.clone()));
            }
            let cookie = incoming.next_cookie;
            incoming.next_cookie = cookie.wrapping_add(1);
            incoming.waiting.insert(cookie, waiter);
            cookie
        };
        let sent = {
            let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
            let deadline = Instant::now() + self.patience.answer;
            send(&mut **outgoing, &request.encode(cookie), payload, deadline)
        };
        if let Err(error) = sent {
            // Half a request may have gone out: nothing that follows would be understood.
            return Err(self.break_off(&error.into()));
        }
        self.wait(cookie, &wake, Reply::new(answer, self.structured))
    }

    /// Waits until the answer to `cookie` is complete, and reads for everybody meanwhile.
    fn wait(&self, cookie: u64, wake: &Condvar, mut reply: Reply<'_>) -> Result<(), Failure> {
        let mut incoming = self.lock();
        loop {
            if let Some(broken) = &incoming.broken {
                return Err(Failure::Broken(broken.clone()));
            }
            let mine = match incoming.header {
                Some(header) if header.cookie == cookie => Some(header),
                // Another thread has been woken for it.
                Some(_) => {
                    incoming = sleep(incoming, cookie, wake);
                    continue;
                }
                None => None,
            };
            let Some(mut stream) = incoming.stream.take() else {
                incoming = sleep(incoming, cookie, wake);
                continue;
            };
            incoming.header = None;
            drop(incoming);
            let deadline = Instant::now() + self.patience.answer;
            let step = match mine {
                Some(header) => reply
                    .take(header.kind, &mut stream, deadline)
                    .map(|done| (done, None)),
                None => next_header(&mut stream, deadline).map(|header| (false, Some(header))),
            };
            incoming = self.lock();
            let (done, header) = match step {
                Ok(step) => step,
                Err(broken) => {
                    drop(incoming);
                    return Err(self.break_off(&broken));
                }
            };
            incoming.stream = Some(stream);
            if done {
                incoming.waiting.remove(&cookie);
                // Somebody else goes on reading: one who sleeps, since one who still sends may be held up until
                // somebody reads.
                if let Some(next) = incoming.waiting.values().find(|waiter| waiter.asleep) {
                    next.wake.notify_one();
                }
                drop(incoming);
                return reply.outcome().map_err(Failure::Server);
            }
            let Some(header) = header else {
                continue;
            };
            match incoming.waiting.get(&header.cookie) {
                Some(owner) => {
                    owner.wake.notify_one();
                    incoming.header = Some(header);
                }
                None => {
                    drop(incoming);
                    return Err(self.break_off(&Violation::Cookie(header.cookie).into()));
                }
            }
        }
    }

    /// Nobody gets an answer any more.
    fn break_off(&self, broken: &Broken) -> Failure {
        let mut incoming = self.lock();
        let text = incoming.broken.get_or_insert_with(|| broken.to_string()).clone();
        for waiter in incoming.waiting.values() {
            waiter.wake.notify_one();
        }
        Failure::Broken(text)
    }

    fn lock(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sleeps until it is woken for its answer, for reading, or because all is over.
fn sleep<'a>(
    mut incoming: MutexGuard<'a, Incoming>,
    cookie: u64,
    wake: &Condvar,
) -> MutexGuard<'a, Incoming> {
    let asleep = |incoming: &mut Incoming, asleep| {
        if let Some(waiter) = incoming.waiting.get_mut(&cookie) {
            waiter.asleep = asleep;
        }
    };
    asleep(&mut incoming, true);
    incoming = wake.wait(incoming).unwrap_or_else(PoisonError::into_inner);
    asleep(&mut incoming, false);
    incoming
}

fn next_header(stream: &mut Source, deadline: Instant) -> Result<ReplyHeader, Broken> {
    let mut short = [0; SHORT_HEADER];
    fill(stream, &mut short, deadline)?;
    if !is_long(&short)? {
        return Ok(reply_header(&short)?);
    }
    let mut rest = [0; LONG_HEADER - SHORT_HEADER];
    fill(stream, &mut rest, deadline)?;
    Ok(reply_header(&[&short[..], &rest[..]].concat())?)
}

impl Drop for Connection {
    /// "Terminating the transmission phase": softly, unless it is too late for that.
    fn drop(&mut self) {
        if self.lock().broken.is_some() {
            return;
        }
        let goodbye = Request {
            command: Command::Disconnect,
            flags: 0,
            offset: 0,
            length: 0,
        };
        let outgoing = self.outgoing.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Whether it arrives makes no difference.
        let _ = send(&mut **outgoing, &goodbye.encode(0), &[], Instant::now());
    }
}
