//! `embed`: lines of text to vectors, in order.
//!
//! read -> tokenize -> one token queue -> embed -> write, with a bound on how far the reader may run ahead of
//! the writer, so that any number of lines takes the same memory.

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender};
use haul_encoder::embedder::Embedder;
use haul_encoder::model_dir::ModelDir;
use haul_encoder::tokenizer::TokenizeError;
use haul_pipeline::batch::{BatchLimits, Lane, TokenQueue};
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::Truncated;
use haul_pipeline::stage::{Meter, Stages, Stop, channel};
use serde::Deserialize;

use crate::encode::{self, Computed, Encoded, Sequence};

/// Texts between the reader and the writer.
const AHEAD_MAX: u64 = 16_384;
/// Bytes of one line.
const LINE_BYTES_MAX: u64 = 64 << 20;
const QUEUED_BATCHES: usize = 16;
const BATCHES_DONE_MAX: usize = 64;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Longest sequence, special tokens included.
    pub max_tokens: usize,
    /// What stands before every text.
    pub prompt: String,
    /// Size of a batch.
    pub batch: BatchLimits,
    /// Batches that the device works on side by side.
    pub compute_threads: usize,
}

/// What the job works with.
pub struct Parts<'a> {
    /// The model's files.
    pub model: &'a ModelDir,
    /// The model's weights on a device.
    pub embedder: &'a Embedder,
    /// Clocks of the stages.
    pub stages: &'a Stages,
    /// Live counters.
    pub progress: &'a Progress,
    /// Set when the run should end early.
    pub stop: &'a Stop,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Texts embedded.
    pub texts: u64,
    /// What was cut off.
    pub truncated: Truncated,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Operations of the model.
    pub flops: u64,
    /// Time of the compute threads inside the model, summed.
    pub compute_s: f64,
    /// Whether the run was stopped early.
    pub interrupted: bool,
}

/// A run that could not go on. Rows written before it are right and in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedJobError {
    /// The input cannot be read, or a line is too long or not UTF-8.
    #[error("line {line} of the input cannot be read: {source}")]
    Read {
        /// From 1.
        line: u64,
        /// What the system says.
        source: io::Error,
    },
    /// A line that starts like JSON is not a `{"text": ...}` object.
    #[error("line {line} of the input is not a JSON object with a string \"text\": {source}")]
    Json {
        /// From 1.
        line: u64,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A text cannot be tokenized.
    #[error("line {line} of the input: {source}")]
    Tokenize {
        /// From 1.
        line: u64,
        /// Why.
        source: TokenizeError,
    },
    /// The model gave no vector for a text.
    #[error("line {line} of the input has no vector: {why}")]
    NoVector {
        /// From 1.
        line: u64,
        /// Why.
        why: String,
    },
    /// The rows cannot be written.
    #[error("cannot write the vectors: {0}")]
    Write(#[from] io::Error),
}

impl EmbedJobError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Json { .. } => {
                Some("a line is either plain text or {\"text\": \"...\"}; plain text must not start with {")
            }
            Self::Read { .. } => Some("lines are UTF-8 and at most 64 MiB long"),
            _ => None,
        }
    }
}

/// Reads texts from `input` and hands their rows to `write` in order.
///
/// # Errors
/// The first line that cannot be read, tokenized or embedded, or whose row cannot be written.
pub fn run(
    settings: &Settings,
    parts: &Parts<'_>,
    input: impl BufRead + Send,
    write: impl FnMut(&[f32]) -> io::Result<()> + Send,
) -> Result<Outcome, EmbedJobError> {
    let shared = Shared {
        settings,
        parts,
        queue: TokenQueue::new(settings.batch.tokens * QUEUED_BATCHES),
        window: Window::default(),
    };
    let stages = parts.stages;
    let (done, finished) = channel(BATCHES_DONE_MAX);
    thread::scope(|scope| {
        let shared = &shared;
        let mut meter = stages.meter("tokenize");
        let reading = scope.spawn(move || {
            let truncated = read(&mut meter, shared, input);
            shared.queue.close();
            truncated
        });
        let computing = Vec::from_iter((0..settings.compute_threads).map(|_| {
            let (mut meter, done) = (stages.meter("embed"), done.clone());
            scope.spawn(move || compute(&mut meter, shared, &done))
        }));
        drop(done);
        let mut meter = stages.meter("write");
        let written = write_in_order(&mut meter, shared, &finished, write);
        // After an error of the writer nobody reads on.
        shared.window.open_wide();
        shared.queue.close();
        drop(finished);
        let truncated = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let computed: Computed = computing
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .sum();
        let texts = written?;
        Ok(Outcome {
            texts,
            truncated: truncated?,
            tokens: computed.tokens,
            flops: computed.flops,
            compute_s: computed.busy.as_secs_f64(),
            interrupted: parts.stop.requested(),
        })
    })
}

