use crate::support::{descriptors, lines, schema, source, vectors_schema};
use confold_model::schema::Schema;

const BASE: &str = r#"
message Root {
  string name = 1;
  optional uint32 maybe = 2;
  repeated uint32 numbers = 3;
  map<string, Plain> labels = 4;
  Plain plain = 5;
  Colour colour = 6;
  oneof choice { string word = 7; Plain shape = 8; }
  oneof other { string third = 9; }
  string owner = 10 [(voltha.access) = READ_ONLY];
  repeated Item items = 20 [(voltha.child_node) = {key: "id"}];
  repeated Item list = 21 [(voltha.child_node) = {}];
  Item single = 22 [(voltha.child_node) = {}];
}
message Item { string id = 1; string id2 = 2; repeated Item items = 3 [(voltha.child_node) = {key: "id"}]; }
message Plain { string text = 1; Plain below = 2; Colour colour = 3; }
enum Colour { NONE = 0; RED = 1; BLUE = 2; }
"#;

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(BASE.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "\"{from}\" is not in the schema");
        text.replace(from, to)
    })
}

/// S9, formats.md 6: everything that would change a stored node's bytes, meaning or path.
#[test]
fn every_forbidden_change_is_refused_and_named() {
    let old = schema(BASE);
    for (from, to, expected) in [
        ("string name = 1;", "", "t.Root.name: field 1 removed"),
        ("string name = 1;", "string name = 30;", "t.Root.name: renumbered from 1 to 30"),
        ("string name = 1;", "string title = 1;", "t.Root.name: field 1 renamed to title"),
        ("string name = 1;", "bytes name = 1;", "t.Root.name: retyped from string to bytes"),
        ("uint32 maybe = 2", "sint32 maybe = 2", "t.Root.maybe: retyped from uint32 to sint32"),
        ("uint32 maybe = 2", "uint64 maybe = 2", "t.Root.maybe: retyped from uint32 to uint64"),
        ("Colour colour = 6", "int32 colour = 6", "t.Root.colour: retyped from enum to int32"),
        ("Plain plain = 5", "bytes plain = 5", "t.Root.plain: retyped from message to bytes\nt.Root.plain: changed from a singular field with presence to a singular field without presence"),
        ("optional uint32", "uint32", "t.Root.maybe: changed from a singular field with presence to a singular field without presence"),
        ("string name = 1", "optional string name = 1", "t.Root.name: changed from a singular field without presence to a singular field with presence"),
        ("string name = 1", "repeated string name = 1", "t.Root.name: changed from a singular field without presence to repeated"),
        ("repeated uint32 numbers", "uint32 numbers", "t.Root.numbers: changed from repeated to a singular field without presence"),
        ("map<string, Plain>", "map<string, string>", "t.Root.LabelsEntry.value: retyped from message to string\nt.Root.LabelsEntry.value: changed from a singular field with presence to a singular field without presence"),
        ("map<string, Plain>", "map<int32, Plain>", "t.Root.LabelsEntry.key: retyped from string to int32"),
        ("Plain shape = 8; }", "} Plain shape = 8;", "t.Root.shape: moved out of its oneof"),
        ("string word = 7; Plain shape = 8; }", "Plain shape = 8; } string word = 7;", "t.Root.word: changed from a singular field with presence to a singular field without presence\nt.Root.word: moved out of its oneof"),
        ("Plain shape = 8; }", "} oneof more { Plain shape = 8; }", "t.Root.shape: moved to another oneof"),
        ("Plain shape = 8; }\n  oneof other { string third = 9; }", "Plain shape = 8; string third = 9; }", "t.Root.third: moved to another oneof"),
        ("optional uint32 maybe = 2;", "oneof new { uint32 maybe = 2; }", "t.Root.maybe: moved into a oneof"),
        ("[(voltha.access) = READ_ONLY]", "", "t.Root.owner: access changed from READ_ONLY to CONFIG"),
        ("[(voltha.access) = READ_ONLY]", "[(voltha.access) = REAL_TIME]", "t.Root.owner: access changed from READ_ONLY to REAL_TIME"),
        ("string name = 1", "string name = 1 [(voltha.access) = READ_ONLY]", "t.Root.name: access changed from CONFIG to READ_ONLY"),
        ("items = 20 [(voltha.child_node) = {key: \"id\"}]", "items = 20", "t.Root.items: moved out of child_node: its nodes would become data"),
        ("Plain plain = 5", "Plain plain = 5 [(voltha.child_node) = {}]", "t.Root.plain: moved into child_node: its data would become nodes"),
        ("items = 20 [(voltha.child_node) = {key: \"id\"}]", "items = 20 [(voltha.child_node) = {key: \"id2\"}]", "t.Root.items: child_node changed from a container keyed by id = 1 to a container keyed by id2 = 2"),
        ("items = 20 [(voltha.child_node) = {key: \"id\"}]", "items = 20 [(voltha.child_node) = {}]", "t.Root.items: child_node changed from a container keyed by id = 1 to a list without keys"),
        ("list = 21 [(voltha.child_node) = {}]", "list = 21 [(voltha.child_node) = {key: \"id\"}]", "t.Root.list: child_node changed from a list without keys to a container keyed by id = 1"),
        ("BLUE = 2;", "", "t.Colour.BLUE: enum value 2 removed"),
        ("BLUE = 2;", "GREEN = 2;", "t.Colour.BLUE: enum value 2 renamed"),
        ("BLUE = 2;", "BLUE = 3;", "t.Colour.BLUE: enum value renumbered from 2 to 3"),
        ("string text = 1;", "", "t.Plain.text: field 1 removed"),
        ("Plain below = 2", "Item below = 2", "t.Plain.text: field 1 renamed to id\nt.Plain.colour: field 3 renamed to items"),
    ] {
        let new = schema(&edited(&[(from, to)]));
        let found = lines(&old.compatible(&new).expect_err(expected));
        for line in expected.lines() {
            assert!(found.lines().any(|other| other == line), "{from} -> {to}: \"{found}\" lacks \"{line}\"");
        }
    }
    // All offenders at once.
    let new = schema(&edited(&[("string name = 1;", ""), ("BLUE = 2;", ""), ("string text = 1;", "")]));
    assert_eq!(
        lines(&old.compatible(&new).expect_err("three")),
        "t.Colour.BLUE: enum value 2 removed\nt.Plain.text: field 1 removed\nt.Root.name: field 1 removed"
    );
}

