//! `tune`: the settings with which a model is fastest on this machine, found by measuring, one worker process for each.
//!
//! Settings are judged by what many calls need: the seconds of this machine that each of them takes, its prompt read
//! alone and its answer written beside as many others as there are sequences. How long a single call waits for its
//! answer is not what is judged.
//!
//! One setting is varied at a time, from the best so far, which is measured again beside what may replace it: a row from a
//! quiet moment says nothing against rows from a busy one. What seems better is measured a second time, in turn with what
//! it would replace. What all this found is measured once more in turns with the defaults, and kept only where it is no
//! slower ([`mod@settle`]). What cannot work is named before anything is measured.

pub mod axes;
pub mod encoder;
pub mod impossible;
pub mod profile;
pub mod settle;

use std::time::{Duration, Instant};

use haul_generate::GenerateError;
use haul_generate::local::Local;
use haul_machine::verdict::{DeviceRequest, Placement, Verdict};
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::Stop;
use serde::Serialize;

use crate::proof;
use crate::speed::{self, Speed, Wanted};
use axes::{Axis, Cost, knee};
use impossible::Shape;
pub use profile::{Profile, ProfileError, TunedLoad, profile_for};
use settle::{Settled, TURNS, Turn, settle};

/// The call by which settings are judged: tokens of its prompt, and of its answer.
pub const CALL_TOKENS: (u32, u32) = (512, 128);
/// Tokens of a measured prefill.
const PREFILL_TOKENS: u32 = 512;
/// Tokens that each sequence decodes in a measurement.
const DECODE_TOKENS: u32 = 32;
/// Rows at most, those of the control among them.
pub const ROWS_MAX: usize = 64;
/// Rows of a setting that seems better, and of what it would replace.
const DUEL_ROWS: usize = 2;
/// Values of one setting that are measured a second time: after a lucky row there is the one that it stood before.
const DUELS_MAX: usize = 2;
/// What the rows of the control are called.
const CONTROL: &str = "control";
/// What the rows at the end are called, of what was found.
const FOUND: &str = "best";
/// A KV type with which the model runs at less than this share of the control is computed somewhere else.
const FALLBACK_SHARE: f64 = 0.5;
/// A control that changed by more says that the machine had other work.
const DRIFT_MAX: f64 = 0.1;

/// What people set for llama.cpp and does nothing at run time.
pub const COMPILED_IN: &[(&str, &str)] = &[
    (
        "GGML_CUDA_FORCE_MMQ",
        "chosen when the backend is compiled; as an environment variable it does nothing, and cards from Turing on take \
         these kernels anyway",
    ),
    (
        "GGML_CUDA_FORCE_CUBLAS",
        "chosen when the backend is compiled; as an environment variable it does nothing. To compare, build a second \
         backend with it, put it into the folder backends of a HAUL_HOME of its own, and tune with each",
    ),
];

/// What is tuned.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the model is opened with by default: the control.
    pub control: TunedLoad,
    /// Threads at most.
    pub threads_max: u32,
    /// No row is begun that would end after this.
    pub budget: Duration,
    /// Measured runs of each probe.
    pub repetitions: u32,
    /// What was asked for, for the verdicts.
    pub device: DeviceRequest,
    /// Memory that the KV cache may take, if it is known.
    pub room_bytes: Option<u64>,
    /// Numbers of an attention head in K and V, where the header says.
    pub head_sizes: Option<(u32, u32)>,
}

/// What the work is done with.
pub struct Parts<'a> {
    /// Opens the model in a process of its own.
    pub open: &'a dyn Fn(&TunedLoad) -> Result<Local, GenerateError>,
    /// What main memory gives, in 10^9 bytes per second.
    pub read_gb_per_s: f64,
    /// Hears what is being measured.
    pub say: &'a dyn Fn(&str),
    /// Counts rows.
    pub progress: &'a Progress,
    /// Set when the run should end early.
    pub stop: &'a Stop,
}

