use haul_kernels::act::Activation;
use haul_kernels::dtype::Dtype;
use haul_kernels::gemm::{Epilogue, FeedForward, PackedWeight, Scratch, feed_forward, linear};
use haul_kernels::isa::Isa;
use haul_kernels::reference::{self, Operands};
use proptest::prelude::*;

const PLAIN: Epilogue<'static> = Epilogue { bias: None, activation: Activation::Identity, residual: None };

/// Rounding error allowed, of the sum of magnitudes of a product's terms. A chain of n additions of random
/// signs errs by about sqrt(n) * 6e-8; this holds up to the 4096 terms tested.
const TOLERANCE: f64 = 1e-6;

/// Sums of magnitudes below this may be lost: the bf16 instruction takes denormals for 0.
const SMALLEST: f64 = 1e-29;

/// The steepest activation (both forms of GELU).
const STEEPEST: f64 = 1.13;

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

fn magnitudes(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v.abs()).collect()
}

impl Case {
    fn pack(&self, isa: Isa, dtype: Dtype) -> PackedWeight {
        PackedWeight::pack(isa, &self.weight, self.n, self.k, dtype)
    }

    fn run(
        &self,
        isa: Isa,
        weight: &PackedWeight,
        epilogue: Epilogue<'_>,
        scratch: &mut Scratch,
    ) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.rows * self.n];
        linear(isa, &self.x, self.rows, weight, epilogue, scratch, &mut out);
        out
    }

    /// What the numbers of a dtype give, and how far the kernels may be from it: the rounding of the sum, and one
    /// step of one element of the row, because a tie may fall the other way in f32.
    fn expected(&self, dtype: Dtype, epilogue: Epilogue<'_>) -> (Vec<f32>, Vec<f64>) {
        let Case { rows, n, k, x, weight, .. } = self;
        let operands = Operands::rounded(dtype, x, weight, *k);
        let mut expected = vec![0.0; rows * n];
        operands.linear(epilogue, &mut expected);
        let magnitudes =
            Operands { x: magnitudes(&operands.x), weight: magnitudes(&operands.weight), ..operands };
        let mut terms = vec![0.0; rows * n];
        magnitudes.linear(PLAIN, &mut terms);
        let largest =
            |output: usize| magnitudes.weight[output * k..][..*k].iter().copied().fold(0.0, f64::max);
        let largest: Vec<f64> = (0..*n).map(largest).collect();
        let is_plain = epilogue.bias.is_none() && epilogue.residual.is_none();
        let added = if is_plain { SMALLEST } else { 2.0 };
        let tolerance = (0..rows * n).map(|i| {
            let step = magnitudes.row_steps[i / n] * largest[i % n];
            STEEPEST * (step + TOLERANCE * (added + f64::from(terms[i])))
        });
        (expected, tolerance.collect())
    }

    /// On every instruction set with every dtype.
    fn check(&self, epilogue: Epilogue<'_>, scratch: &mut Scratch) {
        for dtype in Dtype::ALL {
            self.check_dtype(dtype, epilogue, scratch);
        }
    }

    fn check_dtype(&self, dtype: Dtype, epilogue: Epilogue<'_>, scratch: &mut Scratch) {
        let Case { rows, n, k, .. } = self;
        let (expected, tolerance) = self.expected(dtype, epilogue);
        // Between layers of rounded numbers GELU is a shorter polynomial.
        let is_coarse = dtype != Dtype::F32 && epilogue.activation == Activation::GeluErf;
        let activation_error = if is_coarse { 1e-4 } else { 0.0 };
        for isa in Isa::available() {
            let got = self.run(isa, &self.pack(isa, dtype), epilogue, scratch);
            let what = format!("{} {dtype} {rows} x {k} -> {n} {:?}", isa.name(), epilogue.activation);
            super::assert_close(&what, &got, &expected, |i| tolerance[i] + activation_error);
        }
    }
}

