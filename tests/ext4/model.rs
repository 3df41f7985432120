//! What a filesystem should hold, in memory; random edits done to both; and comparing.

use rehome::disk::Kind as Kinds;
use rehome::fs::{Attributes, Edit, FileSystem, GuestPath, Node, ext4::Ext4, mode};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::MetadataExt,
    },
    path::Path,
};

/// xorshift64*: the same edits for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    fn length(&mut self, largest: usize) -> usize {
        let limit = [1, 60, 200, 4096, 40_000, largest][self.below(6)];
        self.below(limit.min(largest))
    }

    fn name(&mut self) -> Vec<u8> {
        let length = [3, 8, 20, 60, 255][self.below(5)];
        let mut name = format!("{:x}-", self.next() & 0xffff).into_bytes();
        while name.len() < length {
            name.push([b'a', b'Z', b'.', b' ', 0xc3, 0xff, b'0'][self.below(7)]);
        }
        name.truncate(length.max(3));
        name
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    File(Vec<u8>),
    Link(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, u64>),
}

#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) modified: Option<i128>,
    pub(crate) links: u32,
    pub(crate) extended: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Thing {
    fn new(kind: Kind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            owner: (0, 0),
            modified: None,
            links: 1,
            extended: BTreeMap::new(),
        }
    }

    fn directory(&mut self) -> &mut BTreeMap<Vec<u8>, u64> {
        match &mut self.kind {
            Kind::Directory(names) => names,
            _ => panic!("not a directory"),
        }
    }
}

/// Things by their inode number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) things: BTreeMap<u64, Thing>,
    root: u64,
}

impl Model {
    /// What is there now.
    pub(crate) fn read(fs: &Ext4) -> Self {
        let mut model = Self {
            things: BTreeMap::new(),
            root: fs.root().0,
        };
        model.read_node(fs, fs.root());
        model
    }

    fn read_node(&mut self, fs: &Ext4, node: Node) {
        if self.things.contains_key(&node.0) {
            return;
        }
        let attributes = fs.attributes(node).unwrap();
        let kind = if attributes.is_directory() {
            let mut names = BTreeMap::new();
            fs.list(node, &mut |name, child| {
                assert!(names.insert(name.to_vec(), child.0).is_none(), "a name twice");
                true
            })
            .unwrap();
            Kind::Directory(names)
        } else if attributes.is_link() {
            Kind::Link(contents(fs, node))
        } else {
            Kind::File(contents(fs, node))
        };
        let mut thing = Thing::new(kind.clone(), attributes.mode.unwrap() & 0o7777);
        thing.owner = attributes.owner.unwrap();
        thing.modified = attributes.modified;
        thing.links = attributes.links.unwrap();
        for name in fs.extended_names(node).unwrap() {
            let value = fs.extended(node, &name).unwrap().unwrap();
            thing.extended.insert(name, value);
        }
        self.things.insert(node.0, thing);
        if let Kind::Directory(names) = kind {
            for (name, child) in names {
                assert_eq!(
                    fs.lookup(node, &name).unwrap(),
                    Some(Node(child)),
                    "{}",
                    name.escape_ascii()
                );
                self.read_node(fs, Node(child));
            }
            assert_eq!(fs.lookup(node, b"no such name").unwrap(), None);
        }
    }

    /// Our reader, opened afresh, sees all of it and nothing else.
    pub(crate) fn must_be_in(&self, fs: &Ext4, when: &str) {
        let seen = Self::read(fs);
        let numbers: Vec<_> = seen.things.keys().collect();
        assert_eq!(numbers, self.things.keys().collect::<Vec<_>>(), "{when}");
        for (node, thing) in &self.things {
            let there = &seen.things[node];
            match (&thing.kind, &there.kind) {
                (Kind::File(a), Kind::File(b)) | (Kind::Link(a), Kind::Link(b)) => {
                    assert!(
                        a == b,
                        "{when}: contents of {node}: {} bytes, {} expected",
                        b.len(),
                        a.len()
                    );
                }
                (Kind::Directory(a), Kind::Directory(b)) => assert_eq!(a, b, "{when}: names in {node}"),
                other => panic!("{when}: {node}: {other:?}"),
            }
            assert_eq!(there.mode, thing.mode, "{when}: mode of {node}");
            assert_eq!(there.owner, thing.owner, "{when}: owner of {node}");
            assert_eq!(there.links, thing.links, "{when}: links of {node}");
            assert_eq!(there.extended, thing.extended, "{when}: attributes of {node}");
            if thing.modified.is_some() {
                assert_eq!(there.modified, thing.modified, "{when}: time of {node}");
            }
        }
    }

