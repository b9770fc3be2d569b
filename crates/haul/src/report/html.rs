//! The report as one page that needs nothing else: no script, no font, no image, no network.

use std::borrow::Cow;

use haul_pipeline::receipt::Receipt;
use haul_pipeline::stage::StageAccount;

use super::charts;
use super::{Largest, NotOk, Report, count};
use crate::output::steers;
use crate::summary::{duration, thousands};

/// The look of all pages.
pub(super) const STYLE: &str = include_str!("style.css");
/// Rates over fewer steps than this are no curve.
const CURVE_STEPS_MIN: usize = 3;

/// The whole page. Everything that may come from a document or a path is escaped.
pub(crate) fn page(report: &Report) -> String {
    let parts = [
        head(report),
        verdicts(report),
        largest_run(report),
        chunks(report),
        runs(report),
        failures(report),
        settings(report),
    ];
    shell(report.name(), &parts.concat())
}

/// A page with this body.
pub(super) fn shell(title: &str, body: &str) -> String {
    shell_under(title, body, "default-src 'none'; style-src 'unsafe-inline'")
}

/// A page with this body, which has the pictures it shows in itself.
pub(super) fn shell_with_pictures(title: &str, body: &str) -> String {
    shell_under(title, body, "default-src 'none'; style-src 'unsafe-inline'; img-src data:")
}

