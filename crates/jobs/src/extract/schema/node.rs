//! TOML and JSON as one tree that remembers where everything stands, so that whatever is wrong with a schema is said with
//! its line.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Syntax;
use super::problem::Problem;

/// A value and its first byte in the text.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Text(String),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// What no schema has: a float, a date. In the words of an error.
    Other(&'static str),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: usize,
    pub(super) node: Node,
}

impl Value {
    /// In the words of an error.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a truth value",
            Value::Integer(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }
}

/// The whole text as one table.
pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Node, Problem> {
    match syntax {
        Syntax::Toml => toml(text),
        Syntax::Json => json(text),
    }
}

fn toml(text: &str) -> Result<Node, Problem> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        Problem::new(text, at, "", format!("no TOML: {}", one_line(error.message())))
    })?;
    Ok(Node { at: table.span().start, value: table_of(table.into_inner()) })
}

/// In the order of the text: the parser keeps tables sorted by key.
fn table_of(table: DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            at: key.span().start,
            key: key.into_inner().into_owned(),
            node: node_of(value),
        })
        .collect();
    entries.sort_by_key(|entry| entry.at);
    Value::Table(entries)
}

fn node_of(value: Spanned<DeValue<'_>>) -> Node {
    let at = value.span().start;
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Boolean(truth) => Value::Bool(truth),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Value::Integer(integer),
            Err(_) => Value::Other("a number beyond 64 bits"),
        },
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(list) => Value::List(list.into_iter().map(node_of).collect()),
        DeValue::Table(table) => table_of(table),
    };
    Node { at, value }
}

/// serde_json says whether it is JSON, and no deeper than it goes itself; what it accepted is read again for the places.
fn json(text: &str) -> Result<Node, Problem> {
    serde_json::from_str::<serde_json::Value>(text).map_err(|error| {
        let at = offset(text, error.line(), error.column());
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        Problem::new(text, at, "", format!("no JSON: {words}"))
    })?;
    Ok(Json { text, at: 0 }.node())
}

/// The byte that serde_json counts to: lines from 1, bytes of a line from 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    text.floor_char_boundary((start + column.saturating_sub(1)).min(text.len()))
}

/// Walks over a text that is JSON.
struct Json<'a> {
    text: &'a str,
    at: usize,
}

impl Json<'_> {
    fn node(&mut self) -> Node {
        let at = self.blank();
        let value = match self.text.as_bytes().get(at) {
            Some(b'{') => Value::Table(self.items(|json| {
                let at = json.blank();
                let Value::Text(key) = json.scalar() else { unreachable!("keys of JSON are texts") };
                json.blank();
                json.at += 1;
                Entry { key, at, node: json.node() }
            })),
            Some(b'[') => Value::List(self.items(Json::node)),
            _ => self.scalar(),
        };
        Node { at, value }
    }

    /// What stands between a bracket and its counterpart, with commas between.
    fn items<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        self.at += 1;
        loop {
            self.blank();
            match self.text.as_bytes().get(self.at) {
                Some(b',') => self.at += 1,
                Some(b'}' | b']') | None => break,
                Some(_) => items.push(item(self)),
            }
        }
        self.at += 1;
        items
    }

    fn scalar(&mut self) -> Value {
        let rest = &self.text[self.at..];
        let bytes = match rest.strip_prefix('"') {
            Some(inside) => end_of_text(inside) + 2,
            None => rest.find([',', ']', '}', ' ', '\t', '\r', '\n']).unwrap_or(rest.len()),
        };
        let token = &rest[..bytes];
        self.at += bytes;
        match serde_json::from_str(token) {
            Ok(serde_json::Value::Null) => Value::Null,
            Ok(serde_json::Value::Bool(truth)) => Value::Bool(truth),
            Ok(serde_json::Value::String(text)) => Value::Text(text),
            Ok(serde_json::Value::Number(number)) => match number.as_i64() {
                Some(integer) => Value::Integer(integer),
                None => Value::Other("a number with a fraction, or beyond 64 bits"),
            },
            // Lone surrogates pass where a text is ignored.
            _ => Value::Other("a text that is no Unicode"),
        }
    }

    fn blank(&mut self) -> usize {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.at
    }
}

/// Bytes before the quotation mark that ends a text.
fn end_of_text(inside: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'"' if !escaped => return at,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    inside.len()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
