//! Safetensors files that somebody else wrote.

use std::borrow::Cow;
use std::path::PathBuf;

use haul_encoder::weights::{HEADER_BYTES_MAX, TENSORS_MAX, Weights, WeightsError};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::common::tiny_dir;

/// A file of a header length, a header and data, none of which need agree.
fn file(header_bytes: u64, header: &str, data: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, [&header_bytes.to_le_bytes(), header.as_bytes(), data].concat()).unwrap();
    (dir, path)
}

fn open(header: &str, data: &[u8]) -> Result<Weights, WeightsError> {
    let (_dir, path) = file(header.len() as u64, header, data);
    Weights::open(&path)
}

fn entry(dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

fn message(result: Result<Weights, WeightsError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

/// Nothing makes a file keep its numbers aligned: those that are not are copied, and are the same.
#[test]
fn f32_is_read_wherever_it_stands() {
    let data = [1.5_f32, -0.0, f32::MIN_POSITIVE].map(f32::to_le_bytes).concat();
    let mut as_it_stands = 0;
    for padding in 0..4 {
        let header = format!("{{\"a\":{}}}{}", entry("F32", "[3]", 0, 12), " ".repeat(padding));
        let weights = open(&header, &data).unwrap();
        let view = weights.view("a", &[3]).unwrap();
        assert_eq!(*view, [1.5, -0.0, f32::MIN_POSITIVE]);
        as_it_stands += usize::from(matches!(view, Cow::Borrowed(_)));
    }
    assert_eq!(as_it_stands, usize::from(cfg!(target_endian = "little")));
}

#[test]
fn good_files_read_back() {
    let bf16 = half::bf16::from_f32(-2.5).to_le_bytes();
    let f16 = half::f16::from_f32(6.0e-8).to_le_bytes();
    let data =
        [&1.5f32.to_le_bytes()[..], &(-0.0f32).to_le_bytes(), &bf16, &f16, &7i64.to_le_bytes()].concat();
    let header = format!(
        r#"{{"__metadata__":{{"format":"pt"}},"a":{},"b":{},"c":{},"ids":{},"none":{}}}   "#,
        entry("F32", "[2,1]", 0, 8),
        entry("BF16", "[]", 8, 10),
        entry("F16", "[1]", 10, 12),
        entry("I64", "[1]", 12, 20),
        entry("F32", "[0,4]", 12, 12),
    );
    let weights = open(&header, &data).unwrap();
    assert_eq!(weights.read("a", &[2, 1]).unwrap(), [1.5, -0.0]);
    assert_eq!(weights.read("b", &[]).unwrap(), [-2.5]);
    assert_eq!(weights.read("c", &[1]).unwrap(), [half::f16::from_f32(6.0e-8).to_f32()]);
    assert!(weights.read("none", &[0, 4]).unwrap().is_empty());
    assert!(weights.contains("ids") && !weights.contains("__metadata__"));
    assert!(matches!(weights.read("ids", &[1]), Err(WeightsError::Dtype { dtype, .. }) if dtype == "I64"));
    assert!(matches!(weights.read("d", &[1]), Err(WeightsError::Missing { tensor, .. }) if tensor == "d"));
    assert!(matches!(
        weights.read("a", &[1, 2]),
        Err(WeightsError::Shape { found, expected, .. }) if found == [2, 1] && expected == [1, 2]
    ));
}

#[test]
fn rows_are_those_of_the_whole() {
    let values: Vec<f32> = (0..12).map(|n| n as f32).collect();
    let f16: Vec<u8> = values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
    let f32: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let header = format!(
        r#"{{"a":{},"b":{},"none":{}}}"#,
        entry("F16", "[4,3]", 0, 24),
        entry("F32", "[4,3]", 24, 72),
        entry("F32", "[0,3]", 72, 72)
    );
    let weights = open(&header, &[f16, f32].concat()).unwrap();
    for name in ["a", "b"] {
        for begin in 0..=4 {
            for end in begin..=4 {
                let rows = weights.read_rows(name, &[4, 3], begin..end).unwrap();
                assert_eq!(rows, values[begin * 3..end * 3]);
            }
        }
        assert!(matches!(weights.read_rows(name, &[3, 4], 0..1), Err(WeightsError::Shape { .. })));
    }
    assert!(weights.read_rows("none", &[0, 3], 0..0).unwrap().is_empty());
}

#[test]
fn a_weight_that_is_no_number_is_named_by_its_place_in_the_whole() {
    let data = [1f32, 2.0, 3.0, f32::NAN].map(f32::to_le_bytes).concat();
    let weights = open(&format!(r#"{{"a":{}}}"#, entry("F32", "[2,2]", 0, 16)), &data).unwrap();
    assert!(weights.read_rows("a", &[2, 2], 0..1).is_ok());
    assert!(matches!(weights.read_rows("a", &[2, 2], 1..2), Err(WeightsError::NotFinite { index: 3, .. })));
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let data = [1f32, f32::INFINITY].map(f32::to_le_bytes).concat();
    let weights = open(&format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 0, 8)), &data).unwrap();
    assert!(matches!(weights.read("a", &[2]), Err(WeightsError::NotFinite { index: 1, .. })));
}

#[test]
fn header_lengths_that_lie() {
    let tiny = "{}";
    let opened = |header_bytes| {
        let (_dir, path) = file(header_bytes, tiny, &[]);
        Weights::open(&path).unwrap_err()
    };
    assert!(matches!(opened(3), WeightsError::HeaderBeyondFile { header_bytes: 3, file_bytes: 10, .. }));
    assert!(matches!(opened(HEADER_BYTES_MAX), WeightsError::HeaderBeyondFile { .. }));
    for length in [HEADER_BYTES_MAX + 1, 1 << 63, u64::MAX, u64::MAX - 7] {
        assert!(matches!(opened(length), WeightsError::HeaderTooLong { .. }));
    }
    assert!(matches!(opened(0), WeightsError::HeaderJson { .. }));
    assert!(matches!(opened(1), WeightsError::HeaderJson { .. }));
}

#[test]
fn files_that_are_hardly_there() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in 0..8 {
        let path = dir.path().join(format!("{bytes}"));
        std::fs::write(&path, vec![0; bytes]).unwrap();
        let error = Weights::open(&path).unwrap_err();
        assert!(
            matches!(error, WeightsError::TooShort { file_bytes, .. } if file_bytes == bytes as u64),
            "{error}"
        );
    }
    assert!(matches!(Weights::open(&dir.path().join("none")), Err(WeightsError::Open { .. })));
    assert!(matches!(Weights::open(dir.path()), Err(WeightsError::Open { .. })));
}

#[test]
fn headers_that_contradict_themselves() {
    let f32x2 = entry("F32", "[2]", 0, 8);
    let cases = [
        (format!(r#"{{"a":{f32x2},"a":{f32x2}}}"#), 8, "twice"),
        (format!(r#"{{"__metadata__":{{}},"a":{f32x2},"__metadata__":{{}}}}"#), 8, "twice"),
        (
            r#"{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}"#.into(),
            8,
            "duplicate field",
        ),
        (r#"{"a":{"dtype":"F32","shape":[2]}}"#.into(), 8, "data_offsets"),
        (r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#.into(), 8, "invalid"),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}}"#.into(), 8, "more"),
        (format!(r#"["a",{f32x2}]"#), 8, "object of tensors"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 0, 9)), 9, "another number of bytes"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[3]", 0, 8)), 8, "another number of bytes"),
        // A tensor with values that claims no bytes.
        (format!(r#"{{"a":{f32x2},"b":{}}}"#, entry("F32", "[2]", 8, 8)), 8, "another number of bytes"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 8, 0)), 8, "backwards"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 1, 9)), 8, "beyond the file"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[2]", u64::MAX - 7, u64::MAX)), 8, "beyond the file"),
        (format!(r#"{{"a":{f32x2},"b":{f32x2}}}"#), 8, "overlap"),
        (format!(r#"{{"a":{f32x2},"b":{}}}"#, entry("F32", "[2]", 4, 12)), 12, "overlap"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 4, 12)), 12, "hole"),
        // Zero bytes inside another tensor's range.
        (format!(r#"{{"a":{f32x2},"b":{}}}"#, entry("F32", "[0]", 4, 4)), 8, "overlap"),
        (format!(r#"{{"a":{f32x2}}}"#), 12, "cover 8 of 12"),
        (format!(r#"{{"a":{f32x2}}}"#), 7, "beyond the file"),
        // 2^62 * 4 bytes is 0 in 64 bits, and 2^32 * 2^32 * 4 too.
        (format!(r#"{{"a":{}}}"#, entry("F32", "[4611686018427387904]", 0, 0)), 0, "impossible size"),
        (format!(r#"{{"a":{}}}"#, entry("F32", "[4294967296,4294967296]", 0, 0)), 0, "impossible size"),
        (format!(r#"{{"a":{}}}"#, entry("F33", "[2]", 0, 8)), 8, "impossible size"),
    ];
    for (header, data_bytes, expected) in cases {
        let message = message(open(&header, &vec![0; data_bytes]));
        assert!(message.contains(expected), "{header}: {message}");
    }
}

#[test]
fn too_many_tensors_are_refused_and_many_are_not() {
    let header = |count: usize| {
        let entries: Vec<_> =
            (0..count).map(|n| format!(r#""t{n}":{}"#, entry("F32", "[0]", 0, 0))).collect();
        format!("{{{}}}", entries.join(","))
    };
    assert!(open(&header(TENSORS_MAX), &[]).is_ok());
    let message = message(open(&header(2 * TENSORS_MAX), &[]));
    assert!(message.contains("more than 50000 tensors"), "{message}");
}

#[test]
fn deep_json_does_not_reach_the_stack() {
    let header = format!(r#"{{"a":{}"#, "[".repeat(1_000_000));
    assert!(matches!(open(&header, &[]), Err(WeightsError::HeaderJson { .. })));
}

#[test]
fn every_cut_of_a_real_file_is_an_error() {
    let bytes = std::fs::read(tiny_dir().join("model.safetensors")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut");
    for kept in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
        std::fs::write(&path, &bytes[..kept]).unwrap();
        assert!(Weights::open(&path).is_err(), "{kept} of {} bytes were taken for whole", bytes.len());
    }
}

proptest! {
    /// Whatever a byte of the header becomes, opening and reading end in a value or an error.
    #[test]
    fn no_changed_byte_is_fatal(at in 0usize..4000, byte: u8) {
        let mut bytes = std::fs::read(tiny_dir().join("model.safetensors")).unwrap();
        bytes[at] = byte;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("changed");
        std::fs::write(&path, bytes).unwrap();
        if let Ok(weights) = Weights::open(&path) {
            let shape = [300, 32];
            prop_assert!(weights.read("embeddings.word_embeddings.weight", &shape).is_ok_and(|v| v.len() == 9600)
                || weights.names().count() > 0);
        }
    }
}
