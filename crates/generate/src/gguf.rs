//! GGUF files, looked at before any engine sees them: header, metadata and the table of tensors, nothing else.
//!
//! Nothing that the file claims is believed before it is checked against the file's length: counts, lengths, offsets,
//! products of dimensions. What is read is bounded by `HEADER_BYTES_MAX`, so no file takes more than that, or longer
//! than reading it.
//!
//! The format is <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Metadata and tensor table together; vocabularies of 256,000 tokens take 10 MiB.
const HEADER_BYTES_MAX: u64 = 64 << 20;
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 16;
const STRING_BYTES_MAX: u64 = 16 << 20;
const ARRAY_DEPTH_MAX: u32 = 4;
const DIMENSIONS_MAX: u32 = 4;
const ALIGNMENT_MAX: u64 = 1 << 20;
const ALIGNMENT: u64 = 32;
/// Compute buffers and the engine itself, roughly.
const OVERHEAD_BYTES: u64 = 256 << 20;
const NAME_SHOWN_CHARS: usize = 60;

/// What a file says of its model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gguf {
    /// `llama`, `qwen2`, ...
    pub architecture: String,
    /// The model's own name.
    pub name: Option<String>,
    /// In words: `q4_k_m`, or the type of most bytes.
    pub quantisation: String,
    /// Numbers of all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Tokens that it was trained on at once.
    pub context_train: u32,
    /// Layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub embedding: u32,
    /// Numbers that all layers together keep for each token: of K, and of V.
    pub kv_width: (u64, u64),
    /// Size of one head of K, and of V.
    pub head_size: (u32, u32),
    /// Tokens of the vocabulary.
    pub vocabulary: u32,
    /// Whether the file has a chat template.
    pub has_chat_template: bool,
}

/// A file that no engine gets to see, or that the machine has no room for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is something else, or damaged, or made to harm.
    #[error("{}: no sound GGUF file: {fault}", path.display())]
    Unsound {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        fault: Fault,
    },
    /// A cache of another type than the engine has.
    #[error("a KV cache of type {name:?}: it is {}", KV_TYPES.map(|kind| kind.0).join(", "))]
    KvType {
        /// As asked for.
        name: String,
    },
    /// A cache whose rows are no whole blocks.
    #[error("heads of {head_size} numbers are no whole blocks of 32, which a KV cache of {name} has")]
    KvBlocks {
        /// The type.
        name: String,
        /// Numbers of a head.
        head_size: u32,
    },
    /// Weights and cache together are more than is free.
    #[error(
        "{} for weights + {} for a KV cache of {cells} cells ({types}) + {} for computing = {}, and {} are free",
        gib(*weights_bytes), gib(*kv_bytes), gib(computing_bytes(*kv_bytes)), gib(*needed_bytes), gib(*available_bytes)
    )]
    NoRoom {
        /// All tensors.
        weights_bytes: u64,
        /// The cache.
        kv_bytes: u64,
        /// Cells of the cache.
        cells: u32,
        /// Types of K and V.
        types: String,
        /// The sum.
        needed_bytes: u64,
        /// What is free.
        available_bytes: u64,
    },
}

