//! Live counters of a run, and `progress.json` renamed into place once a second for whoever watches.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

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
    texts_done: AtomicU64,
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
    /// Texts computed by the model: chunks, sentences ...
    pub texts: u64,
    /// Tokens per second since the start.
    pub tokens_per_s: f64,
    /// Seconds left if the bytes to come cost what the bytes done did; `None` before the first.
    pub eta_s: Option<f64>,
    /// What `eta_s` may turn out to be, p10 to p90; `None` while too little is done to say.
    pub eta_range_s: Option<(f64, f64)>,
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
            texts_done: AtomicU64::new(0),
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

    /// Counts what the model computed.
    pub fn computed(&self, texts: u64, tokens: u64) {
        self.texts_done.fetch_add(texts, Ordering::Relaxed);
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
            texts: self.texts_done.load(Ordering::Relaxed),
            tokens_per_s: tokens as f64 / seconds.max(1e-9),
            eta_s: (bytes_done > 0).then(|| seconds / bytes_done as f64 * bytes_left),
            eta_range_s: None,
        }
    }
}

/// Points of a [`Timeline`]; with more, every second one goes.
const POINTS_MAX: usize = 512;

/// Counters at one moment of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the start.
    pub seconds: f64,
    /// Items with a verdict.
    pub items: u64,
    /// Bytes of input in them.
    pub bytes_done: u64,
    /// Texts computed by the model.
    pub texts: u64,
    /// Tokens computed by the model.
    pub tokens: u64,
}

/// How the counters of a run grew. However long the run, it has at most `POINTS_MAX` points, evenly spaced.
#[derive(Clone, Debug)]
pub struct Timeline {
    points: Vec<Point>,
    /// One of so many snapshots becomes a point.
    every: u64,
    seen: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { points: Vec::new(), every: 1, seen: 0 }
    }
}

impl Timeline {
    /// Adds what the counters say now.
    pub fn add(&mut self, snapshot: &Snapshot) {
        if self.seen.is_multiple_of(self.every) {
            self.points.push(Point::from(snapshot));
        }
        self.seen += 1;
        if self.points.len() > POINTS_MAX {
            let mut keep = [false, true].into_iter().cycle();
            // The first stays: it is where the run began.
            self.points.retain(|_| !keep.next().unwrap_or(false));
            self.every *= 2;
        }
    }

    /// The points so far.
    #[must_use]
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The points, and the end of the run as the last.
    #[must_use]
    pub fn finish(mut self, end: &Snapshot) -> Vec<Point> {
        self.points.push(Point::from(end));
        self.points
    }
}

impl From<&Snapshot> for Point {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            seconds: snapshot.seconds,
            items: snapshot.items_done,
            bytes_done: snapshot.bytes_done,
            texts: snapshot.texts,
            tokens: snapshot.tokens,
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
    fn a_timeline_is_bounded_and_evenly_spaced() {
        let mut timeline = Timeline::default();
        let end = Progress::default().snapshot("ingest", "finished");
        for seconds in 0..10_000 {
            timeline.add(&Snapshot { seconds: f64::from(seconds), ..end.clone() });
        }
        let points = timeline.finish(&Snapshot { seconds: 10_000.0, ..end });
        assert!((200..=POINTS_MAX + 1).contains(&points.len()), "{}", points.len());
        let steps: Vec<f64> = points.windows(2).map(|pair| pair[1].seconds - pair[0].seconds).collect();
        assert!(steps[..steps.len() - 1].iter().all(|step| *step == steps[0]), "{steps:?}");
        assert_eq!((points[0].seconds, points[points.len() - 1].seconds), (0.0, 10_000.0));
    }

    #[test]
    fn eta_follows_the_bytes_and_the_file_is_whole() {
        let progress = Progress::default();
        progress.expect(4, 1000);
        assert_eq!(progress.snapshot("ingest", "running").eta_s, None);
        progress.done(1, 250);
        progress.computed(3, 77);
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
