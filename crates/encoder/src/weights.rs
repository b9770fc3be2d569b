//! A safetensors file: mapped, its header checked before anything else is believed, tensors widened to f32.
//!
//! The layout is 8 bytes of header length (little endian), a JSON header
//! `{"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {..}}`, then the data.
//! The file may come from anywhere, so the header is checked against itself and against the file's length, and no
//! number in it is added or multiplied unchecked.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};

/// The format's own limit on the JSON header.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Far above any known encoder (24 layers have about 400), far below what could hurt.
pub const TENSORS_MAX: usize = 50_000;
const LENGTH_BYTES: u64 = 8;

/// A mapped safetensors file whose header has been checked.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    map: Mmap,
    data_start: usize,
    tensors: HashMap<String, TensorInfo>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorInfo {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Weights {
    /// Maps `path` and checks its header. Reads no tensor yet.
    pub fn open(path: &Path) -> Result<Weights, WeightsError> {
        let map = map_file(path).map_err(|source| WeightsError::Open { path: path.into(), source })?;
        let header_bytes = header_length(path, &map)?;
        let data_start = (LENGTH_BYTES + header_bytes) as usize;
        let tensors = parse_header(path, &map[LENGTH_BYTES as usize..data_start])?;
        check_tensors(path, &tensors, (map.len() - data_start) as u64)?;
        Ok(Weights { path: path.into(), map, data_start, tensors })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file holds a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// One tensor of the given shape as f32, row-major. F16 and BF16 are widened, which is exact.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let info = self
            .tensors
            .get(name)
            .ok_or_else(|| WeightsError::Missing { path: self.path.clone(), tensor: name.into() })?;
        if !info.shape.iter().copied().eq(shape.iter().map(|&n| n as u64)) {
            return Err(WeightsError::Shape {
                path: self.path.clone(),
                tensor: name.into(),
                found: info.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let [begin, end] = info.data_offsets.map(|offset| self.data_start + offset as usize);
        let values = self.widen(name, &info.dtype, &self.map[begin..end])?;
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(index) => Err(WeightsError::NotFinite {
                path: self.path.clone(),
                tensor: name.into(),
                index,
                value: values[index],
            }),
        }
    }

    fn widen(&self, name: &str, dtype: &str, bytes: &[u8]) -> Result<Vec<f32>, WeightsError> {
        let two = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
        match dtype {
            "F32" => {
                Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            "F16" => Ok(bytes.chunks_exact(2).map(|b| half::f16::from_bits(two(b)).to_f32()).collect()),
            "BF16" => Ok(bytes.chunks_exact(2).map(|b| half::bf16::from_bits(two(b)).to_f32()).collect()),
            _ => {
                Err(WeightsError::Dtype { path: self.path.clone(), tensor: name.into(), dtype: dtype.into() })
            }
        }
    }
}

/// The one mapping of this crate.
#[expect(unsafe_code, reason = "a mapped file is the only way to read gigabytes of weights without a copy")]
fn map_file(path: &Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the mapping is private and read-only and its bytes are only ever read as integers. Nobody can check that
    // no other process cuts the file short meanwhile; that would end this process with SIGBUS, it cannot corrupt it.
    // The map is dropped once the weights are packed, so the window is the load.
    unsafe { Mmap::map(&file) }
}

fn header_length(path: &Path, map: &[u8]) -> Result<u64, WeightsError> {
    let file_bytes = map.len() as u64;
    let Some(prefix) = map.first_chunk::<{ LENGTH_BYTES as usize }>() else {
        return Err(WeightsError::TooShort { path: path.into(), file_bytes });
    };
    let header_bytes = u64::from_le_bytes(*prefix);
    if header_bytes > HEADER_BYTES_MAX {
        return Err(WeightsError::HeaderTooLong { path: path.into(), header_bytes });
    }
    if header_bytes > file_bytes - LENGTH_BYTES {
        return Err(WeightsError::HeaderBeyondFile { path: path.into(), header_bytes, file_bytes });
    }
    Ok(header_bytes)
}

fn parse_header(path: &Path, json: &[u8]) -> Result<HashMap<String, TensorInfo>, WeightsError> {
    serde_json::from_slice::<Header>(json)
        .map(|header| header.0)
        .map_err(|source| WeightsError::HeaderJson { path: path.into(), source })
}

struct Header(HashMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads the header's map by hand, because a map type would keep the last of two equal keys in silence.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = HashMap::new();
        let mut metadata = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if metadata.replace(map.next_value::<HashMap<String, String>>()?).is_some() {
                    return Err(de::Error::custom("__metadata__ stands there twice"));
                }
                continue;
            }
            if tensors.len() == TENSORS_MAX {
                return Err(de::Error::custom(format_args!("more than {TENSORS_MAX} tensors")));
            }
            let info = map.next_value::<TensorInfo>()?;
            if tensors.contains_key(&name) {
                return Err(de::Error::custom(format_args!("tensor {name:?} stands there twice")));
            }
            tensors.insert(name, info);
        }
        Ok(Header(tensors))
    }
}

/// Each tensor's bytes must be what its shape and dtype need, and together they must tile the data exactly.
fn check_tensors(
    path: &Path,
    tensors: &HashMap<String, TensorInfo>,
    data_bytes: u64,
) -> Result<(), WeightsError> {
    for (name, info) in tensors {
        let [begin, end] = info.data_offsets;
        let fail = |why| WeightsError::Offsets {
            path: path.into(),
            tensor: name.clone(),
            begin,
            end,
            data_bytes,
            why,
        };
        if begin > end {
            return Err(fail("they run backwards"));
        }
        if end > data_bytes {
            return Err(fail("they end beyond the file"));
        }
        let needed = info.bytes_needed().ok_or_else(|| WeightsError::Size {
            path: path.into(),
            tensor: name.clone(),
            dtype: info.dtype.clone(),
            shape: info.shape.clone(),
        })?;
        if needed != end - begin {
            return Err(fail("they hold another number of bytes than shape and dtype need"));
        }
    }
    check_tiling(path, tensors, data_bytes)
}

fn check_tiling(
    path: &Path,
    tensors: &HashMap<String, TensorInfo>,
    data_bytes: u64,
) -> Result<(), WeightsError> {
    let mut spans: Vec<_> = tensors.iter().map(|(name, info)| (info.data_offsets, name)).collect();
    spans.sort_unstable();
    let mut covered = 0;
    for ([begin, end], name) in spans {
        let why = match begin.cmp(&covered) {
            std::cmp::Ordering::Less => "they overlap another tensor",
            std::cmp::Ordering::Greater => "they leave a hole before the tensor",
            std::cmp::Ordering::Equal => {
                covered = end;
                continue;
            }
        };
        return Err(WeightsError::Offsets {
            path: path.into(),
            tensor: name.clone(),
            begin,
            end,
            data_bytes,
            why,
        });
    }
    if covered != data_bytes {
        return Err(WeightsError::TrailingBytes { path: path.into(), covered, data_bytes });
    }
    Ok(())
}

impl TensorInfo {
    /// None where the dtype is unknown or the product of the shape does not fit 64 bits.
    fn bytes_needed(&self) -> Option<u64> {
        let bits: u64 = match self.dtype.as_str() {
            "F64" | "I64" | "U64" => 64,
            "F32" | "I32" | "U32" => 32,
            "F16" | "BF16" | "I16" | "U16" => 16,
            "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" => 8,
            _ => return None,
        };
        self.shape.iter().try_fold(bits / 8, |bytes, &dimension| bytes.checked_mul(dimension))
    }
}

/// Why a weights file was refused. Each names the file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum WeightsError {
    /// The file cannot be opened or mapped.
    #[error("{}: cannot be read: {source}", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    /// Not even a header length.
    #[error("{}: {file_bytes} bytes are no safetensors file", path.display())]
    TooShort { path: PathBuf, file_bytes: u64 },
    /// The header's length is beyond the format's limit.
    #[error("{}: the header claims {header_bytes} bytes, the format allows {HEADER_BYTES_MAX}", path.display())]
    HeaderTooLong { path: PathBuf, header_bytes: u64 },
    /// The header's length is beyond the file's.
    #[error("{}: the header claims {header_bytes} bytes, the file has {file_bytes}", path.display())]
    HeaderBeyondFile { path: PathBuf, header_bytes: u64, file_bytes: u64 },
    /// The header is not the JSON that the format describes.
    #[error("{}: the header is not valid: {source}", path.display())]
    HeaderJson { path: PathBuf, source: serde_json::Error },
    /// A tensor of unknown dtype, or larger than 64 bits can count.
    #[error("{}: tensor {tensor:?} has the impossible size {dtype} {shape:?}", path.display())]
    Size { path: PathBuf, tensor: String, dtype: String, shape: Vec<u64> },
    /// A tensor's byte range is wrong.
    #[error("{}: tensor {tensor:?} has offsets {begin}..{end} in {data_bytes} bytes of data: {why}", path.display())]
    Offsets { path: PathBuf, tensor: String, begin: u64, end: u64, data_bytes: u64, why: &'static str },
    /// Data that belongs to no tensor.
    #[error("{}: the tensors cover {covered} of {data_bytes} bytes of data", path.display())]
    TrailingBytes { path: PathBuf, covered: u64, data_bytes: u64 },
    /// The model needs a tensor that is not there.
    #[error("{}: tensor {tensor:?} is missing", path.display())]
    Missing { path: PathBuf, tensor: String },
    /// The file holds more layers than config.json says.
    #[error("{}: tensor {tensor:?} belongs to a layer beyond the {layers} that config.json says", path.display())]
    SurplusLayer { path: PathBuf, tensor: String, layers: usize },
    /// A tensor is not of the shape that config.json says.
    #[error("{}: tensor {tensor:?} has shape {found:?}, config.json says {expected:?}", path.display())]
    Shape { path: PathBuf, tensor: String, found: Vec<u64>, expected: Vec<usize> },
    /// A tensor that must be read is in a dtype that cannot be widened to f32.
    #[error("{}: tensor {tensor:?} is {dtype}; F32, F16 and BF16 are read", path.display())]
    Dtype { path: PathBuf, tensor: String, dtype: String },
    /// A NaN or an infinity among the weights.
    #[error("{}: tensor {tensor:?} holds {value} at {index}", path.display())]
    NotFinite { path: PathBuf, tensor: String, index: usize, value: f32 },
}

impl WeightsError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            WeightsError::Open { .. } => None,
            WeightsError::Missing { .. } | WeightsError::Shape { .. } | WeightsError::SurplusLayer { .. } => {
                Some("config.json and model.safetensors must come from the same model")
            }
            WeightsError::Dtype { .. } => Some("take the model's f32, f16 or bf16 weights"),
            _ => Some("the file is damaged or not a safetensors file; fetch it again"),
        }
    }
}
