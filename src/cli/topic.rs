//! A Kafka topic on the command line.

use crate::local::{KafkaOptions, TopicShape};
use std::path::{Path, PathBuf};

/// How brokers are reached, for every command that talks to some.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Kafka")]
pub struct ClientArgs {
    /// A file with settings of the Kafka client, NAME=VALUE a line, as in `security.protocol=sasl_ssl`; readable by its owner
    /// only where it holds a secret
    #[arg(long, value_name = "FILE")]
    pub kafka_config: Option<PathBuf>,
    /// One setting of the Kafka client; a secret comes as a file: sasl.password.file=PATH
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    pub kafka_set: Vec<(String, String)>,
    /// Alarm where a topic would be refused for its settings; only where every broker is on this machine
    #[arg(long)]
    pub dev_unsafe: bool,
}

/// How a topic is made.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Kafka")]
pub struct CreateArgs {
    /// Make the topic, where it is not there
    #[arg(long)]
    pub create_topic: bool,
    /// Copies of the topic, each on a broker of its own [default: 3]
    #[arg(long, value_name = "N", requires = "create_topic")]
    pub replication: Option<u32>,
    /// Copies that must have an event before it counts [default: 2, or 1 of 1]
    #[arg(long, value_name = "M", requires = "create_topic")]
    pub min_insync: Option<u32>,
}

/// The log of a new data folder.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Kafka")]
pub struct TopicArgs {
    /// Keep the log on a topic of these brokers: HOST:PORT, several separated by commas
    #[arg(long, value_name = "BROKERS", requires = "topic")]
    pub kafka: Option<String>,
    /// The topic; one store is one topic
    #[arg(long, value_name = "NAME", requires = "kafka")]
    pub topic: Option<String>,
    #[command(flatten)]
    pub create: CreateArgs,
    #[command(flatten)]
    pub client: ClientArgs,
}

impl CreateArgs {
    pub fn shape(&self) -> Option<TopicShape> {
        let shape = TopicShape {
            replication: self.replication,
            min_insync: self.min_insync,
        };
        self.create_topic.then_some(shape)
    }
}

impl ClientArgs {
    /// A topic reached so.
    pub fn options(&self, folder: &Path, brokers: &str, topic: &str) -> KafkaOptions {
        KafkaOptions {
            brokers: brokers.to_owned(),
            topic: topic.to_owned(),
            create_topic: None,
            settings_file: self.kafka_config.as_ref().map(|file| folder.join(file)),
            settings: self.kafka_set.clone(),
            dev_unsafe: self.dev_unsafe,
        }
    }
}

impl TopicArgs {
    /// `None`: no topic was asked for.
    pub fn options(&self, folder: &Path) -> Option<KafkaOptions> {
        let (brokers, topic) = (self.kafka.as_ref()?, self.topic.as_ref()?);
        Some(KafkaOptions {
            create_topic: self.create.shape(),
            ..self.client.options(folder, brokers, topic)
        })
    }
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("it is no setting: write NAME=VALUE".to_owned()),
    }
}
