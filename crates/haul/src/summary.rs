//! Answers as people read them: plain text within 80 columns.

use std::path::Path;

use std::num::NonZeroUsize;

use haul_generate::discover::{Discovery, Found, NotRead};
use haul_jobs::bench::{Report as BenchReport, Row};
use haul_jobs::golden::Comparison;
use haul_jobs::ingest::mismatched::{Mismatch, Mismatches, Names};
use haul_jobs::ingest::plan::{Plan, Sample};
use haul_jobs::ingest::{ATTEMPTS_MAX, Outcome};
use haul_jobs::models::{CheckReport, FileVerdict, Listed, ModelRecord};
use haul_jobs::search::evaluate::Evaluation;
use haul_machine::dtype::{self, Dtype};
use haul_machine::memory::Memory;
use haul_machine::roof::Roofs;
use haul_pipeline::forecast::Range;
use haul_pipeline::receipt::{Forecast, Pass, Quality, Receipt, RunState, Truncated};
use haul_store::library::{Info, Report};
use haul_store::publish::Published;
use haul_store::qdrant::Address;
use haul_store::qdrant::catalogue::Info as CollectionInfo;
use haul_store::search::Hit;

use crate::commands::Machine;
pub(crate) use calls::calls;
pub(crate) use diagnosis::diagnosis;

const COLUMNS: usize = 80;
/// Lists longer than this are cut in the summary; the receipt has all of it.
const LISTED_MAX: usize = 20;

/// Writing to a `String` cannot fail.
macro_rules! line {
    ($text:expr) => { $text.push('\n') };
    ($text:expr, $($part:tt)*) => {{
        $text.push_str(&format!($($part)*));
        $text.push('\n');
    }};
}

mod calls;
pub(crate) mod catalogue;
mod diagnosis;
pub(crate) mod extract;
pub(crate) mod preview;
pub(crate) mod records;
pub(crate) mod schema;
pub(crate) mod store_bench;
pub(crate) mod vision;

/// What a server got, in one line; nothing where there is none.
fn sent(receipt: &Receipt) -> String {
    receipt.sent.as_ref().map_or_else(String::new, |sent| {
        format!(
            "  {} documents, {} points sent to {}; {} removed there\n",
            thousands(sent.documents),
            thousands(sent.points),
            sent.target,
            thousands(sent.removed)
        )
    })
}

/// What an ingest into `store` did.
pub(crate) fn ingest(receipt: &Receipt, outcome: &Outcome, store: &str) -> String {
    let mut text = String::new();
    let state = match receipt.state {
        RunState::Finished => "",
        RunState::Interrupted => "interrupted, a rerun goes on from here: ",
        RunState::Failed => "failed: ",
    };
    let items = &receipt.items;
    line!(text, "{state}{} of {} inputs ok in {}", thousands(items.ok), thousands(items.total), store);
    let seconds = receipt.seconds;
    line!(
        text,
        "  {} chunks, {} tokens in {}; {} inputs unchanged",
        thousands(outcome.chunks),
        thousands(receipt.work.tokens),
        duration(seconds),
        thousands(items.reused)
    );
    text.push_str(&sent(receipt));
    if items.updated > 0 {
        line!(text, "  {} with new metadata, without any model work", thousands(items.updated));
    }
    if receipt.work.tokens > 0 {
        let rate = &receipt.rate;
        line!(
            text,
            "  {} tokens/s, {:.0} GFLOP/s on {}{}, {:.0} % of its measured roof",
            thousands(rate.tokens_per_s as u64),
            rate.gflops,
            receipt.device.used,
            receipt.model.as_ref().map_or_else(String::new, |model| format!(" in {}", model.dtype)),
            rate.percent_of_roof
        );
    }
    for pass in receipt.passes.iter().filter(|pass| pass.name == "sentences") {
        line!(text, "  {}", sentence_pass(pass, outcome.busy_s));
    }
    if let Some(quality) = &receipt.quality {
        line!(text, "  {}", agreement(quality));
    }
    if receipt.truncated.items > 0 {
        line!(text, "  {}", truncated(&receipt.truncated));
    }
    if let Some(Forecast { low_s, high_s, error }) = receipt.forecast {
        let (low, high, off) = (duration(low_s), duration(high_s), 100.0 * error);
        line!(text, "  forecast {low} to {high}; the middle was off by {off:+.0} %");
    }
    if items.quarantined > 0 {
        let quarantined = thousands(items.quarantined);
        line!(text, "  {quarantined} inputs failed {ATTEMPTS_MAX} times and wait until they change");
    }
    stages(&mut text, receipt);
    let failures = receipt.failures.iter().map(|f| format!("{}: {} ({})", f.item, f.verdict, f.why));
    list(&mut text, "not ok", &failures.collect::<Vec<_>>());
    let notes = receipt.notes.iter().map(|note| format!("{}: {}", note.item, note.says));
    list(&mut text, "ok, but", &notes.collect::<Vec<_>>());
    let kept = match items.prune_refused {
        None => "files gone, documents kept (--prune removes them)",
        Some(_) => "files gone, documents kept (--prune-all removes them)",
    };
    list(&mut text, kept, &items.gone);
    list(&mut text, "files gone, documents removed", &items.pruned);
    text
}

