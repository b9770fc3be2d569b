//! Calls answered together.
//!
//! Sequence 0 is the trunk: the tokens that the calls of the present group begin with, computed once. Each call gets a
//! sequence of its own that begins with the trunk's cells ([`Engine::share`]), or with a copy of its state where a model
//! keeps more than cells ([`Engine::snapshot`]), reads the rest of its prompt, and writes.
//! Every step is one batch of everything that can go on: a token for each call that writes, then what is left of the
//! trunk, then prompts. A call begins when the cells that it may need at most are free, so none ever runs out of them,
//! and on a processor when those of others are not many more than its own ([`Engine::cells_of_others_max`]).
//! A trunk that was computed is kept as a copy ([`Beginnings`]), for a group that begins alike much later.

use std::collections::VecDeque;
use std::time::Instant;

use haul_frames::{self as frames, Event, Finish, GROUP_CALLS_MAX, TokenLogprob};

use crate::beginnings::Beginnings;
use crate::constrain::{Form, Grammars};
use crate::engine::{Engine, Fed, Output};
use crate::llama::{Marks, State, Token};
use crate::sample::{Sampler, likeliest, log_sum_exp, top};

const TRUNK: i32 = 0;

/// All calls that are not answered yet.
pub(crate) struct Desk {
    groups: VecDeque<Group>,
    trunk: Trunk,
    live: Vec<Live>,
    /// Sequences that nobody uses.
    free: Vec<i32>,
    /// Cells that the trunk gave up and that calls still read.
    held: Vec<Held>,
    /// Trunks of groups before, for groups to come.
    beginnings: Beginnings,
    grammars: Option<Grammars>,
    pub(crate) totals: Totals,
}

/// Sums since the start of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) prefill_tokens: u64,
    pub(crate) decode_tokens: u64,
    pub(crate) reused_tokens: u64,
}

/// Calls that begin alike, the next one first.
struct Group {
    shared: Vec<Token>,
    calls: VecDeque<(frames::Call, Vec<Token>)>,
    /// Whether the trunk is this group's.
    is_planted: bool,
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
    answer_tokens: u32,
    text: Vec<u8>,
    sampler: Sampler,
    form: Option<Form>,
    logprobs: Vec<TokenLogprob>,
    start: Instant,
    /// Row of its logits in the present batch.
    row: Option<i32>,
}

impl Desk {
    pub(crate) fn new(engine: &Engine) -> Self {
        Self {
            groups: VecDeque::new(),
            trunk: Trunk::default(),
            live: Vec::new(),
            free: (1..=sequences_of_calls(engine)).rev().collect(),
            held: Vec::new(),
            beginnings: Beginnings::new(engine.n_ctx()),
            grammars: None,
            totals: Totals::default(),
        }
    }

    /// Whether any call waits for its answer.
    pub(crate) fn is_busy(&self) -> bool {
        !self.live.is_empty() || !self.groups.is_empty()
    }

    pub(crate) fn live(&self) -> u32 {
        self.live.len() as u32
    }

    /// Forgets what is in the cache; for work that needs it all.
    pub(crate) fn uproot(&mut self, engine: &mut Engine) {
        engine.clear();
        self.trunk = Trunk::default();
    }

    /// Takes a group; calls that can never be answered are refused at once.
    pub(crate) fn add(&mut self, engine: &Engine, group: frames::Group, say: &mut impl FnMut(Event)) {
        let mut calls = VecDeque::new();
        let cells = if engine.unified { engine.n_ctx() } else { engine.n_ctx() / engine.n_seq_max };
        // Beyond what it was trained on a model answers all the same, and answers nonsense.
        let at_most = cells.min(engine.model().context_train().max(1));
        for (number, call) in group.calls.into_iter().enumerate() {
            let prompt = match engine.model().tokenize(&format!("{}{}", group.prefix, call.suffix)) {
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
            } else if tokens > u64::from(at_most) {
                format!("{tokens} tokens of prompt and answer in a context of {at_most}")
            } else {
                calls.push_back((call, prompt));
                continue;
            };
            say(Event::Refused { id: Some(call.id), why });
        }
        if !calls.is_empty() {
            let shared = self.shared_by(engine, &calls, &group.prefix);
            self.groups.push_back(Group { shared, calls, is_planted: false });
        }
    }

