//! What a run will take, from a little of it: how many passes a wanted precision needs, and how long they are.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use haul_corpus::pixels::PixelCache;
use haul_encoder::device::Pass;
use haul_encoder::vision::{ImageEncoder, VisionError};
use haul_pipeline::stage::Stop;
use serde::Serialize;

use super::super::statistics::Bias;
use super::super::statistics::law::Law;
use super::files::Table;
use super::stopping::{Enough, PASSES_MIN};
use super::unit::Keep;
use super::{Image, Load, McError, Outcome, PASSES_MAX, Parts, Run, Settings, passing};

/// Images of a pilot, spread over all.
const IMAGES: usize = 64;
/// Trials and passes of a pilot: the fewest trials that can disagree, and passes enough for their noise.
const TRIALS: usize = 2;
const PASSES: usize = PASSES_MIN;
/// An image may take so many times the passes that all need on average.
const MOST_OF_LAW: usize = 4;
/// A rate is measured for so long, at least.
const MEASURED: Duration = Duration::from_secs(1);

/// What a run should reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The ICC of one trial's `trace_pre`.
    Icc(f64),
    /// The standard error of an image's `trace_pre` over the trace itself.
    Se(f64),
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Icc(icc) => write!(formatter, "an ICC of {icc}"),
            Target::Se(se) => write!(formatter, "a standard error of {se} of the trace"),
        }
    }
}

/// What a pilot says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pilot {
    /// What was asked for.
    pub target: Target,
    /// Images of the pilot.
    pub images: usize,
    /// How trials of other lengths would be.
    pub law: Law,
    /// Passes that reach the target, by the law of all images; not fewer than an image has when it is looked at first.
    pub passes: usize,
    /// When an image is measured well enough.
    pub enough: Enough,
}

impl Pilot {
    /// The most passes of a trial: images differ in what they need, and some never reach it.
    #[must_use]
    pub fn most(&self) -> usize {
        (self.passes * MOST_OF_LAW).clamp(PASSES, PASSES_MAX)
    }
}

