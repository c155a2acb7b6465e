//! Which state a call reads: the names of `Read.at`, and how fresh it has to be.
//!
//! ```text
//! name     latest | 41 | TAG | 3f9c… (the beginning of a root)
//!          tag:TAG | rev:41 | root:3f9c | time:2026-01-31T12:00:00Z | time:1769860800000 | pos:4182 | event:ID
//! at       name, or name~3: the third revision before it
//! ```
//! Without a prefix digits are a revision, then comes a tag of that name, then the beginning of a root.

use super::rights::{Asked, Rights};
use super::{Refusal, Served, blocking};
use crate::past::PastView;
use crate::propose::Fate;
use crate::view::View;
use bytes::Bytes;
use confold_model::code::Code;
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::node::EMPTY_NODE;
use confold_model::schema::Schema;
use confold_model::state::IncarnationRow;
use confold_model::tree::Tree;
use confold_store::RootPrefix;
use confold_wire::convert::{Token, parse_event_id};
use confold_wire::dynamic::Types;
use confold_wire::pb;
use std::sync::Arc;

/// One state, held while it is read: G7, all parts of an answer come from it.
#[derive(Clone)]
pub(super) struct Reading {
    pub view: Arc<View>,
    /// `None`: the latest revision of the view.
    past: Option<Arc<PastView>>,
    schema_of_its_time: bool,
}

/// What a name stands for, whether or not it is still kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub revision: Revision,
    /// Where the name said so itself: a position, or an event's.
    pub position: Option<Position>,
}

pub(super) fn is_latest(at: &str) -> bool {
    at.is_empty() || at == "latest"
}

impl Reading {
    pub fn latest(view: Arc<View>) -> Reading {
        Reading {
            view,
            past: None,
            schema_of_its_time: false,
        }
    }

    pub fn revision(&self) -> Revision {
        self.past.as_ref().map_or(self.view.revision, |past| past.revision)
    }

    pub fn root(&self) -> Hash {
        self.past.as_ref().map_or(self.view.root, |past| past.root)
    }

    pub fn tree(&self) -> &Tree {
        self.past.as_ref().map_or(&self.view.tree, |past| &past.tree)
    }

    /// The latest schema, or that of the revision's time where it was asked for.
    pub fn schema(&self) -> Result<&Arc<Schema>, Refusal> {
        let schema = match &self.past {
            Some(past) if self.schema_of_its_time => past.schema.as_ref(),
            _ => self.view.schema.as_ref(),
        };
        schema.ok_or_else(no_schema)
    }

    pub fn types(&self, served: &Served) -> Result<Types, Refusal> {
        let (pushed_at, descriptor_set) = self.descriptor_set().ok_or_else(no_schema)?;
        served.types(pushed_at, descriptor_set)
    }

    fn descriptor_set(&self) -> Option<(Position, &Bytes)> {
        let at = match &self.past {
            Some(past) if self.schema_of_its_time => past.position,
            _ => self.view.position,
        };
        self.view.descriptor_set_at(at)
    }

    /// The root is of everything, so it is for those alone who may read everything.
    pub fn read_at(&self, rights: &Rights) -> pb::ReadAt {
        let view = &self.view;
        pb::ReadAt {
            store: view.store_name.to_string(),
            revision: self.revision().0,
            root: rights.root(&self.root()),
            position: view.position.0,
            time_ms: self.past.as_ref().map_or(view.time, |past| past.time).0,
            token: token(view, view.position),
            disputed: view.agreement.is_disputed(),
        }
    }
}

/// For reads that must see this position.
pub(super) fn token(view: &View, position: Position) -> String {
    let mut text = position.0.to_string();
    text.push('@');
    text.push_str(&hex::encode(view.incarnation.0));
    text
}

pub(super) fn no_schema() -> Refusal {
    Refusal::new(Code::SchemaInvalid, "the store has no schema yet").hint("push one with `confold schema push`")
}

