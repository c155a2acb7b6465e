//! What crosses a process boundary: ids and tokens as text, values as JSON, YAML and text, requests, schemas as source.

use crate::support::*;
use confold_model::canonicalise::ChildFields;
use confold_model::ids::{EventId, Hash, Incarnation, Position};
use confold_test_fuzz::{Answer, Target};
use confold_wire::access_token::AccessToken;
use confold_wire::caller::BearerToken;
use confold_wire::convert::{Token, parse_event_id, parse_hash, parse_incarnation};
use confold_wire::dynamic::{DynamicError, Types};
use confold_wire::pb;
use confold_wire::{json, schema_source};

fn text(bytes: &[u8]) -> Result<&str, Answer> {
    std::str::from_utf8(bytes).map_err(|_| Answer::Refused("not UTF-8".to_owned()))
}

// One value, one text: tokens of a position, event ids, hashes, secrets, the header that shows one.
#[test]
fn a_token_has_one_text_or_is_refused() {
    let check = |bytes: &[u8]| {
        let text = match text(bytes) {
            Ok(text) => text,
            Err(answer) => return answer,
        };
        if let Some(token) = BearerToken::from_header(text) {
            assert!(text.ends_with(token.secret()) || text.ends_with(' '));
            assert!(!token.secret().contains(char::is_whitespace));
            return Answer::Taken("header".to_owned());
        }
        if let Some(token) = AccessToken::parse(text) {
            assert_eq!(token.reveal(), text);
            return Answer::Taken("access token".to_owned());
        }
        let printed = [
            text.parse::<Token>().map(|token| token.to_string()),
            parse_event_id(text).map(|id| id.to_string()),
            parse_hash(text).map(|hash| hash.to_string()),
            parse_incarnation(text).map(|incarnation| incarnation.to_string()),
        ];
        let mut refused = String::new();
        for (kind, printed) in ["t", "e", "h", "i"].into_iter().zip(printed) {
            match printed {
                // Hex digits may come in capitals; they are printed in small letters.
                Ok(printed) if printed == text.to_ascii_lowercase() => return Answer::Taken(kind.to_owned()),
                Ok(printed) => panic!("{text:?} is printed as {printed:?}"),
                Err(error) => refused.push_str(&error.problem),
            }
        }
        Answer::Refused(refused)
    };
    let seeds = vec![
        Token {
            incarnation: Incarnation([0xab; 16]),
            position: Position(4182),
        }
        .to_string(),
        Token {
            incarnation: Incarnation([0; 16]),
            position: Position(u64::MAX),
        }
        .to_string(),
        EventId {
            seen: Position(7),
            nonce: [0x0f; 16],
        }
        .to_string(),
        Hash([0xce; 32]).to_string(),
        Incarnation([0x12; 16]).to_string(),
        AccessToken::new([1; 8], [2; 32]).reveal(),
        format!("Bearer {}", AccessToken::new([1; 8], [2; 32]).reveal()),
    ];
    let target = Target {
        seeds: seeds.into_iter().map(String::into_bytes).collect(),
        words: words(&[
            b"cft_",
            b"@",
            b"-",
            b"Bearer ",
            b"bearer  ",
            b"00",
            "é".as_bytes(),
            b"+",
            b"18446744073709551616",
        ]),
        short: 100_000,
        ..Target::new("token", &check)
    };
    fuzz(&target, 8);
}

/// What holds for a text that was read: its bytes can be made canonical or are refused, and once canonical they are written in each form
/// and read back as the same.
fn written_and_read_back(types: &Types, bytes: &[u8]) -> String {
    let schema = schema();
    match schema.canonicalise(schema.root(), bytes, 1, ChildFields::Allowed) {
        Err(error) => format!("then {}", error.code.name()),
        Ok(value) => {
            let same = |form: &str, read: Result<Vec<u8>, DynamicError>| {
                let read = read.unwrap_or_else(|error| panic!("what was written as {form} is refused: {error}"));
                let again = schema
                    .canonicalise(schema.root(), &read, 1, ChildFields::Allowed)
                    .unwrap();
                assert_eq!(again.bytes, value.bytes, "{form}");
            };
            let json = types.to_json("vectors.Root", &value.bytes).unwrap().to_string();
            let yaml = types.to_yaml("vectors.Root", &value.bytes).unwrap();
            // Of the many NaN of the bytes, the JSON mapping knows one.
            if !json.contains("\"NaN\"") {
                same("JSON", types.from_json("vectors.Root", &json));
                same("YAML", types.from_yaml("vectors.Root", &yaml));
            }
            let text = types.to_text("vectors.Root", &value.bytes).unwrap();
            if !text.contains("nan") {
                same("text", types.from_text("vectors.Root", &text));
            }
            "c".repeat(value.bytes.len().min(3))
        }
    }
}

