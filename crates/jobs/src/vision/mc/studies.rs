//! Files and keys of the study's other experiments.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::npz::{self, Array, Data};
use super::super::statistics::ambiguity::{highest, lowest};
use super::super::statistics::ranks::{auroc, spearman};
use super::super::statistics::validity::Paired;
use super::super::statistics::{mean, variance};
use super::files::{Table, write_json};
use super::unit::{EIGENVALUES, Geometry};
use super::{McError, Run};
use crate::statistics::quantile;
use crate::vision::classes::Ambiguity;
use crate::vision::experiment::Condition;

/// A measure of uncertainty should grow for this share of the images that are made worse.
const GATE: f64 = 0.75;

/// What came of one condition.
pub struct Found<'a> {
    /// Which.
    pub condition: &'a Condition,
    /// Of the longest trials.
    pub table: &'a Table,
    /// Sites that fire.
    pub sites: Vec<&'a str>,
    /// Of all trials over all images, where it was kept.
    pub geometry: Option<&'a [Geometry]>,
}

/// What came of a model, and how sure it is which class an image is of.
pub struct Ambiguous<'a> {
    /// Of the longest trials.
    pub table: &'a Table,
    /// By image.
    pub found: &'a Ambiguity,
    /// The class that each image's folder says it is of.
    pub truth: Vec<Option<usize>>,
    /// The share of images that uncertainty should find.
    pub quantile: f64,
}

