//! Masks by counters: the published numbers, the same mask in any piece, and a share of zeros that is as asked.

use haul_kernels::philox::{Dropout, PassKey, philox};

/// Of the authors' `kat_vectors`.
#[test]
fn blocks_are_the_published_ones() {
    assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    assert_eq!(
        philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn a_mask_is_the_same_in_any_pieces() {
    let mask = PassKey::new(42, 0x0123_4567_89ab_cdef, 3, 17).site(5, Dropout::new(0.3).unwrap());
    let mut whole = vec![9.0; 1_003];
    mask.fill(0, &mut whole);
    for piece in [1, 2, 3, 7, 64, 500] {
        let mut pieces = vec![9.0; whole.len()];
        for (no, piece_of) in pieces.chunks_mut(piece).enumerate() {
            mask.fill((no * piece) as u64, piece_of);
        }
        assert_eq!(pieces, whole, "{piece}");
    }
}

#[test]
fn every_part_of_the_key_changes_the_mask() {
    let drawn = |seed, image, trial, pass, site| {
        let mut mask = vec![0.0; 256];
        PassKey::new(seed, image, trial, pass).site(site, Dropout::new(0.5).unwrap()).fill(0, &mut mask);
        mask
    };
    let masks = [
        drawn(1, 1, 1, 1, 1),
        drawn(1 << 40, 1, 1, 1, 1),
        drawn(1, 1 << 40, 1, 1, 1),
        drawn(1, 1, 2, 1, 1),
        drawn(1, 1, 1, 2, 1),
        drawn(1, 1, 1, 1, 2),
        drawn(2, 1, 1, 1, 1),
        drawn(1, 2, 1, 1, 1),
    ];
    for (no, a) in masks.iter().enumerate() {
        for b in &masks[no + 1..] {
            let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
            assert!((80..176).contains(&same), "{same} of 256 elements are the same");
        }
    }
}

#[test]
fn the_share_of_zeros_is_as_asked() {
    for p in [0.0, 0.001, 0.01, 0.1, 0.5, 0.999] {
        let dropout = Dropout::new(p).unwrap();
        let (mut zeros, mut all) = (0_u32, 0_u32);
        for pass in 0..20 {
            let mut mask = vec![0.0; 50_000];
            PassKey::new(7, 7, 0, pass).site(0, dropout).fill(0, &mut mask);
            zeros += mask.iter().filter(|mask| **mask == 0.0).count() as u32;
            all += mask.len() as u32;
            assert!(mask.iter().all(|mask| *mask == 0.0 || *mask == dropout.scale()));
        }
        let n = f64::from(all);
        let z = (f64::from(zeros) - n * p) / (n * p * (1.0 - p)).sqrt().max(1e-9);
        assert!(z.abs() < 4.5, "p = {p}: {zeros} of {all}, z = {z}");
    }
    for p in [-0.1, 1.0, f64::NAN] {
        assert_eq!(Dropout::new(p), None);
    }
}
