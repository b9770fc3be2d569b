//! What only images need: the places of patches, the one query of a MAP head, and what differs between passes.

use std::ops::Range;

use haul_kernels::dropout::MaskKey;
use haul_kernels::perturb::{Perturbation, coin_falls};

use crate::device::{Batch, Part};

/// Perturbs `x` `[rows, width]`, as many rows a sequence as there are, with the mask of each sequence's pass.
pub(super) fn perturb_rows(
    batch: &Batch,
    site: u32,
    x: &mut [f32],
    mut perturb: impl FnMut(Perturbation, MaskKey, &mut [f32]),
) {
    let Part::Suffix { passes, perturbation, .. } = &batch.part else { return };
    let of_sequence = x.len() / batch.sequences();
    for (rows, pass) in x.chunks_exact_mut(of_sequence).zip(passes) {
        if pass.only.is_none_or(|only| only == site) {
            perturb(*perturbation, pass.mask, rows);
        }
    }
}

/// Zeros in place of the rows of each pass whose coin falls; coins fall at the rate of dropout.
pub(super) fn skip_rows(batch: &Batch, site: u32, x: &mut [f32]) {
    perturb_rows(batch, site, x, |perturbation, mask, rows| {
        if perturbation.rate().is_some_and(|rate| coin_falls(rate, mask, site)) {
            rows.fill(0.0);
        }
    });
}

/// `x += y`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Puts the patches of each image behind its class row, where there is one, and adds to every row the position of its
/// number. `patches` `[images * patches of an image, width]`, `position` `[rows of an image, width]`, `out` `[images *
/// rows of an image, width]`.
pub(super) fn place_patches(patches: &[f32], class: Option<&[f32]>, position: &[f32], out: &mut [f32]) {
    let class = class.unwrap_or_default();
    let images = out.len() / position.len();
    let of_images = patches.chunks_exact(patches.len() / images);
    for (out, patches) in out.chunks_exact_mut(position.len()).zip(of_images) {
        out[..class.len()].copy_from_slice(class);
        out[class.len()..].copy_from_slice(patches);
        out.iter_mut().zip(position).for_each(|(o, p)| *o += p);
    }
}

/// For each sequence and head, `softmax(q k^T * scale) v` of one query `q` `[width]` over the rows of `x` `[tokens, 3 *
/// width]`: all of q, then k, then v. Sums are f64: there is one query an image.
pub(super) fn probe_rows(
    q: &[f32],
    x: &[f32],
    sequences: impl Iterator<Item = Range<usize>>,
    (heads, scale): (usize, f32),
    out: &mut [f32],
) {
    let (width, head_size) = (q.len(), q.len() / heads);
    for (range, out) in sequences.zip(out.chunks_exact_mut(width)) {
        let rows = &x[range.start * 3 * width..range.end * 3 * width];
        for head in 0..heads {
            let columns = head * head_size..(head + 1) * head_size;
            let keys = rows.chunks_exact(3 * width).map(|row| &row[width..][columns.clone()]);
            let values = rows.chunks_exact(3 * width).map(|row| &row[2 * width..][columns.clone()]);
            attend(&q[columns.clone()], keys, values, scale, &mut out[columns.clone()]);
        }
    }
}

fn attend<'x>(
    q: &[f32],
    keys: impl Iterator<Item = &'x [f32]>,
    values: impl Iterator<Item = &'x [f32]>,
    scale: f32,
    out: &mut [f32],
) {
    let dot = |k: &[f32]| q.iter().zip(k).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let scores: Vec<f64> = keys.map(|k| dot(k) * f64::from(scale)).collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut sums = vec![0.0; out.len()];
    for (v, weight) in values.zip(weights) {
        sums.iter_mut().zip(v).for_each(|(s, &v)| *s += weight / sum * f64::from(v));
    }
    out.iter_mut().zip(sums).for_each(|(o, s)| *o = s as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_stand_behind_their_class_row() {
        let mut out = [0.0; 8];
        place_patches(&[1.0, 2.0, 3.0, 4.0], Some(&[9.0, 8.0]), &[0.1, 0.2, 0.3, 0.4], &mut out);
        assert_eq!(out, [9.1, 8.2, 1.3, 2.4, 9.1, 8.2, 3.3, 4.4]);
        let mut out = [0.0; 4];
        place_patches(&[1.0, 2.0, 3.0, 4.0], None, &[0.5, 0.25], &mut out);
        assert_eq!(out, [1.5, 2.25, 3.5, 4.25]);
    }

    #[test]
    fn a_probe_sees_each_sequence_alone() {
        // Two heads of one column, three rows: q is not read, k chooses, v is what is seen.
        let x = [7.0, 7.0, 0.0, 0.0, 1.0, 2.0, 7.0, 7.0, 0.0, 9.0, 3.0, 4.0, 7.0, 7.0, 5.0, 5.0, 6.0, 8.0];
        let mut out = [0.0; 4];
        probe_rows(&[1.0, 10.0], &x, [0..2, 2..3].into_iter(), (2, 1.0), &mut out);
        assert_eq!((out[0], out[2], out[3]), (2.0, 6.0, 8.0));
        assert!((out[1] - 4.0).abs() < 1e-6, "{out:?}");
    }
}
