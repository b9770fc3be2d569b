//! While a job runs: `progress.json` once a second, and a line on the terminal if there is one.

use std::path::Path;
use std::thread;

use haul_pipeline::forecast::{self, Range};
use haul_pipeline::progress::{Point, Progress, ProgressError, Snapshot, TICK, Timeline, write_snapshot};
use haul_pipeline::stage::Stop;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;
use crate::summary::{duration, thousands};

/// A forecast that a run makes of itself rests on this much of it, at least.
const FORECAST_SECONDS: f64 = 10.0;

/// How a run went.
pub(crate) struct Watched<T> {
    /// What came of it.
    pub(crate) result: T,
    /// How its counters grew.
    pub(crate) timeline: Vec<Point>,
    /// The first forecast of its whole time that could be made while it ran.
    pub(crate) forecast: Option<Range>,
}

/// Runs `work` while another thread reports on it.
pub(crate) fn watch<T, E>(
    job: &'static str,
    progress: &Progress,
    file: &Path,
    output: &Output,
    stop: &Stop,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<Watched<T>, E> {
    reported(job, progress, file, (output, line(output)), stop, work)
}

/// Runs `work` while another thread writes how far it is; for work that says itself what it does, line by line.
pub(crate) fn keep<T, E>(
    job: &'static str,
    progress: &Progress,
    file: &Path,
    output: &Output,
    stop: &Stop,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    reported(job, progress, file, (output, no_line()), stop, work).map(|watched| watched.result)
}

fn reported<T, E>(
    job: &'static str,
    progress: &Progress,
    file: &Path,
    (output, line): (&Output, ProgressBar),
    stop: &Stop,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<Watched<T>, E> {
    let (done, waiting) = closing_channel();
    let (result, reported) = thread::scope(|scope| {
        let bar = &line;
        let reporter = scope.spawn(move || report(job, progress, file, bar, &waiting));
        let result = work();
        drop(done);
        (result, reporter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    line.finish_and_clear();
    let state = match &result {
        Err(_) => "failed",
        Ok(_) if stop.requested() => "interrupted",
        Ok(_) => "finished",
    };
    // Whoever watches the file is told, and the work does not suffer.
    let Reported { timeline, forecast, written } = reported;
    let end = progress.snapshot(job, state);
    if let Err(error) = written.and_then(|()| write_snapshot(file, &end)) {
        output.note(&format!("the live progress is not up to date: {error}"));
    }
    Ok(Watched { result: result?, timeline: timeline.finish(&end), forecast })
}

/// What the reporting thread saw.
struct Reported {
    timeline: Timeline,
    forecast: Option<Range>,
    written: Result<(), ProgressError>,
}

fn report(
    job: &'static str,
    progress: &Progress,
    file: &Path,
    line: &ProgressBar,
    waiting: &std::sync::mpsc::Receiver<()>,
) -> Reported {
    let mut reported = Reported { timeline: Timeline::default(), forecast: None, written: Ok(()) };
    loop {
        let mut snapshot = progress.snapshot(job, "running");
        reported.timeline.add(&snapshot);
        let whole = forecast::running(reported.timeline.points(), snapshot.bytes_total);
        if snapshot.seconds >= FORECAST_SECONDS {
            reported.forecast = reported.forecast.or(whole);
        }
        let left = |seconds: f64| (seconds - snapshot.seconds).max(0.0);
        snapshot.eta_range_s = whole.map(|whole| (left(whole.low), left(whole.high)));
        if reported.written.is_ok() {
            reported.written = write_snapshot(file, &snapshot);
        }
        line.set_length(snapshot.bytes_total);
        line.set_position(snapshot.bytes_done);
        line.set_message(message(&snapshot));
        match waiting.recv_timeout(TICK) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            _ => return reported,
        }
    }
}

/// A channel that only ever closes.
fn closing_channel() -> (std::sync::mpsc::SyncSender<()>, std::sync::mpsc::Receiver<()>) {
    std::sync::mpsc::sync_channel(0)
}

fn line(output: &Output) -> ProgressBar {
    if !output.live() {
        return no_line();
    }
    let line = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar:.dim} {msg}") {
        line.set_style(style);
    }
    line
}

fn no_line() -> ProgressBar {
    ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden())
}

fn message(snapshot: &Snapshot) -> String {
    let eta = match (snapshot.eta_range_s, snapshot.eta_s) {
        (Some((low, high)), _) if duration(low) != duration(high) => {
            format!("{} to {}", duration(low), duration(high))
        }
        (_, Some(eta)) => duration(eta),
        (_, None) => "?".to_owned(),
    };
    format!(
        "{}/{} done  {} tokens/s  {eta} left",
        thousands(snapshot.items_done),
        thousands(snapshot.items_total),
        thousands(snapshot.tokens_per_s as u64),
    )
}
