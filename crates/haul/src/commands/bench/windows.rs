//! `haul bench windows`: how often the windows that are read first hold values that are known of documents.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use haul_corpus::source;
use haul_encoder::embedder::LoadOptions;
use haul_encoder::model_dir::ModelDir;
use haul_jobs::extract::documents::Company;
use haul_jobs::extract::input;
use haul_jobs::extract::measure::{self, Known, Measured};
use haul_jobs::extract::retrieve::embed::{Parts, Streaming};
use haul_jobs::extract::schema::Schema;
use haul_jobs::models::Models;
use haul_machine::dtype::DtypeRequest;
use haul_pipeline::batch::BatchLimits;
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stages;
use serde::Deserialize;
use serde_json::json;

use crate::cli::bench::BenchWindowsArgs;
use crate::commands::{Machine, extract, schema};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::{Compute, Settings};
use crate::{Exit, readers, signals_unix, summary};

/// Name and version of the JSON document.
const SCHEMA: &str = "haul.bench.windows/1";

/// A line of what is known.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    file: String,
    values: BTreeMap<String, Vec<String>>,
}

/// Runs the command.
pub(crate) fn run(args: &BenchWindowsArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let schema = schema::usable(&args.schema)?;
    let expected = expected(&args.expected)?;
    let machine = Machine::resolve(settings.device(&args.compute.device)?, settings, output)?;
    let compute = settings.compute(&args.compute, &machine.cpu)?;
    let Some(name) = settings.model(args.model.as_deref()) else {
        return Err(
            Failure::new("no model is named").hint("give --model NAME; `haul model list` shows what is here")
        );
    };
    let (model, _) = Models::open(&settings.models()).find(&name)?;
    let dtype =
        machine.dtype(settings.dtype(&args.dtype)?.unwrap_or(DtypeRequest::Auto), settings, output)?;
    let stop = signals_unix::stop_on_signals()?;
    let embedder = machine.load(&model, &LoadOptions::default(), dtype, compute.threads)?;
    let known = known(args, &schema, expected, settings, output)?;
    let (stages, progress) = (Stages::start(), Progress::default());
    let parts =
        Parts { model: &model, embedder: &embedder, stages: &stages, progress: &progress, stop: &stop };
    let measured = measure::run(&schema, known, args.window_tokens, &streaming(&model, compute), &parts)?;
    print(&measured, dtype.name(), output)?;
    Ok(Exit::Ok)
}

fn expected(path: &Path) -> Result<Vec<Expected>, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
    let line = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| {
            Failure::new(format!("{}, line {}: {error}", path.display(), number + 1))
                .hint("a line is {\"file\": \"...\", \"values\": {\"FIELD\": [\"VALUE\"]}}")
        })
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
}

/// Every document is a company by itself. One that cannot be read ends the measurement: shares over the others would
/// be those of other documents.
fn known(
    args: &BenchWindowsArgs,
    schema: &Schema,
    expected: Vec<Expected>,
    settings: &Settings,
    output: &Output,
) -> Result<Vec<Known>, Failure> {
    let readers = readers::for_pdfs(&args.readers, settings, output)?;
    let mut desk = extract::desk(readers, std::env::temp_dir(), settings)?;
    let mut known = Vec::with_capacity(expected.len());
    for Expected { file, values } in expected {
        let listing = source::list(&[args.folder.join(&file)])?;
        let (sources, unread) = input::read(&mut desk, &listing.files);
        if let Some(unread) = unread.first() {
            return Err(Failure::new(format!("{}: {}", unread.file, unread.failure.why)));
        }
        let values = values
            .into_iter()
            .flat_map(|(field, values)| values.into_iter().map(move |value| (field.clone(), value)));
        let company = Company::new(&file, sources, schema.numbering.unit);
        known.push(Known { company, values: values.collect() });
    }
    Ok(known)
}

fn streaming(model: &ModelDir, compute: Compute) -> Streaming {
    Streaming {
        max_tokens: model.max_tokens,
        prompt: String::new(),
        batch: BatchLimits { tokens: compute.batch_tokens, items: compute.batch_tokens },
        compute_threads: compute.threads.get(),
    }
}

fn print(measured: &Measured, dtype: &str, output: &Output) -> Result<(), Failure> {
    if output.json() {
        return output.json_document(&json!({ "schema": SCHEMA, "dtype": dtype, "measured": measured }));
    }
    output.data(&summary::schema::measured(measured))
}
