//! Sparse vectors: a weight for each distinct token of a text, and the inverted table that a search ranks with.
//!
//! A row of the table `vectors` under the name `sparse` is `n x (u32 token, f16 weight)`, little-endian, tokens
//! ascending. The table `sparse_terms` has the same numbers by token for every chunk, and changes in the transactions
//! in which chunks come and go.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use half::f16;
use rusqlite::{Connection, OptionalExtension, params};

use crate::dense::ChunkSet;
use crate::ids::VectorKey;
use crate::payload::check_of;
use crate::records::VectorName;
use crate::search::keep_best_of;
use crate::write::VectorFault;

/// Bytes of a token and its weight.
const TERM_BYTES: usize = size_of::<u32>() + size_of::<f16>();

/// Whether weights of tokens can be stored: tokens ascending, weights above zero and within f16. Weights that are zero
/// as f16 are left out of what is stored.
///
/// # Errors
/// The first weight that is not finite as f16 or is negative, or tokens out of order.
pub fn storable_sparse(terms: &[(u32, f32)]) -> Result<(), VectorFault> {
    for (place, &(_, weight)) in terms.iter().enumerate() {
        if !f16::from_f32(weight).is_finite() || weight < 0.0 {
            return Err(VectorFault::Number { place, number: weight });
        }
    }
    if terms.is_sorted_by(|a, b| a.0 < b.0) { Ok(()) } else { Err(VectorFault::Order) }
}

pub(crate) fn encode(terms: &[(u32, f32)]) -> Result<Vec<u8>, VectorFault> {
    storable_sparse(terms)?;
    let stored = terms.iter().map(|&(token, weight)| (token, f16::from_f32(weight)));
    Ok(stored
        .filter(|(_, weight)| *weight != f16::ZERO)
        .flat_map(|(token, weight)| {
            let ([a, b, c, d], [e, f]) = (token.to_le_bytes(), weight.to_le_bytes());
            [a, b, c, d, e, f]
        })
        .collect())
}

/// The terms of a stored row, or what is wrong with it.
type Decoded = Result<Vec<(u32, f16)>, &'static str>;

fn decode(row: &[u8]) -> Decoded {
    let (terms, rest) = row.as_chunks::<TERM_BYTES>();
    if !rest.is_empty() {
        return Err("its length is not that of whole terms");
    }
    let terms: Vec<(u32, f16)> = terms
        .iter()
        .map(|&[a, b, c, d, e, f]| (u32::from_le_bytes([a, b, c, d]), f16::from_le_bytes([e, f])))
        .collect();
    if terms.iter().any(|(_, weight)| !weight.is_finite() || *weight <= f16::ZERO) {
        return Err("a weight is not finite, or not above zero");
    }
    if !terms.is_sorted_by(|a, b| a.0 < b.0) {
        return Err("its tokens are not in order");
    }
    Ok(terms)
}

/// The stored row of a text, compared with its check; `None` where there is none.
fn row_of(at: &Connection, key: &VectorKey) -> rusqlite::Result<Option<Decoded>> {
    at.prepare_cached("SELECT row, row_check FROM vectors WHERE key = ?1 AND name = ?2")?
        .query_row((key.0, VectorName::Sparse.as_str()), |row| {
            let bytes = row.get_ref(0)?.as_blob()?;
            Ok(if row.get::<_, i64>(1)? == check_of(blake3::hash(bytes).as_bytes()) {
                decode(bytes)
            } else {
                Err("its numbers are not those that were stored")
            })
        })
        .optional()
}

/// Puts a chunk into the inverted table; `false` where its text has no sparse vector that can be used.
pub(crate) fn put_terms(at: &Connection, chunk_id: i64, key: &VectorKey) -> rusqlite::Result<bool> {
    let Some(Ok(terms)) = row_of(at, key)? else { return Ok(false) };
    let mut put =
        at.prepare_cached("INSERT INTO sparse_terms (token, chunk_id, weight) VALUES (?1, ?2, ?3)")?;
    for (token, weight) in terms {
        put.execute(params![token, chunk_id, weight.to_bits()])?;
    }
    Ok(true)
}

/// Takes the chunks of a document out of the inverted table. Their sparse vectors say under which tokens they stand.
pub(crate) fn remove_terms(at: &Connection, doc_id: &[u8; 16]) -> rusqlite::Result<()> {
    let chunks: Vec<(i64, VectorKey)> = at
        .prepare_cached(
            "SELECT chunk_id, v.key FROM chunks JOIN documents USING (document_id) JOIN vectors v USING (vector_id)
            WHERE doc_id = ?1",
        )?
        .query_map([doc_id], |row| Ok((row.get(0)?, VectorKey(row.get(1)?))))?
        .collect::<rusqlite::Result<_>>()?;
    let mut remove = at.prepare_cached("DELETE FROM sparse_terms WHERE token = ?1 AND chunk_id = ?2")?;
    for (chunk_id, key) in chunks {
        match row_of(at, &key)? {
            Some(Ok(terms)) => {
                for (token, _) in terms {
                    remove.execute(params![token, chunk_id])?;
                }
            }
            // Damaged: the whole table is looked through, rather than a term left behind.
            Some(Err(_)) | None => {
                at.execute("DELETE FROM sparse_terms WHERE chunk_id = ?1", [chunk_id])?;
            }
        }
    }
    Ok(())
}

