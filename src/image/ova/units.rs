//! Programmatic units: DMTF DSP0004, annex C, as far as descriptors use them, and the words of older ones.

/// `quantity` of `units` in bytes; `None` for what is no number of bytes, or too many.
pub(super) fn bytes(quantity: u64, units: &str) -> Option<u64> {
    let mut factors = units.split('*').map(str::trim);
    let unit = match factors.next()?.to_ascii_lowercase().as_str() {
        "" | "byte" | "bytes" => 1,
        "kilobytes" | "kb" => 1 << 10,
        "megabytes" | "mb" => 1 << 20,
        "gigabytes" | "gb" => 1 << 30,
        "terabytes" | "tb" => 1 << 40,
        _ => return None,
    };
    let mut value = quantity.checked_mul(unit)?;
    for factor in factors {
        value = value.checked_mul(match factor.split_once('^') {
            Some((base, exponent)) => {
                let base: u64 = base.trim().parse().ok()?;
                base.checked_pow(exponent.trim().parse().ok()?)?
            }
            None => factor.parse().ok()?,
        })?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_old_and_new_descriptors_write_them() {
        for (units, expected) in [
            ("byte", Some(3)),
            ("byte * 2^20", Some(3 << 20)),
            ("byte*2^30", Some(3 << 30)),
            ("byte * 10^3 * 2", Some(6000)),
            ("MegaBytes", Some(3 << 20)),
            ("byte * 2^64", None),
            ("byte * 2^-1", None),
            ("hertz * 10^6", None),
            ("byte * x", None),
        ] {
            assert_eq!(bytes(3, units), expected, "{units}");
        }
    }
}
