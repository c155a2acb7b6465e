//! Copies onto a topic: the same positions, times, bytes and digests behind an origin.
//!
//! ```text
//! offset    0        1          2                      end - first + 1
//!           origin   first      first + 1   ...  end-1 | the log's own: `open`, ...
//!                    each with its original time in the header confold-time
//! ```
//! Where the copied part ends is said by the origin, which is written first and never again: so the end is chosen before a copy
//! begins, and a copy that was interrupted goes on to the same end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use confold_log::origin::Origin;
use confold_log::{CopyTarget, Log, LogError, Range, Reader, Record, Tip, follows};
use confold_model::ids::Position;

use crate::shared::Frame;
use crate::{Connected, KafkaLog, Options, frame_of};

/// Nothing came for so long: what an interrupted attempt had under way has arrived, or never will.
const STILL: Duration = Duration::from_secs(2);

/// Writes a copy into a topic of its own. It can be interrupted anywhere and gone on with; what stands there is never written twice.
pub struct KafkaCopy {
    log: KafkaLog,
    reader: Box<dyn Reader>,
    origin: Origin,
    tip: Tip,
    /// Final: what reached the topic is not known. It is when the copy is gone on with.
    failed: Option<LogError>,
}

impl KafkaCopy {
    /// Into a topic that never held a record. `origin` says where the copy begins and where it will end; the topic's id is filled
    /// in. `Exists`: something stands there already.
    pub fn create(options: Options, mut origin: Origin) -> Result<KafkaCopy, LogError> {
        let topic = Connected::to(options)?;
        let name = topic.options.name();
        if topic.ends != (0, 0) {
            return Err(LogError::Exists { folder: name });
        }
        if origin.end < origin.first.position {
            return Err(LogError::Unfinished {
                what: format!(
                    "it would end at position {}, before its first, {}",
                    origin.end, origin.first.position
                ),
            });
        }
        origin.identity.transport_id = topic.topic_id;
        let frame = Bytes::copy_from_slice(&origin.encode());
        topic.producer.send(&frame, None)?;
        topic.producer.flush(topic.options.message_timeout);
        let (first, line) = topic.read_first()?;
        if first != frame {
            return Err(LogError::Fenced {
                what: format!("somebody else wrote the first record of {name} meanwhile: take another topic"),
            });
        }
        let log = topic.into_log(Frame::of(origin), Some(line))?;
        KafkaCopy::begin(log, origin)
    }

    /// One that was begun before: reads all of it and waits until nothing more comes. `tip()` says with which record to go on.
    pub fn resume(options: Options) -> Result<KafkaCopy, LogError> {
        let topic = Connected::to(options)?;
        let not_begun = format!("{} was not begun as a copy", topic.options.name());
        if topic.ends.0 > 0 || topic.ends.1 == 0 {
            return Err(LogError::Fenced { what: not_begun });
        }
        let (first, line) = topic.read_first()?;
        let frame = frame_of(&topic.options, topic.topic_id, &first)?;
        let origin = frame.origin.ok_or(LogError::Fenced { what: not_begun })?;
        let log = topic.into_log(frame, Some(line))?;
        let mut copy = KafkaCopy::begin(log, origin)?;
        loop {
            let records = copy.reader.read(4096, 8 << 20, STILL)?;
            let Some(last) = records.last() else { break };
            copy.pass(last);
        }
        Ok(copy)
    }

    fn begin(log: KafkaLog, origin: Origin) -> Result<KafkaCopy, LogError> {
        let reader = log.reader(origin.first.position)?;
        Ok(KafkaCopy {
            log,
            reader,
            origin,
            tip: origin.first,
            failed: None,
        })
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Lets go of the topic once everything up to the end that the origin names was copied.
    pub fn finish(self) -> Result<Range, LogError> {
        let (end, wanted) = (self.tip.position, self.origin.end);
        if end < wanted {
            return Err(LogError::Unfinished {
                what: format!("it reaches up to position {end}, and should reach up to {wanted}"),
            });
        }
        self.log.close();
        Ok(Range {
            start: self.origin.first.position,
            end,
        })
    }

    fn pass(&mut self, record: &Record) {
        self.tip = Tip {
            position: record.position.next(),
            digest: record.digest,
            time: record.time,
        };
    }

    fn write(&mut self, records: &[Record]) -> Result<(), LogError> {
        let shared = &self.log.shared;
        for record in records {
            loop {
                match shared.producer.send(&record.bytes, Some(record.time.0)) {
                    Err(LogError::Full { .. }) => {
                        shared.producer.poll();
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    sent => break sent?,
                }
            }
        }
        let patience = shared.options.message_timeout + STILL;
        let mut heard = Instant::now();
        let mut rest = records;
        while let Some(next) = rest.first() {
            let came = self.reader.read(rest.len(), usize::MAX, Duration::from_millis(100))?;
            if came.is_empty() && heard.elapsed() >= patience {
                return Err(LogError::Unsettled {
                    cause: format!(
                        "position {} did not come back from the topic within {patience:?}",
                        next.position
                    ),
                });
            }
            for record in &came {
                if *record != rest[0] {
                    return Err(LogError::Fenced {
                        what: format!(
                            "{record:?} stands in the topic where {:?} was copied to: somebody else writes there; take another topic",
                            rest[0]
                        ),
                    });
                }
                self.pass(record);
                rest = &rest[1..];
                heard = Instant::now();
            }
        }
        Ok(())
    }
}

impl CopyTarget for KafkaCopy {
    fn tip(&self) -> Tip {
        self.tip
    }

    /// Durable means: every record was read back, with its digest.
    fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        follows(self.tip, records)?;
        let after = Position(self.tip.position.0 + records.len() as u64);
        if after > self.origin.end {
            return Err(LogError::BeyondEnd {
                asked: after,
                end: self.origin.end,
            });
        }
        self.write(records).map_err(|error| self.failed.insert(error).clone())
    }
}
