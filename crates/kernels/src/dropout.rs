//! Dropout with masks that are computed, not drawn: whether an element falls out is a function of where it stands.
//!
//! The bits are those of Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), a bijection of a counter under a key. The key is
//! of the run and the image, the counter says trial, pass, site and place. So a mask is the same on every device, in every
//! batch and in every shard, and any single one can be made again.

use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// Elements that one block of 128 bits decides, 16 bits each.
const BLOCK_ELEMENTS: usize = 8;
/// Blocks that are computed side by side.
const BLOCKS: usize = 16;
const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// How many elements fall out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Of 65,536 values of an element's bits, so many drop it.
    threshold: u16,
}

impl Rate {
    /// Nothing falls out.
    pub const ZERO: Rate = Rate { threshold: 0 };

    /// The rate nearest to `p`, of 65,536 steps; `None` where `p` is not in 0..1.
    #[must_use]
    pub fn new(p: f64) -> Option<Rate> {
        let steps = (p * 65_536.0).round();
        ((0.0..1.0).contains(&p) && steps < 65_536.0).then_some(Rate { threshold: steps as u16 })
    }

    /// The share of elements that fall out.
    #[must_use]
    pub fn p(self) -> f64 {
        f64::from(self.threshold) / 65_536.0
    }

    /// What the others are multiplied with, so that the expectation stays: `1 / (1 - p)`.
    fn scale(self) -> f32 {
        (1.0 / (1.0 - self.p())) as f32
    }
}

/// Which mask: everything but the place in the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MaskKey {
    /// Of the run and the image: [`MaskKey::key_of`].
    pub key: [u32; 2],
    /// Number of the trial.
    pub trial: u32,
    /// Number of the pass in its trial.
    pub pass: u32,
}

impl MaskKey {
    /// The key of an image in a run: one block of Philox whose counter is image and seed.
    #[must_use]
    pub fn key_of(seed: u64, image: u64) -> [u32; 2] {
        let [a, b, ..] =
            philox([image as u32, (image >> 32) as u32, seed as u32, (seed >> 32) as u32], [0, 0]);
        [a, b]
    }
}

/// One block of Philox4x32-10.
#[must_use]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..ROUNDS {
        c = round(c, k);
        k = [k[0].wrapping_add(KEY_STEPS[0]), k[1].wrapping_add(KEY_STEPS[1])];
    }
    c
}

#[inline(always)]
fn round([a, b, c, d]: [u32; 4], k: [u32; 2]) -> [u32; 4] {
    let first = u64::from(MULTIPLIERS[0]) * u64::from(a);
    let second = u64::from(MULTIPLIERS[1]) * u64::from(c);
    [(second >> 32) as u32 ^ b ^ k[0], second as u32, (first >> 32) as u32 ^ d ^ k[1], first as u32]
}

/// `x[i] = 0` where element `i` falls out, else `x[i] / (1 - p)`; NaN stays NaN. `x` is all rows of one image at a site.
///
/// Element `i` has the 16 bits `i % 8` of the block with the counter `[i / 8, site, pass, trial]`, the low half of a word
/// first, and falls out where they are below `p * 65,536`.
///
/// # Panics
/// When `x` has more than 2^35 elements.
pub fn dropout(isa: Isa, rate: Rate, mask: MaskKey, site: u32, x: &mut [f32]) {
    assert!(x.len() / BLOCK_ELEMENTS <= u32::MAX as usize, "{} elements at a site", x.len());
    isa.run(Dropout { rate, mask, site, x });
}

struct Dropout<'a> {
    rate: Rate,
    mask: MaskKey,
    site: u32,
    x: &'a mut [f32],
}

impl Kernel for Dropout<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Dropout { rate, mask, site, x } = self;
        let factors = [0.0, rate.scale()];
        for (group, x) in x.chunks_mut(BLOCKS * BLOCK_ELEMENTS).enumerate() {
            let words = blocks(group * BLOCKS, mask, site);
            for (block, x) in x.chunks_mut(BLOCK_ELEMENTS).enumerate() {
                for (i, x) in x.iter_mut().enumerate() {
                    let bits = (words[i / 2][block] >> (16 * (i % 2))) as u16;
                    *x *= factors[usize::from(bits >= rate.threshold)];
                }
            }
        }
    }
}

/// Words of so many blocks side by side, so that every step is one of whole vectors.
#[inline(always)]
fn blocks(first: usize, mask: MaskKey, site: u32) -> [[u32; BLOCKS]; 4] {
    let mut c = [[0; BLOCKS], [site; BLOCKS], [mask.pass; BLOCKS], [mask.trial; BLOCKS]];
    for (block, counter) in c[0].iter_mut().enumerate() {
        *counter = (first + block) as u32;
    }
    let mut k = mask.key;
    for _ in 0..ROUNDS {
        for block in 0..BLOCKS {
            let next = round([c[0][block], c[1][block], c[2][block], c[3][block]], k);
            for (words, next) in c.iter_mut().zip(next) {
                words[block] = next;
            }
        }
        k = [k[0].wrapping_add(KEY_STEPS[0]), k[1].wrapping_add(KEY_STEPS[1])];
    }
    c
}
