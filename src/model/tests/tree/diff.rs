use crate::model::{Model, model, path, persist, stored};
use confold_model::diff::{Change, ChangeKind, ChildShape, NoSchema, Options, Shape, changes, diff};
use confold_model::ids::Hash;
use confold_model::node::EMPTY_NODE;
use confold_model::objects::{MemoryObjects, NoObjects, Objects, ObjectsError};
use confold_model::path::{Path, Step};
use confold_model::tree::Tree;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The schema of [`Model`].
struct Models;

impl Shape for Models {
    type Type = ();

    fn root(&self) {}

    fn child(&self, (): (), field: u32) -> Option<ChildShape<()>> {
        match field {
            1 | 2 => Some(ChildShape::Keyed(())),
            3 => Some(ChildShape::List(())),
            5 | 6 => Some(ChildShape::Single(())),
            _ => None,
        }
    }
}

/// `update 1:61`, one for each change.
fn shown(changes: &[Change]) -> Vec<String> {
    let step = |step: &Step| match &step.key {
        Some(key) => format!("{}:{}", step.field, hex::encode(key)),
        None => step.field.to_string(),
    };
    let path = |path: &Path| path.steps.iter().map(step).collect::<Vec<_>>().join("/");
    changes
        .iter()
        .map(|change| {
            let kind = match change.kind {
                ChangeKind::Added => "add",
                ChangeKind::Removed => "remove",
                ChangeKind::Updated => "update",
                ChangeKind::ListChanged => "list",
            };
            format!("{kind} {}", path(&change.path)).trim_end().to_owned()
        })
        .collect()
}

fn changed(old: &Tree, new: &Tree, options: &Options) -> Vec<String> {
    shown(&changes(old, new, &Models, options, &NoObjects).unwrap().0)
}

fn edited(base: &Tree, edits: &[(&str, &[u8])]) -> Tree {
    let mut tree = base.clone();
    for (at, config) in edits {
        let at = path(at);
        if !tree.set_config(&at, config, &NoObjects).unwrap() {
            assert!(tree.insert_subtree(&at, &Model::leaf(config).subtree(), &NoObjects).unwrap());
        }
    }
    tree
}

// C11
#[test]
fn changes_come_descendants_first_then_adds_then_removes_then_the_node_itself() {
    let old = edited(&Tree::empty(), &[
        ("", b"root"),
        ("1:0b", b"device"),
        ("1:0b/1:01", b"port"),
        ("1:0b/1:09", b"gone"),
        ("1:0a", b"goes"),
        ("2:01", b"x"),
        ("2:01/6", b"x"),
        ("5", b"x"),
    ]);
    let mut new = edited(&old, &[
        ("", b"other root"),
        ("1:0b", b"changed"),
        ("1:0b/1:01", b"changed"),
        ("1:0b/1:02", b"added"),
        ("1:0c", b"added"),
        ("1:0d", b"added"),
        ("2:01/6", b"changed"),
        ("2:00", b"added"),
        ("5", b""),
        ("6/5", b"no longer default"),
    ]);
    new.remove(&path("1:0b/1:09"), &NoObjects).unwrap();
    new.remove(&path("1:0a"), &NoObjects).unwrap();
    let list = BTreeMap::from([(0u32.to_be_bytes().to_vec(), Model::leaf(b""))]);
    new.replace_container(&path("3"), &crate::model::entries(&list), &NoObjects).unwrap();
    assert_eq!(changed(&old, &new, &Options::default()), [
        "update 1:0b/1:01",
        "add 1:0b/1:02",
        "remove 1:0b/1:09",
        "update 1:0b",
        "update 2:01/6",
        "update 5",
        "update 6/5",
        "add 1:0c",
        "add 1:0d",
        "remove 1:0a",
        "add 2:00",
        "list 3",
        "update",
    ]);
    let (list, _) = changes(&old, &new, &Models, &Options::default(), &NoObjects).unwrap();
    let at = |shown_as: &str| list.iter().find(|change| shown(&[(*change).clone()]) == [shown_as]).unwrap();
    // S5: a single child that became default is updated to the empty node; an empty list has the zero hash.
    assert_eq!(at("update 5").after, Some(EMPTY_NODE));
    assert_eq!(at("list 3").before, Some(Hash::ZERO));
    assert_eq!(at("list 3").after, new.container_hash(&path("3"), &NoObjects).unwrap());
    assert_eq!((at("add 1:0c").before, at("add 1:0c").after), (None, new.subtree_hash(&path("1:0c"), &NoObjects).unwrap()));
    assert_eq!((at("remove 1:0a").before, at("remove 1:0a").after), (old.subtree_hash(&path("1:0a"), &NoObjects).unwrap(), None));
    assert_eq!(at("update").before, Some(old.root()));
}

// T7: equal hashes give nothing.
#[test]
fn equal_trees_do_not_differ_and_are_not_even_loaded() {
    let root = Hash([9; 32]);
    assert_eq!(changes(&Tree::at(root), &Tree::at(root), &Models, &Options::default(), &NoObjects).unwrap(), (vec![], true));
}

