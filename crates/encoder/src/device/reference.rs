//! The oracle: the same programs in plain loops, f32 in the buffers and f64 in every sum, on the caller's thread.
//! Slow, and meant to be.

use std::sync::Mutex;

use haul_kernels::act::Activation;
use haul_kernels::gemm::Epilogue;
use haul_kernels::reference as plain;
use haul_kernels::rotary::Angles;

use crate::device::arena::Arena;
use crate::device::images::{add, perturb_rows, place_patches, probe_rows, skip_rows};
use crate::device::outputs::cut_rows;
use crate::device::{Batch, Device, DeviceError, LoadedModel, Memory, Outputs, Ticket, ticket};
use crate::pooling::PoolMode;
use crate::program::{LayerNorm, Linear, LinearId, Op, Positions, Program, TensorId};
use crate::weights::Weights;

/// The plain loops.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReferenceDevice;

impl Device for ReferenceDevice {
    fn name(&self) -> &str {
        "reference"
    }

    fn load(&self, program: Program, weights: &Weights) -> Result<Box<dyn LoadedModel>, DeviceError> {
        let linears = program
            .linears
            .iter()
            .map(|l| {
                Ok(PlainLinear { weight: l.read_weight(weights)?.into_owned(), bias: l.read_bias(weights)? })
            })
            .collect::<Result<_, DeviceError>>()?;
        let tensors =
            program.tensors.iter().map(|t| weights.read(&t.name, &t.shape)).collect::<Result<_, _>>()?;
        let angles =
            program.rotaries.iter().map(|r| Angles::new(r.theta, r.head_size, r.positions)).collect();
        Ok(Box::new(ReferenceModel { program, linears, tensors, angles, arena: Mutex::default() }))
    }
}

struct ReferenceModel {
    program: Program,
    linears: Vec<PlainLinear>,
    tensors: Vec<Vec<f32>>,
    angles: Vec<Angles>,
    arena: Mutex<Arena>,
}

struct PlainLinear {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl LoadedModel for ReferenceModel {
    fn submit(&self, batch: Batch) -> Result<Ticket, DeviceError> {
        let (completion, ticket) = ticket();
        let mut arena = self.arena.lock().map_err(|_| DeviceError::Lost)?;
        arena.prepare(&self.program, &batch);
        arena.restore(&self.program, &batch);
        for op in &self.program.ops[batch.ops(&self.program)] {
            self.run(op, &mut arena, &batch);
        }
        completion.deliver(Outputs::gather(&self.program, &batch, |buffer| arena.read(buffer)));
        Ok(ticket)
    }

    fn collect(&self, ticket: Ticket) -> Result<Outputs, DeviceError> {
        ticket.wait()
    }

    fn batches_in_flight(&self) -> usize {
        1
    }

