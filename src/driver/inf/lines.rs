//! From the text of an INF file to sections, lines and fields, by the rules of SetupAPI (Windows driver documentation,
//! "General Syntax Rules for INF Files"): a section that occurs twice is one; blanks around fields do not count; a quoted
//! part keeps commas, semicolons and blanks, and a doubled quote in it is one; a backslash at the end of a line joins the next one.

use super::InfError;
use std::collections::HashMap;

/// Sections of one file. The largest INF files of Windows have about 8000.
const MOST_SECTIONS: usize = 100_000;
/// Fields of one file, keys among them: what keeps memory bounded when a file is all commas.
const MOST_FIELDS: usize = 300_000;
/// SetupAPI refuses longer names (`MAX_SECT_NAME_LEN`).
const LONGEST_SECTION_NAME: usize = 255;

/// One line of a section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RawLine {
    /// What stands before `=`.
    pub(super) key: Option<Box<str>>,
    /// What stands between commas behind it.
    pub(super) fields: Vec<Box<str>>,
    /// Counted from 1, of its beginning.
    pub(super) number: u32,
}

/// One section: all parts of that name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RawSection {
    /// As it is spelled first.
    pub(super) name: Box<str>,
    /// In order.
    pub(super) lines: Vec<RawLine>,
}

/// All sections in order of first appearance, and their places by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sections {
    pub(super) list: Vec<RawSection>,
    /// By the name in lower case.
    pub(super) places: HashMap<String, usize>,
}

impl Sections {
    pub(super) fn get(&self, name: &str) -> Option<&RawSection> {
        self.places
            .get(&name.to_lowercase())
            .and_then(|place| self.list.get(*place))
    }
}

pub(super) fn parse(text: &str) -> Result<Sections, InfError> {
    let mut parser = Parser {
        rest: text,
        line: 1,
        fields: 0,
    };
    let mut sections = Sections::default();
    let mut current = None;
    while let Some(next) = parser.next_character() {
        match next {
            '[' => current = Some(sections.enter(parser.section_name()?, parser.line)?),
            _ => {
                let entry = parser.entry()?;
                // Comments in the way of C stand at the top of Microsoft's own files.
                let place: Option<usize> = current;
                if let Some(section) = place.and_then(|place| sections.list.get_mut(place)) {
                    section.lines.push(entry);
                }
            }
        }
    }
    Ok(sections)
}

impl Sections {
    /// The place of the section of that name, which is made if there is none.
    fn enter(&mut self, name: &str, line: u32) -> Result<usize, InfError> {
        let key = name.to_lowercase();
        if let Some(place) = self.places.get(&key) {
            return Ok(*place);
        }
        if self.list.len() >= MOST_SECTIONS {
            return Err(InfError::TooManySections {
                line,
                most: MOST_SECTIONS,
            });
        }
        let place = self.list.len();
        self.places.insert(key, place);
        self.list.push(RawSection {
            name: name.into(),
            lines: Vec::new(),
        });
        Ok(place)
    }
}

struct Parser<'a> {
    rest: &'a str,
    /// Of the beginning of `rest`, counted from 1.
    line: u32,
    fields: usize,
}

impl<'a> Parser<'a> {
    /// The first character that is neither blank nor in a comment; it is not taken.
    fn next_character(&mut self) -> Option<char> {
        loop {
            let next = self.rest.chars().next()?;
            match next {
                ';' => self.skip_line(),
                '\n' => {
                    self.line = self.line.saturating_add(1);
                    self.take(1);
                }
                blank if is_blank(blank) => {
                    self.take(blank.len_utf8());
                }
                other => return Some(other),
            }
        }
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    /// Up to the end of the line, which is not taken.
    fn skip_line(&mut self) {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        self.take(end);
    }

    /// The name in brackets at the beginning of `rest`, and the rest of its line, which does not count.
    fn section_name(&mut self) -> Result<&'a str, InfError> {
        self.take(1);
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let line = self.rest.get(..end).unwrap_or_default();
        let Some((name, _)) = line.split_once(']') else {
            return Err(InfError::UnfinishedSectionName { line: self.line });
        };
        let name = name.trim_matches(is_blank);
        if name.chars().count() > LONGEST_SECTION_NAME {
            return Err(InfError::LongSectionName {
                line: self.line,
                most: LONGEST_SECTION_NAME,
            });
        }
        self.skip_line();
        Ok(name)
    }

    /// One line with what a backslash joins to it.
    fn entry(&mut self) -> Result<RawLine, InfError> {
        let mut line = RawLine {
            number: self.line,
            ..RawLine::default()
        };
        let mut field = Field::default();
        while let Some(next) = self.rest.chars().next() {
            match next {
                '\n' => break,
                ';' => {
                    self.skip_line();
                    break;
                }
                '"' => {
                    self.take(1);
                    self.quoted(&mut field);
                }
                '\\' => self.backslash(&mut field),
                ',' => {
                    self.take(1);
                    self.count()?;
                    line.fields.push(field.finish());
                }
                '=' if line.key.is_none() && line.fields.is_empty() => {
                    self.take(1);
                    self.count()?;
                    line.key = Some(field.finish());
                }
                other => {
                    self.take(other.len_utf8());
                    field.push(other);
                }
            }
        }
        self.count()?;
        line.fields.push(field.finish());
        Ok(line)
    }

    fn count(&mut self) -> Result<(), InfError> {
        self.fields = self.fields.saturating_add(1);
        if self.fields > MOST_FIELDS {
            return Err(InfError::TooManyFields {
                line: self.line,
                most: MOST_FIELDS,
            });
        }
        Ok(())
    }

