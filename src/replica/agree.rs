//! What a replica does when another announces other values for a mark: it folds again, and only then decides.
//!
//! ```text
//! differs ─▶ fold again from the older agreed mark ─▶ own value not reproduced ─▶ QUARANTINED: the fault is here
//!                                                 └─▶ reproduced ─▶ two others agree against it ─▶ QUARANTINED: this build is wrong
//!                                                               └─▶ otherwise alarm, answers marked as disputed, serve on
//! ```
//! So a replica that is wrong stops itself, and one that is right is stopped by nobody: not by a bad one, not by a checkpoint that somebody
//! made up.

use crate::core::Core;
use crate::kept::{Hold, state_at};
use crate::options::OnDispute;
use crate::status::ReplicaState;
use crate::step::{Disagreement, Mark};
use confold_log::{LogError, Tip};
use confold_model::diff;
use confold_model::fold;
use confold_model::ids::Position;
use confold_model::objects::ObjectsError;
use confold_model::state::{State, member};
use confold_store::StoreError;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Disagreements that nobody has looked into yet.
pub(crate) struct Disputes {
    waiting: Mutex<Waiting>,
    called: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// The newest of each mark: it counts all voices so far.
    marks: BTreeMap<Position, Disagreement>,
    /// The newest mark whose own value was reproduced.
    reproduced: Option<Position>,
}

/// Why a mark could not be folded again.
enum Unable {
    /// Nobody can: what it would start from, or the records, are gone.
    Gone(String),
    /// Not now.
    Later(String),
    /// What this replica has itself is wrong.
    Damaged(String),
    /// The replica is being stopped.
    Stopped,
}

impl From<LogError> for Unable {
    fn from(error: LogError) -> Unable {
        match error {
            LogError::BelowStart { .. } => Unable::Gone(error.to_string()),
            _ => Unable::Later(error.to_string()),
        }
    }
}

impl From<StoreError> for Unable {
    fn from(error: StoreError) -> Unable {
        if error.is_damage() { Unable::Damaged(error.to_string()) } else { Unable::Later(error.to_string()) }
    }
}

impl From<ObjectsError> for Unable {
    fn from(error: ObjectsError) -> Unable {
        StoreError::from(error).into()
    }
}

impl Disputes {
    pub fn new() -> Disputes {
        Disputes { waiting: Mutex::default(), called: Condvar::new() }
    }

    pub fn note(&self, disagreement: Disagreement) {
        self.waiting.lock().marks.insert(disagreement.ours.position, disagreement);
        self.called.notify_all();
    }

    pub fn wake(&self) {
        self.called.notify_all();
    }

    /// Waits until there is something to look into, at most this long.
    pub fn wait(&self, at_most: Duration) {
        let mut waiting = self.waiting.lock();
        if waiting.marks.is_empty() {
            self.called.wait_for(&mut waiting, at_most);
        }
    }
}

impl Core {
    pub fn alarm(&self, disagreement: &Disagreement) {
        self.metrics.tally.disagreements.fetch_add(1, Relaxed);
        let Disagreement { ours, theirs, replica, build, against, with } = disagreement;
        tracing::error!(
            position = ours.position.0,
            replica = hex::encode(replica),
            build,
            our_state = %ours.state,
            their_state = %theirs.state,
            our_chain = %ours.chain,
            their_chain = %theirs.chain,
            against,
            with,
            "another replica disagrees about this mark"
        );
        self.disputes.note(disagreement.clone());
    }

    /// Looks into every disagreement noted so far. May fold much of the log again: not for threads that must not wait.
    pub fn settle_disputes(&self) {
        loop {
            // The newest first: what holds there holds of all marks before it.
            let Some(disagreement) = self.disputes.waiting.lock().marks.last_key_value().map(|(_, one)| one.clone()) else { return };
            if self.is_stopped() || self.stand.state().is_final() || !self.settle_dispute(&disagreement) {
                return;
            }
            let mut waiting = self.disputes.waiting.lock();
            let at = disagreement.ours.position;
            // A later voice about the same mark is another question.
            if waiting.marks.get(&at) == Some(&disagreement) {
                waiting.marks = waiting.marks.split_off(&at.next());
            }
        }
    }

