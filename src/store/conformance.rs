//! What every store has to do: one suite, run against each of them by
//! [`store_conformance!`](crate::store_conformance).
//!
//! Stores are compared with [`History`], which remembers every row and answers by looking through all of them.
//! Its objects are toys (see [`Leaf`] and [`references`]): a store must not know what objects mean.

use crate::sweep::{Progress, Sweeper};
use crate::{
    Batch, Durability, Head, IdRow, Order, PathDigest, PersistedTree, RevisionRow, RootPrefix, Rows, StateEdit, Store,
    StoreError, Touched,
};
use bytes::Bytes;
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use confold_model::objects::ObjectsErrorCause;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A fresh store, and what it must not outlive (its folder).
pub struct Fixture {
    pub store: Arc<dyn Store>,
    pub keep: Box<dyn Any>,
}

/// One `#[test]` for each function of this suite; the argument makes fresh [`Fixture`]s.
#[macro_export]
macro_rules! store_conformance {
    ($make:expr) => {
        $crate::store_conformance!(@ $make,
            every_read_agrees_with_a_plain_history
            an_empty_store_answers_with_nothing
            a_batch_that_does_not_continue_the_head_changes_nothing
            time_is_looked_up_by_position_also_where_a_clock_event_set_it_back
            roots_are_found_by_any_prefix
            state_rows_are_kept_by_table
            durable_follows_syncs
            past_trees_are_kept_and_thinned_out
            a_store_filled_from_the_rows_of_another_answers_alike
            an_absent_object_is_missing
            readers_beside_commits_see_whole_batches
            a_sweep_leaves_exactly_what_the_roots_reach
            a_sweep_in_small_steps_among_commits_loses_nothing
            an_object_dropped_and_taken_up_again_during_a_sweep_keeps_what_lies_below_it
            commits_in_another_thread_beside_sweeps_lose_nothing
            a_sweep_cut_short_leaves_a_whole_store
            a_sweep_that_finds_a_hole_says_damaged
            one_sweep_at_a_time);
    };
    (@ $make:expr, $($name:ident)*) => {
        $(#[test]
        fn $name() {
            let mut make = $make;
            $crate::conformance::$name(&mut make);
        })*
    };
}

type Spoil = fn(&mut Batch);
type StateRows = Vec<(Vec<u8>, Vec<u8>)>;
type Make<'m> = &'m mut dyn FnMut() -> Fixture;

pub fn every_read_agrees_with_a_plain_history(make: Make) {
    for seed in 0..6 {
        let fixture = make();
        let mut history = History::new(seed);
        for round in 0..25 {
            let events = 1 + history.dice.below([3, 40, 200][round % 3]);
            fixture.store.commit(&history.next_batch(events)).unwrap();
        }
        history.check(&*fixture.store).unwrap();
    }
}

pub fn an_empty_store_answers_with_nothing(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    assert_eq!(store.head(), None);
    assert_eq!(store.durable(), None);
    History::new(0).check(store).unwrap();
}

pub fn a_batch_that_does_not_continue_the_head_changes_nothing(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    let mut history = History::new(1);
    for _ in 0..3 {
        store.commit(&history.next_batch(20)).unwrap();
    }
    let good = history.clone().next_batch(20);
    let wrongs: [(&str, Spoil); 9] = [
        ("folded already", |batch| batch.head.applied = Position(3)),
        ("a floor that falls", |batch| batch.head.floor = Revision(0)),
        ("a hole", |batch| drop(batch.revisions.remove(0))),
        ("a root without a row", |batch| batch.revisions.clear()),
        ("rows out of order", |batch| batch.revisions.swap(0, 1)),
        ("another last root", |batch| batch.head.root = Hash::of(b"other")),
        ("a row beyond the head", |batch| {
            batch.revisions.last_mut().unwrap().position.0 += 1_000
        }),
        ("an id before what it saw", |batch| {
            batch.ids[0].id.seen = batch.ids[0].position
        }),
        ("a touched path of another batch", |batch| {
            batch.touched[0].revision = Revision(1)
        }),
    ];
    for (what, spoil) in wrongs {
        let mut batch = good.clone();
        spoil(&mut batch);
        assert_ne!(batch, good, "{what}: nothing was spoilt");
        assert!(
            matches!(store.commit(&batch), Err(StoreError::Refused { .. })),
            "{what} was not refused"
        );
        history.check(store).unwrap();
    }
    store.commit(&good).unwrap();
}

