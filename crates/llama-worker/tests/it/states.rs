//! Models that keep what they read in a state, which cannot be shared and can be copied, and models that see a window.

use haul_frames::FlashAttention::Off;
use haul_frames::{Answer, Attention, Event, Group, Load, Marks, Request};
use haul_kernels::isa::Isa;

use crate::process::{Worker, call, load};
use crate::random::{END, Kind, WINDOW, write};

const BEGINNING: &str = "Everything that all of these calls have in common stands here, and it is a good deal longer than \
                         what each of them has for itself. ";
const OTHER: &str = "Another beginning, which the calls of the second group have. ";
const ENDS: [&str; 6] = ["One.", "Two, too?", "Three!", "The fourth: ", "(5)", "Six and more"];
const ANSWER_TOKENS: u32 = 16;

fn group(first: u64, beginning: &str, ends: &[&str]) -> Group {
    let calls = (first..).zip(ends).map(|(id, end)| call(id, end, ANSWER_TOKENS)).collect();
    Group { prefix: beginning.to_owned(), calls }
}

/// The answer of a worker that reads nothing but this call, and shares nothing.
fn alone(worker: &mut Worker, beginning: &str, end: &str) -> String {
    let group =
        Group { prefix: String::new(), calls: vec![call(900, &format!("{beginning}{end}"), ANSWER_TOKENS)] };
    let answer = worker.answers(vec![group]).remove(0);
    assert_eq!(answer.reused_tokens, 0);
    answer.text
}

fn check(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("random.gguf");
    write(&model, kind);
    // Too few cells for every call to hold the beginning as its own: where a state is copied, calls have to wait.
    let together = Load { model: model.clone(), n_ctx: 512, ..load() };
    let (mut worker, loaded) = Worker::loaded(together);
    let has_ours = kind == Kind::Grouped && Isa::best() != Isa::Generic;
    let is_ours = matches!(loaded.attention, Attention::Haul { .. });
    assert_eq!(is_ours, has_ours, "what is compared is not the same twice");
    let longer = format!("{BEGINNING}{OTHER}");
    let groups = vec![
        group(0, BEGINNING, &ENDS),
        group(10, OTHER, &ENDS),
        // Begins as the one before it, and goes on where that one ended.
        group(20, &format!("{OTHER}{BEGINNING}"), &ENDS),
        // Begins with a part of what is there.
        group(30, BEGINNING, &ENDS),
        group(40, &longer, &ENDS[..1]),
    ];
    let answers = worker.answers(groups);
    let (mut single, _) = Worker::loaded(Load {
        model,
        n_ctx: 1024,
        n_seq_max: 2,
        kv_unified: false,
        flash_attention: Off,
        ..load()
    });
    for answer in &answers {
        let beginning = match answer.id / 10 {
            0 | 3 => BEGINNING.to_owned(),
            1 => OTHER.to_owned(),
            2 => format!("{OTHER}{BEGINNING}"),
            _ => longer.clone(),
        };
        let end = ENDS[(answer.id % 10) as usize];
        assert_eq!(answer.text, alone(&mut single, &beginning, end), "{kind:?}, call {}", answer.id);
        assert_eq!(answer.consumed_tokens, answer.prompt_tokens);
    }
    // What is read decides what is said, so that equal answers say something.
    let of = |id: u64| answers.iter().find(|answer| answer.id == id).unwrap();
    assert_ne!(of(0).text, of(10).text);
    assert_ne!(of(0).text, of(1).text);
    reuse_is_what_was_not_computed(kind, &answers);
}

/// Every token of a group's beginning is computed once and charged to one call, unless it was there already.
fn reuse_is_what_was_not_computed(kind: Kind, answers: &[Answer]) {
    let of_group = |group: u64| -> (usize, Vec<u32>) {
        let calls = answers.iter().filter(|answer| answer.id / 10 == group);
        let reused: Vec<u32> = calls.map(|answer| answer.reused_tokens).collect();
        (reused.iter().filter(|reused| **reused == 0).count(), reused)
    };
    let shared = BEGINNING.len() as u32;
    // Of a cache there is a copy when the first beginning comes again; a state is computed again.
    let again = usize::from(!matches!(kind, Kind::Windowed | Kind::Grouped));
    for (group, wanted) in [(0, 1), (1, 1), (3, again)] {
        let (paying, reused) = of_group(group);
        assert_eq!(paying, wanted, "{kind:?}, group {group}: {reused:?}");
    }
    assert_eq!(of_group(0).1.iter().max(), Some(&shared), "a token is a byte");
    // The third group begins with what the second one left behind, and its first call pays for the rest.
    let (paying, reused) = of_group(2);
    assert_eq!(paying, 0, "{kind:?}: {reused:?}");
    assert_eq!(reused.iter().min(), Some(&(OTHER.len() as u32)), "{kind:?}: {reused:?}");
    assert!(BEGINNING.len() > 2 * WINDOW as usize);
}

#[test]
fn a_state_is_copied_to_each_call_that_begins_with_it() {
    check(Kind::Recurrent);
}

#[test]
fn a_state_and_a_cache_are_copied_together() {
    check(Kind::Hybrid);
}

/// Groups that begin alike share cells, which every call reads by its own mask.
#[test]
fn a_cache_that_queries_read_in_groups_is_shared() {
    check(Kind::Grouped);
}

#[test]
fn a_cache_of_which_layers_see_a_window_is_shared() {
    check(Kind::Windowed);
}

/// Templates of Llama 3, Mistral and Gemma write the mark that begins a text, and their files ask for it too: every prompt
/// began with two.
#[test]
fn a_text_that_begins_with_its_mark_gets_no_second_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("random.gguf");
    write(&model, Kind::Marked);
    let (mut worker, loaded) = Worker::loaded(Load { model, ..load() });
    assert!(loaded.adds_bos);
    assert_eq!((loaded.bos.as_str(), loaded.marks), ("<|end|>", vec!["<|end|>".to_owned()]));
    let mut tokens = |text: &str, marks| {
        let Event::Tokens { ids } = worker.ask(&Request::Tokenize { texts: vec![text.to_owned()], marks })
        else {
            panic!("no tokens")
        };
        ids[0].clone()
    };
    let mark = END as i32;
    let plain = tokens("ab", Marks::Read);
    assert_eq!((plain.len(), plain[0]), (3, mark));
    assert_eq!(tokens("<|end|>ab", Marks::Read), plain);
    assert_eq!(tokens("", Marks::Read), [mark]);
    assert_eq!(tokens("<|end|>", Marks::Read), [mark]);
    assert_eq!(tokens("a<|end|><|end|>", Marks::Read)[2..], [mark, mark]);
    let spelled = tokens("<|end|>ab", Marks::Spelled);
    assert_eq!((spelled.len(), spelled[0]), (10, mark));
    assert!(!spelled[1..].contains(&mark), "{spelled:?}");
}
