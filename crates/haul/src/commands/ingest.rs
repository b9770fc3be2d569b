//! `haul ingest`: resolves everything, runs the job, writes the receipt.

mod chunks;
mod plan;
mod reembed;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use haul_corpus::document::Format;
use haul_corpus::limits::Limits;
use haul_corpus::readers::{Readers, Setup};
use haul_corpus::verdict::Verdict;
use haul_corpus::worker::Worker;
use haul_encoder::NUMERICS_VERSION;
use haul_encoder::embedder::LoadError;
use haul_encoder::model::Head;
use haul_encoder::model_dir::ModelDir;
use haul_encoder::weights::Weights;
use haul_jobs::ingest::{self, Gone, Inputs, Outcome, Parts, WorkerProgram};
use haul_jobs::models::{ModelRecord, Models};
use haul_machine::dtype::{Dtype, DtypeRequest};
use haul_machine::verdict::DeviceRequest;
use haul_machine::{clock, memory, roof};
use haul_pipeline::batch::BatchLimits;
use haul_pipeline::cache::Cache;
use haul_pipeline::forecast::Range;
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::{
    CacheUse, Forecast, MemoryUse, ModelUse, PruneRefused, Rate, Receipt, RunState, SCHEMA, Sent, Work,
};
use haul_pipeline::stage::{Stages, Stop};
use haul_store::library::{IngestCost, Library, LibrarySettings};
use haul_store::publish::Publisher;
use haul_store::qdrant::{Address, Collection, State};
use serde_json::json;

use crate::cli::ingest::IngestArgs;
use crate::commands::{Machine, collection, dim_of, dtype_of, model_of, outputs_of, receipt, select, server};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Compute, Place, Settings};
use crate::{Exit, live, readers, signals_unix, summary, traces};

const JOB: &str = "ingest";

/// Runs the command.
pub(crate) fn run(args: &IngestArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    if args.chunks.dry_run || !args.chunks.compare_thresholds.is_empty() {
        return chunks::preview(args, settings, output);
    }
    if args.reembed {
        return reembed::run(args, settings, output);
    }
    run_into(args, settings, output, None)
}

