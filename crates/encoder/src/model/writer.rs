//! What writing a program takes, whatever the architecture.

use haul_kernels::act::Activation;

use crate::model::{Head, SIZE_MAX, Wanted};
use crate::program::{
    Buffer, BufferId, LayerNorm, Layout, Linear, LinearId, Op, OutputBuffers, Program, Rotary, RotaryId,
    Rows, SparseBuffer, Tensor, TensorId,
};
use crate::weights::{Weights, WeightsError};

pub(super) struct Writer<'w> {
    pub(super) sizes: Sizes,
    pub(super) weights: &'w Weights,
    prefix: &'static str,
    ops: Vec<Op>,
    buffers: Vec<Buffer>,
    linears: Vec<Linear>,
    tensors: Vec<Tensor>,
    rotaries: Vec<Rotary>,
}

/// What all layers of a model share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) hidden_size: usize,
    pub(super) layers: usize,
    pub(super) layer_norm_eps: f32,
}

/// Whether a layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    Present,
    Absent,
}

impl Bias {
    /// As a configuration says it.
    pub(super) fn from_flag(present: bool) -> Bias {
        if present { Bias::Present } else { Bias::Absent }
    }
}

impl<'w> Writer<'w> {
    pub(super) fn new(sizes: Sizes, weights: &'w Weights) -> Writer<'w> {
        Writer {
            sizes,
            weights,
            prefix: "",
            ops: vec![],
            buffers: vec![],
            linears: vec![],
            tensors: vec![],
            rotaries: vec![],
        }
    }

    /// Sets `prefix` before every name from here on, if that is how the file names `tensor`. A checkpoint of a task
    /// model has it.
    pub(super) fn detect_prefix(&mut self, prefix: &'static str, tensor: &str) {
        if self.weights.contains(&format!("{prefix}{tensor}")) {
            self.prefix = prefix;
        }
    }

    /// Names stand from here on as they are.
    pub(super) fn without_prefix(&mut self) {
        self.prefix = "";
    }

    /// A file with more layers than `config.json` says would give wrong vectors in silence.
    pub(super) fn refuse_more_layers(&self, before_number: &str) -> Result<(), WeightsError> {
        let layers = self.sizes.layers;
        let surplus = format!("{}{before_number}{layers}.", self.prefix);
        match self.weights.names().find(|name| name.starts_with(&surplus)) {
            None => Ok(()),
            Some(tensor) => Err(WeightsError::SurplusLayer {
                path: self.weights.path().into(),
                tensor: tensor.into(),
                layers,
            }),
        }
    }

    pub(super) fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    pub(super) fn push_linear(
        &mut self,
        x: BufferId,
        linear: LinearId,
        activation: Activation,
        residual: Option<BufferId>,
        out: BufferId,
    ) {
        self.push(Op::Linear { x, linear, activation, residual, out });
    }

    /// A new `[tokens, width]`.
    pub(super) fn token_buffer(&mut self, width: usize) -> BufferId {
        self.buffer(Buffer { rows: Rows::Tokens, width })
    }

    /// A new `[sequences, width]`.
    pub(super) fn sequence_buffer(&mut self, width: usize) -> BufferId {
        self.buffer(Buffer { rows: Rows::Sequences, width })
    }

    /// A new buffer with as many rows as `other`.
    pub(super) fn buffer_like(&mut self, other: BufferId, width: usize) -> BufferId {
        self.buffer(Buffer { width, ..self.buffers[other.0] })
    }

    fn buffer(&mut self, buffer: Buffer) -> BufferId {
        self.buffers.push(buffer);
        BufferId(self.buffers.len() - 1)
    }

    pub(super) fn linear(
        &mut self,
        names: &[String],
        bias: Bias,
        out_features: usize,
        in_features: usize,
    ) -> LinearId {
        let named = |suffix: &str| names.iter().map(|name| format!("{name}.{suffix}")).collect();
        let biases = if bias == Bias::Present { named("bias") } else { vec![] };
        let layout = Layout::OutIn;
        self.linear_of(Linear { weights: named("weight"), layout, biases, out_features, in_features })
    }

    /// [`Writer::linear`] of tensors that are called or stored otherwise.
    pub(super) fn linear_of(&mut self, linear: Linear) -> LinearId {
        let prefixed = |names: Vec<String>| {
            names.into_iter().map(|name| format!("{}{name}", self.prefix)).collect::<Vec<_>>()
        };
        let (weights, biases) = (prefixed(linear.weights), prefixed(linear.biases));
        self.linears.push(Linear { weights, biases, ..linear });
        LinearId(self.linears.len() - 1)
    }

    pub(super) fn layer_norm(&mut self, name: &str, bias: Bias) -> LayerNorm {
        let d = self.sizes.hidden_size;
        LayerNorm {
            gamma: self.tensor(&format!("{name}.weight"), &[d]),
            beta: (bias == Bias::Present).then(|| self.tensor(&format!("{name}.bias"), &[d])),
            eps: self.sizes.layer_norm_eps,
        }
    }

    pub(super) fn tensor(&mut self, name: &str, shape: &[usize]) -> TensorId {
        self.tensors.push(Tensor { name: format!("{}{name}", self.prefix), shape: shape.to_vec() });
        TensorId(self.tensors.len() - 1)
    }

    /// The angles of `rotary`, shared by all layers that want the same.
    pub(super) fn rotary(&mut self, rotary: Rotary) -> RotaryId {
        let known = self.rotaries.iter().position(|known| *known == rotary);
        RotaryId(known.unwrap_or_else(|| {
            self.rotaries.push(rotary);
            self.rotaries.len() - 1
        }))
    }

    /// A program that gives one row a sequence, and nothing else.
    pub(super) fn program(self, dense: BufferId) -> Program {
        self.with_outputs(OutputBuffers { dense, sparse: None, colbert: None })
    }

    fn with_outputs(self, outputs: OutputBuffers) -> Program {
        Program {
            ops: self.ops,
            buffers: self.buffers,
            linears: self.linears,
            tensors: self.tensors,
            rotaries: self.rotaries,
            outputs,
        }
    }

    /// From the hidden states to what is wanted of them.
    pub(super) fn finish(mut self, hidden: BufferId, wanted: &Wanted) -> Result<Program, WeightsError> {
        self.without_prefix();
        let dense = self.dense(hidden, wanted);
        let sparse = wanted.heads.contains(&Head::Sparse).then(|| self.sparse(hidden, wanted));
        let colbert = if wanted.heads.contains(&Head::Colbert) { Some(self.colbert(hidden)?) } else { None };
        Ok(self.with_outputs(OutputBuffers { dense, sparse, colbert }))
    }

    fn dense(&mut self, hidden: BufferId, wanted: &Wanted) -> BufferId {
        let whole = self.sizes.hidden_size * wanted.pooling.modes.len();
        let mut rows = self.sequence_buffer(whole);
        self.push(Op::Pool { x: hidden, pooling: wanted.pooling.clone(), out: rows });
        if let Some(dim) = wanted.dim.filter(|&dim| dim < whole) {
            let out = self.sequence_buffer(dim);
            self.push(Op::Cut { x: rows, out });
            rows = out;
        }
        if wanted.normalize {
            self.push(Op::L2 { x: rows });
        }
        rows
    }

    fn sparse(&mut self, hidden: BufferId, wanted: &Wanted) -> SparseBuffer {
        let weights = self.head(Head::Sparse, hidden, Activation::Relu, 1);
        SparseBuffer { weights, dropped_ids: wanted.dropped_ids.clone() }
    }

    fn colbert(&mut self, hidden: BufferId) -> Result<BufferId, WeightsError> {
        // The width is the file's own; a wrong one shows when the tensor is read with its whole shape.
        let shape = self.weights.shape(&format!("{}weight", Head::Colbert.weights_prefix()))?;
        let width = shape.first().map_or(1, |&rows| rows.clamp(1, SIZE_MAX as u64) as usize);
        let out = self.head(Head::Colbert, hidden, Activation::Identity, width);
        self.push(Op::L2 { x: out });
        Ok(out)
    }

    fn head(&mut self, head: Head, hidden: BufferId, activation: Activation, width: usize) -> BufferId {
        let name = head.weights_prefix().trim_end_matches('.');
        let linear = self.linear(&[name.into()], Bias::Present, width, self.sizes.hidden_size);
        let out = self.token_buffer(width);
        self.push_linear(hidden, linear, activation, None, out);
        out
    }
}
