//! Where the devices of a q35 machine sit, so that an adapter is found at the address that the plan gave it.
//!
//! Firmware numbers the buses depth first, by slot and function. Root ports that follow each other from slot 2 on, each
//! with one device behind it, therefore get bus 1, 2, 3 …: port and bus have the same number.

use std::collections::BTreeSet;
use thiserror::Error;

/// Slot 0 is the host bridge, 1 the display, 0x1b to 0x1f are the chipset's own (sound, USB, LPC, SATA).
const FIRST_SLOT: u8 = 2;

/// See [`FIRST_SLOT`].
const LAST_SLOT: u8 = 0x1a;

/// A slot has eight functions, so that a root port needs no slot of its own.
const FUNCTIONS: u8 = 8;

/// More ports than any guest here needs; each costs the firmware a window of memory.
const MOST_PORTS: u8 = 96;

/// Why a machine cannot be laid out.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PciError {
    /// Not of the form `dddd:bb:ss.f`, or not of domain 0.
    #[error("'{0}' is not a PCI address of the form 0000:01:00.0")]
    Address(String),
    /// Two devices want the same place.
    #[error("two devices want the PCI address {0}")]
    Taken(PciAddress),
    /// Only slot 0 is behind a root port; and some places belong to the chipset.
    #[error(
        "no adapter can be put at the PCI address {0}: function 0 of slots 03 to 1a of bus 00, and of slot 00 of every other bus, are possible"
    )]
    NoSuchPlace(PciAddress),
    /// More devices than ports.
    #[error("the machine would need more than {MOST_PORTS} PCIe root ports")]
    TooMany,
}

/// A place on domain 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    /// Bus; 0 is the root complex itself.
    pub(crate) bus: u8,
    /// Slot.
    pub(crate) slot: u8,
    /// Function.
    pub(crate) function: u8,
}

impl std::fmt::Display for PciAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "0000:{:02x}:{:02x}.{:x}",
            self.bus, self.slot, self.function
        )
    }
}

impl PciAddress {
    /// Reads `0000:01:00.0`.
    pub(crate) fn parse(text: &str) -> Result<Self, PciError> {
        let read = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (slot, function) = rest.split_once('.')?;
            let number = |digits: &str, length: usize| {
                (digits.len() == length && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    .then(|| u8::from_str_radix(digits, 16).ok())
                    .flatten()
            };
            let address = Self {
                bus: number(bus, 2)?,
                slot: number(slot, 2)?,
                function: number(function, 1)?,
            };
            (domain == "0000" && address.slot < 32 && address.function < FUNCTIONS).then_some(address)
        };
        read().ok_or_else(|| PciError::Address(text.into()))
    }
}

/// Gives out places: first those that were asked for, then the free ones in order.
#[derive(Debug, Default)]
pub(crate) struct PciTopology {
    taken: BTreeSet<PciAddress>,
    ports: u8,
}

impl PciTopology {
    /// The place that was asked for.
    pub(crate) fn claim(&mut self, text: &str) -> Result<PciAddress, PciError> {
        let address = PciAddress::parse(text)?;
        let possible = if address.bus == 0 {
            (FIRST_SLOT + 1..=LAST_SLOT).contains(&address.slot)
        } else {
            address.slot == 0 && address.bus <= MOST_PORTS
        };
        // Function 0 alone: firmware and kernel look at the others only where that one exists.
        if !possible || address.function != 0 {
            return Err(PciError::NoSuchPlace(address));
        }
        if !self.taken.insert(address) {
            return Err(PciError::Taken(address));
        }
        self.ports = self.ports.max(address.bus);
        Ok(address)
    }

    /// The next free root port.
    pub(crate) fn next(&mut self) -> Result<PciAddress, PciError> {
        for bus in 1..=MOST_PORTS {
            let address = PciAddress {
                bus,
                slot: 0,
                function: 0,
            };
            if self.taken.insert(address) {
                self.ports = self.ports.max(bus);
                return Ok(address);
            }
        }
        Err(PciError::TooMany)
    }

    /// Every root port: the bus behind it, and where it sits itself. Ports that lead nowhere are among them: without
    /// them the buses behind would get other numbers.
    pub(crate) fn root_ports(&self) -> Result<Vec<(u8, PciAddress)>, PciError> {
        // A device that was put on the root complex itself keeps its slot; the ports go around it.
        let mut slots = (FIRST_SLOT..=LAST_SLOT).filter(|slot| {
            !self
                .taken
                .iter()
                .any(|taken| taken.bus == 0 && taken.slot == *slot)
        });
        let mut ports = Vec::new();
        let mut slot = slots.next();
        let mut function = 0;
        for bus in 1..=self.ports {
            if function == FUNCTIONS {
                slot = slots.next();
                function = 0;
            }
            let Some(slot) = slot else {
                return Err(PciError::TooMany);
            };
            ports.push((
                bus,
                PciAddress {
                    bus: 0,
                    slot,
                    function,
                },
            ));
            function += 1;
        }
        Ok(ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_printed_alike() {
        for text in ["0000:01:00.0", "0000:00:1a.7"] {
            assert_eq!(PciAddress::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "",
            "01:00.0",
            "0001:01:00.0",
            "0000:1:00.0",
            "0000:01:20.0",
            "0000:01:00.8",
            "0000:01:+0.0",
        ] {
            assert!(PciAddress::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_and_buses_have_the_same_numbers_whatever_was_asked_for() {
        let mut topology = PciTopology::default();
        assert_eq!(topology.claim("0000:02:00.0").unwrap().bus, 2);
        assert_eq!(topology.claim("0000:00:03.0").unwrap().bus, 0);
        assert_eq!(topology.next().unwrap().bus, 1);
        for expected in 3..=12 {
            assert_eq!(topology.next().unwrap().bus, expected);
        }
        let ports = topology.root_ports().unwrap();
        let places: Vec<_> = ports
            .iter()
            .map(|(bus, address)| (*bus, address.to_string()))
            .collect();
        assert_eq!(places.first().unwrap(), &(1, "0000:00:02.0".into()));
        assert_eq!(places[7], (8, "0000:00:02.7".into()));
        assert_eq!(places[8], (9, "0000:00:04.0".into()));
        assert_eq!(places.len(), 12);
    }

    #[test]
    fn impossible_places_are_refused() {
        let mut topology = PciTopology::default();
        topology.claim("0000:01:00.0").unwrap();
        assert!(matches!(topology.claim("0000:01:00.0"), Err(PciError::Taken(_))));
        for text in [
            "0000:01:01.0",
            "0000:01:00.1",
            "0000:00:00.0",
            "0000:00:1f.2",
            "0000:00:02.0",
            "0000:ff:00.0",
        ] {
            assert!(
                matches!(topology.claim(text), Err(PciError::NoSuchPlace(_))),
                "{text}"
            );
        }
        while topology.next().is_ok() {}
        assert_eq!(topology.next(), Err(PciError::TooMany));
        assert_eq!(topology.root_ports().unwrap().len(), usize::from(MOST_PORTS));
    }
}
