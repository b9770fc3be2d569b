//! The commit stage: the only writer of the library.
//!
//! Vectors are committed as they come, grouped for at most [`COMMIT_INTERVAL`]; a document is committed once all
//! its vectors are in the library, small ones sharing a transaction of up to [`DOCUMENTS_PER_COMMIT`].

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use haul_corpus::verdict::Verdict;
use haul_encoder::device::SparseVector;
use haul_pipeline::journal::{JournalKey, State};
use haul_pipeline::stage::Meter;
use haul_store::library::{
    DocumentRecord, DocumentUpdate, Library, LibrarySettings, ManifestRow, VectorKey, VectorName, storable,
    storable_sparse,
};
use tracing::debug;
use uuid::Uuid;

use super::{Arrival, IngestError, Shared, Tally};
use crate::encode::{Encoded, TextOutputs, first_words};

/// What was computed is on disk at the latest this long after it arrived.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Documents of one transaction.
const DOCUMENTS_PER_COMMIT: usize = 256;
/// Vectors of one transaction.
const VECTORS_PER_COMMIT: usize = 4096;

/// Tokens with their weights.
type Terms = Vec<(u32, f32)>;

/// The writer's state.
pub(crate) struct Sink<'a> {
    shared: &'a Shared<'a>,
    library: &'a mut Library,
    vectors: Vec<(VectorKey, Vec<f32>)>,
    /// Weights of tokens, where the library has them: of the same texts.
    sparse: Vec<(VectorKey, Terms)>,
    buffered: HashSet<VectorKey>,
    waiting: HashMap<u64, Waiting>,
    waiting_for: HashMap<VectorKey, Vec<u64>>,
    /// Texts that the model gave no vector for. Their keys stay in flight, so that none is tried again.
    failed: HashMap<VectorKey, String>,
    complete: Vec<Waiting>,
    /// Documents that are the same text under another path or name, with the numbers of their files.
    updates: Vec<(u64, DocumentUpdate)>,
    oldest: Option<Instant>,
    files: HashMap<u64, FileState>,
    next_document: u64,
    tally: Tally,
    /// Ids of what was committed, for the stage that publishes.
    committed: Option<Sender<Vec<Uuid>>>,
}

/// A document and the vectors it lacks.
struct Waiting {
    file_no: u64,
    record: DocumentRecord,
    begun: Instant,
    missing: usize,
    embed_s: f64,
}

/// How far a file of one or many documents is.
#[derive(Default)]
struct FileState {
    documents: Option<u64>,
    settled: u64,
    size_bytes: u64,
    journal_key: Option<JournalKey>,
    begun: Option<Instant>,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(
        shared: &'a Shared<'a>,
        library: &'a mut Library,
        committed: Option<Sender<Vec<Uuid>>>,
    ) -> Self {
        Self {
            shared,
            library,
            vectors: Vec::new(),
            sparse: Vec::new(),
            buffered: HashSet::new(),
            waiting: HashMap::new(),
            waiting_for: HashMap::new(),
            failed: HashMap::new(),
            complete: Vec::new(),
            updates: Vec::new(),
            oldest: None,
            files: HashMap::new(),
            next_document: 0,
            tally: Tally::default(),
            committed,
        }
    }

