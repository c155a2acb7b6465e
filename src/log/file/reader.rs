//! Reads old records from the disk and new ones from memory, and crosses over without a hole.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use confold_model::ids::{Hash, Position};

use super::disk::Access;
use super::segment::{Broken, Cursor, Segment};
use super::tail::{Extent, Next, Tail};
use crate::{LogError, Reader, Record, budget};

pub(super) struct FileReader {
    tail: Arc<Tail>,
    /// Of the next record that the caller gets.
    next: Position,
    /// d(next - 1), once something was read.
    before: Option<Hash>,
    /// Read from the disk and not handed out yet: the rest of one batch. Begins with `next`.
    rest: VecDeque<Record>,
    /// Kept while the reader is behind what memory holds.
    open: Option<OpenSegment>,
}

struct OpenSegment {
    name: String,
    start: Position,
    cursor: Cursor,
}

impl FileReader {
    pub(super) fn new(tail: Arc<Tail>, from: Position) -> FileReader {
        FileReader {
            tail,
            next: from,
            before: None,
            rest: VecDeque::new(),
            open: None,
        }
    }

    /// At least one record from the segment that holds `next`, more while the budget lasts.
    fn read_disk(
        &mut self,
        extent: Extent,
        end: Position,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<(), LogError> {
        let mut open = match self.open.take() {
            Some(open) if open.start == extent.start && open.cursor.tip.position == self.next => open,
            _ => self.seek(extent)?,
        };
        let (mut count, mut bytes) = (0, 0);
        while count < max_records.max(1) && (count == 0 || bytes < max_bytes) && open.cursor.tip.position < end {
            let due = open.cursor.tip.position;
            let batch = match open.cursor.next(extent.len) {
                Ok(Some(batch)) => batch,
                Ok(None) => {
                    let what = format!("the segment ends here, and position {due} should follow");
                    return Err(Broken::Wrong { what }.error(&*self.tail.disk, &open.name, &open.cursor));
                }
                // What was read before stays good; the next call meets this place again, and says so.
                Err(_) if count > 0 => return Ok(()),
                Err(broken) => return Err(broken.error(&*self.tail.disk, &open.name, &open.cursor)),
            };
            let wanted = batch.into_iter().skip_while(|record| record.position < self.next);
            for record in wanted {
                count += 1;
                bytes += record.bytes.len();
                self.rest.push_back(record);
            }
        }
        self.open = Some(open);
        Ok(())
    }

    fn handed_out(&mut self, records: Vec<Record>) -> Vec<Record> {
        if let Some(last) = records.last() {
            self.next = last.position.next();
            self.before = Some(last.digest);
        }
        records
    }

    fn seek(&self, extent: Extent) -> Result<OpenSegment, LogError> {
        let disk = &*self.tail.disk;
        let segment = Segment::open(disk, extent.start, Access::Read).map_err(|error| {
            // A trim between asking where to read and opening the file is no damage.
            let start = self.tail.range().start;
            if self.next < start {
                LogError::BelowStart {
                    asked: self.next,
                    start,
                }
            } else {
                error
            }
        })?;
        let mut cursor = segment.cursor();
        if let Some(waypoint) = self.tail.waypoint_before(extent.start, self.next) {
            cursor.jump(waypoint);
        }
        cursor
            .skip_to(self.next, extent.len, &mut |waypoint| {
                self.tail.keep_waypoint(extent.start, waypoint)
            })
            .map_err(|broken| broken.error(disk, &segment.name, &cursor))?;
        if let Some(before) = self.before
            && cursor.tip.position == self.next
            && cursor.tip.digest != before
        {
            let what = format!(
                "the log digest before it is {} and this segment says {}",
                before.short(),
                cursor.tip.digest.short()
            );
            return Err(Broken::Wrong { what }.error(disk, &segment.name, &cursor));
        }
        Ok(OpenSegment {
            name: segment.name,
            start: extent.start,
            cursor,
        })
    }
}

impl Reader for FileReader {
    fn read(&mut self, max_records: usize, max_bytes: usize, wait: Duration) -> Result<Vec<Record>, LogError> {
        if self.rest.is_empty() {
            let deadline = Instant::now().checked_add(wait);
            match self.tail.next(self.next, max_records, max_bytes, deadline)? {
                Next::Nothing => return Ok(Vec::new()),
                Next::Disk { extent, end } => self.read_disk(extent, end, max_records, max_bytes)?,
                Next::Records(records) => {
                    self.open = None;
                    return Ok(self.handed_out(records));
                }
            }
        }
        let records = budget(self.rest.iter().cloned(), max_records, max_bytes);
        self.rest.drain(..records.len());
        Ok(self.handed_out(records))
    }
}