    /// Files and links with their contents, by path.
    pub(crate) fn paths(&self) -> Vec<(GuestPath, &[u8])> {
        let mut paths = Vec::new();
        let mut todo = vec![(GuestPath::from("/"), self.root)];
        while let Some((path, node)) = todo.pop() {
            match &self.things[&node].kind {
                Kind::File(contents) | Kind::Link(contents) => paths.push((path, &**contents)),
                Kind::Directory(names) => {
                    todo.extend(names.iter().map(|(name, child)| (path.join(name), *child)));
                }
            }
        }
        paths
    }

    /// The kernel sees all of it.
    pub(crate) fn must_be_at(&self, point: &Path) {
        self.must_be_at_path(self.root, point, &mut HashMap::new());
    }

    fn must_be_at_path(&self, node: u64, path: &Path, seen: &mut HashMap<u64, ()>) {
        let thing = &self.things[&node];
        let metadata = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(metadata.ino(), node, "{}", path.display());
        if seen.insert(node, ()).is_some() {
            return;
        }
        assert_eq!(metadata.mode() & 0o7777, thing.mode, "{}", path.display());
        assert_eq!(
            (metadata.uid(), metadata.gid()),
            thing.owner,
            "{}",
            path.display()
        );
        assert_eq!(metadata.nlink(), u64::from(thing.links), "{}", path.display());
        if let Some(modified) = thing.modified {
            let there = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            assert_eq!(there, modified, "{}", path.display());
        }
        for (name, value) in &thing.extended {
            let mut buffer = vec![0; 70_000];
            let name = OsStr::from_bytes(name);
            let length = rustix::fs::lgetxattr(path, name, &mut buffer[..])
                .unwrap_or_else(|e| panic!("{}: {name:?}: {e}", path.display()));
            assert_eq!(&buffer[..length], value, "{}: {name:?}", path.display());
        }
        match &thing.kind {
            Kind::File(contents) => {
                assert!(fs::read(path).unwrap() == *contents, "{}", path.display());
            }
            Kind::Link(target) => {
                assert_eq!(fs::read_link(path).unwrap().into_os_string().into_vec(), *target);
            }
            Kind::Directory(names) => {
                let listed = fs::read_dir(path).unwrap().count();
                assert_eq!(listed, names.len(), "{}", path.display());
                for (name, child) in names {
                    self.must_be_at_path(*child, &path.join(OsStr::from_bytes(name)), seen);
                }
            }
        }
    }

    fn pick(&self, random: &mut Random, wanted: impl Fn(&Thing) -> bool) -> Option<u64> {
        let all: Vec<u64> = self
            .things
            .iter()
            .filter(|(node, thing)| (**node == self.root || **node > 11) && wanted(thing))
            .map(|(node, _)| *node)
            .collect();
        (!all.is_empty()).then(|| all[random.below(all.len())])
    }

    fn pick_directory(&self, random: &mut Random) -> u64 {
        if random.below(3) == 0 {
            return self.root;
        }
        self.pick(random, |thing| matches!(thing.kind, Kind::Directory(_)))
            .unwrap()
    }

    fn pick_name(&self, random: &mut Random) -> Option<(u64, Vec<u8>, u64)> {
        let directory = self.pick_directory(random);
        let Kind::Directory(names) = &self.things[&directory].kind else {
            return None;
        };
        let names: Vec<_> = names.iter().filter(|(_, child)| **child > 11).collect();
        if names.is_empty() {
            return None;
        }
        let (name, child) = names[random.below(names.len())];
        Some((directory, name.clone(), *child))
    }

    fn is_within(&self, directory: u64, above: u64) -> bool {
        if directory == above {
            return true;
        }
        let Kind::Directory(names) = &self.things[&above].kind else {
            return false;
        };
        names
            .values()
            .filter(|child| matches!(self.things[child].kind, Kind::Directory(_)))
            .any(|child| self.is_within(directory, *child))
    }

    fn drop_link(&mut self, node: u64) {
        let thing = self.things.get_mut(&node).unwrap();
        thing.links -= 1;
        if thing.links == 0 || matches!(thing.kind, Kind::Directory(_)) {
            self.things.remove(&node);
        }
    }

