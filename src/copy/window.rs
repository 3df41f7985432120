//! `--window 22:00-05:00`: the hours of the day in which a copy may load the machines.
//!
//! What counts is what a clock on the wall shows. In the night in which it is set forward a window that lies wholly in the
//! hour that does not exist does not open; in the night in which it is set back the hour that comes twice counts twice.
//! So nothing is ever copied at an hour that was not named.

use std::{fmt, str::FromStr};

/// A time of day, in seconds since the wall clock showed midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u32);

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;
const DAY: u32 = 24 * HOUR;

impl TimeOfDay {
    /// `hour` below 24, the others below 60; a leap second is the second before.
    pub fn new(hour: u32, minute: u32, second: u32) -> Self {
        Self((hour.min(23) * HOUR + minute.min(59) * MINUTE + second.min(59)) % DAY)
    }

    /// As seconds since midnight.
    pub fn seconds(self) -> u32 {
        self.0
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / HOUR, self.0 % HOUR / MINUTE)
    }
}

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("\"{text}\" is no time of day: 00:00 to 24:00");
        let (hour, minute) = text.trim().split_once(':').ok_or_else(wrong)?;
        let number = |digits: &str| -> Option<u32> {
            let plain = (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        };
        match (number(hour), number(minute)) {
            (Some(24), Some(0)) => Ok(Self(0)),
            (Some(hour @ 0..24), Some(minute @ 0..60)) => Ok(Self(hour * HOUR + minute * MINUTE)),
            _ => Err(wrong()),
        }
    }
}

/// From a time of day up to, not including, another; past midnight if that is the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    from: TimeOfDay,
    to: TimeOfDay,
}

impl Window {
    fn contains(self, time: TimeOfDay) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&time)
        } else {
            time >= self.from || time < self.to
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from, self.to)
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text
            .split_once('-')
            .ok_or_else(|| format!("\"{text}\" is no window: wanted FROM-TO, like 22:00-05:00"))?;
        let (from, to): (TimeOfDay, TimeOfDay) = (from.parse()?, to.parse()?);
        // 00:00-24:00 is all day, said on purpose; 08:00-08:00 may as well mean nothing.
        if from == to && !(from.0 == 0 && text.contains("24")) {
            return Err(format!(
                "\"{text}\" ends when it begins; for all day say no window at all"
            ));
        }
        Ok(Self { from, to })
    }
}

/// Some windows, which may overlap; none of them: always open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows(Vec<Window>);

impl Windows {
    /// Of these.
    pub fn new(windows: Vec<Window>) -> Self {
        Self(windows)
    }

    /// Is there anything to wait for, ever?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does one of them hold `time`?
    pub fn contain(&self, time: TimeOfDay) -> bool {
        self.0.is_empty() || self.0.iter().any(|window| window.contains(time))
    }

    /// The next time of day, from `time` on, at which one opens.
    pub fn next(&self, time: TimeOfDay) -> Option<TimeOfDay> {
        let until = |from: TimeOfDay| (from.0 + DAY - time.0) % DAY;
        self.0
            .iter()
            .map(|window| window.from)
            .min_by_key(|from| until(*from))
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(Window::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> TimeOfDay {
        text.parse().unwrap()
    }

    fn windows(texts: &[&str]) -> Windows {
        Windows::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn a_window_may_cross_midnight_and_its_end_is_outside() {
        let night = windows(&["22:00-05:00"]);
        for inside in ["22:00", "23:59", "0:00", "04:59"] {
            assert!(night.contain(at(inside)), "{inside}");
        }
        for outside in ["05:00", "12:00", "21:59"] {
            assert!(!night.contain(at(outside)), "{outside}");
        }
        assert!(night.contain(TimeOfDay::new(4, 59, 60)));
        assert_eq!(night.next(at("05:00")), Some(at("22:00")));
        assert_eq!(night.next(at("23:00")), Some(at("22:00")));
    }

    #[test]
    fn there_may_be_several() {
        let both = windows(&["12:00-13:00", "20:30-24:00"]);
        assert!(both.contain(at("12:30")) && both.contain(at("23:59")));
        assert!(!both.contain(at("0:00")) && !both.contain(at("13:00")));
        assert_eq!(both.next(at("13:00")), Some(at("20:30")));
        assert_eq!(both.next(at("00:00")), Some(at("12:00")));
        assert_eq!(both.to_string(), "12:00-13:00, 20:30-00:00");
        assert!(Windows::default().contain(at("03:00")));
        assert_eq!(Windows::default().next(at("03:00")), None);
        let all_day = windows(&["00:00-24:00"]);
        assert!(all_day.contain(at("00:00")) && all_day.contain(at("23:59")));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for wrong in [
            "",
            "22:00",
            "22-5",
            "22:00-25:00",
            "22:60-23:00",
            "8:00-08:00",
            "24:01-1:00",
            "-1:00-2:00",
            "1:000-2:00",
        ] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }
}
