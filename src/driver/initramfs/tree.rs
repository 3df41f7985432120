//! What the kernel's root filesystem looks like after an image was unpacked into it: entries in their order, with
//! the kernel's own rules (Linux, init/initramfs.c) for what replaces what.

use crate::{driver::cpio::Header, fs::mode};
use std::collections::BTreeMap;

/// As the kernel's own limit for one lookup.
const MAX_LINKS: u32 = 40;
/// Components that one lookup walks, those of links included: no real path has a tenth of them.
const MAX_STEPS: u32 = 512;

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory {
        /// Permission bits.
        permissions: u32,
    },
    /// A regular file.
    File {
        /// Permission bits.
        permissions: u32,
        /// Bytes.
        size: u64,
    },
    /// A symbolic link.
    Link {
        /// As it stands.
        target: Vec<u8>,
    },
    /// A device node, pipe or socket.
    Special,
}

/// Number and device: what tells files of an archive apart.
type Inode = (u32, (u32, u32));

/// Paths without a leading slash and without symbolic links in their folders.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    nodes: BTreeMap<Vec<u8>, Node>,
    /// Files with several names in the archive that is being read.
    links: BTreeMap<Inode, Linked>,
    /// Components that were walked for all entries.
    steps: u64,
}

/// A file with several names: usually only the last of them comes with contents.
#[derive(Clone, Debug, Default)]
struct Linked {
    /// Names that still wait for contents.
    waiting: Vec<Vec<u8>>,
    /// Bytes, once they came.
    size: u64,
}

/// The components of a path, without empty ones and `.`.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

impl Tree {
    pub(crate) fn get(&self, path: &[u8]) -> Option<&Node> {
        self.nodes.get(path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        self.nodes.iter().map(|(path, node)| (&**path, node))
    }

    /// What lies below the directory `path` (without a slash at its end), at any depth.
    pub(crate) fn below(&self, path: &[u8]) -> impl Iterator<Item = (&[u8], &Node)> {
        let start = [path, b"/"].concat();
        self.nodes
            .range(start.clone()..)
            .take_while(move |(path, _)| path.starts_with(&start))
            .map(|(path, node)| (&**path, node))
    }

    /// Where `path` leads, all links followed; `None` if nothing is there.
    pub(crate) fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.walk(path, true, &mut 0)
    }

    /// How much work all entries were so far: what a hostile image could make endless.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Follows the links of `path`, in its last component only if `follow_last`. Without that, the last component
    /// need not be there. Counts the components that were walked.
    fn walk(&self, path: &[u8], follow_last: bool, steps: &mut u32) -> Option<Vec<u8>> {
        let mut links = 0_u32;
        let mut at: Vec<u8> = Vec::new();
        // Components that are still to be walked, the next one last.
        let mut pending: Vec<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        pending.reverse();
        while let Some(name) = pending.pop() {
            *steps = steps.saturating_add(1);
            if *steps > MAX_STEPS {
                return None;
            }
            if name == b".." {
                let parent = at.iter().rposition(|b| *b == b'/').unwrap_or(0);
                at.truncate(parent);
                continue;
            }
            let mut next = at.clone();
            if !next.is_empty() {
                next.push(b'/');
            }
            next.extend_from_slice(&name);
            let last = pending.is_empty();
            match self.nodes.get(&next) {
                _ if last && !follow_last => return Some(next),
                Some(Node::Link { target }) => {
                    links = links.saturating_add(1);
                    if links > MAX_LINKS {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    let target: Vec<&[u8]> = components(target).collect();
                    pending.extend(target.into_iter().rev().map(<[u8]>::to_vec));
                }
                Some(Node::Directory { .. }) => at = next,
                Some(_) if last => return Some(next),
                _ => return None,
            }
        }
        Some(at)
    }

    /// Does what the kernel does with an entry; `target` is a link's. Gives the paths that have the entry's
    /// contents now; none if the kernel drops the entry, since its folder is not there.
    pub(crate) fn add(&mut self, header: &Header, target: Vec<u8>) -> Vec<Vec<u8>> {
        let mut steps = 0;
        let place = self.walk(&header.name, false, &mut steps);
        self.steps = self.steps.saturating_add(u64::from(steps));
        let Some(path) = place else {
            return Vec::new();
        };
        if path.is_empty() {
            // The root itself, of which only the mode counts.
            return vec![path];
        }
        let permissions = header.mode & 0o7777;
        let size = u64::from(header.size);
        let node = match header.mode & mode::TYPE {
            mode::DIRECTORY => Node::Directory { permissions },
            mode::FILE => Node::File { permissions, size },
            mode::LINK => Node::Link { target },
            _ => Node::Special,
        };
        // A directory that is not empty cannot be removed: then what should replace it is dropped.
        let is_directory = matches!(node, Node::Directory { .. });
        let over_directory = matches!(self.get(&path), Some(Node::Directory { .. })) && !is_directory;
        if over_directory && self.below(&path).next().is_some() {
            return Vec::new();
        }
        let mut paths = vec![path];
        let mut node = node;
        if header.links > 1
            && let Node::File { size, .. } = &mut node
        {
            let linked = self.links.entry((header.inode, header.device)).or_default();
            if header.size == 0 {
                *size = linked.size;
                linked.waiting.append(&mut paths.clone());
            } else {
                linked.size = *size;
                paths.append(&mut linked.waiting);
            }
        }
        for path in &paths {
            self.nodes.insert(path.clone(), node.clone());
        }
        paths
    }

    /// Inodes are counted afresh in every archive.
    pub(crate) fn end_archive(&mut self) {
        self.links.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tree: &mut Tree, name: &str, mode: u32, target: &str) -> usize {
        let header = Header {
            name: name.into(),
            mode,
            ..Header::default()
        };
        tree.add(&header, target.into()).len()
    }

    #[test]
    fn the_kernels_rules() {
        let mut tree = Tree::default();
        let directory = mode::DIRECTORY | 0o755;
        for name in [".", "usr", "./usr/lib", "usr/lib/modules"] {
            assert_eq!(entry(&mut tree, name, directory, ""), 1, "{name}");
        }
        assert_eq!(entry(&mut tree, "lib", mode::LINK, "usr/lib"), 1);
        assert_eq!(entry(&mut tree, "lib/modules/a.ko", mode::FILE | 0o644, ""), 1);
        assert_eq!(
            tree.resolve(b"/lib/modules/a.ko").unwrap(),
            b"usr/lib/modules/a.ko"
        );
        assert_eq!(entry(&mut tree, "nowhere/a", mode::FILE | 0o644, ""), 0);
        assert_eq!(entry(&mut tree, "usr/lib", mode::LINK, "/x"), 0);
        assert_eq!(tree.below(b"usr/lib").count(), 2);
        entry(&mut tree, "loop", mode::LINK, "loop/a");
        assert_eq!(tree.resolve(b"loop"), None);
        entry(&mut tree, "up", mode::LINK, "../../usr/./lib");
        assert_eq!(tree.resolve(b"up/modules").unwrap(), b"usr/lib/modules");
        // A directory entry over a link replaces the link.
        entry(&mut tree, "lib", directory, "");
        assert_eq!(tree.resolve(b"lib/modules"), None);
    }
}