#[test]
fn products_match_at_every_tail() {
    let scratch = &mut Scratch::new();
    for size in 1..=70 {
        case(size, 5, 9).check(PLAIN, scratch);
        case(3, size, 9).check(PLAIN, scratch);
        case(3, 5, size).check(PLAIN, scratch);
        case(size, size, size).check(PLAIN, scratch);
    }
}

/// Blocks of 384 words hold 384, 768 or 1536 elements.
#[test]
fn products_match_across_blocks_of_k() {
    let scratch = &mut Scratch::new();
    for elements in [384, 768, 1536, 3072, 4096] {
        for k in [elements - 1, elements, elements + 1] {
            case(3, 35, k).check(PLAIN, scratch);
        }
    }
}

#[test]
fn products_match_across_blocks_of_rows() {
    // At most 384 rows are a block, at least 48.
    for (rows, n, k) in [(390, 33, 20), (400, 7, 385), (70, 40, 1536), (50, 33, 4096), (13, 384, 1536)] {
        case(rows, n, k).check(PLAIN, &mut Scratch::new());
    }
}

#[test]
fn epilogues_apply_in_their_order() {
    let activations = [Activation::Identity, Activation::GeluErf, Activation::Relu, Activation::Tanh];
    let scratch = &mut Scratch::new();
    for activation in activations {
        // Several panels, the last of one output, and the last tile of one row.
        let case = case(13, 65, 101);
        let (bias, residual) = (Some(case.bias.as_slice()), Some(case.residual.as_slice()));
        case.check(Epilogue { bias, activation, residual }, scratch);
        case.check(Epilogue { bias, activation, residual: None }, scratch);
        case.check(Epilogue { bias: None, activation, residual }, scratch);
    }
    // The residual of the second block of rows.
    let case = case(100, 33, 1536);
    let (bias, residual) = (Some(case.bias.as_slice()), Some(case.residual.as_slice()));
    case.check(Epilogue { bias, activation: Activation::GeluErf, residual }, scratch);
}

/// Root mean square of the error over that of the exact result, for normally distributed rows and weights: what a
/// dtype costs.
#[test]
fn dtypes_keep_their_accuracy_on_gaussian_data() {
    let stated = |dtype| match dtype {
        Dtype::F32 => 3e-6,
        Dtype::Int16 => 1.0 / 512.0,
        Dtype::Bf16 => 1.0 / 256.0,
        Dtype::Int8 => 0.015,
    };
    let rms = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let scratch = &mut Scratch::new();
    for (k, n) in [(384, 96), (1536, 40), (4096, 33)] {
        let x = super::gaussian(7 * k, k as u64);
        let case = Case { x, weight: super::gaussian(n * k, 1), ..case(7, n, k) };
        let mut exact = vec![0.0; 7 * n];
        reference::linear(&case.x, 7, &case.weight, n, k, PLAIN, &mut exact);
        for isa in Isa::available() {
            let errors = Dtype::ALL.map(|dtype| {
                let got = case.run(isa, &case.pack(isa, dtype), PLAIN, scratch);
                let error = rms(&mut got.iter().zip(&exact).map(|(a, b)| f64::from(a - b)));
                let error = error / rms(&mut exact.iter().map(|&v| f64::from(v)));
                assert!(error <= stated(dtype), "{} {dtype} k = {k}: {error:.1e} off", isa.name());
                error
            });
            assert!(errors.is_sorted(), "{} k = {k}: ALL goes from exact to rough: {errors:?}", isa.name());
        }
    }
}

/// The sums of 31 bits hold the largest rows and weights of equal signs, at any width. Rows one element short of
/// constant, because a constant row has 8-bit integers of 0.
#[test]
fn integer_sums_never_overflow() {
    for k in [1, 2, 4096, 16_384, 66_400] {
        for (sign, low) in [(1.0, 0.0), (-1.0, 0.0), (1.0, -3.0), (-1.0, 3.0)] {
            let (rows, n) = (2, 3);
            let mut x = vec![3.0 * sign; rows * k];
            x[0] = low;
            let mut weight = vec![0.7; n * k];
            weight[k..2 * k].fill(-0.7);
            weight[2 * k..].iter_mut().step_by(2).for_each(|w| *w = 0.0);
            let case = case_of(rows, n, k, x, weight);
            case.check_dtype(Dtype::Int16, PLAIN, &mut Scratch::new());
            case.check_dtype(Dtype::Int8, PLAIN, &mut Scratch::new());
        }
    }
}