impl Run<'_> {
    /// `exp0b_geometry_trials.npz` and `exp0b_summary.json`.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_geometry(&self, found: &Found<'_>, folder: &Path, more: &Value) -> Result<Value, McError> {
        let (table, images) = (found.table, self.images.len());
        let geometry = found.geometry.unwrap_or_default();
        let column = |of: &dyn Fn(&Geometry) -> f64| geometry.iter().map(of).collect::<Vec<f64>>();
        let offdiag = [0, 1].map(|at| column(&|of| of.offdiag[at]));
        let eigenvalues = [0, 1].map(|at| {
            let all = geometry.iter().flat_map(|of| of.eigenvalues[at]).collect();
            Array::f64(&[table.trials, images, EIGENVALUES], all)
        });
        let of_trials = |values: &[f64]| self.trials_f32(table, values);
        npz::write(
            &folder.join("exp0b_geometry_trials.npz"),
            &[
                ("paths", &self.paths()),
                ("trace_pre", &of_trials(&table.trace_pre)),
                ("trace_post", &of_trials(&table.trace_post)),
                ("angular_var", &of_trials(&table.angular_var)),
                ("offdiag_pre", &of_trials(&offdiag[0])),
                ("offdiag_post", &of_trials(&offdiag[1])),
                ("eigs_pre", &eigenvalues[0]),
                ("eigs_post", &eigenvalues[1]),
            ],
        )?;
        let means = |values: &[f64]| table.means(values);
        let top = |at: usize| -> Vec<f64> {
            (0..EIGENVALUES).map(|no| mean(&column(&|of| of.eigenvalues[at][no]))).collect()
        };
        let space = |at: usize, trace: &[f64]| {
            json!({"trace_per_dim": spread(&means(trace)), "offdiag_mass_ratio": spread(&means(&offdiag[at])),
                   "eigs_top10_mean": top(at)})
        };
        let mut summary = self.summary("exp0b_norm_geometry", more);
        summary["passes"] = json!(table.passes);
        summary["pre_norm"] = space(0, &table.trace_pre);
        summary["post_norm"] = space(1, &table.trace_post);
        summary["angular"] = json!({"angular_var": spread(&means(&table.angular_var))});
        write_json(&folder.join("exp0b_summary.json"), &summary)?;
        Ok(summary)
    }

    /// `exp4_subset_{model}_trials.npz`; gives what stands under the model's name in the summary.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_recipe(&self, found: &Found<'_>, folder: &Path) -> Result<Value, McError> {
        let table = found.table;
        let [trace, angular] =
            [&table.trace_pre, &table.angular_var].map(|values| self.trials_f32(table, values));
        let file = folder.join(format!("exp4_subset_{}_trials.npz", self.tower.name));
        npz::write(&file, &[("paths", &self.paths()), ("trace_pre", &trace), ("angular_var", &angular)])?;
        Ok(json!({
            "injected_linear_dropout_wrappers": found.sites.len(),
            "trace_pre": table.told_trace(), "angular_var": table.told(&table.angular_var),
            "trace_mean": mean(&table.trace_pre), "angular_mean": mean(&table.angular_var),
        }))
    }

    /// `exp5_subset_{model}.npz` and `exp5_subset_{model}_summary.json`, whose metrics it gives.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_ambiguity(
        &self,
        study: &Ambiguous<'_>,
        folder: &Path,
        more: &Value,
    ) -> Result<Value, McError> {
        let Ambiguous { table, found, truth, quantile } = study;
        let uncertainty = table.means(&table.trace_pre);
        let (is_low, is_high) = (lowest(&found.margin, *quantile), highest(&found.entropy, *quantile));
        let row = |values: &[f64]| Array::f64(&[values.len()], values.to_vec());
        let flags = |flags: &[bool]| whole(flags.iter().map(|flag| i64::from(*flag)));
        let classes = found.logits.first().map_or(0, Vec::len);
        let logits = found.logits.iter().flatten().map(|logit| *logit as f32).collect();
        let stem = format!("exp5_subset_{}", self.tower.name);
        npz::write(
            &folder.join(format!("{stem}.npz")),
            &[
                ("paths", &self.paths()),
                ("uncertainty_trials", &self.trials_f32(table, &table.trace_pre)),
                ("uncertainty", &row(&uncertainty)),
                ("margin", &row(&found.margin)),
                ("entropy", &row(&found.entropy)),
                ("prompt_sensitivity", &row(&found.prompt_sensitivity)),
                ("low_margin", &flags(&is_low)),
                ("high_entropy", &flags(&is_high)),
                ("logits", &Array { shape: vec![self.images.len(), classes], data: Data::F32(logits) }),
                ("gt_labels", &whole(truth.iter().map(|class| class.map_or(-1, |class| class as i64)))),
                ("pred_labels", &whole(found.predicted().into_iter().map(|class| class as i64))),
            ],
        )?;
        let negative: Vec<f64> = found.margin.iter().map(|margin| -margin).collect();
        let known = truth.iter().zip(found.predicted()).filter(|(truth, _)| truth.is_some());
        let right = known.clone().filter(|(truth, predicted)| **truth == Some(*predicted)).count();
        let metrics = json!({
            "rho_uncertainty_vs_negative_margin": spearman(&uncertainty, &negative),
            "rho_uncertainty_vs_entropy": spearman(&uncertainty, &found.entropy),
            "rho_uncertainty_vs_prompt_sensitivity": spearman(&uncertainty, &found.prompt_sensitivity),
            "auroc_low_margin": auroc(&uncertainty, &is_low),
            "auroc_high_entropy": auroc(&uncertainty, &is_high),
            "top1": (known.clone().count() > 0).then(|| right as f64 / known.count() as f64),
        });
        let mut summary = self.summary("exp5_subset_ambiguity", more);
        summary["quantile"] = json!(quantile);
        let limit = |values: &[f64], share: f64| {
            let mut sorted = values.to_vec();
            sorted.sort_by(f64::total_cmp);
            crate::statistics::quantile(&sorted, share)
        };
        summary["thresholds"] = json!({
            "low_margin": limit(&found.margin, *quantile), "high_entropy": limit(&found.entropy, 1.0 - quantile),
        });
        summary["metrics"] = metrics.clone();
        write_json(&folder.join(format!("{stem}_summary.json")), &summary)?;
        Ok(metrics)
    }

    /// `exp6_convergence_T{T}.npz` of each table and `exp6_summary.json`; gives what stands in it under `results`.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_convergence(&self, tables: &[Table], folder: &Path, more: &Value) -> Result<Value, McError> {
        let mut results = Map::new();
        let mut points = vec![];
        for table in tables {
            let distances = self.trials_f32(table, &table.distances);
            let file = folder.join(format!("exp6_convergence_T{}.npz", table.passes));
            npz::write(&file, &[("paths", &self.paths()), ("rel_dist", &distances)])?;
            let means = table.means(&table.distances);
            let mut sorted = means.clone();
            sorted.sort_by(f64::total_cmp);
            points.push(((table.passes as f64).ln(), mean(&means).ln()));
            let of_passes = json!({
                "num_trials": table.trials, "num_images": self.images.len(), "rel_dist_mean": mean(&means),
                "rel_dist_median": quantile(&sorted, 0.5), "rel_dist_std": variance(&means, 0).sqrt(),
                "rel_dist_max": sorted.last(), "rel_dist_q95": quantile(&sorted, 0.95),
            });
            results.insert(format!("T={}", table.passes), of_passes);
        }
        results.insert("convergence_slope".to_owned(), json!(slope(&points)));
        results.insert("expected_slope".to_owned(), json!(-0.5));
        let mut summary = self.summary("exp6_mean_convergence", more);
        summary["results"] = Value::Object(results.clone());
        write_json(&folder.join("exp6_summary.json"), &summary)?;
        Ok(Value::Object(results))
    }

    /// `exp1_rank_p_trials.npz` and `exp1_summary.json`, which it gives: a condition for each rate.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_rates(&self, all: &[Found<'_>], folder: &Path, more: &Value) -> Result<Value, McError> {
        let means: Vec<Vec<f64>> =
            all.iter().map(|found| found.table.means(&found.table.trace_pre)).collect();
        let rhos = matrix(&means);
        let labels: Vec<&String> = all.iter().map(|found| &found.condition.label).collect();
        let rates: Vec<f64> = all.iter().filter_map(|found| found.condition.strength).collect();
        let square = rhos.iter().flatten().map(|rho| rho.unwrap_or(f64::NAN)).collect();
        let shape = [all.len(), self.images.len()];
        let mut arrays = vec![
            ("paths".to_owned(), self.paths()),
            ("p_values".to_owned(), Array::f64(&[rates.len()], rates.clone())),
            ("mean_uncertainty".to_owned(), Array::f64(&shape, means.concat())),
            ("spearman_matrix".to_owned(), Array::f64(&[all.len(); 2], square)),
        ];
        for found in all {
            let name = format!("trials_p_{}", found.condition.label.replace('.', "_"));
            arrays.push((name, self.trials_f32(found.table, &found.table.trace_pre)));
        }
        let arrays: Vec<(&str, &Array)> = arrays.iter().map(|(name, array)| (name.as_str(), array)).collect();
        npz::write(&folder.join("exp1_rank_p_trials.npz"), &arrays)?;
        let told = |found: &Found<'_>| json!(found.table.told_trace());
        let by_rate: Map<String, Value> =
            labels.iter().zip(all).map(|(label, found)| ((*label).clone(), told(found))).collect();
        let wrapped: Map<String, Value> = labels
            .iter()
            .zip(all)
            .map(|(label, found)| ((*label).clone(), json!(found.sites.len())))
            .collect();
        let mut summary = self.summary("exp1_rank_p", more);
        summary["p_values"] = json!(rates);
        summary["reliability_by_p"] = Value::Object(by_rate);
        summary["wrapped_modules_by_p"] = Value::Object(wrapped);
        summary["spearman_matrix"] = json!(rhos);
        write_json(&folder.join("exp1_summary.json"), &summary)?;
        Ok(summary)
    }

    /// `exp3_type_{type}_trials.npz` of each condition and `exp3_summary.json`, which it gives.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_types(&self, all: &[Found<'_>], folder: &Path, more: &Value) -> Result<Value, McError> {
        let mut by_type = Map::new();
        for found in all {
            let (table, label) = (found.table, &found.condition.label);
            let anisotropy: Vec<f64> =
                found.geometry.unwrap_or_default().iter().map(|of| of.anisotropy).collect();
            let of = |values: &[f64]| self.trials_f32(table, values);
            npz::write(
                &folder.join(format!("exp3_type_{label}_trials.npz")),
                &[
                    ("paths", &self.paths()),
                    ("trace_pre", &of(&table.trace_pre)),
                    ("angular_var", &of(&table.angular_var)),
                    ("anisotropy", &of(&anisotropy)),
                ],
            )?;
            let told = json!({
                "wrapped_modules": found.sites.len(), "selected_paths": found.sites,
                "notes": found.condition.sites.to_string(),
                "trace_pre": table.told_trace(), "angular_var": table.told(&table.angular_var),
                "anisotropy": table.told(&anisotropy), "trace_mean": mean(&table.trace_pre),
                "angular_mean": mean(&table.angular_var), "anisotropy_mean": mean(&anisotropy),
            });
            by_type.insert(label.clone(), told);
        }
        let means: Vec<Vec<f64>> =
            all.iter().map(|found| found.table.means(&found.table.trace_pre)).collect();
        let types: Vec<&String> = all.iter().map(|found| &found.condition.label).collect();
        let mut summary = self.summary("exp3_dropout_type", more);
        summary["dropout_types"] = json!(types);
        summary["results_by_type"] = Value::Object(by_type);
        summary["cross_type"] = json!({"types": types, "trace_spearman_matrix": matrix(&means)});
        write_json(&folder.join("exp3_summary.json"), &summary)?;
        Ok(summary)
    }

    /// `ablation_trials.npz` and `ablation_summary.json`, whose results it gives: the first condition against each other one.
    ///
    /// # Errors
    /// The disk's.
    pub fn write_ablation(&self, all: &[Found<'_>], folder: &Path, more: &Value) -> Result<Value, McError> {
        let arrays: Vec<(&str, Array)> = all
            .iter()
            .map(|found| {
                (found.condition.label.as_str(), self.trials_f32(found.table, &found.table.trace_pre))
            })
            .collect();
        let paths = self.paths();
        let named = arrays.iter().map(|(name, array)| (*name, array));
        let file = folder.join("ablation_trials.npz");
        npz::write(&file, &[("paths", &paths)].into_iter().chain(named).collect::<Vec<_>>())?;
        let Some((clean, worse)) = all.split_first() else { return Ok(Value::Null) };
        let before = clean.table.means(&clean.table.trace_pre);
        let mut results = Map::new();
        results.insert("clean_mean".to_owned(), json!(mean(&before)));
        for found in worse {
            let after = found.table.means(&found.table.trace_pre);
            results.insert(found.condition.label.clone(), compared(&before, &after));
        }
        let mut summary = self.summary("ablation", more);
        summary["gate"] = json!(GATE);
        summary["results"] = Value::Object(results.clone());
        write_json(&folder.join("ablation_summary.json"), &summary)?;
        Ok(Value::Object(results))
    }
}

