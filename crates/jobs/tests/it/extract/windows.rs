//! Windows hold all of a text.

use haul_jobs::extract::documents::{Company, Source};
use haul_jobs::extract::schema::NumberedUnit;
use haul_jobs::extract::windows::{Coverage, Room, WindowError, coverage, cut};
use proptest::prelude::*;

use super::fixtures::source;

fn company(sources: Vec<Source>) -> Company {
    Company::new("c", sources, NumberedUnit::Sentence)
}

fn words(company: &Company) -> Vec<u32> {
    company.sentences.iter().map(|s| s.line.split(' ').count() as u32).collect()
}

const ROOM: Room = Room { tokens: 4, overlap_tokens: 2, lines: None, overlap_lines: None };

#[test]
fn windows_are_whole_sentences_of_one_file_and_repeat_some() {
    let company = company(vec![source("a", &["Aa b. Cc d. Ee f. Gg."]), source("b", &["Hh i. Jj k."])]);
    let windows = cut(&company, &words(&company), &ROOM).unwrap();
    let shown: Vec<_> = windows.iter().map(|w| (w.sentences.clone(), w.repeated, w.tokens)).collect();
    assert_eq!(shown, [(0..2, 0, 4), (1..3, 1, 4), (2..4, 1, 3), (4..6, 0, 4)]);
    assert!(coverage(&company, &windows).is_whole());
    assert_eq!(coverage(&company, &windows[..3]), Coverage { bytes: 23, covered: 15 });
}

#[test]
fn lines_bound_a_window_as_well() {
    let company = company(vec![source("a", &["Aa. Bb. Cc. Dd. Ee. Ff."])]);
    let room = Room { lines: Some(3), overlap_lines: Some(1), tokens: 100, overlap_tokens: 100 };
    let windows = cut(&company, &words(&company), &room).unwrap();
    assert_eq!(windows.iter().map(|w| w.sentences.clone()).collect::<Vec<_>>(), [0..3, 2..5, 4..6]);
    let room = Room { lines: Some(1), overlap_lines: Some(5), ..room };
    assert_eq!(cut(&company, &words(&company), &room).unwrap().len(), 6);
}

#[test]
fn a_sentence_that_fits_nowhere_is_an_error() {
    let company = company(vec![source("a", &["A b c d e."])]);
    let error = cut(&company, &words(&company), &ROOM).unwrap_err();
    assert_eq!(error, WindowError::TooLong { sentence: 0, tokens: 5, room: 4 });
    assert_eq!(cut(&company, &[], &ROOM).unwrap_err(), WindowError::Counts { counts: 0, sentences: 1 });
}

proptest! {
    #[test]
    fn every_byte_is_in_a_window(
        files in prop::collection::vec(prop::collection::vec("[a-z\u{e9}]{1,9}( [A-Za-z0-9]{1,6}){0,9}[.!]( [A-Z][a-z]{0,5}( [a-z0-9.]{1,7}){0,5}\\.){0,4}", 1..6), 1..4),
        tokens in 3_u32..30, overlap in 0_u32..30, lines in prop::option::of(1_u32..8), overlap_lines in prop::option::of(0_u32..8),
    ) {
        let sources = files.iter().enumerate().map(|(number, paragraphs)| {
            source(&number.to_string(), &paragraphs.iter().map(String::as_str).collect::<Vec<_>>())
        }).collect();
        let mut company = company(sources);
        company.split_long(tokens, |lines| Ok::<_, ()>(lines.iter().map(|line| line.split(' ').count() as u32).collect())).unwrap();
        let counts = words(&company);
        let windows = cut(&company, &counts, &Room { tokens, overlap_tokens: overlap, lines, overlap_lines }).unwrap();
        prop_assert!(coverage(&company, &windows).is_whole());
        for window in &windows {
            let sum: u32 = counts[window.sentences.clone()].iter().sum();
            prop_assert_eq!(sum, window.tokens);
            prop_assert!(sum <= tokens && lines.is_none_or(|lines| window.sentences.len() <= lines as usize));
            prop_assert!(window.repeated < window.sentences.len());
        }
        // New sentences follow each other, each once.
        let new: Vec<usize> = windows.iter().flat_map(|w| w.sentences.start + w.repeated..w.sentences.end).collect();
        prop_assert_eq!(new, (0..company.sentences.len()).collect::<Vec<_>>());
    }
}
