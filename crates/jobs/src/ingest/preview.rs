//! How documents would be cut: chunks counted and shown, or several thresholds of the semantic chunker side by side.
//!
//! Nothing is written, neither a library nor the cache of parsed text. Documents are read and cut one after another by
//! the same code as in an ingest; the model is loaded only where sentences are compared.

use std::ops::ControlFlow;

use super::metadata::{self, JunkMetadata, Own};
use super::select::{Known, NamedFile};
use haul_corpus::chunk::{topics, words};
use haul_corpus::document::{Document, Format};
use haul_corpus::parse::Parsed;
use haul_corpus::readers::Setup;
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_corpus::worker::Worker;
use haul_encoder::dtype::Dtype;
use haul_encoder::embedder::{Embedder, LoadError};
use haul_encoder::model_dir::ModelDir;
use haul_encoder::tokenizer::TokenizeError;
use haul_pipeline::batch::BatchLimits;
use haul_pipeline::receipt::{Failure, Note};
use haul_pipeline::stage::Stop;
use haul_store::library::DocumentMetadata;
use serde::Serialize;

use super::pieces::{Chunker, Chunking, Cut, Cutting, Parents, Sentences};
use super::tokenized::{Tokenized, is_sliceable};
use super::{IngestError, Inputs, WorkerProgram, semantic};
use crate::quality;

/// Characters of a sample.
const SAMPLE_CHARACTERS: usize = 500;
/// Characters on either side of a break that is shown.
const BREAK_CHARACTERS: usize = 80;
/// Breaks that are shown for each threshold.
const BREAKS_SHOWN: usize = 3;
/// A forced break cuts in the middle of a topic: what it costs in the score, as in Alexandria.
const FORCED_BREAK_COST: f64 = 20.0;
/// Cosines are counted in steps of a thousandth, from -1 to 1.
const COSINE_STEPS: usize = 2001;

/// How to cut, and what to compare.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As in an ingest.
    pub chunking: Chunking,
    /// Cosines to compare as thresholds, rising; none for statistics of the chunks.
    pub thresholds: Vec<f64>,
    /// What sentences are computed with.
    pub dtype: Dtype,
    /// Longest sequence given to the model, special tokens included.
    pub max_tokens: usize,
    /// What stands before a document's text.
    pub document_prompt: String,
    /// Batches that the device works on side by side.
    pub threads: usize,
    /// Size of a batch.
    pub batch: BatchLimits,
    /// What becomes of titles and authors that are none: rules go by them.
    pub junk: JunkMetadata,
}

/// What it is done with.
pub struct Parts<'a> {
    /// The model's files.
    pub model: &'a ModelDir,
    /// Loads the weights in a dtype.
    pub load: &'a dyn Fn(Dtype) -> Result<Embedder, LoadError>,
    /// How a parse worker is started.
    pub worker: &'a WorkerProgram,
    /// What one file may cost, and what reads it.
    pub setup: &'a Setup,
    /// Set when the run should end early.
    pub stop: &'a Stop,
}

/// How documents would be cut.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Preview {
    /// Documents in the order in which they were read; empty when thresholds are compared.
    pub documents: Vec<DocumentPreview>,
    /// Of all documents.
    pub total: Statistics,
    /// Several thresholds on the same sentences.
    pub comparison: Option<Comparison>,
    /// Inputs that give no chunks.
    pub failures: Vec<Failure>,
    /// What would be lost.
    pub notes: Vec<Note>,
    /// Whether it was stopped early.
    pub interrupted: bool,
}

/// One document.
#[derive(Clone, Debug, Serialize)]
pub struct DocumentPreview {
    /// Its path, and which part of it.
    pub item: String,
    /// Its title.
    pub title: String,
    /// What cuts it.
    pub chunker: &'static str,
    /// Sections that would be embedded beside the chunks.
    pub parents: usize,
    /// Its chunks.
    pub chunks: Statistics,
    /// The first chunk, one in the middle and the last.
    pub samples: Vec<Sample>,
}

/// Chunks, counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Statistics {
    /// How many.
    pub count: usize,
    /// Words of a chunk.
    pub words: Spread,
    /// Tokens of a chunk that the model would be given, special tokens not included.
    pub tokens: Spread,
    /// Chunks that are longer than the model takes.
    pub truncated: usize,
    /// Tokens that the model would not see.
    pub truncated_tokens: usize,
}

