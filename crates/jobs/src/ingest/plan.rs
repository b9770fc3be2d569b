//! What an ingest will take, before it is begun: a sample of the files goes through all stages for real.
//!
//! Files are sampled by format and size. The stages are the ones of an ingest, into a scratch library that is thrown
//! away, with one difference: texts that reach the model are counted, and only some of them are computed afterwards,
//! so that a slow model does not make the forecast as slow as the run.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use haul_corpus::limits::Limits;
use haul_corpus::readers::Readers;
use haul_corpus::source::{Listing, SourceFile};
use haul_encoder::device::SparseVector;
use haul_encoder::dtype::Dtype;
use haul_encoder::embedder::{Embedder, LoadError};
use haul_machine::clock::{all_cores_seconds, ended_children_cpu_seconds, process_cpu_seconds};
use haul_pipeline::batch::{BatchLimits, Lane, TokenQueue};
use haul_pipeline::forecast::{Range, Replicate, SPEED_SPREAD, Sampled, Scale, Stratum, ranges};
use haul_pipeline::stage::{StageAccount, Stop};
use haul_store::library::{Fingerprint, ManifestRow, VectorKey};
use serde::Serialize;

use super::cut::Spent;
use super::select::{self, Known};
use super::{Arrival, IngestError, Inputs, Parts, Purpose, Settings, UNCUT_MAX, room};
use crate::encode::{self, Computed, Encoded, Sequence, TextOutputs};
use crate::quality::{self, SAMPLE_TOKENS, TEXTS};

/// The name and version of [`Plan`] as JSON.
pub const SCHEMA: &str = "haul.plan/1";
/// One of so many files is sampled.
const ONE_OF: usize = 100;
/// Files of a sample, where there are as many.
const FILES_MIN: usize = 24;
const FILES_MAX: usize = 160;
/// Files of each stratum, for a spread.
const STRATUM_FILES_MIN: usize = 2;
/// No more files are begun after this; files that were not reached are not in the sample. Those in work are finished:
/// they are the slow ones, and without them the forecast would be of the quick ones alone.
const SAMPLE_SECONDS: Duration = Duration::from_secs(30);
/// What is still in work then is given up.
const SAMPLE_SECONDS_MAX: Duration = Duration::from_secs(120);
/// Batches are computed for so long.
const COMPUTE_SECONDS: Duration = Duration::from_secs(6);
/// Tokens of counted texts that are kept to compute some of them.
const KEPT_TOKENS_MAX: usize = 1 << 20;
/// Of a longer text or JSONL file, only the beginning is sampled.
const CLIP_BYTES: u64 = 512 << 10;
/// What the share of the cores that other programs have adds to the spread of the speed: they may end, or more come.
const OTHERS_SPREAD: f64 = 0.4;
/// The run's own mode computes texts of the quality stage for so long, at most.
const QUALITY_SECONDS: f64 = 2.0;
/// By how much of itself a chunk's share of the commits grows each time that a library doubles: keys of chunks and vectors
/// are hashes, and the pages that a transaction touches lie further apart. Measured with 35,000 to 419,000 chunks, 47 to 76
/// us a chunk.
const COMMIT_GROWTH: f64 = 0.13;
/// Bytes of a row of the segment besides its numbers, which are there as i8 and as f16.
const SEGMENT_ROW_BYTES: usize = 20;
const SEGMENT_NUMBER_BYTES: usize = 3;
/// How often the clock is looked at while the sample runs.
const LOOK: Duration = Duration::from_millis(50);
/// Size classes differ by this factor.
const CLASS_BITS: u32 = 2;

/// What the run will take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Files by what will be done with them.
    pub files: Files,
    /// Bytes of the files to read.
    pub bytes: u64,
    /// What was tried.
    pub sample: Sample,
    /// Files to read, by format.
    pub kinds: Vec<Kind>,
    /// Seconds of each stage if it were alone, on all its threads.
    pub stages: Vec<Stage>,
    /// Wall time of the run.
    pub seconds: Range,
    /// The stage that takes longest.
    pub bottleneck: String,
    /// Tokens for the model.
    pub tokens: Range,
    /// Tokens that the model takes in a second, all threads together.
    pub tokens_per_s: f64,
    /// Share of the cores that other programs had while that was measured.
    pub others_share: f64,
    /// Chunks for the library.
    pub chunks: Range,
    /// Bytes that the library grows by.
    pub library_bytes: Range,
    /// Bytes of the segment beside it, which a first search makes.
    pub segment_bytes: Range,
    /// The most memory that the run and its workers should take together.
    pub memory_bytes: u64,
    /// What they may take.
    pub memory_allowed_bytes: u64,
}

