//! The pure core: records, what the fold makes of them, values, objects, paths, schemas, policies.

use crate::support::*;
use bytes::Bytes;
use confold_model::canonicalise::ChildFields;
use confold_model::event::{Body, Checkpoint, Commit, Event, Limits, Operation, OperationKind, RetentionPolicy};
use confold_model::fold::{self, Outcome};
use confold_model::ids::{Hash, Time};
use confold_model::node::{self, Place};
use confold_model::objects::{self, MemoryObjects, NoObjects};
use confold_model::path::{Path, Step};
use confold_model::policy::{Policy, Right, Rulebook};
use confold_model::schema::Schema;
use confold_model::state::State;
use confold_model::tree::{self, Lookup, Tree};
use confold_model::walk::Walk;
use confold_test_fuzz::{Answer, Target};

/// Time and bytes of the records of the golden logs.
fn logs() -> Vec<Vec<(i64, Vec<u8>)>> {
    let file = golden("confold.json");
    let log = |name: &str| file[name]["positions"].as_array().unwrap().clone();
    let record = |row: serde_json::Value| {
        (
            row["time_ms"].as_i64().unwrap(),
            hex::decode(row["record"].as_str().unwrap()).unwrap(),
        )
    };
    ["log", "policy_log"]
        .map(|name| log(name).into_iter().map(record).collect())
        .to_vec()
}

fn records() -> Vec<Vec<u8>> {
    let single = golden("confold.json")["records"].as_array().unwrap().clone();
    let single = single
        .iter()
        .map(|row| hex::decode(row["record"].as_str().unwrap()).unwrap());
    logs()
        .into_iter()
        .flatten()
        .map(|(_, record)| record)
        .chain(single)
        .filter(|record| record.len() < 3000)
        .collect()
}

#[test]
fn a_record_has_one_form_or_is_refused() {
    let check = |record: &[u8]| {
        Answer::of(Event::decode(record), |event| {
            // Of a body of a later level nothing is kept but that it is one: the fold refuses it whatever it holds.
            if !matches!(event.body, Body::Later { .. }) {
                assert_eq!(event.encode(), record);
            }
            format!("{} {}", event.body.name(), event.intention.is_some())
        })
    };
    let target = Target {
        seeds: records(),
        proto: true,
        short: 50_000,
        ..Target::new("record", &check)
    };
    fuzz(&target, 60);
}

// A refusal changes nothing but what every record changes, and two replicas decide alike.
#[test]
fn the_fold_decides_every_record_and_decides_it_again_alike() {
    let mut states = Vec::new();
    for log in logs() {
        let mut state = State::new();
        for (index, (time, record)) in log.iter().enumerate() {
            fold::apply(&mut state, Time(*time), record, &NoObjects).unwrap();
            if index == log.len() / 2 || index == log.len() - 3 {
                states.push(state.clone());
            }
        }
    }
    states.push(State::new());
    let check = |record: &[u8]| {
        let mut words = Vec::new();
        let mut all_refused = true;
        for before in &states {
            let (mut one, mut other) = (before.clone(), before.clone());
            let time = Time(before.time().0 + 1);
            let applied = fold::apply(&mut one, time, record, &NoObjects).unwrap();
            assert_eq!(
                fold::apply(&mut other, time, record, &NoObjects).unwrap().chain,
                applied.chain
            );
            assert_eq!((one.root(), one.tree().root()), (applied.root, applied.root));
            match &applied.outcome {
                Outcome::Rejected(rejection) => {
                    assert_eq!(
                        (one.root(), one.revision(), applied.made_revision),
                        (before.root(), before.revision(), false)
                    );
                    words.push(rejection.code.name().to_owned());
                }
                outcome => {
                    all_refused = false;
                    words.push(format!("{} {}", outcome.number().min(2), applied.body));
                }
            }
        }
        let words = words.join(" ");
        if all_refused {
            Answer::Refused(words)
        } else {
            Answer::Taken(words)
        }
    };
    let target = Target {
        seeds: records(),
        proto: true,
        memory: (8 << 20, 256),
        short: 5_000,
        ..Target::new("fold", &check)
    };
    fuzz(&target, 60);
}

