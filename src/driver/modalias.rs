//! Matching a device's modalias ("pci:v00001AF4d00001042sv…") against the patterns of `modules.alias`, by the rules
//! of `fnmatch(3)` without flags (POSIX.1-2017, 2.13), which is what kmod uses.

use std::borrow::Cow;

/// The name of a module as kmod compares it: `-` is `_`. Works on aliases too, where `-` within brackets stays;
/// kmod refuses an alias with a bracket that is never closed (`None`).
pub fn normalise(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !name.iter().any(|b| matches!(b, b'-' | b'[' | b']')) {
        return Some(Cow::Borrowed(name));
    }
    let mut normal = name.to_vec();
    let mut within = false;
    for byte in &mut normal {
        match (*byte, within) {
            (b'-', false) => *byte = b'_',
            (b'[', _) => within = true,
            (b']', true) => within = false,
            (b']', false) => return None,
            _ => {}
        }
    }
    (!within).then_some(Cow::Owned(normal))
}

/// The module that a file holds: "virtio_blk" for "kernel/drivers/block/virtio-blk.ko.xz".
pub fn module_of_path(path: &[u8]) -> Vec<u8> {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let stem = name.split(|b| *b == b'.').next().unwrap_or_default();
    stem.iter().map(|b| if *b == b'-' { b'_' } else { *b }).collect()
}

/// The bytes of `pattern` before its first wildcard.
pub(crate) fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let end = pattern
        .iter()
        .position(|b| matches!(b, b'*' | b'?' | b'[' | b'\\'))
        .unwrap_or(pattern.len());
    pattern.get(..end).unwrap_or_default()
}

/// Does `pattern` match the whole of `text`?
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut rest, mut left) = (pattern, text);
    // Where to go on when something fails: behind the last star, with one more byte of the text taken by it. An
    // earlier star never has to be tried again, so the time is at most pattern times text.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', behind)) = rest.split_first() {
            rest = behind;
            again = Some((behind, left));
            continue;
        }
        let step = match left.split_first() {
            None if rest.is_empty() => return true,
            // Only stars could match nothing, and they were taken above.
            None => return false,
            Some((byte, behind)) => single(rest, *byte).map(|pattern| (pattern, behind)),
        };
        (rest, left) = match (step, again) {
            (Some(step), _) => step,
            (None, Some((pattern, text))) => {
                let Some((_, behind)) = text.split_first() else {
                    return false;
                };
                again = Some((pattern, behind));
                (pattern, behind)
            }
            (None, None) => return false,
        };
    }
}

/// What is left of `pattern` behind its first element, if that matches `byte`. The element is no star.
fn single(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (first, behind) = pattern.split_first()?;
    match first {
        b'?' => Some(behind),
        b'[' => match bracket(behind, byte) {
            Some((true, rest)) => Some(rest),
            Some((false, _)) => None,
            // Never closed: it stands for itself.
            None => (byte == b'[').then_some(behind),
        },
        b'\\' => {
            let (quoted, rest) = behind.split_first()?;
            (*quoted == byte).then_some(rest)
        }
        _ => (*first == byte).then_some(behind),
    }
}

/// Is `byte` in the set that `set` begins with (behind its `[`)? With what follows the set; `None` if it is never
/// closed.
fn bracket(mut set: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    if negated {
        set = set.get(1..)?;
    }
    let mut found = false;
    let mut first = true;
    loop {
        let (member, rest) = set.split_first()?;
        set = rest;
        if *member == b']' && !first {
            return Some((found != negated, set));
        }
        first = false;
        let low = match (member, set.first()) {
            (b'[', Some(b':')) if class(set, byte).is_some() => {
                let (inside, rest) = class(set, byte)?;
                found |= inside;
                set = rest;
                continue;
            }
            (b'\\', Some(quoted)) => {
                set = set.get(1..)?;
                *quoted
            }
            (b'\\', None) => return None,
            _ => *member,
        };
        let high = match set {
            [b'-', b']', ..] | [] => low,
            [b'-', b'\\', high, ..] => {
                set = set.get(3..)?;
                *high
            }
            [b'-', high, ..] => {
                set = set.get(2..)?;
                *high
            }
            _ => low,
        };
        found |= (low..=high).contains(&byte);
    }
}

/// Is `byte` in the class that `text` names (":digit:]…")? With what follows; `None`: no class of that name.
fn class(text: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let name = text.get(1..)?;
    let end = name.windows(2).position(|pair| pair == b":]")?;
    let inside = match name.get(..end)? {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => matches!(byte, b' ' | b'\t'),
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => return None,
    };
    Some((inside, name.get(end.checked_add(2)?..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn names_are_normalised_as_kmod_does() {
        assert_eq!(normalise(b"snd-hda-intel").unwrap(), &b"snd_hda_intel"[..]);
        assert_eq!(normalise(b"acpi-x[0-9]-y").unwrap(), &b"acpi_x[0-9]_y"[..]);
        assert_eq!(normalise(b"a]"), None);
        assert_eq!(normalise(b"a[0-9"), None);
        assert_eq!(module_of_path(b"kernel/a.b/virtio-blk.ko.xz"), b"virtio_blk");
    }

    /// `find -name` uses fnmatch(3) of the C library.
    #[test]
    fn agrees_with_the_c_library() {
        let texts = [
            "", "a", "ab", "abc", "b", "]", "[", "-", "a-c", "a.c", "\\", "aXbXc", "[a", "x9", "zz", "!", "^",
        ];
        let patterns = [
            "*",
            "?",
            "a*",
            "*c",
            "a?c",
            "[abc]",
            "[!abc]",
            "[^abc]*",
            "[a-c]*",
            "a[-.]c",
            "[]]",
            "[]-]",
            "[!]]",
            "\\*",
            "\\a",
            "a\\",
            "[[]*",
            "[a",
            "[a-",
            "[z-a]",
            "*X*X*",
            "*X*b*c",
            "[[:alpha:]]*",
            "x[[:digit:]]",
            "[[:alpha:][:digit:]][!-]*",
            "a**b*",
            "*?*",
            "[\\]]",
            "[\\]a]b",
            "[a\\-c]",
            "??",
            "[--.]",
            "[[:nope:]]",
            "[[:alpha:]",
            "[!a]*",
            "[",
            "[]",
            "[!",
            "***",
        ];
        let folder = tempfile::tempdir().unwrap();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            std::fs::write(folder.path().join(text), "").unwrap();
        }
        for pattern in patterns {
            let output = Command::new("find")
                .args([".", "-mindepth", "1", "-name", pattern, "-printf", "%f\n"])
                .env("LC_ALL", "C")
                .current_dir(&folder)
                .output()
                .unwrap();
            let listed = String::from_utf8(output.stdout).unwrap();
            for text in texts.iter().filter(|text| !text.is_empty()) {
                assert_eq!(
                    matches(pattern.as_bytes(), text.as_bytes()),
                    listed.lines().any(|line| line == *text),
                    "{pattern} against {text}"
                );
            }
        }
    }

    #[test]
    fn devices_meet_their_patterns() {
        let virtio = b"pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00";
        assert!(matches(b"pci:v00001AF4d*sv*sd*bc*sc*i*", virtio));
        assert!(!matches(b"pci:v00001AF3d*sv*sd*bc*sc*i*", virtio));
        assert!(matches(b"scsi:t-0x00*", b"scsi:t-0x00"));
        let long = [b"a".repeat(60), b"b".to_vec()].concat();
        assert!(
            !matches(&b"*a".repeat(30), &long),
            "must not take exponential time"
        );
    }
}
