//! Where a model really is, from what can be observed: the engine's buffers, the memory that devices lost, and speed.
//!
//! A line of the engine's log is never believed alone: `offloaded 33/33 layers` is what was asked for. A model is on a
//! device when two witnesses say so. Utilisation is none of them.

use haul_frames::{Attention, Device, Hello, Load, Loaded, Probed};
use haul_machine::roof::Roofs;
use haul_machine::verdict::{DeviceRequest, Placement, Verdict, Witness, WitnessKind};

/// Of the model's bytes, what a device must hold at least: the embedding table of a small model stays in the
/// processor's memory, and can be a third of it.
const SHARE_MIN: f64 = 0.6;
/// Prefill this much faster than all that the processor can do is not the processor's.
const BEYOND_ROOF: f64 = 1.25;
const MIB: f64 = 1_048_576.0;

/// Tokens per second, from a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Of one long prompt.
    pub prefill: f64,
    /// Of all sequences that decode together.
    pub decode: f64,
}

impl Speed {
    /// Medians over the runs of a probe; 0 for what was not measured.
    #[must_use]
    pub fn of(probed: &Probed, prefill_tokens: u32, decoded_tokens: u32) -> Speed {
        let rate = |times: &[u64], tokens: u32| {
            let mut sorted = times.to_vec();
            sorted.sort_unstable();
            sorted.get(sorted.len() / 2).map_or(0.0, |ns| f64::from(tokens) / (*ns as f64 / 1e9))
        };
        Speed {
            prefill: rate(&probed.prefill_ns, prefill_tokens),
            decode: rate(&probed.decode_ns, decoded_tokens),
        }
    }
}

/// What is known of a loaded model.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// What `--device` said.
    pub requested: DeviceRequest,
    /// The engine.
    pub hello: &'a Hello,
    /// What it was asked to load.
    pub load: &'a Load,
    /// What it says that it loaded.
    pub loaded: &'a Loaded,
    /// How fast the model is, if that was measured.
    pub speed: Option<Speed>,
    /// What the processor can do, if that is known.
    pub roofs: Option<&'a Roofs>,
}

/// Where the model is, and what proves it.
#[must_use]
pub fn verdict(observed: &Observed<'_>) -> Verdict {
    let chosen = chosen(observed);
    let witnesses: Vec<Witness> = [
        Some(engine(observed, &chosen)),
        memory(observed, &chosen),
        observed.speed.and_then(|speed| roof(observed, &chosen, speed)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (used, name) = match chosen.first() {
        None => ("cpu".to_owned(), cpu_name(observed.hello)),
        Some(_) => (
            join(&chosen, |device| device.name.to_ascii_lowercase()),
            join(&chosen, |device| device.description.clone()),
        ),
    };
    Verdict {
        requested: observed.requested.to_string(),
        used,
        name,
        isa: cpu_variant(observed.hello),
        verdict: placement(observed, &chosen, &witnesses),
        witnesses,
        fallback_from: None,
    }
}

/// Whether the model is where it was asked to be; what is asked of nobody (`auto`) always is.
#[must_use]
pub fn is_as_asked(request: DeviceRequest, verdict: &Verdict) -> bool {
    match request {
        DeviceRequest::Auto => verdict.verdict != Placement::Unknown,
        DeviceRequest::Cpu => verdict.verdict == Placement::Cpu,
        _ => verdict.verdict == Placement::OnDevice,
    }
}

fn chosen<'a>(observed: &Observed<'a>) -> Vec<&'a Device> {
    let is_chosen = |device: &&Device| observed.load.devices.contains(&device.index);
    observed.hello.devices.iter().filter(is_chosen).collect()
}

fn join(devices: &[&Device], text: impl Fn(&Device) -> String) -> String {
    devices.iter().map(|device| text(device)).collect::<Vec<_>>().join(", ")
}

fn cpu_name(hello: &Hello) -> String {
    let cpu = hello.devices.iter().find(|device| device.kind == haul_frames::DeviceKind::Cpu);
    cpu.map_or_else(|| "the processor".to_owned(), |device| device.description.clone())
}

/// `haswell` of `libggml-cpu-haswell.so`: the variant that the engine took for this processor.
fn cpu_variant(hello: &Hello) -> String {
    let variant = hello.backends.iter().filter(|file| file.refused.is_none()).find_map(|file| {
        let stem = file.path.file_stem()?.to_str()?;
        Some(stem.split_once("ggml-cpu-")?.1.to_owned())
    });
    variant.unwrap_or_else(|| "generic".to_owned())
}