// What is canonicalised stays as it is, and nothing but canonical bytes passes the check of the fold.
#[test]
fn a_value_becomes_canonical_or_is_refused() {
    let schema = schema();
    let root = schema.root();
    let canonical = |bytes: &[u8]| schema.canonicalise(root, bytes, 1, ChildFields::Allowed);
    let check = |bytes: &[u8]| {
        if let Ok(subtree) = schema.split(root, bytes, 1) {
            let same = canonical(bytes).expect("what the fold takes can be proposed");
            assert_eq!(same.bytes, bytes, "the fold takes what is not canonical");
            assert_eq!(schema.check_config(root, &subtree.config, 1), Ok(()));
        }
        Answer::of(canonical(bytes), |value| {
            let subtree = schema
                .split(root, &value.bytes, 1)
                .expect("what was made canonical is taken");
            assert_eq!(canonical(&value.bytes).unwrap().bytes, value.bytes);
            let tree = Tree::of(&subtree);
            assert!(matches!(tree.node(&Path::root(), &NoObjects), Ok(Lookup::Found(_))));
            let [children, children_set] = [subtree.children.len(), subtree.config.len()].map(|n| n.min(3).to_string());
            format!("{} {}", "c".repeat(children.len()), "s".repeat(children_set.len()))
        })
    };
    let values = golden("confold.json")["values"].as_array().unwrap().clone();
    let values = values
        .iter()
        .map(|row| hex::decode(row["value"].as_str().unwrap()).unwrap())
        .filter(|value| value.len() < 2000);
    let target = Target {
        seeds: values.chain(messages()).collect(),
        proto: true,
        words: words(&[
            b"\xf8\xff\xff\xff\x0f",
            b"\x0b",
            b"\x0c",
            b"\xed\xa0\x80",
            b"\0\0\0\0\0\0\xf8\x7f",
        ]),
        ..Target::new("value", &check)
    };
    fuzz(&target, 40);
}

#[test]
fn an_object_is_told_from_anything_else() {
    let check = |bytes: &[u8]| {
        let hash = Hash::of(bytes);
        let stored = MemoryObjects([(hash, Bytes::copy_from_slice(bytes))].into());
        // Whoever follows it by its hash finds what is wrong with it, or what is missing below.
        let mut walk = Walk::new();
        walk.add_root(hash);
        let mut steps = 0;
        while let Some(step) = walk.next(&stored) {
            steps += 1;
            if step.is_err() || steps > 100 {
                break;
            }
        }
        let deep = Path {
            steps: vec![Step::keyed(100, *b"a"), Step::single(105)],
        };
        for path in [Path::root(), deep] {
            let proof = [Bytes::copy_from_slice(bytes)];
            let _ = tree::verify(hash, &path, &proof);
            if let Ok(Lookup::Found(node)) = Tree::at(hash).node(&path, &stored) {
                let _ = node.config(&stored);
                for field in node.fields() {
                    let _ = (
                        node.child(field, &stored).map(drop),
                        node.container(field, &stored).map(drop),
                    );
                }
            }
        }
        Answer::of(node::decode(bytes), |object| {
            assert_eq!(objects::references(bytes).unwrap(), object.references());
            let base = [0x61; 8];
            for place in [
                Place::Top,
                Place::Below {
                    base: &base,
                    len: 3,
                    nibble: 1,
                    count: 2,
                },
            ] {
                let _ = node::check_place(&object, place);
            }
            object.kind_name().to_owned()
        })
    };
    let schema = schema();
    let mut seeds = Vec::new();
    for message in messages() {
        let value = schema
            .canonicalise(schema.root(), &message, 1, ChildFields::Allowed)
            .unwrap();
        Tree::of(&schema.split(schema.root(), &value.bytes, 1).unwrap())
            .unpersisted(&mut |_, bytes| seeds.push(bytes.to_vec()));
    }
    let golden = golden("confold.json")["objects"].as_array().unwrap().clone();
    seeds.extend(
        golden
            .iter()
            .map(|row| hex::decode(row["object"].as_str().unwrap()).unwrap()),
    );
    seeds.retain(|seed| seed.len() < 2000);
    fuzz(
        &Target {
            seeds,
            memory: (1 << 20, 256),
            short: 50_000,
            ..Target::new("object", &check)
        },
        25,
    );
}

