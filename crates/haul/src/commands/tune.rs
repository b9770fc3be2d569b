//! `haul tune`: the settings with which a model is fastest here, kept as its profile.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use haul_encoder::embedder::LoadOptions;
use haul_jobs::models::Models;
use haul_jobs::tune::encoder::{self, Streaming};
use haul_jobs::tune::profile::{device_key, save};
use haul_jobs::tune::{self, Parts, Profile, Report, TunedLoad};
use haul_machine::dtype::{Dtype, DtypeRequest};
use haul_machine::verdict::{DeviceRequest, Placement, Verdict};
use haul_machine::{clock, memory};
use haul_pipeline::batch::BatchLimits;
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::{Failure as NotOk, Items, Note, Receipt, RunState};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::ComputeArgs;
use crate::cli::llm::TuneArgs;
use crate::commands::generator::usual_parallel;
use crate::commands::gguf::{GgufFile, Opener, note_others, read_gb_per_s};
use crate::commands::receipt::{self, Job, Measuring, nothing_measured};
use crate::commands::{Machine, find};
use crate::failure::Failure;
use crate::output::Output;
use crate::report::sheet;
use crate::settings::Settings;
use crate::{Exit, live, report, signals_unix};

const JOB: &str = "tune";
/// Name and version of the report.
const REPORT_SCHEMA: &str = "haul.tune/1";
/// Cells of the context, without --ctx.
const CONTEXT_TOKENS: u32 = 2048;

/// Runs the command.
pub(crate) fn run(args: &TuneArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    find::refuse_server(&args.model)?;
    receipt::check(args.receipt.as_deref())?;
    let is_gguf = Path::new(&args.model).extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    if is_gguf { llm(args, settings, output) } else { embedder(args, settings, output) }
}

fn llm(args: &TuneArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let started = SystemTime::now();
    let opener = Opener::new(&args.llm, settings)?;
    let file = GgufFile::read(&find::path(&args.model, settings, output)?, settings)?;
    std::fs::create_dir_all(&args.out).map_err(|error| Failure::io("create", &args.out, &error))?;
    let stop = signals_unix::stop_on_signals()?;
    // The control is what `generate` and `correct` do without a profile.
    let n_ctx = args.llm.ctx.unwrap_or(CONTEXT_TOKENS);
    let load = opener.load(&file.path, n_ctx, usual_parallel(opener.device));
    let job = tune::Settings {
        control: TunedLoad::of(&load),
        threads_max: opener.threads,
        budget: args.budget,
        repetitions: args.repetitions,
        device: opener.device,
        room_bytes: room_bytes(file.bytes, opener.device)?,
        head_sizes: Some(file.gguf.head_size),
    };
    let name = file.name();
    let others_busy_cores = note_others(&settings.cpu(), output);
    let open = |tuned: &TunedLoad| {
        let mut load = load.clone();
        tuned.apply(&mut load);
        opener.open(&name, &file.sha256, load)
    };
    let progress = Progress::default();
    let parts = Parts {
        open: &open,
        read_gb_per_s: read_gb_per_s(settings),
        say: &|line| output.note(line),
        progress: &progress,
        stop: &stop,
    };
    let live = args.out.join("progress.json");
    let run = run_of(args, started, opener.device);
    run.begin()?;
    let found = live::keep(JOB, &progress, &live, output, &stop, || tune::run(&job, &parts));
    let found = run.ended(found.map_err(Failure::from), output)?;
    let is_swept = found.is_swept();
    let kept = match found.interrupted || !is_swept {
        true => None,
        false => Some(run.ended(keep(&found, &file, &opener, settings), output)?),
    };
    let made = clock::rfc3339_utc(started);
    let page = report::tune::sheet(&found, &name, kept.as_deref(), &made);
    let shown = json!({ "model": args.model, "sha256": file.sha256, "budget_s": args.budget.as_secs_f64(),
                        "repetitions": args.repetitions, "device": opener.device.to_string(), "control": job.control,
                        "others_busy_cores": others_busy_cores });
    let document = document(&found, &shown, &made, kept.as_deref())?;
    run.ended(sheet::write(&args.out, &document, &page), output)?;
    receipt::write(&receipt(&found, started, shown, opener.device), &args.out, args.receipt.as_deref())?;
    let line = match &found.withdrawn {
        _ if !is_swept && !found.interrupted => {
            "nothing was measured beside the defaults, and nothing is kept; --budget gives it more time"
                .to_owned()
        }
        None => format!("{:.2}x the default with {}", found.gain, found.best.line()),
        Some(_) if found.interrupted => "stopped; nothing is kept".to_owned(),
        Some(withdrawn) => format!(
            "the defaults are kept: {}\n{} {}",
            found.best.line(),
            withdrawn.load.line(),
            report::tune::beside_the_defaults(withdrawn.gain)
        ),
    };
    say(&line, &args.out, &document, output)?;
    Ok(exit(&found, opener.device))
}

