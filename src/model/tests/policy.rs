//! Rights: decisions in tables, the compiled form against the plain one, canonical bytes, and what may not come into force.

use confold_model::code::Code;
use confold_model::event::{Base, Body, Commit, Expect, Guard, Operation, OperationKind, RetentionPolicy, envelope};
use confold_model::ids::{EventId, Position, Revision};
use confold_model::path::{Path, Step};
use confold_model::policy::{
    EVERYBODY, MAX_POLICY_BYTES, MAX_RULES, Policy, Reach, Right, Rights, Rule, Rulebook, TokenRow, Visible, token_hash,
};
use confold_model::proto;
use proptest::prelude::*;

/// `/1/a/2`: field numbers, and a letter for a key after them.
fn path(text: &str) -> Path {
    let mut steps: Vec<Step> = Vec::new();
    for segment in text.split('/').filter(|segment| !segment.is_empty()) {
        match segment.parse() {
            Ok(field) => steps.push(Step::single(field)),
            Err(_) => steps.last_mut().unwrap().key = Some(segment.as_bytes().into()),
        }
    }
    Path { steps }
}

fn rights(text: &str) -> Rights {
    text.split_whitespace()
        .map(|name| Right::from_name(name).unwrap())
        .collect()
}

fn rule(principal: &str, prefix: &str, words: &str) -> Rule {
    let strict = words.contains("strict");
    Rule {
        principal: principal.into(),
        prefix: path(prefix),
        rights: rights(&words.replace("strict", "")),
        strict,
    }
}

fn policy(rules: &[(&str, &str, &str)]) -> Policy {
    Policy {
        rules: rules.iter().map(|(who, at, words)| rule(who, at, words)).collect(),
        tokens: Vec::new(),
    }
}

fn token(id: u8, principal: &str) -> TokenRow {
    TokenRow {
        id: [id; 8],
        hash: token_hash(&[id; 32]),
        principal: principal.into(),
        expires_ms: 0,
    }
}

/// The house: admin is `root`, ann reads one container, bob reads and writes one element, everybody reads `/9`.
fn house() -> Policy {
    policy(&[
        ("root", "/", "admin"),
        ("ann", "/1", "read"),
        ("bob", "/1/a", "read write"),
        ("cho", "/1/a/2/b", "write"),
        (EVERYBODY, "/9", "read"),
    ])
}

#[test]
fn a_right_holds_at_and_below_its_path_on_whole_steps_and_nowhere_else() {
    let house = house();
    let rows = [
        // A container's rule covers the container, its elements and all below.
        ("ann", Right::Read, "/1", true),
        ("ann", Right::Read, "/1/a", true),
        ("ann", Right::Read, "/1/a/2/b", true),
        ("ann", Right::Write, "/1/a", false),
        ("ann", Right::Read, "/", false),
        ("ann", Right::Read, "/12", false),
        ("ann", Right::Read, "/12/a", false),
        // An element's rule covers the element and all below: not its container, and no key that begins alike.
        ("bob", Right::Write, "/1/a", true),
        ("bob", Right::Write, "/1/a/2", true),
        ("bob", Right::Write, "/1/ab", false),
        ("bob", Right::Write, "/1/b", false),
        ("bob", Right::Write, "/1", false),
        ("bob", Right::Read, "/", false),
        // No right implies another one.
        ("cho", Right::Write, "/1/a/2/b", true),
        ("cho", Right::Read, "/1/a/2/b", false),
        ("root", Right::Admin, "/", true),
        ("root", Right::Read, "/", false),
        ("root", Right::Write, "/1/a", false),
        ("root", Right::Tag, "/", false),
        // Everybody is everybody with a name.
        ("ann", Right::Read, "/9", true),
        ("somebody", Right::Read, "/9/2", true),
        ("", Right::Read, "/9", false),
        // No name comes in by looking like another one, or like the word for everybody.
        ("an", Right::Read, "/1", false),
        ("ann ", Right::Read, "/1", false),
        (EVERYBODY, Right::Read, "/1", false),
    ];
    for (who, right, at, expected) in rows {
        assert_eq!(house.allows(who, right, &path(at)), expected, "{who} {right:?} {at}");
        assert_eq!(
            Rulebook::new(&house).of(who).allows(right, &path(at)),
            expected,
            "compiled: {who} {right:?} {at}"
        );
    }
}

