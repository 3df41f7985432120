//! What holds a copy back: a rate, and hours of the day.

use super::{
    throttle::Throttle,
    window::{TimeOfDay, Windows},
};
use crate::{disk::Result, watch::Watch};
use std::{
    fmt::Debug,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Where a [`Brake`] gets the time from.
pub trait Clock: Debug + Send + Sync {
    /// Never goes back, whoever sets the clock.
    fn elapsed(&self) -> Duration;
    /// What the clock on the wall shows.
    fn time_of_day(&self) -> TimeOfDay;
    /// Waits.
    fn sleep(&self, time: Duration);
}

/// The clock of this host, in its time zone (`TZ`, `/etc/localtime`; UTC where there is neither).
#[derive(Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn time_of_day(&self) -> TimeOfDay {
        let now = jiff::ZonedDateTime::now();
        let part = |part: i8| u32::try_from(part).unwrap_or(0);
        TimeOfDay::new(part(now.hour()), part(now.minute()), part(now.second()))
    }

    fn sleep(&self, time: Duration) {
        thread::sleep(time);
    }
}

/// Holds back every thread of a copy that asks it. One brake serves all disks of a job.
#[derive(Debug)]
pub struct Brake {
    throttle: Option<Throttle>,
    windows: Windows,
    clock: Box<dyn Clock>,
    /// What is copied before a pause survives whatever happens in it.
    lasting: bool,
    /// Somebody has said that the copy pauses.
    paused: AtomicBool,
    /// Held while that is said.
    saying: Mutex<()>,
}

/// Between two looks at whether the job was cancelled.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);

/// Between two looks at the clock on the wall: it may be set, and the host may have slept.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

impl Brake {
    /// `rate` in bytes per second. Whoever cannot go on with a broken copy should say so: [`Brake::without_a_second_time`].
    pub fn new(rate: Option<u64>, windows: Windows, clock: Box<dyn Clock>) -> Self {
        Self {
            throttle: rate.map(Throttle::new),
            windows,
            clock,
            lasting: true,
            paused: AtomicBool::new(false),
            saying: Mutex::default(),
        }
    }

    /// Is there more than hours to keep to?
    pub(super) fn has_rate(&self) -> bool {
        self.throttle.is_some()
    }

    /// Of a copy that cannot be gone on with after a break, or not after every one: nobody is told that it is safe.
    #[must_use]
    pub fn without_a_second_time(self) -> Self {
        Self {
            lasting: false,
            ..self
        }
    }

    /// `bytes` were moved: until when their mover has to rest.
    pub(super) fn charge(&self, bytes: u64) -> Duration {
        match &self.throttle {
            Some(throttle) if bytes > 0 => throttle.charge(bytes, self.clock.elapsed()),
            _ => Duration::ZERO,
        }
    }

    /// Returns when `rest_until` is reached and a window is open, or when `stopped` says so. `make_lasting` is called before
    /// a pause of hours.
    pub(super) fn wait(
        &self,
        rest_until: Duration,
        watch: &dyn Watch,
        stopped: &dyn Fn() -> bool,
        make_lasting: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut lasting = false;
        while !stopped() {
            let closed = !self.windows.is_empty() && !self.windows.contain(self.clock.time_of_day());
            if closed {
                if !lasting {
                    make_lasting()?;
                    lasting = true;
                }
                self.say_once(true, watch);
                self.clock.sleep(LONGEST_LOOK);
                continue;
            }
            if self.paused.load(Ordering::Acquire) {
                self.say_once(false, watch);
            }
            let left = rest_until.saturating_sub(self.clock.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            self.clock.sleep(left.min(SHORTEST_LOOK));
        }
        Ok(())
    }

    /// Of many threads that pause or go on, one says so.
    fn say_once(&self, pausing: bool, watch: &dyn Watch) {
        let _one = self.saying.lock().unwrap_or_else(PoisonError::into_inner);
        if self.paused.swap(pausing, Ordering::AcqRel) == pausing {
            return;
        }
        let now = self.clock.time_of_day();
        if !pausing {
            watch.say(&format!("it is {now}: going on"));
            return;
        }
        let next = self.windows.next(now).unwrap_or(now);
        let safe = if self.lasting {
            "; all that is copied so far is safe"
        } else {
            ""
        };
        watch.say(&format!(
            "it is {now}, outside {}: pausing until {next}{safe}",
            self.windows
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Error, Kind};
    use std::sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    };

    /// Time passes only while somebody sleeps.
    #[derive(Clone, Debug, Default)]
    struct FakeClock(Arc<AtomicU64>);

    impl FakeClock {
        fn at(hour: u64, minute: u64) -> Self {
            Self(Arc::new(AtomicU64::new((hour * 60 + minute) * 60_000)))
        }
    }

    impl Clock for FakeClock {
        fn elapsed(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::SeqCst))
        }
        fn time_of_day(&self) -> TimeOfDay {
            let seconds = u32::try_from(self.elapsed().as_secs() % 86_400).unwrap();
            TimeOfDay::new(seconds / 3600, seconds / 60 % 60, seconds % 60)
        }
        fn sleep(&self, time: Duration) {
            self.0.fetch_add(time.as_millis().max(1) as u64, Ordering::SeqCst);
        }
    }

