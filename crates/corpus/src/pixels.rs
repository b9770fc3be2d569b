//! Pixels on disk, so that an image is decoded once: rows of one size, each under the hash of the file it came from.
//!
//! A row is appended with a checksum over its key and pixels, and believed only when the checksum holds. A writer that
//! is killed leaves at most a row that nobody believes; the next one writes over it. Rows are read one at a time into
//! the caller's buffer, so the whole is never in memory, and the system's page cache keeps what is read often. Plain
//! reads instead of a mapping: a mapped file that another process cuts off ends its reader by a signal.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// First bytes of a file; the last one counts its forms.
const MAGIC: &[u8; 8] = b"haulpix\x01";
/// Magic, key of the preprocessing, bytes of a row.
const HEADER_BYTES: u64 = 8 + 32 + 8;
/// Of a key and of a checksum.
const HASH_BYTES: usize = 32;
/// Bytes of one row: 4,096 pixels a side.
const ROW_BYTES_MAX: u64 = 3 * 4_096 * 4_096;
/// Rows of a file; their keys are held in memory.
const ROWS_MAX: u64 = 20_000_000;

/// A key: the hash of a file's bytes, or of what was done to its pixels.
pub type Hash = [u8; HASH_BYTES];

/// The pixels of many images after one preprocessing.
#[derive(Debug)]
pub struct PixelCache {
    path: PathBuf,
    file: File,
    row_bytes: usize,
    rows: HashMap<Hash, u64>,
    /// Rows that are whole, and so the place of the next one.
    end: u64,
}

impl PixelCache {
    /// Opens or begins a file. One process has it at a time. `preprocessing` is the hash of all that shaped its
    /// pixels; a file of another is refused.
    ///
    /// # Errors
    /// The disk's; a file of something else; a file that another process has.
    pub fn open(path: &Path, preprocessing: Hash, row_bytes: usize) -> Result<PixelCache, PixelsError> {
        let failed = |error| PixelsError::Io { path: path.to_owned(), error };
        if row_bytes == 0 || row_bytes as u64 > ROW_BYTES_MAX {
            return Err(PixelsError::Row { bytes: row_bytes });
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PixelsError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut cache = PixelCache { path: path.to_owned(), file, row_bytes, rows: HashMap::new(), end: 0 };
        let header = [MAGIC.as_slice(), &preprocessing, &(row_bytes as u64).to_le_bytes()].concat();
        cache.begin(&header)?;
        cache.index().map_err(failed)?;
        // What was used last is removed last, also where it was only read.
        cache.file.set_modified(SystemTime::now()).map_err(failed)?;
        Ok(cache)
    }

    /// Writes the header of a new file, or of one whose writer was killed within it; compares that of another.
    fn begin(&mut self, header: &[u8]) -> Result<(), PixelsError> {
        let failed = |error| PixelsError::Io { path: self.path.clone(), error };
        let mut found = Vec::new();
        (&self.file).take(HEADER_BYTES).read_to_end(&mut found).map_err(failed)?;
        if found == header {
            return Ok(());
        }
        if !header.starts_with(&found) {
            return Err(PixelsError::Other { path: self.path.clone() });
        }
        self.file.set_len(0).map_err(failed)?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.file.write_all(header).map_err(failed)
    }

    /// Keys of whole rows; whether a row is true is seen when it is read.
    fn index(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len().saturating_sub(HEADER_BYTES);
        self.end = (length / self.stride()).min(ROWS_MAX);
        for row in 0..self.end {
            self.file.seek(SeekFrom::Start(self.place(row)))?;
            let mut key = [0; HASH_BYTES];
            self.file.read_exact(&mut key)?;
            self.rows.insert(key, row);
        }
        Ok(())
    }

    fn stride(&self) -> u64 {
        (2 * HASH_BYTES + self.row_bytes) as u64
    }

    fn place(&self, row: u64) -> u64 {
        HEADER_BYTES + row * self.stride()
    }

    /// Rows that it has, as far as their keys say.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Keys of the rows that it seems to have.
    pub fn keys(&self) -> impl Iterator<Item = &Hash> {
        self.rows.keys()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Reads the pixels of an image into `pixels`; false where they are not there. A row that is damaged is not there,
    /// and may be added again.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&mut self, key: &Hash, pixels: &mut Vec<u8>) -> Result<bool, PixelsError> {
        let Some(&row) = self.rows.get(key) else { return Ok(false) };
        let mut stored = vec![0; HASH_BYTES];
        pixels.resize(self.row_bytes, 0);
        let place = self.place(row);
        let read = self.file.seek(SeekFrom::Start(place)).and_then(|_| {
            self.file.read_exact(&mut stored)?;
            self.file.read_exact(pixels)?;
            stored.resize(2 * HASH_BYTES, 0);
            self.file.read_exact(&mut stored[HASH_BYTES..])
        });
        match read {
            // Somebody cut the file off.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(PixelsError::Io { path: self.path.clone(), error }),
            Ok(()) if stored[..HASH_BYTES] == *key && stored[HASH_BYTES..] == checksum(key, pixels) => {
                return Ok(true);
            }
            Ok(()) => {}
        }
        self.rows.remove(key);
        Ok(false)
    }

    /// Adds the pixels of an image; those of one that is there are left as they are.
    ///
    /// # Errors
    /// The disk's; pixels of another size; more rows than are kept.
    pub fn add(&mut self, key: &Hash, pixels: &[u8]) -> Result<(), PixelsError> {
        if pixels.len() != self.row_bytes {
            return Err(PixelsError::Length { bytes: pixels.len(), row_bytes: self.row_bytes });
        }
        if self.rows.contains_key(key) {
            return Ok(());
        }
        if self.end >= ROWS_MAX {
            return Err(PixelsError::Full { path: self.path.clone() });
        }
        let failed = |error| PixelsError::Io { path: self.path.clone(), error };
        let row = [key.as_slice(), pixels, &checksum(key, pixels)].concat();
        self.file.seek(SeekFrom::Start(self.place(self.end))).map_err(failed)?;
        self.file.write_all(&row).map_err(failed)?;
        self.rows.insert(*key, self.end);
        self.end += 1;
        Ok(())
    }
}

fn checksum(key: &Hash, pixels: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    *hasher.update(key).update(pixels).finalize().as_bytes()
}

/// Pixels cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum PixelsError {
    /// The disk's.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// Another process has it.
    #[error("{} is in use by another run", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Pixels of another preprocessing, or no pixels.
    #[error("{} holds something else than pixels of this preprocessing", path.display())]
    Other {
        /// The file.
        path: PathBuf,
    },
    /// Rows of a length that no model takes.
    #[error("rows of {bytes} bytes; from 1 to {ROW_BYTES_MAX} are kept")]
    Row {
        /// The length.
        bytes: usize,
    },
    /// Pixels that are not of the size of the others.
    #[error("{bytes} bytes of pixels, not {row_bytes}")]
    Length {
        /// Theirs.
        bytes: usize,
        /// The others'.
        row_bytes: usize,
    },
    /// As many rows as are kept.
    #[error("{} has {ROWS_MAX} rows, as many as are kept", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
}
