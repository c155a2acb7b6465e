use crate::world::*;
use confold_wire::api::Api;
use confold_wire::pb::{self, value};
use expect_test::expect;

fn shape(answer: &pb::GetResponse) -> String {
    let mut lines = vec![format!("type {}", answer.r#type)];
    if let Some(row) = &answer.container {
        lines.push(container(row));
    }
    for node in &answer.nodes {
        let index = node.index.map(|index| format!(" #{index}")).unwrap_or_default();
        lines.push(format!(
            "{} key={:?}{index} {}",
            node.path,
            node.key,
            json(node.value.as_ref())
        ));
        lines.extend(node.children.iter().map(|row| format!("  {}", container(row))));
    }
    lines.join("\n")
}

fn container(row: &pb::Container) -> String {
    let hidden = if row.hidden { " hidden" } else { "" };
    format!(
        "{} {} {} of {}{hidden}",
        row.path,
        row.kind().as_str_name(),
        row.count,
        row.field
    )
}

// G1, G2, S5
#[tokio::test]
async fn depth_counts_levels_and_hidden_children_are_counted() {
    let world = World::sample().await;
    let mut lines = Vec::new();
    for (path, depth) in [
        ("/", 0),
        ("/", 1),
        ("/", -1),
        ("/clock", 0),
        ("/devices/olt-1", 0),
        ("/devices/olt-1", 1),
        ("/devices", 0),
        ("/devices", 1),
        ("/devices/sw%2Fcore/ports", 0),
        ("/clock/ntp_servers", 0),
    ] {
        let answer = world.get(path, depth, "").await.unwrap();
        lines.push(format!("--- {path} depth {depth}\n{}", shape(&answer)));
    }
    expect![[r#"
        --- / depth 0
        type example.Network
        / key="" {}
          /devices KEYED 2 of devices hidden
          /vlans KEYED 2 of vlans hidden
        --- / depth 1
        type example.Network
        / key="" {"devices":[{"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"}},{"id":"sw/core","labels":{"role":"core"}}],"vlans":[{"number":100,"name":"customers"},{"number":200,"name":"management"}]}
          /devices KEYED 2 of devices
          /vlans KEYED 2 of vlans
        --- / depth -1
        type example.Network
        / key="" {"devices":[{"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"},"ports":[{"number":1,"label":"uplink"},{"number":2,"vlans":[100]},{"number":3}]},{"id":"sw/core","labels":{"role":"core"}}],"vlans":[{"number":100,"name":"customers"},{"number":200,"name":"management"}]}
          /devices KEYED 2 of devices
          /vlans KEYED 2 of vlans
        --- /clock depth 0
        type example.Clock
        /clock key="" {}
        --- /devices/olt-1 depth 0
        type example.Device
        /devices/olt-1 key="olt-1" #0 {"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"}}
          /devices/olt-1/ports KEYED 3 of ports hidden
        --- /devices/olt-1 depth 1
        type example.Device
        /devices/olt-1 key="olt-1" #0 {"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"},"ports":[{"number":1,"label":"uplink"},{"number":2,"vlans":[100]},{"number":3}]}
          /devices/olt-1/ports KEYED 3 of ports
        --- /devices depth 0
        type example.Device
        /devices KEYED 2 of devices
        /devices/olt-1 key="olt-1" #0 {"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"}}
          /devices/olt-1/ports KEYED 3 of ports hidden
        /devices/sw%2Fcore key="sw/core" #1 {"id":"sw/core","labels":{"role":"core"}}
        --- /devices depth 1
        type example.Device
        /devices KEYED 2 of devices
        /devices/olt-1 key="olt-1" #0 {"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"},"ports":[{"number":1,"label":"uplink"},{"number":2,"vlans":[100]},{"number":3}]}
          /devices/olt-1/ports KEYED 3 of ports
        /devices/sw%2Fcore key="sw/core" #1 {"id":"sw/core","labels":{"role":"core"}}
        --- /devices/sw%2Fcore/ports depth 0
        type example.Port
        /devices/sw%2Fcore/ports KEYED 0 of ports
        --- /clock/ntp_servers depth 0
        type example.NtpServer
        /clock/ntp_servers LIST 0 of ntp_servers"#]].assert_eq(&lines.join("\n"));
}

// K3, G3
#[tokio::test]
async fn what_is_not_there_says_which_part_of_the_path() {
    let world = World::sample().await;
    let mut lines = Vec::new();
    for (path, at) in [
        ("/devices/none", ""),
        ("/devices/none/ports/1", ""),
        ("/devices/none/ports", ""),
        ("/devices/olt-1/ports/9", ""),
        ("/none", ""),
        ("/name", ""),
        ("/clock/ntp_servers/0", ""),
        ("/vlans/100", "2"),
        ("/vlans", "0"),
        ("/clock", "0"),
    ] {
        lines.push(format!("{path} at {at:?}: {}", world.json(path, 0, at).await));
    }
    expect![[r#"
        /devices/none at "": NOT_FOUND at /devices/none: no such key: /devices/none at revision 4
        /devices/none/ports/1 at "": NOT_FOUND at /devices/none/ports/1: no such key: /devices/none at revision 4
        /devices/none/ports at "": NOT_FOUND at /devices/none/ports: no such key: /devices/none at revision 4
        /devices/olt-1/ports/9 at "": NOT_FOUND at /devices/olt-1/ports/9: no such key: /devices/olt-1/ports/9 at revision 4
        /none at "": NOT_FOUND at /: no such child field: example.Network has no child "none"; it has clock, devices, vlans
        /name at "": NOT_FOUND at /: no such child field: example.Network has no child "name"; it has clock, devices, vlans
        /clock/ntp_servers/0 at "": NOT_KEYED at /clock/ntp_servers: ntp_servers is a list without keys; its elements cannot be addressed, only the whole list
        /vlans/100 at "2": NOT_FOUND at /vlans/100: no such key: /vlans/100 at revision 2
        /vlans at "0": 
        /clock at "0": {}"#]].assert_eq(&lines.join("\n"));
    let begun = World::begun().await;
    assert_eq!(
        begun.json("/", 0, "").await,
        "SCHEMA_INVALID: the store has no schema yet"
    );
}

// G5: the whole path is resolved in the past, so removed entries can be read.
#[tokio::test]
async fn removed_elements_are_read_from_the_past() {
    let world = World::sample().await;
    let before = world.json("/", -1, "").await;
    world.commit(remove("/devices/olt-1")).await.unwrap();
    assert_eq!(
        world.json("/devices/olt-1", 0, "").await,
        "NOT_FOUND at /devices/olt-1: no such key: /devices/olt-1 at revision 5"
    );
    assert_eq!(world.json("/", -1, "4").await, before);
    assert_eq!(world.json("/", -1, "latest~1").await, before);
    assert_eq!(world.json("/", -1, "0").await, "{}");
}

// U9, G4: canonical bytes are what is stored, in every format.
#[tokio::test]
async fn one_value_in_four_formats() {
    let world = World::sample().await;
    let mut lines = Vec::new();
    for format in [pb::Format::Json, pb::Format::Text, pb::Format::Yaml, pb::Format::Proto] {
        let request = pb::GetRequest {
            format: format.into(),
            ..get("/devices/sw%2Fcore")
        };
        let node = world.service.get(request).await.unwrap().nodes.remove(0);
        lines.push(match node.value.unwrap().form.unwrap() {
            value::Form::Json(text) | value::Form::Text(text) | value::Form::Yaml(text) => text,
            value::Form::Proto(bytes) => format!("{bytes:?}"),
        });
    }
    let unknown = world.service.get(pb::GetRequest { format: 9, ..get("/") }).await;
    lines.push(refusal(&unknown.unwrap_err()));
    expect![[r#"
        {"id":"sw/core","labels":{"role":"core"}}
        id: "sw/core"
        labels {
          key: "role"
          value: "core"
        }

        id: sw/core
        labels:
          role: core

        b"\n\x07sw/coreB\x0c\n\x04role\x12\x04core"
        INVALID_PATH: format 9 does not exist"#]]
    .assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn masks_depths_and_sizes_bound_what_is_shown() {
    let world = World::sample().await;
    let ask = |path: &str, depth: i32, mask: &[&str], max_bytes: u64| pb::GetRequest {
        depth,
        mask: mask.iter().map(|name| (*name).to_owned()).collect(),
        max_bytes,
        ..get(path)
    };
    let mut lines = Vec::new();
    for request in [
        ask("/devices/olt-1", 0, &["location.site", "address"], 0),
        ask("/devices/olt-1", 1, &["address"], 0),
        ask("/devices", 0, &["id"], 0),
        ask("/devices/olt-1", 0, &["nme"], 0),
        ask("/devices/olt-1", 0, &["ports"], 0),
        ask("/devices/olt-1", -2, &[], 0),
        ask("/devices/olt-1", -1, &[], 300),
        ask("/", -1, &[], 40),
        ask("/devices", 0, &[], 500),
    ] {
        lines.push(match world.service.get(request).await {
            Ok(answer) => answer
                .nodes
                .iter()
                .map(|node| json(node.value.as_ref()))
                .collect::<Vec<_>>()
                .join(" "),
            Err(status) => refusal(&status),
        });
    }
    expect![[r#"
        {"address":"192.0.2.10","location":{"site":"berlin"}}
        {"address":"192.0.2.10","ports":[{"number":1,"label":"uplink"},{"number":2,"vlans":[100]},{"number":3}]}
        {"id":"olt-1"} {"id":"sw/core"}
        NOT_FOUND: mask nme: example.Device has no field "nme"; it has id, address, admin_state, description, serial_number, uptime_seconds, location, labels, ports
        CHILDREN_IN_UPDATE: mask example.Device.ports: ports is a child; use its own path
        INVALID_PATH: depth -2 does not exist
        TOO_LARGE: the answer would have more than 300 bytes
        TOO_LARGE: the answer would have more than 40 bytes
        TOO_LARGE: the answer would have more than 500 bytes"#]].assert_eq(&lines.join("\n"));
}

// G7: one answer is of one state, and its hashes are what guards compare.
#[tokio::test]
async fn hashes_are_those_of_the_revision_shown() {
    let world = World::sample().await;
    let root = world.get("/", 0, "").await.unwrap();
    let read_at = root.read_at.unwrap();
    assert_eq!(read_at.root, root.nodes[0].hash);
    assert_eq!(
        (read_at.revision, read_at.position, read_at.store.as_str()),
        (4, 5, "network")
    );
    let past = world.get("/", 0, "2").await.unwrap();
    assert_eq!(past.read_at.unwrap().root, past.nodes[0].hash);
    // The hash of nothing: formats.md 3.
    let empty = world
        .get("/devices/sw%2Fcore/ports", 0, "")
        .await
        .unwrap()
        .container
        .unwrap();
    assert_eq!((empty.count, empty.hash), (0, "0".repeat(64)));
}

// S9: a past revision with the schema of its time, or with the latest.
#[tokio::test]
async fn the_past_is_shown_with_either_schema() {
    let world = World::sample().await;
    let wider = network_with(|text| {
        text.replace(
            "string name = 1;\n\n  // A single",
            "string name = 1;\n  repeated Vlan more = 9 [(confold.v1.child_node) = {key: \"number\"}];\n  // A single",
        )
    });
    world.push(&wider, "").await.unwrap();
    world.commit(add("/more", r#"{"number": 1}"#)).await.unwrap();
    let ask = |schema_of_its_time| pb::GetRequest {
        read: Some(pb::Read {
            schema_of_its_time,
            ..read("3")
        }),
        ..get("/more")
    };
    assert_eq!(world.service.get(ask(false)).await.unwrap().container.unwrap().count, 0);
    let status = world.service.get(ask(true)).await.unwrap_err();
    assert_eq!(code(&status), "NOT_FOUND");
}

#[tokio::test]
async fn a_container_too_long_for_the_calling_thread_is_read_all_the_same() {
    let world = World::network().await;
    let vlans: Vec<String> = (1..=1_000).map(|number| format!(r#"{{"number": {number}}}"#)).collect();
    world
        .commit(replace("/vlans", &format!(r#"{{"vlans": [{}]}}"#, vlans.join(","))))
        .await
        .unwrap();
    let answer = world.get("/vlans", 0, "").await.unwrap();
    assert_eq!(answer.nodes.len(), 1_000);
    let in_order = answer
        .nodes
        .iter()
        .enumerate()
        .all(|(at, node)| node.key == (at + 1).to_string() && node.index == Some(at as u64));
    assert!(in_order);
}