fn whole(values: impl Iterator<Item = i64>) -> Array {
    let values: Vec<i64> = values.collect();
    Array { shape: vec![values.len()], data: Data::Int(values) }
}

/// A pair in the study's words.
fn compared(before: &[f64], after: &[f64]) -> Value {
    let (Some(paired), Some(turned)) = (Paired::of(before, after), Paired::of(after, before)) else {
        return Value::Null;
    };
    // Without any change there is nothing that chance could not do.
    let greater = paired.wilcoxon_p.unwrap_or(1.0);
    let two_sided = (2.0 * greater.min(turned.wilcoxon_p.unwrap_or(1.0))).min(1.0);
    json!({
        "frac_increased": paired.frac_increased, "mean_diff": paired.mean_diff, "median_diff": paired.median_diff,
        "rel_change_pct": paired.rel_change_pct, "wilcoxon_p_greater": greater, "wilcoxon_p_two_sided": two_sided,
        "clean_mean": mean(before), "degraded_mean": mean(after), "passes_gate": paired.frac_increased >= GATE,
    })
}

/// How values spread over images, as the study says it.
fn spread(values: &[f64]) -> Value {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let [p25, median, p75] = [0.25, 0.5, 0.75].map(|share| quantile(&sorted, share));
    json!({"mean": mean(values), "std": variance(values, 0).sqrt(), "median": median, "p25": p25, "p75": p75})
}

/// Spearman's correlation of each pair; 1 of a row with itself, none where a row does not vary.
fn matrix(rows: &[Vec<f64>]) -> Vec<Vec<Option<f64>>> {
    rows.iter().map(|a| rows.iter().map(|b| spearman(a, b)).collect()).collect()
}

/// Of the line of least squares; none of fewer than two points.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let (x, y): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    let (mean_x, mean_y) = (mean(&x), mean(&y));
    let both: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let square: f64 = x.iter().map(|x| (x - mean_x) * (x - mean_x)).sum();
    (square > 0.0).then(|| both / square)
}
