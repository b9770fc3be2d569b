//! What passes say of images, as people read it.

use std::path::Path;

use haul_jobs::vision::analyze::{Analysis, Quantity, Reading};
use haul_jobs::vision::experiment::Experiment;
use haul_jobs::vision::mc::Plan;
use haul_jobs::vision::statistics::reliability::Status;
use haul_pipeline::receipt::Receipt;
use serde_json::{Map, Value};

use super::{bytes, duration, list, thousands};
use crate::commands::vision::mc::Ran;

/// The share of what dropout does from which on rounding is worth another dtype.
const ROUNDING_NOTED: f64 = 0.10;

fn counted(count: u64, one: &str, more: &str) -> String {
    format!("{} {one}{}", thousands(count), if count == 1 { "" } else { more })
}

/// A table for each file, then what could not be read.
pub(crate) fn analysis(found: &Analysis) -> String {
    let mut text = String::new();
    for reading in &found.files {
        table(&mut text, reading);
    }
    for unread in &found.failures {
        line!(text, "{}: {}", unread.file.display(), unread.why);
    }
    line!(text, "{} read, {} not", found.files.len(), found.failures.len());
    text
}

fn table(text: &mut String, reading: &Reading) {
    line!(text, "{}", reading.file.display());
    let passes = reading.passes.map_or_else(String::new, |passes| format!(" of {passes} passes"));
    line!(
        text,
        "  {}, {}{passes}",
        counted(reading.images as u64, "image", "s"),
        counted(reading.trials as u64, "trial", "s")
    );
    line!(
        text,
        "  {:18} {:>10} {:>7} {:>7} {:>7} {:>8} {:>7} {:>7}",
        "quantity",
        "mean",
        "snr",
        "icc",
        "rho",
        "status",
        "of mean",
        "T .75"
    );
    for (name, quantity) in &reading.quantities {
        line!(text, "  {name:18} {}", row(quantity));
    }
    for (name, rho) in &reading.spearman {
        line!(text, "  rho of {name}: {rho:.4}");
    }
    for (name, area) in &reading.auroc {
        line!(text, "  AUROC for {name}: {area:.4}");
    }
    line!(text);
}

fn row(quantity: &Quantity) -> String {
    let reliability = quantity.reliability.as_ref();
    let shown = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.4}"));
    let snr = reliability.and_then(|of| of.snr);
    let snr = snr.map_or_else(
        || "-".to_owned(),
        |snr| if snr < 1e3 { format!("{snr:.3}") } else { format!("{snr:.1e}") },
    );
    let needed = quantity.law.as_ref().and_then(|law| law.passes_for_icc_75);
    let needed = needed.map_or_else(|| "-".to_owned(), |passes| passes.to_string());
    format!(
        "{:>10.3e} {snr:>7} {:>7} {:>7} {:>8} {:>7} {needed:>7}",
        quantity.mean,
        shown(reliability.and_then(|of| of.icc)),
        shown(reliability.and_then(|of| of.pairwise_spearman_median)),
        reliability.map_or("-", |of| of.status.name()),
        shown(reliability.and_then(|of| of.icc_of_mean)),
    )
}

/// What passes over images came to.
pub(crate) fn passes(receipt: &Receipt, ran: &[Ran], compared: &[Compared], out: &Path) -> String {
    let mut text = String::new();
    let items = &receipt.items;
    line!(
        text,
        "{}: {} ok, {} not ok",
        counted(items.total, "image", "s"),
        thousands(items.ok),
        thousands(items.total - items.ok)
    );
    let computed: u64 = ran.iter().map(|ran| ran.outcome.passes).sum();
    let reused: u64 = ran.iter().map(|ran| ran.outcome.reused_passes).sum();
    let by_earlier =
        if reused > 0 { format!("; {} more by an earlier run", thousands(reused)) } else { String::new() };
    let compute_s: f64 = ran.iter().map(|ran| ran.outcome.compute_s).sum();
    let of_passes =
        if computed > 0 { format!(", {} of computing", duration(compute_s)) } else { String::new() };
    let took = duration(receipt.seconds);
    line!(text, "{} in {took}{of_passes}{by_earlier}", counted(computed, "pass", "es"));
    if computed > 0 {
        let rate = &receipt.rate;
        let dtype = receipt.model.as_ref().map_or("", |model| model.dtype.as_str());
        line!(
            text,
            "{:.1} image passes/s, {:.0} GFLOP/s on {} in {dtype}, {:.0} % of its measured roof",
            rate.items_per_s,
            rate.gflops,
            receipt.device.used,
            rate.percent_of_roof
        );
    }
    for compared in compared {
        line!(text);
        compared.text(&mut text);
    }
    for ran in ran.iter().filter(|ran| !ran.tables.is_empty()) {
        trials(&mut text, ran);
    }
    let failures: Vec<_> =
        receipt.failures.iter().map(|f| format!("{}: {} ({})", f.item, f.verdict, f.why)).collect();
    list(&mut text, "not ok", &failures);
    let notes: Vec<_> = receipt.notes.iter().map(|note| format!("{}: {}", note.item, note.says)).collect();
    list(&mut text, "ok, but", &notes);
    let is_whole = ran.iter().any(|ran| !ran.tables.is_empty());
    let results = if is_whole { out.join("report.html") } else { out.to_owned() };
    line!(text, "\nresults: {}", results.display());
    text
}

