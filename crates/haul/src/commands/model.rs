//! `haul model`: the models that are here.

use std::path::Path;

use haul_encoder::embedder::LoadOptions;
use haul_generate::discover::discover;
use haul_generate::gguf::Gguf;
use haul_generate::local::{self, Quantize};
use haul_jobs::golden::{self, Comparison, Parts};
use haul_jobs::models::{Download, HUB_URL, Hub, ModelRecord, Models, Placement};
use haul_machine::dtype::{Dtype, DtypeRequest};
use haul_pipeline::batch::BatchLimits;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stages;
use serde_json::json;

use crate::cli::{ComputeArgs, DeviceArgs, ModelCommand};
use crate::commands::{Machine, find};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::{Exit, signals_unix, summary};

/// Runs the command.
pub(crate) fn run(command: &ModelCommand, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let models = Models::open(&settings.models());
    match command {
        ModelCommand::Add { dir, name, link } => {
            let placement = if *link { Placement::Link } else { Placement::Copy };
            added(&models.add(dir, name.as_deref(), placement)?, output)
        }
        ModelCommand::Get { id, name, hub } => {
            let hub = Hub { url: settings.hub(hub.as_deref()).unwrap_or_else(|| HUB_URL.to_owned()) };
            let stop = signals_unix::stop_on_signals()?;
            let mut told = String::new();
            let mut progress = |download: Download<'_>| {
                if download.file != told {
                    told = download.file.to_owned();
                    output.note(&format!("{} ({})", download.file, summary::bytes(download.file_bytes)));
                }
            };
            let result = models.get(&hub, id, name.as_deref(), &|| stop.requested(), &mut progress);
            if stop.requested() && result.is_err() {
                output.note("stopped; the same command goes on from here");
                return Ok(Exit::Interrupted);
            }
            added(&result?, output)
        }
        ModelCommand::List => list(&models, settings, output),
        ModelCommand::Quantize { from, to, kind } => quantize(from, to, kind, settings, output),
        ModelCommand::Check { name, golden: None, .. } if is_gguf(name) => {
            check_gguf(Path::new(name), output)
        }
        ModelCommand::Check { name, golden, dtype } => {
            let golden = golden.as_deref().map(|file| (file, dtype.unwrap_or(EXACT)));
            check(&models, name, golden, settings, output)
        }
    }
}

