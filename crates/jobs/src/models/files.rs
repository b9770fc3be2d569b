//! Putting a model's files in place.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::os;

/// How the files of an added model get into its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The model lives on when the source goes.
    Copy,
    /// Symbolic links to the files: no second copy of the weights, and the source must stay as it is.
    Link,
}

/// Puts `source/name` at `staged/name`. `source` is absolute.
pub(super) fn place(
    source: &Path,
    staged: &Path,
    name: &str,
    placement: Placement,
) -> Result<(), PlaceError> {
    let (from, to) = (source.join(name), staged.join(name));
    let place = || -> io::Result<()> {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        match placement {
            Placement::Copy => {
                fs::copy(&from, &to)?;
                File::open(&to)?.sync_all()
            }
            Placement::Link => os::symlink_file(&from, &to),
        }
    };
    place().map_err(|source| PlaceError { from: from.clone(), to: to.clone(), source })
}

/// Removes every file under `dir` that is not among `kept`, which are paths inside `dir` with `/`.
pub(super) fn remove_others(dir: &Path, kept: &BTreeSet<&str>) -> io::Result<()> {
    let kept: BTreeSet<PathBuf> = kept.iter().map(|name| dir.join(name)).collect();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if !kept.contains(&entry.path()) {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Brings every folder of the tree to the disk.
pub(super) fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    os::sync_dir(dir)
}

/// A file of a model could not be copied or linked.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot be placed at {}: {source}", from.display(), to.display())]
pub struct PlaceError {
    /// The source's file.
    pub from: PathBuf,
    /// Where it was to be.
    pub to: PathBuf,
    /// Why not.
    pub source: io::Error,
}
