//! Who changed what and when: rows of the history, and with `all` every event of the log.

use super::at::Reading;
use super::diff::Pattern;
use super::refusal::refusal;
use super::rights::{Asked, Rights};
use super::text::Texts;
use super::{Refusal, Served, blocking};
use crate::propose::Fate;
use crate::touch::{self, DEEP};
use crate::view::View;
use confold_log::{LogError, Record};
use confold_model::code::Code;
use confold_model::event::{Body, Commit, Event, OperationKind};
use confold_model::fold::Outcome;
use confold_model::ids::{EventId, Position, Revision};
use confold_model::path::{Path, Step, Target};
use confold_store::{Order, PathDigest, RevisionRow};
use confold_wire::pb::{self, decision};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Revisions that are looked for in the index of touched paths at once, and rows or records that are read at once.
const INDEX_WINDOW: u64 = 1 << 16;
const BATCH: u64 = 256;
/// Records that are read together for a page: so many, of so many bytes, with gaps up to so wide.
const AHEAD: usize = 64;
const AHEAD_BYTES: usize = 4 << 20;
const AHEAD_GAP: u64 = 64;
/// Of the records of one window.
const WINDOW_BYTES: usize = 32 << 20;
/// A call ends after so many windows or candidates, whether or not its page is full.
const MOST_WINDOWS: usize = 1 << 10;
const MOST_CANDIDATES: usize = 20_000;

pub(super) async fn log(served: Asked, mut request: pb::LogRequest) -> Result<pb::LogResponse, Refusal> {
    let read = request.read.take().unwrap_or_default();
    let view = served.view(&read).await?;
    blocking(move || {
        let rights = served.now()?;
        let query = Query::open(&served, &view, &rights, &request)?;
        let (rows, next_after) = if request.all {
            query.events()?
        } else {
            query.revisions()?
        };
        Ok(pb::LogResponse {
            read_at: Some(Reading::latest(view.clone()).read_at(&rights)),
            rows,
            next_after,
        })
    })
    .await
}

struct Query<'a> {
    served: &'a Asked,
    view: &'a Arc<View>,
    request: &'a pb::LogRequest,
    filter: Filter,
    rows: Rows<'a>,
    limit: usize,
}

/// Which events are wanted, by the paths of their operations.
enum Filter {
    All,
    /// With the digests under which the index knows them, and whether only deep operations count there.
    Indexed(Path, Vec<(PathDigest, bool)>),
    Scanned(Pattern),
}

type Found = (Vec<pb::LogRow>, Option<u64>);

