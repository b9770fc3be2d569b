//! How one input ended when it did not end as text.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The named end of one input; each input gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Read as text.
    Ok,
    /// Zero bytes, or nothing but whitespace.
    Empty,
    /// Images without text.
    NeedsOcr,
    /// Encrypted content.
    Drm,
    /// Damaged beyond what the reader repairs.
    Corrupt,
    /// A kind of file that is not read.
    Unsupported,
    /// Out of CPU time or wall-clock time.
    Timeout,
    /// Over a size, count, ratio or memory limit.
    TooLarge,
    /// The reader itself failed: a crash, a signal, an I/O error.
    Failed,
    /// Left out because the user's own rules say so.
    Skipped,
}

impl Verdict {
    /// The name in receipts and journals, such as `needs_ocr`.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Empty => "empty",
            Verdict::NeedsOcr => "needs_ocr",
            Verdict::Drm => "drm",
            Verdict::Corrupt => "corrupt",
            Verdict::Unsupported => "unsupported",
            Verdict::Timeout => "timeout",
            Verdict::TooLarge => "too_large",
            Verdict::Failed => "failed",
            Verdict::Skipped => "skipped",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an input has no text. The verdict is never [`Verdict::Ok`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{verdict}: {why}")]
pub struct ParseFailure {
    /// How the input ended.
    pub verdict: Verdict,
    /// What was found, where, with numbers.
    pub why: String,
}

impl ParseFailure {
    /// A failure with its reason.
    pub fn new(verdict: Verdict, why: impl Into<String>) -> ParseFailure {
        ParseFailure { verdict, why: why.into() }
    }
}
