//! llama.cpp's C interface as a model and a context that cannot be misused: the one file that calls into the engine for
//! inference. Both live as long as the process; threads share a model, and one at a time uses a context.

use std::ffi::{CStr, CString, c_char};
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;

use haul_frames::Marks::{Read, Spelled};
use llama_cpp_sys_2 as sys;

/// A token of the model's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) i32);

/// A loaded model. It is never freed.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    model: NonNull<sys::llama_model>,
    vocabulary: NonNull<sys::llama_vocab>,
}

// SAFETY: a model is not changed once it is loaded; the engine lets several contexts of several threads read it.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

/// A context of a model, and a batch for it. They are never freed.
pub(crate) struct Context {
    context: NonNull<sys::llama_context>,
    memory: sys::llama_memory_t,
    batch: sys::llama_batch,
    /// Tokens that the batch has room for.
    room: usize,
    vocabulary_size: usize,
}

// SAFETY: a context and its batch belong to no thread, and what changes them takes `&mut self`.
unsafe impl Send for Context {}

/// The state of a sequence, as the engine wrote it.
pub(crate) struct State(pub(crate) Vec<u8>);

/// Text of a pointer of the engine's.
///
/// # Safety
/// `text` is null or ends with a zero, and stays while this runs.
pub(crate) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A path as C has it.
pub(crate) fn c_path(path: &Path) -> Result<CString, String> {
    let name = path.to_str().ok_or_else(|| format!("{}: no UTF-8", path.display()))?;
    CString::new(name).map_err(|_| format!("{}: a zero in its name", path.display()))
}

impl Model {
    /// Loads a file; `None` where the engine will not, whose log says why.
    ///
    /// # Safety
    /// The pointers in `params` are null, or to lists that end with a null and outlive the call.
    pub(crate) unsafe fn load(path: &CStr, params: sys::llama_model_params) -> Option<Self> {
        // SAFETY: the path ends with a zero; the parameters are as the caller promises.
        let model = NonNull::new(unsafe { sys::llama_model_load_from_file(path.as_ptr(), params) })?;
        // SAFETY: the model was just loaded and is never freed.
        let vocabulary = unsafe { sys::llama_model_get_vocab(model.as_ptr()) };
        Some(Self { model, vocabulary: NonNull::new(vocabulary.cast_mut())? })
    }

    fn ptr(self) -> *const sys::llama_model {
        self.model.as_ptr()
    }

    fn vocab(self) -> *const sys::llama_vocab {
        self.vocabulary.as_ptr()
    }

    /// Bytes of all tensors.
    pub(crate) fn size(self) -> u64 {
        // SAFETY: the model is never freed.
        unsafe { sys::llama_model_size(self.ptr()) }
    }

    /// Numbers of all tensors.
    pub(crate) fn parameters(self) -> u64 {
        // SAFETY: the model is never freed.
        unsafe { sys::llama_model_n_params(self.ptr()) }
    }

    pub(crate) fn layers(self) -> u32 {
        // SAFETY: the model is never freed.
        unsafe { sys::llama_model_n_layer(self.ptr()) }.unsigned_abs()
    }

    pub(crate) fn embedding(self) -> u32 {
        // SAFETY: the model is never freed.
        unsafe { sys::llama_model_n_embd(self.ptr()) }.unsigned_abs()
    }

    /// Heads of queries in a layer.
    pub(crate) fn heads(self) -> u32 {
        // SAFETY: as above.
        unsafe { sys::llama_model_n_head(self.ptr()) }.unsigned_abs()
    }

    /// A text of the file's metadata; `None` where it is none, or is longer than names and numbers are.
    fn metadata(self, key: &CStr) -> Option<String> {
        let mut buffer: [c_char; 64] = [0; 64];
        // SAFETY: the key ends with a zero; the engine writes at most the buffer's length, a zero at the end.
        unsafe {
            let length =
                sys::llama_model_meta_val_str(self.ptr(), key.as_ptr(), buffer.as_mut_ptr(), buffer.len());
            let fits = usize::try_from(length).is_ok_and(|length| length < buffer.len());
            fits.then(|| text(buffer.as_ptr()))
        }
    }

    /// Numbers of a head's keys, and of its values; none where these are not as many.
    pub(crate) fn head_size(self) -> Option<u32> {
        let architecture = self.architecture()?;
        let [keys, values] = ["key_length", "value_length"].map(|name| {
            let key = CString::new(format!("{architecture}.attention.{name}")).ok()?;
            self.metadata(&key).map_or(Some(self.embedding() / self.heads().max(1)), |size| size.parse().ok())
        });
        keys.filter(|_| keys == values)
    }

