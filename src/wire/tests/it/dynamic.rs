//! Values in JSON, YAML and protobuf's text format, and what is said when they do not fit.

use confold_model::{canonicalise::ChildFields, code::Code, schema::Schema};
use confold_wire::{
    dynamic::{DynamicError, MAX_NESTING, Types},
    pb::{self, value::Form},
    schema_source::descriptor_set_of,
};
use expect_test::expect;
use proptest::num::{f32 as single, f64 as double};
use proptest::proptest;
use prost_types::Any;
use serde_json::json;
use std::path::Path;

const ALL: &str = "kinds.All";

fn types() -> Types {
    Types::new(&descriptors()).unwrap()
}

fn descriptors() -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/kinds.proto");
    descriptor_set_of(&source, &[]).unwrap().descriptor_set
}

/// Every kind of field, and every odd value of it.
const DOCUMENTS: &[&str] = &[
    r#"{}"#,
    r#"{"a_double": 1.5, "a_float": 0.1, "an_int32": -1, "an_int64": "-9223372036854775808", "a_uint32": 4294967295,
            "a_uint64": "18446744073709551615", "a_sint32": -2147483648, "a_sint64": -5, "a_fixed32": 7, "a_fixed64": "8",
            "an_sfixed32": -9, "an_sfixed64": "-10", "a_bool": true, "a_string": "Gr\u00fc\u00dfe \"'\\ \n\u0001",
            "some_bytes": "AP/+\/w==", "colour": "COLD"}"#,
    r#"{"a_double": "NaN", "a_float": "-Infinity"}"#,
    r#"{"a_double": -0.0, "a_float": -0.0}"#,
    r#"{"a_double": 1e300, "a_float": 3.4028235e38}"#,
    r#"{"maybe": 0}"#,
    r#"{"nested": {}, "many": [{}, {"maybe": 1}, {"many": [{}]}]}"#,
    r#"{"numbers": [3, -1, 0], "words": ["", "b", "a"], "colours": ["RED", "NONE", "BLUE"]}"#,
    r#"{"by_word": {"b": 2, "a": 1, "": 0}, "by_number": {"7": {}, "-7": {"maybe": 7}},
            "by_flag": {"true": "yes", "false": ""}, "by_big": {"18446744073709551615": "AA=="}}"#,
    r#"{"word": ""}"#,
    r#"{"number": 0}"#,
    r#"{"shape": {"word": "w"}}"#,
    r#"{"time": "2026-11-21T10:00:00.123Z", "duration": "-1.500s", "mask": "aBool,nested.aString"}"#,
    r#"{"object": {"b": [1, null, {"c": true}], "a": "x"}, "value": null, "list": [1.5, "two", []]}"#,
    r#"{"wrapped_float": 0.1, "wrapped_string": "", "wrapped_int64": "-1"}"#,
    r#"{"any": {}}"#,
    r#"{"any": {"@type": "type.googleapis.com/kinds.All", "a_string": "x", "by_word": {"a": 1, "b": 2}}}"#,
    r#"{"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}}"#,
    r#"{"any": {"@type": "type.googleapis.com/google.protobuf.Any",
            "value": {"@type": "type.googleapis.com/kinds.All", "maybe": 0}}}"#,
    r#"{"any": {"@type": "type.googleapis.com/no.Such", "@bytes": "AQID"}}"#,
    r#"{"any": {"@type": "no slash", "@bytes": "AQID"}}"#,
];

/// The bytes of a document, after checking that every form leads back to them.
fn round(types: &Types, json: &str) -> Vec<u8> {
    let bytes = types
        .from_json(ALL, json)
        .unwrap_or_else(|error| panic!("{json}: {error}"));
    for shown in [types.to_json(ALL, &bytes), types.to_json_with_defaults(ALL, &bytes)] {
        let shown = shown.unwrap();
        assert_eq!(types.from_json_value(ALL, &shown).as_ref(), Ok(&bytes), "{shown}");
    }
    let pretty = types.to_json_pretty(ALL, &bytes).unwrap();
    assert_eq!(types.from_json(ALL, &pretty).as_ref(), Ok(&bytes), "{pretty}");
    let yaml = types.to_yaml(ALL, &bytes).unwrap();
    assert_eq!(types.from_yaml(ALL, &yaml).as_ref(), Ok(&bytes), "{yaml}");
    let text = types.to_text(ALL, &bytes).unwrap();
    assert_eq!(types.from_text(ALL, &text).as_ref(), Ok(&bytes), "{text}");
    bytes
}

