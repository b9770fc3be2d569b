//! All documents of a company as one list of sentences, each with its file and its page.

use std::collections::BTreeMap;

use haul_corpus::document::{BlockKind, Document};

use super::schema::{Line, NumberedUnit, Numbering, Restart};

/// A document and what it is called.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file below the company's folder, with `/` between its parts.
    pub file: String,
    /// What it says.
    pub document: Document,
}

/// What is read together: its sentences are numbered through all its documents.
#[derive(Clone, Debug)]
pub struct Company {
    /// The name of its folder.
    pub name: String,
    /// Its documents, by file name.
    pub sources: Vec<Source>,
    /// Their sentences, document by document.
    pub sentences: Vec<Sentence>,
}

/// A sentence, or what is numbered as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Index into the company's sources.
    pub source: usize,
    /// First byte of the document's text.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// The page that it begins on.
    pub page: Option<u32>,
    /// Whether it is a heading, or a part of one.
    pub is_heading: bool,
    /// The heading it stands under, as an index into the company's sentences.
    pub under: Option<usize>,
    /// As a prompt shows it: one line.
    pub line: String,
}

impl Company {
    /// Takes documents apart. The order is that of the file names, whatever order they come in.
    #[must_use]
    pub fn new(name: &str, mut sources: Vec<Source>, unit: NumberedUnit) -> Company {
        sources.sort_by(|a, b| a.file.cmp(&b.file));
        let mut sentences = Vec::new();
        for (number, source) in sources.iter().enumerate() {
            append(&mut sentences, number, &source.document, unit);
        }
        Company { name: name.to_owned(), sources, sentences }
    }

    /// The language that most of the text is in, by ISO 639-3, where it is known.
    #[must_use]
    pub fn language(&self) -> Option<&str> {
        let mut bytes: BTreeMap<&str, usize> = BTreeMap::new();
        for Source { document, .. } in &self.sources {
            if let Some(language) = &document.detected_language {
                *bytes.entry(language).or_default() += document.text.len();
            }
        }
        // The first of those that are equal, so that the same documents have the same language.
        bytes.into_iter().rev().max_by_key(|(_, bytes)| *bytes).map(|(language, _)| language)
    }

    /// The words of a sentence as they stand in its document.
    #[must_use]
    pub fn text(&self, sentence: usize) -> &str {
        let Sentence { source, start, end, .. } = self.sentences[sentence];
        &self.sources[source].document.text[start..end]
    }

    /// A run of sentences as the lines of a window.
    #[must_use]
    pub fn lines(&self, window: std::ops::Range<usize>, numbering: &Numbering) -> Vec<Line<'_>> {
        let mut last = None;
        let mut lines = Vec::with_capacity(window.len());
        for (at, n) in self.numbers(window, numbering) {
            let sentence = &self.sentences[at];
            let file = self.sources[sentence.source].file.as_str();
            let place = (sentence.source, sentence.page);
            let mark = (last != Some(place)).then(|| match sentence.page {
                Some(page) => format!("{file}, page {page}"),
                None => file.to_owned(),
            });
            last = Some(place);
            lines.push(Line {
                n,
                text: &sentence.line,
                mark,
                file,
                page: sentence.page,
                heading: sentence.is_heading,
            });
        }
        lines
    }

    /// The sentence of a window that has a number; none has one that the window does not show.
    #[must_use]
    pub fn numbered(&self, window: std::ops::Range<usize>, numbering: &Numbering, n: u32) -> Option<usize> {
        self.numbers(window, numbering).into_iter().find(|(_, number)| *number == Some(n)).map(|(at, _)| at)
    }

    /// The smallest and largest number of a window.
    #[must_use]
    pub fn number_range(
        &self,
        window: std::ops::Range<usize>,
        numbering: &Numbering,
    ) -> std::ops::RangeInclusive<u32> {
        let numbers: Vec<u32> = self.numbers(window, numbering).into_iter().filter_map(|(_, n)| n).collect();
        let (first, last) = (numbers.first(), numbers.last());
        *first.unwrap_or(&numbering.first)..=*last.unwrap_or(&numbering.first)
    }

    /// Each sentence of a window with its number.
    fn numbers(&self, window: std::ops::Range<usize>, numbering: &Numbering) -> Vec<(usize, Option<u32>)> {
        let counted_from = match numbering.restart {
            Restart::Window => window.start,
            Restart::Company => 0,
            Restart::Document => {
                let source = self.sentences.get(window.start).map(|sentence| sentence.source);
                self.sentences.partition_point(|sentence| Some(sentence.source) < source)
            }
        };
        let counts = |at: usize| numbering.headings_count || !self.sentences[at].is_heading;
        let before = (counted_from..window.start).filter(|at| counts(*at)).count();
        let mut next = numbering.first.saturating_add(u32::try_from(before).unwrap_or(u32::MAX));
        window
            .map(|at| {
                let n = counts(at).then_some(next);
                next = next.saturating_add(u32::from(n.is_some()));
                (at, n)
            })
            .collect()
    }

    /// Cuts sentences that are too long at spaces, so that none is cut by a model. `count` says how many tokens a line
    /// has; gives how many sentences were cut.
    ///
    /// # Errors
    /// Tokens cannot be counted.
    pub fn split_long<E>(
        &mut self,
        tokens_max: u32,
        mut count: impl FnMut(&[&str]) -> Result<Vec<u32>, E>,
    ) -> Result<usize, E> {
        let mut split = 0;
        loop {
            let lines: Vec<&str> = self.sentences.iter().map(|sentence| sentence.line.as_str()).collect();
            let counted = count(&lines)?;
            let long: Vec<bool> = counted.iter().map(|tokens| *tokens > tokens_max).collect();
            let before = self.sentences.len();
            self.halve(&long);
            let grown = self.sentences.len() - before;
            if grown == 0 {
                return Ok(split);
            }
            split += grown;
        }
    }

    /// Parts of a sentence stand under the same heading; indices move with what grows before them.
    fn halve(&mut self, long: &[bool]) {
        let mut moved = Vec::with_capacity(self.sentences.len());
        let mut sentences: Vec<Sentence> = Vec::with_capacity(self.sentences.len());
        for (at, sentence) in self.sentences.iter().enumerate() {
            moved.push(sentences.len());
            let document = &self.sources[sentence.source].document;
            match long[at].then(|| middle(&document.text, sentence.start, sentence.end)).flatten() {
                Some(cut) => {
                    let part = |start: usize, end: usize| Sentence {
                        start,
                        end,
                        page: document.page_at(start),
                        line: line_of(&document.text[start..end]),
                        ..sentence.clone()
                    };
                    sentences.extend([part(sentence.start, cut), part(cut, sentence.end)]);
                }
                None => sentences.push(sentence.clone()),
            }
        }
        for sentence in &mut sentences {
            sentence.under = sentence.under.map(|under| moved[under]);
        }
        self.sentences = sentences;
    }
}