fn placement(observed: &Observed<'_>, chosen: &[&Device], witnesses: &[Witness]) -> Placement {
    let saying = |word: &str| witnesses.iter().filter(|witness| witness.says == word).count();
    if chosen.is_empty() {
        return if saying("unknown") == 0 { Placement::Cpu } else { Placement::Unknown };
    }
    let all_layers = observed.loaded.offloaded.is_none_or(|(done, all)| done >= all);
    match (saying("device"), saying("partial"), saying("cpu")) {
        (2.., 0, 0) if all_layers => Placement::OnDevice,
        (1.., _, 0) | (_, 1.., _) => {
            if all_layers && saying("partial") == 0 {
                Placement::Unknown
            } else {
                Placement::Partial
            }
        }
        (0, 0, 1..) => Placement::Cpu,
        _ => Placement::Unknown,
    }
}

/// The buffers that the engine allocated, which it names by device.
fn engine(observed: &Observed<'_>, chosen: &[&Device]) -> Witness {
    let loaded = observed.loaded;
    let is_on = |device: &str| chosen.iter().any(|chosen| device.starts_with(&chosen.name));
    let model = loaded.buffers.iter().filter(|buffer| buffer.what == "model");
    let on_device: f64 = model.clone().filter(|buffer| is_on(&buffer.device)).map(|buffer| buffer.mib).sum();
    let listed: Vec<String> = loaded
        .buffers
        .iter()
        .map(|buffer| format!("{} {} {:.1} MiB", buffer.device, buffer.what, buffer.mib))
        .collect();
    let claim = loaded
        .offloaded
        .map_or_else(String::new, |(done, all)| format!("; {done} of {all} layers asked onto it"));
    let attention = match &loaded.attention {
        Attention::Haul { isa } => format!("; attention by Haul ({isa})"),
        Attention::Engine { instead_because: None } => "; attention by the engine".to_owned(),
        Attention::Engine { instead_because: Some(why) } => format!("; attention by the engine: {why}"),
    };
    let says = match (chosen.is_empty(), on_device / (loaded.size_bytes as f64 / MIB).max(1e-9)) {
        (true, _) => "cpu",
        (false, share) if share >= SHARE_MIN => "device",
        (false, share) if share > 0.0 => "partial",
        (false, _) => "cpu",
    };
    Witness {
        kind: WitnessKind::Engine,
        says: says.to_owned(),
        detail: format!("{}: {}{claim}{attention}", observed.hello.engine, listed.join(", ")),
    }
}

/// Memory that devices lost while the model was loaded.
fn memory(observed: &Observed<'_>, chosen: &[&Device]) -> Option<Witness> {
    let loaded = observed.loaded;
    let size_mib = loaded.size_bytes as f64 / MIB;
    if chosen.is_empty() {
        let rss_mib = loaded.rss_bytes as f64 / MIB;
        return Some(Witness {
            kind: WitnessKind::Memory,
            says: "cpu".to_owned(),
            detail: format!("{rss_mib:.0} MiB resident with a model of {size_mib:.0} MiB"),
        });
    }
    let of_chosen: Vec<_> = loaded
        .memory
        .iter()
        .filter(|memory| chosen.iter().any(|device| device.name == memory.device))
        .collect();
    // A device that does not say how much is free says nothing here.
    if of_chosen.iter().all(|memory| memory.free_before_bytes == 0) {
        return None;
    }
    let lost = |before: u64, after: u64| (before as f64 - after as f64) / MIB;
    let model: f64 = of_chosen.iter().map(|m| lost(m.free_before_bytes, m.free_loaded_bytes)).sum();
    let context: f64 = of_chosen.iter().map(|m| lost(m.free_loaded_bytes, m.free_context_bytes)).sum();
    let says = if model >= SHARE_MIN * size_mib {
        "device"
    } else if model > 0.1 * size_mib {
        "partial"
    } else {
        "cpu"
    };
    Some(Witness {
        kind: WitnessKind::Memory,
        says: says.to_owned(),
        detail: format!(
            "{model:.0} MiB less free after the load of a model of {size_mib:.0} MiB, {context:.0} MiB more after its context"
        ),
    })
}

