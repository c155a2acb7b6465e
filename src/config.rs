//! `confold.toml`: which log a data folder stands on, and how a server runs. docs/configuration.md is the reference.
//!
//! A key that is not known is refused with its name and line: a setting that is misspelt must not be a setting that is
//! silently not made. Secrets never stand here, only the names of files that hold them.

use confold_log_kafka::{ClientSettings, SettingsError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

/// The file's name in a data folder and in a folder of stores.
pub const NAME: &str = "confold.toml";

/// Variables that begin so are settings of the Kafka client: `CONFOLD_KAFKA_SASL_PASSWORD` is `sasl.password`.
const KAFKA_VARIABLES: &str = "CONFOLD_KAFKA_";

#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Absent: the embedded log, in `log/` beside this file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub server: Server,
}

/// A log on a topic. In a folder of stores: what the stores that are made there have in common.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// HOST:PORT, several separated by commas.
    pub brokers: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// What the store is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Which store has to stand there, in hex: a topic that holds another one is never folded into this folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_id: Option<String>,
    /// The biggest event of the store, as its genesis says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_event_bytes: Option<u64>,
    /// Alarm where a topic would be refused, as long as every broker is on this machine.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dev_unsafe: bool,
    /// A file of settings of the Kafka client, NAME=VALUE a line; readable by its owner only where a secret is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings_file: Option<PathBuf>,
    /// The same written out here; no secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// How `confold serve` runs where neither a flag nor the environment says so.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Server {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Health and metrics on an address of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_bytes: Option<u64>,
    /// Names that may make, open and close stores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub admin: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_dispute: Option<OnDispute>,
    /// What each caller may take of each store; bytes of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_in_flight: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_second: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub client_common_name: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub require_token: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub insecure: bool,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum OnDispute {
    Serve,
    Stop,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0} cannot be read: {1}")]
    Unreadable(PathBuf, io::Error),
    #[error("{0} cannot be written: {1}")]
    Unwritable(PathBuf, io::Error),
    /// The parser's text has line and column.
    #[error("{0}: {1}")]
    Wrong(PathBuf, String),
    #[error("{0}: {1}")]
    Settings(PathBuf, SettingsError),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Config {
    /// Of a folder; one without the file has an empty configuration. Relative names in it are relative to the folder.
    pub fn of_folder(dir: &Path) -> Result<Config, ConfigError> {
        let file = dir.join(NAME);
        match Config::read(&file) {
            Err(ConfigError::Unreadable(_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
            read => read,
        }
    }

    pub fn read(file: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|error| ConfigError::Unreadable(file.to_owned(), error))?;
        let wrong = |what: String| ConfigError::Wrong(file.to_owned(), what);
        let mut config: Config = toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        let dir = file.parent().unwrap_or(Path::new(""));
        let names = config.kafka.iter_mut().filter_map(|kafka| kafka.settings_file.as_mut());
        let server = &mut config.server;
        let files = [&mut server.tls_cert, &mut server.tls_key, &mut server.client_ca];
        for name in names.chain(files.into_iter().flatten()) {
            *name = dir.join(&*name);
        }
        if let Some(kafka) = &config.kafka
            && let Some(secret) = kafka.settings.keys().find(|name| ClientSettings::is_secret(name))
        {
            return Err(wrong(format!(
                "kafka.settings: {secret} is a secret, and this file is not: put it into a file of its own and name that in \
                 settings_file, or set {}",
                variable(secret)
            )));
        }
        Ok(config)
    }

    /// Replaces the file in one step.
    pub fn write(&self, dir: &Path) -> Result<(), ConfigError> {
        let file = dir.join(NAME);
        let text = toml::to_string(self).map_err(|error| ConfigError::Wrong(file.clone(), error.to_string()))?;
        let head = "# Which log this folder stands on, and how a server runs: docs/configuration.md.\n";
        replace(&file, format!("{head}{text}").as_bytes())
            .map_err(|error| ConfigError::Unwritable(file.clone(), error))
    }
}

impl Kafka {
    /// Everything that the client is told: the file, what is written out here, and the environment, which wins.
    pub fn client(&self, dir: &Path) -> Result<ClientSettings, ConfigError> {
        self.client_with(dir, std::env::vars())
    }

    fn client_with(&self, dir: &Path, environment: impl Iterator<Item = (String, String)>) -> Result<ClientSettings, ConfigError> {
        let wrong = |error| ConfigError::Settings(dir.join(NAME), error);
        let mut settings = ClientSettings::new(&self.brokers);
        if let Some(file) = &self.settings_file {
            settings = settings.with_file(file).map_err(wrong)?;
        }
        for (name, value) in &self.settings {
            settings = settings.with(name, value).map_err(wrong)?;
        }
        let mut named: Vec<(String, String)> = environment.filter_map(|(name, value)| Some((property(&name)?, value))).collect();
        named.sort();
        for (name, value) in named {
            settings = settings.with(&name, &value).map_err(wrong)?;
        }
        settings.check().map_err(wrong)?;
        Ok(settings)
    }
}

/// Writes a file so that it is there as a whole, old or new, whatever happens.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(bytes)?;
    new.as_file().sync_all()?;
    new.persist(file).map_err(|error| error.error)?;
    std::fs::File::open(dir)?.sync_all()
}