impl Asked {
    /// The view that a read asks for.
    pub async fn view(&self, read: &pb::Read) -> Result<Arc<View>, Refusal> {
        let deadline = self.options.deadline(read.deadline_ms);
        match pb::Consistency::try_from(read.consistency) {
            Ok(pb::Consistency::Stale) => Ok(self.handle.view()),
            Ok(pb::Consistency::AtLeast) => {
                let view = self.handle.view();
                let wanted = wanted(&view, &read.token)?;
                if view.position >= wanted {
                    return Ok(view);
                }
                self.handle
                    .at_least(wanted, deadline)
                    .await
                    .map_err(|error| self.waited(error))
            }
            Ok(pb::Consistency::Linearizable) => self.handle.fence(deadline).await.map_err(|error| self.waited(error)),
            Err(_) => {
                let detail = format!("consistency {} does not exist", read.consistency);
                Err(Refusal::argument(detail, "use STALE, AT_LEAST or LINEARIZABLE"))
            }
        }
    }

    /// The state that a read asks for, past trees re-made where they have to be.
    pub async fn reading(&self, read: pb::Read) -> Result<Reading, Refusal> {
        let view = self.view(&read).await?;
        if is_latest(&read.at) {
            return Ok(Reading::latest(view));
        }
        let served = self.clone();
        blocking(move || served.open(&view, &read.at, read.schema_of_its_time)).await
    }

    /// The tree that a name stands for. Blocks.
    pub fn open(&self, view: &Arc<View>, at: &str, schema_of_its_time: bool) -> Result<Reading, Refusal> {
        let revision = self.resolve(view, at)?.revision;
        if revision == view.revision {
            return Ok(Reading::latest(view.clone()));
        }
        let past = self
            .handle
            .past(revision)
            .map_err(|error| Refusal::from(error).about_at(at))?;
        Ok(Reading {
            view: view.clone(),
            past: Some(past),
            schema_of_its_time,
        })
    }

    /// The revision that a name stands for, also one that is gone. Blocks, unless it is the latest.
    pub fn resolve(&self, view: &View, at: &str) -> Result<Named, Refusal> {
        let (name, back) = split(at)?;
        let sees_all = self.now()?.sees_all();
        let named = self
            .name(view, name, sees_all)
            .map_err(|refusal| refusal.about_at(at))?;
        match named.revision.0.checked_sub(back) {
            Some(_) if back == 0 => Ok(named),
            Some(revision) => Ok(Named {
                revision: Revision(revision),
                position: None,
            }),
            None => {
                let detail = format!(
                    "{at:?}: {name} is revision {}, there are no {back} before it",
                    named.revision
                );
                Err(Refusal::new(Code::NotFound, detail))
            }
        }
    }

    /// Without `sees_all` no root is known: which ones there are would tell what they are made of.
    fn name(&self, view: &View, name: &str, sees_all: bool) -> Result<Named, Refusal> {
        let revision = |revision: Revision| {
            Ok(Named {
                revision,
                position: None,
            })
        };
        match name.split_once(':') {
            _ if is_latest(name) => revision(view.revision),
            Some(("rev", text)) => match decimal(text) {
                Some(number) => reached(view, Revision(number)),
                None => Err(unreadable(name, "a revision is a plain number, as in rev:41")),
            },
            Some(("tag", tag)) => match view.tags.get(tag) {
                Some(row) => revision(row.revision),
                None => Err(no_tag(view, tag)),
            },
            Some(("root", text)) => match RootPrefix::parse(text) {
                Some(prefix) if sees_all => self.by_root(view, text, &prefix)?.ok_or_else(|| no_root(text)),
                Some(_) => Err(no_root(text)),
                None => Err(unreadable(name, "a root is 1 to 64 hex digits, as in root:3f9c")),
            },
            Some(("time", text)) => revision(self.by_time(view, time(name, text)?)?),
            Some(("pos", text)) => match decimal(text) {
                Some(number) => self.by_position(view, Position(number)),
                None => Err(unreadable(name, "a position is a plain number, as in pos:4182")),
            },
            Some(("event", text)) => self.by_event(parse_event_id(text)?),
            Some((other, _)) => {
                let detail = format!("{other}: is no kind of name");
                Err(Refusal::argument(
                    detail,
                    "use tag:, rev:, root:, time:, pos: or event:",
                ))
            }
            None => self.bare(view, name, sees_all),
        }
    }

