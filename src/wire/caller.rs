//! Who makes a call, as the server knows it, and the service that this caller gets.
//!
//! A caller is known from its connection and from one header, never from the request itself or its address. What it may
//! do is for the [`Gate`] to say.

use crate::{api::Api, status};
use confold_model::code::Code;
use std::{fmt, sync::Arc};
use tonic::Status;

/// Everything that the server knows about who calls.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The name in the certificate whose key the client has proved to hold.
    pub certificate: Option<Arc<str>>,
    /// What the call shows as `authorization: Bearer …`. It may be worth nothing: the gate knows. It says more closely
    /// than the certificate of the connection who calls, so it counts where both are there.
    pub token: Option<BearerToken>,
    /// The connection comes from this machine.
    pub local: bool,
}

impl Caller {
    /// Nothing but an address is known.
    pub fn is_anonymous(&self) -> bool {
        self.certificate.is_none() && self.token.is_none()
    }
}

/// A secret that says who calls. It shows itself to nobody but who asks for it by name.
#[derive(Clone)]
pub struct BearerToken(Arc<str>);

impl BearerToken {
    /// Bytes of the longest token.
    pub const LONGEST: usize = 4_096;

    /// `None` for what cannot stand in a header: nothing at all, blanks, control characters, what is not ASCII or too
    /// long.
    pub fn new(secret: &str) -> Option<BearerToken> {
        let fits = (1..=BearerToken::LONGEST).contains(&secret.len());
        (fits && secret.bytes().all(|byte| byte.is_ascii_graphic())).then(|| BearerToken(secret.into()))
    }

    /// The value of an `authorization` header: `Bearer` in any case, and the secret. `None` for anything else.
    pub fn from_header(value: &str) -> Option<BearerToken> {
        let (scheme, secret) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("Bearer")
            .then(|| BearerToken::new(secret.trim_matches(' ')))
            .flatten()
    }

    /// To be compared, hashed or sent; never to be logged, stored or shown.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(…)")
    }
}

/// Hands each caller the service as that caller may use it.
pub trait Gate: Send + Sync + 'static {
    /// The service for one caller. It is kept for as long as the caller's connection, so what may change meanwhile
    /// (rights, whether a token is still good) is looked up by each of its calls and not here.
    ///
    /// A token that is shown and not known is refused by those calls with UNAUTHENTICATED, also where none is needed.
    fn api(&self, caller: &Caller) -> Arc<dyn Api>;

    /// Whether this caller may see what concerns the server as a whole: metrics, reflection, why a store is not ready.
    fn may_inspect(&self, caller: &Caller) -> Result<(), Status>;
}

/// Everybody may do everything, whoever they say they are.
pub struct Open(pub Arc<dyn Api>);

impl Gate for Open {
    fn api(&self, _: &Caller) -> Arc<dyn Api> {
        self.0.clone()
    }

    fn may_inspect(&self, _: &Caller) -> Result<(), Status> {
        Ok(())
    }
}

/// The refusal of a caller that nobody knows.
pub fn unauthenticated(detail: impl Into<String>) -> Status {
    status::status(&status::error_detail(Code::Unauthenticated, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_shows_itself() {
        let token = BearerToken::new("s3cr3t").unwrap();
        assert_eq!(format!("{token:?}"), "BearerToken(…)");
        let caller = Caller {
            token: Some(token),
            ..Caller::default()
        };
        assert!(!format!("{caller:#?}").contains("s3cr3t"));
    }

    #[test]
    fn a_token_is_read_from_its_header_and_from_nothing_else() {
        for (value, secret) in [
            ("Bearer a.b-c_d~e+f/g=", Some("a.b-c_d~e+f/g=")),
            ("bearer x", Some("x")),
            ("BEARER   x  ", Some("x")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Bearerx", None),
            ("Basic eDp5", None),
            ("Bearer x y", None),
            ("Bearer x\u{e9}", None),
            ("Bearer x\u{7f}", None),
            ("", None),
        ] {
            let token = BearerToken::from_header(value);
            assert_eq!(token.as_ref().map(BearerToken::secret), secret, "{value:?}");
        }
        assert!(BearerToken::new(&"x".repeat(BearerToken::LONGEST)).is_some());
        assert!(BearerToken::new(&"x".repeat(BearerToken::LONGEST + 1)).is_none());
    }

    #[test]
    fn a_caller_without_certificate_and_token_is_anonymous() {
        let mut caller = Caller {
            local: true,
            ..Caller::default()
        };
        assert!(caller.is_anonymous());
        caller.certificate = Some("web.example".into());
        assert!(!caller.is_anonymous());
    }
}
