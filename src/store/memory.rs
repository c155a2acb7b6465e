//! A store in ordered maps: for tests, tools and replicas that need not outlive their process.

use crate::{
    Batch, Durability, Engine, Estimate, Head, IdRow, Order, PathDigest, PersistedTree, RevisionRow, RootPrefix, RowVisitor,
    Rows, Stats, Store, StoreError, SweepGate, Touched, check_batch, missing, verified,
};
use bytes::Bytes;
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_model::objects::{Objects, ObjectsError};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};

/// Holds everything as long as it lives; "durable" is what was synced, to be asked about as in any other store.
#[derive(Default)]
pub struct MemoryStore {
    tables: RwLock<Tables>,
    gate: SweepGate,
    objects_read: AtomicU64,
}

#[derive(Clone, Default)]
struct Tables {
    head: Option<Head>,
    durable: Option<Position>,
    objects: BTreeMap<Hash, Bytes>,
    object_bytes: u64,
    revisions: BTreeMap<Revision, RevisionRow>,
    touched: BTreeMap<(PathDigest, Revision), u8>,
    ids: BTreeMap<EventId, IdRow>,
    state: BTreeMap<(u16, Vec<u8>), Bytes>,
    persisted: BTreeMap<Revision, PersistedTree>,
    stats: Stats,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// A second store that holds what this one holds now: what a copied folder or a restored backup is to a store on disk.
    pub fn snapshot(&self) -> MemoryStore {
        MemoryStore {
            tables: RwLock::new(self.tables.read().clone()),
            ..MemoryStore::default()
        }
    }
}

impl Objects for MemoryStore {
    fn object(&self, hash: &Hash) -> Result<Bytes, ObjectsError> {
        self.objects_read.fetch_add(1, Ordering::Relaxed);
        let bytes = self
            .tables
            .read()
            .objects
            .get(hash)
            .cloned()
            .ok_or_else(|| missing(hash))?;
        verified(hash, bytes)
    }
}

impl Store for MemoryStore {
    fn head(&self) -> Option<Head> {
        self.tables.read().head.clone()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let _admitted = self.gate.admit(batch.objects.iter().map(|(hash, _)| hash));
        let mut guard = self.tables.write();
        let tables = &mut *guard;
        check_batch(tables.head.as_ref(), batch)?;
        tables.put_objects(&batch.objects);
        tables.put_rows(&batch.revisions, &batch.touched, &batch.ids);
        tables
            .persisted
            .extend(batch.persists().map(|tree| (tree.revision, tree)));
        for edit in &batch.state {
            let key = (edit.table, edit.key.clone());
            match &edit.value {
                Some(value) => tables.state.insert(key, value.clone()),
                None => tables.state.remove(&key),
            };
        }
        tables.head = Some(batch.head.clone());
        if batch.durability == Durability::Now {
            tables.sync();
        }
        tables.stats.batches += 1;
        Ok(())
    }

    fn load(&self, rows: &Rows) -> Result<(), StoreError> {
        let mut tables = self.tables.write();
        if tables.head.is_some() {
            return Err(StoreError::refused("a snapshot goes into an empty store only"));
        }
        tables.put_objects(&rows.objects);
        tables.put_rows(&rows.revisions, &rows.touched, &rows.ids);
        tables
            .persisted
            .extend(rows.persisted.iter().map(|tree| (tree.revision, *tree)));
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.tables.write().sync();
        Ok(())
    }

    fn durable(&self) -> Option<Position> {
        self.tables.read().durable
    }

    fn revision(&self, revision: Revision) -> Result<Option<RevisionRow>, StoreError> {
        Ok(self.tables.read().revisions.get(&revision).cloned())
    }

    fn revisions(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<RevisionRow>, StoreError> {
        Ok(slice(&self.tables.read().revisions, range, order, limit))
    }

    fn revision_at_position(&self, position: Position) -> Result<Option<RevisionRow>, StoreError> {
        Ok(self
            .tables
            .read()
            .revisions
            .values()
            .rev()
            .find(|row| row.position <= position)
            .cloned())
    }

    fn revision_at_time(&self, time: Time) -> Result<Option<RevisionRow>, StoreError> {
        Ok(self
            .tables
            .read()
            .revisions
            .values()
            .rev()
            .find(|row| row.time <= time)
            .cloned())
    }

    fn revisions_by_root(&self, prefix: &RootPrefix, limit: usize) -> Result<Vec<RevisionRow>, StoreError> {
        let tables = self.tables.read();
        let mut found: Vec<&RevisionRow> = tables
            .revisions
            .values()
            .filter(|row| prefix.matches(&row.root))
            .collect();
        found.sort_by_key(|row| (row.root, row.revision));
        Ok(found.into_iter().take(limit).cloned().collect())
    }

    fn touched(
        &self,
        path: &PathDigest,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Touched>, StoreError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let tables = self.tables.read();
        let rows = tables.touched.range((*path, *range.start())..=(*path, *range.end()));
        let row = |((path, revision), kind): (&(PathDigest, Revision), &u8)| Touched {
            revision: *revision,
            path: *path,
            kind: *kind,
        };
        Ok(match order {
            Order::Ascending => rows.map(row).take(limit).collect(),
            Order::Descending => rows.rev().map(row).take(limit).collect(),
        })
    }

    fn id(&self, id: &EventId, reach: u64) -> Result<Option<IdRow>, StoreError> {
        let row = self.tables.read().ids.get(id).copied();
        Ok(row.filter(|row| row.position.0 - id.seen.0 <= reach))
    }

    fn ids(&self, from: Position, limit: usize) -> Result<Vec<IdRow>, StoreError> {
        let tables = self.tables.read();
        let mut found: Vec<IdRow> = tables.ids.values().filter(|row| row.position >= from).copied().collect();
        found.sort_by_key(|row| row.position);
        found.truncate(limit);
        Ok(found)
    }

    fn all_touched(&self, from: (PathDigest, Revision), limit: usize) -> Result<Vec<Touched>, StoreError> {
        let tables = self.tables.read();
        let rows = tables.touched.range(from..).take(limit);
        Ok(rows
            .map(|((path, revision), kind)| Touched {
                revision: *revision,
                path: *path,
                kind: *kind,
            })
            .collect())
    }

    fn state_row(&self, table: u16, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.tables.read().state.get(&(table, key.to_vec())).cloned())
    }

