//! What is varied, and how the best of a row of measurements is chosen.

use haul_generate::local::FlashAttention;

use super::{CALL_TOKENS, TunedLoad};
use crate::speed::Speed;

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

/// Seconds of this machine for one of many calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// For reading its prompt.
    pub prompt_s: f64,
    /// For its part of what is written for all calls together.
    pub answer_s: f64,
}

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

impl Cost {
    /// By the fastest run of each probe: other work on the machine makes runs slower, and none faster.
    #[must_use]
    pub fn of(speed: &Speed) -> Option<Cost> {
        let seconds = |times: &[u64], tokens: u32, wanted: u32| {
            let fastest = times.iter().min().filter(|_| tokens > 0)?;
            Some(*fastest as f64 / 1e9 * f64::from(wanted) / f64::from(tokens))
        };
        Some(Cost {
            prompt_s: seconds(&speed.prefill_ns, speed.prefill_tokens, CALL_TOKENS.0)?,
            answer_s: seconds(&speed.decode_ns, speed.decode_tokens * speed.sequences, CALL_TOKENS.1)?,
        })
    }

    /// Of both.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.prompt_s + self.answer_s
    }
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
    pub fn values(self, from: &TunedLoad, threads_max: u32) -> Vec<TunedLoad> {
        let with = |change: &dyn Fn(&mut TunedLoad)| {
            let mut load = from.clone();
            change(&mut load);
            load
        };
        match self {
            Axis::Threads => {
                threads(threads_max).into_iter().map(|threads| with(&|load| load.threads = threads)).collect()
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

impl Axis {
    /// Whether the best value is taken. Types of the cache change answers, which is a choice and not this job's; how many
    /// cells there are goes by the calls that are asked.
    #[must_use]
    pub fn is_taken(self) -> bool {
        !matches!(self, Axis::KvType | Axis::Context)
    }

    /// What values of this setting cost beside each other, in seconds. One prompt is read at a time, however many answers
    /// are written: where sequences are varied, times of prompts differ by chance alone, and the fastest stands for all.
    #[must_use]
    pub fn seconds(self, costs: &[Cost]) -> Vec<f64> {
        let fastest = costs.iter().map(|cost| cost.prompt_s).fold(f64::INFINITY, f64::min);
        let prompt_s = |cost: &Cost| if self == Axis::Sequences { fastest } else { cost.prompt_s };
        costs.iter().map(|cost| prompt_s(cost) + cost.answer_s).collect()
    }
}

/// 1, 2, 4, ... and `most`.
fn threads(most: u32) -> Vec<u32> {
    let mut threads: Vec<u32> = (0..).map(|shift| 1 << shift).take_while(|threads| *threads < most).collect();
    threads.push(most.max(1));
    threads
}

/// The place of the best of some measurements, pairs of size and seconds; the first of them is what is kept if nothing is
/// better. Of those within 3 % of the fastest the smallest is taken, and none that was slower than the first: small steps
/// down add up.
#[must_use]
pub fn knee(measured: &[(u64, f64)]) -> usize {
    let fastest = measured.iter().map(|(_, seconds)| *seconds).fold(f64::INFINITY, f64::min);
    let Some((_, first)) = measured.first() else { return 0 };
    let is_as_good = |seconds: f64| seconds <= fastest * KNEE && seconds <= *first;
    let as_good = measured.iter().enumerate().filter(|(_, (_, seconds))| is_as_good(*seconds));
    as_good.min_by_key(|(_, (size, _))| *size).map_or(0, |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tune::tests::control;

    #[test]
    fn the_knee_is_the_smallest_within_three_percent_and_no_slower_than_the_first() {
        for (measured, wanted) in [
            (vec![(128, 2.0), (256, 1.2), (512, 1.02), (1024, 1.0), (2048, 1.05)], 2),
            (vec![(128, 1.0), (256, 0.98), (512, 0.98)], 0),
            (vec![(512, 1.0)], 0),
            (vec![(2048, 1.0), (512, 1.5), (1024, 1.01)], 0),
            (vec![(2048, 1.01), (512, 1.5), (1024, 1.01)], 2),
            (vec![(2048, 1.2), (512, 1.02), (1024, 1.0)], 1),
            (vec![], 0),
        ] {
            assert_eq!(knee(&measured), wanted, "{measured:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_slower_replaces_what_there_was(
            measured in prop::collection::vec((0_u64..64, 0.1_f64..10.0), 1..12),
        ) {
            let (size, seconds) = measured[knee(&measured)];
            prop_assert!(seconds <= measured[0].1);
            let fastest = measured.iter().map(|(_, seconds)| *seconds).fold(f64::INFINITY, f64::min);
            prop_assert!(seconds <= fastest * KNEE);
            for (other, of_other) in &measured {
                prop_assert!(size <= *other || *of_other > fastest * KNEE || *of_other > measured[0].1);
            }
        }
    }

    #[test]
    fn a_call_is_its_prompt_and_its_part_of_the_answers() {
        let second = 1_000_000_000;
        let speed = Speed::of(256, 32, 2, vec![2 * second, second], vec![second, 4 * second]);
        assert_eq!(Cost::of(&speed), Some(Cost { prompt_s: 2.0, answer_s: 2.0 }));
        assert_eq!(Cost::of(&Speed::of(512, 0, 1, vec![1], vec![])), None);
    }

    /// Slow prompts beside many sequences are the machine's other work, and no reason to take fewer.
    #[test]
    fn sequences_are_judged_by_what_they_write() {
        let costs = [(0.025, 0.064), (0.090, 0.016), (0.095, 0.0155)]
            .map(|(prompt_s, answer_s)| Cost { prompt_s, answer_s });
        let rounded =
            |axis: Axis| axis.seconds(&costs).iter().map(|s| (s * 1e4).round() as u64).collect::<Vec<_>>();
        assert_eq!(rounded(Axis::Sequences), [890, 410, 405]);
        assert_eq!(rounded(Axis::Batch), [890, 1060, 1105]);
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
