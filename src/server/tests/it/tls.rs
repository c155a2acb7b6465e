//! TLS on real sockets: what is spoken, who is let in, and certificates that change under load.

use crate::hostile::{floods, pour, silent_connections};
use crate::{
    authority::{Authority, Signed, Wanted, client, dns, replace, server, uri, write},
    fake::{Fake, Gatekeeper},
    net::{Running, read_to_end, start, start_with},
};
use confold_client::{BearerToken, Options as ClientOptions, Remote, Tls as ClientTls};
use confold_server::{BindError, Options, Server, StoreHealth, Tls};
use confold_wire::{api::Api, pb, status};
use expect_test::{Expect, expect};
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Status;

const SHORT: Duration = Duration::from_millis(100);

/// With certificates that are looked at often.
pub async fn start_tls(tls: Tls) -> Running {
    start_with(Fake::new(), |options| {
        options.tls = Some(tls);
        options.limits.certificate_interval = Duration::from_millis(20);
    })
    .await
}

/// A handshake with these versions and protocols.
pub async fn connect_as(
    address: SocketAddr,
    ca: &str,
    identity: Option<&Signed>,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(signed) => {
            let certificate = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

pub async fn connect(address: SocketAddr, ca: &str) -> TlsStream<TcpStream> {
    connect_as(address, ca, None, &[&TLS13], &["http/1.1"]).await.unwrap()
}

const PROBE: &[u8] = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

pub async fn probe<S: AsyncReadExt + AsyncWriteExt + Unpin>(mut stream: S) -> io::Result<String> {
    stream.write_all(PROBE).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// As a program would ask, with these certificates.
fn remote(address: &str, ca: Option<String>, identity: Option<&Signed>) -> Remote {
    let identity = identity.map(|signed| (signed.certificate.clone().into(), signed.key.clone().into()));
    let options = ClientOptions {
        tls: ClientTls {
            ca: ca.map(String::into_bytes),
            identity,
        },
        ..ClientOptions::default()
    };
    Remote::with_options(address, &options).unwrap()
}

async fn ask(remote: &Remote) -> Result<pb::StatusResponse, Status> {
    remote.status(pb::StatusRequest::default()).await
}

/// The detail and the hint of a refusal, with the port cut out.
async fn told(remote: &Remote, address: SocketAddr) -> String {
    let refused = ask(remote).await.unwrap_err();
    let detail = status::detail(&refused).unwrap_or_else(|| panic!("{refused:?}"));
    format!("{}: {}\n{}", detail.code, detail.detail, detail.hint).replace(&address.port().to_string(), "PORT")
}

// Reliability Q1.
#[tokio::test]
async fn an_address_that_others_can_reach_needs_tls_and_callers_that_are_known() {
    let authority = Authority::new();
    let starts = async |address: &str, tls: bool, known: bool, insecure: bool| {
        let options = Options {
            address: address.parse().unwrap(),
            tls: tls.then(|| authority.server()),
            require_token: known,
            insecure,
            ..Options::default()
        };
        let gate = Arc::new(Gatekeeper::default());
        let bound = Server::bind(options, gate, Arc::new(Vec::<StoreHealth>::new)).await;
        bound.err().map_or("starts".to_owned(), |error| error.to_string())
    };
    let cases: [(&str, bool, bool, Expect); 8] = [
        ("127.0.0.1:0", false, false, expect!["starts"]),
        ("127.0.0.1:0", false, true, expect!["starts"]),
        ("127.0.0.1:0", true, false, expect!["starts"]),
        ("127.0.0.1:0", true, true, expect!["starts"]),
        (
            "0.0.0.0:0",
            false,
            false,
            expect![
                "0.0.0.0:0 can be reached from other machines, and nothing protects it: give --tls-cert and --tls-key, and --client-ca or --require-token beside them, listen on 127.0.0.1 or [::1], or say --insecure"
            ],
        ),
        (
            "0.0.0.0:0",
            false,
            true,
            expect![
                "0.0.0.0:0 can be reached from other machines, and what is said would be open to everybody on the way: give --tls-cert and --tls-key, listen on 127.0.0.1 or [::1], or say --insecure"
            ],
        ),
        (
            "0.0.0.0:0",
            true,
            false,
            expect![
                "0.0.0.0:0 can be reached from other machines, and nobody would know who calls: ask for certificates (--client-ca) or for tokens (--require-token), listen on 127.0.0.1 or [::1], or say --insecure"
            ],
        ),
        ("0.0.0.0:0", true, true, expect!["starts"]),
    ];
    for (address, tls, known, expected) in cases {
        expected.assert_eq(&starts(address, tls, known, false).await);
        // Said in so many words, everything starts.
        assert_eq!(starts(address, tls, known, true).await, "starts");
    }
    for address in ["[::]:0", "192.0.2.1:80", "[2001:db8::1]:80", "[::ffff:192.0.2.1]:80"] {
        assert!(
            starts(address, false, false, false).await.contains("say --insecure"),
            "{address}"
        );
    }
    // Certificates are a way to know who calls.
    let options = Options {
        address: "0.0.0.0:0".parse().unwrap(),
        tls: Some(authority.server_for_certificates()),
        ..Options::default()
    };
    let gate = Arc::new(Gatekeeper::default());
    Server::bind(options, gate, Arc::new(Vec::<StoreHealth>::new))
        .await
        .unwrap();
}

#[tokio::test]
async fn both_faces_are_spoken_inside_tls() {
    let authority = Authority::new();
    let server = start_tls(authority.server()).await;
    let address = format!("https://localhost:{}", server.address.port());
    ask(&remote(&address, Some(authority.pem()), None)).await.unwrap();
    ask(&remote(
        &format!("https://{}", server.address),
        Some(authority.pem()),
        None,
    ))
    .await
    .unwrap();
    assert_eq!(server.fake.take_called(), ["Status", "Status"]);
    for (version, name) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        for protocols in [&["http/1.1"][..], &["h2", "http/1.1"], &[]] {
            let stream = connect_as(server.address, &authority.pem(), None, &[version], protocols)
                .await
                .unwrap();
            let (_, session) = stream.get_ref();
            assert_eq!(session.protocol_version(), Some(name));
            assert_eq!(session.alpn_protocol(), protocols.first().map(|name| name.as_bytes()));
            if protocols != ["h2", "http/1.1"] {
                assert!(probe(stream).await.unwrap().ends_with("alive\n"));
            }
        }
    }
    // A name that is not this machine's is answered to: the client has seen that the certificate bears it.
    let mut stream = connect(server.address, &authority.pem()).await;
    stream
        .write_all(b"GET /v1/status HTTP/1.1\r\nhost: db.example\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

// Reliability Q2.
#[tokio::test]
async fn versions_before_1_2_are_refused() {
    let authority = Authority::new();
    let server = start_tls(authority.server()).await;
    // A ClientHello of TLS 1.1 at most: a random, no session, one suite, no compression.
    for minor in [1u8, 2] {
        let hello = [&[3, minor][..], &[7; 32], &[0, 0, 2, 0xc0, 0x13, 1, 0]].concat();
        let message = [&[1, 0, 0, hello.len() as u8], &hello[..]].concat();
        let record = [&[22, 3, 1, 0, message.len() as u8], &message[..]].concat();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&record).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        // A fatal alert: handshake_failure or protocol_version.
        assert_eq!((answer[0], answer[5]), (21, 2), "TLS 1.{}", minor - 1);
        assert!(
            [40, 70].contains(&answer[6]),
            "TLS 1.{}: alert {}",
            minor - 1,
            answer[6]
        );
    }
    for (option, taken) in [
        ("-tls1", false),
        ("-tls1_1", false),
        ("-tls1_2", true),
        ("-tls1_3", true),
    ] {
        let port = server.address.port();
        let asked = tokio::task::spawn_blocking(move || {
            Command::new("openssl")
                .args([
                    "s_client",
                    option,
                    "-cipher",
                    "ALL:@SECLEVEL=0",
                    "-connect",
                    &format!("127.0.0.1:{port}"),
                ])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
        });
        match asked.await.unwrap() {
            Ok(ended) => assert_eq!(ended.success(), taken, "openssl s_client {option}"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "openssl: {error}"),
        }
    }
}

// Reliability Q3.
#[tokio::test]
async fn a_client_is_let_in_by_a_certificate_that_names_it() {
    let authority = Authority::new();
    let server = start_tls(authority.server_for_certificates()).await;
    let address = format!("https://{}", server.address);
    let spiffe = uri("spiffe://lab/web");
    let cases = [
        (client(&[spiffe.clone()]), "spiffe://lab/web"),
        (client(&[dns("Web.Example")]), "web.example"),
        (
            client(&[dns("web.example"), spiffe.clone(), uri("spiffe://lab/other")]),
            "spiffe://lab/web",
        ),
    ];
    for (wanted, name) in cases {
        let signed = authority.sign(&wanted);
        ask(&remote(&address, Some(authority.pem()), Some(&signed)))
            .await
            .unwrap();
        assert_eq!(server.gate.certificates().pop().unwrap(), name);
        let stream = connect_as(
            server.address,
            &authority.pem(),
            Some(&signed),
            &[&TLS12],
            &["http/1.1"],
        )
        .await;
        assert!(probe(stream.unwrap()).await.unwrap().ends_with("alive\n"));
    }
    assert_eq!(server.fake.take_called().len(), 3);
}

#[tokio::test]
async fn a_client_without_a_certificate_that_names_it_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = start_tls(authority.server_for_certificates()).await;
    let good = client(&[dns("web.example")]);
    let changed = |change: &dyn Fn(&mut Wanted)| {
        let mut wanted = good.clone();
        change(&mut wanted);
        wanted
    };
    let nameless = changed(&|wanted| {
        wanted.names.clear();
        wanted.common_name = Some("web.example");
    });
    let cases: [(&str, Option<Signed>, Expect); 9] = [
        (
            "none",
            None,
            expect![[r#"
            UNAUTHENTICATED: https://127.0.0.1:PORT: the server asks for a certificate, and none was shown
            give one with --cert FILE and --key FILE, or CONFOLD_CERT and CONFOLD_KEY"#]],
        ),
        (
            "another CA's",
            Some(stranger.sign(&good)),
            expect![[r#"
            UNAUTHENTICATED: https://127.0.0.1:PORT: the server does not take the certificate that was shown
            it must be signed by its --client-ca, be for clients, and name its holder by a URI or a DNS name"#]],
        ),
        (
            "its own",
            Some(good.self_signed()),
            expect![[r#"
            UNAUTHENTICATED: https://127.0.0.1:PORT: the server does not know the CA of the certificate that was shown
            take a certificate that its --client-ca has signed"#]],
        ),
        (
            "expired",
            Some(authority.sign(&changed(&|wanted| wanted.last_year = 2021))),
            expect![[r#"
                UNAUTHENTICATED: https://127.0.0.1:PORT: the certificate that was shown is not valid at this time
                get a new one"#]],
        ),
        (
            "not valid yet",
            Some(authority.sign(&changed(&|wanted| wanted.first_year = 3000))),
            expect![[r#"
                UNAUTHENTICATED: https://127.0.0.1:PORT: the certificate that was shown is not valid at this time
                get a new one"#]],
        ),
        (
            "without a name",
            Some(authority.sign(&nameless)),
            expect![[r#"
            UNAUTHENTICATED: https://127.0.0.1:PORT: the server does not take the certificate that was shown
            it must be signed by its --client-ca, be for clients, and name its holder by a URI or a DNS name"#]],
        ),
        (
            "with a wildcard",
            Some(authority.sign(&client(&[dns("*.example")]))),
            expect![[r#"
                UNAUTHENTICATED: https://127.0.0.1:PORT: the server does not take the certificate that was shown
                it must be signed by its --client-ca, be for clients, and name its holder by a URI or a DNS name"#]],
        ),
        (
            "with an address only",
            Some(authority.sign(&client(&[SanType::IpAddress([127, 0, 0, 1].into())]))),
            expect![[r#"
                UNAUTHENTICATED: https://127.0.0.1:PORT: the server does not take the certificate that was shown
                it must be signed by its --client-ca, be for clients, and name its holder by a URI or a DNS name"#]],
        ),
        (
            "for servers",
            Some(authority.sign(&changed(&|wanted| wanted.usage = ExtendedKeyUsagePurpose::ServerAuth))),
            expect![[r#"
                UNAUTHENTICATED: https://127.0.0.1:PORT: the server does not take the certificate that was shown
                it must be signed by its --client-ca, be for clients, and name its holder by a URI or a DNS name"#]],
        ),
    ];
    for (what, identity, expected) in cases {
        let remote = remote(
            &format!("https://{}", server.address),
            Some(authority.pem()),
            identity.as_ref(),
        );
        expected.assert_eq(&told(&remote, server.address).await);
        for version in [&TLS12, &TLS13] {
            // With 1.3 the client has ended its part before the server has looked at the certificate.
            let stream = connect_as(server.address, &authority.pem(), identity.as_ref(), &[version], &[]).await;
            let answered = match stream {
                Ok(stream) => probe(stream).await,
                Err(error) => Err(error),
            };
            answered.expect_err(what);
        }
    }
    assert_eq!(server.fake.take_called(), [""; 0]);
    assert!(
        server.gate.callers.lock().unwrap().is_empty(),
        "nobody came as far as a service"
    );
}

#[tokio::test]
async fn a_common_name_counts_only_where_that_is_asked_for() {
    let authority = Authority::new();
    let tls = Tls {
        client_common_name: true,
        ..authority.server_for_certificates()
    };
    let server = start_tls(tls).await;
    let address = format!("https://{}", server.address);
    let named = |names: &[SanType]| {
        authority.sign(&Wanted {
            common_name: Some("Ada"),
            ..client(names)
        })
    };
    ask(&remote(&address, Some(authority.pem()), Some(&named(&[]))))
        .await
        .unwrap();
    assert_eq!(server.gate.certificates().pop().unwrap(), "Ada");
    ask(&remote(
        &address,
        Some(authority.pem()),
        Some(&named(&[dns("web.example")])),
    ))
    .await
    .unwrap();
    assert_eq!(server.gate.certificates().pop().unwrap(), "web.example");
    let nobody = authority.sign(&client(&[]));
    ask(&remote(&address, Some(authority.pem()), Some(&nobody)))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_client_says_what_is_wrong_with_the_server() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let https = |server: &Running| format!("https://{}", server.address);

    let good = start_tls(authority.server()).await;
    let unknown = remote(&https(&good), Some(stranger.pem()), None);
    expect![[r#"
        UNAVAILABLE: https://127.0.0.1:PORT: the server's certificate is not signed by a CA that is trusted here
        give the CA's certificate with --ca FILE or CONFOLD_CA"#]]
    .assert_eq(&told(&unknown, good.address).await);
    // Those whom the system trusts do not know it either; on a machine that trusts nobody, that is said instead.
    if let Ok(remote) = Remote::connect(&https(&good)) {
        ask(&remote).await.unwrap_err();
    }

    let expired = Wanted {
        last_year: 2021,
        ..server()
    };
    let tls = authority.serve(&authority.sign(&expired));
    let refused = start_refused(tls).await;
    assert!(refused.contains("was valid until"), "{refused}");

    let elsewhere = Wanted {
        names: vec![dns("db.example")],
        ..server()
    };
    let elsewhere = start_tls(authority.serve(&authority.sign(&elsewhere))).await;
    let named = remote(&https(&elsewhere), Some(authority.pem()), None);
    expect![[r#"
        UNAVAILABLE: https://127.0.0.1:PORT: the server's certificate is not for this name
        it is for db.example"#]]
    .assert_eq(&told(&named, elsewhere.address).await);

    // One speaks TLS and the other does not.
    let plain = start(Fake::new()).await;
    let encrypted = remote(&https(&plain), Some(authority.pem()), None);
    expect![[r#"
        UNAVAILABLE: https://127.0.0.1:PORT: the server does not speak TLS
        write http:// instead of https://, or start it with --tls-cert and --tls-key"#]]
    .assert_eq(&told(&encrypted, plain.address).await);
    let unencrypted = Remote::connect(&good.address.to_string()).unwrap();
    expect![[r#"
        UNAVAILABLE: the server at 127.0.0.1:PORT speaks TLS
        write https://127.0.0.1:PORT, with --ca FILE where the system does not trust its CA"#]]
    .assert_eq(&told(&unencrypted, good.address).await);
    assert_eq!(plain.fake.take_called(), [""; 0]);
    assert_eq!(good.fake.take_called(), [""; 0]);
}

async fn start_refused(tls: Tls) -> String {
    let options = Options {
        address: ([127, 0, 0, 1], 0).into(),
        tls: Some(tls),
        ..Options::default()
    };
    let gate = Arc::new(Gatekeeper::default());
    let bound = Server::bind(options, gate, Arc::new(Vec::<StoreHealth>::new)).await;
    let error = bound.err().unwrap();
    assert!(matches!(error, BindError::Tls(_)), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_plaintext_client_of_a_tls_port_is_told_so() {
    let authority = Authority::new();
    let server = start_tls(authority.server()).await;
    let answer = server.raw(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.ends_with("this port speaks TLS: use https://\n"), "{answer}");
    let answer = server.raw(b"\0\0\0\0").await;
    assert!(answer.ends_with("use https://\n"), "{answer}");
}

#[tokio::test]
async fn a_token_goes_through_tls() {
    let authority = Authority::new();
    let server = start_with(Fake::new(), |options| {
        options.tls = Some(authority.server());
        options.require_token = true;
    })
    .await;
    let options = ClientOptions {
        tls: ClientTls {
            ca: Some(authority.pem().into_bytes()),
            identity: None,
        },
        token: BearerToken::new("s3cr3t"),
        ..ClientOptions::default()
    };
    assert!(!format!("{options:?}").contains("s3cr3t"));
    let known = Remote::with_options(&format!("https://{}", server.address), &options).unwrap();
    ask(&known).await.unwrap();
    let seen = server.gate.callers.lock().unwrap().pop().unwrap();
    assert_eq!(seen.token.unwrap().secret(), "s3cr3t");
    let nobody = remote(&format!("https://{}", server.address), Some(authority.pem()), None);
    expect![[r#"
        UNAUTHENTICATED: this server asks every call for a token
        show a token: --token-file FILE, or CONFOLD_TOKEN"#]]
    .assert_eq(&told(&nobody, server.address).await);
}

// Reliability Q4.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_load_and_no_call_is_lost() {
    let authority = Authority::new();
    let tls = authority.server();
    let server = start_tls(tls.clone()).await;
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let address = format!("https://{}", server.address);
    let load: Vec<_> = (0..8)
        .map(|number| {
            let (stop, calls, address, ca) = (stop.clone(), calls.clone(), address.clone(), authority.pem());
            tokio::spawn(async move {
                let mut client = remote(&address, Some(ca.clone()), None);
                while !stop.load(Ordering::Relaxed) {
                    // Half of them connect anew all the time.
                    if number % 2 == 0 {
                        client = remote(&address, Some(ca.clone()), None);
                    }
                    ask(&client).await?;
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, Status>(())
            })
        })
        .collect();
    for _ in 0..5 {
        let next = authority.sign(&super::authority::server());
        replace(&tls, &next);
        until_shown(&server, &authority, &next).await;
        let before = calls.load(Ordering::Relaxed);
        let goes_on = async {
            while calls.load(Ordering::Relaxed) < before + 20 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), goes_on).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.unwrap().unwrap();
    }
}

/// Waits until new handshakes show this certificate.
async fn until_shown(server: &Running, authority: &Authority, signed: &Signed) {
    let wanted = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).unwrap();
    let shown = async {
        loop {
            let stream = connect(server.address, &authority.pem()).await;
            if stream.get_ref().1.peer_certificates().unwrap()[0] == wanted {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), shown).await.unwrap();
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_certificate_that_is_in_use() {
    let authority = Authority::new();
    let tls = authority.server();
    let server = start_tls(tls.clone()).await;
    let first = Signed {
        certificate: fs::read_to_string(&tls.certificate).unwrap(),
        key: fs::read_to_string(&tls.key).unwrap(),
    };
    let refused = async || {
        let page = server.get_tls("/metrics", &authority.pem()).await;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix("confold_server_certificates_refused_total "));
        line.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let other = authority.sign(&super::authority::server());
    let breaks: [&dyn Fn(); 4] = [
        &|| write(&tls.certificate, "no certificate"),
        &|| write(&tls.certificate, &other.certificate),
        &|| {
            write(&tls.certificate, &first.certificate);
            fs::set_permissions(&tls.key, fs::Permissions::from_mode(0o644)).unwrap();
        },
        &|| fs::remove_file(&tls.key).unwrap(),
    ];
    for broken in breaks {
        // Other servers of this process count on the same page, so it only ever grows.
        let before = refused().await;
        broken();
        let said = async { while refused().await == before {} };
        tokio::time::timeout(Duration::from_secs(10), said).await.unwrap();
        let stream = connect(server.address, &authority.pem()).await;
        let shown = &stream.get_ref().1.peer_certificates().unwrap()[0];
        assert_eq!(
            *shown,
            CertificateDer::from_pem_slice(first.certificate.as_bytes()).unwrap()
        );
    }
    replace(&tls, &other);
    until_shown(&server, &authority, &other).await;
}

#[tokio::test]
async fn a_client_ca_is_replaced_as_well() {
    let (authority, next) = (Authority::new(), Authority::new());
    let server = start_tls(authority.server_for_certificates()).await;
    let wanted = client(&[dns("web.example")]);
    let (old, new) = (authority.sign(&wanted), next.sign(&wanted));
    let address = format!("https://{}", server.address);
    ask(&remote(&address, Some(authority.pem()), Some(&old))).await.unwrap();
    write(&authority.path("ca.pem"), &next.pem());
    let taken = async { while ask(&remote(&address, Some(authority.pem()), Some(&new))).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), taken).await.unwrap();
    ask(&remote(&address, Some(authority.pem()), Some(&old)))
        .await
        .unwrap_err();
}

// Reliability Q21.
#[tokio::test]
async fn files_that_cannot_be_used_are_named_at_the_start() {
    let authority = Authority::new();
    let folder = authority.folder.path().display().to_string();
    let told = async |change: &dyn Fn(&mut Tls)| {
        let mut tls = authority.server_for_certificates();
        change(&mut tls);
        start_refused(tls).await.replace(&folder, "DIR")
    };
    let mode = |tls: &Tls, mode| fs::set_permissions(&tls.key, fs::Permissions::from_mode(mode)).unwrap();
    let cases: [(&dyn Fn(&mut Tls), Expect); 9] = [
        (
            &|tls| mode(tls, 0o644),
            expect![
                "others than its owner may read or write the key DIR/server.key (mode 0644): chmod 600 DIR/server.key"
            ],
        ),
        (
            &|tls| mode(tls, 0o620),
            expect![
                "others than its owner may read or write the key DIR/server.key (mode 0620): chmod 600 DIR/server.key"
            ],
        ),
        (
            &|tls| tls.key = "DIR/none".into(),
            expect!["cannot read the key DIR/none: No such file or directory (os error 2)"],
        ),
        (
            &|tls| write(&tls.key, "-----BEGIN NOTHING"),
            expect!["DIR/server.key is not well-formed PEM"],
        ),
        (
            &|tls| write(&tls.certificate, ""),
            expect!["there is no certificate in DIR/server.pem: it must hold one in PEM form, `-----BEGIN …`"],
        ),
        (
            &|tls| tls.certificate = tls.key.clone(),
            expect!["there is no certificate in DIR/server.key: it must hold one in PEM form, `-----BEGIN …`"],
        ),
        (
            &|tls| write(&tls.key, &authority.sign(&server()).key),
            expect!["the key DIR/server.key is not that of the certificate DIR/server.pem"],
        ),
        (
            &|tls| {
                let first_year = 3000;
                replace(tls, &authority.sign(&Wanted { first_year, ..server() }));
            },
            expect![
                "the certificate in DIR/server.pem is not valid before Jan  1 00:00:00 3000 +00:00: is this machine's clock right?"
            ],
        ),
        (
            &|tls| {
                tls.client_ca = Some(authority.path("empty.pem"));
                write(&authority.path("empty.pem"), "");
            },
            expect!["there is no CA certificate in DIR/empty.pem: it must hold one in PEM form, `-----BEGIN …`"],
        ),
    ];
    for (change, expected) in cases {
        expected.assert_eq(&told(change).await);
    }
}

#[tokio::test]
async fn a_handshake_may_take_as_long_as_the_limit_and_no_longer() {
    let authority = Authority::new();
    let server = start_with(Fake::new(), |options| {
        options.tls = Some(authority.server());
        options.limits.handshake_timeout = SHORT;
    })
    .await;
    // Nothing, the beginning of a record, and a record that never comes to its end.
    for begun in [&[][..], &[22], &[22, 3, 1, 0x40, 0, 1, 0, 0x3f]] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, "", "{begun:?}");
    }
    // Whoever has shaken hands has as long for a first request as anybody else.
    assert!(
        probe(connect(server.address, &authority.pem()).await)
            .await
            .unwrap()
            .ends_with("alive\n")
    );
}

// Reliability Q16.
#[tokio::test]
async fn a_probe_is_answered_beside_handshakes_that_never_end() {
    let authority = Authority::new();
    let server = start_with(Fake::new(), |options| {
        options.tls = Some(authority.server());
        options.limits.max_handshakes = 50;
    })
    .await;
    let mut slow = Vec::new();
    for number in 0..400 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(&[22, 3, 1, 0x40]).await.unwrap();
        }
        slow.push(stream);
    }
    let probe = async { probe(connect(server.address, &authority.pem()).await).await.unwrap() };
    let answer = tokio::time::timeout(Duration::from_secs(1), probe).await.unwrap();
    assert!(answer.ends_with("alive\n"));
    // Those that took longest made room.
    assert_eq!(read_to_end(&mut slow[0]).await, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_answered_beside_silent_connections_that_have_shaken_hands() {
    let authority = Authority::new();
    let server = start_with(Fake::new(), |options| {
        options.tls = Some(authority.server());
        // Their number is what is tried here, not how long they may be silent.
        options.limits.header_timeout = Duration::from_secs(600);
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..silent_connections() {
        silent.push(connect(server.address, &authority.pem()).await);
    }
    let probe = async { probe(connect(server.address, &authority.pem()).await).await.unwrap() };
    let answer = tokio::time::timeout(Duration::from_secs(1), probe).await.unwrap();
    assert!(answer.ends_with("alive\n"));
}

// Reliability Q16: while the floods go on, and not only behind them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_answered_while_floods_come_through_tls() {
    let authority = Authority::new();
    let server = start_tls(authority.server()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let pouring: Vec<_> = floods()
        .into_iter()
        .map(|flood| {
            let (stop, address, ca) = (stop.clone(), server.address, authority.pem());
            tokio::spawn(async move {
                let mut poured = 0u32;
                while !stop.load(Ordering::Relaxed) || poured == 0 {
                    let stream = connect_as(address, &ca, None, &[&TLS13], &["h2"]).await.unwrap();
                    pour(stream, flood.clone()).await;
                    poured += 1;
                }
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..20 {
        let begun = tokio::time::Instant::now();
        assert!(
            probe(connect(server.address, &authority.pem()).await)
                .await
                .unwrap()
                .ends_with("alive\n")
        );
        slowest = slowest.max(begun.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    for flood in pouring {
        flood.await.unwrap();
    }
    assert!(slowest < Duration::from_secs(1), "a probe took {slowest:?}");
    assert_eq!(server.fake.take_called(), [""; 0]);
}

#[tokio::test]
async fn handshakes_that_fail_are_counted_by_their_reason() {
    let authority = Authority::new();
    let server = start_tls(authority.server()).await;
    let count = async |reason: &str| {
        let page = server.get_tls("/metrics", &authority.pem()).await;
        let line = format!("confold_server_handshakes_failed_total{{reason=\"{reason}\"}} ");
        let found = page.lines().find_map(|text| text.strip_prefix(&line));
        found.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    let (plaintext, refused) = (count("plaintext").await, count("refused").await);
    server.raw(b"GET / HTTP/1.1\r\n\r\n").await;
    let stranger = Authority::new();
    connect_as(server.address, &stranger.pem(), None, &[&TLS13], &[])
        .await
        .unwrap_err();
    let counted = async { while count("plaintext").await == plaintext || count("refused").await == refused {} };
    tokio::time::timeout(Duration::from_secs(10), counted).await.unwrap();
}
