//! The parse stage: files to documents, through worker processes and the cache of parsed text.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use haul_corpus::document::{Document, Format};
use haul_corpus::parse::{self, Parsed};
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_corpus::worker::Worker;
use haul_pipeline::cache::{Cache, CacheKey};
use haul_pipeline::stage::Meter;
use tracing::debug;

use super::select::NamedFile;
use super::{Arrival, IngestError, Shared, journal_key};

/// A file that needs reading.
pub(crate) struct Unread {
    /// Its number in this run.
    pub(crate) no: u64,
    pub(crate) file: Arc<NamedFile>,
    pub(crate) format: Format,
    pub(crate) content_hash: [u8; 32],
}

/// A document that needs cutting, or why a file has none.
pub(crate) struct Uncut {
    pub(crate) file_no: u64,
    pub(crate) file: Arc<NamedFile>,
    pub(crate) part: Option<String>,
    pub(crate) content_hash: [u8; 32],
    pub(crate) document: Result<Document, ParseFailure>,
    pub(crate) begun: Instant,
}

/// How a worker process is started: the program and its arguments.
#[derive(Clone, Debug)]
pub struct WorkerProgram {
    /// The executable.
    pub program: PathBuf,
    /// What makes it a parse worker.
    pub args: Vec<String>,
}

/// Reads files until there are no more or a stop is asked for.
pub(crate) fn run(
    meter: &mut Meter,
    shared: &Shared<'_>,
    unread: &Receiver<Unread>,
    uncut: &Sender<Uncut>,
    arrivals: &Sender<Arrival>,
) -> Result<(), IngestError> {
    let args: Vec<&str> = shared.worker.args.iter().map(String::as_str).collect();
    let mut worker = Worker::spawn(&shared.worker.program, &args, shared.limits)?;
    while let Some(file) = meter.receive(unread) {
        if shared.stop.requested() {
            break;
        }
        debug!(stage = "parse", item = %file.file.shown(), "begin");
        let key = journal_key(shared, &file.file);
        shared.journal.lock().unwrap_or_else(PoisonError::into_inner).begin(&key)?;
        let Some(documents) = read(meter, shared, &mut worker, &file, uncut)? else { break };
        debug!(stage = "parse", item = %file.file.shown(), "end");
        meter.finished(1);
        if meter.send(arrivals, Arrival::FileEnd { file_no: file.no, documents }).is_err() {
            break;
        }
    }
    Ok(())
}

/// Sends every document of one file on and says how many there were; `None` when the next stage has ended.
fn read(
    meter: &mut Meter,
    shared: &Shared<'_>,
    worker: &mut Worker,
    file: &Unread,
    uncut: &Sender<Uncut>,
) -> Result<Option<u64>, IngestError> {
    let begun = Instant::now();
    if let Some(document) = from_cache(shared.cache, file)? {
        let sent = meter.send(uncut, file.uncut(None, file.content_hash, Ok(document), begun));
        return Ok(sent.ok().map(|()| 1));
    }
    let mut sent = 0;
    let mut cached = Ok(());
    let mut heard = true;
    let read = worker.parse(&file.file.file.path, file.format, &mut |parsed: Parsed| {
        cached = to_cache(shared.cache, file, &parsed);
        let content_hash = content_hash(file, &parsed);
        heard = meter.send(uncut, file.uncut(parsed.part, content_hash, parsed.document, begun)).is_ok();
        sent += 1;
        if cached.is_ok() && heard { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    cached?;
    // The file itself is the document that failed, after those it gave.
    let failure = match read {
        Err(failure) => Some(failure),
        Ok(()) if sent == 0 => Some(ParseFailure::new(Verdict::Empty, "no documents in the file")),
        Ok(()) => None,
    };
    if let (true, Some(failure)) = (heard, failure) {
        heard = meter.send(uncut, file.uncut(None, file.content_hash, Err(failure), begun)).is_ok();
        sent += 1;
    }
    Ok(heard.then_some(sent))
}

impl Unread {
    fn uncut(
        &self,
        part: Option<String>,
        content_hash: [u8; 32],
        document: Result<Document, ParseFailure>,
        begun: Instant,
    ) -> Uncut {
        Uncut { file_no: self.no, file: Arc::clone(&self.file), part, content_hash, document, begun }
    }
}

/// A part of a file is its own content: a line that moves inside its file is still the same document.
fn content_hash(file: &Unread, parsed: &Parsed) -> [u8; 32] {
    let (Some(part), Ok(document)) = (&parsed.part, &parsed.document) else { return file.content_hash };
    let metadata = serde_json::Value::Object(document.metadata.clone()).to_string();
    let title = document.title.as_deref().unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    for field in [part, title, &metadata, &document.text] {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// Lines of a JSONL are quicker read again than found in a cache.
fn cacheable(file: &Unread) -> bool {
    file.format != Format::JsonLines
}

fn cache_key(file: &Unread) -> CacheKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"parsed document|");
    hasher.update(&parse::VERSION.to_le_bytes());
    hasher.update(file.format.name().as_bytes());
    hasher.update(&file.content_hash);
    hasher.finalize()
}

fn from_cache(cache: &Cache, file: &Unread) -> Result<Option<Document>, IngestError> {
    if !cacheable(file) {
        return Ok(None);
    }
    let Some(bytes) = cache.get(&cache_key(file))? else { return Ok(None) };
    // An entry that does not decode was written by another build; the file is read again.
    let document: Option<Document> = serde_json::from_slice(&bytes).ok();
    Ok(document.filter(|document| document.check().is_ok()))
}

fn to_cache(cache: &Cache, file: &Unread, parsed: &Parsed) -> Result<(), IngestError> {
    let (true, Ok(document)) = (cacheable(file), &parsed.document) else { return Ok(()) };
    let bytes = serde_json::to_vec(document).map_err(IngestError::Encode)?;
    Ok(cache.put(&cache_key(file), &bytes)?)
}
