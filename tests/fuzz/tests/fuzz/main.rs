//! Every decoder of bytes from outside, fuzzed for a moment each; `tests/soak.sh fuzz` does it for long. Reliability Q24.
//!
//! A run must have taken inputs and seen many ways of answering: one that only ever meets the first check proves nothing.

mod calls;
mod log;
mod model;
mod snapshot;
mod support;
mod wire;
