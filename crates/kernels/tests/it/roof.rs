use haul_kernels::act::Activation;
use haul_kernels::dtype::Dtype;
use haul_kernels::gemm::{Epilogue, PackedWeight, Scratch, linear};
use haul_kernels::isa::Isa;
use haul_kernels::roof::{gflops, read_gb_per_s};
use std::time::{Duration, Instant};

#[test]
fn roofs_are_positive_and_take_the_time_given() {
    const RUN_FOR: Duration = Duration::from_millis(20);
    let buffer = vec![1.0; 1 << 16];
    for isa in Isa::available() {
        let start = Instant::now();
        let (flops, bytes) = (gflops(isa, Dtype::F32, RUN_FOR), read_gb_per_s(isa, &buffer, RUN_FOR));
        assert!(start.elapsed() >= 2 * RUN_FOR, "{}", isa.name());
        assert!(flops > 0.1 && flops < 10_000.0, "{} {flops} GFLOP/s", isa.name());
        assert!(bytes > 0.1 && bytes < 10_000.0, "{} {bytes} GB/s", isa.name());
    }
}

#[test]
fn every_dtype_has_a_roof() {
    const RUN_FOR: Duration = Duration::from_millis(2);
    for (isa, dtype) in Isa::available().into_iter().flat_map(|isa| Dtype::ALL.map(|dtype| (isa, dtype))) {
        let start = Instant::now();
        let rate = gflops(isa, dtype, RUN_FOR);
        assert!(start.elapsed() >= RUN_FOR, "{} {dtype}", isa.name());
        assert!(rate > 0.1 && rate < 10_000.0, "{} {dtype}: {rate} GFLOP/s", isa.name());
    }
}

/// The best of many windows shorter than a time slice: other processes may hold the core in between.
fn best_roof(isa: Isa) -> f64 {
    (0..40).map(|_| gflops(isa, Dtype::F32, Duration::from_millis(2))).fold(0.0, f64::max)
}

/// The loop of the generic set was once compiled to scalar code: its "roof" was a sixth of what products reached.
#[test]
fn no_product_is_above_the_roof() {
    const TOLERANCE: f64 = 1.25;
    let (rows, k, n) = (48, 384, 96);
    let x = vec![0.5; rows * k];
    let (mut out, mut scratch) = (vec![0.0; rows * n], Scratch::new());
    let plain = Epilogue { bias: None, activation: Activation::Identity, residual: None };
    for isa in Isa::available() {
        let weight = PackedWeight::pack(isa, &vec![0.5; n * k], n, k, Dtype::F32);
        let mut best_seconds = f64::MAX;
        for _ in 0..40 {
            let start = Instant::now();
            linear(isa, &x, rows, &weight, plain, &mut scratch, &mut out);
            best_seconds = best_seconds.min(start.elapsed().as_secs_f64());
        }
        let (rate, roof) = ((2 * rows * k * n) as f64 / best_seconds / 1e9, best_roof(isa));
        assert!(rate <= roof * TOLERANCE, "{}: product {rate:.1}, roof {roof:.1} GFLOP/s", isa.name());
    }
}

#[test]
fn wider_instruction_sets_have_higher_roofs() {
    let rates: Vec<f64> = Isa::available().into_iter().map(best_roof).collect();
    // Processors that run AVX-512 in two halves are no faster with it, so equality within 10 % passes there.
    assert!(rates.is_sorted_by(|narrow, wide| *wide > narrow * 0.9), "{rates:?}");
    assert!(rates.len() == 1 || rates[1] > rates[0] * 1.5, "{rates:?}");
}
