//! The tiny model in f16 against Hugging Face transformers in f32: see `bench/llm/logits.py`, which made the golden.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use haul_frames::{Attention, Event, FlashAttention, Group, Load, Marks, Request, Score};
use haul_kernels::isa::Isa;
use serde_json::Value;

use crate::process::{Worker, call, load};

const BY_THE_ENGINE: Attention = Attention::Engine { instead_because: None };

/// ln p of both may differ by so much.
const TOLERANCE: f32 = 1e-2;

/// And with an f16 cache.
const TOLERANCE_F16: f32 = 3e-2;

/// The model lies beside the repository; a test that lacks it says so and returns.
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test says what it did not test")]
fn f16(test: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/tiny-llm/tiny-f16.gguf");
    if path.is_file() {
        return Some(path);
    }
    println!("skipped: {test}: there is no ../shared/models/tiny-llm");
    if let Some(skips) = std::env::var_os("HAUL_TEST_SKIPS") {
        let mut file = fs::File::options().append(true).create(true).open(skips).unwrap();
        writeln!(file, "{test}: there is no ../shared/models/tiny-llm").unwrap();
    }
    None
}

fn prompts() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny-f16.json");
    let golden: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    golden["prompts"].as_array().unwrap().clone()
}

#[test]
fn logits_are_those_of_transformers() {
    let Some(model) = f16("logits_are_those_of_transformers") else { return };
    // What the model computes, without the rounding of an f16 cache.
    let exact = Load {
        model,
        type_k: "f32".to_owned(),
        type_v: "f32".to_owned(),
        flash_attention: FlashAttention::Off,
        ..load()
    };
    let (mut worker, loaded) = Worker::loaded(exact);
    assert_eq!(loaded.attention, BY_THE_ENGINE);
    let worst = worst_error(&mut worker);
    assert!(worst <= TOLERANCE, "ln p differ by up to {worst}");
}

/// Keys and values in f16 err by 2^-11 of themselves, whoever computes attention; the engine rounds queries and weights, too.
#[test]
fn logits_with_our_attention_are_those_of_transformers() {
    let Some(model) = f16("logits_with_our_attention_are_those_of_transformers") else { return };
    let ours = Load { model, ..load() };
    let plain = Load { flash_attention: FlashAttention::Off, ..ours.clone() };
    let fused = Load { flash_attention: FlashAttention::On, ..ours.clone() };
    let (mut worker, loaded) = Worker::loaded(ours);
    // Where a processor has no kernels of ours, both are the engine's.
    let is_ours = matches!(loaded.attention, Attention::Haul { .. });
    assert_eq!(is_ours, Isa::best() != Isa::Generic);
    let ours = worst_error(&mut worker);
    let theirs = [plain, fused].map(|load| {
        let (mut worker, loaded) = Worker::loaded(load);
        assert_eq!(loaded.attention, BY_THE_ENGINE);
        worst_error(&mut worker)
    });
    assert!(ours <= TOLERANCE_F16, "ln p differ by up to {ours}; with the engine's attention by {theirs:?}");
    assert!(!is_ours || !theirs.contains(&ours), "three ways of computing, or the test tests one of them");
}

/// How far ln p of the golden's prompts are off at most.
fn worst_error(worker: &mut Worker) -> f32 {
    let mut worst = 0_f32;
    let prompts = prompts();
    assert_eq!(prompts.len(), 12);
    for prompt in &prompts {
        let text = prompt["prompt"].as_str().unwrap().to_owned();
        let Event::Tokens { ids } = worker.ask(&Request::Tokenize { texts: vec![text], marks: Marks::Read })
        else {
            panic!("no tokens")
        };
        assert_eq!(serde_json::to_value(&ids[0]).unwrap(), prompt["ids"], "{}", prompt["prompt"]);
        let rows = prompt["rows"].as_array().unwrap();
        let mut wanted = vec![vec![]; ids[0].len()];
        for row in rows {
            let top = row["top"].as_array().unwrap();
            wanted[row["position"].as_u64().unwrap() as usize] =
                top.iter().map(|pair| pair[0].as_i64().unwrap() as i32).collect();
        }
        let score = Request::Score(Score { ids: ids[0].clone(), top_k: 1, wanted });
        let Event::Scored(scored) = worker.ask(&score) else { panic!("no score") };
        for row in rows {
            let ours = &scored.wanted[row["position"].as_u64().unwrap() as usize];
            let theirs = row["top"].as_array().unwrap();
            assert_eq!((ours.len(), theirs.len()), (64, 64));
            for (ours, theirs) in ours.iter().zip(theirs) {
                worst = worst.max((ours - theirs[1].as_f64().unwrap() as f32).abs());
            }
        }
    }
    worst
}

#[test]
fn greedy_text_is_that_of_transformers() {
    let Some(model) = f16("greedy_text_is_that_of_transformers") else { return };
    let (mut worker, _) = Worker::loaded(Load { model, ..load() });
    let prompts = prompts();
    let calls =
        (1..).zip(&prompts).map(|(id, prompt)| call(id, prompt["prompt"].as_str().unwrap(), 48)).collect();
    let answers = worker.answers(vec![Group { prefix: String::new(), calls }]);
    for (answer, prompt) in answers.iter().zip(&prompts) {
        assert_eq!(answer.text, prompt["greedy"].as_str().unwrap(), "{}", prompt["prompt"]);
        assert_eq!(answer.answer_tokens == 48, !prompt["greedy_is_whole"].as_bool().unwrap());
    }
}
