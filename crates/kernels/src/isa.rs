//! Which instruction set the kernels run with, as a value that proves the processor has it.

use crate::simd::{Generic, Kernel};

/// An instruction set. A value other than `Generic` exists only after a successful probe of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every processor of the target has: four lanes, no fused multiply-add.
    Generic,
    /// AVX2, FMA and F16C: eight lanes.
    Avx2(Avx2),
    /// AVX-512 F, BW, DQ and VL on top of [`Avx2`]: sixteen lanes.
    Avx512(Avx512),
}

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(pub(crate) X86Probe);

/// Proof that the processor has AVX-512 F, BW, DQ, VL and all that [`Avx2`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(pub(crate) X86Probe);

/// Held by the proofs, so that only this module makes them.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct X86Probe(());

/// Elsewhere the proofs cannot exist.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) type X86Probe = std::convert::Infallible;

impl Isa {
    /// The widest instruction set of this processor.
    pub fn best() -> Isa {
        probe_avx512().map(Isa::Avx512).or_else(|| probe_avx2().map(Isa::Avx2)).unwrap_or(Isa::Generic)
    }

    /// Every instruction set of this processor that has kernels here, the narrowest first.
    pub fn available() -> Vec<Isa> {
        let mut sets = vec![Isa::Generic];
        sets.extend(probe_avx2().map(Isa::Avx2));
        sets.extend(probe_avx512().map(Isa::Avx512));
        sets
    }

    /// The instruction set of this name, or `None` if there is none such or the processor lacks it.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    /// `generic`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Generic => "generic",
            Isa::Avx2(_) => "avx2",
            Isa::Avx512(_) => "avx512",
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Generic => kernel.run(Generic),
            Isa::Avx2(proof) => proof.enter(kernel),
            Isa::Avx512(proof) => proof.enter(kernel),
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Generic => kernel.run(Generic),
            Isa::Avx2(Avx2(never)) | Isa::Avx512(Avx512(never)) => match never {},
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn probe_avx2() -> Option<Avx2> {
    let has_all = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    has_all.then_some(Avx2(X86Probe(())))
}

#[cfg(target_arch = "x86_64")]
fn probe_avx512() -> Option<Avx512> {
    let has_all = probe_avx2().is_some()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    has_all.then_some(Avx512(X86Probe(())))
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_avx2() -> Option<Avx2> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_avx512() -> Option<Avx512> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_exactly_the_available_sets() {
        for isa in Isa::available() {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::from_name("AVX512"), None);
        assert_eq!(Isa::from_name("amx"), None);
        assert_eq!(Isa::available().last(), Some(&Isa::best()));
    }
}
