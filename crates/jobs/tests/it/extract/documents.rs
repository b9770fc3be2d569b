//! Sentences of a company, their numbers and their places.

use haul_corpus::document::PageStart;
use haul_jobs::extract::documents::Company;
use haul_jobs::extract::schema::{NumberedUnit, Numbering, Restart};

use super::fixtures::source;

const BY_WINDOW: Numbering =
    Numbering { unit: NumberedUnit::Sentence, headings_count: true, first: 1, restart: Restart::Window };

fn company() -> Company {
    let mut first =
        source("b.txt", &["# 1. Pricing", "The margin is 2%. It may rise.", "# 2. Dates", "Signed in May."]);
    first.document.pages = vec![
        PageStart { number: 4, start: 0 },
        PageStart { number: 5, start: first.document.text.find("It").unwrap() },
    ];
    Company::new("Acme", vec![first, source("a.txt", &["One. Two."])], NumberedUnit::Sentence)
}

#[test]
fn sentences_know_their_file_page_and_heading() {
    let company = company();
    let shown: Vec<_> = company
        .sentences
        .iter()
        .map(|s| (company.sources[s.source].file.as_str(), s.page, s.under, s.line.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            ("a.txt", None, None, "One."),
            ("a.txt", None, None, "Two."),
            ("b.txt", Some(4), None, "1. Pricing"),
            ("b.txt", Some(4), Some(2), "The margin is 2%."),
            ("b.txt", Some(5), Some(2), "It may rise."),
            ("b.txt", Some(5), None, "2. Dates"),
            ("b.txt", Some(5), Some(5), "Signed in May."),
        ]
    );
    assert_eq!(company.text(4), "It may rise.");
}

#[test]
fn numbers_begin_again_where_the_schema_says() {
    let company = company();
    let numbers = |numbering: Numbering| -> Vec<Option<u32>> {
        company.lines(3..7, &numbering).iter().map(|line| line.n).collect()
    };
    assert_eq!(numbers(BY_WINDOW), [Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!(numbers(Numbering { restart: Restart::Document, ..BY_WINDOW }), [2, 3, 4, 5].map(Some));
    assert_eq!(
        numbers(Numbering { restart: Restart::Company, first: 0, ..BY_WINDOW }),
        [3, 4, 5, 6].map(Some)
    );
    let without = Numbering { headings_count: false, ..BY_WINDOW };
    assert_eq!(numbers(without), [Some(1), Some(2), None, Some(3)]);
    assert_eq!(company.numbered(3..7, &without, 3), Some(6));
    assert_eq!(company.numbered(3..7, &without, 4), None);
    assert_eq!(company.number_range(3..7, &without), 1..=3);
    let marks: Vec<_> = company.lines(2..6, &BY_WINDOW).into_iter().map(|line| line.mark).collect();
    assert_eq!(marks[0].as_deref(), Some("b.txt, page 4"));
    assert_eq!(marks[1..], [None, Some("b.txt, page 5".to_owned()), None]);
}

#[test]
fn long_sentences_are_cut_at_spaces_and_nothing_is_lost() {
    let mut company = company();
    let words =
        |lines: &[&str]| Ok::<_, ()>(lines.iter().map(|line| line.split(' ').count() as u32).collect());
    assert_eq!(company.split_long(2, words), Ok(3));
    let lines: Vec<_> = company.sentences.iter().map(|s| s.line.as_str()).collect();
    assert_eq!(lines[3..], ["The margin", "is 2%.", "It may", "rise.", "2. Dates", "Signed", "in May."]);
    assert_eq!(
        company.sentences.iter().map(|s| s.under).collect::<Vec<_>>()[3..],
        [Some(2), Some(2), Some(2), Some(2), None, Some(7), Some(7)]
    );
    // What has no space is cut all the same, and one letter never.
    let mut company = Company::new("", vec![source("x", &["aaaaaa b"])], NumberedUnit::Sentence);
    let bytes = |lines: &[&str]| Ok::<_, ()>(lines.iter().map(|line| line.len() as u32 + 1).collect());
    company.split_long(1, bytes).unwrap();
    assert_eq!(company.sentences.len(), 7);
}

#[test]
fn the_language_of_most_of_the_text_counts() {
    let mut company = company();
    assert_eq!(company.language(), None);
    company.sources[0].document.detected_language = Some("deu".to_owned());
    company.sources[1].document.detected_language = Some("spa".to_owned());
    assert_eq!(company.language(), Some("spa"));
}
