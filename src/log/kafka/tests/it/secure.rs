//! SASL and TLS towards a real broker, and what its access rules keep out (Q12).

use confold_log_kafka::{Admin, ClientSettings, NewTopic, Severity, TopicError, Wanted};
use confold_test_brokers::{Cluster, Setup, fresh_name, until};
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(30);
const WANTED: Wanted = Wanted {
    max_event_bytes: 1 << 20,
    dev_unsafe: true,
};

/// One broker with users `store` and `reader`, TLS on both listeners, and nothing allowed that was not granted.
fn cluster() -> &'static Cluster {
    static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
        let sasl = ["store", "reader"].map(str::to_owned).to_vec();
        Cluster::start(Setup {
            sasl,
            tls: true,
            acl: true,
            ..Setup::default()
        })
    });
    &CLUSTER
}

fn password_file(password: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, password).unwrap();
    file
}

/// SCRAM over TLS, as on a command line.
fn login(brokers: &str, user: &str, password: &str, ca: &str) -> ClientSettings {
    let password = password_file(password);
    let words = [
        "security.protocol=sasl_ssl".to_owned(),
        "sasl.mechanism=SCRAM-SHA-512".to_owned(),
        format!("sasl.username={user}"),
        format!("sasl.password.file={}", password.path().display()),
        format!("ssl.ca.location={}", cluster().tls_file(ca).display()),
    ];
    ClientSettings::from_words(brokers, words.iter().map(String::as_str)).unwrap()
}

fn login_of(user: &str) -> ClientSettings {
    login(&cluster().bootstrap_sasl(), user, &cluster().password(user), "ca.pem")
}

fn client_certificate(brokers: &str) -> ClientSettings {
    let file = |name: &str| cluster().tls_file(name).display().to_string();
    let words = [
        "security.protocol=ssl".to_owned(),
        format!("ssl.ca.location={}", file("ca.pem")),
        format!("ssl.certificate.location={}", file("client.pem")),
        format!("ssl.key.location={}", file("client.key")),
    ];
    ClientSettings::from_words(brokers, words.iter().map(String::as_str)).unwrap()
}

/// A topic as confold makes it, and rights on it.
fn topic(principal: &str, operations: &[&str]) -> String {
    let name = fresh_name("secure");
    let super_user = Admin::new(&ClientSettings::new(cluster().bootstrap()), WAIT).unwrap();
    super_user
        .create_topic(&NewTopic {
            replication: 1,
            min_insync: 1,
            ..NewTopic::new(&name, 1 << 20)
        })
        .unwrap();
    grant(&name, principal, operations);
    name
}

fn grant(topic: &str, principal: &str, operations: &[&str]) {
    let mut words = vec!["--add", "--topic", topic, "--allow-principal", principal];
    words.extend(operations.iter().flat_map(|operation| ["--operation", *operation]));
    cluster().tool("acls", &words);
}

#[test]
fn scram_over_tls_and_client_certificates_are_let_in() {
    let name = topic("User:store", &["Describe", "DescribeConfigs"]);
    let admin = Admin::new(&login_of("store"), WAIT).unwrap();
    let found = admin.preflight(&name, WANTED).unwrap();
    assert_eq!(found.refusal(), None);
    let tls = found
        .findings
        .iter()
        .find(|one| one.setting == "security.protocol")
        .unwrap();
    assert_eq!((tls.severity, tls.value.as_str()), (Severity::Fine, "with TLS"));

    grant(&name, "User:CN=confold", &["Describe", "DescribeConfigs"]);
    let admin = Admin::new(&client_certificate(&cluster().bootstrap_tls()), WAIT).unwrap();
    assert_eq!(admin.preflight(&name, WANTED).unwrap().refusal(), None);
}

#[test]
fn whoever_cannot_show_who_he_is_learns_why() {
    let by_address = cluster().bootstrap_sasl().replace("localhost", "127.0.0.1");
    let password = cluster().password("store");
    let brokers = cluster().bootstrap_sasl();
    let ca = format!("ssl.ca.location={}", cluster().tls_file("ca.pem").display());
    let anonymous = ["security.protocol=ssl", &ca];
    let rows = [
        (
            "wrong password",
            login(&brokers, "store", "hunter2", "ca.pem"),
            "look at sasl.username, sasl.password",
        ),
        (
            "no such user",
            login(&brokers, "nobody", &password, "ca.pem"),
            "look at sasl.username, sasl.password",
        ),
        (
            "wrong authority",
            login(&brokers, "store", &password, "other-ca.pem"),
            "did not sign the broker's certificate",
        ),
        (
            "wrong host name",
            login(&by_address, "store", &password, "ca.pem"),
            "or the certificate is for another name",
        ),
        (
            "no client certificate",
            ClientSettings::from_words(&cluster().bootstrap_tls(), anonymous).unwrap(),
            "did not accept this client's certificate",
        ),
        (
            "no TLS to a TLS port",
            ClientSettings::new(&brokers),
            "does security.protocol fit it?",
        ),
        (
            "TLS to a port without",
            client_certificate(&cluster().bootstrap()),
            "does security.protocol fit it?",
        ),
    ];
    for (what, settings, says) in rows {
        let began = Instant::now();
        let admin = Admin::new(&settings, Duration::from_secs(5)).unwrap();
        let refused = admin.preflight("net", WANTED).unwrap_err().to_string();
        assert!(refused.contains(says), "{what}: {refused}");
        assert!(
            !refused.contains(&password) && !refused.contains("hunter2"),
            "{what}: {refused}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(15),
            "{what}: {:?}",
            began.elapsed()
        );
    }
}