pub fn time_is_looked_up_by_position_also_where_a_clock_event_set_it_back(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    // One wrong stamp (9,000), cured at revision 4; then time passes it anew.
    let times = [10, 20, 9_000, 30, 40, 8_999, 9_001, 9_001, 50];
    for (i, t) in times.iter().enumerate() {
        let mut batch = Batch::at(head_at(i as u64));
        (batch.head.revision, batch.head.time) = (Revision(i as u64 + 1), Time(*t));
        batch.head.root = Hash::of(&[i as u8]);
        batch.revisions = vec![row_of(&batch.head)];
        batch.tree_persisted = false;
        store.commit(&batch).unwrap();
    }
    let at = |t| store.revision_at_time(Time(t)).unwrap().map_or(0, |row| row.revision.0);
    let found = [9, 10, 19, 20, 29, 30, 40, 49, 50, 8_999, 9_000, 9_001, i64::MAX].map(at);
    assert_eq!(found, [0, 1, 1, 2, 2, 4, 5, 5, 9, 9, 9, 9, 9]);
    assert_eq!(at(i64::MIN), 0);
}

pub fn roots_are_found_by_any_prefix(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    let mut history = History::new(5);
    for _ in 0..20 {
        store.commit(&history.next_batch(30)).unwrap();
    }
    for row in history.rows.iter().step_by(7) {
        for digits in [1, 2, 7, 15, 16, 17, 18, 63, 64] {
            let prefix = RootPrefix::parse(&row.root.to_string()[..digits]).unwrap();
            let mut expected: Vec<_> = history
                .rows
                .iter()
                .filter(|row| prefix.matches(&row.root))
                .cloned()
                .collect();
            expected.sort_by_key(|row| (row.root, row.revision));
            assert_eq!(store.revisions_by_root(&prefix, usize::MAX).unwrap(), expected);
            expected.truncate(3);
            assert_eq!(store.revisions_by_root(&prefix, 3).unwrap(), expected);
        }
    }
    assert_eq!(RootPrefix::parse(""), None);
    assert_eq!(RootPrefix::parse("xy"), None);
    assert_eq!(RootPrefix::parse(&"0".repeat(65)), None);
}

pub fn state_rows_are_kept_by_table(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    let edit = |table, key: &[u8], value: Option<&'static [u8]>| StateEdit {
        table,
        key: key.to_vec(),
        value: value.map(Bytes::from_static),
    };
    let mut batch = Batch::at(head_at(0));
    batch.state = vec![
        edit(1, b"a", Some(b"1")),
        edit(1, b"", Some(b"")),
        edit(2, b"a", Some(b"2")),
        edit(1, b"a\0", Some(b"3")),
    ];
    batch.state.push(edit(u16::MAX, &[255; 300], Some(b"last")));
    store.commit(&batch).unwrap();
    let mut batch = Batch::at(head_at(1));
    // Within a batch the later edit holds.
    batch.state = vec![
        edit(1, b"a", None),
        edit(2, b"b", Some(b"4")),
        edit(2, b"b", None),
        edit(2, b"c", None),
        edit(2, b"c", Some(b"5")),
    ];
    store.commit(&batch).unwrap();
    assert_eq!(
        state_of(store, 1).unwrap(),
        [(b"".to_vec(), b"".to_vec()), (b"a\0".to_vec(), b"3".to_vec())]
    );
    assert_eq!(
        state_of(store, 2).unwrap(),
        [(b"a".to_vec(), b"2".to_vec()), (b"c".to_vec(), b"5".to_vec())]
    );
    assert_eq!(state_of(store, u16::MAX).unwrap(), [(vec![255; 300], b"last".to_vec())]);
    assert_eq!(state_of(store, 0).unwrap(), []);
    assert_eq!(store.state_row(2, b"a").unwrap().as_deref(), Some(&b"2"[..]));
    assert_eq!(store.state_row(1, b"a").unwrap(), None);
    let stop = store.state_rows(2, &mut |_, _| Err(StoreError::refused("enough")));
    assert_eq!(
        stop,
        Err(StoreError::refused("enough")),
        "a visitor's error ends the visit"
    );
}

pub fn durable_follows_syncs(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    store.commit(&Batch::at(head_at(0))).unwrap();
    let mut now = Batch::at(head_at(4));
    now.durability = Durability::Now;
    store.commit(&now).unwrap();
    assert_eq!(store.durable(), Some(Position(4)));
    store.commit(&Batch::at(head_at(9))).unwrap();
    assert_eq!(store.durable(), Some(Position(4)));
    store.sync().unwrap();
    assert_eq!(store.durable(), Some(Position(9)));
}

