//! What jobs use: framed token ids in, checked rows out.

use std::path::PathBuf;

use crate::device::{Batch, Device, DeviceError, LoadedModel, Memory, Outputs, Ticket, Vectors};
use crate::model::{Head, Wanted};
use crate::model_dir::ModelDir;
use crate::program::Program;
use crate::weights::{Weights, WeightsError};

/// A model on a device, ready for batches.
///
/// Several threads may submit and collect. A row depends on its own sequence alone, to the bit on one instruction
/// set, however the sequences are packed.
pub struct Embedder {
    model: Box<dyn LoadedModel>,
    device_name: String,
    program: Program,
    vocabulary_size: usize,
    max_tokens: usize,
}

/// What a model is loaded for, beyond its dense rows at their full width.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Heads that run in the same forward.
    pub heads: Vec<Head>,
    /// Keep only so many columns of a dense row, the first ones. They are cut before the row is normalised, as models
    /// trained for it (Matryoshka) want it.
    pub dim: Option<usize>,
}

impl Embedder {
    /// Maps the weights, packs them for the device and lets go of the file. Dense rows at their full width.
    pub fn load(model: &ModelDir, device: &dyn Device) -> Result<Embedder, LoadError> {
        Embedder::load_with(model, device, &LoadOptions::default())
    }

    /// [`Embedder::load`] for other outputs. A head that the model's directory does not have is an error.
    pub fn load_with(
        model: &ModelDir,
        device: &dyn Device,
        options: &LoadOptions,
    ) -> Result<Embedder, LoadError> {
        if let Some(dim) = options.dim.filter(|dim| !(1..=model.dim()).contains(dim)) {
            return Err(LoadError::Dim { dim, model_dim: model.dim() });
        }
        let mut weights = Weights::open(model.weights_file())?;
        for head in Head::ALL.into_iter().filter(|head| options.heads.contains(head)) {
            let file = model.head_file(head);
            let file = file.ok_or_else(|| LoadError::NoHead { head, dir: model.dir().into() })?;
            weights.add(file, head.weights_prefix())?;
        }
        let wanted = Wanted {
            pooling: model.pooling.clone(),
            normalize: model.normalize,
            dim: options.dim,
            heads: options.heads.clone(),
            dropped_ids: model.special_ids.clone(),
        };
        let program = model.config.program(&weights, &wanted)?;
        Ok(Embedder {
            model: device.load(program.clone(), &weights)?,
            device_name: device.name().into(),
            program,
            vocabulary_size: model.config.vocabulary_size,
            max_tokens: model.max_tokens,
        })
    }

    /// Columns of a dense row.
    pub fn dim(&self) -> usize {
        self.program.dim()
    }

    /// The longest sequence, special tokens counted.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// What does the work.
    pub fn device_name(&self) -> &str {
        &self.device_name
    }

    /// How many batches keep the device busy.
    pub fn batches_in_flight(&self) -> usize {
        self.model.batches_in_flight()
    }

    /// Bytes held on the device at this moment.
    pub fn memory(&self) -> Memory {
        self.model.memory()
    }

    /// Floating-point operations of one packed batch, of linear layers and attention.
    pub fn flops(&self, lengths_tokens: &[usize]) -> u64 {
        self.program.flops(lengths_tokens)
    }

    /// Enqueues a batch of framed sequences (see [`crate::tokenizer::Tokenizer::frame`]). Blocks only while
    /// [`Embedder::batches_in_flight`] batches wait or run.
    pub fn submit<S: AsRef<[u32]>>(&self, sequences: &[S]) -> Result<Ticket, EmbedError> {
        for (row, sequence) in sequences.iter().map(AsRef::as_ref).enumerate() {
            if sequence.is_empty() {
                return Err(EmbedError::EmptySequence { row });
            }
            if sequence.len() > self.max_tokens {
                let (tokens, max_tokens) = (sequence.len(), self.max_tokens);
                return Err(EmbedError::TooManyTokens { row, tokens, max_tokens });
            }
            if let Some(&id) = sequence.iter().find(|&&id| id as usize >= self.vocabulary_size) {
                return Err(EmbedError::UnknownToken { row, id, vocabulary_size: self.vocabulary_size });
            }
        }
        let batch = Batch::pack(sequences).ok_or(EmbedError::BatchSize { sequences: sequences.len() })?;
        Ok(self.model.submit(batch)?)
    }

    /// Waits for a batch; its dense rows stand in the order of its sequences. A row that holds a NaN or an infinity,
    /// or whose norm is zero, is an error: nothing downstream could tell it from a real vector.
    pub fn collect(&self, ticket: Ticket) -> Result<Vectors, EmbedError> {
        Ok(self.collect_all(ticket)?.dense)
    }

