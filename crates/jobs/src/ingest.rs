//! `ingest`: files to a searchable library.
//!
//! list -> parse (worker processes) -> chunk -> one token queue over all files -> embed -> commit; the sentences of
//! documents that are cut by topic go through the same queue and come back to the chunk stage. Each arrow is
//! a bounded channel; each stage accounts for its time. The library is the truth of what is done: an input
//! whose bytes and settings are unchanged is not read again, a document is replaced in one transaction.

mod calibre;
mod cut;
mod error;
mod inputs;
mod metadata;
pub mod mismatched;
mod parse;
mod pdf;
mod pieces;
pub mod plan;
pub mod policy;
mod prefetch;
pub mod preview;
mod publish;
mod quarantine;
mod room;
mod select;
mod semantic;
mod shard;
mod sink;
mod tally;
mod tokenized;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use crossbeam_channel::Sender;
use haul_corpus::document::Furniture;
use haul_corpus::limits::Limits;
use haul_corpus::readers::{Readers, Setup};
use haul_corpus::source::Listing;
use haul_encoder::dtype::Dtype;
use haul_encoder::embedder::{Embedder, LoadError};
use haul_encoder::model_dir::ModelDir;
use haul_pipeline::batch::{BatchLimits, TokenQueue};
use haul_pipeline::cache::Cache;
use haul_pipeline::journal::{Journal, JournalKey};
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::{Failure, Items, Note, PruneRefused, Quality, Truncated};
use haul_pipeline::stage::{Meter, Stages, Stop, channel};
use haul_store::library::{
    DocumentRecord, DocumentUpdate, Fingerprint, IngestCost, Library, ManifestRow, VectorKey,
};
use haul_store::publish::{Published, Publisher};
use uuid::Uuid;

use crate::encode::{self, Computed, Encoded, Sequence};
use crate::quality::{self, Sample};
pub use calibre::{CalibreFolders, FORMATS, LibraryFound, Selection};
pub use error::IngestError;
pub use inputs::{Inputs, Request};
pub use metadata::JunkMetadata;
pub use parse::WorkerProgram;
pub use pdf::identify as identify_pdfium;
use pieces::Cutting;
pub use pieces::{Chunker, Chunking, Losses, Parents};
use plan::Probe;
use prefetch::Prefetcher;
pub use prefetch::{PREFETCH_BYTES_MAX, Prefetch};
pub use quarantine::ATTEMPTS_MAX;
use room::Room;
pub use room::memory_needed;
pub use select::DRAFT;
use select::{Known, NamedFile};
use semantic::Desk;
pub use semantic::SentencePass;
pub use shard::{Shard, ShardError};
use sink::Sink;
use tally::Tally;

/// Files between listing and parsing.
const UNREAD_MAX: usize = 64;
/// Parsed documents waiting to be cut; each may be as large as a book.
const UNCUT_MAX: usize = 4;
/// Messages to the writer: about as many as come while it commits, so that the model does not wait for a transaction.
const ARRIVALS_MAX: usize = 256;
/// The token queue holds this many batches of the budget.
const QUEUED_BATCHES: usize = 16;

/// What becomes of documents whose files are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Reported.
    Keep,
    /// Removed from the library, unless they are so many that their folder is more likely not there than emptied: more
    /// than [`PRUNE_FREE_MAX`] and more than one of [`PRUNE_ONE_OF`].
    Prune,
    /// Removed from the library, however many they are.
    PruneAll,
}

/// So many documents may always be pruned; of all shards together, where each sees its own part of them.
pub const PRUNE_FREE_MAX: usize = 10;
/// Of more documents, a prune takes one of so many at most of those that are known under the paths.
pub const PRUNE_ONE_OF: usize = 4;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the document ids.
    pub collection: String,
    /// How documents are cut.
    pub chunking: Chunking,
    /// What the vectors are computed with; of one that is not f32, some are compared with f32 after the run.
    pub dtype: Dtype,
    /// Longest sequence given to the model, special tokens included.
    pub max_tokens: usize,
    /// What stands before a document's text.
    pub document_prompt: String,
    /// The part of the documents that this run is for; `None` for all of them.
    pub shard: Option<Shard>,
    /// What becomes of documents whose files are gone.
    pub gone: Gone,
    /// What becomes of titles and authors that are none.
    pub junk: JunkMetadata,
    /// Which files are copied to the local disk before they are read.
    pub prefetch: Prefetch,
    /// Threads that parse, and as many that cut.
    pub threads: usize,
    /// Size of a batch.
    pub batch: BatchLimits,
    /// Bytes of memory that the run, its model and its workers may take together; see [`memory_needed`].
    pub memory_bytes: u64,
    /// Host name and device for the ingest log.
    pub cost: IngestCost,
}

