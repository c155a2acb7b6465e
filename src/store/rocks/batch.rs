//! A batch of the fold as one write batch of RocksDB.

use crate::keys::{self, OBJECTS, ROWS};
use crate::{RocksStore, pages};
use bytes::Bytes;
use confold_model::ids::{Hash, Revision, Time};
use confold_store::{Batch, IdRow, PersistedTree, RevisionRow, Rows, StateEdit, StoreError, Touched};
use rocksdb::{ColumnFamily, WriteBatch};
use std::collections::HashMap;
use std::sync::Arc;

/// What the writing thread knows of the rows written so far.
#[derive(Default)]
pub struct Writer {
    pub last_time: Option<Time>,
    pub authors: HashMap<Arc<str>, u32>,
}

/// Puts gathered for one atomic write.
pub struct Puts<'s> {
    rows: &'s ColumnFamily,
    objects: &'s ColumnFamily,
    pub batch: WriteBatch,
    pub objects_put: u64,
    /// Authors seen for the first time, numbered on from those known.
    pub new_authors: Vec<Arc<str>>,
}

impl<'s> Puts<'s> {
    pub fn of(store: &'s RocksStore) -> Result<Puts<'s>, StoreError> {
        let (rows, objects) = (store.family(ROWS)?, store.family(OBJECTS)?);
        Ok(Puts {
            rows,
            objects,
            batch: WriteBatch::default(),
            objects_put: 0,
            new_authors: Vec::new(),
        })
    }

    /// Everything in the batch, the head included.
    pub fn batch(&mut self, batch: &Batch, writer: &Writer) -> Result<(), StoreError> {
        self.objects(&batch.objects);
        self.revisions(&batch.revisions, writer)?;
        self.touched(&batch.touched);
        self.ids(&batch.ids);
        self.state(&batch.state);
        if let Some(tree) = batch.persists() {
            self.persisted(&tree);
        }
        self.row(keys::head(), pages::encode_head(&batch.head));
        Ok(())
    }

    /// Everything but a head and state.
    pub fn rows(&mut self, rows: &Rows, writer: &Writer) -> Result<(), StoreError> {
        self.objects(&rows.objects);
        self.revisions(&rows.revisions, writer)?;
        self.touched(&rows.touched);
        self.ids(&rows.ids);
        rows.persisted.iter().for_each(|tree| self.persisted(tree));
        Ok(())
    }

    /// In the order of their hashes: neighbours in the memtable follow one another, which spares half of the search
    /// for each place.
    pub fn objects(&mut self, objects: &[(Hash, Bytes)]) {
        let mut sorted: Vec<&(Hash, Bytes)> = objects.iter().collect();
        sorted.sort_unstable_by_key(|(hash, _)| *hash);
        for (hash, bytes) in sorted {
            self.batch.put_cf(self.objects, hash.0, bytes);
        }
        self.objects_put += objects.len() as u64;
    }

    pub fn delete_objects(&mut self, hashes: &[Hash]) {
        hashes
            .iter()
            .for_each(|hash| self.batch.delete_cf(self.objects, hash.0));
    }

    pub fn persisted(&mut self, tree: &PersistedTree) {
        self.row(keys::persisted(tree.revision), pages::encode_persisted(tree));
    }

    pub fn forget_persisted(&mut self, revision: Revision) {
        self.batch.delete_cf(self.rows, keys::persisted(revision));
    }

    fn revisions(&mut self, revisions: &[RevisionRow], writer: &Writer) -> Result<(), StoreError> {
        for row in revisions {
            if !writer.authors.contains_key(&row.author) && !self.new_authors.contains(&row.author) {
                let number = u32::try_from(writer.authors.len() + self.new_authors.len());
                let number = number.map_err(|_| StoreError::refused("more authors than a store has numbers for"))?;
                self.row(keys::author(number), row.author.as_bytes());
                self.new_authors.push(row.author.clone());
            }
            self.row(keys::root(&row.root, row.revision), []);
        }
        let (known, new) = (writer.authors.len(), self.new_authors.clone());
        let number = |name: &Arc<str>| match writer.authors.get(name) {
            Some(number) => *number,
            None => (known + new.iter().position(|of| of == name).unwrap_or_default()) as u32,
        };
        let (mut rest, mut last) = (revisions, writer.last_time);
        while let Some(first) = rest.first() {
            if last.is_none_or(|last| first.time < last) {
                self.row(keys::time_run(first.revision), first.time.0.to_be_bytes());
            }
            let (page, after) = rest.split_at(pages::page_length(rest));
            self.row(keys::revisions(first.revision), pages::encode_revisions(page, number));
            last = page.last().map(|row| row.time);
            rest = after;
        }
        Ok(())
    }

    fn touched(&mut self, touched: &[Touched]) {
        let mut sorted: Vec<Touched> = touched.to_vec();
        sorted.sort_unstable_by_key(|row| (row.path, row.revision));
        for path in sorted.chunk_by(|a, b| a.path == b.path) {
            for page in path.chunks(pages::ROWS_IN_A_PAGE) {
                self.row(
                    keys::touched(&page[0].path, page[0].revision),
                    pages::encode_touched(page),
                );
            }
        }
    }

    fn ids(&mut self, ids: &[IdRow]) {
        for page in ids.chunks(pages::ROWS_IN_A_PAGE) {
            self.row(keys::ids(page[0].position), pages::encode_ids(page));
        }
    }

    fn state(&mut self, edits: &[StateEdit]) {
        for edit in edits {
            let key = keys::state(edit.table, &edit.key);
            match &edit.value {
                Some(value) => self.row(key, value),
                None => self.batch.delete_cf(self.rows, key),
            }
        }
    }

    fn row(&mut self, key: Vec<u8>, value: impl AsRef<[u8]>) {
        self.batch.put_cf(self.rows, key, value);
    }
}
