//! What a person or a script sees while a job runs, on stderr; and Ctrl-C.

use crate::watch::Watch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    fs,
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Style {
    /// A bar on a terminal, nothing elsewhere.
    #[default]
    Auto,
    /// One JSON object per line on stderr: {"stage": …, "done": bytes, "of": bytes}, {"message": …}.
    Json,
    /// Nothing.
    None,
}

/// Draws a bar or writes JSON lines; carries the wish to stop.
#[derive(Debug)]
pub(crate) struct Progress {
    style: Style,
    bar: ProgressBar,
    cancelled: Arc<AtomicBool>,
    stage: Mutex<Stage>,
    done: AtomicU64,
}

#[derive(Debug)]
struct Stage {
    name: String,
    bytes: u64,
    told: Instant,
}

/// JSON lines come no more often than this.
const JSON_INTERVAL: Duration = Duration::from_millis(500);

impl Progress {
    /// Shows nothing yet. From now on SIGINT, SIGTERM and SIGHUP ask the job to stop; a second one stops it at once. Those
    /// that are ignored stay so: `nohup` and a shell's `&` have their reason.
    pub(crate) fn start(style: Style) -> io::Result<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let ignored = ignored_signals(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let wanted = [
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
        ];
        for signal in wanted.into_iter().filter(|signal| !is_in(ignored, *signal)) {
            signal_hook::flag::register_conditional_shutdown(signal, 130, cancelled.clone())?;
            signal_hook::flag::register(signal, cancelled.clone())?;
        }
        let target = if style == Style::Auto {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let stage = Mutex::new(Stage {
            name: String::new(),
            bytes: 0,
            told: Instant::now(),
        });
        Ok(Self {
            style,
            bar,
            cancelled,
            stage,
            done: AtomicU64::new(0),
        })
    }

    fn tell(&self, stage: &Stage) {
        let line = serde_json::json!({
            "stage": stage.name,
            "done": self.done.load(Ordering::Relaxed),
            "of": stage.bytes,
        });
        // A closed stderr is no reason to stop a copy.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

/// The mask of the signals that a process ignores, from its `status` (proc_pid_status(5)); none where it does not say.
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// Signal 1 is the lowest bit of a mask.
fn is_in(mask: u64, signal: i32) -> bool {
    let bit = u32::try_from(signal)
        .ok()
        .and_then(|signal| signal.checked_sub(1));
    bit.and_then(|bit| mask.checked_shr(bit))
        .is_some_and(|mask| mask & 1 == 1)
}

impl Watch for Progress {
    fn stage(&self, name: &str, bytes: u64) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *stage = Stage {
            name: name.to_owned(),
            bytes,
            told: Instant::now(),
        };
        self.done.store(0, Ordering::Relaxed);
        match self.style {
            Style::Json => self.tell(&stage),
            Style::Auto if bytes > 0 => {
                let template = "{msg:>12} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    self.bar.set_style(style);
                }
                self.bar.set_length(bytes);
                self.bar.set_position(0);
                self.bar.set_message(name.to_owned());
            }
            Style::Auto => {
                if let Ok(style) = ProgressStyle::with_template("{msg:>12}") {
                    self.bar.set_style(style);
                }
                self.bar.set_message(name.to_owned());
            }
            Style::None => {}
        }
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        match self.style {
            Style::Auto => self.bar.inc(bytes),
            Style::Json => {
                let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
                if stage.told.elapsed() >= JSON_INTERVAL {
                    stage.told = Instant::now();
                    self.tell(&stage);
                }
            }
            Style::None => {}
        }
    }

    fn say(&self, text: &str) {
        match self.style {
            // Beside the bar where there is one, and in any case on stderr: a log must show why nothing moves.
            Style::Auto if !self.bar.is_hidden() => self.bar.println(text),
            Style::Auto => drop(writeln!(io::stderr().lock(), "rehome: {text}")),
            Style::Json => {
                let line = serde_json::json!({ "message": text });
                drop(writeln!(io::stderr().lock(), "{line}"));
            }
            Style::None => {}
        }
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_found_in_the_status_of_a_process() {
        let status = "Name:\trehome\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000440\n";
        let mask = ignored_signals(status);
        assert!(is_in(mask, 1) && is_in(mask, 13));
        assert!(!is_in(mask, 2) && !is_in(mask, 15) && !is_in(mask, 0) && !is_in(mask, 65));
        for nothing in ["", "SigIgn:", "SigIgn:\tnone\n"] {
            assert_eq!(ignored_signals(nothing), 0);
        }
    }
}
