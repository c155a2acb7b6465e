//! What differs between two revisions, in tree order (C11), below a path or where a pattern fits.

use super::at::{Reading, is_latest};
use super::read::{Form, SLICE, value_bytes};
use super::refusal::{hex, refusal};
use super::rights::{Asked, Rights};
use super::{Refusal, blocking};
use confold_model::code::{Code, Rejection};
use confold_model::diff::{self, ChangeKind, Difference, Options};
use confold_model::path::{Path, Target};
use confold_model::policy::Visible;
use confold_model::schema::{Schema, TypeId};
use confold_model::tree::{NodeView, Tree};
use confold_wire::api::Stream;
use confold_wire::pb::{self, change};
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Answers made ahead of a client, and how long a client may leave them lying: the walk holds a thread meanwhile.
const AHEAD: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);

/// T7: of the whole tree, walking only what differs.
pub(super) async fn diff(served: Asked, request: pb::DiffRequest) -> Result<pb::DiffResponse, Refusal> {
    let job = Job::open(served, request).await?;
    blocking(move || {
        let limit = job.served.options.changes.size(job.request.limit);
        let rights = job.served.now()?;
        let mut answer = job.answer(&rights);
        let mut bytes = 0;
        // One more than is shown tells whether there is more.
        job.walk(&rights, &mut |change, size| {
            bytes += size;
            if answer.changes.len() == limit || (bytes > job.served.options.answer_bytes && !answer.changes.is_empty())
            {
                answer.more = true;
                return Ok(ControlFlow::Break(()));
            }
            answer.changes.push(change);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(answer)
    })
    .await
}

pub(super) async fn stream(
    served: Asked,
    request: pb::DiffRequest,
) -> Result<Stream<Result<pb::DiffResponse, Status>>, Refusal> {
    let job = Job::open(served, request).await?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let hand_over = |answer| {
            let sent = runtime.block_on(tokio::time::timeout(PATIENCE, sender.send(answer)));
            matches!(sent, Ok(Ok(())))
        };
        // A client that has gone, or does not read, ends the walk.
        if let Err(refusal) = job.pieces(&mut |answer| hand_over(Ok(answer))) {
            hand_over(Err(refusal.into()));
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Two states to compare.
struct Job {
    served: Asked,
    from: Reading,
    to: Reading,
    pattern: Pattern,
    form: Option<Form>,
    request: pb::DiffRequest,
}

impl Job {
    async fn open(served: Asked, mut request: pb::DiffRequest) -> Result<Job, Refusal> {
        let from = request.from.take().unwrap_or_default();
        let to = request.to.take().unwrap_or_default();
        let view = served.view(&to).await?;
        blocking(move || {
            let open = |read: &pb::Read| match is_latest(&read.at) {
                true => Ok(Reading::latest(view.clone())),
                false => served.open(&view, &read.at, to.schema_of_its_time),
            };
            let (from, to) = (open(&from)?, open(&to)?);
            let pattern = match to.schema() {
                Ok(schema) => {
                    Pattern::parse(schema, &request.path).map_err(|rejection| refusal(rejection, Some(schema)))?
                }
                // Without a schema both trees are empty, and there is no path but the root.
                Err(refusal) if request.path.trim_matches('/').is_empty() => {
                    drop(refusal);
                    Pattern::default()
                }
                Err(refusal) => return Err(refusal),
            };
            let form = match request.values && to.schema().is_ok() {
                true => Some(Form::of(request.format, &to, &served)?),
                false => None,
            };
            Ok(Job {
                served,
                from,
                to,
                pattern,
                form,
                request,
            })
        })
        .await
    }

    fn answer(&self, rights: &Rights) -> pb::DiffResponse {
        pb::DiffResponse {
            from: Some(self.from.read_at(rights)),
            to: Some(self.to.read_at(rights)),
            changes: Vec::new(),
            more: false,
        }
    }

    /// The same as several answers; the last one says whether a limit cut it off. `false` from `take` ends it.
    fn pieces(&self, take: &mut dyn FnMut(pb::DiffResponse) -> bool) -> Result<(), Refusal> {
        let options = &self.served.options;
        let limit = usize::try_from(self.request.limit)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(usize::MAX);
        let rights = self.served.now()?;
        let (mut answer, mut bytes, mut count, mut gone) = (self.answer(&rights), 0, 0, false);
        self.walk(&rights, &mut |change, size| {
            if count == limit {
                answer.more = true;
                return Ok(ControlFlow::Break(()));
            }
            if answer.changes.len() >= options.changes.usual || (bytes + size > options.piece_bytes && bytes > 0) {
                bytes = 0;
                // What was found since is not handed over where the rights by which it was have been taken away.
                if !self.served.now()?.reads_as(&rights) {
                    return Err(rights_changed());
                }
                gone = !take(std::mem::replace(&mut answer, self.answer(&rights)));
                if gone {
                    return Ok(ControlFlow::Break(()));
                }
            }
            count += 1;
            bytes += size;
            answer.changes.push(change);
            Ok(ControlFlow::Continue(()))
        })?;
        if !gone {
            if !self.served.now()?.reads_as(&rights) {
                return Err(rights_changed());
            }
            take(answer);
        }
        Ok(())
    }

    /// Visits the changes that fit and that the caller may see, each with roughly its size.
    fn walk(
        &self,
        rights: &Rights,
        visit: &mut dyn FnMut(pb::Change, usize) -> Result<ControlFlow<()>, Refusal>,
    ) -> Result<(), Refusal> {
        let Ok(schema) = self.to.schema() else { return Ok(()) };
        let (old, new) = (self.from.tree(), self.to.tree());
        let objects = self.served.objects();
        let options = Options {
            below: self.pattern.below.clone(),
            // A change that may not be shown as a whole may have something below it that may.
            deep: self.pattern.is_wild() || !self.shows_all(rights),
            limit: None,
        };
        let mut failed = None;
        diff::diff(old, new, &**schema, &options, objects, &mut |difference| {
            let flow = match self.fits(schema, rights, &difference) {
                Ok(false) => Ok(ControlFlow::Continue(())),
                Ok(true) => self.change(schema, difference).and_then(|change| {
                    let size = CHANGE_BYTES
                        + change.path.len()
                        + [&change.before, &change.after]
                            .into_iter()
                            .flatten()
                            .map(value_bytes)
                            .sum::<usize>();
                    visit(change, size)
                }),
                Err(refusal) => Err(refusal),
            };
            flow.unwrap_or_else(|refusal| {
                failed = Some(refusal);
                ControlFlow::Break(())
            })
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Whether all that is asked for may be seen.
    fn shows_all(&self, rights: &Rights) -> bool {
        rights.grants().visible(&self.pattern.below) == Visible::Full
    }

    /// Whether a change is asked for and may be seen. A deep walk names each node of what was added or removed; of those
    /// only the topmost that is shown is a change of its own, as it is where everything is shown.
    fn fits(&self, schema: &Schema, rights: &Rights, difference: &Difference) -> Result<bool, Refusal> {
        let change = &difference.change;
        let shows_all = self.shows_all(rights);
        if shows_all && !self.pattern.is_wild() {
            return Ok(true);
        }
        let shown = |path: &Path| {
            let asked = !self.pattern.is_wild() || self.pattern.covers(&schema.print_path(path));
            asked && (shows_all || rights.grants().visible(path) == Visible::Full)
        };
        if !shown(&change.path) {
            return Ok(false);
        }
        let other = match change.kind {
            ChangeKind::Added => self.from.tree(),
            ChangeKind::Removed => self.to.tree(),
            ChangeKind::ListChanged => match (change.before, change.after) {
                (Some(before), _) if before == confold_model::ids::Hash::ZERO => self.from.tree(),
                _ => self.to.tree(),
            },
            ChangeKind::Updated => return Ok(true),
        };
        let Some(parent) = change.path.parent() else {
            return Ok(true);
        };
        let top = other.subtree_hash(&parent, self.served.objects())?.is_some();
        Ok(top || !shown(&parent))
    }

    fn change(&self, schema: &Schema, difference: Difference) -> Result<pb::Change, Refusal> {
        let Difference { change, old, new } = difference;
        let (kind, before, after) = match change.kind {
            ChangeKind::Added => (change::Kind::Added, change.before, change.after),
            ChangeKind::Removed => (change::Kind::Removed, change.before, change.after),
            ChangeKind::ListChanged => (change::Kind::ListChanged, change.before, change.after),
            ChangeKind::Updated => {
                let data = |node: &Option<NodeView>| node.as_ref().map(NodeView::data_hash);
                (change::Kind::Updated, data(&old), data(&new))
            }
        };
        let mut shown = pb::Change {
            path: schema.print_path(&change.path),
            kind: kind.into(),
            before_hash: before.as_ref().map(hex).unwrap_or_default(),
            after_hash: after.as_ref().map(hex).unwrap_or_default(),
            before: None,
            after: None,
        };
        if let Some(form) = &self.form {
            let value = |tree: &Tree, node: &Option<NodeView>| self.value(schema, form, &change, tree, node.as_ref());
            shown.before = value(self.from.tree(), &old)?;
            shown.after = value(self.to.tree(), &new)?;
        }
        Ok(shown)
    }

    fn value(
        &self,
        schema: &Schema,
        form: &Form,
        change: &diff::Change,
        tree: &Tree,
        node: Option<&NodeView>,
    ) -> Result<Option<pb::Value>, Refusal> {
        let objects = self.served.objects();
        // What this schema does not know has no value to show.
        let Ok(target) = schema.resolve(&change.path) else {
            return Ok(None);
        };
        let mut left = self.served.options.answer_bytes;
        let (ty, bytes) = match (target, node) {
            (Target::Node { ty, .. }, Some(node)) if change.kind == ChangeKind::Updated => {
                (ty, node.config(objects)?.to_vec())
            }
            (Target::Node { ty, .. }, Some(node)) => (ty, self.deep(schema, node, ty, &mut left)?),
            (Target::Container { parent, child }, _) => {
                let Some(elements) = tree.container(&change.path, objects)? else {
                    return Ok(None);
                };
                let mut items = Vec::new();
                while (items.len() as u64) < elements.len() {
                    for (_, element) in elements.slice(items.len() as u64, SLICE, objects)? {
                        items.push(self.deep(schema, &element, child.message, &mut left)?);
                    }
                }
                (parent, schema.join(parent, &[], &[(child.number, items)]))
            }
            (Target::Node { .. }, None) => return Ok(None),
        };
        form.value(schema.message(ty), bytes).map(Some)
    }

    fn deep(&self, schema: &Schema, node: &NodeView, ty: TypeId, left: &mut usize) -> Result<Vec<u8>, Refusal> {
        let whole = super::read::Deep {
            schema,
            objects: self.served.objects(),
        };
        whole.assemble(node, ty, None, left, None)?.ok_or_else(|| {
            let detail = format!(
                "one changed subtree has more than {} bytes",
                self.served.options.answer_bytes
            );
            Refusal::new(Code::TooLarge, detail).hint("ask without values, or below a longer path")
        })
    }
}

fn rights_changed() -> Refusal {
    Refusal::new(
        Code::Permission,
        "the rights by which this was read were taken away meanwhile",
    )
    .hint("ask again")
}

/// What stands in an answer for each change beside path and values.
const CHANGE_BYTES: usize = 160;

/// A path with wildcards: `*` is one name or key, `**` any number of them. It covers what lies at or below a fit.
#[derive(Clone, Debug, Default)]
pub(super) struct Pattern {
    /// The steps before the first wildcard.
    pub below: Path,
    /// The segments of the text; empty without wildcards.
    segments: Vec<String>,
}

impl Pattern {
    /// `INVALID_PATH` and the like for the part before the first wildcard.
    pub fn parse(schema: &Schema, text: &str) -> Result<Pattern, Rejection> {
        let relative = text.trim_start_matches('/');
        let relative = relative.strip_suffix('/').unwrap_or(relative);
        let segments: Vec<&str> = relative.split('/').collect();
        let is_wild = |segment: &&str| matches!(*segment, "*" | "**");
        let Some(wild) = segments.iter().position(is_wild) else {
            return Ok(Pattern {
                below: schema.parse_path(text)?,
                segments: Vec::new(),
            });
        };
        if segments.len() > MAX_SEGMENTS {
            let detail = format!(
                "the pattern has {} segments; at most {MAX_SEGMENTS} are allowed",
                segments.len()
            );
            return Err(Rejection::new(Code::Limit, detail));
        }
        if let Some(bad) = segments
            .iter()
            .find(|segment| segment.is_empty() || (segment.contains('*') && !is_wild(segment)))
        {
            let detail = format!("pattern {text:?}: {bad:?} is no segment; a wildcard is a whole one, * or **");
            return Err(Rejection::new(Code::InvalidPath, detail));
        }
        let below = schema.parse_path(&segments[..wild].join("/"))?;
        Ok(Pattern {
            below,
            segments: segments.into_iter().map(str::to_owned).collect(),
        })
    }

    pub fn is_wild(&self) -> bool {
        !self.segments.is_empty()
    }

    /// Whether a path's text lies at or below what the pattern names. Only of a pattern with wildcards.
    pub fn covers(&self, path: &str) -> bool {
        self.reach(path).contains(&self.segments.len())
    }

    /// Whether something below the path can still be covered.
    pub fn may_cover_below(&self, path: &str) -> bool {
        !self.reach(path).is_empty()
    }

    /// How many segments of the pattern may lie behind us after the path's; all of them where it is covered.
    fn reach(&self, path: &str) -> Vec<usize> {
        let mut reached = self.skip_empty(vec![0]);
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            if reached.contains(&self.segments.len()) {
                break;
            }
            let mut next = Vec::new();
            for at in reached {
                match self.segments.get(at).map(String::as_str) {
                    Some("**") => next.push(at),
                    Some("*") => next.push(at + 1),
                    Some(name) if name == segment => next.push(at + 1),
                    _ => {}
                }
            }
            reached = self.skip_empty(next);
        }
        reached
    }

    /// `**` also stands for nothing.
    fn skip_empty(&self, mut reached: Vec<usize>) -> Vec<usize> {
        let mut index = 0;
        while let Some(&at) = reached.get(index) {
            if self.segments.get(at).is_some_and(|segment| segment == "**") {
                reached.push(at + 1);
            }
            index += 1;
        }
        reached.sort_unstable();
        reached.dedup();
        reached
    }
}

const MAX_SEGMENTS: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_lies_at_or_below_a_fit() {
        let pattern = |text: &str| Pattern {
            below: Path::root(),
            segments: text
                .split('/')
                .filter(|segment| !segment.is_empty())
                .map(str::to_owned)
                .collect(),
        };
        let rows = [
            ("/devices/*", "/devices/a", true),
            ("/devices/*", "/devices", false),
            ("/devices/*", "/devices/a/ports/3", true),
            ("/devices/*/ports", "/devices/a/ports/3", true),
            ("/devices/*/ports/3", "/devices/a/ports/3", true),
            ("/devices/*/ports/3", "/devices/a/ports/30", false),
            ("/devices/*/ports/3", "/devices/a", false),
            ("/**/ports/3", "/devices/a/ports/3", true),
            ("/**/ports/3", "/ports/3/x", true),
            ("/**/a/**/b", "/x/a/y/a/z/b/w", true),
            ("/**/a/**/b", "/x/b/y/a", false),
            ("/**", "/", true),
            ("/*", "/", false),
        ];
        for (text, path, covered) in rows {
            assert_eq!(pattern(text).covers(path), covered, "{text} and {path}");
        }
        assert!(pattern("/devices/*/ports/3").may_cover_below("/devices/a"));
        assert!(!pattern("/devices/*/ports/3").may_cover_below("/vlans"));
    }
}
