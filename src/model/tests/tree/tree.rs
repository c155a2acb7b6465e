use crate::model::{CONTAINERS, Model, SINGLES, config, entries, key, model, path, persist, stored};
use confold_model::diff::{NoSchema, Options, changes};
use confold_model::ids::Hash;
use confold_model::node::{EMPTY_NODE, data_hash};
use confold_model::objects::{MemoryObjects, NoObjects, Objects, ObjectsError, ObjectsErrorCause};
use confold_model::path::{Path, Step};
use confold_model::tree::{ContainerView, Lookup, NodeView, Tree, verify};
use confold_model::walk::Walk;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};

fn found(tree: &Tree, at: &str, objects: &dyn Objects) -> NodeView {
    match tree.node(&path(at), objects).unwrap() {
        Lookup::Found(view) => view,
        Lookup::Default => panic!("{at} is default"),
        Lookup::Absent { step } => panic!("{at} is absent at {step}"),
    }
}

fn container(tree: &Tree, at: &str, objects: &dyn Objects) -> ContainerView {
    tree.container(&path(at), objects).unwrap().unwrap()
}

/// `count` elements under `/1`, with keys `0000`, `0001` … in ASCII.
fn wide(count: u32) -> Model {
    let elements = (0..count).map(|index| (format!("{index:04}").into_bytes(), Model::leaf(&index.to_be_bytes())));
    Model { containers: BTreeMap::from([(1, elements.collect())]), ..Model::default() }
}

fn wide_path(index: u32) -> Path {
    path(&format!("1:{}", hex::encode(format!("{index:04}"))))
}

#[test]
fn the_empty_tree_is_the_empty_node() {
    assert_eq!(Tree::empty().root(), EMPTY_NODE);
    let view = found(&Tree::at(EMPTY_NODE), "", &NoObjects);
    assert_eq!((view.config(&NoObjects).unwrap(), view.data_hash()), (&[][..], data_hash(&[])));
}

// H2: config, field numbers and what is below; nothing else.
#[test]
fn a_node_is_hashed_as_documented() {
    let mut tree = Tree::empty();
    tree.set_config(&path("6"), b"single", &NoObjects).unwrap();
    tree.set_config(&path(""), b"root", &NoObjects).unwrap();
    tree.insert_subtree(&path("2:6b"), &Model::leaf(b"k").subtree(), &NoObjects).unwrap();
    let single = Hash::of(b"\x01\x00\x06single\x00");
    let element = Hash::of(b"\x01\x00\x01k\x00");
    let bucket = Hash::of(&[b"\x03\x01\x01k", &element.0[..]].concat());
    let root = Hash::of(&[b"\x01\x00\x04root\x02\x02", &bucket.0[..], b"\x06", &single.0[..]].concat());
    assert_eq!(tree.root(), root);
    assert_eq!(tree.subtree_hash(&path("6"), &NoObjects).unwrap(), Some(single));
    assert_eq!(tree.container_hash(&path("2"), &NoObjects).unwrap(), Some(bucket));
    assert_eq!(tree.data_hash(&path("6"), &NoObjects).unwrap(), Some(data_hash(b"single")));
}

#[test]
fn a_long_config_is_a_blob_and_is_loaded_only_when_it_is_read() {
    let config = [7; 1025];
    let mut tree = Tree::empty();
    tree.set_config(&path(""), &config, &NoObjects).unwrap();
    // H7: the blob, the node that names it and the data hash live in one name space without meeting.
    assert_eq!(tree.root(), Hash::of(&[b"\x01\x01", &data_hash(&config).0[..], b"\x00"].concat()));
    let mut objects = stored(&tree);
    let view = found(&Tree::at(tree.root()), "", &objects);
    assert_eq!(view.config(&objects).unwrap(), config);
    let blob = objects.0.remove(&data_hash(&config)).unwrap();
    assert_eq!(Hash::of(&blob), data_hash(&config));
    let view = found(&Tree::at(tree.root()), "", &objects);
    assert_eq!(view.data_hash(), data_hash(&config));
    assert_eq!(view.config(&objects).unwrap_err().cause, ObjectsErrorCause::Missing);
}

// H4
#[test]
fn an_element_moved_to_another_field_of_its_type_changes_the_root() {
    let [mut a, mut b] = [Tree::empty(), Tree::empty()];
    a.insert_subtree(&path("1:61"), &Model::leaf(b"x").subtree(), &NoObjects).unwrap();
    b.insert_subtree(&path("2:61"), &Model::leaf(b"x").subtree(), &NoObjects).unwrap();
    assert_ne!(a.root(), b.root());
    // And so does a single child under another name.
    let [mut a, mut b] = [Tree::empty(), Tree::empty()];
    a.set_config(&path("5"), b"x", &NoObjects).unwrap();
    b.set_config(&path("6"), b"x", &NoObjects).unwrap();
    assert_ne!(a.root(), b.root());
}

