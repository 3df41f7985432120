//! Catalogs of driver packages (`.cat`): a signed list of the digests of files, with names and values beside it (a
//! certificate trust list of Windows; the attributes are those of `signtool` and `inf2cat`). Nothing is verified.

use super::signed_data::{self, Der, DigestAlgorithm, tag};
use serde::Serialize;

/// `szOID_CTL`: 1.3.6.1.4.1.311.10.1.
const TRUST_LIST: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x0a, 0x01];
/// `CAT_NAMEVALUE_OBJID`: 1.3.6.1.4.1.311.12.2.1.
const NAME_AND_VALUE: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x0c, 0x02, 0x01];
/// Attributes and members that are kept; the largest catalogs of packages have some hundred.
const MOST: usize = 20_000;

/// What a catalog says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Catalog {
    /// Digests of its signature. A Windows that knows none of them takes the package for unsigned.
    pub digests: Vec<DigestAlgorithm>,
    /// Names and values of the whole catalog: `OS` is "_v100_X64,...", `HWID1` an id that a package is for.
    pub attributes: Vec<(String, String)>,
    /// Names of files that it lists.
    pub files: Vec<String>,
    /// How many members it lists: each file by one digest or more.
    pub members: usize,
}

impl Catalog {
    /// `None`: no catalog, or a damaged one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let signed = signed_data::parse(bytes)?;
        if signed.content_type != TRUST_LIST {
            return None;
        }
        let mut catalog = Self {
            digests: signed.digests,
            ..Self::default()
        };
        let mut list = signed.content?.enter(tag::SEQUENCE)?;
        for (tag, contents) in list.by_ref() {
            match tag {
                // The members: the only list of lists here.
                tag::SEQUENCE if Der(contents).next().is_some_and(|(tag, _)| tag == tag::SEQUENCE) => {
                    catalog.add_members(Der(contents));
                }
                tag::FIRST => {
                    let extensions = Der(contents).enter(tag::SEQUENCE)?;
                    catalog.attributes = extensions
                        .filter_map(|(_, extension)| name_and_value(extension))
                        .take(MOST)
                        .collect();
                }
                _ => {}
            }
        }
        Some(catalog)
    }

    fn add_members(&mut self, members: Der<'_>) {
        for (_, member) in members.take(MOST) {
            self.members += 1;
            let mut fields = Der(member);
            fields.next();
            let Some(attributes) = fields.enter(tag::SET) else {
                continue;
            };
            for (_, attribute) in attributes.take(MOST) {
                let mut fields = Der(attribute);
                if fields.element(tag::OBJECT) == Some(NAME_AND_VALUE)
                    && let Some(mut values) = fields.enter(tag::SET)
                    && let Some(value) = values.element(tag::SEQUENCE)
                    && let Some((name, file)) = pair(value)
                    && name.eq_ignore_ascii_case("File")
                    && !self.files.contains(&file)
                    && self.files.len() < MOST_FILES
                {
                    self.files.push(file);
                }
            }
        }
    }

    /// The value of an attribute, by its name in whatever case.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self
            .attributes
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))?;
        Some(&found.1)
    }
}

/// File names that are kept: each new one is compared with them.
const MOST_FILES: usize = 1000;

/// An extension: its object identifier and, in octets, a name and a value.
fn name_and_value(extension: &[u8]) -> Option<(String, String)> {
    let mut fields = Der(extension);
    if fields.element(tag::OBJECT)? != NAME_AND_VALUE {
        return None;
    }
    let mut octets = fields.enter(tag::OCTETS)?;
    pair(octets.element(tag::SEQUENCE)?)
}

fn pair(fields: &[u8]) -> Option<(String, String)> {
    let mut fields = Der(fields);
    let name = encoding_rs::UTF_16BE
        .decode_without_bom_handling(fields.element(tag::BMP_STRING)?)
        .0;
    fields.element(tag::INTEGER)?;
    let value = encoding_rs::UTF_16LE
        .decode_without_bom_handling(fields.element(tag::OCTETS)?)
        .0;
    Some((name.into_owned(), value.trim_end_matches('\0').to_owned()))
}
