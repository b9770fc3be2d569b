//! Charts as inline SVG. Colours are classes, so that the page's style sheet has the last word; nothing that comes
//! from a document is ever written here.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 200.0;
/// Room for the numbers of the y axis, and for those of the x axis.
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 8.0;
/// Lines across the chart.
const GRID: u32 = 4;
/// Columns of a histogram.
const COLUMNS_MAX: usize = 48;
/// Points of a curve; more are averaged, for a screen has no more columns anyway.
const CURVE_POINTS_MAX: usize = 240;

/// A histogram of `counts`, pairs of a value and how often it is there, in ascending order.
pub(crate) fn histogram(counts: &[(u32, u64)], unit: &str) -> String {
    let Some((largest, _)) = counts.last() else { return String::new() };
    let width = (*largest as usize + 1).div_ceil(COLUMNS_MAX).max(1);
    let mut columns = vec![0_u64; (*largest as usize / width) + 1];
    for (value, count) in counts {
        columns[*value as usize / width] += count;
    }
    let peak = columns.iter().copied().max().unwrap_or(1).max(1) as f64;
    let top = nice(peak);
    let span = WIDTH - LEFT - RIGHT;
    let step = span / columns.len() as f64;
    let mut svg = begin("Histogram");
    grid(&mut svg, top);
    for (number, count) in columns.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = (HEIGHT - TOP - BOTTOM) * *count as f64 / top;
        let (x, y) = (LEFT + step * number as f64, HEIGHT - BOTTOM - height);
        let (from, to) = (number * width, number * width + width - 1);
        part(
            &mut svg,
            format_args!(
                "<rect class=\"column\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"1\">\
                 <title>{from} to {to} {unit}: {count}</title></rect>",
                x + step * 0.08,
                step * 0.84
            ),
        );
    }
    let last = (columns.len() * width) as f64;
    x_axis(&mut svg, last, &|value| format!("{value:.0}"));
    svg + "</svg>"
}

/// A curve through `points`, pairs of seconds and a rate, as a filled area.
pub(crate) fn curve(points: &[(f64, f64)], class: &str, label: &str) -> String {
    let Some((end, _)) = points.last() else { return String::new() };
    let points = averaged(points);
    let top = nice(points.iter().map(|(_, value)| *value).fold(0.0, f64::max));
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - RIGHT) * seconds / end.max(1e-9);
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;
    let mut line = String::new();
    for (number, (seconds, value)) in points.iter().enumerate() {
        let command = if number == 0 { 'M' } else { 'L' };
        part(&mut line, format_args!("{command}{:.1} {:.1}", x(*seconds), y(*value)));
    }
    let (first, last) = (points.first().map_or(0.0, |p| p.0), points.last().map_or(0.0, |p| p.0));
    let floor = y(0.0);
    let mut svg = begin(label);
    grid(&mut svg, top);
    part(
        &mut svg,
        format_args!(
            "<path class=\"area {class}\" d=\"{line}L{:.1} {floor:.1}L{:.1} {floor:.1}Z\"/>\
             <path class=\"line {class}\" d=\"{line}\"/>",
            x(last),
            x(first)
        ),
    );
    x_axis(&mut svg, *end, &time);
    svg + "</svg>"
}

