//! The chunk stage: documents to chunks, and what has no vector yet to the token queue.
//!
//! A document of the semantic chunker passes twice: first its sentences go to the device ([`semantic::ask`]), and when
//! all of them came back it is cut like the others.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select_biased};
use haul_corpus::chunk::Chunk;
use haul_corpus::chunk::sections::Section;
use haul_corpus::document::Document;
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_encoder::tokenizer::TokenizeError;
use haul_pipeline::batch::Lane;
use haul_pipeline::stage::Meter;
use haul_store::library::{
    ChapterRecord, ChunkRecord, DocumentMetadata, DocumentRecord, Library, ManifestRow, SectionRecord,
    VectorKey, point_id, section_point_id,
};
use tracing::debug;

use super::metadata::{self, Described, Own};
use super::parse::Uncut;
use super::pieces::{Chunker, Cut, Cutting, Parent};
use super::room::Place;
use super::select::NamedFile;
use super::semantic::{self, Compared, NotAsked};
use super::{Arrival, IngestError, Purpose, Shared, index32};
use crate::encode::Sequence;

/// How long a thread waits for one kind of work before it looks whether the run ended meanwhile.
const PATIENCE: Duration = Duration::from_millis(20);

/// A document on its way to chunks.
pub(crate) struct Draft {
    pub(crate) spent: Spent,
    pub(crate) file: Arc<NamedFile>,
    pub(crate) row: ManifestRow,
    pub(crate) document: Document,
    /// What it is called.
    pub(crate) metadata: DocumentMetadata,
    pub(crate) chunker: Chunker,
    pub(crate) sections: Vec<Section>,
    /// What had to be decided to name it.
    pub(crate) notes: Vec<String>,
    /// What is outside of the sections.
    pub(crate) losses: Vec<String>,
    pub(crate) begun: Instant,
    /// Its file's room in memory.
    pub(crate) place: Option<Arc<Place>>,
}

/// What a document took so far.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) file_no: u64,
    pub(crate) parse_s: f64,
    /// Without the time in which it waited for the device.
    pub(crate) cut_s: f64,
}

/// Cuts documents until there are no more.
pub(crate) fn run(
    meter: &mut Meter,
    shared: &Shared<'_>,
    library: &Library,
    uncut: &Receiver<Uncut>,
    arrivals: &Sender<Arrival>,
) -> Result<(), IngestError> {
    let cutting = shared.cutting();
    let mut stage = Stage { meter, shared, library, arrivals, cutting };
    while let Some(work) = stage.next(uncut) {
        let flow = match work {
            Work::Uncut(piece) => stage.begin(*piece)?,
            Work::Compared(compared) => stage.cut_by_topic(*compared)?,
        };
        if flow.is_break() {
            break;
        }
    }
    Ok(())
}

enum Work {
    Uncut(Box<Uncut>),
    Compared(Box<Compared>),
}

struct Stage<'a> {
    meter: &'a mut Meter,
    shared: &'a Shared<'a>,
    library: &'a Library,
    arrivals: &'a Sender<Arrival>,
    cutting: Cutting<'a>,
}

