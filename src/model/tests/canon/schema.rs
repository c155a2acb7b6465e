use crate::support::{b, descriptors, lines, problems, schema, source, v, vectors_schema};
use confold_model::code::Code;
use confold_model::schema::{Access, ChildKind, Kind, Schema, SchemaProblem};
use confold_model::wire_bytes;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::{Label, Type};
use proptest::prelude::*;
use protox::prost_reflect::prost::Message;
use std::sync::LazyLock;

/// S1, S2, S7, S8: options are read from descriptors, by either name.
#[test]
fn annotated_fields_become_children_and_all_others_stay_data() {
    let schema = schema(
        r#"message Root {
             repeated Item keyed = 1 [(voltha.child_node) = {key: "id"}];
             repeated Item other = 2 [(confold.v1.child_node) = {key: "n"}];
             repeated Item list = 3 [(voltha.child_node) = {}];
             Item single = 4 [(confold.v1.child_node) = {}];
             Item data = 5;
             repeated Item data_list = 6;
             string owner = 7 [(confold.v1.access) = READ_ONLY];
             string clock = 8 [(voltha.access) = REAL_TIME];
             repeated Item both = 9 [(voltha.child_node) = {key: "id"}, (confold.v1.child_node) = {key: "id"}];
             string same = 10 [(voltha.access) = READ_ONLY, (confold.v1.access) = READ_ONLY];
             google.protobuf.Any any = 11;
           }
           message Item { string id = 1; sint32 n = 2; }"#,
    );
    let root = schema.message(schema.root());
    assert_eq!(root.full_name, "t.Root");
    let children: Vec<String> = root
        .children()
        .map(|child| {
            let kind = match &child.kind {
                ChildKind::Single => "single".to_owned(),
                ChildKind::List => "list".to_owned(),
                ChildKind::Keyed(key) => format!("by {}={}", key.name, key.number),
            };
            format!("{} {} {kind} {}", child.number, child.name, schema.message(child.message).full_name)
        })
        .collect();
    assert_eq!(children, ["1 keyed by id=1 t.Item", "2 other by n=2 t.Item", "3 list list t.Item", "4 single single t.Item", "9 both by id=1 t.Item"]);
    assert_eq!(root.child_by_name("other").and_then(|child| child.key()).map(|key| key.kind), Some(Kind::Sint32));
    assert!(root.child(5).is_none() && root.child_by_name("data_list").is_none() && root.child(77).is_none());
    let access: Vec<Access> = [1, 7, 8, 10].iter().map(|number| root.field(*number).expect("a field").access).collect();
    assert_eq!(access, [Access::Config, Access::ReadOnly, Access::RealTime, Access::ReadOnly]);
    assert!(schema.message_by_name("google.protobuf.Any").is_some() && schema.message_by_name("t.Nothing").is_none());
}

/// S3, S4, S10, formats.md 1 and 2: each way to be wrong is named, at load.
#[test]
fn every_offender_is_named_when_the_schema_is_loaded() {
    let cases = [
        ("string x = 1 [(voltha.child_node) = {}];", "t.Root.x: child_node on a field that is not a message"),
        ("repeated string x = 1 [(voltha.child_node) = {key: \"id\"}];", "t.Root.x: child_node on a field that is not a message"),
        ("map<string, Item> x = 1 [(voltha.child_node) = {key: \"id\"}];", "t.Root.x: child_node on a map field; use a repeated message with a key"),
        ("oneof o { Item x = 1 [(voltha.child_node) = {}]; Item y = 2; }", "t.Root.x: child_node on a member of a oneof: a single child always exists"),
        ("Item x = 1 [(voltha.child_node) = {key: \"id\"}];", "t.Root.x: child_node with a key on a singular field; drop the key or make the field repeated"),
        ("Item x = 1 [(voltha.child_node) = {}, (voltha.access) = REAL_TIME];", "t.Root.x: child_node on a REAL_TIME field, which is never stored"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"nothing\"}];", "t.Root.x: the key \"nothing\" is not a field of t.Item"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"flag\"}];", "t.Root.x: the key t.Item.flag is neither a string nor an integer"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"raw\"}];", "t.Root.x: the key t.Item.raw is neither a string nor an integer"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"colour\"}];", "t.Root.x: the key t.Item.colour is neither a string nor an integer"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"fl\"}];", "t.Root.x: the key t.Item.fl is neither a string nor an integer"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"db\"}];", "t.Root.x: the key t.Item.db is neither a string nor an integer"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"message\"}];", "t.Root.x: the key t.Item.message is neither a string nor an integer"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"many\"}];", "t.Root.x: the key t.Item.many is not singular"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"maybe\"}];", "t.Root.x: the key t.Item.maybe is optional; a key has no presence"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"member\"}];", "t.Root.x: the key t.Item.member is a member of a oneof"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"clock\"}];", "t.Root.x: the key t.Item.clock is REAL_TIME and so never stored"),
        ("repeated Item x = 1 [(voltha.child_node) = {key: \"id\"}, (confold.v1.child_node) = {key: \"n\"}];", "t.Root.x: (confold.v1.child_node) and (voltha.child_node) disagree; keep one of them"),
        ("string x = 1 [(voltha.access) = CONFIG, (confold.v1.access) = READ_ONLY];", "t.Root.x: (confold.v1.access) and (voltha.access) disagree; keep one of them"),
    ];
    let item = "enum Colour { NONE = 0; }
        message Item { string id = 1; int32 n = 2; bool flag = 3; bytes raw = 4; Colour colour = 5; float fl = 6; double db = 7; Item message = 8;
          repeated string many = 9; optional string maybe = 10; oneof o { string member = 11; } string clock = 12 [(voltha.access) = REAL_TIME]; }";
    for (field, expected) in cases {
        assert_eq!(problems(&format!("message Root {{ {field} }} {item}")), expected);
    }
    // All of them at once, also deep below, also inside plain data.
    let all = problems(&format!("message Root {{ {} Deep deep = 9; }} message Deep {{ {} }} {item}", cases[0].0, cases[2].0));
    assert_eq!(all, "t.Deep.x: child_node on a map field; use a repeated message with a key\nt.Root.x: child_node on a field that is not a message");
    // What cannot be reached does not matter.
    schema(&format!("message Root {{ string a = 1; }} message Unreachable {{ {} }} {item}", cases[2].0));
}

