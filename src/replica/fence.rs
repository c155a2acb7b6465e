//! How a log shows that it is not the one that was folded, said for people: what was found, what each way out keeps and
//! what it loses. There is a page for each kind in docs/errors/fenced.

use crate::view::View;
use confold_log::{Log, LogError, Reader};
use confold_model::event::{Body, Event};
use confold_model::ids::{Hash, Incarnation, Position};
use std::time::Duration;

/// What the replica has folded, to be compared with a log.
pub(crate) struct Folded<'a> {
    pub store_name: &'a str,
    pub log_id: Incarnation,
    pub transport_id: [u8; 16],
    pub applied: Position,
    pub digest: Hash,
}

/// The log lost its end, or lost it and grew another.
pub(crate) fn truncated(what: &str) -> String {
    format!(
        "the log was truncated: {what}. To go on from what the log holds now, `confold store rebuild DIR` sets this store \
         aside and folds the log anew: what only this store had folded stays in the folder set aside and is lost to the \
         others (docs/errors/fenced/truncated.md)"
    )
}

/// Positions are missing in the middle: a transactional record, a compacted or partly deleted log.
pub(crate) fn gapped(what: &str) -> String {
    format!(
        "the log has a gap: {what}. `confold log copy --until POSITION` keeps everything before the gap in a new log and \
         loses what stands behind it (docs/errors/fenced/gapped.md)"
    )
}

/// Another transport id: whose log it is instead, as its genesis says.
pub(crate) fn other_log(log: &dyn Log, ours: &Folded<'_>) -> String {
    let ids = format!("the store belongs to log {}, this is log {}", hex::encode(ours.transport_id), hex::encode(log.transport_id()));
    let folded = format!("this store has digest {} at position {}", ours.digest, ours.applied);
    let found = match digest_at(log, ours.applied) {
        Ok(Some(digest)) => format!("that log has {digest} there"),
        _ => format!("that log has nothing there, it holds positions {} to {}", log.range().start, log.range().end),
    };
    let what = format!("{ids}; {folded}, {found}");
    match genesis(log) {
        Some((log_id, name)) if log_id == ours.log_id => format!(
            "the log is a copy: {what}, and both began as store {name:?} with log id {log_id}. Connect the log that was folded; or \
             bring the copy to life with `confold restore`, which begins a new incarnation: it keeps everything up to the \
             copy's end and loses what the old log got after it (docs/errors/fenced/recreated.md)"
        ),
        Some((log_id, name)) if name != ours.store_name => format!(
            "the log is foreign: {what}; its genesis names store {name:?} and log id {log_id}, this store is {:?} with log id {}. Connect the \
             log of this store: nothing was folded and nothing is lost (docs/errors/fenced/foreign.md)",
            ours.store_name, ours.log_id
        ),
        found => {
            let begun = match found {
                Some((log_id, _)) => format!("its genesis has log id {log_id}, the one folded {}", ours.log_id),
                None => format!("it has no genesis, the one folded had log id {}", ours.log_id),
            };
            format!(
                "the log was deleted and made anew: {what}; {begun}. To put this store's history back, `confold restore` writes it into a \
                 log; to follow the new log, `confold store rebuild DIR` sets this store aside and keeps it: what only the old \
                 log held is lost to the new one (docs/errors/fenced/recreated.md)"
            )
        }
    }
}

/// Said of a copy that ends without the `open` that brings it to life.
pub(crate) const NOT_OPENED: &str = "the log is a copy that was not brought to life yet: `confold log copy` with --resume finishes it";

/// An `open` that was folded names another log than this one.
pub(crate) fn another_life(log: &dyn Log, view: &View) -> String {
    format!(
        "the store goes on elsewhere: the last `open`, at or before position {}, names log {}, this is log {}. Connect that log          (docs/errors/fenced/elsewhere.md)",
        view.position,
        hex::encode(view.transport_id),
        hex::encode(log.transport_id())
    )
}

/// The genesis at the log's start, where it is still there: log id and store name.
fn genesis(log: &dyn Log) -> Option<(Incarnation, String)> {
    if log.range().start > Position(0) {
        return None;
    }
    let first = log.reader(Position(0)).ok()?.read(1, 1, Duration::from_secs(5)).ok()?;
    let event = Event::decode(&first.first()?.bytes).ok()?;
    let Body::Genesis(genesis) = event.body else { return None };
    Some((Incarnation(genesis.log_id), genesis.store_name))
}

fn digest_at(log: &dyn Log, position: Position) -> Result<Option<Hash>, LogError> {
    let range = log.range();
    if position < range.start || position >= range.end {
        return Ok(None);
    }
    let mut reader: Box<dyn Reader> = log.reader(position)?;
    Ok(reader.read(1, 1, Duration::from_secs(5))?.first().map(|record| record.digest))
}
