//! Windows of words.

use std::ops::Range;

use crate::chunk::sections::Section;
use crate::chunk::words;
use crate::chunk::{Chunk, chunk_of};
use crate::document::Document;

/// Alexandria gives a section of fewer words no chunk at all.
const SECTION_WORDS_MIN: usize = 10;

/// How to cut. The overlap and the minimum are smaller than a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedSettings {
    /// Words of a window.
    pub words: usize,
    /// Words that a window repeats of the one before.
    pub overlap_words: usize,
    /// A last window of fewer words joins the one before.
    pub words_min: usize,
}

/// The windows of a section. Chunks minus their overlaps are the section's text.
#[must_use]
pub fn fixed(document: &Document, section: &Section, settings: &FixedSettings) -> Vec<Chunk> {
    let words: Vec<_> = words::words(&document.text[section.start..section.end]).collect();
    let mut windows = windows(words.len(), settings);
    if let [.., before, last] = windows.as_mut_slice()
        && last.len() < settings.words_min
    {
        before.end = last.end;
        windows.pop();
    }
    let mut end_of_last = section.start;
    let mut chunks = Vec::with_capacity(windows.len());
    for window in windows {
        let start = if window.start == 0 { section.start } else { section.start + words[window.start].start };
        // White space after a word goes with it.
        let end = words.get(window.end).map_or(section.end, |next| section.start + next.start);
        chunks.push(chunk_of(document, start, end, end_of_last - start));
        end_of_last = end;
    }
    chunks
}

/// The windows of Alexandria: white space around them is outside, a short last one stands by itself, and a section of
/// fewer than ten words has none. The text of a window is its words joined by one space.
#[must_use]
pub fn fixed_of_alexandria(document: &Document, section: &Section, settings: &FixedSettings) -> Vec<Chunk> {
    let words: Vec<_> = words::words(&document.text[section.start..section.end]).collect();
    if words.len() < SECTION_WORDS_MIN.min(settings.words_min) {
        return Vec::new();
    }
    let mut end_of_last = section.start;
    let windows = match words.len() < settings.words_min {
        true => std::iter::once(0..words.len()).collect(),
        false => windows(words.len(), settings),
    };
    let chunks = windows.into_iter().map(|window| {
        let (start, end) =
            (section.start + words[window.start].start, section.start + words[window.end - 1].end);
        let chunk = chunk_of(document, start, end, end_of_last.saturating_sub(start));
        end_of_last = end;
        chunk
    });
    chunks.collect()
}

/// Ranges of words, the last one as long as what is left; none of no words.
fn windows(words: usize, settings: &FixedSettings) -> Vec<Range<usize>> {
    let step = settings.words.saturating_sub(settings.overlap_words).max(1);
    let mut windows = Vec::new();
    let mut start = 0;
    while start < words {
        let end = (start + settings.words.max(1)).min(words);
        windows.push(start..end);
        if end == words {
            break;
        }
        start += step;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::sections::merged;
    use crate::encoding::decode;

    fn document(words: usize) -> Document {
        let text: Vec<String> = (0..words).map(|number| format!("w{number}")).collect();
        crate::text::document(decode(format!(" {}\n", text.join("  ")).into_bytes()))
    }

    fn cut(words: usize, settings: (usize, usize, usize)) -> Vec<(String, usize)> {
        let document = document(words);
        let (words, overlap_words, words_min) = settings;
        let settings = FixedSettings { words, overlap_words, words_min };
        let sections = merged(&document);
        let chunks = sections.iter().flat_map(|section| fixed(&document, section, &settings));
        chunks.map(|c| (words::joined(&document.text[c.start..c.end]), c.overlap_bytes)).collect()
    }

    #[test]
    fn windows_overlap_and_a_short_rest_joins() {
        let chunks = cut(7, (4, 1, 2));
        assert_eq!(chunks, [("w0 w1 w2 w3".to_owned(), 0), ("w3 w4 w5 w6".to_owned(), 4)]);
        // 3 and a rest of 1 new word, which with the overlap makes 2.
        assert_eq!(cut(4, (3, 1, 2)), [("w0 w1 w2".to_owned(), 0), ("w2 w3".to_owned(), 4)]);
        assert_eq!(cut(4, (3, 1, 3)), [("w0 w1 w2 w3".to_owned(), 0)]);
        assert_eq!(cut(2, (4, 1, 3)), [("w0 w1".to_owned(), 0)]);
    }

    #[test]
    fn alexandria_drops_a_few_words() {
        let settings = FixedSettings { words: 500, overlap_words: 50, words_min: 100 };
        for (words, expected) in [(9, 0), (10, 1), (99, 1), (500, 1), (501, 2)] {
            let document = document(words);
            let section = &merged(&document)[0];
            assert_eq!(fixed_of_alexandria(&document, section, &settings).len(), expected, "{words} words");
        }
    }
}
