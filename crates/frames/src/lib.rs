//! What `haul` and `haul-llama` say to each other over a pipe: one JSON document a frame, its length before it.
//!
//! `haul` writes [`Request`]s, the worker answers with [`Event`]s. The worker speaks first ([`Event::Hello`]); it loads
//! one model in its life; between two frames of any kind a [`Event::Beat`] may stand. A closed pipe ends it.
//!
//! ```
//! use haul_frames::{Marks, Request, read, write};
//!
//! let mut pipe = Vec::new();
//! write(&mut pipe, &Request::Tokenize { texts: vec!["a".to_owned()], marks: Marks::Spelled })?;
//! let back: Option<Request> = read(&mut pipe.as_slice())?;
//! assert!(matches!(back, Some(Request::Tokenize { .. })));
//! # Ok::<(), haul_frames::FrameError>(())
//! ```
//!
//! It never starts a process, and knows nothing of llama.cpp.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Both ends say it; another number is refused by name.
pub const PROTOCOL: u32 = 4;
/// A longer frame is a fault of the other end.
pub const FRAME_BYTES_MAX: u32 = 256 << 20;
/// Calls of one [`Group`]; a larger group is sent in several, which share what is resident of their prefix.
pub const GROUP_CALLS_MAX: usize = 256;
/// Beginnings that the worker keeps copies of take so much, or as much as the cache where that is more.
pub const COPIES_BYTES_FREE: usize = 256 << 20;
/// The worker says that it lives this often.
pub const BEAT_MS: u64 = 500;

/// What `haul` asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Load a model and make its context: answered by [`Event::Loaded`]. Once, before everything below.
    Load(Load),
    /// Token ids of texts: answered by [`Event::Tokens`].
    Tokenize {
        /// The texts.
        texts: Vec<String>,
        /// What becomes of the marks in them.
        marks: Marks,
    },
    /// Calls that begin alike: each is answered by [`Event::Answer`], in the order in which they finish.
    Group(Group),
    /// Log-probabilities of a text: answered by [`Event::Scored`].
    Score(Score),
    /// Speed of prefill and decode: answered by [`Event::Probed`].
    Probe(Probe),
    /// Write a GGUF file in another quantisation: answered by [`Event::Quantized`]. Needs no load.
    Quantize(Quantize),
}

/// What becomes of the marks of a model where a text spells them: `<|im_end|>` ends a turn, or is ten characters that a
/// document has about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Marks {
    /// Each is its token.
    Read,
    /// Each is text like any other.
    Spelled,
}

/// What the worker answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Event {
    /// First of all: the engine and the devices that it sees.
    Hello(Hello),
    /// The model is there.
    Loaded(Box<Loaded>),
    /// Token ids, by text.
    Tokens {
        /// As many as texts were sent.
        ids: Vec<Vec<i32>>,
    },
    /// A call is finished.
    Answer(Answer),
    /// A text is scored.
    Scored(Scored),
    /// A probe is done.
    Probed(Probed),
    /// A file is written.
    Quantized {
        /// Its size.
        bytes: u64,
    },
    /// A request, or one call of a group where `id` says which, could not be done; the worker goes on.
    Refused {
        /// The call, where it is one.
        id: Option<u64>,
        /// What the engine says, in one line.
        why: String,
    },
    /// The worker lives.
    Beat(Beat),
}

/// A load. Sizes are in tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The GGUF file.
    pub model: PathBuf,
    /// Indices of [`Hello::devices`] that hold the layers; empty is the CPU alone.
    pub devices: Vec<usize>,
    /// Layers on those devices; `None` is all.
    pub gpu_layers: Option<u32>,
    /// Contexts that answer calls side by side, each with a cache, sequences and threads of its own; a probe or a score
    /// wants one.
    pub lanes: u32,
    /// Cells of a lane's KV cache, shared by all its sequences.
    pub n_ctx: u32,
    /// Most tokens of one decode call.
    pub n_batch: u32,
    /// Tokens that kernels see at once.
    pub n_ubatch: u32,
    /// Sequences that live together in a lane, the resident prefix among them; at most 256.
    pub n_seq_max: u32,
    /// Whether the sequences share one pool of cells; without it each has `n_ctx / n_seq_max`.
    pub kv_unified: bool,
    /// Threads of decode and of prefill, in each lane.
    pub threads: u32,
    /// Type of the K cache: `f16`, `q8_0`, ...
    pub type_k: String,
    /// Type of the V cache.
    pub type_v: String,
    /// `auto`, `on` or `off`.
    pub flash_attention: FlashAttention,
    /// Whether the file is mapped instead of read.
    pub mmap: bool,
}

