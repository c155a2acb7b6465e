//! I7: everything that the fold reads is in the state hash.

use super::*;
use crate::ids::EventId;
use crate::path::{Path, Step};
use crate::policy::{Right, Rule, TokenRow};
use crate::window::Entry;

/// A state with something in every member.
fn full() -> State {
    let mut state = State::new();
    state.position = Some(Position(9_000));
    state.digest = Hash([1; 32]);
    state.chain = Hash([2; 32]);
    state.root_message = "a.Root".into();
    state.limits = Limits {
        max_event_bytes: 1_000,
        depth: 64,
        path_bytes: 100,
        key_bytes: 10,
    };
    state.window = Window::new(5_000);
    state.trim_replicas = 3;
    state.time = Time(77);
    state.revision = Revision(5);
    state.floor = Revision(1);
    state.retention = RetentionPolicy {
        keep_revisions: 2,
        keep_age_ms: 3,
        keep_all: false,
    };
    state.transport_id = [4; 16];
    for revision in 0..5 {
        state.history.append(Hash([revision; 32]));
    }
    state.put_incarnation(Position(0), Incarnation([5; 16]));
    state.put_level(Position(0), 1);
    state.put_row(member::SCHEMAS, &[0; 8], vec![0x0a, 0]);
    state.put_tag("one", Revision(2), Position(10));
    state.put_mark(Position(8_192));
    let checkpoint = Checkpoint {
        replica: [6; 16],
        build: "build".into(),
        level: 1,
        position: Position(100),
        chain: Hash([7; 32]),
        state: Hash([8; 32]),
        durable: Position(90),
    };
    state.put_checkpoint(&checkpoint, Position(101), Time(60));
    state.put_policy(Position(50), &policy());
    state.window.insert(entry());
    state
}

fn policy() -> Policy {
    let rule = |principal: &str| Rule {
        principal: principal.to_owned(),
        prefix: Path {
            steps: vec![Step::keyed(2, &b"a"[..]), Step::single(9)],
        },
        rights: [Right::Read, Right::Write].into_iter().collect(),
        strict: false,
    };
    let token = TokenRow {
        id: [11; 8],
        hash: [12; 32],
        principal: "ann".into(),
        expires_ms: 13,
    };
    Policy {
        rules: vec![rule("ann"), rule("*")],
        tokens: vec![token],
    }
}

/// `full()` with another policy.
fn with_policy(change: impl Fn(&mut Policy)) -> State {
    let mut state = full();
    let mut other = policy();
    change(&mut other);
    state.put_policy(Position(50), &other);
    state
}

fn entry() -> Entry {
    let id = EventId {
        seen: Position(8_000),
        nonce: [9; 16],
    };
    Entry {
        position: Position(8_001),
        id,
        intent: [10; 16],
        outcome: 2,
        code: 12,
        revision: Revision(5),
    }
}

/// `full()` with another window entry.
fn with_entry(change: impl Fn(&mut Entry)) -> State {
    let mut state = full();
    state.window = Window::new(5_000);
    let mut other = entry();
    change(&mut other);
    state.window.insert(other);
    state
}

fn with_checkpoint(change: impl Fn(&mut CheckpointRow)) -> State {
    let mut state = full();
    let mut row = state.checkpoint(&[6; 16]).unwrap();
    state.remove_checkpoint(&[6; 16]);
    change(&mut row);
    state.put_checkpoint(&row.checkpoint, row.position, row.time);
    state
}

