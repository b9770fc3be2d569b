//! Whether two cells say the same.

use crate::extract::normalise::{self, Date, Value, folded, normalise};
use crate::extract::schema::{Field, FieldType, Formats};

/// How a cell of the golden table compares with that of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Agreement {
    /// One value in normal form.
    Strict,
    /// As much as both of them say: a month and a day in it, a name and the name with its legal form.
    Lenient,
    /// Another value.
    Not,
}

/// Words that stand where there is no value.
const ABSENT: [&str; 10] = [
    "not_found",
    "not found",
    "not_extracted",
    "possibly_present",
    "extraction_error",
    "n/a",
    "na",
    "none",
    "null",
    "not stated",
];

/// Types by which a column is read whose type nobody said. Numbers are not among them: 180 months and 180 days are one.
const UNTYPED: [FieldType; 6] = [
    FieldType::Date,
    FieldType::Percent,
    FieldType::Duration,
    FieldType::Amount,
    FieldType::YesNo,
    FieldType::Ratio,
];

/// What a cell says; none where it says that there is nothing.
pub(super) fn stated(cell: &str) -> Option<&str> {
    let cell = cell.trim();
    let is_mark = cell.chars().all(|c| matches!(c, '-' | '\u{2013}' | '\u{2014}' | '.'));
    let is_absent = is_mark || ABSENT.iter().any(|word| cell.eq_ignore_ascii_case(word));
    (!is_absent).then_some(cell)
}

/// Compares what two cells of a field say; without a field, by the first type that both are of.
pub(super) fn agreement(field: Option<&Field>, formats: &Formats, golden: &str, found: &str) -> Agreement {
    if folded(golden) == folded(found) && !folded(golden).is_empty() {
        return Agreement::Strict;
    }
    let read = |kind| (normalise(kind, golden, formats), normalise(kind, found, formats));
    let pair = match field {
        Some(field) => {
            match (normalise::of_field(field, golden, formats), normalise::of_field(field, found, formats)) {
                (Ok(golden), Ok(found)) => Some((golden, found)),
                _ => None,
            }
        }
        None => UNTYPED.into_iter().find_map(|kind| match read(kind) {
            (Ok(golden), Ok(found)) => Some((golden, found)),
            _ => None,
        }),
    };
    match pair {
        Some((Value::Text(golden), Value::Text(found))) => of_words(&golden, &found),
        Some((golden, found)) if golden == found => Agreement::Strict,
        Some((golden, found)) if is_close(&golden, &found) => Agreement::Lenient,
        Some(_) => Agreement::Not,
        // A value beside words that say more of it has no normal form; its words may be those of the other.
        None => of_words(golden, found),
    }
}

/// One of them says less, and nothing else.
fn is_close(golden: &Value, found: &Value) -> bool {
    match (golden, found) {
        (Value::Date(golden), Value::Date(found)) => is_within(golden, found) || is_within(found, golden),
        (Value::Percent(golden), Value::Percent(found)) | (Value::Ratio(golden), Value::Ratio(found)) => {
            golden.rounded(2) == found.rounded(2)
        }
        (Value::Amount { number: golden, of: a }, Value::Amount { number: found, of: b }) => {
            golden == found && (a.is_none() || b.is_none())
        }
        _ => false,
    }
}

fn is_within(day: &Date, month: &Date) -> bool {
    day.year == month.year
        && (month.month.is_none() || day.month == month.month)
        && (month.day.is_none() || day.day == month.day)
}

/// Whole words of the shorter in a row in the longer, and half of its words at least: `no` is not in `North`, and `bank`
/// is not `First Merchant Bank of the North`.
fn of_words(golden: &str, found: &str) -> Agreement {
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_lowercase).collect()
    };
    let (golden, found) = (words(golden), words(found));
    if golden == found && !golden.is_empty() {
        return Agreement::Strict;
    }
    let (short, long) = if golden.len() <= found.len() { (&golden, &found) } else { (&found, &golden) };
    let is_part = !short.is_empty()
        && short.len() * 2 >= long.len()
        && long.windows(short.len()).any(|window| window == short.as_slice());
    if is_part { Agreement::Lenient } else { Agreement::Not }
}