// H5, K7
#[test]
fn the_order_of_adding_does_not_matter_and_listing_is_in_key_order() {
    let [mut a, mut b] = [Tree::empty(), Tree::empty()];
    for (one, other) in [("1:61", "1:62"), ("1:62", "1:61")] {
        a.insert_subtree(&path(one), &Model::leaf(b"x").subtree(), &NoObjects).unwrap();
        b.insert_subtree(&path(other), &Model::leaf(b"x").subtree(), &NoObjects).unwrap();
    }
    assert_eq!(a.root(), b.root());
    let keys: Vec<_> = container(&b, "1", &NoObjects).slice(0, 9, &NoObjects).unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [Box::from(*b"a"), Box::from(*b"b")] as [Box<[u8]>; 2]);
}

// H3
#[test]
fn an_edit_that_is_undone_returns_to_the_old_root() {
    let mut tree = wide(300).tree();
    let before = tree.root();
    tree.set_config(&wide_path(7), b"other", &NoObjects).unwrap();
    tree.insert_subtree(&path("1:ff/1:01"), &Model::leaf(b"").subtree(), &NoObjects).unwrap();
    tree.remove(&wide_path(8), &NoObjects).unwrap();
    tree.set_config(&path("5/6"), b"deep", &NoObjects).unwrap();
    assert_ne!(tree.root(), before);
    tree.set_config(&wide_path(7), &7u32.to_be_bytes(), &NoObjects).unwrap();
    tree.insert_subtree(&wide_path(8), &Model::leaf(&8u32.to_be_bytes()).subtree(), &NoObjects).unwrap();
    tree.set_config(&path("5/6"), b"", &NoObjects).unwrap();
    assert_eq!(tree.root(), before);
}

#[test]
fn lookups_tell_found_from_default_from_absent() {
    let mut tree = Tree::empty();
    tree.insert_subtree(&path("1:61"), &Model::leaf(b"").subtree(), &NoObjects).unwrap();
    tree.set_config(&path("1:61/5"), b"x", &NoObjects).unwrap();
    let cases = [
        ("", "found"),
        ("1:61", "found"),
        ("1:61/5", "found"),
        ("1:61/6", "default"),
        ("1:61/6/5", "default"),
        ("1:62", "absent 0"),
        ("1:62/5", "absent 0"),
        ("1:61/1:61", "absent 1"),
        ("2:61", "absent 0"),
        ("5/5/1:61/5", "absent 2"),
        ("1:61/5/1:61", "absent 2"),
    ];
    for (at, expected) in cases {
        let got = match tree.node(&path(at), &NoObjects).unwrap() {
            Lookup::Found(_) => "found".to_owned(),
            Lookup::Default => "default".to_owned(),
            Lookup::Absent { step } => format!("absent {step}"),
        };
        assert_eq!(got, expected, "{at}");
    }
    // S5: a default single child has the hash of the empty node; its containers are empty.
    assert_eq!(tree.subtree_hash(&path("1:61/6"), &NoObjects).unwrap(), Some(EMPTY_NODE));
    assert_eq!(tree.data_hash(&path("1:61/6"), &NoObjects).unwrap(), Some(data_hash(b"")));
    assert_eq!(tree.container_hash(&path("1:61/6/1"), &NoObjects).unwrap(), Some(Hash::ZERO));
    assert_eq!(tree.container_hash(&path("1:62/1"), &NoObjects).unwrap(), None);
    assert_eq!(tree.subtree_hash(&path("1:62"), &NoObjects).unwrap(), None);
}

#[test]
fn edits_below_an_absent_key_change_nothing_and_say_so() {
    let mut tree = wide(20).tree();
    let root = tree.root();
    assert!(!tree.set_config(&path("1:ff"), b"x", &NoObjects).unwrap());
    assert!(!tree.set_config(&path("5/1:ff/6"), b"x", &NoObjects).unwrap());
    assert!(!tree.insert_subtree(&path("1:ff/1:61"), &Model::leaf(b"x").subtree(), &NoObjects).unwrap());
    assert!(!tree.replace_container(&path("2:ff/1"), &[], &NoObjects).unwrap());
    assert!(!tree.remove(&path("1:ff"), &NoObjects).unwrap());
    assert!(!tree.remove(&path("5"), &NoObjects).unwrap());
    assert_eq!(tree.root(), root);
}

