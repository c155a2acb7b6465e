//! A store taken from one log to another: positions, times, records, and so revisions, roots, tags and chain stay what they
//! are.
//!
//! ```text
//! seal the source (a move) ─▶ copy every record ─▶ read the target again: same digest? ─▶ fold it, append `open` ─▶ serve
//!                             resumable anywhere                                          a new incarnation
//! ```
//! The target serves nobody before its `open` is folded, and the source of a move takes nothing more after its seal. Without a
//! move the source lives on, and from the copy's end the two are different stores.

use crate::config::{Config, Kafka};
use crate::folder::{self, FolderError, LOG, Place};
use crate::kafka::{self, Shape, Topic};
use confold_log::file::{self, Copy, FileLog, Identity, Origin};
use confold_log::{CopyTarget, Log, LogError, Range, Tip};
use confold_log_kafka::KafkaCopy;
use confold_model::event::Body;
use confold_model::fold::Outcome;
use confold_model::ids::{Hash, Incarnation, Position};
use confold_replica::{Handle, Housekeeping, OpenError, Options, Proposal, Replica, ReplicaState, Settled};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an event of our own may take, and a log may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lock of our own that was just given up may be held a moment longer by a process that was being started meanwhile.
const LINGER: Duration = Duration::from_secs(2);

/// Records read at once.
const RECORDS: usize = 4_096;
const BYTES: usize = 4 << 20;

/// One end of a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// A data folder, or the folder of an exported log. A target is made a data folder.
    Folder(PathBuf),
    Topic(Kafka),
}

/// What is to be copied, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    pub from: End,
    pub to: End,
    /// Make the target's topic, where it is not there.
    pub create_topic: Option<Shape>,
    /// Seal the source first.
    pub is_move: bool,
    /// The last position to copy.
    pub until: Option<Position>,
    /// Go on with a copy that was interrupted.
    pub resume: bool,
    /// Whose right to administer the store is used, where it has rules.
    pub principal: String,
    pub author: String,
}

/// What `survey` found, before anything is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    pub store_name: String,
    pub log_id: [u8; 16],
    /// Positions of the source as it is now.
    pub range: Range,
    /// The first position that stays behind.
    pub end: Position,
}

/// What a copy came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub store_name: String,
    pub log_id: [u8; 16],
    /// Records of the copy, and the log digest of the last.
    pub records: u64,
    pub digest: Hash,
    /// Where this run began.
    pub resumed_at: Position,
    pub incarnation: Incarnation,
    pub transport_id: [u8; 16],
    /// Position of the `open`.
    pub opened: Position,
    /// Where the log lies that was left, when its data folder was pointed to the new one.
    pub kept: Option<PathBuf>,
    pub sealed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the log begins at position {0}: what stood before was trimmed away, and a copy cannot be folded without it")]
    Trimmed(Position),
    #[error("position {asked} is not on the log, which ends before {end}")]
    Beyond { asked: Position, end: Position },
    #[error("{0} holds a log already")]
    Occupied(String),
    #[error("what stands in {to} is not a copy of {from}: at position {position} one has digest {theirs}, the other {ours}")]
    NotACopy { from: String, to: String, position: Position, ours: Hash, theirs: Hash },
    #[error("the copy in {to} ends at {there}, and this one is to end at {here}")]
    OtherEnd { to: String, there: Position, here: Position },
    #[error("the copy came out with digest {found} at position {position}, the source has {wanted}: it was not opened")]
    Differs { position: Position, found: Hash, wanted: Hash },
    #[error("the store in {place} is {state}: {reason}")]
    NotServing { place: String, state: &'static str, reason: String },
    #[error("the {event} was not accepted: {why}")]
    Refused { event: &'static str, why: String },
    #[error("{0}")]
    Invalid(String),
}

impl From<LogError> for MoveError {
    fn from(error: LogError) -> MoveError {
        MoveError::Folder(error.into())
    }
}

impl MoveError {
    pub fn hint(&self) -> &'static str {
        match self {
            MoveError::Folder(error) => error.hint(),
            MoveError::Trimmed(_) => "take the whole log from an export that was made before, or keep the store where it is",
            MoveError::Beyond { .. } => "`confold doctor --data DIR` says which positions there are",
            MoveError::Occupied(_) => "choose another target; a copy that was interrupted goes on with --resume",
            MoveError::NotACopy { .. } | MoveError::OtherEnd { .. } => "choose another target, or remove what stands there",
            MoveError::Differs { .. } => "copy again into another target; `confold doctor --deep` looks at the source",
            MoveError::NotServing { .. } => "",
            MoveError::Refused { .. } => {
                "where the store has rules, name somebody who may administer it: --as NAME; the source can be \
                 un-sealed with `confold log unseal`"
            }
            MoveError::Invalid(_) => "",
        }
    }
}

