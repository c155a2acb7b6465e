//! A store in RocksDB: one folder, one process. See `keys.rs` for what lies where.

mod batch;
mod folder;
mod framing;
pub mod keys;
mod pages;
mod reads;
mod tuning;

#[cfg(test)]
mod tests;

pub use folder::set_aside;
pub use tuning::Options;

use batch::{Puts, Writer};
use bytes::Bytes;
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::objects::{Objects, ObjectsError, ObjectsErrorCause};
use confold_store::{
    Batch, Durability, Engine, Estimate, Head, IdRow, Order, PathDigest, PersistedTree, RevisionRow, RootPrefix, RowVisitor,
    Rows, Stats, Store, StoreError, SweepGate, Touched, check_batch, missing, verified,
};
use folder::{Access, Folder};
use keys::{Kind, OBJECTS, ROWS};
use parking_lot::{Mutex, RwLock};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::statistics::Ticker;
use rocksdb::{ColumnFamily, DB, ErrorKind, WriteOptions};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An open store. Dropping it loses nothing to a crash of the process; what has to survive the machine needs `sync`
/// first.
pub struct RocksStore {
    // Closed before the folder's lock is let go.
    db: DB,
    access: Access,
    progress: RwLock<Progress>,
    writer: Mutex<Writer>,
    authors: RwLock<Vec<Arc<str>>>,
    gate: SweepGate,
    /// A write failed: what RocksDB holds in memory may differ from its files, so no further write is begun.
    failed: AtomicBool,
    counters: Counters,
    /// Holds RocksDB's own counters.
    settings: rocksdb::Options,
    _folder: Folder,
}

#[derive(Default)]
struct Progress {
    head: Option<Head>,
    durable: Option<Position>,
}

#[derive(Default)]
struct Counters {
    batches: AtomicU64,
    puts: AtomicU64,
    bytes: AtomicU64,
    objects_put: AtomicU64,
    objects_read: AtomicU64,
    objects_deleted: AtomicU64,
    syncs: AtomicU64,
}

impl RocksStore {
    /// Opens or begins the store in a folder, and checks that its newest batch is whole: the head's checksum, its
    /// root, its revision row.
    pub fn open(dir: &Path, options: &Options) -> Result<RocksStore, StoreError> {
        RocksStore::open_with(dir, options, Access::Write)
    }

    /// Opens a store that no writer has open, and writes nothing into it. Several may read at once.
    pub fn open_read_only(dir: &Path, options: &Options) -> Result<RocksStore, StoreError> {
        RocksStore::open_with(dir, options, Access::Read)
    }

    /// Makes a second store of the same content in a folder that must not exist yet. Files are shared where the file
    /// system can link them.
    pub fn checkpoint(&self, dir: &Path) -> Result<(), StoreError> {
        if dir.exists() {
            return Err(StoreError::refused(format!("{} exists", dir.display())));
        }
        std::fs::create_dir_all(dir).map_err(|error| StoreError::Io {
            what: format!("making {}: {error}", dir.display()),
        })?;
        let checkpoint = Checkpoint::new(&self.db).map_err(storage)?;
        checkpoint.create_checkpoint(folder::database(dir)).map_err(storage)?;
        // The format comes last: without it a copy cut short is seen for what it is.
        folder::adopt(dir)
    }

    fn open_with(dir: &Path, options: &Options, access: Access) -> Result<RocksStore, StoreError> {
        let folder = folder::open(dir, access)?;
        if folder.fresh && access == Access::Read {
            return Err(StoreError::refused(format!("{} holds no store yet", dir.display())));
        }
        let (settings, families) = (tuning::database(options, folder.fresh), tuning::families(options));
        let db = match access {
            Access::Write => DB::open_cf_descriptors(&settings, &folder.database, families),
            Access::Read => DB::open_cf_descriptors_read_only(&settings, &folder.database, families, false),
        };
        let mut store = RocksStore {
            db: db.map_err(storage)?,
            access,
            progress: RwLock::default(),
            writer: Mutex::default(),
            authors: RwLock::default(),
            gate: SweepGate::default(),
            failed: AtomicBool::new(false),
            counters: Counters::default(),
            settings,
            _folder: folder,
        };
        store.recall()?;
        Ok(store)
    }

