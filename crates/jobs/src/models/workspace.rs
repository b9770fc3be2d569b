//! Folders of work in progress beside the models, and how a finished one becomes a model.
//!
//! Their names start with a dot, which no model's does. Each is locked by the process that works in it, so that the
//! next one can tell what a kill left over; every creation and removal happens under one short lock of all models.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{files, os};

/// Of `add`: worthless after a kill.
const FRESH_PREFIX: &str = ".add-";
/// Of `get`: kept after a kill, to go on from.
const KEPT_PREFIX: &str = ".get-";
const LOCK_FILE: &str = "lock";
const ALL_MODELS_LOCK_FILE: &str = ".lock";

/// A locked folder of this process.
pub(super) struct Workspace {
    models: PathBuf,
    dir: PathBuf,
    lock: File,
}

impl Workspace {
    /// A new, empty one. Removes those that killed processes left.
    pub(super) fn fresh(models: &Path) -> io::Result<Workspace> {
        let _all = lock_all(models)?;
        remove_leftovers(models)?;
        let dir = models.join(format!("{FRESH_PREFIX}{}", uuid::Uuid::new_v4().simple()));
        create(models, dir)?.ok_or_else(|| io::ErrorKind::ResourceBusy.into())
    }

    /// The one for `key`, with what an earlier process left in it. None while another process works in it.
    pub(super) fn kept(models: &Path, key: &str) -> io::Result<Option<Workspace>> {
        let _all = lock_all(models)?;
        remove_leftovers(models)?;
        create(models, models.join(format!("{KEPT_PREFIX}{key}")))
    }

    /// Where the model is put together.
    pub(super) fn staged(&self) -> PathBuf {
        self.dir.join("model")
    }

    /// Where files wait until they are whole.
    pub(super) fn incoming(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    /// Renames the staged folder to `models/name`; `false` if there is something of that name, which is left alone.
    pub(super) fn publish(&self, name: &str) -> io::Result<bool> {
        let staged = self.staged();
        files::sync_tree(&staged)?;
        let _all = lock_all(&self.models)?;
        let target = self.models.join(name);
        if target.symlink_metadata().is_ok() {
            return Ok(false);
        }
        fs::rename(&staged, target)?;
        os::sync_dir(&self.models)?;
        Ok(true)
    }

    /// Removes the folder.
    pub(super) fn discard(self) -> io::Result<()> {
        let _all = lock_all(&self.models)?;
        // Windows removes no folder with an open file in it.
        drop(self.lock);
        fs::remove_dir_all(&self.dir)
    }
}

fn lock_all(models: &Path) -> io::Result<File> {
    fs::create_dir_all(models)?;
    let file = open_lock(&models.join(ALL_MODELS_LOCK_FILE))?;
    file.lock()?;
    Ok(file)
}

fn create(models: &Path, dir: PathBuf) -> io::Result<Option<Workspace>> {
    fs::create_dir_all(&dir)?;
    let Some(lock) = try_lock(&dir)? else {
        return Ok(None);
    };
    let workspace = Workspace { models: models.into(), dir, lock };
    fs::create_dir_all(workspace.staged())?;
    fs::create_dir_all(workspace.incoming())?;
    Ok(Some(workspace))
}

fn remove_leftovers(models: &Path) -> io::Result<()> {
    for entry in fs::read_dir(models)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(FRESH_PREFIX) {
            continue;
        }
        if let Some(lock) = try_lock(&entry.path())? {
            drop(lock);
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// None while another process holds it.
fn try_lock(dir: &Path) -> io::Result<Option<File>> {
    let file = open_lock(&dir.join(LOCK_FILE))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(false).open(path)
}
