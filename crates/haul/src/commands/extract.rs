//! `haul extract`: documents of companies to checked records, with the evidence of every value.

mod embedder;
mod forecast;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use haul_corpus::limits::Limits;
use haul_corpus::readers::{Readers, Setup};
use haul_corpus::verdict::Verdict;
use haul_corpus::worker::Worker;
use haul_jobs::calls::Asked;
use haul_jobs::extract::ExtractError;
use haul_jobs::extract::ask::{Parts, Stage};
use haul_jobs::extract::caps::Caps;
use haul_jobs::extract::documents::Company;
use haul_jobs::extract::input::{self, Desk, Found, Read, Unread};
use haul_jobs::extract::plan;
use haul_jobs::extract::quality;
use haul_jobs::extract::reading;
use haul_jobs::extract::record::{CompanyCoverage, Record};
use haul_jobs::extract::run::{self, Outcome};
use haul_jobs::extract::schema::Schema;
use haul_jobs::extract::tables;
use haul_jobs::extract::traces::Traces;
use haul_pipeline::cache::Cache;
use haul_pipeline::journal::Journal;
use haul_pipeline::progress::Progress;
use haul_pipeline::receipt::{Failure as Failed, Items, Note, Receipt, RunState};
use haul_pipeline::stage::Stages;
use serde::Serialize;
use serde_json::json;

use self::embedder::Embedder;
use crate::cli::llm::ExtractArgs;
use crate::commands::generator::{self, Opened};
use crate::commands::ingest::parse_worker;
use crate::commands::receipt::{self, Job};
use crate::commands::scratch::ScratchFolder;
use crate::commands::{calls, remote, schema};
use crate::failure::Failure;
use crate::output::Output;
use crate::report::review;
use crate::settings::Settings;
use crate::{Exit, live, readers, signals_unix, summary};

const JOB: &str = "extract";
/// What a company has come to is written this often before it is done.
const SO_FAR_EVERY: Duration = Duration::from_secs(30);
/// Files of all records take at most one part in so many of a run's time.
const WRITING_SHARE: u32 = 20;
/// A company of so many folders may be a folder of companies.
const FOLDERS_NOTED: usize = 2;
/// Of a company's name in that of its page.
const NAME_CHARS_MAX: usize = 80;
/// Where `--traces` go, in `--out`.
const TRACES: &str = "traces";
/// Where pages of companies go, in `--out`.
const REVIEW: &str = "review";
/// Where archives are unpacked, in `--out`.
const SCRATCH: &str = "unpacked";

/// What the companies came to so far.
#[derive(Default)]
struct Results {
    names: HashSet<String>,
    records: Vec<Record>,
    coverage: Vec<CompanyCoverage>,
    asked: Asked,
    items: Items,
    failures: Vec<Failed>,
    notes: Vec<Note>,
}

