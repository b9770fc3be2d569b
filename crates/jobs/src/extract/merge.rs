//! From answers to one value: which of several is taken, and what decided it.
//!
//! An answer whose sentence is about another entity is not taken at all, nor is a value without evidence of which the model
//! is not sure. Among the others the first difference decides: what the sentence has to do with the entity, whether the
//! value stands in it, how sure the model is, how many windows say so, the longer evidence, what came first. The last
//! three and the confidence are the rule of the system that this replaces; the first two look at the document.

use super::ask::Stage;
use super::normalise::{Unread, folded, of_field};
use super::record::{Decided, Evidence, FieldRecord, Other, Status, Tie};
use super::schema::{Confidence, Field, FieldType, Formats};

/// An answer to a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The value.
    pub value: String,
    /// How sure the model says it is.
    pub confidence: Option<Confidence>,
    /// Probability of its tokens.
    pub probability: Option<f64>,
    /// Where it stands.
    pub evidence: Option<Evidence>,
    /// The window that was asked.
    pub window: usize,
    /// When it was asked.
    pub stage: Stage,
    /// Whether it can be a value of the field's type: "25 basis points" is no date.
    pub is_of_type: bool,
}

/// All answers to a field.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Those with a value, in the order in which windows were asked.
    pub candidates: Vec<Candidate>,
    /// Questions that were answered.
    pub answered: usize,
    /// Questions that came to nothing.
    pub failed: usize,
    /// An answer says that it may be stated.
    pub possible: bool,
}

/// Answers that say the same.
struct Value<'a> {
    best: &'a Candidate,
    times: usize,
    first: usize,
}

impl Candidate {
    fn tie(&self) -> Tie {
        self.evidence.as_ref().map_or(Tie::Unknown, |evidence| evidence.tie)
    }

    fn is_aligned(&self) -> bool {
        self.evidence.as_ref().is_some_and(|evidence| evidence.aligned)
    }

    fn confidence(&self) -> Confidence {
        self.confidence.unwrap_or(Confidence::Low)
    }

    /// Why it can be no value of this entity.
    fn refused(&self) -> Option<&'static str> {
        match &self.evidence {
            Some(evidence) if evidence.tie == Tie::Other => Some("its sentence is about another"),
            _ if !self.is_of_type => Some("no value of the field's type"),
            None if self.confidence() == Confidence::Low => Some("without evidence, and not sure"),
            _ => None,
        }
    }

    /// Nobody needs to ask for it again.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.confidence == Some(Confidence::High)
            && self.is_aligned()
            && self.is_of_type
            && self.tie() >= Tie::Under
    }

    /// What the merge compares, the most important first.
    fn rank(&self) -> (Tie, bool, Confidence) {
        (self.tie(), self.is_aligned(), self.confidence())
    }
}

/// Whether a text can be a value of a field. Types that are words take all; a text that can be read in two ways, or holds
/// several values, is one.
#[must_use]
pub fn is_of_type(field: &Field, value: &str, formats: &Formats) -> bool {
    let is_words =
        matches!(field.kind, FieldType::Text | FieldType::Name | FieldType::YesNo | FieldType::Enum);
    is_words || of_field(field, value, formats) != Err(Unread::Absent)
}

/// The field's record.
#[must_use]
pub fn merged(field: &Field, answers: &Answers, formats: &Formats) -> FieldRecord {
    let (refused, taken): (Vec<&Candidate>, Vec<&Candidate>) =
        answers.candidates.iter().partition(|candidate| candidate.refused().is_some());
    let mut values = by_value(field, &taken, formats);
    values.sort_by(|a, b| compared(b, a));
    let mut others: Vec<Other> = Vec::new();
    for candidate in refused {
        let why = candidate.refused().unwrap_or_default();
        others.push(other(candidate, 1, why));
    }
    let Some((best, rest)) = values.split_first() else {
        return FieldRecord { status: unfound(answers), others, ..FieldRecord::default() };
    };
    let rule = match rest.first() {
        Some(second) => decided(best, second),
        None if best.best.stage == Stage::Deep => Decided::Deep,
        None => Decided::Only,
    };
    let lost = rest.iter().map(|value| other(value.best, value.times, why_not(best, value)));
    others.splice(0..0, lost);
    FieldRecord {
        value: Some(best.best.value.clone()),
        normal: normal(field, &best.best.value, formats),
        status: Status::Found,
        confidence: Some(best.best.confidence()),
        probability: best.best.probability,
        rule,
        evidence: best.best.evidence.clone(),
        others,
    }
}

