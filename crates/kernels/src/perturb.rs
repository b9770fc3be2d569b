//! What is done to the outputs of a layer in a pass: some fall out, or all get noise. The noise is computed as masks are
//! (see [`crate::dropout`]): a function of where an element stands, and so the same on every device.

use std::f64::consts::PI;
use std::fmt;
use std::sync::LazyLock;

use crate::dropout::{MaskKey, Rate, dropout, philox, with_bits};
use crate::isa::Isa;
use crate::simd::{Kernel, MAX_LANES, Simd};

/// Numbers that an element's 16 bits choose from.
const NORMALS: usize = 1 << 16;
/// More than enough for Newton's method: each number begins at its neighbour.
const NEWTON_STEPS: usize = 12;
/// Sums that are taken side by side.
const LANES: usize = 8;

/// What is done to each element `x` of a site; `z` is its standard normal number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Perturbation {
    /// It falls out, or is multiplied by what keeps the expectation.
    Dropout(Rate),
    /// `x + magnitude * s * z`; `s` is the standard deviation of all elements of one image at the site.
    Gaussian(Magnitude),
    /// `x * (1 + magnitude * z)`.
    Scale(Magnitude),
}

/// How strong noise is: the standard deviation of what it adds, over that of the elements or over an element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Magnitude(f32);

impl Magnitude {
    /// Noise beyond this leaves nothing of what it is added to.
    pub const MAX: f64 = 100.0;

    /// `None` where it is not in 0..=[`Magnitude::MAX`].
    #[must_use]
    pub fn new(magnitude: f64) -> Option<Magnitude> {
        (0.0..=Magnitude::MAX).contains(&magnitude).then_some(Magnitude(magnitude as f32))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f32 {
        self.0
    }
}

impl Perturbation {
    /// Under which nothing changes.
    pub const NOTHING: Perturbation = Perturbation::Dropout(Rate::ZERO);

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Perturbation::Dropout(_) => "dropout",
            Perturbation::Gaussian(_) => "gaussian",
            Perturbation::Scale(_) => "scale",
        }
    }

    /// The share that falls out, where elements do.
    #[must_use]
    pub fn rate(self) -> Option<Rate> {
        match self {
            Perturbation::Dropout(rate) => Some(rate),
            Perturbation::Gaussian(_) | Perturbation::Scale(_) => None,
        }
    }
}

impl fmt::Display for Perturbation {
    /// `0.25`, `gaussian 0.05`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Perturbation::Dropout(rate) => rate.p().fmt(formatter),
            Perturbation::Gaussian(magnitude) | Perturbation::Scale(magnitude) => {
                write!(formatter, "{} {}", self.name(), magnitude.get())
            }
        }
    }
}

/// The standard normal number of each value of 16 bits: the quantile of the middle of its step, so of mean 0, variance 1 and
/// within 4.4.
#[must_use]
pub fn normals() -> &'static [f32] {
    static TABLE: LazyLock<Vec<f32>> = LazyLock::new(|| {
        let (mut upper, mut z) = (Vec::with_capacity(NORMALS / 2), 0.0);
        for step in 0..NORMALS / 2 {
            let wanted = (step as f64 + 0.5) / NORMALS as f64;
            for _ in 0..NEWTON_STEPS {
                let (area, density) = area_and_density(z);
                z -= (area - wanted) / density;
            }
            upper.push(z as f32);
        }
        upper.iter().rev().map(|z| -z).chain(upper.iter().copied()).collect()
    });
    &TABLE
}

/// Under the standard normal curve from 0 to `z`, and its height there; `z` is not below 0.
fn area_and_density(z: f64) -> (f64, f64) {
    let density = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
    // z + z^3/3 + z^5/(3 * 5) + ...: no term takes from another.
    let (mut term, mut sum, mut factor) = (z, z, 1.0);
    while term > sum * f64::EPSILON / 8.0 {
        factor += 2.0;
        term *= z * z / factor;
        sum += term;
    }
    (density * sum, density)
}

/// Whether the one coin of a site falls, as an element at its first place would fall out.
#[must_use]
pub fn coin_falls(rate: Rate, mask: MaskKey, site: u32) -> bool {
    let [word, ..] = philox([0, site, mask.pass, mask.trial], mask.key);
    f64::from(word & 0xFFFF) < rate.p() * 65_536.0
}

/// Perturbs all rows of one image at a site. Bits stand where those of [`dropout`] do.
///
/// # Panics
/// When `x` has more than 2^35 elements.
pub fn perturb(isa: Isa, perturbation: Perturbation, mask: MaskKey, site: u32, x: &mut [f32]) {
    let (add, times) = match perturbation {
        Perturbation::Dropout(rate) => return dropout(isa, rate, mask, site, x),
        Perturbation::Gaussian(magnitude) => (magnitude.get() * isa.run(Deviation(x)), 0.0),
        Perturbation::Scale(magnitude) => (0.0, magnitude.get()),
    };
    isa.run(Noise { add, times, mask, site, x });
}

/// `x += (add + times * x) * z`.
struct Noise<'a> {
    add: f32,
    times: f32,
    mask: MaskKey,
    site: u32,
    x: &'a mut [f32],
}

impl Kernel for Noise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Noise { add, times, mask, site, x } = self;
        let normals = normals();
        with_bits(
            s,
            mask,
            site,
            x,
            #[inline(always)]
            |bits, x| {
                let mut words = [0; MAX_LANES];
                s.store_words(bits, &mut words);
                for (i, x) in x.iter_mut().enumerate() {
                    let bits = (words[i / 2] >> (16 * (i % 2))) as u16;
                    *x += (add + times * *x) * normals[usize::from(bits)];
                }
            },
        );
    }
}

/// The standard deviation, of one less than there are; 0 of fewer than two.
struct Deviation<'a>(&'a [f32]);

impl Kernel for Deviation<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f32 {
        let Deviation(x) = self;
        if x.len() < 2 {
            return 0.0;
        }
        let mean = sum(x, |x| x) / x.len() as f64;
        (sum(x, |x| (x - mean) * (x - mean)) / (x.len() - 1) as f64).sqrt() as f32
    }
}

#[inline(always)]
fn sum(x: &[f32], of: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let whole = x.chunks_exact(LANES);
    let rest: f64 = whole.remainder().iter().map(|&x| of(f64::from(x))).sum();
    for x in whole {
        lanes.iter_mut().zip(x).for_each(|(sum, &x)| *sum += of(f64::from(x)));
    }
    lanes.iter().sum::<f64>() + rest
}
