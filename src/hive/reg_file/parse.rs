//! Reading a registration file.

use super::text::{CodePage, decode};
use crate::hive::{Name, ValueKind};
use std::collections::VecDeque;
use thiserror::Error;

/// What a registration file says, in its order.
#[derive(Clone, Debug, Default)]
pub struct RegFile {
    /// Key by key.
    pub sections: Vec<Section>,
}

/// What it says about one key.
#[derive(Clone, Debug)]
pub enum Section {
    /// `[path]`: the key is there, with these values.
    Key {
        /// As it stands there, with its `HKEY_…`.
        path: Vec<Name>,
        /// In order.
        values: Vec<ValueChange>,
    },
    /// `[-path]`: the key is not there, nor anything below it.
    Remove {
        /// As it stands there.
        path: Vec<Name>,
    },
}

/// What it says about one value.
#[derive(Clone, Debug)]
pub struct ValueChange {
    /// Empty for `@`.
    pub name: Name,
    /// Type and bytes; `None` for `-`: the value is not there.
    pub data: Option<(ValueKind, Vec<u8>)>,
}

/// Why a registration file cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {what}")]
pub struct RegFileError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

impl RegFileError {
    pub(super) fn new(line: usize, what: impl Into<String>) -> Self {
        Self {
            line,
            what: what.into(),
        }
    }
}

const LINE_FEED: u16 = b'\n' as u16;
const RETURN: u16 = b'\r' as u16;
const BACKSLASH: u16 = b'\\' as u16;
const QUOTE: u16 = b'"' as u16;
const SEMICOLON: u16 = b';' as u16;
const OPEN: u16 = b'[' as u16;
const CLOSE: u16 = b']' as u16;
const AT: u16 = b'@' as u16;
const MINUS: u16 = b'-' as u16;
const EQUALS: u16 = b'=' as u16;
const COMMA: u16 = b',' as u16;
const COLON: u16 = b':' as u16;

/// Reads the bytes of a file; `page` is what the strings of a REGEDIT4 are in.
///
/// # Errors
/// With the line that is wrong: nothing is guessed.
pub fn parse(bytes: &[u8], page: CodePage) -> Result<RegFile, RegFileError> {
    let (text, page) = decode(bytes, page)?;
    let mut parser = Parser {
        text: &text,
        at: 0,
        line: 1,
        page,
    };
    parser.header()?;
    let mut file = RegFile::default();
    while parser.next_statement() {
        match parser.peek() {
            Some(OPEN) => file.sections.push(parser.section()?),
            Some(QUOTE | AT) => {
                let line = parser.line;
                let value = parser.value()?;
                match file.sections.last_mut() {
                    Some(Section::Key { values, .. }) => values.push(value),
                    Some(Section::Remove { .. }) => {
                        return Err(RegFileError::new(line, "a value of a key that is removed"));
                    }
                    None => return Err(RegFileError::new(line, "a value before the first key")),
                }
            }
            _ => return Err(parser.wrong("a key in brackets or a value is expected")),
        }
    }
    Ok(file)
}

