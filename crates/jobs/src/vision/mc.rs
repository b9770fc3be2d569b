//! Passes with dropout over images, and what they say: `haul vision mc`.
//!
//! [`pixels::gather`] brings every image to disk as the tower takes it. [`Run::compute`] takes what no earlier run has:
//! of an image, all that no mask changes is computed once, then every pass of every trial begins from there. A series of
//! passes over one image is the piece of work that the journal knows; its key holds all that shapes it, so a run that
//! was stopped goes on, and one that asks for more computes no more than that. `files` writes what was found, from the
//! journal alone.

use std::collections::HashSet;
use std::time::Instant;

use haul_corpus::pixels::{Hash, PixelCache, PixelsError};
use haul_encoder::NUMERICS_VERSION;
use haul_encoder::model::vision::Site;
use haul_encoder::vision::{ImageEncoder, VisionError};
use haul_kernels::dropout::{MaskKey, Rate};
use haul_kernels::dtype::Dtype;
use haul_kernels::perturb::{Magnitude, Perturbation, coin_falls};
use haul_pipeline::journal::{Journal, JournalError, JournalKey, State};
use haul_pipeline::progress::Progress;
use haul_pipeline::stage::{Stages, Stop};
use serde::Serialize;

use super::npz::NpzError;
use super::sites::{Sites, SitesError};
use super::tower::Tower;

pub mod files;
mod passing;
mod pilot;
pub mod pixels;
pub mod room;
mod rounding;
pub mod stopping;
pub mod studies;
pub mod unit;

pub use pilot::{Pilot, Plan, Target};
pub use rounding::Rounding;
use rounding::Sample;
use stopping::Enough;
use unit::{Keep, Series, Unit};

/// Changes when the same key would have other bytes under it.
const VERSION: u32 = 2;
/// Passes of one trial.
pub const PASSES_MAX: usize = 4_096;
/// Trials of one run.
pub const TRIALS_MAX: usize = 1_000;
/// What lies between the masks of trials of one length and of the next.
const TRIALS_APART: usize = 100_000;
/// A site is tried with this share of its outputs dropped, or noise as strong, so that one that can fire does.
const AUDIT_STRENGTH: f64 = 0.5;
/// No trial has this number.
const AUDIT_TRIAL: u32 = u32::MAX;

/// What is done to every image.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where passes differ.
    pub sites: Sites,
    /// What is done there.
    pub kind: Kind,
    /// How much of it, as it was asked for: the share that falls out, or the magnitude of noise.
    pub strength: f64,
    /// Both, as passes are computed.
    pub perturbation: Perturbation,
    /// Whether all images have the same masks.
    pub shared_masks: bool,
    /// Repetitions.
    pub trials: usize,
    /// Numbers of passes that are asked for, rising.
    pub passes: Vec<usize>,
    /// When a trial over an image ends before its last pass; none: never.
    pub enough: Option<Enough>,
    /// Whether shorter trials are the beginnings of longer ones, or trials of their own.
    pub nested: bool,
    /// Of all masks.
    pub seed: u64,
    /// What is kept.
    pub keep: Keep,
    /// Passes in one batch; changes no bit of the result.
    pub batch: usize,
}

/// What is done at a site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Elements, or whole blocks, fall out.
    #[default]
    Dropout,
    /// Noise is added.
    Gaussian,
    /// Elements are multiplied with noise around 1.
    Scale,
}

impl Kind {
    /// So much of it; none where that is not possible, or is nothing.
    #[must_use]
    pub fn of(self, strength: f64) -> Option<Perturbation> {
        let magnitude = || Magnitude::new(strength).filter(|magnitude| magnitude.get() > 0.0);
        match self {
            Kind::Dropout => Rate::new(strength).filter(|rate| rate.p() > 0.0).map(Perturbation::Dropout),
            Kind::Gaussian => magnitude().map(Perturbation::Gaussian),
            Kind::Scale => magnitude().map(Perturbation::Scale),
        }
    }
}

impl Settings {
    /// The longest trial.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.passes.last().copied().unwrap_or(0)
    }

    /// The share that was asked for; none of noise.
    #[must_use]
    pub fn dropout(&self) -> Option<f64> {
        (self.kind == Kind::Dropout).then_some(self.strength)
    }

    /// All series over one image.
    #[must_use]
    pub fn series(&self) -> Vec<Series> {
        let of = |passes: usize, snapshots: &[usize], apart: usize| {
            (0..self.trials)
                .map(|trial| Series {
                    trial,
                    number: (apart + trial) as u32,
                    passes,
                    snapshots: snapshots.to_vec(),
                })
                .collect::<Vec<_>>()
        };
        if self.nested {
            return of(self.longest(), &self.passes, 0);
        }
        self.passes.iter().flat_map(|&passes| of(passes, &[passes], TRIALS_APART * passes)).collect()
    }
}

