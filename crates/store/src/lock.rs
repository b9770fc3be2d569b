//! One writer a library: an advisory lock on `X.haul.lock`, held while the library is open for writing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::host_unix;
use crate::library::with_suffix;

/// The lock itself: released when this is dropped, or when the process ends in any way.
#[derive(Debug)]
pub(crate) struct WriterLock(File);

impl Drop for WriterLock {
    fn drop(&mut self) {
        // A process that is being spawned by another thread has a copy of the file until its exec, so closing
        // ours would not always release the lock.
        if self.0.unlock().is_err() {
            // The system releases it when the last copy is closed.
        }
    }
}

/// Why the lock was not had.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Who holds it: `pid 12 on host`.
    Held(String),
    Io(std::io::Error),
}

/// Longest line read of a lock file.
const HOLDER_BYTES_MAX: u64 = 512;

/// Takes the lock, or says at once who has it. The file stays behind: removing it would let two writers lock
/// two files of one name.
pub(crate) fn take(library: &Path) -> Result<WriterLock, Refusal> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path_of(library))
        .map_err(Refusal::Io)?;
    match file.try_lock() {
        Ok(()) => write_holder(&mut file).map_err(Refusal::Io)?,
        Err(TryLockError::WouldBlock) => return Err(read_holder(file)),
        Err(TryLockError::Error(error)) => return Err(Refusal::Io(error)),
    }
    Ok(WriterLock(file))
}

pub(crate) fn path_of(library: &Path) -> PathBuf {
    with_suffix(library, ".lock")
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "pid {} on {}", std::process::id(), host_unix::host_name())
}

fn read_holder(file: File) -> Refusal {
    let mut holder = String::new();
    match file.take(HOLDER_BYTES_MAX).read_to_string(&mut holder) {
        // Between its lock and its name.
        Ok(_) if holder.trim().is_empty() => Refusal::Held("a process that has just begun".to_owned()),
        Ok(_) => Refusal::Held(holder.trim().to_owned()),
        Err(error) => Refusal::Io(error),
    }
}
