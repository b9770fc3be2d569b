//! Calls answered together, by one lane or by several.
//!
//! The [`Desk`] has the calls that nobody has begun; each [`Lane`] takes groups from it, or joins another one's. In a lane,
//! sequence 0 is the trunk: the tokens that the calls of its present group begin with, computed once. Each call gets a
//! sequence of its own that begins with the trunk's cells ([`Engine::share`]), or with a copy of its state where a model
//! keeps more than cells ([`Engine::snapshot`]), reads the rest of its prompt, and writes.
//! Every step is one batch of everything that can go on: for each call that writes, its last token and what the answer is
//! likely to go on with ([`Draft`]), then what is left of the trunk, then prompts. A call begins when the cells that it may
//! need at most are free, so none ever runs out of them, and on a processor when those of others are not many more than its
//! own ([`Engine::cells_of_others_max`]).
//! A trunk that was computed is kept as a copy ([`Beginnings`]), for a group that begins alike much later, in any lane.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use haul_frames::{self as frames, COPIES_BYTES_FREE, Event, Finish, GROUP_CALLS_MAX, TokenLogprob};

use crate::beginnings::Beginnings;
use crate::constrain::{Form, Grammars};
use crate::draft::{Draft, Known};
use crate::engine::{Engine, Fed, Output};
use crate::llama::{Marks, Model, State, Token};
use crate::sample::{Sampler, likeliest, log_sum_exp, top};

const TRUNK: i32 = 0;

/// Logits behind the tokens ahead of all answers in one batch, beside those that answers need anyway: 64 MiB.
const LOGITS_AHEAD_MAX: usize = 16 << 20;

