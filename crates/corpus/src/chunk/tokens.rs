//! Chunks of whole sentences that fit a token budget.
//!
//! The caller tokenizes the whole text once and hands in the byte range of each token: in order, without
//! special tokens, empty ranges allowed. A token belongs to the chunk in which its start lies. Tokenizing the
//! chunk's own text again may give a few tokens more or less at its edges; where that is over a model's
//! maximum, [`split`] gives smaller chunks.

use std::ops::Range;

use crate::chunk::{Chunk, chapter_at};
use crate::document::{Block, Chapter, Document};
use crate::sentence;

/// Overlap takes at most this share of a chunk: one half, so that chunks never cost more than twice the text.
const OVERLAP_SHARE_OF_BUDGET: usize = 2;
/// A sentence over the budget is cut between words if one ends in the last half of the piece.
const WORD_SEARCH_SHARE_OF_PIECE: usize = 2;
/// `split` cuts between sentences if neither side is under a quarter of the chunk.
const SPLIT_SIDE_SHARE: usize = 4;

/// Packs whole sentences greedily, never across chapters.
///
/// Chunks minus their overlaps concatenate to the text exactly: whitespace between two sentences belongs to
/// the first. A sentence over the budget is cut at token boundaries, between words where it can be, never
/// inside a character; only where the tokens of a single character are over the budget is a chunk over it. A
/// chunk has no tokens only where its whole chapter has none.
pub fn by_tokens(document: &Document, offsets: &[(u32, u32)], settings: &ChunkSettings) -> Vec<Chunk> {
    let starts = token_starts(&document.text, offsets);
    let mut chunks = Vec::new();
    let mut blocks = document.blocks.as_slice();
    for (index, chapter) in document.chapters.iter().enumerate() {
        let in_chapter = blocks.partition_point(|block| block.start < chapter.end);
        let (own, rest) = blocks.split_at(in_chapter);
        blocks = rest;
        let boundaries = sentence_starts(&document.text, chapter, own);
        let units = units(&document.text, &starts, &boundaries, chapter.end, settings.chunk_tokens);
        pack(&units, index, settings, &mut chunks);
    }
    chunks
}

/// Smaller chunks in the place of one that turned out too long: first it loses its overlap, then it is cut in
/// two near its middle, between sentences if it can be, else between words, else between tokens. None when
/// all of it is one token or one character. Reads nothing of the document outside the chunk but the words
/// before its sentences, so that splitting every chunk takes time linear in the text.
pub fn split(document: &Document, offsets: &[(u32, u32)], chunk: &Chunk) -> Option<Vec<Chunk>> {
    let starts = token_starts(&document.text, offsets_between(offsets, chunk.start, chunk.end));
    let part = |start, end| Chunk {
        start,
        end,
        overlap_bytes: 0,
        tokens: tokens_between(&starts, start, end).len(),
        chapter: chapter_at(document, start),
        truncated_tokens: 0,
    };
    if chunk.overlap_bytes > 0 {
        return Some(vec![part(chunk.start + chunk.overlap_bytes, chunk.end)]);
    }
    let tokens = tokens_between(&starts, chunk.start, chunk.end);
    let cut = sentence_cut(document, &starts, chunk, &tokens).or_else(|| {
        let half = tokens.len().div_ceil(2);
        token_cut(&document.text, &starts, chunk.start, &tokens, half)
    })?;
    Some(vec![part(chunk.start, cut), part(cut, chunk.end)])
}

/// How to cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSettings {
    /// Tokens of a chunk at most, overlap included, special tokens not.
    pub chunk_tokens: usize,
    /// Whole sentences of the chunk before that a chunk repeats, fewer where they would fill half of it.
    pub overlap_sentences: usize,
}

/// A sentence with the whitespace after it, or a piece of a sentence over the budget.
struct Unit {
    start: usize,
    end: usize,
    tokens: usize,
    whole_sentence: bool,
}

/// The offsets of the tokens that start in `start..end`, where the offsets are in order.
fn offsets_between(offsets: &[(u32, u32)], start: usize, end: usize) -> &[(u32, u32)] {
    let from = &offsets[offsets.partition_point(|&(s, _)| (s as usize) < start)..];
    &from[..from.partition_point(|&(s, _)| (s as usize) < end)]
}

