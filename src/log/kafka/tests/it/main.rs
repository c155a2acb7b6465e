//! The log against real brokers.

mod conformance;
mod preflight;
mod secure;
mod support;
