//! Calls that wait for a lane, and what lanes know of those before.
//!
//! The [`Desk`] takes groups of calls that begin alike, refuses what can never be answered, and gives each group to a lane,
//! or to several at once where more is left of it than they must compute to join.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use haul_frames::{self as frames, COPIES_BYTES_FREE, Event, GROUP_CALLS_MAX};

use crate::beginnings::Beginnings;
use crate::constrain::{Form, Grammars};
use crate::draft::Known;
use crate::engine::Engine;
use crate::live::Live;
use crate::llama::{Marks, Model, State, Token};

/// What lanes share: calls that nobody has begun, and what was computed for those before.
pub(crate) struct Desk {
    model: Model,
    /// Tokens that prompt and answer of one call may have.
    call_tokens_max: u32,
    /// Cells of a lane, where its sequences share them.
    shared_cells: Option<usize>,
    /// Whether what a call shares is copied, not shared.
    recurrent: bool,
    /// That take calls from here.
    lanes: u32,
    waiting: Mutex<Waiting>,
    /// Rung when there may be something else to do, and at the end.
    bell: Condvar,
    /// Calls that were taken and not answered.
    open: AtomicUsize,
    /// Trunks of groups before, for groups to come.
    beginnings: Mutex<Beginnings>,
    grammars: Mutex<Option<Grammars>>,
    pub(crate) totals: Arc<Totals>,
}

#[derive(Default)]
struct Waiting {
    /// Groups that no lane has begun, the next one first.
    groups: VecDeque<Arc<Group>>,
    /// Groups that a lane has begun and that had calls left then.
    begun: Vec<Arc<Group>>,
    is_over: bool,
}

/// Calls that begin alike.
pub(crate) struct Group {
    pub(crate) shared: Vec<Token>,
    /// The next one first.
    calls: Mutex<VecDeque<(frames::Call, Vec<Token>)>>,
}

/// What all lanes did since the start of the process, and are at now.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Groups that were read and are not on the desk yet.
    pub(crate) arriving: AtomicUsize,
    /// Batches that were begun.
    pub(crate) steps: AtomicU64,
    /// Calls in a cache now.
    pub(crate) live: AtomicU32,
    pub(crate) prefill_tokens: AtomicU64,
    pub(crate) decode_tokens: AtomicU64,
    pub(crate) reused_tokens: AtomicU64,
}

impl Desk {
    /// For lanes of one model, all like `engine`.
    pub(crate) fn new(engine: &Engine, lanes: u32, totals: Arc<Totals>) -> Self {
        let cells = if engine.unified { engine.n_ctx() } else { engine.n_ctx() / engine.n_seq_max };
        Self {
            model: engine.model(),
            // Beyond what it was trained on a model answers all the same, and answers nonsense.
            call_tokens_max: cells.min(engine.model().context_train().max(1)),
            shared_cells: engine.unified.then(|| engine.n_ctx() as usize),
            recurrent: engine.recurrent,
            lanes,
            waiting: Mutex::default(),
            bell: Condvar::new(),
            open: AtomicUsize::new(0),
            beginnings: Mutex::new(Beginnings::new(engine.n_ctx().saturating_mul(lanes), COPIES_BYTES_FREE)),
            grammars: Mutex::default(),
            totals,
        }
    }

