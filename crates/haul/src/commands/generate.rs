//! `haul generate`: requests from stdin in OpenAI's batch format, responses in order into a file.

use std::fs::File;
use std::io::{BufWriter, Write, stdin};
use std::path::Path;
use std::time::{Instant, SystemTime};

use haul_generate::call::{Answer, CallError, Finish};
use haul_jobs::batch::{self, Request};
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::{Failure as Failed, Items, Note, Receipt};

use crate::cli::llm::GenerateArgs;
use crate::commands::receipt::{self, Job};
use crate::commands::{calls, generator, remote};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::{Exit, live, signals_unix, summary};

const JOB: &str = "generate";

/// Runs the command.
pub(crate) fn run(args: &GenerateArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let started = SystemTime::now();
    let clock = Instant::now();
    receipt::check(args.receipt.as_deref())?;
    let requests = batch::read(stdin().lock())?;
    let stop = signals_unix::stop_on_signals()?;
    let mut journal = Journal::open(&args.out.with_added_extension("journal"))?;
    let device = settings.device(&args.engine.device)?;
    let receipt_file = args.receipt.as_deref();
    let job = Job { name: JOB, started, device, out: None, receipt: receipt_file };
    let mut opened = generator::open(&args.engine, settings, &stop, output)?;
    let opened_s = clock.elapsed().as_secs_f64();
    job.begin()?;
    let mut work = || {
        let progress = Progress::default();
        let live = args.out.with_added_extension("progress.json");
        let (results, asked) = live::watch(JOB, &progress, &live, output, &stop, || {
            batch::run(&requests, &mut opened.generator, &mut journal, &progress, &stop)
        })?
        .result;
        write(&args.out, &requests, &results, &opened.model.id)?;
        Ok((results, asked))
    };
    let (results, asked) = job.ended(work(), output)?;
    remote::note_other_models(&opened, output);
    let seconds = clock.elapsed().as_secs_f64();
    let run = calls::Run {
        job: JOB,
        started,
        seconds,
        answering_s: seconds - opened_s,
        settings: calls::settings_shown(&args.engine, &opened.generator),
        asked,
        unit: "request",
    };
    let mut receipt = run.receipt(&opened, items(&results), failures(&requests, &results));
    receipt.notes = cut(&requests, &results);
    receipt.truncated.items = receipt.notes.len() as u64;
    report(&receipt, args, output)?;
    receipt::write_too(&receipt, receipt_file)?;
    if asked.interrupted {
        output.note(calls::INTERRUPTED);
    }
    Ok(calls::exit(&receipt))
}

fn report(receipt: &Receipt, args: &GenerateArgs, output: &Output) -> Result<(), Failure> {
    if output.json() {
        return output.json_document(receipt);
    }
    output.data(&summary::calls(receipt, &format!("responses: {}", args.out.display())))
}

/// Every request has its line, also where it has no answer; what a stop left unasked has none yet.
fn write(
    path: &Path,
    requests: &[Request],
    results: &[Option<Result<Answer, CallError>>],
    model: &str,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::io("write", path, &error);
    let temporary = path.with_added_extension("tmp");
    let mut file = BufWriter::new(File::create(&temporary).map_err(failed)?);
    for (request, result) in requests.iter().zip(results) {
        if let Some(result) = result {
            serde_json::to_writer(&mut file, &batch::response(request, result, model))
                .map_err(std::io::Error::from)
                .and_then(|()| file.write_all(b"\n"))
                .map_err(failed)?;
        }
    }
    file.flush().map_err(failed)?;
    std::fs::rename(&temporary, path).map_err(failed)
}

fn verdict(result: &Option<Result<Answer, CallError>>) -> &'static str {
    match result {
        Some(Ok(answer)) if answer.finish == Finish::Length => "cut",
        Some(Ok(_)) => "ok",
        Some(Err(_)) => "failed",
        None => "not_asked",
    }
}

fn items(results: &[Option<Result<Answer, CallError>>]) -> Items {
    let mut items = Items { total: results.len() as u64, ..Items::default() };
    for result in results {
        *items.by_verdict.entry(verdict(result).to_owned()).or_default() += 1;
    }
    // Who asks for so many tokens at most gets what was asked for, and is told that there was more.
    items.ok = ["ok", "cut"].iter().filter_map(|verdict| items.by_verdict.get(*verdict)).sum();
    items
}

/// Answers that reached their limit.
fn cut(requests: &[Request], results: &[Option<Result<Answer, CallError>>]) -> Vec<Note> {
    let cut = requests.iter().zip(results).filter(|(_, result)| verdict(result) == "cut");
    cut.map(|(request, _)| Note {
        item: request.custom_id.clone(),
        says: format!("the answer is cut at max_tokens, {}", request.call.max_tokens),
    })
    .collect()
}

fn failures(requests: &[Request], results: &[Option<Result<Answer, CallError>>]) -> Vec<Failed> {
    let failed = requests.iter().zip(results).filter_map(|(request, result)| match result {
        Some(Err(error)) => Some(Failed {
            item: request.custom_id.clone(),
            verdict: verdict(result).to_owned(),
            why: error.to_string(),
        }),
        _ => None,
    });
    failed.collect()
}