    /// Reads what is kept in memory, and compares the parts of the newest batch with one another.
    fn recall(&mut self) -> Result<(), StoreError> {
        let authors = self.read_authors()?;
        let numbers = authors
            .iter()
            .zip(0..)
            .map(|(name, number)| (name.clone(), number))
            .collect();
        self.authors = RwLock::new(authors);
        let Some(head) = self.read_head()? else {
            return match self.is_without_rows()? {
                true => Ok(()),
                false => Err(StoreError::damaged("it has rows but no head")),
            };
        };
        let newest = self
            .revisions(Revision(0)..=Revision(u64::MAX), Order::Descending, 1)?
            .pop();
        let (revision, root) = newest
            .as_ref()
            .map_or((Revision(0), head.root), |row| (row.revision, row.root));
        if (revision, root) != (head.revision, head.root)
            || newest.as_ref().is_some_and(|row| row.position > head.applied)
        {
            let what = format!(
                "its head is at revision {} with root {}, its newest row at {revision} with {root}",
                head.revision, head.root
            );
            return Err(StoreError::damaged(what));
        }
        if let Some(tree) = self.persisted_at_or_below(Revision(u64::MAX))? {
            if tree.revision > head.revision || tree.revision == head.revision && tree.root != head.root {
                return Err(StoreError::damaged(format!(
                    "its newest tree, of revision {}, is not its head's",
                    tree.revision
                )));
            }
            self.object(&tree.root)?;
        }
        *self.writer.get_mut() = Writer {
            last_time: newest.map(|row| row.time),
            authors: numbers,
        };
        // Opening for writing has moved what was in the write-ahead log into synced files.
        *self.progress.get_mut() = Progress {
            durable: Some(head.applied),
            head: Some(head),
        };
        Ok(())
    }

    fn family(&self, name: &str) -> Result<&ColumnFamily, StoreError> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| StoreError::damaged(format!("it has no column family {name}")))
    }

    /// One atomic write. After a failure the store only reads.
    fn write(&self, puts: Puts<'_>, durability: Durability) -> Result<(), StoreError> {
        if self.access == Access::Read {
            return Err(StoreError::refused("the store is open for reading only"));
        }
        if self.failed.load(Ordering::Acquire) {
            return Err(StoreError::Io {
                what: "an earlier write failed: open the store anew".into(),
            });
        }
        let (count, bytes, objects) = (
            puts.batch.len() as u64,
            puts.batch.size_in_bytes() as u64,
            puts.objects_put,
        );
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Now);
        self.db
            .write_opt(puts.batch, &options)
            .map_err(|error| self.fail(error))?;
        self.counters.puts.fetch_add(count, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.objects_put.fetch_add(objects, Ordering::Relaxed);
        if durability == Durability::Now {
            self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A write that may bring new authors and revisions.
    fn write_rows(
        &self,
        mut puts: Puts<'_>,
        writer: &mut Writer,
        revisions: &[RevisionRow],
        durability: Durability,
    ) -> Result<(), StoreError> {
        let new_authors = std::mem::take(&mut puts.new_authors);
        // Readers may meet a new author as soon as the write is visible.
        self.authors.write().extend(new_authors.iter().cloned());
        let known = writer.authors.len();
        if let Err(error) = self.write(puts, durability) {
            self.authors.write().truncate(known);
            return Err(error);
        }
        writer.authors.extend(new_authors.into_iter().zip((known as u32)..));
        writer.last_time = revisions.last().map(|row| row.time).or(writer.last_time);
        Ok(())
    }

    /// A full disk is no reason to stop for good: RocksDB takes no write until there is space again, and what it may have of
    /// this one is what the same write will put there.
    fn fail(&self, error: rocksdb::Error) -> StoreError {
        let error = storage(error);
        if !matches!(error, StoreError::Full { .. }) {
            self.failed.store(true, Ordering::Release);
        }
        error
    }
}

impl Objects for RocksStore {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        self.counters.objects_read.fetch_add(1, Ordering::Relaxed);
        let failed = |error: StoreError| {
            let cause = match error {
                StoreError::Damaged { what } => ObjectsErrorCause::Corrupt(what),
                other => ObjectsErrorCause::Unavailable(other.to_string()),
            };
            ObjectsError { hash: *hash, cause }
        };
        let family = self.family(OBJECTS).map_err(failed)?;
        let found = self
            .db
            .get_pinned_cf(family, hash.0)
            .map_err(|error| failed(storage(error)))?;
        verified(hash, Bytes::copy_from_slice(&found.ok_or_else(|| missing(hash))?))
    }
}