/// S4: every integer type and string.
#[test]
fn strings_and_all_integers_can_be_keys() {
    for kind in ["string", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64"] {
        schema(&format!("message Root {{ repeated Item x = 1 [(voltha.child_node) = {{key: \"k\"}}]; }} message Item {{ {kind} k = 5; }}"));
    }
}

/// S6: a cycle of single children only is refused; through a container or plain data it is legal.
#[test]
fn only_cycles_made_of_single_children_alone_are_refused() {
    let single = "[(voltha.child_node) = {}]";
    let words = "closes a cycle made only of single children, back to";
    assert!(problems(&format!("message Root {{ Root me = 1 {single}; }}")).starts_with(&format!("t.Root.me: {words} t.Root;")));
    let long = problems(&format!(
        "message Root {{ A a = 1 {single}; }} message A {{ B b = 1 {single}; }} message B {{ string x = 1; C c = 2 {single}; }} message C {{ A a = 1 {single}; }}"
    ));
    assert!(long.starts_with(&format!("t.C.a: {words} t.A;")), "{long}");
    schema(&format!("message Root {{ Root data = 1; repeated Root list = 2 {single}; repeated Root keyed = 3 [(voltha.child_node) = {{key: \"k\"}}]; string k = 4; }}"));
    schema(&format!("message Root {{ A a = 1 {single}; A again = 2 {single}; }} message A {{ repeated Root up = 1 {single}; }}"));
}

#[test]
fn only_proto3_is_taken() {
    let old = |body: &str| descriptors(&format!("syntax = \"proto2\"; package t; {body}"));
    let refuse = |set: &[u8]| lines(&Schema::compile(set, "t.Root").expect_err("refused"));
    assert_eq!(
        refuse(&old("message Root { required string x = 1; optional group G = 2 { } }")),
        "t.Root: declared with syntax proto2; everything reachable from the root must be proto3\nt.Root.g: groups are not supported\nt.Root.x: required fields are not supported"
    );
    let mut set = structure("message Root { Other o = 1; E e = 2; } message Other {} enum E { Z = 0; }");
    set.file.iter_mut().for_each(|file| file.syntax = Some("editions".to_owned()));
    let words = "declared with syntax editions; everything reachable from the root must be proto3";
    assert_eq!(refuse(&set.encode_to_vec()), format!("t.E: {words}\nt.Other: {words}\nt.Root: {words}"));
    // Options live in a proto2 file that nothing refers to.
    schema("message Root { string x = 1 [(voltha.access) = READ_ONLY]; }");
}

#[test]
fn the_root_message_must_be_there() {
    let set = descriptors(&source("message Root {}"));
    for name in ["t.Nothing", "", "Root", ".t.Root"] {
        assert_eq!(lines(&Schema::compile(&set, name).expect_err("refused")), format!("root message: no message \"{name}\" in the descriptor set"));
    }
    let rejection = SchemaProblem::rejection(&Schema::compile(&set, "x").expect_err("refused"));
    assert_eq!((rejection.code, rejection.detail.as_str()), (Code::SchemaInvalid, "root message: no message \"x\" in the descriptor set"));
}

