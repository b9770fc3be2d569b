//! The report as Markdown.

use crate::output::steers;
use crate::summary::{duration, thousands};

use super::Report;

/// Writes the report; what comes from documents is escaped.
pub(crate) fn document(report: &Report) -> String {
    let mut text = format!("# {}\n\n", escaped(report.name()));
    let overview = &report.overview;
    text += &format!(
        "{} of {} inputs ok, {} chunks, {} tokens; model {} ({}), chunker {}. Made {}.\n\n## Inputs by verdict\n\n| verdict | inputs |\n|---|---:|\n",
        thousands(report.ok()),
        thousands(report.inputs()),
        thousands(overview.chunks),
        thousands(overview.tokens),
        escaped(&report.settings.model_name),
        escaped(&report.settings.dtype),
        escaped(&report.settings.chunker),
        report.made
    );
    for (verdict, count) in &overview.by_verdict {
        text += &format!("| {verdict} | {} |\n", thousands(*count));
    }
    text += &largest_run(report);
    text += &runs(report);
    text += &failures(report);
    text
}

fn largest_run(report: &Report) -> String {
    let Some(run) = &report.largest else { return String::new() };
    let receipt = &run.receipt;
    let mut text = format!(
        "\n## Largest run\n\n{}, {}, {} tokens/s, {:.0} % of the measured roof on {} ({}).\n\n\
         | stage | threads | busy s | starved s | blocked s | items |\n|---|---:|---:|---:|---:|---:|\n",
        receipt.started,
        duration(receipt.seconds),
        thousands(receipt.rate.tokens_per_s as u64),
        receipt.rate.percent_of_roof,
        escaped(&receipt.device.name),
        receipt.device.isa
    );
    for stage in &receipt.stages {
        text += &format!(
            "| {} | {} | {:.1} | {:.1} | {:.1} | {} |\n",
            stage.name,
            stage.threads,
            stage.busy_s,
            stage.starved_s,
            stage.blocked_s,
            thousands(stage.items)
        );
    }
    text
}

fn runs(report: &Report) -> String {
    if report.runs.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n## Runs\n\n| started | took | inputs | unchanged | not ok | tokens | tokens/s |\n|---|---:|---:|---:|---:|---:|---:|\n",
    );
    for run in report.runs.iter().rev() {
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            run.started,
            duration(run.seconds),
            thousands(run.inputs),
            thousands(run.reused),
            thousands(run.not_ok),
            thousands(run.tokens),
            thousands(run.tokens_per_s as u64)
        );
    }
    text
}

fn failures(report: &Report) -> String {
    let mut text = String::new();
    for (verdict, inputs) in &report.not_ok {
        text += &format!("\n## Not ok: {verdict}\n\n");
        for input in inputs {
            text += &format!("- {}: {}\n", escaped(&input.item), escaped(&input.why));
        }
        if let Some(more) = report.not_listed.get(verdict) {
            text += &format!("- and {} more\n", thousands(*more as u64));
        }
    }
    text
}

/// Text that stays text: nothing in it starts markup, a line, or a cell.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if steers(c) || c == '\n' => safe.push('\u{fffd}'),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '!' | '~' | '>' => safe.extend(['\\', c]),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn hostile_text_stays_text() {
        assert_eq!(escaped("a|b\n# <b>[x](y)"), "a\\|b\u{fffd}\\# &lt;b\\>\\[x\\](y)");
    }
}
