//! What a hive should hold, in memory; random edits done to both; and comparing.

use crate::seen::{self, KeyPath, join};
use proptest::{prelude::*, sample::Index};
use rehome::{
    disk::Kind,
    hive::{Editor, Hive, KeyId, Name, ValueKind},
};
use std::collections::{BTreeMap, BTreeSet};

/// One edit. Indexes choose among what there is.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    CreateKey(Index, Name),
    RemoveKey(Index),
    SetValue(Index, Name, ValueKind, Vec<u8>),
    SetOldValue(Index, Index, ValueKind, Vec<u8>),
    RemoveValue(Index, Index),
    SetClass(Index, Option<Vec<u8>>),
    SetSecurity(Index, u8),
}

const NAMES: &[&str] = &[
    "a",
    "A",
    "Start",
    "start",
    "Services",
    "disk",
    "ImagePath",
    "PCI#VEN_1AF4&DEV_1001&REV_00",
    "z_",
    "zZ",
    "{4d36e97b}",
    "\u{e4}\u{f6}\u{fc}",
    "\u{c4}\u{d6}\u{dc}",
    "\u{df}",
    "\u{ff}",
    "\u{178}",
    "\u{43a}\u{43b}\u{44e}\u{447}",
    "\u{41a}\u{41b}\u{42e}\u{427}",
    "\u{1f600}",
    "with space",
    "a/b",
    "100%",
];

fn a_name() -> impl Strategy<Value = Name> {
    prop_oneof![
        6 => prop::sample::select(NAMES).prop_map(Name::from),
        2 => "[a-zA-Z0-9_]{1,12}".prop_map(|text| Name::from(text.as_str())),
        1 => (200..=255_usize).prop_map(|length| Name::from("Long".repeat(64).get(..length).unwrap())),
    ]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        4 => 0..=5_usize,
        6 => 5..200_usize,
        2 => 1000..5000_usize,
        2 => 16340..16350_usize,
        1 => prop::sample::select(vec![2 * 16344_usize, 2 * 16344 + 1, 40_000, 100_000]),
    ];
    (length, any::<u8>()).prop_map(|(length, seed)| {
        (0..length)
            .map(|at| seed.wrapping_add((at * 7 / 3) as u8))
            .collect()
    })
}

fn kind() -> impl Strategy<Value = ValueKind> {
    prop_oneof![9 => (0..12_u32).prop_map(ValueKind), 1 => any::<u32>().prop_map(ValueKind)]
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (any::<Index>(), a_name()).prop_map(|(key, name)| Op::CreateKey(key, name)),
        2 => any::<Index>().prop_map(Op::RemoveKey),
        6 => (any::<Index>(), a_name(), kind(), data()).prop_map(|(key, name, kind, data)| Op::SetValue(key, name, kind, data)),
        3 => (any::<Index>(), any::<Index>(), kind(), data())
            .prop_map(|(key, value, kind, data)| Op::SetOldValue(key, value, kind, data)),
        3 => (any::<Index>(), any::<Index>()).prop_map(|(key, value)| Op::RemoveValue(key, value)),
        1 => (any::<Index>(), prop::option::of("[a-z ]{0,20}")).prop_map(|(key, class)| {
            Op::SetClass(key, class.map(|class| class.encode_utf16().flat_map(u16::to_le_bytes).collect()))
        }),
        1 => (any::<Index>(), 0..4_u8).prop_map(|(key, which)| Op::SetSecurity(key, which)),
    ]
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Key {
    /// Names as they are spelled.
    values: BTreeMap<Name, (Name, ValueKind, Vec<u8>)>,
    subkeys: BTreeMap<Name, Name>,
    class: Option<Vec<u8>>,
    security: Vec<u8>,
}

/// Keys by their path as it is spelled.
pub(crate) struct Model {
    keys: BTreeMap<KeyPath, Key>,
    /// Paths of keys whose cells may be other than they were.
    pub(crate) touched: BTreeSet<KeyPath>,
}

impl Model {
    /// What is there now.
    pub(crate) fn read(hive: &Hive) -> Self {
        let mut keys = BTreeMap::new();
        hive.walk(&hive.root().unwrap(), &mut |path, key| {
            let path = path
                .iter()
                .fold(KeyPath::new(), |path, name| join(&path, name.units()));
            let mut model = Key {
                class: key.class()?.map(<[u8]>::to_vec),
                security: key.security()?.to_vec(),
                ..Key::default()
            };
            for value in key.values()? {
                let all = (value.name().clone(), value.kind(), value.data()?.into_owned());
                assert!(
                    model.values.insert(value.name().clone(), all).is_none(),
                    "a value twice"
                );
            }
            for subkey in key.subkeys()? {
                let name = subkey.name()?;
                assert!(model.subkeys.insert(name.clone(), name).is_none(), "a key twice");
            }
            keys.insert(path, model);
            Ok(())
        })
        .unwrap();
        Self {
            keys,
            touched: BTreeSet::new(),
        }
    }

    fn choose(&self, index: &Index) -> KeyPath {
        index.get(&self.keys.keys().collect::<Vec<_>>()).to_vec()
    }

    fn id(path: &KeyPath, editor: &Editor<'_>) -> KeyId {
        let mut key = editor.hive().root().unwrap();
        for name in path.split(|unit| *unit == u16::from(b'\\')).skip(1) {
            key = key.subkey(&seen::name(name)).unwrap().unwrap();
        }
        key.id()
    }

    fn touch(&mut self, path: &KeyPath) {
        self.touched.insert(path.clone());
    }

