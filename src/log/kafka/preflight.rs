//! Whether a topic, as it is set now, keeps what confold promises, and how strong an acknowledgement on it is.

use std::collections::BTreeMap;
use std::fmt;

use futures::executor::block_on;
use rdkafka::admin::ResourceSpecifier;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::admin::{Admin, TopicError};
use crate::settings::{RECORD_ROOM, is_loopback};

/// What the topic is held against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The biggest event of the store.
    pub max_event_bytes: usize,
    /// What would be refused is only an alarm, provided that every broker is on this machine.
    pub dev_unsafe: bool,
}

/// What a finding means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Works now, and somebody should look at it.
    Alarm,
    /// No store is opened on this topic.
    Refuse,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub severity: Severity,
    /// Kafka's own name where it has one.
    pub setting: String,
    pub value: String,
    pub wanted: String,
    /// What it means and what to do; empty where all is fine.
    pub what_to_do: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, wanted is {}", self.setting, self.value, self.wanted)?;
        if !self.what_to_do.is_empty() {
            write!(f, ": {}", self.what_to_do)?;
        }
        Ok(())
    }
}

/// What was found about one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preflight {
    pub topic: String,
    /// HOST:PORT of every broker that is there, as the brokers themselves say it.
    pub brokers: Vec<String>,
    /// Everything that was looked at, also what is fine.
    pub findings: Vec<Finding>,
    /// How strong an acknowledgement is with these settings, in words.
    pub acknowledgement: String,
}

impl Preflight {
    /// Findings that are not fine, the worst first.
    pub fn problems(&self) -> Vec<&Finding> {
        let mut problems: Vec<&Finding> = self
            .findings
            .iter()
            .filter(|one| one.severity != Severity::Fine)
            .collect();
        problems.sort_by_key(|one| std::cmp::Reverse(one.severity));
        problems
    }

    /// Why no store may be opened on this topic, if it may not: one line for each reason.
    pub fn refusal(&self) -> Option<String> {
        let refused: Vec<String> = self
            .problems()
            .into_iter()
            .filter(|one| one.severity == Severity::Refuse)
            .map(|one| format!("\n  {one}"))
            .collect();
        (!refused.is_empty()).then(|| format!("topic {} does not keep a store safe:{}", self.topic, refused.concat()))
    }
}

impl Admin {
    /// Looks at a topic and its brokers, and changes nothing. Takes a few round trips. An error means that they could not be
    /// asked; what is wrong with them is in the findings.
    pub fn preflight(&self, topic: &str, wanted: Wanted) -> Result<Preflight, TopicError> {
        let metadata = self.metadata(topic)?;
        let brokers: Vec<(String, String)> = metadata
            .brokers()
            .iter()
            .map(|broker| (broker.host().to_owned(), format!("{}:{}", broker.host(), broker.port())))
            .collect();
        let described = metadata
            .topics()
            .iter()
            .find(|found| found.name() == topic)
            .ok_or_else(|| self.failed(topic, "look at", "Describe", RDKafkaErrorCode::UnknownTopic))?;
        if let Some(error) = described.error() {
            return Err(self.failed(topic, "look at", "Describe", error.into()));
        }
        let mut facts = Facts {
            partitions: described.partitions().len(),
            settings: self.settings_of(topic)?,
            dev_unsafe: wanted.dev_unsafe,
            max_event_bytes: wanted.max_event_bytes,
            encrypted: self.settings.encrypted(),
            elsewhere: elsewhere(&brokers, self.settings.only_loopback(), self.settings.brokers()),
            user: self.user(),
            ..Facts::default()
        };
        if let Some(first) = described.partitions().first() {
            facts.copies = first.replicas().len();
            facts.in_sync = first.isr().len();
        }
        let (findings, acknowledgement) = judge(&facts);
        Ok(Preflight {
            topic: topic.to_owned(),
            brokers: brokers.into_iter().map(|(_, address)| address).collect(),
            findings,
            acknowledgement,
        })
    }

