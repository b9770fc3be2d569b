//! What a run will take, from a little of it: how many passes a wanted precision needs, and how long they are.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use haul_encoder::device::{Pass, State};
use haul_encoder::vision::ImageEncoder;
use serde::Serialize;

use super::super::statistics::Bias;
use super::super::statistics::law::Law;
use super::files::Table;
use super::stopping::{Enough, PASSES_MIN};
use super::unit::Keep;
use super::{Image, McError, Outcome, PASSES_MAX, Parts, Run, Settings, passing};

/// Images of a pilot, spread over all.
const IMAGES: usize = 64;
/// Trials and passes of a pilot: the fewest trials that can disagree, and passes enough for their noise.
const TRIALS: usize = 2;
const PASSES: usize = PASSES_MIN;
/// An image may take so many times the passes that all need on average.
const MOST_OF_LAW: usize = 4;
/// A rate is measured for so long, at least.
const MEASURED: Duration = Duration::from_secs(2);

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
    /// Passes that reach the target, by the law of all images.
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
            Target::Icc(icc) => law.c * icc / (1.0 - icc) / law.cv2,
            Target::Se(se) => law.c / (se * se),
        };
        // Where images do not differ at all, no number of passes is enough.
        if wanted.is_nan() || wanted > PASSES_MAX as f64 {
            return Err(McError::Far { target, passes: wanted });
        }
        let passes = (wanted.ceil() as usize).max(2);
        let enough = match target {
            Target::Icc(icc) => Enough::Error(told.mean * (law.cv2 * (1.0 - icc) / icc).sqrt()),
            Target::Se(se) => Enough::Share(se),
        };
        Ok((Some(Pilot { target, images: images.len(), law, passes, enough }), outcome))
    }

    /// What this run and other ways to the same numbers would take, by a rate that is measured now. The journal is not
    /// looked at.
    ///
    /// # Errors
    /// As of a run.
    pub fn plan(&self, parts: &mut Parts<'_>) -> Result<Option<Plan>, McError> {
        let Some(image) = self.images.first() else { return Ok(None) };
        let sites = self.settings.sites.under(self.settings.perturbation, &self.tower.config)?;
        let encoder = (parts.load)(self.dtype, &sites)?;
        let pixels = passing::pixels(parts.cache, &image.hash)?;
        let state = Arc::new(encoder.prefix(&pixels, &self.tower.levels())?);
        let pass_s = self.measured(&encoder, &state, parts)?;
        let (prefix, pass) = (encoder.flops_of_prefix() as f64, encoder.flops_of_pass() as f64);
        let (prefix_s, forward_s) = (pass_s * prefix / pass, pass_s * (prefix + pass) / pass);
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

    /// Seconds of a pass while the device is busy.
    fn measured(
        &self,
        encoder: &ImageEncoder,
        state: &Arc<State>,
        parts: &Parts<'_>,
    ) -> Result<f64, McError> {
        let hash = self.images[0].hash;
        let batch: Vec<Pass> = (0..self.settings.batch)
            .map(|pass| Pass { image: 0, mask: self.mask(&hash, super::AUDIT_TRIAL, pass), only: None })
            .collect();
        let mut flying = VecDeque::new();
        // The first batches grow the arenas.
        for _ in 0..encoder.batches_in_flight() {
            flying.push_back(encoder.pass(state, batch.clone(), self.settings.perturbation)?);
        }
        let (started, mut landed) = (Instant::now(), 0_usize);
        while started.elapsed() < MEASURED && !parts.stop.requested() || landed == 0 {
            if let Some(ticket) = flying.pop_front() {
                encoder.collect(ticket)?;
                landed += batch.len();
            }
            flying.push_back(encoder.pass(state, batch.clone(), self.settings.perturbation)?);
        }
        let seconds = started.elapsed().as_secs_f64();
        for ticket in flying {
            encoder.collect(ticket)?;
        }
        Ok(seconds / landed as f64)
    }
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