impl Stage<'_> {
    /// What to do next; documents that are half done go first. `None` at the end, or when a stop was asked for.
    fn next(&mut self, uncut: &Receiver<Uncut>) -> Option<Work> {
        let desk = &self.shared.desk;
        self.meter.starved(|| {
            let mut is_open = true;
            while !self.shared.stop.requested() {
                let (closed, full) = (never(), never());
                let fresh = match (is_open, desk.has_room()) {
                    (true, true) => uncut,
                    (true, false) => &full,
                    (false, _) => &closed,
                };
                select_biased! {
                    recv(desk.compared) -> compared => return compared.ok().map(|it| Work::Compared(Box::new(it))),
                    recv(fresh) -> piece => match piece {
                        Ok(piece) => return Some(Work::Uncut(Box::new(piece))),
                        Err(_) => is_open = false,
                    },
                    default(PATIENCE) => {}
                }
                // A document that another thread takes up from here on is cut by that thread.
                if !is_open && desk.is_empty() {
                    return None;
                }
            }
            None
        })
    }

    /// Cuts a document, sends its sentences ahead, or gives it its verdict.
    fn begin(&mut self, piece: Uncut) -> Result<ControlFlow<()>, IngestError> {
        let Uncut { file_no, file, part, content_hash, document, begun, parse_s, place } = piece;
        let spent = Spent { file_no, parse_s, cut_s: 0.0 };
        let started = Instant::now();
        let item = file.shown();
        debug!(stage = "chunk", item, "begin");
        let row =
            |failure: Option<&ParseFailure>| file.row(self.shared, part.as_deref(), content_hash, failure);
        let settled = row(None);
        let known = |row: &ManifestRow| row.doc_id == settled.doc_id && row.revision == settled.revision;
        // A book is read with its bytes unchanged only where the policy has to be asked again.
        let is_whole = || self.shared.known.rows(&file).iter().any(|row| row.verdict == "ok" && known(row));
        if file.book.is_none() && is_whole() {
            return Ok(self.send(spent, Arrival::Unchanged { file_no, row: settled }));
        }
        let described = document.map(|document| {
            let own = Own::of(&document);
            (document, metadata::describe(&file, part.as_deref(), own, self.shared.settings.junk))
        });
        let (document, Described { metadata, notes, skipped }) = match described {
            Ok(described) => described,
            Err(failure) => {
                return Ok(self.send(spent, Arrival::Verdict { file_no, row: row(Some(&failure)) }));
            }
        };
        if let Some(why) = skipped {
            let doc_id = settled.doc_id;
            return Ok(self.send(spent, Arrival::Skipped { file_no, doc_id, item, why }));
        }
        let chunker = match self.cutting.chunker(&metadata.title, &metadata.authors) {
            Ok(chunker) => chunker,
            Err(why) => {
                let failure = ParseFailure::new(Verdict::Skipped, why);
                return Ok(self.send(spent, Arrival::Verdict { file_no, row: row(Some(&failure)) }));
            }
        };
        let found = self.cutting.sections(&document, &settled.format, chunker);
        let (sections, losses) = (found.all, found.losses);
        let row = settled;
        let draft =
            Draft { spent, file, row, document, metadata, chunker, sections, notes, losses, begun, place };
        if chunker == Chunker::Semantic {
            return Ok(match semantic::ask(self.meter, self.shared, &self.cutting, draft) {
                Ok(()) => ControlFlow::Continue(()),
                Err(NotAsked::Closed) => ControlFlow::Break(()),
                Err(NotAsked::Failed(draft, error)) => self.fail(*draft, Verdict::Failed, error.to_string()),
            });
        }
        let cuts = self.cutting.cuts(&draft.document, chunker, &draft.sections);
        self.finish(draft, cuts, started)
    }

    /// The second pass of a document.
    fn cut_by_topic(&mut self, compared: Compared) -> Result<ControlFlow<()>, IngestError> {
        let started = Instant::now();
        let Compared { draft, tokenized, sentences, similarities } = compared;
        match similarities {
            Ok(similarities) => {
                let document = &draft.document;
                let cuts = self.cutting.cuts_by_topic(document, &tokenized, &sentences, &similarities);
                self.finish(draft, cuts, started)
            }
            Err(why) => Ok(self.fail(draft, Verdict::Failed, why)),
        }
    }

    /// Sends a document to the sink and its texts to the device; its cutting was begun, or taken up again, at
    /// `started`.
    fn finish(
        &mut self,
        mut draft: Draft,
        cuts: Result<Option<Vec<Cut>>, TokenizeError>,
        started: Instant,
    ) -> Result<ControlFlow<()>, IngestError> {
        let cuts = match cuts {
            Ok(Some(cuts)) => cuts,
            Ok(None) => return Ok(ControlFlow::Break(())),
            Err(error) => return Ok(self.fail(draft, Verdict::Failed, error.to_string())),
        };
        if cuts.iter().all(|cut| cut.chunk.tokens == 0) {
            let why = draft.losses.first().cloned().unwrap_or_else(|| "the text has no tokens".to_owned());
            return Ok(self.fail(draft, Verdict::Empty, why));
        }
        let parents = match self.cutting.parents(&draft.document, draft.sections.clone()) {
            Ok(parents) => parents,
            Err(error) => return Ok(self.fail(draft, Verdict::Failed, error.to_string())),
        };
        let (begun, furniture, place) = (draft.begun, draft.document.furniture, draft.place.take());
        let notes = [&draft.notes[..], &draft.losses].concat();
        let item = draft.file.shown();
        let mut spent = draft.spent;
        let (mut record, sequences) = record(self.shared, draft, cuts, parents);
        spent.cut_s += started.elapsed().as_secs_f64();
        record.cost.chunk_s = spent.parse_s + spent.cut_s;
        let record = Box::new(record);
        // The document goes first: the sink must know who waits for a vector before it arrives.
        let arrival = Arrival::Document { file_no: spent.file_no, record, furniture, notes, begun };
        if self.send(spent, arrival).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let flow = self.enqueue(sequences)?;
        // Kept until its texts are queued.
        drop(place);
        debug!(stage = "chunk", item, "end");
        Ok(flow)
    }

    fn fail(&mut self, draft: Draft, verdict: Verdict, why: String) -> ControlFlow<()> {
        let row = ManifestRow { verdict: verdict.name().to_owned(), why: Some(why), ..draft.row };
        self.send(draft.spent, Arrival::Verdict { file_no: draft.spent.file_no, row })
    }

    fn send(&mut self, spent: Spent, arrival: Arrival) -> ControlFlow<()> {
        if let Some(probe) = self.shared.probe {
            probe.cut(spent, &arrival);
        }
        self.meter.finished(1);
        match self.meter.send(self.arrivals, arrival) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Hands texts that have no vector yet to the device; a break when nobody computes any more.
    fn enqueue(&mut self, mut sequences: Vec<Sequence<VectorKey>>) -> Result<ControlFlow<()>, IngestError> {
        let shared = self.shared;
        {
            let mut in_flight = shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            sequences.retain(|sequence| in_flight.insert(sequence.key));
        }
        // Looked up after the claim: a vector committed in between is found here, never computed twice.
        let keys: Vec<VectorKey> = sequences.iter().map(|sequence| sequence.key).collect();
        let missing: HashSet<VectorKey> = self.library.missing_vectors(&keys)?.into_iter().collect();
        {
            let mut in_flight = shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            for key in keys.iter().filter(|key| !missing.contains(key)) {
                in_flight.remove(key);
            }
        }
        for Sequence { key, ids } in sequences.into_iter().filter(|sequence| missing.contains(&sequence.key))
        {
            let tokens = ids.len();
            let sequence = Sequence { key: Purpose::Stored(key), ids };
            if self.meter.blocked(|| shared.queue.push(Lane::Bulk, tokens, sequence)).is_err() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn record(
    shared: &Shared<'_>,
    draft: Draft,
    cuts: Vec<Cut>,
    parents: Vec<Parent>,
) -> (DocumentRecord, Vec<Sequence<VectorKey>>) {
    let Draft { row, document, metadata, chunker, .. } = draft;
    let special_tokens = shared.model.tokenizer.special_tokens();
    let truncated_tokens = cuts.iter().map(|cut| cut.truncated_tokens as u64).sum();
    let mut chunks = Vec::with_capacity(cuts.len());
    let mut sequences = Vec::with_capacity(cuts.len() + parents.len());
    for (chunk_no, Cut { chunk, text, ids, .. }) in (0_u32..).zip(cuts) {
        let text = text.unwrap_or_else(|| document.text[chunk.start..chunk.end].to_owned());
        let vector_key = VectorKey::of(&text, &shared.fingerprint);
        let section =
            parents.partition_point(|parent| parent.section.end <= chunk.start + chunk.overlap_bytes);
        chunks.push(ChunkRecord {
            chunk_no,
            point_id: point_id(&row.doc_id, &row.revision, chunk_no, &text),
            vector_key,
            chapter: index32(chunk.chapter),
            page: page_of(&document, &chunk),
            start: chunk.start as u64,
            end: chunk.end as u64,
            overlap_bytes: index32(chunk.overlap_bytes),
            tokens: index32(ids.len() - special_tokens),
            text,
            section_no: (!parents.is_empty()).then(|| index32(section.min(parents.len() - 1))),
        });
        sequences.push(Sequence { key: vector_key, ids });
    }
    let (sections, of_sections): (Vec<_>, Vec<_>) =
        (0_u32..).zip(parents).map(|(no, parent)| section(shared, &row, &document, no, parent)).unzip();
    sequences.extend(of_sections);
    let chapters = document.chapters.into_iter();
    let record = DocumentRecord {
        doc_id: row.doc_id,
        collection: row.collection,
        root: row.root,
        relative_path: row.relative_path,
        part: row.part,
        format: row.format,
        size_bytes: row.size_bytes,
        modified_ns: row.modified_ns,
        content_hash: row.content_hash,
        revision: row.revision,
        source: metadata.source,
        source_id: metadata.source_id,
        title: metadata.title,
        authors: metadata.authors,
        language: metadata.language,
        detected_language: document.detected_language,
        metadata: metadata.metadata,
        chapters: chapters.map(|c| ChapterRecord { breadcrumb: c.breadcrumb, href: c.href }).collect(),
        chunks,
        sections,
        chunker: chunker.name().to_owned(),
        truncated_tokens,
        cost: shared.settings.cost.clone(),
    };
    (record, sequences)
}

/// The page that the chunk's own text begins on; what it repeats of the chunk before may stand on another.
fn page_of(document: &Document, chunk: &Chunk) -> Option<u32> {
    let own = chunk.start + chunk.overlap_bytes;
    let blank = document.text[own..chunk.end].len() - document.text[own..chunk.end].trim_start().len();
    document.page_at(own + blank)
}

fn section(
    shared: &Shared<'_>,
    row: &ManifestRow,
    document: &Document,
    number: u32,
    parent: Parent,
) -> (SectionRecord, Sequence<VectorKey>) {
    let Parent { section, embedded, ids } = parent;
    let text = document.text[section.start..section.end].to_owned();
    let given = embedded.as_deref().unwrap_or(&text);
    let vector_key = VectorKey::of(given, &shared.fingerprint);
    let record = SectionRecord {
        point_id: section_point_id(&row.doc_id, &row.revision, number, given),
        vector_key,
        name: section.name,
        start: section.start as u64,
        end: section.end as u64,
        tokens: index32(ids.len() - shared.model.tokenizer.special_tokens()),
        text,
        embedded,
    };
    (record, Sequence { key: vector_key, ids })
}
