//! Questions to the brokers, and what goes wrong with them in words that say what to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use crate::settings::{ClientSettings, SettingsError};

/// A connection to the brokers for questions and for making topics.
pub struct Admin {
    pub(crate) settings: ClientSettings,
    pub(crate) client: AdminClient<Complaints>,
    /// Asks for metadata, since only this kind of client tells of what goes wrong.
    asker: BaseProducer<Complaints>,
    complaints: Complaints,
    wait: Duration,
}

/// Told apart by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error(transparent)]
    Settings(#[from] SettingsError),

    #[error("no broker of {brokers} answers: {cause}; {advice}")]
    Unreachable {
        brokers: String,
        cause: String,
        advice: &'static str,
    },

    #[error(
        "topic {topic} is to have {copies} copies, each on a broker of its own, and there are {brokers} brokers: start more of them, or \
         ask for a replication factor of {brokers} and a weaker acknowledgement"
    )]
    TooFewBrokers {
        topic: String,
        copies: usize,
        brokers: usize,
    },

    #[error("there is a topic {topic} already: choose another name, or open the store that is in it")]
    Exists { topic: String },

    #[error("there is no topic {topic} on {brokers}: it was never made, was deleted, or is on other brokers")]
    Missing { topic: String, brokers: String },

    #[error(
        "the brokers do not allow {user} to {what} topic {topic}: an administrator has to grant the operation {operation} on it"
    )]
    Denied {
        topic: String,
        user: String,
        what: &'static str,
        operation: &'static str,
    },

    #[error("{what} topic {topic}: {cause}")]
    Refused {
        topic: String,
        what: &'static str,
        cause: String,
    },
}

impl Admin {
    /// Prepares a connection; every question waits at most for `wait`.
    pub fn new(settings: &ClientSettings, wait: Duration) -> Result<Admin, TopicError> {
        settings.check()?;
        let complaints = Complaints::default();
        let mut config = settings.client();
        // Whatever is logged elsewhere, complaints have to come here.
        config.set_log_level(RDKafkaLogLevel::Info);
        // This error repeats the value, which may be a secret.
        let refused = |error| {
            let (name, why) = match error {
                KafkaError::ClientConfig(_, why, name, _) => (name, why),
                error => ("security.protocol".to_owned(), error.to_string()),
            };
            SettingsError { name, why }
        };
        let client = config.create_with_context(complaints.clone()).map_err(refused)?;
        let asker = config.create_with_context(complaints.clone()).map_err(refused)?;
        Ok(Admin {
            settings: settings.clone(),
            client,
            asker,
            complaints,
            wait,
        })
    }

    /// Brokers and one topic, as any broker knows them.
    pub(crate) fn metadata(&self, topic: &str) -> Result<Metadata, TopicError> {
        let began = Instant::now();
        loop {
            let asked = self
                .asker
                .client()
                .fetch_metadata(Some(topic), Duration::from_millis(500));
            let error = match asked {
                Ok(metadata) => {
                    self.complaints.forget();
                    return Ok(metadata);
                }
                Err(error) => error,
            };
            // Hands over what there is to complain of.
            self.asker.poll(Duration::from_millis(20));
            let complaint = self.complaints.last();
            // A wrong password does not become right.
            if began.elapsed() >= self.wait || complaint.as_deref().is_some_and(will_not_heal) {
                return Err(self.unreachable(complaint.unwrap_or_else(|| error.to_string())));
            }
        }
    }

    pub(crate) fn unreachable(&self, cause: String) -> TopicError {
        TopicError::Unreachable {
            brokers: self.settings.brokers().to_owned(),
            advice: advice(&cause),
            cause,
        }
    }

    /// What a failed question about a topic means.
    pub(crate) fn failed(
        &self,
        topic: &str,
        what: &'static str,
        operation: &'static str,
        code: RDKafkaErrorCode,
    ) -> TopicError {
        let topic = topic.to_owned();
        match code {
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed => {
                TopicError::Denied {
                    topic,
                    user: self.user(),
                    what,
                    operation,
                }
            }
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => TopicError::Missing {
                topic,
                brokers: self.settings.brokers().to_owned(),
            },
            RDKafkaErrorCode::TopicAlreadyExists => TopicError::Exists { topic },
            // The broker went away while it was asked, or never came.
            RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::RequestTimedOut => {
                self.unreachable(self.complaints.last().unwrap_or_else(|| code.to_string()))
            }
            code => TopicError::Refused {
                topic,
                what,
                cause: code.to_string(),
            },
        }
    }

    /// Who the brokers are asked as.
    pub(crate) fn user(&self) -> String {
        self.settings
            .user()
            .map_or("this client".to_owned(), |user| format!("User:{user}"))
    }

    pub(crate) fn options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(self.wait))
            .operation_timeout(Some(self.wait))
    }

    pub(crate) fn wait(&self) -> Duration {
        self.wait
    }
}

/// What the client library last complained of: its answers say only that no answer came.
#[derive(Clone, Default)]
pub(crate) struct Complaints(Arc<Mutex<Option<String>>>);

impl Complaints {
    fn last(&self) -> Option<String> {
        self.0.lock().clone()
    }

    fn forget(&self) {
        *self.0.lock() = None;
    }
}

impl ProducerContext for Complaints {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl ClientContext for Complaints {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(?level, facility, line, "the Kafka client");
        if facility == "FAIL" || (level as i32) <= RDKafkaLogLevel::Error as i32 {
            let mut last = self.0.lock();
            // What does not heal is not hidden by what follows from it.
            if !last.as_deref().is_some_and(will_not_heal) {
                *last = Some(plain(line));
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client");
    }
}

/// A line of the library without the name of its thread and the times that it counts.
fn plain(line: &str) -> String {
    let line = line.split_once("]: ").map_or(line, |(_, line)| line);
    line.split(" (after ").next().unwrap_or(line).trim().to_owned()
}

fn will_not_heal(complaint: &str) -> bool {
    let complaint = complaint.to_lowercase();
    ["authentication", "certificate", "ssl handshake failed"]
        .iter()
        .any(|word| complaint.contains(word))
}

fn advice(complaint: &str) -> &'static str {
    let text = complaint.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["certificate verify failed"]) {
        // TLS does not say which of the two it is.
        "either the authority in ssl.ca.location did not sign the broker's certificate, or the certificate is for another name than the \
         one in this address: give the right authority, and the name that the certificate is for"
    } else if has(&["authentication"]) {
        "look at sasl.username, sasl.password and sasl.mechanism"
    } else if has(&["alert", "certificate required", "bad certificate"]) {
        "the broker did not accept this client's certificate: look at ssl.certificate.location and ssl.key.location"
    } else if has(&[
        "ssl handshake failed",
        "disconnected",
        "receive failed",
        "connection reset",
    ]) {
        "is this the right port, and does security.protocol fit it?"
    } else if has(&["resolve"]) {
        "the host's name is not known on this machine"
    } else {
        "are the brokers running, and are host and port right?"
    }
}
