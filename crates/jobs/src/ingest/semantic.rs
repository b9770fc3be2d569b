//! The sentence pass: a document waits on the desk until the vectors of its sentences are there, then is cut.
//!
//! Sentences go through the same queue as chunks. Equal sentences are computed once, however many documents wait for
//! them; rows of sentences that came are kept up to a bound, in the order in which they came. A row does not depend
//! on its batch, so neither the threads nor what is kept changes where a document is cut.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use haul_corpus::chunk::words;
use haul_encoder::tokenizer::TokenizeError;
use haul_pipeline::batch::Lane;
use haul_pipeline::stage::{Meter, channel};
use haul_store::library::VectorKey;

use super::cut::Draft;
use super::pieces::{Cutting, Sentences};
use super::tokenized::{Tokenized, is_sliceable};
use super::{Purpose, Shared};
use crate::encode::{Encoded, Sequence};

/// Documents between the two passes.
const DOCUMENTS_MAX: usize = 64;
/// Bytes of text of those documents; the first one over it is still let in.
const TEXT_BYTES_MAX: usize = 64 << 20;
/// Rows of sentences that are kept in case they come again.
const ROWS_BYTES_MAX: usize = 64 << 20;

/// What the sentence pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SentencePass {
    /// Sentences of the documents.
    pub sentences: u64,
    /// Those that went through the model: no other sentence of the run was equal.
    pub computed: u64,
    /// Tokens that went through the model, special tokens included.
    pub tokens: u64,
    /// Seconds of the device, summed over the batches it works on side by side.
    pub busy_s: f64,
}

/// A document whose sentences are compared.
pub(crate) struct Compared {
    pub(crate) draft: Draft,
    pub(crate) tokenized: Tokenized,
    pub(crate) sentences: Sentences,
    /// Cosine of each sentence but the first to the one before; or why there is none.
    pub(crate) similarities: Result<Vec<f32>, String>,
}

/// Why a document does not wait on the desk.
pub(crate) enum NotAsked {
    /// Nobody computes any more.
    Closed,
    /// It goes to its verdict.
    Failed(Box<Draft>, TokenizeError),
}

/// Tokenizes a document's sentences and hands those that nobody asked for yet to the device, one by one, so that the
/// device has work from the first sentence on.
pub(crate) fn ask(
    meter: &mut Meter,
    shared: &Shared<'_>,
    cutting: &Cutting<'_>,
    mut draft: Draft,
) -> Result<(), NotAsked> {
    let started = Instant::now();
    let mut waited = Duration::ZERO;
    let document = &draft.document;
    let sentences = cutting.sentences(document, &draft.sections);
    let desk = &shared.desk;
    let number = desk.open(sentences.all.len(), document.text.len());
    let mut tokenized = Tokenized::empty(is_sliceable(cutting.model, cutting.prompt));
    for (position, sentence) in sentences.all.iter().enumerate() {
        let ids = match cutting.sentence(document, sentence, &mut tokenized) {
            Ok(ids) => ids,
            Err(error) => {
                desk.give_up(number);
                return Err(NotAsked::Failed(Box::new(draft), error));
            }
        };
        let text = words::stripped(&document.text[sentence.start..sentence.end]);
        let key = VectorKey::of(text, &shared.fingerprint);
        if desk.wants(number, position, key) {
            let tokens = ids.len();
            let sequence = Sequence { key: Purpose::Sentence(key), ids };
            let pushing = Instant::now();
            let pushed = meter.blocked(|| shared.queue.push(Lane::Bulk, tokens, sequence));
            waited += pushing.elapsed();
            pushed.map_err(|_| NotAsked::Closed)?;
        }
    }
    draft.spent.cut_s += (started.elapsed() - waited).as_secs_f64();
    desk.settle(number, draft, tokenized, sentences);
    Ok(())
}

/// Where documents wait between the two passes.
pub(crate) struct Desk {
    state: Mutex<State>,
    /// Has room for every document that may wait, so that who computes is never blocked by who cuts.
    ready: Sender<Compared>,
    pub(crate) compared: Receiver<Compared>,
}