fn values(
    name: &'static str,
    seed: impl Fn(&Types, &[u8]) -> String,
    extra: &[&str],
    special: &[&[u8]],
    read: impl Fn(&Types, &str) -> Result<Vec<u8>, DynamicError>,
) {
    let types = Types::new(vectors()).unwrap();
    let check = |bytes: &[u8]| match text(bytes) {
        Ok(text) => Answer::of(read(&types, text), |bytes| written_and_read_back(&types, &bytes)),
        Err(answer) => answer,
    };
    let schema = schema();
    let canonical = |message: &Vec<u8>| {
        schema
            .canonicalise(schema.root(), message, 1, ChildFields::Allowed)
            .unwrap()
            .bytes
    };
    let mut seeds: Vec<Vec<u8>> = messages()
        .iter()
        .map(|message| seed(&types, &canonical(message)).into_bytes())
        .collect();
    seeds.extend(extra.iter().map(|text| text.as_bytes().to_vec()));
    seeds.retain(|seed| seed.len() < 2000);
    let fields: [&[u8]; 12] = [
        b"items",
        b"plain",
        b"by_number",
        b"labels",
        b"any",
        b"fl",
        b"db",
        b"raw",
        b"colour",
        b"maybe",
        b"word",
        b"shape",
    ];
    let words = words(special).into_iter().chain(words(&fields)).collect();
    let target = Target {
        seeds,
        words,
        memory: (4 << 20, 2048),
        ..Target::new(name, &check)
    };
    fuzz(&target, 30);
}

const NUMBERS: [&[u8]; 8] = [
    b"1e308",
    b"-0",
    b"1e-400",
    b"18446744073709551615",
    b"NaN",
    b"Infinity",
    b"0x7f",
    b"1.0",
];

#[test]
fn json_is_a_value_or_is_refused() {
    let special: [&[u8]; 10] = [
        b"{",
        b"[",
        b"\"",
        b"\\ud800",
        b"\\u0000",
        b"null",
        b"\"@type\":",
        b"true",
        b"AA==",
        b"\xef\xbb\xbf",
    ];
    values(
        "json",
        |types, bytes| types.to_json("vectors.Root", bytes).unwrap().to_string(),
        &[
            r#"{"any": {"@type": "type.googleapis.com/vectors.Plain", "s": "x"}}"#,
            r#"{"fl": "NaN", "db": "-Infinity", "byNumber": {"1": {}}}"#,
        ],
        &[&special[..], &NUMBERS[..]].concat(),
        |types, text| types.from_json("vectors.Root", text),
    );
}

#[test]
fn yaml_is_a_value_or_is_refused() {
    let special: [&[u8]; 16] = [
        b"&a ",
        b"*a",
        b"- ",
        b": ",
        b"? ",
        b"|\n",
        b">-\n",
        b"!!binary ",
        b"!t ",
        b"---\n",
        b"...\n",
        b"<<: ",
        b"%YAML 1.2\n",
        b"{",
        b"[",
        b"\n  ",
    ];
    values(
        "yaml",
        |types, bytes| types.to_yaml("vectors.Root", bytes).unwrap(),
        &[
            "name: &a x\nword: *a\n",
            "labels: {a: b, 1: c, true: d}\n",
            "names: &n [a, b]\nplains: [{s: x}, {counts: {a: 1}}]\n",
            "items:\n- id: a\n- {id: b}\n",
        ],
        &[&special[..], &NUMBERS[..]].concat(),
        |types, text| types.from_yaml("vectors.Root", text),
    );
}

#[test]
fn text_format_is_a_value_or_is_refused() {
    let special: [&[u8]; 14] = [
        b"{",
        b"<",
        b"[",
        b"}",
        b">",
        b"\"",
        b"'",
        b"# ",
        b"\\x",
        b"\\U0010ffff",
        b"[type.googleapis.com/vectors.Plain]",
        b"inf",
        b"-nan",
        b";",
    ];
    values(
        "textproto",
        |types, bytes| types.to_text("vectors.Root", bytes).unwrap(),
        &[
            "any { [type.googleapis.com/vectors.Plain] { s: 'x' } }",
            "fl: inf db: -nan names: ['a', \"b\"] plain < zs: 1 >",
        ],
        &[&special[..], &NUMBERS[..]].concat(),
        |types, text| types.from_text("vectors.Root", text),
    );
}