/// Files by what will be done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Files {
    /// All that were found.
    pub listed: u64,
    /// To be read.
    pub to_read: u64,
    /// In the library already, or known to be unreadable.
    pub unchanged: u64,
    /// Of a kind that nothing reads, or a text larger than any is read.
    pub without_reader: u64,
}

/// What was tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Files that went through the stages.
    pub files: u64,
    /// Their bytes, as far as they were read.
    pub bytes: u64,
    /// Tokens that were computed.
    pub tokens_computed: u64,
    /// Texts that were computed.
    pub texts_computed: u64,
    /// Of which the model gave no vector for: documents with such a text will not be in the library.
    pub texts_failed: u64,
    /// Why, of one of them.
    pub failed_why: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Files of one format.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kind {
    /// Format.
    pub name: String,
    /// Files to read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that were sampled.
    pub sampled: u64,
    /// Tokens in all of them.
    pub tokens: Range,
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// As receipts call it.
    pub name: String,
    /// Its threads.
    pub threads: u64,
    /// Seconds if it were alone.
    pub seconds: Range,
}

/// What a plan works with besides what an ingest does.
pub struct Scratch<'a> {
    /// What the library that is asked about knows.
    pub manifest: Vec<ManifestRow>,
    /// That library's path: what stands beside it is no input.
    pub library: &'a Path,
    /// An empty folder for what is made and thrown away.
    pub folder: &'a Path,
    /// Cores of this machine.
    pub cores: usize,
}

/// Tries a sample of the inputs. `parts.library` is an empty scratch library with the settings of the one that is
/// asked about, `parts.cache` keeps nothing; nothing is written but there and in the scratch folder.
///
/// # Errors
/// What keeps an ingest from going on, or that the scratch folder cannot be used.
pub fn plan(
    settings: &Settings,
    inputs: &Inputs,
    scratch: Scratch<'_>,
    parts: Parts<'_>,
) -> Result<Plan, IngestError> {
    let started = Instant::now();
    let fingerprint = parts.library.settings().fingerprint();
    let known = Known::new(scratch.manifest, settings, inputs.books.clone());
    let mut listing = inputs.listing.clone();
    select::leave_out_library(&mut listing, scratch.library);
    known.keep_own(&mut listing, settings);
    let (files, to_read) = to_read(listing, &known, parts.readers, &fingerprint);
    let fixed_bytes = room::fixed_bytes(parts.model, settings);
    let memory_bytes = fixed_bytes + in_flight_bytes(settings, fixed_bytes, &to_read);
    let groups = groups(to_read);
    let tried = clip(choose(&groups), scratch.folder)?;

    let probe = Probe::new(parts.library.settings().dim);
    let (load, threads, stop, stages) = (parts.load, parts.compute_threads, parts.stop, parts.stages);
    let cpu_before_s = cpu_seconds();
    let grown_bytes = sample(settings, inputs, &tried, parts, &probe)?;
    let cpu_s = cpu_seconds().zip(cpu_before_s).map(|(after, before)| after - before);
    let accounts = stages.accounts();
    let kept = probe.take_kept();
    let speed = if kept.is_empty() || stop.requested() {
        Speed::default()
    } else {
        let (embedder, load_s) = timed(|| load(settings.dtype));
        let embedder = embedder?;
        let texts: Vec<Vec<u32>> = kept.iter().take(TEXTS).cloned().collect();
        let mut speed = Speed { load_s, ..speed(&embedder, kept, settings.batch, threads, stop) };
        if settings.dtype != Dtype::F32 {
            speed.quality_text_s =
                quality_text_seconds(embedder, &speed, texts, settings, load, threads, stop)?;
        }
        speed
    };
    let measured = Measured { accounts, cpu_s, speed, grown_bytes, tried, probe, cores: scratch.cores };
    let mut plan = measured.plan(settings, &groups);
    plan.files = files;
    plan.memory_bytes = memory_bytes;
    plan.sample.seconds = started.elapsed().as_secs_f64();
    Ok(plan)
}

