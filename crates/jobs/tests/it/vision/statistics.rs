//! Each quantity against its golden.

use haul_jobs::vision::npz::Npz;
use haul_jobs::vision::statistics::passes::{Passes, Quantities, Spread};
use haul_jobs::vision::statistics::ranks::{auroc, ranks, spearman};
use haul_jobs::vision::statistics::reliability::{Reliability, Status, Trials};
use haul_jobs::vision::statistics::spectrum::eigenvalues;
use haul_jobs::vision::statistics::validity::Paired;
use haul_jobs::vision::statistics::{Bias, FORMULAS, ambiguity};
use serde_json::{Value, json};

use super::{golden, golden_dir, near, numbers};

const IMAGES: usize = 9;
const DIM: usize = 10;

/// Passes of the first trial, image by image.
fn of_first_trial(bias: Bias) -> Vec<(Quantities, [f64; 2])> {
    let array = Npz::open(&golden_dir().join("vision_trial0.npz")).unwrap().read("pass_pre").unwrap();
    assert_eq!(array.shape, [12, IMAGES, DIM]);
    let of_image = |image: usize| {
        let mut features = Vec::new();
        for pass in 0..12 {
            let start = (pass * IMAGES + image) * DIM;
            array.extend_f64(start..start + DIM, &mut features);
        }
        let passes = Passes { features: &features, dim: DIM };
        let unit = passes.unit();
        let abs = [passes.offdiag_abs(), Passes { features: &unit, dim: DIM }.offdiag_abs()];
        (passes.quantities(bias), abs)
    };
    (0..IMAGES).map(of_image).collect()
}

fn spread(found: &Spread, wanted: &Value) {
    near(found.trace.value, &wanted["trace"]);
    near(found.trace.se, &wanted["trace_se"]);
    for (found, wanted) in found.eigs_top10.iter().zip(wanted["eigs_top10"].as_array().unwrap()) {
        near(*found, wanted);
    }
    near(found.effective_rank, &wanted["effective_rank"]);
    near(found.spectral_entropy, &wanted["spectral_entropy"]);
    near(found.top1_ratio, &wanted["top1_ratio"]);
    near(found.max_dim_var, &wanted["max_dim_var"]);
    near(found.offdiag, &wanted["offdiag"]);
}

#[test]
fn quantities_of_passes_are_numpys() {
    let golden = golden();
    for ((found, abs), wanted) in
        of_first_trial(Bias::Unbiased).iter().zip(golden["images"].as_array().unwrap())
    {
        spread(&found.pre, &wanted["pre"]);
        spread(&found.post, &wanted["post"]);
        near(found.angular_var.value, &wanted["angular_var"]);
        near(found.angular_var.se, &wanted["angular_se"]);
        near(found.norm_var, &wanted["norm_var"]);
        near(found.mean_cosine_dev, &wanted["mean_cosine_dev"]);
        near(abs[0], &wanted["pre"]["offdiag_abs"]);
        near(abs[1], &wanted["post"]["offdiag_abs"]);
    }
    for (image, (found, _)) in of_first_trial(Bias::Seed).iter().enumerate() {
        near(found.pre.trace.value, &golden["seed_trace_pre"][image]);
        near(found.post.trace.se, &golden["seed_trace_post_se"][image]);
    }
}

#[track_caller]
fn same_reliability(found: &Reliability, wanted: &Value) {
    let found = serde_json::to_value(found).unwrap();
    for (name, wanted) in wanted.as_object().unwrap() {
        near(found[name].as_f64(), wanted);
    }
}

#[test]
fn reliability_is_numpys() {
    let golden = golden();
    let mut npz = Npz::open(&golden_dir().join("vision_trials_T16.npz")).unwrap();
    for (array, name) in [("trial_pre", "pre"), ("trial_post", "post")] {
        let values = npz.read(array).unwrap().to_f64();
        same_reliability(&Trials { values: &values, trials: 6 }.reliability(), &golden["trials"][name]);
    }
}

