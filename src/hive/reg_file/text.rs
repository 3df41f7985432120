//! The bytes of a registration file as text.

use super::parse::RegFileError;
use crate::hive::name::units;
use encoding_rs::{Encoding, WINDOWS_1252};
use std::str::FromStr;

pub(super) const BOM: u16 = 0xfeff;

/// The code page of a REGEDIT4 file, which the file itself does not tell: that of the Windows that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePage(&'static Encoding);

impl Default for CodePage {
    /// Windows-1252, of western languages.
    fn default() -> Self {
        Self(WINDOWS_1252)
    }
}

impl FromStr for CodePage {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Encoding::for_label(name.as_bytes()).filter(|encoding| encoding.is_ascii_compatible());
        known.map(Self).ok_or_else(|| {
            format!("`{name}` is no code page that is known: windows-1250 to windows-1258, shift_jis, gbk, euc-kr, big5")
        })
    }
}

impl CodePage {
    /// What these bytes say in this code page; no error, what is undefined becomes U+FFFD.
    pub(super) fn decode(self, bytes: &[u8]) -> Vec<u16> {
        let (text, _) = self.0.decode_without_bom_handling(bytes);
        text.encode_utf16().collect()
    }

    /// The bytes that say this in this code page; `None` if it cannot be said.
    pub(super) fn encode(self, text: &str) -> Option<Vec<u8>> {
        let (bytes, encoding, lost) = self.0.encode(text);
        let same = !lost && encoding == self.0 && self.0.decode_without_bom_handling(&bytes).0 == text;
        same.then(|| bytes.into_owned())
    }
}

/// How a registration file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Version 5.00 in UTF-16LE with a byte order mark: what regedit writes.
    Version5,
    /// Version 5.00 in UTF-8 without one and with line feeds: what hivexregedit reads.
    Version5Utf8,
    /// REGEDIT4: what every Windows from 95 on reads.
    Regedit4(CodePage),
}

impl Style {
    /// What stands at the end of a line.
    pub(super) const fn line_end(self) -> &'static str {
        match self {
            Self::Version5 | Self::Regedit4(_) => "\r\n",
            Self::Version5Utf8 => "\n",
        }
    }

    pub(super) const fn header(self) -> &'static str {
        match self {
            Self::Version5 | Self::Version5Utf8 => "Windows Registry Editor Version 5.00",
            Self::Regedit4(_) => "REGEDIT4",
        }
    }

    /// `text` as it stands in the file; `None` if it can't.
    pub(super) fn encode(self, text: &[u16]) -> Option<Vec<u8>> {
        match self {
            Self::Version5 => Some(text.iter().flat_map(|unit| unit.to_le_bytes()).collect()),
            Self::Version5Utf8 => String::from_utf16(text).ok().map(String::into_bytes),
            Self::Regedit4(page) => page.encode(&String::from_utf16(text).ok()?),
        }
    }
}

/// The text of a file, and the code page that its strings were in if it is a REGEDIT4.
pub(super) fn decode(bytes: &[u8], page: CodePage) -> Result<(Vec<u16>, Option<CodePage>), RegFileError> {
    match bytes {
        [0xff, 0xfe, text @ ..] => Ok((units(text).collect(), None)),
        [0xfe, 0xff, ..] => Err(RegFileError::new(
            1,
            "UTF-16 with the high byte first, which regedit does not write",
        )),
        [0xef, 0xbb, 0xbf, text @ ..] => utf8(text).map(|text| (text, None)),
        _ if bytes.starts_with(b"REGEDIT4") => Ok((page.decode(bytes), Some(page))),
        // Without a mark, as editors on other systems leave it.
        [_, 0, ..] => Ok((units(bytes).collect(), None)),
        _ => utf8(bytes).map(|text| (text, None)),
    }
}

fn utf8(bytes: &[u8]) -> Result<Vec<u16>, RegFileError> {
    match str::from_utf8(bytes) {
        Ok(text) => Ok(text.encode_utf16().collect()),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                .saturating_add(1);
            Err(RegFileError::new(
                line,
                "neither UTF-16LE with a byte order mark nor UTF-8, and no REGEDIT4",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> String {
        String::from_utf16(&decode(bytes, CodePage::default()).unwrap().0).unwrap()
    }

    #[test]
    fn every_encoding_is_told_by_its_first_bytes() {
        assert_eq!(decoded(b"\xff\xfea\0\xe4\0"), "a\u{e4}");
        assert_eq!(decoded(b"a\0\xe4\0"), "a\u{e4}");
        assert_eq!(decoded("\u{feff}a\u{e4}".as_bytes()), "a\u{e4}");
        assert_eq!(decoded("a\u{e4}".as_bytes()), "a\u{e4}");
        assert_eq!(decoded(b"REGEDIT4\xe4\x80"), "REGEDIT4\u{e4}\u{20ac}");
        let error = decode(b"a\nb\xe4", CodePage::default()).unwrap_err();
        assert!(error.to_string().starts_with("line 2: "), "{error}");
        assert!(decode(b"\xfe\xff\0a", CodePage::default()).is_err());
    }

    #[test]
    fn code_pages_are_known_by_their_names() {
        let greek: CodePage = "windows-1253".parse().unwrap();
        assert_eq!(greek.decode(b"\xe1"), ['\u{3b1}' as u16]);
        assert_eq!(greek.encode("\u{3b1}"), Some(vec![0xe1]));
        assert_eq!(greek.encode("\u{e9}"), None);
        assert!("utf-16le".parse::<CodePage>().is_err());
        assert!("437".parse::<CodePage>().is_err());
    }
}
