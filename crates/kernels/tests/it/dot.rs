use half::f16;
use haul_kernels::isa::Isa;
use haul_kernels::{dot, reference};

/// Of the sum of magnitudes; the longest chain of additions is a 64th of the length.
const TOLERANCE: f64 = 1e-6;

#[test]
fn dot_products_match_at_every_length() {
    for isa in Isa::available() {
        for len in (0..=200).chain([384, 1024, 4097]) {
            let (row, query) = (super::random(len, 1), super::random(len, len as u64));
            let half: Vec<f16> = row.iter().map(|&v| f16::from_f32(v)).collect();
            let byte: Vec<i8> = row.iter().map(|&v| (v * 128.0).floor() as i8).collect();
            let magnitude = len as f64 + f64::MIN_POSITIVE;
            let check = |what: &str, got: f32, expected: f64, magnitude: f64| {
                let error = (f64::from(got) - expected).abs();
                assert!(error <= TOLERANCE * magnitude, "{} {what} {len}: {got}, not {expected}", isa.name());
            };
            check("f32", dot::f32(isa, &row, &query), reference::dot_f32(&row, &query), magnitude);
            check("f16", dot::f16(isa, &half, &query), reference::dot_f16(&half, &query), magnitude);
            check("i8", dot::i8(isa, &byte, &query), reference::dot_i8(&byte, &query), 128.0 * magnitude);
        }
    }
}

#[test]
fn every_half_and_every_byte_widens_exactly() {
    for isa in Isa::available() {
        for start in (0..=u16::MAX).step_by(16) {
            let row: Vec<f16> = (0..16).map(|i| f16::from_bits(start + i)).collect();
            for (i, value) in row.iter().enumerate().filter(|(_, value)| value.is_finite()) {
                let mut query = [0.0; 16];
                query[i] = 1.0;
                let finite: Vec<f16> =
                    row.iter().map(|v| if v.is_finite() { *v } else { f16::ZERO }).collect();
                assert_eq!(dot::f16(isa, &finite, &query), value.to_f32(), "{}", isa.name());
            }
        }
        for value in i8::MIN..=i8::MAX {
            assert_eq!(dot::i8(isa, &[value; 16], &[1.0; 16]), 16.0 * f32::from(value), "{}", isa.name());
        }
    }
}

#[test]
#[should_panic(expected = "different lengths")]
fn different_lengths_are_refused() {
    dot::f32(Isa::best(), &[1.0], &[1.0, 2.0]);
}
