//! Copies: the same positions, times, bytes and digests in another folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use confold_model::ids::Position;

use super::disk::{Access, Disk, OsDisk};
use super::frame::RECORD_HEADER;
use super::writer::{Appender, Fault};
use super::{Options, begin, open, origin};
use crate::origin::Origin;
use crate::{Log, LogError, Range, Record, Tip};

/// Writes a copy, record by record, into a folder of its own. It can be interrupted anywhere and gone on with.
pub struct Copy {
    disk: Arc<dyn Disk>,
    appender: Appender,
    origin: Origin,
    options: Options,
    /// Final: nothing is written after it.
    failed: Option<LogError>,
    _lock: Box<dyn Send + Sync>,
}

impl Copy {
    /// A new folder. `origin` says where the copy begins and, as far as is known, where it will end.
    pub fn create(folder: &Path, origin: Origin, options: Options) -> Result<Copy, LogError> {
        let disk = OsDisk::make(folder)
            .map_err(|error| LogError::failed(format!("cannot create {}", folder.display()), error))?;
        Copy::create_on(Arc::new(disk), origin, options)
    }

    /// One that was begun before. `tip()` says with which record to go on.
    pub fn resume(folder: &Path, options: Options) -> Result<Copy, LogError> {
        if !folder.is_dir() {
            return Err(LogError::Missing {
                folder: folder.display().to_string(),
            });
        }
        Copy::resume_on(Arc::new(OsDisk::new(folder)), options)
    }

    pub fn create_on(disk: Arc<dyn Disk>, origin: Origin, options: Options) -> Result<Copy, LogError> {
        let lock = open::lock(&*disk)?;
        let appender = begin(&disk, origin.identity, Some(&origin), &options)?;
        Ok(Copy {
            disk,
            appender,
            origin,
            options,
            failed: None,
            _lock: lock,
        })
    }

    pub fn resume_on(disk: Arc<dyn Disk>, options: Options) -> Result<Copy, LogError> {
        let lock = open::lock_existing(&*disk)?;
        let found = open::find(&disk, Access::Write, &options)?;
        let Some(origin) = found.origin else {
            return Err(LogError::Fenced {
                what: format!("{} was not begun as a copy", disk.folder()),
            });
        };
        let len = found.extents[found.extents.len() - 1].len;
        let appender = Appender::resume(disk.clone(), found.last, len, found.tip, options.segment_bytes);
        Ok(Copy {
            disk,
            appender,
            origin,
            options,
            failed: None,
            _lock: lock,
        })
    }

    /// What comes next.
    pub fn tip(&self) -> Tip {
        self.appender.tip
    }

    /// Adds records that follow the tip; they are durable when it returns `Ok`. After an error `tip()` says how far it came. Each must have the digest that it has here as well, or it is
    /// refused as another log's.
    pub fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut tip = self.appender.tip;
        for record in records {
            let here = tip.record(record.time, record.bytes.clone());
            if here != *record {
                let what = format!(
                    "after {} records the copy expects {here:?}, and the source has {record:?}",
                    here.position
                );
                return Err(LogError::Fenced { what });
            }
        }
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |record: &&Record| {
                bytes += record.bytes.len() + RECORD_HEADER;
                bytes <= self.options.batch_bytes
            };
            let (batch, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            match self
                .appender
                .commit(batch.iter().map(|record| (record.time, record.bytes.clone())))
            {
                Ok(_) => rest = later,
                Err(Fault::DiskFull(what)) => return Err(LogError::DiskFull { what }),
                Err(Fault::Final(error)) => return Err(self.failed.insert(error).clone()),
            }
        }
        Ok(())
    }

    /// Notes where the copied part ends, and lets go of the folder.
    pub fn finish(mut self) -> Result<Range, LogError> {
        let end = self.appender.tip.position;
        if self.origin.end != end {
            self.origin.end = end;
            let noted = origin::write(&self.origin, &*self.disk).and_then(|()| self.disk.sync_folder());
            noted.map_err(|error| {
                LogError::failed(format!("cannot finish the copy in {}", self.disk.folder()), error)
            })?;
        }
        Ok(Range {
            start: self.origin.first.position,
            end,
        })
    }
}

/// Copies everything from where `copy` stands up to, not including, `end`. Stops with what the source says when it has less.
pub fn export(source: &dyn Log, copy: &mut Copy, end: Position) -> Result<(), LogError> {
    let mut reader = source.reader(copy.tip().position)?;
    while copy.tip().position < end {
        let left = end.0 - copy.tip().position.0;
        let records = reader.read(left.min(4096) as usize, 1 << 20, Duration::ZERO)?;
        if records.is_empty() {
            return Err(LogError::BeyondEnd {
                asked: end,
                end: source.range().end,
            });
        }
        copy.append(&records)?;
    }
    Ok(())
}
