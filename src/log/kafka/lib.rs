//! The log on one partition of a Kafka topic.
