//! Records beside what is true, as people read it.

use haul_jobs::extract::accuracy::{Comparison, Counts, RowName};

use super::{COLUMNS, LISTED_MAX};

/// The widest name of a column that is shown in full.
const NAME_CHARS: usize = 28;

/// The shares, then the columns, the worst first, then rows that only one side has.
pub(crate) fn comparison(comparison: &Comparison) -> String {
    let all = &comparison.overall;
    let mut text = String::new();
    line!(
        text,
        "{} of {} values right in normal form ({}), {} as far as both say ({})",
        all.strict,
        all.golden,
        percent(all.strict_accuracy()),
        all.strict + all.lenient,
        percent(all.lenient_accuracy())
    );
    line!(text, "  {} wrong, {} missing, {} invented", all.wrong, all.missing, all.invented);
    line!(
        text,
        "  {} golden rows, {} records: {} missing, {} extra",
        comparison.golden_rows,
        comparison.record_rows,
        comparison.missing_rows.len(),
        comparison.extra_rows.len()
    );
    line!(text);
    line!(
        text,
        "{:<NAME_CHARS$} {:>7} {:>7} {:>6} {:>5} {:>7} {:>8}",
        "column",
        "strict",
        "lenient",
        "golden",
        "wrong",
        "missing",
        "invented"
    );
    for column in &comparison.columns {
        text.push_str(&row(&column.name, &column.counts));
    }
    rows(&mut text, "rows without a record", &comparison.missing_rows);
    rows(&mut text, "records without a row", &comparison.extra_rows);
    if !comparison.not_compared.is_empty() {
        line!(text);
        line!(text, "golden columns that are none of the records, and not compared");
        for name in &comparison.not_compared {
            line!(text, "  {}", short(name, COLUMNS - 2));
        }
    }
    text
}

fn row(name: &str, counts: &Counts) -> String {
    format!(
        "{:<NAME_CHARS$} {:>7} {:>7} {:>6} {:>5} {:>7} {:>8}\n",
        short(name, NAME_CHARS),
        percent(counts.strict_accuracy()),
        percent(counts.lenient_accuracy()),
        counts.golden,
        counts.wrong,
        counts.missing,
        counts.invented
    )
}

fn rows(text: &mut String, title: &str, rows: &[RowName]) {
    if rows.is_empty() {
        return;
    }
    line!(text);
    line!(text, "{title}");
    for RowName { company, facility } in rows.iter().take(LISTED_MAX) {
        let facility = if facility.is_empty() { "(no name)" } else { facility };
        line!(text, "  {}", short(&format!("{company}: {facility}"), COLUMNS - 2));
    }
    if rows.len() > LISTED_MAX {
        line!(text, "  and {} more, in --json", rows.len() - LISTED_MAX);
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
}

/// With an ellipsis where it is longer.
fn short(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max - 1).chain(['\u{2026}']).collect()
}
