//! The schemas and samples that come with confold.

use crate::schemas;
use confold_model::{canonicalise::ChildFields, schema::Schema};
use confold_wire::{
    dynamic::Types,
    schema_source::{Compiled, descriptor_set_of},
};
use prost_reflect::{DescriptorPool, Kind, Value};
use std::fs;

fn compile(folder: &str) -> Compiled {
    descriptor_set_of(&schemas(folder), &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// How many fields carry `child_node`, and how many `access` = READ_ONLY, among the options of one package.
fn annotated(descriptor_set: &[u8], package: &str) -> (usize, usize) {
    let pool = DescriptorPool::decode(descriptor_set).unwrap();
    let child_node = pool.get_extension_by_name(&format!("{package}.child_node")).unwrap();
    let access = pool.get_extension_by_name(&format!("{package}.access")).unwrap();
    let fields: Vec<_> = pool
        .all_messages()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .collect();
    let children = fields
        .iter()
        .filter(|field| field.options().has_extension(&child_node))
        .count();
    let read_only = fields
        .iter()
        .filter(|field| *field.options().get_extension(&access) == Value::EnumNumber(1))
        .count();
    (children, read_only)
}

// S1: the options are read from descriptors at run time, so they have to survive compiling.
#[test]
fn volthas_own_files_compile_unmodified_and_keep_every_option() {
    let voltha = compile("voltha");
    assert_eq!(annotated(&voltha.descriptor_set, "voltha"), (69, 56));
    assert!(voltha.files.contains(&"voltha.proto".to_owned()) && voltha.files.contains(&"events.proto".to_owned()));
    assert!(
        voltha.files.contains(&"google/api/http.proto".to_owned()),
        "their own imports are files of the folder"
    );

    let pool = DescriptorPool::decode(voltha.descriptor_set.as_slice()).unwrap();
    let root = pool.get_message_by_name("voltha.Voltha").unwrap();
    let devices = root.get_field_by_name("devices").unwrap();
    let child_node = pool.get_extension_by_name("voltha.child_node").unwrap();
    assert_eq!(child_node.number(), 7_761_772);
    assert_eq!(pool.get_extension_by_name("voltha.access").unwrap().number(), 7_761_773);
    let options = devices.options();
    let node = options.get_extension(&child_node);
    assert_eq!(
        *node.as_message().unwrap().get_field_by_name("key").unwrap(),
        Value::String("id".to_owned())
    );
}

#[test]
fn the_same_files_give_the_same_bytes() {
    assert_eq!(compile("voltha"), compile("voltha"));
    assert_eq!(compile("examples"), compile("examples"));
}

#[test]
fn the_example_shows_every_kind_of_child_and_every_access() {
    let example = compile("examples");
    assert_eq!(example.files, ["network.proto"]);
    assert_eq!(annotated(&example.descriptor_set, "confold.v1"), (5, 1));

    let pool = DescriptorPool::decode(example.descriptor_set.as_slice()).unwrap();
    let child_node = pool.get_extension_by_name("confold.v1.child_node").unwrap();
    let access = pool.get_extension_by_name("confold.v1.access").unwrap();
    assert_eq!((child_node.number(), access.number()), (50_772, 50_773));
    let message = |name: &str| pool.get_message_by_name(name).unwrap();
    let key = |field: &prost_reflect::FieldDescriptor| {
        let options = field.options();
        options.has_extension(&child_node).then(|| {
            let node = options.get_extension(&child_node).into_owned();
            node.as_message()
                .unwrap()
                .get_field_by_name("key")
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        })
    };
    let shape = |name: &str, field: &str| {
        let field = message(name).get_field_by_name(field).unwrap();
        (field.is_list(), key(&field))
    };
    assert_eq!(shape("example.Network", "clock"), (false, Some(String::new())));
    assert_eq!(shape("example.Network", "devices"), (true, Some("id".to_owned())));
    assert_eq!(shape("example.Network", "vlans"), (true, Some("number".to_owned())));
    assert_eq!(shape("example.Clock", "ntp_servers"), (true, Some(String::new())));
    assert_eq!(shape("example.Device", "location"), (false, None));
    let real_time = message("example.Device").get_field_by_name("uptime_seconds").unwrap();
    assert_eq!(*real_time.options().get_extension(&access), Value::EnumNumber(2));
    assert!(matches!(real_time.kind(), Kind::Uint64));
}

#[test]
fn the_samples_fit_their_schemas_and_survive_every_form() {
    let samples = [
        ("examples", "network.yaml", "example.Network"),
        ("examples", "device.json", "example.Device"),
        ("voltha", "sample.yaml", "voltha.Voltha"),
    ];
    for (folder, file, message) in samples {
        let types = Types::new(&compile(folder).descriptor_set).unwrap();
        let text = fs::read_to_string(schemas(folder).join(file)).unwrap();
        let bytes = if file.ends_with(".json") {
            types.from_json(message, &text)
        } else {
            types.from_yaml(message, &text)
        }
        .unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(!bytes.is_empty());
        let json = types.to_json_pretty(message, &bytes).unwrap();
        assert_eq!(types.from_json(message, &json).as_ref(), Ok(&bytes), "{json}");
        let yaml = types.to_yaml(message, &bytes).unwrap();
        assert_eq!(types.from_yaml(message, &yaml).as_ref(), Ok(&bytes), "{yaml}");
        let text = types.to_text(message, &bytes).unwrap();
        assert_eq!(types.from_text(message, &text).as_ref(), Ok(&bytes), "{text}");
    }
}

#[test]
fn a_device_of_the_sample_reads_as_it_was_written() {
    let types = Types::new(&compile("examples").descriptor_set).unwrap();
    let text = fs::read_to_string(schemas("examples").join("device.json")).unwrap();
    let bytes = types.from_json("example.Device", &text).unwrap();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(types.to_json("example.Device", &bytes).unwrap(), written);
}

#[test]
fn the_samples_are_trees_of_their_schemas() {
    for (folder, file, root, children) in [
        (
            "examples",
            "network.yaml",
            "example.Network",
            vec!["clock", "devices", "vlans"],
        ),
        (
            "voltha",
            "sample.yaml",
            "voltha.Voltha",
            vec!["adapters", "logical_devices", "devices"],
        ),
    ] {
        let descriptor_set = compile(folder).descriptor_set;
        let schema = Schema::compile(&descriptor_set, root).unwrap_or_else(|problems| panic!("{problems:?}"));
        let text = fs::read_to_string(schemas(folder).join(file)).unwrap();
        let bytes = Types::new(&descriptor_set).unwrap().from_yaml(root, &text).unwrap();
        let canonical = schema
            .canonicalise(schema.root(), &bytes, 1, ChildFields::Allowed)
            .unwrap();
        assert!(canonical.cleared.is_empty(), "nothing of a sample is lost");
        let tree = schema.split(schema.root(), &canonical.bytes, 1).unwrap();
        let found: Vec<&str> = tree
            .children
            .iter()
            .map(|child| schema.message(schema.root()).child(child.field).unwrap().name.as_str())
            .collect();
        assert_eq!(found, children);
    }
}

#[test]
fn the_other_root_of_voltha_is_a_schema_too() {
    let voltha = compile("voltha").descriptor_set;
    let schema = Schema::compile(&voltha, "voltha.VolthaInstance").unwrap();
    assert_eq!(schema.message(schema.root()).children().count(), 20);
}