#[test]
fn a_change_of_anything_that_the_fold_reads_changes_the_state_hash() {
    // A field that is new does not compile here until somebody has thought of it: does the fold read it? Then it is a
    // member, or follows from one, and has its line below.
    let State {
        position: _,
        digest: _,
        chain: _,
        // Content of `root`; that they agree is checked by every script and random log.
        tree: _,
        root: _,
        root_message: _,
        limits:
            Limits {
                max_event_bytes: _,
                depth: _,
                path_bytes: _,
                key_bytes: _,
            },
        trim_replicas: _,
        time: _,
        revision: _,
        floor: _,
        retention:
            RetentionPolicy {
                keep_revisions: _,
                keep_age_ms: _,
                keep_all: _,
            },
        last_mark: _,
        transport_id: _,
        sealed: _,
        history: _,
        window: _,
        schemas: _,
        levels: _,
        tags: _,
        marks: _,
        checkpoints: _,
        incarnations: _,
        policies: _,
        // These follow from tables: the latest schema with the root message, level, incarnation, policy, the tags by
        // revision.
        policy: _,
        schema: _,
        level: _,
        incarnation: _,
        tagged: _,
        // What the store has not been told yet; the fold does not read it.
        edits: _,
        window_unsaved: _,
        window_rows: _,
    } = full();

    type Change = Box<dyn Fn(&mut State)>;
    let field = |change: fn(&mut State)| -> Change { Box::new(change) };
    let mut changed: Vec<(&str, State)> = [
        ("position", field(|state| state.position = Some(Position(9_001)))),
        ("digest", field(|state| state.digest.0[31] ^= 1)),
        ("chain", field(|state| state.chain.0[0] ^= 1)),
        ("root", field(|state| state.root.0[0] ^= 1)),
        ("root message", field(|state| state.root_message.push('x'))),
        ("max_event_bytes", field(|state| state.limits.max_event_bytes += 1)),
        ("depth", field(|state| state.limits.depth -= 1)),
        ("path_bytes", field(|state| state.limits.path_bytes += 1)),
        ("key_bytes", field(|state| state.limits.key_bytes += 1)),
        ("trim_replicas", field(|state| state.trim_replicas += 1)),
        ("time", field(|state| state.time.0 = -77)),
        ("revision", field(|state| state.revision.0 += 1)),
        ("floor", field(|state| state.floor.0 = 0)),
        ("keep_revisions", field(|state| state.retention.keep_revisions += 1)),
        ("keep_age_ms", field(|state| state.retention.keep_age_ms += 1)),
        ("keep_all", field(|state| state.retention.keep_all = true)),
        ("last mark", field(|state| state.last_mark.0 += 1)),
        ("transport", field(|state| state.transport_id[15] ^= 1)),
        ("sealed", field(|state| state.sealed = true)),
        (
            "history: one leaf more",
            field(|state| state.history.append(Hash([1; 32]))),
        ),
        (
            "history: another peak",
            field(|state| {
                let mut peaks = state.history.peaks().to_vec();
                peaks[0].0[0] ^= 1;
                state.history = HistoryRange::from_peaks(5, peaks).unwrap();
            }),
        ),
        (
            "history: another count",
            field(|state| {
                state.history = HistoryRange::from_peaks(6, state.history.peaks().to_vec()).unwrap();
            }),
        ),
        (
            "schema: another set",
            field(|state| state.put_row(member::SCHEMAS, &[0; 8], vec![0x0a, 1, 0])),
        ),
        (
            "schema: at another position",
            field(|state| {
                state.remove_row(member::SCHEMAS, &[0; 8]);
                state.put_row(member::SCHEMAS, &[1; 8], vec![0x0a, 0]);
            }),
        ),
        ("level", field(|state| state.put_level(Position(0), 2))),
        ("level: one more", field(|state| state.put_level(Position(1), 1))),
        (
            "tag: revision",
            field(|state| state.put_tag("one", Revision(3), Position(10))),
        ),
        (
            "tag: position",
            field(|state| state.put_tag("one", Revision(2), Position(11))),
        ),
        (
            "tag: one more",
            field(|state| state.put_tag("two", Revision(2), Position(10))),
        ),
        ("tag: none", field(|state| state.remove_tag("one"))),
        (
            "incarnation",
            field(|state| state.put_incarnation(Position(0), Incarnation([6; 16]))),
        ),
        (
            "incarnation: one more",
            field(|state| state.put_incarnation(Position(9), Incarnation([5; 16]))),
        ),
        (
            "incarnation: one more, that begins later",
            field(|state| state.put_incarnation(Position(10), Incarnation([5; 16]))),
        ),
        (
            "incarnation: the end of one before",
            field(|state| {
                state.put_incarnation(Position(9), Incarnation([5; 16]));
                let other = IncarnationRow {
                    begin: Position(0),
                    incarnation: Incarnation([5; 16]),
                    end: Some(Position(8)),
                };
                state.put_row(member::INCARNATIONS, &[0; 8], incarnation_row(&other));
            }),
        ),
        (
            "policy: at another position",
            field(|state| state.put_policy(Position(51), &policy())),
        ),
        (
            "policy: none was ever set",
            field(|state| state.remove_row(member::POLICY, &50u64.to_be_bytes())),
        ),
        ("checkpoint: none", field(|state| state.remove_checkpoint(&[6; 16]))),
    ]
    .into_iter()
    .map(|(name, change)| {
        let mut state = full();
        change(&mut state);
        (name, state)
    })
    .collect();
    let mark = |position, time, revision| {
        let mut state = full();
        state.remove_row(member::MARKS, &8_192u64.to_be_bytes());
        (state.time, state.revision) = (Time(time), Revision(revision));
        state.put_mark(Position(position));
        (state.time, state.revision, state.last_mark) = (Time(77), Revision(5), Position(8_192));
        state
    };
    assert_eq!(mark(8_192, 77, 5).hash(), full().hash());
    changed.extend([
        ("mark: position", mark(8_193, 77, 5)),
        ("mark: time", mark(8_192, 78, 5)),
        ("mark: revision", mark(8_192, 77, 4)),
    ]);
    changed.extend([
        (
            "checkpoint: replica",
            with_checkpoint(|row| row.checkpoint.replica[0] = 0),
        ),
        (
            "checkpoint: build",
            with_checkpoint(|row| row.checkpoint.build = "other".into()),
        ),
        ("checkpoint: level", with_checkpoint(|row| row.checkpoint.level = 2)),
        (
            "checkpoint: its position",
            with_checkpoint(|row| row.checkpoint.position.0 += 1),
        ),
        (
            "checkpoint: chain",
            with_checkpoint(|row| row.checkpoint.chain.0[0] = 0),
        ),
        (
            "checkpoint: state",
            with_checkpoint(|row| row.checkpoint.state.0[0] = 0),
        ),
        (
            "checkpoint: durable",
            with_checkpoint(|row| row.checkpoint.durable.0 += 1),
        ),
        ("checkpoint: position", with_checkpoint(|row| row.position.0 += 1)),
        ("checkpoint: time", with_checkpoint(|row| row.time.0 += 1)),
    ]);
    changed.extend([
        ("policy: without rules", with_policy(|policy| policy.rules.clear())),
        ("policy: a rule less", with_policy(|policy| drop(policy.rules.pop()))),
        ("policy: order of rules", with_policy(|policy| policy.rules.reverse())),
        (
            "policy: principal",
            with_policy(|policy| policy.rules[0].principal.push('e')),
        ),
        (
            "policy: field of the path",
            with_policy(|policy| policy.rules[0].prefix.steps[1].field = 8),
        ),
        (
            "policy: key of the path",
            with_policy(|policy| policy.rules[0].prefix.steps[0].key = None),
        ),
        (
            "policy: rights",
            with_policy(|policy| policy.rules[0].rights = policy.rules[0].rights.without(Right::Write)),
        ),
        ("policy: strict", with_policy(|policy| policy.rules[0].strict = true)),
        ("policy: no token", with_policy(|policy| policy.tokens.clear())),
        ("policy: token's id", with_policy(|policy| policy.tokens[0].id[7] = 0)),
        (
            "policy: token's hash",
            with_policy(|policy| policy.tokens[0].hash[31] = 0),
        ),
        (
            "policy: token's principal",
            with_policy(|policy| policy.tokens[0].principal.push('e')),
        ),
        (
            "policy: token's expiry",
            with_policy(|policy| policy.tokens[0].expires_ms = 0),
        ),
    ]);
    changed.extend([
        ("window: position", with_entry(|entry| entry.position.0 += 1)),
        ("window: seen", with_entry(|entry| entry.id.seen.0 += 1)),
        ("window: nonce", with_entry(|entry| entry.id.nonce[15] ^= 1)),
        ("window: intent mark", with_entry(|entry| entry.intent[15] ^= 1)),
        ("window: outcome", with_entry(|entry| entry.outcome = 1)),
        ("window: code", with_entry(|entry| entry.code += 1)),
        ("window: revision", with_entry(|entry| entry.revision.0 += 1)),
    ]);
    let mut wider = full();
    wider.window = Window::new(5_001);
    wider.window.insert(entry());
    let mut without = full();
    without.window = Window::new(5_000);
    changed.extend([("window: width", wider), ("window: no entry", without)]);

    let mut hashes = BTreeMap::from([(full().hash(), "the state itself")]);
    for (name, mut state) in changed {
        let hash = state.hash();
        if let Some(other) = hashes.insert(hash, name) {
            panic!("{name}: the state hash is that of {other}");
        }
    }
}