    /// `false`: try again later.
    fn settle_dispute(&self, disagreement: &Disagreement) -> bool {
        let Disagreement { ours, theirs, replica, against, with, .. } = disagreement;
        let who = hex::encode(replica);
        let at = ours.position;
        let outvoted = *against >= 2 && against > &(with + 1);
        let reproduced = self.disputes.waiting.lock().reproduced.is_some_and(|newest| at <= newest);
        let found = if reproduced { Ok(None) } else { self.fold_again(ours) };
        match found {
            Ok(Some(difference)) => {
                let reason = format!(
                    "at mark {at} this replica announced state {}, replica {who} {}; folding again gives {difference}",
                    ours.state, theirs.state
                );
                self.quarantine(reason);
                return true;
            }
            Ok(None) => {
                let mut waiting = self.disputes.waiting.lock();
                waiting.reproduced = waiting.reproduced.max(Some(at));
                drop(waiting);
                if let Some(folder) = self.folder.lock().as_mut() {
                    folder.agree(at);
                }
                tracing::error!(position = at.0, replica = who, "folded again: this replica's own value is reproduced");
            }
            Err(Unable::Damaged(what)) => {
                self.quarantine(format!("at mark {at} replica {who} differs, and what this replica keeps of it is damaged: {what}"));
                return true;
            }
            Err(Unable::Gone(what)) => {
                tracing::error!(position = at.0, replica = who, what, "the mark cannot be folded again: the dispute stays open");
            }
            Err(Unable::Later(what)) => {
                tracing::warn!(position = at.0, replica = who, what, "the mark cannot be folded again now");
                if !outvoted {
                    return false;
                }
            }
            Err(Unable::Stopped) => return false,
        }
        if outvoted {
            self.quarantine(format!(
                "at mark {at} this replica computed state {}, {against} others agree on {}, and {with} agree with this one: it computes \
                 another value every time",
                ours.state, theirs.state
            ));
        } else if self.options.on_dispute == OnDispute::Stop {
            let reason = format!(
                "replica {who} differs at mark {at}: it has state {}, this one {} and reproduces it; told to stop in a dispute",
                theirs.state, ours.state
            );
            self.stop_as(ReplicaState::Halted, reason);
        }
        true
    }

    /// The store is not to be trusted and is kept as evidence: only an operator leads out.
    fn quarantine(&self, reason: String) {
        self.drop_folder();
        self.stop_for_operator(ReplicaState::Quarantined, reason);
    }

    /// `None`: the mark's own value comes out again; else what comes out instead and where it differs.
    fn fold_again(&self, ours: &Mark) -> Result<Option<String>, Unable> {
        let gone = || Unable::Gone("no state before it is kept".to_owned());
        let base = {
            let folder = self.folder.lock();
            let Some(folder) = folder.as_ref() else { return Err(Unable::Stopped) };
            let hold = folder.hold_below(ours.position).ok_or_else(gone)?;
            let known = folder.mark(hold.mark.position);
            (hold, known)
        };
        let (hold, known) = base;
        let mut state = state_at(self.rows()?, hold.mark.position)?;
        let base = state.hash();
        if known.is_some_and(|known| known.state != base) {
            let what = format!("the state kept of mark {} hashes to {base}", hold.mark.position);
            return Err(Unable::Damaged(what));
        }
        tracing::warn!(from = hold.mark.position.0, to = ours.position.0, "folding again");
        self.fold_up_to(&mut state, ours.position)?;
        self.metrics.tally.folded_again.fetch_add(1, Relaxed);
        let (chain, hash) = (state.chain(), state.hash());
        if (chain, hash) == (ours.chain, ours.state) {
            return Ok(None);
        }
        let from = hold.mark.position;
        let difference = self.difference(&mut state, ours, &hold).unwrap_or_else(|what| format!("what differs cannot be read: {what}"));
        Ok(Some(format!("{hash} from mark {from} on; {difference}")))
    }