    /// How many copies of a topic have to be in sync before it is written to; `None` when this client may not see that.
    pub(crate) fn least_in_sync(&self, topic: &str) -> Result<Option<usize>, TopicError> {
        let settings = self.settings_of(topic)?;
        Ok(settings.and_then(|settings| settings.get("min.insync.replicas")?.parse().ok()))
    }

    /// Effective settings, defaults of the brokers included; `None` when this client may not see them.
    fn settings_of(&self, topic: &str) -> Result<Option<BTreeMap<String, String>>, TopicError> {
        let asked = ResourceSpecifier::Topic(topic);
        let answer = match block_on(self.client.describe_configs([&asked], &self.options())) {
            Ok(answers) => answers.into_iter().next().unwrap_or(Err(RDKafkaErrorCode::Fail)),
            Err(KafkaError::AdminOp(code)) => Err(code),
            Err(error) => return Err(self.unreachable(error.to_string())),
        };
        match answer {
            // The client library's answer to who is not allowed is no settings, and no error.
            Ok(found) if found.entries.is_empty() => Ok(None),
            Ok(found) => {
                let settings = found.entries.into_iter();
                Ok(Some(
                    settings.filter_map(|entry| Some((entry.name, entry.value?))).collect(),
                ))
            }
            Err(RDKafkaErrorCode::TopicAuthorizationFailed) => Ok(None),
            Err(code) => Err(self.failed(topic, "read the settings of", "DescribeConfigs", code)),
        }
    }
}

/// The first broker that is not on this machine.
fn elsewhere(brokers: &[(String, String)], given_is_loopback: bool, given: &str) -> Option<String> {
    if !given_is_loopback {
        return Some(given.to_owned());
    }
    let first = brokers.iter().find(|(host, _)| !is_loopback(host));
    first.map(|(_, address)| address.clone())
}

/// What is known of a topic.
#[derive(Default)]
struct Facts {
    partitions: usize,
    copies: usize,
    in_sync: usize,
    settings: Option<BTreeMap<String, String>>,
    max_event_bytes: usize,
    dev_unsafe: bool,
    encrypted: bool,
    /// A broker on another machine.
    elsewhere: Option<String>,
    user: String,
}

impl Facts {
    fn setting(&self, name: &str) -> &str {
        self.settings
            .as_ref()
            .and_then(|settings| settings.get(name))
            .map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.setting(name).parse().ok()
    }

    fn min_insync(&self) -> usize {
        self.number("min.insync.replicas")
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or(1)
    }
}

