//! A cache of derived bytes on disk (parsed text, pixels), keyed by content and capped in size.
//!
//! Entries are only ever an optimisation: a missing, torn or evicted entry means the work is done again, and a
//! cache that cannot be read or written ends no run. What failed is counted and told by [`Cache::failures`].

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// After an eviction the cache holds at most this share of its cap, so that evictions are rare.
const EVICT_TO_PERCENT: u64 = 90;
/// Extension of an entry until it is whole.
const TEMPORARY: &str = "tmp";
/// No entry takes as long to write.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);
const CHECKSUM_BYTES: usize = blake3::OUT_LEN;

/// A directory of entries named by their key.
pub struct Cache {
    dir: PathBuf,
    cap_bytes: u64,
    size_bytes: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    /// Makes the names of temporary files unique: two threads may put the same key at once.
    puts: AtomicU64,
    /// One eviction at a time.
    evicting: Mutex<()>,
    failures: Mutex<Failures>,
}

/// What went wrong with the cache in this run.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// How often an entry could not be read, written or evicted.
    pub count: u64,
    /// The first of these errors in words.
    pub first: Option<String>,
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
            puts: AtomicU64::new(0),
            evicting: Mutex::new(()),
            failures: Mutex::default(),
        })
    }

    /// The bytes kept under `key`. An entry whose checksum is wrong is removed and counts as a miss.
    pub fn get(&self, key: &CacheKey) -> Option<Vec<u8>> {
        let found = self.read(key).unwrap_or_else(|error| {
            self.fail(&error);
            None
        });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keeps `bytes` under `key`, then evicts the entries unused for longest if the cap is passed.
    /// Bytes larger than the whole cap are not kept.
    pub fn put(&self, key: &CacheKey, bytes: &[u8]) {
        if bytes.len() as u64 > self.cap_bytes {
            return;
        }
        if let Err(error) = self.write(key, bytes) {
            self.fail(&error);
        }
    }

    /// Entries found and not found since the cache was opened.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// What went wrong since the cache was opened.
    pub fn failures(&self) -> Failures {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, error: &CacheError) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count += 1;
        failures.first.get_or_insert_with(|| error.to_string());
    }

    fn read(&self, key: &CacheKey) -> Result<Option<Vec<u8>>, CacheError> {
        let path = self.path(key);
        let Some(file) = present(fs::read(&path)).map_err(at("read", &path))? else { return Ok(None) };
        let Some(bytes) = checked(&file) else {
            present(fs::remove_file(&path)).map_err(at("remove the damaged entry", &path))?;
            return Ok(None);
        };
        // The time of last use is what eviction goes by.
        let touched = fs::File::options().append(true).open(&path);
        present(touched.and_then(|file| file.set_modified(SystemTime::now()))).map_err(at("touch", &path))?;
        Ok(Some(bytes.to_vec()))
    }

    fn write(&self, key: &CacheKey, bytes: &[u8]) -> Result<(), CacheError> {
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(folder).map_err(at("create the cache folder", folder))?;
        let number = self.puts.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_extension(format!("{}-{number}.{TEMPORARY}", std::process::id()));
        let mut file = fs::File::create(&temporary).map_err(at("create", &temporary))?;
        let written = file.write_all(blake3::hash(bytes).as_bytes()).and_then(|()| file.write_all(bytes));
        if let Err(error) = written {
            present(fs::remove_file(&temporary)).map_err(at("remove the unfinished", &temporary))?;
            return Err(at("write", &temporary)(error));
        }
        fs::rename(&temporary, &path).map_err(at("rename", &temporary))?;
        let entry_bytes = (bytes.len() + CHECKSUM_BYTES) as u64;
        if self.size_bytes.fetch_add(entry_bytes, Ordering::Relaxed) + entry_bytes > self.cap_bytes {
            self.evict()?;
        }
        Ok(())
    }

    fn evict(&self) -> Result<(), CacheError> {
        let _one_at_a_time = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.size_bytes.load(Ordering::Relaxed) <= self.cap_bytes {
            return Ok(());
        }
        let mut entries = entries(&self.dir)?;
        entries.sort_by_key(|entry| entry.used);
        let mut size_bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let target_bytes = self.cap_bytes / 100 * EVICT_TO_PERCENT;
        for entry in entries {
            if size_bytes <= target_bytes {
                break;
            }
            present(fs::remove_file(&entry.path)).map_err(at("evict", &entry.path))?;
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
            let Some(metadata) = present(fs::metadata(&path)).map_err(at("inspect", &path))? else {
                continue;
            };
            let used = metadata.modified().map_err(at("inspect", &path))?;
            if is_being_written(&path, used) {
                continue;
            }
            found.push(Entry { path, bytes: metadata.len(), used });
        }
    }
    Ok(found)
}

/// Another thread is about to rename it. An older one was left by a process that died.
fn is_being_written(path: &Path, used: SystemTime) -> bool {
    path.extension().is_some_and(|extension| extension == TEMPORARY)
        && used.elapsed().is_ok_and(|age| age < ABANDONED_AFTER)
}

/// `None` for what is not there: another process may evict what this one has just listed.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
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
        Cache::open(dir.path(), 1000).unwrap().put(&key(1), b"text");
        let cache = Cache::open(dir.path(), 1000).unwrap();
        assert_eq!(cache.get(&key(1)).as_deref(), Some(&b"text"[..]));
        assert_eq!(cache.get(&key(2)), None);
        assert_eq!(cache.hits_and_misses(), (1, 1));
    }

    #[test]
    fn a_torn_entry_is_a_miss_and_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 1000).unwrap();
        cache.put(&key(1), b"some text");
        let path = cache.path(&key(1));
        let mut file = fs::read(&path).unwrap();
        *file.last_mut().unwrap() ^= 1;
        fs::write(&path, file).unwrap();
        assert_eq!(cache.get(&key(1)), None);
        assert!(!path.exists());
    }

    #[test]
    fn the_entry_unused_for_longest_is_evicted_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 3 * 132).unwrap();
        for n in 1..=3 {
            cache.put(&key(n), &[n; 100]);
            let age = Duration::from_secs(100 - u64::from(n));
            let file = fs::File::options().append(true).open(cache.path(&key(n))).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        cache.get(&key(1));
        cache.put(&key(4), &[4; 100]);
        let kept: Vec<bool> = (1..=4).map(|n| cache.get(&key(n)).is_some()).collect();
        assert_eq!(kept, [true, false, false, true]);
    }
    /// Threads that put the same key shared a temporary file, and threads that evicted at once removed each
    /// other's entries: both ended a run whose cache was full.
    #[test]
    fn threads_do_not_trip_over_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 2000).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|n| cache.put(&key(n % 40), &[n; 100])));
            }
        });
        assert_eq!(cache.failures().first, None);
        assert!(entries(dir.path()).unwrap().iter().map(|entry| entry.bytes).sum::<u64>() <= 2000);
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_told_and_ends_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), 2000).unwrap();
        let folder = cache.path(&key(1)).parent().unwrap().to_owned();
        fs::write(&folder, "a file in the way").unwrap();
        cache.put(&key(1), b"text");
        let failures = cache.failures();
        assert_eq!(failures.count, 1);
        assert!(failures.first.is_some_and(|first| first.contains("create the cache folder")));
    }
}
