use haul_kernels::attention::{Scratch, Sees, Shape, varlen};
use haul_kernels::dtype::Dtype;
use haul_kernels::isa::Isa;
use haul_kernels::reference;

/// The three kinds of products, and how far a result in -1..1 may be off: values of 11 bits and weights of 13 err by
/// half a step each; with 8 bits the error of the scores, of queries and keys, comes on top.
const PRECISIONS: [(Dtype, f64); 3] = [(Dtype::F32, 2e-6), (Dtype::Int16, 1e-3), (Dtype::Int8, 3e-2)];

/// In the tile unit, int8 has products of bf16, whose factors err by 2^-9 of themselves.
const INT8_OF_TILES: f64 = 1e-2;

struct Batch {
    qkv: Vec<f32>,
    cu_seqlens: Vec<u32>,
    heads: usize,
    head_size: usize,
    sees: Sees,
}

fn batch(lengths: &[usize], heads: usize, head_size: usize) -> Batch {
    let mut cu_seqlens = vec![0];
    let mut tokens = 0;
    for &len in lengths {
        tokens += len;
        cu_seqlens.push(tokens as u32);
    }
    let qkv = super::random(tokens * 3 * heads * head_size, (tokens * head_size) as u64);
    Batch { qkv, cu_seqlens, heads, head_size, sees: Sees::All }
}

/// Every instruction set with f32 and with its products of smaller numbers.
fn ways() -> impl Iterator<Item = (Isa, Dtype, f64)> {
    let ways = |isa| precisions(isa).map(|(dtype, tolerance)| (isa, dtype, tolerance));
    Isa::available().into_iter().flat_map(ways)
}

fn precisions(isa: Isa) -> [(Dtype, f64); 3] {
    let mut precisions = PRECISIONS;
    if has_tiles(isa) {
        precisions[2].1 = INT8_OF_TILES;
    }
    precisions
}

fn has_tiles(isa: Isa) -> bool {
    matches!(isa, Isa::Amx(_))
}

impl Batch {
    fn width(&self) -> usize {
        self.heads * self.head_size
    }

    /// Place in `qkv` of a feature of a token: block 0 holds queries, 1 keys, 2 values.
    fn at(&self, token: usize, block: usize, feature: usize) -> usize {
        (token * 3 + block) * self.width() + feature
    }

    fn run(&self, isa: Isa, dtype: Dtype, scale: f32, scratch: &mut Scratch) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.qkv.len() / 3];
        let Batch { heads, head_size, sees, .. } = *self;
        let shape = Shape { cu_seqlens: &self.cu_seqlens, heads, head_size, scale, sees };
        varlen(isa, dtype, &self.qkv, shape, scratch, &mut out);
        out
    }

    fn expected(&self, scale: f32) -> Vec<f32> {
        let mut expected = vec![0.0; self.qkv.len() / 3];
        let Batch { qkv, cu_seqlens, heads, head_size, sees } = self;
        reference::attention(qkv, cu_seqlens, *heads, *head_size, scale, *sees, &mut expected);
        expected
    }

    fn what(&self, isa: Isa, dtype: Dtype) -> String {
        let Batch { cu_seqlens, heads, head_size, sees, .. } = self;
        let isa = isa.name();
        format!("{isa} {dtype} {heads} heads of {head_size}, {cu_seqlens:?}, sees {sees:?}")
    }

    /// In every way.
    fn check(&self, scale: f32, scratch: &mut Scratch) {
        let expected = self.expected(scale);
        for (isa, dtype, tolerance) in ways() {
            let got = self.run(isa, dtype, scale, scratch);
            super::assert_close(&self.what(isa, dtype), &got, &expected, |_| tolerance);
        }
    }
}

#[test]
fn attention_matches_at_every_length() {
    let mut scratch = Scratch::new();
    for len in 1..=70 {
        batch(&[len], 2, 32).check(0.18, &mut scratch);
    }
    // Across blocks of 128 and of 384 keys, and shorter again with the same scratch.
    for len in [127, 128, 129, 255, 256, 257, 383, 384, 385, 800, 12] {
        batch(&[len], 1, 8).check(0.35, &mut scratch);
    }
}

#[test]
fn attention_matches_at_every_head_size() {
    let mut scratch = Scratch::new();
    for head_size in [1, 5, 7, 16, 31, 32, 33, 48, 64, 72, 80, 96, 128, 256, 400, 800] {
        let scale = 1.0 / (head_size as f32).sqrt();
        batch(&[5, 0, 40, 1], 3, head_size).check(scale, &mut scratch);
    }
}

