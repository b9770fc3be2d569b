//! Where a model runs, and how that is known.

use haul_machine::verdict::{Placement, WitnessKind};

use super::{bytes, wrapped};
use crate::commands::doctor::Diagnosis;

const INDENT: &str = "            ";

/// The verdict first, then its witnesses, speeds, and what follows.
pub(crate) fn diagnosis(found: &Diagnosis) -> String {
    let mut text = String::new();
    let word = match found.device.verdict {
        Placement::OnDevice => "on device",
        Placement::Partial => "partial",
        Placement::Cpu => "on cpu",
        Placement::Unknown => "unknown",
    };
    line!(text, "verdict     {word}: {} ({})", found.device.name, found.device.used);
    line!(text, "asked for   {}", found.device.requested);
    line!(
        text,
        "model       {}, {}, {} in {} layers",
        found.model,
        found.quantisation,
        bytes(found.loaded.size_bytes),
        found.loaded.layers
    );
    line!(
        text,
        "context     {} cells for {} sequences, cache {}/{}",
        found.loaded.n_ctx,
        found.load.n_seq_max,
        found.load.type_k,
        found.load.type_v
    );
    line!(text, "load        {} ms, context {} ms", found.loaded.load_ms, found.loaded.context_ms);
    for witness in &found.device.witnesses {
        let kind = match witness.kind {
            WitnessKind::Engine => "engine",
            WitnessKind::Memory => "memory",
            WitnessKind::Energy => "energy",
            WitnessKind::Roof => "speed",
        };
        let detail = format!("says {}: {}", witness.says, witness.detail);
        line!(text, "{kind:<12}{}", wrapped(&detail, INDENT).trim_start());
    }
    let devices: Vec<_> = found
        .engine
        .devices
        .iter()
        .map(|d| format!("{} ({}, {})", d.name, d.description, d.backend))
        .collect();
    line!(text, "devices     {}", wrapped(&devices.join("; "), INDENT).trim_start());
    for card in &found.cards {
        let slices = match card.slices {
            0 => String::new(),
            count => format!(", split into {count} slices (MIG), each with its part of memory and bandwidth"),
        };
        line!(text, "card        {}, driver {}{slices}", card.name, card.driver);
    }
    line!(text, "kernels     {}", wrapped(&found.engine.features, INDENT).trim_start());
    for backend in found.engine.backends.iter().filter(|backend| backend.refused.is_none()) {
        let name =
            backend.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        line!(text, "backend     {name}");
    }
    if let Some(control) = found.control_tokens_per_s {
        line!(text, "f16 cache   prefill {control:.0} tokens/s");
    }
    if let Some(cpu) = found.cpu_tokens_per_s {
        line!(
            text,
            "processor   prefill {cpu:.0} tokens/s, {:.1}x on the card",
            found.prefill_tokens_per_s / cpu
        );
    }
    for finding in &found.findings {
        line!(text, "\nfound: {}", wrapped(finding, "  ").trim_start());
    }
    text
}
