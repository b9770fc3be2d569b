//! What is varied, and how the best of a row of measurements is chosen.

use haul_generate::local::FlashAttention;

use super::TunedLoad;

/// Measurements within this share of the best are as good as it.
const KNEE: f64 = 1.03;
/// Pairs of logical and physical batch. The seed's own, 1024/256, is among them.
const BATCHES: &[(u32, u32)] = &[
    (256, 128),
    (256, 256),
    (512, 256),
    (512, 512),
    (1024, 256),
    (1024, 512),
    (1024, 1024),
    (2048, 512),
    (2048, 1024),
    (2048, 2048),
    (512, 1024),
];
/// Types of K and V.
const KV_TYPES: &[(&str, &str)] =
    &[("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "f16"), ("f16", "q8_0"), ("q4_0", "q4_0")];
/// Sequences that decode together.
const SEQUENCES: &[u32] = &[1, 2, 4, 8, 16, 32, 64];
/// Contexts in tokens.
const CONTEXTS: &[u32] = &[2048, 4096, 8192, 16_384];

/// A setting that is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Threads of the processor.
    Threads,
    /// Logical and physical batch together.
    Batch,
    /// On, off, or as the engine likes.
    FlashAttention,
    /// Types of K and V.
    KvType,
    /// Sequences that decode together.
    Sequences,
    /// Cells of the cache.
    Context,
}

impl Axis {
    /// In the order in which they are varied: what changes most first.
    pub const ALL: [Axis; 6] =
        [Axis::Threads, Axis::Batch, Axis::FlashAttention, Axis::KvType, Axis::Sequences, Axis::Context];

    /// As reports call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Axis::Threads => "threads",
            Axis::Batch => "batch",
            Axis::FlashAttention => "flash attention",
            Axis::KvType => "kv type",
            Axis::Sequences => "sequences",
            Axis::Context => "context",
        }
    }

    /// `from` with each value of this setting.
    #[must_use]
    pub fn values(self, from: &TunedLoad, cores: u32) -> Vec<TunedLoad> {
        let with = |change: &dyn Fn(&mut TunedLoad)| {
            let mut load = from.clone();
            change(&mut load);
            load
        };
        match self {
            Axis::Threads => {
                threads(cores).into_iter().map(|threads| with(&|load| load.threads = threads)).collect()
            }
            Axis::Batch => BATCHES
                .iter()
                .map(|(n_batch, n_ubatch)| {
                    with(&|load| (load.n_batch, load.n_ubatch) = (*n_batch, *n_ubatch))
                })
                .collect(),
            Axis::FlashAttention => [FlashAttention::Auto, FlashAttention::On, FlashAttention::Off]
                .into_iter()
                .map(|flash| with(&|load| load.flash_attention = flash))
                .collect(),
            Axis::KvType => {
                let flash = [from.flash_attention, FlashAttention::Off];
                let pairs = KV_TYPES.iter().flat_map(|types| flash.map(|flash| (*types, flash)));
                let mut all: Vec<TunedLoad> = pairs
                    .map(|((k, v), flash)| {
                        with(&|load| {
                            (load.type_k, load.type_v) = (k.to_owned(), v.to_owned());
                            load.flash_attention = flash;
                        })
                    })
                    .collect();
                all.dedup();
                // Without flash attention only what cannot work is of interest here: its own axis has the rest.
                all.retain(|load| load.flash_attention == from.flash_attention || load.type_v != "f16");
                all
            }
            Axis::Sequences => {
                SEQUENCES.iter().map(|sequences| with(&|load| load.n_seq_max = *sequences)).collect()
            }
            Axis::Context => CONTEXTS.iter().map(|n_ctx| with(&|load| load.n_ctx = *n_ctx)).collect(),
        }
    }

    /// What a value costs beside time; where two are as fast, the smaller is taken.
    #[must_use]
    pub fn size(self, load: &TunedLoad) -> u64 {
        match self {
            Axis::Threads => u64::from(load.threads),
            // The physical batch is what scratch memory grows with.
            Axis::Batch => u64::from(load.n_ubatch) << 32 | u64::from(load.n_batch),
            Axis::FlashAttention => u64::from(load.flash_attention != FlashAttention::Auto),
            Axis::KvType => 0,
            Axis::Sequences => u64::from(load.n_seq_max),
            Axis::Context => u64::from(load.n_ctx),
        }
    }
}

/// 1, 2, 4, ... and all cores.
fn threads(cores: u32) -> Vec<u32> {
    let mut threads: Vec<u32> =
        (0..).map(|shift| 1 << shift).take_while(|threads| *threads < cores).collect();
    threads.push(cores.max(1));
    threads
}

/// The place of the smallest measurement within 3 % of the best, of pairs of size and seconds; 0 of none.
#[must_use]
pub fn knee(measured: &[(u64, f64)]) -> usize {
    let best = measured.iter().map(|(_, seconds)| *seconds).fold(f64::INFINITY, f64::min);
    let as_good = measured.iter().enumerate().filter(|(_, (_, seconds))| *seconds <= best * KNEE);
    as_good.min_by_key(|(_, (size, _))| *size).map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::tests::control;

    #[test]
    fn the_knee_is_the_smallest_within_three_percent() {
        for (measured, wanted) in [
            (vec![(128, 2.0), (256, 1.2), (512, 1.02), (1024, 1.0), (2048, 1.05)], 2),
            (vec![(128, 1.0), (256, 0.98), (512, 0.98)], 0),
            (vec![(512, 1.0)], 0),
            (vec![(2048, 1.0), (512, 1.5), (1024, 1.01)], 2),
            (vec![], 0),
        ] {
            assert_eq!(knee(&measured), wanted, "{measured:?}");
        }
    }

    #[test]
    fn one_setting_is_varied_at_a_time() {
        let from = control();
        for axis in Axis::ALL {
            let values = axis.values(&from, 6);
            assert!(!values.is_empty());
            for load in &values {
                let mut same = load.clone();
                match axis {
                    Axis::Threads => same.threads = from.threads,
                    Axis::Batch => (same.n_batch, same.n_ubatch) = (from.n_batch, from.n_ubatch),
                    Axis::FlashAttention => same.flash_attention = from.flash_attention,
                    Axis::KvType => {
                        (same.type_k, same.type_v) = (from.type_k.clone(), from.type_v.clone());
                        same.flash_attention = from.flash_attention;
                    }
                    Axis::Sequences => same.n_seq_max = from.n_seq_max,
                    Axis::Context => same.n_ctx = from.n_ctx,
                }
                assert_eq!(same, from, "{axis:?}");
            }
        }
        let threads: Vec<u32> = Axis::Threads.values(&from, 6).iter().map(|load| load.threads).collect();
        assert_eq!(threads, [1, 2, 4, 6]);
        let types: Vec<String> = Axis::KvType
            .values(&from, 6)
            .iter()
            .map(|load| format!("{}/{} {:?}", load.type_k, load.type_v, load.flash_attention))
            .collect();
        assert_eq!(
            types,
            [
                "f16/f16 Auto",
                "q8_0/q8_0 Auto",
                "q8_0/q8_0 Off",
                "q8_0/f16 Auto",
                "f16/q8_0 Auto",
                "f16/q8_0 Off",
                "q4_0/q4_0 Auto",
                "q4_0/q4_0 Off",
            ]
        );
    }
}
