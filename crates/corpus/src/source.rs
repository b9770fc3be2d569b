//! Lists the files under the paths a user names.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::document::Format;
use crate::limits::FOLDER_DEPTH_MAX;
#[cfg(unix)]
use crate::path_unix as system;
#[cfg(windows)]
use crate::path_windows as system;
use crate::verdict::{ParseFailure, Verdict};

/// Lists the files under `paths` (files and folders), sorted by path within each of them.
///
/// Links are followed; a folder or file reached twice is listed once, under the path reached first. Names that
/// start with a dot are counted and not listed, unless named in `paths`. What cannot be listed (a folder
/// without permission, a name that is not UTF-8, a pipe) is an item with a verdict; only a path of `paths`
/// that is not there at all is an error.
pub fn list(paths: &[PathBuf]) -> Result<Listing, SourceError> {
    let mut walk = Walk::default();
    for path in paths {
        let canonical =
            fs::canonicalize(path).map_err(|error| SourceError::Absent { path: path.clone(), error })?;
        if canonical.is_dir() {
            walk.folder(path, path, &canonical, 0);
        } else {
            let root = path.parent().unwrap_or(Path::new(""));
            walk.entry(root, path, canonical, 0);
        }
    }
    Ok(walk.listing)
}

/// A path with its links resolved, so that the working directory does not matter, in the form that people type: on
/// Windows without `\\?\`, a share as `\\server\share`.
///
/// # Errors
/// Nothing is there, or it cannot be reached.
pub fn absolute(path: &Path) -> io::Result<PathBuf> {
    system::absolute(path)
}

/// The files under some paths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// Files, in the order of the given paths, sorted within each.
    pub files: Vec<SourceFile>,
    /// What could not be listed.
    pub failures: Vec<ListFailure>,
    /// Entries not listed because their names start with a dot.
    pub hidden: usize,
}

/// One file to read.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceFile {
    /// The folder given by the user, or the folder of a file given by the user.
    pub root: PathBuf,
    /// The path below `root`, always UTF-8.
    pub relative: PathBuf,
    /// The path to open, always UTF-8.
    pub path: PathBuf,
    /// Size when listed.
    pub size_bytes: u64,
    /// Time of last change when listed, where the file system keeps it.
    pub modified: Option<SystemTime>,
    /// The format by extension; none for a kind of file that is not read.
    pub format: Option<Format>,
}

/// Something under the given paths that could not be listed.
#[derive(Clone, Debug, PartialEq)]
pub struct ListFailure {
    /// Where.
    pub path: PathBuf,
    /// The verdict and the reason.
    pub failure: ParseFailure,
}

/// A path named by the user cannot be listed at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing is there, or it cannot be reached.
    #[error("cannot list {}: {error}", path.display())]
    Absent {
        /// The path as given.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

impl SourceError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SourceError::Absent { .. } => Some("check the spelling, and that the disk or share is mounted"),
        }
    }
}

/// The listing so far, and the real paths already in it.
#[derive(Default)]
struct Walk {
    listing: Listing,
    seen: HashSet<PathBuf>,
}

impl Walk {
    /// Recursion is bounded by `FOLDER_DEPTH_MAX`.
    fn folder(&mut self, root: &Path, path: &Path, canonical: &Path, depth: usize) {
        if !self.seen.insert(canonical.to_path_buf()) {
            return;
        }
        if depth > FOLDER_DEPTH_MAX {
            return self.fail(path, Verdict::TooLarge, format!("more than {FOLDER_DEPTH_MAX} folders deep"));
        }
        let mut names = match fs::read_dir(path).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
        }) {
            Ok(names) => names,
            Err(error) => {
                return self.fail(path, Verdict::Failed, format!("cannot list the folder: {error}"));
            }
        };
        names.sort();
        for name in names {
            if name.as_encoded_bytes().starts_with(b".") {
                self.listing.hidden += 1;
                continue;
            }
            self.entry(root, &path.join(&name), canonical.join(&name), depth + 1);
        }
    }

    /// `real` is the path with the links of its folders resolved, not its own.
    fn entry(&mut self, root: &Path, path: &Path, mut real: PathBuf, depth: usize) {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => match fs::canonicalize(path) {
                Ok(target) => {
                    real = target;
                    fs::metadata(path)
                }
                Err(error) => Err(error),
            },
            other => other,
        };
        match metadata {
            Err(error) => self.fail(path, Verdict::Failed, format!("cannot read its metadata: {error}")),
            Ok(metadata) if metadata.is_dir() => self.folder(root, path, &real, depth),
            Ok(metadata) if metadata.is_file() => self.file(root, path, real, &metadata),
            Ok(_) => self.fail(path, Verdict::Unsupported, "not a regular file"),
        }
    }

    fn file(&mut self, root: &Path, path: &Path, real: PathBuf, metadata: &fs::Metadata) {
        if path.to_str().is_none() {
            return self.fail(path, Verdict::Unsupported, "the name is not UTF-8");
        }
        if !self.seen.insert(real) {
            return;
        }
        self.listing.files.push(SourceFile {
            root: root.to_path_buf(),
            relative: path.strip_prefix(root).unwrap_or(path).to_path_buf(),
            path: path.to_path_buf(),
            size_bytes: metadata.len(),
            modified: metadata.modified().ok(),
            format: path.extension().and_then(|e| e.to_str()).and_then(Format::from_extension),
        });
    }

    fn fail(&mut self, path: &Path, verdict: Verdict, why: impl Into<String>) {
        let failure = ParseFailure::new(verdict, why);
        self.listing.failures.push(ListFailure { path: path.to_path_buf(), failure });
    }
}
