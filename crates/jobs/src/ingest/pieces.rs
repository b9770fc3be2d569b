//! From a document to the texts that the model will see: chunks, each within what it takes, and sections.

use std::ops::Range;

use haul_corpus::chunk::fixed::{FixedSettings, fixed, fixed_of_alexandria};
use haul_corpus::chunk::sections::{self, Section};
use haul_corpus::chunk::topics::{self, Sentence, TopicSettings};
use haul_corpus::chunk::{self, Chunk, ChunkSettings, words};
use haul_corpus::document::Document;
use haul_encoder::model_dir::ModelDir;
use haul_encoder::tokenizer::TokenizeError;
use haul_pipeline::stage::Stop;

use super::policy::{Chosen, Policy};
use super::tokenized::{Tokenized, is_separator, is_sliceable, windows};

/// Alexandria embeds so many words of a section: its 8,192 tokens, `int(8192 / 1.3)`.
const SECTION_WORDS_MAX: usize = 6301;
/// What it puts behind them.
const TRUNCATION_MARK: &str = " [truncated]";

/// Bytes of a text that are thought to hold a token, with some to spare.
const TOKEN_BYTES: usize = 8;

/// How documents are cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunking {
    /// The chunker of documents that the policy says nothing of.
    pub chunker: Chunker,
    /// Chooses another by title and author.
    pub policy: Option<Policy>,
    /// Of [`Chunker::Tokens`]; the model's own limit applies as well.
    pub tokens: ChunkSettings,
    /// Of [`Chunker::Fixed`].
    pub fixed: FixedSettings,
    /// Of [`Chunker::Semantic`].
    pub topics: TopicSettings,
    /// Whether sections and chunks keep everything.
    pub losses: Losses,
    /// Whether sections are embedded as well.
    pub parents: Parents,
}

/// What cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunker {
    /// Whole sentences up to a number of tokens, never across chapters.
    Tokens,
    /// One chunk a document, cut off at the model's limit and reported.
    Whole,
    /// Windows of words.
    Fixed,
    /// Ends where the topic changes.
    Semantic,
}

impl Chunker {
    /// The name in flags, libraries and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Chunker::Tokens => "tokens",
            Chunker::Whole => "whole",
            Chunker::Fixed => "fixed",
            Chunker::Semantic => "semantic",
        }
    }

    /// The chunker of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Chunker> {
        let all = [Chunker::Tokens, Chunker::Whole, Chunker::Fixed, Chunker::Semantic];
        all.into_iter().find(|chunker| chunker.name() == name)
    }
}

/// What chunkers by words may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    /// Nothing: short sections are merged, long chunks are split.
    None,
    /// What Alexandria loses: short sections and sentences are dropped, long chunks are truncated; all of it counted.
    AsAlexandria,
}

/// Whether sections are embedded beside their chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parents {
    /// Chunks alone.
    Left,
    /// Sections too.
    Embedded,
}

/// A chunk with the ids that the model will see.
pub(crate) struct Cut {
    pub(crate) chunk: Chunk,
    /// Its text, where that is not a part of the document's, byte for byte.
    pub(crate) text: Option<String>,
    /// With the special tokens.
    pub(crate) ids: Vec<u32>,
    pub(crate) truncated_tokens: usize,
}

/// A section with the ids that the model will see.
pub(crate) struct Parent {
    pub(crate) section: Section,
    /// What is embedded, where that is not the whole section.
    pub(crate) embedded: Option<String>,
    /// With the special tokens.
    pub(crate) ids: Vec<u32>,
}

/// The sections of a document, and what is outside of them.
#[derive(Default)]
pub(crate) struct Sections {
    pub(crate) all: Vec<Section>,
    pub(crate) losses: Vec<String>,
}

/// The sentences of a document's sections.
pub(crate) struct Sentences {
    pub(crate) all: Vec<Sentence>,
    /// Those of each section.
    pub(crate) of_sections: Vec<Range<usize>>,
}

/// What cutting needs beside the document.
pub(crate) struct Cutting<'a> {
    pub(crate) model: &'a ModelDir,
    /// Longest sequence, special tokens included.
    pub(crate) max_tokens: usize,
    /// What stands before every text.
    pub(crate) prompt: &'a str,
    pub(crate) chunking: &'a Chunking,
    pub(crate) stop: &'a Stop,
}

