//! The wire between a replica and the brokers, in a test's hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wire {
    Open,
    /// Nothing arrives on one side or on both, and nobody is told: as when packets are dropped. What was sent arrives later.
    Silent {
        to_brokers: bool,
        to_replica: bool,
    },
    /// Connections break, and new ones break at once.
    Broken,
    /// Everything arrives so much later.
    Slow(Duration),
}

impl Wire {
    fn is_silent(self, towards: Side) -> bool {
        match self {
            Wire::Silent { to_brokers, to_replica } => match towards {
                Side::Brokers => to_brokers,
                Side::Replica => to_replica,
            },
            _ => false,
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    Brokers,
    Replica,
}

/// What a fault did, to prove that it happened.
#[derive(Default)]
pub struct Felt {
    pub held: AtomicU64,
    pub broken: AtomicU64,
    pub slowed: AtomicU64,
}

/// Stands between one replica and all brokers: see `Cluster::front`.
pub struct Line {
    wire: watch::Sender<Wire>,
    felt: Arc<Felt>,
}

impl Line {
    /// Listens at the first address of each pair and passes on to the second.
    pub async fn lay(front: Vec<(String, String)>) -> Line {
        let line = Line { wire: watch::Sender::new(Wire::Open), felt: Arc::default() };
        for (asked, served) in front {
            let listener = listen(&asked).await;
            let (wire, felt) = (line.wire.clone(), line.felt.clone());
            tokio::spawn(async move {
                while let Ok((near, _)) = listener.accept().await {
                    if *wire.borrow() == Wire::Broken {
                        felt.broken.fetch_add(1, Relaxed);
                        continue;
                    }
                    tokio::spawn(join(near, served.clone(), wire.clone(), felt.clone()));
                }
            });
        }
        line
    }

    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    pub fn felt(&self) -> (u64, u64, u64) {
        (self.felt.held.load(Relaxed), self.felt.broken.load(Relaxed), self.felt.slowed.load(Relaxed))
    }
}

/// Another test may have listened there until just now.
async fn listen(address: &str) -> TcpListener {
    let began = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{address}: {error}"),
        }
        super::pass_time(Duration::from_millis(20)).await;
    }
}

async fn join(near: TcpStream, served: String, wire: watch::Sender<Wire>, felt: Arc<Felt>) {
    let Ok(far) = TcpStream::connect(&served).await else { return };
    _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let mut breaks = wire.subscribe();
    tokio::select! {
        () = pass(near_in, far_out, Side::Brokers, wire.subscribe(), &felt) => (),
        () = pass(far_in, near_out, Side::Replica, wire.subscribe(), &felt) => (),
        _ = breaks.wait_for(|wire| *wire == Wire::Broken) => { felt.broken.fetch_add(1, Relaxed); }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    towards: Side,
    mut wire: watch::Receiver<Wire>,
    felt: &Felt,
) {
    let mut piece = vec![0; 64 << 10];
    loop {
        let Ok(size @ 1..) = from.read(&mut piece).await else { return };
        let now = *wire.borrow_and_update();
        if now.is_silent(towards) {
            felt.held.fetch_add(1, Relaxed);
            if wire.wait_for(|wire| !wire.is_silent(towards)).await.is_err() {
                return;
            }
        }
        if let Wire::Slow(delay) = now {
            felt.slowed.fetch_add(1, Relaxed);
            super::pass_time(delay).await;
        }
        if to.write_all(&piece[..size]).await.is_err() {
            return;
        }
    }
}
