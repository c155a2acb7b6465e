//! The topic below a data folder: made, looked over before anything relies on it, opened, and looked over again while it is
//! used.

use crate::config::{self, Config, Kafka};
use crate::folder::FolderError;
use confold_log::{Log, LogError};
use confold_log_kafka::{
    Admin, ClientSettings, Finding, KafkaLog, NewTopic, Options, Preflight, Severity, TopicError, Wanted,
};
use confold_model::event::{Body, Event, Limits};
use confold_model::ids::{Incarnation, Position};
use confold_replica::service::Report;
use confold_wire::pb;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Hints of the log across restarts, in the data folder; losing it loses nothing.
const NOTES: &str = "kafka.notes";

/// How long the brokers may take to answer when something begins.
const PATIENCE: Duration = Duration::from_secs(20);

/// The settings of a topic are looked at so often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// How a topic is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    /// `None`: 3, each on a broker of its own.
    pub replication: Option<u32>,
    /// `None`: 2, or 1 with one copy.
    pub min_insync: Option<u32>,
}

/// A topic as a configuration names it.
pub struct Topic {
    pub settings: ClientSettings,
    pub name: String,
    dev_unsafe: bool,
    max_event_bytes: usize,
}

/// What the first record of a store says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begun {
    pub log_id: [u8; 16],
    pub store_name: String,
    pub limits: Limits,
}

impl Topic {
    pub fn of(dir: &Path, kafka: &Kafka) -> Result<Topic, FolderError> {
        let name = kafka.topic.clone().ok_or_else(|| {
            let what = "[kafka] names no topic".to_owned();
            config::ConfigError::Wrong(dir.join(config::NAME), what)
        })?;
        Ok(Topic {
            settings: kafka.client(dir)?,
            name,
            dev_unsafe: kafka.dev_unsafe,
            max_event_bytes: size(kafka.max_event_bytes.unwrap_or(Limits::default().max_event_bytes)),
        })
    }

