//! A model as data: the list of operations that a device runs on a packed batch.
//!
//! A [`Program`] names buffers and weights by id and never sees a number of either. All activations are packed
//! `[tokens, width]` with the sequences one after the other; padding does not exist. A new architecture is a new
//! function that writes a program, and a new device runs every program there is.

use haul_kernels::act::Activation;

use crate::pooling::Pooling;
use crate::weights::{Weights, WeightsError};

/// What a device runs for each batch, in order.
#[derive(Debug, Clone)]
pub struct Program {
    /// The operations.
    pub ops: Vec<Op>,
    /// What the buffers look like, by [`BufferId`].
    pub buffers: Vec<Buffer>,
    /// Weights of the [`Op::Linear`]s, by [`LinearId`].
    pub linears: Vec<Linear>,
    /// All other weights, by [`TensorId`].
    pub tensors: Vec<Tensor>,
    /// The buffer of `[sequences, dim]` rows that a batch gives back.
    pub output: BufferId,
}

/// One coarse operation. The buffer `out` is written whole; no operation reads what it writes, except where it says
/// "in place".
#[derive(Debug, Clone)]
pub enum Op {
    /// `out = layer_norm(word[id] + token_type[0] + position[place in its own sequence])`.
    EmbedNorm {
        /// `[vocabulary, width]`.
        word: TensorId,
        /// `[positions, width]`.
        position: TensorId,
        /// `[types, width]`; row 0 is added to every token.
        token_type: TensorId,
        /// The norm after the sum.
        norm: LayerNorm,
        /// `[tokens, width]`.
        out: BufferId,
    },
    /// `out = activation(x @ weight^T + bias) + residual`.
    Linear {
        /// `[tokens, in_features]`.
        x: BufferId,
        /// Weight and bias.
        linear: LinearId,
        /// Applied before the residual is added.
        activation: Activation,
        /// `[tokens, out_features]`.
        residual: Option<BufferId>,
        /// `[tokens, out_features]`.
        out: BufferId,
    },
    /// Bidirectional attention inside each sequence: `softmax(q k^T * scale) v` for each head.
    Attention {
        /// `[tokens, 3 * heads * head_size]`: all of q, then k, then v.
        qkv: BufferId,
        /// Number of heads.
        heads: usize,
        /// Columns of one head.
        head_size: usize,
        /// Usually `1 / sqrt(head_size)`.
        scale: f32,
        /// `[tokens, heads * head_size]`.
        out: BufferId,
    },
    /// Layer norm of each row, in place.
    Norm {
        /// `[tokens, width]`.
        x: BufferId,
        /// Scale, shift and epsilon.
        norm: LayerNorm,
    },
    /// One row a sequence.
    Pool {
        /// `[tokens, width]`.
        x: BufferId,
        /// The modes, side by side in `out`.
        pooling: Pooling,
        /// `[sequences, width * modes]`.
        out: BufferId,
    },
    /// Each row divided by its Euclidean norm, in place.
    L2 {
        /// `[sequences, width]`.
        x: BufferId,
    },
}

/// Scale and shift of a layer norm, `[width]` each, and what keeps the variance from zero.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// The scale.
    pub gamma: TensorId,
    /// The shift.
    pub beta: TensorId,
    /// Added to the variance.
    pub eps: f32,
}

/// A buffer of the arena: so many rows of `width` f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// What a row stands for.
    pub rows: Rows,
    /// Columns.
    pub width: usize,
}

/// What the rows of a buffer stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// One row a token of the batch.
    Tokens,
    /// One row a sequence of the batch.
    Sequences,
}

/// The weight `[out_features, in_features]` and bias `[out_features]` of a linear layer. Several tensors of the file
/// (query, key and value, say) stand one below the other.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Names in the weights file, each a tensor `[out_features / weights.len(), in_features]`.
    pub weights: Vec<String>,
    /// Names of as many biases.
    pub biases: Vec<String>,
    /// Columns of the output.
    pub out_features: usize,
    /// Columns of the input.
    pub in_features: usize,
}

impl Linear {
    /// The whole weight `[out_features, in_features]`, row-major.
    pub(crate) fn read_weight(&self, weights: &Weights) -> Result<Vec<f32>, WeightsError> {
        let shape = [self.out_features / self.weights.len(), self.in_features];
        read_stacked(&self.weights, &shape, weights)
    }

    /// The whole bias `[out_features]`.
    pub(crate) fn read_bias(&self, weights: &Weights) -> Result<Vec<f32>, WeightsError> {
        read_stacked(&self.biases, &[self.out_features / self.biases.len()], weights)
    }
}

fn read_stacked(names: &[String], shape: &[usize], weights: &Weights) -> Result<Vec<f32>, WeightsError> {
    // No capacity ahead: the shape is not proven yet.
    let mut stacked = vec![];
    for name in names {
        stacked.extend(weights.read(name, shape)?);
    }
    Ok(stacked)
}

/// A weight that is read as it stands in the file.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name in the weights file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// Index into [`Program::buffers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferId(pub usize);
/// Index into [`Program::linears`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearId(pub usize);
/// Index into [`Program::tensors`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorId(pub usize);

impl Program {
    /// Columns of a buffer.
    pub fn width(&self, buffer: BufferId) -> usize {
        self.buffers[buffer.0].width
    }

    /// Columns of the rows that a batch gives back.
    pub fn dim(&self) -> usize {
        self.width(self.output)
    }

    /// Floating-point operations of one packed batch: 2 for each multiply-add of the linear layers and of
    /// attention's two products. Norms, activations and pooling are left out; they are below one percent.
    pub fn flops(&self, lengths_tokens: &[usize]) -> u64 {
        let tokens: u64 = lengths_tokens.iter().map(|&n| n as u64).sum();
        let pairs: u64 = lengths_tokens.iter().map(|&n| (n as u64).pow(2)).sum();
        let flops_of = |op: &Op| match *op {
            Op::Linear { linear: LinearId(id), .. } => {
                2 * tokens * self.linears[id].out_features as u64 * self.linears[id].in_features as u64
            }
            Op::Attention { heads, head_size, .. } => 4 * pairs * heads as u64 * head_size as u64,
            Op::EmbedNorm { .. } | Op::Norm { .. } | Op::Pool { .. } | Op::L2 { .. } => 0,
        };
        self.ops.iter().map(flops_of).sum()
    }
}
