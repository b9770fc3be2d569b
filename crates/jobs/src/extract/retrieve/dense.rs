//! Windows by the vectors of their passages.
//!
//! What is embedded is smaller than a window: a few sentences, which say one thing, and never more than the model takes,
//! so that nothing of a window is left unread.

use std::ops::Range;

use super::super::documents::Company;
use super::super::windows::{Room, Window, WindowError, cut};
use super::{Ranked, best_first};

/// Tokens of a passage.
pub const PASSAGE_TOKENS: u32 = 96;

/// Sentences that are embedded together, none of them twice.
///
/// # Errors
/// A sentence is longer than a passage; [`Company::split_long`] makes sure beforehand that none is.
pub fn passages(
    company: &Company,
    tokens: &[u32],
    tokens_max: u32,
) -> Result<Vec<Range<usize>>, WindowError> {
    let room = Room { tokens: tokens_max, overlap_tokens: 0, lines: None, overlap_lines: None };
    Ok(cut(company, tokens, &room)?.into_iter().map(|window| window.sentences).collect())
}

/// A passage as it is embedded: its lines, under the heading it stands under.
#[must_use]
pub fn text(company: &Company, passage: &Range<usize>) -> String {
    let sentences = &company.sentences[passage.clone()];
    let heading =
        sentences.first().and_then(|first| first.under).map(|under| company.sentences[under].line.as_str());
    let lines = heading.into_iter().chain(sentences.iter().map(|sentence| sentence.line.as_str()));
    lines.collect::<Vec<_>>().join("\n")
}

/// Vectors of passages, and the windows that each stands in.
#[derive(Clone, Debug)]
pub struct Vectors {
    rows: Vec<Vec<f32>>,
    windows: Vec<Vec<usize>>,
    window_count: usize,
}

impl Vectors {
    /// `rows` has a vector for each passage, of length 1.
    #[must_use]
    pub fn new(rows: Vec<Vec<f32>>, passages: &[Range<usize>], windows: &[Window]) -> Vectors {
        let windows_of = |passage: &Range<usize>| {
            // More than half of the passage: what a window only begins with, it does not say.
            let shared = |window: &Window| {
                let start = window.sentences.start.max(passage.start);
                window.sentences.end.min(passage.end).saturating_sub(start)
            };
            let most = windows.iter().map(shared).max().unwrap_or(0);
            let holds = |(_, window): &(usize, &Window)| shared(window) > 0 && shared(window) == most;
            windows.iter().enumerate().filter(holds).map(|(number, _)| number).collect()
        };
        Vectors { rows, windows: passages.iter().map(windows_of).collect(), window_count: windows.len() }
    }

    /// All windows, best first. A window answers a phrase by the cosine of its best passage, and a question by the mean
    /// over its phrases: windows in which several things that belong together are said come before those that say one.
    #[must_use]
    pub fn rank(&self, phrases: &[Vec<f32>]) -> Vec<Ranked> {
        let mut sums = vec![0.0; self.window_count];
        for phrase in phrases {
            for (sum, best) in sums.iter_mut().zip(self.best_cosines(phrase)) {
                *sum += best / phrases.len() as f64;
            }
        }
        let found = sums.into_iter().enumerate().filter(|(_, score)| score.is_finite());
        best_first(found.map(|(window, score)| Ranked { window, score }).collect())
    }

    /// Of each window; minus infinity for one without a passage.
    fn best_cosines(&self, phrase: &[f32]) -> Vec<f64> {
        let mut best = vec![f64::NEG_INFINITY; self.window_count];
        for (row, windows) in self.rows.iter().zip(&self.windows) {
            let cosine: f64 = row.iter().zip(phrase).map(|(a, b)| f64::from(a * b)).sum();
            for window in windows {
                best[*window] = best[*window].max(cosine);
            }
        }
        best
    }
}