/// What the job works with.
pub struct Parts<'a> {
    /// The library, open for writing.
    pub library: &'a mut Library,
    /// The way to a server that is to have what the library has.
    pub publisher: Option<Publisher>,
    /// The model's files; its weights are loaded when the first text needs them.
    pub model: &'a ModelDir,
    /// Loads the weights in a dtype.
    pub load: &'a (dyn Fn(Dtype) -> Result<Embedder, LoadError> + Sync),
    /// Batches that the device works on side by side.
    pub compute_threads: usize,
    /// How a parse worker is started.
    pub worker: &'a WorkerProgram,
    /// What one file may cost.
    pub limits: &'a Limits,
    /// Libraries and programs of this machine that read files.
    pub readers: &'a Readers,
    /// Parsed text by content.
    pub cache: &'a Cache,
    /// A local folder of this run alone, for files fetched from a share.
    pub prefetch_folder: &'a Path,
    /// Files that were taken to their end.
    pub journal: Journal,
    /// Clocks of the stages.
    pub stages: &'a Stages,
    /// Live counters.
    pub progress: &'a Progress,
    /// Set when the run should end early.
    pub stop: &'a Stop,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Inputs by verdict.
    pub items: Items,
    /// Every input that is not ok.
    pub failures: Vec<Failure>,
    /// What was lost or guessed in inputs that are ok.
    pub notes: Vec<Note>,
    /// What was cut off.
    pub truncated: Truncated,
    /// Chunks committed in this run.
    pub chunks: u64,
    /// Texts of the library, chunks and sections, that went through the model.
    pub vectors: u64,
    /// Sentences compared to find where chunks end; part of the tokens below.
    pub sentences: SentencePass,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Seconds of the device for all tokens, summed over the batches it works on side by side.
    pub busy_s: f64,
    /// Operations of the model.
    pub flops: u64,
    /// From the begin of the first batch to the end of the last one.
    pub compute_s: f64,
    /// What went to a server.
    pub published: Option<Published>,
    /// Bytes of input read.
    pub bytes_read: u64,
    /// How often the weights were loaded.
    pub loads: u32,
    /// How well vectors of this run agree with f32; `None` in f32, and when none were computed.
    pub quality: Option<Quality>,
    /// Whether the run was stopped early.
    pub interrupted: bool,
}

/// What reaches the writer.
pub(crate) enum Arrival {
    FileBegin {
        file_no: u64,
        size_bytes: u64,
        journal_key: JournalKey,
    },
    FileEnd {
        file_no: u64,
        documents: u64,
    },
    Verdict {
        file_no: u64,
        row: ManifestRow,
    },
    Unchanged {
        file_no: u64,
        row: ManifestRow,
    },
    Updated {
        file_no: u64,
        update: Box<DocumentUpdate>,
    },
    /// Not taken in, and nothing recorded of it.
    Skipped {
        file_no: u64,
        doc_id: Uuid,
        item: String,
        why: String,
    },
    Document {
        file_no: u64,
        record: Box<DocumentRecord>,
        furniture: Furniture,
        notes: Vec<String>,
        begun: Instant,
    },
    Vectors(Vec<Encoded<VectorKey>>),
}

/// What a sequence in the queue is for.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    /// A vector of the library.
    Stored(VectorKey),
    /// A sentence, to be compared with its neighbours.
    Sentence(VectorKey),
}

/// Runs the job to its end, or to a stop.
///
/// # Errors
/// What keeps the job as a whole from going on; the library stays valid and a rerun goes on from there.
pub fn run(settings: &Settings, inputs: Inputs, parts: Parts<'_>) -> Result<Outcome, IngestError> {
    run_with(settings, inputs, parts, None)
}