impl End {
    pub fn name(&self) -> String {
        match self {
            End::Folder(dir) => dir.display().to_string(),
            End::Topic(kafka) => format!("kafka://{}/{}", kafka.brokers, kafka.topic.as_deref().unwrap_or_default()),
        }
    }

    /// The log, to be read only: another process may be writing it.
    fn read(&self) -> Result<Arc<dyn Log>, MoveError> {
        match self {
            End::Folder(dir) => match place_of(dir)? {
                Place::File(log) => Ok(Arc::new(FileLog::open_read_only(&log, file_options()).map_err(FolderError::from)?)),
                Place::Kafka(kafka) => Ok(Arc::new(Topic::of(dir, &kafka)?.open(None)?)),
            },
            End::Topic(kafka) => Ok(Arc::new(Topic::of(Path::new("."), kafka)?.open(None)?)),
        }
    }
}

/// A data folder's log, or the folder itself where it is a log.
fn place_of(dir: &Path) -> Result<Place, FolderError> {
    match folder::place(dir) {
        Err(FolderError::NoStore(_)) if dir.is_dir() => Ok(Place::File(dir.to_owned())),
        place => place,
    }
}

fn file_options() -> file::Options {
    file::Options { record_bytes: usize::MAX, ..Default::default() }
}

/// Looks at the source and at what would be copied; changes nothing.
pub fn survey(plan: &Plan) -> Result<Survey, MoveError> {
    let log = plan.from.read()?;
    let range = log.range();
    if range.start > Position(0) {
        return Err(MoveError::Trimmed(range.start));
    }
    let begun = kafka::begun(&*log)?.ok_or(FolderError::Open(OpenError::Empty))?;
    let end = match plan.until {
        None => range.end,
        Some(last) if last < range.end => last.next(),
        Some(last) => return Err(MoveError::Beyond { asked: last, end: range.end }),
    };
    Ok(Survey { store_name: begun.store_name, log_id: begun.log_id, range, end })
}

/// Copies, and brings the copy to life. Blocks; `progress` hears how many records are there, and of how many. Needs to be called
/// within a tokio runtime. What an interrupted run left is gone on with by `Plan::resume`.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(u64, u64)) -> Result<Moved, MoveError> {
    if plan.is_move && plan.until.is_some() {
        return Err(MoveError::Invalid("a move takes everything along: --until goes with a copy only".to_owned()));
    }
    let survey = survey(plan)?;
    if plan.is_move {
        must_be_two_logs(plan)?;
    }
    let (source, end, sealed) = match plan.is_move {
        true => {
            let end = seal(plan)?;
            (plan.from.read()?, end, true)
        }
        false => (plan.from.read()?, survey.end, false),
    };
    let (mut target, end) = Target::begin(plan, &survey, source.transport_id(), end)?;
    let wanted = tip_at(&*source, end)?;
    let mut resumed_at = end;
    if let Some(copy) = target.copy().filter(|copy| copy.tip().position <= end) {
        resumed_at = copy.tip().position;
        let (ours, theirs) = (copy.tip().digest, tip_at(&*source, resumed_at)?.digest);
        if ours != theirs {
            let (from, to) = (plan.from.name(), plan.to.name());
            let position = Position(resumed_at.0.saturating_sub(1));
            return Err(MoveError::NotACopy { from, to, position, ours, theirs });
        }
        copy_all(&*source, copy, end, progress)?;
    }
    source.close();
    target.finish()?;
    let life = Target::open_log(plan)?;
    let found = tip_at_end_of_copy(&*life, end)?;
    if found != wanted.digest {
        return Err(MoveError::Differs { position: Position(end.0.saturating_sub(1)), found, wanted: wanted.digest });
    }
    let opened = bring_to_life(plan, life)?;
    let kept = if plan.is_move { point_to(plan, &survey)? } else { None };
    Ok(Moved {
        store_name: survey.store_name,
        log_id: survey.log_id,
        records: end.0,
        digest: wanted.digest,
        resumed_at,
        incarnation: opened.incarnation,
        transport_id: opened.transport_id,
        opened: opened.position,
        kept,
        sealed,
    })
}

