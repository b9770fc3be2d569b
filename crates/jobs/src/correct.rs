//! `correct`: the passages of a manuscript, corrected by a language model, and nothing else changed.
//!
//! Passages become calls ([`profile`]), all of which go to the generator together; every answer is held against its
//! text ([`guard`]) before it is believed. A passage whose answer drifts is asked for again sentence by sentence, and
//! what drifts then keeps its words, with the reason beside it. Answers are journalled ([`crate::calls`]).

pub mod diff;
pub mod finish;
pub mod guard;
pub mod profile;
pub mod speech;
pub mod spelling;

use std::ops::Range;

use haul_corpus::manuscript::{Passage, PassageKind};
use haul_generate::call::{Answer, Call, CallError};
use haul_generate::{GenerateError, Generator};
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stop;
use serde::Serialize;

use crate::calls::{self, Asked, CallsError};
use finish::Finish;
use guard::Drift;
use profile::Profile;

/// Tokens of what stands around a text in its prompt.
const TEMPLATE_TOKENS: u32 = 64;
/// What a server that does not say is trusted to read.
const CONTEXT_TOKENS: u32 = 4096;
/// A longer text is asked for in parts: what a small model loses grows with it.
const TEXT_TOKENS_MAX: u32 = 512;
/// Bytes of a token where nobody can count them.
const TOKEN_BYTES: usize = 3;

/// What became of a passage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Status {
    /// The model found nothing to correct.
    Unchanged,
    /// It has a new text.
    Corrected,
    /// Some sentences have a new text, and others drifted and keep theirs.
    PartlyCorrected {
        /// Why they do.
        kept: Vec<Kept>,
    },
    /// It keeps its text.
    Kept {
        /// Why.
        kept: Vec<Kept>,
    },
    /// There is nothing to correct in it.
    Skipped,
    /// A stop came first.
    NotAsked,
}

/// A text that keeps its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// How it begins.
    pub text: String,
    /// In one word: `numbers`, `name`, `cut`, `failed` ...
    pub verdict: &'static str,
    /// Why its answer is not taken.
    pub why: String,
}

/// Why a piece has no new text.
#[derive(Clone, Debug)]
enum Refusal {
    /// It has an answer, which is not believed.
    Drift(Drift),
    /// It has none.
    Failed(String),
}

/// A passage after the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Corrected {
    /// Where it stands.
    pub place: String,
    /// heading, paragraph ...
    pub kind: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub status: Status,
    /// Its text.
    pub before: String,
    /// Its new text, where it has one.
    pub after: Option<String>,
}

/// All passages, and what their calls came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// In the document's order.
    pub passages: Vec<Corrected>,
    /// Of all calls.
    pub asked: Asked,
}

/// The passages cannot be corrected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorrectError {
    /// The calls, as a whole.
    #[error(transparent)]
    Calls(#[from] CallsError),
    /// The generator.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// A call failed, and the user wanted to stop there.
    #[error("{place}: {why}")]
    Failed {
        /// The passage.
        place: String,
        /// Why.
        why: String,
    },
}

impl CorrectError {
    /// Whether a stop was asked for, and nothing else is wrong.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Generate(error) if error.is_stop())
    }

    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Calls(error) => error.hint(),
            Self::Generate(error) => error.hint(),
            Self::Failed { .. } => {
                Some("without --fail-fast the passage keeps its text, and the others go on".to_owned())
            }
        }
    }
}

/// What to do where a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The passage keeps its text, and is listed.
    Keep,
    /// The run ends.
    End,
}

/// What a run works with.
pub struct Parts<'a> {
    /// What answers.
    pub generator: &'a mut Generator,
    /// What was answered before.
    pub journal: &'a mut Journal,
    /// Counts passages.
    pub progress: &'a Progress,
    /// Whether to stop.
    pub stop: &'a Stop,
}

/// A part of a passage on its way through the model.
struct Piece {
    passage: usize,
    range: Range<usize>,
    result: Option<Result<String, Refusal>>,
}

