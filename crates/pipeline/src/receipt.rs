//! The receipt: what a run did, where, how fast and with what, the same shape for every job.
//!
//! Schema `haul.receipt/1`. A part that a job does not have is `null`, never a made-up number.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use haul_machine::verdict::Verdict;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stage::StageAccount;

/// The name and version of this shape.
pub const SCHEMA: &str = "haul.receipt/1";

/// A whole receipt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// [`SCHEMA`].
    pub schema: String,
    /// ingest, extract, vision ...
    pub job: String,
    /// Version of the product.
    pub version: String,
    /// Host name.
    pub host: String,
    /// How the run ended.
    pub state: RunState,
    /// RFC 3339, UTC.
    pub started: String,
    /// RFC 3339, UTC.
    pub finished: String,
    /// Wall time.
    pub seconds: f64,
    /// Every setting as resolved.
    pub settings: Value,
    /// Where the work ran, from measurement.
    pub device: Verdict,
    /// The model, if one was needed.
    pub model: Option<ModelUse>,
    /// Inputs by verdict.
    pub items: Items,
    /// What was computed.
    pub work: Work,
    /// Calls of a language model, if the job makes any.
    pub calls: Option<Calls>,
    /// What was brought to a server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Sent>,
    /// What was computed, by what it was for, where that is more than one thing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passes: Vec<Pass>,
    /// Speed in true units.
    pub rate: Rate,
    /// Where the time of each stage went.
    pub stages: Vec<StageAccount>,
    /// Quality of a faster mode against the exact one; `null` in the exact mode.
    pub quality: Option<Quality>,
    /// What was cut off because the model could not take it.
    pub truncated: Truncated,
    /// The cache of parsed input.
    pub cache: CacheUse,
    /// Memory at its highest.
    pub memory: MemoryUse,
    /// The forecast made before the run and how far it was off; `null` without one.
    pub forecast: Option<Forecast>,
    /// Every input that is not ok, with the reason.
    pub failures: Vec<Failure>,
    /// What was lost or guessed in inputs that are ok; left out when there is nothing to say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// All input was taken to a verdict.
    Finished,
    /// Stopped by a signal; a rerun goes on.
    Interrupted,
    /// Stopped by an error.
    Failed,
}

/// The model as it was used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelUse {
    /// Its name in the model folder.
    pub id: String,
    /// Identity taken when it was added.
    pub sha256: String,
    /// Data type of the arithmetic.
    pub dtype: String,
    /// How token vectors become one.
    pub pooling: String,
    /// Width of a vector.
    pub dim: usize,
    /// Longest input, special tokens included.
    pub max_tokens: usize,
    /// How often the weights were loaded in this run.
    pub loads: u32,
}

/// Inputs by verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Items {
    /// All inputs seen.
    pub total: u64,
    /// Those that are ok, reused ones included.
    pub ok: u64,
    /// All verdicts with their counts.
    pub by_verdict: BTreeMap<String, u64>,
    /// Inputs that were unchanged and not touched.
    pub reused: u64,
    /// Inputs whose content is unchanged and whose metadata were taken over anew, without any model work; left out
    /// when there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub updated: u64,
    /// Of the reused ones, those that failed so often that they are not tried again until they change; left out when
    /// there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quarantined: u64,
    /// Inputs of earlier runs that are gone, and whose results were kept; left out when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<String>,
    /// Inputs of earlier runs that are gone, and whose results were removed; likewise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pruned: Vec<String>,
    /// Set when results were to be removed, and were kept because so many inputs cannot be gone by intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune_refused: Option<PruneRefused>,
}

/// Why nothing was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRefused {
    /// Inputs that seem gone.
    pub gone: u64,
    /// Inputs that were known, these included.
    pub known: u64,
}

/// What was computed in this run; reused results count nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Tokens that went through the model, special tokens included.
    pub tokens: u64,
    /// Floating-point operations of the model (a multiply-add is two).
    pub flops: u64,
    /// Bytes of input read.
    pub bytes_read: u64,
}