#[test]
fn ragged_batches_match_whatever_a_query_sees() {
    let mut scratch = Scratch::new();
    let near = [0, 1, 16, 64, usize::MAX].map(Sees::Near);
    for sees in [Sees::All, Sees::Before].into_iter().chain(near) {
        let batch = |lengths: &[usize], heads, head_size| Batch { sees, ..batch(lengths, heads, head_size) };
        batch(&[1, 31, 32, 33, 127, 128, 129, 384, 385, 700], 1, 16).check(0.25, &mut scratch);
        batch(&[129, 1, 0, 385], 2, 33).check(0.18, &mut scratch);
        for head_size in [5, 32, 64, 72, 80, 96, 128] {
            batch(&[33, 1, 0, 150, 31], 2, head_size).check(0.125, &mut scratch);
        }
    }
}

#[test]
fn large_scores_neither_overflow_nor_lose_the_largest() {
    // Scores reach +-1000; one weight is nearly 1. An error of 6e-8 in such a score moves it by 1e-4.
    let batch = batch(&[33, 20], 2, 32);
    let expected = batch.expected(100.0);
    for isa in Isa::available() {
        let got = batch.run(isa, Dtype::F32, 100.0, &mut Scratch::new());
        super::assert_close(&batch.what(isa, Dtype::F32), &got, &expected, |_| 2e-3);
    }
}

/// The weights of a query sum to 1, whatever the scores: where all values are equal, so is the result. With one key
/// far ahead of the others, the small weights are less than one step of an integer, but many.
#[test]
fn many_small_weights_are_neither_lost_nor_counted_twice() {
    for (len, ahead) in [(40, 0.0), (512, 0.0), (512, 9.5), (512, 9.8), (1200, 9.8), (700, 30.0)] {
        for value_ahead in [0.75, -0.75] {
            let mut all = batch(&[len], 1, 16);
            for (token, feature) in (0..len).flat_map(|t| (0..16).map(move |f| (t, f))) {
                let [query, key, value] = [0, 1, 2].map(|block| all.at(token, block, feature));
                all.qkv[query] = 1.0;
                all.qkv[key] = if token == 3 { ahead / 16.0 } else { 0.0 };
                all.qkv[value] = if token == 3 { value_ahead } else { 0.75 };
            }
            let expected = all.expected(1.0);
            for (isa, dtype, tolerance) in ways() {
                let got = all.run(isa, dtype, 1.0, &mut Scratch::new());
                let what = format!("{}, one key of {value_ahead} {ahead} ahead", all.what(isa, dtype));
                // A sum of 1200 weights in f32 errs by a few millionths itself.
                super::assert_close(&what, &got, &expected, |_| tolerance.max(2e-5));
            }
        }
    }
}

/// A block of keys with the largest weight each and the largest values: the most a sum of 31 bits can be asked to
/// hold. At large scores the product of score and factor is rounded, and a fused difference of the two is a little
/// above 0.
#[test]
fn integer_sums_never_overflow() {
    for exponent in -2..=14 {
        for base in [1.0, 1.1, 1.7, 1.9] {
            let magnitude = base * 2.0_f32.powi(exponent);
            let mut all = batch(&[256], 1, 32);
            for (token, feature) in (0..256).flat_map(|t| (0..32).map(move |f| (t, f))) {
                let [query, key, value] = [0, 1, 2].map(|block| all.at(token, block, feature));
                all.qkv[query] = magnitude * (1.0 + token as f32 * 1e-3);
                all.qkv[key] = 1.0;
                all.qkv[value] = if feature % 2 == 0 { 3.0 } else { -3.0 };
            }
            let expected: Vec<f32> = (0..256 * 32).map(|i| if i % 2 == 0 { 3.0 } else { -3.0 }).collect();
            for isa in Isa::available() {
                let got = all.run(isa, Dtype::Int16, 1.0, &mut Scratch::new());
                let what = format!("{}, queries of {magnitude}", all.what(isa, Dtype::Int16));
                super::assert_close(&what, &got, &expected, |_| 3e-3);
            }
        }
    }
}

/// Promise: a row never depends on other sequences, to the bit; nor on what the scratch held before.
#[test]
fn a_sequence_alone_is_the_sequence_in_a_batch_to_the_bit() {
    let lengths = [17, 3, 0, 64, 129, 1, 400, 12];
    for ((heads, head_size), sees) in
        [((12, 32), Sees::All), ((2, 72), Sees::Near(16)), ((1, 128), Sees::Before), ((3, 5), Sees::Near(64))]
    {
        let all = Batch { sees, ..batch(&lengths, heads, head_size) };
        let width = all.width();
        for (isa, dtype, _) in ways() {
            let mut scratch = Scratch::new();
            let together = all.run(isa, dtype, 0.2, &mut scratch);
            for bounds in all.cu_seqlens.windows(2) {
                let (start, end) = (bounds[0] as usize, bounds[1] as usize);
                let alone = Batch {
                    qkv: all.qkv[start * 3 * width..end * 3 * width].to_vec(),
                    cu_seqlens: vec![0, (end - start) as u32],
                    ..all
                };
                for scratch in [&mut scratch, &mut Scratch::new()] {
                    let same = super::bits(&alone.run(isa, dtype, 0.2, scratch))
                        == super::bits(&together[start * width..end * width]);
                    let what = all.what(isa, dtype);
                    assert!(same, "{what}: tokens {start}..{end} differ from themselves alone");
                }
            }
        }
    }
}