/// Whether attention is computed in one fused operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlashAttention {
    /// Where the device has it and it is faster: on cards, and on a processor where the scores would take much memory. A
    /// worker may compute attention itself ([`Loaded::attention`]).
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What the engine is, before any model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Name and version of the engine.
    pub engine: String,
    /// Instruction sets and build options that the engine says it was built with.
    pub features: String,
    /// Files of backends that were found and loaded, or refused with the reason.
    pub backends: Vec<BackendFile>,
    /// What it sees; the CPU is among them.
    pub devices: Vec<Device>,
    /// Whether any backend can take layers.
    pub can_offload: bool,
}

/// A backend library beside the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendFile {
    /// Its path.
    pub path: PathBuf,
    /// Why it is not used, where it is not.
    pub refused: Option<String>,
}

/// A device of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// As [`Load::devices`] names it.
    pub index: usize,
    /// `CUDA0`, `CPU`, ...
    pub name: String,
    /// `NVIDIA RTX A2000`, ...
    pub description: String,
    /// `CUDA`, `Vulkan`, `CPU`, ...
    pub backend: String,
    /// What it is.
    pub kind: DeviceKind,
    /// Memory, if it says.
    pub memory_total_bytes: u64,
    /// Of which nobody uses.
    pub memory_free_bytes: u64,
}

/// Kinds of devices, as ggml tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// The processor.
    Cpu,
    /// A card with memory of its own.
    Gpu,
    /// One that shares the processor's.
    IntegratedGpu,
    /// A library for the processor, such as BLAS.
    Accelerator,
    /// Something else.
    Other,
}

/// A model that is loaded, and the proof of where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// What the engine calls it: `llama 7B Q4_K - Medium`.
    pub description: String,
    /// Bytes of all tensors.
    pub size_bytes: u64,
    /// Numbers of all tensors.
    pub parameters: u64,
    /// Layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub embedding: u32,
    /// Size of the vocabulary.
    pub vocabulary: u32,
    /// Tokens that it was trained on at once.
    pub n_ctx_train: u32,
    /// Cells that each lane has.
    pub n_ctx: u32,
    /// Its chat template, where the file has one.
    pub chat_template: Option<String>,
    /// Whether several sequences can share the cells of their common beginning.
    pub can_share_prefix: bool,
    /// Whether the tokenizer puts a token before every text.
    pub adds_bos: bool,
    /// Text of the token that begins a text, for chat templates.
    pub bos: String,
    /// Text of the token that ends one.
    pub eos: String,
    /// Texts of all tokens that are marks.
    pub marks: Vec<String>,
    /// How long reading the model took.
    pub load_ms: u64,
    /// How long making the context took.
    pub context_ms: u64,
    /// Free memory of each device before the load, after it, and after the context was made.
    pub memory: Vec<DeviceMemory>,
    /// Allocations that the engine's log names.
    pub buffers: Vec<Buffer>,
    /// `offloaded 33/33 layers`, as the log claims it: a claim, no proof.
    pub offloaded: Option<(u32, u32)>,
    /// Who computes attention.
    pub attention: Attention,
    /// Lines of the log that warn.
    pub warnings: Vec<String>,
    /// Resident bytes of the worker now.
    pub rss_bytes: u64,
}

/// Who computes attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Attention {
    /// Haul, in the engine's place.
    Haul {
        /// The instruction set.
        isa: String,
    },
    /// The engine.
    Engine {
        /// Why not Haul, where it should have been.
        instead_because: Option<String>,
    },
}

