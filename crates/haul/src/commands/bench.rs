//! `haul bench encoder`: speed beside the roof of this machine, and what the faster modes cost.

mod store;
mod windows;

use std::path::Path;
use std::time::Duration;

use haul_encoder::embedder::LoadOptions;
use haul_encoder::model_dir::ModelDir;
use haul_jobs::bench::{self, Mix, Parts, QUALITY_TEXTS, Report, Streaming};
use haul_jobs::models::{ModelRecord, Models};
use haul_machine::dtype::Dtype;
use haul_pipeline::batch::BatchLimits;
use haul_store::library::{Library, LibrarySettings};
use serde_json::json;

use crate::cli::bench::{BenchCommand, BenchEncoderArgs};
use crate::commands::{Machine, model_of};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Compute, Settings};
use crate::{Exit, signals_unix, summary};

/// Name and version of the JSON document.
const SCHEMA: &str = "haul.bench.encoder/1";

/// Runs the command.
pub(crate) fn run(command: &BenchCommand, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    match command {
        BenchCommand::Encoder(args) => encoder(args, settings, output),
        BenchCommand::Store(args) => store::run(args, settings, output),
        BenchCommand::Windows(args) => windows::run(args, settings, output),
    }
}

fn encoder(args: &BenchEncoderArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let machine = Machine::resolve(settings.device(&args.compute.device)?, settings, output)?;
    let compute = settings.compute(&args.compute, &machine.cpu)?;
    let library = args.store.as_deref().map(Chunks::of).transpose()?;
    let (model, record) = model(args, settings, library.as_ref())?;
    let texts = args.texts.as_deref().map(texts).transpose()?;
    let dtypes = dtypes(args, &machine, settings, output)?;
    let stop = signals_unix::stop_on_signals()?;
    let streaming = streaming(&model, library.as_ref(), compute);
    let chunks = library.map(|library| library.texts);
    let job = bench::Settings {
        dtypes,
        mix: texts.or_else(|| Some(Mix { name: "library".to_owned(), texts: chunks.clone()? })),
        quality_texts: chunks,
        row: Duration::from_secs_f64(args.seconds),
        streaming,
    };
    let options = LoadOptions::default();
    let load = |dtype| machine.load(&model, &options, dtype, compute.threads);
    let parts = Parts { model: &model, load: &load, isa: machine.cpu.isa, stop: &stop };
    let report = bench::run(&job, &parts)?;
    if report.interrupted {
        return Ok(Exit::Interrupted);
    }
    print(&report, &machine, &model, &record, compute, output)?;
    Ok(Exit::Ok)
}

fn print(
    report: &Report,
    machine: &Machine,
    model: &ModelDir,
    record: &ModelRecord,
    compute: Compute,
    output: &Output,
) -> Result<(), Failure> {
    for row in report.rows.iter().filter(|row| row.truncated.items > 0) {
        output.note(&format!("{}, {}: {}", row.dtype, row.mix, summary::truncated(&row.truncated)));
    }
    if !output.json() {
        return output.data(&summary::bench_encoder(report, machine, record, compute.threads));
    }
    output.json_document(&json!({
        "schema": SCHEMA,
        "machine": { "cpu": machine.cpu.name, "cores": machine.cpu.cores, "isa": machine.cpu.isa.name(),
                     "threads": compute.threads },
        "model": { "id": record.name, "sha256": record.sha256, "dim": model.dim(),
                   "max_tokens": model.max_tokens },
        "batch_tokens": compute.batch_tokens,
        "roofs": report.roofs,
        "rows": report.rows,
    }))
}

/// Chunks of a library, and what they were embedded with.
struct Chunks {
    settings: LibrarySettings,
    texts: Vec<String>,
}

impl Chunks {
    fn of(store: &Path) -> Result<Chunks, Failure> {
        let library = Library::open_read_only(store)?;
        let texts = library.sample_texts(QUALITY_TEXTS)?;
        if texts.is_empty() {
            return Err(Failure::new(format!("{} holds no chunks", store.display()))
                .hint("`haul ingest PATH...` fills it; without --store, texts are made up"));
        }
        Ok(Chunks { settings: library.settings().clone(), texts })
    }
}

fn model(
    args: &BenchEncoderArgs,
    settings: &Settings,
    library: Option<&Chunks>,
) -> Result<(ModelDir, ModelRecord), Failure> {
    match (settings.model(args.model.as_deref()), library) {
        (Some(name), _) => Ok(Models::open(&settings.models()).find(&name)?),
        (None, Some(library)) => model_of(&library.settings, settings),
        (None, None) => Err(Failure::new("no model is named").hint(
            "give --model NAME, or --store FILE.haul for a library's; `haul model list` shows what is here",
        )),
    }
}

/// One text a line.
fn texts(path: &Path) -> Result<Mix, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
    let texts: Vec<String> = text.lines().map(str::to_owned).collect();
    if texts.is_empty() {
        return Err(Failure::new(format!("{} holds no line", path.display()))
            .hint("a line is a text; without --texts, texts are made up"));
    }
    Ok(Mix { name: "texts".to_owned(), texts })
}

/// Each dtype asked for once, in the order asked.
fn dtypes(
    args: &BenchEncoderArgs,
    machine: &Machine,
    settings: &Settings,
    output: &Output,
) -> Result<Vec<Dtype>, Failure> {
    if args.dtype.is_empty() {
        return Ok(Dtype::ALL.to_vec());
    }
    let mut dtypes = Vec::new();
    for &request in &args.dtype {
        let dtype = machine.dtype(request, settings, output)?;
        if !dtypes.contains(&dtype) {
            dtypes.push(dtype);
        }
    }
    Ok(dtypes)
}

/// As `ingest` embeds a library's chunks, or as `embed` does lines.
fn streaming(model: &ModelDir, library: Option<&Chunks>, compute: Compute) -> Streaming {
    let (max_tokens, prompt) = match library {
        Some(Chunks { settings, .. }) => (settings.max_tokens, settings.document_prompt.as_str()),
        None => (model.max_tokens, model.prompts.default_prompt()),
    };
    Streaming {
        max_tokens: max_tokens.min(model.max_tokens),
        prompt: prompt.to_owned(),
        batch: BatchLimits { tokens: compute.batch_tokens, items: compute.batch_tokens },
        compute_threads: compute.threads.get(),
    }
}
