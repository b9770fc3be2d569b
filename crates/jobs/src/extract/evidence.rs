//! Where a value stands: the sentence that the model cites, held against the document.

use std::ops::Range;

use super::documents::Company;
use super::normalise::{of_field, readings};
use super::record::{Evidence, Tie};
use super::schema::{Field, FieldType, Formats};

/// A value in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The sentence, as an index into the company's sentences.
    pub sentence: usize,
    /// The bytes of the value in the document's text, where it stands there.
    pub value: Option<Range<usize>>,
    /// Whether it does; a yes or no stands in its sentence as a whole.
    pub aligned: bool,
}

/// Where a model says that a value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cited {
    /// In these sentences.
    Sentences(Vec<usize>),
    /// In these words.
    Words(String),
}

/// Looks for a value where it is cited, then in the whole window, nearest first. A value that stands nowhere keeps the
/// sentence that was cited, as not aligned.
#[must_use]
pub fn place(
    company: &Company,
    window: &Range<usize>,
    cited: &Cited,
    field: &Field,
    value: &str,
    formats: &Formats,
) -> Option<Place> {
    let cited = match cited {
        Cited::Sentences(sentences) => sentences.clone(),
        Cited::Words(quotation) => quoted(company, window, quotation),
    };
    let cited: Vec<usize> = cited.into_iter().filter(|sentence| window.contains(sentence)).collect();
    let near = cited.first().copied().unwrap_or(window.start);
    let mut others: Vec<usize> = window.clone().filter(|sentence| !cited.contains(sentence)).collect();
    others.sort_by_key(|sentence| sentence.abs_diff(near));
    if field.kind == FieldType::YesNo && !cited.is_empty() {
        return Some(Place { sentence: near, value: None, aligned: true });
    }
    for sentence in cited.iter().chain(&others) {
        if let Some(range) = find_value(company.text(*sentence), value, field, formats) {
            let start = company.sentences[*sentence].start;
            let value = Some(start + range.start..start + range.end);
            return Some(Place { sentence: *sentence, value, aligned: true });
        }
    }
    cited.first().map(|sentence| Place { sentence: *sentence, value: None, aligned: false })
}

/// Sentences of a window that hold a quotation, or a part of it.
fn quoted(company: &Company, window: &Range<usize>, quotation: &str) -> Vec<usize> {
    /// Fewer letters stand anywhere.
    const LETTERS_MIN: usize = 8;
    let holds = |sentence: &usize| {
        let text = company.text(*sentence);
        find_words(text, quotation).is_some()
            || (text.trim().len() >= LETTERS_MIN && find_words(quotation, text).is_some())
    };
    window.clone().filter(holds).collect()
}

/// The bytes of a value in a text: its own words, another spelling of it, or another form of the same number or date.
#[must_use]
pub fn find_value(text: &str, value: &str, field: &Field, formats: &Formats) -> Option<Range<usize>> {
    if let Some(range) = find_words(text, value) {
        return Some(range);
    }
    if !field.values.is_empty() {
        let named = of_field(field, value, formats).ok()?.to_string();
        let synonyms =
            field.synonyms.iter().filter(|(of, _)| *of == named).flat_map(|(_, others)| others.iter());
        return std::iter::once(&named).chain(synonyms).find_map(|word| find_words(text, word));
    }
    let wanted = of_field(field, value, formats).ok()?;
    let is_it =
        |reading: &super::normalise::Reading| reading.value.as_ref().is_ok_and(|found| *found == wanted);
    readings(field.kind, text, formats).into_iter().find(is_it).map(|reading| reading.range)
}

/// Words in a text, whatever their case and the blanks between them, and never within a longer word.
fn find_words(text: &str, words: &str) -> Option<Range<usize>> {
    let wanted: Vec<char> = folded(words).into_iter().map(|(c, _)| c).collect();
    let text_folded = folded(text);
    if wanted.is_empty() || wanted.len() > text_folded.len() {
        return None;
    }
    let is_word = |at: Option<&(char, usize)>| at.is_some_and(|(c, _)| c.is_alphanumeric());
    let starts = 0..=text_folded.len() - wanted.len();
    let at = starts.into_iter().find(|at| {
        let part = &text_folded[*at..*at + wanted.len()];
        let cuts_before = *at > 0 && is_word(text_folded.get(*at - 1)) && is_word(part.first());
        let cuts_behind = is_word(text_folded.get(*at + wanted.len())) && is_word(part.last());
        part.iter().zip(&wanted).all(|((a, _), b)| a == b) && !cuts_before && !cuts_behind
    })?;
    let start = text_folded[at].1;
    let (last, last_at) = text_folded[at + wanted.len() - 1];
    let end = text_folded.get(at + wanted.len()).map_or(text.len(), |(_, next)| *next);
    // Blanks behind the last letter are not the value's.
    let behind = text[last_at..end].chars().next().map_or(last.len_utf8(), char::len_utf8);
    Some(start..last_at + behind)
}

/// Letters in small form with the byte they begin at; blanks are one, and none around.
fn folded(text: &str) -> Vec<(char, usize)> {
    let mut letters: Vec<(char, usize)> = Vec::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if c.is_whitespace() {
            if letters.last().is_some_and(|(last, _)| *last != ' ') {
                letters.push((' ', at));
            }
            continue;
        }
        // One letter for one, so that places stay what they are.
        letters.push((c.to_lowercase().next().unwrap_or(c), at));
    }
    if letters.last().is_some_and(|(last, _)| *last == ' ') {
        letters.pop();
    }
    letters
}

/// A place as the record shows it.
#[must_use]
pub fn shown(company: &Company, place: &Place, tie: Tie) -> Evidence {
    let sentence = &company.sentences[place.sentence];
    // Blanks around a sentence are not its words.
    let text = company.text(place.sentence);
    let start = sentence.start + text.len() - text.trim_start().len();
    let quote = text.trim();
    Evidence {
        file: company.sources[sentence.source].file.clone(),
        page: sentence.page,
        start,
        end: start + quote.len(),
        quote: quote.to_owned(),
        aligned: place.aligned,
        value_bytes: place.value.as_ref().map(|range| (range.start, range.end)),
        heading: sentence.under.map(|heading| company.sentences[heading].line.clone()),
        tie,
    }
}

#[cfg(test)]
mod tests {
    use super::find_words;

    #[test]
    fn words_are_found_whatever_the_blanks_between_them() {
        let text = "The  agent is Kelmore\n Bank plc, and 2031 is no 31.";
        let found = |words: &str| find_words(text, words).map(|range| &text[range]);
        assert_eq!(found("kelmore bank PLC"), Some("Kelmore\n Bank plc"));
        assert_eq!(found("31"), Some("31"));
        assert_eq!(find_words(text, "31").map(|range| range.start), text.rfind("31"));
        assert_eq!(found("more Bank"), None);
        assert_eq!(found(" "), None);
        assert_eq!(find_words("\u{c9}tat: 5%", "\u{e9}tat"), Some(0..5));
    }
}
