//! `haul compare`: files of one model beside each other, with a rule that says which to take.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use haul_generate::call::Totals;
use haul_jobs::compare::cases::{Case, CaseSet};
use haul_jobs::compare::{self, Parts, Report, Subject, bench_format};
use haul_machine::clock;
use haul_machine::verdict::{DeviceRequest, Placement};
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::{Calls, Items, Note, Receipt, RunState};
use serde_json::{Value, json};

use crate::cli::llm::CompareArgs;
use crate::commands::find;
use crate::commands::gguf::{GgufFile, Opener, note_others, read_gb_per_s};
use crate::commands::receipt::{self, Job, Measuring, nothing_measured};
use crate::failure::Failure;
use crate::output::Output;
use crate::report::sheet;
use crate::settings::Settings;
use crate::{Exit, live, report, signals_unix};

const JOB: &str = "compare";
/// Name and version of the report.
const REPORT_SCHEMA: &str = "haul.compare/1";
/// Cells of the context, without --ctx.
const CONTEXT_TOKENS: u32 = 4096;
/// Sequences that are answered together.
const SEQUENCES: u32 = 8;
/// A longer text is no text to compare on: a book has a megabyte.
const TEXT_BYTES_MAX: u64 = 64 << 20;

/// Runs the command.
pub(crate) fn run(args: &CompareArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let started = SystemTime::now();
    receipt::check(args.receipt.as_deref())?;
    let job = compare::Settings {
        text: text(&args.text)?,
        cases: args.cases.as_deref().map_or_else(|| Ok(CaseSet::built_in()), cases)?,
        repetitions: args.repetitions,
        device: settings.device(&args.llm.device)?,
    };
    job.cases.check().map_err(compare::CompareError::from)?;
    let opener = Opener::new(&args.llm, settings)?;
    let subjects = subjects(args, settings)?;
    std::fs::create_dir_all(&args.out).map_err(|error| Failure::io("create", &args.out, &error))?;
    let stop = signals_unix::stop_on_signals()?;
    let n_ctx = args.llm.ctx.unwrap_or(CONTEXT_TOKENS);
    let cpu = settings.cpu();
    let others_busy_cores = note_others(&cpu, output);
    let open = |subject: &Subject| {
        opener.open(&subject.name, &subject.identity, opener.load(&subject.path, n_ctx, SEQUENCES))
    };
    let mut journal = Journal::open(&args.out.join("journal.sqlite"))?;
    let (device, receipt_file) = (job.device, args.receipt.as_deref());
    let run = Job { name: JOB, started, device, out: Some(&args.out), receipt: receipt_file };
    run.begin()?;
    let progress = Progress::default();
    let mut parts = Parts {
        open: &open,
        read_gb_per_s: &|| read_gb_per_s(settings),
        cpu: &cpu.name,
        say: &|line| output.note(line),
        journal: &mut journal,
        progress: &progress,
        stop: &stop,
    };
    let live = args.out.join("progress.json");
    let found =
        live::keep(JOB, &progress, &live, output, &stop, || compare::run(&job, &subjects, &mut parts));
    let found = run.ended(found.map_err(Failure::from), output)?;
    let made = clock::rfc3339_utc(started);
    let mut shown = shown(args, &job, n_ctx, opener.threads);
    shown["others_busy_cores"] = json!(others_busy_cores);
    let receipt = receipt(&found, started, shown.clone(), &subjects, job.device);
    run.ended(write(args, &found, &made, &shown), output)?;
    receipt::write(&receipt, &args.out, receipt_file)?;
    say(&found, args, &shown, &made, output)?;
    Ok(exit(&found))
}

fn text(path: &Path) -> Result<String, Failure> {
    let failed = |error| Failure::io("read", path, &error);
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > TEXT_BYTES_MAX {
        return Err(Failure::new(format!(
            "{} has {bytes} bytes; a text to compare on has at most {TEXT_BYTES_MAX}",
            path.display()
        ))
        .hint("a chapter is enough"));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// TOML, or a case a line; a line of `{"system": ".."}` alone is the turn before all cases.
fn cases(path: &Path) -> Result<CaseSet, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
    let hint = "a case has name, category, input and expected, must or must_not";
    if path.extension().is_none_or(|extension| extension != "jsonl") {
        return toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Failure::new(format!("{}:{line}: {}", path.display(), error.message())).hint(hint)
        });
    }
    let mut set = CaseSet { cases: vec![], ..CaseSet::built_in() };
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let failed = |error: serde_json::Error| {
            Failure::new(format!("{}:{number}: {error}", path.display())).hint(hint)
        };
        let value: Value = serde_json::from_str(line).map_err(failed)?;
        let fields = value.as_object().map_or(0, serde_json::Map::len);
        match value.get("system").and_then(Value::as_str).filter(|_| fields == 1) {
            Some(system) => set.system = system.to_owned(),
            None => set.cases.push(serde_json::from_value::<Case>(value).map_err(failed)?),
        }
    }
    Ok(set)
}

/// The files, each under a name of its own, the base first.
fn subjects(args: &CompareArgs, settings: &Settings) -> Result<Vec<Subject>, Failure> {
    for path in args.files.iter().chain(&args.base) {
        find::refuse_server(&path.to_string_lossy())?;
    }
    let mut files: Vec<GgufFile> =
        args.files.iter().map(|path| GgufFile::read(path, settings)).collect::<Result<_, _>>()?;
    let at = match &args.base {
        None => (0..files.len()).rev().max_by_key(|at| files[*at].bytes).unwrap_or(0),
        Some(base) => args.files.iter().position(|path| path == base).map_or_else(
            || {
                files.push(GgufFile::read(base, settings)?);
                Ok::<_, Failure>(files.len() - 1)
            },
            Ok,
        )?,
    };
    let base = files.remove(at);
    files.insert(0, base);
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let named = files.into_iter().map(|file| {
        let count = seen.entry(file.name()).or_default();
        *count += 1;
        let name = if *count > 1 { format!("{} ({count})", file.name()) } else { file.name() };
        Subject { name, path: file.path, bytes: file.bytes, identity: file.sha256 }
    });
    Ok(named.collect())
}

