//! What docs/operations.md says of metrics and backups holds for the real server.

use crate::faults::copy_folder;
use crate::moving::{Shown, sample};
use crate::server::{ServerProcess, confold};
use crate::support::{Fixture, add, open, repository};
use confold::wire::pb;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// Metrics by name, with their kind: what the table of docs/operations.md has.
fn documented() -> BTreeMap<String, String> {
    let text = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let rows = rows.filter(|(name, _)| name.starts_with("confold_") || name.starts_with("process_"));
    let rows: Vec<(String, String)> =
        rows.map(|(name, rest)| (name.to_owned(), rest.split(" | ").next().unwrap().to_owned())).collect();
    let table: BTreeMap<String, String> = rows.iter().cloned().collect();
    assert_eq!(table.len(), rows.len(), "a metric has two rows");
    table
}

/// Some metrics are there only with TLS, or with a log on Kafka.
const ELSEWHERE: [&str; 4] = [
    "confold_topic_problems",
    "confold_server_certificate_valid_until_seconds",
    "confold_server_certificates_renewed_total",
    "confold_server_certificates_refused_total",
];

#[test]
fn the_table_of_metrics_has_what_the_code_describes() {
    let described = confold_server::metrics::METRICS.iter().chain(&confold_replica::METRICS);
    let mut described: BTreeMap<String, String> =
        described.map(|(name, kind, _)| ((*name).to_owned(), (*kind).to_owned())).collect();
    described.insert("confold_topic_problems".to_owned(), "gauge".to_owned());
    assert_eq!(described, documented());
}

