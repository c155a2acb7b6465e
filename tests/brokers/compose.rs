//! The compose file says what its comments and the documents claim. Docker itself looks at it where it is installed.

use serde_yaml_ng::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../compose/compose.yaml")
}

fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    let found = path.iter().fold(value, |value, name| &value[*name]);
    found
        .as_str()
        .unwrap_or_else(|| panic!("{path:?} is a text, not {found:?}"))
}

fn one<'a>(service: &'a Value, list: &str) -> &'a str {
    let list = service[list]
        .as_sequence()
        .unwrap_or_else(|| panic!("{list} of {service:?}"));
    assert_eq!(list.len(), 1, "{list:?}");
    list[0].as_str().unwrap()
}

#[test]
fn the_compose_file_has_three_brokers_and_three_replicas_as_it_claims() {
    let mut compose: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(file()).unwrap()).unwrap();
    compose.apply_merge().unwrap();
    let services = compose["services"].as_mapping().unwrap();
    let named = |begin: &str| -> Vec<(&str, &Value)> {
        let all = services.iter().map(|(name, service)| (name.as_str().unwrap(), service));
        all.filter(|(name, _)| name.starts_with(begin)).collect()
    };
    let (brokers, replicas) = (named("kafka-"), named("replica-"));
    assert_eq!((brokers.len(), replicas.len(), services.len()), (3, 3, 6));

    let mut volumes = BTreeSet::new();
    for (index, (name, broker)) in brokers.iter().enumerate() {
        let environment = &broker["environment"];
        let number = (index + 1).to_string();
        assert_eq!(*name, format!("kafka-{number}"));
        assert_eq!(text(broker, &["image"]), "apache/kafka:4.1.1");
        assert_eq!(text(environment, &["KAFKA_NODE_ID"]), number);
        assert_eq!(text(environment, &["KAFKA_DEFAULT_REPLICATION_FACTOR"]), "3");
        assert_eq!(text(environment, &["KAFKA_MIN_INSYNC_REPLICAS"]), "2");
        assert_eq!(text(environment, &["KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE"]), "false");
        assert_eq!(text(environment, &["KAFKA_AUTO_CREATE_TOPICS_ENABLE"]), "false");
        assert!(text(environment, &["KAFKA_CONTROLLER_QUORUM_VOTERS"]).contains(&format!("{number}@{name}:9093")));
        assert!(text(environment, &["KAFKA_ADVERTISED_LISTENERS"]).contains(&format!("{name}:9092")));
        assert!(broker.get("ports").is_none(), "brokers are reached by replicas only");
        let (volume, inside) = one(broker, "volumes").split_once(':').unwrap();
        assert_eq!(text(environment, &["KAFKA_LOG_DIRS"]), inside);
        volumes.insert(volume);
    }
    for (index, (name, replica)) in replicas.iter().enumerate() {
        assert_eq!(*name, format!("replica-{}", index + 1));
        assert_eq!(
            one(replica, "ports"),
            format!("127.0.0.1:{}:7411", 7411 + index),
            "loopback only"
        );
        volumes.insert(one(replica, "volumes").split_once(':').unwrap().0);
        let runs = replica["entrypoint"][2].as_str().unwrap();
        assert!(
            brokers
                .iter()
                .all(|(broker, _)| runs.contains(&format!("{broker}:9092"))),
            "{runs}"
        );
        for (waits_for, how) in replica["depends_on"].as_mapping().unwrap() {
            assert!(services.contains_key(waits_for), "{waits_for:?}");
            assert_eq!(text(how, &["condition"]), "service_healthy");
        }
    }
    let declared = compose["volumes"].as_mapping().unwrap().keys();
    assert_eq!(
        volumes,
        declared.map(|name| name.as_str().unwrap()).collect(),
        "each has a volume of its own"
    );
    assert!(
        services
            .values()
            .all(|service| service["healthcheck"]["test"].is_sequence())
    );
    let all = std::fs::read_to_string(file()).unwrap().to_lowercase();
    assert!(
        !["password", "secret", "token"].iter().any(|word| all.contains(word)),
        "no secrets"
    );
}

#[test]
fn docker_takes_the_compose_file_where_it_is_installed() {
    let ways: [&[&str]; 2] = [&["docker", "compose"], &["docker-compose"]];
    let run = |way: &[&str], words: &[&str]| Command::new(way[0]).args(&way[1..]).args(words).output();
    let is_there = |way: &&&[&str]| run(way, &["version"]).is_ok_and(|output| output.status.success());
    let Some(way) = ways.iter().find(is_there) else {
        eprintln!("docker compose is not installed: skipped");
        return;
    };
    let output = run(way, &["-f", &file().display().to_string(), "config", "-q"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