// G3: a keyless list can be listed; it is the map of its indices.
#[test]
fn a_list_is_a_map_of_indices_and_is_replaced_as_a_whole() {
    let list = |count: u32| (0..count).map(|at| (at.to_be_bytes().to_vec(), Model::leaf(&[at as u8]))).collect::<BTreeMap<_, _>>();
    let mut tree = Tree::empty();
    tree.replace_container(&path("5/3"), &entries(&list(40)), &NoObjects).unwrap();
    let view = container(&tree, "5/3", &NoObjects);
    assert_eq!(view.len(), 40);
    let (key, node) = view.nth(33, &NoObjects).unwrap().unwrap();
    assert_eq!((&*key, node.config(&NoObjects).unwrap()), (&33u32.to_be_bytes()[..], &[33][..]));
    assert!(view.nth(40, &NoObjects).unwrap().is_none());
    tree.replace_container(&path("5/3"), &entries(&list(2)), &NoObjects).unwrap();
    assert_eq!(container(&tree, "5/3", &NoObjects).len(), 2);
    // Emptied, it takes the default single child that held it along.
    tree.replace_container(&path("5/3"), &[], &NoObjects).unwrap();
    assert_eq!(tree.root(), EMPTY_NODE);
}

// K7: in key order, paged, from anywhere, both ways.
#[test]
fn a_container_is_paged_in_key_order_from_anywhere() {
    let tree = wide(100).tree();
    let view = container(&tree, "1", &NoObjects);
    let keys = |elements: Vec<(Box<[u8]>, NodeView)>| {
        elements.into_iter().map(|(key, _)| String::from_utf8(key.into()).unwrap()).collect::<Vec<_>>().join(" ")
    };
    let range = |from: Bound<&str>| keys(view.range(from.map(str::as_bytes), 2, &NoObjects).unwrap());
    let back = |from: Bound<&str>| keys(view.range_back(from.map(str::as_bytes), 2, &NoObjects).unwrap());
    assert_eq!(range(Bound::Unbounded), "0000 0001");
    assert_eq!(range(Bound::Included("0041")), "0041 0042");
    assert_eq!(range(Bound::Excluded("0041")), "0042 0043");
    assert_eq!(range(Bound::Excluded("00410")), "0042 0043");
    assert_eq!(range(Bound::Included("0099")), "0099");
    assert_eq!(range(Bound::Included("1")), "");
    assert_eq!(back(Bound::Unbounded), "0099 0098");
    assert_eq!(back(Bound::Included("0041")), "0041 0040");
    assert_eq!(back(Bound::Excluded("0041")), "0040 0039");
    assert_eq!(back(Bound::Included("0000")), "0000");
    assert_eq!(back(Bound::Excluded("")), "");
    assert_eq!(view.rank(b"0041", &NoObjects).unwrap(), (41, true));
    assert_eq!(view.rank(b"00411", &NoObjects).unwrap(), (42, false));
}

// H8, I9: what is loaded is hashed again, and a wrong object is said to be wrong, and how.
#[test]
fn every_wrong_object_on_the_way_is_refused() {
    let tree = wide(100).tree();
    let objects = stored(&tree);
    let proof = tree.prove(&wide_path(41), &NoObjects).unwrap();
    assert!(proof.len() >= 4, "root, inners, bucket, node");
    for on_the_way in &proof {
        let hash = Hash::of(on_the_way);
        let mut broken = objects.clone();
        broken.0.insert(hash, Bytes::from_static(b"\x01\x00\x00\x00"));
        let error = Tree::at(tree.root()).node(&wide_path(41), &broken).err().unwrap();
        let expected = ObjectsErrorCause::Corrupt(format!("its bytes hash to {EMPTY_NODE}"));
        assert_eq!(error, ObjectsError { hash, cause: expected });
        broken.0.remove(&hash);
        let error = Tree::at(tree.root()).node(&wide_path(41), &broken).err().unwrap();
        assert_eq!(error, ObjectsError { hash, cause: ObjectsErrorCause::Missing });
    }
}

