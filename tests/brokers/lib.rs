//! Real Kafka brokers for tests: one or three of them on loopback, run by `compose/kafka.sh`.
//!
//! Most tests share the brokers of their test binary, with a topic each:
//!
//! ```no_run
//! let cluster = confold_test_brokers::one();
//! let topic = cluster.new_topic(&[("retention.ms", "-1")]);
//! println!("{} at {}", topic, cluster.bootstrap());
//! ```
//!
//! A test that stops or kills brokers starts a [`Cluster`] of its own. A cluster ends when it is dropped and when the test
//! process ends, however it ends. Everything here panics with a message when it does not work, as a test does.

use futures::executor::block_on;
use parking_lot::Mutex;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than anything here should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one question may take. It goes to one broker, and when that one has just died nobody answers it: then it is asked again.
const ASK: Duration = Duration::from_secs(2);

/// What a cluster is like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// 1, or 3: then topics have three copies and min.insync.replicas is 2.
    pub brokers: usize,
    /// Not empty: also a listener with TLS and SCRAM-SHA-512, for these users.
    pub sasl: Vec<String>,
    /// Also a listener with TLS that demands a client's certificate.
    pub tls: bool,
    /// Who is not allowed is refused; whoever comes to `bootstrap()` may do everything.
    pub acl: bool,
    /// Memory of each broker in MB; None is 512 for one broker and 320 for three.
    pub heap: Option<u32>,
    /// So many listeners more, each for a test that stands between a client and the brokers: see [`Cluster::front`].
    pub fronts: usize,
    /// Broker settings, as in server.properties.
    pub settings: Vec<(String, String)>,
    /// For measuring: code is compiled properly, the start is slower.
    pub speed: bool,
}

impl Default for Setup {
    /// One broker without anything.
    fn default() -> Setup {
        Setup {
            brokers: 1,
            sasl: Vec::new(),
            tls: false,
            acl: false,
            heap: None,
            fronts: 0,
            settings: Vec::new(),
            speed: false,
        }
    }
}

/// The one broker that the tests of this process share. Nobody stops it.
pub fn one() -> &'static Cluster {
    static ONE: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(Setup::default()));
    &ONE
}

/// The three brokers that the tests of this process share. Nobody stops them.
pub fn three() -> &'static Cluster {
    static THREE: LazyLock<Cluster> = LazyLock::new(|| {
        Cluster::start(Setup {
            brokers: 3,
            ..Setup::default()
        })
    });
    &THREE
}

