use haul_kernels::act::Activation;
use haul_kernels::gemm::{Epilogue, PackedWeight, linear};
use haul_kernels::isa::Isa;
use haul_kernels::reference;
use proptest::prelude::*;

const PLAIN: Epilogue<'static> = Epilogue { bias: None, activation: Activation::Identity, residual: None };

/// Rounding error allowed, of the sum of magnitudes of a product's terms. A chain of n additions of random
/// signs errs by about sqrt(n) * 6e-8; this holds up to the 4096 terms tested.
const TOLERANCE: f64 = 1e-6;

struct Case {
    rows: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

fn case(rows: usize, n: usize, k: usize) -> Case {
    let seed = (rows * 1_000_003 + n * 1009 + k) as u64;
    Case {
        rows,
        n,
        k,
        x: super::random(rows * k, seed),
        weight: super::random(n * k, seed + 1),
        bias: super::random(n, seed + 2),
        residual: super::random(rows * n, seed + 3),
    }
}

fn check(isa: Isa, case: &Case, epilogue: Epilogue<'_>) {
    let Case { rows, n, k, x, weight, .. } = case;
    let packed = PackedWeight::pack(weight, *n, *k);
    let mut got = vec![f32::NAN; rows * n];
    linear(isa, x, *rows, &packed, epilogue, &mut got);
    let mut expected = vec![0.0; rows * n];
    reference::linear(x, *rows, weight, *n, *k, epilogue, &mut expected);
    let magnitudes = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    let mut terms = vec![0.0; rows * n];
    reference::linear(&magnitudes(x), *rows, &magnitudes(weight), *n, *k, PLAIN, &mut terms);
    let what = format!("{} {rows} x {k} -> {n} {:?}", isa.name(), epilogue.activation);
    super::assert_close(&what, &got, &expected, |i| TOLERANCE * (2.0 + f64::from(terms[i])));
}

#[test]
fn products_match_at_every_tail() {
    for isa in Isa::available() {
        for size in 1..=70 {
            check(isa, &case(size, 5, 9), PLAIN);
            check(isa, &case(3, size, 9), PLAIN);
            check(isa, &case(3, 5, size), PLAIN);
            check(isa, &case(size, size, size), PLAIN);
        }
    }
}

#[test]
fn products_match_across_blocks() {
    for isa in Isa::available() {
        for (rows, n, k) in
            [(97, 33, 385), (13, 384, 1536), (200, 1100, 20), (5, 600, 400), (1, 17, 1025), (2, 40, 4096)]
        {
            check(isa, &case(rows, n, k), PLAIN);
        }
    }
}

#[test]
fn epilogues_apply_in_their_order() {
    let activations = [Activation::Identity, Activation::GeluErf, Activation::Relu, Activation::Tanh];
    for isa in Isa::available() {
        for activation in activations {
            // 100, 513 and 385 cross a block of rows, of outputs and of k.
            let case = case(100, 513, 385);
            let (bias, residual) = (Some(case.bias.as_slice()), Some(case.residual.as_slice()));
            check(isa, &case, Epilogue { bias, activation, residual });
            check(isa, &case, Epilogue { bias, activation, residual: None });
            check(isa, &case, Epilogue { bias: None, activation, residual });
        }
    }
}

/// The weights and inputs of the layers that must be invariant, for one instruction set.
const LAYERS: [(usize, usize); 5] = [(384, 1536), (1536, 384), (384, 384), (1024, 4096), (33, 17)];

/// Rows in the largest call: more than one block of rows, and no multiple of any tile.
const ROWS_MAX: usize = 107;

/// Promise: batch composition never changes a row by a bit. A product whose blocking follows the number of
/// rows (as general matrix libraries choose it) breaks this.
#[test]
fn a_row_alone_is_the_row_in_a_batch_to_the_bit() {
    for isa in Isa::available() {
        for (k, n) in LAYERS {
            let Case { x, weight, bias, residual, .. } = case(ROWS_MAX, n, k);
            let packed = PackedWeight::pack(&weight, n, k);
            let run = |rows: std::ops::Range<usize>| {
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    activation: Activation::GeluErf,
                    residual: Some(&residual[rows.start * n..rows.end * n]),
                };
                let mut out = vec![f32::NAN; rows.len() * n];
                linear(isa, &x[rows.start * k..rows.end * k], rows.len(), &packed, epilogue, &mut out);
                out
            };
            let all = run(0..ROWS_MAX);
            // On the narrow sets a few rows are enough: their tiles are the same code with fewer rows.
            let step = if isa == Isa::best() { 1 } else { 7 };
            for row in (0..ROWS_MAX).step_by(step) {
                let alone = run(row..row + 1);
                let same = super::bits(&alone) == super::bits(&all[row * n..][..n]);
                assert!(same, "{} {k} -> {n}: row {row} of {ROWS_MAX} differs from itself alone", isa.name());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_window_of_rows_gives_the_same_bits(
        layer in 0..LAYERS.len() - 2,
        start in 0..ROWS_MAX,
        rows in 1..=ROWS_MAX,
    ) {
        let (k, n) = LAYERS[layer];
        let rows = rows.min(ROWS_MAX - start);
        let Case { x, weight, bias, .. } = case(ROWS_MAX, n, k);
        let packed = PackedWeight::pack(&weight, n, k);
        let epilogue = Epilogue { bias: Some(&bias), ..PLAIN };
        let (mut all, mut window) = (vec![0.0; ROWS_MAX * n], vec![0.0; rows * n]);
        linear(Isa::best(), &x, ROWS_MAX, &packed, epilogue, &mut all);
        linear(Isa::best(), &x[start * k..][..rows * k], rows, &packed, epilogue, &mut window);
        prop_assert_eq!(super::bits(&window), super::bits(&all[start * n..][..rows * n]));
    }
}

#[test]
fn nan_stays_in_its_row() {
    for isa in Isa::available() {
        let Case { rows, n, k, mut x, weight, .. } = case(20, 37, 400);
        let packed = PackedWeight::pack(&weight, n, k);
        let mut clean = vec![0.0; rows * n];
        linear(isa, &x, rows, &packed, PLAIN, &mut clean);
        x[3 * k + 399] = f32::NAN;
        let mut poisoned = vec![0.0; rows * n];
        linear(isa, &x, rows, &packed, PLAIN, &mut poisoned);
        for row in 0..rows {
            let (clean, poisoned) = (&clean[row * n..][..n], &poisoned[row * n..][..n]);
            if row == 3 {
                assert!(poisoned.iter().all(|v| v.is_nan()), "{}", isa.name());
            } else {
                assert_eq!(super::bits(clean), super::bits(poisoned), "{} row {row}", isa.name());
            }
        }
    }
}

#[test]
fn no_rows_are_no_work() {
    let packed = PackedWeight::pack(&[1.0, 2.0], 1, 2);
    assert_eq!((packed.out_features(), packed.in_features(), packed.bytes()), (1, 2, 2 * 32 * 4));
    linear(Isa::best(), &[], 0, &packed, PLAIN, &mut []);
}

#[test]
#[should_panic(expected = "x [2, 3]")]
fn a_wrong_length_is_refused_with_its_shape() {
    let packed = PackedWeight::pack(&[0.0; 12], 4, 3);
    linear(Isa::best(), &[0.0; 5], 2, &packed, PLAIN, &mut [0.0; 8]);
}
