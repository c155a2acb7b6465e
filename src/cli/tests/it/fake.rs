//! A service that answers what it was told to answer, and remembers what it was asked.

use async_trait::async_trait;
use confold_wire::{
    api::{Api, Stream},
    json, pb,
};
use futures::StreamExt;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};
use tonic::Status;

/// Answers of one call: those told first, then the standing one.
pub struct Script<T> {
    next: Mutex<VecDeque<Result<T, Status>>>,
    standing: Mutex<Option<T>>,
}

impl<T> Default for Script<T> {
    fn default() -> Self {
        Script {
            next: Mutex::default(),
            standing: Mutex::default(),
        }
    }
}

impl<T: Clone> Script<T> {
    pub fn answer(&self, answer: T) {
        self.next.lock().unwrap().push_back(Ok(answer));
    }

    pub fn refuse(&self, status: Status) {
        self.next.lock().unwrap().push_back(Err(status));
    }

    pub fn always(&self, answer: T) {
        *self.standing.lock().unwrap() = Some(answer);
    }

    fn take(&self, call: &str) -> Result<T, Status> {
        let next = self.next.lock().unwrap().pop_front();
        let standing = || {
            self.standing
                .lock()
                .unwrap()
                .clone()
                .ok_or_else(|| Status::unimplemented(call.to_owned()))
        };
        next.unwrap_or_else(|| standing())
    }
}

macro_rules! fake {
    (unary $($call:ident: $request:ident -> $answer:ident),*; stream $($many:ident: $ask:ident -> $item:ident),*;) => {
        #[derive(Default)]
        pub struct Fake {
            /// `call {request as JSON}`
            pub requests: Arc<Mutex<Vec<String>>>,
            $(pub $call: Script<pb::$answer>,)*
            $(pub $many: Script<Vec<pb::$item>>,)*
            pub commit_stream: Arc<Script<pb::Decision>>,
        }

        #[async_trait]
        impl Api for Fake {
            $(async fn $call(&self, request: pb::$request) -> Result<pb::$answer, Status> {
                note(&self.requests, stringify!($call), stringify!($request), &request);
                self.$call.take(stringify!($call))
            })*

            $(async fn $many(&self, request: pb::$ask) -> Result<Stream<Result<pb::$item, Status>>, Status> {
                note(&self.requests, stringify!($many), stringify!($ask), &request);
                let items = self.$many.take(stringify!($many))?;
                Ok(Box::pin(futures::stream::iter(items.into_iter().map(Ok))))
            })*

            async fn commit_stream(
                &self,
                requests: Stream<Result<pb::CommitStreamRequest, Status>>,
            ) -> Result<Stream<Result<pb::CommitStreamResponse, Status>>, Status> {
                let (noted, script) = (self.requests.clone(), self.commit_stream.clone());
                Ok(Box::pin(requests.map(move |request| {
                    let request = request?;
                    note(&noted, "commit_stream", "CommitStreamRequest", &request);
                    let decision = script.take("commit_stream")?;
                    let correlation = request.correlation;
                    Ok(pb::CommitStreamResponse { correlation, decision: Some(decision) })
                })))
            }
        }
    };
}

fake! {
    unary
    commit: CommitRequest -> Decision,
    outcome: OutcomeRequest -> Decision,
    withdraw: WithdrawRequest -> Decision,
    get: GetRequest -> GetResponse,
    list: ListRequest -> ListResponse,
    diff: DiffRequest -> DiffResponse,
    log: LogRequest -> LogResponse,
    show: ShowRequest -> ShowResponse,
    tag: TagRequest -> Decision,
    untag: UntagRequest -> Decision,
    list_tags: ListTagsRequest -> ListTagsResponse,
    push_schema: PushSchemaRequest -> PushSchemaResponse,
    get_schema: GetSchemaRequest -> GetSchemaResponse,
    prune: PruneRequest -> Decision,
    get_retention: GetRetentionRequest -> GetRetentionResponse,
    set_retention: SetRetentionRequest -> Decision,
    get_policy: GetPolicyRequest -> GetPolicyResponse,
    set_policy: SetPolicyRequest -> Decision,
    activate: ActivateRequest -> Decision,
    set_clock: SetClockRequest -> Decision,
    sync: SyncRequest -> SyncResponse,
    list_stores: ListStoresRequest -> ListStoresResponse,
    create_store: CreateStoreRequest -> StoreRow,
    open_store: OpenStoreRequest -> StoreRow,
    close_store: CloseStoreRequest -> StoreRow,
    status: StatusRequest -> StatusResponse;
    stream
    list_stream: ListRequest -> ListResponse,
    diff_stream: DiffRequest -> DiffResponse,
    export_log: ExportLogRequest -> ExportLogResponse,
    snapshot: SnapshotRequest -> SnapshotResponse;
}

fn note<M: prost::Message>(requests: &Mutex<Vec<String>>, call: &str, name: &str, request: &M) {
    let mut text = json::to_json(&format!("confold.v1.{name}"), request)
        .unwrap()
        .to_string();
    if text.len() > 2_000 {
        text = format!("{} bytes of JSON", text.len());
    }
    requests.lock().unwrap().push(format!("{call} {text}"));
}
