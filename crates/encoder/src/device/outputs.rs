//! From the buffers of a finished batch to what its caller gets.

use std::collections::BTreeMap;

use crate::device::{Batch, Part, State, Vectors};
use crate::program::{BufferId, Program};

/// All that a batch gives back. Everything stands in the order of the batch's sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    /// One row a sequence.
    pub dense: Vectors,
    /// One sparse vector a sequence, where the program has the head.
    pub sparse: Option<Vec<SparseVector>>,
    /// The token rows of each sequence without its first token, where the program has the head: a sequence of `n`
    /// tokens has `n - 1` rows.
    pub colbert: Option<Vec<Vectors>>,
    /// What is left of the images of a batch that ran the prefix of its program: then there is nothing else.
    pub state: Option<State>,
}

/// Weights of the distinct tokens of a sequence, sorted by id. Tokens of no weight are left out, so it may be empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SparseVector {
    /// Token ids, rising.
    pub ids: Vec<u32>,
    /// As many weights, above zero.
    pub weights: Vec<f32>,
}

impl SparseVector {
    /// Ids with their weights.
    pub fn into_terms(self) -> Vec<(u32, f32)> {
        self.ids.into_iter().zip(self.weights).collect()
    }
}

impl Outputs {
    /// Copies a program's output buffers. `read` gives a buffer of the finished batch.
    pub(crate) fn gather<'b>(
        program: &Program,
        batch: &Batch,
        read: impl Fn(BufferId) -> &'b [f32],
    ) -> Outputs {
        if matches!(batch.part, Part::Prefix) {
            return Outputs {
                dense: Vectors::new(program.dim(), &[]),
                sparse: None,
                colbert: None,
                state: Some(state_of(program, batch, read)),
            };
        }
        let outputs = &program.outputs;
        let sparse = outputs.sparse.as_ref().map(|sparse| {
            let weights = read(sparse.weights);
            let vector_of = |range: std::ops::Range<usize>| {
                SparseVector::gather(&batch.ids()[range.clone()], &weights[range], &sparse.dropped_ids)
            };
            batch.ranges().map(vector_of).collect()
        });
        let colbert = outputs.colbert.map(|buffer| {
            let (width, values) = (program.width(buffer), read(buffer));
            let rows_of =
                |range: std::ops::Range<usize>| &values[(range.start + 1) * width..range.end * width];
            batch.ranges().map(|range| Vectors::new(width, rows_of(range))).collect()
        });
        Outputs { dense: Vectors::new(program.dim(), read(outputs.dense)), sparse, colbert, state: None }
    }
}

fn state_of<'b>(program: &Program, batch: &Batch, read: impl Fn(BufferId) -> &'b [f32]) -> State {
    let images = batch.sequences();
    let live = program.split().map_or_else(Vec::new, |split| split.live);
    let buffers = live.into_iter().map(|id| read(id).to_vec()).collect();
    State { tokens: batch.tokens() / images, images, buffers }
}

impl SparseVector {
    /// The largest weight of each id, without `dropped_ids` and without what is not above zero.
    fn gather(ids: &[u32], weights: &[f32], dropped_ids: &[u32]) -> SparseVector {
        let mut largest = BTreeMap::new();
        for (id, &weight) in ids.iter().zip(weights) {
            // A NaN is kept: the check of the finished rows must see it.
            if dropped_ids.contains(id) || weight <= 0.0 {
                continue;
            }
            let kept = largest.entry(*id).or_insert(weight);
            if weight > *kept || weight.is_nan() {
                *kept = weight;
            }
        }
        let (ids, weights) = largest.into_iter().unzip();
        SparseVector { ids, weights }
    }
}

/// The first columns of each row: from `[rows, widths.0]` to `[rows, widths.1]`.
pub(super) fn cut_rows(x: &[f32], widths: (usize, usize), out: &mut [f32]) {
    for (out, row) in out.chunks_exact_mut(widths.1).zip(x.chunks_exact(widths.0)) {
        out.copy_from_slice(&row[..widths.1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_vector_keeps_the_largest_of_each_id() {
        let vector = SparseVector::gather(
            &[0, 9, 5, 9, 5, 7, 3, 2, 8],
            &[4.0, 0.5, 0.25, 0.75, 0.125, 0.0, 1.0, 9.0, -0.0],
            &[0, 2, 3],
        );
        assert_eq!(vector, SparseVector { ids: vec![5, 9], weights: vec![0.25, 0.75] });
    }

    #[test]
    fn a_weight_that_is_none_is_not_lost() {
        for weights in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
            let vector = SparseVector::gather(&[5, 5], &weights, &[]);
            assert!(vector.ids == [5] && vector.weights[0].is_nan());
        }
        assert!(SparseVector::gather(&[5], &[-1.0], &[]).ids.is_empty());
    }

    #[test]
    fn rows_are_cut() {
        let mut out = [0.0; 4];
        cut_rows(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (3, 2), &mut out);
        assert_eq!(out, [1.0, 2.0, 4.0, 5.0]);
    }
}
