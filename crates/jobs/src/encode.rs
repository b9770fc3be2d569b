//! The compute step that `ingest` and `embed` share: one packed batch through the model.

use std::iter::Sum;
use std::time::{Duration, Instant};

use haul_encoder::embedder::{EmbedError, Embedder};
use tracing::debug;

/// One text on its way through the model.
pub(crate) struct Sequence<K> {
    /// What the text is to the job.
    pub(crate) key: K,
    /// Token ids with the special tokens around them.
    pub(crate) ids: Vec<u32>,
}

/// What one text became.
pub(crate) struct Encoded<K> {
    /// As given.
    pub(crate) key: K,
    /// Tokens computed for it.
    pub(crate) tokens: usize,
    /// The vector, or why there is none.
    pub(crate) row: Result<Vec<f32>, String>,
    /// This text's share of its batch's time, by tokens.
    pub(crate) seconds: f64,
}

/// What compute threads did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Computed {
    pub(crate) tokens: u64,
    pub(crate) flops: u64,
    pub(crate) busy: Duration,
}

impl Sum for Computed {
    fn sum<I: Iterator<Item = Computed>>(all: I) -> Computed {
        all.fold(Computed::default(), |a, b| Computed {
            tokens: a.tokens + b.tokens,
            flops: a.flops + b.flops,
            busy: a.busy + b.busy,
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
    let rows = rows(embedder, &ids);
    let busy = started.elapsed();
    computed.tokens += tokens as u64;
    computed.flops += embedder.flops(&lengths);
    computed.busy += busy;
    debug!(stage = "embed", sequences = lengths.len(), "end");
    let seconds_per_token = busy.as_secs_f64() / tokens.max(1) as f64;
    keys.into_iter()
        .zip(rows)
        .zip(lengths)
        .map(|((key, row), tokens)| Encoded { key, tokens, row, seconds: tokens as f64 * seconds_per_token })
        .collect()
}

/// A batch that fails is run again one text at a time, so that one bad text fails alone.
fn rows(embedder: &Embedder, ids: &[Vec<u32>]) -> Vec<Result<Vec<f32>, String>> {
    match together(embedder, ids) {
        Ok(rows) => rows.into_iter().map(Ok).collect(),
        Err(error) if ids.len() == 1 => vec![Err(error.to_string())],
        Err(_) => ids.iter().flat_map(|one| rows(embedder, std::slice::from_ref(one))).collect(),
    }
}

fn together(embedder: &Embedder, ids: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EmbedError> {
    let vectors = embedder.collect(embedder.submit(ids)?)?;
    Ok(vectors.iter().map(<[f32]>::to_vec).collect())
}
