//! Random logs, told by the fold and by the naive model. More cases: `PROPTEST_CASES=5000`.

use crate::acts::{Writer, cases, steps};
use crate::naive::{Naive, item, num, text};
use crate::support::{Envelope, add, commit, descriptor_set, genesis, put, remove, schema_body, small_limits};
use confold_model::event::{Body, Operation};
use confold_model::fold::{self, Applied, Outcome};
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::objects::{MemoryObjects, NoObjects};
use confold_model::state::State;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};

/// Both models of one log.
struct Both {
    state: State,
    naive: Naive,
}

impl Both {
    fn append(&mut self, time: i64, record: &[u8]) -> Result<Applied, TestCaseError> {
        let applied = fold::apply(&mut self.state, Time(time), record, &NoObjects).unwrap();
        let verdict = self.naive.apply(time, record);
        let met = (applied.outcome.number(), applied.outcome.code());
        prop_assert_eq!(met, (verdict.outcome, verdict.code), "{:?}", applied.outcome);
        prop_assert_eq!(applied.root, Hash(self.naive.root()));
        prop_assert_eq!(applied.digest, Hash(self.naive.digest));
        prop_assert_eq!(applied.chain, Hash(self.naive.chain));
        prop_assert_eq!(applied.time, Time(self.naive.time));
        prop_assert_eq!(applied.made_revision, verdict.made_revision);
        prop_assert_eq!(applied.revision.0, self.naive.revision);
        prop_assert_eq!(applied.mark.is_some(), verdict.mark);
        prop_assert_eq!(self.state.tree().root(), self.state.root());
        prop_assert_eq!(self.state.hash(), Hash(self.naive.state_hash()));
        let kept: Vec<bool> = (0..=self.naive.revision)
            .map(|revision| self.naive.is_kept(revision))
            .collect();
        let state_kept = (0..=self.naive.revision).map(|revision| self.state.is_kept(Revision(revision)));
        prop_assert_eq!(state_kept.collect::<Vec<_>>(), kept);
        Ok(applied)
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn any_log_has_the_outcomes_roots_and_state_hashes_of_the_naive_model(content in prop::bool::weighted(0.8), steps in steps(1..40)) {
        let mut both = Both { state: State::new(), naive: Naive::default() };
        let mut writer = Writer::new();
        for (time, record) in writer.begin(content) {
            both.append(time, &record)?;
        }
        for step in &steps {
            let (time, record) = writer.next(step, &both.state, &NoObjects);
            both.append(time, &record)?;
        }
    }

    // T6, I7: a state that is loaded from its rows and objects, at whatever points of the log, goes on as if it had never stopped.
    #[test]
    fn a_restart_after_any_batch_changes_nothing(steps in steps(1..40), batches in prop::collection::vec(1usize..9, 1..9)) {
        let mut straight = State::new();
        let mut writer = Writer::new();
        let mut store = Store::default();
        let mut restarted = State::new();
        let mut rest = batches.iter().cycle();
        let mut left = *rest.next().unwrap();
        let mut begin = writer.begin(true).into_iter();
        for step in std::iter::repeat_n(None, 3).chain(steps.iter().map(Some)) {
            let (time, record) = match step {
                None => begin.next().unwrap(),
                Some(step) => writer.next(step, &straight, &NoObjects),
            };
            let one = fold::apply(&mut straight, Time(time), &record, &NoObjects).unwrap();
            let other = fold::apply(&mut restarted, Time(time), &record, &store.objects).unwrap();
            prop_assert_eq!(&one.outcome, &other.outcome);
            prop_assert_eq!((one.time, one.revision, one.root, one.chain), (other.time, other.revision, other.root, other.chain));
            prop_assert_eq!(straight.members(), restarted.members());
            left -= 1;
            if left == 0 {
                store.write(&mut restarted);
                restarted = store.load();
                prop_assert_eq!(straight.members(), restarted.members());
                prop_assert_eq!(straight.next_position(), restarted.next_position());
                prop_assert_eq!((straight.level(), straight.incarnation()), (restarted.level(), restarted.incarnation()));
                prop_assert_eq!(straight.tagged().collect::<Vec<_>>(), restarted.tagged().collect::<Vec<_>>());
                left = *rest.next().unwrap();
            }
        }
    }

    // H3, H5, K7, A2: equal content has an equal root, in whatever order, batches and detours it came about.
    #[test]
    fn equal_content_has_an_equal_root_whatever_led_to_it(
        (content, order) in content().prop_flat_map(|content| {
            let devices: Vec<u8> = content.keys().copied().collect();
            (Just(content), Just(devices).prop_shuffle())
        }),
        batch in 1usize..9,
        detours in prop::collection::vec(0u8..60, 0..6),
        deep in any::<bool>(),
    ) {
        let mut at_once = Log::begin();
        // In key order, which is that of the text.
        let by_text: BTreeMap<String, Vec<u8>> = content.iter().map(|(id, ports)| (format!("d{id}"), device(*id, ports))).collect();
        let devices: Vec<u8> = by_text.values().flat_map(|device| item(2, device)).collect();
        at_once.send(vec![put("/", devices)]);

        let mut bit_by_bit = Log::begin();
        let detours: BTreeSet<u8> = detours.into_iter().filter(|id| !content.contains_key(id)).collect();
        for id in &detours {
            bit_by_bit.send(vec![add(&format!("/devices/d{id}"), device(*id, &BTreeSet::from([1])))]);
        }
        let nothing = BTreeSet::new();
        for ids in order.chunks(batch) {
            let added = ids.iter().map(|id| add(&format!("/devices/d{id}"), device(*id, if deep { &content[id] } else { &nothing })));
            bit_by_bit.send(added.collect());
        }
        if !deep {
            let ports: Vec<Operation<'static>> = order
                .iter()
                .flat_map(|id| content[id].iter().rev().map(move |port| add(&format!("/devices/d{id}/ports/{port}"), num(1, (*port).into()))))
                .collect();
            ports.chunks(batch).for_each(|ports| bit_by_bit.send(ports.to_vec()));
        }
        bit_by_bit.send(detours.iter().map(|id| remove(&format!("/devices/d{id}"))).collect());
        prop_assert_eq!(bit_by_bit.state.root(), at_once.state.root());
    }
}

/// Random logs that never meet a refusal prove nothing of it. (PRUNED takes longer logs than these.)
#[test]
fn random_logs_meet_every_code_that_stands_on_a_log() {
    use confold_model::code::Code;
    let mut runner = TestRunner::deterministic();
    let mut met = BTreeMap::new();
    for _ in 0..1_000 {
        let steps = steps(20..40).new_tree(&mut runner).unwrap().current();
        let (mut state, mut writer) = (State::new(), Writer::new());
        let begin: Vec<_> = writer.begin(true);
        for (time, record) in &begin {
            fold::apply(&mut state, Time(*time), record, &NoObjects).unwrap();
        }
        for step in &steps {
            let (time, record) = writer.next(step, &state, &NoObjects);
            let applied = fold::apply(&mut state, Time(time), &record, &NoObjects).unwrap();
            let code = Code::from_number(applied.outcome.code());
            *met.entry((applied.body, code)).or_insert(0) += 1;
        }
    }
    let codes = [
        Code::NotFound,
        Code::InvalidPath,
        Code::AlreadyExists,
        Code::KeyChange,
        Code::ReadOnlyField,
        Code::ChildrenInUpdate,
        Code::NotAContainer,
        Code::NotKeyed,
        Code::IsAContainer,
        Code::Conflict,
        Code::GuardFailed,
        Code::NotCanonical,
        Code::UnknownField,
        Code::Malformed,
        Code::Foreign,
        Code::Overlap,
        Code::TooLarge,
        Code::Limit,
        Code::Expired,
        Code::IdReused,
        Code::Withdrawn,
        Code::Future,
        Code::Permission,
        Code::Sealed,
        Code::Unsupported,
    ];
    let missing: Vec<Code> = codes
        .into_iter()
        .filter(|code| !met.keys().any(|(_, other)| *other == Some(*code)))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {met:?}");
    for (body, code) in [
        ("policy", None),
        ("policy", Some(Code::Conflict)),
        ("policy", Some(Code::Malformed)),
        ("policy", Some(Code::Permission)),
        ("commit", Some(Code::Permission)),
        ("tag", Some(Code::Permission)),
        ("clock", Some(Code::Permission)),
        ("withdraw", Some(Code::Permission)),
        ("open", None),
        ("open", Some(Code::IdReused)),
        ("seal", Some(Code::Sealed)),
    ] {
        assert!(met.contains_key(&(body, code)), "{body} {code:?} of {met:?}");
    }
}

/// Positions go on and on: a mark stands where it must, with nothing of its own on the log.
#[test]
fn every_position_that_is_a_multiple_of_4096_is_a_mark_with_the_state_hash_of_the_naive_model() {
    let mut both = Both {
        state: State::new(),
        naive: Naive::default(),
    };
    let first = Envelope::without_id().record(Body::Genesis(genesis(5_000, small_limits())));
    let health = commit(vec![put("/health", text(1, b"ok"))]);
    let start = [
        first,
        Envelope::new(0, 1).record(schema_body()),
        Envelope::new(1, 2).record(health),
    ];
    let mut marks = Vec::new();
    for position in 0..8_200u64 {
        let record = match position {
            0..3 => start[position as usize].clone(),
            // Ids on both sides of a segment's edge, the last of them a mark and a revision at once.
            4_090..4_098 | 8_190..8_194 => {
                let mut envelope = Envelope::new(position - 1, 0);
                envelope.id = Some(EventId {
                    seen: Position(position - 1),
                    nonce: u128::from(position).to_be_bytes(),
                });
                envelope.record(commit(vec![put("/health", text(1, position.to_string().as_bytes()))]))
            }
            _ => Envelope::without_id().record(Body::Fence),
        };
        let applied = fold::apply(&mut both.state, Time(position as i64), &record, &NoObjects).unwrap();
        both.naive.apply(position as i64, &record);
        if let Some(hash) = applied.mark {
            marks.push(position);
            assert_eq!(hash, Hash(both.naive.state_hash()), "at {position}");
        }
    }
    assert_eq!(marks, [0, 4_096, 8_192]);
    assert_eq!(both.state.hash(), Hash(both.naive.state_hash()));
}

/// H1, S9: messages and packages may be renamed; their names are in no hash.
#[test]
fn a_package_that_is_renamed_changes_no_root() {
    // Of the same length, so that the set stays a set.
    let set = descriptor_set();
    let starts: Vec<usize> = (0..set.len() - 6)
        .filter(|at| &set[*at..*at + 6] == b"script")
        .collect();
    let mut renamed = set.to_vec();
    starts
        .iter()
        .for_each(|at| renamed[*at..*at + 6].copy_from_slice(b"edited"));
    let mut roots = Vec::new();
    for (set, root_message) in [(set.to_vec(), "script.Root"), (renamed, "edited.Root")] {
        let mut state = State::new();
        let schema = Body::Schema {
            descriptor_set: set.into(),
            root_message: root_message.into(),
        };
        let content = commit(vec![put(
            "/",
            [item(2, &device(1, &BTreeSet::from([1, 2]))), item(4, &text(1, b"ok"))].concat(),
        )]);
        let genesis = Envelope::without_id().record(Body::Genesis(genesis(1_000, small_limits())));
        for record in [
            genesis,
            Envelope::new(0, 1).record(schema),
            Envelope::new(1, 2).record(content),
        ] {
            assert_eq!(
                fold::apply(&mut state, Time(0), &record, &NoObjects).unwrap().outcome,
                Outcome::Accepted
            );
        }
        assert_eq!(
            state
                .schema()
                .unwrap()
                .message(state.schema().unwrap().root())
                .full_name,
            root_message
        );
        roots.push(state.root());
    }
    assert_eq!(roots[0], roots[1]);
}

/// What a store keeps of a state.
#[derive(Default)]
struct Store {
    rows: BTreeMap<(u16, Vec<u8>), Vec<u8>>,
    objects: MemoryObjects,
}

impl Store {
    fn write(&mut self, state: &mut State) {
        let objects = &mut self.objects.0;
        state
            .tree()
            .unpersisted(&mut |hash, bytes| drop(objects.insert(hash, bytes)));
        for edit in state.take_edits() {
            match edit.value {
                Some(value) => self.rows.insert((edit.table, edit.key), value),
                None => self.rows.remove(&(edit.table, edit.key)),
            };
        }
    }

