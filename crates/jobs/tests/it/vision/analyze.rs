//! Tables from files.

use std::fs;
use std::path::{Path, PathBuf};

use haul_jobs::vision::analyze::{Analysis, AnalyzeError, Kind, Options, analyze};
use haul_jobs::vision::npz::{Array, Data, Npz, write};
use haul_jobs::vision::statistics::Bias;
use haul_jobs::vision::statistics::passes::Passes;
use haul_jobs::vision::statistics::weights::Weights;
use serde_json::Value;
use tempfile::TempDir;

use crate::shared;

use super::{golden, golden_dir, near, numbers};

const UNBIASED: Options = Options { bias: Bias::Unbiased, weights: None };

/// A folder with the goldens' files, each where a run would put it.
fn run_folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("cache")).unwrap();
    for trial in 0..4 {
        let name = format!("cache/trial{trial}_seed{}.npz", 42 + trial);
        fs::copy(golden_dir().join(format!("vision_trial{trial}.npz")), dir.path().join(name)).unwrap();
    }
    fs::copy(golden_dir().join("vision_trials_T16.npz"), dir.path().join("exp0_trials_T16.npz")).unwrap();
    dir
}

fn analyzed(path: &Path, options: &Options) -> Analysis {
    analyze(&[path.to_owned()], options).unwrap()
}

#[test]
fn tables_of_passes_are_numpys() {
    let (dir, golden) = (run_folder(), golden());
    let found = analyzed(dir.path(), &UNBIASED);
    assert!(found.failures.is_empty(), "{:?}", found.failures);
    let [of_passes, of_trials] = &found.files[..] else { panic!("{found:#?}") };
    assert_eq!(
        (of_passes.kind, of_passes.images, of_passes.trials, of_passes.passes),
        (Kind::Passes, 9, 4, Some(12))
    );
    assert_eq!(
        (of_trials.kind, of_trials.images, of_trials.trials, of_trials.passes),
        (Kind::Trials, 40, 6, Some(16))
    );
    let trace = &of_passes.quantities["trace_pre"];
    assert_eq!((trace.formula, trace.ddof), (Some("V1"), Some(1)));
    near(trace.reliability.as_ref().unwrap().icc, &golden["trace_reliability"]["icc"]);
    let law = trace.law.as_ref().unwrap();
    near(law.cv2, &golden["law"]["cv2"]);
    near(law.c, &golden["law"]["c"]);
    near(law.at(16.0), &golden["law"]["icc_16"]);
    assert_eq!(law.passes_for_icc_75, golden["law"]["passes_for_icc_75"].as_u64());
    let weighted = &of_passes.quantities["weighted_trace_pre"];
    near(weighted.mean, &golden["weighted_trace_pre"]);
    near(weighted.reliability.as_ref().unwrap().snr, &golden["weighted_reliability"]["snr"]);
    let weights = found.weights.unwrap();
    for (found, wanted) in weights.values().iter().zip(numbers(&golden["weights"])) {
        near(*found, &wanted.into());
    }
    assert!(!of_passes.quantities.contains_key("offdiag_abs_pre"));
}

#[test]
fn the_studys_own_variants_are_there_when_asked_for() {
    let (dir, golden) = (run_folder(), golden());
    let options = Options { bias: Bias::Seed, weights: None };
    let found = analyze(&[dir.path().join("cache/trial0_seed42.npz")], &options).unwrap();
    let quantities = &found.files[0].quantities;
    let seed = numbers(&golden["seed_trace_pre"]);
    near(quantities["trace_pre"].mean, &(seed.iter().sum::<f64>() / seed.len() as f64).into());
    assert_eq!(quantities["trace_pre"].ddof, Some(0));
    assert_eq!(quantities["trace_pre"].reliability, None);
    assert!(quantities["trace_pre"].se.is_some() && quantities.contains_key("offdiag_abs_post"));
}