/// Runs an ingest into what `--store` names, or into the draft of the library that is made again.
fn run_into(
    args: &IngestArgs,
    settings: &Settings,
    output: &Output,
    old: Option<&Library>,
) -> Result<Exit, Failure> {
    let (started, stages) = (SystemTime::now(), Stages::start());
    let machine = Machine::resolve(settings.device(&args.compute.device)?, settings, output)?;
    let compute = settings.compute(&args.compute, &machine.cpu)?;
    receipt::check(args.receipt.as_deref())?;
    let stop = signals_unix::stop_on_signals()?;
    let (target, collection) = Target::of(args, settings, old, &stop)?;
    let inputs = select::inputs(&args.paths, &args.select, output)?;
    if !target.store.exists() {
        // Nothing to read is said before a library is made for it.
        inputs.refuse_empty()?;
    }
    let readers = readers_of(args, settings, &inputs, output)?;
    // Without a PDF among the input, nothing is looked for on this machine.
    let used = readers.clone().unwrap_or_default();
    if args.run.plan {
        let readers = &used;
        let (target, inputs, stop) = (&target, &inputs, &stop);
        let asked = plan::Asked { args, settings, target, compute, inputs, readers, stop };
        return plan::run(&asked, &machine, &stages, output);
    }
    let Found { library, state, wanted } =
        find(args, settings, (&target, collection.as_ref()), &machine, output)?;
    let Wanted { library: made_with, model, record, dtype } = wanted;
    let compute = machine.tuned(compute, &record.sha256, dtype, settings, output);
    let mut job = job_settings(args, &made_with, dtype, compute, &machine)?;
    job.memory_bytes = memory_bytes(settings.memory(args.run.memory)?, &model, &job)?;
    let worker = parse_worker()?;
    let (mut library, publisher) = match library {
        Some(library) => with_publisher(library, collection)?,
        None => {
            // Whatever ends a run before it begins leaves no library behind.
            check_readers(&worker, &used)?;
            make(&target, collection, state, &made_with, output)?
        }
    };
    say_what_is_odd(&target, &library, publisher.as_ref(), output);
    let roofs = roof::load_or_measure(&settings.profiles(), &machine.cpu)?;
    let run_folder = run_folder(&target.store)?;
    let cache = Cache::open(&settings.text_cache(), settings.cache_bytes())?;
    let journal = Journal::open(&run_folder.join("journal.sqlite"))?;
    let planned = planned(&traces::folder_of(target.named()), &inputs, &library, &used, &job)?;
    let (progress, options) = (Progress::default(), outputs_of(library.settings()));
    let load = |dtype| machine.load(&model, &options, dtype, compute.threads);
    let parts = Parts {
        library: &mut library,
        publisher,
        model: &model,
        load: &load,
        compute_threads: compute.threads.get(),
        worker: &worker,
        limits: &Limits::DEFAULT,
        readers: &used,
        cache: &cache,
        prefetch_folder: &run_folder.join("prefetch"),
        journal,
        stages: &stages,
        progress: &progress,
        stop: &stop,
    };
    let running = run_of(args, started, machine.request);
    running.begin()?;
    let live = run_folder.join("progress.json");
    let watched = live::watch(JOB, &progress, &live, output, &stop, || ingest::run(&job, inputs, parts));
    let watched = running.ended(watched.map_err(Failure::from), output)?;
    let outcome = watched.result;

    let memory_bytes = job.memory_bytes;
    let target = &target;
    let run = Run { args, compute, machine, record, dtype, roofs, started, target, readers, memory_bytes };
    let mut receipt = run.receipt(&outcome, &stages, &library, &cache);
    receipt.forecast = forecast(planned.or(watched.forecast), &receipt);
    note_failures(traces::keep(&run_folder, started, &receipt, &watched.timeline), &cache, output);
    tell(&receipt, &outcome, target, args.receipt.as_deref(), output)?;
    Ok(exit(&outcome))
}

fn run_of<'a>(args: &'a IngestArgs, started: SystemTime, device: DeviceRequest) -> receipt::Job<'a> {
    receipt::Job { name: JOB, started, device, out: None, receipt: args.receipt.as_deref() }
}

/// What reads PDFs and pictures, where there are any.
fn readers_of(
    args: &IngestArgs,
    settings: &Settings,
    inputs: &Inputs,
    output: &Output,
) -> Result<Option<Readers>, Failure> {
    let are_read = inputs.has(Format::Pdf) || args.readers.ocr;
    are_read.then(|| readers::for_pdfs(&args.readers, settings, output)).transpose()
}

/// What a run fills.
struct Target<'a> {
    /// The library's file: of a collection its manifest, of a library that is made again its draft.
    store: PathBuf,
    /// The collection that it is brought to.
    address: Option<Address>,
    /// The library that is made again.
    old: Option<&'a Library>,
}

impl<'a> Target<'a> {
    fn of(
        args: &IngestArgs,
        settings: &Settings,
        old: Option<&'a Library>,
        stop: &Stop,
    ) -> Result<(Self, Option<Collection>), Failure> {
        let (store, collection) = match old {
            Some(old) => (reembed::draft_of(old), None),
            None => destination(args, settings, stop)?,
        };
        let address = collection.as_ref().map(|collection| collection.address().clone());
        Ok((Self { store, address, old }, collection))
    }

    /// The library that the user named, whatever is written to meanwhile.
    fn named(&self) -> &Path {
        self.old.map_or(self.store.as_path(), Library::path)
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Some(address) => write!(formatter, "{address}"),
            None => write!(formatter, "{}", self.named().display()),
        }
    }
}

/// Starts a worker with a reader that may not work, and ends it.
fn check_readers(worker: &WorkerProgram, readers: &Readers) -> Result<(), Failure> {
    if readers.pdfium.is_none() {
        return Ok(());
    }
    let args: Vec<&str> = worker.args.iter().map(String::as_str).collect();
    let setup = Setup { limits: Limits::DEFAULT, readers: readers.clone() };
    drop(Worker::spawn(&worker.program, &args, &setup)?);
    Ok(())
}

