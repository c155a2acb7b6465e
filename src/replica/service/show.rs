//! One event in full.

use super::at::Reading;
use super::history::Rows;
use super::read::Form;
use super::refusal::{hex, refusal};
use super::rights::Asked;
use super::{Refusal, blocking};
use crate::propose::Fate;
use crate::view::View;
use confold_model::code::{Code, Rejection};
use confold_model::event::{Body, Event};
use confold_model::ids::Position;
use confold_wire::convert::parse_event_id;
use confold_wire::pb::{self, decision, show_request::Which};

pub(super) async fn show(served: Asked, request: pb::ShowRequest) -> Result<pb::ShowResponse, Refusal> {
    blocking(move || {
        let position = which(&served, &request)?;
        // Taken after the event was found, so that it shows the event.
        let view = served.handle.view();
        if position > view.position {
            let detail = format!(
                "position {position} is not reached yet, this replica has folded up to {}",
                view.position
            );
            return Err(Refusal::new(Code::Future, detail));
        }
        let rights = served.now()?;
        if request.record {
            // A record is the whole event, whatever of it may be read.
            served.require_admin()?;
        }
        let rows = Rows::new(&served, &view, &rights);
        let Some(record) = rows.record(position)? else {
            let start = served.handle.log().range().start;
            let detail = format!("position {position} was trimmed away, the log starts at {start}");
            return Err(Refusal::new(Code::Pruned, detail));
        };
        if !rows.shows(Some(&record)) {
            let detail = format!("the event at position {position} changes nothing that may be read");
            return Err(Refusal::new(Code::NotFound, detail));
        }
        let is_inspector = rights.is_inspector();
        let mut shown = pb::ShowResponse {
            row: Some(rows.of_record(&record, false)?),
            log_digest: if is_inspector { hex(&record.digest) } else { String::new() },
            bytes: if is_inspector { record.bytes.len() as u64 } else { 0 },
            ..pb::ShowResponse::default()
        };
        // The chain of an older position stands nowhere: it would have to be folded again.
        if position == view.position && is_inspector {
            shown.chain = hex(&view.chain);
        }
        if let Ok(event) = Event::decode(&record.bytes) {
            let reading = Reading::latest(view.clone());
            let form = match view.schema {
                Some(_) => Form::of(request.format, &reading, &served)?,
                None => Form::of(pb::Format::Proto.into(), &reading, &served)?,
            };
            shown.client_time_ms = event.client_time_ms;
            if is_inspector {
                shown.intent = event.intention.map(|(_, intent)| hex(&intent)).unwrap_or_default();
            }
            shown.facts = rows.texts.facts(&event.body);
            shown.operations = rows.texts.operations(&event, &form)?;
            if let Body::Commit(commit) = &event.body {
                shown.guards = rows.texts.guards(commit);
            }
        }
        shown.error = shown.row.as_ref().and_then(|row| error(row, &view));
        if request.record {
            shown.record = record.bytes;
        }
        Ok(shown)
    })
    .await
}

fn which(served: &Asked, request: &pb::ShowRequest) -> Result<Position, Refusal> {
    match &request.which {
        Some(Which::Position(position)) => Ok(Position(*position)),
        Some(Which::EventId(text)) => {
            let id = parse_event_id(text)?;
            let none = |what: String| Err(Refusal::new(Code::NotFound, what).event(id));
            match served.handle.outcome_of(id)? {
                Fate::Settled(settled) => Ok(settled.position),
                Fate::NeverApplied { why, .. } => none(format!("event {id} was never applied: {why}")),
                Fate::NotSeen { up_to, .. } => none(format!("event {id} is not on the log up to position {up_to}")),
            }
        }
        Some(Which::At(at)) => of_revision(served, &served.handle.view(), at),
        None => of_revision(served, &served.handle.view(), ""),
    }
}

/// The event that made a revision; a position or event named as such is that event, whatever it made.
fn of_revision(served: &Asked, view: &View, at: &str) -> Result<Position, Refusal> {
    let named = served.resolve(view, at)?;
    if let Some(position) = named.position {
        return Ok(position);
    }
    let row = served.handle.store()?.revision(named.revision)?;
    // Revision 0 was made by nobody: genesis stands for it.
    Ok(row.map_or(Position(0), |row| row.position))
}

fn error(row: &pb::LogRow, view: &View) -> Option<pb::ErrorDetail> {
    let rejected = row.outcome == i32::from(decision::Outcome::Rejected);
    let code = Code::ALL.into_iter().find(|code| rejected && code.name() == row.code)?;
    let rejection = Rejection::new(code, format!("decided at position {}", row.position));
    let mut detail = refusal(rejection, view.schema.as_deref()).into_detail();
    detail.event_id.clone_from(&row.event_id);
    detail.position = Some(row.position);
    Some(detail)
}
