//! `compose/replicas.sh`, as a new user runs it.

use crate::server::CONFOLD;
use crate::support::repository;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn confold(words: &[&str]) -> String {
    let output = Command::new(CONFOLD).args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_broker_and_three_replicas_come_up_within_a_minute_share_every_write_and_leave_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let mut script = Command::new(repository().join("compose/replicas.sh"))
        .env("CONFOLD", CONFOLD)
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(script.stdout.take().unwrap()).lines();
    let addresses = lines.find_map(|line| line.unwrap().strip_prefix("ready ").map(str::to_owned));
    let took = began.elapsed();
    let addresses = addresses.expect("it says where the replicas are");
    assert!(took < Duration::from_secs(60), "up after {took:?}");
    let [one, two, three] = addresses.split(' ').collect::<Vec<&str>>()[..] else {
        panic!("{addresses}")
    };

    let answer = confold(&["set", "/devices/olt-1:admin_state=DISABLED", "--server", one, "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let token = answer["token"]
        .as_str()
        .unwrap_or_else(|| panic!("a token in {answer}"));
    let read = ["get", "/devices/olt-1:admin_state", "--server", two, "--token", token];
    assert_eq!(confold(&read).trim(), "admin_state: DISABLED");
    let read = [
        "get",
        "/devices/olt-1:admin_state",
        "--server",
        three,
        "--consistency",
        "linearizable",
    ];
    assert_eq!(confold(&read).trim(), "admin_state: DISABLED");

    let stopped = Command::new("kill")
        .args(["-TERM", &script.id().to_string()])
        .status()
        .unwrap();
    assert!(stopped.success());
    script.wait().unwrap();
    for address in [one, two, three] {
        assert!(TcpStream::connect(address).is_err(), "{address} still answers");
    }
    assert_eq!(
        std::fs::read_dir(temporary.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}