fn append(sentences: &mut Vec<Sentence>, source: usize, document: &Document, unit: NumberedUnit) {
    let ranges: Vec<(usize, usize, usize)> = match unit {
        NumberedUnit::Sentence => document
            .sentences()
            .into_iter()
            .map(|sentence| (sentence.start, sentence.end, sentence.block))
            .collect(),
        NumberedUnit::Block => document
            .blocks
            .iter()
            .enumerate()
            .map(|(number, block)| (block.start, block.end, number))
            .collect(),
    };
    let mut under = None;
    let mut last_block = None;
    for (start, end, block) in ranges {
        let is_heading = matches!(document.blocks[block].kind, BlockKind::Heading(_));
        if is_heading && last_block != Some(block) {
            under = None;
        }
        let line = line_of(&document.text[start..end]);
        if line.is_empty() {
            // What is blank belongs to the sentence before it; nothing is lost that a model could read.
            continue;
        }
        sentences.push(Sentence {
            source,
            start,
            end,
            page: document.page_at(start),
            is_heading,
            under,
            line,
        });
        if is_heading && under.is_none() {
            under = Some(sentences.len() - 1);
        }
        last_block = Some(block);
    }
}

/// One line, cells of a table apart from each other.
fn line_of(text: &str) -> String {
    if text.trim().is_empty() {
        return String::new();
    }
    let cells: Vec<String> =
        text.split('\t').map(|cell| cell.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    cells.join(" | ").trim().to_owned()
}

/// Behind the space that is nearest to the middle, or else the middle itself; none where there is nothing to cut.
fn middle(text: &str, start: usize, end: usize) -> Option<usize> {
    let part = &text[start..end];
    let half = part.len() / 2;
    let behind_space =
        part.char_indices().filter(|(_, c)| c.is_whitespace()).map(|(at, c)| at + c.len_utf8());
    let has_words = |at: &usize| !part[..*at].trim().is_empty() && !part[*at..].trim().is_empty();
    let at = behind_space.filter(has_words).min_by_key(|at| at.abs_diff(half));
    let at = at.unwrap_or_else(|| part.ceil_char_boundary(half));
    has_words(&at).then_some(start + at)
}

#[cfg(test)]
mod tests {
    use super::line_of;

    #[test]
    fn cells_of_a_row_are_kept_apart() {
        assert_eq!(line_of("Facility A\t250 \t\n 2.75%"), "Facility A | 250 | 2.75%");
        assert_eq!(line_of(" \t "), "");
    }
}
