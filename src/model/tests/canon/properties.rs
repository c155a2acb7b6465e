use crate::generate::{self, Dice, Item, Role, Value};
use crate::support::{cat, ty, v, vectors_schema};
use crate::vectors::rejoin;
use confold_model::subtree::Subtree;
use confold_model::canonicalise::ChildFields;
use confold_model::schema::{Kind, Schema, TypeId};
use proptest::prelude::*;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Schema> = LazyLock::new(vectors_schema);

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count, failure_persistence: None, ..ProptestConfig::default() }
}

fn random_value(seed: u64) -> (Value, Dice) {
    let mut dice = Dice(seed);
    let value = generate::value(&SCHEMA, SCHEMA.root(), Role::Node, 4, &mut dice);
    (value, dice)
}

/// Every config of a subtree passes the check that an update's config goes through.
fn configs_are_canonical(schema: &Schema, ty: TypeId, subtree: &Subtree<'_>, depth: u32) {
    schema.check_config(ty, &subtree.config, depth).expect("a split config is canonical");
    for children in &subtree.children {
        let child = schema.message(ty).child(children.field).expect("a child field");
        assert!(!children.entries.is_empty());
        assert!(children.entries.is_sorted_by(|a, b| a.0 < b.0), "keys ascend");
        children.entries.iter().for_each(|(_, element)| configs_are_canonical(schema, child.message, element, depth + 1));
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    /// H6, formats.md 1: of all encodings of a value that protobuf takes for the same, canonicalising gives the one.
    #[test]
    fn any_encoding_of_a_value_becomes_its_canonical_one(seed in any::<u64>()) {
        let (value, mut dice) = random_value(seed);
        let canonical = generate::canonical(&SCHEMA, SCHEMA.root(), &value);
        let messy = generate::messy(&SCHEMA, SCHEMA.root(), &value, Role::Node, &mut dice);

        let made = SCHEMA.canonicalise(SCHEMA.root(), &messy, 1, ChildFields::Allowed).expect("valid protobuf");
        prop_assert_eq!(&made.bytes, &canonical);
        let subtree = SCHEMA.split(SCHEMA.root(), &canonical, 1).expect("canonical");
        configs_are_canonical(&SCHEMA, SCHEMA.root(), &subtree, 1);
        prop_assert_eq!(rejoin(&SCHEMA, SCHEMA.root(), &subtree), canonical);
    }

    /// Bytes that pass the check are the ones that canonicalising them gives; and what canonicalising gives passes the check.
    #[test]
    fn damaged_bytes_are_refused_or_canonical_and_never_panic(seed in any::<u64>(), blows in 1usize..4) {
        let (value, mut dice) = random_value(seed);
        let mut bytes = generate::canonical(&SCHEMA, SCHEMA.root(), &value);
        for _ in 0..blows {
            let at = dice.below(bytes.len() + 1);
            match dice.below(4) {
                0 => bytes.insert(at, dice.next() as u8),
                1 if at < bytes.len() => _ = bytes.remove(at),
                2 => bytes.truncate(at),
                _ if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
                _ => {}
            }
        }
        agree(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        agree(&bytes);
    }

    /// U1: a masked update changes the masked fields and nothing else, as on a plain model.
    #[test]
    fn masked_updates_do_what_a_plain_model_does(seed in any::<u64>()) {
        let schema = &*SCHEMA;
        let plain = ty(schema, "vectors.Root");
        let mut dice = Dice(seed);
        let config = |dice: &mut Dice| {
            let mut value = generate::value(schema, plain, Role::Node, 4, dice);
            value.0.retain(|number, _| schema.message(plain).child(*number).is_none());
            value
        };
        let (old, other) = (config(&mut dice), config(&mut dice));
        let mask = random_mask(schema, plain, &mut dice);
        schema.check_mask(plain, &mask).expect("a mask");
        let encode = |value: &Value| generate::canonical(schema, plain, value);

        let value = model_masked(&other, &paths(&mask));
        prop_assert_eq!(schema.masked(plain, &encode(&other), &mask), encode(&value));
        schema.check_masked_value(plain, &encode(&value), &mask, 1).expect("holds masked fields only");
        if value != other {
            schema.check_masked_value(plain, &encode(&other), &mask, 1).expect_err("holds others too");
        }
        let merged = schema.merge_masked(plain, &encode(&old), &encode(&value), &mask);
        prop_assert_eq!(&merged, &encode(&model_merge(schema, plain, &old, &value, &paths(&mask))));
        schema.check_config(plain, &merged, 1).expect("a merged config is canonical");
    }

    /// U6, U7: an unchanged message violates nothing, and it does not matter which side is which.
    #[test]
    fn read_only_comparison_is_symmetric_and_quiet_on_equal_values(seed in any::<u64>()) {
        let (value, mut dice) = random_value(seed);
        let other = generate::value(&SCHEMA, SCHEMA.root(), Role::Node, 4, &mut dice);
        let [a, b] = [&value, &other].map(|value| generate::canonical(&SCHEMA, SCHEMA.root(), value));
        prop_assert!(SCHEMA.read_only_changes(SCHEMA.root(), &a, &a).is_empty());
        prop_assert_eq!(SCHEMA.read_only_changes(SCHEMA.root(), &a, &b), SCHEMA.read_only_changes(SCHEMA.root(), &b, &a));
    }
}

fn agree(bytes: &[u8]) {
    let root = SCHEMA.root();
    let checked = SCHEMA.split(root, bytes, 1);
    match SCHEMA.canonicalise(root, bytes, 1, ChildFields::Allowed) {
        Ok(canonical) => {
            SCHEMA.split(root, &canonical.bytes, 1).expect("canonicalised bytes are canonical");
            let again = SCHEMA.canonicalise(root, &canonical.bytes, 1, ChildFields::Allowed).expect("and stay so");
            assert_eq!(again.bytes, canonical.bytes);
            assert_eq!(checked.is_ok(), canonical.bytes == bytes, "the check accepts canonical bytes and no others: {checked:?}");
        }
        Err(error) => assert!(checked.is_err(), "checked, but cannot be canonicalised: {error}"),
    }
    let config = SCHEMA.check_config(root, bytes, 1);
    let childless = checked.is_ok_and(|subtree| subtree.children.is_empty());
    assert_eq!(config.is_ok(), childless);
    // These expect checked bytes; on others they must stay quiet all the same.
    let mask = vec![vec![1], vec![17, 3, 1], vec![27]];
    _ = SCHEMA.masked(root, bytes, &mask);
    _ = SCHEMA.merge_masked(root, bytes, bytes, &mask);
    _ = SCHEMA.read_only_changes(root, bytes, &cat(&[v(3, 1)]));
    _ = SCHEMA.join::<Vec<u8>>(root, bytes, &[]);
}

fn random_mask(schema: &Schema, ty: TypeId, dice: &mut Dice) -> Vec<Vec<u32>> {
    let mut paths: Vec<Vec<u32>> = Vec::new();
    for _ in 0..1 + dice.below(4) {
        let (mut path, mut at) = (Vec::new(), ty);
        loop {
            let fields: Vec<_> = schema.message(at).fields.iter().filter(|field| {
                field.access != confold_model::schema::Access::RealTime && (!path.is_empty() || !field.is_child())
            }).collect();
            let field = fields[dice.below(fields.len())];
            path.push(field.number);
            match field.kind {
                Kind::Message(inner) if field.shape == confold_model::schema::Shape::Presence && path.len() < 4 && !dice.one_in(4) => at = inner,
                _ => break,
            }
        }
        if !paths.iter().any(|other| other.starts_with(&path) || path.starts_with(other)) {
            paths.push(path);
        }
    }
    paths.sort();
    paths
}

fn paths(mask: &[Vec<u32>]) -> Vec<&[u32]> {
    mask.iter().map(Vec::as_slice).collect()
}

fn below<'m>(mask: &[&'m [u32]], number: u32) -> Vec<&'m [u32]> {
    mask.iter().filter(|path| path[0] == number).map(|path| &path[1..]).collect()
}

