//! Bugs to be caught: each stands between the real parts, none within them.
//!
//! A checker that never fires proves nothing. So each plant does to one replica, store, log or client what a bug would,
//! and names the checkers of which one must fire. Where an early checker hides what a later one would see, the plant
//! silences it: both are then known to bite.

use super::checkers::Check;
use confold_log::Record;
use confold_model::digest::log_digest;
use confold_model::event::{Body, Event, OperationKind};
use confold_model::ids::{Hash, Position, Time};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Plant {
    /// One replica is shown another time than the log's, with a digest that fits.
    OtherTime,
    OtherTimeAndDigest,
    /// One replica misses a record.
    SkippedRecord,
    SkippedAndRenumbered,
    SkippedUnseen,
    /// One replica gets two records in the other order.
    SwappedRecords,
    SwappedAndRenumbered,
    /// One replica folds other bytes: a flipped leaf.
    FlippedLeaf,
    FlippedLeafInTree,
    /// Seen only by what the replicas announce to each other.
    FlippedLeafAnnounced,
    /// A folding that is not a function of its input.
    ImpureFold,
    /// A client mints a new id for a second attempt.
    RetryWithNewId,
    /// Answers at delivery, before the fold.
    AckOnDelivery,
    /// Says yes whatever was decided.
    AckAlwaysAccepted,
    /// Settles an event with another outcome than the fold's.
    MisreportedOutcome,
    /// Shows readers once more what they were shown before, and not what is folded.
    OldViewShown,
    LostObject,
    WrongObject,
    LostStateRow,
    /// The window is not there after a restart.
    LostWindow,
    LostWindowUnseen,
    /// Nor is the policy.
    LostPolicy,
    /// The head moves in one batch, the state in none.
    TornBatch,
    /// The store goes back to an older state under a live replica.
    OldStoreUnderFolder,
    LostIdRow,
    WrongHistoryRow,
    LostMarkFlag,
    SweepForgetsHeldViews,
    SweepTakesLiveObject,
    /// Folds on after an activation of a level that it does not know.
    FoldsPastHalt,
    /// The log lost its end and grew another while the replica was down.
    LogRewritten,
    /// A replica never reads again.
    DeafReplica,
}

impl Plant {
    pub const ALL: [Plant; 32] = [
        Plant::OtherTime,
        Plant::OtherTimeAndDigest,
        Plant::SkippedRecord,
        Plant::SkippedAndRenumbered,
        Plant::SkippedUnseen,
        Plant::SwappedRecords,
        Plant::SwappedAndRenumbered,
        Plant::FlippedLeaf,
        Plant::FlippedLeafInTree,
        Plant::FlippedLeafAnnounced,
        Plant::ImpureFold,
        Plant::RetryWithNewId,
        Plant::AckOnDelivery,
        Plant::AckAlwaysAccepted,
        Plant::MisreportedOutcome,
        Plant::OldViewShown,
        Plant::LostObject,
        Plant::WrongObject,
        Plant::LostStateRow,
        Plant::LostWindow,
        Plant::LostWindowUnseen,
        Plant::LostPolicy,
        Plant::TornBatch,
        Plant::OldStoreUnderFolder,
        Plant::LostIdRow,
        Plant::WrongHistoryRow,
        Plant::LostMarkFlag,
        Plant::SweepForgetsHeldViews,
        Plant::SweepTakesLiveObject,
        Plant::FoldsPastHalt,
        Plant::LogRewritten,
        Plant::DeafReplica,
    ];

