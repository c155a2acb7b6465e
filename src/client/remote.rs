//! The service behind a socket.

use crate::secure::{self, Tls, is_local};
use async_trait::async_trait;
use confold_model::code::Code;
use confold_wire::{
    api::{Api, Stream},
    caller::BearerToken,
    pb::{self, store_client::StoreClient},
    status,
};
use futures::{FutureExt, StreamExt, channel::oneshot};
use std::{
    error::Error as _,
    pin::Pin,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Duration,
};
use tonic::{
    ConnectError, Request, Status,
    codegen::http::Uri,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

/// An event of the default limit, 16 MiB, and room for what surrounds it.
pub const MAX_MESSAGE_BYTES: usize = 17 << 20;

/// One server, connected to when first asked, and again whenever the connection was lost.
pub struct Remote {
    address: String,
    connections: Vec<StoreClient<Channel>>,
    next: AtomicUsize,
    call_timeout: Option<Duration>,
    max_message_bytes: usize,
    /// Stands on every call; marked, so that neither logs nor header compression keep it.
    authorization: Option<MetadataValue<Ascii>>,
    /// Where it is spoken: what is needed to ask why the server ended a connection.
    tls: Option<Secure>,
    /// The server has answered a call, so it takes the certificate, or did.
    answered: AtomicBool,
}

struct Secure {
    host: String,
    port: u16,
    tls: Tls,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Calls are spread over this many connections in turn. One carries some 200 calls at once.
    pub connections: usize,
    pub connect_timeout: Duration,
    /// A call without an answer after this long fails; `None`: only the server's own deadlines hold. Streams are exempt.
    pub call_timeout: Option<Duration>,
    pub max_message_bytes: usize,
    /// For addresses with `https://`.
    pub tls: Tls,
    /// Says who calls. It is not sent without TLS, except to this machine.
    pub token: Option<BearerToken>,
    /// Send the token to other machines without TLS, where everybody on the way can read it. Certificates are checked
    /// all the same.
    pub insecure: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connections: 1,
            connect_timeout: Duration::from_secs(5),
            call_timeout: Some(Duration::from_secs(60)),
            max_message_bytes: MAX_MESSAGE_BYTES,
            tls: Tls::default(),
            token: None,
            insecure: false,
        }
    }
}

impl Remote {
    /// `host:port`, `http://host:port`, or `https://host:port` for TLS. Fails on an address that is none; must run inside
    /// a tokio runtime.
    pub fn connect(address: &str) -> Result<Remote, crate::Error> {
        Remote::with_options(address, &Options::default())
    }