pub fn past_trees_are_kept_and_thinned_out(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    let mut history = History::new(8);
    for _ in 0..12 {
        store.commit(&history.next_batch(9)).unwrap();
    }
    let rows = history.persisted.clone();
    let last = *rows.last().unwrap();
    assert!(matches!(
        store.forget_persisted(&[rows[1].revision, last.revision]),
        Err(StoreError::Refused { .. })
    ));
    assert_eq!(
        store
            .persisted(Revision(0)..=last.revision, Order::Ascending, 99)
            .unwrap(),
        rows
    );
    store.forget_persisted(&[rows[1].revision, rows[2].revision]).unwrap();
    assert_eq!(store.persisted_at_or_below(rows[2].revision).unwrap(), Some(rows[0]));
    let leaf = Leaf::of(77);
    let remade = PersistedTree {
        revision: Revision(rows[2].revision.0 - 1),
        position: Position(1),
        root: leaf.0,
        mark: false,
    };
    store.persist_tree(remade, std::slice::from_ref(&leaf)).unwrap();
    assert_eq!(store.persisted_at_or_below(rows[2].revision).unwrap(), Some(remade));
    assert_eq!(store.object(&leaf.0).unwrap(), leaf.1);
    let newest = store
        .persisted(Revision(0)..=Revision(u64::MAX), Order::Descending, 2)
        .unwrap();
    assert_eq!(newest, [rows[rows.len() - 1], rows[rows.len() - 2]]);
}

pub fn an_absent_object_is_missing(make: Make) {
    let fixture = make();
    let error = fixture.store.object(&Hash::of(b"nowhere")).unwrap_err();
    assert_eq!(error.cause, ObjectsErrorCause::Missing);
    assert!(StoreError::from(error).is_damage());
}

pub fn readers_beside_commits_see_whole_batches(make: Make) {
    // I5
    let fixture = make();
    let store = &*fixture.store;
    let mut history = History::new(15);
    store.commit(&history.next_batch(9)).unwrap();
    let batches: Vec<Batch> = (0..300).map(|_| history.next_batch(4)).collect();
    let (stopped, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut heads = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let head = store.head().unwrap();
                assert_eq!(walk(store, head.root).unwrap(), history.reach([head.root]));
                let row = store.revision(head.revision).unwrap().unwrap();
                assert_eq!(
                    (
                        row.root,
                        store.persisted_at_or_below(head.revision).unwrap().unwrap().root
                    ),
                    (head.root, head.root)
                );
                heads.insert(head.applied);
                seen.store(heads.len() as u64, Ordering::Relaxed);
            }
        });
        for (batch, number) in batches.iter().zip(0..) {
            store.commit(batch).unwrap();
            // So that reads and commits surely alternate.
            while seen.load(Ordering::Relaxed) < number / 30 && !reading.is_finished() {
                std::thread::yield_now();
            }
        }
        stopped.store(true, Ordering::Relaxed);
        reading.join().unwrap();
    });
    assert!(seen.into_inner() >= 9);
    history.check(store).unwrap();
}

pub fn a_sweep_leaves_exactly_what_the_roots_reach(make: Make) {
    for seed in 20..28 {
        let fixture = make();
        let store = &*fixture.store;
        let mut history = History::new(seed);
        let mut dice = Dice(seed);
        for _ in 0..3 {
            for _ in 0..1 + dice.below(20) {
                let events = 1 + dice.below(12);
                store.commit(&history.next_batch(events)).unwrap();
            }
            let kept: Vec<Hash> = history
                .persisted
                .iter()
                .filter(|_| dice.below(3) == 0)
                .map(|tree| tree.root)
                .collect();
            let last = history.persisted.last().unwrap().root;
            let before = object_set(store).unwrap();
            let report = Sweeper::begin(store, &references, || Ok(kept.clone()))
                .unwrap()
                .run(1 + dice.below(50) as usize)
                .unwrap();
            let reached = history.reach(kept.iter().copied().chain([last]));
            assert_eq!(object_set(store).unwrap(), reached);
            assert_eq!(
                (report.scanned, report.marked),
                (before.len() as u64, reached.len() as u64)
            );
            assert_eq!(report.deleted, (before.len() - reached.len()) as u64);
            history.persisted.retain(|tree| reached.contains(&tree.root));
            history.check(store).unwrap();
        }
    }
}