impl Cutting<'_> {
    /// The chunker of a document, or why it is left out.
    pub(crate) fn chunker(&self, title: &str, authors: &[String]) -> Result<Chunker, String> {
        let policy = self.chunking.policy.as_ref();
        match policy.and_then(|policy| policy.choose(title, authors)) {
            None => Ok(self.chunking.chunker),
            Some((Chosen::Semantic, _)) => Ok(Chunker::Semantic),
            Some((Chosen::Fixed, _)) => Ok(Chunker::Fixed),
            Some((Chosen::Tokens, _)) => Ok(Chunker::Tokens),
            Some((Chosen::None, rule)) => Err(format!("left out by the policy's rule {rule}")),
        }
    }

    /// The sections that a chunker cuts, or whose vectors stand beside its chunks; none where nobody needs them.
    pub(crate) fn sections(&self, document: &Document, format_name: &str, chunker: Chunker) -> Sections {
        let by_words = matches!(chunker, Chunker::Fixed | Chunker::Semantic);
        let wants_parents = self.chunking.parents == Parents::Embedded && chunker != Chunker::Whole;
        match self.chunking.losses {
            _ if !by_words && !wants_parents => Sections::default(),
            Losses::AsAlexandria if by_words => {
                let found = sections::of_alexandria(document, format_name);
                let short = format!("under {} words", sections::SHORT_WORDS);
                let dropped = [
                    (found.short, short.as_str()),
                    (found.outside, "outside the first level of the outline"),
                ];
                let losses = dropped.into_iter().filter(|(dropped, _)| dropped.words > 0);
                let losses = losses.map(|(dropped, which)| {
                    format!("{} sections {which} dropped, {} words", dropped.sections, dropped.words)
                });
                Sections { all: found.sections, losses: losses.collect() }
            }
            _ => Sections { all: sections::merged(document), losses: vec![] },
        }
    }

    /// Chunks of every chunker but the semantic one; `None` when a stop was asked for meanwhile.
    pub(crate) fn cuts(
        &self,
        document: &Document,
        chunker: Chunker,
        sections: &[Section],
    ) -> Result<Option<Vec<Cut>>, TokenizeError> {
        if chunker == Chunker::Whole {
            return self.whole(document).map(Some);
        }
        let tokenized = self.tokenized(&document.text)?;
        if chunker == Chunker::Tokens {
            let chunk_tokens = self.chunking.tokens.chunk_tokens.min(self.budget_tokens()?);
            let settings = ChunkSettings { chunk_tokens, ..self.chunking.tokens };
            return self.fitted(
                document,
                &tokenized,
                chunk::by_tokens(document, tokenized.offsets(), &settings),
            );
        }
        let settings = &self.chunking.fixed;
        if self.chunking.losses == Losses::None {
            let chunks = sections.iter().flat_map(|section| fixed(document, section, settings)).collect();
            return self.fitted(document, &tokenized, chunks);
        }
        let mut cuts = Vec::new();
        for section in sections {
            let is_short = words::count(&document.text[section.start..section.end]) < settings.words_min;
            for chunk in fixed_of_alexandria(document, section, settings) {
                let text = &document.text[chunk.start..chunk.end];
                // A short section is taken as it stands.
                let text = if is_short { text.to_owned() } else { words::joined(text) };
                cuts.push(self.truncated(document, &tokenized, chunk, text)?);
            }
        }
        Ok(Some(cuts))
    }

    /// The sentences that the semantic chunker compares.
    pub(crate) fn sentences(&self, document: &Document, sections: &[Section]) -> Sentences {
        let mut all = Vec::new();
        let of_sections = sections.iter().map(|section| {
            let first = all.len();
            all.extend(match self.chunking.losses {
                Losses::None => topics::sentences(document, section),
                Losses::AsAlexandria => topics::sentences_of_alexandria(document, section),
            });
            first..all.len()
        });
        let of_sections = of_sections.collect();
        Sentences { all, of_sections }
    }

    /// Adds a sentence to what is tokenized, and returns the ids by which it is compared: its beginning, where it is
    /// longer than the model takes.
    pub(crate) fn sentence(
        &self,
        document: &Document,
        sentence: &Sentence,
        tokenized: &mut Tokenized,
    ) -> Result<Vec<u32>, TokenizeError> {
        let tokenizer = &self.model.tokenizer;
        let raw = &document.text[sentence.start..sentence.end];
        let start = sentence.start + (raw.len() - raw.trim_start().len());
        let ids = tokenized.add(tokenizer, &document.text, start..start + raw.trim().len())?;
        let prompted;
        let ids = match super::tokenized::is_plain(self.model, self.prompt) {
            true => ids,
            false => {
                prompted = self.encoded(raw.trim())?;
                &prompted
            }
        };
        Ok(tokenizer.frame(&ids[..ids.len().min(self.room_tokens())]))
    }

    /// Where chunks end by how alike neighbouring sentences are, section by section.
    pub(crate) fn breaks(
        &self,
        sentences: &Sentences,
        similarities: &[f32],
        settings: &TopicSettings,
    ) -> Vec<Vec<topics::Break>> {
        let words: Vec<usize> = sentences.all.iter().map(|sentence| sentence.words).collect();
        let of_section = |section: &Range<usize>| {
            let between = section.start..section.end.max(section.start + 1) - 1;
            topics::breaks(&words[section.clone()], &similarities[between], settings)
        };
        sentences.of_sections.iter().map(of_section).collect()
    }

    /// Chunks of the semantic chunker; `None` when a stop was asked for meanwhile.
    pub(crate) fn cuts_by_topic(
        &self,
        document: &Document,
        tokenized: &Tokenized,
        sentences: &Sentences,
        similarities: &[f32],
    ) -> Result<Option<Vec<Cut>>, TokenizeError> {
        let breaks = self.breaks(sentences, similarities, &self.chunking.topics);
        let groups = sentences.of_sections.iter().zip(&breaks).flat_map(|(section, breaks)| {
            let own = &sentences.all[section.clone()];
            topics::groups(own.len(), breaks).into_iter().map(move |group| (own, group))
        });
        if self.chunking.losses == Losses::None {
            let chunks = groups.map(|(own, group)| topics::chunk(document, own, &group)).collect();
            return self.fitted(document, tokenized, chunks);
        }
        let cuts = groups.map(|(own, group)| {
            let text = topics::text_of_alexandria(document, &own[group.clone()]);
            self.truncated(document, tokenized, topics::chunk(document, own, &group), text)
        });
        cuts.collect::<Result<_, _>>().map(Some)
    }

    /// The sections as the model will see them.
    pub(crate) fn parents(
        &self,
        document: &Document,
        sections: Vec<Section>,
    ) -> Result<Vec<Parent>, TokenizeError> {
        if self.chunking.parents == Parents::Left {
            return Ok(Vec::new());
        }
        let parent = |section: Section| {
            let text = &document.text[section.start..section.end];
            let beginning = words::words(text).take(SECTION_WORDS_MAX + 1).collect::<Vec<_>>();
            let is_long = beginning.len() > SECTION_WORDS_MAX;
            let embedded = is_long.then(|| {
                let text = &text[..beginning[SECTION_WORDS_MAX - 1].end];
                match self.chunking.losses {
                    Losses::None => text.to_owned(),
                    Losses::AsAlexandria => words::joined(text) + TRUNCATION_MARK,
                }
            });
            let ids = self.beginning(embedded.as_deref().unwrap_or(text))?;
            let ids = self.model.tokenizer.frame(&ids[..ids.len().min(self.room_tokens())]);
            Ok(Parent { section, embedded, ids })
        };
        sections.into_iter().map(parent).collect()
    }

    /// The whole text, tokenized.
    pub(crate) fn tokenized(&self, text: &str) -> Result<Tokenized, TokenizeError> {
        Tokenized::whole(&self.model.tokenizer, text, is_sliceable(self.model, self.prompt))
    }

    /// Each chunk within what the model takes: one that is over it is cut in two between sentences, and so on.
    fn fitted(
        &self,
        document: &Document,
        tokenized: &Tokenized,
        mut waiting: Vec<Chunk>,
    ) -> Result<Option<Vec<Cut>>, TokenizeError> {
        let (room_tokens, budget_tokens) = (self.room_tokens(), self.budget_tokens()?);
        let tokenizer = &self.model.tokenizer;
        waiting.reverse();
        let mut cuts = Vec::with_capacity(waiting.len());
        while let Some(mut chunk) = waiting.pop() {
            if self.stop.requested() {
                return Ok(None);
            }
            if let Some(before) = cuts.last().map(|cut: &Cut| cut.chunk.start)
                && chunk.overlap_bytes > 0
                && chunk.start < before
            {
                // The chunk before was parted, and an overlap repeats the end of its last part alone.
                chunk.overlap_bytes -= before - chunk.start;
                chunk.start = before;
            }
            let bytes = chunk.start..chunk.end;
            chunk.tokens = tokenized.count(&bytes);
            // A text cut out of its surroundings may tokenize a little longer than inside them.
            if chunk.tokens <= budget_tokens {
                let ids = self.ids(document, tokenized, &bytes)?;
                if ids.len() <= room_tokens {
                    let ids = tokenizer.frame(&ids);
                    cuts.push(Cut { chunk, text: None, ids, truncated_tokens: 0 });
                    continue;
                }
            }
            let smaller = chunk::split(document, tokenized.offsets(), &chunk);
            if let Some(smaller) = smaller.or_else(|| halves(document, &chunk)) {
                waiting.extend(smaller.into_iter().rev());
                continue;
            }
            let ids = self.ids(document, tokenized, &bytes)?;
            let kept = &ids[..ids.len().min(room_tokens)];
            let truncated_tokens = ids.len() - kept.len();
            cuts.push(Cut { chunk, text: None, ids: tokenizer.frame(kept), truncated_tokens });
        }
        Ok(Some(cuts))
    }

    /// A chunk as Alexandria has it: the model sees the beginning of one that is over its limit.
    fn truncated(
        &self,
        document: &Document,
        tokenized: &Tokenized,
        mut chunk: Chunk,
        text: String,
    ) -> Result<Cut, TokenizeError> {
        let bytes = chunk.start..chunk.end;
        // Spaces took the place of other white space, which may be control characters to a tokenizer.
        let raw = &document.text[bytes.clone()];
        let is_same = raw.chars().all(|c| !c.is_whitespace() && !c.is_control() || matches!(c, ' ' | '\n'));
        let ids = tokenized.ids(&document.text, &bytes).filter(|_| is_same);
        let ids = ids.map_or_else(|| self.encoded(&text), |ids| Ok(ids.to_vec()))?;
        let kept = &ids[..ids.len().min(self.room_tokens())];
        chunk.tokens = ids.len();
        let truncated_tokens = ids.len() - kept.len();
        Ok(Cut { chunk, text: Some(text), ids: self.model.tokenizer.frame(kept), truncated_tokens })
    }

    /// One chunk for the whole text, of which the model sees the beginning.
    fn whole(&self, document: &Document) -> Result<Vec<Cut>, TokenizeError> {
        if document.text.is_empty() {
            return Ok(Vec::new());
        }
        let tokenizer = &self.model.tokenizer;
        let prompted = format!("{}{}", self.prompt, document.text);
        let text = self.model.prepare(&prompted);
        let mut kept = Vec::new();
        let mut tokens = 0;
        for window in windows(&text) {
            let ids = tokenizer.encode(&text[window])?.ids;
            tokens += ids.len();
            kept.extend(ids.into_iter().take(self.room_tokens() - kept.len()));
        }
        let truncated_tokens = tokens - kept.len();
        let end = document.text.len();
        let chunk = Chunk { start: 0, end, overlap_bytes: 0, tokens, chapter: 0, truncated_tokens };
        Ok(vec![Cut { chunk, text: None, ids: tokenizer.frame(&kept), truncated_tokens }])
    }

    /// Ids of a part of the document, prompt included.
    fn ids(
        &self,
        document: &Document,
        tokenized: &Tokenized,
        bytes: &Range<usize>,
    ) -> Result<Vec<u32>, TokenizeError> {
        match tokenized.ids(&document.text, bytes) {
            Some(ids) => Ok(ids.to_vec()),
            None => self.encoded(&document.text[bytes.clone()]),
        }
    }

    fn encoded(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let prompted = format!("{}{text}", self.prompt);
        Ok(self.model.tokenizer.encode(&self.model.prepare(&prompted))?.ids)
    }

    /// Ids of a text, at least as many as the model takes: of a long text only its beginning is tokenized.
    fn beginning(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let mut bytes = self.room_tokens() * TOKEN_BYTES;
        while is_sliceable(self.model, self.prompt) && bytes < text.len() {
            let end = text[..text.floor_char_boundary(bytes)].rfind(is_separator).unwrap_or(text.len());
            let ids = self.encoded(&text[..end])?;
            if ids.len() >= self.room_tokens() {
                return Ok(ids);
            }
            bytes *= 2;
        }
        self.encoded(text)
    }

    /// Tokens that the model takes beside the special ones.
    fn room_tokens(&self) -> usize {
        self.max_tokens - self.model.tokenizer.special_tokens()
    }

    /// What the prompt leaves of them, one at least.
    fn budget_tokens(&self) -> Result<usize, TokenizeError> {
        let prompt_tokens = self.model.tokenizer.encode(self.prompt)?.ids.len();
        Ok(self.room_tokens() - prompt_tokens.min(self.room_tokens() - 1))
    }
}

