//! F3: the power fails, on a real file system. F4: the same with a disk that only says that it has synced, to show that the test
//! would see a loss.

use super::disk::{LoopDisk, power_off};
use super::writers::{Writers, remote, whole};
use super::{Chance, number, preload, store_for_writers};
use crate::server::ServerProcess;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

const MEGABYTES: u64 = 320;

/// One life of a server, up to a moment at which the power fails. The error is what was found lost at its beginning.
async fn live(
    disk: &mut LoopDisk,
    writers: &mut Writers,
    chance: &mut Chance,
    environment: &[(&str, &str)],
) -> Result<(), String> {
    let data = disk.root().join("data");
    let serve = ["serve", data.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let server = ServerProcess::try_run(&serve, environment)?;
    let api = remote(&server.address);
    writers.check(&*api).await?;
    let life = Duration::from_millis(chance.between(5, 300));
    let root = disk.root();
    let dark = writers.dark.clone();
    dark.store(false, SeqCst);
    let cut = tokio::task::spawn_blocking(move || {
        // The moment is the only thing here that is a matter of time.
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        _ = never.recv_timeout(life);
        power_off(&root, &dark);
        server.kill();
    });
    writers.write(&api, chance.next()).await;
    cut.await.unwrap();
    disk.power_on();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let Some(mut disk) = LoopDisk::or_skip("F3", MEGABYTES) else {
        return;
    };
    let cycles = number("CONFOLD_POWER_CUTS").unwrap_or(30);
    let mut chance = Chance::new();
    let data = disk.root().join("data");
    store_for_writers(&data).await;
    let mut writers = Writers::new();
    for cycle in 0..cycles {
        live(&mut disk, &mut writers, &mut chance, &[])
            .await
            .unwrap_or_else(|lost| panic!("cycle {cycle}: {lost}"));
    }
    let walked = whole(&data, &writers).await;
    let acknowledged = writers.acknowledged.len();
    assert!(
        acknowledged as u64 >= cycles,
        "{acknowledged} acknowledgements are too few to prove anything"
    );
    println!(
        "SOAK cycles={cycles} acknowledged={acknowledged} lost=0 refused=0 trees={} objects={}",
        walked.trees, walked.objects
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_power_cut_on_a_disk_that_never_syncs_is_found_out() {
    let Some(mut disk) = LoopDisk::or_skip("F4", MEGABYTES) else {
        return;
    };
    let mut chance = Chance::new();
    store_for_writers(&disk.root().join("data")).await;
    let mut writers = Writers::new();
    let lies = preload::environment(&[("CONFOLD_SYNC", "lie")]);
    for cycle in 1..=20 {
        if let Err(lost) = live(&mut disk, &mut writers, &mut chance, &lies).await {
            let acknowledged = writers.acknowledged.len();
            return println!(
                "SOAK found=1 cycles={cycle} acknowledged={acknowledged} ({})",
                lost.lines().next().unwrap_or_default()
            );
        }
    }
    panic!("20 power cuts without a single sync, and nothing seems lost: the test sees nothing");
}
