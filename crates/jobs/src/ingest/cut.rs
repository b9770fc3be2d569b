//! The chunk stage: documents to chunks, and chunks without a vector to the token queue.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::PoisonError;

use crossbeam_channel::{Receiver, Sender};
use haul_corpus::chunk::{self, Chunk, ChunkSettings};
use haul_corpus::document::Document;
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_encoder::tokenizer::{TokenizeError, Tokenizer};
use haul_pipeline::batch::Lane;
use haul_pipeline::stage::Meter;
use haul_store::library::{
    ChapterRecord, ChunkRecord, DocumentRecord, Library, ManifestRow, VectorKey, point_id,
};
use tracing::debug;

use super::parse::Uncut;
use super::select::NamedFile;
use super::{Arrival, Chunking, IngestError, Shared};
use crate::encode::Sequence;

/// Text that is tokenized at once; chunks of every model are far shorter.
const WINDOW_BYTES: usize = 256 << 10;

/// Cuts documents until there are no more.
pub(crate) fn run(
    meter: &mut Meter,
    shared: &Shared<'_>,
    library: &Library,
    uncut: &Receiver<Uncut>,
    arrivals: &Sender<Arrival>,
) -> Result<(), IngestError> {
    while let Some(piece) = meter.receive(uncut) {
        if shared.stop.requested() {
            break;
        }
        let item = piece.file.shown();
        debug!(stage = "chunk", item, "begin");
        let Some((arrival, sequences)) = cut(shared, piece) else { break };
        meter.finished(1);
        // The document goes first: the sink must know who waits for a vector before it arrives.
        if meter.send(arrivals, arrival).is_err() {
            break;
        }
        if !enqueue(meter, shared, library, sequences)? {
            break;
        }
        debug!(stage = "chunk", item, "end");
    }
    Ok(())
}

