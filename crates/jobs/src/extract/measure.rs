//! How good retrieval is on documents of which some values are known: is a window that holds the value among the first?

use std::collections::BTreeMap;

use serde::Serialize;

use super::documents::Company;
use super::normalise::{self, Value};
use super::retrieve::bm25::{self, Bm25};
use super::retrieve::embed::{self, EmbedError, Parts, Streaming};
use super::retrieve::{self, Mode, Query};
use super::schema::{Field, FieldType, Schema};
use super::windows::{self, Room, Window, coverage};

/// How many windows count as the first.
pub const FIRST: usize = 3;
/// What is compared, by name.
const MODES: [(&str, Mode); 3] = [("hybrid", Mode::Hybrid), ("bm25", Mode::Bm25), ("dense", Mode::Dense)];

/// A company and values that are known of it.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its documents.
    pub company: Company,
    /// Fields and values, several of a field where it has several.
    pub values: Vec<(String, String)>,
}

/// A value of a company.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// The company.
    pub company: String,
    /// The field.
    pub field: String,
    /// The value.
    pub value: String,
    /// Windows of the company.
    pub windows: usize,
    /// Of which hold the value.
    pub holding: usize,
    /// The place of the first of them, from 1, by the name of the ranking.
    pub places: BTreeMap<&'static str, Option<usize>>,
}

/// Shares of the cases whose value is in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Shares {
    /// A window that holds the value is the first.
    pub top1: f64,
    /// It is among the first three.
    pub top3: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Companies.
    pub companies: usize,
    /// Windows of all of them.
    pub windows: usize,
    /// Values whose text was found, over which shares are taken.
    pub cases: usize,
    /// Values that stand in no window, neither so nor in other words.
    pub not_in_text: usize,
    /// By ranking; `random` is what windows drawn by chance are expected to reach.
    pub shares: BTreeMap<&'static str, Shares>,
    /// The same for each field, of hybrid.
    pub by_field: BTreeMap<String, (usize, Shares)>,
    /// Every case.
    pub each: Vec<Case>,
}

/// Retrieval cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// A field that the schema has not.
    #[error("{company}: there is no field {field} in the schema")]
    NoField {
        /// The company.
        company: String,
        /// The field.
        field: String,
    },
    /// The embedding model.
    #[error(transparent)]
    Embed(#[from] EmbedError),
    /// Windows of a company lack a part of its text.
    #[error("{company}: {missing} bytes of text are in no window")]
    NotCovered {
        /// The company.
        company: String,
        /// Bytes.
        missing: u64,
    },
}

/// Ranks the windows of every company for every known field.
///
/// # Errors
/// A field that is not in the schema, a text that cannot be embedded.
pub fn run(
    schema: &Schema,
    known: Vec<Known>,
    window_tokens: u32,
    streaming: &Streaming,
    parts: &Parts<'_>,
) -> Result<Measured, MeasureError> {
    let room = Room::of(&schema.limits, window_tokens);
    let (companies, mut window_count, mut each) = (known.len(), 0, Vec::new());
    for Known { mut company, values } in known {
        let count = |texts: &[&str]| embed::count_tokens(parts, texts);
        let longest = window_tokens.min(embed::sentence_tokens_max(streaming, parts));
        company.split_long(longest, count).map_err(EmbedError::from)?;
        let lines: Vec<&str> = company.sentences.iter().map(|sentence| sentence.line.as_str()).collect();
        let tokens = count(&lines).map_err(EmbedError::from)?;
        let windows = windows::cut(&company, &tokens, &room).map_err(EmbedError::from)?;
        let covered = coverage(&company, &windows);
        if !covered.is_whole() {
            let missing = covered.bytes - covered.covered;
            return Err(MeasureError::NotCovered { company: company.name, missing });
        }
        window_count += windows.len();
        each.extend(cases(schema, &company, &values, &windows, streaming, parts)?);
    }
    Ok(measured(companies, window_count, each))
}

