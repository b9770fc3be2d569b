//! The processor: a fixed pool of threads, each of which runs whole batches.
//!
//! Nothing inside a batch is shared between threads, so there are no barriers and the speed grows with the threads.
//! A worker holds its own arena; the packed weights are shared.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use half::f16;
use half::slice::HalfFloatSliceExt;
use haul_kernels::act::{self, Activation};
use haul_kernels::attention::{self, Shape, varlen};
use haul_kernels::dtype::Dtype;
use haul_kernels::gate::gate;
use haul_kernels::gemm::{self, Epilogue, FeedForward, PackedWeight, feed_forward, linear};
use haul_kernels::isa::Isa;
use haul_kernels::norm::{l2_normalize, layer_norm};
use haul_kernels::perturb::perturb;
use haul_kernels::rotary::{Angles, rotate};

use crate::device::arena::Arena;
use crate::device::images::{add, perturb_rows, place_patches, probe_rows, skip_rows};
use crate::device::outputs::cut_rows;
use crate::device::{Batch, Completion, Device, DeviceError, LoadedModel, Memory, Outputs, Ticket, ticket};
use crate::program::{BufferId, LayerNorm, Linear, LinearId, Op, Positions, Program, Tensor, TensorId};
use crate::weights::{Weights, WeightsError};

/// Batches that wait while every worker has one. One is enough for a worker never to wait for the caller, as long as
/// the caller makes a batch faster than the model computes it.
const WAITING_BATCHES: usize = 1;

/// The processor with one instruction set and a number of threads.
#[derive(Debug, Clone)]
pub struct CpuDevice {
    isa: Isa,
    dtype: Dtype,
    threads: NonZeroUsize,
}

impl CpuDevice {
    /// A model loaded here starts `threads` threads of its own.
    pub fn new(isa: Isa, dtype: Dtype, threads: NonZeroUsize) -> CpuDevice {
        CpuDevice { isa, dtype, threads }
    }
}

impl Device for CpuDevice {
    fn name(&self) -> &str {
        "cpu"
    }

    fn load(&self, program: Program, weights: &Weights) -> Result<Box<dyn LoadedModel>, DeviceError> {
        let model = Arc::new(CpuModel::load(self, program, weights)?);
        let (jobs, waiting) = bounded(WAITING_BATCHES);
        let mut pool = Pool { model, jobs: Some(jobs), workers: vec![] };
        for number in 0..self.threads.get() {
            let (model, waiting) = (Arc::clone(&pool.model), waiting.clone());
            let worker = std::thread::Builder::new()
                .name(format!("haul-encode-{number}"))
                .spawn(move || work(&model, &waiting))
                .map_err(DeviceError::Spawn)?;
            pool.workers.push(worker);
        }
        Ok(Box::new(pool))
    }
}

struct Pool {
    model: Arc<CpuModel>,
    /// None only while the pool is dropped.
    jobs: Option<Sender<Job>>,
    workers: Vec<JoinHandle<()>>,
}

struct Job {
    batch: Batch,
    completion: Completion,
}

impl LoadedModel for Pool {
    fn submit(&self, batch: Batch) -> Result<Ticket, DeviceError> {
        let (completion, ticket) = ticket();
        let jobs = self.jobs.as_ref().ok_or(DeviceError::Lost)?;
        jobs.send(Job { batch, completion }).map_err(|_| DeviceError::Lost)?;
        Ok(ticket)
    }

    fn collect(&self, ticket: Ticket) -> Result<Outputs, DeviceError> {
        ticket.wait()
    }

    fn batches_in_flight(&self) -> usize {
        self.workers.len() + WAITING_BATCHES
    }

    fn memory(&self) -> Memory {
        Memory {
            weights_bytes: self.model.weights_bytes(),
            arena_bytes: self.model.arena_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its batches; one from elsewhere has said so on its own.
            if worker.join().is_err() {}
        }
    }
}

fn work(model: &CpuModel, waiting: &Receiver<Job>) {
    let mut worker = Worker::default();
    for Job { batch, completion } in waiting {
        let held_bytes = worker.bytes();
        // A panic takes its own batch and no other: the worker goes on, or batches would wait for it for ever. Nothing
        // that the panic left half done is read again, for every buffer is written before it is read.
        let outputs = catch_unwind(AssertUnwindSafe(|| worker.run(model, &batch)));
        model.arena_bytes.fetch_sub(held_bytes, Ordering::Relaxed);
        model.arena_bytes.fetch_add(worker.bytes(), Ordering::Relaxed);
        match outputs {
            Ok(outputs) => completion.deliver(outputs),
            Err(_reported_by_the_panic_hook) => drop(completion),
        }
    }
}