    /// Writes what arrives until all senders are gone; then nothing that arrived whole is left unwritten.
    pub(crate) fn run(
        mut self,
        meter: &mut Meter,
        arrivals: &Receiver<Arrival>,
    ) -> Result<Tally, IngestError> {
        loop {
            let patience = self
                .oldest
                .map_or(COMMIT_INTERVAL, |oldest| COMMIT_INTERVAL.saturating_sub(oldest.elapsed()));
            match meter.starved(|| arrivals.recv_timeout(patience)) {
                Ok(arrival) => self.accept(meter, arrival)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let due = self.oldest.is_some_and(|oldest| oldest.elapsed() >= COMMIT_INTERVAL);
            if due
                || self.complete.len().max(self.updates.len()) >= DOCUMENTS_PER_COMMIT
                || self.vectors.len() >= VECTORS_PER_COMMIT
            {
                self.commit(meter)?;
            }
        }
        self.commit(meter)?;
        self.shared.journal.lock().unwrap_or_else(PoisonError::into_inner).flush()?;
        if !self.waiting.is_empty() && !self.shared.stop.requested() {
            return Err(IngestError::VectorsMissing { documents: self.waiting.len() });
        }
        Ok(self.tally)
    }

    fn accept(&mut self, meter: &Meter, arrival: Arrival) -> Result<(), IngestError> {
        match arrival {
            Arrival::FileBegin { file_no, size_bytes, journal_key } => {
                let state = self.files.entry(file_no).or_default();
                state.size_bytes = size_bytes;
                state.journal_key = Some(journal_key);
                state.begun = Some(Instant::now());
            }
            Arrival::FileEnd { file_no, documents } => {
                self.files.entry(file_no).or_default().documents = Some(documents);
                self.settle(file_no, 0)?;
            }
            Arrival::Verdict { file_no, row } => {
                self.library.record_verdict(std::slice::from_ref(&row))?;
                self.tally.count(&row);
                meter.finished(1);
                self.settle(file_no, 1)?;
            }
            Arrival::Unchanged { file_no, row } => {
                self.library.touch(std::slice::from_ref(&row))?;
                self.tally.count_reused(&row);
                meter.finished(1);
                self.settle(file_no, 1)?;
            }
            Arrival::Updated { file_no, update } => {
                self.oldest.get_or_insert_with(Instant::now);
                self.updates.push((file_no, *update));
            }
            Arrival::Skipped { file_no, doc_id, item, why } => {
                // What an earlier run took in of it is not gone.
                self.tally.seen.insert(doc_id);
                self.tally.fail_unnamed(item, Verdict::Skipped.name(), &why);
                meter.finished(1);
                self.settle(file_no, 1)?;
            }
            Arrival::Document { file_no, record, furniture, notes, begun } => {
                self.tally.note(&record, &furniture, notes);
                self.expect(file_no, *record, begun)?;
            }
            Arrival::Vectors(encoded) => self.take_vectors(encoded)?,
        }
        Ok(())
    }

    /// A new document: complete at once if all its vectors are there.
    fn expect(&mut self, file_no: u64, record: DocumentRecord, begun: Instant) -> Result<(), IngestError> {
        let chunks = record.chunks.iter().map(|chunk| chunk.vector_key);
        let keys: Vec<VectorKey> =
            chunks.chain(record.sections.iter().map(|section| section.vector_key)).collect();
        let mut missing: HashSet<VectorKey> = self.library.missing_vectors(&keys)?.into_iter().collect();
        missing.retain(|key| !self.buffered.contains(key));
        let document = self.next_document;
        self.next_document += 1;
        for key in &missing {
            self.waiting_for.entry(*key).or_default().push(document);
        }
        let failed = missing.iter().find_map(|key| Some((*key, self.failed.get(key)?.clone())));
        let waiting = Waiting { file_no, record, begun, missing: missing.len(), embed_s: 0.0 };
        if let Some((key, why)) = failed {
            // Its text already went through the model for another document, which failed by it.
            self.waiting.insert(document, waiting);
            self.vector_failed(&[document], key, &why)?;
        } else if waiting.missing == 0 {
            self.completed(waiting);
        } else {
            self.waiting.insert(document, waiting);
        }
        Ok(())
    }

    fn take_vectors(&mut self, encoded: Vec<Encoded<VectorKey>>) -> Result<(), IngestError> {
        for Encoded { key, outputs, seconds, .. } in encoded {
            let documents = self.waiting_for.remove(&key).unwrap_or_default();
            let LibrarySettings { dim, sparse, .. } = *self.library.settings();
            let storable = |outputs: TextOutputs| {
                let terms = outputs.sparse.filter(|_| sparse).map(SparseVector::into_terms);
                storable(&outputs.dense, dim)
                    .and_then(|()| terms.as_deref().map_or(Ok(()), storable_sparse))
                    .map_err(|fault| fault.to_string())?;
                Ok((outputs.dense, terms))
            };
            match outputs.and_then(storable) {
                Ok((row, terms)) => {
                    self.vectors.push((key, row));
                    self.sparse.extend(terms.map(|terms| (key, terms)));
                    self.buffered.insert(key);
                    self.oldest.get_or_insert_with(Instant::now);
                    self.vector_came(&documents, seconds);
                }
                Err(error) => {
                    self.vector_failed(&documents, key, &error)?;
                    self.failed.insert(key, error);
                }
            }
        }
        Ok(())
    }

    fn vector_came(&mut self, documents: &[u64], seconds: f64) {
        for document in documents {
            let Some(waiting) = self.waiting.get_mut(document) else { continue };
            waiting.missing -= 1;
            waiting.embed_s += seconds;
            if waiting.missing == 0
                && let Some(waiting) = self.waiting.remove(document)
            {
                self.completed(waiting);
            }
        }
    }

    /// A document with a text that the model gave no vector for is failed as a whole; nothing of it is stored.
    fn vector_failed(&mut self, documents: &[u64], key: VectorKey, why: &str) -> Result<(), IngestError> {
        for document in documents {
            let Some(waiting) = self.waiting.remove(document) else { continue };
            let record = waiting.record;
            let chunk = record.chunks.iter().find(|chunk| chunk.vector_key == key).map_or_else(
                || "a section".to_owned(),
                |chunk| format!("chunk {} (\"{}\")", chunk.chunk_no, first_words(&chunk.text)),
            );
            let row = ManifestRow {
                doc_id: record.doc_id,
                collection: record.collection,
                root: record.root,
                relative_path: record.relative_path,
                part: record.part,
                format: record.format,
                size_bytes: record.size_bytes,
                modified_ns: record.modified_ns,
                content_hash: record.content_hash,
                revision: record.revision,
                verdict: "failed".to_owned(),
                why: Some(format!("{chunk} has no vector: {why}")),
                chunks: 0,
                attempts: 0,
            };
            self.library.record_verdict(std::slice::from_ref(&row))?;
            self.tally.count(&row);
            self.settle(waiting.file_no, 1)?;
        }
        Ok(())
    }

    fn completed(&mut self, waiting: Waiting) {
        self.oldest.get_or_insert_with(Instant::now);
        self.complete.push(waiting);
    }

    /// Vectors first: a document in the library always has all of its vectors.
    fn commit(&mut self, meter: &mut Meter) -> Result<(), IngestError> {
        self.oldest = None;
        self.commit_updates(meter)?;
        if self.vectors.is_empty() && self.complete.is_empty() {
            return Ok(());
        }
        debug!(stage = "commit", vectors = self.vectors.len(), documents = self.complete.len(), "begin");
        let started = Instant::now();
        let rows: Vec<(VectorKey, &[(u32, f32)])> =
            self.sparse.iter().map(|(key, terms)| (*key, terms.as_slice())).collect();
        if !rows.is_empty() {
            // Before the dense rows: a text that has one of those is not computed again.
            self.library.put_sparse(&rows)?;
        }
        self.sparse.clear();
        let rows: Vec<(VectorKey, &[f32])> =
            self.vectors.iter().map(|(key, row)| (*key, row.as_slice())).collect();
        self.library.put_vectors(VectorName::Dense, &rows)?;
        let keys: Vec<VectorKey> = self.vectors.drain(..).map(|(key, _)| key).collect();
        self.buffered.clear();
        self.release(&keys);
        let complete = std::mem::take(&mut self.complete);
        let upload_s = started.elapsed().as_secs_f64();
        let files: Vec<u64> = complete.iter().map(|waiting| waiting.file_no).collect();
        let records: Vec<DocumentRecord> =
            complete.into_iter().map(|waiting| waiting.with_cost(upload_s)).collect();
        self.library.commit_documents(&records)?;
        for record in &records {
            self.tally.count_document(record);
        }
        debug!(stage = "commit", documents = records.len(), "end");
        meter.finished(records.len() as u64);
        self.publish(meter, records.iter().map(|record| record.doc_id));
        for file_no in files {
            self.settle(file_no, 1)?;
        }
        Ok(())
    }

    fn commit_updates(&mut self, meter: &mut Meter) -> Result<(), IngestError> {
        let (files, updates): (Vec<u64>, Vec<DocumentUpdate>) = self.updates.drain(..).unzip();
        if updates.is_empty() {
            return Ok(());
        }
        self.library.update_documents(&updates)?;
        updates.iter().for_each(|update| self.tally.count_updated(update));
        meter.finished(updates.len() as u64);
        self.publish(meter, updates.iter().map(|update| update.row.doc_id));
        files.into_iter().try_for_each(|file_no| self.settle(file_no, 1))
    }

    /// Hands on what was committed. A stage that ended by an error is not handed anything; its error ends the run.
    fn publish(&mut self, meter: &mut Meter, ids: impl Iterator<Item = Uuid>) {
        let Some(committed) = &self.committed else { return };
        if meter.send(committed, ids.collect()).is_err() {
            self.committed = None;
        }
    }

    fn release(&self, keys: &[VectorKey]) {
        let mut in_flight = self.shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            in_flight.remove(key);
        }
    }

    /// Counts documents of a file as settled; a file whose documents are all settled is done.
    fn settle(&mut self, file_no: u64, documents: u64) -> Result<(), IngestError> {
        let state = self.files.entry(file_no).or_default();
        state.settled += documents;
        if state.documents != Some(state.settled) {
            return Ok(());
        }
        self.shared.progress.done(1, state.size_bytes);
        let ms = state.begun.map_or(0, |begun| begun.elapsed().as_millis());
        if let Some(key) = state.journal_key {
            let mut journal = self.shared.journal.lock().unwrap_or_else(PoisonError::into_inner);
            let documents = state.settled.to_le_bytes();
            journal.finish(&key, State::Done, &documents, u32::try_from(ms).unwrap_or(u32::MAX))?;
        }
        self.files.remove(&file_no);
        Ok(())
    }
}

impl Waiting {
    /// The record with what its making took.
    fn with_cost(self, upload_s: f64) -> DocumentRecord {
        let mut record = self.record;
        record.cost.total_s = self.begun.elapsed().as_secs_f64();
        record.cost.embed_s = self.embed_s;
        record.cost.upload_s = upload_s;
        record
    }
}
