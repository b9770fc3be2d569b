//! The kernels against their scalar twins, on every instruction set of the processor.

mod act;
mod attention;
mod cells;
mod dot;
mod dropout;
mod gate;
mod gemm;
mod norm;
mod perturb;
mod roof;
mod rotary;

use std::fs::File;
use std::io::Write;

use haul_kernels::isa::Isa;

/// `count` numbers in -1..1 from a seed; the same on every machine.
fn random(count: usize, seed: u64) -> Vec<f32> {
    // Knuth's MMIX generator; the high bits are good enough here.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// `count` normally distributed numbers (by Box and Muller) from a seed.
fn gaussian(count: usize, seed: u64) -> Vec<f32> {
    let uniform = random(2 * count, seed);
    let normal = |pair: &[f32]| {
        let radius = (-2.0 * (1.0 - pair[0].abs()).max(f32::MIN_POSITIVE).ln()).sqrt();
        radius * (std::f32::consts::PI * pair[1]).cos()
    };
    uniform.chunks_exact(2).map(normal).collect()
}

/// Panics at the first element that is off by more than `tolerance` of it.
fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - f64::from(expected)).abs();
        assert!(error <= tolerance(i), "{what}: element {i} is {got}, not {expected}: {error:e} off");
    }
}

/// The bits of a row, so that -0 and 0, or two NaN, are told apart.
fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|v| v.to_bits()).collect()
}

/// Tests take what sets there are. Which were not there is said with the skipped tests: a suite that is green on a
/// processor without the tile unit says nothing of the kernels for it.
#[test]
#[expect(clippy::disallowed_methods, reason = "the suite says where skipped tests are listed")]
fn instruction_sets_that_no_test_ran_with_are_said() {
    const ALL: [&str; 7] = ["generic", "avx2", "avx-vnni", "avx512", "avx512-vnni", "avx512-bf16", "amx"];
    let here: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    assert!(here.iter().all(|name| ALL.contains(name)), "{here:?}");
    let lines: String = ALL
        .iter()
        .filter(|name| !here.contains(name))
        .map(|name| format!("kernels: this processor has no {name}\n"))
        .collect();
    if let Some(path) = std::env::var_os("HAUL_TEST_SKIPS") {
        let mut file = File::options().append(true).create(true).open(path).unwrap();
        file.write_all(lines.as_bytes()).unwrap();
    }
}
