//! Several stores in one server, made, opened and closed while it serves.

use crate::server::{ServerProcess, confold};
use crate::support::{add, push_schema};
use confold::Embedded;
use confold::client::Remote;
use confold::wire::api::Api;
use confold::wire::{pb, status};
use std::path::Path;

/// A folder of stores, served.
fn serve(root: &Path) -> ServerProcess {
    ServerProcess::run(&["serve", "--stores", root.to_str().unwrap(), "--listen", "127.0.0.1:0"])
}

fn ask(store: &str) -> pb::StatusRequest {
    pb::StatusRequest { store: store.to_owned() }
}

async fn commit(api: &dyn Api, store: &str, number: u32) -> Result<pb::Decision, tonic::Status> {
    let operations = vec![add("/vlans", format!(r#"{{"number": {number}}}"#))];
    api.commit(pb::CommitRequest { store: store.to_owned(), operations, ..Default::default() }).await
}

fn refusal(status: &tonic::Status) -> (String, String) {
    let detail = status::detail(status).unwrap();
    (detail.code, detail.detail)
}

async fn states(api: &dyn Api) -> Vec<(String, pb::State)> {
    let rows = api.list_stores(pb::ListStoresRequest {}).await.unwrap().stores;
    rows.iter().map(|row| (row.name.clone(), row.state())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_made_closed_and_opened_while_others_are_served() {
    let root = tempfile::tempdir().unwrap();
    let server = serve(root.path());
    let api = Remote::connect(&server.address).unwrap();
    assert_eq!(states(&api).await, []);
    for name in ["lab", "net"] {
        let made = api.create_store(pb::CreateStoreRequest { name: name.to_owned(), ..Default::default() }).await.unwrap();
        assert_eq!((made.name.as_str(), made.log.as_str(), made.state()), (name, "file", pb::State::Serving));
        push_schema(&api, name).await;
        commit(&api, name, 1).await.unwrap();
    }
    let again = api.create_store(pb::CreateStoreRequest { name: "lab".to_owned(), ..Default::default() }).await.unwrap_err();
    assert_eq!(refusal(&again).0, "ALREADY_EXISTS");
    for name in ["", "../up", ".hidden", "a/b", "a b", &"x".repeat(65)] {
        let bad = api.create_store(pb::CreateStoreRequest { name: name.to_owned(), ..Default::default() }).await.unwrap_err();
        assert_eq!(refusal(&bad).0, "INVALID_PATH", "{name:?}");
    }
    let no_brokers = pb::CreateStoreRequest { name: "k".to_owned(), topic: "k".to_owned(), ..Default::default() };
    assert_eq!(refusal(&api.create_store(no_brokers).await.unwrap_err()).0, "UNSUPPORTED");

    let close = || pb::CloseStoreRequest { name: "lab".to_owned() };
    assert_eq!(api.close_store(close()).await.unwrap().state(), pb::State::Closed);
    assert_eq!(api.close_store(close()).await.unwrap().state(), pb::State::Closed);
    let (code, what) = refusal(&commit(&api, "lab", 2).await.unwrap_err());
    assert_eq!(code, "UNAVAILABLE");
    assert!(what.contains("closed"), "{what}");
    commit(&api, "net", 2).await.unwrap();
    let both = [("lab".to_owned(), pb::State::Closed), ("net".to_owned(), pb::State::Serving)];
    assert_eq!(states(&api).await, both);

    // It stays closed over a restart, until it is opened.
    drop(server);
    let server = serve(root.path());
    let api = Remote::connect(&server.address).unwrap();
    assert_eq!(states(&api).await, both);
    let open = pb::OpenStoreRequest { name: "lab".to_owned() };
    api.open_store(open.clone()).await.unwrap();
    api.open_store(open).await.unwrap();
    assert_eq!(commit(&api, "lab", 2).await.unwrap().revision, Some(2));
    let unknown = api.open_store(pb::OpenStoreRequest { name: "nothing".to_owned() }).await.unwrap_err();
    assert_eq!(refusal(&unknown).0, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_opened_leaves_the_others_serving() {
    let root = tempfile::tempdir().unwrap();
    for name in ["good", "fenced", "damaged"] {
        let data = root.path().join(name);
        Embedded::create(&data, name).unwrap();
        let store = Embedded::open(&data, Default::default()).await.unwrap();
        push_schema(&*store.api(), "").await;
        store.close().await.unwrap();
    }
    // Another log under a store that was folded, and a log whose first segment is not one.
    std::fs::remove_dir_all(root.path().join("fenced/log")).unwrap();
    Embedded::create(&root.path().join("other"), "fenced").unwrap();
    std::fs::rename(root.path().join("other/log"), root.path().join("fenced/log")).unwrap();
    std::fs::remove_dir_all(root.path().join("other")).unwrap();
    let segment = std::fs::read_dir(root.path().join("damaged/log")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|end| end == "log" || end == "segment"));
    let segment = segment.expect("the log has a segment");
    std::fs::write(&segment, b"this is no segment").unwrap();

    let server = serve(root.path());
    let api = Remote::connect(&server.address).unwrap();
    assert_eq!(api.status(ask("good")).await.unwrap().state(), pb::State::Serving);
    commit(&api, "good", 1).await.unwrap();
    let rows = api.list_stores(pb::ListStoresRequest {}).await.unwrap().stores;
    for (name, state) in [("fenced", pb::State::Fenced), ("damaged", pb::State::Halted)] {
        let row = rows.iter().find(|row| row.name == name).unwrap();
        assert_eq!(row.state(), state, "{}", row.reason);
        assert!(!row.reason.is_empty());
        assert_eq!(refusal(&api.status(ask(name)).await.unwrap_err()).0, "UNAVAILABLE");
    }
    // The others stay in rotation, and who asks sees what is wrong.
    let ready = confold(&["doctor", "--server", &server.address]);
    assert_eq!(ready.code, 5, "{}", ready.all());
    assert!(ready.out.contains("fenced: state") && ready.out.contains("good: state"), "{}", ready.all());
}

#[test]
fn one_folder_that_cannot_be_served_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let nothing = dir.path().join("nothing");
    let failed = confold(&["serve", nothing.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert_eq!(failed.code, 2);
    assert!(failed.err.contains("holds no store"), "{}", failed.err);
}

/// Flags win over the environment, the environment over the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_configured_by_file_environment_and_flags() {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("confold.toml"), "[server]\nlisten = '127.0.0.2:0'\nadmin = ['ops']\n").unwrap();
    let words = ["serve", "--stores", root.path().to_str().unwrap()];
    let of_file = ServerProcess::run(&words);
    assert!(of_file.address.starts_with("127.0.0.2:"), "{}", of_file.address);
    let of_environment = ServerProcess::run_with(&words, &[("CONFOLD_LISTEN", "127.0.0.3:0")]);
    assert!(of_environment.address.starts_with("127.0.0.3:"), "{}", of_environment.address);
    let flag = [&words[..], &["--listen", "127.0.0.4:0"]].concat();
    let of_flag = ServerProcess::run_with(&flag, &[("CONFOLD_LISTEN", "127.0.0.3:0")]);
    assert!(of_flag.address.starts_with("127.0.0.4:"), "{}", of_flag.address);

    std::fs::write(root.path().join("confold.toml"), "[server]\nlisen = '127.0.0.2:0'\n").unwrap();
    let failed = confold(&words);
    assert_eq!(failed.code, 2);
    assert!(failed.err.contains("lisen") && failed.err.contains("line 2"), "{}", failed.err);
}
