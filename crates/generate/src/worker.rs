//! The process `haul-llama`: started, spoken with, watched, and ended.
//!
//! A worker that says nothing for [`Patience::silent`], or that answers calls and finishes no step for
//! [`Patience::stuck`], is taken for hung and killed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use haul_frames::{Event, FrameError, Hello, PROTOCOL, Request, read, write};

use crate::worker_unix;

/// Requests that wait to be written; more than calls are in flight, so that asking never waits.
const REQUESTS_WAITING_MAX: usize = 2048;
/// Events that wait to be taken.
const EVENTS_WAITING_MAX: usize = 1024;
/// Lines of the worker's own log that an error shows.
const LOG_LINES_KEPT: usize = 8;
/// A wait is looked at again this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A killed process is gone after this.
const GONE_AFTER: Duration = Duration::from_secs(5);

/// How long a worker may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Without a frame of any kind; it beats twice a second.
    pub silent: Duration,
    /// With calls to answer and no step finished. A prefill of 2,048 tokens of a large model on a small processor takes
    /// minutes.
    pub stuck: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { silent: Duration::from_secs(30), stuck: Duration::from_secs(900) }
    }
}

/// A running worker.
pub(crate) struct Worker {
    child: Child,
    requests: SyncSender<Request>,
    events: Receiver<Heard>,
    log: Arc<Mutex<VecDeque<String>>>,
    hello: Hello,
    patience: Patience,
    heard: Instant,
    /// The last count of steps, and since when it stands.
    steps: (u64, Instant),
    /// Set where the user wants to wait no longer.
    stop: Arc<AtomicBool>,
}

/// From the thread that reads.
enum Heard {
    Event(Box<Event>),
    Ended(Option<FrameError>),
}

/// Why a worker cannot be used, or no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// It is not installed.
    #[error("{}: there is no haul-llama, which runs GGUF files", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It cannot be started.
    #[error("cannot start {}: {source}", path.display())]
    Start {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It speaks another protocol.
    #[error("haul-llama speaks protocol {found}, and this haul {PROTOCOL}")]
    Protocol {
        /// Its own.
        found: u32,
    },
    /// It died.
    #[error("haul-llama ended by itself ({how}){}", shown(log))]
    Died {
        /// Exit code or signal.
        how: String,
        /// The end of its log.
        log: Vec<String>,
    },
    /// It was killed because it did nothing.
    #[error("haul-llama did nothing for {seconds} s ({what}) and was killed")]
    Hung {
        /// How long it was waited for.
        seconds: u64,
        /// What was missed.
        what: &'static str,
    },
    /// It does not want what it was asked for.
    #[error("haul-llama: {why}")]
    Refused {
        /// In its words.
        why: String,
    },
    /// It says what is no answer to the question.
    #[error("haul-llama answered with {found} where {wanted} was asked for")]
    OutOfTurn {
        /// What came.
        found: String,
        /// What was waited for.
        wanted: &'static str,
    },
    /// The user did not want to wait for it any longer.
    #[error("stopped while waiting for haul-llama")]
    Stopped,
}

fn shown(log: &[String]) -> String {
    log.last().map_or_else(String::new, |line| format!(": {line}"))
}

impl WorkerError {
    /// The user's next step, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing { .. } => Some(
                "build it with `cargo build --release -p llama-worker` (the README names what it needs) and put it beside haul",
            ),
            Self::Protocol { .. } => Some("haul and haul-llama belong together: build both of one version"),
            Self::Died { .. } => {
                Some("a smaller --ctx or --parallel takes less memory; `haul doctor --model` says what fits")
            }
            Self::Stopped => Some("the same command goes on from here"),
            Self::Start { .. } | Self::Hung { .. } | Self::Refused { .. } | Self::OutOfTurn { .. } => None,
        }
    }

    /// Whether another process may have more luck with the same work.
    pub(crate) fn is_of_the_process(&self) -> bool {
        matches!(self, Self::Died { .. } | Self::Hung { .. })
    }
}

