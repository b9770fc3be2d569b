//! The device a run asked for, the device it used, and what proves it.

use crate::cpu::Cpu;
use crate::roof::Roofs;
use haul_kernels::dtype::Dtype;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Columns of a verdict line at most.
const LINE_COLUMNS: usize = 79;

/// A measured rate may exceed the measured roof by this factor before it counts as impossible: the roof is
/// known to about 10 %.
const ROOF_TOLERANCE: f64 = 1.25;

/// The `device` part of a receipt.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Verdict {
    /// As asked for: `auto`, `cpu`, `cuda:0`, ...
    pub requested: String,
    /// The device that was used: `cpu`.
    pub used: String,
    /// As the device calls itself.
    pub name: String,
    /// Instruction set of the kernels.
    pub isa: String,
    /// Where the work ran.
    pub verdict: Placement,
    /// What proves it.
    pub witnesses: Vec<Witness>,
    /// The device that should have been used, had it worked. Always `None` here: nothing falls back.
    pub fallback_from: Option<String>,
}

/// Where work ran. `Unknown` is not a pass.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// All of it on an accelerator.
    OnDevice,
    /// Some of it on an accelerator.
    Partial,
    /// All of it on the processor.
    Cpu,
    /// The witnesses contradict each other or are missing.
    Unknown,
}

/// One independent observation of where work ran.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// What was observed.
    pub kind: WitnessKind,
    /// The device it points to: `cpu`, or `unknown`.
    pub says: String,
    /// The observation, with numbers.
    pub detail: String,
}

/// What a witness observed.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum WitnessKind {
    /// The compute engine's own statement.
    Engine,
    /// Memory taken on the device.
    Memory,
    /// Energy used by the device.
    Energy,
    /// The rate reached against the measured roof.
    Roof,
}

/// `--device`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceRequest {
    /// The best there is, named in one line.
    Auto,
    /// The processor.
    Cpu,
    /// Any accelerator.
    Gpu,
    /// An NVIDIA GPU, by index if one is given.
    Cuda(Option<u32>),
    /// A Vulkan device, by index if one is given.
    Vulkan(Option<u32>),
    /// The GPU of an Apple machine.
    Metal,
}

/// Decides the device before any work starts. `Auto` and `Cpu` give the processor; this build drives nothing
/// else, and an explicit request is never answered with another device.
pub fn resolve(request: DeviceRequest, cpu: &Cpu) -> Result<Verdict, DeviceError> {
    if !matches!(request, DeviceRequest::Auto | DeviceRequest::Cpu) {
        return Err(DeviceError { request });
    }
    let features = cpu.features.join(" ");
    let engine = Witness {
        kind: WitnessKind::Engine,
        says: "cpu".to_owned(),
        detail: format!("{} kernels on {} cores; processor has {features}", cpu.isa.name(), cpu.cores),
    };
    Ok(Verdict {
        requested: request.to_string(),
        used: "cpu".to_owned(),
        name: cpu.name.clone(),
        isa: cpu.isa.name().to_owned(),
        verdict: Placement::Cpu,
        witnesses: vec![engine],
        fallback_from: None,
    })
}

/// A device was asked for by name and cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--device {request}: this build has no such device; it drives: cpu")]
pub struct DeviceError {
    /// What was asked for.
    pub request: DeviceRequest,
}

impl DeviceError {
    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        "use --device cpu, or --device auto for the best device of this build"
    }
}

impl Verdict {
    /// One line of at most 79 columns that says what will do the work and why.
    pub fn line(&self) -> String {
        let head = format!("device: {} ", self.used);
        let tail = format!(", {} (asked for: {})", self.isa, self.requested);
        let room = LINE_COLUMNS.saturating_sub(head.chars().count() + tail.chars().count());
        format!("{head}{}{tail}", shorten(&self.name, room))
    }

    /// Adds the roof witness: the rate a run in `dtype` reached on all cores, against the roof of those cores.
    /// A rate above the roof cannot be this processor's work, so it makes the verdict `Unknown`.
    pub fn with_measured_rate(mut self, gflops: f64, dtype: Dtype, roofs: &Roofs) -> Verdict {
        let roof_gflops = roofs.of(dtype);
        let possible = gflops > 0.0 && gflops <= roof_gflops * ROOF_TOLERANCE;
        if !possible {
            self.verdict = Placement::Unknown;
        }
        self.witnesses.push(Witness {
            kind: WitnessKind::Roof,
            says: if possible { "cpu" } else { "unknown" }.to_owned(),
            detail: format!(
                "{gflops:.1} GFLOP/s is {:.1} % of {roof_gflops:.1} GFLOP/s, the measured {dtype} roof of {} cores",
                100.0 * gflops / roof_gflops,
                roofs.cores
            ),
        });
        self
    }
}

/// At most `columns` characters, the cut marked with `...`.
fn shorten(text: &str, columns: usize) -> String {
    const MARK: &str = "...";
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(MARK.len())).chain(MARK.chars()).collect()
}

impl fmt::Display for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceRequest::Auto => f.write_str("auto"),
            DeviceRequest::Cpu => f.write_str("cpu"),
            DeviceRequest::Gpu => f.write_str("gpu"),
            DeviceRequest::Cuda(None) => f.write_str("cuda"),
            DeviceRequest::Cuda(Some(index)) => write!(f, "cuda:{index}"),
            DeviceRequest::Vulkan(None) => f.write_str("vulkan"),
            DeviceRequest::Vulkan(Some(index)) => write!(f, "vulkan:{index}"),
            DeviceRequest::Metal => f.write_str("metal"),
        }
    }
}

/// A device name that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no device; known are auto, cpu, gpu, cuda[:N], vulkan[:N], metal")]
pub struct ParseDeviceError {
    text: String,
}

impl FromStr for DeviceRequest {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, ParseDeviceError> {
        let (name, index) = match text.split_once(':') {
            None => (text, None),
            Some((name, digits)) => match digits.parse::<u32>() {
                Ok(index) if digits.bytes().all(|b| b.is_ascii_digit()) => (name, Some(index)),
                _ => return Err(ParseDeviceError { text: text.to_owned() }),
            },
        };
        match (name, index) {
            ("auto", None) => Ok(DeviceRequest::Auto),
            ("cpu", None) => Ok(DeviceRequest::Cpu),
            ("gpu", None) => Ok(DeviceRequest::Gpu),
            ("cuda", index) => Ok(DeviceRequest::Cuda(index)),
            ("vulkan", index) => Ok(DeviceRequest::Vulkan(index)),
            ("metal", None) => Ok(DeviceRequest::Metal),
            _ => Err(ParseDeviceError { text: text.to_owned() }),
        }
    }
}
