//! TLS: the certificate that this server shows, whose certificates it takes, and how both are renewed while it runs.
//!
//! Every handshake is a full one: nothing is resumed, so what a handshake found out about a client holds at its time.

mod identity;

use crate::metrics;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// Where the certificates are. All files are PEM, are looked at every second, and are taken anew when they changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate, followed by those between it and a root.
    pub certificate: PathBuf,
    /// Its private key. Nobody but its owner may be allowed to read or write the file.
    pub key: PathBuf,
    /// Only clients with a certificate that one of these signed are let in. `None`: no client is asked for one.
    pub client_ca: Option<PathBuf>,
    /// Know a client whose certificate has no URI and no DNS name by its subject's common name.
    pub client_common_name: bool,
}

/// What is wrong with the files, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} {path}: {source}", path = path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{path} is larger than {LARGEST} bytes: that is no PEM file", path = path.display())]
    TooLarge { path: PathBuf },
    #[error(
        "others than its owner may read or write the key {path} (mode {mode:04o}): chmod 600 {path}",
        path = path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("there is no {what} in {path}: it must hold one in PEM form, `-----BEGIN …`", path = path.display())]
    Missing { what: &'static str, path: PathBuf },
    #[error("{path} is not well-formed PEM", path = path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("the certificate in {path} cannot be used: {reason}", path = path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("the certificate in {path} was valid until {until}: get a new one", path = path.display())]
    Expired { path: PathBuf, until: String },
    #[error(
        "the certificate in {path} is not valid before {from}: is this machine's clock right?",
        path = path.display()
    )]
    NotYet { path: PathBuf, from: String },
    #[error(
        "the key {key} is not that of the certificate {certificate}",
        key = key.display(),
        certificate = certificate.display()
    )]
    Mismatch { key: PathBuf, certificate: PathBuf },
    #[error("TLS cannot be set up: {0}")]
    Other(#[from] rustls::Error),
}

const LARGEST: u64 = 4 << 20;

/// The files as they were read. Not to be shown: one of them is a secret.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// What new connections are greeted with.
pub(crate) struct Certificates {
    tls: Tls,
    current: RwLock<Arc<ServerConfig>>,
    meters: metrics::Certificates,
}

impl Certificates {
    /// Blocks on the files.
    pub fn read(tls: Tls) -> Result<(Certificates, Renewal), TlsError> {
        let files = read(&tls)?;
        let (config, until) = configure(&tls, &files)?;
        let certificates = Certificates {
            tls,
            current: RwLock::new(config),
            meters: metrics::Certificates::new(),
        };
        certificates.meters.not_after.set(until as f64);
        let renewal = Renewal {
            taken: files,
            refused: None,
        };
        Ok((certificates, renewal))
    }

    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn client_common_name(&self) -> bool {
        self.tls.client_common_name
    }

    /// Looks at the files again and again, and at once when the process gets SIGHUP. Never ends.
    pub async fn keep_fresh(self: Arc<Self>, mut renewal: Renewal, every: Duration) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => Some(hangup),
            Err(error) => {
                tracing::warn!(%error, "SIGHUP is not heard: new certificates are still found by looking");
                None
            }
        };
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                _ = ticks.tick() => false,
                _ = asked => true,
            };
            let certificates = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || {
                renewal.look(&certificates, told);
                renewal
            });
            renewal = match looked.await {
                Ok(renewal) => renewal,
                Err(error) => {
                    tracing::error!(%error, "certificates are no longer renewed until the server is started anew");
                    return;
                }
            };
        }
    }
}

/// What the renewal has seen so far.
pub(crate) struct Renewal {
    taken: Files,
    /// Why what stands there now was not taken, and whether that was said already.
    refused: Option<(String, bool)>,
}

impl Renewal {
    fn look(&mut self, certificates: &Certificates, told: bool) {
        let files = match read(&certificates.tls) {
            Ok(files) if files == self.taken => {
                if told {
                    tracing::info!("the certificates are as they were");
                }
                self.refused = None;
                return;
            }
            Ok(files) => files,
            Err(error) => return self.refuse(certificates, &error, told),
        };
        match configure(&certificates.tls, &files) {
            Ok((config, until)) => {
                *certificates.current.write().unwrap_or_else(PoisonError::into_inner) = config;
                self.taken = files;
                self.refused = None;
                certificates.meters.not_after.set(until as f64);
                certificates.meters.renewed.increment(1);
                tracing::info!("new certificates are in use for new connections");
            }
            Err(error) => self.refuse(certificates, &error, told),
        }
    }

    /// Files are replaced one after the other, so what does not fit together is complained of when it stays so.
    fn refuse(&mut self, certificates: &Certificates, error: &TlsError, told: bool) {
        let text = error.to_string();
        let (again, said) = match &self.refused {
            Some((before, said)) if *before == text => (true, *said),
            _ => (false, false),
        };
        let say = !said && (again || told);
        if say {
            certificates.meters.refused.increment(1);
            tracing::error!("{text}; the certificates from before stay in use");
        }
        self.refused = Some((text, said || say));
    }
}

fn read(tls: &Tls) -> Result<Files, TlsError> {
    let client_ca = tls.client_ca.as_deref();
    Ok(Files {
        certificate: read_file("the certificate", &tls.certificate, false)?,
        key: read_file("the key", &tls.key, true)?,
        client_ca: client_ca
            .map(|path| read_file("the CA of the clients", path, false))
            .transpose()?,
    })
}

fn read_file(what: &'static str, path: &Path, secret: bool) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    };
    // The mode is that of the very file that is read.
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if secret && mode & 0o077 != 0 {
        return Err(TlsError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    let read = file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > LARGEST {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// The configuration for new connections, and until when (in seconds since 1970) the server's certificate is valid.
fn configure(tls: &Tls, files: &Files) -> Result<(Arc<ServerConfig>, i64), TlsError> {
    let chain = certificates("certificate", &tls.certificate, &files.certificate)?;
    let until = valid_until(&tls.certificate, &chain[0])?;
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::Missing {
            what: "private key",
            path: tls.key.clone(),
        },
        source => TlsError::Pem {
            path: tls.key.clone(),
            source,
        },
    })?;

    // By name, so that it does not matter what else in the process brings a provider.
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = match (&tls.client_ca, &files.client_ca) {
        (Some(path), Some(bytes)) => {
            let verifier = client_verifier(path, bytes, tls.client_common_name, provider)?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
            key: tls.key.clone(),
            certificate: tls.certificate.clone(),
        },
        error => TlsError::Other(error),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), until))
}

fn client_verifier(
    path: &Path,
    bytes: &[u8],
    common_name: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<identity::Named>, TlsError> {
    let unusable = |reason: String| TlsError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA certificate", path, bytes)? {
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    Ok(Arc::new(identity::Named { verifier, common_name }))
}

/// At least one.
fn certificates(what: &'static str, path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })?;
    match all.is_empty() {
        true => Err(TlsError::Missing {
            what,
            path: path.to_owned(),
        }),
        false => Ok(all),
    }
}

fn valid_until(path: &Path, certificate: &CertificateDer<'_>) -> Result<i64, TlsError> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| TlsError::Certificate {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let (validity, now) = (certificate.validity(), ASN1Time::now());
    if now > validity.not_after {
        return Err(TlsError::Expired {
            path: path.to_owned(),
            until: validity.not_after.to_string(),
        });
    }
    if now < validity.not_before {
        return Err(TlsError::NotYet {
            path: path.to_owned(),
            from: validity.not_before.to_string(),
        });
    }
    Ok(validity.not_after.timestamp())
}

pub(crate) use identity::name as client_name;
