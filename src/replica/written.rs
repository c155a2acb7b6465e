//! How far what was shown stands in the store, and waiting for the rest of it.
//!
//! Whoever waits for an event is answered, and views are published, before the batch is written: the log has the event, and a store may lose its
//! newest batches anyway. Reads of rows wait for what was shown before they began.

use confold_model::ids::Position;
use confold_store::StoreError;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

pub(crate) struct Written {
    /// The position after the last one shown.
    shown: AtomicU64,
    /// The position after the last one in the store.
    written: AtomicU64,
    waiting: AtomicUsize,
    /// Why the store does not take the next batch now, or ever.
    stuck: Mutex<Option<StoreError>>,
    moved: Condvar,
}

impl Written {
    /// `next`: the position after the last one in the store.
    pub fn new(next: Position) -> Written {
        Written {
            shown: AtomicU64::new(next.0),
            written: AtomicU64::new(next.0),
            waiting: AtomicUsize::new(0),
            stuck: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    /// Everything below `next` was shown.
    pub fn show(&self, next: Position) {
        self.shown.store(next.0, SeqCst);
    }

    /// Everything below `next` stands in the store.
    pub fn reach(&self, next: Position) {
        let mut stuck = self.stuck.lock();
        self.written.store(next.0, SeqCst);
        *stuck = None;
        if self.is_waited_for() {
            self.moved.notify_all();
        }
    }

    /// Until the store goes on, nobody waits for it.
    pub fn stick(&self, error: StoreError) {
        *self.stuck.lock() = Some(error);
        self.moved.notify_all();
    }

    /// Nothing more will be written: as `stick`, unless there is an error already.
    pub fn end(&self, error: StoreError) {
        self.stuck.lock().get_or_insert(error);
        self.moved.notify_all();
    }

    /// Waits for everything that was shown before the call. Blocks, for about as long as the store takes for a batch.
    pub fn wait(&self) -> Result<(), StoreError> {
        self.wait_below(self.shown.load(SeqCst))
    }

    /// Waits for what was shown up to this position.
    pub fn wait_for(&self, position: Position) -> Result<(), StoreError> {
        self.wait_below(self.shown.load(SeqCst).min(position.next().0))
    }

    fn wait_below(&self, next: u64) -> Result<(), StoreError> {
        if self.written.load(SeqCst) >= next {
            return Ok(());
        }
        let mut stuck = self.stuck.lock();
        self.waiting.fetch_add(1, SeqCst);
        let written = loop {
            if self.written.load(SeqCst) >= next {
                break Ok(());
            }
            if let Some(error) = &*stuck {
                break Err(error.clone());
            }
            self.moved.wait(&mut stuck);
        };
        self.waiting.fetch_sub(1, SeqCst);
        written
    }

    pub fn is_stuck(&self) -> bool {
        self.stuck.lock().is_some()
    }

    /// Whether somebody waits: then the open batch is closed at once.
    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(SeqCst) > 0
    }
}
