//! Questions about windows, asked together.

use std::collections::BTreeMap;
use std::time::Instant;

use haul_generate::Generator;
use haul_generate::call::{Answer, Call, CallError};
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stop;
use serde::{Deserialize, Serialize};

use super::ExtractError;
use super::reading::Reading;
use super::retrieve::hybrid::Embedding;
use super::run::Outcome;
use super::schema::Question;
use super::traces::Traces;
use crate::calls::{self, Asked};

/// The job's name in journal keys.
const JOB: &str = "extract";
/// Calls between two looks at the clock, where time is short: as many as take half of what is left, within these.
const ROUND_CALLS_MIN: usize = 4;
const ROUND_CALLS_MAX: usize = 128;

/// Why a question was not asked, in the words of a record's cuts.
pub const OUT_OF_TIME: &str = "the time was over (--budget)";

/// Why questions were not asked of a company that is not done.
pub const UNFINISHED: &str =
    "unfinished: what was answered so far; questions about this company are still to be asked";

/// What a run works with.
pub struct Parts<'a> {
    /// What answers.
    pub generator: &'a mut Generator,
    /// What was answered before.
    pub journal: &'a mut Journal,
    /// Counts calls.
    pub progress: &'a Progress,
    /// Whether to stop.
    pub stop: &'a Stop,
    /// What ranks windows by vectors, beside their words.
    pub embedding: Option<&'a Embedding<'a>>,
    /// Where every call is noted.
    pub traces: Option<Traces>,
    /// Hears what a company has come to so far, whenever there is more.
    pub so_far: Option<&'a mut dyn FnMut(&Outcome)>,
}

/// What is asked for, in the order in which it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Which entities there are.
    #[default]
    Entities,
    /// Which groups are in the best windows.
    Present,
    /// Their fields.
    Fields,
    /// Which groups are in the other windows.
    SectionsPresent,
    /// Their fields.
    SectionsFields,
    /// Fields by themselves.
    Deep,
    /// Whether values are right.
    Verify,
}

impl Stage {
    /// In their order.
    pub const ALL: [Stage; 7] = [
        Stage::Entities,
        Stage::Present,
        Stage::Fields,
        Stage::SectionsPresent,
        Stage::SectionsFields,
        Stage::Deep,
        Stage::Verify,
    ];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Entities => "entities",
            Stage::Present => "groups in best windows",
            Stage::Fields => "fields in best windows",
            Stage::SectionsPresent => "groups in other windows",
            Stage::SectionsFields => "fields in other windows",
            Stage::Deep => "fields by themselves",
            Stage::Verify => "verification",
        }
    }
}

/// What the calls of a stage came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageUse {
    /// Questions, whoever answered them.
    pub calls: u64,
    /// Of which without an answer.
    pub failed: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Of which were computed for other calls.
    pub reused_tokens: u64,
    /// Tokens of their answers.
    pub answer_tokens: u64,
    /// Calls that were asked now, and not answered by the journal.
    pub asked: u64,
    /// How long those took together.
    pub seconds: f64,
}

/// What the calls of a company came to, by stage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// The stage that is running.
    pub stage: Stage,
    /// Those that ran.
    pub stages: BTreeMap<Stage, StageUse>,
    /// All calls.
    pub asked: Asked,
    /// Questions for entities and for the truth of values to which there is no answer that can be read.
    pub unread: usize,
}

/// What came of a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An answer.
    Answer(Box<Answer>),
    /// None, and why.
    Failed(String),
    /// It was not asked: the time is over, or a stop was asked for.
    NotAsked,
}