    /// Behind an opening quote: up to the closing one, or to the end of the line.
    fn quoted(&mut self, field: &mut Field) {
        field.begin();
        loop {
            let end = self.rest.find(['"', '\n']).unwrap_or(self.rest.len());
            field.push_kept(self.take(end));
            if !self.rest.starts_with('"') {
                return;
            }
            self.take(1);
            if !self.rest.starts_with('"') {
                return;
            }
            field.push_kept(self.take(1));
        }
    }

    /// At a backslash: with nothing but blanks and a comment behind it the next line goes on with this field, else it
    /// stands for itself.
    fn backslash(&mut self, field: &mut Field) {
        let end = self.rest.find(|c| c != '\\' && (c == '\n' || !is_blank(c)));
        let end = end.unwrap_or(self.rest.len());
        let behind = self.rest.get(end..).unwrap_or_default();
        if !behind.is_empty() && !behind.starts_with(['\n', ';']) {
            let taken = self.take(end);
            field.push_kept(taken);
            return;
        }
        self.skip_line();
        if self.rest.starts_with('\n') {
            self.take(1);
            self.line = self.line.saturating_add(1);
        }
        field.join();
    }
}

/// A field that is being put together.
#[derive(Default)]
struct Field {
    text: String,
    /// How much of `text` stays when the blanks at its end are cut off.
    kept: usize,
    /// Blanks count now: something stood before them on this line.
    begun: bool,
}

impl Field {
    fn begin(&mut self) {
        self.begun = true;
    }

    fn push(&mut self, character: char) {
        let blank = is_blank(character);
        if blank && !self.begun {
            return;
        }
        // A zero byte in the text of a file is a blank to SetupAPI.
        self.text.push(if character == '\0' { ' ' } else { character });
        self.begun = true;
        if !blank {
            self.kept = self.text.len();
        }
    }

    fn push_kept(&mut self, text: &str) {
        self.text
            .extend(text.chars().map(|c| if c == '\0' { ' ' } else { c }));
        self.kept = self.text.len();
        self.begun = true;
    }

    /// The line ends here and goes on below.
    fn join(&mut self) {
        self.text.truncate(self.kept);
        self.begun = false;
    }

    fn finish(&mut self) -> Box<str> {
        self.text.truncate(self.kept);
        let text = self.text.as_str().into();
        self.text.clear();
        self.kept = 0;
        self.begun = false;
        text
    }
}

fn is_blank(character: char) -> bool {
    character.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `section|key|field|field` of every line.
    fn shown(text: &str) -> Vec<String> {
        let sections = parse(text).unwrap();
        let mut shown = Vec::new();
        for section in &sections.list {
            for line in &section.lines {
                let key = line.key.as_deref().unwrap_or("-");
                shown.push(format!("{}|{}|{}", section.name, key, line.fields.join("|")));
            }
        }
        shown
    }

    #[test]
    fn fields_are_cut_as_setupapi_cuts_them() {
        for (text, expected) in [
            ("a=b", "s|a|b"),
            ("  a b  =  c  d  ", "s|a b|c  d"),
            ("a", "s|-|a"),
            ("a,b", "s|-|a|b"),
            ("a=b=c", "s|a|b=c"),
            ("a=,b,", "s|a||b|"),
            ("=x", "s||x"),
            ("a = ; comment", "s|a|"),
            ("a=b ; c", "s|a|b"),
            ("a=\"b ; c, d = e \" ; f", "s|a|b ; c, d = e "),
            ("a=\"say \"\"yes\"\" \"", "s|a|say \"yes\" "),
            ("a=\"open ; end", "s|a|open ; end"),
            ("a=pre\" in \"post", "s|a|pre in post"),
            ("\"a = b\" = c", "s|a = b|c"),
            ("a=b, \\\n  c", "s|a|b|c"),
            ("a=b \\ ; why\n  c", "s|a|bc"),
            ("a=b\\c\\ d", "s|a|b\\c\\ d"),
            ("a=c:\\", "s|a|c:"),
            ("a=%10%\\x", "s|a|%10%\\x"),
            ("a=\"c:\\\"", "s|a|c:\\"),
            ("a=b\r", "s|a|b"),
        ] {
            assert_eq!(shown(&format!("[s]\n{text}\n")), [expected], "{text:?}");
        }
    }

    #[test]
    fn sections_of_one_name_are_one() {
        let text = "[A] anything\nx=1\n[b]\ny=2\n[ a ]\nz=3 ; [c]\n";
        assert_eq!(shown(text), ["A|x|1", "A|z|3", "b|y|2"]);
        let sections = parse(text).unwrap();
        assert_eq!(sections.get("B").unwrap().lines[0].number, 4);
        assert_eq!(sections.get("c"), None);
    }

    #[test]
    fn what_is_no_inf_file_is_refused() {
        assert_eq!(shown("/*++\nx=1,2 [s]\n[a]\nx=1"), ["a|x|1"]);
        assert_eq!(parse("[a\nx=1"), Err(InfError::UnfinishedSectionName { line: 1 }));
        let long = format!("[{}]", "n".repeat(256));
        assert!(matches!(
            parse(&long),
            Err(InfError::LongSectionName { line: 1, .. })
        ));
        let commas = format!("[a]\n{}", ",".repeat(MOST_FIELDS));
        assert!(matches!(parse(&commas), Err(InfError::TooManyFields { .. })));
        let many: String = (0..=MOST_SECTIONS).map(|n| format!("[{n}]\n")).collect();
        assert!(matches!(parse(&many), Err(InfError::TooManySections { .. })));
    }
}