#[test]
fn an_added_subtree_is_one_change_or_all_that_is_in_it() {
    let old = Tree::empty();
    let new = edited(&old, &[("1:0a", b"x"), ("1:0a/6", b"x"), ("1:0a/2:01", b"x"), ("1:0a/2:01/1:02", b"x"), ("1:0a/3:00000000", b"x")]);
    let deep = Options { deep: true, ..Options::default() };
    assert_eq!(changed(&old, &new, &Options::default()), ["add 1:0a"]);
    assert_eq!(changed(&old, &new, &deep), ["add 1:0a/2:01/1:02", "add 1:0a/2:01", "list 1:0a/3", "add 1:0a/6", "add 1:0a"]);
    assert_eq!(
        changed(&new, &old, &deep),
        ["remove 1:0a/2:01/1:02", "remove 1:0a/2:01", "list 1:0a/3", "remove 1:0a/6", "remove 1:0a"]
    );
    // The value can be read from the change, also that of what is gone.
    let visit = &mut |difference: confold_model::diff::Difference| {
        assert_eq!(difference.old.unwrap().config(&NoObjects).unwrap(), b"x");
        ControlFlow::Break(())
    };
    assert!(!diff(&new, &old, &Models, &Options::default(), &NoObjects, visit).unwrap());
}

#[test]
fn a_diff_below_a_path_shows_only_what_is_there() {
    let old = edited(&Tree::empty(), &[("", b"a"), ("1:0a", b"x"), ("1:0a/1:01", b"x"), ("1:0b", b"x"), ("5/1:01", b"x")]);
    let mut new = edited(&old, &[("", b"b"), ("1:0a", b"y"), ("1:0a/1:01", b"y"), ("1:0c", b"x"), ("5/1:01", b"y"), ("5", b"y")]);
    new.remove(&path("1:0b"), &NoObjects).unwrap();
    let cases: [(&str, &[&str]); 10] = [
        ("1:0a", &["update 1:0a/1:01", "update 1:0a"]),
        ("1:0a/1", &["update 1:0a/1:01"]),
        ("1:0a/2", &[]),
        ("1", &["update 1:0a/1:01", "update 1:0a", "add 1:0c", "remove 1:0b"]),
        ("1:0b", &["remove 1:0b"]),
        ("1:0c", &["add 1:0c"]),
        ("1:0c/1", &[]),
        ("1:ff", &[]),
        ("5", &["update 5/1:01", "update 5"]),
        ("6", &[]),
    ];
    for (at, expected) in cases {
        assert_eq!(changed(&old, &new, &Options { below: path(at), ..Options::default() }), expected, "{at}");
    }
}

#[test]
fn a_limit_cuts_the_same_list_short_and_says_so() {
    let old = edited(&Tree::empty(), &[("1:0a", b"x"), ("1:0b", b"x"), ("1:0b/1:01", b"x")]);
    let mut new = edited(&old, &[("1:0b", b"y"), ("1:0b/1:01", b"y"), ("1:0c", b"x"), ("2:01", b"x"), ("", b"y")]);
    new.remove(&path("1:0a"), &NoObjects).unwrap();
    let (all, complete) = changes(&old, &new, &Models, &Options::default(), &NoObjects).unwrap();
    assert!(complete && all.len() == 6);
    for limit in 0..8 {
        let options = Options { limit: Some(limit), ..Options::default() };
        let (some, complete) = changes(&old, &new, &Models, &options, &NoObjects).unwrap();
        assert_eq!((&some[..], complete), (&all[..limit.min(6)], limit >= 6));
    }
}

struct Counting(MemoryObjects, AtomicUsize);

impl Objects for Counting {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.object(hash)
    }
}

#[test]
fn ten_changes_among_many_nodes_load_few_objects() {
    let elements = (0..20_000u32).map(|index| (index.to_be_bytes().to_vec(), Model::leaf(&index.to_be_bytes()))).collect();
    let old = Model { containers: BTreeMap::from([(1, elements)]), ..Model::default() }.tree();
    let mut new = old.clone();
    for index in 0..10u32 {
        new.set_config(&path(&format!("1:{}", hex::encode((index * 1999).to_be_bytes()))), b"new", &NoObjects).unwrap();
    }
    let mut objects = stored(&old);
    persist(&new, &mut objects);
    let objects = Counting(objects, AtomicUsize::new(0));
    let (found, _) = changes(&Tree::at(old.root()), &Tree::at(new.root()), &NoSchema, &Options::default(), &objects).unwrap();
    assert_eq!(found.len(), 10);
    // Two sides, ten ways of at most six objects.
    let loaded = objects.1.load(Ordering::Relaxed);
    assert!(loaded <= 2 * 10 * 6, "{loaded}");
}

