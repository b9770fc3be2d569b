//! A cache of derived bytes on disk (parsed text, pixels), keyed by content and capped in size.
//!
//! Entries are only ever an optimisation: a missing, torn or evicted entry means the work is done again.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// After an eviction the cache holds at most this share of its cap, so that evictions are rare.
const EVICT_TO_PERCENT: u64 = 90;
const CHECKSUM_BYTES: usize = blake3::OUT_LEN;

/// A directory of entries named by their key.
pub struct Cache {
    dir: PathBuf,
    cap_bytes: u64,
    size_bytes: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What a key is: the hash of the content and of everything that shaped the derived bytes.
pub type CacheKey = blake3::Hash;

/// The cache directory could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}", path = path.display())]
pub struct CacheError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Cache {
    /// Opens or makes the cache in `dir`, which grows to at most `cap_bytes`.
    ///
    /// # Errors
    /// When the directory cannot be made or listed.
    pub fn open(dir: &Path, cap_bytes: u64) -> Result<Self, CacheError> {
        fs::create_dir_all(dir).map_err(at("create the cache folder", dir))?;
        let size_bytes = entries(dir)?.iter().map(|entry| entry.bytes).sum();
        Ok(Self {
            dir: dir.to_owned(),
            cap_bytes,
            size_bytes: AtomicU64::new(size_bytes),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// The bytes kept under `key`. An entry whose checksum is wrong is removed and counts as a miss.
    ///
    /// # Errors
    /// When an entry is there but cannot be read or removed.
    pub fn get(&self, key: &CacheKey) -> Result<Option<Vec<u8>>, CacheError> {
        let path = self.path(key);
        let file = match fs::read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.misses.fetch_add(1, Ordering::Relaxed);
                return Ok(None);
            }
            Err(error) => return Err(at("read", &path)(error)),
        };
        let Some(bytes) = checked(&file) else {
            self.misses.fetch_add(1, Ordering::Relaxed);
            fs::remove_file(&path).map_err(at("remove the damaged entry", &path))?;
            return Ok(None);
        };
        self.hits.fetch_add(1, Ordering::Relaxed);
        // The time of last use is what eviction goes by.
        let touched = fs::File::options().append(true).open(&path);
        touched.and_then(|file| file.set_modified(SystemTime::now())).map_err(at("touch", &path))?;
        Ok(Some(bytes.to_vec()))
    }

    /// Keeps `bytes` under `key`, then evicts the entries unused for longest if the cap is passed.
    /// Bytes larger than the whole cap are not kept.
    ///
    /// # Errors
    /// When the entry cannot be written or an old one not removed.
    pub fn put(&self, key: &CacheKey, bytes: &[u8]) -> Result<(), CacheError> {
        if bytes.len() as u64 > self.cap_bytes {
            return Ok(());
        }
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(folder).map_err(at("create the cache folder", folder))?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = fs::File::create(&temporary).map_err(at("create", &temporary))?;
        file.write_all(blake3::hash(bytes).as_bytes())
            .and_then(|()| file.write_all(bytes))
            .map_err(at("write", &temporary))?;
        fs::rename(&temporary, &path).map_err(at("rename", &temporary))?;
        let entry_bytes = (bytes.len() + CHECKSUM_BYTES) as u64;
        if self.size_bytes.fetch_add(entry_bytes, Ordering::Relaxed) + entry_bytes > self.cap_bytes {
            self.evict()?;
        }
        Ok(())
    }

    /// Entries found and not found since the cache was opened.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    fn evict(&self) -> Result<(), CacheError> {
        let mut entries = entries(&self.dir)?;
        entries.sort_by_key(|entry| entry.used);
        let mut size_bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let target_bytes = self.cap_bytes / 100 * EVICT_TO_PERCENT;
        for entry in entries {
            if size_bytes <= target_bytes {
                break;
            }
            fs::remove_file(&entry.path).map_err(at("evict", &entry.path))?;
            size_bytes -= entry.bytes;
        }
        self.size_bytes.store(size_bytes, Ordering::Relaxed);
        Ok(())
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        let name = key.to_hex();
        self.dir.join(&name[..2]).join(&name[2..])
    }
}

/// The bytes after the checksum, if it is theirs.
fn checked(file: &[u8]) -> Option<&[u8]> {
    let (checksum, bytes) = file.split_at_checked(CHECKSUM_BYTES)?;
    (blake3::hash(bytes).as_bytes() == checksum).then_some(bytes)
}

struct Entry {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

fn entries(dir: &Path) -> Result<Vec<Entry>, CacheError> {
    let mut found = Vec::new();
    for folder in fs::read_dir(dir).map_err(at("list", dir))? {
        let folder = folder.map_err(at("list", dir))?.path();
        if !folder.is_dir() {
            continue;
        }
        for file in fs::read_dir(&folder).map_err(at("list", &folder))? {
            let path = file.map_err(at("list", &folder))?.path();
            let metadata = fs::metadata(&path).map_err(at("inspect", &path))?;
            let used = metadata.modified().map_err(at("inspect", &path))?;
            found.push(Entry { path, bytes: metadata.len(), used });
        }
    }
    Ok(found)
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    let path = path.to_owned();
    move |source| CacheError { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(n: u8) -> CacheKey {
        blake3::hash(&[n])
    }

    #[test]
    fn what_is_put_comes_back_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        Cache::open(dir.path(), 1000).unwrap().put(&key(1), b"text").unwrap();
        let cache = Cache::open(dir.path(), 1000).unwrap();
        assert_eq!(cache.get(&key(1)).unwrap().as_deref(), Some(&b"text"[..]));
        assert_eq!(cache.get(&key(2)).unwrap(), None);
        assert_eq!(cache.hits_and_misses(), (1, 1));
    }

    #[test]
    fn a_torn_entry_is_a_miss_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 1000).unwrap();
        cache.put(&key(1), b"some text").unwrap();
        let path = cache.path(&key(1));
        let mut file = fs::read(&path).unwrap();
        *file.last_mut().unwrap() ^= 1;
        fs::write(&path, file).unwrap();
        assert_eq!(cache.get(&key(1)).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn the_entry_unused_for_longest_is_evicted_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 3 * 132).unwrap();
        for n in 1..=3 {
            cache.put(&key(n), &[n; 100]).unwrap();
            let age = Duration::from_secs(100 - u64::from(n));
            let file = fs::File::options().append(true).open(cache.path(&key(n))).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        cache.get(&key(1)).unwrap();
        cache.put(&key(4), &[4; 100]).unwrap();
        let kept: Vec<bool> = (1..=4).map(|n| cache.get(&key(n)).unwrap().is_some()).collect();
        assert_eq!(kept, [true, false, false, true]);
    }
}
