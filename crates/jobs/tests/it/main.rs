//! The jobs from outside.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helper functions too")]

mod extract;
mod models;
mod vision;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file or folder of the shared data beside the repository; without it, the test says that it is skipped.
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a test says what it did not test")]
fn shared(test: &str, path: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if found.exists() {
        return Some(found);
    }
    println!("skipped: there is no ../shared/{path}");
    if let Some(skips) = std::env::var_os("HAUL_TEST_SKIPS") {
        let mut file = fs::File::options().append(true).create(true).open(skips).unwrap();
        writeln!(file, "{test}: there is no ../shared/{path}").unwrap();
    }
    None
}
