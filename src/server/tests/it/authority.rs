//! Certificates made for a test, in a folder of its own.

use confold_server::Tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType, date_time_ymd,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Signs what it is asked to.
pub struct Authority {
    pub folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Signed {
    pub certificate: String,
    pub key: String,
}

/// What stands in a certificate.
#[derive(Clone)]
pub struct Wanted {
    pub names: Vec<SanType>,
    pub common_name: Option<&'static str>,
    pub first_year: i32,
    pub last_year: i32,
    pub usage: ExtendedKeyUsagePurpose,
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

pub fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// For a client with these names.
pub fn client(names: &[SanType]) -> Wanted {
    Wanted {
        names: names.to_vec(),
        common_name: None,
        first_year: 2020,
        last_year: 4000,
        usage: ExtendedKeyUsagePurpose::ClientAuth,
    }
}

/// For a server on this machine.
pub fn server() -> Wanted {
    Wanted {
        names: vec![dns("localhost"), SanType::IpAddress([127, 0, 0, 1].into())],
        usage: ExtendedKeyUsagePurpose::ServerAuth,
        ..client(&[])
    }
}

impl Wanted {
    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = self.names.clone();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = self.common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.not_before = date_time_ymd(self.first_year, 1, 1);
        params.not_after = date_time_ymd(self.last_year, 1, 1);
        params.extended_key_usages = vec![self.usage.clone()];
        params
    }

    /// By nobody but itself.
    pub fn self_signed(&self) -> Signed {
        let key = KeyPair::generate().unwrap();
        Signed {
            certificate: self.params().self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "a CA for tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { folder, issuer }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn sign(&self, wanted: &Wanted) -> Signed {
        let key = KeyPair::generate().unwrap();
        Signed {
            certificate: wanted.params().signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// Files for a server with this certificate.
    pub fn serve(&self, signed: &Signed) -> Tls {
        let tls = Tls {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            ..Tls::default()
        };
        replace(&tls, signed);
        tls
    }

    /// Files for a server of this machine.
    pub fn server(&self) -> Tls {
        self.serve(&self.sign(&server()))
    }

    /// The same, for a server that asks clients for a certificate of this authority.
    pub fn server_for_certificates(&self) -> Tls {
        Tls {
            client_ca: Some(self.path("ca.pem")),
            ..self.server()
        }
    }
}

/// Puts another certificate in the place of a server's, file by file and each at once, as renewers do.
pub fn replace(tls: &Tls, signed: &Signed) {
    write(&tls.key, &signed.key);
    write(&tls.certificate, &signed.certificate);
}

pub fn write(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, path).unwrap();
}