/// Free memory of a device over a load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceMemory {
    /// Its name.
    pub device: String,
    /// Before the model.
    pub free_before_bytes: u64,
    /// After the model, before the context.
    pub free_loaded_bytes: u64,
    /// After the context.
    pub free_context_bytes: u64,
}

/// `CUDA0 model buffer size = 4403.49 MiB`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// The device.
    pub device: String,
    /// `model`, `KV`, `compute`, `output`, ...
    pub what: String,
    /// Its size.
    pub mib: f64,
}

/// Calls whose prompts begin alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The beginning that they share. Each prompt is tokenized as a whole; what is computed once is the tokens that
    /// they really share.
    pub prefix: String,
    /// At most [`GROUP_CALLS_MAX`].
    pub calls: Vec<Call>,
}

/// One prompt and how it is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Chosen by `haul`; no two calls of a worker's life have the same.
    pub id: u64,
    /// What stands behind the group's prefix.
    pub suffix: String,
    /// Where a mark is spelled and not meant, as bytes of prefix and suffix together, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spelled: Vec<Range<usize>>,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Texts that end the answer and are not in it.
    pub stop: Vec<String>,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// What the answer must be, if anything.
    pub constraint: Option<Constraint>,
    /// A text that the answer is likely to be near, such as the one that it corrects: where it goes on as this does, several
    /// of its tokens are computed at once. It changes no choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<String>,
    /// Alternatives whose log-probabilities are given for each token; 0 gives the chosen token's alone, `None` nothing.
    pub logprobs: Option<u32>,
}

/// How a token is chosen. A temperature of 0 takes the most likely one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits.
    pub temperature: f32,
    /// The k most likely; 0 is all.
    pub top_k: u32,
    /// The fewest whose probabilities sum to this; 1 is all.
    pub top_p: f32,
    /// At least this share of the most likely one's probability; 0 is all.
    pub min_p: f32,
    /// Divides the logits of tokens of the last [`Sampling::repeat_last`]; 1 leaves them.
    pub repeat_penalty: f32,
    /// How far back the penalty looks.
    pub repeat_last: u32,
    /// Of the random numbers.
    pub seed: u32,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repeat_penalty: 1.0,
        repeat_last: 0,
        seed: 0,
    };
}

/// What an answer must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// A JSON document of this schema.
    JsonSchema(serde_json::Value),
    /// A text of this Lark grammar, as llguidance reads it.
    Lark(String),
}

/// An answered call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the call.
    pub id: u64,
    /// Without the text that stopped it.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of its whole prompt.
    pub prompt_tokens: u32,
    /// Of which were there already.
    pub reused_tokens: u32,
    /// Tokens of the prompt that the engine has consumed: anything but `prompt_tokens` is a fault.
    pub consumed_tokens: u32,
    /// Tokens of the answer.
    pub answer_tokens: u32,
    /// From the call's entry into a batch to its end.
    pub ms: u64,
    /// By token of the answer, where they were asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it, or a stop text did, or the grammar allowed no more.
    Stop,
    /// [`Call::max_tokens`] were reached: it is cut.
    Length,
}

/// A token of an answer, and what else was likely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its text; bytes that are no text by themselves as U+FFFD.
    pub token: String,
    /// ln of its probability, before any constraint or temperature.
    pub logprob: f32,
    /// The most likely tokens, if they were asked for.
    pub top: Vec<(String, f32)>,
}

/// A text to be scored token by token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Its token ids, at most the context's cells.
    pub ids: Vec<i32>,
    /// Most likely tokens to give at each position.
    pub top_k: u32,
    /// At each position, tokens whose log-probabilities are wanted; empty, or one list for each position.
    pub wanted: Vec<Vec<i32>>,
}

/// Log-probabilities of the token after each position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// By position: the most likely tokens and their ln p, most likely first.
    pub top: Vec<Vec<(i32, f32)>>,
    /// By position: ln p of the tokens that were wanted.
    pub wanted: Vec<Vec<f32>>,
    /// By position but the last: ln p of the token that really follows.
    pub next: Vec<f32>,
    /// How long the forward took.
    pub ms: u64,
}