pub fn a_sweep_in_small_steps_among_commits_loses_nothing(make: Make) {
    for seed in 40..52 {
        let fixture = make();
        let store = &*fixture.store;
        let mut history = History::new(seed);
        let mut dice = Dice(seed);
        for _ in 0..10 {
            store.commit(&history.next_batch(5)).unwrap();
        }
        // Old values come back while the sweep runs, so swept and new objects have hashes in common.
        let kept = history.persisted[3].root;
        let mut sweeper = Sweeper::begin(store, &references, || Ok(vec![kept])).unwrap();
        while sweeper.step(1 + dice.below(9) as usize).unwrap() != Progress::Done {
            if dice.below(2) == 0 {
                store.commit(&history.next_batch(3)).unwrap();
            }
        }
        drop(sweeper);
        let at_least = history.persisted.iter().skip(9).map(|tree| tree.root).chain([kept]);
        let present = object_set(store).unwrap();
        assert!(history.reach(at_least).is_subset(&present));
        let past = history.clone();
        history
            .persisted
            .retain(|tree| past.reach([tree.root]).is_subset(&present));
        history.check(store).unwrap();
    }
}

pub fn a_store_filled_from_the_rows_of_another_answers_alike(make: Make) {
    let (source, target) = (make(), make());
    let mut history = History::new(7);
    for _ in 0..12 {
        source.store.commit(&history.next_batch(120)).unwrap();
    }
    let (source, target) = (&*source.store, &*target.store);
    let head = source.head().unwrap();
    for (hash, _) in source.object_sizes(&Hash::ZERO, usize::MAX).unwrap() {
        let objects = vec![(hash, source.object(&hash).unwrap())];
        target.load(&Rows { objects, ..Rows::default() }).unwrap();
    }
    let mut next = Revision(0);
    loop {
        let revisions = source.revisions(next..=head.revision, Order::Ascending, 100).unwrap();
        let Some(last) = revisions.last().map(|row| row.revision) else { break };
        target.load(&Rows { revisions, ..Rows::default() }).unwrap();
        next = Revision(last.0 + 1);
    }
    let mut from = Position(0);
    loop {
        let ids = source.ids(from, 100).unwrap();
        assert!(ids.len() <= 100 && ids.first().is_none_or(|row| row.position >= from));
        let Some(last) = ids.last().map(|row| row.position) else { break };
        target.load(&Rows { ids, ..Rows::default() }).unwrap();
        from = last.next();
    }
    let mut from = (PathDigest([0; 12]), Revision(0));
    loop {
        let touched = source.all_touched(from, 100).unwrap();
        assert!(touched.is_sorted_by_key(|row| (row.path, row.revision)) && touched.len() <= 100);
        let Some(last) = touched.last().copied() else { break };
        target.load(&Rows { touched, ..Rows::default() }).unwrap();
        from = (last.path, Revision(last.revision.0 + 1));
    }
    let persisted = source.persisted(Revision(0)..=head.revision, Order::Ascending, usize::MAX).unwrap();
    target.load(&Rows { persisted, ..Rows::default() }).unwrap();
    assert_eq!(target.head(), None, "without a head it is no store yet");
    let mut batch = Batch::at(head);
    batch.durability = Durability::Now;
    for table in 0..=TABLES {
        let edit = |(key, value): (Vec<u8>, Vec<u8>)| StateEdit { table, key, value: Some(value.into()) };
        batch.state.extend(state_of(source, table).unwrap().into_iter().map(edit));
    }
    target.commit(&batch).unwrap();
    history.check(target).unwrap();
    assert!(matches!(target.load(&Rows::default()), Err(StoreError::Refused { .. })));
    target.commit(&history.next_batch(50)).unwrap();
    history.check(target).unwrap();
}

pub fn an_object_dropped_and_taken_up_again_during_a_sweep_keeps_what_lies_below_it(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    let [kept, old, new] = [1, 2, 3].map(Leaf::of);
    let [before, after] = [&old, &new].map(|leaf| inner(&[kept.clone(), leaf.clone()]));
    let [one, two] = [&before, &after].map(|below| inner(std::slice::from_ref(below)));
    let batch = |number: u64, root: &(Hash, Bytes), others: &[&(Hash, Bytes)]| {
        let mut batch = Batch::at(Head {
            root: root.0,
            revision: Revision(number),
            ..head_at(number)
        });
        batch.revisions = vec![row_of(&batch.head)];
        batch.objects = others.iter().copied().chain([root]).cloned().collect();
        batch
    };
    store.commit(&batch(1, &one, &[&before, &kept, &old])).unwrap();
    let sweeper = Sweeper::begin(store, &references, || Ok(Vec::new())).unwrap();
    store.commit(&batch(2, &two, &[&after, &new])).unwrap();
    // `kept` is in neither batch: the second tree took it over from the first one, the third from the second.
    store.commit(&batch(3, &one, &[&before, &old])).unwrap();
    sweeper.run(10).unwrap();
    assert!(walk(store, one.0).unwrap().contains(&kept.0));
}

