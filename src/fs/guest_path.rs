//! Paths inside a guest: byte strings, as the guest's kernel has them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A path inside a guest. Not the host's `Path`: it is never opened on the host. In JSON and on screen, bytes
/// that are not printable UTF-8, and the backslash, stand as `\xNN`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GuestPath(pub Vec<u8>);

impl GuestPath {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// This path with `name` below it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<[u8]>) -> Self {
        let mut path = self.0.clone();
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_ref());
        Self(path)
    }

    /// The part before the last slash ("/" for a name right below the root).
    #[must_use]
    pub fn parent(&self) -> Self {
        match self.0.iter().rposition(|b| *b == b'/') {
            None | Some(0) => Self::from("/"),
            Some(slash) => Self(self.0.get(..slash).unwrap_or_default().to_vec()),
        }
    }

    /// The part after the last slash.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// The components, without empty ones and `.`; `..` stays.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|b| *b == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
    }
}

impl From<&str> for GuestPath {
    fn from(path: &str) -> Self {
        Self(path.as_bytes().to_vec())
    }
}

impl From<String> for GuestPath {
    fn from(path: String) -> Self {
        Self(path.into_bytes())
    }
}

impl From<&[u8]> for GuestPath {
    fn from(path: &[u8]) -> Self {
        Self(path.to_vec())
    }
}

impl From<Vec<u8>> for GuestPath {
    fn from(path: Vec<u8>) -> Self {
        Self(path)
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character == '\\' || character.is_control() {
                    let mut bytes = [0; 4];
                    for byte in character.encode_utf8(&mut bytes).bytes() {
                        write!(f, "\\x{byte:02x}")?;
                    }
                } else {
                    write!(f, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for GuestPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GuestPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some((plain, escaped)) = rest.split_once("\\x") {
            bytes.extend_from_slice(plain.as_bytes());
            let byte = escaped
                .get(..2)
                .and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.push(byte.ok_or_else(|| de::Error::custom("\\x is followed by two hexadecimal digits"))?);
            rest = escaped.get(2..).unwrap_or_default();
        }
        bytes.extend_from_slice(rest.as_bytes());
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_survive_json() {
        let path = GuestPath(b"/a\\b/\xff\n\xc3\xa9/\\x41".to_vec());
        let json = serde_json::to_string(&path).unwrap();
        assert_eq!(json, r#""/a\\x5cb/\\xff\\x0aé/\\x5cx41""#);
        assert_eq!(serde_json::from_str::<GuestPath>(&json).unwrap(), path);
    }

    #[test]
    fn parts_of_a_path() {
        let path = GuestPath::from("/etc/./default//grub");
        assert_eq!(
            path.components().collect::<Vec<_>>(),
            [&b"etc"[..], b"default", b"grub"]
        );
        assert_eq!(
            (path.name(), GuestPath::from("/etc").parent()),
            (&b"grub"[..], GuestPath::from("/"))
        );
        assert_eq!(
            GuestPath::from("/").join("boot").join("grub"),
            GuestPath::from("/boot/grub")
        );
    }
}
