//! Golden vectors of what `vectors.json` does not cover: `tests/golden/vectors/confold.json`.
//!
//! - `log`: a log of a small store; per position its record and everything that follows from it, the state hash with each
//!   member's included; at the end the bytes behind the members.
//! - `policy_log`: the same for a log with policies, principals, a seal and an open.
//! - `order`: a setting and records with two faults each; the code is the first fault's.
//! - `intent_marks`, `values` (NaN bits, -0.0 and refusals), `objects` and `records` (refusals).
//!
//! `UPDATE_VECTORS=1` writes the file. What it writes is worked out by the naive model and by hand, never by the crate;
//! the crate is then held against the file. The same test runs in debug and release builds.

use crate::naive::{self, Naive};
use crate::order;
use crate::support::{
    Envelope, add, commit, device, genesis, masked, path, port, put, remove, replace, schema_body, small_limits,
    update, with_port,
};
use crate::tables;
use confold_model::canon::ValueError;
use confold_model::digest;
use confold_model::event::{Base, Body, Checkpoint, Commit, Event, Expect, Guard, Operation, RetentionPolicy};
use confold_model::fold;
use confold_model::ids::{EventId, Hash, Incarnation, Position, Revision, Time};
use confold_model::node;
use confold_model::objects::{NoObjects, references};
use confold_model::policy::{Policy, Right, Rule, TokenRow};
use confold_model::schema::Schema;
use confold_model::state::State;
use confold_model::tree::Tree;
use serde_json::{Value, json};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/vectors/confold.json");

#[test]
fn the_golden_file_is_what_the_naive_model_and_the_tables_say() {
    let said = json!({
        "log": golden_log(log()),
        "policy_log": golden_log(policy_log()),
        "order": golden_order(),
        "intent_marks": golden_intent_marks(),
        "values": tables::values(),
        "objects": tables::objects(),
        "records": tables::records(),
    });
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(FILE, serde_json::to_string_pretty(&said).unwrap() + "\n").unwrap();
    }
    let file = golden();
    for (name, section) in said.as_object().unwrap() {
        assert!(*section == file[name], "{name} differs; UPDATE_VECTORS=1 shows in what");
    }
}

// H1, H2, I7
#[test]
fn the_golden_logs_have_their_outcomes_digests_and_state_hashes() {
    let file = golden();
    for (log, length) in [("log", 32), ("policy_log", 23)] {
        let positions = file[log]["positions"].as_array().unwrap();
        assert_eq!(positions.len(), length);
        check_log(positions);
    }
}

fn check_log(positions: &[Value]) {
    let mut state = State::new();
    for row in positions {
        let position = row["position"].as_u64().unwrap();
        let time = Time(row["time_ms"].as_i64().unwrap());
        let applied = fold::apply(&mut state, time, &hex_of(&row["record"]), &NoObjects).unwrap();
        let members: serde_json::Map<String, Value> = state
            .members()
            .iter()
            .map(|(number, hash)| (number.to_string(), json!(hash.to_string())))
            .collect();
        let found = json!({
            "name": row["name"],
            "position": applied.position.0,
            "time_ms": time.0,
            "record": row["record"],
            "outcome": applied.outcome.number(),
            "code": applied.outcome.code(),
            "t": applied.time.0,
            "revision": applied.revision.0,
            "root": applied.root.to_string(),
            "digest": applied.digest.to_string(),
            "chain": applied.chain.to_string(),
            "mark": applied.mark.is_some(),
            "members": members,
            "state": state.hash().to_string(),
        });
        for (key, value) in row.as_object().unwrap() {
            assert_eq!(&found[key], value, "{key} at {position}");
        }
        assert!(applied.mark.is_none_or(|mark| mark == state.hash()));
    }
}