/// An image that has pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// As it is called in files.
    pub path: String,
    /// Of what is in it: where its pixels are, and which masks are its.
    pub hash: Hash,
}

/// One tower over images, under one setting.
pub struct Run<'a> {
    /// The tower.
    pub tower: &'a Tower,
    /// Hash of its weights.
    pub weights_sha256: &'a str,
    /// What it computes with.
    pub dtype: Dtype,
    /// What is done to every image.
    pub settings: &'a Settings,
    /// Those that are ok, in the order of the manifest.
    pub images: &'a [Image],
}

/// Loads a tower with sites, for a dtype.
pub type Load<'a> = dyn Fn(Dtype, &[Site]) -> Result<ImageEncoder, VisionError> + 'a;

/// What a computation takes from outside.
pub struct Parts<'a> {
    /// What is known, and is written to.
    pub journal: &'a mut Journal,
    /// The images' pixels.
    pub cache: &'a mut PixelCache,
    /// Loads the tower.
    pub load: &'a Load<'a>,
    /// Clocks of the run.
    pub stages: &'a Stages,
    /// Counters of the run: images, and passes in place of bytes.
    pub progress: &'a Progress,
    /// A request to stop.
    pub stop: &'a Stop,
}

/// What a computation took.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Passes that were computed.
    pub passes: u64,
    /// Passes that an earlier run had computed.
    pub reused_passes: u64,
    /// Images of which everything was there.
    pub reused_images: u64,
    /// Images that were begun: what no mask changes was computed once for each.
    pub prefixes: u64,
    /// Floating-point operations.
    pub flops: u64,
    /// From the first batch to the last.
    pub compute_s: f64,
    /// How often weights were loaded.
    pub loads: u32,
    /// Each site, and how far it moves a feature when half of its outputs fall out, or get noise as strong.
    pub audit: Vec<Audited>,
    /// How a reduced dtype differs from f32; none in f32.
    pub rounding: Option<Rounding>,
    /// Ended by a stop.
    pub interrupted: bool,
}

/// A site that fires.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Audited {
    /// Which.
    pub site: String,
    /// The distance of the feature from that without dropout, over its length.
    pub moved: f64,
}

