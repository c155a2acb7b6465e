//! Linearizable reads on a log that cannot tell its own end: a fence event is appended, and when it comes back from the
//! log, everything acknowledged before is folded. One event serves all who arrived before it was appended.

use confold_model::ids::Position;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// At most one fence event in this time, however many readers wait.
const PACE: Duration = Duration::from_millis(10);
/// A fence event that has not come back after this time may be lost: the next one is due.
const PATIENCE: Duration = Duration::from_millis(500);

pub(crate) struct Barriers {
    state: Mutex<State>,
    /// Number of the newest fence that was folded, and where.
    passed: watch::Sender<(u64, Position)>,
}

#[derive(Default)]
struct State {
    started: u64,
    last: Option<Instant>,
    /// Own fences on their way: number and nonce.
    under_way: VecDeque<(u64, [u8; 16])>,
}

/// What a reader has to do next.
pub(crate) enum Turn {
    /// Append a fence that carries this nonce.
    Append([u8; 16]),
    /// Wait, for this long at most, then ask again.
    Wait(Duration),
}

impl Barriers {
    pub fn new() -> Barriers {
        Barriers { state: Mutex::default(), passed: watch::Sender::new((0, Position(0))) }
    }

    /// The number of a fence that is begun after this call.
    pub fn arrive(&self) -> u64 {
        self.state.lock().started + 1
    }

    pub fn watch(&self) -> watch::Receiver<(u64, Position)> {
        self.passed.subscribe()
    }

    /// Asked by each who waits for the fence `wanted` or a later one; `nonce` is used where it is this one's turn.
    pub fn turn(&self, wanted: u64, now: Instant, nonce: [u8; 16]) -> Turn {
        let mut state = self.state.lock();
        let since = state.last.map(|last| now.saturating_duration_since(last));
        let pause = if state.started >= wanted { PATIENCE } else { PACE };
        if let Some(left) = since.and_then(|since| pause.checked_sub(since)).filter(|left| !left.is_zero()) {
            return Turn::Wait(left);
        }
        state.started += 1;
        state.last = Some(now);
        let number = state.started;
        state.under_way.push_back((number, nonce));
        // Lost ones are never seen again; a bounded number of them is remembered.
        while state.under_way.len() > 256 {
            state.under_way.pop_front();
        }
        Turn::Append(nonce)
    }

    /// A fence event with this nonce was folded.
    pub fn pass(&self, nonce: &[u8], position: Position) {
        let mut state = self.state.lock();
        let Some(index) = state.under_way.iter().position(|(_, own)| own == nonce) else { return };
        let Some((number, _)) = state.under_way.remove(index) else { return };
        drop(state);
        self.passed.send_if_modified(|passed| {
            let newer = number > passed.0;
            if newer {
                *passed = (number, position);
            }
            newer
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_serves_only_those_who_came_before_it_was_appended() {
        let barriers = Barriers::new();
        let start = Instant::now();
        let first = barriers.arrive();
        assert!(matches!(barriers.turn(first, start, [1; 16]), Turn::Append(_)));
        let late = barriers.arrive();
        assert!(late > first);
        // The late one waits for its pace, then appends its own.
        assert!(matches!(barriers.turn(late, start, [2; 16]), Turn::Wait(_)));
        barriers.pass(&[1; 16], Position(5));
        assert!(barriers.watch().borrow().0 >= first && barriers.watch().borrow().0 < late);
        assert!(matches!(barriers.turn(late, start + PACE, [2; 16]), Turn::Append(_)));
        barriers.pass(&[2; 16], Position(6));
        assert_eq!(*barriers.watch().borrow(), (late, Position(6)));
    }

    #[test]
    fn a_lost_fence_is_appended_again_and_a_foreign_one_passes_nobody() {
        let barriers = Barriers::new();
        let start = Instant::now();
        let wanted = barriers.arrive();
        assert!(matches!(barriers.turn(wanted, start, [1; 16]), Turn::Append(_)));
        barriers.pass(&[9; 16], Position(3));
        assert_eq!(barriers.watch().borrow().0, 0);
        assert!(matches!(barriers.turn(wanted, start + PACE, [2; 16]), Turn::Wait(_)));
        assert!(matches!(barriers.turn(wanted, start + PATIENCE, [2; 16]), Turn::Append(_)));
    }
}