/// Processor time of this process and of workers that have ended.
fn cpu_seconds() -> Option<f64> {
    Some(process_cpu_seconds() + ended_children_cpu_seconds()?)
}

/// The files that an ingest would read: those that are as the library has them are left out.
fn to_read(
    listing: Listing,
    known: &Known,
    readers: &Readers,
    fingerprint: &Fingerprint,
) -> (Files, Vec<SourceFile>) {
    let mut files = Files { listed: listing.files.len() as u64, ..Files::default() };
    let mut to_read = Vec::new();
    for file in listing.files {
        if !file.format.is_some_and(|format| Limits::DEFAULT.admit(format, file.size_bytes)) {
            files.without_reader += 1;
            continue;
        }
        let named = known.name(file);
        let same = |row: &ManifestRow| named.is_settled_as(row, fingerprint, readers);
        let rows = known.rows(&named);
        if !rows.is_empty() && rows.iter().all(same) {
            files.unchanged += 1;
        } else {
            to_read.push(named.file);
        }
    }
    files.to_read = to_read.len() as u64;
    (files, to_read)
}

/// The files that an ingest would read, and their bytes.
pub fn pending(
    settings: &Settings,
    inputs: &Inputs,
    manifest: Vec<ManifestRow>,
    library: &Path,
    readers: &Readers,
    fingerprint: &Fingerprint,
) -> (u64, u64) {
    let known = Known::new(manifest, settings, inputs.books.clone());
    let mut listing = inputs.listing.clone();
    select::leave_out_library(&mut listing, library);
    known.keep_own(&mut listing, settings);
    let (files, to_read) = to_read(listing, &known, readers, fingerprint);
    (files.to_read, to_read.iter().map(|file| file.size_bytes).sum())
}

/// What documents in flight take at most: the largest files, as many as may be in work, as far as there is room.
fn in_flight_bytes(settings: &Settings, fixed_bytes: u64, files: &[SourceFile]) -> u64 {
    let mut bytes: Vec<u64> =
        files.iter().filter_map(|file| Some(room::file_bytes(file.format?, file.size_bytes))).collect();
    bytes.sort_unstable_by(|a, b| b.cmp(a));
    let together: u64 = bytes.iter().take(settings.threads + UNCUT_MAX).sum();
    let capacity = settings.memory_bytes.saturating_sub(fixed_bytes);
    together.min(capacity).max(bytes.first().copied().unwrap_or(0))
}

/// Files of one format and size class, in an order by lot that is always the same.
struct Group {
    kind: &'static str,
    files: Vec<SourceFile>,
}

fn groups(files: Vec<SourceFile>) -> Vec<Group> {
    let mut groups: BTreeMap<(&'static str, u32), Vec<SourceFile>> = BTreeMap::new();
    for file in files {
        let Some(format) = file.format else { continue };
        let class = file.size_bytes.max(1).ilog2() / CLASS_BITS;
        groups.entry((format.name(), class)).or_default().push(file);
    }
    let lot = |file: &SourceFile| *blake3::hash(file.relative.as_os_str().as_encoded_bytes()).as_bytes();
    groups
        .into_iter()
        .map(|((kind, _), mut files)| {
            files.sort_by_cached_key(lot);
            Group { kind, files }
        })
        .collect()
}

impl Group {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Text is all that a text file has; a package or a PDF has images as well.
    fn scale(&self) -> Scale {
        match self.kind {
            "text" | "markdown" | "html" | "json_lines" => Scale::Bytes,
            _ => Scale::Items,
        }
    }
}

/// A file of the sample.
struct Tried {
    group: usize,
    file: SourceFile,
}

/// Some files of each group: two, and more by its share of the files and of the bytes. They stand in turns, so that a
/// sample which is cut short has something of each group.
fn choose(groups: &[Group]) -> Vec<Tried> {
    let files: usize = groups.iter().map(|group| group.files.len()).sum();
    let bytes: u64 = groups.iter().map(Group::bytes).sum();
    let sample = (files / ONE_OF).clamp(FILES_MIN, FILES_MAX) as f64;
    let count = |group: &Group| {
        let of_files = group.files.len() as f64 / files as f64;
        let of_bytes = group.bytes() as f64 / bytes.max(1) as f64;
        let share = (sample * f64::midpoint(of_files, of_bytes)).round() as usize;
        share.max(STRATUM_FILES_MIN).min(group.files.len())
    };
    let mut tried: Vec<(usize, Tried)> = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        let chosen = group.files.iter().take(count(group)).enumerate();
        tried.extend(chosen.map(|(turn, file)| (turn, Tried { group: number, file: file.clone() })));
    }
    tried.sort_by_key(|(turn, _)| *turn);
    tried.into_iter().map(|(_, tried)| tried).collect()
}

