//! The index of touched paths: under which digests an operation's path is found again.
//!
//! An operation is found at its own path and at every node above it except the root, whose history is all revisions.
//! What happens *below* a path by way of an operation above it is not listed path by path: the operation is marked deep,
//! and whoever looks for a path asks for the deep ones at the paths above it too.

use confold_model::ids::{Hash, Revision};
use confold_model::path::{Path, Step};
use confold_store::{PathDigest, Touched};
use std::collections::BTreeMap;

/// An operation named this very path.
pub const SELF: u8 = 1;
/// An operation named a path below.
pub const BELOW: u8 = 2;
/// An operation on this path added, put, replaced or removed the whole subtree.
pub const DEEP: u8 = 4;

/// The digest of a path: the first 12 bytes of H over its steps, each u32 field, then `00`, or `01`, u16 length and key.
pub fn path_digest(path: &Path) -> PathDigest {
    let mut bytes = Vec::with_capacity(64);
    path.steps.iter().for_each(|step| write_step(&mut bytes, step));
    digest(&bytes)
}

/// A path's own digest and those of the nodes above it except the root, from the top down, each with whether it is the
/// path's own: what to ask the index for the history of one path.
pub fn digests_to(path: &Path) -> Vec<(PathDigest, bool)> {
    let mut bytes = Vec::with_capacity(64);
    let mut found = Vec::with_capacity(path.steps.len().max(1));
    for (index, step) in path.steps.iter().enumerate() {
        write_step(&mut bytes, step);
        found.push((digest(&bytes), index + 1 == path.steps.len()));
    }
    if path.is_root() {
        found.push((digest(&bytes), true));
    }
    found
}

/// Rows of one revision: at most one per path, the kinds of several operations together.
pub(crate) fn rows(revision: Revision, touched: &[(Path, bool)], out: &mut Vec<Touched>) {
    if let [(path, deep)] = touched {
        // The common case: one operation, whose digests differ by themselves.
        out.extend(digests_to(path).into_iter().map(|(path, own)| Touched { revision, path, kind: kind(own, *deep) }));
        return;
    }
    let mut kinds: BTreeMap<PathDigest, u8> = BTreeMap::new();
    for (path, deep) in touched {
        for (digest, own) in digests_to(path) {
            *kinds.entry(digest).or_default() |= kind(own, *deep);
        }
    }
    out.extend(kinds.into_iter().map(|(path, kind)| Touched { revision, path, kind }));
}

fn kind(own: bool, deep: bool) -> u8 {
    match (own, deep) {
        (true, true) => SELF | DEEP,
        (true, false) => SELF,
        (false, _) => BELOW,
    }
}

fn digest(bytes: &[u8]) -> PathDigest {
    PathDigest(*Hash::of(bytes).0.first_chunk().expect("a hash is longer than 12 bytes"))
}

fn write_step(out: &mut Vec<u8>, step: &Step) {
    out.extend(step.field.to_be_bytes());
    match &step.key {
        None => out.push(0),
        Some(key) => {
            out.push(1);
            out.extend((key.len() as u16).to_be_bytes());
            out.extend_from_slice(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(steps: &[(u32, &str)]) -> Path {
        let step = |(field, key): &(u32, &str)| match *key {
            "" => Step::single(*field),
            key => Step::keyed(*field, key.as_bytes()),
        };
        Path { steps: steps.iter().map(step).collect() }
    }

    #[test]
    fn paths_that_print_alike_in_other_places_have_other_digests() {
        let near_misses = [
            path(&[]),
            path(&[(1, "")]),
            path(&[(1, "a")]),
            path(&[(1, "ab")]),
            path(&[(1, "a"), (2, "")]),
            path(&[(1, "a"), (2, "b")]),
            path(&[(1, ""), (2, "")]),
        ];
        let digests: std::collections::BTreeSet<_> = near_misses.iter().map(path_digest).collect();
        assert_eq!(digests.len(), near_misses.len());
    }

    #[test]
    fn an_operation_is_found_at_its_path_and_at_every_node_above_except_the_root() {
        let port = path(&[(3, "olt-1"), (9, "p")]);
        let device = path(&[(3, "olt-1")]);
        let mut found = Vec::new();
        rows(Revision(7), &[(port.clone(), false)], &mut found);
        let expected = [(path_digest(&device), BELOW), (path_digest(&port), SELF)];
        assert_eq!(found.iter().map(|row| (row.path, row.kind)).collect::<Vec<_>>(), expected);
        assert!(found.iter().all(|row| row.revision == Revision(7) && row.path != path_digest(&Path::root())));
    }

    #[test]
    fn several_operations_of_one_commit_make_one_row_per_path() {
        let ports: Vec<(Path, bool)> =
            (0..3).map(|n| (path(&[(3, "olt-1"), (9, &n.to_string())]), n == 1)).chain([(path(&[(3, "olt-1")]), false)]).collect();
        let mut found = Vec::new();
        rows(Revision(1), &ports, &mut found);
        assert_eq!(found.len(), 4);
        let device = found.iter().find(|row| row.path == path_digest(&path(&[(3, "olt-1")]))).unwrap();
        assert_eq!(device.kind, SELF | BELOW);
        let deep = found.iter().find(|row| row.path == path_digest(&ports[1].0)).unwrap();
        assert_eq!(deep.kind, SELF | DEEP);
    }
}
