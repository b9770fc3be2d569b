//! Downloads from a hub on the loopback interface that behaves as badly as real ones do.

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use haul_encoder::model::Head;
use haul_jobs::models::{Download, Hub, HubError, ModelRecord, Models, ModelsError, Placement, RECORD_FILE};
use tempfile::TempDir;

use super::loopback::{Answer, Asked, Content, Loopback};
use super::{names, tiny_bert, tiny_xlmr, tree};

const WEIGHTS: &str = "model.safetensors";

/// The tiny model in a repository, among files that no model directory needs.
fn content() -> Content {
    let mut files = tree(&tiny_bert());
    for extra in ["README.md", "onnx/config.json", "onnx/model.onnx", "pytorch_model.bin"] {
        files.insert(extra.into(), b"not needed".to_vec());
    }
    Content { files }
}

fn weights() -> Vec<u8> {
    std::fs::read(tiny_bert().join(WEIGHTS)).unwrap()
}

fn get_into(home: &Path, hub: &Loopback) -> Result<ModelRecord, ModelsError> {
    let hub = Hub { url: hub.url.clone() };
    Models::open(home).get(&hub, "org/tiny", None, &|| false, &mut |_| ())
}

/// As bge-m3 stands in its repository: weights and heads as torch saves them.
fn torch_content() -> Content {
    let mut files = tree(&tiny_xlmr());
    files.remove(WEIGHTS).unwrap();
    files.insert("onnx/pytorch_model.bin".into(), b"not needed".to_vec());
    files.insert("1_Pooling/sparse_linear.pt".into(), b"not needed".to_vec());
    Content { files }
}

/// A hub that is honest but for the weights, for which `answer` gets the request, the bytes, and the number of
/// requests for the weights before.
fn hub_with_weights(answer: impl Fn(&Asked, &[u8], usize) -> Answer + Send + 'static) -> Loopback {
    let (content, weights) = (content(), weights());
    Loopback::start(move |asked, before| {
        if asked.target.ends_with(WEIGHTS) { answer(asked, &weights, before) } else { content.honest(asked) }
    })
}