/// Corrects passages: the dictionary where it stands before the model, the model, and what is done behind it.
///
/// # Errors
/// The generator or the journal as a whole; one call, where [`OnFailure::End`] says so.
pub fn run(
    passages: &[Passage],
    profile: &Profile,
    finish: &Finish,
    on_failure: OnFailure,
    parts: &mut Parts<'_>,
) -> Result<Outcome, CorrectError> {
    let Outcome { passages: done, asked } = asked_for(&finish.before(passages), profile, on_failure, parts)?;
    let done = passages.iter().zip(done).map(|(original, done)| finish.behind(original, done)).collect();
    Ok(Outcome { passages: done, asked })
}

/// Two rounds at most: whole passages, then the sentences of those that drifted.
fn asked_for(
    passages: &[Passage],
    profile: &Profile,
    on_failure: OnFailure,
    parts: &mut Parts<'_>,
) -> Result<Outcome, CorrectError> {
    let worth: Vec<usize> = (0..passages.len()).filter(|number| has_words(&passages[*number])).collect();
    let mut pieces = pieces(passages, &worth, parts.generator)?;
    let mut asked = ask(passages, &mut pieces, profile, on_failure, parts)?;
    let mut again = drifted(passages, &mut pieces);
    if !again.is_empty() && !asked.interrupted {
        let second = ask(passages, &mut again, profile, on_failure, parts)?;
        asked.totals.merge(&second.totals);
        asked.journalled += second.journalled;
        asked.interrupted |= second.interrupted;
        pieces.extend(again);
        pieces.sort_by_key(|piece| (piece.passage, piece.range.start));
    }
    let mut done: Vec<Corrected> = passages.iter().map(untouched).collect();
    for of_passage in pieces.chunk_by(|a, b| a.passage == b.passage) {
        let number = of_passage[0].passage;
        done[number] = assembled(&passages[number], of_passage);
    }
    Ok(Outcome { passages: done, asked })
}

/// Whether there is a word outside of what is protected.
fn has_words(passage: &Passage) -> bool {
    let is_free = |at: usize| !passage.protected.iter().any(|range| range.contains(&at));
    passage.text.char_indices().any(|(at, c)| c.is_alphabetic() && is_free(at))
}

fn untouched(passage: &Passage) -> Corrected {
    Corrected {
        place: passage.place.clone(),
        kind: kind(passage.kind),
        status: Status::Skipped,
        before: passage.text.clone(),
        after: None,
    }
}

fn kind(kind: PassageKind) -> &'static str {
    match kind {
        PassageKind::Paragraph => "paragraph",
        PassageKind::Heading => "heading",
        PassageKind::ListItem => "list_item",
        PassageKind::TableCell => "table_cell",
        PassageKind::Quote => "quote",
        PassageKind::Other => "other",
    }
}

/// Whole passages where the model can take them, runs of whole sentences of longer ones.
fn pieces(
    passages: &[Passage],
    worth: &[usize],
    generator: &mut Generator,
) -> Result<Vec<Piece>, CorrectError> {
    let texts: Vec<&str> = worth.iter().map(|number| passages[*number].text.as_str()).collect();
    let counted = generator.count_tokens(&texts)?;
    let most = text_tokens_max(generator.facts().context_tokens);
    let mut pieces = Vec::new();
    for (at, number) in worth.iter().enumerate() {
        let passage = &passages[*number];
        let tokens =
            counted.as_ref().map_or(passage.text.len().div_ceil(TOKEN_BYTES) as u32, |counts| counts[at]);
        let parts = if tokens <= most {
            vec![trimmed(&passage.text, 0..passage.text.len())]
        } else {
            runs(passage, (passage.text.len() as u64 * u64::from(most) / u64::from(tokens.max(1))) as usize)
        };
        pieces.extend(parts.into_iter().map(|range| Piece { passage: *number, range, result: None }));
    }
    Ok(pieces)
}

/// A text and its answer must fit the context together.
fn text_tokens_max(context: Option<u32>) -> u32 {
    let context = context.unwrap_or(CONTEXT_TOKENS);
    let room = context.saturating_sub(TEMPLATE_TOKENS + Profile::answer_tokens(0));
    // A text of n tokens has an answer of at most 1.5 n.
    (room * 2 / 5).clamp(8, TEXT_TOKENS_MAX)
}

