//! A store in a few lines, by the model's own rules: no log, no disk, no clock. Answers can be lost on purpose.

use async_trait::async_trait;
use confold_model::{
    canonicalise::ChildFields,
    code::{Code, Rejection},
    event::{Base, Commit, Expect, Guard, Limits, Operation, OperationKind},
    ids::Hash,
    merge, node,
    objects::NoObjects,
    path::{Path, Target},
    schema::{ChildKind, Schema, TypeId},
    tree::{Lookup, NodeView, Tree},
};
use confold_wire::{
    api::{Api, Stream},
    convert::{parse_event_id, parse_hash},
    pb::{self, decision::Outcome, text_base::Was, text_guard, text_operation::Kind, value::Form},
    schema_source,
    status::{error_detail, status},
};
use futures::StreamExt;
use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};
use tonic::Status;

#[derive(Clone)]
pub struct Mini(Arc<Mutex<Inner>>);

pub struct Inner {
    schema: Arc<Schema>,
    descriptor_set: Vec<u8>,
    /// By revision.
    trees: Vec<Tree>,
    /// First outcomes by event id.
    decided: BTreeMap<String, Result<pb::Decision, pb::ErrorDetail>>,
    position: u64,
    pub faults: VecDeque<Fault>,
    /// Commits that arrived, by event id.
    pub arrived: Vec<String>,
    pub calls: Vec<&'static str>,
    /// Refuse with this before the log.
    pub refuse: Option<Code>,
}

/// What happens to the next commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    None,
    /// It never arrives, and the caller hears of a broken connection.
    LoseRequest,
    /// It is applied, and the answer is lost.
    LoseAnswer,
    /// The server could not wait any longer.
    Unknown,
    /// There was no connection to begin with.
    NotConnected,
    /// The server has no space for it.
    DiskFull,
    OverQuota,
}

pub const ROOT: &str = "example.Network";

impl Mini {
    pub fn new() -> Mini {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas/examples");
        let descriptor_set = schema_source::descriptor_set_of(&folder, &[]).unwrap().descriptor_set;
        let schema = Schema::compile(&descriptor_set, ROOT).unwrap();
        Mini(Arc::new(Mutex::new(Inner {
            schema: Arc::new(schema),
            descriptor_set,
            trees: vec![Tree::empty()],
            decided: BTreeMap::new(),
            position: 10,
            faults: VecDeque::new(),
            arrived: Vec::new(),
            calls: Vec::new(),
            refuse: None,
        })))
    }

    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn revisions(&self) -> usize {
        self.inner().trees.len() - 1
    }

    pub fn root(&self) -> Hash {
        self.inner().trees.last().unwrap().root()
    }

