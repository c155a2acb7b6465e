//! Topics on real brokers: made as they should be, and refused by name where they are not (F19, and F18's settings
//! switched on while the store is open).

use confold_log_kafka::{Admin, ClientSettings, NewTopic, Severity, TopicError, Wanted};
use confold_test_brokers::{Cluster, Setup, fresh_name, one, until};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(30);
const BIGGEST: usize = 16 << 20;
const STRICT: Wanted = Wanted {
    max_event_bytes: BIGGEST,
    dev_unsafe: false,
};
const UNSAFE: Wanted = Wanted {
    max_event_bytes: BIGGEST,
    dev_unsafe: true,
};

fn admin(brokers: &str) -> Admin {
    Admin::new(&ClientSettings::new(brokers), WAIT).unwrap()
}

/// Setting and severity of what is not fine. Asks again where the broker that was asked has just died.
fn problems(admin: &Admin, topic: &str, wanted: Wanted) -> Vec<(String, Severity)> {
    let found = std::cell::OnceCell::new();
    until("the topic can be looked at", || match admin.preflight(topic, wanted) {
        Err(TopicError::Unreachable { .. }) => false,
        answer => found.set(answer.unwrap()).is_ok(),
    });
    found
        .into_inner()
        .unwrap()
        .problems()
        .into_iter()
        .map(|one| (one.setting.clone(), one.severity))
        .collect()
}

#[test]
fn three_brokers_every_wrong_setting_is_refused_by_name_and_live() {
    let cluster = Cluster::start(Setup {
        brokers: 3,
        ..Setup::default()
    });
    let admin = admin(&cluster.bootstrap());
    let topic = fresh_name("net");
    admin.create_topic(&NewTopic::new(&topic, BIGGEST)).unwrap();
    until("all is fine", || problems(&admin, &topic, STRICT).is_empty());
    let found = admin.preflight(&topic, STRICT).unwrap();
    assert_eq!(found.refusal(), None);
    assert_eq!(found.brokers.len(), 3);
    assert!(
        found.acknowledgement.contains("on at least 2 of 3 brokers"),
        "{}",
        found.acknowledgement
    );

    let rows = [
        ("min.insync.replicas", "1", "2", "lost with that broker"),
        (
            "unclean.leader.election.enable",
            "true",
            "false",
            "missed acknowledged writes",
        ),
        ("cleanup.policy", "compact", "delete", "out of the middle"),
        ("retention.ms", "604800000", "-1", "deletes the beginning"),
        ("retention.bytes", "1073741824", "-1", "deletes the beginning"),
        ("max.message.bytes", "1048588", "17825792", "would refuse events"),
        ("message.timestamp.type", "CreateTime", "LogAppendTime", "any time"),
    ];
    for (setting, wrong, right, says) in rows {
        cluster.config_alter(&topic, &[(setting, wrong)]);
        // Any broker answers, and they learn of it one after the other.
        let line = format!("{setting} is {wrong}, wanted is {right}");
        until("the setting is noticed", || {
            let found = admin.preflight(&topic, STRICT).unwrap();
            let refusal = found.refusal().unwrap_or_default();
            refusal.contains(&line) && refusal.contains(says) && found.problems().len() == 1
        });
        let alarm = (setting.to_owned(), Severity::Alarm);
        until("the setting is an alarm", || {
            problems(&admin, &topic, UNSAFE) == [alarm.clone()]
        });
        cluster.config_alter(&topic, &[(setting, right)]);
        until("the setting is right again", || {
            problems(&admin, &topic, STRICT).is_empty()
        });
    }

    // More is not always better.
    cluster.config_alter(&topic, &[("min.insync.replicas", "3")]);
    let alarm = ("min.insync.replicas against the copies".to_owned(), Severity::Alarm);
    until("the alarm", || problems(&admin, &topic, STRICT) == [alarm.clone()]);
    cluster.config_alter(&topic, &[("min.insync.replicas", "2")]);

    let single = fresh_name("single");
    admin
        .create_topic(&NewTopic {
            replication: 1,
            ..NewTopic::new(&single, BIGGEST)
        })
        .unwrap();
    let refusal = admin.preflight(&single, STRICT).unwrap().refusal().unwrap_or_default();
    assert!(
        refusal.contains("replication.factor is 1, wanted is 3 or more"),
        "{refusal}"
    );

    let settings = NewTopic::new("", BIGGEST).settings();
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let wide = fresh_name("wide");
    cluster.topic_create(&wide, 2, &settings);
    // Of three brokers one may know it a moment later.
    until("the topic is known", || admin.preflight(&wide, STRICT).is_ok());
    let refusal = admin.preflight(&wide, STRICT).unwrap().refusal().unwrap_or_default();
    assert!(refusal.contains("partitions is 2, wanted is 1"), "{refusal}");
    cluster.partitions_add(&topic, 2);
    until("new partitions are noticed", || {
        problems(&admin, &topic, STRICT) == [("partitions".to_owned(), Severity::Refuse)]
    });

    cluster.kill(3);
    until("the missing copy is noticed", || {
        problems(&admin, &wide, STRICT).contains(&("copies in sync".to_owned(), Severity::Alarm))
    });
}

