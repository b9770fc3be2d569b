//! Takes a table of a schema apart, key by key; what nobody took is unknown.

use super::node::{Entry, Node, Value};
use super::problem::{Problem, SchemaError, unknown};

/// Collects what is wrong, so that one check names all of it.
pub(super) struct Problems<'t> {
    text: &'t str,
    found: Vec<Problem>,
}

impl<'t> Problems<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(super) fn add(&mut self, at: usize, place: impl Into<String>, what: impl Into<String>) {
        self.found.push(Problem::new(self.text, at, place, what));
    }

    pub(super) fn add_with_hint(
        &mut self,
        at: usize,
        place: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.found.push(Problem::new(self.text, at, place, what).hint(hint));
    }

    /// A word that is none of those known.
    pub(super) fn add_unknown(&mut self, at: usize, place: &str, word: &str, what: &str, known: &[&str]) {
        let (words, hint) = unknown(word, what, known);
        let problem = Problem::new(self.text, at, place, words);
        self.found.push(Problem { hint, ..problem });
    }

    /// All of them in the order of the text; none is no error.
    pub(super) fn into_result(mut self) -> Result<(), SchemaError> {
        self.found.sort_by_key(|problem| (problem.line, problem.column));
        if self.found.is_empty() { Ok(()) } else { Err(SchemaError { problems: self.found }) }
    }
}

/// A table on its way into a type.
pub(super) struct Table<'n> {
    /// Where it stands, such as `groups[2]`.
    pub(super) place: String,
    pub(super) at: usize,
    entries: &'n [Entry],
    known: Vec<&'static str>,
}

/// A text and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) at: usize,
    pub(super) value: T,
}

impl<'n> Table<'n> {
    /// None where the node is no table.
    pub(super) fn open(node: &'n Node, place: &str, problems: &mut Problems<'_>) -> Option<Self> {
        let Value::Table(entries) = &node.value else {
            problems.add(node.at, place, format!("{}, and a table is wanted", node.value.kind()));
            return None;
        };
        for (number, entry) in entries.iter().enumerate() {
            if entries[..number].iter().any(|before| before.key == entry.key) {
                problems.add(entry.at, place, format!("the key `{}` stands here twice", entry.key));
            }
        }
        Some(Table { place: place.to_owned(), at: node.at, entries, known: Vec::new() })
    }

    /// Where a key of it stands, in words.
    pub(super) fn place_of(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// A value, if it is there; from then on its key is known.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// The same by a name that the schema itself chose.
    pub(super) fn take_named(&mut self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// All entries, where the keys are the schema's own names.
    pub(super) fn all(&self) -> &'n [Entry] {
        self.entries
    }

    pub(super) fn text(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<At<String>> {
        let node = self.take(key)?;
        text(node, &self.place_of(key), problems)
    }

    /// A text that must be there and say something.
    pub(super) fn required(&mut self, key: &'static str, problems: &mut Problems<'_>) -> At<String> {
        match self.take(key) {
            None => problems.add(self.at, &self.place, format!("`{key}` is missing")),
            Some(node) => match text(node, &self.place_of(key), problems) {
                Some(found) if found.value.trim().is_empty() => {
                    problems.add(node.at, self.place_of(key), "an empty text");
                }
                Some(found) => return found,
                None => {}
            },
        }
        At { at: self.at, value: String::new() }
    }

    pub(super) fn texts(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<At<String>> {
        let place = self.place_of(key);
        self.take(key).map_or_else(Vec::new, |node| texts(node, &place, problems))
    }

    pub(super) fn bool(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<bool> {
        let node = self.take(key)?;
        if let Value::Bool(truth) = node.value {
            return Some(truth);
        }
        problems.add(
            node.at,
            self.place_of(key),
            format!("{}, and true or false is wanted", node.value.kind()),
        );
        None
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        within: std::ops::RangeInclusive<u32>,
        problems: &mut Problems<'_>,
    ) -> Option<u32> {
        let node = self.take(key)?;
        let number = match node.value {
            Value::Integer(integer) => u32::try_from(integer).ok().filter(|number| within.contains(number)),
            _ => None,
        };
        if number.is_none() {
            let found = match node.value {
                Value::Integer(integer) => integer.to_string(),
                _ => node.value.kind().to_owned(),
            };
            let wanted = format!("{found}, and a whole number within {within:?} is wanted");
            problems.add(node.at, self.place_of(key), wanted);
        }
        number
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        what: &str,
        choices: &[(&'static str, T)],
        problems: &mut Problems<'_>,
    ) -> Option<T> {
        let word = self.text(key, problems)?;
        let found = choices.iter().find(|(name, _)| *name == word.value).map(|(_, choice)| *choice);
        if found.is_none() {
            let known: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            problems.add_unknown(word.at, &self.place_of(key), &word.value, what, &known);
        }
        found
    }

    /// The tables of a list of them, each opened.
    pub(super) fn tables(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Vec<Table<'n>> {
        let place = self.place_of(key);
        let Some(node) = self.take(key) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            problems.add(node.at, place, format!("{}, and a list of tables is wanted", node.value.kind()));
            return Vec::new();
        };
        let open = |(number, item)| Table::open(item, &format!("{place}[{number}]"), problems);
        items.iter().enumerate().filter_map(open).collect()
    }

    pub(super) fn table(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Option<Table<'n>> {
        let place = self.place_of(key);
        self.take(key).and_then(|node| Table::open(node, &place, problems))
    }

    /// Names keys that nobody took.
    pub(super) fn end(self, problems: &mut Problems<'_>) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let place = if self.place.is_empty() { "the schema" } else { &self.place };
            problems.add_unknown(entry.at, place, &entry.key, "key here", &self.known);
        }
    }

    /// Names keys that nobody took, but for one that the schema chose.
    pub(super) fn end_but(mut self, key: &str, problems: &mut Problems<'_>) {
        let known = std::mem::take(&mut self.known);
        for entry in
            self.entries.iter().filter(|entry| entry.key != key && !known.contains(&entry.key.as_str()))
        {
            problems.add_unknown(entry.at, &self.place, &entry.key, "key here", &known);
        }
    }
}

pub(super) fn text(node: &Node, place: &str, problems: &mut Problems<'_>) -> Option<At<String>> {
    if let Value::Text(text) = &node.value {
        return Some(At { at: node.at, value: text.clone() });
    }
    problems.add(node.at, place, format!("{}, and a text is wanted", node.value.kind()));
    None
}

/// A list of texts; an empty one among them says nothing and is an error.
pub(super) fn texts(node: &Node, place: &str, problems: &mut Problems<'_>) -> Vec<At<String>> {
    let Value::List(items) = &node.value else {
        problems.add(node.at, place, format!("{}, and a list of texts is wanted", node.value.kind()));
        return Vec::new();
    };
    let mut found = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let place = format!("{place}[{number}]");
        match text(item, &place, problems) {
            Some(text) if text.value.trim().is_empty() => problems.add(text.at, place, "an empty text"),
            Some(text) => found.push(text),
            None => {}
        }
    }
    found
}

/// Without their places.
pub(super) fn plain(texts: Vec<At<String>>) -> Vec<String> {
    texts.into_iter().map(|text| text.value).collect()
}