#[test]
fn missing_rights_are_named_with_the_operation_to_grant() {
    let name = topic("User:reader", &["Read"]);
    let admin = Admin::new(&login_of("store"), WAIT).unwrap();
    let refused = admin.preflight(&name, WANTED).unwrap_err();
    assert!(
        matches!(
            refused,
            TopicError::Denied {
                operation: "Describe",
                ..
            }
        ),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("do not allow User:store to look at"),
        "{refused}"
    );
    let refused = admin
        .create_topic(&NewTopic {
            replication: 1,
            min_insync: 1,
            ..NewTopic::new("mine", 1 << 20)
        })
        .unwrap_err();
    assert!(
        matches!(
            refused,
            TopicError::Denied {
                operation: "Create",
                ..
            }
        ),
        "{refused}"
    );

    // Reading a topic includes seeing it, but not its settings.
    let admin = Admin::new(&login_of("reader"), WAIT).unwrap();
    let strict = Wanted {
        dev_unsafe: false,
        ..WANTED
    };
    until("the right counts", || admin.preflight(&name, strict).is_ok());
    let refusal = admin.preflight(&name, strict).unwrap().refusal().unwrap_or_default();
    assert!(
        refusal.contains("do not allow User:reader to read the topic's settings"),
        "{refusal}"
    );
    assert!(refusal.contains("DescribeConfigs"), "{refusal}");
}

// Q12
#[test]
fn only_who_has_the_right_to_write_appends_and_nobody_in_a_transaction() {
    let name = topic("User:store", &["Read", "Write", "DescribeConfigs"]);
    grant(&name, "User:reader", &["Read"]);
    let user = |user: &str| {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", cluster().bootstrap_sasl())
            .set("security.protocol", "sasl_ssl")
            .set("sasl.mechanism", "SCRAM-SHA-512")
            .set("sasl.username", user)
            .set("sasl.password", cluster().password(user))
            .set("ssl.ca.location", cluster().tls_file("ca.pem").display().to_string())
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "20000");
        config
    };
    // An idempotent producer would not even get its number.
    let mut reader = user("reader");
    reader.set("enable.idempotence", "false");
    assert_eq!(append(&reader, &name), Err(RDKafkaErrorCode::TopicAuthorizationFailed));
    assert_eq!(cluster().offsets(&name), (0, 0));
    assert_eq!(append(&user("store"), &name), Ok(()));
    assert_eq!(cluster().offsets(&name), (0, 1));

    let mut transactional = user("store");
    transactional.set("transactional.id", "anything");
    let producer: BaseProducer = transactional.create().unwrap();
    match producer.init_transactions(WAIT) {
        Err(KafkaError::Transaction(error)) => {
            assert_eq!(error.code(), RDKafkaErrorCode::TransactionalIdAuthorizationFailed)
        }
        other => panic!("transactions are denied, not {other:?}"),
    }
}

struct Reports(mpsc::Sender<Result<(), RDKafkaErrorCode>>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let report = result
            .as_ref()
            .map(|_| ())
            .map_err(|(error, _)| error.rdkafka_error_code().unwrap());
        let _ = self.0.send(report);
    }
}

/// What becomes of one record.
fn append(config: &ClientConfig, topic: &str) -> Result<(), RDKafkaErrorCode> {
    let (told, reports) = mpsc::channel();
    let producer: BaseProducer<Reports> = config.create_with_context(Reports(told)).unwrap();
    producer
        .send(BaseRecord::<[u8], [u8]>::to(topic).partition(0).payload(b"record"))
        .map_err(|(error, _)| error)
        .unwrap();
    let began = Instant::now();
    loop {
        producer.poll(Duration::from_millis(50));
        if let Ok(report) = reports.try_recv() {
            return report;
        }
        assert!(began.elapsed() < WAIT, "no report");
    }
}
