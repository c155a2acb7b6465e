//! The log against real brokers.

mod conformance;
mod support;
