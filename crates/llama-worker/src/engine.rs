//! The loaded model and its contexts: one model in the life of the process, and a context for each lane.

use std::time::Instant;

use haul_frames::{Attention, DeviceMemory, FlashAttention, Load, Loaded};
use haul_kernels::cells::HEAD_SIZE_STEP;
use llama_cpp_sys_2 as sys;

use crate::attention::Registered;
use crate::llama::{Context, Marks, Model, State, Token, c_path};
use crate::{backends, log, process_unix};

/// Scores of a batch may take so much memory where they are computed without flash attention.
const SCORES_BYTES_MAX: u64 = 256 << 20;

/// What the cells of other calls may cost a token, beside its products with the model: less where a lane is one core, whose
/// batches need not be large.
const OTHERS_SHARE: f64 = 0.16;
const OTHERS_SHARE_OF_LANES: f64 = 0.05;

/// A lane is a thread at least.
const LANES_MAX: u32 = 256;

/// Sequences that llama.cpp can keep apart.
pub(crate) const SEQUENCES_MAX: u32 = 256;

/// A model, its context, and one batch for both.
pub(crate) struct Engine {
    model: Model,
    context: Context,
    /// Sequences that share one pool of cells can share the cells of a common beginning.
    pub(crate) unified: bool,
    /// Models with a state that is not a list of tokens: their sequences begin from a copy of that state.
    pub(crate) recurrent: bool,
    pub(crate) n_seq_max: u32,
    /// Cells of others that each token of a call may be multiplied with, for nothing.
    cells_of_others: usize,
}

impl Engine {
    /// Loads a model as asked: an engine for each lane.
    pub(crate) fn load(load: &Load) -> Result<(Vec<Self>, Loaded), String> {
        if load.lanes == 0 || load.lanes > LANES_MAX {
            return Err(format!("{} lanes, of 1 to {LANES_MAX}", load.lanes));
        }
        if !(1..=SEQUENCES_MAX).contains(&load.n_seq_max) {
            return Err(format!("{} sequences, of 1 to {SEQUENCES_MAX}", load.n_seq_max));
        }
        let context_params = context_params(load)?;
        log::take();
        let before = backends::devices();
        let start = Instant::now();
        let model = load_model(load)?;
        let (load_ms, loaded) = (start.elapsed().as_millis() as u64, backends::devices());
        let mut lines = log::take();

        let start = Instant::now();
        let (contexts, attention) = contexts(load, model, context_params)?;
        let (context_ms, ready) = (start.elapsed().as_millis() as u64, backends::devices());
        lines.extend(log::take());

        let memory = before.iter().zip(&loaded).zip(&ready).map(|((before, loaded), ready)| DeviceMemory {
            device: before.name.clone(),
            free_before_bytes: before.memory_free_bytes,
            free_loaded_bytes: loaded.memory_free_bytes,
            free_context_bytes: ready.memory_free_bytes,
        });
        let facts = Loaded {
            description: model.description(),
            size_bytes: model.size(),
            parameters: model.parameters(),
            layers: model.layers(),
            embedding: model.embedding(),
            vocabulary: model.vocabulary() as u32,
            n_ctx_train: model.context_train(),
            n_ctx: contexts[0].n_ctx(),
            chat_template: model.chat_template(),
            can_share_prefix: load.kv_unified,
            adds_bos: model.adds_bos(),
            bos: mark(model, model.bos()),
            eos: mark(model, model.eos()),
            marks: model.marks(),
            load_ms,
            context_ms,
            memory: memory.collect(),
            buffers: log::buffers(&lines),
            offloaded: log::offloaded(&lines),
            attention,
            warnings: log::warnings(&lines),
            rss_bytes: process_unix::resident_bytes(),
        };
        let engine = |context| Self {
            unified: load.kv_unified,
            recurrent: model.is_recurrent(),
            n_seq_max: load.n_seq_max,
            cells_of_others: cells_of_others(load, model),
            model,
            context,
        };
        Ok((contexts.into_iter().map(engine).collect(), facts))
    }

    pub(crate) fn model(&self) -> Model {
        self.model
    }

    pub(crate) fn n_ctx(&self) -> u32 {
        self.context.n_ctx()
    }

    /// Cells of others that may be in use when a call of so many tokens begins.
    pub(crate) fn cells_of_others_max(&self, prompt_tokens: usize) -> usize {
        self.cells_of_others.max(prompt_tokens)
    }

    pub(crate) fn n_batch(&self) -> usize {
        self.context.n_batch()
    }

    /// Adds a token to the batch; returns its row there.
    pub(crate) fn add(&mut self, fed: Fed) -> Result<i32, String> {
        self.context.add(fed.token, fed.position, fed.sequence, fed.output == Output::Logits)
    }

    /// Tokens that the batch has room for.
    pub(crate) fn room(&self) -> usize {
        self.n_batch() - self.context.batched()
    }

