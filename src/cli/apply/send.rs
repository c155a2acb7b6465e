//! Operations into commits: as many as fit into an event, several commits in flight.

use super::plan::{Planner, Step, StepKind};
use crate::{
    app::{App, WhoArgs},
    error::Failure,
    output::{count, grouped},
};
use confold_client::{Connection, Pipeline};
use confold_model::code::Code;
use confold_wire::pb;
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};

/// Enough to keep a store busy; bounds the memory.
const IN_FLIGHT: usize = 4;

pub struct Sender<'a> {
    app: &'a mut App,
    connection: Connection,
    pipeline: Pipeline,
    who: &'a WhoArgs,
    /// Bytes of one commit.
    budget: usize,
    /// Refuse what does not fit into one commit.
    atomic: bool,
    strict: bool,
    batch: BTreeMap<String, Step>,
    batch_bytes: usize,
    sent: BTreeMap<u64, usize>,
    pub summary: Summary,
    notes: BTreeSet<String>,
    said_several: bool,
    bar: Option<ProgressBar>,
}

#[derive(Clone, Default, Debug)]
pub struct Summary {
    pub operations: u64,
    pub commits: u64,
    /// Commits that changed something.
    pub changed: u64,
    pub last: Option<pb::Decision>,
}

/// Why a commit is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Full,
    Overlap,
    Last,
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Why::Full | Why::Last => "this is more than one event holds",
            Why::Overlap => "a path is named twice, or below another one",
        }
    }
}

