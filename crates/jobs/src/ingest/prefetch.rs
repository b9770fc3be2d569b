//! Files on a share, copied to the local disk ahead of the readers and hashed on the way.
//!
//! A reader of a PDF seeks to and fro; over a network each seek is a round trip. The copies together hold at most
//! [`PREFETCH_BYTES_MAX`], and each is removed when it was read.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use haul_pipeline::stage::{Meter, Stop};
use haul_store::library::network_file_system;

use super::IngestError;
use super::select::NamedFile;

/// Bytes of all copies together; a larger file is read where it is.
pub const PREFETCH_BYTES_MAX: u64 = 1 << 30;
/// Read from the share at once.
const PIECE_BYTES: usize = 1 << 20;
/// How often a wait for room looks whether the run is to stop.
const STOP_INTERVAL: Duration = Duration::from_millis(200);

/// Which files are copied before they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    /// Those on network file systems.
    Auto,
    /// All.
    Always,
    /// None.
    Never,
}

/// Makes copies, from one thread.
pub(crate) struct Prefetcher {
    folder: PathBuf,
    mode: Prefetch,
    room: Arc<Room>,
    is_remote: HashMap<String, bool>,
    copies: u64,
}

/// A file's content hash, and its local copy where one was made.
pub(crate) struct Fetched {
    pub(crate) content_hash: [u8; 32],
    pub(crate) copy: Option<LocalCopy>,
}

/// Why a file has no hash.
pub(crate) enum FetchError {
    /// It cannot be read; that is the file's verdict.
    Source(io::Error),
    /// The local disk refuses, or the run is to stop.
    Local(IngestError),
}

impl Prefetcher {
    /// `folder` belongs to this run alone; what a killed run left there is removed.
    pub(crate) fn new(folder: &Path, mode: Prefetch) -> Result<Self, IngestError> {
        match fs::remove_dir_all(folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(IngestError::Prefetch { path: folder.into(), source });
            }
            _ => {}
        }
        let room = Arc::new(Room { free_bytes: Mutex::new(PREFETCH_BYTES_MAX), freed: Condvar::new() });
        Ok(Self { folder: folder.into(), mode, room, is_remote: HashMap::new(), copies: 0 })
    }

    /// Hashes a file, and copies it if it is far away and there is room for it; waits for room.
    pub(crate) fn fetch(
        &mut self,
        meter: &mut Meter,
        stop: &Stop,
        file: &NamedFile,
    ) -> Result<Fetched, FetchError> {
        let path = &file.file.path;
        let bytes = file.file.size_bytes;
        if bytes > PREFETCH_BYTES_MAX || !self.wants(file) || !self.room.take(meter, stop, bytes) {
            let mut hasher = blake3::Hasher::new();
            let file = File::open(path).map_err(FetchError::Source)?;
            hasher.update_reader(file).map_err(FetchError::Source)?;
            return Ok(Fetched { content_hash: *hasher.finalize().as_bytes(), copy: None });
        }
        self.copies += 1;
        let extension = path.extension().map_or_else(Default::default, |e| e.to_string_lossy().into_owned());
        // Made before the file, so that a half-made one is removed too.
        let copy = LocalCopy {
            path: self.folder.join(format!("{}.{extension}", self.copies)),
            bytes,
            room: Arc::clone(&self.room),
        };
        let content_hash = self.copy(path, &copy.path, bytes)?;
        Ok(Fetched { content_hash, copy: Some(copy) })
    }

    fn wants(&mut self, file: &NamedFile) -> bool {
        match self.mode {
            Prefetch::Always => true,
            Prefetch::Never => false,
            Prefetch::Auto => *self.is_remote.entry(file.root.clone()).or_insert_with(|| {
                // What cannot be told is read where it is.
                network_file_system(&file.file.root).is_ok_and(|name| name.is_some())
            }),
        }
    }

    /// At most the bytes that were listed are kept: a file that grows meanwhile is found out after it was read.
    fn copy(&self, from: &Path, to: &Path, bytes: u64) -> Result<[u8; 32], FetchError> {
        let local = |source| FetchError::Local(IngestError::Prefetch { path: to.into(), source });
        let mut source = File::open(from).map_err(FetchError::Source)?.take(bytes);
        fs::create_dir_all(&self.folder).map_err(local)?;
        let mut target = File::create(to).map_err(local)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match source.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(FetchError::Source(error)),
            };
            hasher.update(&piece[..read]);
            target.write_all(&piece[..read]).map_err(local)?;
        }
        Ok(*hasher.finalize().as_bytes())
    }
}

/// A copy on the local disk, there as long as this value.
pub(crate) struct LocalCopy {
    path: PathBuf,
    bytes: u64,
    room: Arc<Room>,
}

impl LocalCopy {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LocalCopy {
    fn drop(&mut self) {
        // A copy whose file could not be made has none.
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the copy {} stays until the next run", self.path.display());
        }
        self.room.give_back(self.bytes);
    }
}

/// Bytes that copies may still take.
struct Room {
    free_bytes: Mutex<u64>,
    freed: Condvar,
}

impl Room {
    /// Waits until there is room; false if the run is to stop meanwhile.
    fn take(&self, meter: &mut Meter, stop: &Stop, bytes: u64) -> bool {
        meter.blocked(|| {
            let mut free = self.free_bytes.lock().unwrap_or_else(PoisonError::into_inner);
            while *free < bytes {
                if stop.requested() {
                    return false;
                }
                free = self.freed.wait_timeout(free, STOP_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
            }
            *free -= bytes;
            true
        })
    }

    fn give_back(&self, bytes: u64) {
        *self.free_bytes.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        self.freed.notify_one();
    }
}