impl Store for RocksStore {
    fn head(&self) -> Option<Head> {
        self.progress.read().head.clone()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let _admitted = self.gate.admit(batch.objects.iter().map(|(hash, _)| hash));
        let mut writer = self.writer.lock();
        check_batch(self.progress.read().head.as_ref(), batch)?;
        let mut puts = Puts::of(self)?;
        puts.batch(batch, &writer)?;
        self.write_rows(puts, &mut writer, &batch.revisions, batch.durability)?;
        let mut progress = self.progress.write();
        progress.head = Some(batch.head.clone());
        if batch.durability == Durability::Now {
            progress.durable = Some(batch.head.applied);
        }
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn load(&self, rows: &Rows) -> Result<(), StoreError> {
        let mut writer = self.writer.lock();
        if self.progress.read().head.is_some() {
            return Err(StoreError::refused("a snapshot goes into an empty store only"));
        }
        let mut puts = Puts::of(self)?;
        puts.rows(rows, &writer)?;
        self.write_rows(puts, &mut writer, &rows.revisions, Durability::Later)
    }

    fn sync(&self) -> Result<(), StoreError> {
        if self.access == Access::Read {
            return Ok(());
        }
        let applied = self.progress.read().head.as_ref().map(|head| head.applied);
        self.db.flush_wal(true).map_err(|error| self.fail(error))?;
        self.counters.syncs.fetch_add(1, Ordering::Relaxed);
        let mut progress = self.progress.write();
        progress.durable = progress.durable.max(applied);
        Ok(())
    }

    fn durable(&self) -> Option<Position> {
        self.progress.read().durable
    }

    fn revision(&self, revision: Revision) -> Result<Option<RevisionRow>, StoreError> {
        Ok(self.read_revisions(revision..=revision, Order::Ascending, 1)?.pop())
    }

    fn revisions(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<RevisionRow>, StoreError> {
        self.read_revisions(range, order, limit)
    }

    fn revision_at_position(&self, position: Position) -> Result<Option<RevisionRow>, StoreError> {
        self.find_by_position(position)
    }

    fn revision_at_time(&self, time: Time) -> Result<Option<RevisionRow>, StoreError> {
        self.find_by_time(time)
    }

    fn revisions_by_root(&self, prefix: &RootPrefix, limit: usize) -> Result<Vec<RevisionRow>, StoreError> {
        self.find_by_root(prefix, limit)
    }

    fn touched(
        &self,
        path: &PathDigest,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Touched>, StoreError> {
        self.read_touched(path, range, order, limit)
    }

    fn id(&self, id: &EventId, reach: u64) -> Result<Option<IdRow>, StoreError> {
        self.find_id(id, reach)
    }

    fn ids(&self, from: Position, limit: usize) -> Result<Vec<IdRow>, StoreError> {
        self.read_ids(from, limit)
    }

    fn all_touched(&self, from: (PathDigest, Revision), limit: usize) -> Result<Vec<Touched>, StoreError> {
        self.read_all_touched(from, limit)
    }

    fn state_row(&self, table: u16, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get(&keys::state(table, key))?.map(Bytes::from))
    }

    fn state_rows(&self, table: u16, visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        let prefix = keys::state(table, &[]);
        self.visit(&prefix, &mut |key, value| visit(&key[prefix.len()..], value))
    }

    fn persisted_at_or_below(&self, revision: Revision) -> Result<Option<PersistedTree>, StoreError> {
        Ok(self.read_persisted(Revision(0)..=revision, Order::Descending, 1)?.pop())
    }

    fn persisted(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<PersistedTree>, StoreError> {
        self.read_persisted(range, order, limit)
    }

    fn persist_tree(&self, tree: PersistedTree, objects: &[(Hash, Bytes)]) -> Result<(), StoreError> {
        let _admitted = self.gate.admit_alone()?;
        let mut puts = Puts::of(self)?;
        puts.objects(objects);
        puts.persisted(&tree);
        self.write(puts, Durability::Later)
    }

    fn forget_persisted(&self, revisions: &[Revision]) -> Result<(), StoreError> {
        let newest = self.persisted_at_or_below(Revision(u64::MAX))?;
        if let Some(tree) = newest.filter(|tree| revisions.contains(&tree.revision)) {
            let what = format!(
                "the tree of revision {} is the newest one, the fold builds on it",
                tree.revision
            );
            return Err(StoreError::Refused { what });
        }
        let mut puts = Puts::of(self)?;
        revisions.iter().for_each(|revision| puts.forget_persisted(*revision));
        self.write(puts, Durability::Later)
    }

    fn gate(&self) -> &SweepGate {
        &self.gate
    }

    fn object_sizes(&self, from: &Hash, limit: usize) -> Result<Vec<(Hash, u32)>, StoreError> {
        self.read_object_sizes(from, limit)
    }

    fn delete_objects(&self, hashes: &[Hash]) -> Result<(), StoreError> {
        let mut puts = Puts::of(self)?;
        puts.delete_objects(hashes);
        self.write(puts, Durability::Later)?;
        self.counters
            .objects_deleted
            .fetch_add(hashes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn estimate(&self) -> Estimate {
        let ask = |property| {
            let family = self.db.cf_handle(OBJECTS)?;
            self.db.property_int_value_cf(family, property).ok().flatten()
        };
        let tables = ask(c"rocksdb.estimate-live-data-size").unwrap_or_default();
        let memory = ask(c"rocksdb.cur-size-all-mem-tables").unwrap_or_default();
        Estimate {
            objects: ask(c"rocksdb.estimate-num-keys").unwrap_or_default(),
            bytes: tables + memory,
        }
    }

    fn stats(&self) -> Stats {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            batches: of(&self.counters.batches),
            puts: of(&self.counters.puts),
            bytes: of(&self.counters.bytes),
            objects_put: of(&self.counters.objects_put),
            objects_read: of(&self.counters.objects_read),
            objects_deleted: of(&self.counters.objects_deleted),
            syncs: of(&self.counters.syncs),
        }
    }

    fn engine(&self) -> Engine {
        let count = |ticker| self.settings.get_ticker_count(ticker);
        let ask = |family, property| {
            let family = self.db.cf_handle(family)?;
            self.db.property_int_value_cf(family, property).ok().flatten()
        };
        let of_both = |property| [ROWS, OBJECTS].into_iter().filter_map(|family| ask(family, property)).sum();
        let of_all = |property| ask(ROWS, property).unwrap_or_default();
        Engine {
            cache_hits: count(Ticker::BlockCacheHit),
            cache_misses: count(Ticker::BlockCacheMiss),
            cache_bytes: of_all(c"rocksdb.block-cache-usage"),
            written_bytes: count(Ticker::WalFileBytes) + count(Ticker::FlushWriteBytes) + count(Ticker::CompactWriteBytes),
            disk_bytes: of_both(c"rocksdb.total-sst-files-size"),
            compaction_pending_bytes: of_both(c"rocksdb.estimate-pending-compaction-bytes"),
            held_back: of_all(c"rocksdb.is-write-stopped") > 0 || of_all(c"rocksdb.actual-delayed-write-rate") > 0,
        }
    }
}

/// RocksDB tells in words; what matters is whether the files are wrong or the disk was.
fn storage(error: rocksdb::Error) -> StoreError {
    let (kind, what) = (error.kind(), error.into_string());
    match kind {
        ErrorKind::IOError if what.contains("lock file") => StoreError::Locked { what },
        ErrorKind::IOError if what.contains("No space left on device") => StoreError::Full { what },
        // A file that the manifest names and that is gone.
        ErrorKind::IOError if what.contains("No such file") => StoreError::Damaged { what },
        ErrorKind::IOError
        | ErrorKind::Busy
        | ErrorKind::TimedOut
        | ErrorKind::TryAgain
        | ErrorKind::Aborted
        | ErrorKind::Incomplete
        | ErrorKind::ShutdownInProgress => StoreError::Io { what },
        _ => StoreError::Damaged { what },
    }
}

/// What a kind's rows begin with, for messages.
fn row_damaged(kind: Kind, number: u64) -> StoreError {
    StoreError::damaged(format!("its {kind:?} row at {number} cannot be read"))
}
