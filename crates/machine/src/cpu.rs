//! The processor: its name, the cores this process may use, its instruction sets.

use std::time::Duration;

use crate::cpu_unix;
pub use haul_kernels::isa::Isa;

/// The processor as this process may use it.
#[derive(Clone, Debug)]
pub struct Cpu {
    /// As the processor calls itself.
    pub name: String,
    /// Usable at once: the smaller of affinity and cgroup quota, rounded down, at least 1.
    pub cores: usize,
    /// The instruction set the kernels run with.
    pub isa: Isa,
    /// Instruction sets found that matter to kernels, present or planned: `avx2`, `avx512_bf16`, ...
    pub features: Vec<String>,
}

/// Asks the processor and the operating system; cheap. The kernels run with `isa`: [`Isa::best`], or a narrower
/// one that somebody asked for.
pub fn probe(isa: Isa) -> Cpu {
    Cpu {
        name: cpu_unix::model_name().unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH)),
        // The standard library takes affinity and both versions of cgroup quotas into account. Where the
        // system says nothing, one core is the only number that is surely true.
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        isa,
        features: features(),
    }
}

/// Cores' worth of work that other programs do on the cores of this process, watched for `meanwhile`, in which the caller
/// does nothing. `None` where the system does not say.
pub fn busy_cores(meanwhile: Duration) -> Option<f64> {
    cpu_unix::busy_cores(meanwhile)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<String> {
    let found = [
        ("sse4_2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx_vnni", is_x86_feature_detected!("avxvnni")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512dq", is_x86_feature_detected!("avx512dq")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512_vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512_bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512_fp16", is_x86_feature_detected!("avx512fp16")),
        // The standard library does not ask for tiles yet; the kernels do.
        ("amx", Isa::available().iter().any(|isa| matches!(isa, Isa::Amx(_)))),
    ];
    found.into_iter().filter(|(_, present)| *present).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<String> {
    Vec::new()
}
