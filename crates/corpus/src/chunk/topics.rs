//! Chunks that end where the topic changes: where two neighbouring sentences are not alike.

use std::ops::Range;

use crate::chunk::sections::Section;
use crate::chunk::tokens::sentence_starts;
use crate::chunk::words;
use crate::chunk::{Chunk, chunk_of};
use crate::document::{Chapter, Document};

/// Alexandria leaves out sentences of fewer characters.
const SENTENCE_CHARACTERS_MIN: usize = 3;

/// How to cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TopicSettings {
    /// A topic changes between two sentences whose cosine is below this.
    pub threshold: f64,
    /// A chunk of fewer words does not end at a change of topic.
    pub words_min: usize,
    /// A chunk ends before it has more words, whatever the topic; a longer sentence is one chunk.
    pub words_max: usize,
}

/// A sentence, with the white space after it where sentences are to cover the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// First byte of `Document::text`.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Its words.
    pub words: usize,
}

/// Where a chunk ends, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// The sentence before which it ends.
    pub sentence: usize,
    /// Whether the topic changed; otherwise the chunk was full.
    pub is_topic: bool,
}

/// The sentences of a section, by UAX #29 and never across blocks. They cover it; what has no words goes with the
/// sentence before, or else with the one after.
#[must_use]
pub fn sentences(document: &Document, section: &Section) -> Vec<Sentence> {
    let blocks = &document.blocks[document.blocks.partition_point(|b| b.start < section.start)..];
    let blocks = &blocks[..blocks.partition_point(|block| block.start < section.end)];
    let range = Chapter { breadcrumb: vec![], href: None, start: section.start, end: section.end };
    let starts = sentence_starts(&document.text, &range, blocks);
    let mut sentences: Vec<Sentence> = Vec::with_capacity(starts.len());
    for (index, &start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(section.end);
        let words = words::count(&document.text[start..end]);
        match sentences.last_mut() {
            Some(before) if words == 0 || before.words == 0 => {
                before.end = end;
                before.words += words;
            }
            _ => sentences.push(Sentence { start, end, words }),
        }
    }
    sentences.retain(|sentence| sentence.start < sentence.end);
    sentences
}

/// The sentences of Alexandria: a text parted at white space after `.`, `!` or `?`, stripped, without those of one or
/// two characters.
#[must_use]
pub fn sentences_of_alexandria(document: &Document, section: &Section) -> Vec<Sentence> {
    let text = &document.text[section.start..section.end];
    let mut sentences = Vec::new();
    let mut add = |part: Range<usize>| {
        let raw = &text[part.clone()];
        let stripped = words::stripped(raw);
        if stripped.chars().nth(SENTENCE_CHARACTERS_MIN - 1).is_some() {
            let start =
                section.start + part.start + (raw.len() - raw.trim_start_matches(words::is_space).len());
            let words = words::count(stripped);
            sentences.push(Sentence { start, end: start + stripped.len(), words });
        }
    };
    let mut from = 0;
    let mut at = 0;
    while let Some(space) = text[at..].find(words::is_space) {
        let space = at + space;
        let after = text[space..].trim_start_matches(words::is_space);
        at = text.len() - after.len();
        if text[..space].ends_with(['.', '!', '?']) {
            add(from..space);
            from = at;
        }
    }
    add(from..text.len());
    sentences
}

/// Where chunks end, given the words of each sentence and, for each but the first, its cosine to the one before.
///
/// # Panics
/// When the lengths do not fit.
#[must_use]
pub fn breaks(words: &[usize], similarities: &[f32], settings: &TopicSettings) -> Vec<Break> {
    assert_eq!(similarities.len(), words.len().saturating_sub(1), "a cosine for each pair of neighbours");
    let mut breaks = Vec::new();
    let mut held_words = words.first().copied().unwrap_or(0);
    for (sentence, (&words, &similarity)) in (1..).zip(words.iter().skip(1).zip(similarities)) {
        let is_topic = f64::from(similarity) < settings.threshold && held_words >= settings.words_min;
        if is_topic || held_words + words > settings.words_max {
            breaks.push(Break { sentence, is_topic });
            held_words = 0;
        }
        held_words += words;
    }
    breaks
}

/// The sentences of each chunk.
#[must_use]
pub fn groups(sentences: usize, breaks: &[Break]) -> Vec<Range<usize>> {
    let mut groups = Vec::with_capacity(breaks.len() + 1);
    let mut start = 0;
    for end in breaks.iter().map(|found| found.sentence).chain([sentences]) {
        if start < end {
            groups.push(start..end);
        }
        start = end;
    }
    groups
}

/// The chunk that a group of sentences is.
#[must_use]
pub fn chunk(document: &Document, sentences: &[Sentence], group: &Range<usize>) -> Chunk {
    chunk_of(document, sentences[group.start].start, sentences[group.end - 1].end, 0)
}

/// The text of such a chunk as Alexandria has it: sentences with one space between them.
#[must_use]
pub fn text_of_alexandria(document: &Document, sentences: &[Sentence]) -> String {
    sentences.iter().map(|s| &document.text[s.start..s.end]).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::sections::merged;
    use crate::encoding::decode;
    use crate::markdown;

    fn document(source: &str) -> Document {
        markdown::document(decode(source.as_bytes().to_vec()))
    }

    fn texts<'a>(document: &'a Document, sentences: &[Sentence]) -> Vec<&'a str> {
        sentences.iter().map(|s| &document.text[s.start..s.end]).collect()
    }

    const SOURCE: &str = "# Title\n\nMr. Holmes sat. He\nsmiled!\n\nO. K. \u{2014} \n\nEnd";

    #[test]
    fn sentences_cover_their_section() {
        let document = document(SOURCE);
        let found = sentences(&document, &merged(&document)[0]);
        let parts = texts(&document, &found);
        assert_eq!(parts.concat(), document.text);
        assert_eq!(parts[..3], ["# Title\n\n", "Mr. Holmes sat. ", "He\nsmiled!\n\n"]);
        assert!(found.iter().all(|sentence| sentence.words > 0));
    }

    #[test]
    fn sentences_of_alexandria_end_at_marks_before_space() {
        let document = document(SOURCE);
        let found = sentences_of_alexandria(&document, &merged(&document)[0]);
        assert_eq!(
            texts(&document, &found),
            ["# Title\n\nMr.", "Holmes sat.", "He\nsmiled!", "\u{2014} \n\nEnd"]
        );
    }

    #[test]
    fn a_chunk_ends_at_a_change_of_topic_or_when_it_is_full() {
        let settings = TopicSettings { threshold: 0.5, words_min: 4, words_max: 8 };
        let found = breaks(&[3, 3, 2, 9, 1, 4], &[0.1, 0.1, 0.9, 0.9, 0.9], &settings);
        let expected = [(2, true), (3, false), (4, false)];
        assert_eq!(found.iter().map(|b| (b.sentence, b.is_topic)).collect::<Vec<_>>(), expected);
        assert_eq!(groups(6, &found), [0..2, 2..3, 3..4, 4..6]);
        assert!(breaks(&[], &[], &settings).is_empty() && groups(0, &[]).is_empty());
    }
}