/// What a server answers to a GET, with its head.
fn get(address: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The page of a server, as Prometheus gets it.
fn page(server: &ServerProcess) -> String {
    let answer = get(&server.address, "/metrics", &format!("host: {}\r\n", server.address));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

fn kinds(page: &str) -> BTreeMap<String, String> {
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    // The page may come in chunks, and then lines end as those of its head do.
    kinds.map(|(name, kind)| (name.to_owned(), kind.trim().to_owned())).collect()
}

fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// What has to stand on the page of a store that took one addition and rejected the same again.
const EXACTLY: [(&str, f64); 10] = [
    ("confold_revision{store=\"test\"}", 1.0),
    ("confold_kept_revisions{store=\"test\"}", 1.0),
    ("confold_floor{store=\"test\"}", 0.0),
    ("confold_log_healthy{store=\"test\"}", 1.0),
    ("confold_store_ready{store=\"test\"}", 1.0),
    ("confold_proposals_total{store=\"test\"}", 2.0),
    ("confold_state{store=\"test\",state=\"SERVING\"}", 1.0),
    ("confold_state{store=\"test\",state=\"DEGRADED\"}", 0.0),
    ("confold_events_total{store=\"test\",outcome=\"rejected_ALREADY_EXISTS\"}", 1.0),
    ("confold_server_calls_total{method=\"Commit\",transport=\"grpc\",code=\"AlreadyExists\"}", 1.0),
];

/// Beside the two proposals there are marks and checkpoints.
const ABOVE: [(&str, f64); 12] = [
    ("confold_position", 2.0),
    ("confold_log_end_position", 3.0),
    ("confold_log_sync_seconds_count", 1.0),
    ("confold_log_batch_records_sum", 1.0),
    ("confold_batch_records_sum", 1.0),
    ("confold_log_sync_seconds_sum", 0.0),
    ("confold_log_written_bytes_total", 0.0),
    ("confold_event_bytes_total", 0.0),
    ("confold_store_puts_total", 0.0),
    ("confold_store_put_bytes_total", 0.0),
    ("confold_store_written_bytes_total", 0.0),
    ("confold_last_record_time_seconds", 0.0),
];

/// The first thing on the page that is not as it has to be.
fn fault_of(page: &str, table: &BTreeMap<String, String>) -> Option<String> {
    let kinds = kinds(page);
    for (name, kind) in table {
        if kinds.get(name) != Some(kind) {
            return Some(format!("{name} is {:?}, not a {kind}", kinds.get(name)));
        }
        if !page.contains(&format!("# HELP {name} ")) {
            return Some(format!("{name} is not described"));
        }
    }
    if let Some(name) = kinds.keys().find(|name| !table.contains_key(*name)) {
        return Some(format!("{name} is not in the table"));
    }
    for (series, wanted) in EXACTLY {
        let found = value(page, series);
        if found != Some(wanted) {
            return Some(format!("{series} is {found:?}, not {wanted}"));
        }
    }
    for (name, least) in ABOVE {
        let found = value(page, &format!("{name}{{store=\"test\"}}"));
        if found.is_none_or(|found| found <= least) {
            return Some(format!("{name} is {found:?}, not above {least}"));
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_server_has_every_metric_of_the_table_and_no_other() {
    let Fixture { dir, store, api } = Fixture::with_schema("schemas/examples", "example.Network").await;
    drop(api);
    store.close().await.unwrap();
    let server = ServerProcess::start(&dir.path().join("data"));
    let words = |last: &'static str| ["add", "/vlans", last, "--server", &server.address].map(str::to_owned);
    let call = |words: &[String]| confold(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let added = call(&words("{number: 1}"));
    assert_eq!(added.code, 0, "{}", added.all());
    assert_ne!(call(&words("{number: 1}")).code, 0, "it is there already");

    let mut table = documented();
    ELSEWHERE.iter().for_each(|name| assert!(table.remove(*name).is_some(), "{name}"));
    // Once a second values come onto the page one after the other, and it may be read between two.
    let began = Instant::now();
    while let Some(fault) = fault_of(&page(&server), &table) {
        assert!(began.elapsed() < SOON, "{fault}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_on_an_address_of_their_own_need_no_token_and_show_nothing_else() {
    let Fixture { dir, store, api } = Fixture::with_schema("schemas/examples", "example.Network").await;
    drop(api);
    store.close().await.unwrap();
    let data = dir.path().join("data");
    fs::write(data.join("confold.toml"), "[server]\nmetrics_listen = '127.0.0.1:0'\nrequire_token = true\n").unwrap();
    let server = ServerProcess::start(&data);
    let said = server.said();
    let metrics = said.split_once("metrics on http://").and_then(|(_, rest)| rest.split_once("/metrics"));
    let metrics = metrics.unwrap_or_else(|| panic!("it does not say where: {said}")).0;

    let host = "host: localhost\r\n";
    let answers = |address: &str, path: &str| get(address, path, host);
    assert!(answers(&server.address, "/metrics").starts_with("HTTP/1.1 401"), "the calls' address asks who calls");
    let page = answers(metrics, "/metrics");
    assert_eq!(value(&page, "confold_state{store=\"test\",state=\"SERVING\"}"), Some(1.0), "{page}");
    assert!(answers(metrics, "/livez").ends_with("alive\n"));
    assert!(answers(metrics, "/readyz").ends_with("test: SERVING, 0 records behind\n"));
    for path in ["/v1/status", "/v1/get?path=/", "/"] {
        let answer = answers(metrics, path);
        assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("the calls have another"), "{path}: {answer}");
    }
    assert_ne!(confold(&["status", "--server", metrics]).code, 0, "no calls over gRPC either");
    assert!(get(metrics, "/metrics", "host: evil.example\r\n").starts_with("HTTP/1.1 403"));
    // Its own connections are not counted as those of callers, which are all gone.
    let began = Instant::now();
    while value(&answers(metrics, "/metrics"), "confold_server_connections") != Some(0.0) {
        assert!(began.elapsed() < SOON);
    }

    // One address cannot be both, and what is taken is named.
    drop(server);
    let data = data.to_str().unwrap();
    let serve = |listen: &str, metrics: &str| confold(&["serve", data, "--listen", listen, "--metrics-listen", metrics]);
    for (listen, metrics) in [("127.0.0.1:7999", "127.0.0.1:7999"), ("127.0.0.1:7999", "0.0.0.0:7999"), ("[::1]:7999", "[::]:7999")] {
        let refused = serve(listen, metrics);
        let words = format!("metrics on {metrics} would meet the calls on {listen}");
        assert!(refused.code == 2 && refused.err.contains(&words), "{}", refused.all());
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = serve("127.0.0.1:0", &address);
    assert!(refused.code == 3 && refused.err.contains(&format!("{address} is taken")), "{}", refused.all());
}

/// Names of metrics in an expression, with what the server adds to the name of a histogram taken off.
fn named(expression: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = expression.split(|c| !is_part(c)).filter(|word| word.starts_with("confold_") || word.starts_with("process_"));
    let table = documented();
    let histogram = |name: &str| table.get(name).is_some_and(|kind| kind == "histogram");
    let base = |word: &str| {
        let cut = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).filter(|base| histogram(base));
        let name = cut.unwrap_or(word).to_owned();
        assert_eq!(cut.is_some(), histogram(&name), "{word}: a histogram has no value of its own");
        name
    };
    words.map(base).collect()
}

#[test]
fn dashboard_and_alarms_ask_for_metrics_that_are_there() {
    let table: BTreeSet<String> = documented().into_keys().collect();
    let read = |file: &str| fs::read_to_string(repository().join(file)).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&read("compose/grafana/confold.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let shown: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(shown.len() > 40, "{}", shown.len());
    let rules = read("compose/prometheus/confold.rules.yaml");
    let alarms: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert_eq!(alarms.len(), rules.matches("- alert: ").count());
    for expression in shown.into_iter().chain(alarms) {
        let named = named(expression);
        assert!(!named.is_empty(), "{expression}");
        assert!(named.is_subset(&table), "{expression}: {named:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_stopped_data_folder_opens_as_it_is() {
    let (dir, data, shown) = sample().await;
    let backup = dir.path().join("backup");
    copy_folder(&data, &backup);
    let store = open(&backup).await;
    assert_eq!(store.notes(), &[] as &[String]);
    assert_eq!(Shown::of(&store), shown);
    store.close().await.unwrap();
    let doctor = confold(&["doctor", backup.to_str().unwrap(), "--deep"]);
    assert_eq!(doctor.code, 0, "{}", doctor.all());
}

/// The log alone, copied as files under a writer, holds what was acknowledged before the copy began.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_copied_while_it_is_written_is_a_backup() {
    let fixture = Fixture::with_schema("schemas/examples", "example.Network").await;
    let (acknowledged, enough) = (AtomicU32::new(0), AtomicBool::new(false));
    let (data, root) = (fixture.dir.path().join("data"), fixture.dir.path());
    let write = async {
        let mut number = 0;
        while !enough.load(SeqCst) {
            fixture.commit(vec![add("/vlans", format!(r#"{{"number": {number}}}"#))]).await;
            number += 1;
            acknowledged.store(number, SeqCst);
        }
        number
    };
    let back_up = async {
        let mut backups = Vec::new();
        for turn in 1..=5u32 {
            while acknowledged.load(SeqCst) < turn * 20 {
                tokio::task::yield_now().await;
            }
            let (from, to) = (data.join("log"), root.join(format!("backup-{turn}")));
            let before = acknowledged.load(SeqCst);
            tokio::task::spawn_blocking(move || copy_folder(&from, &to)).await.unwrap();
            backups.push((turn, before));
        }
        enough.store(true, SeqCst);
        backups
    };
    let (written, backups) = tokio::join!(write, back_up);
    assert!(written > 100);
    for (turn, before) in backups {
        let (backup, restored) = (root.join(format!("backup-{turn}")), root.join(format!("restored-{turn}")));
        let done = confold(&["restore", backup.to_str().unwrap(), restored.to_str().unwrap()]);
        assert_eq!(done.code, 0, "{}", done.all());
        let store = open(&restored).await;
        let revision = store.handle().view().revision.0;
        assert!((u64::from(before)..=u64::from(written)).contains(&revision), "{before} <= {revision} <= {written}");
        let request = pb::GetRequest { path: format!("/vlans/{}", before - 1), ..Default::default() };
        assert_eq!(store.api().get(request).await.unwrap().nodes.len(), 1);
        let later = add("/devices", r#"{"id": "later"}"#);
        store.api().commit(pb::CommitRequest { operations: vec![later], ..Default::default() }).await.unwrap();
        store.close().await.unwrap();
    }
    // As a data folder, for a machine whose original is gone: the database is made anew.
    let moved = root.join("moved");
    fs::create_dir(&moved).unwrap();
    copy_folder(&root.join("backup-1"), &moved.join("log"));
    let store = open(&moved).await;
    assert!(store.handle().view().revision.0 >= 20);
    store.close().await.unwrap();
}