fn shown(args: &CompareArgs, job: &compare::Settings, n_ctx: u32, threads: u32) -> Value {
    json!({
        "files": args.files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "text": args.text.display().to_string(),
        "base": args.base.as_ref().map(|path| path.display().to_string()),
        "cases": args.cases.as_ref().map_or_else(|| "built in".to_owned(), |path| path.display().to_string()),
        "system": job.cases.system,
        "repetitions": job.repetitions,
        "device": job.device.to_string(),
        "threads": threads,
        "ctx": n_ctx,
        "sequences": SEQUENCES,
    })
}

fn document(found: &Report, shown: &Value, made: &str) -> Result<Value, Failure> {
    let report = serde_json::to_value(found)
        .map_err(|error| Failure::new(format!("cannot encode the report as JSON: {error}")))?;
    let mut document = json!({ "schema": REPORT_SCHEMA, "made": made, "settings": shown });
    if let (Some(all), Value::Object(report)) = (document.as_object_mut(), report) {
        all.extend(report);
    }
    Ok(document)
}

fn write(args: &CompareArgs, found: &Report, made: &str, shown: &Value) -> Result<(), Failure> {
    sheet::write(&args.out, &document(found, shown, made)?, &report::compare::sheet(found, made))?;
    let rows = serde_json::to_string_pretty(&bench_format::json(&found.files))
        .map_err(|error| Failure::new(format!("cannot encode the speeds as JSON: {error}")))?;
    sheet::write_file(&args.out.join("llama-bench.json"), &rows)?;
    sheet::write_file(&args.out.join("llama-bench.md"), &bench_format::markdown(&found.files))
}

fn receipt(
    found: &Report,
    started: SystemTime,
    settings: Value,
    subjects: &[Subject],
    asked: DeviceRequest,
) -> Receipt {
    let of_base = found.files.first().map(|base| base.placement.clone());
    let mut device = of_base.unwrap_or_else(|| nothing_measured(asked));
    let places = found.against_base.iter().filter_map(|against| {
        Some(Note { item: against.name.clone(), says: against.not_comparable.clone()? })
    });
    let mut notes: Vec<Note> = places.collect();
    if !notes.is_empty() {
        device.verdict = Placement::Unknown;
    }
    notes.extend(found.files.iter().filter_map(|file| {
        Some(Note { item: file.subject.name.clone(), says: file.no_divergence.clone()? })
    }));
    let mut totals = Totals::default();
    found.files.iter().for_each(|file| totals.merge(&file.totals));
    let calls = Calls {
        n: totals.calls,
        prefill_tokens: totals.prefill_tokens,
        decode_tokens: totals.decode_tokens,
        reused_prefix_tokens: totals.reused_prefix_tokens,
        journalled: found.files.iter().map(|file| file.journalled).sum(),
        retries: totals.retries,
        ..Calls::default()
    };
    let (total, ok) = (subjects.len() as u64, found.files.len() as u64);
    let by_verdict = [("ok", ok), ("not_measured", total - ok)];
    let on_devices = |file: &compare::FileReport| {
        file.memory.devices.iter().map(|device| device.model_bytes + device.context_bytes).sum::<u64>()
    };
    let measuring = Measuring {
        job: JOB,
        started,
        settings,
        device,
        unit: "file",
        items: Items {
            total,
            ok,
            by_verdict: by_verdict
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            ..Items::default()
        },
        calls: Some(calls),
        device_peak: found.files.iter().map(on_devices).max().filter(|bytes| *bytes > 0),
        failures: vec![],
        notes,
        state: if found.interrupted { RunState::Interrupted } else { RunState::Finished },
    };
    measuring.receipt()
}

fn say(
    found: &Report,
    args: &CompareArgs,
    shown: &Value,
    made: &str,
    output: &Output,
) -> Result<(), Failure> {
    if output.json() {
        return output.json_document(&document(found, shown, made)?);
    }
    let recommendation = &found.recommendation;
    let mut text = if found.interrupted {
        "stopped; the same command asks no case again that was answered\n".to_owned()
    } else {
        format!("take {}: {}\n", recommendation.take, recommendation.why)
    };
    for line in &recommendation.files {
        text += &format!("  {line}\n");
    }
    text += &format!("{}\n", args.out.join("report.html").display());
    output.data(&text)
}

/// A card that was asked for by name and cannot be shown to have done the work is no result.
fn exit(found: &Report) -> Exit {
    if found.interrupted {
        return Exit::Interrupted;
    }
    let is_proven = |file: &compare::FileReport| {
        let asked: Result<DeviceRequest, _> = file.placement.requested.parse();
        let any = matches!(asked, Ok(DeviceRequest::Auto | DeviceRequest::Cpu));
        any || file.placement.verdict == Placement::OnDevice
    };
    if !found.files.iter().all(is_proven) {
        return Exit::CouldNotRun;
    }
    let marked = found.against_base.iter().any(|against| against.not_comparable.is_some())
        || found.files.iter().any(|file| file.no_divergence.is_some());
    if marked { Exit::SomeNotOk } else { Exit::Ok }
}
