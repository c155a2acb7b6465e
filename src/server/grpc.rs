//! The `Store` service: every call goes to the same method of `Api`, counted, traced and bounded on the way.

use crate::{
    door::Door,
    health::Health,
    metrics::{Call, Meters, Transport},
};
use confold_model::code::Code as Refused;
use confold_wire::{
    api::{Api, Stream},
    convert, pb, status,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Instrument, Span, debug_span, field, info_span};

/// The service for the callers of one connection, to be wrapped into a `StoreServer`.
pub(crate) struct Grpc {
    door: Arc<Door>,
    meters: Arc<Meters>,
    health: Arc<Health>,
}

/// The meters of every method here, to be shared by all connections.
pub(crate) fn meters(max_calls: usize) -> Arc<Meters> {
    Arc::new(Meters::new(METHODS, max_calls))
}

impl Grpc {
    pub fn new(door: Arc<Door>, meters: Arc<Meters>, health: Arc<Health>) -> Grpc {
        Grpc { door, meters, health }
    }

    async fn unary<Q: Named, A: Named>(
        &self,
        method: usize,
        request: Request<Q>,
        work: impl for<'a> FnOnce(&'a dyn Api, Q) -> BoxFuture<'a, Result<A, Status>>,
    ) -> Result<Response<A>, Status> {
        let (call, api) = self.begin(method, &request)?;
        let request = request.into_inner();
        let span = span(method, request.event_id());
        let to_be_minted = request.event_id() == Some("");
        let result = unless_panic(work(&*api, request)).instrument(span.clone()).await;
        match result {
            Ok(answer) => {
                if to_be_minted && let Some(id) = answer.event_id() {
                    name_event(&span, id);
                }
                call.end(Code::Ok);
                Ok(Response::new(answer))
            }
            Err(status) => {
                span.in_scope(|| report(&status));
                call.end(status.code());
                Err(fit(status))
            }
        }
    }

    async fn stream<Q, A: Send + 'static>(
        &self,
        method: usize,
        request: Request<Q>,
        work: impl for<'a> FnOnce(&'a dyn Api, Q) -> BoxFuture<'a, Result<Stream<Result<A, Status>>, Status>>,
    ) -> Result<Response<Stream<Result<A, Status>>>, Status> {
        let (call, api) = self.begin(method, &request)?;
        let span = span(method, None);
        match unless_panic(work(&*api, request.into_inner()))
            .instrument(span.clone())
            .await
        {
            Ok(answers) => Ok(Response::new(counted(answers, call, span))),
            Err(status) => {
                span.in_scope(|| report(&status));
                call.end(status.code());
                Err(fit(status))
            }
        }
    }

    /// Counted, and then who calls, before anything that the request says is looked at.
    fn begin<Q>(&self, method: usize, request: &Request<Q>) -> Result<(Call, Arc<dyn Api>), Status> {
        let transport = request.extensions().get().copied().unwrap_or(Transport::Grpc);
        let call = self.meters.begin(method, transport).ok_or_else(|| {
            let most = self.meters.max_calls();
            unavailable(format!("{most} calls are in flight already"))
        })?;
        match self.door.api(request.metadata().as_ref()) {
            Ok(api) => Ok((call, api)),
            Err(refusal) => {
                call.end(refusal.code());
                Err(refusal)
            }
        }
    }
}

/// Which event a request or an answer is about; empty where the server is to mint the id.
trait Named {
    fn event_id(&self) -> Option<&str> {
        None
    }
}

/// From the table of methods: their names, and the service that hands each to the method of `Api` of the same name.
macro_rules! service {
    (
        unary { $($unary:ident $Unary:ident ($UnaryRequest:ident) -> $UnaryAnswer:ident;)* }
        stream { $($stream:ident $Stream:ident $Answers:ident ($StreamRequest:ident) -> $StreamAnswer:ident;)* }
    ) => {
        #[allow(clippy::enum_variant_names)]
        enum Method { $($Unary,)* $($Stream,)* CommitStream }

        const METHODS: &[&str] = &[$(stringify!($Unary),)* $(stringify!($Stream),)* "CommitStream"];

        #[tonic::async_trait]
        impl pb::store_server::Store for Grpc {
            $(async fn $unary(
                &self,
                request: Request<pb::$UnaryRequest>,
            ) -> Result<Response<pb::$UnaryAnswer>, Status> {
                self.unary(Method::$Unary as usize, request, |api, request| api.$unary(request)).await
            })*

            $(type $Answers = Stream<Result<pb::$StreamAnswer, Status>>;

            async fn $stream(
                &self,
                request: Request<pb::$StreamRequest>,
            ) -> Result<Response<Self::$Answers>, Status> {
                self.stream(Method::$Stream as usize, request, |api, request| api.$stream(request)).await
            })*

            type CommitStreamStream = Stream<Result<pb::CommitStreamResponse, Status>>;

            async fn commit_stream(
                &self,
                request: Request<Streaming<pb::CommitStreamRequest>>,
            ) -> Result<Response<Self::CommitStreamStream>, Status> {
                let health = Arc::clone(&self.health);
                self.stream(Method::CommitStream as usize, request, |api, requests| {
                    until_stopped(api, requests, health).boxed()
                })
                .await
            }
        }
    };
}