/// Findings and the strength of an acknowledgement, from facts alone.
fn judge(facts: &Facts) -> (Vec<Finding>, String) {
    let mut findings = Vec::new();
    let mut look = |severity: Severity, setting: &str, value: String, wanted: &str, what_to_do: &str| {
        let value = if value.is_empty() { "not set".to_owned() } else { value };
        findings.push(Finding {
            severity,
            setting: setting.to_owned(),
            value,
            wanted: wanted.to_owned(),
            what_to_do: if severity == Severity::Fine {
                String::new()
            } else {
                what_to_do.to_owned()
            },
        });
    };
    let refuse_unless = |fine: bool| match (fine, facts.dev_unsafe && facts.elsewhere.is_none()) {
        (true, _) => Severity::Fine,
        (false, true) => Severity::Alarm,
        (false, false) => Severity::Refuse,
    };
    let alarm_unless = |fine: bool| if fine { Severity::Fine } else { Severity::Alarm };

    if facts.dev_unsafe {
        let severity = if facts.elsewhere.is_none() {
            Severity::Fine
        } else {
            Severity::Refuse
        };
        look(
            severity,
            "--dev-unsafe",
            facts
                .elsewhere
                .as_ref()
                .map_or("used with brokers on this machine".to_owned(), |broker| {
                    format!("used with broker {broker}")
                }),
            "brokers on this machine only",
            "it is for trying things out on a loopback address; leave it out, and give the topic the settings below",
        );
    }
    look(
        refuse_unless(facts.partitions == 1),
        "partitions",
        facts.partitions.to_string(),
        "1",
        "records of several partitions have no order between them, and a topic cannot lose partitions: make another topic with one and \
         move the store there with `confold log copy`",
    );
    look(
        refuse_unless(facts.copies >= 3),
        "replication.factor",
        facts.copies.to_string(),
        "3 or more",
        "with fewer copies one lost broker loses the store or stops it: add copies with kafka-reassign-partitions, or make the topic \
         anew with three",
    );
    look(
        alarm_unless(facts.in_sync >= facts.copies),
        "copies in sync",
        facts.in_sync.to_string(),
        &facts.copies.to_string(),
        if facts.in_sync < facts.min_insync() {
            "writes are refused until there are as many as min.insync.replicas says: see to the brokers that are missing"
        } else {
            "see to the brokers that are missing before another one fails"
        },
    );
    look(
        if facts.encrypted || facts.elsewhere.is_none() {
            Severity::Fine
        } else {
            Severity::Alarm
        },
        "security.protocol",
        if facts.encrypted { "with TLS" } else { "without TLS" }.to_owned(),
        "TLS, where brokers are on other machines",
        "whoever is on the network between can read the store and change it: set security.protocol=sasl_ssl or ssl",
    );
    if facts.settings.is_none() {
        look(
            refuse_unless(false),
            "settings of the topic",
            "not to be seen".to_owned(),
            "the right to see them",
            &format!(
                "the brokers do not allow {} to read the topic's settings, so nobody can say what an acknowledgement is worth: grant it \
                 the operation DescribeConfigs on this topic",
                facts.user
            ),
        );
        let acknowledgement =
            "How strong an acknowledgement is cannot be said: the topic's settings are not to be seen.";
        return (findings, acknowledgement.to_owned());
    }
    let min_insync = facts.min_insync();
    look(
        refuse_unless(min_insync >= 2),
        "min.insync.replicas",
        facts.setting("min.insync.replicas").to_owned(),
        "2 or more",
        "a write is acknowledged while a single broker has it, and is lost with that broker: set it to 2",
    );
    if min_insync >= 2 {
        look(
            alarm_unless(min_insync < facts.copies),
            "min.insync.replicas against the copies",
            format!("{min_insync} of {}", facts.copies),
            "fewer than there are copies",
            "the first broker that fails stops all writes: add a copy, or set it to one less",
        );
    }
    look(
        refuse_unless(facts.setting("unclean.leader.election.enable") == "false"),
        "unclean.leader.election.enable",
        facts.setting("unclean.leader.election.enable").to_owned(),
        "false",
        "a broker that has missed acknowledged writes may take over, and they are gone: set it to false",
    );
    let policy = facts.setting("cleanup.policy");
    look(
        refuse_unless(!policy.split(',').any(|one| one.trim() == "compact")),
        "cleanup.policy",
        policy.to_owned(),
        "delete",
        "compaction takes records out of the middle of the log, and every replica stops at the hole: set it to delete",
    );
    for (setting, unit) in [("retention.ms", "age"), ("retention.bytes", "size")] {
        look(
            refuse_unless(facts.number(setting) == Some(-1)),
            setting,
            facts.setting(setting).to_owned(),
            "-1",
            &format!(
                "Kafka deletes the beginning of the log when it has reached this {unit}, whether replicas still need it or not: set it to \
                 -1; `confold retention` is the way to let go of history"
            ),
        );
    }
    let room = facts.max_event_bytes.saturating_add(RECORD_ROOM);
    let takes = facts
        .number("max.message.bytes")
        .and_then(|number| usize::try_from(number).ok())
        .unwrap_or(0);
    look(
        refuse_unless(takes >= room),
        "max.message.bytes",
        facts.setting("max.message.bytes").to_owned(),
        &format!("{room} or more"),
        &format!(
            "the brokers would refuse events that the store allows ({} bytes, and room for what Kafka adds): set it to {room}",
            facts.max_event_bytes
        ),
    );
    look(
        refuse_unless(facts.setting("message.timestamp.type") == "LogAppendTime"),
        "message.timestamp.type",
        facts.setting("message.timestamp.type").to_owned(),
        "LogAppendTime",
        "whoever writes a record could give it any time, and times are what history is asked by: set it to LogAppendTime",
    );
    (findings, acknowledgement(facts))
}