/// The policy makes the browser hold what the page promises.
fn shell_under(title: &str, body: &str, policy: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn head(report: &Report) -> String {
    let overview = &report.overview;
    let figures = [
        (thousands(overview.documents), "documents"),
        (thousands(overview.chunks), "chunks"),
        (thousands(overview.tokens), "tokens"),
    ];
    let figures: String = figures
        .iter()
        .map(|(number, what)| format!("<div><b>{number}</b><span>{what}</span></div>"))
        .collect();
    let rate = report.largest.as_ref().map_or_else(String::new, |run| {
        let tokens_per_s = thousands(run.receipt.rate.tokens_per_s as u64);
        format!("<div><b>{tokens_per_s}</b><span>tokens/s in the largest run</span></div>")
    });
    format!(
        "<header>\n<h1>{}</h1>\n<p class=\"path\">{}</p>\n<div class=\"figures\">{figures}{rate}</div>\n</header>\n",
        escaped(report.name()),
        escaped(&report.library)
    )
}

fn verdicts(report: &Report) -> String {
    let all = report.inputs().max(1);
    let (mut bar, mut rows) = (String::new(), String::new());
    let mut by_verdict: Vec<(&String, &u64)> = report.overview.by_verdict.iter().collect();
    by_verdict.sort_by_key(|(verdict, inputs)| (*verdict != "ok", std::cmp::Reverse(**inputs)));
    for (verdict, inputs) in by_verdict {
        let share = 100.0 * count(*inputs) / count(all);
        let class = if verdict == "ok" { "ok" } else { "bad" };
        bar +=
            &format!("<i class=\"{class}\" style=\"flex-grow:{inputs}\" title=\"{verdict}: {inputs}\"></i>");
        rows += &format!(
            "<tr><td><i class=\"dot {class}\"></i>{verdict}</td><td>{}</td><td>{share:.1} %</td></tr>",
            thousands(*inputs)
        );
    }
    let stale = match report.overview.stale_documents {
        0 => String::new(),
        stale => format!(
            "<p>{} documents are served in an older revision, because the newest could not be read.</p>",
            thousands(stale)
        ),
    };
    let groups = [("Formats", &report.overview.formats), ("Languages", &report.overview.languages)];
    let groups: String = groups
        .iter()
        .map(|(title, groups)| {
            let shown = groups.iter().map(|(name, n)| format!("{} {}", escaped(name), thousands(*n)));
            format!("<dt>{title}</dt><dd>{}</dd>", shown.collect::<Vec<_>>().join(", "))
        })
        .collect();
    section(
        "Inputs by verdict",
        &format!(
            "<div class=\"stack\">{bar}</div>{}<dl>{groups}</dl>{stale}",
            table(&["verdict", "inputs", "share"], &rows)
        ),
    )
}

fn largest_run(report: &Report) -> String {
    let Some(run) = &report.largest else {
        return section("Largest run", "<p>No run that computed anything is kept beside this library.</p>");
    };
    let receipt = &run.receipt;
    let mut body = format!(
        "<p>{}, on {}: {} tokens in {}.</p>",
        escaped(&receipt.started),
        escaped(&receipt.host),
        thousands(receipt.work.tokens),
        duration(receipt.seconds)
    );
    body += &device(receipt);
    body += &curves(run);
    body += "<h3>Where the time of each stage went</h3>";
    body += "<p class=\"legend\"><span><i class=\"dot busy\"></i>busy</span> <span><i class=\"dot starved\"></i>starved \
             of input</span> <span><i class=\"dot blocked\"></i>blocked by the next stage</span></p>";
    body += &receipt.stages.iter().map(stage).collect::<String>();
    section("Largest run", &body)
}

fn device(receipt: &Receipt) -> String {
    let device = &receipt.device;
    let roof = format!(
        "{:.0} GFLOP/s, {:.0} % of the measured roof",
        receipt.rate.gflops, receipt.rate.percent_of_roof
    );
    let witnesses: String =
        device.witnesses.iter().map(|w| format!("<li>{}</li>", escaped(&w.detail))).collect();
    let forecast = receipt.forecast.map_or_else(String::new, |forecast| {
        format!(
            "<dt>Forecast</dt><dd>{} to {}, off by {:+.0} %</dd>",
            duration(forecast.low_s),
            duration(forecast.high_s),
            100.0 * forecast.error
        )
    });
    let quality = receipt.quality.as_ref().map_or_else(String::new, |quality| {
        format!(
            "<dt>Agreement</dt><dd>{} {:.5} with {}, worst {:.5}</dd>",
            escaped(&quality.metric),
            1.0 - quality.delta,
            escaped(&quality.against),
            quality.cosine_min
        )
    });
    let memory = receipt.memory.peak_rss.map_or_else(String::new, |bytes| {
        format!("<dt>Memory</dt><dd>{} at most</dd>", crate::summary::bytes(bytes))
    });
    format!(
        "<dl><dt>Device</dt><dd>{} ({}, {})</dd><dt>Speed</dt><dd>{roof}</dd>{quality}{memory}{forecast}</dl>\
         <details><summary>What proves the device</summary><ul>{witnesses}</ul></details>",
        escaped(&device.name),
        escaped(&device.used),
        escaped(&device.isa)
    )
}

fn curves(run: &Largest) -> String {
    let rates = run.rates();
    if rates.len() < CURVE_STEPS_MIN {
        return "<p class=\"quiet\">The run was too short for rates over time.</p>".to_owned();
    }
    let tokens: Vec<(f64, f64)> = rates.iter().map(|rate| (rate.seconds, rate.tokens_per_s)).collect();
    let chunks: Vec<(f64, f64)> = rates.iter().map(|rate| (rate.seconds, rate.chunks_per_min)).collect();
    format!(
        "<h3>Tokens per second</h3>{}<h3>Chunks per minute</h3>{}",
        charts::curve(&tokens, "one", "Tokens per second over time"),
        charts::curve(&chunks, "two", "Chunks per minute over time")
    )
}

fn stage(stage: &StageAccount) -> String {
    let all = (stage.busy_s + stage.starved_s + stage.blocked_s).max(1e-9);
    let parts = [("busy", stage.busy_s), ("starved", stage.starved_s), ("blocked", stage.blocked_s)];
    let bar: String = parts
        .iter()
        .map(|(class, seconds)| {
            format!(
                "<i class=\"{class}\" style=\"width:{:.2}%\" title=\"{class} {seconds:.1} s\"></i>",
                100.0 * seconds / all
            )
        })
        .collect();
    format!(
        "<div class=\"stage\"><span>{}</span><div class=\"bar\">{bar}</div><span>{} busy, {} items</span></div>",
        escaped(&stage.name),
        duration(stage.busy_s),
        thousands(stage.items)
    )
}

fn chunks(report: &Report) -> String {
    let histogram = charts::histogram(&report.overview.chunk_tokens, "tokens");
    if histogram.is_empty() {
        return String::new();
    }
    section("Tokens of a chunk", &histogram)
}

fn runs(report: &Report) -> String {
    if report.runs.is_empty() {
        return String::new();
    }
    let row = |run: &super::Run| {
        let error = run.forecast_error.map_or_else(String::new, |error| format!("{:+.0} %", 100.0 * error));
        format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{error}</td></tr>",
            escaped(&run.started),
            duration(run.seconds),
            thousands(run.inputs),
            thousands(run.reused),
            thousands(run.not_ok),
            thousands(run.tokens),
            thousands(run.tokens_per_s as u64)
        )
    };
    let rows: String = report.runs.iter().rev().map(row).collect();
    let names = ["started", "took", "inputs", "unchanged", "not ok", "tokens", "tokens/s", "forecast off"];
    section("Runs", &table(&names, &rows))
}

