//! A record held against the rules of its schema: what its fields say of each other.
//!
//! Rules are looked at in the schema's order, each once; what one of them sets, the next ones see. A comparison that
//! cannot be made (a text without a normal form, euros and dollars, a year and a day in it) does not hold.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Serialize;

use super::normalise::{Date, Duration, Value, folded, of_field};
use super::schema::{Condition, Rule, Schema, Setting, Test};

/// A rule that holds for a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule.
    pub rule: String,
    /// What the reader is told.
    pub say: String,
    /// What it sets, and what stood there.
    pub set: Option<(Setting, Option<String>)>,
}

/// Holds the found values of a record, by field, against the rules, and gives what was found; `values` then has what
/// rules set.
pub fn crosscheck(schema: &Schema, values: &mut BTreeMap<String, String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in &schema.rules {
        if !holds(schema, rule, values) {
            continue;
        }
        let set = rule.set.clone().map(|set| {
            let before = values.insert(set.field.clone(), set.value.clone());
            (set, before)
        });
        findings.push(Finding { rule: rule.name.clone(), say: rule.say.clone(), set });
    }
    findings
}

fn holds(schema: &Schema, rule: &Rule, values: &BTreeMap<String, String>) -> bool {
    let of_one = |condition: &Condition| {
        condition.fields.iter().any(|field| is_so(schema, field, &condition.test, values))
    };
    rule.when.iter().all(of_one)
}

fn is_so(schema: &Schema, field: &str, test: &Test, values: &BTreeMap<String, String>) -> bool {
    let value = values.get(field).filter(|value| !value.trim().is_empty());
    match test {
        Test::Found(found) => value.is_some() == *found,
        Test::Is(words) => {
            value.is_some_and(|value| words.iter().any(|word| same(schema, field, value, word)))
        }
        Test::IsNot(words) => {
            value.is_some_and(|value| !words.iter().any(|word| same(schema, field, value, word)))
        }
        Test::Below(other) => compared(schema, field, other, values) == Some(Ordering::Less),
        Test::Above(other) => compared(schema, field, other, values) == Some(Ordering::Greater),
    }
}

/// By normal form, or where one has none by their words.
fn same(schema: &Schema, field: &str, value: &str, word: &str) -> bool {
    let read = |text| of_field(schema.field(field)?, text, &schema.formats).ok();
    match (read(value), read(word)) {
        (Some(a), Some(b)) => a == b || folded(&a.to_string()) == folded(&b.to_string()),
        _ => folded(value) == folded(word),
    }
}

fn compared(schema: &Schema, a: &str, b: &str, values: &BTreeMap<String, String>) -> Option<Ordering> {
    let read = |field: &str| of_field(schema.field(field)?, values.get(field)?, &schema.formats).ok();
    ordering(&read(a)?, &read(b)?)
}

/// Of two values that can be compared.
#[must_use]
pub fn ordering(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Date(a), Value::Date(b)) => dates(a, b),
        (Value::Percent(a), Value::Percent(b))
        | (Value::Ratio(a), Value::Ratio(b))
        | (Value::Number(a), Value::Number(b)) => Some(a.cmp(b)),
        (Value::Amount { number: a, of: of_a }, Value::Amount { number: b, of: of_b }) if of_a == of_b => {
            Some(a.cmp(b))
        }
        (Value::Duration(Duration::Months(a)), Value::Duration(Duration::Months(b)))
        | (Value::Duration(Duration::Days(a)), Value::Duration(Duration::Days(b))) => Some(a.cmp(b)),
        _ => None,
    }
}

/// As far as both are known: a year is neither before nor after a day in it.
fn dates(a: &Date, b: &Date) -> Option<Ordering> {
    let mut known = a.year.cmp(&b.year);
    for (a, b) in [(a.month, b.month), (a.day, b.day)] {
        if known.is_ne() {
            break;
        }
        match (a, b) {
            (Some(a), Some(b)) => known = a.cmp(&b),
            (None, None) => break,
            _ => return None,
        }
    }
    Some(known)
}