    /// Does one edit to both.
    pub(crate) fn step(&mut self, op: &Op, editor: &mut Editor<'_>) {
        match op {
            Op::CreateKey(key, name) => self.create(&self.choose(key), name, editor),
            Op::RemoveKey(key) => self.remove(&self.choose(key), editor),
            Op::SetValue(key, name, kind, data) => self.set(&self.choose(key), name, *kind, data, editor),
            Op::SetOldValue(key, value, kind, data) => {
                let path = self.choose(key);
                if let Some(name) = self.value_of(&path, value) {
                    self.set(&path, &name, *kind, data, editor);
                }
            }
            Op::RemoveValue(key, value) => {
                let path = self.choose(key);
                let id = Self::id(&path, editor);
                if let Some(name) = self.value_of(&path, value) {
                    assert!(editor.remove_value(id, &name).unwrap());
                    self.keys.get_mut(&path).unwrap().values.remove(&name);
                    self.touch(&path);
                } else {
                    assert!(!editor.remove_value(id, "absent").unwrap());
                }
            }
            Op::SetClass(key, class) => {
                let path = self.choose(key);
                let id = Self::id(&path, editor);
                let class = class.clone().filter(|class| !class.is_empty());
                let changed = editor.set_class(id, class.as_deref()).unwrap();
                let key = self.keys.get_mut(&path).unwrap();
                assert_eq!(changed, key.class != class);
                key.class = class;
                self.touch(&path);
                // The longest class name of its subkeys is noted above.
                if let Some(end) = path.iter().rposition(|unit| *unit == u16::from(b'\\')) {
                    self.touch(&path[..end].to_vec());
                }
            }
            Op::SetSecurity(key, which) => {
                let path = self.choose(key);
                let id = Self::id(&path, editor);
                let descriptor = descriptor(*which);
                let changed = editor.set_security(id, &descriptor).unwrap();
                let key = self.keys.get_mut(&path).unwrap();
                assert_eq!(changed, key.security != descriptor);
                key.security = descriptor;
                self.touch(&path);
            }
        }
    }

    fn value_of(&self, path: &KeyPath, index: &Index) -> Option<Name> {
        let values: Vec<&Name> = self.keys[path].values.keys().collect();
        (!values.is_empty()).then(|| (*index.get(&values)).clone())
    }

    fn create(&mut self, parent: &KeyPath, name: &Name, editor: &mut Editor<'_>) {
        let id = Self::id(parent, editor);
        let there = self.keys[parent].subkeys.contains_key(name);
        match editor.create_key(id, name) {
            Ok(_) => assert!(!there),
            Err(error) => {
                assert!(there && error.kind == Kind::Exists, "{error}");
                return;
            }
        }
        let above = self.keys.get_mut(parent).unwrap();
        above.subkeys.insert(name.clone(), name.clone());
        let new = Key {
            security: above.security.clone(),
            ..Key::default()
        };
        let path = join(parent, name.units());
        self.touch(parent);
        self.touch(&path);
        self.keys.insert(path, new);
    }

    fn remove(&mut self, path: &KeyPath, editor: &mut Editor<'_>) {
        let Some(end) = path.iter().rposition(|unit| *unit == u16::from(b'\\')) else {
            return;
        };
        let (parent, name) = (path[..end].to_vec(), seen::name(&path[end + 1..]));
        let id = Self::id(&parent, editor);
        assert!(editor.remove_key(id, &name).unwrap());
        assert!(!editor.remove_key(id, &name).unwrap());
        self.keys.get_mut(&parent).unwrap().subkeys.remove(&name);
        let within = join(path, &[]);
        let gone: Vec<KeyPath> = self
            .keys
            .keys()
            .filter(|other| *other == path || other.starts_with(&within))
            .cloned()
            .collect();
        for path in gone {
            self.keys.remove(&path);
            self.touch(&path);
        }
        self.touch(&parent);
    }

    fn set(&mut self, path: &KeyPath, name: &Name, kind: ValueKind, data: &[u8], editor: &mut Editor<'_>) {
        let id = Self::id(path, editor);
        let changed = editor.set_value(id, name, kind, data).unwrap();
        let values = &mut self.keys.get_mut(path).unwrap().values;
        let spelled = values.get(name).map_or_else(|| name.clone(), |old| old.0.clone());
        let old = values.insert(name.clone(), (spelled, kind, data.to_vec()));
        assert_eq!(changed, old.is_none_or(|old| (old.1, &*old.2) != (kind, data)));
        self.touch(path);
    }

    #[track_caller]
    pub(crate) fn must_be_in(&self, hive: &Hive, when: &str) {
        let found = Self::read(hive);
        for (path, key) in &self.keys {
            assert_eq!(found.keys.get(path), Some(key), "{when}: {}", seen::text(path));
        }
        assert_eq!(found.keys.len(), self.keys.len(), "{when}: keys");
        // Names are the same as they are spelled, not only to Windows.
        let spelled = |model: &Self| -> Vec<_> {
            let values = model.keys.values().flat_map(|key| key.values.values());
            values.map(|value| value.0.units().to_vec()).collect()
        };
        assert_eq!(spelled(&found), spelled(self), "{when}");
    }
}

/// Descriptors that differ in one byte of their access mask.
fn descriptor(which: u8) -> Vec<u8> {
    let hive = Hive::create("descriptor", rehome::hive::Version::Latest, 0).unwrap();
    let mut descriptor = hive.root().unwrap().security().unwrap().to_vec();
    descriptor[0x20] ^= which;
    descriptor
}