    /// One of these must fire.
    pub fn caught_by(self) -> &'static [Check] {
        match self {
            Plant::OtherTime | Plant::SkippedAndRenumbered | Plant::SwappedAndRenumbered | Plant::FlippedLeaf => {
                &[Check::Digest]
            }
            Plant::OtherTimeAndDigest => &[Check::Time],
            Plant::SkippedRecord | Plant::SwappedRecords => &[Check::Positions],
            Plant::SkippedUnseen => &[Check::Agreement],
            Plant::FlippedLeafInTree => &[Check::Tree, Check::History],
            Plant::FlippedLeafAnnounced => &[Check::Alarm],
            Plant::ImpureFold => &[Check::Pure],
            Plant::RetryWithNewId => &[Check::Once],
            Plant::AckOnDelivery | Plant::AckAlwaysAccepted => &[Check::Answers],
            Plant::OldViewShown => &[Check::Views],
            Plant::LostObject => &[Check::Objects, Check::OneBatch, Check::Reachable],
            Plant::WrongObject => &[Check::Objects],
            Plant::LostStateRow | Plant::LostWindow => &[Check::StateRows],
            Plant::LostWindowUnseen | Plant::LostPolicy | Plant::MisreportedOutcome => &[Check::Verdicts],
            Plant::TornBatch | Plant::OldStoreUnderFolder => &[Check::OneBatch],
            Plant::LostIdRow | Plant::WrongHistoryRow | Plant::LostMarkFlag => &[Check::History],
            Plant::SweepForgetsHeldViews | Plant::SweepTakesLiveObject => &[Check::Reachable],
            Plant::FoldsPastHalt => &[Check::Level],
            Plant::LogRewritten => &[Check::Digest],
            Plant::DeafReplica => &[Check::Liveness],
        }
    }

    /// Checkers that would have caught it before.
    pub fn silenced(self) -> &'static [Check] {
        match self {
            Plant::OtherTimeAndDigest => &[Check::Digest, Check::Agreement],
            Plant::SkippedUnseen => &[Check::Digest],
            Plant::FlippedLeafInTree => &[
                Check::Digest,
                Check::Agreement,
                Check::Verdicts,
                Check::History,
                Check::Alarm,
            ],
            Plant::FlippedLeafAnnounced => &[
                Check::Digest,
                Check::Agreement,
                Check::Verdicts,
                Check::Tree,
                Check::History,
                Check::Views,
                Check::Answers,
            ],
            Plant::LostWindowUnseen | Plant::LostPolicy => {
                &[Check::StateRows, Check::Pure, Check::Agreement, Check::Alarm]
            }
            _ => &[],
        }
    }

    /// Whether the replica with the plant must stay up: a restart would show it the true log.
    pub fn keeps_up(self) -> bool {
        use Plant::*;
        matches!(
            self,
            OtherTime
                | OtherTimeAndDigest
                | SkippedAndRenumbered
                | SkippedUnseen
                | SwappedAndRenumbered
                | FlippedLeaf
                | FlippedLeafInTree
                | FlippedLeafAnnounced
        )
    }
}

/// What one replica is shown of the log. Without a plant, the log.
pub struct Feed {
    plant: Option<Plant>,
    /// Where the lie begins.
    from: Position,
    told: bool,
    /// Position and digest of the last record given, once a lie must be kept up.
    lie: Option<(Position, Hash)>,
    last: Hash,
    held_back: Option<Record>,
}

impl Feed {
    pub fn new(plant: Option<Plant>, from: Position) -> Feed {
        Feed {
            plant,
            from,
            told: false,
            lie: None,
            last: Hash::ZERO,
            held_back: None,
        }
    }

    /// What is given to the replica for the next record of the log.
    pub fn give(&mut self, record: Record) -> Vec<Record> {
        let given = self.twisted(record);
        given.into_iter().map(|record| self.fitted(record)).collect()
    }

    fn twisted(&mut self, mut record: Record) -> Vec<Record> {
        let Some(plant) = self.plant.filter(|_| record.position >= self.from) else {
            return vec![record];
        };
        if let Some(before) = self.held_back.take() {
            self.told = true;
            return vec![record, before];
        }
        if self.told {
            return vec![record];
        }
        let start = |feed: &mut Feed| feed.lie = Some((Position(record.position.0 - 1), feed.last));
        match plant {
            Plant::OtherTime | Plant::OtherTimeAndDigest => {
                start(self);
                self.told = true;
                record.time = Time(record.time.0 + 1_000_000);
            }
            Plant::SkippedRecord => {
                self.told = true;
                return Vec::new();
            }
            Plant::SkippedAndRenumbered | Plant::SkippedUnseen => {
                start(self);
                self.told = true;
                return Vec::new();
            }
            Plant::SwappedRecords => {
                self.held_back = Some(record);
                return Vec::new();
            }
            Plant::SwappedAndRenumbered => {
                start(self);
                self.held_back = Some(record);
                return Vec::new();
            }
            Plant::FlippedLeaf | Plant::FlippedLeafInTree | Plant::FlippedLeafAnnounced => {
                if let Some(flipped) = flipped(&record) {
                    start(self);
                    self.told = true;
                    record.bytes = flipped.into();
                }
            }
            _ => {}
        }
        vec![record]
    }

    fn fitted(&mut self, mut record: Record) -> Record {
        if let Some((last, digest)) = &mut self.lie {
            record.position = last.next();
            record.digest = log_digest(*digest, record.position, record.time, &record.bytes);
            (*last, *digest) = (record.position, record.digest);
        }
        self.last = record.digest;
        record
    }
}

/// The same commit with another text in one of its puts.
fn flipped(record: &Record) -> Option<Vec<u8>> {
    let mut event = Event::decode(&record.bytes).ok()?;
    let Body::Commit(commit) = &mut event.body else {
        return None;
    };
    let operation = commit
        .operations
        .iter_mut()
        .find(|operation| operation.base.is_none())?;
    let (OperationKind::Add { value } | OperationKind::Put { value }) = &mut operation.kind else {
        return None;
    };
    // A label or name of one letter: field 2, one byte.
    let at = value
        .windows(3)
        .position(|three| three[0] == 0x12 && three[1] == 1 && three[2].is_ascii_lowercase())?;
    value.to_mut()[at + 2] ^= 1;
    Some(event.encode())
}
