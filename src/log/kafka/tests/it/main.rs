//! The log against real brokers.

mod alarms;
mod conformance;
mod copy;
mod fences;
mod foreign;
mod mock;
mod preflight;
mod secure;
mod support;
