//! What a volume should hold, in memory; random edits done to both; and comparing.

use rehome::fs::{Attributes, Edit, FileSystem, GuestPath, Node, mode};
use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
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
        let limit = [1, 60, 600, 1100, 4096, 40_000, largest][self.below(7)];
        self.below(limit.min(largest))
    }

    /// Some are fit for DOS, most are not; some differ from others in upper and lower case only.
    fn name(&mut self) -> String {
        let length = [1, 3, 8, 20, 60, 255][self.below(6)];
        let mut name = format!("{:x}", self.next() & 0xfff);
        while name.chars().count() < length {
            name.push(['a', 'Z', '.', ' ', '日', '_', '0', '+'][self.below(8)]);
        }
        if self.below(4) == 0 {
            name = name.to_ascii_uppercase();
        }
        let cut: String = name.chars().take(length.max(2)).collect();
        let name = cut.trim_end_matches(['.', ' ']).to_owned();
        if name.is_empty() { "x".to_owned() } else { name }
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
    pub(crate) modified: Option<i128>,
    pub(crate) links: u32,
    pub(crate) extended: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Thing {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
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

/// Things by their record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) things: BTreeMap<u64, Thing>,
    root: u64,
}

impl Model {
    /// What is there now.
    pub(crate) fn read(fs: &dyn FileSystem) -> Self {
        let mut model = Self {
            things: BTreeMap::new(),
            root: fs.root().0,
        };
        model.read_node(fs, fs.root());
        model
    }

    fn read_node(&mut self, fs: &dyn FileSystem, node: Node) {
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
        let mut thing = Thing::new(kind.clone());
        thing.modified = attributes.modified;
        thing.links = attributes.links.unwrap();
        for name in fs.extended_names(node).unwrap() {
            if name.starts_with(b"user.") {
                let value = fs.extended(node, &name).unwrap().unwrap();
                thing.extended.insert(name, value);
            }
        }
        assert!(
            fs.extended(node, b"system.ntfs_acl").unwrap().is_some(),
            "no descriptor"
        );
        self.things.insert(node.0, thing);
        if let Kind::Directory(names) = kind {
            for (name, child) in names {
                let shown = String::from_utf8_lossy(&name);
                assert_eq!(fs.lookup(node, &name).unwrap(), Some(Node(child)), "{shown}");
                let lower = shown.to_ascii_lowercase();
                assert_eq!(
                    fs.lookup(node, lower.as_bytes()).unwrap(),
                    Some(Node(child)),
                    "{lower}"
                );
                self.read_node(fs, Node(child));
            }
            assert_eq!(fs.lookup(node, b"no such name").unwrap(), None);
        }
    }

    /// Our reader, opened afresh, sees all of it and nothing else.
    pub(crate) fn must_be_in(&self, fs: &dyn FileSystem, when: &str) {
        let seen = Self::read(fs);
        let numbers: Vec<_> = seen.things.keys().collect();
        assert_eq!(numbers, self.things.keys().collect::<Vec<_>>(), "{when}");
        for (node, thing) in &self.things {
            let there = &seen.things[node];
            match (&thing.kind, &there.kind) {
                (Kind::File(a), Kind::File(b)) | (Kind::Link(a), Kind::Link(b)) => {
                    let lengths = (b.len(), a.len());
                    assert!(
                        a == b,
                        "{when}: contents of {node}: {lengths:?} bytes, the second expected"
                    );
                }
                (Kind::Directory(a), Kind::Directory(b)) => assert_eq!(a, b, "{when}: names in {node}"),
                other => panic!("{when}: {node}: {other:?}"),
            }
            assert_eq!(there.links, thing.links, "{when}: links of {node}");
            assert_eq!(there.extended, thing.extended, "{when}: streams of {node}");
            if thing.modified.is_some() {
                assert_eq!(there.modified, thing.modified, "{when}: time of {node}");
            }
        }
    }

    /// Files with their contents, by path.
    pub(crate) fn paths(&self) -> Vec<(GuestPath, &[u8])> {
        let mut paths = Vec::new();
        let mut todo = vec![(GuestPath::from("/"), self.root)];
        while let Some((path, node)) = todo.pop() {
            match &self.things[&node].kind {
                Kind::File(contents) => paths.push((path, &**contents)),
                Kind::Link(_) => {}
                Kind::Directory(names) => {
                    todo.extend(names.iter().map(|(name, child)| (path.join(name), *child)));
                }
            }
        }
        paths
    }

    /// Files with their contents, by record.
    pub(crate) fn files(&self) -> BTreeMap<u64, &[u8]> {
        let files = self.things.iter().filter_map(|(node, thing)| match &thing.kind {
            Kind::File(contents) => Some((*node, &**contents)),
            _ => None,
        });
        files.collect()
    }

    /// `ntfs-3g` sees all of it.
    pub(crate) fn must_be_at(&self, point: &Path) {
        self.must_be_at_path(self.root, point, &mut HashSet::new());
    }

    fn must_be_at_path(&self, node: u64, path: &Path, seen: &mut HashSet<u64>) {
        let thing = &self.things[&node];
        let metadata = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(metadata.ino(), node, "{}", path.display());
        if !seen.insert(node) {
            return;
        }
        if let Some(modified) = thing.modified {
            let there = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
            assert_eq!(there, modified, "{}", path.display());
        }
        if !matches!(thing.kind, Kind::Link(_)) {
            for (name, value) in &thing.extended {
                let mut buffer = vec![0; 70_000];
                let name = OsStr::from_bytes(name);
                let length = rustix::fs::lgetxattr(path, name, &mut buffer[..])
                    .unwrap_or_else(|e| panic!("{}: {name:?}: {e}", path.display()));
                assert_eq!(&buffer[..length], value, "{}: {name:?}", path.display());
            }
        }
        match &thing.kind {
            Kind::File(contents) => {
                assert!(fs::read(path).unwrap() == *contents, "{}", path.display());
            }
            Kind::Link(_) => assert!(metadata.is_symlink(), "{}", path.display()),
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
            .filter(|(_, thing)| wanted(thing))
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
        let (name, child) = names.iter().nth(random.below(names.len()))?;
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
        if thing.links == 0 {
            self.things.remove(&node);
        }
    }

    /// A directory and a name that is not in it; `None` if the one that was drawn is, in whatever case, or as a name for
    /// DOS: then making it must fail.
    fn new_name(&self, edit: &mut dyn Edit, random: &mut Random) -> Option<(u64, Vec<u8>)> {
        let directory = self.pick_directory(random);
        let name = random.name().into_bytes();
        if edit.lookup(Node(directory), &name).unwrap().is_some() {
            assert!(edit.create(Node(directory), &name, mode::FILE | 0o644).is_err());
            return None;
        }
        let Kind::Directory(names) = &self.things[&directory].kind else {
            return None;
        };
        assert!(!names.contains_key(&name));
        Some((directory, name))
    }

    pub(crate) fn create(&mut self, edit: &mut dyn Edit, directory: u64, name: &[u8], kind: u32) -> u64 {
        let node = edit.create(Node(directory), name, kind).unwrap().0;
        let thing = Thing::new(match kind & mode::TYPE {
            mode::DIRECTORY => Kind::Directory(BTreeMap::new()),
            mode::LINK => Kind::Link(b".".to_vec()),
            _ => Kind::File(Vec::new()),
        });
        assert!(
            self.things.insert(node, thing).is_none(),
            "record {node} was in use"
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

    pub(crate) fn remove(&mut self, edit: &mut dyn Edit, directory: u64, name: &[u8]) {
        edit.remove(Node(directory), name).unwrap();
        let parent = self.things.get_mut(&directory).unwrap();
        parent.modified = None;
        let child = parent.directory().remove(name).unwrap();
        self.drop_link(child);
    }

    pub(crate) fn append(&mut self, edit: &mut dyn Edit, node: u64, bytes: &[u8]) {
        edit.append(Node(node), &mut &*bytes).unwrap();
        let thing = self.things.get_mut(&node).unwrap();
        thing.modified = None;
        if let Kind::File(contents) = &mut thing.kind {
            contents.extend_from_slice(bytes);
        }
    }

    /// One random edit of both.
    pub(crate) fn step(&mut self, edit: &mut dyn Edit, random: &mut Random, largest: usize) {
        match random.below(20) {
            0..=4 => {
                let Some((directory, name)) = self.new_name(edit, random) else {
                    return;
                };
                let node = self.create(edit, directory, &name, mode::FILE | 0o644);
                let length = random.length(largest);
                let bytes = random.bytes(length);
                self.replace(edit, node, bytes);
            }
            5 => {
                if let Some((directory, name)) = self.new_name(edit, random) {
                    self.create(edit, directory, &name, mode::DIRECTORY | 0o755);
                }
            }
            6 => {
                let Some((directory, name)) = self.new_name(edit, random) else {
                    return;
                };
                let node = self.create(edit, directory, &name, mode::LINK | 0o777);
                let length = [1, 20, 59, 300, 1000][random.below(5)];
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
                let file = self.pick(random, |thing| !matches!(thing.kind, Kind::Directory(_)));
                let (Some(node), Some((directory, name))) = (file, self.new_name(edit, random)) else {
                    return;
                };
                edit.link(Node(node), Node(directory), &name).unwrap();
                self.things.get_mut(&node).unwrap().links += 1;
                let parent = self.things.get_mut(&directory).unwrap();
                parent.modified = None;
                parent.directory().insert(name, node);
            }
            8..=10 => {
                let Some((directory, name, child)) = self.pick_name(random) else {
                    return;
                };
                if let Kind::Directory(names) = &self.things[&child].kind
                    && !names.is_empty()
                {
                    assert!(edit.remove(Node(directory), &name).is_err());
                    return;
                }
                self.remove(edit, directory, &name);
            }
            11..=12 => self.rename_one(edit, random),
            13..=14 => {
                if let Some(node) = self.pick(random, |thing| matches!(thing.kind, Kind::File(_))) {
                    let length = random.length(largest);
                    let bytes = random.bytes(length);
                    self.append(edit, node, &bytes);
                }
            }
            15 => {
                if let Some(node) = self.pick(random, |thing| matches!(thing.kind, Kind::File(_))) {
                    let length = random.length(largest);
                    let bytes = random.bytes(length);
                    self.replace(edit, node, bytes);
                }
            }
            16..=17 => {
                let node = self.pick(random, |_| true).unwrap();
                let thing = self.things.get_mut(&node).unwrap();
                let seconds = 1_000_000_000 + random.below(1_000_000_000) as i128;
                thing.modified = Some(seconds * 1_000_000_000);
                let new = Attributes {
                    modified: thing.modified,
                    ..Attributes::default()
                };
                edit.set_attributes(Node(node), &new).unwrap();
            }
            _ => self.set_extended_one(edit, random),
        }
    }

    fn rename_one(&mut self, edit: &mut dyn Edit, random: &mut Random) {
        let Some((source, old, child)) = self.pick_name(random) else {
            return;
        };
        let target = self.pick_directory(random);
        let Kind::Directory(names) = &self.things[&target].kind else {
            return;
        };
        let new = match random.below(4) {
            0 if !names.is_empty() => names.keys().nth(random.below(names.len())).unwrap().clone(),
            // The same name in another case.
            1 => old.to_ascii_uppercase(),
            _ => random.name().into_bytes(),
        };
        let there = edit.lookup(Node(target), &new).unwrap().map(|node| node.0);
        // As it is spelled there; a name for DOS may be one that the model does not know.
        let spelled = names
            .iter()
            .find(|(name, node)| Some(**node) == there && name.eq_ignore_ascii_case(&new));
        let spelled = spelled.map(|(name, _)| name.clone());
        if there.is_some() && spelled.is_none() {
            return;
        }
        let is_directory = matches!(self.things[&child].kind, Kind::Directory(_));
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
        let same_name = source == target && spelled.as_ref() == Some(&old);
        if there == Some(child) && !same_name {
            return;
        }
        if let (Some(there), Some(spelled)) = (there, spelled)
            && !same_name
        {
            self.things.get_mut(&target).unwrap().directory().remove(&spelled);
            self.drop_link(there);
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
        let node = self.pick(random, |_| true).unwrap();
        let name = [
            &b"user.a"[..],
            b"user.quite a long name of a stream",
            b"user.Zone.Identifier",
        ][random.below(3)];
        if random.below(4) == 0 {
            edit.set_extended(Node(node), name, None).unwrap();
            self.things.get_mut(&node).unwrap().extended.remove(name);
            return;
        }
        let length = [0, 1, 40, 400, 1500, 9000][random.below(6)];
        let value = random.bytes(length);
        edit.set_extended(Node(node), name, Some(&value)).unwrap();
        self.things
            .get_mut(&node)
            .unwrap()
            .extended
            .insert(name.to_vec(), value);
    }
}

/// All contents of a file or link, read in odd pieces.
pub(crate) fn contents(fs: &dyn FileSystem, node: Node) -> Vec<u8> {
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
