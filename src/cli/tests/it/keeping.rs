use crate::world::{NOW, ROOT, World, committed, finding, read_at, status};
use confold_cli::local::Level;
use confold_wire::pb;
use expect_test::expect;

#[test]
fn tags_are_put_taken_and_listed() {
    let world = World::new();
    world.fake.tag.always(committed());
    world.fake.untag.always(committed());
    world.check("tag v1.2 42 --reason release", expect![[r#"
        > status {}
        > tag {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","reason":"release","client_time_ms":"1795255200000","deadline_ms":10000},"name":"v1.2","at":"42"}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("untag v1.1 v1.2", expect![[r#"
        > status {}
        > untag {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"names":["v1.1","v1.2"]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    let tag = |name: &str, revision| pb::TagEntry {
        name: name.to_owned(),
        revision,
        root: ROOT.to_owned(),
        time_ms: NOW,
    };
    world.fake.list_tags.answer(pb::ListTagsResponse {
        read_at: Some(read_at(12)),
        tags: vec![tag("release/2026-11", 7), tag("v1.2", 12)],
    });
    world.check(
        "tags",
        expect![[r#"
        > list_tags {"read":{"deadline_ms":10000}}
        NAME             REVISION  MADE                 ROOT
        release/2026-11  7         2026-11-21 10:00:00  3f9c12ab34cd
        v1.2             12        2026-11-21 10:00:00  3f9c12ab34cd
    "#]],
    );
    world.fake.list_tags.answer(pb::ListTagsResponse::default());
    world.check(
        "tags",
        expect![[r#"
        > list_tags {"read":{"deadline_ms":10000}}
        ! no tags; name a revision with `confold tag NAME`
    "#]],
    );
}

#[test]
fn retention_is_shown_and_set_in_words() {
    let world = World::new();
    world.fake.set_retention.always(committed());
    world.fake.prune.always(committed());
    for (policy, _) in [
        (
            pb::RetentionPolicy {
                keep_revisions: 1000,
                keep_age_ms: 30 * 86_400_000,
                keep_all: false,
            },
            (),
        ),
        (
            pb::RetentionPolicy {
                keep_revisions: 1,
                keep_age_ms: 0,
                keep_all: false,
            },
            (),
        ),
    ] {
        world.fake.get_retention.answer(pb::GetRetentionResponse {
            policy: Some(policy),
            floor: 7,
        });
    }
    world.check(
        "retention show",
        expect![[r#"
        > get_retention {}
        keep   the 1,000 latest revisions, and what is younger than 30d
        floor  revision 7
    "#]],
    );
    world.check(
        "retention show",
        expect![[r#"
        > get_retention {}
        keep   the 1 latest revision
        floor  revision 7
    "#]],
    );
    world.check("retention set --keep 1000 --age 4w2d", expect![[r#"
        > status {}
        > set_retention {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"policy":{"keep_revisions":"1000","keep_age_ms":"2592000000"}}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("retention set --keep-all", expect![[r#"
        > status {}
        > set_retention {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"policy":{"keep_all":true}}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("prune --floor latest~1000", expect![[r#"
        > status {}
        > prune {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"floor":"latest~1000"}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
}

#[test]
fn status_shows_how_a_store_is_doing() {
    let world = World::new();
    let replica = |byte: &str, position| pb::ReplicaRow {
        replica: byte.repeat(16),
        build: "0.1.0".to_owned(),
        level: 1,
        position,
        state: ROOT.to_owned(),
        durable: position - 10,
        time_ms: NOW,
        agrees: (byte == "ef").then_some(false),
    };
    world.fake.status.always(pb::StatusResponse {
        log_id: "ab".repeat(16),
        incarnation: "ab".repeat(16),
        log: "file".to_owned(),
        log_end: 4190,
        lag: 7,
        durable: 4100,
        time_ms: NOW,
        revision: 1_000_012,
        root: ROOT.to_owned(),
        level: 1,
        build_level: 1,
        build: "0.1.0".to_owned(),
        root_message: "example.Network".to_owned(),
        last_mark: Some(pb::status_response::Mark {
            position: 4096,
            state: ROOT.to_owned(),
        }),
        replicas: vec![replica("cd", 4096), replica("ef", 4096)],
        window: 1 << 20,
        retention: Some(pb::RetentionPolicy {
            keep_all: true,
            ..Default::default()
        }),
        counters: vec![pb::Counter {
            name: "commits".to_owned(),
            value: 12_345,
        }],
        disputed: true,
        replica: "cd".repeat(16),
        uptime_ms: 90_061_001,
        state: pb::State::Degraded.into(),
        reason: "the disk is full".to_owned(),
        ..status()
    });
    world.check(
        "status --counters",
        expect![[r#"
            > status {}
            store      main
            state      degraded: reads go on, writes are refused
            why        the disk is full
            revision   1000012
            root       3f9c12ab34cd5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7
            position   4182, 7 behind the log
            durable    4100
            log        file, 0 to 4190
            log id     abababababababababababababababab
            time       2026-11-21 10:00:00
            schema     example.Network
            floor      revision 0
            keep       everything
            tags       0
            level      1 (this build knows 1)
            build      0.1.0
            limits     event 16,777,216 bytes, depth 64, path 4096 bytes, key 256 bytes
            window     1,048,576 positions
            last mark  position 4096, state 3f9c12ab34cd
            up for     1d1h1m1s

            REPLICA              MARK  DURABLE  STATE HASH    AGREES  LEVEL  BUILD  SEEN
            cdcdcdcdcdcd (this)  4096  4086     3f9c12ab34cd          1      0.1.0  2026-11-21 10:00:00
            efefefefefef         4096  4086     3f9c12ab34cd  NO      1      0.1.0  2026-11-21 10:00:00

            COUNTER  VALUE
            commits  12,345
            ! Warning: replicas disagree, and it is not known yet which is right
        "#]],
    );
    world.fake.list_stores.always(pb::ListStoresResponse {
        stores: vec![pb::StoreRow {
            name: "main".to_owned(),
            log_id: "ab".repeat(16),
            state: pb::State::Serving.into(),
            revision: 12,
            ..Default::default()
        }],
    });
    world.check(
        "stores",
        expect![[r#"
        > list_stores {}
        STORE  STATE    REVISION  LOG ID
        main   serving  12        abababababababababababababababab
    "#]],
    );
    world.check(
        "doctor",
        expect![[r#"
            > list_stores {}
            > status {"store":"main"}
            warning   main: state            degraded: reads go on, writes are refused; the disk is full
                      reads go on; mend what the reason names, then restart it
            DAMAGE    main: agreement        replicas disagree about a state hash
                      compare the state hashes in `confold status` of each replica
            ok        main: log              file, positions 0 to 4189, 7 not folded yet
            ok        main: acknowledgement  an acknowledged write is on the disk of this machine, and nowhere else
                      copies are for you to make: `confold export log`
            ok        main: replicas         cdcdcdcdcdcd (this): mark 4096, durable up to 4086
            DAMAGE    main: replicas         efefefefefef announced another state at mark 4096
                      compare with the others: docs/operations.md, Replicas that disagree
            ! Error: something is damaged; see above
            exit 5
        "#]],
    );
}

#[test]
fn doctor_examines_a_folder() {
    let world = World::new();
    *world.local.findings.lock().unwrap() = vec![
        finding(Level::Ok, "log", "4,182 records, digests agree", ""),
        finding(Level::Warning, "disk", "92 % full", "make room"),
    ];
    world.check(
        "doctor --data data",
        expect![[r#"
            > doctor FOLDER/data deep=false
            ok        log   4,182 records, digests agree
            warning   disk  92 % full
                      make room
        "#]],
    );
    world
        .local
        .findings
        .lock()
        .unwrap()
        .push(finding(Level::Damage, "objects", "2 do not match", "restore them"));
    world.check(
        "doctor --data data --deep",
        expect![[r#"
            > doctor FOLDER/data deep=true
            ok        log      4,182 records, digests agree
            warning   disk     92 % full
                      make room
            DAMAGE    objects  2 do not match
                      restore them
            ! Error: something is damaged; see above
            exit 5
        "#]],
    );
    world.check(
        "doctor --data data --json",
        expect![[r#"
        > doctor FOLDER/data deep=false
        {
          "findings": [
            {
              "level": "ok",
              "what": "log",
              "detail": "4,182 records, digests agree",
              "hint": ""
            },
            {
              "level": "warning",
              "what": "disk",
              "detail": "92 % full",
              "hint": "make room"
            },
            {
              "level": "damage",
              "what": "objects",
              "detail": "2 do not match",
              "hint": "restore them"
            }
          ]
        }
        ! {
        !   "error": {
        !     "detail": "something is damaged; see above"
        !   },
        !   "causes": [],
        !   "exit": 5
        ! }
        exit 5
    "#]],
    );
}

#[test]
fn schemas_are_checked_pushed_and_shown() {
    let world = World::new();
    world.file(
        "s/a.proto",
        "syntax = \"proto3\";\npackage a;\nmessage Root { string name = 1; }\n",
    );
    world.fake.push_schema.answer(pb::PushSchemaResponse {
        decision: Some(committed()),
        additions: vec!["field a.Root.name".to_owned()],
        ..Default::default()
    });
    world.check("schema push s --root a.Root", expect![[r#"
        > status {}
        > push_schema {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"descriptor_set":"CjAKB2EucHJvdG8SAWEiGgoEUm9vdBISCgRuYW1lGAEgASgJUgRuYW1lYgZwcm90bzM=","root_message":"a.Root"}
        + field a.Root.name
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.fake.push_schema.answer(pb::PushSchemaResponse {
        problems: vec!["a.Root.name: was a uint32, is a string".to_owned()],
        ..Default::default()
    });
    world.check("schema check s", expect![[r#"
        > push_schema {"descriptor_set":"CjAKB2EucHJvdG8SAWEiGgoEUm9vdBISCgRuYW1lGAEgASgJUgRuYW1lYgZwcm90bzM=","dry_run":true}
        ! Error: SCHEMA_INVALID: it would be refused
        ! Caused by: a.Root.name: was a uint32, is a string
        ! Hint: mend what is named above
        exit 2
    "#]]);
    world.fake.push_schema.answer(pb::PushSchemaResponse::default());
    world.check("schema check s", expect![[r#"
        > push_schema {"descriptor_set":"CjAKB2EucHJvdG8SAWEiGgoEUm9vdBISCgRuYW1lGAEgASgJUgRuYW1lYgZwcm90bzM=","dry_run":true}
        ! it would be accepted, and adds nothing
    "#]]);
    world.file("s/b.proto", "syntax = \"proto3\";\nmessage { }\n");
    world.check(
        "schema check s",
        expect![[r#"
        ! Error: SCHEMA_INVALID: the schema does not compile
        ! Caused by: b.proto:2:9: expected an identifier, but found '{'
        exit 2
    "#]],
    );
    world.check(
        "schema show",
        expect![[r#"
        > get_schema {"read":{"deadline_ms":10000}}
        example.Network
          name = 1: string
          clock = 2: example.Clock  [child]
          devices = 3: repeated example.Device  [children by id]
          vlans = 4: repeated example.Vlan  [children by number]
        example.Clock
          timezone = 1: string
          ntp_servers = 2: repeated example.NtpServer  [children, a list]
        example.Device
          id = 1: string
          address = 2: string
          admin_state = 3: example.AdminState
          description = 4: string
          serial_number = 5: string  [READ_ONLY]
          uptime_seconds = 6: uint64  [REAL_TIME]
          location = 7: example.Location
          labels = 8: map<string, string>
          ports = 9: repeated example.Port  [children by number]
        example.Vlan
          number = 1: uint32
          name = 2: string
        example.Location
          site = 1: string
          latitude = 2: double
          longitude = 3: double
        example.Port
          number = 1: uint32
          label = 2: string
          admin_state = 3: example.AdminState
          speed_mbps = 4: uint32
          vlans = 5: repeated uint32
          rate_limit_kbps = 6: optional uint32
        example.NtpServer
          address = 1: string
          prefer = 2: bool
        ! root message example.Network, pushed at position 1, hash 3f9c12ab34cd
    "#]],
    );
    world.check(
        "schema show example.Vlan",
        expect![[r#"
        > get_schema {"read":{"deadline_ms":10000}}
        example.Vlan
          number = 1: uint32
          name = 2: string
        ! root message example.Network, pushed at position 1, hash 3f9c12ab34cd
    "#]],
    );
    world.check(
        "schema show example.Vlna",
        expect![[r#"
        > get_schema {"read":{"deadline_ms":10000}}
        ! root message example.Network, pushed at position 1, hash 3f9c12ab34cd
        ! Error: NOT_FOUND: the schema has no message example.Vlna
        ! Hint: did you mean example.Vlan?
        exit 1
    "#]],
    );
    world.check(
        "schema show --descriptor-set out.binpb",
        expect![[r#"
        > get_schema {"read":{"deadline_ms":10000}}
        ! 12,953 bytes written to out.binpb
    "#]],
    );
}

#[test]
fn init_makes_a_store_with_a_sample() {
    let world = World::new();
    world.fake.push_schema.always(pb::PushSchemaResponse {
        decision: Some(committed()),
        ..Default::default()
    });
    let output = world.run("init data --sample --name lab --keep 100 --max-event 1MiB");
    let calls: Vec<&str> = output.lines().map(|line| line.split(" {").next().unwrap()).collect();
    expect![[r#"
        > init InitOptions
        > open FOLDER/data Write
        > status
        > push_schema 17472 bytes of JSON
        > get_schema
        > status
        > commit_stream
        committed: revision 13, position 4183, root 3f9c12ab34cd
        applied: 6 operations in 1 commit, revision 13, root 3f9c12ab34cd
        ! made the store lab in data, log id abababababababababababababababab
        ! pushing the schema
        ! applying the sample
        ! Next: confold serve data"#]]
    .assert_eq(&calls.join("\n"));
    world.check(
        "init data",
        expect![[r#"
            > init InitOptions { data: "FOLDER/data", store: None, kafka: None, join: None, max_event_bytes: None, window: None, retention: None }
            ! made the store main in data, log id abababababababababababababababab
            ! Next: confold serve data
        "#]],
    );
    world.check(
        "init data --schema s",
        expect![[r#"
        ! Error: the following required arguments were not provided:
        !   --root <MESSAGE>
        !
        ! Usage: confold init --schema <DIR> --root <MESSAGE> <FOLDER>
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
    world.check(
        "init data --schema s --root a.Root",
        expect![[r#"
        ! Error: SCHEMA_INVALID: the schema does not compile
        ! Caused by: FOLDER/s: No such file or directory (os error 2)
        exit 2
    "#]],
    );
}

#[test]
fn serve_says_where_it_listens() {
    let mut world = World::new();
    world.check(
        "serve data --listen 127.0.0.1:0 --cache 512MiB",
        expect![[r#"
            > serve ServeOptions { data: ["FOLDER/data"], stores: None, config: None, listen: Some(127.0.0.1:0), metrics_listen: None, cache_bytes: Some(536870912), admins: [], on_dispute: None, quota: Quota { calls_in_flight: None, calls_per_second: None, bytes_per_second: None }, dev_unsafe: false, protection: Protection { tls: None, require_token: false, insecure: false } }
            ! serving main on http://127.0.0.1:0
        "#]],
    );
    world
        .environment
        .insert("CONFOLD_DATA".to_owned(), "/var/lib/confold".to_owned());
    world.check(
        "serve --listen '[::1]:7411'",
        expect![[r#"
            > serve ServeOptions { data: ["/var/lib/confold"], stores: None, config: None, listen: Some([::1]:7411), metrics_listen: None, cache_bytes: None, admins: [], on_dispute: None, quota: Quota { calls_in_flight: None, calls_per_second: None, bytes_per_second: None }, dev_unsafe: false, protection: Protection { tls: None, require_token: false, insecure: false } }
            ! serving main on http://[::1]:7411
        "#]],
    );
}

#[test]
fn export_writes_a_new_file() {
    let world = World::new();
    let page = pb::ExportLogResponse {
        records: vec![pb::LogRecord::default(); 3],
        ..Default::default()
    };
    world.fake.export_log.always(vec![page.clone(), page]);
    world.check(
        "export log backup.log --from 1 --to 6",
        expect![[r#"
        > export_log {"from":"1","to":"6"}
        > write FOLDER/backup.log
        6 records from position 0, 1,234 bytes, log digest 3f9c12ab34cd
    "#]],
    );
    world.file("there.log", "");
    world.check(
        "export log there.log",
        expect![[r#"
            ! Error: there.log exists already
            ! Hint: name a new folder
            exit 2
        "#]],
    );
}

#[test]
fn outcomes_are_asked_for_and_made_definite() {
    let world = World::new();
    let id = format!("4182-{}", "0f".repeat(16));
    world.fake.outcome.answer(pb::Decision {
        outcome: pb::decision::Outcome::NotSeen.into(),
        event_id: id.clone(),
        position: Some(4200),
        ..Default::default()
    });
    world.check(
        &format!("outcome {id} --wait 2s"),
        expect![[r#"
        > outcome {"event_id":"4182-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","wait_ms":2000}
        not seen; a copy may still be on its way: position 4200
    "#]],
    );
    world.fake.withdraw.answer(pb::Decision {
        repeated: true,
        ..committed()
    });
    world.check(&format!("withdraw {id}"), expect![[r#"
        > status {}
        > withdraw {"event_id":"4182-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000}}
        committed: revision 13, position 4183, root 3f9c12ab34cd, decided before
    "#]]);
    world.check(&format!("rm /vlans/7 --event-id {id}"), expect![[r#"
        > commit {"proposal":{"event_id":"4182-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"operations":[{"path":"/vlans/7","remove":{}}]}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
}

#[test]
fn admin_takes_the_rare_steps() {
    let world = World::new();
    world.fake.activate.always(committed());
    world.fake.set_clock.always(committed());
    world.check("admin activate 2", expect![[r#"
        > status {}
        > activate {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","client_time_ms":"1795255200000","deadline_ms":10000},"level":2}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
    world.check("admin set-clock --reason 'an hour ahead'", expect![[r#"
        > status {}
        > set_clock {"proposal":{"event_id":"4182-00000000000000000000000000000000","author":"ada","reason":"an hour ahead","client_time_ms":"1795255200000","deadline_ms":10000}}
        committed: revision 13, position 4183, root 3f9c12ab34cd
    "#]]);
}

#[test]
fn bench_prints_each_part_beside_its_limit() {
    let world = World::new();
    let output = world.run("bench --only fold --for 1ms");
    expect![[r#"
        > scratch
        PART            RATE       P50  P99  OF LIMIT
        fold in memory  300,000/s                      as told
        ! measuring fold in memory
        ! measuring fold, durable
    "#]]
    .assert_eq(&output);
    let output = world.run("bench --only blake3 --for 1ms --json");
    assert!(output.contains("\"part\": \"limit: blake3\""), "{output}");
}

#[test]
fn bench_loads_a_store_of_its_own_and_no_other() {
    let world = World::new();
    world.fake.status.always(pb::StatusResponse {
        root_message: "example.Network".to_owned(),
        ..status()
    });
    world.check(
        "bench --only reads --for 1ms --server 127.0.0.1:9",
        expect![[r#"
        > connect 127.0.0.1:9
        > status {}
        ! measuring reads, 1 client
        ! Error: the store main holds example.Network
        ! Hint: the benchmark writes: give it an empty store of its own
        exit 2
    "#]],
    );
    world.fake.status.always(status());
    world.fake.push_schema.always(pb::PushSchemaResponse {
        decision: Some(committed()),
        ..Default::default()
    });
    world.fake.get.always(pb::GetResponse::default());
    let output = world.run("bench --only client --for 1ms --children 5 --json");
    for part in [
        "commits, 1 client",
        "reads, 64 clients",
        "9 reads to a commit, 16 clients",
    ] {
        assert!(output.contains(&format!("\"part\": \"{part}\"")), "{part}");
    }
    let output = world.run("bench --only stream --for 1ms --children 5 --json");
    assert!(output.contains("1024 in flight"), "{output}");
}

#[test]
fn completions_name_the_commands() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = world.run(&format!("completions {shell}"));
        assert!(output.contains("withdraw") && output.contains("store"), "{shell}");
    }
}
