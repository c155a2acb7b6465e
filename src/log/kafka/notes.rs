//! Hints in the data folder. Without them everything works; with them a topic that has lost its first record still says where
//! its positions begin and which of its records were copied, and a leader epoch that went down is seen across a restart.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::hex_id;
use crate::shared::{EpochFloor, Shared};

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Notes {
    pub topic_id: String,
    /// Position minus offset.
    pub shift: i64,
    /// Records below this position were copied.
    pub copied: u64,
    pub epoch: i32,
    pub epoch_offset: i64,
}

/// `None`: there are none, they are of another topic, or nobody can read them.
pub fn read(path: &Path, topic_id: [u8; 16]) -> Option<Notes> {
    let notes: Notes = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (notes.topic_id == hex_id(topic_id)).then_some(notes)
}

pub fn write(shared: &Shared) {
    let Some(path) = &shared.options.notes else { return };
    let EpochFloor { offset, epoch } = *shared.floor.lock();
    let notes = Notes {
        topic_id: hex_id(shared.topic_id),
        shift: shared.frame.shift,
        copied: shared.frame.copied.0,
        epoch,
        epoch_offset: offset,
    };
    if read(path, shared.topic_id).as_ref() == Some(&notes) {
        return;
    }
    let unfinished = path.with_extension("tmp");
    let written = serde_json::to_vec(&notes)
        .map_err(std::io::Error::from)
        .and_then(|bytes| std::fs::write(&unfinished, bytes))
        .and_then(|()| std::fs::rename(&unfinished, path));
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "notes about the topic cannot be written; they are hints only");
    }
}
