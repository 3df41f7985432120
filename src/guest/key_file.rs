//! Files of sections, keys and values, as systemd (systemd.syntax(7)) and NetworkManager (nm-settings-keyfile(5))
//! write them, with line numbers.

use super::text::{lines, lossy};

/// Settings that are read of one file. People write some dozens.
const MAX_SETTINGS: usize = 4096;

/// One `Key=value`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    /// "Match" of `[Match]`; sections of one name may come several times.
    pub(crate) section: String,
    pub(crate) key: String,
    pub(crate) value: String,
    /// From 1.
    pub(crate) line: u32,
    /// Counts the sections of the file, so that two of one name can be told apart.
    pub(crate) section_number: u32,
}

/// Reads a file. What is neither a section nor a setting is passed over.
pub(crate) fn parse(contents: &[u8]) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    let mut section = String::new();
    let mut section_number = 0_u32;
    let mut continued = false;
    for (line, text) in lines(contents) {
        if settings.len() >= MAX_SETTINGS {
            break;
        }
        let text = text.trim_ascii();
        if matches!(text.first(), None | Some(b'#' | b';')) {
            continue;
        }
        let (text, continues) = match text.strip_suffix(b"\\") {
            Some(text) => (text, true),
            None => (text, false),
        };
        if continued {
            if let Some(last) = settings.last_mut() {
                last.value.push(' ');
                last.value.push_str(lossy(text).trim());
            }
        } else if let Some(name) = text.strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]")) {
            section = lossy(name);
            section_number = section_number.saturating_add(1);
            continue;
        } else if let Some(equals) = text.iter().position(|byte| *byte == b'=') {
            let (key, value) = text.split_at(equals);
            settings.push(Setting {
                section: section.clone(),
                key: lossy(key.trim_ascii()),
                value: lossy(value.get(1..).unwrap_or_default().trim_ascii()),
                line,
                section_number,
            });
        } else {
            continue;
        }
        continued = continues;
    }
    settings
}

/// All values of a key, in order.
pub(crate) fn all<'a>(
    settings: &'a [Setting],
    section: &'a str,
    key: &'a str,
) -> impl Iterator<Item = &'a Setting> {
    settings
        .iter()
        .filter(move |setting| setting.section == section && setting.key == key)
}

/// The last value of a key, which is the one that counts.
pub(crate) fn last<'a>(settings: &'a [Setting], section: &'a str, key: &'a str) -> Option<&'a Setting> {
    all(settings, section, key).last()
}

/// systemd's words for yes.
pub(crate) fn is_true(value: &str) -> bool {
    ["yes", "true", "on", "1", "y", "t"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_settings_and_continued_lines() {
        let settings = parse(b"# c\n[Match]\nName = a \\\n; between\n  b\n\n[Address]\nAddress=1\n[Address]\nAddress=2\njunk\n=x");
        let name = last(&settings, "Match", "Name").unwrap();
        assert_eq!((&*name.value, name.line), ("a b", 3));
        let addresses: Vec<_> = all(&settings, "Address", "Address").collect();
        assert_eq!(addresses.len(), 2);
        assert_ne!(addresses[0].section_number, addresses[1].section_number);
    }
}
