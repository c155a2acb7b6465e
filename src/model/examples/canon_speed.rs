//! What the canonical check costs: nanoseconds per 250-byte config, and per element of a subtree that is split.
//! `cargo run --release -p confold-model --example canon_speed`

use confold_model::schema::{Schema, TypeId};
use confold_model::wire_bytes::{put_bytes, put_tag, put_varint};
use std::hint::black_box;
use std::time::Instant;

const SOURCE: &str = r#"
syntax = "proto3";
package speed;
import "options.proto";
message Root { repeated Device devices = 1 [(confold.v1.child_node) = {key: "id"}]; }
enum State { UNKNOWN = 0; ENABLED = 1; DISABLED = 2; }
message Device {
  string id = 1;
  string type = 2;
  bool root = 3;
  string parent_id = 4;
  uint32 parent_port = 5;
  string vendor = 6;
  string model = 7;
  string serial = 8;
  fixed64 mac = 9;
  State admin = 10;
  State oper = 11;
  Address address = 12;
  repeated uint32 vlans = 13;
  map<string, string> labels = 14;
  string reason = 15;
}
message Address { string host = 1; uint32 port = 2; bytes key = 3; }
"#;
const OPTIONS: &str = r#"
syntax = "proto3";
package confold.v1;
import "google/protobuf/descriptor.proto";
message ChildNode { string key = 1; }
extend google.protobuf.FieldOptions { ChildNode child_node = 50772; }
"#;

fn main() {
    let schema = Schema::compile(&descriptors(), "speed.Root").expect("the schema above is valid");
    let device = schema.message_by_name("speed.Device").expect("a message of the schema above");

    let config = device_bytes("olt-0000");
    let mut subtree = Vec::new();
    const ELEMENTS: u32 = 1_000;
    for n in 0..ELEMENTS {
        put_bytes(&mut subtree, 1, &device_bytes(&format!("olt-{n:04}")));
    }
    println!("config of {} bytes", config.len());
    let per_check = nanoseconds(1_000, || schema.check_config(device, black_box(&config), 2).expect("canonical"));
    println!("check_config   {per_check:7.0} ns   {:6.0} MB/s", config.len() as f64 * 1_000.0 / per_check);
    let per_split = nanoseconds(1, || drop(black_box(schema.split(schema.root(), black_box(&subtree), 1).expect("canonical"))));
    println!("split          {:7.0} ns per element of {ELEMENTS}", per_split / f64::from(ELEMENTS));
    let per_key = nanoseconds(1_000, || drop(black_box(key(&schema, device, black_box(&config)))));
    println!("key_of         {per_key:7.0} ns");
    let mask = vec![vec![10], vec![12, 2]];
    let value = schema.masked(device, &config, &mask);
    let per_merge = nanoseconds(500, || drop(black_box(schema.merge_masked(device, black_box(&config), black_box(&value), &mask))));
    println!("merge_masked   {per_merge:7.0} ns");
    let children = confold_model::canonicalise::ChildFields::Refused;
    let per_canonicalise = nanoseconds(500, || drop(black_box(schema.canonicalise(device, black_box(&config), 2, children).expect("valid"))));
    println!("canonicalise   {per_canonicalise:7.0} ns");
}

fn key(schema: &Schema, device: TypeId, config: &[u8]) -> Box<[u8]> {
    let child = schema.message(schema.root()).child(1).and_then(|child| child.key()).expect("keyed");
    schema.key_of(device, child, config).expect("a key")
}

/// The best of many short rounds: what the machine can do when nobody else wants it.
fn nanoseconds(times: u32, mut work: impl FnMut()) -> f64 {
    let round = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..times).for_each(|_| work());
        start.elapsed().as_nanos() as f64 / f64::from(times)
    };
    (0..1_000).map(|_| round(&mut work)).fold(f64::MAX, f64::min)
}

fn device_bytes(id: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let number = |out: &mut Vec<u8>, field: u32, value: u64| {
        put_tag(out, field, 0);
        put_varint(out, value);
    };
    put_bytes(&mut out, 1, id.as_bytes());
    put_bytes(&mut out, 2, b"openolt");
    number(&mut out, 3, 1);
    put_bytes(&mut out, 4, b"controller-7");
    number(&mut out, 5, 65_536);
    put_bytes(&mut out, 6, b"Example Networks");
    put_bytes(&mut out, 7, b"asfvolt16");
    put_bytes(&mut out, 8, b"EC1721000221-0042");
    put_tag(&mut out, 9, 1);
    out.extend_from_slice(&0x0026_bb12_3456_7890u64.to_le_bytes());
    number(&mut out, 10, 1);
    number(&mut out, 11, 2);
    let mut address = Vec::new();
    put_bytes(&mut address, 1, b"olt-7.access.example.net");
    number(&mut address, 2, 9_191);
    put_bytes(&mut address, 3, &[0xab; 16]);
    put_bytes(&mut out, 12, &address);
    put_bytes(&mut out, 13, &[0x64, 0xc8, 0x01, 0xac, 0x02, 0x90, 0x03]);
    for (key, value) in [("region", "north"), ("site", "berlin-3")] {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, key.as_bytes());
        put_bytes(&mut entry, 2, value.as_bytes());
        put_bytes(&mut out, 14, &entry);
    }
    put_bytes(&mut out, 15, b"pre-provisioned by the planning system, ticket 4711");
    out
}

fn descriptors() -> Vec<u8> {
    use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
    struct Sources;
    impl FileResolver for Sources {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            match name {
                "speed.proto" => File::from_source(name, SOURCE),
                "options.proto" => File::from_source(name, OPTIONS),
                _ => Err(protox::Error::file_not_found(name)),
            }
        }
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(Sources);
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("speed.proto").expect("the schema above compiles");
    compiler.encode_file_descriptor_set()
}
