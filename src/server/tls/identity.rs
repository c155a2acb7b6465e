//! Who a client certificate names.

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Bytes of the longest name.
const LONGEST: usize = 255;

/// Why a certificate, good as it may be, does not say who its holder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nameless {
    #[error("the client's certificate cannot be read")]
    Unreadable,
    #[error("the client's certificate names nobody: it has no URI and no DNS name")]
    NoName,
    #[error(
        "the client's certificate has a name that cannot be one caller's: empty, too long, a wildcard or unprintable"
    )]
    BadName,
}

/// The one name of a certificate's holder: its first URI, else its first DNS name (in lower case), else its common name
/// if that is asked for. Whoever is known by it stands in history, so it is never a guess: a certificate with a name
/// that cannot be one caller's is refused, not passed over.
pub(crate) fn name(certificate: &[u8], common_name: bool) -> Result<Arc<str>, Nameless> {
    let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|_| Nameless::Unreadable)?;
    if !rest.is_empty() {
        return Err(Nameless::Unreadable);
    }
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Nameless::Unreadable)?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let host = || {
        names.iter().find_map(|name| match name {
            GeneralName::DNSName(host) => Some(host.to_ascii_lowercase()),
            _ => None,
        })
    };
    let subject = || {
        let mut names = certificate.subject().iter_common_name();
        match (common_name, names.next(), names.next()) {
            (true, Some(only), None) => only.as_str().ok().map(str::to_owned),
            _ => None,
        }
    };
    let name = uri.or_else(host).or_else(subject).ok_or(Nameless::NoName)?;
    let one = (1..=LONGEST).contains(&name.len()) && !name.contains('*') && !name.chars().any(char::is_control);
    if one { Ok(name.into()) } else { Err(Nameless::BadName) }
}

/// Takes what the CA signed, if it also says who its holder is.
#[derive(Debug)]
pub(crate) struct Named {
    pub verifier: Arc<dyn ClientCertVerifier>,
    pub common_name: bool,
}

impl ClientCertVerifier for Named {
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        match name(end_entity, self.common_name) {
            Ok(_) => Ok(verified),
            Err(nameless) => Err(CertificateError::Other(OtherError(Arc::new(nameless))).into()),
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
