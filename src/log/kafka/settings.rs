//! What the Kafka client is told. Whatever the correctness of the log rests on is set here and cannot be overridden; how the
//! brokers are reached, and as whom (TLS, SASL, sockets), passes through. Nothing else does.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;

/// Room for key, headers and framing beside a record of the biggest size: what a topic has to take over and above it.
pub const RECORD_ROOM: usize = 1 << 20;

/// Which brokers, and how they are reached. Printing it shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientSettings {
    brokers: String,
    properties: BTreeMap<String, String>,
}

/// A property that cannot be passed through, or brokers that cannot be reached with it. Holds no secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the Kafka property {name} cannot be used: {why}")]
pub struct SettingsError {
    pub name: String,
    pub why: String,
}

/// What passes through.
const PASSED: [(&str, Shown); 33] = [
    ("security.protocol", Shown::Yes),
    ("sasl.mechanism", Shown::Yes),
    ("sasl.mechanisms", Shown::Yes),
    ("sasl.username", Shown::Yes),
    ("sasl.password", Shown::No),
    ("ssl.ca.location", Shown::Yes),
    ("ssl.ca.pem", Shown::No),
    ("ssl.certificate.location", Shown::Yes),
    ("ssl.certificate.pem", Shown::No),
    ("ssl.key.location", Shown::Yes),
    ("ssl.key.password", Shown::No),
    ("ssl.key.pem", Shown::No),
    ("ssl.keystore.location", Shown::Yes),
    ("ssl.keystore.password", Shown::No),
    ("ssl.crl.location", Shown::Yes),
    ("ssl.cipher.suites", Shown::Yes),
    ("ssl.curves.list", Shown::Yes),
    ("ssl.sigalgs.list", Shown::Yes),
    ("client.id", Shown::Yes),
    ("client.rack", Shown::Yes),
    ("client.dns.lookup", Shown::Yes),
    ("broker.address.family", Shown::Yes),
    ("broker.address.ttl", Shown::Yes),
    ("connections.max.idle.ms", Shown::Yes),
    ("socket.timeout.ms", Shown::Yes),
    ("socket.connection.setup.timeout.ms", Shown::Yes),
    ("socket.send.buffer.bytes", Shown::Yes),
    ("socket.receive.buffer.bytes", Shown::Yes),
    ("socket.nagle.disable", Shown::Yes),
    ("metadata.max.age.ms", Shown::Yes),
    ("metadata.recovery.strategy", Shown::Yes),
    ("metadata.recovery.rebootstrap.trigger.ms", Shown::Yes),
    ("topic.metadata.refresh.fast.interval.ms", Shown::Yes),
];

/// Whether a value may be printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Yes,
    No,
}

/// For every client.
const COMMON: [(&str, &str); 10] = [
    // A broker that cannot show who it is gets no record and is believed nothing.
    ("enable.ssl.certificate.verification", "true"),
    ("ssl.endpoint.identification.algorithm", "https"),
    ("allow.auto.create.topics", "false"),
    ("socket.keepalive.enable", "true"),
    ("topic.metadata.refresh.interval.ms", "30000"),
    // After a broker has come back, it is found within a second.
    ("reconnect.backoff.ms", "50"),
    ("reconnect.backoff.max.ms", "1000"),
    ("retry.backoff.ms", "50"),
    ("retry.backoff.max.ms", "500"),
    ("enable.metrics.push", "false"),
];

const CONSUMER: [(&str, &str); 9] = [
    // Anything else skips what was lost, in silence.
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    ("check.crcs", "true"),
    ("isolation.level", "read_committed"),
    ("fetch.min.bytes", "1"),
    ("fetch.error.backoff.ms", "50"),
    ("fetch.queue.backoff.ms", "20"),
];

const PRODUCER: [(&str, &str); 4] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("linger.ms", "0"),
    ("queue.buffering.max.messages", "0"),
];

/// Set from the options of the log.
const OURS: [&str; 8] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "transactional.id",
    "message.timeout.ms",
    "message.max.bytes",
    "receive.message.max.bytes",
    "queue.buffering.max.kbytes",
];