struct State {
    next_number: u64,
    waiting: HashMap<u64, Waiting>,
    /// For each sentence that is being computed, who needs it where.
    wanted: HashMap<VectorKey, Vec<(u64, usize)>>,
    rows: Rows,
    text_bytes: usize,
    pass: SentencePass,
}

/// A document and the sentences it lacks.
struct Waiting {
    similarities: Similarities,
    missing: usize,
    failed: Option<String>,
    text_bytes: usize,
    /// There once all of its sentences are asked for.
    parts: Option<(Draft, Tokenized, Sentences)>,
}

impl Desk {
    /// For as many cutting threads, each of which may let one document in over the bound.
    pub(crate) fn new(threads: usize) -> Desk {
        let (ready, compared) = channel(DOCUMENTS_MAX + threads);
        let state = State {
            next_number: 0,
            waiting: HashMap::new(),
            wanted: HashMap::new(),
            rows: Rows::default(),
            text_bytes: 0,
            pass: SentencePass::default(),
        };
        Desk { state: Mutex::new(state), ready, compared }
    }

    /// Whether another document may begin to wait.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.lock();
        state.waiting.len() + self.compared.len() < DOCUMENTS_MAX && state.text_bytes < TEXT_BYTES_MAX
    }

    /// Whether no document waits. What is compared already may still be in the channel.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty() && self.compared.is_empty()
    }

    /// What was done so far.
    pub(crate) fn pass(&self) -> SentencePass {
        self.lock().pass
    }

    fn open(&self, sentences: usize, text_bytes: usize) -> u64 {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        state.text_bytes += text_bytes;
        state.pass.sentences += sentences as u64;
        let similarities = Similarities::new(sentences);
        let waiting = Waiting { similarities, missing: sentences, failed: None, text_bytes, parts: None };
        state.waiting.insert(number, waiting);
        number
    }

    /// Notes who needs a sentence; true if it has to be computed for that.
    fn wants(&self, number: u64, position: usize, key: VectorKey) -> bool {
        let mut state = self.lock();
        if let Some(row) = state.rows.get(&key) {
            if let Some(waiting) = state.waiting.get_mut(&number) {
                waiting.take(position, &Ok(row));
            }
            return false;
        }
        let places = state.wanted.entry(key).or_default();
        places.push((number, position));
        places.len() == 1
    }

    /// All sentences of a document are asked for; it is ready if all of them came already.
    fn settle(&self, number: u64, draft: Draft, tokenized: Tokenized, sentences: Sentences) {
        let mut state = self.lock();
        if let Some(waiting) = state.waiting.get_mut(&number) {
            waiting.parts = Some((draft, tokenized, sentences));
        }
        self.pass_on(&mut state, number);
    }

    fn give_up(&self, number: u64) {
        let mut state = self.lock();
        if let Some(waiting) = state.waiting.remove(&number) {
            state.text_bytes -= waiting.text_bytes;
        }
    }

    /// Takes what the model made of sentences.
    pub(crate) fn deliver(&self, encoded: Vec<Encoded<VectorKey>>) {
        let mut state = self.lock();
        for Encoded { key, ids, outputs, seconds } in encoded {
            state.pass.computed += 1;
            state.pass.tokens += ids.len() as u64;
            state.pass.busy_s += seconds;
            let row = outputs.map(|outputs| Arc::from(outputs.dense));
            if let Ok(row) = &row {
                state.rows.keep(key, row);
            }
            for (number, position) in state.wanted.remove(&key).unwrap_or_default() {
                if let Some(waiting) = state.waiting.get_mut(&number) {
                    waiting.take(position, &row);
                    self.pass_on(&mut state, number);
                }
            }
        }
    }

    fn pass_on(&self, state: &mut State, number: u64) {
        let is_ready = |waiting: &Waiting| waiting.missing == 0 && waiting.parts.is_some();
        if !state.waiting.get(&number).is_some_and(is_ready) {
            return;
        }
        let Some(Waiting { similarities, failed, text_bytes, parts: Some(parts), .. }) =
            state.waiting.remove(&number)
        else {
            return;
        };
        state.text_bytes -= text_bytes;
        let (draft, tokenized, sentences) = parts;
        let similarities = failed.map_or(Ok(similarities.values), Err);
        let compared = Compared { draft, tokenized, sentences, similarities };
        // The desk holds a receiver itself and has room for all: this neither waits nor fails.
        if self.ready.try_send(compared).is_err() {
            unreachable!("more documents between the passes than were let in");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self, position: usize, row: &Result<Arc<[f32]>, String>) {
        self.missing -= 1;
        match row {
            Ok(row) => self.similarities.set(position, Arc::clone(row)),
            Err(why) => self.failed = Some(format!("sentence {} has no vector: {why}", position + 1)),
        }
    }
}