/// What a server got in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Where.
    pub target: String,
    /// Documents that it has now and had not, or not as they are.
    pub documents: u64,
    /// Their points.
    pub points: u64,
    /// Documents that were taken out of it.
    pub removed: u64,
}

/// What one kind of text took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pass {
    /// sentences, chunks ...
    pub name: String,
    /// Texts in the inputs.
    pub texts: u64,
    /// Texts that went through the model.
    pub computed: u64,
    /// Tokens that went through the model, special tokens included.
    pub tokens: u64,
    /// Seconds of the device, summed over the batches it works on side by side.
    pub busy_s: f64,
}

/// Calls of a language model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calls {
    /// Calls answered.
    pub n: u64,
    /// Tokens read.
    pub prefill_tokens: u64,
    /// Tokens written.
    pub decode_tokens: u64,
    /// Tokens that were in a shared prefix and not read again.
    pub reused_prefix_tokens: u64,
    /// Calls whose answers an earlier run had, or another call of this run that is the same, and that were not asked again.
    pub journalled: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// Seconds with an open model; the rates are of these.
    pub answering_s: f64,
}

/// Speed of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// `unit`s finished per second of wall time, a quality comparison left out.
    pub items_per_s: f64,
    /// What is counted: chunk, image pass ...
    pub unit: String,
    /// Tokens per second of wall time, a quality comparison left out.
    pub tokens_per_s: f64,
    /// 10^9 operations per second while the device was busy with the model.
    pub gflops: f64,
    /// Measured roof of this machine by data type.
    pub roof_gflops: BTreeMap<String, f64>,
    /// `gflops` as a share of the roof of the data type used.
    pub percent_of_roof: f64,
}

/// Quality of a faster mode, measured on the run's own texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The exact mode it is compared with.
    pub against: String,
    /// cosine, nDCG@10 ...
    pub metric: String,
    /// The exact mode's metric less this one's, on average.
    pub delta: f64,
    /// Cosine of the text that agrees least.
    pub cosine_min: f64,
    /// Share of each text's ten nearest in the exact mode that are among its ten nearest in this one, on average;
    /// `null` for a single text.
    pub top10_overlap: Option<f64>,
    /// Texts compared.
    pub texts: u64,
    /// Each text is compared by so many of its first tokens at most.
    pub text_tokens_max: u64,
    /// Time the comparison took, loading the exact mode's weights included; part of the run's seconds and of no rate.
    pub seconds: f64,
}

/// What was cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncated {
    /// Inputs that lost something.
    pub items: u64,
    /// Tokens lost.
    pub tokens: u64,
}

/// Use of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheUse {
    /// Entries found.
    pub hits: u64,
    /// Entries not found.
    pub misses: u64,
    /// Entries that could not be read or written; the work was done again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Memory at its highest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Resident bytes of this process, where the system tells.
    pub peak_rss: Option<u64>,
    /// Bytes on a device with memory of its own.
    pub device_peak: Option<u64>,
}

/// A forecast and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Lower end of the range.
    pub low_s: f64,
    /// Upper end of the range.
    pub high_s: f64,
    /// (measured - middle) / middle.
    pub error: f64,
}

/// Something to know about an input that is ok.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which.
    pub item: String,
    /// What was lost or guessed, with numbers.
    pub says: String,
}

/// One input that is not ok.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which.
    pub item: String,
    /// Its verdict.
    pub verdict: String,
    /// The reason in words, with numbers.
    pub why: String,
}

impl Receipt {
    /// Writes the receipt as JSON to a temporary file and renames it to `path`.
    ///
    /// # Errors
    /// When the file cannot be written or renamed.
    pub fn write(&self, path: &Path) -> Result<(), ReceiptError> {
        let failed = |source| ReceiptError { path: path.to_owned(), source };
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        json.push(b'\n');
        let temporary = path.with_added_extension("tmp");
        std::fs::write(&temporary, json).map_err(failed)?;
        std::fs::rename(&temporary, path).map_err(failed)
    }
}

/// A receipt could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the receipt {}: {source}", path.display())]
pub struct ReceiptError {
    path: PathBuf,
    source: io::Error,
}
