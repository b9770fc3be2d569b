//! Weights files: mapped, checked before anything in them is believed, tensors widened to f32.
//!
//! Two formats are read, told apart by their first bytes: safetensors, and the zip archives that torch saves. Either
//! may come from anywhere.

mod pickle;
mod safetensors;
mod torch_zip;
mod zip;

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use zerocopy::FromBytes;

pub use pickle::{PickleError, PickleFault};
pub use safetensors::HEADER_BYTES_MAX;
pub use torch_zip::TorchError;

/// Far above any known encoder (24 layers have about 400), far below what could hurt.
pub const TENSORS_MAX: usize = 50_000;

/// Mapped weights files whose contents have been checked.
#[derive(Debug)]
pub struct Weights {
    /// The model's own file, then those of heads.
    files: Vec<MappedFile>,
    tensors: HashMap<String, TensorInfo>,
}

#[derive(Debug)]
struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

/// Where a tensor stands.
#[derive(Debug)]
struct TensorInfo {
    /// Index into [`Weights::files`].
    file: usize,
    /// As safetensors spells it.
    dtype: String,
    shape: Vec<u64>,
    /// Of the mapped file; as long as shape and dtype say.
    bytes: Range<usize>,
}

impl Weights {
    /// Maps `path` and checks what it says of its tensors. Reads no tensor yet.
    pub fn open(path: &Path) -> Result<Weights, WeightsError> {
        let mut weights = Weights { files: vec![], tensors: HashMap::new() };
        weights.add(path, "")?;
        Ok(weights)
    }

    /// Adds the tensors of another file, with `prefix` before their names.
    pub fn add(&mut self, path: &Path, prefix: &str) -> Result<(), WeightsError> {
        let map = map_file(path).map_err(|source| WeightsError::Open { path: path.into(), source })?;
        let file = self.files.len();
        for (name, info) in read_tensors(path, &map)? {
            match self.tensors.entry(format!("{prefix}{name}")) {
                Entry::Vacant(entry) => {
                    entry.insert(TensorInfo { file, ..info });
                }
                Entry::Occupied(entry) => {
                    return Err(WeightsError::Twice { path: path.into(), tensor: entry.key().clone() });
                }
            }
        }
        self.files.push(MappedFile { path: path.into(), map });
        Ok(())
    }