impl GgufError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { .. } | Self::KvType { .. } => None,
            Self::Unsound { .. } => Some(
                "download it again and compare its checksum with the one that its maker gives".to_owned(),
            ),
            Self::KvBlocks { .. } => Some("take an f16 cache for this model".to_owned()),
            Self::NoRoom { .. } => {
                Some("a smaller quantisation, a smaller --ctx, or --cache-type-k q8_0 takes less".to_owned())
            }
        }
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It does not begin as such a file does.
    #[error("it begins with {0:02x?}")]
    Magic([u8; 4]),
    /// Version 1, or one of the future.
    #[error("version {0}, of 2 or 3")]
    Version(u32),
    /// It ends too early.
    #[error("it ends inside {0}")]
    Ends(String),
    /// The header is longer than any is.
    #[error("more than {HEADER_BYTES_MAX} bytes of header")]
    Header,
    /// More of something than fits the file, or than any model has.
    #[error("{count} {what}, of at most {at_most}")]
    Count {
        /// Keys, tensors, elements of an array ...
        what: String,
        /// As claimed.
        count: u64,
        /// What is possible.
        at_most: u64,
    },
    /// A name stands twice.
    #[error("{what} {name:?} stands twice")]
    Twice {
        /// Key or tensor.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A type that the format does not have.
    #[error("{what} of type {id}")]
    Type {
        /// Of what.
        what: String,
        /// The number in the file.
        id: u32,
    },
    /// A key that must be there, of the right type and in its bounds, is not.
    #[error("{key}: {why}")]
    Key {
        /// Its name.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// A tensor that cannot be.
    #[error("tensor {name:?}: {why}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Types of a cache, with numbers and bytes of a block.
const KV_TYPES: [(&str, u64, u64); 9] = [
    ("f32", 1, 4),
    ("f16", 1, 2),
    ("bf16", 1, 2),
    ("q8_0", 32, 34),
    ("q5_0", 32, 22),
    ("q5_1", 32, 24),
    ("q4_0", 32, 18),
    ("q4_1", 32, 20),
    ("iq4_nl", 32, 18),
];

/// Types of tensors: id, name, numbers and bytes of a block.
const TENSOR_TYPES: [(u32, &str, u64, u64); 33] = [
    (0, "f32", 1, 4),
    (1, "f16", 1, 2),
    (2, "q4_0", 32, 18),
    (3, "q4_1", 32, 20),
    (6, "q5_0", 32, 22),
    (7, "q5_1", 32, 24),
    (8, "q8_0", 32, 34),
    (9, "q8_1", 32, 36),
    (10, "q2_k", 256, 84),
    (11, "q3_k", 256, 110),
    (12, "q4_k", 256, 144),
    (13, "q5_k", 256, 176),
    (14, "q6_k", 256, 210),
    (15, "q8_k", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (20, "iq4_nl", 32, 18),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (23, "iq4_xs", 256, 136),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (29, "iq1_m", 256, 56),
    (30, "bf16", 1, 2),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
    (39, "mxfp4", 32, 17),
    (40, "nvfp4", 64, 36),
];

/// `general.file_type` in words.
const FILE_TYPES: [(u64, &str); 32] = [
    (0, "f32"),
    (1, "f16"),
    (2, "q4_0"),
    (3, "q4_1"),
    (7, "q8_0"),
    (8, "q5_0"),
    (9, "q5_1"),
    (10, "q2_k"),
    (11, "q3_k_s"),
    (12, "q3_k_m"),
    (13, "q3_k_l"),
    (14, "q4_k_s"),
    (15, "q4_k_m"),
    (16, "q5_k_s"),
    (17, "q5_k_m"),
    (18, "q6_k"),
    (19, "iq2_xxs"),
    (20, "iq2_xs"),
    (21, "q2_k_s"),
    (22, "iq3_xs"),
    (23, "iq3_xxs"),
    (24, "iq1_s"),
    (25, "iq4_nl"),
    (26, "iq3_s"),
    (27, "iq3_m"),
    (28, "iq2_s"),
    (29, "iq2_m"),
    (30, "iq4_xs"),
    (31, "iq1_m"),
    (32, "bf16"),
    (36, "tq1_0"),
    (37, "tq2_0"),
];

impl Gguf {
    /// Reads the header of a file and holds it against the file's length.
    ///
    /// # Errors
    /// The file cannot be read, or is not what it says.
    pub fn read(path: &Path) -> Result<Self, GgufError> {
        let failed = |source| GgufError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        Self::parse(file, length).map_err(|error| match error {
            ParseError::Io(source) => failed(source),
            ParseError::Fault(fault) => GgufError::Unsound { path: path.to_owned(), fault },
        })
    }

    /// Bytes of a KV cache of so many cells.
    ///
    /// # Errors
    /// A type that no cache has, or that this model's heads do not fit.
    pub fn kv_bytes(&self, cells: u32, type_k: &str, type_v: &str) -> Result<u64, GgufError> {
        let one = |name: &str, width: u64, head_size: u32| {
            if width == 0 {
                return Ok(0);
            }
            let (_, numbers, bytes) = KV_TYPES
                .iter()
                .find(|(known, ..)| *known == name)
                .ok_or_else(|| GgufError::KvType { name: name.to_owned() })?;
            if !u64::from(head_size).is_multiple_of(*numbers) {
                return Err(GgufError::KvBlocks { name: name.to_owned(), head_size });
            }
            Ok(width / numbers * bytes * u64::from(cells))
        };
        Ok(one(type_k, self.kv_width.0, self.head_size.0)? + one(type_v, self.kv_width.1, self.head_size.1)?)
    }

    /// Whether weights and a cache of so many cells go into the memory that is free.
    ///
    /// # Errors
    /// They do not; the message has the sum.
    pub fn fits(
        &self,
        available_bytes: u64,
        cells: u32,
        type_k: &str,
        type_v: &str,
    ) -> Result<(), GgufError> {
        let kv_bytes = self.kv_bytes(cells, type_k, type_v)?;
        let computing_bytes = computing_bytes(kv_bytes);
        let needed_bytes = self.tensor_bytes.saturating_add(kv_bytes).saturating_add(computing_bytes);
        if needed_bytes <= available_bytes {
            return Ok(());
        }
        Err(GgufError::NoRoom {
            weights_bytes: self.tensor_bytes,
            kv_bytes,
            cells,
            types: format!("{type_k}/{type_v}"),
            needed_bytes,
            available_bytes,
        })
    }

    fn parse(file: impl Read, length: u64) -> Result<Self, ParseError> {
        let mut header = Header::new(file, length);
        let magic: [u8; 4] = header.bytes("the magic number")?;
        if &magic != b"GGUF" {
            return Err(Fault::Magic(magic).into());
        }
        let version = header.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(Fault::Version(version).into());
        }
        let tensors = header.count("tensors", TENSORS_MAX, 8 + 4 + 8 + 4 + 8)?;
        let keys = header.count("keys", KEYS_MAX, 8 + 4 + 1)?;
        let metadata = Metadata::read(&mut header, keys)?;
        let alignment = metadata.alignment()?;
        let table = Table::read(&mut header, tensors, alignment)?;
        let data = header.at.next_multiple_of(alignment);
        table.check(data, length, alignment)?;
        metadata.model(&table)
    }
}

/// Memory beside weights and cache: buffers, and copies of beginnings.
fn computing_bytes(kv_bytes: u64) -> u64 {
    OVERHEAD_BYTES + kv_bytes.max(haul_frames::COPIES_BYTES_FREE as u64)
}

/// Faults of the file and of reading it, told apart at the end.
#[derive(Debug)]
enum ParseError {
    Io(io::Error),
    Fault(Fault),
}

impl From<Fault> for ParseError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The bytes before the tensors, read forward.
struct Header<R> {
    file: BufReader<R>,
    at: u64,
    length: u64,
}

impl<R: Read> Header<R> {
    fn new(file: R, length: u64) -> Self {
        Self { file: BufReader::new(file), at: 0, length }
    }

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }

    /// Room for `bytes` more, before anything is allocated for them.
    fn claim(&mut self, bytes: u64, what: &str) -> Result<(), ParseError> {
        if bytes > self.left() {
            return Err(Fault::Ends(what.to_owned()).into());
        }
        self.at += bytes;
        if self.at > HEADER_BYTES_MAX {
            return Err(Fault::Header.into());
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<(), ParseError> {
        self.claim(buffer.len() as u64, what)?;
        self.file.read_exact(buffer).map_err(|error| match error.kind() {
            // The file became shorter while it was read.
            io::ErrorKind::UnexpectedEof => Fault::Ends(what.to_owned()).into(),
            _ => ParseError::Io(error),
        })
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ParseError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ParseError> {
        Ok(u32::from_le_bytes(self.bytes(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, ParseError> {
        Ok(u64::from_le_bytes(self.bytes(what)?))
    }

    /// A number of things of at least so many bytes each.
    fn count(&mut self, what: &str, most: u64, bytes_each: u64) -> Result<u64, ParseError> {
        let count = self.u64(what)?;
        let at_most = most.min(self.left() / bytes_each);
        if count > at_most {
            return Err(Fault::Count { what: what.to_owned(), count, at_most }.into());
        }
        Ok(count)
    }

    fn string(&mut self, what: &str) -> Result<String, ParseError> {
        let bytes = self.count(&format!("bytes in {what}"), STRING_BYTES_MAX, 1)?;
        // Checked against the file's length, so this is no more than the file has.
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        self.fill(&mut text, what)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn skip(&mut self, bytes: u64, what: &str) -> Result<(), ParseError> {
        self.claim(bytes, what)?;
        let skipped =
            io::copy(&mut self.file.by_ref().take(bytes), &mut io::sink()).map_err(ParseError::Io)?;
        if skipped < bytes {
            return Err(Fault::Ends(what.to_owned()).into());
        }
        Ok(())
    }
}

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Unsigned(u64),
    Signed(i64),
    Float,
    Bool,
    Text(String),
    /// Elements, and the sum of those that are whole numbers of 32 bits.
    Array {
        count: u64,
        sum: u64,
    },
}

const ARRAY: u32 = 9;
const TEXT: u32 = 8;

/// Bytes of a value of a type; none of texts, arrays, and types that there are not.
fn width(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

struct Metadata {
    values: BTreeMap<String, Value>,
}

impl Metadata {
    fn read<R: Read>(header: &mut Header<R>, keys: u64) -> Result<Self, ParseError> {
        let mut values = BTreeMap::new();
        for number in 0..keys {
            let key = header.string(&format!("the name of key {number}"))?;
            let kind = header.u32(&key)?;
            let value = value(header, &key, kind, 0)?;
            if values.insert(key.clone(), value).is_some() {
                return Err(Fault::Twice { what: "key", name: shown(&key) }.into());
            }
        }
        Ok(Self { values })
    }

    fn alignment(&self) -> Result<u64, ParseError> {
        const KEY: &str = "general.alignment";
        match self.values.get(KEY) {
            None => Ok(ALIGNMENT),
            Some(Value::Unsigned(bytes)) if bytes.is_power_of_two() && *bytes <= ALIGNMENT_MAX => Ok(*bytes),
            Some(other) => {
                Err(fault(KEY, &format!("{other:?} is no power of two of at most {ALIGNMENT_MAX}")))
            }
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A number from 1 to `most`.
    fn number(&self, key: &str, most: u64) -> Result<Option<u32>, ParseError> {
        match self.count(key, most)? {
            Some(0) => Err(fault(key, &format!("0 is outside 1..={most}"))),
            number => Ok(number),
        }
    }

    /// A number from 0 to `most`.
    fn count(&self, key: &str, most: u64) -> Result<Option<u32>, ParseError> {
        let number = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(number)) => *number,
            Some(Value::Signed(number)) => {
                u64::try_from(*number).map_err(|_| fault(key, &format!("{number} is below 0")))?
            }
            Some(other) => return Err(fault(key, &format!("{other:?} is no whole number"))),
        };
        match u32::try_from(number) {
            Ok(number) if u64::from(number) <= most => Ok(Some(number)),
            _ => Err(fault(key, &format!("{number} is above {most}"))),
        }
    }

    fn required(&self, key: &str, most: u64) -> Result<u32, ParseError> {
        self.number(key, most)?.ok_or_else(|| fault(key, "it is missing"))
    }

    /// What the keys say of the model, held against each other.
    fn model(&self, table: &Table) -> Result<Gguf, ParseError> {
        const ARCHITECTURE: &str = "general.architecture";
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let architecture =
            self.text(ARCHITECTURE).ok_or_else(|| fault(ARCHITECTURE, "it is missing, or no text"))?;
        let key = |name: &str| format!("{architecture}.{name}");
        let layers = self.required(&key("block_count"), 4096)?;
        let embedding = self.required(&key("embedding_length"), 1 << 20)?;
        let heads_key = key("attention.head_count");
        let heads = match self.values.get(&heads_key) {
            Some(Value::Array { count, sum }) => {
                u32::try_from(sum / (*count).max(1)).unwrap_or(u32::MAX).max(1)
            }
            // Models that keep a state and no cache, such as Mamba and RWKV, have none.
            _ => self.count(&heads_key, 1 << 16)?.unwrap_or(1),
        };
        // By layer where they differ; heads that share none are as many as there are.
        let kv_heads_key = key("attention.head_count_kv");
        let kv_heads = match self.values.get(&kv_heads_key) {
            Some(Value::Array { count, sum }) if *count == u64::from(layers) => *sum,
            Some(Value::Array { count, .. }) => {
                return Err(fault(&kv_heads_key, &format!("{count} numbers for {layers} layers")));
            }
            Some(_) if heads == 0 => 0,
            Some(_) => u64::from(self.required(&kv_heads_key, 1 << 16)?) * u64::from(layers),
            None => u64::from(heads) * u64::from(layers),
        };
        let head_size = |name: &str| -> Result<u32, ParseError> {
            Ok(self.number(&key(name), 1 << 16)?.unwrap_or((embedding / heads.max(1)).max(1)))
        };
        let head_size = (head_size("attention.key_length")?, head_size("attention.value_length")?);
        let vocabulary = match self.values.get(TOKENS) {
            Some(Value::Array { count, .. }) => u32::try_from(*count).unwrap_or(u32::MAX),
            Some(_) => return Err(fault(TOKENS, "no list")),
            None => 0,
        };
        for list in ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"] {
            if let Some(Value::Array { count, .. }) = self.values.get(list)
                && *count != u64::from(vocabulary)
            {
                return Err(fault(list, &format!("{count} numbers for {vocabulary} tokens")));
            }
        }
        Ok(Gguf {
            name: self.text("general.name").map(str::to_owned),
            quantisation: self.quantisation(table),
            parameters: table.parameters,
            tensor_bytes: table.bytes,
            context_train: self.number(&key("context_length"), 1 << 31)?.unwrap_or(512),
            kv_width: (kv_heads * u64::from(head_size.0), kv_heads * u64::from(head_size.1)),
            has_chat_template: self.text("tokenizer.chat_template").is_some(),
            architecture: architecture.to_owned(),
            layers,
            embedding,
            head_size,
            vocabulary,
        })
    }

    fn quantisation(&self, table: &Table) -> String {
        let named = match self.values.get("general.file_type") {
            Some(Value::Unsigned(id)) => FILE_TYPES.iter().find(|(known, _)| known == id),
            _ => None,
        };
        match named {
            Some((_, name)) => (*name).to_owned(),
            None => table
                .types
                .iter()
                .max_by_key(|(_, bytes)| **bytes)
                .map_or("empty", |(name, _)| name)
                .to_owned(),
        }
    }
}

fn fault(key: &str, why: &str) -> ParseError {
    Fault::Key { key: shown(key), why: why.to_owned() }.into()
}

fn shown(name: &str) -> String {
    name.chars().take(NAME_SHOWN_CHARS).collect()
}

fn value<R: Read>(header: &mut Header<R>, key: &str, kind: u32, depth: u32) -> Result<Value, ParseError> {
    Ok(match kind {
        0 => Value::Unsigned(u64::from(u8::from_le_bytes(header.bytes(key)?))),
        1 => Value::Signed(i64::from(i8::from_le_bytes(header.bytes(key)?))),
        2 => Value::Unsigned(u64::from(u16::from_le_bytes(header.bytes(key)?))),
        3 => Value::Signed(i64::from(i16::from_le_bytes(header.bytes(key)?))),
        4 => Value::Unsigned(u64::from(header.u32(key)?)),
        5 => Value::Signed(i64::from(i32::from_le_bytes(header.bytes(key)?))),
        6 => skipped(header, key, 4, Value::Float)?,
        7 => skipped(header, key, 1, Value::Bool)?,
        TEXT => Value::Text(header.string(key)?),
        ARRAY => array(header, key, depth)?,
        10 => Value::Unsigned(header.u64(key)?),
        11 => Value::Signed(i64::from_le_bytes(header.bytes(key)?)),
        12 => skipped(header, key, 8, Value::Float)?,
        id => return Err(Fault::Type { what: format!("key {:?}", shown(key)), id }.into()),
    })
}

fn skipped<R: Read>(
    header: &mut Header<R>,
    key: &str,
    bytes: u64,
    value: Value,
) -> Result<Value, ParseError> {
    header.skip(bytes, key)?;
    Ok(value)
}

fn array<R: Read>(header: &mut Header<R>, key: &str, depth: u32) -> Result<Value, ParseError> {
    if depth == ARRAY_DEPTH_MAX {
        return Err(fault(key, &format!("lists in lists, more than {ARRAY_DEPTH_MAX} deep")));
    }
    let kind = header.u32(key)?;
    let bytes_each = match kind {
        TEXT => 8,
        ARRAY => 12,
        _ => width(kind).ok_or(Fault::Type { what: format!("list {:?}", shown(key)), id: kind })?,
    };
    let count = header.count(&format!("elements of {:?}", shown(key)), u64::MAX, bytes_each)?;
    let mut sum: u64 = 0;
    match kind {
        TEXT => {
            for _ in 0..count {
                check_token(key, &header.string(key)?)?;
            }
        }
        4 | 5 => {
            for _ in 0..count {
                sum = sum.saturating_add(u64::from(header.u32(key)?));
            }
        }
        ARRAY => {
            for _ in 0..count {
                array(header, key, depth + 1)?;
            }
        }
        _ => header.skip(count * bytes_each, key)?,
    }
    Ok(Value::Array { count, sum })
}

/// Tokens for single bytes are `<0x00>` to `<0xFF>`; engines have read beyond their tables for `<0x-1>`.
fn check_token(key: &str, token: &str) -> Result<(), ParseError> {
    let Some(digits) = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')) else {
        return Ok(());
    };
    if digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(fault(key, &format!("{:?} is no token of a byte", shown(token))))
}

/// The tensors, as the file lists them.
struct Table {
    rows: Vec<Row>,
    parameters: u64,
    bytes: u64,
    types: BTreeMap<&'static str, u64>,
}

struct Row {
    name: String,
    offset: u64,
    bytes: u64,
}

impl Table {
    fn read<R: Read>(header: &mut Header<R>, tensors: u64, alignment: u64) -> Result<Self, ParseError> {
        let mut table = Self { rows: vec![], parameters: 0, bytes: 0, types: BTreeMap::new() };
        let mut names = HashSet::new();
        for number in 0..tensors {
            let name = header.string(&format!("the name of tensor {number}"))?;
            if !names.insert(name.clone()) {
                return Err(Fault::Twice { what: "tensor", name: shown(&name) }.into());
            }
            let wrong = |why: String| ParseError::Fault(Fault::Tensor { name: shown(&name), why });
            let dimensions = header.u32("the table of tensors")?;
            if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
                return Err(wrong(format!("{dimensions} dimensions, of 1 to {DIMENSIONS_MAX}")));
            }
            let mut sizes = vec![];
            for _ in 0..dimensions {
                sizes.push(header.u64("the table of tensors")?);
            }
            let kind = header.u32("the table of tensors")?;
            let Some((_, type_name, block, block_bytes)) = TENSOR_TYPES.iter().find(|(id, ..)| *id == kind)
            else {
                return Err(Fault::Type { what: format!("tensor {:?}", shown(&name)), id: kind }.into());
            };
            // Engines count in 32 and 63 bits.
            let numbers = sizes
                .iter()
                .try_fold(1_u64, |product, size| {
                    product.checked_mul(*size).filter(|_| *size > 0 && *size <= i32::MAX as u64)
                })
                .filter(|numbers| *numbers <= i64::MAX as u64 / 8)
                .ok_or_else(|| wrong(format!("sizes {sizes:?}")))?;
            if sizes[0] % block != 0 {
                return Err(wrong(format!(
                    "rows of {} numbers are no whole blocks of {block} ({type_name})",
                    sizes[0]
                )));
            }
            let offset = header.u64("the table of tensors")?;
            if offset % alignment != 0 {
                return Err(wrong(format!("offset {offset} is no multiple of {alignment}")));
            }
            let bytes = numbers / block * block_bytes;
            table.parameters = table.parameters.saturating_add(numbers);
            table.bytes = table.bytes.saturating_add(bytes);
            *table.types.entry(type_name).or_default() += bytes;
            table.rows.push(Row { name, offset, bytes });
        }
        Ok(table)
    }

    /// Every tensor inside the file, and none inside another.
    fn check(&self, data: u64, length: u64, alignment: u64) -> Result<(), ParseError> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| row.offset);
        let mut end = 0;
        for row in rows {
            let wrong = |why: String| ParseError::Fault(Fault::Tensor { name: shown(&row.name), why });
            if row.offset < end {
                return Err(wrong(format!("it begins at {}, inside the one before it", row.offset)));
            }
            let last = data
                .checked_add(row.offset)
                .and_then(|begin| begin.checked_add(row.bytes))
                .filter(|last| *last <= length);
            if last.is_none() {
                return Err(wrong(format!(
                    "{} bytes at {} of a file of {length} bytes whose tensors begin at {data}",
                    row.bytes, row.offset
                )));
            }
            end = (row.offset + row.bytes).next_multiple_of(alignment);
        }
        Ok(())
    }
}
