//! Answers of models, read.
//!
//! An answer that was held to its schema is plain JSON. One that was not is read as far as it can be: from a block of
//! code, from the first brace to the last, with the keys that a model shortened. A number, a truth value or null in place
//! of a text is read as what it says. No answer, whatever it is, is an error of the company.

use haul_generate::call::{Answer, Finish, TokenLogprob};
use serde_json::{Map, Value};

use super::documents::Company;
use super::evidence::Cited;
use super::schema::{Confidence, EvidenceKind, Field, Missing, Numbering, Schema};

/// Words that stand for no value, whatever the schema says.
const EMPTY: [&str; 5] = ["NOT_FOUND", "N/A", "NOT_EXTRACTED", "EXTRACTION_ERROR", "NULL"];
const POSSIBLE: &str = "POSSIBLY_PRESENT";
/// Two keys are one if they share so many words; a common beginning counts like [`PREFIX_POINTS`] of them.
const KEY_POINTS_MIN: usize = 2;
const PREFIX_POINTS: usize = 3;

/// What an answer says of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// It has a value.
    Value(Stated),
    /// It is stated, and the model cannot say what.
    Possible,
    /// Nothing states it.
    Missing,
}

/// A value as it was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Stated {
    /// The value.
    pub value: String,
    /// Where it stands.
    pub cited: Cited,
    /// How sure the model says it is.
    pub confidence: Option<Confidence>,
    /// Probability of its tokens.
    pub probability: Option<f64>,
}

/// Whether a value is right, as a model answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// It is.
    pub correct: bool,
    /// What it is instead.
    pub instead: Option<Stated>,
}

/// An answer that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// It ended at its limit.
    #[error("the answer was cut at {tokens} tokens")]
    Cut {
        /// Of the answer.
        tokens: u32,
    },
    /// It holds no JSON of the shape.
    #[error("no answer of the schema's shape: {text:?}")]
    Shape {
        /// How it begins.
        text: String,
    },
}

/// What is read in: the window of an answer.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    /// What is looked for.
    pub schema: &'a Schema,
    /// What was read.
    pub company: &'a Company,
    /// The window, as a run of sentences.
    pub window: std::ops::Range<usize>,
}

/// Any JSON object in an answer.
///
/// # Errors
/// There is none.
pub fn object(answer: &Answer) -> Result<Map<String, Value>, Unreadable> {
    let text = answer.text.trim();
    for part in parts(text) {
        match serde_json::from_str(part) {
            Ok(Value::Object(object)) => return Ok(object),
            // A list of one object is that object.
            Ok(Value::Array(list)) => {
                if let Some(Value::Object(object)) = list.into_iter().next() {
                    return Ok(object);
                }
            }
            _ => {}
        }
    }
    match answer.finish {
        Finish::Length => Err(Unreadable::Cut { tokens: answer.answer_tokens }),
        Finish::Stop => {
            const CHARS: usize = 80;
            Err(Unreadable::Shape { text: text.chars().take(CHARS).collect() })
        }
    }
}

/// The whole, a block of code in it, and what stands between the first brace and the last.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let block = |mark: &str| {
        let (_, rest) = text.split_once(mark)?;
        Some(rest.split_once("```").map_or(rest, |(inside, _)| inside).trim())
    };
    let braces = || Some(text.get(text.find('{')?..=text.rfind('}')?)).flatten();
    [Some(text), block("```json"), block("```"), braces()].into_iter().flatten()
}

/// Names and types of entities.
///
/// # Errors
/// There is no list of them.
pub fn entities(schema: &Schema, answer: &Answer) -> Result<Vec<(String, Option<String>)>, Unreadable> {
    let object = object(answer)?;
    let list = match object.get(&schema.entity.plural).or_else(|| object.values().find(|v| v.is_array())) {
        Some(Value::Array(list)) => list.clone(),
        _ => return Err(Unreadable::Shape { text: answer.text.chars().take(80).collect() }),
    };
    let named = |item: &Value| match item {
        Value::String(name) => Some((name.clone(), None)),
        Value::Object(item) => {
            let kind = item.get("type").and_then(text_of).filter(|kind| !is_empty(kind));
            Some((text_of(item.get("name")?)?, kind))
        }
        _ => None,
    };
    Ok(list.iter().filter_map(named).filter(|(name, _)| !is_empty(name)).collect())
}

