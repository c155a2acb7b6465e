//! Every call of `service Store` over the stores that are open in this process.
//!
//! ```text
//! write   request ─ paths, values, hashes looked up ─▶ Commit ─▶ Handle::submit ─▶ the fold decides ─▶ Decision
//! read    request ─ which view, which revision ─▶ Reading ─▶ nodes, pages, changes, in the format asked for
//! ```
//! What is refused before the log is only what no state of the tree can make right: a path, a value or a mask that the
//! schema does not allow. Whether something exists, a base or a guard still holds, is for the fold to say: this replica
//! may lag, and commits of one stream build on one another before they are folded.
//!
//! A leaf of the latest revision is read on the calling thread. Whatever may read the store much or re-make a past
//! tree runs on the blocking pool, and long answers are made piece by piece, each when the one before was taken.

mod at;
mod diff;
mod history;
mod list;
mod policy;
mod propose;
mod quota;
mod read;
mod refusal;
mod rights;
mod schema;
mod show;
mod stores;
mod stream;
mod tags;
mod text;
mod upkeep;
mod write;

use crate::handle::Handle;
use async_trait::async_trait;
use bytes::Bytes;
use confold_model::code::Code;
use confold_model::ids::Position;
use confold_model::objects::Objects;
use confold_wire::api::{Api, Stream};
use confold_wire::caller::{Caller, Gate};
use confold_wire::dynamic::Types;
use confold_wire::pb;
use parking_lot::Mutex;
use quota::Quotas;
use rights::Who;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

pub use quota::Quota;
pub use refusal::Refusal;
pub use rights::{Call, Need};
pub use stores::{Keeper, Listed, NameTaken, Report, Stores};
pub use upkeep::state;

/// The stores of one process, to be called. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    stores: Arc<Stores>,
    /// Who makes, opens and closes stores, where that can be asked for.
    keeper: Option<Arc<dyn Keeper>>,
    who: Who,
}

/// Bounds on waiting and on the size of answers; everything has a default.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who may make, open and close stores, where callers are known. Where nobody asked who calls, anybody may.
    pub admins: Vec<String>,
    /// How long a call waits where it does not say, and at most.
    pub deadline: Duration,
    pub longest_deadline: Duration,
    /// The biggest answer, and the size at which a stream of answers begins the next one.
    pub answer_bytes: usize,
    pub piece_bytes: usize,
    /// Elements of a page, changes of a diff, rows of a log: where a call does not say, and at most.
    pub page: Page,
    pub changes: Page,
    pub rows: Page,
    /// Commits in flight on one stream.
    pub stream_in_flight: usize,
    /// What each caller may take of each store.
    pub quota: Quota,
}

/// A number of things in one answer.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub usual: usize,
    pub most: usize,
}

impl Page {
    /// How many, where 0 says nothing.
    fn size(self, asked: u64) -> usize {
        match usize::try_from(asked) {
            Ok(0) => self.usual,
            Ok(asked) => asked.min(self.most),
            Err(_) => self.most,
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            admins: Vec::new(),
            deadline: Duration::from_secs(10),
            longest_deadline: Duration::from_secs(600),
            // What the largest event wrote can be read at once, with the hashes and paths that stand beside it.
            answer_bytes: (16 << 20) + (512 << 10),
            piece_bytes: 1 << 20,
            page: Page {
                usual: 100,
                most: 10_000,
            },
            changes: Page {
                usual: 1_000,
                most: 10_000,
            },
            rows: Page { usual: 50, most: 1_000 },
            stream_in_flight: 8_192,
            quota: Quota::default(),
        }
    }
}

impl Options {
    /// A call's own deadline, or the usual one.
    fn deadline(&self, asked_ms: u32) -> Duration {
        match asked_ms {
            0 => self.deadline,
            ms => Duration::from_millis(ms.into()).min(self.longest_deadline),
        }
    }
}

/// One store and what its calls share.
struct Served {
    name: Arc<str>,
    /// The kind of log that it stands on.
    log: Arc<str>,
    report: Option<Report>,
    handle: Handle,
    objects: Arc<dyn Objects>,
    options: Options,
    /// By the position of the schema's event, which names it for good. Small: nearly every call wants the latest.
    types: Mutex<BTreeMap<Position, Types>>,
    quotas: Quotas,
}

/// Schemas whose types are kept ready.
const TYPES_KEPT: usize = 8;

impl Service {
    /// Of one or several open stores, each under its own name.
    pub fn new(stores: Vec<Handle>) -> Service {
        Service::with_options(stores, Options::default())
    }

    pub fn with_options(stores: Vec<Handle>, options: Options) -> Service {
        let all = Stores::new(options);
        for handle in stores {
            if let Err(taken) = all.add(handle, "memory") {
                tracing::error!(%taken, "a store is left out");
            }
        }
        Service::over(Arc::new(all))
    }

