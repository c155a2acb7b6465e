//! Nothing grows with the length of the history but its rows and the log: the same work on a store with a short past and on the same
//! store with a long one.
//!
//! `CONFOLD_REVISIONS` says how long (default: short). Times are printed, never asserted.

use crate::support::*;
use confold::Embedded;
use confold::folder;
use confold::replica::{Begin, Handle, Proposal, Submission};
use confold::wire::api::Api;
use confold::wire::pb;
use confold_cli::bench::{self, Load};
use confold_model::event::RetentionPolicy;
use confold_model::ids::Revision;
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

const CHILDREN: u64 = 1_000;
/// Revisions that are kept: what is older may be pruned.
const KEPT: u64 = 2_000;
const MARK_EVERY: u64 = 4_096;
const IN_FLIGHT: usize = 1_024;
const SOON: Duration = Duration::from_secs(60);

fn load() -> Load {
    Load {
        children: CHILDREN,
        record_bytes: 340,
        duration: Duration::ZERO,
        kafka: None,
    }
}

fn put(turn: u64) -> Proposal {
    Proposal::new(confold::bench::puts([bench::item(bench::scattered(turn) % CHILDREN, turn, &load())]))
}

/// Commits of one element each, until the store has so many revisions. Gives how many a second.
async fn grow(handle: &Handle, revisions: u64) -> f64 {
    let (began, first) = (Instant::now(), handle.view().revision.0);
    let mut under_way: VecDeque<Submission> = VecDeque::new();
    for turn in first..revisions {
        if under_way.len() == IN_FLIGHT {
            under_way.pop_front().unwrap().settled().await.unwrap();
        }
        under_way.push_back(handle.submit(put(turn + 1), SOON).unwrap());
    }
    for submission in under_way {
        submission.settled().await.unwrap();
    }
    assert_eq!(handle.view().revision, Revision(revisions));
    (revisions - first) as f64 / began.elapsed().as_secs_f64()
}

/// The middle one of so many times of the same work, in microseconds.
async fn median(times: usize, mut work: impl AsyncFnMut()) -> f64 {
    let mut took = Vec::new();
    for _ in 0..times {
        let began = Instant::now();
        work().await;
        took.push(began.elapsed());
    }
    took.sort();
    took[times / 2].as_secs_f64() * 1e6
}

/// What is measured at one length of the history.
#[derive(Debug)]
struct Figures {
    open_ms: f64,
    commit_us: f64,
    /// A thousand revisions back.
    past_us: f64,
    diff_us: f64,
    log_us: f64,
    resident: u64,
    store: u64,
    log: u64,
}

async fn measure(data: &Path, mut store: Embedded) -> (Embedded, Figures) {
    store.handle().sweep().unwrap();
    store.close().await.unwrap();
    let began = Instant::now();
    store = open(data).await;
    let api = store.api();
    let newest = get(&*api, "latest").await;
    let open_ms = began.elapsed().as_secs_f64() * 1e3;
    let last = store.handle().view().revision.0;
    // Not what stands at the latest revision.
    let old = get(&*api, &(last - 1_000).to_string()).await;
    assert!(newest.0 != old.0 && old.1 == last - 1_000, "{old:?} {newest:?}");
    let past_us = median(200, async || _ = get(&*api, &(last - 1_000).to_string()).await).await;
    let read = |at: &str| {
        Some(pb::Read {
            at: at.to_owned(),
            ..Default::default()
        })
    };
    let between = pb::DiffRequest {
        from: read("latest~10"),
        to: read("latest"),
        ..Default::default()
    };
    let diff_us = median(200, async || _ = diff(&*api, &between).await).await;
    let page = pb::LogRequest {
        limit: 100,
        ..Default::default()
    };
    let log_us = median(50, async || {
        assert_eq!(api.log(page.clone()).await.unwrap().rows.len(), 100)
    })
    .await;
    let mut turn = last;
    let handle = store.handle().clone();
    let commit_us = median(200, async || {
        turn += 1;
        handle.propose(put(turn), SOON).await.unwrap();
    })
    .await;
    let (resident, sizes) = (resident(), ["store", "log"].map(|name| size(&data.join(name))));
    let figures = Figures {
        open_ms,
        commit_us,
        past_us,
        diff_us,
        log_us,
        resident,
        store: sizes[0],
        log: sizes[1],
    };
    drop((api, handle));
    (store, figures)
}