impl<'a> Query<'a> {
    fn open(
        served: &'a Asked,
        view: &'a Arc<View>,
        rights: &'a Rights,
        request: &'a pb::LogRequest,
    ) -> Result<Query<'a>, Refusal> {
        let filter = Filter::parse(view, &request.path)?;
        let limit = served.options.rows.size(request.limit.into());
        Ok(Query {
            served,
            view,
            request,
            filter,
            rows: Rows::new(served, view, rights),
            limit,
        })
    }

    /// Revision by revision, from the history's own rows.
    fn revisions(&self) -> Result<Found, Refusal> {
        let (mut low, mut high) = self.revision_range()?;
        let (mut found, mut last) = (Vec::new(), None);
        let (mut windows, mut candidates) = (0, 0);
        while low <= high {
            let (rows, window) = self.candidates(low, high)?;
            windows += 1;
            for (index, row) in rows.iter().enumerate() {
                if found.len() == self.limit || candidates == MOST_CANDIDATES {
                    return Ok((found, last));
                }
                if index % AHEAD == 0 && self.needs_records() {
                    let next = rows[index..].iter().take(AHEAD.min(self.limit - found.len()));
                    self.rows.read_ahead(next.map(|row| row.position).collect());
                }
                candidates += 1;
                last = Some(row.position.0);
                found.extend(self.revision_row(row)?);
            }
            match self.request.oldest_first {
                true => low = window.1 + 1,
                false if window.0 == 0 => break,
                false => high = window.0 - 1,
            }
            if windows == MOST_WINDOWS && low <= high {
                // The edge of what was looked through, as a position to continue from.
                let edge = if self.request.oldest_first { low - 1 } else { high + 1 };
                let edge = self.served.handle.store()?.revision(Revision(edge))?;
                return Ok((found, edge.map(|row| row.position.0)));
            }
        }
        Ok((found, None))
    }

    /// Rows that may fit, of a window at the near end of the range; and the window.
    fn candidates(&self, low: u64, high: u64) -> Result<(Vec<RevisionRow>, (u64, u64)), Refusal> {
        let store = self.served.handle.store()?;
        let (order, width) = match (self.request.oldest_first, &self.filter) {
            (true, Filter::Indexed(..)) => (Order::Ascending, INDEX_WINDOW),
            (false, Filter::Indexed(..)) => (Order::Descending, INDEX_WINDOW),
            (true, _) => (Order::Ascending, BATCH),
            (false, _) => (Order::Descending, BATCH),
        };
        let window = match order {
            Order::Ascending => (low, high.min(low.saturating_add(width - 1))),
            Order::Descending => (low.max(high.saturating_sub(width - 1)), high),
        };
        let range = Revision(window.0)..=Revision(window.1);
        let Filter::Indexed(_, digests) = &self.filter else {
            return Ok((store.revisions(range, order, width as usize)?, window));
        };
        let mut revisions = Vec::new();
        for (digest, deep_only) in digests {
            let touched = store.touched(digest, range.clone(), order, width as usize)?;
            revisions.extend(
                touched
                    .iter()
                    .filter(|row| !deep_only || row.kind & DEEP != 0)
                    .map(|row| row.revision),
            );
        }
        revisions.sort_unstable();
        revisions.dedup();
        if order == Order::Descending {
            revisions.reverse();
        }
        // One more than the page shows that there is more.
        revisions.truncate(self.limit.max(1) + MOST_CANDIDATES);
        let mut rows = Vec::new();
        for revision in revisions {
            rows.extend(store.revision(revision)?);
        }
        Ok((rows, window))
    }

    fn needs_records(&self) -> bool {
        !self.request.brief || matches!(self.filter, Filter::Scanned(_)) || !self.rows.rights.sees_all()
    }

    fn revision_row(&self, row: &RevisionRow) -> Result<Option<pb::LogRow>, Refusal> {
        let author = &self.request.author;
        if !author.is_empty() && *row.author != **author {
            return Ok(None);
        }
        let record = if self.needs_records() {
            self.rows.record(row.position)?
        } else {
            None
        };
        if let (Filter::Scanned(_), Some(record)) = (&self.filter, &record)
            && !self.fits(record)
        {
            return Ok(None);
        }
        if !self.rows.shows(record.as_ref()) {
            return Ok(None);
        }
        Ok(Some(
            self.rows
                .of_revision(row, record.as_ref().filter(|_| !self.request.brief)),
        ))
    }

    /// The revisions asked for, `after` taken into account.
    fn revision_range(&self) -> Result<(u64, u64), Refusal> {
        let name = |at: &str| Ok::<_, Refusal>(self.served.resolve(self.view, at)?.revision.0);
        let mut low = if self.request.from.is_empty() {
            1
        } else {
            name(&self.request.from)? + 1
        };
        let mut high = if self.request.to.is_empty() {
            self.view.revision.0
        } else {
            name(&self.request.to)?
        };
        let upto = |position: u64| -> Result<u64, Refusal> {
            let row = self.served.handle.store()?.revision_at_position(Position(position))?;
            Ok(row.map_or(0, |row| row.revision.0))
        };
        match self.request.after {
            Some(after) if self.request.oldest_first => low = low.max(upto(after)? + 1),
            Some(0) => high = 0,
            Some(after) => high = high.min(upto(after - 1)?),
            None => {}
        }
        Ok((low, high))
    }

    /// Event by event, from the log.
    fn events(&self) -> Result<Found, Refusal> {
        let (mut low, mut high) = self.position_range()?;
        let (mut found, mut last, mut candidates) = (Vec::new(), None, 0);
        while low <= high {
            let forward = self.request.oldest_first;
            let mut width = BATCH;
            let (mut records, window) = loop {
                let window = match forward {
                    true => (low, high.min(low.saturating_add(width - 1))),
                    false => (low.max(high.saturating_sub(width - 1)), high),
                };
                let records = self.served.records(Position(window.0), Position(window.1), WINDOW_BYTES)?;
                let is_whole = records.last().is_some_and(|last| last.position.0 == window.1);
                if is_whole || width == 1 {
                    break (records, window);
                }
                width = (width / 8).max(1);
            };
            if !forward {
                records.reverse();
            }
            for record in records {
                if found.len() == self.limit || candidates >= MOST_CANDIDATES {
                    return Ok((found, last));
                }
                candidates += 1;
                last = Some(record.position.0);
                if self.fits(&record) && self.rows.shows(Some(&record)) {
                    found.push(self.rows.of_record(&record, self.request.brief)?);
                }
            }
            match forward {
                true => low = window.1 + 1,
                false if window.0 == 0 => break,
                false => high = window.0 - 1,
            }
        }
        Ok((found, None))
    }

    fn position_range(&self) -> Result<(u64, u64), Refusal> {
        let start = self.served.handle.log().range().start.0;
        let mut low = match self.request.from.as_str() {
            "" => start,
            from => (self.position_of(from)? + 1).max(start),
        };
        let mut high = match self.request.to.as_str() {
            "" => self.view.position.0,
            to => self.position_of(to)?,
        };
        match self.request.after {
            Some(after) if self.request.oldest_first => low = low.max(after.saturating_add(1)),
            // Nothing stands before genesis: an empty range.
            Some(0) => (low, high) = (1, 0),
            Some(after) => high = high.min(after - 1),
            None => {}
        }
        Ok((low, high))
    }

    fn position_of(&self, at: &str) -> Result<u64, Refusal> {
        let named = self.served.resolve(self.view, at)?;
        if let Some(position) = named.position {
            return Ok(position.0);
        }
        Ok(self
            .served
            .handle
            .store()?
            .revision(named.revision)?
            .map_or(0, |row| row.position.0))
    }

    fn fits(&self, record: &Record) -> bool {
        let author = &self.request.author;
        let event = Event::decode(&record.bytes);
        if !author.is_empty() && !event.as_ref().is_ok_and(|event| *event.author == **author) {
            return false;
        }
        match (&self.filter, event.map(|event| event.body)) {
            (Filter::All, _) => true,
            (filter, Ok(Body::Commit(commit))) => self.touches(filter, &commit),
            _ => false,
        }
    }

    fn touches(&self, filter: &Filter, commit: &Commit<'_>) -> bool {
        commit.operations.iter().any(|operation| {
            let deep = !matches!(operation.kind, OperationKind::Update { .. });
            match filter {
                Filter::All => true,
                Filter::Indexed(path, _) => {
                    operation.path.starts_with(path) || (deep && path.starts_with(&operation.path))
                }
                Filter::Scanned(pattern) => {
                    let text = self.rows.texts.path(&operation.path);
                    match pattern.is_wild() {
                        true => {
                            let deep = deep && self.has_children(&operation.path);
                            pattern.covers(&text) || (deep && pattern.may_cover_below(&text))
                        }
                        false => {
                            operation.path.starts_with(&pattern.below)
                                || (deep && pattern.below.starts_with(&operation.path))
                        }
                    }
                }
            }
        })
    }
}

