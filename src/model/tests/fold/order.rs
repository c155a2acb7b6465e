//! The order of checks (docs/formats.md 4.6): one record for each pair of neighbours that breaks both, and the code is
//! the first one's. Pairs that no record can break both of are said where they would stand.

use crate::naive::{item, num, text};
use crate::support::{
    Envelope, LOG_ID, add, commit, descriptor_set, device, genesis, masked, operation, path, port, put, remove,
    replace, schema_body, update, with_port,
};
use confold_model::code::Code::{self, *};
use confold_model::event::{
    Base, Body, Checkpoint, Commit, Expect, Genesis, Guard, Limits, Operation, OperationKind, RetentionPolicy,
};
use confold_model::fold::{self, MAX_BUILD_BYTES, MAX_REPLICAS, Outcome};
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use confold_model::objects::NoObjects;
use confold_model::path::{Path, Step};
use confold_model::policy::{Policy, Right, Rule, TokenRow};
use confold_model::state::State;

/// Long enough for what the setting needs, short enough to reach its end.
const WINDOW: u64 = 40;

fn limits() -> Limits {
    Limits {
        max_event_bytes: 65_536,
        path_bytes: 120,
        key_bytes: 100,
        ..Limits::default()
    }
}

fn append(state: &mut State, record: &[u8]) -> Outcome {
    let root = state.root();
    let applied = fold::apply(state, Time(1_000), record, &NoObjects).unwrap();
    if !matches!(applied.outcome, Outcome::Accepted) {
        assert_eq!(state.root(), root);
    }
    applied.outcome
}

/// A record and where it is put, after the setting, as many fences as it takes, and what must come right before it.
pub struct Case {
    pub name: &'static str,
    pub position: u64,
    pub before: Vec<Vec<u8>>,
    pub record: Vec<u8>,
    pub code: Code,
}

impl Case {
    /// The state that the record meets.
    fn state(&self) -> State {
        let mut state = state_at(self.position - self.before.len() as u64);
        for record in &self.before {
            assert_eq!(append(&mut state, record), Outcome::Accepted, "{}", self.name);
        }
        state
    }
}

pub fn cases() -> Vec<Case> {
    let with_policy = [permission_cases(), policy_cases()];
    [envelope_cases(), commit_cases(), body_cases(), sealed_cases()]
        .into_iter()
        .chain(with_policy)
        .flatten()
        .collect()
}

/// Genesis at 0, schema at 1, content at 2, its id (1, 2) known from then on; then an id that was withdrawn, two revisions
/// and a floor.
pub fn setting() -> Vec<Vec<u8>> {
    let content = [
        text(1, b"1"),
        item(2, &device("a", "label", "s", &[with_port(port(1, "", ""))])),
        item(2, &device("b", "", "", &[])),
        item(4, &text(1, b"ok")),
    ];
    let withdrawn = EventId {
        seen: Position(1),
        nonce: [9; 16],
    };
    vec![
        Envelope::without_id().record(Body::Genesis(genesis(WINDOW, limits()))),
        Envelope::new(0, 1).record(schema_body()),
        Envelope::new(1, 2).record(commit(vec![put("/", content.concat())])),
        Envelope::new(2, 3).record(Body::Withdraw { id: withdrawn }),
        Envelope::new(3, 4).record(commit(vec![update("/health", text(1, b"bad"))])),
        Envelope::new(4, 5).record(commit(vec![update("/health", text(1, b"good"))])),
        Envelope::new(5, 6).record(Body::Prune {
            floor: Some(Revision(1)),
        }),
    ]
}

/// The state after the setting and fences up to the given position.
pub fn state_at(next: u64) -> State {
    let mut state = State::new();
    for record in &setting() {
        assert_eq!(append(&mut state, record), Outcome::Accepted);
    }
    while state.next_position() < Position(next) {
        append(&mut state, &Envelope::without_id().record(Body::Fence));
    }
    state
}

fn fresh() -> Envelope {
    Envelope::new(9, 0x77)
}

