//! The report of a comparison.

use haul_jobs::compare::cases::Scores;
use haul_jobs::compare::{Against, FileReport, Report};
use haul_jobs::statistics::{Interval, Paired, Ratio, Share, Summary};
use haul_machine::verdict::Placement;

use super::sheet::{Part, Sheet};
use crate::summary::{bytes, thousands};

/// Answers that do not pass are listed up to this many for each file; the JSON has all.
const FAULTS_LISTED_MAX: usize = 40;

pub(crate) fn sheet(report: &Report, made: &str) -> Sheet {
    let recommendation = &report.recommendation;
    let mut sheet = Sheet {
        title: format!("Compared with {}", report.base),
        lead: format!("haul compare, {made}"),
        figures: vec![
            (recommendation.take.clone(), "to take, by the rule below".to_owned()),
            (thousands(report.files.len() as u64), "files".to_owned()),
            (
                thousands(report.scored_tokens),
                format!("of {} tokens of the text compared", thousands(report.text_tokens)),
            ),
        ],
        sections: vec![],
    };
    let lines = std::iter::once(format!("take {}: {}", recommendation.take, recommendation.why))
        .chain(recommendation.files.iter().cloned());
    sheet.section(
        "Which to take",
        vec![Part::List(lines.collect()), Part::Text(recommendation.rule.to_owned())],
    );
    placement(&mut sheet, report);
    speed(&mut sheet, report);
    quality(&mut sheet, report);
    cases(&mut sheet, report);
    document(&mut sheet, report);
    memory(&mut sheet, report);
    sheet
}

/// The verdict in one word or two.
pub(crate) fn verdict(placement: Placement) -> &'static str {
    match placement {
        Placement::OnDevice => "on the device",
        Placement::Partial => "in parts",
        Placement::Cpu => "cpu",
        Placement::Unknown => "unknown",
    }
}

fn placement(sheet: &mut Sheet, report: &Report) {
    let rows = report.files.iter().map(|file| {
        let place = &file.placement;
        vec![
            file.subject.name.clone(),
            verdict(place.verdict).to_owned(),
            place.used.clone(),
            format!("{:.1} / {:.1}", file.machine_read_gb_per_s.0, file.machine_read_gb_per_s.1),
        ]
    });
    let witnesses = report.files.iter().flat_map(|file| {
        let name = &file.subject.name;
        file.placement
            .witnesses
            .iter()
            .map(move |witness| format!("{name}: {} ({})", witness.detail, witness.says))
    });
    let marks = report.against_base.iter().filter_map(|against| {
        Some(format!("{}: speeds are not compared: {}", against.name, against.not_comparable.as_ref()?))
    });
    sheet.section(
        "Where it ran",
        vec![
            Part::table(&["file", "verdict", "used", "memory GB/s before / after"], rows.collect()),
            Part::List(marks.chain(witnesses).collect()),
        ],
    );
}

fn speed(sheet: &mut Sheet, report: &Report) {
    let against = |name: &str| report.against_base.iter().find(|against| against.name == name);
    let rows = report.files.iter().map(|file| {
        let against = against(&file.subject.name);
        vec![
            file.subject.name.clone(),
            bytes(file.subject.bytes),
            format!("{} ms", thousands(file.load_ms + file.context_ms)),
            rate(file.speed.prefill_tokens_per_s.as_ref()),
            rate(file.speed.decode_tokens_per_s.as_ref()),
            ratio(against.and_then(|against| against.prefill)),
            ratio(against.and_then(|against| against.decode)),
        ]
    });
    let first =
        report.files.first().map_or((0, 0), |file| (file.speed.prefill_tokens, file.speed.decode_tokens));
    let (prefill, decode) = (format!("pp{} t/s", first.0), format!("tg{} t/s", first.1));
    let names = ["file", "size", "load", &prefill, &decode, "prefill / base", "decode / base"];
    sheet.section("Speed", vec![
        Part::table(&names, rows.collect()),
        Part::Text(
            "Mean and standard deviation of the measured runs, after one to warm up; ratios with their 95 % intervals."
                .to_owned(),
        ),
    ]);
}