    pub fn commit_now(&self, request: &pb::CommitRequest) -> Result<pb::Decision, Status> {
        let mut inner = self.inner();
        inner.calls.push("commit");
        let fault = inner.faults.pop_front().unwrap_or(Fault::None);
        match fault {
            Fault::LoseRequest => return Err(Status::unavailable("the connection broke")),
            Fault::NotConnected => return Err(status(&error_detail(Code::Unavailable, "no server answers"))),
            Fault::DiskFull => return Err(status(&error_detail(Code::DiskFull, "no space is left"))),
            Fault::OverQuota => return Err(status(&error_detail(Code::Quota, "too many calls"))),
            _ => {}
        }
        let id = request.proposal.clone().unwrap_or_default().event_id;
        parse_event_id(&id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        inner.arrived.push(id.clone());
        if let Some(code) = inner.refuse {
            return Err(status(&error_detail(code, "refused before the log")));
        }
        let result = match inner.decided.get(&id).cloned() {
            Some(first) => first.map(|decision| pb::Decision {
                repeated: true,
                ..decision
            }),
            None => {
                let result = inner.decide(request);
                inner.decided.insert(id, result.clone());
                result
            }
        };
        match fault {
            Fault::LoseAnswer => Err(Status::unavailable("the connection broke")),
            Fault::Unknown => Err(status(&error_detail(Code::Unknown, "not decided in time"))),
            _ => result.map_err(|detail| status(&detail)),
        }
    }
}

impl Inner {
    fn decide(&mut self, request: &pb::CommitRequest) -> Result<pb::Decision, pb::ErrorDetail> {
        self.position += 1;
        let position = self.position;
        let refused = |rejection: Rejection| pb::ErrorDetail {
            position: Some(position),
            path: rejection
                .path
                .as_ref()
                .map(|path| self.schema.print_path(path))
                .unwrap_or_default(),
            conflicts: rejection
                .conflicts
                .iter()
                .map(|row| pb::ConflictRow {
                    path: self.schema.print_path(&row.path),
                    kind: row.kind.to_owned(),
                    ..Default::default()
                })
                .collect(),
            ..error_detail(rejection.code, rejection.detail)
        };
        let commit = self.read(request).map_err(refused)?;
        let tree = self.trees.last().unwrap();
        let after = merge::commit(tree, &self.schema, &Limits::default(), &commit, &NoObjects).unwrap();
        let after = after.map_err(refused)?;
        let changed = after.root() != tree.root();
        if changed {
            self.trees.push(after);
        }
        Ok(pb::Decision {
            outcome: if changed {
                Outcome::Committed
            } else {
                Outcome::Unchanged
            }
            .into(),
            revision: changed.then(|| self.trees.len() as u64 - 1),
            root: self.trees.last().unwrap().root().to_string(),
            position: Some(position),
            token: format!("{position}@{}", "ab".repeat(16)),
            event_id: request.proposal.clone().unwrap_or_default().event_id,
            ..Default::default()
        })
    }

    fn read(&self, request: &pb::CommitRequest) -> Result<Commit<'static>, Rejection> {
        let mut commit = Commit::default();
        for guard in &request.guards {
            let path = self.schema.parse_path(&guard.path)?;
            let hash = |text: &str| parse_hash(text).unwrap();
            let expect = match guard.expect.clone().unwrap() {
                text_guard::Expect::Subtree(text) => Expect::Subtree(hash(&text)),
                text_guard::Expect::Data(text) => Expect::Data(hash(&text)),
                text_guard::Expect::Container(text) => Expect::Container(hash(&text)),
                text_guard::Expect::Absent(_) => Expect::Absent,
                text_guard::Expect::SameAs(at) => {
                    let tree = self.tree(&at);
                    match self.schema.resolve(&path)? {
                        Target::Container { .. } => {
                            Expect::Container(tree.container_hash(&path, &NoObjects).unwrap().unwrap())
                        }
                        Target::Node { .. } => tree
                            .subtree_hash(&path, &NoObjects)
                            .unwrap()
                            .map_or(Expect::Absent, Expect::Subtree),
                    }
                }
            };
            commit.guards.push(Guard { path, expect });
        }
        for operation in &request.operations {
            commit.operations.push(self.operation(operation)?);
        }
        Ok(commit)
    }

