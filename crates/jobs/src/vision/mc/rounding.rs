//! Whether a reduced dtype hides what dropout does: the same passes under the same masks, once more in f32.

use std::collections::HashMap;
use std::sync::Arc;

use haul_corpus::pixels::Hash;
use haul_encoder::device::Pass;
use haul_encoder::model::vision::Site;
use haul_encoder::vision::{ImageEncoder, PrefixTicket};
use haul_kernels::dtype::Dtype;
use haul_pipeline::journal::{Journal, State};
use serde::{Deserialize, Serialize};

use super::super::statistics::mean;
use super::super::statistics::passes::Passes;
use super::{McError, Parts, Run, Settings, done, passing};

/// Of the run's passes, as many as one in this number are compared.
const ONE_OF: usize = 32;
/// Over each image of the comparison: fewer say little of how far they lie apart, and each image costs its prefix besides.
const PASSES_MIN: usize = 4;
const PASSES_MAX: usize = 8;
/// Images of the comparison: those with the smallest hashes.
const IMAGES_MIN: usize = 4;
const IMAGES_MAX: usize = 8;

/// How a dtype differs from f32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rounding {
    /// Images compared.
    pub images: usize,
    /// Passes over each.
    pub passes: usize,
    /// Of features under the same masks, on average.
    pub cosine: f64,
    /// Of those that agree least.
    pub cosine_min: f64,
    /// What rounding adds to a feature's numbers over what dropout does to them, both as root mean squares; none where
    /// nothing fell out.
    pub rounding_over_noise: Option<f64>,
    /// The mean `trace_pre` in this dtype over that in f32; none where nothing fell out.
    pub trace_ratio: Option<f64>,
    /// What it took in this run, loading the weights in f32 included. Files do not have it: they are the same in each run.
    #[serde(skip)]
    pub seconds: f64,
}

/// How much is compared: images at most, and passes over each.
struct Compared {
    images: usize,
    passes: usize,
}

/// What a run computes of what is compared: it need not be computed again. The default is of no image and keeps nothing.
#[derive(Default)]
pub(super) struct Sample {
    /// The images.
    hashes: Vec<Hash>,
    /// Passes over each, the first of the first trial, whose number this is.
    passes: usize,
    trial: u32,
    features: HashMap<Hash, Vec<f32>>,
}

impl Sample {
    /// Keeps what is compared of a trial over an image. One of trials of several lengths may be too short for it.
    pub(super) fn keep(&mut self, hash: Hash, trial: u32, features: &[f32], dim: usize) {
        let is_compared = trial == self.trial && self.hashes.contains(&hash);
        if let Some(features) = features.get(..self.passes * dim).filter(|_| is_compared) {
            self.features.insert(hash, features.to_vec());
        }
    }

    /// Image by image; none where something is missing: an earlier run computed it, or nobody did.
    fn into_features(mut self) -> Option<Vec<f64>> {
        let of_images = self.hashes.iter().map(|hash| self.features.remove(hash));
        let of_images = of_images.collect::<Option<Vec<_>>>()?;
        Some(of_images.into_iter().flatten().map(f64::from).collect())
    }
}

