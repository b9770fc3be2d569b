//! What the registry asks of a file system, on Unix.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes `link` a symbolic link to the file `target`.
pub(super) fn symlink_file(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Brings the entries of a folder to the disk, so that a rename outlives a power cut.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
