//! Whether the brokers take records. They may answer every question and yet take none: too few copies are in sync, this user may
//! not write any more, or those that keep copies hang.

use std::time::{Duration, Instant};

use crate::admin::Admin;
use crate::producer::forbidden;
use crate::shared::{ASK, Shared, Stage};

/// A record that was given up is handed over again so often.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How many copies must be in sync is asked so often while some are not.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Which copies are in sync may be known a little later.
const GLANCE: Duration = Duration::from_millis(500);

/// What is known of the partition's copies.
pub struct Taking {
    copies: Option<Copies>,
    /// Of them that must be in sync, where this user may see it.
    least: Option<usize>,
    asked: Option<Instant>,
    tried: Instant,
}

#[derive(Default)]
struct Copies {
    all: Vec<i32>,
    in_sync: Vec<i32>,
}

impl Taking {
    pub fn new() -> Taking {
        Taking {
            copies: None,
            least: None,
            asked: None,
            tried: Instant::now(),
        }
    }

    /// Asks which copies are in sync. Where nobody says so, what was known before counts.
    pub fn look(&mut self, shared: &Shared, admin: &mut Option<Admin>) {
        let wait = if shared.refusing().is_some() { ASK } else { GLANCE };
        let topic = &shared.options.topic;
        let asked = shared
            .producer
            .with_client(|client| client.fetch_metadata(Some(topic), wait));
        let Ok(metadata) = asked else { return };
        let partition = metadata.topics().first().and_then(|topic| topic.partitions().first());
        let Some(partition) = partition else { return };
        let copies = Copies {
            all: partition.replicas().to_vec(),
            in_sync: partition.isr().to_vec(),
        };
        let missing = copies.in_sync.len() < copies.all.len();
        if missing && self.asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN) {
            if admin.is_none() {
                *admin = Admin::new(&shared.options.settings, ASK).ok();
            }
            match admin.as_ref().map(|admin| admin.least_in_sync(topic)) {
                Some(Ok(least)) => self.least = least,
                answer => tracing::debug!(?answer, "how many copies must be in sync cannot be asked"),
            }
            self.asked = Some(Instant::now());
        }
        self.copies = Some(copies);
    }

    /// Says whether records are taken, and hands the one that shows it over again.
    pub fn judge(&mut self, shared: &Shared) {
        let now = Instant::now();
        let patience = shared.options.confirm_within;
        let (stalled, refused, again) = {
            let deliveries = shared.events.deliveries.lock();
            (
                deliveries.stalled(now, patience),
                deliveries.refused(),
                deliveries.to_try(),
            )
        };
        let why = match (refused, self.copies.as_ref()) {
            (Some(_), _) => Some(forbidden(&shared.options.topic)),
            (None, Some(copies)) if self.least.is_some_and(|least| copies.in_sync.len() < least) => {
                Some(too_few(copies, self.least.unwrap_or(0)))
            }
            (None, copies) => stalled.then(|| hangs(copies, patience)),
        };
        shared.set_taking(why.map_or(Ok(()), |why| Err(format!("{}: {why}", shared.name()))));
        if let Some(record) = again
            && now.saturating_duration_since(self.tried) >= TRY_AGAIN
            && shared.stage() == Stage::Open
        {
            self.tried = now;
            if let Err(error) = shared.producer.send(&record, None) {
                tracing::debug!(%error, "what was given up cannot be handed over again");
            }
        }
    }
}

fn too_few(copies: &Copies, least: usize) -> String {
    let Copies { all, in_sync } = copies;
    let missing = all.iter().filter(|broker| !in_sync.contains(broker));
    let missing: Vec<String> = missing.map(|broker| format!("broker {broker}")).collect();
    format!(
        "{} of {} copies in sync, and min.insync.replicas is {least}: the brokers refuse every write (NOT_ENOUGH_REPLICAS); see to {}",
        in_sync.len(),
        all.len(),
        missing.join(", ")
    )
}

fn hangs(copies: Option<&Copies>, patience: Duration) -> String {
    let sync = copies.map_or(String::new(), |Copies { all, in_sync }| {
        format!(" ({} of {} copies count as in sync)", in_sync.len(), all.len())
    });
    format!(
        "the leader answers, and has confirmed no record for {patience:?} although some wait{sync}: see to the other brokers and \
         to the controllers"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missing_is_named() {
        let too_few = |all: &[i32], in_sync: &[i32], least| {
            let copies = Copies {
                all: all.to_vec(),
                in_sync: in_sync.to_vec(),
            };
            too_few(&copies, least)
        };
        assert_eq!(
            too_few(&[1, 2, 3], &[2], 2),
            "1 of 3 copies in sync, and min.insync.replicas is 2: the brokers refuse every write (NOT_ENOUGH_REPLICAS); see to \
             broker 1, broker 3"
        );
    }

    #[test]
    fn what_hangs_is_said_with_what_is_known_of_the_copies() {
        let copies = Copies {
            all: vec![1, 2, 3],
            in_sync: vec![1, 2, 3],
        };
        let said = hangs(Some(&copies), Duration::from_secs(5));
        assert!(
            said.contains("no record for 5s although some wait (3 of 3 copies count as in sync)"),
            "{said}"
        );
        assert!(hangs(None, Duration::from_secs(5)).contains("although some wait: see to"));
    }
}
