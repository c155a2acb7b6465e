//! What the machine can do at best.

use super::{Load, Measured, Recorder};
use crate::error::{Exit, Failure};
use confold_model::ids::Hash;
use std::{fs::File, hint::black_box, io::Write, path::Path, time::Instant};

/// Hashes records of the load's size, one after the other, on this thread.
pub fn blake3(load: &Load) -> Measured {
    const AT_ONCE: u64 = 1_000;
    let record = vec![0x5a; load.record_bytes];
    let mut recorder = Recorder::new();
    let began = Instant::now();
    while began.elapsed() < load.duration {
        for _ in 0..AT_ONCE {
            black_box(Hash::of(black_box(&record)));
        }
        recorder.count(AT_ONCE);
    }
    Measured {
        note: format!("{} bytes", load.record_bytes),
        ..recorder.measured(began.elapsed())
    }
}

/// Appends records of the load's size to a file in this folder, each synced before the next.
pub fn fdatasync(load: &Load, folder: &Path) -> Result<Measured, Failure> {
    let failed = |error| Failure::new(Exit::Damaged, format!("cannot write in {}: {error}", folder.display()));
    let mut file = File::create(folder.join("fdatasync")).map_err(failed)?;
    let record = vec![0x5a; load.record_bytes];
    let mut recorder = Recorder::new();
    let began = Instant::now();
    while began.elapsed() < load.duration {
        let one = Instant::now();
        file.write_all(&record).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        recorder.record(one);
    }
    Ok(Measured {
        note: format!("{} bytes", load.record_bytes),
        ..recorder.measured(began.elapsed())
    })
}
