use haul_kernels::isa::Isa;
use haul_kernels::reference;
use haul_kernels::rotary::{Angles, rotate};

#[test]
fn rotary_matches_at_every_head_size() {
    for isa in Isa::available() {
        for head_size in (2..=72).step_by(2).chain([96, 128]) {
            let angles = Angles::new(10_000.0, head_size, 40);
            let (heads, cu_seqlens) = (3, [0, 5, 5, 45, 46]);
            let mut got = super::random(46 * 3 * heads * head_size, head_size as u64);
            let mut expected = got.clone();
            rotate(isa, &mut got, &cu_seqlens, heads, &angles);
            reference::rotate(&mut expected, &cu_seqlens, heads, &angles);
            super::assert_close(&format!("{} {head_size}", isa.name()), &got, &expected, |_| 3e-7);
        }
    }
}

/// By hand: a head of 4 columns has pairs (0, 2) and (1, 3), which turn by p and by p / sqrt(theta).
#[test]
fn pairs_are_a_half_apart_and_values_stay() {
    let angles = Angles::new(100.0, 4, 3);
    for isa in Isa::available() {
        let row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0];
        let mut qkv = row.repeat(3);
        rotate(isa, &mut qkv, &[0, 3], 1, &angles);
        assert_eq!(qkv[..12], row, "position 0 turns nothing");
        let (fast, slow) = ((2f64.cos(), 2f64.sin()), (0.2f64.cos(), 0.2f64.sin()));
        let turned = |l: f64, r: f64, (cos, sin): (f64, f64)| [l * cos - r * sin, r * cos + l * sin];
        let ([q0, q2], [q1, q3]) = (turned(1.0, 3.0, fast), turned(2.0, 4.0, slow));
        let ([k0, k2], [k1, k3]) = (turned(5.0, 7.0, fast), turned(6.0, 8.0, slow));
        let expected = [q0, q1, q2, q3, k0, k1, k2, k3, 9.0, 10.0, 11.0, 12.0].map(|v| v as f32);
        super::assert_close(isa.name(), &qkv[24..], &expected, |_| 2e-6);
    }
}

/// Promise: positions begin anew in each sequence, so a row does not know the batch.
#[test]
fn a_sequence_alone_is_the_sequence_in_a_batch_to_the_bit() {
    let (angles, heads) = (Angles::new(160_000.0, 32, 20), 2);
    let width = 3 * heads * 32;
    let cu_seqlens = [0u32, 7, 8, 8, 28];
    let rows = super::random(28 * width, 4);
    for isa in Isa::available() {
        let mut together = rows.clone();
        rotate(isa, &mut together, &cu_seqlens, heads, &angles);
        for ends in cu_seqlens.windows(2) {
            let part = ends[0] as usize * width..ends[1] as usize * width;
            let mut alone = rows[part.clone()].to_vec();
            rotate(isa, &mut alone, &[0, ends[1] - ends[0]], heads, &angles);
            assert_eq!(super::bits(&alone), super::bits(&together[part]), "{}", isa.name());
        }
    }
}

#[test]
#[should_panic(expected = "angles of 2")]
fn a_sequence_without_angles_is_refused() {
    rotate(Isa::best(), &mut [0.0; 18], &[0, 3], 1, &Angles::new(10.0, 2, 2));
}