    fn memory(&self) -> Memory {
        let linears =
            self.linears.iter().map(|l| l.weight.len() + l.bias.as_ref().map_or(0, |bias| bias.len()));
        let weights = linears.chain(self.tensors.iter().map(Vec::len)).sum::<usize>();
        Memory {
            weights_bytes: weights * size_of::<f32>(),
            arena_bytes: self.arena.lock().map_or(0, |arena| arena.bytes()),
        }
    }
}

impl ReferenceModel {
    fn run(&self, op: &Op, arena: &mut Arena, batch: &Batch) {
        let width_of = |id| self.program.width(id);
        match *op {
            Op::Embed { word, position, token_type, norm, out } => arena.write(out, |_, out| {
                self.embed(word, position, token_type, batch, out);
                if let Some(norm) = norm {
                    self.layer_norm(norm, out);
                }
            }),
            Op::Perturb { x, site } => arena.write(x, |_, x| {
                perturb_rows(batch, site, x, |how, mask, rows| plain::perturb(how, mask, site, rows));
            }),
            Op::Skip { x, site } => arena.write(x, |_, x| skip_rows(batch, site, x)),
            Op::Activate { x, activation } => arena.write(x, |_, x| plain::activate(activation, x)),
            Op::Add { x, y } => arena.write(x, |arena, x| add(x, arena.read(y))),
            Op::EmbedPatches { patch, class, position, out } => arena.write(out, |_, out| {
                let Linear { out_features, in_features, .. } = self.program.linears[patch.0];
                let patches = batch.patches().len() / in_features;
                let mut rows = vec![0.0; patches * out_features];
                self.linear(patch, batch.patches(), patches, Activation::Identity, None, &mut rows);
                place_patches(&rows, class.map(|id| self.tensor(id)), self.tensor(position), out);
            }),
            Op::Linear { x, linear, activation, residual, out } => arena.write(out, |arena, out| {
                let residual = residual.map(|id| arena.read(id));
                self.linear(linear, arena.read(x), arena.rows(&self.program, x), activation, residual, out);
            }),
            Op::FeedForward { x, up, activation, down, residual, out } => arena.write(out, |arena, out| {
                let residual = residual.map(|id| arena.read(id));
                let rows = arena.rows(&self.program, x);
                let mut hidden = vec![0.0; rows * self.program.linears[up.0].out_features];
                self.linear(up, arena.read(x), rows, activation, None, &mut hidden);
                self.linear(down, &hidden, rows, Activation::Identity, residual, out);
            }),
            Op::Attention { qkv, heads, head_size, scale, sees, out } => arena.write(out, |arena, out| {
                plain::attention(arena.read(qkv), batch.cu_seqlens(), heads, head_size, scale, sees, out);
            }),
            Op::Probe { probe, qkv, x, heads, scale, out } => arena.write(out, |arena, out| {
                let mut row = vec![0.0; self.program.linears[qkv.0].out_features];
                self.linear(qkv, self.tensor(probe), 1, Activation::Identity, None, &mut row);
                probe_rows(&row[..row.len() / 3], arena.read(x), batch.ranges(), (heads, scale), out);
            }),
            Op::Rotary { qkv, heads, rotary } => arena.write(qkv, |_, qkv| {
                plain::rotate(qkv, batch.cu_seqlens(), heads, &self.angles[rotary.0]);
            }),
            Op::Gate { x, activation, out } => arena.write(out, |arena, out| {
                plain::gate(activation, arena.read(x), width_of(x) / 2, out);
            }),
            Op::Norm { x, norm, out } => {
                if x != out {
                    arena.write(out, |arena, out| out.copy_from_slice(arena.read(x)));
                }
                arena.write(out, |_, out| self.layer_norm(norm, out));
            }
            Op::Pool { x, ref pooling, out } => arena.write(out, |arena, out| {
                let width = width_of(x);
                let mut parts = out.chunks_exact_mut(width);
                for range in batch.ranges() {
                    let rows = &arena.read(x)[range.start * width..range.end * width];
                    pooling.modes.iter().zip(&mut parts).for_each(|(&mode, part)| pool(mode, rows, part));
                }
            }),
            Op::Cut { x, out } => {
                let widths = (width_of(x), width_of(out));
                arena.write(out, |arena, out| cut_rows(arena.read(x), widths, out));
            }
            Op::L2 { x } => arena.write(x, |_, values| plain::l2_normalize(values, width_of(x))),
        }
    }

    fn linear(
        &self,
        id: LinearId,
        x: &[f32],
        rows: usize,
        activation: Activation,
        residual: Option<&[f32]>,
        out: &mut [f32],
    ) {
        let PlainLinear { weight, bias } = &self.linears[id.0];
        let Linear { out_features, in_features, .. } = self.program.linears[id.0];
        let epilogue = Epilogue { bias: bias.as_deref(), activation, residual };
        plain::linear(x, rows, weight, out_features, in_features, epilogue, out);
    }

    fn tensor(&self, id: TensorId) -> &[f32] {
        &self.tensors[id.0]
    }

    fn layer_norm(&self, norm: LayerNorm, x: &mut [f32]) {
        let gamma = self.tensor(norm.gamma);
        let zeros = vec![0.0; gamma.len()];
        plain::layer_norm(x, gamma, norm.beta.map_or(&zeros, |id| self.tensor(id)), norm.eps);
    }

    fn embed(
        &self,
        word: TensorId,
        position: Option<Positions>,
        token_type: Option<TensorId>,
        batch: &Batch,
        out: &mut [f32],
    ) {
        let width = out.len() / batch.tokens();
        let value =
            |id: TensorId, row: usize, column: usize| f64::from(self.tensor(id)[row * width + column]);
        for range in batch.ranges() {
            let ids = &batch.ids()[range.clone()];
            let numbers: Vec<usize> =
                position.map_or(vec![], |position| position.numbering.rows(ids).collect());
            for (place, &id) in ids.iter().enumerate() {
                for column in 0..width {
                    let sum = value(word, id as usize, column)
                        + token_type.map_or(0.0, |token_type| value(token_type, 0, column))
                        + position.map_or(0.0, |position| value(position.table, numbers[place], column));
                    out[(range.start + place) * width + column] = sum as f32;
                }
            }
        }
    }
}

fn pool(mode: PoolMode, x: &[f32], out: &mut [f32]) {
    let width = out.len();
    let tokens = x.len() / width;
    for (column, o) in out.iter_mut().enumerate() {
        let values = || x.iter().skip(column).step_by(width).map(|&v| f64::from(v));
        let sum = || values().sum::<f64>();
        let largest = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
        let pooled = match mode {
            PoolMode::Cls => f64::from(x[column]),
            PoolMode::LastToken => f64::from(x[x.len() - width + column]),
            PoolMode::Max => values().fold(f64::NEG_INFINITY, largest),
            PoolMode::Mean => sum() / tokens as f64,
            PoolMode::MeanSqrtLen => sum() / (tokens as f64).sqrt(),
        };
        *o = pooled as f32;
    }
}
