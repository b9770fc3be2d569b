//! The report of a sweep.

use haul_jobs::statistics::Summary;
use haul_jobs::tune::encoder::Report as EncoderReport;
use haul_jobs::tune::{Refused, Report, Row};

use super::compare::verdict;
use super::sheet::{Part, Sheet};
use crate::summary::{bytes, thousands};

/// How a best is found.
const JUDGED: &str = "Each setting is judged by the fastest of its runs, beside the best so far measured again, and what \
                      seems better is measured a second time right after what it would replace. Of values within 3 % of \
                      the fastest the smallest is taken, and none that is slower than what it replaces. Types of the KV \
                      cache change answers, and its size goes by the calls: both are measured, and neither is taken.";

pub(crate) fn sheet(report: &Report, name: &str, profile: Option<&str>, made: &str) -> Sheet {
    let drift =
        report.drift.map_or_else(|| "not measured".to_owned(), |drift| format!("{:+.1} %", 100.0 * drift));
    let mut sheet = Sheet {
        title: format!("Settings for {name}"),
        lead: format!("haul tune, {made}"),
        figures: vec![
            (format!("{:.2}x", report.gain), "as fast as the default".to_owned()),
            (thousands(report.rows.len() as u64), "rows".to_owned()),
            (drift, "drift of the control, from the first row to the last".to_owned()),
        ],
        sections: vec![],
    };
    let (prompt, answer) = report.call_tokens;
    let mut best = vec![
        Part::Text(report.best.line()),
        Part::Text(format!(
            "With them, one of many calls takes {:.3} s of this machine: {prompt} tokens of prompt, read by itself, and \
             its part of the answers of {answer} tokens that all sequences write together. That is what is made small: \
             the time for a batch of calls, as generate and correct ask them, and not the time until a single answer. \
             Answers are measured from an empty cache; long prompts make them slower.",
            report.best_seconds
        )),
        Part::Text(JUDGED.to_owned()),
        Part::Text(at_the_end(report)),
    ];
    if report.is_noisy {
        best.push(Part::Text(
            "The control was not as fast at the end as at the start, or was not measured again: the machine had other \
             work, and small differences between rows say nothing."
                .to_owned(),
        ));
    }
    best.push(Part::Text(match profile {
        Some(path) => format!("Kept in {path}; generate and correct open this model with it from now on."),
        None => "Not kept, because the run was stopped.".to_owned(),
    }));
    sheet.section("Best", best);
    rows(&mut sheet, report);
    refused(&mut sheet, "Impossible, and not tried", &report.impossible);
    refused(&mut sheet, "Not measured", &report.not_measured);
    let compiled = report.compiled_in.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    sheet.section("What does nothing at run time", vec![Part::List(compiled)]);
    sheet
}

/// What the last measurement says, which alone decides what is kept.
fn at_the_end(report: &Report) -> String {
    match &report.withdrawn {
        None if report.rows.first().is_some_and(|control| control.load == report.best) => {
            "Nothing was faster than the defaults.".to_owned()
        }
        None => format!(
            "Measured in turns with the defaults at the end, they are {:.2} times as fast.",
            report.gain
        ),
        Some(withdrawn) => format!(
            "These are the defaults. What the rows say is better, {}, {}.",
            withdrawn.load.line(),
            beside_the_defaults(withdrawn.gain)
        ),
    }
}

/// Why what seemed better is not kept.
pub(crate) fn beside_the_defaults(gain: Option<f64>) -> String {
    match gain {
        Some(gain) => {
            format!("was {gain:.2} times as fast as the defaults, measured in turns with them at the end")
        }
        None => "could not be measured beside the defaults at the end".to_owned(),
    }
}

fn rows(sheet: &mut Sheet, report: &Report) {
    let names =
        ["varied", "settings", "prefill t/s", "decode t/s", "s a call", "load", "memory", "KV", "ran"];
    let table = report.rows.iter().map(row).collect();
    let marks = report.rows.iter().filter_map(|row| {
        let why = row.error.as_ref().or(row.falls_back.as_ref())?;
        Some(format!("{} ({}): {why}", row.axis, row.load.line()))
    });
    let marks: Vec<String> = marks.collect();
    let mut parts = vec![Part::table(&names, table)];
    if !marks.is_empty() {
        parts.push(Part::List(marks));
    }
    sheet.section("Rows, each in a process of its own", parts);
}

fn row(row: &Row) -> Vec<String> {
    let mut cells = vec![row.axis.to_owned(), row.load.line()];
    match &row.measured {
        None => cells.extend(std::iter::repeat_n("-".to_owned(), 7)),
        Some(measured) => cells.extend([
            rate(measured.speed.prefill_tokens_per_s.as_ref()),
            rate(measured.speed.decode_tokens_per_s.as_ref()),
            format!("{:.3}", measured.call_seconds),
            format!("{} ms", thousands(measured.load_ms)),
            bytes(measured.rss_bytes),
            bytes(measured.kv_bytes),
            verdict(measured.placement.verdict).to_owned(),
        ]),
    }
    cells
}

fn rate(summary: Option<&Summary>) -> String {
    summary.map_or_else(|| "-".to_owned(), |rates| format!("{:.0} ± {:.0}", rates.mean, rates.sd))
}

fn refused(sheet: &mut Sheet, title: &str, refused: &[Refused]) {
    if refused.is_empty() {
        return;
    }
    let line = |refused: &Refused| format!("{} ({}): {}", refused.axis, refused.load.line(), refused.why);
    sheet.section(title, vec![Part::List(refused.iter().map(line).collect())]);
}

pub(crate) fn encoder_sheet(report: &EncoderReport, name: &str, profile: Option<&str>, made: &str) -> Sheet {
    let mut sheet = Sheet {
        title: format!("Batch tokens for {name}"),
        lead: format!("haul tune, {made}"),
        figures: vec![
            (thousands(report.best.batch_tokens as u64), "tokens in a batch".to_owned()),
            (format!("{:.2}x", report.gain), format!("as fast as {}", thousands(report.control as u64))),
        ],
        sections: vec![],
    };
    let rows = report.rows.iter().map(|row| {
        vec![
            thousands(row.batch_tokens as u64),
            rate(Some(&row.tokens_per_s)),
            row.tokens_per_s.samples.len().to_string(),
        ]
    });
    let kept = match profile {
        Some(path) => format!("Kept in {path}; ingest and embed use it from now on."),
        None => "Not kept, because the run was stopped.".to_owned(),
    };
    let say = format!(
        "{} texts of very different lengths; budgets take turns, and are judged by their fastest pass. Of those within \
         3 % of the fastest the smallest is taken, if it is no slower than the default. {}{}",
        thousands(report.texts),
        encoder_at_the_end(report),
        if report.cut_short { " Ended before all passes were made." } else { "" }
    );
    sheet.section(
        "Budgets",
        vec![
            Part::table(&["tokens in a batch", "tokens/s", "passes"], rows.collect()),
            Part::Text(say),
            Part::Text(kept),
        ],
    );
    sheet
}

fn encoder_at_the_end(report: &EncoderReport) -> String {
    match &report.withdrawn {
        None if report.best.batch_tokens == report.control => {
            "Nothing was faster than the default.".to_owned()
        }
        None => {
            format!("Measured in turns with the default at the end, it is {:.2} times as fast.", report.gain)
        }
        Some(withdrawn) => format!(
            "The default is kept: {} tokens {}.",
            thousands(withdrawn.batch_tokens as u64),
            beside_the_defaults(withdrawn.gain)
        ),
    }
}