/// The error of a failed download, and what the download left: no model, and `kept` partial files.
fn failed(home: &TempDir, hub: &Loopback, kept: usize) -> HubError {
    let error = match get_into(home.path(), hub) {
        Err(ModelsError::Hub(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(Models::open(home.path()).list().unwrap().is_empty());
    let work = names(home.path()).into_iter().find(|name| name.starts_with(".get-"));
    let partial = work.map_or(0, |work| names(&home.path().join(work).join("incoming")).len());
    assert_eq!(partial, kept);
    error
}

/// The model is there, is the tiny one to the byte, and nothing else is.
fn assert_downloaded(home: &TempDir, record: &ModelRecord) {
    assert_eq!(names(home.path()), [".lock", "tiny"]);
    let mut files = tree(&home.path().join("tiny"));
    files.remove(RECORD_FILE);
    assert_eq!(files, tree(&tiny_bert()));
    assert_eq!(&Models::open(home.path()).find("tiny").unwrap().1, record);
}

#[test]
fn a_download_is_the_model_and_asks_for_nothing_else() {
    let content = content();
    let hub = Loopback::start(move |asked, _| content.honest(asked));
    let home = tempfile::tempdir().unwrap();
    let mut seen: Vec<(String, u64, u64, u64)> = vec![];
    let record = Models::open(home.path())
        .get(&Hub { url: format!("{}/", hub.url) }, "org/tiny@main", None, &|| false, &mut |d: Download<
            '_,
        >| {
            assert!(d.file_bytes_done <= d.file_bytes && d.bytes_done <= d.bytes);
            seen.push((d.file.into(), d.file_bytes_done, d.bytes_done, d.bytes));
        })
        .unwrap();
    assert_downloaded(&home, &record);
    assert_eq!(record.source, format!("{}/org/tiny@main", hub.url));

    let asked: Vec<String> = hub.asked().into_iter().map(|asked| asked.target).collect();
    assert_eq!(
        asked[..2],
        ["/api/models/org/tiny/tree/main?recursive=true", "/org/tiny/resolve/main/modules.json"]
    );
    let mut files: Vec<_> = asked[1..].iter().map(|t| t.replace("/org/tiny/resolve/main/", "")).collect();
    assert_eq!(files.last().unwrap(), WEIGHTS, "the largest last");
    files.sort();
    assert_eq!(files, tree(&tiny_bert()).into_keys().collect::<Vec<_>>());

    let total: u64 = tree(&tiny_bert()).values().map(|bytes| bytes.len() as u64).sum();
    assert_eq!(seen.last().unwrap(), &(WEIGHTS.to_owned(), weights().len() as u64, total, total));

    // The identity is that of the same directory added by hand.
    let other = tempfile::tempdir().unwrap();
    let added = Models::open(other.path()).add(&tiny_bert(), Some("tiny"), Placement::Copy).unwrap();
    assert_eq!(added.sha256, record.sha256);
}

#[test]
fn a_cut_stream_goes_on_where_it_was_cut() {
    let hub = hub_with_weights(|asked, weights, before| {
        let answer = Answer::ranged(weights, asked.from);
        if before == 0 { answer.cut_at(50_000) } else { answer }
    });
    let home = tempfile::tempdir().unwrap();
    let record = get_into(home.path(), &hub).unwrap();
    assert_downloaded(&home, &record);
    assert_eq!(hub.ranges_of(WEIGHTS), [None, Some(50_000)]);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let hub = hub_with_weights(|_, weights, before| {
        let answer = Answer::whole(weights.to_vec());
        if before == 0 { answer.cut_at(70_000) } else { answer }
    });
    let home = tempfile::tempdir().unwrap();
    let record = get_into(home.path(), &hub).unwrap();
    assert_downloaded(&home, &record);
    assert_eq!(hub.ranges_of(WEIGHTS), [None, Some(70_000)]);
}

#[test]
fn a_stop_keeps_what_came_and_the_next_call_asks_only_for_the_rest() {
    // The stream of the first call is cut, so that the number of bytes before the stop is known.
    let hub = hub_with_weights(|asked, weights, before| {
        let answer = Answer::ranged(weights, asked.from);
        if before == 0 { answer.cut_at(30_000) } else { answer }
    });
    let home = tempfile::tempdir().unwrap();
    let reached = Cell::new(0);
    let error = Models::open(home.path())
        .get(&Hub { url: hub.url.clone() }, "org/tiny", None, &|| reached.get() == 30_000, &mut |download| {
            if download.file == WEIGHTS {
                reached.set(download.file_bytes_done);
            }
        })
        .unwrap_err();
    assert!(matches!(error, ModelsError::Hub(HubError::Stopped)), "{error}");
    assert!(Models::open(home.path()).list().unwrap().is_empty());
    let before = hub.asked().len();

    let record = get_into(home.path(), &hub).unwrap();
    assert_downloaded(&home, &record);
    // The listing again, and then no file but the one that was not whole.
    let after: Vec<_> =
        hub.asked()[before..].iter().map(|asked| (asked.target.contains("/tree/"), asked.from)).collect();
    assert_eq!(after, [(true, None), (false, Some(30_000))]);
}

#[test]
fn a_wrong_byte_is_found_and_the_file_is_not_kept() {
    for damaged_file in [WEIGHTS, "tokenizer.json"] {
        let content = content();
        let hub = Loopback::start(move |asked, before| {
            let mut answer = content.honest(asked);
            if asked.target.ends_with(damaged_file) && before == 0 {
                answer.body[5_000] ^= 1;
            }
            answer
        });
        let home = tempfile::tempdir().unwrap();
        let error = failed(&home, &hub, 0);
        let HubError::Damaged { url, expected, found } = &error else { panic!("{error}") };
        assert!(url.ends_with(damaged_file) && expected != found);
        assert!(
            error.to_string().contains(&expected.to_string())
                && error.to_string().contains(&found.to_string())
        );

        let record = get_into(home.path(), &hub).unwrap();
        assert_downloaded(&home, &record);
        assert_eq!(hub.ranges_of(damaged_file), [None, None], "nothing of the damaged file was used");
    }
}

#[test]
fn what_is_not_there_is_asked_for_once() {
    let hub = Loopback::start(|_, _| Answer::status(404));
    let home = tempfile::tempdir().unwrap();
    let error = failed(&home, &hub, 0);
    assert!(matches!(error, HubError::Status { status: 404, .. }), "{error}");
    assert!(error.hint().unwrap().contains("check the id"));
    assert_eq!(hub.asked().len(), 1);

    let hub = hub_with_weights(|_, _, _| Answer::status(403));
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 1);
    assert!(error.to_string().contains("model.safetensors: the hub answered 403"), "{error}");
    assert_eq!(hub.ranges_of(WEIGHTS).len(), 1);
}

#[test]
fn a_server_in_trouble_is_asked_again_a_bounded_number_of_times() {
    let hub =
        hub_with_weights(
            |asked, weights, before| {
                if before < 2 { Answer::status(500) } else { Answer::ranged(weights, asked.from) }
            },
        );
    let home = tempfile::tempdir().unwrap();
    let record = get_into(home.path(), &hub).unwrap();
    assert_downloaded(&home, &record);
    assert_eq!(hub.ranges_of(WEIGHTS), [None; 3]);

    let hub = Loopback::start(|_, _| Answer::status(503));
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 0);
    assert!(matches!(error, HubError::Status { status: 503, .. }), "{error}");
    assert_eq!(hub.asked().len(), 5);
}

/// Attempts that bring bytes start the count anew, so a server that always starts from 0 and always cuts would be
/// asked for ever if any bytes counted, and not only more than ever before.
#[test]
fn a_server_that_always_starts_anew_and_always_cuts_is_given_up() {
    let hub = hub_with_weights(|_, weights, _| Answer::whole(weights.to_vec()).cut_at(90_000));
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 1);
    assert!(matches!(error, HubError::Cut { bytes_done: 90_000, .. }), "{error}");
    assert_eq!(hub.ranges_of(WEIGHTS).len(), 5);
}

