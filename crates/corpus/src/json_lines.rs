//! JSONL: one document a line, `{"id", "title", "text"}` and any other fields as metadata.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

use serde_json::{Map, Value};

use crate::document::Document;
use crate::encoding::Decoded;
use crate::limits::Limits;
use crate::parse::{Event, Parsed, unreadable};
use crate::verdict::{ParseFailure, Verdict};
use crate::{language, text};

const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";
const LINE_PREFIX: &str = "line ";
const ID_PREFIX: &str = "id ";

/// Hands each line's document to `emit`. A bad line is one failed document and the next line goes on.
/// A document's part is its `id` (see [`id_part`]), or `line 2` where line 2 has none or cannot be read.
pub(crate) fn read(
    file: File,
    limits: &Limits,
    emit: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<(), ParseFailure> {
    let mut reader = BufReader::new(file);
    let mut seen = HashSet::new();
    let mut line = Vec::new();
    let mut documents = 0usize;
    for number in 1usize.. {
        line.clear();
        let length = read_line(&mut reader, &mut line, limits.text_bytes).map_err(unreadable)?;
        if length == 0 {
            break;
        }
        let content = line.strip_prefix(UTF_8_MARK).unwrap_or(&line).trim_ascii();
        if content.is_empty() && length <= limits.text_bytes {
            continue;
        }
        let parsed = if length > limits.text_bytes {
            let why = format!("line {number} has more than {} bytes", limits.text_bytes);
            failed(number, Verdict::TooLarge, why)
        } else {
            parse_line(content, number, &mut seen)
        };
        documents += 1;
        if emit(Event::Document(Box::new(parsed))).is_break() {
            return Ok(());
        }
    }
    if documents == 0 {
        return Err(ParseFailure::new(Verdict::Empty, "no lines but empty ones"));
    }
    Ok(())
}

/// Reads one line, keeping at most `kept_max` + 1 bytes of it; returns its whole length, 0 at the end.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, kept_max: u64) -> io::Result<u64> {
    let mut length = reader.by_ref().take(kept_max + 1).read_until(b'\n', line)? as u64;
    while length > kept_max && line.last() != Some(&b'\n') {
        let rest = reader.fill_buf()?;
        let newline = rest.iter().position(|&byte| byte == b'\n');
        let used = newline.map_or(rest.len(), |at| at + 1);
        reader.consume(used);
        length += used as u64;
        if newline.is_some() || used == 0 {
            break;
        }
    }
    Ok(length)
}

fn parse_line(content: &[u8], number: usize, seen: &mut HashSet<String>) -> Parsed {
    let mut fields = match serde_json::from_slice::<Map<String, Value>>(content) {
        Ok(fields) => fields,
        Err(error) => return failed(number, Verdict::Corrupt, format!("line {number}: {error}")),
    };
    let part = match fields.shift_remove("id") {
        None | Some(Value::Null) => line_part(number),
        Some(Value::String(id)) => id_part(id),
        Some(Value::Number(id)) => id.to_string(),
        Some(other) => {
            let why = format!("line {number}: the id is neither text nor a number: {}", kind(&other));
            return failed(number, Verdict::Corrupt, why);
        }
    };
    if !seen.insert(part.clone()) {
        let why = format!("line {number}: the id {part:?} is already that of an earlier line");
        return failed(number, Verdict::Corrupt, why);
    }
    let document = document(fields)
        .map_err(|failure| ParseFailure { why: format!("line {number}: {}", failure.why), ..failure });
    Parsed { part: Some(part), document }
}

fn document(mut fields: Map<String, Value>) -> Result<Document, ParseFailure> {
    let content = match fields.shift_remove("text") {
        Some(Value::String(content)) => content,
        Some(other) => {
            let why = format!("\"text\" is not text but {}", kind(&other));
            return Err(ParseFailure::new(Verdict::Corrupt, why));
        }
        None => return Err(ParseFailure::new(Verdict::Corrupt, "no \"text\"")),
    };
    if content.trim().is_empty() {
        return Err(ParseFailure::new(Verdict::Empty, "no text"));
    }
    let title = match fields.shift_remove("title") {
        Some(Value::String(title)) => Some(title),
        None | Some(Value::Null) => None,
        Some(other) => {
            let why = format!("\"title\" is not text but {}", kind(&other));
            return Err(ParseFailure::new(Verdict::Corrupt, why));
        }
    };
    let mut document = text::document(Decoded { text: content, replaced_characters: 0, guessed: false });
    document.title = title;
    document.detected_language = language::detect(&document.text);
    document.metadata = fields;
    Ok(document)
}

/// The part of a line without an id, counted from 1.
fn line_part(number: usize) -> String {
    format!("{LINE_PREFIX}{number}")
}

/// The part of a line with that id: the id itself, but `id line 2` for the id `line 2`, `id id line 2` for
/// `id line 2` and so on. So no two ids, and no id and a nameless line, share a part.
fn id_part(id: String) -> String {
    let number = id.trim_start_matches(ID_PREFIX).strip_prefix(LINE_PREFIX);
    let is_like_line = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    if is_like_line { format!("{ID_PREFIX}{id}") } else { id }
}

fn failed(number: usize, verdict: Verdict, why: String) -> Parsed {
    Parsed { part: Some(line_part(number)), document: Err(ParseFailure { verdict, why }) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
