//! The token budget of a batch with which an encoder is fastest on this machine.

use std::path::Path;
use std::time::{Duration, Instant};

use haul_encoder::dtype::Dtype;
use haul_encoder::embedder::Embedder;
use haul_encoder::model_dir::ModelDir;
use haul_encoder::tokenizer::TokenizeError;
use haul_pipeline::batch::BatchLimits;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::{Stages, Stop};
use serde::{Deserialize, Serialize};

use super::axes::knee;
use super::profile::{Profile, ProfileError, read, save};
use super::settle::{Settled, TURNS, Turn, settle};
use crate::mixes;
use crate::statistics::Summary;
pub use crate::stream::Settings as Streaming;
use crate::stream::{self, TextError};

/// Budgets that are measured, beside the default.
const BUDGETS: &[usize] = &[128, 256, 512, 1024, 2048, 4096, 8192];
/// Passes over the texts of each budget; they take turns, so that other work on the machine meets all of them.
const PASSES: usize = 3;

/// What is tuned.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How texts become vectors; its token budget is the control.
    pub streaming: Streaming,
    /// No round is begun that would end after this.
    pub budget: Duration,
}

/// What the work is done with.
pub struct Parts<'a> {
    /// The model's files.
    pub model: &'a ModelDir,
    /// Its weights on the device.
    pub embedder: &'a Embedder,
    /// Counts texts, of all passes together.
    pub progress: &'a Progress,
    /// Set when the run should end early.
    pub stop: &'a Stop,
}

/// All budgets.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// By budget.
    pub rows: Vec<Row>,
    /// Texts of a pass.
    pub texts: u64,
    /// Budget of the default.
    pub control: usize,
    /// What is kept: the smallest budget within 3 % of the fastest, or the default.
    pub best: EncoderTuned,
    /// How many times as fast as the default, measured in turns with it at the end. It is 1 or more.
    pub gain: f64,
    /// A budget that seemed better and is not kept, because it was slower than the default at the end.
    pub withdrawn: Option<Withdrawn>,
    /// Whether the run was stopped, or its time was up, before all rounds were made.
    pub cut_short: bool,
}

/// One budget.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Tokens of a batch.
    pub batch_tokens: usize,
    /// Tokens per second of each pass.
    pub tokens_per_s: Summary,
}

/// A budget that the measurement at the end did not bear out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Withdrawn {
    /// The budget.
    pub batch_tokens: usize,
    /// How many times as fast as the default, and so below 1; `None` where the run was stopped.
    pub gain: Option<f64>,
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderTuned {
    /// Tokens of a batch.
    pub batch_tokens: usize,
}

/// A budget could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderTuneError {
    /// The tokenizer refuses the words that texts are made of.
    #[error("texts cannot be made for this model: {0}")]
    Mixes(#[from] TokenizeError),
    /// A text has no vector.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Stopped before one pass was made.
    #[error("stopped before anything was measured")]
    Nothing,
}

/// Measures all budgets on texts of very different lengths.
///
/// # Errors
/// A text that has no vector; nothing measured.
pub fn run(settings: &Settings, parts: &Parts<'_>) -> Result<Report, EncoderTuneError> {
    let begun = Instant::now();
    let mixes = mixes::both(parts.model, &settings.streaming, parts.embedder)?;
    let texts = mixes.into_iter().next_back().map(|mix| mix.texts).unwrap_or_default();
    let control = settings.streaming.batch.tokens;
    let mut budgets: Vec<usize> = BUDGETS.iter().copied().chain([control]).collect();
    budgets.sort_unstable();
    budgets.dedup();
    // A batch holds at least one sequence, so smaller budgets are all this one.
    budgets.retain(|budget| *budget >= settings.streaming.max_tokens.min(control));
    let mut rate = |budget: usize| pass(settings, parts, &texts, budget);
    let (rows, cut_short) = rounds(settings, parts.stop, &budgets, begun, &mut rate)?;
    let chosen = choose(&rows, control).ok_or(EncoderTuneError::Nothing)?;
    let settled = if chosen == control {
        Settled::Found { gain: 1.0 }
    } else {
        beside_the_default(parts.stop, control, chosen, &mut rate)?
    };
    Ok(report(rows, texts.len() as u64, (control, chosen), settled, cut_short))
}