/// The whole sweep.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Tokens of the prompt and the answer by which settings are judged.
    pub call_tokens: (u32, u32),
    /// What was measured, in order.
    pub rows: Vec<Row>,
    /// What cannot work, and why.
    pub impossible: Vec<Refused>,
    /// What was left out because the time was up.
    pub not_measured: Vec<Refused>,
    /// Seconds of a call with the control at the end, over those at the start, less 1; `None` if it was measured once.
    pub drift: Option<f64>,
    /// Whether the drift is so large that small differences say nothing.
    pub is_noisy: bool,
    /// The settings that are kept: the best that were found and that change no answer's arithmetic but its order of sums
    /// (and, between one thread and several, the kernels of its attention), or the control.
    pub best: TunedLoad,
    /// Seconds of a call with them, by the fastest of their rows at the end.
    pub best_seconds: f64,
    /// How many times as fast as the control, measured in turns with it at the end. It is 1 or more.
    pub gain: f64,
    /// What the sweep found and is not kept, because it was slower than the control at the end.
    pub withdrawn: Option<Withdrawn>,
    /// What people set and does nothing.
    pub compiled_in: &'static [(&'static str, &'static str)],
    /// Where the control ran.
    pub placement: Option<Verdict>,
    /// Whether the run was stopped early.
    pub interrupted: bool,
}

/// One configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was varied: `control`, `threads`, ...
    pub axis: &'static str,
    /// The settings.
    pub load: TunedLoad,
    /// What was measured.
    pub measured: Option<Measured>,
    /// Why nothing was.
    pub error: Option<String>,
    /// Set where the row runs so much slower than the control that some of it must run elsewhere.
    pub falls_back: Option<String>,
}

/// A row that worked.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Prefill and decode.
    pub speed: Speed,
    /// Seconds of this machine for one of many calls: what settings are judged by.
    pub call_seconds: f64,
    /// Milliseconds that loading took.
    pub load_ms: u64,
    /// Resident bytes of the worker.
    pub rss_bytes: u64,
    /// Bytes of the KV cache.
    pub kv_bytes: u64,
    /// Where it ran.
    pub placement: Verdict,
}

/// A configuration that is not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// What would be varied.
    pub axis: &'static str,
    /// The settings.
    pub load: TunedLoad,
    /// Why not.
    pub why: String,
}

/// What a sweep found and the measurement at the end did not bear out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Withdrawn {
    /// The settings.
    pub load: TunedLoad,
    /// How many times as fast as the control, and so below 1; `None` where one of the two could not be measured.
    pub gain: Option<f64>,
}

/// Nothing can be tuned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// Not even the default works.
    #[error("the model does not run with the default settings: {source}")]
    Control {
        /// Why.
        source: GenerateError,
    },
    /// The default was measured and gave no time.
    #[error("a context of {n_ctx} tokens is too small to measure anything in")]
    NoTime {
        /// Of the default settings.
        n_ctx: u32,
    },
}

impl TuneError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Control { source } => source.hint(),
            Self::NoTime { .. } => Some("give a larger --ctx".to_owned()),
        }
    }
}

/// Sweeps.
///
/// # Errors
/// The default settings do not work. Other settings that fail are rows with their error.
pub fn run(settings: &Settings, parts: &Parts<'_>) -> Result<Report, TuneError> {
    let begun = Instant::now();
    let source = Source {
        measure: &|load| measure(settings, parts, load),
        elapsed: &|| begun.elapsed(),
        say: parts.say,
        progress: parts.progress,
        stop: parts.stop,
    };
    sweep(settings, &source)
}

/// Where measurements come from: a worker process for each, or a script.
struct Source<'a> {
    measure: &'a dyn Fn(&TunedLoad) -> Result<Probed, GenerateError>,
    /// Since the sweep began.
    elapsed: &'a dyn Fn() -> Duration,
    say: &'a dyn Fn(&str),
    progress: &'a Progress,
    stop: &'a Stop,
}

/// What a process with its settings told.
struct Probed {
    /// Cells of its cache.
    n_ctx: u32,
    /// Tokens that the model was trained on at once.
    n_ctx_train: u32,
    /// `None` where the context is too small to measure anything in.
    measured: Option<Measured>,
}

