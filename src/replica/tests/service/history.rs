use crate::world::*;
use confold_model::ids::Position;
use confold_wire::api::Api;
use confold_wire::pb::{self, show_request::Which};
use expect_test::expect;

async fn world() -> World {
    let world = World::sample().await;
    let by = |author: &str, reason: &str| {
        Some(pb::Proposal {
            author: author.into(),
            reason: reason.into(),
            ..Default::default()
        })
    };
    let commit = |proposal, operations| pb::CommitRequest {
        proposal,
        operations,
        ..Default::default()
    };
    let port = masked("/devices/olt-1/ports/1", r#"{"label": "up"}"#, &["label"]);
    world
        .service
        .commit(commit(by("ada", "relabelled"), vec![port]))
        .await
        .unwrap();
    let device = masked("/devices/olt-1", r#"{"description": "d"}"#, &["description", "address"]);
    world
        .service
        .commit(commit(by("bob", ""), vec![device, add("/vlans", r#"{"number": 3}"#)]))
        .await
        .unwrap();
    let tag = pb::TagRequest {
        name: "stable".into(),
        at: "5".into(),
        ..Default::default()
    };
    world.service.tag(tag).await.unwrap();
    world.commit(remove("/vlans/77")).await.unwrap_err();
    world
        .commit(replace("/devices/olt-1", r#"{"id": "olt-1"}"#))
        .await
        .unwrap();
    world
        .service
        .acting_as("cn=eve")
        .commit(commit(None, vec![replace("/vlans", r#"{"vlans": []}"#)]))
        .await
        .unwrap();
    world
}

fn line(row: &pb::LogRow) -> String {
    let mut line = format!("p{}", row.position);
    if let Some(revision) = row.revision {
        line += &format!(" r{revision}");
    }
    line += &format!(" {} {}", row.kind, row.outcome().as_str_name().to_lowercase());
    for (name, text) in [
        ("code", &row.code),
        ("author", &row.author),
        ("principal", &row.principal),
        ("reason", &row.reason),
    ] {
        if !text.is_empty() {
            line += &format!(" {name}={text}");
        }
    }
    if !row.tags.is_empty() {
        line += &format!(" tags={}", row.tags.join(","));
    }
    for summary in &row.summary {
        line += &format!(" [{summary}]");
    }
    line
}

async fn lines(world: &World, request: pb::LogRequest) -> String {
    match world.service.log(request).await {
        Ok(answer) => {
            let mut lines: Vec<String> = answer.rows.iter().map(line).collect();
            lines.extend(answer.next_after.map(|after| format!("more after {after}")));
            lines.join("\n")
        }
        Err(status) => refusal(&status),
    }
}

#[tokio::test]
async fn the_log_tells_who_changed_what() {
    let world = world().await;
    expect![[r#"
        p11 r8 commit committed principal=cn=eve [replace /vlans]
        p10 r7 commit committed [replace /devices/olt-1]
        p7 r6 commit committed author=bob [update /devices/olt-1 (address, description)] [add /vlans/3]
        p6 r5 commit committed author=ada reason=relabelled tags=stable [update /devices/olt-1/ports/1 (label)]
        p5 r4 commit committed [put /vlans/200]
        p4 r3 commit committed [put /vlans/100]
        p3 r2 commit committed [put /devices/sw%2Fcore]
        p2 r1 commit committed [put /devices/olt-1]"#]]
    .assert_eq(&lines(&world, pb::LogRequest::default()).await);
    let brief = pb::LogRequest {
        brief: true,
        limit: 2,
        oldest_first: true,
        ..Default::default()
    };
    expect![[r#"
        p2 r1 commit committed
        p3 r2 commit committed
        more after 3"#]]
    .assert_eq(&lines(&world, brief).await);
}

#[tokio::test]
async fn the_log_of_a_path_is_what_touched_it_below_it_or_took_it_along() {
    let world = world().await;
    let mut found = Vec::new();
    for path in [
        "/devices/olt-1/ports/1",
        "/devices/olt-1/ports/2",
        "/devices/olt-1",
        "/devices/sw%2Fcore",
        "/vlans/100",
        "/vlans/3",
        "/devices/olt-1/ports",
        "/vlans",
        "/devices/*/ports/1",
        "/**/ports/*",
        "/clock",
        "/devices/never",
        "/nope",
        "/",
    ] {
        let request = pb::LogRequest {
            path: path.into(),
            oldest_first: true,
            ..Default::default()
        };
        let revisions: String = match world.service.log(request).await {
            Ok(answer) => answer
                .rows
                .iter()
                .map(|row| format!(" {}", row.revision.unwrap()))
                .collect(),
            Err(status) => format!(" {}", refusal(&status)),
        };
        found.push(format!("{path}:{revisions}"));
    }
    expect![[r#"
        /devices/olt-1/ports/1: 1 5 7
        /devices/olt-1/ports/2: 1 7
        /devices/olt-1: 1 5 6 7
        /devices/sw%2Fcore: 2
        /vlans/100: 3 8
        /vlans/3: 6 8
        /devices/olt-1/ports: 1 5 7
        /vlans: 3 4 6 8
        /devices/*/ports/1: 1 2 5 7
        /**/ports/*: 1 2 5 7 8
        /clock:
        /devices/never:
        /nope: NOT_FOUND at /: no such child field: example.Network has no child "nope"; it has clock, devices, vlans
        /: 1 2 3 4 5 6 7 8"#]]
    .assert_eq(&found.join("\n"));
}

#[tokio::test]
async fn rows_are_bounded_by_states_and_authors_and_paged() {
    let world = world().await;
    let mut found = Vec::new();
    let row = |from: &str, to: &str, author: &str| pb::LogRequest {
        from: from.into(),
        to: to.into(),
        author: author.into(),
        brief: true,
        ..Default::default()
    };
    for request in [
        row("5", "", ""),
        row("", "2", ""),
        row("2", "stable", ""),
        row("7", "2", ""),
        row("", "", "ada"),
        row("x", "", ""),
    ] {
        found.push(format!(
            "--- {} to {} by {}\n{}",
            request.from,
            request.to,
            request.author,
            lines(&world, request.clone()).await
        ));
    }
    expect![[r#"
        --- 5 to  by 
        p11 r8 commit committed
        p10 r7 commit committed
        p7 r6 commit committed author=bob
        ---  to 2 by 
        p3 r2 commit committed
        p2 r1 commit committed
        --- 2 to stable by 
        p6 r5 commit committed author=ada tags=stable
        p5 r4 commit committed
        p4 r3 commit committed
        --- 7 to 2 by 

        ---  to  by ada
        p6 r5 commit committed author=ada tags=stable
        --- x to  by 
        NOT_FOUND: "x": no tag or root is called "x"; the tags are stable"#]]
    .assert_eq(&found.join("\n"));
    // Page by page it is the same as at once, in either direction, with and without what made no revision.
    for (oldest_first, all, path) in [
        (true, false, ""),
        (false, false, ""),
        (true, true, ""),
        (false, true, ""),
        (true, false, "/devices/olt-1"),
    ] {
        let whole = pb::LogRequest {
            oldest_first,
            all,
            path: path.into(),
            ..Default::default()
        };
        let expected = world.service.log(whole.clone()).await.unwrap().rows;
        let mut request = pb::LogRequest { limit: 2, ..whole };
        let mut rows = Vec::new();
        loop {
            let answer = world.service.log(request.clone()).await.unwrap();
            assert!(answer.rows.len() <= 2);
            rows.extend(answer.rows);
            match answer.next_after {
                Some(after) => request.after = Some(after),
                None => break,
            }
        }
        assert_eq!(rows, expected);
    }
}

#[tokio::test]
async fn all_brings_what_made_no_revision() {
    let world = world().await;
    world
        .handle
        .propose(
            confold_replica::Proposal::new(confold_model::event::Body::Withdraw {
                id: confold_wire::convert::parse_event_id(&event_id(3, 3)).unwrap(),
            }),
            SOON,
        )
        .await
        .unwrap();
    let late = pb::CommitRequest {
        proposal: proposal(&event_id(3, 3)),
        operations: vec![add("/vlans", r#"{"number": 9}"#)],
        ..Default::default()
    };
    assert_eq!(code(&world.service.commit(late).await.unwrap_err()), "WITHDRAWN");
    // Something on the log that is no event at all.
    confold_log::Log::append(&world.log, b"nonsense"[..].into()).unwrap();
    let end = confold_log::Log::range(&world.log).end.0;
    world.handle.at_least(Position(end - 1), SOON).await.unwrap();
    let all = pb::LogRequest {
        all: true,
        oldest_first: true,
        ..Default::default()
    };
    let shown = lines(&world, all.clone())
        .await
        .replace(&hex::encode(world.handle.view().log_id.0), "LOG-ID");
    expect![[r#"
        p0 genesis committed [store network] [log id LOG-ID] [window 1048576] [max_event_bytes 16777216] [keep all revisions]
        p1 schema committed [descriptor set of 12953 bytes] [root message example.Network]
        p2 r1 commit committed [put /devices/olt-1]
        p3 r2 commit committed [put /devices/sw%2Fcore]
        p4 r3 commit committed [put /vlans/100]
        p5 r4 commit committed [put /vlans/200]
        p6 r5 commit committed author=ada reason=relabelled tags=stable [update /devices/olt-1/ports/1 (label)]
        p7 r6 commit committed author=bob [update /devices/olt-1 (address, description)] [add /vlans/3]
        p8 tag committed [tag stable on revision 5]
        p9 commit rejected code=NOT_FOUND [remove /vlans/77]
        p10 r7 commit committed [replace /devices/olt-1]
        p11 r8 commit committed principal=cn=eve [replace /vlans]
        p12 withdraw committed [event 3-03030303030303030303030303030303]
        p13 commit rejected code=WITHDRAWN author=ada [add /vlans/9]
        p14  rejected code=MALFORMED [confold.v1.Event.13: confold.v1.Event has no field 13]"#]].assert_eq(&shown);
    let rejected = pb::LogRequest {
        path: "/vlans".into(),
        from: "pos:7".into(),
        to: "pos:10".into(),
        ..all
    };
    expect!["p9 commit rejected code=NOT_FOUND [remove /vlans/77]"].assert_eq(&lines(&world, rejected).await);
}

async fn show(world: &World, which: Which) -> Result<pb::ShowResponse, tonic::Status> {
    world
        .service
        .show(pb::ShowRequest {
            which: Some(which),
            format: pb::Format::Json.into(),
            ..Default::default()
        })
        .await
}

#[tokio::test]
async fn one_event_in_full() {
    let world = world().await;
    let shown = show(&world, Which::At("6".into())).await.unwrap();
    let row = shown.row.clone().unwrap();
    let operations: Vec<String> = shown
        .operations
        .iter()
        .map(|operation| format!("{} {:?}", operation.path, operation.kind.as_ref().unwrap()))
        .collect();
    expect![[r#"
        p7 r6 commit committed author=bob [update /devices/olt-1 (address, description)] [add /vlans/3]
        /devices/olt-1 Update(TextUpdate { value: Some(Value { r#type: "example.Device", form: Some(Json("{\"description\":\"d\"}")) }), mask: ["address", "description"] })
        /vlans/3 Add(Value { r#type: "example.Vlan", form: Some(Json("{\"number\":3}")) })"#]].assert_eq(&format!("{}\n{}", line(&row), operations.join("\n")));
    assert_eq!(shown.intent.len(), 64);
    assert_eq!(
        shown.log_digest,
        world.log.records()[row.position as usize].digest.to_string()
    );
    for which in [Which::Position(row.position), Which::EventId(row.event_id.clone())] {
        assert_eq!(show(&world, which).await.unwrap(), shown);
    }
    // Its operations, sent as they are shown, are the same commit.
    let again = pb::CommitRequest {
        operations: shown.operations,
        ..Default::default()
    };
    assert_eq!(world.service.commit(again).await.unwrap().revision, Some(9));
    assert_eq!(
        world.json("/devices/olt-1", 0, "").await,
        r#"{"id":"olt-1","description":"d"}"#
    );
    let record = pb::ShowRequest {
        which: Some(Which::Position(3)),
        record: true,
        ..Default::default()
    };
    let shown = world.service.show(record).await.unwrap();
    assert_eq!(shown.record, world.log.records()[3].bytes);
    assert_eq!(shown.bytes, shown.record.len() as u64);
}

#[tokio::test]
async fn events_that_are_no_commit_say_their_facts() {
    let world = world().await;
    let mut found = Vec::new();
    for which in [
        Which::Position(0),
        Which::Position(1),
        Which::Position(8),
        Which::Position(9),
        Which::At("stable".into()),
        Which::At("".into()),
        Which::Position(999),
        Which::EventId(event_id(2, 2)),
        Which::EventId("x".into()),
        Which::At("nowhere".into()),
    ] {
        found.push(match show(&world, which).await {
            Ok(shown) => {
                let error = shown
                    .error
                    .as_ref()
                    .map(|error| format!(" {}", error_line(error)))
                    .unwrap_or_default();
                format!("{} {:?}{error}", line(&shown.row.unwrap()), shown.facts)
            }
            Err(status) => refusal(&status),
        });
    }
    let shown = found
        .join("\n")
        .replace(&hex::encode(world.handle.view().log_id.0), "LOG-ID");
    expect![[r#"
        p0 genesis committed [store network] [log id LOG-ID] [window 1048576] [max_event_bytes 16777216] [keep all revisions] ["store network", "log id LOG-ID", "window 1048576", "max_event_bytes 16777216", "keep all revisions"]
        p1 schema committed [descriptor set of 12953 bytes] [root message example.Network] ["descriptor set of 12953 bytes", "root message example.Network"]
        p8 tag committed [tag stable on revision 5] ["tag stable on revision 5"]
        p9 commit rejected code=NOT_FOUND [remove /vlans/77] [] NOT_FOUND: decided at position 9
        p6 r5 commit committed author=ada reason=relabelled tags=stable [update /devices/olt-1/ports/1 (label)] []
        p11 r8 commit committed principal=cn=eve [replace /vlans] []
        FUTURE: position 999 is not reached yet, this replica has folded up to 11
        NOT_FOUND: event 2-02020202020202020202020202020202 is not on the log up to position 11
        INVALID_PATH: "x" is not an event id: write the position that was seen, a dash, and 32 hex digits of nonce, as in 4182-0f3a…
        NOT_FOUND: "nowhere": no tag or root is called "nowhere"; the tags are stable"#]].assert_eq(&shown);
}
