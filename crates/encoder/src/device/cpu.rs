//! The processor: a fixed pool of threads, each of which runs whole batches.
//!
//! Nothing inside a batch is shared between threads, so there are no barriers and the speed grows with the threads.
//! A worker holds its own arena; the packed weights are shared.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use haul_kernels::attention::{Scratch, varlen};
use haul_kernels::gemm::{Epilogue, PackedWeight, linear};
use haul_kernels::isa::Isa;
use haul_kernels::norm::{l2_normalize, layer_norm};

use crate::device::arena::Arena;
use crate::device::{Batch, Completion, Device, DeviceError, LoadedModel, Memory, Ticket, Vectors, ticket};
use crate::program::{LayerNorm, Linear, Op, Program, TensorId};
use crate::weights::{Weights, WeightsError};

/// Batches that wait while every worker has one. One is enough for a worker never to wait for the caller, as long as
/// the caller makes a batch faster than the model computes it.
const WAITING_BATCHES: usize = 1;

/// The processor with one instruction set and a number of threads.
#[derive(Debug, Clone)]
pub struct CpuDevice {
    isa: Isa,
    threads: NonZeroUsize,
}

impl CpuDevice {
    /// A model loaded here starts `threads` threads of its own.
    pub fn new(isa: Isa, threads: NonZeroUsize) -> CpuDevice {
        CpuDevice { isa, threads }
    }
}

impl Device for CpuDevice {
    fn name(&self) -> &str {
        "cpu"
    }

    fn load(&self, program: Program, weights: &Weights) -> Result<Box<dyn LoadedModel>, DeviceError> {
        let model = Arc::new(CpuModel::load(self.isa, program, weights)?);
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

    fn collect(&self, ticket: Ticket) -> Result<Vectors, DeviceError> {
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
        let vectors = catch_unwind(AssertUnwindSafe(|| worker.run(model, &batch)));
        model.arena_bytes.fetch_sub(held_bytes, Ordering::Relaxed);
        model.arena_bytes.fetch_add(worker.bytes(), Ordering::Relaxed);
        match vectors {
            Ok(vectors) => completion.deliver(vectors),
            Err(_reported_by_the_panic_hook) => drop(completion),
        }
    }
}

/// A program with its weights packed for one instruction set.
struct CpuModel {
    isa: Isa,
    program: Program,
    linears: Vec<PackedLinear>,
    tensors: Vec<Vec<f32>>,
    arena_bytes: AtomicUsize,
}

struct PackedLinear {
    weight: PackedWeight,
    bias: Vec<f32>,
}

impl CpuModel {
    fn load(isa: Isa, program: Program, weights: &Weights) -> Result<CpuModel, WeightsError> {
        let linears = program.linears.iter().map(|linear| pack(linear, weights)).collect::<Result<_, _>>()?;
        let tensors =
            program.tensors.iter().map(|t| weights.read(&t.name, &t.shape)).collect::<Result<_, _>>()?;
        Ok(CpuModel { isa, program, linears, tensors, arena_bytes: AtomicUsize::new(0) })
    }

    fn tensor(&self, id: TensorId) -> &[f32] {
        &self.tensors[id.0]
    }

    fn weights_bytes(&self) -> usize {
        let linears = self.linears.iter().map(|l| l.weight.bytes() + size_of_val(&l.bias[..]));
        let tensors = self.tensors.iter().map(|values| size_of_val(&values[..]));
        linears.chain(tensors).sum()
    }
}

fn pack(linear: &Linear, weights: &Weights) -> Result<PackedLinear, WeightsError> {
    Ok(PackedLinear {
        weight: PackedWeight::pack(&linear.read_weight(weights)?, linear.out_features, linear.in_features),
        bias: linear.read_bias(weights)?,
    })
}

#[derive(Default)]
struct Worker {
    arena: Arena,
    scratch: Scratch,
}

impl Worker {
    fn run(&mut self, model: &CpuModel, batch: &Batch) -> Vectors {
        self.arena.prepare(&model.program, batch);
        for op in &model.program.ops {
            self.run_op(model, batch, op);
        }
        Vectors::new(model.program.dim(), self.arena.read(model.program.output))
    }

    fn bytes(&self) -> usize {
        self.arena.bytes() + self.scratch.bytes()
    }

    fn run_op(&mut self, model: &CpuModel, batch: &Batch, op: &Op) {
        let (isa, program) = (model.isa, &model.program);
        match *op {
            Op::EmbedNorm { word, position, token_type, norm, out } => self.arena.write(out, |_, out| {
                let tables = [word, position, token_type].map(|id| model.tensor(id));
                embed(tables, batch, out);
                normalize_rows(model, norm, out);
            }),
            Op::Linear { x, linear: id, activation, residual, out } => self.arena.write(out, |arena, out| {
                let PackedLinear { weight, bias } = &model.linears[id.0];
                let residual = residual.map(|id| arena.read(id));
                let epilogue = Epilogue { bias: Some(bias), activation, residual };
                linear(isa, arena.read(x), batch.tokens(), weight, epilogue, out);
            }),
            Op::Attention { qkv, heads, head_size, scale, out } => {
                let scratch = &mut self.scratch;
                self.arena.write(out, |arena, out| {
                    varlen(isa, arena.read(qkv), batch.cu_seqlens(), heads, head_size, scale, scratch, out);
                });
            }
            Op::Norm { x, norm } => self.arena.write(x, |_, x| normalize_rows(model, norm, x)),
            Op::Pool { x, ref pooling, out } => self.arena.write(out, |arena, out| {
                pooling.pool_batch(arena.read(x), program.width(x), batch.ranges(), out);
            }),
            Op::L2 { x } => self.arena.write(x, |_, values| l2_normalize(isa, values, program.width(x))),
        }
    }
}

fn normalize_rows(model: &CpuModel, norm: LayerNorm, x: &mut [f32]) {
    layer_norm(model.isa, x, model.tensor(norm.gamma), model.tensor(norm.beta), norm.eps);
}

/// `out[t] = word[ids[t]] + token_type[0] + position[t - begin of its sequence]`, added in the order of `transformers`.
fn embed([word, position, token_type]: [&[f32]; 3], batch: &Batch, out: &mut [f32]) {
    let width = out.len() / batch.tokens();
    let token_type = &token_type[..width];
    for range in batch.ranges() {
        let rows = out[range.start * width..range.end * width].chunks_exact_mut(width);
        for ((row, position), &id) in rows.zip(position.chunks_exact(width)).zip(&batch.ids()[range]) {
            let word = &word[id as usize * width..][..width];
            for (((o, w), t), p) in row.iter_mut().zip(word).zip(token_type).zip(position) {
                *o = w + t + p;
            }
        }
    }
}