/// What it cost to find where topics change.
fn sentence_pass(pass: &Pass, busy_s: f64) -> String {
    format!(
        "sentences: {} compared, {} computed, {} tokens, {} of the model's {}",
        thousands(pass.texts),
        thousands(pass.computed),
        thousands(pass.tokens),
        duration(pass.busy_s),
        duration(busy_s)
    )
}

/// Kinds of files that a plan lists; with more, the smallest are left to `--json`.
const KINDS_MAX: usize = 6;

/// Other programs that have more than this of the cores are named.
const BUSY_SHARE: f64 = 0.15;

/// What a run will take, on one screen.
pub(crate) fn plan(plan: &Plan, free_bytes: u64) -> String {
    let mut text = String::new();
    let files = &plan.files;
    line!(
        text,
        "{} files: {} to read ({}), {} unchanged, {} without a reader",
        thousands(files.listed),
        thousands(files.to_read),
        bytes(plan.bytes),
        thousands(files.unchanged),
        thousands(files.without_reader)
    );
    if files.to_read == 0 {
        return text;
    }
    let sample = &plan.sample;
    if plan.sample.files == 0 {
        line!(
            text,
            "no file of the sample came to its end in {}: nothing can be said",
            duration(plan.sample.seconds)
        );
        return text;
    }
    text.push_str(&sampled(sample));
    text.push_str(&work(plan));
    line!(
        text,
        "\nexpect {}, most likely {}",
        between(&plan.seconds, duration),
        duration(plan.seconds.middle)
    );
    line!(
        text,
        "  {} takes longest: {} tokens at {} tokens/s",
        plan.bottleneck,
        between(&plan.tokens, rough),
        thousands(plan.tokens_per_s as u64)
    );
    if plan.others_share > BUSY_SHARE {
        line!(
            text,
            "  other programs have {} of the cores now, so the range is wide",
            percent(plan.others_share)
        );
    }
    let size = |amount: f64| bytes(amount as u64);
    line!(
        text,
        "  disk: {}, and a segment of {}; {} free",
        between(&plan.library_bytes, size),
        size(plan.segment_bytes.middle),
        bytes(free_bytes)
    );
    line!(
        text,
        "  memory: at most {} of {} allowed",
        bytes(plan.memory_bytes),
        bytes(plan.memory_allowed_bytes)
    );
    text
}

fn sampled(sample: &Sample) -> String {
    let mut text = String::new();
    line!(
        text,
        "sampled {} of them through every stage in {}",
        thousands(sample.files),
        duration(sample.seconds)
    );
    if let Some(why) = &sample.failed_why {
        line!(
            text,
            "  {} of {} texts that were tried have no vector, and no document with one will be stored: {why}",
            thousands(sample.texts_failed),
            thousands(sample.texts_computed)
        );
    }
    text
}

/// What there is to read, and how long each stage has with it.
fn work(plan: &Plan) -> String {
    let mut text = String::new();
    line!(text, "\n  {:<12} {:>8} {:>11} {:>8}   tokens", "kind", "files", "size", "sampled");
    let mut kinds: Vec<_> = plan.kinds.iter().collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.bytes));
    for kind in kinds.iter().take(KINDS_MAX) {
        let (files, sampled) = (thousands(kind.files), thousands(kind.sampled));
        let tokens = between(&kind.tokens, rough);
        line!(text, "  {:<12} {files:>8} {:>11} {sampled:>8}   {tokens}", kind.name, bytes(kind.bytes));
    }
    line!(text, "\n  stage        threads   if it were alone");
    for stage in &plan.stages {
        line!(text, "  {:<12} {:>7}   {}", stage.name, stage.threads, between(&stage.seconds, duration));
    }
    text
}