/// Root hash and revision of the state.
async fn get(api: &dyn Api, at: &str) -> (String, u64) {
    let read = pb::Read {
        at: at.to_owned(),
        ..Default::default()
    };
    let request = pb::GetRequest {
        read: Some(read),
        path: "/".to_owned(),
        ..Default::default()
    };
    let read_at = api.get(request).await.unwrap().read_at.unwrap();
    (read_at.root, read_at.revision)
}

async fn diff(api: &dyn Api, request: &pb::DiffRequest) -> usize {
    let changes = api.diff(request.clone()).await.unwrap().changes;
    assert!((1..=10).contains(&changes.len()), "{changes:?}");
    changes.len()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn size(path: &Path) -> u64 {
    match path.is_dir() {
        true => std::fs::read_dir(path)
            .unwrap()
            .map(|entry| size(&entry.unwrap().path()))
            .sum(),
        false => path.metadata().unwrap().len(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_makes_nothing_slower_and_only_rows_and_log_bigger() {
    let long = number("CONFOLD_REVISIONS").unwrap_or(30_000);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let retention = RetentionPolicy {
        keep_revisions: KEPT,
        ..RetentionPolicy::default()
    };
    folder::create(
        &data,
        "history",
        &Begin {
            retention,
            ..Begin::default()
        },
    )
    .unwrap();
    let mut store = open(&data).await;
    let request = pb::PushSchemaRequest {
        descriptor_set: bench::schema().unwrap().into(),
        root_message: bench::ROOT.to_owned(),
        ..Default::default()
    };
    store.api().push_schema(request).await.unwrap();
    grow(store.handle(), 2 * CHILDREN + KEPT).await;
    let (reopened, young) = measure(&data, store).await;
    store = reopened;
    let began = Instant::now();
    // Prunes, sweeps and the database's rewriting go on meanwhile, so each of these is what can be kept up.
    let mut rates = Vec::new();
    let first = store.handle().view().revision.0;
    for tenth in 1..=10 {
        rates.push(grow(store.handle(), first + (long - first) * tenth / 10).await);
    }
    let took = began.elapsed();
    let (store, old) = measure(&data, store).await;
    println!("young {young:.0?}\nold {old:.0?}");
    println!(
        "SOAK revisions={long} seconds={:.0} open={:.0}ms/{:.0}ms commit={:.0}us/{:.0}us past={:.0}us/{:.0}us \
         diff={:.0}us/{:.0}us page={:.0}us/{:.0}us rates={} resident={}MiB/{}MiB store={}MiB/{}MiB log={}MiB/{}MiB",
        took.as_secs_f64(),
        young.open_ms,
        old.open_ms,
        young.commit_us,
        old.commit_us,
        young.past_us,
        old.past_us,
        young.diff_us,
        old.diff_us,
        young.log_us,
        old.log_us,
        rates.iter().map(|rate| format!("{rate:.0}")).collect::<Vec<_>>().join(","),
        young.resident >> 20,
        old.resident >> 20,
        young.store >> 20,
        old.store >> 20,
        young.log >> 20,
        old.log >> 20,
    );
    // Everything ever accepted still has its row, and what is kept its tree.
    let view = store.handle().view();
    let row = store.handle().store().unwrap().revision(Revision(1)).unwrap();
    assert!(row.is_some(), "the first revision has lost its row");
    // Prunes are proposed at marks, and take effect a little later.
    assert!(view.floor.0 > long - KEPT - 2 * MARK_EVERY, "the floor is {:?}", view.floor);
    store.close().await.unwrap();
}