#[test]
fn statuses_are_those_of_the_study() {
    let status = |values: &[f64], trials| Trials { values, trials }.reliability().status;
    assert_eq!(status(&[1.0, 2.0, 3.0, 4.0], 1), Status::InsufficientTrials);
    assert_eq!(status(&[1.0, 2.0], 2), Status::Skipped);
    assert_eq!(status(&[1.0, f64::NAN, 2.0, 3.0], 2), Status::Skipped);
    assert_eq!(status(&[1.0, 2.0, 3.0, 1.0, 2.0, 3.0], 2), Status::Usable);
    assert_eq!(status(&[1.0, 2.0, 3.0, 3.0, 2.0, 1.0], 2), Status::Failed);
    // Nothing varies: ranks say nothing, and there is no ratio of nothing to nothing.
    let flat = Trials { values: &[1.0; 6], trials: 2 }.reliability();
    assert_eq!((flat.snr, flat.icc, flat.pairwise_spearman_median), (None, None, Some(0.0)));
    assert_eq!(flat.status, Status::Failed);
}

#[test]
fn ambiguity_and_validity_are_scipys() {
    let golden = golden();
    let of = &golden["ambiguity"];
    let logits: Vec<Vec<f64>> = of["logits"].as_array().unwrap().iter().map(numbers).collect();
    for (no, logits) in logits.iter().enumerate() {
        near(ambiguity::margin(logits), &of["margin"][no]);
        near(ambiguity::entropy(logits), &of["entropy"][no]);
    }
    near(ambiguity::prompt_sensitivity(&logits), &of["prompt_sensitivity"]);
    let truth: Vec<bool> =
        golden["auroc"]["truth"].as_array().unwrap().iter().map(|is| is.as_bool().unwrap()).collect();
    near(auroc(&numbers(&golden["auroc"]["scores"]), &truth), &golden["auroc"]["area"]);
    for case in golden["wilcoxon"].as_array().unwrap() {
        let found = Paired::of(&numbers(&case["before"]), &numbers(&case["after"])).unwrap();
        near(found.wilcoxon_p, &case["p"]);
        near(found.frac_increased, &case["frac_increased"]);
        near(found.median_diff, &case["median_diff"]);
        near(found.mean_diff, &case["mean_diff"]);
        near(found.rel_change_pct, &case["rel_change_pct"]);
    }
}

#[test]
fn what_cannot_be_said_is_not_said() {
    assert_eq!(auroc(&[1.0, 2.0], &[true, true]), None);
    assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
    assert_eq!(Paired::of(&[], &[]), None);
    assert_eq!(Paired::of(&[1.0], &[1.0]).unwrap().wilcoxon_p, None);
    assert_eq!(eigenvalues(&[f64::NAN], 1), None);
    assert_eq!(eigenvalues(&[], 0), Some(vec![]));
    assert_eq!(ranks(&[3.0, 1.0, 3.0]), [2.5, 1.0, 2.5]);
    let two = Passes { features: &[1.0, 2.0, 3.0, 4.0], dim: 2 }.quantities(Bias::Unbiased);
    assert_eq!((two.pre.trace.se, two.angular_var.se), (None, None));
}

/// A matrix with eigenvalues that are known: those of a chain of springs.
#[test]
fn eigenvalues_of_a_large_matrix_are_exact() {
    let size = 97;
    let spring = |row: usize, column: usize| match row.abs_diff(column) {
        0 => 2.0,
        1 => -1.0,
        _ => 0.0,
    };
    let matrix: Vec<f64> = (0..size * size).map(|at| spring(at / size, at % size)).collect();
    let found = eigenvalues(&matrix, size).unwrap();
    for (no, found) in found.iter().enumerate() {
        let angle = (size - no) as f64 * std::f64::consts::PI / (size as f64 + 1.0);
        near(*found, &json!(2.0 - 2.0 * angle.cos()));
    }
}

#[test]
fn every_formula_stands_in_the_documentation() {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vision.md");
    let page = std::fs::read_to_string(page).unwrap();
    for formula in FORMULAS {
        assert!(page.contains(&format!("| {} |", formula.id)), "docs/vision.md has no row {}", formula.id);
        assert!(
            page.contains(&format!("`{}`", formula.name)),
            "docs/vision.md does not name {}",
            formula.name
        );
    }
}