/// A program with its weights packed for one instruction set.
struct CpuModel {
    isa: Isa,
    dtype: Dtype,
    program: Program,
    linears: Vec<PackedLinear>,
    tensors: Vec<Stored>,
    angles: Vec<Angles>,
    /// The shift of a norm that has none, as long as the widest buffer.
    zeros: Vec<f32>,
    arena_bytes: AtomicUsize,
}

struct PackedLinear {
    weight: PackedWeight,
    bias: Option<Vec<f32>>,
}

impl CpuModel {
    fn load(device: &CpuDevice, program: Program, weights: &Weights) -> Result<CpuModel, DeviceError> {
        let CpuDevice { isa, dtype, .. } = *device;
        let linears = pack_all(device, &program.linears, weights)?;
        let tensors = (0..program.tensors.len())
            .map(|id| store(&program, TensorId(id), weights, dtype))
            .collect::<Result<_, _>>()?;
        let angles =
            program.rotaries.iter().map(|r| Angles::new(r.theta, r.head_size, r.positions)).collect();
        let zeros = vec![0.0; program.buffers.iter().map(|buffer| buffer.width).max().unwrap_or(0)];
        Ok(CpuModel {
            isa,
            dtype,
            program,
            linears,
            tensors,
            angles,
            zeros,
            arena_bytes: AtomicUsize::new(0),
        })
    }

    /// Any tensor but a word table.
    fn tensor(&self, id: TensorId) -> &[f32] {
        match &self.tensors[id.0] {
            Stored::F32(values) => values,
            Stored::F16(_) => unreachable!("only word tables are halved, and they are read by rows"),
        }
    }

    fn feed_forward<'x>(
        &'x self,
        LinearId(up): LinearId,
        activation: Activation,
        LinearId(down): LinearId,
        residual: Option<&'x [f32]>,
    ) -> FeedForward<'x> {
        let (up, down) = (&self.linears[up], &self.linears[down]);
        FeedForward {
            up: &up.weight,
            up_bias: up.bias.as_deref(),
            activation,
            down: &down.weight,
            down_bias: down.bias.as_deref(),
            residual,
        }
    }

    fn weights_bytes(&self) -> usize {
        let bias_bytes = |l: &PackedLinear| l.bias.as_ref().map_or(0, |bias| size_of_val(&bias[..]));
        let linears = self.linears.iter().map(|l| l.weight.bytes() + bias_bytes(l));
        let tensors = self.tensors.iter().map(Stored::bytes);
        linears.chain(tensors).chain(self.angles.iter().map(Angles::bytes)).sum()
    }
}

/// A tensor as it stays in memory.
enum Stored {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl Stored {
    fn bytes(&self) -> usize {
        match self {
            Stored::F32(values) => size_of_val(&values[..]),
            Stored::F16(values) => size_of_val(&values[..]),
        }
    }

