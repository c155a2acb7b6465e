//! F1: the server is killed at random moments under eight writers. Nothing acknowledged is lost, nothing is applied twice, nothing
//! that is read is wrong.
//!
//! `CONFOLD_KILLS` says how often (40), `CONFOLD_SEED` which moments.

use crate::faults::writers::{Writers, remote, whole};
use crate::faults::{Chance, number, store_for_writers};
use crate::server::ServerProcess;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_eight_writers_loses_nothing_and_doubles_nothing() {
    let kills = number("CONFOLD_KILLS").unwrap_or(40);
    let mut chance = Chance::new();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    store_for_writers(&data).await;
    let mut writers = Writers::new();
    let mut starts = Vec::new();
    for kill in 0..kills {
        let began = Instant::now();
        let server = ServerProcess::start(&data);
        starts.push(began.elapsed());
        let api = remote(&server.address);
        writers.check(&*api).await.unwrap();
        let life = Duration::from_millis(chance.between(5, 500));
        // The moment of death is the only thing here that is a matter of time.
        let killer = tokio::task::spawn_blocking(move || {
            let (_keep, never) = std::sync::mpsc::channel::<()>();
            _ = never.recv_timeout(life);
            server.kill();
        });
        let failed = writers.write(&api, chance.next()).await;
        killer.await.unwrap();
        assert!(
            failed.iter().all(|error| error.code() != tonic::Code::InvalidArgument),
            "kill {kill}: {failed:?}"
        );
    }
    let walked = whole(&data, &writers).await;
    let acknowledged = writers.acknowledged.len();
    assert!(
        acknowledged as u64 >= kills,
        "{acknowledged} acknowledgements are too few to prove anything"
    );
    starts.sort();
    let p99 = starts[starts.len() * 99 / 100].as_millis();
    let remade = walked.remade;
    println!("SOAK kills={kills} acknowledged={acknowledged} lost=0 doubled=0 start_p99_ms={p99} remade={remade}");
}