impl Run<'_> {
    /// How many passes a target takes; none where a stop was asked for.
    ///
    /// # Errors
    /// As of a run; or the target takes more passes than are computed, or images do not differ at all.
    pub fn pilot(&self, target: Target, parts: &mut Parts<'_>) -> Result<(Option<Pilot>, Outcome), McError> {
        if matches!(target, Target::Icc(_)) && self.distinct().len() < 2 {
            return Err(McError::Alike { images: self.distinct().len() });
        }
        let settings = Settings {
            trials: TRIALS,
            passes: vec![PASSES],
            nested: true,
            enough: None,
            keep: Keep::default(),
            ..self.settings.clone()
        };
        let every = self.images.len().div_ceil(IMAGES).max(1);
        let images: Vec<Image> = self.images.iter().step_by(every).cloned().collect();
        let run = Run { settings: &settings, images: &images, ..*self };
        let outcome = run.compute(parts)?;
        if outcome.interrupted {
            return Ok((None, outcome));
        }
        let tables = run.tables(parts.journal, Bias::Unbiased)?;
        let told = tables.first().map(Table::told_trace).ok_or(McError::Alike { images: images.len() })?;
        let law = told.law.ok_or(McError::Alike { images: images.len() })?;
        let wanted = match target {
            Target::Icc(_) if law.cv2 <= 0.0 => return Err(McError::Alike { images: images.len() }),
            Target::Icc(icc) => law.c * icc / (1.0 - icc) / law.cv2,
            Target::Se(se) => law.c / (se * se),
        };
        if wanted.is_nan() || wanted > PASSES_MAX as f64 {
            return Err(McError::Far { target, passes: wanted });
        }
        let passes = (wanted.ceil() as usize).max(PASSES_MIN);
        let enough = match target {
            Target::Icc(icc) => Enough::Error(told.mean * (law.cv2 * (1.0 - icc) / icc).sqrt()),
            Target::Se(se) => Enough::Share(se),
        };
        Ok((Some(Pilot { target, images: images.len(), law, passes, enough }), outcome))
    }

    /// What the passes of this run and other ways to the same numbers would take, by rates that are measured now. What an
    /// earlier run has computed is not looked at.
    ///
    /// # Errors
    /// As of a run.
    pub fn plan(
        &self,
        load: &Load<'_>,
        cache: &mut PixelCache,
        stop: &Stop,
    ) -> Result<Option<Plan>, McError> {
        let Some(image) = self.images.first() else { return Ok(None) };
        let sites = self.settings.sites.under(self.settings.perturbation, &self.tower.config)?;
        let encoder = load(self.dtype, &sites)?;
        let (pixels, levels) = (passing::pixels(cache, &image.hash)?, self.tower.levels());
        let state = Arc::new(encoder.prefix(&pixels, &levels)?);
        let group = passing::group(self);
        let pixels = pixels.repeat(group);
        let prefix_s = busy_s(
            &encoder,
            stop,
            || encoder.submit_prefix(&pixels, &levels),
            |ticket| encoder.collect_prefix(ticket).map(drop),
        )? / group as f64;
        let pass =
            |pass| Pass { image: 0, mask: self.mask(&image.hash, super::AUDIT_TRIAL, pass), only: None };
        let batch: Vec<Pass> = (0..self.settings.batch).map(pass).collect();
        let submit = || encoder.pass(&state, batch.clone(), self.settings.perturbation);
        let pass_s =
            busy_s(&encoder, stop, submit, |ticket| encoder.collect(ticket).map(drop))? / batch.len() as f64;
        let forward_s = prefix_s + pass_s;
        let images = self.distinct().len() as f64;
        let trials = self.settings.trials as f64;
        let each: f64 = self.settings.passes.iter().map(|&passes| passes as f64).sum();
        let nested = if self.settings.nested { self.settings.longest() as f64 } else { each };
        let way = |says: &str, passes: f64, seconds: f64| Way {
            says: says.to_owned(),
            passes: (passes * trials * images) as u64,
            seconds,
        };
        Ok(Some(Plan {
            model: self.tower.name.clone(),
            images: images as usize,
            sites: sites.len(),
            passes_per_s: 1.0 / pass_s,
            weights_bytes: encoder.memory().weights_bytes,
            arena_bytes: encoder.memory().arena_bytes,
            state_bytes: state.bytes(),
            ways: vec![
                way(
                    "trials of their own for each T, a whole forward a pass",
                    each,
                    each * trials * images * forward_s,
                ),
                way("the longest trials alone", nested, nested * trials * images * forward_s),
                way(
                    "and what no mask changes once an image: this run",
                    nested,
                    images * (prefix_s + nested * trials * pass_s),
                ),
            ],
        }))
    }
}

/// Seconds of a batch while the device is busy with such batches.
fn busy_s<T>(
    encoder: &ImageEncoder,
    stop: &Stop,
    submit: impl Fn() -> Result<T, VisionError>,
    collect: impl Fn(T) -> Result<(), VisionError>,
) -> Result<f64, McError> {
    let mut flying = VecDeque::new();
    // The first batches grow the arenas.
    for _ in 0..encoder.batches_in_flight() {
        flying.push_back(submit()?);
    }
    let (started, mut landed) = (Instant::now(), 0_usize);
    while started.elapsed() < MEASURED && !stop.requested() || landed == 0 {
        if let Some(ticket) = flying.pop_front() {
            collect(ticket)?;
            landed += 1;
        }
        flying.push_back(submit()?);
    }
    let seconds = started.elapsed().as_secs_f64();
    flying.into_iter().try_for_each(collect)?;
    Ok(seconds / landed as f64)
}

/// What a run takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The tower.
    pub model: String,
    /// Images, each content once.
    pub images: usize,
    /// Sites.
    pub sites: usize,
    /// Measured.
    pub passes_per_s: f64,
    /// Of the weights as they are computed with.
    pub weights_bytes: usize,
    /// Of activations, over all threads.
    pub arena_bytes: usize,
    /// Of what is kept of one image while passes over it are computed.
    pub state_bytes: usize,
    /// This run last.
    pub ways: Vec<Way>,
}

/// One way to the numbers of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Way {
    /// How it goes.
    pub says: String,
    /// Passes over all images.
    pub passes: u64,
    /// Their time.
    pub seconds: f64,
}
