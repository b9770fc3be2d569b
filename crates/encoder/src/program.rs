//! A model as data: the list of operations that a device runs on a packed batch.
//!
//! A [`Program`] names buffers and weights by id and never sees a number of either. All activations are packed
//! `[tokens, width]` with the sequences one after the other; padding does not exist. A new architecture is a new
//! function that writes a program, and a new device runs every program there is.

use std::borrow::Cow;
use std::ops::Range;

use haul_kernels::act::Activation;
use haul_kernels::attention::Sees;

use crate::pooling::Pooling;
use crate::weights::{Weights, WeightsError};

/// What a device runs for each batch, in order.
#[derive(Debug, Clone)]
pub struct Program {
    /// The operations.
    pub ops: Vec<Op>,
    /// What the buffers look like, by [`BufferId`].
    pub buffers: Vec<Buffer>,
    /// Weights of the [`Op::Linear`]s and [`Op::FeedForward`]s, by [`LinearId`].
    pub linears: Vec<Linear>,
    /// All other weights, by [`TensorId`].
    pub tensors: Vec<Tensor>,
    /// Angles of the [`Op::Rotary`]s, by [`RotaryId`].
    pub rotaries: Vec<Rotary>,
    /// What a batch gives back.
    pub outputs: OutputBuffers,
}

/// A program cut in two at its first [`Op::Perturb`] or [`Op::Skip`]: what comes before depends on the image alone and is
/// computed once for all passes over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Operations before it.
    pub prefix_ops: usize,
    /// Buffers that the others read from those.
    pub live: Vec<BufferId>,
}

/// The buffers that a batch gives back.
#[derive(Debug, Clone)]
pub struct OutputBuffers {
    /// `[sequences, dim]`: one vector a sequence.
    pub dense: BufferId,
    /// One weight for each distinct token of a sequence.
    pub sparse: Option<SparseBuffer>,
    /// `[tokens, width]`: one vector a token. The row of the first token of each sequence is left out.
    pub colbert: Option<BufferId>,
}

/// Where the weights of the tokens stand, and whose are left out.
#[derive(Debug, Clone)]
pub struct SparseBuffer {
    /// `[tokens, 1]`.
    pub weights: BufferId,
    /// Special tokens, which get no weight.
    pub dropped_ids: Vec<u32>,
}