/// Runs of whole sentences of at most so many bytes; a longer sentence stands alone.
fn runs(passage: &Passage, bytes: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for sentence in passage.sentences() {
        match runs.last_mut() {
            Some(run) if sentence.end - run.start <= bytes => run.end = sentence.end,
            _ => runs.push(sentence),
        }
    }
    runs.into_iter().map(|run| trimmed(&passage.text, run)).filter(|run| !run.is_empty()).collect()
}

/// Blanks around a text are the document's, not the model's.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + part.len() - part.trim_start().len();
    start..start + part.trim().len()
}

/// Asks for all pieces at once.
fn ask(
    passages: &[Passage],
    pieces: &mut [Piece],
    profile: &Profile,
    on_failure: OnFailure,
    parts: &mut Parts<'_>,
) -> Result<Asked, CorrectError> {
    let text_of = |piece: &Piece| &passages[piece.passage].text[piece.range.clone()];
    let texts: Vec<&str> = pieces.iter().map(text_of).collect();
    let counted = parts.generator.count_tokens(&texts)?;
    let tokens = |at: usize| {
        counted.as_ref().map_or(texts[at].len().div_ceil(TOKEN_BYTES) as u32, |counts| counts[at])
    };
    let calls: Vec<Call> =
        texts.iter().enumerate().map(|(at, text)| profile.call(text, tokens(at))).collect();
    parts.progress.expect(calls.len() as u64, calls.len() as u64);
    let (mut results, mut first_failure) = (vec![None; calls.len()], None);
    let asked =
        calls::answer("correct", parts.generator, parts.journal, &calls, parts.stop, |number, result| {
            parts.progress.done(1, 1);
            if let (Err(error), OnFailure::End) = (&result, on_failure) {
                first_failure.get_or_insert((number, error.to_string()));
                parts.stop.request();
            }
            results[number] = Some(result);
        })?;
    if let Some((number, why)) = first_failure {
        return Err(CorrectError::Failed { place: passages[pieces[number].passage].place.clone(), why });
    }
    for (piece, result) in pieces.iter_mut().zip(results) {
        piece.result = result.map(|result| taken(&passages[piece.passage], &piece.range, result));
    }
    Ok(asked)
}

/// The answer as the piece's new text, or why it is none.
fn taken(
    passage: &Passage,
    range: &Range<usize>,
    result: Result<Answer, CallError>,
) -> Result<String, Refusal> {
    let answer = result.map_err(|error| Refusal::Failed(error.to_string()))?;
    let inside = |part: &Range<usize>| {
        let (start, end) = (part.start.max(range.start), part.end.min(range.end));
        (start < end).then(|| start - range.start..end - range.start)
    };
    let protected: Vec<_> = passage.protected.iter().filter_map(inside).collect();
    let before = &passage.text[range.clone()];
    // A model that writes a paragraph over several lines means one paragraph.
    let text = match before.contains('\n') {
        true => answer.text.trim().to_owned(),
        false => answer.text.trim().lines().map(str::trim).collect::<Vec<_>>().join(" "),
    };
    guard::check(before, &protected, &text, answer.finish).map_err(Refusal::Drift)?;
    Ok(text)
}

/// Takes the pieces of several sentences that drifted out, and gives their sentences instead.
fn drifted(passages: &[Passage], pieces: &mut Vec<Piece>) -> Vec<Piece> {
    let mut again = Vec::new();
    pieces.retain(|piece| {
        // A model that thinks aloud does so for a sentence too.
        let may_be_better = |drift: &Drift| *drift != Drift::Thinks;
        if !matches!(&piece.result, Some(Err(Refusal::Drift(drift))) if may_be_better(drift)) {
            return true;
        }
        let passage = &passages[piece.passage];
        let sentences: Vec<_> = passage
            .sentences()
            .into_iter()
            .filter(|sentence| sentence.start < piece.range.end && sentence.end > piece.range.start)
            .map(|sentence| sentence.start.max(piece.range.start)..sentence.end.min(piece.range.end))
            .map(|sentence| trimmed(&passage.text, sentence))
            .filter(|sentence| !sentence.is_empty())
            .collect();
        if sentences.len() < 2 {
            return true;
        }
        again.extend(sentences.into_iter().map(|range| Piece {
            passage: piece.passage,
            range,
            result: None,
        }));
        false
    });
    again
}

