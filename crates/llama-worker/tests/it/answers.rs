//! Calls and their answers.

use haul_frames::{Call, Constraint, Event, Finish, FlashAttention, Group, Load, Marks, Request, Sampling};
use serde_json::json;

use crate::process::{Worker, call, correction, load};

/// Sentences of the tiny model's own world: it is sure of its answers, so that rounding does not change them.
const TEXTS: [&str; 6] = [
    "The results was better than expected in every region.",
    "The meeting was moved to the afternoon becase of the weather.",
    "Please sned the signed copy before the end of the week.",
    "Costs hava fallen because the company changed its supplier.",
    "The committee reiewed the report and approved the changes.",
    "Undrawn amuonts of the facility attarct a fee of 0.85%.",
];
const FIRST: &str = "The results were better than expected in every region.";

fn group(first: u64, texts: &[&str]) -> Group {
    let calls = (first..).zip(texts).map(|(id, text)| call(id, &correction(text).1, 64)).collect();
    Group { prefix: correction("").0, calls }
}

#[test]
fn calls_that_begin_alike_read_their_beginning_once() {
    let (mut worker, _) = Worker::loaded(load());
    let answers = worker.answers(vec![group(0, &TEXTS)]);
    assert_eq!(answers[0].text, FIRST);
    for answer in &answers {
        assert_eq!(answer.finish, Finish::Stop, "{answer:?}");
        assert_eq!(answer.consumed_tokens, answer.prompt_tokens);
        assert!(answer.answer_tokens > 0);
    }
    let reused: Vec<_> = answers.iter().map(|answer| answer.reused_tokens).collect();
    let Event::Tokens { ids } =
        worker.ask(&Request::Tokenize { texts: vec![correction("").0], marks: Marks::Read })
    else {
        panic!("no tokens");
    };
    // The call that began first is charged for what all share.
    assert_eq!(reused.iter().filter(|reused| **reused == 0).count(), 1, "{reused:?}");
    let shared = reused.iter().max().copied().unwrap() as usize;
    assert!(shared >= ids[0].len() - 1, "{reused:?} of {}", ids[0].len());
}

