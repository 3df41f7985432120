//! Which node stands for which directory entry. Without renames a node is the entry's place; a renamed file keeps
//! the node that it had.

use super::directory_entry::LENGTH;
use crate::fs::Node;
use std::collections::BTreeMap;

/// Nodes of files whose place says nothing, because another file has that node. Far above every place.
const FIRST_FRESH: u64 = 1 << 60;

#[derive(Debug)]
pub(super) struct Nodes {
    /// Of files that are not where their node says.
    locations: BTreeMap<u64, u64>,
    nodes: BTreeMap<u64, u64>,
    fresh: u64,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            locations: BTreeMap::new(),
            nodes: BTreeMap::new(),
            fresh: FIRST_FRESH,
        }
    }
}

fn by_place(location: u64) -> u64 {
    location / LENGTH as u64
}

impl Nodes {
    /// The node of the file whose entry is at byte `location`.
    pub(super) fn node(&self, location: u64) -> Node {
        Node(self.nodes.get(&location).copied().unwrap_or(by_place(location)))
    }

    /// The byte at which the entry of `node` is.
    pub(super) fn location(&self, node: Node) -> Option<u64> {
        match self.locations.get(&node.0) {
            Some(location) => Some(*location),
            None => node.0.checked_mul(LENGTH as u64),
        }
    }

    /// A new file has its entry at `location`.
    pub(super) fn add(&mut self, location: u64) -> Node {
        if self.locations.contains_key(&by_place(location)) {
            let node = self.fresh;
            self.fresh += 1;
            self.locations.insert(node, location);
            self.nodes.insert(location, node);
        }
        self.node(location)
    }

    /// The entry at `location` is gone.
    pub(super) fn remove(&mut self, location: u64) {
        if let Some(node) = self.nodes.remove(&location) {
            self.locations.remove(&node);
        }
    }

    /// The entry at `from` is now at `to`.
    pub(super) fn rename(&mut self, from: u64, to: u64) {
        let node = self.node(from).0;
        self.remove(from);
        if by_place(to) != node {
            self.nodes.insert(to, node);
            self.locations.insert(node, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_file_keeps_its_node_and_nobody_else_gets_it() {
        let mut nodes = Nodes::default();
        let first = nodes.add(3200);
        assert_eq!(first, Node(100));
        nodes.rename(3200, 6400);
        let second = nodes.add(3200);
        assert_ne!(second, first);
        assert_eq!(
            (nodes.location(first), nodes.location(second)),
            (Some(6400), Some(3200))
        );
        assert_eq!((nodes.node(6400), nodes.node(3200)), (first, second));
        nodes.remove(3200);
        nodes.rename(6400, 3200);
        assert_eq!((nodes.node(3200), nodes.location(first)), (first, Some(3200)));
    }
}
