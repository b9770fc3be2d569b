//! Work that takes the whole cache for itself: scores of texts, and probes of speed.

use std::time::Instant;

use haul_frames::{Probe, Probed, Score, Scored};

use crate::engine::{Engine, Fed, Output};
use crate::llama::Token;
use crate::sample::{log_sum_exp, top};

/// Logits of one decode that are kept at once: 64 MiB.
const LOGITS_MAX: usize = 16 << 20;

/// Log-probabilities of a text; the cache is empty before and after.
pub(crate) fn score(engine: &mut Engine, asked: &Score) -> Result<Scored, String> {
    let vocabulary = engine.model().vocabulary();
    if asked.ids.is_empty() || asked.ids.len() > engine.n_ctx() as usize {
        return Err(format!("{} tokens to score, of 1 to {}", asked.ids.len(), engine.n_ctx()));
    }
    if !asked.wanted.is_empty() && asked.wanted.len() != asked.ids.len() {
        return Err(format!("{} lists of wanted tokens for {} tokens", asked.wanted.len(), asked.ids.len()));
    }
    let is_token = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < vocabulary);
    if let Some(id) = asked.ids.iter().chain(asked.wanted.iter().flatten()).find(|id| !is_token(id)) {
        return Err(format!("token {id} of a vocabulary of {vocabulary}"));
    }
    let start = Instant::now();
    let rows = engine.n_batch().min((LOGITS_MAX / vocabulary.max(1)).max(1));
    let mut scored = Scored { top: vec![], wanted: vec![], next: vec![], ms: 0 };
    for (number, ids) in asked.ids.chunks(rows).enumerate() {
        let first = number * rows;
        for (id, position) in ids.iter().zip(first as i32..) {
            engine.add(Fed { token: Token(*id), position, sequence: 0, output: Output::Logits })?;
        }
        engine.decode()?;
        for row in 0..ids.len() {
            let logits = engine.logits(row as i32)?;
            let normaliser = log_sum_exp(logits);
            let ln = |id: &i32| (f64::from(logits[id.unsigned_abs() as usize]) - normaliser) as f32;
            scored.top.push(top(logits, normaliser, asked.top_k as usize));
            if let Some(wanted) = asked.wanted.get(first + row) {
                scored.wanted.push(wanted.iter().map(ln).collect());
            }
            if let Some(next) = asked.ids.get(first + row + 1) {
                scored.next.push(ln(next));
            }
        }
    }
    scored.ms = start.elapsed().as_millis() as u64;
    engine.clear();
    Ok(scored)
}

/// Times of prefill and decode with arbitrary tokens. What a token is does not change how long it takes.
pub(crate) fn probe(engine: &mut Engine, asked: &Probe) -> Result<Probed, String> {
    let sequences = asked.sequences.max(1);
    let cells = u64::from(sequences)
        * (u64::from(asked.depth) + u64::from(asked.prefill_tokens.max(asked.decode_tokens)));
    if cells > u64::from(engine.n_ctx()) || sequences > engine.n_seq_max {
        return Err(format!(
            "a probe of {cells} tokens in {sequences} sequences, in a context of {} with {}",
            engine.n_ctx(),
            engine.n_seq_max
        ));
    }
    let mut probed = Probed { prefill_ns: vec![], decode_ns: vec![] };
    // The first run warms caches and is not kept.
    for run in 0..=asked.repetitions {
        if asked.prefill_tokens > 0 {
            fill(engine, 1, asked.depth)?;
            let start = Instant::now();
            feed(engine, 0, asked.depth, asked.prefill_tokens)?;
            engine.synchronize();
            keep(&mut probed.prefill_ns, run, start);
        }
        if asked.decode_tokens > 0 {
            fill(engine, sequences, asked.depth)?;
            let start = Instant::now();
            for step in 0..asked.decode_tokens {
                write(engine, sequences, asked.depth + step)?;
            }
            engine.synchronize();
            keep(&mut probed.decode_ns, run, start);
        }
    }
    engine.clear();
    Ok(probed)
}

fn keep(times: &mut Vec<u64>, run: u32, start: Instant) {
    if run > 0 {
        times.push(start.elapsed().as_nanos() as u64);
    }
}

/// An empty cache with `depth` tokens in each sequence.
fn fill(engine: &mut Engine, sequences: u32, depth: u32) -> Result<(), String> {
    engine.clear();
    (0..sequences).try_for_each(|sequence| feed(engine, sequence, 0, depth))
}

fn feed(engine: &mut Engine, sequence: u32, from: u32, tokens: u32) -> Result<(), String> {
    let end = from + tokens;
    for position in from..end {
        let output = if position + 1 == end { Output::Logits } else { Output::Nothing };
        engine.add(fed(engine, sequence, position, output))?;
        if engine.room() == 0 || position + 1 == end {
            engine.decode()?;
        }
    }
    Ok(())
}

fn write(engine: &mut Engine, sequences: u32, position: u32) -> Result<(), String> {
    for sequence in 0..sequences {
        engine.add(fed(engine, sequence, position, Output::Logits))?;
    }
    engine.decode()
}

/// A token by its place: ordinary ones, spread over the vocabulary.
fn fed(engine: &Engine, sequence: u32, position: u32, output: Output) -> Fed {
    let vocabulary = (engine.model().vocabulary() as u32).max(1);
    let token = (position.wrapping_mul(2_654_435_761).wrapping_add(sequence) >> 8) % vocabulary;
    Fed {
        token: Token(token.cast_signed()),
        position: position.cast_signed(),
        sequence: sequence.cast_signed(),
        output,
    }
}