/// [`run`]; with a probe, texts are counted and not computed.
fn run_with(
    settings: &Settings,
    mut inputs: Inputs,
    parts: Parts<'_>,
    probe: Option<&Probe>,
) -> Result<Outcome, IngestError> {
    select::leave_out_library(&mut inputs.listing, parts.library.path());
    let mut known = Known::new(parts.library.manifest()?, settings, inputs.books.clone());
    if let Some(publisher) = &parts.publisher {
        known.add_others(publisher.others(), &settings.collection);
    }
    if known.gone(&inputs.whole, &Tally::default()).is_empty() {
        inputs.refuse_empty()?;
    }
    // The sample of a forecast was chosen among the shard's own files.
    if probe.is_none() && settings.shard.is_some() {
        // All shards must name a file alike, or two of them would take it, or none.
        known.add_roots(parts.library.roots(&settings.collection)?);
        parts.library.record_roots(&settings.collection, &known.roots_of(&inputs.listing))?;
        known.keep_own(&mut inputs.listing, settings);
    }
    parts.progress.expect(inputs.listing.files.len() as u64, inputs.bytes());
    let prefetcher = Prefetcher::new(parts.prefetch_folder, settings.prefetch)?;
    let Inputs { listing, whole, libraries, absent, calibre_files, .. } = inputs;
    let shared = Shared {
        settings,
        listing,
        known,
        libraries,
        absent,
        calibre_files,
        fingerprint: parts.library.settings().fingerprint(),
        library_uuid: parts.library.uuid(),
        journal: Mutex::new(parts.journal),
        in_flight: Mutex::new(HashSet::new()),
        queue: TokenQueue::new(settings.batch.tokens * QUEUED_BATCHES),
        desk: Desk::new(settings.threads),
        model: parts.model,
        load: parts.load,
        embedder: Mutex::new(Weights::Unloaded),
        sample: Sample::default(),
        room: Room::new(settings.memory_bytes.saturating_sub(room::fixed_bytes(parts.model, settings))),
        probe,
        worker: parts.worker,
        setup: Setup { limits: parts.limits.clone(), readers: parts.readers.clone() },
        cache: parts.cache,
        progress: parts.progress,
        stop: parts.stop,
    };
    let mut publisher = parts.publisher;
    let ends = Ends { prefetcher, publisher: publisher.as_mut() };
    let done = flow(&shared, parts.library, ends, parts.compute_threads, parts.stages)?;
    let mut published = done.published;
    let mut outcome = finish(&shared, parts.library, &whole, done)?;
    if let (Some(publisher), false) = (&mut publisher, outcome.interrupted) {
        *published.get_or_insert_default() += publish::finish(&shared, publisher)?;
    }
    outcome.published = published;
    if !outcome.interrupted && !shared.sample.is_empty() {
        outcome.loads += 1;
        outcome.quality = compare_with_f32(&shared, parts.compute_threads, parts.stages)?;
    }
    Ok(outcome)
}

/// The quality stage: some texts of the run once more, in f32.
fn compare_with_f32(
    shared: &Shared<'_>,
    threads: usize,
    stages: &Stages,
) -> Result<Option<Quality>, IngestError> {
    let meter = stages.meter("quality");
    let started = Instant::now();
    let sequences = shared.sample.take();
    let rows = |embedder: &Embedder| {
        quality::rows(embedder, &sequences, shared.settings.batch, threads, shared.stop)
            .map_err(IngestError::Quality)
    };
    let Some(embedder) = shared.embedder()? else { return Ok(None) };
    let Some(fast) = rows(&embedder)? else { return Ok(None) };
    // Never two sets of weights at once.
    drop(embedder);
    *shared.embedder.lock().unwrap_or_else(PoisonError::into_inner) = Weights::Unloaded;
    let Some(exact) = rows(&(shared.load)(Dtype::F32)?)? else { return Ok(None) };
    // The run gave each of these texts a vector; one that f32 has none for is not compared.
    let (exact, fast): (Vec<_>, Vec<_>) =
        exact.into_iter().zip(fast).filter_map(|(exact, fast)| exact.ok().zip(fast.ok())).unzip();
    let Some(agreement) = quality::agreement(&exact, &fast) else { return Ok(None) };
    meter.finished(agreement.texts as u64);
    Ok(Some(Quality {
        against: agreement.against.to_owned(),
        metric: "cosine".to_owned(),
        delta: 1.0 - agreement.cosine_mean,
        cosine_min: agreement.cosine_min,
        top10_overlap: agreement.top10_overlap,
        texts: agreement.texts as u64,
        text_tokens_max: quality::SAMPLE_TOKENS as u64,
        seconds: started.elapsed().as_secs_f64(),
    }))
}