fn cases(
    schema: &Schema,
    company: &Company,
    values: &[(String, String)],
    windows: &[Window],
    streaming: &Streaming,
    parts: &Parts<'_>,
) -> Result<Vec<Case>, MeasureError> {
    let texts: Vec<String> = windows.iter().map(|window| text(company, window)).collect();
    let bm25 = Bm25::new(texts.iter().map(String::as_str));
    let vectors = embed::windows(company, windows, streaming, parts)?;
    let language = company.language().and_then(|code| schema.language(code));
    let fields = values
        .iter()
        .map(|(name, _)| {
            let missing = || MeasureError::NoField { company: company.name.clone(), field: name.clone() };
            schema.field(name).ok_or_else(missing)
        })
        .collect::<Result<Vec<&Field>, _>>()?;
    let queries: Vec<Query> =
        fields.iter().map(|field| Query::of_fields(schema, [*field], language)).collect();
    let of_queries = embed::queries(&queries, streaming, parts)?;
    let mut cases = Vec::with_capacity(values.len());
    for (at, (name, value)) in values.iter().enumerate() {
        let holds: Vec<bool> = texts.iter().map(|text| is_in(fields[at], value, text, schema)).collect();
        let place = |mode| {
            let ranked =
                retrieve::rank(&bm25, Some((&vectors, of_queries[at].as_slice())), &queries[at], mode);
            ranked.iter().position(|ranked| holds[ranked.window]).map(|place| place + 1)
        };
        cases.push(Case {
            company: company.name.clone(),
            field: name.clone(),
            value: value.clone(),
            windows: windows.len(),
            holding: holds.iter().filter(|holds| **holds).count(),
            places: MODES.iter().map(|(name, mode)| (*name, place(*mode))).collect(),
        });
    }
    Ok(cases)
}

fn text(company: &Company, window: &Window) -> String {
    let lines = company.sentences[window.sentences.clone()].iter().map(|sentence| sentence.line.as_str());
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a value stands in a text: its words one behind the other, or a value of its type with the same normal form.
fn is_in(field: &Field, value: &str, text: &str, schema: &Schema) -> bool {
    let (words, wanted) = (bm25::words(text), bm25::words(value));
    if !wanted.is_empty() && words.windows(wanted.len()).any(|part| part == wanted) {
        return true;
    }
    let Ok(wanted) = normalise::normalise(field.kind, value, &schema.formats) else { return false };
    let is_it = |found: &Value| *found == wanted;
    field.kind != FieldType::Text
        && normalise::readings(field.kind, text, &schema.formats)
            .iter()
            .any(|reading| reading.value.as_ref().is_ok_and(is_it))
}

fn measured(companies: usize, windows: usize, each: Vec<Case>) -> Measured {
    let in_text: Vec<&Case> = each.iter().filter(|case| case.holding > 0).collect();
    let mut shares: BTreeMap<&'static str, Shares> =
        MODES.iter().map(|(mode, _)| (*mode, shares_of(&in_text, mode))).collect();
    let by_chance = |first| mean(in_text.iter().map(|case| chance(case.windows, case.holding, first)));
    shares.insert("random", Shares { top1: by_chance(1), top3: by_chance(FIRST) });
    let mut by_field: BTreeMap<String, Vec<&Case>> = BTreeMap::new();
    for case in &in_text {
        by_field.entry(case.field.clone()).or_default().push(case);
    }
    let by_field = by_field
        .into_iter()
        .map(|(field, cases)| (field, (cases.len(), shares_of(&cases, "hybrid"))))
        .collect();
    let cases = in_text.len();
    Measured { companies, windows, cases, not_in_text: each.len() - cases, shares, by_field, each }
}

fn shares_of(cases: &[&Case], mode: &str) -> Shares {
    let within = |most: usize| {
        let is_within =
            |case: &&Case| case.places.get(mode).copied().flatten().is_some_and(|place| place <= most);
        mean(cases.iter().map(|case| f64::from(u8::from(is_within(case)))))
    };
    Shares { top1: within(1), top3: within(FIRST) }
}

fn mean(numbers: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = numbers.len().max(1);
    numbers.sum::<f64>() / count as f64
}

/// That one of `holding` of `windows` is among `first` drawn without putting back.
fn chance(windows: usize, holding: usize, first: usize) -> f64 {
    let missed: f64 = (0..first.min(windows))
        .map(|drawn| windows.saturating_sub(holding + drawn) as f64 / (windows - drawn) as f64)
        .product();
    1.0 - missed
}

#[cfg(test)]
mod tests {
    use super::chance;

    #[test]
    fn chance_by_hand() {
        assert!((chance(10, 1, 3) - 0.3).abs() < 1e-12);
        assert!((chance(4, 2, 2) - (1.0 - 2.0 / 4.0 * 1.0 / 3.0)).abs() < 1e-12);
        assert!((chance(2, 1, 3) - 1.0).abs() < 1e-12);
        assert!(chance(5, 0, 3).abs() < 1e-12);
    }
}
