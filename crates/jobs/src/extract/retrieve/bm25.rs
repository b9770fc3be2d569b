//! BM25 in memory over the windows of one company (Robertson, Zaragoza 2009), with words of any script.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use super::{Ranked, best_first};

const K1: f64 = 1.5;
const B: f64 = 0.75;

/// A word of a question, or two of them side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// As [`words`] or [`pairs`] gives it.
    pub word: String,
    /// How much it counts; 1 is a word of the schema.
    pub weight: f64,
}

/// Words, and words side by side, and how often each window has them.
#[derive(Clone, Debug)]
pub struct Bm25 {
    /// By word: windows that have it, ascending, and how often.
    postings: HashMap<String, Vec<(usize, u32)>>,
    /// Words of each window.
    lengths: Vec<u32>,
    mean_length: f64,
}

impl Bm25 {
    /// Of texts, in the order of the windows.
    #[must_use]
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Bm25 {
        let mut postings: HashMap<String, Vec<(usize, u32)>> = HashMap::new();
        let mut lengths = Vec::new();
        for (number, text) in texts.into_iter().enumerate() {
            let words = words(text);
            lengths.push(u32::try_from(words.len()).unwrap_or(u32::MAX));
            let pairs = pairs(&words);
            for word in words.into_iter().chain(pairs) {
                let posting = postings.entry(word).or_default();
                match posting.last_mut() {
                    Some((last, count)) if *last == number => *count += 1,
                    _ => posting.push((number, 1)),
                }
            }
        }
        let sum: f64 = lengths.iter().map(|length| f64::from(*length)).sum();
        let mean_length = (sum / lengths.len().max(1) as f64).max(1.0);
        Bm25 { postings, lengths, mean_length }
    }

    /// Windows that have a word of the question, best first.
    #[must_use]
    pub fn rank(&self, terms: &[Term]) -> Vec<Ranked> {
        let mut scores = vec![0.0; self.lengths.len()];
        // Term after term in the order of the question, so that sums are the same in every run.
        for term in terms {
            let Some(posting) = self.postings.get(&term.word) else { continue };
            let idf = self.idf(posting.len());
            for (window, count) in posting {
                scores[*window] += term.weight * idf * self.saturated(*window, *count);
            }
        }
        let found = scores.into_iter().enumerate().filter(|(_, score)| *score > 0.0);
        best_first(found.map(|(window, score)| Ranked { window, score }).collect())
    }

    fn idf(&self, windows_with_it: usize) -> f64 {
        let (n, df) = (self.lengths.len() as f64, windows_with_it as f64);
        ((n - df + 0.5) / (df + 0.5) + 1.0).ln()
    }

    fn saturated(&self, window: usize, count: u32) -> f64 {
        let count = f64::from(count);
        let length = f64::from(self.lengths[window]) / self.mean_length;
        count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length))
    }
}

/// Runs of letters and digits, in small letters, each letter in its compatible composed form: the "fi" of a ligature is
/// f and i, and an e with an accent behind it is the letter with the accent.
#[must_use]
pub fn words(text: &str) -> Vec<String> {
    let folded: String = text.nfkc().flat_map(char::to_lowercase).collect();
    folded
        .split(|c: char| !(c.is_alphanumeric() || is_combining_mark(c)))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Words that stand side by side: what makes "governing law" other than a law and something that governs.
#[must_use]
pub fn pairs(words: &[String]) -> Vec<String> {
    words.windows(2).map(|pair| pair.join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(text: &str) -> Vec<Term> {
        words(text).into_iter().map(|word| Term { word, weight: 1.0 }).collect()
    }

    /// By hand: 3 windows of 2, 2 and 4 words; "a" is in two of them. idf = ln(1.5 / 2.5 + 1).
    #[test]
    fn scores_by_hand() {
        let index = Bm25::new(["a b", "c d", "a a c d"]);
        let idf = (1.5_f64 / 2.5 + 1.0).ln();
        let mean = 8.0 / 3.0;
        let expected = [
            (2, 2.0 * 2.5 / (2.0 + 1.5 * (0.25 + 0.75 * 4.0 / mean))),
            (0, 2.5 / (1.0 + 1.5 * (0.25 + 0.75 * 2.0 / mean))),
        ];
        let found = index.rank(&terms("a"));
        assert_eq!(found.len(), 2);
        for (ranked, (window, part)) in found.iter().zip(expected) {
            assert_eq!(ranked.window, window);
            assert!((ranked.score - idf * part).abs() < 1e-12, "{ranked:?}");
        }
        assert_eq!(index.rank(&terms("x")), []);
        assert_eq!(Bm25::new([]).rank(&terms("a")), []);
    }

    #[test]
    fn words_are_of_any_script_and_in_one_form() {
        assert_eq!(words("Cr\u{e9}dito, cre\u{301}dito"), ["cr\u{e9}dito", "cr\u{e9}dito"]);
        assert_eq!(words("e\u{fb03}cient \u{ff21}1 stra\u{df}e"), ["efficient", "a1", "stra\u{df}e"]);
        assert_eq!(
            words("\u{41a}\u{440}\u{435}\u{434}\u{438}\u{442} \u{8d37}\u{6b3e}"),
            ["\u{43a}\u{440}\u{435}\u{434}\u{438}\u{442}", "\u{8d37}\u{6b3e}"]
        );
        assert_eq!(words("maturity_date"), ["maturity", "date"]);
    }

    #[test]
    fn equals_stand_in_the_order_of_the_windows() {
        let found = Bm25::new(["x y", "x y", "z z", "x y"]).rank(&terms("x"));
        assert_eq!(found.iter().map(|ranked| ranked.window).collect::<Vec<_>>(), [0, 1, 3]);
    }
}
