//! The words by which `plan`, `convert` and `in-place` say where to, and what the user decides.

use crate::plan::Options;
use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// Where to, and decisions.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PlanningArguments {
    /// Machine to move to: a shipped name (`rehome machine list`) or a TOML file
    #[arg(long, value_name = "MACHINE")]
    pub(crate) to: String,

    /// Folder with machine files of your own; they come before the shipped ones
    #[arg(long, value_name = "DIR")]
    pub(crate) driver_db: Option<PathBuf>,

    /// The system to move, where the disks hold several: the id of its root volume as `inspect` shows it
    #[arg(long, value_name = "VOLUME")]
    pub(crate) root: Option<String>,

    /// Move the disks as they are, without adapting what is on them; free space still stays behind
    #[arg(long, conflicts_with = "root")]
    pub(crate) as_is: bool,

    /// Give the adapter of interface NAME this address, or let it keep the one it had
    #[arg(long, value_name = "NAME=MAC", value_parser = nic)]
    pub(crate) nic: Vec<(String, String)>,

    /// Where new UUIDs and MAC addresses come from: the same seed gives the same bytes [default: drawn from the disks' facts]
    #[arg(long, value_name = "32 HEX DIGITS", value_parser = seed)]
    pub(crate) seed: Option<Seed>,

    /// Time of everything that is changed, in seconds since 1970 [default: $SOURCE_DATE_EPOCH or now]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) clock: Option<u64>,
}

/// Sixteen bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed([u8; 16]);

impl PlanningArguments {
    /// For the plan.
    pub(crate) fn options(&self) -> Options {
        Options {
            root: self.root.clone(),
            nics: self.nic.clone(),
            as_is: self.as_is,
            seed: self.seed.map(|seed| seed.0).unwrap_or_default(),
            clock: self.clock.unwrap_or_else(now),
        }
    }
}

/// $SOURCE_DATE_EPOCH, or the time, in seconds since 1970.
pub(crate) fn now() -> u64 {
    let set = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse().ok());
    set.unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    })
}

fn seed(text: &str) -> Result<Seed, String> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32);
    let number = number.ok_or("a seed has 32 hexadecimal digits")?;
    Ok(Seed(number.to_be_bytes()))
}

/// `NAME=MAC`, the address in lower case with colons.
fn nic(text: &str) -> Result<(String, String), String> {
    let (name, mac) = text
        .split_once('=')
        .ok_or("wanted NAME=MAC, like enp2s0=52:54:00:12:34:56")?;
    let mac = mac.to_ascii_lowercase().replace('-', ":");
    let bytes: Vec<u8> = mac
        .split(':')
        .filter(|part| part.len() == 2)
        .filter_map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    if name.is_empty() || bytes.len() != 6 || mac.len() != 17 {
        return Err(format!(
            "`{text}`: wanted NAME=MAC, like enp2s0=52:54:00:12:34:56"
        ));
    }
    if bytes.first().is_some_and(|first| first & 1 == 1) {
        return Err(format!("`{mac}` is a group address, which no adapter can have"));
    }
    Ok((name.to_owned(), mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_checked_and_put_into_lower_case() {
        assert_eq!(
            nic("eth0=52-54-00-AB-CD-EF"),
            Ok(("eth0".into(), "52:54:00:ab:cd:ef".into()))
        );
        for wrong in [
            "eth0",
            "=52:54:00:00:00:01",
            "eth0=52:54:00",
            "eth0=53:54:00:00:00:01",
            "eth0=zz:54:00:00:00:01",
        ] {
            assert!(nic(wrong).is_err(), "{wrong}");
        }
    }
}
