//! `haul correct`: a manuscript, corrected by a language model, with every change beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use haul_corpus::manuscript::{Manuscript, ManuscriptFormat, RefusedEdit};
use haul_jobs::correct::finish::{Finish, Spelling};
use haul_jobs::correct::profile::{Profile, ProfileError};
use haul_jobs::correct::spelling::Speller;
use haul_jobs::correct::{self, Corrected, Kept, OnFailure, Outcome, Parts, Status, diff};
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::{Failure as Failed, Items, Receipt};
use serde_json::{Value, json};

use crate::cli::llm::{CorrectArgs, CorrectMode};
use crate::commands::receipt::{self, Job};
use crate::commands::{calls, generator, remote};
use crate::failure::Failure;
use crate::output::Output;
use crate::settings::Settings;
use crate::{Exit, live, report, signals_unix, summary};

const JOB: &str = "correct";
/// The verdict on a part of a book that is no text.
const UNREADABLE: &str = "unreadable";
/// Where systems keep Hunspell's dictionaries.
const DICTIONARIES: [&str; 2] = ["/usr/share/hunspell", "/usr/share/myspell/dicts"];
/// A longer manuscript is split by its author.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Runs the command.
pub(crate) fn run(args: &CorrectArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let (started, clock) = (SystemTime::now(), Instant::now());
    receipt::check(args.receipt.as_deref())?;
    let manuscript = read(&args.file)?;
    let expected = args.expect.as_deref().map(whole).transpose()?;
    let target = target(args)?;
    let finish = finish(args)?;
    let stop = signals_unix::stop_on_signals()?;
    fs::create_dir_all(&args.out).map_err(|error| Failure::io("create", &args.out, &error))?;
    let mut journal = Journal::open(&args.out.join("journal.sqlite"))?;
    let device = settings.device(&args.engine.device)?;
    let job = Job { name: JOB, started, device, out: Some(&args.out), receipt: args.receipt.as_deref() };
    let mut opened = generator::open(&args.engine, settings, &stop, output)?;
    let profile = profile(args, &opened.model.id, output)?;
    let opened_s = clock.elapsed().as_secs_f64();
    job.begin()?;
    let progress = Progress::default();
    let on_failure = if args.fail_fast { OnFailure::End } else { OnFailure::Keep };
    let watched = live::watch(JOB, &progress, &args.out.join("progress.json"), output, &stop, || {
        let mut parts = Parts {
            generator: &mut opened.generator,
            journal: &mut journal,
            progress: &progress,
            stop: &stop,
        };
        correct::run(manuscript.passages(), &profile, &finish, on_failure, &mut parts)
    });
    let mut outcome = job.ended(watched.map_err(Failure::from), output)?.result;
    remote::note_other_models(&opened, output);
    let answering_s = clock.elapsed().as_secs_f64() - opened_s;
    let run = calls::Run {
        job: JOB,
        started,
        seconds: 0.0,
        answering_s,
        settings: json!({"engine": calls::settings_shown(&args.engine, &opened.generator), "profile": profile.name, "mode": format!("{:?}", args.mode).to_lowercase(), "tts": args.tts}),
        asked: outcome.asked,
        unit: "passage",
    };
    if outcome.asked.interrupted {
        output.note(calls::INTERRUPTED);
        let run = calls::Run { seconds: clock.elapsed().as_secs_f64(), ..run };
        let receipt = run.receipt(&opened, items(&manuscript, &outcome), failures(&manuscript, &outcome));
        receipt::write(&receipt, &args.out, args.receipt.as_deref())?;
        return Ok(Exit::Interrupted);
    }
    let written = job.ended(write(&manuscript, &mut outcome, &target), output)?;
    let run = calls::Run { seconds: clock.elapsed().as_secs_f64(), ..run };
    let receipt = run.receipt(&opened, items(&manuscript, &outcome), failures(&manuscript, &outcome));
    job.ended(write_reports(args, &outcome, &receipt), output)?;
    receipt::write(&receipt, &args.out, args.receipt.as_deref())?;
    let difference = expected.and_then(|expected| first_difference(&expected, &written));
    say(args, &receipt, &target, difference.as_deref(), output)?;
    Ok(if difference.is_some() { Exit::SomeNotOk } else { calls::exit(&receipt) })
}

