//! From a request to an event and from its outcome to a `Decision`.

use super::at::token;
use super::refusal::refusal;
use super::rights::Asked;
use super::{Refusal, blocking};
use crate::propose::{Fate, Proposal, ProposeError, Settled, Submission};
use crate::view::View;
use confold_model::code::{Code, Rejection};
use confold_model::event::{Body, Event};
use confold_model::fold::Outcome;
use confold_model::ids::{EventId, Hash};
use confold_wire::convert::parse_event_id;
use confold_wire::pb::{self, decision};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;

/// Who wants what, as far as it is known before the body is made.
#[derive(Clone)]
pub(super) struct Intention {
    id: Option<EventId>,
    intent: Hash,
    author: String,
    principal: Arc<str>,
    reason: String,
    client_time_ms: i64,
    deadline: Duration,
}

/// A request that proposes something.
pub(super) trait Proposing: Message {
    /// Told apart from requests of other calls that have the same bytes.
    const CALL: &'static str;

    fn store_mut(&mut self) -> &mut String;
    fn proposal_mut(&mut self) -> &mut Option<pb::Proposal>;
}

macro_rules! proposing {
    ($($request:ident $call:literal)*) => {$(
        impl Proposing for pb::$request {
            const CALL: &'static str = $call;

            fn store_mut(&mut self) -> &mut String {
                &mut self.store
            }

            fn proposal_mut(&mut self) -> &mut Option<pb::Proposal> {
                &mut self.proposal
            }
        }
    )*};
}
proposing! {
    CommitRequest "commit" WithdrawRequest "withdraw" TagRequest "tag" UntagRequest "untag" PushSchemaRequest "schema"
    PruneRequest "prune" SetPolicyRequest "policy" SetRetentionRequest "retention" ActivateRequest "activate" SetClockRequest "clock"
}

impl Intention {
    /// The intent is BLAKE3 of what is wanted: the request without what may differ between two attempts at the same
    /// thing. The store's name may be left out, the first attempt may have no event id yet and a retry has, and
    /// deadline and clock are of the attempt.
    pub fn of<R: Proposing>(served: &Asked, request: &mut R) -> Result<Intention, Refusal> {
        let proposal = request.proposal_mut().take().unwrap_or_default();
        request.store_mut().clear();
        let id = match proposal.event_id.as_str() {
            "" => None,
            text => Some(parse_event_id(text)?),
        };
        let pb::Proposal {
            author,
            reason,
            client_time_ms,
            deadline_ms,
            ..
        } = proposal;
        if !author.is_empty() || !reason.is_empty() {
            *request.proposal_mut() = Some(pb::Proposal {
                author,
                reason,
                ..pb::Proposal::default()
            });
        }
        let mut preimage = Vec::with_capacity(R::CALL.len() + 1 + request.encoded_len());
        preimage.extend_from_slice(R::CALL.as_bytes());
        preimage.push(0);
        request.encode_raw(&mut preimage);
        let pb::Proposal { author, reason, .. } = request.proposal_mut().take().unwrap_or_default();
        let deadline = served.options.deadline(deadline_ms);
        Ok(Intention {
            id,
            intent: Hash::of(&preimage),
            author,
            principal: served.principal.clone(),
            reason,
            client_time_ms,
            deadline,
        })
    }

    fn proposal(self, body: Body<'static>) -> Proposal {
        Proposal {
            body,
            id: self.id,
            intent: self.intent,
            author: self.author,
            principal: self.principal.to_string(),
            client_time_ms: self.client_time_ms,
            reason: self.reason,
        }
    }
}

/// What is to be proposed, and what was done to it on the way in.
pub(super) struct Built {
    pub body: Body<'static>,
    pub notes: Vec<String>,
}

impl From<Body<'static>> for Built {
    fn from(body: Body<'static>) -> Built {
        Built {
            body,
            notes: Vec::new(),
        }
    }
}

/// An event that was handed to the log, or one that needs no log any more.
pub(super) enum Proposed {
    Waiting(Submission, Vec<String>),
    Decided(Box<pb::Decision>),
}

/// Hands the event to the log. Where it could not be made although the client had an id for it, it may stand on the log
/// from an earlier attempt: then that one's outcome is the answer, whatever has changed since.
pub(super) async fn submit(
    served: &Asked,
    intention: Intention,
    built: Result<Built, Refusal>,
) -> Result<Proposed, Refusal> {
    // No request gets to the log by a right that its caller does not have, whatever built it.
    let built = built.and_then(|built| served.check(&built.body).map(|()| built));
    match (built, intention.id) {
        (Ok(Built { body, notes }), id) => {
            let deadline = intention.deadline;
            let submission = served.handle.submit(intention.proposal(body), deadline);
            submission
                .map(|submission| Proposed::Waiting(submission, notes))
                .map_err(|error| with_id(error, id))
        }
        (Err(refusal), None) => Err(refusal),
        (Err(refusal), Some(id)) => {
            let earlier = served.clone();
            match blocking(move || earlier.first_copy(id, &intention)).await? {
                Some(decision) => Ok(Proposed::Decided(decision.into())),
                None => Err(refusal.event(id)),
            }
        }
    }
}

impl Proposed {
    /// Waits for the fold; every end is a decision here.
    pub async fn decision(self, served: &Asked) -> pb::Decision {
        match self {
            Proposed::Decided(decision) => *decision,
            Proposed::Waiting(submission, notes) => match submission.settled().await {
                Ok(settled) => served.decision(settled, notes),
                Err(error) => refused(error.into()),
            },
        }
    }
}

/// A whole proposal for a call that answers only what was committed or left as it was.
pub(super) async fn propose(
    served: Asked,
    intention: Intention,
    built: Result<Built, Refusal>,
) -> Result<pb::Decision, Refusal> {
    let decision = submit(&served, intention, built).await?.decision(&served).await;
    match decision.error {
        Some(error) => Err(error.into()),
        None => Ok(decision),
    }
}

