use crate::world::*;
use confold_wire::api::Api;
use confold_wire::pb::{self, list_request::Start, text_operation, value};
use proptest::prelude::*;
use std::sync::LazyLock;
use tokio::runtime::Runtime;
use tonic::Status;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static SAMPLE: LazyLock<World> = LazyLock::new(|| RUNTIME.block_on(World::sample()));
/// A store of its own for what is written: it must not show elsewhere.
static WRITTEN: LazyLock<World> = LazyLock::new(|| RUNTIME.block_on(World::sample()));

/// Text that is nearly right more often than chance would have it.
fn text() -> impl Strategy<Value = String> {
    let near = prop::sample::select(vec![
        "/",
        "devices",
        "olt-1",
        "ports",
        "vlans",
        "100",
        "clock",
        "ntp_servers",
        "*",
        "**",
        "~",
        "1",
        "%2F",
        "%",
        "latest",
        "rev:",
        "pos:",
        "time:",
        "root:",
        "tag:",
        "event:",
        "-",
        "@",
        ".",
        "id",
        "location",
        "site",
        ":",
    ]);
    prop_oneof![
        prop::collection::vec(near, 0..8).prop_map(|parts| parts.concat()),
        "\\PC{0,40}"
    ]
}

/// Whatever is refused carries a detail with a code and a hint.
fn told<T>(answer: Result<T, Status>) {
    if let Err(status) = answer {
        let detail = confold_wire::status::detail(&status).unwrap_or_else(|| panic!("{status:?}"));
        assert!(!detail.code.is_empty() && !detail.hint.is_empty(), "{detail:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_answered_or_refused_with_a_code(path in text(), at in text(), other in text(), depth in -3i32..3, format in 0i32..5) {
        let service = &SAMPLE.service;
        RUNTIME.block_on(async {
            let read = pb::Read { at: at.clone(), token: other.clone(), ..Default::default() };
            let mask = vec![other.clone()];
            told(service.get(pb::GetRequest { path: path.clone(), read: Some(read.clone()), depth, format, mask: mask.clone(), ..Default::default() }).await);
            let start = Some(Start::AfterKey(other.clone()));
            told(service.list(pb::ListRequest { path: path.clone(), read: Some(read.clone()), start, format, ..Default::default() }).await);
            let to = Some(pb::Read { at: other.clone(), ..Default::default() });
            told(service.diff(pb::DiffRequest { from: Some(read.clone()), to, path: path.clone(), values: true, format, ..Default::default() }).await);
            told(service.log(pb::LogRequest { path: path.clone(), from: at.clone(), to: other.clone(), ..Default::default() }).await);
            told(service.log(pb::LogRequest { path: path.clone(), to: at.clone(), author: other.clone(), all: true, ..Default::default() }).await);
            for which in [pb::show_request::Which::At(at.clone()), pb::show_request::Which::EventId(other.clone())] {
                told(service.show(pb::ShowRequest { which: Some(which), format, ..Default::default() }).await);
            }
            told(service.get_schema(pb::GetSchemaRequest { read: Some(read), ..Default::default() }).await);
            told(service.outcome(pb::OutcomeRequest { event_id: other.clone(), ..Default::default() }).await);
        });
    }

    #[test]
    fn any_bytes_are_stored_or_refused_with_a_code(bytes: Vec<u8>, path in text(), kind in 0u8..4, mask in prop::collection::vec(text(), 0..2)) {
        let world = &*WRITTEN;
        RUNTIME.block_on(async {
            let form = Some(value::Form::Proto(bytes.clone().into()));
            let value = pb::Value { form, r#type: String::new() };
            let kind = match kind {
                0 => text_operation::Kind::Update(pb::TextUpdate { value: Some(value), mask }),
                1 => text_operation::Kind::Add(value),
                2 => text_operation::Kind::Put(value),
                _ => text_operation::Kind::Replace(value),
            };
            let operation = |path: &str| pb::TextOperation { path: path.to_owned(), kind: Some(kind.clone()), ..Default::default() };
            told(world.commit(operation(&path)).await);
            told(world.commit(operation("/devices/olt-1")).await);
            told(world.push(&bytes, "").await);
        });
    }

    // K7: pages from anywhere, in either direction, are what a sorted list gives.
    #[test]
    fn pages_are_those_of_a_sorted_list(
        keys in prop::collection::btree_set(1u32..60, 0..40),
        start in 0u32..62,
        by in 0u8..4,
        reverse: bool,
        size in 1u32..9,
    ) {
        let mut expected: Vec<u32> = keys.iter().copied().collect();
        let at = usize::try_from(start).unwrap();
        match (by, reverse) {
            (0, _) => {}
            (1, false) => expected.retain(|key| *key > start),
            (1, true) => expected.retain(|key| *key < start),
            (2, false) => expected.retain(|key| *key >= start),
            (2, true) => expected.retain(|key| *key <= start),
            (_, false) => expected = expected.split_off(at.min(expected.len())),
            (_, true) => expected.truncate(at + 1),
        }
        if reverse {
            expected.reverse();
        }
        let found = RUNTIME.block_on(async {
            let world = World::network().await;
            let vlans: Vec<String> = keys.iter().map(|key| format!(r#"{{"number": {key}}}"#)).collect();
            world.commit(replace("/vlans", &format!(r#"{{"vlans": [{}]}}"#, vlans.join(",")))).await.unwrap();
            let start = match by {
                0 => None,
                1 => Some(Start::AfterKey(start.to_string())),
                2 => Some(Start::FromKey(start.to_string())),
                _ => Some(Start::FromIndex(start.into())),
            };
            let mut request = pb::ListRequest { path: "/vlans".into(), start, reverse, page_size: size, ..Default::default() };
            let streamed = collect(world.service.list_stream(request.clone()).await.unwrap()).await;
            let streamed: Vec<String> =
                streamed.into_iter().flat_map(|page| page.unwrap().nodes).map(|node| node.key).collect();
            let mut found = Vec::new();
            loop {
                let page = world.service.list(request.clone()).await.unwrap();
                assert!(page.nodes.len() <= size as usize);
                found.extend(page.nodes.iter().map(|node| node.key.clone()));
                if !page.more {
                    break;
                }
                // By index or by key, it goes on at the same place.
                request.start = Some(match by {
                    3 => Start::FromIndex(page.next_index),
                    _ => Start::AfterKey(page.next_after_key),
                });
            }
            assert_eq!(found, streamed);
            found
        });
        prop_assert_eq!(found, expected.iter().map(u32::to_string).collect::<Vec<_>>());
    }
}

/// One operation of a small world, and its path.
fn small_operation() -> impl Strategy<Value = pb::TextOperation> {
    (0u8..9, 1u8..3, 1u8..3).prop_map(|(kind, device, port)| {
        let at = format!("/devices/d{device}");
        let (own, ports) = (format!(r#"{{"id": "d{device}"}}"#), format!("{at}/ports"));
        let deep = format!(r#"{{"id": "d{device}", "ports": [{{"number": {port}}}]}}"#);
        match kind {
            0 => put(&at, &own),
            1 => put(&at, &deep),
            2 => remove(&at),
            3 => masked(&at, r#"{"description": "x"}"#, &["description"]),
            4 => put(
                &format!("{ports}/{port}"),
                &format!(r#"{{"number": {port}, "label": "y"}}"#),
            ),
            5 => remove(&format!("{ports}/{port}")),
            6 => replace(&ports, &format!(r#"{{"ports": [{{"number": {port}}}]}}"#)),
            7 => replace("/devices", &format!(r#"{{"devices": [{deep}]}}"#)),
            _ => replace("/", &format!(r#"{{"devices": [{own}]}}"#)),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // The index of touched paths knows exactly the events that reading them all would find.
    #[test]
    fn the_log_of_a_path_is_the_same_by_index_and_by_reading(operations in prop::collection::vec(small_operation(), 1..25)) {
        RUNTIME.block_on(async {
            let world = World::network().await;
            for operation in operations {
                // Some fit and some do not.
                let _ = world.commit(operation).await;
            }
            for path in ["/devices/d1", "/devices/d2", "/devices/d1/ports/1", "/devices/d2/ports/2", "/clock"] {
                let request = pb::LogRequest { path: path.into(), limit: 1_000, ..Default::default() };
                let indexed = world.service.log(request.clone()).await.unwrap().rows;
                let mut read = world.service.log(pb::LogRequest { all: true, ..request }).await.unwrap().rows;
                read.retain(|row| row.revision.is_some());
                assert_eq!(indexed, read, "{path}");
            }
        });
    }
}
