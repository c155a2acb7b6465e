//! What the log on files reads: its segments and its origin.

use crate::support::*;
use bytes::Bytes;
use confold_log::file::disk::{Access, Disk, DiskFile, NotLocked};
use confold_log::file::{FileLog, Identity, Options, Origin};
use confold_log::{Log, LogError, Tip};
use confold_model::digest::log_digest;
use confold_model::ids::{Hash, Position, Time};
use confold_test_fuzz::{Answer, Target};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A folder in memory.
#[derive(Clone, Default)]
struct Folder(Arc<Mutex<BTreeMap<String, Arc<Mutex<Vec<u8>>>>>>);

struct Opened(Arc<Mutex<Vec<u8>>>);

impl Disk for Folder {
    fn folder(&self) -> String {
        "folder".to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::<Mutex<Vec<u8>>>::default();
        self.0.lock().unwrap().insert(name.to_owned(), file.clone());
        Ok(Arc::new(Opened(file)))
    }

    fn open(&self, name: &str, _: Access) -> io::Result<Arc<dyn DiskFile>> {
        match self.0.lock().unwrap().get(name) {
            Some(file) => Ok(Arc::new(Opened(file.clone()))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0
            .lock()
            .unwrap()
            .remove(name)
            .map(drop)
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, NotLocked> {
        Ok(Box::new(()))
    }
}

impl DiskFile for Opened {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.0.lock().unwrap();
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| bytes.get(offset..))
            .unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut file = self.0.lock().unwrap();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let longer = file.len().max(offset + bytes.len());
        file.resize(longer, 0);
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0
            .lock()
            .unwrap()
            .truncate(usize::try_from(len).map_err(io::Error::other)?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn forget_cached(&self) -> io::Result<()> {
        Ok(())
    }
}

const HEADER: usize = 104;
const BATCH: usize = 60;

/// An input is a folder: for each file one byte that says which it is, a length as u16, and its bytes. The first is named by the position
/// in its header, so that a name need not be guessed.
fn folder(input: &[u8]) -> Folder {
    let folder = Folder::default();
    let mut rest = input;
    while let [kind, high, low, bytes @ ..] = rest {
        let length = bytes.len().min(usize::from(u16::from_be_bytes([*high, *low])));
        let (file, after) = bytes.split_at(length);
        let position = file
            .get(44..52)
            .map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
        let name = if kind % 8 == 1 {
            "origin".to_owned()
        } else {
            format!("{position:020}.log")
        };
        folder
            .0
            .lock()
            .unwrap()
            .insert(name, Arc::new(Mutex::new(file.to_vec())));
        rest = after;
    }
    folder
}

fn input(folder: &Folder) -> Vec<u8> {
    let mut input = Vec::new();
    for (name, file) in folder
        .0
        .lock()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name == "origin" || name.ends_with(".log"))
    {
        let file = file.lock().unwrap();
        input.push(u8::from(name == "origin"));
        input.extend(u16::try_from(file.len()).unwrap().to_be_bytes());
        input.extend_from_slice(&file);
    }
    input
}

/// Makes the checksums of all files right, and of some inputs the log digests too.
fn repair(input: &mut Vec<u8>) {
    let digests = !crc32c::crc32c(input).is_multiple_of(4);
    let mut at = 0;
    while at + 3 <= input.len() {
        let origin = input[at] % 8 == 1;
        let length = usize::from(u16::from_be_bytes([input[at + 1], input[at + 2]])).min(input.len() - at - 3);
        let file = &mut input[at + 3..at + 3 + length];
        if origin && length == 152 {
            sum(file, 0, 148, 148);
        } else if !origin && length >= HEADER {
            segment(file, digests);
        }
        at += 3 + length;
    }
}

fn sum(bytes: &mut [u8], seed: u32, end: usize, at: usize) -> u32 {
    let sum = crc32c::crc32c_append(seed, &bytes[..end]);
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    sum
}

fn segment(file: &mut [u8], digests: bool) {
    let seed = sum(file, 0, 100, 100);
    let mut digest = Hash(file[52..84].try_into().unwrap());
    let mut at = HEADER;
    let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    while at + BATCH <= file.len() {
        let length = word(&file[at + 4..at + 8]) as usize;
        let Some(body) = file.get(at + BATCH..at.saturating_add(BATCH).saturating_add(length)) else {
            break;
        };
        let mut position = u64::from_be_bytes(file[at + 12..at + 20].try_into().unwrap());
        let mut rest = body;
        while let Some((head, tail)) = rest.split_first_chunk::<12>() {
            let time = Time(i64::from_be_bytes(head[..8].try_into().unwrap()));
            let Some((record, tail)) = tail.split_at_checked(word(&head[8..]) as usize) else {
                break;
            };
            digest = log_digest(digest, Position(position), time, record);
            position = position.wrapping_add(1);
            rest = tail;
        }
        let body_sum = crc32c::crc32c_append(seed, body);
        if digests {
            file[at + 20..at + 52].copy_from_slice(&digest.0);
        }
        file[at + 52..at + 56].copy_from_slice(&body_sum.to_be_bytes());
        sum(&mut file[at..at + BATCH], seed, 56, 56);
        at += BATCH + length;
    }
}

/// Logs of a few records: in one segment, in several, copied from elsewhere and trimmed.
fn logs() -> Vec<Vec<u8>> {
    let identity = Identity {
        log_id: *b"the log id......",
        transport_id: *b"the transport id",
    };
    let mut inputs = Vec::new();
    for (segment_bytes, records) in [(1 << 20, 0), (1 << 20, 5), (300, 9), (300, 40)] {
        let folder = Folder::default();
        let options = Options {
            segment_bytes,
            clock: Arc::new(|| Time(1_700_000_000_000)),
            ..Options::default()
        };
        let log = FileLog::create_on(Arc::new(folder.clone()), identity, options).unwrap();
        let mut reader = log.reader(Position(0)).unwrap();
        for n in 0..records {
            log.append(Bytes::from(vec![b'r'; n * 7 % 90])).unwrap();
            while reader.read(1, 1, Duration::from_secs(20)).unwrap().is_empty() {}
        }
        inputs.push(input(&folder));
        if records == 40 {
            log.trim(Position(20), |_| Hash([3; 32])).unwrap();
            inputs.push(input(&folder));
        }
        log.close();
    }
    inputs
}

#[test]
fn a_folder_of_segments_is_a_log_or_is_refused() {
    let check = |input: &[u8]| {
        let folder = folder(input);
        let options = Options {
            verify_all: true,
            ..Options::default()
        };
        let log = match FileLog::open_read_only_on(Arc::new(folder), options) {
            Ok(log) => log,
            // Never a fault of the disk: there is none.
            Err(LogError::Failed { what, .. }) => panic!("{what}"),
            Err(error) => return Answer::Refused(error.to_string()),
        };
        let range = log.range();
        assert_eq!(range.end, log.tip().position);
        let before = log.tip_at(range.start).unwrap();
        let mut tip = Tip {
            position: range.start,
            ..before
        };
        let mut reader = log.reader(range.start).unwrap();
        while tip.position < range.end {
            let records = reader.read(3, 100, Duration::ZERO).expect("it was verified as a whole");
            assert!(!records.is_empty(), "a hole at {}", tip.position);
            for record in records {
                assert_eq!(
                    tip.record(record.time, record.bytes.clone()),
                    record,
                    "the digests are those of the records"
                );
            }
        }
        assert_eq!(tip.digest, log.tip().digest);
        let words = [
            log.origin().map_or("", |_| "origin "),
            log.cut().map_or("whole", |cut| &cut.why),
        ]
        .concat();
        Answer::Taken(format!(
            "{words} {}",
            "r".repeat((range.end.0 - range.start.0).min(8) as usize)
        ))
    };
    let target = Target {
        seeds: logs(),
        words: words(&[
            b"CONFOLDS",
            b"CFB0",
            b"CONFOLDO",
            b"\0\0\0\0",
            b"\xff\xff\xff\xff",
            b"\x10\0\0\0",
        ]),
        repair: Some(&repair),
        memory: (4 << 20, 256),
        short: 40_000,
        ..Target::new("segment", &check)
    };
    fuzz(&target, 15);
}

#[test]
fn an_origin_has_one_form_or_is_refused() {
    let check = |bytes: &[u8]| {
        Answer::of(Origin::decode(bytes), |origin| {
            assert_eq!(origin.encode()[..], *bytes);
            assert!(Origin::is_meant_by(bytes));
            "an origin".to_owned()
        })
    };
    let origin = Origin {
        identity: Identity {
            log_id: [1; 16],
            transport_id: [2; 16],
        },
        source: [3; 16],
        first: Tip {
            position: Position(7),
            digest: Hash([4; 32]),
            time: Time(5),
        },
        end: Position(9),
        state: Hash([6; 32]),
    };
    let repair = |bytes: &mut Vec<u8>| {
        bytes.resize(152, 0);
        sum(bytes, 0, 148, 148);
    };
    fuzz(
        &Target {
            seeds: vec![origin.encode().to_vec()],
            repair: Some(&repair),
            short: 100_000,
            ..Target::new("origin", &check)
        },
        3,
    );
}
