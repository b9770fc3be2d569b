use haul_kernels::act::{Activation, apply};
use haul_kernels::isa::Isa;
use haul_kernels::reference;

const ALL: [Activation; 7] = [
    Activation::Identity,
    Activation::GeluErf,
    Activation::GeluTanh,
    Activation::QuickGelu,
    Activation::Relu,
    Activation::Tanh,
    Activation::Silu,
];

/// Finite numbers of every magnitude and sign: every 10,007th bit pattern.
fn every_magnitude() -> Vec<f32> {
    (0..=u32::MAX).step_by(10_007).map(f32::from_bits).filter(|x| x.is_finite()).collect()
}

/// Where activations live: -12..12 in steps of 1/4096.
fn usual_range() -> Vec<f32> {
    (-12 * 4096..=12 * 4096).map(|n| n as f32 / 4096.0).collect()
}

#[test]
fn activations_keep_their_stated_accuracy() {
    let inputs = [every_magnitude(), usual_range()].concat();
    for f in ALL {
        let expected: Vec<f64> = inputs.iter().map(|&x| reference::activation(f, f64::from(x))).collect();
        for isa in Isa::available() {
            let mut got = inputs.clone();
            apply(isa, f, &mut got);
            for ((&x, &got), &expected) in inputs.iter().zip(&got).zip(&expected) {
                let error = (f64::from(got) - expected).abs();
                let of = format!("{} {f:?}({x:e}) = {got:e}, not {expected:e}", isa.name());
                assert!(error <= 2e-7 * expected.abs().max(1.0), "{of}");
                assert!(expected.abs() < 1e-6 || error <= 3e-6 * expected.abs(), "{of}");
            }
        }
    }
}

#[test]
fn tails_of_every_length_are_computed_and_nothing_beyond() {
    for isa in Isa::available() {
        for f in ALL {
            for len in 0..=70 {
                let mut x = super::random(len + 1, 7);
                let mut expected = x.clone();
                apply(isa, f, &mut x[..len]);
                reference::apply(f, &mut expected[..len]);
                super::assert_close(&format!("{} {f:?} {len}", isa.name()), &x, &expected, |_| 2e-7);
            }
        }
    }
}

#[test]
fn special_values_pass_through() {
    for isa in Isa::available() {
        for f in ALL {
            let mut x = [f32::NAN, f32::INFINITY, 0.0, f32::MIN_POSITIVE, 1e30, -1e30];
            apply(isa, f, &mut x);
            let limit = if f == Activation::Tanh { 1.0 } else { f32::INFINITY };
            assert!(x[0].is_nan(), "{} {f:?}(NaN) = {}", isa.name(), x[0]);
            assert_eq!(x[1], limit, "{} {f:?}(inf)", isa.name());
            assert_eq!(x[2], 0.0, "{} {f:?}(0)", isa.name());
            assert!(x[3..].iter().all(|v| v.is_finite()), "{} {f:?} {x:?}", isa.name());
        }
    }
}
