//! A GGUF file on this machine, by the worker `haul-llama`.
//!
//! A worker that dies or hangs is started again once in a run, and the calls that it had not answered are asked again; a
//! second death ends the run.

use std::collections::{HashMap, VecDeque};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use haul_frames::{self as frames, Event, Group, Request};
pub use haul_frames::{
    Attention, Buffer, Device, DeviceKind, DeviceMemory, FlashAttention, Hello, Load, Loaded, Probe, Probed,
    Quantize, Score, Scored,
};
use haul_machine::verdict::DeviceRequest;

use crate::call::{Answer, Call, CallError, Finish, Prompt, Totals, WORDS_CHARS_MAX, shortened};
use crate::marks::Marks;
use crate::schedule::{Batch, batches};
use crate::schema::Schema;
use crate::template::Template;
pub use crate::worker::{Patience, WorkerError};
use crate::worker::{Worker, out_of_turn};
use crate::{Answered, GenerateError, ModelFacts, devices};

/// Calls that were sent and not answered: enough that the engine always has the next ones at hand.
const IN_FLIGHT_MAX: usize = 4 * frames::GROUP_CALLS_MAX;
/// Times that a run starts a dead worker again.
const RESTARTS_MAX: u32 = 1;

/// What opens a local model.
#[derive(Clone, Debug)]
pub struct LocalSettings {
    /// The executable `haul-llama`.
    pub worker: PathBuf,
    /// Folders with backends, besides the worker's own.
    pub backends: Vec<PathBuf>,
    /// Where the layers go; decided before anything is loaded.
    pub device: DeviceRequest,
    /// The model and one context for it. Its devices are filled in from `device`.
    pub load: Load,
    /// Into how many contexts a processor divides that one; 1 is right for everything but very small models.
    pub lanes: u32,
    /// A chat template in place of the file's own.
    pub template: Option<String>,
    /// Hash of the file, for journals.
    pub identity: String,
    /// How receipts name it.
    pub name: String,
    /// How long the worker may take.
    pub patience: Patience,
}

/// A loaded model.
pub struct Local {
    settings: LocalSettings,
    worker: Worker,
    loaded: Loaded,
    template: Result<Template, String>,
    marks: Marks,
    next_id: u64,
    restarts: u32,
    /// Whether the worker was ended with calls that nobody waits for; who asks next needs another one.
    is_ended: bool,
    stop: Arc<AtomicBool>,
}

impl Local {
    /// Starts a worker and loads the model.
    ///
    /// # Errors
    /// No worker, no such device, a model that the engine refuses, a template that is none.
    pub fn open(settings: LocalSettings) -> Result<Self, GenerateError> {
        Self::open_until(Arc::default(), settings)
    }

    /// The same, and neither this nor anything that is asked later waits on once `stop` is set.
    ///
    /// # Errors
    /// As for [`Local::open`], and where it is set.
    pub fn open_until(stop: Arc<AtomicBool>, mut settings: LocalSettings) -> Result<Self, GenerateError> {
        let mut worker = Worker::start(&settings.worker, &settings.backends, settings.patience, &stop)?;
        settings.load.devices = devices::select(settings.device, worker.hello())?;
        if settings.load.devices.is_empty() {
            settings.load = divided(settings.load, settings.lanes);
        }
        let loaded = load(&mut worker, &settings.load)?;
        // A model without a usable template still completes texts; it is a chat that needs one.
        let template = match (&settings.template, &loaded.chat_template) {
            (Some(given), _) => Ok(Template::new(given, &loaded.bos, &loaded.eos)?),
            (None, Some(text)) => {
                Template::new(text, &loaded.bos, &loaded.eos).map_err(|error| error.to_string())
            }
            (None, None) => Err("the file has no chat template".to_owned()),
        };
        let marks = Marks::new(&loaded.marks)?;
        Ok(Self { settings, worker, loaded, template, marks, next_id: 0, restarts: 0, is_ended: false, stop })
    }

