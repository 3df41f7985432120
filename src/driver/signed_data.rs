//! The outside of a PKCS #7 signature (RFC 2315, section 9; DER of X.690): what is signed, and by which digest. Nothing is
//! verified: whether a Windows trusts a signer is its own affair, but it must know the digest.

use serde::Serialize;

/// A digest that signatures use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestAlgorithm {
    /// Broken for long.
    Md5,
    /// What Windows XP to 7 know as they were shipped.
    Sha1,
    /// Windows 8 and later; Windows 7 and 2008 R2 with update KB4474419.
    Sha256,
    /// Likewise.
    Sha384,
    /// Likewise.
    Sha512,
    /// Another one.
    Other,
}

const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const DIGESTS: [(&[u8], DigestAlgorithm); 5] = [
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02, 0x05],
        DigestAlgorithm::Md5,
    ),
    (&[0x2b, 0x0e, 0x03, 0x02, 0x1a], DigestAlgorithm::Sha1),
    (
        &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01],
        DigestAlgorithm::Sha256,
    ),
    (
        &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02],
        DigestAlgorithm::Sha384,
    ),
    (
        &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03],
        DigestAlgorithm::Sha512,
    ),
];

/// Tags of DER.
pub(super) mod tag {
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const OCTETS: u8 = 0x04;
    pub(crate) const OBJECT: u8 = 0x06;
    pub(crate) const BMP_STRING: u8 = 0x1e;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
    /// `[0]`, with something in it.
    pub(crate) const FIRST: u8 = 0xa0;
}

/// The elements of a piece of DER, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// The contents of the next element if it has that tag. Otherwise nothing is taken.
    pub(super) fn element(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let before = *self;
        match self.next() {
            Some((tag, contents)) if tag == wanted => Some(contents),
            _ => {
                *self = before;
                None
            }
        }
    }

    /// Likewise, as elements.
    pub(super) fn enter(&mut self, wanted: u8) -> Option<Der<'a>> {
        self.element(wanted).map(Der)
    }
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (tag, rest) = self.0.split_first()?;
        let (first, mut rest) = rest.split_first()?;
        let mut length = usize::from(*first & 0x7f);
        if *first & 0x80 != 0 {
            // DER knows no endless lengths, and four bytes are enough for any file.
            let count = length;
            if count == 0 || count > 4 {
                return None;
            }
            let (bytes, behind) = rest.split_at_checked(count)?;
            length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = behind;
        }
        let (contents, behind) = rest.split_at_checked(length)?;
        self.0 = behind;
        Some((*tag, contents))
    }
}

/// The outside of a signature.
#[derive(Clone, Debug)]
pub(super) struct SignedData<'a> {
    /// Digests that its signers used, the strongest last.
    pub(super) digests: Vec<DigestAlgorithm>,
    /// The type of what is signed: the bytes of an object identifier.
    pub(super) content_type: &'a [u8],
    /// What is signed.
    pub(super) content: Option<Der<'a>>,
}

/// `None`: no signature, or a damaged one.
pub(super) fn parse(bytes: &[u8]) -> Option<SignedData<'_>> {
    let mut outside = Der(bytes).enter(tag::SEQUENCE)?;
    if outside.element(tag::OBJECT)? != SIGNED_DATA {
        return None;
    }
    let mut signed = outside.enter(tag::FIRST)?.enter(tag::SEQUENCE)?;
    signed.element(tag::INTEGER)?;
    let algorithms = signed.enter(tag::SET)?;
    let mut digests: Vec<_> = algorithms
        .filter(|(tag, _)| *tag == tag::SEQUENCE)
        .filter_map(|(_, algorithm)| Der(algorithm).element(tag::OBJECT))
        .map(|id| {
            let known = DIGESTS.iter().find(|(bytes, _)| *bytes == id);
            known.map_or(DigestAlgorithm::Other, |(_, digest)| *digest)
        })
        .collect();
    digests.sort();
    digests.dedup();
    let mut inside = signed.enter(tag::SEQUENCE)?;
    Some(SignedData {
        digests,
        content_type: inside.element(tag::OBJECT)?,
        content: inside.enter(tag::FIRST),
    })
}
