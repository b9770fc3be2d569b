//! What the engine says on its log: kept for the facts that it tells nowhere else, and passed on to stderr.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, PoisonError};

use haul_frames::Buffer;

/// Lines of a load that are kept; a model of 200 layers writes about a thousand.
const LINES_MAX: usize = 8192;

static LOG: Mutex<Log> = Mutex::new(Log { lines: Vec::new(), open: String::new(), warns: false });

struct Log {
    lines: Vec<Line>,
    /// A line that has not ended yet.
    open: String,
    warns: bool,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) text: String,
    /// Whether it is a warning or an error.
    pub(crate) warns: bool,
}

/// Takes the engine's log over, for the life of the process.
pub(crate) fn capture() {
    // SAFETY: `heard` is a function with the signature that is asked for, it needs no data, and it lives for ever.
    unsafe { llama_cpp_sys_2::llama_log_set(Some(heard), std::ptr::null_mut()) };
}

/// The lines since the last call.
pub(crate) fn take() -> Vec<Line> {
    std::mem::take(&mut LOG.lock().unwrap_or_else(PoisonError::into_inner).lines)
}

unsafe extern "C" fn heard(level: llama_cpp_sys_2::ggml_log_level, text: *const c_char, _data: *mut c_void) {
    if text.is_null() || level == llama_cpp_sys_2::GGML_LOG_LEVEL_DEBUG {
        return;
    }
    // SAFETY: the engine hands over a text that ends with a zero and stays until this returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    if level != llama_cpp_sys_2::GGML_LOG_LEVEL_CONT {
        log.warns =
            matches!(level, llama_cpp_sys_2::GGML_LOG_LEVEL_WARN | llama_cpp_sys_2::GGML_LOG_LEVEL_ERROR);
    }
    log.open.push_str(&text);
    while let Some(end) = log.open.find('\n') {
        let line: String = log.open.drain(..=end).collect();
        let line = Line { text: line.trim_end().to_owned(), warns: log.warns };
        crate::to_stderr(&line.text);
        if log.lines.len() < LINES_MAX {
            log.lines.push(line);
        }
    }
}

/// `load_tensors:        CUDA0 model buffer size =  4403.49 MiB`
pub(crate) fn buffers(lines: &[Line]) -> Vec<Buffer> {
    lines.iter().filter_map(|line| buffer(&line.text)).collect()
}

fn buffer(line: &str) -> Option<Buffer> {
    let (before, after) = line.split_once(" buffer size = ")?;
    let mib = after.trim().strip_suffix(" MiB")?.trim().parse().ok()?;
    let mut words = before.split_whitespace().rev();
    let (what, device) = (words.next()?, words.next()?);
    Some(Buffer { device: device.to_owned(), what: what.to_owned(), mib })
}

/// `load_tensors: offloaded 33/33 layers to GPU`: what the engine claims.
pub(crate) fn offloaded(lines: &[Line]) -> Option<(u32, u32)> {
    lines.iter().rev().find_map(|line| {
        let (_, after) = line.text.split_once("offloaded ")?;
        let (done, rest) = after.split_once('/')?;
        Some((done.parse().ok()?, rest.split_whitespace().next()?.parse().ok()?))
    })
}

/// Warnings, without the name of the function that gave them.
pub(crate) fn warnings(lines: &[Line]) -> Vec<String> {
    lines.iter().filter(|line| line.warns && !line.text.is_empty()).map(|line| line.text.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, warns: bool) -> Line {
        Line { text: text.to_owned(), warns }
    }

    #[test]
    fn facts_of_a_load_are_read_from_its_log() {
        let lines = [
            line("load_tensors: offloaded 33/33 layers to GPU", false),
            line("load_tensors:        CUDA0 model buffer size =  4403.49 MiB", false),
            line("load_tensors:   CPU_Mapped model buffer size =   292.36 MiB", false),
            line("llama_kv_cache:      CUDA0 KV buffer size =   512.00 MiB", false),
            line("sched_reserve:      CUDA0 compute buffer size =   258.50 MiB", false),
            line("llama_context: n_ctx_seq (512) < n_ctx_train (1024)", true),
        ];
        let found: Vec<_> =
            buffers(&lines).into_iter().map(|buffer| (buffer.device, buffer.what, buffer.mib)).collect();
        let expected = [
            ("CUDA0", "model", 4403.49),
            ("CPU_Mapped", "model", 292.36),
            ("CUDA0", "KV", 512.0),
            ("CUDA0", "compute", 258.5),
        ];
        assert_eq!(found, expected.map(|(device, what, mib)| (device.to_owned(), what.to_owned(), mib)));
        assert_eq!(offloaded(&lines), Some((33, 33)));
        assert_eq!(warnings(&lines), ["llama_context: n_ctx_seq (512) < n_ctx_train (1024)"]);
        assert_eq!(offloaded(&lines[1..]), None);
    }
}
