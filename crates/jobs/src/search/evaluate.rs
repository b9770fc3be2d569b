//! Retrieval quality against judgments: nDCG, recall, MRR and precision over the first `k` documents, as a whole and
//! by the categories of the questions.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use haul_store::qdrant::catalogue;
use haul_store::search::{self as store, Hit};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::{Question, SearchError, Searcher, Source};

/// Documents that count in each ranking, where nothing else is asked for.
pub const CUT: usize = 10;
/// Most documents that may count: a search gives ten times as many passages.
pub const CUT_MAX: usize = 1000;
/// Passages fetched for each wanted document: several passages of one document count once, as its best.
const PASSAGES_PER_DOCUMENT: usize = 10;

/// A question with an id that judgments refer to; one line of a JSONL file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Query {
    /// As in the judgments.
    pub id: String,
    /// The question.
    pub text: String,
    /// A group of questions that is also averaged by itself.
    #[serde(default)]
    pub category: Option<String>,
}

/// Gain by document, by query id. A document is named by its path below the root, by its part (the `id` of a
/// JSONL line), by `path#part`, or by its title in any letter case. A name counts once, at the first document that has
/// it.
pub type Judgments = HashMap<String, HashMap<String, f64>>;

/// Means over the judged queries. As JSON, the names of the figures have the cut in them: `ndcg@10`.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Documents that counted in each ranking.
    pub cut: usize,
    /// Over all of them.
    pub all: Means,
    /// By category, of the queries that have one.
    pub by_category: BTreeMap<String, Means>,
    /// Queries left out, because nothing is relevant to them.
    pub unjudged: usize,
    /// Names of relevant documents that no document has: they count as not found.
    pub absent: Vec<String>,
}

/// Figures of a ranking, or their means over several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Means {
    /// Discounted cumulative gain of the first k over that of the ideal k; gain / log2(rank + 1).
    pub ndcg: f64,
    /// Share of a query's relevant documents among the first k.
    pub recall: f64,
    /// One over the rank of the first relevant document among the first k, else 0.
    pub mrr: f64,
    /// Share of the first k that are relevant; places that the ranking leaves empty are not.
    pub precision: f64,
    /// Queries with at least one relevant document; the others say nothing and are left out of the means.
    pub queries: usize,
}

impl Serialize for Evaluation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.all.serialize_into::<S>(self.cut, &mut map)?;
        map.serialize_entry("unjudged", &self.unjudged)?;
        map.serialize_entry("absent", &self.absent)?;
        if !self.by_category.is_empty() {
            let of_cut = |means: &Means| MeansAt { cut: self.cut, means: *means };
            let categories: BTreeMap<_, _> =
                self.by_category.iter().map(|(name, means)| (name, of_cut(means))).collect();
            map.serialize_entry("by_category", &categories)?;
        }
        map.end()
    }
}

/// Figures with the cut that their names have.
struct MeansAt {
    cut: usize,
    means: Means,
}

impl Serialize for MeansAt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.means.serialize_into::<S>(self.cut, &mut map)?;
        map.end()
    }
}

impl Means {
    fn serialize_into<S: Serializer>(&self, cut: usize, map: &mut S::SerializeMap) -> Result<(), S::Error> {
        let figures =
            [("ndcg", self.ndcg), ("recall", self.recall), ("mrr", self.mrr), ("p", self.precision)];
        for (name, figure) in figures {
            map.serialize_entry(&format!("{name}@{cut}"), &figure)?;
        }
        map.serialize_entry("queries", &self.queries)
    }

    /// Sums, for the time being.
    fn add(&mut self, other: &Means) {
        self.ndcg += other.ndcg;
        self.recall += other.recall;
        self.mrr += other.mrr;
        self.precision += other.precision;
        self.queries += other.queries;
    }