pub fn commits_in_another_thread_beside_sweeps_lose_nothing(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    let mut history = History::new(60);
    store.commit(&history.next_batch(50)).unwrap();
    let (stopped, sweeps, deleted) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let sweeping = scope.spawn(|| {
            while !stopped.load(Ordering::Relaxed) {
                let report = Sweeper::begin(store, &references, || Ok(Vec::new()))
                    .unwrap()
                    .run(7)
                    .unwrap();
                deleted.fetch_add(report.deleted, Ordering::Relaxed);
                sweeps.fetch_add(1, Ordering::Relaxed);
            }
        });
        // Until sweeps have begun and ended among many commits.
        let mut commits = 0;
        while commits < 500 || sweeps.load(Ordering::Relaxed) < 4 && !sweeping.is_finished() {
            commits += 1;
            store.commit(&history.next_batch(4)).unwrap();
            assert_eq!(
                walk(store, store.head().unwrap().root).unwrap(),
                history.reach([history.head().unwrap().root])
            );
        }
        stopped.store(true, Ordering::Relaxed);
        sweeping.join().unwrap();
    });
    assert!(deleted.into_inner() > 0);
    Sweeper::begin(store, &references, || Ok(Vec::new()))
        .unwrap()
        .run(1_000)
        .unwrap();
    let live = history.reach([history.head().unwrap().root]);
    assert_eq!(object_set(store).unwrap(), live);
    history.persisted.retain(|tree| live.contains(&tree.root));
    history.check(store).unwrap();
}

pub fn a_sweep_cut_short_leaves_a_whole_store(make: Make) {
    for steps in 0..40 {
        let fixture = make();
        let store = &*fixture.store;
        let mut history = History::new(70);
        for _ in 0..10 {
            store.commit(&history.next_batch(6)).unwrap();
        }
        let kept = history.persisted[5].root;
        let mut sweeper = Sweeper::begin(store, &references, || Ok(vec![kept])).unwrap();
        for _ in 0..steps {
            sweeper.step(11).unwrap();
        }
        drop(sweeper);
        // Every tree that still has a row is whole.
        for tree in store
            .persisted(Revision(0)..=Revision(u64::MAX), Order::Ascending, 99)
            .unwrap()
        {
            assert_eq!(walk(store, tree.root).unwrap(), history.reach([tree.root]));
        }
        Sweeper::begin(store, &references, || Ok(vec![kept]))
            .unwrap()
            .run(100)
            .unwrap();
        assert_eq!(
            object_set(store).unwrap(),
            history.reach([kept, history.head().unwrap().root])
        );
    }
}

pub fn a_sweep_that_finds_a_hole_says_damaged(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    let mut history = History::new(80);
    store.commit(&history.next_batch(30)).unwrap();
    let root = history.head().unwrap().root;
    let below = references(&store.object(&root).unwrap()).unwrap();
    store.delete_objects(&below[..1]).unwrap();
    let before = object_set(store).unwrap();
    let error = Sweeper::begin(store, &references, || Ok(Vec::new()))
        .unwrap()
        .run(5)
        .unwrap_err();
    assert!(
        error.is_damage() && error.to_string().contains(&below[0].to_string()),
        "{error}"
    );
    assert_eq!(
        object_set(store).unwrap(),
        before,
        "a sweep deletes nothing before every kept tree was found whole"
    );
}

pub fn one_sweep_at_a_time(make: Make) {
    let fixture = make();
    let store = &*fixture.store;
    let mut history = History::new(81);
    store.commit(&history.next_batch(10)).unwrap();
    let first = Sweeper::begin(store, &references, || Ok(Vec::new())).unwrap();
    let busy = Sweeper::begin(store, &references, || Ok(Vec::new())).map(|_| ());
    assert!(matches!(busy, Err(StoreError::Busy { .. })));
    let tree = PersistedTree {
        revision: Revision(1),
        position: Position(1),
        root: Hash::ZERO,
        mark: false,
    };
    assert!(matches!(store.persist_tree(tree, &[]), Err(StoreError::Busy { .. })));
    drop(first);
    let failed = Sweeper::begin(store, &references, || Err(StoreError::refused("no roots"))).map(|_| ());
    assert_eq!(failed, Err(StoreError::refused("no roots")));
    Sweeper::begin(store, &references, || Ok(Vec::new()))
        .unwrap()
        .run(10)
        .unwrap();
}

