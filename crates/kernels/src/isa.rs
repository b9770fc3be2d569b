//! Which instruction set the kernels run with, as a value that proves the processor has it.

use crate::simd::{DotKernel, Generic, Kernel};

/// An instruction set. A value other than `Generic` exists only after a successful probe of the processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every processor of the target has: four lanes, no fused multiply-add.
    Generic,
    /// AVX2, FMA and F16C: eight lanes.
    Avx2(Avx2),
    /// AVX-VNNI on top of [`Avx2`]: integer products summed in one instruction.
    AvxVnni(AvxVnni),
    /// AVX-512 F, BW, DQ and VL on top of [`Avx2`]: sixteen lanes.
    Avx512(Avx512),
    /// AVX-512 VNNI on top of [`Avx512`]: integer products summed in one instruction.
    Avx512Vnni(Avx512Vnni),
    /// AVX-512 BF16 on top of [`Avx512Vnni`]: bf16 products summed in one instruction.
    Avx512Bf16(Avx512Bf16),
    /// AMX with bf16 and 8-bit integers on top of [`Avx512Bf16`]: products of whole tiles.
    Amx(Amx),
}

/// Proof that the processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(X86Probe);

/// Proof that the processor has AVX-VNNI and all that [`Avx2`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvxVnni {
    pub(crate) base: Avx2,
}

/// Proof that the processor has AVX-512 F, BW, DQ, VL and all that [`Avx2`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(X86Probe);

/// Proof that the processor has AVX-512 VNNI and all that [`Avx512`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Vnni {
    pub(crate) base: Avx512,
}

/// Proof that the processor has AVX-512 BF16 and all that [`Avx512Vnni`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Bf16 {
    pub(crate) base: Avx512Vnni,
}

/// Proof that the processor has AMX with bf16 and 8-bit integers and all that [`Avx512Bf16`] needs, and that the
/// system lets this process use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amx {
    pub(crate) base: Avx512Bf16,
}

/// Held by the proofs, so that only this module makes them.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct X86Probe(());

/// Elsewhere the proofs cannot exist.
#[cfg(not(target_arch = "x86_64"))]
type X86Probe = std::convert::Infallible;

impl Isa {
    /// The fastest instruction set of this processor.
    ///
    /// The bf16 instruction counts only where it is faster than f32 multiply-adds: on processors of AMD. Those of
    /// Intel were measured at half the rate of f32 (Sapphire and Emerald Rapids do bf16 in their tile unit), so
    /// there bf16 is widened, and `avx512-bf16` runs only when it is asked for by name.
    pub fn best() -> Isa {
        let has_fast_bf16 = is_amd();
        let fast = |isa: &Isa| has_fast_bf16 || !matches!(isa, Isa::Avx512Bf16(_));
        Isa::available().into_iter().rfind(fast).unwrap_or(Isa::Generic)
    }

    /// Every instruction set of this processor that has kernels here, the narrowest first.
    pub fn available() -> Vec<Isa> {
        let mut sets = vec![Isa::Generic];
        sets.extend(probe_avx2().map(Isa::Avx2));
        sets.extend(probe_avx_vnni().map(Isa::AvxVnni));
        sets.extend(probe_avx512().map(Isa::Avx512));
        sets.extend(probe_avx512_vnni().map(Isa::Avx512Vnni));
        sets.extend(probe_avx512_bf16().map(Isa::Avx512Bf16));
        sets.extend(probe_amx().map(Isa::Amx));
        sets
    }

