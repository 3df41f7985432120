//! Where an export is: the NBD project's `doc/uri.md`.

use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    str::FromStr,
};
use thiserror::Error;

/// The port that IANA has given to NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// `doc/proto.md`, "Protocol strings": no name is longer, in bytes.
const LONGEST_NAME: usize = 4096;

/// `nbd://host[:port]/export` or `nbd+unix:///export?socket=/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// How the server is reached.
    pub transport: Transport,
    /// Name of the export there; empty: the server's default.
    pub export: String,
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Over the network.
    Tcp {
        /// Name or address, without the brackets of an IPv6 address.
        host: String,
        /// [`DEFAULT_PORT`] where the address names none.
        port: u16,
    },
    /// On this host.
    Unix {
        /// The socket.
        socket: PathBuf,
    },
}

/// Why a text is no address of an export.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Another scheme.
    #[error("does not begin with nbd:// or nbd+unix://")]
    Scheme,
    /// An encrypted connection was asked for.
    #[error(
        "asks for TLS, which is not spoken here: carry the connection through `ssh -N -L 10809:localhost:10809 SERVER` \
         and name nbd://localhost/ instead"
    )]
    Tls,
    /// `nbd:///export`.
    #[error(
        "names no host: nbd://HOST[:PORT]/EXPORT, or nbd+unix:///EXPORT?socket=PATH for a socket of this host"
    )]
    NoHost,
    /// `nbd+unix://host/`.
    #[error(
        "names the host \"{0}\" for a socket of this host: three slashes, nbd+unix:///EXPORT?socket=PATH"
    )]
    Host(String),
    /// `nbd+unix:///export`.
    #[error("names no socket: nbd+unix:///EXPORT?socket=PATH")]
    NoSocket,
    /// No number from 1 to 65535.
    #[error("\"{0}\" is no port")]
    Port(String),
    /// An address in brackets that do not close.
    #[error("the bracket of an IPv6 address is not closed")]
    Bracket,
    /// What follows the question mark.
    #[error("\"{0}\" is no parameter that is known here; there is: socket")]
    Parameter(String),
    /// `%` without two hexadecimal digits.
    #[error("\"%\" must be followed by two hexadecimal digits; a percent sign is %25")]
    Percent,
    /// NUL, or no UTF-8.
    #[error("the name of the export must be UTF-8 without NUL, of at most {LONGEST_NAME} bytes")]
    Export,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::Scheme)?;
        // RFC 3986, section 3.1: schemes are case-insensitive.
        let unix = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => false,
            "nbd+unix" => true,
            "nbds" | "nbds+unix" => return Err(AddressError::Tls),
            _ => return Err(AddressError::Scheme),
        };
        // Fragments have no meaning here, and a name with a "#" in it may come unescaped.
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut socket = None;
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("socket", path)) if unix && !path.is_empty() => {
                    socket = Some(PathBuf::from(OsString::from_vec(decoded(path)?)));
                }
                _ => return Err(AddressError::Parameter(parameter.to_owned())),
            }
        }
        let transport = match (unix, socket) {
            (true, Some(socket)) if authority.is_empty() => Transport::Unix { socket },
            (true, Some(_)) => return Err(AddressError::Host(authority.to_owned())),
            (true, None) => return Err(AddressError::NoSocket),
            (false, _) => tcp(authority)?,
        };
        let export = String::from_utf8(decoded(path)?).map_err(|_| AddressError::Export)?;
        if export.contains('\0') || export.len() > LONGEST_NAME {
            return Err(AddressError::Export);
        }
        Ok(Self { transport, export })
    }
}

/// `[user@]host[:port]`; whom a server knows by name it asks for in TLS only.
fn tcp(authority: &str) -> Result<Transport, AddressError> {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(AddressError::Bracket)?;
            let port = after.strip_prefix(':');
            if port.is_none() && !after.is_empty() {
                return Err(AddressError::Port(after.to_owned()));
            }
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port.filter(|port| !port.is_empty()) {
        None => DEFAULT_PORT,
        Some(text) => match text.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(AddressError::Port(text.to_owned())),
        },
    };
    let host = String::from_utf8(decoded(host)?).map_err(|_| AddressError::NoHost)?;
    if host.is_empty() {
        return Err(AddressError::NoHost);
    }
    Ok(Transport::Tcp { host, port })
}