    fn load(&self) -> State {
        // Backwards: rows may come in any order.
        let rows = self
            .rows
            .iter()
            .rev()
            .map(|((table, key), value)| (*table, key.clone(), value.clone()));
        State::load(rows).unwrap()
    }
}

/// A log whose every commit must be accepted.
struct Log {
    state: State,
}

impl Log {
    fn begin() -> Log {
        let mut state = State::new();
        let first = Envelope::without_id().record(Body::Genesis(genesis(1_000, small_limits())));
        for record in [first, Envelope::new(0, 0).record(schema_body())] {
            assert_eq!(
                fold::apply(&mut state, Time(0), &record, &NoObjects).unwrap().outcome,
                Outcome::Accepted
            );
        }
        Log { state }
    }

    fn send(&mut self, operations: Vec<Operation<'static>>) {
        let empty = operations.is_empty();
        let position = self.state.position().unwrap();
        let id = EventId {
            seen: position,
            nonce: u128::from(position.0).to_be_bytes(),
        };
        let record = Envelope {
            id: Some(id),
            ..Envelope::new(0, 0)
        }
        .record(commit(operations));
        let outcome = fold::apply(&mut self.state, Time(0), &record, &NoObjects)
            .unwrap()
            .outcome;
        assert!(
            outcome == Outcome::Accepted || (empty && outcome == Outcome::Unchanged),
            "{outcome:?}"
        );
    }
}

/// Ports by device, at least one device.
fn content() -> impl Strategy<Value = BTreeMap<u8, BTreeSet<u8>>> {
    prop::collection::btree_map(0u8..60, prop::collection::btree_set(0u8..30, 0..20), 1..40)
}

fn device(id: u8, ports: &BTreeSet<u8>) -> Vec<u8> {
    let ports: Vec<u8> = ports.iter().flat_map(|port| item(8, &num(1, (*port).into()))).collect();
    [text(1, format!("d{id}").as_bytes()), ports].concat()
}