/// What two models say about each other, in the order of C11.
fn expected(old: &Model, new: &Model, at: &mut Path, deep: bool, out: &mut Vec<String>) {
    let say = |kind: &str, at: &Path, out: &mut Vec<String>| {
        out.push(shown(&[Change { path: at.clone(), kind: ChangeKind::Added, before: None, after: None }])[0].replacen("add", kind, 1));
    };
    fn whole(node: &Model, kind: &str, at: &mut Path, deep: bool, out: &mut Vec<String>) {
        let fields: BTreeSet<u32> = node.singles.keys().chain(node.containers.keys()).copied().collect();
        for field in fields.into_iter().filter(|_| deep) {
            let empty = BTreeMap::new();
            let elements = node.containers.get(&field).unwrap_or(&empty);
            let children: Vec<_> = match field {
                3 => {
                    at.steps.push(Step { field, key: None });
                    out.push(shown(&[Change { path: at.clone(), kind: ChangeKind::ListChanged, before: None, after: None }]).remove(0));
                    at.steps.pop();
                    continue;
                }
                5 | 6 => vec![(None, &node.singles[&field])],
                _ => elements.iter().map(|(key, child)| (Some(key.clone().into()), child)).collect(),
            };
            for (key, child) in children {
                at.steps.push(Step { field, key });
                whole(child, kind, at, deep, out);
                at.steps.pop();
            }
        }
        out.push(shown(&[Change { path: at.clone(), kind: ChangeKind::Added, before: None, after: None }])[0].replacen("add", kind, 1));
    }
    let (none, default) = (BTreeMap::new(), Model::default());
    let fields = [1, 2, 3, 5, 6];
    for field in fields {
        let (one, other) = (old.containers.get(&field).unwrap_or(&none), new.containers.get(&field).unwrap_or(&none));
        type Pair<'a> = (Option<Box<[u8]>>, &'a Model, &'a Model);
        let pairs: Vec<Pair<'_>> = match field {
            3 => vec![],
            5 | 6 => vec![(None, old.singles.get(&field).unwrap_or(&default), new.singles.get(&field).unwrap_or(&default))],
            _ => one.iter().filter_map(|(key, child)| Some((Some(key.clone().into()), child, other.get(key)?))).collect(),
        };
        for (key, one, other) in pairs.into_iter().filter(|(_, one, other)| one != other) {
            at.steps.push(Step { field, key });
            expected(one, other, at, deep, out);
            at.steps.pop();
        }
    }
    for field in [1, 2, 3] {
        let (one, other) = (old.containers.get(&field).unwrap_or(&none), new.containers.get(&field).unwrap_or(&none));
        if field == 3 {
            if one != other {
                at.steps.push(Step { field, key: None });
                say("list", at, out);
                at.steps.pop();
            }
            continue;
        }
        for (kind, here, there) in [("add", other, one), ("remove", one, other)] {
            for (key, child) in here.iter().filter(|(key, _)| !there.contains_key(*key)) {
                at.steps.push(Step { field, key: Some(key.clone().into()) });
                whole(child, kind, at, deep, out);
                at.steps.pop();
            }
        }
    }
    if old.config != new.config {
        say("update", at, out);
    }
}

/// A model and another one that shares much with it, or nothing.
fn pair() -> impl Strategy<Value = (Model, Model)> {
    (model(), model(), proptest::collection::vec((any::<proptest::sample::Index>(), 0..4u8), 0..12)).prop_map(|(base, other, edits)| {
        if edits.is_empty() {
            return (base, other);
        }
        let mut changed = base.clone();
        for (at, how) in edits {
            let field = if how % 2 == 0 { 1 } else { 2 };
            let elements = changed.containers.entry(field).or_default();
            let key = elements.keys().nth(at.index(elements.len().max(1))).cloned();
            match (how, key) {
                (0, Some(key)) => drop(elements.remove(&key)),
                (1 | 2, Some(key)) => elements.get_mut(&key).unwrap().singles.entry(5).or_default().config.push(how),
                _ => drop(elements.insert(vec![how, at.index(256) as u8], other.clone())),
            }
        }
        (base, changed.normal())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    // C11: a function of the two roots alone, loaded or not.
    #[test]
    fn a_diff_says_what_two_models_say((old, new) in pair(), deep in any::<bool>()) {
        let mut want = Vec::new();
        if old != new {
            expected(&old, &new, &mut Path::root(), deep, &mut want);
        }
        let options = Options { deep, ..Options::default() };
        let (one, other) = (old.tree(), new.tree());
        prop_assert_eq!(&changed(&one, &other, &options), &want);
        let mut objects = stored(&one);
        objects.0.extend(stored(&other).0);
        let (unloaded, complete) = changes(&Tree::at(one.root()), &other, &Models, &options, &objects).unwrap();
        prop_assert!(complete);
        prop_assert_eq!(shown(&unloaded), want);
        let none_differ = changed(&one, &one.clone(), &options).is_empty();
        prop_assert!(none_differ);
    }
}