#[test]
fn objects_that_are_sound_alone_are_refused_in_a_wrong_place() {
    let put = |objects: &mut MemoryObjects, bytes: Vec<u8>| {
        let hash = Hash::of(&bytes);
        objects.0.insert(hash, bytes.into());
        hash
    };
    let mut objects = MemoryObjects::default();
    let node = put(&mut objects, b"\x01\x00\x01k\x00".to_vec());
    let low: Vec<u8> = (0x10..0x20u8).flat_map(|key| [&[1, key], &node.0[..]].concat()).collect();
    let low = put(&mut objects, [&[3, 16], &low[..]].concat());
    let high = put(&mut objects, [&[3, 1, 1, 0x31], &node.0[..]].concat());
    // The second bucket hangs below nibble 2, its key begins with 3; the first is counted as 17.
    let inner = |counts: [u8; 2]| [&[2, 0, 0, 0, 0b110, counts[0], counts[1]], &low.0[..], &high.0[..]].concat();
    let cases = [
        (inner([16, 1]), "1:20", Err("its key 31 is off the prefix above")),
        (inner([16, 1]), "1:10", Ok(())),
        (inner([17, 1]), "1:10", Err("it holds 16 keys where 17 are counted above")),
        ([&[3, 1, 1, 0x10], &low.0[..]].concat(), "1:10", Err("a node belongs there, this is a bucket")),
        ([&[3, 1, 1, 0x10], &node.0[..]].concat(), "1", Err("a node belongs there, this is a container")),
        (b"\x01\x00\x01x\x00".to_vec(), "1:10", Err("a container belongs there, this is a node")),
        ([&[4], &[0; 1025][..]].concat(), "1:10", Err("a node or container belongs there, this is a blob")),
    ];
    for (top, at, expected) in cases {
        let top = put(&mut objects, top);
        let root = put(&mut objects, [&[1, 0, 0, 1, 1], &top.0[..]].concat());
        let result = Tree::at(root).node(&path(at), &objects).map(|_| ());
        assert_eq!(
            result.map_err(|error| error.cause),
            expected.map_err(|text: &str| ObjectsErrorCause::Corrupt(text.to_owned())),
            "{at}"
        );
    }
    // The walk sees the same, and goes on behind it.
    let top = put(&mut objects, inner([17, 1]));
    let root = put(&mut objects, [&[1, 0, 0, 1, 1], &top.0[..]].concat());
    let mut walk = Walk::new();
    walk.add_root(root);
    let errors: Vec<_> = std::iter::from_fn(|| walk.next(&objects)).filter_map(Result::err).map(|error| error.hash).collect();
    assert_eq!(errors.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([low, high]));
}

#[test]
fn only_new_objects_are_handed_out_children_first_and_once() {
    let mut tree = wide(1000).tree();
    let mut objects = MemoryObjects::default();
    let all = persist(&tree, &mut objects);
    assert_eq!(all, objects.0.len(), "no two nodes are equal here");
    assert_eq!(persist(&tree, &mut objects), 0);
    let reader = tree.clone();
    tree.set_config(&wide_path(500), b"new", &NoObjects).unwrap();
    // Root, three levels of inners, bucket, node, at most.
    let few = persist(&tree, &mut objects);
    assert!((3..=7).contains(&few), "{few}");
    assert_eq!(persist(&tree, &mut objects), 0);
    assert!(persist(&reader, &mut objects) <= 1, "the reader shares what was stored");
    let back = Tree::at(tree.root());
    assert_eq!(found(&back, &format!("1:{}", hex::encode("0500")), &objects).config(&objects).unwrap(), b"new");
    assert_eq!(persist(&back, &mut objects), 0);
}

// R3
#[test]
fn equal_content_is_one_object_wherever_it_stands_and_whenever_it_comes_back() {
    let mut tree = Tree::empty();
    let mut objects = MemoryObjects::default();
    for at in ["1:61", "1:62", "2:61", "5", "5/1:61"] {
        tree.insert_subtree(&path(at), &Model::leaf(&[7; 1025]).subtree(), &NoObjects).unwrap();
    }
    persist(&tree, &mut objects);
    // The blob, its node, a bucket of two, a bucket of one in two places, the single child above it, the root.
    assert_eq!(objects.0.len(), 6);
    let before = tree.clone();
    tree.remove(&path("1:62"), &NoObjects).unwrap();
    persist(&tree, &mut objects);
    let count = objects.0.len();
    tree.insert_subtree(&path("1:62"), &Model::leaf(&[7; 1025]).subtree(), &NoObjects).unwrap();
    persist(&tree, &mut objects);
    assert_eq!((tree.root(), objects.0.len()), (before.root(), count));
}

#[test]
fn a_view_taken_in_the_middle_of_an_edit_has_the_hash_of_what_it_holds() {
    let mut tree = wide(100).tree();
    tree.set_config(&wide_path(7), b"new", &NoObjects).unwrap();
    tree.set_config(&path("5"), b"single", &NoObjects).unwrap();
    let (views, listing) = ([found(&tree, "1:30303037", &NoObjects), found(&tree, "5", &NoObjects)], container(&tree, "1", &NoObjects));
    let hash = |at: &str| tree.subtree_hash(&path(at), &NoObjects).unwrap();
    assert_eq!([Some(views[0].hash()), Some(views[1].hash())], [hash("1:30303037"), hash("5")]);
    assert_eq!(Some(listing.hash()), tree.container_hash(&path("1"), &NoObjects).unwrap());
}