    /// The tokens that are worth computing once for these calls. At least one token of each prompt is left to it: its
    /// logits begin the answer.
    fn shared_by(
        &self,
        engine: &Engine,
        calls: &VecDeque<(frames::Call, Vec<Token>)>,
        prefix: &str,
    ) -> Vec<Token> {
        let Some((_, first)) = calls.front() else { return vec![] };
        if !engine.unified {
            return vec![];
        }
        let mut shared = first.len();
        if calls.len() == 1 {
            // It may still begin as the trunk does.
            let prefix = engine.model().tokenize(prefix).unwrap_or_else(|_| vec![]);
            shared = common(first, &prefix).max(common(first, &self.trunk.tokens));
        }
        for (_, prompt) in calls {
            shared = shared.min(common(first, prompt)).min(prompt.len() - 1);
        }
        // A copy needs room beside what it is a copy of.
        let fits = |(call, prompt): &(frames::Call, Vec<Token>)| {
            shared + cells_for(engine, prompt.len(), shared, call) <= engine.n_ctx() as usize
        };
        if calls.iter().all(fits) { first[..shared].to_vec() } else { vec![] }
    }

    /// One batch. Finished calls are handed to `say`.
    pub(crate) fn step(&mut self, engine: &mut Engine, say: &mut impl FnMut(Event)) {
        if let Err(why) = self.begin_calls(engine, say).and_then(|()| self.fill(engine)) {
            return self.give_up(engine, &why, say);
        }
        if let Err(error) = engine.decode() {
            return self.give_up(engine, &error, say);
        }
        let mut next = 0;
        while next < self.live.len() {
            match self.go_on(engine, next) {
                Ok(None) => next += 1,
                Ok(Some(finish)) => {
                    let live = self.end(engine, next);
                    say(Event::Answer(live.answer(finish)));
                }
                Err(why) => {
                    let live = self.end(engine, next);
                    say(Event::Refused { id: Some(live.call.id), why });
                }
            }
        }
    }

    /// What cannot go on takes all calls in the cache with it; those that have not begun stay.
    fn give_up(&mut self, engine: &mut Engine, why: &str, say: &mut impl FnMut(Event)) {
        while !self.live.is_empty() {
            let live = self.end(engine, 0);
            say(Event::Refused { id: Some(live.call.id), why: why.to_owned() });
        }
        // Without any live call it is the trunk that fails, and with it every call of its group.
        if let Some(group) = self.groups.pop_front() {
            for (call, _) in group.calls {
                say(Event::Refused { id: Some(call.id), why: why.to_owned() });
            }
        }
        self.uproot(engine);
        self.beginnings.forget();
    }

