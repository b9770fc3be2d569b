//! Folders for what is made and thrown away.

use std::fs;
use std::path::PathBuf;

use crate::failure::Failure;

/// A folder of a run that is removed at its end, and by the next run in the same place if this one is killed.
pub(crate) struct ScratchFolder(pub(crate) PathBuf);

impl ScratchFolder {
    /// Makes the folder, empty. Whoever makes it holds a lock on what it stands in.
    pub(crate) fn make(folder: PathBuf) -> Result<Self, Failure> {
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| Failure::io("remove", &folder, &error))?;
        }
        fs::create_dir(&folder).map_err(|error| Failure::io("create", &folder, &error))?;
        Ok(Self(folder))
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "{} stays behind", self.0.display());
        }
    }
}