#[test]
fn held_clones_and_views_do_not_see_later_edits() {
    let mut tree = wide(100).tree();
    let (held, view, listing) = (tree.clone(), found(&tree, "1:30303430", &NoObjects), container(&tree, "1", &NoObjects));
    let before = held.root();
    tree.set_config(&path("1:30303430"), b"new", &NoObjects).unwrap();
    tree.remove(&path("1:30303431"), &NoObjects).unwrap();
    assert_ne!(tree.root(), before);
    assert_eq!((held.root(), view.config(&NoObjects).unwrap(), listing.len()), (before, &40u32.to_be_bytes()[..], 100));
    assert_eq!(view.tree().root(), view.hash());
}

/// Counts what is asked for.
struct Counting(MemoryObjects, AtomicUsize);

impl Objects for Counting {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.object(hash)
    }
}

#[test]
fn a_tree_read_once_stays_loaded_until_it_is_shed() {
    let tree = wide(3000).tree();
    let objects = Counting(stored(&tree), AtomicUsize::new(0));
    let asked = || objects.1.swap(0, Ordering::Relaxed);
    let mut back = Tree::at(tree.root());
    for index in 0..3000 {
        back.node(&wide_path(index), &objects).unwrap();
    }
    assert_eq!(asked(), objects.0.0.len());
    back.node(&wide_path(7), &objects).unwrap();
    assert_eq!(asked(), 0);
    let full = back.memory();
    // First pass: all was used since the last one, so the bits are cleared, and then as much goes as has to.
    back.shed(full / 2);
    assert!(back.memory() <= full / 2 && back.memory() > full / 4, "{} of {full}", back.memory());
    // From now on what is used stays, what is not goes.
    back.node(&wide_path(0), &objects).unwrap();
    asked();
    back.shed(full / 8);
    assert!(back.memory() <= full / 8);
    back.node(&wide_path(0), &objects).unwrap();
    assert_eq!(asked(), 0);
    back.shed(0);
    assert_eq!(back.root(), tree.root());
    back.node(&wide_path(0), &objects).unwrap();
    assert!(asked() >= 5);
}

#[test]
fn what_is_not_stored_yet_is_never_shed() {
    let mut tree = wide(1000).tree();
    let mut objects = stored(&tree);
    tree.set_config(&wide_path(500), b"new", &NoObjects).unwrap();
    let root = tree.root();
    tree.shed(0);
    tree.shed(0);
    persist(&tree, &mut objects);
    let model = Model::read(&found(&Tree::at(root), "", &objects), &objects);
    assert_eq!(model.tree().root(), root);
    assert_eq!(tree.root(), root);
}

#[test]
fn a_proof_shows_presence_and_absence_and_nothing_else() {
    let mut tree = wide(500).tree();
    tree.set_config(&wide_path(41), &[1; 3000], &NoObjects).unwrap();
    let objects = stored(&tree);
    let loaded_and_not = [tree.clone(), Tree::at(tree.root())];
    for tree in loaded_and_not {
        let proof = tree.prove(&wide_path(41), &objects).unwrap();
        assert!(proof.len() <= 8);
        let Lookup::Found(view) = verify(tree.root(), &wide_path(41), &proof).unwrap() else { panic!("not found") };
        assert_eq!(view.data_hash(), data_hash(&[1; 3000]));
        let absent = tree.prove(&wide_path(999), &objects).unwrap();
        assert!(matches!(verify(tree.root(), &wide_path(999), &absent).unwrap(), Lookup::Absent { step: 0 }));
        for left_out in 0..proof.len() {
            let mut short = proof.clone();
            short.remove(left_out);
            assert!(verify(tree.root(), &wide_path(41), &short).is_err());
        }
        assert!(verify(EMPTY_NODE, &wide_path(41), &proof).is_ok_and(|found| matches!(found, Lookup::Absent { .. })));
        assert!(verify(tree.root(), &wide_path(399), &proof).is_err());
    }
}

