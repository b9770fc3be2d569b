//! BM25 for stores that rank by sparse vectors: a text's terms, weighted.
//!
//! The terms are those of the library's own full text: an FTS5 table in memory with the same tokenizer makes them. A
//! term's place in the vector is 32 bits of its blake3. The weight in a document is the part of BM25 that does not
//! know the other documents; the store multiplies by the inverse document frequency when it searches.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::points::Point;
use crate::schema;
use crate::settings::LibrarySettings;

/// As FTS5's own `bm25()` has them.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// Place and weight of each distinct term; places rise.
pub(crate) type Weights = Vec<(u32, f32)>;

/// Splits texts into terms.
pub(crate) struct Terms {
    db: Connection,
    expected_words: f64,
}

impl Terms {
    /// For documents as `settings` cut them.
    pub(crate) fn new(settings: &LibrarySettings) -> rusqlite::Result<Self> {
        let db = Connection::open_in_memory()?;
        db.execute_batch(&format!(
            "CREATE VIRTUAL TABLE texts USING fts5(text, content = '', tokenize = '{}');
            CREATE VIRTUAL TABLE terms USING fts5vocab(texts, instance);",
            schema::TOKENIZER
        ))?;
        Ok(Self { db, expected_words: expected_words(settings) })
    }

    /// Weights of the terms of each text, as a document.
    pub(crate) fn of_documents(&self, texts: &[&str]) -> rusqlite::Result<Vec<Weights>> {
        let counts = self.counts(texts)?;
        Ok(counts.into_iter().map(|counts| self.saturated(&counts)).collect())
    }

    /// Weights of the terms of each point. A parent has none: no search returns it, and what its children say would
    /// count twice in the frequencies of the store.
    pub(crate) fn of_points(&self, points: &[Point]) -> rusqlite::Result<Vec<Weights>> {
        let texts: Vec<&str> = points.iter().map(|point| point.ranked_text().unwrap_or_default()).collect();
        self.of_documents(&texts)
    }

    /// Weights of the terms of a query: how often each comes.
    pub(crate) fn of_query(&self, text: &str) -> rusqlite::Result<Weights> {
        let counts = self.counts(&[text])?.pop().unwrap_or_default();
        Ok(counts.into_iter().map(|(place, count)| (place, count as f32)).collect())
    }

    fn counts(&self, texts: &[&str]) -> rusqlite::Result<Vec<BTreeMap<u32, f64>>> {
        self.db.execute_batch("INSERT INTO texts (texts) VALUES ('delete-all')")?;
        let mut put = self.db.prepare_cached("INSERT INTO texts (rowid, text) VALUES (?1, ?2)")?;
        for (number, text) in texts.iter().enumerate() {
            put.execute((number as u64, text))?;
        }
        let mut counts = vec![BTreeMap::new(); texts.len()];
        let mut found = self.db.prepare_cached("SELECT doc, term, count(*) FROM terms GROUP BY doc, term")?;
        let mut rows = found.query([])?;
        while let Some(row) = rows.next()? {
            let number: usize = row.get(0)?;
            let place = place(row.get_ref(1)?.as_str()?);
            if let Some(counts) = counts.get_mut(number) {
                *counts.entry(place).or_insert(0.0) += row.get::<_, f64>(2)?;
            }
        }
        Ok(counts)
    }

    /// `tf (k1 + 1) / (tf + k1 (1 - b + b length / expected length))` (Robertson, Zaragoza 2009).
    fn saturated(&self, counts: &BTreeMap<u32, f64>) -> Weights {
        let words: f64 = counts.values().sum();
        let room = K1 * (1.0 - B + B * words / self.expected_words);
        counts.iter().map(|(place, count)| (*place, (count * (K1 + 1.0) / (count + room)) as f32)).collect()
    }
}

/// Words of a full chunk. What the library really has on average is not known while documents still come, and weights
/// that were stored cannot follow it.
fn expected_words(settings: &LibrarySettings) -> f64 {
    let words = match (&settings.chunkers.fixed, &settings.chunkers.semantic) {
        (Some(fixed), _) => fixed.words,
        (None, Some(semantic)) => (semantic.words_min + semantic.words_max) / 2,
        // Three words take about four tokens in English.
        (None, None) => settings.chunk_tokens * 3 / 4,
    };
    words.max(1) as f64
}

fn place(term: &str) -> u32 {
    let [a, b, c, d, ..] = *blake3::hash(term.as_bytes()).as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::library::Chunkers;

    fn settings() -> LibrarySettings {
        LibrarySettings {
            model_name: "tiny".to_owned(),
            model_sha256: "00".to_owned(),
            dim: 4,
            dtype: "f32".to_owned(),
            pooling: "mean".to_owned(),
            normalize: true,
            max_tokens: 256,
            chunker: "tokens".to_owned(),
            chunk_tokens: 8,
            overlap_sentences: 1,
            query_prompt: String::new(),
            document_prompt: String::new(),
            parser_version: 1,
            chunker_version: 1,
            numerics_version: 1,
            chunkers: Chunkers::default(),
            sparse: false,
        }
    }

    /// By hand: six words where six are expected, so `1 - b + b = 1`: once gives 2.2 / 2.2, twice gives 4.4 / 3.2.
    #[test]
    fn weights_by_hand() {
        let terms = Terms::new(&settings()).unwrap();
        let weights = terms.of_documents(&["Whales, and the whale: blue as", "other"]).unwrap();
        let whale = terms.of_query("whale").unwrap()[0];
        let weight =
            |of: &Weights, place: u32| of.iter().find(|(p, _)| *p == place).map(|(_, weight)| *weight);
        assert_eq!(whale.1, 1.0);
        assert!((weight(&weights[0], whale.0).unwrap() - 4.4 / 3.2).abs() < 1e-6);
        assert_eq!(weight(&weights[1], whale.0), None);
        assert!((weight(&weights[0], terms.of_query("BLUE").unwrap()[0].0).unwrap() - 1.0).abs() < 1e-6);
        assert!(weights[0].is_sorted_by(|a, b| a.0 < b.0));
    }
}