/// A chunk cut in the middle of its characters. A word of more letters than a tokenizer takes is one token, and its
/// parts may be many.
fn halves(document: &Document, chunk: &Chunk) -> Option<Vec<Chunk>> {
    let text = words::stripped(&document.text[chunk.start..chunk.end]);
    let characters = text.chars().count();
    let middle = text.char_indices().nth(characters / 2).map(|(at, _)| at).filter(|_| characters > 1)?;
    let leading = document.text[chunk.start..chunk.end].find(text)?;
    let cut = chunk.start + leading + middle;
    let chapter = chunk::chapter_at(document, cut);
    Some(vec![Chunk { end: cut, ..*chunk }, Chunk { start: cut, overlap_bytes: 0, chapter, ..*chunk }])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use haul_corpus::chunk::words::joined;
    use haul_corpus::document::{Block, BlockKind, Chapter};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::semantic::similarities;
    use super::*;

    /// The committed model of the encoder's tests: 48 tokens of BERT.
    fn model() -> ModelDir {
        ModelDir::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../encoder/tests/golden/tiny-bert"))
            .unwrap()
    }

    /// A text of one block in each chapter; chapters end after the given shares of it.
    fn document(text: &str, chapter_ends: &[usize]) -> Document {
        let mut document = Document { text: text.to_owned(), ..Document::default() };
        let mut start = 0;
        for (index, &end) in chapter_ends.iter().chain([&text.len()]).enumerate() {
            let end = text.floor_char_boundary(end.min(text.len()));
            if end > start {
                let chapter = document.chapters.len();
                let breadcrumb = vec![format!("Chapter {index}")];
                document.chapters.push(Chapter { breadcrumb, href: None, start, end });
                document.blocks.push(Block { kind: BlockKind::Paragraph, start, end, chapter });
                start = end;
            }
        }
        document
    }

    fn chunking(losses: Losses) -> Chunking {
        Chunking {
            chunker: Chunker::Semantic,
            policy: None,
            tokens: ChunkSettings { chunk_tokens: 46, overlap_sentences: 1 },
            fixed: FixedSettings { words: 20, overlap_words: 5, words_min: 10 },
            topics: TopicSettings { threshold: 0.5, words_min: 5, words_max: 40 },
            losses,
            parents: Parents::Left,
        }
    }

    fn golden() -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/alexandria_chunks.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn number(value: &Value) -> usize {
        usize::try_from(value.as_u64().unwrap()).unwrap()
    }

    /// A text as one section, whatever its length.
    fn one_section(document: &Document) -> Vec<Section> {
        let section = Section { name: "all".to_owned(), start: 0, end: document.text.len() };
        if document.text.is_empty() { vec![] } else { vec![section] }
    }

    #[test]
    fn chunks_are_those_of_alexandria() {
        let (model, stop, golden) = (model(), Stop::default(), golden());
        let mut compared = 0;
        for case in golden["chunks"].as_array().unwrap() {
            let document = document(case["text"].as_str().unwrap(), &[]);
            let sections = one_section(&document);
            let rows: Vec<Vec<f32>> = serde_json::from_value(case["vectors"].clone()).unwrap();
            for expected in case["semantic"].as_array().unwrap() {
                let topics = TopicSettings {
                    threshold: expected["threshold"].as_f64().unwrap(),
                    words_min: number(&expected["words_min"]),
                    words_max: number(&expected["words_max"]),
                };
                let chunking = Chunking { topics, ..chunking(Losses::AsAlexandria) };
                let cutting =
                    Cutting { model: &model, max_tokens: 48, prompt: "", chunking: &chunking, stop: &stop };
                let sentences = cutting.sentences(&document, &sections);
                let texts = sentences.all.iter().map(|s| &document.text[s.start..s.end]);
                assert_eq!(Value::from(texts.collect::<Vec<_>>()), case["sentences"]);
                let mut tokenized = Tokenized::empty(is_sliceable(&model, ""));
                for sentence in &sentences.all {
                    cutting.sentence(&document, sentence, &mut tokenized).unwrap();
                }
                let cuts = cutting.cuts_by_topic(&document, &tokenized, &sentences, &similarities(&rows));
                check_texts(&cutting, &cuts.unwrap().unwrap(), &expected["chunks"]);
                compared += 1;
            }
            for expected in case["fixed"].as_array().unwrap() {
                let fixed = FixedSettings {
                    words: number(&expected["words"]),
                    overlap_words: number(&expected["overlap_words"]),
                    words_min: number(&expected["words_min"]),
                };
                let chunking = Chunking { fixed, ..chunking(Losses::AsAlexandria) };
                let cutting =
                    Cutting { model: &model, max_tokens: 48, prompt: "", chunking: &chunking, stop: &stop };
                let cuts = cutting.cuts(&document, Chunker::Fixed, &sections);
                check_texts(&cutting, &cuts.unwrap().unwrap(), &expected["chunks"]);
                compared += 1;
            }
        }
        assert_eq!(compared, 6 * (9 + 4));
    }

    /// The texts are the golden's, and the model sees the beginning of what the tokenizer makes of each.
    fn check_texts(cutting: &Cutting<'_>, cuts: &[Cut], expected: &Value) {
        let texts: Vec<String> = cuts.iter().map(|cut| cut.text.clone().unwrap()).collect();
        assert_eq!(Value::from(texts.clone()), *expected);
        for (cut, text) in cuts.iter().zip(&texts) {
            let ids = cutting.encoded(text).unwrap();
            let kept = &ids[..ids.len().min(46)];
            assert_eq!(cut.ids, cutting.model.tokenizer.frame(kept), "{text:?}");
            assert_eq!(cut.truncated_tokens, ids.len() - kept.len());
        }
    }

    /// Only the beginning of a long section is tokenized; the ids are those of all of it.
    #[test]
    fn a_long_parent_begins_as_its_text_does() {
        let (model, stop) = (model(), Stop::default());
        let chunking = Chunking { parents: Parents::Embedded, ..chunking(Losses::AsAlexandria) };
        let cutting = Cutting { model: &model, max_tokens: 48, prompt: "", chunking: &chunking, stop: &stop };
        let text = format!(
            "{} {}\nend. {}",
            "w".repeat(900),
            "a\u{b}b ".repeat(30),
            "on and on ".repeat(SECTION_WORDS_MAX)
        );
        let document = document(&text, &[]);
        let parents = cutting.parents(&document, one_section(&document)).unwrap();
        let embedded = parents[0].embedded.as_deref().unwrap();
        assert_eq!(words::count(embedded), SECTION_WORDS_MAX + 1);
        assert!(embedded.ends_with(" [truncated]"));
        assert_eq!(parents[0].ids, model.tokenizer.frame(&cutting.encoded(embedded).unwrap()[..46]));
    }

    #[test]
    fn sections_are_those_of_alexandria() {
        let golden = golden();
        for case in golden["sections"].as_array().unwrap() {
            let parts: Vec<(String, usize)> = serde_json::from_value(case["parts"].clone()).unwrap();
            let lines: Vec<String> =
                parts.iter().map(|(word, count)| vec![word.as_str(); *count].join(" ")).collect();
            let mut document = document(&lines.join("\n"), &[]);
            document.chapters[0].breadcrumb.clear();
            for format in ["pdf", "text"] {
                let found = sections::of_alexandria(&document, format).sections;
                let count = |s: &Section| words::count(&document.text[s.start..s.end]);
                let shown: Vec<_> = found.iter().map(|s| (s.name.clone(), count(s))).collect();
                let expected: Vec<(String, usize)> = serde_json::from_value(case[format].clone()).unwrap();
                assert_eq!(shown, expected, "{format}: {parts:?}");
            }
        }
    }

    /// Words, marks and white space of all kinds; now and then a sentence or a word that is far too long.
    fn text() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            8 => "[a-zA-Zäé天]{1,9}",
            1 => "[a-z]{60,90}",
            1 => Just("Mr.".to_owned()),
            1 => "[0-9]{1,4}",
        ];
        let end = prop_oneof![
            Just(" "),
            Just(". "),
            Just("! "),
            Just("\n"),
            Just("?\n\n"),
            Just(".\u{a0}"),
            Just("\u{85}"),
            Just("。")
        ];
        prop::collection::vec((word, end), 0..160)
            .prop_map(|parts| parts.into_iter().map(|(word, end)| word + end).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        /// No chunker loses a byte, no chunk is more than the model takes, and what it is given is what the tokenizer
        /// makes of the text.
        #[test]
        fn chunks_cover_the_text_within_the_model(
            text in text(),
            ends in prop::collection::vec(0_usize..900, 0..4),
            vectors in prop::collection::vec(prop::array::uniform3(-1.0_f32..1.0), 700),
            prompt in prop_oneof![3 => Just(""), 1 => Just("passage: ")],
            max_tokens in prop_oneof![Just(48_usize), Just(9)],
        ) {
            let mut ends = ends;
            ends.sort_unstable();
            let document = document(&text, &ends);
            prop_assert_eq!(document.check(), Ok(()));
            let (model, stop, chunking) = (model(), Stop::default(), chunking(Losses::None));
            let cutting = Cutting { model: &model, max_tokens, prompt, chunking: &chunking, stop: &stop };
            for chunker in [Chunker::Tokens, Chunker::Fixed, Chunker::Semantic] {
                let sections = cutting.sections(&document, "epub", chunker).all;
                let cuts = if chunker == Chunker::Semantic {
                    let sentences = cutting.sentences(&document, &sections);
                    let mut tokenized = Tokenized::empty(is_sliceable(&model, prompt));
                    for sentence in &sentences.all {
                        let ids = cutting.sentence(&document, sentence, &mut tokenized).unwrap();
                        prop_assert!(ids.len() <= max_tokens);
                    }
                    let rows: Vec<Vec<f32>> =
                        vectors.iter().take(sentences.all.len()).map(|row| row.to_vec()).collect();
                    cutting.cuts_by_topic(&document, &tokenized, &sentences, &similarities(&rows))
                } else {
                    cutting.cuts(&document, chunker, &sections)
                };
                check_cover(&cutting, &document, &cuts.unwrap().unwrap())?;
            }
        }
    }

    fn check_cover(cutting: &Cutting<'_>, document: &Document, cuts: &[Cut]) -> Result<(), TestCaseError> {
        let fresh =
            cuts.iter().map(|cut| &document.text[cut.chunk.start + cut.chunk.overlap_bytes..cut.chunk.end]);
        prop_assert_eq!(fresh.collect::<String>(), document.text.as_str());
        for (index, cut) in cuts.iter().enumerate() {
            prop_assert!(cut.ids.len() <= cutting.max_tokens);
            let chapter = &document.chapters[cut.chunk.chapter];
            prop_assert!((chapter.start..chapter.end).contains(&(cut.chunk.start + cut.chunk.overlap_bytes)));
            let text = &document.text[cut.chunk.start..cut.chunk.end];
            let ids = cutting.encoded(text).unwrap();
            // Only what cannot be parted is cut off, and then counted.
            prop_assert!(cut.truncated_tokens == 0 || joined(text).chars().count() <= 1, "{:?}", text);
            let kept = &ids[..ids.len() - cut.truncated_tokens];
            prop_assert_eq!(&cut.ids, &cutting.model.tokenizer.frame(kept), "{:?}", text);
            if cut.chunk.overlap_bytes > 0 {
                prop_assert!(cuts[index - 1].chunk.start <= cut.chunk.start);
            }
        }
        Ok(())
    }
}