#[test]
fn dev_unsafe_takes_a_single_broker_on_this_machine_and_no_other() {
    let admin_here = admin(&one().bootstrap());
    let topic = fresh_name("try");
    let single = NewTopic {
        replication: 1,
        min_insync: 1,
        ..NewTopic::new(&topic, BIGGEST)
    };
    admin_here.create_topic(&single).unwrap();
    let refusal = admin_here
        .preflight(&topic, STRICT)
        .unwrap()
        .refusal()
        .unwrap_or_default();
    assert!(
        refusal.contains("replication.factor is 1") && refusal.contains("min.insync.replicas is 1"),
        "{refusal}"
    );

    let found = admin_here.preflight(&topic, UNSAFE).unwrap();
    assert_eq!(found.refusal(), None);
    assert_eq!(found.problems().len(), 2);
    assert!(
        found.acknowledgement.contains("on 1 broker and nowhere else"),
        "{}",
        found.acknowledgement
    );

    // The same broker by a name that does not say so.
    let port = one().bootstrap().rsplit(':').next().unwrap().to_owned();
    let elsewhere = format!("127.1:{port}");
    let refusal = admin(&elsewhere)
        .preflight(&topic, UNSAFE)
        .unwrap()
        .refusal()
        .unwrap_or_default();
    assert!(
        refusal.contains(&format!("--dev-unsafe is used with broker {elsewhere}")),
        "{refusal}"
    );
    assert!(refusal.contains("replication.factor is 1"), "{refusal}");
}

#[test]
fn a_topic_is_made_with_every_setting_said() {
    let admin = admin(&one().bootstrap());
    let topic = NewTopic {
        replication: 1,
        min_insync: 1,
        ..NewTopic::new(fresh_name("made"), 1 << 20)
    };
    admin.create_topic(&topic).unwrap();
    let shown = one().tool(
        "configs",
        &["--describe", "--entity-type", "topics", "--entity-name", &topic.name],
    );
    for (name, value) in topic.settings() {
        assert!(shown.contains(&format!(" {name}={value} ")), "{name}={value}: {shown}");
    }

    let refused = admin.create_topic(&topic).unwrap_err();
    assert!(matches!(refused, TopicError::Exists { .. }), "{refused}");
    let refused = admin
        .create_topic(&NewTopic::new(fresh_name("three"), 1 << 20))
        .unwrap_err();
    assert!(
        matches!(
            refused,
            TopicError::TooFewBrokers {
                copies: 3,
                brokers: 1,
                ..
            }
        ),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("there are 1 brokers: start more"),
        "{refused}"
    );
    let refused = admin
        .create_topic(&NewTopic {
            name: "no blanks".to_owned(),
            ..topic
        })
        .unwrap_err();
    assert!(refused.to_string().contains("topic no blanks"), "{refused}");
    let refused = admin.preflight("never-made", STRICT).unwrap_err();
    assert!(matches!(refused, TopicError::Missing { .. }), "{refused}");
}

#[test]
fn brokers_that_do_not_answer_are_named() {
    let nobody = ClientSettings::new("127.0.0.1:9");
    let began = Instant::now();
    let admin = Admin::new(&nobody, Duration::from_secs(2)).unwrap();
    let refused = admin.preflight("net", STRICT).unwrap_err().to_string();
    assert!(
        refused.contains("no broker of 127.0.0.1:9 answers") && refused.contains("refused"),
        "{refused}"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
}
