//! Files to blocks of text with offsets, and chunks.
//!
//! [`source::list`] finds files, a [`worker::Worker`] reads each in another process into
//! [`document::Document`]s (one text, and where its blocks and chapters stand in it), and
//! [`chunk::by_tokens`] cuts a document into pieces that fit a model, given the offsets of its tokens.
//! [`manuscript::Manuscript`] reads a document that is to be corrected into passages of plain text and writes it
//! back with every byte outside of changed words as it was; it is read in this process, under the same limits.
//! [`calibre::read`] says what a Calibre library knows of its books.
//!
//! This crate never fetches anything that a file refers to, never writes beside its input (a Calibre database is
//! copied to a scratch folder that the caller names), and does not know models,
//! vectors or stores. Parsers of files run in worker processes that limit themselves.
//!
//! ```
//! use haul_corpus::chunk::{ChunkSettings, by_tokens};
//! use haul_corpus::document::{Block, BlockKind, Chapter, Document};
//!
//! let text = "One two. Three four.";
//! let chapter = Chapter { breadcrumb: vec![], href: None, start: 0, end: text.len() };
//! let block = Block { kind: BlockKind::Paragraph, start: 0, end: text.len(), chapter: 0 };
//! let document = Document {
//!     text: text.to_owned(),
//!     blocks: vec![block],
//!     chapters: vec![chapter],
//!     ..Document::default()
//! };
//! let words = [(0, 3), (4, 8), (9, 14), (15, 20)];
//! let chunks = by_tokens(&document, &words, &ChunkSettings { chunk_tokens: 2, overlap_sentences: 0 });
//! assert_eq!(&text[chunks[0].start..chunks[0].end], "One two. ");
//! # assert_eq!(chunks.len(), 2);
//! ```
#![forbid(unsafe_code)]

pub mod calibre;
pub mod chunk;
pub mod container;
pub mod document;
pub mod limits;
pub mod manuscript;
pub mod parse;
pub mod pdf;
pub mod readers;
pub mod source;
pub mod verdict;
pub mod worker;

mod archive;
mod chapters;
mod docx;
mod encoding;
mod epub;
mod html;
mod json_lines;
mod language;
mod mail;
mod markdown;
mod markup;
#[cfg(unix)]
mod path_unix;
#[cfg(any(windows, test))]
mod path_windows;
mod picture;
mod sentence;
mod sniff;
mod text;
mod workbook;
mod worker_unix;