fn acknowledgement(facts: &Facts) -> String {
    let copies = facts.copies;
    // More than there are copies: nothing is acknowledged at all.
    let least = facts.min_insync();
    let brokers = |count: usize| {
        if count == 1 {
            "1 broker".to_owned()
        } else {
            format!("{count} brokers")
        }
    };
    let mut words = if least > copies {
        return format!(
            "No write is ever acknowledged: min.insync.replicas is {least}, and there are {copies} copies."
        );
    } else if copies == 1 {
        "An acknowledged write is on 1 broker and nowhere else: it is lost with that broker's disk.".to_owned()
    } else if least == 1 {
        format!(
            "An acknowledged write is on at least 1 of {copies} brokers: while the others lag or are down, it is lost with that one."
        )
    } else {
        format!(
            "An acknowledged write is on at least {least} of {copies} brokers: it survives {} lost for good.",
            brokers(least - 1)
        )
    };
    if copies > 1 {
        words += &match copies - least {
            0 => " Writes stop as soon as one broker is down.".to_owned(),
            down => format!(
                " Writes go on while {} down.",
                if down == 1 {
                    "1 broker is".to_owned()
                } else {
                    format!("{down} brokers are")
                }
            ),
        };
    }
    words += match facts.number("flush.messages") {
        Some(1) => " The brokers write it to their disks first (flush.messages is 1).",
        _ if copies == 1 => {
            " Kafka does not wait for the disk: a broker that is killed loses nothing, a machine that crashes or loses power can lose \
             the newest acknowledged writes."
        }
        _ => {
            " Kafka does not wait for the disks: if all brokers that have it crash or lose power at the same time, the newest \
             acknowledged writes can be lost. So brokers should not share one source of power."
        }
    };
    if facts.setting("unclean.leader.election.enable") != "false" {
        words +=
            " And unclean leader election undoes acknowledged writes whenever a broker that missed them takes over.";
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A topic as confold makes it.
    fn good() -> Facts {
        let topic = crate::topic::NewTopic::new("net", 16 << 20);
        let settings = topic
            .settings()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        Facts {
            partitions: 1,
            copies: 3,
            in_sync: 3,
            settings: Some(settings.collect()),
            max_event_bytes: 16 << 20,
            encrypted: true,
            user: "User:store".to_owned(),
            ..Facts::default()
        }
    }

    fn problems(facts: &Facts) -> Vec<(Severity, String)> {
        let findings = judge(facts).0.into_iter();
        let bad = findings.filter(|one| one.severity != Severity::Fine);
        bad.map(|one| (one.severity, format!("{}={}", one.setting, one.value)))
            .collect()
    }

    #[test]
    fn a_topic_as_confold_makes_it_has_no_problem() {
        assert_eq!(problems(&good()), []);
    }

    #[test]
    fn every_wrong_setting_is_refused_by_name() {
        let wrong: [(&str, &str); 9] = [
            ("min.insync.replicas", "1"),
            ("unclean.leader.election.enable", "true"),
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "1073741824"),
            ("max.message.bytes", "17825791"),
            ("message.timestamp.type", "CreateTime"),
            ("retention.ms", "none of the numbers"),
            ("message.timestamp.type", ""),
        ];
        for (setting, value) in wrong {
            let mut facts = good();
            facts
                .settings
                .as_mut()
                .unwrap()
                .insert(setting.to_owned(), value.to_owned());
            let shown = if value.is_empty() { "not set" } else { value };
            assert_eq!(problems(&facts), [(Severity::Refuse, format!("{setting}={shown}"))]);
            facts.dev_unsafe = true;
            assert_eq!(problems(&facts)[0].0, Severity::Alarm);
        }
        let facts = Facts {
            partitions: 2,
            ..good()
        };
        assert_eq!(problems(&facts), [(Severity::Refuse, "partitions=2".to_owned())]);
        let facts = Facts {
            settings: None,
            ..good()
        };
        assert_eq!(
            problems(&facts),
            [(Severity::Refuse, "settings of the topic=not to be seen".to_owned())]
        );
    }

    #[test]
    fn too_few_copies_are_refused_and_missing_ones_are_an_alarm() {
        let facts = Facts {
            copies: 1,
            in_sync: 1,
            ..good()
        };
        let found = problems(&facts);
        assert!(
            found.contains(&(Severity::Refuse, "replication.factor=1".to_owned())),
            "{found:?}"
        );
        let facts = Facts { in_sync: 2, ..good() };
        assert_eq!(problems(&facts), [(Severity::Alarm, "copies in sync=2".to_owned())]);
        let mut facts = good();
        facts
            .settings
            .as_mut()
            .unwrap()
            .insert("min.insync.replicas".to_owned(), "3".to_owned());
        assert_eq!(
            problems(&facts),
            [(
                Severity::Alarm,
                "min.insync.replicas against the copies=3 of 3".to_owned()
            )]
        );
    }

    #[test]
    fn dev_unsafe_is_refused_when_a_broker_is_elsewhere() {
        let facts = Facts {
            dev_unsafe: true,
            elsewhere: Some("kafka-1.example:9092".to_owned()),
            copies: 1,
            in_sync: 1,
            ..good()
        };
        let found = problems(&facts);
        assert!(
            found.contains(&(
                Severity::Refuse,
                "--dev-unsafe=used with broker kafka-1.example:9092".to_owned()
            )),
            "{found:?}"
        );
        assert!(
            found.contains(&(Severity::Refuse, "replication.factor=1".to_owned())),
            "{found:?}"
        );
    }

    #[test]
    fn what_brokers_say_of_themselves_counts_for_loopback() {
        let broker = |host: &str| (host.to_owned(), format!("{host}:9092"));
        let local = [broker("127.0.0.1"), broker("localhost")];
        assert_eq!(elsewhere(&local, true, "localhost:9092"), None);
        assert_eq!(elsewhere(&local, false, "kafka:9092"), Some("kafka:9092".to_owned()));
        // As through a tunnel.
        let far = [broker("127.0.0.1"), broker("10.0.0.7")];
        assert_eq!(
            elsewhere(&far, true, "localhost:9092"),
            Some("10.0.0.7:9092".to_owned())
        );
    }

    #[test]
    fn without_tls_is_an_alarm_only_for_brokers_elsewhere() {
        let facts = Facts {
            encrypted: false,
            ..good()
        };
        assert_eq!(problems(&facts), []);
        let facts = Facts {
            encrypted: false,
            elsewhere: Some("kafka:9092".to_owned()),
            ..good()
        };
        assert_eq!(
            problems(&facts),
            [(Severity::Alarm, "security.protocol=without TLS".to_owned())]
        );
    }

    #[test]
    fn the_strength_of_an_acknowledgement_follows_from_the_settings() {
        let mut facts = good();
        let said = judge(&facts).1;
        assert!(said.starts_with("An acknowledged write is on at least 2 of 3 brokers: it survives 1 broker lost for good. Writes go on while 1 broker is down."), "{said}");
        assert!(said.contains("does not wait for the disks"), "{said}");
        let mut set = |name: &str, value: &str, copies: usize| {
            facts
                .settings
                .as_mut()
                .unwrap()
                .insert(name.to_owned(), value.to_owned());
            facts.copies = copies;
            judge(&facts).1
        };
        assert!(set("flush.messages", "1", 3).contains("write it to their disks first"));
        assert!(
            set("min.insync.replicas", "3", 3)
                .contains("survives 2 brokers lost for good. Writes stop as soon as one broker is down.")
        );
        assert!(set("min.insync.replicas", "4", 3).starts_with("No write is ever acknowledged"));
        assert!(set("min.insync.replicas", "1", 3).starts_with("An acknowledged write is on at least 1 of 3 brokers"));
        assert!(set("unclean.leader.election.enable", "true", 3).contains("unclean leader election undoes"));
        assert!(
            set("flush.messages", "9223372036854775807", 1)
                .contains("lost with that broker's disk. Kafka does not wait")
        );
    }
}
