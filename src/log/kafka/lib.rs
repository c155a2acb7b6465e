//! The log on one partition of a Kafka topic.

mod admin;
mod preflight;
mod settings;
mod topic;

pub use admin::{Admin, TopicError};
pub use preflight::{Finding, Preflight, Severity, Wanted};
pub use settings::{ClientSettings, RECORD_ROOM, SettingsError};
pub use topic::NewTopic;
