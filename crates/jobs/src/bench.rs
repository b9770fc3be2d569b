//! `bench`: what the encoder reaches on this machine, beside the machine's own roof, and what its faster modes cost.
//!
//! A pass takes the way that `embed` takes: strings in, rows out, tokenized by one thread while others compute.
//! Loading is not timed.

mod directions;
pub mod store;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use haul_encoder::dtype::Dtype;
use haul_encoder::embedder::{Embedder, LoadError};
use haul_encoder::model_dir::ModelDir;
use haul_encoder::tokenizer::TokenizeError;
use haul_machine::cpu::Isa;
use haul_machine::roof;
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::Truncated;
use haul_pipeline::stage::{Stages, Stop};
use serde::Serialize;

use crate::mixes;
pub use crate::mixes::Mix;
pub use crate::quality::{Agreement, TEXTS as QUALITY_TEXTS};
use crate::quality::{agreement, evenly};
pub use crate::stream::Settings as Streaming;
use crate::stream::{self, Outcome, TextError, TextOutputs};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The modes, one after the other.
    pub dtypes: Vec<Dtype>,
    /// The texts; `None` for the two mixes that are made here.
    pub mix: Option<Mix>,
    /// The texts by which modes are compared with f32; `None` for those of each mix.
    pub quality_texts: Option<Vec<String>>,
    /// Passes of a row are repeated for so long; one is always made.
    pub row: Duration,
    /// How texts become vectors.
    pub streaming: Streaming,
}

/// What is measured with.
pub struct Parts<'a> {
    /// The model's files.
    pub model: &'a ModelDir,
    /// Loads the weights in a dtype, for as many threads as batches are computed side by side.
    pub load: &'a dyn Fn(Dtype) -> Result<Embedder, LoadError>,
    /// The instruction set of the kernels, for the roofs.
    pub isa: Isa,
    /// Set when the run should end early.
    pub stop: &'a Stop,
}

/// One mode on one mix.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The mode.
    pub dtype: &'static str,
    /// The mix.
    pub mix: String,
    /// Texts of a pass.
    pub texts: u64,
    /// Tokens of a pass, special tokens included.
    pub tokens: u64,
    /// Passes made; the median is what counts.
    pub passes: usize,
    /// Seconds of the median pass, from the first string to the last row.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_s: f64,
    /// Operations of the model, linear layers and attention, in 10^9 per second.
    pub gflops: f64,
    /// The dtype's roof on as many threads, measured right before and after the row; the higher counts.
    pub roof_gflops: f64,
    /// `gflops` as a share of the roof.
    pub percent_of_roof: f64,
    /// What was cut off because the model could not take it.
    pub truncated: Truncated,
    /// Agreement with f32; `None` for f32.
    pub quality: Option<Agreement>,
}

/// All rows.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By dtype, then by mix.
    pub rows: Vec<Row>,
    /// The highest roof of each dtype that was measured, in GFLOP/s.
    pub roofs: BTreeMap<String, f64>,
    /// Whether the run was stopped early; the rows are those that were finished.
    pub interrupted: bool,
}

/// A benchmark could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The weights cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer refuses the words that texts are made of.
    #[error("texts cannot be made for this model: {0}")]
    Mixes(#[from] TokenizeError),
    /// A text has no vector.
    #[error("{dtype}, {mix}: {source}")]
    Text {
        /// The mode that failed on it.
        dtype: Dtype,
        /// The mix it belongs to.
        mix: String,
        /// Which text, and why.
        source: TextError,
    },
}

impl BenchError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Load(error) => error.hint(),
            Self::Mixes(_) => Some("give texts of your own with --texts FILE"),
            Self::Text { source, .. } => source.fault.hint(),
        }
    }
}

/// Measures every dtype on every mix.
///
/// # Errors
/// Weights that cannot be loaded, and the first text that has no vector.
pub fn run(settings: &Settings, parts: &Parts<'_>) -> Result<Report, BenchError> {
    let bench = Bench { settings, parts };
    let subjects = bench.subjects()?;
    let mut report = Report::default();
    for &dtype in &settings.dtypes {
        if parts.stop.requested() {
            break;
        }
        let embedder = (parts.load)(dtype)?;
        for subject in &subjects {
            let row = bench.row(dtype, &embedder, subject)?;
            if parts.stop.requested() {
                break;
            }
            let roof = report.roofs.entry(dtype.name().to_owned()).or_default();
            *roof = roof.max(row.roof_gflops);
            report.rows.push(row);
        }
    }
    report.interrupted = parts.stop.requested();
    Ok(report)
}

