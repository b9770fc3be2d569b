//! Adding, finding, listing and checking models.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use haul_jobs::models::{FileVerdict, Listed, ModelRecord, Models, ModelsError, Placement, RECORD_FILE};
use tempfile::TempDir;

use super::{copy_of_tiny, names, tiny_bert, tiny_xlmr, tree};

/// A home with the tiny model added by copy.
fn home_with_tiny() -> (TempDir, Models, ModelRecord) {
    let home = tempfile::tempdir().unwrap();
    let models = Models::open(home.path());
    let record = models.add(&tiny_bert(), Some("tiny"), Placement::Copy).unwrap();
    (home, models, record)
}

fn touch(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn error_text(error: &ModelsError) -> String {
    format!("{error}\nhint: {}", error.hint().unwrap_or_default())
}

#[test]
fn a_copied_model_is_whole_found_and_sound() {
    let (home, models, record) = home_with_tiny();
    let mut placed = tree(&home.path().join("tiny"));
    assert!(placed.remove(RECORD_FILE).is_some());
    assert_eq!(placed, tree(&tiny_bert()));
    assert_eq!(names(home.path()), [".lock", "tiny"]);

    let (model, found) = models.find("tiny").unwrap();
    assert_eq!((model.name.as_str(), &found), ("tiny", &record));
    assert_eq!(record.sha256.len(), 64);
    assert!(record.source.ends_with("tiny-bert"), "{}", record.source);
    assert!(record.added.starts_with("20") && record.added.ends_with('Z'), "{}", record.added);
    let names: Vec<_> = record.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, placed.keys().collect::<Vec<_>>());
    assert!(models.check("tiny").unwrap().is_ok());
}

#[cfg(unix)]
#[test]
fn a_linked_model_is_links_to_the_files() {
    let source = tempfile::tempdir().unwrap();
    copy_of_tiny(source.path(), None);
    let home = tempfile::tempdir().unwrap();
    let models = Models::open(home.path());
    let record = models.add(source.path(), Some("linked"), Placement::Link).unwrap();
    for file in &record.files {
        let target = fs::read_link(home.path().join("linked").join(&file.name)).unwrap();
        assert_eq!(target, source.path().canonicalize().unwrap().join(&file.name));
    }
    let (_, _, copied) = home_with_tiny();
    assert_eq!(models.find("linked").unwrap().1.sha256, copied.sha256);

    fs::remove_file(source.path().join("tokenizer.json")).unwrap();
    assert!(
        error_text(&models.find("linked").err().unwrap()).starts_with("model linked: tokenizer.json is gone")
    );
}

#[test]
fn the_same_model_may_be_added_again_and_another_may_not_take_its_name() {
    let (home, models, record) = home_with_tiny();
    assert_eq!(models.add(&tiny_bert(), Some("tiny"), Placement::Link).unwrap(), record);

    let other = tempfile::tempdir().unwrap();
    copy_of_tiny(other.path(), Some("find: "));
    let before = tree(home.path());
    let error = models.add(other.path(), Some("tiny"), Placement::Copy).unwrap_err();
    assert!(matches!(&error, ModelsError::Taken { name, .. } if name == "tiny"), "{error}");
    assert!(error.hint().unwrap().contains("another name"));
    assert_eq!(tree(home.path()), before);

    assert_ne!(models.add(other.path(), Some("other"), Placement::Copy).unwrap().sha256, record.sha256);
    let listed: Vec<_> =
        models.list().unwrap().into_iter().map(|listed| listed.record.unwrap().name).collect();
    assert_eq!(listed, ["other", "tiny"]);
}

