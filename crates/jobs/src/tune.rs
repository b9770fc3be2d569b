//! `tune`: the settings with which a model is fastest on this machine, found by measuring, one worker process for each.
//!
//! One setting is varied at a time, from the best so far. What cannot work is named before anything is measured. The
//! first row, the control, is measured again at the end: how far its two times are apart is how much the machine changed
//! meanwhile, and no difference smaller than that is one.

pub mod axes;
pub mod encoder;
pub mod impossible;
pub mod profile;

use std::time::{Duration, Instant};

use haul_generate::GenerateError;
use haul_generate::local::Local;
use haul_machine::verdict::{DeviceRequest, Placement, Verdict};
use haul_pipeline::stage::Stop;
use serde::Serialize;

use crate::proof;
use crate::speed::{self, Speed, Wanted};
use axes::{Axis, knee};
use impossible::Shape;
pub use profile::{Profile, ProfileError, TunedLoad, profile_for};

/// The call by which settings are judged: tokens of its prompt, and of its answer.
pub const CALL_TOKENS: (u32, u32) = (512, 128);
/// Tokens of a measured prefill.
const PREFILL_TOKENS: u32 = 512;
/// Tokens that each sequence decodes in a measurement.
const DECODE_TOKENS: u32 = 32;
/// Rows at most, the control's two among them.
pub const ROWS_MAX: usize = 64;
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
         backend with it and name its folder",
    ),
];

/// What is tuned.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the model is opened with by default: the control.
    pub control: TunedLoad,
    /// Threads that this machine has.
    pub cores: u32,
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
    /// The best settings that change no answer's arithmetic but its order of sums.
    pub best: TunedLoad,
    /// Seconds of a call with them, by their own row.
    pub best_seconds: f64,
    /// How many times faster than the control at the start.
    pub gain: f64,
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
    /// Seconds of one call's share of the machine: what settings are judged by.
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
    let mut sweep = Sweep {
        settings,
        parts,
        begun: Instant::now(),
        rows: vec![],
        impossible: vec![],
        not_measured: vec![],
    };
    let (first, shape) = sweep.control()?;
    let mut best = (settings.control.clone(), first);
    for axis in Axis::ALL {
        if parts.stop.requested() {
            break;
        }
        best = sweep.axis(axis, best, &shape);
    }
    let last = if parts.stop.requested() { None } else { sweep.control_again() };
    let (load, seconds) = best;
    let drift = last.map(|last| last / first - 1.0);
    Ok(Report {
        call_tokens: CALL_TOKENS,
        placement: sweep.rows[0].measured.as_ref().map(|measured| measured.placement.clone()),
        rows: sweep.rows,
        impossible: sweep.impossible,
        not_measured: sweep.not_measured,
        drift,
        is_noisy: drift.is_none_or(|drift| drift.abs() > DRIFT_MAX),
        best: load,
        best_seconds: seconds,
        gain: first / seconds,
        compiled_in: COMPILED_IN,
        interrupted: parts.stop.requested(),
    })
}

struct Sweep<'a> {
    settings: &'a Settings,
    parts: &'a Parts<'a>,
    begun: Instant,
    rows: Vec<Row>,
    impossible: Vec<Refused>,
    not_measured: Vec<Refused>,
}