fn rate(summary: Option<&Summary>) -> String {
    summary.map_or_else(|| "-".to_owned(), |rates| format!("{:.1} ± {:.1}", rates.mean, rates.sd))
}

fn ratio(ratio: Option<Ratio>) -> String {
    match ratio {
        None => "-".to_owned(),
        Some(Ratio { ratio, interval: None }) => format!("{ratio:.2}"),
        Some(Ratio { ratio, interval: Some(Interval { low, high }) }) => {
            format!("{ratio:.2} ({low:.2}..{high:.2})")
        }
    }
}

fn quality(sheet: &mut Sheet, report: &Report) {
    let mut rows = Vec::new();
    let mut marks = Vec::new();
    for file in report.files.iter().skip(1) {
        let name = file.subject.name.clone();
        if let Some(why) = &file.no_divergence {
            marks.push(format!("{name}: not compared: {why}"));
        }
        let Some(found) = &file.divergence else { continue };
        let within =
            found.kld.interval.map_or_else(String::new, |i| format!(" ({:.5}..{:.5})", i.low, i.high));
        rows.push(vec![
            name,
            format!("{:.5}{within}", found.kld.mean),
            format!(
                "{:.5} / {:.5} / {:.5} / {:.4}",
                found.kld.median, found.kld.p90, found.kld.p99, found.kld.max
            ),
            share(&found.same_top, 2),
            format!("{:.2} %", 100.0 * found.delta_p_rms),
            format!("{:+.1} %", 100.0 * found.delta_p_worst),
            format!("{:.4}", found.perplexity_ratio),
        ]);
    }
    let names = [
        "file",
        "mean divergence (nats)",
        "median / 90 % / 99 % / max",
        "same top token",
        "RMS change of p",
        "worst",
        "perplexity / base",
    ];
    let say = format!(
        "Kullback-Leibler divergence of the next token's distribution from {}'s, over its 64 most likely tokens and one \
         bucket for the rest: a lower bound, exactly 0 for equal distributions. {} windows of the text.",
        report.base,
        report.files.iter().find_map(|file| Some(file.divergence.as_ref()?.windows)).unwrap_or(0)
    );
    let mut parts = vec![Part::table(&names, rows), Part::Text(say)];
    if !marks.is_empty() {
        parts.push(Part::List(marks));
    }
    sheet.section("Distributions on the text", parts);
}

fn share(share: &Share, digits: usize) -> String {
    let Share { share, interval, .. } = share;
    format!(
        "{:.digits$} % ({:.digits$}..{:.digits$})",
        100.0 * share,
        100.0 * interval.low,
        100.0 * interval.high
    )
}