fn case_of(rows: usize, n: usize, k: usize, x: Vec<f32>, weight: Vec<f32>) -> Case {
    Case { rows, n, k, x, weight, bias: vec![], residual: vec![] }
}

/// Promise: the integers, and so their sums, are the same on all instruction sets; only what makes f32 of them may
/// round differently. Where that is two products (no bias, no origin of the row), nothing differs.
#[test]
fn integer_results_agree_across_instruction_sets() {
    let scratch = &mut Scratch::new();
    for (rows, n, k) in [(13, 65, 385), (5, 40, 4096), (50, 33, 71)] {
        let mixed = case(rows, n, k);
        let mut x: Vec<f32> = mixed.x.iter().map(|v| v.abs()).collect();
        x.chunks_exact_mut(k).for_each(|row| row[k / 2] = 0.0);
        let positive = Case { x, ..case(rows, n, k) };
        for (dtype, case, tolerance) in [
            (Dtype::Int16, &mixed, 0.0),
            (Dtype::Int16, &positive, 0.0),
            (Dtype::Int8, &positive, 0.0),
            (Dtype::Int8, &mixed, TOLERANCE * k as f64),
        ] {
            let generic = case.run(Isa::Generic, &case.pack(Isa::Generic, dtype), PLAIN, scratch);
            for isa in Isa::available() {
                let got = case.run(isa, &case.pack(isa, dtype), PLAIN, scratch);
                let what = format!("{} {dtype} {rows} x {k} -> {n} and generic", isa.name());
                super::assert_close(&what, &got, &generic, |_| tolerance);
            }
        }
    }
}

/// `(k, n, rows)` of layers that must be invariant: more than one block of rows, and no multiple of any tile.
const LAYERS: [(usize, usize, usize); 5] =
    [(384, 1536, 107), (1536, 384, 107), (769, 385, 53), (64, 40, 401), (33, 17, 107)];