    fn operation(&self, operation: &pb::TextOperation) -> Result<Operation<'static>, Rejection> {
        let mut path = self.schema.parse_path(&operation.path)?;
        let mut target = self.schema.resolve(&path)?;
        let kind = operation.kind.clone().unwrap();
        if let (Kind::Add(value), Target::Container { child, .. }) = (&kind, &target) {
            let ChildKind::Keyed(key) = &child.kind else {
                return Err(Rejection::new(Code::NotKeyed, "a list"));
            };
            let bytes = self.canonical(child.message, value, &path)?;
            let step = path.steps.last_mut().unwrap();
            step.key = Some(
                self.schema
                    .key_of(child.message, key, &bytes)
                    .map_err(Rejection::from)?,
            );
            target = Target::Node {
                ty: child.message,
                keyed: Some(child),
            };
        }
        let (ty, depth) = match target {
            Target::Node { ty, .. } => (ty, path.depth()),
            Target::Container { parent, .. } => (parent, path.depth() - 1),
        };
        let bytes = |value: &pb::Value| {
            let canonical = self.schema.canonicalise(ty, proto(value), depth, ChildFields::Allowed);
            Ok::<_, Rejection>(Cow::Owned(canonical.map_err(Rejection::from)?.bytes))
        };
        let mut masked = None;
        let kind = match &kind {
            Kind::Update(update) => {
                let mut mask = Vec::new();
                for name in &update.mask {
                    mask.push(
                        self.schema
                            .parse_field_ref(&format!("{}:{name}", operation.path))?
                            .fields,
                    );
                }
                mask.sort();
                let mut value = bytes(update.value.as_ref().unwrap())?;
                if !mask.is_empty() {
                    value = Cow::Owned(self.schema.masked(ty, &value, &mask));
                }
                masked = Some(mask.clone());
                OperationKind::Update { value, mask }
            }
            Kind::Add(value) => OperationKind::Add { value: bytes(value)? },
            Kind::Put(value) => OperationKind::Put { value: bytes(value)? },
            Kind::Replace(value) => OperationKind::Replace { value: bytes(value)? },
            Kind::Remove(_) => OperationKind::Remove,
        };
        let base = match operation.base.as_ref().and_then(|base| base.was.as_ref()) {
            None => None,
            Some(Was::Hash(text)) => Some(Base::Hash(parse_hash(text).unwrap())),
            Some(Was::Absent(_)) => Some(Base::Absent),
            Some(Was::AsOf(at)) => {
                let tree = self.tree(at);
                let hash = match (&masked, target) {
                    (_, Target::Container { .. }) => tree.container_hash(&path, &NoObjects).unwrap(),
                    (Some(mask), _) if mask.is_empty() => tree.data_hash(&path, &NoObjects).unwrap(),
                    (Some(mask), _) => match tree.node(&path, &NoObjects).unwrap() {
                        Lookup::Found(view) => {
                            let config = view.config(&NoObjects).unwrap();
                            Some(node::data_hash(&self.schema.masked(ty, config, mask)))
                        }
                        Lookup::Default => Some(node::data_hash(&[])),
                        Lookup::Absent { .. } => None,
                    },
                    (None, _) => tree.subtree_hash(&path, &NoObjects).unwrap(),
                };
                Some(hash.map_or(Base::Absent, Base::Hash))
            }
        };
        Ok(Operation {
            path,
            strict: operation.strict,
            base,
            kind,
        })
    }

    fn canonical(&self, ty: TypeId, value: &pb::Value, path: &Path) -> Result<Vec<u8>, Rejection> {
        let canonical = self
            .schema
            .canonicalise(ty, proto(value), path.depth(), ChildFields::Allowed);
        Ok(canonical.map_err(Rejection::from)?.bytes)
    }

    fn tree(&self, at: &str) -> &Tree {
        match at.strip_prefix("rev:") {
            Some(revision) => &self.trees[revision.parse::<usize>().unwrap()],
            None => self.trees.last().unwrap(),
        }
    }

    fn read_at(&self, read: Option<&pb::Read>) -> (&Tree, pb::ReadAt) {
        let tree = self.tree(read.map_or("", |read| &read.at));
        let revision = self.trees.iter().position(|other| std::ptr::eq(other, tree)).unwrap() as u64;
        let at = pb::ReadAt {
            revision,
            root: tree.root().to_string(),
            position: self.position,
            ..Default::default()
        };
        (tree, at)
    }

    fn message(&self, ty: TypeId, view: &NodeView, depth: i32) -> Vec<u8> {
        let mut children = Vec::new();
        for field in view.fields().filter(|_| depth != 0) {
            let child = self.schema.message(ty).child(field).unwrap();
            let views = match child.kind {
                ChildKind::Single => vec![view.child(field, &NoObjects).unwrap()],
                _ => {
                    let container = view.container(field, &NoObjects).unwrap();
                    let all = container.range(Bound::Unbounded, u64::MAX, &NoObjects).unwrap();
                    all.into_iter().map(|(_, view)| view).collect()
                }
            };
            let items = views
                .iter()
                .map(|view| self.message(child.message, view, depth.max(0) - 1))
                .collect();
            children.push((field, items));
        }
        self.schema
            .join::<Vec<u8>>(ty, view.config(&NoObjects).unwrap(), &children)
    }

    fn node(&self, path: &Path, ty: TypeId, view: &NodeView, depth: i32) -> pb::Node {
        let form = Some(Form::Proto(self.message(ty, view, depth).into()));
        pb::Node {
            path: self.schema.print_path(path),
            hash: view.hash().to_string(),
            data_hash: view.data_hash().to_string(),
            value: Some(pb::Value {
                form,
                r#type: String::new(),
            }),
            ..Default::default()
        }
    }

    fn get(&self, request: &pb::GetRequest) -> Result<pb::GetResponse, Rejection> {
        let path = self.schema.parse_path(&request.path)?;
        let Target::Node { ty, .. } = self.schema.resolve(&path)? else {
            return Ok(pb::GetResponse {
                container: Some(pb::Container::default()),
                ..Default::default()
            });
        };
        let (tree, read_at) = self.read_at(request.read.as_ref());
        let empty = Tree::empty();
        let view = match tree.node(&path, &NoObjects).unwrap() {
            Lookup::Found(view) => view,
            Lookup::Default => match empty.node(&Path::root(), &NoObjects).unwrap() {
                Lookup::Found(view) => view,
                _ => panic!("the root is always there"),
            },
            Lookup::Absent { .. } => return Err(Rejection::new(Code::NotFound, "no such key")),
        };
        let nodes = vec![self.node(&path, ty, &view, request.depth)];
        Ok(pb::GetResponse {
            read_at: Some(read_at),
            nodes,
            ..Default::default()
        })
    }

    fn list(&self, request: &pb::ListRequest) -> Result<Vec<pb::ListResponse>, Rejection> {
        let path = self.schema.parse_path(&request.path)?;
        let Target::Container { child, .. } = self.schema.resolve(&path)? else {
            return Err(Rejection::new(Code::NotAContainer, "a node"));
        };
        let (tree, read_at) = self.read_at(request.read.as_ref());
        let container = tree.container(&path, &NoObjects).unwrap();
        let container = container.ok_or_else(|| Rejection::new(Code::NotFound, "no such key"))?;
        let all = container.range(Bound::Unbounded, u64::MAX, &NoObjects).unwrap();
        // Two to an answer, so that whoever reads has to put them together.
        let pages = all.chunks(2).map(|page| pb::ListResponse {
            read_at: Some(read_at.clone()),
            nodes: page
                .iter()
                .map(|(_, view)| self.node(&path, child.message, view, request.depth))
                .collect(),
            ..Default::default()
        });
        Ok(pages.collect())
    }
}