/// Speed against all that the processor can do: two operations for each parameter and token.
fn roof(observed: &Observed<'_>, chosen: &[&Device], speed: Speed) -> Option<Witness> {
    let roofs = observed.roofs?;
    let roof = roofs.gflops.values().copied().fold(0.0, f64::max);
    let gflops = 2.0 * observed.loaded.parameters as f64 * speed.prefill / 1e9;
    let is_beyond = gflops > BEYOND_ROOF * roof;
    let says = match (chosen.is_empty(), is_beyond) {
        (true, true) => "unknown",
        (true, false) => "cpu",
        (false, true) => "device",
        // The processor could do as much: that proves nothing either way.
        (false, false) => "unproven",
    };
    let read = observed.loaded.size_bytes as f64 * speed.decode / 1e9;
    Some(Witness {
        kind: WitnessKind::Roof,
        says: says.to_owned(),
        detail: format!(
            "prefill {:.0} tokens/s = {gflops:.1} GFLOP/s, {:.0} % of the processor's {roof:.0}; decode {:.1} tokens/s reads {read:.2} GB/s of weights",
            speed.prefill,
            100.0 * gflops / roof.max(1e-9),
            speed.decode
        ),
    })
}

#[cfg(test)]
mod tests {
    use haul_frames::{Buffer, DeviceKind, DeviceMemory};

    use super::*;

    const GIB: u64 = 1 << 30;

    fn hello() -> Hello {
        let device = |index, name: &str, kind| Device {
            index,
            name: name.to_owned(),
            description: format!("a {name}"),
            backend: name.trim_end_matches('0').to_owned(),
            kind,
            memory_total_bytes: 8 * GIB,
            memory_free_bytes: 8 * GIB,
        };
        Hello {
            protocol: haul_frames::PROTOCOL,
            engine: "engine".to_owned(),
            features: String::new(),
            backends: vec![],
            devices: vec![device(0, "CPU", DeviceKind::Cpu), device(1, "CUDA0", DeviceKind::Gpu)],
            can_offload: true,
        }
    }

    /// A model of 4 GiB whose buffers and memory are as given.
    fn seen(buffer_on: &str, gib_lost: u64, offloaded: (u32, u32), devices: &[usize]) -> Verdict {
        let load = Load { devices: devices.to_vec(), ..crate::local::tests::load() };
        let memory = DeviceMemory {
            device: "CUDA0".to_owned(),
            free_before_bytes: 8 * GIB,
            free_loaded_bytes: 8 * GIB - gib_lost * GIB,
            free_context_bytes: 8 * GIB - gib_lost * GIB,
        };
        let loaded = Loaded {
            size_bytes: 4 * GIB,
            parameters: 7_000_000_000,
            buffers: vec![Buffer { device: buffer_on.to_owned(), what: "model".to_owned(), mib: 4096.0 }],
            memory: vec![memory],
            offloaded: Some(offloaded),
            attention: Attention::Haul { isa: "avx2".to_owned() },
            ..crate::local::tests::loaded()
        };
        let (hello, requested) =
            (hello(), if devices.is_empty() { DeviceRequest::Cpu } else { DeviceRequest::Gpu });
        verdict(&Observed {
            requested,
            hello: &hello,
            load: &load,
            loaded: &loaded,
            speed: None,
            roofs: None,
        })
    }

    #[test]
    fn two_witnesses_make_a_device() {
        let on_device = seen("CUDA0", 4, (33, 33), &[1]);
        assert_eq!((on_device.verdict, on_device.used.as_str()), (Placement::OnDevice, "cuda0"));
        assert!(is_as_asked(DeviceRequest::Gpu, &on_device));
    }

    /// llama.cpp #12346: "using device CUDA0", all layers "offloaded", and everything on the processor.
    #[test]
    fn a_claim_of_the_log_without_memory_is_no_proof() {
        let claimed = seen("CPU", 0, (33, 33), &[1]);
        assert_eq!(claimed.verdict, Placement::Cpu);
        assert!(!is_as_asked(DeviceRequest::Gpu, &claimed));
        let contradicted = seen("CUDA0", 0, (33, 33), &[1]);
        assert_eq!(contradicted.verdict, Placement::Unknown);
        assert!(!is_as_asked(DeviceRequest::Auto, &contradicted));
    }

    #[test]
    fn some_layers_are_a_part() {
        let part = seen("CUDA0", 4, (20, 33), &[1]);
        assert_eq!(part.verdict, Placement::Partial);
        assert!(!is_as_asked(DeviceRequest::Gpu, &part));
    }

    #[test]
    fn the_processor_is_the_processor() {
        let cpu = seen("CPU_Mapped", 0, (0, 33), &[]);
        assert_eq!((cpu.verdict, cpu.used.as_str()), (Placement::Cpu, "cpu"));
        assert!(is_as_asked(DeviceRequest::Cpu, &cpu));
        let says = "CPU_Mapped model 4096.0 MiB; 0 of 33 layers asked onto it; attention by Haul (avx2)";
        assert!(cpu.witnesses[0].detail.ends_with(says), "{}", cpu.witnesses[0].detail);
    }
}