/// Everything a store was given, in plain lists, and a source of further batches that follow from its seed.
#[derive(Clone)]
pub struct History {
    pub heads: Vec<Head>,
    pub rows: Vec<RevisionRow>,
    pub touched: Vec<Touched>,
    pub ids: Vec<IdRow>,
    pub state: BTreeMap<(u16, Vec<u8>), Bytes>,
    /// The state after each head, to compare with a store that lost its newest batches.
    states: Vec<BTreeMap<(u16, Vec<u8>), Bytes>>,
    pub persisted: Vec<PersistedTree>,
    pub objects: BTreeMap<Hash, Bytes>,
    pub dice: Dice,
    slots: [u64; SLOTS],
}

const SLOTS: usize = 64;
const TABLES: u16 = 3;

impl History {
    pub fn new(seed: u64) -> History {
        History {
            heads: Vec::new(),
            rows: Vec::new(),
            touched: Vec::new(),
            ids: Vec::new(),
            state: BTreeMap::new(),
            states: Vec::new(),
            persisted: Vec::new(),
            objects: BTreeMap::new(),
            dice: Dice(seed.wrapping_mul(0x5851_f42d_4c95_7f2d)),
            slots: [0; SLOTS],
        }
    }

    pub fn head(&self) -> Option<&Head> {
        self.heads.last()
    }

    /// Folds some made-up events: most make a revision, some only an accepted id, some nothing.
    pub fn next_batch(&mut self, events: u64) -> Batch {
        let mut head = self.head().cloned().unwrap_or_else(|| Head {
            applied: Position(u64::MAX),
            ..head_at(0)
        });
        let old_root = head.root;
        let mut batch = Batch::at(head.clone());
        let first_revision = head.revision.0 + 1;
        for event in 0..events {
            head.applied = Position(head.applied.0.wrapping_add(1));
            let back = self.dice.below(60) == 0;
            head.time.0 += if back { -5_000 } else { self.dice.below(100) as i64 };
            head.before = head.digest;
            head.digest = Hash::of(&[&head.digest.0[..], &head.time.0.to_be_bytes()].concat());
            let kind = self.dice.below(10);
            // At least two revisions, ids and touched paths in a batch that has the room.
            if kind == 9 && event > 2 {
                continue;
            }
            let seen = Position(head.applied.0.saturating_sub(1 + self.dice.below(5)));
            let id = (head.applied.0 > 0).then(|| EventId {
                seen,
                nonce: self.dice.bytes(),
            });
            if kind == 8 && event > 2 {
                batch.ids.extend(id.map(|id| IdRow {
                    id,
                    position: head.applied,
                    revision: Revision(0),
                }));
                continue;
            }
            let slot = self.dice.below(SLOTS as u64);
            self.slots[slot as usize] = self.dice.below(4);
            head.root = self.build();
            head.revision.0 += 1;
            batch.touched.push(Touched {
                revision: head.revision,
                path: path_of(slot),
                kind: self.dice.below(5) as u8,
            });
            batch.touched.push(Touched {
                revision: head.revision,
                path: path_of(1_000 + slot / 8),
                kind: 9,
            });
            batch.ids.extend(id.map(|id| IdRow {
                id,
                position: head.applied,
                revision: head.revision,
            }));
            let author = ["", "ada", "bob@example", "Zoë"][self.dice.below(4) as usize].into();
            batch.revisions.push(RevisionRow {
                id,
                author,
                ..row_of(&head)
            });
        }
        head.floor = Revision(head.floor.0.max(first_revision.saturating_sub(20)));
        for _ in 0..self.dice.below(6) {
            let (table, key) = (
                self.dice.below(u64::from(TABLES)) as u16,
                vec![self.dice.below(9) as u8; self.dice.below(3) as usize],
            );
            let value = (self.dice.below(3) > 0).then(|| Bytes::copy_from_slice(&self.dice.bytes()));
            batch.state.push(StateEdit { table, key, value });
        }
        let old = self.heads.last().map(|_| self.reach([old_root])).unwrap_or_default();
        let new = self.reach([head.root]);
        batch.objects = new
            .difference(&old)
            .map(|hash| (*hash, self.objects[hash].clone()))
            .collect();
        batch.mark = self.dice.below(4) == 0;
        batch.head = head;
        self.remember(&batch);
        batch
    }

    /// What the history was when `head` was the newest one.
    pub fn until(&self, head: &Head) -> Option<History> {
        let at = self.heads.iter().position(|of| of == head)?;
        let mut past = self.clone();
        past.heads.truncate(at + 1);
        past.rows.retain(|row| row.position <= head.applied);
        past.touched.retain(|row| row.revision <= head.revision);
        past.ids.retain(|row| row.position <= head.applied);
        past.persisted.retain(|tree| tree.position <= head.applied);
        past.states.truncate(at + 1);
        past.state = past.states[at].clone();
        Some(past)
    }

