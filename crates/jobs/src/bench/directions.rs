//! Vectors made from a seed that lie as embeddings do, and the nearest of them by a plain scan in f32.
//!
//! A row is `offset + TOPIC x topic + OWN x own`, scaled to length 1. The three are random numbers, near normal, with a
//! spread of their own for each coordinate: the offset is the same for all rows (texts of any kind are alike to a
//! model), the topic is one of [`TOPICS`] (texts about the same are nearer), the rest is the row's own. The spreads are
//! log-normal, so that a few coordinates are several times as large as most, which is what makes int8 hard.

use haul_kernels::dot;
use haul_machine::cpu::Isa;

const TOPICS: u64 = 1000;
const OFFSET: f32 = 0.4;
const TOPIC: f32 = 0.7;
const OWN: f32 = 0.7;

/// Standard deviation of the logarithm of a coordinate's spread.
const SPREAD: f32 = 0.5;

const SEED: u64 = 42;

/// Streams of random numbers that never meet: each has a range of row numbers of its own.
const TOPIC_STREAM: u64 = 1 << 40;
const SHARED_STREAM: u64 = 1 << 41;
const QUERY_STREAM: u64 = 1 << 42;

/// Makes rows by their number: the same row whenever it is asked for.
pub(super) struct Directions {
    spreads: Vec<f32>,
    offset: Vec<f32>,
    /// `[TOPICS, dim]`
    topics: Vec<f32>,
}

impl Directions {
    pub(super) fn new(dim: usize) -> Self {
        let mut shared = Stream::new(SHARED_STREAM);
        let spreads: Vec<f32> = (0..dim).map(|_| (SPREAD * shared.normal()).exp()).collect();
        let offset = spreads.iter().map(|spread| OFFSET * spread * shared.normal()).collect();
        let topics = (0..TOPICS).flat_map(|topic| {
            let mut stream = Stream::new(TOPIC_STREAM + topic);
            spreads.iter().map(|spread| TOPIC * spread * stream.normal()).collect::<Vec<_>>()
        });
        Self { offset, topics: topics.collect(), spreads }
    }

    pub(super) fn row(&self, number: u64) -> Vec<f32> {
        self.make(number)
    }

    pub(super) fn query(&self, number: u64) -> Vec<f32> {
        self.make(QUERY_STREAM + number)
    }

    fn make(&self, stream: u64) -> Vec<f32> {
        let mut stream = Stream::new(stream);
        let dim = self.spreads.len();
        let topic = &self.topics[(stream.next() % TOPICS) as usize * dim..][..dim];
        let mut row: Vec<f32> = self
            .spreads
            .iter()
            .zip(self.offset.iter().zip(topic))
            .map(|(spread, (offset, topic))| offset + topic + OWN * spread * stream.normal())
            .collect();
        let inverse = 1.0 / row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter_mut().for_each(|x| *x *= inverse);
        row
    }
}

/// The numbers of the `k` rows of the highest dot product with each query, of rows as they were made: not rounded, not
/// indexed, all of them scored. `None` when `stopped` says so.
pub(super) fn nearest(
    directions: &Directions,
    rows: u64,
    queries: &[Vec<f32>],
    k: usize,
    (isa, threads): (Isa, usize),
    stopped: &(dyn Fn() -> bool + Sync),
) -> Option<Vec<Vec<u64>>> {
    let share = rows.div_ceil(threads as u64).max(1);
    let parts: Vec<Vec<Vec<(f32, u64)>>> = std::thread::scope(|scope| {
        let scans: Vec<_> = (0..rows)
            .step_by(share as usize)
            .map(|start| {
                scope.spawn(move || {
                    let mut best = vec![Vec::with_capacity(k + 1); queries.len()];
                    for number in (start..(start + share).min(rows)).take_while(|_| !stopped()) {
                        let row = directions.row(number);
                        for (best, query) in best.iter_mut().zip(queries) {
                            keep(best, k, (dot::f32(isa, &row, query), number));
                        }
                    }
                    best
                })
            })
            .collect();
        scans.into_iter().map(|scan| scan.join().expect("a scan does not panic")).collect()
    });
    if stopped() {
        return None;
    }
    let merged = (0..queries.len()).map(|query| {
        let mut best = Vec::with_capacity(k + 1);
        parts.iter().flat_map(|part| &part[query]).for_each(|scored| keep(&mut best, k, *scored));
        best.into_iter().map(|(_, number)| number).collect()
    });
    Some(merged.collect())
}

/// Puts a scored row in its place, best first, if it is among the `k` best.
fn keep(best: &mut Vec<(f32, u64)>, k: usize, scored: (f32, u64)) {
    if best.len() == k && best.last().is_some_and(|worst| worst.0 >= scored.0) {
        return;
    }
    let place = best.partition_point(|other| other.0 >= scored.0);
    best.insert(place, scored);
    best.truncate(k);
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Stream(u64);

impl Stream {
    fn new(number: u64) -> Self {
        // Far apart: a row draws as many numbers as it has coordinates.
        Self((SEED ^ number).wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Near normal, of mean 0 and variance 1: the sum of four even numbers of 16 bits (Irwin-Hall).
    fn normal(&mut self) -> f32 {
        /// Four times the mean, and the standard deviation, of an even number of 16 bits: 65535 / 2 and 65536 / sqrt(12).
        const MEAN: f32 = 2.0 * 65_535.0;
        const DEVIATION: f32 = 2.0 * 18_918.6;
        let bits = self.next();
        let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        (sum as f32 - MEAN) / DEVIATION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_as_embeddings_do() {
        let directions = Directions::new(256);
        let rows: Vec<Vec<f32>> = (0..400).map(|number| directions.row(number)).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        assert_eq!(rows[7], directions.row(7));
        assert!(rows.iter().all(|row| (dot(row, row) - 1.0).abs() < 1e-5));
        let cosines: Vec<f32> = rows.windows(2).map(|pair| dot(&pair[0], &pair[1])).collect();
        let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
        assert!((0.05..0.3).contains(&mean), "any two rows: {mean}");
        let nearest = rows[1..].iter().map(|row| dot(&rows[0], row)).fold(0.0, f32::max);
        assert!(nearest < 0.9, "{nearest}");
    }

    #[test]
    fn the_plain_scan_is_that_of_any_number_of_threads() {
        let directions = Directions::new(32);
        let queries: Vec<_> = (0..3).map(|number| directions.query(number)).collect();
        let found =
            |threads| nearest(&directions, 500, &queries, 10, (Isa::best(), threads), &|| false).unwrap();
        assert_eq!(found(1), found(3));
        for (query, found) in queries.iter().zip(found(2)) {
            let mut sorted: Vec<(f32, u64)> = (0..500)
                .map(|number| {
                    let row = directions.row(number);
                    (row.iter().zip(query).map(|(a, b)| a * b).sum(), number)
                })
                .collect();
            sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
            assert_eq!(found, sorted[..10].iter().map(|scored| scored.1).collect::<Vec<_>>());
        }
        assert_eq!(nearest(&directions, 500, &queries, 10, (Isa::best(), 2), &|| true), None);
    }
}