/// Names of groups that are present.
///
/// # Errors
/// There is no list of them.
pub fn present(answer: &Answer) -> Result<Vec<String>, Unreadable> {
    let object = object(answer)?;
    match object.get("present").or_else(|| object.values().find(|value| value.is_array())) {
        Some(Value::Array(list)) => Ok(list.iter().filter_map(text_of).collect()),
        _ => Err(Unreadable::Shape { text: answer.text.chars().take(80).collect() }),
    }
}

impl Reader<'_> {
    /// What is said of each field that was asked for, in their order.
    ///
    /// # Errors
    /// The answer is no object.
    pub fn fields(&self, fields: &[&Field], answer: &Answer) -> Result<Vec<Said>, Unreadable> {
        let mut object = object(answer)?;
        if let Some(wrapper) = &self.schema.answer.wrapper
            && let Some(Value::Object(inside)) = object.remove(wrapper)
        {
            object = inside;
        }
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        let keys: Vec<String> = object.keys().cloned().collect();
        let said = fields.iter().map(|field| {
            let key = key_of(&field.name, &keys, &names);
            key.and_then(|key| object.get(&key)).map_or(Said::Missing, |value| self.said(value, answer))
        });
        Ok(said.collect())
    }

    /// Whether a value is right.
    ///
    /// # Errors
    /// The answer does not say.
    pub fn checked(&self, answer: &Answer) -> Result<Checked, Unreadable> {
        let object = object(answer)?;
        let correct = match object.get("correct").or_else(|| object.get("is_correct")) {
            Some(Value::Bool(correct)) => *correct,
            Some(Value::String(word)) if word.eq_ignore_ascii_case("true") => true,
            Some(Value::String(word)) if word.eq_ignore_ascii_case("false") => false,
            _ => return Err(Unreadable::Shape { text: answer.text.chars().take(80).collect() }),
        };
        let instead = match self.said(&Value::Object(object), answer) {
            Said::Value(stated) if !correct => Some(stated),
            _ => None,
        };
        Ok(Checked { correct, instead })
    }

    fn said(&self, value: &Value, answer: &Answer) -> Said {
        let shape = &self.schema.answer;
        let (text, object) = match value {
            Value::Object(object) => (object.get("value").and_then(text_of), Some(object)),
            other => (text_of(other), None),
        };
        let Some(text) = text else { return Said::Missing };
        let is_possible = shape.possible.as_ref().is_some_and(|word| word.eq_ignore_ascii_case(text.trim()));
        if is_possible || text.trim().eq_ignore_ascii_case(POSSIBLE) {
            return Said::Possible;
        }
        let is_missing =
            matches!(&shape.missing, Missing::Word(word) if word.eq_ignore_ascii_case(text.trim()));
        if is_missing || is_empty(&text) {
            return Said::Missing;
        }
        let confidence = object
            .and_then(|object| object.get("confidence"))
            .and_then(text_of)
            .and_then(|word| shape.confidence_of(&word));
        let cited = object.and_then(|object| object.get(&shape.evidence).or_else(|| object.get("evidence")));
        Said::Value(Stated {
            cited: cited.map_or(Cited::Sentences(vec![]), |cited| self.cited(cited)),
            confidence,
            probability: probability(&answer.logprobs, &text),
            value: text,
        })
    }

    fn cited(&self, cited: &Value) -> Cited {
        if self.schema.answer.evidence_kind == EvidenceKind::Quotation
            && let Value::String(words) = cited
        {
            return Cited::Words(words.clone());
        }
        let numbers: Vec<u32> = match cited {
            Value::Array(list) => list.iter().filter_map(number_of).collect(),
            other => number_of(other).into_iter().collect(),
        };
        let numbering: &Numbering = &self.schema.numbering;
        let sentence = |n: u32| self.company.numbered(self.window.clone(), numbering, n);
        Cited::Sentences(numbers.into_iter().filter_map(sentence).collect())
    }
}