// The bodies of HTTP: what is read is written and read back.
#[test]
fn a_request_in_json_is_read_as_it_is_written() {
    let check = |bytes: &[u8]| match text(bytes) {
        Err(answer) => answer,
        Ok(text) => Answer::of(
            json::from_json::<pb::CommitRequest>("confold.v1.CommitRequest", text),
            |request| {
                let written = json::to_json("confold.v1.CommitRequest", &request).unwrap();
                let again: pb::CommitRequest = json::from_json_value("confold.v1.CommitRequest", &written).unwrap();
                // A value given as text that holds JSON is written as the value itself, so two steps lead to the form that stays.
                assert_eq!(json::to_json("confold.v1.CommitRequest", &again).unwrap(), written);
                format!(
                    "{} {}",
                    "o".repeat(request.operations.len().min(3)),
                    "g".repeat(request.guards.len().min(3))
                )
            },
        ),
    };
    // Short ones too: a change of them is a request more often.
    let seeds = [
        r#"{}"#,
        r#"{"store": "net"}"#,
        r#"{"author": "ada", "reason": ""}"#,
        r#"{"guards": [], "operations": []}"#,
        r#"{"store": "net", "operations": [{"path": "/devices/a", "put": {"json": {"id": "a"}}}], "reason": "why"}"#,
        r#"{"operations": [{"path": "/a", "update": {"value": {"json": "{}"}, "mask": ["x.y"]}, "strict": true}, {"path": "/b", "remove": {}}]}"#,
        r#"{"eventId": {"seen": "7", "nonce": "AAAAAAAAAAAAAAAAAAAAAA=="}, "operations": [{"path": "/a", "add": {"yaml": "id: a"}}]}"#,
        r#"{"guards": [{"path": "/a", "absent": {}}], "operations": [{"path": "/a", "replace": {"proto": "CgFh"}}], "author": "ada"}"#,
    ];
    let target = Target {
        seeds: seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect(),
        words: words(&[
            b"{",
            b"[",
            b"null",
            b"\"json\":",
            b"\"path\":",
            b"\"guards\":",
            b"\"type\":",
            b"\\u0000",
            b"1e99",
        ]),
        memory: (4 << 20, 2048),
        short: 20_000,
        ..Target::new("request", &check)
    };
    fuzz(&target, 25);
}

#[test]
fn a_schema_in_source_is_compiled_or_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("main.proto");
    let check = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Answer::of(schema_source::descriptor_set_of(&file, &[]), |compiled| {
            assert!(Types::new(&compiled.descriptor_set).is_ok());
            compiled.files.join(" ")
        })
    };
    let read = |name: &str| std::fs::read(repository().join(name)).unwrap();
    let target = Target {
        seeds: vec![
            read("schemas/examples/network.proto"),
            b"syntax = \"proto3\";\npackage t;\nmessage Root { map<string, int32> a = 1; oneof o { string b = 2; } reserved 5 to 9, \"x\"; }\n".to_vec(),
            b"syntax = \"proto2\";\nmessage A { optional group B = 1 { required int32 c = 1 [default = 5]; } extensions 100 to max; }\nextend A { repeated string d = 100; }\n".to_vec(),
            b"syntax = \"proto3\";\nimport \"confold/options.proto\";\nmessage R { repeated C c = 1 [(confold.v1.child_node) = {key: \"id\"}]; }\nmessage C { string id = 1; }\n".to_vec(),
        ],
        words: words(&[
            b"message A {", b"}", b"enum ", b"import \"main.proto\";", b"import \"google/protobuf/any.proto\";", b"import \"../x.proto\";", b"option ",
            b"[(confold.v1.child_node) = {key: \"", b"/*", b"//", b"oneof o {", b"map<", b"stream", b"reserved ", b"max", b"536870912", b"edition = \"2023\";",
        ]),
        memory: (32 << 20, 4096),
        short: 1_000, ..Target::new("source", &check)
    };
    fuzz(&target, 25);
}
