//! Looks after the log while nobody asks: where it ends, whether its brokers can be reached and take records, whether it is the same
//! topic.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use crate::admin::Admin;
use crate::notes;
use crate::preflight::{Finding, Wanted};
use crate::shared::{ASK, Shared};
use crate::taking::Taking;

/// The watch looks up so often, and whenever it is asked to.
const TICK: Duration = Duration::from_millis(100);
/// The range of the log is asked for so often at least.
const PROBE: Duration = Duration::from_secs(2);
/// While the brokers are away or take no records.
const PROBE_AWAY: Duration = Duration::from_millis(250);
/// How long the brokers may be silent before the log counts as unreachable.
const PROBE_WAIT: Duration = Duration::from_secs(2);
const NOTE: Duration = Duration::from_secs(10);
const SKEW_ALARM_MS: i64 = 60_000;

pub fn run(shared: &Arc<Shared>) {
    let mut probed = Instant::now();
    let (mut looked, mut noted) = (Instant::now(), Instant::now());
    let mut away = false;
    let mut shorter_since = None;
    let mut admin = None;
    let mut taking = Taking::new();
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
        let ill = away || shared.refusing().is_some();
        let due = probed.elapsed() >= if ill { PROBE_AWAY } else { PROBE };
        if due || asked || all_down.is_some() {
            away = probe(shared, away, &mut shorter_since);
            probed = Instant::now();
            // Whoever comes back may be another.
            if !away && shared.unreachable().is_some() {
                look(shared);
                looked = Instant::now();
            }
            if !away && (due || ill) {
                taking.look(shared, &mut admin);
            }
        }
        if shared.unreachable().is_none() {
            taking.judge(shared);
        }
        if !away && looked.elapsed() >= shared.options.look_every {
            look(shared);
            judge(shared, &mut admin);
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
fn probe(shared: &Shared, away: bool, shorter_since: &mut Option<Instant>) -> bool {
    match crate::shared::ask_range(&shared.producer, &shared.options.topic, PROBE_WAIT) {
        Ok((start, end)) => {
            shared.saw_start(start);
            shared.leader_says_end(end, shorter_since);
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
    match shared.verify_topic(None) {
        Ok(()) => shared.set_reachable(Ok(())),
        Err(error) => shared.set_reachable(Err(error.to_string())),
    }
}

/// Settings that somebody changed for the worse while the log is open are an alarm: stopping would help nobody.
fn judge(shared: &Shared, admin: &mut Option<Admin>) {
    let options = &shared.options;
    let wanted = Wanted {
        max_event_bytes: options.record_bytes,
        dev_unsafe: options.dev_unsafe,
    };
    let asked = match admin.take() {
        Some(admin) => Ok(admin),
        None => Admin::new(&options.settings, ASK),
    };
    let found = asked.and_then(|asked| admin.insert(asked).preflight(&options.topic, wanted));
    match found {
        Ok(found) => {
            let new: Vec<Finding> = found.problems().into_iter().cloned().collect();
            let mut known = shared.problems.lock();
            for problem in new.iter().filter(|problem| !known.contains(problem)) {
                tracing::error!(log = shared.name(), "{problem}");
            }
            *known = new;
        }
        Err(error) => tracing::warn!(log = shared.name(), %error, "the topic's settings cannot be looked at"),
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