/// A refusal as a decision, for answers in which it is no failure of the call.
pub(super) fn refused(refusal: Refusal) -> pb::Decision {
    let unknown = refusal.code() == Code::Unknown;
    let error = refusal.into_detail();
    pb::Decision {
        outcome: if unknown {
            decision::Outcome::Unknown
        } else {
            decision::Outcome::Rejected
        }
        .into(),
        event_id: error.event_id.clone(),
        position: error.position,
        token: error.token.clone(),
        error: Some(error),
        ..pb::Decision::default()
    }
}

pub(super) async fn outcome(served: Asked, request: pb::OutcomeRequest) -> Result<pb::Decision, Refusal> {
    let id = parse_event_id(&request.event_id)?;
    let wait = Duration::from_millis(request.wait_ms.into()).min(served.options.longest_deadline);
    let end = tokio::time::Instant::now() + wait;
    let mut views = served.handle.views();
    loop {
        views.mark_unchanged();
        let asked = served.clone();
        let fate = blocking(move || Ok(asked.handle.outcome_of(id)?)).await?;
        let not_seen = matches!(fate, Fate::NotSeen { .. });
        if !not_seen || !matches!(tokio::time::timeout_at(end, views.changed()).await, Ok(Ok(()))) {
            return Ok(served.fate(fate));
        }
    }
}

pub(super) async fn withdraw(
    served: Asked,
    mut request: pb::WithdrawRequest,
) -> Result<pb::Decision, Refusal> {
    let id = parse_event_id(&request.event_id)?;
    let intention = Intention::of(&served, &mut request)?;
    let (deadline, own) = (intention.deadline, intention.id);
    served.check(&Body::Withdraw { id })?;
    let proposal = intention.proposal(Body::Withdraw { id });
    match served.handle.withdraw(id, proposal, deadline).await {
        Ok(Fate::NeverApplied { why, .. }) => Ok(refused(Refusal::new(Code::Withdrawn, why).event(id))),
        Ok(fate) => Ok(served.fate(fate)),
        // It is the withdrawal that is not known, and the id that stays open.
        Err(ProposeError::Unknown { reason, .. }) => {
            let detail = format!("whether event {id} is withdrawn is not known: {reason}");
            Ok(refused(
                Refusal::new(Code::Unknown, detail).hint("withdraw it again").event(id),
            ))
        }
        Err(error) => Err(with_id(error, own)),
    }
}

impl Asked {
    /// What the fold made of an event, as far as it is the caller's to know.
    pub fn decision(&self, settled: Settled, notes: Vec<String>) -> pb::Decision {
        let view = self.handle.view();
        let Settled {
            id,
            position,
            time,
            outcome,
            revision,
            root,
            repeated,
        } = settled;
        let token = token(&view, position);
        let error = match &outcome {
            Outcome::Rejected(rejection) => {
                let refusal = refusal(self.redacted(rejection.clone()), view.schema.as_deref());
                Some(refusal.event(id).stands(position, token.clone()).into_detail())
            }
            _ => None,
        };
        let outcome = match outcome {
            Outcome::Accepted => decision::Outcome::Committed,
            Outcome::Unchanged | Outcome::Duplicate(_) => decision::Outcome::Unchanged,
            Outcome::Rejected(_) => decision::Outcome::Rejected,
        };
        pb::Decision {
            outcome: outcome.into(),
            event_id: id.to_string(),
            revision: revision.map(|revision| revision.0),
            root: self.root(&root),
            position: Some(position.0),
            time_ms: time.map(|time| time.0),
            token,
            repeated,
            error,
            notes,
            disputed: view.agreement.is_disputed(),
        }
    }

    /// What is known of an event id.
    fn fate(&self, fate: Fate) -> pb::Decision {
        match fate {
            Fate::Settled(settled) => self.decision(settled, Vec::new()),
            Fate::NeverApplied { id, why } => pb::Decision {
                outcome: decision::Outcome::NeverApplied.into(),
                event_id: id.to_string(),
                notes: vec![why],
                ..pb::Decision::default()
            },
            Fate::NotSeen { id, up_to } => pb::Decision {
                outcome: decision::Outcome::NotSeen.into(),
                event_id: id.to_string(),
                position: Some(up_to.0),
                token: token(&self.handle.view(), up_to),
                ..pb::Decision::default()
            },
        }
    }

    /// The outcome of an earlier copy of this very intention. Blocks.
    fn first_copy(&self, id: EventId, intention: &Intention) -> Result<Option<pb::Decision>, Refusal> {
        let Fate::Settled(settled) = self.handle.outcome_of(id)? else {
            return Ok(None);
        };
        let Some(record) = self.handle.record_at(settled.position)? else {
            return Ok(None);
        };
        let same = Event::decode(&record.bytes).is_ok_and(|event| {
            event.intention == Some((id, intention.intent)) && *event.principal == *intention.principal
        });
        if !same {
            let detail = format!(
                "the id stands at position {} with another intent or principal",
                settled.position
            );
            let rejection = Rejection::new(Code::IdReused, detail);
            return Err(refusal(rejection, None)
                .event(id)
                .stands(settled.position, self.token_of(&settled)));
        }
        Ok(Some(self.decision(settled, Vec::new())))
    }

    fn token_of(&self, settled: &Settled) -> String {
        let view: Arc<View> = self.handle.view();
        token(&view, settled.position)
    }
}

fn with_id(error: ProposeError, id: Option<EventId>) -> Refusal {
    let refusal = Refusal::from(error);
    match id {
        Some(id) => refusal.event(id),
        None => refusal,
    }
}