#[test]
fn many_readers_load_one_tree_at_once_while_it_is_edited() {
    let tree = wide(2000).tree();
    let objects = stored(&tree);
    let mut edited = Tree::at(tree.root());
    let shared = edited.clone();
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (shared, objects, root) = (&shared, &objects, tree.root());
            scope.spawn(move || {
                for index in (0..2000).map(|index| (index * 7 + reader * 500) % 2000) {
                    let Lookup::Found(view) = shared.node(&wide_path(index), objects).unwrap() else { panic!("{index} is gone") };
                    assert_eq!(view.config(objects).unwrap(), index.to_be_bytes());
                }
                assert_eq!(shared.root(), root);
            });
        }
        for index in 0..2000 {
            assert!(edited.set_config(&wide_path(index), b"new", &objects).unwrap());
        }
    });
    assert_ne!(edited.root(), tree.root());
    let elements = container(&edited, "1", &objects).slice(0, 9999, &objects).unwrap();
    assert!(elements.len() == 2000 && elements.iter().all(|(_, view)| view.config(&objects).unwrap() == b"new"));
}

/// Loads nothing that is not asked for, and nothing at all once `left` is used up.
struct Failing(MemoryObjects, AtomicUsize);

impl Objects for Failing {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        let used_up = self.1.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
        match used_up {
            true => Err(ObjectsError { hash: *hash, cause: ObjectsErrorCause::Unavailable("disk".to_owned()) }),
            false => self.0.object(hash),
        }
    }
}

#[test]
fn a_store_that_fails_at_any_object_leaves_the_clone_before_as_it_was() {
    let mut model = wide(40);
    model.containers.get_mut(&1).unwrap().get_mut(&b"0007"[..]).unwrap().config = vec![7; 2000];
    let tree = model.tree();
    let objects = stored(&tree);
    for budget in 0..12 {
        let failing = Failing(objects.clone(), AtomicUsize::new(budget));
        let before = Tree::at(tree.root());
        for edit in 0..4 {
            let mut after = before.clone();
            let result = match edit {
                0 => after.set_config(&wide_path(7), b"new", &failing),
                1 => after.remove(&wide_path(8), &failing),
                2 => after.insert_subtree(&wide_path(777), &Model::leaf(b"x").subtree(), &failing),
                _ => after.replace_container(&path("1"), &[], &failing),
            };
            assert!(matches!(result, Ok(true)) || matches!(result, Err(ObjectsError { cause: ObjectsErrorCause::Unavailable(_), .. })));
        }
        assert_eq!(Model::read(&found(&before, "", &objects), &objects), model);
    }
}

#[test]
fn what_was_looked_up_can_be_changed_and_replaced_without_loading_more() {
    let tree = wide(2000).tree();
    let objects = stored(&tree);
    let mut back = Tree::at(tree.root());
    back.node(&wide_path(7), &objects).unwrap();
    back.node(&wide_path(1999), &objects).unwrap();
    back.node(&path("1:30303037ff"), &objects).unwrap();
    assert!(back.set_config(&wide_path(7), b"new", &NoObjects).unwrap());
    assert!(back.insert_subtree(&wide_path(1999), &wide(3).subtree(), &NoObjects).unwrap());
    assert!(back.insert_subtree(&path("1:30303037ff"), &wide(3).subtree(), &NoObjects).unwrap());
    assert_ne!(back.root(), tree.root());
}

// R2, R4, I10: what some roots reach is what a sweep keeps; each of them stays readable with that alone.
#[test]
fn a_walk_from_the_kept_roots_finds_all_they_need_and_nothing_else() {
    let mut tree = wide(300).tree();
    let mut objects = MemoryObjects::default();
    let mut roots = Vec::new();
    for index in 0..20 {
        tree.set_config(&wide_path(index), b"changed", &NoObjects).unwrap();
        persist(&tree, &mut objects);
        roots.push((tree.root(), Model::read(&found(&tree, "", &objects), &objects)));
    }
    let kept = [roots[3].clone(), roots[19].clone()];
    let mut walk = Walk::new();
    kept.iter().for_each(|(root, _)| walk.add_root(*root));
    let mut reached = MemoryObjects::default();
    while let Some(object) = walk.next(&objects) {
        let (hash, bytes) = object.unwrap();
        assert!(walk.has_seen(&hash) && reached.0.insert(hash, bytes).is_none(), "each object comes once");
    }
    assert!(reached.0.len() < objects.0.len());
    for (root, model) in kept {
        assert_eq!(Model::read(&found(&Tree::at(root), "", &reached), &reached), model);
    }
    assert!(matches!(Tree::at(roots[5].0).node(&path(""), &reached), Err(error) if error.cause == ObjectsErrorCause::Missing));
}

