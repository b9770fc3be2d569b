//! The header of a safetensors file, checked against itself and against the file's length.
//!
//! The layout is 8 bytes of header length (little endian), a JSON header
//! `{"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {..}}`, then the data. No number in it
//! is added or multiplied unchecked.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};

use crate::weights::{TENSORS_MAX, TensorInfo, WeightsError, bytes_needed};

/// The format's own limit on the JSON header.
pub const HEADER_BYTES_MAX: u64 = 100_000_000;
const LENGTH_BYTES: u64 = 8;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The tensors of a mapped file.
pub(super) fn read(path: &Path, map: &[u8]) -> Result<HashMap<String, TensorInfo>, WeightsError> {
    let header_bytes = header_length(path, map)?;
    let data_start = (LENGTH_BYTES + header_bytes) as usize;
    let entries = parse_header(path, &map[LENGTH_BYTES as usize..data_start])?;
    check_tensors(path, &entries, (map.len() - data_start) as u64)?;
    let info = |entry: Entry| {
        let [begin, end] = entry.data_offsets.map(|offset| data_start + offset as usize);
        TensorInfo { file: 0, dtype: entry.dtype, shape: entry.shape, bytes: begin..end }
    };
    Ok(entries.into_iter().map(|(name, entry)| (name, info(entry))).collect())
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

fn parse_header(path: &Path, json: &[u8]) -> Result<HashMap<String, Entry>, WeightsError> {
    serde_json::from_slice::<Header>(json)
        .map(|header| header.0)
        .map_err(|source| WeightsError::HeaderJson { path: path.into(), source })
}

struct Header(HashMap<String, Entry>);

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
            let info = map.next_value::<Entry>()?;
            if tensors.contains_key(&name) {
                return Err(de::Error::custom(format_args!("tensor {name:?} stands there twice")));
            }
            tensors.insert(name, info);
        }
        Ok(Header(tensors))
    }
}

/// Each tensor's bytes must be what its shape and dtype need, and together they must tile the data exactly.
fn check_tensors(path: &Path, tensors: &HashMap<String, Entry>, data_bytes: u64) -> Result<(), WeightsError> {
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
        let needed = bytes_needed(&info.dtype, &info.shape).ok_or_else(|| WeightsError::Size {
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

fn check_tiling(path: &Path, tensors: &HashMap<String, Entry>, data_bytes: u64) -> Result<(), WeightsError> {
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
