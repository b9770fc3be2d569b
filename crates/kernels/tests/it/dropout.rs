use haul_kernels::dropout::{MaskKey, Rate, dropout, philox};
use haul_kernels::isa::Isa;
use haul_kernels::reference;

const MASK: MaskKey = MaskKey { key: [7, 9], trial: 2, pass: 5 };

/// The known answers of Random123, which comes from the authors of the algorithm (kat_vectors, philox4x32 10).
#[test]
fn philox_gives_its_known_answers() {
    let known = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    for (counter, key, expected) in known {
        assert_eq!(philox(counter, key), expected);
    }
}

#[test]
fn dropout_matches_at_every_length() {
    for isa in Isa::available() {
        for n in (0..70).chain([127, 128, 129, 1000, 4096 + 3]) {
            for p in [0.0, 0.01, 0.5, 0.999] {
                let rate = Rate::new(p).unwrap();
                let (mut got, mut expected) = (super::random(n, n as u64), super::random(n, n as u64));
                dropout(isa, rate, MASK, 3, &mut got);
                reference::dropout(rate, MASK, 3, &mut expected);
                assert_eq!(got, expected, "{} {n} {p}", isa.name());
            }
        }
    }
}

#[test]
fn as_many_fall_out_as_are_asked_for() {
    let n = 1 << 20;
    for p in [0.001, 0.01, 0.1, 0.5] {
        let rate = Rate::new(p).unwrap();
        let mut x = vec![1.0; n];
        dropout(Isa::best(), rate, MASK, 0, &mut x);
        let dropped = x.iter().filter(|x| **x == 0.0).count() as f64;
        let (mean, spread) = (n as f64 * rate.p(), (n as f64 * rate.p() * (1.0 - rate.p())).sqrt());
        assert!((dropped - mean).abs() < 4.5 * spread, "{p}: {dropped} for {mean}");
        assert!((rate.p() - p).abs() <= 0.5 / 65_536.0);
    }
}

/// Each part of what names a mask makes another one, and neighbours share no more than chance gives.
#[test]
fn masks_differ_by_everything_that_names_them() {
    let mask = |mask, site| {
        let mut x = vec![1.0; 4096];
        dropout(Isa::best(), Rate::new(0.5).unwrap(), mask, site, &mut x);
        x
    };
    let base = mask(MASK, 3);
    let others = [
        mask(MaskKey { pass: 6, ..MASK }, 3),
        mask(MaskKey { trial: 3, ..MASK }, 3),
        mask(MaskKey { key: MaskKey::key_of(1, 2), ..MASK }, 3),
        mask(MaskKey { key: MaskKey::key_of(2, 1), ..MASK }, 3),
        mask(MASK, 4),
    ];
    for (number, other) in others.iter().enumerate() {
        let same = base.iter().zip(other).filter(|(a, b)| a == b).count();
        assert!((1850..2250).contains(&same), "{number}: {same} of 4,096 alike");
    }
}

#[test]
fn a_nan_stays_and_rates_have_bounds() {
    let mut x = [f32::NAN; 40];
    dropout(Isa::best(), Rate::new(0.5).unwrap(), MASK, 0, &mut x);
    assert!(x.iter().all(|x| x.is_nan()));
    for p in [-0.1, 1.0, 0.999_999, f64::NAN, f64::INFINITY] {
        assert!(Rate::new(p).is_none(), "{p}");
    }
}