    /// Writes row `row` of a table.
    fn copy_row(&self, row: usize, out: &mut [f32]) {
        let range = row * out.len()..(row + 1) * out.len();
        match self {
            Stored::F32(values) => out.copy_from_slice(&values[range]),
            Stored::F16(values) => values[range].convert_to_f32_slice(out),
        }
    }
}

/// Rows of a word table that are halved at once, so that no f32 copy of all of it is ever held.
const HALVED_ROWS: usize = 4096;

/// Word tables, half of a small model and much of a large one, are kept as f16 in every mode but f32: 11 bits of
/// precision, more than such a mode computes with.
fn store(program: &Program, id: TensorId, weights: &Weights, dtype: Dtype) -> Result<Stored, WeightsError> {
    let Tensor { name, shape } = &program.tensors[id.0];
    let is_word_table = |op: &Op| matches!(op, Op::Embed { word, .. } if *word == id);
    if dtype == Dtype::F32 || !program.ops.iter().any(is_word_table) {
        return Ok(Stored::F32(weights.read(name, shape)?));
    }
    let rows = shape[0];
    // No capacity before the first rows are read: until then the shape is only what config.json says.
    let mut halved = Vec::new();
    for start in (0..rows).step_by(HALVED_ROWS) {
        let values = weights.read_rows(name, shape, start..rows.min(start + HALVED_ROWS))?;
        if values.iter().any(|value| value.abs() > f16::MAX.to_f32()) {
            return Ok(Stored::F32(weights.read(name, shape)?));
        }
        halved.reserve_exact(shape.iter().product::<usize>() - halved.len());
        halved.extend(values.into_iter().map(f16::from_f32));
    }
    Ok(Stored::F16(halved))
}

/// Layers with fewer outputs are computed in f32: a panel of them costs the same, and a head with one output (the
/// lexical weights) has no other outputs to average its error.
const REDUCED_OUTPUTS_MIN: usize = 32;

/// Packs all layers on the device's threads, each layer on one. Numbers that do not stand in the file as f32 are held so
/// meanwhile.
fn pack_all(
    device: &CpuDevice,
    linears: &[Linear],
    weights: &Weights,
) -> Result<Vec<PackedLinear>, DeviceError> {
    let CpuDevice { isa, dtype, threads } = *device;
    let next = AtomicUsize::new(0);
    let some = || {
        let number = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let mine = number.map_while(|number| Some((number, linears.get(number)?)));
        mine.map(|(number, linear)| (number, pack(isa, linear, weights, dtype))).collect::<Vec<_>>()
    };
    let mut packed = std::thread::scope(|scope| {
        let named = || std::thread::Builder::new().name("haul-pack".to_owned());
        let workers = (0..threads.get()).map(|_| named().spawn_scoped(scope, some));
        let workers = workers.collect::<Result<Vec<_>, _>>().map_err(DeviceError::Spawn)?;
        let all =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        Ok::<_, DeviceError>(all.flatten().collect::<Vec<_>>())
    })?;
    packed.sort_by_key(|(number, _)| *number);
    Ok(packed.into_iter().map(|(_, packed)| packed).collect::<Result<Vec<_>, _>>()?)
}

fn pack(isa: Isa, linear: &Linear, weights: &Weights, dtype: Dtype) -> Result<PackedLinear, WeightsError> {
    let dtype = if linear.out_features < REDUCED_OUTPUTS_MIN { Dtype::F32 } else { dtype };
    Ok(PackedLinear {
        weight: PackedWeight::pack(
            isa,
            &linear.read_weight(weights)?,
            linear.out_features,
            linear.in_features,
            dtype,
        ),
        bias: linear.read_bias(weights)?,
    })
}

#[derive(Default)]
struct Worker {
    arena: Arena,
    linear: gemm::Scratch,
    attention: attention::Scratch,
    /// Patches of images on their way to their places.
    patches: Vec<f32>,
}

impl Worker {
    fn run(&mut self, model: &CpuModel, batch: &Batch) -> Outputs {
        self.arena.prepare(&model.program, batch);
        self.arena.restore(&model.program, batch);
        for op in &model.program.ops[batch.ops(&model.program)] {
            self.run_op(model, batch, op);
        }
        Outputs::gather(&model.program, batch, |buffer| self.arena.read(buffer))
    }

    fn embed_patches(
        &mut self,
        model: &CpuModel,
        batch: &Batch,
        (patch, class, position): (LinearId, Option<TensorId>, TensorId),
        out: BufferId,
    ) {
        let (scratch, rows) = (&mut self.linear, &mut self.patches);
        self.arena.write(out, |_, out| {
            let weight = &model.linears[patch.0].weight;
            let patches = batch.patches().len() / weight.in_features();
            rows.resize(patches * weight.out_features(), 0.0);
            plain_linear(model, patch, batch.patches(), patches, scratch, rows);
            place_patches(rows, class.map(|id| model.tensor(id)), model.tensor(position), out);
        });
    }

    fn look_with_probe(
        &mut self,
        model: &CpuModel,
        batch: &Batch,
        (probe, qkv, heads, scale): (TensorId, LinearId, usize, f32),
        (x, out): (BufferId, BufferId),
    ) {
        let scratch = &mut self.linear;
        self.arena.write(out, |arena, out| {
            let mut query = vec![0.0; model.linears[qkv.0].weight.out_features()];
            plain_linear(model, qkv, model.tensor(probe), 1, scratch, &mut query);
            query.truncate(query.len() / 3);
            probe_rows(&query, arena.read(x), batch.ranges(), (heads, scale), out);
        });
    }

    fn bytes(&self) -> usize {
        let patches_bytes = self.patches.capacity() * size_of::<f32>();
        self.arena.bytes() + self.linear.bytes() + self.attention.bytes() + patches_bytes
    }

