//! The compute step that jobs share: one packed batch through the model.

use std::iter::Sum;
use std::time::Instant;

use haul_encoder::device::{Outputs, SparseVector, Vectors};
use haul_encoder::embedder::{EmbedError, Embedder};
use tracing::debug;

/// One text on its way through the model.
pub(crate) struct Sequence<K> {
    /// What the text is to the job.
    pub(crate) key: K,
    /// Token ids with the special tokens around them.
    pub(crate) ids: Vec<u32>,
}

/// What a model gives for one text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextOutputs {
    /// The vector.
    pub dense: Vec<f32>,
    /// Weights of its tokens, if the model was loaded with that head.
    pub sparse: Option<SparseVector>,
    /// A row a token, if the model was loaded with that head.
    pub colbert: Option<Vectors>,
}

/// What one text became.
pub(crate) struct Encoded<K> {
    /// As given.
    pub(crate) key: K,
    /// The ids that were computed.
    pub(crate) ids: Vec<u32>,
    /// What the model made of it, or why there is nothing.
    pub(crate) outputs: Result<TextOutputs, String>,
    /// This text's share of its batch's time, by tokens.
    pub(crate) seconds: f64,
}

/// What compute threads did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Computed {
    pub(crate) texts: u64,
    pub(crate) tokens: u64,
    pub(crate) flops: u64,
    /// Sum over the batches.
    pub(crate) busy_s: f64,
    /// From the begin of the first batch to the end of the last one.
    pub(crate) span: Option<(Instant, Instant)>,
}

impl Computed {
    /// Of [`Computed::span`].
    pub(crate) fn seconds(&self) -> f64 {
        self.span.map_or(0.0, |(begin, end)| (end - begin).as_secs_f64())
    }
}

/// What holds both of two spans.
fn both(a: Option<(Instant, Instant)>, b: Option<(Instant, Instant)>) -> Option<(Instant, Instant)> {
    match (a, b) {
        (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
        (one, other) => one.or(other),
    }
}

impl Sum for Computed {
    fn sum<I: Iterator<Item = Computed>>(all: I) -> Computed {
        all.fold(Computed::default(), |a, b| Computed {
            texts: a.texts + b.texts,
            tokens: a.tokens + b.tokens,
            flops: a.flops + b.flops,
            busy_s: a.busy_s + b.busy_s,
            span: both(a.span, b.span),
        })
    }
}

/// Runs one batch and adds to `computed` what it took.
///
/// As many threads call this side by side as the device has batches in flight, so the time of the stage that
/// calls it is the time of the device: starved means that the device had nothing to do.
pub(crate) fn run_batch<K>(
    embedder: &Embedder,
    batch: Vec<Sequence<K>>,
    computed: &mut Computed,
) -> Vec<Encoded<K>> {
    debug!(stage = "embed", sequences = batch.len(), "begin");
    let started = Instant::now();
    let (keys, ids): (Vec<K>, Vec<Vec<u32>>) = batch.into_iter().map(|s| (s.key, s.ids)).unzip();
    let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
    let tokens: usize = lengths.iter().sum();
    let outputs = outputs(embedder, &ids);
    let ended = Instant::now();
    computed.texts += lengths.len() as u64;
    computed.tokens += tokens as u64;
    computed.flops += embedder.flops(&lengths);
    computed.busy_s += (ended - started).as_secs_f64();
    computed.span = both(computed.span, Some((started, ended)));
    debug!(stage = "embed", sequences = lengths.len(), "end");
    let seconds_per_token = (ended - started).as_secs_f64() / tokens.max(1) as f64;
    let share = |ids: &[u32]| ids.len() as f64 * seconds_per_token;
    keys.into_iter()
        .zip(ids)
        .zip(outputs)
        .map(|((key, ids), outputs)| Encoded { key, seconds: share(&ids), ids, outputs })
        .collect()
}

/// A batch that fails is run again one text at a time, so that one bad text fails alone.
fn outputs(embedder: &Embedder, ids: &[Vec<u32>]) -> Vec<Result<TextOutputs, String>> {
    match together(embedder, ids) {
        Ok(texts) => texts.into_iter().map(Ok).collect(),
        Err(error) if ids.len() == 1 => vec![Err(why(&error))],
        Err(_) => ids.iter().flat_map(|one| outputs(embedder, std::slice::from_ref(one))).collect(),
    }
}

fn together(embedder: &Embedder, ids: &[Vec<u32>]) -> Result<Vec<TextOutputs>, EmbedError> {
    let Outputs { dense, sparse, colbert, .. } = embedder.collect_all(embedder.submit(ids)?)?;
    // Of a head there is one output a text, or none at all.
    let (mut sparse, mut colbert) = (sparse.into_iter().flatten(), colbert.into_iter().flatten());
    let mut text =
        |row: &[f32]| TextOutputs { dense: row.to_vec(), sparse: sparse.next(), colbert: colbert.next() };
    Ok(dense.iter().map(&mut text).collect())
}

/// Why a text that went through the model by itself has no vector.
fn why(error: &EmbedError) -> String {
    match error {
        EmbedError::NotFinite { column, value, .. } => format!("the model gave {value} in column {column}"),
        EmbedError::ZeroNorm { .. } => "the model gave zeros alone".to_owned(),
        EmbedError::WeightNotFinite { id, value, .. } => {
            format!("the model gave token {id} the sparse weight {value}")
        }
        EmbedError::TokenNotFinite { token, column, value, .. } => {
            format!("the model gave {value} in column {column} of token row {token}")
        }
        EmbedError::TokenZeroNorm { token, .. } => format!("the model gave zeros alone in token row {token}"),
        other => other.to_string(),
    }
}

/// How a text begins, for errors to call it by.
pub(crate) fn first_words(text: &str) -> String {
    const CHARACTERS_MAX: usize = 32;
    // Words alone: a line break in a message would pass for the end of it.
    let words = text.split_whitespace().take(CHARACTERS_MAX).collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(CHARACTERS_MAX) {
        Some((end, _)) => format!("{}...", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::first_words;

    #[test]
    fn first_words_are_one_short_line() {
        assert_eq!(first_words("  The lamp\nin the\twindow. "), "The lamp in the window.");
        assert_eq!(first_words(&"ab ".repeat(100)), format!("{}ab...", "ab ".repeat(10)));
        assert_eq!(first_words(&"\u{8d70}".repeat(50)), format!("{}...", "\u{8d70}".repeat(32)));
        assert_eq!(first_words(""), "");
    }
}
