//! The beginning of a connection with TLS: who it is, and a word to clients that speak something else.

use crate::tls::{self, Certificates};
use rustls::Error as Tls;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The first byte of every TLS connection.
const HANDSHAKE: u8 = 22;

/// Why there was none, told apart by what whoever runs the server can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The client speaks no TLS.
    Plaintext,
    /// The client showed no certificate, and has to.
    NoCertificate,
    /// The client's certificate is not taken.
    Certificate,
    /// The client does not take the server's certificate.
    Refused,
    Timeout,
    /// Anything else: no version in common, a connection that broke, bytes that mean nothing.
    Other,
}

impl Failed {
    pub const ALL: [Failed; 6] = [
        Failed::Plaintext,
        Failed::NoCertificate,
        Failed::Certificate,
        Failed::Refused,
        Failed::Timeout,
        Failed::Other,
    ];

    /// As metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Failed::Plaintext => "plaintext",
            Failed::NoCertificate => "no_certificate",
            Failed::Certificate => "certificate",
            Failed::Refused => "refused",
            Failed::Timeout => "timeout",
            Failed::Other => "other",
        }
    }
}

/// The encrypted stream, and the name in the client's certificate where one was asked for. Bounded in time by whoever
/// calls.
pub(crate) async fn shake(
    mut stream: TcpStream,
    certificates: &Certificates,
) -> Result<(TlsStream<TcpStream>, Option<Arc<str>>), Failed> {
    let mut first = [0; 1];
    match stream.peek(&mut first).await {
        Ok(1..) if first[0] == HANDSHAKE => {}
        Ok(1..) => {
            // It is told if it still listens.
            let _ = tell_plaintext(&mut stream).await;
            return Err(Failed::Plaintext);
        }
        Ok(0) | Err(_) => return Err(Failed::Other),
    }
    let acceptor = TlsAcceptor::from(certificates.current());
    let stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((error, mut stream)) => {
            // The alert is sent.
            let _ = hang_up(&mut stream).await;
            return Err(why(&error));
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let name = shown.map(|certificate| tls::client_name(certificate, certificates.client_common_name()));
    // The verifier has found a name in it.
    let name = name.transpose().map_err(|_| Failed::Certificate)?;
    Ok((stream, name))
}

fn why(error: &io::Error) -> Failed {
    tracing::debug!(%error, "a handshake failed");
    match error.get_ref().and_then(|error| error.downcast_ref::<Tls>()) {
        Some(Tls::NoCertificatesPresented) => Failed::NoCertificate,
        Some(Tls::InvalidCertificate(_)) => Failed::Certificate,
        Some(Tls::AlertReceived(_)) => Failed::Refused,
        _ => Failed::Other,
    }
}

/// Says no more and waits until the client has hung up too: what was sent would be lost if unread bytes of the client made
/// the connection end as broken.
async fn hang_up(stream: &mut TcpStream) -> io::Result<()> {
    const BYTES_READ: u64 = 64 << 10;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(BYTES_READ), &mut tokio::io::sink()).await?;
    Ok(())
}

/// Answers in the client's own language that this port speaks TLS.
async fn tell_plaintext(stream: &mut TcpStream) -> io::Result<()> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SAID: &str = "this port speaks TLS: use https://";
    const PATIENCE: Duration = Duration::from_secs(1);

    let mut begun = [0; PREFACE.len()];
    let seen = stream.peek(&mut begun).await?;
    let answer = if begun[..seen] == PREFACE[..seen] {
        // A client that has asked something is told what became of that; one that has not yet, hears only of an end.
        let _ = timeout(PATIENCE, until_asked(stream, PREFACE.len())).await;
        // Empty settings, then GOAWAY with INADEQUATE_SECURITY and the text.
        let length = u8::try_from(8 + SAID.len()).unwrap_or(u8::MAX);
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let goaway = [0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc];
        [&settings[..], &goaway, SAID.as_bytes()].concat()
    } else {
        let length = SAID.len() + 1;
        let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8";
        format!("{head}\r\ncontent-length: {length}\r\n\r\n{SAID}\n").into_bytes()
    };
    stream.write_all(&answer).await?;
    hang_up(stream).await
}

/// Reads frames of HTTP/2 behind the preface, up to the first that asks something.
async fn until_asked(stream: &mut TcpStream, preface: usize) -> io::Result<()> {
    const HEADERS: u8 = 1;
    let mut sink = tokio::io::sink();
    tokio::io::copy(&mut (&mut *stream).take(preface as u64), &mut sink).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u64::from(u32::from_be_bytes([0, head[0], head[1], head[2]]));
        tokio::io::copy(&mut (&mut *stream).take(length), &mut sink).await?;
        if head[3] == HEADERS {
            return Ok(());
        }
    }
}