/// Measures all budgets in turns. Also says whether the time was up, or the run stopped, before all rounds were made.
fn rounds(
    settings: &Settings,
    stop: &Stop,
    budgets: &[usize],
    begun: Instant,
    rate: &mut impl FnMut(usize) -> Result<f64, TextError>,
) -> Result<(Vec<Row>, bool), TextError> {
    let mut rates: Vec<Vec<f64>> = vec![vec![]; budgets.len()];
    let mut cut_short = false;
    // The first round warms caches and is not kept.
    for round in 0..=PASSES {
        let spent = begun.elapsed();
        if stop.requested() || (round > 1 && spent + spent / round as u32 > settings.budget) {
            cut_short = true;
            break;
        }
        for (budget, rates) in budgets.iter().zip(&mut rates) {
            let rate = rate(*budget)?;
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    let rows = budgets
        .iter()
        .zip(rates)
        .filter_map(|(budget, rates)| Some(Row { batch_tokens: *budget, tokens_per_s: Summary::of(rates)? }))
        .collect();
    Ok((rows, cut_short))
}

/// The budget that seems best, by the fastest pass of each: other work on the machine makes passes slower, and none
/// faster.
fn choose(rows: &[Row], control: usize) -> Option<usize> {
    let seconds = |row: &Row| 1.0 / row.tokens_per_s.samples.iter().copied().fold(1e-9, f64::max);
    let of_control = rows.iter().find(|row| row.batch_tokens == control)?;
    let others = rows.iter().filter(|row| row.batch_tokens != control);
    let sized: Vec<(u64, f64)> = std::iter::once(of_control)
        .chain(others)
        .map(|row| (row.batch_tokens as u64, seconds(row)))
        .collect();
    sized.get(knee(&sized)).and_then(|(budget, _)| usize::try_from(*budget).ok())
}

/// Passes of the default and of what seems better, in turns.
fn beside_the_default(
    stop: &Stop,
    control: usize,
    chosen: usize,
    rate: &mut impl FnMut(usize) -> Result<f64, TextError>,
) -> Result<Settled, TextError> {
    let (mut of_control, mut of_chosen) = (vec![], vec![]);
    for turn in TURNS {
        if stop.requested() {
            return Ok(Settled::Defaults { gain: None });
        }
        match turn {
            Turn::Defaults => of_control.push(1.0 / rate(control)?.max(1e-9)),
            Turn::Found => of_chosen.push(1.0 / rate(chosen)?.max(1e-9)),
        }
    }
    Ok(settle(&of_control, &of_chosen))
}

fn report(
    rows: Vec<Row>,
    texts: u64,
    (control, chosen): (usize, usize),
    settled: Settled,
    cut_short: bool,
) -> Report {
    let (best, gain, withdrawn) = match settled {
        Settled::Found { gain } => (chosen, gain, None),
        Settled::Defaults { gain } => (control, 1.0, Some(Withdrawn { batch_tokens: chosen, gain })),
    };
    Report { rows, texts, control, best: EncoderTuned { batch_tokens: best }, gain, withdrawn, cut_short }
}

/// Tokens per second of one pass.
fn pass(settings: &Settings, parts: &Parts<'_>, texts: &[String], budget: usize) -> Result<f64, TextError> {
    let mut streaming = settings.streaming.clone();
    streaming.batch = BatchLimits { tokens: budget, items: budget };
    let stages = Stages::start();
    let work = stream::Parts {
        model: parts.model,
        embedder: parts.embedder,
        stages: &stages,
        progress: parts.progress,
        stop: parts.stop,
    };
    let mut left = texts.iter();
    let started = Instant::now();
    let outcome = stream::run(&streaming, &work, || Ok::<_, TextError>(left.next().cloned()), |_| Ok(()))?;
    Ok(outcome.tokens as f64 / started.elapsed().as_secs_f64().max(1e-9))
}

/// What encoders are known by: a dtype is as another device.
fn key(device: &str, dtype: Dtype) -> String {
    format!("{device}, {dtype}")
}

/// Keeps what was found.
///
/// # Errors
/// The folder cannot be written.
pub fn keep(
    profiles_dir: &Path,
    (identity, name): (&str, &str),
    (device, dtype): (&str, Dtype),
    report: &Report,
) -> Result<std::path::PathBuf, ProfileError> {
    save(profiles_dir, &Profile::new(identity, name, &key(device, dtype), report.gain, report.best))
}

/// What was found for a model with this hash in this dtype on a device.
#[must_use]
pub fn profile_for(profiles_dir: &Path, identity: &str, device: &str, dtype: Dtype) -> Option<EncoderTuned> {
    read(profiles_dir, identity, &key(device, dtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(batch_tokens: usize, rate: f64) -> Row {
        Row { batch_tokens, tokens_per_s: Summary::of(vec![rate, rate / 2.0]).unwrap() }
    }

    #[test]
    fn the_smallest_budget_that_is_fast_enough_seems_best() {
        let rows = vec![row(256, 80.0), row(512, 98.0), row(1024, 100.0), row(8192, 90.0)];
        assert_eq!(choose(&rows, 256), Some(512));
        assert_eq!(choose(&rows, 512), Some(512));
        // 512 is within 3 % of the fastest, and slower than the default.
        assert_eq!(choose(&rows, 1024), Some(1024));
        assert_eq!(choose(&rows, 128), None);
        assert_eq!(choose(&[], 256), None);
    }

    /// The rates of a script, the last one for ever.
    fn script(rates: &[f64]) -> impl FnMut(usize) -> Result<f64, TextError> {
        let mut left = rates.to_vec();
        move |_| Ok(if left.len() > 1 { left.remove(0) } else { left[0] })
    }

    #[test]
    fn a_budget_that_is_slower_beside_the_default_is_withdrawn() {
        let stop = Stop::default();
        let settle = |rates: &[f64]| {
            let settled = beside_the_default(&stop, 512, 1024, &mut script(rates)).unwrap();
            report(vec![], 600, (512, 1024), settled, false)
        };
        let kept = settle(&[80.0, 100.0, 20.0, 20.0]);
        assert_eq!((kept.best.batch_tokens, kept.gain, kept.withdrawn), (1024, 1.25, None));
        let found = settle(&[20.0, 64.0, 32.0, 128.0]);
        assert_eq!((found.best.batch_tokens, found.gain), (512, 1.0));
        assert_eq!(found.withdrawn, Some(Withdrawn { batch_tokens: 1024, gain: Some(0.5) }));
        stop.request();
        assert_eq!(settle(&[80.0]).withdrawn, Some(Withdrawn { batch_tokens: 1024, gain: None }));
    }

    #[test]
    fn what_was_found_is_kept_for_a_model_in_a_dtype() {
        let found = report(vec![], 600, (256, 512), Settled::Found { gain: 1.5 }, false);
        let folder = tempfile::tempdir().unwrap();
        keep(folder.path(), ("hash", "tiny"), ("cpu on x", Dtype::F32), &found).unwrap();
        let kept = |dtype| profile_for(folder.path(), "hash", "cpu on x", dtype);
        assert_eq!(kept(Dtype::F32), Some(found.best));
        assert_eq!(kept(Dtype::Bf16), None);
    }
}
