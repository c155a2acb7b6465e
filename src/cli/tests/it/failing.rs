use crate::world::{NOW, World, device, got};
use confold_cli::Exit;
use confold_model::code::Code;
use confold_wire::{pb, status};
use expect_test::expect;
use tonic::Status;

// M15
#[test]
fn a_conflict_lists_every_path() {
    let world = World::new();
    let row = |path: &str, base: &str, ours: &str, theirs: &str| pb::ConflictRow {
        path: path.to_owned(),
        kind: "M7".to_owned(),
        base: base.repeat(32),
        ours: ours.repeat(32),
        theirs: theirs.repeat(32),
    };
    let detail = pb::ErrorDetail {
        path: "/devices/olt-1".to_owned(),
        conflicts: vec![
            row("/devices/olt-1", "aa", "bb", "cc"),
            row("/devices/olt-1/ports/3", "dd", "ee", ""),
        ],
        event_id: format!("4182-{}", "00".repeat(16)),
        position: Some(4183),
        ..status::error_detail(Code::Conflict, "both sides changed it")
    };
    for _ in 0..2 {
        world.fake.commit.refuse(status::status(&detail));
    }
    world.check("rm /devices/olt-1", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1","remove":{}}]}
        ! Error: CONFLICT: /devices/olt-1: both sides changed it
        ! PATH                    KIND  BASE          OURS          THEIRS
        ! /devices/olt-1          M7    aaaaaaaaaaaa  bbbbbbbbbbbb  cccccccccccc
        ! /devices/olt-1/ports/3  M7    dddddddddddd  eeeeeeeeeeee  absent
        ! Hint: read again what stands there, and propose on top of it
        exit 1
    "#]]);
    world.check("rm /devices/olt-1 --json", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1","remove":{}}]}
        ! {
        !   "error": {
        !     "code": "CONFLICT",
        !     "number": 12,
        !     "path": "/devices/olt-1",
        !     "detail": "both sides changed it",
        !     "conflicts": [
        !       {
        !         "path": "/devices/olt-1",
        !         "kind": "M7",
        !         "base": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        !         "ours": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
        !         "theirs": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
        !       },
        !       {
        !         "path": "/devices/olt-1/ports/3",
        !         "kind": "M7",
        !         "base": "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
        !         "ours": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
        !       }
        !     ],
        !     "hint": "read again what stands there, and propose on top of it",
        !     "event_id": "4182-00000000000000000000000000000000",
        !     "position": "4183"
        !   },
        !   "causes": [],
        !   "exit": 1
        ! }
        exit 1
    "#]]);
}

#[test]
fn a_guard_that_does_not_hold_is_explained_by_what_happened_since() {
    let world = World::new();
    let refused = || {
        let detail = pb::ErrorDetail {
            path: "/devices/olt-1".to_owned(),
            ..status::error_detail(Code::GuardFailed, "it is not what it was at revision 41")
        };
        status::status(&detail)
    };
    world.fake.commit.refuse(refused());
    world.fake.log.answer(pb::LogResponse {
        rows: vec![pb::LogRow {
            revision: Some(42),
            author: "bob".to_owned(),
            time_ms: NOW - 3_000,
            summary: vec!["update /devices/olt-1 (admin_state)".to_owned()],
            ..Default::default()
        }],
        ..Default::default()
    });
    world.check("set /devices/olt-1:admin_state=ENABLED --if-at 41", expect![[r#"
        > get_schema {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"guards":[{"path":"/devices/olt-1","same_as":"41"}],"operations":[{"path":"/devices/olt-1","update":{"value":{"json":{"admin_state":"ENABLED"}},"mask":["admin_state"]}}]}
        > log {"path":"/devices/olt-1","from":"41","limit":3}
        ! Error: GUARD_FAILED: /devices/olt-1: it is not what it was at revision 41
        ! Caused by: revision 42 by bob, 3 s ago: update /devices/olt-1 (admin_state)
        ! Hint: look at it with `confold diff 41 latest --path /devices/olt-1`, then try again
        exit 1
    "#]]);
    // What happened since cannot always be told.
    world.fake.commit.refuse(refused());
    world.check("rm /devices/olt-1 --base v1", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/devices/olt-1","base":{"as_of":"v1"},"remove":{}}]}
        > log {"path":"/devices/olt-1","from":"v1","limit":3}
        ! Error: GUARD_FAILED: /devices/olt-1: it is not what it was at revision 41
        ! Hint: look at it with `confold diff v1 latest --path /devices/olt-1`, then try again
        exit 1
    "#]]);
}

#[test]
fn the_exit_status_says_what_kind_of_refusal_it_was() {
    let world = World::new();
    for (code, exit) in [
        (Code::AlreadyExists, Exit::Refused),
        (Code::GuardFailed, Exit::Refused),
        (Code::Pruned, Exit::Refused),
        (Code::TypeMismatch, Exit::Invalid),
        (Code::TooLarge, Exit::Invalid),
        (Code::Sealed, Exit::Unavailable),
        (Code::Permission, Exit::Permission),
        (Code::Quarantined, Exit::Damaged),
    ] {
        world
            .fake
            .commit
            .refuse(status::status(&status::error_detail(code, "as it is")));
        let output = world.run("rm /vlans/7");
        assert!(output.ends_with(&format!("exit {}\n", exit as u8)), "{code}: {output}");
        assert!(
            output.contains(&format!("! Error: {code}: as it is\n! Hint: ")),
            "{code}: {output}"
        );
    }
    for (status, exit) in [
        (Status::permission_denied("who are you"), 4),
        (Status::unimplemented("no such call"), 2),
        (Status::resource_exhausted("too big"), 5),
    ] {
        world.fake.commit.refuse(status);
        assert!(world.run("rm /vlans/7").ends_with(&format!("exit {exit}\n")));
    }
}

#[test]
fn an_unanswered_commit_is_sent_again_under_its_id_and_then_unknown() {
    let world = World::new();
    world.fake.commit.refuse(Status::deadline_exceeded("too slow"));
    world.check("rm /vlans/7", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    for _ in 0..3 {
        world.fake.commit.refuse(Status::unavailable("the connection broke"));
    }
    world.check("rm /vlans/7", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        ! Error: UNKNOWN: it is not known whether it was applied
        ! Caused by: the call failed: The service is currently unavailable: the connection broke
        ! Event: 4182-00000000000000000000000000000000
        ! Hint: ask with `confold outcome 4182-00000000000000000000000000000000`, or make it definite with `confold withdraw 4182-00000000000000000000000000000000`
        exit 3
    "#]]);
}

#[test]
fn what_was_never_sent_is_unavailable_and_not_unknown() {
    let world = World::new();
    for _ in 0..3 {
        let detail = status::error_detail(
            Code::Unavailable,
            "no server answers at 127.0.0.1:7411: connection refused",
        );
        world.fake.commit.refuse(status::status(&detail));
    }
    world.check("rm /vlans/7", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        ! Error: UNAVAILABLE: no server answers at 127.0.0.1:7411: connection refused
        ! Hint: try again
        exit 3
    "#]]);
}

#[test]
fn a_refusal_before_the_log_does_not_speak_for_a_copy_on_its_way() {
    let world = World::new();
    world.fake.commit.refuse(Status::unavailable("the connection broke"));
    world.fake.commit.refuse(status::status(&status::error_detail(
        Code::NotFound,
        "nothing is there",
    )));
    world.check("rm /vlans/7", expect![[r#"
        > status {}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        > commit {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        ! Error: UNKNOWN: it is not known whether it was applied
        ! Caused by: NOT_FOUND: nothing is there
        ! Event: 4182-00000000000000000000000000000000
        ! Hint: ask with `confold outcome 4182-00000000000000000000000000000000`, or make it definite with `confold withdraw 4182-00000000000000000000000000000000`
        exit 3
    "#]]);
}

#[test]
fn reads_that_fail_on_the_way_are_made_again() {
    let world = World::new();
    world.fake.get.refuse(Status::unavailable("the connection broke"));
    world.fake.get.answer(got(device("olt-1")));
    world.check(
        "get /devices/olt-1",
        expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        id: olt-1
        address: 192.0.2.10
    "#]],
    );
    world.fake.get.refuse(Status::deadline_exceeded("too slow"));
    world.check(
        "get /devices/olt-1",
        expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        ! Error: the call failed: Deadline expired before operation could complete: too slow
        exit 3
    "#]],
    );
}

#[test]
fn a_command_line_that_makes_no_sense_is_invalid() {
    let world = World::new();
    world.check(
        "gte /devices",
        expect![[r#"
        ! Error: unrecognized subcommand 'gte'
        !
        ! Usage: confold [OPTIONS] <COMMAND>
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
    world.check(
        "get /devices --depth -1",
        expect![[r#"
        ! Error: unexpected argument '-1' found
        !
        !   tip: to pass '-1' as a value, use '-- -1'
        !
        ! Usage: confold get [OPTIONS] [PATH]
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
    world.check(
        "get / --consistency at-least",
        expect![[r#"
        ! Error: --consistency at-least needs the token to be at least at
        ! Hint: take the token of an earlier answer: --token TOKEN
        exit 2
    "#]],
    );
    world.check(
        "get / --consistency stale --token x",
        expect![[r#"
        ! Error: --token and --consistency stale contradict each other
        exit 2
    "#]],
    );
    world.check(
        "retention set",
        expect![[r#"
        ! Error: the following required arguments were not provided:
        !   <--keep <N>|--age <TIME>|--keep-all>
        !
        ! Usage: confold retention set <--keep <N>|--age <TIME>|--keep-all>
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
    world.check(
        "retention set --keep 5 --keep-all",
        expect![[r#"
        ! Error: the argument '--keep <N>' cannot be used with '--keep-all'
        !
        ! Usage: confold retention set <--keep <N>|--age <TIME>|--keep-all>
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
    world.check("retention set --age 5", expect![[r#"
        ! Error: invalid value '5' for '--age <TIME>': 5: no duration; write numbers with w, d, h, m, s or ms behind them, as in 30d or 1h30m
        !
        ! For more information, try '--help'.
        exit 2
    "#]]);
    world.check("outcome 4182", expect![[r#"
        ! Error: "4182" is not an event id: write the position that was seen, a dash, and 32 hex digits of nonce, as in 4182-0f3a…
        exit 2
    "#]]);
    world.check("rm /vlans/7 --event-id 4182", expect![[r#"
        ! Error: "4182" is not an event id: write the position that was seen, a dash, and 32 hex digits of nonce, as in 4182-0f3a…
        exit 2
    "#]]);
    world.check("bench --only nothing", expect![[r#"
        ! Error: no part has such a name
        ! Hint: the parts are: limit: blake3; limit: append and fdatasync; fold in memory; fold, durable; limit: gRPC echo, 1 client; limit: gRPC echo, 16 clients; limit: gRPC echo, 64 clients; commits, 1 client; commits, 16 clients; commits, 64 clients; commits, one stream, 1024 in flight; reads, 1 client; reads, 16 clients; reads, 64 clients; reads over HTTP, 1 client; reads over HTTP, 16 clients; reads over HTTP, 64 clients; 9 reads to a commit, 16 clients; children listed, pages of 1,000; diff of 10 changes, in process; open and first read; commits of 100 puts; commits of 1,000 puts; commits of 100,000 puts
        exit 2
    "#]]);
    world.check(
        "serve",
        expect![[r#"
        ! Error: no folder to serve
        ! Hint: make one with `confold init DIR`, then `confold serve DIR`
        exit 2
    "#]],
    );
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let mut world = World::new();
    world.terminal = true;
    world.fake.commit.always(pb::Decision::default());
    let colored = |world: &World, line: &str| world.run(line).contains('\u{1b}');
    assert!(colored(&world, "serve"));
    assert!(!colored(&world, "serve --color never"));
    world.environment.insert("NO_COLOR".to_owned(), "1".to_owned());
    assert!(!colored(&world, "serve"));
    assert!(!colored(&world, "gte"));
    assert!(colored(&world, "serve --color always"));
    world.environment.clear();
    world.terminal = false;
    assert!(!colored(&world, "serve"));
}