    /// The means of what was added.
    fn averaged(self) -> Means {
        let mean = |sum: f64| sum / self.queries.max(1) as f64;
        Means {
            ndcg: mean(self.ndcg),
            recall: mean(self.recall),
            mrr: mean(self.mrr),
            precision: mean(self.precision),
            queries: self.queries,
        }
    }
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

/// Reads `{"id","text"}` lines, which may have a `"category"`.
///
/// # Errors
/// The first line that is not one, and an id that comes twice.
pub fn parse_queries(path: &Path, content: &str) -> Result<Vec<Query>, InputError> {
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

/// Reads a golden set: lines of queries with the names of the documents that are `"relevant"` to each.
///
/// # Errors
/// The first line that is not one, an id that comes twice, a query to which nothing is relevant.
pub fn parse_golden(path: &Path, content: &str) -> Result<(Vec<Query>, Judgments), InputError> {
    #[derive(Deserialize)]
    struct Relevant {
        relevant: Vec<String>,
    }
    let queries = parse_queries(path, content)?;
    let mut judgments = Judgments::new();
    for ((line, text), query) in lines(content).zip(&queries) {
        let failed = |why: String| InputError { path: path.to_owned(), line, why };
        let Relevant { relevant } = serde_json::from_str(text).map_err(|error| failed(error.to_string()))?;
        if relevant.is_empty() {
            return Err(failed("\"relevant\" names no document".to_owned()));
        }
        judgments.insert(query.id.clone(), relevant.into_iter().map(|name| (name, 1.0)).collect());
    }
    Ok((queries, judgments))
}

/// Reads TREC judgments: `query-id iteration document-id gain`. Gains of 0 and below mean not relevant.
///
/// # Errors
/// The first line that is not one.
pub fn parse_judgments(path: &Path, content: &str) -> Result<Judgments, InputError> {
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

/// Asks every judged query and averages over the first `cut` documents of each ranking, up to [`CUT_MAX`].
///
/// # Errors
/// The first query that cannot be asked.
pub fn evaluate(
    searcher: &Searcher,
    queries: &[Query],
    judgments: &Judgments,
    question: &Question,
    cut: usize,
) -> Result<Evaluation, SearchError> {
    let cut = cut.min(CUT_MAX);
    let question = Question { limit: cut * PASSAGES_PER_DOCUMENT, context: 0, ..question.clone() };
    let mut all = Means::default();
    let mut by_category: BTreeMap<String, Means> = BTreeMap::new();
    let there = Names::of(searcher.source())?;
    let mut absent = BTreeSet::new();
    for query in queries {
        let Some(gains) = judgments.get(&query.id) else { continue };
        absent.extend(gains.keys().filter(|name| !there.has(name)).cloned());
        let answer = searcher.search(&query.text, &question)?;
        let scores = score(&found(&answer.outcome.hits, gains, cut), gains, cut);
        all.add(&scores);
        if let Some(category) = &query.category {
            by_category.entry(category.clone()).or_default().add(&scores);
        }
    }
    Ok(Evaluation {
        cut,
        all: all.averaged(),
        by_category: by_category.into_iter().map(|(name, sums)| (name, sums.averaged())).collect(),
        unjudged: queries.len() - all.queries,
        absent: absent.into_iter().collect(),
    })
}

/// Every name by which a document may be judged.
struct Names {
    exact: HashSet<String>,
    /// Titles, in small letters.
    titles: HashSet<String>,
}

impl Names {
    fn of(source: &Source) -> Result<Names, SearchError> {
        let mut all = Names { exact: HashSet::new(), titles: HashSet::new() };
        match source {
            Source::Library(library) => {
                for entry in library.catalogue().map_err(store::SearchError::from)? {
                    all.add(&entry.relative_path, entry.part.as_deref(), &entry.metadata.title);
                }
            }
            Source::Server(server) => {
                catalogue::for_each_origin(&server.collection, None, |origin| {
                    all.add(&origin.relative_path, origin.part.as_deref(), &origin.title);
                })
                .map_err(store::SearchError::from)?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, relative_path: &str, part: Option<&str>, title: &str) {
        self.exact.extend(names(relative_path, part));
        self.titles.insert(title.to_lowercase());
    }

    fn has(&self, name: &str) -> bool {
        self.exact.contains(name) || self.titles.contains(&name.to_lowercase())
    }
}

/// What a ranking has of the relevant documents.
#[derive(Debug, PartialEq)]
struct Found {
    /// Gains of its first documents.
    gains: Vec<f64>,
    /// Names of relevant documents among them.
    names: usize,
}

/// Looks through the first `cut` documents. A document that has several names of the judgments gives the largest gain.
fn found(hits: &[Hit], gains: &HashMap<String, f64>, cut: usize) -> Found {
    let lowered: HashMap<String, &str> =
        gains.keys().map(|name| (name.to_lowercase(), name.as_str())).collect();
    let (mut seen, mut counted) = (HashSet::new(), HashSet::new());
    let gains = hits
        .iter()
        .filter(|hit| seen.insert(hit.doc_id))
        .take(cut)
        .map(|hit| {
            let by_title = lowered.get(&hit.title.to_lowercase()).map(|name| (*name).to_owned());
            let new = names(&hit.relative_path, hit.part.as_deref())
                .into_iter()
                .chain(by_title)
                .filter(|name| gains.contains_key(name));
            new.filter(|name| counted.insert(name.clone())).map(|name| gains[&name]).fold(0.0, f64::max)
        })
        .collect();
    Found { gains, names: counted.len() }
}

fn names(relative_path: &str, part: Option<&str>) -> Vec<String> {
    match part {
        Some(part) => vec![part.to_owned(), format!("{relative_path}#{part}")],
        None => vec![relative_path.to_owned()],
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of at most a few thousand documents")]
fn score(found: &Found, gains: &HashMap<String, f64>, cut: usize) -> Means {
    let discounted = |gains: &[f64]| -> f64 {
        gains.iter().zip(1..).map(|(gain, rank)| gain / f64::from(rank + 1).log2()).sum()
    };
    let mut ideal: Vec<f64> = gains.values().copied().collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    ideal.truncate(cut);
    let relevant = found.gains.iter().filter(|gain| **gain > 0.0).count();
    let first = found.gains.iter().position(|gain| *gain > 0.0);
    Means {
        ndcg: discounted(&found.gains) / discounted(&ideal),
        recall: found.names as f64 / gains.len() as f64,
        mrr: first.map_or(0.0, |position| 1.0 / (position + 1) as f64),
        precision: relevant as f64 / cut as f64,
        queries: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn gains(names: &[(&str, f64)]) -> HashMap<String, f64> {
        names.iter().map(|(name, gain)| ((*name).to_owned(), *gain)).collect()
    }

    fn is(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-8, "{found}, by hand {expected}");
    }

    /// By hand: the ideal order of gains 3, 2, 1 is worth 3/log2(2) + 2/log2(3) + 1/log2(4) = 4.7619; the ranking
    /// (0, 3, 1) is worth 3/log2(3) + 1/log2(4) = 2.3928.
    #[test]
    fn scores_by_hand() {
        let gains = gains(&[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
        let scores = score(&Found { gains: vec![0.0, 3.0, 1.0], names: 2 }, &gains, 10);
        is(scores.ndcg, 2.392_789_26 / 4.761_859_51);
        is(scores.recall, 2.0 / 3.0);
        is(scores.mrr, 0.5);
        is(scores.precision, 0.2);
    }

    /// By hand: of two places, the ideal is worth 3/log2(2) + 2/log2(3) = 4.2619 and the ranking (0, 3) 3/log2(3) =
    /// 1.8928.
    #[test]
    fn a_shorter_cut_is_another_ideal() {
        let gains = gains(&[("a", 3.0), ("b", 2.0), ("c", 1.0)]);
        let scores = score(&Found { gains: vec![0.0, 3.0], names: 1 }, &gains, 2);
        is(scores.ndcg, 1.892_789_26 / 4.261_859_51);
        is(scores.recall, 1.0 / 3.0);
        is(scores.precision, 0.5);
    }

    #[test]
    fn figures_are_named_by_the_cut() {
        let means = |queries| Means { ndcg: 1.0, recall: 0.5, mrr: 0.25, precision: 0.125, queries };
        let by_category = BTreeMap::from([("a".to_owned(), means(2))]);
        let evaluation =
            Evaluation { cut: 5, all: means(3), by_category, unjudged: 1, absent: vec!["b".to_owned()] };
        let expected = serde_json::json!({
            "ndcg@5": 1.0, "recall@5": 0.5, "mrr@5": 0.25, "p@5": 0.125, "queries": 3, "unjudged": 1, "absent": ["b"],
            "by_category": {"a": {"ndcg@5": 1.0, "recall@5": 0.5, "mrr@5": 0.25, "p@5": 0.125, "queries": 2}},
        });
        assert_eq!(serde_json::to_value(&evaluation).unwrap(), expected);
        let mut sums = Means::default();
        sums.add(&Means { ndcg: 1.0, queries: 1, ..Means::default() });
        sums.add(&Means { ndcg: 0.5, precision: 0.1, queries: 1, ..Means::default() });
        let expected = Means { ndcg: 0.75, precision: 0.05, queries: 2, ..Means::default() };
        assert_eq!(sums.averaged(), expected);
    }

    fn hit(document: u128, path: &str, part: Option<&str>, title: &str) -> Hit {
        Hit {
            score: 1.0,
            title: title.to_owned(),
            authors: vec![],
            breadcrumb: vec![],
            href: None,
            page: None,
            chunk_no: 0,
            text: String::new(),
            doc_id: Uuid::from_u128(document),
            point_id: Uuid::nil(),
            path: String::new(),
            relative_path: path.to_owned(),
            part: part.map(str::to_owned),
            before: vec![],
            after: vec![],
            parent: None,
        }
    }

    #[test]
    fn documents_are_named_by_path_part_or_title_and_count_once() {
        let hits = [
            hit(1, "emma.epub", None, "Emma"),
            hit(1, "emma.epub", None, "Emma"),
            hit(2, "other/emma.pdf", None, "EMMA"),
            hit(3, "notes.jsonl", Some("7"), "Seven"),
            hit(4, "a.txt", None, "a"),
        ];
        let all = |names: &[(&str, f64)], cut| {
            let found = found(&hits, &gains(names), cut);
            (found.gains, found.names)
        };
        assert_eq!(all(&[("emma", 1.0)], 10), (vec![1.0, 0.0, 0.0, 0.0], 1));
        assert_eq!(all(&[("emma", 1.0), ("other/emma.pdf", 1.0)], 10), (vec![1.0, 1.0, 0.0, 0.0], 2));
        assert_eq!(all(&[("notes.jsonl#7", 2.0), ("A.TXT", 1.0)], 10), (vec![0.0, 0.0, 2.0, 0.0], 1));
        assert_eq!(all(&[("7", 2.0), ("seven", 3.0), ("A", 1.0)], 3), (vec![0.0, 0.0, 3.0], 2));
        assert_eq!(all(&[("nothing", 1.0)], 2), (vec![0.0, 0.0], 0));
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

    #[test]
    fn a_golden_set_is_one_file() {
        let path = Path::new("g.jsonl");
        let line = r#"{"id":"1","text":"who?","category":"people","relevant":["Emma","a.txt"]}"#;
        let (queries, judgments) = parse_golden(path, &format!("{line}\n\n")).unwrap();
        assert_eq!((queries.len(), queries[0].category.as_deref()), (1, Some("people")));
        assert_eq!(judgments["1"], gains(&[("Emma", 1.0), ("a.txt", 1.0)]));
        for (bad, why) in [
            (r#"{"id":"2","text":"who?"}"#, "g.jsonl:3: missing field `relevant`"),
            (r#"{"id":"2","text":"who?","relevant":[]}"#, "g.jsonl:3: \"relevant\" names no document"),
            (r#"{"id":"1","text":"who?","relevant":["a"]}"#, "g.jsonl:3: query id \"1\" comes twice"),
        ] {
            let error = parse_golden(path, &format!("{line}\n\n{bad}\n")).unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
