//! Records of a small store with the schema of `script.proto`.

use crate::naive::{item, num, text};
use confold_model::event::{self, Body, Commit, Event, Genesis, Limits, Operation, OperationKind, RetentionPolicy};
use confold_model::ids::{EventId, Hash, Incarnation, Position};
use confold_model::path::Path;
use confold_model::schema::Schema;
use std::sync::OnceLock;

pub const LOG_ID: [u8; 16] = [0x10; 16];

pub fn descriptor_set() -> &'static [u8] {
    static SET: OnceLock<Vec<u8>> = OnceLock::new();
    SET.get_or_init(|| {
        let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut compiler = protox::Compiler::new([here.join("tests/protos"), here.join("../../schemas")]).unwrap();
        compiler
            .include_source_info(false)
            .include_imports(true)
            .open_file("script.proto")
            .unwrap();
        compiler.encode_file_descriptor_set()
    })
}

pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| Schema::compile(descriptor_set(), "script.Root").unwrap())
}

pub fn path(text: &str) -> Path {
    schema()
        .parse_path(text)
        .unwrap_or_else(|error| panic!("{text}: {error:?}"))
}

/// Everything of an event but its body.
#[derive(Clone)]
pub struct Envelope {
    pub format: u32,
    pub incarnation: [u8; 16],
    pub id: Option<EventId>,
    pub intent: Hash,
    pub principal: String,
}

impl Envelope {
    pub fn new(seen: u64, nonce: u8) -> Envelope {
        Envelope {
            format: event::FORMAT,
            incarnation: LOG_ID,
            id: Some(EventId {
                seen: Position(seen),
                nonce: [nonce; 16],
            }),
            intent: Hash::of(&[nonce]),
            principal: String::new(),
        }
    }

    pub fn without_id() -> Envelope {
        Envelope {
            id: None,
            ..Envelope::new(0, 0)
        }
    }

    pub fn record(&self, body: Body<'_>) -> Vec<u8> {
        Event {
            format: self.format,
            incarnation: Incarnation(self.incarnation),
            intention: self.id.map(|id| (id, self.intent)),
            author: "".into(),
            principal: self.principal.as_str().into(),
            client_time_ms: 0,
            reason: "".into(),
            body,
        }
        .encode()
    }
}

pub fn genesis(window: u64, limits: Limits) -> Genesis {
    Genesis {
        log_id: LOG_ID,
        store_name: "store".into(),
        limits,
        window,
        trim_replicas: 1,
        retention: RetentionPolicy {
            keep_revisions: 2,
            keep_age_ms: 100,
            keep_all: false,
        },
        level: 1,
        transport_id: [0x20; 16],
    }
}

pub fn small_limits() -> Limits {
    Limits {
        max_event_bytes: 65_536,
        ..Limits::default()
    }
}

pub fn schema_body() -> Body<'static> {
    Body::Schema {
        descriptor_set: descriptor_set().into(),
        root_message: "script.Root".into(),
    }
}

pub fn commit(operations: Vec<Operation<'static>>) -> Body<'static> {
    Body::Commit(Commit {
        guards: Vec::new(),
        operations,
    })
}

pub fn operation(at: &str, kind: OperationKind<'static>) -> Operation<'static> {
    Operation {
        path: path(at),
        strict: false,
        base: None,
        kind,
    }
}

pub fn update(at: &str, value: Vec<u8>) -> Operation<'static> {
    operation(
        at,
        OperationKind::Update {
            value: value.into(),
            mask: Vec::new(),
        },
    )
}

pub fn masked(at: &str, mask: &[&[u32]], value: Vec<u8>) -> Operation<'static> {
    let mask = mask.iter().map(|path| path.to_vec()).collect();
    operation(
        at,
        OperationKind::Update {
            value: value.into(),
            mask,
        },
    )
}

pub fn add(at: &str, value: Vec<u8>) -> Operation<'static> {
    operation(at, OperationKind::Add { value: value.into() })
}

pub fn put(at: &str, value: Vec<u8>) -> Operation<'static> {
    operation(at, OperationKind::Put { value: value.into() })
}

pub fn replace(at: &str, value: Vec<u8>) -> Operation<'static> {
    operation(at, OperationKind::Replace { value: value.into() })
}

pub fn remove(at: &str) -> Operation<'static> {
    operation(at, OperationKind::Remove)
}

// Values. Children come after the plain fields, ascending, as the caller gives them.

pub fn device(id: &str, label: &str, serial: &str, children: &[Vec<u8>]) -> Vec<u8> {
    [
        text(1, id.as_bytes()),
        text(2, label.as_bytes()),
        text(4, serial.as_bytes()),
        children.concat(),
    ]
    .concat()
}

pub fn port(number: u64, label: &str, serial: &str) -> Vec<u8> {
    [num(1, number), text(2, label.as_bytes()), text(3, serial.as_bytes())].concat()
}

/// As a child of a device.
pub fn with_port(port: Vec<u8>) -> Vec<u8> {
    item(8, &port)
}
