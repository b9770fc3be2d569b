//! What this machine can do at most, measured: the roofs that rates are compared with.
//!
//! Other work on the machine can only lower a measured rate. So all cores run at the same time, each for many
//! windows shorter than a time slice of the scheduler, and the roof is the sum of each core's best window: on a
//! quiet machine the windows agree, on a busy one a few of them are undisturbed.

use crate::clock;
use crate::cpu::Cpu;
use crate::memory;
use haul_kernels::dtype::Dtype;
use haul_kernels::isa::Isa;
use haul_kernels::roof::{gflops, read_gb_per_s};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Length of one measuring window.
const WINDOW: Duration = Duration::from_millis(2);

/// Windows per core and dtype of a measurement: 0.08 s for each, which the first run of a machine waits for.
const MEASURE_WINDOWS: usize = 40;

/// Windows per core of a recheck: 16 ms.
const RECHECK_WINDOWS: usize = 8;

/// Windows per thread of a roof that is measured beside a benchmark: 0.1 s.
const BESIDE_WINDOWS: usize = 50;

/// A stored roof is measured again when the recheck is this factor above or below it.
const RECHECK_FACTOR: f64 = 1.5;

/// Memory read in one window, 16 MiB: about a millisecond.
const READ_WINDOW_FLOATS: usize = 4 << 20;

/// Memory read by all cores together at most; several times the last cache of most machines.
const READ_BYTES_MAX: u64 = 512 << 20;

/// The read loop takes at most this part of the free memory.
const READ_MEMORY_PART: u64 = 4;

/// The most this machine can do, all usable cores together.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Roofs {
    /// Name of the processor.
    pub cpu: String,
    /// Cores measured together.
    pub cores: usize,
    /// Instruction set measured.
    pub isa: String,
    /// Multiply-adds in registers by dtype, two operations each, in 10^9 per second; every dtype has one.
    pub gflops: BTreeMap<String, f64>,
    /// Reading main memory, in 10^9 bytes per second.
    pub read_gb_per_s: f64,
    /// When, RFC 3339 in UTC.
    pub measured: String,
}

impl Roofs {
    /// The roof of products in `dtype`, in GFLOP/s.
    ///
    /// # Panics
    /// When the roofs were made by hand without this dtype.
    pub fn of(&self, dtype: Dtype) -> f64 {
        self.gflops[dtype.name()]
    }
}

/// Why roofs could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoofError {
    /// The profile is there and did not open.
    #[error("cannot read the roof profile {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The profile could not be written.
    #[error("cannot write the roof profile {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RoofError {
    /// What the user can do.
    pub fn hint(&self) -> &'static str {
        "the profiles directory must be readable and writable; HAUL_HOME says where it is"
    }
}

/// The roofs of this machine: from `profiles_dir` if they were measured before and a recheck of the f32 roof
/// (under 50 ms) agrees, else measured now (about a second) and kept there. A profile that does not parse,
/// lacks a dtype or is of another processor is measured again and replaced.
pub fn load_or_measure(profiles_dir: &Path, cpu: &Cpu) -> Result<Roofs, RoofError> {
    let path = profiles_dir.join(file_name(cpu));
    if let Some(stored) = load(&path, cpu)? {
        let [now] = gflops_together(cpu.isa, [Dtype::F32], cpu.cores, RECHECK_WINDOWS);
        let kept = stored.of(Dtype::F32);
        if now <= kept * RECHECK_FACTOR && now >= kept / RECHECK_FACTOR {
            return Ok(stored);
        }
    }
    let roofs = measure(cpu);
    store(&path, &roofs)?;
    Ok(roofs)
}

/// Measures with all usable cores at once.
pub fn measure(cpu: &Cpu) -> Roofs {
    let gflops = gflops_together(cpu.isa, Dtype::ALL, cpu.cores, MEASURE_WINDOWS).map(two_decimals);
    let read_gb_per_s = two_decimals(read_roof(cpu, MEASURE_WINDOWS));
    Roofs {
        cpu: cpu.name.clone(),
        cores: cpu.cores,
        isa: cpu.isa.name().to_owned(),
        gflops: Dtype::ALL.map(|dtype| dtype.name().to_owned()).into_iter().zip(gflops).collect(),
        read_gb_per_s,
        measured: clock::rfc3339_utc(SystemTime::now()),
    }
}