#[test]
fn a_policy_without_rules_allows_everything_to_everybody_also_when_it_has_tokens() {
    let open = Policy {
        rules: Vec::new(),
        tokens: vec![token(1, "ann")],
    };
    let book = Rulebook::new(&open);
    for who in ["", "ann", EVERYBODY] {
        for right in Right::ALL {
            assert!(
                open.allows(who, right, &path("/1/a")) && book.of(who).allows(right, &path("/1/a")),
                "{who} {right:?}"
            );
        }
        assert_eq!(book.of(who).visible(&Path::root()), Visible::Full);
        assert!(!book.of(who).is_strict(&Path::root(), Reach::Subtree));
    }
}

#[test]
fn a_reader_sees_a_subtree_whole_in_part_or_not_at_all() {
    let house = house();
    let book = Rulebook::new(&house);
    let rows = [
        ("ann", "/", Visible::Partial),
        ("ann", "/1", Visible::Full),
        ("bob", "/", Visible::Partial),
        ("bob", "/1", Visible::Partial),
        ("bob", "/1/a", Visible::Full),
        ("bob", "/1/a/2", Visible::Full),
        ("bob", "/1/b", Visible::Hidden),
        ("bob", "/2", Visible::Hidden),
        // A right to write shows nothing.
        ("cho", "/1/a", Visible::Hidden),
        ("cho", "/1/a/2/b", Visible::Hidden),
        ("root", "/1", Visible::Hidden),
        ("", "/", Visible::Hidden),
        ("somebody", "/", Visible::Partial),
    ];
    for (who, at, expected) in rows {
        assert_eq!(book.of(who).visible(&path(at)), expected, "{who} {at}");
    }
    let keys = |who, at: &str, field| {
        book.of(who)
            .at(&path(at))
            .readable_keys(field)
            .into_iter()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys("bob", "/", 1), [b"a"]);
    assert!(keys("cho", "/", 1).is_empty(), "a right to write lists nothing");
    assert!(keys("", "/", 1).is_empty());
}

#[test]
fn strict_holds_below_its_path_and_for_whatever_reaches_into_it() {
    let policy = policy(&[
        ("root", "/", "admin"),
        ("ann", "/", "write"),
        ("ann", "/1/a", "strict"),
        (EVERYBODY, "/3", "strict"),
    ]);
    let book = Rulebook::new(&policy);
    let rows = [
        ("ann", "/1/a", Reach::Node, true),
        ("ann", "/1/a/2", Reach::Node, true),
        ("ann", "/1/b", Reach::Subtree, false),
        ("ann", "/1/ab", Reach::Subtree, false),
        // Putting a whole container would otherwise be the way round.
        ("ann", "/1", Reach::Subtree, true),
        ("ann", "/", Reach::Subtree, true),
        ("ann", "/", Reach::Node, false),
        ("bob", "/1/a", Reach::Subtree, false),
        ("bob", "/3", Reach::Node, true),
    ];
    for (who, at, reach, expected) in rows {
        assert_eq!(
            book.of(who).is_strict(&path(at), reach),
            expected,
            "{who} {at} {reach:?}"
        );
    }
}

fn update(at: &str, base: Option<Base>) -> Operation<'static> {
    Operation {
        path: path(at),
        strict: false,
        base,
        kind: OperationKind::Update {
            value: Vec::new().into(),
            mask: Vec::new(),
        },
    }
}

#[test]
fn every_operation_base_and_guard_of_a_commit_needs_its_right_whatever_the_others_have() {
    let book = Rulebook::new(&house());
    let refused = |who: &str, guards: Vec<Guard>, operations: Vec<Operation<'static>>| {
        let verdict = book.of(who).check(&Body::Commit(Commit { guards, operations }));
        verdict.err().map(|rejection| {
            assert_eq!(rejection.code, Code::Permission);
            rejection.path.expect("the refusal says where")
        })
    };
    let guard = |at: &str| Guard {
        path: path(at),
        expect: Expect::Absent,
    };
    assert_eq!(refused("bob", vec![], vec![update("/1/a", None)]), None);
    assert_eq!(
        refused("bob", vec![guard("/1/a/2")], vec![update("/1/a", Some(Base::Absent))]),
        None
    );
    assert_eq!(
        refused("bob", vec![], vec![update("/1/a", None), update("/1/b", None)]),
        Some(path("/1/b"))
    );
    assert_eq!(
        refused("bob", vec![guard("/1")], vec![update("/1/a", None)]),
        Some(path("/1"))
    );
    assert_eq!(refused("cho", vec![], vec![update("/1/a/2/b", None)]), None);
    assert_eq!(
        refused("cho", vec![], vec![update("/1/a/2/b", Some(Base::Absent))]),
        Some(path("/1/a/2/b"))
    );
    assert_eq!(refused("cho", vec![guard("/1/a/2/b")], vec![]), Some(path("/1/a/2/b")));
    assert_eq!(refused("ann", vec![], vec![update("/1/a", None)]), Some(path("/1/a")));
}