/// What no compiler writes can still be pushed.
#[test]
fn descriptor_sets_that_no_compiler_wrote_are_refused() {
    let base = "message Root { string a = 1; Other o = 2; E e = 3; map<string, Other> m = 4; optional string p = 5; oneof choice { string x = 6; string y = 7; } } message Other { string a = 1; } enum E { Z = 0; ONE = 1; }";
    type Damage = fn(&mut FileDescriptorSet);
    let cases: [(Damage, &str); 19] = [
        (|set| field(set, "a").number = Some(0), "t.Root.a: field number 0 is not within 1 to 536870911"),
        (|set| field(set, "a").number = Some(-1), "t.Root.a: field number -1"),
        (|set| field(set, "a").number = Some(1 << 29), "t.Root.a: field number 536870912"),
        (|set| field(set, "a").number = Some(2), "t.Root.o: field number 2 occurs twice"),
        (|set| field(set, "a").name = Some("o".to_owned()), "t.Root.o: field names must be identifiers, and each occur once"),
        (|set| field(set, "a").name = Some("a/b".to_owned()), "t.Root.a/b: field names must be identifiers"),
        (|set| field(set, "a").label = None, "t.Root.a: unknown label 0"),
        (|set| field(set, "a").r#type = Some(99), "t.Root.a: unknown field type 99"),
        (|set| field(set, "a").r#type = None, "t.Root.a: unknown field type 0"),
        (|set| field(set, "o").type_name = Some("Other".to_owned()), "t.Root.o: type name \"Other\" is not resolved"),
        (|set| field(set, "o").type_name = Some(".t.Gone".to_owned()), "t.Root.o: no message \"t.Gone\""),
        (|set| field(set, "e").type_name = Some(".t.Other".to_owned()), "t.Root.e: no enum \"t.Other\""),
        (|set| _ = main(set).enum_type[0].value.remove(0), "t.E: an enum must declare the number 0"),
        (|set| main(set).enum_type[0].value[1].name = Some("Z".to_owned()), "t.E.Z: value names must be identifiers, and each occur once"),
        (|set| field(set, "m").set_label(Label::Optional), "t.Root.m: a map entry can only be a repeated field"),
        (|set| main(set).message_type[0].nested_type[0].field[0].set_type(Type::Double), "t.Root.MEntry: not a well-formed map entry"),
        (|set| _ = main(set).message_type[0].nested_type[0].field.pop(), "t.Root.MEntry: not a well-formed map entry"),
        (|set| field(set, "x").proto3_optional = Some(true), "t.Root.x: an optional field cannot share a oneof with others"),
        (|set| field(set, "x").set_label(Label::Repeated), "t.Root.x: a repeated field can be neither optional nor a member of a oneof"),
    ];
    for (damage, expected) in cases {
        let mut set = structure(base);
        damage(&mut set);
        let found = lines(&Schema::compile(&set.encode_to_vec(), "t.Root").expect_err(expected));
        assert!(found.contains(expected), "\"{found}\" does not say \"{expected}\"");
    }
    let mut twice = structure(base);
    let again = main(&mut twice).clone();
    twice.file.push(again);
    assert!(lines(&Schema::compile(&twice.encode_to_vec(), "t.Root").expect_err("twice")).contains("t.Root: declared more than once"));
}

/// An option message can stand there in pieces, as any message; an enum is a varint.
#[test]
fn split_options_are_merged() {
    let options = [b(7_761_772, []), v(7_761_773, 1), b(7_761_772, b(1, "id"))].concat();
    let schema = Schema::compile(&hand_made(&options), "R").expect("valid");
    let child = schema.message(schema.root()).child(1).expect("a child");
    assert_eq!(child.key().map(|key| key.name.as_str()), Some("id"));
    assert_eq!(schema.message(schema.root()).field(1).expect("a field").access, Access::ReadOnly);
    let unknown = lines(&Schema::compile(&hand_made(&v(50_773, 3)), "R").expect_err("access 3"));
    assert_eq!(unknown, "R.f: access 3 does not exist; use CONFIG, READ_ONLY or REAL_TIME");
}

/// Q15: size, count and depth are bounded before anything is built.
#[test]
fn hostile_descriptor_sets_are_refused_early() {
    let refuse = |set: &[u8]| lines(&Schema::compile(set, "R").expect_err("refused"));
    let nested = |levels: usize| (0..levels).fold(Vec::new(), |inner, _| b(3, inner));
    assert!(refuse(&b(1, b(4, nested(100_000)))).contains("more than 32 deep"));
    assert!(refuse(&vec![0x0a, 0x00].repeat(5_000)).contains("more than 4096 files"));
    assert!(refuse(&b(1, [0x22, 0x00].repeat(20_000))).contains("more than 16384 messages"));
    assert!(refuse(&b(1, [0x2a, 0x00].repeat(20_000))).contains("more than 16384 messages"));
    assert!(refuse(&b(1, b(4, [0x12, 0x00].repeat(300_000)))).contains("more than 262144 fields"));
    assert!(refuse(&b(1, b(5, [0x12, 0x00].repeat(300_000)))).contains("more than 262144 enum values"));
    assert!(refuse(&vec![0; (8 << 20) + 1]).contains("8388609 bytes; at most 8388608"));
    assert!(refuse(&[0xff]).contains("not a descriptor set"));
    assert!(refuse(&b(1, b(1, [0xff]))).contains("not a descriptor set"));
    // The list of offenders is bounded too.
    let fields: Vec<u8> = (1..=5_000).flat_map(|n| b(2, [b(1, format!("f{n}")), v(3, n), v(4, 2), v(5, 9)].concat())).collect();
    let file = b(1, [b(4, [b(1, "R"), fields].concat()), b(12, "proto3")].concat());
    let found = Schema::compile(&file, "R").expect_err("required fields");
    assert_eq!((found.len(), found[1000].reason.as_str()), (1001, "and 4000 more problems"));
    // More oneofs than there are bits to check them with.
    let fields: Vec<u8> = (1..=65).flat_map(|n| b(2, [b(1, format!("f{n}")), v(3, n), v(4, 1), v(5, 9), v(9, n)].concat())).collect();
    let file = b(1, [b(4, [b(1, "R"), fields].concat()), b(12, "proto3")].concat());
    assert_eq!(refuse(&file), "R.f65: a message can have at most 64 oneofs");
}

/// A chain of types as long as a set allows is compiled without using up the stack.
#[test]
fn a_long_chain_of_types_is_compiled() {
    let chain: String = (0..3_000).map(|n| format!("message M{n} {{ M{} next = 1 [(voltha.child_node) = {{}}]; }}\n", n + 1)).collect();
    let schema = schema(&format!("message Root {{ M0 first = 1 [(voltha.child_node) = {{}}]; }} {chain} message M3000 {{ string a = 1 [(voltha.access) = READ_ONLY]; }}"));
    assert_eq!(schema.types().count(), 3_002);
}

static VECTORS: LazyLock<Vec<u8>> = LazyLock::new(|| descriptors(&crate::support::golden("vectors/vectors.proto")));
static SCHEMA: LazyLock<Schema> = LazyLock::new(vectors_schema);

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_descriptor_sets_never_panic(blows in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut set = VECTORS.clone();
        for (at, byte) in blows {
            let at = at.index(set.len());
            set[at] = byte;
        }
        if let Ok(damaged) = Schema::compile(&set, "vectors.Root") {
            _ = SCHEMA.compatible(&damaged);
            _ = damaged.split(damaged.root(), &b(100, b(1, "x")), 1);
        }
    }
}

/// A set without options, open to damage.
fn structure(messages: &str) -> FileDescriptorSet {
    FileDescriptorSet::decode(&descriptors(&source(messages))[..]).expect("a descriptor set")
}

fn main(set: &mut FileDescriptorSet) -> &mut prost_types::FileDescriptorProto {
    set.file.iter_mut().find(|file| file.name() == "main.proto").expect("main.proto")
}

fn field<'s>(set: &'s mut FileDescriptorSet, name: &str) -> &'s mut prost_types::FieldDescriptorProto {
    main(set).message_type[0].field.iter_mut().find(|field| field.name() == name).expect("a field")
}

/// `message R { repeated I f = 1 [options]; } message I { string id = 1; }`, byte by byte.
fn hand_made(options: &[u8]) -> Vec<u8> {
    let mut split = Vec::new();
    // The options of a field may themselves come in pieces.
    let (first, second) = options.split_at(wire_bytes::fields(options).next().map_or(0, |field| field.end));
    wire_bytes::put_bytes(&mut split, 8, first);
    wire_bytes::put_bytes(&mut split, 8, second);
    let f = b(2, [b(1, "f"), v(3, 1), v(4, 3), v(5, 11), b(6, ".I"), split].concat());
    let id = b(2, [b(1, "id"), v(3, 1), v(4, 1), v(5, 9)].concat());
    b(1, [b(4, [b(1, "R"), f].concat()), b(4, [b(1, "I"), id].concat()), b(12, "proto3")].concat())
}