/// What the stages share.
pub(crate) struct Shared<'a> {
    settings: &'a Settings,
    listing: Listing,
    known: Known,
    libraries: Vec<LibraryFound>,
    /// Books that Calibre lists and whose files are not there: not gone.
    absent: HashSet<Uuid>,
    /// Every file of the Calibre libraries, those that are not wanted included.
    calibre_files: HashMap<PathBuf, Option<Uuid>>,
    fingerprint: Fingerprint,
    library_uuid: Uuid,
    journal: Mutex<Journal>,
    /// Vectors that are being computed in this run, so that no text goes to the model twice.
    in_flight: Mutex<HashSet<VectorKey>>,
    queue: TokenQueue<Sequence<Purpose>>,
    desk: Desk,
    model: &'a ModelDir,
    load: &'a (dyn Fn(Dtype) -> Result<Embedder, LoadError> + Sync),
    embedder: Mutex<Weights>,
    sample: Sample,
    room: Arc<Room>,
    /// Of a run that is only a forecast.
    probe: Option<&'a Probe>,
    worker: &'a WorkerProgram,
    setup: Setup,
    cache: &'a Cache,
    progress: &'a Progress,
    stop: &'a Stop,
}

/// What the first and the last stage have for themselves.
struct Ends<'a> {
    prefetcher: Prefetcher,
    publisher: Option<&'a mut Publisher>,
}

/// What the stages did, joined.
struct Done {
    selected: Tally,
    written: Tally,
    computed: Computed,
    published: Option<Published>,
}

/// Starts the threads of all stages and waits for them.
fn flow(
    shared: &Shared<'_>,
    library: &mut Library,
    ends: Ends<'_>,
    compute_threads: usize,
    stages: &Stages,
) -> Result<Done, IngestError> {
    let Ends { mut prefetcher, publisher } = ends;
    let threads = shared.settings.threads;
    let readers =
        (0..threads).map(|_| Library::open_read_only(library.path())).collect::<Result<Vec<_>, _>>()?;
    let described = Library::open_read_only(library.path())?;
    let (unread, unread_files) = channel(UNREAD_MAX);
    let (uncut, uncut_documents) = channel(UNCUT_MAX);
    let (arrivals, arrived) = channel(ARRIVALS_MAX);
    thread::scope(|scope| {
        let mut meter = stages.meter("list");
        let select_arrivals = arrivals.clone();
        let selecting = scope.spawn(move || {
            let mut sources = select::Sources { library: &described, prefetcher: &mut prefetcher };
            watch(shared, || select::run(&mut meter, shared, &mut sources, &unread, &select_arrivals))
        });
        let parsing = Vec::from_iter((0..threads).map(|_| {
            let mut meter = stages.meter("parse");
            let (unread, uncut, arrivals) = (unread_files.clone(), uncut.clone(), arrivals.clone());
            scope.spawn(move || watch(shared, || parse::run(&mut meter, shared, &unread, &uncut, &arrivals)))
        }));
        let cutting = Vec::from_iter(readers.into_iter().map(|library| {
            let mut meter = stages.meter("chunk");
            let (uncut, arrivals) = (uncut_documents.clone(), arrivals.clone());
            scope.spawn(move || watch(shared, || cut::run(&mut meter, shared, &library, &uncut, &arrivals)))
        }));
        let computing = Vec::from_iter((0..compute_threads).map(|_| {
            let mut meter = stages.meter("embed");
            let arrivals = arrivals.clone();
            scope.spawn(move || watch(shared, || compute(&mut meter, shared, &arrivals)))
        }));
        let (publishing, committed) = match publisher {
            Some(publisher) => {
                let (committed, to_publish) = channel(publish::UNPUBLISHED_MAX);
                let mut meter = stages.meter("publish");
                let work = move || publish::run(&mut meter, shared, publisher, &to_publish);
                (Some(scope.spawn(move || watch(shared, work))), Some(committed))
            }
            None => (None, None),
        };
        let mut meter = stages.meter("commit");
        let sink = Sink::new(shared, library, committed);
        let committing = scope.spawn(move || watch(shared, || sink.run(&mut meter, &arrived)));
        // The threads have their own ends; a stage ends when the last sender before it is gone.
        drop((unread_files, uncut, uncut_documents, arrivals));

        let selected = joined(selecting);
        let parsed = parsing.into_iter().try_for_each(joined);
        let cut = cutting.into_iter().try_for_each(joined);
        shared.queue.close();
        let computed = computing.into_iter().map(joined).collect::<Result<Vec<Computed>, _>>();
        let written = joined(committing);
        let published = publishing.map(joined).transpose();
        // The last stage's error comes first: the others may have ended because of it.
        let published = published?;
        let written = written?;
        parsed?;
        cut?;
        Ok(Done { selected: selected?, written, computed: computed?.into_iter().sum(), published })
    })
}

