//! Lines of configuration files: bytes with line numbers, since an edit must find its place again.

/// The lines of a file, numbered from 1, without their line feeds. A file of more than `u32::MAX` lines ends there.
pub(crate) fn lines(contents: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let body = contents.strip_suffix(b"\n").unwrap_or(contents);
    let none = contents.is_empty();
    (1..=u32::MAX)
        .zip(body.split(|byte| *byte == b'\n'))
        .filter(move |_| !none)
}

/// Bytes as text; what is not UTF-8 becomes U+FFFD. For facts that people read, never for what is written back.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Words between spaces and tabs, each with its byte offset.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0_usize;
    line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
        .filter_map(move |word| {
            let start = at;
            at = at.saturating_add(word.len()).saturating_add(1);
            (!word.is_empty()).then_some((start, word))
        })
}

/// An Ethernet address "52:54:00:12:34:56" or with dashes, in any case; in lower case with colons.
pub(crate) fn mac_address(text: &[u8]) -> Option<String> {
    let parts: Vec<&[u8]> = text.split(|byte| matches!(byte, b':' | b'-')).collect();
    let is_byte = |part: &&[u8]| part.len() == 2 && part.iter().all(u8::is_ascii_hexdigit);
    if parts.len() != 6 || !parts.iter().all(is_byte) {
        return None;
    }
    Some(lossy(&parts.join(&b':')).to_ascii_lowercase())
}

/// Where `part`, a slice of `whole`, begins in it.
pub(crate) fn offset_in(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_words_know_where_they_stand() {
        let text = b"a b\n\n\tc\r\n";
        let all: Vec<_> = lines(text).collect();
        assert_eq!(all, [(1, &b"a b"[..]), (2, b""), (3, b"\tc\r")]);
        assert_eq!(lines(b"").count(), 0);
        assert_eq!(lines(b"x").count(), 1);
        assert_eq!(
            words(b"\ta  bc ").collect::<Vec<_>>(),
            [(1, &b"a"[..]), (4, b"bc")]
        );
        assert_eq!(offset_in(text, &text[2..]), 2);
    }

    #[test]
    fn mac_addresses_get_one_spelling() {
        assert_eq!(
            mac_address(b"52-54-00-AB-cd-01").as_deref(),
            Some("52:54:00:ab:cd:01")
        );
        assert_eq!(mac_address(b"52:54:00:12:34"), None);
        assert_eq!(mac_address(b"5254.0012.3456"), None);
    }
}
