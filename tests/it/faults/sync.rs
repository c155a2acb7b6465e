//! F5: a sync fails with EIO. What is on the disk is then only known to a process that begins anew, so this one ends.

use super::writers::{Writers, remote, whole};
use super::{Chance, number, preload, store_for_writers};
use crate::server::ServerProcess;
use std::time::{Duration, Instant, SystemTime};

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_server_and_loses_nothing_that_was_acknowledged() {
    let runs = number("CONFOLD_SYNC_FAILURES").unwrap_or(10);
    let mut chance = Chance::new();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    store_for_writers(&data).await;
    let mut writers = Writers::new();
    let (mut at_start, mut slowest) = (0, Duration::ZERO);
    for run in 0..runs {
        // The log's first sync is that of opening it; all syncs of the database that are soon are.
        let (part, passing) = match run % 5 {
            3 => ("data/log/", 1),
            4 => ("data/store/", chance.between(1, 3)),
            _ => ("data/log/", chance.between(2, 60)),
        };
        let (fired, passing) = (dir.path().join(format!("fired-{run}")), passing.to_string());
        let environment = preload::environment(&[
            ("CONFOLD_SYNC", "fail"),
            ("CONFOLD_SYNC_PATH", part),
            ("CONFOLD_SYNC_PASSING", &passing),
            ("CONFOLD_SYNC_FIRED", fired.to_str().unwrap()),
        ]);
        let serve = ["serve", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
        match ServerProcess::try_run(&serve, &environment) {
            Err(why) => {
                assert!(fired.exists(), "run {run}: {why}");
                assert!(
                    why.contains("exit status: ") && !why.contains("exit status: 0"),
                    "run {run}: {why}"
                );
                at_start += 1;
            }
            Ok(mut server) => {
                let api = remote(&server.address);
                writers.check(&*api).await.unwrap();
                // Each writes until it is told nothing good any more.
                writers.write(&api, chance.next()).await;
                let status = tokio::task::block_in_place(|| server.ended_within(Duration::from_secs(10)));
                let at = std::fs::metadata(&fired).unwrap().modified().unwrap();
                slowest = slowest.max(SystemTime::now().duration_since(at).unwrap_or_default());
                assert!(
                    status.code().is_some_and(|code| code != 0),
                    "run {run}, {part} {passing}: {status}"
                );
            }
        }
    }
    let began = Instant::now();
    whole(&data, &writers).await;
    assert!(at_start < runs, "every sync failed before the server served");
    let (acknowledged, slowest, checked) = (
        writers.acknowledged.len(),
        slowest.as_millis(),
        began.elapsed().as_millis(),
    );
    assert!(
        acknowledged > 0 && slowest < 5_000,
        "{acknowledged} acknowledged, slowest end {slowest} ms"
    );
    println!(
        "SOAK runs={runs} at_start={at_start} acknowledged={acknowledged} lost=0 slowest_end_ms={slowest} checked_ms={checked}"
    );
}
