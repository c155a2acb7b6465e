use crate::world::*;
use confold_wire::api::Api;
use confold_wire::pb;
use expect_test::expect;

/// Revision 4 is the sample, 5 changes something of each kind.
async fn world() -> World {
    let world = World::sample().await;
    world
        .commit_all(vec![
            masked("/devices/olt-1", r#"{"description": "cellar"}"#, &["description"]),
            masked("/devices/olt-1/ports/1", r#"{"label": "up"}"#, &["label"]),
            add("/devices/olt-1/ports", r#"{"number": 7}"#),
            remove("/devices/olt-1/ports/3"),
            put(
                "/devices/olt-2",
                r#"{"id": "olt-2", "ports": [{"number": 1}, {"number": 3}]}"#,
            ),
            remove("/vlans/200"),
            replace("/clock/ntp_servers", r#"{"ntp_servers": [{"address": "a"}]}"#),
            update("/", r#"{"name": "lab"}"#),
        ])
        .await
        .unwrap();
    world
}

fn ask(from: &str, to: &str, path: &str) -> pb::DiffRequest {
    pb::DiffRequest {
        from: Some(read(from)),
        to: Some(read(to)),
        path: path.into(),
        format: pb::Format::Json.into(),
        ..Default::default()
    }
}

fn lines(changes: &[pb::Change]) -> String {
    let line = |change: &pb::Change| format!("{} {}", change.kind().as_str_name(), change.path);
    changes.iter().map(line).collect::<Vec<_>>().join("\n")
}

// T7, C11
#[tokio::test]
async fn changes_come_in_tree_order_forwards_and_backwards() {
    let world = world().await;
    let forth = world.service.diff(ask("4", "5", "")).await.unwrap();
    expect![[r#"
        LIST_CHANGED /clock/ntp_servers
        UPDATED /devices/olt-1/ports/1
        ADDED /devices/olt-1/ports/7
        REMOVED /devices/olt-1/ports/3
        UPDATED /devices/olt-1
        ADDED /devices/olt-2
        REMOVED /vlans/200
        UPDATED /"#]]
    .assert_eq(&lines(&forth.changes));
    let back = world.service.diff(ask("", "4", "/")).await.unwrap();
    expect![[r#"
        LIST_CHANGED /clock/ntp_servers
        UPDATED /devices/olt-1/ports/1
        ADDED /devices/olt-1/ports/3
        REMOVED /devices/olt-1/ports/7
        UPDATED /devices/olt-1
        REMOVED /devices/olt-2
        ADDED /vlans/200
        UPDATED /"#]]
    .assert_eq(&lines(&back.changes));
    assert_eq!(
        (back.from.unwrap().revision, back.to.unwrap().revision, back.more),
        (5, 4, false)
    );
    // Equal states have no changes.
    assert!(
        world
            .service
            .diff(ask("5", "latest", ""))
            .await
            .unwrap()
            .changes
            .is_empty()
    );
}

#[tokio::test]
async fn paths_and_wildcards_narrow_a_diff() {
    let world = world().await;
    let mut found = Vec::new();
    for path in [
        "/devices",
        "/devices/olt-1",
        "/devices/olt-1/ports",
        "/devices/olt-1/ports/7",
        "/devices/olt-2/ports/1",
        "/clock",
        "/clock/ntp_servers",
        "/vlans/200",
        "/devices/*",
        "/devices/*/ports/*",
        "/devices/*/ports/3",
        "/**/ports/3",
        "/*/ntp_servers",
        "/**",
        "/devices/olt-*",
        "/devices//*",
        "/nope",
        "/nope/*",
        "/vlans/x",
    ] {
        let shown = match world.service.diff(ask("4", "5", path)).await {
            Ok(answer) => lines(&answer.changes),
            Err(status) => refusal(&status),
        };
        found.push(format!("--- {path}\n{shown}"));
    }
    expect![[r#"
        --- /devices
        UPDATED /devices/olt-1/ports/1
        ADDED /devices/olt-1/ports/7
        REMOVED /devices/olt-1/ports/3
        UPDATED /devices/olt-1
        ADDED /devices/olt-2
        --- /devices/olt-1
        UPDATED /devices/olt-1/ports/1
        ADDED /devices/olt-1/ports/7
        REMOVED /devices/olt-1/ports/3
        UPDATED /devices/olt-1
        --- /devices/olt-1/ports
        UPDATED /devices/olt-1/ports/1
        ADDED /devices/olt-1/ports/7
        REMOVED /devices/olt-1/ports/3
        --- /devices/olt-1/ports/7
        ADDED /devices/olt-1/ports/7
        --- /devices/olt-2/ports/1
        ADDED /devices/olt-2/ports/1
        --- /clock
        LIST_CHANGED /clock/ntp_servers
        --- /clock/ntp_servers
        LIST_CHANGED /clock/ntp_servers
        --- /vlans/200
        REMOVED /vlans/200
        --- /devices/*
        UPDATED /devices/olt-1/ports/1
        ADDED /devices/olt-1/ports/7
        REMOVED /devices/olt-1/ports/3
        UPDATED /devices/olt-1
        ADDED /devices/olt-2
        --- /devices/*/ports/*
        UPDATED /devices/olt-1/ports/1
        ADDED /devices/olt-1/ports/7
        REMOVED /devices/olt-1/ports/3
        ADDED /devices/olt-2/ports/1
        ADDED /devices/olt-2/ports/3
        --- /devices/*/ports/3
        REMOVED /devices/olt-1/ports/3
        ADDED /devices/olt-2/ports/3
        --- /**/ports/3
        REMOVED /devices/olt-1/ports/3
        ADDED /devices/olt-2/ports/3
        --- /*/ntp_servers
        LIST_CHANGED /clock/ntp_servers
        --- /**
        LIST_CHANGED /clock/ntp_servers
        UPDATED /devices/olt-1/ports/1
        ADDED /devices/olt-1/ports/7
        REMOVED /devices/olt-1/ports/3
        UPDATED /devices/olt-1
        ADDED /devices/olt-2
        REMOVED /vlans/200
        UPDATED /
        --- /devices/olt-*
        INVALID_PATH: path "/devices/olt-*" has the key "olt-*", which is written "olt-%2A"
        --- /devices//*
        INVALID_PATH: pattern "/devices//*": "" is no segment; a wildcard is a whole one, * or **
        --- /nope
        NOT_FOUND at /: no such child field: example.Network has no child "nope"; it has clock, devices, vlans
        --- /nope/*
        NOT_FOUND at /: no such child field: example.Network has no child "nope"; it has clock, devices, vlans
        --- /vlans/x
        INVALID_PATH: path "/vlans/x": key "x": number is uint32; write a decimal number, like 7"#]]
    .assert_eq(&found.join("\n"));
}

// C12: values of both sides, where asked for.
#[tokio::test]
async fn values_of_both_sides_and_hashes() {
    let world = world().await;
    let answer = world
        .service
        .diff(pb::DiffRequest {
            values: true,
            ..ask("4", "5", "")
        })
        .await
        .unwrap();
    let shown = |value: &Option<pb::Value>| value.as_ref().map_or("-".to_owned(), |value| json(Some(value)));
    let line = |change: &pb::Change| {
        let hashes = (change.before_hash.len(), change.after_hash.len());
        format!(
            "{} {hashes:?} {} => {}",
            change.path,
            shown(&change.before),
            shown(&change.after)
        )
    };
    expect![[r#"
        /clock/ntp_servers (64, 64) {} => {"ntp_servers":[{"address":"a"}]}
        /devices/olt-1/ports/1 (64, 64) {"number":1,"label":"uplink"} => {"number":1,"label":"up"}
        /devices/olt-1/ports/7 (0, 64) - => {"number":7}
        /devices/olt-1/ports/3 (64, 0) {"number":3} => -
        /devices/olt-1 (64, 64) {"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"}} => {"id":"olt-1","address":"192.0.2.10","description":"cellar","serial_number":"ALPHA","location":{"site":"berlin"}}
        /devices/olt-2 (0, 64) - => {"id":"olt-2","ports":[{"number":1},{"number":3}]}
        /vlans/200 (64, 0) {"number":200,"name":"management"} => -
        / (64, 64) {} => {"name":"lab"}"#]].assert_eq(&answer.changes.iter().map(line).collect::<Vec<_>>().join("\n"));
    // What an update's base compares with, and what a subtree's does.
    let update = answer
        .changes
        .iter()
        .find(|change| change.path == "/devices/olt-1")
        .unwrap();
    assert_eq!(update.after_hash, world.data_hash("/devices/olt-1").await);
    let added = answer
        .changes
        .iter()
        .find(|change| change.path == "/devices/olt-2")
        .unwrap();
    assert_eq!(added.after_hash, world.hash("/devices/olt-2").await);
}

#[tokio::test]
async fn a_limit_says_that_there_is_more_and_a_stream_has_all() {
    let world = world().await;
    let all = world.service.diff(ask("4", "5", "")).await.unwrap().changes;
    for limit in 1..=all.len() + 1 {
        let answer = world
            .service
            .diff(pb::DiffRequest {
                limit: limit as u64,
                ..ask("4", "5", "")
            })
            .await
            .unwrap();
        assert_eq!(answer.changes, all[..limit.min(all.len())]);
        assert_eq!(answer.more, limit < all.len(), "limit {limit}");
    }
    let small = confold_replica::service::Options {
        piece_bytes: 400,
        ..Default::default()
    };
    let service = confold_replica::service::Service::with_options(vec![world.handle.clone()], small);
    let pieces = collect(service.diff_stream(ask("4", "5", "")).await.unwrap()).await;
    assert!(pieces.len() > 2);
    let streamed: Vec<pb::Change> = pieces.into_iter().flat_map(|piece| piece.unwrap().changes).collect();
    assert_eq!(streamed, all);
    let limited = collect(
        service
            .diff_stream(pb::DiffRequest {
                limit: 3,
                ..ask("4", "5", "")
            })
            .await
            .unwrap(),
    )
    .await;
    let last = limited.last().unwrap().as_ref().unwrap();
    assert_eq!(
        (
            limited
                .iter()
                .map(|piece| piece.as_ref().unwrap().changes.len())
                .sum::<usize>(),
            last.more
        ),
        (3, true)
    );
}

#[tokio::test]
async fn an_empty_store_has_no_changes_and_no_paths() {
    let world = World::begun().await;
    assert!(
        world
            .service
            .diff(ask("0", "latest", ""))
            .await
            .unwrap()
            .changes
            .is_empty()
    );
    let status = world.service.diff(ask("0", "latest", "/devices")).await.unwrap_err();
    assert_eq!(code(&status), "SCHEMA_INVALID");
    let status = world.service.diff(ask("0", "9", "")).await.unwrap_err();
    assert_eq!(code(&status), "FUTURE");
}