    pub(crate) fn create(&mut self, edit: &mut dyn Edit, directory: u64, name: &[u8], kind: u32) -> u64 {
        let node = edit.create(Node(directory), name, kind).unwrap().0;
        let mut thing = Thing::new(
            match kind & mode::TYPE {
                mode::DIRECTORY => Kind::Directory(BTreeMap::new()),
                mode::LINK => Kind::Link(Vec::new()),
                _ => Kind::File(Vec::new()),
            },
            kind & 0o7777,
        );
        let label = b"security.selinux".to_vec();
        if let Some(value) = self.things[&directory].extended.get(&label) {
            thing.extended.insert(label, value.clone());
        }
        if kind & mode::TYPE == mode::DIRECTORY {
            thing.links = 2;
            self.things.get_mut(&directory).unwrap().links += 1;
        }
        assert!(
            self.things.insert(node, thing).is_none(),
            "inode {node} was in use"
        );
        let parent = self.things.get_mut(&directory).unwrap();
        parent.modified = None;
        parent.directory().insert(name.to_vec(), node);
        node
    }

    pub(crate) fn replace(&mut self, edit: &mut dyn Edit, node: u64, bytes: Vec<u8>) {
        edit.replace(Node(node), &mut &*bytes).unwrap();
        let thing = self.things.get_mut(&node).unwrap();
        thing.modified = None;
        match &mut thing.kind {
            Kind::File(contents) | Kind::Link(contents) => *contents = bytes,
            Kind::Directory(_) => panic!("replaced a directory"),
        }
    }

    /// One random edit of both.
    pub(crate) fn step(&mut self, edit: &mut dyn Edit, random: &mut Random, largest: usize) {
        match random.below(20) {
            0..=4 => {
                let directory = self.pick_directory(random);
                let name = random.name();
                if self
                    .things
                    .get_mut(&directory)
                    .unwrap()
                    .directory()
                    .contains_key(&name)
                {
                    return;
                }
                let node = self.create(edit, directory, &name, mode::FILE | 0o644);
                let length = random.length(largest);
                let bytes = random.bytes(length);
                self.replace(edit, node, bytes);
            }
            5 => {
                let directory = self.pick_directory(random);
                let name = random.name();
                if self
                    .things
                    .get_mut(&directory)
                    .unwrap()
                    .directory()
                    .contains_key(&name)
                {
                    return;
                }
                self.create(edit, directory, &name, mode::DIRECTORY | 0o755);
            }
            6 => {
                let directory = self.pick_directory(random);
                let name = random.name();
                if self
                    .things
                    .get_mut(&directory)
                    .unwrap()
                    .directory()
                    .contains_key(&name)
                {
                    return;
                }
                let node = self.create(edit, directory, &name, mode::LINK | 0o777);
                let length = [1, 20, 59, 60, 61, 300, 1000][random.below(7)];
                // Components of over 255 bytes are no names, which the witness minds.
                let target: Vec<u8> = (0..length)
                    .map(|at| {
                        if at % 40 == 39 {
                            b'/'
                        } else {
                            b'a' + random.below(26) as u8
                        }
                    })
                    .collect();
                self.replace(edit, node, target);
            }
            7 => {
                let Some(node) = self.pick(random, |thing| !matches!(thing.kind, Kind::Directory(_))) else {
                    return;
                };
                let directory = self.pick_directory(random);
                let name = random.name();
                if self
                    .things
                    .get_mut(&directory)
                    .unwrap()
                    .directory()
                    .contains_key(&name)
                {
                    return;
                }
                edit.link(Node(node), Node(directory), &name).unwrap();
                self.things.get_mut(&node).unwrap().links += 1;
                let parent = self.things.get_mut(&directory).unwrap();
                parent.modified = None;
                parent.directory().insert(name, node);
            }
            8..=10 => self.remove_one(edit, random),
            11..=12 => self.rename_one(edit, random),
            13..=14 => {
                let Some(node) = self.pick(random, |thing| matches!(thing.kind, Kind::File(_))) else {
                    return;
                };
                let length = random.length(largest);
                let bytes = random.bytes(length);
                edit.append(Node(node), &mut &*bytes).unwrap();
                let thing = self.things.get_mut(&node).unwrap();
                thing.modified = None;
                if let Kind::File(contents) = &mut thing.kind {
                    contents.extend_from_slice(&bytes);
                }
            }
            15 => {
                let Some(node) = self.pick(random, |thing| matches!(thing.kind, Kind::File(_))) else {
                    return;
                };
                let length = random.length(largest);
                let bytes = random.bytes(length);
                self.replace(edit, node, bytes);
            }
            16..=17 => {
                let Some(node) = self.pick(random, |_| true) else {
                    return;
                };
                let thing = self.things.get_mut(&node).unwrap();
                let seconds = 1_000_000_000 + random.below(1_000_000_000) as i128;
                thing.modified = Some(seconds * 1_000_000_000);
                thing.owner = (random.below(100_000) as u32, random.below(100_000) as u32);
                if !matches!(thing.kind, Kind::Link(_))
                    && thing.extended.keys().all(|name| !name.starts_with(b"system"))
                {
                    thing.mode = random.below(0o1000) as u32 | 0o400;
                }
                let new = Attributes {
                    mode: Some(thing.mode),
                    owner: Some(thing.owner),
                    modified: thing.modified,
                    ..Attributes::default()
                };
                edit.set_attributes(Node(node), &new).unwrap();
            }
            _ => self.set_extended_one(edit, random),
        }
    }