/// Cosines of neighbours, from rows that come in any order. A row is let go once both of its neighbours came.
struct Similarities {
    rows: Vec<Option<Arc<[f32]>>>,
    /// How many neighbours of each row it was not compared with yet.
    open: Vec<u8>,
    values: Vec<f32>,
}

impl Similarities {
    fn new(sentences: usize) -> Similarities {
        let neighbours = |at: usize| u8::from(at > 0) + u8::from(at + 1 < sentences);
        Similarities {
            rows: vec![None; sentences],
            open: (0..sentences).map(neighbours).collect(),
            values: vec![0.0; sentences.saturating_sub(1)],
        }
    }

    fn set(&mut self, at: usize, row: Arc<[f32]>) {
        self.rows[at] = Some(row);
        for first in [at.checked_sub(1), Some(at)].into_iter().flatten() {
            let Some([Some(a), Some(b)]) = self.rows.get(first..first + 2) else { continue };
            self.values[first] = cosine(a, b);
            self.open[first] -= 1;
            self.open[first + 1] -= 1;
        }
        for at in at.saturating_sub(1)..(at + 2).min(self.rows.len()) {
            if self.open[at] == 0 {
                self.rows[at] = None;
            }
        }
    }
}

/// Cosines of neighbouring rows.
pub(crate) fn similarities(rows: &[Vec<f32>]) -> Vec<f32> {
    rows.windows(2).map(|pair| cosine(&pair[0], &pair[1])).collect()
}

/// In f32, as the original compares. Rows are neither zero nor infinite: the encoder refuses such.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Eight sums side by side, added in one order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Rows that came, up to [`ROWS_BYTES_MAX`]; the oldest goes first.
#[derive(Default)]
struct Rows {
    by_key: HashMap<VectorKey, Arc<[f32]>>,
    order: VecDeque<VectorKey>,
}

impl Rows {
    fn get(&self, key: &VectorKey) -> Option<Arc<[f32]>> {
        self.by_key.get(key).cloned()
    }

    fn keep(&mut self, key: VectorKey, row: &Arc<[f32]>) {
        let rows_max = ROWS_BYTES_MAX / size_of_val::<[f32]>(row).max(1);
        if self.by_key.insert(key, Arc::clone(row)).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > rows_max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.by_key.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: [f32; 3]) -> Arc<[f32]> {
        Arc::from(values)
    }

    #[test]
    fn cosines_do_not_depend_on_the_order_of_rows() {
        let rows = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]];
        let expected = similarities(&rows.map(|row| row.to_vec()));
        assert!((expected[0] - 0.5_f32.sqrt()).abs() < 1e-6 && expected[2] == 0.0, "{expected:?}");
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let mut similarities = Similarities::new(4);
            for at in order {
                similarities.set(at, row(rows[at]));
            }
            assert_eq!(similarities.values, expected);
            assert!(similarities.rows.iter().all(Option::is_none), "rows that nobody needs are let go");
        }
        let mut one = Similarities::new(1);
        one.set(0, row(rows[0]));
        assert!(one.values.is_empty() && one.rows[0].is_none());
    }

    #[test]
    fn the_oldest_rows_go_first() {
        let mut rows = Rows::default();
        let wide: Arc<[f32]> = Arc::from(vec![0.0; ROWS_BYTES_MAX / 8]);
        for number in 0..3 {
            rows.keep(VectorKey([number; 32]), &wide);
        }
        let kept = [0, 1, 2].map(|number| rows.get(&VectorKey([number; 32])).is_some());
        assert_eq!(kept, [false, true, true]);
    }
}
