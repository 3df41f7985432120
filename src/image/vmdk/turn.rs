//! Who writes next: ranges of a disk that arrive from many threads are taken in the order of the disk.

use super::flaw::Flaw;
use crate::disk::{Error, Kind, Result};
use std::{
    fmt,
    ops::Range,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Hands out turns, each with the state `S` that only who has the turn may change.
pub(super) struct Turns<S> {
    /// Of the file, for errors.
    label: String,
    /// Ranges begin and end on multiples of this, or at the end of the disk. In bytes.
    unit: u64,
    /// Of the disk, in bytes.
    size: u64,
    held: Mutex<Held<S>>,
    turn: Condvar,
}

struct Held<S> {
    /// The byte of the disk whose turn it is.
    next: u64,
    closed: Option<Closed>,
    state: S,
}

#[derive(Clone, Copy, Debug)]
enum Closed {
    Abandoned,
    Finished,
}

impl<S> Turns<S> {
    pub(super) fn new(label: &str, unit: u64, size: u64, state: S) -> Self {
        Self {
            label: label.to_owned(),
            unit,
            size,
            held: Mutex::new(Held {
                next: 0,
                closed: None,
                state,
            }),
            turn: Condvar::new(),
        }
    }

    /// Waits until everything before `range` has been taken, and does `act`. If that fails nobody gets a turn any more.
    pub(super) fn take<T>(&self, range: &Range<u64>, act: impl FnOnce(&mut S) -> Result<T>) -> Result<T> {
        let whole = range.start.is_multiple_of(self.unit)
            && (range.end.is_multiple_of(self.unit) || range.end == self.size);
        if !whole || range.end > self.size {
            let text = format!(
                "bytes {} to {} are not whole grains of a disk of {} bytes",
                range.start, range.end, self.size
            );
            return Err(self.error(Kind::OutOfRange, text));
        }
        let mut held = self.lock();
        loop {
            self.still_open(&held)?;
            if held.next == range.start {
                break;
            }
            if held.next > range.start {
                let text = format!("byte {} was written before", range.start);
                return Err(self.error(Kind::Exists, text));
            }
            held = self.turn.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        let result = act(&mut held.state);
        match result {
            Ok(_) => held.next = range.end,
            Err(_) => held.closed = Some(Closed::Abandoned),
        }
        drop(held);
        self.turn.notify_all();
        result
    }

    /// Does `act` between two turns, with the byte of the disk whose turn it is; after a failure too, since what had
    /// arrived before is worth keeping.
    pub(super) fn pause<T>(&self, act: impl FnOnce(u64, &mut S) -> Result<T>) -> Result<T> {
        let mut held = self.lock();
        if let Some(Closed::Finished) = held.closed {
            self.still_open(&held)?;
        }
        let next = held.next;
        act(next, &mut held.state)
    }

    /// Nobody gets a turn any more.
    pub(super) fn abandon(&self) {
        let mut held = self.lock();
        if held.closed.is_none() {
            held.closed = Some(Closed::Abandoned);
        }
        drop(held);
        self.turn.notify_all();
    }

    /// Does `act` after the last turn.
    pub(super) fn finish<T>(&self, act: impl FnOnce(&mut S) -> Result<T>) -> Result<T> {
        let mut held = self.lock();
        self.still_open(&held)?;
        if held.next != self.size {
            let text = format!("only {} of {} bytes have arrived", held.next, self.size);
            return Err(self.error(Kind::Io, text));
        }
        let result = act(&mut held.state)?;
        held.closed = Some(Closed::Finished);
        Ok(result)
    }

    /// The state, when nobody needs it any more.
    pub(super) fn into_state(self) -> S {
        self.held
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .state
    }

    fn lock(&self) -> MutexGuard<'_, Held<S>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: Kind, text: impl Into<String>) -> Error {
        Error::new(kind, &*self.label, text.into())
    }

    fn still_open(&self, held: &Held<S>) -> Result<()> {
        match held.closed {
            None => Ok(()),
            Some(Closed::Abandoned) => Err(self.error(Kind::Cancelled, "writing was abandoned")),
            Some(Closed::Finished) => Err(self.error(Kind::Io, "was finished already")),
        }
    }
}

impl<S> fmt::Debug for Turns<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Turns({:?}, {} bytes)", self.label, self.size)
    }
}

/// An earlier run cannot be gone on with.
pub(super) fn cannot_resume(label: &str, why: &str) -> Error {
    let text = format!("cannot be resumed: {why}. Convert again without --resume");
    Error::new(Kind::Unsafe, label, text)
}

/// There is nothing of an earlier run to keep.
pub(super) fn nothing_to_keep(label: &str) -> Error {
    let text = "was not opened to resume: there is nothing to keep";
    Error::new(Kind::Unsafe, label, text)
}

/// Entries count in sectors of 32 bits.
pub(super) fn entry_of(sector: u64, label: &str) -> Result<u32> {
    u32::try_from(sector).map_err(|_| {
        let text = "would become larger than the 2 TiB that a sparse VMDK can have: choose -o \
                    subformat=monolithicFlat or twoGbMaxExtentSparse";
        Flaw::CannotCreate(text.to_owned()).of(label)
    })
}
