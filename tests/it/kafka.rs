//! Stores on a topic of a real broker, by the real binary.

use crate::moving::{Shown, folded, plan, run, sample};
use crate::server::{CONFOLD, ServerProcess, confold, confold_with};
use crate::support::{add, open, push_schema};
use confold::Embedded;
use confold::client::Remote;
use confold::config::{Config, Kafka};
use confold::fetch::{FetchError, into_folder};
use confold::folder::{self, OnKafka};
use confold::kafka::Shape;
use confold::moving::{End, Plan};
use confold::replica::{Begin, Options};
use confold::wire::api::Api;
use confold::wire::pb;
use confold_model::ids::Position;
use confold_test_brokers::{Cluster, fresh_name, one};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

const SHAPE: Shape = Shape { replication: Some(1), min_insync: None };

fn kafka(broker: &Cluster, topic: &str) -> Kafka {
    Kafka { brokers: broker.bootstrap(), topic: Some(topic.to_owned()), dev_unsafe: true, ..Kafka::default() }
}

fn on(broker: &Cluster, topic: &str) -> OnKafka {
    OnKafka { kafka: kafka(broker, topic), create_topic: Some(SHAPE), ..OnKafka::default() }
}

fn make_topic(broker: &Cluster, topic: &str) {
    confold::kafka::Topic::of(Path::new("."), &kafka(broker, topic)).unwrap().create(SHAPE).unwrap();
}

/// Words of `init` for a topic that one broker can keep.
fn init<'a>(data: &'a str, brokers: &'a str, topic: &'a str) -> Vec<&'a str> {
    vec!["init", data, "--kafka", brokers, "--topic", topic, "--create-topic", "--replication", "1", "--dev-unsafe"]
}