    /// The model's own file.
    pub fn path(&self) -> &Path {
        &self.files[0].path
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor as its file says it.
    pub fn shape(&self, name: &str) -> Result<&[u64], WeightsError> {
        Ok(&self.info(name)?.shape)
    }

    /// One tensor of the given shape as f32, row-major: F32 as it stands in the file, F16 and BF16 widened, which is exact.
    pub fn view(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>, WeightsError> {
        let info = self.checked_info(name, shape)?;
        self.widen(name, info, 0..info.bytes.len())
    }

    /// [`Weights::view`], to keep.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        self.view(name, shape).map(Cow::into_owned)
    }

    /// Some rows of a tensor of the given shape, as [`Weights::read`] reads them all: what a device takes that keeps
    /// a large table in another form than f32.
    ///
    /// # Panics
    /// When `rows` is not a range of the first dimension.
    pub fn read_rows(
        &self,
        name: &str,
        shape: &[usize],
        rows: Range<usize>,
    ) -> Result<Vec<f32>, WeightsError> {
        let count = shape.first().copied().unwrap_or(0);
        assert!(rows.start <= rows.end && rows.end <= count, "rows {rows:?} of {count}");
        let info = self.checked_info(name, shape)?;
        let row_bytes = info.bytes.len().checked_div(count).unwrap_or(0);
        self.widen(name, info, rows.start * row_bytes..rows.end * row_bytes).map(Cow::into_owned)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, WeightsError> {
        self.tensors
            .get(name)
            .ok_or_else(|| WeightsError::Missing { path: self.path().into(), tensor: name.into() })
    }

    fn checked_info(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo, WeightsError> {
        let info = self.info(name)?;
        if info.shape.iter().copied().eq(shape.iter().map(|&n| n as u64)) {
            return Ok(info);
        }
        Err(WeightsError::Shape {
            path: self.files[info.file].path.clone(),
            tensor: name.into(),
            found: info.shape.clone(),
            expected: shape.to_vec(),
        })
    }

    /// The numbers in `part` of a tensor's bytes.
    fn widen(
        &self,
        name: &str,
        info: &TensorInfo,
        part: Range<usize>,
    ) -> Result<Cow<'_, [f32]>, WeightsError> {
        let MappedFile { path, map } = &self.files[info.file];
        let bytes = &map[info.bytes.start + part.start..info.bytes.start + part.end];
        let two = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
        // Files keep numbers aligned, but nothing makes them.
        let as_it_stands = || <[f32]>::ref_from_bytes(bytes).ok().filter(|_| cfg!(target_endian = "little"));
        let values: Cow<'_, [f32]> = match info.dtype.as_str() {
            "F32" => as_it_stands().map_or_else(
                || bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
                Cow::Borrowed,
            ),
            "F16" => bytes.chunks_exact(2).map(|b| half::f16::from_bits(two(b)).to_f32()).collect(),
            "BF16" => bytes.chunks_exact(2).map(|b| half::bf16::from_bits(two(b)).to_f32()).collect(),
            dtype => {
                let (path, tensor, dtype) = (path.clone(), name.into(), dtype.into());
                return Err(WeightsError::Dtype { path, tensor, dtype });
            }
        };
        let Some(at) = first_not_finite(&values) else { return Ok(values) };
        let before = part.start / (bytes.len() / values.len());
        Err(WeightsError::NotFinite {
            path: path.clone(),
            tensor: name.into(),
            index: before + at,
            value: values[at],
        })
    }
}

/// Where the first NaN or infinity is.
fn first_not_finite(values: &[f32]) -> Option<usize> {
    // All numbers of a model come by here: compared as integers, many at a time, and looked for one by one only if one
    // is there.
    let magnitude = |v: &f32| v.abs().to_bits().cast_signed();
    let largest = values.iter().map(magnitude).fold(0, i32::max);
    (largest >= magnitude(&f32::INFINITY)).then(|| values.iter().position(|v| !v.is_finite()))?
}

fn read_tensors(path: &Path, map: &[u8]) -> Result<HashMap<String, TensorInfo>, WeightsError> {
    // The length of a safetensors header could begin with these bytes too, but not be so large.
    let beyond_safetensors =
        map.first_chunk().is_some_and(|length| u64::from_le_bytes(*length) > HEADER_BYTES_MAX);
    if beyond_safetensors && map.starts_with(zip::MAGIC) {
        return torch_zip::read(map).map_err(|source| WeightsError::Torch { path: path.into(), source });
    }
    if beyond_safetensors && map.starts_with(pickle::MAGIC) {
        return Err(WeightsError::LegacyTorch { path: path.into() });
    }
    safetensors::read(path, map)
}

/// The one mapping of this crate.
#[expect(unsafe_code, reason = "a mapped file is the only way to read gigabytes of weights without a copy")]
fn map_file(path: &Path) -> std::io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the mapping is private and read-only and its bytes are only ever read as integers. Nobody can check that
    // no other process changes the file meanwhile: cut short, it would end this process with SIGBUS; rewritten in place,
    // it would give other weights, which `model check` finds. Model files are replaced by renaming, and the map is
    // dropped once the weights are packed, so the window is the load.
    unsafe { Mmap::map(&file) }
}

/// None where the dtype is unknown or the product of the shape does not fit 64 bits.
fn bytes_needed(dtype: &str, shape: &[u64]) -> Option<u64> {
    let bits: u64 = match dtype {
        "F64" | "I64" | "U64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" => 8,
        _ => return None,
    };
    shape.iter().try_fold(bits / 8, |bytes, &dimension| bytes.checked_mul(dimension))
}

/// Why a weights file was refused. Each names the file.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum WeightsError {
    /// The file cannot be opened or mapped.
    #[error("{}: cannot be read: {source}", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    /// Not even a header length.
    #[error("{}: {file_bytes} bytes are no weights file", path.display())]
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
    /// A torch archive is not what torch writes, or holds more than tensors.
    #[error("{}: {source}", path.display())]
    Torch { path: PathBuf, source: TorchError },
    /// What torch wrote before its archives.
    #[error("{}: a pickle of the old torch format, which is not read", path.display())]
    LegacyTorch { path: PathBuf },
    /// A tensor of another file has this name already.
    #[error("{}: tensor {tensor:?} stands in another file too", path.display())]
    Twice { path: PathBuf, tensor: String },
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
                Some("config.json and the weights must come from the same model")
            }
            WeightsError::Dtype { .. } => Some("take the model's f32, f16 or bf16 weights"),
            WeightsError::LegacyTorch { .. } => {
                Some("load it with torch and save it again, or take the model's safetensors file")
            }
            WeightsError::Torch { source, .. } => source.hint(),
            WeightsError::Twice { .. } => Some("the files must come from the same model"),
            _ => Some("the file is damaged or not a weights file; fetch it again"),
        }
    }
}
