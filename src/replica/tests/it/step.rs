//! The fold with its rows, without threads: any way of cutting a log into batches comes to the same.

use crate::world::*;
use bytes::Bytes;
use confold_log::memory::MemoryLog;
use confold_log::{Log, Record};
use confold_model::event::Body;
use confold_model::fold;
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use confold_model::objects::NoObjects;
use confold_model::state::State;
use confold_replica::step::{FoldError, Folder, Next};
use confold_replica::{Begin, begin, touch};
use confold_store::memory::MemoryStore;
use confold_store::{Order, Store};
use proptest::prelude::*;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Act {
    Put(u8, u8),
    Remove(u8),
    Tag(u8),
    Untag,
    Prune(u8),
    Mark,
    /// A copy of the record that many events ago.
    Repeat(u8),
    Garbage(u8),
    Fence,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0..12u8, any::<u8>()).prop_map(|(key, value)| Act::Put(key, value)),
        2 => (0..12u8).prop_map(Act::Remove),
        1 => any::<u8>().prop_map(Act::Tag),
        1 => Just(Act::Untag),
        1 => any::<u8>().prop_map(Act::Prune),
        2 => Just(Act::Mark),
        2 => (0..20u8).prop_map(Act::Repeat),
        1 => any::<u8>().prop_map(Act::Garbage),
        1 => Just(Act::Fence),
    ]
}

/// What the plain fold says of every position.
struct Expected {
    records: Vec<Record>,
    chains: Vec<Hash>,
    roots: Vec<Hash>,
    marks: Vec<(Position, Hash)>,
    state: State,
    rows: Vec<(Revision, Position, Hash)>,
}

fn log_of(acts: &[Act]) -> Expected {
    let log = MemoryLog::new([7; 16]);
    begin(&log, "network", &Begin::default()).unwrap();
    let mut expected =
        Expected { records: vec![], chains: vec![], roots: vec![], marks: vec![], state: State::new(), rows: vec![] };
    let mut reader = log.reader(Position(0)).unwrap();
    let mut take = |expected: &mut Expected| {
        for record in reader.read(100, usize::MAX, Duration::ZERO).unwrap() {
            let applied = fold::apply(&mut expected.state, record.time, &record.bytes, &NoObjects).unwrap();
            expected.chains.push(applied.chain);
            expected.roots.push(applied.root);
            expected.marks.extend(applied.mark.map(|state| (applied.position, state)));
            if applied.made_revision {
                expected.rows.push((applied.revision, applied.position, applied.root));
            }
            expected.records.push(record);
        }
    };
    take(&mut expected);
    let incarnation = expected.state.incarnation();
    let mut number = 0;
    let mut send = |expected: &mut Expected, body: Body<'_>| {
        number += 1;
        let id = EventId { seen: expected.state.position().unwrap(), nonce: nonce(number) };
        log.set_clock(Time(number as i64 * 10));
        log.append(record(incarnation, Some(id), body)).unwrap();
    };
    send(&mut expected, schema());
    take(&mut expected);
    for act in acts {
        let latest = expected.state.revision();
        match act {
            Act::Put(key, value) => send(&mut expected, put(&format!("d-{key}"), &"x".repeat(usize::from(*value) % 100))),
            Act::Remove(key) => send(&mut expected, remove(&format!("d-{key}"))),
            Act::Tag(back) => send(&mut expected, tag("some", Revision(latest.0.saturating_sub(u64::from(*back) % 5)))),
            Act::Untag => send(&mut expected, Body::Untag { names: vec!["some".into()] }),
            Act::Prune(back) => {
                let floor = Revision(latest.0.saturating_sub(1 + u64::from(*back) % 9));
                send(&mut expected, Body::Prune { floor: Some(floor) });
            }
            Act::Mark => log.append(record(incarnation, None, Body::Mark { last_mark: expected.state.last_mark() })).unwrap(),
            Act::Repeat(back) => {
                let position = (expected.records.len() - 1).saturating_sub(usize::from(*back));
                log.repeat(Position(position as u64), 0);
            }
            Act::Garbage(byte) => log.append(Bytes::copy_from_slice(&[*byte; 5])).unwrap(),
            Act::Fence => log.append(record(incarnation, None, Body::Fence)).unwrap(),
        }
        take(&mut expected);
    }
    expected
}