    /// The instruction set of this name, or `None` if there is none such or the processor lacks it.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|isa| isa.name() == name)
    }

    /// `generic`, `avx2`, `avx-vnni`, `avx512`, `avx512-vnni`, `avx512-bf16` or `amx`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Generic => "generic",
            Isa::Avx2(_) => "avx2",
            Isa::AvxVnni(_) => "avx-vnni",
            Isa::Avx512(_) => "avx512",
            Isa::Avx512Vnni(_) => "avx512-vnni",
            Isa::Avx512Bf16(_) => "avx512-bf16",
            Isa::Amx(_) => "amx",
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Generic => kernel.run(Generic),
            Isa::Avx2(proof) | Isa::AvxVnni(AvxVnni { base: proof }) => proof.enter(kernel),
            Isa::Avx512(proof)
            | Isa::Avx512Vnni(Avx512Vnni { base: proof })
            | Isa::Avx512Bf16(Avx512Bf16 { base: Avx512Vnni { base: proof } })
            | Isa::Amx(Amx { base: Avx512Bf16 { base: Avx512Vnni { base: proof } } }) => proof.enter(kernel),
        }
    }

    /// Runs a kernel compiled for this instruction set, with its products of small numbers.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn run_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Generic => kernel.run(Generic, Generic),
            Isa::Avx2(proof) => proof.enter_dots(kernel),
            Isa::AvxVnni(proof) => proof.enter_dots(kernel),
            Isa::Avx512(proof) => proof.enter_dots(kernel),
            Isa::Avx512Vnni(proof) => proof.enter_dots(kernel),
            Isa::Avx512Bf16(proof) | Isa::Amx(Amx { base: proof }) => proof.enter_dots(kernel),
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(Generic)
    }

    /// Runs a kernel compiled for this instruction set, with its products of small numbers.
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn run_dots<K: DotKernel>(self, kernel: K) -> K::Output {
        kernel.run(Generic, Generic)
    }
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    // Leaf 0 spells the vendor in EBX, EDX, ECX: "AuthenticAMD".
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

#[cfg(target_arch = "x86_64")]
fn probe_avx2() -> Option<Avx2> {
    let has_all = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    has_all.then_some(Avx2(X86Probe(())))
}

#[cfg(target_arch = "x86_64")]
fn probe_avx_vnni() -> Option<AvxVnni> {
    let base = probe_avx2()?;
    is_x86_feature_detected!("avxvnni").then_some(AvxVnni { base })
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

#[cfg(target_arch = "x86_64")]
fn probe_avx512_vnni() -> Option<Avx512Vnni> {
    let base = probe_avx512()?;
    is_x86_feature_detected!("avx512vnni").then_some(Avx512Vnni { base })
}

#[cfg(target_arch = "x86_64")]
fn probe_avx512_bf16() -> Option<Avx512Bf16> {
    let base = probe_avx512_vnni()?;
    is_x86_feature_detected!("avx512bf16").then_some(Avx512Bf16 { base })
}

#[cfg(target_arch = "x86_64")]
fn probe_amx() -> Option<Amx> {
    /// Of EDX in leaf 7: AMX-BF16, AMX-TILE, AMX-INT8.
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let base = probe_avx512_bf16()?;
    let has_all = std::arch::x86_64::__cpuid_count(7, 0).edx & FEATURES == FEATURES;
    #[cfg(unix)]
    let is_allowed = has_all && crate::amx_unix::is_allowed();
    #[cfg(not(unix))]
    let is_allowed = false;
    (has_all && is_allowed).then_some(Amx { base })
}

#[cfg(not(target_arch = "x86_64"))]
fn is_amd() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_avx2() -> Option<Avx2> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_avx_vnni() -> Option<AvxVnni> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_avx512() -> Option<Avx512> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_avx512_vnni() -> Option<Avx512Vnni> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_avx512_bf16() -> Option<Avx512Bf16> {
    None
}

#[cfg(not(target_arch = "x86_64"))]
fn probe_amx() -> Option<Amx> {
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
        assert_eq!(Isa::from_name("AMX"), None);
        assert!(Isa::available().contains(&Isa::best()));
    }

    /// The narrower sets are part of the wider ones, so a processor without the features of one lacks those after it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_name_of_a_set_that_the_processor_lacks_gives_none() {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let avx512_vnni = avx512 && is_x86_feature_detected!("avx512vnni");
        let avx512_bf16 = avx512_vnni && is_x86_feature_detected!("avx512bf16");
        let sets = [
            ("generic", true),
            ("avx2", avx2),
            ("avx-vnni", avx2 && is_x86_feature_detected!("avxvnni")),
            ("avx512", avx512),
            ("avx512-vnni", avx512_vnni),
            ("avx512-bf16", avx512_bf16),
            ("amx", avx512_bf16 && has_amx()),
            ("neon", false),
            ("avx512-fp16", false),
            ("", false),
        ];
        for (name, is_available) in sets {
            assert_eq!(Isa::from_name(name).is_some(), is_available, "{name}");
        }
    }

    /// By what the system itself lists, which an instruction that asks the processor did not make.
    #[cfg(target_arch = "x86_64")]
    fn has_amx() -> bool {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        ["amx_tile", "amx_bf16", "amx_int8"].iter().all(|flag| flags.contains(flag))
    }
}
