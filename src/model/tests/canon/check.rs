use crate::support::{b, cat, schema, ty, v, vectors_schema};
use confold_model::canonicalise::ChildFields;
use confold_model::code::Code;
use confold_model::schema::{MAX_DEPTH, Schema};
use confold_model::wire_bytes;

/// Fixed-width fields by hand.
fn f32_bits(number: u32, bits: u32) -> Vec<u8> {
    let mut out = Vec::new();
    wire_bytes::put_tag(&mut out, number, 5);
    out.extend(bits.to_le_bytes());
    out
}

fn f64_bits(number: u32, bits: u64) -> Vec<u8> {
    let mut out = Vec::new();
    wire_bytes::put_tag(&mut out, number, 1);
    out.extend(bits.to_le_bytes());
    out
}

#[track_caller]
fn refused(schema: &Schema, bytes: &[u8], code: Code, field: &[u32], words: &str) {
    let error = schema.split(schema.root(), bytes, 1).expect_err(words);
    assert_eq!((error.code, &error.field[..]), (code, field), "{}", error.text);
    assert!(error.text.contains(words), "\"{}\" does not say \"{words}\"", error.text);
}

/// formats.md 1, H6: what one value cannot look like.
#[test]
fn every_other_encoding_of_a_value_is_refused_with_the_field_named() {
    let schema = vectors_schema();
    let two = |a: Vec<u8>, b: Vec<u8>| cat(&[a, b]);
    let cases: Vec<(Vec<u8>, Code, &[u32], &str)> = vec![
        (two(v(4, 1), v(3, 1)), Code::NotCanonical, &[3], "ascending"),
        (two(v(3, 1), v(3, 2)), Code::NotCanonical, &[3], "twice"),
        (two(b(17, []), b(17, [])), Code::NotCanonical, &[17], "twice"),
        (v(3, 0), Code::NotCanonical, &[3], "default"),
        (b(1, ""), Code::NotCanonical, &[1], "default"),
        (f32_bits(11, 0), Code::NotCanonical, &[11], "default"),
        (v(2, 2), Code::NotCanonical, &[2], "out of range for bool"),
        (v(3, 0xffff_ffff), Code::NotCanonical, &[3], "out of range for int32"),
        (v(5, 1 << 32), Code::NotCanonical, &[5], "out of range for uint32"),
        (v(7, 1 << 32), Code::NotCanonical, &[7], "out of range for sint32"),
        (v(14, 2), Code::NotCanonical, &[14], "vectors.Colour does not declare the number 2"),
        (v(14, 1 << 32 | 7), Code::NotCanonical, &[14], "does not declare"),
        (b(1, [0xff]), Code::NotCanonical, &[1], "UTF-8"),
        (b(3, "x"), Code::NotCanonical, &[3], "wire type 2"),
        (v(1, 1), Code::NotCanonical, &[1], "wire type 0"),
        (v(20, 1), Code::NotCanonical, &[20], "needs 2"),
        (b(20, ""), Code::NotCanonical, &[20], "left out"),
        (two(b(20, [1]), b(20, [2])), Code::NotCanonical, &[20], "more than one piece"),
        (b(20, [0x80, 0x00]), Code::NotCanonical, &[20], "shortest"),
        (b(20, [0x80]), Code::NotCanonical, &[20], "end inside"),
        (b(30, [2]), Code::NotCanonical, &[30], "bool"),
        (b(31, [2]), Code::NotCanonical, &[31], "declare"),
        (two(b(25, ""), v(26, 0)), Code::NotCanonical, &[26], "oneof"),
        (two(v(26, 1), b(27, "")), Code::NotCanonical, &[27], "oneof"),
        (b(29, "now"), Code::NotCanonical, &[29], "REAL_TIME"),
        (b(22, v(1, 1)), Code::NotCanonical, &[22, 2], "without its value"),
        (b(22, b(2, "")), Code::NotCanonical, &[22, 1], "without its key"),
        (b(22, ""), Code::NotCanonical, &[22, 1], "without its key"),
        (b(22, cat(&[v(1, 1), b(2, ""), b(2, "")])), Code::NotCanonical, &[22, 2], "twice"),
        (b(22, cat(&[v(1, 1), b(2, ""), v(3, 1)])), Code::UnknownField, &[22, 3], "no field 3"),
        (b(22, cat(&[v(1, 1), b(2, v(1, 1))])), Code::NotCanonical, &[22, 2, 1], "wire type"),
        (v(40, 1), Code::UnknownField, &[40], "vectors.Root has no field 40"),
        (b(17, v(9, 1)), Code::UnknownField, &[17, 9], "vectors.Root.plain.9: vectors.Plain has no field 9"),
        (b(105, ""), Code::NotCanonical, &[105], "defaults"),
        (vec![0x00, 0x01], Code::NotCanonical, &[], "field number"),
        (vec![0x1b], Code::NotCanonical, &[3], "groups"),
        (vec![0x1e], Code::NotCanonical, &[3], "wire type 6"),
        (vec![0x18], Code::NotCanonical, &[3], "end inside"),
        // A tag says enough: what follows an unknown one is not looked at.
        (vec![0xc2, 0x02, 0xff], Code::UnknownField, &[40], "no field 40"),
        (vec![0x98, 0x00, 0x01], Code::NotCanonical, &[], "shortest"),
        (cat(&[v(3, 1), vec![0x20]]), Code::NotCanonical, &[4], "end inside"),
        (vec![0x18, 0x81, 0x00], Code::NotCanonical, &[3], "shortest"),
        (vec![0x0a, 0x81, 0x00, b'x'], Code::NotCanonical, &[1], "shortest"),
    ];
    for (bytes, code, field, words) in cases {
        refused(&schema, &bytes, code, field, words);
    }
}

