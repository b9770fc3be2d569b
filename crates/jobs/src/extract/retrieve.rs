//! Which windows answer a question: BM25 over words, cosine of vectors, or both fused by rank.
//!
//! A question is made from what a schema says of fields, never from a model, so the same documents have the same ranking
//! in every run: synonyms are expanded in the schema's order, and among equals the earlier window comes first.

pub mod bm25;
pub mod dense;
pub mod embed;
pub mod hybrid;

use haul_store::search::reciprocal_rank_fusion;

use super::schema::{Field, Language, Schema};
use bm25::{Bm25, Term};

/// `k` of reciprocal rank fusion (Cormack, Clarke, Buettcher 2009), as in `haul search`.
const FUSION_K: f64 = 60.0;
/// A word of a synonym counts half a word of the schema.
const SYNONYM_WEIGHT: f64 = 0.5;
/// Two words of a phrase, side by side as in the phrase, count half a word more.
const PAIR_WEIGHT: f64 = 0.5;

/// How windows are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Words.
    Bm25,
    /// Vectors.
    Dense,
    /// Both, fused by rank.
    Hybrid,
}

/// A question to the windows of a company.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// Words with their weights, each once, in the order of the schema.
    pub terms: Vec<Term>,
    /// What is embedded, each by itself: a list of keywords is no text that a model has seen.
    pub phrases: Vec<String>,
}

/// A window and how well it answers; larger is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// Index of the window.
    pub window: usize,
    /// Of the ranking: BM25, cosine, or the sum of 1 / (60 + rank).
    pub score: f64,
}

impl Query {
    /// What finds the places where fields are stated: their keywords, the words of their names, and what other languages
    /// call them.
    #[must_use]
    pub fn of_fields<'a>(
        schema: &Schema,
        fields: impl IntoIterator<Item = &'a Field>,
        language: Option<&Language>,
    ) -> Query {
        let mut phrases: Vec<&str> = Vec::new();
        let mut meanings: Vec<&str> = Vec::new();
        for field in fields {
            phrases.extend(field.keywords.iter().map(String::as_str));
            phrases.push(&field.name);
            if let Some(language) = language {
                let own = language.keywords.iter().filter(|(name, _)| *name == field.name);
                phrases.extend(own.flat_map(|(_, words)| words).map(String::as_str));
            }
            meanings.push(&field.description);
        }
        Query::new(schema, &phrases, &meanings, language)
    }

    /// What finds the places where entities are named: a question each.
    #[must_use]
    pub fn of_entities(schema: &Schema, language: Option<&Language>) -> Vec<Query> {
        let others = language.map_or(&[][..], |language| &language.entities);
        let named = schema.retrieval.entities.iter().chain(others);
        let mut queries: Vec<Query> =
            named.map(|question| Query::new(schema, &[question], &[], language)).collect();
        if queries.is_empty() {
            let entity = &schema.entity;
            let phrases: Vec<&str> = [entity.name.as_str(), &entity.plural]
                .into_iter()
                .chain(entity.types.iter().map(String::as_str))
                .collect();
            queries.push(Query::new(schema, &phrases, &[&entity.description], language));
        }
        queries
    }

    fn new(schema: &Schema, phrases: &[&str], meanings: &[&str], language: Option<&Language>) -> Query {
        let mut terms: Vec<Term> = Vec::new();
        let own: Vec<Vec<String>> = phrases.iter().map(|phrase| bm25::words(phrase)).collect();
        for word in own.iter().flatten() {
            add(&mut terms, word, 1.0);
        }
        for pair in own.iter().flat_map(|phrase| bm25::pairs(phrase)) {
            add(&mut terms, &pair, PAIR_WEIGHT);
        }
        let families = schema
            .retrieval
            .synonyms
            .iter()
            .chain(language.into_iter().flat_map(|language| &language.synonyms));
        for family in families {
            let members: Vec<Vec<String>> = family.iter().map(|member| bm25::words(member)).collect();
            let is_meant = |member: &Vec<String>| own.iter().any(|phrase| holds(phrase, member));
            if members.iter().any(is_meant) {
                for word in members.iter().flatten() {
                    add(&mut terms, word, SYNONYM_WEIGHT);
                }
            }
        }
        let mut said: Vec<String> = Vec::new();
        for phrase in meanings.iter().chain(phrases).map(|phrase| phrase.replace('_', " ")) {
            if !phrase.trim().is_empty() && !said.contains(&phrase) {
                said.push(phrase);
            }
        }
        Query { terms, phrases: said }
    }
}

/// A word that is there keeps its weight: the schema's own words come first.
fn add(terms: &mut Vec<Term>, word: &str, weight: f64) {
    if !terms.iter().any(|term| term.word == word) {
        terms.push(Term { word: word.to_owned(), weight });
    }
}

/// Whether words stand in a phrase one behind the other.
fn holds(phrase: &[String], words: &[String]) -> bool {
    !words.is_empty() && phrase.windows(words.len()).any(|part| part == words)
}

/// The windows that a question can be asked of, best first. `vectors` are those of the windows and of the question's
/// phrases; where there are none, only words count.
#[must_use]
pub fn rank(
    bm25: &Bm25,
    vectors: Option<(&dense::Vectors, &[Vec<f32>])>,
    query: &Query,
    mode: Mode,
) -> Vec<Ranked> {
    let by_words = || bm25.rank(&query.terms);
    let by_vectors = |(vectors, of_query): (&dense::Vectors, &[Vec<f32>])| vectors.rank(of_query);
    match (mode, vectors) {
        (Mode::Bm25, _) | (Mode::Hybrid, None) => by_words(),
        (Mode::Dense, None) => Vec::new(),
        (Mode::Dense, Some(vectors)) => by_vectors(vectors),
        (Mode::Hybrid, Some(vectors)) => {
            let rankings = [by_words(), by_vectors(vectors)]
                .map(|ranking| ranking.into_iter().map(|ranked| ranked.window).collect::<Vec<_>>());
            reciprocal_rank_fusion(&rankings.each_ref().map(Vec::as_slice), FUSION_K)
                .into_iter()
                .map(|(window, score)| Ranked { window, score })
                .collect()
        }
    }
}

/// Best first, among equals the earlier window.
fn best_first(mut ranked: Vec<Ranked>) -> Vec<Ranked> {
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.window.cmp(&b.window)));
    ranked
}