#[test]
fn the_golden_order_of_checks_is_the_folds() {
    let file = golden();
    let apply = |state: &mut State, record: &[u8]| fold::apply(state, Time(1_000), record, &NoObjects).unwrap().outcome;
    for case in file["order"]["cases"].as_array().unwrap() {
        let mut state = State::new();
        for record in file["order"]["setting"].as_array().unwrap() {
            assert_eq!(apply(&mut state, &hex_of(record)).number(), 0);
        }
        let before = case["before"].as_array().map_or(0, Vec::len) as u64;
        while state.next_position().0 < case["position"].as_u64().unwrap() - before {
            apply(&mut state, &hex_of(&file["order"]["fence"]));
        }
        for record in case["before"].as_array().into_iter().flatten() {
            assert_eq!(apply(&mut state, &hex_of(record)).number(), 0);
        }
        let outcome = apply(&mut state, &hex_of(&case["record"]));
        assert_eq!(
            (outcome.number(), json!(outcome.code())),
            (2, case["code"].clone()),
            "{}",
            case["name"]
        );
    }
}

#[test]
fn the_golden_intent_marks_are_the_crates() {
    for row in golden()["intent_marks"].as_array().unwrap() {
        let intent = Hash::from_slice(&hex_of(&row["intent"])).unwrap();
        let mark = digest::intent_mark(&intent, row["principal"].as_str().unwrap());
        assert_eq!(hex::encode(mark), row["mark"].as_str().unwrap());
    }
}

// H6: NaN bits, -0.0, and what one value cannot look like.
#[test]
fn the_golden_values_have_their_hashes_or_are_refused_as_said() {
    let mut compiler = protox::Compiler::new([std::path::Path::new(FILE).parent().unwrap()]).unwrap();
    compiler
        .include_source_info(false)
        .include_imports(true)
        .open_file("vectors.proto")
        .unwrap();
    let schema = Schema::compile(&compiler.encode_file_descriptor_set(), "vectors.Root").unwrap();
    for row in golden()["values"].as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let value = hex_of(&row["value"]);
        match schema.split(schema.root(), &value, 1) {
            Ok(subtree) => {
                assert_eq!(row["code"], Value::Null, "{name}");
                assert_eq!(
                    row["data_hash"],
                    json!(node::data_hash(&subtree.config).to_string()),
                    "{name}"
                );
                if subtree.children.is_empty() {
                    assert_eq!(row["root"], json!(Tree::of(&subtree).root().to_string()), "{name}");
                }
            }
            Err(ValueError { code, text, .. }) => assert_eq!(row["code"], json!(code.name()), "{name}: {text}"),
        }
    }
}

#[test]
fn the_golden_objects_are_taken_or_refused_as_said() {
    for row in golden()["objects"].as_array().unwrap() {
        let read = references(&hex_of(&row["object"]));
        let reason = read.as_ref().err().map(|refused| format!("{refused:?}"));
        let class = reason.as_deref().and_then(|reason| reason.split([' ', '(']).next());
        assert_eq!(json!(class), row["refused"], "{}: {reason:?}", row["name"]);
    }
}

#[test]
fn the_golden_records_are_events_or_malformed_as_said() {
    for row in golden()["records"].as_array().unwrap() {
        let record = hex_of(&row["record"]);
        let read = Event::decode(&record);
        assert_eq!(json!(read.is_err()), row["malformed"], "{}: {read:?}", row["name"]);
        if let Ok(event) = read {
            assert_eq!(event.encode(), record, "{}", row["name"]);
        }
    }
}

fn golden() -> Value {
    serde_json::from_str(&std::fs::read_to_string(FILE).expect("UPDATE_VECTORS=1 makes it")).unwrap()
}