async fn commit(api: &dyn Api, number: u32) -> pb::Decision {
    let operations = vec![add("/vlans", format!(r#"{{"number": {number}}}"#))];
    api.commit(pb::CommitRequest { operations, ..Default::default() }).await.unwrap()
}

async fn status(api: &dyn Api) -> pb::StatusResponse {
    api.status(pb::StatusRequest::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_at_one_replica_is_read_at_another_with_the_token_at_once() {
    let broker = one();
    let topic = fresh_name("replicas");
    let dir = tempfile::tempdir().unwrap();
    let folders: Vec<PathBuf> = ["a", "b"].iter().map(|name| dir.path().join(name)).collect();
    for (number, folder) in folders.iter().enumerate() {
        let made = confold(&init(folder.to_str().unwrap(), &broker.bootstrap(), &topic));
        assert_eq!(made.code, 0, "{}", made.all());
        let did = if number == 0 { "made the store main" } else { "joined the store main" };
        assert!(made.err.contains(did), "{}", made.err);
    }
    let servers: Vec<ServerProcess> = folders.iter().map(|folder| ServerProcess::start(folder)).collect();
    let apis: Vec<Remote> = servers.iter().map(|server| Remote::connect(&server.address).unwrap()).collect();
    push_schema(&apis[0], "").await;
    for number in 0..50 {
        let (writer, reader) = (&apis[number as usize % 2], &apis[(number as usize + 1) % 2]);
        let token = commit(writer, number).await.token;
        let request = pb::GetRequest {
            path: format!("/vlans/{number}"),
            read: Some(pb::Read { consistency: pb::Consistency::AtLeast.into(), token, ..Default::default() }),
            ..Default::default()
        };
        reader.get(request).await.unwrap();
    }
    let (one, other) = (status(&apis[0]).await, status(&apis[1]).await);
    assert_eq!((one.log.as_str(), &one.log_id, &one.transport_id), ("kafka", &other.log_id, &other.transport_id));
    assert_ne!(one.replica, other.replica);
    drop(servers);
    // Each data folder goes on where it was, and folder commands work on it as on any other.
    let shown = confold(&["status", "--data", folders[1].to_str().unwrap()]);
    assert_eq!(shown.code, 0, "{}", shown.err);
    assert!(shown.out.contains("kafka"), "{}", shown.out);
    let ls = confold(&["ls", "/vlans", "--data", folders[0].to_str().unwrap()]);
    assert_eq!(ls.out.lines().count(), 50, "{}", ls.all());
}

#[test]
fn two_who_begin_a_store_at_once_come_to_share_one() {
    let broker = one();
    let topic = fresh_name("genesis");
    make_topic(broker, &topic);
    let dir = tempfile::tempdir().unwrap();
    let begin = |number: usize| {
        let data = dir.path().join(format!("r{number}"));
        let on = on(broker, &topic);
        move || {
            let joined = folder::create_on_kafka(&data, &on, &Begin::default()).unwrap();
            (joined.begun.log_id, joined.joined)
        }
    };
    let threads: Vec<_> = (0..4).map(|number| std::thread::spawn(begin(number))).collect();
    let all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(all.iter().all(|(log_id, _)| *log_id == all[0].0), "{all:?}");
    assert_eq!(all.iter().filter(|(_, joined)| !joined).count(), 1, "{all:?}");
}

#[test]
fn a_topic_that_is_not_what_was_asked_for_is_refused_with_what_to_do() {
    let broker = one();
    let brokers = broker.bootstrap();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let topic = fresh_name("wrong");
    let refused = |words: &[&str], code: i32, parts: &[&str]| {
        let ran = confold(words);
        assert_eq!(ran.code, code, "{words:?}: {}", ran.all());
        parts.iter().for_each(|part| assert!(ran.err.contains(part), "{words:?}: {part}: {}", ran.err));
        assert!(!Path::new(data).join("confold.toml").exists(), "nothing is left: {words:?}");
    };
    let base = ["init", data, "--kafka", &brokers, "--topic", &topic];
    let with = |more: &[&'static str]| -> Vec<String> { base.iter().chain(more).map(|word| (*word).to_owned()).collect() };
    let check = |more: &[&'static str], code, parts: &[&str]| {
        let words = with(more);
        refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), code, parts);
    };
    check(&[], 2, &["there is no topic", "--create-topic"]);
    check(&["--create-topic"], 2, &["3 copies", "1 brokers"]);
    check(&["--replication", "1"], 2, &["--create-topic"]);
    check(&["--create-topic", "--replication", "1"], 2, &["replication.factor", "--dev-unsafe"]);
    check(&["--join", "abc"], 2, &["abc"]);
    check(&["--dev-unsafe", "--join", "00112233445566778899aabbccddeeff"], 2, &["holds no store yet"]);
    check(&["--dev-unsafe", "--kafka-set", "acks=0"], 2, &["acks"]);
    check(&["--dev-unsafe", "--kafka-set", "acks"], 2, &["NAME=VALUE"]);
    check(&["--dev-unsafe", "--kafka-set", "sasl.password=x"], 2, &["secret", "sasl.password.file"]);
    check(&["--dev-unsafe", "--kafka-config", "/nowhere/at/all"], 2, &["/nowhere/at/all"]);
    refused(&["init", data, "--topic", "x"], 2, &["--kafka"]);
    refused(&["init", data, "--kafka", "x:1"], 2, &["--topic"]);
    refused(&["init", data, "--kafka", "nonsense", "--topic", "x"], 2, &["nonsense"]);
    // A store of another name, and another store.
    let made = confold(&init(dir.path().join("first").to_str().unwrap(), &brokers, &topic));
    assert_eq!(made.code, 0, "{}", made.err);
    check(&["--dev-unsafe", "--name", "lab"], 2, &["\"main\"", "\"lab\""]);
    check(&["--dev-unsafe", "--join", "00112233445566778899aabbccddeeff"], 2, &["00112233445566778899aabbccddeeff"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_grows_up_from_its_folder_to_kafka_and_back() {
    let broker = one();
    let topic = fresh_name("move");
    let (dir, data, shown) = sample().await;
    let to = format!("kafka://{}/{topic}", broker.bootstrap());
    let words =
        ["log", "copy", data.to_str().unwrap(), &to, "--move", "--create-topic", "--replication", "1", "--dev-unsafe"];
    let moved = confold(&words);
    assert_eq!(moved.code, 0, "{}", moved.all());
    assert!(moved.err.contains("log.moved-1"), "{}", moved.err);
    assert!(data.join("log.moved-1").is_dir() && !data.join("log").exists());
    // Once more would seal what was moved.
    let again = confold(&[&words[..], &["--resume"]].concat());
    assert_eq!(again.code, 2, "{}", again.all());
    assert!(again.err.contains("it was moved, and is not moved again"), "{}", again.err);
    // The same data folder goes on, with all it had, on the topic.
    let store = open(&data).await;
    shown.is_beginning_of(&store);
    let view = store.handle().view();
    assert_eq!(view.incarnations.len(), 2);
    push_more(&*store.api(), 1_000).await;
    let grown = Shown::of(&store);
    store.close().await.unwrap();
    // A second replica folds the topic from its start.
    let second = dir.path().join("second");
    folder::create_on_kafka(&second, &OnKafka { create_topic: None, ..on(broker, &topic) }, &Begin::default()).unwrap();
    let store = open(&second).await;
    grown.is_beginning_of(&store);
    store.close().await.unwrap();
    // And back, onto a disk.
    let back = dir.path().join("back");
    let home = Plan { is_move: true, ..plan(End::Folder(second.clone()), End::Folder(back.clone())) };
    let moved = run(home).await.unwrap();
    assert!(moved.sealed);
    let store = open(&back).await;
    grown.is_beginning_of(&store);
    assert_eq!(store.handle().view().incarnations.len(), 3);
    push_more(&*store.api(), 2_000).await;
    store.close().await.unwrap();
    // The topic is sealed, for every replica.
    let store = open(&data).await;
    store.handle().at_least(moved.opened, Duration::ZERO).await.err();
    let operations = vec![add("/vlans", r#"{"number": 3000}"#)];
    let refused = store.api().commit(pb::CommitRequest { operations, ..Default::default() }).await.unwrap_err();
    assert_eq!(confold::wire::status::detail(&refused).unwrap().code, "SEALED");
    store.close().await.unwrap();
}

async fn push_more(api: &dyn Api, from: u32) {
    for number in from..from + 20 {
        commit(api, number).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_onto_a_topic_that_is_killed_goes_on_and_comes_out_the_same() {
    let broker = one();
    let topic = fresh_name("killed");
    let (_dir, data, shown) = sample().await;
    make_topic(broker, &topic);
    let to = format!("kafka://{}/{topic}", broker.bootstrap());
    let words = ["log", "copy", data.to_str().unwrap(), &to, "--dev-unsafe", "--json"];
    let again = [&words[..], &["--resume"]].concat();
    let mut kills = 0;
    for round in 0..8u64 {
        let words = if round == 0 { &words[..] } else { &again[..] };
        let mut child = Command::new(CONFOLD).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        _ = never.recv_timeout(Duration::from_millis(150 + 100 * round));
        if child.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        kills += 1;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0);
    // Where the first attempt died before it wrote anything, there is nothing to go on with.
    let resumed = confold(&again);
    let done = if resumed.code == 0 { resumed } else { confold(&words) };
    assert_eq!(done.code, 0, "{}", done.all());
    let said: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(said["digest"], shown.digest.to_string());
    let topic = confold::kafka::Topic::of(Path::new("."), &kafka(broker, &topic)).unwrap();
    let log = topic.open(None).unwrap();
    let end = shown.position.next();
    assert_eq!(folded(&log, end), (shown.digest, shown.chain));
    assert_eq!(confold_log::Log::range(&log).end, Position(end.0 + 1), "one `open`");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_on_a_topic_is_made_while_a_server_runs() {
    let broker = one();
    let root = tempfile::tempdir().unwrap();
    let config = Config {
        kafka: Some(Kafka { topic: None, ..kafka(broker, "") }),
        ..Config::default()
    };
    config.write(root.path()).unwrap();
    let server = ServerProcess::run(&["serve", "--stores", root.path().to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let topic = fresh_name("made");
    let words = ["store", "create", "lab", "--topic", &topic, "--create-topic", "--replication", "1", "--server", &server.address];
    let made = confold(&words);
    assert_eq!(made.code, 0, "{}", made.all());
    let api = Remote::connect(&server.address).unwrap();
    push_schema(&api, "").await;
    commit(&api, 1).await;
    assert_eq!(status(&api).await.log, "kafka");
    let twice = confold(&words);
    assert_eq!(twice.code, 1, "{}", twice.all());
}

#[test]
fn secrets_come_from_the_environment_and_show_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let words = ["init", data.to_str().unwrap(), "--kafka", "127.0.0.1:1", "--topic", "x"];
    let failed = confold_with(&words, &[("CONFOLD_KAFKA_SASL_PASSWORD", "hunter2")]);
    assert_eq!(failed.code, 2, "{}", failed.all());
    assert!(failed.err.contains("sasl.password") && !failed.all().contains("hunter2"), "{}", failed.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_replica_begins_from_a_snapshot_of_another_and_serves_on() {
    let broker = one();
    let topic = fresh_name("snapshot");
    let dir = tempfile::tempdir().unwrap();
    let mut replicas = Vec::new();
    for name in ["a", "b"] {
        let data = dir.path().join(name);
        let on = on(broker, &topic);
        let owned = data.clone();
        tokio::task::spawn_blocking(move || folder::create_on_kafka(&owned, &on, &Begin::default())).await.unwrap().unwrap();
        // Marks as soon as there is something to mark.
        let options = Options { mark_every_ms: 0, ..Options::default() };
        replicas.push(Embedded::open(&data, options).await.unwrap());
    }
    let api = replicas[0].api();
    push_schema(&*api, "").await;
    for number in 0..20 {
        commit(&*api, number).await;
    }
    let last = replicas[0].handle().view().position;
    for replica in &replicas {
        let mut views = replica.handle().views();
        let both = views.wait_for(|view| {
            view.checkpoints.len() == 2 && view.checkpoints.iter().all(|row| row.checkpoint.position >= last)
        });
        tokio::time::timeout(SOON, both).await.expect("both announce a mark").unwrap();
    }
    let third = dir.path().join("c");
    let nowhere = into_folder(&*api, "", None, &third).await.unwrap_err();
    assert!(matches!(nowhere, FetchError::NoLog(_)), "{nowhere}");
    let fetched = into_folder(&*api, "", Some(&kafka(broker, &topic)), &third).await.unwrap();
    assert!(fetched.header.position >= last);
    let again = into_folder(&*api, "", None, &third).await.unwrap_err();
    assert!(matches!(again, FetchError::Exists(_)), "{again}");
    // It folds on from the mark, by the log id that it was given, and takes writes.
    let store = open(&third).await;
    let decision = commit(&*store.api(), 100).await;
    replicas[1].handle().at_least(Position(decision.position.unwrap()), SOON).await.unwrap();
    assert_eq!(replicas[1].handle().view().root.to_string(), decision.root);
    store.close().await.unwrap();

    // Doctor, of a folder and of what a server would say.
    let healthy = confold(&["doctor", third.to_str().unwrap(), "--deep"]);
    assert_eq!(healthy.code, 0, "{}", healthy.all());
    for part in ["acknowledgement", "on 1 broker and nowhere else", "all read without a hole", "the one that the store was folded from", "replicas"] {
        assert!(healthy.out.contains(part), "{part}: {}", healthy.out);
    }
    let report = status(&*api).await.log_report.unwrap();
    assert_eq!(report.topic, topic);
    assert!(report.problems.iter().any(|problem| problem.setting == "replication.factor"), "{report:?}");
    for replica in replicas {
        replica.close().await.unwrap();
    }
    // Another topic under the folder: nothing is folded, and doctor names both.
    let other = fresh_name("other");
    let begun = confold(&init(dir.path().join("x").to_str().unwrap(), &broker.bootstrap(), &other));
    assert_eq!(begun.code, 0, "{}", begun.err);
    let mut config = Config::of_folder(&third).unwrap();
    config.kafka.as_mut().unwrap().topic = Some(other);
    config.write(&third).unwrap();
    let sick = confold(&["doctor", third.to_str().unwrap()]);
    assert_eq!(sick.code, 5, "{}", sick.all());
    assert!(sick.out.contains("the store belongs to log"), "{}", sick.out);
    let gone = confold(&["doctor", dir.path().join("nothing").to_str().unwrap()]);
    assert_eq!(gone.code, 5, "{}", gone.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_fenced_while_it_is_served_leaves_the_others_serving() {
    let broker = one();
    let root = tempfile::tempdir().unwrap();
    let config = Config { kafka: Some(Kafka { topic: None, ..kafka(broker, "") }), ..Config::default() };
    config.write(root.path()).unwrap();
    let server = ServerProcess::run(&["serve", "--stores", root.path().to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let api = Remote::connect(&server.address).unwrap();
    let topics = [fresh_name("good"), fresh_name("bad")];
    for (name, topic) in ["good", "bad"].iter().zip(&topics) {
        let create_topic = Some(pb::TopicShape { replication: 1, min_insync: 1 });
        let request = pb::CreateStoreRequest {
            name: (*name).to_owned(),
            topic: topic.clone(),
            create_topic,
            ..Default::default()
        };
        api.create_store(request).await.unwrap();
    }
    let ask = |store: &str| pb::StatusRequest { store: store.to_owned() };
    // Made anew under the store, with a store of its own in it.
    broker.topic_delete(&topics[1]);
    make_topic(broker, &topics[1]);
    let began = Instant::now();
    let fenced = loop {
        let status = api.status(ask("bad")).await.unwrap();
        if status.state() == pb::State::Fenced {
            break status;
        }
        assert!(began.elapsed() < SOON, "{:?}: {}", status.state(), status.reason);
        // What is written meanwhile never comes back.
        let deadline_ms = 500;
        let proposal = Some(pb::Proposal { deadline_ms, ..Default::default() });
        let tag = pb::TagRequest { store: "bad".to_owned(), proposal, name: "x".to_owned(), ..Default::default() };
        assert!(api.tag(tag).await.is_err());
    };
    assert!(fenced.reason.contains("made anew"), "{}", fenced.reason);
    push_schema(&api, "good").await;
    assert_eq!(api.status(ask("good")).await.unwrap().state(), pb::State::Serving);
    let seen = confold(&["doctor", "--server", &server.address]);
    assert_eq!(seen.code, 5, "{}", seen.all());
    assert!(seen.out.contains("bad: state") && seen.out.contains("good: state"), "{}", seen.out);
}
