//! What fields of a record say of each other, as data: a swap rate and "hedged: no" cannot both be right.

use serde::Serialize;

use super::answer::Confidence;
use super::problem::unknown;
use super::table::{At, Problems, Table, plain};

/// Holds or does not hold for a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// As records and reports name it.
    pub name: String,
    /// All of them must hold for the rule to do something.
    pub when: Vec<Condition>,
    /// What is then known better; without it, the record is only marked.
    pub set: Option<Setting>,
    /// What the record's reader is told.
    pub say: String,
}

/// Something about fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// It must be so of one of them.
    pub fields: Vec<String>,
    /// What must be so.
    pub test: Test,
}

/// What must be so of a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// It has a value, or has none.
    Found(bool),
    /// Its value in normal form is one of these.
    Is(Vec<String>),
    /// It has a value that is none of these.
    IsNot(Vec<String>),
    /// It is an earlier date, or a smaller number, than another field.
    Below(String),
    /// It is a later date, or a larger number, than another field.
    Above(String),
}

/// A value that a rule puts in place of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The field.
    pub field: String,
    /// Its value from then on.
    pub value: String,
    /// How sure that is.
    pub confidence: Confidence,
}

/// Reads the rules; fields that they name must be among `known`.
pub(super) fn read(tables: Vec<Table<'_>>, known: &[&str], problems: &mut Problems<'_>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for mut table in tables {
        let name = table.required("name", problems);
        if rules.iter().any(|rule| rule.name == name.value) && !name.value.is_empty() {
            problems.add(name.at, table.place_of("name"), format!("a second rule `{}`", name.value));
        }
        let conditions = table.tables("when", problems);
        if conditions.is_empty() {
            problems.add(table.at, &table.place, "a rule without `when` would hold for every record");
        }
        let when =
            conditions.into_iter().map(|condition| read_condition(condition, known, problems)).collect();
        let set = table.table("set", problems).map(|table| read_setting(table, known, problems));
        let say = table.required("say", problems).value;
        table.end(problems);
        rules.push(Rule { name: name.value, when, set, say });
    }
    rules
}

fn read_condition(mut table: Table<'_>, known: &[&str], problems: &mut Problems<'_>) -> Condition {
    let mut fields = table.texts("any", problems);
    fields.extend(table.text("field", problems));
    if fields.is_empty() {
        problems.add(table.at, &table.place, "a condition names a `field`, or several with `any`");
    }
    for field in &fields {
        must_be_known(field, &table.place, known, problems);
    }
    let mut tests = Vec::new();
    tests.extend(table.bool("found", problems).map(Test::Found));
    for (key, test) in [("is", Test::Is as fn(Vec<String>) -> Test), ("is_not", Test::IsNot)] {
        let words = plain(table.texts(key, problems));
        if !words.is_empty() {
            tests.push(test(words));
        }
    }
    for (key, test) in [("below", Test::Below as fn(String) -> Test), ("above", Test::Above)] {
        if let Some(other) = table.text(key, problems) {
            must_be_known(&other, &table.place_of(key), known, problems);
            tests.push(test(other.value));
        }
    }
    let count = tests.len();
    let test = tests.pop().unwrap_or(Test::Found(true));
    if count != 1 {
        let what = format!("{count} tests, and one of found, is, is_not, below and above is wanted");
        problems.add(table.at, &table.place, what);
    }
    table.end(problems);
    Condition { fields: plain(fields), test }
}

fn read_setting(mut table: Table<'_>, known: &[&str], problems: &mut Problems<'_>) -> Setting {
    const WORDS: [(&str, Confidence); 3] =
        [("HIGH", Confidence::High), ("MEDIUM", Confidence::Medium), ("LOW", Confidence::Low)];
    let field = table.required("field", problems);
    if !field.value.is_empty() {
        must_be_known(&field, &table.place_of("field"), known, problems);
    }
    let value = table.required("value", problems).value;
    let confidence = table.choice("confidence", "confidence", &WORDS, problems).unwrap_or(Confidence::Medium);
    table.end(problems);
    Setting { field: field.value, value, confidence }
}

pub(super) fn must_be_known(field: &At<String>, place: &str, known: &[&str], problems: &mut Problems<'_>) {
    if !known.contains(&field.value.as_str()) {
        // A list of 72 names helps nobody.
        match unknown(&field.value, "field of this schema", known) {
            (what, Some(hint)) if hint.starts_with("did you mean") => {
                problems.add_with_hint(field.at, place, what, hint);
            }
            (what, _) => problems.add(field.at, place, what),
        }
    }
}
