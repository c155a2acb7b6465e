//! The golden trees: from an ordinary serialization to canonical bytes, data hash, root and stored objects.

use base64::Engine;
use bytes::Bytes;
use confold_model::canonicalise::ChildFields;
use confold_model::ids::Hash;
use confold_model::node;
use confold_model::objects::{MemoryObjects, NoObjects};
use confold_model::path::Path;
use confold_model::schema::Schema;
use confold_model::tree::{Lookup, Tree};

fn golden(file: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/vectors").join(file)
}

fn schema() -> Schema {
    let mut compiler = protox::Compiler::new([golden("")]).unwrap();
    compiler.include_source_info(false).include_imports(true).open_file("vectors.proto").unwrap();
    Schema::compile(&compiler.encode_file_descriptor_set(), "vectors.Root").unwrap()
}

#[test]
fn every_golden_tree_has_its_bytes_its_hashes_and_its_objects() {
    let schema = schema();
    let all: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(golden("vectors.json")).unwrap()).unwrap();
    let trees = all["trees"].as_array().unwrap();
    assert!(trees.len() > 80);
    for row in trees {
        let name = row["name"].as_str().unwrap();
        let text = |key: &str| row[key].as_str().unwrap_or_else(|| panic!("{name}: {key}"));
        let sent = base64::engine::general_purpose::STANDARD.decode(text("message")).unwrap();
        let canonical = schema.canonicalise(schema.root(), &sent, 1, ChildFields::Allowed).unwrap();
        let subtree = schema.split(schema.root(), &canonical.bytes, 1).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(hex::encode(&subtree.config), text("config"), "{name}: config");
        assert_eq!(node::data_hash(&subtree.config).to_string(), text("data_hash"), "{name}: data hash");
        let tree = Tree::of(&subtree);
        assert_eq!(tree.root().to_string(), text("root"), "{name}: root");
        let mut objects = MemoryObjects::default();
        tree.unpersisted(&mut |hash, bytes| {
            assert_eq!(Hash::of(&bytes), hash, "{name}: an object under its hash");
            objects.0.insert(hash, bytes);
        });
        assert_eq!(objects.0.len() as u64, row["objects"].as_u64().unwrap(), "{name}: distinct objects");
        let size: usize = objects.0.values().map(Bytes::len).sum();
        assert_eq!(size as u64, row["object_bytes"].as_u64().unwrap(), "{name}: their bytes");
        // The same tree, read back from its objects alone.
        let Lookup::Found(again) = Tree::at(tree.root()).node(&Path::root(), &objects).unwrap() else {
            panic!("{name}: the root is stored");
        };
        assert_eq!(again.config(&objects).unwrap(), &subtree.config[..], "{name}");
        assert!(tree.node(&Path::root(), &NoObjects).is_ok());
    }
}