struct Parser<'t> {
    text: &'t [u16],
    at: usize,
    line: usize,
    /// Of a REGEDIT4: what the bytes of its strings are in.
    page: Option<CodePage>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u16> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u16> {
        let unit = self.peek()?;
        self.at = self.at.saturating_add(1);
        if unit == LINE_FEED {
            self.line = self.line.saturating_add(1);
        }
        Some(unit)
    }

    fn wrong(&self, what: impl Into<String>) -> RegFileError {
        RegFileError::new(self.line, what)
    }

    fn skip_while(&mut self, skipped: impl Fn(u16) -> bool) {
        while self.peek().is_some_and(&skipped) {
            self.next();
        }
    }

    fn skip_blanks(&mut self) {
        self.skip_while(is_blank);
    }

    /// Takes `text`, in whatever case, if it comes next.
    fn take(&mut self, text: &str) -> bool {
        let end = self.at.saturating_add(text.len());
        let next = self.text.get(self.at..end).unwrap_or_default();
        let same =
            |(unit, byte): (&u16, u8)| u8::try_from(*unit).is_ok_and(|unit| unit.eq_ignore_ascii_case(&byte));
        let there = next.len() == text.len() && next.iter().zip(text.bytes()).all(same);
        if there {
            self.at = end;
        }
        there
    }

    /// To the next thing that is neither blank nor a comment; false at the end.
    fn next_statement(&mut self) -> bool {
        loop {
            self.skip_while(|unit| is_blank(unit) || unit == LINE_FEED || unit == RETURN);
            match self.peek() {
                Some(SEMICOLON) => self.skip_while(|unit| unit != LINE_FEED),
                other => return other.is_some(),
            }
        }
    }

    /// The first line, if there is one: what hivexregedit reads needs none.
    fn header(&mut self) -> Result<(), RegFileError> {
        self.next_statement();
        if self.take("Windows Registry Editor Version 5.00") || self.take("REGEDIT4") {
            return self.end_of_line();
        }
        if self.take("Windows Registry Editor") || self.take("REGEDIT") {
            return Err(self.wrong("\"Windows Registry Editor Version 5.00\" or \"REGEDIT4\" is expected"));
        }
        Ok(())
    }

    /// Nothing but blanks and a comment are left in the line.
    fn end_of_line(&mut self) -> Result<(), RegFileError> {
        self.skip_blanks();
        if self.peek() == Some(SEMICOLON) {
            self.skip_while(|unit| unit != LINE_FEED);
        }
        if self.peek() == Some(RETURN) {
            self.next();
        }
        match self.peek() {
            None | Some(LINE_FEED) => Ok(()),
            Some(_) => Err(self.wrong("the line should end here")),
        }
    }

    /// `[path]` or `[-path]`. Names may have brackets in them: the last one of the line closes.
    fn section(&mut self) -> Result<Section, RegFileError> {
        self.next();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let line = rest.split(|unit| *unit == LINE_FEED).next().unwrap_or_default();
        let Some(end) = line.iter().rposition(|unit| *unit == CLOSE) else {
            return Err(self.wrong("the bracket is not closed"));
        };
        let inside = line.get(..end).unwrap_or_default();
        self.at = self.at.saturating_add(end).saturating_add(1);
        self.end_of_line()?;
        let names = |path: &[u16]| -> Vec<Name> {
            let names = path
                .split(|unit| *unit == BACKSLASH)
                .filter(|name| !name.is_empty());
            names.map(|name| Name::from_units(name.to_vec())).collect()
        };
        Ok(match inside.split_first() {
            Some((&MINUS, path)) => Section::Remove { path: names(path) },
            _ => Section::Key {
                path: names(inside),
                values: Vec::new(),
            },
        })
    }

    fn value(&mut self) -> Result<ValueChange, RegFileError> {
        let name = if self.peek() == Some(AT) {
            self.next();
            Name::default()
        } else {
            Name::from_units(self.quoted()?)
        };
        self.skip_blanks();
        if self.next() != Some(EQUALS) {
            return Err(self.wrong("`=` is expected behind the name of a value"));
        }
        self.skip_blanks();
        let data = self.data()?;
        self.end_of_line()?;
        Ok(ValueChange { name, data })
    }

    fn data(&mut self) -> Result<Option<(ValueKind, Vec<u8>)>, RegFileError> {
        if self.peek() == Some(QUOTE) {
            return Ok(Some((ValueKind::SZ, self.string()?)));
        }
        if self.take("-") {
            return Ok(None);
        }
        if self.take("dword:") {
            self.skip_blanks();
            let number = self.hexadecimal(8)?;
            return Ok(Some((ValueKind::DWORD, number.to_le_bytes().to_vec())));
        }
        if self.take("hex") {
            let kind = self.kind(ValueKind::BINARY)?;
            let bytes = self.bytes()?;
            return Ok(Some((kind, self.widened(kind, bytes))));
        }
        // What Wine writes.
        if self.take("str") {
            let kind = self.kind(ValueKind::SZ)?;
            return Ok(Some((kind, self.string()?)));
        }
        Err(self.wrong("a string in quotes, `dword:`, `hex:`, `hex(…):` or `-` is expected"))
    }

    /// `(n):` or `:`.
    fn kind(&mut self, otherwise: ValueKind) -> Result<ValueKind, RegFileError> {
        let mut kind = otherwise;
        if self.take("(") {
            kind = ValueKind(self.hexadecimal(8)?);
            if !self.take(")") {
                return Err(self.wrong("`)` is expected behind the type"));
            }
        }
        if self.next() == Some(COLON) {
            return Ok(kind);
        }
        Err(self.wrong("`:` is expected behind the type"))
    }

    /// Up to `most` hexadecimal digits, at least one.
    fn hexadecimal(&mut self, most: usize) -> Result<u32, RegFileError> {
        let mut digits: u32 = 0;
        let mut count: usize = 0;
        while let Some(digit) = self.peek().and_then(digit) {
            digits = digits << 4 | u32::from(digit);
            count = count.saturating_add(1);
            self.next();
        }
        if count == 0 || count > most {
            return Err(self.wrong(format!("1 to {most} hexadecimal digits are expected")));
        }
        Ok(digits)
    }

    /// Bytes with commas between them, on as many lines as end in a backslash.
    fn bytes(&mut self) -> Result<Vec<u8>, RegFileError> {
        let mut bytes = Vec::new();
        loop {
            self.skip_blanks();
            match self.peek() {
                Some(BACKSLASH) => {
                    self.next();
                    self.end_of_line()?;
                    self.next();
                }
                Some(unit) if digit(unit).is_some() => {
                    let byte = self.hexadecimal(2)?;
                    bytes.extend(u8::try_from(byte));
                    self.skip_blanks();
                    match self.peek() {
                        Some(COMMA) => {
                            self.next();
                        }
                        Some(unit) if digit(unit).is_some() => {
                            return Err(self.wrong("a comma is expected between bytes"));
                        }
                        _ => {}
                    }
                }
                _ => return Ok(bytes),
            }
        }
    }

    /// In a REGEDIT4 the bytes of text are in its code page; in a hive they are UTF-16.
    fn widened(&self, kind: ValueKind, bytes: Vec<u8>) -> Vec<u8> {
        match self.page {
            Some(page) if matches!(kind, ValueKind::SZ | ValueKind::EXPAND_SZ | ValueKind::MULTI_SZ) => page
                .decode(&bytes)
                .into_iter()
                .flat_map(u16::to_le_bytes)
                .collect(),
            _ => bytes,
        }
    }

    /// The bytes of a string in quotes, with the zero at its end that goes without saying.
    fn string(&mut self) -> Result<Vec<u8>, RegFileError> {
        let mut text = self.quoted()?;
        text.push(0);
        Ok(text.into_iter().flat_map(u16::to_le_bytes).collect())
    }

    /// What stands in quotes; a backslash takes the next character as it is. May go over several lines.
    fn quoted(&mut self) -> Result<Vec<u16>, RegFileError> {
        let line = self.line;
        let mut text = VecDeque::new();
        if self.next() != Some(QUOTE) {
            return Err(self.wrong("a string in quotes is expected"));
        }
        loop {
            match self.next() {
                Some(QUOTE) => return Ok(text.into()),
                Some(BACKSLASH) => text.extend(self.next()),
                Some(unit) => text.push_back(unit),
                None => return Err(RegFileError::new(line, "the quote that begins here has no end")),
            }
        }
    }
}