fn is_gguf(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The header, the table of tensors, and whether all of it is inside the file.
fn check_gguf(path: &Path, output: &Output) -> Result<Exit, Failure> {
    let gguf = Gguf::read(path)?;
    if output.json() {
        output.json_document(&gguf)?;
    } else {
        output.data(&format!(
            "{}: sound; {} {}, {} parameters in {} layers, {}, trained on {} tokens",
            path.display(),
            gguf.architecture,
            gguf.quantisation,
            summary::thousands(gguf.parameters),
            gguf.layers,
            summary::bytes(gguf.tensor_bytes),
            summary::thousands(u64::from(gguf.context_train))
        ))?;
    }
    Ok(Exit::Ok)
}

/// Beside the new file until it is whole; a file of that name is never overwritten.
fn quantize(
    from: &Path,
    to: &Path,
    kind: &str,
    settings: &Settings,
    output: &Output,
) -> Result<Exit, Failure> {
    find::refuse_server(&from.to_string_lossy())?;
    let before = Gguf::read(from)?;
    if to.exists() {
        return Err(
            Failure::new(format!("{} is there already", to.display())).hint("name a file that is not")
        );
    }
    let (worker, backends) = settings.worker()?;
    let part = to.with_added_extension("part");
    let threads = u32::try_from(settings.cpu().cores).unwrap_or(u32::MAX);
    let asked = Quantize { from: from.to_owned(), to: part.clone(), kind: kind.to_owned(), threads };
    let bytes = local::quantize(&worker, &backends, asked)?;
    let after = Gguf::read(&part)?;
    std::fs::rename(&part, to).map_err(|error| Failure::io("write", to, &error))?;
    if output.json() {
        output.json_document(&json!({"from": before, "to": after, "bytes": bytes}))?;
    } else {
        let (old, new) = (summary::bytes(before.tensor_bytes), summary::bytes(after.tensor_bytes));
        let shown =
            format!("{}: {} ({old}) as {} ({new})", to.display(), before.quantisation, after.quantisation);
        output.data(&format!("{shown}\n`haul compare` says what that costs on your own text"))?;
    }
    Ok(Exit::Ok)
}

fn added(record: &ModelRecord, output: &Output) -> Result<Exit, Failure> {
    if output.json() {
        output.json_document(record)?;
    } else {
        output.data(&format!("{}  sha256 {}", record.name, record.sha256))?;
    }
    Ok(Exit::Ok)
}

/// Models of vectors by their records, and GGUF files by the places where they were found.
fn list(models: &Models, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let discovery = discover(&settings.surroundings());
    let mut listed = models.list()?;
    // A folder of GGUF files is no model that lost its record.
    let has_gguf =
        |name: &str| discovery.found.iter().any(|found| found.path.starts_with(settings.models().join(name)));
    listed.retain(|listed| listed.record.is_ok() || !has_gguf(&listed.name));
    let damaged = listed.iter().filter(|listed| listed.record.is_err()).count();
    if output.json() {
        let rows: Vec<_> = listed
            .iter()
            .map(|listed| match &listed.record {
                Ok(record) => json!(record),
                Err(error) => json!({ "name": listed.name, "damaged": error.to_string() }),
            })
            .collect();
        output.json_document(
            &json!({ "models": rows, "gguf": discovery.found, "not_read": discovery.not_read }),
        )?;
    } else {
        output.data(&format!(
            "{}{}",
            summary::models(&listed, &discovery),
            summary::gguf_files(&discovery)
        ))?;
    }
    Ok(if damaged == 0 { Exit::Ok } else { Exit::SomeNotOk })
}

/// What a golden is compared with unless another mode is asked for.
const EXACT: DtypeRequest = DtypeRequest::Named(Dtype::F32);

/// The files first; the vectors of a model whose files are not its own say nothing.
fn check(
    models: &Models,
    name: &str,
    golden: Option<(&Path, DtypeRequest)>,
    settings: &Settings,
    output: &Output,
) -> Result<Exit, Failure> {
    let report = models.check(name)?;
    let comparison = match golden {
        Some((file, dtype)) if report.is_ok() => {
            match compare(models, name, file, dtype, settings, output)? {
                Some(comparison) => Some(comparison),
                None => return Ok(Exit::Interrupted),
            }
        }
        _ => None,
    };
    if output.json() {
        let mut document = json!(report);
        if let Some(comparison) = &comparison {
            document["golden"] = json!(comparison);
        }
        output.json_document(&document)?;
    } else {
        let golden = comparison.as_ref().map_or_else(String::new, summary::golden);
        output.data(&format!("{}{golden}", summary::model_check(&report)))?;
    }
    let ok = report.is_ok() && comparison.is_none_or(|comparison| comparison.is_ok());
    Ok(if ok { Exit::Ok } else { Exit::SomeNotOk })
}

/// `None` if it was stopped.
fn compare(
    models: &Models,
    name: &str,
    file: &Path,
    dtype: DtypeRequest,
    settings: &Settings,
    output: &Output,
) -> Result<Option<Comparison>, Failure> {
    let (model, _) = models.find(name)?;
    let golden = golden::read(file, model.dim())?;
    let machine = Machine::resolve(settings.device(&DeviceArgs::default())?, settings, output)?;
    let compute = settings.compute(&ComputeArgs::default(), &machine.cpu)?;
    let dtype = machine.dtype(dtype, settings, output)?;
    let stop = signals_unix::stop_on_signals()?;
    let embedder = machine.load(&model, &LoadOptions::default(), dtype, compute.threads)?;
    let (stages, progress) = (Stages::start(), Progress::default());
    let job = golden::Settings {
        max_tokens: model.max_tokens,
        prompt: String::new(),
        batch: BatchLimits { tokens: compute.batch_tokens, items: compute.batch_tokens },
        compute_threads: compute.threads.get(),
    };
    let parts =
        Parts { model: &model, embedder: &embedder, stages: &stages, progress: &progress, stop: &stop };
    Ok(golden::compare(&job, &parts, dtype, &golden)?)
}
