//! `golden`: a model's vectors against those that another program made of the same texts.
//!
//! A golden is JSONL, a line a text: `{"text": "...", "embedding": [...], "role": "query" | "document"}`, the role
//! left out where only the model's default prompt, if it has one, stands before the text.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use haul_encoder::dtype::Dtype;
use haul_encoder::model_dir::ModelDir;
use haul_pipeline::receipt::Truncated;
use serde::{Deserialize, Serialize};

use crate::encode::first_words;
use crate::stream::{self, TextError, TextOutputs};
pub use crate::stream::{Parts, Settings};

/// Bytes of a golden, which is held in memory.
const GOLDEN_BYTES_MAX: u64 = 1 << 30;

/// One text and the vector it should have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenRow {
    text: String,
    embedding: Vec<f64>,
    role: Option<Role>,
}

/// What a text is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Preceded by the model's prompt for queries.
    Query,
    /// Preceded by the model's prompt for documents.
    Document,
}

/// How far a dtype may be from the exact vectors.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// Least cosine of a row.
    pub cosine_min: f64,
    /// Least mean cosine.
    pub cosine_mean: f64,
    /// Largest difference of two numbers of the rows at length 1; `None` where the cosine says enough.
    pub difference_max: Option<f64>,
}

impl Tolerance {
    /// What is promised of `dtype`.
    #[must_use]
    pub fn of(dtype: Dtype) -> Tolerance {
        let rows = |cosine_min| Tolerance { cosine_min, cosine_mean: cosine_min, difference_max: None };
        match dtype {
            Dtype::F32 => Tolerance { difference_max: Some(1e-4), ..rows(0.999_99) },
            Dtype::Bf16 | Dtype::Int16 => rows(0.999),
            Dtype::Int8 => Tolerance { cosine_mean: 0.994, ..rows(0.98) },
        }
    }
}

/// How a model's vectors compare.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What the model's vectors were computed with.
    pub dtype: &'static str,
    /// Rows compared.
    pub texts: usize,
    /// Cosine of a row and its golden, on average.
    pub cosine_mean: f64,
    /// The worst row's.
    pub cosine_min: f64,
    /// Largest difference of two numbers, of the rows at length 1.
    pub difference_max: f64,
    /// What was allowed.
    pub tolerance: Tolerance,
    /// The rows outside it.
    pub failed: Vec<FailedRow>,
    /// Texts longer than the model takes, and what they lost.
    pub truncated: Truncated,
}

impl Comparison {
    /// Whether every row and their mean are within the tolerance.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failed.is_empty() && self.cosine_mean >= self.tolerance.cosine_mean
    }
}

/// A row that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailedRow {
    /// Line of the golden, from 1.
    pub line: usize,
    /// How its text begins.
    pub first_words: String,
    /// Cosine with the golden.
    pub cosine: f64,
    /// Largest difference of two numbers, at length 1.
    pub difference: f64,
}

/// A golden cannot be used, or a text of it has no vector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The golden.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds nothing, or too much.
    #[error("{} {fault}", path.display())]
    Size {
        /// The golden.
        path: PathBuf,
        /// What is wrong with its size.
        fault: String,
    },
    /// A line is no text with a vector of this model.
    #[error("{}:{line}: {fault}", path.display())]
    Line {
        /// The golden.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        fault: LineFault,
    },
    /// The model has no vector for a text.
    #[error("golden: {0}")]
    Text(#[from] TextError),
}

/// What is wrong with a line of a golden.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineFault {
    /// Not JSON, or not of this shape.
    #[error("not a {{\"text\", \"embedding\"}} object: {0}")]
    Json(#[from] serde_json::Error),
    /// Another length than the model's vectors.
    #[error("embedding has {found} numbers, the model's have {expected}")]
    Width {
        /// Numbers in it.
        found: usize,
        /// Numbers of the model's vectors.
        expected: usize,
    },
    /// All numbers are zero, or too large to have a length.
    #[error("embedding has the length {0}, and no direction")]
    Length(f64),
}

impl GoldenError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Line { fault: LineFault::Width { .. }, .. } => {
                Some("the golden was made with another model")
            }
            Self::Line { .. } | Self::Size { .. } => Some(
                "a line is {\"text\": \"...\", \"embedding\": [numbers]} without NaN, with \"role\": \"query\" or \
                 \"document\" if the model's prompt stands before the text",
            ),
            Self::Text(error) => error.fault.hint(),
            Self::Read { .. } => None,
        }
    }
}