impl Query<'_> {
    /// Whether a node at the path can have anything below it.
    fn has_children(&self, path: &Path) -> bool {
        let Some(schema) = &self.view.schema else { return false };
        match schema.resolve(path) {
            Ok(Target::Node { ty, .. }) => schema.message(ty).children().next().is_some(),
            Ok(Target::Container { .. }) => true,
            Err(_) => false,
        }
    }
}

impl Filter {
    fn parse(view: &View, text: &str) -> Result<Filter, Refusal> {
        if text.trim_matches('/').is_empty() {
            return Ok(Filter::All);
        }
        let schema = view.schema.as_ref().ok_or_else(super::at::no_schema)?;
        let refuse = |rejection| refusal(rejection, Some(schema));
        let pattern = Pattern::parse(schema, text).map_err(refuse)?;
        let path = &pattern.below;
        match schema.resolve(path).map_err(refuse)? {
            Target::Node { .. } if !pattern.is_wild() => Ok(Filter::Indexed(path.clone(), digests(path))),
            // The index knows no containers: their events are found by reading them.
            _ => Ok(Filter::Scanned(pattern)),
        }
    }
}

/// Where the index tells of events at or below a path, and of those that took a whole subtree around it.
fn digests(path: &Path) -> Vec<(PathDigest, bool)> {
    let mut found = vec![
        (touch::path_digest(path), false),
        (touch::path_digest(&Path::root()), true),
    ];
    for (index, step) in path.steps.iter().enumerate() {
        let mut above = Path {
            steps: path.steps[..=index].to_vec(),
        };
        if index + 1 < path.steps.len() {
            found.push((touch::path_digest(&above), true));
        }
        if step.key.is_some() {
            above.steps[index] = Step::single(step.field);
            found.push((touch::path_digest(&above), true));
        }
    }
    found
}