/// Where there are no tiles, bf16 attends with the integers of int16; where there are, int8 attends with bf16.
#[test]
fn two_modes_of_four_attend_alike() {
    let all = batch(&[40, 7], 2, 33);
    for isa in Isa::available() {
        let of = |dtype| super::bits(&all.run(isa, dtype, 0.2, &mut Scratch::new()));
        let [f32, int16, bf16, int8] = [Dtype::F32, Dtype::Int16, Dtype::Bf16, Dtype::Int8].map(of);
        assert_eq!(bf16 == int16, !has_tiles(isa), "{}", isa.name());
        assert_eq!(bf16 == int8, has_tiles(isa), "{}", isa.name());
        assert!(f32 != int16 && f32 != bf16 && int16 != int8, "{}", isa.name());
    }
}

/// A query of zeros sees all keys alike that it sees, and no other.
#[test]
fn zero_queries_average_what_they_see() {
    for sees in [Sees::All, Sees::Near(1), Sees::Near(16), Sees::Before] {
        let mut all = Batch { sees, ..batch(&[70, 3], 2, 32) };
        let width = all.width();
        for token in [0, 35, 69, 71] {
            let start = all.at(token, 0, 0);
            all.qkv[start..start + width].fill(0.0);
        }
        all.check(0.2, &mut Scratch::new());
        // Keys and values of zeros.
        let start = all.at(10, 1, 0);
        all.qkv[start..start + 2 * width].fill(0.0);
        let start = all.at(71, 2, 0);
        all.qkv[start..start + width].fill(0.0);
        all.check(0.2, &mut Scratch::new());
        all.qkv.fill(0.0);
        all.check(0.2, &mut Scratch::new());
    }
}

/// f32 loses what meets the NaN; integers lose what shares a scale with it: the queries, the keys, or a feature
/// of the values. Nothing leaves the sequence and the head.
#[test]
fn nan_stays_in_its_sequence_and_head() {
    for ((isa, dtype, _), poison) in ways().flat_map(|way| [f32::NAN, f32::INFINITY].map(|bad| (way, bad))) {
        let mut all = batch(&[20, 13, 20], 2, 32);
        let mut scratch = Scratch::new();
        let clean = all.run(isa, dtype, 0.2, &mut scratch);
        let what = format!("{} {dtype} {poison}", isa.name());
        let check = |got: &[f32], is_lost: &dyn Fn(usize, usize) -> bool| {
            for (i, (clean, got)) in clean.iter().zip(got).enumerate() {
                if is_lost(i / 64, i % 64) {
                    assert!(!got.is_finite(), "{what}: element {i} is {got}");
                } else {
                    assert_eq!(clean.to_bits(), got.to_bits(), "{what}: element {i}");
                }
            }
        };
        let in_sequence = |token: usize| (20..33).contains(&token);
        let value = all.at(25, 2, 40);
        let good = std::mem::replace(&mut all.qkv[value], poison);
        check(&all.run(isa, dtype, 0.2, &mut scratch), &|token, feature| in_sequence(token) && feature == 40);
        all.qkv[value] = good;
        // The infinity of a query or key is a score of either sign; only NaN has one outcome.
        if poison.is_nan() {
            let query = all.at(25, 0, 40);
            let good = std::mem::replace(&mut all.qkv[query], poison);
            // Integer queries of a head share one scale.
            let is_alone = dtype == Dtype::F32 || dtype == Dtype::Int8 && has_tiles(isa);
            let meets = |token: usize| if is_alone { token == 25 } else { in_sequence(token) };
            check(&all.run(isa, dtype, 0.2, &mut scratch), &|token, feature| meets(token) && feature >= 32);
            all.qkv[query] = good;
            let key = all.at(25, 1, 40);
            let good = std::mem::replace(&mut all.qkv[key], poison);
            check(&all.run(isa, dtype, 0.2, &mut scratch), &|token, feature| {
                in_sequence(token) && feature >= 32
            });
            all.qkv[key] = good;
        }
        let again = all.run(isa, dtype, 0.2, &mut scratch);
        assert_eq!(super::bits(&again), super::bits(&clean), "{what}: a clean call after it");
    }
}