fn is_blank(unit: u16) -> bool {
    unit == u16::from(b' ') || unit == u16::from(b'\t')
}

fn digit(unit: u16) -> Option<u8> {
    let digit = char::from_u32(u32::from(unit))?.to_digit(16)?;
    u8::try_from(digit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hive::encode_text;

    type Data = Option<(ValueKind, Vec<u8>)>;

    fn values(text: &str) -> Vec<(String, Data)> {
        let file = parse(text.as_bytes(), CodePage::default()).unwrap();
        let Some(Section::Key { values, .. }) = file.sections.into_iter().next() else {
            panic!("no key");
        };
        values
            .into_iter()
            .map(|value| (value.name.to_string(), value.data))
            .collect()
    }

    fn data(text: &str) -> (ValueKind, Vec<u8>) {
        let text = format!("Windows Registry Editor Version 5.00\n\n[a]\n\"x\"={text}\n");
        values(&text).remove(0).1.unwrap()
    }

    #[test]
    fn data_of_every_form_is_read() {
        assert_eq!(data("\"a\\\\b\\\"c\""), (ValueKind::SZ, encode_text("a\\b\"c")));
        assert_eq!(
            data("dword:0000001f ; comment"),
            (ValueKind::DWORD, vec![0x1f, 0, 0, 0])
        );
        assert_eq!(data("hex:01,FF"), (ValueKind::BINARY, vec![1, 255]));
        assert_eq!(data("hex:"), (ValueKind::BINARY, vec![]));
        assert_eq!(
            data("hex(b):01,\\\r\n  02,\\  \n\t03"),
            (ValueKind::QWORD, vec![1, 2, 3])
        );
        assert_eq!(data("hex(200000):0a"), (ValueKind(0x0020_0000), vec![10]));
        assert_eq!(data("hex(2):61,00"), (ValueKind::EXPAND_SZ, vec![0x61, 0]));
        assert_eq!(data("str(2):\"a\""), (ValueKind::EXPAND_SZ, encode_text("a")));
        assert_eq!(data("\"two\nlines\""), (ValueKind::SZ, encode_text("two\nlines")));
    }

    #[test]
    fn keys_and_values_come_and_go() {
        let text = "REGEDIT4\r\n\r\n; comment\r\n[HKEY_LOCAL_MACHINE\\a[1]\\b]\r\n@=\"\"\r\n\"gone\"=-\r\n\r\n[-x\\y]\r\n";
        let file = parse(text.as_bytes(), CodePage::default()).unwrap();
        let [Section::Key { path, values }, Section::Remove { path: removed }] = file.sections.as_slice()
        else {
            panic!("{file:?}");
        };
        assert_eq!(
            path.iter().map(Name::to_string).collect::<Vec<_>>(),
            ["HKEY_LOCAL_MACHINE", "a[1]", "b"]
        );
        assert_eq!(removed.len(), 2);
        assert!(values[0].name.is_empty() && values[1].data.is_none());
    }

    #[test]
    fn text_in_a_regedit4_is_in_its_code_page() {
        let mut bytes = b"REGEDIT4\n[a]\n\"\xe4\"=\"\x80\"\n\"m\"=hex(7):80,00,00\n\"b\"=hex:80\n".to_vec();
        let file = parse(&bytes, CodePage::default()).unwrap();
        let Some(Section::Key { values, .. }) = file.sections.first() else {
            panic!("no key");
        };
        assert_eq!(values[0].name.to_string(), "\u{e4}");
        assert_eq!(values[0].data, Some((ValueKind::SZ, encode_text("\u{20ac}"))));
        assert_eq!(
            values[1].data,
            Some((ValueKind::MULTI_SZ, vec![0xac, 0x20, 0, 0, 0, 0]))
        );
        assert_eq!(values[2].data, Some((ValueKind::BINARY, vec![0x80])));
        bytes.truncate(bytes.len() - 1);
        parse(&bytes, CodePage::default()).unwrap();
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line) in [
            ("[a", 1),
            ("\n\"x\"=\"a\"", 2),
            ("[a]\n\"x\"", 2),
            ("[a]\n\"x\"=\"a", 2),
            ("[a]\n\"x\"=dword:123456789", 2),
            ("[a]\n\"x\"=dword:", 2),
            ("[a]\n\"x\"=hex:1 2", 2),
            ("[a]\n\"x\"=hex:123", 2),
            ("[a]\n\"x\"=hex(:1", 2),
            ("[a]\n\"x\"=hex(3:1", 2),
            ("[a]\n\"x\"=hex:1,\\x", 2),
            ("[a]\n\"x\"=1", 2),
            ("[a]\n\"x\"=\"a\" b", 2),
            ("[-a]\n\"x\"=\"a\"", 2),
            ("Windows Registry Editor Version 6.00\n", 1),
            ("[a] b\n", 1),
            ("text\n", 1),
        ] {
            let error = parse(text.as_bytes(), CodePage::default()).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
        }
    }
}
