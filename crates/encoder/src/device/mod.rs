//! The seam between models and hardware.
//!
//! A [`Device`] loads a [`Program`] once; the [`LoadedModel`] then takes packed batches. `submit` and `collect` are
//! apart, so that several batches are in flight and a caller prepares the next one meanwhile. No caller ever sees a
//! buffer: a batch goes in as ids, and finished rows come out.

mod arena;
pub mod cpu;
mod images;
#[cfg(test)]
mod late;
mod outputs;
pub mod reference;

pub use outputs::{Outputs, SparseVector};

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use haul_kernels::dropout::MaskKey;
use haul_kernels::perturb::Perturbation;

use crate::program::Program;
use crate::weights::{Weights, WeightsError};

/// Hardware that runs programs.
pub trait Device: Send + Sync {
    /// What did the work, for people and receipts, such as `cpu`.
    fn name(&self) -> &str;

    /// Reads the program's weights in the form that this device computes with. Program and weights live on the device
    /// afterwards; `weights` may be dropped.
    fn load(&self, program: Program, weights: &Weights) -> Result<Box<dyn LoadedModel>, DeviceError>;
}

/// A program with its weights on a device.
pub trait LoadedModel: Send + Sync {
    /// Enqueues a batch. Returns at once while fewer than [`LoadedModel::batches_in_flight`] batches wait or run;
    /// then it blocks until one of them is done. Batches that are done but not collected do not count.
    fn submit(&self, batch: Batch) -> Result<Ticket, DeviceError>;

    /// Waits for a batch and gives its rows, in the order of the batch's sequences.
    fn collect(&self, ticket: Ticket) -> Result<Outputs, DeviceError>;

    /// How many batches keep this device busy: more than that only wait.
    fn batches_in_flight(&self) -> usize;

    /// What the model holds at this moment.
    fn memory(&self) -> Memory;
}

/// Bytes that a loaded model holds on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Weights, in the form that the device computes with.
    pub weights_bytes: usize,
    /// Activations: allocated once, grown to the largest batch so far.
    pub arena_bytes: usize,
}

/// Sequences of rows, one after the other: the rows of texts are token ids, those of images are patches.
#[derive(Debug, Clone)]
pub struct Batch {
    ids: Vec<u32>,
    patches: Vec<f32>,
    cu_seqlens: Vec<u32>,
    part: Part,
}

/// How much of a program a batch runs.
#[derive(Debug, Clone)]
enum Part {
    /// All of it; without masks nothing is perturbed.
    Whole,
    /// What comes before passes differ.
    Prefix,
    /// The rest, from the state of a prefix.
    Suffix { state: Arc<State>, passes: Vec<Pass>, perturbation: Perturbation },
}

/// What the prefix of a program left of some images: its live buffers.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Rows of each image, a class row counted.
    tokens: usize,
    images: usize,
    buffers: Vec<Vec<f32>>,
}

impl State {
    /// Images that it is of.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(|values| values.capacity() * size_of::<f32>()).sum()
    }
}

/// One pass over one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Which image of the state.
    pub image: usize,
    /// What falls out, or gets which noise.
    pub mask: MaskKey,
    /// The number of the one site that is perturbed; all of them without one.
    pub only: Option<u32>,
}

impl Batch {
    /// Packs sequences. None if there is no sequence, one is empty, or the tokens do not fit 32 bits.
    pub fn pack<S: AsRef<[u32]>>(sequences: &[S]) -> Option<Batch> {
        let mut cu_seqlens = vec![0];
        let mut ids = Vec::with_capacity(sequences.iter().map(|s| s.as_ref().len()).sum());
        for sequence in sequences.iter().map(AsRef::as_ref) {
            if sequence.is_empty() {
                return None;
            }
            ids.extend_from_slice(sequence);
            cu_seqlens.push(u32::try_from(ids.len()).ok()?);
        }
        (!ids.is_empty()).then_some(Batch { ids, patches: vec![], cu_seqlens, part: Part::Whole })
    }

    /// Images of `tokens` rows each, a class row counted; `patches` holds the numbers of their patches. None if there is
    /// no image, or the rows do not fit 32 bits.
    pub fn of_images(patches: Vec<f32>, images: usize, tokens: usize) -> Option<Batch> {
        let cu_seqlens = equal_seqlens(images, tokens)?;
        Some(Batch { ids: vec![], patches, cu_seqlens, part: Part::Whole })
    }

