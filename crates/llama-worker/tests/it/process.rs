//! A worker process, spoken with frame by frame.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use haul_frames::{
    Answer, Call, Event, FlashAttention, Group, Hello, Load, Loaded, Request, Sampling, read, write,
};

pub(crate) struct Worker {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub(crate) hello: Hello,
}

/// The tiny model of the repository, in 4 bits.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny-llm/tiny-q4_k_m.gguf")
}

pub(crate) fn load() -> Load {
    Load {
        model: tiny(),
        devices: vec![],
        gpu_layers: None,
        lanes: 1,
        n_ctx: 4096,
        n_batch: 512,
        n_ubatch: 512,
        n_seq_max: 17,
        kv_unified: true,
        // Tests run side by side, and threads of the engine wait for each other busily.
        threads: 1,
        type_k: "f16".to_owned(),
        type_v: "f16".to_owned(),
        flash_attention: FlashAttention::Auto,
        mmap: true,
    }
}

pub(crate) fn call(id: u64, suffix: &str, max_tokens: u32) -> Call {
    Call {
        id,
        suffix: suffix.to_owned(),
        spelled: vec![],
        max_tokens,
        stop: vec![],
        sampling: Sampling::GREEDY,
        constraint: None,
        draft: None,
        logprobs: None,
    }
}

/// A turn of the tiny model's correction task.
pub(crate) fn correction(text: &str) -> (String, String) {
    let prefix = "<|im_start|>system\nCorrect the text.<|im_end|>\n<|im_start|>user\n".to_owned();
    (prefix, format!("{text}<|im_end|>\n<|im_start|>assistant\n"))
}

impl Worker {
    pub(crate) fn start() -> Worker {
        let executable = Path::new(env!("CARGO_BIN_EXE_haul-llama"));
        let mut child = Command::new(executable)
            .arg("--backends")
            .arg(executable.with_file_name("backends"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        let hello = Hello {
            protocol: 0,
            engine: String::new(),
            features: String::new(),
            backends: vec![],
            devices: vec![],
            can_offload: false,
        };
        let mut worker = Worker { child, stdin, stdout, hello };
        match worker.event() {
            Event::Hello(hello) => worker.hello = hello,
            other => panic!("{other:?}"),
        }
        worker
    }

    pub(crate) fn loaded(load: Load) -> (Worker, Loaded) {
        let mut worker = Worker::start();
        match worker.ask(&Request::Load(load)) {
            Event::Loaded(loaded) => (worker, *loaded),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn send(&mut self, request: &Request) {
        write(self.stdin.as_mut().unwrap(), request).unwrap();
    }

    /// The next event that is no beat.
    pub(crate) fn event(&mut self) -> Event {
        loop {
            match read(&mut self.stdout).unwrap().expect("the worker is there") {
                Event::Beat(_) => {}
                event => return event,
            }
        }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> Event {
        self.send(request);
        self.event()
    }

    /// Answers by the order of the calls' ids.
    pub(crate) fn answers(&mut self, groups: Vec<Group>) -> Vec<Answer> {
        let calls: usize = groups.iter().map(|group| group.calls.len()).sum();
        for group in groups {
            self.send(&Request::Group(group));
        }
        let mut answers: Vec<_> = (0..calls)
            .map(|_| match self.event() {
                Event::Answer(answer) => answer,
                other => panic!("{other:?}"),
            })
            .collect();
        answers.sort_by_key(|answer| answer.id);
        answers
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
