//! One part of an ingest that several processes share: documents are dealt out by their ids, which depend on
//! neither machine nor order.

use std::fmt;
use std::str::FromStr;

use haul_corpus::document::Format;
use haul_store::library::ManifestRow;
use uuid::Uuid;

/// The documents of one process of several, `I/N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

/// A text that names no shard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// Not two numbers.
    #[error("not I/N, such as 0/8 for the first of eight")]
    Form,
    /// There is no such shard.
    #[error(
        "there is no shard {index} of {count}: shards count from 0, the last of {count} is {}/{count}",
        count - 1
    )]
    Beyond {
        /// As typed.
        index: u64,
        /// As typed.
        count: u64,
    },
}

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let (index, count) = text.split_once('/').ok_or(ShardError::Form)?;
        let number = |text: &str| text.trim().parse::<u64>().map_err(|_| ShardError::Form);
        let (index, count) = (number(index)?, number(count)?);
        match count {
            0 => Err(ShardError::Form),
            _ if index >= count => Err(ShardError::Beyond { index, count }),
            _ => Ok(Shard { index, count }),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl Shard {
    /// Whether a document belongs to this shard: the first 8 bytes of its id, big-endian, modulo the number of shards.
    #[must_use]
    pub fn has(&self, doc_id: &Uuid) -> bool {
        let [a, b, c, d, e, f, g, h, ..] = *doc_id.as_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) % self.count == self.index
    }

    /// How many shards there are.
    pub(crate) fn count(self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    /// Whether a row of the manifest bears on this shard. Each shard reads every file of many documents, so each has
    /// what there is to say of such a file as a whole.
    pub(crate) fn has_row(&self, row: &ManifestRow) -> bool {
        self.has(&row.doc_id) || (row.part.is_none() && row.format == Format::JsonLines.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_an_index_and_a_count() {
        assert_eq!("7/8".parse(), Ok(Shard { index: 7, count: 8 }));
        assert_eq!("0/1".parse::<Shard>().unwrap().to_string(), "0/1");
        for text in ["", "3", "a/b", "-1/8", "1/0", "0/0", "1/2/3", "1.5/2"] {
            assert_eq!(text.parse::<Shard>(), Err(ShardError::Form), "{text}");
        }
        let beyond = "8/8".parse::<Shard>().unwrap_err().to_string();
        assert_eq!(beyond, "there is no shard 8 of 8: shards count from 0, the last of 8 is 7/8");
    }

    /// Which shard has a document may never change: a rerun of a cluster's job would double or lose it.
    #[test]
    fn every_document_is_in_one_shard() {
        let id = Uuid::from_u128(0x0000_0000_0000_000a_ffff_ffff_ffff_ffff);
        let holders =
            |count: u64| (0..count).filter(|&index| Shard { index, count }.has(&id)).collect::<Vec<_>>();
        assert_eq!((holders(1), holders(3), holders(8)), (vec![0], vec![1], vec![2]));
    }
}
