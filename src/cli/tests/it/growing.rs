//! Stores on topics, several in one server, moved and brought to life.

use crate::world::World;
use confold_wire::pb;
use expect_test::expect;

#[test]
fn a_data_folder_is_made_on_a_topic() {
    let world = World::new();
    world.check(
        "init data --kafka a:9092,b:9092 --topic net --create-topic --min-insync 2 --kafka-config kafka.conf --kafka-set client.rack=r1",
        expect![[r#"
            > init InitOptions { data: "FOLDER/data", store: None, kafka: Some(KafkaOptions { brokers: "a:9092,b:9092", topic: "net", create_topic: Some(TopicShape { replication: None, min_insync: Some(2) }), settings_file: Some("FOLDER/kafka.conf"), settings: [("client.rack", "r1")], dev_unsafe: false }), join: None, max_event_bytes: None, window: None, retention: None }
            ! made the store main in data, log id abababababababababababababababab
            ! Next: confold serve data
        "#]],
    );
    world.check("init data --kafka a:9092 --topic net --join abab --dev-unsafe", expect![[r#"
        > init InitOptions { data: "FOLDER/data", store: None, kafka: Some(KafkaOptions { brokers: "a:9092", topic: "net", create_topic: None, settings_file: None, settings: [], dev_unsafe: true }), join: Some("abab"), max_event_bytes: None, window: None, retention: None }
        ! joined the store main in data, log id abababababababababababababababab
        ! Next: confold serve data
    "#]]);
}

#[test]
fn what_makes_no_sense_of_a_topic_is_refused() {
    let world = World::new();
    for (line, expected) in [
        (
            "init data --kafka a:9092",
            expect![[r#"
            ! Error: the following required arguments were not provided:
            !   --topic <NAME>
            !
            ! Usage: confold init --kafka <BROKERS> --topic <NAME> <FOLDER>
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "init data --topic net",
            expect![[r#"
            ! Error: the following required arguments were not provided:
            !   --kafka <BROKERS>
            !
            ! Usage: confold init --topic <NAME> --kafka <BROKERS> <FOLDER>
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "init data --kafka a:9092 --topic net --replication 1",
            expect![[r#"
            ! Error: the following required arguments were not provided:
            !   --create-topic
            !
            ! Usage: confold init --kafka <BROKERS> --topic <NAME> --create-topic --replication <N> <FOLDER>
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "init data --kafka a:9092 --topic net --create-topic --replication x",
            expect![[r#"
            ! Error: invalid value 'x' for '--replication <N>': invalid digit found in string
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "init data --kafka a:9092 --topic net --kafka-set nonsense",
            expect![[r#"
            ! Error: invalid value 'nonsense' for '--kafka-set <NAME=VALUE>': it is no setting: write NAME=VALUE
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "init data --join abab",
            expect![[r#"
            ! Error: the following required arguments were not provided:
            !   --topic <NAME>
            !   --kafka <BROKERS>
            !
            ! Usage: confold init --topic <NAME> --kafka <BROKERS> --join <LOG_ID> <FOLDER>
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "store create lab --create-topic",
            expect![[r#"
            ! Error: --create-topic needs the topic: --topic NAME
            exit 2
        "#]],
        ),
        (
            "store create lab --join abab",
            expect![[r#"
            ! Error: the following required arguments were not provided:
            !   --topic <NAME>
            !
            ! Usage: confold store create --topic <NAME> --join <LOG_ID> <NAME>
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "log copy data kafka://a:9092",
            expect![[r#"
            ! Error: kafka://a:9092 is no topic
            ! Hint: write kafka://HOST:PORT,HOST:PORT/TOPIC
            exit 2
        "#]],
        ),
        (
            "log copy data kafka:///net",
            expect![[r#"
            ! Error: kafka:///net is no topic
            ! Hint: write kafka://HOST:PORT,HOST:PORT/TOPIC
            exit 2
        "#]],
        ),
        (
            "log copy data data",
            expect![[r#"
            ! Error: data is source and target
            exit 2
        "#]],
        ),
        (
            "log copy data other --move --until 3",
            expect![[r#"
            ! Error: the argument '--move' cannot be used with '--until <POSITION>'
            !
            ! Usage: confold log copy --move <FROM> <TO>
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "log copy data other --until three",
            expect![[r#"
            ! Error: invalid value 'three' for '--until <POSITION>': invalid digit found in string
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "log copy data other --yes",
            expect![[r#"
            ! Error: the following required arguments were not provided:
            !   --until <POSITION>
            !
            ! Usage: confold log copy --until <POSITION> --yes <FROM> <TO>
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "serve data --on-dispute fight",
            expect![[r#"
            ! Error: invalid value 'fight' for '--on-dispute <WHAT>'
            !   [possible values: serve, stop]
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        ("serve data --calls-per-second 0", expect![[r#"
            ! Error: invalid value '0' for '--calls-per-second <N>': number would be zero for non-zero type
            !
            ! For more information, try '--help'.
            exit 2
        "#]]),
        ("serve data --bytes-per-second 4GiB", expect![[r#"
            ! Error: invalid value '4GiB' for '--bytes-per-second <SIZE>': 4294967296 bytes a second are not between 1 and 4294967295
            !
            ! For more information, try '--help'.
            exit 2
        "#]]),
        (
            "serve data --listen here",
            expect![[r#"
            ! Error: invalid value 'here' for '--listen <ADDR>': invalid socket address syntax
            !
            ! For more information, try '--help'.
            exit 2
        "#]],
        ),
        (
            "serve",
            expect![[r#"
            ! Error: no folder to serve
            ! Hint: make one with `confold init DIR`, then `confold serve DIR`
            exit 2
        "#]],
        ),
    ] {
        world.check(line, expected);
    }
}

#[test]
fn a_server_takes_several_folders_or_a_folder_of_them() {
    let mut world = World::new();
    world.check("serve one two --admin ops --admin dev --on-dispute stop", expect![[r#"
        > serve ServeOptions { data: ["FOLDER/one", "FOLDER/two"], stores: None, config: None, listen: None, metrics_listen: None, cache_bytes: None, admins: ["ops", "dev"], on_dispute: Some(Stop), quota: Quota { calls_in_flight: None, calls_per_second: None, bytes_per_second: None }, dev_unsafe: false, protection: Protection { tls: None, require_token: false, insecure: false } }
        ! serving main on http://127.0.0.1:7411
    "#]]);
    world
        .environment
        .insert("CONFOLD_LISTEN".to_owned(), "127.0.0.1:7000".to_owned());
    world
        .environment
        .insert("CONFOLD_ADMIN".to_owned(), "ops, dev".to_owned());
    world
        .environment
        .insert("CONFOLD_ON_DISPUTE".to_owned(), "stop".to_owned());
    world.check("serve --stores all --config server.toml --dev-unsafe", expect![[r#"
        > serve ServeOptions { data: [], stores: Some("FOLDER/all"), config: Some("FOLDER/server.toml"), listen: Some(127.0.0.1:7000), metrics_listen: None, cache_bytes: None, admins: ["ops", "dev"], on_dispute: Some(Stop), quota: Quota { calls_in_flight: None, calls_per_second: None, bytes_per_second: None }, dev_unsafe: true, protection: Protection { tls: None, require_token: false, insecure: false } }
        ! serving main on http://127.0.0.1:7000
    "#]]);
    world
        .environment
        .insert("CONFOLD_METRICS_LISTEN".to_owned(), "[::1]:9411".to_owned());
    world.check("serve --stores all", expect![[r#"
        > serve ServeOptions { data: [], stores: Some("FOLDER/all"), config: None, listen: Some(127.0.0.1:7000), metrics_listen: Some([::1]:9411), cache_bytes: None, admins: ["ops", "dev"], on_dispute: Some(Stop), quota: Quota { calls_in_flight: None, calls_per_second: None, bytes_per_second: None }, dev_unsafe: false, protection: Protection { tls: None, require_token: false, insecure: false } }
        ! metrics on http://[::1]:9411/metrics
        ! serving main on http://127.0.0.1:7000
    "#]]);
    world
        .environment
        .insert("CONFOLD_LISTEN".to_owned(), "nowhere".to_owned());
    world.check(
        "serve --stores all",
        expect![[r#"
        ! Error: CONFOLD_LISTEN is "nowhere", and has to be an address and a port
        exit 2
    "#]],
    );
}

#[test]
fn stores_are_made_opened_and_closed() {
    let world = World::new();
    let row = |state: pb::State| pb::StoreRow {
        name: "lab".to_owned(),
        log_id: "ab".repeat(16),
        state: state.into(),
        ..Default::default()
    };
    world.fake.create_store.always(row(pb::State::Serving));
    world.fake.open_store.always(row(pb::State::CatchingUp));
    world.fake.close_store.always(pb::StoreRow {
        log_id: String::new(),
        ..row(pb::State::Closed)
    });
    world.check(
        "store create lab --keep 10 --age 1h",
        expect![[r#"
        > create_store {"name":"lab","retention":{"keep_revisions":"10","keep_age_ms":"3600000"}}
        made: lab, log id abababababababababababababababab, serving
    "#]],
    );
    world.check(
        "store create lab --topic lab --create-topic --replication 1 --max-event 1MiB",
        expect![[r#"
        > create_store {"name":"lab","topic":"lab","create_topic":{"replication":1},"max_event_bytes":"1048576"}
        made: lab, log id abababababababababababababababab, serving
    "#]],
    );
    world.check(
        "store open lab",
        expect![[r#"
        > open_store {"name":"lab"}
        open: lab, log id abababababababababababababababab, catching up
    "#]],
    );
    world.check(
        "store close lab",
        expect![[r#"
        > close_store {"name":"lab"}
        closed: lab
    "#]],
    );
    world.check(
        "store close lab --json",
        expect![[r#"
        > close_store {"name":"lab"}
        {
          "name": "lab",
          "state": "STATE_CLOSED"
        }
    "#]],
    );
}

#[test]
fn a_rebuild_says_what_it_does_and_asks() {
    let world = World::new();
    world.check("store rebuild data", expect![[r#"
        ! Error: this sets aside what data has folded, and takes the log as it is now: revisions that only this folder knows are lost to the store
        ! Hint: `confold doctor` says what the log holds; when that is right, add --yes
        exit 2
    "#]]);
    world.check(
        "store rebuild data --yes",
        expect![[r#"
        > rebuild FOLDER/data
        kept: FOLDER/data/store.damaged-1, folded up to position 4182
        the next start folds the log anew
        ! it was stopped: a mark differed
        ! Next: confold serve data
    "#]],
    );
    world.check(
        "store rebuild data --yes --json",
        expect![[r#"
        > rebuild FOLDER/data
        {
          "aside": "FOLDER/data/store.damaged-1",
          "folded": 4182,
          "reason": "a mark differed"
        }
    "#]],
    );
}

#[test]
fn a_log_is_copied_moved_cut_and_unsealed() {
    let world = World::new();
    world.check("log copy data kafka://a:9092,b:9092/net --move --create-topic", expect![[r#"
        > copy CopyOptions { from: Folder("FOLDER/data"), to: Topic(KafkaOptions { brokers: "a:9092,b:9092", topic: "net", create_topic: None, settings_file: None, settings: [], dev_unsafe: false }), create_topic: Some(TopicShape { replication: None, min_insync: None }), is_move: true, until: None, resume: false, author: "ada", principal: "" }
        copied: 4,182 records, log digest 3f9c12ab34cd; read again and equal
        opened: incarnation cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd, position 4182
        ! data stands on kafka://a:9092,b:9092/net now; its old log is kept in data/log.moved-1
    "#]]);
    world.check("log copy data other --resume --as ops --author grace", expect![[r#"
        > copy CopyOptions { from: Folder("FOLDER/data"), to: Folder("FOLDER/other"), create_topic: None, is_move: false, until: None, resume: true, author: "grace", principal: "ops" }
        copied: 4,182 records, log digest 3f9c12ab34cd; read again and equal
        opened: incarnation cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd, position 4182
        ! went on at position 1000
        ! data was not sealed: it lives on, and from here the two are different stores
    "#]]);
    world.check("log copy data other --json", expect![[r#"
        > copy CopyOptions { from: Folder("FOLDER/data"), to: Folder("FOLDER/other"), create_topic: None, is_move: false, until: None, resume: false, author: "ada", principal: "" }
        {
          "store": "main",
          "log_id": "abababababababababababababababab",
          "records": 4182,
          "digest": "3f9c12ab34cd5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7",
          "resumed_at": 0,
          "incarnation": "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
          "transport_id": "efefefefefefefefefefefefefefefef",
          "opened": 4182,
          "kept": null,
          "sealed": false
        }
    "#]]);
    world.check(
        "log copy data other --until 4181",
        expect![[r#"
        > survey Folder("FOLDER/data")
        ! kept: 4,182 records, positions 0 to 4181 of data
        ! lost: 8 records behind it, positions 4182 to 4189, with everything that was acknowledged there
        ! Error: nothing was copied yet
        ! Hint: add --yes when this is what you want
        exit 2
    "#]],
    );
    world.check("log copy data other --until 4181 --yes", expect![[r#"
        > survey Folder("FOLDER/data")
        > copy CopyOptions { from: Folder("FOLDER/data"), to: Folder("FOLDER/other"), create_topic: None, is_move: false, until: Some(4181), resume: false, author: "ada", principal: "" }
        copied: 4,182 records, log digest 3f9c12ab34cd; read again and equal
        opened: incarnation cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd, position 4182
        ! kept: 4,182 records, positions 0 to 4181 of data
        ! lost: 8 records behind it, positions 4182 to 4189, with everything that was acknowledged there
        ! data was not sealed: it lives on, and from here the two are different stores
    "#]]);
    world.check(
        "log unseal data",
        expect![[r#"
        > unseal FOLDER/data by ada as 
        opened: incarnation cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd, position 4183
        ! a copy that was made meanwhile must not be brought to life any more
    "#]],
    );
    world.check(
        "log unseal data --json --as ops",
        expect![[r#"
        > unseal FOLDER/data by ada as ops
        {
          "incarnation": "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",
          "position": 4183
        }
    "#]],
    );
    world.check("restore backup data", expect![[r#"
        > copy CopyOptions { from: Folder("FOLDER/backup"), to: Folder("FOLDER/data"), create_topic: None, is_move: false, until: None, resume: false, author: "ada", principal: "" }
        copied: 4,182 records, log digest 3f9c12ab34cd; read again and equal
        opened: incarnation cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd, position 4182
        ! backup was not sealed: it lives on, and from here the two are different stores
        ! Next: confold serve data
    "#]]);
    world.check("restore backup data --kafka a:9092 --topic net", expect![[r#"
        > copy CopyOptions { from: Folder("FOLDER/backup"), to: Topic(KafkaOptions { brokers: "a:9092", topic: "net", create_topic: None, settings_file: None, settings: [], dev_unsafe: false }), create_topic: None, is_move: false, until: None, resume: false, author: "ada", principal: "" }
        > init InitOptions { data: "FOLDER/data", store: None, kafka: Some(KafkaOptions { brokers: "a:9092", topic: "net", create_topic: None, settings_file: None, settings: [], dev_unsafe: false }), join: Some("abababababababababababababababab"), max_event_bytes: None, window: None, retention: None }
        copied: 4,182 records, log digest 3f9c12ab34cd; read again and equal
        opened: incarnation cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd, position 4182
        ! backup was not sealed: it lives on, and from here the two are different stores
        ! Next: confold serve data
    "#]]);
}

#[test]
fn a_snapshot_is_fetched_from_another_replica() {
    let world = World::new();
    let line = "snapshot fetch data --from 127.0.0.1:7412 --kafka a:9092 --topic net --store main";
    world.check(line, expect![[r#"
        > connect 127.0.0.1:7412
        > fetch FetchOptions { data: "FOLDER/data", store: "main", kafka: Some(KafkaOptions { brokers: "a:9092", topic: "net", create_topic: None, settings_file: None, settings: [], dev_unsafe: false }) }
        fetched: main at mark 4096, state 3f9c12ab34cd, confirmed by the log
        revision 3900, 3,900 revisions of history, 1 object
        ! Next: confold serve data
    "#]]);
    world.check("snapshot fetch data --from 127.0.0.1:7412 --json", expect![[r#"
        > connect 127.0.0.1:7412
        > fetch FetchOptions { data: "FOLDER/data", store: "", kafka: None }
        {
          "store": "main",
          "log_id": "abababababababababababababababab",
          "position": 4096,
          "state": "3f9c12ab34cd5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7",
          "revision": 3900,
          "revisions": 3900,
          "objects": 1
        }
    "#]]);
    world.check("snapshot fetch data", expect![[r#"
        ! Error: the following required arguments were not provided:
        !   --from <ADDR>
        !
        ! Usage: confold snapshot fetch --from <ADDR> <FOLDER>
        !
        ! For more information, try '--help'.
        exit 2
    "#]]);
    world.check("snapshot fetch data --from 127.0.0.1:7412 --topic net", expect![[r#"
        ! Error: the following required arguments were not provided:
        !   --kafka <BROKERS>
        !
        ! Usage: confold snapshot fetch --from <ADDR> --topic <NAME> --kafka <BROKERS> <FOLDER>
        !
        ! For more information, try '--help'.
        exit 2
    "#]]);
}

#[test]
fn doctor_says_what_an_acknowledgement_on_a_topic_is_worth() {
    let world = World::new();
    let problem = pb::LogFinding {
        refused: false,
        setting: "min.insync.replicas".to_owned(),
        value: "1".to_owned(),
        wanted: "2 or more".to_owned(),
        what_to_do: "set it to 2".to_owned(),
    };
    world.fake.list_stores.always(pb::ListStoresResponse {
        stores: vec![pb::StoreRow {
            name: "main".to_owned(),
            log: "kafka".to_owned(),
            ..Default::default()
        }],
    });
    let row = |number: u8, agrees: Option<bool>, time_ms: i64| pb::ReplicaRow {
        replica: format!("{number:02x}").repeat(16),
        position: 4_096,
        durable: 4_090,
        time_ms,
        agrees,
        ..Default::default()
    };
    let now = 1_763_719_200_000;
    world.fake.status.always(pb::StatusResponse {
        store: "main".to_owned(),
        state: pb::State::Serving.into(),
        log: "kafka".to_owned(),
        log_end: 4_183,
        lag: 2,
        time_ms: now,
        replica: "01".repeat(16),
        replicas: vec![row(1, None, now), row(2, Some(false), now), row(3, Some(true), now - 864_000_000)],
        log_report: Some(pb::LogReport {
            topic: "net".to_owned(),
            brokers: vec!["a:9092".to_owned(), "b:9092".to_owned()],
            problems: vec![problem.clone(), pb::LogFinding { refused: true, ..problem }],
            acknowledgement: "An acknowledged write is on at least 1 of 2 brokers.".to_owned(),
            looked_ms: now,
        }),
        ..Default::default()
    });
    world.check("doctor", expect![[r#"
        > list_stores {}
        > status {"store":"main"}
        ok        main: state            serving
        ok        main: agreement        no replica disagrees
        ok        main: log              kafka, positions 0 to 4182, 2 not folded yet
        ok        main: topic            net on a:9092, b:9092
        warning   main: topic            min.insync.replicas is 1, wanted is 2 or more
                  set it to 2
        DAMAGE    main: topic            min.insync.replicas is 1, wanted is 2 or more
                  set it to 2
        ok        main: acknowledgement  An acknowledged write is on at least 1 of 2 brokers.
        ok        main: replicas         010101010101 (this): mark 4096, durable up to 4090
        DAMAGE    main: replicas         020202020202 announced another state at mark 4096
                  compare with the others: docs/operations.md, Replicas that disagree
        warning   main: replicas         030303030303 has said nothing for 10 days
                  start it; while it is silent it does not count
        warning   main: schema           none yet
                  push one: `confold schema push DIR --root MESSAGE`
        ! Error: something is damaged; see above
        exit 5
    "#]]);
    world.check("doctor data", expect![[r#"
        > doctor FOLDER/data deep=false
    "#]]);
    world.check("doctor data --server 127.0.0.1:1", expect![[r#"
        ! Error: the argument '[FOLDER]' cannot be used with '--server <ADDR>'
        !
        ! Usage: confold doctor <FOLDER>
        !
        ! For more information, try '--help'.
        exit 2
    "#]]);
}
