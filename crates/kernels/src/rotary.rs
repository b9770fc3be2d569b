//! Rotary position embedding: each pair of columns of a query or key turns by an angle that grows with its position.

use crate::isa::Isa;
use crate::simd::{Kernel, Simd};

/// Cosine and sine of every position and pair of columns of one head.
#[derive(Clone, Debug)]
pub struct Angles {
    /// `[positions, head_size / 2]`
    cos: Vec<f32>,
    /// `[positions, head_size / 2]`
    sin: Vec<f32>,
    half: usize,
}

impl Angles {
    /// Position `p` turns pair `i` by `p * theta^(-2 i / head_size)`.
    ///
    /// The frequency and the angle are rounded to f32, as `transformers` rounds them: at position 8,000 that moves an
    /// angle by up to 5e-4, which is far more than the cosine's own error.
    ///
    /// # Panics
    /// When `head_size` is odd or zero.
    pub fn new(theta: f32, head_size: usize, positions: usize) -> Angles {
        assert!(head_size > 0 && head_size.is_multiple_of(2), "pairs of {head_size} columns");
        let half = head_size / 2;
        let power = |i: usize| f64::from(theta).powf(f64::from((2 * i) as f32 / head_size as f32)) as f32;
        let frequencies: Vec<f32> = (0..half).map(|i| 1.0 / power(i)).collect();
        let angles = || (0..positions).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        Angles {
            cos: angles().map(|angle| angle.cos() as f32).collect(),
            sin: angles().map(|angle| angle.sin() as f32).collect(),
            half,
        }
    }

    /// Columns of the heads that these angles turn.
    pub fn head_size(&self) -> usize {
        2 * self.half
    }

    /// The longest sequence.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Memory held.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.cos[..]) + size_of_val(&self.sin[..])
    }

    /// Cosines and sines `[head_size / 2]` of one position.
    #[inline(always)]
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let row = position * self.half..(position + 1) * self.half;
        (&self.cos[row.clone()], &self.sin[row])
    }
}

/// Turns all queries and keys in place; column `i` of a head's left half and column `i` of its right half are a pair.
///
/// - `qkv`: `[tokens, 3 * heads * head_size]`, the blocks q, k and v side by side; v stays
/// - `cu_seqlens`: where sequences start, and at last the number of tokens; positions begin at 0 in each
///
/// A row's result depends on that row and its position alone, bit for bit on one `Isa`.
///
/// # Panics
/// When `qkv` is not as long as its shape says, `cu_seqlens` does not rise from 0 to the number of tokens, or a
/// sequence has more tokens than `angles` has positions.
pub fn rotate(isa: Isa, qkv: &mut [f32], cu_seqlens: &[u32], heads: usize, angles: &Angles) {
    let tokens = cu_seqlens.last().map_or(0, |&last| last as usize);
    let row = 3 * heads * angles.head_size();
    assert_eq!(qkv.len(), tokens * row, "qkv [{tokens}, 3 x {heads} x {}]", angles.head_size());
    assert!(cu_seqlens.first() == Some(&0) && cu_seqlens.is_sorted(), "cu_seqlens rises from 0");
    let longest = cu_seqlens.windows(2).map(|ends| (ends[1] - ends[0]) as usize).max().unwrap_or(0);
    assert!(longest <= angles.positions(), "{longest} tokens, angles of {}", angles.positions());
    if row > 0 {
        isa.run(Rotate { qkv, cu_seqlens, heads, angles });
    }
}

struct Rotate<'a> {
    qkv: &'a mut [f32],
    cu_seqlens: &'a [u32],
    heads: usize,
    angles: &'a Angles,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let head_size = self.angles.head_size();
        let turned = 2 * self.heads * head_size;
        let mut rows = self.qkv.chunks_exact_mut(3 * self.heads * head_size);
        for ends in self.cu_seqlens.windows(2) {
            for (position, row) in (&mut rows).take((ends[1] - ends[0]) as usize).enumerate() {
                let (cos, sin) = self.angles.at(position);
                for head in row[..turned].chunks_exact_mut(head_size) {
                    turn(s, head, cos, sin);
                }
            }
        }
    }
}

/// `left, right = left * cos - right * sin, right * cos + left * sin`
#[inline(always)]
fn turn<S: Simd>(s: S, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (left, right) = head.split_at_mut(cos.len());
    let halves = left.chunks_mut(S::LANES).zip(right.chunks_mut(S::LANES));
    for ((left, right), (cos, sin)) in halves.zip(cos.chunks(S::LANES).zip(sin.chunks(S::LANES))) {
        let (l, r) = (s.load_up_to(left, 0.0), s.load_up_to(right, 0.0));
        let (cos, sin) = (s.load_up_to(cos, 0.0), s.load_up_to(sin, 0.0));
        s.store_up_to(s.fnma(r, sin, s.mul(l, cos)), left);
        s.store_up_to(s.fma(l, sin, s.mul(r, cos)), right);
    }
}