/// Smallest, mean and largest of some counts; zeros of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Smallest.
    pub min: usize,
    /// Mean.
    pub mean: f64,
    /// Largest.
    pub max: usize,
}

/// How a chunk begins.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Number of the chunk in its document.
    pub chunk_no: usize,
    /// Its words.
    pub words: usize,
    /// Its first characters.
    pub text: String,
}

/// Thresholds side by side.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Sentences of all documents.
    pub sentences: usize,
    /// Their words.
    pub words: usize,
    /// Cosines of neighbours, to a thousandth.
    pub similarity: Option<Cosines>,
    /// One row a threshold.
    pub rows: Vec<ThresholdRow>,
    /// The threshold with the best score, the lowest of equals.
    pub best: Option<f64>,
}

/// How cosines are spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cosines {
    /// Smallest.
    pub min: f64,
    /// Mean.
    pub mean: f64,
    /// Half of them are below.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

/// One threshold.
#[derive(Clone, Debug, Serialize)]
pub struct ThresholdRow {
    /// The cosine.
    pub threshold: f64,
    /// Chunks.
    pub chunks: usize,
    /// Words of a chunk, before any is split for the model.
    pub words: Spread,
    /// Mean cosine of neighbours inside a chunk, on average over chunks of more than one sentence.
    pub coherence: f64,
    /// Chunks that end where the topic changes.
    pub semantic_breaks: usize,
    /// Chunks that end because they are full.
    pub forced_breaks: usize,
    /// 100 x coherence less 20 for each forced break.
    pub score: f64,
    /// The first breaks.
    pub samples: Vec<BreakSample>,
}

/// One break.
#[derive(Clone, Debug, Serialize)]
pub struct BreakSample {
    /// `topic` or `full`.
    pub reason: &'static str,
    /// Cosine of the two sentences.
    pub similarity: f64,
    /// How the sentence before ends.
    pub before: String,
    /// How the sentence after begins.
    pub after: String,
}

/// Reads and cuts what is listed.
///
/// # Errors
/// No worker can be started, or the weights cannot be loaded.
pub fn run(settings: &Settings, inputs: &Inputs, parts: &Parts<'_>) -> Result<Preview, IngestError> {
    inputs.refuse_empty()?;
    let mut run = Run {
        settings,
        parts,
        embedder: None,
        preview: Preview::default(),
        rows: settings.thresholds.iter().map(|&threshold| Row::new(threshold)).collect(),
        cosines: CosineCounts::default(),
        sentences: (0, 0),
    };
    for failure in &inputs.listing.failures {
        let (item, failure) = (failure.path.display().to_string(), failure.failure.clone());
        run.fail(item, &failure);
    }
    let known = Known::nothing(inputs.books.clone());
    let args: Vec<&str> = parts.worker.args.iter().map(String::as_str).collect();
    let mut worker = Worker::spawn(&parts.worker.program, &args, parts.setup)?;
    for file in &inputs.listing.files {
        if parts.stop.requested() {
            break;
        }
        run.read(&mut worker, &known.name(file.clone()))?;
    }
    Ok(run.finish())
}

struct Run<'a> {
    settings: &'a Settings,
    parts: &'a Parts<'a>,
    embedder: Option<Embedder>,
    preview: Preview,
    rows: Vec<Row>,
    cosines: CosineCounts,
    /// Sentences, and their words.
    sentences: (usize, usize),
}

/// Why a document is not shown.
enum Refusal {
    Failed(ParseFailure),
    Stopped,
    Broken(IngestError),
}

impl From<TokenizeError> for Refusal {
    fn from(error: TokenizeError) -> Refusal {
        Refusal::Failed(ParseFailure::new(Verdict::Failed, error.to_string()))
    }
}

