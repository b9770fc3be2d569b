//! What passes say of images, as one page: how traces and their reliability go with the number of passes, and which
//! images a model is most and least certain of.

use std::collections::HashMap;

use haul_corpus::image::Rgb;
use haul_corpus::pixels::Hash;
use haul_jobs::vision::mc::Image;
use haul_jobs::vision::mc::files::Table;
use haul_jobs::vision::statistics::mean;
use haul_pipeline::receipt::Receipt;

use super::charts::{self, Line};
use super::html::{escaped, section, shell_with_pictures, table};
use crate::commands::vision::mc::Ran;
use crate::summary::vision::Compared;
use crate::summary::{duration, thousands};

/// Images of each end that are shown.
pub(crate) const SHOWN: usize = 8;
/// Failures that are listed; the receipt has all of them.
const LISTED_MAX: usize = 50;
/// Passes over which the law is drawn, as powers of two.
const LAW_POWERS: std::ops::RangeInclusive<i32> = 2..=10;

/// What the page is made of.
pub(crate) struct Page<'a> {
    pub(crate) receipt: &'a Receipt,
    pub(crate) ran: &'a [Ran],
    pub(crate) images: &'a [Image],
    /// What an experiment compares.
    pub(crate) compared: &'a [Compared],
    /// Pixels of those that are shown.
    pub(crate) thumbnails: &'a HashMap<Hash, Rgb>,
}

impl Page<'_> {
    /// The page.
    pub(crate) fn html(&self) -> String {
        let mut body = self.head();
        for Compared { title, names, rows } in self.compared {
            let cells = |row: &Vec<String>| {
                row.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect::<String>()
            };
            let rows: String = rows.iter().map(|row| format!("<tr>{}</tr>", cells(row))).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            body += &section(&escaped(title), &table(&names, &rows));
        }
        for ran in self.ran.iter().filter(|ran| !ran.tables.is_empty()) {
            body += &section(&escaped(&ran.title()), &self.of_model(ran));
        }
        body += &self.failures();
        shell_with_pictures("Vision uncertainty", &body)
    }

    fn head(&self) -> String {
        let receipt = self.receipt;
        let passes: u64 = self.ran.iter().map(|ran| ran.outcome.passes + ran.outcome.reused_passes).sum();
        let figures = [
            (thousands(receipt.items.ok), "images"),
            (thousands(receipt.items.total - receipt.items.ok), "not ok"),
            (thousands(passes), "passes"),
            (format!("{:.1}", receipt.rate.items_per_s), "image passes/s in this run"),
            (duration(receipt.seconds), "this run"),
        ];
        let figures: String = figures
            .iter()
            .map(|(number, what)| format!("<div><b>{number}</b><span>{what}</span></div>"))
            .collect();
        format!(
            "<header>\n<h1>How sure models are of images</h1>\n<p class=\"path\">{} on {}, {}</p>\n\
             <div class=\"figures\">{figures}</div>\n</header>\n",
            escaped(&receipt.started),
            escaped(&receipt.device.name),
            escaped(receipt.model.as_ref().map_or("", |model| &model.dtype)),
        )
    }

    fn of_model(&self, ran: &Ran) -> String {
        let mut body = String::new();
        if let Some(rounding) = &ran.outcome.rounding {
            let share = rounding.rounding_over_noise.map_or_else(
                || "Nothing fell out where rounding was looked at".to_owned(),
                |share| format!("Rounding is {:.1} % of what dropout does", 100.0 * share),
            );
            body += &format!(
                "<p>{share}; cosine with f32 {:.5}, worst {:.5}.</p>",
                rounding.cosine, rounding.cosine_min
            );
        }
        body += &reliability(ran);
        body += &traces(ran);
        body += &law(ran);
        body + &self.ends(ran)
    }

    /// The most and the least certain images.
    fn ends(&self, ran: &Ran) -> String {
        let Some(table) = ran.tables.last() else { return String::new() };
        let order = by_certainty(table);
        let shown = SHOWN.min(order.len() / 2);
        if shown == 0 {
            return String::new();
        }
        let means = table.means(&table.trace_pre);
        let row = |title: &str, images: &[usize]| {
            let tiles: String = images.iter().map(|&no| self.tile(no, means[no])).collect();
            format!("<h3>{title}</h3><div class=\"tiles\">{tiles}</div>")
        };
        let least: Vec<usize> = order[order.len() - shown..].iter().rev().copied().collect();
        row("Least certain", &least) + &row("Most certain", &order[..shown])
    }

    fn tile(&self, no: usize, trace: f64) -> String {
        let Some(image) = self.images.get(no) else { return String::new() };
        let picture = self.thumbnails.get(&image.hash).map_or_else(String::new, |pixels| {
            format!("<img alt=\"\" src=\"data:image/bmp;base64,{}\">", base64(&bmp(pixels)))
        });
        format!(
            "<figure>{picture}<figcaption>{}<b>{trace:.3e}</b></figcaption></figure>",
            escaped(&image.path)
        )
    }

    fn failures(&self) -> String {
        let failures = &self.receipt.failures;
        if failures.is_empty() {
            return String::new();
        }
        let row = |failure: &haul_pipeline::receipt::Failure| {
            format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                escaped(&failure.item),
                escaped(&failure.verdict),
                escaped(&failure.why)
            )
        };
        let rows: String = failures.iter().take(LISTED_MAX).map(row).collect();
        let rest = failures.len().saturating_sub(LISTED_MAX);
        let rest = if rest > 0 {
            format!("<p class=\"quiet\">and {rest} more in receipt.json</p>")
        } else {
            String::new()
        };
        section("Not ok", &(table(&["image", "verdict", "why"], &rows) + &rest))
    }
}

