//! Dropout with masks that are computed, not drawn: whether an element falls out is a function of where it stands.
//!
//! The bits are those of Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), a bijection of a counter under a key. The key is
//! of the run and the image, the counter says trial, pass, site and place. So a mask is the same on every device, in every
//! batch and in every shard, and any single one can be made again.

use crate::isa::Isa;
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Elements that one block of 128 bits decides, 16 bits each.
const BLOCK_ELEMENTS: usize = 8;
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
    fn run<S: Simd>(self, s: S) {
        let Dropout { rate, mask, site, x } = self;
        let factor = rate.scale();
        with_bits(
            s,
            mask,
            site,
            x,
            #[inline(always)]
            |bits, x| s.scale_or_drop(bits, rate.threshold, factor, x),
        );
    }
}

/// Calls `each` with a vector of words, which are the bits of two elements a lane, and with these elements. Behind the end of
/// `x` there are elements that nobody reads.
///
/// # Panics
/// When `x` has more than 2^35 elements.
#[inline(always)]
pub(crate) fn with_bits<S: Simd>(
    s: S,
    mask: MaskKey,
    site: u32,
    x: &mut [f32],
    mut each: impl FnMut(S::I, &mut [f32]),
) {
    assert!(x.len() / BLOCK_ELEMENTS <= u32::MAX as usize, "{} elements at a site", x.len());
    let blocks = Blocks::of(s, mask, site);
    for (group, x) in x.chunks_mut(S::LANES * BLOCK_ELEMENTS).enumerate() {
        let words = blocks.words(s, (group * S::LANES) as u32);
        for (bits, x) in words.into_iter().zip(x.chunks_mut(2 * S::LANES)) {
            if x.len() == 2 * S::LANES {
                each(bits, x);
                continue;
            }
            let mut whole = [0.0; 2 * MAX_LANES];
            whole[..x.len()].copy_from_slice(x);
            each(bits, &mut whole[..2 * S::LANES]);
            x.copy_from_slice(&whole[..x.len()]);
        }
    }
}

/// The blocks of a mask at a site, as many side by side as there are lanes.
struct Blocks<S: Simd> {
    /// What is the same in all counters: site, pass and trial.
    counter: [S::I; 3],
    /// By round.
    keys: [[S::I; 2]; ROUNDS],
}

impl<S: Simd> Blocks<S> {
    #[inline(always)]
    fn of(s: S, mask: MaskKey, site: u32) -> Blocks<S> {
        let mut keys = [[s.splat_word(0); 2]; ROUNDS];
        let mut k = mask.key;
        for keys in &mut keys {
            *keys = [s.splat_word(k[0]), s.splat_word(k[1])];
            k = [k[0].wrapping_add(KEY_STEPS[0]), k[1].wrapping_add(KEY_STEPS[1])];
        }
        Blocks { counter: [s.splat_word(site), s.splat_word(mask.pass), s.splat_word(mask.trial)], keys }
    }

    /// The words of the blocks from `first` on, in the order of the elements.
    ///
    /// Each vector of the rounds has one word of all blocks, and transposing gives each block its four words within four
    /// lanes. With `g` such lanes in a vector, lane `4 i + j` has block `g j + i`, so that they come out in order.
    #[inline(always)]
    fn words(&self, s: S, first: u32) -> [S::I; 4] {
        let mut numbers = [0; MAX_LANES];
        for (lane, number) in numbers.iter_mut().enumerate() {
            *number = first + (S::LANES / 4 * (lane % 4) + lane / 4) as u32;
        }
        let [site, pass, trial] = self.counter;
        let mut c = [s.load_words(&numbers), site, pass, trial];
        let by = [s.splat_word(MULTIPLIERS[0]), s.splat_word(MULTIPLIERS[1])];
        for keys in &self.keys {
            let [first_high, first_low] = s.multiply_words(c[0], by[0]);
            let [second_high, second_low] = s.multiply_words(c[2], by[1]);
            c = [
                s.xor_words(s.xor_words(second_high, c[1]), keys[0]),
                second_low,
                s.xor_words(s.xor_words(first_high, c[3]), keys[1]),
                first_low,
            ];
        }
        s.transpose_words(c)
    }
}
