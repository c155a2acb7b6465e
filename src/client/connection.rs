//! Proposing: one event id per intention, and asking until the end is known.

use crate::Error;
use backon::{BackoffBuilder, ExponentialBuilder};
use confold_model::{
    code::Code,
    ids::{EventId, Position},
};
use confold_wire::{api::Api, pb};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tonic::Status;

/// Where the nonces of event ids come from.
pub type Nonces = Arc<dyn Fn() -> Result<[u8; 16], Error> + Send + Sync>;

/// How often and for how long an unanswered call is made again.
#[derive(Clone, Debug)]
pub struct Retries {
    /// Attempts after the first.
    pub more: usize,
    pub first_delay: Duration,
    pub longest_delay: Duration,
    /// All attempts together; `None`: as long as they take.
    pub give_up_after: Option<Duration>,
}

impl Default for Retries {
    fn default() -> Self {
        Retries {
            more: 4,
            first_delay: Duration::from_millis(50),
            longest_delay: Duration::from_secs(2),
            give_up_after: None,
        }
    }
}

/// One store behind an `Api`, and what has been seen of it. Clones share what they saw.
#[derive(Clone)]
pub struct Connection {
    pub api: Arc<dyn Api>,
    /// Empty: the server's only store.
    pub store: String,
    pub retries: Retries,
    pub nonces: Nonces,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// The highest position that an answer named, and when.
    position: Option<(u64, Instant)>,
    /// The token of the last own write.
    token: String,
}

/// An id minted at an old position expires sooner; asking anew costs one call.
const SEEN_IS_FRESH: Duration = Duration::from_secs(2);

impl Connection {
    /// With nonces of the operating system.
    pub fn new(api: Arc<dyn Api>, store: impl Into<String>) -> Connection {
        Connection {
            api,
            store: store.into(),
            retries: Retries::default(),
            nonces: Arc::new(random_nonce),
            seen: Arc::default(),
        }
    }

    /// Another store of the same server.
    pub fn to_store(&self, store: impl Into<String>) -> Connection {
        Connection {
            retries: self.retries.clone(),
            nonces: self.nonces.clone(),
            ..Connection::new(self.api.clone(), store)
        }
    }

    /// A new event id, at a position that this store is known to have reached.
    pub async fn mint(&self) -> Result<EventId, Error> {
        let fresh = self.seen().position.filter(|(_, at)| at.elapsed() < SEEN_IS_FRESH);
        let seen = match fresh {
            Some((position, _)) => position,
            None => {
                let request = pb::StatusRequest {
                    store: self.store.clone(),
                };
                let status = self.again(|| self.api.status(request.clone())).await?;
                self.saw(status.position);
                status.position
            }
        };
        Ok(EventId {
            seen: Position(seen),
            nonce: (self.nonces)()?,
        })
    }

    /// Makes a proposing call until its end is known, or the retries are used up. `call` must send `id` each time.
    ///
    /// Sending an event again is always safe: the store answers a copy with the outcome of the first.
    pub async fn decide<T, F>(&self, id: EventId, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        // An attempt whose end is not known may still be applied, whatever a later one is told.
        let mut doubt = false;
        let deadline = self.retries.give_up_after.map(|limit| Instant::now() + limit);
        let mut delays = self.delays();
        loop {
            let attempt = match deadline {
                None => call().await,
                Some(deadline) => tokio::time::timeout_at(deadline.into(), call())
                    .await
                    .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in the time given"))),
            };
            let error = match attempt.map_err(Error::from) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match fate(&error) {
                // A copy that is still on its way could be applied behind a refusal that was given before the log.
                Fate::Refused if doubt && !ends_doubt(&error) => {
                    return Err(Error::Unknown {
                        event_id: id,
                        last: Box::new(error),
                    });
                }
                Fate::Refused => {
                    self.seen().position = None;
                    return Err(error);
                }
                Fate::NotSent => {}
                Fate::Doubtful => doubt = true,
            }
            let delay = delays
                .next()
                .filter(|delay| deadline.is_none_or(|end| Instant::now() + *delay < end));
            let Some(delay) = delay else {
                return Err(match error {
                    error if !doubt => error,
                    error => Error::Unknown {
                        event_id: id,
                        last: Box::new(error),
                    },
                });
            };
            tracing::debug!(%id, %error, "proposing again");
            tokio::time::sleep(delay).await;
        }
    }

