//! What befalls a server on the embedded log: its process dies, the power fails, the disk refuses, fills up or rots, the clock jumps.
//!
//! Every row makes its fault happen, proves that it did, and then looks at everything that was acknowledged
//! ([`writers::whole`]). docs/reliability.md has the table, `tests/soak.sh` the long runs; both read the line that begins with `SOAK`.

mod clock;
mod disk;
mod dying;
mod folders;
mod full;
mod pause;
mod power;
mod preload;
mod rot;
mod sizes;
mod steps;
mod sync;
pub mod writers;

pub use crate::support::number;
use crate::support::{open, push_schema};
use confold::Embedded;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Moments and places, from `CONFOLD_SEED` or from the clock; the seed is printed.
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Chance {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = number("CONFOLD_SEED").unwrap_or_else(now);
        println!("CONFOLD_SEED={seed}");
        Chance(seed)
    }

    pub fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Both ends included.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }
}

/// A data folder with the schema that the writers' devices need.
pub async fn store_for_writers(data: &Path) {
    Embedded::create(data, "faults").unwrap();
    let store = open(data).await;
    push_schema(&*store.api(), "").await;
    store.close().await.unwrap();
}

/// Copies a folder as it is.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}