fn failures(report: &Report) -> String {
    let mut body = String::new();
    for (verdict, inputs) in &report.not_ok {
        let more = report.not_listed.get(verdict).copied().unwrap_or(0);
        let all = thousands((inputs.len() + more) as u64);
        let open = if report.not_ok.len() == 1 { " open" } else { "" };
        let items: String = inputs.iter().map(failure).collect();
        let rest = match more {
            0 => String::new(),
            more => format!("<p class=\"quiet\">and {} more</p>", thousands(more as u64)),
        };
        body += &format!(
            "<details{open}><summary>{verdict} <b>{all}</b></summary><ul class=\"inputs\">{items}</ul>{rest}</details>"
        );
    }
    if body.is_empty() { String::new() } else { section("Not ok", &body) }
}

fn failure(input: &NotOk) -> String {
    let attempts = match input.attempts {
        0 | 1 => String::new(),
        attempts => format!(" <em>{attempts} attempts</em>"),
    };
    format!("<li><code>{}</code><span>{}{attempts}</span></li>", escaped(&input.item), escaped(&input.why))
}

fn settings(report: &Report) -> String {
    let shown = |value: &serde_json::Value| match value.as_str() {
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    let settings = serde_json::to_value(&report.settings).ok();
    let fields = settings.as_ref().and_then(serde_json::Value::as_object);
    let rows: String = fields
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let shown = shown(value);
            let shown = if shown.is_empty() { "none".to_owned() } else { shown };
            format!("<dt>{}</dt><dd>{}</dd>", escaped(&name.replace('_', " ")), escaped(&shown))
        })
        .collect();
    section(
        "Settings of the library",
        &format!(
            "<dl>{rows}</dl><p class=\"quiet\">Made {} by haul {}.</p>",
            report.made,
            env!("CARGO_PKG_VERSION")
        ),
    )
}

pub(super) fn section(title: &str, body: &str) -> String {
    format!("<section>\n<h2>{title}</h2>\n{body}\n</section>\n")
}

pub(super) fn table(names: &[&str], rows: &str) -> String {
    let names: String = names.iter().map(|name| format!("<th>{name}</th>")).collect();
    format!("<div class=\"wide\"><table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table></div>")
}

/// Text that stays text, in elements and in quoted attributes; what could turn the direction of the page is shown as
/// U+FFFD.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    const MARKUP: [char; 5] = ['&', '<', '>', '"', '\''];
    if !text.contains(|c| MARKUP.contains(&c) || steers(c)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if steers(c) => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "<script>alert('x')</script>\" onload=\u{1b}[2J \u{202e}&amp;";
        let safe = escaped(hostile);
        assert!(!safe.contains(['<', '>', '"', '\'', '\u{1b}', '\u{202e}']), "{safe}");
        assert_eq!(escaped("R&D"), "R&amp;D");
        assert_eq!(escaped("plain ä 走"), "plain ä 走");
    }
}