service! {
    unary {
        commit Commit(CommitRequest) -> Decision;
        outcome Outcome(OutcomeRequest) -> Decision;
        withdraw Withdraw(WithdrawRequest) -> Decision;
        get Get(GetRequest) -> GetResponse;
        list List(ListRequest) -> ListResponse;
        diff Diff(DiffRequest) -> DiffResponse;
        log Log(LogRequest) -> LogResponse;
        show Show(ShowRequest) -> ShowResponse;
        tag Tag(TagRequest) -> Decision;
        untag Untag(UntagRequest) -> Decision;
        list_tags ListTags(ListTagsRequest) -> ListTagsResponse;
        push_schema PushSchema(PushSchemaRequest) -> PushSchemaResponse;
        get_schema GetSchema(GetSchemaRequest) -> GetSchemaResponse;
        prune Prune(PruneRequest) -> Decision;
        get_retention GetRetention(GetRetentionRequest) -> GetRetentionResponse;
        set_retention SetRetention(SetRetentionRequest) -> Decision;
        get_policy GetPolicy(GetPolicyRequest) -> GetPolicyResponse;
        set_policy SetPolicy(SetPolicyRequest) -> Decision;
        activate Activate(ActivateRequest) -> Decision;
        set_clock SetClock(SetClockRequest) -> Decision;
        sync Sync(SyncRequest) -> SyncResponse;
        list_stores ListStores(ListStoresRequest) -> ListStoresResponse;
        create_store CreateStore(CreateStoreRequest) -> StoreRow;
        open_store OpenStore(OpenStoreRequest) -> StoreRow;
        close_store CloseStore(CloseStoreRequest) -> StoreRow;
        status Status(StatusRequest) -> StatusResponse;
    }
    stream {
        list_stream ListStream ListStreamStream(ListRequest) -> ListResponse;
        diff_stream DiffStream DiffStreamStream(DiffRequest) -> DiffResponse;
        export_log ExportLog ExportLogStream(ExportLogRequest) -> ExportLogResponse;
        snapshot Snapshot SnapshotStream(SnapshotRequest) -> SnapshotResponse;
    }
}

macro_rules! named {
    (by proposal: $($Proposing:ident)*; by itself: $($Itself:ident)*; not: $($Other:ident)*;) => {
        $(impl Named for pb::$Proposing {
            fn event_id(&self) -> Option<&str> {
                Some(self.proposal.as_ref().map_or("", |proposal| &proposal.event_id))
            }
        })*
        $(impl Named for pb::$Itself {
            fn event_id(&self) -> Option<&str> {
                Some(&self.event_id)
            }
        })*
        $(impl Named for pb::$Other {})*
    };
}

named! {
    by proposal: CommitRequest TagRequest UntagRequest PushSchemaRequest PruneRequest SetRetentionRequest
        SetPolicyRequest ActivateRequest SetClockRequest;
    by itself: OutcomeRequest WithdrawRequest Decision;
    not: GetRequest GetResponse ListRequest ListResponse DiffRequest DiffResponse LogRequest LogResponse ShowRequest
        ShowResponse ListTagsRequest ListTagsResponse GetSchemaRequest GetSchemaResponse GetRetentionRequest
        GetRetentionResponse GetPolicyRequest GetPolicyResponse SyncRequest SyncResponse ListStoresRequest
        ListStoresResponse CreateStoreRequest OpenStoreRequest CloseStoreRequest StoreRow StatusRequest StatusResponse;
}

impl Named for pb::PushSchemaResponse {
    fn event_id(&self) -> Option<&str> {
        self.decision.as_ref().map(|decision| decision.event_id.as_str())
    }
}

