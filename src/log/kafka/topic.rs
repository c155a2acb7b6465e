//! A topic with the settings that a store's log needs.

use std::time::{Duration, Instant};

use futures::executor::block_on;
use rdkafka::admin::{NewTopic as ToMake, TopicReplication};
use rdkafka::error::KafkaError;

use crate::admin::{Admin, TopicError};
use crate::settings::RECORD_ROOM;

/// A topic to be made: one partition, kept for ever, stamped by its brokers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTopic {
    pub name: String,
    /// Copies, each on a broker of its own.
    pub replication: usize,
    /// How many copies have to have a record before it counts; with fewer in sync, writes are refused.
    pub min_insync: usize,
    /// The biggest event of the store.
    pub max_event_bytes: usize,
}

impl NewTopic {
    /// Three copies of which two have to be in sync: the weakest that the preflight accepts.
    pub fn new(name: impl Into<String>, max_event_bytes: usize) -> NewTopic {
        NewTopic {
            name: name.into(),
            replication: 3,
            min_insync: 2,
            max_event_bytes,
        }
    }

    /// The settings that the topic is made with. Said one by one, so that no default of a broker counts.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("cleanup.policy", "delete".to_owned()),
            ("compression.type", "producer".to_owned()),
            (
                "max.message.bytes",
                self.max_event_bytes.saturating_add(RECORD_ROOM).to_string(),
            ),
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("min.insync.replicas", self.min_insync.to_string()),
            ("retention.bytes", "-1".to_owned()),
            ("retention.ms", "-1".to_owned()),
            ("unclean.leader.election.enable", "false".to_owned()),
        ]
    }
}

impl Admin {
    /// Makes a topic and waits until a broker leads it. One that exists is left alone and refused, whatever its settings: whoever
    /// wants to use it asks the [preflight](Admin::preflight) about it.
    pub fn create_topic(&self, topic: &NewTopic) -> Result<(), TopicError> {
        let known = self.metadata(&topic.name)?;
        // Whether it exists is not told to whoever may not see it; then making it tells.
        if known
            .topics()
            .iter()
            .any(|found| found.name() == topic.name && found.error().is_none())
        {
            return Err(TopicError::Exists {
                topic: topic.name.clone(),
            });
        }
        if known.brokers().len() < topic.replication {
            return Err(TopicError::TooFewBrokers {
                topic: topic.name.clone(),
                copies: topic.replication,
                brokers: known.brokers().len(),
            });
        }
        let settings = topic.settings();
        let copies = TopicReplication::Fixed(i32::try_from(topic.replication).unwrap_or(i32::MAX));
        let mut new = ToMake::new(&topic.name, 1, copies);
        for (name, value) in &settings {
            new = new.set(name, value);
        }
        let failed = |code| self.failed(&topic.name, "create", "Create", code);
        let made = block_on(self.client.create_topics([&new], &self.options()));
        match made {
            Ok(made) => {
                if let Some(Err((_, code))) = made.into_iter().next() {
                    return Err(failed(code));
                }
            }
            Err(KafkaError::AdminOp(code)) => return Err(failed(code)),
            Err(error) => return Err(self.unreachable(error.to_string())),
        }
        let began = Instant::now();
        loop {
            let metadata = self.metadata(&topic.name)?;
            let partition = metadata.topics().first().and_then(|topic| topic.partitions().first());
            if partition.is_some_and(|partition| partition.leader() >= 0) {
                return Ok(());
            }
            if began.elapsed() > self.wait() {
                return Err(TopicError::Refused {
                    topic: topic.name.clone(),
                    what: "create",
                    cause: "it was made, but no broker leads it yet; try to open it in a while".to_owned(),
                });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Deletes a topic with everything in it.
    pub fn delete_topic(&self, topic: &str) -> Result<(), TopicError> {
        let failed = |code| self.failed(topic, "delete", "Delete", code);
        match block_on(self.client.delete_topics(&[topic], &self.options())) {
            Ok(gone) => match gone.into_iter().next() {
                Some(Err((_, code))) => Err(failed(code)),
                _ => Ok(()),
            },
            Err(KafkaError::AdminOp(code)) => Err(failed(code)),
            Err(error) => Err(self.unreachable(error.to_string())),
        }
    }
}