/// As a column has it.
#[must_use]
pub fn normal(field: &Field, value: &str, formats: &Formats) -> Option<String> {
    of_field(field, value, formats).ok().map(|value| value.in_column(field, formats))
}

fn unfound(answers: &Answers) -> Status {
    match answers {
        Answers { possible: true, .. } => Status::PossiblyPresent,
        Answers { answered: 0, failed: 0, .. } => Status::NotExtracted,
        Answers { answered: 0, .. } => Status::ExtractionError,
        _ => Status::NotFound,
    }
}

fn other(candidate: &Candidate, times: usize, why: &str) -> Other {
    Other { value: candidate.value.clone(), times, why: why.to_owned(), evidence: candidate.evidence.clone() }
}

/// Answers with the same normal form, or else the same words, are one value.
fn by_value<'a>(field: &Field, taken: &[&'a Candidate], formats: &Formats) -> Vec<Value<'a>> {
    let key = |candidate: &Candidate| match of_field(field, &candidate.value, formats) {
        Ok(value) => folded(&value.to_string()),
        Err(_) => folded(&candidate.value),
    };
    let mut values: Vec<(String, Value<'a>)> = Vec::new();
    for (number, candidate) in taken.iter().enumerate() {
        let key = key(candidate);
        match values.iter_mut().find(|(known, _)| *known == key) {
            Some((_, value)) => {
                value.times += 1;
                if candidate.rank() > value.best.rank() {
                    value.best = candidate;
                }
            }
            None => values.push((key, Value { best: candidate, times: 1, first: number })),
        }
    }
    values.into_iter().map(|(_, value)| value).collect()
}

fn evidence_bytes(value: &Value<'_>) -> usize {
    value.best.evidence.as_ref().map_or(0, |evidence| evidence.quote.len())
}

/// What the first difference between two values is, with which of them is ahead.
fn difference(a: &Value<'_>, b: &Value<'_>) -> (std::cmp::Ordering, Decided) {
    let steps = [
        (a.best.tie().cmp(&b.best.tie()), Decided::Entity),
        (a.best.is_aligned().cmp(&b.best.is_aligned()), Decided::Aligned),
        (a.best.confidence().cmp(&b.best.confidence()), Decided::Confidence),
        (a.times.cmp(&b.times), Decided::Agreement),
        (evidence_bytes(a).cmp(&evidence_bytes(b)), Decided::Longer),
        (b.first.cmp(&a.first), Decided::First),
    ];
    steps.into_iter().find(|(ordering, _)| ordering.is_ne()).unwrap_or(steps[steps.len() - 1])
}

fn compared(a: &Value<'_>, b: &Value<'_>) -> std::cmp::Ordering {
    difference(a, b).0
}

fn decided(best: &Value<'_>, second: &Value<'_>) -> Decided {
    difference(best, second).1
}

fn why_not(best: &Value<'_>, lost: &Value<'_>) -> &'static str {
    match decided(best, lost) {
        Decided::Entity => "its sentence has less to do with it",
        Decided::Aligned => "the value is not in its sentence",
        Decided::Confidence => "less sure",
        Decided::Agreement => "fewer windows say so",
        Decided::Longer => "shorter evidence",
        _ => "came later",
    }
}
