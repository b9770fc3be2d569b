//! Scores, probes, loads, and files in other quantisations.

use haul_frames::{DeviceKind, Event, Load, Marks, Probe, Quantize, Request, Score};

use crate::process::{Worker, correction, load, tiny};

#[test]
fn a_load_says_what_was_loaded_and_where() {
    let (worker, loaded) = Worker::loaded(load());
    assert!(worker.hello.devices.iter().any(|device| device.kind == DeviceKind::Cpu), "{:?}", worker.hello);
    assert!(worker.hello.engine.starts_with("llama.cpp "));
    assert_eq!((loaded.layers, loaded.embedding, loaded.vocabulary), (6, 256, 3840));
    assert_eq!(loaded.n_ctx_train, 1024);
    assert!((6_000_000..6_300_000).contains(&loaded.parameters), "{}", loaded.parameters);
    assert!(loaded.chat_template.as_deref().is_some_and(|template| template.contains("im_start")));
    assert_eq!(loaded.eos, "<|im_end|>");
    assert!(!loaded.adds_bos);
    let kv: f64 = loaded.buffers.iter().filter(|buffer| buffer.what == "KV").map(|buffer| buffer.mib).sum();
    // 2 x 6 layers x 256 numbers of 2 bytes for 4,096 cells.
    assert!((kv - 24.0).abs() < 0.1, "{:?}", loaded.buffers);
    assert!(loaded.rss_bytes > 4 << 20);
}

fn scored(worker: &mut Worker, score: Score) -> haul_frames::Scored {
    match worker.ask(&Request::Score(score)) {
        Event::Scored(scored) => scored,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_text_is_scored_token_by_token() {
    let (mut worker, _) = Worker::loaded(load());
    let (prefix, suffix) = correction("The results was better than expected in every region.");
    let text = format!("{prefix}{suffix}The results were better than expected in every region.");
    let Event::Tokens { ids } = worker.ask(&Request::Tokenize { texts: vec![text], marks: Marks::Read })
    else {
        panic!("no tokens")
    };
    let ids = ids[0].clone();
    let top = scored(&mut worker, Score { ids: ids.clone(), top_k: 5, wanted: vec![] });
    assert_eq!((top.top.len(), top.next.len()), (ids.len(), ids.len() - 1));
    // The end of a sentence that it writes itself is likely, word by word.
    assert!(top.next[ids.len() - 4..].iter().all(|ln| *ln > -0.7), "{:?}", &top.next[ids.len() - 4..]);
    // The same numbers, asked for by token.
    let wanted: Vec<Vec<i32>> = top.top.iter().map(|row| row.iter().map(|(id, _)| *id).collect()).collect();
    let again = scored(&mut worker, Score { ids: ids.clone(), top_k: 1, wanted });
    for (row, wanted) in top.top.iter().zip(&again.wanted) {
        assert_eq!(row.iter().map(|(_, ln)| *ln).collect::<Vec<_>>(), *wanted);
    }
    for (why, bad) in [
        ("0 tokens", Score { ids: vec![], top_k: 1, wanted: vec![] }),
        ("token 3840", Score { ids: vec![1, 3840], top_k: 1, wanted: vec![] }),
        ("lists", Score { ids: vec![1, 2], top_k: 1, wanted: vec![vec![]] }),
    ] {
        match worker.ask(&Request::Score(bad)) {
            Event::Refused { id: None, why: said } => assert!(said.contains(why), "{said}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_probe_gives_a_time_for_each_run() {
    let (mut worker, _) = Worker::loaded(Load { n_ctx: 2048, ..load() });
    let probe = Probe { prefill_tokens: 128, decode_tokens: 8, sequences: 4, depth: 32, repetitions: 3 };
    let Event::Probed(probed) = worker.ask(&Request::Probe(probe.clone())) else { panic!("no probe") };
    assert_eq!((probed.prefill_ns.len(), probed.decode_ns.len()), (3, 3));
    assert!(probed.prefill_ns.iter().chain(&probed.decode_ns).all(|ns| *ns > 10_000), "{probed:?}");
    match worker.ask(&Request::Probe(Probe { sequences: 16, prefill_tokens: 1024, ..probe })) {
        Event::Refused { id: None, why } => assert!(why.contains("in a context of 2048"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_written_in_another_quantisation_and_loads() {
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    let asked = |kind: &str, to: &str| {
        Request::Quantize(Quantize {
            from: tiny(),
            to: folder.path().join(to),
            kind: kind.to_owned(),
            threads: 2,
        })
    };
    // From 4 bits no other quantisation is made; the file that says so is not left half written.
    match worker.ask(&asked("q8_0", "q8.gguf")) {
        Event::Refused { id: None, why } => assert!(why.contains("q8_0"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(!folder.path().join("q8.gguf").exists());
    match worker.ask(&asked("q9", "q9.gguf")) {
        Event::Refused { id: None, why } => assert!(why.contains("no quantisation q9"), "{why}"),
        other => panic!("{other:?}"),
    }
}