/// Puts the beginning of a long file of text in its place.
fn clip(mut tried: Vec<Tried>, folder: &Path) -> Result<Vec<Tried>, IngestError> {
    for (number, Tried { file, .. }) in tried.iter_mut().enumerate() {
        let name = file.format.map_or("", |format| format.name());
        if !["text", "markdown", "json_lines"].contains(&name) || file.size_bytes <= CLIP_BYTES {
            continue;
        }
        let failed = |source| IngestError::Scratch { path: file.path.clone(), source };
        let mut text = Vec::new();
        File::open(&file.path).and_then(|f| f.take(CLIP_BYTES).read_to_end(&mut text)).map_err(failed)?;
        // Whole lines; a file without any goes as it is.
        let Some(end) = text.iter().rposition(|&byte| byte == b'\n') else { continue };
        let clipped = folder.join(format!("clip-{number}"));
        fs::write(&clipped, &text[..=end]).map_err(failed)?;
        file.modified = clipped.metadata().and_then(|facts| facts.modified()).ok();
        (file.path, file.size_bytes) = (clipped, end as u64 + 1);
    }
    Ok(tried)
}

/// Runs the stages over the sample; says by how many bytes the scratch library grew.
fn sample(
    settings: &Settings,
    inputs: &Inputs,
    tried: &[Tried],
    parts: Parts<'_>,
    probe: &Probe,
) -> Result<u64, IngestError> {
    let library = parts.library.path().to_owned();
    let bytes = || fs::metadata(&library).map(|facts| facts.len());
    let failed = |source: io::Error| IngestError::Scratch { path: library.clone(), source };
    let empty_bytes = bytes().map_err(failed)?;
    let files = tried.iter().map(|tried| tried.file.clone()).collect();
    let listing = Listing { files, ..Listing::default() };
    let inputs = Inputs { listing, books: inputs.books.clone(), ..Inputs::default() };
    let (user, stop, started) = (parts.stop, Stop::default(), Instant::now());
    let (sampled, _) = thread::scope(|scope| {
        let clock = scope.spawn(|| {
            while !stop.requested() {
                if user.requested() || started.elapsed() > SAMPLE_SECONDS_MAX {
                    stop.request();
                }
                thread::sleep(LOOK);
            }
        });
        let parts = Parts { stop: &stop, ..parts };
        let sampled = if tried.is_empty() { Ok(()) } else { empty_log(settings, inputs, parts, probe) };
        stop.request();
        (sampled, clock.join())
    });
    sampled?;
    Ok(bytes().map_err(failed)?.saturating_sub(empty_bytes))
}

/// Runs the stages, and moves what SQLite still has in its log into the file whose size is wanted.
fn empty_log(
    settings: &Settings,
    inputs: Inputs,
    parts: Parts<'_>,
    probe: &Probe,
) -> Result<(), IngestError> {
    let Parts { library, model, load, compute_threads, worker, limits, cache, journal, .. } = parts;
    let Parts { readers, prefetch_folder, stages, progress, stop, .. } = parts;
    let again = Parts {
        library: &mut *library,
        publisher: None,
        model,
        load,
        compute_threads,
        worker,
        limits,
        readers,
        prefetch_folder,
        cache,
        journal,
        stages,
        progress,
        stop,
    };
    super::run_with(settings, inputs, again, Some(probe))?;
    library.empty_log()?;
    Ok(())
}

