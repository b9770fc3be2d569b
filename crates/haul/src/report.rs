//! What `haul report` says, gathered once; `html`, `markdown` and JSON are three ways to write it.

mod charts;
pub(crate) mod compare;
pub(crate) mod correction;
pub(crate) mod html;
pub(crate) mod markdown;
pub(crate) mod review;
pub(crate) mod sheet;
pub(crate) mod tune;
pub(crate) mod vision;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use haul_machine::clock;
use haul_pipeline::progress::Point;
use haul_pipeline::receipt::Receipt;
use haul_store::library::{Library, LibrarySettings, ManifestRow, Overview};
use serde::Serialize;

use crate::failure::Failure;
use crate::traces::{self, Trace};

/// The name and version of this shape.
const SCHEMA: &str = "haul.report/1";
/// Failures of one verdict that are listed; the library has all of them.
const LISTED_MAX: usize = 200;

/// Batches finish by the piece: over a shorter step their number says nothing.
const STEP_SECONDS_MIN: f64 = 0.5;

/// A library, and its runs as far as they are kept.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    made: String,
    library: String,
    settings: LibrarySettings,
    overview: Overview,
    /// By verdict: the inputs that are not ok.
    not_ok: BTreeMap<String, Vec<NotOk>>,
    /// How many of each verdict are left out of `not_ok`.
    not_listed: BTreeMap<String, usize>,
    /// The oldest first.
    runs: Vec<Run>,
    /// Of the runs that are kept, the one that computed most, with its timeline; a small run after it hides nothing.
    largest: Option<Largest>,
}

/// An input that is not ok.
#[derive(Debug, Serialize)]
struct NotOk {
    item: String,
    why: String,
    attempts: u32,
}

/// One run in a line.
#[derive(Debug, Serialize)]
struct Run {
    started: String,
    seconds: f64,
    inputs: u64,
    reused: u64,
    tokens: u64,
    tokens_per_s: f64,
    not_ok: u64,
    /// (measured - middle) / middle of its forecast.
    forecast_error: Option<f64>,
}

/// One run as a whole.
#[derive(Debug, Serialize)]
struct Largest {
    receipt: Receipt,
    timeline: Vec<Point>,
}

impl Report {
    /// Reads the library and what its runs left beside it.
    pub(crate) fn of(library: &Library, store: &Path) -> Result<Self, Failure> {
        let traces = traces::read(&traces::folder_of(store))?;
        let (not_ok, not_listed) = not_ok(library.manifest()?);
        let runs = traces.iter().map(Run::of).collect();
        let tokens = |trace: &Trace| trace.receipt.work.tokens;
        let largest = traces.into_iter().filter(|trace| tokens(trace) > 0).max_by_key(tokens);
        Ok(Self {
            schema: SCHEMA,
            made: clock::rfc3339_utc(SystemTime::now()),
            library: library.path().display().to_string(),
            settings: library.settings().clone(),
            overview: library.overview()?,
            not_ok,
            not_listed,
            runs,
            largest: largest.map(|Trace { receipt, timeline }| Largest { receipt, timeline }),
        })
    }

    fn inputs(&self) -> u64 {
        self.overview.by_verdict.values().sum()
    }

    fn ok(&self) -> u64 {
        self.overview.by_verdict.get("ok").copied().unwrap_or(0)
    }

    /// The library's file name.
    fn name(&self) -> &str {
        Path::new(&self.library).file_name().and_then(|name| name.to_str()).unwrap_or(&self.library)
    }
}

impl Run {
    fn of(trace: &Trace) -> Self {
        let receipt = &trace.receipt;
        Self {
            started: receipt.started.clone(),
            seconds: receipt.seconds,
            inputs: receipt.items.total,
            reused: receipt.items.reused,
            tokens: receipt.work.tokens,
            tokens_per_s: receipt.rate.tokens_per_s,
            not_ok: receipt.items.total - receipt.items.ok,
            forecast_error: receipt.forecast.map(|forecast| forecast.error),
        }
    }
}

impl Largest {
    /// The rates over each step of the timeline, without those that are too short for a rate, as the last one often is.
    fn rates(&self) -> Vec<Rate> {
        let long = |pair: &&[Point]| pair[1].seconds - pair[0].seconds >= STEP_SECONDS_MIN;
        let steps = self.timeline.windows(2).filter(long);
        let rate = |pair: &[Point]| {
            let seconds = pair[1].seconds - pair[0].seconds;
            Rate {
                seconds: pair[1].seconds,
                tokens_per_s: count(pair[1].tokens - pair[0].tokens) / seconds,
                chunks_per_min: count(pair[1].texts - pair[0].texts) * 60.0 / seconds,
            }
        };
        steps.map(rate).collect()
    }
}

struct Rate {
    seconds: f64,
    tokens_per_s: f64,
    chunks_per_min: f64,
}

#[expect(clippy::cast_precision_loss, reason = "for charts; exact to 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}

fn not_ok(rows: Vec<ManifestRow>) -> (BTreeMap<String, Vec<NotOk>>, BTreeMap<String, usize>) {
    let mut listed: BTreeMap<String, Vec<NotOk>> = BTreeMap::new();
    let mut left_out: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.into_iter().filter(|row| row.verdict != "ok") {
        let of_verdict = listed.entry(row.verdict.clone()).or_default();
        if of_verdict.len() == LISTED_MAX {
            *left_out.entry(row.verdict).or_default() += 1;
            continue;
        }
        let path = Path::new(&row.root).join(&row.relative_path).display().to_string();
        let item = row.part.map_or_else(|| path.clone(), |part| format!("{path}#{part}"));
        let why = row.why.unwrap_or_else(|| "no reason recorded".to_owned());
        of_verdict.push(NotOk { item, why, attempts: row.attempts });
    }
    (listed, left_out)
}
