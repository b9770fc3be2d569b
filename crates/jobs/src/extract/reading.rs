//! A company as a model reads it: its windows, rendered once, and which of them answer a question best.

use std::ops::RangeInclusive;

use haul_generate::{GenerateError, Generator};
use haul_pipeline::journal::Journal;

use super::ExtractError;
use super::documents::Company;
use super::record::{CompanyCoverage, WindowPlace};
use super::retrieve::Query;
use super::retrieve::bm25::Bm25;
use super::retrieve::hybrid::{Embedding, Hybrid, HybridError};
use super::schema::explain::{ExplainError, explain};
use super::schema::{Field, Language, Schema};
use super::windows::{self, Room, Window, coverage};

/// What stands around a window and a question: the marks of the turns, and a name that is longer than the made-up one.
const TEMPLATE_TOKENS: u32 = 48;
/// A number in brackets and the line break of a line.
const LINE_TOKENS: u32 = 5;
/// Bytes of a token where nobody can count them.
const TOKEN_BYTES: usize = 3;

/// A company with its windows.
pub struct Reading<'a> {
    /// What is looked for.
    pub schema: &'a Schema,
    /// What was read.
    pub company: Company,
    /// Its windows, file by file.
    pub windows: Vec<Window>,
    /// Each as it stands in prompts.
    pub documents: Vec<String>,
    /// The numbers of each window's sentences.
    pub numbers: Vec<RangeInclusive<u32>>,
    /// What the schema knows of the language of the documents, where it is not its own.
    pub language: Option<&'a Language>,
    /// Sentences that were cut because they are longer than a window.
    pub split: usize,
    bm25: Bm25,
    hybrid: Option<Hybrid>,
}

/// Tokens that windows may have with this model.
///
/// # Errors
/// The context has no room for a window, or tokens cannot be counted.
pub fn window_tokens(
    schema: &Schema,
    asked: Option<u32>,
    generator: &mut Generator,
) -> Result<u32, ExtractError> {
    let context = generator.facts().context_tokens;
    let explained =
        explain(schema, context, |texts| generator.count_tokens(texts)).map_err(|error| match error {
            ExplainError::Count(error) => ExtractError::Generate(error),
            ExplainError::Prompt(error) => ExtractError::Prompt(error),
        })?;
    let room = explained.window_tokens.unwrap_or(0);
    let beside = match explained.context_tokens {
        // The window takes all that question and answer leave: what stands around them is taken off.
        Some(_) if room < schema.limits.window_tokens => room.saturating_sub(TEMPLATE_TOKENS),
        _ => room,
    };
    let tokens = asked.map_or(beside, |asked| asked.min(beside));
    if tokens < LINE_TOKENS * 4 {
        return Err(ExtractError::ContextTooSmall { context: explained.context_tokens.unwrap_or(0) });
    }
    Ok(tokens)
}

