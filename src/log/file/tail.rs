//! What the writer has published: the part that readers may see.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use confold_model::ids::Position;
use parking_lot::{Condvar, Mutex};

use super::disk::Disk;
use super::segment::Waypoint;
use crate::{LogError, Range, Record, Tip, budget};

/// Shared by the writer and all readers.
pub(super) struct Tail {
    pub(super) disk: Arc<dyn Disk>,
    state: Mutex<State>,
    moved: Condvar,
    /// Where readers have come by, with the start of their segment: whoever seeks need not begin with the segment.
    waypoints: Mutex<BTreeMap<Position, (Position, Waypoint)>>,
}

/// So many are kept: those of 16 GiB that were sought through.
const WAYPOINTS: usize = 1 << 16;

struct State {
    /// Never empty. The last one grows.
    segments: VecDeque<Extent>,
    tip: Tip,
    /// The newest records, so that who keeps up never touches the disk. Ends at the tip.
    ring: VecDeque<Record>,
    ring_bytes: usize,
    ring_limit: usize,
    closed: bool,
}

/// The durable part of one segment file.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) start: Position,
    pub(super) len: u64,
}

/// Where a reader finds what comes next.
pub(super) enum Next {
    Records(Vec<Record>),
    /// In the file of this segment, which ends before `end`.
    Disk {
        extent: Extent,
        end: Position,
    },
    Nothing,
}

impl Tail {
    pub(super) fn new(disk: Arc<dyn Disk>, segments: VecDeque<Extent>, tip: Tip, ring_limit: usize) -> Tail {
        let state = State {
            segments,
            tip,
            ring: VecDeque::new(),
            ring_bytes: 0,
            ring_limit,
            closed: false,
        };
        Tail {
            disk,
            state: Mutex::new(state),
            moved: Condvar::new(),
            waypoints: Mutex::default(),
        }
    }

    pub(super) fn tip(&self) -> Tip {
        self.state.lock().tip
    }

    pub(super) fn range(&self) -> Range {
        let state = self.state.lock();
        Range {
            start: state.segments[0].start,
            end: state.tip.position,
        }
    }

    /// Makes durable records visible and wakes who waits for them. `extent`: the segment that they stand in, as it is now.
    pub(super) fn publish(&self, records: Vec<Record>, tip: Tip, extent: Extent) {
        let mut state = self.state.lock();
        match state.segments.back_mut() {
            Some(last) if last.start == extent.start => *last = extent,
            _ => state.segments.push_back(extent),
        }
        state.tip = tip;
        state.ring_bytes += records.iter().map(weight).sum::<usize>();
        state.ring.extend(records);
        while state.ring_bytes > state.ring_limit
            && let Some(oldest) = state.ring.pop_front()
        {
            state.ring_bytes -= weight(&oldest);
        }
        drop(state);
        self.moved.notify_all();
    }

    /// Forgets the segments before the one that starts at `start`.
    pub(super) fn trim(&self, start: Position) {
        let mut state = self.state.lock();
        while state.segments.len() > 1 && state.segments[0].start < start {
            state.segments.pop_front();
        }
    }

    /// The newest position, not after `position`, at which a segment starts; and all starts before it.
    pub(super) fn starts_up_to(&self, position: Position) -> Vec<Position> {
        let state = self.state.lock();
        state
            .segments
            .iter()
            .map(|extent| extent.start)
            .take_while(|start| *start <= position)
            .collect()
    }

    /// The last waypoint of a segment from which `position` lies ahead.
    pub(super) fn waypoint_before(&self, segment: Position, position: Position) -> Option<Waypoint> {
        let waypoints = self.waypoints.lock();
        let (_, (start, waypoint)) = waypoints.range(..=position).next_back()?;
        (*start == segment).then_some(*waypoint)
    }

    pub(super) fn keep_waypoint(&self, segment: Position, waypoint: Waypoint) {
        let mut waypoints = self.waypoints.lock();
        if waypoints.len() == WAYPOINTS {
            waypoints.clear();
        }
        waypoints.insert(waypoint.tip.position, (segment, waypoint));
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.moved.notify_all();
    }

    /// Waits until there is something at `from`, or until `deadline` (`None`: for ever).
    pub(super) fn next(
        &self,
        from: Position,
        max_records: usize,
        max_bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<Next, LogError> {
        let mut state = self.state.lock();
        loop {
            if from < state.segments[0].start {
                return Err(LogError::BelowStart {
                    asked: from,
                    start: state.segments[0].start,
                });
            }
            let in_ring = state.tip.position.0 - state.ring.len() as u64;
            if from < state.tip.position {
                if from.0 < in_ring {
                    return Ok(state.on_disk(from));
                }
                let newest = state.ring.range((from.0 - in_ring) as usize..);
                return Ok(Next::Records(budget(newest.cloned(), max_records, max_bytes)));
            }
            if state.closed {
                return Err(LogError::Closed);
            }
            let timed_out = match deadline {
                Some(deadline) => self.moved.wait_until(&mut state, deadline).timed_out(),
                None => {
                    self.moved.wait(&mut state);
                    false
                }
            };
            if timed_out && from >= state.tip.position && !state.closed {
                return Ok(Next::Nothing);
            }
        }
    }
}

impl State {
    fn on_disk(&self, from: Position) -> Next {
        let index = self.segments.partition_point(|extent| extent.start <= from) - 1;
        let end = self
            .segments
            .get(index + 1)
            .map_or(self.tip.position, |next| next.start);
        Next::Disk {
            extent: self.segments[index],
            end,
        }
    }
}

fn weight(record: &Record) -> usize {
    record.bytes.len() + size_of::<Record>()
}
