//! What cannot work, named before a process is started for it.

use haul_generate::local::FlashAttention;

use super::{DECODE_TOKENS, TunedLoad};

/// Sequences that llama.cpp keeps apart at most.
const SEQUENCES_MAX: u32 = 256;
/// Numbers that quantised caches keep together.
const BLOCK: u32 = 32;

/// What is known of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// Tokens that it was trained on at once.
    pub n_ctx_train: u32,
    /// Numbers of an attention head, in K and in V, where the header says.
    pub head_sizes: Option<(u32, u32)>,
    /// Bytes of a cell of the cache, for one byte a number in each of K and V, as measured.
    pub kv_bytes_per_cell: Option<f64>,
    /// Memory that the cache may take.
    pub room_bytes: Option<u64>,
}

/// Why a configuration cannot work, or is another one in disguise; `None` where nothing speaks against it.
#[must_use]
pub fn why(load: &TunedLoad, shape: &Shape) -> Option<String> {
    let quantised = |name: &str| !matches!(name, "f32" | "f16" | "bf16");
    let TunedLoad { n_ctx, n_batch, n_ubatch, n_seq_max, .. } = *load;
    if n_ubatch > n_batch {
        return Some(format!("n_ubatch {n_ubatch} is above n_batch {n_batch}, and is cut to it"));
    }
    if n_batch > n_ctx {
        return Some(format!("n_batch {n_batch} is above the context of {n_ctx}, and is cut to it"));
    }
    if quantised(&load.type_v) && load.flash_attention == FlashAttention::Off {
        return Some(format!("a V cache of {} needs flash attention, and it is off", load.type_v));
    }
    if let Some((k, v)) = shape.head_sizes {
        for (name, kind, size) in [("K", &load.type_k, k), ("V", &load.type_v, v)] {
            if quantised(kind) && size % BLOCK != 0 {
                return Some(format!(
                    "a {name} cache of {kind} keeps {BLOCK} numbers together, and a head has {size}"
                ));
            }
        }
    }
    if n_seq_max > SEQUENCES_MAX {
        return Some(format!("{n_seq_max} sequences, of at most {SEQUENCES_MAX}"));
    }
    if u64::from(n_seq_max) * u64::from(DECODE_TOKENS) > u64::from(n_ctx) {
        return Some(format!(
            "{n_seq_max} sequences of {DECODE_TOKENS} tokens do not fit a context of {n_ctx}"
        ));
    }
    if shape.n_ctx_train > 0 && n_ctx > shape.n_ctx_train.max(super::CALL_TOKENS.0 * 4) {
        return Some(format!("the model was trained on {} tokens at once, not {n_ctx}", shape.n_ctx_train));
    }
    let (per_cell, room) = (shape.kv_bytes_per_cell?, shape.room_bytes?);
    let needed = per_cell * bytes_of_pair(load) * f64::from(n_ctx);
    (needed > room as f64).then(|| {
        let mib = f64::from(1 << 20);
        format!("its cache takes {:.0} MiB, and there are {:.0} MiB", needed / mib, room as f64 / mib)
    })
}

/// Bytes of a number in K and one in V together.
pub(super) fn bytes_of_pair(load: &TunedLoad) -> f64 {
    bytes_of(&load.type_k) + bytes_of(&load.type_v)
}

/// Quantised types keep 32 numbers and a scale or two together.
fn bytes_of(name: &str) -> f64 {
    let block = |bytes: f64| bytes / f64::from(BLOCK);
    match name {
        "f32" => 4.0,
        "q8_0" => block(34.0),
        "q5_1" => block(24.0),
        "q5_0" => block(22.0),
        "q4_1" => block(20.0),
        "q4_0" | "iq4_nl" => block(18.0),
        _ => 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::tests::control;

    #[test]
    fn what_cannot_work_is_named() {
        type Change = fn(&mut TunedLoad);
        let shape = Shape {
            n_ctx_train: 8192,
            head_sizes: Some((64, 80)),
            kv_bytes_per_cell: Some(1024.0),
            room_bytes: Some(16 << 20),
        };
        let cases: [(Change, Option<&str>); 12] = [
            (|_| {}, None),
            (|load| load.n_ubatch = 4096, Some("n_ubatch 4096 is above n_batch 2048")),
            (|load| load.n_batch = 4096, Some("n_batch 4096 is above the context of 2048")),
            (
                |load| {
                    load.type_v = "q8_0".to_owned();
                    load.flash_attention = FlashAttention::Off;
                },
                Some("a V cache of q8_0 needs flash attention"),
            ),
            // K needs none, and 64 divides by 32.
            (
                |load| {
                    load.type_k = "q8_0".to_owned();
                    load.flash_attention = FlashAttention::Off;
                },
                None,
            ),
            (|load| load.type_v = "q4_0".to_owned(), Some("keeps 32 numbers together, and a head has 80")),
            (|load| load.type_v = "bf16".to_owned(), None),
            (|load| load.n_seq_max = 257, Some("257 sequences, of at most 256")),
            (|load| load.n_seq_max = 65, Some("65 sequences of 32 tokens do not fit a context of 2048")),
            (|load| load.n_ctx = 16_384, Some("trained on 8192 tokens at once, not 16384")),
            (|load| load.n_ctx = 8192, Some("its cache takes 32 MiB, and there are 16 MiB")),
            (
                |load| {
                    load.n_ctx = 4096;
                    load.type_k = "q8_0".to_owned();
                },
                None,
            ),
        ];
        for (change, wanted) in cases {
            let mut load = control();
            change(&mut load);
            let found = why(&load, &shape);
            match wanted {
                None => assert_eq!(found, None, "{load:?}"),
                Some(part) => {
                    assert!(found.as_deref().is_some_and(|why| why.contains(part)), "{load:?}: {found:?}");
                }
            }
        }
        // What is not known is not held against anything.
        let mut large = control();
        large.n_ctx = 1 << 20;
        assert_eq!(why(&large, &Shape::default()), None);
    }
}