    /// Runs the batch and empties it.
    pub(crate) fn decode(&mut self) -> Result<(), String> {
        self.context.decode()
    }

    /// Logits after the token in a row of the last batch.
    pub(crate) fn logits(&self, row: i32) -> Result<&[f32], String> {
        self.context.logits(row).ok_or_else(|| format!("the engine has no logits for row {row}"))
    }

    /// Waits until the device has done what it was given.
    pub(crate) fn synchronize(&self) {
        self.context.synchronize();
    }

    /// Forgets all sequences.
    pub(crate) fn clear(&mut self) {
        self.context.discard_batch();
        self.context.clear();
    }

    /// Forgets a sequence from a position on; false where the model cannot forget a part.
    pub(crate) fn forget(&mut self, sequence: i32, from: usize) -> bool {
        self.context.forget(sequence, i32::try_from(from).unwrap_or(i32::MAX))
    }

    /// Lets `to` begin with the first `tokens` of `from`; the cells are shared, not copied.
    pub(crate) fn share(&mut self, from: i32, to: i32, tokens: usize) -> Result<(), String> {
        if !self.unified {
            return Err("sequences with caches of their own share no cells".to_owned());
        }
        self.context.share(from, to, i32::try_from(tokens).map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Tokens of a sequence that the engine has read, by its own account.
    pub(crate) fn consumed(&self, sequence: i32) -> usize {
        usize::try_from(self.context.last_position(sequence) + 1).unwrap_or(0)
    }

    /// The state of a sequence, for models that share no cells.
    pub(crate) fn snapshot(&mut self, sequence: i32) -> Result<State, String> {
        self.context.snapshot(sequence)
    }

    /// Puts a state in the place of a sequence.
    pub(crate) fn restore(&mut self, state: &State, sequence: i32) -> Result<(), String> {
        self.context.restore(state, sequence)
    }
}

/// A context for each lane, and who computes attention in them.
fn contexts(
    load: &Load,
    model: Model,
    mut params: sys::llama_context_params,
) -> Result<(Vec<Context>, Attention), String> {
    let (ours, instead_because) = match own_attention(load, model) {
        Ok(ours) => (ours, None),
        Err(why) => (None, Some(why)),
    };
    if ours.is_some() {
        params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_ENABLED;
    } else if load.flash_attention == FlashAttention::Auto && plain_attention_suits(load, model) {
        params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
    }
    let contexts = (0..load.lanes)
        .map(|_| Context::new(model, params).ok_or_else(|| with_log("the context cannot be made")))
        .collect::<Result<Vec<_>, _>>()?;
    let attention = ours.as_ref().map_or(Attention::Engine { instead_because }, Registered::attention);
    Ok((contexts, attention))
}

fn mark(model: Model, token: Token) -> String {
    if token.0 < 0 {
        return String::new();
    }
    String::from_utf8_lossy(&model.piece(token, Marks::Shown)).into_owned()
}

/// A token on its way into a batch.
#[derive(Clone, Copy)]
pub(crate) struct Fed {
    pub(crate) token: Token,
    pub(crate) position: i32,
    pub(crate) sequence: i32,
    pub(crate) output: Output,
}

/// What is wanted of a token's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The logits of the token after it.
    Logits,
    /// Nothing: it is read.
    Nothing,
}

fn load_model(load: &Load) -> Result<Model, String> {
    let path = c_path(&load.model)?;
    // The list ends with a null. An empty one is the processor alone; without a list the engine takes what it likes.
    let mut devices = Vec::with_capacity(load.devices.len() + 1);
    for index in &load.devices {
        devices.push(
            backends::device(*index)
                .ok_or_else(|| format!("devices {:?}: there is no {index}", load.devices))?,
        );
    }
    devices.push(std::ptr::null_mut());
    // SAFETY: a plain structure of numbers and null pointers.
    let mut params = unsafe { sys::llama_model_default_params() };
    params.devices = devices.as_mut_ptr();
    params.load_mode = if load.mmap { sys::LLAMA_LOAD_MODE_MMAP } else { sys::LLAMA_LOAD_MODE_NONE };
    params.n_gpu_layers = match (load.devices.is_empty(), load.gpu_layers) {
        (true, _) => 0,
        (false, Some(layers)) => i32::try_from(layers).unwrap_or(i32::MAX),
        (false, None) => -1,
    };
    // SAFETY: the list of devices ends with a null and outlives the call; the other pointers are null.
    let model = unsafe { Model::load(&path, params) };
    model.ok_or_else(|| with_log(&format!("{}: it does not load", load.model.display())))
}

fn context_params(load: &Load) -> Result<sys::llama_context_params, String> {
    let threads = i32::try_from(load.threads.max(1)).map_err(|error| error.to_string())?;
    let is_offloaded = !load.devices.is_empty();
    // SAFETY: a plain structure of numbers and null pointers.
    let mut params = unsafe { sys::llama_context_default_params() };
    params.n_ctx = load.n_ctx;
    params.n_batch = load.n_batch;
    params.n_ubatch = load.n_ubatch;
    params.n_seq_max = load.n_seq_max;
    params.kv_unified = load.kv_unified;
    // With the whole cache kept, models with a window share prefixes like all others.
    params.swa_full = true;
    params.n_threads = threads;
    params.n_threads_batch = threads;
    params.type_k = kv_type(&load.type_k)?;
    params.type_v = kv_type(&load.type_v)?;
    params.flash_attn_type = match load.flash_attention {
        FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    params.offload_kqv = is_offloaded;
    params.op_offload = is_offloaded;
    Ok(params)
}

/// Architectures whose attention has nothing beside a mask: no caps, no bias by distance, no sinks.
const MASKED_ONLY: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// Models of more bytes leave attention to the engine: it was measured with none of them, and for one call at a time it
/// copies more than it saves.
const OWN_ATTENTION_BYTES_MAX: u64 = 32 << 20;

/// Attention by [`crate::attention`], for contexts of one thread, because it has no threads of its own: as lanes are where
/// there are as many as threads. Four companies with the tiny model, 840 calls in two lanes: 12 s in place of 18. An error
/// is why the engine has to do it after all.
fn own_attention(load: &Load, model: Model) -> Result<Option<Registered>, String> {
    let is_plain = load.flash_attention == FlashAttention::Auto
        && [&load.type_k, &load.type_v].iter().all(|name| *name == "f16")
        && model.architecture().is_some_and(|name| MASKED_ONLY.contains(&name.as_str()))
        && model.head_size().is_some_and(|size| size.is_multiple_of(HEAD_SIZE_STEP as u32));
    let is_small = model.size() <= OWN_ATTENTION_BYTES_MAX;
    if is_plain && is_small && load.devices.is_empty() && load.threads == 1 {
        Registered::new()
    } else {
        Ok(None)
    }
}

/// On a processor the engine's flash attention takes 2 to 63 tokens cell by cell, which is how sequences that write together
/// come: 16 of the tiny model took 9.0 s with it and 3.3 s without. Without it the scores of a whole batch are in memory, and
/// a quantised V cache cannot be read.
fn plain_attention_suits(load: &Load, model: Model) -> bool {
    let scores = u64::from(model.heads()) * u64::from(load.n_ubatch) * u64::from(load.n_ctx);
    let is_plain = matches!(load.type_v.as_str(), "f16" | "bf16" | "f32");
    load.devices.is_empty() && is_plain && scores * size_of::<f32>() as u64 <= SCORES_BYTES_MAX
}

/// The engine multiplies each token with the cells of all sequences on a processor, and masks them afterwards; a card skips
/// what is masked, and wants as many calls as there is room for. A cell costs 4 x layers x embedding operations and a token
/// 2 x parameters. Measured with the tiny model, of 60 to 1,024 cells: in one lane 256 to 384 were fastest, where 318 are
/// the share; of two lanes each was fastest with about 100. With attention of our own ([`own_attention`]) no share from
/// 0.05 to 1 made a difference.
fn cells_of_others(load: &Load, model: Model) -> usize {
    if !load.devices.is_empty() {
        return usize::MAX;
    }
    let share = if load.lanes > 1 { OTHERS_SHARE_OF_LANES } else { OTHERS_SHARE };
    let token = 2.0 * model.parameters() as f64;
    let cell = 4.0 * f64::from(model.layers()) * f64::from(model.embedding());
    (share * token / cell.max(1.0)) as usize
}

fn kv_type(name: &str) -> Result<sys::ggml_type, String> {
    Ok(match name {
        "f32" => sys::GGML_TYPE_F32,
        "f16" => sys::GGML_TYPE_F16,
        "bf16" => sys::GGML_TYPE_BF16,
        "q8_0" => sys::GGML_TYPE_Q8_0,
        "q5_0" => sys::GGML_TYPE_Q5_0,
        "q5_1" => sys::GGML_TYPE_Q5_1,
        "q4_0" => sys::GGML_TYPE_Q4_0,
        "q4_1" => sys::GGML_TYPE_Q4_1,
        "iq4_nl" => sys::GGML_TYPE_IQ4_NL,
        _ => {
            return Err(format!(
                "a KV cache of {name}: it is f32, f16, bf16, q8_0, q5_0, q5_1, q4_0, q4_1 or iq4_nl"
            ));
        }
    })
}

/// The engine's errors say that it failed, and its log says why.
fn with_log(what: &str) -> String {
    let lines = log::take();
    match lines.iter().rev().find(|line| line.warns) {
        Some(line) => format!("{what}: {}", line.text),
        None => what.to_owned(),
    }
}