/// What lanes share: calls that nobody has begun, and what was computed for those before.
pub(crate) struct Desk {
    model: Model,
    /// Tokens that prompt and answer of one call may have.
    call_tokens_max: u32,
    /// Cells of a lane, where its sequences share them.
    shared_cells: Option<usize>,
    /// Whether what a call shares is copied, not shared.
    recurrent: bool,
    waiting: Mutex<Waiting>,
    /// Rung when a group comes, and at the end.
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
struct Group {
    shared: Vec<Token>,
    /// The next one first.
    calls: Mutex<VecDeque<(frames::Call, Vec<Token>)>>,
}

/// A context and the calls in it.
pub(crate) struct Lane {
    engine: Engine,
    /// Whose calls are begun, and how much of the trunk they share.
    group: Option<Arc<Group>>,
    shared: Vec<Token>,
    /// Whether the trunk begins with `shared`.
    is_planted: bool,
    trunk: Trunk,
    live: Vec<Live>,
    /// Sequences that nobody uses.
    free: Vec<i32>,
    /// Cells that the trunk gave up and that calls still read.
    held: Vec<Held>,
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

#[derive(Default)]
struct Trunk {
    tokens: Vec<Token>,
    /// Of which are computed.
    done: usize,
    /// Computed tokens that no call was charged for yet.
    uncharged: usize,
    /// Its state, for models that share no cells.
    snapshot: Option<State>,
}

struct Held {
    cells: usize,
    users: Vec<u64>,
}

/// A call that has a sequence.
struct Live {
    call: frames::Call,
    sequence: i32,
    prompt: Vec<Token>,
    /// Tokens of the prompt that are in the cache or in the present batch.
    fed: usize,
    reused: usize,
    consumed: usize,
    /// Tokens that it began with: the trunk's cells.
    began_at: usize,
    /// Cells that it may need beside the trunk's.
    reserved: usize,
    /// The prompt and the answer: what a penalty looks back on.
    said: Vec<Token>,
    draft: Draft,
    answer_tokens: u32,
    text: Vec<u8>,
    sampler: Sampler,
    form: Option<Form>,
    logprobs: Vec<TokenLogprob>,
    start: Instant,
    /// Row of its logits in the present batch; those behind each token of `ahead` follow.
    row: Option<i32>,
    /// Tokens in the present batch that the answer may go on with.
    ahead: Vec<Token>,
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
            let prompt = match self.model.tokenize(&format!("{}{}", group.prefix, call.suffix), &call.spelled)
            {
                Ok(prompt) => prompt,
                Err(why) => {
                    say(Event::Refused { id: Some(call.id), why });
                    continue;
                }
            };
            let tokens = prompt.len() as u64 + u64::from(call.max_tokens);
            let why = if number >= GROUP_CALLS_MAX {
                format!("a group of more than {GROUP_CALLS_MAX} calls")
            } else if prompt.is_empty() || call.max_tokens == 0 {
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

    fn beginnings(&self) -> MutexGuard<'_, Beginnings> {
        self.beginnings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group that nobody has begun, or another lane's of which enough is left.
    fn next(&self) -> Option<Arc<Group>> {
        self.waiting().next()
    }

    /// Puts a group that was taken and not begun before the others.
    fn hand_back(&self, group: Arc<Group>) {
        let mut waiting = self.waiting();
        waiting.begun.retain(|begun| !Arc::ptr_eq(begun, &group));
        waiting.groups.push_front(group);
        drop(waiting);
        self.bell.notify_all();
    }

    /// Waits until there is something to do; false at the end.
    fn wait(&self) -> bool {
        let is_idle = |waiting: &mut Waiting| !waiting.is_over && !waiting.has_next();
        let waiting = self.bell.wait_while(self.waiting(), is_idle).unwrap_or_else(PoisonError::into_inner);
        !waiting.is_over
    }

    fn is_over(&self) -> bool {
        self.waiting().is_over
    }

    /// Hands on what a call came to.
    fn close_call(&self, event: Event, say: &impl Fn(Event)) {
        // Before anybody hears of it: who hears of the last one may ask for a measurement.
        self.open.fetch_sub(1, Relaxed);
        say(event);
    }

    /// The tokens that are worth computing once for these calls. At least one token of each prompt is left to it: its
    /// logits begin the answer.
    fn shared_by(&self, calls: &VecDeque<(frames::Call, Vec<Token>)>, prefix: &str) -> Vec<Token> {
        let Some((call, first)) = calls.front() else { return vec![] };
        let Some(cells) = self.shared_cells else { return vec![] };
        let mut shared = first.len();
        if calls.len() == 1 {
            let within = call.spelled.iter().take_while(|range| range.end <= prefix.len());
            let within: Vec<_> = within.cloned().collect();
            let prefix = self.model.tokenize(prefix, &within).unwrap_or_else(|_| vec![]);
            shared = common(first, &prefix);
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

    /// The form of a call's answer, if it has one, and the last answers of such calls.
    fn form_of(&self, call: &frames::Call) -> Result<(Option<Form>, Option<Known>), String> {
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
    fn keep_answer(&self, live: &Live) {
        if let (Some(form), Some(grammars)) = (&live.form, &mut *self.grammars()) {
            grammars.keep(form, &live.said, live.prompt.len());
        }
    }
}

impl Waiting {
    fn has_next(&mut self) -> bool {
        self.begun.retain(|group| group.is_worth_joining());
        !self.groups.is_empty() || !self.begun.is_empty()
    }

    fn next(&mut self) -> Option<Arc<Group>> {
        self.begun.retain(|group| group.is_worth_joining());
        // One that was handed back may have been answered by another lane meanwhile.
        self.groups.retain(|group| !group.calls().is_empty());
        if let Some(group) = self.groups.pop_front() {
            self.begun.push(Arc::clone(&group));
            return Some(group);
        }
        self.begun.first().map(Arc::clone)
    }
}

impl Group {
    fn calls(&self) -> MutexGuard<'_, VecDeque<(frames::Call, Vec<Token>)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane that joins computes the beginning once more: what it takes over should be as much.
    fn is_worth_joining(&self) -> bool {
        let left: usize = self.calls().iter().map(|(_, prompt)| prompt.len() - self.shared.len()).sum();
        left > self.shared.len()
    }
}

impl Lane {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            group: None,
            shared: Vec::new(),
            is_planted: false,
            trunk: Trunk::default(),
            live: Vec::new(),
            free: (1..=sequences_of_calls(&engine)).rev().collect(),
            held: Vec::new(),
            engine,
        }
    }

    /// The context, for work that needs it all: what is in its cache is forgotten.
    pub(crate) fn uprooted(&mut self) -> &mut Engine {
        self.uproot();
        &mut self.engine
    }

    fn uproot(&mut self) {
        self.engine.clear();
        self.trunk = Trunk::default();
    }

    /// Waits for something to do; false at the end.
    pub(crate) fn wait(lane: &Mutex<Lane>, desk: &Desk) -> bool {
        let is_at_work = {
            let lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
            !lane.live.is_empty() || lane.group.as_ref().is_some_and(|group| !group.calls().is_empty())
        };
        if is_at_work { !desk.is_over() } else { desk.wait() }
    }

    /// One batch. Finished calls are handed to `say`.
    pub(crate) fn step(&mut self, desk: &Desk, say: &impl Fn(Event)) {
        desk.totals.steps.fetch_add(1, Relaxed);
        if let Err(why) = self.begin_calls(desk, say).and_then(|()| self.fill(&desk.totals)) {
            return self.give_up(desk, &why, say);
        }
        // Another lane was faster, or all that was begun was refused.
        if self.engine.room() == self.engine.n_batch() {
            return;
        }
        if let Err(error) = self.engine.decode() {
            return self.give_up(desk, &error, say);
        }
        let mut next = 0;
        while next < self.live.len() {
            match self.live[next].go_on(&mut self.engine, &desk.totals) {
                Ok(None) => next += 1,
                Ok(Some(finish)) => {
                    let live = self.end(next, desk);
                    desk.keep_answer(&live);
                    desk.close_call(Event::Answer(live.answer(finish)), say);
                }
                Err(why) => {
                    let live = self.end(next, desk);
                    desk.close_call(Event::Refused { id: Some(live.call.id), why }, say);
                }
            }
        }
    }

    /// What cannot go on takes all calls in the cache with it; those that have not begun stay.
    fn give_up(&mut self, desk: &Desk, why: &str, say: &impl Fn(Event)) {
        let is_of_the_trunk = self.live.is_empty();
        while !self.live.is_empty() {
            let live = self.end(0, desk);
            desk.close_call(Event::Refused { id: Some(live.call.id), why: why.to_owned() }, say);
        }
        // Without any live call it is the trunk that fails, and with it every call of its group.
        if let Some(group) = self.group.take().filter(|_| is_of_the_trunk) {
            let calls = std::mem::take(&mut *group.calls());
            for (call, _) in calls {
                desk.close_call(Event::Refused { id: Some(call.id), why: why.to_owned() }, say);
            }
        }
        self.uproot();
        desk.beginnings().forget();
    }

    /// Gives sequences to calls as long as there are sequences and cells.
    fn begin_calls(&mut self, desk: &Desk, say: &impl Fn(Event)) -> Result<(), String> {
        loop {
            let group = match self.group.take().filter(|group| !group.calls().is_empty()) {
                Some(group) => group,
                None => {
                    let Some(group) = desk.next() else { return Ok(()) };
                    self.shared = self.shared_with(&group);
                    self.is_planted = false;
                    group
                }
            };
            self.group = Some(Arc::clone(&group));
            if !self.is_planted {
                if !self.live.is_empty() && !self.has_room_beside() {
                    // A lane that is idle may have it meanwhile.
                    self.group = None;
                    desk.hand_back(group);
                    return Ok(());
                }
                self.plant(desk);
                self.is_planted = true;
            }
            if self.trunk.done < self.trunk.tokens.len() || self.live.len() >= self.engine.n_batch() {
                return Ok(());
            }
            self.keep_trunk(desk)?;
            let Some((call, prompt)) = self.next_call(&group) else {
                if group.calls().is_empty() {
                    continue;
                }
                return Ok(());
            };
            self.begin(desk, call, prompt, say)?;
        }
    }

    /// What the calls of a group begin with. A call that is alone may begin as the trunk does.
    fn shared_with(&self, group: &Group) -> Vec<Token> {
        let calls = group.calls();
        match calls.front() {
            // A copy of a state needs room of its own, which was seen to for what the group shares.
            Some((_, prompt)) if calls.len() == 1 && self.engine.unified && !self.engine.recurrent => {
                let as_trunk = common(prompt, &self.trunk.tokens).min(prompt.len() - 1);
                prompt[..as_trunk.max(group.shared.len())].to_vec()
            }
            _ => group.shared.clone(),
        }
    }

    /// Takes the next call of a group if there is room for it.
    fn next_call(&mut self, group: &Group) -> Option<(frames::Call, Vec<Token>)> {
        let mut calls = group.calls();
        let (call, prompt) = calls.front()?;
        let reserved = cells_for(self.engine.recurrent, prompt.len(), self.shared.len(), call);
        let is_crowded =
            !self.live.is_empty() && self.cells_of_others() > self.engine.cells_of_others_max(prompt.len());
        if self.free.is_empty() || is_crowded {
            return None;
        }
        if self.cells_used() + reserved > self.engine.n_ctx() as usize {
            if !self.live.is_empty() {
                return None;
            }
            // What is left of an older trunk stands in the way.
            self.cut(self.shared.len());
        }
        calls.pop_front()
    }

    fn cells_used(&self) -> usize {
        let held: usize = self.held.iter().map(|held| held.cells).sum();
        let live: usize = self.live.iter().map(|live| live.reserved).sum();
        self.trunk.tokens.len() + held + live
    }

    /// Cells in use that a call which begins now has no part in.
    fn cells_of_others(&self) -> usize {
        let held: usize = self.held.iter().map(|held| held.cells).sum();
        let live: usize = self.live.iter().map(|live| live.said.len() - live.began_at).sum();
        held + live
    }

    /// Whether what is shared next has room beside calls that began otherwise: in the cache, and within what each token may
    /// be multiplied with for nothing.
    fn has_room_beside(&self) -> bool {
        let given_up = self.cells_given_up();
        let tokens = self.trunk.tokens.len();
        let trunk = if self.stays() { tokens } else { self.shared.len() };
        let used = self.cells_used() - tokens + trunk + given_up;
        let is_free =
            given_up == 0 || self.cells_of_others() + given_up <= self.engine.cells_of_others_max(0);
        used <= self.engine.n_ctx() as usize && is_free
    }

    /// Cells of the trunk that calls go on reading when it begins with what is shared next.
    fn cells_given_up(&self) -> usize {
        // Calls of a model with a state have copies.
        if self.stays() || self.engine.recurrent {
            return 0;
        }
        self.trunk.done.saturating_sub(common(&self.trunk.tokens, &self.shared))
    }

    /// Whether the trunk begins with what is shared next, and can stay as it is.
    fn stays(&self) -> bool {
        let common = common(&self.trunk.tokens, &self.shared);
        common == self.shared.len() && self.keeps(common)
    }

    /// Whether the trunk's first `common` tokens can stay where the next ones are others: a state goes back to nothing.
    fn keeps(&self, common: usize) -> bool {
        !self.engine.recurrent || common == self.trunk.tokens.len()
    }

    /// Makes the trunk begin with what is shared. A longer trunk that begins with it stays, for groups to come.
    fn plant(&mut self, desk: &Desk) {
        if self.stays() {
            return;
        }
        let common = common(&self.trunk.tokens, &self.shared);
        self.cut(if self.keeps(common) { common } else { 0 });
        if !self.engine.recurrent {
            self.put_back(desk);
        }
        self.trunk.tokens.clone_from(&self.shared);
        self.trunk.snapshot = None;
    }

    /// Puts a copy in the trunk's place that has more of what is shared than what is left of it.
    fn put_back(&mut self, desk: &Desk) {
        let copy = desk.beginnings().longer(&self.shared, self.trunk.tokens.len());
        let Some((common, state)) = copy else { return };
        self.cut(0);
        // Where the engine finds no room for the copy, the beginning is computed again, and the log says so.
        let restored = self.engine.restore(&state, TRUNK);
        if let Err(why) = &restored {
            crate::to_stderr(&format!("a beginning of {common} tokens is computed again: {why}"));
        }
        let is_back = restored.is_ok() && self.engine.consumed(TRUNK) >= common;
        let done = if is_back && self.engine.forget(TRUNK, common) { common } else { 0 };
        if done == 0 {
            self.engine.forget(TRUNK, 0);
        }
        self.trunk.done = done;
        self.trunk.uncharged = 0;
    }

    /// Copies a trunk that was just computed.
    fn keep_trunk(&mut self, desk: &Desk) -> Result<(), String> {
        if !self.engine.recurrent && desk.beginnings().wants(&self.trunk.tokens) {
            let state = self.engine.snapshot(TRUNK)?;
            desk.beginnings().keep(self.trunk.tokens.clone(), state);
        }
        Ok(())
    }

    /// Shortens the trunk. Calls that began with it go on with its cells.
    fn cut(&mut self, tokens: usize) {
        if tokens >= self.trunk.tokens.len() {
            return;
        }
        let left = if tokens > 0 && self.engine.forget(TRUNK, tokens) {
            tokens
        } else {
            self.engine.forget(TRUNK, 0);
            0
        };
        // Calls that began with a copy read nothing of it any more.
        if !self.live.is_empty() && !self.engine.recurrent {
            let cells = self.trunk.done.saturating_sub(left);
            self.held.push(Held { cells, users: self.live.iter().map(|live| live.call.id).collect() });
        }
        self.trunk.tokens.truncate(left);
        self.trunk.done = self.trunk.done.min(left);
        self.trunk.uncharged = self.trunk.uncharged.min(left);
        self.trunk.snapshot = None;
    }

    fn begin(
        &mut self,
        desk: &Desk,
        call: frames::Call,
        prompt: Vec<Token>,
        say: &impl Fn(Event),
    ) -> Result<(), String> {
        let shared = self.shared.len();
        let of_form = desk.form_of(&call).and_then(|(form, known)| {
            let draft = Draft::new(&self.engine, &call, known)?;
            Ok((form, draft))
        });
        let (form, draft) = match of_form {
            Ok(of_form) => of_form,
            Err(why) => {
                desk.close_call(Event::Refused { id: Some(call.id), why }, say);
                return Ok(());
            }
        };
        let sequence = match self.sequence_with(shared) {
            Ok(sequence) => sequence,
            Err(why) => {
                desk.close_call(Event::Refused { id: Some(call.id), why }, say);
                return Ok(());
            }
        };
        let reused = shared - std::mem::take(&mut self.trunk.uncharged).min(shared);
        desk.totals.reused_tokens.fetch_add(reused as u64, Relaxed);
        desk.totals.live.fetch_add(1, Relaxed);
        self.live.push(Live {
            sequence,
            fed: shared,
            began_at: shared,
            reused,
            consumed: 0,
            reserved: cells_for(self.engine.recurrent, prompt.len(), shared, &call),
            said: prompt.clone(),
            draft,
            answer_tokens: 0,
            text: Vec::new(),
            sampler: Sampler::new(call.sampling.clone()),
            form,
            logprobs: Vec::new(),
            start: Instant::now(),
            row: None,
            ahead: Vec::new(),
            prompt,
            call,
        });
        Ok(())
    }

    /// A sequence that begins with so many tokens of the trunk.
    fn sequence_with(&mut self, shared: usize) -> Result<i32, String> {
        let sequence = *self.free.last().ok_or("no sequence is free")?;
        if shared > 0 && self.engine.recurrent {
            let state = match self.trunk.snapshot.take() {
                Some(state) => state,
                None => self.engine.snapshot(TRUNK)?,
            };
            self.engine.restore(&state, sequence)?;
            self.trunk.snapshot = Some(state);
        } else if shared > 0 {
            self.engine.share(TRUNK, sequence, shared)?;
        }
        self.free.pop();
        Ok(sequence)
    }

    /// Fills a batch: tokens of answers first, so that no long prompt holds them up.
    fn fill(&mut self, totals: &Totals) -> Result<(), String> {
        let (engine, trunk) = (&mut self.engine, &mut self.trunk);
        let mut writing = self.live.iter().filter(|live| live.fed == live.prompt.len()).count();
        let mut ahead_left = LOGITS_AHEAD_MAX / engine.model().vocabulary().max(1);
        for live in &mut self.live {
            live.row = None;
            live.ahead.clear();
            if live.fed < live.prompt.len() {
                continue;
            }
            writing -= 1;
            live.row = Some(live.feed(engine, ahead_left.min(engine.room() - writing - 1))?);
            ahead_left -= live.ahead.len();
            totals.decode_tokens.fetch_add(1, Relaxed);
        }
        let mut prefilled = 0;
        while trunk.done < trunk.tokens.len() && engine.room() > 0 {
            let (token, position) = (trunk.tokens[trunk.done], trunk.done as i32);
            engine.add(Fed { token, position, sequence: TRUNK, output: Output::Nothing })?;
            trunk.done += 1;
            trunk.uncharged += 1;
            prefilled += 1;
        }
        for live in &mut self.live {
            // The prompt's last token begins the answer, and goes in with what that is likely to be.
            while live.fed + 1 < live.prompt.len() && engine.room() > 0 {
                let (token, position) = (live.prompt[live.fed], live.fed as i32);
                engine.add(Fed { token, position, sequence: live.sequence, output: Output::Nothing })?;
                live.fed += 1;
                prefilled += 1;
            }
            if live.fed + 1 == live.prompt.len() && engine.room() > 0 {
                live.row = Some(live.feed(engine, ahead_left.min(engine.room() - 1))?);
                ahead_left -= live.ahead.len();
                live.fed += 1;
                prefilled += 1;
            }
        }
        totals.prefill_tokens.fetch_add(prefilled, Relaxed);
        Ok(())
    }

    fn end(&mut self, number: usize, desk: &Desk) -> Live {
        let live = self.live.remove(number);
        self.engine.forget(live.sequence, 0);
        self.free.push(live.sequence);
        for held in &mut self.held {
            held.users.retain(|id| *id != live.call.id);
        }
        self.held.retain(|held| !held.users.is_empty());
        desk.totals.live.fetch_sub(1, Relaxed);
        live
    }
}

impl Live {
    /// Adds the last token to the batch, and of what the answer is likely to go on with at most so many; the row of the first.
    fn feed(&mut self, engine: &mut Engine, ahead_max: usize) -> Result<i32, String> {
        let answer_tokens_left = (self.call.max_tokens - self.answer_tokens) as usize;
        self.ahead.extend_from_slice(self.draft.ahead(&self.said, ahead_max.min(answer_tokens_left - 1)));
        let first = self.said.len() - 1;
        let mut row = None;
        for (token, position) in self.said[first..].iter().chain(&self.ahead).zip(first as i32..) {
            let fed = Fed { token: *token, position, sequence: self.sequence, output: Output::Logits };
            row = row.or(Some(engine.add(fed)?));
        }
        row.ok_or_else(|| "a call without a prompt".to_owned())
    }

    /// Takes the next tokens of the answer from the batch; says how it ended, if it did.
    fn go_on(&mut self, engine: &mut Engine, totals: &Totals) -> Result<Option<Finish>, String> {
        let Some(row) = self.row else { return Ok(None) };
        if self.answer_tokens == 0 {
            self.consumed = engine.consumed(self.sequence).saturating_sub(self.ahead.len());
        }
        for (row, ahead) in (row..).zip(0..=self.ahead.len()) {
            let token = self.choose(engine.logits(row)?)?;
            if let Some(finish) = self.take(engine, row, token)? {
                return Ok(Some(finish));
            }
            if self.ahead.get(ahead) != Some(&token) {
                break;
            }
            totals.decode_tokens.fetch_add(1, Relaxed);
        }
        // The last token that was said is read in the next batch, and what was ahead in its place is taken back.
        if !self.ahead.is_empty() && !engine.forget(self.sequence, self.said.len() - 1) {
            return Err("the engine cannot take back what it has read".to_owned());
        }
        Ok(None)
    }

    /// Goes on by a token, chosen by a row's logits.
    fn take(&mut self, engine: &Engine, row: i32, token: Token) -> Result<Option<Finish>, String> {
        if engine.model().ends(token) {
            return Ok(Some(Finish::Stop));
        }
        if let Some(alternatives) = self.call.logprobs {
            self.logprobs.push(logprob(engine, engine.logits(row)?, token, alternatives as usize));
        }
        self.said.push(token);
        self.draft.go_on(token);
        self.answer_tokens += 1;
        let before = self.text.len();
        self.text.extend_from_slice(&engine.model().piece(token, Marks::Hidden));
        if let Some(form) = &mut self.form {
            form.accept(token)?;
        }
        if let Some(at) = stopped(&self.text, before, &self.call.stop) {
            self.text.truncate(at);
            return Ok(Some(Finish::Stop));
        }
        if self.form.as_ref().is_some_and(Form::is_complete) {
            return Ok(Some(Finish::Stop));
        }
        Ok((self.answer_tokens == self.call.max_tokens).then_some(Finish::Length))
    }

    fn choose(&mut self, logits: &[f32]) -> Result<Token, String> {
        let token = match &mut self.form {
            None => self.sampler.choose(logits, &self.said),
            Some(form) => {
                let first = likeliest(logits);
                if self.sampler.is_greedy() && form.allows(first)? {
                    first
                } else {
                    let mut allowed = logits.to_vec();
                    form.forbid(&mut allowed)?;
                    if !allowed.iter().any(|logit| logit.is_finite()) {
                        return Err("the grammar allows no token here".to_owned());
                    }
                    self.sampler.choose(&allowed, &self.said)
                }
            }
        };
        match logits.get(token.0.unsigned_abs() as usize) {
            Some(logit) if logit.is_finite() => Ok(token),
            _ => Err("the model's logits are no numbers".to_owned()),
        }
    }

    fn answer(self, finish: Finish) -> frames::Answer {
        frames::Answer {
            id: self.call.id,
            text: String::from_utf8_lossy(&self.text).into_owned(),
            finish,
            prompt_tokens: self.prompt.len() as u32,
            reused_tokens: self.reused as u32,
            consumed_tokens: self.consumed as u32,
            answer_tokens: self.answer_tokens,
            ms: self.start.elapsed().as_millis() as u64,
            logprobs: self.logprobs,
        }
    }
}

fn logprob(engine: &Engine, logits: &[f32], token: Token, alternatives: usize) -> TokenLogprob {
    let normaliser = log_sum_exp(logits);
    let text =
        |id: i32| String::from_utf8_lossy(&engine.model().piece(Token(id), Marks::Hidden)).into_owned();
    let logit = logits.get(token.0.unsigned_abs() as usize).copied().unwrap_or(f32::NEG_INFINITY);
    TokenLogprob {
        token: text(token.0),
        logprob: (f64::from(logit) - normaliser) as f32,
        top: top(logits, normaliser, alternatives).into_iter().map(|(id, ln)| (text(id), ln)).collect(),
    }
}

/// Sequences besides the trunk; one at least.
fn sequences_of_calls(engine: &Engine) -> i32 {
    (engine.n_seq_max.cast_signed() - 1).max(1)
}

/// Cells that a call may need beside the trunk's. A model with a state begins with a copy of it, in which there may be
/// cells: of what is copied nothing is shared.
fn cells_for(recurrent: bool, prompt_tokens: usize, shared: usize, call: &frames::Call) -> usize {
    let own = if recurrent { prompt_tokens } else { prompt_tokens - shared };
    own + call.max_tokens as usize
}

/// Tokens that two lists begin with.
pub(crate) fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Where the first stop text begins that the bytes from `new` on complete.
fn stopped(text: &[u8], new: usize, stops: &[String]) -> Option<usize> {
    let found = stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| {
        let stop = stop.as_bytes();
        let from = new.saturating_sub(stop.len() - 1);
        text[from..].windows(stop.len()).position(|window| window == stop).map(|at| from + at)
    });
    found.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_text_is_found_across_tokens() {
        let stops = ["\n\n".to_owned(), "END".to_owned(), String::new()];
        assert_eq!(stopped(b"one\n\ntwo", 3, &stops), Some(3));
        assert_eq!(stopped(b"one EN", 4, &stops), None);
        assert_eq!(stopped(b"one END", 6, &stops), Some(4), "begun by the token before");
        assert_eq!(stopped(b"END", 0, &["D".to_owned(), "EN".to_owned()]), Some(0));
        assert_eq!(stopped(b"", 0, &stops), None);
    }
}
