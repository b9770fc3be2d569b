//! Windows for a question.

use std::ops::Range;

use haul_jobs::extract::documents::Company;
use haul_jobs::extract::retrieve::bm25::{Bm25, Term};
use haul_jobs::extract::retrieve::dense::{Vectors, passages, text};
use haul_jobs::extract::retrieve::{Mode, Query, rank};
use haul_jobs::extract::schema::NumberedUnit;
use haul_jobs::extract::windows::Window;

use super::fixtures::source;
use super::schema::read;

#[test]
fn passages_take_every_sentence_once_and_know_their_heading() {
    let company =
        Company::new("c", vec![source("a", &["# Pricing", "A b. C d.", "E f."])], NumberedUnit::Sentence);
    let passages = passages(&company, &[1, 2, 2, 2], 4).unwrap();
    assert_eq!(passages, [0..2, 2..4]);
    assert_eq!(text(&company, &passages[0]), "Pricing\nA b.");
    assert_eq!(text(&company, &passages[1]), "Pricing\nC d.\nE f.");
}

#[test]
fn a_window_is_as_good_as_its_best_passage() {
    let window = |sentences: Range<usize>| Window { sentences, repeated: 0, tokens: 0 };
    let windows = [window(0..4), window(3..8), window(8..9)];
    let rows = vec![vec![1.0, 0.0], vec![0.0, 1.0], vec![0.6, 0.8]];
    let vectors = Vectors::new(rows, &[0..3, 3..6, 6..8], &windows);
    let ranked = vectors.rank(&[vec![0.0, 1.0]]);
    assert_eq!(ranked.iter().map(|ranked| ranked.window).collect::<Vec<_>>(), [1, 0]);
    assert!((ranked[0].score - 1.0).abs() < 1e-6 && ranked[1].score.abs() < 1e-6);
    // Two phrases: 1 and 0 of the first window, 0.6 and 1 of the second, from two of its passages.
    let ranked = vectors.rank(&[vec![1.0, 0.0], vec![0.0, 1.0]]);
    let shown: Vec<_> = ranked.iter().map(|ranked| (ranked.window, (ranked.score * 10.0).round())).collect();
    assert_eq!(shown, [(1, 8.0), (0, 5.0)]);
}

#[test]
fn a_question_is_made_from_the_schema_alone() {
    let schema = read("samples/extract/project-finance.toml");
    let fields = [schema.field("maturity date").unwrap()];
    let query = Query::of_fields(&schema, fields, schema.language("spa"));
    let weight = |word: &str| query.terms.iter().find(|term| term.word == word).map(|term| term.weight);
    assert_eq!(
        (weight("maturity"), weight("final maturity"), weight("vencimiento")),
        (Some(1.0), Some(0.5), Some(1.0))
    );
    // Synonyms, of the schema and of the language; none of families that are not meant.
    assert_eq!((weight("repayment"), weight("dscr"), weight("prestatario")), (Some(0.5), None, None));
    assert_eq!(
        query.phrases,
        [
            "Final maturity",
            "final maturity",
            "maturity date",
            "termination date",
            "fecha de vencimiento final"
        ]
    );
    assert_eq!(query, Query::of_fields(&schema, fields, schema.language("spa")));
    assert_eq!(Query::of_entities(&schema, None).len(), 5);
    let tiny = read("assets/tiny-llm/schema.json");
    assert!(Query::of_entities(&tiny, None)[0].phrases.contains(&"term loan".to_owned()));
}

#[test]
fn words_and_vectors_are_fused_by_rank() {
    let window = |sentences: Range<usize>| Window { sentences, repeated: 0, tokens: 0 };
    let windows = [window(0..1), window(1..2), window(2..3)];
    let rows = vec![vec![0.0, 1.0], vec![1.0, 0.0], vec![0.6, 0.8]];
    let vectors = Vectors::new(rows, &[0..1, 1..2, 2..3], &windows);
    let bm25 = Bm25::new(["the governing law", "a law", "nothing"]);
    let terms = [("law", 1.0), ("governing law", 0.5)]
        .map(|(word, weight)| Term { word: word.to_owned(), weight })
        .to_vec();
    let query = Query { terms, phrases: vec!["law".to_owned()] };
    let phrase = [vec![1.0, 0.0]];
    let ranked = |mode| -> Vec<usize> {
        rank(&bm25, Some((&vectors, &phrase)), &query, mode).iter().map(|ranked| ranked.window).collect()
    };
    assert_eq!(ranked(Mode::Bm25), [0, 1]);
    assert_eq!(ranked(Mode::Dense), [1, 2, 0]);
    // 1/62 + 1/61, 1/61 + 1/63, 1/62.
    assert_eq!(ranked(Mode::Hybrid), [1, 0, 2]);
    let without: Vec<usize> =
        rank(&bm25, None, &query, Mode::Hybrid).iter().map(|ranked| ranked.window).collect();
    assert_eq!(without, [0, 1]);
}
