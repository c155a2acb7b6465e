//! Opening a folder: what is believed, what is repaired, what is refused.
//!
//! Repaired, and reported: the remains of one write that a crash cut short, at the very end of the log. Refused: everything
//! else, above all damage with something sound after it, and an end that would lose what the caller has already applied.

use std::collections::VecDeque;
use std::sync::Arc;

use confold_model::ids::Position;

use super::disk::{Access, Disk, NotLocked};
use super::frame::Identity;
use super::origin;
use super::segment::{Broken, Segment, name_of, place, start_of};
use super::tail::Extent;
use super::writer::UNFINISHED;
use super::{Cut, Options, Origin};
use crate::{LogError, Tip};

/// A folder whose every part that was looked at is sound.
pub(super) struct Found {
    pub(super) identity: Identity,
    pub(super) origin: Option<Origin>,
    pub(super) extents: VecDeque<Extent>,
    /// The last segment, open as asked.
    pub(super) last: Segment,
    pub(super) tip: Tip,
    pub(super) cut: Option<Cut>,
}

/// Only one process writes a folder.
pub(super) fn lock(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, LogError> {
    disk.lock().map_err(|error| match error {
        NotLocked::Held(by) => LogError::Locked {
            folder: disk.folder(),
            by,
        },
        NotLocked::Io(error) => LogError::failed(format!("cannot lock {}", disk.folder()), error),
    })
}

/// The same for a folder that must hold a log: an unrelated one is not even given a lock file.
pub(super) fn lock_existing(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, LogError> {
    if segments(disk)?.is_empty() {
        return Err(LogError::Missing { folder: disk.folder() });
    }
    lock(disk)
}

/// First positions of the segments in the folder, ascending.
pub(super) fn segments(disk: &dyn Disk) -> Result<Vec<Position>, LogError> {
    let mut starts: Vec<Position> = list(disk)?.iter().filter_map(|name| start_of(name)).collect();
    starts.sort();
    Ok(starts)
}

/// With `Access::Write` the torn end is cut off and leftovers are removed; with `Access::Read` the folder is left as it is.
pub(super) fn find(disk: &Arc<dyn Disk>, access: Access, options: &Options) -> Result<Found, LogError> {
    let disk = &**disk;
    let names = list(disk)?;
    let origin = if names.iter().any(|name| name == origin::NAME) {
        Some(origin::read(disk)?)
    } else {
        None
    };
    let first = origin.map_or(Tip::START, |origin| origin.first);
    // A trim that was interrupted: the origin says that these are gone.
    let (trimmed, starts): (Vec<Position>, Vec<Position>) =
        segments(disk)?.into_iter().partition(|start| *start < first.position);
    if starts.is_empty() {
        return Err(LogError::Missing { folder: disk.folder() });
    }

    let mut chain = Chain {
        disk,
        options,
        first,
        origin: origin.as_ref(),
        identity: None,
        before: None,
    };
    let mut extents = VecDeque::new();
    let (earlier, last) = starts.split_at(starts.len() - 1);
    for start in earlier {
        let (segment, len) = chain.link(*start, Access::Read)?;
        if options.verify_all {
            let tip = scan_whole(disk, &segment, len)?;
            chain.before = Some((len, Some(tip)));
        }
        extents.push_back(Extent { start: *start, len });
    }
    let (last, len) = chain.link(last[0], access)?;
    if access == Access::Write {
        settle(disk, &last)?;
    }
    let (tip, sound, torn) = scan_last(disk, &last, len)?;
    keep(disk, &last, tip, sound, torn.as_deref(), options.must_have)?;
    extents.push_back(Extent {
        start: last.header.start.position,
        len: sound,
    });

    let cut = torn.map(|why| Cut {
        file: place(disk, &last.name),
        offset: sound,
        bytes: len - sound,
        position: tip.position,
        why,
    });
    if access == Access::Write {
        tidy(disk, &names, &trimmed)?;
        if let Some(cut) = &cut {
            cut_off(&last, cut)?;
        }
    }
    Ok(Found {
        identity: last.header.identity,
        origin,
        extents,
        last,
        tip,
        cut,
    })
}

/// Each segment has to follow from the one before.
struct Chain<'a> {
    disk: &'a dyn Disk,
    options: &'a Options,
    first: Tip,
    origin: Option<&'a Origin>,
    identity: Option<Identity>,
    /// Length of the segment before, and where it ends when it was read.
    before: Option<(u64, Option<Tip>)>,
}

impl Chain<'_> {
    fn link(&mut self, start: Position, access: Access) -> Result<(Segment, u64), LogError> {
        let segment = Segment::open(self.disk, start, access)?;
        let len = segment
            .file
            .len()
            .map_err(|error| LogError::failed(format!("cannot read {}", place(self.disk, &segment.name)), error))?;
        let header = &segment.header;
        let corrupt = |what| {
            Err(LogError::Corrupt {
                file: place(self.disk, &segment.name),
                offset: 0,
                position: start,
                what,
            })
        };
        let identity = *self.identity.get_or_insert(header.identity);
        if let Some(expected) = self.options.transport_id
            && expected != header.identity.transport_id
        {
            return Err(LogError::Fenced {
                what: format!(
                    "{} does not have the transport id that was asked for",
                    self.disk.folder()
                ),
            });
        }
        if header.identity != identity || self.origin.is_some_and(|origin| origin.identity != identity) {
            return corrupt("the segment is of another log than the files beside it".to_owned());
        }
        match self.before {
            None if start != self.first.position => {
                return corrupt(format!(
                    "the log should begin with position {}: segments before this one are missing",
                    self.first.position
                ));
            }
            None if header.start.digest != self.first.digest => {
                return corrupt("the log digest before the first record is wrong".to_owned());
            }
            None => {}
            Some((bytes, _)) if header.bytes_before != bytes => {
                return corrupt(format!(
                    "the segment before it had {} bytes, and the file before it has {bytes}: one is missing, or was changed",
                    header.bytes_before
                ));
            }
            Some((_, Some(tip))) if header.start != tip => {
                return corrupt(format!(
                    "the segment before it ends before position {} with log digest {}",
                    tip.position,
                    tip.digest.short()
                ));
            }
            Some(_) => {}
        }
        self.before = Some((len, None));
        Ok((segment, len))
    }
}