#[test]
fn redirects_are_followed_with_the_range_and_only_so_far() {
    let (content, weights) = (content(), weights());
    let hub = Loopback::start(move |asked, before| match asked.target.as_str() {
        target if target.ends_with(WEIGHTS) => Answer::redirect("/elsewhere/blob?signature=x"),
        "/elsewhere/blob?signature=x" if before == 0 => Answer::whole(weights.clone()).cut_at(10),
        "/elsewhere/blob?signature=x" => Answer::ranged(&weights, asked.from),
        _ => content.honest(asked),
    });
    let home = tempfile::tempdir().unwrap();
    let record = get_into(home.path(), &hub).unwrap();
    assert_downloaded(&home, &record);
    assert_eq!(hub.ranges_of("/elsewhere/blob?signature=x"), [None, Some(10)]);

    let hub = hub_with_weights(|_, _, before| Answer::redirect(&format!("/{before}/{WEIGHTS}")));
    let hub_loop = failed(&tempfile::tempdir().unwrap(), &hub, 1);
    assert!(hub_loop.to_string().contains("too many redirects"), "{hub_loop}");
    assert_eq!(hub.asked().iter().filter(|asked| asked.target.contains(WEIGHTS)).count(), 6);
}

#[test]
fn an_answer_of_another_length_or_range_is_refused() {
    let hub = hub_with_weights(|_, _, _| Answer::whole(b"<html>log in first</html>".to_vec()));
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 1);
    assert!(matches!(error, HubError::Length { found: 25, .. }), "{error}");

    // Without a length, and longer than the listing says: reading stops one byte late, and not at the end.
    let hub = hub_with_weights(|_, weights, _| Answer {
        headers: vec![],
        body: vec![7; weights.len() * 10],
        ..Answer::status(200)
    });
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 1);
    assert!(matches!(error, HubError::Length { expected, found, .. } if found == expected + 1), "{error}");

    let hub = hub_with_weights(|asked, weights, before| match before {
        0 => Answer::whole(weights.to_vec()).cut_at(40_000),
        _ => Answer::ranged(weights, asked.from.map(|from| from + 1)),
    });
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 1);
    assert!(matches!(error, HubError::Range { asked: 40_000, .. }), "{error}");
}

#[test]
fn hostile_names_lead_nowhere() {
    for path in [
        "../config.json",
        "1_Pooling/../../../config.json",
        "..\\config.json",
        "C:/config.json",
        "/config.json",
    ] {
        let mut content = content();
        content.files.insert(path.into(), b"{}".to_vec());
        let hub = Loopback::start(move |asked, _| content.honest(asked));
        let outer = tempfile::tempdir().unwrap();
        let error = get_into(&outer.path().join("models"), &hub).unwrap_err();
        assert!(matches!(error, ModelsError::Hub(HubError::FileName { .. })), "{path}: {error}");
        assert_eq!(hub.asked().len(), 2, "only the listing and modules.json were asked for");
        assert_eq!(names(outer.path()), ["models"]);
        assert_eq!(names(&outer.path().join("models")), [".lock"]);
    }
    let mut content = content();
    content.files.insert("modules.json".into(), br#"[{"path": "../../..", "type": "Transformer"}]"#.to_vec());
    let hub = Loopback::start(move |asked, _| content.honest(asked));
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 0);
    assert!(matches!(error, HubError::FileName { .. }), "{error}");
    assert_eq!(hub.asked().len(), 2);
}