/// Reads a golden whole, so that what is wrong with it is said before anything is computed.
///
/// # Errors
/// A file that cannot be read, is empty or larger than a GiB, and the first line that is not a text with
/// `dim` numbers that have a direction.
pub fn read(path: &Path, dim: usize) -> Result<Vec<GoldenRow>, GoldenError> {
    let failed = |source| GoldenError::Read { path: path.to_owned(), source };
    let size = |fault: &str| GoldenError::Size { path: path.to_owned(), fault: fault.to_owned() };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut rows = Vec::new();
    let mut bytes_left = GOLDEN_BYTES_MAX + 1;
    let mut input = BufReader::new(file);
    loop {
        let mut text = Vec::new();
        let read = input.by_ref().take(bytes_left).read_until(b'\n', &mut text).map_err(failed)?;
        bytes_left -= read as u64;
        if bytes_left == 0 {
            return Err(size(&format!("is longer than {GOLDEN_BYTES_MAX} bytes")));
        }
        if read == 0 {
            break;
        }
        let row = row(&text, dim);
        rows.push(row.map_err(|fault| GoldenError::Line {
            path: path.to_owned(),
            line: rows.len() + 1,
            fault,
        })?);
    }
    if rows.is_empty() { Err(size("is empty")) } else { Ok(rows) }
}

fn row(line: &[u8], dim: usize) -> Result<GoldenRow, LineFault> {
    let row: GoldenRow = serde_json::from_slice(line)?;
    if row.embedding.len() != dim {
        return Err(LineFault::Width { found: row.embedding.len(), expected: dim });
    }
    let length = length(&row.embedding);
    if length.is_normal() { Ok(row) } else { Err(LineFault::Length(length)) }
}

/// Embeds every text of the golden as `parts` do it and compares; `None` if a stop was asked for meanwhile.
/// `settings.prompt` is not used: each row says what stands before its text.
///
/// # Errors
/// The first text that has no vector.
pub fn compare(
    settings: &Settings,
    parts: &Parts<'_>,
    dtype: Dtype,
    golden: &[GoldenRow],
) -> Result<Option<Comparison>, GoldenError> {
    let settings = Settings { prompt: String::new(), ..settings.clone() };
    let tolerance = Tolerance::of(dtype);
    let mut comparison = Comparison {
        dtype: dtype.name(),
        texts: golden.len(),
        cosine_mean: 0.0,
        cosine_min: f64::INFINITY,
        difference_max: 0.0,
        tolerance,
        failed: vec![],
        truncated: Truncated::default(),
    };
    let mut texts = golden.iter();
    let next = || Ok(texts.next().map(|row| prompted(row, parts.model)));
    let mut expected = (1..).zip(golden);
    let write = |outputs: &TextOutputs| {
        // One row comes for each text, in order.
        if let Some((line, golden)) = expected.next() {
            comparison.take(line, golden, &outputs.dense);
        }
        Ok(())
    };
    let outcome = stream::run::<GoldenError>(&settings, parts, next, write)?;
    comparison.cosine_mean /= golden.len() as f64;
    comparison.truncated = outcome.truncated;
    Ok((!outcome.interrupted).then_some(comparison))
}

impl Comparison {
    fn take(&mut self, line: usize, golden: &GoldenRow, row: &[f32]) {
        let row: Vec<f64> = row.iter().map(|&number| f64::from(number)).collect();
        let (length, golden_length) = (length(&row), length(&golden.embedding));
        let pairs = || row.iter().zip(&golden.embedding).map(|(a, b)| (a / length, b / golden_length));
        let cosine = pairs().map(|(a, b)| a * b).sum::<f64>();
        let difference = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        self.cosine_mean += cosine;
        self.cosine_min = self.cosine_min.min(cosine);
        self.difference_max = self.difference_max.max(difference);
        let within = self.tolerance.difference_max.is_none_or(|allowed| difference <= allowed);
        if cosine < self.tolerance.cosine_min || !within {
            self.failed.push(FailedRow { line, first_words: first_words(&golden.text), cosine, difference });
        }
    }
}

fn prompted(row: &GoldenRow, model: &ModelDir) -> String {
    let prompt = match row.role {
        Some(Role::Query) => model.prompts.query(),
        Some(Role::Document) => model.prompts.document(),
        None => model.prompts.default_prompt(),
    };
    format!("{prompt}{}", row.text)
}

fn length(row: &[f64]) -> f64 {
    row.iter().map(|number| number * number).sum::<f64>().sqrt()
}
