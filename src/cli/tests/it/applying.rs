use crate::world::{World, read_at, status};
use confold_model::code::Code;
use confold_wire::{pb, status::error_detail};
use expect_test::expect;

const DOCUMENTS: &str = "
name: lab
clock: {timezone: UTC, ntp_servers: [{address: ntp1}]}
devices:
- id: olt-1
  ports: [{number: 2}, {number: 1}]
- id: sw/core
vlans: [{number: 7, name: a}, {name: zero}]
---
/clock/ntp_servers: []
/devices/olt-2: {id: olt-2}
/vlans: [{number: 8}]
";

#[test]
fn documents_become_one_commit_of_puts() {
    let world = World::new();
    world.file("a.yaml", DOCUMENTS);
    world.check("apply -f a.yaml", expect![[r#"
        > get_schema {}
        > status {}
        > commit_stream {"commit":{"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/","update":{"value":{"proto":"CgNsYWI=","type":"example.Network"},"mask":["name"]}},{"path":"/clock","put":{"proto":"CgNVVEMSBgoEbnRwMQ==","type":"example.Clock"}},{"path":"/devices/olt-1","put":{"proto":"CgVvbHQtMUoCCAJKAggB","type":"example.Device"}},{"path":"/devices/sw%2Fcore","put":{"proto":"Cgdzdy9jb3Jl","type":"example.Device"}},{"path":"/vlans/0","put":{"proto":"EgR6ZXJv","type":"example.Vlan"}},{"path":"/vlans/7","put":{"proto":"CAcSAWE=","type":"example.Vlan"}}]}}
        > commit_stream {"correlation":"1","commit":{"proposal":{"event_id":"4183-01010101010101010101010101010101","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/clock/ntp_servers","replace":{"proto":"","type":"example.Clock"}},{"path":"/devices/olt-2","put":{"proto":"CgVvbHQtMg==","type":"example.Device"}},{"path":"/vlans/8","put":{"proto":"CAg=","type":"example.Vlan"}}]}}
        applied: 9 operations in 2 commits, revision 13, root 3f9c12ab34cd
        ! a path is named twice, or below another one: several commits, each complete in itself
    "#]]);
}