/// What does not keep a run from its work, and is not as one would expect.
fn say_what_is_odd(target: &Target<'_>, library: &Library, publisher: Option<&Publisher>, output: &Output) {
    let draft = reembed::draft_of(library);
    if target.old.is_none() && draft.exists() {
        output.note(&format!(
            "{} was begun by --reembed and is not finished: --reembed goes on with it, or remove {}*",
            draft.display(),
            draft.display()
        ));
    }
    if publisher.is_some_and(|publisher| !publisher.state().ranks_words()) {
        output.note(&format!("{target}: it has no BM25 weights; `haul search --mode dense` searches it"));
    }
}

/// The library's file, and the collection it is brought to, if any: a server that is not there is said first.
fn destination(
    args: &IngestArgs,
    settings: &Settings,
    stop: &Stop,
) -> Result<(PathBuf, Option<Collection>), Failure> {
    match settings.place(&args.store)? {
        Place::Library(path) => Ok((path, None)),
        Place::Server { address, manifest } => {
            // Shards of one machine write side by side, each from a manifest of its own.
            let manifest = match args.run.shard {
                Some(shard) if args.store.manifest.is_none() => {
                    settings.manifest(&address, &format!(".shard-{}", shard.to_string().replace('/', "-of-")))
                }
                _ => manifest,
            };
            let collection = server::connect(&address, &args.store, server::on(stop))?;
            collection::make_folder(&manifest)?;
            Ok((manifest, Some(collection)))
        }
    }
}

/// What failed beside the work: nobody loses a document by it, and everybody is told.
fn note_failures<E: std::fmt::Display>(kept: Result<(), E>, cache: &Cache, output: &Output) {
    if let Err(error) = kept {
        output.note(&format!("the run is not in the library's history: {error}"));
    }
    let failures = cache.failures();
    if let Some(first) = failures.first {
        output.note(&format!("the cache of parsed text failed {} times: {first}", failures.count));
    }
}

/// Prints what the run did, and leaves its receipt where it is asked for.
fn tell(
    receipt: &Receipt,
    outcome: &Outcome,
    target: &Target<'_>,
    receipt_file: Option<&Path>,
    output: &Output,
) -> Result<(), Failure> {
    if output.json() {
        output.json_document(receipt)?;
    } else {
        output.data(&summary::ingest(receipt, outcome, &target.to_string()))?;
    }
    receipt::write_too(receipt, receipt_file)?;
    if let Some(PruneRefused { gone, known }) = &outcome.items.prune_refused {
        let refused = Failure::new(format!(
            "--prune: the files of {} of {} documents are gone, and none of these was removed",
            summary::thousands(*gone),
            summary::thousands(*known)
        ));
        output.failure(
            &refused.hint(
                "a share that is not mounted looks like this; if they are gone, --prune-all removes them",
            ),
        );
    }
    Ok(())
}

/// The memory that was asked for, else most of what is free now.
fn memory_bytes(asked: Option<u64>, model: &ModelDir, job: &ingest::Settings) -> Result<u64, Failure> {
    let needed = ingest::memory_needed(model, job);
    match asked {
        Some(bytes) if bytes < needed => Err(Failure::new(format!(
            "--memory {}: {} with {} threads needs {}",
            summary::bytes(bytes),
            model.name,
            job.threads,
            summary::bytes(needed)
        ))
        .hint("give more memory, or fewer --threads")),
        Some(bytes) => Ok(bytes),
        None => {
            let memory = memory::probe()?;
            let held = memory::rss_bytes().unwrap_or(0);
            let below_limit = memory.limit_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(held));
            Ok((memory.available_bytes.min(below_limit) / 4 * 3).max(needed))
        }
    }
}