    /// Fails also on certificates and keys that cannot be used, and on a token that anybody could read on its way.
    pub fn with_options(address: &str, options: &Options) -> Result<Remote, crate::Error> {
        let invalid = |text: String| crate::Error::refused(Code::Unavailable, "", text);
        let encrypted = address.starts_with("https://");
        let uri = if address.contains("://") {
            address.to_owned()
        } else {
            format!("http://{address}")
        };
        let none = |error: String| invalid(format!("{address} is no address of a server{error}; write host:port"));
        let mut endpoint = match encrypted || uri.starts_with("http://") {
            true => Endpoint::from_shared(uri.clone()).map_err(|error| none(format!(": {error}")))?,
            false => return Err(none(String::new())),
        };
        let parsed: Uri = uri.parse().map_err(|error| none(format!(": {error}")))?;
        let Some(host) = parsed.host().filter(|host| !host.is_empty() && parsed.port().is_some()) else {
            return Err(none(String::new()));
        };
        if encrypted {
            endpoint = endpoint
                .tls_config(options.tls.config()?)
                .map_err(|error| invalid(format!("{address}: TLS cannot be set up: {}", deepest(&error))))?;
        } else if options.tls != Tls::default() {
            return Err(invalid(format!(
                "{address}: certificates are given, and there is no TLS without https:// before the address"
            )));
        } else if options.token.is_some() && !options.insecure && !is_local(host) {
            return Err(crate::Error::Refused(Box::new(pb::ErrorDetail {
                hint: "write https://, or say --insecure where everybody on the way may read the token".to_owned(),
                ..status::error_detail(
                    Code::Unauthenticated,
                    format!("{address}: a token is not sent to another machine without TLS"),
                )
            })));
        }
        let endpoint = endpoint
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            // A page of a million nodes should not wait for window updates.
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20);
        let connections = (0..options.connections.max(1))
            .map(|_| {
                StoreClient::new(endpoint.connect_lazy())
                    .max_decoding_message_size(options.max_message_bytes)
                    .max_encoding_message_size(options.max_message_bytes)
            })
            .collect();
        let authorization = options.token.as_ref().map(|token| {
            let value = MetadataValue::try_from(format!("Bearer {}", token.secret()));
            let mut value = value.map_err(|_| invalid("the token cannot stand in a header".to_owned()))?;
            value.set_sensitive(true);
            Ok::<_, crate::Error>(value)
        });
        Ok(Remote {
            address: address.to_owned(),
            connections,
            next: AtomicUsize::new(0),
            call_timeout: options.call_timeout,
            max_message_bytes: options.max_message_bytes,
            authorization: authorization.transpose()?,
            tls: encrypted.then(|| Secure {
                host: host.to_owned(),
                port: parsed.port_u16().unwrap_or_default(),
                tls: options.tls.clone(),
            }),
            answered: AtomicBool::new(false),
        })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
    }

    /// What is too large is refused here, in words: the transport would break off in the middle of it.
    fn fits(&self, message: &impl prost::Message) -> Result<(), Status> {
        let (size, limit) = (message.encoded_len(), self.max_message_bytes);
        if size <= limit {
            return Ok(());
        }
        let text = format!("the request has {size} bytes, and at most {limit} are sent");
        Err(status::status(&status::error_detail(Code::TooLarge, text)))
    }

    fn client(&self) -> StoreClient<Channel> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        self.connections[turn].clone()
    }

    /// Waits for one answer, and says in words what a refused connection means.
    async fn unary<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>> + Send,
    ) -> Result<T, Status> {
        let answer = match self.call_timeout {
            None => call.await,
            Some(limit) => tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
                let text = format!("no answer from {} within {} s", self.address, limit.as_secs_f32());
                Err(Status::deadline_exceeded(text))
            }),
        };
        self.heard(answer).await
    }

    /// What was answered, or in words why nothing was.
    async fn heard<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Status> {
        match answer {
            Ok(answer) => {
                self.answered.store(true, Ordering::Relaxed);
                Ok(answer.into_inner())
            }
            Err(failed) => Err(self.explain(failed).await),
        }
    }

    async fn explain(&self, failed: Status) -> Status {
        // Whoever has never let this client in has not let this call in. Where it once did, what became of the call is not known.
        if let Some(Secure { host, port, tls }) = &self.tls
            && !self.answered.load(Ordering::Relaxed)
            && secure::was_cut(&failed)
            && let Some(refused) = tls.refusal(&self.address, host, *port).await
        {
            return status::status(&refused);
        }
        explain(&self.address, failed)
    }

    fn answers<T: Send + 'static>(&self, stream: tonic::Streaming<T>) -> Stream<Result<T, Status>> {
        let address = self.address.clone();
        Box::pin(stream.map(move |item| item.map_err(|failed| explain(&address, failed))))
    }
}