fn sweep(settings: &Settings, source: &Source<'_>) -> Result<Report, TuneError> {
    let mut sweep = Sweep { settings, source, rows: vec![], impossible: vec![], not_measured: vec![] };
    let (first, shape) = sweep.control()?;
    let mut found = Best { load: settings.control.clone(), cost: first };
    for axis in Axis::ALL {
        if source.stop.requested() {
            break;
        }
        found = sweep.axis(axis, found, &shape);
    }
    let end = sweep.end(&found);
    let drift = end.control.map(|last| last / first.seconds() - 1.0);
    let (best, best_seconds, gain, withdrawn) = match end.settled {
        Settled::Found { gain } => (found.load, end.found.unwrap_or(found.cost.seconds()), gain, None),
        Settled::Defaults { gain } => {
            let withdrawn = (found.load != settings.control).then_some(Withdrawn { load: found.load, gain });
            (settings.control.clone(), end.control.unwrap_or(first.seconds()), 1.0, withdrawn)
        }
    };
    Ok(Report {
        call_tokens: CALL_TOKENS,
        placement: sweep.rows[0].measured.as_ref().map(|measured| measured.placement.clone()),
        rows: sweep.rows,
        impossible: sweep.impossible,
        not_measured: sweep.not_measured,
        drift,
        is_noisy: drift.is_none_or(|drift| drift.abs() > DRIFT_MAX),
        best,
        best_seconds,
        gain,
        withdrawn,
        compiled_in: COMPILED_IN,
        interrupted: source.stop.requested(),
    })
}

/// The best so far.
struct Best {
    load: TunedLoad,
    /// By its last row.
    cost: Cost,
}

/// The measurement at the end.
struct End {
    settled: Settled,
    /// The fastest seconds of the control.
    control: Option<f64>,
    /// And of what was found.
    found: Option<f64>,
}

struct Sweep<'a> {
    settings: &'a Settings,
    source: &'a Source<'a>,
    rows: Vec<Row>,
    impossible: Vec<Refused>,
    not_measured: Vec<Refused>,
}

