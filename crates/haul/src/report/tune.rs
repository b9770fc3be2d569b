//! The report of a sweep.

use haul_jobs::statistics::Summary;
use haul_jobs::tune::encoder::Report as EncoderReport;
use haul_jobs::tune::{Refused, Report, Row};

use super::compare::verdict;
use super::sheet::{Part, Sheet};
use crate::summary::{bytes, thousands};

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
            "A call of {prompt} tokens of prompt and {answer} of answer takes {:.3} s of this machine with them. Of \
             values within 3 % of the best, the smallest is taken. Types of the KV cache change answers: they are \
             measured, and never taken by themselves.",
            report.best_seconds
        )),
    ];
    if report.is_noisy {
        best.push(Part::Text(
            "The control was not as fast at the end as at the start, or was not measured again: the machine had other \
             work, and small differences between rows say nothing."
                .to_owned(),
        ));
    }
    best.push(Part::Text(match profile {
        Some(path) => format!("Kept in {path}; this model is opened with it from now on."),
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
        Some(path) => format!("Kept in {path}."),
        None => "Not kept, because the run was stopped.".to_owned(),
    };
    let say = format!(
        "{} texts of very different lengths; budgets take turns. Of those within 3 % of the best, the smallest is \
         taken.{}",
        thousands(report.texts),
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
