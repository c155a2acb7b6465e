//! What replicas announce at marks, compared with what this one computed there.

use crate::step::Mark;
use confold_model::event::{self, Checkpoint};
use confold_model::ids::{Hash, Position};
use confold_model::state::CheckpointRow;
use std::collections::{BTreeMap, BTreeSet};

/// Marks at which it is remembered who announced what.
const MARKS_HEARD: usize = 64;

/// Who agrees, as far as the log tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// What each other replica announced last.
    pub opinions: Vec<Opinion>,
    /// The newest mark on which another replica agrees.
    pub agreed: Option<Position>,
}

/// What one other replica announced last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opinion {
    pub replica: [u8; 16],
    pub mark: Position,
    /// `None`: this replica has no value of its own there, or the other is of another level, which may rightly differ.
    pub agrees: Option<bool>,
}

impl Agreement {
    pub fn of<'a>(
        checkpoints: impl Iterator<Item = &'a CheckpointRow>,
        own: &[u8; 16],
        marks: &BTreeMap<Position, Mark>,
    ) -> Agreement {
        let others = checkpoints.filter(|row| row.checkpoint.replica != *own);
        let opinions: Vec<Opinion> = others
            .map(|CheckpointRow { checkpoint, .. }| Opinion {
                replica: checkpoint.replica,
                mark: checkpoint.position,
                agrees: marks
                    .get(&checkpoint.position)
                    .filter(|_| checkpoint.level == event::LEVEL)
                    .map(|ours| (ours.chain, ours.state) == (checkpoint.chain, checkpoint.state)),
            })
            .collect();
        let agreed = opinions.iter().filter(|one| one.agrees == Some(true)).map(|one| one.mark).max();
        Agreement { opinions, agreed }
    }

    /// Those who disagree, until others agree about a later mark.
    pub fn disputes(&self) -> impl Iterator<Item = &Opinion> {
        self.opinions.iter().filter(|one| one.agrees == Some(false) && self.agreed.is_none_or(|agreed| agreed <= one.mark))
    }

    pub fn is_disputed(&self) -> bool {
        self.disputes().next().is_some()
    }
}

/// Who announced what at the last marks, to count with.
///
/// A replica counts from its second announcement on: whoever makes up a name, or begins a new folder, is heard and does not vote.
#[derive(Default)]
pub(crate) struct Voices {
    known: BTreeSet<[u8; 16]>,
    heard: BTreeMap<Position, BTreeMap<[u8; 16], (Hash, Hash)>>,
}

impl Voices {
    pub fn of<'a>(rows: impl Iterator<Item = &'a CheckpointRow>) -> Voices {
        let mut voices = Voices::default();
        for CheckpointRow { checkpoint, .. } in rows {
            voices.known.insert(checkpoint.replica);
            voices.hear(checkpoint);
        }
        voices
    }

    pub fn hear(&mut self, checkpoint: &Checkpoint<'_>) {
        if !self.known.insert(checkpoint.replica) && checkpoint.level == event::LEVEL {
            let at = self.heard.entry(checkpoint.position).or_default();
            at.insert(checkpoint.replica, (checkpoint.chain, checkpoint.state));
        }
        while self.heard.len() > MARKS_HEARD {
            self.heard.pop_first();
        }
    }

    /// How many others announced these values at the mark.
    pub fn count(&self, mark: &Mark, but: &[u8; 16]) -> usize {
        let at = self.heard.get(&mark.position);
        at.map_or(0, |at| at.iter().filter(|(who, said)| *who != but && **said == (mark.chain, mark.state)).count())
    }
}