impl Run<'_> {
    fn read(&mut self, worker: &mut Worker, file: &NamedFile) -> Result<(), IngestError> {
        let shown = file.shown();
        let Some(format) = file.file.format else {
            self.fail(shown, &ParseFailure::new(Verdict::Unsupported, "no reader for this kind of file"));
            return Ok(());
        };
        let mut result = Ok(());
        let read = worker.parse(&file.file.path, format, &mut |parsed: Parsed| {
            let item = parsed.part.as_ref().map_or_else(|| shown.clone(), |part| format!("{shown}#{part}"));
            let cut = match parsed.document {
                Ok(document) => self.cut(&item, parsed.part.as_deref(), file, &document),
                Err(failure) => Err(Refusal::Failed(failure)),
            };
            match cut {
                Ok(()) => {}
                Err(Refusal::Failed(failure)) => self.fail(item, &failure),
                Err(Refusal::Stopped) => return ControlFlow::Break(()),
                Err(Refusal::Broken(error)) => {
                    result = Err(error);
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        if let Err(failure) = read {
            self.fail(shown, &failure);
        }
        result
    }

    fn cut(
        &mut self,
        item: &str,
        part: Option<&str>,
        file: &NamedFile,
        document: &Document,
    ) -> Result<(), Refusal> {
        let settings = self.settings;
        let cutting = Cutting {
            model: self.parts.model,
            max_tokens: settings.max_tokens,
            prompt: &settings.document_prompt,
            chunking: &settings.chunking,
            stop: self.parts.stop,
        };
        let skipped = |why| Refusal::Failed(ParseFailure::new(Verdict::Skipped, why));
        let described = metadata::describe(file, part, Own::of(document), settings.junk);
        if let Some(why) = described.skipped {
            return Err(skipped(why));
        }
        let DocumentMetadata { title, authors, .. } = described.metadata;
        let chosen = cutting.chunker(&title, &authors).map_err(skipped)?;
        let chunker = if settings.thresholds.is_empty() { chosen } else { Chunker::Semantic };
        let sections = cutting.sections(document, file.file.format.map_or("", Format::name), chunker);
        for says in &sections.losses {
            self.preview.notes.push(Note { item: item.to_owned(), says: says.clone() });
        }
        let cuts = if chunker == Chunker::Semantic {
            let sentences = cutting.sentences(document, &sections.all);
            let (tokenized, similarities) = self.compared(&cutting, document, &sentences)?;
            if !settings.thresholds.is_empty() {
                self.compare(&cutting, document, &sentences, &similarities);
                return Ok(());
            }
            cutting.cuts_by_topic(document, &tokenized, &sentences, &similarities)?
        } else {
            cutting.cuts(document, chunker, &sections.all)?
        };
        let cuts = cuts.ok_or(Refusal::Stopped)?;
        if cuts.iter().all(|cut| cut.chunk.tokens == 0) {
            let why = sections.losses.first().map_or("the text has no tokens", String::as_str);
            return Err(Refusal::Failed(ParseFailure::new(Verdict::Empty, why)));
        }
        let parents = match settings.chunking.parents {
            Parents::Embedded => sections.all.len(),
            Parents::Left => 0,
        };
        self.show(item, &title, chunker, parents, document, &cuts);
        Ok(())
    }

    /// The sentences of a document, tokenized, and their cosines.
    fn compared(
        &mut self,
        cutting: &Cutting<'_>,
        document: &Document,
        sentences: &Sentences,
    ) -> Result<(Tokenized, Vec<f32>), Refusal> {
        let mut tokenized = Tokenized::empty(is_sliceable(cutting.model, cutting.prompt));
        let ids = sentences.all.iter().map(|sentence| cutting.sentence(document, sentence, &mut tokenized));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let embedder = match self.embedder.take() {
            Some(embedder) => embedder,
            None => (self.parts.load)(self.settings.dtype).map_err(|error| Refusal::Broken(error.into()))?,
        };
        let embedder = self.embedder.insert(embedder);
        let Settings { batch, threads, .. } = *self.settings;
        let failed = |why| {
            Refusal::Failed(ParseFailure::new(Verdict::Failed, format!("a sentence has no vector: {why}")))
        };
        let rows = quality::rows(embedder, &ids, batch, threads, self.parts.stop).map_err(failed)?;
        let rows = rows.ok_or(Refusal::Stopped)?;
        let rows = rows.into_iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
        Ok((tokenized, semantic::similarities(&rows)))
    }

    fn show(
        &mut self,
        item: &str,
        title: &str,
        chunker: Chunker,
        parents: usize,
        document: &Document,
        cuts: &[Cut],
    ) {
        let text = |cut: &Cut| match &cut.text {
            Some(text) => text.clone(),
            None => document.text[cut.chunk.start..cut.chunk.end].to_owned(),
        };
        let special_tokens = self.parts.model.tokenizer.special_tokens();
        let mut chunks = Statistics::default();
        for cut in cuts {
            let (words, tokens) = (words::count(&text(cut)), cut.ids.len() - special_tokens);
            for statistics in [&mut chunks, &mut self.preview.total] {
                statistics.add(words, tokens, cut.truncated_tokens);
            }
        }
        let mut shown = vec![0, cuts.len() / 2, cuts.len() - 1];
        shown.dedup();
        let samples = shown.into_iter().map(|chunk_no| {
            let text = text(&cuts[chunk_no]);
            Sample { chunk_no, words: words::count(&text), text: beginning(&text, SAMPLE_CHARACTERS) }
        });
        let samples = samples.collect();
        let (item, title) = (item.to_owned(), title.to_owned());
        let document = DocumentPreview { item, title, chunker: chunker.name(), parents, chunks, samples };
        self.preview.documents.push(document);
    }

    fn compare(
        &mut self,
        cutting: &Cutting<'_>,
        document: &Document,
        sentences: &Sentences,
        similarities: &[f32],
    ) {
        self.sentences.0 += sentences.all.len();
        self.sentences.1 += sentences.all.iter().map(|sentence| sentence.words).sum::<usize>();
        for section in &sentences.of_sections {
            for similarity in &similarities[section.start..section.end.max(section.start + 1) - 1] {
                self.cosines.add(f64::from(*similarity));
            }
        }
        for row in &mut self.rows {
            let settings =
                topics::TopicSettings { threshold: row.shown.threshold, ..self.settings.chunking.topics };
            let breaks = cutting.breaks(sentences, similarities, &settings);
            for (section, breaks) in sentences.of_sections.iter().zip(&breaks) {
                let own = &sentences.all[section.clone()];
                let between = &similarities[section.start..section.end.max(section.start + 1) - 1];
                row.add(document, own, between, breaks);
            }
        }
    }

    fn fail(&mut self, item: String, failure: &ParseFailure) {
        let (verdict, why) = (failure.verdict.name().to_owned(), failure.why.clone());
        self.preview.failures.push(Failure { item, verdict, why });
    }

    fn finish(mut self) -> Preview {
        self.preview.interrupted = self.parts.stop.requested();
        if !self.settings.thresholds.is_empty() {
            let rows: Vec<ThresholdRow> = self.rows.into_iter().map(Row::finish).collect();
            let better =
                |best: Option<&ThresholdRow>, row: &ThresholdRow| best.is_none_or(|b| row.score > b.score);
            let mut best = None;
            for row in rows.iter().filter(|row| row.chunks > 0) {
                if better(best, row) {
                    best = Some(row);
                }
            }
            self.preview.comparison = Some(Comparison {
                sentences: self.sentences.0,
                words: self.sentences.1,
                similarity: self.cosines.finish(),
                best: best.map(|row| row.threshold),
                rows,
            });
        }
        self.preview
    }
}

impl Statistics {
    fn add(&mut self, words: usize, tokens: usize, truncated_tokens: usize) {
        self.words.add(words, self.count);
        self.tokens.add(tokens, self.count);
        self.count += 1;
        self.truncated += usize::from(truncated_tokens > 0);
        self.truncated_tokens += truncated_tokens;
    }
}

impl Spread {
    /// One more, after `count`.
    fn add(&mut self, value: usize, count: usize) {
        self.min = if count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.mean += (value as f64 - self.mean) / (count + 1) as f64;
    }
}

/// A row that is being added up.
struct Row {
    shown: ThresholdRow,
    coherences: usize,
}

impl Row {
    fn new(threshold: f64) -> Row {
        let shown = ThresholdRow {
            threshold,
            chunks: 0,
            words: Spread::default(),
            coherence: 0.0,
            semantic_breaks: 0,
            forced_breaks: 0,
            score: 0.0,
            samples: vec![],
        };
        Row { shown, coherences: 0 }
    }

    /// The sentences of a section, the cosines between them, and where its chunks end.
    fn add(
        &mut self,
        document: &Document,
        sentences: &[topics::Sentence],
        between: &[f32],
        breaks: &[topics::Break],
    ) {
        let shown = &mut self.shown;
        for group in topics::groups(sentences.len(), breaks) {
            let words = sentences[group.clone()].iter().map(|sentence| sentence.words).sum();
            shown.words.add(words, shown.chunks);
            shown.chunks += 1;
            let inside = &between[group.start..group.end - 1];
            if !inside.is_empty() {
                let mean = inside.iter().map(|&cosine| f64::from(cosine)).sum::<f64>() / inside.len() as f64;
                // The sum, until it is finished.
                shown.coherence += mean;
                self.coherences += 1;
            }
        }
        for found in breaks {
            shown.semantic_breaks += usize::from(found.is_topic);
            shown.forced_breaks += usize::from(!found.is_topic);
            if shown.samples.len() < BREAKS_SHOWN {
                let text = |at: usize| words::joined(&document.text[sentences[at].start..sentences[at].end]);
                shown.samples.push(BreakSample {
                    reason: if found.is_topic { "topic" } else { "full" },
                    similarity: f64::from(between[found.sentence - 1]),
                    before: end(&text(found.sentence - 1), BREAK_CHARACTERS),
                    after: beginning(&text(found.sentence), BREAK_CHARACTERS),
                });
            }
        }
    }

    fn finish(self) -> ThresholdRow {
        let coherence = self.shown.coherence / self.coherences.max(1) as f64;
        let score = 100.0 * coherence - FORCED_BREAK_COST * self.shown.forced_breaks as f64;
        ThresholdRow { coherence, score, ..self.shown }
    }
}

/// Cosines, counted by thousandths, so that a library of any size takes the same memory.
struct CosineCounts {
    counts: Vec<u64>,
    sum: f64,
    range: Option<(f64, f64)>,
}

impl Default for CosineCounts {
    fn default() -> Self {
        CosineCounts { counts: vec![0; COSINE_STEPS], sum: 0.0, range: None }
    }
}

impl CosineCounts {
    fn add(&mut self, cosine: f64) {
        let half = (COSINE_STEPS - 1) as f64 / 2.0;
        let step = ((cosine + 1.0) * half).round().clamp(0.0, 2.0 * half);
        self.counts[step as usize] += 1;
        self.sum += cosine;
        let (min, max) = self.range.unwrap_or((cosine, cosine));
        self.range = Some((min.min(cosine), max.max(cosine)));
    }

    fn finish(&self) -> Option<Cosines> {
        let (min, max) = self.range?;
        let count: u64 = self.counts.iter().sum();
        let mut below = 0;
        let median = self.counts.iter().position(|here| {
            below += here;
            2 * below >= count
        });
        let half = (COSINE_STEPS - 1) as f64 / 2.0;
        let median = median.map_or(0.0, |step| step as f64 / half - 1.0);
        Some(Cosines { min, mean: self.sum / count as f64, median, max })
    }
}

fn beginning(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn end(text: &str, characters: usize) -> String {
    match text.char_indices().rev().nth(characters) {
        Some((before, c)) => format!("...{}", &text[before + c.len_utf8()..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_and_medians() {
        let mut statistics = Statistics::default();
        for (words, tokens) in [(4, 8), (2, 4), (9, 9)] {
            statistics.add(words, tokens, usize::from(words == 9));
        }
        assert_eq!((statistics.count, statistics.truncated, statistics.truncated_tokens), (3, 1, 1));
        assert_eq!(statistics.words, Spread { min: 2, mean: 5.0, max: 9 });
        let mut cosines = CosineCounts::default();
        assert_eq!(cosines.finish(), None);
        for cosine in [0.5, -1.0, 1.0, 0.25, 0.1] {
            cosines.add(cosine);
        }
        let found = cosines.finish().unwrap();
        assert!((found.median - 0.25).abs() < 1e-9 && (found.mean - 0.17).abs() < 1e-9, "{found:?}");
        assert_eq!((found.min, found.max), (-1.0, 1.0));
    }

    #[test]
    fn long_texts_are_shown_from_the_right_side() {
        assert_eq!((beginning("äbc", 2), beginning("äb", 2)), ("äb...".to_owned(), "äb".to_owned()));
        assert_eq!((end("äbc", 2), end("bc", 2)), ("...bc".to_owned(), "bc".to_owned()));
    }
}