/// Runs the command.
pub(crate) fn run(args: &ExtractArgs, settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let (started, clock) = (SystemTime::now(), Instant::now());
    receipt::check(args.receipt.as_deref())?;
    let schema = schema::usable(&args.schema)?;
    let found = input::companies(&args.paths)?;
    for one in found.iter().filter(|one| one.folders >= FOLDERS_NOTED) {
        output.note(&format!(
            "{} is read as one company, with the {} folders in it; if each of them is one, give them by themselves: \
             {}/*/",
            one.name,
            one.folders,
            one.path.display()
        ));
    }
    let stop = signals_unix::stop_on_signals()?;
    fs::create_dir_all(&args.out).map_err(|error| Failure::io("create", &args.out, &error))?;
    // Its lock says that no other run is in `--out`.
    let mut journal = Journal::open(&args.out.join("journal.sqlite"))?;
    let scratch = ScratchFolder::make(args.out.join(SCRATCH))?;
    let are_read = args.readers.ocr || found.iter().any(Found::may_hold_pdfs);
    let readers = are_read.then(|| readers::for_pdfs(&args.readers, settings, output)).transpose()?;
    // Without a file that can be a PDF, no reader is looked for.
    let mut desk = desk(readers.unwrap_or_default(), scratch.0.clone(), settings)?;
    let embedder =
        args.embedder.as_ref().map(|name| Embedder::open(name, args, settings, output)).transpose()?;
    let (stages, unseen) = (Stages::start(), Progress::default());
    let embedding = embedder.as_ref().map(|embedder| embedder.embedding(&stages, &unseen, &stop));
    let mut opened = generator::open(&args.engine, settings, &stop, output)?;
    let opened_s = clock.elapsed().as_secs_f64();
    let window_tokens = reading::window_tokens(&schema, args.window_tokens, &mut opened.generator)?;
    let caps = caps(args);
    let progress = Progress::default();
    let companies =
        Companies { schema: &schema, caps: &caps, window_tokens, out: &args.out, traces: args.traces };
    if args.plan {
        let mut parts = Parts {
            generator: &mut opened.generator,
            journal: &mut journal,
            progress: &progress,
            stop: &stop,
            embedding: embedding.as_ref(),
            traces: None,
            so_far: None,
        };
        return forecast::forecast(&companies, &found, &mut desk, &mut parts, output);
    }
    let (device, receipt_file) = (settings.device(&args.engine.device)?, args.receipt.as_deref());
    Job { name: JOB, started, device, out: Some(&args.out), receipt: receipt_file }.begin()?;
    let mut results = Results::default();
    let ran = live::watch(JOB, &progress, &args.out.join("progress.json"), output, &stop, || {
        let mut parts = Parts {
            generator: &mut opened.generator,
            journal: &mut journal,
            progress: &progress,
            stop: &stop,
            embedding: embedding.as_ref(),
            traces: None,
            so_far: None,
        };
        companies.run(&found, &mut desk, &mut results, &mut parts)
    });
    remote::note_other_models(&opened, output);
    let engine = calls::settings_shown(&args.engine, &opened.generator);
    let run = calls::Run {
        job: JOB,
        started,
        seconds: clock.elapsed().as_secs_f64(),
        answering_s: clock.elapsed().as_secs_f64() - opened_s,
        settings: json!({
            "engine": engine,
            "schema": args.schema,
            "caps": caps,
            "budget_s": caps.budget.map(|budget| budget.as_secs_f64()),
            "window_tokens": window_tokens,
            "ranking": embedder::ranking(embedder.as_ref()),
        }),
        asked: results.asked,
        unit: "company",
    };
    finish(args, &schema, run, &opened, results, ran.err(), output)
}

fn caps(args: &ExtractArgs) -> Caps {
    Caps {
        entity_windows: args.entity_windows,
        group_windows: args.group_windows as usize,
        section_passes: args.section_passes,
        deep_fields: args.deep_fields as usize,
        verify: !args.no_verify,
        early_stop: !args.no_early_stop,
        facilities: args.facilities.map(|facilities| facilities as usize),
        budget: args.budget,
    }
}

/// What reads files of companies, unchanged ones from the cache, and unpacks archives in `scratch`.
pub(super) fn desk(readers: Readers, scratch: PathBuf, settings: &Settings) -> Result<Desk, Failure> {
    let setup = Setup { limits: Limits::DEFAULT, readers };
    let program = parse_worker()?;
    let worker_args: Vec<&str> = program.args.iter().map(String::as_str).collect();
    let worker = Worker::spawn(&program.program, &worker_args, &setup)?;
    let cache = Cache::open(&settings.text_cache(), settings.cache_bytes())?;
    Ok(Desk { worker, cache, scratch })
}

/// When files of all records are written again: after every company while that takes no time, and later where it does.
#[derive(Default)]
struct Pace {
    next: Option<Instant>,
}

impl Pace {
    fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    fn wrote_since(&mut self, began: Instant) {
        self.next = Some(Instant::now() + began.elapsed() * WRITING_SHARE);
    }
}