/// What a process that died had written and not synced is served only once it is durable; and what a failed sync left in
/// memory alone is not served at all.
fn settle(disk: &dyn Disk, last: &Segment) -> Result<(), LogError> {
    let done = last
        .file
        .sync()
        .and_then(|()| disk.sync_folder())
        .and_then(|()| last.file.forget_cached());
    done.map_err(|error| LogError::failed(format!("cannot sync {}", place(disk, &last.name)), error))
}

fn scan_whole(disk: &dyn Disk, segment: &Segment, len: u64) -> Result<Tip, LogError> {
    let mut cursor = segment.cursor();
    loop {
        match cursor.next(len) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(cursor.tip),
            Err(broken) => return Err(broken.error(disk, &segment.name, &cursor)),
        }
    }
}

/// Where the log ends, how long the sound part of the file is, and what is wrong with the rest.
fn scan_last(disk: &dyn Disk, segment: &Segment, len: u64) -> Result<(Tip, u64, Option<String>), LogError> {
    let mut cursor = segment.cursor();
    loop {
        let what = match cursor.next(len) {
            Ok(Some(_)) => continue,
            Ok(None) => return Ok((cursor.tip, cursor.offset, None)),
            Err(Broken::Unsound { what }) => what,
            Err(broken) => return Err(broken.error(disk, &segment.name, &cursor)),
        };
        return match cursor.find_later(len) {
            Err(error) => Err(Broken::Io(error).error(disk, &segment.name, &cursor)),
            Ok(None) => Ok((cursor.tip, cursor.offset, Some(what))),
            Ok(Some((offset, position))) => {
                let what = format!("{what}, and a sound batch follows at byte {offset} with position {position}");
                Err(Broken::Wrong { what }.error(disk, &segment.name, &cursor))
            }
        };
    }
}

fn keep(
    disk: &dyn Disk,
    last: &Segment,
    tip: Tip,
    sound: u64,
    torn: Option<&str>,
    must_have: Option<Position>,
) -> Result<(), LogError> {
    match must_have {
        Some(applied) if applied >= tip.position => {
            let how = torn.unwrap_or("the log ends here");
            let what = format!("{how}, and position {applied} was already applied from this log");
            Err(LogError::Corrupt {
                file: place(disk, &last.name),
                offset: sound,
                position: tip.position,
                what,
            })
        }
        _ => Ok(()),
    }
}

fn tidy(disk: &dyn Disk, names: &[String], trimmed: &[Position]) -> Result<(), LogError> {
    let unfinished = names
        .iter()
        .filter(|name| [UNFINISHED, origin::UNFINISHED].contains(&name.as_str()))
        .cloned();
    for name in unfinished.chain(trimmed.iter().map(|start| name_of(*start))) {
        tracing::info!(file = %place(disk, &name), "removing what an interrupted step left behind");
        disk.remove(&name)
            .map_err(|error| LogError::failed(format!("cannot remove {}", place(disk, &name)), error))?;
    }
    Ok(())
}

/// Durable before anything is written there: what was cut must not come back behind a new record.
fn cut_off(last: &Segment, cut: &Cut) -> Result<(), LogError> {
    tracing::warn!(file = %cut.file, offset = cut.offset, bytes = cut.bytes, position = %cut.position, why = %cut.why, "cutting off a write that was never finished");
    let done = last.file.truncate(cut.offset).and_then(|()| last.file.sync());
    done.map_err(|error| LogError::failed(format!("cannot cut off the torn end of {}", cut.file), error))?;
    Ok(())
}

fn list(disk: &dyn Disk) -> Result<Vec<String>, LogError> {
    match disk.list() {
        Ok(names) => Ok(names),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(LogError::Missing { folder: disk.folder() }),
        Err(error) => Err(LogError::failed(format!("cannot list {}", disk.folder()), error)),
    }
}