/// What `--plan` said, if it was about these very files and settings.
fn planned(
    run_folder: &Path,
    inputs: &Inputs,
    library: &Library,
    readers: &Readers,
    job: &ingest::Settings,
) -> Result<Option<Range>, Failure> {
    let Some(planned) = traces::read_plan(run_folder)? else { return Ok(None) };
    let fingerprint = library.settings().fingerprint();
    let manifest = library.manifest()?;
    let pending = ingest::plan::pending(job, inputs, manifest, library.path(), readers, &fingerprint);
    let about = traces::About::new(job, &fingerprint, pending);
    Ok((planned.about == about).then_some(planned.seconds))
}

/// How far off a forecast was; of a run that did not come to its end, nobody knows.
fn forecast(made: Option<Range>, receipt: &Receipt) -> Option<Forecast> {
    let made = made.filter(|_| receipt.state == RunState::Finished)?;
    Some(Forecast { low_s: made.low, high_s: made.high, error: made.error(receipt.seconds) })
}

/// What the server got.
fn sent(address: Option<&Address>, outcome: &Outcome) -> Option<Sent> {
    let published = outcome.published?;
    Some(Sent {
        target: address?.to_string(),
        documents: published.documents,
        points: published.points,
        removed: published.removed,
    })
}

fn exit(outcome: &Outcome) -> Exit {
    if outcome.interrupted {
        Exit::Interrupted
    } else if outcome.items.ok + skipped(outcome) < outcome.items.total
        || outcome.items.prune_refused.is_some()
    {
        Exit::SomeNotOk
    } else {
        Exit::Ok
    }
}

/// Inputs that the user's own rules leave out: that is no failure.
fn skipped(outcome: &Outcome) -> u64 {
    outcome.items.by_verdict.get(Verdict::Skipped.name()).copied().unwrap_or(0)
}

/// What there is before anything is made or written.
struct Found {
    library: Option<Library>,
    /// Of the collection that a new library is brought to.
    state: Option<State>,
    wanted: Wanted,
}

