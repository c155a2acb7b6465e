//! Many commits in flight on one stream, in the order in which they were sent.

use super::propose::{Intention, refused, submit};
use super::quota::Place;
use super::rights::{Asked, Call};
use super::{Refusal, Service, write};
use confold_wire::api::Stream;
use confold_wire::pb;
use futures::future::{Fuse, FusedFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Answers that may wait for a client that does not read them; then the stream takes no more requests.
const ANSWERS_WAITING: usize = 256;

/// Hands commits to the log one after the other as they come, and answers each when it is decided.
///
/// Ends when the requests end and every commit is answered, and with an error that the requests end with. A client that
/// has gone ends it at once: what was handed over is decided all the same.
pub(super) fn commits(
    service: Service,
    requests: Stream<Result<pb::CommitStreamRequest, Status>>,
) -> Stream<Result<pb::CommitStreamResponse, Status>> {
    let (answers, receiver) = mpsc::channel(ANSWERS_WAITING);
    tokio::spawn(pump(service, requests, answers));
    Box::pin(ReceiverStream::new(receiver))
}

type Answer = Result<pb::CommitStreamResponse, Status>;

async fn pump(
    service: Service,
    mut requests: Stream<Result<pb::CommitStreamRequest, Status>>,
    answers: mpsc::Sender<Answer>,
) {
    let limit = service.stores.options().stream_in_flight.max(1);
    let mut store = String::new();
    let mut seat = None;
    let mut in_flight = FuturesUnordered::new();
    // One that waits for room or for its turn holds up those behind it, and no answer to those before it.
    let handing_over = Fuse::terminated();
    tokio::pin!(handing_over);
    let mut end = None;
    let mut open = true;
    while open || !in_flight.is_empty() || !handing_over.is_terminated() {
        let answer = tokio::select! {
            biased;
            Some(answer) = in_flight.next() => answer,
            (kept, handed) = &mut handing_over, if !handing_over.is_terminated() => {
                seat = kept;
                match handed {
                    Ok(waiting) => {
                        in_flight.push(waiting);
                        continue;
                    }
                    Err(answer) => answer,
                }
            }
            request = requests.next(), if open && handing_over.is_terminated() && in_flight.len() < limit => match request {
                Some(Ok(request)) => {
                    if let Some(commit) = &request.commit && !commit.store.is_empty() {
                        store.clone_from(&commit.store);
                    }
                    handing_over.set(hand_over(&service, store.clone(), seat.take(), request).fuse());
                    continue;
                }
                Some(Err(status)) => {
                    (open, end) = (false, Some(status));
                    continue;
                }
                None => {
                    open = false;
                    continue;
                }
            },
            () = answers.closed() => return,
        };
        if answers.send(Ok(answer)).await.is_err() {
            return;
        }
    }
    if let Some(status) = end {
        // Nobody is left to hear of it where this fails.
        let _ = answers.send(Err(status)).await;
    }
}

/// A stream's place among the calls that its caller has under way at a store.
struct Seat {
    store: Arc<str>,
    _place: Option<Place>,
}

/// The commit on its way, or the answer where it needed no log.
async fn hand_over(
    service: &Service,
    store: String,
    mut seat: Option<Seat>,
    request: pb::CommitStreamRequest,
) -> (
    Option<Seat>,
    Result<impl Future<Output = pb::CommitStreamResponse> + use<>, pb::CommitStreamResponse>,
) {
    let pb::CommitStreamRequest { correlation, commit } = request;
    let answer = move |decision| pb::CommitStreamResponse {
        correlation,
        decision: Some(decision),
    };
    let mut commit = commit.unwrap_or_default();
    let proposed = async {
        // Each commit anew: a right may be taken away while the stream goes on.
        let served: Asked = service.find(Call::CommitStream, &store)?;
        if seat.as_ref().is_none_or(|seat| seat.store != served.name) {
            seat = Some(Seat {
                store: served.name.clone(),
                _place: served.place().await?,
            });
        }
        served.spend(&commit).await?;
        served.now()?;
        let intention = Intention::of(&served, &mut commit)?;
        let built = write::build(&served, commit).await;
        served.handle.room().await;
        let proposed = submit(&served, intention, built).await?;
        Ok::<_, Refusal>((served, proposed))
    };
    let handed = match proposed.await {
        Ok((served, proposed)) => Ok(async move { answer(proposed.decision(&served).await) }),
        Err(refusal) => Err(answer(refused(refusal))),
    };
    (seat, handed)
}