struct Shared<'a> {
    settings: &'a Settings,
    parts: &'a Parts<'a>,
    queue: TokenQueue<Sequence<u64>>,
    window: Window,
}

/// How far the reader may run ahead of the writer.
#[derive(Default)]
struct Window {
    written: Mutex<u64>,
    moved: Condvar,
}

impl Window {
    /// Waits until `number` is near enough to what is written; false if nothing will be written any more.
    fn wait_for(&self, number: u64) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        while number >= written.saturating_add(AHEAD_MAX) {
            written = self.moved.wait(written).unwrap_or_else(PoisonError::into_inner);
        }
        *written < u64::MAX
    }

    fn advance_to(&self, written: u64) {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = written;
        self.moved.notify_all();
    }

    fn open_wide(&self) {
        self.advance_to(u64::MAX);
    }
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

fn read(meter: &mut Meter, shared: &Shared<'_>, mut input: impl BufRead) -> Result<Truncated, EmbedJobError> {
    let mut truncated = Truncated::default();
    let mut number = 0;
    while !shared.parts.stop.requested() && meter.blocked(|| shared.window.wait_for(number)) {
        let Some(text) = meter.starved(|| next_line(&mut input, number + 1))? else { break };
        if shared.parts.stop.requested() {
            // What came may be half a line.
            break;
        }
        let text = text_of(text, number + 1)?;
        let prompted = format!("{}{text}", shared.settings.prompt);
        let tokenizer = &shared.parts.model.tokenizer;
        let ids = tokenizer
            .encode(&shared.parts.model.prepare(&prompted))
            .map_err(|source| EmbedJobError::Tokenize { line: number + 1, source })?
            .ids;
        let room_tokens = shared.settings.max_tokens.saturating_sub(tokenizer.special_tokens());
        let kept = &ids[..ids.len().min(room_tokens)];
        truncated.items += u64::from(kept.len() < ids.len());
        truncated.tokens += (ids.len() - kept.len()) as u64;
        let ids = tokenizer.frame(kept);
        shared.parts.progress.expect(1, 0);
        meter.finished(1);
        let tokens = ids.len();
        if meter.blocked(|| shared.queue.push(Lane::Bulk, tokens, Sequence { key: number, ids })).is_err() {
            break;
        }
        number += 1;
    }
    Ok(truncated)
}

/// One line without its end; `None` at the end of the input.
fn next_line(input: &mut impl BufRead, line: u64) -> Result<Option<String>, EmbedJobError> {
    let failed = |source| EmbedJobError::Read { line, source };
    let mut bytes = Vec::new();
    let read =
        io::Read::take(&mut *input, LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes).map_err(failed)?;
    if read as u64 > LINE_BYTES_MAX {
        return Err(failed(io::Error::other(format!("longer than {LINE_BYTES_MAX} bytes"))));
    }
    if read == 0 {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        bytes.pop_if(|byte| *byte == b'\r');
    }
    String::from_utf8(bytes).map(Some).map_err(|error| failed(io::Error::other(error)))
}

fn text_of(line: String, number: u64) -> Result<String, EmbedJobError> {
    if !line.trim_start().starts_with('{') {
        return Ok(line);
    }
    let parsed: Line =
        serde_json::from_str(&line).map_err(|source| EmbedJobError::Json { line: number, source })?;
    Ok(parsed.text)
}

fn compute(meter: &mut Meter, shared: &Shared<'_>, done: &Sender<Vec<Encoded<u64>>>) -> Computed {
    let mut computed = Computed::default();
    while let Some(batch) = meter.starved(|| shared.queue.next_batch(shared.settings.batch)) {
        let encoded = encode::run_batch(shared.parts.embedder, batch, &mut computed);
        shared.parts.progress.computed(encoded.iter().map(|encoded| encoded.tokens as u64).sum());
        meter.finished(encoded.len() as u64);
        if meter.send(done, encoded).is_err() {
            break;
        }
    }
    computed
}

/// Writes rows in the order of their lines; returns how many.
fn write_in_order(
    meter: &mut Meter,
    shared: &Shared<'_>,
    finished: &Receiver<Vec<Encoded<u64>>>,
    mut write: impl FnMut(&[f32]) -> io::Result<()>,
) -> Result<u64, EmbedJobError> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    while let Some(batch) = meter.receive(finished) {
        early.extend(batch.into_iter().map(|encoded| (encoded.key, encoded.row)));
        while let Some(row) = early.remove(&next) {
            let row = row.map_err(|why| EmbedJobError::NoVector { line: next + 1, why })?;
            write(&row)?;
            next += 1;
            shared.parts.progress.done(1, 0);
            meter.finished(1);
        }
        shared.window.advance_to(next);
    }
    Ok(next)
}