/// A range, or one figure where both ends read the same.
fn between(range: &Range, shown: impl Fn(f64) -> String) -> String {
    let (low, high) = (shown(range.low), shown(range.high));
    if low == high { low } else { format!("{low} to {high}") }
}

/// A number in two or three digits.
fn rough(number: f64) -> String {
    match number {
        n if n >= 1e10 => format!("{:.0} G", n / 1e9),
        n if n >= 1e9 => format!("{:.1} G", n / 1e9),
        n if n >= 1e7 => format!("{:.0} M", n / 1e6),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e4 => format!("{:.0} k", n / 1e3),
        n => thousands(n as u64),
    }
}

/// What a faster mode costs, on the run's own texts.
fn agreement(quality: &Quality) -> String {
    let overlap =
        quality.top10_overlap.map_or_else(String::new, |share| format!(", top 10 {}", percent(share)));
    format!(
        "agrees with {}: {} {:.5}, worst {:.5}{overlap} ({} texts of {} tokens)",
        quality.against,
        quality.metric,
        1.0 - quality.delta,
        quality.cosine_min,
        thousands(quality.texts),
        quality.text_tokens_max
    )
}

/// A share of one.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn stages(text: &mut String, receipt: &Receipt) {
    line!(text, "\n  stage    threads     busy  starved  blocked    items");
    for stage in &receipt.stages {
        line!(
            text,
            "  {:<8} {:>7} {:>7.1}s {:>7.1}s {:>7.1}s {:>8}",
            stage.name,
            stage.threads,
            stage.busy_s,
            stage.starved_s,
            stage.blocked_s,
            thousands(stage.items)
        );
    }
}

fn list(text: &mut String, title: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    line!(text, "\n{title}:");
    for item in items.iter().take(LISTED_MAX) {
        // A name may hold a line break, and must not pass for an item of its own, nor steer a terminal.
        line!(text, "  {}", item.replace(char::is_control, "\u{fffd}"));
    }
    if items.len() > LISTED_MAX {
        line!(text, "  and {} more; --json lists all", thousands((items.len() - LISTED_MAX) as u64));
    }
}

/// What the model did not see.
pub(crate) fn truncated(truncated: &Truncated) -> String {
    format!(
        "{} texts were longer than the model takes and lost {} tokens",
        thousands(truncated.items),
        thousands(truncated.tokens)
    )
}

/// Passages as book > chapter > passage.
pub(crate) fn hits(hits: &[Hit]) -> String {
    if hits.is_empty() {
        return "nothing found\n".to_owned();
    }
    let mut text = String::new();
    for (number, hit) in (1..).zip(hits) {
        let mut place = vec![hit.title.clone()];
        place.extend(hit.breadcrumb.iter().cloned());
        place.extend(hit.page.map(|page| format!("page {page}")));
        let place = wrapped(&format!("{number}. {} [{:.4}]", place.join(" > "), hit.score), "   ");
        line!(text, "{}", place.trim_start());
        if !hit.authors.is_empty() {
            line!(text, "   {}", hit.authors.join(", "));
        }
        let passages = hit.before.iter().chain([&hit.text]).chain(&hit.after);
        for passage in passages {
            line!(text, "{}", wrapped(passage, "   "));
        }
        if let Some(parent) = &hit.parent {
            line!(text, "{}", wrapped(&format!("in {}:", parent.name), "   "));
            line!(text, "{}", wrapped(&parent.text, "     "));
        }
        line!(text);
    }
    text
}

