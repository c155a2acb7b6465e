use crate::world::*;
use confold_wire::api::Api;
use confold_wire::pb::{self, text_base, text_guard, text_operation, value};
use expect_test::expect;

async fn outcomes(world: &World, operations: Vec<pb::TextOperation>) -> String {
    let mut lines = Vec::new();
    for operation in operations {
        lines.push(decided(&world.commit(operation).await));
    }
    lines.join("\n")
}

// A1, A2, A3, A4, A6, A8
#[tokio::test]
async fn adding_putting_and_removing_elements() {
    let world = World::network().await;
    let lines = outcomes(
        &world,
        vec![
            add("/devices", OLT),
            add("/devices", OLT),
            add("/devices/olt-2", r#"{"id": "olt-2"}"#),
            add("/devices/olt-3", r#"{"id": "olt-4"}"#),
            add("/devices", r#"{"address": "no id"}"#),
            add("/devices/olt-1/ports", r#"{"number": 7}"#),
            add("/devices/olt-9/ports", r#"{"number": 7}"#),
            add("/", "{}"),
            add("/clock", "{}"),
            add("/clock/ntp_servers", r#"{"address": "a"}"#),
            add("/devices", r#"{"id": "x", "ports": [{"number": 1}, {"number": 1}]}"#),
            add("/devices", r#"{"id": "x", "nme": "typo"}"#),
            add("/devices", r#"{"id": "x", "admin_state": "ON"}"#),
            put("/devices/olt-5", r#"{"id": "olt-5"}"#),
            put("/devices/olt-5", r#"{"id": "olt-5"}"#),
            put("/devices/olt-9/ports/1", r#"{"number": 1}"#),
            put("/devices", r#"{"id": "olt-5"}"#),
            remove("/devices/olt-5"),
            remove("/devices/olt-5"),
            remove("/clock"),
            remove("/"),
            remove("/devices"),
            remove("/clock/ntp_servers"),
        ],
    )
    .await;
    expect![[r#"
        committed r1 p2
        ALREADY_EXISTS at /devices/olt-1: /devices/olt-1 exists
        committed r2 p4
        KEY_CHANGE at /devices/olt-3: id is "olt-4" in the value, the path says "olt-3"
        INVALID_PATH at /devices: example.Device.id: the key is empty; every element needs one
        committed r3 p6
        NOT_FOUND at /devices/olt-9/ports/7: no such key: /devices/olt-9
        NOT_A_CONTAINER at /: an add needs an element of a keyed container
        NOT_A_CONTAINER at /clock: an add needs an element of a keyed container
        NOT_KEYED at /clock/ntp_servers: ntp_servers is a list without keys: it changes as a whole, by replace
        ALREADY_EXISTS at /devices: example.Device.ports: two elements have the key "1"
        UNKNOWN_FIELD at /devices: example.Device has no field "nme"
        TYPE_MISMATCH at /devices: admin_state: example.AdminState has no value "ON"
        committed r4 p10
        unchanged p11
        NOT_FOUND at /devices/olt-9/ports/1: no such key: /devices/olt-9
        IS_A_CONTAINER at /devices: devices is a container
        committed r5 p13
        NOT_FOUND at /devices/olt-5: no such key: /devices/olt-5
        NOT_A_CONTAINER at /clock: only an element of a keyed container can be removed; a single child always exists
        NOT_A_CONTAINER at /: only an element of a keyed container can be removed; a single child always exists
        IS_A_CONTAINER at /devices: a remove names one element, /devices/KEY
        NOT_KEYED at /clock/ntp_servers: ntp_servers is a keyless list: it changes as a whole, by replace"#]]
    .assert_eq(&lines);
}

// U1, U2, U3, U4, U5, U6, U7
#[tokio::test]
async fn updating_one_node() {
    let world = World::sample().await;
    let lines = outcomes(
        &world,
        vec![
            update("/devices/olt-1", r#"{"id": "olt-1", "description": "cellar"}"#),
            update("/devices/olt-1", r#"{"id": "olt-1", "description": "cellar"}"#),
            update("/devices/olt-1", r#"{"id": "olt-1", "ports": []}"#),
            update("/devices/olt-1", r#"{"id": "olt-1", "ports": [{"number": 1}]}"#),
            update("/devices/olt-1", r#"{"id": "olt-2"}"#),
            update("/devices/olt-9", r#"{"id": "olt-9"}"#),
            update("/devices", r#"{"id": "olt-1"}"#),
            update("/clock/ntp_servers", "{}"),
            update("/clock/ntp_servers/0", "{}"),
            update("/clock", r#"{"timezone": "UTC"}"#),
            update("/", r#"{"name": "lab"}"#),
            strict(update("/devices/olt-1", r#"{"id": "olt-1", "serial_number": "BETA"}"#)),
            update(
                "/devices/olt-1",
                r#"{"id": "olt-1", "serial_number": "BETA", "uptime_seconds": "5"}"#,
            ),
            strict(add("/devices", r#"{"id": "olt-7", "serial_number": "X"}"#)),
        ],
    )
    .await;
    expect![[r#"
        committed r5 p6
        unchanged p7
        committed r6 p8
        CHILDREN_IN_UPDATE at /devices/olt-1: example.Device.ports: a child node cannot be set by an update of its parent; add, put or replace it under its own path
        KEY_CHANGE at /devices/olt-1: id is "olt-2" in the value, the path says "olt-1"
        NOT_FOUND at /devices/olt-9: no such key: /devices/olt-9
        IS_A_CONTAINER at /devices: devices is a container
        IS_A_CONTAINER at /clock/ntp_servers: ntp_servers is a container
        NOT_KEYED at /clock/ntp_servers: ntp_servers is a list without keys; its elements cannot be addressed, only the whole list
        committed r7 p11
        committed r8 p12
        READ_ONLY_FIELD at /devices/olt-1: READ_ONLY: serial_number
        committed r9 p14 [/devices/olt-1: REAL_TIME fields are never stored and were cleared: uptime_seconds]
        READ_ONLY_FIELD at /devices/olt-7: READ_ONLY: serial_number"#]].assert_eq(&lines);
    expect![[r#"{"id":"olt-1","serial_number":"BETA","ports":[{"number":1,"label":"uplink"},{"number":2,"vlans":[100]},{"number":3}]}"#]].assert_eq(&world.json("/devices/olt-1", 1, "").await);
}

// U1: two masks on different fields never overwrite each other.
#[tokio::test]
async fn a_mask_changes_its_fields_and_no_others() {
    let world = World::sample().await;
    let path = "/devices/olt-1";
    let lines = outcomes(
        &world,
        vec![
            masked(path, r#"{"description": "cellar"}"#, &["description"]),
            masked(
                path,
                r#"{"location": {"latitude": 52.5}, "address": "ignored"}"#,
                &["location.latitude"],
            ),
            masked(path, "{}", &["address", "description"]),
            masked(
                path,
                r#"{"location": {"site": "x"}}"#,
                &["location", "location.site", "location"],
            ),
            masked(path, "{}", &["nme"]),
            masked(path, "{}", &["location.nme"]),
            masked(path, "{}", &["description.x"]),
            masked(path, "{}", &["labels.role"]),
            masked(path, "{}", &["ports"]),
            masked(path, "{}", &["uptime_seconds"]),
            masked(path, "{}", &[""]),
            masked(path, "{}", &["id"]),
        ],
    )
    .await;
    expect![[r#"
        committed r5 p6
        committed r6 p7 [/devices/olt-1: fields outside the mask were left as they are]
        committed r7 p8
        committed r8 p9
        NOT_FOUND at /devices/olt-1: mask nme: example.Device has no field "nme"; it has id, address, admin_state, description, serial_number, uptime_seconds, location, labels, ports
        NOT_FOUND at /devices/olt-1: mask location.nme: example.Location has no field "nme"; it has site, latitude, longitude
        INVALID_PATH at /devices/olt-1: mask description.x: "x" would stand inside a field that is no single message
        INVALID_PATH at /devices/olt-1: mask labels.role: "role" would stand inside a field that is no single message
        CHILDREN_IN_UPDATE at /devices/olt-1: mask example.Device.ports: ports is a child; use its own path
        INVALID_PATH at /devices/olt-1: mask example.Device.uptime_seconds: uptime_seconds is REAL_TIME, which is never stored
        NOT_FOUND at /devices/olt-1: mask : example.Device has no field ""; it has id, address, admin_state, description, serial_number, uptime_seconds, location, labels, ports
        INVALID_PATH at /devices/olt-1: example.Device.id: the key is empty; every element needs one"#]].assert_eq(&lines);
    expect![[r#"{"id":"olt-1","serial_number":"ALPHA","location":{"site":"x"}}"#]]
        .assert_eq(&world.json(path, 0, "").await);
}

// U3, U4, D9: a deep replace is one event; a list is replaced as a whole.
#[tokio::test]
async fn replacing_subtrees_containers_and_lists() {
    let world = World::sample().await;
    let lines = outcomes(
        &world,
        vec![
            replace(
                "/devices/olt-1",
                r#"{"id": "olt-1", "ports": [{"number": 9}, {"number": 4}]}"#,
            ),
            replace("/devices/olt-9", r#"{"id": "olt-9"}"#),
            replace(
                "/clock/ntp_servers",
                r#"{"ntp_servers": [{"address": "b"}, {"address": "a"}]}"#,
            ),
            replace("/clock/ntp_servers", r#"{"timezone": "UTC", "ntp_servers": []}"#),
            replace("/vlans", r#"{"vlans": [{"number": 3}, {"number": 2}]}"#),
            replace("/clock", r#"{"timezone": "UTC"}"#),
        ],
    )
    .await;
    expect![[r#"
        committed r5 p6 [/devices/olt-1: the value was put in order]
        NOT_FOUND at /devices/olt-9: no such key: /devices/olt-9
        committed r6 p8
        NOT_CANONICAL at /clock/ntp_servers: example.Clock.ntp_servers: the elements of a container are sent as its parent's message with that one field; there is another
        committed r7 p10 [/vlans: the value was put in order]
        committed r8 p11"#]].assert_eq(&lines);
    expect![[r#"{"clock":{"timezone":"UTC"},"devices":[{"id":"olt-1","ports":[{"number":4},{"number":9}]},{"id":"sw/core","labels":{"role":"core"}}],"vlans":[{"number":2},{"number":3}]}"#]].assert_eq(&world.json("/", -1, "").await);
}

// K1, K2, K3, K4, K5
#[tokio::test]
async fn paths_that_are_none_are_refused_with_the_reason() {
    let world = World::sample().await;
    let long = format!("/devices/{}", "x".repeat(5_000));
    let paths = [
        "devices/olt-1",
        "//devices/olt-1/",
        "/devices//ports",
        "/devices/olt-1//",
        "/name",
        "/nope/1",
        "/vlans/x",
        "/vlans/007",
        "/vlans/-1",
        "/vlans/4294967296",
        "/devices/sw/core",
        "/devices/sw%2fcore",
        "/devices/a b",
        "/clock/x",
        "/devices/olt-1/ports/1/x",
        &long,
    ];
    let mut lines = Vec::new();
    for path in paths {
        let shown = if path.len() > 40 { "(long)" } else { path };
        lines.push(format!("{shown}: {}", world.json(path, 0, "").await));
    }
    expect![[r#"
        devices/olt-1: {"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"}}
        //devices/olt-1/: {"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"}}
        /devices//ports: INVALID_PATH: path "/devices//ports" has an empty segment
        /devices/olt-1//: INVALID_PATH: path "/devices/olt-1//" has an empty segment
        /name: NOT_FOUND at /: no such child field: example.Network has no child "name"; it has clock, devices, vlans
        /nope/1: NOT_FOUND at /: no such child field: example.Network has no child "nope"; it has clock, devices, vlans
        /vlans/x: INVALID_PATH: path "/vlans/x": key "x": number is uint32; write a decimal number, like 7
        /vlans/007: INVALID_PATH: path "/vlans/007": key "007": number is uint32; write it as 7
        /vlans/-1: INVALID_PATH: path "/vlans/-1": key "-1": number is uint32; use 0 to 4294967295
        /vlans/4294967296: INVALID_PATH: path "/vlans/4294967296": key "4294967296": number is uint32; use 0 to 4294967295
        /devices/sw/core: NOT_FOUND at /devices/sw: no such child field: example.Device has no child "core"; it has ports
        /devices/sw%2fcore: INVALID_PATH: path "/devices/sw%2fcore" has % without two upper-case hex digits after it
        /devices/a b: INVALID_PATH: path "/devices/a b" has the key "a b", which is written "a%20b"
        /clock/x: NOT_FOUND at /clock: no such child field: example.Clock has no child "x"; it has ntp_servers
        /devices/olt-1/ports/1/x: NOT_FOUND at /devices/olt-1/ports/1: no such child field: example.Port has no child "x"; it has none
        (long): LIMIT: the path has 5009 bytes; at most 4096 are allowed"#]].assert_eq(&lines.join("\n"));
}

// H6, U9: the server puts values in order, and says what it did.
#[tokio::test]
async fn values_come_in_any_form_and_are_stored_in_one() {
    let world = World::network().await;
    let forms = [
        ("yaml", value::Form::Yaml("id: a\nlabels: {z: '1', b: '2'}\nports:\n- number: 2\n- number: 1\n".into())),
        ("text", value::Form::Text(r#"id: "a" labels {key: "z" value: "1"} labels {key: "b" value: "2"} ports {number: 2} ports {number: 1}"#.into())),
        ("json", value::Form::Json(r#"{"id": "a", "labels": {"b": "2", "z": "1"}, "ports": [{"number": 1}, {"number": 2}]}"#.into())),
        ("proto out of order", value::Form::Proto(b"\x4a\x02\x08\x02\x4a\x02\x08\x01\x42\x06\x0a\x01z\x12\x011\x42\x06\x0a\x01b\x12\x012\x0a\x01a"[..].into())),
        ("proto with an unknown field", value::Form::Proto(b"\x0a\x01a\xf8\x01\x01"[..].into())),
        ("proto cut short", value::Form::Proto(b"\x0a\x05a"[..].into())),
        ("json cut short", value::Form::Json(r#"{"id": "a""#.into())),
        ("json of another shape", value::Form::Json("[1]".into())),
        ("text of another type", value::Form::Text("number: 3".into())),
    ];
    let mut lines = Vec::new();
    for (name, form) in forms {
        let kind = text_operation::Kind::Put(pb::Value {
            form: Some(form),
            r#type: String::new(),
        });
        let operation = pb::TextOperation {
            path: "/devices/a".into(),
            kind: Some(kind),
            ..Default::default()
        };
        lines.push(format!("{name}: {}", decided(&world.commit(operation).await)));
    }
    // U2, A4: a value that says another type.
    let named = |name: &str| pb::Value {
        r#type: name.into(),
        ..value(r#"{"id": "b"}"#)
    };
    for name in ["example.Device", "example.Port"] {
        let kind = text_operation::Kind::Add(named(name));
        let operation = pb::TextOperation {
            path: "/devices".into(),
            kind: Some(kind),
            ..Default::default()
        };
        lines.push(format!("{name}: {}", decided(&world.commit(operation).await)));
    }
    expect![[r#"
        yaml: committed r1 p2 [/devices/a: the value was put in order]
        text: unchanged p3 [/devices/a: the value was put in order]
        json: unchanged p4
        proto out of order: unchanged p5 [/devices/a: the value was put in order]
        proto with an unknown field: UNKNOWN_FIELD at /devices/a: example.Device.31: example.Device has no field 31
        proto cut short: NOT_CANONICAL at /devices/a: example.Device: the bytes are no protobuf message: the bytes end inside a field
        json cut short: TYPE_MISMATCH at /devices/a: line 1 column 10: EOF while parsing an object
        json of another shape: TYPE_MISMATCH at /devices/a: expected the fields of a example.Device, found a list of 1
        text of another type: UNKNOWN_FIELD at /devices/a: line 1 column 1: field 'number' not found for message 'example.Device'
        example.Device: committed r2 p6
        example.Port: TYPE_MISMATCH at /devices: a example.Device belongs here, the value is a example.Port"#]].assert_eq(&lines.join("\n"));
    expect![[r#"{"id":"a","labels":{"b":"2","z":"1"},"ports":[{"number":1},{"number":2}]}"#]]
        .assert_eq(&world.json("/devices/a", -1, "").await);
}

// X6: all or nothing, one revision. formats.md 4: no two operations on one path.
#[tokio::test]
async fn a_commit_is_one_revision_or_none() {
    let world = World::sample().await;
    let before = world.revision();
    let several = vec![
        add("/vlans", r#"{"number": 1}"#),
        add("/vlans", r#"{"number": 2}"#),
        remove("/vlans/100"),
    ];
    let lines = [
        decided(&world.commit_all(several).await),
        decided(
            &world
                .commit_all(vec![add("/vlans", r#"{"number": 3}"#), remove("/vlans/77")])
                .await,
        ),
        decided(
            &world
                .commit_all(vec![update("/clock", "{}"), update("/clock", r#"{"timezone": "UTC"}"#)])
                .await,
        ),
        decided(
            &world
                .commit_all(vec![remove("/devices/olt-1"), remove("/devices/olt-1/ports/1")])
                .await,
        ),
        decided(&world.commit_all(Vec::new()).await),
    ];
    expect![[r#"
        committed r5 p6
        NOT_FOUND at /vlans/77: no such key: /vlans/77
        OVERLAP at /clock: /clock is named by two operations of one commit
        OVERLAP at /devices/olt-1/ports/1: /devices/olt-1/ports/1 lies below /devices/olt-1, which the same commit removes
        unchanged p10"#]].assert_eq(&lines.join("\n"));
    assert_eq!(world.revision(), before + 1);
}

// X9, X10, M: bases and guards by hash, and looked up by the server.
#[tokio::test]
async fn bases_and_guards_hold_or_say_what_stands_there() {
    let world = World::sample().await;
    let path = "/devices/olt-1";
    let (old_hash, old_data) = (world.hash(path).await, world.data_hash(path).await);
    world
        .commit(masked(path, r#"{"description": "new"}"#, &["description"]))
        .await
        .unwrap();

    let with_base = |operation: pb::TextOperation, was| pb::TextOperation {
        base: Some(pb::TextBase { was: Some(was) }),
        ..operation
    };
    let guarded = |path: &str, expect| pb::CommitRequest {
        guards: vec![pb::TextGuard {
            path: path.into(),
            expect: Some(expect),
        }],
        operations: vec![update("/clock", r#"{"timezone": "UTC"}"#)],
        ..Default::default()
    };
    use text_base::Was;
    let device = r#"{"id": "olt-1", "description": "mine"}"#;
    let bases = vec![
        with_base(update(path, device), Was::Hash(old_data.clone())),
        with_base(update(path, device), Was::AsOf("4".into())),
        with_base(
            masked(path, r#"{"address": "::1"}"#, &["address"]),
            Was::AsOf("4".into()),
        ),
        with_base(
            masked(path, r#"{"description": "mine"}"#, &["description"]),
            Was::AsOf("1".into()),
        ),
        with_base(remove(path), Was::Hash(old_hash.clone())),
        with_base(put("/vlans/300", r#"{"number": 300}"#), Was::AsOf("latest".into())),
        with_base(
            put("/vlans/300", r#"{"number": 300, "name": "x"}"#),
            Was::Absent(pb::Absent {}),
        ),
        with_base(replace("/vlans", r#"{"vlans": []}"#), Was::AsOf("5".into())),
        with_base(update(path, device), Was::Hash("12".into())),
        with_base(update(path, device), Was::AsOf("99".into())),
    ];
    let mut lines = vec![outcomes(&world, bases).await];
    use text_guard::Expect;
    let hash = world.hash(path).await;
    for request in [
        guarded(path, Expect::Subtree(hash)),
        guarded(path, Expect::Data(old_data)),
        guarded("/devices", Expect::Container("0".repeat(64))),
        guarded(path, Expect::Container(old_hash)),
        guarded("/devices/none", Expect::Absent(pb::Absent {})),
        guarded(path, Expect::SameAs("latest".into())),
        guarded(path, Expect::SameAs("4".into())),
        guarded("/vlans", Expect::SameAs("4".into())),
        guarded("/devices/none", Expect::SameAs("1".into())),
        guarded("/devices/none/ports", Expect::SameAs("1".into())),
        guarded(path, Expect::SameAs("nowhere".into())),
    ] {
        lines.push(decided(&world.service.commit(request).await));
    }
    expect![[r#"
        CONFLICT at /devices/olt-1: /devices/olt-1 was changed since to another value; ours would update it
        CONFLICT at /devices/olt-1: /devices/olt-1 was changed since to another value; ours would update it
        committed r6 p9
        CONFLICT at /devices/olt-1: /devices/olt-1 was changed since to another value; ours would update it
        CONFLICT at /devices/olt-1: /devices/olt-1 was changed since to another value; ours would remove it
        committed r7 p12
        CONFLICT at /vlans/300: /vlans/300 was made since with other content; ours would put it
        CONFLICT at /vlans: /vlans was changed since to another value; ours would replace it
        INVALID_PATH at /devices/olt-1: "12" is not a hash: 2 hex digits, not 64
        FUTURE: "99": revision 99 is not reached yet, the latest is 7
        committed r8 p15
        GUARD_FAILED at /devices/olt-1: expected 749342393976, found b5e50bd27813
        GUARD_FAILED at /devices: expected 000000000000, found 64ae657cbb54
        NOT_A_CONTAINER at /devices/olt-1: a container guard names a node
        unchanged p19
        unchanged p20
        GUARD_FAILED at /devices/olt-1: expected 4208452d3039, found 8e7a5bea8977
        GUARD_FAILED at /vlans: expected 7adf07a6ce05, found 01622762130b
        unchanged p23
        unchanged p24
        NOT_FOUND: "nowhere": no tag or root is called "nowhere"; the store has no tags"#]]
    .assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn a_conflict_names_every_path_with_its_hashes() {
    let world = World::sample().await;
    let base = |operation: pb::TextOperation| pb::TextOperation {
        base: Some(pb::TextBase {
            was: Some(text_base::Was::AsOf("4".into())),
        }),
        ..operation
    };
    world
        .commit_all(vec![
            update("/vlans/100", r#"{"number": 100, "name": "theirs"}"#),
            remove("/vlans/200"),
        ])
        .await
        .unwrap();
    let ours = vec![
        base(update("/vlans/200", r#"{"number": 200, "name": "ours"}"#)),
        base(update("/vlans/100", r#"{"number": 100, "name": "ours"}"#)),
    ];
    let status = world.commit_all(ours).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Aborted);
    let detail = confold_wire::status::detail(&status).unwrap();
    let rows: Vec<String> = detail
        .conflicts
        .iter()
        .map(|row| {
            format!(
                "{} {} {} {} {}",
                row.path,
                row.kind,
                row.base.len(),
                row.ours.len(),
                row.theirs.len()
            )
        })
        .collect();
    expect![[r#"
        /vlans/100 update 64 64 64
        /vlans/200 update 64 64 0"#]]
    .assert_eq(&rows.join("\n"));
    assert_eq!(detail.position, Some(world.position()));
    assert!(!detail.event_id.is_empty() && !detail.token.is_empty() && !detail.hint.is_empty());
}

// T: limits are said with their value.
#[tokio::test]
async fn what_is_too_big_or_too_deep_is_refused() {
    let begin = confold_replica::Begin {
        limits: confold_model::event::Limits {
            max_event_bytes: 15_000,
            key_bytes: 16,
            ..Default::default()
        },
        ..Default::default()
    };
    let world = World::begun_with(begin, Default::default()).await;
    world.push(network(), "example.Network").await.unwrap();
    let big = format!(r#"{{"timezone": "{}"}}"#, "x".repeat(20_000));
    let long_key = format!(r#"{{"id": "{}"}}"#, "k".repeat(17));
    let longest_key = format!(r#"{{"id": "{}"}}"#, "k".repeat(257));
    let lines = outcomes(
        &world,
        vec![
            update("/clock", &big),
            add("/devices", &long_key),
            add("/devices", &longest_key),
            update("/clock", &format!("{}1{}", "[".repeat(200), "]".repeat(200))),
        ],
    )
    .await;
    expect![[r#"
        TOO_LARGE: the event has 20099 bytes, and the store takes at most 15000: split it into several commits
        LIMIT at /devices/kkkkkkkkkkkkkkkkk: a key has 17 bytes, the limit is 16
        LIMIT at /devices: example.Device.id: the key has 257 bytes; at most 256 are allowed
        LIMIT at /clock: line 1 column 101: nested deeper than 100"#]]
    .assert_eq(&lines);
}

// formats.md 1: at most 64 messages deep, children and plain data together.
#[tokio::test]
async fn a_value_nested_too_deep_is_refused_with_the_limit() {
    let world = World::begun().await;
    let recursive = descriptor_set(
        r#"syntax = "proto3";
        package deep;
        import "confold/options.proto";
        message Node {
            string id = 1;
            repeated Node kids = 2 [(confold.v1.child_node) = {key: "id"}];
            Node plain = 3;
        }"#,
    );
    world.push(&recursive, "deep.Node").await.unwrap();
    // An element with so many messages inside it, by field 2 (children) or 3 (data).
    let nested = |field: u8, levels: usize| {
        let mut bytes = b"\x0a\x01x".to_vec();
        for _ in 0..levels {
            let mut outer = b"\x0a\x01x".to_vec();
            outer.push(field << 3 | 2);
            outer.push(u8::try_from(bytes.len() & 0x7f | 0x80).unwrap());
            outer.push(u8::try_from(bytes.len() >> 7).unwrap());
            outer.extend(bytes);
            bytes = outer;
        }
        let form = Some(value::Form::Proto(bytes.into()));
        let kind = text_operation::Kind::Put(pb::Value {
            form,
            r#type: String::new(),
        });
        pb::TextOperation {
            path: "/kids/x".into(),
            kind: Some(kind),
            ..Default::default()
        }
    };
    for field in [2, 3] {
        let at_limit = decided(&world.commit(nested(field, 62)).await);
        assert!(at_limit.starts_with("committed"), "{at_limit}");
        let status = world.commit(nested(field, 63)).await.unwrap_err();
        assert_eq!(code(&status), "LIMIT", "{}", refusal(&status));
    }
}

#[tokio::test]
async fn incomplete_requests_say_what_is_missing() {
    let world = World::network().await;
    let operation = |kind| pb::TextOperation {
        path: "/clock".into(),
        kind,
        ..Default::default()
    };
    let update = text_operation::Kind::Update(pb::TextUpdate::default());
    let requests = [
        pb::CommitRequest {
            operations: vec![operation(None)],
            ..Default::default()
        },
        pb::CommitRequest {
            operations: vec![operation(Some(update.clone()))],
            ..Default::default()
        },
        pb::CommitRequest {
            guards: vec![pb::TextGuard::default()],
            ..Default::default()
        },
        pb::CommitRequest {
            operations: vec![pb::TextOperation {
                base: Some(pb::TextBase::default()),
                ..remove("/devices/x")
            }],
            ..Default::default()
        },
        pb::CommitRequest {
            store: "other".into(),
            ..Default::default()
        },
        pb::CommitRequest {
            proposal: proposal("0f0f"),
            ..Default::default()
        },
        pb::CommitRequest {
            proposal: proposal("-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"),
            ..Default::default()
        },
    ];
    let mut lines = Vec::new();
    for request in requests {
        lines.push(decided(&world.service.commit(request).await));
    }
    let begun = World::begun().await;
    lines.push(decided(&begun.commit(add("/devices", "{}")).await));
    expect![[r#"
        INVALID_PATH at /clock: the operation says nothing
        INVALID_PATH at /clock: the update has no value
        INVALID_PATH: the guard expects nothing
        INVALID_PATH at /devices/x: the base says nothing
        NOT_FOUND: no store is called "other"; there is network
        INVALID_PATH: "0f0f" is not an event id: write the position that was seen, a dash, and 32 hex digits of nonce, as in 4182-0f3a…
        INVALID_PATH: "-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f" is not an event id: the position that was seen is missing before the nonce
        SCHEMA_INVALID: the store has no schema yet"#]].assert_eq(&lines.join("\n"));
}
