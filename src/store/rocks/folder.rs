//! The folder around the database: who owns it, which format it has, and how a damaged one is put out of the way.
//!
//! ```text
//! DIR/FORMAT     "confold store, format 2": written before anything else
//! DIR/LOCK       held exclusively by a writer, shared by readers of a store that has none
//! DIR/db/        RocksDB's own
//! ```

use crate::framing;
use confold_store::StoreError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Counts changes of keys or values that an older version would misread.
pub const FORMAT: u32 = 2;

const FORMAT_FILE: &str = "FORMAT";
const NEW_FORMAT_FILE: &str = "FORMAT.new";
const LOCK_FILE: &str = "LOCK";
const DATABASE: &str = "db";

/// A folder that is ours for as long as this lives.
pub struct Folder {
    pub database: PathBuf,
    /// Whether a database has to be made.
    pub fresh: bool,
    _lock: Lock,
}

/// Let go when dropped, also while a process that is just being begun has copies of this one's descriptors: closing alone would not.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Write,
    Read,
}

/// Locks and checks a folder; for writing, an absent or empty one is made a store's.
pub fn open(dir: &Path, access: Access) -> Result<Folder, StoreError> {
    let (taken, lock) = match access {
        Access::Write => {
            fs::create_dir_all(dir).map_err(|error| failed("making", dir, &error))?;
            let lock = dir.join(LOCK_FILE);
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&lock)
                .map_err(|error| failed("opening", &lock, &error))?;
            (lock.try_lock(), Lock(lock))
        }
        Access::Read => {
            let lock = dir.join(LOCK_FILE);
            let lock = File::open(&lock).map_err(|error| match error.kind() {
                ErrorKind::NotFound => StoreError::refused(format!("{} is not a store's folder", dir.display())),
                _ => failed("opening", &lock, &error),
            })?;
            (lock.try_lock_shared(), Lock(lock))
        }
    };
    match taken {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::Locked {
                what: format!("another process has {} open", dir.display()),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed("locking", dir, &error)),
    }
    let database = dir.join(DATABASE);
    let fresh = !database.exists() || is_empty(&database)?;
    match fs::read_to_string(dir.join(FORMAT_FILE)) {
        Ok(text) => check_format(dir, &text)?,
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Err(StoreError::damaged(format!(
                "{}/{FORMAT_FILE} is not text",
                dir.display()
            )));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("reading FORMAT in", dir, &error)),
        Err(_) if !fresh => {
            return Err(StoreError::damaged(format!(
                "{} has a database but no {FORMAT_FILE}",
                dir.display()
            )));
        }
        Err(_) => begin(dir, access)?,
    }
    if !fresh {
        // RocksDB would take a database without this file for none, and begin an empty one in its place.
        if !database.join("CURRENT").exists() {
            return Err(StoreError::damaged(format!("{} has no CURRENT", database.display())));
        }
        framing::check(&database)?;
    }
    Ok(Folder {
        database,
        fresh,
        _lock: lock,
    })
}

/// Makes the folder of a copy whose database is already there.
pub fn adopt(dir: &Path) -> Result<(), StoreError> {
    File::create(dir.join(LOCK_FILE)).map_err(|error| failed("making LOCK in", dir, &error))?;
    write_format(dir)
}

pub fn database(dir: &Path) -> PathBuf {
    dir.join(DATABASE)
}

/// Renames a damaged store's folder to `<dir>.damaged-<n>`, the first name that is free, and says which. Deletes
/// nothing.
pub fn set_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    let name = dir
        .file_name()
        .ok_or_else(|| StoreError::refused(format!("{} has no name to add to", dir.display())))?;
    let candidates = (1u32..).map(|n| {
        let mut name = name.to_os_string();
        name.push(format!(".damaged-{n}"));
        dir.with_file_name(name)
    });
    for aside in candidates {
        if aside.symlink_metadata().is_ok() {
            continue;
        }
        fs::rename(dir, &aside).map_err(|error| failed("setting aside", dir, &error))?;
        if let Some(parent) = aside.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
        return Ok(aside);
    }
    Err(StoreError::refused(format!(
        "every name beside {} is taken",
        dir.display()
    )))
}

fn check_format(dir: &Path, text: &str) -> Result<(), StoreError> {
    let number = text
        .strip_prefix("confold store, format ")
        .and_then(|rest| rest.strip_suffix('\n'));
    match number.and_then(|number| number.parse::<u32>().ok()) {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(StoreError::TooNew { found, known: FORMAT }),
        Some(found) => Err(StoreError::damaged(format!(
            "{} has format {found}, written by an older build; this one reads format {FORMAT} and builds it anew from the log",
            dir.display()
        ))),
        None => Err(StoreError::damaged(format!(
            "{}/{FORMAT_FILE} is not one of a store",
            dir.display()
        ))),
    }
}

/// A folder with anything else in it is somebody else's.
fn begin(dir: &Path, access: Access) -> Result<(), StoreError> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let ours = [LOCK_FILE, NEW_FORMAT_FILE, DATABASE];
    let foreign = entries
        .map_err(|error| failed("listing", dir, &error))?
        .into_iter()
        .map(|entry| entry.file_name());
    if let Some(name) = foreign.into_iter().find(|name| !ours.iter().any(|ours| name == ours)) {
        return Err(StoreError::refused(format!(
            "{} is no store, it holds {}",
            dir.display(),
            name.display()
        )));
    }
    match access {
        Access::Write => write_format(dir),
        Access::Read => Err(StoreError::refused(format!("{} holds no store yet", dir.display()))),
    }
}

fn write_format(dir: &Path) -> Result<(), StoreError> {
    let new = dir.join(NEW_FORMAT_FILE);
    let write = || -> io::Result<()> {
        let mut file = File::create(&new)?;
        writeln!(file, "confold store, format {FORMAT}")?;
        file.sync_all()?;
        fs::rename(&new, dir.join(FORMAT_FILE))
    };
    write().map_err(|error| failed("writing", &new, &error))?;
    sync_dir(dir)
}

fn is_empty(dir: &Path) -> Result<bool, StoreError> {
    let mut entries = fs::read_dir(dir).map_err(|error| failed("listing", dir, &error))?;
    Ok(entries.next().is_none())
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| failed("syncing", dir, &error))
}

pub fn failed(doing: &str, path: &Path, error: &io::Error) -> StoreError {
    StoreError::Io {
        what: format!("{doing} {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_let_go_although_a_child_that_is_being_begun_has_a_copy_of_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let folder = open(dir.path(), Access::Write).unwrap();
        let childs = folder._lock.0.try_clone().unwrap();
        drop(folder);
        assert!(open(dir.path(), Access::Write).is_ok(), "{childs:?} keeps it");
    }
}
