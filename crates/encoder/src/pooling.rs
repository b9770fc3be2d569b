//! From the hidden states of a sequence to one vector: the modes of sentence-transformers' `Pooling` module.

use std::ops::Range;

/// How a sequence's rows `[tokens, hidden]` become one row. Several modes stand side by side in the order of
/// `modes`, so the row is `hidden * modes.len()` wide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pooling {
    /// At least one.
    pub modes: Vec<PoolMode>,
}

impl Pooling {
    /// Pools each sequence of `x` `[tokens, width]` into its row of `out` `[sequences, width * modes]`.
    pub(crate) fn pool_batch(
        &self,
        x: &[f32],
        width: usize,
        sequences: impl Iterator<Item = Range<usize>>,
        out: &mut [f32],
    ) {
        let rows = out.chunks_exact_mut(width * self.modes.len());
        for (range, row) in sequences.zip(rows) {
            let x = &x[range.start * width..range.end * width];
            let parts = row.chunks_exact_mut(width);
            self.modes.iter().zip(parts).for_each(|(mode, part)| mode.pool(x, part));
        }
    }
}

/// One way to pool. All tokens count, special tokens too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// The first token.
    Cls,
    /// The largest value of each column.
    Max,
    /// The sum over tokens divided by their number.
    Mean,
    /// The sum over tokens divided by the square root of their number.
    MeanSqrtLen,
    /// The last token.
    LastToken,
}

impl PoolMode {
    /// The mode's name in `1_Pooling/config.json`; None for one that is not run.
    pub fn from_name(name: &str) -> Option<PoolMode> {
        Some(match name {
            "cls" => PoolMode::Cls,
            "max" => PoolMode::Max,
            "mean" => PoolMode::Mean,
            "mean_sqrt_len_tokens" => PoolMode::MeanSqrtLen,
            "lasttoken" => PoolMode::LastToken,
            _ => return None,
        })
    }

    /// What [`PoolMode::from_name`] reads.
    pub fn name(self) -> &'static str {
        match self {
            PoolMode::Cls => "cls",
            PoolMode::Max => "max",
            PoolMode::Mean => "mean",
            PoolMode::MeanSqrtLen => "mean_sqrt_len_tokens",
            PoolMode::LastToken => "lasttoken",
        }
    }

    /// Pools one sequence `x` `[tokens, out.len()]` into `out`. The sums run over the tokens in order, so the result
    /// depends on nothing but `x`.
    fn pool(self, x: &[f32], out: &mut [f32]) {
        let width = out.len();
        let tokens = x.len() / width;
        match self {
            PoolMode::Cls => out.copy_from_slice(&x[..width]),
            PoolMode::LastToken => out.copy_from_slice(&x[x.len() - width..]),
            PoolMode::Max => {
                out.copy_from_slice(&x[..width]);
                for row in x[width..].chunks_exact(width) {
                    // Not f32::max, which would drop a NaN that must reach the check of the finished rows.
                    out.iter_mut().zip(row).for_each(|(o, &v)| {
                        if v > *o || v.is_nan() {
                            *o = v;
                        }
                    });
                }
            }
            PoolMode::Mean => sum_rows_divided(x, tokens as f32, out),
            PoolMode::MeanSqrtLen => sum_rows_divided(x, (tokens as f32).sqrt(), out),
        }
    }
}

fn sum_rows_divided(x: &[f32], divisor: f32, out: &mut [f32]) {
    out.fill(0.0);
    for row in x.chunks_exact(out.len()) {
        out.iter_mut().zip(row).for_each(|(o, &v)| *o += v);
    }
    out.iter_mut().for_each(|o| *o /= divisor);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_pools_three_rows() {
        let x = [1.0, 5.0, -4.0, 2.0, 9.0, 2.0];
        let pooled = |mode: PoolMode| {
            let mut out = [f32::NAN; 2];
            mode.pool(&x, &mut out);
            out
        };
        assert_eq!(pooled(PoolMode::Cls), [1.0, 5.0]);
        assert_eq!(pooled(PoolMode::LastToken), [9.0, 2.0]);
        assert_eq!(pooled(PoolMode::Max), [9.0, 5.0]);
        assert_eq!(pooled(PoolMode::Mean), [2.0, 3.0]);
        assert_eq!(pooled(PoolMode::MeanSqrtLen), [6.0 / 3f32.sqrt(), 9.0 / 3f32.sqrt()]);
    }

    #[test]
    fn max_passes_a_nan_on() {
        let mut out = [0.0; 1];
        PoolMode::Max.pool(&[1.0, f32::NAN, 2.0], &mut out);
        assert!(out[0].is_nan());
    }

    #[test]
    fn names_read_back() {
        for mode in [PoolMode::Cls, PoolMode::Max, PoolMode::Mean, PoolMode::MeanSqrtLen, PoolMode::LastToken]
        {
            assert_eq!(PoolMode::from_name(mode.name()), Some(mode));
        }
        assert_eq!(PoolMode::from_name("weightedmean"), None);
    }
}