impl Sweep<'_> {
    /// The default: what it costs, and what it tells of the model.
    fn control(&mut self) -> Result<(Cost, Shape), TuneError> {
        let control = &self.settings.control;
        (self.source.say)(&format!("{CONTROL}: {}", control.line()));
        self.source.progress.expect(1, 0);
        let probed = (self.source.measure)(control).map_err(|source| TuneError::Control { source })?;
        let no_time = TuneError::NoTime { n_ctx: control.n_ctx };
        let Some(measured) = probed.measured else { return Err(no_time) };
        let Some(cost) = Cost::of(&measured.speed) else { return Err(no_time) };
        let cells = f64::from(probed.n_ctx.max(1)) * impossible::bytes_of_pair(control);
        let shape = Shape {
            n_ctx_train: probed.n_ctx_train,
            head_sizes: self.settings.head_sizes,
            kv_bytes_per_cell: (measured.kv_bytes > 0).then(|| measured.kv_bytes as f64 / cells),
            room_bytes: self.settings.room_bytes,
        };
        self.keep(CONTROL, control.clone(), Ok(Some(measured)));
        Ok((cost, shape))
    }

    /// Varies one setting from the best so far, and gives the new best.
    fn axis(&mut self, axis: Axis, best: Best, shape: &Shape) -> Best {
        let wanted = self.possible(axis, &best.load, shape);
        if wanted.is_empty() {
            return best;
        }
        let is_fresh = self.rows.last().is_some_and(|row| row.load == best.load);
        let again = (!is_fresh).then(|| best.load.clone());
        self.source.progress.expect(wanted.len() as u64 + u64::from(!is_fresh), 0);
        let mut measured: Vec<(TunedLoad, Cost)> =
            if is_fresh { vec![(best.load.clone(), best.cost)] } else { vec![] };
        for load in again.into_iter().chain(wanted) {
            if self.source.stop.requested() {
                break;
            }
            match self.out_of_time(1) {
                Some(_) if load == best.load => self.source.progress.skipped(1, 0),
                Some(why) => {
                    self.source.progress.skipped(1, 0);
                    self.not_measured.push(Refused { axis: axis.name(), load, why });
                }
                None => measured.extend(self.row(axis.name(), &load).map(|cost| (load, cost))),
            }
        }
        self.mark_fallbacks(axis, &best.load);
        // Rows without the best so far beside them say nothing about it.
        let is_beside = measured.first().is_some_and(|(load, _)| *load == best.load);
        if !axis.is_taken() || !is_beside {
            return best;
        }
        for _ in 0..DUELS_MAX {
            let costs: Vec<Cost> = measured.iter().map(|(_, cost)| *cost).collect();
            let sized: Vec<(u64, f64)> = measured
                .iter()
                .zip(axis.seconds(&costs))
                .map(|((load, _), seconds)| (axis.size(load), seconds))
                .collect();
            let (seems_best, _) = measured.remove(knee(&sized));
            if seems_best == best.load {
                break;
            }
            if let Some(cost) = self.duel(axis, &best.load, &seems_best) {
                return Best { load: seems_best, cost };
            }
        }
        best
    }

    /// The values of a setting that can work, less the one that there is.
    fn possible(&mut self, axis: Axis, from: &TunedLoad, shape: &Shape) -> Vec<TunedLoad> {
        let mut possible = Vec::new();
        for load in axis.values(from, self.settings.threads_max) {
            match impossible::why(&load, shape) {
                _ if load == *from => {}
                Some(why) => self.refuse(axis.name(), load, why),
                None => possible.push(load),
            }
        }
        possible
    }

    /// Measures what seems better a second time, right after what it would replace; what it costs, if it is no slower.
    fn duel(&mut self, axis: Axis, best: &TunedLoad, seems_better: &TunedLoad) -> Option<Cost> {
        if self.source.stop.requested() {
            return None;
        }
        if let Some(why) = self.out_of_time(DUEL_ROWS) {
            let why = format!("{why}: it seemed better, and was not measured a second time");
            self.not_measured.push(Refused { axis: axis.name(), load: seems_better.clone(), why });
            return None;
        }
        self.source.progress.expect(DUEL_ROWS as u64, 0);
        let before = self.row(axis.name(), best)?;
        if self.source.stop.requested() {
            return None;
        }
        let now = self.row(axis.name(), seems_better)?;
        let seconds = axis.seconds(&[before, now]);
        (seconds[1] <= seconds[0]).then_some(now)
    }

    /// Measures what was found in turns with the control; where that is the control itself, just how far it drifted.
    fn end(&mut self, found: &Best) -> End {
        let control = self.settings.control.clone();
        let is_control = found.load == control;
        let turns = if is_control { &[Turn::Defaults][..] } else { &TURNS };
        self.source.progress.expect(turns.len() as u64, 0);
        let (mut of_control, mut of_found) = (vec![], vec![]);
        for turn in turns {
            if self.source.stop.requested() {
                break;
            }
            let seconds = match turn {
                Turn::Defaults => self.row(CONTROL, &control).map(|cost| of_control.push(cost.seconds())),
                Turn::Found => self.row(FOUND, &found.load).map(|cost| of_found.push(cost.seconds())),
            };
            if seconds.is_none() {
                break;
            }
        }
        let fastest = |seconds: &[f64]| seconds.iter().copied().min_by(f64::total_cmp);
        let settled = if is_control { Settled::Found { gain: 1.0 } } else { settle(&of_control, &of_found) };
        End { settled, control: fastest(&of_control), found: fastest(&of_found) }
    }

    fn refuse(&mut self, axis: &'static str, load: TunedLoad, why: String) {
        let refused = Refused { axis, load, why };
        if !self.impossible.contains(&refused) {
            (self.source.say)(&format!("{axis}: {} cannot work: {}", refused.load.line(), refused.why));
            self.impossible.push(refused);
        }
    }

    /// Whether there is no time for so many rows, and for those at the end. All rows are thought to take as long as those
    /// so far took on average.
    fn out_of_time(&self, rows: usize) -> Option<String> {
        let wanted = rows + TURNS.len();
        if self.rows.len() + wanted > ROWS_MAX {
            return Some(format!("{ROWS_MAX} rows are enough"));
        }
        let (spent, budget) = ((self.source.elapsed)().as_secs_f64(), self.settings.budget.as_secs_f64());
        let row = spent / self.rows.len().max(1) as f64;
        let is_over = spent + wanted as f64 * row > budget;
        is_over.then(|| format!("{spent:.0} s of {budget:.0} s were spent"))
    }

    /// Measures a configuration; what it costs, where it worked.
    fn row(&mut self, axis: &'static str, load: &TunedLoad) -> Option<Cost> {
        (self.source.say)(&format!("{axis}: {}", load.line()));
        let measured = (self.source.measure)(load).map(|probed| probed.measured);
        let cost = measured.as_ref().ok().and_then(Option::as_ref).and_then(|it| Cost::of(&it.speed));
        self.keep(axis, load.clone(), measured);
        cost
    }

    fn keep(
        &mut self,
        axis: &'static str,
        load: TunedLoad,
        measured: Result<Option<Measured>, GenerateError>,
    ) {
        let (measured, error) = match measured {
            Ok(Some(measured)) => (Some(measured), None),
            Ok(None) => (None, Some("its context is too small to measure anything in".to_owned())),
            Err(error) => (None, Some(error.to_string())),
        };
        let tokens = measured.as_ref().map_or(0, |measured| measured.speed.tokens());
        self.source.progress.computed(0, tokens);
        self.source.progress.done(1, 0);
        self.rows.push(Row { axis, load, measured, error, falls_back: None });
    }

    /// Every row of this axis against the row with the control's KV types and flash attention, all else equal.
    fn mark_fallbacks(&mut self, axis: Axis, against: &TunedLoad) {
        if !matches!(axis, Axis::KvType | Axis::FlashAttention) {
            return;
        }
        let of = |row: &Row| row.measured.as_ref().map(|measured| measured.speed.clone());
        let Some(control) = self.rows.iter().rev().find(|row| row.load == *against).and_then(of) else {
            return;
        };
        for row in self.rows.iter_mut().filter(|row| row.axis == axis.name()) {
            row.falls_back = row.measured.as_ref().and_then(|measured| falls_back(&measured.speed, &control));
        }
    }
}