/// What is free beside the model; on a card that is the engine's to know.
fn room_bytes(model_bytes: u64, device: DeviceRequest) -> Result<Option<u64>, Failure> {
    if !matches!(device, DeviceRequest::Auto | DeviceRequest::Cpu) {
        return Ok(None);
    }
    let memory = memory::probe()?;
    let free = memory.limit_bytes.map_or(memory.available_bytes, |limit| limit.min(memory.available_bytes));
    Ok(Some(free.saturating_sub(model_bytes)))
}

/// Keeps the best for the device that was asked for; gives the file's path.
fn keep(found: &Report, file: &GgufFile, opener: &Opener, settings: &Settings) -> Result<String, Failure> {
    let key = device_key(opener.device, &settings.cpu().name);
    let profile = Profile::new(&file.sha256, &file.name(), &key, found.gain, found.best.clone());
    Ok(save(&settings.profiles(), &profile)?.display().to_string())
}

fn embedder(args: &TuneArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let started = SystemTime::now();
    let request = settings.device(&args.llm.device)?;
    let machine = Machine::resolve(request, settings, output)?;
    let compute = settings.compute(
        &ComputeArgs { device: args.llm.device.clone(), threads: args.llm.threads, batch_tokens: None },
        &machine.cpu,
    )?;
    let (model, record) = Models::open(&settings.models()).find(&args.model)?;
    let asked = settings.dtype(&args.dtype)?.unwrap_or(DtypeRequest::Auto);
    let dtype = machine.dtype(asked, settings, output)?;
    std::fs::create_dir_all(&args.out).map_err(|error| Failure::io("create", &args.out, &error))?;
    let stop = signals_unix::stop_on_signals()?;
    let loaded = machine.load(&model, &LoadOptions::default(), dtype, compute.threads)?;
    let streaming = Streaming {
        max_tokens: model.max_tokens,
        prompt: model.prompts.default_prompt().to_owned(),
        batch: BatchLimits { tokens: compute.batch_tokens, items: compute.batch_tokens },
        compute_threads: compute.threads.get(),
    };
    let job = encoder::Settings { streaming, budget: args.budget };
    let progress = Progress::default();
    let parts = encoder::Parts { model: &model, embedder: &loaded, progress: &progress, stop: &stop };
    let live = args.out.join("progress.json");
    let run = run_of(args, started, request);
    run.begin()?;
    let found = live::keep(JOB, &progress, &live, output, &stop, || encoder::run(&job, &parts));
    let found = run.ended(found.map_err(Failure::from), output)?;
    let kept = if stop.requested() {
        None
    } else {
        let key = device_key(request, &machine.cpu.name);
        Some(encoder::keep(
            &settings.profiles(),
            (record.sha256.as_str(), record.name.as_str()),
            (key.as_str(), dtype),
            &found,
        )?)
    };
    let kept = kept.map(|path| path.display().to_string());
    let made = clock::rfc3339_utc(started);
    let page = report::tune::encoder_sheet(&found, &record.name, kept.as_deref(), &made);
    let shown = encoder_shown(args, &record.sha256, dtype, compute.threads.get());
    let document = document(&found, &shown, &made, kept.as_deref())?;
    let rows = found.rows.len() as u64;
    let state = if stop.requested() { RunState::Interrupted } else { RunState::Finished };
    let receipt = measuring(started, shown, machine.verdict, (rows, vec![]), vec![], state).receipt();
    run.ended(sheet::write(&args.out, &document, &page), output)?;
    receipt::write(&receipt, &args.out, args.receipt.as_deref())?;
    let line = match &found.withdrawn {
        None => format!("{:.2}x the default with {} tokens in a batch", found.gain, found.best.batch_tokens),
        Some(_) if stop.requested() => "stopped; nothing is kept".to_owned(),
        Some(withdrawn) => format!(
            "the default is kept, {} tokens in a batch\n{} {}",
            found.best.batch_tokens,
            withdrawn.batch_tokens,
            report::tune::beside_the_defaults(withdrawn.gain)
        ),
    };
    say(&line, &args.out, &document, output)?;
    Ok(if stop.requested() { Exit::Interrupted } else { Exit::Ok })
}