    /// Whether any call waits for its answer.
    pub(crate) fn is_busy(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// Takes a group; calls that can never be answered are refused at once.
    pub(crate) fn add(&self, group: frames::Group, say: &impl Fn(Event)) {
        let mut calls = VecDeque::new();
        for (number, call) in group.calls.into_iter().enumerate() {
            if number >= GROUP_CALLS_MAX {
                let why = format!("a group of more than {GROUP_CALLS_MAX} calls");
                say(Event::Refused { id: Some(call.id), why });
                continue;
            }
            let prompt = match self.model.tokenize(&format!("{}{}", group.prefix, call.suffix), &call.spelled)
            {
                Ok(prompt) => prompt,
                Err(why) => {
                    say(Event::Refused { id: Some(call.id), why });
                    continue;
                }
            };
            let tokens = prompt.len() as u64 + u64::from(call.max_tokens);
            let why = if prompt.is_empty() || call.max_tokens == 0 {
                format!("{} tokens of prompt and at most {} of answer", prompt.len(), call.max_tokens)
            } else if tokens > u64::from(self.call_tokens_max) {
                format!("{tokens} tokens of prompt and answer in a context of {}", self.call_tokens_max)
            } else {
                calls.push_back((call, prompt));
                continue;
            };
            say(Event::Refused { id: Some(call.id), why });
        }
        if calls.is_empty() {
            return;
        }
        self.open.fetch_add(calls.len(), Relaxed);
        let shared = self.shared_by(&calls, &group.prefix);
        self.waiting().groups.push_back(Arc::new(Group { shared, calls: Mutex::new(calls) }));
        self.bell.notify_all();
    }

    /// Ends all lanes, each behind its present step.
    pub(crate) fn close(&self) {
        self.waiting().is_over = true;
        self.bell.notify_all();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn beginnings(&self) -> MutexGuard<'_, Beginnings> {
        self.beginnings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group that nobody has begun, or another lane's of which enough is left.
    pub(crate) fn next(&self) -> Option<Arc<Group>> {
        self.waiting().next(self)
    }

    /// A lane that joins computes the beginning once more, if there is no copy of it: what it takes over should be as much.
    fn is_worth_joining(&self, group: &Group) -> bool {
        // There will be one soon that nobody has begun.
        if self.totals.arriving.load(Relaxed) > 0 {
            return false;
        }
        let left: usize = group.calls().iter().map(|(_, prompt)| prompt.len() - group.shared.len()).sum();
        let copied = self.beginnings().longer(&group.shared, 0).map_or(0, |(tokens, _)| tokens);
        left > group.shared.len() - copied
    }

    /// Puts a group that was taken and not begun before the others.
    pub(crate) fn hand_back(&self, group: Arc<Group>) {
        let mut waiting = self.waiting();
        waiting.begun.retain(|begun| !Arc::ptr_eq(begun, &group));
        waiting.groups.push_front(group);
        drop(waiting);
        self.bell.notify_all();
    }

    /// Keeps a copy of a beginning, which makes its group worth joining for lanes that sleep.
    pub(crate) fn keep_beginning(&self, tokens: Vec<Token>, state: State) {
        self.beginnings().keep(tokens, state);
        // Nobody is between a look at what is waiting and the sleep behind it.
        drop(self.waiting());
        self.bell.notify_all();
    }

    /// Waits until there is something to do; false at the end.
    pub(crate) fn wait(&self) -> bool {
        let is_idle = |waiting: &mut Waiting| !waiting.is_over && !waiting.has_next(self);
        let waiting = self.bell.wait_while(self.waiting(), is_idle).unwrap_or_else(PoisonError::into_inner);
        !waiting.is_over
    }

    /// Waits until everything that was read is here. Calls that came together are then answered together, and so alike in
    /// every run: tokens of an answer may be others in another batch. Several lanes take calls as they are free, which no
    /// wait makes alike.
    pub(crate) fn wait_for_all(&self) {
        let is_arriving = |waiting: &mut Waiting| {
            self.lanes == 1 && !waiting.is_over && self.totals.arriving.load(Relaxed) > 0
        };
        drop(self.bell.wait_while(self.waiting(), is_arriving).unwrap_or_else(PoisonError::into_inner));
    }

    /// A group that was read is here, or was refused.
    pub(crate) fn has_arrived(&self) {
        let waiting = self.waiting();
        self.totals.arriving.fetch_sub(1, Relaxed);
        drop(waiting);
        self.bell.notify_all();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.waiting().is_over
    }

    /// Hands on what a call came to.
    pub(crate) fn close_call(&self, event: Event, say: &impl Fn(Event)) {
        // Before anybody hears of it: who hears of the last one may ask for a measurement.
        self.open.fetch_sub(1, Relaxed);
        say(event);
    }

    /// The tokens that are worth computing once for these calls. At least one token of each prompt is left to it: its
    /// logits begin the answer.
    fn shared_by(&self, calls: &VecDeque<(frames::Call, Vec<Token>)>, prefix: &str) -> Vec<Token> {
        let Some((_, first)) = calls.front() else { return vec![] };
        let Some(cells) = self.shared_cells else { return vec![] };
        let mut shared = first.len();
        if calls.len() == 1 {
            shared = self.tokens_within(first, prefix.len());
        }
        for (_, prompt) in calls {
            shared = shared.min(common(first, prompt)).min(prompt.len() - 1);
        }
        // A copy needs room beside what it is a copy of.
        let fits = |(call, prompt): &(frames::Call, Vec<Token>)| {
            shared + cells_for(self.recurrent, prompt.len(), shared, call) <= cells
        };
        if calls.iter().all(fits) { first[..shared].to_vec() } else { vec![] }
    }

    /// About as many tokens as make up so many bytes of text; to read the text once more as tokens takes longer than to add
    /// up their bytes.
    fn tokens_within(&self, tokens: &[Token], bytes: usize) -> usize {
        let ends = tokens.iter().scan(0, |end, token| {
            *end += self.model.piece(*token, Marks::Shown).len();
            Some(*end)
        });
        ends.take_while(|end| *end <= bytes).count()
    }

    /// The form of a call's answer, if it has one, and the last answers of such calls.
    pub(crate) fn form_of(&self, call: &frames::Call) -> Result<(Option<Form>, Option<Known>), String> {
        let Some(constraint) = &call.constraint else { return Ok((None, None)) };
        let mut grammars = self.grammars();
        let grammars = match &mut *grammars {
            Some(grammars) => grammars,
            none => none.insert(Grammars::new(self.model)?),
        };
        let form = grammars.of(constraint)?;
        let known = Known { last: grammars.last(&form).to_vec(), earlier: grammars.earlier().to_vec() };
        Ok((Some(form), Some(known)))
    }

    fn grammars(&self) -> MutexGuard<'_, Option<Grammars>> {
        self.grammars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer for the next one of its form.
    pub(crate) fn keep_answer(&self, live: &Live) {
        if let (Some(form), Some(grammars)) = (&live.form, &mut *self.grammars()) {
            grammars.keep(form, &live.said, live.prompt.len());
        }
    }
}

impl Waiting {
    fn has_next(&mut self, desk: &Desk) -> bool {
        self.begun.retain(|group| !group.calls().is_empty());
        !self.groups.is_empty() || self.begun.iter().any(|group| desk.is_worth_joining(group))
    }

    fn next(&mut self, desk: &Desk) -> Option<Arc<Group>> {
        self.begun.retain(|group| !group.calls().is_empty());
        // One that was handed back may have been answered by another lane meanwhile.
        self.groups.retain(|group| !group.calls().is_empty());
        if let Some(group) = self.groups.pop_front() {
            self.begun.push(Arc::clone(&group));
            return Some(group);
        }
        self.begun.iter().find(|group| desk.is_worth_joining(group)).map(Arc::clone)
    }
}

impl Group {
    pub(crate) fn calls(&self) -> MutexGuard<'_, VecDeque<(frames::Call, Vec<Token>)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cells that a call may need beside the trunk's. A model with a state begins with a copy of it, in which there may be
/// cells: of what is copied nothing is shared.
pub(crate) fn cells_for(recurrent: bool, prompt_tokens: usize, shared: usize, call: &frames::Call) -> usize {
    let own = if recurrent { prompt_tokens } else { prompt_tokens - shared };
    own + call.max_tokens as usize
}

/// Tokens that two lists begin with.
pub(crate) fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
