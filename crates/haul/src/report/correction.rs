//! What a correction changed, as one page that needs nothing else: no script, no font, no image, no network.

use std::path::Path;

use haul_jobs::correct::diff::{self, Op};
use haul_jobs::correct::{Corrected, Kept, Outcome, Status};
use haul_pipeline::receipt::Receipt;

use super::html::{STYLE, escaped};
use crate::summary::{duration, thousands};

const CHANGES: &str = include_str!("correction.css");
/// Passages without a change are shown around those with one, so many before and behind.
const CONTEXT: usize = 1;

/// The whole page.
pub(crate) fn page(file: &Path, outcome: &Outcome, receipt: &Receipt) -> String {
    let name = file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let name = escaped(&name).into_owned();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{name}: corrections</title>\n<style>\n{STYLE}{CHANGES}</style>\n</head>\n<body>\n<main>\n{}{}</main>\n</body>\n</html>\n",
        head(&name, outcome, receipt),
        passages(outcome),
    )
}

fn head(name: &str, outcome: &Outcome, receipt: &Receipt) -> String {
    let count = |is: fn(&Status) -> bool| {
        thousands(outcome.passages.iter().filter(|passage| is(&passage.status)).count() as u64)
    };
    let figures = [
        (count(|status| matches!(status, Status::Corrected | Status::PartlyCorrected { .. })), "corrected"),
        (count(|status| matches!(status, Status::Unchanged)), "without a mistake"),
        (
            count(|status| matches!(status, Status::Kept { .. } | Status::PartlyCorrected { .. })),
            "to be looked at",
        ),
        (thousands(receipt.rate.tokens_per_s as u64), "tokens/s"),
        (duration(receipt.seconds), "in all"),
    ];
    let figures: String = figures
        .iter()
        .map(|(number, what)| format!("<div><b>{number}</b><span>{what}</span></div>"))
        .collect();
    let model =
        receipt.model.as_ref().map_or_else(String::new, |model| format!("{} ({})", model.id, model.dtype));
    format!(
        "<header>\n<h1>{name}</h1>\n<p class=\"path\">{} on {}</p>\n<div class=\"figures\">{figures}</div>\n</header>\n",
        escaped(&model),
        escaped(&receipt.device.name)
    )
}

fn passages(outcome: &Outcome) -> String {
    let is_shown = |number: usize| {
        let near = number.saturating_sub(CONTEXT)..(number + CONTEXT + 1).min(outcome.passages.len());
        outcome.passages[near].iter().any(is_of_interest)
    };
    let mut text = String::from("<section>\n");
    let mut left_out = 0;
    for (number, passage) in outcome.passages.iter().enumerate() {
        if is_shown(number) {
            text += &gap(left_out);
            left_out = 0;
            text += &shown(passage);
        } else {
            left_out += 1;
        }
    }
    text + &gap(left_out) + "</section>\n"
}

fn is_of_interest(passage: &Corrected) -> bool {
    !matches!(passage.status, Status::Unchanged | Status::Skipped)
}

fn gap(passages: u64) -> String {
    match passages {
        0 => String::new(),
        _ => format!("<p class=\"gap\">{} passages without a change</p>\n", thousands(passages)),
    }
}

fn shown(passage: &Corrected) -> String {
    let changes = match &passage.after {
        Some(after) => diff::words(&passage.before, after).iter().map(change).collect(),
        None => escaped(&passage.before).into_owned(),
    };
    let (class, kept): (_, &[Kept]) = match &passage.status {
        Status::Corrected => ("corrected", &[]),
        Status::PartlyCorrected { kept } => ("corrected", kept),
        Status::Kept { kept } => ("kept", kept),
        Status::Unchanged | Status::Skipped | Status::NotAsked => ("same", &[]),
    };
    let reasons: String = kept
        .iter()
        .map(|kept| format!("<p class=\"why\">kept: {} ({})</p>\n", escaped(&kept.text), escaped(&kept.why)))
        .collect();
    format!(
        "<article class=\"{class}\">\n<p class=\"place\">{}</p>\n<p>{changes}</p>\n{reasons}</article>\n",
        escaped(&passage.place)
    )
}

fn change(change: &diff::Change) -> String {
    let text = escaped(&change.text);
    match change.op {
        Op::Equal => text.into_owned(),
        Op::Delete => format!("<del>{text}</del>"),
        Op::Insert => format!("<ins>{text}</ins>"),
    }
}