/// Opens the library with the model it was made with, or looks what is needed to make one.
fn find(
    args: &IngestArgs,
    settings: &Settings,
    (target, collection): (&Target<'_>, Option<&Collection>),
    machine: &Machine,
    output: &Output,
) -> Result<Found, Failure> {
    if target.store.exists() {
        let library = Library::open(&target.store)?;
        let wanted = wanted(args, settings, target, machine, output, Some(library.settings()))?;
        return Ok(Found { library: Some(library), state: None, wanted });
    }
    let state = collection.map(Collection::state).transpose()?.flatten();
    let theirs = state.as_ref().and_then(|state| state.settings.as_ref());
    let wanted = wanted(args, settings, target, machine, output, theirs)?;
    // A library keeps the identity of its model, so none is made with weights that do not open.
    Weights::open(wanted.model.weights_file()).map_err(LoadError::from)?;
    Ok(Found { library: None, state, wanted })
}

/// Makes the library, and its collection where that is not there.
fn make(
    target: &Target<'_>,
    collection: Option<Collection>,
    state: Option<State>,
    made_with: &LibrarySettings,
    output: &Output,
) -> Result<(Library, Option<Publisher>), Failure> {
    if let Some(collection) = &collection {
        collection.ensure(made_with)?;
    }
    if let Some(points) = state.map(|state| state.points).filter(|points| *points > 0) {
        output.note(&format!(
            "the collection has {points} points already and the manifest {} is new; `haul store sync` first \
             takes over what is there, so that none of it is computed again",
            target.store.display()
        ));
    }
    with_publisher(Library::create(&target.store, made_with)?, collection)
}

fn with_publisher(
    library: Library,
    collection: Option<Collection>,
) -> Result<(Library, Option<Publisher>), Failure> {
    let publisher = collection.map(|collection| Publisher::new(&library, collection)).transpose()?;
    Ok((library, publisher))
}

/// What a run works with, before any library is made or opened for writing.
struct Wanted {
    library: LibrarySettings,
    model: ModelDir,
    record: ModelRecord,
    dtype: Dtype,
}

/// The settings of the library that is there, or of the one to be made.
fn wanted(
    args: &IngestArgs,
    settings: &Settings,
    target: &Target<'_>,
    machine: &Machine,
    output: &Output,
    stored: Option<&LibrarySettings>,
) -> Result<Wanted, Failure> {
    let asked = settings.model(args.model.as_deref());
    let asked_dtype = settings.dtype(&args.dtype)?.unwrap_or(DtypeRequest::Auto);
    if let Some(known) = stored.or(target.old.map(Library::settings)) {
        let (model, record) = match &asked {
            Some(name) => Models::open(&settings.models()).find(name)?,
            None => model_of(known, settings)?,
        };
        let dtype = match asked_dtype {
            DtypeRequest::Named(dtype) => dtype,
            DtypeRequest::Auto => dtype_of(known)?,
        };
        let library = match stored {
            Some(stored) => {
                let library = library_settings(args, &model, &record, dtype, Some(stored))?;
                refuse_differences(target, stored, &library)?;
                library
            }
            None => {
                let kept = reembed::carried_over(args, known, (&model, &record), settings);
                library_settings(args, &model, &record, dtype, Some(&kept))?
            }
        };
        return Ok(Wanted { library, model, record, dtype });
    }
    let Some(name) = asked else {
        return Err(Failure::new(format!(
            "{} is a new library and no model is named",
            target.store.display()
        ))
        .hint("give --model NAME; `haul model list` shows the models that are here"));
    };
    let (model, record) = Models::open(&settings.models()).find(&name)?;
    let dtype = machine.dtype(asked_dtype, settings, output)?;
    let library = library_settings(args, &model, &record, dtype, None)?;
    Ok(Wanted { library, model, record, dtype })
}

/// A library keeps the settings it was made with.
fn refuse_differences(
    target: &Target<'_>,
    stored: &LibrarySettings,
    wanted: &LibrarySettings,
) -> Result<(), Failure> {
    let found = stored.differences(wanted);
    if found.is_empty() {
        return Ok(());
    }
    let differences: Vec<String> = found
        .iter()
        .map(|difference| {
            format!("{} is {}, asked for {}", difference.name, difference.stored, difference.asked)
        })
        .collect();
    let by_another_haul = found.iter().all(|difference| difference.name.ends_with("_version"));
    // Settings are kept where what is filled is kept: those of a new manifest are the collection's.
    let (what, hint) = match (&target.old, &target.address) {
        (Some(_), _) => {
            let draft = target.store.display();
            let go_on =
                if by_another_haul { "" } else { "repeat the first run's settings to go on with it, or " };
            (draft.to_string(), format!("{go_on}remove {draft}* (files and a folder) to begin anew"))
        }
        (None, _) if by_another_haul => (
            target.to_string(),
            "another haul made it: go on with that one, or ingest into a new library; parsed text is reused"
                .to_owned(),
        ),
        (None, Some(_)) => (
            target.to_string(),
            "leave the flags out to use the collection's settings, or name another collection for these"
                .to_owned(),
        ),
        (None, None) => (
            target.to_string(),
            "leave the flags out to use the library's settings, or make it again with these: --reembed"
                .to_owned(),
        ),
    };
    Err(Failure::new(format!("{what} was made with other settings: {}", differences.join("; "))).hint(hint))
}

/// What the flags ask for; what they leave open is taken from the library, else from the model.
fn library_settings(
    args: &IngestArgs,
    model: &ModelDir,
    record: &ModelRecord,
    dtype: Dtype,
    stored: Option<&LibrarySettings>,
) -> Result<LibrarySettings, Failure> {
    let max_tokens = args.max_tokens.or(stored.map(|s| s.max_tokens)).unwrap_or(model.max_tokens);
    let special_tokens = model.tokenizer.special_tokens();
    let smallest = special_tokens + 1;
    // What the library has is compared with what is asked for, not judged.
    if (args.max_tokens.is_some() || stored.is_none()) && !(smallest..=model.max_tokens).contains(&max_tokens)
    {
        return Err(Failure::new(format!(
            "--max-tokens {max_tokens} is outside {smallest}..={}, what {} takes",
            model.max_tokens, record.name
        )));
    }
    let room_tokens = max_tokens.saturating_sub(special_tokens);
    let chunk_tokens = args.chunks.chunk_tokens.or(stored.map(|s| s.chunk_tokens)).unwrap_or(room_tokens);
    if args.chunks.chunk_tokens.is_some() && !(1..=room_tokens).contains(&chunk_tokens) {
        return Err(Failure::new(format!("--chunk-tokens {chunk_tokens} is outside 1..={room_tokens}"))
            .hint(format!("{max_tokens} tokens less {special_tokens} special ones leave {room_tokens}")));
    }
    if let Some(sentences) = args.chunks.overlap.filter(|sentences| *sentences > chunk_tokens) {
        return Err(Failure::new(format!("--overlap {sentences} is outside 0..={chunk_tokens}")).hint(
            format!("a chunk of {chunk_tokens} tokens has no more sentences that the next could repeat"),
        ));
    }
    let (chunker, chunkers) = chunks::chunkers(&args.chunks, stored)?;
    let dim = match (args.dim, stored) {
        (None, Some(stored)) => stored.dim,
        (asked, _) => dim_of(asked, model)?,
    };
    Ok(LibrarySettings {
        model_name: record.name.clone(),
        model_sha256: record.sha256.clone(),
        dim,
        dtype: dtype.name().to_owned(),
        pooling: model.pooling.modes.iter().map(|mode| mode.name()).collect::<Vec<_>>().join("+"),
        normalize: model.normalize,
        max_tokens,
        chunker: chunker.name().to_owned(),
        chunk_tokens,
        overlap_sentences: args.chunks.overlap.or(stored.map(|s| s.overlap_sentences)).unwrap_or(0),
        query_prompt: model.prompts.query().to_owned(),
        document_prompt: model.prompts.document().to_owned(),
        parser_version: haul_corpus::parse::VERSION,
        chunker_version: haul_corpus::chunk::VERSION,
        numerics_version: NUMERICS_VERSION,
        chunkers,
        // As the library has it; a new one has all that the model gives.
        sparse: stored.map_or_else(|| model.head_file(Head::Sparse).is_some(), |stored| stored.sparse),
    })
}

fn job_settings(
    args: &IngestArgs,
    library: &LibrarySettings,
    dtype: Dtype,
    compute: Compute,
    machine: &Machine,
) -> Result<ingest::Settings, Failure> {
    Ok(ingest::Settings {
        collection: args.collection.clone(),
        chunking: chunks::chunking(library)?,
        dtype,
        max_tokens: library.max_tokens,
        document_prompt: library.document_prompt.clone(),
        shard: args.run.shard,
        gone: match (args.prune_all, args.prune) {
            (true, _) => Gone::PruneAll,
            (false, true) => Gone::Prune,
            (false, false) => Gone::Keep,
        },
        junk: select::junk(&args.select, library),
        prefetch: select::prefetch(&args.select),
        threads: compute.threads.get(),
        batch: BatchLimits { tokens: compute.batch_tokens, items: compute.batch_tokens },
        memory_bytes: u64::MAX,
        cost: IngestCost {
            hostname: clock::hostname(),
            device: machine.verdict.used.clone(),
            batch_size: compute.batch_tokens as u64,
            ..IngestCost::default()
        },
    })
}

/// This program again, as a parse worker.
#[expect(clippy::disallowed_methods, reason = "the binary knows where it is; libraries are told")]
pub(crate) fn parse_worker() -> Result<WorkerProgram, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this program to start parse workers: {error}")))?;
    Ok(WorkerProgram { program, args: vec!["parse-worker".to_owned()] })
}