#[test]
fn every_kind_survives_every_form() {
    let types = types();
    for document in DOCUMENTS {
        round(&types, document);
    }
}

#[test]
fn what_is_read_is_canonical_already_where_there_are_no_children() {
    let types = types();
    let schema = Schema::compile(&descriptors(), ALL).unwrap();
    for document in DOCUMENTS {
        let bytes = types.from_json(ALL, document).unwrap();
        schema
            .check_config(schema.root(), &bytes, 1)
            .unwrap_or_else(|error| panic!("{document}: {error}"));
        let canonical = schema
            .canonicalise(schema.root(), &bytes, 1, ChildFields::Allowed)
            .unwrap();
        assert_eq!(canonical.bytes, bytes, "{document}");
    }
}

#[test]
fn both_names_of_a_field_and_all_spellings_of_a_number_mean_the_same() {
    let types = types();
    let same = |documents: &[&str]| {
        let bytes = round(&types, documents[0]);
        for document in &documents[1..] {
            assert_eq!(types.from_json(ALL, document).as_ref(), Ok(&bytes), "{document}");
        }
    };
    same(&[
        r#"{"an_int32": 5}"#,
        r#"{"anInt32": 5}"#,
        r#"{"an_int32": "5"}"#,
        r#"{"an_int32": 5.0}"#,
        r#"{"an_int32": 0.5e1}"#,
    ]);
    same(&[r#"{"colour": "BLUE"}"#, r#"{"colour": 7}"#]);
    same(&[
        r#"{"some_bytes": "+/8="}"#,
        r#"{"some_bytes": "-_8"}"#,
        r#"{"some_bytes": "-_8="}"#,
    ]);
    same(&[r#"{"a_double": 0.5}"#, r#"{"a_double": "0.5"}"#]);
    // Set to its default, or to nothing: not set.
    same(&[
        "{}",
        r#"{"a_string": "", "an_int32": 0, "a_double": 0.0, "numbers": [], "by_word": {}, "colour": "NONE"}"#,
    ]);
    same(&[
        "{}",
        r#"{"a_string": null, "nested": null, "maybe": null, "numbers": null, "wrapped_string": null}"#,
    ]);
    // The order in which things are written does not matter.
    same(&[
        r#"{"a_double": 1, "an_int32": 2, "by_word": {"a": 1, "b": 2}}"#,
        r#"{"by_word": {"b": 2, "a": 1}, "an_int32": 2, "a_double": 1}"#,
    ]);
}

#[test]
fn bytes_come_out_in_a_fixed_order_with_defaults_left_out() {
    let bytes = types()
        .from_json(
            ALL,
            r#"{"by_word": {"b": 2, "a": 0}, "numbers": [1, -1], "an_int32": 1}"#,
        )
        .unwrap();
    let expected: &[u8] = &[
        0x18, 0x01, // an_int32
        0xa2, 0x01, 0x0b, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, // numbers, packed
        0xba, 0x01, 0x05, 0x0a, 0x01, b'a', 0x10, 0x00, // by_word: keys in order, key and value both there
        0xba, 0x01, 0x05, 0x0a, 0x01, b'b', 0x10, 0x02,
    ];
    assert_eq!(bytes, expected);
}

#[test]
fn json_is_printed_by_field_number_with_names_as_in_the_proto() {
    let types = types();
    let document = r#"{"byWord": {"b": 2, "a": 1}, "anInt64": 5, "aFloat": 0.1, "maybe": 0, "colours": [1, 0]}"#;
    let bytes = types.from_json(ALL, document).unwrap();
    expect![[r#"
        {
          "a_float": 0.1,
          "an_int64": "5",
          "maybe": 0,
          "colours": [
            "RED",
            "NONE"
          ],
          "by_word": {
            "a": 1,
            "b": 2
          }
        }"#]]
    .assert_eq(&types.to_json_pretty(ALL, &bytes).unwrap());
    expect![[r#"
        a_float: 0.1
        an_int64: '5'
        maybe: 0
        colours:
        - RED
        - NONE
        by_word:
          a: 1
          b: 2
    "#]]
    .assert_eq(&types.to_yaml(ALL, &bytes).unwrap());
    expect![[r#"
        a_float: 0.1
        an_int64: 5
        maybe: 0
        colours: RED
        colours: NONE
        by_word {
          key: "a"
          value: 1
        }
        by_word {
          key: "b"
          value: 2
        }
    "#]]
    .assert_eq(&types.to_text(ALL, &bytes).unwrap());
}

#[test]
fn a_refusal_names_the_place_what_belongs_there_and_what_stands_there() {
    let types = types();
    let documents = [
        r#"{"nested": {"many": [{}, {"an_int23": 1}]}}"#,
        r#"{"zzz": 1}"#,
        r#"{"time": {"secs": 1}}"#,
        r#"{"an_int32": "x"}"#,
        r#"{"an_int32": 1.5}"#,
        r#"{"an_int32": 2147483648}"#,
        r#"{"a_uint32": -1}"#,
        r#"{"a_uint64": 18446744073709551616}"#,
        r#"{"an_int64": 9007199254740993.0}"#,
        r#"{"a_float": 1e39}"#,
        r#"{"a_double": "inf"}"#,
        r#"{"a_bool": "true"}"#,
        r#"{"a_string": 1.0}"#,
        r#"{"some_bytes": "?"}"#,
        r#"{"colour": "RAD"}"#,
        r#"{"colour": "PURPLE"}"#,
        r#"{"colour": 2}"#,
        r#"{"colour": true}"#,
        r#"{"numbers": 1}"#,
        r#"{"numbers": [1, null]}"#,
        r#"{"nested": []}"#,
        r#"{"by_number": {"x": {}}}"#,
        r#"{"by_number": {"1": {}, "01": {}}}"#,
        r#"{"by_word": {"a.b": {}}}"#,
        r#"{"word": "w", "number": 1}"#,
        r#"{"an_int32": 1, "anInt32": 2}"#,
        r#"{"time": "yesterday"}"#,
        r#"{"any": {"a_string": "x"}}"#,
        r#"{"any": {"@type": "type.googleapis.com/no.Such", "a": 1}}"#,
        r#"{"any": {"@type": "type.googleapis.com/kinds.All", "nope": 1}}"#,
        r#"{"any": {"@type": "type.googleapis.com/kinds.All", "@bytes": "AA==", "a_string": "x"}}"#,
        r#"{"a_string": "x", "a_string": "y"}"#,
        r#"{"a_string": "x""#,
        "{\n  \"a_string\": 'x'\n}",
        r#"{} {}"#,
        "",
        "[]",
    ];
    let lines: Vec<String> = documents
        .iter()
        .map(|document| {
            let error = types.from_json(ALL, document).expect_err(document);
            format!("{document}\n  {}: {error}", error.code)
        })
        .collect();
    expect![[r#"
        {"nested": {"many": [{}, {"an_int23": 1}]}}
          UNKNOWN_FIELD: nested.many[1]: kinds.All has no field "an_int23" (did you mean an_int32?)
        {"zzz": 1}
          UNKNOWN_FIELD: kinds.All has no field "zzz" (it has a_double, a_float, an_int32, an_int64, a_uint32, a_uint64, a_sint32, a_sint64, a_fixed32, a_fixed64, an_sfixed32, an_sfixed64 and 28 more)
        {"time": {"secs": 1}}
          UNKNOWN_FIELD: time: google.protobuf.Timestamp has no field "secs" (it has seconds, nanos)
        {"an_int32": "x"}
          TYPE_MISMATCH: an_int32: expected a whole number, found the text "x"
        {"an_int32": 1.5}
          TYPE_MISMATCH: an_int32: expected a whole number, found the number 1.5
        {"an_int32": 2147483648}
          TYPE_MISMATCH: an_int32: 2147483648 is out of range: an integer of 32 bits has -2147483648 to 2147483647
        {"a_uint32": -1}
          TYPE_MISMATCH: a_uint32: -1 is out of range: an unsigned integer of 32 bits has 0 to 4294967295
        {"a_uint64": 18446744073709551616}
          TYPE_MISMATCH: a_uint64: expected a whole number, found the number 1.8446744073709552e+19
        {"an_int64": 9007199254740993.0}
          TYPE_MISMATCH: an_int64: expected a whole number, found the number 9007199254740992.0
        {"a_float": 1e39}
          TYPE_MISMATCH: a_float: 1e39 is too big for a float
        {"a_double": "inf"}
          TYPE_MISMATCH: a_double: expected a number, found the text "inf"
        {"a_bool": "true"}
          TYPE_MISMATCH: a_bool: expected true or false, found the text "true"
        {"a_string": 1.0}
          TYPE_MISMATCH: a_string: expected text, found the number 1.0 (put quotes around it)
        {"some_bytes": "?"}
          TYPE_MISMATCH: some_bytes: not base64: Invalid symbol 63, offset 0.
        {"colour": "RAD"}
          TYPE_MISMATCH: colour: kinds.Colour has no value "RAD" (did you mean RED?)
        {"colour": "PURPLE"}
          TYPE_MISMATCH: colour: kinds.Colour has no value "PURPLE" (it has COLD, NONE, RED, BLUE)
        {"colour": 2}
          TYPE_MISMATCH: colour: kinds.Colour has no value 2 (it has COLD, NONE, RED, BLUE)
        {"colour": true}
          TYPE_MISMATCH: colour: expected a value of kinds.Colour, found true
        {"numbers": 1}
          TYPE_MISMATCH: numbers: expected a list, found the number 1
        {"numbers": [1, null]}
          TYPE_MISMATCH: numbers[1]: expected a whole number, found null
        {"nested": []}
          TYPE_MISMATCH: nested: expected the fields of a kinds.All, found a list of 0
        {"by_number": {"x": {}}}
          TYPE_MISMATCH: by_number["x"]: expected a whole number, found the text "x"
        {"by_number": {"1": {}, "01": {}}}
          TYPE_MISMATCH: by_number["01"]: the same key stands here twice
        {"by_word": {"a.b": {}}}
          TYPE_MISMATCH: by_word["a.b"]: expected a whole number, found {}
        {"word": "w", "number": 1}
          TYPE_MISMATCH: number: word and number are alternatives of choice: set one
        {"an_int32": 1, "anInt32": 2}
          TYPE_MISMATCH: anInt32: an_int32 is set twice, under both of its names
        {"time": "yesterday"}
          TYPE_MISMATCH: time: the text "yesterday" is no Timestamp: invalid rfc3339 timestamp: invalid date
        {"any": {"a_string": "x"}}
          TYPE_MISMATCH: any: a packed message needs its "@type" (as in "type.googleapis.com/voltha.Device")
        {"any": {"@type": "type.googleapis.com/no.Such", "a": 1}}
          TYPE_MISMATCH: any: the schema has no message "no.Such" (give its encoded bytes in base64 as "@bytes")
        {"any": {"@type": "type.googleapis.com/kinds.All", "nope": 1}}
          UNKNOWN_FIELD: any: kinds.All has no field "nope" (it has a_double, a_float, an_int32, an_int64, a_uint32, a_uint64, a_sint32, a_sint64, a_fixed32, a_fixed64, an_sfixed32, an_sfixed64 and 28 more)
        {"any": {"@type": "type.googleapis.com/kinds.All", "@bytes": "AA==", "a_string": "x"}}
          TYPE_MISMATCH: any: "@bytes" is base64 text and stands beside "@type" alone
        {"a_string": "x", "a_string": "y"}
          TYPE_MISMATCH: line 1 column 34: "a_string" stands here twice
        {"a_string": "x"
          TYPE_MISMATCH: line 1 column 16: EOF while parsing an object
        {
          "a_string": 'x'
        }
          TYPE_MISMATCH: line 2 column 15: expected value
        {} {}
          TYPE_MISMATCH: line 1 column 4: trailing characters

          TYPE_MISMATCH: line 1 column 0: EOF while parsing a value
        []
          TYPE_MISMATCH: expected the fields of a kinds.All, found a list of 0"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn yaml_says_where_it_is_wrong() {
    let types = types();
    let documents = [
        "a_string: 1.0",
        "an_int32: [1",
        "a_string: x\na_string: y",
        "by_number:\n  7: {an_int32: 1}\n  8: {an_int23: 1}",
        "a_string: !tag x",
        "- a",
        "",
        "a_string: x\n---\na_string: y",
        "? {a: b}\n: c",
    ];
    let lines: Vec<String> = documents
        .iter()
        .map(|document| {
            let error = types.from_yaml(ALL, document).expect_err(document);
            format!("{document:?}\n  {}: {error}", error.code)
        })
        .collect();
    expect![[r#"
        "a_string: 1.0"
          TYPE_MISMATCH: a_string: expected text, found the number 1.0 (put quotes around it)
        "an_int32: [1"
          TYPE_MISMATCH: line 2 column 1: did not find expected ',' or ']', while parsing a flow sequence at line 1 column 11
        "a_string: x\na_string: y"
          TYPE_MISMATCH: line 1 column 1: "a_string" stands here twice
        "by_number:\n  7: {an_int32: 1}\n  8: {an_int23: 1}"
          UNKNOWN_FIELD: by_number["8"]: kinds.All has no field "an_int23" (did you mean an_int32?)
        "a_string: !tag x"
          TYPE_MISMATCH: line 1 column 11: a_string: invalid type: enum, expected a value without tags
        "- a"
          TYPE_MISMATCH: expected the fields of a kinds.All, found a list of 1
        ""
          TYPE_MISMATCH: expected the fields of a kinds.All, found null
        "a_string: x\n---\na_string: y"
          TYPE_MISMATCH: deserializing from YAML containing more than one document is not supported
        "? {a: b}\n: c"
          TYPE_MISMATCH: line 1 column 1: a key that is neither text nor a number"#]].assert_eq(&lines.join("\n"));
}

#[test]
fn yaml_may_write_keys_as_numbers_and_numbers_that_json_has_not() {
    let types = types();
    let yaml = "by_number:\n  7: {maybe: 1}\nby_flag: {true: on}\na_double: .inf\na_float: .nan\nan_int32: 0x10\n";
    let json = r#"{"by_number": {"7": {"maybe": 1}}, "by_flag": {"true": "on"}, "a_double": "Infinity", "a_float": "NaN",
                   "an_int32": 16}"#;
    assert_eq!(types.from_yaml(ALL, yaml), types.from_json(ALL, json));
}

proptest! {
    #[test]
    fn every_number_is_read_to_the_last_bit_as_it_was_written(
        wide in double::NORMAL | double::SUBNORMAL,
        narrow in single::NORMAL | single::SUBNORMAL,
    ) {
        reads_back(wide, narrow);
    }
}

#[test]
fn numbers_are_read_to_the_last_bit_where_a_quick_reader_would_miss_it() {
    reads_back(27e300, 3.4028235e38);
    reads_back(922337203685477480.0, 16777217.0);
}

fn reads_back(wide: f64, narrow: f32) {
    let json = format!(r#"{{"a_double": {wide:?}, "a_float": {narrow:?}}}"#);
    let bytes = round(&types(), &json);
    let expected = [&[0x09][..], &wide.to_le_bytes(), &[0x15], &narrow.to_le_bytes()].concat();
    assert_eq!(bytes, expected, "{json}");
}

#[test]
fn yaml_aliases_repeat_but_do_not_explode() {
    let types = types();
    let shared = "nested: &n {a_string: a longer piece of text}\nmany: [*n, *n]";
    let same = r#"{"nested": {"a_string": "a longer piece of text"},
                   "many": [{"a_string": "a longer piece of text"}, {"a_string": "a longer piece of text"}]}"#;
    assert_eq!(types.from_yaml(ALL, shared), types.from_json(ALL, same));
    let mut bomb = "x0: &x0 [a,a,a,a,a,a,a,a,a]\n".to_owned();
    for level in 1..12 {
        let previous = format!("*x{}", level - 1);
        bomb.push_str(&format!("x{level}: &x{level} [{}]\n", vec![previous; 9].join(",")));
    }
    let error = types.from_yaml(ALL, &bomb).unwrap_err();
    assert_eq!(error.code, Code::Limit, "{error}");
}

#[test]
fn text_format_says_where_it_is_wrong() {
    let types = types();
    let documents = [
        "a_string: \"x\"\nan_int23: 1",
        "an_int32: 99999999999",
        "a_string: \"x",
        "nested {\n  colour: RAD\n}",
        "a_string: \"x\" a_string: \"y\"",
        "word: \"w\" number: 1",
        "[no.such]: 1",
    ];
    let lines: Vec<String> = documents
        .iter()
        .map(|document| {
            let error = types.from_text(ALL, document).expect_err(document);
            format!("{document:?}\n  {}: {error}", error.code)
        })
        .collect();
    expect![[r#"
        "a_string: \"x\"\nan_int23: 1"
          UNKNOWN_FIELD: line 2 column 1: field 'an_int23' not found for message 'kinds.All'
        "an_int32: 99999999999"
          TYPE_MISMATCH: line 1 column 11: expected value to be a signed 32-bit integer, but the value 99999999999 is out of range
        "a_string: \"x"
          TYPE_MISMATCH: expected string terminator, but reached end of input
        "nested {\n  colour: RAD\n}"
          TYPE_MISMATCH: line 2 column 11: value 'RAD' was not found for enum 'kinds.Colour'
        "a_string: \"x\" a_string: \"y\""
          TYPE_MISMATCH: line 1 column 25: 'a_string' is already set
        "word: \"w\" number: 1"
          TYPE_MISMATCH: line 1 column 19: a value is already set for oneof 'choice'
        "[no.such]: 1"
          TYPE_MISMATCH: line 1 column 1: extension 'no.such' not found for message 'kinds.All'"#]].assert_eq(&lines.join("\n"));
}

// Q15
#[test]
fn deep_nesting_is_an_error_in_every_form_and_never_overflows_the_stack() {
    let types = types();
    let limit = usize::try_from(MAX_NESTING).unwrap();
    for depth in [limit + 1, 10_000] {
        let nested = |open: &str, close: &str| format!("{}{}", open.repeat(depth), close.repeat(depth));
        let json_objects = format!("{{\"x\":{}}}", nested("{\"nested\":", "}").replacen(":}", ":{}}", 1));
        let refusals = [
            types.from_json(ALL, &json_objects),
            types.from_json(ALL, &format!("{{\"list\":{}}}", nested("[", "]"))),
            types.from_yaml(ALL, &nested("{nested: ", "}")),
            types.from_yaml(ALL, &format!("list: {}", nested("[", "]"))),
            types.from_text(ALL, &nested("nested {", "}")),
            types.from_text(ALL, &nested("nested <", ">")),
            types.from_text(ALL, &nested("any { [type.googleapis.com/kinds.All] {", "} }")),
        ];
        for refusal in refusals {
            let error = refusal.unwrap_err();
            assert_eq!(error.code, Code::Limit, "{error}");
        }
    }
    // In wire bytes too, also where the library does not look: packed messages inside packed messages.
    let mut bytes = Vec::new();
    for _ in 0..10_000 {
        let mut outer = vec![0x92, 0x01];
        prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
        outer.append(&mut bytes);
        bytes = outer;
    }
    assert_eq!(types.to_json(ALL, &bytes).unwrap_err().code, Code::TypeMismatch);
}

#[test]
fn packed_messages_nest_without_end_and_are_shown_to_a_bounded_depth() {
    use prost::Message;
    let types = types();
    let mut any = Any::default();
    for _ in 0..1_000 {
        let inner = any.encode_to_vec();
        any = Any {
            type_url: "type.googleapis.com/google.protobuf.Any".to_owned(),
            value: inner,
        };
    }
    let mut bytes = vec![0xf2, 0x01];
    prost::encoding::encode_varint(any.encoded_len() as u64, &mut bytes);
    any.encode(&mut bytes).unwrap();
    let shown = types.to_json(ALL, &bytes).unwrap();
    assert!(shown.to_string().contains("@bytes"));
    assert_eq!(types.from_json_value(ALL, &shown), Ok(bytes));
}

// E5
#[test]
fn a_packed_message_is_opened_only_where_that_keeps_its_bytes() {
    use prost::Message;
    let types = types();
    let shown = |type_url: &str, value: &[u8]| {
        let any = Any {
            type_url: type_url.to_owned(),
            value: value.to_vec(),
        };
        let mut bytes = vec![0xf2, 0x01];
        prost::encoding::encode_varint(any.encoded_len() as u64, &mut bytes);
        any.encode(&mut bytes).unwrap();
        let shown = types.to_json(ALL, &bytes).unwrap();
        assert_eq!(types.from_json_value(ALL, &shown), Ok(bytes), "{shown}");
        shown["any"].clone()
    };
    let all = "type.googleapis.com/kinds.All";
    assert_eq!(shown(all, &[0x18, 0x01]), json!({"@type": all, "an_int32": 1}));
    // The same value with a longer varint, a default written out, a field that the type does not have, or no message.
    for odd in [&[0x18, 0x81, 0x00][..], &[0x18, 0x00], &[0xf8, 0x7f, 0x01], &[0xff]] {
        assert!(shown(all, odd)["@bytes"].is_string(), "{odd:?}");
    }
    assert_eq!(
        shown("type.googleapis.com/no.Such", &[1]),
        json!({"@type": "type.googleapis.com/no.Such", "@bytes": "AQ=="})
    );
    assert_eq!(shown("", &[1]), json!({"@type": "", "@bytes": "AQ=="}));
}

#[test]
fn what_has_no_short_form_is_shown_in_a_long_one() {
    let types = types();
    // A time in the year 11000, and a duration with nanoseconds of the wrong sign.
    for document in [
        r#"{"time": {"seconds": "284996966400", "nanos": 1}}"#,
        r#"{"duration": {"seconds": "1", "nanos": -1000000001}}"#,
    ] {
        round(&types, document);
    }
    // Numbers that JSON has not, inside JSON.
    let value: &[u8] = &[0x92, 0x02, 0x09, 0x11, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f];
    assert_eq!(types.to_json(ALL, value).unwrap(), json!({"value": "NaN"}));
    assert_eq!(types.to_json(ALL, &[0x92, 0x02, 0x00]).unwrap(), json!({"value": null}));
}

#[test]
fn values_of_the_api_are_checked_against_what_belongs_at_the_path() {
    let types = types();
    let value = |form, name: &str| pb::Value {
        form,
        r#type: name.to_owned(),
    };
    let expected = types.from_json(ALL, r#"{"an_int32": 1}"#).unwrap();
    for form in [
        Form::Proto(expected.clone().into()),
        Form::Json(r#"{"an_int32": 1}"#.to_owned()),
        Form::Text("an_int32: 1".to_owned()),
        Form::Yaml("an_int32: 1".to_owned()),
    ] {
        for name in ["", ALL] {
            assert_eq!(
                types.from_value(ALL, &value(Some(form.clone()), name)).unwrap(),
                expected
            );
        }
        // U2, A4
        let refused = types.from_value(ALL, &value(Some(form), "kinds.Other")).unwrap_err();
        assert_eq!(refused.code, Code::TypeMismatch);
        assert_eq!(
            refused.to_string(),
            "a kinds.All belongs here, the value is a kinds.Other"
        );
    }
    assert!(types.from_value(ALL, &value(None, "")).unwrap().is_empty());
    for format in [pb::Format::Proto, pb::Format::Json, pb::Format::Text, pb::Format::Yaml] {
        let shown = types.to_value(ALL, &expected.clone().into(), format).unwrap();
        assert_eq!(shown.r#type, ALL);
        assert_eq!(types.from_value(ALL, &shown).unwrap(), expected);
    }
    let unknown = types.from_json("kinds.Al", "{}").unwrap_err();
    assert_eq!(
        (unknown.code, unknown.to_string()),
        (
            Code::NotFound,
            "the schema has no message kinds.Al (did you mean kinds.All?)".to_owned()
        )
    );
}

#[test]
fn a_word_on_a_command_line_becomes_the_value_of_its_field() {
    let types = types();
    let cases = [
        ("a_string", "5", json!({"a_string": "5"})),
        ("an_int32", "5", json!({"an_int32": "5"})),
        (
            "nested.nested.a_bool",
            "true",
            json!({"nested": {"nested": {"a_bool": true}}}),
        ),
        ("colour", "RED", json!({"colour": "RED"})),
        ("colour", "7", json!({"colour": 7})),
        ("a_double", "0.5", json!({"a_double": "0.5"})),
        ("numbers", "[1, 2]", json!({"numbers": [1, 2]})),
        ("by_word", r#"{"a": 1}"#, json!({"by_word": {"a": 1}})),
        ("nested", r#"{"a_string": "x"}"#, json!({"nested": {"a_string": "x"}})),
    ];
    for (field, text, expected) in cases {
        assert_eq!(types.assign(ALL, field, text), Ok(expected), "{field}={text}");
    }
    let refusals: Vec<String> = [
        ("an_int32", "x"),
        ("a_bool", "yes"),
        ("nested.colour", "RAD"),
        ("nested.a_strin", "x"),
        ("numbers", "1"),
        ("many.a_string", "x"),
        ("a_string.x", "x"),
        ("", "x"),
    ]
    .into_iter()
    .map(|(field, text)| format!("{field}={text}: {}", types.assign(ALL, field, text).unwrap_err()))
    .collect();
    expect![[r#"
        an_int32=x: an_int32: expected a whole number, found the text "x"
        a_bool=yes: a_bool: "yes" is no JSON value: expected value
        nested.colour=RAD: nested.colour: kinds.Colour has no value "RAD" (did you mean RED?)
        nested.a_strin=x: nested: kinds.All has no field "a_strin" (did you mean a_string?)
        numbers=1: numbers: expected a list, found the number 1
        many.a_string=x: many: only the fields of a single message have names of their own
        a_string.x=x: a_string: only the fields of a single message have names of their own
        =x: kinds.All has no field "" (it has a_double, a_float, an_int32, an_int64, a_uint32, a_uint64, a_sint32, a_sint64, a_fixed32, a_fixed64, an_sfixed32, an_sfixed64 and 28 more)"#]].assert_eq(&refusals.join("\n"));
    assert_eq!(
        types.field(ALL, "nested.shape.a_string").map(|(numbers, _)| numbers),
        Ok(vec![18, 28, 14])
    );
}

#[test]
fn no_document_and_no_bytes_make_it_panic() {
    use proptest::prelude::*;
    let types = types();
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "'",
        "nested",
        "any",
        "@type",
        "@bytes",
        "type.googleapis.com/kinds.All",
        "1",
        "-",
        "1e9",
        "null",
        "true",
        "by_number",
        "time",
        "&a ",
        "*a ",
        "\n",
        " ",
        "\\",
        "<",
        ">",
        "value",
        "#",
        "- ",
    ]);
    let documents = prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat());
    let mut runner = proptest::test_runner::TestRunner::default();
    runner
        .run(
            &(documents, prop::collection::vec(any::<u8>(), 0..40)),
            |(document, bytes)| {
                let refused = |result: Result<Vec<u8>, DynamicError>| result.err().map(|error| error.to_string());
                let _ = (
                    refused(types.from_json(ALL, &document)),
                    refused(types.from_yaml(ALL, &document)),
                );
                let _ = refused(types.from_text(ALL, &document));
                if let Ok(shown) = types.to_json(ALL, &bytes) {
                    let _ = (types.to_text(ALL, &bytes), types.from_json_value(ALL, &shown));
                }
                Ok(())
            },
        )
        .unwrap();
}
