//! The arithmetic of the encoders, and the attention of small language models: slices in, slices out, one thread, no
//! allocation in an inner loop.
//!
//! The principal type is [`isa::Isa`]: which instruction set to run with. Its values are proofs that the
//! processor has the instructions, so every kernel is a safe function that takes one.
//!
//! ```
//! use haul_kernels::act::Activation;
//! use haul_kernels::dtype::Dtype;
//! use haul_kernels::gemm::{Epilogue, PackedWeight, Scratch, linear};
//! use haul_kernels::isa::Isa;
//!
//! // y = x . W^T + bias for two rows of three features and a layer of two outputs.
//! let weight = PackedWeight::pack(Isa::best(), &[1.0, 0.0, 0.0, 0.0, 1.0, 1.0], 2, 3, Dtype::F32);
//! let mut y = [0.0; 4];
//! let epilogue =
//!     Epilogue { bias: Some(&[0.5, 0.0]), activation: Activation::Identity, residual: None };
//! linear(Isa::best(), &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, &weight, epilogue, &mut Scratch::new(), &mut y);
//! assert_eq!(y, [1.5, 5.0, 4.5, 11.0]);
//! ```
//!
//! Promises, each tested: a row's result depends on that row and the weights alone, bit for bit within one
//! instruction set (never on the batch around it); NaN in a row comes out as NaN in that row; every kernel
//! has a plain scalar twin in [`mod@reference`].
//!
//! Never here: threads, files, the environment, a choice of instruction set that the caller did not make.
//! Wrong slice lengths are a programmer's error and panic with the numbers.

pub mod act;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(all(target_arch = "x86_64", unix))]
mod amx_unix;
pub mod attention;
pub mod cells;
pub mod dot;
pub mod dropout;
pub mod dtype;
pub mod gate;
pub mod gemm;
pub mod isa;
pub mod norm;
pub mod perturb;
pub mod reference;
pub mod roof;
pub mod rotary;
mod simd;
mod tile;
