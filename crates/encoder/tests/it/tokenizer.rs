//! Our tokenizer against the library's own whole pipeline.

use std::path::PathBuf;

use haul_encoder::tokenizer::{Tokenizer, TokenizerError};
use proptest::prelude::*;

use crate::common::{golden_file, minilm_dir, tiny_dir};

fn tokenizer_files() -> Vec<PathBuf> {
    [Some(tiny_dir()), Some(golden_file("tiny-xlmr")), minilm_dir()]
        .into_iter()
        .flatten()
        .map(|dir| dir.join("tokenizer.json"))
        .collect()
}

/// The library with padding and truncation off, special tokens by itself.
fn library(path: &PathBuf) -> tokenizers::Tokenizer {
    let mut library = tokenizers::Tokenizer::from_file(path).unwrap();
    library.with_padding(None).with_truncation(None).unwrap();
    library
}

/// Words, marks, scripts, special tokens and plain noise.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-zA-Z]{1,12}",
        "[ \t\n\r\u{a0}\u{3000}\u{200b}]{1,3}",
        "\\PC{0,8}",
        any::<String>(),
        Just("[CLS]".to_string()),
        Just("[SEP] [PAD]".to_string()),
        Just("</s> <pad><s>".to_string()),
        "[éßøẞİıﬁ日本灯👩🔬\u{301}\u{308}]{1,6}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn framed_ids_are_those_of_the_library() {
    for path in tokenizer_files() {
        let (ours, library) = (Tokenizer::open(&path).unwrap(), library(&path));
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        runner
            .run(&texts(), |text| {
                let encoding = ours.encode(&text).unwrap();
                let expected = library.encode(text.as_str(), true).unwrap();
                prop_assert_eq!(ours.frame(&encoding.ids), expected.get_ids());
                prop_assert_eq!(encoding.ids.len() + ours.special_tokens(), expected.len());
                // Offsets cut the text on character boundaries, in order.
                let mut last = 0;
                for &(begin, end) in &encoding.offsets {
                    prop_assert!(text.get(begin as usize..end as usize).is_some());
                    prop_assert!(begin >= last);
                    last = begin;
                }
                Ok(())
            })
            .unwrap();
    }
}

/// all-MiniLM-L6-v2's own file truncates at 128 and pads to 128; the tiny file does both at 16.
#[test]
fn nothing_is_cut_and_nothing_is_padded() {
    for path in tokenizer_files() {
        let tokenizer = Tokenizer::open(&path).unwrap();
        assert_eq!(tokenizer.encode(&"lamp ".repeat(600)).unwrap().ids.len() % 600, 0);
        assert!(tokenizer.encode("").unwrap().ids.is_empty());
        assert_eq!(tokenizer.frame(&[]).len(), tokenizer.special_tokens());
    }
}

#[test]
fn many_threads_share_one_tokenizer() {
    let tokenizer = Tokenizer::open(&tokenizer_files()[0]).unwrap();
    let text = |n: usize| format!("the keeper of lamp {n} and the storm {}", n * 37);
    let expected: Vec<_> = (0..200).map(|n| tokenizer.encode(&text(n)).unwrap()).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (n, expected) in expected.iter().enumerate() {
                    assert_eq!(tokenizer.encode(&text(n)).unwrap(), *expected);
                }
            });
        }
    });
    assert!(
        !tokenizers::utils::parallelism::has_parallelism_been_used(),
        "encoding started threads of its own"
    );
}

#[test]
fn a_post_processor_that_does_more_is_refused() {
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(tiny_dir().join("tokenizer.json")).unwrap()).unwrap();
    let cls = json["post_processor"]["single"][0].clone();
    let sequence = json["post_processor"]["single"][1].clone();
    json["post_processor"]["single"] = serde_json::json!([cls, sequence, sequence]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    assert!(matches!(Tokenizer::open(&path), Err(TokenizerError::PostProcessor { .. })));
}