    fn remove_one(&mut self, edit: &mut dyn Edit, random: &mut Random) {
        let Some((directory, name, child)) = self.pick_name(random) else {
            return;
        };
        if let Kind::Directory(names) = &self.things[&child].kind {
            if !names.is_empty() {
                assert!(edit.remove(Node(directory), &name).is_err());
                return;
            }
            self.things.get_mut(&directory).unwrap().links -= 1;
        }
        edit.remove(Node(directory), &name).unwrap();
        let parent = self.things.get_mut(&directory).unwrap();
        parent.modified = None;
        parent.directory().remove(&name);
        self.drop_link(child);
    }

    fn rename_one(&mut self, edit: &mut dyn Edit, random: &mut Random) {
        let Some((source, old, child)) = self.pick_name(random) else {
            return;
        };
        let target = self.pick_directory(random);
        let new = if random.below(3) == 0 {
            let Kind::Directory(names) = &self.things[&target].kind else {
                return;
            };
            names
                .keys()
                .nth(random.below(names.len()))
                .cloned()
                .unwrap_or_else(|| random.name())
        } else {
            random.name()
        };
        let is_directory = matches!(self.things[&child].kind, Kind::Directory(_));
        let there = self
            .things
            .get_mut(&target)
            .unwrap()
            .directory()
            .get(&new)
            .copied();
        // lost+found is no part of the model: an empty directory in whose place another may be put.
        if there.is_some_and(|there| there <= 11) {
            return;
        }
        let allowed = !(is_directory && self.is_within(target, child))
            && there.is_none_or(|there| {
                there == child
                    || match &self.things[&there].kind {
                        Kind::Directory(names) => is_directory && names.is_empty(),
                        _ => !is_directory,
                    }
            });
        let done = edit.rename((Node(source), &old), (Node(target), &new));
        if !allowed {
            assert!(done.is_err(), "a rename that must not be");
            return;
        }
        done.unwrap();
        if there == Some(child) {
            return;
        }
        if let Some(there) = there {
            if is_directory {
                self.things.get_mut(&target).unwrap().links -= 1;
            }
            self.drop_link(there);
        }
        if is_directory {
            self.things.get_mut(&source).unwrap().links -= 1;
            self.things.get_mut(&target).unwrap().links += 1;
        }
        for directory in [source, target] {
            self.things.get_mut(&directory).unwrap().modified = None;
        }
        self.things.get_mut(&source).unwrap().directory().remove(&old);
        self.things
            .get_mut(&target)
            .unwrap()
            .directory()
            .insert(new, child);
    }

    fn set_extended_one(&mut self, edit: &mut dyn Edit, random: &mut Random) {
        let Some(node) = self.pick(random, |thing| !matches!(thing.kind, Kind::Link(_))) else {
            return;
        };
        let name = [
            &b"user.a"[..],
            b"user.quite_a_long_name_for_an_attribute",
            b"trusted.b",
            b"security.selinux",
            b"user.c",
        ][random.below(5)]
        .to_vec();
        if random.below(4) == 0 {
            edit.set_extended(Node(node), &name, None).unwrap();
            self.things.get_mut(&node).unwrap().extended.remove(&name);
            return;
        }
        let length = [0, 1, 10, 40, 150, 400][random.below(6)];
        let mut value = random.bytes(length);
        if name == b"security.selinux" {
            value = b"system_u:object_r:etc_t:s0".to_vec();
        }
        match edit.set_extended(Node(node), &name, Some(&value)) {
            Ok(()) => {
                self.things.get_mut(&node).unwrap().extended.insert(name, value);
            }
            Err(error) => assert!(matches!(error.kind, Kinds::Full | Kinds::Unsupported), "{error}"),
        }
    }
}

/// All contents of a file or link, read in odd pieces.
pub(crate) fn contents(fs: &Ext4, node: Node) -> Vec<u8> {
    let mut contents = Vec::new();
    let mut buffer = vec![0; 99_991];
    loop {
        let count = fs.read_at(node, contents.len() as u64, &mut buffer).unwrap();
        if count == 0 {
            return contents;
        }
        contents.extend_from_slice(&buffer[..count]);
    }
}