#[test]
fn what_has_left_the_window_is_in_the_state_hash_no_more() {
    let with_old = |seen: u64| {
        let mut state = full();
        state.window = Window::new(5_000);
        // 9,000 - 5,000 is outside, one later is inside.
        for position in [3_999, 4_000] {
            let id = EventId {
                seen: Position(seen),
                nonce: [position as u8; 16],
            };
            state.window.insert(Entry {
                position: Position(position),
                id,
                ..entry()
            });
        }
        state.window.insert(entry());
        state.hash()
    };
    assert_eq!(with_old(1), with_old(2));
    assert_eq!(with_old(1), full().hash());
}

#[test]
fn a_new_incarnation_ends_the_one_before_it() {
    let mut state = State::new();
    let rows = |state: &State| state.incarnations().collect::<Vec<_>>();
    let row = |begin: u64, life: u8, end: Option<u64>| IncarnationRow {
        begin: Position(begin),
        incarnation: Incarnation([life; 16]),
        end: end.map(Position),
    };
    state.put_incarnation(Position(0), Incarnation([5; 16]));
    assert_eq!(rows(&state), [row(0, 5, None)]);
    state.put_incarnation(Position(9), Incarnation([6; 16]));
    assert_eq!(rows(&state), [row(0, 5, Some(9)), row(9, 6, None)]);
    assert_eq!((state.incarnation, state.log_id()), (Incarnation([6; 16]), Incarnation([5; 16])));
}