impl ClientSettings {
    /// `brokers` is HOST:PORT, several separated by commas.
    pub fn new(brokers: impl Into<String>) -> ClientSettings {
        ClientSettings {
            brokers: brokers.into(),
            properties: BTreeMap::new(),
        }
    }

    /// Settings from NAME=VALUE words of a command line, checked together. Everybody on a machine can see its command lines,
    /// so secrets come as files, as in `sasl.password.file=PATH`.
    pub fn from_words<'a>(
        brokers: &str,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<ClientSettings, SettingsError> {
        let mut settings = ClientSettings::new(brokers);
        for word in words {
            let (name, value) = word
                .split_once('=')
                .map(|(name, value)| (name.trim(), value.trim()))
                .ok_or_else(|| refuse(word, "it has no value: write NAME=VALUE"))?;
            if PASSED.contains(&(name, Shown::No)) {
                return Err(refuse(
                    name,
                    format!("command lines can be seen by all: write {name}.file=PATH"),
                ));
            }
            settings = settings.with(name, value)?;
        }
        settings.check()?;
        Ok(settings)
    }

    /// Takes properties from a file: NAME=VALUE a line; empty lines and lines that begin with `#` say nothing. A file with a
    /// secret in it must be readable by its owner only.
    pub fn with_file(mut self, path: &Path) -> Result<ClientSettings, SettingsError> {
        let text = read(path).map_err(|why| refuse(&path.display().to_string(), why))?;
        let lines = text.lines().map(str::trim).enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let at = format!("line {} of {}", index + 1, path.display());
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| refuse(&at, "it has no value: write NAME=VALUE"))?;
            let (name, value) = (name.trim(), value.trim());
            if is_secret(name) {
                only_for_its_owner(path).map_err(|why| refuse(name, why))?;
            }
            self = self.with(name, value)?;
        }
        Ok(self)
    }

    /// Whether a value of this property is a secret; one of a file's name (`.file`) is not.
    pub fn is_secret(name: &str) -> bool {
        PASSED.contains(&(name, Shown::No))
    }

    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Who the brokers are told this is, as far as the settings say.
    pub fn user(&self) -> Option<&str> {
        self.properties.get("sasl.username").map(String::as_str)
    }

    /// Whether what goes to the brokers is encrypted, and they have to show who they are.
    pub fn encrypted(&self) -> bool {
        matches!(self.protocol().as_str(), "ssl" | "sasl_ssl")
    }

    fn protocol(&self) -> String {
        let set = self.properties.get("security.protocol");
        set.map_or("plaintext".to_owned(), |protocol| protocol.to_lowercase())
    }

    /// Whether all brokers given are on this machine, by their names. Where brokers say they are is another matter.
    pub fn only_loopback(&self) -> bool {
        self.brokers.split(',').all(|broker| is_loopback(host(broker.trim())))
    }

    /// Passes one property on; its name and value are those of librdkafka. With `.file` behind a secret's name the value is the
    /// path of a file that holds the secret, readable by its owner only: `sasl.password.file`.
    pub fn with(mut self, name: &str, value: &str) -> Result<ClientSettings, SettingsError> {
        if let Some(secret) = name.strip_suffix(".file").filter(|secret| is_secret(secret)) {
            let path = Path::new(value);
            let content = only_for_its_owner(path)
                .and_then(|()| read(path))
                .map_err(|why| refuse(name, why))?;
            return self.with(secret, content.trim_end_matches(['\r', '\n']));
        }
        let fixed = [&COMMON[..], &CONSUMER, &PRODUCER].concat();
        if fixed.iter().any(|(ours, _)| *ours == name) || OURS.contains(&name) {
            return Err(refuse(
                name,
                "what it does to the log is not left to chance, so confold sets it itself",
            ));
        }
        if !PASSED.iter().any(|(passed, _)| *passed == name) {
            return Err(refuse(name, unknown(name)));
        }
        if name == "sasl.mechanism" || name == "sasl.mechanisms" {
            if !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&value) {
                return Err(refuse(name, "confold can do SCRAM-SHA-512, SCRAM-SHA-256 and PLAIN"));
            }
            // Two names for one thing.
            self.properties.insert("sasl.mechanism".to_owned(), value.to_owned());
            return Ok(self);
        }
        // The library's own complaint would repeat the value.
        if ClientConfig::new().set(name, value).create_native_config().is_err() {
            let shown = if is_secret(name) {
                "the value given".to_owned()
            } else {
                format!("{value:?}")
            };
            return Err(refuse(name, format!("the Kafka client does not take {shown}")));
        }
        self.properties.insert(name.to_owned(), value.to_owned());
        Ok(self)
    }

    /// Whether the settings make sense together: above all, that nobody believes to be safe who is not.
    pub fn check(&self) -> Result<(), SettingsError> {
        for broker in self.brokers.split(',') {
            let port = broker
                .trim()
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse::<u16>().ok());
            if host(broker.trim()).is_empty() || port.is_none() {
                return Err(refuse(
                    "bootstrap.servers",
                    format!("{broker:?} is not HOST:PORT; several are separated by commas"),
                ));
            }
        }
        let has = |begin: &str| self.properties.keys().find(|name| name.starts_with(begin));
        if let (false, Some(name)) = (self.encrypted(), has("ssl.")) {
            return Err(refuse(
                name,
                format!(
                    "security.protocol is {}, so nothing would be encrypted; set security.protocol=ssl or sasl_ssl",
                    self.protocol()
                ),
            ));
        }
        for name in ["ssl.key.location", "ssl.keystore.location"] {
            if let Some(path) = self.properties.get(name) {
                only_for_its_owner(Path::new(path)).map_err(|why| refuse(name, why))?;
            }
        }
        let sasl = self.protocol().starts_with("sasl_");
        if let (false, Some(name)) = (sasl, has("sasl.")) {
            return Err(refuse(
                name,
                format!(
                    "security.protocol is {}, so nobody would log in; set security.protocol=sasl_ssl",
                    self.protocol()
                ),
            ));
        }
        if sasl {
            for name in ["sasl.mechanism", "sasl.username", "sasl.password"] {
                if !self.properties.contains_key(name) {
                    return Err(refuse(name, format!("security.protocol={} needs it", self.protocol())));
                }
            }
            if self.properties["sasl.mechanism"] == "PLAIN" && !self.encrypted() {
                return Err(refuse(
                    "sasl.mechanism",
                    "PLAIN without TLS sends the password in the clear; set security.protocol=sasl_ssl",
                ));
            }
        }
        Ok(())
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", "confold");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        set_all(&mut config, &COMMON);
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    pub(crate) fn consumer(&self, record_bytes: usize) -> ClientConfig {
        let mut config = self.client();
        set_all(&mut config, &CONSUMER);
        let most = record_bytes.saturating_add(RECORD_ROOM);
        config.set("message.max.bytes", most.to_string());
        config.set(
            "receive.message.max.bytes",
            (most.max(64 << 20) + (64 << 20)).to_string(),
        );
        config
    }

    pub(crate) fn producer(&self, record_bytes: usize, message_timeout: Duration) -> ClientConfig {
        let mut config = self.client();
        set_all(&mut config, &PRODUCER);
        config.set(
            "message.max.bytes",
            record_bytes.saturating_add(RECORD_ROOM).to_string(),
        );
        config.set("message.timeout.ms", message_timeout.as_millis().max(1).to_string());
        // The log counts by itself what waits; this bound is never met.
        config.set("queue.buffering.max.kbytes", i32::MAX.to_string());
        config
    }
}