/// Runs a stage's thread; if it fails, or panics, every other stage is told to end.
fn watch<T>(shared: &Shared<'_>, work: impl FnOnce() -> Result<T, IngestError>) -> Result<T, IngestError> {
    struct Alarm<'a>(&'a Shared<'a>);
    impl Drop for Alarm<'_> {
        fn drop(&mut self) {
            self.0.stop.request();
            self.0.queue.close();
        }
    }
    let alarm = Alarm(shared);
    let result = work();
    if result.is_ok() {
        std::mem::forget(alarm);
    }
    result
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, IngestError>>) -> Result<T, IngestError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The weights, loaded when the first batch is there: a run that computes nothing loads nothing.
enum Weights {
    Unloaded,
    Loaded(Arc<Embedder>),
    Failed,
}

impl Shared<'_> {
    fn cutting(&self) -> Cutting<'_> {
        Cutting {
            model: self.model,
            max_tokens: self.settings.max_tokens,
            prompt: &self.settings.document_prompt,
            chunking: &self.settings.chunking,
            stop: self.stop,
        }
    }

    /// `None` if another thread already failed to load them and reports why.
    fn embedder(&self) -> Result<Option<Arc<Embedder>>, IngestError> {
        let mut weights = self.embedder.lock().unwrap_or_else(PoisonError::into_inner);
        match &*weights {
            Weights::Loaded(embedder) => Ok(Some(Arc::clone(embedder))),
            Weights::Failed => Ok(None),
            Weights::Unloaded => {
                *weights = Weights::Failed;
                let embedder = Arc::new((self.load)(self.settings.dtype)?);
                *weights = Weights::Loaded(Arc::clone(&embedder));
                Ok(Some(embedder))
            }
        }
    }

    fn loads(&self) -> u32 {
        u32::from(matches!(*self.embedder.lock().unwrap_or_else(PoisonError::into_inner), Weights::Loaded(_)))
    }
}

/// The embed stage.
fn compute(
    meter: &mut Meter,
    shared: &Shared<'_>,
    arrivals: &Sender<Arrival>,
) -> Result<Computed, IngestError> {
    let mut computed = Computed::default();
    let limits = shared.settings.batch;
    while let Some(batch) = meter.starved(|| shared.queue.next_batch(limits)) {
        if shared.stop.requested() {
            break;
        }
        let encoded = match shared.probe {
            Some(probe) => probe.answer(batch),
            None => match shared.embedder()? {
                Some(embedder) => encode::run_batch(&embedder, batch, &mut computed),
                None => break,
            },
        };
        let tokens = encoded.iter().map(|encoded| encoded.ids.len() as u64).sum();
        meter.finished(encoded.len() as u64);
        let (encoded, sentences) = parted(encoded);
        shared.progress.computed(encoded.len() as u64, tokens);
        shared.desk.deliver(sentences);
        if encoded.is_empty() {
            continue;
        }
        if shared.settings.dtype != Dtype::F32 && shared.probe.is_none() {
            shared.sample.offer(&encoded);
        }
        if meter.send(arrivals, Arrival::Vectors(encoded)).is_err() {
            break;
        }
    }
    // Nobody takes batches any more: whoever waits to queue one must not wait for ever.
    shared.queue.close();
    Ok(computed)
}

/// Vectors of the library, and those of sentences.
fn parted(encoded: Vec<Encoded<Purpose>>) -> (Vec<Encoded<VectorKey>>, Vec<Encoded<VectorKey>>) {
    let (mut stored, mut sentences) = (Vec::with_capacity(encoded.len()), Vec::new());
    for Encoded { key, ids, outputs, seconds } in encoded {
        match key {
            Purpose::Stored(key) => stored.push(Encoded { key, ids, outputs, seconds }),
            Purpose::Sentence(key) => sentences.push(Encoded { key, ids, outputs, seconds }),
        }
    }
    (stored, sentences)
}