    /// Makes the topic. One that is there already is left as it is: the look over it follows.
    pub fn create(&self, shape: Shape) -> Result<bool, FolderError> {
        let mut topic = NewTopic::new(&self.name, self.max_event_bytes);
        if let Some(copies) = shape.replication {
            topic.replication = copies as usize;
            topic.min_insync = topic.min_insync.min(topic.replication);
        }
        if let Some(least) = shape.min_insync {
            topic.min_insync = least as usize;
        }
        match self.admin()?.create_topic(&topic) {
            Ok(()) => Ok(true),
            Err(TopicError::Exists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Everything that is to be said of the topic's settings.
    pub fn preflight(&self) -> Result<Preflight, FolderError> {
        let wanted = Wanted { max_event_bytes: self.max_event_bytes, dev_unsafe: self.dev_unsafe };
        Ok(self.admin()?.preflight(&self.name, wanted)?)
    }

    /// Refuses a topic that does not keep what confold promises.
    pub fn check(&self) -> Result<Preflight, FolderError> {
        let found = self.preflight()?;
        match found.refusal() {
            Some(refusal) => Err(FolderError::Unsafe(refusal)),
            None => Ok(found),
        }
    }

    /// The log of the topic; `dir` is the data folder that folds it.
    pub fn open(&self, dir: Option<&Path>) -> Result<KafkaLog, LogError> {
        KafkaLog::open(self.options(dir))
    }

    pub fn options(&self, dir: Option<&Path>) -> Options {
        Options {
            record_bytes: self.max_event_bytes,
            open_wait: PATIENCE,
            notes: dir.map(|dir| dir.join(NOTES)),
            dev_unsafe: self.dev_unsafe,
            ..Options::new(self.settings.clone(), &self.name)
        }
    }

    /// Looks at the topic's settings every minute as long as the result lives, and raises an alarm when they change for the worse.
    pub fn watch(self, found: &Preflight) -> Watch {
        let (stop, stopped) = channel();
        let seen = Arc::new(Mutex::new(report(found)));
        let (shown, mut said) = (seen.clone(), sentences(found));
        self.count(&said);
        let spawned = std::thread::Builder::new().name("confold-topic".to_owned()).spawn(move || {
            while stopped.recv_timeout(LOOK_AGAIN) == Err(RecvTimeoutError::Timeout) {
                self.look(&mut said, &shown);
            }
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "the topic's settings are not watched: a thread cannot be started");
        }
        Watch { _stop: stop, seen }
    }

    fn look(&self, said: &mut Vec<String>, shown: &Mutex<pb::LogReport>) {
        let found = match self.preflight() {
            Ok(found) => found,
            // The log itself says when the brokers cannot be reached.
            Err(error) => return tracing::debug!(%error, topic = self.name, "the topic's settings cannot be looked at"),
        };
        let problems = sentences(&found);
        self.count(&problems);
        for problem in problems.iter().filter(|problem| !said.contains(problem)) {
            tracing::error!(topic = self.name, problem, "the topic does not keep what it should");
        }
        *shown.lock() = report(&found);
        *said = problems;
    }

    fn count(&self, problems: &[String]) {
        metrics::gauge!("confold_topic_problems", "topic" => self.name.clone()).set(problems.len() as f64);
    }

    fn admin(&self) -> Result<Admin, FolderError> {
        Ok(Admin::new(&self.settings, PATIENCE)?)
    }
}

/// Dropping it ends the watch.
pub struct Watch {
    _stop: Sender<()>,
    seen: Arc<Mutex<pb::LogReport>>,
}

impl Watch {
    /// What was last seen.
    pub fn report(&self) -> Report {
        let seen = self.seen.clone();
        Arc::new(move || Some(seen.lock().clone()))
    }
}

/// What is not as it should be, one sentence each.
pub fn sentences(found: &Preflight) -> Vec<String> {
    found.problems().iter().map(|problem| format!("topic {}: {problem}", found.topic)).collect()
}

fn report(found: &Preflight) -> pb::LogReport {
    let finding = |problem: &Finding| pb::LogFinding {
        refused: problem.severity == Severity::Refuse,
        setting: problem.setting.clone(),
        value: problem.value.clone(),
        wanted: problem.wanted.clone(),
        what_to_do: problem.what_to_do.clone(),
    };
    pb::LogReport {
        topic: found.topic.clone(),
        brokers: found.brokers.clone(),
        problems: found.problems().into_iter().map(finding).collect(),
        acknowledgement: found.acknowledgement.clone(),
        looked_ms: confold_log::file::system_clock().0,
    }
}

/// What stands at the beginning of a log; `None`: nothing yet.
pub fn begun(log: &dyn Log) -> Result<Option<Begun>, LogError> {
    let range = log.range();
    if range.end == Position(0) {
        return Ok(None);
    }
    let first = log.reader(Position(0))?.read(1, 1, PATIENCE)?;
    let record = first.first().ok_or_else(|| LogError::Unreachable { what: "its first record cannot be read in time".to_owned() })?;
    let foreign = |what: String| LogError::Fenced { what };
    let event = Event::decode(&record.bytes).map_err(|error| foreign(format!("its first record is no event of confold: {error}")))?;
    match event.body {
        Body::Genesis(genesis) => {
            Ok(Some(Begun { log_id: genesis.log_id, store_name: genesis.store_name, limits: genesis.limits }))
        }
        body => Err(foreign(format!("its first event is a {} and not a genesis", body.name()))),
    }
}

/// The configuration of a folder whose store stands on this topic.
pub fn config_of(kafka: &Kafka, begun: &Begun) -> Config {
    let kafka = Kafka {
        store: Some(begun.store_name.clone()),
        log_id: Some(Incarnation(begun.log_id).to_string()),
        max_event_bytes: Some(begun.limits.max_event_bytes),
        ..kafka.clone()
    };
    Config { kafka: Some(kafka), ..Config::default() }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
