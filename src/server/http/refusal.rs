//! Errors over HTTP: always a google.rpc.Status in JSON.

use super::{allowing, typed};
use bytes::Bytes;
use confold_model::code::Code;
use confold_wire::{
    dynamic::{DynamicError, Types},
    pb, status,
};
use http::{HeaderValue, Response, StatusCode, header::WWW_AUTHENTICATE};
use prost::Message;
use serde_json::{Value as Json, json};
use tonic::{Status, body::Body};

/// Why a request was refused, and as what.
#[derive(Debug)]
pub(super) struct Refusal {
    http: StatusCode,
    /// Boxed, since it is large and results should not be.
    status: Box<pb::rpc::Status>,
    allow: Option<&'static str>,
}

impl Refusal {
    /// Refused before it became a call.
    pub fn new(code: Code, detail: impl Into<String>) -> Refusal {
        Refusal::from(status::status(&status::error_detail(code, detail)))
    }

    /// What to do, better than what is generally said about the code.
    pub fn hint(self, hint: impl Into<String>) -> Refusal {
        let mut detail = self.detail();
        detail.hint = hint.into();
        let rpc = status::rpc_status(&status::status(&detail));
        Refusal {
            status: Box::new(rpc),
            ..self
        }
    }

    /// The HTTP status, where HTTP knows better than the code.
    pub fn http(self, http: StatusCode) -> Refusal {
        Refusal { http, ..self }
    }

    pub fn verb(allowed: &'static str) -> Refusal {
        let refusal = Refusal::new(Code::Unsupported, format!("this address takes {allowed}"))
            .hint("calls are POST /v1/Name; reads also have a form with GET")
            .http(StatusCode::METHOD_NOT_ALLOWED);
        Refusal {
            allow: Some(allowed),
            ..refusal
        }
    }

    /// The same, said of one line of a stream.
    pub fn at_line(self, line: usize) -> Refusal {
        let mut detail = self.detail();
        if detail.code.is_empty() {
            return self;
        }
        detail.detail = format!("line {line} of the stream: {}", detail.detail);
        let rpc = status::rpc_status(&status::status(&detail));
        Refusal {
            status: Box::new(rpc),
            ..self
        }
    }

    pub fn into_response(self, types: &Types) -> Response<Body> {
        let body = format!("{}\n", self.to_json(types));
        let mut response = typed(self.http, "application/json", Bytes::from(body));
        if self.http == StatusCode::UNAUTHORIZED {
            let asked = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(WWW_AUTHENTICATE, asked);
        }
        match self.allow {
            Some(verb) => allowing(response, verb),
            None => response,
        }
    }

    /// The last line of a stream that failed.
    pub fn into_line(self, types: &Types) -> Bytes {
        format!("{}\n", json!({ "error": self.to_json(types) })).into()
    }

    fn to_json(&self, types: &Types) -> Json {
        types
            .to_json("google.rpc.Status", &self.status.encode_to_vec())
            .unwrap_or_else(|_| {
                // Without the details it still says what happened.
                json!({ "code": self.status.code, "message": self.status.message })
            })
    }

    fn detail(&self) -> pb::ErrorDetail {
        let status = Status::with_details(
            tonic::Code::from(self.status.code),
            self.status.message.clone(),
            self.status.encode_to_vec().into(),
        );
        status::detail(&status).unwrap_or_default()
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        let http = StatusCode::from_u16(status::http_code(status.code()));
        Refusal {
            http: http.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            status: Box::new(status::rpc_status(&status)),
            allow: None,
        }
    }
}

impl From<DynamicError> for Refusal {
    fn from(error: DynamicError) -> Refusal {
        let place = if error.at.is_empty() {
            String::new()
        } else {
            format!("{}: ", error.at)
        };
        // NOT_FOUND would say that something in the store is missing.
        let code = if error.code == Code::NotFound {
            Code::TypeMismatch
        } else {
            error.code
        };
        let refusal = Refusal::new(code, format!("{place}{}", error.problem));
        if error.hint.is_empty() {
            refusal
        } else {
            refusal.hint(error.hint)
        }
    }
}

/// Where the text ends that is given, counted from 1.
pub(super) fn line_and_column(before: &[u8]) -> String {
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let last = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    format!(
        "line {line} column {}",
        String::from_utf8_lossy(last).chars().count() + 1
    )
}
