//! Accepting connections, bounding their number, their silence and their age, and letting them end in good order.

use crate::{
    Limits, Stopped,
    front::{Face, Front},
    handshake::{self, Failed},
    metrics::Connections,
    peer::Peer,
    tls::Certificates,
};
use confold_wire::caller::Caller;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use std::{
    collections::VecDeque,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

/// After this many bytes the protocol is known, and its own timeouts apply.
const PREFACE_BYTES: usize = 24;

pub(crate) async fn serve(
    listener: TcpListener,
    front: Arc<Front>,
    face: Face,
    tls: Option<Arc<Certificates>>,
    limits: &Limits,
    shutdown: impl Future<Output = ()>,
) -> Stopped {
    let meters = Arc::new(match face {
        Face::Calls => Connections::new(),
        Face::Monitoring(_) => Connections::uncounted(),
    });
    let server = Arc::new(Connection {
        builder: builder(limits),
        front,
        face,
        tls,
        meters: Arc::clone(&meters),
        limits: limits.clone(),
    });
    let (stop, stopping) = watch::channel(false);
    let mut open = JoinSet::new();
    let mut handshakes = Handshakes::default();
    let mut shutdown = pin!(shutdown);
    let mut upkeep = tokio::time::interval(Duration::from_secs(1));
    for number in 0u64.. {
        let stream = loop {
            tokio::select! {
                () = &mut shutdown => break None,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => break Some((stream, peer)),
                    Err(error) => pause_after(error).await,
                },
                Some(ended) = open.join_next() => {
                    if let Err(error) = ended && !error.is_cancelled() {
                        tracing::error!(%error, "a connection met a bug of the server");
                    }
                    meters.open.set(open.len() as f64);
                }
                // The recorder keeps every sample until somebody sorts them into buckets.
                _ = upkeep.tick() => if let Some(recorder) = crate::metrics::recorder() { recorder.run_upkeep() },
            }
        };
        let Some((stream, peer)) = stream else { break };
        if open.len() >= limits.max_connections {
            meters.refused.increment(1);
            tracing::debug!(limit = limits.max_connections, "one connection too many was closed");
            continue;
        }
        meters.accepted.increment(1);
        let caller = Caller {
            local: peer.ip().to_canonical().is_loopback(),
            ..Caller::default()
        };
        let over = Arc::new(AtomicBool::new(server.tls.is_none()));
        let serving = Arc::clone(&server).serve(stream, caller, number, Arc::clone(&over), stopping.clone());
        let connection = open.spawn(serving);
        if server.tls.is_some() && handshakes.add(connection, over, limits.max_handshakes) {
            meters.handshake_failed(Failed::Timeout);
        }
        meters.open.set(open.len() as f64);
    }

    drop(listener);
    server.front.stop();
    // Nobody may be listening any more, which is just as well.
    let _ = stop.send(true);
    let drained = timeout(limits.shutdown_grace, async {
        while open.join_next().await.is_some() {}
    })
    .await;
    let cut_off = open.len();
    if drained.is_err() {
        tracing::warn!(
            connections = cut_off,
            "calls were still in flight at shutdown and were cut off"
        );
    }
    open.shutdown().await;
    meters.open.set(0.0);
    Stopped { cut_off }
}

/// Handshakes under way, the oldest first. Whoever opens connections and says nothing takes the place of others of his
/// kind, and not of those that come after him.
#[derive(Default)]
struct Handshakes {
    begun: VecDeque<(AbortHandle, Arc<AtomicBool>)>,
}

impl Handshakes {
    /// `true` where the one that has taken longest was broken off for it.
    fn add(&mut self, connection: AbortHandle, over: Arc<AtomicBool>, most: usize) -> bool {
        self.begun.push_back((connection, over));
        let under_way = |(connection, over): &(AbortHandle, Arc<AtomicBool>)| {
            !over.load(Ordering::Relaxed) && !connection.is_finished()
        };
        while self.begun.front().is_some_and(|first| !under_way(first)) {
            self.begun.pop_front();
        }
        if self.begun.len() <= most {
            return false;
        }
        self.begun.retain(under_way);
        if self.begun.len() <= most {
            return false;
        }
        if let Some((oldest, _)) = self.begun.pop_front() {
            oldest.abort();
        }
        true
    }
}

struct Connection {
    builder: Builder<TokioExecutor>,
    front: Arc<Front>,
    face: Face,
    tls: Option<Arc<Certificates>>,
    meters: Arc<Connections>,
    limits: Limits,
}

impl Connection {
    /// `greeted` becomes true when the handshake is over.
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        mut caller: Caller,
        number: u64,
        greeted: Arc<AtomicBool>,
        mut stopping: watch::Receiver<bool>,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it began");
            return;
        }
        let Some(certificates) = &self.tls else {
            return self.answer(stream, caller, number, stopping).await;
        };
        let shaken = tokio::select! {
            shaken = timeout(self.limits.handshake_timeout, handshake::shake(stream, certificates)) => shaken,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        greeted.store(true, Ordering::Relaxed);
        match shaken.unwrap_or(Err(Failed::Timeout)) {
            Ok((stream, name)) => {
                caller.certificate = name;
                self.answer(stream, caller, number, stopping).await;
            }
            Err(why) => {
                self.meters.handshake_failed(why);
                tracing::debug!(why = why.name(), "a connection ended before TLS stood");
            }
        }
    }

    async fn answer<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
        &self,
        stream: S,
        caller: Caller,
        number: u64,
        mut stopping: watch::Receiver<bool>,
    ) {
        let begun = Instant::now();
        let (peer, received) = Peer::new(stream, self.limits.linger_timeout);
        let answering = self.front.for_caller(self.face, caller);
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(peer), answering));

        let mut silent = pin!(sleep_until(begun + self.limits.header_timeout));
        let mut aged = pin!(sleep_until(begun + self.age(number)));
        let mut over = pin!(sleep_until(
            begun + self.age(number) + self.limits.max_connection_age_grace
        ));
        let mut known = false;
        let mut ending = false;
        loop {
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(error = %error, "a connection ended badly");
                    }
                    return;
                }
                () = &mut silent, if !known => {
                    known = received.bytes() >= PREFACE_BYTES;
                    if !known {
                        tracing::debug!("a connection said too little for too long");
                        return;
                    }
                }
                () = &mut aged, if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = stopping.wait_for(|stop| *stop), if !ending => {
                    ending = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut over => return,
            }
        }
    }

    /// Up to a tenth more than the limit, so that connections opened together do not end together.
    fn age(&self, number: u64) -> Duration {
        let age = self.limits.max_connection_age;
        age + age / 1_000 * (number.wrapping_mul(37) % 100) as u32
    }
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let header_bytes = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        // The smallest that the library takes is 8 KiB.
        .max_buf_size(header_bytes.max(8 << 10))
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.header_bytes)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// Out of file descriptors: trying again at once would only burn the processor.
async fn pause_after(error: io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        tracing::error!(%error, "cannot accept connections, trying again: is the limit of open files too low?");
        sleep(Duration::from_millis(100)).await;
    }
}