struct Bench<'a> {
    settings: &'a Settings,
    parts: &'a Parts<'a>,
}

/// A mix, and the texts with their vectors in f32 by which modes are compared.
struct Subject {
    mix: Mix,
    compared: Vec<String>,
    exact: Vec<Vec<f32>>,
}

impl Bench<'_> {
    /// The mixes with their vectors in f32. The exact weights are gone when this returns: no two sets are held at
    /// once.
    fn subjects(&self) -> Result<Vec<Subject>, BenchError> {
        let embedder = (self.parts.load)(Dtype::F32)?;
        let mixes = match &self.settings.mix {
            Some(mix) => vec![mix.clone()],
            None => mixes::both(self.parts.model, &self.settings.streaming, &embedder)?,
        };
        let mut subjects = Vec::with_capacity(mixes.len());
        for mix in mixes {
            let compared = match &self.settings.quality_texts {
                Some(texts) => texts.clone(),
                None => evenly(mix.texts.len()).into_iter().map(|at| mix.texts[at].clone()).collect(),
            };
            let exact = self.vectors(Dtype::F32, &embedder, &mix, &compared)?.1;
            subjects.push(Subject { mix, compared, exact });
        }
        Ok(subjects)
    }

    fn row(&self, dtype: Dtype, embedder: &Embedder, subject: &Subject) -> Result<Row, BenchError> {
        let Subject { mix, compared, exact } = subject;
        // Also what warms up: pages and caches are as a long run finds them.
        let rows = self.vectors(dtype, embedder, mix, compared)?.1;
        let quality = if dtype == Dtype::F32 { None } else { agreement(exact, &rows) };
        let roof_before = self.roof(dtype);
        let mut seconds = Vec::new();
        let mut last = Outcome::default();
        let begun = Instant::now();
        while seconds.is_empty() || (begun.elapsed() < self.settings.row && !self.parts.stop.requested()) {
            let started = Instant::now();
            last = self.vectors(dtype, embedder, mix, &mix.texts)?.0;
            seconds.push(started.elapsed().as_secs_f64());
        }
        let roof_gflops = roof_before.max(self.roof(dtype));
        let passes = seconds.len();
        let seconds = median(seconds);
        let gflops = last.flops as f64 / seconds / 1e9;
        Ok(Row {
            dtype: dtype.name(),
            mix: mix.name.clone(),
            texts: last.texts,
            tokens: last.tokens,
            passes,
            seconds,
            tokens_per_s: last.tokens as f64 / seconds,
            gflops,
            roof_gflops,
            percent_of_roof: 100.0 * gflops / roof_gflops,
            truncated: last.truncated,
            quality,
        })
    }

    fn roof(&self, dtype: Dtype) -> f64 {
        let threads = NonZeroUsize::new(self.settings.streaming.compute_threads).unwrap_or(NonZeroUsize::MIN);
        roof::measure_now(self.parts.isa, dtype, threads)
    }

    /// One pass. After a stop it ends early.
    fn vectors(
        &self,
        dtype: Dtype,
        embedder: &Embedder,
        mix: &Mix,
        texts: &[String],
    ) -> Result<(Outcome, Vec<Vec<f32>>), BenchError> {
        let (stages, progress) = (Stages::start(), Progress::default());
        let parts = stream::Parts {
            model: self.parts.model,
            embedder,
            stages: &stages,
            progress: &progress,
            stop: self.parts.stop,
        };
        let mut left = texts.iter();
        let mut rows = Vec::with_capacity(texts.len());
        let write = |outputs: &TextOutputs| {
            rows.push(outputs.dense.clone());
            Ok(())
        };
        let outcome = stream::run(&self.settings.streaming, &parts, || Ok(left.next().cloned()), write)
            .map_err(|source| BenchError::Text { dtype, mix: mix.name.clone(), source })?;
        Ok((outcome, rows))
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    if seconds.len() % 2 == 1 { seconds[middle] } else { f64::midpoint(seconds[middle - 1], seconds[middle]) }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 9.0]) - 3.0).abs() < 1e-12);
        assert!((median(vec![4.0, 1.0, 9.0, 2.0]) - 3.0).abs() < 1e-12);
        assert!((median(vec![7.0]) - 7.0).abs() < 1e-12);
    }
}
