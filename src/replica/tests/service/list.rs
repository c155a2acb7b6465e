use crate::world::*;
use confold_wire::api::Api;
use confold_wire::pb::{self, list_request::Start};
use expect_test::expect;

/// VLANs 10, 20 … 90.
async fn world() -> World {
    let world = World::network().await;
    let vlans: Vec<String> = (1..10)
        .map(|number| format!(r#"{{"number": {number}0, "name": "v{number}"}}"#))
        .collect();
    world
        .commit(replace("/vlans", &format!(r#"{{"vlans": [{}]}}"#, vlans.join(","))))
        .await
        .unwrap();
    world
}

fn ask(start: Option<Start>, page_size: u32, reverse: bool) -> pb::ListRequest {
    let format = pb::Format::Json.into();
    pb::ListRequest {
        path: "/vlans".into(),
        start,
        page_size,
        reverse,
        format,
        ..Default::default()
    }
}

fn line(answer: &pb::ListResponse) -> String {
    let keys: Vec<String> = answer
        .nodes
        .iter()
        .map(|node| format!("{}#{}", node.key, node.index.unwrap_or_default()))
        .collect();
    let more = match answer.more {
        true => format!(", more after {:?} from #{}", answer.next_after_key, answer.next_index),
        false => String::new(),
    };
    format!("{}{more}", keys.join(" "))
}

// K7: enumerates in key order, started anywhere.
#[tokio::test]
async fn a_page_starts_at_a_key_or_an_index_and_goes_either_way() {
    let world = world().await;
    let after = |key: &str| Some(Start::AfterKey(key.to_owned()));
    let from = |key: &str| Some(Start::FromKey(key.to_owned()));
    let index = |index| Some(Start::FromIndex(index));
    let mut lines = Vec::new();
    for (start, size, reverse) in [
        (None, 4, false),
        (None, 4, true),
        (None, 0, false),
        (None, 100_000, true),
        (after("30"), 3, false),
        (after("35"), 3, false),
        (after("30"), 3, true),
        (after("35"), 3, true),
        (after("90"), 3, false),
        (from("30"), 3, false),
        (from("35"), 3, false),
        (from("30"), 3, true),
        (from("35"), 3, true),
        (from("10"), 3, true),
        (index(7), 4, false),
        (index(1), 4, true),
        (index(99), 4, false),
        (index(99), 4, true),
        (index(0), 2, true),
    ] {
        let shown = format!("{start:?} {size}{}", if reverse { " back" } else { "" });
        lines.push(format!(
            "{shown}: {}",
            line(&world.service.list(ask(start, size, reverse)).await.unwrap())
        ));
    }
    expect![[r#"
        None 4: 10#0 20#1 30#2 40#3, more after "40" from #4
        None 4 back: 90#8 80#7 70#6 60#5, more after "60" from #4
        None 0: 10#0 20#1 30#2 40#3 50#4 60#5 70#6 80#7 90#8
        None 100000 back: 90#8 80#7 70#6 60#5 50#4 40#3 30#2 20#1 10#0
        Some(AfterKey("30")) 3: 40#3 50#4 60#5, more after "60" from #6
        Some(AfterKey("35")) 3: 40#3 50#4 60#5, more after "60" from #6
        Some(AfterKey("30")) 3 back: 20#1 10#0
        Some(AfterKey("35")) 3 back: 30#2 20#1 10#0
        Some(AfterKey("90")) 3: 
        Some(FromKey("30")) 3: 30#2 40#3 50#4, more after "50" from #5
        Some(FromKey("35")) 3: 40#3 50#4 60#5, more after "60" from #6
        Some(FromKey("30")) 3 back: 30#2 20#1 10#0
        Some(FromKey("35")) 3 back: 30#2 20#1 10#0
        Some(FromKey("10")) 3 back: 10#0
        Some(FromIndex(7)) 4: 80#7 90#8
        Some(FromIndex(1)) 4 back: 20#1 10#0
        Some(FromIndex(99)) 4: 
        Some(FromIndex(99)) 4 back: 90#8 80#7 70#6 60#5, more after "60" from #4
        Some(FromIndex(0)) 2 back: 10#0"#]]
    .assert_eq(&lines.join("\n"));
}

#[tokio::test]
async fn pages_of_one_root_make_the_whole_whatever_happens_meanwhile() {
    let world = world().await;
    for reverse in [false, true] {
        let mut request = ask(None, 2, reverse);
        let mut keys = Vec::new();
        loop {
            let answer = world.service.list(request.clone()).await.unwrap();
            keys.extend(answer.nodes.iter().map(|node| node.key.clone()));
            if !answer.more {
                break;
            }
            request.start = Some(Start::AfterKey(answer.next_after_key));
            request.read = Some(read(&answer.read_at.unwrap().root));
            world
                .commit(add("/vlans", &format!(r#"{{"number": {}}}"#, 1_000 + world.revision())))
                .await
                .unwrap();
        }
        keys.sort_by_key(|key| key.parse::<u64>().unwrap());
        keys.retain(|key| key.len() == 2);
        assert_eq!(keys, ["10", "20", "30", "40", "50", "60", "70", "80", "90"]);
    }
}

#[tokio::test]
async fn a_stream_shows_one_revision_in_pieces() {
    let world = world().await;
    let mut stream = world.service.list_stream(ask(None, 4, false)).await.unwrap();
    let first = tokio_stream::StreamExt::next(&mut stream).await.unwrap().unwrap();
    world.commit(remove("/vlans/90")).await.unwrap();
    let rest = collect(stream).await;
    let answers: Vec<pb::ListResponse> = std::iter::once(Ok(first)).chain(rest).map(Result::unwrap).collect();
    let revisions: Vec<u64> = answers
        .iter()
        .map(|answer| answer.read_at.as_ref().unwrap().revision)
        .collect();
    assert_eq!(revisions, [1, 1, 1]);
    expect![[r#"
        10#0 20#1 30#2 40#3, more after "40" from #4
        50#4 60#5 70#6 80#7, more after "80" from #8
        90#8"#]]
    .assert_eq(&answers.iter().map(line).collect::<Vec<_>>().join("\n"));
    let request = pb::ListRequest {
        limit: 5,
        ..ask(None, 2, true)
    };
    let answers = collect(world.service.list_stream(request).await.unwrap()).await;
    expect![[r#"
        80#7 70#6, more after "70" from #5
        60#5 50#4, more after "50" from #3
        40#3"#]]
    .assert_eq(
        &answers
            .iter()
            .map(|answer| line(answer.as_ref().unwrap()))
            .collect::<Vec<_>>()
            .join("\n"),
    );
}

#[tokio::test]
async fn an_answer_ends_before_it_grows_too_big_but_never_empty() {
    let world = world().await;
    let full = world.service.list(ask(None, 0, false)).await.unwrap();
    let bytes = |request: pb::ListRequest| async { world.service.list(request).await.unwrap() };
    let small = bytes(pb::ListRequest {
        max_bytes: 800,
        ..ask(None, 0, false)
    })
    .await;
    assert!((2..9).contains(&small.nodes.len()) && small.more, "{}", line(&small));
    let tiny = bytes(pb::ListRequest {
        max_bytes: 1,
        ..ask(None, 0, false)
    })
    .await;
    assert_eq!((tiny.nodes.len(), tiny.more), (1, true));
    let bare = bytes(pb::ListRequest {
        no_values: true,
        ..ask(None, 0, false)
    })
    .await;
    assert!(
        bare.nodes
            .iter()
            .all(|node| node.value.is_none() && node.hash.len() == 64)
    );
    assert_eq!(bare.container, full.container);
    assert_eq!(full.container.unwrap().count, 9);
}

#[tokio::test]
async fn only_containers_are_listed_and_lists_have_no_keys() {
    let world = World::sample().await;
    let servers = r#"{"ntp_servers": [{"address": "b"}, {"address": "a"}]}"#;
    world.commit(replace("/clock/ntp_servers", servers)).await.unwrap();
    let mut lines = Vec::new();
    for (path, start) in [
        ("/clock/ntp_servers", None),
        ("/clock/ntp_servers", Some(Start::FromIndex(1))),
        ("/clock/ntp_servers", Some(Start::FromKey("0".into()))),
        ("/devices/olt-1", None),
        ("/", None),
        ("/nope", None),
        ("/devices/none/ports", None),
        ("/devices/sw%2Fcore/ports", None),
        ("/vlans", Some(Start::AfterKey("x".into()))),
        ("/devices", Some(Start::AfterKey("p/q".into()))),
    ] {
        let request = pb::ListRequest {
            path: path.into(),
            start: start.clone(),
            ..Default::default()
        };
        let answer = world.service.list(request.clone()).await;
        let shown = answer.as_ref().map_or_else(refusal, line);
        lines.push(format!("{path} {start:?}: {shown}"));
        // The stream is refused in the same words, before it begins or as its first answer.
        let streamed = match world.service.list_stream(request).await {
            Ok(stream) => collect(stream).await.remove(0).as_ref().map_or_else(refusal, line),
            Err(status) => refusal(&status),
        };
        assert_eq!(streamed, shown);
    }
    expect![[r#"
        /clock/ntp_servers None: #0 #1
        /clock/ntp_servers Some(FromIndex(1)): #1
        /clock/ntp_servers Some(FromKey("0")): NOT_KEYED at /clock/ntp_servers: ntp_servers is a list without keys: start from an index
        /devices/olt-1 None: NOT_A_CONTAINER at /devices/olt-1: this is a node, not a container
        / None: NOT_A_CONTAINER at /: this is a node, not a container
        /nope None: NOT_FOUND at /: no such child field: example.Network has no child "nope"; it has clock, devices, vlans
        /devices/none/ports None: NOT_FOUND at /devices/none/ports: no such key: /devices/none at revision 5
        /devices/sw%2Fcore/ports None: 
        /vlans Some(AfterKey("x")): INVALID_PATH at /vlans: key "x": number is uint32; write a decimal number, like 7
        /devices Some(AfterKey("p/q")): sw/core#1"#]].assert_eq(&lines.join("\n"));
}