    /// The same batch up to where passes over an image begin to differ.
    #[must_use]
    pub fn prefix(self) -> Batch {
        Batch { part: Part::Prefix, ..self }
    }

    /// Passes over the images of a state. None if there is none, one is of an image that is not there, or the rows do not
    /// fit 32 bits.
    pub fn of_passes(state: &Arc<State>, passes: Vec<Pass>, perturbation: Perturbation) -> Option<Batch> {
        let cu_seqlens = equal_seqlens(passes.len(), state.tokens)?;
        let part = Part::Suffix { state: Arc::clone(state), passes, perturbation };
        match &part {
            Part::Suffix { passes, .. } if passes.iter().any(|pass| pass.image >= state.images) => None,
            _ => Some(Batch { ids: vec![], patches: vec![], cu_seqlens, part }),
        }
    }

    /// Operations of the program that the batch runs.
    fn ops(&self, program: &Program) -> Range<usize> {
        let prefix_ops = || program.split().map_or(program.ops.len(), |split| split.prefix_ops);
        match self.part {
            Part::Whole => 0..program.ops.len(),
            Part::Prefix => 0..prefix_ops(),
            Part::Suffix { .. } => prefix_ops()..program.ops.len(),
        }
    }

    /// All token ids; none of images.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The numbers of all patches, patch by patch; none of texts.
    pub fn patches(&self) -> &[f32] {
        &self.patches
    }

    /// Where each sequence begins among the rows, and at last the number of tokens: `sequences + 1` rising numbers.
    pub fn cu_seqlens(&self) -> &[u32] {
        &self.cu_seqlens
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |&tokens| tokens as usize)
    }

    /// The token range of each sequence.
    fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.cu_seqlens.windows(2).map(|pair| pair[0] as usize..pair[1] as usize)
    }
}

/// Where sequences of one length begin.
fn equal_seqlens(sequences: usize, tokens: usize) -> Option<Vec<u32>> {
    let begin = |sequence: usize| sequence.checked_mul(tokens).and_then(|row| u32::try_from(row).ok());
    if sequences == 0 || tokens == 0 { None } else { (0..=sequences).map(begin).collect() }
}

/// Finished rows `[rows, dim]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    dim: usize,
    values: Vec<f32>,
}

impl Vectors {
    fn new(dim: usize, values: &[f32]) -> Vectors {
        Vectors { dim, values: values.to_vec() }
    }

    /// Columns of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.dim
    }

    /// Row `index`, `dim` long.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dim..][..self.dim]
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim)
    }

    /// All rows, one after the other.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

/// A claim to the rows of one submitted batch. A ticket that is dropped drops the rows.
#[derive(Debug)]
#[must_use = "the rows of a batch are lost without its ticket"]
pub struct Ticket(Receiver<Outputs>);

/// The other end of a [`Ticket`]. Dropping it without rows tells the collector that the batch is lost.
struct Completion(Sender<Outputs>);

fn ticket() -> (Completion, Ticket) {
    let (sender, receiver) = bounded(1);
    (Completion(sender), Ticket(receiver))
}

impl Completion {
    fn deliver(self, outputs: Outputs) {
        // The channel has room for the one message of its life, so an error means that the ticket was dropped, and with
        // it all interest in the rows.
        if self.0.send(outputs).is_err() {}
    }
}

impl Ticket {
    fn wait(self) -> Result<Outputs, DeviceError> {
        self.0.recv().map_err(|_| DeviceError::Lost)
    }
}

/// Why a device could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The weights are not what the program needs.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The system gave no thread.
    #[error("a worker thread cannot be started: {0}")]
    Spawn(std::io::Error),
    /// The computation of the batch panicked; the panic's message stands in the log.
    #[error("the computation of a batch panicked")]
    Lost,
}

impl DeviceError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            DeviceError::Weights(error) => error.hint(),
            DeviceError::Spawn(_) => Some("lower --threads, or raise the limit on processes (ulimit -u)"),
            DeviceError::Lost => {
                Some("this is a defect of the program; please report it with the lines above")
            }
        }
    }
}
