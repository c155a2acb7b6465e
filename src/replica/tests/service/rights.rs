//! Rights at the service: every call, every path, every hash, for callers who may do this and not that.

use super::world::*;
use confold_replica::service::{Call, Service};
use confold_wire::access_token::AccessToken;
use confold_wire::api::Api;
use confold_wire::caller::{BearerToken, Caller, Gate};
use confold_wire::pb::{self, Right};
use expect_test::expect;
use std::sync::Arc;
use tonic::Status;

pub fn rule(principal: &str, path: &str, rights: &[Right]) -> pb::PolicyRule {
    pb::PolicyRule {
        principal: principal.to_owned(),
        path: path.to_owned(),
        rights: rights.iter().map(|right| (*right).into()).collect(),
        strict: false,
    }
}

/// A policy with an administrator beside these rules; the administrator has no right on data.
pub async fn set(
    service: &Service,
    rules: Vec<pb::PolicyRule>,
    tokens: Vec<pb::PolicyToken>,
) -> Result<pb::Decision, Status> {
    let root = service.acting_as("root");
    let present = root.get_policy(pb::GetPolicyRequest::default()).await?;
    let rules = [rule("root", "/", &[Right::Admin])].into_iter().chain(rules).collect();
    let request = pb::SetPolicyRequest {
        rules,
        tokens,
        replaces: present.position,
        ..Default::default()
    };
    root.set_policy(request).await
}

/// The sample, where ann reads one device, bob reads and writes it, wes writes VLANs, all reads everything, and tom tags.
async fn house() -> World {
    let world = World::sample().await;
    let rules = vec![
        rule("ann", "/devices/olt-1", &[Right::Read]),
        rule("bob", "/devices/olt-1", &[Right::Read, Right::Write]),
        rule("wes", "/vlans", &[Right::Write]),
        rule("all", "/", &[Right::Read]),
        rule("tom", "/", &[Right::Tag]),
        rule("pia", "/devices/olt-1/ports/2", &[Right::Read]),
    ];
    set(&world.service, rules, Vec::new()).await.unwrap();
    world
}

fn outside(service: &Service, token: Option<&str>, certificate: Option<&str>) -> Arc<dyn Api> {
    Gate::api(service, &caller(token, certificate))
}

fn caller(token: Option<&str>, certificate: Option<&str>) -> Caller {
    Caller {
        token: token.map(|text| BearerToken::new(text).unwrap()),
        certificate: certificate.map(Into::into),
        local: false,
    }
}

/// A token of the policy, and its row there.
fn token(number: u8, principal: &str, expires_ms: i64) -> (AccessToken, pb::PolicyToken) {
    let token = AccessToken::new([number; 8], [!number; 32]);
    let row = pb::PolicyToken {
        id: hex::encode(token.id()),
        hash: hex::encode(token.hash()),
        principal: principal.to_owned(),
        expires_ms,
    };
    (token, row)
}

async fn lines(api: &dyn Api, request: pb::GetRequest) -> String {
    match api.get(request).await {
        Err(status) => refusal(&status),
        Ok(answer) => {
            let mut text = String::new();
            for node in &answer.nodes {
                text += &format!("{} {}", node.path, json(node.value.as_ref()));
                text += &format!(" hash {} restricted {}", !node.hash.is_empty(), node.restricted);
                for child in &node.children {
                    text += &format!(" | {} {} hash {}", child.path, child.count, !child.hash.is_empty());
                }
                text += "\n";
            }
            if let Some(container) = &answer.container {
                text += &format!(
                    "{} of {} hash {}\n",
                    container.count,
                    container.path,
                    !container.hash.is_empty()
                );
            }
            let root = answer.read_at.map(|read_at| read_at.root).unwrap_or_default();
            text + &format!("root {}", !root.is_empty())
        }
    }
}

async fn deep(api: &dyn Api, path: &str) -> String {
    lines(api, pb::GetRequest { depth: -1, ..get(path) }).await
}