fn model_masked(value: &Value, mask: &[&[u32]]) -> Value {
    let mut kept = Value::default();
    for (number, item) in &value.0 {
        let inner = below(mask, *number);
        if inner.iter().any(|path| path.is_empty()) {
            kept.0.insert(*number, item.clone());
        } else if let (false, Item::Message(message)) = (inner.is_empty(), item) {
            let message = model_masked(message, &inner);
            if !message.0.is_empty() {
                kept.0.insert(*number, Item::Message(message));
            }
        }
    }
    kept
}

fn model_merge(schema: &Schema, ty: TypeId, old: &Value, value: &Value, mask: &[&[u32]]) -> Value {
    let message = schema.message(ty);
    let mut merged = old.clone();
    for field in &message.fields {
        let inner = below(mask, field.number);
        if inner.is_empty() {
            continue;
        }
        if inner.iter().any(|path| path.is_empty()) {
            match value.0.get(&field.number) {
                Some(item) => _ = merged.0.insert(field.number, item.clone()),
                None => _ = merged.0.remove(&field.number),
            }
            continue;
        }
        let Kind::Message(inner_ty) = field.kind else { panic!("a step into {}", field.name) };
        let message_of = |value: &Value| match value.0.get(&field.number) {
            Some(Item::Message(message)) => Some(message.clone()),
            _ => None,
        };
        let (was, is) = (message_of(old), message_of(value));
        if was.is_some() || is.is_some() {
            let inner = model_merge(schema, inner_ty, &was.unwrap_or_default(), &is.unwrap_or_default(), &inner);
            merged.0.insert(field.number, Item::Message(inner));
        }
    }
    // A oneof has one member; the one just set stands.
    for set in value.0.keys() {
        let Some(oneof) = message.field(*set).and_then(|field| field.oneof) else { continue };
        merged.0.retain(|number, _| number == set || message.field(*number).is_none_or(|field| field.oneof != Some(oneof)));
    }
    merged
}
