//! Puts what `haul-llama` loads where it looks for it: the engine's libraries beside the executable, and the engine's
//! backends in `backends/` beside it.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

#[expect(
    clippy::disallowed_methods,
    reason = "cargo tells a build script what it has to know by the environment"
)]
fn main() -> io::Result<()> {
    println!("cargo:rustc-link-arg-bins=-Wl,-rpath,$ORIGIN");
    println!("cargo:rerun-if-changed=build.rs");
    let engine = PathBuf::from(env::var("DEP_LLAMA_BACKENDS_DIR").map_err(io::Error::other)?);
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    // OUT_DIR is PROFILE/build/PACKAGE-HASH/out.
    let executables = out.ancestors().nth(3).ok_or_else(|| io::Error::other("OUT_DIR is not deep enough"))?;
    let backends = executables.join("backends");
    fs::create_dir_all(&backends)?;
    copy_libraries(&engine, &backends)?;
    for libraries in ["lib", "lib64"] {
        copy_libraries(&engine.with_file_name(libraries), executables)?;
    }
    Ok(())
}

/// The engine's kernels for the tile unit (AMX). GCC takes the tile configuration for 8 bytes (`_tile_loadconfig` of its
/// amxtileintrin.h) and drops the stores of the other 56, so that the first product ends in SIGILL. The next best
/// kernels are loaded instead.
const MISCOMPILED: &str = "libggml-cpu-sapphirerapids.";

/// Copies shared libraries by the names that programs ask for, links followed.
fn copy_libraries(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.is_file() && (name.contains(".so") || name.ends_with(".dylib") || name.ends_with(".dll")) {
            let copy = to.join(name);
            // A library that a running worker has mapped is replaced, never written into.
            if copy.exists() {
                fs::remove_file(&copy)?;
            }
            if !name.starts_with(MISCOMPILED) {
                fs::copy(&path, copy)?;
            }
        }
    }
    Ok(())
}