fn whole(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: std::io::Error| Failure::io("read", path, &error);
    let bytes = fs::metadata(path).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(Failure::new(format!("{}: {bytes} bytes, of at most {FILE_BYTES_MAX}", path.display())));
    }
    fs::read(path).map_err(failed)
}

fn read(path: &Path) -> Result<Manuscript, Failure> {
    let format = ManuscriptFormat::from_path(path).ok_or_else(|| {
        Failure::new(format!("{}: no manuscript by its name", path.display()))
            .hint("manuscripts are .md, .txt, .html, .epub and .docx files")
    })?;
    Ok(Manuscript::read(whole(path)?, format)?)
}

/// `NAME_corrected.EXT` in the folder for results.
fn target(args: &CorrectArgs) -> Result<PathBuf, Failure> {
    let part = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    match (part(args.file.file_stem()), part(args.file.extension())) {
        (Some(stem), Some(extension)) => Ok(args.out.join(format!("{stem}_corrected.{extension}"))),
        _ => Err(Failure::new(format!("{}: no name of a file", args.file.display()))),
    }
}

/// What is done besides the model; the dictionary is opened before anything is asked.
fn finish(args: &CorrectArgs) -> Result<Finish, Failure> {
    let place = match args.mode {
        CorrectMode::Replace => return Ok(Finish { spelling: None, speech: args.tts }),
        CorrectMode::Hybrid => Spelling::Behind,
        CorrectMode::Supplement => Spelling::Before,
    };
    let folders = DICTIONARIES.map(PathBuf::from);
    let speller = Speller::open(&folders, &args.dictionary)?;
    Ok(Finish { spelling: Some((speller, place)), speech: args.tts })
}

fn profile(args: &CorrectArgs, model: &str, output: &Output) -> Result<Profile, Failure> {
    let file = match &args.profiles {
        Some(path) => Some(fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?),
        None => None,
    };
    let profile =
        Profile::choose(args.profile.as_deref(), file.as_deref(), model).map_err(|error| {
            match (&error, &args.profiles) {
                (ProfileError::Toml(error), Some(path)) => {
                    Failure::new(format!("{}: no profiles: {}", path.display(), error.message()))
                        .hint("profiles are TOML, a [[profile]] for each")
                }
                _ => error.into(),
            }
        })?;
    if args.profile.is_none() {
        output.note(&format!("profile: {} (by the model's name; --profile takes another)", profile.name));
    }
    Ok(profile)
}

/// Writes the corrected manuscript. What cannot be written into it keeps its text, and is listed.
fn write(manuscript: &Manuscript, outcome: &mut Outcome, target: &Path) -> Result<Vec<u8>, Failure> {
    let edits: Vec<Option<String>> = outcome.passages.iter().map(|passage| passage.after.clone()).collect();
    let written = manuscript.write(&edits)?;
    for (number, refused) in &written.refused {
        keep(&mut outcome.passages[*number], refused);
    }
    let temporary = target.with_added_extension("tmp");
    fs::write(&temporary, &written.bytes)
        .and_then(|()| fs::rename(&temporary, target))
        .map_err(|error| Failure::io("write", target, &error))?;
    Ok(written.bytes)
}

fn keep(passage: &mut Corrected, refused: &RefusedEdit) {
    let text = passage.after.take().unwrap_or_else(|| passage.before.clone());
    passage.status =
        Status::Kept { kept: vec![Kept { text, verdict: "not_written", why: refused.to_string() }] };
}

fn kept(passage: &Corrected) -> &[Kept] {
    match &passage.status {
        Status::Kept { kept } | Status::PartlyCorrected { kept } => kept,
        _ => &[],
    }
}

