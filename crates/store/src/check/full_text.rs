//! Whether the full text has exactly the words of the chunks. The index has no checksums of its own, so the texts are
//! indexed once more, some at a time, in tables that go with the connection, and both are compared word by word.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use rusqlite::{Connection, Row};

use super::{Expected, Report};

/// Texts that are indexed at once.
const BATCH: usize = 4096;

const MAKE: &str = "
CREATE VIRTUAL TABLE temp.indexed_words USING fts5vocab('main', 'chunks_fts', 'instance');
CREATE VIRTUAL TABLE temp.verified USING fts5(
    text, content = '', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE temp.verified_words USING fts5vocab('temp', 'verified', 'instance');
";

const DROP: &str = "
DROP TABLE IF EXISTS temp.verified_words;
DROP TABLE IF EXISTS temp.verified;
DROP TABLE IF EXISTS temp.indexed_words;
";

pub(super) fn check(db: &Connection, report: &mut Report, _: &Expected) -> rusqlite::Result<()> {
    db.execute_batch(DROP)?;
    db.execute_batch(MAKE)?;
    let checked = check_rows(db, report).and_then(|()| compare(db, report));
    db.execute_batch(DROP)?;
    checked
}

/// `chunks_fts_docsize` has one row for each text in the index.
fn check_rows(db: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let lists = [
        (
            "SELECT chunk_id FROM chunks LEFT JOIN chunks_fts_docsize d ON d.id = chunk_id WHERE d.id IS NULL",
            "is not in the full text",
        ),
        (
            "SELECT d.id FROM chunks_fts_docsize d LEFT JOIN chunks ON chunk_id = d.id WHERE chunk_id IS NULL",
            "is in the full text, but not in the library",
        ),
    ];
    for (sql, what) in lists {
        let mut statement = db.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            report.add("full_text", &format!("chunk row {}", row.get::<_, i64>(0)?), &what);
        }
    }
    Ok(())
}

/// Sum over the words of a text of the hashes of (word, place).
type Words = HashMap<i64, u64>;

fn compare(db: &Connection, report: &mut Report) -> rusqlite::Result<()> {
    let mut indexed = words(db, "indexed_words")?;
    let (mut rows, mut tokens) = (0, 0);
    let mut after = i64::MIN;
    loop {
        let put = put_batch(db, after)?;
        let Some(&last) = put.last() else { break };
        let texts = words(db, "verified_words")?;
        for chunk_id in &put {
            if indexed.remove(chunk_id) != texts.get(chunk_id).copied() {
                let what = "its words in the full text are not those of its text";
                report.add("full_text", &format!("chunk row {chunk_id}"), &what);
            }
        }
        tokens += compare_sizes(db, report)?;
        rows += put.len() as u64;
        after = last;
        db.execute("INSERT INTO temp.verified (verified) VALUES ('delete-all')", [])?;
    }
    for chunk_id in indexed.keys() {
        report.add("full_text", &format!("chunk row {chunk_id}"), &"has words in the full text, but no text");
    }
    let totals: Vec<u8> =
        db.query_row("SELECT block FROM chunks_fts_data WHERE id = 1", [], |row| row.get(0))?;
    if rows > 0 && varints(&totals) != [rows, tokens] {
        report.add("full_text", &"its totals", &format!("are not {rows} texts of {tokens} words"));
    }
    Ok(())
}

fn words(db: &Connection, table: &str) -> rusqlite::Result<Words> {
    let mut statement = db.prepare(&format!("SELECT term, doc, offset FROM temp.{table}"))?;
    let mut rows = statement.query([])?;
    let mut words = Words::new();
    while let Some(row) = rows.next()? {
        let sum = words.entry(row.get(1)?).or_default();
        *sum = sum.wrapping_add(hash(row)?);
    }
    Ok(words)
}

fn hash(row: &Row<'_>) -> rusqlite::Result<u64> {
    let mut hasher = DefaultHasher::new();
    (row.get_ref(0)?.as_bytes()?, row.get::<_, i64>(2)?).hash(&mut hasher);
    Ok(hasher.finish())
}

/// Indexes the next texts after a chunk, and says which.
fn put_batch(db: &Connection, after: i64) -> rusqlite::Result<Vec<i64>> {
    let mut put = db.prepare_cached("INSERT INTO temp.verified (rowid, text) VALUES (?1, ?2)")?;
    let mut texts = db
        .prepare_cached("SELECT chunk_id, text FROM chunks WHERE chunk_id > ?1 ORDER BY chunk_id LIMIT ?2")?;
    let mut rows = texts.query((after, BATCH))?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        let chunk_id: i64 = row.get(0)?;
        put.execute((chunk_id, row.get_ref(1)?.as_str()?))?;
        ids.push(chunk_id);
    }
    Ok(ids)
}

/// Lengths of texts, by which BM25 ranks. Returns the words of the batch.
fn compare_sizes(db: &Connection, report: &mut Report) -> rusqlite::Result<u64> {
    let mut statement = db.prepare_cached(
        "SELECT v.id, v.sz, d.sz FROM temp.verified_docsize v LEFT JOIN main.chunks_fts_docsize d USING (id)",
    )?;
    let mut rows = statement.query([])?;
    let mut tokens = 0;
    while let Some(row) = rows.next()? {
        let size = row.get_ref(1)?.as_blob()?;
        tokens += varints(size).iter().sum::<u64>();
        if row.get_ref(2)?.as_blob_or_null()?.is_some_and(|stored| stored != size) {
            let what = "its length in the full text is not that of its text";
            report.add("full_text", &format!("chunk row {}", row.get::<_, i64>(0)?), &what);
        }
    }
    Ok(tokens)
}

/// Numbers of seven bits a byte, the high ones first, as SQLite writes them.
fn varints(bytes: &[u8]) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for byte in bytes {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    numbers
}
