//! Lines to vectors: order, forms of input and output, and how it ends.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::thread;

use serde_json::{Value, json};

use crate::fixtures::{Home, Random, finished};

const DIM: usize = 32;

/// Vectors as `haul embed` prints them.
fn vectors(home: &Home, flags: &[&str], input: impl AsRef<[u8]>) -> Vec<Vec<f32>> {
    let args = [&["embed", "--model", "tiny", "--quiet"], flags].concat();
    let ran = home.run_with(&args, input);
    assert_eq!(ran.code, 0, "haul {args:?}: {ran:#?}");
    ran.stdout.lines().map(vector).collect()
}

fn vector(line: &str) -> Vec<f32> {
    let row: Value = serde_json::from_str(line).unwrap();
    let row: Vec<f32> = serde_json::from_value(row["embedding"].clone()).unwrap();
    assert_eq!(row.len(), DIM);
    row
}

/// Texts of very different lengths, each its own.
fn texts(count: u64) -> Vec<String> {
    let mut random = Random(9);
    (0..count).map(|number| format!("{number} {}", random.clone().sentences(random.below(6)))).collect()
}

/// Four threads, small batches, the longest first in each: what comes out first is what went in first.
#[test]
fn order_is_kept() {
    let home = Home::new();
    let texts = texts(300);
    let many = vectors(&home, &["--threads", "4", "--batch-tokens", "128"], texts.join("\n"));
    assert_eq!(many.len(), texts.len());
    assert_eq!(many, vectors(&home, &["--threads", "1", "--batch-tokens", "100000"], texts.join("\n")));
    for number in [0, 1, 57, 150, 299] {
        assert_eq!(vectors(&home, &[], &texts[number]), [many[number].clone()], "line {}", number + 1);
    }
}

#[test]
fn plain_lines_and_jsonl_are_the_same() {
    let home = Home::new();
    let texts = ["The lamp in the north window.", "", "Honey and \u{1f36f}.", "  blanks around  "];
    let plain = vectors(&home, &[], texts.join("\n"));
    assert_eq!(plain.len(), texts.len(), "an empty line is a text as well");
    let lines: Vec<String> = texts.iter().map(|text| json!({"text": text, "more": 1}).to_string()).collect();
    assert_eq!(vectors(&home, &[], lines.join("\n")), plain);
    assert_eq!(vectors(&home, &[], texts.join("\r\n") + "\r\n"), plain, "ends of lines are no text");
    let mixed = [lines[0].as_str(), texts[1], texts[2], &lines[3]];
    assert_eq!(vectors(&home, &[], mixed.join("\n")), plain);
    for row in plain {
        let length: f32 = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
}

/// A NumPy file of format 1.0: its shape and its rows.
fn read_npy(bytes: &[u8]) -> (usize, Vec<Vec<f32>>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let header_bytes = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + header_bytes]).unwrap();
    assert!((10 + header_bytes).is_multiple_of(64) && header.ends_with('\n'), "{header:?}");
    let shape = header.strip_prefix("{'descr': '<f4', 'fortran_order': False, 'shape': (").unwrap();
    let (rows, rest) = shape.split_once(", ").unwrap();
    assert_eq!(rest.trim_end(), format!("{DIM}), }}"));
    let values: Vec<f32> = bytes[10 + header_bytes..]
        .chunks_exact(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    (rows.parse().unwrap(), values.chunks_exact(DIM).map(<[f32]>::to_vec).collect())
}

#[test]
fn the_numpy_file_holds_what_stdout_would() {
    let home = Home::new();
    let input = texts(40).join("\n");
    let summary = home.run_with(&["embed", "--model", "tiny", "--out", "v.npy", "--json"], &input).json();
    assert_eq!((&summary["texts"], &summary["dim"]), (&json!(40), &json!(DIM)));
    let (rows, values) = read_npy(&fs::read(home.path("v.npy")).unwrap());
    assert_eq!((rows, values), (40, vectors(&home, &[], &input)));
}

#[test]
fn no_input_is_no_rows() {
    let home = Home::new();
    assert_eq!(vectors(&home, &[], ""), Vec::<Vec<f32>>::new());
    let ran = home.run_with(&["embed", "--model", "tiny", "--out", "v.npy"], "");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert_eq!(read_npy(&fs::read(home.path("v.npy")).unwrap()), (0, vec![]));
}

/// The tiny model has the prompt `query: ` for questions and none for documents.
#[test]
fn a_role_puts_its_prompt_before_the_text() {
    let home = Home::new();
    let plain = vectors(&home, &[], "lamp");
    assert_eq!(vectors(&home, &["--role", "document"], "lamp"), plain);
    let query = vectors(&home, &["--role", "query"], "lamp");
    assert_ne!(query, plain);
    assert_eq!(vectors(&home, &[], "query: lamp"), query);
}

#[test]
fn long_texts_are_cut_and_counted() {
    let home = Home::new();
    let long = "lamp ".repeat(100);
    let ran = home.run_with(&["embed", "--model", "tiny", "--max-tokens", "10"], format!("{long}\nlamp\n"));
    assert!(ran.stderr.contains("1 texts were longer than the model takes and lost "), "{ran:#?}");
    let again = home
        .run_with(&["embed", "--model", "tiny", "--max-tokens", "10"], format!("{long} and more\nlamp\n"));
    assert_eq!(ran.stdout, again.stdout, "what is cut has no part in the vector");
}

/// The first line that is wrong ends the run by its number, and leaves no half of a file behind.
#[test]
fn wrong_lines_are_named() {
    let home = Home::new();
    let cases: &[(&[u8], &str)] = &[
        (b"lamp\n{\"text\": \n", "line 2 of the input is not a JSON object with a string \"text\""),
        (b"{\"title\": \"x\"}\n", "line 1 of the input is not a JSON object with a string \"text\""),
        (b"{\"text\": 7}\n", "line 1 of the input is not a JSON object with a string \"text\""),
        (b"lamp\nlamp\nsalt\xff\n", "line 3 of the input cannot be read: invalid utf-8"),
    ];
    for (input, says) in cases {
        let ran = home.run_with(&["embed", "--model", "tiny"], input);
        assert!(
            ran.code == 2 && ran.stderr.contains(says) && ran.stderr.contains("hint: "),
            "{says}: {ran:#?}"
        );
        let ran = home.run_with(&["embed", "--model", "tiny", "--out", "v.npy"], input);
        assert!(ran.code == 2 && ran.stderr.contains(says), "{says}: {ran:#?}");
        assert!(!home.path("v.npy").exists() && !home.path("v.npy.tmp").exists(), "{says}");
    }
}

/// `yes | haul embed | head -1`: the run ends well, though its input never would.
#[test]
fn a_reader_that_has_enough_ends_the_run() {
    let home = Home::new();
    let mut child = home
        .haul(&["embed", "--model", "tiny", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let endless = thread::spawn(move || while stdin.write_all(b"The lamp in the north window.\n").is_ok() {});
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    vector(&first);
    let ran = finished(child);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    endless.join().unwrap();
}