#[test]
fn what_is_more_than_an_event_holds_is_cut() {
    let world = World::new();
    world.file(
        "a.json",
        r#"{"vlans": [{"number": 1}, {"number": 2}, {"number": 3}]} {"vlans": [{"number": 2}]}"#,
    );
    world.check("apply -f a.json --commit-size 200", expect![[r#"
        > get_schema {}
        > status {}
        > commit_stream {"commit":{"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/1","put":{"proto":"CAE=","type":"example.Vlan"}},{"path":"/vlans/2","put":{"proto":"CAI=","type":"example.Vlan"}}]}}
        > commit_stream {"correlation":"1","commit":{"proposal":{"event_id":"4182-01010101010101010101010101010101","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/2","put":{"proto":"CAI=","type":"example.Vlan"}},{"path":"/vlans/3","put":{"proto":"CAM=","type":"example.Vlan"}}]}}
        applied: 4 operations in 2 commits, revision 13, root 3f9c12ab34cd
        ! this is more than one event holds: several commits, each complete in itself
    "#]]);
    world.check(
        "apply -f a.json --commit-size 200 --atomic",
        expect![[r#"
            > get_schema {}
            > status {}
            ! Error: TOO_LARGE: this is more than one event holds, and --atomic was asked for
            ! Hint: nothing was committed; leave out --atomic, or apply less at once
            exit 2
        "#]],
    );
    world.check(
        "apply -f a.json --commit-size 60",
        expect![[r#"
        > get_schema {}
        > status {}
        ! Error: TOO_LARGE: /vlans/1: 74 bytes; one event holds 60
        ! Hint: split it into several commits, or ask for less depth
        exit 2
    "#]],
    );
}

#[test]
fn a_node_bigger_than_an_event_is_taken_apart() {
    let world = World::new();
    let ports: Vec<String> = (1..6)
        .map(|port| format!(r#"{{"number": {port}, "label": "{}"}}"#, "x".repeat(60)))
        .collect();
    world.file(
        "a.json",
        &format!(
            r#"{{"devices": [{{"id": "olt-1", "address": "a", "ports": [{}]}}]}}"#,
            ports.join(",")
        ),
    );
    world.fake.get.answer(pb::GetResponse {
        nodes: vec![pb::Node::default()],
        ..Default::default()
    });
    let stale = pb::Node {
        path: "/devices/olt-1/ports/9".to_owned(),
        ..Default::default()
    };
    let kept = pb::Node {
        path: "/devices/olt-1/ports/1".to_owned(),
        ..Default::default()
    };
    world.fake.list_stream.always(vec![pb::ListResponse {
        nodes: vec![kept, stale],
        ..Default::default()
    }]);
    world.check("apply -f a.json --commit-size 300", expect![[r#"
        > get_schema {}
        > status {}
        > get {"path":"/devices/olt-1"}
        > commit_stream {"commit":{"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1","update":{"value":{"proto":"CgVvbHQtMRIBYQ==","type":"example.Device"}}}]}}
        > list_stream {"path":"/devices/olt-1/ports","no_values":true}
        > commit_stream {"correlation":"1","commit":{"proposal":{"event_id":"4183-01010101010101010101010101010101","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1/ports/1","put":{"proto":"CAESPHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA==","type":"example.Port"}},{"path":"/devices/olt-1/ports/9","remove":{}}]}}
        > commit_stream {"correlation":"2","commit":{"proposal":{"event_id":"4183-02020202020202020202020202020202","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1/ports/2","put":{"proto":"CAISPHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA==","type":"example.Port"}},{"path":"/devices/olt-1/ports/3","put":{"proto":"CAMSPHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA==","type":"example.Port"}}]}}
        > commit_stream {"correlation":"3","commit":{"proposal":{"event_id":"4183-03030303030303030303030303030303","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1/ports/4","put":{"proto":"CAQSPHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA==","type":"example.Port"}},{"path":"/devices/olt-1/ports/5","put":{"proto":"CAUSPHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA==","type":"example.Port"}}]}}
        applied: 7 operations in 4 commits, revision 13, root 3f9c12ab34cd
        ! this is more than one event holds: several commits, each complete in itself
    "#]]);
}

#[test]
fn pruning_removes_what_no_document_names() {
    let world = World::new();
    world.file("dir/a.yaml", "vlans: [{number: 7}]\n");
    world.file("dir/sub/b.yaml", "vlans: [{number: 8}]\ndevices: []\n");
    let node = |path: &str| pb::Node {
        path: path.to_owned(),
        ..Default::default()
    };
    for _ in 0..2 {
        world.fake.list_stream.answer(vec![pb::ListResponse {
            nodes: vec![node("/devices/old")],
            ..Default::default()
        }]);
        let vlans = vec![node("/vlans/7"), node("/vlans/8"), node("/vlans/9")];
        world.fake.list_stream.answer(vec![pb::ListResponse {
            nodes: vlans,
            ..Default::default()
        }]);
    }
    world.check("apply -f dir --prune", expect![[r#"
        > get_schema {}
        > status {}
        > list_stream {"path":"/devices","no_values":true}
        > list_stream {"path":"/vlans","no_values":true}
        > commit_stream {"commit":{"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/old","remove":{}},{"path":"/vlans/7","put":{"proto":"CAc=","type":"example.Vlan"}},{"path":"/vlans/8","put":{"proto":"CAg=","type":"example.Vlan"}},{"path":"/vlans/9","remove":{}}]}}
        applied: 4 operations in 1 commit, revision 13, root 3f9c12ab34cd
    "#]]);
    world.fake.get.refuse(confold_wire::status::status(&error_detail(
        Code::NotFound,
        "nothing is there",
    )));
    world.fake.get.refuse(confold_wire::status::status(&error_detail(
        Code::NotFound,
        "nothing is there",
    )));
    world.check(
        "apply -f dir --prune --dry-run",
        expect![[r#"
        > get_schema {}
        > status {}
        > get {"path":"/vlans/7","depth":-1}
        > get {"path":"/vlans/8","depth":-1}
        > list_stream {"path":"/devices","no_values":true}
        > list_stream {"path":"/vlans","no_values":true}
        + /vlans/7
        + /vlans/8
        - /devices/old
        - /vlans/9
        ! 2 of 2 operations would change something, 2 elements would be removed
    "#]],
    );
}

#[test]
fn a_dry_run_shows_what_would_change() {
    let world = World::new();
    world.file(
        "a.yaml",
        "name: lab\nvlans: [{number: 7, name: a}, {number: 8, name: b}, {number: 9}]\n",
    );
    let proto = |bytes: &'static [u8]| pb::GetResponse {
        read_at: Some(read_at(12)),
        nodes: vec![pb::Node {
            value: Some(pb::Value {
                form: Some(pb::value::Form::Proto(bytes::Bytes::from_static(bytes))),
                r#type: String::new(),
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    world.fake.get.answer(proto(b"\x08\x07\x12\x01a"));
    world.fake.get.answer(proto(b"\x08\x08\x12\x01x"));
    world.fake.get.refuse(confold_wire::status::status(&error_detail(
        Code::NotFound,
        "nothing is there",
    )));
    world.fake.get.answer(proto(b"\x0a\x03old"));
    world.check(
        "apply -f a.yaml --dry-run",
        expect![[r#"
        > get_schema {}
        > status {}
        > get {"path":"/vlans/7","depth":-1}
        > get {"path":"/vlans/8","depth":-1}
        > get {"path":"/vlans/9","depth":-1}
        > get {"path":"/"}
        ~ /vlans/8
              number: 8
            - name: x
            + name: b
        + /vlans/9
        ~ / (name)
            - name: old
            + name: lab
        ! 3 of 4 operations would change something
    "#]],
    );
}

#[test]
fn what_cannot_be_applied_is_refused_with_its_place() {
    let mut world = World::new();
    for (name, text) in [
        ("field.yaml", "devcies: []\n"),
        ("inner.yaml", "devices: [{id: a, adress: b}]\n"),
        ("nokey.yaml", "devices: [{address: b}]\n"),
        ("empty.yaml", "devices: [{id: ''}]\n"),
        ("number.yaml", "vlans: [{number: 007x}]\n"),
        ("scalar.yaml", "devices: 5\n"),
        ("path.yaml", "/devices/olt-1/prots: []\n"),
        ("root.yaml", "/: {name: a}\n"),
        ("list.yaml", "/devices/olt-1: [1]\n"),
        ("twice.yaml", "name: a\nname: b\n"),
        ("text.yaml", "just text\n"),
        ("wrong.textproto", "name: \"a\" nme: \"b\"\n"),
    ] {
        world.file(name, text);
    }
    let mut all = String::new();
    for name in [
        "field", "inner", "nokey", "empty", "number", "scalar", "path", "root", "list", "twice", "text",
    ] {
        all.push_str(&format!("{name}\n"));
        let output = world.run(&format!("apply -f {name}.yaml"));
        all.extend(
            output
                .lines()
                .filter(|line| !line.starts_with('>'))
                .map(|line| format!("  {line}\n")),
        );
    }
    expect![[r#"
        field
          ! Error: UNKNOWN_FIELD: example.Network has no field "devcies"
          ! Caused by: so it stands in field.yaml
          ! Hint: did you mean devices?
          exit 2
        inner
          ! Error: UNKNOWN_FIELD: /devices/a: example.Device has no field "adress"
          ! Caused by: so it stands in inner.yaml
          ! Hint: did you mean address?
          exit 2
        nokey
          ! Error: INVALID_PATH: /devices[0]: the key id is missing
          ! Caused by: so it stands in nokey.yaml
          ! Hint: write /field/key/field/key, keys percent-encoded, integers in plain decimal
          exit 2
        empty
          ! Error: INVALID_PATH: /devices[0]: its key is empty
          ! Caused by: so it stands in empty.yaml
          ! Hint: write /field/key/field/key, keys percent-encoded, integers in plain decimal
          exit 2
        number
          ! Error: INVALID_PATH: /vlans/007x: path "/vlans/007x": key "007x": number is uint32; write a decimal number, like 7
          ! Caused by: so it stands in number.yaml
          ! Hint: write /field/key/field/key, keys percent-encoded, integers in plain decimal
          exit 2
        scalar
          ! Error: TYPE_MISMATCH: devices: a container's elements are written as a list
          ! Caused by: so it stands in scalar.yaml
          ! Hint: look at the message with `confold schema show`
          exit 2
        path
          ! Error: NOT_FOUND: /devices/olt-1/prots: no such child field: example.Device has no child "prots"; it has ports
          ! Caused by: so it stands in path.yaml
          ! Hint: look what is there with `confold ls`, or name another state with --at
          exit 1
        root
          ! Error: /: the root stands as field names, not as a path; leave out `/:`
          ! Caused by: so it stands in root.yaml
          exit 2
        list
          ! Error: TYPE_MISMATCH: /devices/olt-1: a list stands where one node belongs
          ! Caused by: so it stands in list.yaml
          ! Hint: look at the message with `confold schema show`
          exit 2
        twice
          ! Error: twice.yaml: "name" stands here twice
          exit 2
        text
          ! Error: text.yaml: invalid type: string "just text", expected a mapping from field names or paths to values
          exit 2
    "#]].assert_eq(&all);
    world.check(
        "apply -f wrong.textproto",
        expect![[r#"
        > get_schema {}
        > status {}
        ! Error: UNKNOWN_FIELD: cannot read wrong.textproto
        ! Caused by: line 1 column 11: field 'nme' not found for message 'example.Network'
        ! Hint: look at the message with `confold schema show`, or push a schema that has the field
        exit 2
    "#]],
    );
    world.check(
        "apply -f nowhere.yaml",
        expect![[r#"
        ! Error: nowhere.yaml: No such file or directory (os error 2)
        exit 2
    "#]],
    );
    world.input = "name: x\n".to_owned();
    world.check("apply -f -", expect![[r#"
        > get_schema {}
        > status {}
        > commit_stream {"commit":{"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/","update":{"value":{"proto":"CgF4","type":"example.Network"},"mask":["name"]}}]}}
        applied: 1 operation in 1 commit, revision 13, root 3f9c12ab34cd
    "#]]);
}

#[test]
fn a_refused_commit_stops_and_says_how_far_it_got() {
    let world = World::new();
    world.file(
        "a.json",
        r#"{"vlans": [{"number": 1}, {"number": 2}, {"number": 3}, {"number": 4}]}"#,
    );
    world.fake.commit_stream.answer(crate::world::committed());
    world.fake.commit_stream.answer(pb::Decision {
        outcome: pb::decision::Outcome::Rejected.into(),
        error: Some(error_detail(Code::Limit, "too deep")),
        ..Default::default()
    });
    world.check("apply -f a.json --commit-size 80", expect![[r#"
        > get_schema {}
        > status {}
        > commit_stream {"commit":{"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/1","put":{"proto":"CAE=","type":"example.Vlan"}}]}}
        > commit_stream {"correlation":"1","commit":{"proposal":{"event_id":"4182-01010101010101010101010101010101","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/2","put":{"proto":"CAI=","type":"example.Vlan"}}]}}
        ! this is more than one event holds: several commits, each complete in itself
        ! Error: LIMIT: too deep
        ! Caused by: 1 operation was applied before; applying the same again does only what is left
        ! Hint: stay within the limit; `confold status` shows all of them
        exit 2
    "#]]);
}

#[test]
fn a_million_nodes_are_applied_in_few_commits() {
    let world = World::new();
    let vlans: Vec<String> = (0..100_000)
        .map(|number| format!(r#"{{"number":{number},"name":"{}"}}"#, "x".repeat(250)))
        .collect();
    world.file("a.json", &format!(r#"{{"vlans":[{}]}}"#, vlans.join(",")));
    drop(vlans);
    world.fake.status.always(status());
    let output = world.run("apply -f a.json");
    assert!(output.contains("applied: 100,000 operations in 3 commits"), "{output}");
}