impl fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ClientSettings");
        shown.field("brokers", &self.brokers);
        for (name, value) in &self.properties {
            shown.field(name, if is_secret(name) { &"(not shown)" } else { value });
        }
        shown.finish()
    }
}

fn set_all(config: &mut ClientConfig, properties: &[(&str, &str)]) {
    for (name, value) in properties {
        config.set(*name, *value);
    }
}

fn refuse(name: &str, why: impl Into<String>) -> SettingsError {
    SettingsError {
        name: name.to_owned(),
        why: why.into(),
    }
}

/// Not known means secret.
fn is_secret(name: &str) -> bool {
    !PASSED
        .iter()
        .any(|(passed, shown)| *passed == name && *shown == Shown::Yes)
}

/// Why a property that does not pass through does not.
fn unknown(name: &str) -> String {
    if name.starts_with("sasl.oauthbearer.") || name.starts_with("sasl.kerberos.") {
        "confold logs in with SCRAM-SHA-512, SCRAM-SHA-256, PLAIN or a client certificate".to_owned()
    } else if ["sasl.jaas.config", "ssl.truststore.location", "ssl.truststore.password"].contains(&name) {
        "it belongs to Java clients; here it is sasl.username and sasl.password, and ssl.ca.location with a PEM file"
            .to_owned()
    } else {
        let passed: Vec<&str> = PASSED.iter().map(|(passed, _)| *passed).collect();
        format!("only these pass through: {}", passed.join(", "))
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

fn only_for_its_owner(path: &Path) -> Result<(), String> {
    let facts = std::fs::metadata(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let mode = facts.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(format!(
        "{path} holds a secret and not only its owner can reach it (mode {mode:03o}): chmod 600 {path}"
    ))
}

/// The host of HOST:PORT, `[HOST]:PORT` or SCHEME://HOST:PORT.
fn host(broker: &str) -> &str {
    let address = broker.rsplit("//").next().unwrap_or(broker);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a host is this machine, by its name or address.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker() -> ClientSettings {
        ClientSettings::new("broker:9092")
    }

    fn file(mode: u32, text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn what_the_log_rests_on_cannot_be_passed_through() {
        let fixed = [&COMMON[..], &CONSUMER, &PRODUCER].concat();
        let fixed = fixed.iter().map(|(name, _)| *name).chain(OURS);
        for name in fixed.chain(["compression.codec", "debug", "plugin.library.paths", "nonsense"]) {
            let refused = broker().with(name, "false").unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
        let settings = broker().with("security.protocol", "ssl").unwrap();
        for config in [settings.consumer(1000), settings.producer(1000, Duration::from_secs(1))] {
            assert_eq!(config.get("security.protocol"), Some("ssl"));
            assert_eq!(config.get("enable.ssl.certificate.verification"), Some("true"));
            assert_eq!(config.get("ssl.endpoint.identification.algorithm"), Some("https"));
            assert_eq!(config.get("bootstrap.servers"), Some("broker:9092"));
        }
        assert_eq!(settings.consumer(1000).get("auto.offset.reset"), Some("error"));
    }

    #[test]
    fn what_passes_through_is_known_to_the_client_library() {
        for (name, _) in PASSED {
            // A wrong value is another complaint than a name that is not known.
            if let Err(error) = ClientConfig::new().set(name, "x").create_native_config() {
                assert!(!error.to_string().contains("No such configuration property"), "{error}");
            }
        }
        let unknown = ClientConfig::new().set("nonsense", "x").create_native_config();
        let unknown = unknown.map(|_| ()).unwrap_err().to_string();
        assert!(unknown.contains("No such configuration property"), "{unknown}");
        broker().consumer(16 << 20).create_native_config().unwrap();
        broker()
            .producer(16 << 20, Duration::from_secs(30))
            .create_native_config()
            .unwrap();
    }

    // Q21
    #[test]
    fn no_secret_is_ever_printed() {
        let secrets = [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.certificate.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.client.credentials.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
            "sasl.oauthbearer.extensions",
            "sasl.jaas.config",
            "ssl.truststore.password",
        ];
        for name in secrets {
            let text = match broker().with(name, "hunter2") {
                Ok(settings) => format!("{settings:?} {:?}", settings.check()),
                Err(refused) => format!("{refused} {refused:?}"),
            };
            assert!(text.contains(name) && !text.contains("hunter2"), "{text}");
        }
        let text = format!("{:?}", broker().with("ssl.ca.location", "/etc/ca.pem").unwrap());
        assert!(text.contains("/etc/ca.pem"), "{text}");
    }

    #[test]
    fn secrets_come_from_files_that_only_their_owner_reads() {
        let password = file(0o600, "hunter2\n");
        let name = password.path().display().to_string();
        let settings = broker().with("sasl.password.file", &name).unwrap();
        assert_eq!(settings.properties["sasl.password"], "hunter2");
        for mode in [0o644, 0o640, 0o604] {
            let password = file(mode, "hunter2\n");
            let refused = broker()
                .with("sasl.password.file", &password.path().display().to_string())
                .unwrap_err();
            assert!(refused.to_string().contains("chmod 600"), "{refused}");
            let all = file(mode, "# ours\nsasl.password = hunter2\n");
            let refused = broker().with_file(all.path()).unwrap_err();
            assert!(
                refused.to_string().contains("chmod 600") && !refused.to_string().contains("hunter2"),
                "{refused}"
            );
        }
        let open = file(0o644, "\n# no secret here\nclient.id = net\n");
        assert_eq!(broker().with_file(open.path()).unwrap().properties["client.id"], "net");
        let refused = broker().with_file(Path::new("/nowhere")).unwrap_err();
        assert!(refused.to_string().contains("/nowhere cannot be read"), "{refused}");
        let refused = ClientSettings::from_words("b:1", ["sasl.password=hunter2"]).unwrap_err();
        assert!(
            refused.to_string().contains("sasl.password.file=PATH") && !refused.to_string().contains("hunter2"),
            "{refused}"
        );
    }

    #[test]
    fn nobody_believes_to_be_safe_who_is_not() {
        let key = file(0o640, "");
        let key = format!("ssl.key.location={}", key.path().display());
        let password = file(0o600, "p");
        let password = format!("sasl.password.file={}", password.path().display());
        let rows: [(&[&str], &str); 8] = [
            (&["ssl.ca.location=/etc/ca.pem"], "nothing would be encrypted"),
            (
                &["security.protocol=sasl_plaintext", "ssl.ca.location=/x"],
                "nothing would be encrypted",
            ),
            (&["sasl.username=net"], "nobody would log in"),
            (&["security.protocol=ssl", &password], "nobody would log in"),
            (
                &["security.protocol=sasl_ssl", "sasl.mechanism=SCRAM-SHA-512", &password],
                "sasl.username",
            ),
            (
                &[
                    "security.protocol=sasl_plaintext",
                    "sasl.mechanism=PLAIN",
                    "sasl.username=net",
                    &password,
                ],
                "in the clear",
            ),
            (
                &["security.protocol=sasl_ssl", "sasl.mechanism=OAUTHBEARER"],
                "SCRAM-SHA-512",
            ),
            (&["security.protocol=ssl", &key], "chmod 600"),
        ];
        for (words, says) in rows {
            let refused = ClientSettings::from_words("broker:9092", words.iter().copied()).unwrap_err();
            assert!(refused.to_string().contains(says), "{words:?}: {refused}");
        }
        for brokers in ["", "broker", "broker:", ":9092", "a:1,,b:2", "a:1,b:99999"] {
            let refused = ClientSettings::from_words(brokers, []).unwrap_err();
            assert!(refused.to_string().contains("HOST:PORT"), "{brokers}: {refused}");
        }
        ClientSettings::from_words("a:1, [::1]:2,SASL_SSL://c:3", []).unwrap();
    }

    #[test]
    fn loopback_is_told_by_every_broker() {
        for (brokers, loopback) in [
            ("localhost:1,127.0.0.1:2,[::1]:3,127.9.9.9:4", true),
            ("localhost:1,broker:2", false),
            ("127.0.0.1.example:1", false),
            ("0.0.0.0:1", false),
            ("", false),
        ] {
            assert_eq!(ClientSettings::new(brokers).only_loopback(), loopback, "{brokers}");
        }
    }
}
