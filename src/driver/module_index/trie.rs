//! The binary indexes of kmod (`modules.dep.bin`, `modules.alias.bin`, …; the comment that opens kmod's
//! libkmod/libkmod-index.c describes them): a radix tree of keys, each with values in order of priority.
//!
//! A file is a magic, a version and the root's offset, then nodes: children before their parents as depmod wrote them
//! for long, or after them as kmod's newest does. Numbers are big-endian. An offset's upper four bits say which fields
//! the node has: a prefix, children, values.

use crate::disk::field::{self, u8_at, u32_be};
use std::collections::BTreeMap;
use thiserror::Error;

const MAGIC: u32 = 0xb007_f457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
const OFFSET: u32 = 0x0fff_ffff;
/// Keys are of 7-bit characters.
const CHARACTERS: u8 = 128;
/// kmod keeps names in buffers of `PATH_MAX`.
const MAX_KEY: usize = 4096;
/// All keys and values together: ten times those of a kernel with everything as a module.
const MAX_TEXT: usize = 64 << 20;

/// Why a binary index cannot be read.
#[derive(Debug, Error)]
pub enum TrieError {
    /// Cut short.
    #[error(transparent)]
    Truncated(#[from] field::Truncated),
    /// Another file, or another version.
    #[error(
        "begins with {0:08x} {1:08x}; a kmod index begins with b007f457 00020001: run depmod in the guest"
    )]
    Foreign(u32, u32),
    /// A node points backwards or nowhere.
    #[error("the node at byte {0} is damaged: run depmod in the guest")]
    Node(usize),
}

/// A value with its priority: lower ones come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) priority: u32,
    pub(crate) text: Vec<u8>,
}

/// Keys with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trie(BTreeMap<Vec<u8>, Vec<Value>>);

impl Trie {
    /// Adds a value. False if kmod could not read it: not 7-bit, too long, with a zero.
    pub(crate) fn insert(&mut self, key: &[u8], priority: u32, text: &[u8]) -> bool {
        let plain = |bytes: &[u8]| bytes.iter().all(|b| *b != 0 && *b < CHARACTERS);
        if key.len() >= MAX_KEY || !plain(key) || !plain(text) {
            return false;
        }
        let text = text.to_vec();
        self.0
            .entry(key.to_vec())
            .or_default()
            .push(Value { priority, text });
        true
    }

    /// All keys with their values, in order of the keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[Value])> {
        self.0.iter().map(|(key, values)| (&**key, &**values))
    }

    /// The file, as depmod would write it: of values with one priority the later stands before the earlier. `None` if
    /// it would be larger than its offsets can say (256 MiB).
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let entries: Vec<_> = self.0.iter().map(|(key, values)| (&**key, &**values)).collect();
        let mut nodes = nodes(&entries)?;
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC.to_be_bytes());
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for index in post_order(&nodes) {
            let offset = u32::try_from(bytes.len())
                .ok()
                .filter(|offset| *offset <= OFFSET)?;
            nodes.get(index)?.write(&nodes, &mut bytes)?;
            let node = nodes.get_mut(index)?;
            node.reference = offset | node.flags();
        }
        field::put_u32_be(&mut bytes, 8, nodes.first()?.reference).ok()?;
        Some(bytes)
    }

    /// Reads a file. Values keep their order.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, TrieError> {
        let (magic, version) = (u32_be(file, 0)?, u32_be(file, 4)?);
        if (magic, version) != (MAGIC, VERSION) {
            return Err(TrieError::Foreign(magic, version));
        }
        let mut trie = Self::default();
        let mut pending = vec![(Vec::new(), u32_be(file, 8)?)];
        // Every node takes a byte at least; more nodes than bytes would mean that nodes are shared, or go round.
        let mut nodes = file.len();
        let mut budget = MAX_TEXT;
        while let Some((mut key, reference)) = pending.pop() {
            let start = usize::try_from(reference & OFFSET).unwrap_or(usize::MAX);
            nodes = nodes.checked_sub(1).ok_or(TrieError::Node(start))?;
            let mut at = start;
            if reference & HAS_PREFIX != 0 {
                let prefix = text_at(file, &mut at)?;
                key.extend_from_slice(prefix);
            }
            if key.len() > MAX_KEY {
                return Err(TrieError::Node(start));
            }
            budget = budget.checked_sub(key.len()).ok_or(TrieError::Node(start))?;
            if reference & HAS_CHILDREN != 0 {
                let (first, last) = (u8_at(file, at)?, u8_at(file, at.saturating_add(1))?);
                if first > last || last >= CHARACTERS {
                    return Err(TrieError::Node(start));
                }
                at = at.saturating_add(2);
                for character in first..=last {
                    let child = u32_be(file, at)?;
                    at = at.saturating_add(4);
                    if child != 0 {
                        let mut key = key.clone();
                        key.push(character);
                        pending.push((key, child));
                    }
                }
            }
            if reference & HAS_VALUES != 0 {
                let count = u32_be(file, at)?;
                at = at.saturating_add(4);
                let mut values = Vec::new();
                for _ in 0..count {
                    let priority = u32_be(file, at)?;
                    at = at.saturating_add(4);
                    let text = text_at(file, &mut at)?.to_vec();
                    budget = budget
                        .checked_sub(text.len().saturating_add(size_of::<Value>()))
                        .ok_or(TrieError::Node(start))?;
                    values.push(Value { priority, text });
                }
                trie.0.insert(key, values);
            }
        }
        Ok(trie)
    }
}