/// Measures settings in a process of their own.
fn measure(settings: &Settings, parts: &Parts<'_>, load: &TunedLoad) -> Result<Probed, GenerateError> {
    let mut local = (parts.open)(load)?;
    let wanted = Wanted {
        prefill_tokens: PREFILL_TOKENS,
        decode_tokens: DECODE_TOKENS,
        sequences: load.n_seq_max,
        repetitions: settings.repetitions,
    };
    let speed = speed::measure(&mut local, wanted)?;
    let rate = speed.decode_tokens_per_s.as_ref().map(|rates| rates.mean);
    // Sequences that decode together read the weights once for all of them.
    let one = rate.map(|rate| rate / f64::from(speed.sequences));
    let (hello, loaded) = (local.hello(), local.loaded());
    let taken = proof::taken(hello, loaded);
    let placement = proof::placement(settings.device, hello, local.load(), loaded, one, parts.read_gb_per_s);
    let measured = Cost::of(&speed).map(|cost| Measured {
        call_seconds: cost.seconds(),
        load_ms: loaded.load_ms + loaded.context_ms,
        rss_bytes: taken.rss_bytes,
        kv_bytes: taken.kv_bytes,
        placement,
        speed,
    });
    Ok(Probed { n_ctx: loaded.n_ctx, n_ctx_train: loaded.n_ctx_train, measured })
}

/// What an operation that left the device shows as: no log line, but a rate that collapses.
fn falls_back(row: &Speed, control: &Speed) -> Option<String> {
    let share = |pick: fn(&Speed) -> &Option<crate::statistics::Summary>| {
        Some(pick(row).as_ref()?.mean / pick(control).as_ref()?.mean)
    };
    let prefill = share(|speed| &speed.prefill_tokens_per_s).map(|share| ("prefill", share));
    let decode = share(|speed| &speed.decode_tokens_per_s).map(|share| ("decode", share));
    let worst = prefill.into_iter().chain(decode).min_by(|a, b| a.1.total_cmp(&b.1))?;
    (worst.1 < FALLBACK_SHARE).then(|| {
        format!(
            "{} runs at {:.0} % of the control: an operation of it runs elsewhere, or has no kernel here",
            worst.0,
            100.0 * worst.1
        )
    })
}

impl Report {
    /// Whether the control ran where it was asked to; `None` where it was not measured.
    #[must_use]
    pub fn placement_verdict(&self) -> Option<Placement> {
        self.placement.as_ref().map(|verdict| verdict.verdict)
    }

    /// Whether anything was measured beside the control.
    #[must_use]
    pub fn is_swept(&self) -> bool {
        self.rows.iter().any(|row| row.axis != CONTROL && row.axis != FOUND && row.measured.is_some())
    }
}

#[cfg(test)]
pub(crate) mod tests;
