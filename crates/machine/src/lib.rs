//! What this machine is, what it can do at most, and which device did the work.
//!
//! The principal type is [`verdict::Verdict`]: the device asked for, the device used, and the witnesses for it.
//!
//! ```
//! use haul_machine::cpu::{self, Isa};
//! use haul_machine::verdict::{DeviceRequest, Placement, resolve};
//!
//! let cpu = cpu::probe(Isa::best());
//! let verdict = resolve(DeviceRequest::Auto, &cpu).unwrap();
//! assert_eq!((verdict.requested.as_str(), verdict.verdict), ("auto", Placement::Cpu));
//! println!("{}", verdict.line());
//!
//! // A device that this build cannot drive is refused before any work, never replaced.
//! let refusal = resolve("cuda:1".parse().unwrap(), &cpu).unwrap_err();
//! assert!(refusal.hint().contains("--device cpu"));
//! ```
//!
//! Never here: a fallback from one device to another, the environment, printing, anything about models.
#![forbid(unsafe_code)]

pub mod clock;
pub mod cpu;
pub mod dtype;
pub mod memory;
pub mod nvidia;
pub mod roof;
pub mod verdict;

#[cfg(unix)]
mod clock_unix;
#[cfg(unix)]
mod cpu_unix;
#[cfg(unix)]
mod memory_unix;
#[cfg(unix)]
mod nvidia_unix;