    /// Panics where a store that holds exactly this history would answer otherwise; passes its errors on.
    pub fn check(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut dice = self.dice.clone();
        assert_eq!(store.head().as_ref(), self.head());
        let last = self.head().map_or(0, |head| head.revision.0);
        let everything = Revision(0)..=Revision(u64::MAX);
        assert_eq!(
            store.revisions(everything.clone(), Order::Ascending, usize::MAX)?,
            self.rows
        );
        assert_eq!(
            store.persisted(everything, Order::Ascending, usize::MAX)?,
            self.persisted
        );
        for table in 0..TABLES + 1 {
            let expected: Vec<_> = self
                .state
                .iter()
                .filter(|((of, _), _)| *of == table)
                .map(|((_, key), value)| (key.clone(), value.to_vec()))
                .collect();
            assert_eq!(state_of(store, table)?, expected);
        }
        for _ in 0..60 {
            let (a, b) = (dice.below(last + 3), dice.below(last + 3));
            let (range, limit) = (Revision(a)..=Revision(b), dice.below(30) as usize);
            let (up, down) = (Order::Ascending, Order::Descending);
            let within = |revision: &Revision| range.contains(revision);
            let rows: Vec<_> = self.rows.iter().filter(|row| within(&row.revision)).cloned().collect();
            assert_eq!(store.revisions(range.clone(), up, limit)?, first(rows.iter(), limit));
            assert_eq!(
                store.revisions(range.clone(), down, limit)?,
                first(rows.iter().rev(), limit)
            );
            assert_eq!(
                store.revision(Revision(a))?,
                self.rows.iter().find(|row| row.revision.0 == a).cloned()
            );
            let trees: Vec<_> = self
                .persisted
                .iter()
                .filter(|tree| within(&tree.revision))
                .copied()
                .collect();
            assert_eq!(
                store.persisted(range.clone(), down, limit)?,
                first(trees.iter().rev(), limit)
            );
            assert_eq!(
                store.persisted_at_or_below(Revision(a))?,
                self.persisted.iter().rev().find(|tree| tree.revision.0 <= a).copied()
            );
            let path = path_of([dice.below(SLOTS as u64 + 2), 1_000 + dice.below(9)][dice.below(2) as usize]);
            let touched: Vec<_> = self
                .touched
                .iter()
                .filter(|row| row.path == path && within(&row.revision))
                .copied()
                .collect();
            assert_eq!(
                store.touched(&path, range.clone(), up, limit)?,
                first(touched.iter(), limit)
            );
            assert_eq!(
                store.touched(&path, range, down, limit)?,
                first(touched.iter().rev(), limit)
            );
            let position = Position(dice.below(self.head().map_or(0, |head| head.applied.0) + 3));
            let expected = self.rows.iter().rev().find(|row| row.position <= position);
            assert_eq!(store.revision_at_position(position)?.as_ref(), expected);
            let time = self.head().map_or(0, |head| head.time.0) - dice.below(12_000) as i64 + 6_000;
            assert_eq!(
                store.revision_at_time(Time(time))?.as_ref(),
                self.rows.iter().rev().find(|row| row.time.0 <= time)
            );
        }
        for row in &self.ids {
            let distance = row.position.0 - row.id.seen.0;
            assert_eq!(store.id(&row.id, distance)?, Some(*row));
            assert_eq!(store.id(&row.id, u64::MAX)?, Some(*row));
            assert_eq!(store.id(&row.id, distance - 1)?, None);
        }
        assert_eq!(
            store.id(
                &EventId {
                    seen: Position(0),
                    nonce: [1; 16]
                },
                u64::MAX
            )?,
            None
        );
        for tree in &self.persisted {
            assert_eq!(
                walk(store, tree.root)?,
                self.reach([tree.root]),
                "the tree of revision {}",
                tree.revision
            );
        }
        Ok(())
    }

    /// All objects that the roots reach.
    pub fn reach(&self, roots: impl IntoIterator<Item = Hash>) -> BTreeSet<Hash> {
        let mut found = BTreeSet::new();
        let mut pending: Vec<Hash> = roots.into_iter().collect();
        while let Some(hash) = pending.pop() {
            if found.insert(hash) {
                pending.extend(references(&self.objects[&hash]).unwrap());
            }
        }
        found
    }

