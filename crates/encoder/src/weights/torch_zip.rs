//! The archives that `torch.save` writes: a zip of `<root>/data.pkl`, which says what tensors there are, and
//! `<root>/data/<key>`, each the numbers of one storage.

use std::collections::HashMap;
use std::ops::Range;

use crate::weights::pickle::{self, PickleError, PickledTensor};
use crate::weights::{TensorInfo, bytes_needed, zip};

const PICKLE: &str = "/data.pkl";

/// The tensors of a mapped archive.
pub(super) fn read(map: &[u8]) -> Result<HashMap<String, TensorInfo>, TorchError> {
    let entries = zip::entries(map).map_err(|fault| match fault.entry {
        Some(entry) => TorchError::Entry { entry, why: fault.why },
        None => TorchError::Archive { why: fault.why },
    })?;
    let mut pickles =
        entries.iter().filter_map(|entry| Some((entry.name.strip_suffix(PICKLE)?, &entry.bytes)));
    let (root, pickle) = pickles.next().ok_or(TorchError::Archive { why: "there is no data.pkl" })?;
    if pickles.next().is_some() {
        return Err(TorchError::Archive { why: "there is more than one data.pkl" });
    }
    let by_name: HashMap<&str, Range<usize>> =
        entries.iter().map(|entry| (entry.name.as_str(), entry.bytes.clone())).collect();
    let entry = |name: String| by_name.get(name.as_str()).cloned();
    if let Some(order) = entry(format!("{root}/byteorder"))
        && &map[order.clone()] != b"little"
    {
        return Err(TorchError::Archive { why: "its numbers are not little-endian" });
    }
    let tensors = pickle::state_dict(&map[pickle.clone()])?;
    tensors
        .into_iter()
        .map(|(name, tensor)| {
            let storage = entry(format!("{root}/data/{}", tensor.storage.key));
            let fail = |why| TorchError::Tensor { tensor: name.clone(), why };
            let storage = storage.ok_or_else(|| fail("its storage is missing"))?;
            let bytes = place(&tensor, storage).map_err(fail)?;
            let info = TensorInfo { file: 0, dtype: tensor.storage.dtype.into(), shape: tensor.shape, bytes };
            Ok((name, info))
        })
        .collect()
}

/// Where the numbers of a tensor are in the file, given where its storage is.
fn place(tensor: &PickledTensor, storage: Range<usize>) -> Result<Range<usize>, &'static str> {
    let dtype = tensor.storage.dtype;
    if bytes_needed(dtype, &[tensor.storage.elements]) != Some(storage.len() as u64) {
        return Err("its storage has another length than the pickle says");
    }
    if !is_contiguous(tensor) {
        return Err("its numbers are not in order (it was saved as a view)");
    }
    let too_long = "it reaches beyond its storage";
    let offset = bytes_needed(dtype, &[tensor.offset]).ok_or(too_long)?;
    let length = bytes_needed(dtype, &tensor.shape).ok_or(too_long)?;
    match offset.checked_add(length) {
        Some(end) if end <= storage.len() as u64 => {
            Ok(storage.start + offset as usize..storage.start + end as usize)
        }
        _ => Err(too_long),
    }
}

/// Whether the elements stand row by row. A dimension of one has no stride to speak of, and an empty tensor none.
fn is_contiguous(tensor: &PickledTensor) -> bool {
    if tensor.strides.len() != tensor.shape.len() {
        return false;
    }
    if tensor.shape.contains(&0) {
        return true;
    }
    let mut wanted = Some(1u64);
    tensor.shape.iter().zip(&tensor.strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || wanted == Some(stride);
        wanted = wanted.and_then(|wanted| wanted.checked_mul(size));
        fits
    })
}

/// Why a torch archive was refused.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum TorchError {
    /// The archive as a whole.
    #[error("the archive: {why}")]
    Archive { why: &'static str },
    /// One entry.
    #[error("entry {entry:?} of the archive: {why}")]
    Entry { entry: String, why: &'static str },
    /// The description of the tensors.
    #[error(transparent)]
    Pickle(#[from] PickleError),
    /// One tensor.
    #[error("tensor {tensor:?}: {why}")]
    Tensor { tensor: String, why: &'static str },
}

impl TorchError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            TorchError::Archive { .. } | TorchError::Entry { .. } => {
                Some("the file is damaged or not from torch.save; fetch it again")
            }
            TorchError::Pickle(_) | TorchError::Tensor { .. } => {
                Some("only plain state dicts are read: save model.state_dict() with torch, or as safetensors")
            }
        }
    }
}
