//! grubenv, GRUB's environment block: the variables that `load_env` gives to grub.cfg (GRUB manual, "Environment
//! block"): a signature line, then lines `name=value` in which a backslash protects the next byte, filled up with `#`.

use super::text::lines;
use std::collections::BTreeMap;

const SIGNATURE: &[u8] = b"# GRUB Environment Block\n";

/// The variables, or `None` if it is no environment block.
pub fn parse(contents: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let body = contents.strip_prefix(SIGNATURE)?;
    let variables = lines(body).filter(|(_, line)| !line.starts_with(b"#"));
    Some(
        variables
            .filter_map(|(_, line)| {
                let equals = line.iter().position(|byte| *byte == b'=')?;
                let (name, value) = line.split_at(equals);
                Some((name.to_vec(), unescape(value.get(1..)?)))
            })
            .collect(),
    )
}

fn unescape(value: &[u8]) -> Vec<u8> {
    let mut bytes = value.iter();
    let mut plain = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        plain.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_block() {
        let block = b"# GRUB Environment Block\nsaved_entry=Debian\\\\x>1\nnext_entry=\n#########";
        let variables = parse(block).unwrap();
        assert_eq!(variables[&b"saved_entry"[..]], b"Debian\\x>1");
        assert_eq!(variables[&b"next_entry"[..]], b"");
        assert_eq!(variables.len(), 2);
        assert_eq!(parse(b"saved_entry=1\n"), None);
    }
}