fn based(mut operation: Operation<'static>) -> Operation<'static> {
    operation.base = Some(Base::Hash(Hash::of(b"never seen")));
    operation
}

fn strict(mut operation: Operation<'static>) -> Operation<'static> {
    operation.strict = true;
    operation
}

fn at(steps: &[(u32, Option<&[u8]>)], kind: OperationKind<'static>) -> Operation<'static> {
    let steps = steps
        .iter()
        .map(|(field, key)| Step {
            field: *field,
            key: key.map(Into::into),
        })
        .collect();
    Operation {
        path: Path { steps },
        strict: false,
        base: None,
        kind,
    }
}

fn whole(value: &[u8]) -> OperationKind<'static> {
    OperationKind::Update {
        value: value.to_vec().into(),
        mask: Vec::new(),
    }
}

fn guarded(guards: Vec<Guard>, operations: Vec<Operation<'static>>) -> Body<'static> {
    Body::Commit(Commit { guards, operations })
}

fn guard(at: &str, expect: Expect) -> Guard {
    Guard { path: path(at), expect }
}

const WRONG: Hash = Hash([0xab; 32]);

/// Canonical in no way.
fn garbled(id: &str) -> Vec<u8> {
    [text(1, id.as_bytes()), text(1, id.as_bytes())].concat()
}

fn long(letter: &str, length: usize) -> String {
    letter.repeat(length)
}

// U8
#[test]
fn of_two_neighbouring_faults_the_first_is_the_code() {
    for case in cases() {
        let name = case.name;
        match append(&mut case.state(), &case.record) {
            Outcome::Rejected(rejection) => assert_eq!(rejection.code, case.code, "{name}: {}", rejection.detail),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_duplicate_is_found_before_its_body_is_looked_at() {
    let overlap = Envelope::new(1, 2).record(commit(vec![update("/", Vec::new()), update("/", Vec::new())]));
    let again = append(&mut state_at(1 + WINDOW), &overlap);
    assert!(
        matches!(again, Outcome::Duplicate(first) if first.position == Position(2)),
        "{again:?}"
    );
    let expired = append(&mut state_at(2 + WINDOW), &overlap);
    assert!(matches!(expired, Outcome::Rejected(rejection) if rejection.code == Expired));
}

fn envelope_cases() -> Vec<Case> {
    let overlap = || commit(vec![update("/", Vec::new()), update("/", Vec::new())]);
    let with_trailing = |record: Vec<u8>| [record, num(100, 1)].concat();
    let foreign = |envelope: Envelope| Envelope {
        incarnation: [8; 16],
        ..envelope
    };
    let format1 = |envelope: Envelope| Envelope { format: 1, ..envelope };
    let genesis = || Body::Genesis(genesis(WINDOW, limits()));
    let known = |seen, nonce| Envelope::new(seen, nonce);
    let other_intent = |envelope: Envelope| Envelope {
        intent: Hash::of(b"other"),
        ..envelope
    };
    let cases: Vec<(&str, u64, Vec<u8>, Code)> = vec![
        ("size, then canonical", 20, vec![0xff; 65_537], TooLarge),
        (
            "canonical, then format",
            20,
            with_trailing(format1(fresh()).record(overlap())),
            Malformed,
        ),
        (
            "format, then genesis elsewhere",
            20,
            format1(Envelope::without_id()).record(genesis()),
            Unsupported,
        ),
        (
            "genesis elsewhere, then incarnation",
            20,
            foreign(Envelope::without_id()).record(genesis()),
            Malformed,
        ),
        (
            "incarnation, then seen",
            20,
            foreign(Envelope::new(20, 0x77)).record(overlap()),
            Foreign,
        ),
        // Seen and EXPIRED, and seen and the id's checks, exclude each other: an id in the window was minted before.
        (
            "seen, then the body",
            20,
            Envelope::new(20, 0x77).record(overlap()),
            Future,
        ),
        (
            "EXPIRED, then WITHDRAWN",
            2 + WINDOW,
            known(1, 9).record(overlap()),
            Expired,
        ),
        (
            "EXPIRED, then ID_REUSED",
            2 + WINDOW,
            other_intent(known(1, 2)).record(overlap()),
            Expired,
        ),
        (
            "WITHDRAWN, then another intent",
            1 + WINDOW,
            other_intent(known(1, 9)).record(overlap()),
            Withdrawn,
        ),
        (
            "ID_REUSED, then the body",
            1 + WINDOW,
            other_intent(known(1, 2)).record(overlap()),
            IdReused,
        ),
        (
            "a fresh id in the same place",
            1 + WINDOW,
            known(1, 0x78).record(overlap()),
            Overlap,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, position, record, code)| Case {
            name,
            position,
            before: Vec::new(),
            record,
            code,
        })
        .collect()
}

/// Steps 8 to 10 on a log that is sealed.
fn sealed_cases() -> Vec<Case> {
    let overlap = || commit(vec![update("/", Vec::new()), update("/", Vec::new())]);
    let seal = || Envelope::new(9, 0x76).record(Body::Seal);
    let open = |incarnation| Body::Open {
        incarnation: Incarnation(incarnation),
        transport_id: [0x21; 16],
    };
    let other_intent = |envelope: Envelope| Envelope {
        intent: Hash::of(b"other"),
        ..envelope
    };
    let foreign = |envelope: Envelope| Envelope {
        incarnation: [8; 16],
        ..envelope
    };
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("incarnation, then SEALED", foreign(fresh()).record(overlap()), Foreign),
        ("seen, then SEALED", Envelope::new(20, 0x77).record(overlap()), Future),
        (
            "WITHDRAWN, then SEALED",
            Envelope::new(1, 9).record(overlap()),
            Withdrawn,
        ),
        (
            "ID_REUSED, then SEALED",
            other_intent(Envelope::new(1, 2)).record(overlap()),
            IdReused,
        ),
        ("SEALED, then the body", fresh().record(overlap()), Sealed),
        ("SEALED: another seal", fresh().record(Body::Seal), Sealed),
        (
            "SEALED is not for an open: its incarnation",
            fresh().record(open(LOG_ID)),
            IdReused,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, record, code)| Case {
            name,
            position: 12,
            before: vec![seal()],
            record,
            code,
        })
        .collect()
}

/// `root` administers; `ada` reads and writes devices, and writes `/`'s health; `bob` reads and writes everything, some of it strictly; `eve` has nothing.
fn policy() -> Policy {
    let rule = |principal: &str, at: &str, rights: &[Right], strict| Rule {
        principal: principal.to_owned(),
        prefix: path(at),
        rights: rights.iter().copied().collect(),
        strict,
    };
    Policy {
        rules: vec![
            rule("root", "/", &[Right::Admin, Right::Tag], false),
            rule("ada", "/devices", &[Right::Read, Right::Write], false),
            rule("ada", "/health", &[Right::Write], false),
            rule("bob", "/", &[Right::Read, Right::Write], false),
            rule("bob", "/devices/a/ports", &[], true),
        ],
        tokens: Vec::new(),
    }
}

fn by(principal: &str) -> Envelope {
    Envelope {
        principal: principal.into(),
        ..fresh()
    }
}

fn first_policy() -> Vec<u8> {
    Envelope::new(9, 0x76).record(Body::Policy {
        policy: policy(),
        replaces: Position(0),
    })
}

/// Steps 9 to 11 under a policy.
fn permission_cases() -> Vec<Case> {
    let overlap = || commit(vec![update("/devices/a", Vec::new()), update("/devices/a", Vec::new())]);
    let tag = |name: &'static str| Body::Tag {
        name: name.into(),
        revision: Revision(99),
    };
    let seal = Envelope {
        principal: "root".into(),
        ..Envelope::new(9, 0x75)
    }
    .record(Body::Seal);
    let sealed = vec![first_policy(), seal];
    let open = vec![first_policy()];
    let many = || with_port(port(1, "", "x"));
    let cases: Vec<(&str, &Vec<Vec<u8>>, Vec<u8>, Code)> = vec![
        ("SEALED, then rights", &sealed, by("eve").record(overlap()), Sealed),
        (
            "SEALED is not for an open, rights are",
            &sealed,
            by("eve").record(Body::Open {
                incarnation: Incarnation(LOG_ID),
                transport_id: [0x21; 16],
            }),
            Permission,
        ),
        ("rights, then OVERLAP", &open, by("eve").record(overlap()), Permission),
        ("OVERLAP, with rights", &open, by("ada").record(overlap()), Overlap),
        (
            "rights of a guard, then its hash",
            &open,
            by("ada").record(guarded(vec![guard("/health", Expect::Data(WRONG))], vec![])),
            Permission,
        ),
        (
            "rights of operations, then guards",
            &open,
            by("ada").record(guarded(
                vec![guard("/devices/a", Expect::Absent)],
                vec![update("/", Vec::new())],
            )),
            Permission,
        ),
        (
            "guards, with rights",
            &open,
            by("ada").record(guarded(
                vec![guard("/devices/a", Expect::Absent)],
                vec![update("/health", Vec::new())],
            )),
            GuardFailed,
        ),
        (
            "rights of operation 2, then operation 1",
            &open,
            by("ada").record(commit(vec![
                remove("/devices/z"),
                add("/spares/a", device("a", "", "", &[])),
            ])),
            Permission,
        ),
        (
            "rights to read where there is a base, then the bytes",
            &open,
            by("ada").record(commit(vec![based(update("/health", garbled("x")))])),
            Permission,
        ),
        (
            "the bytes, with rights to write and no base",
            &open,
            by("ada").record(commit(vec![update("/health", garbled("x"))])),
            NotCanonical,
        ),
        (
            "rights, then a path that is none",
            &open,
            by("ada").record(commit(vec![at(&[(77, None)], whole(&[]))])),
            Permission,
        ),
        (
            "a path that is none, with rights above it",
            &open,
            by("ada").record(commit(vec![at(&[(2, Some(b"a")), (77, None)], whole(&[]))])),
            NotFound,
        ),
        (
            "a right on a path gives none above it",
            &open,
            by("ada").record(commit(vec![replace("/", Vec::new())])),
            Permission,
        ),
        (
            "strict by policy: at the path",
            &open,
            by("bob").record(commit(vec![add("/devices/a/ports/2", port(2, "", "s"))])),
            ReadOnlyField,
        ),
        (
            "strict by policy: above the path, with what is below",
            &open,
            by("bob").record(commit(vec![put("/devices/a", device("a", "", "s", &[many()]))])),
            ReadOnlyField,
        ),
        (
            "strict by policy: not where only the node above is meant",
            &open,
            by("bob").record(commit(vec![based(update("/devices/a", device("a", "", "t", &[])))])),
            Conflict,
        ),
        (
            "tag: rights, then its name",
            &open,
            by("ada").record(tag("latest")),
            Permission,
        ),
        (
            "tag: its name, with rights",
            &open,
            by("root").record(tag("latest")),
            InvalidPath,
        ),
        (
            "schema: rights, then what it holds",
            &open,
            by("ada").record(Body::Schema {
                descriptor_set: b"\xff".to_vec().into(),
                root_message: "".into(),
            }),
            Permission,
        ),
        (
            "withdraw: rights, then its own id",
            &open,
            by("eve").record(Body::Withdraw {
                id: fresh().id.unwrap(),
            }),
            Permission,
        ),
        (
            "a body of a later level: rights, then the level",
            &open,
            by("ada").record(Body::Later { name: "trim" }),
            Permission,
        ),
        (
            "policy: rights, then what it says",
            &open,
            by("ada").record(Body::Policy {
                policy: Policy {
                    rules: policy().rules.split_off(1),
                    ..policy()
                },
                replaces: Position(0),
            }),
            Permission,
        ),
        ("nobody has no rights", &open, fresh().record(Body::Clock), Permission),
    ];
    cases
        .into_iter()
        .map(|(name, before, record, code)| Case {
            name,
            position: 12,
            before: before.clone(),
            record,
            code,
        })
        .collect()
}

/// A policy's own checks.
fn policy_cases() -> Vec<Case> {
    let with = |change: &dyn Fn(&mut Policy)| {
        let mut policy = policy();
        change(&mut policy);
        // In the place of one that is not in force either: a fault of the next step.
        Body::Policy {
            policy,
            replaces: Position(3),
        }
    };
    let token = TokenRow {
        id: [1; 8],
        hash: [2; 32],
        principal: "ada".to_owned(),
        expires_ms: 0,
    };
    let cases: Vec<(&str, Body<'static>, Code)> = vec![
        (
            "policy: a principal, then what the rule allows",
            with(&|policy| {
                policy.rules[1].principal.clear();
                policy.rules[1].rights = Default::default();
            }),
            Limit,
        ),
        (
            "policy: nobody administers, then what it replaces",
            with(&|policy| drop(policy.rules.remove(0))),
            Malformed,
        ),
        (
            "policy: two tokens of one id, then what it replaces",
            with(&|policy| policy.tokens = vec![token.clone(), token.clone()]),
            Malformed,
        ),
        (
            "policy: what it replaces, then whether it differs",
            with(&|_| ()),
            Conflict,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, body, code)| Case {
            name,
            position: 11,
            before: vec![first_policy()],
            record: by("root").record(body),
            code,
        })
        .collect()
}

#[test]
fn a_sealed_log_still_answers_for_the_ids_that_it_met() {
    let mut state = state_at(11);
    assert_eq!(
        append(&mut state, &Envelope::new(9, 0x76).record(Body::Seal)),
        Outcome::Accepted
    );
    let overlap = Envelope::new(1, 2).record(commit(vec![update("/", Vec::new()), update("/", Vec::new())]));
    let again = append(&mut state, &overlap);
    assert!(
        matches!(again, Outcome::Duplicate(first) if first.position == Position(2)),
        "{again:?}"
    );
}

fn commit_cases() -> Vec<Case> {
    let nowhere = |kind| at(&[(77, None)], kind);
    let deep_nowhere: Vec<(u32, Option<&[u8]>)> = vec![(77, None); 64];
    let long_key = long("k", 101);
    let long_path = format!("/devices/{}", long("%2F", 50));
    let container_guard = Guard {
        path: Path {
            steps: vec![Step { field: 77, key: None }],
        },
        expect: Expect::Container(WRONG),
    };
    let many: Vec<u8> = with_port(port(1, "", "x"));
    let wide_ports = item(8, &num(1, 123_456));
    let cases: Vec<(&str, Body<'static>, Code)> = vec![
        (
            "OVERLAP, then a guard",
            guarded(
                vec![guard("/devices/a", Expect::Absent)],
                vec![remove("/devices/a"), remove("/devices/a")],
            ),
            Overlap,
        ),
        (
            "OVERLAP, then a path",
            guarded(vec![], vec![nowhere(whole(&[])), nowhere(whole(&[]))]),
            Overlap,
        ),
        // Guards.
        (
            "a guard's path, then its kind",
            guarded(vec![container_guard.clone()], vec![]),
            NotFound,
        ),
        (
            "a guard's kind, then its hash",
            guarded(vec![guard("/devices/a", Expect::Container(WRONG))], vec![]),
            NotAContainer,
        ),
        (
            "a guard's kind, then its hash: a node's",
            guarded(vec![guard("/devices", Expect::Data(WRONG))], vec![]),
            IsAContainer,
        ),
        (
            "guard 1, then guard 2",
            guarded(
                vec![guard("/devices/a", Expect::Absent), container_guard.clone()],
                vec![],
            ),
            GuardFailed,
        ),
        (
            "guard 1, then guard 2: turned round",
            guarded(vec![container_guard, guard("/devices/a", Expect::Absent)], vec![]),
            NotFound,
        ),
        (
            "guards, then operations",
            guarded(vec![guard("/devices/a", Expect::Absent)], vec![nowhere(whole(&[]))]),
            GuardFailed,
        ),
        // Operations, one after the other as they stand in the record, not as their paths are ordered.
        (
            "operation 1, then 2",
            commit(vec![remove("/devices/z"), add("/devices/a", device("a", "", "", &[]))]),
            NotFound,
        ),
        (
            "operation 1, then 2: turned round",
            commit(vec![add("/devices/a", device("a", "", "", &[])), remove("/devices/z")]),
            AlreadyExists,
        ),
        (
            "a conflict, then another refusal",
            commit(vec![based(update("/", text(1, b"2"))), remove("/devices/z")]),
            Conflict,
        ),
        (
            "another refusal, then a conflict",
            commit(vec![remove("/devices/z"), based(update("/", text(1, b"2")))]),
            NotFound,
        ),
        // The path.
        (
            "length of keys, then steps",
            commit(vec![at(&[(77, Some(long_key.as_bytes()))], whole(&[]))]),
            Limit,
        ),
        ("depth, then steps", commit(vec![at(&deep_nowhere, whole(&[]))]), Limit),
        (
            "a step, then the one below",
            commit(vec![at(&[(4, Some(b"k")), (77, None)], whole(&[]))]),
            NotAContainer,
        ),
        (
            "a container on the way, then the step below",
            commit(vec![at(&[(2, None), (77, None)], whole(&[]))]),
            IsAContainer,
        ),
        (
            "steps, then the length of the text",
            commit(vec![at(&[(2, Some(&[b'/'; 50])), (77, None)], whole(&[]))]),
            NotFound,
        ),
        (
            "a key that is none, then the length of the text",
            commit(vec![at(&[(2, Some(&[b'/'; 50])), (8, Some(b"x"))], whole(&[]))]),
            InvalidPath,
        ),
        (
            "length of the text, then the place",
            commit(vec![at(&[(2, Some(&[b'/'; 50])), (8, None)], whole(&[]))]),
            Limit,
        ),
        (
            "length of the text, then the bytes",
            commit(vec![update(&long_path, garbled("x"))]),
            Limit,
        ),
        // An update.
        (
            "update: place, then mask",
            commit(vec![masked("/devices", &[&[77]], garbled("x"))]),
            IsAContainer,
        ),
        (
            "update: mask, then bytes",
            commit(vec![masked("/devices/a", &[&[77]], garbled("x"))]),
            NotFound,
        ),
        (
            "update: bytes, then key",
            commit(vec![update("/devices/a", garbled("x"))]),
            NotCanonical,
        ),
        (
            "update: masked bytes, then key",
            commit(vec![masked("/devices/a", &[&[1]], device("x", "not masked", "", &[]))]),
            NotCanonical,
        ),
        (
            "update: key, then existence",
            commit(vec![update("/devices/z", device("x", "", "", &[]))]),
            KeyChange,
        ),
        (
            "update: masked key, then existence",
            commit(vec![masked("/devices/z", &[&[1]], device("x", "", "", &[]))]),
            KeyChange,
        ),
        (
            "update: existence, then children",
            commit(vec![update("/devices/z", device("z", "", "", &[many.clone()]))]),
            NotFound,
        ),
        (
            "update: existence, then children, masked",
            commit(vec![masked(
                "/devices/z",
                &[&[2]],
                device("", "l", "", &[many.clone()]),
            )]),
            NotFound,
        ),
        (
            "update: children, then READ_ONLY",
            commit(vec![strict(update(
                "/devices/a",
                device("a", "", "t", &[many.clone()]),
            ))]),
            ChildrenInUpdate,
        ),
        (
            "update: children, then READ_ONLY, masked",
            commit(vec![strict(masked(
                "/devices/a",
                &[&[4]],
                device("", "", "t", &[many.clone()]),
            ))]),
            ChildrenInUpdate,
        ),
        (
            "update: READ_ONLY, then base",
            commit(vec![strict(based(update("/devices/a", device("a", "", "t", &[]))))]),
            ReadOnlyField,
        ),
        (
            "update: base",
            commit(vec![based(update("/devices/a", device("a", "", "t", &[])))]),
            Conflict,
        ),
        // An add.
        (
            "add: place, then bytes",
            commit(vec![add("/health", garbled("x"))]),
            NotAContainer,
        ),
        (
            "add: place, then bytes: a container",
            commit(vec![add("/devices", garbled("x"))]),
            IsAContainer,
        ),
        (
            "add: place, then bytes: a list",
            commit(vec![add("/servers", garbled("x"))]),
            NotKeyed,
        ),
        (
            "add: bytes, then key",
            commit(vec![add("/devices/a", garbled("x"))]),
            NotCanonical,
        ),
        (
            "add: bytes, an unknown field",
            commit(vec![add("/devices/a", [device("x", "", "", &[]), num(99, 1)].concat())]),
            UnknownField,
        ),
        (
            "add: bytes, twins, then key",
            commit(vec![add(
                "/devices/a",
                device("x", "", "", &[many.clone(), many.clone()]),
            )]),
            AlreadyExists,
        ),
        (
            "add: key, then existence",
            commit(vec![add("/devices/a", device("x", "", "", &[]))]),
            KeyChange,
        ),
        (
            "add: parent, then READ_ONLY",
            commit(vec![strict(add("/devices/z/ports/1", port(1, "", "s")))]),
            NotFound,
        ),
        (
            "add: existence, then READ_ONLY",
            commit(vec![strict(add("/devices/a", device("a", "", "t", &[])))]),
            AlreadyExists,
        ),
        (
            "add: READ_ONLY, then base",
            commit(vec![strict(based(add("/devices/a", device("a", "", "t", &[]))))]),
            ReadOnlyField,
        ),
        (
            "add: base, then limits",
            commit(vec![based(add(
                &format!("/devices/{}", long("a", 100)),
                device(&long("a", 100), "", "", &[wide_ports.clone()]),
            ))]),
            Conflict,
        ),
        (
            "add: limits",
            commit(vec![add(
                &format!("/devices/{}", long("a", 100)),
                device(&long("a", 100), "", "", &[wide_ports]),
            )]),
            Limit,
        ),
        // Put and replace differ from add in what they ask of existence.
        (
            "put: key, then parent",
            commit(vec![put("/devices/z/ports/1", port(2, "", ""))]),
            KeyChange,
        ),
        (
            "put: parent, then READ_ONLY",
            commit(vec![strict(put("/devices/z/ports/1", port(1, "", "s")))]),
            NotFound,
        ),
        (
            "put: READ_ONLY, then base",
            commit(vec![strict(based(put("/devices/a", device("a", "", "t", &[]))))]),
            ReadOnlyField,
        ),
        (
            "replace: key, then existence",
            commit(vec![replace("/devices/z", device("x", "", "", &[]))]),
            KeyChange,
        ),
        (
            "replace: existence, then READ_ONLY",
            commit(vec![strict(replace("/devices/z", device("z", "", "t", &[])))]),
            NotFound,
        ),
        (
            "replace: READ_ONLY, then base",
            commit(vec![strict(based(replace("/devices/a", device("a", "", "t", &[]))))]),
            ReadOnlyField,
        ),
        // A container.
        (
            "replace of a container: bytes, then owner",
            commit(vec![replace("/devices/z/ports", text(1, b"z"))]),
            NotCanonical,
        ),
        (
            "replace of a container: owner, then READ_ONLY",
            commit(vec![strict(replace("/devices/z/ports", many.clone()))]),
            NotFound,
        ),
        (
            "replace of a container: READ_ONLY, then base",
            commit(vec![strict(based(replace("/devices/a/ports", many)))]),
            ReadOnlyField,
        ),
        (
            "replace of a container: base, then limits",
            commit(vec![based(replace(
                "/devices",
                item(2, &device(&long("/", 50), "", "", &[])),
            ))]),
            Conflict,
        ),
        (
            "replace of a container: limits of paths",
            commit(vec![replace("/devices", item(2, &device(&long("/", 50), "", "", &[])))]),
            Limit,
        ),
        (
            "replace of a container: limits of keys",
            commit(vec![replace(
                "/devices",
                item(2, &device(&long("a", 101), "", "", &[])),
            )]),
            Limit,
        ),
        // A remove.
        (
            "remove: place, then existence",
            commit(vec![remove("/devices/z/health")]),
            NotAContainer,
        ),
        (
            "remove: place, then base",
            commit(vec![based(remove("/devices"))]),
            IsAContainer,
        ),
        (
            "remove: base, a conflict even of what is not there",
            commit(vec![based(remove("/devices/a"))]),
            Conflict,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, body, code)| Case {
            name,
            position: 10,
            before: Vec::new(),
            record: fresh().record(body),
            code,
        })
        .collect()
}

// U8
#[test]
fn a_commit_without_a_schema_is_refused_before_it_is_looked_at() {
    let mut state = State::new();
    append(
        &mut state,
        &Envelope::without_id().record(Body::Genesis(genesis(WINDOW, limits()))),
    );
    let overlap = commit(vec![update("/", Vec::new()), update("/", Vec::new())]);
    let outcome = append(&mut state, &Envelope::new(0, 1).record(overlap));
    assert!(matches!(outcome, Outcome::Rejected(rejection) if rejection.code == SchemaInvalid));
}

fn body_cases() -> Vec<Case> {
    let own = fresh().id.unwrap();
    let id = |seen, nonce| EventId {
        seen: Position(seen),
        nonce: [nonce; 16],
    };
    let tag = |name: &'static str, revision| Body::Tag {
        name: name.into(),
        revision: Revision(revision),
    };
    let schema = |set: &[u8], root: &'static str| Body::Schema {
        descriptor_set: set.to_vec().into(),
        root_message: root.into(),
    };
    let cases: Vec<(&str, Body<'static>, Code)> = vec![
        ("tag: name, then revision", tag("latest", 99), InvalidPath),
        ("tag: not reached", tag("one", 4), Future),
        ("tag: the empty tree, then pruned", tag("one", 0), NotFound),
        ("tag: pruned", tag("one", 1), Pruned),
        (
            "schema: root message, then what it holds",
            schema(b"\xff", "script.Device"),
            SchemaInvalid,
        ),
        ("schema: no set", schema(b"\xff", ""), SchemaInvalid),
        (
            "retention",
            Body::Retention(RetentionPolicy {
                keep_age_ms: -1,
                ..RetentionPolicy::default()
            }),
            Limit,
        ),
        (
            "prune",
            Body::Prune {
                floor: Some(Revision(3)),
            },
            Future,
        ),
        ("withdraw: its own id, then seen", Body::Withdraw { id: own }, IdReused),
        ("withdraw: of the future", Body::Withdraw { id: id(10, 1) }, Future),
        (
            "activation: not the next, then nobody knows it",
            Body::Activation { level: 9 },
            Unsupported,
        ),
        ("a body of a later level", Body::Later { name: "trim" }, Unsupported),
    ];
    cases
        .into_iter()
        .map(|(name, body, code)| Case {
            name,
            position: 10,
            before: Vec::new(),
            record: fresh().record(body),
            code,
        })
        .collect()
}

#[test]
fn what_is_past_or_to_come_is_refused_before_it_is_looked_up() {
    let id = |seen, nonce| EventId {
        seen: Position(seen),
        nonce: [nonce; 16],
    };
    // EXPIRED, then whether it was met: the id of position 2 has left the window.
    let late = Envelope::new(WINDOW, 0x77).record(Body::Withdraw { id: id(1, 2) });
    let outcome = append(&mut state_at(WINDOW + 2), &late);
    assert!(matches!(outcome, Outcome::Rejected(rejection) if rejection.code == Expired));
    // FUTURE, then whether it is newer.
    let checkpoint = Checkpoint {
        replica: [1; 16],
        build: "b".into(),
        level: 1,
        position: Position(10),
        chain: WRONG,
        state: WRONG,
        durable: Position(0),
    };
    let outcome = append(
        &mut state_at(10),
        &Envelope::without_id().record(Body::Checkpoint(checkpoint)),
    );
    assert!(matches!(outcome, Outcome::Rejected(rejection) if rejection.code == Future));
    // The first schema names its root before anything of it is read.
    let mut state = State::new();
    append(
        &mut state,
        &Envelope::without_id().record(Body::Genesis(genesis(WINDOW, limits()))),
    );
    let nameless = Body::Schema {
        descriptor_set: descriptor_set().into(),
        root_message: "".into(),
    };
    let outcome = append(&mut state, &Envelope::new(0, 1).record(nameless));
    assert!(matches!(outcome, Outcome::Rejected(rejection) if rejection.code == SchemaInvalid));
}

#[test]
fn checkpoints_take_little_room_whoever_announces_them() {
    let mut state = state_at(10);
    let mut time = 1_000;
    let mut announce = |time: i64, number: u64, position: u64, build: &str| {
        let mut replica = [0; 16];
        replica[..8].copy_from_slice(&number.to_be_bytes());
        let checkpoint = Checkpoint {
            replica,
            build: build.to_owned().into(),
            level: 1,
            position: Position(position),
            chain: WRONG,
            state: WRONG,
            durable: Position(0),
        };
        let record = Envelope::without_id().record(Body::Checkpoint(checkpoint));
        let outcome = fold::apply(&mut state, Time(time), &record, &NoObjects).unwrap().outcome;
        let code = match outcome {
            Outcome::Rejected(rejection) => Some(rejection.code),
            _ => None,
        };
        (code, state.checkpoints().count())
    };
    // The build's name.
    assert_eq!(announce(time, 0, 1, &"b".repeat(MAX_BUILD_BYTES)), (None, 1));
    assert_eq!(announce(time, 1, 1, &"b".repeat(MAX_BUILD_BYTES + 1)), (Some(Limit), 1));
    // As many replicas as the limit says, and not one more; those that are there go on.
    for number in 1..MAX_REPLICAS as u64 {
        assert_eq!(announce(time, number, 1, "b"), (None, number as usize + 1));
    }
    assert_eq!(announce(time, MAX_REPLICAS as u64, 1, "b"), (Some(Limit), MAX_REPLICAS));
    let month = 30 * 24 * 3600 * 1000;
    time += month;
    assert_eq!(announce(time, 7, 2, "b"), (None, MAX_REPLICAS));
    // A month and a bit after the others' last word there is room again.
    assert_eq!(announce(time + 1, MAX_REPLICAS as u64, 1, "b"), (None, 2));
}

#[test]
fn of_two_neighbouring_faults_of_a_genesis_the_first_is_the_code() {
    let bad_limits = Limits { depth: 9, ..limits() };
    let cases: Vec<(&str, Genesis, [u8; 16], Code)> = vec![
        (
            "incarnation, then level",
            Genesis {
                level: 2,
                ..genesis(WINDOW, limits())
            },
            [8; 16],
            Foreign,
        ),
        (
            "level, then limits",
            Genesis {
                level: 2,
                ..genesis(WINDOW, bad_limits)
            },
            [0x10; 16],
            Unsupported,
        ),
        (
            "limits of depth, then window",
            genesis(0, bad_limits),
            [0x10; 16],
            Limit,
        ),
        ("window", genesis(0, limits()), [0x10; 16], Limit),
        (
            "keys longer than any",
            genesis(
                WINDOW,
                Limits {
                    key_bytes: 257,
                    ..limits()
                },
            ),
            [0x10; 16],
            Limit,
        ),
        (
            "paths longer than any",
            genesis(
                WINDOW,
                Limits {
                    path_bytes: 4_097,
                    ..limits()
                },
            ),
            [0x10; 16],
            Limit,
        ),
        (
            "no events",
            genesis(
                WINDOW,
                Limits {
                    max_event_bytes: 0,
                    ..limits()
                },
            ),
            [0x10; 16],
            Limit,
        ),
    ];
    for (name, genesis, incarnation, code) in cases {
        let envelope = Envelope {
            incarnation,
            ..Envelope::without_id()
        };
        match append(&mut State::new(), &envelope.record(Body::Genesis(genesis))) {
            Outcome::Rejected(rejection) => assert_eq!(rejection.code, code, "{name}: {}", rejection.detail),
            other => panic!("{name}: {other:?}"),
        }
    }
    // Another body at position 0 is no beginning, whatever else is wrong with it.
    let stray = Envelope {
        incarnation: [8; 16],
        ..Envelope::without_id()
    }
    .record(Body::Fence);
    assert!(matches!(append(&mut State::new(), &stray), Outcome::Rejected(rejection) if rejection.code == Malformed));
}

/// K4: what is stored can be addressed, also where a store's limits are narrower than the widest.
#[test]
fn nothing_is_stored_that_a_stores_own_limits_forbid_to_name() {
    let kinds: [(&str, &dyn Fn(Vec<u8>) -> Operation<'static>); 3] = [
        ("put of the root", &|devices| put("/", devices)),
        ("replace of a container", &|devices| replace("/devices", devices)),
        ("replace of the root", &|devices| {
            operation("/", OperationKind::Replace { value: devices.into() })
        }),
    ];
    for (name, make) in kinds {
        for (key, accepted) in [
            ("k".repeat(100), true),
            ("k".repeat(101), false),
            ("/".repeat(37), true),
            ("/".repeat(38), false),
        ] {
            let mut state = state_at(10);
            let outcome = append(
                &mut state,
                &fresh().record(commit(vec![make(item(2, &device(&key, "", "", &[])))])),
            );
            let told = match &outcome {
                Outcome::Accepted => true,
                Outcome::Rejected(rejection) if rejection.code == Limit => false,
                other => panic!("{name}: {other:?}"),
            };
            assert_eq!(told, accepted, "{name}, a key of {} bytes", key.len());
            let element = Path {
                steps: vec![Step {
                    field: 2,
                    key: Some(key.as_bytes().into()),
                }],
            };
            let kind = OperationKind::Update {
                value: device(&key, "named", "", &[]).into(),
                mask: Vec::new(),
            };
            let update = Operation {
                path: element,
                strict: false,
                base: None,
                kind,
            };
            let reached = append(&mut state, &Envelope::new(9, 0x78).record(commit(vec![update])));
            assert_eq!(reached == Outcome::Accepted, accepted, "{name}: {reached:?}");
        }
    }
}
