//! Weights, packed once.

use crate::dtype::Dtype;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd};
use crate::tile::{BF16_MAX, Numbers, PANEL, PIECES, PanelRow, TILE_STEP};
use half::bf16;

/// The weight of a linear layer, in the panels of 32 outputs that the product reads.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    dtype: Dtype,
    /// How the words are read by the tile unit, if it is what multiplies them.
    tiles: Option<Numbers>,
    out_features: usize,
    in_features: usize,
    /// For each 32 outputs, the words of `k` in order, padded with zeros to whole panels and words.
    panels: Vec<PanelRow>,
    /// Integers: what an output's integers are multiplied by to be its weights. `[out_features]`
    scales: Vec<f32>,
    /// Int8: the sum of an output's integers. `[out_features]`
    sums: Vec<f32>,
    /// Integers: the largest that may stand in a row, so that no sum overflows.
    row_max: f32,
}

/// Largest magnitude of an 8-bit weight.
const INT8_MAX: f32 = 127.0;

/// Unsigned rows, so that their whole range is used wherever it lies.
const INT8_ROW_MAX: f32 = 255.0;

/// Largest magnitude of a 16-bit number.
const INT16_MAX: f32 = 32_767.0;

/// What a sum of products must stay below; a little less than 2^31, because a few roundings come together.
const SUM_MAX: f64 = 2_147_000_000.0;

impl PackedWeight {
    /// Packs a weight `[out_features, in_features]`, row-major as PyTorch stores it, for the products of `isa`.
    ///
    /// The integers of an output are `weight / scale` rounded, with the largest magnitude of that output at the end
    /// of the range. 16-bit weights and rows share the 31 bits of their sums: the range is what lets no sum of the
    /// output with the most weight overflow, whatever the row.
    ///
    /// # Panics
    /// When `weight` is not `out_features * in_features` long, or either is zero.
    pub fn pack(isa: Isa, weight: &[f32], out_features: usize, in_features: usize, dtype: Dtype) -> Self {
        assert!(out_features > 0 && in_features > 0, "a weight of {out_features} x {in_features}");
        assert_eq!(weight.len(), out_features * in_features, "weight [{out_features}, {in_features}]");
        let outputs = || weight.chunks_exact(in_features);
        let mut packed = PackedWeight {
            dtype,
            tiles: tile_numbers(isa, dtype),
            out_features,
            in_features,
            panels: vec![],
            scales: vec![],
            sums: vec![],
            row_max: INT8_ROW_MAX,
        };
        match dtype {
            Dtype::F32 if packed.tiles.is_some() => packed.fill(isa, weight, |[a, b]| pieces(a, b)),
            Dtype::F32 => packed.fill(isa, weight, |[x]| [x.to_bits()]),
            Dtype::Bf16 => {
                packed.fill(isa, weight, |[a, b]| {
                    [pair([bf16::from_f32(a).to_bits(), bf16::from_f32(b).to_bits()])]
                });
            }
            Dtype::Int16 => {
                let share = outputs().map(weight_share).fold(1.0, f64::max);
                let max = (SUM_MAX / share).sqrt().min(f64::from(INT16_MAX)).floor() as f32;
                let integers = packed.quantize(isa, weight, max);
                let largest_sum = integers.chunks_exact(in_features).map(magnitude_sum).fold(1.0, f64::max);
                packed.row_max = (SUM_MAX / largest_sum).min(f64::from(INT16_MAX)).floor() as f32;
                packed.fill(isa, &integers, |[a, b]| [pair([a, b].map(|x| (x as i16).cast_unsigned()))]);
            }
            Dtype::Int8 => {
                let max = (SUM_MAX as f32 / INT8_ROW_MAX / in_features as f32).floor();
                let integers = packed.quantize(isa, weight, max.min(INT8_MAX));
                packed.fill(isa, &integers, |four: [f32; 4]| {
                    [u32::from_le_bytes(four.map(|x| (x as i8).cast_unsigned()))]
                });
            }
        }
        packed
    }

    /// The integers of all outputs, which fills `scales` and `sums`.
    fn quantize(&mut self, isa: Isa, weight: &[f32], max: f32) -> Vec<f32> {
        let mut integers = Vec::with_capacity(weight.len());
        for weights in weight.chunks_exact(self.in_features) {
            let largest = weights.iter().fold(0.0_f32, |largest, w| largest.max(w.abs()));
            // A NaN or an infinity among the weights makes the output NaN.
            let poison: f32 = weights.iter().map(|w| w * 0.0).sum();
            let scale = largest / max + poison;
            let inverse = if scale > 0.0 { 1.0 / f64::from(scale) } else { 0.0 };
            let start = integers.len();
            isa.run(Round { weights, inverse, integers: &mut integers });
            self.scales.push(scale);
            self.sums.push(integers[start..].iter().sum());
        }
        integers
    }

    /// Fills the panels with words of `EACH` neighbouring elements, `WORDS` for the same ones: as many rows of the first
    /// words as the tile unit takes in a step, then as many of the second.
    fn fill<const EACH: usize, const WORDS: usize>(
        &mut self,
        isa: Isa,
        weight: &[f32],
        words: impl Fn([f32; EACH]) -> [u32; WORDS],
    ) {
        let mut height = self.in_features.div_ceil(EACH);
        if self.tiles.is_some() {
            height = height.next_multiple_of(TILE_STEP);
        }
        height *= WORDS;
        self.panels.reserve_exact(self.out_features.div_ceil(PANEL) * height);
        let in_features = self.in_features;
        isa.run(Fill::<EACH, WORDS, _> { panels: &mut self.panels, height, weight, in_features, words });
    }

