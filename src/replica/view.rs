//! What readers hold: everything the fold showed at one position, immutable.

use crate::kept::KeptMark;
use crate::step::Mark;
use crate::voices::Agreement;
use bytes::Bytes;
use confold_model::event::{Limits, RetentionPolicy};
use confold_model::ids::{Hash, Incarnation, Position, Revision, Time};
use confold_model::node::EMPTY_NODE;
use confold_model::schema::Schema;
use confold_model::state::{CheckpointRow, IncarnationRow, PolicyRow, TagRow};
use confold_model::tree::Tree;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// The newest state that is folded, as of one position. Holding one costs memory and nothing else: the fold goes on, and what its
/// tree still needs from the store stays there as long as it is held. Its rows may come into the store a moment later:
/// [`crate::Handle::store`] waits for them.
#[derive(Clone)]
pub struct View {
    pub store_name: Arc<str>,
    /// Of the last event folded.
    pub position: Position,
    /// t(position).
    pub time: Time,
    /// d(position), chain(position).
    pub digest: Hash,
    pub chain: Hash,
    /// The latest revision and its root.
    pub revision: Revision,
    pub root: Hash,
    /// Load what it needs through [`crate::Handle::objects`].
    pub tree: Tree,
    /// The batch that the tree builds on: what is not loaded of it stands in the store with that one.
    pub(crate) ground: Ground,
    /// The view is that of a whole batch, which stands in the store sooner or later.
    pub(crate) ends_batch: bool,
    /// Everything untagged up to here is gone.
    pub floor: Revision,
    pub level: u32,
    pub incarnation: Incarnation,
    pub log_id: Incarnation,
    /// Every life of the log, the present one last.
    pub incarnations: Arc<Vec<IncarnationRow>>,
    /// The log was moved away, and was not opened again since: only an `open` is still accepted.
    pub sealed: bool,
    pub transport_id: [u8; 16],
    /// `None` until the first schema is pushed.
    pub schema: Option<Arc<Schema>>,
    /// Empty until then.
    pub root_message: Arc<str>,
    /// Descriptor sets by the position of their event.
    pub schemas: Arc<BTreeMap<Position, Bytes>>,
    pub tags: Arc<BTreeMap<String, TagRow>>,
    /// Who may do what. `None` while no policy was ever set; everything is allowed then, as under one without rules.
    pub policy: Option<Arc<PolicyRow>>,
    pub limits: Limits,
    pub retention: RetentionPolicy,
    /// W: how many positions an event id stays usable.
    pub window: u64,
    pub trim_replicas: u32,
    /// What each replica last announced.
    pub checkpoints: Arc<Vec<CheckpointRow>>,
    /// Who agrees with this replica, as far as it has folded.
    pub agreement: Arc<Agreement>,
    /// Marks whose whole state this replica still has; ascending.
    pub kept: Arc<[KeptMark]>,
    /// Position of the last mark on the log.
    pub last_mark: Position,
    /// The newest mark whose state hash this replica has computed itself and still keeps.
    pub mark: Option<Mark>,
}

/// A finished batch: where it ended, and with which root.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Ground {
    pub position: Position,
    pub root: Hash,
}

/// What was waited for did not come.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WaitError {
    /// Try again, or read what is there.
    #[error("position {wanted} was not reached in time; this replica has folded up to {reached}")]
    Late { wanted: Position, reached: Position },
    /// Ask another replica; [`crate::Handle::status`] says what to do about this one.
    #[error("this replica does not go on: {reason}")]
    Stopped { reason: String },
    /// The log cannot tell right now where its end is.
    #[error("the log cannot say how far it goes: {reason}")]
    NoFence { reason: String },
}

impl View {
    /// Whether a revision can still be read: above the floor, tagged, or the latest. Revision 0 is the empty tree, there
    /// until the floor first rises.
    pub fn is_kept(&self, revision: Revision) -> bool {
        revision <= self.revision
            && (revision > self.floor
                || revision == self.revision
                || (revision == Revision(0) && self.floor == Revision(0))
                || self.is_tagged(revision))
    }

