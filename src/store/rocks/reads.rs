//! Looking rows up.

use crate::keys::{self, Kind, OBJECTS, ROOT_BYTES, ROWS};
use crate::{RocksStore, pages, row_damaged, storage};
use confold_model::ids::{EventId, Hash, Position, Revision, Time};
use confold_store::{
    Head, IdRow, Order, PathDigest, PersistedTree, RevisionRow, RootPrefix, RowVisitor, StoreError, Touched,
};
use rocksdb::{DBRawIterator, ReadOptions};
use std::ops::RangeInclusive;
use std::sync::Arc;

impl RocksStore {
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.family(ROWS)?, key).map_err(storage)
    }

    pub(crate) fn read_head(&self) -> Result<Option<Head>, StoreError> {
        let Some(bytes) = self.get(&keys::head())? else {
            return Ok(None);
        };
        let head = pages::decode_head(&bytes);
        head.map(Some)
            .ok_or_else(|| StoreError::damaged("the checksum of its head is wrong"))
    }

    pub(crate) fn read_authors(&self) -> Result<Vec<Arc<str>>, StoreError> {
        let mut authors: Vec<Arc<str>> = Vec::new();
        self.visit(&Kind::Author.prefix(), &mut |key, value| {
            let number = authors.len() as u64;
            let name = std::str::from_utf8(value).map_err(|_| row_damaged(Kind::Author, number))?;
            if u32::try_from(number).map(keys::author).ok().as_deref() != Some(key) {
                return Err(row_damaged(Kind::Author, number));
            }
            authors.push(name.into());
            Ok(())
        })?;
        Ok(authors)
    }

    pub(crate) fn is_without_rows(&self) -> Result<bool, StoreError> {
        let mut cursor = self.cursor(&[])?;
        cursor.raw.seek_to_first();
        Ok(cursor.item()?.is_none())
    }

    /// All rows whose key begins so, ascending.
    pub(crate) fn visit(&self, prefix: &[u8], visit: &mut RowVisitor<'_>) -> Result<(), StoreError> {
        let mut cursor = self.cursor(prefix)?;
        cursor.raw.seek_to_first();
        while let Some((key, value)) = cursor.item()? {
            visit(key, value)?;
            cursor.raw.next();
        }
        Ok(())
    }

    pub(crate) fn read_revisions(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<RevisionRow>, StoreError> {
        let decode = |first: Revision, value: &[u8]| self.decode_revisions(first, value);
        self.read_pages(&Kind::Revisions.prefix(), range, order, limit, decode, |row| {
            row.revision
        })
    }

    pub(crate) fn read_touched(
        &self,
        path: &PathDigest,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Touched>, StoreError> {
        let decode = |first: Revision, value: &[u8]| {
            pages::decode_touched(path, first, value).ok_or_else(|| row_damaged(Kind::Touched, first.0))
        };
        self.read_pages(&keys::touched_path(path), range, order, limit, decode, |row| {
            row.revision
        })
    }

    pub(crate) fn read_persisted(
        &self,
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<PersistedTree>, StoreError> {
        let decode = |revision: Revision, value: &[u8]| {
            let tree = pages::decode_persisted(revision, value).ok_or_else(|| row_damaged(Kind::Persisted, revision.0));
            Ok(vec![tree?])
        };
        self.read_pages(&Kind::Persisted.prefix(), range, order, limit, decode, |tree| {
            tree.revision
        })
    }

    pub(crate) fn find_by_position(&self, position: Position) -> Result<Option<RevisionRow>, StoreError> {
        let Some(first) = self.first_page(Revision(0))? else {
            return Ok(None);
        };
        self.last_that(
            first..=Revision(u64::MAX),
            |at, _| at <= position,
            |row| row.position <= position,
        )
    }

    /// Newest run first: within a run times rise, so the first run that begins early enough has the answer.
    pub(crate) fn find_by_time(&self, time: Time) -> Result<Option<RevisionRow>, StoreError> {
        let mut cursor = self.cursor(&Kind::TimeRun.prefix())?;
        cursor.raw.seek_to_last();
        let mut end = Revision(u64::MAX);
        while let Some((key, value)) = cursor.item()? {
            let first = number(Kind::TimeRun, key)?;
            let begins = value
                .try_into()
                .map(i64::from_be_bytes)
                .map_err(|_| row_damaged(Kind::TimeRun, first))?;
            if begins <= time.0 {
                return self.last_that(Revision(first)..=end, |_, at| at <= time, |row| row.time <= time);
            }
            end = Revision(first.saturating_sub(1));
            cursor.raw.prev();
        }
        Ok(None)
    }

    pub(crate) fn find_by_root(&self, prefix: &RootPrefix, limit: usize) -> Result<Vec<RevisionRow>, StoreError> {
        let mut cursor = self.cursor(&Kind::Root.prefix())?;
        cursor.raw.seek(keys::root(&prefix.lowest(), Revision(0)));
        let mut found: Vec<RevisionRow> = Vec::new();
        while let Some((key, _)) = cursor.item()? {
            let revision =
                keys::number(key, 1 + ROOT_BYTES).ok_or_else(|| StoreError::damaged("a root's key has no revision"))?;
            let row = self
                .read_revisions(Revision(revision)..=Revision(revision), Order::Ascending, 1)?
                .pop();
            let row = row
                .filter(|row| keys::root(&row.root, row.revision) == key)
                .ok_or_else(|| row_damaged(Kind::Root, revision))?;
            let same_key = |root: &Hash| root.0[..ROOT_BYTES] == row.root.0[..ROOT_BYTES];
            match prefix.matches(&row.root) {
                // Roots that agree in the bytes of the key stand by revision: all of them, then sorted.
                true if found.len() >= limit && !found.last().is_some_and(|last| same_key(&last.root)) => break,
                true => found.push(row),
                // A prefix longer than the key is compared with the rows that share its beginning.
                false if same_key(&prefix.lowest()) => {}
                false => break,
            }
            cursor.raw.next();
        }
        found.sort_by_key(|row| (row.root, row.revision));
        found.truncate(limit);
        Ok(found)
    }

    pub(crate) fn find_id(&self, id: &EventId, reach: u64) -> Result<Option<IdRow>, StoreError> {
        let last = id.seen.0.saturating_add(reach);
        let mut cursor = self.cursor(&Kind::Ids.prefix())?;
        cursor.at_or_before(&keys::ids(id.seen));
        while let Some((key, value)) = cursor.item()? {
            let first = number(Kind::Ids, key)?;
            if first > last {
                break;
            }
            let rows = pages::decode_ids(value).ok_or_else(|| row_damaged(Kind::Ids, first))?;
            if let Some(row) = rows.into_iter().find(|row| row.id == *id) {
                return Ok((row.position.0 <= last).then_some(row));
            }
            cursor.raw.next();
        }
        Ok(None)
    }

    pub(crate) fn read_ids(&self, from: Position, limit: usize) -> Result<Vec<IdRow>, StoreError> {
        let mut cursor = self.cursor(&Kind::Ids.prefix())?;
        cursor.at_or_before(&keys::ids(from));
        let mut found = Vec::new();
        while found.len() < limit
            && let Some((key, value)) = cursor.item()?
        {
            let first = number(Kind::Ids, key)?;
            let rows = pages::decode_ids(value).ok_or_else(|| row_damaged(Kind::Ids, first))?;
            found.extend(rows.into_iter().filter(|row| row.position >= from));
            cursor.raw.next();
        }
        found.truncate(limit);
        Ok(found)
    }

    pub(crate) fn read_all_touched(
        &self,
        from: (PathDigest, Revision),
        limit: usize,
    ) -> Result<Vec<Touched>, StoreError> {
        let mut cursor = self.cursor(&Kind::Touched.prefix())?;
        cursor.at_or_before(&keys::touched(&from.0, from.1));
        let mut found = Vec::new();
        while found.len() < limit
            && let Some((key, value)) = cursor.item()?
        {
            let damaged = || StoreError::damaged("a Touched key has no path or revision");
            let path = key.get(1..13).and_then(|path| path.try_into().ok()).map(PathDigest);
            let (path, first) = path.zip(keys::number(key, 13)).ok_or_else(damaged)?;
            let rows = pages::decode_touched(&path, Revision(first), value);
            let rows = rows.ok_or_else(|| row_damaged(Kind::Touched, first))?;
            found.extend(rows.into_iter().filter(|row| (row.path, row.revision) >= from));
            cursor.raw.next();
        }
        found.truncate(limit);
        Ok(found)
    }

    pub(crate) fn read_object_sizes(&self, from: &Hash, limit: usize) -> Result<Vec<(Hash, u32)>, StoreError> {
        let mut options = ReadOptions::default();
        // A sweep reads everything once: it must not push out what is in use.
        options.fill_cache(false);
        let mut cursor = Cursor {
            raw: self.db.raw_iterator_cf_opt(self.family(OBJECTS)?, options),
        };
        cursor.raw.seek(from.0);
        let mut found = Vec::new();
        while found.len() < limit {
            let Some((key, value)) = cursor.item()? else { break };
            let hash = Hash::from_slice(key).ok_or_else(|| StoreError::damaged("an object's key is no hash"))?;
            found.push((hash, u32::try_from(value.len()).unwrap_or(u32::MAX)));
            cursor.raw.next();
        }
        Ok(found)
    }

    /// Rows in pages keyed by `prefix` and the first one's revision, where a page may begin before the range.
    fn read_pages<T>(
        &self,
        prefix: &[u8],
        range: RangeInclusive<Revision>,
        order: Order,
        limit: usize,
        decode: impl Fn(Revision, &[u8]) -> Result<Vec<T>, StoreError>,
        revision: impl Fn(&T) -> Revision,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        if range.is_empty() || limit == 0 {
            return Ok(found);
        }
        let key = |revision: Revision| keys::numbered(prefix, revision.0);
        let mut cursor = self.cursor(prefix)?;
        match order {
            Order::Ascending => cursor.at_or_before(&key(*range.start())),
            Order::Descending => cursor.raw.seek_for_prev(key(*range.end())),
        }
        while let Some((key, value)) = cursor.item()? {
            let first = keys::number(key, prefix.len()).map(Revision);
            let first = first.ok_or_else(|| StoreError::damaged("a page's key has no revision"))?;
            let mut rows = decode(first, value)?;
            if order == Order::Descending {
                rows.reverse();
            }
            for row in rows {
                let number = revision(&row);
                let beyond = match order {
                    Order::Ascending => number > *range.end(),
                    Order::Descending => number < *range.start(),
                };
                if beyond || found.len() == limit {
                    return Ok(found);
                }
                if range.contains(&number) {
                    found.push(row);
                }
            }
            match order {
                Order::Ascending => cursor.raw.next(),
                Order::Descending => cursor.raw.prev(),
            }
        }
        Ok(found)
    }

    /// The first page's revision, from a revision on.
    fn first_page(&self, from: Revision) -> Result<Option<Revision>, StoreError> {
        let mut cursor = self.cursor(&Kind::Revisions.prefix())?;
        cursor.raw.seek(keys::revisions(from));
        cursor
            .item()?
            .map(|(key, _)| number(Kind::Revisions, key).map(Revision))
            .transpose()
    }

    /// The last row of a range for which `row_fits`, where rows that fit come before those that do not, and
    /// `page_fits` says it of a page's first row. `None` where not even the range's first row does. Halves the
    /// range: some 20 seeks in a million revisions.
    fn last_that(
        &self,
        range: RangeInclusive<Revision>,
        page_fits: impl Fn(Position, Time) -> bool,
        row_fits: impl Fn(&RevisionRow) -> bool,
    ) -> Result<Option<RevisionRow>, StoreError> {
        let mut cursor = self.cursor(&Kind::Revisions.prefix())?;
        let (mut low, mut high) = (range.start().0, range.end().0);
        // No row lies beyond the last page's key but those of that page.
        cursor.raw.seek_for_prev(keys::revisions(Revision(high)));
        if let Some((key, _)) = cursor.item()? {
            high = high.min(number(Kind::Revisions, key)?);
        }
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            cursor.raw.seek_for_prev(keys::revisions(Revision(middle)));
            let Some((key, value)) = cursor.item()? else {
                return Ok(None);
            };
            let first = number(Kind::Revisions, key)?;
            let (position, time) =
                pages::first_of_revisions(value).ok_or_else(|| row_damaged(Kind::Revisions, first))?;
            match page_fits(position, time) {
                true => low = middle,
                false => high = first.saturating_sub(1).max(low),
            }
        }
        cursor.raw.seek_for_prev(keys::revisions(Revision(low)));
        let Some((key, value)) = cursor.item()? else {
            return Ok(None);
        };
        let rows = self.decode_revisions(Revision(number(Kind::Revisions, key)?), value)?;
        Ok(rows.into_iter().rev().find(row_fits))
    }

    fn decode_revisions(&self, first: Revision, value: &[u8]) -> Result<Vec<RevisionRow>, StoreError> {
        let authors = self.authors.read();
        let author = |number: u32| authors.get(number as usize).cloned();
        pages::decode_revisions(first, value, author).ok_or_else(|| row_damaged(Kind::Revisions, first.0))
    }

    fn cursor(&self, prefix: &[u8]) -> Result<Cursor<'_>, StoreError> {
        let mut options = ReadOptions::default();
        if !prefix.is_empty() {
            options.set_iterate_range(prefix.to_vec()..keys::after(prefix));
        }
        Ok(Cursor {
            raw: self.db.raw_iterator_cf_opt(self.family(ROWS)?, options),
        })
    }
}

/// The number in a key that is its kind and a number.
fn number(kind: Kind, key: &[u8]) -> Result<u64, StoreError> {
    keys::number(key, 1).ok_or_else(|| StoreError::damaged(format!("a {kind:?} key has no number")))
}

/// An iterator whose errors cannot be overlooked: RocksDB ends it silently on one.
struct Cursor<'s> {
    raw: DBRawIterator<'s>,
}

impl Cursor<'_> {
    fn item(&self) -> Result<Option<(&[u8], &[u8])>, StoreError> {
        match self.raw.item() {
            Some(item) => Ok(Some(item)),
            None => self.raw.status().map(|()| None).map_err(storage),
        }
    }

    /// On the last row at or before the key, or on the first one.
    fn at_or_before(&mut self, key: &[u8]) {
        self.raw.seek_for_prev(key);
        if !self.raw.valid() && self.raw.status().is_ok() {
            self.raw.seek_to_first();
        }
    }
}