/// Quality of a search.
pub(crate) fn evaluation(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    let k = evaluation.cut;
    let names = ["P", "R", "MRR", "nDCG"].map(|name| format!("{name}@{k}"));
    line!(text, "{:<24} {:>8} {}", "", "queries", names.map(|name| format!("{name:>10}")).concat());
    let all = [("all".to_owned(), &evaluation.all)];
    let categories = evaluation.by_category.iter().map(|(name, means)| (format!("  {name}"), means));
    for (name, means) in all.into_iter().chain(categories) {
        let figures = [means.precision, means.recall, means.mrr, means.ndcg];
        let figures = figures.map(|figure| format!("{figure:>10.4}")).concat();
        line!(text, "{:<24} {:>8} {figures}", shortened(&name, 24), thousands(means.queries as u64));
    }
    if evaluation.unjudged > 0 {
        line!(text, "{} queries without judgments left out", thousands(evaluation.unjudged as u64));
    }
    list(
        &mut text,
        "names of relevant documents that no document has, counted as not found",
        &evaluation.absent,
    );
    text
}

/// What is in a library.
pub(crate) fn info(info: &Info, path: &Path) -> String {
    let settings = &info.settings;
    let mut text = String::new();
    line!(text, "{}  {}", path.display(), bytes(info.file_bytes + info.log_bytes));
    line!(text, "  documents  {}", thousands(info.documents));
    if info.stale_documents > 0 {
        line!(
            text,
            "  stale      {} (the newest revision failed, an older one is served)",
            info.stale_documents
        );
    }
    line!(text, "  chunks     {}", thousands(info.chunks));
    line!(text, "  vectors    {} of {} x f16", thousands(info.vectors), settings.dim);
    line!(text, "  model      {} ({}, {})", settings.model_name, settings.dtype, settings.pooling);
    line!(text, "  chunker    {}", preview::chunker(settings));
    if info.sections > 0 {
        line!(text, "  parents    {} sections", thousands(info.sections));
    }
    let verdicts: Vec<String> =
        info.by_verdict.iter().map(|(name, count)| format!("{name} {count}")).collect();
    line!(text, "  inputs     {}", verdicts.join(", "));
    line!(text, "  digest     {}", info.digest);
    text
}

/// A collection of a server.
pub(crate) fn collection(info: &CollectionInfo) -> String {
    let mut text = String::new();
    line!(text, "{}", info.address);
    line!(text, "  documents  {}", thousands(info.documents));
    line!(text, "  points     {}", thousands(info.points));
    if info.foreign_points > 0 {
        line!(text, "  foreign    {} points of other programs", thousands(info.foreign_points));
    }
    let name = if info.dense_vector.is_empty() { "without a name" } else { &info.dense_vector };
    line!(text, "  vectors    {} x f32 ({name}); sparse: {}", info.dim, info.sparse_vectors.join(", "));
    if let Some(settings) = &info.settings {
        line!(text, "  model      {} ({}, {})", settings.model_name, settings.dtype, settings.pooling);
        line!(text, "  chunker    {}", preview::chunker(settings));
    }
    line!(text, "  digest     {}", info.digest);
    text
}

/// What a push did.
pub(crate) fn pushed(done: Published, to: &Address, digest: &str) -> String {
    let mut text = String::new();
    line!(
        text,
        "{} documents, {} points pushed; {} documents removed",
        thousands(done.documents),
        thousands(done.points),
        thousands(done.removed)
    );
    line!(text, "{to} has every point of the library");
    line!(text, "  digest     {digest}");
    text
}

/// What an examination found.
pub(crate) fn verification(report: &Report) -> String {
    let mut text = String::new();
    line!(
        text,
        "{} documents, {} chunks, {} vectors: {}",
        thousands(report.documents),
        thousands(report.chunks),
        thousands(report.vectors),
        if report.findings.is_empty() { "sound" } else { "not sound" }
    );
    let findings = report.findings.iter().map(|f| format!("{}: {}: {}", f.check, f.subject, f.detail));
    list(&mut text, "findings", &findings.collect::<Vec<_>>());
    text
}