fn assembled(passage: &Passage, pieces: &[Piece]) -> Corrected {
    let mut after = passage.text.clone();
    let (mut kept, mut is_asked) = (Vec::new(), true);
    for piece in pieces.iter().rev() {
        match &piece.result {
            Some(Ok(text)) => after.replace_range(piece.range.clone(), text),
            Some(Err(refusal)) => kept.push(refusal.kept(&passage.text[piece.range.clone()])),
            None => is_asked = false,
        }
    }
    kept.reverse();
    let changed = after != passage.text;
    let status = match (is_asked, kept.is_empty(), changed) {
        (false, _, false) => Status::NotAsked,
        (_, true, true) => Status::Corrected,
        (_, true, false) => Status::Unchanged,
        (_, false, true) => Status::PartlyCorrected { kept },
        (_, false, false) => Status::Kept { kept },
    };
    Corrected { status, after: changed.then_some(after), ..untouched(passage) }
}

impl Refusal {
    fn kept(&self, text: &str) -> Kept {
        let (verdict, why) = match self {
            Refusal::Drift(drift) => (drift.name(), drift.to_string()),
            Refusal::Failed(why) => ("failed", why.clone()),
        };
        Kept { text: beginning(text), verdict, why }
    }
}

fn beginning(text: &str) -> String {
    const CHARS: usize = 60;
    let mut start: String = text.chars().take(CHARS).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    start
}

#[cfg(test)]
mod tests {
    use haul_generate::call::Finish;
    use haul_generate::fake::{Fake, Line};

    use super::*;

    fn passage(text: &str) -> Passage {
        Passage {
            text: text.to_owned(),
            protected: vec![],
            kind: PassageKind::Paragraph,
            place: "line 1".to_owned(),
        }
    }

    struct Bench {
        folder: tempfile::TempDir,
        stop: Stop,
        speech: bool,
    }

