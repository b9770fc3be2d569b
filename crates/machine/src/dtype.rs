//! The dtype a run asked for, and the one `auto` takes on this machine.

use crate::roof::Roofs;
pub use haul_kernels::dtype::{Dtype, ParseDtypeError};
use std::fmt;
use std::str::FromStr;

/// The modes that agree with f32 to three digits and more, by preference: those that `auto` may take.
const NEAR_EXACT: [Dtype; 2] = [Dtype::Bf16, Dtype::Int16];

/// A near-exact mode is worth leaving f32 for when its roof is this many times the f32 roof.
const WORTH_IT: f64 = 1.25;

/// A mode is faster than the one before it in [`NEAR_EXACT`] when its roof is this many times as high: roofs are
/// known to about 10 %.
const FASTER: f64 = 1.1;

/// `--dtype`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtypeRequest {
    /// The fastest of the near-exact modes, if this machine gains by it; named in one line.
    Auto,
    /// This one. It runs on every processor; the roofs say how fast.
    Named(Dtype),
}

/// What `auto` took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoDtype {
    /// The mode.
    pub dtype: Dtype,
    /// The highest roof of a near-exact mode over the f32 roof, which decided.
    gain: f64,
}

/// Takes the fastest near-exact mode by the roofs of this machine, or f32 where it would gain too little.
pub fn auto(roofs: &Roofs) -> AutoDtype {
    let [first, second] = NEAR_EXACT;
    let fastest = if roofs.of(second) > roofs.of(first) * FASTER { second } else { first };
    let gain = roofs.of(fastest) / roofs.of(Dtype::F32);
    AutoDtype { dtype: if gain >= WORTH_IT { fastest } else { Dtype::F32 }, gain }
}

impl AutoDtype {
    /// One line that says what was taken and why.
    pub fn line(&self) -> String {
        let Self { dtype, gain } = self;
        match dtype {
            Dtype::F32 => {
                let [first, second] = NEAR_EXACT;
                format!("dtype: f32 (auto: {first} and {second} reach {gain:.1}x the f32 roof at most)")
            }
            _ => format!("dtype: {dtype} (auto: {gain:.1}x the f32 roof)"),
        }
    }
}

impl fmt::Display for DtypeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DtypeRequest::Auto => f.write_str("auto"),
            DtypeRequest::Named(dtype) => dtype.fmt(f),
        }
    }
}

/// A name that is neither `auto` nor a dtype.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}, and auto")]
pub struct ParseDtypeRequestError(ParseDtypeError);

impl FromStr for DtypeRequest {
    type Err = ParseDtypeRequestError;

    fn from_str(text: &str) -> Result<Self, ParseDtypeRequestError> {
        match text {
            "auto" => Ok(DtypeRequest::Auto),
            name => name.parse().map(DtypeRequest::Named).map_err(ParseDtypeRequestError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(bf16: f64, int16: f64) -> (Dtype, String) {
        let gflops = [("f32", 100.0), ("bf16", bf16), ("int16", int16), ("int8", 1000.0)];
        let taken = auto(&Roofs {
            cpu: "test".to_owned(),
            cores: 2,
            isa: "avx512".to_owned(),
            gflops: gflops.map(|(name, rate)| (name.to_owned(), rate)).into(),
            read_gb_per_s: 20.0,
            measured: "2026-11-20T00:00:00Z".to_owned(),
        });
        (taken.dtype, taken.line())
    }

    #[test]
    fn auto_takes_the_fastest_near_exact_mode_that_gains_enough() {
        let bf16 = |gain| (Dtype::Bf16, format!("dtype: bf16 (auto: {gain}x the f32 roof)"));
        let int16 = |gain| (Dtype::Int16, format!("dtype: int16 (auto: {gain}x the f32 roof)"));
        let f32 = |gain| {
            (Dtype::F32, format!("dtype: f32 (auto: bf16 and int16 reach {gain}x the f32 roof at most)"))
        };
        assert_eq!(took(200.0, 100.0), bf16("2.0"));
        assert_eq!(took(100.0, 200.0), int16("2.0"));
        assert_eq!(took(200.0, 215.0), bf16("2.0"), "a tie within 10 % goes to bf16");
        assert_eq!(took(200.0, 225.0), int16("2.2"));
        assert_eq!(took(125.0, 60.0), bf16("1.2"));
        assert_eq!(took(120.0, 124.0), f32("1.2"));
        assert_eq!(took(30.0, 50.0), f32("0.5"));
    }

    #[test]
    fn names_read_back_as_they_are_written() {
        for request in [DtypeRequest::Auto].into_iter().chain(Dtype::ALL.map(DtypeRequest::Named)) {
            assert_eq!(request.to_string().parse(), Ok(request));
        }
        let error = "f16".parse::<DtypeRequest>().unwrap_err();
        assert_eq!(error.to_string(), "`f16` is no dtype; known are f32, bf16, int16, int8, and auto");
    }
}