    /// What the engine said of itself.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        self.worker.hello()
    }

    /// What was asked to be loaded, devices included.
    #[must_use]
    pub fn load(&self) -> &Load {
        &self.settings.load
    }

    /// What was loaded, and where.
    #[must_use]
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Times that the worker died and was started again.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// What the model is.
    #[must_use]
    pub fn facts(&self) -> ModelFacts {
        ModelFacts {
            name: self.settings.name.clone(),
            context_tokens: Some(self.call_tokens_max()),
            identity: self.settings.identity.clone(),
        }
    }

    /// Tokens of each text, by the model's own tokenizer.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn count_tokens(&mut self, texts: &[&str]) -> Result<Vec<u32>, GenerateError> {
        let ids = self.tokenize(texts)?;
        Ok(ids.iter().map(|ids| u32::try_from(ids.len()).unwrap_or(u32::MAX)).collect())
    }

    /// Token ids of each text, in which a mark of the model is spelled like other words.
    ///
    /// # Errors
    /// The worker is gone.
    pub fn tokenize(&mut self, texts: &[&str]) -> Result<Vec<Vec<i32>>, GenerateError> {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        match self.ask(Request::Tokenize { texts, marks: frames::Marks::Spelled })? {
            Event::Tokens { ids } => Ok(ids),
            other => Err(out_of_turn(&other, "token ids").into()),
        }
    }

    /// Log-probabilities of a text.
    ///
    /// # Errors
    /// The worker is gone, or refuses.
    pub fn score(&mut self, score: Score) -> Result<Scored, GenerateError> {
        match self.ask(Request::Score(score))? {
            Event::Scored(scored) => Ok(scored),
            other => Err(out_of_turn(&other, "a score").into()),
        }
    }

    /// Speed of prefill and decode.
    ///
    /// # Errors
    /// The worker is gone, or refuses.
    pub fn probe(&mut self, probe: Probe) -> Result<Probed, GenerateError> {
        match self.ask(Request::Probe(probe))? {
            Event::Probed(probed) => Ok(probed),
            other => Err(out_of_turn(&other, "a probe").into()),
        }
    }

    fn ask(&mut self, request: Request) -> Result<Event, GenerateError> {
        self.revive()?;
        self.worker.ask(request);
        Ok(self.worker.wait()?)
    }

    /// Tokens that prompt and answer of one call may have.
    fn call_tokens_max(&self) -> u32 {
        let sequences = if self.settings.load.kv_unified { 1 } else { self.settings.load.n_seq_max.max(1) };
        (self.loaded.n_ctx / sequences).min(self.loaded.n_ctx_train.max(1))
    }

    /// Answers calls; see [`crate::Generator::run`].
    pub(crate) fn run(
        &mut self,
        calls: &[Call],
        answered: &mut Answered<'_>,
    ) -> Result<Totals, GenerateError> {
        let mut run =
            Run { calls, answered, prompts: vec![], sent: HashMap::new(), totals: Totals::default() };
        let mut waiting = VecDeque::new();
        for (number, call) in calls.iter().enumerate() {
            match self.written(&call.prompt) {
                Ok(prompt) => waiting.push_back((number, prompt)),
                Err(why) => {
                    if run.finish(number, Err(CallError::Refused { why })).is_break() {
                        return Ok(run.totals);
                    }
                }
            }
        }
        run.prompts = vec![Written::default(); calls.len()];
        let numbers: Vec<usize> = waiting.iter().map(|(number, _)| *number).collect();
        for (number, prompt) in waiting {
            run.prompts[number] = prompt;
        }
        self.answer(run, &numbers)
    }

    /// A prompt as the model reads it.
    fn written(&self, prompt: &Prompt) -> Result<Written, String> {
        match prompt {
            Prompt::Text { prefix, suffix, content } => {
                let at = prefix.len() + content.start;
                let spelled = self.marks.in_text(&suffix[content.clone()]);
                let spelled = spelled.into_iter().map(|range| at + range.start..at + range.end).collect();
                Ok(Written { prefix: prefix.clone(), suffix: suffix.clone(), spelled })
            }
            Prompt::Chat { messages, shared_bytes } => {
                let template = self.template.as_ref().map_err(Clone::clone)?;
                let hidden = self.marks.hide(messages);
                let text = template.render(&hidden.messages).map_err(|error| error.to_string())?;
                let (text, spelled) = hidden.reveal(&text);
                let (prefix, suffix) = crate::template::split(&text, messages, *shared_bytes);
                Ok(Written { prefix: prefix.to_owned(), suffix: suffix.to_owned(), spelled })
            }
        }
    }

    fn answer(&mut self, mut run: Run<'_, '_>, numbers: &[usize]) -> Result<Totals, GenerateError> {
        match self.answer_all(&mut run, numbers) {
            Ok(ControlFlow::Continue(())) => Ok(run.totals),
            Ok(ControlFlow::Break(())) => {
                // What is still being answered is nobody's any more.
                self.end();
                Ok(run.totals)
            }
            Err(error) if error.is_stop() => {
                self.end();
                Ok(run.totals)
            }
            Err(error) => Err(error),
        }
    }

    fn answer_all(
        &mut self,
        run: &mut Run<'_, '_>,
        numbers: &[usize],
    ) -> Result<ControlFlow<()>, GenerateError> {
        self.revive()?;
        let mut restarts = 0;
        let prompts = run.prompts.clone();
        let prefixes = |numbers: &[usize]| -> Vec<Batch<'_>> {
            batches(
                numbers.iter().map(|number| (*number, prompts[*number].prefix.as_str())),
                frames::GROUP_CALLS_MAX,
            )
        };
        let mut batches: VecDeque<Batch<'_>> = prefixes(numbers).into();
        loop {
            while run.sent.len() < IN_FLIGHT_MAX
                && let Some(batch) = batches.pop_front()
            {
                let group = run.group(&batch, &mut self.next_id);
                self.worker.ask(Request::Group(group));
            }
            if run.sent.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            match self.worker.wait() {
                Ok(event) => {
                    if run.take(event)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(error) if error.is_of_the_process() && restarts < RESTARTS_MAX => {
                    tracing::warn!("{error}; starting it again for {} calls", run.sent.len());
                    restarts += 1;
                    self.restarts += 1;
                    self.restart()?;
                    let again = run.unanswered();
                    run.totals.retries += again.len() as u64;
                    for batch in prefixes(&again).into_iter().rev() {
                        batches.push_front(batch);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn end(&mut self) {
        self.worker.kill();
        self.is_ended = true;
    }

    /// A worker that was ended is started again by who needs it: a model is not loaded for a run that is over.
    fn revive(&mut self) -> Result<(), GenerateError> {
        if self.is_ended { self.restart() } else { Ok(()) }
    }

    fn restart(&mut self) -> Result<(), GenerateError> {
        let LocalSettings { worker, backends, patience, .. } = &self.settings;
        self.worker = Worker::start(worker, backends, *patience, &self.stop)?;
        self.loaded = load(&mut self.worker, &self.settings.load)?;
        self.is_ended = false;
        Ok(())
    }
}

/// Writes a GGUF file in another quantisation, by a worker of its own; gives the new file's size.
///
/// # Errors
/// No worker, or the engine refuses: an unknown kind, a file that is quantised already, a full disk.
pub fn quantize(worker: &Path, backends: &[PathBuf], asked: Quantize) -> Result<u64, GenerateError> {
    let mut worker = Worker::start(worker, backends, Patience::default(), &Arc::default())?;
    worker.ask(Request::Quantize(asked));
    match worker.wait()? {
        Event::Quantized { bytes } => Ok(bytes),
        other => Err(out_of_turn(&other, "a quantised file").into()),
    }
}

/// A load whose cells, sequences and threads are dealt out to contexts side by side.
fn divided(load: Load, lanes: u32) -> Load {
    // No thread is left over.
    let lanes = (1..=lanes.clamp(1, load.threads.max(1)))
        .rev()
        .find(|lanes| load.threads.is_multiple_of(*lanes))
        .unwrap_or(1);
    Load {
        lanes,
        n_ctx: load.n_ctx.div_ceil(lanes),
        // Each has a beginning of its own.
        n_seq_max: (load.n_seq_max.saturating_sub(1)).div_ceil(lanes) + 1,
        threads: load.threads / lanes,
        ..load
    }
}

fn load(worker: &mut Worker, load: &Load) -> Result<Loaded, GenerateError> {
    worker.ask(Request::Load(load.clone()));
    match worker.wait()? {
        Event::Loaded(loaded) => Ok(*loaded),
        other => Err(out_of_turn(&other, "a loaded model").into()),
    }
}

/// A prompt as the model reads it.
#[derive(Clone, Default)]
struct Written {
    /// What other calls share.
    prefix: String,
    suffix: String,
    /// Where in both together a mark is spelled and not meant.
    spelled: Vec<Range<usize>>,
}

/// Calls on their way.
struct Run<'a, 'b> {
    calls: &'a [Call],
    answered: &'a mut Answered<'b>,
    prompts: Vec<Written>,
    /// Numbers of calls by the ids under which they were sent.
    sent: HashMap<u64, usize>,
    totals: Totals,
}

impl Run<'_, '_> {
    fn group(&mut self, batch: &Batch<'_>, next_id: &mut u64) -> Group {
        let calls = batch
            .numbers
            .iter()
            .map(|number| {
                let (id, call, prompt) = (*next_id, &self.calls[*number], &self.prompts[*number]);
                *next_id += 1;
                self.sent.insert(id, *number);
                frames::Call {
                    id,
                    suffix: prompt.suffix.clone(),
                    spelled: prompt.spelled.clone(),
                    max_tokens: call.max_tokens,
                    stop: call.stop.clone(),
                    sampling: call.sampling.clone(),
                    constraint: call.constraint.clone(),
                    draft: call.draft.clone(),
                    logprobs: call.logprobs,
                }
            })
            .collect();
        Group { prefix: batch.prefix.to_owned(), calls }
    }

    /// Numbers of the calls that were sent and not answered, ascending; none is on its way any more.
    fn unanswered(&mut self) -> Vec<usize> {
        let mut numbers: Vec<usize> = self.sent.drain().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        numbers
    }

    fn take(&mut self, event: Event) -> Result<ControlFlow<()>, GenerateError> {
        match event {
            Event::Answer(answer) => {
                let Some(number) = self.sent.remove(&answer.id) else {
                    return Err(out_of_turn(&Event::Answer(answer), "an answer to a call").into());
                };
                let result = checked(answer, &self.calls[number]);
                Ok(self.finish(number, result))
            }
            Event::Refused { id: Some(id), why } => {
                let Some(number) = self.sent.remove(&id) else {
                    return Err(
                        out_of_turn(&Event::Refused { id: Some(id), why }, "an answer to a call").into()
                    );
                };
                Ok(self.finish(number, Err(CallError::Refused { why })))
            }
            other => Err(out_of_turn(&other, "an answer").into()),
        }
    }

    fn finish(&mut self, number: usize, result: Result<Answer, CallError>) -> ControlFlow<()> {
        match &result {
            Ok(answer) => self.totals.add(answer),
            Err(_) => self.totals.failed += 1,
        }
        (self.answered)(number, result)
    }
}

/// An answer is believed when the whole prompt was read, and it is what it had to be.
fn checked(answer: frames::Answer, call: &Call) -> Result<Answer, CallError> {
    if answer.consumed_tokens != answer.prompt_tokens {
        return Err(CallError::Truncated {
            sent: u64::from(answer.prompt_tokens),
            consumed: u64::from(answer.consumed_tokens),
        });
    }
    // A cut answer is no document, and says so itself.
    if let (Some(frames::Constraint::JsonSchema(schema)), Finish::Stop) = (&call.constraint, answer.finish) {
        let schema = Schema::parse(schema).map_err(|error| CallError::Refused { why: error.to_string() })?;
        schema
            .check(&answer.text)
            .map_err(|why| CallError::NotOfSchema { why: shortened(&why, WORDS_CHARS_MAX) })?;
    }
    Ok(Answer {
        text: answer.text,
        finish: answer.finish,
        prompt_tokens: answer.prompt_tokens,
        reused_tokens: answer.reused_tokens,
        answer_tokens: answer.answer_tokens,
        ms: answer.ms,
        logprobs: answer.logprobs,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use haul_frames::FlashAttention;

    use super::*;

    pub(crate) fn load() -> Load {
        Load {
            model: PathBuf::from("m.gguf"),
            devices: vec![],
            gpu_layers: None,
            lanes: 1,
            n_ctx: 512,
            n_batch: 512,
            n_ubatch: 512,
            n_seq_max: 2,
            kv_unified: true,
            threads: 1,
            type_k: "f16".to_owned(),
            type_v: "f16".to_owned(),
            flash_attention: FlashAttention::Auto,
            mmap: true,
        }
    }

    pub(crate) fn loaded() -> Loaded {
        Loaded {
            description: "a model".to_owned(),
            size_bytes: 1,
            parameters: 1,
            layers: 1,
            embedding: 1,
            vocabulary: 1,
            n_ctx_train: 512,
            n_ctx: 512,
            chat_template: None,
            can_share_prefix: true,
            adds_bos: false,
            bos: String::new(),
            eos: String::new(),
            marks: vec![],
            load_ms: 1,
            context_ms: 1,
            memory: vec![],
            buffers: vec![],
            offloaded: None,
            attention: Attention::Engine { instead_because: None },
            warnings: vec![],
            rss_bytes: 1,
        }
    }

    fn answer(consumed_tokens: u32, text: &str, finish: Finish) -> frames::Answer {
        frames::Answer {
            id: 0,
            text: text.to_owned(),
            finish,
            prompt_tokens: 9,
            reused_tokens: 0,
            consumed_tokens,
            answer_tokens: 3,
            ms: 1,
            logprobs: vec![],
        }
    }

    /// A server once read 16,387 of 160,689 tokens and answered all the same.
    #[test]
    fn an_answer_to_half_a_prompt_is_none() {
        let call = Call::greedy(Prompt::text("a"), 8);
        assert!(checked(answer(9, "a", Finish::Stop), &call).is_ok());
        assert_eq!(
            checked(answer(8, "a", Finish::Stop), &call).unwrap_err(),
            CallError::Truncated { sent: 9, consumed: 8 }
        );
    }

    #[test]
    fn lanes_share_out_what_one_context_had() {
        let whole = Load { n_ctx: 16_384, n_seq_max: 17, threads: 2, ..load() };
        let two = divided(whole.clone(), 2);
        assert_eq!((two.lanes, two.n_ctx, two.n_seq_max, two.threads), (2, 8192, 9, 1));
        assert_eq!(divided(whole.clone(), 1), whole);
        assert_eq!(divided(whole.clone(), 9).lanes, 2, "no lane without a thread");
        let of_nine = divided(Load { threads: 9, ..whole }, 4);
        assert_eq!((of_nine.lanes, of_nine.threads), (3, 3), "and no thread without a lane");
    }

    #[test]
    fn an_answer_is_held_against_its_schema_whatever_the_engine_promised() {
        let schema = serde_json::json!({"type": "object", "required": ["a"]});
        let call = Call {
            constraint: Some(frames::Constraint::JsonSchema(schema)),
            ..Call::greedy(Prompt::text("a"), 8)
        };
        assert!(checked(answer(9, r#"{"a":1}"#, Finish::Stop), &call).is_ok());
        assert!(matches!(checked(answer(9, "{}", Finish::Stop), &call), Err(CallError::NotOfSchema { .. })));
        // A cut answer says itself that it is cut.
        assert!(checked(answer(9, r#"{"a""#, Finish::Length), &call).is_ok());
    }
}
