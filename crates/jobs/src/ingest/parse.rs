//! The parse stage: files to documents, through worker processes and the cache of parsed text.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use haul_corpus::document::{Document, Format};
use haul_corpus::parse::Parsed;
use haul_corpus::verdict::{ParseFailure, Verdict};
use haul_corpus::worker::Worker;
use haul_pipeline::cache::{Cache, CacheKey};
use haul_pipeline::stage::{Disconnected, Meter};
use tracing::debug;

use super::prefetch::LocalCopy;
use super::room::Place;
use super::select::NamedFile;
use super::{Arrival, IngestError, Shared, journal_key};
use crate::parsed;

/// A file that needs reading.
pub(crate) struct Unread {
    /// Its number in this run.
    pub(crate) no: u64,
    pub(crate) file: Arc<NamedFile>,
    pub(crate) format: Format,
    pub(crate) content_hash: [u8; 32],
    /// Where the file was copied to, if it was; gone with this value.
    pub(crate) copy: Option<LocalCopy>,
    /// Its room in memory, once there is some.
    pub(crate) place: Option<Arc<Place>>,
}

/// A document that needs cutting, or why a file has none.
pub(crate) struct Uncut {
    pub(crate) file_no: u64,
    pub(crate) file: Arc<NamedFile>,
    pub(crate) part: Option<String>,
    pub(crate) content_hash: [u8; 32],
    pub(crate) document: Result<Document, ParseFailure>,
    pub(crate) begun: Instant,
    /// What reading it took.
    pub(crate) parse_s: f64,
    /// Its file's room in memory, which is free again when all that came of the file is cut.
    pub(crate) place: Option<Arc<Place>>,
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
    // Started at the first file: a thread that gets none needs no process.
    let mut worker = None;
    while let Some(file) = shared.room.next(meter, unread, shared.stop) {
        debug!(stage = "parse", item = %file.file.shown(), "begin");
        let key = journal_key(shared, &file.file);
        shared.journal.lock().unwrap_or_else(PoisonError::into_inner).begin(&key)?;
        if worker.is_none() {
            worker = Some(Worker::spawn(&shared.worker.program, &args, &shared.setup)?);
        }
        let Some(worker) = &mut worker else { break };
        let documents = match file.format {
            Format::JsonLines => read_many(meter, shared, worker, &file, uncut),
            _ => read_one(meter, shared, worker, &file, uncut),
        };
        debug!(stage = "parse", item = %file.file.shown(), "end");
        meter.finished(1);
        let Ok(documents) = documents else { break };
        if let Some(probe) = shared.probe {
            probe.read(file.no, documents);
        }
        if meter.send(arrivals, Arrival::FileEnd { file_no: file.no, documents }).is_err() {
            break;
        }
    }
    Ok(())
}

/// Sends on the one document of a file, from the cache if its bytes were read before.
fn read_one(
    meter: &mut Meter,
    shared: &Shared<'_>,
    worker: &mut Worker,
    file: &Unread,
    uncut: &Sender<Uncut>,
) -> Result<u64, Disconnected> {
    let begun = Instant::now();
    let key = parsed::key(file.format, &file.content_hash);
    let document =
        parsed::get(shared.cache, &key).map_or_else(|| parse_one(shared.cache, &key, worker, file), Ok);
    meter.send(uncut, file.uncut(None, file.content_hash, document, begun))?;
    Ok(1)
}

fn parse_one(
    cache: &Cache,
    key: &CacheKey,
    worker: &mut Worker,
    file: &Unread,
) -> Result<Document, ParseFailure> {
    let mut document = Err(ParseFailure::new(Verdict::Empty, "no document in the file"));
    worker.parse(file.readable(), file.format, &mut |parsed: Parsed| {
        document = parsed.document;
        ControlFlow::Continue(())
    })?;
    let document = document?;
    // What was read must be what was hashed, or other bytes would be kept under this hash for good.
    if !file.file.is_as_listed() {
        return Err(ParseFailure::new(
            Verdict::Failed,
            "changed while it was read; the next run reads it again",
        ));
    }
    parsed::put(cache, key, &file.file.shown(), &document);
    Ok(document)
}

/// Sends on the documents of a file of many that are the run's own, as they come; says how many there were. Each is
/// hashed as it was read, and lines are quicker read again than found in a cache.
fn read_many(
    meter: &mut Meter,
    shared: &Shared<'_>,
    worker: &mut Worker,
    file: &Unread,
    uncut: &Sender<Uncut>,
) -> Result<u64, Disconnected> {
    let mut begun = Instant::now();
    let mut sent = 0;
    let mut others = 0;
    let mut state = Ok(());
    let read = worker.parse(file.readable(), file.format, &mut |parsed: Parsed| {
        if !file.file.is_own_part(shared.settings, parsed.part.as_deref()) {
            others += 1;
            return ControlFlow::Continue(());
        }
        let content_hash = content_hash(file, &parsed);
        state = meter.send(uncut, file.uncut(parsed.part, content_hash, parsed.document, begun));
        sent += 1;
        begun = Instant::now();
        if state.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    state?;
    // The file itself is the document that failed, after those it gave.
    let failure = match read {
        Err(failure) => failure,
        Ok(()) if sent + others == 0 => ParseFailure::new(Verdict::Empty, "no documents in the file"),
        Ok(()) => return Ok(sent),
    };
    meter.send(uncut, file.uncut(None, file.content_hash, Err(failure), begun))?;
    Ok(sent + 1)
}

impl Unread {
    /// What the parser opens.
    fn readable(&self) -> &Path {
        self.copy.as_ref().map_or(&self.file.file.path, LocalCopy::path)
    }

    fn uncut(
        &self,
        part: Option<String>,
        content_hash: [u8; 32],
        document: Result<Document, ParseFailure>,
        begun: Instant,
    ) -> Uncut {
        let parse_s = begun.elapsed().as_secs_f64();
        let (file, place) = (Arc::clone(&self.file), self.place.clone());
        Uncut { file_no: self.no, file, part, content_hash, document, begun, parse_s, place }
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
