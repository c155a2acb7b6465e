//! Talking to a server that is not on this machine: its certificate, ours, and the token that says who we are.

use crate::Error;
use confold_model::code::Code;
use confold_wire::{caller::BearerToken, pb, status};
use rustls::{CertificateError, ClientConfig, Error as Problem, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{
    fmt,
    fs::File,
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::{
    Status,
    transport::{Certificate, ClientTlsConfig, Identity},
};

/// What TLS needs to know, for addresses with `https://`. The default trusts whom the system trusts and shows no
/// certificate. The server's name is always checked against its certificate.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM: those who may have signed the server's certificate, instead of those whom the system trusts.
    pub ca: Option<Vec<u8>>,
    /// PEM: the client's own certificate with those between it and a root, and its private key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |is: bool| if is { "given" } else { "none" };
        f.debug_struct("Tls")
            .field("ca", &said(self.ca.is_some()))
            .field("identity", &said(self.identity.is_some()))
            .finish()
    }
}

impl Tls {
    /// From PEM files. A file with a key that others than its owner may read or write is refused.
    pub fn from_files(ca: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<Tls, Error> {
        let ca = ca.map(|path| {
            let pem = read(path, false)?;
            check_certificates(&pem, &path.display().to_string())?;
            Ok::<_, Error>(pem)
        });
        let identity = identity.map(|(certificate, key)| {
            let pem = (read(certificate, false)?, read(key, true)?);
            check_certificates(&pem.0, &certificate.display().to_string())?;
            check_key(&pem.1, &key.display().to_string())?;
            Ok::<_, Error>(pem)
        });
        Ok(Tls {
            ca: ca.transpose()?,
            identity: identity.transpose()?,
        })
    }

    pub(crate) fn config(&self) -> Result<ClientTlsConfig, Error> {
        let mut config = ClientTlsConfig::new();
        config = match &self.ca {
            Some(pem) => {
                check_certificates(pem, "what is given as CA")?;
                config.ca_certificate(Certificate::from_pem(pem))
            }
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            check_certificates(certificate, "what is given as the client's certificate")?;
            check_key(key, "what is given as the client's key")?;
            config = config.identity(Identity::from_pem(certificate, key));
        }
        Ok(config)
    }
}

/// How long a server may take to say that it does not take a certificate.
const HEAR_OUT: Duration = Duration::from_secs(2);

impl Tls {
    /// Whether the server lets no client with this certificate in, or none without one: in its own words.
    ///
    /// With TLS 1.3 the client has ended its part of the handshake before the server has looked at the certificate, and what
    /// the client sends meanwhile may drown what the server says. So this connects once more, says nothing, and hears the server out.
    pub(crate) async fn refusal(&self, address: &str, host: &str, port: u16) -> Option<pb::ErrorDetail> {
        let config = Arc::new(self.bare_config().ok()?);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let heard = timeout(HEAR_OUT, async {
            let stream = TcpStream::connect((host, port)).await.ok()?;
            let refused = match TlsConnector::from(config).connect(name, stream).await {
                Ok(mut stream) => stream.read_u8().await.err(),
                Err(refused) => Some(refused),
            };
            explain(address, &refused?)
        });
        let detail = heard.await.ok().flatten()?;
        (status::code_of(&detail) == Some(Code::Unauthenticated)).then_some(detail)
    }

    fn bare_config(&self) -> Result<ClientConfig, Problem> {
        let unusable = |_| Problem::General("a file that is not well-formed PEM".to_owned());
        let certificates = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(unusable);
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(match &self.ca {
            Some(pem) => certificates(pem)?,
            None => rustls_native_certs::load_native_certs().certs,
        });
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(unusable)?;
                builder.with_client_auth_cert(certificates(certificate)?, key)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// A token from a file that holds nothing else, and that nobody but its owner may read or write.
pub fn token_from_file(path: &Path) -> Result<BearerToken, Error> {
    let bytes = read(path, true)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    BearerToken::new(text.trim()).ok_or_else(|| {
        let text = format!(
            "{} holds no token: it must be one word of printable ASCII",
            path.display()
        );
        Error::refused(Code::Unauthenticated, "", text)
    })
}

fn read(path: &Path, secret: bool) -> Result<Vec<u8>, Error> {
    const LARGEST: u64 = 4 << 20;
    let shown = path.display();
    let failed = |error: io::Error| unusable(format!("cannot read {shown}: {error}"));
    // The mode is that of the very file that is read.
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if secret && mode & 0o077 != 0 {
        let text = format!("others than its owner may read or write {shown} (mode {mode:04o}): chmod 600 {shown}");
        return Err(unusable(text));
    }
    let mut bytes = Vec::new();
    let read = file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > LARGEST {
        return Err(unusable(format!("{shown} is larger than {LARGEST} bytes")));
    }
    Ok(bytes)
}

fn check_certificates(pem: &[u8], what: &str) -> Result<(), Error> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(all) if all.is_empty() => Err(unusable(format!("{what} holds no certificate in PEM form"))),
        Ok(_) => Ok(()),
        Err(_) => Err(unusable(format!("{what} is not well-formed PEM"))),
    }
}

fn check_key(pem: &[u8], what: &str) -> Result<(), Error> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(_) => Ok(()),
        Err(_) => Err(unusable(format!("{what} holds no private key in PEM form"))),
    }
}

