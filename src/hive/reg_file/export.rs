//! Writing a registration file.

use super::text::{BOM, Style};
use crate::{
    disk::Error,
    hive::{Hive, Key, Name, Result, Value, ValueKind, encode_text, name::units},
};
use std::io::{self, Write};

/// Characters of a line of bytes, as regedit has them.
const LINE: usize = 77;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Keys.
    pub keys: usize,
    /// Values.
    pub values: usize,
    /// Keys and values whose names, or text, the format cannot hold; they are not in the file.
    pub left_out: Vec<String>,
}

/// Writes `key` and all below it; `prefix` is the path of `key` as the file is to have it, such as `HKEY_LOCAL_MACHINE\SYSTEM`.
///
/// # Errors
/// Those of reading the hive, which is checked first, and of `out`.
pub fn export(
    hive: &Hive,
    key: &Key<'_>,
    prefix: &str,
    style: Style,
    out: &mut dyn Write,
) -> Result<Exported> {
    hive.check()?;
    let mut exporter = Exporter {
        style,
        out,
        done: Exported::default(),
    };
    let written = |error| Error::io("registration file", error);
    if style == Style::Version5 {
        exporter.put(&[BOM]).map_err(written)?;
    }
    exporter.line(style.header()).map_err(written)?;
    exporter.line("").map_err(written)?;
    hive.walk(key, &mut |path, key| exporter.key(prefix, path, key))?;
    exporter.out.flush().map_err(written)?;
    Ok(exporter.done)
}

struct Exporter<'o> {
    style: Style,
    out: &'o mut dyn Write,
    done: Exported,
}

impl Exporter<'_> {
    fn key(&mut self, prefix: &str, path: &[Name], key: &Key<'_>) -> Result<()> {
        let written = |error| Error::io("registration file", error);
        let mut full: Vec<u16> = prefix.trim_end_matches('\\').encode_utf16().collect();
        for name in path {
            full.push(u16::from(b'\\'));
            full.extend(name.units());
        }
        if full.is_empty() {
            full.push(u16::from(b'\\'));
        }
        let broken = full.iter().any(|unit| matches!(unit, 0 | 0x0a | 0x0d));
        if broken || self.style.encode(&full).is_none() {
            self.done.left_out.push(String::from_utf16_lossy(&full));
            return Ok(());
        }
        self.put_text("[")
            .and_then(|()| self.put(&full))
            .and_then(|()| self.line("]"))
            .map_err(written)?;
        self.done.keys = self.done.keys.saturating_add(1);
        for value in key.values()? {
            match self.value(&value)? {
                Some(line) => {
                    self.put(&line).and_then(|()| self.line("")).map_err(written)?;
                    self.done.values = self.done.values.saturating_add(1);
                }
                None => {
                    let text = format!("{}: {}", String::from_utf16_lossy(&full), value.name());
                    self.done.left_out.push(text);
                }
            }
        }
        self.line("").map_err(written)
    }

    /// The line of a value; `None` if the format cannot hold it.
    fn value(&self, value: &Value<'_>) -> Result<Option<Vec<u16>>> {
        let mut line = Vec::new();
        if value.name().is_empty() {
            line.extend("@=".encode_utf16());
        } else {
            if value.name().units().contains(&0) {
                return Ok(None);
            }
            quote(value.name().units(), &mut line);
            line.extend("=".encode_utf16());
        }
        let data = value.data()?;
        match (value.kind(), &*data) {
            (ValueKind::DWORD, [a, b, c, d]) => {
                let number = u32::from_le_bytes([*a, *b, *c, *d]);
                line.extend(format!("dword:{number:08x}").encode_utf16());
            }
            (ValueKind::SZ, data) if self.is_plain_text(data) => {
                let text: Vec<u16> = units(data).take_while(|unit| *unit != 0).collect();
                quote(&text, &mut line);
            }
            (kind, data) => {
                let Some(data) = self.narrowed(kind, data) else {
                    return Ok(None);
                };
                let kind = match kind {
                    ValueKind::BINARY => "hex:".to_owned(),
                    ValueKind(number) => format!("hex({number:x}):"),
                };
                line.extend(kind.encode_utf16());
                self.hexadecimal(&data, &mut line);
            }
        }
        Ok(self.style.encode(&line).is_some().then_some(line))
    }

    /// Would reading the string in quotes give exactly these bytes, on one line?
    fn is_plain_text(&self, data: &[u8]) -> bool {
        let text: Vec<u16> = units(data).take_while(|unit| *unit != 0).collect();
        String::from_utf16(&text).is_ok_and(|text| {
            !text.contains(['\n', '\r'])
                && encode_text(&text) == data
                && self.style.encode(&to_units(&text)).is_some()
        })
    }

    /// In a REGEDIT4 the bytes of text are in its code page; `None` if they cannot be.
    fn narrowed(&self, kind: ValueKind, data: &[u8]) -> Option<Vec<u8>> {
        match self.style {
            Style::Regedit4(page)
                if matches!(kind, ValueKind::SZ | ValueKind::EXPAND_SZ | ValueKind::MULTI_SZ) =>
            {
                if !data.len().is_multiple_of(2) {
                    return None;
                }
                let units: Vec<u16> = units(data).collect();
                page.encode(&String::from_utf16(&units).ok()?)
            }
            _ => Some(data.to_vec()),
        }
    }

    fn hexadecimal(&self, data: &[u8], line: &mut Vec<u16>) {
        let mut column = line.len();
        for (index, byte) in data.iter().enumerate() {
            let last = index.saturating_add(1) == data.len();
            let text = if last {
                format!("{byte:02x}")
            } else {
                format!("{byte:02x},")
            };
            column = column.saturating_add(text.len());
            line.extend(text.encode_utf16());
            if column >= LINE.saturating_sub(1) && !last {
                line.push(u16::from(b'\\'));
                line.extend(self.style.line_end().encode_utf16());
                line.extend("  ".encode_utf16());
                column = 2;
            }
        }
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        self.put_text(text)?;
        self.put_text(self.style.line_end())
    }

    fn put_text(&mut self, text: &str) -> io::Result<()> {
        self.put(&to_units(text))
    }

    fn put(&mut self, text: &[u16]) -> io::Result<()> {
        let unsayable = || io::Error::other("a text that the encoding of the file cannot hold");
        self.out
            .write_all(&self.style.encode(text).ok_or_else(unsayable)?)
    }
}