/// Makes a call with a request that would do if the caller may make it.
async fn make(api: &dyn Api, call: Call) -> Result<(), Status> {
    let (store, proposal) = (String::new(), None);
    match call {
        Call::Commit => api
            .commit(pb::CommitRequest {
                operations: vec![remove("/vlans/7")],
                ..Default::default()
            })
            .await
            .map(drop),
        Call::CommitStream => {
            let commit = Some(pb::CommitRequest {
                operations: vec![remove("/vlans/7")],
                ..Default::default()
            });
            let requests = Box::pin(futures::stream::iter([Ok(pb::CommitStreamRequest {
                correlation: 1,
                commit,
            })]));
            let answers = collect(api.commit_stream(requests).await?).await;
            let decision = answers[0].clone()?.decision.unwrap();
            decision
                .error
                .map_or(Ok(()), |error| Err(confold_wire::status::status(&error)))
        }
        Call::Outcome => api
            .outcome(pb::OutcomeRequest {
                event_id: event_id(1, 9),
                ..Default::default()
            })
            .await
            .map(drop),
        Call::Withdraw => api
            .withdraw(pb::WithdrawRequest {
                event_id: event_id(1, 9),
                store,
                proposal,
            })
            .await
            .map(drop),
        Call::Get => api.get(get("/devices/olt-1")).await.map(drop),
        Call::List => api.list(list("/devices")).await.map(drop),
        Call::ListStream => first(api.list_stream(list("/devices")).await?).await,
        Call::Diff => api.diff(pb::DiffRequest::default()).await.map(drop),
        Call::DiffStream => first(api.diff_stream(pb::DiffRequest::default()).await?).await,
        Call::Log => api.log(pb::LogRequest::default()).await.map(drop),
        Call::Show => api
            .show(pb::ShowRequest {
                which: Some(pb::show_request::Which::Position(1)),
                ..Default::default()
            })
            .await
            .map(drop),
        Call::Tag => api
            .tag(pb::TagRequest {
                name: "t".to_owned(),
                store,
                proposal,
                ..Default::default()
            })
            .await
            .map(drop),
        Call::Untag => api
            .untag(pb::UntagRequest {
                names: vec!["t".to_owned()],
                store,
                proposal,
            })
            .await
            .map(drop),
        Call::ListTags => api.list_tags(pb::ListTagsRequest::default()).await.map(drop),
        Call::PushSchema => {
            let descriptor_set = network().to_vec().into();
            api.push_schema(pb::PushSchemaRequest {
                descriptor_set,
                dry_run: true,
                ..Default::default()
            })
            .await
            .map(drop)
        }
        Call::GetSchema => api.get_schema(pb::GetSchemaRequest::default()).await.map(drop),
        Call::Prune => api
            .prune(pb::PruneRequest {
                floor: "1".to_owned(),
                ..Default::default()
            })
            .await
            .map(drop),
        Call::GetRetention => api.get_retention(pb::GetRetentionRequest::default()).await.map(drop),
        Call::SetRetention => {
            let policy = Some(pb::RetentionPolicy {
                keep_all: true,
                ..Default::default()
            });
            api.set_retention(pb::SetRetentionRequest {
                policy,
                ..Default::default()
            })
            .await
            .map(drop)
        }
        Call::GetPolicy => api.get_policy(pb::GetPolicyRequest::default()).await.map(drop),
        Call::SetPolicy => {
            // Of a policy that is not in force any more: this call gets as far as its own refusal, and changes nothing.
            let request = pb::SetPolicyRequest {
                replaces: 1,
                ..Default::default()
            };
            api.set_policy(request).await.map(drop)
        }
        Call::Activate => api
            .activate(pb::ActivateRequest {
                level: 1,
                ..Default::default()
            })
            .await
            .map(drop),
        Call::SetClock => api.set_clock(pb::SetClockRequest::default()).await.map(drop),
        Call::Sync => api.sync(pb::SyncRequest::default()).await.map(drop),
        Call::ListStores => api.list_stores(pb::ListStoresRequest::default()).await.map(drop),
        Call::CreateStore => api
            .create_store(pb::CreateStoreRequest {
                name: "x".to_owned(),
                ..Default::default()
            })
            .await
            .map(drop),
        Call::OpenStore => api
            .open_store(pb::OpenStoreRequest { name: "x".to_owned() })
            .await
            .map(drop),
        Call::CloseStore => api
            .close_store(pb::CloseStoreRequest { name: "x".to_owned() })
            .await
            .map(drop),
        Call::Status => {
            let status = api.status(pb::StatusRequest::default()).await?;
            assert_eq!(status.state(), pb::State::Serving);
            // What is for everybody says nothing else.
            let bare = pb::StatusResponse {
                state: status.state,
                ..Default::default()
            };
            if status == bare {
                Err(Status::permission_denied("state alone"))
            } else {
                Ok(())
            }
        }
        Call::ExportLog => first(api.export_log(pb::ExportLogRequest::default()).await?).await,
        Call::Snapshot => first(api.snapshot(pb::SnapshotRequest::default()).await?).await,
    }
}

async fn first<T>(stream: confold_wire::api::Stream<Result<T, Status>>) -> Result<(), Status> {
    collect(stream).await.into_iter().next().unwrap().map(drop)
}

fn list(path: &str) -> pb::ListRequest {
    pb::ListRequest {
        path: path.to_owned(),
        format: pb::Format::Json.into(),
        ..Default::default()
    }
}

/// Which of the rights, each alone and on the root, is enough for a call: written down apart from the service's own table.
fn allowed(call: Call) -> &'static [Right] {
    use Right::{Admin, Read, Tag, Write};
    match call.name() {
        "Get" | "List" | "ListStream" | "Diff" | "DiffStream" | "Log" | "Show" => &[Read],
        "Commit" | "CommitStream" => &[Write],
        "Tag" | "Untag" => &[Tag],
        "Withdraw" => &[Write, Tag, Admin],
        "PushSchema" | "Prune" | "SetRetention" | "SetPolicy" | "Activate" | "SetClock" | "ExportLog" | "Snapshot" => {
            &[Admin]
        }
        // What they show depends on who asks.
        "Outcome" | "ListTags" | "GetSchema" | "GetRetention" | "GetPolicy" | "Sync" | "ListStores" | "Status" => {
            &[Read, Write, Tag, Admin]
        }
        // No right on a store is one on the server.
        "CreateStore" | "OpenStore" | "CloseStore" => &[],
        unknown => panic!("nobody has thought about who may call {unknown}"),
    }
}

// Q6, Q9: CVE-2026-33413 was calls of administration that nobody had thought of.
#[tokio::test]
async fn every_call_of_the_service_needs_what_the_table_says_and_none_is_missing_there() {
    let types = confold_wire::json::types().unwrap();
    let service = types
        .pool()
        .services()
        .find(|service| service.full_name() == "confold.v1.Store")
        .unwrap();
    let mut methods: Vec<String> = service.methods().map(|method| method.name().to_owned()).collect();
    let mut named: Vec<&str> = Call::ALL.iter().map(|call| call.name()).collect();
    methods.sort();
    named.sort_unstable();
    assert_eq!(
        methods, named,
        "each method of the service has an entry in the table of rights"
    );

    let world = World::sample().await;
    let rules = vec![
        rule("reader", "/", &[Right::Read]),
        rule("writer", "/", &[Right::Write]),
        rule("tagger", "/", &[Right::Tag]),
    ];
    set(&world.service, rules, Vec::new()).await.unwrap();
    let callers = [
        ("reader", Right::Read),
        ("writer", Right::Write),
        ("tagger", Right::Tag),
        ("root", Right::Admin),
    ];
    for call in Call::ALL {
        for api in [
            outside(&world.service, None, None),
            outside(&world.service, None, Some("nobody-knows-me")),
        ] {
            let refused = make(&*api, *call).await.expect_err(call.name());
            let expected = [tonic::Code::Unauthenticated, tonic::Code::PermissionDenied];
            assert!(expected.contains(&refused.code()), "{}: {refused}", call.name());
        }
        for (name, right) in callers {
            let may = allowed(*call).contains(&right);
            let api = outside(&world.service, None, Some(name));
            let answer = make(&*api, *call).await;
            let denied = answer.as_ref().is_err_and(|status| code(status) == "PERMISSION");
            assert_eq!(!denied, may, "{name} {}: {answer:?}", call.name());
        }
    }
}

