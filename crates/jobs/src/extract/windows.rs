//! What a model reads at a time: runs of whole sentences within a budget of tokens.
//!
//! A window never holds sentences of two files, so that "the facility" in it means what it means in its document. Each
//! repeats the end of the one before. That every sentence is in a window is checked, not assumed.

use std::ops::Range;

use super::documents::Company;
use super::schema::Limits;

/// A window repeats at most one line in so many, where lines are what is short and the schema does not say.
const OVERLAP_LINES_PART: u32 = 8;

/// What a window may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Tokens of its lines.
    pub tokens: u32,
    /// Tokens of the lines that it repeats, at most.
    pub overlap_tokens: u32,
    /// Lines.
    pub lines: Option<u32>,
    /// Lines that it repeats, at most.
    pub overlap_lines: Option<u32>,
}

/// A run of sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Indices into the company's sentences.
    pub sentences: Range<usize>,
    /// Sentences at its beginning that the window before has too.
    pub repeated: usize,
    /// Tokens of its lines.
    pub tokens: u32,
}

/// Text that no window holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WindowError {
    /// A sentence is longer than a window.
    #[error("sentence {sentence} has {tokens} tokens, and a window has {room}")]
    TooLong {
        /// Which, from 0.
        sentence: usize,
        /// Its tokens.
        tokens: u32,
        /// Of a window.
        room: u32,
    },
    /// Counts for another number of sentences.
    #[error("{counts} counts of tokens for {sentences} sentences")]
    Counts {
        /// What came.
        counts: usize,
        /// What there is.
        sentences: usize,
    },
}

impl Room {
    /// What a schema says, with the tokens that a model has for a window.
    #[must_use]
    pub fn of(limits: &Limits, tokens: u32) -> Room {
        Room {
            tokens,
            overlap_tokens: limits.overlap_tokens.min(tokens / 2),
            lines: limits.window_lines,
            overlap_lines: limits
                .overlap_lines
                .or(limits.window_lines.map(|lines| lines / OVERLAP_LINES_PART)),
        }
    }
}

/// Cuts a company's sentences into windows. `tokens` has the tokens of each sentence as a line of a prompt;
/// [`Company::split_long`] makes sure beforehand that each fits.
///
/// # Errors
/// A sentence that fits no window.
pub fn cut(company: &Company, tokens: &[u32], room: &Room) -> Result<Vec<Window>, WindowError> {
    let sentences = company.sentences.len();
    if tokens.len() != sentences {
        return Err(WindowError::Counts { counts: tokens.len(), sentences });
    }
    if let Some(sentence) = tokens.iter().position(|tokens| *tokens > room.tokens) {
        return Err(WindowError::TooLong { sentence, tokens: tokens[sentence], room: room.tokens });
    }
    let mut windows = Vec::new();
    let mut start = 0;
    while start < sentences {
        let source = company.sentences[start].source;
        let end = start + company.sentences[start..].iter().take_while(|s| s.source == source).count();
        cut_source(start..end, tokens, room, &mut windows);
        start = end;
    }
    Ok(windows)
}

fn cut_source(source: Range<usize>, tokens: &[u32], room: &Room, windows: &mut Vec<Window>) {
    let lines_max = room.lines.map_or(usize::MAX, |lines| lines.max(1) as usize);
    let mut start = source.start;
    let mut covered = source.start;
    loop {
        let mut end = start;
        let mut sum = 0u32;
        while end < source.end && end - start < lines_max && sum + tokens[end] <= room.tokens {
            sum += tokens[end];
            end += 1;
        }
        windows.push(Window { sentences: start..end, repeated: covered - start, tokens: sum });
        if end == source.end {
            return;
        }
        covered = end;
        start = next_start(start, end, tokens, room, lines_max);
    }
}

/// As far before `end` as the overlap allows, while the first new sentence still fits.
fn next_start(start: usize, end: usize, tokens: &[u32], room: &Room, lines_max: usize) -> usize {
    let overlap_lines = room.overlap_lines.map_or(usize::MAX, |lines| lines as usize).min(lines_max - 1);
    let room_tokens = room.overlap_tokens.min(room.tokens - tokens[end]);
    let mut next = end;
    let mut sum = 0u32;
    while next > start + 1 && end - next < overlap_lines && sum + tokens[next - 1] <= room_tokens {
        next -= 1;
        sum += tokens[next];
    }
    next
}

/// What of a company's text is in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Bytes of text that are no whitespace.
    pub bytes: u64,
    /// Of which in a window.
    pub covered: u64,
}

impl Coverage {
    /// Whether all of it is.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bytes == self.covered
    }
}

/// Counts byte by byte, from the documents and not from what was cut, so that a fault of either is seen.
#[must_use]
pub fn coverage(company: &Company, windows: &[Window]) -> Coverage {
    let mut coverage = Coverage::default();
    for (number, source) in company.sources.iter().enumerate() {
        let text = &source.document.text;
        let mut seen = vec![false; text.len()];
        for sentence in windows.iter().flat_map(|window| &company.sentences[window.sentences.clone()]) {
            if sentence.source == number {
                seen[sentence.start..sentence.end].fill(true);
            }
        }
        for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
            coverage.bytes += c.len_utf8() as u64;
            coverage.covered += if seen[at] { c.len_utf8() as u64 } else { 0 };
        }
    }
    coverage
}
