//! Calls answered together, by one lane or by several.
//!
//! The [`Desk`] has the calls that nobody has begun; each [`Lane`] takes groups from it, or joins another one's. In a lane,
//! sequence 0 is the trunk: the tokens that the calls of its present group begin with, computed once. Each call gets a
//! sequence of its own that begins with the trunk's cells ([`Engine::share`]), or with a copy of its state where a model
//! keeps more than cells ([`Engine::snapshot`]), reads the rest of its prompt, and writes.
//! Every step is one batch of everything that can go on: for each call that writes, its last token and what the answer is
//! likely to go on with ([`crate::draft::Draft`]), then what is left of the trunk, then prompts. A call begins when the cells that it may
//! need at most are free, so none ever runs out of them, and on a processor when those of others are not many more than its
//! own ([`Engine::cells_of_others_max`]).
//! A trunk that was computed is kept as a copy ([`crate::beginnings`]), for a group that begins alike much later, in any lane.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use haul_frames::{self as frames, Event};

use crate::desk::{Desk, Group, Totals, cells_for, common};
use crate::draft::Draft;
use crate::engine::{Engine, Fed, Output};
use crate::live::Live;
use crate::llama::{State, Token};
use crate::sample::Sampler;

const TRUNK: i32 = 0;

/// Logits behind the tokens ahead of all answers in one batch, beside those that answers need anyway: 64 MiB.
const LOGITS_AHEAD_MAX: usize = 16 << 20;

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
        if let Some(group) = self.group.take() {
            if is_of_the_trunk {
                // It is the trunk that fails, and with it every call of its group.
                let calls = std::mem::take(&mut *group.calls());
                for (call, _) in calls {
                    desk.close_call(Event::Refused { id: Some(call.id), why: why.to_owned() }, say);
                }
            } else {
                // Nobody else may take it: what has too few calls left to be worth joining is offered to nobody.
                desk.hand_back(group);
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
            desk.keep_beginning(self.trunk.tokens.clone(), state);
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

/// Sequences besides the trunk; one at least.
fn sequences_of_calls(engine: &Engine) -> i32 {
    (engine.n_seq_max.cast_signed() - 1).max(1)
}
