//! How well the vectors of a faster mode agree with those of the exact one.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread;

use haul_encoder::embedder::Embedder;
use haul_pipeline::batch::{BatchLimits, Lane, TokenQueue};
use haul_pipeline::stage::Stop;
use haul_store::library::VectorKey;
use serde::Serialize;

use crate::encode::{self, Computed, Encoded, Sequence};

/// Texts of a comparison: enough to see a mode that is wrong for some of them, few enough to cost seconds.
pub const TEXTS: usize = 200;

/// Nearest neighbours that are compared.
const NEAREST: usize = 10;

/// Two modes on the same texts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// The exact mode.
    pub against: &'static str,
    /// Texts compared.
    pub texts: usize,
    /// Cosine of the two vectors of a text, on average.
    pub cosine_mean: f64,
    /// Cosine of the text that agrees least.
    pub cosine_min: f64,
    /// Share of each text's ten nearest other texts that both modes have, on average; fewer than ten where there are
    /// fewer texts, `None` for a single one.
    pub top10_overlap: Option<f64>,
}

/// Compares rows of one width, `exact[i]` and `rows[i]` of the same text. `None` without rows.
pub(crate) fn agreement(exact: &[Vec<f32>], rows: &[Vec<f32>]) -> Option<Agreement> {
    let cosines: Vec<f64> = exact.iter().zip(rows).map(|(a, b)| cosine(a, b)).collect();
    let cosine_min = cosines.iter().copied().reduce(f64::min)?;
    Some(Agreement {
        against: "f32",
        texts: cosines.len(),
        cosine_mean: cosines.iter().sum::<f64>() / cosines.len() as f64,
        cosine_min,
        top10_overlap: top10_overlap(exact, rows),
    })
}

/// In f64. Rows are neither zero nor infinite: the encoder refuses such.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn top10_overlap(exact: &[Vec<f32>], rows: &[Vec<f32>]) -> Option<f64> {
    let shared: usize = (0..rows.len())
        .map(|text| {
            let (a, b) = (nearest(exact, text), nearest(rows, text));
            a.iter().filter(|other| b.contains(other)).count()
        })
        .sum();
    let possible = rows.len() * NEAREST.min(rows.len().saturating_sub(1));
    (possible > 0).then(|| shared as f64 / possible as f64)
}

/// The texts whose rows are nearest to that of `text`, without itself.
fn nearest(rows: &[Vec<f32>], text: usize) -> Vec<usize> {
    let mut others: Vec<(f64, usize)> =
        (0..rows.len()).filter(|other| *other != text).map(|o| (cosine(&rows[text], &rows[o]), o)).collect();
    // Equal texts are equally near; the first come first in both modes.
    others.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    others.into_iter().take(NEAREST).map(|(_, other)| other).collect()
}

/// At most [`TEXTS`] of `count`, evenly spaced.
pub(crate) fn evenly(count: usize) -> Vec<usize> {
    let texts = count.min(TEXTS);
    (0..texts).map(|number| number * count / texts).collect()
}

/// Tokens of a text of the sample, so that the exact mode, much slower than the one it is compared with, has little to
/// do. A vector of few tokens has fewer rounding errors to average than one of a whole chunk.
pub(crate) const SAMPLE_TOKENS: usize = 32;

/// The texts of a run by which its mode is compared: those with the smallest keys, cut to [`SAMPLE_TOKENS`]. Keys are
/// hashes, so the choice is like one by lot, and the same whatever the order in which threads finish.
#[derive(Default)]
pub(crate) struct Sample(Mutex<BTreeMap<VectorKey, Vec<u32>>>);

