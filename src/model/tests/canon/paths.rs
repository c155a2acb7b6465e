use crate::support::{b, cat, schema, ty, v, vectors_schema};
use confold_model::code::Code;
use confold_model::path::{FieldRef, MAX_PATH_BYTES, Path, Step, Target};
use confold_model::schema::{KeyField, Kind, Schema};
use proptest::prelude::*;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Schema> = LazyLock::new(vectors_schema);

fn path(steps: &[(u32, Option<&[u8]>)]) -> Path {
    Path { steps: steps.iter().map(|(field, key)| Step { field: *field, key: key.map(Into::into) }).collect() }
}

#[track_caller]
fn refused(text: &str, code: Code, words: &str) {
    let rejection = SCHEMA.parse_path(text).expect_err(text);
    assert_eq!(rejection.code, code, "{text}: {}", rejection.detail);
    assert!(rejection.detail.contains(words), "\"{}\" does not say \"{words}\"", rejection.detail);
}

/// K1, K2: leading slashes are dropped, one at the end is harmless; single children take no key.
#[test]
fn paths_are_read_with_leading_slashes_and_one_at_the_end() {
    for text in ["", "/", "//", "////"] {
        assert_eq!(SCHEMA.parse_path(text), Ok(Path::root()), "{text}");
    }
    for text in ["items", "/items", "//items", "items/", "/items/"] {
        assert_eq!(SCHEMA.parse_path(text), Ok(path(&[(100, None)])), "{text}");
    }
    for (text, steps) in [
        ("/items/a/items/b", path(&[(100, Some(b"a")), (4, Some(b"b"))])),
        ("/single", path(&[(105, None)])),
        ("/single/items/a", path(&[(105, None), (4, Some(b"a"))])),
        ("/numbered/7", path(&[(102, Some(&[0, 0, 0, 0, 0, 0, 0, 7]))])),
        ("/signed/-3", path(&[(103, Some(&[0x7f, 0xff, 0xff, 0xfd]))])),
        ("/list", path(&[(104, None)])),
        ("/items/olt%2F1", path(&[(100, Some(b"olt/1"))])),
    ] {
        let read = SCHEMA.parse_path(text).unwrap_or_else(|rejection| panic!("{text}: {}", rejection.detail));
        assert_eq!(read, steps);
        assert_eq!(SCHEMA.print_path(&read), text);
    }
    assert_eq!(SCHEMA.print_path(&Path::root()), "/");
}

#[test]
fn what_is_no_path_is_refused_with_its_reason() {
    // K2: an empty inner segment.
    refused("/items//a", Code::InvalidPath, "an empty segment");
    refused("/items//", Code::InvalidPath, "an empty segment");
    refused("/items/a//", Code::InvalidPath, "an empty segment");
    // K3: data fields and unknown names.
    refused("/name", Code::NotFound, "no such child field: vectors.Root has no child \"name\"; it has items, twins");
    refused("/items/a/copy", Code::NotFound, "no such child field: vectors.Item has no child \"copy\"");
    refused("/numbered/7/x", Code::NotFound, "it has none");
    // G3, U4: an index into a list.
    refused("/list/0", Code::NotKeyed, "list is a list without keys");
    // K5: canonical decimal within the range only.
    for (text, words) in [
        ("/numbered/07", "write it as 7"),
        ("/numbered/+7", "which is written \"%2B7\""),
        ("/numbered/%2B7", "write it as 7"),
        ("/numbered/-0", "write it as 0"),
        ("/numbered/-1", "use 0 to 18446744073709551615"),
        ("/numbered/18446744073709551616", "use 0 to"),
        ("/numbered/7.0", "decimal number"),
        ("/numbered/0x7", "decimal number"),
        ("/numbered/x", "decimal number"),
        ("/numbered/%207", "decimal number"),
        ("/numbered/99999999999999999999999999999999999999999999", "decimal number"),
        ("/signed/2147483648", "use -2147483648 to 2147483647"),
        ("/ports/4294967296", "use 0 to 4294967295"),
    ] {
        refused(text, Code::InvalidPath, words);
    }
    // Q18: one canonical form.
    refused("/items/.", Code::InvalidPath, "segment of dots");
    refused("/items/..", Code::InvalidPath, "segment of dots");
    refused("/..", Code::InvalidPath, "segment of dots");
    refused("/items/%2f", Code::InvalidPath, "upper-case hex");
    refused("/items/%2", Code::InvalidPath, "upper-case hex");
    refused("/items/%", Code::InvalidPath, "upper-case hex");
    refused("/items/%61", Code::InvalidPath, "which is written \"a\"");
    refused("/items/a:b", Code::InvalidPath, "which is written \"a%3Ab\"");
    refused("/items/*", Code::InvalidPath, "which is written \"%2A\"");
    refused("/items/é", Code::InvalidPath, "which is written \"%C3%A9\"");
    refused("/items/a\u{0}b", Code::InvalidPath, "which is written \"a%00b\"");
    refused("/items/%FF", Code::InvalidPath, "not UTF-8");
    refused("/items/%C0%AF", Code::InvalidPath, "not UTF-8");
    refused("/%69tems", Code::NotFound, "no such child field");
}