    /// `llama`, `qwen2`
    pub(crate) fn architecture(self) -> Option<String> {
        self.metadata(c"general.architecture")
    }

    pub(crate) fn context_train(self) -> u32 {
        // SAFETY: the model is never freed.
        unsafe { sys::llama_model_n_ctx_train(self.ptr()) }.unsigned_abs()
    }

    pub(crate) fn vocabulary(self) -> usize {
        // SAFETY: the vocabulary lives in the model, which is never freed.
        unsafe { sys::llama_vocab_n_tokens(self.vocab()) }.unsigned_abs() as usize
    }

    /// Whether its state is more than a list of tokens.
    pub(crate) fn is_recurrent(self) -> bool {
        // SAFETY: the model is never freed.
        unsafe { sys::llama_model_is_recurrent(self.ptr()) || sys::llama_model_is_hybrid(self.ptr()) }
    }

    pub(crate) fn chat_template(self) -> Option<String> {
        // SAFETY: the model is never freed; without a name the engine gives its one template, or null.
        let template = unsafe { sys::llama_model_chat_template(self.ptr(), std::ptr::null()) };
        // SAFETY: the text lives in the model.
        (!template.is_null()).then(|| unsafe { text(template) })
    }

    /// What the engine calls it: `llama 7B Q4_K - Medium`.
    pub(crate) fn description(self) -> String {
        let mut buffer: [c_char; 256] = [0; 256];
        // SAFETY: the engine writes at most the buffer's length, a zero at the end.
        unsafe {
            sys::llama_model_desc(self.ptr(), buffer.as_mut_ptr(), buffer.len());
            text(buffer.as_ptr())
        }
    }

    pub(crate) fn adds_bos(self) -> bool {
        // SAFETY: the vocabulary lives in the model, which is never freed.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab()) }
    }

    /// The token that begins a text; negative where there is none.
    pub(crate) fn bos(self) -> Token {
        // SAFETY: the vocabulary lives in the model, which is never freed.
        Token(unsafe { sys::llama_vocab_bos(self.vocab()) })
    }

    /// The token that ends a text.
    pub(crate) fn eos(self) -> Token {
        // SAFETY: the vocabulary lives in the model, which is never freed.
        Token(unsafe { sys::llama_vocab_eos(self.vocab()) })
    }

    /// Whether a token ends an answer.
    pub(crate) fn ends(self, token: Token) -> bool {
        // SAFETY: the engine checks a token against its vocabulary.
        unsafe { sys::llama_vocab_is_eog(self.vocab(), token.0) }
    }

    /// Whether a token is no text: a mark of a turn, of a beginning or an end.
    fn is_mark(self, token: Token) -> bool {
        const MARKS: u32 = sys::LLAMA_TOKEN_ATTR_CONTROL | sys::LLAMA_TOKEN_ATTR_UNKNOWN;
        // SAFETY: the engine checks a token against its vocabulary.
        unsafe { sys::llama_vocab_get_attr(self.vocab(), token.0) & MARKS != 0 }
    }

    /// Texts of all tokens that are marks.
    pub(crate) fn marks(self) -> Vec<String> {
        let tokens = (0..self.vocabulary() as i32).map(Token).filter(|token| self.is_mark(*token));
        tokens.filter_map(|token| String::from_utf8(self.piece(token, Marks::Shown)).ok()).collect()
    }

    /// Tokens of a text, and the token before it where the model wants one. Marks in it are read, but those in the ranges
    /// `spelled`, which ascend.
    pub(crate) fn tokenize(self, text: &str, spelled: &[Range<usize>]) -> Result<Vec<Token>, String> {
        let (mut tokens, mut end) = (vec![], 0);
        for range in spelled {
            let (Some(before), Some(within)) = (text.get(end..range.start), text.get(range.clone())) else {
                return Err(format!("a mark at {range:?} in a text of {} bytes", text.len()));
            };
            tokens.append(&mut self.tokens(before, Part::at(end), Read)?);
            tokens.append(&mut self.tokens(within, Part::Next, Spelled)?);
            end = range.end;
        }
        tokens.append(&mut self.tokens(&text[end..], Part::at(end), Read)?);
        // Templates write the mark too, and no model was trained with two.
        if let [first, second, ..] = tokens[..]
            && first == second
            && first == self.bos()
            && self.adds_bos()
        {
            tokens.remove(0);
        }
        Ok(tokens)
    }

