use crate::world::{World, committed, device, got};
use confold_model::code::Code;
use confold_wire::{pb, status};
use expect_test::expect;

#[test]
fn a_value_comes_from_a_file_from_stdin_or_from_the_line_itself() {
    let mut world = World::new();
    world.input = "id: olt-2\n".to_owned();
    world.file("d.json", r#"{"id": "olt-2"}"#);
    world.file("d.textproto", "id: \"olt-2\"");
    world.file("d.binpb", "\n\x05olt-2");
    world.file("d.what", "");
    world.check("put /devices/olt-2 d.json", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-2","put":{"json":{"id":"olt-2"}}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("put /devices/olt-2 d.textproto", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-2","put":{"text":"id: \"olt-2\""}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("put /devices/olt-2 d.binpb", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-2","put":{"proto":"CgVvbHQtMg=="}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("put /devices/olt-2 -", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-2","put":{"yaml":"id: olt-2\n"}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("put /devices/olt-2 '{id: olt-2}' --author bob --reason 'a new one'", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"bob","reason":"a new one","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-2","put":{"yaml":"{id: olt-2}"}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check(
        "put /devices/olt-2 d.what",
        expect![[r#"
        ! Error: d.what: the name does not say how the value is written
        ! Hint: say it with --format, or end the name in .json, .yaml, .textproto or .binpb
        exit 2
    "#]],
    );
    world.check(
        "put /devices/olt-2 nowhere.json",
        expect![[r#"
            ! Error: nowhere.json: No such file or directory (os error 2)
            ! Hint: a value that is written out begins with `{`, as in '{name: lab}'
            exit 2
        "#]],
    );
}

#[test]
fn each_operation_is_one_commit_with_its_conditions() {
    let world = World::new();
    world.check("add /devices '{id: olt-2}' --strict", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices","strict":true,"add":{"yaml":"{id: olt-2}"}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("replace /clock/ntp_servers '{ntp_servers: []}' --base 41", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/clock/ntp_servers","base":{"as_of":"41"},"replace":{"yaml":"{ntp_servers: []}"}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("update /devices/olt-1 '{description: x}' --mask description,location.site --if-at v1", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"guards":[{"path":"/devices/olt-1","same_as":"v1"}],"operations":[{"path":"/devices/olt-1","update":{"value":{"yaml":"{description: x}"},"mask":["description","location.site"]}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("rm /devices/olt-1 /vlans/7 --if-at 41", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"guards":[{"path":"/devices/olt-1","same_as":"41"},{"path":"/vlans/7","same_as":"41"}],"operations":[{"path":"/devices/olt-1","remove":{}},{"path":"/vlans/7","remove":{}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
}

#[test]
fn set_knows_the_types_of_fields() {
    let world = World::new();
    world.check(
        "set /devices/olt-1:admin_state=ENABLED /devices/olt-1:location.site=true /devices/olt-1/ports/3:vlans=[1,2] :name=x=y",
        expect![[r#"
            > get_schema {}
            > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/","update":{"value":{"json":{"name":"x=y"}},"mask":["name"]}},{"path":"/devices/olt-1","update":{"value":{"json":{"admin_state":"ENABLED","location":{"site":"true"}}},"mask":["admin_state","location.site"]}},{"path":"/devices/olt-1/ports/3","update":{"value":{"json":{"vlans":[1,2]}},"mask":["vlans"]}}]}
            committed: revision 13, position 4183, root 3f9c12ab34cd
        "#]],
    );
    world.check("set /devices/olt-1:description 'in the cellar'", expect![[r#"
        > get_schema {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1","update":{"value":{"json":{"description":"in the cellar"}},"mask":["description"]}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check(
        "set /devices/olt-1:nam=x",
        expect![[r#"
        > get_schema {}
        ! Error: UNKNOWN_FIELD: /devices/olt-1: example.Device has no field "nam"
        ! Hint: it has id, address, admin_state, description, serial_number, uptime_seconds, location, labels, ports
        exit 2
    "#]],
    );
    world.check(
        "set /devices/olt-1:admin_state=ON",
        expect![[r#"
        > get_schema {}
        ! Error: TYPE_MISMATCH: /devices/olt-1: admin_state: example.AdminState has no value "ON"
        ! Hint: it has UNSET, ENABLED, DISABLED
        exit 2
    "#]],
    );
    world.check(
        "set /devices:id=x",
        expect![[r#"
        > get_schema {}
        ! Error: IS_A_CONTAINER: /devices: it is a container
        ! Hint: name one element of it, as in /devices/olt-1
        exit 2
    "#]],
    );
    world.check(
        "set /devices/olt-1=x",
        expect![[r#"
        ! Error: /devices/olt-1: no field is named; write PATH:field, as in /devices/olt-1:description
        exit 2
    "#]],
    );
    world.check(
        "set /devices/olt-1:id=a /devices/olt-1:id=b",
        expect![[r#"
        > get_schema {}
        ! Error: /devices/olt-1: the field id is set twice
        exit 2
    "#]],
    );
    world.check("unset /devices/olt-1:description /devices/olt-1:location.site", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1","update":{"value":{},"mask":["description","location.site"]}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
}

#[test]
fn notes_and_unchanged_outcomes_are_told() {
    let world = World::new();
    let decision = pb::Decision {
        outcome: pb::decision::Outcome::Unchanged.into(),
        revision: None,
        repeated: true,
        notes: vec!["/devices/olt-2: uptime_seconds is REAL_TIME and not stored".to_owned()],
        ..committed()
    };
    world.fake.commit.always(decision);
    world.check("put /devices/olt-2 '{id: olt-2, uptime_seconds: 5}'", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-2","put":{"yaml":"{id: olt-2, uptime_seconds: 5}"}}]}
        unchanged: position 4183, root 3f9c12ab34cd, decided before
        ! Note: /devices/olt-2: uptime_seconds is REAL_TIME and not stored
    "#]]);
    world.check("put /devices/olt-2 '{id: olt-2}' --json", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-2","put":{"yaml":"{id: olt-2}"}}]}
        {
          "outcome": "UNCHANGED",
          "event_id": "4182-00000000000000000000000000000000",
          "root": "3f9c12ab34cd5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7",
          "position": "4183",
          "time_ms": "1795255200000",
          "token": "4183@abababababababababababababababab",
          "repeated": true,
          "notes": [
            "/devices/olt-2: uptime_seconds is REAL_TIME and not stored"
          ]
        }
        ! Note: /devices/olt-2: uptime_seconds is REAL_TIME and not stored
    "#]]);
}

#[test]
fn commit_takes_operations_from_options_and_files() {
    let world = World::new();
    world.file("d.yaml", "id: olt-2\n");
    world.file(
        "commit.yaml",
        "guards:\n- {path: /vlans/9, absent: {}}\noperations:\n- {path: /vlans/9, add: {json: {number: 9}}}\n",
    );
    world.check(
        "commit -f commit.yaml --put /devices/olt-2=d.yaml --remove /vlans/7 --set /devices/olt-1:admin_state=DISABLED \
         --unset /devices/olt-1:description --if-at /clock=41 --if-absent /vlans/8 --base v1",
        expect![[r#"
            > get_schema {}
            > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"guards":[{"path":"/vlans/9","absent":{}},{"path":"/clock","same_as":"41"},{"path":"/vlans/8","absent":{}}],"operations":[{"path":"/vlans/9","add":{"json":{"number":9}}},{"path":"/devices/olt-2","base":{"as_of":"v1"},"put":{"yaml":"id: olt-2\n"}},{"path":"/vlans/7","base":{"as_of":"v1"},"remove":{}},{"path":"/devices/olt-1","base":{"as_of":"v1"},"update":{"value":{"json":{"admin_state":"DISABLED"}},"mask":["admin_state","description"]}}]}
            committed: revision 13, position 4183, root 3f9c12ab34cd
        "#]],
    );
    world.check(
        "commit",
        expect![[r#"
        ! Error: no operation to commit
        ! Hint: name one, as in --remove /devices/olt-1, or a file
        exit 2
    "#]],
    );
    world.file("wrong.yaml", "operation: []\n");
    world.check("commit -f wrong.yaml", expect![[r#"
        ! Error: wrong.yaml is no commit request: confold.v1.CommitRequest has no field "operation" (did you mean operations?)
        exit 2
    "#]]);
}

#[test]
fn edit_commits_what_was_saved_on_what_was_shown() {
    let mut world = World::new();
    world.fake.get.always(got(device("olt-1")));
    world.check(
        "edit /devices/olt-1",
        expect![[r#"
            > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
            ! nothing was changed
        "#]],
    );
    world.edit = std::sync::Arc::new(|text| text.replace("192.0.2.10", "192.0.2.99"));
    world.check("edit /devices/olt-1", expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1","base":{"hash":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"},"update":{"value":{"yaml":"id: olt-1\naddress: 192.0.2.99\n","type":"example.Device"}}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("edit /devices/olt-1 --deep --strict", expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","depth":-1,"format":"FORMAT_YAML"}
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1","strict":true,"base":{"as_of":"rev:12"},"replace":{"yaml":"id: olt-1\naddress: 192.0.2.99\n","type":"example.Device"}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.environment.insert("EDITOR".to_owned(), "broken".to_owned());
    world.check(
        "edit /devices/olt-1",
        expect![[r#"
            > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
            ! Error: broken failed; nothing was changed
            exit 2
        "#]],
    );
}

#[test]
fn an_edit_that_conflicts_keeps_the_text() {
    let mut world = World::new();
    world.fake.get.always(got(device("olt-1")));
    world.edit = std::sync::Arc::new(|text| text.replace("192.0.2.10", "192.0.2.99"));
    world.fake.commit.refuse(status::status(&status::error_detail(
        Code::Conflict,
        "both sides changed it",
    )));
    let output = world.run("edit /devices/olt-1");
    let kept = output
        .lines()
        .find_map(|line| line.strip_prefix("! Caused by: your text is kept in "))
        .unwrap();
    let text = std::fs::read_to_string(kept).unwrap();
    std::fs::remove_file(kept).unwrap();
    expect![[r#"
        # /devices/olt-1 of type example.Device at revision 12 (root 3f9c12ab34cd).
        # Lines that begin with # are ignored; to change nothing, leave it as it is.
        id: olt-1
        address: 192.0.2.99
    "#]]
    .assert_eq(&text);
    expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1","base":{"hash":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"},"update":{"value":{"yaml":"id: olt-1\naddress: 192.0.2.99\n","type":"example.Device"}}}]}
        ! Error: CONFLICT: both sides changed it
        ! Caused by: your text is kept in KEPT
        ! Hint: see what changed with `confold diff 12 latest --path /devices/olt-1`; then `confold update /devices/olt-1 KEPT` takes your text as it is
        exit 1
    "#]].assert_eq(&output.replace(kept, "KEPT"));
}
