//! Inputs that fail again and again: after some attempts they are left alone until something about them changes.

use haul_store::library::ManifestRow;

/// An input that failed or timed out is tried again by later runs until it has had this many attempts.
pub const ATTEMPTS_MAX: u32 = 3;

/// A failure of the reader or of time may pass; a property of the file does not.
pub(crate) fn worth_another_try(row: &ManifestRow) -> bool {
    may_pass(row) && !is_quarantined(row)
}

/// Tried for the last time until its bytes, the readers or the settings change. What could not even be opened has no
/// hash, and is tried by every run: a mount or a permission comes back without a trace on the file.
pub(crate) fn is_quarantined(row: &ManifestRow) -> bool {
    may_pass(row) && row.attempts >= ATTEMPTS_MAX && row.content_hash != [0; 32]
}

/// The reason of a quarantined input, for receipts.
pub(crate) fn why(row: &ManifestRow) -> String {
    format!(
        "quarantined after {} attempts, until the file or the settings change: {}",
        row.attempts,
        row.why.as_deref().unwrap_or("no reason recorded")
    )
}

fn may_pass(row: &ManifestRow) -> bool {
    matches!(row.verdict.as_str(), "failed" | "timeout")
}
