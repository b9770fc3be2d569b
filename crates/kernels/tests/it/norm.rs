use haul_kernels::isa::Isa;
use haul_kernels::norm::{l2_normalize, layer_norm};
use haul_kernels::reference;

#[test]
fn layer_norm_matches_at_every_width() {
    for isa in Isa::available() {
        for d in (1..=70).chain([384, 768, 1024, 1152]) {
            // A mean far from zero shows cancellation in the variance.
            let mut x: Vec<f32> = super::random(3 * d, d as u64).iter().map(|v| v + 20.0).collect();
            let (gamma, beta) = (super::random(d, 1), super::random(d, 2));
            let mut expected = x.clone();
            layer_norm(isa, &mut x, &gamma, &beta, 1e-5);
            reference::layer_norm(&mut expected, &gamma, &beta, 1e-5);
            // One ulp of 20 is 1.9e-6; the spread of the data is about 0.6.
            super::assert_close(&format!("{} {d}", isa.name()), &x, &expected, |_| 2e-5);
        }
    }
}

#[test]
fn layer_norm_of_a_constant_row_is_beta() {
    for isa in Isa::available() {
        for d in [1, 5, 16, 33, 384] {
            let mut x = vec![3.0; d];
            let (gamma, beta) = (super::random(d, 1), super::random(d, 2));
            layer_norm(isa, &mut x, &gamma, &beta, 1e-12);
            super::assert_close(isa.name(), &x, &beta, |_| 1e-6);
        }
    }
}

#[test]
fn l2_normalize_matches_at_every_width() {
    for isa in Isa::available() {
        for d in (1..=70).chain([384, 1024]) {
            let mut x = super::random(3 * d, d as u64);
            let mut expected = x.clone();
            l2_normalize(isa, &mut x, d);
            reference::l2_normalize(&mut expected, d);
            super::assert_close(&format!("{} {d}", isa.name()), &x, &expected, |_| 3e-7);
        }
    }
}

#[test]
fn tiny_and_zero_rows_are_divided_by_the_least_norm() {
    for isa in Isa::available() {
        let mut x = [0.0, 0.0, 0.0, 1e-14, 0.0, 0.0];
        l2_normalize(isa, &mut x, 3);
        super::assert_close(isa.name(), &x, &[0.0, 0.0, 0.0, 1e-2, 0.0, 0.0], |_| 1e-8);
    }
}

#[test]
fn rows_do_not_touch_each_other() {
    for isa in Isa::available() {
        let d = 37;
        let gamma = super::random(d, 1);
        let clean = super::random(4 * d, 3);
        let mut poisoned = clean.clone();
        poisoned[2 * d + 5] = f32::NAN;
        for normalize in
            [&(|x: &mut [f32]| layer_norm(isa, x, &gamma, &gamma, 1e-5)) as &dyn Fn(&mut [f32]), &|x| {
                l2_normalize(isa, x, d);
            }]
        {
            let (mut one, mut all, mut bad) = (clean[3 * d..].to_vec(), clean.clone(), poisoned.clone());
            normalize(&mut one);
            normalize(&mut all);
            normalize(&mut bad);
            assert_eq!(super::bits(&one), super::bits(&all[3 * d..]), "{}", isa.name());
            assert_eq!(super::bits(&one), super::bits(&bad[3 * d..]), "{}", isa.name());
            assert!(bad[2 * d..3 * d].iter().all(|v| v.is_nan()), "{}", isa.name());
        }
    }
}