fn hex_of(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn golden_order() -> Value {
    let cases: Vec<Value> = order::cases()
        .iter()
        .map(|case| {
            let mut row = json!({
                "name": case.name,
                "position": case.position,
                "record": hex::encode(&case.record),
                "code": case.code.number(),
                "code_name": case.code.name(),
            });
            if !case.before.is_empty() {
                row["before"] = case.before.iter().map(hex::encode).collect();
            }
            row
        })
        .collect();
    json!({
        "note": "apply the setting at time 1000 from position 0 on, then the fence up to the case's position less what is `before`, then that, then the record",
        "setting": order::setting().iter().map(hex::encode).collect::<Vec<_>>(),
        "fence": hex::encode(Envelope::without_id().record(Body::Fence)),
        "cases": cases,
    })
}

fn golden_intent_marks() -> Value {
    let intent: Vec<u8> = (0..32).collect();
    let rows = ["", "ada", "CN=ada,O=\u{e9}", "x"].map(|principal| {
        let mark = naive::intent_mark(&intent, principal.as_bytes());
        json!({ "intent": hex::encode(&intent), "principal": principal, "mark": hex::encode(mark) })
    });
    json!(rows)
}

/// Each position of the log as the naive model tells it.
fn golden_log(log: Vec<(&'static str, i64, Vec<u8>)>) -> Value {
    let mut naive = Naive::default();
    let mut rows = Vec::new();
    for (position, (name, time, record)) in log.into_iter().enumerate() {
        let verdict = naive.apply(time, &record);
        let members: serde_json::Map<String, Value> = naive
            .members()
            .iter()
            .map(|(number, hash)| (number.to_string(), json!(hex::encode(hash))))
            .collect();
        rows.push(json!({
            "name": name,
            "position": position,
            "time_ms": time,
            "record": hex::encode(&record),
            "outcome": verdict.outcome,
            "code": verdict.code,
            "t": naive.time,
            "revision": naive.revision,
            "root": hex::encode(naive.root()),
            "digest": hex::encode(naive.digest),
            "chain": hex::encode(naive.chain),
            "mark": verdict.mark,
            "members": members,
            "state": hex::encode(naive.state_hash()),
        }));
    }
    let scalars: serde_json::Map<String, Value> = (1..)
        .zip(naive.scalars())
        .map(|(number, bytes): (u16, _)| (number.to_string(), json!(hex::encode(bytes))))
        .collect();
    let tables: serde_json::Map<String, Value> = (32u16..)
        .zip(naive.tables())
        .map(|(number, rows)| {
            let rows: Vec<[String; 2]> = rows
                .iter()
                .map(|(key, row)| [hex::encode(key), hex::encode(row)])
                .collect();
            (number.to_string(), json!(rows))
        })
        .collect();
    json!({ "positions": rows, "last_scalars": scalars, "last_tables": tables })
}

/// Name, record time, record.
fn log() -> Vec<(&'static str, i64, Vec<u8>)> {
    let (item, num, text) = (naive::item, naive::num, naive::text);
    let content: Vec<u8> = [
        text(1, b"v1"),
        item(
            2,
            &device(
                "a",
                "label",
                "s",
                &[
                    with_port(port(0, "", "")),
                    with_port(port(7, "seven", "")),
                    item(9, &text(1, b"ok")),
                ],
            ),
        ),
        (0..20)
            .flat_map(|n| item(2, &device(&format!("k{n:02}"), "", "", &[])))
            .collect(),
        item(3, &[num(1, -5i64 as u64), item(3, &num(1, 3))].concat()),
        item(3, &num(1, 4)),
        item(4, &[text(1, b"ok"), item(2, &num(1, 1))].concat()),
        item(5, &text(1, b"one")),
        item(5, &text(1, b"two")),
    ]
    .concat();
    let principal = |envelope: Envelope| Envelope {
        principal: "ada".into(),
        ..envelope
    };
    let at = |seen, nonce| Envelope::new(seen, nonce);
    let checkpoint = Checkpoint {
        replica: [0xaa; 16],
        build: "0.1.0".into(),
        level: 1,
        position: Position(8),
        chain: Hash([0xcc; 32]),
        state: Hash([0xdd; 32]),
        durable: Position(7),
    };
    let guarded = Body::Commit(Commit {
        guards: vec![
            Guard {
                path: path("/devices/z"),
                expect: Expect::Absent,
            },
            Guard {
                path: path("/spares"),
                expect: Expect::Container(Hash::ZERO),
            },
        ],
        operations: vec![
            masked("/devices/a", &[&[2], &[3]], num(3, 9)),
            remove("/devices/a/ports/7"),
            replace("/servers", item(5, &text(1, b"two"))),
            add("/spares/a", device("a", "", "", &[])),
        ],
    });
    let mut conflict = update("/devices/a", device("a", "mine", "", &[]));
    conflict.base = Some(Base::Hash(Hash([0; 32])));
    let mut merge = update("/devices/a", device("a", "merged", "s", &[]));
    merge.base = Some(Base::Hash(Hash(naive::data_hash(
        &[text(1, b"a"), num(3, 9), text(4, b"s")].concat(),
    ))));
    let mut strict = update("/devices/a", device("a", "", "other", &[]));
    strict.strict = true;
    let first = principal(at(1, 2)).record(commit(vec![put("/", content)]));
    let lost = EventId {
        seen: Position(13),
        nonce: [0x55; 16],
    };
    let long = text(1, "long ".repeat(300).as_bytes());
    let no_operations: Vec<Operation<'static>> = Vec::new();
    vec![
        (
            "genesis",
            1_700_000_000_000,
            Envelope::without_id().record(Body::Genesis(genesis(16, small_limits()))),
        ),
        ("schema", 1_700_000_000_010, at(0, 1).record(schema_body())),
        ("commit by a principal: revision 1", 1_700_000_000_020, first.clone()),
        (
            "commit with guards, a mask, a remove and a list: revision 2",
            1_700_000_000_030,
            at(2, 3).record(guarded),
        ),
        ("the first commit again: duplicate", 1_700_000_000_030, first.clone()),
        (
            "its id without the principal: ID_REUSED",
            1_700_000_000_040,
            at(1, 2).record(commit(no_operations.clone())),
        ),
        (
            "empty commit: unchanged",
            1_700_000_000_050,
            at(5, 4).record(commit(no_operations)),
        ),
        (
            "tag",
            1_700_000_000_060,
            at(6, 5).record(Body::Tag {
                name: "good".into(),
                revision: Revision(1),
            }),
        ),
        ("no event: MALFORMED", 1_700_000_000_070, vec![0xff, 0xff]),
        (
            "mark",
            1_700_000_000_080,
            Envelope::without_id().record(Body::Mark { last_mark: Position(0) }),
        ),
        (
            "mark that came too late: unchanged",
            1_700_000_000_090,
            Envelope::without_id().record(Body::Mark { last_mark: Position(0) }),
        ),
        (
            "checkpoint",
            1_700_000_000_100,
            Envelope::without_id().record(Body::Checkpoint(checkpoint.clone())),
        ),
        (
            "merge on its base: revision 3",
            1_700_000_000_110,
            at(11, 6).record(commit(vec![merge])),
        ),
        ("conflict", 1_700_000_000_120, at(12, 7).record(commit(vec![conflict]))),
        (
            "strict: READ_ONLY_FIELD",
            1_700_000_000_130,
            at(13, 8).record(commit(vec![strict])),
        ),
        (
            "withdraw of an id that was not met",
            1_700_000_000_140,
            at(14, 9).record(Body::Withdraw { id: lost }),
        ),
        (
            "the withdrawn id: WITHDRAWN",
            1_700_000_000_150,
            Envelope {
                id: Some(lost),
                ..at(0, 0x55)
            }
            .record(commit(vec![])),
        ),
        (
            "config of more than 1,024 bytes: revision 4",
            1_700_000_000_160,
            at(16, 10).record(commit(vec![update("/health", long)])),
        ),
        ("the first commit, too late: EXPIRED", 1_700_000_000_170, first),
        (
            "retention",
            1_700_000_000_180,
            at(18, 11).record(Body::Retention(RetentionPolicy {
                keep_revisions: 1,
                keep_age_ms: 5,
                keep_all: false,
            })),
        ),
        (
            "prune by policy, to the mark's revision",
            1_700_000_000_190,
            at(19, 12).record(Body::Prune { floor: None }),
        ),
        (
            "tag of a pruned revision: PRUNED",
            1_700_000_000_200,
            at(20, 13).record(Body::Tag {
                name: "x".into(),
                revision: Revision(2),
            }),
        ),
        (
            "prune by an operator",
            1_700_000_000_210,
            at(21, 14).record(Body::Prune {
                floor: Some(Revision(3)),
            }),
        ),
        (
            "untag",
            1_700_000_000_220,
            at(22, 15).record(Body::Untag {
                names: vec!["good".into()],
            }),
        ),
        ("clock, an hour back", 1_699_996_400_000, at(23, 16).record(Body::Clock)),
        (
            "a record stamped earlier still: revision 5",
            1_699_996_300_000,
            at(24, 17).record(commit(vec![remove("/devices/k07")])),
        ),
        (
            "checkpoint that is not newer: unchanged",
            1_699_996_400_010,
            Envelope::without_id().record(Body::Checkpoint(checkpoint)),
        ),
        (
            "activation that nobody knows: UNSUPPORTED",
            1_699_996_400_020,
            at(26, 18).record(Body::Activation { level: 2 }),
        ),
        (
            "another incarnation: FOREIGN",
            1_699_996_400_030,
            Envelope {
                incarnation: [9; 16],
                ..at(27, 19)
            }
            .record(commit(vec![])),
        ),
        (
            "a whole device, by put: revision 6",
            1_699_996_400_040,
            at(28, 20).record(commit(vec![put(
                "/devices/a",
                device("a", "", "", &[with_port(port(9, "", ""))]),
            )])),
        ),
        ("fence", 1_699_996_400_050, Envelope::without_id().record(Body::Fence)),
        (
            "mark",
            1_699_996_400_060,
            Envelope::without_id().record(Body::Mark { last_mark: Position(9) }),
        ),
    ]
}

/// As `log`: who may do what, and another life of the log.
fn policy_log() -> Vec<(&'static str, i64, Vec<u8>)> {
    const NEXT: [u8; 16] = [0x11; 16];
    let by = |principal: &str, seen: u64, nonce: u8| Envelope {
        principal: principal.into(),
        ..Envelope::new(seen, nonce)
    };
    let later = |envelope: Envelope| Envelope {
        incarnation: NEXT,
        ..envelope
    };
    let rule = |principal: &str, at: &str, rights: &[Right], strict| Rule {
        principal: principal.to_owned(),
        prefix: path(at),
        rights: rights.iter().copied().collect(),
        strict,
    };
    let first = Policy {
        rules: vec![
            rule("root", "/", &[Right::Tag, Right::Admin], false),
            rule("ada", "/devices", &[Right::Read, Right::Write], false),
            rule("bob", "/devices/a", &[Right::Write], true),
            rule("*", "/health", &[Right::Read], false),
        ],
        tokens: vec![TokenRow {
            id: [0xa0; 8],
            hash: [0xa1; 32],
            principal: "ada".to_owned(),
            expires_ms: 1_800_000_000_000,
        }],
    };
    let second = Policy {
        rules: vec![rule("root", "/", &Right::ALL, false)],
        tokens: Vec::new(),
    };
    let policy = |policy: &Policy, replaces| Body::Policy {
        policy: policy.clone(),
        replaces: Position(replaces),
    };
    let tag = || Body::Tag {
        name: "t".into(),
        revision: Revision(1),
    };
    let open = |incarnation, transport_id| Body::Open {
        incarnation: Incarnation(incarnation),
        transport_id,
    };
    let guarded = Body::Commit(Commit {
        guards: vec![Guard {
            path: path("/health"),
            expect: Expect::Absent,
        }],
        operations: Vec::new(),
    });
    let denied = by("eve", 4, 5).record(commit(vec![update("/devices/a", device("a", "x", "", &[]))]));
    let mut based = update("/devices/a", device("a", "based", "", &[]));
    based.base = Some(Base::Absent);
    let records = vec![
        (
            "genesis",
            Envelope::without_id().record(Body::Genesis(genesis(64, small_limits()))),
        ),
        ("schema", Envelope::new(0, 1).record(schema_body())),
        (
            "an element, by nobody: revision 1",
            Envelope::new(1, 2).record(commit(vec![add("/devices/a", device("a", "", "", &[]))])),
        ),
        ("policy", by("root", 2, 3).record(policy(&first, 0))),
        (
            "mark",
            Envelope::without_id().record(Body::Mark { last_mark: Position(0) }),
        ),
        ("no right to write: PERMISSION", denied.clone()),
        (
            "by nobody: PERMISSION",
            Envelope::new(5, 6).record(commit(vec![update("/devices/a", device("a", "x", "", &[]))])),
        ),
        (
            "a port below a path with the right: revision 2",
            by("ada", 6, 7).record(commit(vec![add("/devices/a/ports/1", port(1, "", ""))])),
        ),
        (
            "strict by policy: READ_ONLY_FIELD",
            by("bob", 7, 8).record(commit(vec![update("/devices/a", device("a", "", "s", &[]))])),
        ),
        (
            "a base without the right to read: PERMISSION",
            by("bob", 8, 9).record(commit(vec![based])),
        ),
        (
            "a guard with the right of everybody: GUARD_FAILED",
            by("eve", 9, 10).record(guarded),
        ),
        ("tag without the right: PERMISSION", by("ada", 10, 11).record(tag())),
        ("tag", by("root", 11, 12).record(tag())),
        (
            "policy in the place of none: CONFLICT",
            by("root", 12, 13).record(policy(&second, 0)),
        ),
        (
            "policy without an administrator: MALFORMED",
            by("root", 13, 14).record(policy(
                &Policy {
                    rules: first.rules[1..].to_vec(),
                    tokens: Vec::new(),
                },
                3,
            )),
        ),
        ("policy, the next", by("root", 14, 15).record(policy(&second, 3))),
        ("the denied event again: duplicate", denied),
        ("seal", by("root", 16, 16).record(Body::Seal)),
        (
            "an event on a sealed log: SEALED",
            by("root", 17, 17).record(commit(vec![remove("/devices/a")])),
        ),
        (
            "mark of a sealed log: unchanged",
            Envelope::without_id().record(Body::Mark { last_mark: Position(4) }),
        ),
        ("open", by("root", 19, 18).record(open(NEXT, [0x21; 16]))),
        (
            "an event of the life before: FOREIGN",
            by("root", 17, 17).record(commit(vec![remove("/devices/a")])),
        ),
        (
            "a mark of the present life",
            later(Envelope::without_id()).record(Body::Mark { last_mark: Position(4) }),
        ),
    ];
    (0..)
        .zip(records)
        .map(|(position, (name, record))| (name, 1_700_000_000_000 + 10 * position, record))
        .collect()
}

#[test]
fn the_golden_logs_meet_every_outcome_they_say_they_do() {
    let file = golden();
    let rows = ["log", "policy_log"].map(|log| file[log]["positions"].as_array().unwrap().clone());
    let names: Vec<String> = rows
        .iter()
        .flatten()
        .map(|row| {
            let code = confold_model::code::Code::from_number(row["code"].as_u64().unwrap() as u16);
            let name = row["name"].as_str().unwrap().to_owned();
            match (row["outcome"].as_u64().unwrap(), code) {
                (2, Some(code)) => assert!(name.to_uppercase().contains(code.name()), "{name} met {code}"),
                (0, _) => assert!(
                    !name.contains("unchanged") && !name.contains("duplicate"),
                    "{name} was accepted"
                ),
                (1, _) => assert!(name.contains("unchanged") || name == "fence", "{name} is unchanged"),
                _ => assert!(name.contains("duplicate"), "{name} is a duplicate"),
            }
            name
        })
        .collect();
    assert!(names.iter().any(|name| name.contains("revision 6")));
}