/// Start of each token, on a character boundary and never before the start of the token before it: the tokens
/// of one character share its start, and so are never parted.
fn token_starts(text: &str, offsets: &[(u32, u32)]) -> Vec<usize> {
    let mut latest = 0;
    let starts = offsets.iter().map(|&(start, _)| {
        latest = text.floor_char_boundary(start as usize).max(latest);
        latest
    });
    starts.collect()
}

/// Indices of the tokens that start in `start..end`.
fn tokens_between(starts: &[usize], start: usize, end: usize) -> Range<usize> {
    starts.partition_point(|&s| s < start)..starts.partition_point(|&s| s < end)
}

/// Where the sentences of a chapter start; the first at the chapter's start, whatever stands before its block.
pub(super) fn sentence_starts(text: &str, chapter: &Chapter, blocks: &[Block]) -> Vec<usize> {
    let mut starts = vec![chapter.start];
    for (index, block) in blocks.iter().enumerate() {
        if index > 0 {
            starts.push(block.start);
        }
        sentence::inner_starts(text, block, block.start..block.end, &mut starts);
    }
    starts
}

fn units(text: &str, starts: &[usize], boundaries: &[usize], end: usize, budget: usize) -> Vec<Unit> {
    let mut units = Vec::new();
    let mut next_token = starts.partition_point(|&s| s < boundaries[0]);
    for (index, &start) in boundaries.iter().enumerate() {
        let end = boundaries.get(index + 1).copied().unwrap_or(end);
        let count = starts[next_token..].iter().take_while(|&&s| s < end).count();
        let tokens = next_token..next_token + count;
        next_token = tokens.end;
        if tokens.len() <= budget {
            units.push(Unit { start, end, tokens: tokens.len(), whole_sentence: true });
        } else {
            cut_sentence(text, starts, start..end, tokens, budget, &mut units);
        }
    }
    units
}

/// Cuts a sentence over the budget into pieces.
fn cut_sentence(
    text: &str,
    starts: &[usize],
    mut bytes: Range<usize>,
    mut tokens: Range<usize>,
    budget: usize,
    units: &mut Vec<Unit>,
) {
    while tokens.len() > budget {
        let Some(cut) = token_cut(text, starts, bytes.start, &tokens, budget) else { break };
        let rest = starts.partition_point(|&s| s < cut);
        units.push(Unit { start: bytes.start, end: cut, tokens: rest - tokens.start, whole_sentence: false });
        bytes.start = cut;
        tokens.start = rest;
    }
    units.push(Unit { start: bytes.start, end: bytes.end, tokens: tokens.len(), whole_sentence: false });
}

/// The offset at which to end a piece that starts at `from` and holds at most `budget` of `tokens`: the latest
/// word start within the last half, else the latest token start, else the first one past the budget.
fn token_cut(
    text: &str,
    starts: &[usize],
    from: usize,
    tokens: &Range<usize>,
    budget: usize,
) -> Option<usize> {
    let last = tokens.start + budget.max(1);
    let is_cut = |&token: &usize| starts[token] > from && starts[token - 1] < starts[token];
    let is_word_start = |token: &usize| {
        let (before, after) = text.split_at(starts[*token]);
        before.ends_with(char::is_whitespace) || after.starts_with(char::is_whitespace)
    };
    let word_search_from = last - budget / WORD_SEARCH_SHARE_OF_PIECE;
    let within = |first: usize| (first..tokens.end.min(last + 1)).rev().filter(is_cut);
    within(word_search_from.max(tokens.start + 1))
        .find(is_word_start)
        .or_else(|| within(tokens.start + 1).next())
        .or_else(|| (last + 1..tokens.end).find(is_cut))
        .map(|token| starts[token])
}

