//! The `origin` file of a folder; what it holds is drawn in the crate's `origin.rs`.

use confold_model::ids::Position;

use super::disk::{Access, Disk, read_full, write_full};
use super::segment::place;
use crate::LogError;
use crate::origin::{Origin, SIZE};

pub(super) const NAME: &str = "origin";
pub(super) const UNFINISHED: &str = "origin.tmp";

/// Durable once the folder was synced.
pub(super) fn write(origin: &Origin, disk: &dyn Disk) -> std::io::Result<()> {
    let file = disk.create(UNFINISHED)?;
    write_full(&*file, &origin.encode(), 0)?;
    file.sync()?;
    disk.rename(UNFINISHED, NAME)
}

pub(super) fn read(disk: &dyn Disk) -> Result<Origin, LogError> {
    let mut bytes = [0; SIZE + 1];
    let read = disk
        .open(NAME, Access::Read)
        .and_then(|file| read_full(&*file, &mut bytes, 0));
    let read = read.map_err(|error| LogError::failed(format!("cannot read {}", place(disk, NAME)), error))?;
    Origin::decode(&bytes[..read]).map_err(|what| LogError::Corrupt {
        file: place(disk, NAME),
        offset: 0,
        position: Position(0),
        what,
    })
}