/// A measurement with random tokens, apart from all calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Tokens of one prefill; 0 leaves it out.
    pub prefill_tokens: u32,
    /// Tokens that each sequence decodes; 0 leaves it out.
    pub decode_tokens: u32,
    /// Sequences that decode together.
    pub sequences: u32,
    /// Tokens that are in the cache before each measurement.
    pub depth: u32,
    /// Measured runs, after one that is not.
    pub repetitions: u32,
}

/// Times of a probe, in the order of its runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// Nanoseconds of each prefill.
    pub prefill_ns: Vec<u64>,
    /// Nanoseconds of each decode of all tokens of all sequences.
    pub decode_ns: Vec<u64>,
}

/// A file to be written in another quantisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantize {
    /// The GGUF file.
    pub from: PathBuf,
    /// The new one.
    pub to: PathBuf,
    /// `q4_k_m`, `q8_0`, `f16`, ...
    pub kind: String,
    /// Threads that compute.
    pub threads: u32,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Decode calls that have ended since the start: where calls live and this stands, the engine hangs.
    pub steps: u64,
    /// Sequences that are being answered.
    pub live: u32,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// Counted since the start: prompt tokens computed, answer tokens, prompt tokens reused.
    pub totals: BTreeMap<String, u64>,
}

/// A pipe that cannot be used any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The pipe.
    #[error("the pipe: {0}")]
    Pipe(#[from] io::Error),
    /// It ended inside a frame.
    #[error("the pipe ended inside a frame")]
    Cut,
    /// A length that no frame has.
    #[error("a frame of {bytes} bytes, of at most {FRAME_BYTES_MAX}")]
    TooLong {
        /// The length.
        bytes: u64,
    },
    /// No document of the expected kind.
    #[error("a frame that is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes one frame and flushes.
///
/// # Errors
/// The pipe is closed, the frame is too long.
pub fn write<T: Serialize>(pipe: &mut impl Write, message: &T) -> Result<(), FrameError> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length <= FRAME_BYTES_MAX)
        .ok_or(FrameError::TooLong { bytes: body.len() as u64 })?;
    pipe.write_all(&length.to_le_bytes())?;
    pipe.write_all(&body)?;
    pipe.flush()?;
    Ok(())
}

/// Reads one frame; `None` where the pipe ends before one.
///
/// # Errors
/// The pipe, a frame that is cut, too long or not understood.
pub fn read<T: DeserializeOwned>(pipe: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut length = [0; 4];
    let mut filled = 0;
    while filled < length.len() {
        match pipe.read(&mut length[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(FrameError::Cut),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong { bytes: u64::from(length) });
    }
    let mut body = Vec::new();
    pipe.take(u64::from(length)).read_to_end(&mut body)?;
    if body.len() < length as usize {
        return Err(FrameError::Cut);
    }
    Ok(Some(serde_json::from_slice(&body)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order() {
        let mut pipe = Vec::new();
        let events = [
            Event::Tokens { ids: vec![vec![1, 2], vec![]] },
            Event::Refused { id: Some(3), why: "no room".to_owned() },
        ];
        for event in &events {
            write(&mut pipe, event).unwrap();
        }
        let mut rest = pipe.as_slice();
        for event in events {
            assert_eq!(read(&mut rest).unwrap(), Some(event));
        }
        assert_eq!(read::<Event>(&mut rest).unwrap(), None);
    }

    #[test]
    fn a_damaged_pipe_is_an_error_and_no_end() {
        let mut pipe = Vec::new();
        write(&mut pipe, &Event::Quantized { bytes: 7 }).unwrap();
        for cut in 1..pipe.len() {
            assert!(matches!(read::<Event>(&mut &pipe[..cut]), Err(FrameError::Cut)), "cut at {cut}");
        }
        let long = (FRAME_BYTES_MAX + 1).to_le_bytes();
        assert!(matches!(read::<Event>(&mut long.as_slice()), Err(FrameError::TooLong { .. })));
        let other = [&2_u32.to_le_bytes()[..], b"{}"].concat();
        assert!(matches!(read::<Event>(&mut other.as_slice()), Err(FrameError::Json(_))));
    }
}
