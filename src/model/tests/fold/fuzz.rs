//! Bytes that nobody meant, and stores that fail. More cases: `PROPTEST_CASES=5000`.

use crate::acts::{Writer, cases, steps};
use crate::support::Envelope;
use bytes::Bytes;
use confold_model::event::{Body, Event};
use confold_model::fold::{self, Applied, Outcome};
use confold_model::ids::{Hash, Incarnation, Time};
use confold_model::objects::{MemoryObjects, NoObjects, Objects, ObjectsError, ObjectsErrorCause};
use confold_model::state::{State, member};
use confold_model::tree::Tree;
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A log with content, and the writer that goes on with it.
fn begun() -> (State, Writer) {
    let mut writer = Writer::new();
    let mut state = State::new();
    for (time, record) in writer.begin(true) {
        assert_eq!(
            fold::apply(&mut state, Time(time), &record, &NoObjects)
                .unwrap()
                .outcome,
            Outcome::Accepted
        );
    }
    (state, writer)
}

/// A refusal leaves what a fence leaves in the same place, which takes up a position and does nothing; digests aside, and
/// the window's entry for an id.
fn check_refusal(before: &State, after: &mut State, time: i64, applied: &Applied) -> Result<(), TestCaseError> {
    if !matches!(applied.outcome, Outcome::Rejected(_)) {
        return Ok(());
    }
    prop_assert!(!applied.made_revision && applied.touched.is_empty() && applied.mark.is_none());
    let mut beside = before.clone();
    let Incarnation(incarnation) = before.incarnation();
    let envelope = Envelope {
        incarnation,
        ..Envelope::without_id()
    };
    let fence = envelope.record(Body::Fence);
    let nothing = fold::apply(&mut beside, Time(time), &fence, &NoObjects).unwrap();
    prop_assert_eq!(nothing.outcome, Outcome::Unchanged);
    for ((number, expected), (_, found)) in beside.members().into_iter().zip(after.members()) {
        let may_differ =
            matches!(number, member::DIGEST | member::CHAIN) || (number == member::WINDOW && applied.id.is_some());
        prop_assert!(
            may_differ || expected == found,
            "member {} changed: {:?}",
            number,
            applied.outcome
        );
    }
    prop_assert_eq!(after.tree().root(), after.root());
    Ok(())
}

#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
    Double(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<Index>;
    prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        2 => (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        2 => index().prop_map(Mutation::Remove),
        1 => index().prop_map(Mutation::Cut),
        1 => (index(), index()).prop_map(|(from, to)| Mutation::Double(from, to)),
    ]
}

fn mutate(record: &mut Vec<u8>, mutation: &Mutation) {
    if record.is_empty() {
        return;
    }
    let length = record.len();
    match mutation {
        Mutation::Set(at, byte) => record[at.index(length)] = *byte,
        Mutation::Insert(at, byte) => record.insert(at.index(length), *byte),
        Mutation::Remove(at) => drop(record.remove(at.index(length))),
        Mutation::Cut(at) => record.truncate(at.index(length)),
        Mutation::Double(from, to) => {
            let (from, to) = (from.index(length), to.index(length));
            let part = record[from.min(to)..from.max(to)].to_vec();
            record.splice(to..to, part);
        }
    }
}

/// Fails from the n-th read on.
struct Failing {
    objects: MemoryObjects,
    reads_left: AtomicUsize,
}

impl Objects for Failing {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        if self
            .reads_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_err()
        {
            return Err(ObjectsError {
                hash: *hash,
                cause: ObjectsErrorCause::Unavailable("the disk is away".into()),
            });
        }
        self.objects.object(hash)
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn arbitrary_bytes_are_refused_and_change_nothing(record in prop::collection::vec(any::<u8>(), 0..300), time in any::<i64>()) {
        let (mut state, _) = begun();
        let before = state.clone();
        let applied = fold::apply(&mut state, Time(time), &record, &NoObjects).unwrap();
        prop_assert!(matches!(applied.outcome, Outcome::Rejected(_)));
        check_refusal(&before, &mut state, time, &applied)?;
        let mut fresh = State::new();
        fold::apply(&mut fresh, Time(time), &record, &NoObjects).unwrap();
        prop_assert_eq!(fresh.revision().0, 0);
    }

    // I11, U5: whatever is made of valid records, the fold decides, a refusal changes nothing, and a record that is
    // read has exactly one form.
    #[test]
    fn mutated_records_are_decided_and_a_refusal_changes_nothing(
        steps in steps(1..12),
        mutations in prop::collection::vec(prop::collection::vec(mutation(), 0..4), 12),
    ) {
        let (mut state, mut writer) = begun();
        for (step, mutations) in steps.iter().zip(&mutations) {
            let (time, mut record) = writer.next(step, &state, &NoObjects);
            mutations.iter().for_each(|mutation| mutate(&mut record, mutation));
            if let Ok(event) = Event::decode(&record) {
                prop_assert_eq!(event.encode(), record.clone());
            }
            let before = state.clone();
            let applied = fold::apply(&mut state, Time(time), &record, &NoObjects).unwrap();
            check_refusal(&before, &mut state, time, &applied)?;
        }
    }

    // An answer that the store cannot give is no outcome: the state is as before, and the next try decides as if nothing had been.
    #[test]
    fn a_store_that_fails_stops_the_fold_where_it_stood(steps in steps(1..10), reads in 0usize..12) {
        let (mut state, mut writer) = begun();
        let mut stored = MemoryObjects::default();
        for step in &steps {
            let (time, record) = writer.next(step, &state, &NoObjects);
            state.tree().unpersisted(&mut |hash, bytes| drop(stored.0.insert(hash, bytes)));
            let mut cold = state.clone();
            *cold.tree_mut() = Tree::at(state.root());
            let failing = Failing { objects: stored.clone(), reads_left: AtomicUsize::new(reads) };
            let before = cold.members();
            let expected = fold::apply(&mut state, Time(time), &record, &NoObjects).unwrap();
            if fold::apply(&mut cold, Time(time), &record, &failing).is_err() {
                prop_assert_eq!(cold.members(), before);
                prop_assert_eq!(cold.tree().root(), cold.root());
                failing.reads_left.store(usize::MAX, Ordering::Relaxed);
                let again = fold::apply(&mut cold, Time(time), &record, &failing).unwrap();
                prop_assert_eq!(again.outcome, expected.outcome);
            }
            prop_assert_eq!(cold.members(), state.members());
        }
    }
}