/// What is done with each company.
struct Companies<'a> {
    schema: &'a Schema,
    caps: &'a Caps,
    window_tokens: u32,
    out: &'a Path,
    traces: bool,
}

impl Companies<'_> {
    fn run(
        &self,
        found: &[Found],
        desk: &mut Desk,
        results: &mut Results,
        parts: &mut Parts<'_>,
    ) -> Result<(), Failure> {
        let ran = self.each(found, desk, results, parts);
        // Of a run that was ended before it came to anything, an earlier one's files say more.
        if (results.asked.interrupted || ran.is_err()) && results.records.is_empty() {
            return ran;
        }
        // Companies that were done before an error are written too; the first of two errors is said.
        let written = self.write(results);
        ran.and(written)
    }

    fn each(
        &self,
        found: &[Found],
        desk: &mut Desk,
        results: &mut Results,
        parts: &mut Parts<'_>,
    ) -> Result<(), Failure> {
        let mut pace = Pace::default();
        results.items.total = found.len() as u64;
        let end = self.caps.budget.map(|budget| Instant::now() + budget);
        for (number, one) in found.iter().enumerate() {
            if parts.stop.requested() {
                results.asked.interrupted = true;
                break;
            }
            let left = u32::try_from(found.len() - number).unwrap_or(u32::MAX);
            let until = end.map(|end| {
                let now = Instant::now();
                now + end.saturating_duration_since(now) / left
            });
            let companies = input::read_companies(desk, one.clone());
            // An archive of folders is as many companies.
            results.items.total += companies.len().saturating_sub(1) as u64;
            for read in companies {
                self.company(read, until, results, parts)?;
                if results.asked.interrupted {
                    break;
                }
                if pace.is_due() {
                    let began = Instant::now();
                    self.write(results)?;
                    pace.wrote_since(began);
                }
            }
        }
        Ok(())
    }

    fn write(&self, results: &Results) -> Result<(), Failure> {
        write(self.schema, self.out, &results.records, &results.coverage)
    }

    fn company(
        &self,
        read: Read,
        until: Option<Instant>,
        results: &mut Results,
        parts: &mut Parts<'_>,
    ) -> Result<(), Failure> {
        let failure = read.failure();
        let lacks = read.lacks.iter().map(|(file, lack)| format!("{file}: {lack}"));
        let cuts: Vec<String> = read.unread.iter().map(not_read).chain(lacks).collect();
        let notices: Vec<String> = read.notices().collect();
        // Archives name what they hold, so a name may come a second time.
        let name = input::unique(&mut results.names, &read.company);
        let company = Company::new(&name, read.sources, self.schema.numbering.unit);
        if let Some(failure) = failure {
            results.verdict(&name, failure.verdict.name(), &failure.why);
            results.note(&name, cuts.iter().chain(&notices));
            return Ok(());
        }
        if company.sentences.is_empty() {
            let why = if cuts.is_empty() { "no text in any file".to_owned() } else { cuts.join("; ") };
            results.verdict(&name, Verdict::Empty.name(), &why);
            results.note(&name, &notices);
            return Ok(());
        }
        let caps = self.caps;
        let reviewed = company.clone();
        let left_out = [cuts.clone(), notices].concat();
        let (mut last, mut unwritten) = (Instant::now(), None);
        let mut so_far = |outcome: &Outcome| {
            if last.elapsed() >= SO_FAR_EVERY && unwritten.is_none() {
                let records = [&results.records, &outcome.records[..]].concat();
                let coverage = [&results.coverage, std::slice::from_ref(&outcome.coverage)].concat();
                unwritten = write(self.schema, self.out, &records, &coverage).err();
                last = Instant::now();
            }
        };
        let (outcome, traces) = {
            let mut parts = Parts {
                generator: &mut *parts.generator,
                journal: &mut *parts.journal,
                traces: self.traces.then(|| self.traces_of(&name)).transpose()?,
                so_far: Some(&mut so_far),
                ..*parts
            };
            let outcome =
                run::company(self.schema, company, self.window_tokens, caps, &left_out, until, &mut parts);
            (outcome, parts.traces)
        };
        unwritten.map_or(Ok(()), Err)?;
        if let Some(traces) = traces {
            traces.end().map_err(|error| Failure::io("write", &self.traces_path(&name), &error))?;
        }
        match outcome {
            Ok(mut outcome) => {
                if !outcome.tally.asked.interrupted {
                    let model = parts.generator.facts().identity;
                    plan::remember(parts.journal, &model, &name, &mut outcome.tally)
                        .map_err(ExtractError::from)?;
                }
                let before = results.records.len();
                results.take(&name, outcome, &cuts);
                self.review(&reviewed, &results.records[before..])?;
            }
            Err(error) if error.is_stop() => results.asked.interrupted = true,
            Err(ExtractError::Window(error)) => {
                results.verdict(&name, Verdict::TooLarge.name(), &error.to_string());
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn traces_path(&self, company: &str) -> PathBuf {
        self.out.join(TRACES).join(format!("{}.jsonl", file_name(company)))
    }

    fn traces_of(&self, company: &str) -> Result<Traces, Failure> {
        let (folder, path) = (self.out.join(TRACES), self.traces_path(company));
        fs::create_dir_all(&folder).map_err(|error| Failure::io("create", &folder, &error))?;
        Traces::begin(&path).map_err(|error| Failure::io("create", &path, &error))
    }

    /// The page on which a person looks at a company's records: one a company, so that no more than one is in memory.
    fn review(&self, company: &Company, records: &[Record]) -> Result<(), Failure> {
        if records.is_empty() {
            return Ok(());
        }
        let folder = self.out.join(REVIEW);
        fs::create_dir_all(&folder).map_err(|error| Failure::io("create", &folder, &error))?;
        let page = review::page(self.schema, records, std::slice::from_ref(company));
        written(&folder.join(format!("{}.html", file_name(&company.name))), page.as_bytes())
    }
}

/// A company's name as that of a file: letters, digits and a few signs stay, and a hash keeps others apart.
fn file_name(company: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || " -_.()&,".contains(c);
    let plain: String =
        company.chars().map(|c| if is_plain(c) { c } else { '_' }).take(NAME_CHARS_MAX).collect();
    match plain == company && !plain.starts_with('.') {
        true => plain,
        false => format!("_{plain}-{}", &blake3::hash(company.as_bytes()).to_hex()[..8]),
    }
}

fn not_read(unread: &Unread) -> String {
    format!("{} was not read: {} ({})", unread.file, unread.failure.verdict.name(), unread.failure.why)
}

impl Results {
    fn verdict(&mut self, company: &str, verdict: &str, why: &str) {
        *self.items.by_verdict.entry(verdict.to_owned()).or_default() += 1;
        self.failures.push(Failed {
            item: company.to_owned(),
            verdict: verdict.to_owned(),
            why: why.to_owned(),
        });
    }

    fn take(&mut self, company: &str, outcome: Outcome, lacks: &[String]) {
        let Outcome { records, coverage, tally, worth: _ } = outcome;
        let asked = tally.asked;
        self.asked.totals.merge(&asked.totals);
        self.asked.journalled += asked.journalled;
        self.asked.repeated += asked.repeated;
        if asked.interrupted {
            // What was answered so far says of itself that it is not whole.
            self.asked.interrupted = true;
            self.records.extend(records);
            self.coverage.push(coverage);
            return;
        }
        let failed: usize = coverage.cells.iter().map(|cells| cells.failed.len()).sum();
        let deep = tally.stages.get(&Stage::Deep).map_or(0, |deep| deep.failed);
        let unread = deep + tally.unread as u64;
        let mut whys = lacks.to_vec();
        if failed > 0 {
            whys.push(format!("{failed} pairs of a window and a group have no answer"));
        }
        if unread > 0 {
            whys.push(format!("{unread} questions have no answer"));
        }
        if whys.is_empty() {
            *self.items.by_verdict.entry(Verdict::Ok.name().to_owned()).or_default() += 1;
            self.items.ok += 1;
        } else {
            let verdict = if lacks.is_empty() { "partly_answered" } else { "partly_read" };
            self.verdict(company, verdict, &whys.join("; "));
        }
        let mut cuts: Vec<&String> = records.iter().flat_map(|record| &record.cuts).collect();
        cuts.sort_unstable();
        cuts.dedup();
        self.note(company, cuts);
        self.records.extend(records);
        self.coverage.push(coverage);
    }

    fn note<'a>(&mut self, company: &str, notes: impl IntoIterator<Item = &'a String>) {
        let note = |says: &String| Note { item: company.to_owned(), says: says.clone() };
        self.notes.extend(notes.into_iter().map(note));
    }
}

/// What is there so far, each file renamed into place.
fn write(
    schema: &Schema,
    out: &Path,
    records: &[Record],
    coverage: &[CompanyCoverage],
) -> Result<(), Failure> {
    written(&out.join("records.json"), &pretty(records)?)?;
    written(&out.join("coverage.json"), &pretty(coverage)?)?;
    written(&out.join("quality.json"), &pretty(&quality::quality(schema, records))?)?;
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record).map_err(not_json)?;
        lines.push(b'\n');
    }
    written(&out.join("records.jsonl"), &lines)?;
    let rows = records.iter().map(|record| tables::of_record(schema, record));
    let table: String = std::iter::once(tables::head(schema)).chain(rows).collect();
    written(&out.join("records.csv"), table.as_bytes())
}