/// Makes rows; shared with `Show`.
pub(super) struct Rows<'a> {
    served: &'a Asked,
    view: &'a Arc<View>,
    pub rights: &'a Rights,
    tags: BTreeMap<Revision, Vec<String>>,
    pub texts: Texts<'a>,
    /// Records that will be asked for next.
    ahead: RefCell<BTreeMap<Position, Record>>,
}

impl<'a> Rows<'a> {
    pub fn new(served: &'a Asked, view: &'a Arc<View>, rights: &'a Rights) -> Rows<'a> {
        let mut tags: BTreeMap<Revision, Vec<String>> = BTreeMap::new();
        for (name, row) in view.tags.iter() {
            tags.entry(row.revision).or_default().push(name.clone());
        }
        Rows {
            served,
            view,
            rights,
            tags,
            texts: Texts {
                schema: view.schema.as_deref(),
                rights,
            },
            ahead: RefCell::default(),
        }
    }

    /// Reads what `record` will be asked for, with as few readers as it takes: each begins somewhere in a file, or with a question to
    /// a broker. What is not read here is read there.
    fn read_ahead(&self, mut positions: Vec<Position>) {
        positions.sort_unstable();
        let mut ahead = self.ahead.borrow_mut();
        ahead.clear();
        let mut room = AHEAD_BYTES;
        for run in positions.chunk_by(|one, next| next.0 - one.0 <= AHEAD_GAP) {
            let Ok(records) = self.served.records(run[0], run[run.len() - 1], room) else { return };
            room = room.saturating_sub(records.iter().map(|record| record.bytes.len()).sum());
            let wanted = records.into_iter().filter(|record| run.binary_search(&record.position).is_ok());
            ahead.extend(wanted.map(|record| (record.position, record)));
            if room == 0 {
                return;
            }
        }
    }

    /// The record at a position, unless it was trimmed away.
    pub fn record(&self, position: Position) -> Result<Option<Record>, Refusal> {
        if let Some(record) = self.ahead.borrow_mut().remove(&position) {
            return Ok(Some(record));
        }
        match self.served.handle.record_at(position) {
            Ok(record) => Ok(record),
            Err(LogError::BelowStart { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the caller may see that this event is there: that it changes something of which they may read something.
    /// A record that is gone or no event has nothing that could be decided on.
    pub fn shows(&self, record: Option<&Record>) -> bool {
        if self.rights.sees_all() {
            return true;
        }
        match record.map(|record| Event::decode(&record.bytes)) {
            Some(Ok(event)) => self.texts.shows(&event.body),
            _ => false,
        }
    }

    pub fn of_revision(&self, row: &RevisionRow, record: Option<&Record>) -> pb::LogRow {
        let mut shown = pb::LogRow {
            position: row.position.0,
            revision: Some(row.revision.0),
            time_ms: row.time.0,
            author: row.author.to_string(),
            event_id: row.id.map(|id| id.to_string()).unwrap_or_default(),
            root: self.rights.root(&row.root),
            outcome: decision::Outcome::Committed.into(),
            // Nothing else makes a revision.
            kind: "commit".to_owned(),
            tags: self.tags.get(&row.revision).cloned().unwrap_or_default(),
            ..pb::LogRow::default()
        };
        if let Some(Ok(event)) = record.map(|record| Event::decode(&record.bytes)) {
            self.add_event(&mut shown, &event, false);
        }
        shown
    }

    pub fn of_record(&self, record: &Record, brief: bool) -> Result<pb::LogRow, Refusal> {
        let store = self.served.handle.store()?;
        let before = store.revision_at_position(record.position)?;
        if let Some(made) = before.as_ref().filter(|row| row.position == record.position) {
            return Ok(self.of_revision(made, Some(record).filter(|_| !brief)));
        }
        let mut shown = pb::LogRow {
            position: record.position.0,
            time_ms: record.time.0,
            root: self
                .rights
                .root(&before.map_or(confold_model::node::EMPTY_NODE, |row| row.root)),
            ..pb::LogRow::default()
        };
        let (outcome, code) = match Event::decode(&record.bytes) {
            Ok(event) => {
                self.add_event(&mut shown, &event, brief);
                self.outcome(record.position, &event)?
            }
            Err(malformed) => {
                shown.summary.push(malformed.to_string());
                (decision::Outcome::Rejected, Some(Code::Malformed))
            }
        };
        shown.outcome = outcome.into();
        shown.code = code.map(|code| code.name().to_owned()).unwrap_or_default();
        Ok(shown)
    }

    fn add_event(&self, shown: &mut pb::LogRow, event: &Event<'_>, brief: bool) {
        shown.author = event.author.to_string();
        shown.principal = event.principal.to_string();
        shown.reason = event.reason.to_string();
        shown.event_id = event.intention.map(|(id, _)| id.to_string()).unwrap_or_default();
        shown.kind = event.body.name().to_owned();
        if !brief {
            (shown.summary, shown.operations) = self.texts.summary(&event.body);
        }
    }

    /// How an event that made no revision ended, as far as it is still known.
    fn outcome(&self, position: Position, event: &Event<'_>) -> Result<(decision::Outcome, Option<Code>), Refusal> {
        use decision::Outcome::*;
        let Some((id, _)) = event.intention else {
            return Ok(match event.body {
                Body::Genesis(_) => (Committed, None),
                Body::Fence => (Unchanged, None),
                _ => (Unspecified, None),
            });
        };
        Ok(match self.served.handle.outcome_of(id)? {
            Fate::Settled(first) if first.position == position => match first.outcome {
                Outcome::Accepted => (Committed, None),
                Outcome::Unchanged | Outcome::Duplicate(_) => (Unchanged, None),
                Outcome::Rejected(rejection) => (Rejected, Some(rejection.code)),
            },
            // A later copy: it changed nothing.
            Fate::Settled(first) if first.position < position => (Unchanged, None),
            Fate::NeverApplied { .. } if self.in_window(id) => (Rejected, Some(Code::Withdrawn)),
            Fate::NeverApplied { .. } => (Unspecified, None),
            // Refused without a trace in the window: for another incarnation, or an id of another time.
            Fate::Settled(_) | Fate::NotSeen { .. } => (Rejected, None),
        })
    }

    fn in_window(&self, id: EventId) -> bool {
        self.view.position.0.saturating_sub(id.seen.0) < self.view.window
    }
}

impl Served {
    /// The records of a range of positions, from its beginning: fewer where the log ends, or where they have more bytes than so many
    /// together. Blocks.
    pub fn records(&self, from: Position, to: Position, most_bytes: usize) -> Result<Vec<Record>, Refusal> {
        let mut reader = self.handle.reader(from)?;
        let mut found: Vec<Record> = Vec::new();
        let (mut next, mut room) = (from, most_bytes);
        while next <= to && (room > 0 || found.is_empty()) {
            let wanted = usize::try_from(to.0 + 1 - next.0).unwrap_or(usize::MAX);
            let records = reader.read(wanted, room.min(16 << 20), Duration::from_secs(1))?;
            let Some(last) = records.last() else { break };
            next = last.position.next();
            room = room.saturating_sub(records.iter().map(|record| record.bytes.len()).sum());
            found.extend(records);
        }
        Ok(found)
    }
}
