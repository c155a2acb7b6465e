//! Who calls over one connection, and the service that each call is handed to.

use confold_wire::{
    api::Api,
    caller::{self, BearerToken, Caller, Gate},
};
use http::{HeaderMap, header::AUTHORIZATION};
use metrics::counter;
use std::sync::Arc;
use tonic::Status;

/// One for each connection: what is known of a caller without a token is the same for all its calls.
pub(crate) struct Door {
    gate: Arc<dyn Gate>,
    require_token: bool,
    caller: Caller,
    api: Arc<dyn Api>,
}

impl Door {
    pub fn new(gate: Arc<dyn Gate>, require_token: bool, caller: Caller) -> Door {
        Door {
            api: gate.api(&caller),
            gate,
            require_token,
            caller,
        }
    }

    /// Refuses headers that do not say who calls as this server wants it said. Whether what they say is true is found
    /// out later; this needs nothing but the headers, so it comes before anything of the body is read.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Status> {
        let shown = self.with_token(headers);
        if shown.is_err() {
            counter!("confold_server_unauthenticated_total").increment(1);
        }
        shown.map(drop)
    }

    /// The service for a call with these headers.
    pub fn api(&self, headers: &HeaderMap) -> Result<Arc<dyn Api>, Status> {
        Ok(match self.with_token(headers)? {
            None => self.api.clone(),
            Some(caller) => self.gate.api(&caller),
        })
    }

    /// Whether a call with these headers may see what concerns the server as a whole.
    pub fn may_inspect(&self, headers: &HeaderMap) -> Result<(), Status> {
        match self.with_token(headers)? {
            None => self.gate.may_inspect(&self.caller),
            Some(caller) => self.gate.may_inspect(&caller),
        }
    }

    /// The caller where the headers say more than the connection does. What they say and nobody understands is never
    /// taken for nothing.
    fn with_token(&self, headers: &HeaderMap) -> Result<Option<Caller>, Status> {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = shown.next() else {
            return match self.require_token {
                true => Err(caller::unauthenticated("this server asks every call for a token")),
                false => Ok(None),
            };
        };
        let token = value.to_str().ok().and_then(BearerToken::from_header);
        match (token, shown.next()) {
            (Some(token), None) => Ok(Some(Caller {
                token: Some(token),
                ..self.caller.clone()
            })),
            _ => Err(caller::unauthenticated(
                "the authorization header is not one `Bearer TOKEN`",
            )),
        }
    }
}
