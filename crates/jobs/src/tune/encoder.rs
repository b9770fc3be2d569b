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
    /// The smallest budget within 3 % of the best.
    pub best: EncoderTuned,
    /// How many times faster than the default.
    pub gain: f64,
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
    let mut rates: Vec<Vec<f64>> = vec![vec![]; budgets.len()];
    let mut cut_short = false;
    // The first round warms caches and is not kept.
    for round in 0..=PASSES {
        let spent = begun.elapsed();
        if parts.stop.requested() || (round > 1 && spent + spent / round as u32 > settings.budget) {
            cut_short = true;
            break;
        }
        for (budget, rates) in budgets.iter().zip(&mut rates) {
            let rate = pass(settings, parts, &texts, *budget)?;
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    let rows: Vec<Row> = budgets
        .iter()
        .zip(rates)
        .filter_map(|(budget, rates)| Some(Row { batch_tokens: *budget, tokens_per_s: Summary::of(rates)? }))
        .collect();
    report(rows, texts.len() as u64, control, cut_short)
}

fn report(rows: Vec<Row>, texts: u64, control: usize, cut_short: bool) -> Result<Report, EncoderTuneError> {
    let seconds: Vec<(u64, f64)> =
        rows.iter().map(|row| (row.batch_tokens as u64, 1.0 / row.tokens_per_s.mean.max(1e-9))).collect();
    let best = rows.get(knee(&seconds)).ok_or(EncoderTuneError::Nothing)?;
    let of_control =
        rows.iter().find(|row| row.batch_tokens == control).map_or(0.0, |row| row.tokens_per_s.mean);
    Ok(Report {
        best: EncoderTuned { batch_tokens: best.batch_tokens },
        gain: if of_control > 0.0 { best.tokens_per_s.mean / of_control } else { 1.0 },
        rows,
        texts,
        control,
        cut_short,
    })
}

/// Tokens per second of one pass.
fn pass(settings: &Settings, parts: &Parts<'_>, texts: &[String], budget: usize) -> Result<f64, TextError> {
    let mut streaming = settings.streaming.clone();
    streaming.batch = BatchLimits { tokens: budget, items: budget };
    let (stages, progress) = (Stages::start(), Progress::default());
    let work = stream::Parts {
        model: parts.model,
        embedder: parts.embedder,
        stages: &stages,
        progress: &progress,
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
        Row { batch_tokens, tokens_per_s: Summary::of(vec![rate; 3]).unwrap() }
    }

    #[test]
    fn the_smallest_budget_that_is_fast_enough_is_kept() {
        let rows = vec![row(256, 80.0), row(512, 98.0), row(1024, 100.0), row(8192, 90.0)];
        let found = report(rows, 600, 256, false).unwrap();
        assert_eq!(found.best.batch_tokens, 512);
        assert!((found.gain - 98.0 / 80.0).abs() < 1e-12);
        let folder = tempfile::tempdir().unwrap();
        keep(folder.path(), ("hash", "tiny"), ("cpu on x", Dtype::F32), &found).unwrap();
        let kept = |dtype| profile_for(folder.path(), "hash", "cpu on x", dtype);
        assert_eq!(kept(Dtype::F32), Some(found.best));
        assert_eq!(kept(Dtype::Bf16), None);
        assert!(matches!(report(vec![], 0, 256, true), Err(EncoderTuneError::Nothing)));
    }
}