fn name(passage: &Corrected) -> &'static str {
    match passage.status {
        Status::Unchanged => "unchanged",
        Status::Corrected => "corrected",
        Status::PartlyCorrected { .. } => "partly_corrected",
        Status::Kept { .. } => "kept",
        Status::Skipped => "skipped",
        Status::NotAsked => "not_asked",
    }
}

/// A passage that keeps words because the answer was not to be believed is not ok: somebody has to look at it. Nor is one
/// that a stop came before, nor a chapter that has no passages because it could not be read.
fn items(manuscript: &Manuscript, outcome: &Outcome) -> Items {
    let left_alone = manuscript.left_alone().len() as u64;
    let mut items = Items { total: outcome.passages.len() as u64 + left_alone, ..Items::default() };
    if left_alone > 0 {
        items.by_verdict.insert(UNREADABLE.to_owned(), left_alone);
    }
    for passage in &outcome.passages {
        *items.by_verdict.entry(name(passage).to_owned()).or_default() += 1;
        items.ok += u64::from(kept(passage).is_empty() && passage.status != Status::NotAsked);
    }
    items
}

fn failures(manuscript: &Manuscript, outcome: &Outcome) -> Vec<Failed> {
    let unreadable = manuscript.left_alone().iter().map(|left| Failed {
        item: left.part.clone(),
        verdict: UNREADABLE.to_owned(),
        why: format!("it keeps its bytes: {}", left.why),
    });
    let failed = outcome.passages.iter().flat_map(|passage| {
        kept(passage).iter().map(|kept| Failed {
            item: passage.place.clone(),
            verdict: kept.verdict.to_owned(),
            why: format!("{} ({:?})", kept.why, kept.text),
        })
    });
    unreadable.chain(failed).collect()
}

fn write_reports(args: &CorrectArgs, outcome: &Outcome, receipt: &Receipt) -> Result<(), Failure> {
    let written = |name: &str, bytes: &[u8]| {
        let path = args.out.join(name);
        let temporary = path.with_added_extension("tmp");
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|error| Failure::io("write", &path, &error))
    };
    let document = serde_json::to_vec_pretty(&differences(outcome))
        .map_err(|error| Failure::new(format!("cannot encode the changes as JSON: {error}")))?;
    written("diff.json", &document)?;
    written("diff.html", report::correction::page(&args.file, outcome, receipt).as_bytes())
}

fn differences(outcome: &Outcome) -> Value {
    let passages = outcome.passages.iter().map(|passage| {
        let mut shown = json!(passage);
        if let Some(after) = &passage.after {
            shown["changes"] = json!(diff::words(&passage.before, after));
        }
        shown
    });
    json!({"schema": "haul.correct/1", "passages": passages.collect::<Vec<_>>()})
}

/// The first line in which two files differ, as people count lines.
fn first_difference(expected: &[u8], found: &[u8]) -> Option<String> {
    if expected == found {
        return None;
    }
    let at = expected.iter().zip(found).take_while(|(a, b)| a == b).count();
    let line = expected[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    let shown = |bytes: &[u8]| {
        let start = bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let end = bytes[start..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| start + at);
        String::from_utf8_lossy(&bytes[start..end]).into_owned()
    };
    let (wanted, is) = (shown(expected), shown(found));
    if wanted == is {
        return Some(format!(
            "line {line}: one file ends here ({} and {} bytes)",
            expected.len(),
            found.len()
        ));
    }
    Some(format!("line {line}: expected {wanted:?}, found {is:?}"))
}

fn say(
    args: &CorrectArgs,
    receipt: &Receipt,
    target: &Path,
    difference: Option<&str>,
    output: &Output,
) -> Result<(), Failure> {
    if let Some(difference) = difference {
        let golden = args.expect.as_ref().map_or_else(String::new, |path| path.display().to_string());
        output.note(&format!("not as {golden}: {difference}"));
    }
    if output.json() {
        return output.json_document(receipt);
    }
    let results =
        format!("corrected: {}\nchanges:   {}", target.display(), args.out.join("diff.html").display());
    output.data(&summary::calls(receipt, &results))
}
