//! A path names a node or a container: child fields, and keys where a keyed container's element is meant.

/// One step. Without a key it is a single child or, as a last step only, a container itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Step {
    pub field: u32,
    /// Key bytes as in docs/formats.md 2, never empty.
    pub key: Option<Box<[u8]>>,
}

/// Steps from the root node. Ordered as the tree is walked: by field number, then by key bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Path {
    pub steps: Vec<Step>,
}

impl Path {
    pub fn root() -> Path {
        Path::default()
    }

    pub fn is_root(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether this path is `other` or lies below it.
    pub fn starts_with(&self, other: &Path) -> bool {
        self.steps.starts_with(&other.steps)
    }
}