// Q18: every path has one text, and reading it gives the path back.
#[test]
fn a_path_has_one_text_or_is_refused() {
    let schema = schema();
    let check = |bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Answer::Refused("not UTF-8".to_owned());
        };
        if let Ok(field_ref) = schema.parse_field_ref(text) {
            let printed = schema.print_field_ref(&field_ref);
            assert_eq!(schema.parse_field_ref(&printed), Ok(field_ref), "{printed}");
        }
        Answer::of(schema.parse_path(text).map_err(|rejection| rejection.detail), |path| {
            let printed = schema.print_path(&path);
            assert_eq!(
                schema.parse_path(&printed).as_ref(),
                Ok(&path),
                "{text:?} is printed as {printed:?}"
            );
            // Nothing in it could leave a folder, end a line or be mistaken for something else.
            assert!(
                printed.starts_with('/') && !printed.bytes().any(|byte| byte.is_ascii_control()),
                "{printed:?}"
            );
            assert!(
                !printed[1..].split('/').any(|part| matches!(part, "." | "..")),
                "{printed:?}"
            );
            assert!(
                printed == "/" || !printed[1..].split('/').any(str::is_empty),
                "{printed:?}"
            );
            assert!(schema.resolve(&path).is_ok(), "{printed:?}");
            path.steps
                .iter()
                .map(|step| if step.key.is_some() { 'k' } else { 's' })
                .collect()
        })
    };
    let texts: [&str; 12] = [
        "/",
        "/items/a",
        "/single",
        "/single/ports/1",
        "/numbered/7",
        "/signed/-1",
        "/items/a%2Fb/ports/4294967295",
        "/longs/18446744073709551615",
        "/zigzags/-9223372036854775808",
        "/items/%C3%BC",
        "/fixeds/0",
        "/list",
    ];
    let target = Target {
        seeds: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
        words: words(&[
            b"%2F",
            b"%2f",
            b"%00",
            b"%2E",
            b"..",
            b"/../",
            b"//",
            b"%",
            b"%25",
            b"%C3",
            "ü".as_bytes(),
            b"\0",
            b"\n",
            b"/items/",
            b"/twins/",
            b"/single",
            b"/other_single",
            b"/ports/",
            b"#17",
            b"%EF%BB%BF",
            b"-0",
            b"+1",
            b"00",
            b"..",
            b":",
            b"@",
        ]),
        short: 1_000_000,
        ..Target::new("path", &check)
    };
    fuzz(&target, 20);
}

// A schema is compatible with itself, and what the model compiles can be used for JSON and text as well.
#[test]
fn a_descriptor_set_becomes_a_schema_or_is_refused() {
    let names = ["vectors.Root", "example.Network", "t.Root"];
    let check = |bytes: &[u8]| {
        let types = confold_wire::dynamic::Types::new(bytes);
        let _ = confold_wire::schema_source::compiled(bytes);
        let mut refused = String::new();
        for name in names {
            match Schema::compile(bytes, name) {
                Ok(schema) => {
                    assert_eq!(schema.compatible(&schema), Ok(()));
                    let usable = types.as_ref().is_ok_and(|types| types.message(name).is_ok());
                    return Answer::Taken(format!("{name} {usable}"));
                }
                Err(problems) => refused.extend(problems.iter().take(3).map(ToString::to_string)),
            }
        }
        Answer::Refused(format!("{} {refused}", types.is_ok()))
    };
    let seeds = vec![
        small_schema(),
        compiled_text("message Root { string a = 1; repeated Root b = 2; map<string, int32> c = 3; }"),
        compiled_text(
            "message Root { oneof o { int32 a = 1; Kind b = 2; } enum Kind { ZERO = 0; ONE = 1; } optional bytes d = 4; }",
        ),
        network().to_vec(),
        vectors().to_vec(),
    ];
    let target = Target {
        seeds,
        proto: true,
        memory: (16 << 20, 512),
        short: 2_000,
        ..Target::new("schema", &check)
    };
    fuzz(&target, 40);
}

