//! What must not depend on the batch, and what a batch may not be.

use std::path::PathBuf;

use haul_encoder::device::Batch;
use haul_encoder::embedder::{EmbedError, Embedder};
use haul_encoder::model_dir::ModelDir;
use haul_kernels::isa::Isa;
use proptest::prelude::*;

use crate::common::{cpu, embed, golden_file, minilm_dir, tiny};

/// To the bit: each sequence alone, all in one batch, and ragged batches on several threads.
#[test]
fn a_row_does_not_know_its_batch() {
    let opened = |dir: PathBuf| ModelDir::open(&dir).unwrap();
    let golden = ["tiny-bert", "tiny-xlmr", "tiny-modernbert"].map(|name| Some(opened(golden_file(name))));
    for model in golden.into_iter().chain([minilm_dir().map(opened)]).flatten() {
        let lengths = [1, 2, 3, 15, 16, 17, 31, 33, 48, 7, 1, 46].into_iter().chain(40..=44);
        let vocabulary = model.config.vocabulary_size;
        let sequences: Vec<Vec<u32>> = lengths
            .enumerate()
            .map(|(row, n)| (0..n).map(|at| ((row * 7919 + at * 104_729) % vocabulary) as u32).collect())
            .collect();
        for isa in Isa::available() {
            let embedder = Embedder::load(&model, &cpu(isa, 3)).unwrap();
            let alone = embed(&embedder, &sequences, 1);
            for batch_sequences in [2, 3, 5, 8, sequences.len()] {
                let rows = embed(&embedder, &sequences, batch_sequences);
                assert_eq!(rows, alone, "{} {}, batches of {batch_sequences}", model.name, isa.name());
            }
        }
    }
}

#[test]
fn a_batch_that_cannot_be_is_refused_by_row() {
    let model = tiny();
    let embedder = Embedder::load(&model, &cpu(Isa::best(), 1)).unwrap();
    let submit = |sequences: &[Vec<u32>]| embedder.submit(sequences).unwrap_err();
    assert!(matches!(submit(&[]), EmbedError::BatchSize { sequences: 0 }));
    assert!(matches!(submit(&[vec![2, 3], vec![]]), EmbedError::EmptySequence { row: 1 }));
    assert!(matches!(
        submit(&[vec![2; 48], vec![3; 49]]),
        EmbedError::TooManyTokens { row: 1, tokens: 49, max_tokens: 48 }
    ));
    assert!(matches!(
        submit(&[vec![2, 299, 300]]),
        EmbedError::UnknownToken { row: 0, id: 300, vocabulary_size: 300 }
    ));
}

/// More batches than the device takes at once: submit waits for workers, never for the collector.
#[test]
fn submit_never_waits_for_collect() {
    let embedder = Embedder::load(&tiny(), &cpu(Isa::best(), 1)).unwrap();
    let tickets: Vec<_> = (0..20).map(|id| embedder.submit(&[[2, 5 + id, 3]]).unwrap()).collect();
    let rows: Vec<_> = tickets.into_iter().map(|ticket| embedder.collect(ticket).unwrap()).collect();
    assert_eq!(rows.len(), 20);
    assert_ne!(rows[0], rows[19]);
}

#[test]
fn a_dropped_ticket_drops_its_rows_only() {
    let embedder = Embedder::load(&tiny(), &cpu(Isa::best(), 1)).unwrap();
    drop(embedder.submit(&[[2, 9, 3]]).unwrap());
    assert_eq!(embedder.collect(embedder.submit(&[[2, 3]]).unwrap()).unwrap().rows(), 1);
}

#[test]
fn memory_grows_to_the_largest_batch_and_stays() {
    let embedder = Embedder::load(&tiny(), &cpu(Isa::best(), 1)).unwrap();
    let after = |sequences: usize| {
        embed(&embedder, &vec![vec![2; 48]; sequences], sequences);
        embedder.memory().arena_bytes
    };
    assert_eq!(embedder.memory().arena_bytes, 0);
    let large = after(8);
    // Hidden, qkv, context, attended, intermediate: 32 + 96 + 32 + 32 + 64 columns of f32.
    assert!(large >= 8 * 48 * 256 * 4, "{large}");
    assert_eq!(after(2), large);
    assert!(after(16) > large);
    // The three tables, and two layers of qkv, attention output and the feed-forward's two.
    let weights = (300 + 64 + 2) * 32 + 2 * (32 * 96 + 32 * 32 + 2 * 32 * 64);
    assert!(embedder.memory().weights_bytes >= 4 * weights);
}

#[test]
fn flops_are_those_of_the_formula() {
    let embedder = Embedder::load(&tiny(), &cpu(Isa::best(), 1)).unwrap();
    // Two layers; per token 2 * (d * 3d + d * d + 2 * d * ff), per pair of tokens 4 * d.
    let expected = |lengths: &[u64]| -> u64 {
        let (tokens, pairs): (u64, u64) = (lengths.iter().sum(), lengths.iter().map(|n| n * n).sum());
        2 * (tokens * 2 * (32 * 96 + 32 * 32 + 2 * 32 * 64) + pairs * 4 * 32)
    };
    assert_eq!(embedder.flops(&[48, 3, 1]), expected(&[48, 3, 1]));
    assert_eq!(embedder.flops(&[]), 0);
}

proptest! {
    #[test]
    fn a_batch_packs_what_it_was_given(sequences in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..9), 0..9)) {
        let packed = Batch::pack(&sequences);
        let packable = !sequences.is_empty() && sequences.iter().all(|s| !s.is_empty());
        prop_assert_eq!(packed.is_some(), packable);
        if let Some(batch) = packed {
            let bounds = batch.cu_seqlens().windows(2);
            let back: Vec<_> = bounds.map(|b| batch.ids()[b[0] as usize..b[1] as usize].to_vec()).collect();
            prop_assert_eq!((batch.sequences(), back), (sequences.len(), sequences));
        }
    }
}