#[test]
fn what_only_looks_unusual_is_kept_to_the_bit() {
    let schema = vectors_schema();
    for bytes in [
        vec![],
        f32_bits(11, 0x8000_0000),
        f64_bits(12, 1 << 63),
        f32_bits(11, 0x7fa0_0001),
        f64_bits(12, 0x7ff0_0000_0000_0001),
        v(3, -1i64 as u64),
        v(14, -3i64 as u64),
        v(15, 0),
        b(16, ""),
        b(17, ""),
        v(26, 0),
        b(21, [1, 0xac, 2]),
        b(18, []),
        cat(&[b(18, []), b(18, b(1, "z")), b(18, [])]),
        cat(&[b(19, ""), b(19, "")]),
        // Any is its type_url and opaque bytes.
        b(28, cat(&[b(1, "type.googleapis.com/x"), b(2, [0xff, 0x00])])),
        // Not normalised: e and an accent stay two.
        b(1, "e\u{301}"),
        // Empty and long keys are fine in maps.
        b(23, cat(&[b(1, ""), b(2, "")])),
        b(23, cat(&[b(1, "k".repeat(300)), b(2, "")])),
    ] {
        let subtree = schema.split(schema.root(), &bytes, 1).unwrap_or_else(|error| panic!("{bytes:02x?}: {error}"));
        assert_eq!(subtree.config, bytes);
        let canonical = schema.canonicalise(schema.root(), &bytes, 1, ChildFields::Refused).expect("valid");
        assert_eq!(canonical.bytes, bytes);
    }
}

/// formats.md 1: ordered by key in the order of section 2, false before true; no key twice.
#[test]
fn map_entries_ascend_by_key() {
    let schema = vectors_schema();
    let number = |key: i64| b(22, cat(&[v(1, key as u64), b(2, "")]));
    let flag = |key: bool| b(24, cat(&[v(1, key.into()), v(2, 0)]));
    let label = |key: &str| b(23, cat(&[b(1, key), b(2, "")]));
    let good = [
        (22, number(-5), number(0)),
        (22, number(-1), number(i64::from(i32::MAX))),
        (23, label("a"), label("aa")),
        (23, label("Z"), label("a")),
        (24, flag(false), flag(true)),
    ];
    for (field, a, b) in good {
        schema.split(schema.root(), &cat(&[a.clone(), b.clone()]), 1).expect("ascending");
        refused(&schema, &cat(&[b.clone(), a.clone()]), Code::NotCanonical, &[field], "order");
        refused(&schema, &cat(&[a.clone(), a]), Code::NotCanonical, &[field], "twice");
    }
}