/// Q13: 256 bytes of key, 4 KiB of path, 64 levels; each at its limit and one beyond.
#[test]
fn limits_hold_at_the_limit_and_one_beyond() {
    let key = |length: usize| "k".repeat(length);
    SCHEMA.parse_path(&format!("/items/{}", key(256))).expect("256 bytes");
    refused(&format!("/items/{}", key(257)), Code::Limit, "257 bytes; at most 256");
    // "é" is two bytes of key and six of path.
    SCHEMA.parse_path(&format!("/items/{}", "%C3%A9".repeat(128))).expect("256 bytes");
    refused(&format!("/items/{}", "%C3%A9".repeat(129)), Code::Limit, "258 bytes");

    // 15 elements of 263 bytes are 3,945; the rest makes 4,096.
    let long = format!("/items/{}", key(256)).repeat(15) + &format!("/items/{}", key(MAX_PATH_BYTES - 3_945 - 7));
    assert_eq!(long.len(), MAX_PATH_BYTES);
    let read = SCHEMA.parse_path(&long).expect("4,096 bytes");
    assert_eq!(SCHEMA.path_len(&read), MAX_PATH_BYTES);
    SCHEMA.resolve(&read).expect("4,096 bytes");
    refused(&format!("{long}k"), Code::Limit, "4097 bytes; at most 4096");
    let mut longer = read.clone();
    longer.steps[15].key = Some(key(MAX_PATH_BYTES - 3_945 - 6).into_bytes().into());
    assert_eq!(SCHEMA.resolve(&longer).expect_err("4,097 bytes").code, Code::Limit);

    let deep = |steps: usize| "/items/a".repeat(steps);
    let read = SCHEMA.parse_path(&deep(63)).expect("64 levels");
    SCHEMA.resolve(&read).expect("64 levels");
    refused(&deep(64), Code::Limit, "deeper than 64");
    assert_eq!(SCHEMA.resolve(&read.child(Step::keyed(4, *b"a"))).expect_err("65 levels").code, Code::Limit);
}

#[test]
fn resolving_tells_nodes_from_containers_and_checks_each_step() {
    let item = ty(&SCHEMA, "vectors.Item");
    match SCHEMA.resolve(&Path::root()) {
        Ok(Target::Node { ty, keyed: None }) => assert_eq!(ty, SCHEMA.root()),
        other => panic!("{other:?}"),
    }
    match SCHEMA.resolve(&path(&[(100, Some(b"a"))])) {
        Ok(Target::Node { ty, keyed: Some(child) }) => assert_eq!((ty, child.number), (item, 100)),
        other => panic!("{other:?}"),
    }
    match SCHEMA.resolve(&path(&[(105, None), (4, None)])) {
        Ok(Target::Container { parent, child }) => assert_eq!((parent, child.number, child.message), (item, 4, item)),
        other => panic!("{other:?}"),
    }
    for (steps, code, words) in [
        (path(&[(1, None)]), Code::NotFound, "no such child field"),
        (path(&[(100, Some(b"a")), (77, None)]), Code::NotFound, "\"#77\""),
        (path(&[(104, Some(&[0, 0, 0, 0]))]), Code::NotKeyed, "without keys"),
        (path(&[(105, Some(b"a"))]), Code::NotAContainer, "single child"),
        (path(&[(100, None), (4, None)]), Code::IsAContainer, "is a container"),
        (path(&[(104, None), (4, None)]), Code::IsAContainer, "is a container"),
        (path(&[(100, Some(b""))]), Code::InvalidPath, "no key of id"),
        (path(&[(100, Some(&[0xff]))]), Code::InvalidPath, "no key of id"),
        (path(&[(100, Some(&[b'k'; 257]))]), Code::Limit, "257 bytes"),
        (path(&[(102, Some(&[0; 4]))]), Code::InvalidPath, "uint64"),
        (path(&[(103, Some(&[0; 8]))]), Code::InvalidPath, "int32"),
    ] {
        let rejection = SCHEMA.resolve(&steps).expect_err(words);
        assert_eq!(rejection.code, code, "{}", rejection.detail);
        assert!(rejection.detail.contains(words), "\"{}\" does not say \"{words}\"", rejection.detail);
        assert!(SCHEMA.print_path(&steps).starts_with('/'), "even a wrong path can be shown");
    }
}