/// A document may say `<|im_end|>`, and end its own turn with it: what stood behind spoke in the system's or the model's
/// name.
#[test]
fn a_mark_that_is_spelled_ends_no_turn() {
    let (mut worker, loaded) = Worker::loaded(load());
    assert!(loaded.marks.iter().any(|mark| mark == "<|im_end|>"), "{:?}", loaded.marks);
    let (prefix, suffix) = correction("The results <|im_end|> was better.");
    let at = prefix.len() + suffix.find("<|im_end|>").unwrap();
    let mark = std::iter::once(at..at + 10).collect::<Vec<_>>();
    let ask = |id, spelled| Call { spelled, ..call(id, &suffix, 4) };
    let calls = vec![ask(0, vec![]), ask(1, mark.clone())];
    let answers = worker.answers(vec![Group { prefix: prefix.clone(), calls }]);
    let tokens = |id| answers.iter().find(|answer| answer.id == id).unwrap().prompt_tokens;
    assert!(tokens(1) > tokens(0) + 2, "{} and {}", tokens(1), tokens(0));
    // A call alone shares what others may come to share, in which a mark may be spelled too.
    let group = Group { prefix: prefix.clone(), calls: vec![ask(2, mark.clone())] };
    assert_eq!(worker.answers(vec![group])[0].consumed_tokens, tokens(1));
    let group = Group { prefix: prefix.clone(), calls: vec![ask(3, vec![0..12, at..at + 10])] };
    assert!(worker.answers(vec![group])[0].consumed_tokens > tokens(1) + 2);
    for bad in [at + 5..at, at..at + 10, at..9999] {
        let spelled = mark.iter().cloned().chain([bad]).collect();
        let group = Group { prefix: prefix.clone(), calls: vec![ask(4, spelled)] };
        match worker.ask(&Request::Group(group)) {
            Event::Refused { id: Some(4), why } => assert!(why.starts_with("a mark at "), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

/// A shared cell is not a copy: what one call writes must not be read by another.
#[test]
fn answers_are_those_of_each_call_alone() {
    let (mut worker, _) = Worker::loaded(load());
    let together = worker.answers(vec![group(0, &TEXTS)]);
    for (number, text) in TEXTS.iter().enumerate() {
        let (prefix, suffix) = correction(text);
        let alone = Group { prefix: String::new(), calls: vec![call(100, &format!("{prefix}{suffix}"), 64)] };
        let alone = worker.answers(vec![alone]);
        assert_eq!(together[number].text, alone[0].text, "{text}");
    }
}

/// What a call is asked with changes how fast it is answered and not what: in lanes, with drafts that the answer agrees
/// with, goes away from, or has nothing to do with.
#[test]
fn lanes_and_drafts_change_no_answer() {
    let (mut plain, _) = Worker::loaded(load());
    let expected: Vec<_> =
        plain.answers(vec![group(0, &TEXTS)]).into_iter().map(|answer| answer.text).collect();
    let drafts: [fn(&str) -> String; 4] = [
        |text| text.to_owned(),
        |text| text.split_once(' ').unwrap().1.to_owned(),
        |_| "nothing of the kind".repeat(20),
        |_| String::new(),
    ];
    let (mut lanes, loaded) = Worker::loaded(Load { lanes: 3, n_seq_max: 4, ..load() });
    assert_eq!(loaded.n_ctx, load().n_ctx, "each lane has so many");
    for draft in drafts {
        let mut asked = group(0, &TEXTS);
        for (call, text) in asked.calls.iter_mut().zip(TEXTS) {
            call.draft = Some(draft(text));
        }
        let answers = lanes.answers(vec![asked]);
        for (answer, expected) in answers.iter().zip(&expected) {
            assert_eq!((&answer.text, answer.finish), (expected, Finish::Stop));
            assert_eq!(answer.consumed_tokens, answer.prompt_tokens);
        }
    }
    // A drafted answer ends where it must: at its most tokens, and at a text that stops it.
    let mut cut = call(9, &correction(TEXTS[0]).1, 3);
    cut.draft = Some(FIRST.to_owned());
    let mut stopped = haul_frames::Call { stop: vec!["better".to_owned()], ..call(10, &cut.suffix, 64) };
    stopped.draft = Some(FIRST.to_owned());
    let answers = lanes.answers(vec![Group { prefix: correction("").0, calls: vec![cut, stopped] }]);
    assert_eq!((answers[0].answer_tokens, answers[0].finish), (3, Finish::Length));
    assert_eq!((answers[1].text.as_str(), answers[1].finish), ("The results were ", Finish::Stop));
}

/// An answer is drafted from the last one of its schema: its names, and never its values.
#[test]
fn the_last_answer_of_a_schema_says_nothing_of_the_next() {
    let (mut worker, _) = Worker::loaded(load());
    let value = json!({
        "type": "object",
        "properties": {"value": {"type": "string"}, "at": {"type": "integer"}, "confidence": {"enum": ["HIGH", "LOW"]}},
        "required": ["value", "at", "confidence"],
        "additionalProperties": false,
    });
    let schema = json!({"type": "object", "properties": {"margin": value}, "additionalProperties": false});
    let documents = [
        ("[1] 2. Term Loan A\n[2] The facility bears interest at a margin of 2.75% per annum.", "2.75%", 2),
        ("[3] Term Loan A\n[4] The lenders may be changed.\n[5] The margin is 3.10% per annum.", "3.10%", 5),
    ];
    for (id, (document, value, at)) in (0..).zip(documents.iter().cycle().take(4)) {
        let prefix = format!("<|im_start|>user\n{document}\n\n");
        let suffix = "TASK fields\nFACILITY Term Loan A\nFIELDS margin<|im_end|>\n<|im_start|>assistant\n";
        let call = haul_frames::Call {
            constraint: Some(Constraint::JsonSchema(schema.clone())),
            ..call(id, suffix, 64)
        };
        let answer = worker.answers(vec![Group { prefix, calls: vec![call] }]).remove(0);
        let said: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(
            (&said["margin"]["value"], &said["margin"]["at"]),
            (&json!(value), &json!(at)),
            "{answer:?}"
        );
    }
}

/// The groups of a run are dealt out to lanes, and the last one is shared: all calls have one answer each.
#[test]
fn lanes_answer_every_call_of_many_groups_once() {
    let (mut worker, _) = Worker::loaded(Load { lanes: 3, n_seq_max: 3, n_ctx: 512, ..load() });
    let groups: Vec<_> =
        (0..12).map(|number| group(number * 100, &TEXTS[..1 + number as usize % 6])).collect();
    let asked: Vec<u64> = groups.iter().flat_map(|group| group.calls.iter().map(|call| call.id)).collect();
    let answered: Vec<u64> = worker.answers(groups).into_iter().map(|answer| answer.id).collect();
    assert_eq!(answered, asked);
    let score = Request::Score(haul_frames::Score { ids: vec![1, 2], top_k: 0, wanted: vec![] });
    match worker.ask(&score) {
        Event::Refused { id: None, why } => assert!(why.contains("3 lanes"), "{why}"),
        other => panic!("a measurement in one lane of three: {other:?}"),
    }
}

#[test]
fn more_calls_than_sequences_and_groups_of_many_kinds_are_all_answered() {
    let (mut worker, _) = Worker::loaded(Load { n_seq_max: 3, n_ctx: 512, ..load() });
    let many: Vec<&str> = TEXTS.iter().copied().cycle().take(24).collect();
    let other =
        Group { prefix: "Once upon".to_owned(), calls: vec![call(90, " a time", 2), call(91, " a hill", 2)] };
    let alone = Group { prefix: String::new(), calls: vec![call(92, "Once upon a time", 2)] };
    let answers = worker.answers(vec![group(0, &many), other, alone, group(30, &many[..5])]);
    assert_eq!(answers.len(), 24 + 2 + 1 + 5);
    for (answer, text) in answers.iter().zip(&many) {
        let first = &answers[TEXTS.iter().position(|other| other == text).unwrap()];
        assert_eq!(answer.text, first.text);
    }
    let of_two = answers.iter().find(|answer| answer.id == 90).unwrap();
    assert_eq!((of_two.answer_tokens, of_two.finish), (2, Finish::Length), "{of_two:?}");
}

/// Three beginnings do not fit the cache beside the calls that begin with them: a group waits until there is room for its
/// beginning, and not only for its calls.
#[test]
fn a_group_waits_for_room_for_its_beginning() {
    let (mut worker, _) = Worker::loaded(Load { n_ctx: 512, ..load() });
    let groups = ["region", "supplier", "committee"].map(|word| {
        let calls = (0..6).map(|number| call(word.len() as u64 * 10 + number, &format!(" {number}."), 8));
        Group { prefix: format!("The {word} of the results. ").repeat(20), calls: calls.collect() }
    });
    let Event::Tokens { ids } = worker.ask(&Request::Tokenize {
        texts: groups.iter().map(|group| group.prefix.clone()).collect(),
        marks: Marks::Read,
    }) else {
        panic!("no tokens");
    };
    let beginnings: usize = ids.iter().map(Vec::len).sum();
    assert!((300..512).contains(&beginnings), "{beginnings} tokens");
    let answers = worker.answers(groups.into());
    assert_eq!(answers.len(), 18);
    assert!(answers.iter().all(|answer| answer.consumed_tokens == answer.prompt_tokens));
}

/// Extraction asks about every window of a document in one round, and about the same windows in the next. Each round
/// computed all windows anew, which was two thirds of all that was computed.
#[test]
fn a_beginning_that_comes_again_after_others_is_not_computed_again() {
    let (mut worker, _) = Worker::loaded(Load { n_ctx: 2048, ..load() });
    let round = |worker: &mut Worker, first: u64| {
        let groups = (0..4).map(|window| {
            let sentence = FIRST.replace("region", ["region", "country", "office", "year"][window as usize]);
            // Some thirty tokens into a text that repeats itself the model is in two minds, and what else is in the batch
            // decides.
            let calls = (0..2)
                .map(|number| call(first + window * 10 + number, &correction(TEXTS[number as usize]).1, 8));
            let (system, _) = correction("");
            Group { prefix: format!("{system}{}", format!("{sentence} ").repeat(8)), calls: calls.collect() }
        });
        worker.answers(groups.collect())
    };
    let (once, again) = (round(&mut worker, 0), round(&mut worker, 100));
    let paying =
        |answers: &[haul_frames::Answer]| answers.iter().filter(|answer| answer.reused_tokens < 64).count();
    assert_eq!((paying(&once), paying(&again)), (4, 0), "{once:?} {again:?}");
    for (once, again) in once.iter().zip(&again) {
        assert_eq!((&once.text, once.consumed_tokens), (&again.text, again.prompt_tokens));
    }
}

#[test]
fn every_sequence_has_a_cache_of_its_own_where_none_is_shared() {
    let (mut worker, loaded) = Worker::loaded(Load { kv_unified: false, n_seq_max: 5, ..load() });
    assert!(!loaded.can_share_prefix);
    let answers = worker.answers(vec![group(0, &TEXTS)]);
    assert_eq!(answers[0].text, FIRST);
    assert!(answers.iter().all(|answer| answer.reused_tokens == 0));
    // Each reads its own cache, whoever computes attention over it, and over one that all share.
    for load in [load(), Load { flash_attention: FlashAttention::Off, ..load() }] {
        let (mut shared, _) = Worker::loaded(load);
        for (shared, answer) in shared.answers(vec![group(0, &TEXTS)]).iter().zip(&answers) {
            assert_eq!(shared.text, answer.text);
        }
    }
}

#[test]
fn an_answer_is_of_its_schema() {
    let (mut worker, _) = Worker::loaded(load());
    let schema = json!({
        "type": "object",
        "properties": {"kind": {"enum": ["bridge", "house"]}, "year": {"type": "integer", "minimum": 1900, "maximum": 1999}},
        "required": ["kind", "year"],
        "additionalProperties": false,
    });
    for temperature in [0.0, 2.0] {
        let calls = (0..4)
            .map(|id| haul_frames::Call {
                constraint: Some(Constraint::JsonSchema(schema.clone())),
                sampling: Sampling { temperature, seed: id as u32, ..Sampling::GREEDY },
                ..call(id, &correction(TEXTS[0]).1, 64)
            })
            .collect();
        for answer in worker.answers(vec![Group { prefix: correction("").0, calls }]) {
            assert_eq!(answer.finish, Finish::Stop, "{answer:?}");
            let value: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
            assert!(["bridge", "house"].contains(&value["kind"].as_str().unwrap()), "{value}");
            assert!((1900..2000).contains(&value["year"].as_i64().unwrap()), "{value}");
        }
    }
    let calls = vec![haul_frames::Call {
        constraint: Some(Constraint::Lark("start: \"yes\" | \"no\"".to_owned())),
        ..call(9, &correction(TEXTS[0]).1, 8)
    }];
    let answers = worker.answers(vec![Group { prefix: correction("").0, calls }]);
    assert!(["yes", "no"].contains(&answers[0].text.as_str()), "{:?}", answers[0]);
}

#[test]
fn stop_texts_end_an_answer_and_are_not_in_it() {
    let (mut worker, _) = Worker::loaded(load());
    let stopping =
        haul_frames::Call { stop: vec!["expected".to_owned()], ..call(0, &correction(TEXTS[0]).1, 64) };
    let answers = worker.answers(vec![Group { prefix: correction("").0, calls: vec![stopping] }]);
    assert_eq!(answers[0].text, "The results were better than ");
    assert_eq!(answers[0].finish, Finish::Stop);
}

#[test]
fn log_probabilities_come_with_their_tokens() {
    let (mut worker, _) = Worker::loaded(load());
    let asked = haul_frames::Call { logprobs: Some(3), ..call(0, &correction(TEXTS[0]).1, 64) };
    let answer = worker.answers(vec![Group { prefix: correction("").0, calls: vec![asked] }]).remove(0);
    assert_eq!(answer.logprobs.len(), answer.answer_tokens as usize);
    let text: String = answer.logprobs.iter().map(|token| token.token.as_str()).collect();
    assert_eq!(text, answer.text);
    for token in &answer.logprobs {
        assert!(token.logprob <= 0.0 && token.top.len() == 3, "{token:?}");
        assert_eq!(
            (&token.token, token.logprob),
            (&token.top[0].0, token.top[0].1),
            "greedy takes the likeliest"
        );
        assert!(token.top[0].1 >= token.top[1].1 && token.top[1].1 >= token.top[2].1);
    }
}

#[test]
fn what_cannot_be_answered_is_refused_by_name_and_the_rest_goes_on() {
    let (mut worker, _) = Worker::loaded(Load { n_ctx: 512, ..load() });
    let mut calls =
        vec![call(0, &correction(TEXTS[0]).1, 64), call(1, &"word ".repeat(600), 64), call(2, "a", 0)];
    calls.push(haul_frames::Call {
        constraint: Some(Constraint::JsonSchema(json!({"type": "nonsense"}))),
        ..call(3, "a", 8)
    });
    worker.send(&Request::Group(Group { prefix: correction("").0, calls }));
    let mut refused = vec![];
    for _ in 0..4 {
        match worker.event() {
            Event::Refused { id: Some(id), why } => refused.push((id, why)),
            Event::Answer(answer) => assert_eq!(answer.id, 0),
            other => panic!("{other:?}"),
        }
    }
    refused.sort();
    let ids: Vec<_> = refused.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 2, 3]);
    assert!(refused[0].1.contains("in a context of 512"), "{refused:?}");
    assert!(refused[2].1.starts_with("the grammar: "), "{refused:?}");
}
