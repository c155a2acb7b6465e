//! F22: the clock is a year behind, a year ahead, and jumps. What is folded depends on the log's times alone, and they never go back.

use super::writers::{WRITERS, commit, new_id, remote};
use super::{Chance, copy_folder, number, preload, store_for_writers};
use crate::server::ServerProcess;
use confold::wire::pb;
use std::path::Path;

const YEAR: i64 = 365 * 24 * 3600;
const WEEK: i64 = 7 * 24 * 3600;

fn serve(data: &Path, shift: &Path) -> ServerProcess {
    let serve = ["serve", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    ServerProcess::run_with(
        &serve,
        &preload::environment(&[("CONFOLD_CLOCK", shift.to_str().unwrap())]),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_jump_change_no_root_and_times_never_go_back() {
    let rounds = number("CONFOLD_CLOCKS").unwrap_or(1);
    let mut chance = Chance::new();
    let mut commits = 0;
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let (data, shift) = (dir.path().join("data"), dir.path().join("shift"));
        let set = |seconds: i64| std::fs::write(&shift, seconds.to_string()).unwrap();
        store_for_writers(&data).await;
        let mut times: Vec<(i64, u64)> = Vec::new();
        // Lives of the server, each with the clocks that it sees.
        let first = chance.between(0, 100_000) as i64;
        for (life, shifts) in [
            [-YEAR, -YEAR + WEEK, 0],
            [0, WEEK, -WEEK],
            [first, YEAR, -YEAR],
            [-YEAR, 0, YEAR + WEEK],
        ]
        .iter()
        .enumerate()
        {
            set(shifts[0]);
            let server = serve(&data, &shift);
            let api = remote(&server.address);
            let seen = api.status(pb::StatusRequest::default()).await.unwrap().position;
            for turn in 0..30 {
                set(shifts[turn as usize / 10]);
                let number = turn as usize % WRITERS;
                let id = new_id(seen, number, round << 8 | life as u64, turn);
                let decision = api
                    .commit(commit(number, 1_000 * life as u64 + turn + 1, id))
                    .await
                    .unwrap();
                times.push((decision.time_ms.unwrap(), decision.revision.unwrap()));
                commits += 1;
            }
            server.kill();
        }
        assert!(
            times
                .windows(2)
                .all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 < pair[1].1),
            "{times:?}"
        );
        let (earliest, latest) = (times[0].0, times[times.len() - 1].0);
        assert!(
            latest - earliest > YEAR * 1000,
            "the clock has jumped: {earliest} to {latest}"
        );

        // Three replicas of this log fold it with three clocks.
        let mut stands = Vec::new();
        for clock in [-YEAR, 0, YEAR] {
            let replica = dir.path().join(format!("replica-{clock}"));
            copy_folder(&data, &replica);
            std::fs::remove_dir_all(replica.join("store")).unwrap();
            set(clock);
            let server = serve(&replica, &shift);
            let api = remote(&server.address);
            let mut answers = Vec::new();
            // As of each time at which something happened, and just before and after it.
            for at in times.iter().flat_map(|(time, _)| [time - 1, *time, time + 1]) {
                let read = pb::Read {
                    at: format!("time:{at}"),
                    ..Default::default()
                };
                let request = pb::GetRequest {
                    read: Some(read),
                    path: "/".into(),
                    ..Default::default()
                };
                let found = api.get(request).await;
                answers.push((at, found.map_or(0, |found| found.read_at.unwrap().revision)));
            }
            answers.sort();
            assert!(
                answers.windows(2).all(|pair| pair[0].1 <= pair[1].1),
                "as of: {answers:?}"
            );
            for (time, revision) in &times {
                let found = answers.iter().find(|(at, _)| at == time).unwrap().1;
                assert!(
                    found >= *revision,
                    "as of {time}: revision {found}, {revision} was made by then"
                );
            }
            // What was folded, up to where all of them have it; what they post about themselves comes after it.
            let last = times[times.len() - 1].1;
            let read = pb::Read {
                at: format!("rev:{last}"),
                ..Default::default()
            };
            let found = api
                .get(pb::GetRequest {
                    read: Some(read),
                    path: "/".into(),
                    ..Default::default()
                })
                .await
                .unwrap();
            stands.push((found.read_at.unwrap().root, answers));
        }
        assert!(
            stands.windows(2).all(|pair| pair[0] == pair[1]),
            "three clocks, three answers"
        );
    }
    println!("SOAK rounds={rounds} commits={commits} replicas={} wrong=0", 3 * rounds);
}
