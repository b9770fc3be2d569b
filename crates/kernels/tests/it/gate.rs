use haul_kernels::act::Activation;
use haul_kernels::gate::gate;
use haul_kernels::isa::Isa;
use haul_kernels::reference;

#[test]
fn gate_matches_at_every_width() {
    for isa in Isa::available() {
        for f in [Activation::GeluErf, Activation::Silu, Activation::Identity] {
            for width in (1..=40).chain([1152]) {
                let x = super::random(3 * 2 * width, width as u64);
                let (mut got, mut expected) = (vec![f32::NAN; 3 * width], vec![0.0; 3 * width]);
                gate(isa, f, &x, width, &mut got);
                reference::gate(f, &x, width, &mut expected);
                super::assert_close(&format!("{} {f:?} {width}", isa.name()), &got, &expected, |_| 3e-7);
            }
        }
    }
}

#[test]
fn a_nan_stays_in_its_place() {
    for isa in Isa::available() {
        for at in [5, 37 + 5] {
            let mut x = super::random(2 * 2 * 37, 9);
            x[74 + at] = f32::NAN;
            let mut out = vec![0.0; 2 * 37];
            gate(isa, Activation::GeluErf, &x, 37, &mut out);
            for (i, value) in out.iter().enumerate() {
                assert_eq!(value.is_nan(), i == 37 + 5, "{} element {i}", isa.name());
            }
        }
    }
}

#[test]
#[should_panic(expected = "twice as wide")]
fn a_row_without_its_gate_is_refused() {
    gate(Isa::best(), Activation::Silu, &[0.0; 4], 4, &mut [0.0; 4]);
}
