//! The one suite, against the logs of this crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use confold_log::Log;
use confold_log::conformance::{CASES, Harness, run_all};
use confold_log::file::{FileLog, Identity, Options};
use confold_log::memory::MemoryLog;
use parking_lot::Mutex;

const LIMIT: usize = 100_000;

#[test]
fn the_memory_log_conforms() {
    run_all(&Memory::default());
}

#[test]
fn the_memory_log_that_is_fenced_by_an_append_conforms() {
    run_all(&Memory {
        by_append: true,
        ..Memory::default()
    });
}

#[test]
fn the_memory_log_that_stores_no_digests_conforms() {
    run_all(&Memory {
        without_digests: true,
        ..Memory::default()
    });
}

#[test]
fn the_file_log_conforms() {
    run_all(&File::new(Options::default()));
}

#[test]
fn the_file_log_conforms_when_everything_is_as_small_as_can_be() {
    // Each batch is one record and one segment, and every read goes to the disk.
    run_all(&File::new(Options {
        segment_bytes: 1,
        batch_bytes: 1,
        ring_bytes: 0,
        queue_bytes: 500,
        ..Options::default()
    }));
}

#[test]
fn the_suite_tells_a_log_that_loses_a_record() {
    struct Lossy(Memory);
    impl Harness for Lossy {
        fn fresh(&self) -> Arc<dyn Log> {
            let log = self.0.fresh_memory();
            log.fail_next([confold_log::memory::AppendFault::Swallow]);
            Arc::new(log)
        }
        fn reopen(&self, closed: Arc<dyn Log>) -> Arc<dyn Log> {
            self.0.reopen(closed)
        }
        fn record_limit(&self) -> usize {
            LIMIT
        }
        fn deadline(&self) -> Duration {
            Duration::from_millis(50)
        }
    }
    let lossy = Lossy(Memory::default());
    let failed = CASES
        .iter()
        .filter(|(_, case)| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&lossy))).is_err())
        .count();
    assert_eq!(failed, CASES.len() - 1, "all but the empty log");
}

#[derive(Default)]
struct Memory {
    count: AtomicU8,
    by_append: bool,
    without_digests: bool,
    made: Mutex<Vec<MemoryLog>>,
}

impl Memory {
    fn fresh_memory(&self) -> MemoryLog {
        let log = MemoryLog::new([self.count.fetch_add(1, Ordering::Relaxed); 16]);
        log.set_record_limit(LIMIT);
        log.fence_by_append(self.by_append);
        if self.without_digests {
            log.forget_digests(u64::MAX);
        }
        self.made.lock().push(log.clone());
        log
    }
}

impl Harness for Memory {
    fn fresh(&self) -> Arc<dyn Log> {
        Arc::new(self.fresh_memory())
    }

    fn reopen(&self, closed: Arc<dyn Log>) -> Arc<dyn Log> {
        let made = self.made.lock();
        let log = made
            .iter()
            .find(|log| log.transport_id() == closed.transport_id())
            .unwrap();
        log.reopen();
        closed
    }

    fn record_limit(&self) -> usize {
        LIMIT
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(20)
    }
}

struct File {
    folder: tempfile::TempDir,
    options: Options,
    count: AtomicU8,
}

impl File {
    fn new(options: Options) -> File {
        let options = Options {
            record_bytes: LIMIT,
            ..options
        };
        File {
            folder: tempfile::tempdir().unwrap(),
            options,
            count: AtomicU8::new(0),
        }
    }
}

impl Harness for File {
    fn fresh(&self) -> Arc<dyn Log> {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let identity = Identity {
            log_id: [1; 16],
            transport_id: [n; 16],
        };
        Arc::new(FileLog::create(&self.folder.path().join(n.to_string()), identity, self.options.clone()).unwrap())
    }

    fn reopen(&self, closed: Arc<dyn Log>) -> Arc<dyn Log> {
        let n = closed.transport_id()[0];
        let options = Options {
            transport_id: Some([n; 16]),
            verify_all: true,
            ..self.options.clone()
        };
        Arc::new(FileLog::open(&self.folder.path().join(n.to_string()), options).unwrap())
    }

    fn record_limit(&self) -> usize {
        LIMIT
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(20)
    }
}