/// Makes `X.haul.run` beside the library, for the journal and the traces of its runs.
fn run_folder(store: &Path) -> Result<PathBuf, Failure> {
    let folder = traces::folder_of(store);
    std::fs::create_dir_all(&folder).map_err(|error| Failure::io("create", &folder, &error))?;
    Ok(folder)
}

/// What a receipt is made of besides the outcome.
struct Run<'a> {
    args: &'a IngestArgs,
    compute: Compute,
    machine: Machine,
    record: ModelRecord,
    dtype: Dtype,
    roofs: roof::Roofs,
    started: SystemTime,
    target: &'a Target<'a>,
    /// None where no PDF is among the input.
    readers: Option<Readers>,
    memory_bytes: u64,
}

impl Run<'_> {
    fn receipt(self, outcome: &Outcome, stages: &Stages, library: &Library, cache: &Cache) -> Receipt {
        let seconds = stages.elapsed().as_secs_f64();
        let settings = self.settings_shown(library.settings());
        let rate = self.rate(outcome, seconds);
        let device = match outcome.tokens {
            0 => self.machine.verdict,
            _ => self.machine.verdict.with_measured_rate(rate.gflops, self.dtype, &self.roofs),
        };
        let stored = library.settings();
        let (hits, misses) = cache.hits_and_misses();
        Receipt {
            schema: SCHEMA.to_owned(),
            job: JOB.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: clock::hostname(),
            state: if outcome.interrupted { RunState::Interrupted } else { RunState::Finished },
            started: clock::rfc3339_utc(self.started),
            finished: clock::rfc3339_utc(SystemTime::now()),
            seconds,
            settings,
            device,
            model: Some(ModelUse {
                id: self.record.name,
                sha256: stored.model_sha256.clone(),
                dtype: stored.dtype.clone(),
                pooling: stored.pooling.clone(),
                dim: stored.dim,
                max_tokens: stored.max_tokens,
                loads: outcome.loads,
            }),
            items: outcome.items.clone(),
            work: Work { tokens: outcome.tokens, flops: outcome.flops, bytes_read: outcome.bytes_read },
            calls: None,
            sent: sent(self.target.address.as_ref(), outcome),
            passes: chunks::passes(outcome),
            rate,
            stages: stages.accounts(),
            quality: outcome.quality.clone(),
            truncated: outcome.truncated,
            cache: CacheUse { hits, misses, failures: cache.failures().count },
            memory: MemoryUse { peak_rss: memory::peak_rss_bytes(), device_peak: None },
            forecast: None,
            failures: outcome.failures.clone(),
            notes: outcome.notes.clone(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates are for people; exact to 2^53")]
    fn rate(&self, outcome: &Outcome, seconds: f64) -> Rate {
        // Of the time between the first batch and the last: a device that was starved meanwhile shows it.
        let compute_s = outcome.compute_s;
        let gflops = if compute_s > 0.0 { outcome.flops as f64 / compute_s / 1e9 } else { 0.0 };
        // The comparison with f32 is no part of the work it judges.
        let seconds = seconds - outcome.quality.as_ref().map_or(0.0, |quality| quality.seconds);
        Rate {
            items_per_s: outcome.chunks as f64 / seconds,
            unit: "chunk".to_owned(),
            tokens_per_s: outcome.tokens as f64 / seconds,
            gflops,
            roof_gflops: self.roofs.gflops.clone(),
            percent_of_roof: 100.0 * gflops / self.roofs.of(self.dtype),
        }
    }

    fn settings_shown(&self, library: &LibrarySettings) -> serde_json::Value {
        json!({
            "paths": self.args.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "store": self.target.to_string(),
            "manifest": self.target.address.as_ref().map(|_| self.target.store.display().to_string()),
            "collection": self.args.collection,
            "shard": self.args.run.shard.map(|shard| shard.to_string()),
            "prune": self.args.prune || self.args.prune_all,
            "prune_all": self.args.prune_all,
            "selection": select::shown(&self.args.select),
            "threads": self.compute.threads,
            "batch_tokens": self.compute.batch_tokens,
            "batch_tokens_by": self.compute.batch_by,
            "memory_bytes": self.memory_bytes,
            "limits": Limits::DEFAULT,
            "pdf_reader": self.readers.as_ref().map(Readers::pdf_identity),
            "library": library,
        })
    }
}
