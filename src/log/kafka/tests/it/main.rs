//! The log against real brokers.

mod conformance;
mod copy;
mod fences;
mod foreign;
mod support;
