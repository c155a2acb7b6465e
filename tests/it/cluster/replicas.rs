//! One store on a topic, with replicas that are real processes.

use super::line::Line;
use crate::server::ServerProcess;
use confold::client::{Options as RemoteOptions, Remote};
use confold::config::Kafka;
use confold::folder::{self, FolderError, OnKafka};
use confold::replica::Begin;
use confold::wire::api::Api;
use confold::wire::pb;
use confold_test_brokers::Cluster;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A client gives up an answer after this time: a server that was stopped never gives one.
const CALL: Duration = Duration::from_secs(4);

pub struct Replica {
    data: PathBuf,
    listen: String,
    process: Mutex<Option<ServerProcess>>,
    pub api: Arc<dyn Api>,
    pub line: Line,
}

/// Makes a data folder for the store on a topic, which is begun where it is not there yet.
pub fn join(dir: &Path, brokers: &str, topic: &str) -> Result<(), FolderError> {
    let kafka =
        Kafka { brokers: brokers.to_owned(), topic: Some(topic.to_owned()), dev_unsafe: true, ..Kafka::default() };
    let on = OnKafka { kafka, ..OnKafka::default() };
    folder::create_on_kafka(dir, &on, &Begin::default()).map(drop)
}

impl Replica {
    /// A replica behind the front of its number, counted from 0, in a folder of its own.
    pub async fn start(cluster: &Cluster, number: usize, topic: &str, dir: &Path) -> Replica {
        let front = cluster.front(number + 1);
        let brokers = front.iter().map(|(asked, _)| asked.as_str()).collect::<Vec<_>>().join(",");
        let line = Line::lay(front).await;
        let data = dir.join(format!("replica-{number}"));
        let (folder, topic) = (data.clone(), topic.to_owned());
        let process = tokio::task::spawn_blocking(move || {
            join(&folder, &brokers, &topic).unwrap();
            ServerProcess::start(&folder)
        });
        let process = process.await.unwrap();
        let options = RemoteOptions {
            connect_timeout: Duration::from_secs(1),
            call_timeout: Some(CALL),
            ..RemoteOptions::default()
        };
        let api: Arc<dyn Api> = Arc::new(Remote::with_options(&process.address, &options).unwrap());
        Replica { data, listen: process.address.clone(), process: Mutex::new(Some(process)), api, line }
    }

    pub fn kill(&self) {
        self.process.lock().unwrap().take().expect("it runs").kill();
    }

    /// Starts it again at its old address, and returns when it says that it serves.
    pub fn restart(&self) {
        let mut process = self.process.lock().unwrap();
        assert!(process.is_none(), "it runs already");
        *process = Some(ServerProcess::start_at(&self.data, &self.listen));
    }

    /// Stops it with SIGSTOP: it holds its connections and does nothing.
    pub fn pause(&self) {
        self.process.lock().unwrap().as_ref().expect("it runs").signal("STOP");
    }

    pub fn resume(&self) {
        self.process.lock().unwrap().as_ref().expect("it runs").signal("CONT");
    }

    /// The state of its process as the kernel names it: `T` is stopped.
    pub fn process_state(&self) -> char {
        self.process.lock().unwrap().as_ref().expect("it runs").state()
    }

    /// How it stands and what it wrote last, for whoever asks why.
    pub async fn describe(&self) -> String {
        let said = self.process.lock().unwrap().as_ref().map_or_else(String::new, ServerProcess::said);
        let status = match self.status().await {
            Ok(status) => format!("{:?} at position {}: {}", status.state(), status.position, status.reason),
            Err(error) => format!("gives no status: {error}"),
        };
        format!("{status}\n{said}")
    }

    pub async fn status(&self) -> Result<pb::StatusResponse, tonic::Status> {
        self.api.status(pb::StatusRequest::default()).await
    }
}