    /// What the products are computed with.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Width of a result row.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Width of an input row.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Memory held, padding included.
    pub fn bytes(&self) -> usize {
        size_of_val(self.panels.as_slice()) + size_of_val(&self.scales[..]) + size_of_val(&self.sums[..])
    }

    /// All panels, one after the other.
    pub(super) fn panels(&self) -> &[PanelRow] {
        &self.panels
    }

    /// Rows of one panel.
    pub(super) fn height(&self) -> usize {
        self.panels.len() / self.out_features.div_ceil(PANEL)
    }

    pub(super) fn tiles(&self) -> Option<Numbers> {
        self.tiles
    }

    pub(super) fn scales(&self) -> &[f32] {
        &self.scales
    }

    pub(super) fn sums(&self) -> &[f32] {
        &self.sums
    }

    pub(super) fn row_max(&self) -> f32 {
        self.row_max
    }
}

/// Appends the nearest integers of weights.
struct Round<'a> {
    weights: &'a [f32],
    inverse: f64,
    integers: &'a mut Vec<f32>,
}

impl Kernel for Round<'_> {
    type Output = ();

    /// Without instructions that round, each integer is a call of the C library.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Round { weights, inverse, integers } = self;
        integers.extend(weights.iter().map(
            #[inline(always)]
            |&w| (f64::from(w) * inverse).round_ties_even() as f32,
        ));
    }
}

struct Fill<'a, const EACH: usize, const WORDS: usize, F> {
    /// Empty.
    panels: &'a mut Vec<PanelRow>,
    height: usize,
    weight: &'a [f32],
    in_features: usize,
    words: F,
}

impl<const EACH: usize, const WORDS: usize, F: Fn([f32; EACH]) -> [u32; WORDS]> Kernel
    for Fill<'_, EACH, WORDS, F>
{
    type Output = ();

    /// Step by step, each in the first cache until all outputs of a panel stand in it: the memory of the panels, most
    /// of what loading a model takes, is written once.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Fill { panels, height, weight, in_features, words } = self;
        for outputs in weight.chunks(PANEL * in_features) {
            for (step, first) in (0..height).step_by(WORDS * TILE_STEP).enumerate() {
                let mut rows = [[PanelRow::ZERO; TILE_STEP]; WORDS];
                for (column, weights) in outputs.chunks_exact(in_features).enumerate() {
                    let block = block(weights, step * TILE_STEP);
                    let mut of = [[0; TILE_STEP]; WORDS];
                    for (at, &elements) in block.iter().enumerate() {
                        for (of, word) in of.iter_mut().zip(words(elements)) {
                            of[at] = word;
                        }
                    }
                    for (row, &word) in rows.as_flattened_mut().iter_mut().zip(of.as_flattened()) {
                        row.0[column] = word;
                    }
                }
                let rows = rows.as_flattened();
                panels.extend_from_slice(&rows[..rows.len().min(height - first)]);
            }
        }
    }
}

/// The elements of the words from `first` of an output's weights, with zeros behind the last.
#[inline(always)]
fn block<const EACH: usize>(weights: &[f32], first: usize) -> [[f32; EACH]; TILE_STEP] {
    let words = weights.as_chunks().0.get(first..).and_then(|words| words.first_chunk());
    words.copied().unwrap_or_else(|| {
        let elements = weights.get(first * EACH..).unwrap_or(&[]);
        let mut block = [[0.0; EACH]; TILE_STEP];
        block.as_flattened_mut()[..elements.len()].copy_from_slice(elements);
        block
    })
}

/// What the tile unit multiplies for a dtype, where `isa` has one: all but 16-bit integers, which it does not know.
pub(crate) fn tile_numbers(isa: Isa, dtype: Dtype) -> Option<Numbers> {
    match (isa, dtype) {
        (Isa::Amx(_), Dtype::F32) => Some(Numbers::Pieces),
        (Isa::Amx(_), Dtype::Bf16) => Some(Numbers::Bf16),
        (Isa::Amx(_), Dtype::Int8) => Some(Numbers::U8I8),
        _ => None,
    }
}

/// Two numbers as three pairs of bf16 whose sums they are, the largest first. The sums are exact from 2^-102 on; below,
/// the last pieces are smaller than what the tile unit takes for 0. What is no number becomes NaN.
#[inline(always)]
fn pieces(a: f32, b: f32) -> [u32; PIECES] {
    let rounded = |x: f32| {
        // The largest numbers would round to infinity.
        let bits = if x.is_finite() { x.clamp(-BF16_MAX, BF16_MAX) } else { f32::NAN }.to_bits();
        // To the nearest, ties to even.
        f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
    };
    let (mut words, mut left, mut right) = ([0; PIECES], a, b);
    for word in &mut words {
        let piece = [rounded(left), rounded(right)];
        (left, right) = (left - piece[0], right - piece[1]);
        *word = piece[0].to_bits() >> 16 | piece[1].to_bits();
    }
    words
}

/// Two 16-bit numbers of neighbouring `k` in a word.
#[inline(always)]
fn pair([even, odd]: [u16; 2]) -> u32 {
    u32::from(even) | u32::from(odd) << 16
}

/// The sum of magnitudes in units of the largest: how many products of full size a sum can have at most.
fn weight_share(weights: &[f32]) -> f64 {
    let largest = weights.iter().fold(0.0_f32, |largest, w| largest.max(w.abs()));
    if largest > 0.0 { magnitude_sum(weights) / f64::from(largest) } else { 0.0 }
}

fn magnitude_sum(weights: &[f32]) -> f64 {
    weights.iter().map(|w| f64::from(w.abs())).sum()
}