/// Only torch files: they are the weights, and come last. Beside safetensors they are no part of the model.
#[test]
fn weights_of_torch_and_heads_are_downloaded() {
    let mut expected = tree(&tiny_xlmr());
    expected.remove(WEIGHTS).unwrap();
    let content = torch_content();
    let hub = Loopback::start(move |asked, _| content.honest(asked));
    let home = tempfile::tempdir().unwrap();
    let record = get_into(home.path(), &hub).unwrap();
    let mut files = tree(&home.path().join("tiny"));
    files.remove(RECORD_FILE);
    assert_eq!(files, expected);
    assert!(hub.asked().last().unwrap().target.ends_with("/main/pytorch_model.bin"));
    let (model, found) = Models::open(home.path()).find("tiny").unwrap();
    assert_eq!(found, record);
    assert!(Head::ALL.iter().all(|head| model.head_file(*head).is_some()));
    assert_eq!(get_into(home.path(), &hub).unwrap(), record, "it is there");

    let both = Content { files: tree(&tiny_xlmr()) };
    let hub = Loopback::start(move |asked, _| both.honest(asked));
    let home = tempfile::tempdir().unwrap();
    get_into(home.path(), &hub).unwrap();
    assert_eq!((hub.ranges_of(".pt"), hub.ranges_of("pytorch_model.bin")), (vec![None; 2], vec![]));
    assert!(home.path().join("tiny").join(WEIGHTS).is_file());
}

/// Sound by the hub's sum, and no archive of torch: said now, not at the first use.
#[test]
fn a_head_that_is_none_is_refused() {
    let mut content = torch_content();
    content.files.insert("sparse_linear.pt".into(), b"not a head".to_vec());
    let hub = Loopback::start(move |asked, _| content.honest(asked));
    let home = tempfile::tempdir().unwrap();
    let error = get_into(home.path(), &hub).unwrap_err();
    assert!(matches!(error, ModelsError::Weights(_)), "{error}");
    assert!(error.to_string().contains("sparse_linear.pt"), "{error}");
    assert_eq!(names(home.path()), [".lock"]);
}

#[test]
fn a_listing_without_end_is_refused() {
    let hub =
        Loopback::start(|_, _| Answer { headers: vec![], body: vec![b'['; 9 << 20], ..Answer::status(200) });
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 0);
    assert!(matches!(error, HubError::TooLarge { bytes_max: 0x80_0000, .. }), "{error}");

    let hub = Loopback::start(|_, before| {
        let mut answer = Answer::whole(b"[]".to_vec());
        answer.headers.push(("Link", format!("<http://x/y?recursive=true&cursor={before}>; rel=\"next\"")));
        answer
    });
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 0);
    assert!(matches!(error, HubError::TooManyPages { .. }), "{error}");
    assert_eq!(hub.asked().len(), 50);

    let hub = Loopback::start(|_, _| Answer::whole(b"{\"error\": \"sorry\"}".to_vec()));
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 0);
    assert!(matches!(error, HubError::Json { .. }), "{error}");
}

#[test]
fn a_listing_of_several_pages_is_read_to_the_end_from_the_same_hub() {
    let content = content();
    let hub = Loopback::start(move |asked, _| {
        let mut listing = content.listing();
        let half = listing.len() / 2;
        match asked.target.as_str() {
            "/api/models/org/tiny/tree/main?recursive=true" => {
                listing.truncate(half);
                let mut answer = Answer::whole(serde_json::to_vec(&listing).unwrap());
                let link = "<https://elsewhere.invalid/x?recursive=true&cursor=2>; rel=\"next\"";
                answer.headers.push(("Link", link.into()));
                answer
            }
            "/api/models/org/tiny/tree/main?recursive=true&cursor=2" => {
                Answer::whole(serde_json::to_vec(&listing[half..]).unwrap())
            }
            _ => content.honest(asked),
        }
    });
    let home = tempfile::tempdir().unwrap();
    let record = get_into(home.path(), &hub).unwrap();
    assert_downloaded(&home, &record);
}

#[test]
fn weights_in_several_files_are_refused_before_any_is_downloaded() {
    let mut content = content();
    content.files.remove(WEIGHTS);
    content.files.remove("pytorch_model.bin");
    content.files.insert("model.safetensors.index.json".into(), b"{}".to_vec());
    let hub = Loopback::start(move |asked, _| content.honest(asked));
    let error = failed(&tempfile::tempdir().unwrap(), &hub, 0);
    assert!(matches!(error, HubError::Sharded { .. }), "{error}");
    assert_eq!(hub.asked().len(), 2);
}