/// A shorter sequence after a longer one of NaN: nothing that is left in the scratch is read.
#[test]
fn what_a_call_leaves_in_the_scratch_is_not_read() {
    for (isa, dtype, _) in ways() {
        let mut scratch = Scratch::new();
        let mut long = batch(&[300], 1, 72);
        long.qkv.fill(f32::NAN);
        for (len, head_size, sees) in [
            (1, 5, Sees::All),
            (13, 32, Sees::Before),
            (129, 33, Sees::Near(16)),
            (257, 64, Sees::Near(1)),
            (130, 7, Sees::All),
        ] {
            long.run(isa, dtype, 0.2, &mut scratch);
            let short = Batch { sees, ..batch(&[len], 2, head_size) };
            let expected = short.run(isa, dtype, 0.2, &mut Scratch::new());
            let got = short.run(isa, dtype, 0.2, &mut scratch);
            assert_eq!(super::bits(&got), super::bits(&expected), "{}", short.what(isa, dtype));
        }
    }
}

#[test]
fn a_long_sequence_matches_on_some_of_its_rows() {
    const LEN: usize = 8192;
    const HEAD_SIZE: usize = 32;
    let all = batch(&[LEN], 1, HEAD_SIZE);
    let vector = |token, block| &all.qkv[all.at(token, block, 0)..][..HEAD_SIZE];
    let got = PRECISIONS.map(|(dtype, _)| all.run(Isa::best(), dtype, 0.5, &mut Scratch::new()));
    for query in [0, 1, 127, 4095, 4096, 8000, LEN - 1] {
        let weight = |key| (reference::dot_f32(vector(query, 0), vector(key, 1)) * 0.5).exp();
        let weights: Vec<f64> = (0..LEN).map(weight).collect();
        let total: f64 = weights.iter().sum();
        for ((dtype, tolerance), got) in PRECISIONS.into_iter().zip(&got) {
            let expected: Vec<f32> = (0..HEAD_SIZE)
                .map(|f| (0..LEN).map(|t| f64::from(vector(t, 2)[f]) * weights[t]).sum::<f64>() / total)
                .map(|mean| mean as f32)
                .collect();
            let got = &got[query * HEAD_SIZE..][..HEAD_SIZE];
            super::assert_close(&format!("{dtype} query {query}"), got, &expected, |_| tolerance);
        }
    }
}

#[test]
fn scratch_grows_to_the_longest_sequence_and_stays() {
    let mut scratch = Scratch::new();
    assert_eq!(scratch.bytes(), 0);
    for (dtype, _) in PRECISIONS {
        batch(&[100], 1, 32).run(Isa::best(), dtype, 0.2, &mut scratch);
        let grown = scratch.bytes();
        assert!(grown > 0 && grown < 1 << 20, "{grown}");
        batch(&[10, 100, 3], 1, 32).run(Isa::best(), dtype, 0.2, &mut scratch);
        assert_eq!(scratch.bytes(), grown);
    }
}

#[test]
#[should_panic(expected = "cu_seqlens rises")]
fn falling_sequence_starts_are_refused() {
    let shape = Shape { cu_seqlens: &[0, 4, 2, 4], heads: 1, head_size: 1, scale: 1.0, sees: Sees::All };
    varlen(Isa::best(), Dtype::F32, &[0.0; 12], shape, &mut Scratch::new(), &mut [0.0; 4]);
}

/// Scores on both sides of what powers of two can be with the largest one not taken off, as the tile unit has them
/// where it can. Scores in the millions once lost all weights: the rounding of their products was above every exponent.
#[test]
fn large_scores_and_values_stay_numbers() {
    let scratch = &mut Scratch::new();
    for (magnitude, value) in [(3.0, 1.0), (10.0, 1.0), (30.0, 1.0), (1e4, 1.0), (1e6, 1.0), (3.0, 1e30)] {
        let mut all = batch(&[70, 33], 2, 32);
        for (i, x) in all.qkv.iter_mut().enumerate() {
            *x *= if i / 64 % 3 == 2 { value } else { magnitude };
        }
        for isa in Isa::available() {
            let exact = all.run(isa, Dtype::F32, 1.0, scratch);
            let got = all.run(isa, Dtype::Bf16, 1.0, scratch);
            assert!(got.iter().all(|v| v.is_finite()), "{} {magnitude} {value}", isa.name());
            // Rounded factors move a score by a part of itself, so only small scores leave the softmax alike.
            if magnitude < 5.0 {
                super::assert_close(isa.name(), &got, &exact, |_| 0.1 * f64::from(value));
            }
        }
    }
}
