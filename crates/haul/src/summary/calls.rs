//! What runs that ask a language model came to, for people.

use haul_pipeline::receipt::Receipt;

use super::{duration, list, thousands};

/// Items, calls and tokens of a run; `results` says where they are.
pub(crate) fn calls(receipt: &Receipt, results: &str) -> String {
    let calls = receipt.calls.unwrap_or_default();
    let mut text = String::new();
    let not_ok = receipt.items.total - receipt.items.ok;
    line!(
        text,
        "{} {}: {} ok, {} not ok",
        thousands(receipt.items.total),
        plural(receipt.items.total, &receipt.rate.unit),
        thousands(receipt.items.ok),
        thousands(not_ok)
    );
    line!(
        text,
        "{} calls answered, {} more had an answer in the journal, {} asked again",
        thousands(calls.n),
        thousands(calls.journalled),
        thousands(calls.retries)
    );
    let prompts = calls.prefill_tokens + calls.reused_prefix_tokens;
    if prompts > 0 {
        line!(
            text,
            "{} tokens of prompts, {} % of them shared and read once; {} written",
            thousands(prompts),
            100 * calls.reused_prefix_tokens / prompts,
            thousands(calls.decode_tokens)
        );
        line!(
            text,
            "{} with the model, {:.0} tokens/s read and written",
            duration(calls.answering_s),
            receipt.rate.tokens_per_s
        );
    }
    if let Some(model) = &receipt.model {
        line!(text, "{} ({}) on {}", model.id, model.dtype, receipt.device.name);
    }
    let failures: Vec<_> =
        receipt.failures.iter().map(|failure| format!("{}: {}", failure.item, failure.why)).collect();
    list(&mut text, "not ok", &failures);
    let notes: Vec<_> = receipt.notes.iter().map(|note| format!("{}: {}", note.item, note.says)).collect();
    list(&mut text, "cut", &notes);
    line!(text, "{results}");
    text
}

fn plural(count: u64, one: &str) -> String {
    match one.strip_suffix('y') {
        _ if count == 1 => one.to_owned(),
        Some(stem) => format!("{stem}ies"),
        None => format!("{one}s"),
    }
}
