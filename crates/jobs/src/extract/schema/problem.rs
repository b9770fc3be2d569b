//! What is wrong with a schema, and where.

use std::fmt;

use serde::Serialize;

/// Problems that an error names; a schema with more has one cause.
const NAMED_MAX: usize = 1;
/// A known word that is at most so far from an unknown one, in letters, is what was meant.
const DISTANCE_MAX: usize = 3;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Such as `groups[2].fields[0].type`, counted from 0; empty for the whole.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to do, where it is known.
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(text: &str, at: usize, place: impl Into<String>, what: impl Into<String>) -> Self {
        let before = &text[..text.floor_char_boundary(at)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Problem {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            place: place.into(),
            what: what.into(),
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.what)
    }
}

/// A schema that cannot be used, with everything that is wrong with it, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl SchemaError {
    /// The user's next step.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match &self.problems[..] {
            [one] => one.hint.clone(),
            _ => Some("`haul schema check FILE` lists them all".to_owned()),
        }
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.problems.iter().take(NAMED_MAX) {
            write!(f, "{problem}")?;
        }
        match self.problems.len().saturating_sub(NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl std::error::Error for SchemaError {}

/// "`x` is no WHAT", with the known word that was meant, or with all of them.
pub(super) fn unknown(word: &str, what: &str, known: &[&str]) -> (String, Option<String>) {
    let distance = |known: &&&str| strsim::osa_distance(word, known);
    let nearest = known.iter().min_by_key(distance).filter(|known| distance(known) <= DISTANCE_MAX);
    let hint = match nearest {
        Some(nearest) => Some(format!("did you mean `{nearest}`?")),
        None if known.is_empty() => None,
        None => Some(format!("there are {}", known.join(", "))),
    };
    (format!("`{word}` is no {what}"), hint)
}