/// A move that was finished has pointed the source's folder to the target: sealing it once more would seal what was moved.
fn must_be_two_logs(plan: &Plan) -> Result<(), MoveError> {
    let End::Topic(kafka) = &plan.to else { return Ok(()) };
    // One that cannot be opened is empty, not there, or a copy under way: not what the source stands on.
    let Ok(target) = Topic::of(Path::new("."), kafka)?.open(None) else { return Ok(()) };
    if plan.from.read()?.transport_id() != target.transport_id() {
        return Ok(());
    }
    let (from, to) = (plan.from.name(), plan.to.name());
    let kept = match &plan.from {
        // What was interrupted last.
        End::Folder(dir) if dir.join(LOG).is_dir() => {
            let kept = folder::keep_old_log(dir, &dir.join(LOG))?;
            format!("; its old log is kept in {}", kept.display())
        }
        _ => String::new(),
    };
    Err(MoveError::Invalid(format!("{from} stands on {to} already: it was moved, and is not moved again{kept}")))
}

fn copy_all(source: &dyn Log, copy: &mut dyn CopyTarget, end: Position, progress: &mut dyn FnMut(u64, u64)) -> Result<(), MoveError> {
    source.anchor(copy.tip());
    let mut reader = source.reader(copy.tip().position)?;
    progress(copy.tip().position.0, end.0);
    while copy.tip().position < end {
        let left = usize::try_from(end.0 - copy.tip().position.0).unwrap_or(usize::MAX);
        let records = reader.read(left.min(RECORDS), BYTES, PATIENCE)?;
        if records.is_empty() {
            let end = source.range().end;
            return Err(LogError::BeyondEnd { asked: copy.tip().position, end }.into());
        }
        copy.append(&records)?;
        progress(copy.tip().position.0, end.0);
    }
    Ok(())
}

/// What stands before a position. On a log that stores no digests this reads everything below it.
fn tip_at(log: &dyn Log, position: Position) -> Result<Tip, MoveError> {
    let Some(before) = position.0.checked_sub(1).map(Position) else { return Ok(Tip::START) };
    let records = log.reader(before)?.read(1, 0, PATIENCE)?;
    let record = records.first().ok_or(LogError::BeyondEnd { asked: position, end: log.range().end })?;
    Ok(Tip { position, digest: record.digest, time: record.time })
}

/// Reads the whole copy again, as any replica will.
fn tip_at_end_of_copy(log: &dyn Log, end: Position) -> Result<Hash, MoveError> {
    let mut digest = Hash::ZERO;
    let mut reader = log.reader(Position(0))?;
    let mut at = Position(0);
    while at < end {
        let left = usize::try_from(end.0 - at.0).unwrap_or(usize::MAX);
        let records = reader.read(left.min(RECORDS), BYTES, PATIENCE)?;
        let last = records.last().ok_or(LogError::BeyondEnd { asked: at, end: log.range().end })?;
        (at, digest) = (last.position.next(), last.digest);
    }
    Ok(digest)
}

/// Where the copy goes.
enum Target {
    File(Copy),
    Kafka(KafkaCopy),
    /// Everything was copied before; what may be missing is the `open`.
    Whole,
}

impl Target {
    /// Also says where the copy ends: one that is gone on with may have settled that before.
    fn begin(plan: &Plan, survey: &Survey, source: [u8; 16], end: Position) -> Result<(Target, Position), MoveError> {
        let mut origin = Origin {
            identity: Identity { log_id: survey.log_id, transport_id: [0; 16] },
            source,
            first: Tip::START,
            end,
            state: Hash::ZERO,
        };
        match &plan.to {
            End::Folder(dir) => {
                let folder = dir.join(LOG);
                let begun = match FileLog::open_read_only(&folder, file_options()) {
                    Ok(_) if !plan.resume => return Err(MoveError::Occupied(plan.to.name())),
                    Ok(log) => Some(log.copied_to()),
                    // Nothing, or what was interrupted before it was a log.
                    Err(LogError::Missing { .. }) => None,
                    Err(error) => return Err(error.into()),
                };
                match begun {
                    Some(Position(0)) => return Ok((Target::File(Copy::resume(&folder, file_options())?), end)),
                    Some(whole) => return Ok((Target::Whole, whole)),
                    None if folder.exists() && plan.resume => {}
                    None => folder::make_room(dir)?,
                }
                origin.identity.transport_id = folder::random()?;
                // Until it is finished the copy is not taken for one that is whole.
                origin.end = Position(0);
                Ok((Target::File(Copy::create(&folder, origin, file_options())?), end))
            }
            End::Topic(kafka) => {
                let topic = Topic::of(Path::new("."), kafka)?;
                if let Some(shape) = plan.create_topic {
                    topic.create(shape)?;
                }
                topic.check()?;
                let begun = match plan.resume {
                    true => KafkaCopy::resume(topic.options(None)),
                    false => KafkaCopy::create(topic.options(None), origin),
                };
                let copy = match begun {
                    Err(LogError::Exists { .. }) => return Err(MoveError::Occupied(plan.to.name())),
                    begun => begun?,
                };
                // A topic says at its beginning where the copy ends. The source may have grown since.
                let there = copy.origin().end;
                if there > end || (plan.until.is_some() && there != end) {
                    return Err(MoveError::OtherEnd { to: plan.to.name(), there, here: end });
                }
                Ok((Target::Kafka(copy), there))
            }
        }
    }

