//! Whether a write-ahead log that a killed process left behind is whole.
//!
//! SQLite reads a log up to the first frame whose checksum is wrong and takes that for its end, as it must after a
//! kill. But each commit is on disk before the next begins (`synchronous = FULL`), so a frame that is damaged before
//! two further commits was whole once: what follows it would be lost in silence. Such a log is refused here. A damaged
//! last commit looks like one that was never finished, and counts as that: a rerun makes it again.
//!
//! The format: <https://sqlite.org/fileformat2.html#walformat>.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The last bit says that checksums are of big-endian words.
const MAGIC: u32 = 0x377f_0682;
const PAGE_BYTES_MAX: u32 = 65_536;

/// Commits after a damaged frame that prove it: its own transaction's, and that of one that began later.
const COMMITS_AFTER: usize = 2;

/// A writer that works at this moment may be seen between two of its writes; damage stays.
const LOOKS: usize = 3;

/// What is wrong with the log at `path`; `None` for a whole one, and for none.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn fault(path: &Path) -> std::io::Result<Option<String>> {
    let mut found = None;
    for _ in 0..LOOKS {
        match look(path)? {
            None => return Ok(None),
            again if again == found => return Ok(found),
            other => found = other,
        }
    }
    // It changes while it is looked at: somebody writes it, and reads it by the same rules.
    Ok(None)
}

fn look(path: &Path) -> std::io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; HEADER_BYTES];
    if !read_whole(&mut file, &mut header)? || header == [0; HEADER_BYTES] {
        return Ok(None);
    }
    let [magic, _, page_bytes, _, salt1, salt2, sum1, sum2] = words(&header);
    let log = Log { is_big_endian: magic & 1 == 1, salts: [salt1, salt2] };
    let stored = [sum1, sum2];
    let is_header = magic & !1 == MAGIC && page_bytes.is_power_of_two() && page_bytes <= PAGE_BYTES_MAX;
    if !is_header || log.sum(&header[..HEADER_BYTES - 8], [0, 0]) != stored {
        return Ok(Some("its header is damaged".to_owned()));
    }
    let damaged = log.damaged_frame(&mut file, page_bytes as usize, stored)?;
    Ok(damaged.map(|frame| format!("frame {frame} is damaged, and whole commits follow it")))
}

struct Log {
    is_big_endian: bool,
    salts: [u32; 2],
}

impl Log {
    /// Number of the first frame, from 0, that is damaged and followed by whole commits.
    fn damaged_frame(
        &self,
        file: &mut impl Read,
        page_bytes: usize,
        mut before: [u32; 2],
    ) -> std::io::Result<Option<usize>> {
        let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes];
        let (mut number, mut first_bad, mut commits) = (0, None, 0);
        while read_whole(file, &mut frame)? {
            let [_, commit_pages, salt1, salt2, sum1, sum2] = words(&frame);
            let sum = self.sum(&frame[..8], before);
            let is_whole =
                [salt1, salt2] == self.salts && self.sum(&frame[FRAME_HEADER_BYTES..], sum) == [sum1, sum2];
            match first_bad {
                None if !is_whole => first_bad = Some(number),
                None => {}
                // A damaged checksum also breaks that of the next frame; what is stale breaks more.
                Some(bad) if !is_whole && number > bad + 1 => return Ok(None),
                Some(_) => commits += usize::from(commit_pages > 0 && [salt1, salt2] == self.salts),
            }
            if commits == COMMITS_AFTER {
                return Ok(first_bad);
            }
            // Each frame's checksum goes on from the one before it, as it is stored.
            before = [sum1, sum2];
            number += 1;
        }
        Ok(None)
    }

    fn sum(&self, bytes: &[u8], [mut a, mut b]: [u32; 2]) -> [u32; 2] {
        let word = |bytes: &[u8; 4]| match self.is_big_endian {
            true => u32::from_be_bytes(*bytes),
            false => u32::from_le_bytes(*bytes),
        };
        for [first, second] in bytes.as_chunks::<4>().0.as_chunks::<2>().0 {
            a = a.wrapping_add(word(first)).wrapping_add(b);
            b = b.wrapping_add(word(second)).wrapping_add(a);
        }
        [a, b]
    }
}

/// The first words of a header, big-endian.
fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    std::array::from_fn(|place| u32::from_be_bytes(bytes.as_chunks::<4>().0[place]))
}

/// `false` at the end of the file, also within a frame.
fn read_whole(file: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