/// A field's own key, or else one that no other field has and that shares enough words with its name.
fn key_of(name: &str, keys: &[String], names: &[&str]) -> Option<String> {
    if let Some(key) = keys.iter().find(|key| key.eq_ignore_ascii_case(name)) {
        return Some(key.clone());
    }
    let parts = |text: &str| {
        let lower = text.to_lowercase();
        lower
            .split(|c: char| !c.is_alphanumeric())
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let own: Vec<String> = parts(name);
    let points = |key: &String| {
        let others: Vec<String> = parts(key);
        let shared = own.iter().filter(|part| others.contains(part)).count();
        let (a, b) = (own.concat(), others.concat());
        let is_beginning = !b.is_empty() && (a.starts_with(&b) || b.starts_with(&a));
        shared + if is_beginning { PREFIX_POINTS } else { 0 }
    };
    let is_free = |key: &&String| !names.iter().any(|name| name.eq_ignore_ascii_case(key));
    let best = keys.iter().filter(is_free).max_by_key(|key| points(key))?;
    (points(best) >= KEY_POINTS_MIN).then(|| best.clone())
}

/// A text, or what stands in place of one.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(true) => Some("Yes".to_owned()),
        Value::Bool(false) => Some("No".to_owned()),
        Value::Array(list) => {
            let texts: Vec<String> = list.iter().filter_map(text_of).collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        }
        Value::Object(object) => object.get("value").or_else(|| object.get("name")).and_then(text_of),
        Value::Null => None,
    }
}

fn number_of(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => u32::try_from(number.as_u64()?).ok(),
        Value::String(text) => text.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok(),
        _ => None,
    }
}

fn is_empty(text: &str) -> bool {
    let text = text.trim();
    text.is_empty() || EMPTY.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// The product of the probabilities of the tokens that write a value, where the answer has them.
fn probability(tokens: &[TokenLogprob], value: &str) -> Option<f64> {
    let whole: String = tokens.iter().map(|token| token.token.as_str()).collect();
    let start = whole.find(value)?;
    let end = start + value.len();
    let mut at = 0;
    let mut sum = 0.0;
    for token in tokens {
        let (from, to) = (at, at + token.token.len());
        if from < end && to > start {
            sum += f64::from(token.logprob);
        }
        at = to;
    }
    Some(sum.exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str, finish: Finish) -> Answer {
        Answer {
            text: text.to_owned(),
            finish,
            prompt_tokens: 1,
            reused_tokens: 0,
            answer_tokens: 7,
            ms: 0,
            logprobs: vec![],
        }
    }

    #[test]
    fn an_object_is_found_in_whatever_stands_around_it() {
        for text in [
            r#"{"a":1}"#,
            "Here it is:\n```json\n{\"a\": 1}\n```\nI hope it helps.",
            "```\n{\"a\": 1}\n```",
            "Sure! {\"a\": 1} is the answer",
            r#"[{"a":1}]"#,
        ] {
            let read = object(&answer(text, Finish::Stop)).unwrap();
            assert_eq!(read.get("a").and_then(Value::as_u64), Some(1), "{text}");
        }
        let cut = object(&answer(r#"{"a":"#, Finish::Length)).unwrap_err();
        assert_eq!(cut, Unreadable::Cut { tokens: 7 });
        for text in ["", "null", "no", "}{", "[]", "```json"] {
            object(&answer(text, Finish::Stop)).unwrap_err();
        }
    }

    #[test]
    fn a_shortened_key_is_the_field_it_shares_words_with() {
        let keys = ["all_in_interest_margin".to_owned(), "maturity".to_owned()];
        let names = ["interest_margin_pa", "maturity_date", "agent"];
        assert_eq!(key_of("interest_margin_pa", &keys, &names), Some(keys[0].clone()));
        assert_eq!(key_of("maturity_date", &keys, &names), Some(keys[1].clone()));
        assert_eq!(key_of("agent", &keys, &names), None);
    }

    #[test]
    fn the_probability_is_that_of_the_value_alone() {
        let token =
            |token: &str, p: f32| TokenLogprob { token: token.to_owned(), logprob: p.ln(), top: vec![] };
        let tokens = [token("{\"m\":\"", 0.1), token("2.", 0.5), token("75%", 0.5), token("\"}", 0.1)];
        let p = probability(&tokens, "2.75%").unwrap();
        assert!((p - 0.25).abs() < 1e-6, "{p}");
        assert_eq!(probability(&tokens, "3%"), None);
    }
}
