//! Speed of the tree: `cargo run --release -p confold-model --example tree_speed [children …]`.
//!
//! One container of elements with configs of 250 bytes. An update replaces one config and asks for the root; beside it stands BLAKE3
//! over the same objects alone, which no implementation can avoid.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measuring takes a clock; the crate itself has none")]

use confold_model::diff::{NoSchema, Options, changes};
use confold_model::ids::Hash;
use confold_model::objects::NoObjects;
use confold_model::path::{Path, Step};
use confold_model::subtree::{Children, Subtree};
use confold_model::tree::{Lookup, Tree};
use std::borrow::Cow;
use std::hint::black_box;
use std::time::Duration;

fn main() {
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1_000, 100_000, 1_000_000] } else { sizes };
    println!("{:>9} {:>6} | {:>9} {:>9} {:>9} {:>9} | {:>9} {:>9} | {:>9} {:>9} {:>8} {:>9} {:>7}",
        "children", "keys", "update", "held", "hash only", "bytes", "build ms", "one by 1", "get ns", "diff us", "B/node", "hand out", "shed ms");
    for children in sizes {
        for random in [false, true] {
            measure(children, random);
        }
    }
    println!("build: a container at once; one by 1: looked up and added one after the other; both with the root at the end.");
    println!("shed: half of what is loaded. B/node is right in the first row only: later ones reuse memory.");
    println!("update, held: microseconds for one config and the root; held: while a clone of the tree before is kept.");
}

fn measure(children: u64, random: bool) {
    let key = |index: u64| -> Box<[u8]> {
        match random {
            true => format!("{:016x}", scramble(index)).into_bytes().into(),
            false => format!("device-{index:07}").into_bytes().into(),
        }
    };
    let config = |index: u64| -> Vec<u8> { (0..250u64).map(|at| (index.wrapping_mul(31) >> (at % 56)) as u8).collect() };
    let mut entries: Vec<(Box<[u8]>, Subtree<'static>)> = (0..children)
        .map(|index| (key(index), Subtree { config: Cow::Owned(config(index)), children: Vec::new() }))
        .collect();
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    let path = |index: u64| Path { steps: vec![Step { field: 1, key: Some(key(index)) }] };

    let before = resident();
    let start = busy();
    let subtree = Subtree { config: Cow::default(), children: vec![Children { field: 1, entries }] };
    let mut tree = Tree::of(&subtree);
    black_box(tree.root());
    let build = (busy() - start).as_secs_f64() * 1e3;
    let per_node = resident().saturating_sub(before) as f64 / children as f64;

    let start = busy();
    let mut one_by_one = Tree::empty();
    if children <= 100_000 {
        for (key, child) in &subtree.children[0].entries {
            let path = Path { steps: vec![Step { field: 1, key: Some(key.clone()) }] };
            assert!(matches!(one_by_one.node(&path, &NoObjects), Ok(Lookup::Absent { .. })));
            one_by_one.insert_subtree(&path, child, &NoObjects).unwrap();
        }
        assert_eq!(one_by_one.root(), tree.root());
    }
    let singly = (busy() - start).as_secs_f64() * 1e3;
    drop((one_by_one, subtree));

    let mut handed_out = 0;
    let start = busy();
    tree.unpersisted(&mut |_, _| handed_out += 1);
    let handing_out = (busy() - start).as_secs_f64() * 1e9 / f64::from(handed_out);

    const EDITS: u64 = 200_000;
    let picks: Vec<(Path, Vec<u8>)> = (0..EDITS)
        .map(|edit| (path(scramble(edit ^ 0x5555) % children), config(edit + 7)))
        .collect();
    let start = busy();
    for (path, config) in &picks {
        tree.set_config(path, config, &NoObjects).unwrap();
        black_box(tree.root());
    }
    let update = (busy() - start).as_secs_f64() * 1e6 / EDITS as f64;
    let start = busy();
    for (path, config) in picks.iter().rev() {
        let held = tree.clone();
        tree.set_config(path, config, &NoObjects).unwrap();
        black_box(tree.root());
        drop(held);
    }
    let held = (busy() - start).as_secs_f64() * 1e6 / EDITS as f64;

    // The objects of one update, hashed bare.
    let samples: Vec<_> = picks[..64].iter().map(|(path, _)| tree.prove(path, &NoObjects).unwrap()).collect();
    let bytes: usize = samples.iter().flatten().map(|object| object.len()).sum::<usize>() / samples.len();
    let start = busy();
    for _ in 0..200 {
        samples.iter().flatten().for_each(|object| {
            black_box(Hash::of(object));
        });
    }
    let bare = (busy() - start).as_secs_f64() * 1e6 / (200 * samples.len()) as f64;

    let start = busy();
    for (path, _) in &picks {
        let Lookup::Found(view) = tree.node(path, &NoObjects).unwrap() else { panic!("an element is gone") };
        black_box(view.config(&NoObjects).unwrap());
    }
    let get = (busy() - start).as_secs_f64() * 1e9 / EDITS as f64;

    let old = tree.clone();
    for (path, config) in &picks[..10] {
        tree.set_config(path, &[config, &b"!"[..]].concat(), &NoObjects).unwrap();
    }
    tree.root();
    let start = busy();
    for _ in 0..1000 {
        black_box(changes(&old, &tree, &NoSchema, &Options::default(), &NoObjects).unwrap());
    }
    let diff = (busy() - start).as_secs_f64() * 1e6 / 1000.0;

    let loaded = tree.memory() / 2;
    drop(old);
    tree.unpersisted(&mut |_, _| ());
    let start = busy();
    tree.shed(loaded);
    let shedding = (busy() - start).as_secs_f64() * 1e3;

    println!("{children:>9} {:>6} | {update:>9.2} {held:>9.2} {bare:>9.2} {bytes:>9} | {build:>9.0} {singly:>9.0} | {get:>9.0} {diff:>9.1} {per_node:>8.0} {handing_out:>7.0}ns {shedding:>7.0}",
        if random { "random" } else { "seq" });
}

/// Distinct numbers without an order.
fn scramble(index: u64) -> u64 {
    let mut mixed = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The time this thread was running: other work on the machine does not count, where the system tells.
fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    match stat.split(' ').next().and_then(|nanos| nanos.parse().ok()) {
        Some(nanos) => Duration::from_nanos(nanos),
        None => std::time::UNIX_EPOCH.elapsed().unwrap_or_default(),
    }
}

/// Bytes of memory that the process has, where the system tells.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