    fn copy(&mut self) -> Option<&mut dyn CopyTarget> {
        match self {
            Target::File(copy) => Some(copy),
            Target::Kafka(copy) => Some(copy),
            Target::Whole => None,
        }
    }

    fn finish(self) -> Result<(), MoveError> {
        match self {
            Target::File(copy) => _ = copy.finish()?,
            Target::Kafka(copy) => _ = copy.finish()?,
            Target::Whole => {}
        }
        Ok(())
    }

    /// The log that was made, for reading and writing.
    fn open_log(plan: &Plan) -> Result<Arc<dyn Log>, MoveError> {
        match &plan.to {
            End::Folder(dir) => {
                let options = file::Options { verify_all: true, ..file_options() };
                let until = Instant::now() + LINGER;
                loop {
                    match FileLog::open(&dir.join(LOG), options.clone()) {
                        Err(LogError::Locked { .. }) if Instant::now() < until => std::thread::sleep(LINGER / 100),
                        opened => return Ok(Arc::new(opened?)),
                    }
                }
            }
            End::Topic(kafka) => Ok(Arc::new(Topic::of(Path::new("."), kafka)?.open(None)?)),
        }
    }
}

/// A store that is open for one event of ours.
struct Visit {
    handle: Handle,
    /// What it was folded into, where nothing is to stay of it.
    _scratch: Option<tempfile::TempDir>,
}

impl Visit {
    /// Folds a log as far as it goes. `data`: the data folder in which what is folded stays.
    fn pay(place: &str, log: Arc<dyn Log>, data: Option<&Path>, adopt: bool) -> Result<Visit, MoveError> {
        let (store, scratch) = match data {
            Some(data) => (folder::open_store(data, &mut Vec::new())?, None),
            None => {
                let scratch = tempfile::tempdir().map_err(|error| FolderError::Io(std::env::temp_dir(), error))?;
                (folder::open_store(scratch.path(), &mut Vec::new())?, Some(scratch))
            }
        };
        let options = Options { housekeeping: Housekeeping::ByHand, adopt, ..Options::default() };
        let handle = Replica::open(log, Arc::new(store), options).map_err(FolderError::from)?;
        let standing = wait(handle.ready());
        if standing.state != ReplicaState::Serving {
            return Err(MoveError::NotServing { place: place.to_owned(), state: standing.state.name(), reason: standing.reason });
        }
        Ok(Visit { handle, _scratch: scratch })
    }

    fn propose(&self, plan_author: &str, principal: &str, event: &'static str, body: Body<'static>) -> Result<Position, MoveError> {
        let proposal = Proposal {
            author: plan_author.to_owned(),
            principal: principal.to_owned(),
            reason: event.to_owned(),
            ..Proposal::new(body)
        };
        let refused = |why: String| Err(MoveError::Refused { event, why });
        match wait(self.handle.propose(proposal, PATIENCE)) {
            Ok(Settled { outcome: Outcome::Accepted, position, .. }) => Ok(position),
            Ok(Settled { outcome: Outcome::Rejected(why), .. }) => refused(format!("{}: {}", why.code, why.detail)),
            Ok(settled) => refused(format!("it came out as {:?}", settled.outcome)),
            Err(error) => refused(error.to_string()),
        }
    }

    fn end(self) -> Result<(), MoveError> {
        Ok(wait(self.handle.shutdown(PATIENCE)).map_err(FolderError::from)?)
    }
}