fn proto(value: &pb::Value) -> &[u8] {
    match &value.form {
        Some(Form::Proto(bytes)) => bytes,
        _ => panic!("the library sends protobuf"),
    }
}

fn answer<T>(result: Result<T, Rejection>) -> Result<T, Status> {
    result.map_err(|rejection| status(&error_detail(rejection.code, rejection.detail)))
}

macro_rules! not_here {
    ($($call:ident: $request:ident -> $answer:ty),* $(,)?) => {
        #[async_trait]
        impl Api for Mini {
            $(async fn $call(&self, _: pb::$request) -> Result<$answer, Status> {
                Err(Status::unimplemented(stringify!($call)))
            })*

            async fn commit(&self, request: pb::CommitRequest) -> Result<pb::Decision, Status> {
                self.commit_now(&request)
            }

            async fn commit_stream(
                &self,
                requests: Stream<Result<pb::CommitStreamRequest, Status>>,
            ) -> Result<Stream<Result<pb::CommitStreamResponse, Status>>, Status> {
                self.inner().calls.push("commit_stream");
                let store = self.clone();
                Ok(Box::pin(requests.map(move |request| {
                    let request = request?;
                    let decision = match store.commit_now(&request.commit.unwrap_or_default()) {
                        Ok(decision) => decision,
                        Err(refused) => {
                            // What breaks the connection ends the stream; what is refused is an answer.
                            let Some(detail) = confold_wire::status::detail(&refused) else { return Err(refused) };
                            let unknown = detail.code == Code::Unknown.name();
                            let outcome = if unknown { Outcome::Unknown } else { Outcome::Rejected };
                            pb::Decision { outcome: outcome.into(), error: Some(detail), ..Default::default() }
                        }
                    };
                    Ok(pb::CommitStreamResponse { correlation: request.correlation, decision: Some(decision) })
                })))
            }

            async fn get(&self, request: pb::GetRequest) -> Result<pb::GetResponse, Status> {
                self.inner().calls.push("get");
                answer(self.inner().get(&request))
            }

            async fn list_stream(
                &self,
                request: pb::ListRequest,
            ) -> Result<Stream<Result<pb::ListResponse, Status>>, Status> {
                self.inner().calls.push("list_stream");
                let pages = answer(self.inner().list(&request))?;
                Ok(Box::pin(futures::stream::iter(pages.into_iter().map(Ok))))
            }

            async fn get_schema(&self, request: pb::GetSchemaRequest) -> Result<pb::GetSchemaResponse, Status> {
                let inner = self.inner();
                Ok(pb::GetSchemaResponse {
                    read_at: Some(inner.read_at(request.read.as_ref()).1),
                    descriptor_set: inner.descriptor_set.clone().into(),
                    root_message: ROOT.to_owned(),
                    ..Default::default()
                })
            }

            async fn status(&self, _: pb::StatusRequest) -> Result<pb::StatusResponse, Status> {
                let mut inner = self.inner();
                inner.calls.push("status");
                Ok(pb::StatusResponse { position: inner.position, ..Default::default() })
            }
        }
    };
}

