//! Live counters of a run, and `progress.json` renamed into place once a second for whoever watches.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How often `progress.json` is renewed and the observer called.
pub const TICK: Duration = Duration::from_secs(1);

/// Counters that every stage adds to.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    items_total: AtomicU64,
    items_done: AtomicU64,
    bytes_total: AtomicU64,
    bytes_done: AtomicU64,
    tokens_done: AtomicU64,
}

/// The counters at one moment; what `progress.json` holds.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Snapshot {
    /// The job: ingest, extract ...
    pub job: &'static str,
    /// running, finished, interrupted or failed.
    pub state: &'static str,
    /// Seconds since the start.
    pub seconds: f64,
    /// Items to do, as far as known.
    pub items_total: u64,
    /// Items with a verdict.
    pub items_done: u64,
    /// Bytes of input in `items_total`.
    pub bytes_total: u64,
    /// Bytes of input in `items_done`.
    pub bytes_done: u64,
    /// Tokens computed by the model.
    pub tokens: u64,
    /// Tokens per second since the start.
    pub tokens_per_s: f64,
    /// Seconds left if the bytes to come cost what the bytes done did; `None` before the first.
    pub eta_s: Option<f64>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            items_total: AtomicU64::new(0),
            items_done: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            tokens_done: AtomicU64::new(0),
        }
    }
}

impl Progress {
    /// Adds work to do.
    pub fn expect(&self, items: u64, bytes: u64) {
        self.items_total.fetch_add(items, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts work done.
    pub fn done(&self, items: u64, bytes: u64) {
        self.items_done.fetch_add(items, Ordering::Relaxed);
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts items that need no work: they are done, and say nothing about the time of the others.
    pub fn skipped(&self, items: u64, bytes: u64) {
        self.items_done.fetch_add(items, Ordering::Relaxed);
        self.bytes_total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Counts tokens that the model computed.
    pub fn computed(&self, tokens: u64) {
        self.tokens_done.fetch_add(tokens, Ordering::Relaxed);
    }

    /// All counters now.
    #[expect(clippy::cast_precision_loss, reason = "shown to people and rounded; exact to 2^53")]
    pub fn snapshot(&self, job: &'static str, state: &'static str) -> Snapshot {
        let seconds = self.started.elapsed().as_secs_f64();
        let (bytes_total, bytes_done) =
            (self.bytes_total.load(Ordering::Relaxed), self.bytes_done.load(Ordering::Relaxed));
        let tokens = self.tokens_done.load(Ordering::Relaxed);
        let bytes_left = bytes_total.saturating_sub(bytes_done) as f64;
        Snapshot {
            job,
            state,
            seconds,
            items_total: self.items_total.load(Ordering::Relaxed),
            items_done: self.items_done.load(Ordering::Relaxed),
            bytes_total,
            bytes_done,
            tokens,
            tokens_per_s: tokens as f64 / seconds.max(1e-9),
            eta_s: (bytes_done > 0).then(|| seconds / bytes_done as f64 * bytes_left),
        }
    }
}

/// `progress.json` could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct ProgressError {
    path: PathBuf,
    source: io::Error,
}

/// Writes the snapshot beside `path` and renames it into place, so that a reader never sees half of it.
///
/// # Errors
/// When the file cannot be written or renamed.
pub fn write_snapshot(path: &Path, snapshot: &Snapshot) -> Result<(), ProgressError> {
    let failed = |source| ProgressError { path: path.to_owned(), source };
    let json = serde_json::to_vec(snapshot).map_err(|error| failed(error.into()))?;
    let temporary = path.with_extension("json.tmp");
    std::fs::write(&temporary, json).map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eta_follows_the_bytes_and_the_file_is_whole() {
        let progress = Progress::default();
        progress.expect(4, 1000);
        assert_eq!(progress.snapshot("ingest", "running").eta_s, None);
        progress.done(1, 250);
        progress.computed(77);
        let snapshot = progress.snapshot("ingest", "running");
        let eta_s = snapshot.eta_s.expect("something is done");
        assert!((eta_s / snapshot.seconds - 3.0).abs() < 1e-6, "{snapshot:?}");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("progress.json");
        write_snapshot(&path, &snapshot).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((read["items_done"].as_u64(), read["tokens"].as_u64()), (Some(1), Some(77)));
        assert!(!path.with_extension("json.tmp").exists());
    }
}
