//! What became of the inputs of a run: verdicts, losses, what was seen and what is good.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use haul_corpus::document::Furniture;
use haul_pipeline::receipt::{Failure, Items, Note, Truncated};
use haul_store::library::{DocumentRecord, DocumentUpdate, ManifestRow};
use uuid::Uuid;

use super::{pdf, quarantine, select};

/// Inputs counted by what became of them.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(super) by_verdict: BTreeMap<String, u64>,
    pub(super) failures: Vec<Failure>,
    pub(super) notes: Vec<Note>,
    /// Documents that their files still have.
    pub(super) seen: HashSet<Uuid>,
    /// Of these, those that are in the library as their files are now.
    pub(super) good: HashSet<Uuid>,
    /// Files that could not be read to their end: what they no longer showed is not gone.
    pub(super) unread: HashSet<(String, String)>,
    pub(super) reused: u64,
    pub(super) updated: u64,
    pub(super) quarantined: u64,
    pub(super) chunks: u64,
    pub(super) truncated: Truncated,
    pub(super) bytes_read: u64,
}

impl Tally {
    pub(super) fn count(&mut self, row: &ManifestRow) {
        *self.by_verdict.entry(row.verdict.clone()).or_default() += 1;
        self.seen.insert(row.doc_id);
        if row.verdict == "ok" {
            self.good.insert(row.doc_id);
            return;
        }
        if row.part.is_none() {
            self.unread.insert((row.root.clone(), row.relative_path.clone()));
        }
        self.fail(select::shown(row), &row.verdict, row.why.as_deref().unwrap_or("no reason recorded"));
    }

    /// An input that has no row in the manifest.
    pub(super) fn fail_unnamed(&mut self, item: String, verdict: &str, why: &str) {
        *self.by_verdict.entry(verdict.to_owned()).or_default() += 1;
        self.fail(item, verdict, why);
    }

    pub(super) fn fail(&mut self, item: String, verdict: &str, why: &str) {
        self.failures.push(Failure { item, verdict: verdict.to_owned(), why: why.to_owned() });
    }

    /// Says what a reader had to leave out or guess, if it bears on the text.
    pub(super) fn note(&mut self, record: &DocumentRecord, furniture: &Furniture, notes: Vec<String>) {
        let losses = [
            (furniture.deleted_pieces, "pieces of text that tracked changes delete are left out"),
            (furniture.missing_documents, "pages that its contents name are not in the file"),
            (furniture.replaced_characters, "characters could not be decoded and were replaced"),
            (
                furniture.guessed_encodings,
                "texts neither name their encoding nor are UTF-8; read as windows-1252",
            ),
        ];
        let path = Path::new(&record.root).join(&record.relative_path).display().to_string();
        let item = record.part.as_ref().map_or_else(|| path.clone(), |part| format!("{path}#{part}"));
        for (count, what) in losses.into_iter().filter(|(count, _)| *count > 0) {
            self.notes.push(Note { item: item.clone(), says: format!("{count} {what}") });
        }
        self.notes.extend(notes.into_iter().map(|says| Note { item: item.clone(), says }));
        self.notes.extend(pdf::notes(record).into_iter().map(|says| Note { item: item.clone(), says }));
    }

    pub(super) fn count_reused(&mut self, row: &ManifestRow) {
        self.reused += 1;
        if quarantine::is_quarantined(row) {
            self.quarantined += 1;
            self.count(&ManifestRow { why: Some(quarantine::why(row)), ..row.clone() });
        } else {
            self.count(row);
        }
    }

    pub(super) fn count_updated(&mut self, update: &DocumentUpdate) {
        match update.metadata {
            Some(_) => self.updated += 1,
            None => self.reused += 1,
        }
        self.count(&update.row);
    }

    pub(super) fn count_document(&mut self, record: &DocumentRecord) {
        *self.by_verdict.entry("ok".to_owned()).or_default() += 1;
        self.seen.insert(record.doc_id);
        self.good.insert(record.doc_id);
        self.chunks += record.chunks.len() as u64;
        self.truncated.items += u64::from(record.truncated_tokens > 0);
        self.truncated.tokens += record.truncated_tokens;
    }

    pub(super) fn add(&mut self, other: Tally) {
        for (verdict, count) in other.by_verdict {
            *self.by_verdict.entry(verdict).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.notes.extend(other.notes);
        self.seen.extend(other.seen);
        self.good.extend(other.good);
        self.unread.extend(other.unread);
        self.reused += other.reused;
        self.updated += other.updated;
        self.quarantined += other.quarantined;
        self.chunks += other.chunks;
        self.truncated.items += other.truncated.items;
        self.truncated.tokens += other.truncated.tokens;
        self.bytes_read += other.bytes_read;
    }

    /// Whether the document is still in its file, or its file could not be read so that nobody knows.
    pub(super) fn saw(&self, row: &ManifestRow) -> bool {
        self.seen.contains(&row.doc_id)
            || self.unread.contains(&(row.root.clone(), row.relative_path.clone()))
    }

    pub(super) fn items(&self) -> Items {
        Items {
            total: self.by_verdict.values().sum(),
            ok: self.by_verdict.get("ok").copied().unwrap_or(0),
            by_verdict: self.by_verdict.clone(),
            reused: self.reused,
            updated: self.updated,
            quarantined: self.quarantined,
            ..Items::default()
        }
    }
}