fn pack(units: &[Unit], chapter: usize, settings: &ChunkSettings, chunks: &mut Vec<Chunk>) {
    let mut first = 0;
    let mut first_new = 0;
    let mut overlap_tokens = 0;
    let mut new_tokens = 0;
    let mut close = |first: usize, first_new: usize, end: usize, tokens: usize| {
        chunks.push(Chunk {
            start: units[first].start,
            end: units[end - 1].end,
            overlap_bytes: units[first_new].start - units[first].start,
            tokens,
            chapter,
            truncated_tokens: 0,
        });
    };
    for (index, unit) in units.iter().enumerate() {
        let is_over = overlap_tokens + new_tokens + unit.tokens > settings.chunk_tokens;
        // What has no tokens stays with what came before, even where that alone is over the budget.
        if is_over && new_tokens > 0 && unit.tokens > 0 {
            close(first, first_new, index, overlap_tokens + new_tokens);
            (first, overlap_tokens) = overlap(units, first, index, settings);
            first_new = index;
            new_tokens = 0;
        }
        new_tokens += unit.tokens;
    }
    close(first, first_new, units.len(), overlap_tokens + new_tokens);
}

/// The first unit that the chunk starting at `next` repeats of the chunk before, and the tokens repeated.
fn overlap(units: &[Unit], previous_first: usize, next: usize, settings: &ChunkSettings) -> (usize, usize) {
    let room = settings.chunk_tokens.saturating_sub(units[next].tokens);
    let room = room.min(settings.chunk_tokens / OVERLAP_SHARE_OF_BUDGET);
    let mut first = next;
    let mut tokens = 0;
    while first > previous_first && next - first < settings.overlap_sentences {
        let unit = &units[first - 1];
        if !unit.whole_sentence || tokens + unit.tokens > room {
            break;
        }
        first -= 1;
        tokens += unit.tokens;
    }
    (first, tokens)
}

