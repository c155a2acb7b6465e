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
    assert_eq!(nameless.status.code(), Some(4), "{}", said(&nameless));
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

// Reliability Q1: every way to start.
#[test]
fn serve_starts_on_the_network_only_with_tls_and_known_callers_or_when_told_that_this_is_insecure() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Embedded::create(&folder.join("data"), "net").unwrap();
    let authority = Authority::new("lab");
    authority.sign(folder, "server", SanType::IpAddress([127, 0, 0, 1].into()));
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (data, certificate, key) = (path("data"), path("server.pem"), path("server.key"));
    let words = |listen: &'static str, tls: bool, known: bool| {
        let mut words = vec!["serve", &data, "--listen", listen];
        if tls {
            words.extend(["--tls-cert", &certificate, "--tls-key", &key]);
        }
        words.extend(known.then_some("--require-token"));
        words.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let starts = |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        ServerProcess::try_run(&words, &[]).map(drop)
    };
    let (here, network) = ("127.0.0.1:0", "0.0.0.0:0");
    for (listen, tls, known, why) in [
        (here, false, false, None),
        (here, false, true, None),
        (here, true, false, None),
        (here, true, true, None),
        (network, false, false, Some("nothing protects it")),
        (network, false, true, Some("open to everybody on the way")),
        (network, true, false, Some("nobody would know who calls")),
        (network, true, true, None),
    ] {
        let words = words(listen, tls, known);
        let Some(why) = why else {
            starts(&words).unwrap_or_else(|refused| panic!("{words:?}: {refused}"));
            continue;
        };
        let refused = confold(folder, &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(refused.status.code(), Some(2), "{words:?}: {}", said(&refused));
        for word in ["can be reached from other machines", why, "say --insecure"] {
            assert!(said(&refused).contains(word), "{words:?}: {}", said(&refused));
        }
        let insecure = [&words[..], &["--insecure".to_owned()]].concat();
        starts(&insecure).unwrap_or_else(|refused| panic!("{insecure:?}: {refused}"));
    }
}
