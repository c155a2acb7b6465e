//! Streams as newline-delimited JSON, one message to a line.

use super::{Called, Http, Method, Refusal, decode, heavy, with_headers};
use bytes::{Bytes, BytesMut};
use confold_model::code::Code;
use futures::{StreamExt, future::Either, stream};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::body::Incoming;
use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
};
use tonic::{Status, Streaming, body::Body};

const CONTENT_TYPE: &str = "application/x-ndjson";

impl Http {
    /// A call that fails before its first answer fails as a whole, with an HTTP status of its own.
    pub(super) async fn server_streams(
        self: &Arc<Self>,
        called: &Called,
        method: &Method,
        request: Bytes,
    ) -> Result<Response<Body>, Refusal> {
        let mut answers = called.call(method, stream::iter([request])).await?;
        let first = answers.message().await?;
        let answers = match first {
            Some(first) => Either::Left(stream::once(async { Ok(first) }).chain(answers)),
            None => Either::Right(stream::empty()),
        };
        Ok(self.lines(method, answers, Fault::default()))
    }

    /// Answers begin before the requests end: neither side waits for the other.
    pub(super) async fn both_stream(
        self: &Arc<Self>,
        called: &Called,
        method: &Method,
        body: Incoming,
    ) -> Result<Response<Body>, Refusal> {
        let fault = Fault::default();
        let requests = self.requests(method, body, fault.clone());
        let answers: Streaming<Bytes> = called.call(method, requests).await?;
        Ok(self.lines(method, answers, fault))
    }

    /// The requests of a body, up to its end or to the first fault. What was read before it is still answered.
    fn requests(
        self: &Arc<Self>,
        method: &Method,
        body: Incoming,
        fault: Fault,
    ) -> impl futures::Stream<Item = Bytes> + Send + 'static {
        let lines = Lines {
            http: Arc::clone(self),
            body,
            buffer: BytesMut::new(),
            searched: 0,
            line: 0,
            ended: false,
        };
        let message: Arc<str> = method.request.full_name().into();
        stream::unfold((lines, message, fault), |(mut lines, message, fault)| async move {
            match lines.request(&message).await {
                Ok(request) => Some((request?, (lines, message, fault))),
                Err(refusal) => {
                    fault.set(refusal.at_line(lines.line));
                    None
                }
            }
        })
    }

    fn lines(
        self: &Arc<Self>,
        method: &Method,
        answers: impl futures::Stream<Item = Result<Bytes, Status>> + Send + 'static,
        fault: Fault,
    ) -> Response<Body> {
        let types = self.types;
        let message: Arc<str> = method.answer.as_str().into();
        let state = Some((Box::pin(answers), message, fault));
        let lines = stream::unfold(state, move |state| async move {
            let (mut answers, message, fault) = state?;
            let line = match answers.next().await {
                Some(Ok(answer)) => {
                    let name = Arc::clone(&message);
                    let line = heavy(answer.len(), move || types.to_json(&name, &answer)).await;
                    line.and_then(|line| Ok(line?))
                        .map(|line| Bytes::from(format!("{line}\n")))
                }
                Some(Err(status)) => Err(status.into()),
                None => Err(fault.take()?),
            };
            let (line, rest) = match line {
                Ok(line) => (line, Some((answers, message, fault))),
                Err(refusal) => (refusal.into_line(types), None),
            };
            Some((Ok::<_, Infallible>(Frame::data(line)), rest))
        });
        with_headers(StatusCode::OK, CONTENT_TYPE, Body::new(StreamBody::new(lines)))
    }
}

/// What was wrong with the requests of a stream, kept until those before it are answered.
#[derive(Clone, Default)]
struct Fault(Arc<Mutex<Option<Refusal>>>);

impl Fault {
    fn set(&self, refusal: Refusal) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    fn take(&self) -> Option<Refusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Lines {
    http: Arc<Http>,
    body: Incoming,
    buffer: BytesMut,
    /// So far there is no line end in the buffer.
    searched: usize,
    /// The number of the line that was read last.
    line: usize,
    ended: bool,
}

impl Lines {
    /// The next line that is not blank, as wire bytes.
    async fn request(&mut self, message: &Arc<str>) -> Result<Option<Bytes>, Refusal> {
        while let Some(line) = self.next().await? {
            if !line.trim_ascii().is_empty() {
                let (types, message) = (self.http.types, Arc::clone(message));
                return heavy(line.len(), move || decode(types, &message, &line))
                    .await?
                    .map(Some);
            }
        }
        Ok(None)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                self.line += 1;
                if line.len() > self.http.message_bytes + 1 {
                    return Err(self.http.too_large("it"));
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.ended {
                self.line += 1;
                let rest = self.buffer.split().freeze();
                self.searched = 0;
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            }
            if self.buffer.len() > self.http.message_bytes {
                self.line += 1;
                return Err(self.http.too_large("it"));
            }
            match self.body_chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.ended = true,
            }
        }
    }

    /// Unlike a body that is one message, a stream may be silent as long as it likes.
    async fn body_chunk(&mut self) -> Result<Option<Bytes>, Refusal> {
        use http_body_util::BodyExt;
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    let detail = format!("the body cannot be read: {error}");
                    return Err(Refusal::new(Code::Malformed, detail).http(StatusCode::BAD_REQUEST));
                }
            }
        }
    }
}
