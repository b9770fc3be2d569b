//! What a run leaves in its folder, written from the journal: `mc.npz`, and files with the names and keys of the study.

use std::path::Path;

use haul_kernels::dropout::Rate;
use haul_pipeline::journal::Journal;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::npz::{self, Array, Data, Writer};
use super::super::statistics::Bias;
use super::super::statistics::law::Law;
use super::super::statistics::passes::Estimate;
use super::super::statistics::reliability::{Reliability, Trials};
use super::stopping::Enough;
use super::unit::{Geometry, Series, Unit};
use super::{Audited, Image, McError, Rounding, Run, Settings};
use crate::vision::experiment::Experiment;

/// Bytes of one array, as readers here take it.
const ARRAY_BYTES_MAX: u64 = npz::ARRAY_BYTES_MAX;
/// Bytes of passes that are held while they are put in another order.
const PASSES_BYTES_MAX: usize = 256 << 20;

/// What trials of one number of passes say: `trials * images` values each, a trial after the other.
#[derive(Clone, Debug)]
pub struct Table {
    /// The number.
    pub passes: usize,
    /// Trials.
    pub trials: usize,
    /// V1.
    pub trace_pre: Vec<f64>,
    /// R9 of it.
    pub trace_pre_se: Vec<f64>,
    /// V1 of features of length 1.
    pub trace_post: Vec<f64>,
    /// V2.
    pub angular_var: Vec<f64>,
    /// Of the mean to the feature without dropout, relative.
    pub distances: Vec<f64>,
    /// Passes that there were: fewer where a trial ended early.
    pub counts: Vec<usize>,
}

/// What a table says of trials that end when an image is measured well enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Stopped {
    /// When that is.
    pub enough: Enough,
    /// Fewest passes of a trial over an image.
    pub passes_min: usize,
    /// On average.
    pub passes_mean: f64,
    /// Most.
    pub passes_max: usize,
    /// Trials over an image that ended at the last pass without reaching it.
    pub unreached: usize,
}

/// What a table says of one quantity.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// Whether trials agree.
    #[serde(flatten)]
    pub reliability: Reliability,
    /// Over trials and images.
    pub mean: f64,
    /// How many passes are needed.
    pub law: Option<Law>,
}

impl Table {
    /// What it says of some of its values.
    #[must_use]
    pub fn told(&self, values: &[f64]) -> Told {
        let trials = Trials { values, trials: self.trials };
        Told {
            reliability: trials.reliability(),
            mean: super::super::statistics::mean(values),
            law: Law::of_trials(&trials, self.passes).filter(|_| self.has_one_length()),
        }
    }

    /// The law is about trials of one length.
    fn has_one_length(&self) -> bool {
        self.counts.iter().all(|&count| count == self.passes)
    }

    /// What becomes of trials that end early.
    #[must_use]
    pub fn stopped(&self, enough: Enough) -> Option<Stopped> {
        let (passes_min, passes_max) = (*self.counts.iter().min()?, *self.counts.iter().max()?);
        let errors = self.trace_pre.iter().zip(&self.trace_pre_se);
        let is_reached = |(&value, &se): (&f64, &f64)| enough.is_reached(Estimate { value, se: Some(se) });
        Some(Stopped {
            enough,
            passes_min,
            passes_mean: self.counts.iter().sum::<usize>() as f64 / self.counts.len() as f64,
            passes_max,
            unreached: errors.filter(|&error| !is_reached(error)).count(),
        })
    }

    /// What it says of `trace_pre`: of one trial, how many passes are needed follows from the error of each trace.
    #[must_use]
    pub fn told_trace(&self) -> Told {
        let told = self.told(&self.trace_pre);
        if self.trials > 1 || !self.has_one_length() {
            return told;
        }
        let squares: Vec<f64> = self.trace_pre_se.iter().map(|se| se * se).collect();
        Told { law: Law::of_errors(&self.trace_pre, &squares, self.passes), ..told }
    }

    /// Of each image, over trials.
    #[must_use]
    pub fn means(&self, values: &[f64]) -> Vec<f64> {
        Trials { values, trials: self.trials }.means(0..self.trials)
    }
}