/// Points that are joined, pairs of a power of two and a value.
pub(crate) struct Line {
    pub(crate) class: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over powers of two, from zero up.
pub(crate) fn lines(lines: &[Line], label: &str) -> String {
    let all = || lines.iter().flat_map(|line| &line.points).filter(|point| point.1.is_finite());
    let Some(peak) = all().map(|point| point.1).reduce(f64::max).filter(|peak| *peak > 0.0) else {
        return String::new();
    };
    let (from, to) =
        all().fold((f64::MAX, f64::MIN), |(from, to), point| (from.min(point.0), to.max(point.0)));
    let top = nice_small(peak);
    let x = |power: f64| LEFT + (WIDTH - LEFT - RIGHT) * (power - from) / (to - from).max(1e-9);
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top;
    let mut svg = begin(label);
    grid_of(&mut svg, top, &|value| if top < 0.1 { format!("{value:.1e}") } else { format!("{value:.2}") });
    for Line { class, points } in lines {
        let path: String = points
            .iter()
            .filter(|point| point.1.is_finite())
            .enumerate()
            .map(|(no, (power, value))| {
                format!("{}{:.1} {:.1}", if no == 0 { 'M' } else { 'L' }, x(*power), y(*value))
            })
            .collect();
        part(&mut svg, format_args!("<path class=\"line {class}\" d=\"{path}\"/>"));
        for (power, value) in points.iter().filter(|point| point.1.is_finite()) {
            part(
                &mut svg,
                format_args!(
                    "<circle class=\"point {class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>T = {:.0}: {value:.4e}</title></circle>",
                    x(*power),
                    y(*value),
                    power.exp2()
                ),
            );
        }
    }
    for power in (from.ceil() as i32)..=(to.floor() as i32) {
        let (at, passes) = (x(f64::from(power)), f64::from(power).exp2());
        let (y, anchor) = (HEIGHT - 6.0, if at + 1.0 > WIDTH - RIGHT { "end" } else { "middle" });
        part(
            &mut svg,
            format_args!(
                "<text class=\"tick\" x=\"{at:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{passes:.0}</text>"
            ),
        );
    }
    svg + "</svg>"
}

/// The next number above that has round quarters, however small.
fn nice_small(peak: f64) -> f64 {
    let magnitude = 10_f64.powf(peak.log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 6.0, 8.0, 10.0];
    steps.iter().map(|step| step * magnitude).find(|top| *top >= peak).unwrap_or(peak)
}

fn averaged(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let width = points.len().div_ceil(CURVE_POINTS_MAX).max(1);
    let mean = |chunk: &[(f64, f64)]| {
        let count = chunk.len() as f64;
        let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / count, sum.1 / count)
    };
    points.chunks(width).map(mean).collect()
}

fn begin(label: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">")
}

fn grid(svg: &mut String, top: f64) {
    grid_of(svg, top, &short);
}

fn grid_of(svg: &mut String, top: f64, shown: &dyn Fn(f64) -> String) {
    for line in 0..=GRID {
        let value = top * f64::from(line) / f64::from(GRID);
        let y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * f64::from(line) / f64::from(GRID);
        part(
            svg,
            format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                shown(value)
            ),
        );
    }
}

fn x_axis(svg: &mut String, end: f64, shown: &dyn Fn(f64) -> String) {
    for tick in 0..=GRID {
        let share = f64::from(tick) / f64::from(GRID);
        let anchor = match tick {
            0 => "start",
            GRID => "end",
            _ => "middle",
        };
        part(
            svg,
            format_args!(
                "<text class=\"tick\" x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{}</text>",
                LEFT + (WIDTH - LEFT - RIGHT) * share,
                HEIGHT - 6.0,
                shown(end * share)
            ),
        );
    }
}

/// The next number above that has round quarters; 4 at the least.
fn nice(peak: f64) -> f64 {
    let magnitude = 10_f64.powf(peak.max(4.0).log10().floor());
    [1.0, 1.2, 1.6, 2.0, 2.4, 3.0, 4.0, 6.0, 8.0, 10.0]
        .iter()
        .map(|step| step * magnitude)
        .find(|top| *top >= peak.max(4.0))
        .unwrap_or(peak)
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.1}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v if v >= 1e3 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 7200.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 120.0 => format!("{:.0} min", s / 60.0),
        s if s >= 8.0 => format!("{s:.0} s"),
        s => format!("{s:.1} s"),
    }
}

/// Writing to a `String` cannot fail.
fn part(svg: &mut String, text: std::fmt::Arguments<'_>) {
    if svg.write_fmt(text).is_err() {
        tracing::trace!("a String did not take text");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_above_the_peak() {
        assert_eq!([0.0, 4.0, 5.0, 99.0, 101.0, 15_000.0].map(nice), [4.0, 4.0, 6.0, 100.0, 120.0, 16_000.0]);
        assert_eq!(
            [0.0, 999.0, 2500.0, 15_000.0, 2_500_000.0].map(short),
            ["0", "999", "2.5k", "15k", "2.5M"]
        );
    }

    #[test]
    fn every_chunk_is_in_a_column_and_a_chart_of_nothing_is_empty() {
        assert_eq!(histogram(&[], "tokens"), "");
        assert_eq!(curve(&[], "a", "rate"), "");
        let counts: Vec<(u32, u64)> = (1..=510).map(|tokens| (tokens, 2)).collect();
        let svg = histogram(&counts, "tokens");
        let sum: u64 = svg
            .split("tokens: ")
            .skip(1)
            .map(|rest| rest.split('<').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(sum, 1020);
        assert!(svg.matches("<rect").count() <= COLUMNS_MAX);
        let points: Vec<(f64, f64)> = (0..5000).map(|s| (f64::from(s), 7.0)).collect();
        assert!(curve(&points, "a", "rate").len() < 12_000);
    }
}