// Q7, Q10: CVE-2026-73499 was a range that was checked before it was normalised, so that an open end read everything.
#[tokio::test]
async fn a_reader_of_one_key_sees_that_key_whatever_range_pattern_or_depth_it_asks_for() {
    let world = house().await;
    world
        .service
        .acting_as("bob")
        .commit(pb::CommitRequest {
            operations: vec![update("/devices/olt-1", r#"{"id":"olt-1","address":"192.0.2.99"}"#)],
            ..Default::default()
        })
        .await
        .unwrap();
    let pia = outside(&world.service, None, Some("pia"));
    let mut seen = String::new();
    for path in [
        "/",
        "",
        "///",
        "/devices",
        "/devices/",
        "/devices/olt-1",
        "/devices/olt-1/ports",
        "/devices/olt-1/ports/2",
        "/vlans",
        "/vlans/100",
    ] {
        for depth in [0, 1, -1] {
            seen += &format!("{:?}\n", pia.get(pb::GetRequest { depth, ..get(path) }).await);
        }
        use pb::list_request::Start;
        let starts = ["", "\0", "0", "z"]
            .into_iter()
            .flat_map(|key| [Start::AfterKey(key.to_owned()), Start::FromKey(key.to_owned())]);
        for start in starts
            .map(Some)
            .chain([None, Some(Start::FromIndex(0)), Some(Start::FromIndex(u64::MAX))])
        {
            for reverse in [false, true] {
                let request = pb::ListRequest {
                    start: start.clone(),
                    reverse,
                    depth: -1,
                    page_size: u32::MAX,
                    ..list(path)
                };
                seen += &format!("{:?}\n", pia.list(request.clone()).await);
                if let Ok(stream) = pia.list_stream(request).await {
                    seen += &format!("{:?}\n", collect(stream).await);
                }
            }
        }
    }
    for path in [
        "",
        "/",
        "/**",
        "/*",
        "/*/*",
        "/**/ports/*",
        "/devices/**",
        "/devices/*/ports/2",
        "/vlans/*",
        "/**/*",
        "/devices/olt-1/**",
    ] {
        let request = pb::DiffRequest {
            from: Some(read("0")),
            path: path.to_owned(),
            values: true,
            format: pb::Format::Json.into(),
            ..Default::default()
        };
        seen += &format!("{:?}\n", pia.diff(request.clone()).await);
        if let Ok(stream) = pia.diff_stream(request).await {
            seen += &format!("{:?}\n", collect(stream).await);
        }
        for all in [false, true] {
            seen += &format!(
                "{:?}\n",
                pia.log(pb::LogRequest {
                    path: path.to_owned(),
                    all,
                    ..Default::default()
                })
                .await
            );
        }
    }
    for position in 0..world.position() + 2 {
        let which = Some(pb::show_request::Which::Position(position));
        seen += &format!(
            "{:?}\n",
            pia.show(pb::ShowRequest {
                which,
                format: pb::Format::Json.into(),
                ..Default::default()
            })
            .await
        );
    }
    assert!(
        seen.contains(r#"{\"number\":2,\"vlans\":[100]}"#) || seen.contains(r#"\"number\": 2"#),
        "its own key is there: {seen}"
    );
    for hidden in [
        "ALPHA",
        "berlin",
        "192.0.2",
        "uplink",
        "customers",
        "management",
        "core",
        "number\\\":3",
        "number\\\": 3",
    ] {
        assert!(!seen.contains(hidden), "{hidden} is seen in {seen}");
    }
    // Nor by a hash: of nothing that has something hidden in it is one shown.
    let all = outside(&world.service, None, Some("all"));
    for path in ["/", "/devices/olt-1", "/devices/sw%2Fcore", "/vlans/100"] {
        let node = &all.get(get(path)).await.unwrap().nodes[0];
        for hash in [&node.hash, &node.data_hash] {
            assert!(!seen.contains(&hash[..16]), "a hash of {path} is seen");
        }
    }
    for revision in 1..=world.revision() {
        let root = all
            .get(pb::GetRequest {
                read: Some(read(&revision.to_string())),
                ..get("/")
            })
            .await
            .unwrap()
            .read_at
            .unwrap()
            .root;
        assert!(!seen.contains(&root[..16]), "the root of revision {revision} is seen");
        assert_eq!(
            code(
                &pia.get(pb::GetRequest {
                    read: Some(read(&format!("root:{}", &root[..8]))),
                    ..get("/")
                })
                .await
                .unwrap_err()
            ),
            "NOT_FOUND"
        );
    }
}

#[tokio::test]
async fn what_a_caller_sees_of_a_node_a_container_and_what_is_above_them() {
    let world = house().await;
    let pia = outside(&world.service, None, Some("pia"));
    let ann = outside(&world.service, None, Some("ann"));
    let all = outside(&world.service, None, Some("all"));
    let shown = [
        deep(&*pia, "/").await,
        deep(&*pia, "/devices").await,
        deep(&*pia, "/devices/olt-1").await,
        deep(&*pia, "/devices/olt-1/ports").await,
        deep(&*pia, "/devices/olt-1/ports/2").await,
        deep(&*pia, "/devices/olt-1/ports/1").await,
        deep(&*pia, "/vlans").await,
        lines(&*ann, get("/")).await,
        lines(&*ann, get("/devices/olt-1")).await,
        lines(&*all, get("/")).await,
    ];
    expect![[r#"
        / {"devices":[{"id":"olt-1","ports":[{"number":2,"vlans":[100]}]}]} hash false restricted true | /devices 1 hash false
        root false

        /devices/olt-1 {"id":"olt-1","ports":[{"number":2,"vlans":[100]}]} hash false restricted true | /devices/olt-1/ports 1 hash false
        1 of /devices hash false
        root false

        /devices/olt-1 {"id":"olt-1","ports":[{"number":2,"vlans":[100]}]} hash false restricted true | /devices/olt-1/ports 1 hash false
        root false

        /devices/olt-1/ports/2 {"number":2,"vlans":[100]} hash true restricted false
        1 of /devices/olt-1/ports hash false
        root false

        /devices/olt-1/ports/2 {"number":2,"vlans":[100]} hash true restricted false
        root false

        NOT_FOUND at /devices/olt-1/ports/1: no such key: /devices/olt-1/ports/1 at revision 4

        NOT_FOUND at /vlans: no such key: /vlans at revision 4

        / {} hash false restricted true | /devices 1 hash false
        root false

        /devices/olt-1 {"id":"olt-1","address":"192.0.2.10","serial_number":"ALPHA","location":{"site":"berlin"}} hash true restricted false | /devices/olt-1/ports 3 hash true
        root false

        / {} hash true restricted false | /devices 2 hash true | /vlans 2 hash true
        root true"#]].assert_eq(&shown.join("\n\n"));
}

// Q25
#[tokio::test]
async fn a_request_without_a_right_cannot_tell_what_is_hidden_from_what_is_absent() {
    let world = house().await;
    let ann = outside(&world.service, None, Some("ann"));
    let wes = outside(&world.service, None, Some("wes"));
    let ask = async |api: &dyn Api, key: &str, inner: &str, vlan: &str| {
        let device = format!("/devices/{key}");
        let mut text = String::new();
        for path in [
            device.clone(),
            format!("{device}/ports"),
            format!("{device}/ports/{inner}"),
            format!("/vlans/{vlan}"),
        ] {
            for depth in [0, -1] {
                text += &format!("{:?}\n", api.get(pb::GetRequest { depth, ..get(&path) }).await);
                text += &format!(
                    "{:?}\n",
                    api.get(pb::GetRequest {
                        read: Some(read("2")),
                        ..get(&path)
                    })
                    .await
                );
            }
            text += &format!("{:?}\n", api.list(list(&path)).await);
            text += &format!(
                "{:?}\n",
                api.list(pb::ListRequest {
                    start: Some(pb::list_request::Start::FromKey("x".to_owned())),
                    ..list(&path)
                })
                .await
            );
            let request = pb::DiffRequest {
                from: Some(read("0")),
                path: path.clone(),
                values: true,
                ..Default::default()
            };
            text += &format!("{:?}\n", api.diff(request).await);
            text += &format!(
                "{:?}\n",
                api.log(pb::LogRequest {
                    path: path.clone(),
                    all: true,
                    ..Default::default()
                })
                .await
            );
            for operations in [
                vec![remove(&path)],
                vec![update(&path, "{}")],
                vec![put(&path, "{}")],
                vec![add(&path, "{}")],
            ] {
                text += &format!(
                    "{:?}\n",
                    api.commit(pb::CommitRequest {
                        operations,
                        ..Default::default()
                    })
                    .await
                );
            }
            let guards = vec![pb::TextGuard {
                path: path.clone(),
                expect: Some(pb::text_guard::Expect::Absent(pb::Absent {})),
            }];
            text += &format!(
                "{:?}\n",
                api.commit(pb::CommitRequest {
                    guards,
                    ..Default::default()
                })
                .await
            );
            let guards = vec![pb::TextGuard {
                path,
                expect: Some(pb::text_guard::Expect::SameAs("1".to_owned())),
            }];
            text += &format!(
                "{:?}\n",
                api.commit(pb::CommitRequest {
                    guards,
                    ..Default::default()
                })
                .await
            );
        }
        text.replace(key, "KEY")
            .replace(&format!("ports/{inner}"), "ports/INNER")
            .replace(&format!("vlans/{vlan}"), "vlans/VLAN")
            .replace(&format!(r#""{vlan}""#), r#""VLAN""#)
    };
    let before = world.position();
    // Statuses carry their details as bytes, in which lengths show: so the keys compared are of one length.
    let hidden = ask(&*ann, "sw%2Fcore", "1", "100").await;
    let absent = ask(&*ann, "sw%2Fc0re", "9", "999").await;
    let strip = |text: &str| {
        text.split("details: b")
            .map(|part| part.split_once("\", metadata").map_or(part, |(_, rest)| rest))
            .collect::<String>()
    };
    similar(&strip(&hidden), &strip(&absent));
    // Who may write and not read is told by writing; by reading, nothing.
    let refused = |answer: Result<pb::GetResponse, Status>| refusal(&answer.unwrap_err());
    assert_eq!(
        refused(wes.get(get("/vlans/100")).await),
        refused(wes.get(get("/vlans/999")).await)
    );
    assert_eq!(world.position(), before, "nothing of it got to the log");
}

fn similar(one: &str, other: &str) {
    for (one, other) in one.lines().zip(other.lines()) {
        assert_eq!(one, other);
    }
    assert_eq!(one.lines().count(), other.lines().count());
}

// Q8: CVE-2026-33343 was a transaction inside a transaction, which nobody checked.
#[tokio::test]
async fn one_operation_guard_or_base_without_a_right_refuses_the_whole_commit() {
    let world = house().await;
    let bob = outside(&world.service, None, Some("bob"));
    let ann = outside(&world.service, None, Some("ann"));
    let wes = outside(&world.service, None, Some("wes"));
    let mine = || masked("/devices/olt-1", r#"{"address": "192.0.2.77"}"#, &["address"]);
    let theirs = || masked("/devices/sw%2Fcore", r#"{"address": "192.0.2.77"}"#, &["address"]);
    let guard = |path: &str| {
        vec![pb::TextGuard {
            path: path.to_owned(),
            expect: Some(pb::text_guard::Expect::SameAs("latest".to_owned())),
        }]
    };
    let based = |operation: pb::TextOperation, was| pb::TextOperation {
        base: Some(pb::TextBase { was: Some(was) }),
        ..operation
    };
    let as_of = || pb::text_base::Was::AsOf("latest".to_owned());
    let absent = || pb::text_base::Was::Absent(pb::Absent {});
    let vlan = || put("/vlans/300", r#"{"number": 300}"#);
    let rows: Vec<(&str, &dyn Api, Vec<pb::TextGuard>, Vec<pb::TextOperation>)> = vec![
        ("a second operation", &*bob, vec![], vec![mine(), theirs()]),
        ("a first operation", &*bob, vec![], vec![theirs(), mine()]),
        (
            "the container",
            &*bob,
            vec![],
            vec![mine(), replace("/devices", r#"{"devices": []}"#)],
        ),
        (
            "a container of another's",
            &*bob,
            vec![],
            vec![mine(), replace("/vlans", r#"{"vlans": []}"#)],
        ),
        ("everything", &*bob, vec![], vec![put("/", "{}")]),
        (
            "an element beside it",
            &*bob,
            vec![],
            vec![add("/devices", r#"{"id": "olt-2"}"#)],
        ),
        ("a guard", &*bob, guard("/devices/sw%2Fcore"), vec![mine()]),
        ("a guard on a container", &*bob, guard("/devices"), vec![mine()]),
        ("a guard on the root", &*bob, guard("/"), vec![mine()]),
        ("a guard alone", &*wes, guard("/devices/sw%2Fcore"), vec![]),
        ("a guard where one may write", &*wes, guard("/vlans/100"), vec![vlan()]),
        (
            "a base where one may write",
            &*wes,
            vec![],
            vec![based(remove("/vlans/100"), as_of())],
        ),
        (
            "an absent base where one may write",
            &*wes,
            vec![],
            vec![based(vlan(), absent())],
        ),
        ("reading alone", &*ann, vec![], vec![mine()]),
    ];
    let (position, revision) = (world.position(), world.revision());
    for (what, api, guards, operations) in rows {
        let commit = pb::CommitRequest {
            guards,
            operations,
            ..Default::default()
        };
        let answer = api.commit(commit.clone()).await;
        assert_eq!(
            answer.as_ref().map_err(code).unwrap_err(),
            "PERMISSION",
            "{what}: {answer:?}"
        );
        let requests = Box::pin(futures::stream::iter([Ok(pb::CommitStreamRequest {
            correlation: 1,
            commit: Some(commit),
        })]));
        let answers = collect(api.commit_stream(requests).await.unwrap()).await;
        let decision = answers[0].clone().unwrap().decision.unwrap();
        assert_eq!(decision.error.unwrap().code, "PERMISSION", "{what}, on a stream");
    }
    assert_eq!(
        (world.position(), world.revision()),
        (position, revision),
        "nothing of it got to the log"
    );
    // With the rights it is only the rest that decides.
    bob.commit(pb::CommitRequest {
        guards: guard("/devices/olt-1"),
        operations: vec![based(mine(), as_of())],
        ..Default::default()
    })
    .await
    .unwrap();
    wes.commit(pb::CommitRequest {
        operations: vec![vlan()],
        ..Default::default()
    })
    .await
    .unwrap();
}

// Q8, in the fold: what another server lets through is refused at its position, whole.
#[tokio::test]
async fn the_fold_refuses_what_a_server_without_this_check_puts_on_the_log() {
    use confold_model::event::{Body, Commit, Operation, OperationKind};
    let world = house().await;
    let schema = world.handle.view().schema.clone().unwrap();
    let remove = |path: &str| Operation {
        path: schema.parse_path(path).unwrap(),
        strict: false,
        base: None,
        kind: OperationKind::Remove,
    };
    let operations = vec![remove("/devices/olt-1"), remove("/vlans/100")];
    let proposal = confold_replica::Proposal {
        body: Body::Commit(Commit {
            guards: Vec::new(),
            operations,
        }),
        id: None,
        intent: Default::default(),
        author: String::new(),
        principal: "bob".to_owned(),
        client_time_ms: 0,
        reason: String::new(),
    };
    let settled = world.handle.propose(proposal, SOON).await.unwrap();
    let confold_model::fold::Outcome::Rejected(rejection) = settled.outcome else {
        panic!("{:?}", settled.outcome)
    };
    assert_eq!(rejection.code.name(), "PERMISSION");
    assert!(world.get("/devices/olt-1", 0, "").await.is_ok(), "all or nothing");
}

// Q10
#[tokio::test]
async fn an_old_revision_is_read_by_the_rights_of_today() {
    let world = house().await;
    let ann = outside(&world.service, None, Some("ann"));
    let at = |path: &str, revision: &str| pb::GetRequest {
        read: Some(read(revision)),
        ..get(path)
    };
    assert!(ann.get(at("/devices/olt-1", "1")).await.is_ok());
    let rules = vec![rule("ann", "/vlans/100", &[Right::Read])];
    set(&world.service, rules, Vec::new()).await.unwrap();
    for revision in ["1", "2", "4", "latest", "latest~2", "pos:3"] {
        assert_eq!(
            code(&ann.get(at("/devices/olt-1", revision)).await.unwrap_err()),
            "NOT_FOUND",
            "{revision}"
        );
    }
    // And a right that came later shows what was before it.
    assert!(ann.get(at("/vlans/100", "3")).await.is_ok());
    let diff = pb::DiffRequest {
        from: Some(read("0")),
        to: Some(read("4")),
        values: true,
        format: pb::Format::Json.into(),
        ..Default::default()
    };
    let changes = ann.diff(diff).await.unwrap().changes;
    assert_eq!(
        changes.iter().map(|change| change.path.as_str()).collect::<Vec<_>>(),
        ["/vlans/100"]
    );
    let rows = ann.log(pb::LogRequest::default()).await.unwrap().rows;
    let revisions: Vec<_> = rows
        .iter()
        .map(|row| (row.revision.unwrap(), row.summary.clone(), row.root.clone()))
        .collect();
    assert_eq!(revisions, [(3, vec!["put /vlans/100".to_owned()], String::new())]);
    for (position, seen) in [(2, false), (4, true)] {
        let which = Some(pb::show_request::Which::Position(position));
        assert_eq!(
            ann.show(pb::ShowRequest {
                which,
                ..Default::default()
            })
            .await
            .is_ok(),
            seen,
            "{position}"
        );
    }
}

#[tokio::test]
async fn a_list_is_of_what_may_be_seen_and_pages_and_counts_nothing_else() {
    let world = World::sample().await;
    let rules = vec![
        rule("ann", "/vlans/200", &[Right::Read]),
        rule("ann", "/vlans/150", &[Right::Read]),
        rule("ann", "/vlans/100", &[Right::Read]),
    ];
    set(&world.service, rules, Vec::new()).await.unwrap();
    let ann = outside(&world.service, None, Some("ann"));
    let (mut start, mut found) = (None, Vec::new());
    loop {
        let page = ann
            .list(pb::ListRequest {
                start,
                page_size: 1,
                ..list("/vlans")
            })
            .await
            .unwrap();
        let container = page.container.unwrap();
        assert_eq!(
            (container.count, container.hash.as_str(), container.restricted),
            (2, "", true)
        );
        found.extend(page.nodes.iter().map(|node| (node.key.clone(), node.index)));
        if !page.more {
            break;
        }
        start = Some(pb::list_request::Start::AfterKey(page.next_after_key));
    }
    assert_eq!(found, [("100".to_owned(), Some(0)), ("200".to_owned(), Some(1))]);
    let back = ann
        .list(pb::ListRequest {
            reverse: true,
            ..list("/vlans")
        })
        .await
        .unwrap();
    assert_eq!(
        back.nodes.iter().map(|node| node.key.as_str()).collect::<Vec<_>>(),
        ["200", "100"]
    );
}

// Q5, Q10
#[tokio::test]
async fn a_token_counts_until_it_is_revoked_also_between_the_pages_of_a_stream_and_on_a_stream_of_commits() {
    let world = house().await;
    let rules = || vec![rule("app", "/vlans", &[Right::Read, Right::Write])];
    let ((good, good_row), (late, late_row)) = (token(1, "app", 0), token(2, "app", 1));
    set(&world.service, rules(), vec![good_row.clone(), late_row])
        .await
        .unwrap();
    let api = outside(&world.service, Some(&good.reveal()), Some("root"));
    // The token says who calls, not the certificate of the connection.
    let put_vlan = |number: u32| pb::CommitRequest {
        operations: vec![put(&format!("/vlans/{number}"), &format!(r#"{{"number": {number}}}"#))],
        ..Default::default()
    };
    let decision = api.commit(put_vlan(300)).await.unwrap();
    let record = world
        .handle
        .record_at(confold_model::ids::Position(decision.position.unwrap()))
        .unwrap()
        .unwrap();
    assert_eq!(
        confold_model::event::Event::decode(&record.bytes).unwrap().principal,
        "app"
    );
    let unknown = AccessToken::new([9; 8], [9; 32]);
    let forged = AccessToken::new(*good.id(), [9; 32]);
    for (what, text) in [
        ("expired", late.reveal()),
        ("unknown", unknown.reveal()),
        ("forged", forged.reveal()),
        ("no token", "x".to_owned()),
    ] {
        let refused = outside(&world.service, Some(&text), Some("root"))
            .get(get("/vlans/300"))
            .await
            .unwrap_err();
        assert_eq!(
            (code(&refused).as_str(), refused.code()),
            ("UNAUTHENTICATED", tonic::Code::Unauthenticated),
            "{what}"
        );
        assert_eq!(status_detail(&refused), "the token is not known here", "{what}");
        let refused = outside(&world.service, Some(&text), None)
            .status(pb::StatusRequest::default())
            .await
            .unwrap_err();
        assert_eq!(code(&refused), "UNAUTHENTICATED", "{what}");
    }

    let (commits, requests) = tokio::sync::mpsc::channel(8);
    let requests = Box::pin(tokio_stream::wrappers::ReceiverStream::new(requests));
    let mut answers = api.commit_stream(requests).await.unwrap();
    let send = async |number: u32| {
        commits
            .send(Ok(pb::CommitStreamRequest {
                correlation: number.into(),
                commit: Some(put_vlan(number)),
            }))
            .await
            .unwrap()
    };
    send(301).await;
    assert_eq!(next(&mut answers).await.decision.unwrap().error, None);
    let mut pages = api
        .list_stream(pb::ListRequest {
            page_size: 1,
            ..list("/vlans")
        })
        .await
        .unwrap();
    assert!(tokio_stream::StreamExt::next(&mut pages).await.unwrap().is_ok());

    // Revoked: what is under way ends at its next piece.
    set(&world.service, rules(), vec![]).await.unwrap();
    send(302).await;
    assert_eq!(
        next(&mut answers).await.decision.unwrap().error.unwrap().code,
        "UNAUTHENTICATED"
    );
    assert_eq!(
        code(&tokio_stream::StreamExt::next(&mut pages).await.unwrap().unwrap_err()),
        "UNAUTHENTICATED"
    );
    assert_eq!(code(&api.get(get("/vlans/300")).await.unwrap_err()), "UNAUTHENTICATED");
    assert_eq!(
        world.json("/vlans/302", 0, "").await,
        "NOT_FOUND at /vlans/302: no such key: /vlans/302 at revision 6"
    );
    let refused = outside(&world.service, None, Some("app"));
    assert!(
        refused.get(get("/vlans/300")).await.is_ok(),
        "the principal is still one"
    );
}

async fn next(
    answers: &mut confold_wire::api::Stream<Result<pb::CommitStreamResponse, Status>>,
) -> pb::CommitStreamResponse {
    tokio::time::timeout(SOON, tokio_stream::StreamExt::next(answers))
        .await
        .expect("in time")
        .unwrap()
        .unwrap()
}

fn status_detail(status: &Status) -> String {
    confold_wire::status::detail(status).unwrap().detail
}

// Q5
#[tokio::test]
async fn a_secret_is_in_no_record_row_answer_or_refusal() {
    let world = house().await;
    let (token, row) = token(0xa7, "app", 0);
    let (secret, text) = (hex::encode(token.secret()), token.reveal());
    let hash = hex::encode(token.hash());
    set(&world.service, vec![rule("app", "/", &[Right::Read])], vec![row])
        .await
        .unwrap();
    let mut seen = format!("{:?}", caller(Some(&text), None));
    for call in Call::ALL {
        for api in [
            outside(&world.service, Some(&text), None),
            outside(&world.service, Some(&format!("{text}0")), None),
            outside(&world.service, None, Some("root")),
        ] {
            seen += &format!("{:?}\n", make(&*api, *call).await);
        }
    }
    let root = outside(&world.service, None, Some("root"));
    let policy = root.get_policy(pb::GetPolicyRequest::default()).await.unwrap();
    assert_eq!(policy.tokens.len(), 1);
    seen += &format!("{policy:?}\n{:?}\n", root.status(pb::StatusRequest::default()).await);
    for position in 0..=world.position() {
        let which = Some(pb::show_request::Which::Position(position));
        let all = world.service.show(pb::ShowRequest {
            which,
            format: pb::Format::Json.into(),
            ..Default::default()
        });
        seen += &format!("{:?}\n", all.await);
    }
    assert!(!seen.contains(&hash), "an answer shows what the log knows of the token");
    for record in world
        .handle
        .log()
        .reader(confold_model::ids::Position(0))
        .unwrap()
        .read(1_000, 1 << 30, SOON)
        .unwrap()
    {
        seen += &hex::encode(&record.bytes);
        assert!(
            !record.bytes.windows(32).any(|bytes| bytes == token.secret()),
            "position {}",
            record.position
        );
    }
    for shown in [&secret, &secret[..16], &text, &hex::encode(&text)] {
        assert!(!seen.contains(shown), "{shown}");
    }
    assert!(seen.contains(&hash), "the log knows the token by its hash");
}

// Q11
#[tokio::test]
async fn three_replicas_give_one_verdict_on_a_write_that_races_with_its_revocation() {
    let world = house().await;
    let mut replicas = vec![world.handle.clone()];
    for _ in 0..2 {
        replicas.push(open(&world.log, &Arc::new(confold_store::memory::MemoryStore::new())).await);
    }
    let services: Vec<Service> = replicas
        .iter()
        .map(|handle| Service::new(vec![handle.clone()]))
        .collect();
    let mut seen = [0, 0];
    for round in 0..24_u32 {
        let allowed = vec![rule("bob", "/vlans", &[Right::Write])];
        services[1].sync(pb::SyncRequest::default()).await.unwrap();
        set(&services[1], allowed, Vec::new()).await.unwrap();
        let token = services[1]
            .sync(pb::SyncRequest::default())
            .await
            .unwrap()
            .read_at
            .unwrap()
            .token;
        for service in &services {
            let read = pb::Read {
                consistency: pb::Consistency::AtLeast.into(),
                token: token.clone(),
                ..Default::default()
            };
            service
                .get(pb::GetRequest {
                    read: Some(read),
                    ..get("/")
                })
                .await
                .unwrap();
        }
        let write = |number: u32| {
            let bob = services[number as usize % 3].acting_as("bob");
            let operations = vec![put(
                &format!("/vlans/{}", 1_000 + round * 8 + number),
                &format!(r#"{{"number": {}}}"#, 1_000 + round * 8 + number),
            )];
            async move {
                bob.commit(pb::CommitRequest {
                    operations,
                    ..Default::default()
                })
                .await
            }
        };
        type Racer<'a> = std::pin::Pin<Box<dyn Future<Output = Result<pb::Decision, Status>> + 'a>>;
        let mut racers: Vec<Racer<'_>> = (0..6).map(|number| Box::pin(write(number)) as Racer<'_>).collect();
        racers.insert(round as usize % 7, Box::pin(set(&services[2], Vec::new(), Vec::new())));
        for answer in futures::future::join_all(racers).await {
            match answer {
                Ok(decision) if decision.revision.is_some() => seen[0] += 1,
                Ok(_) => {}
                Err(status) => {
                    assert_eq!(code(&status), "PERMISSION");
                    seen[1] += 1;
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
    let end = services[0]
        .sync(pb::SyncRequest::default())
        .await
        .unwrap()
        .read_at
        .unwrap();
    let mut verdicts = Vec::new();
    for (service, handle) in services.iter().zip(&replicas) {
        let view = handle
            .at_least(confold_model::ids::Position(end.position), SOON)
            .await
            .unwrap();
        let at = (view.position, view.chain, view.root, view.digest);
        let rows = service
            .log(pb::LogRequest {
                all: true,
                limit: 1_000,
                oldest_first: true,
                ..Default::default()
            })
            .await
            .unwrap()
            .rows;
        let rows: Vec<_> = rows
            .into_iter()
            .map(|row| (row.position, row.outcome, row.code))
            .collect();
        verdicts.push((at, rows));
    }
    assert!(
        verdicts.windows(2).all(|pair| pair[0] == pair[1]),
        "the replicas agree, position by position"
    );
}

#[tokio::test]
async fn stores_on_which_a_caller_has_no_right_are_as_stores_that_are_not_there() {
    let (one, two) = (World::sample().await, World::called("lab").await);
    let service = Service::new(vec![one.handle.clone(), two.handle.clone()]);
    set(&one.service, vec![rule("ann", "/", &[Right::Read])], Vec::new())
        .await
        .unwrap();
    set(&two.service, vec![rule("bob", "/", &[Right::Read])], Vec::new())
        .await
        .unwrap();
    let ann = outside(&service, None, Some("ann"));
    let names = |stores: pb::ListStoresResponse| stores.stores.into_iter().map(|row| row.name).collect::<Vec<_>>();
    assert_eq!(
        names(ann.list_stores(pb::ListStoresRequest {}).await.unwrap()),
        ["network"]
    );
    let at = |store: &str| pb::GetRequest {
        store: store.to_owned(),
        ..get("/")
    };
    let (hidden, absent) = (
        ann.get(at("lab")).await.unwrap_err(),
        ann.get(at("xyz")).await.unwrap_err(),
    );
    assert_eq!(refusal(&hidden).replace("lab", "xyz"), refusal(&absent));
    assert!(ann.get(at("")).await.is_ok(), "the one that there is for ann");
    let zoe = outside(&service, None, Some("zoe"));
    let (hidden, absent) = (
        zoe.get(at("lab")).await.unwrap_err(),
        zoe.get(at("xyz")).await.unwrap_err(),
    );
    assert_eq!(
        (code(&hidden).as_str(), refusal(&hidden)),
        ("PERMISSION", refusal(&absent))
    );
    let nobody = outside(&service, None, None);
    assert_eq!(
        code(&nobody.list_stores(pb::ListStoresRequest {}).await.unwrap_err()),
        "UNAUTHENTICATED"
    );
    for (who, may) in [(None, false), (Some("ann"), false), (Some("root"), true)] {
        assert_eq!(service.may_inspect(&caller(None, who)).is_ok(), may, "{who:?}");
    }
}

#[tokio::test]
async fn a_store_without_rules_is_open_and_the_first_policy_closes_it() {
    let world = World::sample().await;
    let nobody = outside(&world.service, None, None);
    assert!(nobody.get(get("/vlans/100")).await.is_ok());
    assert!(
        nobody
            .commit(pb::CommitRequest {
                operations: vec![remove("/vlans/100")],
                ..Default::default()
            })
            .await
            .is_ok()
    );
    assert!(world.service.may_inspect(&caller(None, None)).is_ok());
    // One that leaves nobody who could change it again is refused, as is one made from another than the one in force.
    let lonely = pb::SetPolicyRequest {
        rules: vec![rule("ann", "/", &[Right::Read])],
        ..Default::default()
    };
    assert_eq!(code(&nobody.set_policy(lonely).await.unwrap_err()), "MALFORMED");
    let request = |replaces| pb::SetPolicyRequest {
        rules: vec![rule("root", "/", &[Right::Admin])],
        replaces,
        ..Default::default()
    };
    assert_eq!(code(&nobody.set_policy(request(3)).await.unwrap_err()), "CONFLICT");
    nobody.set_policy(request(0)).await.unwrap();
    assert_eq!(
        code(&nobody.get(get("/vlans/200")).await.unwrap_err()),
        "UNAUTHENTICATED"
    );
    assert!(world.service.may_inspect(&caller(None, None)).is_err());
    // Code of this process reads as it could read the files; what it proposes without a name the fold would refuse.
    assert!(world.service.get(get("/vlans/200")).await.is_ok());
    let refused = world.commit(remove("/vlans/200")).await.unwrap_err();
    assert_eq!(code(&refused), "PERMISSION");
    assert!(
        confold_wire::status::detail(&refused)
            .unwrap()
            .hint
            .contains("--as NAME")
    );
    let root = world.service.acting_as("root");
    assert_eq!(
        code(&root.set_policy(request(0)).await.unwrap_err()),
        "CONFLICT",
        "it has changed since"
    );
}

#[tokio::test]
async fn whoever_does_not_administer_sees_of_the_policy_what_concerns_them() {
    let world = house().await;
    let ((_, ann_row), (_, bob_row)) = (token(1, "ann", 5_000_000_000_000), token(2, "bob", 0));
    let rules = vec![
        rule("ann", "/devices", &[Right::Read]),
        rule("bob", "/vlans/100", &[Right::Read]),
        rule("*", "/vlans", &[Right::Read]),
    ];
    set(&world.service, rules, vec![ann_row, bob_row]).await.unwrap();
    let of = async |name: &str| {
        let policy = outside(&world.service, None, Some(name))
            .get_policy(pb::GetPolicyRequest::default())
            .await
            .unwrap();
        let rules: Vec<String> = policy
            .rules
            .iter()
            .map(|rule| format!("{} {}", rule.principal, rule.path))
            .collect();
        let tokens: Vec<&str> = policy.tokens.iter().map(|token| token.principal.as_str()).collect();
        format!("{} {rules:?} {tokens:?} {}", policy.principal, policy.restricted)
    };
    assert_eq!(of("ann").await, r#"ann ["ann /devices", "* /vlans"] ["ann"] true"#);
    assert_eq!(
        of("root").await,
        r#"root ["root /", "ann /devices", "bob /vlans/100", "* /vlans"] ["ann", "bob"] false"#
    );
    // Setting what was got keeps the tokens, whose hashes nobody is shown.
    let root = outside(&world.service, None, Some("root"));
    let policy = root.get_policy(pb::GetPolicyRequest::default()).await.unwrap();
    let request = pb::SetPolicyRequest {
        rules: policy.rules,
        tokens: policy.tokens,
        replaces: policy.position,
        ..Default::default()
    };
    assert_eq!(decided(&root.set_policy(request).await), "unchanged p8");
    let stranger = pb::PolicyToken {
        id: "00".repeat(8),
        principal: "x".to_owned(),
        ..Default::default()
    };
    let request = pb::SetPolicyRequest {
        tokens: vec![stranger],
        replaces: policy.position,
        ..Default::default()
    };
    assert_eq!(code(&root.set_policy(request).await.unwrap_err()), "NOT_FOUND");
}

#[tokio::test]
async fn a_rule_makes_the_operations_of_a_principal_strict() {
    let world = World::sample().await;
    let strict = pb::PolicyRule {
        strict: true,
        ..rule("nb", "/devices", &[Right::Read, Right::Write])
    };
    set(
        &world.service,
        vec![strict, rule("sb", "/devices", &[Right::Read, Right::Write])],
        Vec::new(),
    )
    .await
    .unwrap();
    let change = || pb::CommitRequest {
        operations: vec![masked(
            "/devices/olt-1",
            r#"{"serial_number": "BETA"}"#,
            &["serial_number"],
        )],
        ..Default::default()
    };
    assert_eq!(
        code(&world.service.acting_as("nb").commit(change()).await.unwrap_err()),
        "READ_ONLY_FIELD"
    );
    assert!(world.service.acting_as("sb").commit(change()).await.is_ok());
}