    pub fn is_tagged(&self, revision: Revision) -> bool {
        self.tags.values().any(|tag| tag.revision == revision)
    }

    /// The kept revision closest to one that is gone; of two equally close ones the later.
    pub fn nearest_kept(&self, revision: Revision) -> Revision {
        let above = Revision(self.floor.0 + 1).min(self.revision);
        let kept = self.tags.values().map(|tag| tag.revision).chain([above]);
        kept.min_by_key(|kept| (kept.0.abs_diff(revision.0), std::cmp::Reverse(*kept))).unwrap_or(self.revision)
    }

    /// Whether its whole tree stands in a store whose head is at this position.
    pub(crate) fn is_written(&self, head: Position) -> bool {
        self.ends_batch && self.position <= head
    }

    /// The root that has to stay in a store whose head is at this position, for what is not loaded of the tree. Where the batch that the tree
    /// builds on is not there yet, that is nothing that the head does not reach.
    pub(crate) fn needs(&self, head: Position) -> Option<Hash> {
        let root = match self.is_written(head) {
            true => Some(self.root),
            false => Some(self.ground).filter(|ground| ground.position <= head).map(|ground| ground.root),
        };
        root.filter(|root| *root != EMPTY_NODE)
    }

    /// What a position means here that somebody read under an incarnation: the position itself, where that incarnation had
    /// got so far before it ended. `None`: it says nothing about this log.
    pub fn position_of(&self, position: Position, incarnation: Incarnation) -> Option<Position> {
        let row = self.incarnations.iter().find(|row| row.incarnation == incarnation)?;
        row.end.is_none_or(|end| position < end).then_some(position)
    }

    /// The descriptor set in force at a position, with the position of the event that brought it.
    pub fn descriptor_set_at(&self, position: Position) -> Option<(Position, &Bytes)> {
        self.schemas.range(..=position).next_back().map(|(since, set)| (*since, set))
    }
}

/// Publishes views, and knows which of them somebody still holds.
pub(crate) struct Views {
    latest: watch::Sender<Arc<View>>,
    held: Mutex<VecDeque<Weak<View>>>,
}

impl Views {
    pub fn new(first: Arc<View>) -> Views {
        let held = Mutex::new(VecDeque::from([Arc::downgrade(&first)]));
        Views { latest: watch::Sender::new(first), held }
    }

    pub fn latest(&self) -> Arc<View> {
        self.latest.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.latest.subscribe()
    }

    pub fn publish(&self, view: Arc<View>) {
        self.hold(&view);
        self.latest.send_replace(view);
    }

    /// Shows the same state through another view, which nobody is woken for.
    pub fn replace(&self, view: Arc<View>) {
        self.hold(&view);
        self.latest.send_if_modified(|latest| {
            *latest = view;
            false
        });
    }

    fn hold(&self, view: &Arc<View>) {
        let mut held = self.held.lock();
        // Most views are let go in the order they came; a long-held one makes a full pass worth it now and then.
        while held.front().is_some_and(|front| front.strong_count() == 0) {
            held.pop_front();
        }
        if held.len() > 64 && held.len().is_power_of_two() {
            held.retain(|view| view.strong_count() > 0);
        }
        held.push_back(Arc::downgrade(view));
    }

    /// Roots that have to stay in a store whose head is at this position, for all views that somebody holds, the latest among them.
    pub fn held_roots(&self, head: Position) -> Vec<Hash> {
        self.held.lock().iter().filter_map(|view| view.upgrade()?.needs(head)).collect()
    }

    /// How many there are beside the latest.
    pub fn held_count(&self) -> usize {
        self.held.lock().iter().filter(|view| view.strong_count() > 0).count().saturating_sub(1)
    }
}