fn property(variable: &str) -> Option<String> {
    let name = variable.strip_prefix(KAFKA_VARIABLES)?;
    Some(name.to_ascii_lowercase().replace('_', "."))
}

fn variable(property: &str) -> String {
    format!("{KAFKA_VARIABLES}{}", property.to_ascii_uppercase().replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(NAME), text).unwrap();
        let read = Config::of_folder(dir.path());
        read.map_err(|error| error.to_string().replace(&dir.path().display().to_string(), "DIR"))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let config = Config {
            kafka: Some(Kafka {
                brokers: "a:9092,b:9092".to_owned(),
                topic: Some("net".to_owned()),
                store: Some("net".to_owned()),
                log_id: Some("ab".repeat(16)),
                max_event_bytes: Some(16 << 20),
                dev_unsafe: true,
                settings_file: Some("/etc/confold/kafka".into()),
                settings: [("security.protocol".to_owned(), "ssl".to_owned())].into(),
            }),
            server: Server {
                listen: Some("127.0.0.1:7000".parse().unwrap()),
                metrics_listen: Some("[::1]:9411".parse().unwrap()),
                admin: vec!["ops".to_owned()],
                on_dispute: Some(OnDispute::Stop),
                calls_per_second: NonZeroU32::new(500),
                require_token: true,
                ..Server::default()
            },
        };
        let dir = tempfile::tempdir().unwrap();
        config.write(dir.path()).unwrap();
        assert_eq!(Config::of_folder(dir.path()).unwrap(), config);
        assert_eq!(Config::of_folder(&dir.path().join("nothing")).unwrap(), Config::default());
    }

    #[test]
    fn names_of_files_are_relative_to_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[kafka]\nbrokers = 'a:1'\nsettings_file = 'kafka.properties'\n[server]\ntls_key = '/etc/key.pem'\n";
        std::fs::write(dir.path().join(NAME), text).unwrap();
        let config = Config::of_folder(dir.path()).unwrap();
        assert_eq!(config.kafka.unwrap().settings_file.unwrap(), dir.path().join("kafka.properties"));
        assert_eq!(config.server.tls_key.unwrap(), Path::new("/etc/key.pem"));
    }

    #[test]
    fn a_mistake_is_refused_with_its_name_and_line() {
        for (text, parts) in [
            ("[kafka]\nbrokers = 'a:1'\ntopik = 'net'\n", &["line 3", "topik", "topic"][..]),
            ("[log]\n", &["line 1", "log", "kafka"]),
            ("[kafka]\ntopic = 'net'\n", &["brokers"]),
            ("[server]\nlisten = 'here'\n", &["line 2", "listen"]),
            ("[server]\non_dispute = 'fight'\n", &["line 2", "fight", "stop"]),
            ("[server]\ncalls_in_flight = 0\n", &["line 2", "calls_in_flight"]),
            ("kafka = [", &["line 1"]),
            ("[kafka]\nbrokers = 'a:1'\nsettings = {'sasl.password' = 'x'}\n", &["sasl.password", "CONFOLD_KAFKA_SASL_PASSWORD"]),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with("DIR/confold.toml: "), "{error}");
            parts.iter().for_each(|part| assert!(error.contains(part), "{text}: {error}"));
        }
    }

    #[test]
    fn the_environment_wins_over_the_file_and_may_hold_secrets() {
        let kafka = Kafka {
            brokers: "a:9092".to_owned(),
            settings: [("security.protocol".to_owned(), "sasl_ssl".to_owned()), ("sasl.username".to_owned(), "a".to_owned())].into(),
            ..Kafka::default()
        };
        let variables = [
            ("CONFOLD_KAFKA_SASL_USERNAME", "b"),
            ("CONFOLD_KAFKA_SASL_PASSWORD", "secret"),
            ("CONFOLD_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512"),
            ("CONFOLD_LISTEN", "ignored"),
        ];
        let variables = || variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter();
        let settings = kafka.client_with(Path::new("d"), variables()).unwrap();
        assert_eq!(settings.user(), Some("b"));
        assert!(!format!("{settings:?}").contains("secret"));
        let bad = [("CONFOLD_KAFKA_ACKS".to_owned(), "0".to_owned())];
        let error = kafka.client_with(Path::new("d"), bad.into_iter()).unwrap_err().to_string();
        assert!(error.contains("acks"), "{error}");
    }
}
