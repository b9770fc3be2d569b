//! What passes say of images, as people read it.

use haul_jobs::vision::analyze::{Analysis, Quantity, Reading};

use super::thousands;

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
    let counted = |count: usize, one: &str| {
        format!("{} {one}{}", thousands(count as u64), if count == 1 { "" } else { "s" })
    };
    let passes = reading.passes.map_or_else(String::new, |passes| format!(" of {passes} passes"));
    line!(text, "  {}, {}{passes}", counted(reading.images, "image"), counted(reading.trials, "trial"));
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