    #[derive(Default)]
    struct Listening(Mutex<Vec<String>>);

    impl Watch for Listening {
        fn stage(&self, _name: &str, _bytes: u64) {}
        fn advance(&self, _bytes: u64) {}
        fn cancelled(&self) -> bool {
            false
        }
        fn say(&self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }

    fn night() -> Windows {
        Windows::new(vec!["22:00-05:00".parse().unwrap()])
    }

    #[test]
    fn outside_its_window_a_copy_pauses_once_it_is_safe_and_says_so() {
        let clock = FakeClock::at(5, 1);
        let brake = Brake::new(None, night(), Box::new(clock.clone()));
        let watch = Listening::default();
        let lasting = AtomicUsize::new(0);
        let make_lasting = || {
            lasting.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        brake
            .wait(Duration::ZERO, &watch, &|| false, &make_lasting)
            .unwrap();
        assert_eq!(clock.time_of_day().to_string(), "22:00");
        brake
            .wait(Duration::ZERO, &watch, &|| false, &make_lasting)
            .unwrap();
        assert_eq!(lasting.load(Ordering::SeqCst), 1);
        assert_eq!(
            *watch.0.lock().unwrap(),
            [
                "it is 05:01, outside 22:00-05:00: pausing until 22:00; all that is copied so far is safe",
                "it is 22:00: going on"
            ]
        );
    }

    #[test]
    fn what_cannot_be_gone_on_with_is_not_called_safe() {
        let brake = Brake::new(None, night(), Box::new(FakeClock::at(5, 1))).without_a_second_time();
        let watch = Listening::default();
        brake.wait(Duration::ZERO, &watch, &|| false, &|| Ok(())).unwrap();
        assert_eq!(
            *watch.0.lock().unwrap(),
            [
                "it is 05:01, outside 22:00-05:00: pausing until 22:00",
                "it is 22:00: going on"
            ]
        );
    }

    #[test]
    fn a_rate_is_kept_to_and_a_stop_ends_every_wait() {
        let clock = FakeClock::at(23, 0);
        let begun = clock.elapsed();
        let brake = Brake::new(Some(1 << 20), night(), Box::new(clock.clone()));
        let mut rest = Duration::ZERO;
        for _ in 0..60 {
            brake
                .wait(rest, &Listening::default(), &|| false, &|| Ok(()))
                .unwrap();
            rest = brake.charge(1 << 20);
        }
        brake
            .wait(rest, &Listening::default(), &|| false, &|| Ok(()))
            .unwrap();
        let taken = (clock.elapsed() - begun).as_secs_f64();
        assert!((59.8..60.2).contains(&taken), "{taken}");

        let rest = brake.charge(1 << 40);
        let before = clock.elapsed();
        let stopped = || clock.elapsed() > before + Duration::from_secs(3);
        brake
            .wait(rest, &Listening::default(), &stopped, &|| Ok(()))
            .unwrap();
        assert!(clock.elapsed() < before + Duration::from_secs(4));
    }

    #[test]
    fn a_checkpoint_that_fails_before_a_pause_stops_the_copy() {
        let brake = Brake::new(None, night(), Box::new(FakeClock::at(12, 0)));
        let full = || Err(Error::new(Kind::Full, "out", "no space is left"));
        let error = brake
            .wait(Duration::ZERO, &Listening::default(), &|| false, &full)
            .unwrap_err();
        assert_eq!(error.kind, Kind::Full);
    }

    #[test]
    fn the_hosts_clock_gives_a_time_of_day() {
        assert!(SystemClock::default().time_of_day().seconds() < 86_400);
    }
}