/// Elements with an id and a text, below a root with a name.
pub fn small_schema() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.proto");
    let text = r#"syntax = "proto3"; package t; import "confold/options.proto";
        message Root { string name = 1; repeated Item items = 2 [(confold.v1.child_node) = {key: "id"}]; }
        message Item { string id = 1; string text = 2; }"#;
    std::fs::write(&file, text).unwrap();
    confold_wire::schema_source::descriptor_set_of(&file, &[])
        .unwrap()
        .descriptor_set
}

/// A commit that puts the whole tree.
pub fn put(value: &'static [u8]) -> Body<'static> {
    let kind = OperationKind::Put { value: value.into() };
    let operation = Operation {
        path: Path::root(),
        strict: false,
        base: None,
        kind,
    };
    Body::Commit(Commit {
        guards: Vec::new(),
        operations: vec![operation],
    })
}

/// Of one file, without the files that every schema brings along.
fn compiled_text(messages: &str) -> Vec<u8> {
    use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
    struct One(String);
    impl FileResolver for One {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            match name {
                "main.proto" => File::from_source(name, &self.0),
                _ => Err(protox::Error::file_not_found(name)),
            }
        }
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(One(format!("syntax = \"proto3\"; package t; {messages}")));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("main.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

// What stands in records and rows of its own: policies, limits, retention, checkpoints.
#[test]
fn a_policy_is_read_as_it_is_written() {
    let check = |bytes: &[u8]| {
        if let Ok(limits) = Limits::read(bytes) {
            let mut written = Vec::new();
            limits.write(&mut written);
            assert_eq!(Limits::read(&written), Ok(limits));
        }
        if let Ok(retention) = RetentionPolicy::read(bytes) {
            let mut written = Vec::new();
            retention.write(&mut written);
            assert_eq!(RetentionPolicy::read(&written), Ok(retention));
        }
        if let Ok(checkpoint) = Checkpoint::read(bytes) {
            let mut written = Vec::new();
            checkpoint.write(&mut written);
            assert_eq!(Checkpoint::read(&written), Ok(checkpoint));
        }
        Answer::of(Policy::read(bytes), |(policy, replaces)| {
            let written = policy.canonical(replaces);
            let (again, same) = Policy::read(&written).expect("what was written is read");
            assert_eq!((again.canonical(same), same), (written, replaces));
            let checked = policy.check();
            // Plain and compiled decide alike, also where the policy could not come into force.
            let book = Rulebook::new(&policy);
            let path = Path {
                steps: vec![Step::keyed(100, *b"a"), Step::single(105)],
            };
            for who in ["", "ada", "root"] {
                for right in [Right::Read, Right::Write, Right::Admin] {
                    if checked.is_ok() {
                        assert_eq!(
                            book.of(who).allows(right, &path),
                            policy.allows(who, right, &path),
                            "{who} {right:?}"
                        );
                    }
                }
            }
            checked.map_or_else(|rejection| rejection.detail, |()| "in force".to_owned())
        })
    };
    let mut seeds = Vec::new();
    for record in records() {
        if let Ok(Event {
            body: Body::Policy { policy, replaces },
            ..
        }) = Event::decode(&record)
        {
            seeds.push(policy.canonical(replaces));
        }
    }
    assert!(!seeds.is_empty());
    let target = Target {
        seeds,
        proto: true,
        words: words(&[b"ada", b"root", b"*"]),
        short: 50_000,
        ..Target::new("policy", &check)
    };
    fuzz(&target, 15);
}
