//! Files of arrays, well made and not.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use haul_jobs::vision::npz::{Array, Data, Npz, write};
use proptest::prelude::{any, prop, prop_assert, proptest};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::golden_dir;

/// An archive with one entry `a.npy` of these bytes.
fn archive(dir: &TempDir, entry: &[u8]) -> PathBuf {
    let path = dir.path().join("a.npz");
    let mut zip = ZipWriter::new(File::create(&path).unwrap());
    zip.start_file("a.npy", SimpleFileOptions::default()).unwrap();
    zip.write_all(entry).unwrap();
    zip.finish().unwrap();
    path
}

fn npy(description: &str, values: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((description.len() as u16).to_le_bytes());
    bytes.extend(description.as_bytes());
    bytes.extend(values);
    bytes
}

fn read(path: &Path) -> Result<Array, String> {
    let array = Npz::open(path).and_then(|mut npz| npz.read("a"));
    array.map_err(|error| error.to_string().replace(path.to_str().unwrap(), "FILE"))
}

#[test]
fn numpys_own_files_are_read() {
    let mut npz = Npz::open(&golden_dir().join("vision_trials_T16.npz")).unwrap();
    assert_eq!(npz.names(), ["paths", "trial_pre", "trial_post"]);
    let paths = npz.read("paths").unwrap();
    assert_eq!(paths.shape, [40]);
    let Data::Text(words) = &paths.data else { panic!("{paths:?}") };
    assert_eq!((words[0].as_str(), words[39].as_str()), ("0.jpg", "39.jpg"));
    assert!(npz.has("trial_pre") && !npz.has("trial"));
    let missing = npz.read("trial").unwrap_err().to_string();
    assert!(missing.ends_with("no array `trial`"), "{missing}");
}

#[test]
fn what_is_written_is_read_again_and_the_same_bytes() {
    let dir = TempDir::new().unwrap();
    let arrays = [
        ("words", Array { shape: vec![2], data: Data::Text(vec!["zwölf".to_owned(), String::new()]) }),
        ("f32", Array { shape: vec![2, 1], data: Data::F32(vec![1.5, -0.0]) }),
        ("f64", Array::f64(&[], vec![0.1])),
        ("int", Array { shape: vec![3], data: Data::Int(vec![-1, 0, i64::MAX]) }),
        ("none", Array::f64(&[0, 4], vec![])),
    ];
    let of: Vec<(&str, &Array)> = arrays.iter().map(|(name, array)| (*name, array)).collect();
    let (first, second) = (dir.path().join("1.npz"), dir.path().join("2.npz"));
    write(&first, &of).unwrap();
    write(&second, &of).unwrap();
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
    let mut npz = Npz::open(&first).unwrap();
    for (name, array) in &arrays {
        assert_eq!(npz.read(name).unwrap(), *array);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no part is left");
}

#[test]
fn integers_of_all_widths_keep_their_sign() {
    let dir = TempDir::new().unwrap();
    for (descr, bytes, wanted) in [
        ("|b1", &[1, 0][..], [1, 0]),
        ("|u1", &[255, 1], [255, 1]),
        ("|i1", &[255, 1], [-1, 1]),
        ("<u2", &[255, 255, 1, 0], [65_535, 1]),
        ("<i4", &[254, 255, 255, 255, 2, 0, 0, 0], [-2, 2]),
    ] {
        let description = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,), }}");
        let array = read(&archive(&dir, &npy(&description, bytes))).unwrap();
        assert_eq!(array.data, Data::Int(wanted.to_vec()), "{descr}");
    }
}

#[test]
fn hostile_files_get_an_error_that_names_what_is_wrong() {
    let dir = TempDir::new().unwrap();
    let of = |descr: &str, order: &str, shape: &str| {
        npy(&format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"), &[0; 8])
    };
    for (entry, wanted) in [
        (vec![], "FILE: array `a`: it ends within its header"),
        (b"GIF89a..".to_vec(), "FILE: array `a`: not a numpy array"),
        (b"\x93NUMPY\x09\x00\x00\x00".to_vec(), "FILE: array `a`: version 9 of the format is not known"),
        (
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(),
            "FILE: array `a`: its description of 4294967295 bytes is longer than 16384",
        ),
        (
            of("'|O'", "False", "(1,)"),
            "FILE: array `a`: values of type |O are not read; f4, f8, integers, truth values and words are",
        ),
        (
            of("'>f8'", "False", "(1,)"),
            "FILE: array `a`: values of type >f8 are not read; f4, f8, integers, truth values and words are",
        ),
        (
            of("[('x', '<f8')]", "False", "(1,)"),
            "FILE: array `a`: values of type record are not read; f4, f8, integers, truth values and words are",
        ),
        (
            of("'<f8'", "True", "(1, 1)"),
            "FILE: array `a`: its values are in Fortran's order; save it with numpy.ascontiguousarray",
        ),
        (of("'<f8'", "False", "(-1,)"), "FILE: array `a`: its description is not understood at byte 51"),
        (
            of("'<f8'", "False", "(4294967296, 4294967296, 4294967296)"),
            "FILE: array `a` of [4294967296, 4294967296, 4294967296] has more than 2147483648 bytes",
        ),
        (
            of("'<f8'", "False", "(9,)"),
            "FILE: array `a` is damaged: failed to fill whole buffer; its header says 72 bytes, and 72 of them are not there",
        ),
        (
            of("'<f4'", "False", "(1,)"),
            "FILE: array `a` is damaged: more than the 4 bytes that its header says",
        ),
    ] {
        assert_eq!(read(&archive(&dir, &entry)).unwrap_err(), wanted);
    }
    let text = dir.path().join("text.npz");
    std::fs::write(&text, "not a zip").unwrap();
    let error = read(&text).unwrap_err();
    assert!(error.starts_with("FILE: not a file of numpy arrays: "), "{error}");
}

proptest! {
    /// Whatever is cut or flipped in a file, it is read or refused.
    #[test]
    fn damage_never_panics(at in any::<prop::sample::Index>(), flip in any::<u8>(), cut in any::<bool>()) {
        let mut bytes = std::fs::read(golden_dir().join("vision_trials_T16.npz")).unwrap();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        if let Ok(mut npz) = Npz::open(file.path()) {
            for name in ["paths", "trial_pre", "trial_post"] {
                if let Ok(array) = npz.read(name) {
                    prop_assert!(array.shape.iter().product::<usize>() <= 218_128);
                }
            }
        }
    }
}