/// What is called otherwise in Calibre: the library's words above Calibre's.
pub(crate) fn mismatches(found: &Mismatches, store: &str) -> String {
    let mut text = String::new();
    line!(
        text,
        "{} of {} documents are called otherwise in Calibre; {} have no book there",
        thousands(found.mismatched.len() as u64),
        thousands(found.compared as u64),
        thousands(found.gone.len() as u64)
    );
    for Mismatch { calibre_id, library, in_calibre, .. } in &found.mismatched {
        line!(text, "\nbook {calibre_id}");
        let authors = |names: &Names| names.authors.join(" & ");
        let pairs = [
            ("title", library.title.clone(), in_calibre.title.clone()),
            ("authors", authors(library), authors(in_calibre)),
        ];
        for (what, ours, theirs) in pairs.into_iter().filter(|(_, ours, theirs)| ours != theirs) {
            line!(text, "{}", hanging(&format!("  {what:<8} library  "), &ours));
            line!(text, "{}", hanging("           Calibre  ", &theirs));
        }
    }
    let gone = found.gone.iter().map(|gone| format!("{} (was book {})", gone.title, gone.calibre_id));
    let gone: Vec<String> = gone.collect();
    if !gone.is_empty() {
        line!(text, "\nin the library, and no more in Calibre:");
    }
    for title in &gone {
        line!(text, "{}", hanging("  ", title));
    }
    let ingest = format!("haul ingest \"{}\" --store {store}", found.calibre.display());
    if found.mismatched.iter().any(|mismatch| !mismatch.as_file) {
        line!(text, "\ntake over Calibre's words, without embedding anything again:\n  {ingest}");
    }
    // A plain file keeps its own words, whatever Calibre says.
    let as_files = found.mismatched.iter().filter(|mismatch| mismatch.as_file).count();
    if as_files > 0 {
        let many = thousands(as_files as u64);
        line!(
            text,
            "\n{many} were taken in as plain files; take them in as books instead:\n  {ingest} --prune"
        );
    }
    if !gone.is_empty() {
        line!(text, "\nremove what is gone:\n  {ingest} --prune");
    }
    text
}

/// A first line that begins with `head`, and the others below its text.
fn hanging(head: &str, text: &str) -> String {
    let indent = " ".repeat(head.chars().count());
    format!("{head}{}", wrapped(text, &indent).trim_start())
}

/// The models that are here.
pub(crate) fn models(listed: &[Listed], discovery: &Discovery) -> String {
    if listed.is_empty() && discovery.found.is_empty() {
        return "no models yet; `haul model add DIR` adds one\n".to_owned();
    }
    let mut text = String::new();
    for Listed { name, record } in listed {
        match record {
            Ok(record) => {
                let size: u64 = record.files.iter().map(|file| file.bytes).sum();
                line!(text, "{name:<32} {:>10}  sha256 {}", bytes(size), &record.sha256[..12]);
            }
            Err(error) => line!(text, "{name:<32} damaged: {error}"),
        }
    }
    text
}

/// GGUF files by place, and what could not be looked at.
pub(crate) fn gguf_files(discovery: &Discovery) -> String {
    let mut text = String::new();
    for Found { name, path, bytes: size, place } in &discovery.found {
        line!(text, "{name:<32} {:>10}  GGUF in {place}: {}", bytes(*size), path.display());
    }
    for NotRead { path, why } in &discovery.not_read {
        line!(text, "not read: {}: {why}", path.display());
    }
    text
}

/// Each file of a model against its record.
pub(crate) fn model_check(report: &CheckReport) -> String {
    let mut text = String::new();
    for file in &report.files {
        let verdict = match &file.verdict {
            FileVerdict::Ok => "ok".to_owned(),
            FileVerdict::Missing => "missing".to_owned(),
            FileVerdict::Changed { bytes, .. } => format!("changed, {bytes} bytes now"),
            FileVerdict::Unreadable { why } => format!("unreadable: {why}"),
            FileVerdict::New => "new since the model was added".to_owned(),
        };
        line!(text, "{:<40} {verdict}", file.name);
    }
    line!(text, "{}: {}", report.name, if report.is_ok() { "ok" } else { "not ok" });
    text
}

/// What this machine can do.
pub(crate) fn doctor(machine: &Machine, memory: &Memory, roofs: &Roofs) -> String {
    let mut text = String::new();
    line!(text, "processor  {}", machine.cpu.name);
    line!(text, "cores      {} usable", machine.cpu.cores);
    line!(text, "kernels    {}", machine.cpu.isa.name());
    let features = machine.cpu.features.join(" ");
    line!(text, "features   {}", wrapped(&features, "           ").trim_start());
    let limit = memory.limit_bytes.map_or_else(String::new, |limit| format!(", limited to {}", bytes(limit)));
    line!(text, "memory     {} of {} free{limit}", bytes(memory.available_bytes), bytes(memory.total_bytes));
    for dtype in Dtype::ALL {
        let gflops = roofs.of(dtype);
        let times = gflops / roofs.of(Dtype::F32);
        line!(
            text,
            "{:<10} {gflops:.0} GFLOP/s, all cores together, {times:.1}x f32",
            format!("{dtype} roof")
        );
    }
    line!(text, "read roof  {:.1} GB/s from memory, all cores together", roofs.read_gb_per_s);
    line!(text, "measured   {}", roofs.measured);
    line!(text, "{}", machine.verdict.line());
    line!(text, "{}", dtype::auto(roofs).line());
    text
}