/// The deepest shape that limits allow in one event: nested containers, each a chain of keys that begin alike.
#[test]
fn the_deepest_tree_does_not_exhaust_a_stack_of_two_mebibytes() {
    let level = |below: Option<Model>| {
        let mut elements: BTreeMap<Vec<u8>, Model> = (1..=80).map(|length| (vec![b'a'; length], Model::leaf(b"x"))).collect();
        if let Some(below) = below {
            elements.insert(vec![b'a'; 80], below);
        }
        Model { containers: BTreeMap::from([(1, elements)]), ..Model::default() }
    };
    // 50 keys of 80 bytes are a path of about 4 KiB.
    let model = (0..50).fold(None, |below, _| Some(level(below))).unwrap();
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(move || {
            let tree = model.tree();
            let objects = stored(&tree);
            let deepest = path(&vec![format!("1:{}", "61".repeat(80)); 50].join("/"));
            let mut back = Tree::at(tree.root());
            assert!(back.set_config(&deepest, b"y", &objects).unwrap());
            assert_ne!(back.root(), tree.root());
            let whole = Options { deep: true, ..Options::default() };
            let (changed, _) = changes(&tree, &back, &NoSchema, &whole, &objects).unwrap();
            assert_eq!(changed.len(), 1);
            assert_eq!(changes(&Tree::empty(), &back, &NoSchema, &whole, &objects).unwrap().0.len(), 50 * 80);
            back.shed(0);
        })
        .unwrap()
        .join()
        .unwrap();
}

#[derive(Clone, Debug)]
enum Edit {
    SetConfig(Path, Vec<u8>),
    Insert(Path, Model),
    Remove(Path),
    Replace(Path, BTreeMap<Vec<u8>, Model>),
    Root,
    Hold,
    Persist,
    Reload,
    Shed(usize),
}

/// Few keys below the first level, so that paths meet.
fn node_path() -> impl Strategy<Value = Path> {
    let step = |keys: BoxedStrategy<Vec<u8>>| {
        prop_oneof![
            4 => (proptest::sample::select(&CONTAINERS[..2]), keys)
                .prop_map(|(field, key)| Step { field, key: Some(key.into()) }),
            1 => proptest::sample::select(&SINGLES[..]).prop_map(|field| Step { field, key: None }),
        ]
    };
    let few = || prop_oneof![Just(vec![0u8]), Just(vec![1])].boxed();
    let first = prop_oneof![key(), few()].boxed();
    (step(first), proptest::collection::vec(step(few()), 0..3))
        .prop_map(|(first, rest)| Path { steps: [vec![first], rest].concat() })
}

fn edit() -> impl Strategy<Value = Edit> {
    let leaves = || proptest::collection::btree_map(key(), config().prop_map(|config| Model::leaf(&config)), 0..20);
    let owner = prop_oneof![Just(Path::root()), node_path()];
    let container = (owner, proptest::sample::select(&CONTAINERS[..])).prop_map(|(mut path, field)| {
        path.steps.push(Step { field, key: None });
        path
    });
    prop_oneof![
        6 => (prop_oneof![1 => Just(Path::root()), 9 => node_path()], config()).prop_map(|(path, config)| Edit::SetConfig(path, config)),
        12 => (node_path(), config()).prop_map(|(path, config)| Edit::Insert(path, Model::leaf(&config))),
        1 => (node_path(), model()).prop_map(|(path, model)| Edit::Insert(path, model)),
        6 => node_path().prop_map(Edit::Remove),
        2 => (container, leaves()).prop_map(|(path, elements)| Edit::Replace(path, elements)),
        2 => Just(Edit::Root),
        1 => Just(Edit::Hold),
        1 => Just(Edit::Persist),
        1 => Just(Edit::Reload),
        1 => (0..5000usize).prop_map(Edit::Shed),
    ]
}

