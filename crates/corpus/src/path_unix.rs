//! How a path becomes absolute. Unix.

use std::io;
use std::path::{Path, PathBuf};

pub(crate) fn absolute(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize()
}