#[test]
fn frozen_weights_are_used_and_others_refused() {
    let dir = run_folder();
    let of = |weights: Vec<f64>| Options { bias: Bias::Unbiased, weights: Weights::of(weights) };
    let even = analyzed(&dir.path().join("cache"), &of(vec![1.0; 10]));
    let quantities = &even.files[0].quantities;
    near(quantities["weighted_trace_pre"].mean, &quantities["trace_pre"].mean.into());
    let short = analyzed(&dir.path().join("cache"), &of(vec![1.0; 3]));
    assert_eq!(short.failures.len(), 4);
    assert_eq!(short.failures[0].why, "its features have 10 numbers, the weights 3");
    for bad in [vec![], vec![0.0], vec![-1.0, 2.0], vec![f64::NAN, 1.0]] {
        assert_eq!(Weights::of(bad), None);
    }
}

/// `mc.npz` says the same as the passes it was made of.
#[test]
fn moments_say_what_the_passes_say() {
    let dir = run_folder();
    let (mut products, mut means, mut squares) = (vec![], vec![], vec![]);
    for trial in 0..4 {
        let file = dir.path().join(format!("cache/trial{trial}_seed{}.npz", 42 + trial));
        let array = Npz::open(&file).unwrap().read("pass_pre").unwrap();
        for image in 0..9 {
            let mut features = vec![];
            for pass in 0..12 {
                let start = (pass * 9 + image) * 10;
                array.extend_f64(start..start + 10, &mut features);
            }
            let passes = Passes { features: &features, dim: 10 };
            products.extend(passes.gram().products);
            means.extend(passes.dim_means());
            squares.extend(passes.dim_variances().iter().map(|variance| variance * 11.0));
        }
    }
    let paths = Array { shape: vec![9], data: Data::Text((0..9).map(|no| format!("{no}.png")).collect()) };
    let file = dir.path().join("mc.npz");
    let arrays = [
        ("paths", &paths),
        ("mean_pre", &Array::f64(&[4, 9, 10], means)),
        ("m2_pre", &Array::f64(&[4, 9, 10], squares)),
        ("gram", &Array::f64(&[4, 9, 12, 12], products)),
    ];
    write(&file, &arrays).unwrap();
    let from_passes = analyzed(&dir.path().join("cache"), &UNBIASED);
    let from_moments = analyzed(&file, &UNBIASED);
    assert_eq!(from_moments.files[0].kind, Kind::Moments);
    assert_eq!(from_moments.files[0].passes, Some(12));
    for (name, quantity) in &from_passes.files[0].quantities {
        match from_moments.files[0].quantities.get(name) {
            Some(found) => near(found.mean, &quantity.mean.into()),
            None => assert!(name.starts_with("offdiag"), "{name}"),
        }
    }
}

#[test]
fn ambiguity_is_compared_with_uncertainty() {
    let dir = TempDir::new().unwrap();
    let row = |values: &[f64]| Array::f64(&[values.len()], values.to_vec());
    let paths = Array { shape: vec![4], data: Data::Text(["a", "b", "c", "d"].map(str::to_owned).to_vec()) };
    let file = dir.path().join("exp5_subset_tiny.npz");
    let uncertainty = row(&[4.0, 3.0, 2.0, 1.0]);
    let arrays = [
        ("paths", &paths),
        ("uncertainty", &uncertainty),
        ("margin", &row(&[0.1, 0.2, 0.3, 0.4])),
        ("entropy", &row(&[0.1, 0.2, 0.3, 0.4])),
    ];
    write(&file, &arrays).unwrap();
    let found = analyzed(&file, &UNBIASED);
    let reading = &found.files[0];
    assert_eq!(reading.kind, Kind::Ambiguity);
    near(reading.spearman["uncertainty ~ -margin"], &1.0.into());
    near(reading.spearman["uncertainty ~ entropy"], &(-1.0).into());
    assert_eq!((reading.auroc["low_margin"], reading.auroc["high_entropy"]), (1.0, 0.0));
}