not_here! {
    outcome: OutcomeRequest -> pb::Decision,
    withdraw: WithdrawRequest -> pb::Decision,
    list: ListRequest -> pb::ListResponse,
    diff: DiffRequest -> pb::DiffResponse,
    diff_stream: DiffRequest -> Stream<Result<pb::DiffResponse, Status>>,
    log: LogRequest -> pb::LogResponse,
    show: ShowRequest -> pb::ShowResponse,
    tag: TagRequest -> pb::Decision,
    untag: UntagRequest -> pb::Decision,
    list_tags: ListTagsRequest -> pb::ListTagsResponse,
    push_schema: PushSchemaRequest -> pb::PushSchemaResponse,
    prune: PruneRequest -> pb::Decision,
    get_retention: GetRetentionRequest -> pb::GetRetentionResponse,
    set_retention: SetRetentionRequest -> pb::Decision,
    get_policy: GetPolicyRequest -> pb::GetPolicyResponse,
    set_policy: SetPolicyRequest -> pb::Decision,
    activate: ActivateRequest -> pb::Decision,
    set_clock: SetClockRequest -> pb::Decision,
    sync: SyncRequest -> pb::SyncResponse,
    list_stores: ListStoresRequest -> pb::ListStoresResponse,
    create_store: CreateStoreRequest -> pb::StoreRow,
    open_store: OpenStoreRequest -> pb::StoreRow,
    close_store: CloseStoreRequest -> pb::StoreRow,
    export_log: ExportLogRequest -> Stream<Result<pb::ExportLogResponse, Status>>,
    snapshot: SnapshotRequest -> Stream<Result<pb::SnapshotResponse, Status>>,
}