#[test]
fn a_directory_that_is_no_sound_model_leaves_no_trace() {
    let source = tempfile::tempdir().unwrap();
    copy_of_tiny(source.path(), None);
    fs::remove_file(source.path().join("modules.json")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let models = Models::open(&home.path().join("models"));
    let error = models.add(source.path(), Some("tiny"), Placement::Copy).unwrap_err();
    assert!(matches!(error, ModelsError::Model(_)), "{error}");
    assert!(error.hint().unwrap().contains("pooling is never guessed"));
    assert_eq!(names(home.path()), [""; 0]);
    assert!(models.list().unwrap().is_empty());
}

/// A cut head would be found at its first use, months later.
#[test]
fn a_cut_head_is_refused_before_anything_is_placed() {
    let source = tempfile::tempdir().unwrap();
    for (name, bytes) in tree(&tiny_xlmr()) {
        let path = source.path().join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let kept = if name == "colbert_linear.pt" { bytes.len() / 2 } else { bytes.len() };
        fs::write(path, &bytes[..kept]).unwrap();
    }
    let home = tempfile::tempdir().unwrap();
    let models = Models::open(&home.path().join("models"));
    let text = error_text(&models.add(source.path(), Some("xlmr"), Placement::Copy).unwrap_err());
    assert!(text.contains("colbert_linear.pt"), "{text}");
    assert_eq!(names(home.path()), [""; 0]);
    models.add(&tiny_xlmr(), Some("xlmr"), Placement::Copy).unwrap();
    assert!(models.check("xlmr").unwrap().is_ok());
}

#[test]
fn bad_names_are_refused_before_anything_happens() {
    let home = tempfile::tempdir().unwrap();
    let models = Models::open(home.path());
    for name in ["", "a b", "ü", ".hidden", "nul", "a.", "a:b", "%2e%2e"] {
        for result in [
            models.add(&tiny_bert(), Some(name), Placement::Copy).map(|_| ()),
            models.find(name).map(|_| ()),
            models.check(name).map(|_| ()),
        ] {
            assert!(matches!(result, Err(ModelsError::Name { .. })), "{name:?}");
        }
    }
    let traversal = models.add(&tiny_bert(), Some("../x"), Placement::Copy);
    assert!(matches!(traversal, Err(ModelsError::Name { .. })));
    assert_eq!(names(home.path()), [""; 0]);
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let (_home, models, _) = home_with_tiny();
    let text = error_text(&models.find("tinny").err().unwrap());
    assert!(
        text.starts_with("there is no model named tinny; there are tiny\nhint: add it with `haul model add"),
        "{text}"
    );
    assert!(text.ends_with("./tinny"), "{text}");
}

#[test]
fn a_path_opens_a_model_that_was_never_added() {
    let (_home, models, record) = home_with_tiny();
    let (model, found) = models.find(tiny_bert().to_str().unwrap()).unwrap();
    assert_eq!((model.name.as_str(), found.name.as_str()), ("tiny-bert", "tiny-bert"));
    assert_eq!(found.sha256, record.sha256);
}

/// It said `./nothing-here: cannot be read`.
#[test]
fn a_path_without_a_folder_is_said_to_be_none() {
    let (home, models, _) = home_with_tiny();
    let file = home.path().join("tiny").join(RECORD_FILE);
    for path in ["./nothing-here", file.to_str().unwrap(), file.join("deeper").to_str().unwrap()] {
        let added = models.add(Path::new(path), Some("new"), Placement::Copy).unwrap_err();
        for error in [models.find(path).err().unwrap(), added] {
            let text = error_text(&error);
            assert!(
                text.starts_with(&format!("there is no model folder at {path}\nhint: give the path")),
                "{text}"
            );
        }
    }
}

/// A copied home lost its models: every file "was changed", though only the times were new.
#[test]
fn a_home_that_was_copied_without_times_has_its_models() {
    let (home, _, record) = home_with_tiny();
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in tree(home.path()) {
        let path = copy.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        touch(&path, SystemTime::UNIX_EPOCH);
    }
    let models = Models::open(copy.path());
    let before = tree(copy.path());
    assert_eq!(models.find("tiny").unwrap().1, record);
    assert_eq!(models.add(&tiny_bert(), Some("tiny"), Placement::Copy).unwrap(), record);
    assert_eq!(tree(copy.path()), before, "the record is as it was");

    assert!(models.check("tiny").unwrap().is_ok());
    assert!(models.find("tiny").unwrap().1.files.iter().all(|file| file.modified_ns == 0));
}

#[test]
fn a_model_whose_files_changed_is_refused_and_check_tells_the_file() {
    let (home, models, record) = home_with_tiny();
    let dir = home.path().join("tiny");
    let weights = dir.join("model.safetensors");
    let good = fs::read(&weights).unwrap();
    let time = fs::metadata(&weights).unwrap().modified().unwrap();

    // A flipped bit of the same length at another time.
    let mut bad = good.clone();
    bad[9_000] ^= 1;
    fs::write(&weights, &bad).unwrap();
    touch(&weights, time + Duration::from_nanos(1_000_000));
    let text = error_text(&models.find("tiny").err().unwrap());
    assert_eq!(
        text,
        "model tiny: model.safetensors was changed after the model was added\nhint: see what changed with `haul model check tiny`"
    );
    let report = models.check("tiny").unwrap();
    assert!(!report.is_ok());
    for file in &report.files {
        let changed =
            matches!(&file.verdict, FileVerdict::Changed { bytes, .. } if *bytes == good.len() as u64);
        assert_eq!(changed, file.name == "model.safetensors", "{file:?}");
    }
    // The same bit at the old time: only reading every byte can tell.
    touch(&weights, time);
    assert!(models.find("tiny").is_ok());
    assert!(!models.check("tiny").unwrap().is_ok());

    fs::write(&weights, &good[1..]).unwrap();
    let text = error_text(&models.find("tiny").err().unwrap());
    assert!(text.contains(&format!("has {} bytes, {} when", good.len() - 1, good.len())), "{text}");

    fs::remove_file(&weights).unwrap();
    assert!(error_text(&models.find("tiny").err().unwrap()).contains("model.safetensors is gone"));
    let missing: Vec<_> = models
        .check("tiny")
        .unwrap()
        .files
        .into_iter()
        .filter(|f| f.verdict == FileVerdict::Missing)
        .collect();
    assert_eq!(missing.len(), 1);

    // Played back from a backup: the right bytes, a new time. `check` records it.
    fs::write(&weights, &good).unwrap();
    assert_eq!(models.find("tiny").unwrap().1, record);
    assert!(models.check("tiny").unwrap().is_ok());
    let found = models.find("tiny").unwrap().1;
    assert_eq!(found.sha256, record.sha256);
    assert_ne!(found, record);
}

#[test]
fn a_file_that_came_later_and_has_a_part_in_the_vectors_is_named() {
    let source = tempfile::tempdir().unwrap();
    copy_of_tiny(source.path(), None);
    fs::remove_file(source.path().join("config_sentence_transformers.json")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let models = Models::open(home.path());
    models.add(source.path(), Some("tiny"), Placement::Copy).unwrap();
    fs::write(home.path().join("tiny/README.md"), "no part in anything").unwrap();
    assert!(models.find("tiny").is_ok());

    fs::write(home.path().join("tiny/config_sentence_transformers.json"), "{}").unwrap();
    let text = error_text(&models.find("tiny").err().unwrap());
    assert!(text.contains("config_sentence_transformers.json came after the model was added"), "{text}");
    let report = models.check("tiny").unwrap();
    assert_eq!(report.files.last().unwrap().verdict, FileVerdict::New);
    assert!(!report.is_ok());
}

#[test]
fn damaged_records_are_listed_as_such() {
    let (home, models, record) = home_with_tiny();
    for (name, content) in [("broken", "{\"name\": "), ("alien", "{\"name\": \"alien\", \"weights\": 1}")] {
        fs::create_dir(home.path().join(name)).unwrap();
        fs::write(home.path().join(name).join(RECORD_FILE), content).unwrap();
    }
    fs::create_dir(home.path().join("none")).unwrap();
    fs::write(home.path().join("stray.txt"), "no model").unwrap();
    fs::create_dir(home.path().join("renamed")).unwrap();
    fs::copy(home.path().join("tiny").join(RECORD_FILE), home.path().join("renamed").join(RECORD_FILE))
        .unwrap();

    let listed = models.list().unwrap();
    let names: Vec<_> = listed.iter().map(|listed| listed.name.as_str()).collect();
    assert_eq!(names, ["alien", "broken", "none", "renamed", "tiny"]);
    for Listed { name, record: listed } in listed {
        match listed {
            Ok(listed) => assert_eq!(listed, record),
            Err(error) => assert!(error.to_string().contains(&name), "{error}"),
        }
    }
    let text = error_text(&models.find("broken").err().unwrap());
    assert!(text.contains("haul-model.json: damaged, not a model record: EOF"), "{text}");
    assert!(text.contains("hint: delete"), "{text}");
    let text = error_text(&models.find("renamed").err().unwrap());
    assert!(text.contains("is the record of a model named \"tiny\"") && text.contains("delete"), "{text}");
    // A damaged model is not written over.
    assert!(matches!(models.add(&tiny_bert(), Some("broken"), Placement::Copy), Err(ModelsError::Record(_))));
}

/// A kill during `add` leaves a hidden folder. It is no model, and the next `add` removes it, but not the folder of
/// a process that is alive.
#[test]
fn what_a_kill_left_is_ignored_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let models = Models::open(home.path());
    let (dead, alive) = (home.path().join(".add-dead"), home.path().join(".add-alive"));
    for dir in [&dead, &alive] {
        fs::create_dir_all(dir.join("model")).unwrap();
        fs::write(dir.join("model/model.safetensors"), "half a file").unwrap();
        fs::write(dir.join("lock"), "").unwrap();
    }
    let lock = File::open(alive.join("lock")).unwrap();
    lock.lock().unwrap();

    assert!(models.list().unwrap().is_empty());
    assert!(matches!(models.find(".add-dead"), Err(ModelsError::Name { .. })));
    models.add(&tiny_bert(), Some("tiny"), Placement::Copy).unwrap();
    assert_eq!(names(home.path()), [".add-alive", ".lock", "tiny"]);

    lock.unlock().unwrap();
    models.add(&tiny_bert(), Some("second"), Placement::Copy).unwrap();
    assert_eq!(names(home.path()), [".lock", "second", "tiny"]);
}

#[test]
fn adding_one_model_from_many_threads_at_once_gives_one_model() {
    let home = tempfile::tempdir().unwrap();
    let models = Models::open(home.path());
    let records: Vec<ModelRecord> = std::thread::scope(|scope| {
        let adds: Vec<_> =
            (0..8).map(|_| scope.spawn(|| models.add(&tiny_bert(), Some("tiny"), Placement::Copy))).collect();
        adds.into_iter().map(|add| add.join().unwrap().unwrap()).collect()
    });
    assert!(records.iter().all(|record| *record == records[0]));
    assert_eq!(names(home.path()), [".lock", "tiny"]);
    assert_eq!(models.find("tiny").unwrap().1, records[0]);
}
