use haul_kernels::attention::{Scratch, varlen};
use haul_kernels::isa::Isa;
use haul_kernels::reference;

/// Absolute; results are averages of values in -1..1.
const TOLERANCE: f64 = 2e-6;

struct Batch {
    qkv: Vec<f32>,
    cu_seqlens: Vec<u32>,
    heads: usize,
    head_size: usize,
}

fn batch(lengths: &[usize], heads: usize, head_size: usize) -> Batch {
    let mut cu_seqlens = vec![0];
    let mut tokens = 0;
    for &len in lengths {
        tokens += len;
        cu_seqlens.push(tokens as u32);
    }
    let qkv = super::random(tokens * 3 * heads * head_size, (tokens * head_size) as u64);
    Batch { qkv, cu_seqlens, heads, head_size }
}

impl Batch {
    fn width(&self) -> usize {
        self.heads * self.head_size
    }

    fn run(&self, isa: Isa, scale: f32, scratch: &mut Scratch) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.qkv.len() / 3];
        varlen(isa, &self.qkv, &self.cu_seqlens, self.heads, self.head_size, scale, scratch, &mut out);
        out
    }

    fn check(&self, isa: Isa, scale: f32, scratch: &mut Scratch, tolerance: f64) {
        let got = self.run(isa, scale, scratch);
        let mut expected = vec![0.0; got.len()];
        reference::attention(&self.qkv, &self.cu_seqlens, self.heads, self.head_size, scale, &mut expected);
        let Batch { cu_seqlens, heads, head_size, .. } = self;
        let what = format!("{} {heads} heads of {head_size}, {cu_seqlens:?}", isa.name());
        super::assert_close(&what, &got, &expected, |_| tolerance);
    }
}

#[test]
fn attention_matches_at_every_length() {
    for isa in Isa::available() {
        let mut scratch = Scratch::new();
        for len in 1..=70 {
            batch(&[len], 2, 32).check(isa, 0.18, &mut scratch, TOLERANCE);
        }
        // Across blocks of 384 keys, and shorter again with the same scratch.
        for len in [383, 384, 385, 800, 12] {
            batch(&[len], 1, 8).check(isa, 0.35, &mut scratch, TOLERANCE);
        }
    }
}

#[test]
fn attention_matches_at_every_head_size() {
    for isa in Isa::available() {
        let mut scratch = Scratch::new();
        for head_size in [1, 7, 16, 31, 32, 33, 48, 64, 72, 80, 96, 128, 256, 400] {
            let scale = 1.0 / (head_size as f32).sqrt();
            batch(&[5, 0, 40, 1], 3, head_size).check(isa, scale, &mut scratch, TOLERANCE);
        }
    }
}

#[test]
fn large_scores_neither_overflow_nor_lose_the_largest() {
    for isa in Isa::available() {
        // Scores reach +-1000; one weight is nearly 1. An error of 6e-8 in such a score moves it by 1e-4.
        batch(&[33, 20], 2, 32).check(isa, 100.0, &mut Scratch::new(), 2e-3);
    }
}

/// Promise: a row never depends on other sequences, to the bit; nor on what the scratch held before.
#[test]
fn a_sequence_alone_is_the_sequence_in_a_batch_to_the_bit() {
    let lengths = [17, 3, 0, 64, 129, 1, 400, 12];
    for isa in Isa::available() {
        for (heads, head_size) in [(12, 32), (2, 72), (1, 128)] {
            let all = batch(&lengths, heads, head_size);
            let width = all.width();
            let mut scratch = Scratch::new();
            let together = all.run(isa, 0.2, &mut scratch);
            for bounds in all.cu_seqlens.windows(2) {
                let (start, end) = (bounds[0] as usize, bounds[1] as usize);
                let qkv = all.qkv[start * 3 * width..end * 3 * width].to_vec();
                let alone = Batch { qkv, cu_seqlens: vec![0, (end - start) as u32], heads, head_size };
                for scratch in [&mut scratch, &mut Scratch::new()] {
                    let same = super::bits(&alone.run(isa, 0.2, scratch))
                        == super::bits(&together[start * width..end * width]);
                    assert!(same, "{} tokens {start}..{end} differ from themselves alone", isa.name());
                }
            }
        }
    }
}

#[test]
fn nan_stays_in_its_sequence_and_head() {
    for isa in Isa::available() {
        let mut all = batch(&[20, 13, 20], 2, 32);
        let width = all.width();
        let mut scratch = Scratch::new();
        let clean = all.run(isa, 0.2, &mut scratch);
        // A value of the second sequence's second head.
        all.qkv[(25 * 3 + 2) * width + 40] = f32::NAN;
        let poisoned = all.run(isa, 0.2, &mut scratch);
        let untouched = |i: usize| !(20..33).contains(&(i / width)) || i % width != 40;
        for (i, (clean, poisoned)) in clean.iter().zip(&poisoned).enumerate() {
            if untouched(i) {
                assert_eq!(clean.to_bits(), poisoned.to_bits(), "{} element {i}", isa.name());
            } else {
                assert!(poisoned.is_nan(), "{} element {i}", isa.name());
            }
        }
        // A key: every query of that sequence and head is lost.
        all.qkv[(25 * 3 + 1) * width + 40] = f32::NAN;
        let poisoned = all.run(isa, 0.2, &mut scratch);
        for (i, value) in poisoned.iter().enumerate() {
            let hit = (20..33).contains(&(i / width)) && i % width >= 32;
            assert_eq!(value.is_nan(), hit, "{} element {i}", isa.name());
        }
    }
}

#[test]
fn scratch_grows_to_the_longest_sequence_and_stays() {
    let mut scratch = Scratch::new();
    assert_eq!(scratch.bytes(), 0);
    batch(&[100], 1, 32).run(Isa::best(), 0.2, &mut scratch);
    let grown = scratch.bytes();
    assert!(grown > 0 && grown < 1 << 20, "{grown}");
    batch(&[10, 100, 3], 1, 32).run(Isa::best(), 0.2, &mut scratch);
    assert_eq!(scratch.bytes(), grown);
}

#[test]
#[should_panic(expected = "cu_seqlens rises")]
fn falling_sequence_starts_are_refused() {
    let mut out = [0.0; 4];
    varlen(Isa::best(), &[0.0; 12], &[0, 4, 2, 4], 1, 1, 1.0, &mut Scratch::new(), &mut out);
}
