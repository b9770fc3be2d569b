//! Answers as people read them: plain text within 80 columns.

use std::path::Path;

use haul_jobs::ingest::Outcome;
use haul_jobs::models::{CheckReport, FileVerdict, Listed};
use haul_jobs::search::evaluate::Evaluation;
use haul_machine::memory::Memory;
use haul_machine::roof::Roofs;
use haul_pipeline::receipt::{Receipt, RunState, Truncated};
use haul_store::library::{Info, Report};
use haul_store::search::Hit;

use crate::commands::Machine;

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

/// What an ingest did.
pub(crate) fn ingest(receipt: &Receipt, outcome: &Outcome, store: &Path) -> String {
    let mut text = String::new();
    let state = match receipt.state {
        RunState::Finished => "",
        RunState::Interrupted => "interrupted, a rerun goes on from here: ",
        RunState::Failed => "failed: ",
    };
    let items = &receipt.items;
    line!(
        text,
        "{state}{} of {} inputs ok in {}",
        thousands(items.ok),
        thousands(items.total),
        store.display()
    );
    let seconds = receipt.seconds;
    line!(
        text,
        "  {} chunks, {} tokens in {}; {} inputs unchanged",
        thousands(outcome.chunks),
        thousands(receipt.work.tokens),
        duration(seconds),
        thousands(items.reused)
    );
    if receipt.work.tokens > 0 {
        let rate = &receipt.rate;
        line!(
            text,
            "  {} tokens/s, {:.0} GFLOP/s on {}, {:.0} % of its measured roof",
            thousands(rate.tokens_per_s as u64),
            rate.gflops,
            receipt.device.used,
            rate.percent_of_roof
        );
    }
    if receipt.truncated.items > 0 {
        line!(text, "  {}", truncated(&receipt.truncated));
    }
    stages(&mut text, receipt);
    let failures = receipt.failures.iter().map(|f| format!("{}: {} ({})", f.item, f.verdict, f.why));
    list(&mut text, "not ok", &failures.collect::<Vec<_>>());
    let notes = receipt.notes.iter().map(|note| format!("{}: {}", note.item, note.says));
    list(&mut text, "ok, but", &notes.collect::<Vec<_>>());
    list(&mut text, "files gone, documents kept (--prune removes them)", &items.gone);
    list(&mut text, "files gone, documents removed", &items.pruned);
    text
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
        // A name may hold a line break, and must not pass for an item of its own.
        line!(text, "  {}", item.replace('\n', "\u{fffd}"));
    }
    if items.len() > LISTED_MAX {
        line!(text, "  and {} more; the receipt lists all", thousands((items.len() - LISTED_MAX) as u64));
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
        let place = wrapped(&format!("{number}. {} [{:.4}]", place.join(" > "), hit.score), "   ");
        line!(text, "{}", place.trim_start());
        if !hit.authors.is_empty() {
            line!(text, "   {}", hit.authors.join(", "));
        }
        let passages = hit.before.iter().chain([&hit.text]).chain(&hit.after);
        for passage in passages {
            line!(text, "{}", wrapped(passage, "   "));
        }
        line!(text);
    }
    text
}

/// Quality of a search.
pub(crate) fn evaluation(evaluation: &Evaluation) -> String {
    let mut text = String::new();
    line!(text, "nDCG@10   {:.4}", evaluation.ndcg);
    line!(text, "recall@10 {:.4}", evaluation.recall);
    line!(text, "MRR@10    {:.4}", evaluation.mrr);
    line!(text, "queries   {} ({} without judgments left out)", evaluation.queries, evaluation.unjudged);
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
    line!(
        text,
        "  chunker    {}, {} tokens, overlap {}",
        settings.chunker,
        settings.chunk_tokens,
        settings.overlap_sentences
    );
    let verdicts: Vec<String> =
        info.by_verdict.iter().map(|(name, count)| format!("{name} {count}")).collect();
    line!(text, "  inputs     {}", verdicts.join(", "));
    line!(text, "  digest     {}", info.digest);
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

/// The models that are here.
pub(crate) fn models(listed: &[Listed]) -> String {
    if listed.is_empty() {
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
    line!(text, "f32 roof   {:.0} GFLOP/s, all cores together", roofs.f32_gflops);
    line!(text, "read roof  {:.1} GB/s from memory, all cores together", roofs.read_gb_per_s);
    line!(text, "measured   {}", roofs.measured);
    line!(text, "{}", machine.verdict.line());
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