    fn state_rows(&self, table: u16, visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        let tables = self.tables.read();
        let rows = tables
            .state
            .range((table, Vec::new())..)
            .take_while(|((of, _), _)| *of == table);
        rows.into_iter().try_for_each(|((_, key), value)| visit(key, value))
    }

    fn persisted_at_or_below(&self, revision: Revision) -> Result<Option<PersistedTree>, StoreError> {
        Ok(self
            .tables
            .read()
            .persisted
            .range(..=revision)
            .next_back()
            .map(|(_, tree)| *tree))
    }

    fn persisted(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<PersistedTree>, StoreError> {
        Ok(slice(&self.tables.read().persisted, range, order, limit))
    }

    fn persist_tree(&self, tree: PersistedTree, objects: &[(Hash, Bytes)]) -> Result<(), StoreError> {
        let _admitted = self.gate.admit_alone()?;
        let mut tables = self.tables.write();
        tables.put_objects(objects);
        tables.persisted.insert(tree.revision, tree);
        Ok(())
    }

    fn forget_persisted(&self, revisions: &[Revision]) -> Result<(), StoreError> {
        let mut tables = self.tables.write();
        if let Some(last) = tables
            .persisted
            .keys()
            .next_back()
            .filter(|last| revisions.contains(last))
        {
            return Err(StoreError::refused(format!(
                "the tree of revision {last} is the newest one, the fold builds on it"
            )));
        }
        tables.persisted.retain(|revision, _| !revisions.contains(revision));
        Ok(())
    }

    fn gate(&self) -> &SweepGate {
        &self.gate
    }

    fn object_sizes(&self, from: &Hash, limit: usize) -> Result<Vec<(Hash, u32)>, StoreError> {
        let size = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Ok(self
            .tables
            .read()
            .objects
            .range(*from..)
            .take(limit)
            .map(|(hash, bytes)| (*hash, size(bytes)))
            .collect())
    }

    fn delete_objects(&self, hashes: &[Hash]) -> Result<(), StoreError> {
        let mut tables = self.tables.write();
        for hash in hashes {
            if let Some(bytes) = tables.objects.remove(hash) {
                tables.object_bytes -= bytes.len() as u64;
                tables.stats.objects_deleted += 1;
            }
        }
        Ok(())
    }

    fn estimate(&self) -> Estimate {
        let tables = self.tables.read();
        Estimate {
            objects: tables.objects.len() as u64,
            bytes: tables.object_bytes,
        }
    }

    fn engine(&self) -> Engine {
        Engine::default()
    }

    fn stats(&self) -> Stats {
        Stats {
            objects_read: self.objects_read.load(Ordering::Relaxed),
            ..self.tables.read().stats
        }
    }
}

impl Tables {
    fn put_rows(&mut self, revisions: &[RevisionRow], touched: &[Touched], ids: &[IdRow]) {
        self.revisions
            .extend(revisions.iter().map(|row| (row.revision, row.clone())));
        self.touched
            .extend(touched.iter().map(|row| ((row.path, row.revision), row.kind)));
        self.ids.extend(ids.iter().map(|row| (row.id, *row)));
    }

    fn put_objects(&mut self, objects: &[(Hash, Bytes)]) {
        for (hash, bytes) in objects {
            self.stats.objects_put += 1;
            self.stats.puts += 1;
            self.stats.bytes += 32 + bytes.len() as u64;
            if self.objects.insert(*hash, bytes.clone()).is_none() {
                self.object_bytes += bytes.len() as u64;
            }
        }
    }

    fn sync(&mut self) {
        self.durable = self.head.as_ref().map(|head| head.applied);
        self.stats.syncs += 1;
    }
}

/// A range of rows by revision. An empty range is no error, as it is for a `BTreeMap`.
fn slice<T: Clone>(
    rows: &BTreeMap<Revision, T>,
    range: RangeInclusive<Revision>,
    order: Order,
    limit: usize,
) -> Vec<T> {
    if range.is_empty() {
        return Vec::new();
    }
    let rows = rows.range(range).map(|(_, row)| row);
    match order {
        Order::Ascending => rows.take(limit).cloned().collect(),
        Order::Descending => rows.rev().take(limit).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Fixture;
    use std::sync::Arc;

    crate::store_conformance!(|| Fixture {
        store: Arc::new(MemoryStore::new()),
        keep: Box::new(())
    });
}
