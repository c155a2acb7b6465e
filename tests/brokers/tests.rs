use super::*;

#[test]
fn a_cluster_survives_what_is_done_to_it_and_ends_when_it_is_dropped() {
    let cluster = Cluster::start(Setup::default());
    let topic = cluster.new_topic(&[("retention.ms", "-1")]);
    assert_eq!(cluster.in_sync(&topic), [1]);
    assert_eq!(cluster.offsets(&topic), (0, 0));
    assert!(cluster.data_dir(1).join(format!("{topic}-0")).is_dir());

    cluster.config_alter(&topic, &[("segment.bytes", "1048576")]);
    let shown = cluster.tool(
        "configs",
        &["--describe", "--entity-type", "topics", "--entity-name", &topic],
    );
    assert!(
        shown.contains("retention.ms=-1") && shown.contains("segment.bytes=1048576"),
        "{shown}"
    );

    cluster.kill(1);
    cluster.restart(1);
    cluster.pause(1);
    cluster.resume(1);
    cluster.stop(1);
    cluster.restart_all();
    until("the topic is back", || cluster.leader(&topic) == Some(1));
    cluster.delete_records(&topic, -1);
    cluster.topic_delete(&topic);

    let dir = cluster.dir.clone();
    let process = std::fs::read_to_string(dir.join("broker-1/pid")).unwrap();
    let process = Path::new("/proc").join(process.trim());
    assert!(process.exists());
    drop(cluster);
    assert!(!process.exists(), "{} is still there", process.display());
    assert!(!dir.exists(), "{} is still there", dir.display());
}
