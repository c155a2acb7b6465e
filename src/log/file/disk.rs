//! What the file log asks of a disk: one flat folder. A seam, so that tests can lose what was never made durable.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder of files. Names are plain, without separators.
pub trait Disk: Send + Sync {
    /// For messages only.
    fn folder(&self) -> String;
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file; an older one of that name is emptied.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    /// Replaces `to`, atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Until this returned, a file that was created, renamed or removed may be found as before after a power loss.
    fn sync_folder(&self) -> io::Result<()>;
    /// Held until dropped; never waits.
    fn lock(&self) -> Result<Box<dyn Send + Sync>, NotLocked>;
}

/// One file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    fn len(&self) -> io::Result<u64>;
    /// May read less than asked; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// May write less than asked.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Until this returned `Ok`, nothing written is durable. After an error nobody knows what is, and asking again proves
    /// nothing: the system may have dropped the pages and report the error once.
    fn sync(&self) -> io::Result<()>;
    /// What is read from now on comes from the disk itself. The system's memory may still show pages that a failed sync,
    /// perhaps of another process, never wrote.
    fn forget_cached(&self) -> io::Result<()>;

    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
}

/// Why a folder could not be locked.
#[derive(Debug)]
pub enum NotLocked {
    /// By the process of this id, when it left one.
    Held(Option<u32>),
    Io(io::Error),
}

/// A folder of the file system.
pub struct OsDisk {
    folder: PathBuf,
}

const LOCK: &str = "lock";

impl OsDisk {
    pub fn new(folder: impl Into<PathBuf>) -> OsDisk {
        OsDisk { folder: folder.into() }
    }

    /// The same, after making the folder (and those above it) durable where it was missing.
    pub fn make(folder: impl Into<PathBuf>) -> io::Result<OsDisk> {
        let folder = folder.into();
        if !folder.is_dir() {
            let missing: Vec<PathBuf> = folder
                .ancestors()
                .take_while(|at| !at.exists())
                .map(Path::to_owned)
                .collect();
            fs::create_dir_all(&folder)?;
            for made in missing {
                let parent = made
                    .parent()
                    .filter(|parent| *parent != Path::new(""))
                    .unwrap_or(Path::new("."));
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(OsDisk { folder })
    }
}

impl Disk for OsDisk {
    fn folder(&self) -> String {
        self.folder.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is none of ours.
        fs::read_dir(&self.folder)?
            .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
            .collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.folder.join(name))?;
        Ok(Arc::new(file))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::Write)
            .open(self.folder.join(name))?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, NotLocked> {
        // The file stays when the lock goes: removing it would let two processes lock two files of one name.
        let path = self.folder.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(NotLocked::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
                return Err(NotLocked::Held(holder));
            }
            Err(TryLockError::Error(error)) => return Err(NotLocked::Io(error)),
        }
        // The process id is for people. A full disk must not keep the log from opening.
        let noted = file
            .set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
        if let Err(error) = noted {
            tracing::warn!(%error, file = %path.display(), "cannot note the process id in the lock file");
        }
        Ok(Box::new(Lock(file)))
    }
}

/// Let go when dropped, also while a process that is just being begun has copies of this one's descriptors: closing alone would not.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn forget_cached(&self) -> io::Result<()> {
        rustix::fs::fadvise(self, 0, None, rustix::fs::Advice::DontNeed).map_err(io::Error::from)
    }
}

/// Fills the buffer from `offset` on, or says how much there was.
pub(super) fn read_full(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

pub(super) fn write_full(file: &dyn DiskFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match file.write_at(&bytes[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_let_go_although_a_child_that_is_being_begun_has_a_copy_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK);
        let childs = File::create(&path).unwrap();
        childs.try_lock().unwrap();
        drop(Lock(childs.try_clone().unwrap()));
        File::open(&path).unwrap().try_lock().unwrap();
    }
}
