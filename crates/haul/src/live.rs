//! While a job runs: `progress.json` once a second, and a line on the terminal if there is one.

use std::path::Path;
use std::thread;

use haul_pipeline::progress::{Progress, ProgressError, Snapshot, TICK, write_snapshot};
use haul_pipeline::stage::Stop;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;
use crate::summary::{duration, thousands};

/// Runs `work` while another thread reports on it.
pub(crate) fn watch<T, E>(
    job: &'static str,
    progress: &Progress,
    file: &Path,
    output: &Output,
    stop: &Stop,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let line = line(output);
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
    if let Err(error) = reported.and_then(|()| write_snapshot(file, &progress.snapshot(job, state))) {
        output.note(&format!("the live progress is not up to date: {error}"));
    }
    result
}

fn report(
    job: &'static str,
    progress: &Progress,
    file: &Path,
    line: &ProgressBar,
    waiting: &std::sync::mpsc::Receiver<()>,
) -> Result<(), ProgressError> {
    loop {
        let snapshot = progress.snapshot(job, "running");
        write_snapshot(file, &snapshot)?;
        line.set_length(snapshot.bytes_total);
        line.set_position(snapshot.bytes_done);
        line.set_message(message(&snapshot));
        match waiting.recv_timeout(TICK) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
    }
}

/// A channel that only ever closes.
fn closing_channel() -> (std::sync::mpsc::SyncSender<()>, std::sync::mpsc::Receiver<()>) {
    std::sync::mpsc::sync_channel(0)
}

fn line(output: &Output) -> ProgressBar {
    if !output.live() {
        return ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    }
    let line = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar:.dim} {msg}") {
        line.set_style(style);
    }
    line
}

fn message(snapshot: &Snapshot) -> String {
    let eta = snapshot.eta_s.map_or_else(|| "?".to_owned(), duration);
    format!(
        "{}/{} files  {} tokens/s  {eta} left",
        thousands(snapshot.items_done),
        thousands(snapshot.items_total),
        thousands(snapshot.tokens_per_s as u64),
    )
}