impl<'a> Sender<'a> {
    pub fn new(
        app: &'a mut App,
        connection: Connection,
        who: &'a WhoArgs,
        budget: usize,
        atomic: bool,
        strict: bool,
    ) -> Sender<'a> {
        let bar = (app.ui.err_is_terminal && !app.ui.json).then(progress_bar);
        let pipeline = Pipeline::new(connection.clone());
        Sender {
            app,
            connection,
            pipeline,
            who,
            budget,
            atomic,
            strict,
            batch: BTreeMap::new(),
            batch_bytes: 0,
            sent: BTreeMap::new(),
            summary: Summary::default(),
            notes: BTreeSet::new(),
            said_several: false,
            bar,
        }
    }

    /// Takes one step in, and commits what is full.
    pub async fn step(&mut self, planner: &mut Planner<'_>, step: Step) -> Result<(), Failure> {
        let mut pending = vec![step];
        while let Some(step) = pending.pop() {
            let StepKind::Large { ty, value } = step.kind else {
                self.small(step).await?;
                continue;
            };
            // Too big for one event: the node's own data, then what is below it, then what has to go there.
            let own = planner.own_data(&step.path, ty, &value)?;
            let exists = self.exists(&step.path).await?;
            let kind = if exists {
                StepKind::Update { mask: Vec::new() }
            } else {
                StepKind::Put
            };
            self.small(Step {
                path: step.path.clone(),
                message: step.message,
                kind,
                value: own,
            })
            .await?;
            self.flush(Why::Full).await?;
            self.drain().await?;
            let below = planner.below(&step.path, ty, value)?;
            pending.extend(below.steps.into_iter().rev());
            for (container, named) in below.containers {
                self.prune(&container, &named).await?;
            }
        }
        Ok(())
    }

    /// Removes the elements of a container that are not named.
    pub async fn prune(&mut self, container: &str, named: &BTreeSet<String>) -> Result<(), Failure> {
        let connection = self.connection.clone();
        let request = pb::ListRequest {
            store: connection.store.clone(),
            path: container.to_owned(),
            no_values: true,
            ..Default::default()
        };
        let mut pages = connection.again(|| connection.api.list_stream(request.clone())).await?;
        while let Some(page) = pages.next().await {
            for node in page?.nodes {
                if !named.contains(&node.path) {
                    self.small(Step::remove(node.path)).await?;
                }
            }
        }
        Ok(())
    }

    /// Commits the rest and waits for every answer.
    pub async fn finish(&mut self) -> Result<(), Failure> {
        self.flush(Why::Last).await?;
        self.drain().await?;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        Ok(())
    }

    async fn small(&mut self, step: Step) -> Result<(), Failure> {
        let size = step.size();
        if size > self.budget {
            let text = format!(
                "{} bytes; one event holds {}",
                grouped(size as u64),
                grouped(self.budget as u64)
            );
            return Err(Failure::of(Code::TooLarge, text).at(&step.path));
        }
        if self.overlaps(&step.path) {
            // Later documents win, so the order of the commits counts.
            self.flush(Why::Overlap).await?;
            self.drain().await?;
        } else if self.batch_bytes + size > self.budget {
            self.flush(Why::Full).await?;
        }
        self.batch_bytes += size;
        self.batch.insert(step.path.clone(), step);
        Ok(())
    }

    /// Whether the batch touches the path, something above or something below it already. An update of the root's own
    /// data is beside everything.
    fn overlaps(&self, path: &str) -> bool {
        if path == "/" || self.batch.contains_key(path) {
            return self.batch.contains_key(path);
        }
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            if !parent.is_empty() && self.batch.contains_key(parent) {
                return true;
            }
            above = parent;
        }
        let below = format!("{path}/");
        self.batch
            .range(below.clone()..)
            .next()
            .is_some_and(|(other, _)| other.starts_with(&below))
    }

    async fn flush(&mut self, why: Why) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        if why != Why::Last {
            if self.atomic {
                // Nothing was sent yet: this is the first that would be.
                let failure = Failure::of(Code::TooLarge, format!("{}, and --atomic was asked for", why.text()));
                return Err(failure.hint("nothing was committed; leave out --atomic, or apply less at once"));
            }
            if !std::mem::replace(&mut self.said_several, true) {
                let text = format!("{}: several commits, each complete in itself", why.text());
                self.app.ui.note(&text);
            }
        }
        while self.pipeline.in_flight() >= IN_FLIGHT {
            self.answer().await?;
        }
        let operations: Vec<pb::TextOperation> = std::mem::take(&mut self.batch)
            .into_values()
            .map(|step| pb::TextOperation {
                strict: self.strict,
                ..step.operation()
            })
            .collect();
        self.batch_bytes = 0;
        let number_of_operations = operations.len();
        let request = pb::CommitRequest {
            proposal: Some(self.app.proposal(self.who)),
            operations,
            ..Default::default()
        };
        let number = self.pipeline.send(request).await?;
        self.sent.insert(number, number_of_operations);
        self.summary.commits += 1;
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), Failure> {
        while self.pipeline.in_flight() > 0 {
            self.answer().await?;
        }
        Ok(())
    }

    async fn answer(&mut self) -> Result<(), Failure> {
        let answer = match self.pipeline.answer().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.stopped(Failure::from(error))),
        };
        let operations = self.sent.remove(&answer.number).unwrap_or(0);
        let decision = match answer.result {
            Ok(decision) => decision,
            Err(error) => return Err(self.stopped(Failure::from(error))),
        };
        self.summary.operations += operations as u64;
        self.summary.changed += u64::from(decision.revision.is_some());
        for note in &decision.notes {
            if self.notes.insert(note.clone()) {
                self.app.ui.label_hint("Note:", note);
            }
        }
        let done = grouped(self.summary.operations);
        match &self.bar {
            Some(bar) => bar.set_message(format!("{done} applied")),
            None if self.summary.commits % 10 == 0 => self.app.ui.note(&format!("{done} applied so far")),
            None => {}
        }
        self.summary.last = Some(decision);
        Ok(())
    }

    /// Says how far it got, and that going on is safe.
    fn stopped(&mut self, failure: Failure) -> Failure {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        let done = self.summary.operations;
        if done == 0 {
            return failure;
        }
        let done = count(done, "operation was", "operations were");
        failure.cause(format!(
            "{done} applied before; applying the same again does only what is left"
        ))
    }

    async fn exists(&self, path: &str) -> Result<bool, Failure> {
        let connection = &self.connection;
        let request = pb::GetRequest {
            store: connection.store.clone(),
            path: path.to_owned(),
            ..Default::default()
        };
        match connection.again(|| connection.api.get(request.clone())).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn progress_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {msg}  {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}
