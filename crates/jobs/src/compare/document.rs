//! A long text, corrected paragraph by paragraph in one run: what a book would take.

use std::ops::ControlFlow;
use std::time::Instant;

use haul_generate::call::{Answer, Call, CallError, Finish, Prompt, Totals};
use haul_generate::{GenerateError, Generator};
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stop;
use serde::Serialize;

/// Tokens of text that are corrected at most; the report says how much that is of the whole.
pub const TOKENS_MAX: u64 = 32_768;
/// Of a prompt, besides the paragraph: the turns around it.
const AROUND_TOKENS: u32 = 96;
/// An answer may be this many tokens longer than half as long again as its paragraph.
const ANSWER_TOKENS_MORE: u32 = 32;

/// What a long text took.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Document {
    /// Words of the paragraphs that were corrected.
    pub words: u64,
    /// Their characters.
    pub characters: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Paragraphs; those too long for the context are several.
    pub paragraphs: u64,
    /// Paragraphs of the whole text.
    pub paragraphs_of_text: u64,
    /// Paragraphs whose answer is another text.
    pub changed: u64,
    /// Paragraphs whose answer is cut at its limit.
    pub cut: u64,
    /// Paragraphs without an answer.
    pub failed: u64,
    /// Paragraphs whose answer is the base's; `None` for the base.
    pub same_as_base: Option<u64>,
    /// From the first call to the last answer.
    pub seconds: f64,
    /// Words per second.
    pub words_per_s: f64,
    /// Tokens written per second.
    pub decode_tokens_per_s: f64,
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Prompt tokens that were there already.
    pub reused_prefix_tokens: u64,
    /// Tokens of answers.
    pub decode_tokens: u64,
}

impl Document {
    /// The calls that it was corrected by.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            calls: self.paragraphs - self.failed,
            failed: self.failed,
            prefill_tokens: self.prefill_tokens,
            reused_prefix_tokens: self.reused_prefix_tokens,
            decode_tokens: self.decode_tokens,
            retries: 0,
        }
    }
}

/// What a text is corrected with.
pub(crate) struct Parts<'a> {
    pub(crate) generator: &'a mut Generator,
    pub(crate) progress: &'a Progress,
    pub(crate) stop: &'a Stop,
}

/// What was answered to each piece; `None` where nothing was.
pub(crate) type Texts = Vec<Option<String>>;

/// Corrects a text. Also gives the answers, for what is compared with them; `None` where a stop was asked for.
///
/// It is asked anew each time, and all of it: words per second are what it is for.
///
/// # Errors
/// Nothing answers any more.
pub(crate) fn run(
    text: &str,
    system: &str,
    parts: &mut Parts<'_>,
    context_tokens: u32,
    base: Option<&[Option<String>]>,
) -> Result<Option<(Document, Texts)>, GenerateError> {
    let Parts { generator, progress, stop } = parts;
    let room = context_tokens.saturating_sub(AROUND_TOKENS + ANSWER_TOKENS_MORE) * 2 / 5;
    let all = pieces(text, generator, room.max(1))?;
    let mut tokens = 0;
    let taken: Vec<&(String, u32)> = all
        .iter()
        .take_while(|(_, of_piece)| {
            tokens += u64::from(*of_piece);
            tokens <= TOKENS_MAX
        })
        .collect();
    let calls: Vec<Call> = taken
        .iter()
        .map(|(piece, tokens)| {
            Call::greedy(Prompt::chat(Some(system), "", piece), tokens * 3 / 2 + ANSWER_TOKENS_MORE)
        })
        .collect();
    let mut answers: Vec<Option<Result<Answer, CallError>>> = vec![None; calls.len()];
    let started = Instant::now();
    let totals = generator.run(&calls, &mut |number, answer| {
        progress.computed(1, answer.as_ref().map_or(0, Answer::computed_tokens));
        answers[number] = Some(answer);
        if stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let seconds = started.elapsed().as_secs_f64();
    if stop.requested() {
        return Ok(None);
    }
    let pieces: Vec<&str> = taken.iter().map(|(piece, _)| piece.as_str()).collect();
    let mut document = counted(&pieces, &answers, totals, seconds);
    document.tokens = taken.iter().map(|(_, tokens)| u64::from(*tokens)).sum();
    document.paragraphs_of_text = all.len() as u64;
    let texts: Texts =
        answers.into_iter().map(|answer| answer.and_then(Result::ok).map(|answer| answer.text)).collect();
    document.same_as_base = base.map(|base| {
        texts.iter().zip(base).filter(|(this, base)| this.is_some() && this == base).count() as u64
    });
    Ok(Some((document, texts)))
}

fn counted(
    pieces: &[&str],
    answers: &[Option<Result<Answer, CallError>>],
    totals: Totals,
    seconds: f64,
) -> Document {
    let words = pieces.iter().map(|piece| piece.split_whitespace().count() as u64).sum::<u64>();
    let count = |wanted: &dyn Fn(&str, &Answer) -> bool| {
        let pairs = pieces.iter().zip(answers);
        pairs.filter(|(piece, answer)| matches!(answer, Some(Ok(answer)) if wanted(piece, answer))).count()
            as u64
    };
    let per_s = |number: u64| number as f64 / seconds.max(1e-9);
    Document {
        words,
        characters: pieces.iter().map(|piece| piece.chars().count() as u64).sum(),
        tokens: 0,
        paragraphs: pieces.len() as u64,
        paragraphs_of_text: 0,
        changed: count(&|piece, answer| answer.text.trim() != piece.trim()),
        cut: count(&|_, answer| answer.finish == Finish::Length),
        failed: pieces.len() as u64 - count(&|_, _| true),
        same_as_base: None,
        seconds,
        words_per_s: per_s(words),
        decode_tokens_per_s: per_s(totals.decode_tokens),
        prefill_tokens: totals.prefill_tokens,
        reused_prefix_tokens: totals.reused_prefix_tokens,
        decode_tokens: totals.decode_tokens,
    }
}

/// Paragraphs with their tokens; those of more than `room_tokens` are cut where sentences end.
fn pieces(
    text: &str,
    generator: &mut Generator,
    room_tokens: u32,
) -> Result<Vec<(String, u32)>, GenerateError> {
    let paragraphs = paragraphs(text);
    let tokens = tokens(&paragraphs, generator)?;
    let mut pieces = Vec::new();
    for (paragraph, tokens) in paragraphs.into_iter().zip(tokens) {
        if tokens <= room_tokens {
            pieces.push(paragraph);
            continue;
        }
        // By the paragraph's own bytes for a token, and a quarter less, because they are not spread evenly.
        let bytes = paragraph.len() as u64 * u64::from(room_tokens) / u64::from(tokens) * 3 / 4;
        pieces.extend(cut(&paragraph, bytes.max(1) as usize));
    }
    let tokens = self::tokens(&pieces, generator)?;
    Ok(pieces.into_iter().zip(tokens).collect())
}

fn tokens(texts: &[String], generator: &mut Generator) -> Result<Vec<u32>, GenerateError> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let counted = generator.count_tokens(&texts)?;
    // A token has at least one byte.
    Ok(counted
        .unwrap_or_else(|| texts.iter().map(|text| u32::try_from(text.len()).unwrap_or(u32::MAX)).collect()))
}

/// What stands between empty lines, its own lines joined as they are.
fn paragraphs(text: &str) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for line in text.lines() {
        match paragraphs.last_mut() {
            Some(last) if !line.trim().is_empty() => {
                if !last.is_empty() {
                    last.push('\n');
                }
                last.push_str(line);
            }
            _ => paragraphs.push(String::new()),
        }
    }
    paragraphs.retain(|paragraph| !paragraph.trim().is_empty());
    paragraphs
}