/// Folds everything in batches of the given sizes; where told to, the process dies behind a batch and starts anew.
fn fold_in_batches(expected: &Expected, sizes: &[(u8, bool)]) -> (MemoryStore, Vec<(Position, Hash)>) {
    let store = MemoryStore::new();
    let mut folder = Folder::restore(&store, [1; 16]).unwrap();
    let mut sizes = sizes.iter().cycle();
    let (mut size, mut dies) = *sizes.next().unwrap();
    let mut marks = Vec::new();
    for record in &expected.records {
        let next = folder.fold(record, &store).unwrap();
        let last = record.position.0 + 1 == expected.records.len() as u64;
        if next == Next::Ends || folder.collected() > u64::from(size) || last {
            let folded = folder.finish().unwrap();
            assert_eq!(folded.batch.mark, next == Next::Ends, "a batch ends at a mark and nowhere beyond it");
            store.commit(&folded.batch).unwrap();
            let view = folded.effects.view;
            assert_eq!(view.position, record.position);
            assert_eq!(view.root, expected.roots[record.position.0 as usize]);
            assert_eq!(view.chain, expected.chains[record.position.0 as usize]);
            marks.extend(folded.effects.mark.map(|mark| (mark.position, mark.state)));
            if dies {
                folder = Folder::restore(&store, [2; 16]).unwrap();
                assert_eq!(folder.replica(), [1; 16], "the folder keeps its name");
            }
            (size, dies) = *sizes.next().unwrap();
        }
    }
    assert!(folder.finish().is_none());
    (store, marks)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_cut_into_batches_and_any_crash_between_them_gives_the_same_store(
        acts in proptest::collection::vec(act(), 1..120),
        sizes in proptest::collection::vec((0..20u8, proptest::bool::weighted(0.3)), 1..8),
    ) {
        let expected = log_of(&acts);
        let (store, marks) = fold_in_batches(&expected, &sizes);
        prop_assert_eq!(&marks, &expected.marks);
        let head = store.head().unwrap();
        prop_assert_eq!(head.chain, *expected.chains.last().unwrap());
        let rows = store.revisions(Revision(0)..=head.revision, Order::Ascending, usize::MAX).unwrap();
        let rows: Vec<_> = rows.into_iter().map(|row| (row.revision, row.position, row.root)).collect();
        prop_assert_eq!(&rows, &expected.rows);
        // The whole state comes back from the store: its hash says so.
        let mut loaded = Folder::restore(&store, [3; 16]).unwrap();
        let mut ours = expected.state.clone();
        prop_assert_eq!(loaded.state().clone().hash(), ours.hash());
        let view = loaded.view();
        prop_assert_eq!(devices(&view.tree, &store), devices(ours.tree(), &NoObjects));
        prop_assert_eq!(view.tags.len(), ours.tags().count());
        // Every persisted tree is whole.
        for tree in store.persisted(Revision(0)..=head.revision, Order::Ascending, usize::MAX).unwrap() {
            let whole = confold_model::tree::Tree::at(tree.root);
            devices(&whole, &store);
        }
    }
}

