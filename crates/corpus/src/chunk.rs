//! Cuts a document into chunks: by tokens, by words, or where the topic changes.
//!
//! [`by_tokens`] packs whole sentences into a token budget, [`fixed`] takes windows of words, and [`topics`] ends a
//! chunk where two neighbouring sentences are not alike, given how alike they are. The last two cut each
//! [`sections::Section`] by itself. Chunks minus their overlaps are the text, byte for byte; what the chunkers of
//! Alexandria drop is dropped only by the functions that are named after it.
//!
//! The caller tokenizes, embeds and compares; nothing here knows a model. Where a chunk is over a model's maximum,
//! [`split`] gives smaller ones.

pub mod fixed;
pub mod sections;
pub mod topics;
pub mod words;

mod tokens;

pub use tokens::{ChunkSettings, by_tokens, split};

use crate::document::Document;

/// Changes when the same document, offsets and settings give other chunks; part of the pipeline fingerprint.
pub const VERSION: u32 = 2;

/// Where a chunk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First byte of `Document::text`.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Bytes at its start that repeat the end of the chunk before.
    pub overlap_bytes: usize,
    /// Tokens whose start lies inside, without special tokens; 0 from the chunkers that count words.
    pub tokens: usize,
    /// Index into `Document::chapters`: where what it does not repeat begins.
    pub chapter: usize,
    /// Tokens that the model will not see. The chunker drops none and says 0; who truncates says how many.
    pub truncated_tokens: usize,
}

/// A chunk of `start..end`, in the chapter where what it does not repeat begins.
fn chunk_of(document: &Document, start: usize, end: usize, overlap_bytes: usize) -> Chunk {
    let chapter = chapter_at(document, start + overlap_bytes);
    Chunk { start, end, overlap_bytes, tokens: 0, chapter, truncated_tokens: 0 }
}

/// The chapter that holds a byte, the last one for the end of the text.
pub fn chapter_at(document: &Document, byte: usize) -> usize {
    let chapter = document.chapters.partition_point(|chapter| chapter.end <= byte);
    chapter.min(document.chapters.len().saturating_sub(1))
}