/// What an experiment compares, as a table.
pub(crate) struct Compared {
    pub(crate) title: String,
    pub(crate) names: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Compared {
    fn text(&self, text: &mut String) {
        line!(text, "{}", self.title);
        for row in [&self.names].into_iter().chain(&self.rows) {
            let cells = row.iter().skip(1).map(|cell| format!(" {cell:>11}")).collect::<String>();
            line!(text, "  {:14}{cells}", row.first().map_or("", String::as_str));
        }
    }
}

/// A table for each model, where the experiment has one.
pub(crate) fn compared(experiment: Experiment, results: &Map<String, Value>) -> Vec<Compared> {
    let of = match experiment {
        Experiment::Ablation => worse,
        Experiment::Exp1 => rates,
        Experiment::Exp3 => types,
        Experiment::Exp5 => ambiguity,
        Experiment::Exp6 => distances,
        _ => return vec![],
    };
    results.iter().map(|(model, found)| of(model, found)).collect()
}

fn shown(number: &Value) -> String {
    number.as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.4}"))
}

fn words(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Images made worse against themselves.
fn worse(model: &str, found: &Value) -> Compared {
    let row = |(name, of): (&String, &Value)| {
        let share = of["frac_increased"].as_f64()?;
        Some(vec![
            name.clone(),
            format!("{:.1} %", 100.0 * share),
            format!("{:+.1} %", of["rel_change_pct"].as_f64().unwrap_or(f64::NAN)),
            of["wilcoxon_p_greater"].as_f64().map_or_else(|| "-".to_owned(), |p| format!("{p:.2e}")),
            if of["passes_gate"] == true { "passes" } else { "fails" }.to_owned(),
        ])
    };
    Compared {
        title: format!("{model}: images made worse"),
        names: words(&["", "less certain", "trace", "Wilcoxon p", "gate of 75 %"]),
        rows: found.as_object().into_iter().flatten().filter_map(row).collect(),
    }
}

/// Uncertainty against what a model cannot name for sure.
fn ambiguity(model: &str, found: &Value) -> Compared {
    let row = |(name, key, other): (&str, &str, &str)| {
        let other = if other.is_empty() { "-".to_owned() } else { shown(&found[other]) };
        vec![name.to_owned(), shown(&found[key]), other]
    };
    let rows = [
        ("small margins", "rho_uncertainty_vs_negative_margin", "auroc_low_margin"),
        ("high entropy", "rho_uncertainty_vs_entropy", "auroc_high_entropy"),
        ("other words, other answers", "rho_uncertainty_vs_prompt_sensitivity", ""),
    ];
    let top1 = found["top1"]
        .as_f64()
        .map_or_else(String::new, |top1| format!(", {:.1} % named right", 100.0 * top1));
    Compared {
        title: format!("{model}: is it uncertain where it cannot tell?{top1}"),
        names: words(&["uncertainty beside", "rho", "AUROC"]),
        rows: rows.into_iter().map(row).collect(),
    }
}

/// Rates against each other.
fn rates(model: &str, found: &Value) -> Compared {
    let rates: Vec<String> =
        found["p_values"].as_array().into_iter().flatten().map(Value::to_string).collect();
    let row = |(no, rate): (usize, &String)| {
        let of = &found["reliability_by_p"][rate];
        let mean = of["mean"].as_f64().map_or_else(|| "-".to_owned(), |mean| format!("{mean:.3e}"));
        let first = shown(&found["spearman_matrix"][no][0]);
        let last = shown(&found["spearman_matrix"][no][rates.len() - 1]);
        vec![format!("p {rate}"), mean, shown(&of["icc"]), first, last]
    };
    Compared {
        title: format!("{model}: ranks of images over rates"),
        names: words(&["", "trace_pre", "icc", "rho first", "rho last"]),
        rows: rates.iter().enumerate().map(row).collect(),
    }
}

/// Sets of sites against each other.
fn types(model: &str, found: &Value) -> Compared {
    let cross = &found["cross_type"];
    let types: Vec<String> = cross["types"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let row = |(no, name): (usize, &String)| {
        let of = &found["results_by_type"][name];
        let sites = of["notes"].as_str().unwrap_or("");
        let mean = of["trace_mean"].as_f64().map_or_else(|| "-".to_owned(), |mean| format!("{mean:.3e}"));
        let rhos = cross["trace_spearman_matrix"][no].as_array().into_iter().flatten().map(shown);
        [format!("{name} {sites}"), mean, shown(&of["trace_pre"]["icc"])].into_iter().chain(rhos).collect()
    };
    let names =
        [words(&["", "trace_pre", "icc"]), types.iter().map(|name| format!("rho with {name}")).collect()];
    Compared {
        title: format!("{model}: which layers are disturbed"),
        names: names.concat(),
        rows: types.iter().enumerate().map(row).collect(),
    }
}

/// Means of passes against the feature without dropout.
fn distances(model: &str, found: &Value) -> Compared {
    let row = |(name, of): (&String, &Value)| {
        of.get("rel_dist_mean")?;
        let number = |key: &str| shown(&of[key]);
        Some(vec![name.clone(), number("rel_dist_mean"), number("rel_dist_median"), number("rel_dist_q95")])
    };
    let mut rows: Vec<Vec<String>> = found.as_object().into_iter().flatten().filter_map(row).collect();
    rows.sort_by_key(|row| row[0].trim_start_matches("T=").parse::<u32>().unwrap_or(0));
    Compared {
        title: format!("{model}: the mean of T passes, slope {}", shown(&found["convergence_slope"])),
        names: words(&["", "distance", "median", "95 %"]),
        rows,
    }
}

/// Whether trials agree, after each number of passes.
fn trials(text: &mut String, ran: &Ran) {
    line!(text);
    let sites = ran.outcome.audit.len();
    line!(
        text,
        "{}: {} {}",
        ran.title(),
        counted(sites as u64, "site", "s"),
        if sites == 1 { "fires" } else { "fire" }
    );
    if let Some(rounding) = &ran.outcome.rounding {
        line!(text, "  cosine with f32 {:.5}, worst {:.5}", rounding.cosine, rounding.cosine_min);
        if let Some(share) = rounding.rounding_over_noise {
            let hint = if share > ROUNDING_NOTED { "; --dtype f32 has none of it" } else { "" };
            line!(text, "  rounding is {:.1} % of what dropout does{hint}", 100.0 * share);
        }
    }
    line!(
        text,
        "  {:>5} {:11} {:>10} {:>7} {:>7} {:>7} {:>8} {:>7}",
        "T",
        "quantity",
        "mean",
        "snr",
        "icc",
        "rho",
        "status",
        "T .75"
    );
    for table in &ran.tables {
        if let Some(of) = ran.enough.and_then(|enough| table.stopped(enough)) {
            line!(
                text,
                "  each image until it is known: {} to {} passes, {:.1} on average;\n  {} of {} not reached",
                of.passes_min,
                of.passes_max,
                of.passes_mean,
                thousands(of.unreached as u64),
                thousands(table.counts.len() as u64)
            );
        }
        for (name, told) in [("trace_pre", table.told_trace()), ("trace_post", table.told(&table.trace_post))]
        {
            let shown =
                |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.4}"));
            let reliability = &told.reliability;
            let needed = told.law.as_ref().and_then(|law| law.passes_for_icc_75);
            line!(
                text,
                "  {:>5} {name:11} {:>10.3e} {:>7} {:>7} {:>7} {:>8} {:>7}",
                table.passes,
                told.mean,
                reliability.snr.map_or_else(|| "-".to_owned(), |snr| format!("{snr:.3}")),
                shown(reliability.icc),
                shown(reliability.pairwise_spearman_median),
                short(reliability.status),
                needed.map_or_else(|| "-".to_owned(), |passes| passes.to_string())
            );
        }
    }
}

/// A status within its column.
fn short(status: Status) -> &'static str {
    match status {
        Status::InsufficientTrials => "1 trial",
        status => status.name(),
    }
}

/// What runs would take.
pub(crate) fn plans(plans: &[Plan], not_ok: usize) -> String {
    let mut text = String::new();
    for plan in plans {
        line!(
            text,
            "{}: {}, {}, {:.1} image passes/s now",
            plan.model,
            counted(plan.images as u64, "image", "s"),
            counted(plan.sites as u64, "site", "s"),
            plan.passes_per_s
        );
        line!(
            text,
            "  memory: {} weights, {} activations, {} an image under way",
            bytes(plan.weights_bytes as u64),
            bytes(plan.arena_bytes as u64),
            bytes(plan.state_bytes as u64)
        );
        for way in &plan.ways {
            line!(text, "  {:>12} passes {:>12}", thousands(way.passes), duration(way.seconds));
            line!(text, "    {}", way.says);
        }
    }
    if not_ok > 0 {
        line!(text, "{} images cannot be read; the run lists them", thousands(not_ok as u64));
    }
    text
}
