//! Whether the log confirms what a snapshot says of itself.

use super::{Header, SnapshotError};
use confold_log::{Log, Reader, Tip};
use confold_model::event::{Body, Event};
use confold_model::ids::Position;
use std::collections::BTreeSet;
use std::time::Duration;

/// Replicas whose checkpoints on the log say the same of the mark, and those that differ.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    pub agree: BTreeSet<[u8; 16]>,
    pub differ: BTreeSet<[u8; 16]>,
}

/// Reads the log from the mark on, until another replica than the source has announced the same state there. Where no other
/// replica speaks on the log at all, the source's own checkpoint does. Blocks.
pub fn verify(log: &dyn Log, header: &Header) -> Result<Verified, SnapshotError> {
    let no = |what: String| Err(SnapshotError::Unconfirmed(what));
    if log.transport_id() != header.transport_id {
        let (ours, found) = (hex::encode(log.transport_id()), hex::encode(header.transport_id));
        return no(format!("it was folded from log {found}, this is log {ours}"));
    }
    let (range, mark) = (log.range(), header.position);
    if mark >= range.end {
        return no(format!("it stands at position {mark}, the log ends before {}", range.end));
    }
    if mark.next() < range.start {
        return no(format!("it stands at position {mark}, and the log begins at {} only: take a newer one", range.start));
    }
    let mut reader: Box<dyn Reader>;
    if mark >= range.start {
        log.anchor(Tip { position: mark, digest: header.before, time: header.time });
        reader = log.reader(mark)?;
        match reader.read(1, 1, Duration::from_secs(5))?.first() {
            Some(record) if record.digest == header.digest => {}
            Some(record) => return no(format!("position {mark} has digest {} on the log, {} in the snapshot", record.digest, header.digest)),
            None => return no(format!("position {mark} cannot be read from the log")),
        }
    } else {
        log.anchor(Tip { position: mark.next(), digest: header.digest, time: header.time });
        reader = log.reader(mark.next())?;
    }
    let (mut verified, mut others) = (Verified::default(), BTreeSet::new());
    let mut next = mark.next();
    while next < range.end {
        let records = reader.read(1024, 4 << 20, Duration::from_secs(5))?;
        let Some(last) = records.last() else {
            return no(format!("position {next} cannot be read from the log"));
        };
        next = Position(last.position.0 + 1);
        for record in &records {
            let Ok(Event { body: Body::Checkpoint(checkpoint), incarnation, .. }) = Event::decode(&record.bytes) else { continue };
            if incarnation != header.incarnation {
                continue;
            }
            if checkpoint.replica != header.source {
                others.insert(checkpoint.replica);
            }
            if checkpoint.position == mark {
                let same = (checkpoint.chain, checkpoint.state) == (header.chain, header.state);
                if same { &mut verified.agree } else { &mut verified.differ }.insert(checkpoint.replica);
            }
        }
        if verified.differ.is_empty() && verified.agree.iter().any(|replica| *replica != header.source) {
            return Ok(verified);
        }
    }
    let confirmed = verified.agree.iter().any(|replica| others.is_empty() || *replica != header.source);
    match (confirmed, verified.agree.len() > verified.differ.len()) {
        (true, true) => Ok(verified),
        (false, _) if verified.differ.is_empty() => no(format!(
            "no other replica has announced the state of mark {mark}: take a newer snapshot after they have, or ask another replica"
        )),
        _ => {
            let names: Vec<String> = verified.differ.iter().map(hex::encode).collect();
            no(format!("state {} of mark {mark} is not what these replicas announced: {}", header.state, names.join(", ")))
        }
    }
}