/// Rows of a benchmark as a table.
pub(crate) fn bench_encoder(
    report: &BenchReport,
    machine: &Machine,
    model: &ModelRecord,
    threads: NonZeroUsize,
) -> String {
    let mut text = String::new();
    let isa = machine.cpu.isa.name();
    line!(
        text,
        "{}",
        wrapped(&format!("{} on {}, {isa}, {threads} threads", model.name, machine.cpu.name), "")
    );
    line!(text);
    let names = ["dtype", "mix", "tokens", "tokens/s", "GFLOP/s", "roof", "%", "cosine", "worst", "top 10"];
    line!(text, "{}", bench_line(names.map(str::to_owned)));
    for row in &report.rows {
        line!(text, "{}", bench_line(bench_cells(row)));
    }
    text
}

fn bench_line(
    [dtype, mix, tokens, speed, gflops, roof, share, cosine, worst, overlap]: [String; 10],
) -> String {
    let speed = format!("{tokens:>7} {speed:>9} {gflops:>8} {roof:>6} {share:>3}");
    let line = format!("  {dtype:<5} {mix:<10} {speed}  {cosine:>7} {worst:>6} {overlap:>7}");
    line.trim_end().to_owned()
}

/// What is compared with f32 stays empty for f32.
fn bench_cells(row: &Row) -> [String; 10] {
    let quality = row.quality.map(|q| {
        let overlap = q.top10_overlap.map_or_else(|| "-".to_owned(), percent);
        [format!("{:.5}", q.cosine_mean), format!("{:.4}", q.cosine_min), overlap]
    });
    let [cosine, worst, overlap] = quality.unwrap_or_default();
    let whole = |number: f64| format!("{number:.0}");
    let speed = thousands(row.tokens_per_s as u64);
    let share = whole(row.percent_of_roof);
    let (gflops, roof) = (whole(row.gflops), whole(row.roof_gflops));
    let tokens = row.tokens.to_string();
    [row.dtype.to_owned(), row.mix.clone(), tokens, speed, gflops, roof, share, cosine, worst, overlap]
}

/// A model's vectors against a golden.
pub(crate) fn golden(comparison: &Comparison) -> String {
    let mut text = String::new();
    let Comparison { dtype, texts, cosine_mean, cosine_min, difference_max, tolerance, .. } = comparison;
    line!(text, "golden: {} texts in {dtype}", thousands(*texts as u64));
    line!(text, "  worst cosine      {cosine_min:.6}, at least {}", tolerance.cosine_min);
    line!(text, "  mean cosine       {cosine_mean:.6}, at least {}", tolerance.cosine_mean);
    let allowed =
        tolerance.difference_max.map_or_else(String::new, |allowed| format!(", at most {allowed:.0e}"));
    line!(text, "  worst difference  {difference_max:.1e}{allowed}");
    if comparison.truncated.items > 0 {
        line!(text, "  {}", truncated(&comparison.truncated));
    }
    let failed = comparison.failed.iter().map(|row| {
        format!(
            "line {}: cosine {:.6}, off by {:.1e}: {}",
            row.line, row.cosine, row.difference, row.first_words
        )
    });
    list(&mut text, "not within", &failed.collect::<Vec<_>>());
    line!(text, "{}", if comparison.is_ok() { "golden: ok" } else { "golden: not ok" });
    text
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Seconds as people say them.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..7200 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Bytes in binary units.
#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{amount:.1} {}", UNITS[unit]) }
}

/// Text of at most `columns` characters; what is cut off shows as a mark.
fn shortened(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['\u{2026}']).collect()
}

/// Text in lines of at most [`COLUMNS`], each after `indent`; white space is folded.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::from(indent);
    let mut column = indent.len();
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > indent.len() && column + 1 + width > COLUMNS {
            lines.push('\n');
            lines.push_str(indent);
            column = indent.len();
        }
        if column > indent.len() {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += width;
    }
    lines
}
