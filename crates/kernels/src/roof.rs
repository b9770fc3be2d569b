//! Loops that run as fast as one core can: the roofs that rates are compared with.

#[cfg(target_arch = "x86_64")]
use crate::amx::{TileUnit, spin_operations};
use crate::dtype::Dtype;
#[cfg(target_arch = "x86_64")]
use crate::gemm::tile_numbers;
#[cfg(target_arch = "x86_64")]
use crate::isa::Amx;
use crate::isa::Isa;
use crate::simd::{DotKernel, Dots, Kernel, MAX_LANES, Simd};
#[cfg(target_arch = "x86_64")]
use crate::tile::Numbers;
use crate::tile::{Bf16, BlockRow, I16, K_BLOCK, Product, U8I8};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Independent multiply-add chains: more than latency times throughput of any processor, fewer than registers.
const CHAINS: usize = 12;

/// Multiply-adds of each chain between two looks at the clock: about 10 microseconds.
const STEPS: usize = 4096;

/// Products of tiles between two looks at the clock: about 10 microseconds.
#[cfg(target_arch = "x86_64")]
const TILE_STEPS: usize = 256;

/// The products of a mode in registers on this thread, in 10^9 operations per second (a multiply-add is two), over
/// at least `run_for`.
pub fn gflops(isa: Isa, dtype: Dtype, run_for: Duration) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if let (Isa::Amx(proof), Some(numbers)) = (isa, tile_numbers(isa, dtype)) {
        return tile_gflops(proof, numbers, run_for);
    }
    match dtype {
        Dtype::F32 => isa.run(FmaLoop { run_for }),
        Dtype::Bf16 | Dtype::Int16 | Dtype::Int8 => isa.run_dots(DotLoop { dtype, run_for }),
    }
}

/// Sums `buffer` on this thread, in whole passes until `run_for` is over and at least once, and returns the
/// bytes read per second in 10^9. A buffer several times the size of the last cache measures memory, a small one
/// a cache.
///
/// # Panics
/// When `buffer` is empty.
pub fn read_gb_per_s(isa: Isa, buffer: &[f32], run_for: Duration) -> f64 {
    assert!(!buffer.is_empty(), "a read loop over nothing");
    isa.run(ReadLoop { buffer, run_for })
}

/// The rate of whole tiles. A product of f32 is six of their pieces.
#[cfg(target_arch = "x86_64")]
fn tile_gflops(proof: Amx, numbers: Numbers, run_for: Duration) -> f64 {
    let unit = TileUnit::configure(proof);
    let products_of_one = if numbers == Numbers::Pieces { 6 } else { 1 };
    let mut products = 0_usize;
    let start = Instant::now();
    loop {
        unit.spin(numbers, TILE_STEPS);
        products += TILE_STEPS;
        let elapsed = start.elapsed();
        if elapsed >= run_for {
            let operations = products / products_of_one * spin_operations(numbers);
            return operations as f64 / elapsed.as_secs_f64() / 1e9;
        }
    }
}

struct FmaLoop {
    run_for: Duration,
}

impl Kernel for FmaLoop {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut chains = [s.splat(black_box(1.0)); CHAINS];
        let (factor, summand) = (s.splat(black_box(0.999_999)), s.splat(black_box(1e-6)));
        let mut steps = 0_u64;
        let start = Instant::now();
        loop {
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = s.fma(*chain, factor, summand);
                }
            }
            steps += STEPS as u64;
            let elapsed = start.elapsed();
            if elapsed >= self.run_for {
                for chain in chains {
                    let mut lanes = [0.0; MAX_LANES];
                    s.store(chain, &mut lanes);
                    black_box(lanes);
                }
                let operations = 2 * steps * (CHAINS * S::LANES) as u64;
                return operations as f64 / elapsed.as_secs_f64() / 1e9;
            }
        }
    }
}

struct DotLoop {
    dtype: Dtype,
    run_for: Duration,
}

impl DotKernel for DotLoop {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd, D: Dots<S>>(self, s: S, dots: D) -> f64 {
        match self.dtype {
            Dtype::Bf16 if D::HAS_BF16 => product_gflops(s, Bf16(dots), 2, self.run_for),
            // Pairs of bf16 are widened once for many rows, so only the multiply-adds count.
            Dtype::Bf16 | Dtype::F32 => FmaLoop { run_for: self.run_for }.run(s),
            Dtype::Int16 => product_gflops(s, I16(dots), 2, self.run_for),
            Dtype::Int8 => product_gflops(s, U8I8(dots), 4, self.run_for),
        }
    }
}

/// The rate of a product whose words hold `per_word` numbers.
#[inline(always)]
fn product_gflops<S: Simd, P: Product<S>>(s: S, product: P, per_word: usize, run_for: Duration) -> f64 {
    const PAIRS: usize = CHAINS / 2;
    let mut row = BlockRow::ZERO;
    row.fill(black_box(0x0001_0001));
    let columns = product.columns(s, &black_box([0x0001_0001_u32; MAX_LANES]));
    let mut chains = [[product.zero(s); 2]; PAIRS];
    let mut steps = 0_u64;
    let start = Instant::now();
    loop {
        for step in 0..STEPS {
            for chain in &mut chains {
                *chain = product.step(s, *chain, &row, step % K_BLOCK, [columns; 2]);
            }
        }
        steps += STEPS as u64;
        let elapsed = start.elapsed();
        if elapsed >= run_for {
            black_box(chains);
            let operations = 2 * steps * (2 * PAIRS * S::LANES * per_word) as u64;
            return operations as f64 / elapsed.as_secs_f64() / 1e9;
        }
    }
}

struct ReadLoop<'a> {
    buffer: &'a [f32],
    run_for: Duration,
}

impl Kernel for ReadLoop<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut passes = 0;
        let start = Instant::now();
        while passes == 0 || start.elapsed() < self.run_for {
            black_box(sum(s, self.buffer));
            passes += 1;
        }
        (passes * size_of_val(self.buffer)) as f64 / start.elapsed().as_secs_f64() / 1e9
    }
}

#[inline(always)]
fn sum<S: Simd>(s: S, block: &[f32]) -> f32 {
    const SUMS: usize = 8;
    let mut sums = [s.splat(0.0); SUMS];
    let mut groups = block.chunks_exact(SUMS * S::LANES);
    for group in &mut groups {
        for (sum, x) in sums.iter_mut().zip(group.chunks_exact(S::LANES)) {
            *sum = s.add(*sum, s.load(x));
        }
    }
    for x in groups.remainder().chunks(S::LANES) {
        sums[0] = s.add(sums[0], s.load_up_to(x, 0.0));
    }
    sums.into_iter().map(|sum| s.sum(sum)).sum()
}
