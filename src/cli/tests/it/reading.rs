use crate::world::{World, container, device, got, read_at, yaml};
use confold_model::code::Code;
use confold_wire::{
    pb::{self, container::Kind},
    status,
};
use expect_test::expect;

// G1
#[test]
fn get_shows_a_node_and_counts_what_it_hides() {
    let world = World::new();
    let mut node = device("olt-1");
    node.children = vec![container("/devices/olt-1/ports", Kind::Keyed, 3, true)];
    world.fake.get.always(got(node));
    world.check(
        "get /devices/olt-1",
        expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        id: olt-1
        address: 192.0.2.10
        ! not shown: /devices/olt-1/ports has 3 elements; see it with --depth 1, or `confold ls /devices/olt-1/ports`
    "#]],
    );
    world.check("get /devices/olt-1 --depth 2 --at v1.2~3 --token 7@ab --field address,location.site", expect![[r#"
        > get {"read":{"at":"v1.2~3","consistency":"CONSISTENCY_AT_LEAST","token":"7@ab","deadline_ms":10000},"path":"/devices/olt-1","depth":2,"mask":["address","location.site"],"format":"FORMAT_YAML"}
        id: olt-1
        address: 192.0.2.10
    "#]]);
    world.check("get /devices/olt-1:address --deep --consistency linearizable --timeout 500ms", expect![[r#"
        > get {"read":{"consistency":"CONSISTENCY_LINEARIZABLE","deadline_ms":500},"path":"/devices/olt-1","depth":-1,"mask":["address"],"format":"FORMAT_YAML"}
        id: olt-1
        address: 192.0.2.10
    "#]]);
}

// G2
#[test]
fn get_of_a_container_is_what_apply_reads() {
    let world = World::new();
    let mut empty = device("sw/core");
    empty.path = "/devices/sw%2Fcore".to_owned();
    empty.value = yaml("{}\n");
    let answer = pb::GetResponse {
        read_at: Some(read_at(12)),
        r#type: "example.Device".to_owned(),
        nodes: vec![device("olt-1"), empty],
        container: Some(container("/devices", Kind::Keyed, 2, false)),
    };
    world.fake.get.answer(answer.clone());
    world.check(
        "get /devices",
        expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices","format":"FORMAT_YAML"}
        /devices/olt-1:
          id: olt-1
          address: 192.0.2.10
        /devices/sw%2Fcore: {}
    "#]],
    );
    world.fake.get.answer(pb::GetResponse {
        nodes: Vec::new(),
        ..answer
    });
    world.check(
        "get /devices",
        expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices","format":"FORMAT_YAML"}
        ! /devices is empty at revision 12 (root 3f9c12ab34cd)
    "#]],
    );
}

// G2, G3
#[test]
fn a_list_without_keys_is_one_mapping_key() {
    let world = World::new();
    let node = |text: &str| pb::Node {
        path: "/clock/ntp_servers".to_owned(),
        value: yaml(text),
        ..Default::default()
    };
    let nodes = vec![node("address: ntp1\nprefer: true\n"), node("{}\n")];
    let list = container("/clock/ntp_servers", Kind::List, 2, false);
    world.fake.get.answer(pb::GetResponse {
        nodes: nodes.clone(),
        container: Some(list.clone()),
        ..Default::default()
    });
    world.check(
        "get /clock/ntp_servers",
        expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/clock/ntp_servers","format":"FORMAT_YAML"}
        /clock/ntp_servers:
        - address: ntp1
          prefer: true
        - {}
    "#]],
    );
    let page = |nodes: &[pb::Node]| pb::ListResponse {
        nodes: nodes.to_vec(),
        container: Some(list.clone()),
        ..Default::default()
    };
    world
        .fake
        .list_stream
        .answer(vec![page(&nodes[..1]), page(&nodes[1..])]);
    world.check(
        "ls /clock/ntp_servers --all --values",
        expect![[r#"
        > list_stream {"read":{"deadline_ms":10000},"path":"/clock/ntp_servers","format":"FORMAT_YAML"}
        /clock/ntp_servers:
        - address: ntp1
          prefer: true
        - {}
    "#]],
    );
}

#[test]
fn json_is_the_answer_of_the_service() {
    let world = World::new();
    let mut node = device("olt-1");
    node.value = Some(pb::Value {
        form: Some(pb::value::Form::Json(r#"{"id":"olt-1"}"#.to_owned())),
        r#type: "example.Device".to_owned(),
    });
    world.fake.get.always(got(node));
    world.check(
        "get /devices/olt-1 --json",
        expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_JSON"}
        {
          "read_at": {
            "store": "main",
            "revision": "12",
            "root": "3f9c12ab34cd5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7",
            "position": "4182",
            "time_ms": "1795255140000",
            "token": "4182@abababababababababababababababab"
          },
          "type": "example.Device",
          "nodes": [
            {
              "path": "/devices/olt-1",
              "key": "olt-1",
              "index": "0",
              "hash": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
              "data_hash": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
              "value": {
                "json": {
                  "id": "olt-1"
                },
                "type": "example.Device"
              }
            }
          ]
        }
    "#]],
    );
}

#[test]
fn a_disputed_answer_is_shown_with_a_warning() {
    let world = World::new();
    let mut answer = got(device("olt-1"));
    answer.read_at.as_mut().unwrap().disputed = true;
    world.fake.get.always(answer);
    world.check(
        "get /devices/olt-1",
        expect![[r#"
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        id: olt-1
        address: 192.0.2.10
        ! Warning: replicas disagree, and it is not known yet which is right; see `confold status`
    "#]],
    );
}

fn page(keys: &[&str], more: bool) -> pb::ListResponse {
    pb::ListResponse {
        read_at: Some(read_at(12)),
        container: Some(container("/devices", Kind::Keyed, 1_000_000, false)),
        r#type: "example.Device".to_owned(),
        nodes: keys.iter().map(|key| device(key)).collect(),
        more,
        next_after_key: keys.last().copied().unwrap_or_default().to_owned(),
        next_index: keys.len() as u64,
    }
}

#[test]
fn ls_shows_keys_a_page_at_a_time() {
    let world = World::new();
    world.fake.list.always(page(&["olt-1", "o' 2"], true));
    world.check(
        "ls /devices --limit 2",
        expect![[r#"
        > list {"read":{"deadline_ms":10000},"path":"/devices","page_size":2,"format":"FORMAT_YAML","no_values":true}
        olt-1
        o' 2
        ! 2 of 1,000,000 elements shown; go on with --after 'o'\'' 2', or see --all
    "#]],
    );
    world.check("ls /devices --after 'olt 0' --reverse --at 7", expect![[r#"
        > list {"read":{"at":"7","deadline_ms":10000},"path":"/devices","after_key":"olt 0","reverse":true,"page_size":100,"format":"FORMAT_YAML","no_values":true}
        olt-1
        o' 2
        ! 2 of 1,000,000 elements shown; go on with --after 'o'\'' 2', or see --all
    "#]]);
    world.check("ls /devices --from-index 999 -l", expect![[r#"
        > list {"read":{"deadline_ms":10000},"path":"/devices","from_index":"999","page_size":100,"format":"FORMAT_YAML","no_values":true}
        aaaaaaaaaaaa  olt-1
        aaaaaaaaaaaa  o' 2
        ! 2 of 1,000,000 elements shown; go on with --after 'o'\'' 2', or see --all
    "#]]);
    world.check("ls /devices --from olt-0 --values --depth 1 --field address", expect![[r#"
        > list {"read":{"deadline_ms":10000},"path":"/devices","from_key":"olt-0","page_size":100,"depth":1,"mask":["address"],"format":"FORMAT_YAML"}
        /devices/olt-1:
          id: olt-1
          address: 192.0.2.10
        /devices/o' 2:
          id: o' 2
          address: 192.0.2.10
        ! 2 of 1,000,000 elements shown; go on with --after 'o'\'' 2', or see --all
    "#]]);
    world.fake.list.always(page(&[], false));
    world.check("ls /devices --after zzz", expect![[r#"
        > list {"read":{"deadline_ms":10000},"path":"/devices","after_key":"zzz","page_size":100,"format":"FORMAT_YAML","no_values":true}
        ! /devices has nothing there at revision 12 (root 3f9c12ab34cd)
    "#]]);
    world.check(
        "ls /devices --after a --from b",
        expect![[r#"
        ! Error: the argument '--after <KEY>' cannot be used with '--from <KEY>'
        !
        ! Usage: confold ls --after <KEY> <PATH>
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
}

#[test]
fn ls_all_streams_every_page() {
    let world = World::new();
    world
        .fake
        .list_stream
        .always(vec![page(&["a", "b"], true), page(&["c"], false)]);
    world.check(
        "ls /devices --all",
        expect![[r#"
        > list_stream {"read":{"deadline_ms":10000},"path":"/devices","format":"FORMAT_YAML","no_values":true}
        a
        b
        c
    "#]],
    );
}

#[test]
fn ls_of_a_node_shows_what_it_has_below() {
    let world = World::new();
    for _ in 0..2 {
        world.fake.list.refuse(status::status(&status::error_detail(
            Code::NotAContainer,
            "it is a node",
        )));
    }
    let mut node = device("olt-1");
    world.fake.get.answer(got(node.clone()));
    world.check("ls /devices/olt-1", expect![[r#"
        > list {"read":{"deadline_ms":10000},"path":"/devices/olt-1","page_size":100,"format":"FORMAT_YAML","no_values":true}
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_JSON"}
        ! /devices/olt-1 has nothing below it at revision 12 (root 3f9c12ab34cd)
    "#]]);
    node.children = vec![
        container("/clock", Kind::Single, 1, true),
        container("/devices", Kind::Keyed, 1, true),
        container("/clock/ntp_servers", Kind::List, 2, true),
    ];
    world.fake.get.answer(got(node));
    world.check(
        "ls",
        expect![[r#"
        > list {"read":{"deadline_ms":10000},"path":"/","page_size":100,"format":"FORMAT_YAML","no_values":true}
        > get {"read":{"deadline_ms":10000},"path":"/","format":"FORMAT_JSON"}
        /clock
        /devices            1 element
        /clock/ntp_servers  list of 2
    "#]],
    );
}

#[test]
fn diff_shows_signs_and_values_line_by_line() {
    let world = World::new();
    let change = |kind: pb::change::Kind, path: &str, before: &str, after: &str| pb::Change {
        path: path.to_owned(),
        kind: kind.into(),
        before: (!before.is_empty()).then(|| yaml(before).unwrap()),
        after: (!after.is_empty()).then(|| yaml(after).unwrap()),
        ..Default::default()
    };
    use pb::change::Kind::{Added, ListChanged, Removed, Updated};
    let changes = vec![
        change(
            Updated,
            "/devices/olt-1",
            "id: olt-1\naddress: 192.0.2.10\nserial: A\n",
            "id: olt-1\naddress: 192.0.2.99\nserial: A\n",
        ),
        change(Added, "/devices/olt-2", "", "id: olt-2\n"),
        change(Removed, "/vlans/7", "number: 7\n", ""),
        change(ListChanged, "/clock/ntp_servers", "", ""),
    ];
    let page = pb::DiffResponse {
        from: Some(read_at(11)),
        to: Some(read_at(12)),
        changes,
        more: true,
    };
    world.fake.diff_stream.answer(vec![page]);
    world.check("diff 11 latest --values --limit 4", expect![[r#"
        > diff_stream {"from":{"at":"11","deadline_ms":10000},"to":{"at":"latest","deadline_ms":10000},"path":"/","limit":"4","values":true,"format":"FORMAT_YAML"}
        ~ /devices/olt-1
              id: olt-1
            - address: 192.0.2.10
            + address: 192.0.2.99
              serial: A
        + /devices/olt-2
            + id: olt-2
        - /vlans/7
            - number: 7
        ~ /clock/ntp_servers
        ! more than these 4 changes between revision 11 and revision 12; see --limit
    "#]]);
    let none = pb::DiffResponse {
        from: Some(read_at(11)),
        to: Some(read_at(12)),
        ..Default::default()
    };
    world.fake.diff_stream.answer(vec![none]);
    world.check("diff --path /devices/**", expect![[r#"
        > diff_stream {"from":{"at":"latest~1","deadline_ms":10000},"to":{"deadline_ms":10000},"path":"/devices/**","format":"FORMAT_YAML"}
        ! no difference between revision 11 and revision 12
    "#]]);
}

fn row(revision: Option<u64>) -> pb::LogRow {
    pb::LogRow {
        position: 4182,
        revision,
        time_ms: crate::world::NOW - 5_000,
        author: "ada".to_owned(),
        principal: String::new(),
        reason: "new uplink".to_owned(),
        event_id: format!("4180-{}", "0f".repeat(16)),
        root: crate::world::ROOT.to_owned(),
        outcome: pb::decision::Outcome::Committed.into(),
        kind: "commit".to_owned(),
        summary: vec![
            "update /devices/olt-1 (admin_state)".to_owned(),
            "remove /vlans/7".to_owned(),
        ],
        operations: 2,
        tags: vec!["v1.2".to_owned()],
        ..Default::default()
    }
}

#[test]
fn log_shows_who_changed_what_and_when() {
    let world = World::new();
    let rejected = pb::LogRow {
        outcome: pb::decision::Outcome::Rejected.into(),
        code: "CONFLICT".to_owned(),
        principal: "cert:bob".to_owned(),
        tags: Vec::new(),
        summary: Vec::new(),
        ..row(None)
    };
    let answer = pb::LogResponse {
        read_at: Some(read_at(42)),
        rows: vec![row(Some(42)), rejected],
        next_after: Some(4000),
    };
    world.fake.log.answer(answer);
    world.check("log /devices/olt-1 --by ada --all -n 2 --from v1.1 --after 5000", expect![[r#"
        > log {"read":{"deadline_ms":10000},"path":"/devices/olt-1","from":"v1.1","author":"ada","all":true,"limit":2,"after":"5000"}
        r42    2026-11-21 09:59:55  ada  new uplink  (v1.2)
            update /devices/olt-1 (admin_state)
            remove /vlans/7
        @4182  2026-11-21 09:59:55  ada (cert:bob)  commit  rejected: CONFLICT  new uplink
        ! there is more: go on with --after 4000
    "#]]);
    world.fake.log.answer(pb::LogResponse::default());
    world.check(
        "log --oldest-first --brief",
        expect![[r#"
        > log {"read":{"deadline_ms":10000},"oldest_first":true,"limit":20,"brief":true}
        ! no events
    "#]],
    );
}

#[test]
fn show_tells_everything_about_an_event() {
    use pb::{text_base::Was, text_guard::Expect, text_operation::Kind};
    let world = World::new();
    let operation = |path: &str, base: Option<Was>, kind: Kind| pb::TextOperation {
        path: path.to_owned(),
        strict: base.is_some(),
        base: base.map(|was| pb::TextBase { was: Some(was) }),
        kind: Some(kind),
    };
    let answer = pb::ShowResponse {
        row: Some(row(Some(42))),
        client_time_ms: crate::world::NOW - 6_000,
        guards: vec![pb::TextGuard {
            path: "/vlans/9".to_owned(),
            expect: Some(Expect::Absent(pb::Absent {})),
        }],
        operations: vec![
            operation(
                "/devices/olt-1",
                Some(Was::Hash("bb".repeat(32))),
                Kind::Update(pb::TextUpdate {
                    value: yaml("admin_state: DISABLED\n"),
                    mask: vec!["admin_state".to_owned()],
                }),
            ),
            operation("/vlans/7", None, Kind::Remove(pb::Absent {})),
        ],
        facts: Vec::new(),
        intent: "dd".repeat(32),
        log_digest: "ee".repeat(32),
        chain: "ff".repeat(32),
        bytes: 340,
        ..Default::default()
    };
    world.fake.show.answer(answer.clone());
    world.check("show 42", expect![[r#"
        > show {"at":"42","format":"FORMAT_YAML"}
        revision       42
        position       4182
        kind           commit
        outcome        committed
        time           2026-11-21 09:59:55
        client's time  2026-11-21 09:59:54
        author         ada
        reason         new uplink
        tags           v1.2
        event id       4180-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f
        root           3f9c12ab34cd5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7
        log digest     eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        chain          ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
        intent         dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
        size           340 bytes

        if /vlans/9 is absent

        update /devices/olt-1 (admin_state), based on bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb, strict
            admin_state: DISABLED

        remove /vlans/7
    "#]]);
    let mut refused = answer;
    refused.row = Some(pb::LogRow {
        outcome: pb::decision::Outcome::Rejected.into(),
        code: "CONFLICT".to_owned(),
        ..row(None)
    });
    refused.error = Some(status::error_detail(Code::Conflict, "both sides changed it"));
    refused.facts = vec!["a fact".to_owned()];
    refused.operations.clear();
    world.fake.show.answer(refused);
    world.check(
        "show --position 4182",
        expect![[r#"
        > show {"position":"4182","format":"FORMAT_YAML"}
        position       4182
        kind           commit
        outcome        rejected: CONFLICT
        time           2026-11-21 09:59:55
        client's time  2026-11-21 09:59:54
        author         ada
        reason         new uplink
        tags           v1.2
        event id       4180-0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f
        root           3f9c12ab34cd5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7
        log digest     eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        chain          ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
        intent         dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd
        size           340 bytes
          a fact

        if /vlans/9 is absent
        ! Rejected: CONFLICT: both sides changed it
    "#]],
    );
    world.check(
        "show 42 --position 4182",
        expect![[r#"
        ! Error: the argument '[REVISION]' cannot be used with '--position <N>'
        !
        ! Usage: confold show <REVISION>
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
}

#[test]
fn sync_prints_a_token_for_scripts() {
    let world = World::new();
    world.fake.sync.always(pb::SyncResponse {
        read_at: Some(read_at(12)),
    });
    world.check(
        "sync",
        expect![[r#"
        > sync {"deadline_ms":10000}
        4182@abababababababababababababababab
        ! at revision 12 (root 3f9c12ab34cd)
    "#]],
    );
}

#[test]
fn a_folder_is_read_without_a_server() {
    let mut world = World::new();
    world.fake.get.always(got(device("olt-1")));
    world.check(
        "get /devices/olt-1 --data ./data",
        expect![[r#"
        > open FOLDER/./data Read
        > get {"read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        id: olt-1
        address: 192.0.2.10
    "#]],
    );
    world
        .environment
        .insert("CONFOLD_DATA".to_owned(), "/var/lib/confold".to_owned());
    world.environment.insert("CONFOLD_STORE".to_owned(), "lab".to_owned());
    world.check(
        "get /devices/olt-1",
        expect![[r#"
        > open /var/lib/confold Read
        > get {"store":"lab","read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        id: olt-1
        address: 192.0.2.10
    "#]],
    );
    world.check(
        "get /devices/olt-1 --server 192.0.2.1:9 --store other",
        expect![[r#"
        > connect 192.0.2.1:9
        > get {"store":"other","read":{"deadline_ms":10000},"path":"/devices/olt-1","format":"FORMAT_YAML"}
        id: olt-1
        address: 192.0.2.10
    "#]],
    );
    world.check(
        "get /devices/olt-1 --server 192.0.2.1:9 --data x",
        expect![[r#"
        ! Error: the argument '--server <ADDR>' cannot be used with '--data <DIR>'
        !
        ! Usage: confold get --server <ADDR> <PATH>
        !
        ! For more information, try '--help'.
        exit 2
    "#]],
    );
}