/// formats.md 2, K7: key bytes order as values do.
#[test]
fn key_bytes_order_as_values_and_turn_into_text_and_back() {
    use Kind::*;
    let wide = ["-9223372036854775808", "-2147483649", "-2147483648", "-1", "0", "1", "2147483647", "4294967295", "9223372036854775807", "18446744073709551615"];
    for (kind, from, to) in [
        (Int32, 2, 7), (Sint32, 2, 7), (Sfixed32, 2, 7), (Uint32, 4, 8), (Fixed32, 4, 8),
        (Int64, 0, 9), (Sint64, 0, 9), (Sfixed64, 0, 9), (Uint64, 4, 10), (Fixed64, 4, 10),
    ] {
        let key = KeyField { number: 1, name: "n".to_owned(), kind };
        let bytes: Vec<_> = wide[from..to].iter().map(|text| key.parse(text).unwrap_or_else(|e| panic!("{kind:?} {text}: {}", e.detail))).collect();
        assert!(bytes.is_sorted_by(|a, b| a < b), "{kind:?}");
        for (bytes, text) in bytes.iter().zip(&wide[from..to]) {
            assert_eq!(key.text(bytes).as_deref(), Some(*text));
        }
        for text in wide[..from].iter().chain(&wide[to..]) {
            assert_eq!(key.parse(text).expect_err("out of range").code, Code::InvalidPath, "{kind:?} {text}");
        }
        assert_eq!(key.text(b"abc"), None);
    }
}

/// The key in a path and the key in an element are one and the same.
#[test]
fn the_key_of_an_element_is_the_key_of_its_path() {
    let zigzag = |n: i32| v(1, u64::from(((n << 1) ^ (n >> 31)) as u32));
    let fixed = |n: u64| cat(&[vec![0x09], n.to_le_bytes().to_vec()]);
    for (field, config, text) in [
        (100, cat(&[b(1, "a/b"), v(3, 1)]), "/items/a%2Fb"),
        (102, v(1, u64::MAX), "/numbered/18446744073709551615"),
        (102, vec![], "/numbered/0"),
        (103, v(1, i64::from(i32::MIN) as u64), "/signed/-2147483648"),
        (128, v(1, 3), "/ports/3"),
        (129, v(1, -5i64 as u64), "/longs/-5"),
        (300, zigzag(-7), "/zigzags/-7"),
        (300, zigzag(7), "/zigzags/7"),
        (301, fixed(1 << 40), "/fixeds/1099511627776"),
    ] {
        let child = SCHEMA.message(SCHEMA.root()).child(field).expect("a child");
        let key = SCHEMA.key_of(child.message, child.key().expect("keyed"), &config).expect("a key");
        assert_eq!(SCHEMA.parse_path(text), Ok(path(&[(field, Some(&key))])), "{text}");
    }
}

#[test]
fn an_element_lies_below_its_container_and_paths_order_as_the_tree_is_walked() {
    let (container, element, below) = (path(&[(100, None)]), path(&[(100, Some(b"a"))]), path(&[(100, Some(b"a")), (4, None)]));
    assert!(element.starts_with(&container) && below.starts_with(&container) && below.starts_with(&element));
    assert!(!container.starts_with(&element) && !element.starts_with(&path(&[(101, None)])));
    assert!(element.starts_with(&Path::root()) && !Path::root().starts_with(&element));
    assert!(!path(&[(100, Some(b"ab"))]).starts_with(&element));
    assert!(Path::root() < container && container < element && element < below && below < path(&[(100, Some(b"aa"))]));
    assert_eq!(below.parent(), Some(element.clone()));
    assert_eq!(element.parent(), Some(Path::root()));
    assert_eq!((Path::root().parent(), Path::root().depth(), below.depth()), (None, 1, 3));
}