impl Run<'_> {
    /// Computes what no earlier run has; what it returns is in the journal for good.
    ///
    /// # Errors
    /// A site that the tower does not have or that cannot fire, pixels or a journal that cannot be used, a model that
    /// gives what is no number.
    pub fn compute(&self, parts: &mut Parts<'_>) -> Result<Outcome, McError> {
        let sites = self.settings.sites.under(self.settings.perturbation, &self.tower.config)?;
        let mut outcome = Outcome::default();
        let todo = self.todo(parts, &mut outcome)?;
        let known_audit = self.known_audit(parts.journal, &sites)?;
        let known_rounding = self.known_rounding(parts.journal)?;
        let is_rounded = self.dtype == Dtype::F32 || known_rounding.is_some();
        if let (true, Some(audit), true) = (todo.is_empty(), &known_audit, is_rounded) {
            return Ok(Outcome { audit: audit.clone(), rounding: known_rounding, ..outcome });
        }
        let encoder = (parts.load)(self.dtype, &sites)?;
        outcome.loads += 1;
        let is_first_missing =
            todo.first().map(|todo| todo.hash) == self.images.first().map(|image| image.hash);
        let untried = match known_audit {
            Some(audit) => {
                outcome.audit = audit;
                &[][..]
            }
            None if is_first_missing => &sites,
            None => {
                outcome.audit = self.audit(&encoder, &sites, parts)?;
                &[]
            }
        };
        let started = Instant::now();
        let mut sample = if is_rounded { Sample::default() } else { self.sample() };
        passing::run(self, &encoder, &todo, untried, &mut sample, parts, &mut outcome)?;
        if !untried.is_empty() {
            self.keep_audit(&outcome.audit, sites.len(), parts)?;
        }
        outcome.compute_s = started.elapsed().as_secs_f64();
        outcome.rounding = known_rounding;
        if !outcome.interrupted && !is_rounded {
            outcome.rounding = Some(self.rounding(&encoder, &sites, sample, parts)?);
            outcome.loads += 1;
        }
        parts.journal.flush()?;
        Ok(outcome)
    }

    /// What is known of an image: its feature without dropout, and all series.
    fn todo(&self, parts: &mut Parts<'_>, outcome: &mut Outcome) -> Result<Vec<Todo>, McError> {
        let mut todo = vec![];
        for image in self.distinct() {
            let is_still_known = self.still(parts.journal, &image.hash)?.is_some();
            let (mut missing, mut passes) = (vec![], 0);
            for series in self.settings.series() {
                if let Some(unit) = self.unit(parts.journal, &series, &image.hash)? {
                    outcome.reused_passes += unit.passes as u64;
                } else {
                    passes += series.passes as u64;
                    missing.push(series);
                }
            }
            parts.progress.expect(1, passes);
            if missing.is_empty() && is_still_known {
                parts.progress.skipped(1, 0);
                outcome.reused_images += 1;
            } else {
                todo.push(Todo { hash: image.hash, is_still_known, series: missing });
            }
        }
        Ok(todo)
    }

    /// Images without those whose content came before.
    fn distinct(&self) -> Vec<&Image> {
        let mut seen = HashSet::new();
        self.images.iter().filter(|image| seen.insert(image.hash)).collect()
    }

    /// The feature of an image without dropout; none where it was not computed.
    ///
    /// # Errors
    /// The journal's.
    pub fn still(&self, journal: &Journal, hash: &Hash) -> Result<Option<Vec<f32>>, JournalError> {
        let bytes = done(journal, &self.key("still", hash, ""))?;
        let is_whole = |bytes: &Vec<u8>| bytes.len() == 4 * self.tower.dim();
        let numbers = |bytes: Vec<u8>| {
            bytes.chunks_exact(4).filter_map(|b| Some(f32::from_le_bytes(b.try_into().ok()?))).collect()
        };
        Ok(bytes.filter(is_whole).map(numbers))
    }

    /// A series over an image; none where it was not computed.
    ///
    /// # Errors
    /// The journal's.
    pub fn unit(
        &self,
        journal: &Journal,
        series: &Series,
        hash: &Hash,
    ) -> Result<Option<Unit>, JournalError> {
        let bytes = done(journal, &self.unit_key(series, hash))?;
        Ok(bytes.and_then(|bytes| Unit::of_bytes(&bytes, self.tower.dim(), series, self.settings.keep)))
    }

    fn unit_key(&self, series: &Series, hash: &Hash) -> JournalKey {
        let Settings { perturbation, seed, keep, enough, .. } = self.settings;
        let of = format!(
            "{perturbation} {seed} {} {} {:?} {keep:?} {enough:?}{}",
            series.number,
            series.passes,
            series.snapshots,
            self.shared()
        );
        self.key("unit", hash, &of)
    }

    /// What keys say of masks that are not an image's own.
    fn shared(&self) -> &'static str {
        if self.settings.shared_masks { " shared" } else { "" }
    }

    /// Of everything that shapes a result.
    fn key(&self, what: &str, hash: &Hash, more: &str) -> JournalKey {
        let Run { tower, weights_sha256, dtype, settings, .. } = self;
        let image = blake3::Hash::from(*hash);
        let of = format!(
            "vision {VERSION} {NUMERICS_VERSION} {what} {weights_sha256} {:?} {:?} {} {} {} {more}",
            tower.config,
            tower.preprocess,
            dtype.name(),
            settings.sites,
            image.to_hex(),
        );
        blake3::hash(of.as_bytes())
    }

    /// Masks of a series over an image.
    fn mask(&self, hash: &Hash, trial: u32, pass: usize) -> MaskKey {
        let mut image = [0; 8];
        if !self.settings.shared_masks {
            image.copy_from_slice(&hash[..8]);
        }
        let key = MaskKey::key_of(self.settings.seed, u64::from_le_bytes(image));
        MaskKey { key, trial, pass: pass as u32 }
    }

    /// Masks under which a site is tried: of a block, those of the first pass in which its coin falls.
    fn audit_mask(&self, hash: &Hash, site: Site, strongly: Perturbation) -> MaskKey {
        let mask = |pass| self.mask(hash, AUDIT_TRIAL, pass);
        let falls =
            |pass: &usize| strongly.rate().is_none_or(|rate| coin_falls(rate, mask(*pass), site.number()));
        match site {
            Site::Depth { .. } => mask((0..PASSES_MAX).find(falls).unwrap_or(0)),
            Site::Block { .. } | Site::Head { .. } => mask(0),
        }
    }

    /// How strong a run's own perturbation is does not matter.
    fn audit_key(&self, hash: &Hash) -> JournalKey {
        self.key("audit", hash, &format!("{}{}", self.settings.perturbation.name(), self.shared()))
    }

    /// Tries every site on the first image.
    fn audit(
        &self,
        encoder: &ImageEncoder,
        sites: &[Site],
        parts: &mut Parts<'_>,
    ) -> Result<Vec<Audited>, McError> {
        let Some(image) = self.images.first() else { return Ok(vec![]) };
        let audit = audited(sites, &passing::audit(self, encoder, sites, image, parts)?)?;
        self.keep_audit(&audit, sites.len(), parts)?;
        Ok(audit)
    }

    /// Keeps what became of all sites; a run that was ended may have tried none.
    fn keep_audit(&self, audit: &[Audited], sites: usize, parts: &mut Parts<'_>) -> Result<(), McError> {
        if let (Some(image), true) = (self.images.first(), audit.len() == sites) {
            let bytes: Vec<u8> = audit.iter().flat_map(|audited| audited.moved.to_le_bytes()).collect();
            parts.journal.finish(&self.audit_key(&image.hash), State::Done, &bytes, 0)?;
        }
        Ok(())
    }

    fn known_audit(&self, journal: &Journal, sites: &[Site]) -> Result<Option<Vec<Audited>>, McError> {
        let Some(image) = self.images.first() else { return Ok(Some(vec![])) };
        let bytes = done(journal, &self.audit_key(&image.hash))?;
        let numbers = bytes.filter(|bytes| bytes.len() == 8 * sites.len()).map(|bytes| {
            let of = |b: &[u8]| Some(f64::from_le_bytes(b.try_into().ok()?));
            bytes.chunks_exact(8).filter_map(of).collect::<Vec<f64>>()
        });
        numbers.map(|moved| audited(sites, &moved)).transpose()
    }
}

