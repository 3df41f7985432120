//! Cylinders, heads and sectors: "Appendix: CHS Calculation" of the specification.

/// Bytes of a sector, always.
pub(super) const SECTOR: u64 = 512;

/// What the footer has room for. A disk that is larger, or that needs its exact size, is written with the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) cylinders: u16,
    pub(super) heads: u8,
    pub(super) sectors: u8,
}

impl Geometry {
    pub(super) const GREATEST: Self = Self {
        cylinders: 65535,
        heads: 16,
        sectors: 255,
    };

    /// How many sectors it counts.
    pub(super) fn total(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors)
    }

    /// The geometry of a disk of `total` sectors, which may count fewer.
    pub(super) fn of(total: u64) -> Self {
        let total = total.min(Self::GREATEST.total());
        let (mut heads, mut sectors);
        let mut tracks;
        if total >= 65535 * 16 * 63 {
            (heads, sectors) = (16, 255);
            tracks = total / sectors;
        } else {
            sectors = 17;
            tracks = total / sectors;
            heads = tracks.div_ceil(1024).max(4);
            if tracks >= heads * 1024 || heads > 16 {
                (heads, sectors) = (16, 31);
                tracks = total / sectors;
            }
            if tracks >= heads * 1024 {
                (heads, sectors) = (16, 63);
                tracks = total / sectors;
            }
        }
        Self {
            cylinders: u16::try_from(tracks / heads).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(u8::MAX),
            sectors: u8::try_from(sectors).unwrap_or(u8::MAX),
        }
    }

    /// The smallest that counts at least `total` sectors, found as qemu-img finds it: so that both round alike.
    pub(super) fn covering(total: u64) -> Self {
        let wanted = total.min(Self::GREATEST.total());
        let mut more = 0;
        loop {
            // Within one cylinder, 4080 sectors, there is one.
            let geometry = Self::of(wanted + more);
            if geometry.total() >= wanted {
                return geometry;
            }
            more += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_specification() {
        let of = |total| {
            let Geometry {
                cylinders,
                heads,
                sectors,
            } = Geometry::of(total);
            (cylinders, heads, sectors)
        };
        // A disk of 4 MiB by Windows 10, one of 127 GiB by Hyper-V 2012 R2, and the limits between.
        assert_eq!(of(8192), (120, 4, 17));
        assert_eq!(of(266_338_304), (65278, 16, 255));
        assert_eq!(of(17 * 1024 * 16 - 1), (1023, 16, 17));
        assert_eq!(of(17 * 1024 * 16), (561, 16, 31));
        assert_eq!(of(31 * 1024 * 16), (503, 16, 63));
        assert_eq!(of(u64::MAX), (65535, 16, 255));
        assert_eq!(of(0), (0, 4, 17));
    }

    #[test]
    fn a_covering_geometry_is_never_smaller_and_close() {
        for total in (0..70_000_000_u64)
            .step_by(999_983)
            .chain([1, 68, 69, 8192, 66_059_280, 66_059_279])
        {
            let covering = Geometry::covering(total).total();
            assert!(covering >= total && covering - total < 16 * 255, "{total}");
        }
        assert_eq!(Geometry::covering(u64::MAX), Geometry::GREATEST);
    }
}
