//! How fast a loaded model reads and writes: probes with arbitrary tokens, as llama-bench makes them.

use haul_generate::GenerateError;
use haul_generate::local::{Local, Probe};
use serde::Serialize;

use crate::statistics::Summary;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Tokens of a prefill.
    pub prefill_tokens: u32,
    /// Tokens that each sequence decodes.
    pub decode_tokens: u32,
    /// Sequences that decode together.
    pub sequences: u32,
    /// Measured runs, after one that warms up.
    pub repetitions: u32,
}

/// What was measured. Rates are of all sequences together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Tokens of a prefill: fewer than were wanted where the context is small.
    pub prefill_tokens: u32,
    /// Tokens that each sequence decoded.
    pub decode_tokens: u32,
    /// Sequences that decoded together.
    pub sequences: u32,
    /// Nanoseconds of each prefill.
    pub prefill_ns: Vec<u64>,
    /// Nanoseconds of each decode.
    pub decode_ns: Vec<u64>,
    /// Tokens per second of prefill.
    pub prefill_tokens_per_s: Option<Summary>,
    /// Tokens per second of decode.
    pub decode_tokens_per_s: Option<Summary>,
}

/// Tokens that prompt and answer may have together in one sequence.
#[must_use]
pub fn usable_tokens(local: &Local) -> u32 {
    let loaded = local.loaded();
    loaded.n_ctx.min(loaded.n_ctx_train.max(1))
}

/// Measures, with fewer tokens where they do not fit.
///
/// # Errors
/// The worker is gone, or refuses.
pub fn measure(local: &mut Local, wanted: Wanted) -> Result<Speed, GenerateError> {
    let room = usable_tokens(local);
    let sequences = wanted.sequences.max(1);
    let prefill_tokens = wanted.prefill_tokens.min(room);
    let decode_tokens = wanted.decode_tokens.min(room / sequences);
    let mut ask = |prefill_tokens, decode_tokens, sequences| {
        let repetitions = wanted.repetitions.max(1);
        local.probe(Probe { prefill_tokens, decode_tokens, sequences, depth: 0, repetitions })
    };
    // Apart, because the engine counts cells for both of a probe's halves.
    let prefill = ask(prefill_tokens, 0, 1)?;
    let decode = ask(0, decode_tokens, sequences)?;
    Ok(Speed::of(prefill_tokens, decode_tokens, sequences, prefill.prefill_ns, decode.decode_ns))
}

impl Speed {
    /// Tokens of all measured runs.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let (prefills, decodes) = (self.prefill_ns.len() as u64, self.decode_ns.len() as u64);
        u64::from(self.prefill_tokens) * prefills
            + u64::from(self.decode_tokens) * u64::from(self.sequences) * decodes
    }

    /// From times.
    #[must_use]
    pub fn of(
        prefill_tokens: u32,
        decode_tokens: u32,
        sequences: u32,
        prefill_ns: Vec<u64>,
        decode_ns: Vec<u64>,
    ) -> Speed {
        let rates = |times: &[u64], tokens: f64| {
            Summary::of(times.iter().map(|ns| tokens * 1e9 / (*ns).max(1) as f64).collect())
        };
        Speed {
            prefill_tokens_per_s: rates(&prefill_ns, f64::from(prefill_tokens)),
            decode_tokens_per_s: rates(&decode_ns, f64::from(decode_tokens) * f64::from(sequences)),
            prefill_tokens,
            decode_tokens,
            sequences,
            prefill_ns,
            decode_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_all_sequences_together() {
        let speed = Speed::of(512, 16, 4, vec![256_000_000, 512_000_000], vec![1_000_000_000]);
        let prefill = speed.prefill_tokens_per_s.unwrap();
        assert_eq!(prefill.samples, [2_000.0, 1_000.0]);
        assert!((speed.decode_tokens_per_s.unwrap().mean - 64.0).abs() < 1e-9);
        assert_eq!(Speed::of(512, 0, 1, vec![], vec![]).decode_tokens_per_s, None);
    }
}