/// Does the same to the model. Says whether the tree has to have changed something, or found its place.
fn edit_model(model: &mut Model, edit: &Edit) -> bool {
    match edit {
        Edit::SetConfig(path, config) => match model.node(&path.steps) {
            None => false,
            Some(node) => {
                node.config = config.clone();
                true
            }
        },
        Edit::Insert(path, subtree) => {
            let (last, above) = path.steps.split_last().unwrap();
            let Some(parent) = model.node(above) else { return false };
            match &last.key {
                None => drop(parent.singles.insert(last.field, subtree.clone())),
                Some(key) => {
                    parent.containers.entry(last.field).or_default().insert(key.to_vec(), subtree.clone());
                }
            }
            true
        }
        Edit::Remove(path) => {
            let (last, above) = path.steps.split_last().unwrap();
            let Some(parent) = model.node(above) else { return false };
            match &last.key {
                None => parent.singles.remove(&last.field).is_some_and(|child| !child.normal().is_default()),
                Some(key) => parent.containers.get_mut(&last.field).is_some_and(|elements| elements.remove(&**key).is_some()),
            }
        }
        Edit::Replace(path, elements) => {
            let (last, above) = path.steps.split_last().unwrap();
            let Some(owner) = model.node(above) else { return false };
            owner.containers.insert(last.field, elements.clone());
            true
        }
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    // H5, R2: equal content has an equal root, whatever edits led to it and whenever it was hashed, stored, reloaded or shed.
    #[test]
    fn any_edits_give_the_tree_built_from_scratch(edits in proptest::collection::vec(edit(), 0..160)) {
        let (mut tree, mut model, mut objects) = (Tree::empty(), Model::default(), MemoryObjects::default());
        let mut held = Vec::new();
        for edit in &edits {
            let found = match edit {
                Edit::SetConfig(path, config) => tree.set_config(path, config, &objects).unwrap(),
                Edit::Insert(path, subtree) => tree.insert_subtree(path, &subtree.subtree(), &objects).unwrap(),
                Edit::Remove(path) => tree.remove(path, &objects).unwrap(),
                Edit::Replace(path, elements) => tree.replace_container(path, &entries(elements), &objects).unwrap(),
                Edit::Root => tree.root() != Hash::ZERO,
                Edit::Hold => { held.push((tree.clone(), model.clone())); true }
                Edit::Persist => { persist(&tree, &mut objects); true }
                Edit::Reload => { persist(&tree, &mut objects); tree = Tree::at(tree.root()); true }
                Edit::Shed(target) => { tree.shed(*target); true }
            };
            prop_assert_eq!(found, edit_model(&mut model, edit), "{:?}", edit);
        }
        held.push((tree.clone(), model));
        for (tree, model) in held {
            let model = model.normal();
            prop_assert_eq!(tree.root(), model.tree().root());
            let Lookup::Found(view) = tree.node(&Path::root(), &objects).unwrap() else { panic!("no root") };
            prop_assert_eq!(Model::read(&view, &objects), model.clone());
            // A tree read back from its objects alone is the same.
            let alone = stored(&model.tree());
            let Lookup::Found(view) = Tree::at(tree.root()).node(&Path::root(), &alone).unwrap() else { panic!("no root") };
            prop_assert_eq!(Model::read(&view, &alone), model);
        }
    }

    #[test]
    fn a_tree_whose_parts_are_all_removed_is_the_empty_tree(model in model(), reload in any::<bool>()) {
        let mut tree = model.tree();
        let objects = stored(&tree);
        if reload {
            tree = Tree::at(tree.root());
        }
        tree.set_config(&Path::root(), b"", &objects).unwrap();
        for (field, elements) in &model.containers {
            for key in elements.keys() {
                let path = Path { steps: vec![Step { field: *field, key: Some(key.clone().into()) }] };
                prop_assert!(tree.remove(&path, &objects).unwrap());
            }
        }
        for field in SINGLES {
            tree.remove(&Path { steps: vec![Step { field, key: None }] }, &objects).unwrap();
        }
        prop_assert_eq!(tree.root(), EMPTY_NODE);
    }

    /// A store may hold anything: a wrong object is an error, never a panic, and never a wrong answer.
    #[test]
    fn mutated_stores_give_errors_or_right_answers(
        model in model(),
        pick in any::<proptest::sample::Index>(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let root = model.tree().root();
        let mut objects = stored(&model.tree());
        let hash = *objects.0.keys().nth(pick.index(objects.0.len())).unwrap();
        let mut bytes = objects.0[&hash].to_vec();
        let index = at.index(bytes.len());
        prop_assume!(bytes[index] != byte && hash != EMPTY_NODE);
        bytes[index] = byte;
        objects.0.insert(hash, bytes.clone().into());
        // The same mutation where even the hashes above are right: a tree that nobody can have made.
        let mut forged = MemoryObjects(objects.0.clone());
        forged.0.insert(Hash::of(&bytes), bytes.into());
        for (root, objects) in [(root, &objects), (Hash::of(&forged.0[&hash]), &forged)] {
            let mut walk = Walk::new();
            walk.add_root(root);
            let mut wrong = 0;
            while let Some(object) = walk.next(objects) {
                wrong += usize::from(object.is_err());
            }
            prop_assert!(wrong > 0 || root != model.tree().root());
            let mut tree = Tree::at(root);
            for (field, elements) in &model.containers {
                for key in elements.keys() {
                    let path = Path { steps: vec![Step { field: *field, key: Some(key.clone().into()) }] };
                    if let Ok(Lookup::Found(view)) = tree.node(&path, objects) && root == model.tree().root() {
                        prop_assert_eq!(view.hash(), elements[key].tree().root());
                    }
                    let _ = tree.clone().remove(&path, objects);
                    let _ = tree.set_config(&path, b"x", objects);
                }
            }
        }
    }
}
