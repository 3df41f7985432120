//! `%name%` in the fields of an INF file: a text of the section `[Strings]`, or of one for a language; a folder, where
//! the name is a number; `%%` is one percent sign. What names nothing stays as it is (Windows driver documentation, "INF
//! Strings Section").

use super::{directories::Folders, lines::Sections};
use std::{borrow::Cow, collections::HashMap};

/// The primary language of a language identifier (`PRIMARYLANGID` of `winnt.h`).
const PRIMARY: u16 = 0x3ff;
/// The usual form of a language (`SUBLANG_DEFAULT`), in place.
const USUAL: u16 = 1 << 10;

#[derive(Clone, Debug, Default)]
pub(super) struct Strings {
    /// By the name in lower case.
    texts: HashMap<String, Box<str>>,
}

impl Strings {
    /// Of `[Strings]`, and of the section for `language` that Windows would take: its own, that of the language without
    /// a country, that of its usual form.
    pub(super) fn new(sections: &Sections, language: Option<u16>) -> Self {
        let mut names = vec!["strings".to_owned()];
        if let Some(language) = language {
            let primary = language & PRIMARY;
            let candidates = [language, primary, primary | USUAL];
            let candidates = candidates.map(|id| format!("strings.{id:04x}"));
            names.extend(candidates.into_iter().find(|name| sections.get(name).is_some()));
        }
        let mut texts = HashMap::new();
        for section in names.iter().filter_map(|name| sections.get(name)) {
            let mut own = HashMap::new();
            for line in &section.lines {
                if let (Some(key), Some(text)) = (&line.key, line.fields.first()) {
                    own.entry(key.to_lowercase()).or_insert_with(|| text.clone());
                }
            }
            texts.extend(own);
        }
        Self { texts }
    }

    /// `text` with all that it names put in.
    pub(super) fn substitute<'a>(&self, text: &'a str, folders: &Folders) -> Cow<'a, str> {
        if !text.contains('%') {
            return Cow::Borrowed(text);
        }
        let mut whole = String::with_capacity(text.len());
        self.each_piece(text, folders, |piece| whole.push_str(piece));
        Cow::Owned(whole)
    }

    /// How many characters [`Strings::substitute`] would give.
    pub(super) fn length(&self, text: &str, folders: &Folders) -> usize {
        let mut length = 0_usize;
        self.each_piece(text, folders, |piece| {
            length = length.saturating_add(piece.chars().count());
        });
        length
    }

    fn each_piece(&self, text: &str, folders: &Folders, mut each: impl FnMut(&str)) {
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once('%') {
            let Some((name, after)) = behind.split_once('%') else {
                break;
            };
            each(before);
            if name.is_empty() {
                each("%");
            } else if let Some(text) = self.texts.get(&name.to_lowercase()) {
                each(text);
            } else if let Some(folder) = name.parse().ok().and_then(|id| folders.path(id)) {
                // A root ends in a backslash of its own.
                match after.starts_with('\\') {
                    true => each(folder.trim_end_matches('\\')),
                    false => each(&folder),
                }
            } else {
                each("%");
                each(name);
                each("%");
            }
            rest = after;
        }
        each(rest);
    }
}