    fn bare(&self, view: &View, name: &str, sees_all: bool) -> Result<Named, Refusal> {
        if let Some(number) = decimal(name) {
            return reached(view, Revision(number));
        }
        if let Some(row) = view.tags.get(name) {
            return Ok(Named {
                revision: row.revision,
                position: None,
            });
        }
        // Fewer digits are more likely a word that was mistyped.
        if let (true, Some(prefix)) = (sees_all && name.len() >= 4, RootPrefix::parse(name))
            && let Some(named) = self.by_root(view, name, &prefix)?
        {
            return Ok(named);
        }
        Err(no_tag(view, name))
    }

    /// Several revisions may have one root, as content can come back: the latest of them that is kept.
    fn by_root(&self, view: &View, text: &str, prefix: &RootPrefix) -> Result<Option<Named>, Refusal> {
        let mut limit = 256;
        let mut rows = loop {
            let rows = self.handle.store()?.revisions_by_root(prefix, limit)?;
            if rows.len() < limit || rows.first().map(|row| row.root) != rows.last().map(|row| row.root) {
                break rows;
            }
            limit *= 16;
        };
        rows.retain(|row| row.revision <= view.revision);
        let newest = |kept: bool| {
            let rows = rows.iter().filter(|row| !kept || view.is_kept(row.revision));
            rows.map(|row| row.revision).max()
        };
        let found = |revision: Option<Revision>| {
            Ok(revision.map(|revision| Named {
                revision,
                position: None,
            }))
        };
        let mut roots: Vec<Hash> = rows.iter().map(|row| row.root).collect();
        roots.dedup();
        match roots.len() {
            0 if prefix.matches(&EMPTY_NODE) => found(Some(Revision(0))),
            0 | 1 => found(newest(true).or_else(|| newest(false))),
            several => {
                const SHOWN: usize = 8;
                let candidate = |root: &Hash| {
                    let last = rows
                        .iter()
                        .filter(|row| row.root == *root)
                        .map(|row| row.revision.0)
                        .max();
                    format!("{} (revision {})", root.short(), last.unwrap_or_default())
                };
                let shown: Vec<String> = roots.iter().take(SHOWN).map(candidate).collect();
                let more = if several > SHOWN { " and more" } else { "" };
                let detail = format!("{text} begins several roots: {}{more}", shown.join(", "));
                Err(Refusal::new(Code::NotFound, detail).hint("write more digits of the root"))
            }
        }
    }

    fn by_time(&self, view: &View, time: Time) -> Result<Revision, Refusal> {
        let row = self.handle.store()?.revision_at_time(time)?;
        // What came into the store after the view was taken is not of this view.
        Ok(row.map_or(Revision(0), |row| row.revision.min(view.revision)))
    }

    fn by_position(&self, view: &View, position: Position) -> Result<Named, Refusal> {
        if position > view.position {
            let detail = format!(
                "position {position} is not reached yet, this replica has folded up to {}",
                view.position
            );
            return Err(Refusal::new(Code::Future, detail));
        }
        let row = self.handle.store()?.revision_at_position(position)?;
        Ok(Named {
            revision: row.map_or(Revision(0), |row| row.revision),
            position: Some(position),
        })
    }

