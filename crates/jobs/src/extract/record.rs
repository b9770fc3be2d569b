//! What comes out: a record for each entity of a company, every value with where it stands, and what was not read.
//!
//! These are the shapes of `records.json`, `records.jsonl` and `coverage.json`; a program that reads them needs no other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::schema::Confidence;

/// What the documents of a company say of one entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The name of the company's folder.
    pub company: String,
    /// The entity, as the documents name it.
    pub facility: String,
    /// Its type, where the schema knows it.
    pub facility_type: Option<String>,
    /// No entity was found, and the company as a whole stands for one.
    pub is_company: bool,
    /// Files that were read.
    pub source_files: Vec<String>,
    /// The language of most of the text, by ISO 639-3, where it is known.
    pub language: Option<String>,
    /// Mean over the values that were found: HIGH 1, MEDIUM 0.6, LOW 0.3.
    pub confidence_score: f64,
    /// Every field of the schema, by its name.
    pub fields: BTreeMap<String, FieldRecord>,
    /// Rules of the schema that hold for these values.
    pub findings: Vec<RuleFinding>,
    /// What was not read or not taken, and why: no cut is silent.
    pub cuts: Vec<String>,
}

/// What was found of a field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FieldRecord {
    /// As the model answered it; none unless it was found.
    pub value: Option<String>,
    /// In the form of the column, where the text has one.
    pub normal: Option<String>,
    /// What became of the field.
    pub status: Status,
    /// How sure the model said it is.
    pub confidence: Option<Confidence>,
    /// Probability of the value's tokens by the model, where it gives them.
    pub probability: Option<f64>,
    /// What decided.
    pub rule: Decided,
    /// Where it stands.
    pub evidence: Option<Evidence>,
    /// Other values that were answered, and are not taken.
    pub others: Vec<Other>,
}

/// What became of a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// It has a value.
    Found,
    /// It was asked for, and nothing states it.
    NotFound,
    /// The model says that it is stated, and not what.
    PossiblyPresent,
    /// Every answer to it failed.
    ExtractionError,
    /// It was never asked for.
    #[default]
    NotExtracted,
}

/// What decided which value a field has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decided {
    /// Nothing was to be decided.
    #[default]
    None,
    /// All answers say the same.
    Only,
    /// Its sentence names the entity, or stands under its name; those of the others do so less.
    Entity,
    /// Its sentence holds the value; those of the others do not.
    Aligned,
    /// The model was surer of it.
    Confidence,
    /// More windows answer so.
    Agreement,
    /// Its evidence is longer.
    Longer,
    /// It came first among equals.
    First,
    /// The question whether it is right was answered with another value.
    Corrected,
    /// The field was asked for by itself.
    Deep,
    /// A rule of the schema set it.
    Rule,
}

/// Where a value stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The file below the company's folder.
    pub file: String,
    /// Its page, from 1, where the format has pages.
    pub page: Option<u32>,
    /// First byte of the sentence in the text that was read from the file.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    /// The sentence.
    pub quote: String,
    /// Whether the value stands in it, letter by letter or in another form of the same value.
    pub aligned: bool,
    /// The bytes of the value in the same text, where it is aligned.
    pub value_bytes: Option<(usize, usize)>,
    /// The heading that the sentence stands under.
    pub heading: Option<String>,
    /// What the sentence has to do with the entity.
    pub tie: Tie,
}

/// What a sentence has to do with an entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tie {
    /// It names another one, speaks of one that was named last and is another, or stands under another's name.
    Other,
    /// No sentence is known.
    Unknown,
    /// It names none, and stands under the name of none.
    Free,
    /// It speaks of the one that was named last, or stands under its name, and that is this one.
    Under,
    /// It names it.
    Names,
}

/// A value that was answered and not taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Other {
    /// The value.
    pub value: String,
    /// Windows that answer so.
    pub times: usize,
    /// Why it is not taken.
    pub why: String,
    /// Where it stands.
    pub evidence: Option<Evidence>,
}

/// A rule of the schema that holds for a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleFinding {
    /// Its name.
    pub rule: String,
    /// What it says.
    pub say: String,
    /// The field that it sets, if any.
    pub field: Option<String>,
    /// What stood there.
    pub before: Option<String>,
    /// What stands there now.
    pub after: Option<String>,
}

/// What of a company was read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompanyCoverage {
    /// The company.
    pub company: String,
    /// Its windows, in the order of its files.
    pub windows: Vec<WindowPlace>,
    /// Bytes of text that are no whitespace, and how many of them are in a window.
    pub bytes: (u64, u64),
    /// For every entity and group, what became of each window.
    pub cells: Vec<Cells>,
}

/// A window in its file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowPlace {
    /// The file.
    pub file: String,
    /// The page that it begins on.
    pub page: Option<u32>,
    /// First byte in the text that was read from the file.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Tokens of its lines.
    pub tokens: u32,
}

/// What became of the windows for an entity and a group: numbers of windows, from 0. Each window is in one list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cells {
    /// The entity.
    pub facility: String,
    /// The group.
    pub group: String,
    /// Asked for the group's fields.
    pub read: Vec<usize>,
    /// The model said that nothing of the group is in it.
    pub absent: Vec<usize>,
    /// Not asked, because all fields were found before.
    pub settled: Vec<usize>,
    /// Not asked, because a cap left it out.
    pub capped: Vec<usize>,
    /// Not asked: the time was over.
    #[serde(default)]
    pub out_of_time: Vec<usize>,
    /// Asked, without an answer that can be used.
    pub failed: Vec<usize>,
}

impl Record {
    /// The mean of how sure the found values are, as numbers.
    #[must_use]
    pub fn score(fields: &BTreeMap<String, FieldRecord>) -> f64 {
        const HIGH: f64 = 1.0;
        const MEDIUM: f64 = 0.6;
        const LOW: f64 = 0.3;
        let of = |field: &FieldRecord| {
            field.value.as_ref().map(|_| match field.confidence {
                Some(Confidence::High) => HIGH,
                Some(Confidence::Medium) => MEDIUM,
                Some(Confidence::Low) | None => LOW,
            })
        };
        let found: Vec<f64> = fields.values().filter_map(of).collect();
        #[expect(clippy::cast_precision_loss, reason = "a mean over the fields of a schema")]
        let count = found.len().max(1) as f64;
        found.iter().sum::<f64>() / count
    }
}
