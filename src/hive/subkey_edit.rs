//! Subkeys put into and taken out of the list of their key.

use super::{
    Editor, Name,
    cell::CellOffset,
    error::{HiveError, Parsed},
    key::{self, Largest},
    subkey_list::{self, Element, ListKind},
    tree,
};

/// Where the leaf is that an element goes to or comes from.
struct Leaf {
    at: CellOffset,
    kind: ListKind,
    elements: Vec<Element>,
    /// The index root above it, and its place there.
    above: Option<Above>,
}

struct Above {
    at: CellOffset,
    elements: Vec<Element>,
    index: usize,
}

impl Editor<'_> {
    /// Puts `key`, called `name`, into the list of `parent`.
    pub(super) fn add_subkey(&mut self, parent: CellOffset, key: CellOffset, name: &Name) -> Parsed<()> {
        let node = self.node(parent)?;
        let count = node.subkey_count;
        let list = if count == 0 {
            let kind = ListKind::of_version(self.hive.minor);
            let contents = subkey_list::build(kind, &[Element::new(kind, key, name)])?;
            self.allocate(&contents)?
        } else {
            let mut leaf = self.leaf_for(parent, name)?;
            let at = self.position(&leaf, name)?;
            leaf.elements.insert(at, Element::new(leaf.kind, key, name));
            self.store(leaf)?
        };
        self.put_subkeys(parent, count.saturating_add(1), list)?;
        key::raise(self.cell(parent)?, Largest::SubkeyName, name.wide_length())
    }

    /// Takes `key` out of the list of `parent`.
    pub(super) fn take_subkey(&mut self, parent: CellOffset, key: CellOffset) -> Parsed<()> {
        let count = self.node(parent)?.subkey_count.saturating_sub(1);
        let mut leaf = self.leaf_with(parent, key)?;
        leaf.elements.retain(|element| element.at != key);
        let list = self.store(leaf)?;
        self.put_subkeys(parent, count, list)?;
        if count == 0 {
            let parent = self.cell(parent)?;
            key::reset(parent, Largest::SubkeyName)?;
            key::reset(parent, Largest::SubkeyClass)?;
        }
        Ok(())
    }

    fn put_subkeys(&mut self, parent: CellOffset, count: u32, list: CellOffset) -> Parsed<()> {
        key::put_subkeys(self.cell(parent)?, count, list)?;
        self.touch(parent)
    }

    /// The leaf that a key called `name` belongs in: the first that does not end before it, or the last.
    fn leaf_for(&self, parent: CellOffset, name: &Name) -> Parsed<Leaf> {
        let leaves = tree::leaves(&self.hive.cells, &self.node(parent)?)?;
        let mut chosen = leaves.len().saturating_sub(1);
        for (index, (_, leaf)) in leaves.iter().enumerate() {
            if let Some(last) = leaf.offsets().last()
                && self.node(last)?.name()? > *name
            {
                chosen = index;
                break;
            }
        }
        self.leaf(parent, chosen)
    }

    fn leaf_with(&self, parent: CellOffset, key: CellOffset) -> Parsed<Leaf> {
        let leaves = tree::leaves(&self.hive.cells, &self.node(parent)?)?;
        let holds = leaves
            .iter()
            .position(|(_, leaf)| leaf.offsets().any(|at| at == key));
        match holds {
            Some(index) => self.leaf(parent, index),
            None => Err(HiveError::damaged_at(key, "the key above does not list this one")),
        }
    }

    fn leaf(&self, parent: CellOffset, index: usize) -> Parsed<Leaf> {
        let node = self.node(parent)?;
        let leaves = tree::leaves(&self.hive.cells, &node)?;
        let Some((at, list)) = leaves.get(index) else {
            return Err(HiveError::damaged_at(
                node.subkeys,
                "a list of subkeys without a leaf",
            ));
        };
        let above = || -> Parsed<Above> {
            Ok(Above {
                at: node.subkeys,
                elements: tree::list(&self.hive.cells, node.subkeys)?.elements(),
                index,
            })
        };
        Ok(Leaf {
            at: *at,
            kind: list.kind,
            elements: list.elements(),
            above: if *at == node.subkeys { None } else { Some(above()?) },
        })
    }

    /// Where `name` stands in `leaf` by its order.
    fn position(&self, leaf: &Leaf, name: &Name) -> Parsed<usize> {
        for (index, element) in leaf.elements.iter().enumerate() {
            if self.node(element.at)?.name()? > *name {
                return Ok(index);
            }
        }
        Ok(leaf.elements.len())
    }

    /// Writes a leaf back: none if it is empty, two if it is too long. Where the list of the key begins now.
    fn store(&mut self, leaf: Leaf) -> Parsed<CellOffset> {
        let mut kind = leaf.kind;
        let divide = leaf.elements.len() > kind.most();
        if divide && leaf.above.is_none() {
            kind = kind.below_a_root();
        }
        let half = if divide {
            leaf.elements.len() / 2
        } else {
            leaf.elements.len()
        };
        let (first, second) = leaf.elements.split_at(half);
        let mut places = Vec::new();
        if first.is_empty() {
            self.free(leaf.at)?;
        } else {
            places.push(self.replace(leaf.at, &subkey_list::build(kind, first)?)?);
        }
        if !second.is_empty() {
            places.push(self.allocate(&subkey_list::build(kind, second)?)?);
        }
        let to_element = |at: &CellOffset| Element {
            at: *at,
            hint: [0; 4],
        };
        let lists: Vec<Element> = places.iter().map(to_element).collect();
        match leaf.above {
            None => match places.as_slice() {
                [] => Ok(CellOffset::NONE),
                [one] => Ok(*one),
                _ => self.allocate(&subkey_list::build(ListKind::Root, &lists)?),
            },
            Some(mut above) => {
                above.elements.splice(above.index..=above.index, lists);
                if above.elements.is_empty() {
                    self.free(above.at)?;
                    return Ok(CellOffset::NONE);
                }
                self.replace(above.at, &subkey_list::build(ListKind::Root, &above.elements)?)
            }
        }
    }
}