/// One coarse operation. The buffer `out` is written whole; no operation reads what it writes, except where it says
/// "in place".
#[derive(Debug, Clone)]
pub enum Op {
    /// `out = layer_norm(word[id] + token_type[0] + position[number of the token in its own sequence])`.
    Embed {
        /// `[vocabulary, width]`.
        word: TensorId,
        /// Absent where the model turns queries and keys instead.
        position: Option<Positions>,
        /// `[types, width]`; row 0 is added to every token.
        token_type: Option<TensorId>,
        /// The norm after the sum; absent where each block has one before it.
        norm: Option<LayerNorm>,
        /// `[tokens, width]`.
        out: BufferId,
    },
    /// The patches of each image through a linear layer, behind a class row where the model has one; then
    /// `out = row + position[number of the row in its own image]`.
    EmbedPatches {
        /// From the numbers of a patch to `width`.
        patch: LinearId,
        /// `[width]`: stands before the patches of an image.
        class: Option<TensorId>,
        /// `[rows of an image, width]`.
        position: TensorId,
        /// `[tokens, width]`.
        out: BufferId,
    },
    /// `out = activation(x @ weight^T + bias) + residual`, for as many rows as `x` has.
    Linear {
        /// `[tokens or sequences, in_features]`.
        x: BufferId,
        /// Weight and bias.
        linear: LinearId,
        /// Applied before the residual is added.
        activation: Activation,
        /// As many rows of `out_features`.
        residual: Option<BufferId>,
        /// As many rows of `out_features`.
        out: BufferId,
    },
    /// `out = activation(x @ up^T + bias) @ down^T + bias + residual`.
    FeedForward {
        /// `[tokens or sequences, in_features of up]`.
        x: BufferId,
        /// Weight and bias of the first layer.
        up: LinearId,
        /// Between the layers.
        activation: Activation,
        /// Weight and bias of the second layer.
        down: LinearId,
        /// As many rows of `down`'s outputs.
        residual: Option<BufferId>,
        /// As many rows of `down`'s outputs.
        out: BufferId,
    },
    /// Attention inside each sequence: `softmax(q k^T * scale) v` for each head.
    Attention {
        /// `[tokens, 3 * heads * head_size]`: all of q, then k, then v.
        qkv: BufferId,
        /// Number of heads.
        heads: usize,
        /// Columns of one head.
        head_size: usize,
        /// Usually `1 / sqrt(head_size)`.
        scale: f32,
        /// The tokens of its sequence that a token sees.
        sees: Sees,
        /// `[tokens, heads * head_size]`.
        out: BufferId,
    },
    /// Turns queries and keys by their token's place in its own sequence, in place.
    Rotary {
        /// `[tokens, 3 * heads * head_size]`: all of q, then k, then v, which stays.
        qkv: BufferId,
        /// Number of heads.
        heads: usize,
        /// The angles, for heads of one size.
        rotary: RotaryId,
    },
    /// `out = activation(left half of x) * right half of x`.
    Gate {
        /// `[tokens, 2 * width]`.
        x: BufferId,
        /// Of the left half.
        activation: Activation,
        /// `[tokens, width]`.
        out: BufferId,
    },
    /// What the batch does to outputs of a layer, in place (see [`haul_kernels::perturb`]).
    Perturb {
        /// `[tokens or sequences, width]`.
        x: BufferId,
        /// What the masks call the place.
        site: u32,
    },
    /// Zeros in place of all rows of a pass whose coin falls: a branch that is left out.
    Skip {
        /// `[tokens or sequences, width]`.
        x: BufferId,
        /// What the masks call the place.
        site: u32,
    },
    /// `x = activation(x)`, in place.
    Activate {
        /// Any buffer.
        x: BufferId,
        /// The function.
        activation: Activation,
    },
    /// `x += y`, in place.
    Add {
        /// Any buffer.
        x: BufferId,
        /// Of the same shape.
        y: BufferId,
    },
    /// One query of the model's own looks at all rows of a sequence: `softmax(q k^T * scale) v` for each head, where `q`
    /// is the first third of the probe's own row under `qkv`.
    Probe {
        /// `[heads * head_size]`.
        probe: TensorId,
        /// The layer that made `x`.
        qkv: LinearId,
        /// `[tokens, 3 * heads * head_size]`: all of q, which is not read, then k, then v.
        x: BufferId,
        /// Number of heads.
        heads: usize,
        /// Usually `1 / sqrt(head_size)`.
        scale: f32,
        /// `[sequences, heads * head_size]`.
        out: BufferId,
    },
    /// Layer norm of each row.
    Norm {
        /// `[tokens or sequences, width]`.
        x: BufferId,
        /// Scale, shift and epsilon.
        norm: LayerNorm,
        /// As many rows of `width`; may be `x`, which is then normed in place.
        out: BufferId,
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
    /// The first columns of each row.
    Cut {
        /// `[sequences, width]`.
        x: BufferId,
        /// `[sequences, fewer]`.
        out: BufferId,
    },
    /// Each row divided by its Euclidean norm, in place.
    L2 {
        /// `[sequences or tokens, width]`.
        x: BufferId,
    },
}

impl Op {
    /// Buffers that it reads, those that it changes in place among them.
    fn reads(&self) -> Vec<BufferId> {
        match *self {
            Op::Embed { .. } | Op::EmbedPatches { .. } => vec![],
            Op::Linear { x, residual, .. } | Op::FeedForward { x, residual, .. } => {
                [x].into_iter().chain(residual).collect()
            }
            Op::Attention { qkv, .. } | Op::Rotary { qkv, .. } => vec![qkv],
            Op::Add { x, y } => vec![x, y],
            Op::Probe { x, .. }
            | Op::Gate { x, .. }
            | Op::Norm { x, .. }
            | Op::Pool { x, .. }
            | Op::Cut { x, .. }
            | Op::Perturb { x, .. }
            | Op::Skip { x, .. }
            | Op::Activate { x, .. }
            | Op::L2 { x } => vec![x],
        }
    }

    /// The buffer that it writes.
    fn writes(&self) -> BufferId {
        match *self {
            Op::Embed { out, .. }
            | Op::EmbedPatches { out, .. }
            | Op::Linear { out, .. }
            | Op::FeedForward { out, .. }
            | Op::Attention { out, .. }
            | Op::Probe { out, .. }
            | Op::Gate { out, .. }
            | Op::Norm { out, .. }
            | Op::Pool { out, .. }
            | Op::Cut { out, .. } => out,
            Op::Rotary { qkv, .. } => qkv,
            Op::Perturb { x, .. }
            | Op::Skip { x, .. }
            | Op::Activate { x, .. }
            | Op::Add { x, .. }
            | Op::L2 { x } => x,
        }
    }
}

/// A table of positions and how the tokens of a sequence are numbered into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    /// `[positions, width]`.
    pub table: TensorId,
    /// Which row a token takes.
    pub numbering: Numbering,
}