    /// Tokens of a text in which no mark is meant.
    pub(crate) fn plain(self, text: &str) -> Result<Vec<Token>, String> {
        self.tokens(text, Part::First, Spelled)
    }

    /// Tokens of a part of a text.
    fn tokens(self, text: &str, part: Part, marks: haul_frames::Marks) -> Result<Vec<Token>, String> {
        let length = i32::try_from(text.len()).map_err(|_| format!("a text of {} bytes", text.len()))?;
        let mut tokens: Vec<i32> = vec![0; text.len() / 2 + 8];
        loop {
            let room = i32::try_from(tokens.len()).map_err(|_| format!("a text of {} bytes", text.len()))?;
            // SAFETY: the text has `length` bytes and the list room for `room` tokens; the engine writes no more.
            let count = unsafe {
                let (text, tokens) = (text.as_ptr().cast(), tokens.as_mut_ptr());
                let (is_first, reads_marks) = (part == Part::First, marks == Read);
                sys::llama_tokenize(self.vocab(), text, length, tokens, room, is_first, reads_marks)
            };
            if count >= 0 {
                tokens.truncate(count.unsigned_abs() as usize);
                return Ok(tokens.into_iter().map(Token).collect());
            }
            // A negative count is how much room it takes.
            if count == i32::MIN || count.unsigned_abs() as usize <= tokens.len() {
                return Err(format!("a text of {} bytes cannot be tokenized", text.len()));
            }
            tokens.resize(count.unsigned_abs() as usize, 0);
        }
    }

    /// Bytes of a token as text; none of a token that is a mark, unless marks are wanted.
    pub(crate) fn piece(self, token: Token, marks: Marks) -> Vec<u8> {
        let mut bytes: Vec<u8> = vec![0; 32];
        loop {
            let room = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
            // SAFETY: the buffer has `room` bytes, and the engine writes no more; it checks the token.
            let count = unsafe {
                let buffer = bytes.as_mut_ptr().cast();
                sys::llama_token_to_piece(self.vocab(), token.0, buffer, room, 0, marks == Marks::Shown)
            };
            if count >= 0 {
                bytes.truncate(count.unsigned_abs() as usize);
                return bytes;
            }
            bytes.resize(count.unsigned_abs() as usize, 0);
        }
    }
}

/// Where a part of a text stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    First,
    Next,
}

impl Part {
    fn at(start: usize) -> Part {
        if start == 0 { Part::First } else { Part::Next }
    }
}

/// What becomes of tokens that are no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    Shown,
    Hidden,
}

impl Context {
    /// Makes the context; `None` where the engine will not, whose log says why.
    pub(crate) fn new(model: Model, params: sys::llama_context_params) -> Option<Self> {
        // SAFETY: the model is never freed, and the pointers in the parameters are the engine's defaults.
        let context = NonNull::new(unsafe { sys::llama_init_from_model(model.model.as_ptr(), params) })?;
        // SAFETY: the context was just made and is never freed. A batch of so many tokens of one sequence each.
        let (memory, room, batch) = unsafe {
            let room = sys::llama_n_batch(context.as_ptr());
            let batch = sys::llama_batch_init(room.cast_signed(), 0, 1);
            (sys::llama_get_memory(context.as_ptr()), room as usize, batch)
        };
        Some(Self { context, memory, batch, room, vocabulary_size: model.vocabulary() })
    }

    /// Cells of the cache.
    pub(crate) fn n_ctx(&self) -> u32 {
        // SAFETY: the context is never freed.
        unsafe { sys::llama_n_ctx(self.context.as_ptr()) }
    }

    /// Tokens that one batch has room for.
    pub(crate) fn n_batch(&self) -> usize {
        self.room
    }

    /// Tokens in the batch.
    pub(crate) fn batched(&self) -> usize {
        self.batch.n_tokens.unsigned_abs() as usize
    }