    /// Gives sequences to calls as long as there are sequences and cells.
    fn begin_calls(&mut self, engine: &mut Engine, say: &mut impl FnMut(Event)) -> Result<(), String> {
        loop {
            let Some(group) = self.groups.front_mut() else { return Ok(()) };
            if !group.is_planted {
                let shared = group.shared.clone();
                if !self.live.is_empty() && self.cells_planted(engine, &shared) > engine.n_ctx() as usize {
                    return Ok(());
                }
                self.plant(engine, &shared);
            }
            let Some(group) = self.groups.front_mut() else { return Ok(()) };
            group.is_planted = true;
            let shared = group.shared.len();
            if self.trunk.done < self.trunk.tokens.len() || self.live.len() >= engine.n_batch() {
                return Ok(());
            }
            self.keep_trunk(engine)?;
            let Some(group) = self.groups.front() else { return Ok(()) };
            let Some((call, prompt)) = group.calls.front() else {
                self.groups.pop_front();
                continue;
            };
            let reserved = cells_for(engine, prompt.len(), shared, call);
            let is_crowded =
                !self.live.is_empty() && self.cells_of_others() > engine.cells_of_others_max(prompt.len());
            if self.free.is_empty() || is_crowded {
                return Ok(());
            }
            if self.cells_used() + reserved > engine.n_ctx() as usize {
                if !self.live.is_empty() {
                    return Ok(());
                }
                // What is left of an older trunk stands in the way.
                self.cut(engine, shared);
            }
            let Some((call, prompt)) = self.groups.front_mut().and_then(|group| group.calls.pop_front())
            else {
                return Ok(());
            };
            self.begin(engine, call, prompt, shared, say)?;
        }
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

    /// Cells that are used when the trunk begins with `shared`: calls that read what it gives up keep that.
    fn cells_planted(&self, engine: &Engine, shared: &[Token]) -> usize {
        let (tokens, common) = (self.trunk.tokens.len(), common(&self.trunk.tokens, shared));
        let (trunk, given_up) = match common == shared.len() && self.keeps(engine, common) {
            true => (tokens, 0),
            false if engine.recurrent => (shared.len(), 0),
            false => (shared.len(), self.trunk.done.saturating_sub(common)),
        };
        self.cells_used() - tokens + trunk + given_up
    }

    /// Whether the trunk's first `common` tokens can stay where the next ones are others: a state goes back to nothing.
    fn keeps(&self, engine: &Engine, common: usize) -> bool {
        !engine.recurrent || common == self.trunk.tokens.len()
    }

    /// Makes the trunk begin with `shared`. A longer trunk that begins with it stays, for groups to come.
    fn plant(&mut self, engine: &mut Engine, shared: &[Token]) {
        let common = common(&self.trunk.tokens, shared);
        let keeps = self.keeps(engine, common);
        if common == shared.len() && keeps {
            return;
        }
        self.cut(engine, if keeps { common } else { 0 });
        if !engine.recurrent {
            self.put_back(engine, shared);
        }
        self.trunk.tokens = shared.to_vec();
        self.trunk.snapshot = None;
    }

    /// Puts a copy in the trunk's place that has more of `shared` than what is left of it.
    fn put_back(&mut self, engine: &mut Engine, shared: &[Token]) {
        let Some((common, state)) = self.beginnings.longer(shared, self.trunk.tokens.len()) else { return };
        self.cut(engine, 0);
        // Where the engine finds no room for the copy, the beginning is computed again, and the log says so.
        let restored = engine.restore(&state, TRUNK);
        if let Err(why) = &restored {
            crate::to_stderr(&format!("a beginning of {common} tokens is computed again: {why}"));
        }
        let is_back = restored.is_ok() && engine.consumed(TRUNK) >= common;
        let done = if is_back && engine.forget(TRUNK, common) { common } else { 0 };
        if done == 0 {
            engine.forget(TRUNK, 0);
        }
        self.trunk.done = done;
        self.trunk.uncharged = 0;
    }

    /// Copies a trunk that was just computed.
    fn keep_trunk(&mut self, engine: &mut Engine) -> Result<(), String> {
        if !engine.recurrent && self.beginnings.wants(&self.trunk.tokens) {
            let state = engine.snapshot(TRUNK)?;
            self.beginnings.keep(self.trunk.tokens.clone(), state);
        }
        Ok(())
    }

    /// Shortens the trunk. Calls that began with it go on with its cells.
    fn cut(&mut self, engine: &mut Engine, tokens: usize) {
        if tokens >= self.trunk.tokens.len() {
            return;
        }
        let left = if tokens > 0 && engine.forget(TRUNK, tokens) {
            tokens
        } else {
            engine.forget(TRUNK, 0);
            0
        };
        // Calls that began with a copy read nothing of it any more.
        if !self.live.is_empty() && !engine.recurrent {
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
        engine: &mut Engine,
        call: frames::Call,
        prompt: Vec<Token>,
        shared: usize,
        say: &mut impl FnMut(Event),
    ) -> Result<(), String> {
        let form = match self.form_of(engine, &call) {
            Ok(form) => form,
            Err(why) => {
                say(Event::Refused { id: Some(call.id), why });
                return Ok(());
            }
        };
        let Some(sequence) = self.free.pop() else { return Err("no sequence is free".to_owned()) };
        if shared > 0 && engine.recurrent {
            let state = match self.trunk.snapshot.take() {
                Some(state) => state,
                None => engine.snapshot(TRUNK)?,
            };
            engine.restore(&state, sequence)?;
            self.trunk.snapshot = Some(state);
        } else if shared > 0 {
            engine.share(TRUNK, sequence, shared)?;
        }
        let reused = shared - std::mem::take(&mut self.trunk.uncharged).min(shared);
        self.totals.reused_tokens += reused as u64;
        self.live.push(Live {
            sequence,
            fed: shared,
            began_at: shared,
            reused,
            consumed: 0,
            reserved: cells_for(engine, prompt.len(), shared, &call),
            said: prompt.clone(),
            answer_tokens: 0,
            text: Vec::new(),
            sampler: Sampler::new(call.sampling.clone()),
            form,
            logprobs: Vec::new(),
            start: Instant::now(),
            row: None,
            prompt,
            call,
        });
        Ok(())
    }

    fn form_of(&mut self, engine: &Engine, call: &frames::Call) -> Result<Option<Form>, String> {
        let Some(constraint) = &call.constraint else { return Ok(None) };
        let mut grammars = match self.grammars.take() {
            Some(grammars) => grammars,
            None => Grammars::new(engine.model())?,
        };
        let form = grammars.of(constraint);
        self.grammars = Some(grammars);
        form.map(Some)
    }

    /// Fills a batch: tokens of answers first, so that no long prompt holds them up.
    fn fill(&mut self, engine: &mut Engine) -> Result<(), String> {
        for live in &mut self.live {
            live.row = None;
            if live.fed == live.prompt.len()
                && let Some(token) = live.said.last()
            {
                let position = live.said.len() as i32 - 1;
                live.row = Some(engine.add(Fed {
                    token: *token,
                    position,
                    sequence: live.sequence,
                    output: Output::Logits,
                })?);
                self.totals.decode_tokens += 1;
            }
        }
        let trunk = &mut self.trunk;
        while trunk.done < trunk.tokens.len() && engine.room() > 0 {
            let (token, position) = (trunk.tokens[trunk.done], trunk.done as i32);
            engine.add(Fed { token, position, sequence: TRUNK, output: Output::Nothing })?;
            trunk.done += 1;
            trunk.uncharged += 1;
            self.totals.prefill_tokens += 1;
        }
        for live in &mut self.live {
            while live.fed < live.prompt.len() && engine.room() > 0 {
                let is_last = live.fed + 1 == live.prompt.len();
                let output = if is_last { Output::Logits } else { Output::Nothing };
                let (token, position) = (live.prompt[live.fed], live.fed as i32);
                let row = engine.add(Fed { token, position, sequence: live.sequence, output })?;
                live.row = is_last.then_some(row);
                live.fed += 1;
                self.totals.prefill_tokens += 1;
            }
        }
        Ok(())
    }

    /// Takes the next token of a call from the batch; says how the answer ended, if it did.
    fn go_on(&mut self, engine: &Engine, number: usize) -> Result<Option<Finish>, String> {
        let live = &mut self.live[number];
        let Some(row) = live.row else { return Ok(None) };
        let logits = engine.logits(row)?;
        if live.answer_tokens == 0 {
            live.consumed = engine.consumed(live.sequence);
        }
        let token = live.choose(logits)?;
        if engine.model().ends(token) {
            return Ok(Some(Finish::Stop));
        }
        let piece = engine.model().piece(token, Marks::Hidden);
        if let Some(alternatives) = live.call.logprobs {
            live.logprobs.push(logprob(engine, logits, token, alternatives as usize));
        }
        live.said.push(token);
        live.answer_tokens += 1;
        let before = live.text.len();
        live.text.extend_from_slice(&piece);
        if let Some(form) = &mut live.form {
            form.accept(token)?;
        }
        if let Some(at) = stopped(&live.text, before, &live.call.stop) {
            live.text.truncate(at);
            return Ok(Some(Finish::Stop));
        }
        if live.form.as_ref().is_some_and(Form::is_complete) {
            return Ok(Some(Finish::Stop));
        }
        Ok((live.answer_tokens == live.call.max_tokens).then_some(Finish::Length))
    }

    fn end(&mut self, engine: &mut Engine, number: usize) -> Live {
        let live = self.live.remove(number);
        engine.forget(live.sequence, 0);
        self.free.push(live.sequence);
        for held in &mut self.held {
            held.users.retain(|id| *id != live.call.id);
        }
        self.held.retain(|held| !held.users.is_empty());
        live
    }
}

impl Live {
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
fn cells_for(engine: &Engine, prompt_tokens: usize, shared: usize, call: &frames::Call) -> usize {
    let own = if engine.recurrent { prompt_tokens } else { prompt_tokens - shared };
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