#[test]
fn a_subtree_is_split_into_configs_and_children() {
    let schema = vectors_schema();
    let item = |id: &str| cat(&[b(1, id), v(3, 7), b(4, b(1, "below"))]);
    let bytes = cat(&[
        b(1, "root"),
        b(100, item("a")),
        b(100, item("b")),
        b(104, []),
        b(104, b(1, "x")),
        b(105, v(3, 1)),
        b(2047, "far"),
    ]);
    let subtree = schema.split(schema.root(), &bytes, 1).expect("canonical");
    // The config's runs before and after the children become one.
    assert_eq!(subtree.config, cat(&[b(1, "root"), b(2047, "far")]));
    let shape: Vec<(u32, Vec<&[u8]>)> =
        subtree.children.iter().map(|c| (c.field, c.entries.iter().map(|(key, _)| &key[..]).collect())).collect();
    assert_eq!(shape, [(100, vec![&b"a"[..], b"b"]), (104, vec![&[0, 0, 0, 0], &[0, 0, 0, 1]]), (105, vec![&[]])]);
    let (_, first) = &subtree.children[0].entries[0];
    assert_eq!(first.config, cat(&[b(1, "a"), v(3, 7)]));
    assert_eq!(first.children[0].entries[0].1.config, b(1, "below"));

    let container = cat(&[b(100, item("a")), b(100, item("b"))]);
    let entries = schema.split_container(schema.root(), 100, &container, 1).expect("a container");
    assert_eq!(entries, subtree.children[0].entries);
    assert!(schema.split_container(schema.root(), 100, &[], 1).expect("an empty container").is_empty());
    for other in [cat(&[b(1, "root"), container.clone()]), b(101, item("a")), b(104, [])] {
        let error = schema.split_container(schema.root(), 100, &other, 1).expect_err("another field");
        assert_eq!(error.code, Code::NotCanonical);
    }
}

/// U3: update data with children set is refused; formats.md 4: but only when it is canonical otherwise.
#[test]
fn an_update_cannot_carry_children() {
    let schema = vectors_schema();
    let root = schema.root();
    let error = schema.check_config(root, &cat(&[b(1, "x"), b(100, b(1, "a"))]), 1).expect_err("children");
    assert_eq!((error.code, error.field), (Code::ChildrenInUpdate, vec![100]));
    let error = schema.check_config(root, &cat(&[b(100, b(1, "a")), b(2047, "")]), 1).expect_err("not canonical first");
    assert_eq!(error.code, Code::NotCanonical);
    for bytes in [b(105, []), b(100, b(1, "a"))] {
        let error = schema.canonicalise(root, &bytes, 1, ChildFields::Refused).expect_err("children");
        assert_eq!((error.code, error.field.len()), (Code::ChildrenInUpdate, 1));
    }
}

/// K4: the empty key is refused; formats.md 2: at most 256 bytes.
#[test]
fn keys_are_present_and_not_too_long() {
    let schema = vectors_schema();
    refused(&schema, &b(100, []), Code::InvalidPath, &[100], "the key is empty");
    refused(&schema, &b(100, b(1, "k".repeat(257))), Code::Limit, &[100], "at most 256");
    let longest = b(100, b(1, "k".repeat(256)));
    assert_eq!(schema.split(schema.root(), &longest, 1).expect("256 bytes are fine").children[0].entries[0].0.len(), 256);
    for (bytes, code) in [(b(100, []), Code::InvalidPath), (b(100, b(1, "k".repeat(257))), Code::Limit)] {
        assert_eq!(schema.canonicalise(schema.root(), &bytes, 1, ChildFields::Allowed).expect_err("key").code, code);
    }
    // K6: a default key of a number is a key like any other.
    assert_eq!(*schema.split(schema.root(), &b(102, []), 1).expect("key 0").children[0].entries[0].0, [0; 8]);
}

/// A1 in initial data: two elements of one key; K7: elements stand in key order.
#[test]
fn elements_ascend_by_key_and_twins_are_refused() {
    let schema = vectors_schema();
    let item = |id: &str| b(100, b(1, id));
    refused(&schema, &cat(&[item("b"), item("a")]), Code::NotCanonical, &[100], "out of key order");
    refused(&schema, &cat(&[item("a"), item("a")]), Code::AlreadyExists, &[100], "two elements have the key \"a\"");
    let twins = cat(&[item("b"), item("a"), item("b")]);
    let error = schema.canonicalise(schema.root(), &twins, 1, ChildFields::Allowed).expect_err("twins");
    assert_eq!(error.code, Code::AlreadyExists);
    // H4: the same key in two containers of one type is no twin.
    schema.split(schema.root(), &cat(&[item("a"), b(101, b(1, "a"))]), 1).expect("two containers");
    let signed = |n: i64| b(103, v(1, n as u64));
    schema.split(schema.root(), &cat(&[signed(-2), signed(-1), b(103, []), signed(1)]), 1).expect("signed keys by value");
    refused(&schema, &cat(&[signed(1), signed(-1)]), Code::NotCanonical, &[103], "\"-1\"");
}