/// A name that no other topic of this process has.
pub fn fresh_name(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!(
        "{prefix}-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// Waits until something holds; asks fifty times a second, for a minute.
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// What is asked again until it is answered, for a minute.
fn until_ok<T, E: std::fmt::Display>(what: &str, ask: impl Fn() -> Result<T, E>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{what}: {error}"),
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// `compose/kafka.sh` of this repository.
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../compose/kafka.sh")
}

/// Running brokers, numbered from 1.
pub struct Cluster {
    setup: Setup,
    dir: PathBuf,
    hold: Mutex<Hold>,
    admin: AdminClient<DefaultClientContext>,
}

/// The script's process. It kills the brokers when it has nobody to obey any more.
struct Hold {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts new brokers and waits until all of them serve.
    pub fn start(setup: Setup) -> Cluster {
        let dir = tempfile::Builder::new()
            .prefix("confold-kafka-")
            .tempdir()
            .expect("a temporary folder")
            .keep();
        let errors = std::fs::File::create(dir.join("hold.log")).expect("a file in it");
        let mut command = Command::new(script());
        command
            .arg("hold")
            .arg(&dir)
            .arg("--remove")
            .args(["--brokers", &setup.brokers.to_string()]);
        if !setup.sasl.is_empty() {
            command.args(["--sasl", &setup.sasl.join(",")]);
        }
        for (wanted, word) in [(setup.tls, "--tls"), (setup.acl, "--acl"), (setup.speed, "--speed")] {
            command.args(wanted.then_some(word));
        }
        if let Some(heap) = setup.heap {
            command.args(["--heap", &heap.to_string()]);
        }
        if setup.fronts > 0 {
            command.args(["--fronts", &setup.fronts.to_string()]);
        }
        for (name, value) in &setup.settings {
            command.args(["--set", &format!("{name}={value}")]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", script().display()));
        let orders = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        answers.read_line(&mut line).expect("an answer of compose/kafka.sh");
        if !line.starts_with("ready ") {
            let why = std::fs::read_to_string(dir.join("hold.log")).unwrap_or_default();
            let _ = std::fs::remove_dir_all(&dir);
            panic!("the brokers did not start: {}", why.trim());
        }
        let bootstrap = line.trim_start_matches("ready ").trim();
        let admin = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .create()
            .expect("an admin client");
        Cluster {
            setup,
            dir,
            hold: Mutex::new(Hold { child, orders, answers }),
            admin,
        }
    }

    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// HOST:PORT of all brokers, with commas: the listener without TLS, where nobody is asked who he is.
    pub fn bootstrap(&self) -> String {
        self.file("bootstrap")
    }

    /// The same for the listener with TLS and SCRAM-SHA-512. The brokers' certificate names `localhost` only.
    pub fn bootstrap_sasl(&self) -> String {
        self.file("bootstrap-sasl")
    }

    /// The same for the listener with TLS that demands a client's certificate.
    pub fn bootstrap_tls(&self) -> String {
        self.file("bootstrap-tls")
    }

    /// A listener that tells its clients other addresses than its own, numbered from 1: for each broker the address that a client
    /// is told, where a test has to listen, and the address where the broker answers. Neither TLS nor a login.
    pub fn front(&self, number: usize) -> Vec<(String, String)> {
        let side = |name: &str| self.file(&format!("front-{number}/{name}"));
        let (asked, served) = (side("asked"), side("served"));
        let pairs = asked.split(',').zip(served.split(','));
        pairs.map(|(asked, served)| (asked.to_owned(), served.to_owned())).collect()
    }

    /// HOST:PORT of one broker, without TLS.
    pub fn address(&self, node: usize) -> String {
        self.bootstrap()
            .split(',')
            .nth(node - 1)
            .unwrap_or_else(|| panic!("broker {node}"))
            .to_owned()
    }

    /// The password of a user named in `Setup::sasl`.
    pub fn password(&self, user: &str) -> String {
        self.file(&format!("sasl/{user}"))
    }

    /// `ca.pem`, `client.pem` and `client.key` (principal `User:CN=confold`), or `other-ca.pem`, which signed nothing here.
    pub fn tls_file(&self, name: &str) -> PathBuf {
        self.dir.join("tls").join(name)
    }

    fn file(&self, name: &str) -> String {
        let path = self.dir.join(name);
        std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_owned()
    }

    /// Where a broker keeps its topics: `TOPIC-0` is a folder in it, with the segments of partition 0.
    pub fn data_dir(&self, node: usize) -> PathBuf {
        self.dir.join(format!("broker-{node}/data"))
    }

    /// What a broker said since it was last started.
    pub fn server_log(&self, node: usize) -> String {
        self.file(&format!("broker-{node}/server.log"))
    }

    // --- Faults ---

    /// Kills a broker with SIGKILL; it is dead when this returns.
    pub fn kill(&self, node: usize) {
        self.order("kill", node);
    }

    /// Stops a broker in order. Three brokers of which two are down cannot stop in order: then this takes half a minute.
    pub fn stop(&self, node: usize) {
        self.order("stop", node);
    }

    /// Starts a broker that was killed or stopped, with its old data and addresses, and waits until it serves. It never
    /// will while fewer than half of the brokers run: then use [`Cluster::restart_all`].
    pub fn restart(&self, node: usize) {
        self.order("start", node);
    }

    /// Starts every broker that does not run.
    pub fn restart_all(&self) {
        self.order("start", "all");
    }

    /// Freezes a broker with SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self, node: usize) {
        self.order("pause", node);
    }

    /// Ends a pause.
    pub fn resume(&self, node: usize) {
        self.order("resume", node);
    }

    fn order(&self, verb: &str, node: impl std::fmt::Display) {
        let mut hold = self.hold.lock();
        let orders = hold.orders.as_mut().expect("the script listens");
        writeln!(orders, "{verb} {node}").expect("the script takes orders");
        let mut line = String::new();
        hold.answers.read_line(&mut line).expect("an answer of the script");
        assert!(line.trim() == "ok", "{verb} {node}: {}", line.trim());
    }

    // --- Topics ---

    /// A topic of its own for a test: one partition, as many copies as there are brokers, and these settings.
    pub fn new_topic(&self, settings: &[(&str, &str)]) -> String {
        let name = fresh_name("test");
        self.topic_create(&name, 1, settings);
        name
    }

    /// Makes a topic and waits until it has a leader.
    pub fn topic_create(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(self.setup.brokers as i32));
        for (setting, value) in settings {
            topic = topic.set(setting, value);
        }
        // Brokers that have just come are missing at first, and with them places for all copies.
        until_ok(&format!("topic {name}"), || {
            let made = block_on(self.admin.create_topics([&topic], &options())).map_err(|error| error.to_string())?;
            match made.into_iter().next() {
                Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        until("the topic has a leader", || self.leader(name).is_some());
    }

    /// Deletes a topic and waits until no broker knows it.
    pub fn topic_delete(&self, name: &str) {
        let gone = block_on(self.admin.delete_topics(&[name], &options())).expect("an answer");
        gone.into_iter()
            .for_each(|one| drop(one.unwrap_or_else(|(name, code)| panic!("topic {name}: {code}"))));
        until("the topic is gone", || self.partitions(name) == Some(0));
    }

    /// Gives a topic more partitions.
    pub fn partitions_add(&self, name: &str, count: usize) {
        let more = NewPartitions::new(name, count);
        let made = block_on(self.admin.create_partitions([&more], &options())).expect("an answer");
        made.into_iter()
            .for_each(|one| drop(one.unwrap_or_else(|(name, code)| panic!("topic {name}: {code}"))));
        until("the partitions are there", || self.partitions(name) == Some(count));
    }

    /// Changes settings of a topic and leaves its others as they are.
    pub fn config_alter(&self, name: &str, settings: &[(&str, &str)]) {
        let topic = ResourceSpecifier::Topic(name);
        let known = block_on(self.admin.describe_configs([&topic], &options()))
            .expect("an answer")
            .remove(0);
        let known = known.unwrap_or_else(|code| panic!("topic {name}: {code}"));
        let own = known
            .entries
            .into_iter()
            .filter(|entry| entry.source == ConfigSource::DynamicTopic);
        let mut all: BTreeMap<String, String> = own.filter_map(|entry| Some((entry.name, entry.value?))).collect();
        all.extend(
            settings
                .iter()
                .map(|(setting, value)| ((*setting).to_owned(), (*value).to_owned())),
        );
        let mut alter = AlterConfig::new(topic);
        for (setting, value) in &all {
            alter = alter.set(setting, value);
        }
        let changed = block_on(self.admin.alter_configs([&alter], &options())).expect("an answer");
        changed
            .into_iter()
            .for_each(|one| drop(one.unwrap_or_else(|(_, code)| panic!("topic {name}: {code}"))));
    }

    /// Deletes the records below an offset; -1 means all.
    pub fn delete_records(&self, name: &str, before: i64) {
        let mut offsets = TopicPartitionList::new();
        let offset = if before == -1 {
            Offset::End
        } else {
            Offset::Offset(before)
        };
        offsets.add_partition_offset(name, 0, offset).expect("an offset");
        let deleted = block_on(self.admin.delete_records(&offsets, &options())).expect("an answer");
        deleted
            .elements()
            .iter()
            .for_each(|one| one.error().unwrap_or_else(|error| panic!("topic {name}: {error}")));
    }

    /// First offset and the one after the last that consumers see.
    pub fn offsets(&self, name: &str) -> (i64, i64) {
        // After a broker went or came this may ask one that leads no more, or does not lead yet.
        until_ok(&format!("topic {name}"), || self.admin.inner().fetch_watermarks(name, 0, ASK))
    }

    /// The broker that leads partition 0, if there is one and it can be asked.
    pub fn leader(&self, name: &str) -> Option<usize> {
        let metadata = self.admin.inner().fetch_metadata(Some(name), ASK).ok()?;
        let leader = metadata.topics().first()?.partitions().first()?.leader();
        usize::try_from(leader).ok()
    }

    /// The brokers whose copy of partition 0 is in sync; none where that cannot be asked.
    pub fn in_sync(&self, name: &str) -> Vec<usize> {
        let Ok(metadata) = self.admin.inner().fetch_metadata(Some(name), ASK) else {
            return Vec::new();
        };
        let partition = metadata.topics().first().and_then(|topic| topic.partitions().first());
        partition
            .map(|partition| partition.isr().iter().map(|node| *node as usize).collect())
            .unwrap_or_default()
    }

    fn partitions(&self, name: &str) -> Option<usize> {
        let metadata = self.admin.inner().fetch_metadata(Some(name), ASK).ok()?;
        Some(metadata.topics().first().map_or(0, |topic| topic.partitions().len()))
    }

    /// Runs one of Kafka's own commands against these brokers and gives what it printed: `topics`, `configs`, `acls`,
    /// `leader-election`, and what else `compose/kafka.sh` knows. Takes a second or two.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let bootstrap = self.bootstrap();
        let mut command = Command::new(script());
        command.args(["tool", name]);
        if !["dump-log", "storage"].contains(&name) {
            command.args(["--bootstrap-server", &bootstrap]);
        }
        let output = command.args(arguments).output().expect("compose/kafka.sh runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{name}: {}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let hold = self.hold.get_mut();
        hold.orders = None;
        let _ = hold.child.wait();
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(PATIENCE))
        .request_timeout(Some(PATIENCE))
}

#[cfg(test)]
mod compose;
#[cfg(test)]
mod tests;
