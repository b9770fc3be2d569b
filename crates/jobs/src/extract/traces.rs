//! What was asked and answered, call by call, for people who want to see why a value is what it is: a file of lines for
//! each company. A thread writes them, so that no call waits for the disk; keys and passwords are taken out.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use crossbeam_channel::Sender;
use haul_generate::call::{Answer, Call, CallError, Finish, Prompt};
use haul_pipeline::stage::channel;
use serde::Serialize;
use serde_json::json;

use super::ask::Stage;

/// Calls between those that answer and the thread that writes.
const AHEAD_MAX: usize = 1_024;
/// What stands in place of a secret.
const REDACTED: &str = "[REDACTED]";
/// How secrets begin, and how many characters they have behind that at least.
const SECRETS: [(&str, usize); 9] = [
    ("sk-", 16),
    ("hf_", 16),
    ("ghp_", 16),
    ("github_pat_", 16),
    ("xoxb-", 16),
    ("AKIA", 16),
    ("AIza", 16),
    ("eyJ", 24),
    ("Bearer ", 8),
];
/// What stands before a secret that begins in no way of its own.
const LABELS: [&str; 4] = ["password", "passwd", "api key", "api_key"];

/// A call in a file of traces.
#[derive(Serialize)]
struct Trace {
    stage: Stage,
    prompt: String,
    /// As it came; none where there is none.
    answer: Option<String>,
    /// It ended at its limit.
    cut: bool,
    /// Why there is no answer.
    why: Option<String>,
    prompt_tokens: u32,
    reused_tokens: u32,
    answer_tokens: u32,
    ms: u64,
}

/// Writes traces of one company after the other.
pub struct Traces {
    sender: Sender<Trace>,
    writer: JoinHandle<io::Result<()>>,
    path: PathBuf,
}

impl Traces {
    /// Begins the file anew: a rerun answers from the journal what was traced before, and traces it again.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn begin(path: &Path) -> io::Result<Traces> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let (sender, receiver) = channel::<Trace>(AHEAD_MAX);
        let writer = thread::spawn(move || write(file, receiver.into_iter()));
        Ok(Traces { sender, writer, path: path.to_owned() })
    }

    /// Notes a call. Nothing is lost: where the disk is slower than the model for long, this waits.
    pub(crate) fn note(&self, stage: Stage, call: &Call, result: &Result<Answer, CallError>) {
        let answer = result.as_ref().ok();
        let trace = Trace {
            stage,
            prompt: redacted(&text_of(&call.prompt)),
            answer: answer.map(|answer| redacted(&answer.text)),
            cut: answer.is_some_and(|answer| answer.finish == Finish::Length),
            why: result.as_ref().err().map(ToString::to_string),
            prompt_tokens: answer.map_or(0, |answer| answer.prompt_tokens),
            reused_tokens: answer.map_or(0, |answer| answer.reused_tokens),
            answer_tokens: answer.map_or(0, |answer| answer.answer_tokens),
            ms: answer.map_or(0, |answer| answer.ms),
        };
        // A writer that is gone has its reason for `end`.
        if self.sender.send(trace).is_err() {
            tracing::debug!("no more traces can be written to {}", self.path.display());
        }
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// It was not.
    pub fn end(self) -> io::Result<()> {
        drop(self.sender);
        self.writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn write(file: File, traces: impl Iterator<Item = Trace>) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    for (number, trace) in traces.enumerate() {
        let mut line = json!({"call": number + 1});
        if let (Some(line), serde_json::Value::Object(trace)) = (line.as_object_mut(), json!(trace)) {
            line.extend(trace);
        }
        writeln!(file, "{line}")?;
    }
    file.flush()
}

fn text_of(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text { prefix, suffix, .. } => format!("{prefix}{suffix}"),
        Prompt::Chat { messages, .. } => {
            let turns = messages.iter().map(|turn| format!("{}: {}", turn.role, turn.content));
            turns.collect::<Vec<_>>().join("\n\n")
        }
    }
}

/// The text without keys, tokens and passwords.
fn redacted(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, secret)) = next_secret(rest) {
        clean.push_str(&rest[..at]);
        clean.push_str(REDACTED);
        rest = &rest[at + secret..];
    }
    clean + rest
}

/// Where the next secret begins, and its bytes.
fn next_secret(text: &str) -> Option<(usize, usize)> {
    let is_of_key = |c: char| c.is_ascii_alphanumeric() || "-_.+/=".contains(c);
    let by_beginning = SECRETS.iter().flat_map(|(beginning, least)| {
        text.match_indices(beginning).filter_map(move |(at, _)| {
            let is_in_word = text[..at].chars().next_back().is_some_and(char::is_alphanumeric);
            let behind = &text[at + beginning.len()..];
            let bytes = behind.find(|c| !is_of_key(c)).unwrap_or(behind.len());
            (!is_in_word && bytes >= *least).then_some((at, beginning.len() + bytes))
        })
    });
    let lower = text.to_ascii_lowercase();
    let by_label: Vec<(usize, usize)> = LABELS
        .iter()
        .flat_map(|label| lower.match_indices(label))
        .filter_map(|(at, label)| {
            let behind = &text[at + label.len()..];
            let value = behind.trim_start().strip_prefix([':', '='])?.trim_start();
            let bytes = value.find(char::is_whitespace).unwrap_or(value.len());
            (bytes > 0).then_some((text.len() - value.len(), bytes))
        })
        .collect();
    by_beginning.chain(by_label).min()
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn secrets_are_taken_out_and_words_stay() {
        for (text, expected) in [
            ("the key is sk-abcdefghijklmnop1234, keep it", "the key is [REDACTED], keep it"),
            ("Authorization: Bearer abc.def-123 and on", "Authorization: [REDACTED] and on"),
            ("Password: hunter2\nuser: Ann", "Password: [REDACTED]\nuser: Ann"),
            ("api_key=\"x y\"", "api_key=[REDACTED] y\""),
            (
                "the password is changed yearly; task-oriented risk-based work",
                "the password is changed yearly; task-oriented risk-based work",
            ),
            ("AKIAIOSFODNN7EXAMPLE and AKIAIOSFODNN7EXAMPL2", "[REDACTED] and [REDACTED]"),
            ("Bearer of shares", "Bearer of shares"),
            ("\u{c4}nderung: p\u{e4}ssword: x", "\u{c4}nderung: p\u{e4}ssword: x"),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }
}