impl Worker {
    /// Starts `executable` and hears its greeting. It looks for backends beside itself and then in `backends`.
    pub(crate) fn start(
        executable: &Path,
        backends: &[PathBuf],
        patience: Patience,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, WorkerError> {
        if !executable.exists() {
            return Err(WorkerError::Missing { path: executable.to_owned() });
        }
        let mut command = Command::new(executable);
        for folder in backends {
            command.arg("--backends").arg(folder);
        }
        // Ctrl-C is for `haul`, which ends the worker when it has what it wants.
        worker_unix::away_from_signals(&mut command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| WorkerError::Start { path: executable.to_owned(), source })?;
        let (requests, log) = (writer(&mut child), log_of(&mut child));
        let events = reader(&mut child);
        let now = Instant::now();
        let mut worker = Self {
            child,
            requests,
            events,
            log,
            hello: Hello {
                protocol: 0,
                engine: String::new(),
                features: String::new(),
                backends: vec![],
                devices: vec![],
                can_offload: false,
            },
            patience,
            heard: now,
            steps: (0, now),
            stop: Arc::clone(stop),
        };
        match worker.wait()? {
            Event::Hello(hello) if hello.protocol == PROTOCOL => worker.hello = hello,
            Event::Hello(hello) => return Err(WorkerError::Protocol { found: hello.protocol }),
            other => return Err(out_of_turn(&other, "a greeting")),
        }
        Ok(worker)
    }

    /// What it said of itself.
    pub(crate) fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Sends a request; a worker that is gone is heard of by the next wait.
    pub(crate) fn ask(&self, request: Request) {
        // The thread ends with the pipe, and the end of the other pipe says why.
        if self.requests.send(request).is_err() {
            tracing::debug!("a request to a worker that has ended");
        }
    }

    /// The next event that is no beat; none where the user wants to wait no longer.
    pub(crate) fn wait(&mut self) -> Result<Event, WorkerError> {
        loop {
            if let Some(event) = self.wait_for(LOOK_AGAIN)? {
                return Ok(event);
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(WorkerError::Stopped);
            }
        }
    }

    /// The next event that is no beat, if it comes within `at_most`.
    pub(crate) fn wait_for(&mut self, at_most: Duration) -> Result<Option<Event>, WorkerError> {
        let until = Instant::now() + at_most;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Heard::Event(event)) => {
                    self.heard = Instant::now();
                    let Event::Beat(beat) = *event else { return Ok(Some(*event)) };
                    if beat.steps != self.steps.0 || beat.live == 0 {
                        self.steps = (beat.steps, self.heard);
                    }
                }
                Ok(Heard::Ended(fault)) => return Err(self.ended(fault)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(None)),
                Err(RecvTimeoutError::Timeout) => {
                    self.refuse_to_wait()?;
                    return Ok(None);
                }
            }
        }
    }

    fn refuse_to_wait(&mut self) -> Result<(), WorkerError> {
        let (what, limit) = if self.heard.elapsed() > self.patience.silent {
            ("no sign of life", self.patience.silent)
        } else if self.steps.1.elapsed() > self.patience.stuck {
            ("no step finished", self.patience.stuck)
        } else {
            return Ok(());
        };
        self.kill();
        Err(WorkerError::Hung { seconds: limit.as_secs(), what })
    }

    fn ended(&mut self, fault: Option<FrameError>) -> WorkerError {
        // The pipe ends a moment before the process does.
        let until = Instant::now() + GONE_AFTER;
        let mut how = None;
        while how.is_none() && Instant::now() < until {
            how = self.child.try_wait().ok().flatten();
            thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        // Who was killed did nothing wrong, and what it said last is not why.
        let is_killed = how.is_some_and(worker_unix::is_killed);
        let how = match (how, fault) {
            (Some(status), _) => status.to_string(),
            (None, Some(fault)) => fault.to_string(),
            (None, None) => "its pipe is closed".to_owned(),
        };
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        WorkerError::Died { how, log: if is_killed { vec![] } else { log } }
    }

    /// Ends the process.
    pub(crate) fn kill(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            tracing::debug!("a worker that could not be ended: {error}");
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn out_of_turn(event: &Event, wanted: &'static str) -> WorkerError {
    match event {
        Event::Refused { why, .. } => WorkerError::Refused { why: why.clone() },
        other => {
            let text = format!("{other:?}");
            let end = text.find(['(', ' ', '{']).unwrap_or(text.len());
            WorkerError::OutOfTurn { found: text[..end].to_owned(), wanted }
        }
    }
}

/// A thread that writes, so that a worker that does not read holds nobody up.
fn writer(child: &mut Child) -> SyncSender<Request> {
    let (sender, requests) = mpsc::sync_channel(REQUESTS_WAITING_MAX);
    if let Some(mut pipe) = child.stdin.take() {
        thread::spawn(move || {
            for request in requests {
                if let Err(error) = write(&mut pipe, &request) {
                    tracing::debug!("writing to the worker: {error}");
                    return;
                }
            }
        });
    }
    sender
}

fn reader(child: &mut Child) -> Receiver<Heard> {
    let (sender, events) = mpsc::sync_channel(EVENTS_WAITING_MAX);
    if let Some(pipe) = child.stdout.take() {
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            loop {
                let heard = match read(&mut pipe) {
                    Ok(Some(event)) => Heard::Event(Box::new(event)),
                    Ok(None) => Heard::Ended(None),
                    Err(fault) => Heard::Ended(Some(fault)),
                };
                let is_end = matches!(heard, Heard::Ended(_));
                if sender.send(heard).is_err() || is_end {
                    return;
                }
            }
        });
    }
    events
}

/// The last lines of its stderr.
fn log_of(child: &mut Child) -> Arc<Mutex<VecDeque<String>>> {
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    if let Some(pipe) = child.stderr.take() {
        let lines = Arc::clone(&kept);
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                tracing::debug!(target: "haul_llama", "{line}");
                let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                if lines.len() == LOG_LINES_KEPT {
                    lines.pop_front();
                }
                lines.push_back(line);
            }
        });
    }
    kept
}
