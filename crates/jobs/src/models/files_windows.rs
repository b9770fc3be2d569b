//! What the registry asks of a file system, on Windows.

use std::io;
use std::path::Path;

/// Makes `link` a symbolic link to the file `target`.
pub(super) fn symlink_file(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

/// NTFS journals renames itself, and a folder cannot be opened for syncing.
pub(super) fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}