#[test]
fn a_file_that_cannot_be_read_is_listed_and_the_others_are_read() {
    let dir = run_folder();
    fs::write(dir.path().join("text.npz"), "no zip").unwrap();
    fs::write(dir.path().join("empty.npz"), "").unwrap();
    let row = Array::f64(&[2], vec![1.0, f64::NAN]);
    let paths = Array { shape: vec![2], data: Data::Text(vec!["a".to_owned(), "b".to_owned()]) };
    write(&dir.path().join("other.npz"), &[("x", &row)]).unwrap();
    write(&dir.path().join("nan.npz"), &[("paths", &paths), ("trace_pre", &row)]).unwrap();
    write(
        &dir.path().join("shape.npz"),
        &[("paths", &paths), ("trace_pre", &Array::f64(&[3], vec![1.0; 3]))],
    )
    .unwrap();
    write(&dir.path().join("cache/trial9_seed9.npz"), &[("pass_pre", &Array::f64(&[3, 1, 2], vec![1.0; 6]))])
        .unwrap();
    let found = analyzed(dir.path(), &UNBIASED);
    assert_eq!(found.files.len(), 2);
    let mut why: Vec<(String, String)> = found
        .failures
        .iter()
        .map(|unread| (unread.file.file_name().unwrap().to_str().unwrap().to_owned(), unread.why.clone()))
        .collect();
    why.sort();
    let why: Vec<String> = why.into_iter().map(|(file, why)| format!("{file}: {why}")).collect();
    let first = dir.path().join("cache/trial0_seed42.npz");
    assert!(why[0].starts_with("empty.npz: not a file of numpy arrays"), "{why:#?}");
    assert_eq!(why[1], "nan.npz: array `trace_pre` is no number at 1");
    assert_eq!(why[2], "other.npz: no array that is known here, only: x");
    assert_eq!(why[3], "shape.npz: array `trace_pre` is of [3], not (trials, 2)");
    assert!(why[4].starts_with("text.npz: not a file of numpy arrays"), "{why:#?}");
    assert_eq!(
        why[5],
        format!("trial9_seed9.npz: its passes are of [3, 1, 2], those of {} of [12, 9, 10]", first.display())
    );
}

#[test]
fn nothing_to_read_is_an_error() {
    let dir = TempDir::new().unwrap();
    assert!(matches!(analyze(&[dir.path().to_owned()], &UNBIASED), Err(AnalyzeError::NoFiles { .. })));
    assert!(matches!(analyze(&[dir.path().join("no")], &UNBIASED), Err(AnalyzeError::List { .. })));
}

/// What the study published, from its own files.
#[test]
fn the_studys_own_files_give_what_it_published() {
    let Some(data) = shared("vision", "data/vision") else { return };
    let published: Value =
        serde_json::from_slice(&fs::read(data.join("exp0_overall_summary.json")).unwrap()).unwrap();
    for model in ["clip_b32", "siglip2_b16", "siglip2_so400m"] {
        for passes in [4, 16, 64] {
            let file: PathBuf = data.join(model).join(format!("exp0_trials_T{passes}.npz"));
            let found = analyzed(&file, &UNBIASED);
            let reading = &found.files[0];
            assert_eq!((reading.images, reading.trials, reading.passes), (500, 10, Some(passes)));
            for (name, wanted) in [("trace_pre", "pre_norm"), ("trace_post", "post_norm")] {
                let wanted = &published["results"][model][format!("T={passes}")][wanted];
                let found =
                    serde_json::to_value(reading.quantities[name].reliability.as_ref().unwrap()).unwrap();
                for (key, wanted) in wanted.as_object().unwrap() {
                    match wanted.as_f64() {
                        Some(number) => {
                            let error =
                                (found[key].as_f64().unwrap() - number).abs() / number.abs().max(1e-12);
                            assert!(
                                error < 5e-4,
                                "{model} T={passes} {name} {key}: {} is not {number}",
                                found[key]
                            );
                        }
                        None => assert_eq!(&found[key], wanted, "{model} T={passes} {name}"),
                    }
                }
            }
        }
    }
}