/// A stream of commits may last for days. When the server stops, it takes no more of them, answers those it took, and
/// says so instead of ending as if the client had.
async fn until_stopped(
    api: &dyn Api,
    requests: Streaming<pb::CommitStreamRequest>,
    health: Arc<Health>,
) -> Result<Stream<Result<pb::CommitStreamResponse, Status>>, Status> {
    let cut = Arc::new(AtomicBool::new(false));
    let stopped = {
        let (cut, stopped) = (Arc::clone(&cut), health.stopped());
        async move {
            stopped.await;
            cut.store(true, Ordering::Relaxed);
        }
    };
    let answers = api
        .commit_stream(Box::pin(requests.take_until(Box::pin(stopped))))
        .await?;
    let last = stream::once(async move { cut.load(Ordering::Relaxed) }).filter_map(async |cut| {
        let refused =
            || unavailable("the server is stopping: send what was not answered again, under the same event ids");
        cut.then(|| Err(refused()))
    });
    Ok(Box::pin(answers.chain(last)))
}

/// One call that meets a bug does not take the others on its connection down with it.
async fn unless_panic<A>(work: BoxFuture<'_, Result<A, Status>>) -> Result<A, Status> {
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    ended.unwrap_or_else(|_| Err(Status::internal("this call met a bug of the server; its log says more")))
}

fn unavailable(detail: impl Into<String>) -> Status {
    status::status(&status::error_detail(Refused::Unavailable, detail))
}

/// Calls about an event can be followed at level INFO; reads are many, and seen at DEBUG.
fn span(method: usize, event_id: Option<&str>) -> Span {
    let method = METHODS[method];
    let Some(id) = event_id else {
        return debug_span!("call", method);
    };
    let span = info_span!("call", method, event_id = field::Empty);
    name_event(&span, id);
    span
}

/// What a client calls an event id may be anything: only what is one is logged.
fn name_event(span: &Span, id: &str) {
    if !span.is_disabled()
        && let Ok(id) = convert::parse_event_id(id)
    {
        span.record("event_id", field::display(id));
    }
}

/// Refusals are the client's business; faults of this server are ours. The text of a refusal may hold values and paths,
/// so only its code is logged.
fn report(status: &Status) {
    match status.code() {
        Code::Internal | Code::DataLoss | Code::Unknown => tracing::error!(code = ?status.code(), "a call failed"),
        code => {
            let detail = status::detail(status).map(|detail| detail.code).unwrap_or_default();
            tracing::debug!(?code, detail, "a call was refused");
        }
    }
}

/// The answers as they come, and the call ends with them.
fn counted<A: Send + 'static>(answers: Stream<Result<A, Status>>, call: Call, span: Span) -> Stream<Result<A, Status>> {
    let state = Some((answers, call, span));
    Box::pin(futures::stream::unfold(state, |state| async move {
        let (mut answers, mut call, span) = state?;
        match answers.next().instrument(span.clone()).await {
            Some(Ok(answer)) => Some((Ok(answer), Some((answers, call, span)))),
            Some(Err(status)) => {
                span.in_scope(|| report(&status));
                call.will_end(status.code());
                Some((Err(fit(status)), None))
            }
            None => {
                call.end(Code::Ok);
                None
            }
        }
    }))
}

/// A status travels in headers, and clients take 16 KiB of them: details that would not fit lose their last conflicts.
fn fit(refusal: Status) -> Status {
    const MESSAGE_BYTES: usize = 1 << 10;
    const DETAIL_BYTES: usize = 6 << 10;
    if refusal.details().len() <= DETAIL_BYTES && refusal.message().len() <= MESSAGE_BYTES {
        return refusal;
    }
    let Some(mut detail) = status::detail(&refusal) else {
        return Status::new(refusal.code(), cut(refusal.message(), MESSAGE_BYTES));
    };
    detail.detail = cut(&detail.detail, MESSAGE_BYTES / 2);
    detail.path = cut(&detail.path, MESSAGE_BYTES / 2);
    detail.hint = cut(&detail.hint, MESSAGE_BYTES / 2);
    let total = detail.conflicts.len();
    let mut left = DETAIL_BYTES - 3 * MESSAGE_BYTES;
    let kept = detail.conflicts.iter().take_while(|row| {
        let size = prost::Message::encoded_len(*row) + 4;
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    });
    let kept = kept.count();
    detail.conflicts.truncate(kept);
    if kept < total {
        detail.detail = format!("{} ({kept} of {total} conflicts are shown)", detail.detail);
    }
    status::status(&detail)
}

fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}