/// The bytes at `at` up to a zero, which `at` is moved behind.
fn text_at<'a>(file: &'a [u8], at: &mut usize) -> Result<&'a [u8], TrieError> {
    let rest = file.get(*at..).unwrap_or_default();
    let length = rest.iter().position(|b| *b == 0).ok_or(TrieError::Node(*at))?;
    *at = at.saturating_add(length).saturating_add(1);
    Ok(rest.get(..length).unwrap_or_default())
}

/// A node as it is written; those that are not the root lose the character that leads to them.
#[derive(Default)]
struct Node<'a> {
    prefix: &'a [u8],
    values: &'a [Value],
    /// Character and index of each child.
    children: Vec<(u8, usize)>,
    /// Its offset with the flags of its fields, once it is written.
    reference: u32,
}

/// Keys in ascending order, with their values.
type Entries<'a> = [(&'a [u8], &'a [Value])];

/// Its entries, the length of the key above it, and who points to it by which character.
type Subtree<'a, 'b> = (&'b Entries<'a>, usize, Option<(usize, u8)>);

/// The tree over `entries`, its root first; children are in order of their characters.
fn nodes<'a>(entries: &Entries<'a>) -> Option<Vec<Node<'a>>> {
    let mut nodes: Vec<Node<'a>> = Vec::new();
    // The root has no prefix, even if all keys begin alike.
    let mut pending: Vec<Subtree<'a, '_>> = vec![(entries, 0, None)];
    while let Some((entries, above, parent)) = pending.pop() {
        let index = nodes.len();
        let mut node = Node::default();
        let mut depth = above;
        if let (Some((parent, character)), Some((first, _)), Some((last, _))) =
            (parent, entries.first(), entries.last())
        {
            nodes.get_mut(parent)?.children.push((character, index));
            let common = first.iter().zip(*last).take_while(|(a, b)| a == b).count();
            node.prefix = first.get(above..common)?;
            depth = common;
        }
        let mut rest = entries;
        if let Some(((key, values), others)) = rest.split_first()
            && key.len() == depth
        {
            node.values = values;
            rest = others;
        }
        let mut groups = Vec::new();
        while let Some((key, _)) = rest.first() {
            let character = *key.get(depth)?;
            let length = rest.partition_point(|(key, _)| key.get(depth) <= Some(&character));
            let (group, others) = rest.split_at_checked(length)?;
            groups.push((group, depth.checked_add(1)?, Some((index, character))));
            rest = others;
        }
        nodes.push(node);
        pending.extend(groups.into_iter().rev());
    }
    Some(nodes)
}

/// Every node after its children.
fn post_order(nodes: &[Node<'_>]) -> Vec<usize> {
    // Parents before children, the last child first: read backwards, that is the order wanted.
    let mut order = Vec::with_capacity(nodes.len());
    let mut pending = vec![0];
    while let Some(index) = pending.pop() {
        order.push(index);
        let children = nodes.get(index).map(|node| &*node.children).unwrap_or_default();
        pending.extend(children.iter().map(|(_, child)| *child));
    }
    order.reverse();
    order
}

impl Node<'_> {
    /// Which fields it has.
    fn flags(&self) -> u32 {
        let mut flags = 0;
        for (present, flag) in [
            (!self.prefix.is_empty(), HAS_PREFIX),
            (!self.values.is_empty(), HAS_VALUES),
            (!self.children.is_empty(), HAS_CHILDREN),
        ] {
            if present {
                flags |= flag;
            }
        }
        flags
    }

    fn write(&self, nodes: &[Node<'_>], bytes: &mut Vec<u8>) -> Option<()> {
        if !self.prefix.is_empty() {
            bytes.extend_from_slice(self.prefix);
            bytes.push(0);
        }
        if let (Some((first, _)), Some((last, _))) = (self.children.first(), self.children.last()) {
            bytes.extend_from_slice(&[*first, *last]);
            let mut children = self.children.iter().peekable();
            for character in *first..=*last {
                let child = children.next_if(|(its, _)| *its == character);
                let reference = match child {
                    Some((_, index)) => nodes.get(*index)?.reference,
                    None => 0,
                };
                bytes.extend_from_slice(&reference.to_be_bytes());
            }
        }
        if !self.values.is_empty() {
            bytes.extend_from_slice(&u32::try_from(self.values.len()).ok()?.to_be_bytes());
            let mut values: Vec<&Value> = self.values.iter().rev().collect();
            values.sort_by_key(|value| value.priority);
            for value in values {
                bytes.extend_from_slice(&value.priority.to_be_bytes());
                bytes.extend_from_slice(&value.text);
                bytes.push(0);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Trie {
        let mut trie = Trie::default();
        for (priority, key) in ["once", "on", "ask", "ate", "one", "on", "zebra", "a-long-tail"]
            .iter()
            .enumerate()
        {
            assert!(trie.insert(key.as_bytes(), priority as u32, b"value"));
        }
        trie
    }

    #[test]
    fn what_is_written_is_read() {
        let trie = sample();
        assert_eq!(Trie::parse(&trie.to_bytes().unwrap()).unwrap(), trie);
        let empty = Trie::default();
        assert_eq!(
            empty.to_bytes().unwrap(),
            [0xb0, 7, 0xf4, 0x57, 0, 2, 0, 1, 0, 0, 0, 12]
        );
        assert!(!Trie::default().insert("ü".as_bytes(), 0, b""));
    }

    #[test]
    fn damage_is_an_error_and_never_endless() {
        let bytes = sample().to_bytes().unwrap();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                let _ = Trie::parse(&damaged);
            }
            assert!(Trie::parse(&bytes[..at]).is_err());
        }
    }
}