/// What a run of the sample leaves behind about its files and texts.
pub(crate) struct Probe {
    dim: usize,
    since: Instant,
    costs: Mutex<HashMap<u64, FileCost>>,
    texts: Mutex<Texts>,
}

/// What one file cost, of those documents that were cut.
#[derive(Clone, Copy, Debug, Default)]
struct FileCost {
    parse_s: f64,
    cut_s: f64,
    tokens: u64,
    chunks: u64,
    cut: u64,
    /// Documents in it; known when it was read to its end.
    documents: Option<u64>,
}

#[derive(Default)]
struct Texts {
    /// Tokens of all texts that reached the model.
    tokens: u64,
    kept_tokens: usize,
    /// By keys, which are hashes: those kept are a choice by lot.
    kept: BTreeMap<VectorKey, Vec<u32>>,
}

impl Probe {
    fn new(dim: usize) -> Self {
        Self { dim, since: Instant::now(), costs: Mutex::default(), texts: Mutex::default() }
    }

    /// Whether no more files are to be begun.
    pub(crate) fn is_over(&self) -> bool {
        self.since.elapsed() > SAMPLE_SECONDS
    }

    /// A file was read to its end.
    pub(crate) fn read(&self, file_no: u64, documents: u64) {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        costs.entry(file_no).or_default().documents = Some(documents);
    }

    /// A document was cut, or has a verdict.
    pub(crate) fn cut(&self, Spent { file_no, parse_s, cut_s }: Spent, arrival: &Arrival) {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = costs.entry(file_no).or_default();
        cost.parse_s += parse_s;
        cost.cut_s += cut_s;
        cost.cut += 1;
        if let Arrival::Document { record, .. } = arrival {
            cost.chunks += record.chunks.len() as u64;
            cost.tokens += record.chunks.iter().map(|chunk| u64::from(chunk.tokens)).sum::<u64>();
        }
    }

    /// Counts a batch and answers with rows that stand for vectors. All sentences are alike by these, so topics never
    /// change: as many tokens, in chunks as long as they may be.
    pub(crate) fn answer(&self, batch: Vec<Sequence<Purpose>>) -> Vec<Encoded<Purpose>> {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        for Sequence { key, ids } in &batch {
            texts.tokens += ids.len() as u64;
            texts.kept_tokens += ids.len();
            let (Purpose::Stored(text) | Purpose::Sentence(text)) = key;
            texts.kept.insert(*text, ids.clone());
            while texts.kept_tokens > KEPT_TOKENS_MAX
                && let Some((_, ids)) = texts.kept.pop_last()
            {
                texts.kept_tokens -= ids.len();
            }
        }
        let mut row = vec![0.0; self.dim];
        row[0] = 1.0;
        let row = TextOutputs { dense: row, sparse: Some(SparseVector::default()), colbert: None };
        let encoded = |Sequence { key, ids }| Encoded { key, ids, outputs: Ok(row.clone()), seconds: 0.0 };
        batch.into_iter().map(encoded).collect()
    }

    fn take_kept(&self) -> Vec<Vec<u32>> {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut texts.kept).into_values().collect()
    }
}

/// What the quality stage takes for one text, the other weights included: the stage itself, on some texts of the sample.
fn quality_text_seconds(
    embedder: Embedder,
    speed: &Speed,
    mut texts: Vec<Vec<u32>>,
    settings: &Settings,
    load: &dyn Fn(Dtype) -> Result<Embedder, LoadError>,
    threads: usize,
    stop: &Stop,
) -> Result<f64, IngestError> {
    let tokens_max = (speed.tokens_per_s() * QUALITY_SECONDS) as usize;
    texts.truncate((tokens_max / SAMPLE_TOKENS).max(1));
    texts.iter_mut().for_each(|ids| ids.truncate(SAMPLE_TOKENS));
    let rows = |embedder: &Embedder| {
        quality::rows(embedder, &texts, settings.batch, threads, stop).map_err(IngestError::Quality)
    };
    // A text without a vector took its time like any other; `speed` has counted it.
    let (own, own_s) = timed(|| rows(&embedder));
    own?;
    drop(embedder);
    let (exact, load_s) = timed(|| load(Dtype::F32));
    let exact = exact?;
    let (exact, exact_s) = timed(|| rows(&exact));
    exact?;
    Ok((own_s + exact_s) / texts.len() as f64 + load_s / TEXTS as f64)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let started = Instant::now();
    let done = work();
    (done, started.elapsed().as_secs_f64())
}