    /// A root over eight inner objects over eight leaves each.
    fn build(&mut self) -> Hash {
        let leaves: Vec<_> = self
            .slots
            .iter()
            .zip(0..)
            .map(|(value, slot)| Leaf::of(slot * 1_000 + value))
            .collect();
        let inners: Vec<_> = leaves.chunks(8).map(inner).collect();
        let root = inner(&inners);
        let hash = root.0;
        self.objects.extend(leaves.into_iter().chain(inners).chain([root]));
        hash
    }

    fn remember(&mut self, batch: &Batch) {
        self.heads.push(batch.head.clone());
        self.rows.extend(batch.revisions.iter().cloned());
        self.touched.extend(&batch.touched);
        self.ids.extend(&batch.ids);
        if let Some(tree) = batch.persists() {
            self.persisted.retain(|of| of.revision != tree.revision);
            self.persisted.push(tree);
        }
        for edit in &batch.state {
            let key = (edit.table, edit.key.clone());
            match &edit.value {
                Some(value) => self.state.insert(key, value.clone()),
                None => self.state.remove(&key),
            };
        }
        self.states.push(self.state.clone());
    }
}

/// An object that refers to nothing: `00`, then its number in some bytes.
pub struct Leaf;

impl Leaf {
    pub fn of(number: u64) -> (Hash, Bytes) {
        let bytes = [&[0][..], &number.to_be_bytes().repeat(1 + number as usize % 7)].concat();
        (Hash::of(&bytes), bytes.into())
    }
}

fn inner(below: &[(Hash, Bytes)]) -> (Hash, Bytes) {
    let mut bytes = vec![below.len() as u8];
    below.iter().for_each(|(hash, _)| bytes.extend_from_slice(&hash.0));
    (Hash::of(&bytes), bytes.into())
}

/// What a toy object refers to: as many hashes as its first byte says.
pub fn references(bytes: &[u8]) -> Result<Vec<Hash>, String> {
    let count = usize::from(*bytes.first().ok_or("an empty object")?);
    let hashes = bytes.get(1..1 + count * 32).ok_or("a short object")?;
    Ok(hashes.chunks_exact(32).filter_map(Hash::from_slice).collect())
}

/// All objects of a tree as the store has them.
pub fn walk(store: &dyn Store, root: Hash) -> Result<BTreeSet<Hash>, StoreError> {
    let mut found = BTreeSet::new();
    let mut pending = vec![root];
    while let Some(hash) = pending.pop() {
        if found.insert(hash) {
            pending.extend(references(&store.object(&hash)?).map_err(StoreError::damaged)?);
        }
    }
    Ok(found)
}

/// Every object in the store, in pages of a few.
pub fn object_set(store: &dyn Store) -> Result<BTreeSet<Hash>, StoreError> {
    let mut found = BTreeSet::new();
    let mut from = Hash::ZERO;
    loop {
        let page = store.object_sizes(&from, 10)?;
        found.extend(page.iter().map(|(hash, _)| *hash));
        match page.last() {
            // The last of a page is asked for again: `from` is included.
            Some((last, _)) if page.len() > 1 => from = *last,
            _ => return Ok(found),
        }
    }
}

/// A head whose other fields follow from the position; revision 0.
pub fn head_at(position: u64) -> Head {
    Head {
        applied: Position(position),
        time: Time(1_000),
        before: Hash::of(&[position.to_be_bytes(), [0; 8]].concat()),
        digest: Hash::of(&position.to_be_bytes()),
        chain: Hash::ZERO,
        root: Hash::ZERO,
        revision: Revision(0),
        floor: Revision(0),
        transport_id: [7; 16],
        incarnation: Incarnation([9; 16]),
    }
}

fn row_of(head: &Head) -> RevisionRow {
    let Head {
        revision,
        applied: position,
        time,
        root,
        digest,
        ..
    } = *head;
    RevisionRow {
        revision,
        position,
        time,
        root,
        id: None,
        author: "".into(),
        digest,
    }
}

fn path_of(number: u64) -> PathDigest {
    let mut digest = [0; 12];
    digest.copy_from_slice(&Hash::of(&number.to_be_bytes()).0[..12]);
    PathDigest(digest)
}

fn state_of(store: &dyn Store, table: u16) -> Result<StateRows, StoreError> {
    let mut rows = Vec::new();
    store.state_rows(table, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        Ok(())
    })?;
    Ok(rows)
}

fn first<'a, T: Clone + 'a>(rows: impl Iterator<Item = &'a T>, limit: usize) -> Vec<T> {
    rows.take(limit).cloned().collect()
}

/// Numbers that follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    pub fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.roll().to_be_bytes());
        bytes[8..].copy_from_slice(&self.roll().to_be_bytes());
        bytes
    }
}