/// Promise: batch composition never changes a row by a bit. A product whose blocking follows the number of
/// rows (as general matrix libraries choose it) breaks this.
#[test]
fn a_row_alone_is_the_row_in_a_batch_to_the_bit() {
    for ((k, n, rows), dtype) in LAYERS.into_iter().flat_map(|l| Dtype::ALL.map(|dtype| (l, dtype))) {
        let Case { x, weight, bias, residual, .. } = case(rows, n, k);
        for isa in Isa::available() {
            let packed = PackedWeight::pack(isa, &weight, n, k, dtype);
            let scratch = &mut Scratch::new();
            let mut run = |rows: std::ops::Range<usize>| {
                let epilogue = Epilogue {
                    bias: Some(&bias),
                    activation: Activation::GeluErf,
                    residual: Some(&residual[rows.start * n..rows.end * n]),
                };
                let mut out = vec![f32::NAN; rows.len() * n];
                linear(
                    isa,
                    &x[rows.start * k..rows.end * k],
                    rows.len(),
                    &packed,
                    epilogue,
                    scratch,
                    &mut out,
                );
                out
            };
            let all = run(0..rows);
            for row in (0..rows).step_by(7).chain([rows - 1]) {
                let alone = run(row..row + 1);
                let same = super::bits(&alone) == super::bits(&all[row * n..][..n]);
                assert!(
                    same,
                    "{} {dtype} {k} -> {n}: row {row} of {rows} differs from itself alone",
                    isa.name()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_window_of_rows_gives_the_same_bits(
        layer in 0..LAYERS.len(),
        dtype in 0..Dtype::ALL.len(),
        start in 0_usize..401,
        count in 1_usize..=401,
    ) {
        let (k, n, rows) = LAYERS[layer];
        let start = start % rows;
        let count = count.min(rows - start);
        let Case { x, weight, bias, .. } = case(rows, n, k);
        let packed = PackedWeight::pack(Isa::best(), &weight, n, k, Dtype::ALL[dtype]);
        let epilogue = Epilogue { bias: Some(&bias), ..PLAIN };
        let (mut all, mut window) = (vec![0.0; rows * n], vec![0.0; count * n]);
        linear(Isa::best(), &x, rows, &packed, epilogue, &mut Scratch::new(), &mut all);
        linear(
            Isa::best(), &x[start * k..][..count * k], count, &packed, epilogue, &mut Scratch::new(), &mut window,
        );
        prop_assert_eq!(super::bits(&window), super::bits(&all[start * n..][..count * n]));
    }
}

/// Rows of integers are NaN throughout, because a row has one scale; the others as far as the arithmetic goes. With
/// a scratch that the poisoned rows went through, a clean call is what it was: what stands in the padding of rows
/// of odd width meets weights of zero, and 0 * NaN is NaN.
#[test]
fn nan_and_infinity_stay_in_their_row() {
    for ((k, poison), dtype) in
        [(400, f32::NAN), (397, f32::NAN), (71, f32::INFINITY), (385, f32::NEG_INFINITY), (1537, f32::NAN)]
            .into_iter()
            .flat_map(|c| Dtype::ALL.map(|dtype| (c, dtype)))
    {
        let clean = case(20, 37, k);
        let poisoned: Vec<Case> = [0, k / 2, k - 1]
            .map(|place| {
                let mut case = case(20, 37, k);
                case.x[3 * k + place] = poison;
                case
            })
            .into();
        let is_lost: fn(&f32) -> bool = match dtype {
            Dtype::F32 | Dtype::Bf16 => |v| !v.is_finite(),
            Dtype::Int16 | Dtype::Int8 => |v| v.is_nan(),
        };
        for isa in Isa::available() {
            let (scratch, weight) = (&mut Scratch::new(), clean.pack(isa, dtype));
            let what = format!("{} {dtype} k = {k}, {poison}", isa.name());
            let expected = super::bits(&clean.run(isa, &weight, PLAIN, scratch));
            for poisoned in &poisoned {
                let got = poisoned.run(isa, &weight, PLAIN, scratch);
                let (row, rest) = (3 * 37..4 * 37, 4 * 37..20 * 37);
                assert!(got[row].iter().all(is_lost), "{what}: {:?}", &got[3 * 37..4 * 37]);
                assert_eq!(super::bits(&got[..3 * 37]), expected[..3 * 37], "{what}: rows before");
                assert_eq!(super::bits(&got[rest.clone()]), expected[rest], "{what}: rows after");
            }
            let again = super::bits(&clean.run(isa, &weight, PLAIN, scratch));
            assert_eq!(again, expected, "{what}: a clean call after it");
        }
    }
}

/// A NaN that stood in a longer row must not be read as the padding of a shorter one.
#[test]
fn what_a_call_leaves_in_the_scratch_is_not_read() {
    for dtype in Dtype::ALL {
        for isa in Isa::available() {
            let mut scratch = Scratch::new();
            let mut long = case(30, 3, 800);
            long.x.fill(f32::NAN);
            for k in (1..=20).chain([383, 385, 767]) {
                long.run(isa, &long.pack(isa, dtype), PLAIN, &mut scratch);
                let short = case(7, 35, k);
                let weight = short.pack(isa, dtype);
                let expected = short.run(isa, &weight, PLAIN, &mut Scratch::new());
                let got = short.run(isa, &weight, PLAIN, &mut scratch);
                assert_eq!(super::bits(&got), super::bits(&expected), "{} {dtype} k = {k}", isa.name());
            }
        }
    }
}

/// Rows whose scale is degenerate, and an output without weight.
#[test]
fn odd_rows_and_weights_come_out_right() {
    let k = 101;
    let row = |f: &dyn Fn(usize) -> f32| (0..k).map(f).collect::<Vec<f32>>();
    let noise = super::random(k, 5);
    let rows = [
        row(&|_| 0.0),
        row(&|_| -0.0),
        row(&|_| 2.5),
        row(&|_| -1e-3),
        row(&|i| f32::from_bits(i as u32 + 1)),
        row(&|i| noise[i] * 1e-38),
        row(&|i| if i == 7 { 1e30 } else { noise[i] }),
        row(&|i| if i == 7 { -1e4 } else { noise[i] }),
        row(&|i| noise[i] * 1e-25),
        row(&|i| noise[i] + 1000.0),
        row(&|i| noise[i] * 1e30),
    ];
    let mut weight = super::random(4 * k, 6);
    weight[k..2 * k].fill(0.0);
    weight[2 * k..3 * k].fill(-0.25);
    for x in &rows {
        case_of(1, 4, k, x.clone(), weight.clone()).check(PLAIN, &mut Scratch::new());
    }
    let all = case_of(rows.len(), 4, k, rows.concat(), weight);
    all.check(PLAIN, &mut Scratch::new());
    for (isa, dtype) in Isa::available().into_iter().flat_map(|isa| Dtype::ALL.map(|dtype| (isa, dtype))) {
        let got = all.run(isa, &all.pack(isa, dtype), PLAIN, &mut Scratch::new());
        let what = format!("{} {dtype}", isa.name());
        assert!(
            got.chunks_exact(4).all(|row| row[1] == 0.0),
            "{what}: an output of weights of zero: {got:?}"
        );
        assert_eq!(got[..8], [0.0; 8], "{what}: rows of zeros");
    }
}

/// f32 as three bf16 rounded the largest numbers to infinity, and the rest to infinity minus infinity.
#[test]
fn the_largest_numbers_stay_numbers() {
    let x = vec![f32::MAX, -f32::MAX, 3.396e38, -3.3895e38];
    for weight in [[0.25, 0.5, 0.25, 0.125], [0.5, 0.5, 0.0, 0.0]] {
        case_of(1, 1, 4, x.clone(), weight.to_vec()).check_dtype(Dtype::F32, PLAIN, &mut Scratch::new());
        case_of(1, 1, 4, weight.to_vec(), x.clone()).check_dtype(Dtype::F32, PLAIN, &mut Scratch::new());
    }
}

/// Small rows are rounded to a part of themselves, not to a part of 1.
#[test]
fn the_scale_of_a_row_follows_the_row() {
    for dtype in Dtype::ALL {
        for isa in Isa::available() {
            let unit = case(3, 20, 100);
            let weight = unit.pack(isa, dtype);
            let expected = unit.run(isa, &weight, PLAIN, &mut Scratch::new());
            for exponent in [-60, -20, 20, 60] {
                let factor = 2.0_f32.powi(exponent);
                let x = unit.x.iter().map(|v| v * factor).collect();
                let got = Case { x, ..case(3, 20, 100) }.run(isa, &weight, PLAIN, &mut Scratch::new());
                let got: Vec<f32> = got.iter().map(|v| v / factor).collect();
                let what = format!("{} {dtype} times 2^{exponent}", isa.name());
                assert_eq!(got, expected, "{what}");
            }
        }
    }
}

/// A NaN weight must not become a 0 in silence.
#[test]
fn a_nan_weight_makes_its_output_nan() {
    for (dtype, bad) in Dtype::ALL.into_iter().flat_map(|d| [f32::NAN, f32::INFINITY].map(|bad| (d, bad))) {
        let mut case = case(3, 5, 9);
        case.weight[2 * 9 + 4] = bad;
        for isa in Isa::available() {
            let got = case.run(isa, &case.pack(isa, dtype), PLAIN, &mut Scratch::new());
            for (i, v) in got.iter().enumerate() {
                assert_eq!(v.is_finite(), i % 5 != 2, "{} {dtype} {bad}: {got:?}", isa.name());
            }
        }
    }
}

#[test]
fn weights_take_the_room_of_their_dtype() {
    for isa in Isa::available() {
        // In the tile unit an f32 is three pieces of two bytes.
        let f32_bytes = if matches!(isa, Isa::Amx(_)) { 6 } else { 4 };
        for (dtype, bytes) in Dtype::ALL.into_iter().zip([f32_bytes, 2, 2, 1]) {
            let packed = PackedWeight::pack(isa, &vec![0.5; 64 * 256], 64, 256, dtype);
            assert_eq!((packed.dtype(), packed.out_features(), packed.in_features()), (dtype, 64, 256));
            let spare = packed.bytes() - 64 * 256 * bytes;
            assert!(spare <= 2 * 64 * 4, "{dtype}: {spare} bytes of scales");
        }
    }
}

#[test]
fn scratch_grows_to_a_block_of_rows_and_stays() {
    let mut scratch = Scratch::new();
    assert_eq!(scratch.bytes(), 0);
    let layer = case(2000, 1, 100);
    let weight = layer.pack(Isa::best(), Dtype::Int16);
    layer.run(Isa::best(), &weight, PLAIN, &mut scratch);
    let grown = scratch.bytes();
    assert!(grown > 0 && grown < 1 << 20, "{grown}");
    layer.run(Isa::best(), &weight, PLAIN, &mut scratch);
    assert_eq!(scratch.bytes(), grown);
}

#[test]
fn no_rows_are_no_work() {
    let packed = PackedWeight::pack(Isa::Generic, &[1.0, 2.0], 1, 2, Dtype::F32);
    assert_eq!((packed.out_features(), packed.in_features(), packed.bytes()), (1, 2, 2 * 32 * 4));
    for dtype in Dtype::ALL {
        let packed = PackedWeight::pack(Isa::best(), &[1.0, 2.0], 1, 2, dtype);
        linear(Isa::best(), &[], 0, &packed, PLAIN, &mut Scratch::new(), &mut []);
    }
}

#[test]
#[should_panic(expected = "x [2, 3]")]
fn a_wrong_length_is_refused_with_its_shape() {
    let packed = PackedWeight::pack(Isa::best(), &[0.0; 12], 4, 3, Dtype::F32);
    linear(Isa::best(), &[0.0; 5], 2, &packed, PLAIN, &mut Scratch::new(), &mut [0.0; 8]);
}

/// What stands between the layers is packed, or computed for some rows at a time: neither may show.
#[test]
fn two_layers_at_once_are_the_two_one_after_the_other() {
    let shapes = [(5, 9, 33, 7), (400, 32, 1600, 40), (1, 384, 1536, 384), (70, 40, 2100, 33)];
    for ((rows, k, hidden, n), dtype) in shapes.into_iter().flat_map(|s| Dtype::ALL.map(|dtype| (s, dtype))) {
        let (first, second) = (case(rows, hidden, k), case(rows, n, hidden));
        for isa in Isa::available() {
            let (up, down) = (first.pack(isa, dtype), second.pack(isa, dtype));
            let scratch = &mut Scratch::new();
            for activation in [Activation::GeluErf, Activation::Tanh] {
                let epilogue = Epilogue { bias: Some(&first.bias), activation, residual: None };
                let x = first.run(isa, &up, epilogue, scratch);
                let (bias, residual) = (Some(second.bias.as_slice()), Some(second.residual.as_slice()));
                let epilogue = Epilogue { bias, activation: Activation::Identity, residual };
                let expected = Case { x, ..case(rows, n, hidden) }.run(isa, &down, epilogue, scratch);
                let layers = FeedForward {
                    up: &up,
                    up_bias: Some(&first.bias),
                    activation,
                    down: &down,
                    down_bias: bias,
                    residual,
                };
                let mut got = vec![f32::NAN; rows * n];
                feed_forward(isa, &first.x, rows, layers, scratch, &mut got);
                let what = format!("{} {dtype} {rows} x {k} -> {hidden} -> {n}", isa.name());
                assert_eq!(super::bits(&got), super::bits(&expected), "{what}");
            }
        }
    }
}