    fn by_event(&self, id: EventId) -> Result<Named, Refusal> {
        let none = |what: String| Err(Refusal::new(Code::NotFound, what).event(id));
        match self.handle.outcome_of(id)? {
            Fate::Settled(settled) => match settled.revision {
                Some(revision) => Ok(Named {
                    revision,
                    position: Some(settled.position),
                }),
                None => none(format!("event {id} at position {} made no revision", settled.position)),
            },
            Fate::NeverApplied { why, .. } => none(format!("event {id} was never applied: {why}")),
            Fate::NotSeen { up_to, .. } => none(format!("event {id} is not on the log up to position {up_to}")),
        }
    }
}

impl Refusal {
    /// Names the state that was asked for, unless the detail begins with it.
    fn about_at(self, at: &str) -> Refusal {
        let name = format!("{at:?}");
        if self.detail().detail.starts_with(&name) {
            self
        } else {
            self.about(&name)
        }
    }
}

/// The position that a token asks for.
fn wanted(view: &View, text: &str) -> Result<Position, Refusal> {
    if text.is_empty() {
        let hint = "hand back the token of the answer that has to be seen";
        return Err(Refusal::argument("AT_LEAST needs a token", hint));
    }
    let token: Token = text.parse()?;
    view.position_of(token.position, token.incarnation).ok_or_else(|| {
        let detail = match view.incarnations.iter().find(|row| row.incarnation == token.incarnation) {
            Some(IncarnationRow { end: Some(end), .. }) => format!(
                "the token is of position {} of incarnation {}, which ended at {end}: what was read there is no part of this store",
                token.position, token.incarnation
            ),
            _ => format!(
                "the token is of incarnation {}, this store is in {}",
                token.incarnation, view.incarnation
            ),
        };
        Refusal::new(Code::Foreign, detail)
    })
}

/// `NAME~3` into the name and how far back.
fn split(at: &str) -> Result<(&str, u64), Refusal> {
    match at.rsplit_once('~') {
        None => Ok((at, 0)),
        Some((name, text)) => match decimal(text) {
            Some(back) => Ok((name, back)),
            None => Err(unreadable(
                at,
                "behind ~ stands how many revisions to go back, as in latest~3",
            )),
        },
    }
}

fn reached(view: &View, revision: Revision) -> Result<Named, Refusal> {
    if revision > view.revision {
        let detail = format!(
            "revision {revision} is not reached yet, the latest is {}",
            view.revision
        );
        return Err(Refusal::new(Code::Future, detail));
    }
    Ok(Named {
        revision,
        position: None,
    })
}

fn time(name: &str, text: &str) -> Result<Time, Refusal> {
    if let Ok(ms) = text.parse::<i64>() {
        return Ok(Time(ms));
    }
    let parsed: Result<jiff::Timestamp, jiff::Error> = text.parse();
    parsed.map(|time| Time(time.as_millisecond())).map_err(|error| {
        let hint = "a time is RFC 3339 with its zone, as in time:2026-01-31T12:00:00Z, or milliseconds since 1970";
        Refusal::argument(format!("{name:?} names no time: {error}"), hint)
    })
}

/// Canonical decimal: one number, one text.
fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn unreadable(name: &str, hint: &str) -> Refusal {
    Refusal::argument(format!("{name:?} names no state"), hint)
}

fn no_tag(view: &View, name: &str) -> Refusal {
    const SHOWN: usize = 8;
    let mut names: Vec<&str> = view.tags.keys().map(String::as_str).collect();
    // The ones that share most of their beginning first.
    let shared = |tag: &str| tag.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    names.sort_by_key(|tag| std::cmp::Reverse(shared(tag)));
    let tags = match names.len() {
        0 => "the store has no tags".to_owned(),
        1..=SHOWN => format!("the tags are {}", names.join(", ")),
        more => format!("there are {more} tags, among them {}", names[..SHOWN].join(", ")),
    };
    Refusal::new(Code::NotFound, format!("no tag or root is called {name:?}; {tags}"))
        .hint("write latest, a revision number, a tag, or the beginning of a root; `confold tag ls` lists the tags")
}

fn no_root(text: &str) -> Refusal {
    Refusal::new(
        Code::NotFound,
        format!("no revision has a root that begins with {text}"),
    )
}
