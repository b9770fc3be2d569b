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
            let magnitude = len as f64 + f64::MIN_POSITIVE;
            let check = |what: &str, got: f32, expected: f64, magnitude: f64| {
                let error = (f64::from(got) - expected).abs();
                assert!(error <= TOLERANCE * magnitude, "{} {what} {len}: {got}, not {expected}", isa.name());
            };
            check("f32", dot::f32(isa, &row, &query), reference::dot_f32(&row, &query), magnitude);
            check("f16", dot::f16(isa, &half, &query), reference::dot_f16(&half, &query), magnitude);
        }
    }
}

#[test]
fn every_half_widens_exactly() {
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
    }
}

/// Words of four bytes a row, and junk past its last number, which must not count.
fn words_of(rows: &[i8], len: usize) -> Vec<u32> {
    let word = |four: &[i8]| {
        let mut bytes = [77; 4];
        for (byte, number) in bytes.iter_mut().zip(four) {
            *byte = number.cast_unsigned().wrapping_add(dot::BYTE_CENTRE);
        }
        u32::from_le_bytes(bytes)
    };
    rows.chunks(len).flat_map(|row| row.chunks(4).map(word).collect::<Vec<_>>()).collect()
}

/// Products of bytes are exact: every instruction set gives the same, and that of the reference up to what the query
/// loses in 16 bits, which it tells.
#[test]
fn rows_of_bytes_match_at_every_length() {
    for len in (1..=140).chain([384, 1024, 4097, 16_384]) {
        for rows in [1, 3, 4, 9] {
            let numbers = super::random(len * rows, 5);
            let rows_of: Vec<i8> = numbers.iter().map(|v| (v * 127.0).round() as i8).collect();
            let query = super::random(len, len as u64);
            let bytes = dot::ByteQuery::new(&query);
            let words = words_of(&rows_of, len);
            let products = |isa| {
                let mut out = vec![f32::NAN; rows];
                dot::bytes(isa, &words, &bytes, &mut out);
                out
            };
            let exact = products(Isa::Generic);
            for isa in Isa::available() {
                assert_eq!(products(isa), exact, "{} {len}", isa.name());
            }
            for (row, product) in rows_of.chunks(len).zip(&exact) {
                let expected = reference::dot_i8(row, &query);
                let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
                let error = (f64::from(*product) * f64::from(bytes.scale()) - expected).abs();
                let bound = length * f64::from(bytes.residual()) + 1e-6 * (length + expected.abs());
                assert!(error <= bound, "{len}: off by {error}, at most {bound}");
            }
        }
    }
}

/// The largest sums there are: every byte and every number of the query at its end.
#[test]
fn sums_of_bytes_do_not_overflow() {
    const LEN: usize = 16_384;
    for isa in Isa::available() {
        for (byte, number) in [(127_i8, 1.0_f32), (-128, 1.0), (127, -1.0), (-128, -1.0), (0, 1.0)] {
            let query = dot::ByteQuery::new(&[number; LEN]);
            let mut out = [0.0];
            dot::bytes(isa, &words_of(&[byte; LEN], LEN), &query, &mut out);
            let expected = LEN as f32 * f32::from(byte) * number;
            let found = out[0] * query.scale();
            assert!((found - expected).abs() <= expected.abs() * 1e-6, "{}: {found}", isa.name());
        }
    }
}

#[test]
fn a_query_of_zeros_has_no_product() {
    let query = dot::ByteQuery::new(&[0.0; 5]);
    let mut out = [1.0];
    dot::bytes(Isa::best(), &words_of(&[3; 5], 5), &query, &mut out);
    assert_eq!((out, query.residual()), ([0.0], 0.0));
}

#[test]
#[should_panic(expected = "different lengths")]
fn different_lengths_are_refused() {
    dot::f32(Isa::best(), &[1.0], &[1.0, 2.0]);
}
