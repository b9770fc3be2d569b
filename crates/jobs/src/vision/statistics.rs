//! Every quantity that is said of images, by name and formula.
//!
//! [`FORMULAS`] has the id and the degrees of freedom of each, and docs/vision.md the formula itself: the study this
//! follows has several quantities of the same name that differ. Unbiased estimates are the default; [`Bias::Seed`]
//! gives what its runs printed.

pub mod ambiguity;
pub mod law;
pub mod passes;
pub mod ranks;
pub mod reliability;
pub mod spectrum;
pub mod validity;
pub mod weights;

use serde::Serialize;

/// What the squares of deviations are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// One less than there are: estimates of different lengths are of the same thing.
    Unbiased,
    /// As many as there are, for traces alone, as the runs of the study did.
    Seed,
}

impl Bias {
    /// What is taken off the number of passes.
    #[must_use]
    pub fn ddof(self) -> usize {
        match self {
            Bias::Unbiased => 1,
            Bias::Seed => 0,
        }
    }
}

/// A quantity: what it is called, and which of several formulas it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Formula {
    /// In files and reports.
    pub name: &'static str,
    /// In docs/vision.md.
    pub id: &'static str,
    /// Degrees of freedom taken off, where the formula has a variance.
    pub ddof: Option<u8>,
    /// The same under [`Bias::Seed`].
    pub ddof_seed: Option<u8>,
}

const fn formula(name: &'static str, id: &'static str, ddof: Option<u8>, ddof_seed: Option<u8>) -> Formula {
    Formula { name, id, ddof, ddof_seed }
}

/// All of them.
pub const FORMULAS: &[Formula] = &[
    formula("trace_pre", "V1", Some(1), Some(0)),
    formula("trace_post", "V1", Some(1), Some(0)),
    formula("angular_var", "V2", Some(1), Some(1)),
    formula("offdiag_pre", "V3", Some(1), Some(1)),
    formula("offdiag_post", "V3", Some(1), Some(1)),
    formula("offdiag_abs_pre", "V4", Some(1), Some(1)),
    formula("offdiag_abs_post", "V4", Some(1), Some(1)),
    formula("eigs_top10_pre", "V5", Some(1), Some(1)),
    formula("eigs_top10_post", "V5", Some(1), Some(1)),
    formula("top_eigenvalue", "V5", Some(1), Some(1)),
    formula("effective_rank", "V6", None, None),
    formula("spectral_entropy", "V7", None, None),
    formula("top1_ratio", "V8", None, None),
    formula("anisotropy", "V9", None, None),
    formula("max_dim_var", "V10", Some(1), Some(1)),
    formula("norm_var", "V11", Some(1), Some(1)),
    formula("mean_cosine_dev", "V12", None, None),
    formula("weighted_trace_pre", "V13", Some(1), Some(1)),
    formula("topk64_trace_pre", "V14", Some(1), Some(1)),
    formula("signal", "R1", Some(1), Some(1)),
    formula("noise", "R2", Some(1), Some(1)),
    formula("snr", "R3", Some(1), Some(1)),
    formula("icc", "R4", Some(1), Some(1)),
    formula("pairwise_spearman_median", "R5", None, None),
    formula("icc_of_mean", "R6", None, None),
    formula("split_half", "R7", None, None),
    formula("icc_law", "R8", Some(1), Some(1)),
    formula("jackknife_se", "R9", None, None),
    formula("margin", "A1", None, None),
    formula("entropy", "A2", None, None),
    formula("prompt_sensitivity", "A3", Some(1), Some(1)),
    formula("auroc", "A4", None, None),
    formula("frac_increased", "W1", None, None),
    formula("wilcoxon", "W2", None, None),
];

/// The formula of a name.
#[must_use]
pub fn formula_of(name: &str) -> Option<&'static Formula> {
    FORMULAS.iter().find(|formula| formula.name == name)
}

/// The mean; not a number of none.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The variance with so many degrees of freedom taken off; not a number of too few.
#[must_use]
pub fn variance(values: &[f64], ddof: usize) -> f64 {
    let Some(freedom) = values.len().checked_sub(ddof).filter(|freedom| *freedom > 0) else {
        return f64::NAN;
    };
    let mean = mean(values);
    values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / freedom as f64
}
