use crate::support::{b, cat, schema, v};
use confold_model::schema::Schema;

const SOURCE: &str = r#"
message Root {
  string free = 1;
  string serial = 2 [(voltha.access) = READ_ONLY];
  Inner plain = 3;
  repeated Inner items = 4;
  map<string, Inner> by_name = 5;
  map<sint32, Inner> by_number = 6;
  Inner whole = 7 [(confold.v1.access) = READ_ONLY];
  repeated string names = 8 [(voltha.access) = READ_ONLY];
  map<bool, string> flags = 9 [(voltha.access) = READ_ONLY];
  optional uint32 maybe = 10 [(voltha.access) = READ_ONLY];
  oneof choice { Inner one = 11; Inner other = 12; }
  Free nothing = 13;
}
message Inner { string text = 1; string owner = 2 [(voltha.access) = READ_ONLY]; Inner below = 3; }
message Free { string text = 1; }
"#;

#[track_caller]
fn changes(schema: &Schema, old: &[Vec<u8>], new: &[Vec<u8>], names: &[&str]) {
    let (old, new) = (cat(old), cat(new));
    for bytes in [&old, &new] {
        schema.check_config(schema.root(), bytes, 1).expect("canonical test data");
    }
    assert_eq!(schema.read_only_changes(schema.root(), &old, &new), names);
    assert_eq!(schema.read_only_changes(schema.root(), &new, &old), names, "the other way round");
}

/// U7: READ_ONLY fields are compared by value, in nested messages, items of lists and values of maps too, and all violated ones are named.
#[test]
fn read_only_fields_are_found_at_any_depth_and_all_are_named() {
    let schema = schema(SOURCE);
    let owner = |name: &str| b(2, name);
    let entry = |key: Vec<u8>, inner: Vec<u8>| cat(&[key, b(2, inner)]);

    changes(&schema, &[b(1, "a")], &[b(1, "b")], &[]);
    changes(&schema, &[b(1, "a"), b(2, "s")], &[b(1, "b"), b(2, "s")], &[]);
    changes(&schema, &[b(2, "s")], &[], &["serial"]);
    changes(&schema, &[b(3, b(1, "x"))], &[b(3, b(1, "y"))], &[]);
    changes(&schema, &[b(3, owner("x"))], &[b(3, owner("y"))], &["plain.owner"]);
    changes(&schema, &[b(3, owner("x"))], &[], &["plain.owner"]);
    changes(&schema, &[b(3, [])], &[], &[]);
    changes(&schema, &[b(3, b(3, b(3, owner("x"))))], &[b(3, b(3, []))], &["plain.below.below.owner"]);
    changes(&schema, &[b(4, owner("x")), b(4, owner("y"))], &[b(4, owner("x")), b(4, cat(&[b(1, "t"), owner("y")]))], &[]);
    changes(&schema, &[b(4, owner("x")), b(4, owner("y"))], &[b(4, owner("y")), b(4, owner("x"))], &["items[0].owner", "items[1].owner"]);
    changes(&schema, &[b(4, [])], &[b(4, []), b(4, owner("y"))], &["items[1].owner"]);
    changes(&schema, &[b(4, []), b(4, b(1, "t"))], &[b(4, [])], &[]);
    changes(&schema, &[b(5, entry(b(1, "a"), owner("x"))), b(5, entry(b(1, "b"), owner("x")))], &[b(5, entry(b(1, "b"), owner("x")))], &["by_name[\"a\"].owner"]);
    changes(&schema, &[b(5, entry(b(1, "a"), vec![]))], &[b(5, entry(b(1, "b"), b(1, "t")))], &[]);
    changes(&schema, &[b(6, entry(v(1, 9), owner("x")))], &[b(6, entry(v(1, 9), owner("y")))], &["by_number[-5].owner"]);
    // An unset message equals an empty one; a set one does not.
    changes(&schema, &[b(7, [])], &[], &[]);
    changes(&schema, &[b(7, b(1, "x"))], &[], &["whole"]);
    changes(&schema, &[b(8, "a"), b(8, "b")], &[b(8, "b"), b(8, "a")], &["names"]);
    changes(&schema, &[b(9, cat(&[v(1, 0), b(2, "")]))], &[], &["flags"]);
    changes(&schema, &[v(10, 0)], &[], &["maybe"]);
    changes(&schema, &[b(11, owner("x"))], &[b(12, owner("x"))], &["one.owner", "other.owner"]);
    changes(&schema, &[b(13, b(1, "x"))], &[], &[]);
    changes(&schema, &[b(2, "s"), b(3, owner("x")), v(10, 1)], &[], &["serial", "plain.owner", "maybe"]);
}

/// U7: a strict add leaves READ_ONLY fields other than the key at their defaults.
#[test]
fn a_strict_add_may_set_the_key_only() {
    let schema = schema(
        "message Root { repeated Item items = 1 [(voltha.child_node) = {key: \"id\"}]; }
         message Item { string id = 1 [(voltha.access) = READ_ONLY]; string serial = 2 [(voltha.access) = READ_ONLY]; Sub sub = 3; }
         message Sub { string id = 1 [(voltha.access) = READ_ONLY]; }",
    );
    let child = schema.message(schema.root()).child(1).expect("items");
    let set = |bytes: Vec<u8>| schema.read_only_set(child.message, child.key(), &bytes);
    assert!(set(b(1, "a")).is_empty());
    assert_eq!(set(cat(&[b(1, "a"), b(2, "s"), b(3, b(1, "a"))])), ["serial", "sub.id"]);
}

#[test]
fn a_flood_of_violations_is_counted_not_listed() {
    let schema = schema(SOURCE);
    let old: Vec<u8> = (0..1_000).flat_map(|_| b(4, b(2, "x"))).collect();
    let names = schema.read_only_changes(schema.root(), &old, &[]);
    assert_eq!((names.len(), names.last().map(String::as_str)), (257, Some("and 744 more")));
}
