//! Retrieval quality against judgments: nDCG@10, recall@10 and MRR@10 over documents.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use haul_store::search::Hit;
use serde::{Deserialize, Serialize};

use super::{Question, SearchError, Searcher};

/// Documents that count in each ranking.
pub const CUT: usize = 10;
/// Passages fetched for each wanted document: several passages of one document count once, as its best.
const PASSAGES_PER_DOCUMENT: usize = 10;

/// A question with an id that judgments refer to; one line of a JSONL file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Query {
    /// As in the judgments.
    pub id: String,
    /// The question.
    pub text: String,
}

/// Gain by document, by query id. A document is named by its path below the root, by its part (the `id` of a
/// JSONL line), or by `path#part`.
pub type Judgments = HashMap<String, HashMap<String, f64>>;

/// Means over the judged queries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Discounted cumulative gain of the first ten over that of the ideal ten; gain / log2(rank + 1).
    #[serde(rename = "ndcg@10")]
    pub ndcg: f64,
    /// Share of a query's relevant documents among the first ten.
    #[serde(rename = "recall@10")]
    pub recall: f64,
    /// One over the rank of the first relevant document among the first ten, else 0.
    #[serde(rename = "mrr@10")]
    pub mrr: f64,
    /// Queries with at least one relevant document; the others say nothing and are left out of the means.
    pub queries: usize,
    /// Queries left out.
    pub unjudged: usize,
}

/// A file of queries or judgments that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {why}", path.display())]
pub struct InputError {
    /// The file.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// What is wrong there.
    pub why: String,
}

/// Reads `{"id","text"}` lines.
///
/// # Errors
/// The first line that is not one, and an id that comes twice.
pub fn parse_queries(path: &std::path::Path, content: &str) -> Result<Vec<Query>, InputError> {
    let mut ids = HashSet::new();
    lines(content)
        .map(|(line, text)| {
            let failed = |why: String| InputError { path: path.to_owned(), line, why };
            let query: Query = serde_json::from_str(text).map_err(|error| failed(error.to_string()))?;
            if !ids.insert(query.id.clone()) {
                return Err(failed(format!("query id {:?} comes twice", query.id)));
            }
            Ok(query)
        })
        .collect()
}

/// Reads TREC judgments: `query-id iteration document-id gain`. Gains of 0 and below mean not relevant.
///
/// # Errors
/// The first line that is not one.
pub fn parse_judgments(path: &std::path::Path, content: &str) -> Result<Judgments, InputError> {
    let mut judgments = Judgments::new();
    for (line, text) in lines(content) {
        let failed = |why: String| InputError { path: path.to_owned(), line, why };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [query, _, document, gain] = fields[..] else {
            return Err(failed(format!("{} fields where `query 0 document gain` has 4", fields.len())));
        };
        let gain: f64 = gain.parse().map_err(|_| failed(format!("the gain {gain:?} is not a number")))?;
        if !gain.is_finite() {
            return Err(failed(format!("the gain {gain} is not finite")));
        }
        if gain > 0.0 {
            judgments.entry(query.to_owned()).or_default().insert(document.to_owned(), gain);
        }
    }
    Ok(judgments)
}

fn lines(content: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(content.lines()).filter(|(_, text)| !text.trim().is_empty())
}

/// Asks every judged query and averages.
///
/// # Errors
/// The first query that cannot be asked.
pub fn evaluate(
    searcher: &Searcher,
    queries: &[Query],
    judgments: &Judgments,
    question: &Question,
) -> Result<Evaluation, SearchError> {
    let question = Question { limit: CUT * PASSAGES_PER_DOCUMENT, context: 0, ..question.clone() };
    let mut sum = Scores::default();
    let mut judged = 0;
    for query in queries {
        let Some(gains) = judgments.get(&query.id) else { continue };
        let answer = searcher.search(&query.text, &question)?;
        sum.add(&score(&ranked_gains(&answer.outcome.hits, gains), gains));
        judged += 1;
    }
    let mean = |sum: f64| sum / f64::from(judged.max(1));
    Ok(Evaluation {
        ndcg: mean(sum.ndcg),
        recall: mean(sum.recall),
        mrr: mean(sum.mrr),
        queries: judged as usize,
        unjudged: queries.len() - judged as usize,
    })
}

/// Gains of the first [`CUT`] documents.
fn ranked_gains(hits: &[Hit], gains: &HashMap<String, f64>) -> Vec<f64> {
    let mut seen = HashSet::new();
    hits.iter()
        .filter(|hit| seen.insert(hit.doc_id))
        .take(CUT)
        .map(|hit| names(hit).iter().find_map(|name| gains.get(name)).copied().unwrap_or(0.0))
        .collect()
}

fn names(hit: &Hit) -> Vec<String> {
    match &hit.part {
        Some(part) => vec![part.clone(), format!("{}#{part}", hit.relative_path)],
        None => vec![hit.relative_path.clone()],
    }
}

#[derive(Default)]
struct Scores {
    ndcg: f64,
    recall: f64,
    mrr: f64,
}

impl Scores {
    fn add(&mut self, other: &Scores) {
        self.ndcg += other.ndcg;
        self.recall += other.recall;
        self.mrr += other.mrr;
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of at most a few thousand documents")]
fn score(ranked: &[f64], gains: &HashMap<String, f64>) -> Scores {
    let discounted = |gains: &[f64]| -> f64 {
        gains.iter().zip(1..).map(|(gain, rank)| gain / f64::from(rank + 1).log2()).sum()
    };
    let mut ideal: Vec<f64> = gains.values().copied().collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    ideal.truncate(CUT);
    let relevant = ranked.iter().filter(|gain| **gain > 0.0).count();
    let first = ranked.iter().position(|gain| *gain > 0.0);
    Scores {
        ndcg: discounted(ranked) / discounted(&ideal),
        recall: relevant as f64 / gains.len() as f64,
        mrr: first.map_or(0.0, |position| 1.0 / (position + 1) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// By hand: the ideal order of gains 3, 2, 1 is worth 3/log2(2) + 2/log2(3) + 1/log2(4) = 4.7619; the ranking
    /// (0, 3, 1) is worth 3/log2(3) + 1/log2(4) = 2.3928.
    #[test]
    fn scores_by_hand() {
        let gains = HashMap::from([("a".to_owned(), 3.0), ("b".to_owned(), 2.0), ("c".to_owned(), 1.0)]);
        let scores = score(&[0.0, 3.0, 1.0], &gains);
        assert!((scores.ndcg - 2.392_789_26 / 4.761_859_51).abs() < 1e-8, "{}", scores.ndcg);
        assert!((scores.recall - 2.0 / 3.0).abs() < 1e-12);
        assert!((scores.mrr - 0.5).abs() < 1e-12);
    }

    #[test]
    fn judgments_without_gain_are_not_relevant_and_bad_lines_are_named() {
        let path = Path::new("j.qrels");
        let judgments = parse_judgments(path, "1 0 a 2\n\n1 0 b 0\n1 0 c -1\n").unwrap();
        assert_eq!(judgments["1"], HashMap::from([("a".to_owned(), 2.0)]));
        let error = parse_judgments(path, "1 0 a 2\n1 0 b\n").unwrap_err();
        assert_eq!(error.to_string(), "j.qrels:2: 3 fields where `query 0 document gain` has 4");
        assert!(parse_queries(path, "{\"id\":\"1\",\"text\":\"a\"}\n{\"id\":\"1\",\"text\":\"b\"}").is_err());
    }
}