#[test]
fn field_references_name_a_field_of_a_config() {
    for (text, fields) in [
        ("/:name", vec![1]),
        ("/:plain.inner.s", vec![17, 3, 1]),
        ("/:plains", vec![18]),
        ("/items/a%3Ab:copy.items", vec![5, 4]),
        ("/single:value", vec![3]),
        ("/items/a", vec![]),
        ("/", vec![]),
    ] {
        let read = SCHEMA.parse_field_ref(text).unwrap_or_else(|rejection| panic!("{text}: {}", rejection.detail));
        assert_eq!(read.fields, fields);
        assert_eq!(SCHEMA.print_field_ref(&read), text);
    }
    assert_eq!(SCHEMA.parse_field_ref(":name"), Ok(FieldRef { path: Path::root(), fields: vec![1] }));
    for (text, code) in [
        ("/items:id", Code::IsAContainer),
        ("/:nothing", Code::NotFound),
        ("/:", Code::NotFound),
        ("/:plain.", Code::NotFound),
        ("/:name.x", Code::InvalidPath),
        ("/:plains.s", Code::InvalidPath),
        ("/:by_number.key", Code::InvalidPath),
        ("/:items", Code::ChildrenInUpdate),
        ("/:clock", Code::InvalidPath),
        ("/:name:name", Code::NotFound),
        ("/nowhere:name", Code::NotFound),
    ] {
        assert_eq!(SCHEMA.parse_field_ref(text).expect_err(text).code, code, "{text}");
    }
}

/// What is added can be addressed (K4): the longest path of a subtree is known before it is stored.
#[test]
fn the_longest_path_of_a_subtree_is_that_of_its_deepest_names() {
    let schema = schema(
        "message Root { repeated Item items = 1 [(confold.v1.child_node) = {key: \"id\"}]; Single single = 2 [(confold.v1.child_node) = {}]; repeated Item list = 3 [(confold.v1.child_node) = {}]; }
         message Item { string id = 1; repeated Numbered ports = 2 [(confold.v1.child_node) = {key: \"n\"}]; }
         message Numbered { sint32 n = 1; } message Single { string a = 1; }",
    );
    let bytes = cat(&[b(1, cat(&[b(1, "a/b"), b(2, v(1, 0x13))])), b(1, b(1, "b")), b(2, b(1, "x")), b(3, b(1, "x".repeat(100)))]);
    let subtree = schema.split(schema.root(), &bytes, 1).expect("canonical");
    assert_eq!(schema.longest_path(schema.root(), &subtree, 0), "/items/a%2Fb/ports/-10".len());
    assert_eq!(schema.longest_path(schema.root(), &Default::default(), 5), 5);
}

fn arbitrary_path() -> impl Strategy<Value = Path> {
    let key = prop_oneof![
        "\\PC{1,20}",
        any::<String>().prop_filter("a key", |key| !key.is_empty() && key.len() <= 256),
        "[./%:*~a-c]{1,4}",
        Just(".".to_owned()),
        Just("..".to_owned()),
    ];
    let start = prop_oneof![
        key.clone().prop_map(|key| Step::keyed(100, key.into_bytes())),
        any::<u64>().prop_map(|n| Step::keyed(102, n.to_be_bytes())),
        any::<u32>().prop_map(|n| Step::keyed(103, n.to_be_bytes())),
        any::<u32>().prop_map(|n| Step::keyed(128, n.to_be_bytes())),
        Just(Step::single(104)),
        Just(Step::single(105)),
        Just(Step::single(300)),
    ];
    (start, proptest::collection::vec(key, 0..4)).prop_map(|(start, keys)| {
        let below = match (start.field, &start.key) {
            (100, Some(_)) | (105, None) => Some(4),
            (128, Some(_)) => Some(2),
            _ => None,
        };
        let mut path = Path::root().child(start);
        for (index, key) in keys.into_iter().enumerate() {
            let field = if index == 0 { below } else { below.map(|_| 4) };
            if let Some(field) = field {
                path = path.child(Step::keyed(field, key.into_bytes()));
            }
        }
        path
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Q18: every path has one text, and reading it gives the path back.
    #[test]
    fn reading_what_was_printed_gives_the_path_back(path in arbitrary_path()) {
        let text = SCHEMA.print_path(&path);
        prop_assert_eq!(SCHEMA.parse_path(&text), Ok(path.clone()));
        prop_assert_eq!(SCHEMA.path_len(&path), text.len());
        SCHEMA.resolve(&path).expect("a path of this schema");
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte)), "{text}");
        prop_assert!(text.split('/').skip(1).all(|segment| !["", ".", ".."].contains(&segment)), "{text}");
    }

    #[test]
    fn any_text_is_read_as_the_path_it_prints_as_or_refused(
        text in prop_oneof!["\\PC*", "/(items|single|numbered|list)(/[-.%a-c0-9F/]{0,8}){0,3}/?"],
    ) {
        if let Ok(path) = SCHEMA.parse_path(&text) {
            let plain = text.trim_start_matches('/');
            prop_assert_eq!(SCHEMA.print_path(&path), format!("/{}", plain.strip_suffix('/').unwrap_or(plain)));
        }
        _ = SCHEMA.parse_field_ref(&text);
    }
}