/// What is missing of an image.
struct Todo {
    hash: Hash,
    is_still_known: bool,
    series: Vec<Series>,
}

/// How far each site moved the feature.
///
/// # Errors
/// A site that moved nothing.
fn audited(sites: &[Site], moved: &[f64]) -> Result<Vec<Audited>, McError> {
    let of = |(site, &moved): (&Site, &f64)| match moved > 0.0 {
        true => Ok(Audited { site: site.to_string(), moved }),
        false => Err(McError::Dead { site: site.to_string() }),
    };
    sites.iter().zip(moved).map(of).collect()
}

fn done(journal: &Journal, key: &JournalKey) -> Result<Option<Vec<u8>>, JournalError> {
    let entry = journal.get(key)?.filter(|entry| entry.state == State::Done);
    Ok(entry.and_then(|entry| entry.result))
}

/// Passes cannot be computed or written.
#[derive(Debug, thiserror::Error)]
pub enum McError {
    /// Sites that are not there.
    #[error(transparent)]
    Sites(#[from] SitesError),
    /// A site whose outputs change nothing.
    #[error(
        "{site} cannot fire: whatever becomes of its outputs, the features of the first image stay as they are"
    )]
    Dead {
        /// Which.
        site: String,
    },
    /// The tower.
    #[error(transparent)]
    Vision(#[from] VisionError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The pixels.
    #[error(transparent)]
    Pixels(#[from] PixelsError),
    /// Pixels that were there are gone.
    #[error("the pixels of {} are damaged since they were read", hash)]
    Damaged {
        /// Of the file.
        hash: String,
    },
    /// A file of results.
    #[error(transparent)]
    Npz(#[from] NpzError),
    /// A file of results that is not numbers.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
    /// A result that the journal had is gone.
    #[error("the journal has no result for {path} in trial {trial}")]
    Missing {
        /// The image.
        path: String,
        /// The trial.
        trial: usize,
    },
    /// Nothing from which a number of passes follows.
    #[error(
        "the images of the pilot ({images}) do not differ in their traces: no number of passes tells them apart"
    )]
    Alike {
        /// How many.
        images: usize,
    },
    /// More passes than are computed.
    #[error("{target} takes {passes:.0} passes, and a trial has at most {PASSES_MAX}")]
    Far {
        /// What was asked for.
        target: Target,
        /// By the pilot.
        passes: f64,
    },
    /// More memory than there is.
    #[error("{} MiB of memory: one pass at a time needs {} MiB", bytes >> 20, (needed >> 20) + 1)]
    Memory {
        /// What there is.
        bytes: u64,
        /// What the smallest batch needs.
        needed: u64,
    },
    /// An array that no reader here takes.
    #[error("{name} would have {bytes} bytes, and an array has at most {limit}")]
    TooLarge {
        /// The array.
        name: &'static str,
        /// What it would have.
        bytes: u64,
        /// What it may have.
        limit: u64,
    },
}

impl McError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            McError::Sites(error) => Some(error.hint()),
            McError::Dead { .. } => {
                Some("its weights may be zero; name other --sites, for its passes would all be the same")
            }
            McError::Vision(error) => error.hint(),
            McError::Journal(error) => error.hint(),
            McError::Damaged { .. } | McError::Missing { .. } => Some("run the same command again"),
            McError::Memory { .. } => {
                Some("give more --memory, fewer --threads, or --dtype f32, which needs no weights beside it")
            }
            McError::TooLarge { .. } => Some("take fewer images, trials or passes, or leave --gram out"),
            McError::Alike { .. } => Some("take more images, or other --sites"),
            McError::Far { .. } => {
                Some("ask for less, or give --passes; the mean of several trials is surer than one")
            }
            McError::Pixels(_) | McError::Npz(_) | McError::Write { .. } => None,
        }
    }
}