impl Run<'_> {
    /// Of a run whose dtype is compared with f32.
    pub(super) fn sample(&self) -> Sample {
        let Compared { images, passes } = self.compared();
        let mut hashes: Vec<Hash> = self.distinct().iter().map(|image| image.hash).collect();
        hashes.sort_unstable();
        hashes.truncate(images);
        Sample { hashes, passes, trial: self.first_trial(), features: HashMap::new() }
    }

    /// Its masks are those of the comparison.
    fn first_trial(&self) -> u32 {
        self.settings.series().first().map_or(0, |series| series.number)
    }

    pub(super) fn rounding(
        &self,
        encoder: &ImageEncoder,
        sites: &[Site],
        sample: Sample,
        parts: &mut Parts<'_>,
    ) -> Result<Rounding, McError> {
        let started = std::time::Instant::now();
        let exact = (parts.load)(Dtype::F32, sites)?;
        let (hashes, passes) = (sample.hashes.clone(), sample.passes);
        let found = match sample.into_features() {
            Some(found) => found,
            None => self.some_passes(encoder, &hashes, passes, parts)?,
        };
        let wanted = self.some_passes(&exact, &hashes, passes, parts)?;
        let dim = self.tower.dim();
        let (mut cosines, mut traces) = (vec![], vec![]);
        let (mut added, mut noise) = (0.0, 0.0);
        for (found, wanted) in found.chunks(passes * dim).zip(wanted.chunks(passes * dim)) {
            let of = |features: &[f64]| Passes { features, dim }.summary().trace_pre.value;
            traces.push((of(found), of(wanted)));
            noise += of(wanted) * wanted.len() as f64;
            added += found.iter().zip(wanted).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            cosines.extend(found.chunks_exact(dim).zip(wanted.chunks_exact(dim)).map(|(a, b)| cosine(a, b)));
        }
        let rounding = Rounding {
            images: hashes.len(),
            passes,
            cosine: mean(&cosines),
            cosine_min: cosines.iter().copied().fold(1.0, f64::min),
            rounding_over_noise: over(added, noise).map(f64::sqrt),
            trace_ratio: over(traces.iter().map(|of| of.0).sum(), traces.iter().map(|of| of.1).sum()),
            seconds: started.elapsed().as_secs_f64(),
        };
        if let Some(key) = self.rounding_key() {
            let bytes = serde_json::to_vec(&rounding).expect("numbers are JSON");
            parts.journal.finish(&key, State::Done, &bytes, 0)?;
        }
        Ok(rounding)
    }

    pub(super) fn known_rounding(&self, journal: &Journal) -> Result<Option<Rounding>, McError> {
        let Some(key) = self.rounding_key() else { return Ok(None) };
        // What a journal has in another form is computed again.
        Ok(done(journal, &key)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Of the first image: which others are compared follows from the rest of the run.
    fn rounding_key(&self) -> Option<haul_pipeline::journal::JournalKey> {
        let settings = self.settings;
        let Compared { images, passes } = self.compared();
        let of = format!(
            "{} {} {} {images} {passes}{}",
            settings.perturbation,
            settings.seed,
            self.images.len(),
            self.shared()
        );
        Some(self.key("rounding", &self.images.first()?.hash, &of))
    }

    /// More in a run that is longer, so that the comparison does not outlast what it is of.
    fn compared(&self) -> Compared {
        let all = self.images.len() * self.settings.trials * self.settings.longest() / ONE_OF;
        Compared {
            images: (all / PASSES_MIN).clamp(IMAGES_MIN, IMAGES_MAX),
            passes: (all / IMAGES_MAX).clamp(PASSES_MIN, PASSES_MAX).min(self.settings.longest()),
        }
    }

    /// Features of the first passes over images, image by image.
    fn some_passes(
        &self,
        encoder: &ImageEncoder,
        hashes: &[Hash],
        passes: usize,
        parts: &mut Parts<'_>,
    ) -> Result<Vec<f64>, McError> {
        let Settings { perturbation, batch, .. } = *self.settings;
        let trial = self.first_trial();
        let over = |(image, hash): (usize, &Hash)| {
            let pass = |pass| Pass { image, mask: self.mask(hash, trial, pass), only: None };
            (0..passes).map(pass).collect::<Vec<_>>()
        };
        let mut features = vec![];
        let mut land = |(hashes, prefix): (&[Hash], PrefixTicket)| {
            let state = Arc::new(encoder.collect_prefix(prefix)?);
            let all: Vec<Pass> = hashes.iter().enumerate().flat_map(over).collect();
            features.extend(passing::all_passes(encoder, &state, &all, perturbation, batch)?);
            Ok::<_, McError>(())
        };
        // No batch is larger here than in the run, whose memory is bounded by it; and like there, one prefix is ahead:
        // of few images there are two, or one thread would have nothing to do.
        let mut ahead = None;
        for hashes in hashes.chunks(batch.min(IMAGES_MIN / 2)) {
            let mut images = vec![];
            for hash in hashes {
                images.extend(passing::pixels(parts.cache, hash)?);
            }
            let prefix = encoder.submit_prefix(&images, &self.tower.levels())?;
            ahead.replace((hashes, prefix)).map(&mut land).transpose()?;
        }
        ahead.map(&mut land).transpose()?;
        Ok(features.into_iter().map(f64::from).collect())
    }
}

fn over(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
