use haul_kernels::dropout::{MaskKey, Rate, dropout};
use haul_kernels::isa::Isa;
use haul_kernels::perturb::{Magnitude, Perturbation, coin_falls, normals, perturb};
use haul_kernels::reference;

const MASK: MaskKey = MaskKey { key: [7, 9], trial: 2, pass: 5 };

fn noise(magnitude: Magnitude) -> [Perturbation; 2] {
    [Perturbation::Gaussian(magnitude), Perturbation::Scale(magnitude)]
}

/// By Python's `statistics.NormalDist().inv_cdf((bits + 0.5) / 65536)`.
#[test]
fn normal_numbers_are_the_quantiles() {
    let table = normals();
    assert_eq!(table.len(), 1 << 16);
    for (bits, expected) in [
        (0, -4.324_919),
        (1, -4.076_206_5),
        (655, -2.326_267_7),
        (32_768, 1.912_405_6e-5),
        (65_535, 4.324_919),
    ] {
        assert!((table[bits] / expected - 1.0).abs() < 1e-5, "{bits}: {}, not {expected}", table[bits]);
    }
    let squares = table.iter().map(|z| f64::from(*z).powi(2)).sum::<f64>() / table.len() as f64;
    assert!((squares - 1.0).abs() < 1e-4, "{squares}");
    assert!(table.iter().zip(table.iter().rev()).all(|(a, b)| *a == -b));
    assert!(table.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn noise_matches_at_every_length() {
    for isa in Isa::available() {
        for n in (0..70).chain([127, 128, 129, 1000, 4096 + 3]) {
            for perturbation in noise(Magnitude::new(0.05).unwrap()) {
                let (mut got, mut expected) = (super::random(n, n as u64), super::random(n, n as u64));
                perturb(isa, perturbation, MASK, 3, &mut got);
                reference::perturb(perturbation, MASK, 3, &mut expected);
                let near = got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0));
                assert!(near, "{} {n} {perturbation}: {got:?} {expected:?}", isa.name());
            }
        }
    }
}

/// Added noise is as wide as asked for, over the deviation of what it is added to or over each element itself.
#[test]
fn noise_is_as_strong_as_asked_for() {
    let n = 1 << 20;
    let x: Vec<f32> = super::random(n, 5).into_iter().map(|x| 3.0 + 2.0 * x).collect();
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let deviation = |x: &[f64]| {
        let m = mean(x);
        (x.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (x.len() - 1) as f64).sqrt()
    };
    let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    let over = [vec![deviation(&wide); n], wide.clone()];
    for (perturbation, over) in noise(Magnitude::new(0.05).unwrap()).into_iter().zip(over) {
        let mut y = x.clone();
        perturb(Isa::best(), perturbation, MASK, 0, &mut y);
        let added: Vec<f64> =
            y.iter().zip(&wide).zip(over).map(|((y, x), over)| (f64::from(*y) - x) / over).collect();
        let spread = deviation(&added);
        assert!((spread / 0.05 - 1.0).abs() < 0.02, "{perturbation}: {spread}");
        assert!(mean(&added).abs() < 5.0 * 0.05 / (n as f64).sqrt(), "{perturbation}");
    }
}

#[test]
fn what_does_not_vary_gets_no_gaussian_noise_and_a_nan_stays() {
    let [gaussian, scale] = noise(Magnitude::new(0.5).unwrap());
    let mut flat = [2.0; 40];
    perturb(Isa::best(), gaussian, MASK, 0, &mut flat);
    assert_eq!(flat, [2.0; 40]);
    for perturbation in [gaussian, scale] {
        let mut x = [1.0; 40];
        x[7] = f32::NAN;
        perturb(Isa::best(), perturbation, MASK, 0, &mut x);
        assert!(x[7].is_nan());
    }
    for magnitude in [-0.1, 101.0, f64::NAN, f64::INFINITY] {
        assert!(Magnitude::new(magnitude).is_none(), "{magnitude}");
    }
}

#[test]
fn a_coin_falls_as_the_first_element_would() {
    for p in [0.0, 0.3, 0.9] {
        let rate = Rate::new(p).unwrap();
        let mut fell = 0;
        for pass in 0..1000 {
            let mask = MaskKey { pass, ..MASK };
            let mut x = [1.0];
            dropout(Isa::best(), rate, mask, 9, &mut x);
            assert_eq!(coin_falls(rate, mask, 9), x[0] == 0.0);
            fell += u32::from(coin_falls(rate, mask, 9));
        }
        assert!((f64::from(fell) - 1000.0 * p).abs() < 60.0, "{p}: {fell}");
    }
}