/// The end of a store's life in this place: the position behind its seal.
fn seal(plan: &Plan) -> Result<Position, MoveError> {
    let place = plan.from.name();
    let (log, data): (Arc<dyn Log>, Option<PathBuf>) = match &plan.from {
        End::Folder(dir) => match folder::place(dir)? {
            Place::File(log) => (Arc::new(FileLog::open(&log, file_options())?), Some(dir.clone())),
            Place::Kafka(kafka) => (Arc::new(Topic::of(dir, &kafka)?.open(Some(dir))?), Some(dir.clone())),
        },
        End::Topic(kafka) => (Arc::new(Topic::of(Path::new("."), kafka)?.open(None)?), None),
    };
    let visit = Visit::pay(&place, log, data.as_deref(), false)?;
    // What follows a seal is refused alike on both logs: any end behind it is as good.
    let end = match visit.handle.view().sealed {
        true => visit.handle.view().position.next(),
        false => visit.propose(&plan.author, &plan.principal, "seal", Body::Seal)?.next(),
    };
    visit.end()?;
    Ok(end)
}

struct Opened {
    incarnation: Incarnation,
    transport_id: [u8; 16],
    position: Position,
}

/// Folds the copy and appends its `open`, unless that was done before.
fn bring_to_life(plan: &Plan, log: Arc<dyn Log>) -> Result<Opened, MoveError> {
    let transport_id = log.transport_id();
    let data = match (&plan.to, &plan.from) {
        (End::Folder(dir), _) => Some(dir.clone()),
        // What the data folder has folded holds on the new log as well.
        (End::Topic(_), End::Folder(dir)) if plan.is_move => Some(dir.clone()),
        (End::Topic(_), _) => None,
    };
    let visit = Visit::pay(&plan.to.name(), log, data.as_deref(), true)?;
    let view = visit.handle.view();
    let opened = if view.transport_id == transport_id {
        Opened { incarnation: view.incarnation, transport_id, position: view.position }
    } else {
        if plan.is_move && !view.sealed {
            let why = "the copy was begun before the source was sealed, and ends before its seal: copy into another target".to_owned();
            return Err(MoveError::Refused { event: "open", why });
        }
        let incarnation = Incarnation(folder::random()?);
        let position = visit.propose(&plan.author, &plan.principal, "open", Body::Open { incarnation, transport_id })?;
        Opened { incarnation, transport_id, position }
    };
    visit.end()?;
    Ok(opened)
}

/// After a move the data folder goes on with the new log; the old one is kept beside it.
fn point_to(plan: &Plan, survey: &Survey) -> Result<Option<PathBuf>, MoveError> {
    let (End::Folder(dir), End::Topic(kafka)) = (&plan.from, &plan.to) else { return Ok(None) };
    let Ok(place) = folder::place(dir) else { return Ok(None) };
    let begun = kafka::Begun {
        log_id: survey.log_id,
        store_name: survey.store_name.clone(),
        limits: kafka::begun(&*plan.to.read()?)?.ok_or(FolderError::Open(OpenError::Empty))?.limits,
    };
    let config = Config { server: Config::of_folder(dir).map_err(FolderError::from)?.server, ..kafka::config_of(kafka, &begun) };
    config.write(dir).map_err(FolderError::from)?;
    match place {
        Place::File(log) => Ok(Some(folder::keep_old_log(dir, &log)?)),
        Place::Kafka(_) => Ok(None),
    }
}

/// Ends a seal: the store lives on where it is, as a new incarnation.
pub fn unseal(dir: &Path, author: &str, principal: &str) -> Result<(Incarnation, Position), MoveError> {
    let log: Arc<dyn Log> = match folder::place(dir)? {
        Place::File(log) => Arc::new(FileLog::open(&log, file_options())?),
        Place::Kafka(kafka) => Arc::new(Topic::of(dir, &kafka)?.open(Some(dir))?),
    };
    let transport_id = log.transport_id();
    let visit = Visit::pay(&dir.display().to_string(), log, Some(dir), false)?;
    if !visit.handle.view().sealed {
        visit.end()?;
        return Err(MoveError::Invalid(format!("the store in {} is not sealed", dir.display())));
    }
    let incarnation = Incarnation(folder::random()?);
    let position = visit.propose(author, principal, "open", Body::Open { incarnation, transport_id })?;
    visit.end()?;
    Ok((incarnation, position))
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Handle::current().block_on(future)
}
