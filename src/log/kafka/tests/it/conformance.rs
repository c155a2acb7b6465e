//! The one suite, on a real broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use confold_log::Log;
use confold_log::conformance::{Harness, run_all};
use confold_log_kafka::{KafkaLog, Options};
use confold_test_brokers as brokers;
use parking_lot::Mutex;

use crate::support::{BROKER_STAMPS, DEADLINE, LIMIT, options};

#[derive(Default)]
struct Kafka {
    topics: Mutex<BTreeMap<[u8; 16], String>>,
    queue_bytes: Option<usize>,
}

impl Kafka {
    fn options(&self, topic: &str) -> Options {
        let options = options(&brokers::one().bootstrap(), topic);
        Options {
            queue_bytes: self.queue_bytes.unwrap_or(options.queue_bytes),
            ..options
        }
    }
}

impl Harness for Kafka {
    fn fresh(&self) -> Arc<dyn Log> {
        let topic = brokers::one().new_topic(&[BROKER_STAMPS]);
        let log = KafkaLog::open(self.options(&topic)).unwrap();
        self.topics.lock().insert(log.transport_id(), topic);
        Arc::new(log)
    }

    fn reopen(&self, closed: Arc<dyn Log>) -> Arc<dyn Log> {
        let topic = self.topics.lock()[&closed.transport_id()].clone();
        let options = Options {
            transport_id: Some(closed.transport_id()),
            ..self.options(&topic)
        };
        Arc::new(KafkaLog::open(options).unwrap())
    }

    fn record_limit(&self) -> usize {
        LIMIT
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

#[test]
fn the_log_on_a_topic_conforms() {
    run_all(&Kafka::default());
}

#[test]
fn the_log_on_a_topic_conforms_when_nearly_nothing_may_wait() {
    run_all(&Kafka {
        queue_bytes: Some(1),
        ..Kafka::default()
    });
}
