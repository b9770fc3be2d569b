//! The engine's backends: shared libraries in folders, loaded before anything else, and the devices that they bring.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use haul_frames::{BackendFile, Device, DeviceKind, Hello, PROTOCOL};
use llama_cpp_sys_2 as sys;

use crate::llama::{c_path, text};
use crate::log;

/// Version of the llama.cpp inside `llama-cpp-sys-2`, which does not say it at run time.
const ENGINE: &str = "llama.cpp 0.6.0 (llama-cpp-sys-2 0.1.160)";
/// Names by which backends register themselves, by the name of their file.
const REGISTERED: &[(&str, &str)] = &[
    ("blas", "BLAS"),
    ("cuda", "CUDA"),
    ("hip", "ROCm"),
    ("metal", "Metal"),
    ("opencl", "OpenCL"),
    ("rpc", "RPC"),
    ("sycl", "SYCL"),
    ("vulkan", "Vulkan"),
];

/// Loads the backends of `folders`, the first folder that has one of a kind first, and starts the engine.
pub(crate) fn start(folders: &[PathBuf]) -> Result<Vec<BackendFile>, String> {
    let mut files = Vec::new();
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        let name = c_path(folder)?;
        // SAFETY: the name ends with a zero and outlives the call. Loading runs the libraries' own initialisers: these
        // are folders that the user filled with backends to be loaded.
        unsafe { sys::ggml_backend_load_all_from_path(name.as_ptr()) };
        files.extend(loaded_by(&log::take()));
        files.extend(refused_in(folder));
    }
    // SAFETY: called once, after the backends were loaded and before any model.
    unsafe { sys::llama_backend_init() };
    if devices().is_empty() {
        let names: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(format!("no backend in {}: not even the processor's", names.join(", ")));
    }
    Ok(files)
}

/// `load_backend: loaded CPU backend from /somewhere/libggml-cpu-haswell.so`
fn loaded_by(lines: &[log::Line]) -> Vec<BackendFile> {
    let path = |line: &log::Line| {
        let (before, path) = line.text.split_once(" backend from ")?;
        before.contains("loaded ").then(|| BackendFile { path: PathBuf::from(path), refused: None })
    };
    lines.iter().filter_map(path).collect()
}

/// Backends that are there and were not loaded: the engine passes over them in silence unless it is asked one by one.
fn refused_in(folder: &Path) -> Vec<BackendFile> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut refused = Vec::new();
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let Some(kind) = kind_of(&path) else { continue };
        if REGISTERED.iter().any(|(file, name)| *file == kind && is_registered(name)) {
            continue;
        }
        let Ok(name) = CString::new(path.as_os_str().as_encoded_bytes()) else { continue };
        // SAFETY: as for the whole folder.
        let registered = unsafe { sys::ggml_backend_load(name.as_ptr()) };
        let lines = log::take();
        if registered.is_null() {
            let said = lines.last().map_or("the engine does not say why", |line| line.text.as_str());
            refused.push(BackendFile { path, refused: Some(said.to_owned()) });
        } else {
            refused.push(BackendFile { path, refused: None });
        }
    }
    refused
}

/// `cuda` of `libggml-cuda.so`; none for variants of the processor's, of which the engine takes the best.
fn kind_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_prefix("lib").unwrap_or(name).strip_prefix("ggml-")?;
    let (kind, _) = stem.split_once('.')?;
    (!kind.starts_with("cpu") && !kind.starts_with("base")).then(|| kind.to_owned())
}

fn is_registered(name: &str) -> bool {
    // SAFETY: an index below the count is a backend that is registered until the process ends.
    let names = unsafe {
        (0..sys::ggml_backend_reg_count())
            .map(|index| sys::ggml_backend_reg_name(sys::ggml_backend_reg_get(index)))
            .map(|name| text(name))
            .collect::<Vec<_>>()
    };
    names.iter().any(|registered| registered.eq_ignore_ascii_case(name))
}

/// What the engine is and sees.
pub(crate) fn hello(backends: Vec<BackendFile>) -> Hello {
    // SAFETY: the text is the engine's own, and stays.
    let (features, can_offload) =
        unsafe { (text(sys::llama_print_system_info()), sys::llama_supports_gpu_offload()) };
    Hello {
        protocol: PROTOCOL,
        engine: ENGINE.to_owned(),
        features: features.trim().to_owned(),
        backends,
        devices: devices(),
        can_offload,
    }
}

/// The engine's devices and their memory now.
pub(crate) fn devices() -> Vec<Device> {
    // SAFETY: no pointer goes in.
    let count = unsafe { sys::ggml_backend_dev_count() };
    (0..count).filter_map(|index| Some(described(index, device(index)?))).collect()
}

/// The engine's handle of a device; none where there are not so many.
pub(crate) fn device(index: usize) -> Option<sys::ggml_backend_dev_t> {
    // SAFETY: an index below the count is a device, and stays one until the process ends.
    unsafe { (index < sys::ggml_backend_dev_count()).then(|| sys::ggml_backend_dev_get(index)) }
}

fn described(index: usize, device: sys::ggml_backend_dev_t) -> Device {
    // SAFETY: the device is the engine's and stays; the engine fills the structure, whose texts are its own.
    unsafe {
        let mut props = std::mem::zeroed();
        sys::ggml_backend_dev_get_props(device, &raw mut props);
        Device {
            index,
            name: text(props.name),
            description: text(props.description),
            backend: text(sys::ggml_backend_reg_name(sys::ggml_backend_dev_backend_reg(device))),
            kind: match props.type_ {
                sys::GGML_BACKEND_DEVICE_TYPE_CPU => DeviceKind::Cpu,
                sys::GGML_BACKEND_DEVICE_TYPE_ACCEL => DeviceKind::Accelerator,
                sys::GGML_BACKEND_DEVICE_TYPE_GPU => DeviceKind::Gpu,
                sys::GGML_BACKEND_DEVICE_TYPE_IGPU => DeviceKind::IntegratedGpu,
                _ => DeviceKind::Other,
            },
            memory_total_bytes: props.memory_total as u64,
            memory_free_bytes: props.memory_free as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_known_by_its_file() {
        for (file, kind) in [
            ("libggml-cuda.so", Some("cuda")),
            ("ggml-vulkan.dll", Some("vulkan")),
            ("libggml-cpu-haswell.so", None),
            ("libggml-base.so.0", None),
            ("libllama.so", None),
        ] {
            assert_eq!(kind_of(Path::new(file)).as_deref(), kind, "{file}");
        }
    }

    #[test]
    fn what_was_loaded_is_read_from_the_log() {
        let line = |text: &str| log::Line { text: text.to_owned(), warns: false };
        let lines = [
            line("load_backend: loaded CPU backend from /a b/libggml-cpu-haswell.so"),
            line("load_backend: failed to initialize backend from /a/libggml-cuda.so: incompatible"),
        ];
        let path = PathBuf::from("/a b/libggml-cpu-haswell.so");
        assert_eq!(loaded_by(&lines), [BackendFile { path, refused: None }]);
    }
}
