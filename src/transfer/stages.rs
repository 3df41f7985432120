//! The stages of a job: said to who watches, and timed for the report.

use crate::{output::StageTime, watch::Watch};
use std::time::Instant;

/// Times one stage after the other.
pub(crate) struct Stages<'a> {
    watch: &'a dyn Watch,
    done: Vec<StageTime>,
    current: Option<(String, Instant)>,
}

impl<'a> Stages<'a> {
    /// No stage has begun.
    pub(crate) fn new(watch: &'a dyn Watch) -> Self {
        Self {
            watch,
            done: Vec::new(),
            current: None,
        }
    }

    /// Who watches.
    pub(crate) fn watch(&self) -> &'a dyn Watch {
        self.watch
    }

    /// The last stage has ended and `name` begins, which will move `bytes` (0: unknown).
    pub(crate) fn begin(&mut self, name: &str, bytes: u64) {
        self.close();
        self.watch.stage(name, bytes);
        self.current = Some((name.to_owned(), Instant::now()));
    }

    /// All have ended. Stages of one name (one for each disk) are added up.
    pub(crate) fn end(&mut self) -> Vec<StageTime> {
        self.close();
        std::mem::take(&mut self.done)
    }

    fn close(&mut self) {
        let Some((stage, began)) = self.current.take() else {
            return;
        };
        let seconds = began.elapsed().as_secs_f64();
        match self.done.iter_mut().find(|time| time.stage == stage) {
            Some(time) => time.seconds += seconds,
            None => self.done.push(StageTime { stage, seconds }),
        }
    }
}