/// Images from the smallest mean trace to the largest.
pub(crate) fn by_certainty(table: &Table) -> Vec<usize> {
    let means = table.means(&table.trace_pre);
    let mut order: Vec<usize> = (0..means.len()).collect();
    order.sort_by(|&a, &b| means[a].total_cmp(&means[b]));
    order
}

fn reliability(ran: &Ran) -> String {
    let shown = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.4}"));
    let mut rows = String::new();
    for of in &ran.tables {
        let quantities = [
            ("trace_pre", of.told_trace()),
            ("trace_post", of.told(&of.trace_post)),
            ("angular_var", of.told(&of.angular_var)),
        ];
        for (name, told) in quantities {
            let all = &told.reliability;
            let needed = told.law.and_then(|law| law.passes_for_icc_75);
            let cells = [
                of.passes.to_string(),
                name.to_owned(),
                format!("{:.3e}", told.mean),
                shown(all.snr),
                shown(all.icc),
                shown(all.pairwise_spearman_median),
                shown(all.icc_of_mean),
                all.status.name().replace('_', " "),
                needed.map_or_else(|| "-".to_owned(), |passes| passes.to_string()),
            ];
            rows += &format!("<tr>{}</tr>", cells.map(|cell| format!("<td>{cell}</td>")).concat());
        }
    }
    table(&["T", "quantity", "mean", "snr", "icc", "rho", "icc of mean", "status", "T for .75"], &rows)
}

/// How traces go with the number of passes: unbiased ones stay where they are, and images come together.
fn traces(ran: &Ran) -> String {
    if ran.tables.len() < 2 {
        return String::new();
    }
    let of = |share: f64| -> Vec<(f64, f64)> {
        let at = |table: &Table| {
            let mut means = table.means(&table.trace_pre);
            means.sort_by(f64::total_cmp);
            means[((means.len() - 1) as f64 * share) as usize]
        };
        ran.tables.iter().map(|table| (power(table.passes), at(table))).collect()
    };
    let middle = ran.tables.iter().map(|table| (power(table.passes), mean(&table.trace_pre))).collect();
    let lines = [
        Line { class: "two", points: of(0.25) },
        Line { class: "two", points: of(0.75) },
        Line { class: "one", points: middle },
    ];
    format!(
        "<h3>trace_pre by the number of passes T</h3>{}<p class=\"legend\"><span><i class=\"dot mean\"></i>the mean over \
         images and trials</span> <span><i class=\"dot two\"></i>the quartiles of images</span></p>",
        charts::lines(&lines, "trace_pre by the number of passes")
    )
}

/// The reliability of a trial of so many passes: measured, and by the law of the longest trials.
fn law(ran: &Ran) -> String {
    let Some(longest) = ran.tables.last() else { return String::new() };
    let Some(law) = longest.told_trace().law else { return String::new() };
    let predicted: Vec<(f64, f64)> =
        LAW_POWERS.filter_map(|power| Some((f64::from(power), law.at(2.0_f64.powi(power))?))).collect();
    let measured = |table: &Table| Some((power(table.passes), table.told(&table.trace_pre).reliability.icc?));
    let measured: Vec<(f64, f64)> = ran.tables.iter().filter_map(measured).collect();
    let lines = [Line { class: "one", points: predicted }, Line { class: "two", points: measured }];
    format!(
        "<h3>ICC of trace_pre by the number of passes T</h3>{}<p class=\"legend\"><span><i class=\"dot mean\"></i>by the law \
         of the longest trials</span> <span><i class=\"dot two\"></i>measured</span></p>",
        charts::lines(&lines, "ICC by the number of passes")
    )
}

fn power(passes: usize) -> f64 {
    (passes as f64).log2()
}

/// 24 bits without compression, rows from the last to the first: what every browser shows.
fn bmp(image: &Rgb) -> Vec<u8> {
    let row_bytes = (3 * image.width).next_multiple_of(4);
    let data = row_bytes * image.height;
    let mut bytes = b"BM".to_vec();
    for word in [54 + data, 0, 54, 40, image.width, image.height, 1 | 24 << 16, 0, data, 2835, 2835, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    for row in image.pixels.chunks_exact(3 * image.width as usize).rev() {
        let start = bytes.len();
        bytes.extend(row.chunks_exact(3).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]));
        bytes.resize(start + row_bytes as usize, 0);
    }
    bytes
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0_u32, |word, no| word << 8 | u32::from(three.get(no).copied().unwrap_or(0)));
        for no in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * no) & 63) as usize] as char;
            text.push(if no <= three.len() { letter } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_the_rfc_has_it() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn a_picture_has_its_rows_from_below() {
        let image = Rgb { width: 1, height: 2, pixels: vec![1, 2, 3, 4, 5, 6] };
        let bytes = bmp(&image);
        assert_eq!(bytes.len(), 54 + 8);
        assert_eq!(bytes[54..], [6, 5, 4, 0, 3, 2, 1, 0]);
    }
}
