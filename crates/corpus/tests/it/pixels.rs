//! Pixels that are kept on disk, and writers that are killed.

use std::fs::{self, OpenOptions};
use std::io::Write;

use haul_corpus::pixels::{Hash, PixelCache, PixelsError};
use tempfile::TempDir;

const ROW: usize = 300;
const PREPROCESSING: Hash = [7; 32];

fn key(no: usize) -> Hash {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&(no as u64).to_le_bytes());
    key
}

fn row(no: usize) -> Vec<u8> {
    (0..ROW).map(|at| ((at + 1) * (no + 3)) as u8).collect()
}

#[test]
fn pixels_come_back_after_the_file_was_closed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pixels");
    let mut cache = PixelCache::open(&path, PREPROCESSING, ROW).unwrap();
    assert!(cache.is_empty());
    for no in 0..20 {
        cache.add(&key(no), &row(no)).unwrap();
        cache.add(&key(no), &row(no)).unwrap();
    }
    assert!(matches!(PixelCache::open(&path, PREPROCESSING, ROW), Err(PixelsError::InUse { .. })));
    drop(cache);
    let mut cache = PixelCache::open(&path, PREPROCESSING, ROW).unwrap();
    assert_eq!(cache.len(), 20);
    let mut pixels = Vec::new();
    for no in (0..20).rev() {
        assert!(cache.read(&key(no), &mut pixels).unwrap());
        assert_eq!(pixels, row(no));
    }
    assert!(!cache.read(&key(20), &mut pixels).unwrap());
    assert!(matches!(cache.add(&key(30), &[0; 5]), Err(PixelsError::Length { bytes: 5, row_bytes: ROW })));
}

#[test]
fn another_preprocessing_is_another_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pixels");
    drop(PixelCache::open(&path, PREPROCESSING, ROW).unwrap());
    assert!(matches!(PixelCache::open(&path, [8; 32], ROW), Err(PixelsError::Other { .. })));
    assert!(matches!(PixelCache::open(&path, PREPROCESSING, ROW + 3), Err(PixelsError::Other { .. })));
    assert!(matches!(PixelCache::open(&path, PREPROCESSING, 0), Err(PixelsError::Row { bytes: 0 })));
    fs::write(&path, "words of somebody").unwrap();
    assert!(matches!(PixelCache::open(&path, PREPROCESSING, ROW), Err(PixelsError::Other { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"words of somebody");
}

/// Wherever a writer is killed: what is believed is true, and the file goes on.
#[test]
fn no_half_of_a_row_is_believed() {
    let dir = TempDir::new().unwrap();
    let whole = dir.path().join("whole");
    let mut cache = PixelCache::open(&whole, PREPROCESSING, ROW).unwrap();
    (0..3).for_each(|no| cache.add(&key(no), &row(no)).unwrap());
    drop(cache);
    let bytes = fs::read(&whole).unwrap();
    let path = dir.path().join("cut");
    for length in 0..=bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        let mut cache = PixelCache::open(&path, PREPROCESSING, ROW).unwrap();
        let mut pixels = Vec::new();
        for no in 0..3 {
            if cache.read(&key(no), &mut pixels).unwrap() {
                assert_eq!(pixels, row(no), "{length}");
            }
            cache.add(&key(no), &row(no)).unwrap();
        }
        for no in 0..3 {
            assert!(cache.read(&key(no), &mut pixels).unwrap() && pixels == row(no), "{length}");
        }
        assert_eq!(cache.len(), 3);
        drop(cache);
        assert_eq!(fs::read(&path).unwrap(), bytes, "{length}");
    }
}

/// A machine that lost its power may leave a row of zeros, or any other.
#[test]
fn a_damaged_row_is_decoded_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("pixels");
    let mut cache = PixelCache::open(&path, PREPROCESSING, ROW).unwrap();
    (0..3).for_each(|no| cache.add(&key(no), &row(no)).unwrap());
    drop(cache);
    let mut bytes = fs::read(&path).unwrap();
    let middle = 48 + (ROW + 64) + 32 + 100;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let mut cache = PixelCache::open(&path, PREPROCESSING, ROW).unwrap();
    let mut pixels = Vec::new();
    assert!(!cache.read(&key(1), &mut pixels).unwrap());
    cache.add(&key(1), &row(1)).unwrap();
    drop(cache);
    let mut cache = PixelCache::open(&path, PREPROCESSING, ROW).unwrap();
    for no in 0..3 {
        assert!(cache.read(&key(no), &mut pixels).unwrap() && pixels == row(no), "{no}");
    }
    // A tail of zeros, as long as a row.
    drop(cache);
    OpenOptions::new().append(true).open(&path).unwrap().write_all(&vec![0; ROW + 64]).unwrap();
    let mut cache = PixelCache::open(&path, PREPROCESSING, ROW).unwrap();
    assert!(!cache.read(&[0; 32], &mut pixels).unwrap());
}