#[test]
fn members_ascend_and_are_what_the_hash_is_made_of() {
    let numbers: Vec<u16> = (1..=16).chain(32..=39).collect();
    let mut state = full();
    let members = state.members();
    assert_eq!(members.iter().map(|(number, _)| *number).collect::<Vec<_>>(), numbers);
    assert_eq!(digest::state(&members), state.hash());
}

#[test]
fn a_store_without_a_policy_has_the_members_that_it_had_before_there_were_policies() {
    let numbers = |state: &mut State| {
        state
            .members()
            .into_iter()
            .map(|(number, _)| number)
            .collect::<Vec<_>>()
    };
    let mut state = State::new();
    assert_eq!(numbers(&mut state), (1..=16).chain(32..=38).collect::<Vec<u16>>());
    // Once set it stays a member, also without rules: what replaces it says its position.
    state.put_policy(Position(50), &Policy::default());
    assert_eq!(numbers(&mut state), (1..=16).chain(32..=39).collect::<Vec<u16>>());
}

/// What a store would have of it. A schema of `full` is none, and is left out.
fn rows_of(state: &mut State) -> Vec<(u16, Vec<u8>, Vec<u8>)> {
    state.remove_row(member::SCHEMAS, &[0; 8]);
    let mut rows = BTreeMap::new();
    for edit in state.take_edits() {
        match edit.value {
            Some(value) => rows.insert((edit.table, edit.key), value),
            None => rows.remove(&(edit.table, edit.key)),
        };
    }
    rows.into_iter().map(|((table, key), value)| (table, key, value)).collect()
}

#[test]
fn a_state_comes_back_from_its_rows_sealed_or_not() {
    for sealed in [false, true] {
        let mut state = full();
        state.sealed = sealed;
        let mut loaded = State::load(rows_of(&mut state)).unwrap();
        assert_eq!((loaded.is_sealed(), loaded.hash()), (sealed, state.hash()));
    }
}

#[test]
fn one_row_holds_the_policy_and_it_comes_back_from_a_store() {
    let mut state = full();
    state.put_policy(Position(60), &Policy::default());
    state.put_policy(Position(70), &policy());
    let rows = rows_of(&mut state);
    assert_eq!(rows.iter().filter(|(table, ..)| *table == member::POLICY).count(), 1);
    let loaded = State::load(rows).unwrap();
    let row = loaded.policy().unwrap();
    assert_eq!((row.position, &row.policy), (Position(70), &policy()));
    assert!(row.rules.of("ann").allows(Right::Write, &policy().rules[0].prefix));
}

/// Rows come from a store's files and from other machines' snapshots.
#[test]
fn rows_that_no_state_writes_are_refused_and_never_panic() {
    let scalars = |position: u64| {
        let mut state = full();
        state.position = Some(Position(position));
        let edits = state.take_edits();
        let row = edits.into_iter().find(|edit| edit.table == SCALARS).unwrap();
        (SCALARS, row.key, row.value.unwrap())
    };
    assert!(State::load([scalars(9_000)]).is_ok());
    let refused = |row: (u16, Vec<u8>, Vec<u8>)| State::load([scalars(9_000), row]).err().unwrap().0;
    assert_eq!(
        refused((member::TAGS, Vec::new(), Vec::new())),
        "a state row of table 34 with a key of 0 bytes"
    );
    assert_eq!(
        refused((member::TAGS, vec![b'a'; 257], Vec::new())),
        "a state row of table 34 with a key of 257 bytes"
    );
    assert!(State::load([scalars(9_000), (member::TAGS, vec![b'a'; 256], Vec::new())]).is_ok());
    assert_eq!(refused((member::WINDOW, vec![1], Vec::new())), "a window row's key");
    assert!(State::load([scalars(u64::MAX - 1)]).is_ok());
    let last = State::load([scalars(u64::MAX - 1)]).map(|state| state.next_position());
    assert_eq!(last, Ok(Position(u64::MAX)));
    assert!(
        State::load([
            (SCALARS, Vec::new(), scalars(0).2),
            (
                SCALARS,
                Vec::new(),
                b"\0\x01\0\0\0\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec()
            )
        ])
        .is_err()
    );
}
