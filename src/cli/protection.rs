//! Options that keep strangers out: on the side that asks, and on the side that serves.

use crate::{
    app::App,
    error::{Exit, Failure},
    local::{Protection, TlsFiles},
};
use clap::Args;
use confold_client::{BearerToken, Error, Options, Tls, token_from_file};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// For whoever asks a server.
#[derive(Args, Clone, Debug, Default)]
pub struct SecureArgs {
    /// For https://: certificates (PEM) that may have signed the server's; CONFOLD_CA where not given, else those that
    /// the system trusts
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// For https://: the certificate (PEM) to show to the server; CONFOLD_CERT where not given
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// The key (PEM) of --cert, which only its owner may read; CONFOLD_KEY where not given
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// A file with the bearer token that says who asks, which only its owner may read; CONFOLD_TOKEN (the token itself)
    /// or CONFOLD_TOKEN_FILE where not given
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Send a token to another machine without TLS; with `serve`, let other machines in without TLS or without knowing
    /// who they are
    #[arg(long, global = true)]
    pub insecure: bool,
}

impl App {
    /// How a server at this address is talked to.
    pub fn remote(&self, address: &str) -> Result<Options, Failure> {
        let secure = &self.global.secure;
        let given = |flag: &Option<PathBuf>| flag.is_some();
        let https = address.starts_with("https://");
        // What the environment says is for whichever address has a use for it.
        let tls = if https || given(&secure.ca) || given(&secure.cert) || given(&secure.key) {
            self.tls(https)?
        } else {
            Tls::default()
        };
        Ok(Options {
            // Longer than the deadlines in the calls, so that the server gets to say what is wrong.
            call_timeout: Some(self.timeout() + Duration::from_secs(1)),
            tls,
            token: self.token()?,
            insecure: secure.insecure,
            ..Options::default()
        })
    }

    fn tls(&self, environment: bool) -> Result<Tls, Failure> {
        let secure = &self.global.secure;
        let file = |flag: &Option<PathBuf>, variable: &str| {
            let named = || self.variable(variable).filter(|_| environment).map(PathBuf::from);
            flag.clone().or_else(named).map(|file| self.context.folder.join(file))
        };
        let ca = file(&secure.ca, "CONFOLD_CA");
        let identity = match (file(&secure.cert, "CONFOLD_CERT"), file(&secure.key, "CONFOLD_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(Failure::invalid("a certificate is given and no key: add --key FILE")),
            (None, Some(_)) => return Err(Failure::invalid("a key is given and no certificate: add --cert FILE")),
        };
        let identity = identity.as_ref().map(|(certificate, key)| (&**certificate, &**key));
        Tls::from_files(ca.as_deref(), identity).map_err(invalid)
    }

    /// Never from the command line, where everybody on the machine can read it.
    fn token(&self) -> Result<Option<BearerToken>, Failure> {
        let from = |file: &Path| {
            token_from_file(&self.context.folder.join(file))
                .map(Some)
                .map_err(invalid)
        };
        if let Some(file) = &self.global.secure.token_file {
            return from(file);
        }
        if let Some(text) = self.context.variable("CONFOLD_TOKEN") {
            return match BearerToken::new(text.trim()) {
                Some(token) => Ok(Some(token)),
                None => Err(Failure::invalid(
                    "CONFOLD_TOKEN holds no token: it must be one word of printable ASCII",
                )),
            };
        }
        match self.context.variable("CONFOLD_TOKEN_FILE") {
            Some(file) => from(Path::new(file)),
            None => Ok(None),
        }
    }
}

/// What was given cannot be used: that is no fault of a server.
fn invalid(error: Error) -> Failure {
    let failure = Failure::from(error);
    let detail = confold_wire::pb::ErrorDetail {
        code: String::new(),
        number: 0,
        ..failure.detail
    };
    Failure {
        exit: Exit::Invalid,
        detail,
        ..failure
    }
}

/// For whoever serves.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Who may come in")]
pub struct ProtectionArgs {
    /// Speak TLS, with this certificate (PEM) and those between it and a root; taken anew when the file changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The key (PEM) of --tls-cert, which only its owner may read
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Let in only clients with a certificate that one of these (PEM) signed; its URI or DNS name says who it is
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,

    /// Know a client whose certificate has neither URI nor DNS name by its common name
    #[arg(long, requires = "client_ca")]
    pub client_common_name: bool,

    /// Refuse every call without a bearer token
    #[arg(long)]
    pub require_token: bool,
}

impl ProtectionArgs {
    pub fn protection(self, app: &App) -> Protection {
        let file = |file: PathBuf| app.context.folder.join(file);
        let tls = self.tls_cert.zip(self.tls_key).map(|(certificate, key)| TlsFiles {
            certificate: file(certificate),
            key: file(key),
            client_ca: self.client_ca.map(file),
            client_common_name: self.client_common_name,
        });
        Protection {
            tls,
            require_token: self.require_token,
            insecure: app.global.secure.insecure,
        }
    }
}