    /// Makes a call that changes nothing, again where it failed on its way.
    pub async fn again<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut delays = self.delays();
        loop {
            let error = match call().await.map_err(Error::from) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            // A deadline was the caller's own choice.
            let late = matches!(&error, Error::Transport(status) if status.code() == tonic::Code::DeadlineExceeded)
                || error.code() == Some(Code::Unknown);
            match delays.next() {
                Some(delay) if !late && fate(&error) != Fate::Refused => tokio::time::sleep(delay).await,
                _ => return Err(error),
            }
        }
    }

    /// Commits under `id`. A decision that is none of `COMMITTED` and `UNCHANGED` comes as an error.
    pub async fn commit(&self, id: EventId, mut request: pb::CommitRequest) -> Result<pb::Decision, Error> {
        request.store.clone_from(&self.store);
        request.proposal.get_or_insert_default().event_id = id.to_string();
        let decision = self
            .decide(id, || {
                let call = self.api.commit(request.clone());
                async { check(call.await?) }
            })
            .await?;
        self.decided(&decision);
        Ok(decision)
    }

    /// Remembers what a decision says of the store.
    pub fn decided(&self, decision: &pb::Decision) {
        if let Some(position) = decision.position {
            self.saw(position);
        }
        if !decision.token.is_empty() {
            self.seen().token.clone_from(&decision.token);
        }
    }

    /// Remembers that the store has reached a position.
    pub fn saw(&self, position: u64) {
        let mut seen = self.seen();
        let highest = seen.position.map_or(position, |(known, _)| known.max(position));
        seen.position = Some((highest, Instant::now()));
    }

    /// The token of the last own write; empty before the first.
    pub fn token(&self) -> String {
        self.seen().token.clone()
    }

    pub(crate) fn delays(&self) -> impl Iterator<Item = Duration> + use<> {
        ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(self.retries.first_delay)
            .with_max_delay(self.retries.longest_delay)
            .with_max_times(self.retries.more)
            .build()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A decision as the calls that propose one event answer it.
pub(crate) fn check(decision: pb::Decision) -> Result<pb::Decision, Status> {
    use pb::decision::Outcome;
    match decision.outcome() {
        Outcome::Committed | Outcome::Unchanged => Ok(decision),
        Outcome::Unknown => Err(refusal(decision, Code::Unknown)),
        Outcome::Rejected => Err(refusal(decision, Code::Malformed)),
        Outcome::NeverApplied => Err(refusal(decision, Code::Expired)),
        Outcome::NotSeen | Outcome::Unspecified => Err(Status::internal(format!(
            "the server answered a proposal with {}",
            decision.outcome().as_str_name()
        ))),
    }
}

fn refusal(decision: pb::Decision, code: Code) -> Status {
    let detail = decision
        .error
        .unwrap_or_else(|| confold_wire::status::error_detail(code, "the server gave no reason"));
    confold_wire::status::status(&pb::ErrorDetail {
        event_id: decision.event_id,
        ..detail
    })
}

#[derive(PartialEq, Eq)]
enum Fate {
    /// Definite: asking again gives the same answer.
    Refused,
    /// It certainly never reached the log.
    NotSent,
    /// It may have.
    Doubtful,
}

fn fate(error: &Error) -> Fate {
    use tonic::Code as Grpc;
    match error {
        Error::Refused(_) if error.never_left() => Fate::NotSent,
        Error::Refused(_) => match error.code() {
            Some(Code::Unknown) => Fate::Doubtful,
            _ => Fate::Refused,
        },
        // Something between here and the store gave up, or broke.
        Error::Transport(status) => match status.code() {
            Grpc::Unavailable
            | Grpc::DeadlineExceeded
            | Grpc::Cancelled
            | Grpc::Unknown
            | Grpc::Internal
            | Grpc::Aborted
            | Grpc::DataLoss => Fate::Doubtful,
            _ => Fate::Refused,
        },
        Error::Unknown { .. } => Fate::Doubtful,
        Error::Answer(_) => Fate::Refused,
    }
}

/// Whether a refusal speaks for every copy of the event: one stands on the log, or none ever will.
fn ends_doubt(error: &Error) -> bool {
    matches!(error, Error::Refused(detail) if detail.position.is_some())
        || matches!(error.code(), Some(Code::Expired | Code::Withdrawn))
}

fn random_nonce() -> Result<[u8; 16], Error> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| {
        Error::refused(
            Code::Unavailable,
            "",
            format!("no random numbers from the system: {error}"),
        )
    })?;
    Ok(nonce)
}