/// How the tokens of a sequence are numbered. Each sequence begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// 0, 1, 2, ...
    FromZero,
    /// `id + 1, id + 2, ...`, and `id` for each token that is `id` itself (RoBERTa and its kin).
    AfterPadding {
        /// The padding token.
        id: u32,
    },
}

impl Numbering {
    /// The row of each token of one sequence.
    pub fn rows(self, ids: &[u32]) -> impl Iterator<Item = usize> {
        let mut next = match self {
            Numbering::FromZero => 0,
            Numbering::AfterPadding { id } => id as usize + 1,
        };
        ids.iter().map(move |&token| match self {
            Numbering::AfterPadding { id } if token == id => id as usize,
            _ => {
                next += 1;
                next - 1
            }
        })
    }
}

/// The angles by which [`Op::Rotary`] turns: position `p` and pair `i` of a head turn by `p * theta^(-2i / head_size)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rotary {
    /// The base of the angles.
    pub theta: f32,
    /// Columns of a head.
    pub head_size: usize,
    /// The longest sequence.
    pub positions: usize,
}

/// Scale and shift of a layer norm, `[width]` each, and what keeps the variance from zero.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm {
    /// The scale.
    pub gamma: TensorId,
    /// The shift, if there is one.
    pub beta: Option<TensorId>,
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

impl Buffer {
    fn bytes(self, sequences: usize, tokens: usize) -> usize {
        let rows = match self.rows {
            Rows::Tokens => sequences * tokens,
            Rows::Sequences => sequences,
        };
        rows * self.width * size_of::<f32>()
    }
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
    /// Names in the weights file, each a tensor of `out_features / weights.len()` rows, but for [`Layout::QueryFirst`].
    pub weights: Vec<String>,
    /// How each of them stands in the file.
    pub layout: Layout,
    /// Names of as many biases, or none.
    pub biases: Vec<String>,
    /// Columns of the output.
    pub out_features: usize,
    /// Columns of the input.
    pub in_features: usize,
}

/// How a file has the weight of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[out_features, in_features]`, as torch's `Linear` has it.
    OutIn,
    /// As [`Layout::OutIn`], of two tensors: queries, and keys with values, which have twice as many rows.
    QueryFirst,
    /// `[in_features, out_features]`: a matrix that stands behind what it is multiplied with.
    InOut,
    /// `[out_features, channels, side, side]`: a convolution whose steps are as long as its window.
    Patch {
        /// Channels of the image.
        channels: usize,
        /// Pixels of a patch in each direction.
        side: usize,
    },
}

impl Linear {
    /// The whole weight `[out_features, in_features]`, row-major.
    pub(crate) fn read_weight<'w>(&self, weights: &'w Weights) -> Result<Cow<'w, [f32]>, WeightsError> {
        let rows = self.rows(0);
        match self.layout {
            Layout::OutIn | Layout::QueryFirst => {
                read_stacked(&self.weights, |part| vec![self.rows(part), self.in_features], weights)
            }
            Layout::Patch { channels, side } => {
                read_stacked(&self.weights, |_| vec![rows, channels, side, side], weights)
            }
            Layout::InOut => {
                let stacked = read_stacked(&self.weights, |_| vec![self.in_features, rows], weights)?;
                let transposed = |matrix: &[f32]| {
                    (0..rows)
                        .flat_map(|row| matrix.iter().skip(row).step_by(rows).copied())
                        .collect::<Vec<f32>>()
                };
                Ok(stacked.chunks_exact(rows * self.in_features).flat_map(transposed).collect())
            }
        }
    }

    /// The whole bias `[out_features]`, if the layer has one.
    pub(crate) fn read_bias(&self, weights: &Weights) -> Result<Option<Vec<f32>>, WeightsError> {
        if self.biases.is_empty() {
            return Ok(None);
        }
        read_stacked(&self.biases, |part| vec![self.rows(part)], weights).map(|bias| Some(bias.into_owned()))
    }

    /// Rows of one of its tensors.
    fn rows(&self, part: usize) -> usize {
        match self.layout {
            Layout::QueryFirst => self.out_features / 3 * (1 + part),
            _ => self.out_features / self.weights.len(),
        }
    }
}