impl<'a> Reading<'a> {
    /// Cuts a company into windows of at most so many tokens.
    ///
    /// # Errors
    /// Tokens cannot be counted, a template fails.
    pub fn new(
        schema: &'a Schema,
        mut company: Company,
        tokens_max: u32,
        generator: &mut Generator,
    ) -> Result<Reading<'a>, ExtractError> {
        let mut count = |lines: &[&str]| -> Result<Vec<u32>, GenerateError> {
            let counted = generator.count_tokens(lines)?;
            let by_bytes =
                || lines.iter().map(|line| u32::try_from(line.len() / TOKEN_BYTES + 1).unwrap_or(u32::MAX));
            let tokens = counted.unwrap_or_else(|| by_bytes().collect());
            Ok(tokens.into_iter().map(|tokens| tokens.saturating_add(LINE_TOKENS)).collect())
        };
        let split = company.split_long(tokens_max, &mut count)?;
        let lines: Vec<&str> = company.sentences.iter().map(|sentence| sentence.line.as_str()).collect();
        let tokens = count(&lines)?;
        let windows = windows::cut(&company, &tokens, &Room::of(&schema.limits, tokens_max))?;
        let language = company.language().and_then(|code| schema.language(code));
        let name = language.map(|language| language.name.as_str());
        let mut documents = Vec::with_capacity(windows.len());
        let mut numbers = Vec::with_capacity(windows.len());
        for window in &windows {
            let lines = company.lines(window.sentences.clone(), &schema.numbering);
            documents.push(schema.document(&lines, name)?);
            numbers.push(company.number_range(window.sentences.clone(), &schema.numbering));
        }
        let texts = windows.iter().map(|window| text(&company, window)).collect::<Vec<_>>();
        let bm25 = Bm25::new(texts.iter().map(String::as_str));
        Ok(Reading { schema, windows, documents, numbers, language, split, bm25, company, hybrid: None })
    }

    /// From now on windows are ranked by vectors as well as by words.
    ///
    /// # Errors
    /// A text has no vector, a stop was asked for, or the journal that keeps vectors.
    pub fn embed(&mut self, embedding: &Embedding<'_>, journal: &mut Journal) -> Result<(), HybridError> {
        let mut queries = Query::of_entities(self.schema, self.language);
        queries
            .extend(self.schema.fields().map(|field| Query::of_fields(self.schema, [field], self.language)));
        let hybrid = Hybrid::new(&self.company, &self.windows, &queries, embedding, journal)?;
        self.hybrid = Some(hybrid);
        Ok(())
    }

    /// The language as prompts name it.
    #[must_use]
    pub fn language_name(&self) -> Option<&str> {
        self.language.map(|language| language.name.as_str())
    }

    /// All windows, those first that answer a question for fields best; windows without a word of it in their own order.
    #[must_use]
    pub fn ranked<'f>(&self, fields: impl IntoIterator<Item = &'f Field>) -> Vec<usize> {
        self.ranked_by(&[Query::of_fields(self.schema, fields, self.language)])
    }

    /// All windows, those first that are likeliest to name entities.
    #[must_use]
    pub fn ranked_for_entities(&self) -> Vec<usize> {
        self.ranked_by(&Query::of_entities(self.schema, self.language))
    }

    /// The best of every question, then the second of every question, and so on.
    fn ranked_by(&self, queries: &[Query]) -> Vec<usize> {
        let ranked: Vec<Vec<usize>> = queries
            .iter()
            .map(|query| {
                let ranked = match &self.hybrid {
                    Some(hybrid) => hybrid.rank(&self.bm25, query),
                    None => self.bm25.rank(&query.terms),
                };
                ranked.into_iter().map(|ranked| ranked.window).collect()
            })
            .collect();
        let longest = ranked.iter().map(Vec::len).max().unwrap_or(0);
        let in_turns = (0..longest).flat_map(|place| ranked.iter().filter_map(move |list| list.get(place)));
        let mut is_in = vec![false; self.windows.len()];
        let mut order: Vec<usize> = Vec::with_capacity(self.windows.len());
        for window in in_turns.copied().chain(0..self.windows.len()) {
            if !std::mem::replace(&mut is_in[window], true) {
                order.push(window);
            }
        }
        order
    }

    /// What of the text is in windows, and where they are.
    #[must_use]
    pub fn coverage(&self) -> CompanyCoverage {
        let covered = coverage(&self.company, &self.windows);
        let place = |window: &Window| {
            let first = &self.company.sentences[window.sentences.start];
            let last = &self.company.sentences[window.sentences.end - 1];
            WindowPlace {
                file: self.company.sources[first.source].file.clone(),
                page: first.page,
                start: first.start,
                end: last.end,
                tokens: window.tokens,
            }
        };
        CompanyCoverage {
            company: self.company.name.clone(),
            windows: self.windows.iter().map(place).collect(),
            bytes: (covered.bytes, covered.covered),
            cells: vec![],
        }
    }
}

fn text(company: &Company, window: &Window) -> String {
    let lines = company.sentences[window.sentences.clone()].iter().map(|sentence| sentence.line.as_str());
    lines.collect::<Vec<_>>().join("\n")
}
