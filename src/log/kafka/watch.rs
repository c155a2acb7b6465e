//! Looks after the log while nobody asks: where it ends, whether its brokers can be reached, whether it is the same topic.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use crate::notes;
use crate::shared::Shared;

/// The watch looks up so often, and whenever it is asked to.
const TICK: Duration = Duration::from_millis(100);
/// The range of the log is asked for so often at least.
const PROBE: Duration = Duration::from_secs(2);
/// While the brokers are away.
const PROBE_AWAY: Duration = Duration::from_millis(250);
/// How long the brokers may be silent before the log counts as unreachable.
const PROBE_WAIT: Duration = Duration::from_secs(2);
/// The topic itself is looked at so often.
const LOOK: Duration = Duration::from_secs(60);
const NOTE: Duration = Duration::from_secs(10);
const SKEW_ALARM_MS: i64 = 60_000;

pub fn run(shared: &Arc<Shared>) {
    let mut probed = Instant::now();
    let (mut looked, mut noted) = (Instant::now(), Instant::now());
    let mut away = false;
    while !shared.stopping.load(SeqCst) {
        let asked = {
            let mut watch = shared.watch.lock();
            if !watch.asked {
                shared.watch_moved.wait_for(&mut watch, TICK);
            }
            std::mem::take(&mut watch.asked)
        };
        if shared.stopping.load(SeqCst) {
            break;
        }
        shared.serve_idle();
        let all_down = shared.events.all_down.lock().take();
        let due = probed.elapsed() >= if away { PROBE_AWAY } else { PROBE };
        if due || asked || all_down.is_some() {
            away = probe(shared, away);
            probed = Instant::now();
            // Whoever comes back may be another.
            if !away && shared.unreachable().is_some() {
                look(shared);
                looked = Instant::now();
            }
        }
        if !away && looked.elapsed() >= LOOK {
            look(shared);
            alarm_skew(shared);
            looked = Instant::now();
        }
        if noted.elapsed() >= NOTE {
            notes::write(shared);
            noted = Instant::now();
        }
    }
    notes::write(shared);
}

/// Whether the brokers are away.
fn probe(shared: &Shared, away: bool) -> bool {
    match crate::shared::ask_range(&shared.producer, &shared.options.topic, PROBE_WAIT) {
        Ok((start, end)) => {
            shared.saw_start(start);
            shared.saw_end(end);
            shared.end_was_asked();
            if !away {
                shared.set_reachable(Ok(()));
            }
            false
        }
        Err(why) => {
            shared.set_reachable(Err(format!("{}: {why}", shared.name())));
            true
        }
    }
}

/// Another topic fences the log; brokers that cannot say are asked again.
fn look(shared: &Shared) {
    match shared.verify_topic() {
        Ok(()) => shared.set_reachable(Ok(())),
        Err(error) => shared.set_reachable(Err(error.to_string())),
    }
}

fn alarm_skew(shared: &Shared) {
    let skew = shared.tally.skew_ms.load(Relaxed);
    if skew.abs() > SKEW_ALARM_MS {
        tracing::error!(
            log = shared.name(),
            milliseconds = skew,
            "the brokers' clock and this machine's differ by more than a minute: times of events are the brokers'"
        );
    }
}