/// S9, formats.md 6: what may be added, and that types and packages may be renamed.
#[test]
fn additions_and_new_names_for_types_are_allowed() {
    let old = schema(BASE);
    for edits in [
        &[][..],
        &[("string name = 1;", "string name = 1; string more = 40; optional bytes maybe_more = 41; repeated Plain many = 42; map<bool, Item> by = 43;")],
        &[("Plain shape = 8;", "Plain shape = 8; string fourth = 44;")],
        &[("string name = 1;", "string name = 1; oneof fresh { string a = 45; string b = 46; }")],
        &[("string name = 1;", "string name = 1; repeated Item more = 47 [(confold.v1.child_node) = {key: \"id2\"}]; Plain deep = 48 [(voltha.child_node) = {}];")],
        &[("string name = 1;", "string name = 1; string late = 49 [(confold.v1.access) = REAL_TIME];")],
        &[("BLUE = 2;", "BLUE = 2; GREEN = 3; COLD = -1;")],
        &[("NONE = 0;", "option allow_alias = true; NONE = 0; NOTHING = 0;")],
        &[("Colour", "Tint")],
        &[("Item", "Thing"), ("Plain", "Simple")],
        &[("oneof choice", "oneof selection")],
        &[("repeated uint32 numbers = 3", "repeated uint32 numbers = 3 [packed = false]")],
        &[("(voltha.access)", "(confold.v1.access)"), ("(voltha.child_node)", "(confold.v1.child_node)")],
        &[("string word = 7; Plain shape = 8;", "Plain shape = 8; string word = 7;")],
        &[("string name = 1;", ""), ("string owner = 10", "string name = 1; string owner = 10")],
    ] {
        let new = schema(&edited(edits));
        old.compatible(&new).unwrap_or_else(|problems| panic!("{edits:?}: {}", lines(&problems)));
    }
    let vectors = vectors_schema();
    vectors.compatible(&vectors).expect("nothing changed");
}

/// formats.md 6: the root message is fixed; packages below it may be renamed.
#[test]
fn the_root_message_is_fixed() {
    let compile = |text: &str, root: &str| Schema::compile(&descriptors(text), root).expect("valid");
    let old = schema("message Root { string a = 1; } message Other { string a = 1; }");
    let text = source("message Root { string a = 1; } message Other { string a = 1; }");
    let found = old.compatible(&compile(&text, "t.Other")).expect_err("another root");
    assert_eq!(lines(&found), "t.Root: the root message cannot be changed, here to t.Other");
}

/// One type may become two as long as each still reads what was stored.
#[test]
fn types_are_compared_where_they_are_used() {
    let old = schema("message Root { A x = 1; A y = 2; } message A { string s = 1; A next = 2; }");
    let two = schema("message Root { A x = 1; B y = 2; } message A { string s = 1; A next = 2; } message B { string s = 1; B next = 2; string more = 3; }");
    old.compatible(&two).expect("both read it");
    let wrong = schema("message Root { A x = 1; B y = 2; } message A { string s = 1; A next = 2; } message B { string s = 1; C next = 2; } message C { string s = 1; }");
    assert_eq!(lines(&old.compatible(&wrong).expect_err("C lacks next")), "t.A.next: field 2 removed");
}
