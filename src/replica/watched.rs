//! The store as a replica sees it: whoever meets damage in it, a reader or the fold, stops the replica.

use bytes::Bytes;
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::objects::{Objects, ObjectsError};
use confold_store::{
    Batch, Engine, Estimate, Head, IdRow, Order, PathDigest, PersistedTree, RevisionRow, RootPrefix, RowVisitor, Rows,
    Stats, Store, StoreError, SweepGate, Touched,
};
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

/// Told of damage, in the thread that met it, whatever locks that holds.
pub(crate) type Told = Box<dyn Fn(&StoreError) + Send + Sync>;

/// Passes everything on, and looks at what comes back.
pub(crate) struct Watched {
    inner: Arc<dyn Store>,
    told: OnceLock<Told>,
}

impl Watched {
    pub fn new(inner: Arc<dyn Store>) -> Watched {
        Watched {
            inner,
            told: OnceLock::new(),
        }
    }

    /// Whom to tell. Once; what is met before is for whoever met it.
    pub fn tell(&self, told: Told) {
        let _ = self.told.set(told);
    }

    fn seen<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if let (Err(error), Some(told)) = (&answer, self.told.get())
            && error.is_damage()
        {
            told(error);
        }
        answer
    }
}

impl Objects for Watched {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        let answer = self.inner.object(hash);
        if let Err(error) = &answer {
            let _ = self.seen::<()>(Err(error.clone().into()));
        }
        answer
    }
}

impl Store for Watched {
    fn head(&self) -> Option<Head> {
        self.inner.head()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        self.seen(self.inner.commit(batch))
    }

    fn load(&self, rows: &Rows) -> Result<(), StoreError> {
        self.seen(self.inner.load(rows))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.seen(self.inner.sync())
    }

    fn durable(&self) -> Option<Position> {
        self.inner.durable()
    }

    fn revision(&self, revision: Revision) -> Result<Option<RevisionRow>, StoreError> {
        self.seen(self.inner.revision(revision))
    }

    fn revisions(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<RevisionRow>, StoreError> {
        self.seen(self.inner.revisions(range, order, limit))
    }

    fn revision_at_position(&self, position: Position) -> Result<Option<RevisionRow>, StoreError> {
        self.seen(self.inner.revision_at_position(position))
    }

    fn revision_at_time(&self, time: Time) -> Result<Option<RevisionRow>, StoreError> {
        self.seen(self.inner.revision_at_time(time))
    }

    fn revisions_by_root(&self, prefix: &RootPrefix, limit: usize) -> Result<Vec<RevisionRow>, StoreError> {
        self.seen(self.inner.revisions_by_root(prefix, limit))
    }

    fn touched(
        &self,
        path: &PathDigest,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Touched>, StoreError> {
        self.seen(self.inner.touched(path, range, order, limit))
    }

    fn id(&self, id: &EventId, reach: u64) -> Result<Option<IdRow>, StoreError> {
        self.seen(self.inner.id(id, reach))
    }

    fn ids(&self, from: Position, limit: usize) -> Result<Vec<IdRow>, StoreError> {
        self.seen(self.inner.ids(from, limit))
    }

    fn all_touched(&self, from: (PathDigest, Revision), limit: usize) -> Result<Vec<Touched>, StoreError> {
        self.seen(self.inner.all_touched(from, limit))
    }

    fn state_row(&self, table: u16, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.seen(self.inner.state_row(table, key))
    }

    fn state_rows(&self, table: u16, visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        self.seen(self.inner.state_rows(table, visit))
    }

    fn persisted_at_or_below(&self, revision: Revision) -> Result<Option<PersistedTree>, StoreError> {
        self.seen(self.inner.persisted_at_or_below(revision))
    }

    fn persisted(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<PersistedTree>, StoreError> {
        self.seen(self.inner.persisted(range, order, limit))
    }

    fn persist_tree(&self, tree: PersistedTree, objects: &[(Hash, Bytes)]) -> Result<(), StoreError> {
        self.seen(self.inner.persist_tree(tree, objects))
    }

    fn forget_persisted(&self, revisions: &[Revision]) -> Result<(), StoreError> {
        self.seen(self.inner.forget_persisted(revisions))
    }

    fn gate(&self) -> &SweepGate {
        self.inner.gate()
    }

    fn object_sizes(&self, from: &Hash, limit: usize) -> Result<Vec<(Hash, u32)>, StoreError> {
        self.seen(self.inner.object_sizes(from, limit))
    }

    fn delete_objects(&self, hashes: &[Hash]) -> Result<(), StoreError> {
        self.seen(self.inner.delete_objects(hashes))
    }

    fn engine(&self) -> Engine {
        self.inner.engine()
    }

    fn estimate(&self) -> Estimate {
        self.inner.estimate()
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}
