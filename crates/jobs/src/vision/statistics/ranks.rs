//! Statistics of order.

/// Ranks from 1; equal values share the mean of theirs.
#[must_use]
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]];
        let equal = order[start..].iter().take_while(|&&at| values[at].total_cmp(&value).is_eq()).count();
        // Zero and minus zero are one value to the eye and two to `total_cmp`; no quantity here is minus zero.
        let shared = start as f64 + (equal as f64 + 1.0) / 2.0;
        order[start..start + equal].iter().for_each(|&at| ranks[at] = shared);
        start += equal;
    }
    ranks
}

/// Pearson's correlation; none where a side does not vary or the sides differ in length.
#[must_use]
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    let (mean_a, mean_b) = (super::mean(a), super::mean(b));
    let (mut both, mut square_a, mut square_b) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        both += x * y;
        square_a += x * x;
        square_b += y * y;
    }
    let scale = (square_a * square_b).sqrt();
    (scale > 0.0).then(|| both / scale)
}

/// Spearman's correlation of ranks; none where a side does not vary.
#[must_use]
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

/// Area under the curve of scores against truth (A4); none where all or none are true.
#[must_use]
pub fn auroc(scores: &[f64], is_true: &[bool]) -> Option<f64> {
    let positive = is_true.iter().filter(|is| **is).count();
    let negative = is_true.len() - positive;
    if positive == 0 || negative == 0 || scores.len() != is_true.len() {
        return None;
    }
    let sum: f64 = ranks(scores).iter().zip(is_true).filter(|(_, is)| **is).map(|(rank, _)| rank).sum();
    let (positive, negative) = (positive as f64, negative as f64);
    Some((sum - positive * (positive + 1.0) / 2.0) / (positive * negative))
}
