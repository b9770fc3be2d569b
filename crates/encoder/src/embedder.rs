//! What jobs use: framed token ids in, checked rows out.

use crate::device::{Batch, Device, DeviceError, LoadedModel, Memory, Ticket, Vectors};
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

impl Embedder {
    /// Maps the weights, packs them for the device and lets go of the file.
    pub fn load(model: &ModelDir, device: &dyn Device) -> Result<Embedder, LoadError> {
        let weights = Weights::open(model.weights_file())?;
        let program = model.config.program(&weights, &model.pooling, model.normalize)?;
        Ok(Embedder {
            model: device.load(program.clone(), &weights)?,
            device_name: device.name().into(),
            program,
            vocabulary_size: model.config.vocabulary_size,
            max_tokens: model.max_tokens,
        })
    }

    /// Columns of a row.
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

    /// Waits for a batch; its rows stand in the order of its sequences. A row that holds a NaN or an infinity, or
    /// whose norm is zero, is an error: nothing downstream could tell it from a real vector.
    pub fn collect(&self, ticket: Ticket) -> Result<Vectors, EmbedError> {
        let vectors = self.model.collect(ticket)?;
        for (row, values) in vectors.iter().enumerate() {
            if let Some(column) = values.iter().position(|v| !v.is_finite()) {
                return Err(EmbedError::NotFinite { row, column, value: values[column] });
            }
            if values.iter().all(|&v| v == 0.0) {
                return Err(EmbedError::ZeroNorm { row });
            }
        }
        Ok(vectors)
    }
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
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
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl EmbedError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            EmbedError::TooManyTokens { .. } => Some("cut the text into chunks that the model can read"),
            EmbedError::NotFinite { .. } | EmbedError::ZeroNorm { .. } => {
                Some("the weights may be damaged: compare their checksum with the model's")
            }
            EmbedError::Device(error) => error.hint(),
            _ => None,
        }
    }
}