fn cases(sheet: &mut Sheet, report: &Report) {
    let scored = || report.files.iter().filter_map(|file| Some((file, file.cases.as_ref()?)));
    let paired = |name: &str| {
        let against = report.against_base.iter().find(|against| against.name == name)?;
        against.cases
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    if let Some((_, scores)) = scored().next() {
        let Share { hits, of, .. } = scores.identity;
        rows.push(vec![
            "(the input as it is)".to_owned(),
            format!("{hits}/{of}"),
            share(&scores.identity, 0),
        ]);
        rows[0].extend(["-".to_owned(), "-".to_owned(), "-".to_owned()]);
    }
    for (file, scores) in scored() {
        let seconds = scores.consistency.seconds.as_ref();
        rows.push(vec![
            file.subject.name.clone(),
            format!("{}/{}", scores.passed.hits, scores.passed.of),
            share(&scores.passed, 0),
            paired(&file.subject.name).map_or_else(|| "-".to_owned(), difference),
            format!("{}/{}", scores.consistency.identical.hits, scores.consistency.identical.of),
            seconds.map_or_else(
                || "asked before".to_owned(),
                |seconds| format!("{:.2} ± {:.2} s", seconds.mean, seconds.sd),
            ),
        ]);
    }
    let names = ["file", "passed", "share (95 %)", "less the base", "same 3 times", "all cases"];
    let mut parts = vec![Part::table(&names, rows), by_category(report)];
    let faults: Vec<String> = scored().flat_map(|(file, scores)| faults(file, scores)).collect();
    if !faults.is_empty() {
        parts.push(Part::List(faults));
    }
    sheet.section("Task cases", parts);
}

fn difference(paired: Paired) -> String {
    let Paired { delta, interval, .. } = paired;
    format!("{:+.0} % ({:+.0}..{:+.0})", 100.0 * delta, 100.0 * interval.low, 100.0 * interval.high)
}

fn by_category(report: &Report) -> Part {
    let scored: Vec<&Scores> = report.files.iter().filter_map(|file| file.cases.as_ref()).collect();
    let files = report.files.iter().filter(|file| file.cases.is_some());
    let names: Vec<&str> = ["category", "doing nothing"]
        .into_iter()
        .chain(files.map(|file| file.subject.name.as_str()))
        .collect();
    let first = scored.first();
    let rows = first.into_iter().flat_map(|scores| scores.by_category.iter()).map(|(name, category)| {
        let of = |share: Share| format!("{}/{}", share.hits, share.of);
        let passed = scored.iter().map(|scores| {
            scores.by_category.get(name).map_or_else(|| "-".to_owned(), |category| of(category.passed))
        });
        [name.clone(), of(category.identity)].into_iter().chain(passed).collect()
    });
    Part::table(&names, rows.collect())
}

fn faults(file: &FileReport, scores: &Scores) -> Vec<String> {
    let failed: Vec<_> = scores.cases.iter().filter(|case| !case.passes()).collect();
    let lines = failed.iter().take(FAULTS_LISTED_MAX).map(|case| {
        let answer = case.answer.as_deref().unwrap_or("no answer");
        format!(
            "{}: {} ({}): {}: \u{201c}{answer}\u{201d}",
            file.subject.name,
            case.name,
            case.category,
            case.faults.join("; ")
        )
    });
    let mut lines: Vec<String> = lines.collect();
    if let Some(more) = failed.len().checked_sub(FAULTS_LISTED_MAX).filter(|more| *more > 0) {
        lines.push(format!("{}: and {more} more", file.subject.name));
    }
    lines
}

fn document(sheet: &mut Sheet, report: &Report) {
    let against =
        |name: &str| -> Option<&Against> { report.against_base.iter().find(|against| against.name == name) };
    let rows = report.files.iter().map(|file| {
        let document = &file.document;
        vec![
            file.subject.name.clone(),
            format!("{:.1}", document.words_per_s),
            format!("{:.1}", document.decode_tokens_per_s),
            format!("{:.1} s", document.seconds),
            against(&file.subject.name)
                .and_then(|against| against.document_ratio)
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            format!("{}/{}", document.changed, document.paragraphs),
            document.same_as_base.map_or_else(|| "-".to_owned(), |same| same.to_string()),
            format!("{} / {}", document.cut, document.failed),
        ]
    });
    let names = [
        "file",
        "words/s",
        "decode t/s",
        "time",
        "words/s / base",
        "changed",
        "as the base's",
        "cut / failed",
    ];
    let of_text = report.files.first().map_or_else(String::new, |file| {
        let document = &file.document;
        format!(
            "{} words in {} of {} paragraphs of the text, all in flight together; measured once.",
            thousands(document.words),
            thousands(document.paragraphs),
            thousands(document.paragraphs_of_text)
        )
    });
    sheet.section(
        "The text as a long document",
        vec![Part::table(&names, rows.collect()), Part::Text(of_text)],
    );
}

fn memory(sheet: &mut Sheet, report: &Report) {
    let rows = report.files.iter().map(|file| {
        let memory = &file.memory;
        let devices: u64 =
            memory.devices.iter().map(|device| device.model_bytes + device.context_bytes).sum();
        vec![
            file.subject.name.clone(),
            bytes(file.tensor_bytes),
            bytes(memory.rss_bytes),
            bytes(devices),
            bytes(memory.kv_bytes),
            bytes(memory.compute_bytes),
        ]
    });
    let names = ["file", "tensors", "worker's memory", "devices' memory", "KV cache", "scratch"];
    sheet.section("Memory", vec![Part::table(&names, rows.collect())]);
}
