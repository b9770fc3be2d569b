//! Texts to vectors in order, as `embed`, `bench` and `golden` do it: one thread tokenizes while others compute.
//!
//! source -> tokenize -> one token queue -> embed -> write, with a bound on how far the reader may run ahead of
//! the writer, so that any number of texts takes the same memory.

use std::collections::BTreeMap;
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

pub use crate::encode::TextOutputs;
use crate::encode::{self, Computed, Encoded, Sequence, first_words};

/// Texts between the reader and the writer.
const AHEAD_MAX: u64 = 16_384;
const QUEUED_BATCHES: usize = 16;
/// Few, because token rows of a batch may take tens of megabytes.
const BATCHES_DONE_MAX: usize = 8;

/// How texts become vectors.
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

/// What the work is done with.
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
    /// From the begin of the first batch to the end of the last one.
    pub compute_s: f64,
    /// Whether the run was stopped early.
    pub interrupted: bool,
}

/// A text that has no vector.
#[derive(Debug, thiserror::Error)]
#[error("text {number} (\"{first_words}\") {fault}")]
pub struct TextError {
    /// Which, from 1.
    pub number: u64,
    /// How it begins.
    pub first_words: String,
    /// Why.
    pub fault: TextFault,
}

/// Why a text has no vector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextFault {
    /// It cannot be tokenized.
    #[error("cannot be tokenized: {0}")]
    Tokenize(#[from] TokenizeError),
    /// The model gave none, or one that is none.
    #[error("has no vector: {0}")]
    NoVector(String),
}

impl TextFault {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Tokenize(_) => None,
            Self::NoVector(_) => {
                Some("`haul model check NAME` says whether the model's files are what they were")
            }
        }
    }
}

/// Takes texts from `next` until it gives none and hands what the model gives for each to `write` in order.
///
/// # Errors
/// The first error of `next` or `write`, or the first text that has no vector. Rows written before it are right.
pub(crate) fn run<E: From<TextError> + Send>(
    settings: &Settings,
    parts: &Parts<'_>,
    next: impl FnMut() -> Result<Option<String>, E> + Send,
    write: impl FnMut(&TextOutputs) -> Result<(), E>,
) -> Result<Outcome, E> {
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
            let truncated = read(&mut meter, shared, next);
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
            compute_s: computed.seconds(),
            interrupted: parts.stop.requested(),
        })
    })
}

struct Shared<'a> {
    settings: &'a Settings,
    parts: &'a Parts<'a>,
    queue: TokenQueue<Sequence<Named>>,
    window: Window,
}

/// A text as an error calls it.
struct Named {
    /// From 0.
    number: u64,
    first_words: String,
}

impl Named {
    fn error(self, fault: TextFault) -> TextError {
        TextError { number: self.number + 1, first_words: self.first_words, fault }
    }
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

fn read<E: From<TextError>>(
    meter: &mut Meter,
    shared: &Shared<'_>,
    mut next: impl FnMut() -> Result<Option<String>, E>,
) -> Result<Truncated, E> {
    let mut truncated = Truncated::default();
    let mut number = 0;
    while !shared.parts.stop.requested() && meter.blocked(|| shared.window.wait_for(number)) {
        let Some(text) = meter.starved(&mut next)? else { break };
        let named = Named { number, first_words: first_words(&text) };
        let (ids, cut_tokens) = match framed(shared, &text) {
            Ok(framed) => framed,
            Err(error) => return Err(named.error(error.into()).into()),
        };
        truncated.items += u64::from(cut_tokens > 0);
        truncated.tokens += cut_tokens;
        shared.parts.progress.expect(1, 0);
        meter.finished(1);
        let tokens = ids.len();
        if meter.blocked(|| shared.queue.push(Lane::Bulk, tokens, Sequence { key: named, ids })).is_err() {
            break;
        }
        number += 1;
    }
    Ok(truncated)
}

/// The ids that the model will see, and how many tokens it will not see.
fn framed(shared: &Shared<'_>, text: &str) -> Result<(Vec<u32>, u64), TokenizeError> {
    let Settings { max_tokens, prompt, .. } = shared.settings;
    let model = shared.parts.model;
    let ids = model.tokenizer.encode(&model.prepare(&format!("{prompt}{text}")))?.ids;
    let room_tokens = max_tokens.saturating_sub(model.tokenizer.special_tokens());
    let kept = &ids[..ids.len().min(room_tokens)];
    Ok((model.tokenizer.frame(kept), (ids.len() - kept.len()) as u64))
}

fn compute(meter: &mut Meter, shared: &Shared<'_>, done: &Sender<Vec<Encoded<Named>>>) -> Computed {
    let mut computed = Computed::default();
    while let Some(batch) = meter.starved(|| shared.queue.next_batch(shared.settings.batch)) {
        let encoded = encode::run_batch(shared.parts.embedder, batch, &mut computed);
        let tokens = encoded.iter().map(|encoded| encoded.ids.len() as u64).sum();
        shared.parts.progress.computed(encoded.len() as u64, tokens);
        meter.finished(encoded.len() as u64);
        if meter.send(done, encoded).is_err() {
            break;
        }
    }
    computed
}

/// Writes rows in the order of their texts; returns how many.
fn write_in_order<E: From<TextError>>(
    meter: &mut Meter,
    shared: &Shared<'_>,
    finished: &Receiver<Vec<Encoded<Named>>>,
    mut write: impl FnMut(&TextOutputs) -> Result<(), E>,
) -> Result<u64, E> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    while let Some(batch) = meter.receive(finished) {
        early.extend(batch.into_iter().map(|encoded| (encoded.key.number, encoded)));
        while let Some(Encoded { key, outputs, .. }) = early.remove(&next) {
            let outputs = outputs.map_err(|why| key.error(TextFault::NoVector(why)))?;
            write(&outputs)?;
            next += 1;
            shared.parts.progress.done(1, 0);
            meter.finished(1);
        }
        shared.window.advance_to(next);
    }
    Ok(next)
}