/// The sentence start nearest to the middle of a chunk, if neither side would be under a quarter of it.
fn sentence_cut(
    document: &Document,
    starts: &[usize],
    chunk: &Chunk,
    tokens: &Range<usize>,
) -> Option<usize> {
    let first = document.blocks.partition_point(|block| block.end <= chunk.start);
    let past = document.blocks.partition_point(|block| block.start < chunk.end);
    let blocks = document.blocks.get(first..past)?;
    let mut boundaries: Vec<usize> = Vec::new();
    for block in blocks {
        boundaries.push(block.start);
        sentence::inner_starts(&document.text, block, chunk.start..chunk.end, &mut boundaries);
    }
    let middle = tokens.start + tokens.len() / 2;
    let side_min = (tokens.len() / SPLIT_SIDE_SHARE).max(1);
    let candidates = boundaries.into_iter().filter(|&at| at > chunk.start && at < chunk.end);
    let candidates = candidates.map(|at| (starts.partition_point(|&s| s < at), at));
    candidates
        .filter(|&(token, _)| token >= tokens.start + side_min && token + side_min <= tokens.end)
        .min_by_key(|&(token, _)| token.abs_diff(middle))
        .map(|(_, at)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::time::{ClockId, clock_gettime};

    use super::*;
    use crate::encoding::decode;
    use crate::markdown;

    /// One chunk for the whole document, across its chapters; `chapter` is 0. No chunk for an empty text.
    fn whole(document: &Document, offsets: &[(u32, u32)]) -> Vec<Chunk> {
        if document.text.is_empty() {
            return Vec::new();
        }
        let end = document.text.len();
        vec![Chunk {
            start: 0,
            end,
            overlap_bytes: 0,
            tokens: offsets.len(),
            chapter: 0,
            truncated_tokens: 0,
        }]
    }

    fn document(source: &str) -> Document {
        markdown::document(decode(source.as_bytes().to_vec()))
    }

    /// A tokenizer of the crudest kind: words in pieces of `piece` bytes, which may part characters.
    fn offsets(text: &str, piece: usize) -> Vec<(u32, u32)> {
        let mut offsets = Vec::new();
        let mut word_start = None;
        for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
            match (c.is_whitespace(), word_start) {
                (true, Some(start)) => {
                    let starts = (start..at).step_by(piece);
                    offsets.extend(starts.map(|s| (s as u32, (s + piece).min(at) as u32)));
                    word_start = None;
                }
                (false, None) => word_start = Some(at),
                _ => {}
            }
        }
        offsets
    }

    fn texts<'a>(document: &'a Document, chunks: &[Chunk]) -> Vec<&'a str> {
        chunks.iter().map(|chunk| &document.text[chunk.start..chunk.end]).collect()
    }

    fn settings(chunk_tokens: usize, overlap_sentences: usize) -> ChunkSettings {
        ChunkSettings { chunk_tokens, overlap_sentences }
    }

    #[test]
    fn whole_sentences_are_packed_and_repeated() {
        let document = document("One two. Three four. Five six.\n\nSeven eight nine.");
        let offsets = offsets(&document.text, 100);
        let plain = by_tokens(&document, &offsets, &settings(4, 0));
        assert_eq!(texts(&document, &plain), ["One two. Three four. ", "Five six.\n\n", "Seven eight nine."]);
        let overlapped = by_tokens(&document, &offsets, &settings(5, 1));
        assert_eq!(
            texts(&document, &overlapped),
            ["One two. Three four. ", "Three four. Five six.\n\n", "Five six.\n\nSeven eight nine."]
        );
        assert_eq!(overlapped.iter().map(|c| c.overlap_bytes).collect::<Vec<_>>(), [0, 12, 11]);
    }

    #[test]
    fn chapters_are_never_joined() {
        let document = document("# A\none\n\n# B\ntwo");
        let offsets = offsets(&document.text, 100);
        let chunks = by_tokens(&document, &offsets, &settings(100, 3));
        assert_eq!(texts(&document, &chunks), ["# A\none\n\n", "# B\ntwo"]);
        assert_eq!(chunks.iter().map(|c| (c.chapter, c.tokens)).collect::<Vec<_>>(), [(0, 3), (1, 3)]);
        assert_eq!(texts(&document, &whole(&document, &offsets)), [document.text.as_str()]);
    }

    #[test]
    fn a_long_sentence_is_cut_between_words_and_a_long_word_between_tokens() {
        let document = document("aa bb cccccccc dd ee ff");
        let offsets = offsets(&document.text, 2);
        let chunks = by_tokens(&document, &offsets, &settings(3, 2));
        assert_eq!(texts(&document, &chunks), ["aa bb ", "cccccc", "cc dd ee ", "ff"]);
    }

    #[test]
    fn a_character_of_many_tokens_is_not_cut() {
        let document = document("👩‍🚀👩‍🚀");
        let offsets: Vec<_> = (0..document.text.len() as u32).map(|at| (at, at + 1)).collect();
        let chunks = by_tokens(&document, &offsets, &settings(2, 0));
        assert!(texts(&document, &chunks).concat() == document.text && chunks.len() > 2);
    }

    #[test]
    fn splitting_drops_the_overlap_first_and_then_cuts_between_sentences() {
        let document = document("One two. Three four. Five six. Seven eight.");
        let offsets = offsets(&document.text, 100);
        let chunk = by_tokens(&document, &offsets, &settings(6, 1))[1];
        assert_eq!(chunk.tokens, 4);
        let without_overlap = split(&document, &offsets, &chunk).unwrap();
        assert_eq!(texts(&document, &without_overlap), ["Seven eight."]);
        let whole = whole(&document, &offsets)[0];
        let halves = split(&document, &offsets, &whole).unwrap();
        assert_eq!(texts(&document, &halves), ["One two. Three four. ", "Five six. Seven eight."]);
        assert_eq!(halves.iter().map(|chunk| chunk.tokens).sum::<usize>(), 8);
    }

    fn source() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "word",
            "Word",
            "é",
            "漢字",
            "👩‍🚀",
            ". ",
            "! ",
            " ",
            "\n",
            "\n\n",
            "\n# T\n",
            "\n\n## S\n\n",
            "Mr. ",
            "\u{ad}",
            "\u{a0}",
            "aVeryLongWordWithoutEnd",
            "- ",
            "```\n",
            "1. ",
            "\r\n",
            "\t",
        ]);
        prop::collection::vec(pieces, 0..80).prop_map(|pieces| pieces.concat())
    }

    /// What every chunking must keep. `stray` offsets, out of order or out of the text, must not break it.
    fn check_cover(
        source: &str,
        piece: usize,
        settings: ChunkSettings,
        stray: &[(u32, u32)],
    ) -> Result<(), TestCaseError> {
        let document = document(source);
        prop_assert_eq!(document.check(), Ok(()));
        let mut offsets = offsets(&document.text, piece);
        offsets.extend(stray);
        let chunks = by_tokens(&document, &offsets, &settings);
        let fresh = chunks.iter().map(|chunk| &document.text[chunk.start + chunk.overlap_bytes..chunk.end]);
        prop_assert_eq!(fresh.collect::<String>(), document.text.as_str());
        let starts = token_starts(&document.text, &offsets);
        for (index, chunk) in chunks.iter().enumerate() {
            let chapter = &document.chapters[chunk.chapter];
            prop_assert!(chapter.start <= chunk.start && chunk.end <= chapter.end);
            let tokens = tokens_between(&starts, chunk.start, chunk.end);
            prop_assert_eq!(tokens.len(), chunk.tokens);
            let of_chapter = tokens_between(&starts, chapter.start, chapter.end);
            prop_assert!(chunk.tokens > 0 || of_chapter.is_empty());
            // A character of more tokens than the budget stays whole.
            let is_one_place = starts[tokens].windows(2).all(|pair| pair[0] == pair[1]);
            prop_assert!(chunk.tokens <= settings.chunk_tokens || is_one_place);
            if chunk.overlap_bytes > 0 {
                let previous = &chunks[index - 1];
                let overlap_end = chunk.start + chunk.overlap_bytes;
                prop_assert!(previous.start <= chunk.start && overlap_end == previous.end);
            }
        }
        Ok(())
    }

    /// The line break after a character of more tokens than the budget made a chunk without tokens.
    #[test]
    fn whitespace_after_a_character_over_the_budget_is_no_chunk() {
        check_cover("word\nMr. \n```\n👩\u{200d}🚀\n\n", 1, settings(1, 0), &[]).unwrap();
    }

    /// Seconds of CPU time to cut `text`, between two letters, into chunks and split each of them once; the best of a few runs.
    fn seconds(text: &str) -> f64 {
        let document = crate::text::document(decode(format!("x{text}x").into_bytes()));
        let characters = document.text.char_indices();
        let offsets: Vec<_> = characters.map(|(at, c)| (at as u32, (at + c.len_utf8()) as u32)).collect();
        let runs = (0..5).map(|_| {
            let begun = clock_gettime(ClockId::ThreadCPUTime);
            let chunks = by_tokens(&document, &offsets, &settings(40, 1));
            assert!(chunks.iter().filter_map(|chunk| split(&document, &offsets, chunk)).count() > 100);
            let spent = clock_gettime(ClockId::ThreadCPUTime) - begun;
            spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
        });
        runs.fold(f64::INFINITY, f64::min)
    }

    /// A Chinese novel on one line took 2 s for 450 kB and 29 s for 1.8 MB: each sentence was looked back from
    /// to the last space, which was the block's start, and each split read the whole block and all offsets.
    #[test]
    fn time_is_linear_in_a_text_without_spaces() {
        for sentence in ["天地玄黄宇宙洪荒日月盈昃。", "天Mr.", "\u{2028}", "(1.1)"] {
            let count = 25_000 / sentence.len();
            let ratio = seconds(&sentence.repeat(count * 4)) / seconds(&sentence.repeat(count));
            assert!(
                ratio < 8.0,
                "{sentence}: 4 times the text took {ratio:.1} times as long; quadratic is 16"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn chunks_cover_the_text_within_the_budget(
            source in source(),
            piece in 1usize..12,
            budget in 1usize..20,
            overlap_sentences in 0usize..4,
            stray in prop::collection::vec((0u32..600, 0u32..600), 0..3),
        ) {
            let stray = if budget % 5 == 0 { stray } else { Vec::new() };
            check_cover(&source, piece, settings(budget, overlap_sentences), &stray)?;
        }

        #[test]
        fn splitting_ends_and_loses_nothing(
            source in source(),
            piece in 1usize..5,
            stray in prop::collection::vec((0u32..600, 0u32..600), 0..3),
        ) {
            let document = document(&source);
            let mut offsets = offsets(&document.text, piece);
            offsets.extend(stray);
            let mut todo = whole(&document, &offsets);
            let mut atoms = Vec::new();
            while let Some(chunk) = todo.pop() {
                match split(&document, &offsets, &chunk) {
                    Some(parts) => {
                        prop_assert!(parts.iter().all(|part| part.end - part.start < chunk.end - chunk.start));
                        todo.extend(parts.into_iter().rev());
                    }
                    None => atoms.push(chunk),
                }
            }
            prop_assert_eq!(texts(&document, &atoms).concat(), document.text.clone());
        }
    }
}
