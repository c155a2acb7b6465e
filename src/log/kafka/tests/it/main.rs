//! The log against real brokers.

mod conformance;
mod copy;
mod fences;
mod foreign;
mod preflight;
mod secure;
mod support;