/// formats.md 4: canonical bytes are decided before keys, keys before twins, those before limits.
#[test]
fn the_first_breach_in_the_order_of_checks_decides() {
    let schema = vectors_schema();
    let item = |id: &str| b(100, b(1, id));
    let long = item(&"k".repeat(257));
    let empty = b(101, []);
    let twins = cat(&[item("a"), item("a")]);
    let broken = v(2047, 1);
    for (bytes, code) in [
        (cat(&[twins.clone(), empty.clone(), broken.clone()]), Code::NotCanonical),
        (cat(&[twins.clone(), empty.clone()]), Code::InvalidPath),
        (cat(&[twins.clone(), long.clone()]), Code::AlreadyExists),
        (cat(&[item("a"), long.clone()]), Code::Limit),
    ] {
        assert_eq!(schema.split(schema.root(), &bytes, 1).expect_err("refused").code, code);
    }
    assert_eq!(schema.check_config(schema.root(), &cat(&[twins, long.clone()]), 1).expect_err("refused").code, Code::AlreadyExists);
    assert_eq!(schema.check_config(schema.root(), &long, 1).expect_err("refused").code, Code::ChildrenInUpdate);
}

/// `child_node` inside plain nested data says nothing there: order and twins are free, and nothing is split.
#[test]
fn plain_data_has_no_children() {
    let schema = vectors_schema();
    let copy = b(5, cat(&[b(4, b(1, "z")), b(4, b(1, "a")), b(4, b(1, "a")), b(4, [])]));
    let bytes = b(105, copy.clone());
    let subtree = schema.split(schema.root(), &bytes, 1).expect("plain data");
    assert_eq!(subtree.children[0].entries[0].1.config, copy);
    assert_eq!(schema.canonicalise(schema.root(), &bytes, 1, ChildFields::Allowed).expect("plain data").bytes, bytes);
    // S8: REAL_TIME is absent at any depth all the same.
    refused(&schema, &b(105, b(5, b(4, b(6, "now")))), Code::NotCanonical, &[105, 5, 4, 6], "REAL_TIME");
}

/// Q15, formats.md 1: nesting is counted over children, plain data and map entries, and stops at 64.
#[test]
fn messages_nest_64_deep_and_no_deeper() {
    let schema = vectors_schema();
    // `levels` messages inside one another under the given fields, innermost empty.
    let nest = |levels: u32, field: u32| (0..levels).fold(Vec::new(), |inner, _| b(field, inner));
    let root = schema.root();
    let item = ty(&schema, "vectors.Item");
    let below = MAX_DEPTH - 1;

    for (ty, bytes) in [(ty(&schema, "vectors.Plain"), nest(below, 3)), (item, nest(below, 5)), (root, b(17, nest(below - 1, 3)))] {
        schema.check_config(ty, &bytes, 1).expect("64 levels");
        assert_eq!(schema.check_config(ty, &bytes, 2).expect_err("65 levels").code, Code::Limit);
        schema.canonicalise(ty, &bytes, 1, ChildFields::Refused).expect("64 levels");
        assert_eq!(schema.canonicalise(ty, &bytes, 2, ChildFields::Refused).expect_err("65 levels").code, Code::Limit);
    }
    // Children: a path of elements, each inside the one before.
    let chain = |levels: u32| (0..levels).fold(b(1, "k"), |inner, _| cat(&[b(1, "k"), b(4, inner)]));
    schema.split(item, &chain(below), 1).expect("64 levels");
    let error = schema.split(item, &chain(below + 1), 1).expect_err("65 levels");
    assert_eq!((error.code, error.field.len()), (Code::Limit, 64));
    // A map entry is a message too: root 1, entry 2, value 3.
    let entry = |levels: u32| b(22, cat(&[v(1, 1), b(2, nest(levels, 3))]));
    schema.check_config(root, &entry(MAX_DEPTH - 3), 1).expect("64 levels");
    assert_eq!(schema.check_config(root, &entry(MAX_DEPTH - 2), 1).expect_err("65 levels").code, Code::Limit);
    assert_eq!(schema.canonicalise(root, &entry(MAX_DEPTH - 2), 1, ChildFields::Refused).expect_err("65 levels").code, Code::Limit);
    assert_eq!(schema.check_config(root, &[], MAX_DEPTH + 1).expect_err("too deep from the start").code, Code::Limit);
    // 100,000 deep: an error, and no stack is used up.
    let abyss = nest(100_000, 5);
    assert_eq!(schema.split(item, &abyss, 1).expect_err("an abyss").code, Code::Limit);
    assert_eq!(schema.canonicalise(item, &abyss, 1, ChildFields::Allowed).expect_err("an abyss").code, Code::Limit);
}