impl Sample {
    /// Takes those of the batch that belong to the smallest keys so far.
    pub(crate) fn offer(&self, batch: &[Encoded<VectorKey>]) {
        let mut sample = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for Encoded { key, ids, .. } in batch.iter().filter(|text| text.outputs.is_ok()) {
            if sample.len() < TEXTS || sample.last_key_value().is_some_and(|(largest, _)| key < largest) {
                sample.insert(*key, cut(ids));
            }
            if sample.len() > TEXTS {
                sample.pop_last();
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The texts, which are gone afterwards.
    pub(crate) fn take(&self) -> Vec<Vec<u32>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_values().collect()
    }
}

/// The beginning of a sequence, and the token that ends it.
fn cut(ids: &[u32]) -> Vec<u32> {
    let begin = ids.len().min(SAMPLE_TOKENS) - 1;
    ids[..begin].iter().chain(ids.last()).copied().collect()
}

/// What a model gives for each of some sequences: its row, or why it has none.
pub(crate) type Rows = Vec<Result<Vec<f32>, String>>;

/// The rows of sequences, in their order; `None` if a stop was asked for meanwhile.
///
/// # Errors
/// No batch can be made of them.
pub(crate) fn rows(
    embedder: &Embedder,
    sequences: &[Vec<u32>],
    limits: BatchLimits,
    threads: usize,
    stop: &Stop,
) -> Result<Option<Rows>, String> {
    let queue = TokenQueue::new(usize::MAX);
    for (number, ids) in sequences.iter().enumerate() {
        let sequence = Sequence { key: number, ids: ids.clone() };
        queue.push(Lane::Bulk, ids.len(), sequence).map_err(|closed| closed.to_string())?;
    }
    queue.close();
    let compute = || {
        let mut computed = Computed::default();
        let batches = std::iter::from_fn(|| queue.next_batch(limits)).take_while(|_| !stop.requested());
        batches.flat_map(|batch| encode::run_batch(embedder, batch, &mut computed)).collect::<Vec<_>>()
    };
    let mut encoded = thread::scope(|scope| {
        let threads = Vec::from_iter((0..threads).map(|_| scope.spawn(compute)));
        let joined = threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        joined.flatten().collect::<Vec<_>>()
    });
    if stop.requested() {
        return Ok(None);
    }
    encoded.sort_by_key(|text| text.key);
    let row = |text: Encoded<usize>| Ok(text.outputs?.dense);
    Ok(Some(encoded.into_iter().map(row).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::TextOutputs;

    fn circle(angles: &[f32]) -> Vec<Vec<f32>> {
        angles.iter().map(|angle| vec![angle.cos(), angle.sin()]).collect()
    }

    #[test]
    fn equal_rows_agree_and_turned_ones_do_not() {
        let exact = circle(&[0.0, 0.5, 1.0, 1.6]);
        let same = agreement(&exact, &exact).unwrap();
        assert_eq!((same.texts, same.top10_overlap), (4, Some(1.0)));
        assert!((same.cosine_mean - 1.0).abs() < 1e-6 && (same.cosine_min - 1.0).abs() < 1e-6);
        let one_turned = agreement(&exact, &circle(&[0.0, 0.5, 1.0, 2.6])).unwrap();
        assert!((one_turned.cosine_min - 1.0_f64.cos()).abs() < 1e-6, "{one_turned:?}");
        assert!((one_turned.cosine_mean - (3.0 + 1.0_f64.cos()) / 4.0).abs() < 1e-6, "{one_turned:?}");
        assert_eq!(agreement(&[], &[]), None);
        assert_eq!(agreement(&exact[..1], &exact[..1]).unwrap().top10_overlap, None);
    }

    /// 22 texts on a line; in the other mode the first half has moved beyond the second, so that the ten nearest of
    /// most texts change, in part.
    #[test]
    fn overlap_counts_neighbours_that_both_have() {
        let near = |order: &[usize]| circle(&order.iter().map(|&at| at as f32 * 0.01).collect::<Vec<_>>());
        let exact = near(&(0..22).collect::<Vec<_>>());
        let moved =
            near(&(0..22).map(|at| if at < 11 { at * 2 } else { (at - 11) * 2 + 1 }).collect::<Vec<_>>());
        let overlap = top10_overlap(&exact, &moved).unwrap();
        assert!(overlap > 0.3 && overlap < 0.7, "{overlap}");
        // Text 0 has 1..=10 nearest; afterwards those that stand at 1..=10: five of each half.
        assert_eq!(nearest(&moved, 0), [11, 1, 12, 2, 13, 3, 14, 4, 15, 5]);
    }

    #[test]
    fn a_choice_is_evenly_spaced() {
        assert_eq!(evenly(0), [0; 0]);
        assert_eq!(evenly(3), [0, 1, 2]);
        let many = evenly(100_000);
        assert_eq!((many.len(), many[0], many[1], many[199]), (TEXTS, 0, 500, 99_500));
    }

    #[test]
    fn a_text_of_the_sample_keeps_its_ends() {
        assert_eq!(cut(&[7]), [7]);
        assert_eq!(cut(&[7, 1, 8]), [7, 1, 8]);
        let long = cut(&(0..100).collect::<Vec<_>>());
        assert_eq!((long.len(), long[0], long[30], long[31]), (SAMPLE_TOKENS, 0, 30, 99));
    }

    #[test]
    fn a_sample_is_the_same_in_any_order() {
        let text = |number: u8| Encoded {
            key: VectorKey(*blake3::hash(&[number, 7]).as_bytes()),
            ids: vec![u32::from(number); 40],
            outputs: match number {
                9 => Err("none".to_owned()),
                _ => Ok(TextOutputs { dense: vec![1.0], sparse: None, colbert: None }),
            },
            seconds: 0.0,
        };
        let keys = |numbers: &mut dyn Iterator<Item = u8>| {
            let sample = Sample::default();
            numbers.for_each(|number| sample.offer(&[text(number)]));
            sample.0.into_inner().unwrap().into_keys().collect::<Vec<_>>()
        };
        let forward = keys(&mut (0..=255));
        assert_eq!((forward.len(), &forward), (TEXTS, &keys(&mut (0..=255).rev())));
        assert_eq!(keys(&mut (0..20)).len(), 19, "a text without a row is none of them");
    }
}
