use crate::support::{golden, vectors_schema};
use base64::Engine;
use confold_model::subtree::Subtree;
use confold_model::canonicalise::ChildFields;
use confold_model::ids::Hash;
use confold_model::schema::{Schema, TypeId};

/// H6: one canonical encoding per value, whatever the sender's library made of it.
#[test]
fn canonical_configs_and_data_hashes_are_those_of_the_golden_vectors() {
    let schema = vectors_schema();
    let vectors: serde_json::Value = serde_json::from_str(&golden("vectors/vectors.json")).expect("JSON");
    let trees = vectors["trees"].as_array().expect("trees");
    assert!(trees.len() >= 87, "vectors went missing");
    for tree in trees {
        let name = tree["name"].as_str().expect("name");
        let text = |key: &str| tree[key].as_str().unwrap_or_else(|| panic!("{name}: {key}"));
        let message = base64::engine::general_purpose::STANDARD.decode(text("message")).expect("base64");

        let canonical = schema.canonicalise(schema.root(), &message, 1, ChildFields::Allowed).unwrap_or_else(|e| panic!("{name}: {e}"));
        let subtree = schema.split(schema.root(), &canonical.bytes, 1).unwrap_or_else(|e| panic!("{name}: {e}"));

        assert_eq!(hex::encode(&subtree.config), text("config"), "{name}");
        let preimage = [&[0x04], subtree.config.as_ref()].concat();
        assert_eq!(Hash::of(&preimage).to_string(), text("data_hash"), "{name}");
        assert_eq!(rejoin(&schema, schema.root(), &subtree), canonical.bytes, "{name}: joined again");
        let again = schema.canonicalise(schema.root(), &canonical.bytes, 1, ChildFields::Allowed).expect("canonical stays accepted");
        assert_eq!(again.bytes, canonical.bytes, "{name}: twice is once");
        assert!(again.cleared.is_empty(), "{name}");
    }
}

/// S8: what is cleared is said.
#[test]
fn real_time_fields_are_cleared_and_named() {
    let schema = vectors_schema();
    let vectors: serde_json::Value = serde_json::from_str(&golden("vectors/vectors.json")).expect("JSON");
    for (name, cleared) in [("REAL_TIME is not stored", vec!["clock", "items.clock"]), ("REAL_TIME deep in plain data is not stored", vec!["single.copy.clock", "single.copy.items.clock"])] {
        let tree = vectors["trees"].as_array().and_then(|trees| trees.iter().find(|tree| tree["name"] == name)).expect("vector");
        let message = base64::engine::general_purpose::STANDARD.decode(tree["message"].as_str().expect("message")).expect("base64");
        let canonical = schema.canonicalise(schema.root(), &message, 1, ChildFields::Allowed).expect("accepted");
        assert_eq!(canonical.cleared, cleared, "{name}");
    }
}

pub fn rejoin(schema: &Schema, ty: TypeId, subtree: &Subtree<'_>) -> Vec<u8> {
    let children: Vec<(u32, Vec<Vec<u8>>)> = subtree
        .children
        .iter()
        .map(|children| {
            let child = schema.message(ty).child(children.field).expect("split gives child fields");
            (children.field, children.entries.iter().map(|(_, element)| rejoin(schema, child.message, element)).collect())
        })
        .collect();
    schema.join(ty, &subtree.config, &children)
}