/// A file renamed into place.
fn written(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let temporary = path.with_added_extension("tmp");
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| Failure::io("write", path, &error))
}

fn pretty(value: &(impl Serialize + ?Sized)) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec_pretty(value).map_err(not_json)
}

#[expect(clippy::needless_pass_by_value, reason = "map_err gives it")]
fn not_json(error: serde_json::Error) -> Failure {
    Failure::new(format!("cannot encode the records as JSON: {error}"))
}

fn finish(
    args: &ExtractArgs,
    schema: &Schema,
    run: calls::Run<'_>,
    opened: &Opened,
    results: Results,
    failure: Option<Failure>,
    output: &Output,
) -> Result<Exit, Failure> {
    let Results { records, items, failures, notes, .. } = results;
    let started = run.started;
    let mut receipt: Receipt = run.receipt(opened, items, failures);
    receipt.notes = notes;
    if let Some(failure) = &failure {
        receipt.state = RunState::Failed;
        receipt.failures.push(Failed {
            item: JOB.to_owned(),
            verdict: "failed".to_owned(),
            why: failure.to_string(),
        });
    }
    if failure.is_none() && receipt.state == RunState::Finished && args.out.join(REVIEW).is_dir() {
        let is_page = |name: &str| name.ends_with(".html");
        receipt.notes.extend(receipt::left_by_others(&args.out.join(REVIEW), started, is_page)?);
    }
    let written = receipt::write(&receipt, &args.out, args.receipt.as_deref());
    // The first of two errors is said.
    failure.map_or(Ok(()), Err).and(written)?;
    if calls::exit(&receipt) == Exit::Interrupted {
        output.note(calls::INTERRUPTED);
    }
    if output.json() {
        output.json_document(&receipt)?;
    } else {
        let quality = quality::quality(schema, &records);
        let results = format!(
            "records: {} with {} values, {} of them found again in their sentence\n  {}\n  {}/NAME.html shows them \
             beside their sources",
            quality.records,
            quality.values,
            quality.aligned,
            args.out.join("records.json").display(),
            args.out.join(REVIEW).display()
        );
        output.data(&summary::calls(&receipt, &results))?;
    }
    Ok(calls::exit(&receipt))
}
