//! The hash of a name in an indexed directory (kernel documentation, "ext4: Hash Tree Directories"): legacy, half MD4
//! and TEA, each taking bytes as signed or as unsigned characters.

use super::superblock::Superblock;

/// `dx_root.info.hash_version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Legacy,
    HalfMd4,
    Tea,
}

/// A hash function with its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameHash {
    function: Function,
    unsigned: bool,
    seed: [u32; 4],
}

/// The end of a directory for readers of NFS cookies: no name has it.
const END_OF_DIRECTORY: u32 = 0xffff_fffe;

impl NameHash {
    /// The function that a directory's `hash_version` names; `None` for one that we don't know (SipHash of encrypted
    /// case-folded directories).
    pub(super) fn of_version(version: u8, superblock: &Superblock) -> Option<Self> {
        let (function, unsigned) = match version {
            0 => (Function::Legacy, superblock.unsigned_hash),
            1 => (Function::HalfMd4, superblock.unsigned_hash),
            2 => (Function::Tea, superblock.unsigned_hash),
            3 => (Function::Legacy, true),
            4 => (Function::HalfMd4, true),
            5 => (Function::Tea, true),
            _ => return None,
        };
        let default = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
        let seed = if superblock.hash_seed == [0; 4] {
            default
        } else {
            superblock.hash_seed
        };
        Some(Self {
            function,
            unsigned,
            seed,
        })
    }

    /// The major hash; its lowest bit is always 0.
    pub(super) fn of(&self, name: &[u8]) -> u32 {
        let hash = match self.function {
            Function::Legacy => self.legacy(name),
            Function::HalfMd4 => {
                let mut state = self.seed;
                for (start, _) in name.chunks(32).enumerate() {
                    let rest = name.get(start * 32..).unwrap_or_default();
                    half_md4(&mut state, &self.words::<8>(rest));
                }
                state[1]
            }
            Function::Tea => {
                let mut state = [self.seed[0], self.seed[1]];
                for (start, _) in name.chunks(16).enumerate() {
                    let rest = name.get(start * 16..).unwrap_or_default();
                    tea(&mut state, &self.words::<4>(rest));
                }
                state[0]
            }
        } & !1;
        if hash == END_OF_DIRECTORY { hash - 2 } else { hash }
    }

    fn character(&self, byte: u8) -> u32 {
        if self.unsigned {
            u32::from(byte)
        } else {
            i32::from(i8::from_le_bytes([byte])).cast_unsigned()
        }
    }

    fn legacy(&self, name: &[u8]) -> u32 {
        let (mut last, mut before) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
        for byte in name {
            let product = self.character(*byte).wrapping_mul(7_152_373);
            let mut hash = before.wrapping_add(last ^ product);
            if hash & 0x8000_0000 != 0 {
                hash = hash.wrapping_sub(0x7fff_ffff);
            }
            before = last;
            last = hash;
        }
        last << 1
    }

    /// The next characters of a name as `N` words; what is missing is padded with the length of what was left.
    fn words<const N: usize>(&self, rest: &[u8]) -> [u32; N] {
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX) & 0xffff;
        let pad = length | length << 8;
        let pad = pad | pad << 16;
        let mut words = [pad; N];
        for (word, characters) in words.iter_mut().zip(rest.chunks(4)) {
            for byte in characters {
                *word = self.character(*byte).wrapping_add(*word << 8);
            }
        }
        words
    }
}

fn half_md4(state: &mut [u32; 4], input: &[u32; 8]) {
    const SELECTION: [(usize, u32); 8] = [(0, 3), (1, 7), (2, 11), (3, 19), (4, 3), (5, 7), (6, 11), (7, 19)];
    const MAJORITY: [(usize, u32); 8] = [(1, 3), (3, 5), (5, 9), (7, 13), (0, 3), (2, 5), (4, 9), (6, 13)];
    const PARITY: [(usize, u32); 8] = [(3, 3), (7, 9), (2, 11), (6, 15), (1, 3), (5, 9), (0, 11), (4, 15)];
    let [mut a, mut b, mut c, mut d] = *state;
    let mut round = |order: &[(usize, u32); 8], constant: u32, mix: fn(u32, u32, u32) -> u32| {
        for (word, shift) in order {
            let word = input.get(*word).copied().unwrap_or_default();
            let mixed = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(word)
                .wrapping_add(constant)
                .rotate_left(*shift);
            (a, b, c, d) = (d, mixed, b, c);
        }
    };
    round(&SELECTION, 0, |x, y, z| z ^ (x & (y ^ z)));
    round(&MAJORITY, 0x5a82_7999, |x, y, z| {
        (x & y).wrapping_add((x ^ y) & z)
    });
    round(&PARITY, 0x6ed9_eba1, |x, y, z| x ^ y ^ z);
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

fn tea(state: &mut [u32; 2], key: &[u32; 4]) {
    let [mut left, mut right] = *state;
    let [a, b, c, d] = *key;
    let mut sum = 0_u32;
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        left = left.wrapping_add(
            (right << 4).wrapping_add(a) ^ right.wrapping_add(sum) ^ (right >> 5).wrapping_add(b),
        );
        right = right
            .wrapping_add((left << 4).wrapping_add(c) ^ left.wrapping_add(sum) ^ (left >> 5).wrapping_add(d));
    }
    state[0] = state[0].wrapping_add(left);
    state[1] = state[1].wrapping_add(right);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// `debugfs dx_hash` is the judge of every function, with and without a seed, for short, long and non-ASCII names.
    #[test]
    fn hashes_are_those_of_debugfs() {
        let names = [
            "a",
            "fstab",
            "a_name_of_exactly_32_characters_",
            &"long".repeat(60),
            "größe",
            "žluťoučký kůň",
        ];
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        let seeds = [
            ([0; 4], "00000000-0000-0000-0000-000000000000"),
            ([0x6745_2301, 0xefcd_ab89, 0x6745_2301, 0xefcd_ab89], uuid),
        ];
        let mut compared = 0;
        // By number: debugfs knows no names for the functions that take characters as unsigned.
        for version in 0..6 {
            for (seed, seed_text) in seeds {
                for name in names {
                    let function = [Function::Legacy, Function::HalfMd4, Function::Tea][version % 3];
                    let default = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
                    let hash = NameHash {
                        function,
                        unsigned: version > 2,
                        seed: if seed == [0; 4] { default } else { seed },
                    };
                    let request = format!("dx_hash -h {version} -s {seed_text} \"{name}\"");
                    let output = Command::new("debugfs").args(["-R", &request]).output().unwrap();
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let expected = text
                        .rsplit("is ")
                        .next()
                        .unwrap()
                        .split_whitespace()
                        .next()
                        .unwrap();
                    let expected = u32::from_str_radix(expected.trim_start_matches("0x"), 16).unwrap();
                    assert_eq!(hash.of(name.as_bytes()), expected, "{request}: {text}");
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 72);
    }
}
