//! What an image says of itself, and what a check of it finds: plain facts, for `image info` and `image check`.

use serde::Serialize;

/// What an image says of itself, beside the size and sector size that it has as a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Info {
    /// The kind within the format: "streamOptimized", "dynamic". Absent where a format has but one.
    pub subformat: Option<String>,
    /// Unit of allocation in bytes: cluster, grain, block.
    pub unit: Option<u64>,
    /// The file that holds what this one does not, as the image names it.
    pub backing: Option<Named>,
    /// Further files that the image is made of, as it names them.
    pub files: Vec<Named>,
    /// Points in time that are kept inside, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// How its data is encrypted.
    pub encrypted: Option<String>,
    /// How its data is compressed, where some may be.
    pub compression: Option<String>,
    /// It was not closed properly.
    pub dirty: bool,
    /// It is marked as damaged.
    pub corrupt: bool,
    /// Whatever else the format has that a person may ask for, by name.
    pub details: Vec<(String, String)>,
}

/// A file as an image names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The name, with what is no UTF-8 replaced.
    pub name: String,
    /// Its format, where the image says it.
    pub format: Option<String>,
}

/// A point in time that is kept inside an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Its identifier in the image.
    pub id: String,
    /// What the user called it.
    pub name: String,
    /// Size of the disk then, in bytes.
    pub size: u64,
    /// Size of the state of the machine, in bytes; 0: of the disk alone.
    pub machine_state: u64,
    /// When, in seconds since 1970.
    pub taken: Option<u64>,
}

/// What a check of an image's structure found. Nothing of it: the image is sound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What contradicts the format or loses data, one sentence each. A list that is too long ends with a count.
    pub errors: Vec<String>,
    /// Space that nothing refers to: harmless, and lost. One sentence each.
    pub leaks: Vec<String>,
    /// How much that is, in bytes.
    pub leaked: u64,
}

impl Check {
    /// Neither errors nor leaks.
    pub fn is_sound(&self) -> bool {
        self.errors.is_empty() && self.leaks.is_empty()
    }
}
