//! stdout and stderr. Data goes to stdout; notes, warnings and errors to stderr. A reader that goes away ends
//! nothing: what cannot be written to a closed stream is dropped.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use tracing::Level;
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{Global, LogLevel};
use crate::failure::Failure;

/// The two streams and how they were asked to behave.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    /// Also starts the log.
    pub(crate) fn new(global: &Global) -> Self {
        start_log(global.log);
        Self { json: global.json, quiet: global.quiet }
    }

    /// Whether exactly one JSON document is wanted on stdout.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether a live progress line may be drawn.
    pub(crate) fn live(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// An answer for people. Titles, passages and paths come from documents: what could steer a terminal is
    /// shown as U+FFFD.
    pub(crate) fn data(&self, text: &str) -> Result<(), Failure> {
        self.write(&printable(text))
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = stdout
            .write_all(text.as_bytes())
            .and_then(|()| if text.ends_with('\n') { Ok(()) } else { stdout.write_all(b"\n") });
        closed_is_fine(written.and_then(|()| stdout.flush()))
            .map_err(|error| Failure::new(format!("cannot write to stdout: {error}")))
    }

    /// The one JSON document.
    pub(crate) fn json_document(&self, document: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Failure::new(format!("cannot encode the answer as JSON: {error}")))?;
        self.write(&text)
    }

    /// A line for the user that is not data.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            to_stderr(text);
        }
    }

    /// The error that ends the command, and its hint.
    pub(crate) fn failure(&self, failure: &Failure) {
        to_stderr(&format!("haul: {failure}"));
        if let Some(hint) = failure.hint_text() {
            to_stderr(&format!("\nhint: {hint}"));
        }
    }
}

fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(steers) { text.replace(steers, "\u{fffd}").into() } else { text.into() }
}

/// Whether a character moves what is shown: a control that is no line's end, or one that turns the direction of words.
pub(crate) fn steers(c: char) -> bool {
    (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A closed stderr is nobody's error, and there is nowhere left to say so.
fn to_stderr(text: &str) {
    if writeln!(io::stderr(), "{}", printable(text)).is_err() {
        tracing::trace!("stderr is closed");
    }
}

/// `| head` closes our stdout once it has seen enough.
pub(crate) fn closed_is_fine(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn start_log(level: Option<LogLevel>) {
    let level = level.map_or(LevelFilter::OFF, |level| {
        LevelFilter::from_level(match level {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        })
    });
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(false)
        // The log must not panic when stderr is closed.
        .log_internal_errors(false)
        .init();
}
