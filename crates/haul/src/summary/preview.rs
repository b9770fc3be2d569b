//! How documents would be cut, for people.

use haul_jobs::ingest::preview::{Comparison, DocumentPreview, Preview, Spread, Statistics};
use haul_store::library::LibrarySettings;

use super::{LISTED_MAX, list, thousands, wrapped};

/// Chunks with samples, or thresholds side by side.
pub(crate) fn text(preview: &Preview, settings: &LibrarySettings) -> String {
    let mut text = String::new();
    match &preview.comparison {
        Some(comparison) => thresholds(&mut text, comparison),
        None => chunks(&mut text, preview, settings),
    }
    let failures = preview.failures.iter().map(|f| format!("{}: {} ({})", f.item, f.verdict, f.why));
    list(&mut text, "not ok", &failures.collect::<Vec<_>>());
    let notes = preview.notes.iter().map(|note| format!("{}: {}", note.item, note.says));
    list(&mut text, "lost", &notes.collect::<Vec<_>>());
    text
}

/// A library's chunker and its numbers.
pub(crate) fn chunker(settings: &LibrarySettings) -> String {
    let kept = &settings.chunkers;
    let mut parts = vec![settings.chunker.clone()];
    match (settings.chunker.as_str(), kept.fixed, kept.semantic) {
        ("fixed", Some(fixed), _) => parts.push(format!(
            "{} words, overlap {}, at least {}",
            fixed.words, fixed.overlap_words, fixed.words_min
        )),
        ("semantic", _, Some(semantic)) => parts.push(format!(
            "below {:.4}, {} to {} words",
            f64::from(semantic.threshold_e4) / 10_000.0,
            semantic.words_min,
            semantic.words_max
        )),
        _ => parts.push(format!("{} tokens, overlap {}", settings.chunk_tokens, settings.overlap_sentences)),
    }
    let others = [
        (kept.policy.is_some(), "with a policy"),
        (kept.parents, "with parents"),
        (kept.alexandria_compat, "as Alexandria"),
    ];
    parts.extend(others.into_iter().filter(|(is_set, _)| *is_set).map(|(_, what)| what.to_owned()));
    parts.join(", ")
}

fn chunks(text: &mut String, preview: &Preview, settings: &LibrarySettings) {
    line!(text, "{}", wrapped(&format!("dry run, nothing is written; chunker {}", chunker(settings)), ""));
    for document in preview.documents.iter().take(LISTED_MAX) {
        self::document(text, document);
    }
    let more = preview.documents.len().saturating_sub(LISTED_MAX);
    if more > 0 {
        line!(text, "\nand {} more documents; --json has all", thousands(more as u64));
    }
    line!(text, "\ntotal: {} documents", thousands(preview.documents.len() as u64));
    statistics(text, &preview.total);
}

fn document(text: &mut String, document: &DocumentPreview) {
    let place = format!("{} ({}, {})", document.title, document.chunker, document.item);
    line!(text, "\n{}", wrapped(&place, ""));
    statistics(text, &document.chunks);
    if document.parents > 0 {
        line!(text, "  {} sections as parents", thousands(document.parents as u64));
    }
    for sample in &document.samples {
        line!(text, "  chunk {}, {} words:", sample.chunk_no, sample.words);
        line!(text, "{}", wrapped(&sample.text, "    "));
    }
}

fn statistics(text: &mut String, statistics: &Statistics) {
    line!(
        text,
        "  {} chunks; words {}; tokens {}",
        thousands(statistics.count as u64),
        spread(&statistics.words),
        spread(&statistics.tokens)
    );
    if statistics.truncated > 0 {
        line!(
            text,
            "  {} chunks are longer than the model takes and lose {} tokens",
            thousands(statistics.truncated as u64),
            thousands(statistics.truncated_tokens as u64)
        );
    }
}

/// `min / mean / max`
fn spread(spread: &Spread) -> String {
    format!("{} / {:.1} / {}", spread.min, spread.mean, spread.max)
}

fn thresholds(text: &mut String, comparison: &Comparison) {
    line!(
        text,
        "{} sentences, {} words, nothing is written",
        thousands(comparison.sentences as u64),
        thousands(comparison.words as u64)
    );
    if let Some(cosines) = &comparison.similarity {
        line!(
            text,
            "cosine of neighbours: {:.3} to {:.3}, mean {:.3}, median {:.3}",
            cosines.min,
            cosines.max,
            cosines.mean,
            cosines.median
        );
    }
    line!(text, "\n  threshold  chunks  words min/mean/max  coherence  topic  full    score");
    for row in &comparison.rows {
        let words = format!("{}/{:.0}/{}", row.words.min, row.words.mean, row.words.max);
        let best = if comparison.best == Some(row.threshold) { "  best" } else { "" };
        line!(
            text,
            "  {:>9.4} {:>7} {words:>19} {:>10.3} {:>6} {:>5} {:>8.1}{best}",
            row.threshold,
            row.chunks,
            row.coherence,
            row.semantic_breaks,
            row.forced_breaks,
            row.score
        );
    }
    let best = comparison.rows.iter().find(|row| comparison.best == Some(row.threshold));
    for (number, found) in (1..).zip(best.into_iter().flat_map(|row| &row.samples)) {
        line!(
            text,
            "\nbreak {number} at {:.4}: {}, cosine {:.3}",
            comparison.best.unwrap_or(0.0),
            found.reason,
            found.similarity
        );
        line!(text, "{}", wrapped(&format!("before: {}", found.before), "  "));
        line!(text, "{}", wrapped(&format!("after:  {}", found.after), "  "));
    }
}