fn unusable(text: String) -> Error {
    Error::Refused(Box::new(pb::ErrorDetail {
        hint: "see docs/security.md for the files that TLS needs".to_owned(),
        ..status::error_detail(Code::Unavailable, text)
    }))
}

/// Whether what is sent to this host stays on this machine.
pub(crate) fn is_local(host: &str) -> bool {
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost"),
    }
}

/// What a failure to agree on TLS means, and what to do; `None` where `failed` is of another kind.
pub(crate) fn explain(address: &str, failed: &(dyn std::error::Error + 'static)) -> Option<pb::ErrorDetail> {
    let mut cause = Some(failed);
    while let Some(error) = cause {
        if let Some(problem) = error.downcast_ref::<Problem>() {
            return Some(of_tls(address, problem));
        }
        let text = error.to_string();
        // Of an alert that comes when the connection stands already, only its text is handed on.
        if let Some((_, alert)) = text.rsplit_once("received fatal alert: ") {
            return Some(of_alert(address, alert));
        }
        if text.contains("use https://") {
            let bare = address.trim_start_matches("http://");
            return Some(pb::ErrorDetail {
                hint: format!("write https://{bare}, with --ca FILE where the system does not trust its CA"),
                ..status::error_detail(Code::Unavailable, format!("the server at {address} speaks TLS"))
            });
        }
        // An error of input and output hides the one that it was made of.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Whether a call ended because its connection did.
pub(crate) fn was_cut(failed: &Status) -> bool {
    let mut cause = std::error::Error::source(failed);
    while let Some(error) = cause {
        let text = error.to_string();
        if [
            "connection closed",
            "broken pipe",
            "connection reset",
            "unexpected eof",
            "close_notify",
        ]
        .iter()
        .any(|end| text.to_ascii_lowercase().contains(end))
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A name in a certificate, out of a text like `DnsName("db.example")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn of_tls(address: &str, problem: &Problem) -> pb::ErrorDetail {
    use CertificateError as Bad;
    let server = |what: String, hint: String| pb::ErrorDetail {
        hint,
        ..status::error_detail(Code::Unavailable, format!("{address}: {what}"))
    };
    match problem {
        Problem::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => server(
            "the server's certificate is not signed by a CA that is trusted here".to_owned(),
            "give the CA's certificate with --ca FILE or CONFOLD_CA".to_owned(),
        ),
        Problem::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => server(
            "the server's certificate has expired".to_owned(),
            "renew it at the server, and see that this machine's clock is right".to_owned(),
        ),
        Problem::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. }) => server(
            "the server's certificate is not valid yet".to_owned(),
            "see that the clocks of this machine and of the server are right".to_owned(),
        ),
        Problem::InvalidCertificate(Bad::NotValidForName) => server(
            "the server's certificate is not for this name".to_owned(),
            "address the server by a name that is in its certificate".to_owned(),
        ),
        Problem::InvalidCertificate(Bad::NotValidForNameContext { presented, .. }) => server(
            "the server's certificate is not for this name".to_owned(),
            format!(
                "it is for {}",
                presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")
            ),
        ),
        Problem::InvalidCertificate(error) => server(
            format!("the server's certificate cannot be trusted: {error}"),
            "see docs/security.md for what it must be".to_owned(),
        ),
        Problem::InvalidMessage(_) => server(
            "the server does not speak TLS".to_owned(),
            "write http:// instead of https://, or start it with --tls-cert and --tls-key".to_owned(),
        ),
        Problem::AlertReceived(alert) => of_alert(address, &format!("{alert:?}")),
        problem => server(
            format!("client and server could not agree on TLS: {problem}"),
            "see that the address is that of a server with TLS; its log says more".to_owned(),
        ),
    }
}

/// What the server said when it broke off, by the name of its alert.
fn of_alert(address: &str, alert: &str) -> pb::ErrorDetail {
    let (what, hint) = match alert {
        "CertificateRequired" => (
            "the server asks for a certificate, and none was shown",
            "give one with --cert FILE and --key FILE, or CONFOLD_CERT and CONFOLD_KEY",
        ),
        "UnknownCA" => (
            "the server does not know the CA of the certificate that was shown",
            "take a certificate that its --client-ca has signed",
        ),
        "CertificateExpired" => (
            "the certificate that was shown is not valid at this time",
            "get a new one",
        ),
        "BadCertificate"
        | "CertificateUnknown"
        | "CertificateRevoked"
        | "UnsupportedCertificate"
        | "AccessDenied"
        | "DecryptError" => (
            "the server does not take the certificate that was shown",
            "it must be signed by its --client-ca, be for clients, and name its holder by a URI or a DNS name",
        ),
        _ => {
            let text = format!("{address}: client and server could not agree on TLS: {alert}");
            return pb::ErrorDetail {
                hint: "see that the address is that of a server with TLS; its log says more".to_owned(),
                ..status::error_detail(Code::Unavailable, text)
            };
        }
    };
    pb::ErrorDetail {
        hint: hint.to_owned(),
        ..status::error_detail(Code::Unauthenticated, format!("{address}: {what}"))
    }
}