    /// Of stores that may come and go.
    pub fn over(stores: Arc<Stores>) -> Service {
        Service {
            stores,
            keeper: None,
            who: Who::Process,
        }
    }

    /// The same with stores made, opened and closed on request.
    pub fn kept_by(self, keeper: Arc<dyn Keeper>) -> Service {
        Service {
            keeper: Some(keeper),
            ..self
        }
    }

    /// The same stores for one caller: the name stands as `principal` on every event that is proposed through it, and
    /// what it may read and propose is what each store's policy allows that name. Whoever calls this vouches for the name.
    pub fn acting_as(&self, principal: &str) -> Service {
        self.of(Who::Named(principal.into()))
    }

    fn of(&self, who: Who) -> Service {
        Service {
            who,
            ..self.clone()
        }
    }

    fn keeper(&self) -> Result<&dyn Keeper, Refusal> {
        self.may_keep()?;
        let none = || {
            let what = "the stores of this server were fixed when it was started";
            Refusal::new(Code::Unsupported, what)
                .hint("start it with a folder for stores: `confold serve --stores FOLDER`")
        };
        self.keeper.as_deref().ok_or_else(none)
    }

    fn row(&self, name: &str) -> Result<pb::StoreRow, Refusal> {
        let row = self.stores.rows().into_iter().find(|row| row.name == name);
        row.ok_or_else(|| Refusal::new(Code::NotFound, format!("no store is called {name:?}")))
    }
}

impl Served {
    fn objects(&self) -> &dyn Objects {
        &*self.objects
    }

    /// The dynamic types of a schema, made once.
    fn types(&self, pushed_at: Position, descriptor_set: &Bytes) -> Result<Types, Refusal> {
        if let Some(types) = self.types.lock().get(&pushed_at) {
            return Ok(types.clone());
        }
        let types = Types::new(descriptor_set)?;
        let mut kept = self.types.lock();
        if kept.len() >= TYPES_KEPT {
            kept.pop_first();
        }
        kept.insert(pushed_at, types.clone());
        Ok(types)
    }
}

/// Runs what may wait for a disk where waiting harms nobody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A bug stays the bug of this call: whoever made the call catches it.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Refusal::new(
                Code::Unavailable,
                "the server is shutting down",
            )),
        },
    }
}

/// Callers from outside. What they may do is looked up by each call, in the policy that is then in force.
impl Gate for Service {
    fn api(&self, caller: &Caller) -> Arc<dyn Api> {
        Arc::new(self.of(Who::outside(caller)))
    }

    fn may_inspect(&self, caller: &Caller) -> Result<(), Status> {
        Ok(self.of(Who::outside(caller)).inspects()?)
    }
}

#[async_trait]
impl Api for Service {
    async fn commit(&self, request: pb::CommitRequest) -> Result<pb::Decision, Status> {
        let served = self.enter(Call::Commit, &request).await?;
        Ok(write::commit(served, request).await?)
    }

    async fn commit_stream(
        &self,
        requests: Stream<Result<pb::CommitStreamRequest, Status>>,
    ) -> Result<Stream<Result<pb::CommitStreamResponse, Status>>, Status> {
        Ok(stream::commits(self.clone(), requests))
    }

    async fn outcome(&self, request: pb::OutcomeRequest) -> Result<pb::Decision, Status> {
        Ok(propose::outcome(self.enter(Call::Outcome, &request).await?, request).await?)
    }

    async fn withdraw(&self, request: pb::WithdrawRequest) -> Result<pb::Decision, Status> {
        let served = self.enter(Call::Withdraw, &request).await?;
        Ok(propose::withdraw(served, request).await?)
    }

    async fn get(&self, request: pb::GetRequest) -> Result<pb::GetResponse, Status> {
        Ok(read::get(self.enter(Call::Get, &request).await?, request).await?)
    }

    async fn list(&self, request: pb::ListRequest) -> Result<pb::ListResponse, Status> {
        Ok(list::list(self.enter(Call::List, &request).await?, request).await?)
    }

    async fn list_stream(&self, request: pb::ListRequest) -> Result<Stream<Result<pb::ListResponse, Status>>, Status> {
        Ok(list::stream(self.enter(Call::ListStream, &request).await?, request).await?)
    }

    async fn diff(&self, request: pb::DiffRequest) -> Result<pb::DiffResponse, Status> {
        Ok(diff::diff(self.enter(Call::Diff, &request).await?, request).await?)
    }

    async fn diff_stream(&self, request: pb::DiffRequest) -> Result<Stream<Result<pb::DiffResponse, Status>>, Status> {
        Ok(diff::stream(self.enter(Call::DiffStream, &request).await?, request).await?)
    }

    async fn log(&self, request: pb::LogRequest) -> Result<pb::LogResponse, Status> {
        Ok(history::log(self.enter(Call::Log, &request).await?, request).await?)
    }

    async fn show(&self, request: pb::ShowRequest) -> Result<pb::ShowResponse, Status> {
        Ok(show::show(self.enter(Call::Show, &request).await?, request).await?)
    }