/// Deals with documents whose files are gone and adds everything up.
fn finish(
    shared: &Shared<'_>,
    library: &mut Library,
    paths: &[PathBuf],
    done: Done,
) -> Result<Outcome, IngestError> {
    let interrupted = shared.stop.requested();
    let mut tally = done.selected;
    tally.add(done.written);
    let mut outcome = Outcome {
        chunks: tally.chunks,
        // A run that is only a forecast counts its texts and computes none.
        vectors: done.computed.texts.saturating_sub(shared.desk.pass().computed),
        sentences: shared.desk.pass(),
        tokens: done.computed.tokens,
        busy_s: done.computed.busy_s,
        flops: done.computed.flops,
        compute_s: done.computed.seconds(),
        bytes_read: tally.bytes_read,
        loads: shared.loads(),
        truncated: tally.truncated,
        interrupted,
        items: tally.items(),
        ..Outcome::default()
    };
    if !interrupted {
        let mut gone = shared.known.gone(paths, &tally);
        // A folder that could not be listed may hold what seems gone.
        let unlisted = |row: &&ManifestRow| {
            let path = Path::new(&row.root).join(&row.relative_path);
            shared.listing.failures.iter().any(|failure| path.starts_with(&failure.path))
        };
        gone.retain(|row| !unlisted(row) && !is_kept(shared, &tally, row));
        // Without chunks it is a note on a file that is no more.
        let (notes, documents): (Vec<_>, Vec<_>) = gone.into_iter().partition(|row| row.chunks == 0);
        let known = shared.known.documents_under(paths);
        // Paths under which nothing at all is found look like a share that is not mounted, however few they held.
        let is_empty = shared.listing.files.is_empty() && !documents.is_empty();
        // The other shards miss about as many.
        let missed = documents.len().saturating_mul(shared.settings.shard.map_or(1, Shard::count));
        let is_too_many = is_empty || missed > PRUNE_FREE_MAX && documents.len() * PRUNE_ONE_OF > known;
        if shared.settings.gone == Gone::Prune && is_too_many {
            let (gone, known) = (documents.len() as u64, known as u64);
            outcome.items.prune_refused = Some(PruneRefused { gone, known });
        }
        let remove = match (shared.settings.gone, is_too_many) {
            (Gone::Prune, true) => vec![],
            (Gone::Keep, _) => notes.iter().map(|row| row.doc_id).collect(),
            _ => notes.iter().chain(&documents).map(|row| row.doc_id).collect::<Vec<_>>(),
        };
        if !remove.is_empty() {
            library.remove_documents(&remove)?;
        }
        let shown = documents.iter().map(|row| select::shown(row)).collect();
        match shared.settings.gone {
            Gone::Keep => outcome.items.gone = shown,
            Gone::Prune if is_too_many => outcome.items.gone = shown,
            Gone::Prune | Gone::PruneAll => outcome.items.pruned = shown,
        }
    }
    outcome.notes = tally.notes;
    outcome.notes.sort_by(|a, b| a.item.cmp(&b.item));
    outcome.failures = tally.failures;
    outcome.failures.sort_by(|a, b| a.item.cmp(&b.item));
    Ok(outcome)
}

/// What is still there in a Calibre library's folders, although no book of this run: a file that somebody put there
/// and named by itself, or another format of a book whose preferred one gave no document.
fn is_kept(shared: &Shared<'_>, tally: &Tally, row: &ManifestRow) -> bool {
    let path = Path::new(&row.root).join(&row.relative_path);
    let has_better = |taken: &Option<Uuid>| taken.is_some_and(|doc_id| tally.good.contains(&doc_id));
    shared.libraries.iter().any(|library| path.starts_with(&library.folder))
        && !shared.calibre_files.get(&path).is_some_and(has_better)
        && path.exists()
}

/// Positions inside one document, whose text is bounded far below 4 GiB.
fn index32(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

/// A file in the journal: which library, which file, in which state, read with which settings, for which shard.
fn journal_key(shared: &Shared<'_>, file: &NamedFile) -> JournalKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"ingest file|");
    hasher.update(shared.library_uuid.as_bytes());
    hasher.update(&shared.fingerprint.0);
    for field in [&shared.settings.collection, &file.root, &file.relative] {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    hasher.update(&file.file.size_bytes.to_le_bytes());
    hasher.update(&file.modified_ns.unwrap_or(i64::MIN).to_le_bytes());
    if let Some(shard) = shared.settings.shard {
        hasher.update(b"shard|").update(shard.to_string().as_bytes());
    }
    hasher.finalize()
}
