//! Values in one form: what a document says as "two point seven five per cent.", "275 bps" or "2,75 %" is 2.75%.
//!
//! A normaliser reads, it never guesses: where a text holds no value of its type, several that differ, or one that can
//! be read in two ways, there is no normal form, and the text stays as it is. [`readings`] finds the values in a longer
//! text, which is also how evidence and windows are searched for a value that is written in another way there.

mod amounts;
mod dates;
mod decimal;
mod measures;
mod tokens;

use std::fmt;
use std::ops::Range;

pub use dates::Date;
pub use decimal::Decimal;

use super::schema::{DateFormat, Field, FieldType, Formats, Unit};

/// A text that is longer holds no single value.
const TEXT_BYTES_MAX: usize = 2000;

/// A value in normal form; its text form reads as the same value again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A day, a month or a year.
    Date(Date),
    /// Of hundred.
    Percent(Decimal),
    /// How many times.
    Ratio(Decimal),
    /// Yes or no.
    YesNo(bool),
    /// A quantity in ones, and of what: `EUR`, `MW`.
    Amount {
        /// How many.
        number: Decimal,
        /// Of what, where the text says so.
        of: Option<String>,
    },
    /// A length of time.
    Duration(Duration),
    /// A number.
    Number(Decimal),
    /// Words, with single spaces.
    Text(String),
}

/// A length of time. Months and days are no parts of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duration {
    /// Years and months, as months.
    Months(u32),
    /// Weeks and days, as days.
    Days(u32),
}

/// Why a text has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unread {
    /// It holds no value of the type.
    #[error("no value of its type")]
    Absent,
    /// It holds several, which differ, or a range.
    #[error("several values")]
    Several,
    /// It can be read in two ways.
    #[error("a value that can be read in two ways")]
    Ambiguous,
}

/// A value in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Its bytes.
    pub range: Range<usize>,
    /// The value, or why it is none.
    pub value: Result<Value, Unread>,
}

/// The normal form of a text that holds one value of a type.
///
/// # Errors
/// It holds none, or not exactly one.
pub fn normalise(kind: FieldType, text: &str, formats: &Formats) -> Result<Value, Unread> {
    let words = spaced_once(text);
    if words.is_empty() || words.len() > TEXT_BYTES_MAX {
        return Err(Unread::Absent);
    }
    match kind {
        FieldType::Text | FieldType::Name | FieldType::Enum => Ok(Value::Text(words)),
        FieldType::YesNo => yes_or_no(&words).map(Value::YesNo).ok_or(Unread::Absent),
        _ => the_only(readings(kind, &words, formats)),
    }
}

/// The normal form of a value of a field: for one with an `enum`, the value that the text is a spelling of.
///
/// # Errors
/// It holds none, or not exactly one.
pub fn of_field(field: &Field, text: &str, formats: &Formats) -> Result<Value, Unread> {
    if field.values.is_empty() {
        return normalise(field.kind, text, formats);
    }
    let folded = folded(text);
    let spelled = |value: &&String| {
        let others = field.synonyms.iter().find(|(of, _)| of == *value).map_or(&[][..], |(_, others)| others);
        self::folded(value) == folded || others.iter().any(|other| self::folded(other) == folded)
    };
    field.values.iter().find(spelled).map(|value| Value::Text(value.clone())).ok_or(Unread::Absent)
}

/// All values of a type in a text, in its order. Types that are words have none.
#[must_use]
pub fn readings(kind: FieldType, text: &str, formats: &Formats) -> Vec<Reading> {
    let tokens = tokens::tokens(text);
    match kind {
        FieldType::Date => dates::readings(text, &tokens, formats.day_first),
        FieldType::Percent => measures::percents(&tokens, formats.decimal),
        FieldType::Ratio => measures::ratios(&tokens, formats.decimal),
        FieldType::Amount => amounts::amounts(&tokens, formats.decimal),
        FieldType::Duration => measures::durations(&tokens, formats.decimal),
        FieldType::Number => measures::numbers(&tokens, formats.decimal),
        FieldType::Text | FieldType::Name | FieldType::YesNo | FieldType::Enum => Vec::new(),
    }
}

/// The value, if all readings say the same.
fn the_only(readings: Vec<Reading>) -> Result<Value, Unread> {
    let mut values = readings.into_iter().map(|reading| reading.value);
    let first = values.next().ok_or(Unread::Absent)??;
    for value in values {
        if value? != first {
            return Err(Unread::Several);
        }
    }
    Ok(first)
}

/// The word itself, or the word and what is said of it behind a mark: "Yes, by swap", "No - unhedged". "Norway" and "no
/// later than" are no answers.
fn yes_or_no(text: &str) -> Option<bool> {
    const YES: [&str; 11] =
        ["yes", "y", "true", "ja", "oui", "si", "s\u{ed}", "sim", "s\u{ec}", "tak", "\u{2713}"];
    const NO: [&str; 9] = ["no", "n", "false", "nein", "non", "n\u{e3}o", "nie", "nee", "\u{2717}"];
    const SHORT: usize = 1;
    let word: String =
        text.chars().take_while(|c| c.is_alphabetic() || ['\u{2713}', '\u{2717}'].contains(c)).collect();
    let rest = text[word.len()..].trim_start();
    let is_said_of_it =
        rest.starts_with([',', ';', ':', '-', '\u{2013}', '\u{2014}', '(']) && word.chars().count() > SHORT;
    if !(rest.is_empty() || rest == "." || is_said_of_it) {
        return None;
    }
    let word = word.to_lowercase();
    match (YES.contains(&word.as_str()), NO.contains(&word.as_str())) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// For comparing words: small letters, single spaces, no marks around.
#[must_use]
pub fn folded(text: &str) -> String {
    let words = spaced_once(text).to_lowercase();
    words.trim_matches(|c: char| !c.is_alphanumeric()).to_owned()
}

fn spaced_once(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Value {
    /// As a column of a table has it: dates in the schema's format, amounts in the field's unit.
    #[must_use]
    pub fn in_column(&self, field: &Field, formats: &Formats) -> String {
        const PLACES: u32 = 2;
        match self {
            Value::Date(date) => match (formats.date, date.month) {
                (DateFormat::Month, Some(month)) => format!("{month:02}/{:04}", date.year),
                _ => date.to_string(),
            },
            Value::Percent(number) => format!("{}%", number.rounded(PLACES)),
            Value::Ratio(number) => format!("{}x", number.rounded(PLACES)),
            Value::Amount { number, of } => {
                let power = match field.unit {
                    Unit::One => 0,
                    Unit::Thousand => -3,
                    Unit::Million => -6,
                };
                let number = number.shifted(power).unwrap_or(*number);
                Value::Amount { number, of: of.clone() }.to_string()
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Date(date) => date.fmt(f),
            Value::Percent(number) => write!(f, "{number}%"),
            Value::Ratio(number) => write!(f, "{number}x"),
            Value::YesNo(true) => f.write_str("Yes"),
            Value::YesNo(false) => f.write_str("No"),
            Value::Amount { number, of: Some(of) } if amounts::is_unit(of) => write!(f, "{number} {of}"),
            Value::Amount { number, of: Some(of) } => write!(f, "{of} {number}"),
            Value::Amount { number, of: None } | Value::Number(number) => number.fmt(f),
            Value::Duration(Duration::Months(months)) => write!(f, "{months} months"),
            Value::Duration(Duration::Days(days)) => write!(f, "{days} days"),
            Value::Text(text) => f.write_str(text),
        }
    }
}