/// RFC 3986, section 2.1.
fn decoded(text: &str) -> Result<Vec<u8>, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let value = match (digit(), digit()) {
            (Some(high), Some(low)) => high * 16 + low,
            _ => return Err(AddressError::Percent),
        };
        bytes.push(u8::try_from(value).map_err(|_| AddressError::Percent)?);
    }
    Ok(bytes)
}

/// RFC 3986, section 2.3: what need not be escaped, and slashes, which may stand in a path and in a query.
fn encode(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                write!(f, "{}", char::from(*byte))?;
            }
            _ => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.transport {
            Transport::Tcp { host, port } => {
                f.write_str("nbd://")?;
                if host.contains(':') {
                    write!(f, "[{host}]")?;
                } else {
                    encode(f, host.as_bytes())?;
                }
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                f.write_str("/")?;
                encode(f, self.export.as_bytes())
            }
            Transport::Unix { socket } => {
                f.write_str("nbd+unix:///")?;
                encode(f, self.export.as_bytes())?;
                f.write_str("?socket=")?;
                encode(f, socket.as_os_str().as_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, export: &str) -> Address {
        Address {
            transport: Transport::Tcp {
                host: host.to_owned(),
                port,
            },
            export: export.to_owned(),
        }
    }

    fn unix(socket: &str, export: &str) -> Address {
        Address {
            transport: Transport::Unix {
                socket: socket.into(),
            },
            export: export.to_owned(),
        }
    }

    #[test]
    fn addresses_are_read_as_the_specification_has_them() {
        for (text, address) in [
            ("nbd://example.com/disk", tcp("example.com", 10809, "disk")),
            ("nbd://example.com", tcp("example.com", 10809, "")),
            ("nbd://example.com/", tcp("example.com", 10809, "")),
            ("nbd://example.com//disk", tcp("example.com", 10809, "/disk")),
            (
                "nbd://example.com:99/hello%20world",
                tcp("example.com", 99, "hello world"),
            ),
            ("NBD://user@10.0.0.1:1/", tcp("10.0.0.1", 1, "")),
            ("nbd://[fe80::1]/a/b", tcp("fe80::1", 10809, "a/b")),
            ("nbd://[::1]:10810/", tcp("::1", 10810, "")),
            ("nbd+unix:///disk?socket=sock", unix("sock", "disk")),
            ("nbd+unix:///?socket=/run/a%20b", unix("/run/a b", "")),
            ("nbd+unix://?socket=/run/a", unix("/run/a", "")),
        ] {
            assert_eq!(text.parse::<Address>().as_ref(), Ok(&address), "{text}");
            assert_eq!(
                address.to_string().parse::<Address>().as_ref(),
                Ok(&address),
                "{address}"
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, error) in [
            ("disk.raw", AddressError::Scheme),
            ("http://x/", AddressError::Scheme),
            ("nbds://x/", AddressError::Tls),
            ("nbds+unix:///?socket=x", AddressError::Tls),
            ("nbd:///disk", AddressError::NoHost),
            ("nbd+unix:///disk", AddressError::NoSocket),
            ("nbd+unix://host/disk?socket=x", AddressError::Host("host".into())),
            ("nbd://host:0/", AddressError::Port("0".into())),
            ("nbd://host:65536/", AddressError::Port("65536".into())),
            ("nbd://[::1/", AddressError::Bracket),
            ("nbd://[::1]x/", AddressError::Port("x".into())),
            ("nbd://h/?socket=x", AddressError::Parameter("socket=x".into())),
            (
                "nbd+unix:///?socket=x&tls=1",
                AddressError::Parameter("tls=1".into()),
            ),
            ("nbd://h/%2", AddressError::Percent),
            ("nbd://h/%zz", AddressError::Percent),
            ("nbd://h/%00", AddressError::Export),
            ("nbd://h/%ff", AddressError::Export),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }
}