    async fn tag(&self, request: pb::TagRequest) -> Result<pb::Decision, Status> {
        let served = self.enter(Call::Tag, &request).await?;
        Ok(tags::tag(served, request).await?)
    }

    async fn untag(&self, request: pb::UntagRequest) -> Result<pb::Decision, Status> {
        let served = self.enter(Call::Untag, &request).await?;
        Ok(tags::untag(served, request).await?)
    }

    async fn list_tags(&self, request: pb::ListTagsRequest) -> Result<pb::ListTagsResponse, Status> {
        Ok(tags::list(self.enter(Call::ListTags, &request).await?, request).await?)
    }

    async fn push_schema(&self, request: pb::PushSchemaRequest) -> Result<pb::PushSchemaResponse, Status> {
        let served = self.enter(Call::PushSchema, &request).await?;
        Ok(schema::push(served, request).await?)
    }

    async fn get_schema(&self, request: pb::GetSchemaRequest) -> Result<pb::GetSchemaResponse, Status> {
        Ok(schema::get(self.enter(Call::GetSchema, &request).await?, request).await?)
    }

    async fn prune(&self, request: pb::PruneRequest) -> Result<pb::Decision, Status> {
        let served = self.enter(Call::Prune, &request).await?;
        Ok(upkeep::prune(served, request).await?)
    }

    async fn get_retention(&self, request: pb::GetRetentionRequest) -> Result<pb::GetRetentionResponse, Status> {
        Ok(upkeep::get_retention(&self.enter(Call::GetRetention, &request).await?))
    }

    async fn set_retention(&self, request: pb::SetRetentionRequest) -> Result<pb::Decision, Status> {
        let served = self.enter(Call::SetRetention, &request).await?;
        Ok(upkeep::set_retention(served, request).await?)
    }

    async fn get_policy(&self, request: pb::GetPolicyRequest) -> Result<pb::GetPolicyResponse, Status> {
        Ok(policy::get(&self.enter(Call::GetPolicy, &request).await?)?)
    }

    async fn set_policy(&self, request: pb::SetPolicyRequest) -> Result<pb::Decision, Status> {
        let served = self.enter(Call::SetPolicy, &request).await?;
        Ok(policy::set(served, request).await?)
    }

    async fn activate(&self, request: pb::ActivateRequest) -> Result<pb::Decision, Status> {
        let served = self.enter(Call::Activate, &request).await?;
        Ok(upkeep::activate(served, request).await?)
    }

    async fn set_clock(&self, request: pb::SetClockRequest) -> Result<pb::Decision, Status> {
        let served = self.enter(Call::SetClock, &request).await?;
        Ok(upkeep::set_clock(served, request).await?)
    }

    async fn sync(&self, request: pb::SyncRequest) -> Result<pb::SyncResponse, Status> {
        Ok(upkeep::sync(self.enter(Call::Sync, &request).await?, request).await?)
    }

    async fn list_stores(&self, _: pb::ListStoresRequest) -> Result<pb::ListStoresResponse, Status> {
        Ok(pb::ListStoresResponse {
            stores: self.listed()?,
        })
    }

    async fn create_store(&self, request: pb::CreateStoreRequest) -> Result<pb::StoreRow, Status> {
        let name = request.name.clone();
        self.keeper()?.create(request).await?;
        Ok(self.row(&name)?)
    }

    async fn open_store(&self, request: pb::OpenStoreRequest) -> Result<pb::StoreRow, Status> {
        self.keeper()?.open(&request.name).await?;
        Ok(self.row(&request.name)?)
    }

    async fn close_store(&self, request: pb::CloseStoreRequest) -> Result<pb::StoreRow, Status> {
        self.keeper()?.close(&request.name).await?;
        Ok(self.row(&request.name)?)
    }

    async fn status(&self, request: pb::StatusRequest) -> Result<pb::StatusResponse, Status> {
        match self.enter(Call::Status, &request).await {
            Ok(asked) => Ok(upkeep::status(&asked, &asked.now()?)),
            Err(refusal) => match self.stores.only(&request.store) {
                _ if refusal.code() == Code::Quota => Err(refusal.into()),
                // A token that is not known is refused everywhere.
                Some(served) if !self.who.is_bearer() || refusal.code() == Code::Permission => {
                    Ok(upkeep::bare_status(&served))
                }
                _ => Err(refusal.into()),
            },
        }
    }

    async fn export_log(
        &self,
        request: pb::ExportLogRequest,
    ) -> Result<Stream<Result<pb::ExportLogResponse, Status>>, Status> {
        Ok(upkeep::export(self.enter(Call::ExportLog, &request).await?, request).await?)
    }

    async fn snapshot(
        &self,
        request: pb::SnapshotRequest,
    ) -> Result<Stream<Result<pb::SnapshotResponse, Status>>, Status> {
        Ok(upkeep::snapshot(self.enter(Call::Snapshot, &request).await?).await?)
    }
}
