//! How well a driver fits a device, as Windows ranks it (Windows driver documentation, "How Windows Ranks Drivers",
//! "Identifier Score", "Feature Score", "Signature Score"). Of two drivers the one with the lower rank is taken, then the newer
//! one, then the one with the higher version.

use super::{
    hardware_id::{DeviceIds, same_id},
    inf::DriverVersion,
};
use serde::Serialize;
use std::{cmp::Reverse, fmt};

/// How a package is signed, as far as it changes its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureClass {
    /// It has a catalog with a signature, or comes with Windows. Whether Windows trusts the signer only Windows knows.
    Signed,
    /// It has none, and is installed by a section for NT.
    UnsignedForNt,
    /// It has none, and its section names no system.
    Unsigned,
}

impl SignatureClass {
    /// The highest byte of the rank.
    fn score(self) -> u32 {
        match self {
            Self::Signed => 0x0000_0000,
            Self::UnsignedForNt => 0x8000_0000,
            Self::Unsigned => 0xc000_0000,
        }
    }
}

/// A rank: 0xSSGGTHHH of signature, feature and identifier score. Lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(
    /// The number that Windows writes to its log.
    pub u32,
);

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08x}", self.0)
    }
}

impl Serialize for Rank {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a driver without a feature score has.
const NO_FEATURE_SCORE: u8 = 0xff;
/// Places in a list of ids that make a difference.
const LAST_PLACE: u32 = 0xfff;

/// Which id of the device met which of the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IdMatch {
    /// The id.
    pub id: String,
    /// It is one of the device's hardware ids, not of its compatible ones.
    pub of_hardware: bool,
    /// Its place among those of the device, from 0.
    pub device_place: usize,
    /// Its place in the line of the INF file: 0 is the hardware id, others are compatible ones.
    pub driver_place: usize,
}

impl IdMatch {
    /// The best meeting of a device's ids and those of a model; `None`: they have none in common.
    pub fn best(device: &DeviceIds, model: &[String]) -> Option<Self> {
        let lists = [(true, &device.hardware), (false, &device.compatible)];
        let pairs = lists.into_iter().flat_map(|(of_hardware, list)| {
            list.iter().enumerate().filter_map(move |(device_place, id)| {
                let driver_place = model.iter().position(|own| same_id(id, own))?;
                Some(Self {
                    id: model.get(driver_place)?.clone(),
                    of_hardware,
                    device_place,
                    driver_place,
                })
            })
        });
        pairs.min_by_key(Self::score)
    }

    /// The identifier score, 0xTHHH.
    pub fn score(&self) -> u32 {
        let place = u32::try_from(self.device_place)
            .unwrap_or(u32::MAX)
            .min(LAST_PLACE);
        match (self.of_hardware, self.driver_place) {
            (true, 0) => place,
            (true, _) => 0x1000 | place,
            (false, 0) => 0x2000 | place,
            (false, driver_place) => {
                let compatible = u32::try_from(driver_place - 1).unwrap_or(u32::MAX);
                0x3000
                    | compatible
                        .saturating_mul(0x100)
                        .saturating_add(place)
                        .min(LAST_PLACE)
            }
        }
    }
}

impl fmt::Display for IdMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = if self.of_hardware {
            "hardware"
        } else {
            "compatible"
        };
        let driver = if self.driver_place == 0 {
            "hardware"
        } else {
            "compatible"
        };
        write!(f, "its {device} id {} is a {driver} id of the driver", self.id)
    }
}

/// What decides between drivers of one device, best first in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Ranking {
    /// Lower is better.
    pub rank: Rank,
    /// Newer is better.
    #[serde(serialize_with = "inner")]
    driver: Reverse<Option<DriverVersion>>,
}

fn inner<S: serde::Serializer>(
    driver: &Reverse<Option<DriverVersion>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    driver.0.serialize(serializer)
}

impl Ranking {
    /// Of a driver that met a device.
    pub fn new(
        signature: SignatureClass,
        feature_score: Option<u8>,
        ids: &IdMatch,
        driver: Option<DriverVersion>,
    ) -> Self {
        let feature = u32::from(feature_score.unwrap_or(NO_FEATURE_SCORE)) << 16;
        Self {
            rank: Rank(signature.score() | feature | ids.score()),
            driver: Reverse(driver),
        }
    }

    /// Date and version of the driver.
    pub fn driver(&self) -> Option<DriverVersion> {
        self.driver.0
    }

    /// Why this driver was not taken where `winner` was.
    pub fn why_not(&self, winner: &Self) -> String {
        if self.rank != winner.rank {
            return format!("its rank {} is worse than {}", self.rank, winner.rank);
        }
        let shown = |driver: Option<DriverVersion>| {
            driver.map_or("without a version".to_owned(), |driver| driver.to_string())
        };
        if self.driver == winner.driver {
            return format!(
                "is as good (rank {}, {}); the one found first is taken",
                self.rank,
                shown(self.driver())
            );
        }
        format!(
            "has the same rank {}, but is older: {}",
            self.rank,
            shown(self.driver())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[&str]) -> Vec<String> {
        list.iter().map(|id| (*id).to_owned()).collect()
    }

    /// The table of the documentation's "Driver Rank Example".
    #[test]
    fn scores_are_those_of_the_documentation() {
        let device = DeviceIds {
            hardware: ids(&["H1", "H2"]),
            compatible: ids(&["C1", "C2"]),
        };
        for (model, expected) in [
            (["H1", "-", "-"], 0x0000),
            (["H2", "-", "-"], 0x0001),
            (["-", "H1", "-"], 0x1000),
            (["-", "-", "h2"], 0x1001),
            (["C1", "-", "-"], 0x2000),
            (["c2", "-", "-"], 0x2001),
            (["-", "C1", "-"], 0x3000),
            (["-", "-", "C1"], 0x3100),
            (["-", "C2", "-"], 0x3001),
            (["-", "-", "C2"], 0x3101),
            (["C1", "H2", "C2"], 0x1001),
        ] {
            assert_eq!(
                IdMatch::best(&device, &ids(&model)).unwrap().score(),
                expected,
                "{model:?}"
            );
        }
        assert_eq!(IdMatch::best(&device, &ids(&["X"])), None);
    }

    #[test]
    fn rank_then_date_then_version_decide() {
        let id = IdMatch {
            id: "H".into(),
            of_hardware: true,
            device_place: 1,
            driver_place: 0,
        };
        let driver = |year, build| {
            Some(DriverVersion {
                date: jiff::civil::date(year, 1, 1),
                version: [1, 0, build, 0],
            })
        };
        let ranking = |signature, feature, driver| Ranking::new(signature, feature, &id, driver);
        let signed = ranking(SignatureClass::Signed, None, driver(2018, 5));
        assert_eq!(signed.rank.to_string(), "0x00ff0001");
        let order = [
            ranking(SignatureClass::Signed, Some(0xfd), None),
            ranking(SignatureClass::Signed, None, driver(2020, 1)),
            ranking(SignatureClass::Signed, None, driver(2018, 6)),
            signed,
            ranking(SignatureClass::Signed, None, None),
            ranking(SignatureClass::UnsignedForNt, None, driver(2030, 1)),
            ranking(SignatureClass::Unsigned, None, driver(2030, 1)),
        ];
        assert!(order.is_sorted());
        assert!(
            order[3]
                .why_not(&order[1])
                .contains("older: 1.0.5.0 of 2018-01-01")
        );
        assert!(
            order[5]
                .why_not(&order[1])
                .contains("0x80ff0001 is worse than 0x00ff0001")
        );
    }
}