    fn run_op(&mut self, model: &CpuModel, batch: &Batch, op: &Op) {
        let (isa, program) = (model.isa, &model.program);
        match *op {
            Op::Perturb { x, site } => self.arena.write(x, |_, x| {
                perturb_rows(batch, site, x, |how, mask, rows| perturb(isa, how, mask, site, rows));
            }),
            Op::Skip { x, site } => self.arena.write(x, |_, x| skip_rows(batch, site, x)),
            Op::Activate { x, activation } => self.arena.write(x, |_, x| act::apply(isa, activation, x)),
            Op::Add { x, y } => self.arena.write(x, |arena, x| add(x, arena.read(y))),
            Op::EmbedPatches { patch, class, position, out } => {
                self.embed_patches(model, batch, (patch, class, position), out);
            }
            Op::Probe { probe, qkv, x, heads, scale, out } => {
                self.look_with_probe(model, batch, (probe, qkv, heads, scale), (x, out));
            }
            Op::Embed { word, position, token_type, norm, out } => self.arena.write(out, |_, out| {
                embed(model, word, position, token_type, batch, out);
                if let Some(norm) = norm {
                    normalize_rows(model, norm, out);
                }
            }),
            Op::Linear { x, linear: id, activation, residual, out } => {
                let scratch = &mut self.linear;
                self.arena.write(out, |arena, out| {
                    let PackedLinear { weight, bias } = &model.linears[id.0];
                    let residual = residual.map(|id| arena.read(id));
                    let epilogue = Epilogue { bias: bias.as_deref(), activation, residual };
                    linear(isa, arena.read(x), arena.rows(program, x), weight, epilogue, scratch, out);
                });
            }
            Op::FeedForward { x, up, activation, down, residual, out } => {
                let scratch = &mut self.linear;
                self.arena.write(out, |arena, out| {
                    let residual = residual.map(|id| arena.read(id));
                    let layers = model.feed_forward(up, activation, down, residual);
                    feed_forward(isa, arena.read(x), arena.rows(program, x), layers, scratch, out);
                });
            }
            Op::Attention { qkv, heads, head_size, scale, sees, out } => {
                let cu_seqlens = batch.cu_seqlens();
                let shape = Shape { cu_seqlens, heads, head_size, scale, sees };
                let scratch = &mut self.attention;
                self.arena.write(out, |arena, out| {
                    varlen(isa, model.dtype, arena.read(qkv), shape, scratch, out);
                });
            }
            Op::Rotary { qkv, heads, rotary } => {
                let angles = &model.angles[rotary.0];
                self.arena.write(qkv, |_, qkv| rotate(isa, qkv, batch.cu_seqlens(), heads, angles));
            }
            Op::Gate { x, activation, out } => self.arena.write(out, |arena, out| {
                gate(isa, activation, arena.read(x), program.width(x) / 2, out);
            }),
            Op::Norm { x, norm, out } => {
                if x != out {
                    self.arena.write(out, |arena, out| out.copy_from_slice(arena.read(x)));
                }
                self.arena.write(out, |_, out| normalize_rows(model, norm, out));
            }
            Op::Pool { x, ref pooling, out } => self.arena.write(out, |arena, out| {
                pooling.pool_batch(arena.read(x), program.width(x), batch.ranges(), out);
            }),
            Op::Cut { x, out } => {
                let widths = (program.width(x), program.width(out));
                self.arena.write(out, |arena, out| cut_rows(arena.read(x), widths, out));
            }
            Op::L2 { x } => self.arena.write(x, |_, values| l2_normalize(isa, values, program.width(x))),
        }
    }
}

/// `out = x @ weight^T + bias` for so many rows.
fn plain_linear(
    model: &CpuModel,
    id: LinearId,
    x: &[f32],
    rows: usize,
    scratch: &mut gemm::Scratch,
    out: &mut [f32],
) {
    let PackedLinear { weight, bias } = &model.linears[id.0];
    let epilogue = Epilogue { bias: bias.as_deref(), activation: Activation::Identity, residual: None };
    linear(model.isa, x, rows, weight, epilogue, scratch, out);
}

fn normalize_rows(model: &CpuModel, norm: LayerNorm, x: &mut [f32]) {
    let gamma = model.tensor(norm.gamma);
    let beta = norm.beta.map_or(&model.zeros[..gamma.len()], |id| model.tensor(id));
    layer_norm(model.isa, x, gamma, beta, norm.eps);
}

/// `out[t] = word[ids[t]] + token_type[0] + position[number of t]`, added in the order of `transformers`.
fn embed(
    model: &CpuModel,
    word: TensorId,
    position: Option<Positions>,
    token_type: Option<TensorId>,
    batch: &Batch,
    out: &mut [f32],
) {
    let width = out.len() / batch.tokens();
    let (word, token_type) = (&model.tensors[word.0], token_type.map(|id| &model.tensor(id)[..width]));
    for (row, &id) in out.chunks_exact_mut(width).zip(batch.ids()) {
        word.copy_row(id as usize, row);
        if let Some(token_type) = token_type {
            row.iter_mut().zip(token_type).for_each(|(o, t)| *o += t);
        }
    }
    let Some(Positions { table, numbering }) = position else { return };
    let table = model.tensor(table);
    for range in batch.ranges() {
        let rows = out[range.start * width..range.end * width].chunks_exact_mut(width);
        for (row, number) in rows.zip(numbering.rows(&batch.ids()[range])) {
            let position = &table[number * width..][..width];
            row.iter_mut().zip(position).for_each(|(o, p)| *o += p);
        }
    }
}
