//! One library in another's place.
//!
//! SQLite knows a log by its name alone: a file that is renamed over a library whose log is not empty, or that somebody
//! has open, takes that log for its own, and is damaged by it. So nothing is renamed before both logs are gone.

use std::path::{Path, PathBuf};

use crate::library::{Library, Log, folder_of, with_suffix};
use crate::write::WriteError;

/// A library cannot take another's place. Both stay as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// Somebody reads it, whose log would be taken for the new one's.
    #[error("{path}: somebody has it open, and it stays as it is", path = .path.display())]
    InUse {
        /// The library.
        path: PathBuf,
    },
    /// What the log holds cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The disk's own.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its error.
        source: std::io::Error,
    },
}

impl ReplaceError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::InUse { .. } => {
                Some("end the programs that read it, and run the same again: what was made is kept")
            }
            Self::Write(error) => error.hint(),
            Self::Io { .. } => None,
        }
    }
}

impl Library {
    /// Puts the file of `new`, and its segment, in the place of this library's. Both were opened for writing, and nobody
    /// writes to either until it is done.
    ///
    /// # Errors
    /// One of them is in use, or the disk's own errors before anything is renamed.
    pub fn replace(self, new: Library) -> Result<(), ReplaceError> {
        let (old_path, _old_lock) = closed(self)?;
        let (new_path, _new_lock) = closed(new)?;
        rename(&new_path, &old_path)?;
        // A segment knows which library it is of, and the old one's is not used for the new one.
        let segment = with_suffix(&new_path, ".seg");
        if segment.exists() {
            rename(&segment, &with_suffix(&old_path, ".seg"))?;
        }
        std::fs::File::open(folder_of(&old_path))
            .and_then(|folder| folder.sync_all())
            .map_err(|source| ReplaceError::Io { path: old_path, source })
    }
}

/// Closes a library whose file is all there is of it; its lock is held on.
fn closed(mut library: Library) -> Result<(PathBuf, crate::library::Access), ReplaceError> {
    let in_use = |path: &Path| ReplaceError::InUse { path: path.to_owned() };
    if library.empty_log()? == Log::InUse {
        return Err(in_use(&library.path));
    }
    let Library { db, path, access, .. } = library;
    drop(db);
    // Who closes last removes them.
    match ["-wal", "-shm"].iter().any(|suffix| with_suffix(&path, suffix).exists()) {
        true => Err(in_use(&path)),
        false => Ok((path, access)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), ReplaceError> {
    std::fs::rename(from, to).map_err(|source| ReplaceError::Io { path: from.to_owned(), source })
}