fn read_stacked<'w>(
    names: &[String],
    shape_of: impl Fn(usize) -> Vec<usize>,
    weights: &'w Weights,
) -> Result<Cow<'w, [f32]>, WeightsError> {
    // Most stand alone, and are not copied. No capacity ahead: the shape is not proven yet.
    let mut stacked = match names.first() {
        Some(name) => weights.view(name, &shape_of(0))?,
        None => Cow::Borrowed(&[][..]),
    };
    for (part, name) in names.iter().enumerate().skip(1) {
        stacked.to_mut().extend_from_slice(&weights.view(name, &shape_of(part))?);
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
/// Index into [`Program::rotaries`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotaryId(pub usize);

impl Program {
    /// Columns of a buffer.
    pub fn width(&self, buffer: BufferId) -> usize {
        self.buffers[buffer.0].width
    }

    /// Columns of the dense rows that a batch gives back.
    pub fn dim(&self) -> usize {
        self.width(self.outputs.dense)
    }

    /// Where the program is cut for passes over one image; `None` where passes do not differ.
    pub fn split(&self) -> Option<Split> {
        let differs = |op: &Op| matches!(op, Op::Perturb { .. } | Op::Skip { .. });
        let prefix_ops = self.ops.iter().position(differs)?;
        let (mut live, mut written) = (vec![], vec![]);
        for op in &self.ops[prefix_ops..] {
            let from_before = |id: &BufferId| !written.contains(id) && !live.contains(id);
            let new: Vec<BufferId> = op.reads().into_iter().filter(from_before).collect();
            live.extend(new);
            written.push(op.writes());
        }
        Some(Split { prefix_ops, live })
    }

    /// Bytes of all buffers for so many sequences of so many tokens each.
    pub fn buffer_bytes(&self, sequences: usize, tokens: usize) -> usize {
        self.buffers.iter().map(|buffer| buffer.bytes(sequences, tokens)).sum()
    }

    /// Bytes of what passes over one image of so many tokens begin from; none without such passes.
    pub fn state_bytes(&self, tokens: usize) -> usize {
        let live = self.split().map_or_else(Vec::new, |split| split.live);
        live.iter().map(|id| self.buffers[id.0].bytes(1, tokens)).sum()
    }

    /// Floating-point operations of one packed batch: 2 for each multiply-add of the linear layers and of
    /// attention's two products. Norms, activations and pooling are left out; they are below one percent.
    pub fn flops(&self, lengths_tokens: &[usize]) -> u64 {
        self.flops_of(0..self.ops.len(), lengths_tokens)
    }

    /// [`Program::flops`] of some of its operations.
    pub fn flops_of(&self, ops: Range<usize>, lengths_tokens: &[usize]) -> u64 {
        let (sequences, tokens): (u64, u64) =
            (lengths_tokens.len() as u64, lengths_tokens.iter().map(|&n| n as u64).sum());
        let flops_of_linear = |x: BufferId, LinearId(id): LinearId| {
            let rows = match self.buffers[x.0].rows {
                Rows::Tokens => tokens,
                Rows::Sequences => sequences,
            };
            2 * rows * self.linears[id].out_features as u64 * self.linears[id].in_features as u64
        };
        let flops_of = |op: &Op| match *op {
            Op::EmbedPatches { patch, out, .. } => flops_of_linear(out, patch),
            Op::Linear { x, linear, .. } => flops_of_linear(x, linear),
            Op::FeedForward { x, up, down, .. } => flops_of_linear(x, up) + flops_of_linear(x, down),
            Op::Attention { heads, head_size, sees, .. } => {
                let pairs: u64 = lengths_tokens.iter().map(|&n| attended_pairs(n as u64, sees)).sum();
                4 * pairs * heads as u64 * head_size as u64
            }
            _ => 0,
        };
        self.ops[ops].iter().map(flops_of).sum()
    }
}

/// Pairs of a token and one that it sees, in a sequence of `n`.
fn attended_pairs(n: u64, sees: Sees) -> u64 {
    match sees {
        Sees::All => n * n,
        Sees::Near(tokens) => {
            let beyond = n.saturating_sub((tokens as u64).saturating_add(1));
            n * n - beyond * (beyond + 1)
        }
        Sees::Before => n * (n + 1) / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attended_pairs_are_those_one_counts() {
        for n in 0..12u64 {
            let near = (0..14).map(Sees::Near);
            for sees in near.chain([Sees::All, Sees::Before]) {
                let seen = |query: u64| sees.keys(query as usize, n as usize).len() as u64;
                assert_eq!(attended_pairs(n, sees), (0..n).map(seen).sum::<u64>(), "{n} {sees:?}");
            }
        }
    }

    /// `transformers`: cumsum(ids != padding) * (ids != padding) + padding.
    #[test]
    fn padding_tokens_take_the_padding_row_and_do_not_count() {
        let rows = |numbering: Numbering, ids: &[u32]| numbering.rows(ids).collect::<Vec<_>>();
        assert_eq!(rows(Numbering::FromZero, &[1, 1, 9]), [0, 1, 2]);
        assert_eq!(rows(Numbering::AfterPadding { id: 1 }, &[0, 1, 9, 1, 1, 2]), [2, 1, 3, 1, 1, 4]);
    }
}