#[test]
fn bodies_that_concern_the_whole_store_need_tag_or_admin() {
    let policy = policy(&[
        ("root", "/", "admin"),
        ("tom", "/", "tag"),
        ("wim", "/", "read write"),
        ("rea", "/", "read"),
    ]);
    let book = Rulebook::new(&policy);
    let id = EventId {
        seen: Position(1),
        nonce: [1; 16],
    };
    let rows: [(Body<'static>, &[&str]); 9] = [
        (
            Body::Tag {
                name: "v1".into(),
                revision: Revision(1),
            },
            &["tom"],
        ),
        (
            Body::Untag {
                names: vec!["v1".into()],
            },
            &["tom"],
        ),
        (
            Body::Schema {
                descriptor_set: Vec::new().into(),
                root_message: "".into(),
            },
            &["root"],
        ),
        (Body::Retention(RetentionPolicy::default()), &["root"]),
        (
            Body::Prune {
                floor: Some(Revision(1)),
            },
            &["root"],
        ),
        (Body::Activation { level: 2 }, &["root"]),
        (Body::Clock, &["root"]),
        (Body::Withdraw { id }, &["root", "tom", "wim"]),
        (Body::Prune { floor: None }, &["root", "tom", "wim", "rea", ""]),
    ];
    for (body, allowed) in &rows {
        for who in ["root", "tom", "wim", "rea", ""] {
            assert_eq!(
                book.of(who).check(body).is_ok(),
                allowed.contains(&who),
                "{who:?} {}",
                body.name()
            );
        }
    }
    for body in [Body::Mark { last_mark: Position(0) }, Body::Fence] {
        assert!(book.of("").check(&body).is_ok(), "{}", body.name());
    }
}

#[test]
fn a_token_is_known_by_id_and_secret_together() {
    let policy = Policy {
        rules: Vec::new(),
        tokens: vec![
            token(1, "ann"),
            TokenRow {
                expires_ms: 1_000,
                ..token(2, "bob")
            },
        ],
    };
    let found = |id: u8, secret: u8| policy.token(&[id; 8], &[secret; 32]).map(|row| row.principal.as_str());
    assert_eq!(found(1, 1), Some("ann"));
    assert_eq!(found(2, 2), Some("bob"));
    assert_eq!(found(1, 2), None);
    assert_eq!(found(2, 1), None);
    assert_eq!(found(3, 3), None);
    assert_eq!(
        [999, 1_000, 1_001].map(|now| policy.tokens[1].is_expired(now)),
        [false, true, true]
    );
    assert!(!policy.tokens[0].is_expired(i64::MAX), "an expiry of 0 is none");
    assert_ne!(
        token_hash(&[1; 32]),
        *blake3::hash(&[1; 32]).as_bytes(),
        "the hash is of tokens alone"
    );
}

fn bytes(policy: &Policy, replaces: Position) -> Vec<u8> {
    let mut out = Vec::new();
    policy.write(replaces, &mut out);
    out
}

/// The bytes as the body of an event would be checked.
fn envelope_takes(policy: &[u8]) -> bool {
    let mut event = Vec::new();
    proto::put_message(&mut event, 24, |out| out.extend(policy));
    envelope().check_config(envelope().root(), &event, 1).is_ok()
}

#[test]
fn a_policy_is_read_back_from_its_canonical_bytes() {
    let mut policy = house();
    policy.rules.push(rule("dot", "/1/a", "read write strict"));
    policy.rules.push(rule("eve", "/", "read write tag admin"));
    policy.tokens = vec![
        token(1, "ann"),
        TokenRow {
            expires_ms: 1_790_000_000_000,
            ..token(2, "bob")
        },
    ];
    for (policy, replaces) in [(policy, Position(77)), (Policy::default(), Position(0))] {
        let bytes = bytes(&policy, replaces);
        assert!(envelope_takes(&bytes), "canonical under the envelope's tables");
        assert_eq!(Policy::read(&bytes).unwrap(), (policy, replaces));
    }
}

#[test]
fn rights_that_do_not_ascend_come_twice_or_are_none_are_malformed() {
    for (packed, sound) in [
        (vec![1, 2, 3, 4], true),
        (vec![4], true),
        (vec![0], false),
        (vec![2, 1], false),
        (vec![1, 1], false),
        (vec![5], false),
    ] {
        let mut out = Vec::new();
        proto::put_message(&mut out, 1, |out| {
            proto::put_bytes(out, 1, b"ann");
            proto::put_bytes(out, 3, &packed);
        });
        assert_eq!(envelope_takes(&out) && Policy::read(&out).is_ok(), sound, "{packed:?}");
    }
    for (id, hash, sound) in [
        (8, 32, true),
        (7, 32, false),
        (0, 32, false),
        (8, 33, false),
        (8, 0, false),
    ] {
        let mut out = Vec::new();
        proto::put_message(&mut out, 2, |out| {
            proto::put_bytes(out, 1, &vec![1; id]);
            proto::put_bytes(out, 2, &vec![1; hash]);
            proto::put_bytes(out, 3, b"ann");
        });
        assert_eq!(Policy::read(&out).is_ok(), sound, "id {id} hash {hash}");
    }
}

#[test]
fn a_policy_that_says_nothing_sound_may_not_come_into_force() {
    let with = |extra: Rule| {
        let mut policy = policy(&[("root", "/", "admin")]);
        policy.rules.push(extra);
        policy
    };
    let tokens = |tokens: Vec<TokenRow>| Policy {
        rules: Vec::new(),
        tokens,
    };
    let long = "x".repeat(257);
    let deep = "/1".repeat(64);
    let key = format!("/1/{}", "k".repeat(257));
    let rows = [
        ("empty", Policy::default(), None),
        ("a policy", house(), None),
        ("no principal", with(rule("", "/", "read")), Some(Code::Limit)),
        ("a long principal", with(rule(&long, "/", "read")), Some(Code::Limit)),
        ("256 bytes", with(rule(&long[1..], "/", "read")), None),
        ("control characters", with(rule("a\nb", "/", "read")), Some(Code::Limit)),
        ("nothing allowed", with(rule("ann", "/", "")), Some(Code::Malformed)),
        ("strict alone", with(rule("ann", "/1", "strict")), None),
        (
            "tag below the root",
            with(rule("ann", "/1", "tag")),
            Some(Code::Malformed),
        ),
        (
            "admin below the root",
            with(rule("ann", "/1", "read admin")),
            Some(Code::Malformed),
        ),
        ("as deep as a tree", with(rule("ann", &deep[2..], "read")), None),
        (
            "deeper than any tree",
            with(rule("ann", &deep, "read")),
            Some(Code::Limit),
        ),
        ("a long key", with(rule("ann", &key, "read")), Some(Code::Limit)),
        (
            "nobody has admin",
            policy(&[("ann", "/", "read write tag")]),
            Some(Code::Malformed),
        ),
        (
            "most rules",
            Policy {
                rules: vec![rule("a", "/", "admin"); MAX_RULES],
                tokens: Vec::new(),
            },
            None,
        ),
        (
            "too many rules",
            Policy {
                rules: vec![rule("a", "/", "admin"); MAX_RULES + 1],
                tokens: Vec::new(),
            },
            Some(Code::Limit),
        ),
        ("two tokens", tokens(vec![token(1, "ann"), token(2, "ann")]), None),
        (
            "one id twice",
            tokens(vec![token(1, "ann"), token(1, "bob")]),
            Some(Code::Malformed),
        ),
        (
            "a token for everybody",
            tokens(vec![token(1, EVERYBODY)]),
            Some(Code::Malformed),
        ),
        ("a token for nobody", tokens(vec![token(1, "")]), Some(Code::Limit)),
        (
            "before 1970",
            tokens(vec![TokenRow {
                expires_ms: -1,
                ..token(1, "ann")
            }]),
            Some(Code::Malformed),
        ),
    ];
    for (what, policy, expected) in rows {
        assert_eq!(policy.check().err().map(|rejection| rejection.code), expected, "{what}");
    }
}

#[test]
fn a_policy_may_have_as_many_bytes_as_the_limit_says_and_not_one_more() {
    let name = "n".repeat(256);
    let size = |policy: &Policy| policy.canonical(Position(0)).len();
    let (root, filler) = (policy(&[("root", "/", "admin")]), rule(&name, "/1", "read"));
    // What each rule adds does not depend on the others.
    let with = |policy: &Policy, first: usize, second: usize| {
        let mut policy = policy.clone();
        policy.rules.push(rule(&name[..first], "/1", "read"));
        policy.rules.push(rule(&name[..second], "/1", "read"));
        policy
    };
    let each = (size(&with(&root, 256, 256)) - size(&root)) / 2;
    let mut most = root.clone();
    most.rules.resize(1 + (MAX_POLICY_BYTES - 245 - size(&root)) / each, filler);
    assert!(most.rules.len() + 2 < MAX_RULES, "it is the bytes that count here");
    let of_size = |wanted: usize| {
        let missing = wanted - size(&most);
        let mut lengths = (1..=256).flat_map(|first| [(first, 100), (first, 256)]);
        let fits = lengths.find(|(first, second)| size(&with(&root, *first, *second)) - size(&root) == missing);
        let (first, second) = fits.unwrap_or_else(|| panic!("no two rules of {missing} bytes"));
        let policy = with(&most, first, second);
        assert_eq!(size(&policy), wanted);
        policy
    };
    for (bytes, expected) in [
        (MAX_POLICY_BYTES - 1, None),
        (MAX_POLICY_BYTES, None),
        (MAX_POLICY_BYTES + 1, Some(Code::Limit)),
    ] {
        let refused = of_size(bytes).check().err();
        assert_eq!(refused.as_ref().map(|refused| refused.code), expected, "{bytes}: {refused:?}");
        if let Some(refused) = refused {
            assert!(refused.detail.contains(&bytes.to_string()), "{}", refused.detail);
        }
    }
}

#[test]
fn a_refusal_names_who_what_and_where_and_not_what_is_there() {
    let book = Rulebook::new(&house());
    let refusal = book.of("bob").require(Right::Write, &path("/1/b")).unwrap_err();
    assert_eq!(
        (refusal.code, refusal.path, refusal.detail.as_str()),
        (
            Code::Permission,
            Some(path("/1/b")),
            "\"bob\" has no right to write here"
        )
    );
    let refusal = book.of("").require(Right::Read, &path("/")).unwrap_err();
    assert_eq!(refusal.detail, "a caller without a name has no right to read here");
}

fn any_path() -> impl Strategy<Value = Path> {
    let step = (1..4u32, prop::option::of(prop::sample::select(vec!["a", "ab", "b"])));
    let step = step.prop_map(|(field, key)| Step {
        field,
        key: key.map(|key| key.as_bytes().into()),
    });
    prop::collection::vec(step, 0..4).prop_map(|steps| Path { steps })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let who = prop::sample::select(vec!["ann", "bob", EVERYBODY]);
    let rule = (
        who,
        any_path(),
        prop::collection::vec(prop::sample::select(Right::ALL.to_vec()), 0..3),
        any::<bool>(),
    );
    let rule = rule.prop_map(|(principal, prefix, rights, strict)| Rule {
        principal: principal.into(),
        prefix,
        rights: rights.into_iter().collect(),
        strict,
    });
    prop::collection::vec(rule, 0..8).prop_map(|rules| Policy {
        rules,
        tokens: Vec::new(),
    })
}

proptest! {
    #[test]
    fn the_compiled_rules_decide_as_the_plain_ones_do(policy in any_policy(), at in any_path(), who in prop::sample::select(vec!["", "ann", "bob", "cho"])) {
        let book = Rulebook::new(&policy);
        let grants = book.of(who);
        for right in Right::ALL {
            prop_assert_eq!(grants.allows(right, &at), policy.allows(who, right, &at));
        }
        let mine: Vec<&Rule> = policy.rules_of(who).collect();
        let below = |rule: &Rule| rule.prefix.starts_with(&at);
        let visible = if policy.allows(who, Right::Read, &at) {
            Visible::Full
        } else if mine.iter().any(|rule| rule.rights.has(Right::Read) && below(rule)) {
            Visible::Partial
        } else {
            Visible::Hidden
        };
        prop_assert_eq!(grants.visible(&at), visible);
        let above = mine.iter().any(|rule| rule.strict && at.starts_with(&rule.prefix));
        prop_assert_eq!(grants.is_strict(&at, Reach::Node), above);
        prop_assert_eq!(grants.is_strict(&at, Reach::Subtree), above || mine.iter().any(|rule| rule.strict && below(rule)));
        prop_assert_eq!(grants.has_any(), policy.rules.is_empty() || mine.iter().any(|rule| !rule.rights.is_empty()));
    }

    #[test]
    fn a_right_at_a_path_is_a_right_below_it(policy in any_policy(), at in any_path(), field in 1..4u32, key in prop::option::of(Just(b"a"))) {
        let below = at.child(Step { field, key: key.map(|key| key.as_slice().into()) });
        for right in Right::ALL {
            prop_assert!(!policy.allows("ann", right, &at) || policy.allows("ann", right, &below));
        }
    }

    #[test]
    fn no_bytes_make_reading_a_policy_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok((policy, _)) = Policy::read(&bytes) {
            _ = policy.check();
            _ = Rulebook::new(&policy).of("ann").visible(&Path::root());
        }
    }
}