/// Pieces of at most `bytes_max` bytes, cut behind sentences, else behind words, else anywhere.
fn cut(mut text: &str, bytes_max: usize) -> Vec<String> {
    let mut pieces = Vec::new();
    while text.len() > bytes_max {
        let end = (1..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        let head = &text[..end];
        let sentence =
            [". ", "! ", "? ", ".\n", "!\n", "?\n"].iter().filter_map(|mark| head.rfind(mark)).max();
        let at = sentence.map(|at| at + 1).or_else(|| head.rfind(char::is_whitespace)).filter(|at| *at > 0);
        let (piece, rest) = text.split_at(at.unwrap_or(end));
        pieces.push(piece.trim().to_owned());
        text = rest.trim_start();
    }
    pieces.push(text.to_owned());
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

#[cfg(test)]
mod tests {
    use haul_generate::fake::{Fake, Line};

    use super::*;

    #[test]
    fn paragraphs_stay_whole_unless_they_do_not_fit() {
        assert_eq!(paragraphs("a b\nc\n\n \nd\n\n"), ["a b\nc", "d"]);
        let long = "One two three. Four five six. Seven eight nine ten eleven";
        assert_eq!(cut(long, 30), ["One two three. Four five six.", "Seven eight nine ten eleven"]);
        assert_eq!(cut("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(cut("ééé", 3), ["é", "é", "é"]);
        assert!(cut(long, 9).iter().all(|piece| piece.len() <= 9));
    }

    #[test]
    fn a_long_text_is_counted() {
        let answer = |text: &str| match text {
            "the first" => Line::says("The first."),
            "cut off" => Line::cut("Cut"),
            "lost" => Line::fails(CallError::Refused { why: "busy".to_owned() }),
            same => Line::says(same),
        };
        let text = "the first\n\ncut off\n\nlost\n\nas it is";
        let mut generator = Generator::Fake(Fake::by(answer));
        let base = ["The first.", "Cut off.", "Lost.", "as it is"].map(|text| Some(text.to_owned()));
        let (progress, stop) = (Progress::default(), Stop::default());
        let mut parts = Parts { generator: &mut generator, progress: &progress, stop: &stop };
        let (document, answers) = run(text, "Correct.", &mut parts, 2048, Some(&base)).unwrap().unwrap();
        assert_eq!((document.words, document.paragraphs, document.paragraphs_of_text), (8, 4, 4));
        assert_eq!((document.changed, document.cut, document.failed), (2, 1, 1));
        assert_eq!(document.same_as_base, Some(2));
        assert_eq!(answers[2], None);
        stop.request();
        assert_eq!(run(text, "Correct.", &mut parts, 2048, None).unwrap(), None);
    }
}