fn folded(bodies: impl IntoIterator<Item = Body<'static>>) -> MemoryStore {
    let log = MemoryLog::new([7; 16]);
    begin(&log, "network", &Begin::default()).unwrap();
    let store = MemoryStore::new();
    let mut folder = Folder::new([1; 16]);
    let mut incarnation = Incarnation::default();
    for (number, body) in std::iter::once(schema()).chain(bodies).enumerate() {
        for record in log.reader(folder.state().next_position()).unwrap().read(9, usize::MAX, Duration::ZERO).unwrap() {
            folder.fold(&record, &store).unwrap();
            incarnation = folder.state().incarnation();
        }
        let id = EventId { seen: folder.state().position().unwrap(), nonce: nonce(number as u64) };
        log.append(record(incarnation, Some(id), body)).unwrap();
    }
    for record in log.reader(folder.state().next_position()).unwrap().read(9, usize::MAX, Duration::ZERO).unwrap() {
        folder.fold(&record, &store).unwrap();
    }
    store.commit(&folder.finish().unwrap().batch).unwrap();
    store
}

#[test]
fn a_path_finds_its_revisions_by_its_own_digest_and_by_deep_operations_above() {
    let store = folded([put("a", "1"), put("b", "1"), puts(&[("a", "2"), ("c", "1")]), remove("a")]);
    let of = |id: &str| {
        let [(digest, true)] = touch::digests_to(&device_path(id))[..] else { panic!("one node level") };
        let rows = store.touched(&digest, Revision(0)..=Revision(9), Order::Ascending, 9).unwrap();
        rows.into_iter().map(|row| (row.revision.0, row.kind)).collect::<Vec<_>>()
    };
    let deep = touch::SELF | touch::DEEP;
    assert_eq!(of("a"), [(1, deep), (3, deep), (4, deep)]);
    assert_eq!(of("b"), [(2, deep)]);
    assert_eq!(of("c"), [(3, deep)]);
}

#[test]
fn every_accepted_id_is_in_the_index_with_or_without_a_revision() {
    let store = folded([put("a", "1"), put("a", "1"), tag("t", Revision(1))]);
    let at = |number: u64, seen: u64| {
        let id = EventId { seen: Position(seen), nonce: nonce(number) };
        store.id(&id, 1 << 20).unwrap().map(|row| (row.position.0, row.revision.0))
    };
    assert_eq!(at(0, 0), Some((1, 0)), "the schema made no revision");
    assert_eq!(at(1, 1), Some((2, 1)));
    assert_eq!(at(2, 2), None, "unchanged is not accepted");
    assert_eq!(at(3, 3), Some((4, 0)));
}

#[test]
fn a_gap_a_repeat_and_another_digest_fence_before_anything_is_shown() {
    let expected = log_of(&[Act::Put(1, 1), Act::Put(2, 2)]);
    let store = MemoryStore::new();
    for wrong in 0..3 {
        let mut folder = Folder::new([1; 16]);
        folder.fold(&expected.records[0], &store).unwrap();
        let record = match wrong {
            0 => expected.records[2].clone(),
            1 => expected.records[0].clone(),
            _ => Record { digest: Hash::of(b"other"), ..expected.records[1].clone() },
        };
        let error = folder.fold(&record, &store).unwrap_err();
        assert!(matches!(error, FoldError::Fenced(_)), "{error}");
    }
}

#[test]
fn a_log_that_does_not_begin_with_genesis_is_no_store() {
    let log = MemoryLog::new([7; 16]);
    log.append(Bytes::from_static(b"something else")).unwrap();
    let record = log.records()[0].clone();
    let error = Folder::new([1; 16]).fold(&record, &MemoryStore::new()).unwrap_err();
    assert!(error.to_string().contains("does not begin a store"), "{error}");
}

#[test]
fn a_store_whose_rows_do_not_fit_its_head_is_damaged() {
    let store = folded([put("a", "1")]);
    let mut head = store.head().unwrap();
    head.applied = head.applied.next();
    head.chain = Hash::of(b"other");
    store.commit(&confold_store::Batch::at(head)).unwrap();
    let Err(error) = Folder::restore(&store, [1; 16]) else { panic!("it was taken") };
    assert!(error.is_damage(), "{error}");
}
