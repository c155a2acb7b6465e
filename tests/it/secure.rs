//! A server process with TLS, and the command line as a client of it.

use crate::server::{CONFOLD, ServerProcess};
use confold::Embedded;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, SanType};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes `name.pem` and `name.key`, each at once.
    fn sign(&self, folder: &Path, name: &str, san: SanType) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        write(folder, &format!("{name}.key"), &key.serialize_pem());
        write(folder, &format!("{name}.pem"), &certificate.pem());
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let beside = folder.join("new");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(beside, folder.join(name)).unwrap();
}

fn confold(folder: &Path, words: &[&str]) -> Output {
    Command::new(CONFOLD).args(words).current_dir(folder).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// Reliability Q1 to Q4, with the whole binary: one provider of cryptography serves both sides.
#[test]
fn a_server_with_certificates_is_used_from_the_command_line_and_renews_them_on_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Embedded::create(&folder.join("data"), "net").unwrap();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let here = || SanType::IpAddress([127, 0, 0, 1].into());
    write(folder, "old-ca.pem", &old.0.pem());
    write(folder, "new-ca.pem", &new.0.pem());
    old.sign(folder, "server", here());
    old.sign(folder, "ada", SanType::URI("spiffe://lab/ada".try_into().unwrap()));
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let server = ServerProcess::start_with(
        &folder.join("data"),
        &[
            "--tls-cert",
            &path("server.pem"),
            "--tls-key",
            &path("server.key"),
            "--client-ca",
            &path("old-ca.pem"),
        ],
    );
    let address = format!("https://{}", server.address);
    let ask = |ca: &str, shown: bool| {
        let mut words = vec!["status", "--server", &address, "--ca", ca];
        if shown {
            words.extend(["--cert", "ada.pem", "--key", "ada.key"]);
        }
        confold(folder, &words)
    };
    let answer = ask("old-ca.pem", true);
    assert!(answer.status.success(), "{}", said(&answer));
    assert!(String::from_utf8_lossy(&answer.stdout).contains("net"));

    let nameless = ask("old-ca.pem", false);
    // The server's word for it, or, where the connection ended before it was heard, ours.
    assert!([Some(3), Some(4)].contains(&nameless.status.code()), "{}", said(&nameless));
    assert!(said(&nameless).contains("--cert"), "{}", said(&nameless));
    let plain = confold(folder, &["status", "--server", &server.address]);
    assert_eq!(plain.status.code(), Some(3));
    assert!(said(&plain).contains("speaks TLS"), "{}", said(&plain));

    new.sign(folder, "server", here());
    let told = Command::new("kill").args(["-HUP", &server.child.id().to_string()]).status().unwrap();
    assert!(told.success());
    let end = Instant::now() + Duration::from_secs(20);
    while !ask("new-ca.pem", true).status.success() {
        assert!(Instant::now() < end, "the new certificate is not shown");
    }
    assert!(said(&ask("old-ca.pem", true)).contains("not signed by a CA that is trusted here"));
}

// Reliability Q1.
#[test]
fn serve_refuses_an_address_of_the_network_without_protection() {
    let folder = tempfile::tempdir().unwrap();
    Embedded::create(&folder.path().join("data"), "net").unwrap();
    let refused = confold(folder.path(), &["serve", "data", "--listen", "0.0.0.0:0"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("can be reached from other machines"), "{}", said(&refused));
    assert!(said(&refused).contains("say --insecure"), "{}", said(&refused));
}