/// How fast the model is.
#[derive(Clone, Debug, Default)]
struct Speed {
    load_s: f64,
    /// Of the quality stage, for one text; none in f32.
    quality_text_s: f64,
    computed: Computed,
    /// Why texts of them have no vector.
    failed: Vec<String>,
    /// Share of the cores that other programs had.
    others_share: f64,
}

impl Speed {
    fn tokens_per_s(&self) -> f64 {
        match self.computed.seconds() {
            0.0 => 0.0,
            seconds => self.computed.tokens as f64 / seconds,
        }
    }
}

/// Computes batches on all threads until the time is over.
fn speed(embedder: &Embedder, kept: Vec<Vec<u32>>, batch: BatchLimits, threads: usize, stop: &Stop) -> Speed {
    let queue = TokenQueue::new(usize::MAX);
    for ids in kept {
        // Nobody has closed the queue yet.
        if queue.push(Lane::Bulk, ids.len(), Sequence { key: (), ids }).is_err() {
            break;
        }
    }
    let (started, cpu_before_s, all_before_s) = (Instant::now(), process_cpu_seconds(), all_cores_seconds());
    let compute = || {
        let (mut computed, mut failed) = (Computed::default(), Vec::new());
        while let Some(batch) = queue.batch_if_any(batch) {
            let encoded = encode::run_batch(embedder, batch, &mut computed);
            failed.extend(encoded.into_iter().filter_map(|text| text.outputs.err()));
            if started.elapsed() > COMPUTE_SECONDS || stop.requested() {
                break;
            }
        }
        (computed, failed)
    };
    let (computed, failed): (Vec<Computed>, Vec<Vec<String>>) = thread::scope(|scope| {
        let threads = Vec::from_iter((0..threads).map(|_| scope.spawn(compute)));
        threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).unzip()
    });
    let (computed, failed) = (computed.into_iter().sum(), failed.concat());
    let own_s = process_cpu_seconds() - cpu_before_s;
    let others = |((busy_before, before), (busy, all)): ((f64, f64), (f64, f64))| {
        (busy - busy_before - own_s) / (all - before).max(1e-9)
    };
    let others_share = all_before_s.zip(all_cores_seconds()).map_or(0.0, others).clamp(0.0, 1.0);
    Speed { computed, failed, others_share, ..Speed::default() }
}

/// Currencies of a file's cost.
const PARSE_S: usize = 0;
const CUT_S: usize = 1;
const TOKENS: usize = 2;
const CHUNKS: usize = 3;
const CURRENCIES: usize = 4;

/// Stages in the order of [`Measured::busy`].
const STAGES: [&str; 5] = ["list", "parse", "chunk", "embed", "commit"];

/// What the sample showed.
struct Measured {
    accounts: Vec<StageAccount>,
    /// Processor time of the sample, workers included.
    cpu_s: Option<f64>,
    speed: Speed,
    grown_bytes: u64,
    tried: Vec<Tried>,
    probe: Probe,
    cores: usize,
}