/// A connection that was never made is a plain refusal: nothing was sent.
fn explain(address: &str, failed: Status) -> Status {
    if let Some(detail) = failed.source().and_then(|source| secure::explain(address, source)) {
        return status::status(&detail);
    }
    let mut cause = failed.source();
    let mut connecting = false;
    let mut deepest = String::new();
    while let Some(error) = cause {
        connecting |= error.is::<ConnectError>();
        deepest = error.to_string();
        cause = error.source();
    }
    if !connecting {
        // What became of the call is not known, so the code stays what it is.
        if address.starts_with("https://") && secure::was_cut(&failed) {
            let text = format!(
                "{address} closed the connection before it answered: if it asks clients for a certificate, show one that it \
                 takes with --cert and --key"
            );
            return Status::new(failed.code(), text);
        }
        return failed;
    }
    status::status(&pb::ErrorDetail {
        hint: "start a server with `confold serve`, or name another one with --server".to_owned(),
        ..status::error_detail(Code::Unavailable, format!("no server answers at {address}: {deepest}"))
    })
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// The requests up to the first that failed; the failure is told to the caller behind the last answer.
fn until_failed(
    requests: Stream<Result<pb::CommitStreamRequest, Status>>,
) -> (Stream<pb::CommitStreamRequest>, oneshot::Receiver<Status>) {
    let (fail, failed) = oneshot::channel();
    let mut fail = Some(fail);
    let sent = tokio_stream::StreamExt::map_while(requests, move |item| match item {
        Ok(request) => Some(request),
        Err(status) => {
            // The receiver is gone only where nobody reads the answers any more.
            _ = fail.take().map(|fail| fail.send(status));
            None
        }
    });
    (Box::pin(sent), failed)
}

fn followed_by<T: Send + 'static>(
    answers: Stream<Result<T, Status>>,
    failed: oneshot::Receiver<Status>,
) -> Stream<Result<T, Status>> {
    let last = failed
        .into_stream()
        .filter_map(|end| std::future::ready(end.ok().map(Err)));
    Box::pin(answers.chain(last))
}

/// A type with a name: through the boxed stream itself the compiler cannot see that the call's future is `Send`.
struct Requests(Stream<pb::CommitStreamRequest>);

impl tokio_stream::Stream for Requests {
    type Item = pb::CommitStreamRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

macro_rules! forward {
    ($($call:ident: $request:ident -> $answer:ident),* $(,)?) => {
        #[async_trait]
        impl Api for Remote {
            $(async fn $call(&self, request: pb::$request) -> Result<pb::$answer, Status> {
                self.fits(&request)?;
                let mut client = self.client();
                self.unary(client.$call(self.request(request))).await
            })*

            async fn commit_stream(
                &self,
                requests: Stream<Result<pb::CommitStreamRequest, Status>>,
            ) -> Result<Stream<Result<pb::CommitStreamResponse, Status>>, Status> {
                let (sent, failed) = until_failed(requests);
                let answer = self.heard(self.client().commit_stream(self.request(Requests(sent))).await).await?;
                Ok(followed_by(self.answers(answer), failed))
            }

            async fn list_stream(
                &self,
                request: pb::ListRequest,
            ) -> Result<Stream<Result<pb::ListResponse, Status>>, Status> {
                let answer = self.heard(self.client().list_stream(self.request(request)).await).await?;
                Ok(self.answers(answer))
            }

            async fn diff_stream(
                &self,
                request: pb::DiffRequest,
            ) -> Result<Stream<Result<pb::DiffResponse, Status>>, Status> {
                let answer = self.heard(self.client().diff_stream(self.request(request)).await).await?;
                Ok(self.answers(answer))
            }

            async fn export_log(
                &self,
                request: pb::ExportLogRequest,
            ) -> Result<Stream<Result<pb::ExportLogResponse, Status>>, Status> {
                let answer = self.heard(self.client().export_log(self.request(request)).await).await?;
                Ok(self.answers(answer))
            }

            async fn snapshot(
                &self,
                request: pb::SnapshotRequest,
            ) -> Result<Stream<Result<pb::SnapshotResponse, Status>>, Status> {
                let answer = self.heard(self.client().snapshot(self.request(request)).await).await?;
                Ok(self.answers(answer))
            }
        }
    };
}

forward! {
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
    status: StatusRequest -> StatusResponse,
}
