//! Many commits in flight: handed over in order, answered as they are decided, sent again when the stream breaks.
//!
//! What is sent again may enter the log behind what was sent later: commits that depend on each other's order do not
//! belong in one pipeline.

use crate::{Connection, Error, connection::check};
use confold_model::ids::EventId;
use confold_wire::{api::Stream, pb};
use futures::{StreamExt, channel::mpsc};
use std::collections::BTreeMap;
use tonic::Status;

/// A stream of commits to one store. Whoever sends bounds what is in flight, by asking for answers.
pub struct Pipeline {
    connection: Connection,
    /// Sent or to be sent, not answered: by correlation, so in the order in which they were sent.
    open: BTreeMap<u64, (EventId, pb::CommitRequest)>,
    next: u64,
    stream: Option<Open>,
    /// How often in a row a stream broke without an answer.
    broken: usize,
    /// How often a commit was answered with an unknown end.
    unknown: BTreeMap<u64, usize>,
}

struct Open {
    requests: mpsc::UnboundedSender<Result<pb::CommitStreamRequest, Status>>,
    answers: Stream<Result<pb::CommitStreamResponse, Status>>,
}

/// How one commit ended.
#[derive(Debug)]
pub struct Answer {
    /// What `send` returned.
    pub number: u64,
    pub event_id: EventId,
    /// A decision that is none of `COMMITTED` and `UNCHANGED` comes as an error, as from `Connection::commit`.
    pub result: Result<pb::Decision, Error>,
}

impl Pipeline {
    pub fn new(connection: Connection) -> Pipeline {
        Pipeline {
            connection,
            open: BTreeMap::new(),
            next: 0,
            stream: None,
            broken: 0,
            unknown: BTreeMap::new(),
        }
    }

    pub fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// Hands over one commit; its number counts from 0. The event id is minted here, once.
    pub async fn send(&mut self, mut request: pb::CommitRequest) -> Result<u64, Error> {
        let event_id = self.connection.mint().await?;
        request.store.clone_from(&self.connection.store);
        request.proposal.get_or_insert_default().event_id = event_id.to_string();
        let number = self.next;
        self.next += 1;
        self.open.insert(number, (event_id, request));
        self.hand_over(number);
        if self.stream.is_none() && self.broken == 0 {
            // What goes wrong here goes wrong again, and is told, where the answer is asked for.
            _ = self.open_stream().await;
        }
        Ok(number)
    }

    /// The next answer; `None` where nothing is in flight. `Err` only where the store cannot be reached any more: what
    /// is in flight then has an unknown end.
    pub async fn answer(&mut self) -> Result<Option<Answer>, Error> {
        let mut delays = self.connection.delays();
        loop {
            if self.open.is_empty() {
                return Ok(None);
            }
            let failed = match self.next_response().await {
                Ok(response) => match self.accept(response) {
                    Ok(Some(answer)) => {
                        self.broken = 0;
                        return Ok(Some(answer));
                    }
                    Ok(None) => continue,
                    Err(failed) => failed,
                },
                Err(failed) => failed,
            };
            self.stream = None;
            self.broken += 1;
            match delays.next() {
                Some(delay) if self.broken <= self.connection.retries.more => tokio::time::sleep(delay).await,
                _ => return Err(Error::from(failed)),
            }
        }
    }

    /// The ids of what is in flight, in order.
    pub fn open_ids(&self) -> Vec<EventId> {
        self.open.values().map(|(id, _)| *id).collect()
    }

    /// Opens a stream and sends everything that is not answered.
    async fn open_stream(&mut self) -> Result<(), Status> {
        let (requests, queue) = mpsc::unbounded();
        for (number, (_, request)) in &self.open {
            let item = pb::CommitStreamRequest {
                correlation: *number,
                commit: Some(request.clone()),
            };
            _ = requests.unbounded_send(Ok(item));
        }
        let answers = self.connection.api.commit_stream(Box::pin(queue)).await?;
        self.stream = Some(Open { requests, answers });
        Ok(())
    }

    async fn next_response(&mut self) -> Result<pb::CommitStreamResponse, Status> {
        if self.stream.is_none() {
            self.open_stream().await?;
        }
        let Some(open) = &mut self.stream else {
            return Err(Status::internal("no stream of commits"));
        };
        open.answers
            .next()
            .await
            .unwrap_or_else(|| Err(Status::unavailable("the server ended the stream of commits")))
    }

    fn hand_over(&self, number: u64) {
        // Where the stream is gone, `answer` opens another one and sends everything that is open.
        if let (Some(stream), Some((_, request))) = (&self.stream, self.open.get(&number)) {
            let item = pb::CommitStreamRequest {
                correlation: number,
                commit: Some(request.clone()),
            };
            _ = stream.requests.unbounded_send(Ok(item));
        }
    }

    /// `None` for a number that is not in flight any more: an answer to a copy that was sent again; and for an
    /// unknown end, which is asked for again.
    fn accept(&mut self, response: pb::CommitStreamResponse) -> Result<Option<Answer>, Status> {
        let Some(decision) = response.decision else {
            return Err(Status::internal("the server answered a commit without a decision"));
        };
        if decision.outcome() == pb::decision::Outcome::Unknown && self.open.contains_key(&response.correlation) {
            let times = self.unknown.entry(response.correlation).or_default();
            *times += 1;
            if *times <= self.connection.retries.more {
                self.hand_over(response.correlation);
                return Ok(None);
            }
        }
        self.unknown.remove(&response.correlation);
        let Some((event_id, _)) = self.open.remove(&response.correlation) else {
            return Ok(None);
        };
        self.connection.decided(&decision);
        let result = check(decision).map_err(Error::from);
        Ok(Some(Answer {
            number: response.correlation,
            event_id,
            result,
        }))
    }
}
