//! `--rate-limit`: a token bucket.
//!
//! The bucket is kept as the time at which it will be full again (the generic cell rate algorithm): one number instead of
//! a level and a time, and no rounding that adds up.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// So much may come at once after a rest: short enough that nobody who shares the line notices.
const BURST: Duration = Duration::from_millis(100);

/// Lets through so many bytes in a second.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: u64,
    /// When all that was let through so far is paid for, by the clock of the caller.
    paid_at: Mutex<Duration>,
}

impl Throttle {
    /// `bytes_per_second` of 0 would never let anything through: it counts as 1.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            paid_at: Mutex::default(),
        }
    }

    /// `bytes` have been moved at `now`: gives the time until which whoever moved them has to rest.
    pub fn charge(&self, bytes: u64, now: Duration) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let from = (*paid_at).max(now.saturating_sub(BURST));
        *paid_at = from.saturating_add(cost);
        *paid_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_second_lets_through_what_was_said() {
        let throttle = Throttle::new(100);
        let begun = 50 * SECOND;
        // The first bytes use up the burst.
        let mut now = begun;
        let mut moved = 0;
        while now < begun + 10 * SECOND {
            now = now.max(throttle.charge(7, now));
            moved += 7;
        }
        assert!((1000..=1017).contains(&moved), "{moved}");
    }

    #[test]
    fn threads_share_one_bucket() {
        let throttle = Throttle::new(1000);
        let now = 5 * SECOND;
        // Four threads move one second's worth each at the same moment: the last is to rest nearly four seconds.
        let rests: Vec<Duration> = (0..4).map(|_| throttle.charge(1000, now) - now).collect();
        assert_eq!(rests.last(), Some(&(4 * SECOND - BURST)));
        assert!(rests.is_sorted());
    }

    #[test]
    fn a_rest_is_not_saved_up() {
        let throttle = Throttle::new(1000);
        throttle.charge(1, SECOND);
        let later = 1000 * SECOND;
        assert_eq!(throttle.charge(1000, later), later + SECOND - BURST);
    }

    #[test]
    fn extremes_neither_panic_nor_pass_for_nothing() {
        let slow = Throttle::new(0);
        assert!(slow.charge(u64::MAX, SECOND) > 1_000_000_000 * SECOND);
        let fast = Throttle::new(u64::MAX);
        assert_eq!(fast.charge(1 << 20, SECOND), SECOND - BURST);
    }
}
