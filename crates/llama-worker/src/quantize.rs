//! GGUF files in other quantisations.

use haul_frames::Quantize;
use llama_cpp_sys_2 as sys;

use crate::llama::c_path;
use crate::log;

/// Names as llama.cpp's own tool has them.
const KINDS: &[(&str, sys::llama_ftype)] = &[
    ("f32", sys::LLAMA_FTYPE_ALL_F32),
    ("f16", sys::LLAMA_FTYPE_MOSTLY_F16),
    ("bf16", sys::LLAMA_FTYPE_MOSTLY_BF16),
    ("q8_0", sys::LLAMA_FTYPE_MOSTLY_Q8_0),
    ("q6_k", sys::LLAMA_FTYPE_MOSTLY_Q6_K),
    ("q5_k_m", sys::LLAMA_FTYPE_MOSTLY_Q5_K_M),
    ("q5_k_s", sys::LLAMA_FTYPE_MOSTLY_Q5_K_S),
    ("q5_0", sys::LLAMA_FTYPE_MOSTLY_Q5_0),
    ("q4_k_m", sys::LLAMA_FTYPE_MOSTLY_Q4_K_M),
    ("q4_k_s", sys::LLAMA_FTYPE_MOSTLY_Q4_K_S),
    ("q4_0", sys::LLAMA_FTYPE_MOSTLY_Q4_0),
    ("iq4_nl", sys::LLAMA_FTYPE_MOSTLY_IQ4_NL),
    ("iq4_xs", sys::LLAMA_FTYPE_MOSTLY_IQ4_XS),
    ("q3_k_m", sys::LLAMA_FTYPE_MOSTLY_Q3_K_M),
    ("q2_k", sys::LLAMA_FTYPE_MOSTLY_Q2_K),
];

/// Writes the file; returns its size. What is left of a failed one is removed.
pub(crate) fn quantize(asked: &Quantize) -> Result<u64, String> {
    let Some((_, kind)) = KINDS.iter().find(|(name, _)| asked.kind.eq_ignore_ascii_case(name)) else {
        let known: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
        return Err(format!("no quantisation {}: it is one of {}", asked.kind, known.join(", ")));
    };
    let (from, to) = (c_path(&asked.from)?, c_path(&asked.to)?);
    log::take();
    // SAFETY: both paths end with a zero and outlive the call; the parameters are the engine's defaults, of which two
    // plain numbers are changed.
    let code = unsafe {
        let mut params = sys::llama_model_quantize_default_params();
        params.ftype = *kind;
        params.nthread = i32::try_from(asked.threads).unwrap_or(i32::MAX);
        sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const params)
    };
    if code != 0 {
        let lines = log::take();
        let said =
            lines.iter().rev().find(|line| line.warns).map_or("no reason given", |line| line.text.as_str());
        let left = std::fs::remove_file(&asked.to)
            .err()
            .filter(|error| error.kind() != std::io::ErrorKind::NotFound);
        let left = left.map_or_else(String::new, |error| format!("; {} stays: {error}", asked.to.display()));
        return Err(format!("{} as {}: {said}{left}", asked.from.display(), asked.kind));
    }
    std::fs::metadata(&asked.to)
        .map(|file| file.len())
        .map_err(|error| format!("{}: {error}", asked.to.display()))
}