    fn fold_up_to(&self, state: &mut State, last: Position) -> Result<(), Unable> {
        let tip = Tip { position: state.next_position(), digest: state.digest(), time: state.time() };
        self.log.anchor(tip);
        let mut reader = self.log.reader(tip.position)?;
        while state.position() < Some(last) {
            if self.is_stopped() {
                return Err(Unable::Stopped);
            }
            let wanted = usize::try_from(last.0 + 1 - state.next_position().0).unwrap_or(usize::MAX).min(1024);
            let records = reader.read(wanted, self.options.batch_bytes, Duration::from_secs(5))?;
            if records.is_empty() {
                return Err(Unable::Later(format!("the log gives nothing from position {} on", state.next_position())));
            }
            for record in records {
                if record.position != state.next_position() {
                    return Err(Unable::Later(format!("the log gave position {} out of turn", record.position)));
                }
                fold::apply(state, record.time, &record.bytes, &*self.objects)?;
            }
            // Nothing of it is stored.
            let _unused = state.take_edits();
        }
        Ok(())
    }

    /// In which members of the state, and on which paths of the tree, what this replica stored differs from what was folded again.
    fn difference(&self, again: &mut State, ours: &Mark, hold: &Hold) -> Result<String, StoreError> {
        debug_assert!(hold.mark.position < ours.position);
        let mut stored = state_at(self.rows()?, ours.position)?;
        let theirs: BTreeMap<u16, _> = again.members().into_iter().collect();
        let members: Vec<&str> = stored
            .members()
            .into_iter()
            .filter(|(number, hash)| theirs.get(number) != Some(hash))
            .map(|(number, _)| member_name(number))
            .collect();
        if stored.root() == again.root() {
            return Ok(match members.is_empty() {
                true => "what this replica stored agrees with it, so only its announcement was wrong".to_owned(),
                false => format!("the tree is the same, these members of the state differ: {}", members.join(", ")),
            });
        }
        let options = diff::Options { limit: Some(PATHS_NAMED), ..diff::Options::default() };
        let (stored, again) = (stored.tree().clone(), again);
        let (paths, all) = match again.schema().cloned() {
            Some(schema) => {
                let (changes, all) = diff::changes(&stored, again.tree(), &*schema, &options, &*self.objects)?;
                (changes.iter().map(|change| schema.print_path(&change.path)).collect::<Vec<_>>(), all)
            }
            None => (Vec::new(), true),
        };
        let more = if all { "" } else { " and more" };
        Ok(format!(
            "root {} is stored, {} comes out, they differ at {}{more}; members of the state that differ: {}",
            stored.root(),
            again.root(),
            paths.join(", "),
            members.join(", ")
        ))
    }
}

const PATHS_NAMED: usize = 8;

/// As people know the members of docs/formats.md, State hash.
fn member_name(number: u16) -> &'static str {
    match number {
        member::POSITION => "position",
        member::DIGEST => "log digest",
        member::CHAIN => "chain",
        member::ROOT => "root",
        member::ROOT_MESSAGE => "root message",
        member::LIMITS => "limits",
        member::WINDOW_WIDTH => "window width",
        member::TRIM_REPLICAS => "replicas needed to trim",
        member::TIME => "time",
        member::REVISION => "revision",
        member::FLOOR => "floor",
        member::RETENTION => "retention",
        member::LAST_MARK => "last mark",
        member::TRANSPORT => "transport id",
        member::SEALED => "sealed",
        member::HISTORY => "history",
        member::SCHEMAS => "schemas",
        member::LEVELS => "levels",
        member::TAGS => "tags",
        member::MARKS => "marks",
        member::CHECKPOINTS => "checkpoints",
        member::INCARNATIONS => "incarnations",
        member::WINDOW => "window of event ids",
        member::POLICY => "access policy",
        _ => "a member of a later level",
    }
}

/// Looks into disagreements as they come.
pub(crate) fn dispute_loop(core: &Arc<Core>) {
    while !core.is_stopped() {
        core.disputes.wait(Duration::from_secs(1));
        core.settle_disputes();
        if !core.disputes.waiting.lock().marks.is_empty() {
            core.pause(core.options.retry_pause.max(Duration::from_millis(200)));
        }
    }
}

#[cfg(test)]
mod tests;
