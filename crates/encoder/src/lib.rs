//! Tokens to vectors: a model directory, its tokenizer, and its arithmetic on a device.
//!
//! The principal type is [`embedder::Embedder`]: framed token ids go in by batches, checked rows come out.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use std::path::Path;
//!
//! use haul_encoder::device::cpu::CpuDevice;
//! use haul_encoder::embedder::Embedder;
//! use haul_encoder::model_dir::ModelDir;
//! use haul_kernels::dtype::Dtype;
//! use haul_kernels::isa::Isa;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tiny-bert"));
//! let model = ModelDir::open(dir)?;
//! let embedder = Embedder::load(&model, &CpuDevice::new(Isa::best(), Dtype::F32, NonZeroUsize::MIN))?;
//!
//! let text = format!("{}a boat in the storm", model.prompts.query());
//! let encoding = model.tokenizer.encode(&model.prepare(&text))?;
//! let ticket = embedder.submit(&[model.tokenizer.frame(&encoding.ids)])?;
//! let vectors = embedder.collect(ticket)?;
//! assert_eq!((vectors.rows(), vectors.dim()), (1, 32));
//! # Ok(())
//! # }
//! ```
//!
//! A model is data: [`model`] writes a [`program::Program`], a list of coarse operations on packed `[tokens, width]`
//! buffers, and every [`device::Device`] runs every program. Padding exists nowhere. BERT, XLM-RoBERTa and ModernBERT
//! run; a model with bge-m3's heads gives sparse and token vectors in the same forward
//! ([`embedder::LoadOptions::heads`]).
//!
//! Never here: a choice of device that the caller did not make, the network, the environment, a guess at a model's
//! pooling, text that is cut in silence.

pub mod captions;
pub mod device;
pub mod embedder;
pub mod identity;
pub mod model;
pub mod model_dir;
pub mod pooling;
pub mod program;
pub mod tokenizer;
pub mod vision;
pub mod weights;

pub use haul_kernels::dtype;

/// Raised when a change of the arithmetic gives a vector other bits on some instruction set; part of the
/// fingerprint under which vectors are kept.
pub const NUMERICS_VERSION: u32 = 3;