fn run_of(args: &TuneArgs, started: SystemTime, device: DeviceRequest) -> Job<'_> {
    Job { name: JOB, started, device, out: Some(&args.out), receipt: args.receipt.as_deref() }
}

fn encoder_shown(args: &TuneArgs, sha256: &str, dtype: Dtype, threads: usize) -> Value {
    json!({ "model": args.model, "sha256": sha256, "dtype": dtype.name(), "threads": threads,
            "budget_s": args.budget.as_secs_f64() })
}

fn document(
    found: &impl Serialize,
    shown: &Value,
    made: &str,
    profile: Option<&str>,
) -> Result<Value, Failure> {
    let report = serde_json::to_value(found)
        .map_err(|error| Failure::new(format!("cannot encode the report as JSON: {error}")))?;
    let mut document =
        json!({ "schema": REPORT_SCHEMA, "made": made, "settings": shown, "profile": profile });
    if let (Some(all), Value::Object(report)) = (document.as_object_mut(), report) {
        all.extend(report);
    }
    Ok(document)
}

fn receipt(found: &Report, started: SystemTime, settings: Value, asked: DeviceRequest) -> Receipt {
    let failures = found.rows.iter().filter_map(|row| {
        let why = row.error.clone()?;
        Some(NotOk { item: format!("{}: {}", row.axis, row.load.line()), verdict: "failed".to_owned(), why })
    });
    let failures: Vec<NotOk> = failures.collect();
    let notes = found.rows.iter().filter_map(|row| {
        Some(Note { item: format!("{}: {}", row.axis, row.load.line()), says: row.falls_back.clone()? })
    });
    let notes = notes.collect();
    let device = found.placement.clone().unwrap_or_else(|| nothing_measured(asked));
    let state = if found.interrupted { RunState::Interrupted } else { RunState::Finished };
    let rows = found.rows.len() as u64;
    measuring(started, settings, device, (rows, failures), notes, state).receipt()
}

fn measuring(
    started: SystemTime,
    settings: Value,
    device: Verdict,
    (rows, failures): (u64, Vec<NotOk>),
    notes: Vec<Note>,
    state: RunState,
) -> Measuring {
    let failed = failures.len() as u64;
    let verdicts = [("ok", rows - failed), ("failed", failed)];
    let by_verdict: BTreeMap<String, u64> =
        verdicts.iter().filter(|(_, n)| *n > 0).map(|(name, n)| ((*name).to_owned(), *n)).collect();
    Measuring {
        job: JOB,
        started,
        settings,
        device,
        unit: "row",
        items: Items { total: rows, ok: rows - failed, by_verdict, ..Items::default() },
        calls: None,
        device_peak: None,
        failures,
        notes,
        state,
    }
}

fn say(line: &str, out: &Path, document: &Value, output: &Output) -> Result<(), Failure> {
    if output.json() {
        return output.json_document(document);
    }
    output.data(&format!("{line}\n{}\n", out.join("report.html").display()))
}

/// Settings that fail are rows, and no failure of the sweep; a card that was asked for and did not do the work is.
fn exit(found: &Report, asked: DeviceRequest) -> Exit {
    let any = matches!(asked, DeviceRequest::Auto | DeviceRequest::Cpu);
    match found.placement_verdict() {
        _ if found.interrupted => Exit::Interrupted,
        Some(verdict) if !any && verdict != Placement::OnDevice => Exit::CouldNotRun,
        _ => Exit::Ok,
    }
}
