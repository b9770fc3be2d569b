//! What goes wrong is said, and ends nothing that could go on.

use std::fs;
use std::time::{Duration, Instant};

use haul_frames::{Event, Group, Load, Marks, Request};

use crate::process::{Worker, call, load, tiny};

#[test]
fn a_file_that_is_no_model_is_refused_with_the_engines_reason() {
    let folder = tempfile::tempdir().unwrap();
    let cut = folder.path().join("cut.gguf");
    let whole = fs::read(tiny()).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    for model in [cut, folder.path().join("missing.gguf")] {
        let mut worker = Worker::start();
        match worker.ask(&Request::Load(Load { model, ..load() })) {
            Event::Refused { id: None, why } => assert!(why.contains(".gguf: "), "{why}"),
            other => panic!("{other:?}"),
        }
        // It goes on: the next file may be a model.
        assert!(matches!(worker.ask(&Request::Load(load())), Event::Loaded(_)));
    }
}

#[test]
fn requests_out_of_turn_are_refused() {
    let mut worker = Worker::start();
    let group = || Group { prefix: String::new(), calls: vec![call(0, "The results", 2)] };
    for (request, why) in [
        (Request::Group(group()), "no model is loaded"),
        (Request::Tokenize { texts: vec![], marks: Marks::Read }, "no model is loaded"),
        (Request::Load(Load { n_seq_max: 257, ..load() }), "257 sequences"),
        (Request::Load(Load { type_k: "q3".to_owned(), ..load() }), "a KV cache of q3"),
        (Request::Load(Load { devices: vec![99], ..load() }), "devices [99]"),
    ] {
        match worker.ask(&request) {
            Event::Refused { id: None, why: said } => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(worker.ask(&Request::Load(load())), Event::Loaded(_)));
    match worker.ask(&Request::Load(load())) {
        Event::Refused { id: None, why } => assert!(why.contains("already"), "{why}"),
        other => panic!("{other:?}"),
    }
    // Nobody waits for the group that came before the model.
    assert_eq!(worker.answers(vec![group()]).len(), 1);
}

#[test]
fn a_closed_stdin_ends_it() {
    let (mut worker, _) = Worker::loaded(load());
    worker.stdin.take();
    let start = Instant::now();
    while worker.child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(5), "still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