    /// [`Embedder::collect`] with the outputs of the heads, which are checked alike.
    pub fn collect_all(&self, ticket: Ticket) -> Result<Outputs, EmbedError> {
        let outputs = self.model.collect(ticket)?;
        for (row, values) in outputs.dense.iter().enumerate() {
            check_row(values).map_err(|fault| match fault {
                RowFault::NotFinite { column, value } => EmbedError::NotFinite { row, column, value },
                RowFault::Zero => EmbedError::ZeroNorm { row },
            })?;
        }
        for (row, vector) in outputs.sparse.iter().flatten().enumerate() {
            if let Some(at) = vector.weights.iter().position(|weight| !weight.is_finite()) {
                let (id, value) = (vector.ids[at], vector.weights[at]);
                return Err(EmbedError::WeightNotFinite { row, id, value });
            }
        }
        for (row, tokens) in outputs.colbert.iter().flatten().enumerate() {
            for (token, values) in tokens.iter().enumerate() {
                check_row(values).map_err(|fault| match fault {
                    RowFault::NotFinite { column, value } => {
                        EmbedError::TokenNotFinite { row, token, column, value }
                    }
                    RowFault::Zero => EmbedError::TokenZeroNorm { row, token },
                })?;
            }
        }
        Ok(outputs)
    }
}

enum RowFault {
    NotFinite { column: usize, value: f32 },
    Zero,
}

fn check_row(values: &[f32]) -> Result<(), RowFault> {
    if let Some(column) = values.iter().position(|v| !v.is_finite()) {
        return Err(RowFault::NotFinite { column, value: values[column] });
    }
    if values.iter().all(|&v| v == 0.0) { Err(RowFault::Zero) } else { Ok(()) }
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum LoadError {
    /// A number of columns that the model cannot give.
    #[error("{dim} columns cannot be cut from the {model_dim} of the model")]
    Dim { dim: usize, model_dim: usize },
    /// A head without weights.
    #[error("{}: the {} head is missing: there is no {}", dir.display(), head.name(), head.file_name())]
    NoHead { head: Head, dir: PathBuf },
    /// The weights file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl LoadError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            LoadError::Dim { .. } => Some("take a number from 1 to the model's own"),
            LoadError::NoHead { .. } => Some("fetch the whole model again, or ask for dense vectors alone"),
            LoadError::Weights(error) => error.hint(),
            LoadError::Device(error) => error.hint(),
        }
    }
}

/// Why a batch has no rows. `row` counts the sequences of the batch from 0.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum EmbedError {
    /// A sequence without tokens; even an empty text has its special tokens.
    #[error("sequence {row} of the batch is empty")]
    EmptySequence { row: usize },
    /// A sequence that the model cannot read whole.
    #[error("sequence {row} of the batch has {tokens} tokens, the model reads {max_tokens}")]
    TooManyTokens { row: usize, tokens: usize, max_tokens: usize },
    /// An id without a row in the word table.
    #[error("sequence {row} of the batch has token {id}, the model knows {vocabulary_size}")]
    UnknownToken { row: usize, id: u32, vocabulary_size: usize },
    /// No sequences, or more tokens than 32 bits count.
    #[error("a batch of {sequences} sequences cannot be packed: 1 to {} tokens are possible", u32::MAX)]
    BatchSize { sequences: usize },
    /// The model gave a number that is none.
    #[error("row {row} of the batch holds {value} in column {column}")]
    NotFinite { row: usize, column: usize, value: f32 },
    /// The model gave a vector without direction.
    #[error("row {row} of the batch is zero")]
    ZeroNorm { row: usize },
    /// The model gave a sparse weight that is no number.
    #[error("sparse vector {row} of the batch holds {value} for token {id}")]
    WeightNotFinite { row: usize, id: u32, value: f32 },
    /// The model gave a number that is none, for one token.
    #[error("token row {token} of sequence {row} of the batch holds {value} in column {column}")]
    TokenNotFinite { row: usize, token: usize, column: usize, value: f32 },
    /// The model gave a token a vector without direction.
    #[error("token row {token} of sequence {row} of the batch is zero")]
    TokenZeroNorm { row: usize, token: usize },
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl EmbedError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            EmbedError::TooManyTokens { .. } => Some("cut the text into chunks that the model can read"),
            EmbedError::NotFinite { .. }
            | EmbedError::ZeroNorm { .. }
            | EmbedError::WeightNotFinite { .. }
            | EmbedError::TokenNotFinite { .. }
            | EmbedError::TokenZeroNorm { .. } => {
                Some("the weights may be damaged: compare their checksum with the model's")
            }
            EmbedError::Device(error) => error.hint(),
            _ => None,
        }
    }
}
