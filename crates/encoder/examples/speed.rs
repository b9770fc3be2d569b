//! Tokens per second of a model on this processor, and what part of the measured peak that is.
//!
//! `cargo run --release -p haul-encoder --example speed -- MODEL_DIR [THREADS [TOKENS_A_TEXT [TEXTS_A_BATCH [DTYPE]]]]`
#![expect(clippy::print_stdout, reason = "a measurement is for reading")]

use std::collections::VecDeque;
use std::error::Error;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use haul_encoder::device::cpu::CpuDevice;
use haul_encoder::embedder::Embedder;
use haul_encoder::model_dir::ModelDir;
use haul_kernels::dtype::Dtype;
use haul_kernels::isa::Isa;
use haul_kernels::roof::gflops;

const SLICES: u32 = 6;
const SLICE: Duration = Duration::from_millis(500);
const PEAK_SLICE: Duration = Duration::from_millis(500);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().ok_or("MODEL_DIR is missing")?;
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |argument| argument.parse());
    let (threads, tokens, texts) = (number(2)?, number(256)?, number(8)?);

    let model = ModelDir::open(Path::new(&dir))?;
    let dtype: Dtype = std::env::args().nth(5).map_or(Ok(Dtype::F32), |name| name.parse())?;
    let threads = NonZeroUsize::new(threads).ok_or("THREADS is 0")?;
    let embedder = Embedder::load(&model, &CpuDevice::new(Isa::best(), dtype, threads))?;
    let vocabulary = model.config.vocabulary_size;
    let sequence =
        |text: usize| (0..tokens).map(|at| ((text * 7919 + at * 104_729) % vocabulary) as u32).collect();
    let batch: Vec<Vec<u32>> = (0..texts).map(sequence).collect();

    // The peak is measured between the slices of the run, so that a neighbour on the machine slows both alike.
    let (mut batches, mut seconds, mut peaks) = (0, 0.0, 0.0);
    run(&embedder, &batch, SLICE)?;
    for _ in 0..SLICES {
        peaks += peak_gflops(threads.get(), dtype);
        let (done, took) = run(&embedder, &batch, SLICE)?;
        batches += done;
        seconds += took;
    }
    let gflops = embedder.flops(&vec![tokens; texts]) as f64 * batches as f64 / seconds / 1e9;
    let peak = peaks / f64::from(SLICES);
    println!(
        "{} on {} ({}, {threads} threads), batches of {texts} x {tokens} tokens: {:.0} tokens/s, {gflops:.0} of {peak:.0} GFLOP/s ({:.0} %), {:?}",
        model.name,
        embedder.device_name(),
        Isa::best().name(),
        (batches * texts * tokens) as f64 / seconds,
        100.0 * gflops / peak,
        embedder.memory(),
    );
    Ok(())
}

/// f32 multiply-adds in registers, all threads together.
fn peak_gflops(threads: usize, dtype: Dtype) -> f64 {
    std::thread::scope(|scope| {
        let loops: Vec<_> =
            (0..threads).map(|_| scope.spawn(move || gflops(Isa::best(), dtype, PEAK_SLICE))).collect();
        loops.into_iter().filter_map(|peak| peak.join().ok()).sum()
    })
}

/// Batches done, and the seconds they took.
fn run(embedder: &Embedder, batch: &[Vec<u32>], wanted: Duration) -> Result<(usize, f64), Box<dyn Error>> {
    let start = Instant::now();
    let mut tickets = VecDeque::new();
    let mut batches = 0;
    while start.elapsed() < wanted {
        tickets.push_back(embedder.submit(batch)?);
        if tickets.len() > embedder.batches_in_flight()
            && let Some(ticket) = tickets.pop_front()
        {
            embedder.collect(ticket)?;
            batches += 1;
        }
    }
    for ticket in tickets {
        embedder.collect(ticket)?;
        batches += 1;
    }
    Ok((batches, start.elapsed().as_secs_f64()))
}