    /// Adds a token to the batch; its row there.
    pub(crate) fn add(
        &mut self,
        token: Token,
        position: i32,
        sequence: i32,
        output: bool,
    ) -> Result<i32, String> {
        let row = self.batched();
        if row >= self.room {
            return Err(format!("a batch of more than {} tokens", self.room));
        }
        // SAFETY: each list of the batch has room for `room` entries, and `row` is below that; each entry of `seq_id`
        // is a list of one.
        unsafe {
            self.batch.token.add(row).write(token.0);
            self.batch.pos.add(row).write(position);
            self.batch.n_seq_id.add(row).write(1);
            (*self.batch.seq_id.add(row)).write(sequence);
            self.batch.logits.add(row).write(i8::from(output));
        }
        self.batch.n_tokens += 1;
        Ok(self.batch.n_tokens - 1)
    }

    /// Runs the batch and empties it.
    pub(crate) fn decode(&mut self) -> Result<(), String> {
        // SAFETY: the context is never freed; the batch's first `n_tokens` entries were written by `add`.
        let code = unsafe { sys::llama_decode(self.context.as_ptr(), self.batch) };
        self.batch.n_tokens = 0;
        match code {
            0 => Ok(()),
            1 => Err("no room in the KV cache".to_owned()),
            code => Err(format!("decoding failed with code {code}")),
        }
    }

    pub(crate) fn discard_batch(&mut self) {
        self.batch.n_tokens = 0;
    }

    /// Logits after the token in a row of the last batch; `None` for a row that asked for none.
    pub(crate) fn logits(&self, row: i32) -> Option<&[f32]> {
        // SAFETY: the engine checks the row and gives null for one without logits, else as many numbers as the
        // vocabulary has tokens; they stay until the next decode, which takes `&mut self`.
        unsafe {
            let logits = sys::llama_get_logits_ith(self.context.as_ptr(), row);
            (!logits.is_null()).then(|| std::slice::from_raw_parts(logits, self.vocabulary_size))
        }
    }

    /// Waits until the device has done what it was given.
    pub(crate) fn synchronize(&self) {
        // SAFETY: the context is never freed.
        unsafe { sys::llama_synchronize(self.context.as_ptr()) }
    }

    /// Forgets all sequences.
    pub(crate) fn clear(&mut self) {
        // SAFETY: the memory lives in the context, which is never freed.
        unsafe { sys::llama_memory_clear(self.memory, true) }
    }

    /// Forgets a sequence from a position on; false where the model cannot forget a part.
    pub(crate) fn forget(&mut self, sequence: i32, from: i32) -> bool {
        // SAFETY: the memory lives in the context, which is never freed.
        unsafe { sys::llama_memory_seq_rm(self.memory, sequence, from, -1) }
    }

    /// Lets `to` begin with the positions before `end` of `from`.
    pub(crate) fn share(&mut self, from: i32, to: i32, end: i32) {
        // SAFETY: the memory lives in the context, which is never freed. Only caches with one pool of cells are shared
        // in part (`Engine::share`): in others the engine would end the process.
        unsafe { sys::llama_memory_seq_cp(self.memory, from, to, 0, end) }
    }

    /// The last position of a sequence; -1 of an empty one.
    pub(crate) fn last_position(&self, sequence: i32) -> i32 {
        // SAFETY: the memory lives in the context, which is never freed.
        unsafe { sys::llama_memory_seq_pos_max(self.memory, sequence) }
    }

    /// The state of a sequence.
    pub(crate) fn snapshot(&mut self, sequence: i32) -> Result<State, String> {
        // SAFETY: the buffer has as many bytes as the engine says that it writes.
        let (bytes, written) = unsafe {
            let size = sys::llama_state_seq_get_size(self.context.as_ptr(), sequence);
            let mut bytes = vec![0_u8; size];
            let written =
                sys::llama_state_seq_get_data(self.context.as_ptr(), bytes.as_mut_ptr(), size, sequence);
            (bytes, written)
        };
        if written != bytes.len() {
            return Err(format!("{written} of {} bytes of a sequence's state", bytes.len()));
        }
        Ok(State(bytes))
    }

    /// Puts a state in the place of a sequence.
    pub(crate) fn restore(&mut self, state: &State, sequence: i32) -> Result<(), String> {
        // SAFETY: the bytes are what a context of this model, made with the same parameters, wrote.
        let read = unsafe {
            let bytes = &state.0;
            sys::llama_state_seq_set_data(self.context.as_ptr(), bytes.as_ptr(), bytes.len(), sequence)
        };
        if read == state.0.len() {
            Ok(())
        } else {
            Err(format!("{read} of {} bytes of a state", state.0.len()))
        }
    }
}
