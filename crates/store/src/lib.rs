//! Documents, chunks, vectors and full text in one file.
//!
//! The principal type is [`Library`](library::Library): an SQLite file `X.haul` that is written by one process
//! and read by any number, and that a kill at any instant leaves whole. [`search`](search::search) answers from
//! it by BM25, by exact vector search, or by both fused. Beside it stands `X.haul.seg`, a mapped copy of the
//! vectors for fast scans ([`segment`]), which may be deleted at any time.
//!
//! ```
//! use haul_store::library::{Chunkers, Library, LibrarySettings};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("books.haul");
//! # let settings = LibrarySettings {
//! #     model_name: "minilm".into(), model_sha256: "00".into(), dim: 4, dtype: "f32".into(),
//! #     pooling: "mean".into(), normalize: true, max_tokens: 256, chunker: "tokens".into(),
//! #     chunk_tokens: 254, overlap_sentences: 1, query_prompt: String::new(),
//! #     document_prompt: String::new(), parser_version: 1, chunker_version: 1, numerics_version: 1,
//! #     chunkers: Chunkers::default(), sparse: false,
//! # };
//! let library = Library::create(&path, &settings)?;
//! assert!(library.verify()?.findings.is_empty());
//! assert_eq!(library.settings().dim, 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It never parses a file, never runs a model, never falls back to approximate results, and never prints.

mod check;
mod commit;
mod dense;
mod fulltext;
mod host_unix;
mod ids;
pub mod library;
mod lock;
mod log;
mod merge;
mod overview;
mod parent;
mod payload;
pub mod points;
pub mod publish;
pub mod qdrant;
mod read;
mod records;
pub mod replace;
mod schema;
pub mod search;
pub mod segment;
mod settings;
mod sparse;
mod terms;
mod write;