impl Sweep<'_> {
    /// The default: its seconds, and what it tells of the model.
    fn control(&mut self) -> Result<(f64, Shape), TuneError> {
        let control = &self.settings.control;
        (self.parts.say)(&format!("control: {}", control.line()));
        let mut local = (self.parts.open)(control).map_err(|source| TuneError::Control { source })?;
        let measured = self.measure(&mut local, control).map_err(|source| TuneError::Control { source })?;
        let no_time = TuneError::NoTime { n_ctx: control.n_ctx };
        let measured = measured.ok_or(no_time)?;
        let cells = f64::from(local.loaded().n_ctx.max(1)) * impossible::bytes_of_pair(control);
        let shape = Shape {
            n_ctx_train: local.loaded().n_ctx_train,
            head_sizes: self.settings.head_sizes,
            kv_bytes_per_cell: (measured.kv_bytes > 0).then(|| measured.kv_bytes as f64 / cells),
            room_bytes: self.settings.room_bytes,
        };
        let seconds = measured.call_seconds;
        self.keep("control", control.clone(), Ok(Some(measured)));
        Ok((seconds, shape))
    }

    fn control_again(&mut self) -> Option<f64> {
        let control = self.settings.control.clone();
        self.row("control", &control)
    }

    /// Varies one setting from the best so far, and gives the new best.
    fn axis(&mut self, axis: Axis, best: (TunedLoad, f64), shape: &Shape) -> (TunedLoad, f64) {
        let mut wanted: Vec<TunedLoad> = Vec::new();
        for load in axis.values(&best.0, self.settings.cores) {
            match impossible::why(&load, shape) {
                Some(why) => self.refuse(axis.name(), load, why),
                None => wanted.push(load),
            }
        }
        let mut results = vec![best.clone()];
        for load in wanted.into_iter().filter(|load| *load != best.0) {
            if self.parts.stop.requested() {
                break;
            }
            if let Some(why) = self.out_of_time() {
                self.not_measured.push(Refused { axis: axis.name(), load, why });
                continue;
            }
            if let Some(seconds) = self.row(axis.name(), &load) {
                results.push((load, seconds));
            }
        }
        self.mark_fallbacks(axis, &best.0);
        // What changes the numbers of the cache changes answers; that is a choice, and not this job's.
        if axis == Axis::KvType {
            return best;
        }
        let sized: Vec<(u64, f64)> =
            results.iter().map(|(load, seconds)| (axis.size(load), *seconds)).collect();
        results.swap_remove(knee(&sized))
    }

    fn refuse(&mut self, axis: &'static str, load: TunedLoad, why: String) {
        let refused = Refused { axis, load, why };
        if !self.impossible.contains(&refused) {
            (self.parts.say)(&format!("{axis}: {} cannot work: {}", refused.load.line(), refused.why));
            self.impossible.push(refused);
        }
    }

    /// Time is kept for the control's second row: all rows are thought to take as long as the longest so far.
    fn out_of_time(&self) -> Option<String> {
        if self.rows.len() + 1 >= ROWS_MAX {
            return Some(format!("{ROWS_MAX} rows are enough"));
        }
        let spent = self.begun.elapsed();
        let row = spent / u32::try_from(self.rows.len().max(1)).unwrap_or(u32::MAX);
        let is_over = spent + 2 * row > self.settings.budget;
        is_over.then(|| {
            format!("{:.0} s of {:.0} s were spent", spent.as_secs_f64(), self.settings.budget.as_secs_f64())
        })
    }

    /// Measures a configuration in a process of its own; its seconds, where it worked.
    fn row(&mut self, axis: &'static str, load: &TunedLoad) -> Option<f64> {
        (self.parts.say)(&format!("{axis}: {}", load.line()));
        let measured = (self.parts.open)(load).and_then(|mut local| self.measure(&mut local, load));
        let seconds = measured.as_ref().ok().and_then(Option::as_ref).map(|measured| measured.call_seconds);
        self.keep(axis, load.clone(), measured);
        seconds
    }

    fn measure(&self, local: &mut Local, load: &TunedLoad) -> Result<Option<Measured>, GenerateError> {
        let wanted = Wanted {
            prefill_tokens: PREFILL_TOKENS,
            decode_tokens: DECODE_TOKENS,
            sequences: load.n_seq_max,
            repetitions: self.settings.repetitions,
        };
        let speed = speed::measure(local, wanted)?;
        let rate = speed.decode_tokens_per_s.as_ref().map(|rates| rates.mean);
        // Sequences that decode together read the weights once for all of them.
        let one = rate.map(|rate| rate / f64::from(speed.sequences));
        let (hello, loaded) = (local.hello(), local.loaded());
        let taken = proof::taken(hello, loaded);
        let placement = proof::placement(
            self.settings.device,
            hello,
            local.load(),
            loaded,
            one,
            self.parts.read_gb_per_s,
        );
        Ok(call_seconds(&speed).map(|call_seconds| Measured {
            call_seconds,
            load_ms: loaded.load_ms + loaded.context_ms,
            rss_bytes: taken.rss_bytes,
            kv_bytes: taken.kv_bytes,
            placement,
            speed,
        }))
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

/// Seconds of a call's own tokens at these rates; rates of decode are of all sequences together.
fn call_seconds(speed: &Speed) -> Option<f64> {
    let prefill = speed.prefill_tokens_per_s.as_ref().filter(|rates| rates.mean > 0.0)?;
    let decode = speed.decode_tokens_per_s.as_ref().filter(|rates| rates.mean > 0.0)?;
    Some(f64::from(CALL_TOKENS.0) / prefill.mean + f64::from(CALL_TOKENS.1) / decode.mean)
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
}

#[cfg(test)]
pub(crate) mod tests {
    use haul_generate::local::FlashAttention;

    use super::*;

    pub(crate) fn control() -> TunedLoad {
        TunedLoad {
            n_ctx: 2048,
            n_batch: 2048,
            n_ubatch: 512,
            n_seq_max: 1,
            threads: 2,
            type_k: "f16".to_owned(),
            type_v: "f16".to_owned(),
            flash_attention: FlashAttention::Auto,
        }
    }

    fn speed(prefill_s: f64, decode_s: f64) -> Speed {
        Speed::of(512, 32, 1, vec![(prefill_s * 1e9) as u64], vec![(decode_s * 1e9) as u64])
    }

    #[test]
    fn a_call_is_its_prompt_and_its_answer() {
        let seconds = call_seconds(&speed(1.0, 0.25)).unwrap();
        assert!((seconds - 2.0).abs() < 1e-9, "{seconds}");
        assert_eq!(call_seconds(&Speed::of(512, 0, 1, vec![1], vec![])), None);
    }

    /// 1,511 -> 197 tokens/s was what a mixed cache did to a card; the log said nothing.
    #[test]
    fn a_rate_that_collapses_is_named() {
        let control = speed(0.34, 0.3);
        assert_eq!(falls_back(&speed(0.6, 0.5), &control), None);
        let found = falls_back(&speed(2.6, 0.5), &control).unwrap();
        assert!(found.starts_with("prefill runs at 13 % of the control"), "{found}");
        let found = falls_back(&speed(0.34, 3.0), &control).unwrap();
        assert!(found.starts_with("decode runs at 10 % of the control"), "{found}");
    }

    #[test]
    fn a_model_that_does_not_open_cannot_be_tuned_and_says_why() {
        let stop = Stop::default();
        let missing = || {
            let patience = haul_generate::local::Patience::default();
            Local::open(haul_generate::local::LocalSettings {
                worker: "there/is/none".into(),
                backends: vec![],
                device: DeviceRequest::Cpu,
                load: crate::proof::tests::load(&[]),
                template: None,
                identity: String::new(),
                name: "a".to_owned(),
                patience,
            })
        };
        let open = |_: &TunedLoad| missing();
        let parts = Parts { open: &open, read_gb_per_s: 50.0, say: &|_| {}, stop: &stop };
        let settings = Settings {
            control: control(),
            cores: 2,
            budget: Duration::from_secs(60),
            repetitions: 1,
            device: DeviceRequest::Cpu,
            room_bytes: None,
            head_sizes: None,
        };
        let error = run(&settings, &parts).unwrap_err();
        assert!(error.to_string().contains("there/is/none: there is no haul-llama"), "{error}");
        assert!(error.hint().is_some());
    }
}
