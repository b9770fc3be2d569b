//! Speeds as llama-bench writes them, so that what reads its output reads ours.
//!
//! The keys are those of `llama-bench -o json`, in its order. What this program does not know or does not set is what
//! llama-bench writes for its defaults where there is a default, and `null` where the value is a fact about the build:
//! `build_commit`, `build_number`, `test_time` of a single test.

use haul_generate::local::FlashAttention;
use haul_machine::verdict::Placement;
use serde_json::{Value, json};

use super::FileReport;
use crate::statistics::Summary;

/// The rows of all files: a prefill and a decode of each.
#[must_use]
pub fn json(files: &[FileReport]) -> Value {
    let rows = files.iter().flat_map(|file| {
        let speed = &file.speed;
        let prefill = speed
            .prefill_tokens_per_s
            .as_ref()
            .map(|rates| row(file, (speed.prefill_tokens, 0), &speed.prefill_ns, rates));
        let decode = speed
            .decode_tokens_per_s
            .as_ref()
            .map(|rates| row(file, (0, speed.decode_tokens), &speed.decode_ns, rates));
        prefill.into_iter().chain(decode)
    });
    rows.collect()
}

fn row(file: &FileReport, tokens: (u32, u32), ns: &[u64], rates: &Summary) -> Value {
    let parts = [build(file), settings(file), defaults(file), times(tokens, ns, rates)];
    let fields = parts.into_iter().filter_map(|part| match part {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    Value::Object(fields.flatten().collect())
}

fn build(file: &FileReport) -> Value {
    json!({
        "build_commit": null,
        "build_number": null,
        "cpu_info": file.cpu_info,
        "gpu_info": if file.load.devices.is_empty() { "" } else { file.placement.name.as_str() },
        "backends": file.backends,
        "model_filename": file.load.model.display().to_string(),
        "model_type": file.description,
        "model_size": file.tensor_bytes,
        "model_n_params": file.parameters,
    })
}

fn settings(file: &FileReport) -> Value {
    let load = &file.load;
    let is_cpu = load.devices.is_empty();
    let layers = if is_cpu { 0 } else { load.gpu_layers.map_or(-1, i64::from) };
    json!({
        "n_batch": load.n_batch,
        "n_ubatch": load.n_ubatch,
        "n_threads": load.threads,
        "cpu_mask": "0x0",
        "cpu_strict": false,
        "poll": 50,
        "type_k": load.type_k,
        "type_v": load.type_v,
        "n_gpu_layers": layers,
        "n_cpu_moe": 0,
        "split_mode": "layer",
        "main_gpu": 0,
        "no_kv_offload": is_cpu,
        "flash_attn": match load.flash_attention {
            FlashAttention::Auto => -1,
            FlashAttention::Off => 0,
            FlashAttention::On => 1,
        },
        "devices": if is_cpu { "none" } else { file.placement.used.as_str() },
    })
}

fn defaults(file: &FileReport) -> Value {
    json!({
        "tensor_split": "0.00",
        "tensor_buft_overrides": "none",
        "use_mmap": file.load.mmap,
        "use_direct_io": false,
        "embeddings": false,
        "no_op_offload": i32::from(file.load.devices.is_empty()),
        "no_host": false,
        "repack": true,
        "fit_target": 0,
        "fit_min_ctx": 0,
    })
}

fn times((n_prompt, n_gen): (u32, u32), ns: &[u64], rates: &Summary) -> Value {
    let times = Summary::of(ns.iter().map(|ns| *ns as f64).collect());
    let (avg_ns, stddev_ns) = times.map_or((0.0, 0.0), |times| (times.mean, times.sd));
    json!({
        "n_prompt": n_prompt,
        "n_gen": n_gen,
        "n_depth": 0,
        "test_time": null,
        "avg_ns": avg_ns.round() as u64,
        "stddev_ns": stddev_ns.round() as u64,
        "avg_ts": rates.mean,
        "stddev_ts": rates.sd,
        "samples_ns": ns,
        "samples_ts": rates.samples,
    })
}

/// The table that llama-bench prints.
#[must_use]
pub fn markdown(files: &[FileReport]) -> String {
    let mut text = String::from(
        "| model | size | params | backend | threads | test | t/s |\n| --- | ---: | ---: | --- | ---: | ---: | ---: |\n",
    );
    for file in files {
        let speed = &file.speed;
        let size = file.tensor_bytes as f64 / f64::from(1 << 20);
        let size =
            if size >= 1024.0 { format!("{:.2} GiB", size / 1024.0) } else { format!("{size:.2} MiB") };
        let parameters = file.parameters as f64 / 1e6;
        let parameters = if parameters >= 1e3 {
            format!("{:.2} B", parameters / 1e3)
        } else {
            format!("{parameters:.2} M")
        };
        let backend = match file.placement.verdict {
            Placement::Unknown => "unknown".to_owned(),
            _ => file.placement.used.to_uppercase(),
        };
        let name = file.description.replace('|', "/");
        let tests = [
            (format!("pp{}", speed.prefill_tokens), &speed.prefill_tokens_per_s),
            (format!("tg{}", speed.decode_tokens), &speed.decode_tokens_per_s),
        ];
        for (test, rates) in tests {
            let Some(rates) = rates else { continue };
            text += &format!(
                "| {name} | {size} | {parameters} | {backend} | {} | {test} | {:.2} ± {:.2} |\n",
                file.load.threads, rates.mean, rates.sd
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::tests::file_report;

    /// As llama-bench's own source lists them.
    const KEYS: &str = "build_commit build_number cpu_info gpu_info backends model_filename model_type model_size \
        model_n_params n_batch n_ubatch n_threads cpu_mask cpu_strict poll type_k type_v n_gpu_layers n_cpu_moe \
        split_mode main_gpu no_kv_offload flash_attn devices tensor_split tensor_buft_overrides use_mmap use_direct_io \
        embeddings no_op_offload no_host repack fit_target fit_min_ctx n_prompt n_gen n_depth test_time avg_ns stddev_ns \
        avg_ts stddev_ts samples_ns samples_ts";

    #[test]
    fn the_keys_are_those_of_llama_bench() {
        let rows = json(&[file_report("f16")]);
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), 2);
        for row in rows {
            let keys: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, KEYS.split_whitespace().collect::<Vec<_>>());
        }
        assert_eq!((&rows[0]["n_prompt"], &rows[0]["n_gen"]), (&json!(512), &json!(0)));
        assert_eq!((&rows[1]["n_prompt"], &rows[1]["n_gen"]), (&json!(0), &json!(128)));
        assert_eq!(rows[1]["avg_ns"], 1_000_000_000);
    }

    #[test]
    fn the_table_is_that_of_llama_bench() {
        let text = markdown(&[file_report("f16")]);
        let rows: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| tiny | 1.00 GiB | 536.87 M | CPU | 2 | pp512 | 1000.00 ± 0.00 |",
                "| tiny | 1.00 GiB | 536.87 M | CPU | 2 | tg128 | 128.00 ± 0.00 |",
            ]
        );
    }
}