/// Hands texts that have no vector yet to the device; false when nobody computes any more.
fn enqueue(
    meter: &mut Meter,
    shared: &Shared<'_>,
    library: &Library,
    mut sequences: Vec<Sequence<VectorKey>>,
) -> Result<bool, IngestError> {
    {
        let mut in_flight = shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        sequences.retain(|sequence| in_flight.insert(sequence.key));
    }
    // Looked up after the claim: a vector committed in between is found here, never computed twice.
    let keys: Vec<VectorKey> = sequences.iter().map(|sequence| sequence.key).collect();
    let missing: HashSet<VectorKey> = library.missing_vectors(&keys)?.into_iter().collect();
    {
        let mut in_flight = shared.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys.iter().filter(|key| !missing.contains(key)) {
            in_flight.remove(key);
        }
    }
    for sequence in sequences.into_iter().filter(|sequence| missing.contains(&sequence.key)) {
        let tokens = sequence.ids.len();
        if meter.blocked(|| shared.queue.push(Lane::Bulk, tokens, sequence)).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A document record and the sequences it needs, or the verdict of a document without text; `None` when a
/// stop was asked for meanwhile.
fn cut(shared: &Shared<'_>, piece: Uncut) -> Option<(Arrival, Vec<Sequence<VectorKey>>)> {
    let Uncut { file_no, file, part, content_hash, document, begun } = piece;
    let row = |failure: Option<&ParseFailure>| file.row(shared, part.as_deref(), content_hash, failure);
    let settled = row(None);
    let known = |row: &ManifestRow| row.doc_id == settled.doc_id && row.revision == settled.revision;
    if shared.known.rows(&file).iter().any(|row| row.verdict == "ok" && known(row)) {
        return Some((Arrival::Unchanged { file_no, row: settled }, vec![]));
    }
    let cuts = document.and_then(|document| match cuts(shared, &document) {
        Ok(None) => Ok(None),
        Ok(Some(cuts)) if cuts.iter().all(|cut| cut.chunk.tokens == 0) => {
            Err(ParseFailure::new(Verdict::Empty, "the text has no tokens"))
        }
        Ok(Some(cuts)) => Ok(Some((document, cuts))),
        Err(error) => Err(ParseFailure::new(Verdict::Failed, error.to_string())),
    });
    match cuts {
        Err(failure) => Some((Arrival::Verdict { file_no, row: row(Some(&failure)) }, vec![])),
        Ok(None) => None,
        Ok(Some((document, cuts))) => {
            let furniture = document.furniture;
            let (record, sequences) = record(shared, settled, &file, document, cuts);
            Some((Arrival::Document { file_no, record: Box::new(record), furniture, begun }, sequences))
        }
    }
}

/// A chunk with the ids that the model will see.
struct Cut {
    chunk: Chunk,
    ids: Vec<u32>,
    truncated_tokens: usize,
}

/// Cuts a text; `None` when a stop was asked for meanwhile.
fn cuts(shared: &Shared<'_>, document: &Document) -> Result<Option<Vec<Cut>>, TokenizeError> {
    match &shared.settings.chunking {
        Chunking::Whole => whole(shared, document).map(Some),
        Chunking::Tokens { chunk_tokens, overlap_sentences } => {
            let tokenizer = &shared.model.tokenizer;
            let room_tokens = shared.settings.max_tokens - tokenizer.special_tokens();
            let prompt_tokens = tokenizer.encode(&shared.settings.document_prompt)?.ids.len();
            let budget = (*chunk_tokens).min(room_tokens - prompt_tokens.min(room_tokens - 1));
            let settings = ChunkSettings { chunk_tokens: budget, overlap_sentences: *overlap_sentences };
            by_tokens(shared, document, room_tokens, &settings)
        }
    }
}

/// One chunk for the whole text, of which the model sees the beginning.
fn whole(shared: &Shared<'_>, document: &Document) -> Result<Vec<Cut>, TokenizeError> {
    let tokenizer = &shared.model.tokenizer;
    let prompted = format!("{}{}", shared.settings.document_prompt, document.text);
    let text = shared.model.prepare(&prompted);
    let room_tokens = shared.settings.max_tokens - tokenizer.special_tokens();
    let mut kept = Vec::new();
    let mut tokens = 0;
    for window in windows(&text) {
        let ids = tokenizer.encode(&text[window])?.ids;
        tokens += ids.len();
        kept.extend(ids.into_iter().take(room_tokens - kept.len()));
    }
    let truncated_tokens = tokens - kept.len();
    let end = document.text.len();
    let chunk = Chunk { start: 0, end, overlap_bytes: 0, tokens, chapter: 0, truncated_tokens };
    let cut = Cut { chunk, ids: tokenizer.frame(&kept), truncated_tokens };
    Ok(if document.text.is_empty() { vec![] } else { vec![cut] })
}

/// Whole sentences up to the budget, and asserts of every chunk that it fits the model when tokenized by itself.
fn by_tokens(
    shared: &Shared<'_>,
    document: &Document,
    room_tokens: usize,
    settings: &ChunkSettings,
) -> Result<Option<Vec<Cut>>, TokenizeError> {
    let tokenizer = &shared.model.tokenizer;
    let offsets = token_offsets(tokenizer, &document.text)?;
    let mut waiting = chunk::by_tokens(document, &offsets, settings);
    waiting.reverse();
    let mut cuts = Vec::with_capacity(waiting.len());
    while let Some(chunk) = waiting.pop() {
        if shared.stop.requested() {
            return Ok(None);
        }
        let text = format!("{}{}", shared.settings.document_prompt, &document.text[chunk.start..chunk.end]);
        let ids = tokenizer.encode(&shared.model.prepare(&text))?.ids;
        if ids.len() <= room_tokens {
            cuts.push(Cut { chunk, ids: tokenizer.frame(&ids), truncated_tokens: 0 });
            continue;
        }
        // A text cut out of its surroundings may tokenize a little longer than inside them.
        match chunk::split(document, &offsets, &chunk) {
            Some(smaller) => waiting.extend(smaller.into_iter().rev()),
            None => {
                let truncated_tokens = ids.len() - room_tokens;
                cuts.push(Cut { chunk, ids: tokenizer.frame(&ids[..room_tokens]), truncated_tokens });
            }
        }
    }
    Ok(Some(cuts))
}

/// Where every token of the text stands. A tokenizer takes some hundred bytes of memory for each byte of text,
/// so a long text goes through it in windows.
fn token_offsets(tokenizer: &Tokenizer, text: &str) -> Result<Vec<(u32, u32)>, TokenizeError> {
    let mut offsets = Vec::new();
    for window in windows(text) {
        let base = index32(window.start);
        let found = tokenizer.encode(&text[window])?.offsets;
        offsets.extend(found.into_iter().map(|(start, end)| (base + start, base + end)));
    }
    Ok(offsets)
}

/// Cuts a text into pieces of at most [`WINDOW_BYTES`], after white space where there is any.
fn windows(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        if start == text.len() {
            return None;
        }
        let limit = text.floor_char_boundary(start + WINDOW_BYTES);
        let in_window = &text[start..limit];
        let after_space = in_window.char_indices().rev().find(|(_, c)| c.is_whitespace());
        let end = match after_space {
            Some((at, space)) if limit < text.len() => start + at + space.len_utf8(),
            _ => limit,
        };
        let window = start..end;
        start = end;
        Some(window)
    })
}