impl Measured {
    fn plan(&self, settings: &Settings, groups: &[Group]) -> Plan {
        let strata = self.strata(groups);
        let sampled: Vec<&Sampled> = strata.iter().flat_map(|stratum| &stratum.sampled).collect();
        let chunks_sampled: f64 = sampled.iter().map(|file| file.costs[CHUNKS]).sum();
        let bytes: u64 = strata.iter().map(|stratum| stratum.bytes).sum();
        let threads = STAGES.map(|name| self.account(name).map_or(1, |account| account.threads.max(1)));
        let speed_spread = SPEED_SPREAD + OTHERS_SPREAD * self.speed.others_share;
        let figures = ranges(&strata, CURRENCIES, speed_spread, |replicate| {
            let busy = self.busy(replicate, bytes as f64, chunks_sampled);
            let alone: Vec<f64> =
                busy.iter().zip(threads).map(|(busy, threads)| busy / threads as f64).collect();
            let slowest = alone.iter().copied().fold(0.0, f64::max);
            // Neither faster than the slowest stage nor than all work on all cores.
            let all: f64 = busy.iter().sum();
            let flow = slowest.max(all / self.cores as f64 * self.crowding(all / slowest.max(1e-9)));
            let fixed = self.fixed_s(replicate.totals[CHUNKS]);
            let mut figures = alone;
            figures.extend([flow + fixed, self.computed_tokens(replicate), replicate.totals[CHUNKS]]);
            figures
        });
        let stages: Vec<Stage> = STAGES
            .iter()
            .zip(threads)
            .zip(&figures)
            .map(|((name, threads), seconds)| Stage { name: (*name).to_owned(), threads, seconds: *seconds })
            .collect();
        let slowest = stages.iter().max_by(|a, b| a.seconds.middle.total_cmp(&b.seconds.middle));
        let chunks = figures[STAGES.len() + 2];
        let per_chunk = if chunks_sampled > 0.0 { self.grown_bytes as f64 / chunks_sampled } else { 0.0 };
        let row_bytes = self.probe.dim * SEGMENT_NUMBER_BYTES + SEGMENT_ROW_BYTES;
        Plan {
            schema: SCHEMA,
            files: Files::default(),
            bytes,
            sample: Sample {
                files: sampled.len() as u64,
                bytes: sampled.iter().map(|file| file.bytes).sum(),
                tokens_computed: self.speed.computed.tokens,
                texts_computed: self.speed.computed.texts,
                texts_failed: self.speed.failed.len() as u64,
                failed_why: self.speed.failed.first().cloned(),
                seconds: 0.0,
            },
            kinds: kinds(&strata),
            bottleneck: slowest.map_or_else(String::new, |stage| stage.name.clone()),
            stages,
            seconds: figures[STAGES.len()],
            tokens: figures[STAGES.len() + 1],
            tokens_per_s: self.speed.tokens_per_s(),
            others_share: self.speed.others_share,
            chunks,
            library_bytes: times(chunks, per_chunk),
            segment_bytes: times(chunks, row_bytes as f64),
            memory_bytes: 0,
            memory_allowed_bytes: settings.memory_bytes,
        }
    }

    /// Files of each group, and what those cost that went through all stages.
    fn strata(&self, groups: &[Group]) -> Vec<Stratum> {
        let costs = self.probe.costs.lock().unwrap_or_else(PoisonError::into_inner);
        // A file's own clock may hold time in which it waited; the stage's clock does not.
        let measured: f64 = costs.values().map(|cost| cost.parse_s).sum();
        let parse_busy = self.account("parse").map_or(0.0, |account| account.busy_s);
        let scale = if measured > 0.0 { (parse_busy / measured).min(1.0) } else { 1.0 };
        let mut strata: Vec<Stratum> = groups
            .iter()
            .map(|group| Stratum {
                kind: group.kind.to_owned(),
                items: group.files.len() as u64,
                bytes: group.bytes(),
                scale: group.scale(),
                sampled: vec![],
            })
            .collect();
        for (number, tried) in (0..).zip(&self.tried) {
            let whole = |cost: &&FileCost| cost.documents == Some(cost.cut);
            let Some(cost) = costs.get(&number).filter(whole) else { continue };
            let costs = vec![cost.parse_s * scale, cost.cut_s, cost.tokens as f64, cost.chunks as f64];
            strata[tried.group].sampled.push(Sampled { bytes: tried.file.size_bytes, costs });
        }
        strata
    }

