use crate::world::*;
use confold_model::ids::Time;
use confold_wire::api::Api;
use confold_wire::pb;
use expect_test::expect;

/// Six revisions, one per second from 2026-01-31T12:00:01Z on; 3 and 5 have one root. Tagged: 2 as `beta`, 4 as `beef`.
async fn world() -> World {
    let world = World::network().await;
    let noon = 1_769_860_800_000;
    for (second, zone) in [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "c"), (6, "e")] {
        world.log.set_clock(Time(noon + second * 1_000));
        world
            .commit(update("/clock", &format!(r#"{{"timezone": "{zone}"}}"#)))
            .await
            .unwrap();
    }
    for (name, at) in [("beta", "2"), ("beef", "4")] {
        let request = pb::TagRequest {
            name: name.into(),
            at: at.into(),
            ..Default::default()
        };
        world.service.tag(request).await.unwrap();
    }
    world
}

async fn lines(world: &World, names: &[&str]) -> String {
    let mut lines = Vec::new();
    for at in names {
        let line = match world.get("/clock", 0, at).await {
            Ok(answer) => {
                let read_at = answer.read_at.unwrap();
                format!(
                    "r{} t{} {}",
                    read_at.revision,
                    read_at.time_ms,
                    json(answer.nodes[0].value.as_ref())
                )
            }
            Err(status) => refusal(&status),
        };
        lines.push(format!("{at}: {line}"));
    }
    lines.join("\n")
}

// G5: any retained revision can be named by number, root, tag, position or time.
#[tokio::test]
async fn every_way_to_name_a_state() {
    let world = world().await;
    let root = |revision: u64| {
        let row = confold_store::Store::revision(&*world.store, confold_model::ids::Revision(revision)).unwrap();
        row.unwrap().root.to_string()
    };
    let event = world.service.show(pb::ShowRequest {
        which: Some(pb::show_request::Which::At("3".into())),
        ..Default::default()
    });
    let event = format!("event:{}", event.await.unwrap().row.unwrap().event_id);
    let tagging = world.service.show(pb::ShowRequest {
        which: Some(pb::show_request::Which::Position(8)),
        ..Default::default()
    });
    let tagging = format!("event:{}", tagging.await.unwrap().row.unwrap().event_id);
    let got = lines(
        &world,
        &[
            "",
            "latest",
            "latest~2",
            "~6",
            "latest~7",
            "0",
            "1",
            "6",
            "7",
            "rev:2",
            "rev:02",
            "rev:x",
            "beta",
            "tag:beta",
            "beta~1",
            "beta~2",
            "beta~3",
            "beta~",
            "beta~x",
            "bet",
            "beef",
            "rev:99",
            "pos:0",
            "pos:1",
            "pos:2",
            "pos:6",
            "pos:99",
            "pos:-1",
            "time:2026-01-31T12:00:03Z",
            "time:2026-01-31T12:00:03.999+00:00",
            "time:2026-01-31T13:00:04+01:00",
            "time:1769860802000",
            "time:0",
            "time:2099-01-01T00:00:00Z",
            "time:yesterday",
            "time:2026-01-31T12:00:03",
            "root:zz",
            "root:0000000000",
            "0000000000a",
            "nonsense",
            "branch:x",
            "latest:",
            "event:3-00000000000000000000000000000000",
            "event:x",
        ],
    )
    .await;
    expect![[r#"
        : r6 t1769860806000 {"timezone":"e"}
        latest: r6 t1769860806000 {"timezone":"e"}
        latest~2: r4 t1769860804000 {"timezone":"d"}
        ~6: r0 t0 {}
        latest~7: NOT_FOUND: "latest~7": latest is revision 6, there are no 7 before it
        0: r0 t0 {}
        1: r1 t1769860801000 {"timezone":"a"}
        6: r6 t1769860806000 {"timezone":"e"}
        7: FUTURE: "7": revision 7 is not reached yet, the latest is 6
        rev:2: r2 t1769860802000 {"timezone":"b"}
        rev:02: INVALID_PATH: "rev:02" names no state
        rev:x: INVALID_PATH: "rev:x" names no state
        beta: r2 t1769860802000 {"timezone":"b"}
        tag:beta: r2 t1769860802000 {"timezone":"b"}
        beta~1: r1 t1769860801000 {"timezone":"a"}
        beta~2: r0 t0 {}
        beta~3: NOT_FOUND: "beta~3": beta is revision 2, there are no 3 before it
        beta~: INVALID_PATH: "beta~" names no state
        beta~x: INVALID_PATH: "beta~x" names no state
        bet: NOT_FOUND: "bet": no tag or root is called "bet"; the tags are beta, beef
        beef: r4 t1769860804000 {"timezone":"d"}
        rev:99: FUTURE: "rev:99": revision 99 is not reached yet, the latest is 6
        pos:0: r0 t0 {}
        pos:1: r0 t0 {}
        pos:2: r1 t1769860801000 {"timezone":"a"}
        pos:6: r5 t1769860805000 {"timezone":"c"}
        pos:99: FUTURE: "pos:99": position 99 is not reached yet, this replica has folded up to 9
        pos:-1: INVALID_PATH: "pos:-1" names no state
        time:2026-01-31T12:00:03Z: r3 t1769860803000 {"timezone":"c"}
        time:2026-01-31T12:00:03.999+00:00: r3 t1769860803000 {"timezone":"c"}
        time:2026-01-31T13:00:04+01:00: r4 t1769860804000 {"timezone":"d"}
        time:1769860802000: r2 t1769860802000 {"timezone":"b"}
        time:0: r0 t0 {}
        time:2099-01-01T00:00:00Z: r6 t1769860806000 {"timezone":"e"}
        time:yesterday: INVALID_PATH: "time:yesterday" names no time: failed to parse four digit integer as year: invalid digit, expected 0-9 but got y
        time:2026-01-31T12:00:03: INVALID_PATH: "time:2026-01-31T12:00:03" names no time: failed to find offset component, which is required for parsing a timestamp
        root:zz: INVALID_PATH: "root:zz" names no state
        root:0000000000: NOT_FOUND: "root:0000000000": no revision has a root that begins with 0000000000
        0000000000a: NOT_FOUND: "0000000000a": no tag or root is called "0000000000a"; the tags are beef, beta
        nonsense: NOT_FOUND: "nonsense": no tag or root is called "nonsense"; the tags are beef, beta
        branch:x: INVALID_PATH: "branch:x": branch: is no kind of name
        latest:: INVALID_PATH: "latest:": latest: is no kind of name
        event:3-00000000000000000000000000000000: NOT_FOUND: "event:3-00000000000000000000000000000000": event 3-00000000000000000000000000000000 is not on the log up to position 9
        event:x: INVALID_PATH: "event:x": "x" is not an event id: write the position that was seen, a dash, and 32 hex digits of nonce, as in 4182-0f3a…"#]].assert_eq(&got);
    // Ids and roots are not the same in every run.
    for (at, revision) in [
        (event, Some(3)),
        (tagging, None),
        (root(4), Some(4)),
        (root(4)[..12].to_owned(), Some(4)),
        (format!("root:{}", &root(2)[..20]), Some(2)),
        (format!("{}~1", &root(2)[..20]), Some(1)),
        // R1: content that came back has one root and two revisions: the later is meant.
        (root(3), Some(5)),
        (root(3).to_uppercase(), Some(5)),
    ] {
        let got = world
            .get("/clock", 0, &at)
            .await
            .map(|answer| answer.read_at.unwrap().revision);
        assert_eq!(got.ok(), revision, "{at}");
    }
}

// A word that could be several things is a revision, then a tag, then a root.
#[tokio::test]
async fn what_begins_several_roots_names_them_all() {
    let world = World::network().await;
    let mut first_digits = std::collections::BTreeMap::new();
    let mut shared = None;
    for number in 1..40 {
        let commit = world
            .commit(add("/vlans", &format!(r#"{{"number": {number}}}"#)))
            .await
            .unwrap();
        let digit = commit.root[..1].to_owned();
        if first_digits.insert(digit.clone(), commit.revision).is_some() {
            shared = Some(digit);
            break;
        }
    }
    let digit = shared.expect("17 roots cannot begin with 16 digits");
    let status = world.get("/", 0, &format!("root:{digit}")).await.unwrap_err();
    let line = refusal(&status);
    assert!(
        line.starts_with("NOT_FOUND: ") && line.contains("begins several roots"),
        "{line}"
    );
    assert!(line.contains(&format!("(revision {})", world.revision())), "{line}");
}

// R4, T3: what is gone is PRUNED and names the nearest that is kept; tags keep.
#[tokio::test]
async fn a_revision_that_is_gone_names_the_nearest_kept() {
    let world = world().await;
    world
        .service
        .prune(pb::PruneRequest {
            floor: "4".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    let got = lines(&world, &["0", "1", "2", "3", "4", "5", "beta", "beta~1"]).await;
    expect![[r#"
        0: PRUNED: "0": revision 0 is gone: everything untagged up to 4 was pruned; the nearest that is kept is 2
        1: PRUNED: "1": revision 1 is gone: everything untagged up to 4 was pruned; the nearest that is kept is 2
        2: r2 t1769860802000 {"timezone":"b"}
        3: PRUNED: "3": revision 3 is gone: everything untagged up to 4 was pruned; the nearest that is kept is 4
        4: r4 t1769860804000 {"timezone":"d"}
        5: r5 t1769860805000 {"timezone":"c"}
        beta: r2 t1769860802000 {"timezone":"b"}
        beta~1: PRUNED: "beta~1": revision 1 is gone: everything untagged up to 4 was pruned; the nearest that is kept is 2"#]].assert_eq(&got);
    let status = world.get("/", 0, "1").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange);
    assert!(
        confold_wire::status::detail(&status)
            .unwrap()
            .hint
            .contains("revision 2"),
        "{status:?}"
    );
}

#[tokio::test]
async fn how_fresh_a_read_is_can_be_asked_for() {
    let world = world().await;
    let token = world.get("/", 0, "").await.unwrap().read_at.unwrap().token;
    let (position, incarnation) = token.split_once('@').unwrap();
    let beyond = format!("{}@{incarnation}", position.parse::<u64>().unwrap() + 1);
    let other = format!("{position}@{}", "0".repeat(32));
    let ask = |consistency: i32, token: &str| pb::GetRequest {
        read: Some(pb::Read {
            consistency,
            token: token.to_owned(),
            deadline_ms: 30,
            ..Default::default()
        }),
        ..get("/clock")
    };
    let mut got = Vec::new();
    for (consistency, token) in [
        (0, ""),
        (1, token.as_str()),
        (1, ""),
        (1, "x"),
        (1, &other),
        (1, &beyond),
        (2, ""),
        (3, ""),
    ] {
        let line = match world.service.get(ask(consistency, token)).await {
            Ok(answer) => format!("p{}", answer.read_at.unwrap().position),
            Err(status) => refusal(&status).replace(incarnation, "INCARNATION"),
        };
        got.push(line);
    }
    expect![[r#"
        p9
        p9
        INVALID_PATH: AT_LEAST needs a token
        INVALID_PATH: "x" is not a token: hand back a token as it came in an answer
        FOREIGN: the token is of incarnation 00000000000000000000000000000000, this store is in INCARNATION
        FUTURE: position 10 was not reached in time; this replica has folded up to 9
        p9
        INVALID_PATH: consistency 3 does not exist"#]]
    .assert_eq(&got.join("\n"));
    // A write that comes meanwhile is waited for.
    let waiting = {
        let service = world.service.clone();
        let mut request = ask(1, &beyond);
        request.read.as_mut().unwrap().deadline_ms = 20_000;
        tokio::spawn(async move { service.get(request).await })
    };
    world.commit(update("/clock", r#"{"timezone": "z"}"#)).await.unwrap();
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(json(answer.nodes[0].value.as_ref()), r#"{"timezone":"z"}"#);
}

#[tokio::test]
async fn a_store_that_is_not_here_names_those_that_are() {
    let world = World::begun().await;
    let ask = |store: &str| pb::StatusRequest {
        store: store.to_owned(),
    };
    assert_eq!(world.service.status(ask("")).await.unwrap().store, "network");
    assert_eq!(world.service.status(ask("network")).await.unwrap().store, "network");
    let status = world.service.status(ask("net")).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        r#"NOT_FOUND: no store is called "net"; there is network"#
    );

    let log = confold_log::memory::MemoryLog::new([8; 16]);
    assert!(confold_replica::begin(&log, "fleet", &Default::default()).unwrap());
    let other = open(&log, &Default::default()).await;
    let both = confold_replica::service::Service::new(vec![world.handle.clone(), other]);
    let status = both.status(ask("")).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        "NOT_FOUND: several stores are here, name one of them: fleet, network"
    );
    assert_eq!(both.status(ask("fleet")).await.unwrap().store, "fleet");
    let rows = both.list_stores(pb::ListStoresRequest {}).await.unwrap().stores;
    assert_eq!(
        rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(),
        ["fleet", "network"]
    );
}