/// The `limit` best of the allowed chunks by the sum of products of the weights of common tokens: best first, among
/// equals the lower chunk first.
pub(crate) fn rank(
    db: &Connection,
    query: &[(u32, f32)],
    allowed: Option<&ChunkSet>,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, f64)>> {
    let mut scores: HashMap<i64, f64> = HashMap::new();
    let mut statement = db.prepare_cached("SELECT chunk_id, weight FROM sparse_terms WHERE token = ?1")?;
    for (token, weight) in query {
        let mut rows = statement.query([token])?;
        while let Some(row) = rows.next()? {
            let chunk_id = row.get(0)?;
            if allowed.is_none_or(|allowed| allowed.contains(chunk_id)) {
                let product = f64::from(*weight) * f16::from_bits(row.get(1)?).to_f64();
                *scores.entry(chunk_id).or_default() += product;
            }
        }
    }
    Ok(keep_best_of(scores, limit))
}

/// One finding about the sparse vectors of a library: what, and what is wrong with it.
pub(crate) type Finding = (String, &'static str);

/// Every sparse row and every term of the inverted table, compared with each other.
pub(crate) fn check(db: &Connection) -> rusqlite::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut indexed = indexed(db)?;
    let mut statement = db.prepare("SELECT chunk_id, v.key FROM chunks JOIN vectors v USING (vector_id)")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (chunk_id, key): (i64, VectorKey) = (row.get(0)?, VectorKey(row.get(1)?));
        let found = indexed.remove(&chunk_id).unwrap_or_default();
        match row_of(db, &key)? {
            None => findings.push((format!("chunk row {chunk_id}"), "has no sparse vector")),
            Some(Err(what)) => findings.push((key.to_string(), what)),
            Some(Ok(terms)) => {
                let sum = terms
                    .iter()
                    .fold(0, |sum: u64, (token, weight)| sum.wrapping_add(hash(*token, weight.to_bits())));
                if sum != found {
                    let what = "its terms in the inverted table are not those of its sparse vector";
                    findings.push((format!("chunk row {chunk_id}"), what));
                }
            }
        }
    }
    let stray =
        indexed.into_keys().map(|chunk_id| (format!("chunk row {chunk_id}"), "has terms, but is not there"));
    findings.extend(stray);
    Ok(findings)
}

/// Sum of the hashes of each chunk's terms.
fn indexed(db: &Connection) -> rusqlite::Result<HashMap<i64, u64>> {
    let mut sums: HashMap<i64, u64> = HashMap::new();
    let mut statement = db.prepare("SELECT chunk_id, token, weight FROM sparse_terms")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let sum = sums.entry(row.get(0)?).or_default();
        *sum = sum.wrapping_add(hash(row.get(1)?, row.get(2)?));
    }
    Ok(sums)
}

fn hash(token: u32, weight_bits: u16) -> u64 {
    let mut hasher = DefaultHasher::new();
    (token, weight_bits).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_in_f16() {
        let terms = [(3, 0.25), (7, 1e-9), (250_001, 1.5)];
        let row = encode(&terms).unwrap();
        assert_eq!(row.len(), 2 * TERM_BYTES);
        assert_eq!(decode(&row).unwrap(), [(3, f16::from_f32(0.25)), (250_001, f16::from_f32(1.5))]);
        assert_eq!(decode(&[]).unwrap(), []);
    }

    #[test]
    fn what_is_no_sparse_vector() {
        for bad in [f32::NAN, f32::INFINITY, -0.5, 70_000.0] {
            assert!(
                matches!(encode(&[(1, 0.5), (2, bad)]), Err(VectorFault::Number { place: 1, .. })),
                "{bad}"
            );
        }
        for bad in [[(2, 0.5), (1, 0.5)], [(1, 0.5), (1, 0.5)]] {
            assert_eq!(encode(&bad), Err(VectorFault::Order));
        }
        let row = encode(&[(1, 0.5), (2, 0.5)]).unwrap();
        assert!(decode(&row[..7]).is_err());
        let swapped = [&row[6..], &row[..6]].concat();
        assert!(decode(&swapped).is_err());
    }
}
