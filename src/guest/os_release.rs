//! os-release(5): which distribution is installed.

use super::text::{lines, lossy};
use serde::{Deserialize, Serialize};

/// The distribution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OsRelease {
    /// "debian".
    pub id: String,
    /// "debian" for Ubuntu.
    pub id_like: Vec<String>,
    /// "12".
    pub version_id: Option<String>,
    /// "bookworm".
    pub version_codename: Option<String>,
    /// "Debian GNU/Linux 12 (bookworm)".
    pub pretty_name: Option<String>,
}

/// Reads os-release(5): lines of shell assignments. What is no assignment is passed over, as the manual asks; of two
/// assignments the later counts. Without an `ID` it is "linux".
pub fn parse(contents: &[u8]) -> OsRelease {
    let mut release = OsRelease {
        id: "linux".into(),
        ..OsRelease::default()
    };
    for (_, line) in lines(contents) {
        let line = line.trim_ascii();
        let Some(equals) = line.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = line.split_at(equals);
        if name.starts_with(b"#") {
            continue;
        }
        let value = lossy(&unquote(value.get(1..).unwrap_or_default()));
        match name {
            b"ID" => release.id = value,
            b"ID_LIKE" => release.id_like = value.split_whitespace().map(str::to_owned).collect(),
            b"VERSION_ID" => release.version_id = Some(value),
            b"VERSION_CODENAME" => release.version_codename = Some(value),
            b"PRETTY_NAME" => release.pretty_name = Some(value),
            _ => {}
        }
    }
    release
}

/// The value of a shell assignment without its quotes: single quotes keep all, double quotes and bare words know the
/// backslash. Ends at the first bare blank.
pub(crate) fn unquote(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut quote = None;
    let mut bytes = value.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (None, b' ' | b'\t' | b'\r') => break,
            (None, b'\'' | b'"') => quote = Some(byte),
            (Some(open), close) if open == close => quote = None,
            (None, b'\\') => plain.extend(bytes.next()),
            (Some(b'"'), b'\\') if matches!(bytes.peek(), Some(b'"' | b'\\' | b'$' | b'`')) => {
                plain.extend(bytes.next());
            }
            _ => plain.push(byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_ubuntu() {
        let debian = parse(
            b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n\
              VERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n#ID=x\nHOME_URL=\"https://a/?b=c\"\n",
        );
        assert_eq!(debian.id, "debian");
        assert_eq!(debian.version_id.as_deref(), Some("12"));
        assert_eq!(debian.version_codename.as_deref(), Some("bookworm"));
        assert_eq!(
            debian.pretty_name.as_deref(),
            Some("Debian GNU/Linux 12 (bookworm)")
        );
        let ubuntu = parse(b"ID=ubuntu\nID_LIKE='debian other'\nPRETTY_NAME=\"a \\\"b\\\" \\x \\$\"\r\n");
        assert_eq!(ubuntu.id_like, ["debian", "other"]);
        assert_eq!(ubuntu.pretty_name.as_deref(), Some("a \"b\" \\x $"));
        assert_eq!(parse(b"\xff\xfe=\"\n=\nID").id, "linux");
    }
}
