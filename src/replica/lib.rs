//! A replica: folds one log into one store, shows what it has folded, and carries proposals to the log and back.
//!
//! ```text
//! submit ─▶ Log.append          Log.read ─▶ step ─▶ Effects: view, answers
//!    └── waits for its own event ◀───────────────┼────────────────┘
//!                                                └─▶ Batch ─▶ Store.commit ─▶ rows
//! ```
//! What holds, whatever happens:
//! - Nobody is shown or answered anything that is not durable on the log and folded. A crash loses rows, which are folded again.
//! - Whoever asks for rows gets those of everything that was shown before, or an error.
//! - An answer comes from folding the event, never from having appended it. A deadline that passes is `Unknown`, and an
//!   unknown outcome can always be made definite: send the same event again, or withdraw it.
//! - Readers hold immutable views and never wait for the fold; the fold never waits for them.
//! - What the log shows to be another log stops the replica before any of it is shown.
//!
//! [`step`] decides what a record leads to, without threads, clocks or I/O; [`drive`](mod@drive) is the loop around it.
//! [`service`] answers every call of the API with them.

mod agree;
mod barrier;
mod core;
mod drive;
mod fence;
mod handle;
mod house;
mod kept;
mod meters;
mod options;
mod past;
mod propose;
pub mod service;
#[cfg(test)]
mod sim;
pub mod snapshot;
mod status;
pub mod step;
mod sweep;
pub mod touch;
mod view;
mod voices;
mod watched;
mod written;

// Tests that reach inside share what the tests from outside build their worlds with.
#[cfg(test)]
extern crate self as confold_replica;
#[cfg(test)]
#[allow(dead_code)]
#[path = "tests/it/world.rs"]
mod world;

pub use handle::{BeginError, Handle, OpenError, Replica, begin};
pub use kept::KeptMark;
pub use meters::METRICS;
pub use options::{Begin, Clock, Housekeeping, OnDispute, Options, Thinning};
pub use past::{PastError, PastView};
pub use propose::{Fate, Proposal, ProposeError, Settled, Submission};
pub use status::{Counts, ReplicaState, Standing, Status};
pub use sweep::SweepOutcome;
pub use view::{View, WaitError};
pub use voices::{Agreement, Opinion};