#[test]
fn canonicalising_refuses_what_no_parser_would_store_faithfully() {
    let schema = vectors_schema();
    for (bytes, code, words) in [
        (v(40, 1), Code::UnknownField, "no field 40"),
        (b(17, v(9, 1)), Code::UnknownField, "vectors.Root.plain.9"),
        (v(14, 2), Code::NotCanonical, "does not declare the number 2"),
        (b(31, [1, 2]), Code::NotCanonical, "does not declare the number 2"),
        (b(1, [0xff]), Code::NotCanonical, "UTF-8"),
        (b(3, "x"), Code::NotCanonical, "wire type 2"),
        (vec![0x1b, 0x1c], Code::NotCanonical, "groups"),
        (vec![0x0a, 0x05], Code::NotCanonical, "end inside"),
        // Displaced by a later member of its oneof, but malformed all the same.
        (cat(&[b(27, v(9, 1)), v(26, 1)]), Code::UnknownField, "vectors.Root.shape.9"),
    ] {
        let error = schema.canonicalise(schema.root(), &bytes, 1, ChildFields::Allowed).expect_err(words);
        assert_eq!(error.code, code, "{}", error.text);
        assert!(error.text.contains(words), "\"{}\" does not say \"{words}\"", error.text);
    }
    // An undeclared number that a later one overwrites was never the value.
    let bytes = cat(&[v(14, 2), v(14, 1)]);
    assert_eq!(schema.canonicalise(schema.root(), &bytes, 1, ChildFields::Allowed).expect("the last one stands").bytes, v(14, 1));
}

#[test]
fn the_last_member_of_a_oneof_stands_and_pieces_of_one_member_merge() {
    let schema = vectors_schema();
    let canonical = |bytes: Vec<u8>| schema.canonicalise(schema.root(), &bytes, 1, ChildFields::Allowed).expect("valid").bytes;
    let shape = |inner: Vec<u8>| b(27, inner);
    assert_eq!(canonical(cat(&[shape(b(1, "a")), shape(b(3, []))])), shape(cat(&[b(1, "a"), b(3, [])])));
    assert_eq!(canonical(cat(&[shape(b(1, "a")), v(26, 1), shape(b(3, []))])), shape(b(3, [])));
    assert_eq!(canonical(cat(&[v(26, 1), b(25, "w")])), b(25, "w"));
}

#[test]
fn a_message_with_many_far_fields_is_looked_up_by_number() {
    let fields: String = (0..300).map(|i| format!("uint32 f{i} = {};\n", 1 + i * 1250)).collect();
    let schema = schema(&format!("message Root {{ {fields} }}"));
    let bytes: Vec<u8> = (0..300).flat_map(|i| v(1 + i * 1250, 5)).collect();
    schema.check_config(schema.root(), &bytes, 1).expect("all known");
    let message = schema.message(schema.root());
    for number in 1..300 * 1250 {
        assert_eq!(message.field(number).map(|field| field.number), (number % 1250 == 1).then_some(number), "{number}");
    }
    assert!(message.field(u32::MAX).is_none() && message.field(0).is_none());
}

/// S8: only what would have been part of the value is named as cleared.
#[test]
fn real_time_fields_of_a_displaced_member_are_not_named() {
    let schema = schema(
        "message Root { oneof o { Inner a = 1; string b = 2; } string own = 3 [(voltha.access) = REAL_TIME]; }
         message Inner { string clock = 1 [(voltha.access) = REAL_TIME]; }",
    );
    let cleared = |bytes: Vec<u8>| schema.canonicalise(schema.root(), &bytes, 1, ChildFields::Allowed).expect("valid").cleared;
    assert_eq!(cleared(cat(&[b(1, b(1, "x")), b(3, "x"), b(3, "y")])), ["a.clock", "own"]);
    assert_eq!(cleared(cat(&[b(1, b(1, "x")), b(2, ""), b(3, "x")])), ["own"]);
}