fn to_units(text: &str) -> Vec<u16> {
    text.encode_utf16().collect()
}

fn quote(text: &[u16], line: &mut Vec<u16>) {
    let (quote, backslash) = (u16::from(b'"'), u16::from(b'\\'));
    line.push(quote);
    for unit in text {
        if *unit == quote || *unit == backslash {
            line.push(backslash);
        }
        line.push(*unit);
    }
    line.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hive::{Version, encode_strings, reg_file::CodePage};

    fn sample() -> Hive {
        let mut hive = Hive::create("new", Version::Latest, 0).unwrap();
        let mut editor = hive.edit(0).unwrap();
        let key = editor.make_path("A\\B \u{43a}").unwrap();
        editor
            .set_value(key, "", ValueKind::SZ, &encode_text("a \"b\" \\"))
            .unwrap();
        editor
            .set_value(key, "n\"", ValueKind::DWORD, &[1, 0, 0, 0])
            .unwrap();
        editor.set_value(key, "short", ValueKind::DWORD, &[1]).unwrap();
        editor
            .set_value(key, "two", ValueKind::SZ, &encode_text("a\nb"))
            .unwrap();
        editor
            .set_value(key, "list", ValueKind::MULTI_SZ, &encode_strings(&["a", "b"]))
            .unwrap();
        editor
            .set_value(key, "long", ValueKind::BINARY, &[0xab; 40])
            .unwrap();
        editor.commit().unwrap();
        hive
    }

    fn text(style: Style, prefix: &str) -> (String, Exported) {
        let hive = sample();
        let mut out = Vec::new();
        let done = export(&hive, &hive.root().unwrap(), prefix, style, &mut out).unwrap();
        let text = match style {
            Style::Version5 => String::from_utf16(&units(&out).collect::<Vec<_>>()).unwrap(),
            _ => String::from_utf8(out).unwrap(),
        };
        (text, done)
    }

    #[test]
    fn it_looks_as_regedit_writes_it() {
        let (text, done) = text(Style::Version5, "HKEY_LOCAL_MACHINE\\X");
        let expected = "\u{feff}Windows Registry Editor Version 5.00\r\n\r\n\
             [HKEY_LOCAL_MACHINE\\X]\r\n\r\n\
             [HKEY_LOCAL_MACHINE\\X\\A]\r\n\r\n\
             [HKEY_LOCAL_MACHINE\\X\\A\\B \u{43a}]\r\n\
             @=\"a \\\"b\\\" \\\\\"\r\n\
             \"n\\\"\"=dword:00000001\r\n\
             \"short\"=hex(4):01\r\n\
             \"two\"=hex(1):61,00,0a,00,62,00,00,00\r\n\
             \"list\"=hex(7):61,00,00,00,62,00,00,00,00,00\r\n\
             \"long\"=hex:ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,\\\r\n  \
             ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab,ab\r\n\r\n";
        assert_eq!(text, expected);
        assert_eq!((done.keys, done.values, done.left_out.len()), (3, 6, 0));
    }

    #[test]
    fn a_regedit4_leaves_out_what_its_code_page_has_not() {
        let (text, done) = text(Style::Regedit4(CodePage::default()), "");
        assert!(
            text.starts_with("REGEDIT4\r\n\r\n[\\]\r\n\r\n[\\A]\r\n"),
            "{text}"
        );
        assert_eq!(done.left_out, ["\\A\\B \u{43a}"]);
    }
}