    impl Bench {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), stop: Stop::default(), speech: false }
        }

        fn run(
            &self,
            passages: &[Passage],
            generator: &mut Generator,
            on: OnFailure,
        ) -> Result<Outcome, CorrectError> {
            let mut journal = Journal::open(&self.folder.path().join("journal.sqlite")).unwrap();
            let profile = Profile::choose(Some("tiny"), None, "").unwrap();
            let mut parts =
                Parts { generator, journal: &mut journal, progress: &Progress::default(), stop: &self.stop };
            run(passages, &profile, &finish::Finish { spelling: None, speech: self.speech }, on, &mut parts)
        }
    }

    /// Corrects "was" to "were", and does strange things to some texts.
    fn model() -> Generator {
        Generator::Fake(Fake::by(|asked| {
            if asked.contains("cut") {
                return Line {
                    answer: Ok(("They we".to_owned(), Finish::Length)),
                    after: Default::default(),
                };
            }
            if asked.contains("fail") {
                return Line::fails(CallError::GivenUp { attempts: 3, why: "status 500".to_owned() });
            }
            let text = asked.replace("was", "were");
            Line::says(&if asked.contains("drift") { text.replace("12", "13") } else { text })
        }))
    }

    fn asked(generator: &Generator) -> Vec<String> {
        match generator {
            Generator::Fake(fake) => fake.asked().to_vec(),
            _ => vec![],
        }
    }

    #[test]
    fn passages_are_corrected_kept_or_skipped_by_name() {
        let bench = Bench::new();
        let passages = [
            "They was late again.",
            "All is well here.",
            "---",
            "They was late. We drift by 12 miles. You was early.",
            "They was cut.",
            "They was there, but this will fail.",
        ]
        .map(passage);
        let mut generator = model();
        let outcome = bench.run(&passages, &mut generator, OnFailure::Keep).unwrap();
        let shown: Vec<_> =
            outcome.passages.iter().map(|done| (done.status.clone(), done.after.as_deref())).collect();
        let kept = |text: &str, verdict, why: &str| {
            vec![Kept { text: text.to_owned(), verdict, why: why.to_owned() }]
        };
        let numbers = "numbers changed from 12 to 13";
        assert_eq!(
            shown,
            [
                (Status::Corrected, Some("They were late again.")),
                (Status::Unchanged, None),
                (Status::Skipped, None),
                (
                    Status::PartlyCorrected { kept: kept("We drift by 12 miles.", "numbers", numbers) },
                    Some("They were late. We drift by 12 miles. You were early.")
                ),
                (
                    Status::Kept {
                        kept: kept("They was cut.", "cut", "the answer was cut at its limit of tokens")
                    },
                    None
                ),
                (
                    Status::Kept {
                        kept: kept(
                            "They was there, but this will fail.",
                            "failed",
                            "no answer in 3 attempts: status 500"
                        )
                    },
                    None
                ),
            ]
        );
        // Five passages, and the three sentences of the one that drifted.
        assert_eq!(asked(&generator).len(), 5 + 3);

        // What was answered is not asked again; what failed is.
        let mut generator = model();
        let again = bench.run(&passages, &mut generator, OnFailure::Keep).unwrap();
        assert_eq!(again.passages, outcome.passages);
        assert_eq!(asked(&generator), ["They was there, but this will fail."]);
    }

    #[test]
    fn numbers_are_spoken_where_that_is_asked_for() {
        let bench = Bench { speech: true, ..Bench::new() };
        let passages = ["It was 5% of $7.", "The 12 dogs was there."].map(passage);
        let outcome = bench.run(&passages, &mut model(), OnFailure::Keep).unwrap();
        let after: Vec<_> = outcome.passages.iter().map(|done| done.after.as_deref()).collect();
        assert_eq!(
            after,
            [Some("It were five percent of seven dollars."), Some("The 12 dogs were there.")],
            "{outcome:?}"
        );
    }

    /// A failed call of a long passage was once asked for again sentence by sentence, each with its own retries.
    #[test]
    fn a_failed_call_is_not_taken_for_a_drift() {
        let mut generator = model();
        let passages = [passage("This will fail. You was early. They was late.")];
        Bench::new().run(&passages, &mut generator, OnFailure::Keep).unwrap();
        assert_eq!(asked(&generator).len(), 1);
    }

    /// Blanks are the document's: an answer that changes nothing else changes nothing.
    #[test]
    fn blanks_that_the_model_leaves_stay() {
        let text = "They  walked 12\u{a0}km.";
        let outcome = Bench::new().run(&[passage(text)], &mut model(), OnFailure::Keep).unwrap();
        assert_eq!(outcome.passages[0].status, Status::Unchanged);
    }

    #[test]
    fn fail_fast_ends_at_the_first_failure() {
        let bench = Bench::new();
        let passages = ["They was late.", "This will fail.", "You was early."].map(passage);
        match bench.run(&passages, &mut model(), OnFailure::End) {
            Err(CorrectError::Failed { why, .. }) => assert_eq!(why, "no answer in 3 attempts: status 500"),
            other => panic!("{:?}", other.map(|outcome| outcome.passages)),
        }
    }

    #[test]
    fn a_long_passage_is_asked_for_in_runs_of_sentences() {
        let text: String = (0..200).map(|n| format!("They was late to pier {n} in the rain. ")).collect();
        let mut generator = model();
        let outcome = Bench::new().run(&[passage(&text)], &mut generator, OnFailure::Keep).unwrap();
        assert_eq!(outcome.passages[0].after.as_deref(), Some(text.replace("was", "were").as_str()));
        let asked = asked(&generator);
        assert!(asked.len() > 3, "{}", asked.len());
        assert!(asked.iter().all(|text| text.ends_with('.') && text.starts_with("They")), "{asked:?}");
    }
}
