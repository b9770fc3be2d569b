//! Uncertainty of images against numpy and scipy: `tests/golden/vision_reference.py` made what is wanted.

mod analyze;
mod images;
mod npz;
mod sites;
mod statistics;

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Relative; the goldens are of the same precision.
const TOLERANCE: f64 = 1e-6;

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(golden_dir().join("vision.json")).unwrap()).unwrap()
}

#[track_caller]
fn near(found: impl Into<Option<f64>>, wanted: &Value) {
    let (found, wanted) = (found.into().unwrap(), wanted.as_f64().unwrap());
    let error = (found - wanted).abs() / wanted.abs().max(1e-12);
    assert!(error <= TOLERANCE, "{found} is not {wanted}: off by {error:e}");
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}
