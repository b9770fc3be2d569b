//! The registry of models, and downloads from a hub on the loopback interface.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helper functions too")]

mod hub;
mod loopback;
mod registry;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A whole model directory under 200 KB.
fn tiny_bert() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../encoder/tests/golden/tiny-bert")
}

/// A model with heads, its weights both as safetensors and as torch saves them.
fn tiny_xlmr() -> PathBuf {
    tiny_bert().with_file_name("tiny-xlmr")
}

/// Every file under `dir` by its path with `/`, links followed.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().replace('\\', "/");
                files.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// The names directly in `dir`, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// A copy of the tiny model, with other prompts if `prompt` is given.
fn copy_of_tiny(to: &Path, prompt: Option<&str>) {
    for (name, bytes) in tree(&tiny_bert()) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    if let Some(prompt) = prompt {
        let json = serde_json::json!({ "prompts": { "query": prompt } });
        fs::write(to.join("config_sentence_transformers.json"), json.to_string()).unwrap();
    }
}