#[test]
fn a_model_that_would_not_run_is_refused_before_its_weights_are_downloaded() {
    let mut content = content();
    let modules = content.files.get_mut("modules.json").unwrap();
    *modules = String::from_utf8(modules.clone()).unwrap().replace("Normalize", "Dense").into_bytes();
    let hub = Loopback::start(move |asked, _| content.honest(asked));
    let home = tempfile::tempdir().unwrap();
    let error = get_into(home.path(), &hub).unwrap_err();
    assert!(matches!(error, ModelsError::Model(_)) && error.to_string().contains("Dense"), "{error}");
    assert_eq!(hub.ranges_of(WEIGHTS), []);
    assert_eq!(names(home.path()), [".lock"]);
}

#[test]
fn a_model_that_is_there_is_not_downloaded_again_and_another_does_not_take_its_name() {
    let mut original = content();
    original.files.insert("vocab.txt".into(), b"[PAD]".to_vec());
    let (mut changed, mut fuller, mut poorer) = (original.clone(), original.clone(), original.clone());
    changed.files.get_mut("tokenizer_config.json").unwrap().push(b'\n');
    fuller.files.insert("sentence_xlnet_config.json".into(), b"{}".to_vec());
    poorer.files.remove("sentence_bert_config.json").unwrap();

    let home = tempfile::tempdir().unwrap();
    let models = Models::open(home.path());
    let record = models.add(&tiny_bert(), Some("tiny"), Placement::Copy).unwrap();
    let hub = Loopback::start(move |asked, _| original.honest(asked));
    assert_eq!(get_into(home.path(), &hub).unwrap(), record);
    assert_eq!(hub.ranges_of(WEIGHTS).len(), 0);

    for other in [changed, fuller, poorer] {
        let hub = Loopback::start(move |asked, _| other.honest(asked));
        let error = get_into(home.path(), &hub).unwrap_err();
        assert!(error.to_string().ends_with("and differs from org/tiny@main"), "{error}");
        assert_eq!(hub.ranges_of(WEIGHTS).len(), 0);
        assert_downloaded(&home, &record);
    }
}

/// A new release under the same revision must not be glued to the first half of the old one, or get files of it.
#[test]
fn a_partial_file_of_another_release_is_not_gone_on_with() {
    let old = content();
    let mut new = old.clone();
    *new.files.get_mut(WEIGHTS).unwrap().last_mut().unwrap() ^= 1;
    new.files.remove("config_sentence_transformers.json").unwrap();
    let released = Arc::new(AtomicBool::new(false));
    let is_released = Arc::clone(&released);
    let hub = Loopback::start(move |asked, _| {
        let content = if is_released.load(Ordering::SeqCst) { &new } else { &old };
        let answer = content.honest(asked);
        if asked.target.ends_with(WEIGHTS) && !is_released.load(Ordering::SeqCst) {
            return answer.cut_at(60_000);
        }
        answer
    });
    let home = tempfile::tempdir().unwrap();
    let reached = Cell::new(0);
    Models::open(home.path())
        .get(&Hub { url: hub.url.clone() }, "org/tiny", None, &|| reached.get() == 60_000, &mut |download| {
            reached.set(download.file_bytes_done);
        })
        .unwrap_err();
    released.store(true, Ordering::SeqCst);
    let record = get_into(home.path(), &hub).unwrap();
    assert_eq!(hub.ranges_of(WEIGHTS), [None, None]);
    assert!(!home.path().join("tiny/config_sentence_transformers.json").exists());
    assert!(Models::open(home.path()).check("tiny").unwrap().is_ok());
    assert_eq!(names(home.path()), [".lock", "tiny"]);
    assert_eq!(Models::open(home.path()).find("tiny").unwrap().1, record);
}

#[test]
fn two_downloads_of_one_model_do_not_write_into_each_other() {
    let content = content();
    let hub = Loopback::start(move |asked, _| content.honest(asked));
    let home = tempfile::tempdir().unwrap();
    let busy = Cell::new(0);
    Models::open(home.path())
        .get(&Hub { url: hub.url.clone() }, "org/tiny", None, &|| false, &mut |_| match get_into(
            home.path(),
            &hub,
        ) {
            Err(ModelsError::Busy { .. }) => busy.set(busy.get() + 1),
            other => panic!("{other:?}"),
        })
        .unwrap();
    assert!(busy.get() > 8);
}

#[test]
fn a_hub_that_is_not_there_is_an_error_after_a_few_attempts() {
    let url = Loopback::start(|_, _| Answer::status(404)).url.clone();
    let home = tempfile::tempdir().unwrap();
    let error = Models::open(home.path())
        .get(&Hub { url: url.clone() }, "org/tiny", None, &|| false, &mut |_| ())
        .unwrap_err();
    assert!(matches!(error, ModelsError::Hub(HubError::Request { .. })), "{error}");
    assert!(error.to_string().contains(&url), "{error}");
}
