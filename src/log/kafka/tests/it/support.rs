//! What the tests share.

use std::time::Duration;

use confold_log_kafka::{ClientSettings, Options};

pub const LIMIT: usize = 100_000;
/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// What every topic of a log must have.
pub const BROKER_STAMPS: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

pub fn options(brokers: &str, topic: &str) -> Options {
    Options {
        record_bytes: LIMIT,
        ..Options::new(ClientSettings::new(brokers), topic)
    }
}