/// Asks all questions, each about a window, and gives what came of each. Questions about one window share its text. Where
/// time is short the first of them are asked, and no more when it is over.
/// Where an answer is not of its schema, the question is asked once more without it, and read as far as it goes.
///
/// # Errors
/// The generator or the journal as a whole.
pub fn ask(
    reading: &Reading<'_>,
    questions: &[(usize, Question<'_>)],
    until: Option<Instant>,
    tally: &mut Tally,
    parts: &mut Parts<'_>,
) -> Result<Vec<Reply>, ExtractError> {
    let calls =
        questions.iter().map(|question| call(reading, question, parts)).collect::<Result<Vec<_>, _>>()?;
    let mut replies = vec![Reply::NotAsked; calls.len()];
    let mut first = 0;
    while first < calls.len() {
        if parts.stop.requested() {
            tally.asked.interrupted = true;
            break;
        }
        let Some(round) = round(until, tally) else { break };
        let end = calls.len().min(first.saturating_add(round));
        answered(&calls[first..end], &mut replies[first..end], tally, parts)?;
        first = end;
    }
    Ok(replies)
}

/// How many calls go out together, by what calls took so far; none when the time is over.
fn round(until: Option<Instant>, tally: &Tally) -> Option<usize> {
    let Some(until) = until else { return Some(usize::MAX) };
    let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
    if left == 0.0 {
        return None;
    }
    let (asked, seconds) =
        tally.stages.values().fold((0, 0.0), |(asked, seconds), of| (asked + of.asked, seconds + of.seconds));
    #[expect(clippy::cast_precision_loss, reason = "calls of a company")]
    let fitting = if asked == 0 { 0.0 } else { left / 2.0 * asked as f64 / seconds.max(1e-9) };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds")]
    let round = fitting.clamp(ROUND_CALLS_MIN as f64, ROUND_CALLS_MAX as f64) as usize;
    Some(round)
}

fn call(
    reading: &Reading<'_>,
    (window, question): &(usize, Question<'_>),
    parts: &Parts<'_>,
) -> Result<Call, ExtractError> {
    let Reading { schema, documents, numbers, .. } = reading;
    let mut call = schema.call(&documents[*window], question, &numbers[*window], reading.language_name())?;
    let has_value = matches!(question, Question::Fields { .. } | Question::Verify { .. });
    // A server may refuse what it does not know; the worker gives them for nothing.
    if has_value && matches!(parts.generator, Generator::Local(_)) {
        call.logprobs = Some(0);
    }
    Ok(call)
}

fn answered(
    calls: &[Call],
    replies: &mut [Reply],
    tally: &mut Tally,
    parts: &mut Parts<'_>,
) -> Result<(), ExtractError> {
    let mut unheld: Vec<usize> = Vec::new();
    run(calls, tally, parts, |number, result| {
        replies[number] = match result {
            Ok(answer) => Reply::Answer(Box::new(answer)),
            Err(error) => {
                if matches!(error, CallError::NotOfSchema { .. } | CallError::Refused { .. }) {
                    unheld.push(number);
                }
                Reply::Failed(error.to_string())
            }
        };
    })?;
    if unheld.is_empty() {
        return Ok(());
    }
    if parts.stop.requested() {
        tally.asked.interrupted = true;
        return Ok(());
    }
    let again: Vec<Call> =
        unheld.iter().map(|number| Call { constraint: None, ..calls[*number].clone() }).collect();
    run(&again, tally, parts, |number, result| {
        if let Ok(answer) = result {
            replies[unheld[number]] = Reply::Answer(Box::new(answer));
        }
    })
}

fn run(
    calls: &[Call],
    tally: &mut Tally,
    parts: &mut Parts<'_>,
    mut each: impl FnMut(usize, Result<Answer, CallError>),
) -> Result<(), ExtractError> {
    parts.progress.expect(calls.len() as u64, calls.len() as u64);
    let Parts { generator, journal, progress, stop, traces, .. } = parts;
    let mut used = StageUse::default();
    let started = Instant::now();
    let part = calls::answer(JOB, generator, journal, calls, stop, |number, result| {
        progress.done(1, 1);
        used.calls += 1;
        match &result {
            Ok(answer) => {
                progress.computed(1, answer.computed_tokens());
                used.prompt_tokens += u64::from(answer.prompt_tokens);
                used.reused_tokens += u64::from(answer.reused_tokens);
                used.answer_tokens += u64::from(answer.answer_tokens);
            }
            Err(_) => used.failed += 1,
        }
        if let Some(traces) = traces {
            traces.note(tally.stage, &calls[number], &result);
        }
        each(number, result);
    })?;
    used.asked = part.totals.calls + part.totals.failed;
    if used.asked > 0 {
        used.seconds = started.elapsed().as_secs_f64();
    }
    tally.stages.entry(tally.stage).or_default().add(&used);
    tally.asked.totals.merge(&part.totals);
    tally.asked.journalled += part.journalled;
    tally.asked.repeated += part.repeated;
    tally.asked.interrupted |= part.interrupted;
    Ok(())
}

impl StageUse {
    /// Adds what another company came to.
    pub fn add(&mut self, other: &StageUse) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.prompt_tokens += other.prompt_tokens;
        self.reused_tokens += other.reused_tokens;
        self.answer_tokens += other.answer_tokens;
        self.asked += other.asked;
        self.seconds += other.seconds;
    }
}