/// The roof of one dtype at this moment, of `threads` threads together, in GFLOP/s: what stands beside a
/// benchmark on a machine whose speed changes from minute to minute. Takes 0.1 s.
pub fn measure_now(isa: Isa, dtype: Dtype, threads: NonZeroUsize) -> f64 {
    let [now] = gflops_together(isa, [dtype], threads.get(), BESIDE_WINDOWS);
    two_decimals(now)
}

/// What all usable cores read from memory together at this moment, in 10^9 bytes per second: beside a scan, as
/// [`measure_now`] is beside a product. Takes about 0.3 s, most of it to fill the memory that is read.
pub fn measure_read_now(cpu: &Cpu) -> f64 {
    two_decimals(read_roof(cpu, BESIDE_WINDOWS))
}

/// The windows of the dtypes take turns, so that other work on the machine lowers all of them or none: their
/// ratios are what `--dtype auto` goes by.
fn gflops_together<const N: usize>(isa: Isa, dtypes: [Dtype; N], cores: usize, windows: usize) -> [f64; N] {
    let best = on_all(0..cores, |_| {
        let mut best = [0.0_f64; N];
        for _ in 0..windows {
            for (best, dtype) in best.iter_mut().zip(dtypes) {
                *best = best.max(gflops(isa, dtype, WINDOW));
            }
        }
        best
    });
    best.into_iter().fold([0.0; N], |mut sum, core| {
        sum.iter_mut().zip(core).for_each(|(sum, core)| *sum += core);
        sum
    })
}

fn read_roof(cpu: &Cpu, windows: usize) -> f64 {
    let best = on_all(read_buffers(cpu), |buffer| {
        // One pass over one part a window, and each part only after all others, so that no cache keeps it.
        let parts = buffer.chunks(READ_WINDOW_FLOATS).cycle().take(windows);
        parts.map(|part| read_gb_per_s(cpu.isa, part, Duration::ZERO)).fold(0.0, f64::max)
    });
    best.into_iter().sum()
}

/// Runs `rate` on one thread for each part, all at the same time.
fn on_all<T: Send, R: Send>(parts: impl IntoIterator<Item = T>, rate: impl Fn(T) -> R + Sync) -> Vec<R> {
    let parts: Vec<T> = parts.into_iter().collect();
    let start = std::sync::Barrier::new(parts.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = parts
            .into_iter()
            .map(|part| {
                scope.spawn(|| {
                    start.wait();
                    rate(part)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a roof loop does not panic")).collect()
    })
}

/// One buffer per core, written once: untouched memory is one shared page of zeros, and reads at cache speed.
fn read_buffers(cpu: &Cpu) -> Vec<Vec<f32>> {
    let free = memory::probe().map_or(READ_BYTES_MAX, |memory| {
        memory.limit_bytes.map_or(memory.available_bytes, |limit| limit.min(memory.available_bytes))
    });
    let bytes = READ_BYTES_MAX.min(free / READ_MEMORY_PART) as usize;
    let elements = (bytes / cpu.cores / size_of::<f32>()).max(1);
    (0..cpu.cores).map(|_| vec![1.0; elements]).collect()
}

/// A roof is not known to more; and what is written reads back the same.
fn two_decimals(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

/// `roof-<processor>-<cores>-<isa>.json`, in characters that every file system takes.
fn file_name(cpu: &Cpu) -> String {
    let mut name: String = cpu
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    name.truncate(80);
    format!("roof-{name}-{}-{}.json", cpu.cores, cpu.isa.name())
}

/// `None` where there is no profile, or none of this processor with all its roofs.
fn load(path: &Path, cpu: &Cpu) -> Result<Option<Roofs>, RoofError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(RoofError::Read { path: path.to_owned(), source }),
    };
    let stored = serde_json::from_slice::<Roofs>(&text).ok();
    Ok(stored.filter(|roofs| {
        roofs.cpu == cpu.name
            && roofs.cores == cpu.cores
            && roofs.isa == cpu.isa.name()
            && Dtype::ALL.iter().all(|dtype| roofs.gflops.get(dtype.name()).is_some_and(|rate| *rate > 0.0))
            && roofs.read_gb_per_s > 0.0
    }))
}

/// Written beside and renamed, so that a reader never sees half a profile.
fn store(path: &Path, roofs: &Roofs) -> Result<(), RoofError> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = || {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        std::fs::write(&temporary, serde_json::to_vec_pretty(roofs)?)?;
        std::fs::rename(&temporary, path)
    };
    written().map_err(|source| RoofError::Write { path: path.to_owned(), source })
}