impl Run<'_> {
    /// What all trials say, for each number of passes that was asked for. Traces are divided as `bias` says.
    ///
    /// # Errors
    /// The journal's, or a result that is not there.
    pub fn tables(&self, journal: &Journal, bias: Bias) -> Result<Vec<Table>, McError> {
        let empty = |&passes: &usize| Table {
            passes,
            trials: self.settings.trials,
            trace_pre: vec![],
            trace_pre_se: vec![],
            trace_post: vec![],
            angular_var: vec![],
            distances: vec![],
            counts: vec![],
        };
        let mut tables: Vec<Table> = self.settings.passes.iter().map(empty).collect();
        for series in self.settings.series() {
            for image in self.images {
                let unit = self.wanted(journal, &series, image)?;
                for ((passes, kept), distance) in
                    series.snapshots.iter().zip(&unit.summaries).zip(&unit.distances)
                {
                    let Some(table) = tables.iter_mut().find(|table| table.passes == *passes) else {
                        continue;
                    };
                    let count = unit.passes.min(*passes);
                    let scale = match bias {
                        Bias::Unbiased => 1.0,
                        Bias::Seed => (count as f64 - 1.0) / count as f64,
                    };
                    table.trace_pre.push(kept.trace_pre * scale);
                    table.trace_pre_se.push(kept.trace_pre_se * scale);
                    table.trace_post.push(kept.trace_post * scale);
                    table.angular_var.push(kept.angular_var);
                    table.distances.push(*distance);
                    table.counts.push(count);
                }
            }
        }
        Ok(tables)
    }

    fn wanted(&self, journal: &Journal, series: &Series, image: &Image) -> Result<Unit, McError> {
        let missing = || McError::Missing { path: image.path.clone(), trial: series.trial };
        self.unit(journal, series, &image.hash)?.ok_or_else(missing)
    }

    /// Series of the longest trials.
    fn longest(&self) -> Vec<Series> {
        let longest = self.settings.longest();
        self.settings.series().into_iter().filter(|series| series.passes == longest).collect()
    }

    /// Names of the images, as arrays have them.
    #[must_use]
    pub fn paths(&self) -> Array {
        let paths = self.images.iter().map(|image| image.path.clone()).collect();
        Array { shape: vec![self.images.len()], data: Data::Text(paths) }
    }

    /// Refuses arrays that could not be read again, before anything is computed.
    ///
    /// # Errors
    /// [`McError::TooLarge`].
    pub fn check_sizes(&self) -> Result<(), McError> {
        let settings = self.settings;
        let (trials, images) = (settings.trials as u64, self.images.len() as u64);
        let passes = settings.longest() as u64;
        let dim = self.tower.dim() as u64;
        let gram = if settings.keep.gram { 8 * trials * images * passes * passes } else { 0 };
        let all = if settings.keep.passes { 4 * passes * images * dim } else { 0 };
        let sizes = [("gram", gram), ("pass_pre", all), ("mean_pre", 8 * trials * images * dim)];
        match sizes.into_iter().find(|(_, bytes)| *bytes > ARRAY_BYTES_MAX) {
            Some((name, bytes)) => Err(McError::TooLarge { name, bytes, limit: ARRAY_BYTES_MAX }),
            None => Ok(()),
        }
    }

    /// `mc.npz`: moments of the longest trials. `table` is theirs.
    ///
    /// # Errors
    /// The disk's and the journal's.
    pub fn write_moments(&self, journal: &Journal, table: &Table, folder: &Path) -> Result<(), McError> {
        let (trials, images, dim) = (self.settings.trials, self.images.len(), self.tower.dim());
        let series = self.longest();
        let mut writer = Writer::create(&folder.join("mc.npz"))?;
        writer.array("paths", &self.paths())?;
        writer.begin_f32("features", &[images, dim])?;
        for image in self.images {
            let missing = || McError::Missing { path: image.path.clone(), trial: 0 };
            writer.push_f32(&self.still(journal, &image.hash)?.ok_or_else(missing)?)?;
        }
        let mut of_units = |name: &str, shape: &[usize], part: fn(&Unit) -> &[f64]| -> Result<(), McError> {
            writer.begin_f64(name, &[&[trials, images], shape].concat())?;
            for series in &series {
                for image in self.images {
                    writer.push_f64(part(&self.wanted(journal, series, image)?))?;
                }
            }
            Ok(())
        };
        of_units("mean_pre", &[dim], |unit| &unit.mean)?;
        of_units("m2_pre", &[dim], |unit| &unit.m2)?;
        if self.settings.keep.gram {
            of_units("gram", &[table.passes; 2], |unit| &unit.gram)?;
        }
        for (name, values) in [
            ("trace_pre", &table.trace_pre),
            ("trace_post", &table.trace_post),
            ("angular_var", &table.angular_var),
        ] {
            writer.array(name, &Array::f64(&[trials, images], values.clone()))?;
        }
        let counts: Vec<i64> = match self.settings.enough {
            Some(_) => table.counts.iter().map(|&count| count as i64).collect(),
            None => vec![table.passes as i64],
        };
        let shape = if counts.len() == 1 { vec![1] } else { vec![trials, images] };
        writer.array("passes", &Array { shape, data: Data::Int(counts) })?;
        Ok(writer.finish()?)
    }

    /// `exp0_trials_T{T}.npz` of each table, and `exp0_summary.json`; gives what stands in it under `results`.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_trials(&self, tables: &[Table], folder: &Path, more: &Value) -> Result<Value, McError> {
        let mut results = serde_json::Map::new();
        for table in tables {
            let [pre, post] =
                [&table.trace_pre, &table.trace_post].map(|values| self.trials_f32(table, values));
            let file = folder.join(format!("exp0_trials_T{}.npz", table.passes));
            npz::write(&file, &[("paths", &self.paths()), ("trial_pre", &pre), ("trial_post", &post)])?;
            let told = json!({
                "pre_norm": table.told_trace(), "post_norm": table.told(&table.trace_post),
                "angular_var": table.told(&table.angular_var),
                "stopped": self.settings.enough.and_then(|enough| table.stopped(enough)),
            });
            results.insert(format!("T={}", table.passes), told);
        }
        let results = Value::Object(results);
        let mut summary = self.summary("exp0_nested_mc", more);
        summary["nested_extraction"] = json!(self.settings.nested);
        summary["results"] = results.clone();
        write_json(&folder.join("exp0_summary.json"), &summary)?;
        Ok(results)
    }

    /// Keys that all summaries of the study have, and `more`.
    pub(super) fn summary(&self, experiment: &str, more: &Value) -> Value {
        let settings = self.settings;
        let mut summary = json!({
            "experiment": experiment, "model": self.tower.name, "dropout": settings.dropout(),
            "trials": settings.trials, "passes": settings.passes, "num_images": self.images.len(),
        });
        if let (Some(summary), Some(more)) = (summary.as_object_mut(), more.as_object()) {
            summary.extend(more.clone());
        }
        summary
    }

    pub(super) fn trials_f32(&self, table: &Table, values: &[f64]) -> Array {
        let values = values.iter().map(|&value| value as f32).collect();
        Array { shape: vec![table.trials, self.images.len()], data: Data::F32(values) }
    }

    /// `trial{k}_seed{s}.npz` with all passes of each of the longest trials, and what made them beside it.
    ///
    /// # Errors
    /// The disk's and the journal's.
    pub fn write_passes(&self, journal: &Journal, table: &Table, folder: &Path) -> Result<(), McError> {
        std::fs::create_dir_all(folder).map_err(|error| McError::Write { path: folder.to_owned(), error })?;
        for series in self.longest() {
            self.write_trial(journal, &series, table, folder)?;
        }
        Ok(())
    }

    fn write_trial(
        &self,
        journal: &Journal,
        series: &Series,
        table: &Table,
        folder: &Path,
    ) -> Result<(), McError> {
        let (images, dim) = (self.images.len(), self.tower.dim());
        let seed = self.settings.seed.wrapping_add(series.trial as u64);
        let stem = format!("trial{}_seed{seed}", series.trial);
        let mut writer = Writer::create(&folder.join(format!("{stem}.npz")))?;
        writer.begin_f32("pass_pre", &[series.passes, images, dim])?;
        // The journal has them by image and the file by pass: some passes of all images at a time.
        let at_once = (PASSES_BYTES_MAX / (4 * images * dim).max(1)).max(1);
        for first in (0..series.passes).step_by(at_once) {
            let passes = first..series.passes.min(first + at_once);
            let mut rows = vec![vec![]; passes.len()];
            for image in self.images {
                let unit = self.wanted(journal, series, image)?;
                for (rows, pass) in rows.iter_mut().zip(passes.clone()) {
                    rows.extend_from_slice(&unit.features[pass * dim..][..dim]);
                }
            }
            rows.iter().try_for_each(|rows: &Vec<f32>| writer.push_f32(rows))?;
        }
        let trace = &table.trace_pre[series.trial * images..][..images];
        let trace = trace.iter().map(|&value| value as f32).collect();
        writer.array("trace_pre", &Array { shape: vec![images], data: Data::F32(trace) })?;
        writer.finish()?;
        let meta = json!({
            "model": self.tower.name, "dropout_p": self.settings.dropout(), "seed": seed, "trial_idx": series.trial,
            "passes": series.passes, "num_images": images, "dim": dim, "sites": self.settings.sites.to_string(),
            "perturbation": {"kind": self.settings.perturbation.name(), "strength": self.settings.strength},
            "masks": {"generator": "philox4x32-10", "seed": self.settings.seed, "trial": series.number,
                      "shared": self.settings.shared_masks},
            "paths": self.images.iter().map(|image| &image.path).collect::<Vec<_>>(),
        });
        write_json(&folder.join(format!("{stem}.meta.json")), &meta)
    }

    /// Geometry of all trials over all images, a trial after the other; none where it was not kept.
    ///
    /// # Errors
    /// The journal's.
    pub fn geometry(&self, journal: &Journal) -> Result<Option<Vec<Geometry>>, McError> {
        let mut all = vec![];
        for series in self.longest() {
            for image in self.images {
                match self.wanted(journal, &series, image)?.geometry {
                    Some(geometry) => all.push(geometry),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(all))
    }
}

/// What summaries say of a run beside the study's keys.
#[must_use]
pub fn more(run: &Run<'_>, bias: Bias, audit: &[Audited], rounding: Option<&Rounding>) -> Value {
    json!({
        "injected_linear_dropout_wrappers": audit.len(), "sites": run.settings.sites.to_string(),
        "dropout_of_masks": run.settings.perturbation.rate().map(Rate::p), "seed": run.settings.seed,
        "perturbation": {"kind": run.settings.perturbation.name(), "strength": run.settings.strength},
        "shared_masks": run.settings.shared_masks,
        "dtype": run.dtype.name(), "model_sha256": run.weights_sha256,
        "ddof": bias.ddof(), "site_audit": audit, "rounding": rounding,
    })
}

/// What the summary of all models says; `results` by their names.
#[must_use]
pub fn overall(
    experiment: Experiment,
    settings: &Settings,
    images: usize,
    results: serde_json::Map<String, Value>,
) -> Value {
    let models: Vec<&String> = results.keys().collect();
    let mut document = json!({
        "experiment": experiment.name(), "models": models, "passes": settings.passes,
        "dropout": settings.dropout(), "trials": settings.trials, "num_images": images,
        "sites": settings.sites.to_string(),
    });
    if experiment == Experiment::Exp4 {
        let of = |model: &String, key: &str| results[model][key].as_f64();
        document["comparison"] = match models.as_slice() {
            [first, second] => {
                let delta = |key| of(second, key).zip(of(first, key)).map(|(second, first)| second - first);
                json!({"trace_mean_delta": delta("trace_mean"), "angular_mean_delta": delta("angular_mean")})
            }
            _ => json!({}),
        };
    }
    document["results"] = Value::Object(results);
    document
}

/// Writes a document; the file is there whole or not at all.
///
/// # Errors
/// The disk's.
pub fn write_json(path: &Path, document: &Value) -> Result<(), McError> {
    let failed = |error| McError::Write { path: path.to_owned(), error };
    let text = serde_json::to_string_pretty(document).map_err(|error| failed(error.into()))?;
    let part = path.with_added_extension("part");
    std::fs::write(&part, text + "\n").and_then(|()| std::fs::rename(&part, path)).map_err(failed)
}