fn record(
    shared: &Shared<'_>,
    row: ManifestRow,
    file: &NamedFile,
    document: Document,
    cuts: Vec<Cut>,
) -> (DocumentRecord, Vec<Sequence<VectorKey>>) {
    let special_tokens = shared.model.tokenizer.special_tokens();
    let truncated_tokens = cuts.iter().map(|cut| cut.truncated_tokens as u64).sum();
    let mut chunks = Vec::with_capacity(cuts.len());
    let mut sequences = Vec::with_capacity(cuts.len());
    for (chunk_no, Cut { chunk, ids, .. }) in (0_u32..).zip(cuts) {
        let text = &document.text[chunk.start..chunk.end];
        let vector_key = VectorKey::of(text, &shared.fingerprint);
        chunks.push(ChunkRecord {
            chunk_no,
            point_id: point_id(&row.doc_id, &row.revision, chunk_no, text),
            vector_key,
            chapter: index32(chunk.chapter),
            page: None,
            start: chunk.start as u64,
            end: chunk.end as u64,
            overlap_bytes: index32(chunk.overlap_bytes),
            tokens: index32(ids.len() - special_tokens),
            text: text.to_owned(),
        });
        sequences.push(Sequence { key: vector_key, ids });
    }
    // A file that names itself nowhere is called by its file name, a part by its id.
    let title = document.title.or_else(|| row.part.clone()).unwrap_or_else(|| file.stem());
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
        source: "local".to_owned(),
        source_id: None,
        title,
        authors: document.authors,
        language: document.language,
        detected_language: document.detected_language,
        metadata: serde_json::Value::Object(document.metadata),
        chapters: chapters.map(|c| ChapterRecord { breadcrumb: c.breadcrumb, href: c.href }).collect(),
        chunks,
        truncated_tokens,
        cost: shared.settings.cost.clone(),
    };
    (record, sequences)
}

/// Positions inside one document, whose text is bounded far below 4 GiB.
fn index32(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_the_text_and_end_after_white_space() {
        let word = "slowly ".repeat(WINDOW_BYTES / 5);
        let solid = "走".repeat(WINDOW_BYTES);
        for text in ["", "a", &word, &solid] {
            let windows: Vec<_> = windows(text).collect();
            assert_eq!(windows.iter().map(|w| &text[w.clone()]).collect::<String>(), text);
            assert!(windows.iter().all(|w| !w.is_empty() && w.len() <= WINDOW_BYTES));
        }
        assert!(windows(&word).all(|window| word[window].ends_with(' ')));
    }
}
