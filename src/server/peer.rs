//! The client's end of a connection: what it has sent is counted, and at the end it is heard out.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How many bytes came from a client so far.
#[derive(Clone, Default)]
pub(crate) struct Received(Arc<AtomicUsize>);

impl Received {
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream whose shutdown says no more, and then drops what still comes until the client has hung up too or the time is
/// over. Closed with bytes unread it would end as broken, and a client that was refused while it still sent its body
/// would never see the answer (RFC 9112, section 9.6).
pub(crate) struct Peer<S> {
    stream: S,
    received: Received,
    linger: Duration,
    /// Until when the client is heard out; set once nothing more is said to it.
    ending: Option<Pin<Box<Sleep>>>,
}

impl<S> Peer<S> {
    pub fn new(stream: S, linger: Duration) -> (Peer<S>, Received) {
        let received = Received::default();
        let peer = Peer {
            stream,
            received: received.clone(),
            linger,
            ending: None,
        };
        (peer, received)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Peer<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let came = buffer.filled().len() - before;
        self.received.0.fetch_add(came, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Peer<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        const DROPPED_AT_ONCE: usize = 8 << 10;
        let peer = &mut *self;
        let over = match &mut peer.ending {
            Some(over) => over,
            None => {
                ready!(Pin::new(&mut peer.stream).poll_shutdown(cx))?;
                peer.ending.insert(Box::pin(sleep(peer.linger)))
            }
        };
        while over.as_mut().poll(cx).is_pending() {
            let mut dropped = [0; DROPPED_AT_ONCE];
            let mut buffer = ReadBuf::new(&mut dropped);
            // How a connection breaks that has nothing more to say concerns nobody.
            let read = ready!(Pin::new(&mut peer.stream).poll_read(cx, &mut buffer));
            if read.is_err() || buffer.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}