    /// Busy seconds of each of [`STAGES`], over all of its threads.
    fn busy(&self, replicate: &Replicate, bytes: f64, chunks_sampled: f64) -> [f64; STAGES.len()] {
        let Replicate { totals, slowness } = replicate;
        let busy = |name| self.account(name).map_or(0.0, |account| account.busy_s);
        let per = |seconds: f64, count: f64| if count > 0.0 { seconds / count } else { 0.0 };
        let fair = self.fair_share();
        let hashed: u64 = self.tried.iter().map(|tried| tried.file.size_bytes).sum();
        let embed_threads = self.account("embed").map_or(1, |account| account.threads) as f64;
        let doublings = per(totals[CHUNKS], chunks_sampled).max(1.0).log2();
        let growth = 1.0 + COMMIT_GROWTH * doublings;
        [
            bytes * per(busy("list"), hashed as f64) * fair,
            totals[PARSE_S] * fair,
            totals[CUT_S] * fair,
            per(self.computed_tokens(replicate), self.speed.tokens_per_s()) * embed_threads,
            totals[CHUNKS] * per(busy("commit"), chunks_sampled) * growth * fair,
        ]
        .map(|seconds| seconds * slowness)
    }

    /// The stages before the model were timed all at once, more threads than there are cores, and each clock ran while
    /// its thread waited for a core. What was really worked is the processor time, stretched by what other programs take.
    fn fair_share(&self) -> f64 {
        let busy: f64 = self
            .accounts
            .iter()
            .filter(|account| account.name != "embed")
            .map(|account| account.busy_s)
            .sum();
        let others = 1.0 - self.speed.others_share;
        match self.cpu_s {
            Some(cpu_s) if busy > 0.0 && others > 0.0 => (cpu_s / others / busy).min(1.0),
            _ => 1.0,
        }
    }

    /// Beside other programs, many threads get more of the cores than the few did by which the speed was measured: with
    /// `n` of ours and `m` others that want to run, a fair scheduler gives us `n / (n + m)`. 1 on a machine of our own.
    fn crowding(&self, threads: f64) -> f64 {
        let measured = self.account("embed").map_or(1, |account| account.threads) as f64;
        let others = measured * self.speed.others_share / (1.0 - self.speed.others_share).max(0.05);
        let share = |threads: f64| threads / (threads + others);
        (share(measured) / share(threads.max(measured))).min(1.0)
    }

    /// Tokens for the model: those of the chunks, and whatever else the chunker has computed.
    fn computed_tokens(&self, replicate: &Replicate) -> f64 {
        let costs = self.probe.costs.lock().unwrap_or_else(PoisonError::into_inner);
        let cut: u64 = costs.values().map(|cost| cost.tokens).sum();
        let queued = self.probe.texts.lock().unwrap_or_else(PoisonError::into_inner).tokens;
        if cut == 0 { 0.0 } else { replicate.totals[TOKENS] * queued as f64 / cut as f64 }
    }

    /// Loading the weights, and the comparison with f32 at the end.
    fn fixed_s(&self, chunks: f64) -> f64 {
        self.speed.load_s + chunks.min(TEXTS as f64) * self.speed.quality_text_s
    }

    fn account(&self, name: &str) -> Option<&StageAccount> {
        self.accounts.iter().find(|account| account.name == name)
    }
}

fn kinds(strata: &[Stratum]) -> Vec<Kind> {
    let mut by_kind: BTreeMap<&str, Vec<Stratum>> = BTreeMap::new();
    for stratum in strata {
        by_kind.entry(&stratum.kind).or_default().push(stratum.clone());
    }
    let kind = |(name, strata): (&str, Vec<Stratum>)| Kind {
        name: name.to_owned(),
        files: strata.iter().map(|stratum| stratum.items).sum(),
        bytes: strata.iter().map(|stratum| stratum.bytes).sum(),
        sampled: strata.iter().map(|stratum| stratum.sampled.len() as u64).sum(),
        tokens: ranges(&strata, CURRENCIES, SPEED_SPREAD, |replicate| vec![replicate.totals[TOKENS]])[0],
    };
    by_kind.into_iter().map(kind).collect()
}

fn times(range: Range, factor: f64) -> Range {
    Range { low: range.low * factor, middle: range.middle * factor, high: range.high * factor }
}
